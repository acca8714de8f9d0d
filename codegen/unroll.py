"""Tensor graph to scalar program: one row per operation and element; knows the ops, not the hardware they become.

A value on its way is a wire: a row, a free shift and a sign that the next adder absorbs (`_Wires`), so layout ops,
shifts, negations and the powers of two of a matrix cost no row. Matrices become shift-adds (`codegen.solver`), once per
distinct matrix and alignment. Whatever is constant, decided by its interval or computed before in its layer makes no
new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.graph import Graph, Node
from ..ir.ops import (
    Add,
    Concat,
    Constant,
    Gather,
    Input,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Op,
    Quantize,
    ReduceMax,
    ReduceSum,
    Reshape,
    Shift,
    Sub,
    Transpose,
)
from ..ir.rounding import Overflow, Rounding, round_ratio
from ..ir.scalar import Code, ScalarBuilder, ScalarGraph, ScalarOutput
from ..ir.types import MAX_BITS, Fixed, Int64, Tensor
from .adder_graph import AdderGraph, intervals
from .layers import layers
from .solver import solve

__all__ = ["SUPPORTED", "Unrolled", "Wires", "unroll", "unroll_nodes"]

SUPPORTED: tuple[type[Op], ...] = (
    Input, Constant, Quantize, Lookup, Add, Sub, Mul, Neg, Shift, Maximum, Minimum, Linear, ReduceSum, ReduceMax, Reshape,
    Transpose, Gather, Concat,
)
"""The ops that unroll; `requantize` is realised by the pipeline "hardware" before."""

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
        return list(zip(self.rows.reshape(-1).tolist(), self.shifts.reshape(-1).tolist(), self.signs.reshape(-1).tolist()))

    @classmethod
    def of(cls, wires: list[Wire], shape: tuple[int, ...]) -> Wires:
        parts = np.array(wires, np.int64).reshape(-1, 3).T
        return cls(*(p.reshape(shape).copy() for p in parts))


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The scalar program and where in it each node of the tensor graph is (for proofs)."""

    scalar: ScalarGraph
    wires: tuple[Wires, ...]


def unroll(graph: Graph) -> ScalarGraph:
    """The scalar program that equals `graph`, which must have been through the pipeline "hardware".

    Each row's layer is its group. Raises `CompileError` for an op that does not unroll, naming the node.
    """
    return unroll_nodes(graph).scalar


def unroll_nodes(graph: Graph) -> Unrolled:
    """`unroll`, with the wires of every node."""
    unroller = _Unroller(graph)
    for i, node in enumerate(graph.nodes):
        unroller.node(i, node)
    outputs: list[ScalarOutput] = []
    for o in graph.outputs:
        unroller.enter(o.node)
        outputs.append(unroller.output(o.name, graph.nodes[o.node].type, o.node, o.real))
    return _only_live(unroller.builder.build(outputs), unroller.wires)


class _Unroller:
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

    def node(self, i: int, node: Node) -> None:
        self.enter(i)
        rule = _RULES.get(type(node.op))
        if rule is None:
            raise CompileError(f"{node.name} ({node.op.name})", "cannot be unrolled",
                               "run the pipeline 'hardware' on the graph first")
        try:
            result: Wires = rule(self, node, *(self.wires[j] for j in node.operands))
            bounds = zip(*(f.tolist() for f in node.type.flat()))
            narrowed = [self.within(w, *b) for w, b in zip(result.flat(), bounds)]
            self.wires.append(Wires.of(narrowed, node.type.shape))
        except CompileError as e:
            raise CompileError(f"{node.name} ({node.op.name})", e.rule, e.fix) from e
        except OverflowError as e:
            raise CompileError(f"{node.name} ({node.op.name})", f"the shift-add network refuses it: {e}",
                               "quantize the operand or the weights to closer exponents") from e

    def output(self, name: str, t: Tensor, node: int, real) -> ScalarOutput:
        settled = [self.positive(w) for w in self.wires[node].flat()]
        exps = t.flat()[2].tolist()
        left = [self.fixed(w).exp - e if self.constant_value(w) != 0 else 0 for w, e in zip(settled, exps)]
        if min(left, default=0) < 0:
            raise CompileError(name, "the unrolled program counts an output more finely than the graph does")
        return ScalarOutput(name, t.shape, np.array([w[0] for w in settled], np.int64), real, np.array(left, np.int64))

    # ---- wires ------------------------------------------------------------------------------------------------------

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
            wires = pairs + wires[len(pairs) * 2:]
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


# ---- one rule per op: (unroller, node, operands) -> wires of the result ---------------------------------------------


def _input(u: _Unroller, node: Node) -> Wires:
    assert isinstance(node.op, Input)
    rows = u.builder.inputs(node.name, node.type, node.op.real)
    return Wires.of([u.row(r) for r in rows.tolist()], node.type.shape)


def _constant(u: _Unroller, node: Node) -> Wires:
    lo, _, exp = node.type.flat()
    return Wires.of([u.constant(n, e) for n, e in zip(lo.tolist(), exp.tolist())], node.type.shape)


def _elementwise(join: Callable[[_Unroller, Wire, Wire], Wire]) -> Callable[..., Wires]:
    def rule(u: _Unroller, node: Node, x: Wires, y: Wires) -> Wires:
        shape = node.type.shape
        x, y = (w.map(lambda f: np.broadcast_to(f, shape)) for w in (x, y))
        return Wires.of([join(u, a, b) for a, b in zip(x.flat(), y.flat())], shape)
    return rule


def _negated(wire: Wire) -> Wire:
    return wire[0], wire[1], -wire[2]


def _neg(u: _Unroller, node: Node, x: Wires) -> Wires:
    return Wires(x.rows, x.shifts, -x.signs)


def _shift(u: _Unroller, node: Node, x: Wires) -> Wires:
    assert isinstance(node.op, Shift)
    return Wires(x.rows, x.shifts + np.asarray(node.op.by), x.signs)


def _linear(u: _Unroller, node: Node, x: Wires) -> Wires:
    op = node.op
    assert isinstance(op, Linear)
    n_in, n_out = op.weights.shape
    positions = x.map(lambda f: f.reshape(-1, n_in))
    types = u.builder.types(positions.rows, positions.shifts)
    lo, hi, exp = types.arrays(positions.rows.shape)
    absent = (lo == 0) & (hi == 0)
    found: dict[bytes, list[int]] = {}
    relative = _relative_exponents(exp, absent)
    for k in range(len(lo)):  # positions that align in the same way share one network
        found.setdefault(relative[k].tobytes() + positions.signs[k].tobytes(), []).append(k)
    result: list[list[Wire]] = [[]] * len(lo)
    exps = np.broadcast_to(np.asarray(op.exp), (n_out,)).tolist()
    for members in found.values():
        first = members[0]
        matrix = op.weights * positions.signs[first][:, None] << relative[first][:, None]
        network = u.solved(matrix, lo[members].min(axis=0), hi[members].max(axis=0))
        for k in members:  # in units of the lowest exponent of the position, as the matrix counts
            shifts = (positions.shifts[k] - relative[k]).tolist()
            lowest = int(np.max(exp[k] - relative[k], initial=-(1 << 30), where=~absent[k]))
            wires = [(row, shift, 1) for row, shift in zip(positions.rows[k].tolist(), shifts)]
            result[k] = [(row, shift + e, sign) for (row, shift, sign), e in zip(u.network(network, wires, lowest), exps)]
    return Wires.of([w for row in result for w in row], node.type.shape)


def _relative_exponents(exp: Int64, absent: NDArray[np.bool_]) -> Int64:
    """Each element's exponent above the lowest of its position; 0 for what is constantly 0."""
    lowest = np.where(absent, np.iinfo(np.int64).max, exp).min(axis=1, initial=np.iinfo(np.int64).max, keepdims=True)
    return np.where(absent, 0, exp - lowest)


def _quantize(u: _Unroller, node: Node, x: Wires) -> Wires:
    op = node.op
    assert isinstance(op, Quantize)
    settled = [u.positive(w) for w in x.flat()]
    x = Wires.of(settled, node.type.shape)
    before = Tensor(x.rows.shape, u.builder.types(x.rows, x.shifts))
    after = op.infer(before)
    target = [f.tolist() for f in Tensor(x.rows.shape, op.to).flat()]
    result: list[Wire] = []
    parts = zip(settled, *(f.tolist() for f in before.flat()), *(f.tolist() for f in after.flat()), *target)
    for wire, lo, hi, exp, new_lo, new_hi, new_exp, to_lo, to_hi, to_exp in parts:
        if new_lo == new_hi:
            result.append(u.constant(new_lo, new_exp))
        elif new_exp <= exp and new_lo == lo << exp - new_exp and new_hi == hi << exp - new_exp:
            result.append(wire)  # neither rounds nor limits anything
        else:
            to = Fixed(to_lo, to_hi, to_exp)
            result.append(_quantized(u, wire, Fixed(lo, hi, exp), to, op, Fixed(new_lo, new_hi, new_exp)))
    return Wires.of(result, node.type.shape)


def _quantized(u: _Unroller, wire: Wire, before: Fixed, to: Fixed, op: Quantize, after: Fixed) -> Wire:
    """One row, or two if it both rounds and limits: a register may then come between."""
    by = int(to.exp) - int(before.exp)
    rounding = op.rounding
    if by > 0 and rounding is not Rounding.TRN:
        lo, hi = (int(round_ratio(int(n), 1 << min(by, MAX_BITS), rounding)) for n in (before.lo, before.hi))
        if (lo, hi) != (after.lo, after.hi):
            wire = _one_quantize(u, wire, Fixed(lo, hi, int(to.exp)), rounding, Overflow.SAT, Fixed(lo, hi, int(to.exp)))
            rounding = Rounding.TRN
    return _one_quantize(u, wire, to, rounding, op.overflow, after)


def _one_quantize(u: _Unroller, wire: Wire, to: Fixed, rounding: Rounding, overflow: Overflow, after: Fixed) -> Wire:
    if u.builder.is_constant(wire[0]):  # already, or after rounding
        t, op = Tensor((), u.fixed(wire)), Quantize(to, rounding, overflow)
        return u.constant(int(op.evaluate(t, [t], np.array([t.fixed.lo], np.int64))[0]), int(to.exp))
    one = u.scalar_op(("quantize", to.lo, to.hi, to.exp, rounding, overflow), lambda: Quantize(to, rounding, overflow))
    return _applied(u, one, wire, after)


def _applied(u: _Unroller, op: Quantize | Lookup, wire: Wire, result: Fixed) -> Wire:
    row, shift, _ = wire
    code = Code.QUANTIZE if isinstance(op, Quantize) else Code.LOOKUP
    return u.make(code, lambda a, s, _: u.builder.apply(op, a, s, result), row, shift, id(op))


def _lookup(u: _Unroller, node: Node, x: Wires) -> Wires:
    op = node.op
    assert isinstance(op, Lookup)
    settled = [u.positive(w) for w in x.flat()]
    x = Wires.of(settled, node.type.shape)
    lo, hi, exp = (f.tolist() for f in op.infer(_above_step(u, x, op.step)).flat())
    tables = op.table.reshape(-1, op.table.shape[-1])
    result: list[Wire] = []
    for k, (wire, low, high, e) in enumerate(zip(settled, lo, hi, exp)):
        table = tables[k if op.table.ndim > 1 else 0]
        if low == high:
            result.append(u.constant(low, e))
            continue
        one = u.scalar_op(("lookup", table.tobytes(), op.first, op.step, op.exp),
                          lambda t=table: Lookup(t, op.first, op.step, op.exp))
        result.append(_applied(u, one, wire, Fixed(low, high, e)))
    return Wires.of(result, node.type.shape)


def _above_step(u: _Unroller, x: Wires, step: int) -> Tensor:
    """The operand's type; a constant 0, which has no exponent of its own, at that of the table."""
    t = u.builder.types(x.rows, x.shifts)
    zero = (np.asarray(t.lo) == 0) & (np.asarray(t.hi) == 0)
    return Tensor(x.rows.shape, Fixed.of(t.lo, t.hi, np.where(zero, step, np.asarray(t.exp))))


def _reduce(join: Callable[[_Unroller], Callable[[Wire, Wire], Wire]]) -> Callable[..., Wires]:
    def rule(u: _Unroller, node: Node, x: Wires) -> Wires:
        assert isinstance(node.op, ReduceSum | ReduceMax)
        axis = node.op.axis
        last = x.map(lambda f: np.moveaxis(f, axis, -1))
        length = last.rows.shape[-1]
        flat = last.flat()
        groups = [flat[k:k + length] for k in range(0, len(flat), length)]
        return Wires.of([u.tree(g, join(u)) for g in groups], node.type.shape)
    return rule


def _layout(move: Callable[[Node, NDArray[np.int64]], NDArray[np.int64]]) -> Callable[..., Wires]:
    return lambda u, node, x: x.map(lambda f: move(node, f))


def _concat(u: _Unroller, node: Node, *x: Wires) -> Wires:
    assert isinstance(node.op, Concat)
    axis = node.op.axis
    return Wires(*(np.concatenate([getattr(w, part) for w in x], axis=axis) for part in ("rows", "shifts", "signs")))


_RULES: dict[type[Op], Callable[..., Wires]] = {
    Input: _input,
    Constant: _constant,
    Quantize: _quantize,
    Lookup: _lookup,
    Add: _elementwise(lambda u, x, y: u.total(x, y)),
    Sub: _elementwise(lambda u, x, y: u.total(x, _negated(y))),
    Mul: _elementwise(lambda u, x, y: u.product(x, y)),
    Neg: _neg,
    Shift: _shift,
    Maximum: _elementwise(lambda u, x, y: u.extreme(x, y, True)),
    Minimum: _elementwise(lambda u, x, y: u.extreme(x, y, False)),
    Linear: _linear,
    ReduceSum: _reduce(lambda u: u.total),
    ReduceMax: _reduce(lambda u: lambda x, y: u.extreme(x, y, True)),
    Reshape: _layout(lambda node, f: f.reshape(node.type.shape)),
    Transpose: _layout(lambda node, f: f.transpose(node.op.axes)),  # pyright: ignore[reportAttributeAccessIssue]
    Gather: _layout(lambda node, f: f.reshape(-1)[node.op.indices]),  # pyright: ignore[reportAttributeAccessIssue]
    Concat: _concat,
}


def _only_live(scalar: ScalarGraph, wires: list[Wires]) -> Unrolled:
    """Drops the rows that no output reads; inputs stay, and constants, which cost nothing and which proofs need."""
    live = (scalar.code == Code.INPUT) | (scalar.code == Code.CONSTANT)
    for o in scalar.outputs:
        live[o.rows] = True
    a, b, alive = scalar.a.tolist(), scalar.b.tolist(), live.tolist()
    for row in range(len(scalar) - 1, -1, -1):
        if alive[row]:
            for operand in (a[row], b[row]):
                if operand >= 0:
                    alive[operand] = True
    live = np.array(alive, np.bool_)
    new = np.where(live, np.cumsum(live) - 1, -1)
    new = np.append(new, -1)  # operand -1 stays -1

    def ports(values: tuple[ScalarOutput, ...]) -> tuple[ScalarOutput, ...]:
        return tuple(ScalarOutput(o.name, o.shape, new[o.rows], o.real, o.left) for o in values)
    kept = ScalarGraph(
        scalar.name, scalar.code[live], new[scalar.a[live]].astype(np.int32), new[scalar.b[live]].astype(np.int32),
        scalar.shift_a[live], scalar.shift_b[live], scalar.lo[live], scalar.hi[live], scalar.exp[live],
        scalar.attribute[live], scalar.group[live], scalar.attributes, scalar.groups,
        ports(scalar.inputs), ports(scalar.outputs))
    return Unrolled(kept, tuple(Wires(new[w.rows], w.shifts, w.signs) for w in wires))
