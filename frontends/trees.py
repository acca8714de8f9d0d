"""Decision trees of any source as a real-valued model: one forest, and what becomes of its sums; knows no file format.

Inputs are finite (`ir.evaluate.from_real` refuses NaN and Inf), so where a tree sends missing values is never asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Rounding
from ..ir.types import Fixed
from .lower_trees import varying
from .real import Float, Forest, Function, Input, Quant, RealBuilder, RealModel, Scale, Softmax

__all__ = ["LINKS", "Tree", "joined", "tree_model", "with_types"]

_MOST_NODES = 1 << 22
"""Most nodes and leaves of a model."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree from node `root` on, ``[nodes]``; a node whose `left` is below 0 is a leaf, and `values` ``[nodes, outputs]`` its
    own. A node goes left where the feature is at most the threshold; where `strict`, only below it.
    """

    features: NDArray[np.int64]
    thresholds: Float
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: Float
    strict: bool | NDArray[np.bool_] = False
    root: int = 0


LINKS: dict[str, str] = {
    "identity": "the sums themselves",
    "sigmoid": "1 / (1 + exp(-x))",
    "sigmoid2": "1 / (1 + exp(-2 x))",
    "softmax": "exp(x) over its sum over the outputs",
    "exp": "exp(x)",
}
"""What becomes of the sums."""


def tree_model(
    name: str, features: int, trees: Sequence[Tree], base: Float, link: str, margin: bool = False
) -> RealModel:
    """The model of the sum of all trees and of `base` ``[outputs]``, behind its link unless `margin`; input x, output y."""
    if features < 1:
        raise CompileError(name, "must have features, not none", "check the file")
    builder = RealBuilder(name)
    x = builder.add(Input((features,)), name="x")
    constant, none = np.asarray(base, np.float64).reshape(1, -1), np.full(1, -1)
    start = [Tree(none, np.zeros(1), none, none, constant)] if constant.any() else []  # a leaf alone
    y = builder.add(joined([*trees, *start], name), x, name="trees")
    if link == "sigmoid2" and not margin:
        y = builder.add(Scale(np.asarray(2.0)), y, name="twice")
    if not margin and link != "identity":
        function = Softmax((0,)) if link == "softmax" else Function("exp" if link == "exp" else "sigmoid")
        y = builder.add(function, y, name=link)
    return builder.model([("y", y)])


def joined(trees: Sequence[Tree], where: str) -> Forest:
    """All trees in one set of arrays, without what no root leads to. Raises `CompileError` for what is no tree."""
    if not trees:
        raise CompileError(where, "must have at least one tree", "train the model first")
    roots: list[int] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    nodes = leaves = 0
    for k, tree in enumerate(trees):
        order = _reached(tree, f"{where}: tree {k}")
        inner, ends = order[tree.left[order] >= 0], order[tree.left[order] < 0]
        known = np.concatenate([inner, ends])
        place = np.concatenate([nodes + np.arange(len(inner)), ~(leaves + np.arange(len(ends)))])
        by_number = np.argsort(known)

        def placed(at: NDArray[np.int64], known=known[by_number], place=place[by_number]) -> NDArray[np.int64]:
            return place[np.searchsorted(known, at)]

        roots.append(int(placed(np.array([tree.root]))[0]))
        strict = np.broadcast_to(tree.strict, tree.left.shape)
        own = (tree.features[inner], tree.thresholds[inner], strict[inner])
        parts.append((*own, placed(tree.left[inner]), placed(tree.right[inner]), tree.values[ends]))
        nodes, leaves = nodes + len(inner), leaves + len(ends)
        if nodes + leaves > _MOST_NODES:
            raise CompileError(where, f"may have at most {_MOST_NODES:,} nodes", "train fewer or smaller trees")
    features, thresholds, strict, left, right, values = (np.concatenate(part) for part in zip(*parts))
    if not np.isfinite(thresholds).all() or not np.isfinite(values).all():
        raise CompileError(where, "thresholds and leaves must be finite, but contain NaN or Inf", "check the training")
    return Forest(np.array(roots, np.int64), features, thresholds, strict, left, right, values.astype(np.float64))


def _reached(tree: Tree, where: str) -> NDArray[np.int64]:
    """The nodes that the root leads to, parents first. Raises `CompileError` where two ways meet or a child is not there."""
    nodes = len(tree.left)
    if not nodes or any(len(a) != nodes for a in (tree.features, tree.thresholds, tree.right, tree.values)):
        raise CompileError(where, "its arrays must have one entry per node", "the file is damaged")
    found, at, count = [], np.array([tree.root]), 0
    while len(at):
        if at.min() < 0 or at.max() >= nodes:
            raise CompileError(where, f"children must be within 0..{nodes - 1}", "the file is damaged")
        found.append(at)
        count += len(at)
        inner = at[tree.left[at] >= 0]
        if count > 2 * nodes or len(np.unique(inner)) != len(inner):
            raise CompileError(where, "every node must have one parent", "the file is damaged")
        at = np.stack([tree.left[inner], tree.right[inner]], axis=1).reshape(-1)
    order = np.concatenate(found)
    inner = order[tree.left[order] >= 0]
    if len(np.unique(inner)) != len(inner):
        raise CompileError(where, "every node must have one parent", "the file is damaged")
    return np.concatenate([inner, np.unique(order[tree.left[order] < 0])])


def with_types(model: RealModel, features: str | Quant | None = None, scores: str | None = None) -> RealModel:
    """The model with its precisions given instead of calibrated, as ``ap_fixed<W,I>`` or ``ap_ufixed<W,I>``.

    `features`: real inputs are rounded to it (ties to even) and saturate; or a quantizer for them. `scores`: leaves are rounded to
    its grid, and must not leave it; sums of them are exact, whatever their width. Raises `CompileError` where a leaf does not fit.
    """
    quantizer = _rounding(_parsed(features)) if isinstance(features, str) else features
    grid = None if scores is None else _parsed(scores)
    builder = RealBuilder(model.name)
    new: list[int] = []
    for node in model.nodes:
        op = node.op
        if isinstance(op, Forest) and grid is not None:
            op = _rounded_leaves(op, grid, node.name)
        i = builder.add(op, *(new[j] for j in node.operands), name=node.name)
        if isinstance(op, Input) and quantizer is not None:
            i = builder.add(quantizer, i, name=f"{node.name}_quant")
        new.append(i)
    return builder.model([(name, new[i]) for name, i in model.outputs])


def _rounding(to: Fixed) -> Quant:
    unit = np.asarray(np.ldexp(1.0, int(to.exp)))
    return Quant(unit, np.zeros((), np.int64), int(to.lo), int(to.hi), Rounding.RND_CONV)


def _parsed(text: str) -> Fixed:
    match = re.fullmatch(r"\s*ap_(u?)fixed\s*<\s*(\d+)\s*,\s*(-?\d+)\s*>\s*", text)
    if not match or not 1 <= int(match[2]) <= 32 or abs(int(match[3])) > 64:
        fix = "give something like ap_fixed<12,6>"
        raise CompileError("precision", f"must be ap_fixed<W,I> or ap_ufixed<W,I> of 1 to 32 bits, not '{text}'", fix)
    return Fixed.bits(int(match[2]), int(match[3]), not match[1])


def _rounded_leaves(op: Forest, to: Fixed, name: str) -> Forest:
    steps = np.floor(np.ldexp(op.values, -int(to.exp)) + 0.5)
    leaves = varying(replace(op, values=steps))
    if leaves.size and (leaves.min() < to.lo or leaves.max() > to.hi):
        worst = float(np.ldexp(leaves.flat[np.argmax(np.abs(leaves))], int(to.exp)))
        raise CompileError(name, f"a leaf of {worst:g} does not fit {to.ap_fixed}", "give the scores more integer bits")
    return replace(op, values=np.ldexp(steps, int(to.exp)), grid=int(to.exp))
