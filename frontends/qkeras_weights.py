"""The scales that QKeras computes from the weights themselves (alpha "auto" and "auto_po2"), in its float32 arithmetic.

A scale that float32 rounding decides, because it lies on the boundary between two powers of two, is refused. Means are exact
here and rounded once, so an "auto" scale may differ from the framework's in its last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .keras_context import Config
from .real import Float

__all__ = ["AUTOMATIC"]

Float32 = NDArray[np.float32]
_EPSILON = np.float32(1e-7)
_MARGIN = 1e-6


def _channel_axes(x: Float32) -> tuple[int, ...]:
    """All axes but the last; the only axis of a vector."""
    return tuple(range(x.ndim - 1)) if x.ndim > 1 else (0,)


def _power_of_two(q: Config, scale: Float32) -> Float32:
    """2**round(log2(scale + epsilon))."""
    logarithm = np.log(scale + _EPSILON) / np.float32(np.log(2.0))
    exact = np.log2(scale.astype(np.float64) + float(_EPSILON))
    if (np.abs(exact - np.floor(exact) - 0.5) < _MARGIN).any():
        raise q.error("float32 rounding decides between two powers of two for its scale", "set alpha to a number")
    return np.ldexp(np.float32(1), np.round(logarithm).astype(np.int64)).astype(np.float32)


def _least_squares(q: Config, x: Float32, n: Float32, alpha: str) -> Float32:
    """The scale s that makes s * n nearest to x, for each channel; each element of a vector is a channel."""
    axes = _channel_axes(x) if x.ndim > 1 else ()
    xn, nn = (a.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32) for a in (x * n, n * n))
    scale: Float32 = xn / (nn + _EPSILON)
    return _power_of_two(q, scale) if alpha == "auto_po2" else scale


def _nearest(x: Float32, scale: Float32, most: float) -> Float32:
    """sign(x) * floor(|x| / scale + 1/2), at most `most`."""
    steps = np.floor(np.abs(x) / scale + np.float32(0.5))
    return np.sign(x) * np.where(steps < most, steps, np.float32(most))


def _integers(q: Config, n: Float32) -> NDArray[np.int64]:
    if not np.isfinite(n).all():
        raise q.error("a channel of weights is all zero, which an automatic scale divides by", "set alpha to a number")
    return n.astype(np.int64)


def _bits(q: Config, x: Float32, alpha: str) -> tuple[NDArray[np.int64], Float]:
    """quantized_bits: symmetric whatever the flag says. QKeras 0.9 rounds with the last but one scale, QKeras-v3 with the last."""
    bits, integer = q.whole("bits", 8), q.whole("integer", 0)
    q.ignore("symmetric")
    if not q.flag("keep_negative", True) or not 2 <= bits <= 24:
        raise q.error(f"with alpha '{alpha}' it needs keep_negative and 2 to 24 bits, not {bits}")
    most, unit = float(2 ** (bits - 1) - 1), np.float32(2.0**integer)
    x = x / unit
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.abs(x).max(axis=_channel_axes(x), keepdims=True) * np.float32(2) / np.float32(2 * most)
        n = _nearest(x, scale, most)
        if alpha == "auto_po2":
            scale = _power_of_two(q, scale)
            for _ in range(5):
                n = _nearest(x, scale, most)
                scale = _least_squares(q, x, n, alpha)
            if "post_training_scale" in q.values:
                n = _nearest(x, scale, most)
    return _integers(q, n), scale.astype(np.float64) * float(unit)


def _ternary(q: Config, x: Float32, alpha: str) -> tuple[NDArray[np.int64], Float]:
    rounds = q.whole("number_of_unrolls", 5)
    if q.get("threshold") is not None or not 1 <= rounds <= 100:
        raise q.error(f"with alpha '{alpha}' it must have no threshold and 1 to 100 unrolls, not {rounds}")
    axes = _channel_axes(x)
    scale = np.float32(2) * np.abs(x).max(axis=axes, keepdims=True) / np.float32(3)
    scale = _power_of_two(q, scale) if alpha == "auto_po2" else scale
    n = np.zeros_like(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(rounds):
            near = scale * np.round(x / scale)
            n = np.where(np.abs(near) >= scale / np.float32(2), np.sign(x), np.float32(0))
            scale = _least_squares(q, x, n, alpha)
    return _integers(q, n), np.broadcast_to(scale.astype(np.float64), x.shape)


def _binary(q: Config, x: Float32, alpha: str) -> tuple[NDArray[np.int64], Float]:
    n = np.where(x >= 0, np.float32(1), np.float32(0 if q.flag("use_01", False) else -1))
    return _integers(q, n), _least_squares(q, x, n, alpha).astype(np.float64)


def _linear(q: Config, x: Float32, alpha: str) -> tuple[NDArray[np.int64], Float]:
    """quantized_linear: the largest weight is not clipped; "auto_po2" improves that by up to five least squares."""
    bits, keep = q.whole("bits", 8), q.flag("keep_negative", True)
    symmetric = q.flag("symmetric", True)
    q.get("integer", 0)
    if not 2 <= bits <= 24:
        raise q.error(f"with alpha '{alpha}' it needs 2 to 24 bits, not {bits}")
    steps = 2.0 ** (bits - keep)
    lo, hi = (np.float32(v) for v in (keep * (symmetric - steps), steps - 1))
    axes = tuple(range(x.ndim - 1))
    top = np.abs(x) if keep else x
    top = top.max(axis=axes, keepdims=True) if axes else top
    scale = np.maximum((top * np.float32(2) if keep else top) / (hi - lo), _EPSILON)
    if alpha == "auto_po2":
        scale = _power_of_two(q, scale)
        for _ in range(5):
            last, scale = scale, _least_squares(q, x, np.round(np.clip(x / scale, lo, hi)), alpha)
            if (last == scale).all():
                break
    return _integers(q, np.round(np.clip(x / scale, lo, hi))), scale.astype(np.float64)


AUTOMATIC: dict[str, Callable[[Config, Float32, str], tuple[NDArray[np.int64], Float]]] = {
    "quantized_bits": _bits,
    "quantized_linear": _linear,
    "ternary": _ternary,
    "stochastic_ternary": _ternary,
    "binary": _binary,
    "stochastic_binary": _binary,
}
"""(integers, scale) of float32 weights, for each quantizer that has automatic scales."""
