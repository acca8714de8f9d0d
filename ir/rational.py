"""Exact rational scales, one per tensor or per element; knows nothing of ops."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .types import Int64

__all__ = ["IDENTITY", "Affine", "Rational", "as_rational", "is_power_of_two", "power_of_two_exponents", "ratio_parts"]

Rational: TypeAlias = Fraction | NDArray[np.object_]
"""A Fraction, or an object array of Fractions."""


def as_rational(x: Any) -> Rational:
    """Floats become the dyadic rationals they are; equal elements collapse to one Fraction.

    >>> as_rational([0.5, 0.5])
    Fraction(1, 2)
    """
    if isinstance(x, Fraction):
        return x
    a = np.asarray(x)
    if a.ndim == 0:
        return Fraction(a.item())
    if a.dtype != object:
        unique, inverse = np.unique(a, return_inverse=True)
        table = np.empty(unique.size, object)
        table[:] = [Fraction(v) for v in unique.tolist()]
        a = table[inverse.reshape(a.shape)]
    first = a.flat[0]
    return Fraction(first) if all(v == first for v in a.flat) else a


def is_power_of_two(x: Rational) -> bool:
    """True if every element is plus 2**k for some integer k."""
    return all(
        v > 0 and v.numerator & (v.numerator - 1) == 0 and v.denominator & (v.denominator - 1) == 0
        for v in _elements(x)
    )


def _elements(x: Rational) -> list[Any]:
    return [x] if isinstance(x, Fraction) else x.reshape(-1).tolist()


def power_of_two_exponents(x: Rational) -> int | Int64:
    """k of each element 2**k; the elements must be powers of two."""

    def k(v: Fraction) -> int:
        return v.numerator.bit_length() - v.denominator.bit_length()

    if isinstance(x, Fraction):
        return k(x)
    return np.array([k(v) for v in _elements(x)], np.int64).reshape(x.shape)


def ratio_parts(x: Rational) -> tuple[Any, Any]:
    """(numerators, denominators) as ints or object arrays of ints."""
    if isinstance(x, Fraction):
        return x.numerator, x.denominator
    parts = np.array([(v.numerator, v.denominator) for v in _elements(x)], object).reshape((*x.shape, 2))
    return parts[..., 0], parts[..., 1]


@dataclass(frozen=True, eq=False)
class Affine:
    """real = scale * value + offset, exactly: what a graph's input or output integers mean."""

    scale: Rational = Fraction(1)
    offset: Rational = Fraction(0)

    @property
    def is_identity(self) -> bool:
        return (
            isinstance(self.scale, Fraction)
            and self.scale == 1
            and isinstance(self.offset, Fraction)
            and self.offset == 0
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Affine) and bool(
            np.all(np.asarray(self.scale == other.scale)) and np.all(np.asarray(self.offset == other.offset))
        )

    def __hash__(self) -> int:
        return hash(str((self.scale, self.offset)))


IDENTITY = Affine()
