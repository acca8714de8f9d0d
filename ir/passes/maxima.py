"""Maxima taken before the quantizers that keep order: fewer values are then rounded."""

from __future__ import annotations

import numpy as np

from ..graph import Builder, Graph, Node, rewrite
from ..ops import Lookup, Op, Quantize, ReduceMax, Window
from ..rounding import Overflow

__all__ = ["maxima_first"]


def maxima_first(graph: Graph) -> Graph:
    """``max over a window of q(x) = q(max over the window of x)`` for a q that never decreases.

    Software gains, since a pooled value is rounded once and not once for each tap; hardware would compare wider numbers,
    so this is no part of the pipeline "hardware".
    """
    readers = {graph.nodes[i].name: len(u) for i, u in enumerate(graph.users())}
    for o in graph.outputs:
        readers[graph.nodes[o.node].name] += 1

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if not isinstance(node.op, ReduceMax):
            return None
        window = builder.nodes[operands[0]]
        if not isinstance(window.op, Window):
            return None
        before = builder.nodes[window.operands[0]]
        alone = readers.get(window.name) == 1 and readers.get(before.name) == 1
        if not alone or not keeps_order(before.op) or (window.op.source(before.type.shape) < 0).any():
            return None
        taken = builder.add(window.op, before.operands[0], name=window.name)
        largest = builder.add(node.op, taken, name=node.name)
        return builder.add(before.op, largest, name=before.name)

    return rewrite(graph, rule)


def keeps_order(op: Op) -> bool:
    """One function for all elements that never decreases, and so commutes with every maximum."""
    if isinstance(op, Quantize):
        return op.overflow is Overflow.SAT and op.to.uniform
    return isinstance(op, Lookup) and op.table.ndim == 1 and bool((np.diff(op.table) >= 0).all())
