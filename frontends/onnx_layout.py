"""Layout and housekeeping operators of ONNX: reshape, transpose, concat, constant, cast; they move values and change none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.rounding import Rounding
from .onnx_context import Const, Context, Ref, Value
from .real import (
    Compare,
    Concat,
    Constant,
    Gather,
    Quant,
    Reshape,
    Transpose,
)

__all__ = ["LAYOUT"]


def _filled(wanted: Sequence[int], size: int) -> tuple[int, ...] | None:
    """The target with its -1 worked out; None where it does not hold `size` values."""
    known = math.prod(n for n in wanted if n != -1)
    if list(wanted).count(-1) == 1 and known > 0 and size % known == 0:
        return tuple(size // known if n == -1 else n for n in wanted)
    return tuple(wanted) if -1 not in wanted and known == size else None


def _target(c: Context, x: Ref, wanted: Sequence[int], copied: int | None) -> tuple[tuple[int, ...], int, int]:
    """(the node's shape, where the batch axis is, how it is joined with another) of a reshape target.

    As many values of an event must come before the batch axis as did. An axis of the target may count events times some
    of those behind it, or some of those before it. `copied`: the axis that copies the batch axis.
    """
    shape = c.shape(x)
    if x.batch >= 0:
        split = x.batch + (x.joined == 2)
        before, behind = math.prod(shape[:split]), math.prod(shape[split:])
        likely = [x.batch, *(k for k, n in enumerate(wanted) if n < 0), *range(len(wanted))]
        for joined in (0, 1, 2):
            for k in likely if copied is None else [copied]:
                found = _around(wanted, k, before, behind, joined) if k < len(wanted) else None
                if found is not None:
                    return found, k, joined
    whole = _filled(wanted, math.prod(shape)) if c.single or x.batch < 0 else None
    if whole is not None:
        return whole, -1, 0
    raise c.error(f"the target {list(wanted)} must keep the batch axis apart from the {list(shape)} values of an event")


def _around(wanted: Sequence[int], k: int, before: int, behind: int, joined: int) -> tuple[int, ...] | None:
    """The node's shape if axis k of the target is the batch axis, alone or joined; None where the numbers do not fit."""
    left, right = list(wanted[:k]), list(wanted[k + 1 :])
    if not joined:
        front, rest = _filled(left, before), _filled(right, behind)
        alone = wanted[k] in (-1, 1) or (-1 not in (*left, *right) and wanted[k] > 0)
        return (*front, *rest) if front is not None and rest is not None and alone else None
    inner, outer = (right, left) if joined == 1 else (left, right)
    many, rest = (behind, before) if joined == 1 else (before, behind)
    if wanted[k] < -1:  # so many values of an event, as Shape and ReduceProd count them
        inner = _filled(inner, many // -wanted[k]) or inner
    filled, size = _filled(outer, rest), math.prod(inner)
    if filled is None or min(inner, default=1) < 1 or many % size or many == size:
        return None
    if wanted[k] not in (-1, -(many // size)):
        return None
    return (*filled, many // size, *inner) if joined == 1 else (*inner, many // size, *filled)


def _reshape(c: Context) -> Value:
    allow_zero = c.attribute("allowzero", 0)
    wanted = [int(n) for n in c.constant(1, "the shape").values.reshape(-1)]
    x = c.operand(0)
    full = c.full_shape(x)
    zeros = [] if allow_zero else [k for k, n in enumerate(wanted) if n == 0 and k < len(full)]
    wanted = [full[k] if k in zeros else n for k, n in enumerate(wanted)]
    if isinstance(x, Const):
        return Const(x.values.reshape(wanted))
    shape, batch, joined = _target(c, x, wanted, x.batch if x.batch in zeros else None)
    return c.placed(c.add(Reshape(shape), x.index), batch, joined)


def _shape_of(c: Context) -> Value:
    """The shape as a constant, with -1 for the batch axis, as a reshape wants it back."""
    full = c.full_shape(c.operand(0))
    return Const(np.array(full[c.attribute("start", 0) : c.attribute("end", None)], np.int64))


def _constant_of_shape(c: Context) -> Value:
    """The same number everywhere; one event stands for all where the shape has a batch axis (-1)."""
    value = np.asarray(c.attribute("value", np.zeros(1, np.float32))).reshape(())
    shape = [1 if n == -1 else int(n) for n in c.constant(0, "the shape").values.reshape(-1)]
    if min(shape, default=1) < 0 or math.prod(shape) >= 1 << 24:
        raise c.error(f"the shape must have at most 2**24 elements, not {shape}")
    return Const(np.full(shape, value))


def _flatten(c: Context) -> Value:
    axis, x = int(c.attribute("axis", 1)), c.operand(0)
    if isinstance(x, Const):
        at = axis % (x.values.ndim + 1) if axis >= 0 else axis + x.values.ndim
        return Const(x.values.reshape((math.prod(x.values.shape[:at]), -1)))
    shape, rank = c.shape(x), c.rank(x)
    if not -rank <= axis <= rank:
        raise c.error(f"axis {axis} must be within the operand's {rank} axes")
    axis = axis + rank if axis < 0 else axis
    own = axis - (0 <= x.batch < axis)  # the same place among the axes of an event
    before, behind = math.prod(shape[:own]), math.prod(shape[own:])
    if x.batch >= 0 and x.batch < axis and math.prod(shape[: x.batch]) == before == 1:
        return c.placed(c.add(Reshape((behind,)), x.index), 0)
    if x.batch >= axis and math.prod(shape[x.batch :]) == behind == 1:
        return c.placed(c.add(Reshape((before,)), x.index), 1)
    if not (c.single or x.batch < 0):
        raise c.error(f"axis {axis} joins the batch axis with others", "export it with axis=1, or for one event")
    if before == 1:  # one row: the row is the event
        return c.placed(c.add(Reshape((behind,)), x.index), 0)
    return c.placed(c.add(Reshape((before, behind)), x.index), -1)


def _transpose(c: Context) -> Value:
    x = c.operand(0)
    rank = c.rank(x)
    axes = [int(a) for a in c.attribute("perm", list(range(rank))[::-1])]
    if sorted(axes) != list(range(rank)):
        raise c.error(f"perm must order the operand's {rank} axes, not {axes}")
    if isinstance(x, Const):

        def turn(a: Any) -> Any:
            return a.transpose(axes) if a is not None and a.ndim == rank else a

        return Const(
            turn(x.values),
            turn(x.ints),
            turn(np.broadcast_to(x.scale, x.values.shape)) if x.scale is not None else None,
        )
    own = tuple(axes) if x.joined else tuple(a - (0 <= x.batch < a) for a in axes if a != x.batch)
    y = c.add(Transpose(own), x.index) if own != tuple(range(len(own))) else x
    return c.placed(y, axes.index(x.batch) if x.batch >= 0 else -1, x.joined)


def _axes(c: Context) -> list[int] | None:
    if c.opset < 13:
        found = c.attribute("axes", None)
        return None if found is None else [int(a) for a in found]
    return [int(a) for a in c.constant(1, "axes").values.reshape(-1)] if c.given(1) else None


def _squeeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if isinstance(x, Const):
        return Const(np.squeeze(x.values, None if axes is None else tuple(axes)))
    full = [1 if n == -1 and c.single else n for n in c.full_shape(x)]
    drop = [k for k, n in enumerate(full) if n == 1] if axes is None else _positions(c, axes, len(full))
    if x.batch in drop and not c.single:
        raise c.error(f"axis {x.batch} is the batch axis, which must stay as it is")
    if any(full[k] != 1 for k in drop):
        raise c.error(f"only axes of length 1 can be squeezed, not {axes} of shape {full}")
    shape = tuple(n for k, n in enumerate(full) if k not in drop and k != x.batch)
    batch = -1 if x.batch in drop else x.batch - sum(k < x.batch for k in drop)
    return c.placed(c.add(Reshape(shape), x.index), batch)


def _positions(c: Context, axes: Sequence[int], rank: int) -> list[int]:
    if any(not -rank <= a < rank for a in axes):
        raise c.error(f"axes {list(axes)} must be within {rank} axes")
    return sorted(a % rank for a in axes)


def _unsqueeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if axes is None:
        raise c.error("axes are missing")
    if isinstance(x, Const):
        return Const(np.expand_dims(x.values, tuple(axes)))
    full = list(c.full_shape(x))
    for k in _positions(c, axes, len(full) + len(axes)):
        full.insert(k, 1)
    batch = full.index(-1) if x.batch >= 0 else -1
    return c.placed(c.add(Reshape(tuple(n for n in full if n != -1)), x.index), batch)


def _concat(c: Context) -> Value:
    axis = c.attribute("axis", None)
    if axis is None:
        raise c.error("attribute 'axis' is missing")
    if c.all_constant:
        return Const(np.concatenate([c.constant(k, "operand").values for k in range(len(c.inputs))], axis=axis))
    shape = next(c.shape(v) for v in c.inputs if isinstance(v, Ref))
    parts = [_part(c, k, len(shape)) for k in range(len(c.inputs))]
    return c.add(Concat(c.axis(axis, len(shape))), *parts)


def _part(c: Context, k: int, rank: int) -> int:
    """A data operand of a concat, or a constant that is the same for every event."""
    value = c.operand(k)
    if isinstance(value, Ref):
        return value.index
    values = c.floats(k, f"operand {k + 1}")
    if values.ndim != rank + (c.batch >= 0):
        raise c.error(f"operand {k + 1} must have {rank + (c.batch >= 0)} axes, not shape {list(values.shape)}")
    return c.add(Constant(c.event(values, rank)), suffix=f".constant{k}").index


def _block(c: Context) -> tuple[int, tuple[int, ...]]:
    size, shape = int(c.attribute("blocksize", 0)), c.shape(c.operand(0))
    if size < 1 or len(shape) != 3:
        raise c.error(f"the operand must be [batch, channels, height, width] and blocksize positive, not {size}")
    return size, shape


def _depth_to_space(c: Context) -> Value:
    mode = c.attribute("mode", "DCR")
    n, (channels, h, w) = _block(c)
    if channels % (n * n) or mode not in ("DCR", "CRD"):
        raise c.error(f"{channels} channels must be a multiple of {n * n}, and mode DCR or CRD, not {mode}")
    depth = channels // (n * n)
    flat = np.arange(channels * h * w)
    split = flat.reshape((n, n, depth, h, w) if mode == "DCR" else (depth, n, n, h, w))
    order = (2, 3, 0, 4, 1) if mode == "DCR" else (0, 3, 1, 4, 2)
    return c.add(Gather(split.transpose(order).reshape(depth, h * n, w * n)), c.data(0))


def _space_to_depth(c: Context) -> Value:
    n, (channels, h, w) = _block(c)
    if h % n or w % n:
        raise c.error(f"height and width must be multiples of {n}, not {h} and {w}")
    flat = np.arange(channels * h * w).reshape(channels, h // n, n, w // n, n)
    return c.add(Gather(flat.transpose(2, 4, 0, 1, 3).reshape(-1, h // n, w // n)), c.data(0))


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
    if target in (1, 11):
        return x
    if target in (6, 7):  # towards zero; whole numbers are as they were
        if c.is_whole(x):
            return x
        unlimited, one = 1 << 61, np.asarray(1.0)
        return c.add(Quant(one, np.zeros((), np.int64), -unlimited, unlimited - 1, Rounding.TRN_ZERO), x.index)
    if target == 9:  # not zero
        zero = c.add(Constant(np.zeros(())), suffix=".zero").index
        return c.add(Compare("equal"), c.add(Compare("equal"), x.index, zero, suffix=".is_zero").index, zero)
    raise c.error(
        f"data may be cast to float32, float64, int32, int64 or bool, not to {np.dtype(names[target])}",
        "use a quantizer instead",
    )


LAYOUT: dict[str, Callable[[Context], Value]] = {
    "Flatten": _flatten,
    "Shape": _shape_of,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
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
