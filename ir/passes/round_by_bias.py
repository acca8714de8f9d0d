"""Rounding to nearest moved into a constant that is added anyway: what is left drops bits, which costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph import Builder, Graph, Node, rewrite
from ..ops import Add, Constant, Maximum, Quantize
from ..rounding import Rounding
from ..types import Int64, Tensor

__all__ = ["round_by_bias"]


def round_by_bias(graph: Graph) -> Graph:
    """``rnd(x + c) = trn(x + c')`` with c' half a step above c; the same through ``max(., 0)``.

    With h half a step of the result, floor(max(y, 0) + h) = max(floor(y + h), floor(h)) = floor(max(y + h, 0)). Elements that
    lose no bits keep their constant. The sum must have no other reader.
    """
    readers = {graph.nodes[i].name: len(u) for i, u in enumerate(graph.users())}
    for o in graph.outputs:
        readers[graph.nodes[o.node].name] += 1

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        op = node.op
        if not isinstance(op, Quantize) or op.rounding is not Rounding.RND:
            return None
        top = operands[0]
        relu = _zero_limit(builder, top)
        total = top if relu is None else next(j for j in builder.nodes[top].operands if j != relu)
        below, limit = builder.nodes[total], builder.nodes[top]
        if (
            not isinstance(below.op, Add)
            or readers.get(below.name) != 1
            or (relu is not None and readers.get(limit.name) != 1)
        ):
            return None
        constant = next((j for j in below.operands if isinstance(builder.nodes[j].op, Constant)), None)
        half = _half_step(op, builder.type(top))
        if constant is None or not half[0].any():
            return None
        other = next((j for j in below.operands if j != constant), constant)
        moved = builder.add(_plus(builder.type(constant), *half), name=f"{node.name}.rounding")
        added = builder.add(Add(), other, moved, name=f"{below.name}.rounded")
        if relu is not None:
            added = builder.add(Maximum(), added, relu, name=f"{limit.name}.rounded")
        return builder.add(replace(op, rounding=Rounding.TRN), added, name=node.name)

    return rewrite(graph, rule)


def _zero_limit(builder: Builder, i: int) -> int | None:
    """The constant 0 that a rectifier compares with."""
    node = builder.nodes[i]
    if not isinstance(node.op, Maximum):
        return None
    for j in node.operands:
        op = builder.nodes[j].op
        if isinstance(op, Constant) and not np.any(op.values):
            return j
    return None


def _half_step(op: Quantize, x: Tensor) -> tuple[Int64, Int64]:
    """Half a step of the result as (integers, exponents) of x's shape; 0 where no bits are dropped."""
    step = np.broadcast_to(np.asarray(op.to.exp, np.int64), x.shape)
    drops = step > np.broadcast_to(np.asarray(x.fixed.exp, np.int64), x.shape)
    return drops.astype(np.int64), np.where(drops, step - 1, step)


def _plus(constant: Tensor, half: Int64, exp: Int64) -> Constant:
    """A constant and half steps, element by element."""
    values, _, own = (np.broadcast_to(np.asarray(v, np.int64), half.shape) for v in constant.arrays())
    finest = np.where(half != 0, np.minimum(own, exp), own)
    return Constant((values << (own - finest)) + np.where(half != 0, half << np.maximum(exp - finest, 0), 0), finest)
