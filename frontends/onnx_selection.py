"""Operators of ONNX that choose, repeat or pad elements: all of them are one gather with a fixed table."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .onnx_context import Const, Context, Ref, Value
from .real import Concat, Constant, Embedding, Gather, Input, Quant, Reshape, Transpose

__all__ = ["SELECTIONS"]

HALF = Fraction(1, 2)


def _grid(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _chosen(c: Context, index: NDArray[np.int64], suffix: str = "") -> Ref:
    return c.add(Gather(np.ascontiguousarray(index)), c.data(0), suffix=suffix)


def _whole(c: Context, k: int, what: str) -> list[int]:
    return [int(v) for v in c.constant(k, what).values.reshape(-1)]


def _slice(c: Context) -> Value:
    x = c.operand(0)
    rank, batch = c.rank(x), x.batch if isinstance(x, Ref) else -1
    if c.opset < 10:
        starts, ends, axes, steps = (c.attribute(k, None) for k in ("starts", "ends", "axes", "steps"))
    else:
        starts, ends = _whole(c, 1, "starts"), _whole(c, 2, "ends")
        axes = _whole(c, 3, "axes") if c.given(3) else None
        steps = _whole(c, 4, "steps") if c.given(4) else None
    if not starts or not ends:
        raise c.error("starts and ends are missing")
    cut: list[Any] = [slice(None)] * rank
    for a, begin, end, step in zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts)):
        if a % rank == batch:
            if not (begin == 0 and step == 1 and (end >= (1 << 31) - 1 or (c.single and end >= 1))):
                raise c.error(f"axis {batch} is the batch axis, which must stay as it is")
            continue
        stop = None if step < 0 and end <= -((1 << 31) - 1) else end
        cut[a % rank] = slice(begin, stop, step)
    if isinstance(x, Const):
        return Const(x.values[tuple(cut)])
    return _chosen(c, _grid(c.shape(x))[tuple(s for k, s in enumerate(cut) if k != batch)])


def _gather(c: Context) -> Value:
    axis, x = int(c.attribute("axis", 0)), c.operand(0)
    if isinstance(c.operand(1), Ref):
        return _embedding(c, axis)
    index = c.constant(1, "the indices").values.astype(np.int64)
    if isinstance(x, Const):
        return Const(np.take(x.values, index, axis=axis))
    shape, rank = c.shape(x), c.rank(x)
    if c.single and axis % rank == x.batch and not index.any():  # the one event of the file
        return c.placed(c.add(Reshape((*index.shape, *shape)), x.index), -1)
    at = c.axis(axis, len(shape))
    if (index < -shape[at]).any() or (index >= shape[at]).any():
        raise c.error(f"indices must be within the axis of length {shape[at]}, not {index.reshape(-1).tolist()[:8]}")
    y = _chosen(c, np.take(_grid(shape), index, axis=at))
    return c.placed(y, x.batch + (index.ndim - 1 if 0 <= axis % rank < x.batch else 0))


def _embedding(c: Context, axis: int) -> Value:
    """Rows of a constant table by a data index; an integer input gets the table's rows as its range."""
    table, index = c.floats(0, "the table"), c.operand(1)
    assert isinstance(index, Ref)
    if axis % table.ndim != 0 or table.ndim > 2:
        raise c.error(f"a table of shape {list(table.shape)} can be indexed by data along its first of two axes only")
    source = c.builder.nodes[index.index]
    while isinstance(source.op, Reshape | Transpose | Gather):
        source = c.builder.nodes[source.operands[0]]
    x = index.index
    if isinstance(source.op, Input):
        one, zero = np.asarray(1.0), np.zeros((), np.int64)
        x = c.add(Quant(one, zero, 0, len(table) - 1, Rounding.RND_CONV), x, suffix=".index").index
    y = c.add(Embedding(table.reshape(len(table), -1)), x, suffix="" if table.ndim == 2 else ".column")
    y = y if table.ndim == 2 else c.add(Reshape(c.shape(index)), y.index)
    return c.placed(y, index.batch)


def _split(c: Context) -> list[Value]:
    shape = c.shape(c.operand(0))
    at = c.axis(int(c.attribute("axis", 0)), len(shape))
    parts, n = len(c.node.output), shape[at]
    sizes = c.attribute("split", None) if c.opset < 13 else (_whole(c, 1, "the sizes") if c.given(1) else None)
    count = int(c.attribute("num_outputs", parts))
    sizes = sizes or [-(-n // count)] * (count - 1) + [n - -(-n // count) * (count - 1)]
    if sum(sizes) != n or len(sizes) != parts or min(sizes) < 0:
        raise c.error(f"sizes {list(sizes)} must add up to {n} in {parts} parts")
    ends = np.cumsum(sizes)
    return [
        _chosen(c, np.take(_grid(shape), range(e - s, e), axis=at), f".{k}")
        for k, (s, e) in enumerate(zip(sizes, ends))
    ]


def _tile(c: Context) -> Value:
    repeats = _whole(c, 1, "repeats")
    x = c.operand(0)
    if isinstance(x, Const):
        return Const(np.tile(x.values, repeats))
    if not repeats or repeats[0] != 1 or len(repeats) != len(c.shape(x)) + 1:
        raise c.error(f"repeats must have one number for each axis and 1 for the batch axis, not {repeats}")
    return _chosen(c, np.tile(_grid(c.shape(x)), repeats[1:]))


def _expand(c: Context) -> Value:
    target = _whole(c, 1, "the shape")
    x = c.operand(0)
    if isinstance(x, Const):  # one event stands for all where the target has a batch axis (-1)
        wanted = tuple(1 if n == -1 else n for n in target)
        return Const(np.broadcast_to(x.values, np.broadcast_shapes(x.values.shape, wanted)).copy())
    shape = c.shape(x)
    if len(target) > len(shape) + 1:
        raise c.error(f"the target {target} has more axes than the operand, which would move the batch axis")
    inner = target[1:] if len(target) == len(shape) + 1 else target
    full = np.broadcast_shapes(shape, tuple(1 if n == -1 else n for n in inner))
    return _chosen(c, np.broadcast_to(_grid(shape), full))


def _pad(c: Context) -> Value:
    x, shape = c.data(0), c.shape(c.operand(0))
    rank, mode = len(shape), c.attribute("mode", "constant")
    amounts = _whole(c, 1, "pads") if c.opset >= 11 else [int(v) for v in c.attribute("pads", [])]
    value = (c.scalar(2, "the value") if c.given(2) else 0.0) if c.opset >= 11 else float(c.attribute("value", 0.0))
    axes = [a % (rank + 1) for a in _whole(c, 3, "axes")] if c.given(3) else list(range(rank + 1))
    if len(amounts) != 2 * len(axes):
        raise c.error(f"pads must be {2 * len(axes)} numbers, not {amounts}")
    width = [(0, 0)] * (rank + 1)
    for k, a in enumerate(axes):
        width[a] = (amounts[k], amounts[k + len(axes)])
    if width[0] != (0, 0):
        raise c.error("axis 0 is the batch axis, which must stay as it is")
    grid = _grid(shape)
    for a, (begin, end) in enumerate(width[1:]):  # negative amounts crop
        grid = np.take(grid, range(max(-begin, 0), grid.shape[a] - max(-end, 0)), axis=a)
    grow = [(max(b, 0), max(e, 0)) for b, e in width[1:]]
    if mode in ("reflect", "edge", "wrap"):
        return _chosen(c, np.pad(grid, grow, mode=mode))
    if mode != "constant":
        raise c.error(f"mode must be constant, reflect, edge or wrap, not '{mode}'")
    if value == 0:
        return _chosen(c, np.pad(grid, grow, constant_values=-1))
    flat = c.add(Reshape((math.prod(shape),)), x, suffix=".flat")
    extra = c.add(Constant(np.array([value])), suffix=".value")
    joined = c.add(Concat(0), flat.index, extra.index, suffix=".joined")
    return c.add(Gather(np.pad(grid, grow, constant_values=math.prod(shape))), joined.index)


_COORDINATES: dict[str, Callable[[Fraction, int], Fraction]] = {
    "asymmetric": lambda i, factor: i / factor,
    "half_pixel": lambda i, factor: (i + HALF) / factor - HALF,
    "pytorch_half_pixel": lambda i, factor: (i + HALF) / factor - HALF,  # differs where one element is left of several
    "tf_half_pixel_for_nn": lambda i, factor: (
        (i + HALF) / factor
    ),  # gone from the standard since opset 13; tf2onnx writes it
}
"""Where element i of a result lies among its operand's elements."""

_NEAREST: dict[str, Callable[[Fraction], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round_prefer_floor": lambda x: math.ceil(x - HALF),
    "round_prefer_ceil": lambda x: math.floor(x + HALF),
}


def _resize(c: Context) -> Value:
    """Nearest-neighbour upsampling by whole factors."""
    shape = c.shape(c.operand(0))
    old = c.node.op_type == "Upsample" or c.opset < 11
    if c.attribute("mode", "nearest") != "nearest":
        raise c.error("mode must be nearest", "export nearest-neighbour upsampling")
    if c.attribute("antialias", 0) or c.attribute("axes", None) is not None:
        raise c.error("antialias and axes are not supported", "export plain nearest-neighbour upsampling")
    for name in ("exclude_outside", "extrapolation_value", "keep_aspect_ratio_policy", "cubic_coeff_a"):
        c.attribute(name, None)  # of other modes
    coordinate = c.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    nearest = c.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    for name, value, known in (
        ("coordinate_transformation_mode", coordinate, _COORDINATES),
        ("nearest_mode", nearest, _NEAREST),
    ):
        if value not in known:
            raise c.error(f"{name} must be one of {', '.join(known)}, not '{value}'")
    if (c.given(3) and not old) or (not c.given(1 if old else 2) and not c.given(3)):
        sizes = _whole(c, 3, "the sizes")
        factors = [1.0] + [m / n for m, n in zip(sizes[1:], shape)]
    else:
        factors = [float(v) for v in c.floats(1 if old else 2, "the scales").reshape(-1)]
    if len(factors) != len(shape) + 1 or any(f < 1 or f != int(f) for f in factors) or factors[0] != 1:
        raise c.error(f"factors must be whole numbers, 1 for the batch axis, not {factors}")
    if math.prod(shape) * math.prod(factors) >= 1 << 24:
        raise c.error(f"the result must have at most 2**24 elements, not {shape} times {factors[1:]}")
    grid = _grid(shape)
    for a, f in enumerate(factors[1:]):
        places = (_COORDINATES[coordinate](Fraction(i), int(f)) for i in range(shape[a] * int(f)))
        grid = np.take(grid, [min(max(_NEAREST[nearest](x), 0), shape[a] - 1) for x in places], axis=a)
    return _chosen(c, grid)


SELECTIONS: dict[str, Callable[[Context], Value | list[Value]]] = {
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Tile": _tile,
    "Expand": _expand,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
