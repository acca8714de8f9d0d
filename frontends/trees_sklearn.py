"""Reads live tree models of scikit-learn by their fitted attributes; scikit-learn is never imported, files never unpickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from .real import Float, RealModel
from .trees import Tree, tree_model

__all__ = ["is_sklearn", "read_sklearn"]


def is_sklearn(model: Any) -> bool:
    """An object of the package."""
    return str(type(model).__module__).split(".")[0] == "sklearn"


def read_sklearn(model: Any, margin: bool = False, rounds: int | None = None) -> RealModel:
    """A fitted decision tree, random forest, extra trees, gradient boosting or histogram gradient boosting model.

    The output is what `predict` of a regressor gives, and `predict_proba` of a classifier: one column per class, or that of
    the second class alone for boosting with two. With `margin`, the sums in front of sigmoid and softmax; with `rounds`, those of
    the first so many rounds of a boosted model. Raises `CompileError` for other models and for what is not understood.
    """
    kind = type(model).__name__
    if kind not in _READERS:
        raise CompileError(kind, "is not a supported model of scikit-learn", f"known: {', '.join(_READERS)}")
    try:
        trees, base, link = _READERS[kind](model)
        if rounds is not None and "Boosting" not in kind:
            raise CompileError(kind, "has no rounds of boosting to take the first of", "leave rounds out")
        trees = trees if rounds is None else trees[: rounds * len(base)]  # round by round one for each output
        return tree_model(kind, int(model.n_features_in_), trees, base, link, margin)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as e:
        rule = f"cannot be read ({type(e).__name__}: {e})"
        raise CompileError(kind, rule, "fit the model, with scikit-learn 1.0 or newer") from e


_Read = tuple[list[Tree], Float, str]


def _tree(estimator: Any, share: float = 1.0) -> Tree:
    """One tree: class probabilities of a classifier, values of a regressor, times `share`."""
    t = estimator.tree_
    values = np.asarray(t.value, np.float64)  # [nodes, outputs, classes]
    if hasattr(estimator, "classes_"):
        if values.shape[1] != 1:
            raise CompileError(
                type(estimator).__name__, "several outputs with classes are not supported", "train one each"
            )
        values = values[:, 0] / values[:, 0].sum(axis=1, keepdims=True)  # counts before version 1.3
    else:
        values = values[..., 0]
    left, right, features = (np.asarray(a, np.int64) for a in (t.children_left, t.children_right, t.feature))
    return Tree(features, np.asarray(t.threshold, np.float64), left, right, values * share)


def _single(model: Any) -> _Read:
    tree = _tree(model)
    return [tree], np.zeros(tree.values.shape[1]), "identity"


def _mean(model: Any) -> _Read:
    trees = [_tree(e, 1 / len(model.estimators_)) for e in model.estimators_]
    return trees, np.zeros(trees[0].values.shape[1]), "identity"


def _boosted(model: Any) -> _Read:
    stages = np.asarray(model.estimators_, object)
    outputs, base = stages.shape[1], np.zeros(stages.shape[1])
    trees = [_placed(_tree(stages[k, o], float(model.learning_rate)), o, outputs) for k, o in np.ndindex(stages.shape)]
    start, classes, exponential = model.init_, getattr(model, "classes_", None), model.loss == "exponential"
    if hasattr(start, "class_prior_"):
        p = np.clip(np.asarray(start.class_prior_, np.float64), np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
        base = np.log(p) - np.log(p).mean() if outputs > 1 else np.log(p[1:] / p[:1]) * (0.5 if exponential else 1.0)
    elif hasattr(start, "constant_"):
        base = np.asarray(start.constant_, np.float64).reshape(-1)
    elif not (isinstance(start, str) and start == "zero"):
        rule = f"init must be left open or 'zero', not {type(start).__name__}, whose predictions are no constant"
        raise CompileError(type(model).__name__, rule, "train with init=None")
    link = "identity" if classes is None else "softmax" if outputs > 1 else "sigmoid2" if exponential else "sigmoid"
    return trees, base, link


def _placed(tree: Tree, output: int, outputs: int) -> Tree:
    """A tree of one value as one that adds to one of several outputs."""
    values = np.zeros((len(tree.left), outputs))
    values[:, output] = tree.values[:, 0]
    return Tree(tree.features, tree.thresholds, tree.left, tree.right, values)


def _histogram(model: Any) -> _Read:
    outputs = len(model._predictors[0])
    trees = [_placed(_predictor(p), o, outputs) for stage in model._predictors for o, p in enumerate(stage)]
    base = np.broadcast_to(np.asarray(model._baseline_prediction, np.float64).reshape(-1), (outputs,))
    if hasattr(model, "classes_"):
        return trees, base, "softmax" if outputs > 1 else "sigmoid"
    return trees, base, "exp" if model.loss in ("poisson", "gamma") else "identity"


def _predictor(predictor: Any) -> Tree:
    nodes = predictor.nodes
    if nodes["is_categorical"].any():
        raise CompileError(
            "HistGradientBoosting", "categorical splits are not supported", "train with categorical_features=None"
        )
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, nodes[k].astype(np.int64)) for k in ("left", "right"))
    thresholds = np.where(leaf, 0.0, nodes["num_threshold"].astype(np.float64))
    features = np.where(leaf, 0, nodes["feature_idx"].astype(np.int64))
    return Tree(features, thresholds, left, right, nodes["value"].astype(np.float64)[:, None])


_READERS: dict[str, Callable[[Any], _Read]] = {
    "DecisionTreeClassifier": _single,
    "DecisionTreeRegressor": _single,
    "ExtraTreeClassifier": _single,
    "ExtraTreeRegressor": _single,
    "RandomForestClassifier": _mean,
    "RandomForestRegressor": _mean,
    "ExtraTreesClassifier": _mean,
    "ExtraTreesRegressor": _mean,
    "GradientBoostingClassifier": _boosted,
    "GradientBoostingRegressor": _boosted,
    "HistGradientBoostingClassifier": _histogram,
    "HistGradientBoostingRegressor": _histogram,
}
"""The models by class name, and how each is read."""
