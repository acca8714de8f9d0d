"""Convolutions and pooling of ONNX, in any number of dimensions: windows, then a matrix or a reduction.

Channels go last here, once, and in front again behind; the passes cancel what two neighbours undo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..ir.ops import Window
from .onnx_context import Const, Context, Ref, Value
from .real import Dense, Gather, Offset, Reduce, Reshape, Scale, Transpose
from .windows import grouped_matrix, same_padding, spread_indices

__all__ = ["WINDOWS"]


def _list(c: Context, name: str, rank: int, default: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in c.attribute(name, [default] * rank))
    if len(values) != rank or any(v < 1 for v in values):
        raise c.error(f"{name} must be {rank} positive numbers, not {list(values)}")
    return values


def _window(
    c: Context, kernel: tuple[int, ...], spatial: tuple[int, ...], ceil: bool = False, fill: str = "zero"
) -> Window:
    """The node's geometry; refused where the kernel does not fit."""
    rank = len(spatial)
    strides, dilations = _list(c, "strides", rank, 1), _list(c, "dilations", rank, 1)
    pads = [int(v) for v in c.attribute("pads", [0] * (2 * rank))]
    mode = c.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0] * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        small, large = same_padding(spatial, kernel, strides, dilations)
        pads = [*small, *large] if mode == "SAME_UPPER" else [*large, *small]
    elif mode != "NOTSET":
        raise c.error(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not '{mode}'")
    if len(pads) != 2 * rank or any(p < 0 for p in pads):
        raise c.error(f"pads must be {2 * rank} numbers of at least 0, not {pads}")
    window = Window(kernel, strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]), fill)
    if ceil:
        window = replace(window, end=tuple(_ceiling(window, k, n) for k, n in enumerate(spatial)))
    _fits(c, window.positions(spatial))
    return window


def _ceiling(window: Window, axis: int, n: int) -> int:
    """The padding behind with which a last, partly covered window is counted too."""
    begin, stride = window.begin[axis], window.strides[axis]
    room = n + begin + window.end[axis] - window.span(axis)
    positions = -(-room // stride) + 1
    if (positions - 1) * stride >= n + begin:  # the standard drops a window that starts in the end padding
        positions -= 1
    return max((positions - 1) * stride + window.span(axis) - n - begin, 0)


def _spatial(c: Context) -> tuple[int, tuple[int, ...]]:
    shape = c.shape(c.operand(0))
    if len(shape) < 2:
        raise c.error(f"the operand must have shape [batch, channels, ...], not [batch, {', '.join(map(str, shape))}]")
    return shape[0], shape[1:]


def _fits(c: Context, positions: Sequence[int]) -> None:
    if any(n < 1 for n in positions):
        raise c.error("the kernel is larger than the padded input")


def _channels_last(c: Context, suffix: str = ".last") -> Ref:
    rank = len(c.shape(c.operand(0)))
    return c.add(Transpose((*range(1, rank), 0)), c.data(0), suffix=suffix)


def _channels_first(c: Context, y: Ref, suffix: str) -> Ref:
    rank = len(c.shape(y))
    return c.add(Transpose((rank - 1, *range(rank - 1))), y.index, suffix=suffix)


def _product(c: Context, x: Ref, window: Window, weights: Const, ints: NDArray | None, values: NDArray) -> Ref:
    """Windows of channels-last data times ``[taps * channels, outputs]``, bias added, channels in front again."""
    *spatial, channels = c.shape(x)
    windows = c.add(window, x.index, suffix=".windows")
    rows = c.add(Reshape((*window.positions(spatial), window.taps * channels)), windows.index, suffix=".rows")
    scale = None
    if ints is not None and weights.scale is not None:
        full = np.broadcast_to(weights.scale, weights.values.shape)
        per_output = full.reshape(full.shape[0], -1)
        if (per_output == per_output[:, :1]).all() and len(per_output) == values.shape[1]:
            scale = per_output[:, 0].copy()
    y = c.add(Dense(values, ints if scale is not None else None, scale), rows.index)
    if c.given(2):
        y = c.add(Offset(c.floats(2, "the bias")), y.index, suffix=".bias")
    return _channels_first(c, y, ".channels")


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
    window = _window(c, kernel, spatial)

    def matrix(a: NDArray) -> NDArray:
        """``[out, in / groups, *kernel]`` as a block-diagonal ``[kernel * in, out]``."""
        return grouped_matrix(a.reshape(*a.shape[:2], window.taps).transpose(2, 1, 0), groups)

    ints = None if weights.ints is None else matrix(weights.ints)
    return _product(c, _channels_last(c), window, weights, ints, matrix(w))


def _conv_transpose(c: Context) -> Value:
    """A convolution with the mirrored kernel over the input with zeros in between (stride) and around (padding)."""
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
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    starts = [p - r for p, r in zip(pads, reach)]
    stops = [(n - 1) * s + 1 + r - p + e for n, s, r, p, e in zip(spatial, strides, reach, pads[rank:], extra)]
    lengths = [stop - start for start, stop in zip(starts, stops)]
    window = Window(kernel, (1,) * rank, dilations, (0,) * rank, (0,) * rank)
    _fits(c, [*lengths, *window.positions(lengths)])
    index = spread_indices(spatial, strides, starts, lengths)
    spread_out = np.where(index[..., None] < 0, -1, index[..., None] + np.arange(channels) * math.prod(spatial))
    x = c.add(Gather(spread_out), c.data(0), suffix=".spread")

    def matrix(a: NDArray) -> NDArray:
        mirrored = a.reshape(channels, a.shape[1], -1)[:, :, ::-1]
        return mirrored.transpose(2, 0, 1).reshape(-1, a.shape[1])

    scalar = weights.ints is not None and weights.scale is not None and weights.scale.size == 1
    turned = Const(np.moveaxis(w, 1, 0), None, weights.scale)
    ints = matrix(weights.ints) if scalar and weights.ints is not None else None
    return _product(c, x, window, turned, ints, matrix(w))


def _pool(c: Context, kind: str) -> Value:
    channels, spatial = _spatial(c)
    kernel = tuple(int(k) for k in c.attribute("kernel_shape", ()))
    if len(kernel) != len(spatial):
        raise c.error(f"kernel_shape must have {len(spatial)} numbers, not {list(kernel)}")
    ceil = bool(c.attribute("ceil_mode", 0))
    window = _window(c, kernel, spatial, ceil, "nearest" if kind == "max" else "zero")
    inside = replace(window, fill="zero").source((*spatial, 1))[..., 0] >= 0  # [*positions, taps]
    if kind == "max" and not inside.any(axis=-1).all():
        raise c.error("a window lies in the padding alone", "use less padding")
    windows = c.add(window, _channels_last(c).index, suffix=".windows")
    reduced = c.add(Reduce(kind, len(spatial)), windows.index, suffix="" if kind == "max" else ".sum")
    if kind == "sum":
        divisors = _divisors(c, inside, window, spatial)
        reduced = c.add(Scale(divisors[..., None, None], divide=True), reduced.index)
    rows = c.add(Reshape((*window.positions(spatial), channels)), reduced.index, suffix=".rows")
    return _channels_first(c, rows, ".channels")


def _divisors(c: Context, inside: NDArray, window: Window, spatial: tuple[int, ...]) -> NDArray[np.float64]:
    """How many elements the average at each position counts: all of the kernel, or those that are no padding."""
    if not c.attribute("count_include_pad", 0):
        return inside.sum(axis=-1).astype(np.float64)
    pads, rank = [int(v) for v in c.attribute("pads", [0] * (2 * len(spatial)))], len(spatial)
    counts = np.ones((1,) * rank)
    for k, n in enumerate(spatial):  # a window that ceil_mode lets hang over counts only up to the end padding
        at = np.arange(inside.shape[k])[:, None] * window.strides[k] + np.arange(window.kernel[k]) * window.dilations[k]
        end = window.end[k] if c.attribute("auto_pad", "NOTSET") != "NOTSET" else pads[rank + k]
        counted = (at < n + window.begin[k] + end).sum(axis=1)
        counts = counts * counted.reshape([-1 if j == k else 1 for j in range(rank)])
    return np.broadcast_to(counts, inside.shape[:-1]).astype(np.float64)


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
