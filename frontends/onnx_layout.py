"""Layout and housekeeping operators of ONNX: reshape, transpose, concat, constant, cast; they move values and change none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .onnx_context import Const, Context, Value
from .real import (
    Concat,
    Reshape,
    Transpose,
)

__all__ = ["LAYOUT"]


def _resolved(c: Context, wanted: Sequence[int], size: int, batched: bool) -> tuple[int, ...]:
    """A reshape target without the batch axis."""
    target = [int(n) for n in wanted]
    if batched:
        if not target:
            raise c.error("cannot drop the batch axis")
        rest = target[1:]
        known = math.prod(n for n in rest if n != -1)
        whole = -1 not in rest and known == size  # then the first axis can only be the batch, whatever its number
        if not (whole or target[0] in (-1, 0, 1)) or (target.count(-1) > 1 and target[0] != -1):
            raise c.error(f"the target {target} must keep the batch axis in front")
        if -1 not in rest:
            return tuple(rest)
        if not known or size % known:
            raise c.error(f"{size} values cannot take the shape {target}")
        return tuple(size // known if n == -1 else n for n in rest)
    return tuple(target)


def _reshape(c: Context) -> Value:
    allow_zero = c.attribute("allowzero", 0)
    wanted = [int(n) for n in c.constant(1, "the shape").values.reshape(-1)]
    x = c.operand(0)
    if isinstance(x, Const):
        return Const(
            x.values.reshape([x.values.shape[k] if n == 0 and not allow_zero else n for k, n in enumerate(wanted)])
        )
    shape = c.shape(x)
    if not allow_zero:
        wanted = wanted[:1] + [shape[k] if n == 0 and k < len(shape) else n for k, n in enumerate(wanted[1:])]
    return c.add(Reshape(_resolved(c, wanted, math.prod(shape), True)), x.index)


def _shape_of(c: Context) -> Value:
    """The shape as a constant, with -1 for the batch axis, as a reshape wants it back."""
    x = c.operand(0)
    full = x.values.shape if isinstance(x, Const) else (-1, *c.shape(x))
    return Const(np.array(full[c.attribute("start", 0) : c.attribute("end", None)], np.int64))


def _flatten(c: Context) -> Value:
    axis = c.attribute("axis", 1)
    shape = c.shape(c.operand(0))
    if axis % (len(shape) + 1) != 1 and not (axis == 1):
        raise c.error(f"axis must be 1, which keeps the batch axis, not {axis}")
    return c.add(Reshape((math.prod(shape),)), c.data(0))


def _transpose(c: Context) -> Value:
    x = c.operand(0)
    rank = len(c.shape(x))
    if isinstance(x, Const):
        axes = c.attribute("perm", list(range(rank))[::-1])

        def turn(a: Any) -> Any:
            return a.transpose(axes) if a is not None and a.ndim == rank else a

        return Const(
            turn(x.values),
            turn(x.ints),
            turn(np.broadcast_to(x.scale, x.values.shape)) if x.scale is not None else None,
        )
    axes = list(c.attribute("perm", list(range(rank + 1))[::-1]))
    if not axes or axes[0] != 0 or sorted(axes) != list(range(rank + 1)):
        raise c.error(f"perm must keep the batch axis first, not {axes}")
    return c.add(Transpose(tuple(a - 1 for a in axes[1:])), x.index)


def _axes(c: Context) -> list[int] | None:
    if c.opset < 13:
        found = c.attribute("axes", None)
        return None if found is None else [int(a) for a in found]
    return [int(a) for a in c.constant(1, "axes").values.reshape(-1)] if c.given(1) else None


def _squeeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if isinstance(x, Const):
        return Const(np.squeeze(x.values, None if axes is None else tuple(axes)))
    shape = c.shape(x)
    drop = [k for k, n in enumerate(shape) if n == 1] if axes is None else [c.axis(a, len(shape)) for a in axes]
    if any(shape[k] != 1 for k in drop):
        raise c.error(f"only axes of length 1 can be squeezed, not {axes} of shape {list(shape)}")
    return c.add(Reshape(tuple(n for k, n in enumerate(shape) if k not in drop)), x.index)


def _unsqueeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if axes is None:
        raise c.error("axes are missing")
    if isinstance(x, Const):
        return Const(np.expand_dims(x.values, tuple(axes)))
    shape = list(c.shape(x))
    rank = len(shape) + len(axes)
    for k in sorted(c.axis(a, rank) for a in axes):
        shape.insert(k, 1)
    return c.add(Reshape(tuple(shape)), x.index)


def _concat(c: Context) -> Value:
    axis = c.attribute("axis", None)
    if axis is None:
        raise c.error("attribute 'axis' is missing")
    if c.all_constant:
        return Const(np.concatenate([c.constant(k, "operand").values for k in range(len(c.inputs))], axis=axis))
    refs = [c.data(k) for k in range(len(c.inputs))]
    return c.add(Concat(c.axis(axis, len(c.shape(c.operand(0))))), *refs)


def _identity(c: Context) -> Value:
    return c.operand(0)


def _dropout(c: Context) -> Value:
    c.attribute("seed", 0)
    c.attribute("ratio", 0.5)
    if c.given(2) and c.scalar(2, "training_mode"):
        raise c.error("must be exported for inference, not with training_mode 1")
    return c.operand(0)


def _constant(c: Context) -> Value:
    kinds = {
        "value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    found = [(k, v) for k in kinds if (v := c.attribute(k, None)) is not None]
    if len(found) != 1:
        raise c.error(f"must have exactly one of {', '.join(kinds)}")
    key, value = found[0]
    return Const(np.asarray(value, kinds[key]) if kinds[key] else np.asarray(value))


def _cast(c: Context) -> Value:
    target = c.attribute("to", None)
    c.attribute("saturate", 1)
    c.attribute("round_mode", "up")
    names = {
        1: np.float32,
        11: np.float64,
        10: np.float16,
        6: np.int32,
        7: np.int64,
        2: np.uint8,
        3: np.int8,
        4: np.uint16,
        5: np.int16,
        9: np.bool_,
    }
    if target not in names:
        raise c.error(f"a cast to ONNX type {target} is not supported")
    x = c.operand(0)
    if isinstance(x, Const):
        return Const(x.values.astype(names[target]), x.ints, x.scale)
    if target not in (1, 11):
        raise c.error(
            f"data may be cast to float32 or float64 only, not to {np.dtype(names[target])}", "use a quantizer instead"
        )
    return x


LAYOUT: dict[str, Callable[[Context], Value]] = {
    "Flatten": _flatten,
    "Shape": _shape_of,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Identity": _identity,
    "Dropout": _dropout,
    "Constant": _constant,
    "Cast": _cast,
}
