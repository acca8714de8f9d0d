"""Which dot products a matrix becomes, decided by the proven intervals so that every sum is exact; writes no text.

Tensor cores multiply int8 and float16. An int8 product whose sums stay inside int32 is exact (the hardware saturates, so
that must be proved); float16 operands up to 2**11 whose sums stay below 2**24 are exact in float32. Wider integers are
split into signed base-256 digits: each pair of digits is an int8 product again, shifted and added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.errors import CompileError
from ...ir.ops import Linear
from ...ir.types import Int64, Tensor

__all__ = ["Dot", "choose", "digits"]

_INT32 = (1 << 31) - 1
_LONGEST = _INT32 // (128 * 128)
"""Products of two digits that int32 can sum."""


@dataclass(frozen=True, eq=False)
class Dot:
    """``sum_i (x[i] - offset) * weights[i, j]`` as products of number format `kind` ("int8" or "float16").

    `operand_digits`, and the weights' digits ``[digit, n_in, n_out]``: 1 each where the numbers are taken whole. `wide`:
    the sums need int64. `fold`: what the offset adds to each column, ``[n_out]``.
    """

    kind: str
    offset: int
    operand_digits: int
    weights: Int64
    wide: bool
    fold: Int64


def digits(values: Int64) -> Int64:
    """Signed base-256 digits -128..127, the lowest first, ``[digits, ...]``; as many as the values need."""
    rest, found = np.asarray(values, np.int64), []
    while not found or rest.any():
        digit = ((rest + 128) & 255) - 128
        found.append(digit)
        rest = (rest - digit) >> 8
    return np.stack(found)


def choose(op: Linear, x: Tensor) -> Dot:
    """The fastest exact products of a linear node, whose operand is brought to one exponent first.

    Raises `CompileError` for more than 131,071 inputs.
    """
    lo, hi, _, _ = op.operand_rows(x)
    low, high = int(lo.min(initial=0)), int(hi.max(initial=0))
    w, n_in = op.weights, op.weights.shape[0]
    if n_in > _LONGEST:
        raise CompileError("linear", f"the gpu backend sums at most {_LONGEST} products, not {n_in}")
    total = op.partial_sum_bound(x)
    wide = total > _INT32 - 7  # room for the digits' roundings
    offset = 0 if low >= -128 and high <= 127 else low + 128 if high - low <= 255 else 0
    largest = max(abs(low - offset), abs(high - offset))
    sums = int(np.abs(w).sum(axis=0).max(initial=0)) * largest
    magnitude = int(np.abs(w).max(initial=0))
    fits = low - offset >= -128 and high - offset <= 127
    if fits and int(w.min(initial=0)) >= -128 and int(w.max(initial=0)) <= 127 and sums <= _INT32:
        return Dot("int8", offset, 1, w[None], wide, offset * w.sum(axis=0))
    none = np.zeros(w.shape[1], np.int64)
    if max(-low, high) <= 1 << 11 and magnitude <= 1 << 11 and total < 1 << 24:
        return Dot("float16", 0, 1, w[None], False, none)
    count = digits(np.array([low, high])).shape[0]
    return Dot("int8", 0, count, digits(w), wide, none)
