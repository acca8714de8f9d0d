"""Rounding and overflow modes against their definitions on fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwcompile.ir.rounding import Overflow, Rounding, overflowed, round_fraction, round_ratio

HALF = Fraction(1, 2)


def nearest(x, tie):
    down = math.floor(x)
    return down if x - down < HALF else down + 1 if x - down > HALF else tie(down)


DEFINITIONS = {
    Rounding.TRN: math.floor,
    Rounding.TRN_ZERO: math.trunc,
    Rounding.RND: lambda x: nearest(x, lambda d: d + 1),
    Rounding.RND_MIN_INF: lambda x: nearest(x, lambda d: d),
    Rounding.RND_ZERO: lambda x: nearest(x, lambda d: d if x > 0 else d + 1),
    Rounding.RND_INF: lambda x: nearest(x, lambda d: d + 1 if x > 0 else d),
    Rounding.RND_CONV: lambda x: nearest(x, lambda d: d + d % 2),
}


@pytest.mark.parametrize("mode", Rounding)
@given(n=st.integers(-(10**6), 10**6), d=st.integers(1, 64))
def test_rounding(mode, n, d):
    expected = DEFINITIONS[mode](Fraction(n, d))
    assert round_fraction(Fraction(n, d), mode) == expected
    assert round_ratio(np.array([n]), np.int64(d), mode).tolist() == [expected]
    assert round_ratio(np.array([n], object), d, mode).tolist() == [expected]


@given(n=st.integers(-100, 100), bits=st.integers(1, 5), signed=st.booleans())
def test_overflow(n, bits, signed):
    lo, hi = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def result(mode):
        return int(np.asarray(overflowed(np.array([n]), lo, hi, mode)).reshape(-1)[0])

    wrapped = n & ((1 << bits) - 1)
    assert result(Overflow.WRAP) == (wrapped - (1 << bits) if signed and wrapped > hi else wrapped)
    assert result(Overflow.SAT) == min(max(n, lo), hi)
    assert result(Overflow.SAT_ZERO) == (n if lo <= n <= hi else 0)
    assert result(Overflow.SAT_SYM) == min(max(n, max(lo, -hi) if signed else 0), hi)
