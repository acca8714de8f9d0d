"""Transposes at the inputs of a stream design: the host sends the words in the order that the first layer wants."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.graph import Builder, Graph, Node, rewrite
from ...ir.ops import Input, Transpose
from ...ir.rational import Affine
from ...ir.types import Int64

__all__ = ["hosted_transposes", "in_order"]

Order = dict[str, tuple[int, ...]]


def hosted_transposes(graph: Graph) -> tuple[Graph, Order]:
    """The graph with inputs transposed where one transpose is all that reads them, and the axes by input name."""
    users = graph.users()
    order: Order = {}
    for i in graph.inputs:
        node = graph.nodes[i]
        op = graph.nodes[users[i][0]].op if len(users[i]) == 1 else None
        if isinstance(op, Transpose) and all(o.node != i for o in graph.outputs):
            order[node.name] = op.axes

    def moved(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if isinstance(node.op, Input) and node.name in order:
            return builder.add(_transposed(node.op, order[node.name]), name=node.name)
        if isinstance(node.op, Transpose) and graph.nodes[node.operands[0]].name in order:
            return operands[0]
        return None

    return (rewrite(graph, moved), order) if order else (graph, order)


def _transposed(op: Input, axes: tuple[int, ...]) -> Input:
    """The same input with its axes in another order, and so the types and scales of its elements."""
    import numpy as np

    def turned(x):
        return np.broadcast_to(x, op.shape).transpose(axes) if isinstance(x, np.ndarray) and x.ndim else x

    shape = tuple(op.shape[a] for a in axes)
    real = op.real if op.real.is_identity else Affine(turned(op.real.scale), turned(op.real.offset))
    return Input(shape, op.fixed.map(turned), real, op.rounding, op.overflow)


def in_order(data: Mapping[str, Int64], order: Mapping[str, tuple[int, ...]]) -> dict[str, Int64]:
    """Data of the model, ``[events, *shape]`` by input name, as the design takes them."""

    def turned(name: str, x: Int64) -> Int64:
        axes = order.get(name, ())
        return x.transpose(0, *(a + 1 for a in axes)) if axes and x.ndim == len(axes) + 1 else x

    return {name: turned(name, x) for name, x in data.items()}
