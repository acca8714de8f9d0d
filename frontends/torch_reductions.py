"""ATen operators along axes: sums, extremes, their places, moments, norms and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .onnx_context import Ref
from .real import Scale
from .torch_context import Call
from .torch_functions import truth
from .torch_layout import axis_of, dims_of

__all__ = ["REDUCTIONS"]

Reader = Callable[[Call], Any]


def _dims(c: Call, x: Ref, name: str = "dim") -> list[int]:
    """The axes to reduce; all of them if none is named, which the batch axis refuses."""
    found = c.plain(name)
    rank = c.rank(x)
    if found is None or found == []:
        if not c.single:
            raise c.error("without dim it would reduce the batch axis", "name the axes behind the first")
        return [k for k in range(rank) if k != x.batch]
    return dims_of(c, found, rank)


def _reduced(c: Call, kind: str, x: Ref, dims: Sequence[int], keep: bool, suffix: str = "") -> Ref:
    return c.read(kind, x, np.asarray(list(dims), np.int64), suffix=suffix, keepdims=int(keep))


def _reduce(kind: str) -> Reader:
    """A sum, mean or extreme."""

    def read(c: Call) -> Any:
        x = c.data()
        c.ignore("dtype")
        return c.placed(_reduced(c, kind, x, _dims(c, x), bool(c.plain("keepdim", False))))

    return read


def _logical(kind: str) -> Reader:
    """Any or all of truth values."""

    def read(c: Call) -> Any:
        x = c.data()
        return c.placed(_reduced(c, kind, truth(c), _dims(c, x), bool(c.plain("keepdim", False))))

    return read


def _extreme(kind: str, place: str) -> Reader:
    """(values, places) along one axis."""

    def read(c: Call) -> Any:
        x, keep = c.data(), bool(c.plain("keepdim", False))
        dim = axis_of(c, c.plain("dim"), c.rank(x))
        values = c.placed(_reduced(c, kind, x, [dim], keep, ".values"))
        return [values, c.placed(c.read(place, x, suffix=".indices", axis=dim, keepdims=int(keep)))]

    return read


def _place(kind: str) -> Reader:
    def read(c: Call) -> Any:
        x = c.data()
        if c.plain("dim") is None:
            raise c.error("without dim it would reduce the batch axis", "name the axis, such as dim=-1")
        dim = axis_of(c, c.plain("dim"), c.rank(x))
        return c.placed(c.read(kind, x, axis=dim, keepdims=int(bool(c.plain("keepdim", False)))))

    return read


def _top_k(c: Call) -> Any:
    c.ignore("sorted")
    k, largest = np.asarray([c.plain("k")]), int(c.plain("largest", True))
    return c.read("TopK", c.data(), k, axis=c.plain("dim", -1), largest=largest, outputs=2)


def _sort(c: Call) -> Any:
    """All of an axis in order; equal values keep theirs, as stable sorting does."""
    x = c.data()
    dim = axis_of(c, c.plain("dim", -1), c.rank(x))
    n = c.full_shape(x)[dim]
    c.ignore("stable")
    return c.read("TopK", x, np.asarray([n]), axis=dim, largest=int(bool(c.plain("descending", False))), outputs=2)


def _argsort(c: Call) -> Any:
    return _sort(c)[1]


def _count(c: Call, x: Ref, dims: Sequence[int]) -> int:
    full = c.full_shape(x)
    return math.prod(full[d] for d in dims)


def _variance(c: Call, x: Ref, dims: list[int], keep: bool, suffix: str) -> tuple[Ref, Ref]:
    """(variance, mean) with the correction that the call names: by default one element less."""
    correction = c.plain("correction", None)
    if correction is None:
        correction = int(bool(c.plain("unbiased", True)))
    mean = _reduced(c, "ReduceMean", x, dims, True, ".mean")
    centred = c.read("Sub", x, mean, suffix=".centred")
    total = _reduced(c, "ReduceSumSquare", centred, dims, keep, ".squares")
    divisor = _count(c, x, dims) - correction
    if divisor <= 0:
        raise c.error(f"needs more elements than the correction {correction}")
    return c.placed(c.add(Scale(np.asarray(float(divisor)), divide=True), total, suffix=suffix)), mean


def _var(root: bool) -> Reader:
    def read(c: Call) -> Any:
        x = c.data()
        found, _ = _variance(c, x, _dims(c, x), bool(c.plain("keepdim", False)), ".variance" if root else "")
        return c.read("Sqrt", found) if root else found

    return read


def _var_mean(c: Call) -> Any:
    x, keep = c.data(), bool(c.plain("keepdim", False))
    dims = _dims(c, x)
    variance, mean = _variance(c, x, dims, keep, ".variance")
    return [variance, mean if keep else c.placed(_reduced(c, "ReduceMean", x, dims, False, ".mean_flat"))]


def _vector_norm(c: Call) -> Any:
    x, order, keep = c.data(), c.plain("ord", 2), bool(c.plain("keepdim", False))
    return _norm(c, x, order, _dims(c, x), keep)


def _norm(c: Call, x: Ref, order: Any, dims: list[int], keep: bool) -> Any:
    c.ignore("dtype")
    if order in (1, 2):
        return c.placed(_reduced(c, f"ReduceL{int(order)}", x, dims, keep))
    if order in (math.inf, -math.inf):
        size = c.read("Abs", x, suffix=".abs")
        return c.placed(_reduced(c, "ReduceMax" if order > 0 else "ReduceMin", size, dims, keep))
    raise c.error(f"the order must be 1, 2, inf or -inf, not {order}")


def _p_norm(c: Call) -> Any:
    x, order = c.data(), c.plain("p", 2)
    return _norm(c, x, 2 if order is None else order, _dims(c, x), bool(c.plain("keepdim", False)))


def _softmax(log: bool) -> Reader:
    def read(c: Call) -> Any:
        c.ignore("dtype", "half_to_float")
        return c.read("LogSoftmax" if log else "Softmax", c.data(), axis=c.plain("dim"))

    return read


def _product(c: Call) -> Any:
    """The product along an axis, as a chain."""
    x, keep = c.data(), bool(c.plain("keepdim", False))
    c.ignore("dtype")
    dim = axis_of(c, c.plain("dim"), c.rank(x))
    n = c.full_shape(x)[dim]
    parts = c.read("Split", x, np.asarray([1] * n), suffix=".part", axis=dim, outputs=n)
    y = parts[0]
    for k, part in enumerate(parts[1:], 1):
        y = c.read("Mul", y, part, suffix=f".product{k}")
    return y if keep else c.placed(c.read("Squeeze", y, np.asarray([dim])))


def _one_hot(c: Call) -> Any:
    classes = c.plain("num_classes", -1)
    if classes < 1:
        raise c.error("num_classes must be given", "call one_hot(x, num_classes=n)")
    return c.read("OneHot", c.data(), np.asarray(classes), np.asarray([0.0, 1.0]), axis=-1)


REDUCTIONS: dict[str, Reader] = {
    "aten.sum.dim_IntList": _reduce("ReduceSum"),
    "aten.sum.default": _reduce("ReduceSum"),
    "aten.mean.dim": _reduce("ReduceMean"),
    "aten.mean.default": _reduce("ReduceMean"),
    "aten.amax.default": _reduce("ReduceMax"),
    "aten.amin.default": _reduce("ReduceMin"),
    "aten.max.default": _reduce("ReduceMax"),
    "aten.min.default": _reduce("ReduceMin"),
    "aten.any.dim": _logical("ReduceMax"),
    "aten.any.dims": _logical("ReduceMax"),
    "aten.all.dim": _logical("ReduceMin"),
    "aten.all.dims": _logical("ReduceMin"),
    "aten.prod.dim_int": _product,
    "aten.max.dim": _extreme("ReduceMax", "ArgMax"),
    "aten.min.dim": _extreme("ReduceMin", "ArgMin"),
    "aten.argmax.default": _place("ArgMax"),
    "aten.argmin.default": _place("ArgMin"),
    "aten.topk.default": _top_k,
    "aten.sort.default": _sort,
    "aten.sort.stable": _sort,
    "aten.argsort.default": _argsort,
    "aten.argsort.stable": _argsort,
    "aten.var.dim": _var(False),
    "aten.var.correction": _var(False),
    "aten.std.dim": _var(True),
    "aten.std.correction": _var(True),
    "aten.var_mean.dim": _var_mean,
    "aten.var_mean.correction": _var_mean,
    "aten.linalg_vector_norm.default": _vector_norm,
    "aten.norm.ScalarOpt_dim": _p_norm,
    "aten.logsumexp.default": _reduce("ReduceLogSumExp"),
    "aten.softmax.int": _softmax(False),
    "aten._softmax.default": _softmax(False),
    "aten.log_softmax.int": _softmax(True),
    "aten._log_softmax.default": _softmax(True),
    "aten.one_hot.default": _one_hot,
}
"""Every reduction and the function that reads it."""
