"""Boosted decision trees as students of a network or of the labels, compiled exactly; knows no network.

Two kinds: scikit-learn's histogram boosting, a tree of its own for each output; and trees that all outputs share,
whose comparisons are paid once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..frontends.lower_trees import alone, varying
from ..frontends.real import Concat, Forest, Input, Quant, RealBuilder, RealModel, evaluate_real, quantized
from ..frontends.trees import Tree, tree_model, with_types
from ..frontends.trees_sklearn import read_sklearn
from ..ir.errors import CompileError
from ..ir.rounding import Rounding
from ..ir.types import Fixed
from .symbolic import Compiled, Row, centred, flat, targets
from .task import Task

__all__ = ["Trees", "fit_forests", "fit_trees", "frontier", "sweep"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """Boosted trees of `depth`, as many for each output as `rounds`, or, if `shared`, so many for all outputs together.

    `rate`: of boosting; `smallest`: events in a leaf, at least; `damping`: added to the curvature that a leaf's slope is divided
    by (L2), per event, so that leaves of one class alone stay small. `bits`: of each input, on whose grid the trees are grown;
    `leaf_bits`: of the leaves, sign included (sums of them are exact). `events`: how many of the training data are used, None for
    all.
    """

    depth: int = 3
    rounds: int = 20
    shared: bool = False
    rate: float = 0.3
    smallest: int = 20
    damping: float = 1e-4
    bits: int = 8
    leaf_bits: int = 8
    events: int | None = 50_000
    target: str = "vu9p"
    clock_ns: float | None = None

    def __post_init__(self) -> None:
        for name in ("depth", "rounds", "smallest"):
            if getattr(self, name) < 1:
                raise CompileError("Trees", f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("bits", "leaf_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise CompileError("Trees", f"{name} must be from 2 to 16, not {getattr(self, name)}")
        if not 0 < self.rate <= 1:
            raise CompileError("Trees", f"rate must be above 0 and at most 1, not {self.rate}")
        if not 0 <= self.damping < math.inf:
            raise CompileError("Trees", f"damping must be 0 or more, not {self.damping}")


def fit_trees(task: Task, options: Trees | None = None, teacher: nn.Module | None = None, seed: int = 0) -> Row:
    """Trees fitted to the teacher's outputs, or to the task's targets, with its loss.

    Trees of each output's own learn a teacher's probabilities by least squares, shared ones by the cross entropy with them.

    The row has what `hc.compile` takes as `model`; its score is that of the quantized trees on the validation data.
    Raises `CompileError` without scikit-learn, and for losses other than cross_entropy, mse and bce without a teacher.
    """
    options = options or Trees()
    return fit_forests(task, options, [options.rounds], teacher, seed)[0]


def fit_forests(
    task: Task, options: Trees, rounds: Sequence[int], teacher: nn.Module | None = None, seed: int = 0
) -> tuple[Row, ...]:
    """What `fit_trees` gives for each of some numbers of rounds in place of the options' own; the trees are grown only once, the
    first of the most being those of fewer."""
    each = [replace(options, rounds=count) for count in rounds]
    if not each:
        return ()
    x = flat("Trees", task)
    if teacher is None and task.kind == "own":
        raise CompileError("Trees", "fit losses by name, not a function", "give a teacher, whose outputs they learn")
    events = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: options.events]
    x = x[events]
    wanted = targets(task, teacher, x, task.y[events])
    kind = "mse" if task.kind == "own" or (teacher is not None and not options.shared) else task.kind
    wanted = centred(task, wanted) if kind == "mse" else wanted
    floats = x.double().numpy()
    grid = _grid(floats, options.bits)
    data = quantized(grid, floats) * grid.scale
    grow = _shared if options.shared else _own
    forest = grow(max(each, key=lambda o: o.rounds), kind, data, wanted, seed)
    x_v, y_v = task.validation

    def score(outputs: Floats) -> float:
        return task.score_of(torch.as_tensor(outputs, dtype=torch.float32), y_v)

    def row(of: Trees) -> Row:
        model = _quantized(of, forest(of.rounds), grid, data, kind, wanted)
        method = f"{'shared ' * of.shared}trees, depth {of.depth}, {of.rounds} rounds"
        return Row.of(method, Compiled(model, of.target, of.clock_ns), score, x_v)

    return tuple(row(o) for o in each)


def sweep(
    task: Task,
    options: Trees | None = None,
    depths: Iterable[int] = (2, 3, 4),
    rounds: Iterable[int] = (5, 15, 40),
    teacher: nn.Module | None = None,
    seed: int = 0,
) -> tuple[Row, ...]:
    """The trees of all depths and numbers of rounds that none cheaper beats, the cheapest first."""
    options = options or Trees()
    counts = tuple(rounds)
    return frontier([r for d in depths for r in fit_forests(task, replace(options, depth=d), counts, teacher, seed)])


def frontier(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows that none cheaper beats in score, the cheapest first; of whatever models."""
    best: list[Row] = []
    for r in sorted(rows, key=lambda r: (r.cost, -r.score)):
        if not best or r.score > best[-1].score:
            best.append(r)
    return tuple(best)


# ---- fitting ----------------------------------------------------------------------------------------------------------


def _sklearn(name: str) -> Any:
    try:
        from sklearn import ensemble, tree
    except ImportError:
        raise CompileError("Trees", "need scikit-learn, which is not installed", "pip install scikit-learn") from None
    return getattr(ensemble, name, None) or getattr(tree, name)


Grown = Callable[[int], RealModel]
"""The sums of the trees of the first so many rounds."""


def _own(options: Trees, kind: str, x: Floats, wanted: Floats, seed: int) -> Grown:
    """Each output with trees of its own."""
    common = {
        "max_iter": options.rounds, "max_depth": options.depth, "max_leaf_nodes": None, "learning_rate": options.rate,
        "min_samples_leaf": options.smallest, "early_stopping": False, "random_state": seed,
        "l2_regularization": options.damping * len(x),
    }  # fmt: skip
    if kind != "mse":
        labels = wanted.argmax(1) if wanted.shape[1] > 1 else (wanted[:, 0] > 0.5).astype(np.int64)
        if len(np.unique(labels)) < max(wanted.shape[1], 2):
            raise CompileError("Trees", "some class has no event in the training data", "use more events")
        fitted = _sklearn("HistGradientBoostingClassifier")(**common).fit(x, labels)
        seen = _of_two_classes if wanted.shape[1] == 2 else lambda model: model
        return lambda rounds: seen(read_sklearn(fitted, margin=True, rounds=rounds))
    parts = [_sklearn("HistGradientBoostingRegressor")(**common).fit(x, column) for column in wanted.T]
    return lambda rounds: _beside([read_sklearn(p, rounds=rounds) for p in parts], x.shape[1])


def _of_two_classes(model: RealModel) -> RealModel:
    """A margin as the second of two sums, the first being 0: their softmax is its logistic function."""
    return _with_leaves(model, lambda op: np.hstack([np.zeros_like(op.values), op.values]))


def _with_leaves(model: RealModel, change: Callable[[Forest], Floats]) -> RealModel:
    """The model with other values ``[nodes, outputs]`` of its trees."""
    builder = RealBuilder(model.name)
    for node in model.nodes:
        op = replace(node.op, values=change(node.op)) if isinstance(node.op, Forest) else node.op
        builder.add(op, *node.operands, name=node.name)
    return builder.model(list(model.outputs))


def _beside(models: list[RealModel], features: int) -> RealModel:
    """Forests of one output each as one model of all."""
    builder = RealBuilder("trees")
    x = builder.add(Input((features,)), name="x")
    found = [
        builder.add(node.op, x, name=f"trees_{k}")
        for k, m in enumerate(models)
        for node in m.nodes
        if isinstance(node.op, Forest)
    ]
    return builder.model([("y", found[0] if len(found) == 1 else builder.add(Concat(0), *found, name="outputs"))])


def _shared(options: Trees, kind: str, x: Floats, wanted: Floats, seed: int) -> Grown:
    """Trees with a value for every output in each leaf: gradient boosting (Friedman, 2001) with a Newton step in the leaves."""
    make = _sklearn("DecisionTreeRegressor")
    base = wanted.mean(0) if kind == "mse" else _logit(wanted)
    sums, trees = np.tile(base, (len(x), 1)), list[Tree]()
    for k in range(options.rounds):
        p = _probabilities(kind, sums)
        slope = wanted - p
        curve = np.ones_like(p) if kind == "mse" else np.maximum(p * (1 - p), 1e-3)
        tree = make(max_depth=options.depth, min_samples_leaf=options.smallest, random_state=seed + k).fit(x, slope)
        leaf = tree.apply(x.astype(np.float32))
        values = np.zeros((tree.tree_.node_count, wanted.shape[1]))
        for o in range(wanted.shape[1]):
            up, down = (np.bincount(leaf, v[:, o], minlength=len(values)) for v in (slope, curve))
            values[:, o] = options.rate * up / np.maximum(down + options.damping * len(x), 1e-9)
        t = tree.tree_
        left, right, features = (np.asarray(a, np.int64) for a in (t.children_left, t.children_right, t.feature))
        trees.append(Tree(features, np.asarray(t.threshold, np.float64), left, right, values))
        sums += values[leaf]
    return lambda rounds: tree_model("trees", x.shape[1], trees[:rounds], base, "identity")


def _logit(wanted: Floats) -> Floats:
    p = np.clip(wanted.mean(0), 1e-6, 1 - 1e-6)
    return np.log(p) - (np.log(p).mean() if len(p) > 1 else np.log(1 - p))


def _probabilities(kind: str, sums: Floats) -> Floats:
    if kind == "mse":
        return sums
    if kind == "bce":
        return 1 / (1 + np.exp(-sums))
    e = np.exp(sums - sums.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# ---- integers ---------------------------------------------------------------------------------------------------------

FINER = 8
"""Grids that are tried, each half as wide as the one before."""

JUDGES = 5_000
"""Events by which grids are chosen."""


def _grid(data: Floats, bits: int) -> Quant:
    """For each feature the grid of `bits` bits whose values tell most of it (entropy); what lies outside saturates.

    A tree asks for order alone, so that steps where events are many are worth more than a range that holds the few far ones.
    """
    negative = data.min(0) < 0
    lo = np.where(negative, -(1 << (bits - 1)), 0)
    hi = np.where(negative, (1 << (bits - 1)) - 1, (1 << bits) - 1)
    largest = np.abs(data).max(0)
    largest[largest == 0] = largest.max() or 1.0  # of a feature that is always 0 any does
    widest = np.ceil(np.log2(largest / hi)).astype(np.int64)
    tried = [Quant(np.ldexp(1.0, widest - k), np.zeros((), np.int64), lo, hi, Rounding.RND_CONV) for k in range(FINER)]
    told = np.array([[_entropy(column) for column in quantized(q, data[:JUDGES]).T] for q in tried])
    best = (told > told.max(0) - 1e-9).argmax(0)  # the widest of equal ones
    return replace(tried[0], scale=np.ldexp(1.0, widest - best))


def _entropy(values: Floats) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def _quantized(options: Trees, model: RealModel, grid: Quant, data: Floats, kind: str, wanted: Floats) -> RealModel:
    """The model behind the inputs' grid, with leaves on one of `leaf_bits`.

    A few leaves of nearly pure events are far larger than all others; a grid that holds them rounds the others away. The grid
    taken is that with the smallest loss among the one that does and finer ones, where what is too large saturates.
    """
    largest = max(float(np.abs(varying(n.op)).max()) for n in model.nodes if isinstance(n.op, Forest))
    integer = int(np.ceil(np.log2(max(largest, 2.0**-20) * (1 + 2.0 ** -(options.leaf_bits - 1))))) + 1
    typed = [_on_grid(model, Fixed.bits(options.leaf_bits, integer - k, True)) for k in range(FINER)]
    x, wanted = data[:JUDGES], wanted[:JUDGES]

    def loss(model: RealModel) -> float:
        return _loss(kind, evaluate_real(model, {"x": x})[model.outputs[0][1]].reshape(len(x), -1), wanted)

    return with_types(min(typed, key=loss), features=grid)


def _on_grid(model: RealModel, to: Fixed) -> RealModel:
    """The leaves of trees that compare something within the range of a type, and all rounded to it."""
    low, high = (float(np.ldexp(float(v), int(to.exp))) for v in (to.lo, to.hi))

    def cut(op: Forest) -> Floats:
        return np.where(alone(op)[:, None], op.values, np.clip(op.values, low, high))

    return with_types(_with_leaves(model, cut), scores=to.ap_fixed)


def _loss(kind: str, sums: Floats, wanted: Floats) -> float:
    """Of sums of leaves, by whatever was learned."""
    if kind == "mse":
        return float(np.square(sums - wanted).mean())
    p = np.clip(_probabilities(kind, sums), 1e-12, 1 - 1e-12)
    if p.shape[1] > 1 and kind == "cross_entropy":
        return float(-(wanted * np.log(p)).sum(1).mean())
    return float(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean())
