"""The rounding and overflow modes of ap_fixed, on exact integers; every quantizing op evaluates through here."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["Overflow", "Rounding", "overflowed", "round_fraction", "round_ratio"]


class Rounding(Enum):
    """How a value between two grid points goes to one of them (Vitis HLS user guide UG1399, ap_fixed quantization)."""

    TRN = "TRN"  # towards minus infinity (drop bits)
    TRN_ZERO = "TRN_ZERO"  # towards zero
    RND = "RND"  # nearest, ties towards plus infinity
    RND_ZERO = "RND_ZERO"  # nearest, ties towards zero
    RND_INF = "RND_INF"  # nearest, ties away from zero
    RND_MIN_INF = "RND_MIN_INF"  # nearest, ties towards minus infinity
    RND_CONV = "RND_CONV"  # nearest, ties to even


class Overflow(Enum):
    """What happens to a value outside the target interval (UG1399, ap_fixed overflow)."""

    WRAP = "WRAP"  # drop high bits; needs an interval of a whole power of two
    SAT = "SAT"  # nearest end of the interval
    SAT_ZERO = "SAT_ZERO"  # zero
    SAT_SYM = "SAT_SYM"  # nearest end of the interval made symmetric around zero


def round_ratio(numerator: Any, denominator: Any, mode: Rounding) -> Any:
    """numerator / denominator to an integer, exactly; ints, or arrays of int64 or of Python ints; denominator > 0.

    >>> [round_ratio(n, 2, Rounding.RND_CONV) for n in (-3, -1, 1, 3, 5)]
    [-2, 0, 0, 2, 2]
    """
    down = numerator // denominator
    if mode is Rounding.TRN:
        return down
    rest = numerator - down * denominator
    if mode is Rounding.TRN_ZERO:
        return down + ((numerator < 0) & (rest > 0))
    twice = rest + rest
    above, tie = twice > denominator, twice == denominator
    up_at_tie = {
        Rounding.RND: tie,
        Rounding.RND_MIN_INF: tie & False,
        Rounding.RND_ZERO: tie & (numerator < 0),
        Rounding.RND_INF: tie & (numerator > 0),
        Rounding.RND_CONV: tie & (down % 2 == 1),
    }[mode]
    return down + (above | up_at_tie)


def round_fraction(x: Fraction, mode: Rounding) -> int:
    """An exact rational to an integer."""
    return int(round_ratio(x.numerator, x.denominator, mode))


def overflowed(n: Any, lo: Any, hi: Any, mode: Overflow) -> Any:
    """n brought into lo..hi; for WRAP the interval spans a power of two (checked by the op's type rule)."""
    if mode is Overflow.WRAP:
        return (n - lo) % (hi - lo + 1) + lo
    if mode is Overflow.SAT_ZERO:
        return np.where((n < lo) | (n > hi), 0, n)
    if mode is Overflow.SAT_SYM:
        lo = np.where(np.asarray(lo) < 0, np.maximum(lo, -np.asarray(hi)), lo)
    return np.minimum(np.maximum(n, lo), hi)
