"""Knows how to turn a constant integer matrix into a network of shared shift-adds.

Does not know what the network is for: no types, no graphs of ops, no pipelines, no text of any language.

Method: the coefficients are written with the fewest signed digits (after Reitwiesner 1960); the two-term pattern that
saves the most adder bits is shared wherever it occurs, again and again (Hartley 1996, "Subexpression sharing in filters
using canonic signed digit multipliers"; Potkonjak et al. 1996, "Multiple constant multiplications"); what is left of
each column is summed by the cheapest tree that is as shallow as the slowest column allows.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from .adder_graph import (
    AdderGraph,
    adder_bits,
    coefficients,
    depth,
    evaluate,
    input_bounds,
    intervals,
    signed_width,
)

__all__ = ["AdderGraph", "adder_bits", "coefficients", "depth", "evaluate", "intervals", "solve"]

_COEFFICIENT_BITS = 56  # widest weight: its canonical digits and their differences fit the 7-bit field of a pattern key
_TERM_BITS = 22  # bits of a term index in a pattern key: four million nodes
_PATTERN_BITS = 2 * _TERM_BITS + 8
_NEWEST = (1 << _PATTERN_BITS) - 1  # the largest pattern key; keys grow with the newer node
_TOP = 1 << 40  # above any score, so that the heap, which pops the smallest, pops the best
_WINDOW = 64  # inputs searched for patterns together; wider windows share slightly more and take longer


def solve(
    weights: np.ndarray,
    lo: ArrayLike | None = None,
    hi: ArrayLike | None = None,
    arrival: ArrayLike | None = None,
) -> AdderGraph:
    """A network of shift-adds that computes ``x @ weights``; the same input always gives the same network.

    weights: integers (n_inputs, n_outputs), at most 56 bits. lo, hi: intervals of the inputs (n_inputs,), default
    signed 8 bits; they set the width of adders, hence what is worth sharing; an input with lo == hi == 0 is absent, so
    its row of `coefficients` is 0. arrival: adder levels at which the inputs are ready (n_inputs,), default 0.
    """
    matrix = np.asarray(weights)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise TypeError(f"weights must be a matrix of integers, not {matrix.dtype} of shape {matrix.shape}")
    n_inputs = matrix.shape[0]
    low, high = input_bounds(
        n_inputs, np.full(n_inputs, -128) if lo is None else lo, np.full(n_inputs, 127) if hi is None else hi
    )
    levels = np.zeros(n_inputs, dtype=np.int64) if arrival is None else np.asarray(arrival, dtype=np.int64)
    if levels.shape != (n_inputs,) or (levels < 0).any():
        raise ValueError(f"arrival must be {n_inputs} levels of at least 0, not {levels.tolist()}")
    largest = max(-int(matrix.min()), int(matrix.max())) if matrix.size else 0
    if largest >> _COEFFICIENT_BITS:
        raise OverflowError(f"weights must fit {_COEFFICIENT_BITS} bits, not reach {largest}")
    present = np.where(((low == 0) & (high == 0))[:, None], 0, matrix).astype(np.int64)
    columns, which, out_shift, out_sign = _distinct_columns(present)
    work = _Work.start(low.tolist(), high.tolist(), levels.tolist(), columns.shape[1])
    for first in range(0, n_inputs, _WINDOW):
        _share_patterns(work, columns, first, min(first + _WINDOW, n_inputs))
    return _finish(work, n_inputs, _sum_columns(work), which, out_shift, out_sign)


def _distinct_columns(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns that differ by more than a power of two and a sign: (columns, index of each output's, shift, sign).

    A column keeps the sign of its first occurrence, so that the first needs no negation; index -1: all zero.
    """
    index: dict[bytes, int] = {}
    kept: list[np.ndarray] = []
    which = np.full(weights.shape[1], -1, dtype=np.int64)
    shift, sign = np.zeros_like(which), np.ones_like(which)
    for j, column in enumerate(weights.T):
        bits = int(np.bitwise_or.reduce(column, initial=0))
        if bits == 0:
            continue
        shift[j] = (bits & -bits).bit_length() - 1
        odd = column >> shift[j]
        if (-odd).tobytes() in index:
            which[j], sign[j] = index[(-odd).tobytes()], -1
            continue
        which[j] = index.setdefault(odd.tobytes(), len(kept))
        if which[j] == len(kept):
            kept.append(odd)
    columns = np.stack(kept, axis=1) if kept else np.zeros((weights.shape[0], 0), dtype=np.int64)
    return columns, which, shift, sign


def _digits(value: int) -> list[tuple[int, int]]:
    """Fewest signed digits of an integer, lowest first: (shift, 1 where negative else 0).

    Canonical, except that 2**(s+2) - 2**s is written 2**(s+1) + 2**s: as few digits, and narrower sums.
    """
    found, shift = [], 0
    while value:
        zeros = (value & -value).bit_length() - 1
        shift, value = shift + zeros, value >> zeros
        negative = value & 2  # ...11 -> -1 and carry; ...01 -> +1
        found.append((shift, 1 if negative else 0))
        value += 1 if negative else -1
    upper = len(found) - 1
    while upper > 0:
        (high, sign), (low, low_sign) = found[upper], found[upper - 1]
        if high - low == 2 and sign != low_sign:
            found[upper - 1 : upper + 1] = [(low, sign), (high - 1, sign)]
            upper -= 1
        upper -= 1
    return found


@dataclass
class _Work:
    """The network under construction, and the digits that remain to be summed; see `_code` for how they are held."""

    lo: list[int]
    hi: list[int]
    level: list[int]
    bits: list[int]
    columns: list[dict[int, None]]  # per output: its digits, as an ordered set
    where: list[dict[int, int]]  # per node: shift << 1 | negative -> bit mask of the columns that hold this digit
    adders: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # a, b, shift_a, shift_b, sign

    @classmethod
    def start(cls, lo: list[int], hi: list[int], level: list[int], n_columns: int) -> _Work:
        bits = [signed_width(l, h) for l, h in zip(lo, hi, strict=True)]
        return cls(list(lo), list(hi), list(level), bits, [{} for _ in range(n_columns)], [{} for _ in lo])

    def add(self, a: int, b: int, shift_a: int, shift_b: int, sign: int) -> int:
        """Appends an adder; returns its node."""
        lo_b, hi_b = (self.lo[b], self.hi[b]) if sign > 0 else (-self.hi[b], -self.lo[b])
        self.lo.append((self.lo[a] << shift_a) + (lo_b << shift_b))
        self.hi.append((self.hi[a] << shift_a) + (hi_b << shift_b))
        self.level.append(1 + max(self.level[a], self.level[b]))
        self.bits.append(signed_width(self.lo[-1], self.hi[-1]))
        self.where.append({})
        self.adders.append((a, b, shift_a, shift_b, sign))
        return len(self.lo) - 1


def _share_patterns(work: _Work, matrix: np.ndarray, first: int, last: int) -> None:
    """Writes rows first..last-1 of the matrix as digits, and shares patterns of two until none occurs twice.

    Counts only fall once a pattern is queued, since a step removes digits of old nodes and adds those of a new one; so
    a queued score is an upper bound, and checking it when it is popped replaces all bookkeeping (lazy greedy).
    """
    queue: list[int] = []
    columns: list[dict[int, None]] = [{} for _ in work.columns]
    for node in range(first, last):
        placed = [
            (shift << 1 | negative, j)
            for j, weight in enumerate(matrix[node].tolist())
            if weight
            for shift, negative in _digits(weight)
        ]
        _place(work, columns, queue, node, placed)
    while queue:
        entry = heapq.heappop(queue)
        pattern = _NEWEST - (entry & _NEWEST)
        count = _count(work, pattern)
        if count < 2:
            continue
        current = _entry(work, pattern, count)
        if current > entry and queue and current > queue[0]:
            heapq.heappush(queue, current)
        else:
            _substitute(work, columns, queue, pattern)
    for column, rest in zip(work.columns, columns, strict=True):
        column.update(rest)
    for node in range(len(work.where)):
        work.where[node] = {}


def _code(node: int, digit: int) -> int:
    """A digit as columns hold it: the shift is stored negated, so that adding another digit's gives their distance."""
    return (node << 8 | 128) - (digit & ~1) | digit & 1


def _unpack(pattern: int) -> tuple[int, int, int, int]:
    """(node, later node, shift of the later digit minus that of the first, 1 where the signs differ)."""
    earlier = (pattern >> 8) & ((1 << _TERM_BITS) - 1)
    return earlier, pattern >> (8 + _TERM_BITS), ((pattern >> 1) & 127) - 64, pattern & 1


def _entry(work: _Work, pattern: int, count: int) -> int:
    """Queue entry: most adder bits saved first (less for a wide result: it widens what it enters), then the newest."""
    earlier, later, distance, _ = _unpack(pattern)
    if distance >= 0:
        width = max(work.bits[earlier] - distance, work.bits[later])
    else:
        width = max(work.bits[earlier], work.bits[later] + distance)
    return (_TOP - (count - 1) * max(width, 1) + abs(distance)) << _PATTERN_BITS | (_NEWEST - pattern)


def _place(
    work: _Work, columns: list[dict[int, None]], queue: list[int], node: int, placed: list[tuple[int, int]]
) -> None:
    """Adds digits (shift << 1 | negative, column) of a new node, lowest shift first, and queues its patterns."""
    where = work.where[node]
    seen: list[int] = []
    for digit, j in placed:
        column, shift2, negative = columns[j], digit & ~1, digit & 1
        where[digit] = where.get(digit, 0) | 1 << j
        seen += [(c + shift2) ^ negative for c in column]
        column[_code(node, digit)] = None
    upper = node << (8 + _TERM_BITS)
    for pattern, count in Counter(seen).items():
        if count > 1:
            heapq.heappush(queue, _entry(work, upper | pattern, count))


def _count(work: _Work, pattern: int) -> int:
    """Occurrences of the pattern that do not overlap; the innermost loop of the solver."""
    earlier, later, distance, differ = _unpack(pattern)
    second, distance = work.where[later], 2 * distance
    total = 0
    if earlier != later:
        for digit, mask in work.where[earlier].items():
            other = second.get((digit + distance) ^ differ)
            if other:
                total += (mask & other).bit_count()
        return total
    taken: dict[int, int] = {}
    for digit in sorted(second):
        partner = (digit + distance) ^ differ
        free = second[digit] & second.get(partner, 0) & ~taken.get(digit, 0)
        taken[partner] = taken.get(partner, 0) | free
        total += free.bit_count()
    return total


def _substitute(work: _Work, columns: list[dict[int, None]], queue: list[int], pattern: int) -> None:
    """Makes the pattern an adder and replaces each occurrence by one digit of it."""
    earlier, later, distance, differ = _unpack(pattern)
    sign = -1 if differ else 1
    # the unshifted operand is the positive one: its low bits then pass as wires
    if distance >= 0:
        node = work.add(earlier, later, 0, distance, sign)
    else:
        node = work.add(later, earlier, 0, -distance, sign)
    first, second = work.where[earlier], work.where[later]
    placed = []
    for digit in sorted(first):
        partner = (digit + 2 * distance) ^ differ
        both = first.get(digit, 0) & second.get(partner, 0)  # 0 where an overlapping occurrence took the digit
        if not both:
            continue
        _remove(first, digit, both)
        _remove(second, partner, both)
        first_code, second_code = _code(earlier, digit), _code(later, partner)
        for j in _set_bits(both):
            del columns[j][first_code], columns[j][second_code]
            placed.append((digit if distance >= 0 else partner, j))
    _place(work, columns, queue, node, sorted(placed))


def _remove(where: dict[int, int], digit: int, columns: int) -> None:
    where[digit] &= ~columns
    if not where[digit]:
        del where[digit]


def _set_bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def _sum_columns(work: _Work) -> list[tuple[int, int, int]]:
    """Sums the digits of each column; returns (node, shift, sign) of each sum.

    Terms ready at levels l can be summed by level L iff the sum of 2**l is at most 2**L (Kraft 1949). L is the least
    that the slowest column needs; within it the narrowest terms are added first, since they make the narrowest adders.
    """
    needed = [sum(1 << work.level[code >> 8] for code in column) for column in work.columns]
    budget = 1 << (max(needed, default=1) - 1).bit_length()
    return [_sum_column(work, column, budget - need) for column, need in zip(work.columns, needed, strict=True)]


def _sum_column(work: _Work, column: dict[int, None], slack: int) -> tuple[int, int, int]:
    """Sums the digits of a column; keeps a positive term as long as there is one, so that the sum needs no negation."""
    terms = []  # (top bit, level, shift, node, sign), in order
    for code in column:
        node, shift = code >> 8, 64 - ((code >> 1) & 127)
        terms.append((shift + work.bits[node], work.level[node], shift, node, -1 if code & 1 else 1))
    terms.sort()
    positives = sum(term[-1] > 0 for term in terms)
    while len(terms) > 1:
        first, second = _next_pair(terms, slack)
        _, level_b, shift_b, b, sign_b = terms.pop(second)
        _, level_a, shift_a, a, sign_a = terms.pop(first)
        slack -= abs((1 << level_a) - (1 << level_b))
        # finer minus coarser wires the low bits through; the last positive term must stay the positive one
        if sign_a == sign_b or (shift_a != shift_b and positives > 1):
            swap = shift_b < shift_a
        else:
            swap = sign_b > 0
        if swap:
            a, b, shift_a, shift_b, sign_a, sign_b = b, a, shift_b, shift_a, sign_b, sign_a
        positives -= sign_b > 0  # the sum takes the sign of a
        low = min(shift_a, shift_b)
        node = work.add(a, b, shift_a - low, shift_b - low, sign_a * sign_b)
        bisect.insort(terms, (low + work.bits[node], work.level[node], low, node, sign_a))
    _, _, shift, node, sign = terms[0]
    return node, shift, sign


def _next_pair(terms: list[tuple[int, int, int, int, int]], slack: int) -> tuple[int, int]:
    """The first two terms whose sum still leaves all of them time; adding the two earliest always does."""
    for first, (_, level, *_) in enumerate(terms):
        for second in range(first + 1, len(terms)):
            if abs((1 << level) - (1 << terms[second][1])) <= slack:
                return first, second
    raise AssertionError("the slack of a column was exceeded")


def _finish(
    work: _Work,
    n_inputs: int,
    roots: list[tuple[int, int, int]],
    which: np.ndarray,
    out_shift: np.ndarray,
    out_sign: np.ndarray,
) -> AdderGraph:
    root = np.array([*roots, (-1, 0, 1)], dtype=np.int32)[which]
    out_node, out_sign = root[:, 0], (root[:, 2] * out_sign).astype(np.int8)
    _avoid_negations(work.adders, n_inputs, out_node, out_sign)
    columns = np.array(work.adders, dtype=np.int32).reshape(-1, 5).T.copy()
    return AdderGraph(
        n_inputs,
        a=columns[0],
        b=columns[1],
        shift_a=columns[2],
        shift_b=columns[3],
        sign=columns[4].astype(np.int8),
        out_node=out_node,
        out_shift=np.where(which >= 0, root[:, 1] + out_shift, 0).astype(np.int32),
        out_sign=out_sign,
    )


def _avoid_negations(
    adders: list[tuple[int, int, int, int, int]], n_inputs: int, out_node: np.ndarray, out_sign: np.ndarray
) -> None:
    """Swaps the operands of subtractions, in place, where that leaves fewer outputs to negate.

    Its readers then subtract instead of adding, which all can but those that already subtract something from it.
    """
    balance: Counter[int] = Counter()
    for node, sign in zip(out_node.tolist(), out_sign.tolist(), strict=True):
        balance[node] += sign
    wanted = {node: [] for node in sorted(balance) if node >= n_inputs and balance[node] < 0}
    for reader, (a, b, *_) in enumerate(adders):
        for node in (a, b):
            if node in wanted:
                wanted[node].append(reader)
    for node, readers in wanted.items():
        a, b, shift_a, shift_b, sign = adders[node - n_inputs]
        stuck = any(adders[r][0] == node and (adders[r][4] < 0 or adders[r][1] == node) for r in readers)
        if sign > 0 or stuck:
            continue
        adders[node - n_inputs] = (b, a, shift_b, shift_a, sign)
        for r in readers:
            a, b, shift_a, shift_b, sign = adders[r]
            adders[r] = (b, a, shift_b, shift_a, -1) if a == node else (a, b, shift_a, shift_b, -sign)
        out_sign[out_node == node] *= -1
