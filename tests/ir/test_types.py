"""Fixed-point types against sets of fractions, enumerated."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwcompile import CompileError
from hwcompile.ir.types import MAX_BITS, Fixed, Tensor, bit_length, trailing_zeros


@st.composite
def small(draw):
    lo = draw(st.integers(-9, 9))
    return Fixed.of(lo, lo + draw(st.integers(0, 8)), draw(st.integers(-3, 3)))


def values(t):
    return {Fraction(n) * Fraction(2) ** t.exp for n in range(t.lo, t.hi + 1)}


@pytest.mark.parametrize(
    "name,f",
    [
        ("__add__", lambda a, b: a + b),
        ("__sub__", lambda a, b: a - b),
        ("__mul__", lambda a, b: a * b),
        ("maximum", max),
        ("minimum", min),
    ],
)
@given(a=small(), b=small())
def test_result_type_is_the_smallest_interval_of_the_exact_results(name, f, a, b):
    result = getattr(a, name)(b)
    exact = {f(x, y) for x, y in product(values(a), values(b))}
    unit = Fraction(2) ** result.exp
    assert all((v / unit).denominator == 1 for v in exact)
    assert (min(exact) / unit, max(exact) / unit) == (result.lo, result.hi)


@given(a=small())
def test_neg_and_width(a):
    assert values(-a) == {-v for v in values(a)}
    bits = a.width
    lowest, highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if a.lo < 0 else (0, (1 << bits) - 1)
    assert lowest <= a.lo
    assert a.hi <= highest
    if bits > 1:  # one bit less would not do
        narrower = (-(1 << (bits - 2)), (1 << (bits - 2)) - 1) if a.lo < 0 else (0, (1 << (bits - 1)) - 1)
        assert a.lo < narrower[0] or a.hi > narrower[1]


@given(st.lists(st.integers(0, 2**62), min_size=2, max_size=20))
def test_bit_length_and_trailing_zeros_equal_python(n):
    a = np.array(n, np.int64)
    assert bit_length(a).tolist() == [v.bit_length() for v in n]
    assert trailing_zeros(a).tolist() == [(v & -v).bit_length() - 1 if v else 63 for v in n]


def test_per_element_types_collapse_when_equal():
    assert Fixed.of([1, 1], [3, 3], [0, 0]) == Fixed(1, 3, 0)
    t = Fixed.of([0, -4], [3, 3], [0, -1])
    assert t.hull() == Fixed(-4, 6, -1)
    assert t.width.tolist() == [2, 3]
    assert Fixed.bits(8, 4, True).ap_fixed == "ap_fixed<8,4>"
    assert Fixed.of(0, 255, -8).ap_fixed == "ap_ufixed<8,0>"
    assert Fixed.of(-128, 127, -4).kif == (1, 3, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed.of(0, 1 << MAX_BITS, 0),
        lambda: Fixed.of(0, 1 << 40, 0) * Fixed.of(0, 1 << 40, 0),
        lambda: Fixed.of([0, 0], [1, 1 << 40], 0) * Fixed.of(0, 1 << 40, 0),
        lambda: Fixed.of(0, 1, 50) + Fixed.of(0, 1, -50),
        lambda: Fixed.of([0, 0], [1, 1], [50, 60]) + Fixed.of(0, 1, -50),
    ],
)
def test_more_than_62_bits_are_refused(make):
    with pytest.raises(CompileError, match="62 bits"):
        make()


def test_empty_interval_is_refused():
    with pytest.raises(CompileError, match="lowest value must not exceed"):
        Fixed.of(2, 1, 0)


def test_tensor_broadcasts_its_type():
    lo, hi, exp = Tensor((2, 3), Fixed.of([0, 1, 2], 7, -1)).flat()
    assert lo.tolist() == [0, 1, 2, 0, 1, 2]
    assert hi.tolist() == [7] * 6
    assert exp.tolist() == [-1] * 6
