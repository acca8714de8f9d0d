"""Normalizations of ONNX by the data's own mean and size: exact sums and a table of 1 / sqrt, as composites."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .onnx_context import Context, Ref, Value
from .onnx_reductions import reduced
from .real import Function, Maximum, Mul, Offset, Reshape, Scale, Sub

__all__ = ["NORMALIZATIONS"]


def _epsilon(c: Context) -> float:
    return float(np.float32(c.attribute("epsilon", 1e-5)))


def _mean(c: Context, x: int, axes: list[int], suffix: str) -> int:
    shape = c.builder.nodes[x].shape
    count = Scale(np.asarray(float(math.prod(shape[k] for k in axes))), divide=True)
    return c.add(count, reduced(c, x, shape, axes, "sum", True, suffix).index, suffix=suffix).index


def _normal(c: Context, x: int, axes: list[int], epsilon: float, centre: bool = True) -> int:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; without the mean if not `centre`."""
    if centre:
        x = c.add(Sub(), x, _mean(c, x, axes, ".mean"), suffix=".centred").index
    square = c.add(Mul(), x, x, suffix=".square").index
    variance = c.add(Offset(np.asarray(epsilon)), _mean(c, square, axes, ".variance"), suffix=".epsilon")
    inverse = c.add(Function("rsqrt"), variance.index, suffix=".rsqrt")
    return c.add(Mul(), x, inverse.index, suffix=".normal").index


def _scaled(c: Context, y: int, scale: NDArray[np.float64], bias: NDArray[np.float64] | None) -> Ref:
    found = c.add(Scale(scale), y, suffix="" if bias is None else ".scale")
    return found if bias is None else c.add(Offset(bias), found.index)


def _over_last(centre: bool) -> Callable[[Context], Value]:
    """Normalization over all axes from `axis` on: LayerNormalization, or by the mean square alone (RMSNormalization)."""

    def read(c: Context) -> Value:
        x, shape, epsilon = c.data(0), c.shape(c.operand(0)), _epsilon(c)
        c.attribute("stash_type", 1)
        axes = list(range(c.axis(int(c.attribute("axis", -1)), len(shape)), len(shape)))
        rank = len(shape)
        bias = c.event(c.floats(2, "the bias"), rank) if c.given(2) else None
        return _scaled(c, _normal(c, x, axes, epsilon, centre), c.event(c.floats(1, "the scale"), rank), bias)

    return read


def _channels(values: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    return values.reshape((-1,) + (1,) * (rank - 1))


def _instance(c: Context) -> Value:
    """Over the spatial axes of each channel."""
    shape = c.shape(c.operand(0))
    y = _normal(c, c.data(0), list(range(1, len(shape))), _epsilon(c))
    scale, bias = (_channels(c.floats(k, what), len(shape)) for k, what in ((1, "the scale"), (2, "the bias")))
    return _scaled(c, y, scale, bias)


def _group(c: Context) -> Value:
    """Over the channels of each group and all spatial axes; scale and bias by group before opset 21, then by channel."""
    shape, groups = c.shape(c.operand(0)), int(c.attribute("num_groups", 0))
    c.attribute("stash_type", 1)
    if groups < 1 or shape[0] % groups:
        raise c.error(f"num_groups must divide the {shape[0]} channels, not {groups}")
    split = c.add(Reshape((groups, math.prod(shape) // groups)), c.data(0), suffix=".groups").index
    y = c.add(Reshape(shape), _normal(c, split, [1], _epsilon(c)), suffix=".channels").index
    found = (c.floats(k, what) for k, what in ((1, "the scale"), (2, "the bias")))
    scale, bias = (_channels(np.repeat(v, shape[0] // v.size), len(shape)) for v in found)
    return _scaled(c, y, scale, bias)


def _lp(c: Context) -> Value:
    """x divided by its norm along an axis: the sum of magnitudes (p = 1) or the root of the sum of squares (p = 2)."""
    shape, p = c.shape(c.operand(0)), int(c.attribute("p", 2))
    axes = [c.axis(int(c.attribute("axis", -1)), len(shape))]
    if p not in (1, 2):
        raise c.error(f"p must be 1 or 2, not {p}")
    x = c.data(0)
    other = x if p == 2 else c.add(Scale(np.asarray(-1.0)), x, suffix=".neg").index
    part = c.add(Mul() if p == 2 else Maximum(), x, other, suffix=".size").index
    total = reduced(c, part, shape, axes, "sum", True, ".norm").index
    return c.add(Mul(), x, c.add(Function("rsqrt" if p == 2 else "reciprocal"), total, suffix=".inverse").index)


NORMALIZATIONS: dict[str, Callable[[Context], Value]] = {
    "LayerNormalization": _over_last(centre=True),
    "RMSNormalization": _over_last(centre=False),
    "SimplifiedLayerNormalization": _over_last(centre=False),
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LpNormalization": _lp,
}
