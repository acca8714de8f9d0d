"""What each numpy function does to traced values: a line each; what is not here is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.rounding import Rounding
from .real import Concat, Dense, Embedding, Function, Maximum, Minimum
from .traced import Value, is_value, whole
from .traced_errors import error

__all__ = ["FUNCTIONS", "UFUNCS", "call_function", "call_ufunc", "take"]


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A ufunc on values, or its ``reduce`` and ``outer``."""
    rule = UFUNCS.get(ufunc)
    given = {k: v for k, v in options.items() if k not in ("dtype", "casting", "order", "subok") and v is not None}
    if rule is None or "out" in given or (given and method == "__call__"):
        raise _unknown(f"np.{ufunc.__name__}" + (f"({next(iter(given))}=)" if given and rule else ""))
    if method == "__call__":
        return rule(*_values(inputs))
    reduction = _REDUCTIONS.get(ufunc)
    if method == "reduce" and reduction is not None:
        (x,) = inputs
        return reduction(x, given.pop("axis", 0), given.pop("keepdims", False))
    if method == "outer" and len(inputs) == 2:
        a, b = _values(inputs)
        return rule(a.chosen(a.places.reshape((*a.shape, *(1,) * b.ndim))), b)
    raise _unknown(f"np.{ufunc.__name__}.{method}")


def call_function(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A numpy function on values."""
    name = f"np.{function.__name__}"
    if options.get("out") is not None:
        raise error(name, "out= is not supported", "assign the result")
    if function in LAYOUTS:
        x, *rest = args
        return x.chosen(function(x.places, *rest, **options))
    if function in JOINS:
        return _joined(function, args, options)
    if function in SPLITS:
        x, *rest = args
        return [x.chosen(part) for part in function(x.places, *rest, **options)]
    rule = FUNCTIONS.get(function)
    if rule is None:
        raise _unknown(name)
    try:
        return rule(*args, **options)
    except TypeError as e:
        raise error(name, f"takes other arguments here ({e})") from None


def _unknown(name: str) -> Exception:
    known = sorted({f"np.{f.__name__}" for table in (UFUNCS, FUNCTIONS, LAYOUTS, JOINS, SPLITS) for f in table})
    return error(name, "is not supported in a traced function", f"supported: {', '.join(known)}")


def _values(inputs: tuple[Any, ...]) -> list[Any]:
    """The operands, the first of them a value: a constant in front is made one."""
    if is_value(inputs[0]):
        return list(inputs)
    like = next(v for v in inputs if is_value(v))
    return [like.lifted(inputs[0]), *inputs[1:]]


def _joined(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Value:
    """The elements of all parts in one row, and numpy's own arrangement of their places."""
    parts, *rest = args
    like = next(v for v in _leaves(parts) if is_value(v))
    values: list[Value] = []

    def place(part: Any) -> Any:
        if isinstance(part, list | tuple) and any(is_value(v) for v in _leaves(part)) and function is np.block:
            return [place(p) for p in part]
        grouped = isinstance(part, list | tuple) and any(map(is_value, part))
        value: Any = np.stack(part) if grouped else like.lifted(part)
        values.append(value)
        return value.places + sum(v.size for v in values[:-1])

    arranged = function([place(p) for p in parts], *rest, **options)
    first, *others = [v.chosen(v.places.reshape(-1)) for v in values]
    row = first.add_op(Concat(0), *others) if others else first
    return row.chosen(arranged)


def _leaves(parts: Any) -> list[Any]:
    return [leaf for p in parts for leaf in (_leaves(p) if isinstance(p, list | tuple) else [p])]


def _table(name: str, *parameters: float) -> Callable[[Value], Value]:
    return lambda x: x.add_op(Function(name, parameters), kind="real")


def _floor(x: Value) -> Value:
    return x if x.kind != "real" else x.add_op(whole(Rounding.TRN), label="floor")


def _truncated(x: Value) -> Value:
    return x if x.kind != "real" else x.add_op(whole(Rounding.TRN_ZERO), label="trunc")


def _extreme(op: type[Maximum] | type[Minimum]) -> Callable[[Value, Any], Value]:
    def rule(x: Value, y: Any) -> Value:
        if not is_value(y) and np.ndim(y) == 0:
            return x.clip(y, None) if op is Maximum else x.clip(None, y)
        return x.add_op(op(), x.lifted(y))

    return rule


def _true(x: Any) -> Any:
    return x.astype(bool) if is_value(x) else np.asarray(x, bool)


def _sign(x: Value) -> Value:
    return (x > 0).astype(int) - (x < 0).astype(int)


def _where(condition: Any, *choices: Any) -> Value:
    if len(choices) != 2:
        raise error("np.where", "needs both choices: places of true elements are not known", "np.where(c, a, b)")
    if not is_value(condition):
        like = next(v for v in choices if is_value(v))
        condition = like.lifted(np.asarray(condition, bool))
    return condition.select(*choices)


def _select(conditions: Any, choices: Any, default: Any = 0) -> Value:
    found = default
    for c, choice in reversed(list(zip(conditions, choices))):
        found = _where(c, choice, found)
    return found


def take(x: Any, index: Any, axis: Any = None, mode: str = "raise") -> Value:
    """Elements at constant places; rows of a constant table at traced ones; traced rows at traced places, by comparisons."""
    if not is_value(index):
        return x.chosen(np.take(x.places, index, axis=axis))
    if not is_value(x):
        table = np.asarray(x, np.float64)
        if axis not in (None, 0) and np.ndim(x) > 1:
            table = np.moveaxis(table, axis, 0)
        table = table.reshape(-1) if axis is None else table
        found = index.add_op(Embedding(table.reshape(len(table), -1)), kind=index.lifted(x).kind)
        return found.reshape(*index.shape, *table.shape[1:])
    source = x.ravel() if axis is None else x.chosen(np.moveaxis(x.places, axis, 0))
    if index.ndim:
        return np.stack([take(source, i, 0) for i in index])  # type: ignore[return-value]
    found = source[0]
    for k in range(1, len(source)):
        found = (index == k).select(source[k], found)
    return found


def _take_along(x: Value, index: Any, axis: Any) -> Value:
    if not is_value(index):
        return x.chosen(np.take_along_axis(x.places, index, axis))
    at = range(x.ndim)[axis]
    rows = x.chosen(np.moveaxis(x.places, at, -1))
    places = index.chosen(np.moveaxis(index.places, at, -1))
    columns = [rows.chosen(np.broadcast_to(rows.places[..., k : k + 1], places.shape)) for k in range(rows.shape[-1])]
    found = columns[0]
    for k, column in enumerate(columns[1:], 1):
        found = (places == k).select(column, found)
    return found.chosen(np.moveaxis(found.places, -1, at))


def _einsum(equation: str, *operands: Any, **options: Any) -> Value:
    """Of one or two operands; a constant one becomes a matrix over all elements of the other."""
    spaced = equation.replace(" ", "")
    left, arrow, out = spaced.partition("->")
    if not arrow or "." in spaced or len(operands) > 2:
        raise error("np.einsum", f"takes one or two operands and an explicit '->', not '{equation}'")
    if len(operands) == 2 and all(map(is_value, operands)):
        return operands[0].einsum(spaced, operands[1])
    value = next(v for v in operands if is_value(v))
    eye = np.eye(value.size).reshape(value.size, *value.shape)
    new = next(c for c in "abcdefghijklmnopqrstuvwxyz" if c not in spaced)
    terms = [new + t if is_value(v) else t for t, v in zip(left.split(","), operands)]
    matrix = np.einsum(f"{','.join(terms)}->{new}{out}", *(eye if is_value(v) else v for v in operands))
    kinds = [value.lifted(v).kind for v in operands]
    y = value.ravel().add_op(Dense(matrix.reshape(value.size, -1)), kind="real" if "real" in kinds else "int")
    return y.reshape(matrix.shape[1:])


def _matmul(a: Any, b: Any) -> Value:
    return a @ b if is_value(a) else b.__rmatmul__(a)


def _dot(a: Any, b: Any) -> Value:
    return a * b if not np.ndim(a) or not np.ndim(b) else _matmul(a, b)


def _outer(a: Any, b: Any) -> Value:
    a, b = (v.ravel() if is_value(v) else np.ravel(v) for v in (a, b))
    return a[:, None] * b[None, :]


def _inner(a: Any, b: Any) -> Value:
    return _matmul(a, b.T if np.ndim(b) > 1 else b)


def _diff(x: Value, n: int = 1, axis: int = -1) -> Value:
    for _ in range(n):
        at = np.moveaxis(x.places, axis, -1)
        x = x.chosen(np.moveaxis(at[..., 1:], -1, axis)) - x.chosen(np.moveaxis(at[..., :-1], -1, axis))
    return x


def _variance(x: Value, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Value:
    """The mean of the squares minus the square of the mean, times n and n**2 so that nothing is divided before the end."""
    total, squares = x.sum(axis, keepdims=keepdims), (x * x).sum(axis, keepdims=keepdims)
    n = x.size // total.size
    return (squares * n - total * total) / (n * (n - ddof))


def _digitize(x: Value, bins: Any, right: bool = False) -> Value:
    edges = np.asarray(bins, np.float64)
    if edges.ndim != 1 or np.any(np.diff(edges) < 0):
        raise error("np.digitize", "bins must rise", "sort them")
    return _searched(edges, x, "left" if right else "right")


def _searched(edges: Any, x: Value, side: str = "left", sorter: Any = None) -> Value:
    """How many edges are below x (or not above it)."""
    if is_value(edges) or not is_value(x) or sorter is not None:
        raise error("np.searchsorted", "needs constant sorted edges and traced values")
    spread, at = x.chosen(x.places[..., None]), np.asarray(edges, np.float64)
    return ((spread > at) if side == "left" else (spread >= at)).sum(-1)


def _pad(x: Value, width: Any, mode: str = "constant", constant_values: Any = 0) -> Value:
    if mode != "constant":
        return x.chosen(np.pad(x.places, width, mode))  # type: ignore[call-overload]
    index = np.pad(x.places, width, constant_values=-1)
    y = x.chosen(index)
    if not np.any(np.asarray(constant_values)):
        return y
    fill = np.pad(np.zeros(x.shape), width, constant_values=constant_values)
    return y + np.where(index < 0, fill, 0.0).astype(np.asarray(constant_values).dtype)


def _like(value: float | None) -> Callable[..., Value]:
    def made(x: Value, fill: Any = value, dtype: Any = None, **options: Any) -> Value:
        kind = np.dtype(dtype) if dtype is not None else x.dtype
        return x.lifted(np.full(options.get("shape") or x.shape, fill, kind))

    return made


def _rounded(x: Value, decimals: int = 0) -> Value:
    return x.round(decimals)


def _norm(x: Value, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Value:
    if ord in (1, np.inf):
        return abs(x).sum(axis, keepdims=keepdims) if ord == 1 else abs(x).max(axis, None, keepdims)
    if ord not in (None, 2, "fro"):
        raise error("np.linalg.norm", f"ord must be 1, 2 or inf, not {ord!r}")
    return (x * x).sum(axis, keepdims=keepdims) ** 0.5


UFUNCS: dict[Any, Callable[..., Value]] = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.divide: lambda a, b: a / b,
    np.floor_divide: lambda a, b: a // b,
    np.remainder: lambda a, b: a % b,
    np.power: lambda a, b: a**b,
    np.float_power: lambda a, b: a**b,
    np.matmul: _matmul,
    np.negative: lambda a: -a,
    np.positive: lambda a: a,
    np.absolute: Value.__abs__,
    np.fabs: Value.__abs__,
    np.sign: _sign,
    np.square: lambda a: a * a,
    np.reciprocal: lambda a: 1 / a,
    np.maximum: _extreme(Maximum),
    np.minimum: _extreme(Minimum),
    np.fmax: _extreme(Maximum),
    np.fmin: _extreme(Minimum),
    np.less: lambda a, b: a < b,
    np.less_equal: lambda a, b: a <= b,
    np.greater: lambda a, b: a > b,
    np.greater_equal: lambda a, b: a >= b,
    np.equal: lambda a, b: a == b,
    np.not_equal: lambda a, b: a != b,
    np.logical_and: lambda a, b: _true(a) & _true(b),
    np.logical_or: lambda a, b: _true(a) | _true(b),
    np.logical_xor: lambda a, b: _true(a) ^ _true(b),
    np.logical_not: lambda a: ~_true(a),
    np.bitwise_and: lambda a, b: a & b,
    np.bitwise_or: lambda a, b: a | b,
    np.bitwise_xor: lambda a, b: a ^ b,
    np.invert: lambda a: ~a,
    np.left_shift: lambda a, b: a << b,
    np.right_shift: lambda a, b: a >> b,
    np.floor: _floor,
    np.ceil: lambda a: -_floor(-a),
    np.trunc: _truncated,
    np.rint: lambda a: a.round(),
    np.heaviside: lambda a, b: (a > 0).select(1, (a == 0).select(b, 0)),
    np.hypot: lambda a, b: (a * a + b * b) ** 0.5,
    np.sqrt: _table("sqrt"),
    **{f: _table(f.__name__) for f in (np.cbrt, np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p)},
    **{f: _table(f.__name__) for f in (np.tanh, np.sinh, np.cosh, np.sin, np.cos, np.tan)},
    np.arcsin: _table("asin"),
    np.arccos: _table("acos"),
    np.arctan: _table("atan"),
    np.arcsinh: _table("asinh"),
    np.arccosh: _table("acosh"),
    np.arctanh: _table("atanh"),
    np.deg2rad: lambda a: a * (np.pi / 180),
    np.radians: lambda a: a * (np.pi / 180),
    np.rad2deg: lambda a: a * (180 / np.pi),
    np.degrees: lambda a: a * (180 / np.pi),
}
"""Elementwise functions; the first operand is a traced value."""

_REDUCTIONS: dict[Any, Callable[[Value, Any, bool], Value]] = {
    np.add: lambda x, axis, keep: x.sum(axis, keepdims=keep),
    np.multiply: lambda x, axis, keep: x.prod(axis, keepdims=keep),
    np.maximum: lambda x, axis, keep: x.max(axis, None, keep),
    np.minimum: lambda x, axis, keep: x.min(axis, None, keep),
    np.logical_and: lambda x, axis, keep: x.all(axis, None, keep),
    np.logical_or: lambda x, axis, keep: x.any(axis, None, keep),
}

LAYOUTS = frozenset((
    np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.squeeze, np.expand_dims, np.flip, np.fliplr,
    np.flipud, np.roll, np.rot90, np.repeat, np.tile, np.broadcast_to, np.diagonal, np.atleast_1d, np.atleast_2d, np.atleast_3d,
    np.delete, np.resize, np.copy,
))  # fmt: skip
"""Functions that only move elements: numpy applies them to the places."""

JOINS = frozenset((np.concatenate, np.stack, np.hstack, np.vstack, np.dstack, np.column_stack, np.block))
SPLITS = frozenset((np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit))

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.sum: lambda a, axis=None, dtype=None, keepdims=False: a.sum(axis, keepdims=keepdims),
    np.prod: lambda a, axis=None, dtype=None, keepdims=False: a.prod(axis, keepdims=keepdims),
    np.mean: lambda a, axis=None, dtype=None, keepdims=False: a.mean(axis, keepdims=keepdims),
    np.average: lambda a, axis=None, weights=None: (
        a.mean(axis) if weights is None else (a * np.asarray(weights)).sum(axis) / np.sum(weights)
    ),
    np.max: lambda a, axis=None, keepdims=False: a.max(axis, None, keepdims),
    np.min: lambda a, axis=None, keepdims=False: a.min(axis, None, keepdims),
    np.ptp: lambda a, axis=None: a.max(axis) - a.min(axis),
    np.any: lambda a, axis=None, keepdims=False: a.any(axis, None, keepdims),
    np.all: lambda a, axis=None, keepdims=False: a.all(axis, None, keepdims),
    np.count_nonzero: lambda a, axis=None, keepdims=False: _true(a).sum(axis, keepdims=keepdims),
    np.var: _variance,
    np.std: lambda a, axis=None, ddof=0, keepdims=False: _variance(a, axis, ddof, keepdims) ** 0.5,
    np.cumsum: lambda a, axis=None, dtype=None: a.cumsum(axis),
    np.argmax: lambda a, axis=None, keepdims=False: a.argmax(axis, None, keepdims),
    np.argmin: lambda a, axis=None, keepdims=False: a.argmin(axis, None, keepdims),
    np.sort: lambda a, axis=-1, kind=None, stable=None: a.ranked(axis)[0],
    np.argsort: lambda a, axis=-1, kind=None, stable=None: a.ranked(axis)[1],
    np.partition: lambda a, kth, axis=-1: a.ranked(axis)[0],
    np.median: lambda a, axis=None: _median(a, axis),
    np.where: _where,
    np.select: _select,
    np.clip: lambda a, a_min=None, a_max=None, min=None, max=None: a.clip(
        a_min if min is None else min, a_max if max is None else max
    ),
    np.take: take,
    np.take_along_axis: _take_along,
    np.dot: _dot,
    np.vdot: lambda a, b: _dot(a.ravel(), b.ravel()),
    np.inner: _inner,
    np.outer: _outer,
    np.einsum: _einsum,
    np.trace: lambda a: a.chosen(np.diagonal(a.places)).sum(-1),
    np.diff: _diff,
    np.ediff1d: lambda a: _diff(a.ravel()),
    np.digitize: _digitize,
    np.searchsorted: _searched,
    np.pad: _pad,
    np.round: _rounded,
    np.fix: _truncated,
    np.zeros_like: _like(0),
    np.ones_like: _like(1),
    np.full_like: _like(None),
    np.linalg.norm: _norm,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
    np.may_share_memory: lambda a, b: False,
}
"""Functions of whole arrays."""


def _median(x: Value, axis: Any) -> Value:
    ordered = x.ranked(axis)[0]
    at = 0 if axis is None else range(x.ndim)[axis]
    n = ordered.shape[at]
    middle = [ordered.chosen(np.take(ordered.places, k, axis=at)) for k in {(n - 1) // 2: 0, n // 2: 0}]
    return middle[0] if len(middle) == 1 else (middle[0] + middle[1]) / 2
