"""Layout ops moved behind the arithmetic they are in the way of, and merged; they move values and change none."""

from __future__ import annotations

import numpy as np

from ..graph import Builder, Graph, Node, rewrite
from ..ops import (
    Add,
    Compare,
    Constant,
    Gather,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Op,
    Quantize,
    Requantize,
    Reshape,
    Select,
    Shift,
    Sub,
    Transpose,
)
from ..rational import Rational, as_rational
from ..types import Fixed, Int64

__all__ = ["fold_layout", "merge_layout", "sink_transposes"]

_UNARY = (Neg, Shift, Quantize, Requantize, Lookup)
_JOINING = (Add, Sub, Mul, Maximum, Minimum, Compare, Select)


def sink_transposes(graph: Graph) -> Graph:
    """``f(transpose(x), c) = transpose(f(x, c'))`` for elementwise f and constant c.

    A convolution's bias and quantizer then follow its matrix directly, channels last, as every engine wants them.
    """
    readers = {graph.nodes[i].name: len(u) for i, u in enumerate(graph.users())}
    for o in graph.outputs:
        readers[graph.nodes[o.node].name] += 1

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if not isinstance(node.op, (*_UNARY, *_JOINING)):
            return None
        moved = next((i for i in operands if isinstance(builder.nodes[i].op, Transpose)), None)
        if moved is None or builder.type(moved).shape != node.type.shape:
            return None
        before = builder.nodes[moved]
        assert isinstance(before.op, Transpose)
        if readers.get(before.name) != 1:
            return None
        others = [i for i in operands if i != moved]
        if len(others) != len(operands) - 1 or not all(isinstance(builder.nodes[i].op, Constant) for i in others):
            return None
        back = tuple(int(a) for a in np.argsort(before.op.axes))
        op = _turned(node.op, node.type.shape, back)
        if op is None:
            return None
        inner = [
            before.operands[0] if i == moved else _turned_constant(builder, i, node.type.shape, back) for i in operands
        ]
        result = builder.add(before.op, builder.add(op, *inner, name=node.name), name=f"{node.name}.layout")
        readers[builder.nodes[result].name] = readers[node.name]
        return result

    return rewrite(graph, rule)


def _array(a: Int64, shape: tuple[int, ...], back: tuple[int, ...]) -> Int64:
    return np.broadcast_to(a, shape).transpose(back)


def _turned_constant(builder: Builder, i: int, shape: tuple[int, ...], back: tuple[int, ...]) -> int:
    op = builder.nodes[i].op
    assert isinstance(op, Constant)
    if op.values.size == 1:
        return i
    values, exp = (_array(np.broadcast_to(a, op.values.shape), shape, back) for a in (op.values, op.exp))
    while values.ndim > 1 and all((a == a[:1]).all() for a in (values, exp)):  # the same at every position: broadcast
        values, exp = values[0], exp[0]
    exp = op.exp if isinstance(op.exp, int) else exp.copy()
    return builder.add(Constant(values.copy(), exp), name=builder.nodes[i].name)


def _turned(op: Op, shape: tuple[int, ...], back: tuple[int, ...]) -> Op | None:
    """The op with its per-element attributes rearranged; None where it has some that cannot be."""
    if isinstance(op, Quantize):
        return Quantize(_turned_type(op.to, shape, back), op.rounding, op.overflow)
    if isinstance(op, Requantize):
        scale, offset = (_turned_rational(r, shape, back) for r in (op.scale, op.offset))
        return Requantize(scale, offset, _turned_type(op.to, shape, back), op.rounding)
    if isinstance(op, Shift):
        return Shift(op.by if isinstance(op.by, int) else _array(op.by, shape, back).copy())
    return None if isinstance(op, Lookup) and op.table.ndim > 1 else op


def _turned_type(t: Fixed, shape: tuple[int, ...], back: tuple[int, ...]) -> Fixed:
    return t.map(lambda a: _array(a, shape, back))


def _turned_rational(r: Rational, shape: tuple[int, ...], back: tuple[int, ...]) -> Rational:
    return as_rational(np.broadcast_to(np.asarray(r, object), shape).transpose(back))


def merge_layout(graph: Graph) -> Graph:
    """A gather of a transpose, reshape or gather becomes one gather; transposes and reshapes of their like become one."""

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if not isinstance(node.op, Gather | Reshape | Transpose):
            return None
        before = builder.nodes[operands[0]]
        if isinstance(node.op, Transpose):
            return _merged_transposes(builder, node, node.op, operands[0])
        if isinstance(node.op, Reshape):
            if isinstance(before.op, Reshape):
                return builder.add(node.op, before.operands[0], name=node.name)
            if before.type.shape == node.op.shape:
                return operands[0]
            return None
        index = _source(builder, operands[0])
        if index is None:
            return None
        return builder.add(Gather(index.reshape(-1)[node.op.indices]), before.operands[0], name=node.name)

    return rewrite(graph, rule)


def _merged_transposes(builder: Builder, node: Node, op: Transpose, operand: int) -> int | None:
    """The transpose of a transpose; nothing at all where the axes come back to their order."""
    before, axes = builder.nodes[operand], op.axes
    if isinstance(before.op, Transpose):
        operand, axes = before.operands[0], tuple(before.op.axes[a] for a in axes)
    if axes == tuple(range(len(axes))):
        return operand
    shape = builder.type(operand).shape
    long = [a for a in axes if shape[a] != 1]
    if long == sorted(long):  # only axes of length 1 move
        return builder.add(Reshape(tuple(shape[a] for a in axes)), operand, name=node.name)
    return builder.add(Transpose(axes), operand, name=node.name) if axes != op.axes else None


def fold_layout(graph: Graph) -> Graph:
    """A flattened choice of elements in front of a matrix becomes a choice of the matrix's rows."""

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if not isinstance(node.op, Linear) or len(builder.type(operands[0]).shape) != 1:
            return None
        at, moved = operands[0], False
        index = np.arange(builder.type(at).size)
        while (source := _source(builder, at)) is not None:
            index = source.reshape(-1)[index]
            moved = moved or not isinstance(builder.nodes[at].op, Reshape)
            at = builder.nodes[at].operands[0]
        size = builder.type(at).size
        if not moved or len(np.unique(index)) != len(index) or size > 2 * len(index):
            return None
        weights = np.zeros((size, node.op.weights.shape[1]), np.int64)
        weights[index] = node.op.weights
        flat = builder.add(Reshape((size,)), at, name=f"{node.name}.flat")
        return builder.add(Linear(weights, node.op.exp), flat, name=node.name)

    return rewrite(graph, rule)


def _source(builder: Builder, i: int) -> Int64 | None:
    """For a layout node: the flat index of its operand that each of its elements is."""
    node = builder.nodes[i]
    if not isinstance(node.op, Gather | Transpose | Reshape):
        return None
    return node.op.source(builder.type(node.operands[0]).shape)
