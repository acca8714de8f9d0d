"""The order of elements along an axis, by tournaments and sorting networks of exact real ops. Knows no file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .real import Compare, Concat, Constant, Gather, Maximum, Minimum, RealBuilder, RealOp, Select, Transpose

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """Appends to `builder` nodes whose names begin with `name`; operands and results are node indices."""

    builder: RealBuilder
    name: str

    def last_axis(self, x: int, axis: int) -> int:
        """The operand with `axis` behind all others."""
        rank = len(self._shape(x))
        order = (*(k for k in range(rank) if k != axis), axis)
        return x if axis == rank - 1 else self._add(Transpose(order), x, suffix=".turned")

    def extreme_place(self, x: int, axis: int, largest: bool = True, last: bool = False) -> int:
        """The place of the extreme of x along an axis, which goes behind the others: the first (or last) of equals."""
        x = self.last_axis(x, axis)
        where = self._places(x)
        while self._shape(x)[-1] > 1:
            x, where = self._round(x, where, "less_equal" if last else "less", largest)
        return where

    def ranked(self, x: int, axis: int, k: int, largest: bool = True) -> tuple[int, int]:
        """The first k (values, places) in falling (or rising) order along an axis; the first of equals leads."""
        rank, x = len(self._shape(x)), self.last_axis(x, axis)
        where = self._places(x)
        for number, layer in enumerate(_network(self._shape(x)[-1], k)):
            x, where = self._exchanged(x, where, layer, largest, f".layer{number}")
        order = list(range(rank - 1))
        order.insert(axis, rank - 1)
        values, places = (
            self._add(Transpose(tuple(order)), self._taken(v, range(k), f"{part}.first"), suffix=part)
            for v, part in ((x, ".values"), (where, ".indices"))
        )
        return values, places

    def _add(self, op: RealOp, *operands: int, suffix: str) -> int:
        return self.builder.add(op, *operands, name=f"{self.name}{suffix}")

    def _shape(self, x: int) -> tuple[int, ...]:
        return self.builder.nodes[x].shape

    def _places(self, x: int) -> int:
        """0, 1, 2 .. along the last axis, in the shape of x."""
        shape = self._shape(x)
        return self._add(Constant(np.broadcast_to(np.arange(float(shape[-1])), shape).copy()), suffix=".places")

    def _taken(self, x: int, places: Sequence[int], suffix: str) -> int:
        """The elements of the last axis at `places`."""
        shape = self._shape(x)
        index = np.arange(int(np.prod(shape))).reshape(shape)[..., list(places)]
        return self._add(Gather(np.ascontiguousarray(index)), x, suffix=suffix)

    def _join(self, *parts: int, suffix: str) -> int:
        return self._add(Concat(len(self._shape(parts[0])) - 1), *parts, suffix=suffix)

    def _round(self, x: int, where: int, relation: str, largest: bool) -> tuple[int, int]:
        """(winners of neighbouring pairs along the last axis, their places); an odd one at the end goes on alone."""
        n = self._shape(x)[-1]
        part, pairs = f".of{n}", (range(0, n - 1, 2), range(1, n, 2))
        a, b, i, j = (self._taken(v, p, part) for v in (x, where) for p in pairs)
        wins = self._add(Compare(relation), *((a, b) if largest else (b, a)), suffix=f"{part}.wins")
        best = self._add(Select(), wins, b, a, suffix=f"{part}.best")
        place = self._add(Select(), wins, j, i, suffix=f"{part}.place")
        if n % 2 == 0:
            return best, place
        rest = [self._taken(v, [n - 1], f"{part}.rest") for v in (x, where)]
        both = [self._join(v, r, suffix=f"{part}.all") for v, r in zip((best, place), rest)]
        return both[0], both[1]

    def _exchanged(self, x: int, where: int, layer: list[tuple[int, int]], largest: bool, part: str) -> tuple[int, int]:
        """One layer of comparators on values and places. Values do not wait for the tie-break of the places."""
        n = self._shape(x)[-1]
        upper, lower = ([pair[k] for pair in layer] for k in range(2))
        a, b, i, j = (self._taken(v, p, part) for v in (x, where) for p in (upper, lower))
        first, second = (Maximum(), Minimum()) if largest else (Minimum(), Maximum())
        better = self._add(Compare("less"), *((a, b) if largest else (b, a)), suffix=f"{part}.better")
        equal = self._add(Compare("equal"), a, b, suffix=f"{part}.equal")
        behind = self._add(Compare("less"), j, i, suffix=f"{part}.behind")
        swap = self._add(
            Maximum(), better, self._add(Minimum(), equal, behind, suffix=f"{part}.tie"), suffix=f"{part}.swap"
        )
        values = [self._add(op, a, b, suffix=f"{part}{s}") for op, s in ((first, ".first"), (second, ".second"))]
        moved = [
            self._add(Select(), swap, *pair, suffix=f"{part}{s}")
            for pair, s in (((j, i), ".place"), ((i, j), ".other"))
        ]
        place = {v: n + k for k, v in enumerate([*upper, *lower])}
        order = [place.get(v, v) for v in range(n)]
        results = [
            self._taken(self._join(old, *new, suffix=f"{part}.all"), order, f"{part}.order")
            for old, new in ((x, values), (where, moved))
        ]
        return results[0], results[1]


def _network(n: int, k: int) -> list[list[tuple[int, int]]]:
    """Layers of comparators (upper, lower place) of a merge exchange (Knuth, 5.2.2 M) that the first k results need."""
    layers: list[list[tuple[int, int]]] = []
    top = 1 << max(n - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            layers.append([(i, i + d) for i in range(n - d) if i & p == r])
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = set(range(k)), list[list[tuple[int, int]]]()
    for layer in reversed(layers):
        used = [pair for pair in layer if needed & set(pair)]
        needed |= {place for pair in used for place in pair}
        kept.append(used)
    return [layer for layer in reversed(kept) if layer]
