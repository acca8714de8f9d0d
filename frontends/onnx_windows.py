"""Convolutions and pooling of ONNX, in any number of dimensions: windows are gathered, then multiplied or reduced.

A window is a table of element indices, ``[*positions, channels * kernel]`` (-1: padding), so that strides, dilations,
groups and every padding are settled here, and later stages see a gather and a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .onnx_context import Const, Context, Ref, Value
from .real import Dense, Gather, Offset, Reduce, Reshape, Scale, Transpose

__all__ = ["WINDOWS"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Kernel, strides, dilations and padding (begin, end) of each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def span(self, axis: int) -> int:
        """Elements from the first to the last that one window touches."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _list(c: Context, name: str, rank: int, default: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in c.attribute(name, [default] * rank))
    if len(values) != rank or any(v < 1 for v in values):
        raise c.error(f"{name} must be {rank} positive numbers, not {list(values)}")
    return values


def _geometry(c: Context, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Geometry:
    rank = len(spatial)
    strides, dilations = _list(c, "strides", rank, 1), _list(c, "dilations", rank, 1)
    pads = [int(v) for v in c.attribute("pads", [0] * (2 * rank))]
    mode = c.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0] * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, s, k, d in zip(spatial, strides, kernel, dilations)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    elif mode != "NOTSET":
        raise c.error(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not '{mode}'")
    if len(pads) != 2 * rank or any(p < 0 for p in pads):
        raise c.error(f"pads must be {2 * rank} numbers of at least 0, not {pads}")
    return Geometry(kernel, strides, dilations, tuple(zip(pads[:rank], pads[rank:])))


def _axis_index(n: int, g: Geometry, axis: int, ceil: bool) -> Int64:
    """``[positions, kernel]`` source index along one axis; -1 in the padding."""
    begin, end = g.pads[axis]
    room = n + begin + end - g.span(axis)
    stride = g.strides[axis]
    positions = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (positions - 1) * stride >= n + begin:  # the standard drops a window that starts in the end padding
        positions -= 1
    at = np.arange(positions)[:, None] * stride + np.arange(g.kernel[axis]) * g.dilations[axis] - begin
    return np.where((at >= 0) & (at < n), at, -1)


def _combined(axes: list[Int64], spatial: tuple[int, ...]) -> Int64:
    """``[*positions, *kernel]`` flat spatial index from the index of each axis."""
    rank = len(axes)
    flat, valid = np.zeros((1,) * (2 * rank), np.int64), np.ones((1,) * (2 * rank), bool)
    for k, index in enumerate(axes):
        shape = [1] * (2 * rank)
        shape[k], shape[rank + k] = index.shape
        spread = index.reshape(shape)
        flat, valid = flat * spatial[k] + np.maximum(spread, 0), valid & (spread >= 0)
    return np.where(valid, flat, -1)


def _windows(axes: list[Int64], channels: int, spatial: tuple[int, ...]) -> tuple[Int64, tuple[int, ...]]:
    """(``[*positions, channels, kernel elements]`` flat index into ``[channels, *spatial]``, positions)."""
    where = _combined(axes, spatial)
    positions = where.shape[: len(axes)]
    where = where.reshape((*positions, 1, -1))
    offsets = np.arange(channels).reshape((1,) * len(axes) + (channels, 1)) * math.prod(spatial)
    return np.where(where < 0, -1, where + offsets), positions


def _spatial(c: Context) -> tuple[int, tuple[int, ...]]:
    shape = c.shape(c.operand(0))
    if len(shape) < 2:
        raise c.error(f"the operand must have shape [batch, channels, ...], not [batch, {', '.join(map(str, shape))}]")
    return shape[0], shape[1:]


def _fits(c: Context, axes: list[Int64]) -> None:
    if any(len(a) < 1 for a in axes):
        raise c.error("the kernel is larger than the padded input")


def _matrix(
    c: Context, index: Int64, positions: tuple[int, ...], weights: Const, ints: NDArray | None, values: NDArray
) -> Ref:
    """Windows times a matrix ``[channels * kernel, outputs]``, bias added, channels in front again."""
    windows = c.add(Gather(index.reshape((*positions, -1))), c.data(0), suffix=".windows")
    scale = None
    if ints is not None and weights.scale is not None:
        full = np.broadcast_to(weights.scale, weights.values.shape)
        per_output = full.reshape(full.shape[0], -1)
        if (per_output == per_output[:, :1]).all() and len(per_output) == values.shape[1]:
            scale = per_output[:, 0].copy()
    y = c.add(Dense(values, ints if scale is not None else None, scale), windows.index)
    if c.given(2):
        y = c.add(Offset(c.floats(2, "the bias")), y.index, suffix=".bias")
    rank = len(positions)
    return c.add(Transpose((rank, *range(rank))), y.index, suffix=".channels")


def _conv(c: Context) -> Value:
    weights = c.constant(1, "weights")
    channels, spatial = _spatial(c)
    groups = int(c.attribute("group", 1))
    w = weights.values.astype(np.float64)
    if w.ndim != len(spatial) + 2 or groups < 1 or w.shape[1] * groups != channels or w.shape[0] % groups:
        raise c.error(
            f"weights {list(w.shape)} do not fit {channels} channels, {len(spatial)} spatial axes and {groups} groups"
        )
    kernel = tuple(int(k) for k in c.attribute("kernel_shape", w.shape[2:]))
    if kernel != w.shape[2:]:
        raise c.error(f"kernel_shape {list(kernel)} must be that of the weights, {list(w.shape[2:])}")
    g = _geometry(c, kernel, spatial)
    axes = [_axis_index(n, g, k, ceil=False) for k, n in enumerate(spatial)]
    _fits(c, axes)
    index, positions = _windows(axes, channels, spatial)

    def matrix(a: NDArray) -> NDArray:
        """``[out, in / groups, *kernel]`` as a block-diagonal ``[in * kernel, out]``."""
        out, size = a.shape[0], math.prod(a.shape[2:])
        full = np.zeros((channels, size, out), a.dtype)
        for k in range(groups):
            rows = slice(k * a.shape[1], (k + 1) * a.shape[1])
            columns = slice(k * out // groups, (k + 1) * out // groups)
            full[rows, :, columns] = a[columns].reshape(out // groups, a.shape[1], size).transpose(1, 2, 0)
        return full.reshape(-1, out)

    return _matrix(c, index, positions, weights, None if weights.ints is None else matrix(weights.ints), matrix(w))


def _conv_transpose(c: Context) -> Value:
    """Each output gathers the inputs that reach it: those at (o + pad - k * dilation) / stride where that is whole."""
    weights = c.constant(1, "weights")
    channels, spatial = _spatial(c)
    rank, groups = len(spatial), int(c.attribute("group", 1))
    w = weights.values.astype(np.float64)
    if w.ndim != rank + 2 or w.shape[0] != channels or groups != 1:
        raise c.error(f"weights {list(w.shape)} do not fit {channels} channels; groups must be 1, not {groups}")
    kernel = tuple(int(k) for k in c.attribute("kernel_shape", w.shape[2:]))
    extra = [int(v) for v in c.attribute("output_padding", [0] * rank)]
    if c.attribute("auto_pad", "NOTSET") != "NOTSET" or c.attribute("output_shape", None) is not None:
        raise c.error("auto_pad and output_shape are not supported", "export with explicit pads")
    strides, dilations = _list(c, "strides", rank, 1), _list(c, "dilations", rank, 1)
    pads = [int(v) for v in c.attribute("pads", [0] * (2 * rank))]
    axes: list[Int64] = []
    for k, n in enumerate(spatial):
        size = (n - 1) * strides[k] + extra[k] + (kernel[k] - 1) * dilations[k] + 1 - pads[k] - pads[rank + k]
        source = np.arange(size)[:, None] + pads[k] - np.arange(kernel[k]) * dilations[k]
        whole = (source % strides[k] == 0) & (source >= 0) & (source // strides[k] < n)
        axes.append(np.where(whole, source // strides[k], -1))
    _fits(c, axes)
    index, positions = _windows(axes, channels, spatial)

    def matrix(a: NDArray) -> NDArray:
        return a.reshape(channels, a.shape[1], -1).transpose(0, 2, 1).reshape(-1, a.shape[1])

    scalar = weights.ints is not None and weights.scale is not None and weights.scale.size == 1
    turned = Const(np.moveaxis(w, 1, 0), None, weights.scale)
    return _matrix(
        c, index, positions, turned, matrix(weights.ints) if scalar and weights.ints is not None else None, matrix(w)
    )


def _pool(c: Context, kind: str) -> Value:
    channels, spatial = _spatial(c)
    kernel = tuple(int(k) for k in c.attribute("kernel_shape", ()))
    if len(kernel) != len(spatial):
        raise c.error(f"kernel_shape must have {len(spatial)} numbers, not {list(kernel)}")
    g, ceil = _geometry(c, kernel, spatial), bool(c.attribute("ceil_mode", 0))
    axes = [_axis_index(n, g, k, ceil) for k, n in enumerate(spatial)]
    _fits(c, axes)
    index, positions = _windows(axes, channels, spatial)
    index = np.moveaxis(index, -2, 0)  # [channels, *positions, kernel]
    if kind == "max":
        if (index.max(axis=-1) < 0).any():
            raise c.error("a window lies in the padding alone", "use less padding")
        index = np.where(index < 0, index.max(axis=-1, keepdims=True), index)  # repeating a member changes no maximum
        windows = c.add(Gather(index), c.data(0), suffix=".windows")
        reduced = c.add(Reduce("max", index.ndim - 1), windows.index)
    else:
        windows = c.add(Gather(index), c.data(0), suffix=".windows")
        total = c.add(Reduce("sum", index.ndim - 1), windows.index, suffix=".sum")
        reduced = c.add(Scale(_divisors(c, index, g, spatial)[..., None], divide=True), total.index)
    return c.add(Reshape((channels, *positions)), reduced.index, suffix=".shape")


def _divisors(c: Context, index: Int64, g: Geometry, spatial: tuple[int, ...]) -> NDArray[np.float64]:
    """How many elements each average counts: all of the kernel, or those that are no padding."""
    if not c.attribute("count_include_pad", 0):
        return (index >= 0).sum(axis=-1).astype(np.float64)
    counts = np.ones((1,) * len(spatial))
    for k, n in enumerate(spatial):  # a window that ceil_mode lets hang over counts only up to the end padding
        at = np.arange(index.shape[1 + k])[:, None] * g.strides[k] + np.arange(g.kernel[k]) * g.dilations[k]
        inside = (at < n + sum(g.pads[k])).sum(axis=1)
        counts = counts * inside.reshape([-1 if j == k else 1 for j in range(len(spatial))])
    return np.broadcast_to(counts, index.shape[:-1]).astype(np.float64)


def _max_pool(c: Context) -> Value:
    if c.attribute("storage_order", 0):
        raise c.error("storage_order must be 0")
    return _pool(c, "max")


def _global(c: Context, kind: str) -> Value:
    channels, spatial = _spatial(c)
    flat = c.add(Reshape((channels, math.prod(spatial))), c.data(0), suffix=".flat")
    reduced = c.add(Reduce(kind, 1), flat.index, suffix=".reduced")
    if kind == "sum":
        reduced = c.add(Scale(np.asarray(float(math.prod(spatial))), divide=True), reduced.index)
    return c.add(Reshape((channels, *(1 for _ in spatial))), reduced.index, suffix=".shape")


WINDOWS: dict[str, Callable[[Context], Value]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": lambda c: _pool(c, "sum"),
    "GlobalMaxPool": lambda c: _global(c, "max"),
    "GlobalAveragePool": lambda c: _global(c, "sum"),
}
