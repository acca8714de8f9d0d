"""Linear models of ONNX's machine-learning domain, as scikit-learn's converter writes them; trees are in `onnx_trees`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .onnx_context import Const, Context, Ref, Value
from .onnx_functions import reciprocal
from .onnx_reductions import reduced
from .onnx_trees import TREES
from .order import Order
from .real import Dense, Embedding, Function, Gather, Maximum, Mul, Offset, Reshape, Scale, Softmax

__all__ = ["MACHINE_LEARNING"]


def _list(c: Context, name: str) -> NDArray[np.float64]:
    return np.asarray(c.attribute(name, []), np.float64)


def _scaler(c: Context) -> Value:
    """(x - offset) * scale."""
    moved = c.add(Offset(-_list(c, "offset")), c.data(0), suffix=".offset")
    return c.add(Scale(_list(c, "scale")), moved.index)


def _linear(c: Context, rows: int) -> Ref:
    """x @ coefficients^T + intercepts, one row of coefficients for each result."""
    coefficients, intercepts = _list(c, "coefficients"), _list(c, "intercepts")
    shape = c.shape(c.operand(0))
    if len(shape) != 1 or coefficients.size != rows * shape[0]:
        raise c.error(f"{coefficients.size} coefficients do not fit {rows} results of inputs {list(shape)}")
    y = c.add(Dense(coefficients.reshape(rows, -1).T.copy()), c.data(0), suffix=".sums")
    return c.add(Offset(intercepts), y.index, suffix=".scores") if intercepts.size else y


def _transformed(c: Context, scores: Ref) -> Ref:
    kind = str(c.attribute("post_transform", "NONE"))
    if kind not in ("NONE", "LOGISTIC", "SOFTMAX"):
        raise c.error(f"post_transform must be NONE, LOGISTIC or SOFTMAX, not {kind}")
    if kind == "NONE":
        return scores
    return c.add(Function("sigmoid") if kind == "LOGISTIC" else Softmax((0,)), scores.index, suffix=".transformed")


def _regressor(c: Context) -> Value:
    return _transformed(c, _linear(c, int(c.attribute("targets", 1))))


def _classifier(c: Context) -> list[Value]:
    """The label of the largest score, and the scores."""
    labels = _list(c, "classlabels_ints")
    if c.attribute("classlabels_strings", None) is not None or labels.size < 2:
        raise c.error("class labels must be two or more integers", "train with integer labels")
    c.attribute("multi_class", 0)  # says how the scores were trained
    scores = _linear(c, labels.size)
    best = c.add(Reshape(()), Order(c.builder, c.name).extreme_place(scores.index, 0), suffix=".best")
    label = best if (labels == np.arange(labels.size)).all() else _looked_up(c, labels, best.index)
    return [label, _transformed(c, scores)]


def _looked_up(c: Context, labels: NDArray[np.float64], index: int) -> Ref:
    found = c.add(Embedding(labels.reshape(-1, 1)), index, suffix=".label")
    return c.add(Reshape(c.builder.nodes[index].shape), found.index, suffix=".labels")


def _normalizer(c: Context) -> Value:
    """x over its largest magnitude, its sum of magnitudes or its root of squares."""
    kind, x = str(c.attribute("norm", "MAX")), c.data(0)
    shape = c.shape(c.operand(0))
    if kind not in ("MAX", "L1", "L2"):
        raise c.error(f"norm must be MAX, L1 or L2, not {kind}")
    minus = c.add(Scale(np.asarray(-1.0)), x, suffix=".neg").index
    part = c.add(Mul(), x, x, suffix=".size") if kind == "L2" else c.add(Maximum(), x, minus, suffix=".size")
    axes = [len(shape) - 1]
    total = reduced(c, part.index, shape, axes, "max" if kind == "MAX" else "sum", True, ".norm").index
    inverse = c.add(Function("rsqrt"), total, suffix=".inverse") if kind == "L2" else reciprocal(c, total, ".inverse")
    return c.add(Mul(), x, inverse.index)


def _extractor(c: Context) -> Value:
    """Elements of the last axis by index: constants by data (labels by their place), or data by constants (columns)."""
    values, index = c.operand(0), c.operand(1)
    if isinstance(values, Const) and isinstance(index, Ref):
        flat = c.add(Reshape((1,)), index.index, suffix=".index")
        return c.placed(_looked_up(c, c.floats(0, "the values").reshape(-1), flat.index), 1)
    shape = c.shape(values)
    columns = c.constant(1, "the indices").values.reshape(-1).astype(np.int64)
    grid = np.arange(int(np.prod(shape))).reshape(shape)
    return c.add(Gather(np.ascontiguousarray(grid[..., columns])), c.data(0))


def _zip_map(c: Context) -> Value:
    """The same numbers: which class each is for is said by their order."""
    c.attribute("classlabels_int64s", None)
    c.attribute("classlabels_strings", None)
    return c.operand(0)


MACHINE_LEARNING: dict[str, Callable[[Context], Value | list[Value]]] = {
    "Scaler": _scaler,
    "LinearRegressor": _regressor,
    "LinearClassifier": _classifier,
    "Normalizer": _normalizer,
    "ArrayFeatureExtractor": _extractor,
    "ZipMap": _zip_map,
    **TREES,
}
"""Operators of the domain ai.onnx.ml."""
