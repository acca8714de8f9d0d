"""Quantizers: QONNX Quant, BipolarQuant and Trunc; QuantizeLinear and DequantizeLinear of the standard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .onnx_context import Codes, Const, Context, Ref, Value
from .real import (
    Bipolar,
    Offset,
    Quant,
    Scale,
    quantized,
)

__all__ = ["QUANTIZERS"]

_ROUNDING = {
    "ROUND": Rounding.RND_CONV,
    "HALF_EVEN": Rounding.RND_CONV,
    "FLOOR": Rounding.TRN,
    "DOWN": Rounding.TRN_ZERO,
    "ROUND_TO_ZERO": Rounding.TRN_ZERO,
    "HALF_UP": Rounding.RND_INF,
    "HALF_DOWN": Rounding.RND_ZERO,
}
"""QONNX's names (its HALF_UP is away from zero, its HALF_DOWN towards zero)."""


def _rounding(c: Context, default: str = "ROUND") -> Rounding:
    mode = str(c.attribute("rounding_mode", default)).upper()
    if mode not in _ROUNDING:
        raise c.error(f"rounding_mode must be one of {', '.join(_ROUNDING)}, not '{mode}'")
    return _ROUNDING[mode]


def _scale(c: Context, k: int) -> NDArray[np.float64]:
    scale = c.floats(k, "the scale")
    if np.any(scale <= 0):
        raise c.error(f"the scale must be positive, not {scale.min():g}")
    return scale


def _whole(c: Context, k: int, what: str) -> NDArray[np.int64]:
    values = c.floats(k, what)
    if np.any(values != np.round(values)):
        raise c.error(f"{what} must be whole, not {values.reshape(-1)[0]:g}")
    return values.astype(np.int64)


def _bits(c: Context, k: int, what: str = "the bit width") -> int:
    values = _whole(c, k, what).reshape(-1)
    if values.size != 1 or not 1 <= values[0] <= 62:
        raise c.error(f"{what} must be one number from 1 to 62, not {values.tolist()}")
    return int(values[0])


def _apply_quant(c: Context, op: Quant) -> Value:
    """A quantizer of data, or of a constant, which then keeps its integers."""
    x = c.operand(0)
    if isinstance(x, Const):
        c.constant(0, "weights")
        # In float32, as the exporting framework rounds its weights.
        steps = x.values.astype(np.float32) / op.scale.astype(np.float32)
        ints = (
            quantized(Quant(np.asarray(1.0), op.zero, op.lo, op.hi, op.rounding), steps.astype(np.float64)) - op.zero
        ).astype(np.int64)
        return Const(ints * op.scale, ints, np.asarray(op.scale))
    rank = len(c.shape(x))
    return c.add(Quant(c.event(op.scale, rank), c.event(op.zero, rank), op.lo, op.hi, op.rounding), x.index)


def _quant(c: Context) -> Value:
    signed, narrow = (
        bool(c.attribute("signed", 1)),
        bool(c.attribute("narrow", 1 if c.node.op_type == "IntQuant" else 0)),
    )
    rounding, scale, zero, bits = _rounding(c), _scale(c, 1), _whole(c, 2, "the zero point"), _bits(c, 3)
    if bits == 1 and signed and np.any(zero):
        raise c.error("one signed bit must have no zero point")
    if bits == 1 and signed:  # QONNX defines one signed bit as -1 or +1
        return _apply_bipolar(c, scale)
    lo = (-(1 << (bits - 1)) + narrow) if signed else 0
    hi = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - narrow
    return _apply_quant(c, Quant(scale, zero, lo, hi, rounding))


def _apply_bipolar(c: Context, scale: NDArray[np.float64]) -> Value:
    x = c.operand(0)
    if isinstance(x, Const):
        ints = np.where(c.constant(0, "weights").values >= 0, 1, -1).astype(np.int64)
        return Const(ints * scale, ints, scale)
    return c.add(Bipolar(c.event(scale, len(c.shape(x)))), x.index)


def _bipolar(c: Context) -> Value:
    return _apply_bipolar(c, _scale(c, 1))


def _trunc(c: Context) -> Value:
    """QONNX Trunc: back to integers, drop low bits, and scale again (version 1 keeps the scale, version 2 has its own)."""
    scale, zero, bits_in = _scale(c, 1), _whole(c, 2, "the zero point"), _bits(c, 3, "the input bit width")
    rounding = _rounding(c, "FLOOR")
    second = len(c.inputs) == 6
    signed, narrow = bool(c.attribute("signed", 1)), bool(c.attribute("narrow", 0))
    bits_out = _bits(c, 5 if second else 4, "the output bit width")
    out_scale = _scale(c, 4) if second else scale
    ratio = np.log2(out_scale / scale) if second else np.asarray(float(bits_in - bits_out))
    if np.any(zero) or ratio.size != 1 or np.any(ratio < 0) or scale.size != 1:
        raise c.error("Trunc needs one scale, no zero point, and at least as many input as output bits")
    factor = 2.0 ** float(np.round(ratio.reshape(())))
    x = c.data(0)
    limit = 1 << 61
    lo, hi = -limit, limit - 1
    if second:
        lo = (-(1 << (bits_out - 1)) + narrow) if signed else 0
        hi = (1 << (bits_out - 1)) - 1 if signed else (1 << bits_out) - 1 - narrow
    zero_point = np.zeros((), np.int64)
    whole = c.add(Quant(scale.reshape(()), zero_point, -limit, limit - 1, Rounding.RND_CONV), x, suffix=".int")
    cut = c.add(Quant(scale.reshape(()) * factor, zero_point, lo, hi, rounding), whole.index, suffix=".cut")
    rescale = out_scale.reshape(()) / (scale.reshape(()) * factor)
    return cut if rescale == 1 else c.add(Scale(rescale), cut.index)


_INTEGER_RANGE = {
    np.dtype(np.uint8): (0, 255),
    np.dtype(np.int8): (-128, 127),
    np.dtype(np.uint16): (0, 65535),
    np.dtype(np.int16): (-32768, 32767),
}


def _channels(c: Context, values: NDArray[Any], x: Value, axis: int) -> NDArray[Any]:
    """A per-channel parameter shaped to broadcast against the (batched) operand."""
    if values.size == 1:
        return values.reshape(())
    rank = c.rank(x)
    if values.ndim != 1 or not -rank <= axis < rank:
        raise c.error(
            f"a per-axis scale must have one axis, not shape {list(values.shape)}, and axis {axis} must exist"
        )
    return values.reshape([-1 if k == axis % rank else 1 for k in range(rank)])


def _quantize_linear(c: Context) -> Value:
    axis = c.attribute("axis", 1)
    c.attribute("saturate", 1)  # only for float8 targets, refused below
    if c.attribute("block_size", 0) or c.attribute("precision", 0) not in (0, 1):
        raise c.error("blocked quantization is not supported", "use one scale per tensor or axis")
    wanted = c.attribute("output_dtype", 0)
    if c.given(2):
        zero = c.constant(2, "the zero point").values
    else:
        zero = np.zeros((), {0: np.uint8, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}.get(wanted, np.float32))
    if zero.dtype not in _INTEGER_RANGE:
        raise c.error(f"the target type must be int8, uint8, int16 or uint16, not {zero.dtype}")
    lo, hi = _INTEGER_RANGE[zero.dtype]
    x = c.operand(0)
    scale = _channels(c, _scale(c, 1), x, axis)
    point = _channels(c, zero.astype(np.int64), x, axis)
    if isinstance(x, Ref):
        scale, point = (c.event(v, len(c.shape(x))) for v in (scale, point))
    # The standard adds the zero point behind the rounding, so it only moves the limits.
    result = _apply_quant(c, Quant(scale, np.zeros((), np.int64), lo - point, hi - point, Rounding.RND_CONV))
    if isinstance(result, Const):
        assert result.ints is not None
        return Const((result.ints + point).astype(zero.dtype))
    return replace(result, codes=Codes(scale, point))


def _dequantize_linear(c: Context) -> Value:
    """The value already carries its scale since QuantizeLinear; stored integer weights get it here."""
    axis = c.attribute("axis", 1)
    if c.attribute("block_size", 0) or c.attribute("output_dtype", 0) not in (0, 1):
        raise c.error("blocked quantization and other types than float32 are not supported")
    x = c.operand(0)
    scale = _channels(c, _scale(c, 1), x, axis)
    zero = _channels(c, _whole(c, 2, "the zero point"), x, axis) if c.given(2) else np.zeros((), np.int64)
    if isinstance(x, Ref):
        rank = len(c.shape(x))
        same = (
            x.codes is not None
            and np.array_equal(x.codes.scale, c.event(scale, rank))
            and np.array_equal(x.codes.zero, c.event(zero, rank))
        )
        if x.codes is None and c.is_whole(x):  # integers that a file begins with
            moved = c.add(Offset(-c.event(zero, rank).astype(np.float64)), x.index, suffix=".zero").index
            return c.add(Scale(c.event(scale, rank)), moved if np.any(zero) else x.index)
        if not same:
            raise c.error("must have the scale and zero point of the QuantizeLinear before it")
        return replace(x, codes=None)
    ints = c.constant(0, "weights").values.astype(np.int64) - zero
    return Const(ints * scale, ints, np.asarray(scale))


QUANTIZERS: dict[str, Callable[[Context], Value]] = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
}
