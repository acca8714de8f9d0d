"""Tensor graph to scalar program: one rule per op; knows the ops, not the hardware they become.

Matrices become shift-adds (`codegen.solver`), once per distinct matrix and alignment; `codegen.wires` joins single
values.
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
    Compare,
    Concat,
    Constant,
    Forest,
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
    Select,
    Shift,
    Sub,
    Transpose,
    Window,
)
from ..ir.rational import Affine
from ..ir.rounding import Overflow, Rounding, round_ratio
from ..ir.scalar import Code, ScalarGraph, ScalarOutput
from ..ir.types import MAX_BITS, Fixed, Int64, Tensor
from .unroll_forest import forest
from .wires import Unroller, Wire, Wires

__all__ = ["SUPPORTED", "Unrolled", "Wires", "unroll", "unroll_nodes"]

SUPPORTED: tuple[type[Op], ...] = (
    Input,
    Constant,
    Quantize,
    Lookup,
    Add,
    Sub,
    Mul,
    Neg,
    Shift,
    Maximum,
    Minimum,
    Compare,
    Select,
    Linear,
    Forest,
    ReduceSum,
    ReduceMax,
    Reshape,
    Transpose,
    Gather,
    Concat,
    Window,
)
"""The ops that unroll; `requantize` is realised by the pipeline "hardware" before."""


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
    unroller = Unroller(graph)
    for i, node in enumerate(graph.nodes):
        _add(unroller, i, node)
    outputs: list[ScalarOutput] = []
    for o in graph.outputs:
        unroller.enter(o.node)
        outputs.append(_output(unroller, o.name, graph.nodes[o.node].type, o.node, o.real))
    return _only_live(unroller.builder.build(outputs), unroller.wires)


def _add(u: Unroller, i: int, node: Node) -> None:
    """The wires of node i; its type, which may be narrower than what rows infer, narrows them."""
    u.enter(i)
    rule = _RULES.get(type(node.op))
    if rule is None:
        raise CompileError(
            f"{node.name} ({node.op.name})", "cannot be unrolled", "run the pipeline 'hardware' on the graph first"
        )
    try:
        result: Wires = rule(u, node, *(u.wires[j] for j in node.operands))
        bounds = zip(*(f.tolist() for f in node.type.flat()))
        narrowed = [u.within(w, *b) for w, b in zip(result.flat(), bounds)]
        u.wires.append(Wires.of(narrowed, node.type.shape))
    except CompileError as e:
        raise CompileError(f"{node.name} ({node.op.name})", e.rule, e.fix) from e
    except OverflowError as e:
        raise CompileError(
            f"{node.name} ({node.op.name})",
            f"the shift-add network refuses it: {e}",
            "quantize the operand or the weights to closer exponents",
        ) from e


def _output(u: Unroller, name: str, t: Tensor, node: int, real: Affine) -> ScalarOutput:
    """The rows of an output, and how its raw integers count them."""
    settled = [u.positive(w) for w in u.wires[node].flat()]
    exps = t.flat()[2].tolist()
    left = [u.fixed(w).exp - e if u.constant_value(w) != 0 else 0 for w, e in zip(settled, exps)]
    if min(left, default=0) < 0:
        raise CompileError(name, "the unrolled program counts an output more finely than the graph does")
    return ScalarOutput(name, t.shape, np.array([w[0] for w in settled], np.int64), real, np.array(left, np.int64))


# ---- one rule per op: (unroller, node, operands) -> wires of the result ---------------------------------------------


def _input(u: Unroller, node: Node) -> Wires:
    assert isinstance(node.op, Input)
    rows = u.builder.inputs(node.name, node.type, node.op.real)
    return Wires.of([u.row(r) for r in rows.tolist()], node.type.shape)


def _constant(u: Unroller, node: Node) -> Wires:
    lo, _, exp = node.type.flat()
    return Wires.of([u.constant(n, e) for n, e in zip(lo.tolist(), exp.tolist())], node.type.shape)


def _elementwise(join: Callable[..., Wire]) -> Callable[..., Wires]:
    def rule(u: Unroller, node: Node, *operands: Wires) -> Wires:
        shape = node.type.shape
        spread = [w.map(lambda f: np.broadcast_to(f, shape)).flat() for w in operands]
        return Wires.of([join(u, *wires) for wires in zip(*spread)], shape)

    return rule


def _compare(u: Unroller, node: Node, x: Wires, y: Wires) -> Wires:
    assert isinstance(node.op, Compare)
    relation = node.op.relation
    return _elementwise(lambda u, a, b: u.compared(a, b, relation))(u, node, x, y)


def _negated(wire: Wire) -> Wire:
    return wire[0], wire[1], -wire[2]


def _neg(u: Unroller, node: Node, x: Wires) -> Wires:
    return Wires(x.rows, x.shifts, -x.signs)


def _shift(u: Unroller, node: Node, x: Wires) -> Wires:
    assert isinstance(node.op, Shift)
    return Wires(x.rows, x.shifts + np.asarray(node.op.by), x.signs)


def _linear(u: Unroller, node: Node, x: Wires) -> Wires:
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
            result[k] = [
                (row, shift + e, sign) for (row, shift, sign), e in zip(u.network(network, wires, lowest), exps)
            ]
    return Wires.of([w for row in result for w in row], node.type.shape)


def _relative_exponents(exp: Int64, absent: NDArray[np.bool_]) -> Int64:
    """Each element's exponent above the lowest of its position; 0 for what is constantly 0."""
    lowest = np.where(absent, np.iinfo(np.int64).max, exp).min(axis=1, initial=np.iinfo(np.int64).max, keepdims=True)
    return np.where(absent, 0, exp - lowest)


def _quantize(u: Unroller, node: Node, x: Wires) -> Wires:
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


def _quantized(u: Unroller, wire: Wire, before: Fixed, to: Fixed, op: Quantize, after: Fixed) -> Wire:
    """One row, or two if it both rounds and limits: a register may then come between."""
    by = int(to.exp) - int(before.exp)
    rounding = op.rounding
    if by > 0 and rounding is not Rounding.TRN:
        lo, hi = (int(round_ratio(int(n), 1 << min(by, MAX_BITS), rounding)) for n in (before.lo, before.hi))
        if (lo, hi) != (after.lo, after.hi):
            wire = _one_quantize(
                u, wire, Fixed(lo, hi, int(to.exp)), rounding, Overflow.SAT, Fixed(lo, hi, int(to.exp))
            )
            rounding = Rounding.TRN
    return _one_quantize(u, wire, to, rounding, op.overflow, after)


def _one_quantize(u: Unroller, wire: Wire, to: Fixed, rounding: Rounding, overflow: Overflow, after: Fixed) -> Wire:
    if u.builder.is_constant(wire[0]):  # already, or after rounding
        t, op = Tensor((), u.fixed(wire)), Quantize(to, rounding, overflow)
        return u.constant(int(op.evaluate(t, [t], np.array([t.fixed.lo], np.int64))[0]), int(to.exp))
    one = u.scalar_op(("quantize", to.lo, to.hi, to.exp, rounding, overflow), lambda: Quantize(to, rounding, overflow))
    return _applied(u, one, wire, after)


def _applied(u: Unroller, op: Quantize | Lookup, wire: Wire, result: Fixed) -> Wire:
    row, shift, _ = wire
    code = Code.QUANTIZE if isinstance(op, Quantize) else Code.LOOKUP
    return u.make(code, lambda a, s, _: u.builder.apply(op, a, s, result), row, shift, id(op))


def _lookup(u: Unroller, node: Node, x: Wires) -> Wires:
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
        one = u.scalar_op(
            ("lookup", table.tobytes(), op.first, op.step, op.exp), lambda t=table: Lookup(t, op.first, op.step, op.exp)
        )
        result.append(_applied(u, one, wire, Fixed(low, high, e)))
    return Wires.of(result, node.type.shape)


def _above_step(u: Unroller, x: Wires, step: int) -> Tensor:
    """The operand's type; a constant 0, which has no exponent of its own, at that of the table."""
    t = u.builder.types(x.rows, x.shifts)
    zero = (np.asarray(t.lo) == 0) & (np.asarray(t.hi) == 0)
    return Tensor(x.rows.shape, Fixed.of(t.lo, t.hi, np.where(zero, step, np.asarray(t.exp))))


def _reduce(join: Callable[[Unroller], Callable[[Wire, Wire], Wire]]) -> Callable[..., Wires]:
    def rule(u: Unroller, node: Node, x: Wires) -> Wires:
        assert isinstance(node.op, ReduceSum | ReduceMax)
        axis = node.op.axis
        last = x.map(lambda f: np.moveaxis(f, axis, -1))
        length = last.rows.shape[-1]
        flat = last.flat()
        groups = [flat[k : k + length] for k in range(0, len(flat), length)]
        return Wires.of([u.tree(g, join(u)) for g in groups], node.type.shape)

    return rule


def _layout(move: Callable[[Node, NDArray[np.int64]], NDArray[np.int64]]) -> Callable[..., Wires]:
    return lambda u, node, x: x.map(lambda f: move(node, f))


def _concat(u: Unroller, node: Node, *x: Wires) -> Wires:
    assert isinstance(node.op, Concat)
    axis = node.op.axis
    return Wires(*(np.concatenate([getattr(w, part) for w in x], axis=axis) for part in ("rows", "shifts", "signs")))


def _window(u: Unroller, node: Node, x: Wires) -> Wires:
    """Taps that are wires of the operand, and the constant zero in the padding."""
    assert isinstance(node.op, Window)
    index, zero = node.op.source(x.rows.shape), u.constant(0, 0)
    return Wires(*(np.where(index < 0, z, f.reshape(-1)[index]) for z, f in zip(zero, (x.rows, x.shifts, x.signs))))


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
    Compare: _compare,
    Select: _elementwise(lambda u, c, x, y: u.chosen(c, x, y)),
    Linear: _linear,
    Forest: forest,
    ReduceSum: _reduce(lambda u: u.total),
    ReduceMax: _reduce(lambda u: lambda x, y: u.extreme(x, y, True)),
    Reshape: _layout(lambda node, f: f.reshape(node.type.shape)),
    Transpose: _layout(lambda node, f: f.transpose(node.op.axes)),  # pyright: ignore[reportAttributeAccessIssue]
    Gather: _layout(lambda node, f: f.reshape(-1)[node.op.indices]),  # pyright: ignore[reportAttributeAccessIssue]
    Concat: _concat,
    Window: _window,
}


def _only_live(scalar: ScalarGraph, wires: list[Wires]) -> Unrolled:
    """Drops the rows that no output reads; inputs stay, and constants, which cost nothing and which proofs need."""
    live = (scalar.code == Code.INPUT) | (scalar.code == Code.CONSTANT)
    for o in scalar.outputs:
        live[o.rows] = True
    a, b, c, alive = scalar.a.tolist(), scalar.b.tolist(), scalar.c.tolist(), live.tolist()
    for row in range(len(scalar) - 1, -1, -1):
        if alive[row]:
            for operand in (a[row], b[row], c[row]):
                if operand >= 0:
                    alive[operand] = True
    live = np.array(alive, np.bool_)
    new = np.where(live, np.cumsum(live) - 1, -1)
    new = np.append(new, -1)  # operand -1 stays -1

    def ports(values: tuple[ScalarOutput, ...]) -> tuple[ScalarOutput, ...]:
        return tuple(ScalarOutput(o.name, o.shape, new[o.rows], o.real, o.left) for o in values)

    kept = ScalarGraph(
        scalar.name,
        scalar.code[live],
        new[scalar.a[live]].astype(np.int32),
        new[scalar.b[live]].astype(np.int32),
        new[scalar.c[live]].astype(np.int32),
        scalar.shift_a[live],
        scalar.shift_b[live],
        scalar.lo[live],
        scalar.hi[live],
        scalar.exp[live],
        scalar.attribute[live],
        scalar.group[live],
        scalar.attributes,
        scalar.groups,
        ports(scalar.inputs),
        ports(scalar.outputs),
    )
    return Unrolled(kept, tuple(Wires(new[w.rows], w.shifts, w.signs) for w in wires))
