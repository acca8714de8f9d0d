"""Tree ensembles of ONNX's machine-learning domain: TreeEnsembleClassifier, TreeEnsembleRegressor and TreeEnsemble (version 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .onnx_context import Context, Ref, Value
from .order import Order
from .real import Compare, Constant, Dense, Embedding, Float, Function, Offset, Reshape, Softmax
from .trees import Tree, joined

__all__ = ["TREES"]

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
"""In the order of the numbers that TreeEnsemble gives them; the first four are read."""

_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""In the same order; the first three are read."""


def _floats(c: Context, name: str) -> Float:
    """A list, or a tensor under NAME_as_tensor."""
    given, tensor = c.attribute(name, None), c.attribute(f"{name}_as_tensor", None)
    return (
        np.asarray(given if tensor is None else tensor, np.float64).reshape(-1)
        if (given, tensor) != (None, None)
        else np.zeros(0)
    )


def _ints(c: Context, name: str) -> NDArray[np.int64]:
    return np.asarray(c.attribute(name, []), np.int64).reshape(-1)


def _modes(c: Context, modes: list[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(strict, exchanged) of each node: x > t is not x <= t, so its ways change places."""
    wrong = next((m for m in modes if m not in (*_MODES[:4], "LEAF")), None)
    if wrong is not None:
        raise c.error(f"node mode {wrong} is not supported", f"known: {', '.join(_MODES[:4])}")
    return np.isin(modes, ("BRANCH_LT", "BRANCH_GTE")), np.isin(modes, ("BRANCH_GTE", "BRANCH_GT"))


def _nodes_and_weights(c: Context, what: str, outputs: int) -> tuple[list[Tree], NDArray[np.int64], Float]:
    """(trees, output and weight of each entry) of the two older operators, whose leaves are listed under `what`."""
    trees, nodes = _ints(c, "nodes_treeids"), _ints(c, "nodes_nodeids")
    modes = [m.decode() if isinstance(m, bytes) else str(m) for m in c.attribute("nodes_modes", [])]
    strict, exchanged = _modes(c, modes)
    c.attribute("nodes_hitrates", None)
    c.attribute("nodes_hitrates_as_tensor", None)
    c.attribute("nodes_missing_value_tracks_true", None)  # no input is NaN
    features, thresholds = _ints(c, "nodes_featureids"), _floats(c, "nodes_values")
    if any(len(a) != len(trees) for a in (nodes, modes, features, thresholds)):
        raise c.error("every node must have a tree, a number, a mode, a feature and a value", "export the model again")
    owners, number = np.unique(trees, return_inverse=True)
    most = int(nodes.max(initial=0)) + 1
    keys = number * most + nodes
    order = np.argsort(keys, kind="stable")
    if len(np.unique(keys)) != len(keys):
        raise c.error("every node needs a number of its own in its tree", "export the model again")

    def place(tree: NDArray[np.int64], node: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.minimum(np.searchsorted(keys[order], tree * most + node), len(keys) - 1)
        if len(node) and (node.max() >= most or node.min() < 0 or (keys[order][at] != tree * most + node).any()):
            raise c.error("a child or leaf is a node that is not there", "export the model again")
        return order[at]

    leaf = np.array([m == "LEAF" for m in modes])
    sides = [np.full(len(nodes), -1) for _ in range(2)]
    for side, name in zip(sides, ("nodes_truenodeids", "nodes_falsenodeids")):
        side[~leaf] = place(number[~leaf], _ints(c, name)[~leaf])
    left, right = (np.where(exchanged, b, a) for a, b in (sides, sides[::-1]))
    ids, weights = _ints(c, f"{what}_ids"), _floats(c, f"{what}_weights")
    entries = place(np.searchsorted(owners, _ints(c, f"{what}_treeids")), _ints(c, f"{what}_nodeids"))
    if len(ids) and (ids.min() < 0 or ids.max() >= outputs):
        raise c.error(f"outputs must be within 0..{outputs - 1}, not {ids.min()}..{ids.max()}")
    values = np.zeros((len(nodes), outputs))
    np.add.at(values, (entries, ids), weights)
    thresholds = np.where(leaf, 0.0, thresholds)
    children = np.concatenate([left[~leaf], right[~leaf]])
    roots = np.setdiff1d(np.arange(len(nodes)), children)
    whole = len(np.unique(number[roots])) == len(roots) == len(owners) and _reached(left, right, roots) == len(nodes)
    if not whole:
        raise c.error("every tree must have one root, which leads to each of its nodes once", "export the model again")
    found = [Tree(features, thresholds, left, right, values, strict, int(r)) for r in roots]
    return found, ids, weights


def _reached(left: NDArray[np.int64], right: NDArray[np.int64], roots: NDArray[np.int64]) -> int:
    """Nodes that the roots lead to; where ways meet or turn back, more than there are."""
    at, count = roots, 0
    while len(at) and count <= len(left):
        count += len(at)
        inner = at[left[at] >= 0]
        at = np.concatenate([left[inner], right[inner]])
    return count


def _scores(c: Context, trees: list[Tree], base: Float, outputs: int, average: bool) -> Ref:
    """The sums, or means, of the trees, and the base values behind them."""
    if average:
        trees = [
            Tree(t.features, t.thresholds, t.left, t.right, t.values / len(trees), t.strict, t.root) for t in trees
        ]
    if base.size not in (0, 1, outputs):
        raise c.error(f"base values must be one per output, not {base.size} for {outputs}")
    base = np.broadcast_to(base if base.size else 0.0, (1, outputs))
    if base.any():
        zero, none = np.zeros(1, np.int64), np.full(1, -1)
        trees = [*trees, Tree(zero, np.zeros(1), none, none, base)]
    return c.add(joined(trees, c.where), c.data(0), suffix=".trees")


def _transformed(c: Context, scores: Ref, kind: str) -> Ref:
    if kind not in _TRANSFORMS[:3]:
        raise c.error(f"post_transform must be {', '.join(_TRANSFORMS[:3])}, not {kind}")
    if kind == "NONE":
        return scores
    return c.add(Function("sigmoid") if kind == "LOGISTIC" else Softmax((0,)), scores.index, suffix=".transformed")


def _averages(c: Context) -> bool:
    kind = str(c.attribute("aggregate_function", "SUM"))
    if kind not in ("SUM", "AVERAGE"):
        raise c.error(f"aggregate_function must be SUM or AVERAGE, not {kind}")
    return kind == "AVERAGE"


def _regressor(c: Context) -> Value:
    outputs = int(c.attribute("n_targets", 1))
    trees, _, _ = _nodes_and_weights(c, "target", outputs)
    scores = _scores(c, trees, _floats(c, "base_values"), outputs, _averages(c))
    return _transformed(c, scores, str(c.attribute("post_transform", "NONE")))


def _classifier(c: Context) -> list[Value]:
    """The label of the largest score, and the scores; of two classes that one score tells apart, both."""
    labels, strings = _ints(c, "classlabels_int64s"), c.attribute("classlabels_strings", None)
    count = len(strings) if strings else len(labels)
    if count < 2:
        raise c.error(f"there must be two classes or more, not {count}")
    if strings:
        raise c.error("class labels must be integers, not strings", "train with integer labels")
    trees, ids, weights = _nodes_and_weights(c, "class", count)
    base, kind = _floats(c, "base_values"), str(c.attribute("post_transform", "NONE"))
    if count == 2 and len(np.unique(ids)) == 1:
        return _binary(c, trees, int(ids[0]), base, labels, bool((weights >= 0).all()), kind)
    scores = _scores(c, trees, base, count, False)
    best = c.add(Reshape(()), Order(c.builder, c.name).extreme_place(scores.index, 0), suffix=".best")
    return [_label(c, labels, best.index), _transformed(c, scores, kind)]


def _binary(
    c: Context, trees: list[Tree], column: int, base: Float, labels: NDArray[np.int64], positive: bool, kind: str
) -> list[Value]:
    """One score s: the classes have 1 - s and s where it is a probability (no weight is negative), else -s and s."""
    if kind != ("NONE" if positive else "LOGISTIC"):
        signs = "that are all positive" if positive else "of both signs"
        raise c.error(f"runtimes disagree about {kind} of weights {signs}", "export a regressor of the score")
    one = [
        Tree(t.features, t.thresholds, t.left, t.right, t.values[:, column : column + 1], t.strict, t.root)
        for t in trees
    ]
    s = _scores(c, one, base[-1:], 1, False)
    limit = c.add(Constant(np.full(1, 0.5 if positive else 0.0)), suffix=".limit")
    wins = c.add(Compare("less"), limit.index, s.index, suffix=".wins")
    best = c.add(Reshape(()), wins.index, suffix=".best")
    pair = c.add(Dense(np.array([[-1.0, 1.0]])), s.index, suffix=".pair")
    if positive:
        pair = c.add(Offset(np.array([1.0, 0.0])), pair.index, suffix=".pair")
    return [_label(c, labels, best.index), _transformed(c, pair, kind)]


def _label(c: Context, labels: NDArray[np.int64], index: int) -> Ref:
    if (labels == np.arange(len(labels))).all():
        return Ref(index, batch=0)
    found = c.add(Embedding(labels.astype(np.float64).reshape(-1, 1)), index, suffix=".label")
    return c.add(Reshape(()), found.index, suffix=".labels")


def _ensemble(c: Context) -> Value:
    """TreeEnsemble of version 5: nodes and leaves in arrays of their own."""
    outputs = int(c.attribute("n_targets", 1))
    modes = [_MODES[int(m)] if 0 <= int(m) < len(_MODES) else str(m) for m in np.ravel(c.attribute("nodes_modes", []))]
    strict, exchanged = _modes(c, modes)
    c.attribute("nodes_hitrates", None)
    c.attribute("nodes_missing_value_tracks_true", None)  # no input is NaN
    c.attribute("membership_values", None)  # only nodes of mode MEMBER have some
    nodes = len(modes)
    sides: list[NDArray[np.int64]] = []
    for way in ("true", "false"):
        child, leaf = _ints(c, f"nodes_{way}nodeids"), _ints(c, f"nodes_{way}leafs") > 0
        sides.append(np.where(leaf, nodes + child, child))
    left, right = (np.where(exchanged, b, a) for a, b in (sides, sides[::-1]))
    targets, weights = _ints(c, "leaf_targetids"), np.asarray(c.attribute("leaf_weights", []), np.float64).reshape(-1)
    if len(targets) and (targets.min() < 0 or targets.max() >= outputs):
        raise c.error(f"outputs must be within 0..{outputs - 1}, not {targets.min()}..{targets.max()}")
    values = np.zeros((nodes + len(targets), outputs))
    values[nodes + np.arange(len(targets)), targets] = weights
    none = np.full(len(targets), -1)
    features = np.append(_ints(c, "nodes_featureids"), 0 * none)
    thresholds = np.append(np.asarray(c.attribute("nodes_splits", []), np.float64).reshape(-1), 0.0 * none)
    left, right, strict = np.append(left, none), np.append(right, none), np.append(strict, none < -1)
    trees = [Tree(features, thresholds, left, right, values, strict, int(r)) for r in _ints(c, "tree_roots")]
    kind = int(c.attribute("aggregate_function", 1))
    if kind not in (0, 1):
        raise c.error(f"aggregate_function must be 0 (average) or 1 (sum), not {kind}")
    scores = _scores(c, trees, np.zeros(0), outputs, kind == 0)
    transform = int(c.attribute("post_transform", 0))
    return _transformed(c, scores, _TRANSFORMS[transform] if 0 <= transform < len(_TRANSFORMS) else str(transform))


TREES: dict[str, Callable[[Context], Any]] = {
    "TreeEnsembleClassifier": _classifier,
    "TreeEnsembleRegressor": _regressor,
    "TreeEnsemble": _ensemble,
}
"""The operators, and how each is read."""
