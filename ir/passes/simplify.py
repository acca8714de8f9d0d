"""Exact rewrites that make a graph smaller: constants, affine folding, equal and dead nodes, range narrowing."""

from __future__ import annotations

import numpy as np

from ..errors import CompileError
from ..graph import Builder, Graph, Node, Output, rewrite
from ..ops import Add, Compare, Constant, Forest, Input, Linear, Lookup, Maximum, Minimum, Mul, Quantize, Select
from ..rounding import Overflow
from ..text import format_attributes
from ..types import Int64, IntLike, bit_length
from .forest import pruned

__all__ = ["fold_affine", "fold_constants", "merge_equal", "narrow_ranges", "remove_dead"]

_MAX_FOLDED_BITS = 16
"""A scale is folded into weights only up to this width: wider weights cost more than the multiplication they save."""


def fold_constants(graph: Graph) -> Graph:
    """Ops on constants become constants, as the reference evaluates them."""

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        found = [builder.nodes[i] for i in operands]
        if not found or not all(isinstance(n.op, Constant) for n in found):
            return None
        types = [n.type for n in found]
        result = node.op.infer(*types)
        raw = node.op.evaluate(result, types, *(n.op.values[np.newaxis] for n in found if isinstance(n.op, Constant)))
        return builder.add(Constant(np.broadcast_to(raw[0], result.shape).copy(), result.fixed.exp), name=node.name)

    return rewrite(graph, rule)


def fold_affine(graph: Graph) -> Graph:
    """Constant scales and offsets next to a matrix move into it or behind it: batch-norm folding.

    ``linear(x * c) = linear'(x)``, ``linear(x) * c = linear'(x)``, ``linear(x + c) = linear(x) + linear(c)``,
    ``(x + c) * d = x * d + c * d`` and ``(x + c) + d = x + (c + d)``. Each is skipped where it would not fit.
    """

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        try:
            if isinstance(node.op, Linear):
                return _into_linear(builder, node, node.op, operands[0])
            if isinstance(node.op, Mul | Add):
                return _behind(builder, node, operands)
        except CompileError:
            return None
        return None

    return rewrite(graph, rule)


def _constant_and_other(builder: Builder, operands: tuple[int, ...]) -> tuple[Constant, int, int] | None:
    """(constant op, its index, the other operand's index) of a binary node with exactly one constant operand."""
    a, b = (builder.nodes[i].op for i in operands)
    if isinstance(b, Constant) and not isinstance(a, Constant):
        return b, operands[1], operands[0]
    if isinstance(a, Constant) and not isinstance(b, Constant):
        return a, operands[0], operands[1]
    return None


def _per_channel(values: Int64, exp: IntLike, channels: int) -> tuple[Int64, Int64] | None:
    """A constant as (values, exponents) of each channel of the last axis, or None if it varies along another axis."""
    if values.ndim > 1 and any(n != 1 for n in values.shape[:-1]):
        return None
    flat, exps = values.reshape(-1), np.broadcast_to(np.asarray(exp, np.int64), values.shape).reshape(-1)
    if flat.size not in (1, channels):
        return None
    return np.broadcast_to(flat, channels), np.broadcast_to(exps, channels)


def _into_linear(builder: Builder, node: Node, op: Linear, operand: int) -> int | None:
    inner = builder.nodes[operand]
    if not isinstance(inner.op, Mul | Add):
        return None
    found = _constant_and_other(builder, inner.operands)
    if found is None:
        return None
    constant, at, other = found
    if builder.type(other).shape != inner.type.shape:
        return None
    if isinstance(inner.op, Add):
        if builder.type(at).shape[-1:] != inner.type.shape[-1:]:
            return None
        sums = builder.add(op, other, name=node.name)
        return builder.add(Add(), sums, _constant(builder, Linear(op.weights, op.exp), at), name=f"{node.name}.offset")
    scale = _per_channel(constant.values, constant.exp, op.weights.shape[0])
    if scale is None:
        return None
    base = int(scale[1].min())
    factor = scale[0] << (scale[1] - base)
    return _scaled(builder, node.name, op, op.weights * factor[:, None], base, other)


def _constant(builder: Builder, op: Linear, at: int) -> int:
    """op applied to a constant node, as a constant."""
    source = builder.nodes[at]
    result = op.infer(source.type)
    assert isinstance(source.op, Constant)
    raw = op.evaluate(result, [source.type], source.op.values[np.newaxis])
    return builder.add(Constant(raw[0], result.fixed.exp), name=f"{source.name}.folded")


def _scaled(builder: Builder, name: str, op: Linear, weights: Int64, exp: IntLike, other: int) -> int | None:
    if weights.size and int(np.max(np.asarray(bit_length(np.abs(weights))))) > _MAX_FOLDED_BITS:
        return None
    return builder.add(Linear(weights, op.exp + exp), other, name=name)


def _behind(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
    found = _constant_and_other(builder, operands)
    if found is None:
        return None
    constant, at, other = found
    inner = builder.nodes[other]
    if isinstance(node.op, Mul) and isinstance(inner.op, Linear):
        scale = _per_channel(constant.values, constant.exp, inner.op.weights.shape[1])
        if scale is None or inner.type.shape != builder.type(other).shape or node.type.shape != inner.type.shape:
            return None
        return _scaled(builder, node.name, inner.op, inner.op.weights * scale[0], scale[1], inner.operands[0])
    if not isinstance(inner.op, Add):
        return None
    nested = _constant_and_other(builder, inner.operands)
    if nested is None:
        return None
    types = (builder.type(nested[1]), builder.type(at))
    result = node.op.infer(*types)
    raw = node.op.evaluate(result, types, nested[0].values[np.newaxis], constant.values[np.newaxis])
    offset = builder.add(
        Constant(np.broadcast_to(raw[0], result.shape).copy(), result.fixed.exp), name=f"{node.name}.offset"
    )
    if isinstance(node.op, Add):
        return builder.add(Add(), nested[2], offset, name=node.name)
    return builder.add(Add(), builder.add(Mul(), nested[2], at, name=f"{node.name}.scale"), offset, name=node.name)


def narrow_ranges(graph: Graph) -> Graph:
    """Forward narrowing: types are inferred again, and ops that the reachable range makes idle disappear.

    A node that is an output keeps its grid, because outputs are read as raw integers.
    """
    kept = {graph.nodes[o.node].name for o in graph.outputs}

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if isinstance(node.op, Quantize):
            x = builder.type(operands[0])
            inner = builder.nodes[operands[0]]
            if (
                isinstance(inner.op, Maximum | Minimum)
                and (behind := _limited_again(builder, node.op, inner)) is not None
            ):
                return builder.add(node.op, behind, name=node.name)
            if node.op.acts(x).idle and (node.name not in kept or node.op.infer(x) == x):
                return operands[0]
        if isinstance(node.op, Maximum | Minimum) and node.name not in kept:
            return _winner(builder, node, operands)
        if isinstance(node.op, Compare | Select):
            return _decided(builder, node, operands, node.name in kept)
        if isinstance(node.op, Lookup):
            return _trimmed(builder, node, node.op, operands[0])
        if isinstance(node.op, Forest):
            return builder.add(pruned(node.op, builder.type(operands[0])), *operands, name=node.name)
        return None

    return rewrite(graph, rule)


def _limited_again(builder: Builder, op: Quantize, inner: Node) -> int | None:
    """The operand of a limit that the saturation of `op` behind it repeats: ReLU before an unsigned quantizer."""
    found = _constant_and_other(builder, inner.operands)
    if op.overflow is not Overflow.SAT or found is None or builder.type(found[2]).shape != inner.type.shape:
        return None
    constant = builder.type(found[1])
    low, high = op.to.lo, op.to.hi
    if np.any(np.asarray(op.to.exp) < np.asarray(constant.fixed.exp)) and np.any(constant.fixed.lo):
        return None
    limit = op.rounded(np.asarray(constant.fixed.lo), constant)
    repeats = np.all(limit <= np.asarray(low)) if isinstance(inner.op, Maximum) else np.all(limit >= np.asarray(high))
    return found[2] if bool(repeats) else None


def _winner(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
    """The operand that is always the larger (or smaller) one, if it has the result's shape."""
    for mine, other in (operands, operands[::-1]):
        a, b = builder.type(mine).fixed, builder.type(other).fixed
        gap = a - b if isinstance(node.op, Maximum) else b - a
        if bool(np.all(np.asarray(gap.lo) >= 0)) and builder.type(mine).shape == node.type.shape:
            return mine
    return None


def _decided(builder: Builder, node: Node, operands: tuple[int, ...], kept: bool) -> int | None:
    """What a comparison always gives, as a constant; the operand that a choice always takes, if its shape is the result's."""
    t = node.op.infer(*(builder.type(i) for i in operands))
    if isinstance(node.op, Compare):
        lo, hi, _ = t.arrays()
        return builder.add(Constant(lo.copy()), name=node.name) if lo.size and (lo == hi).all() else None
    condition = builder.type(operands[0]).fixed
    for value, chosen in ((1, operands[1]), (0, operands[2])):
        always = np.all(np.asarray(condition.lo) == value) and np.all(np.asarray(condition.hi) == value)
        same = builder.type(chosen) == t if kept else builder.type(chosen).shape == t.shape
        if always and same:
            return chosen
    return operands[1] if operands[1] == operands[2] and builder.type(operands[1]).shape == t.shape else None


def _trimmed(builder: Builder, node: Node, op: Lookup, operand: int) -> int | None:
    """The same table without entries that the operand cannot reach."""
    lo, hi, exp = builder.type(operand).flat()
    if not lo.size:
        return None
    up = np.maximum(exp - op.step, 0)  # a zero on a finer grid is still zero
    first, last = int((lo << up).min()), int((hi << up).max())
    if first == op.first and last == op.first + op.table.shape[-1] - 1:
        return None
    table = op.table[..., first - op.first : last - op.first + 1]
    return builder.add(Lookup(table.copy(), first, op.step, op.exp), operand, name=node.name)


def merge_equal(graph: Graph) -> Graph:
    """Common subexpressions: equal ops on equal operands become one node."""
    seen: dict[tuple[object, ...], int] = {}

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if isinstance(node.op, Input):
            return None
        key = (node.op.name, format_attributes(node.op), operands)
        if key not in seen:
            seen[key] = builder.add(node.op, *operands, name=node.name)
        return seen[key]

    return rewrite(graph, rule)


def remove_dead(graph: Graph) -> Graph:
    """Drop nodes that no output depends on; inputs stay, they are the interface."""
    live = {o.node for o in graph.outputs} | set(graph.inputs)
    for i in range(len(graph.nodes) - 1, -1, -1):
        if i in live:
            live.update(graph.nodes[i].operands)
    index = {old: new for new, old in enumerate(sorted(live))}
    nodes = tuple(
        Node(n.name, n.op, tuple(index[j] for j in n.operands), n.type) for i, n in enumerate(graph.nodes) if i in live
    )
    return Graph(graph.name, nodes, tuple(Output(o.name, index[o.node], o.real) for o in graph.outputs))
