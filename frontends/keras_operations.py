"""Operations of Keras 3 that functional models hold as layers: what ``x + y``, ``x[:, 1:]`` and ``keras.ops.relu(x)`` make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keras_activations import ACTIVATIONS
from .keras_context import Layer
from .products import contracted
from .real import (
    Add,
    Clip,
    Concat,
    Float,
    Function,
    Gather,
    Maximum,
    Minimum,
    Mul,
    Offset,
    RealOp,
    Reduce,
    Reshape,
    Scale,
    Sub,
    Transpose,
)

__all__ = ["OPERATIONS", "is_operation", "read_operation"]


def is_operation(module: str) -> bool:
    """A layer of this module is an operation."""
    return module.startswith("keras.src.ops")


_PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Matmul", "Power"), ("x1", "x2")
    ),
    "Concatenate": ("xs", "axis"),
    "Einsum": (),
    "GetItem": ("x", "key"),
}
"""Names of an operation's arguments by position; x alone where nothing stands here."""


class _Call:
    """The arguments of one call: each is asked for, or refused by name."""

    def __init__(self, c: Layer) -> None:
        self.c = c
        names = _PARAMETERS.get(c.kind, ("x",))
        positional = c.positional if names else []
        if len(positional) > len(names) and names:
            raise c.error(f"takes {len(names)} arguments by position, not {len(positional)}")
        self.given: dict[str, Any] = {**c.call, **dict(zip(names, positional))}
        c.call.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """An argument of the call, or of the operation itself, where Keras keeps axes and limits."""
        found = self.given.pop(key, None)
        own = self.c.get(key)
        return own if found is None and own is not None else default if found is None else found

    def node(self, key: str = "x") -> int:
        found = self.given.pop(key, None)
        if not _is_node(found):
            raise self.c.error(f"'{key}' must be data, not {str(found)[:40]}")
        return found[1]

    def number(self, key: str, found: Any) -> Float:
        """A constant, as float32 holds it."""
        if isinstance(found, dict):  # a numpy array, as Keras stores it
            found = found.get("config", {}).get("value")
        try:
            values = np.asarray(found, np.float32).astype(np.float64)
        except (ValueError, TypeError):
            raise self.c.error(f"'{key}' must be numbers, not {str(found)[:40]}") from None
        if values.ndim > 0:
            raise self.c.error(f"'{key}' must be data or one number, not an array", "use a layer with weights")
        if not np.isfinite(values).all():
            raise self.c.error(f"'{key}' must be finite")
        return values

    def finish(self) -> None:
        unknown = sorted(k for k, v in self.given.items() if v is not None)
        if unknown:
            raise self.c.error(f"the argument '{unknown[0]}' is not supported", "call the operation without it")

    def axes(self, rank: int, default: Any = None) -> list[int]:
        found = self.get("axis", default)
        if found is None:
            raise self.c.error("axis must be given: over all axes it would mix events", "name the axes")
        return sorted({self.c.axis(a, rank) for a in (found if isinstance(found, list | tuple) else [found])})


def _is_node(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[0] == "node"


def _pair(op: RealOp, constant: Callable[[Layer, int, Float, bool], int]) -> Callable[[Layer, _Call], int]:
    """Two data values, or one and a number; `constant` gets (layer, data, number, whether the number comes first)."""

    def read(c: Layer, call: _Call) -> int:
        a, b = call.given.pop("x1", None), call.given.pop("x2", None)
        if _is_node(a) and _is_node(b):
            return c.add(op, a[1], b[1])
        if not _is_node(a) and not _is_node(b):
            raise c.error("one operand at least must be data")
        value = call.number("x1", a) if _is_node(b) else call.number("x2", b)
        return constant(c, b[1] if _is_node(b) else a[1], value, _is_node(b))

    return read


def _minus(c: Layer, x: int, value: Float, first: bool) -> int:
    if not first:
        return c.add(Offset(-value), x)
    return c.add(Offset(value), c.add(Scale(np.asarray(-1.0)), x, suffix=".neg"))


def _quotient(c: Layer, x: int, value: Float, first: bool) -> int:
    if not first:
        return c.add(Scale(value, divide=True), x)
    return c.add(Scale(value), c.add(Function("reciprocal"), x, suffix=".reciprocal"))


def _divided(c: Layer, call: _Call) -> int:
    if _is_node(call.given.get("x1")) and _is_node(call.given.get("x2")):
        a, b = call.node("x1"), call.node("x2")
        return c.add(Mul(), a, c.add(Function("reciprocal"), b, suffix=".reciprocal"))
    return _pair(Mul(), _quotient)(c, call)


def _limit(op: RealOp, low: bool) -> Callable[[Layer, _Call], int]:
    def constant(c: Layer, x: int, value: Float, first: bool) -> int:
        limit = float(value)
        return c.add(Clip(limit, None) if low else Clip(None, limit), x)

    return _pair(op, constant)


def _clipped(c: Layer, call: _Call) -> int:
    x = call.node()
    low, high = (float(call.number(k, call.get(k))) for k in ("x_min", "x_max"))
    if low > high:
        raise c.error(f"x_min {low:g} must not be above x_max {high:g}")
    return c.add(Clip(low, high), x)


def _unary(make: Callable[[Layer, int], int]) -> Callable[[Layer, _Call], int]:
    return lambda c, call: make(c, call.node())


def _absolute(c: Layer, x: int) -> int:
    return c.add(Maximum(), x, c.add(Scale(np.asarray(-1.0)), x, suffix=".neg"))


def _function(name: str) -> Callable[[Layer, _Call], int]:
    return _unary(lambda c, x: c.add(Function(name), x))


def _activation(name: str) -> Callable[[Layer, _Call], int]:
    return _unary(lambda c, x: ACTIVATIONS[name](c, x, ""))


def _soft_maximum(c: Layer, call: _Call) -> int:
    x = call.node()
    if call.get("axis", -1) not in (-1, len(c.shape(x))):
        raise c.error("axis must be the last", "use the layer Softmax")
    return ACTIVATIONS["softmax"](c, x, "")


def _reduced(kind: str) -> Callable[[Layer, _Call], int]:
    """Sum, maximum or mean over axes."""

    def read(c: Layer, call: _Call) -> int:
        x = call.node()
        shape, keep = c.shape(x), bool(call.get("keepdims", False))
        axes = call.axes(len(shape))
        c.must_be("initial", None)
        for axis in axes:
            x = c.add(Reduce("sum" if kind == "mean" else kind, axis), x, suffix=f".{kind}{axis}")
        if kind == "mean":
            x = c.add(Scale(np.asarray(float(math.prod(shape[k] for k in axes))), divide=True), x, suffix=".mean")
        return c.add(Reshape(tuple(n for k, n in enumerate(c.shape(x)) if keep or k not in axes)), x)

    return read


def _reshaped(c: Layer, call: _Call) -> int:
    x, shape = call.node(), call.get("newshape")
    if not isinstance(shape, list | tuple) or len(shape) < 2 or shape[0] not in (-1, None):
        raise c.error(f"newshape must be [-1, ...]: the batch axis stays, not {shape!r}", "use the layer Reshape")
    size, known = math.prod(c.shape(x)), math.prod(n for n in shape[1:] if n != -1)
    rest = [size // max(known, 1) if n == -1 else n for n in shape[1:]]
    if not all(isinstance(n, int) and n > 0 for n in rest) or math.prod(rest) != size:
        raise c.error(f"{size} elements cannot become {list(shape)}")
    return c.add(Reshape(tuple(rest)), x)


def _transposed(c: Layer, call: _Call) -> int:
    x, axes = call.node(), call.get("axes")
    rank = len(c.shape(x))
    if not isinstance(axes, list | tuple) or sorted(axes) != list(range(rank + 1)) or axes[0] != 0:
        raise c.error(f"axes must be an order of 0 to {rank} that begins with 0, not {axes!r}")
    return c.add(Transpose(tuple(a - 1 for a in axes[1:])), x)


def _expanded(c: Layer, call: _Call) -> int:
    x, axis = call.node(), call.get("axis")
    shape = list(c.shape(x))
    place = c.axis(axis, len(shape) + 1)
    shape.insert(place, 1)
    return c.add(Reshape(tuple(shape)), x)


def _squeezed(c: Layer, call: _Call) -> int:
    x = call.node()
    shape = c.shape(x)
    axes = call.axes(len(shape))
    if any(shape[k] != 1 for k in axes):
        raise c.error(f"the axes must have length 1 in {list(shape)}")
    return c.add(Reshape(tuple(n for k, n in enumerate(shape) if k not in axes)), x)


def _concatenated(c: Layer, call: _Call) -> int:
    parts = call.given.pop("xs", None)
    if not isinstance(parts, list) or not parts or not all(_is_node(p) for p in parts):
        raise c.error("must join a list of data")
    return c.add(Concat(c.axis(call.get("axis", -1), len(c.shape(parts[0][1])))), *(p[1] for p in parts))


def _item(c: Layer, call: _Call) -> int:
    """Slices and numbers in brackets; the batch axis must be taken whole."""
    x, key = call.node(), call.get("key")
    keys = [_subscript(c, k) for k in (key if isinstance(key, list | tuple) else [key])]
    if not keys or keys[0] not in (slice(None), Ellipsis):
        raise c.error("the batch axis must be taken whole, as in x[:, 1:]")
    shape = c.shape(x)
    index: NDArray[np.int64] = np.arange(math.prod(shape)).reshape(shape)
    if keys[0] is Ellipsis and len([k for k in keys[1:] if k is not None]) > len(shape):
        raise c.error("the batch axis must be taken whole, as in x[:, 1:]")
    chosen = index[tuple(keys if keys[0] is Ellipsis else keys[1:])]
    if chosen.size == 0:
        raise c.error(f"takes nothing of shape {list(shape)}")
    return c.add(Gather(np.array(chosen)), x)


def _subscript(c: Layer, key: Any) -> Any:
    if key is None or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    kind, parts = (key.get("class_name"), key.get("config")) if isinstance(key, dict) else (None, None)
    if kind == "__slice__" and isinstance(parts, dict):
        return slice(*(parts.get(k) for k in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return Ellipsis
    raise c.error(f"the subscript {str(key)[:60]} is not supported", "use numbers and slices")


def _multiplied(c: Layer, call: _Call) -> int:
    a, b = call.node("x1"), call.node("x2")
    shapes = c.shape(a), c.shape(b)
    if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2 or shapes[0][:-2] != shapes[1][:-2]:
        raise c.error(f"the operands must be matrices of equal outer axes, not {list(shapes[0])} and {list(shapes[1])}")
    outer = "abcdef"[: len(shapes[0]) - 2]
    return contracted(c.add, a, b, f"{outer}xy,{outer}yz->{outer}xz", shapes)


OPERATIONS: dict[str, Callable[[Layer, _Call], int]] = {
    "Add": _pair(Add(), lambda c, x, value, first: c.add(Offset(value), x)),
    "Subtract": _pair(Sub(), _minus),
    "Multiply": _pair(Mul(), lambda c, x, value, first: c.add(Scale(value), x)),
    "Divide": _divided,
    "TrueDivide": _divided,
    "Maximum": _limit(Maximum(), True),
    "Minimum": _limit(Minimum(), False),
    "Clip": _clipped,
    "Negative": _unary(lambda c, x: c.add(Scale(np.asarray(-1.0)), x)),
    "Absolute": _unary(_absolute),
    "Abs": _unary(_absolute),
    "Square": _unary(lambda c, x: c.add(Mul(), x, x)),
    **{
        name.capitalize(): _function(name)
        for name in ("exp", "expm1", "log", "log1p", "log2", "sqrt", "tanh", "sin", "cos", "rsqrt")
    },
    "Reciprocal": _function("reciprocal"),
    "Erf": _function("erf"),
    "Relu": _activation("relu"),
    "Relu6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Silu": _activation("silu"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "Softmax": _soft_maximum,
    "Sum": _reduced("sum"),
    "Max": _reduced("max"),
    "Mean": _reduced("mean"),
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "ExpandDims": _expanded,
    "Squeeze": _squeezed,
    "Concatenate": _concatenated,
    "GetItem": _item,
    "Matmul": _multiplied,
}
"""Every operation that is read."""


def read_operation(c: Layer) -> int:
    """An operation on data and numbers. Raises `CompileError` for others and for what their arguments ask."""
    if c.kind not in OPERATIONS:
        raise c.error("the operation is not supported", f"supported: {', '.join(sorted(OPERATIONS))}")
    call = _Call(c)
    found = OPERATIONS[c.kind](c, call)
    call.finish()
    return found
