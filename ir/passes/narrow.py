"""Backward narrowing: what later ops cannot notice is set to zero, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..graph import Builder, Graph, Node, rewrite
from ..ops import (
    Add,
    Compare,
    Concat,
    Constant,
    Forest,
    Layout,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Neg,
    Quantize,
    Requantize,
    Select,
    Shift,
    Sub,
)
from ..ops.linear import exact_matmul
from ..rounding import Rounding
from ..types import Int64, IntLike, Tensor

__all__ = ["drop_unseen_bits", "zero_unused_elements"]

_ELEMENTWISE = (Add, Sub, Maximum, Minimum, Compare, Select, Neg, Shift, Quantize, Requantize, Lookup)


def drop_unseen_bits(graph: Graph) -> Graph:
    """Low bits of a constant addend that no rounding decision behind it can see.

    Let x count in steps of 2**g and let everything behind ``x + c`` be limits on that grid and then a rounding whose
    decisions fall on multiples of 2**h. Then only ``floor(c / 2**G)``, G = min(g, h), matters, and for modes that tell
    a tie from its neighbourhood also whether the rest of c is zero: the rest becomes half a step. This is what makes
    the float32 biases beside quantized weights cheap.
    """
    users = graph.users()
    outputs = {o.node for o in graph.outputs}
    keep: dict[str, Constant] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, Add):
            grids = _decision_grid(graph, users, outputs, i)
            at = next((j for j in node.operands if isinstance(graph.nodes[j].op, Constant)), None)
            if grids is not None and at is not None and graph.nodes[at].type.shape in (node.type.shape, ()):
                keep[node.name] = _truncated(graph, node, at, *grids)

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if node.name not in keep:
            return None
        x = next(i for i in operands if not isinstance(builder.nodes[i].op, Constant))
        bias = next(builder.nodes[i].name for i in operands if isinstance(builder.nodes[i].op, Constant))
        return builder.add(Add(), x, builder.add(keep[node.name], name=bias), name=node.name)

    return rewrite(graph, rule)


def _decision_grid(graph: Graph, users: list[list[int]], outputs: set[int], i: int) -> tuple[Int64, bool] | None:
    """(exponent of the grid on which decisions about node i fall, whether ties are told apart), or None if unknown."""
    node = graph.nodes[i]
    if i in outputs or len(users[i]) != 1 or sum(isinstance(graph.nodes[j].op, Constant) for j in node.operands) != 1:
        return None
    x = next(graph.nodes[j] for j in node.operands if not isinstance(graph.nodes[j].op, Constant))
    if x.type.shape != node.type.shape:
        return None
    grid = np.asarray(x.type.fixed.exp)
    while True:
        user = graph.nodes[users[i][0]]
        if user.type.shape != node.type.shape:
            return None
        if isinstance(user.op, Quantize):
            halves = user.op.rounding not in (Rounding.TRN, Rounding.TRN_ZERO)
            ties = user.op.rounding not in (Rounding.TRN, Rounding.RND)
            return np.minimum(grid, np.asarray(user.op.to.exp) - halves), ties
        if not isinstance(user.op, Maximum | Minimum):
            return None
        limit = next((graph.nodes[j] for j in user.operands if isinstance(graph.nodes[j].op, Constant)), None)
        i = users[i][0]
        if limit is None or i in outputs or len(users[i]) != 1:
            return None
        assert isinstance(limit.op, Constant)
        grid = np.minimum(grid, np.where(limit.op.values == 0, grid, np.asarray(limit.op.exp)))


def _truncated(graph: Graph, node: Node, at: int, grid: Int64, ties: bool) -> Constant:
    bias = graph.nodes[at].op
    assert isinstance(bias, Constant)
    values, exp, grid = np.broadcast_arrays(bias.values, np.asarray(bias.exp), np.broadcast_to(grid, node.type.shape))
    below = np.clip(grid - exp, 0, 62)  # bits of the constant below the grid
    high, rest = values >> below, values & ((np.int64(1) << below) - 1)
    sticky = (rest != 0) & ties
    return _constant(np.where(sticky, 2 * high + 1, high), np.where(sticky, exp + below - 1, exp + below))


def _constant(values: Int64, exp: IntLike) -> Constant:
    exps = np.asarray(exp)
    same = exps.size and bool((exps == exps.flat[0]).all())
    return Constant(np.asarray(values, np.int64), int(exps.flat[0]) if same else exps)


def zero_unused_elements(graph: Graph) -> Graph:
    """Elements that no output depends on (neurons whose outgoing weights are all zero) lose their weights and biases."""
    live = _liveness(graph)

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        alive = live[node.name]
        if alive.all() or not alive.size:
            return None
        if isinstance(node.op, Linear):
            columns = alive.reshape(-1, alive.shape[-1]).any(axis=0)
            return builder.add(Linear(node.op.weights * columns, node.op.exp), *operands, name=node.name)
        if isinstance(node.op, Constant):
            return builder.add(Constant(node.op.values * alive, node.op.exp), name=node.name)
        return None

    return rewrite(graph, rule)


def _liveness(graph: Graph) -> dict[str, NDArray[np.bool_]]:
    """For each node by name: which elements some output depends on."""
    live = [np.zeros(n.type.shape, bool) for n in graph.nodes]
    for o in graph.outputs:
        live[o.node] = np.ones_like(live[o.node])
    for i in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[i]
        for k, j in enumerate(node.operands):
            live[j] = live[j] | _needed(node, k, live[i], graph.operand_types(node))
    return {n.name: a for n, a in zip(graph.nodes, live)}


def _needed(node: Node, k: int, alive: NDArray[np.bool_], operands: tuple[Tensor, ...]) -> NDArray[np.bool_]:
    """Which elements of operand k the live elements of the node read; all of them for ops without a finer rule."""
    op, shape = node.op, operands[k].shape
    if isinstance(op, Linear):
        counts = exact_matmul(alive.astype(np.int64), (op.weights != 0).T.astype(np.int64), op.weights.shape[1])
        return counts > 0
    if isinstance(op, Forest):
        return alive.any(axis=-1, keepdims=True) & np.isin(np.arange(shape[-1]), op.features)
    if isinstance(op, _ELEMENTWISE):
        return _reduced(shape, alive)
    if isinstance(op, Layout):
        read = np.zeros(operands[k].size + 1, bool)  # the last: padding, index -1
        read[op.source(shape)[alive]] = True
        return read[:-1].reshape(shape)
    if isinstance(op, Concat):
        start = sum(t.shape[op.axis] for t in operands[:k])
        return alive.take(range(start, start + shape[op.axis]), axis=op.axis)
    return np.ones(shape, bool)


def _reduced(shape: tuple[int, ...], alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Undo broadcasting: an element is live if any of its copies is."""
    lead = np.logical_or.reduce(alive, axis=tuple(range(alive.ndim - len(shape))))
    stretched = tuple(k for k, n in enumerate(shape) if n == 1 and lead.shape[k] != 1)
    return np.asarray(np.logical_or.reduce(lead, axis=stretched, keepdims=True))
