"""Sums of decision trees; knows nothing of how they were trained or where they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..types import Fixed, Int64, IntLike, Tensor
from .base import Op, refuse

__all__ = ["Forest", "broken", "levels", "walk"]

_BLOCK = 1 << 22
"""Tree positions that an evaluation holds at a time."""


@dataclass(frozen=True, eq=False)
class Forest(Op):
    """The sum over trees of the values of the leaf that each reaches: ``[..., features] -> [..., outputs]``.

    At node n a tree goes to ``left[n]`` where ``x[features[n]] <= thresholds[n] * 2**grid``, else to ``right[n]``; a number
    m below 0 stands for leaf ~m. Tree t begins at ``roots[t]``; a tree that is a leaf alone is a constant. Children come
    behind their parent, and every node has one parent or is a root. `values`: ``[leaves, outputs]`` integers of exponent
    `exp`. `grid`: the exponent of the thresholds, one or one per feature; the operand's is not below it.
    """

    name: ClassVar[str] = "forest"
    arity: ClassVar[int | None] = 1
    roots: Int64
    features: Int64
    thresholds: Int64
    left: Int64
    right: Int64
    values: Int64
    exp: int
    grid: IntLike = 0

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        problem = self._broken
        if problem:
            raise refuse(self, problem)
        if not x.shape or int(self.features.max(initial=0)) >= x.shape[-1]:
            raise refuse(self, f"the operand's last axis must hold the {self.features.max(initial=0) + 1} features that "
                               f"the trees read, not shape {list(x.shape)}")  # fmt: skip
        if np.ndim(self.grid) and np.shape(self.grid) != x.shape[-1:]:
            raise refuse(self, f"the thresholds' exponents must be one or one per feature, not {np.shape(self.grid)}")
        self.aligned(x)
        lo, hi = self._span
        shape = (*x.shape[:-1], self.values.shape[1])
        return Tensor(shape, Fixed.of(np.broadcast_to(lo, shape), np.broadcast_to(hi, shape), self.exp))

    def aligned(self, x: Tensor) -> Fixed:
        """The operand's type counted as the thresholds are. Raises `CompileError` where its grid is finer."""
        lo, hi, exp = x.arrays()
        absent = (lo == 0) & (hi == 0)
        by = np.where(absent, 0, exp - np.asarray(self.grid))
        if np.any(by < 0):
            raise refuse(
                self, f"the operand's grid (exponent {exp.min()}) must not be finer than that of the thresholds"
            )
        return Fixed(lo, hi, by).at(0)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        (x,) = operands
        lo, hi, exp = x.arrays()
        by = np.where((lo == 0) & (hi == 0), 0, exp - np.asarray(self.grid))
        rows = (values[0] << by).reshape(-1, x.shape[-1])
        found = walk(self, rows, lambda at, node: at <= self.thresholds[node])
        return found.reshape((-1, *result.shape))

    def counted(self, x: Tensor) -> Int64:
        """``[leading positions, nodes]``: the thresholds as raw integers of the operand, no further out than one beyond it."""
        lo, hi, exp = (f.reshape(-1, x.shape[-1])[:, self.features] for f in x.arrays())
        grid = np.broadcast_to(np.asarray(self.grid), x.shape[-1:])[self.features]
        return np.clip(self.thresholds >> np.clip(exp - grid, 0, 63), lo - 1, hi)

    @cached_property
    def depths(self) -> Int64:
        """Of each tree, the comparisons on the longest way from its root to a leaf."""
        found = np.zeros(len(self.roots), np.int64)
        for depth, (tree, _) in enumerate(levels(self)):
            found[tree] = depth
        return found

    @cached_property
    def leaves_of_trees(self) -> list[Int64]:
        """The leaves of each tree, each once, in no particular order."""
        pairs = [(tree[at < 0], ~at[at < 0]) for tree, at in levels(self)]
        tree, leaf = (np.concatenate([p[k] for p in pairs]) for k in (0, 1))
        order = np.argsort(tree, kind="stable")
        return np.split(leaf[order], np.cumsum(np.bincount(tree, minlength=len(self.roots)))[:-1])

    @cached_property
    def _span(self) -> tuple[Int64, Int64]:
        """Lowest and highest sum of each output: every tree may reach its lowest or highest leaf."""
        lo = sum((self.values[k].min(axis=0) for k in self.leaves_of_trees), np.zeros(self.values.shape[1], np.int64))
        hi = sum((self.values[k].max(axis=0) for k in self.leaves_of_trees), np.zeros(self.values.shape[1], np.int64))
        return lo, hi

    @cached_property
    def _broken(self) -> str:
        found = broken(self)
        if found:
            return found
        bound = float(np.abs(self.values).max(axis=1, initial=0).astype(np.float64).max(initial=0)) * len(self.roots)
        return "" if bound < 2.0**62 else "the sum of the leaves' values needs more than 62 bits"


def broken(trees: Any) -> str:
    """What keeps the arrays `roots`, `features`, `thresholds`, `left`, `right` and `values` from being trees; "" if nothing."""
    nodes, leaves = len(trees.features), len(trees.values)
    one = (trees.roots, trees.features, trees.thresholds, trees.left, trees.right)
    if any(a.ndim != 1 for a in one) or trees.values.ndim != 2 or any(len(a) != nodes for a in one[1:]):
        return "features, thresholds, left and right must have one number per node, and values one row per leaf"
    if not len(trees.roots) or not trees.values.size:
        return "there must be a tree and an output"
    below = np.concatenate([trees.roots, trees.left, trees.right])
    if int(below.min()) < -leaves or int(below.max()) >= nodes:
        return f"roots and children must be within {-leaves}..{nodes - 1}, not {below.min()}..{below.max()}"
    if not np.array_equal(np.sort(below[below >= 0]), np.arange(nodes)):
        return "every node must be a root or have one parent"
    at = np.arange(nodes)
    if np.any((trees.left >= 0) & (trees.left <= at)) or np.any((trees.right >= 0) & (trees.right <= at)):
        return "children must come behind their parent"
    return "" if nodes == 0 or int(trees.features.min()) >= 0 else "features must not be negative"


def levels(trees: Any) -> list[tuple[Int64, Int64]]:
    """(tree, node or ~leaf) of everything at each depth, from the roots down."""
    tree, at = np.arange(len(trees.roots)), trees.roots
    found = [(tree, at)]
    while (inner := at >= 0).any():
        node = at[inner]
        tree, at = np.repeat(tree[inner], 2), np.stack([trees.left[node], trees.right[node]], axis=1).reshape(-1)
        found.append((tree, at))
    return found


def walk(trees: Any, x: NDArray[Any], goes_left: Callable[[NDArray[Any], Int64], NDArray[np.bool_]]) -> NDArray[Any]:
    """``[rows, outputs]``: the sums for rows ``[rows, features]``; `goes_left` compares feature values with node numbers."""
    depth, step = len(levels(trees)) - 1, max(1, _BLOCK // (len(trees.roots) * max(trees.values.shape[1], 2)))
    out = np.zeros((len(x), trees.values.shape[1]), trees.values.dtype)
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        event, at = np.arange(len(rows))[:, None], np.broadcast_to(trees.roots, (len(rows), len(trees.roots)))
        for _ in range(depth):
            node = np.maximum(at, 0)
            left: Int64 = trees.left[node]
            at_most = goes_left(rows[event, trees.features[node]], node)
            below = np.where(at_most, left, trees.right[node])
            at = np.where(at < 0, at, below)
        out[start : start + step] = trees.values[~at].sum(axis=1)
    return out
