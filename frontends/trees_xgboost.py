"""Reads models of XGBoost, from their JSON and UBJSON files (versions 1.6 to 3) or live; xgboost itself is not needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from .real import Float, RealModel
from .trees import Tree, tree_model
from .trees_files import parse_document, read_bytes

__all__ = ["is_xgboost", "read_xgboost"]


def _logit(p: Float) -> Float:
    return np.log(p / (1 - p))


def _same(p: Float) -> Float:
    return p


_OBJECTIVES: dict[str, tuple[str, Callable[[Float], Float]]] = {
    "binary:logistic": ("sigmoid", _logit),
    "reg:logistic": ("sigmoid", _logit),
    "binary:logitraw": ("identity", _logit),
    "multi:softprob": ("softmax", _same),
    "reg:squarederror": ("identity", _same),
    "reg:linear": ("identity", _same),
    "reg:squaredlogerror": ("identity", _same),
    "reg:pseudohubererror": ("identity", _same),
    "reg:absoluteerror": ("identity", _same),
    "reg:quantileerror": ("identity", _same),
    "rank:pairwise": ("identity", _same),
    "rank:ndcg": ("identity", _same),
    "rank:map": ("identity", _same),
    "count:poisson": ("exp", np.log),
    "reg:gamma": ("exp", np.log),
    "reg:tweedie": ("exp", np.log),
}
"""For each objective what `predict` makes of the sums, and what the trees start from, given the file's base score."""


def is_xgboost(source: Any) -> bool:
    """A UBJSON file, a JSON file that says so in its first bytes, or a live model of the package."""
    if not isinstance(source, str | Path):
        return str(type(source).__module__).split(".")[0] == "xgboost"
    if Path(source).suffix == ".json" and Path(source).is_file():
        with Path(source).open("rb") as file:
            return b'"learner"' in file.read(256)
    return Path(source).suffix == ".ubj"


def read_xgboost(source: Any, margin: bool = False) -> RealModel:
    """A model from a path, the bytes of a file, or a live Booster or scikit-learn wrapper.

    The output is what `predict` gives (for a classifier `predict_proba`, of the second class where there are two); with
    `margin`, the sums in front of sigmoid, softmax or exp. Raises `CompileError` for anything that is not understood.
    """
    if isinstance(source, str | Path):
        name, where, found = Path(source).stem, str(source), parse_document(read_bytes(source), str(source))
    else:
        if not isinstance(source, bytes):
            booster = source.get_booster() if hasattr(source, "get_booster") else source
            source = bytes(booster.save_raw("ubj"))
        name, where, found = "trees", "XGBoost model", parse_document(source, "XGBoost model")
    try:
        return _model(found, name, where, margin)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as e:
        what = f"lacks {e}" if isinstance(e, KeyError) else f"has parts that do not fit each other ({e})"
        raise CompileError(
            where, f"is no complete XGBoost model: it {what}", "save it again with xgboost 1.6 to 3"
        ) from e


def _model(found: dict[str, Any], name: str, where: str, margin: bool) -> RealModel:
    if not isinstance(found, dict) or "learner" not in found:
        raise CompileError(where, "holds no XGBoost model: there is no 'learner'", "check that this is the right file")
    learner = found["learner"]
    objective, booster = str(learner["objective"]["name"]), learner["gradient_booster"]
    if objective not in _OBJECTIVES and not (margin and objective in ("multi:softmax", "binary:hinge")):
        fix = (
            "use multi:softprob or margin=True" if objective == "multi:softmax" else f"known: {', '.join(_OBJECTIVES)}"
        )
        raise CompileError(where, f"objective '{objective}' is not supported", fix)
    link, started = _OBJECTIVES.get(objective, ("identity", _same))
    parameters = learner["learner_model_param"]
    outputs = max(int(parameters.get("num_class", 0)), int(parameters.get("num_target", 1)), 1)
    weights: Any = None
    if booster["name"] == "dart":
        weights, booster = np.asarray(booster["weight_drop"], np.float32), booster["gbtree"]
    elif booster["name"] != "gbtree":
        raise CompileError(where, f"booster '{booster['name']}' is not supported", "use gbtree or dart")
    trees, owners = booster["model"]["trees"], [int(k) for k in booster["model"]["tree_info"]]
    if len(trees) != len(owners) or (weights is not None and len(weights) != len(trees)):
        raise CompileError(
            where, f"says of {len(owners)} trees what they are for, but holds {len(trees)}", "save it again"
        )
    read = [
        _tree(t, owner, outputs, 1.0 if weights is None else weights[k], f"{where}: tree {k}")
        for k, (t, owner) in enumerate(zip(trees, owners))
    ]
    base = np.broadcast_to(started(_base_score(parameters["base_score"])), (outputs,)).astype(np.float32)
    return tree_model(name, int(parameters["num_feature"]), read, base.astype(np.float64), link, margin)


def _base_score(text: Any) -> Float:
    """A number, or since version 3.1 a list with one per output, in text."""
    parts = str(text).strip().removeprefix("[").removesuffix("]").split(",")
    return np.array([float(p) for p in parts], np.float32).astype(np.float64)


def _tree(t: dict[str, Any], owner: int, outputs: int, weight: Any, where: str) -> Tree:
    parameters = t["tree_param"]
    if int(parameters.get("size_leaf_vector", 1)) > 1:
        raise CompileError(
            where, "leaves with several values are not supported", "train with multi_strategy one_output_per_tree"
        )
    if np.any(_ints(t.get("split_type", []))):
        raise CompileError(
            where, "categorical splits are not supported", "encode categories as numbers before training"
        )
    if not 0 <= owner < outputs:
        raise CompileError(where, f"is for output {owner} of {outputs}", "the file is damaged")
    left, right, features = (_ints(t[k]) for k in ("left_children", "right_children", "split_indices"))
    conditions = np.asarray(t["split_conditions"], np.float32)
    values = np.zeros((len(left), outputs))
    values[:, owner] = conditions * np.float32(weight)
    return Tree(features, conditions.astype(np.float64), left, right, values, strict=True)


def _ints(values: Any) -> NDArray[np.int64]:
    return np.asarray(values, np.int64).reshape(-1)
