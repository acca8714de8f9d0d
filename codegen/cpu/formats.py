"""Which number format each matrix of the CPU engine uses, decided by the proven intervals; emits no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.errors import CompileError
from ...ir.ops import Linear
from ...ir.types import Int64, Tensor

__all__ = ["FORMATS", "DenseTables", "dense_tables"]

_INT32 = (1 << 31) - 1

FORMATS = ("u8", "s16", "i32", "i64")
"""Operand formats, fastest first: unsigned bytes x int8, int16 x int16, int32 x int32, int64 x int64."""

GROUP = {"u8": 4, "s16": 2, "i32": 1, "i64": 1}
"""Operand values that share one lane."""


@dataclass(frozen=True)
class DenseTables:
    """One matrix ready for a kernel: result raw integer j = bias[j] + sum_i weights[j, i] * (x[i] + offset)."""

    format: str
    offset: int
    weights: Int64  # [n_out, n_in]
    bias: Int64  # [n_out]


def dense_tables(
    op: Linear, x: Tensor, result: Tensor, extra_shift: Int64, extra_bias: Int64
) -> tuple[DenseTables, ...]:
    """The tables of ``(linear(x) << extra_shift) + extra_bias``: one for all leading positions, or one for each where types differ.

    `extra_shift` and `extra_bias` are ``[n_out]``. The format is the fastest whose operands, weights and every partial sum
    fit; positions of different types share a format that does not pack their operands.
    """
    n_in, n_out = op.weights.shape
    rows = [f.reshape(-1, n_in) for f in x.arrays()]
    out = np.broadcast_to(np.asarray(result.fixed.exp, np.int64), result.shape).reshape(-1, n_out)
    if all((f == f[:1]).all() for f in (rows[2], out)):
        hull = (rows[0].min(initial=0), rows[1].max(initial=0))
        return (_one(op, rows[2][:1], out[:1], hull, extra_shift, extra_bias, FORMATS),)
    for formats in (("i32",), ("i64",)):
        tables = [
            _one(
                op, e[None], o[None], (int(lo.min(initial=0)), int(hi.max(initial=0))), extra_shift, extra_bias, formats
            )
            for lo, hi, e, o in zip(*rows, out)
        ]
        if all(t is not None for t in tables):
            return tuple(tables)
    raise CompileError("linear", "its sums do not fit 64 bits in the cpu engine", "quantize the operand")


def _one(
    op: Linear,
    exp: Int64,
    out: Int64,
    interval: tuple[int, int],
    extra_shift: Int64,
    extra_bias: Int64,
    formats: tuple[str, ...],
) -> Any:
    up = (
        exp[0][:, None] + np.asarray(op.exp) - out[0] + extra_shift
    )  # of weight [i, j]; negative where its low bits are zero
    weights = np.where(up >= 0, op.weights << np.maximum(up, 0), op.weights >> np.maximum(-up, 0)).T
    low, high = (int(v) for v in interval)
    offset = 0 if low >= 0 and high <= 255 else 128 if low >= -128 and high <= 127 else -low
    for name in formats:
        shift = offset if name == "u8" else 0
        bias = extra_bias - shift * weights.sum(axis=1)
        largest = max(abs(low + shift), abs(high + shift))
        sums = np.abs(weights).astype(float) @ np.full(weights.shape[1], float(largest)) + np.abs(bias)
        if _fits(name, low + shift, high + shift, weights, float(sums.max(initial=0))):
            return DenseTables(name, shift, weights, bias)
    return None


def _fits(name: str, low: int, high: int, weights: Int64, bound: float) -> bool:
    least, most = int(weights.min(initial=0)), int(weights.max(initial=0))
    if name == "u8":
        return low >= 0 and high <= 255 and least >= -128 and most <= 127 and bound < _INT32
    if name == "s16":
        return low >= -32768 and high <= 32767 and least >= -32768 and most <= 32767 and bound < _INT32
    if name == "i32":
        return max(-low, high) <= _INT32 and max(-least, most) <= _INT32 and bound < _INT32
    return bound < 2.0**62
