"""Trees without what their operand cannot reach; a rounded threshold or leaf often makes a comparison idle."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops import Forest
from ..types import Int64, Tensor

__all__ = ["pruned"]

_Box = tuple[int, int, int, Any] | None
"""(feature, lowest, highest, what is known besides) on the way to a node."""


def pruned(op: Forest, x: Tensor) -> Forest:
    """A forest of equal values for every operand of type x: comparisons that an earlier one or the interval of their feature
    decides are gone, and those whose both ways give the same."""
    values, leaf = np.unique(op.values, axis=0, return_inverse=True)
    goes = _decided(op, x)
    left, right = op.left.tolist(), op.right.tolist()
    stands: list[int] = [0] * len(left)  # what each node is in the smaller forest: a node, or ~leaf

    def resolved(at: int) -> int:
        return stands[at] if at >= 0 else ~int(leaf[~at])

    for n in range(len(left) - 1, -1, -1):
        a, b = (resolved(left[n]) if goes[n] != 1 else 0), (resolved(right[n]) if goes[n] != -1 else 0)
        stands[n] = a if goes[n] == -1 or (goes[n] == 0 and a == b) else b if goes[n] == 1 else n
    below = [np.array([resolved(n) for n in side], np.int64) for side in (left, right)]
    return _numbered(op, np.array([resolved(n) for n in op.roots.tolist()], np.int64), below, values)


def _decided(op: Forest, x: Tensor) -> list[int]:
    """For each node: -1 if it always goes left, 1 if right, 0 if the operand decides; nodes out of reach are 0."""
    t = op.aligned(x)
    lo, hi = (np.broadcast_to(np.asarray(f), x.shape).reshape(-1, x.shape[-1]) for f in (t.lo, t.hi))
    lowest, highest = lo.min(axis=0).tolist(), hi.max(axis=0).tolist()
    features, thresholds = op.features.tolist(), op.thresholds.tolist()
    left, right = op.left.tolist(), op.right.tolist()
    found = [0] * len(features)
    waiting: list[tuple[int, _Box]] = [(r, None) for r in op.roots.tolist() if r >= 0]
    while waiting:
        n, box = waiting.pop()
        feature, t = features[n], thresholds[n]
        known = box
        while known is not None and known[0] != feature:
            known = known[3]
        low, high = (lowest[feature], highest[feature]) if known is None else known[1:3]
        found[n] = -1 if high <= t else 1 if low > t else 0
        if found[n] != 1 and left[n] >= 0:
            waiting.append((left[n], (feature, low, min(high, t), box)))
        if found[n] != -1 and right[n] >= 0:
            waiting.append((right[n], (feature, max(low, t + 1), high, box)))
    return found


def _numbered(op: Forest, roots: Int64, below: list[Int64], values: Int64) -> Forest:
    """Only the nodes and leaves that a root leads to; trees that are one leaf are one tree together."""
    alone = roots < 0
    constant = values[~roots[alone]].sum(axis=0, keepdims=True)
    roots = roots[~alone]
    if constant.any() or not len(roots):
        values, roots = np.concatenate([values, constant]), np.append(roots, ~len(values))
    live = np.zeros(len(op.features), bool)
    at = roots[roots >= 0]
    while len(at):
        live[at] = True
        at = np.concatenate([side[at] for side in below])
        at = at[at >= 0]
    ends = np.concatenate([roots, below[0][live], below[1][live]])
    used = np.unique(~ends[ends < 0])
    place, leaf = np.cumsum(live) - 1, np.zeros(len(values), np.int64)
    leaf[used] = np.arange(len(used))

    def moved(at: Int64) -> Int64:
        return np.where(at < 0, ~leaf[np.where(at < 0, ~at, 0)], place[np.maximum(at, 0)] if len(place) else 0)

    return Forest(
        moved(roots), op.features[live], op.thresholds[live], moved(below[0][live]), moved(below[1][live]),
        values[used], op.exp, op.grid,
    )  # fmt: skip
