"""Wires of a scalar program under construction: sums, products, comparisons and shift-add networks of single values.

A wire is a row, a free shift and a sign that the next adder absorbs, so layout, shifts, negations and the powers of two
of a matrix cost no row. Whatever is constant, decided by its interval or computed before makes no new row. Knows no op
of tensors: `codegen.unroll` has a rule for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.graph import Graph
from ..ir.ops import (
    Compare,
    Constant,
    Lookup,
    Quantize,
)
from ..ir.rounding import Overflow
from ..ir.scalar import Code, ScalarBuilder
from ..ir.types import Fixed, Int64, Tensor
from .adder_graph import AdderGraph, intervals
from .layers import layers
from .solver import solve

__all__ = ["Unroller", "Wire", "Wires"]

_Solved = tuple[AdderGraph, list[int], list[int]]  # a network and the exact interval of each of its nodes
Wire = tuple[int, int, int]  # row, shift, sign: the value is sign * row * 2**shift


@dataclass(frozen=True, eq=False)
class Wires:
    """Where a tensor's elements are: ``signs * rows * 2**shifts``, each int64 of the tensor's shape; row -1: unused."""

    rows: Int64
    shifts: Int64
    signs: Int64

    def map(self, f: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Wires:
        return Wires(f(self.rows), f(self.shifts), f(self.signs))

    def flat(self) -> list[Wire]:
        return list(
            zip(self.rows.reshape(-1).tolist(), self.shifts.reshape(-1).tolist(), self.signs.reshape(-1).tolist())
        )

    @classmethod
    def of(cls, wires: list[Wire], shape: tuple[int, ...]) -> Wires:
        parts = np.array(wires, np.int64).reshape(-1, 3).T
        return cls(*(p.reshape(shape).copy() for p in parts))


class Unroller:
    """The program under construction, and the tables by which equal things are made once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = ScalarBuilder(graph.name)
        self.wires: list[Wires] = []
        self._made: dict[tuple[int, ...], int] = {}
        self._solved: dict[bytes, _Solved] = {}
        self._ops: dict[object, Quantize | Lookup] = {}
        self._layer_of: dict[int, str] = {}
        taken: dict[str, None] = {}
        for layer in layers(graph):
            name, k = layer.name, 1
            while name in taken:
                name, k = f"{layer.name}_{k}", k + 1
            taken[name] = None
            self._layer_of.update({i: name for i in layer.nodes if not isinstance(graph.nodes[i].op, Constant)})

    def enter(self, i: int) -> None:
        """Rows made from now on belong to the layer of node i."""
        if i in self._layer_of:
            self.builder.group(self._layer_of[i])

    def fixed(self, wire: Wire) -> Fixed:
        """The type of a wire, its sign included."""
        t = self.builder.fixed(wire[0], wire[1])
        return t if wire[2] > 0 else -t

    def constant_value(self, wire: Wire) -> int | None:
        """n of a wire that is the constant n * 2**exp of its type, else None."""
        return int(self.fixed(wire).lo) if self.builder.is_constant(wire[0]) else None

    def constant(self, n: int, exp: int) -> Wire:
        zeros = (n & -n).bit_length() - 1 if n else 0
        return self.builder.constant(n >> zeros, exp + zeros if n else 0), 0, 1

    def row(self, row: int, shift: int = 0, sign: int = 1) -> Wire:
        """A wire of a fresh row; a row with a single possible value is that constant."""
        t = self.builder.fixed(row, shift)
        if t.lo == t.hi:
            return self.constant(sign * int(t.lo), int(t.exp))
        return row, shift, sign

    def make(self, code: Code, method: Callable[..., int], *arguments: int) -> Wire:
        """The row ``method(*arguments)``, made once; sums once per layer, as proofs follow each layer's own sums."""
        key = (code, self.builder.current if code in (Code.ADD, Code.SUB) else -1, *arguments)
        if key not in self._made:
            self._made[key] = method(*arguments)
        return self.row(self._made[key])

    def within(self, wire: Wire, lo: int, hi: int, exp: int) -> Wire:
        """The wire after its row has been told that the wire's value is in (lo..hi) * 2**exp."""
        row, shift, sign = wire
        if self.builder.is_constant(row):
            return wire
        lo, hi = (lo, hi) if sign > 0 else (-hi, -lo)
        right = int(self.builder.fixed(row).exp) + shift - exp
        if right < 0:
            self.builder.narrow(row, lo << -right, hi << -right)
        else:
            self.builder.narrow(row, -(-lo >> right), hi >> right)
        return self.row(row, shift, sign)

    def positive(self, wire: Wire) -> Wire:
        """The same value without a pending sign."""
        row, shift, sign = wire
        if sign > 0:
            return wire
        n = self.constant_value(wire)
        if n is not None:
            return self.constant(n, int(self.fixed(wire).exp))
        negated, _, _ = self.make(Code.NEG, self.builder.neg, row)
        return negated, shift, 1

    def total(self, x: Wire, y: Wire) -> Wire:
        """x + y."""
        m, n = self.constant_value(x), self.constant_value(y)
        if m == 0 or n == 0:
            return y if m == 0 else x
        if m is not None and n is not None:
            t = self.fixed(x) + self.fixed(y)
            return self.constant(int(t.lo), int(t.exp))
        x, y = (self.positive(w) if c is not None else w for w, c in ((x, m), (y, n)))
        (a, shift_a, sign_a), (b, shift_b, sign_b) = x, y
        if sign_a != sign_b:
            (a, shift_a), (b, shift_b) = ((a, shift_a), (b, shift_b)) if sign_a > 0 else ((b, shift_b), (a, shift_a))
            return self.make(Code.SUB, self.builder.sub, a, b, shift_a, shift_b)
        row, shift, _ = self.make(Code.ADD, self.builder.add, a, b, shift_a, shift_b)
        return row, shift, sign_a

    def tree(self, wires: list[Wire], join: Callable[[Wire, Wire], Wire]) -> Wire:
        """A balanced tree of two-operand joins."""
        while len(wires) > 1:
            pairs = [join(x, y) for x, y in zip(wires[::2], wires[1::2])]
            wires = pairs + wires[len(pairs) * 2 :]
        return wires[0]

    def zero_like(self, x: Wire, y: Wire) -> Wire:
        """x, counted as y is where x is the constant 0, which has no grid of its own."""
        if self.constant_value(x) != 0 or self.constant_value(y) == 0:
            return x
        return x[0], int(self.fixed(y).exp) - int(self.builder.fixed(x[0]).exp), 1

    def extreme(self, x: Wire, y: Wire, largest: bool) -> Wire:
        """max(x, y), or min; nothing where the intervals decide."""
        if x == y:
            return x
        x, y = self.zero_like(x, y), self.zero_like(y, x)
        s, t = self.fixed(x)._aligned(self.fixed(y))  # pyright: ignore[reportPrivateUsage]
        if s.lo >= t.hi:
            return x if largest else y
        if t.lo >= s.hi:
            return y if largest else x
        if x[2] < 0 and y[2] < 0:
            row, shift, _ = self.extreme((*x[:2], 1), (*y[:2], 1), not largest)
            return row, shift, -1
        (a, shift_a, _), (b, shift_b, _) = self.positive(x), self.positive(y)
        if largest:
            return self.make(Code.MAXIMUM, self.builder.maximum, a, b, shift_a, shift_b)
        return self.make(Code.MINIMUM, self.builder.minimum, a, b, shift_a, shift_b)

    def compared(self, x: Wire, y: Wire, relation: str) -> Wire:
        """1 where x `relation` y, else 0; nothing where the intervals decide, and a sign bit against zero."""
        if x == y:
            return self.constant(int(relation != "less"), 0)
        x, y = self.zero_like(x, y), self.zero_like(y, x)
        decided = Compare(relation).infer(Tensor((), self.fixed(x)), Tensor((), self.fixed(y))).fixed
        if decided.lo == decided.hi:
            return self.constant(int(decided.lo), 0)
        if x[2] < 0 and y[2] < 0:  # -x < -y is y < x
            x, y = (*y[:2], 1), (*x[:2], 1)
        (a, shift_a, _), (b, shift_b, _) = self.positive(x), self.positive(y)
        code = {"less": Code.LESS, "less_equal": Code.LESS_EQUAL, "equal": Code.EQUAL}[relation]
        if code is Code.EQUAL and a > b:
            a, shift_a, b, shift_b = b, shift_b, a, shift_a
        return self.make(code, lambda *arguments: self.builder.compare(code, *arguments), a, b, shift_a, shift_b)

    def chosen(self, condition: Wire, x: Wire, y: Wire) -> Wire:
        """x where the condition is 1, else y; no row where one of them is always taken, or the condition is the result."""
        always = self.constant_value(condition)
        if always is not None or x == y:
            return x if always or x == y else y
        m, n = self.constant_value(x), self.constant_value(y)
        if n == 0 and m is not None and abs(m) == 1:
            return condition[0], condition[1] + int(self.fixed(x).exp), m
        x, y = self.zero_like(x, y), self.zero_like(y, x)
        if x[2] < 0 and y[2] < 0:
            row, shift, sign = self.chosen(condition, (*x[:2], 1), (*y[:2], 1))
            return row, shift, -sign
        (a, shift_a, _), (b, shift_b, _) = self.positive(x), self.positive(y)
        return self.make(Code.SELECT, self.builder.select, self.bit(condition), a, b, shift_a, shift_b)

    def bit(self, wire: Wire) -> int:
        """A row whose integers are the wire's values 0 and 1."""
        row, shift, _ = self.positive(wire)
        if self.builder.fixed(row, shift).exp == 0 and not shift:
            return row
        to = self.scalar_op("bit", lambda: Quantize(Fixed(0, 1, 0), overflow=Overflow.SAT))
        return self.make(Code.QUANTIZE, lambda a, s: self.builder.apply(to, a, s), row, shift)[0]

    def product(self, x: Wire, y: Wire) -> Wire:
        """x * y; by a constant as shift-adds."""
        if self.constant_value(x) is not None:
            x, y = y, x
        n = self.constant_value(y)
        if n is None:
            row, shift, sign = self.make(Code.MUL, self.builder.mul, *sorted((x[0], y[0])))
            return row, shift + x[1] + y[1], sign * x[2] * y[2]
        if n == 0:
            return self.constant(0, 0)
        exp = int(self.fixed(y).exp)
        m = self.constant_value(x)
        if m is not None:
            return self.constant(m * n, exp + int(self.fixed(x).exp))
        t = self.fixed(x)
        network = self.solved(*(np.array(v, np.int64) for v in ([[abs(n)]], [t.lo], [t.hi])))
        row, shift, sign = self.network(network, [x], int(t.exp))[0]
        return row, shift + exp, sign * (1 if n > 0 else -1)

    # ---- matrices ---------------------------------------------------------------------------------------------------

    def solved(self, matrix: Int64, lo: Int64, hi: Int64) -> _Solved:
        key = b"".join([repr(matrix.shape).encode(), *(f.tobytes() for f in (matrix, lo, hi))])
        if key not in self._solved:
            graph = solve(matrix, lo, hi)
            low, high = intervals(graph, lo, hi)
            self._solved[key] = graph, low.tolist(), high.tolist()
        return self._solved[key]

    def network(self, solved: _Solved, inputs: list[Wire], exp: int) -> list[Wire]:
        """The rows of a shift-add network of these inputs, which count in units of 2**exp; results by output."""
        values = list(inputs)
        graph, lo, hi = solved
        columns = (graph.a, graph.b, graph.shift_a, graph.shift_b, graph.sign)
        for a, b, shift_a, shift_b, sign in zip(*(c.tolist() for c in columns)):
            (row_a, own_a, sign_a), (row_b, own_b, sign_b) = values[a], values[b]
            sum_ = self.total((row_a, own_a + shift_a, sign_a), (row_b, own_b + shift_b, sign_b * sign))
            values.append(self.within(sum_, lo[len(values)], hi[len(values)], exp))
        results: list[Wire] = []
        for k, shift, sign in zip(graph.out_node.tolist(), graph.out_shift.tolist(), graph.out_sign.tolist()):
            row, own, own_sign = values[k] if k >= 0 else self.constant(0, 0)
            results.append((row, own + shift, own_sign * sign))
        return results

    def scalar_op(self, key: object, make: Callable[[], Quantize | Lookup]) -> Quantize | Lookup:
        if key not in self._ops:
            self._ops[key] = make()
        return self._ops[key]
