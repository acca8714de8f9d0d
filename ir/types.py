"""Fixed-point types as sets of integers, and exact interval arithmetic on them; knows nothing of ops or graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import CompileError

__all__ = ["MAX_BITS", "Fixed", "Int64", "IntLike", "Tensor", "bit_length", "trailing_zeros"]

Int64: TypeAlias = NDArray[np.int64]
IntLike: TypeAlias = int | Int64

MAX_BITS = 62
"""Widest integer a type may need: sums and shifts of two such values still fit the int64 of every engine."""

_LIMIT = 1 << MAX_BITS


def bit_length(n: IntLike) -> IntLike:
    """Bits of the magnitude, like `int.bit_length`, elementwise for non-negative int64.

    >>> bit_length(np.array([0, 1, 255, 256])).tolist()
    [0, 1, 8, 9]
    """
    if isinstance(n, int):
        return n.bit_length()
    rest, bits = np.array(n), np.zeros(np.shape(n), np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = rest >= (1 << step)
        bits[big] += step
        rest[big] >>= step
    return bits + (rest > 0)


def trailing_zeros(n: IntLike) -> IntLike:
    """Number of low zero bits, elementwise; 63 for zero, whose low bits are all zero."""
    if isinstance(n, int):
        return ((n & -n).bit_length() - 1) if n else 63
    return np.where(n == 0, 63, bit_length(np.maximum(n & -n, 1)) - 1)


def _plain(x: ArrayLike) -> IntLike:
    """A Python int if all elements are equal, else an int64 array: one spelling for each type."""
    if isinstance(x, int):
        return x
    a = np.asarray(x, np.int64)
    if a.size == 0:
        return 0
    first = int(a.flat[0])
    return first if a.ndim == 0 or bool((a == first).all()) else a


def _lower(a: IntLike, b: IntLike) -> IntLike:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else np.minimum(a, b)


def _upper(a: IntLike, b: IntLike) -> IntLike:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def _largest(a: IntLike) -> int:
    """Largest magnitude in `a`."""
    return abs(a) if isinstance(a, int) else max(abs(int(a.max())), abs(int(a.min())))


def _checked(bound: int) -> None:
    if bound >= _LIMIT:
        raise CompileError(
            "type",
            f"a value of {bound.bit_length()} bits exceeds the {MAX_BITS} bits that every engine computes exactly",
            "quantize before this operation",
        )


def _shifted(n: IntLike, by: IntLike) -> IntLike:
    """n * 2**by with by >= 0, refusing what needs more than MAX_BITS."""
    if isinstance(n, int) and isinstance(by, int):
        _checked(abs(n) << by if n else 0)
        return n << by
    n, by = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(by, np.int64))
    by = np.where(n == 0, 0, by)
    bits = bit_length(np.abs(n)) + by
    if bits.size:
        _checked((1 << int(bits.max())) >> 1)
    return n << by


@dataclass(frozen=True, eq=False)
class Fixed:
    """The set ``{n * 2**exp : lo <= n <= hi}``; each field an int, or an int64 array with one type per element.

    Arithmetic gives the exact type of the result, so an accumulator cannot overflow. Anything above 62 bits raises
    `CompileError`.

    >>> Fixed(-128, 127, -4) + Fixed(0, 255, -6)
    Fixed(-512, 763, -6)
    >>> Fixed(-128, 127, -4).ap_fixed
    'ap_fixed<8,4>'
    """

    lo: IntLike
    hi: IntLike
    exp: IntLike

    @classmethod
    def of(cls, lo: ArrayLike, hi: ArrayLike, exp: ArrayLike) -> Fixed:
        """From anything numpy takes; equal elements collapse to ints, empty or too wide intervals are refused."""
        t = cls(_plain(lo), _plain(hi), _plain(exp))
        if np.any(np.asarray(t.lo) > np.asarray(t.hi)):
            raise CompileError("type", f"the lowest value must not exceed the highest, got {t}")
        _checked(max(_largest(t.lo), _largest(t.hi)))
        if _largest(t.exp) > 1024:
            raise CompileError("type", f"exponents must be within -1024..1024, got {t}")
        return t

    @classmethod
    def bits(cls, width: int, integer: int, signed: bool) -> Fixed:
        """``ap_fixed<width, integer>`` (or ``ap_ufixed``): the integer bits include the sign."""
        lo, hi = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
        return cls.of(lo, hi, integer - width)

    # ---- derived ----------------------------------------------------------------------------------------------

    @property
    def signed(self) -> bool | NDArray[np.bool_]:
        return self.lo < 0

    @property
    def width(self) -> IntLike:
        """Bits of two's complement (or of an unsigned integer when nothing is negative); 0 for the constant zero."""
        if isinstance(self.lo, int) and isinstance(self.hi, int):
            return max((-self.lo - 1).bit_length() if self.lo < 0 else 0, max(self.hi, 0).bit_length()) + (self.lo < 0)
        lo, hi = np.asarray(self.lo), np.asarray(self.hi)
        below = bit_length(np.where(lo < 0, -lo - 1, 0))
        return np.maximum(below, bit_length(np.maximum(hi, 0))) + (lo < 0)

    @property
    def kif(self) -> tuple[IntLike, IntLike, IntLike]:
        """(sign bit, integer bits without sign, fractional bits)."""
        k = int(self.signed) if isinstance(self.signed, bool) else np.asarray(self.signed, np.int64)
        return k, self.width - k + self.exp, -self.exp

    @property
    def ap_fixed(self) -> str:
        """The smallest C++ type that holds a uniform type; for per-element types use `element`."""
        if not (isinstance(self.lo, int) and isinstance(self.exp, int)):
            t = self.hull()
            return t.ap_fixed
        w = max(int(self.width), 1)
        return f"ap_{'' if self.lo < 0 else 'u'}fixed<{w},{w + self.exp}>"

    @property
    def uniform(self) -> bool:
        return isinstance(self.lo, int) and isinstance(self.hi, int) and isinstance(self.exp, int)

    def arrays(self, shape: Sequence[int]) -> tuple[Int64, Int64, Int64]:
        """(lo, hi, exp) broadcast to `shape`, read-only."""
        lo, hi, exp = (np.broadcast_to(np.asarray(f, np.int64), shape) for f in (self.lo, self.hi, self.exp))
        return lo, hi, exp

    def hull(self) -> Fixed:
        """The smallest uniform type that contains every element."""
        if self.uniform:
            return self
        exp = int(np.min(self.exp))
        lo, hi = _shifted(self.lo, self.exp - exp), _shifted(self.hi, self.exp - exp)
        return Fixed.of(int(np.min(lo)), int(np.max(hi)), exp)

    def map(self, f: Callable[[Int64], Int64]) -> Fixed:
        """Apply a layout function (array -> array) to each per-element field."""
        return Fixed.of(*(x if isinstance(x, int) else f(x) for x in (self.lo, self.hi, self.exp)))

    # ---- exact arithmetic ---------------------------------------------------------------------------------------

    def at(self, exp: IntLike) -> Fixed:
        """The same values counted in units of 2**exp, where exp is not above the type's own."""
        by = self.exp - exp
        return Fixed(_shifted(self.lo, by), _shifted(self.hi, by), exp)

    def _aligned(self, other: Fixed) -> tuple[Fixed, Fixed]:
        if isinstance(self.exp, int) and isinstance(other.exp, int) and self.exp == other.exp:
            return self, other
        exp = _lower(self.exp, other.exp)
        return self.at(exp), other.at(exp)

    def __add__(self, other: Fixed) -> Fixed:
        a, b = self._aligned(other)
        return _result(a.lo + b.lo, a.hi + b.hi, a.exp)

    def __sub__(self, other: Fixed) -> Fixed:
        a, b = self._aligned(other)
        return _result(a.lo - b.hi, a.hi - b.lo, a.exp)

    def __neg__(self) -> Fixed:
        return Fixed(-self.hi, -self.lo, self.exp)

    def __mul__(self, other: Fixed) -> Fixed:
        bound = max(_largest(self.lo), _largest(self.hi)) * max(_largest(other.lo), _largest(other.hi))
        if bound >= _LIMIT and not (self.uniform and other.uniform):  # per element it may still fit
            bits = np.max(np.asarray(self.width) + np.asarray(other.width))
            bound = (1 << int(bits)) >> 1
        _checked(bound)
        corners = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        lo, hi = corners[0], corners[0]
        for c in corners[1:]:
            lo, hi = _lower(lo, c), _upper(hi, c)
        return Fixed.of(lo, hi, self.exp + other.exp)

    def maximum(self, other: Fixed) -> Fixed:
        a, b = self._aligned(other)
        return _result(_upper(a.lo, b.lo), _upper(a.hi, b.hi), a.exp)

    def minimum(self, other: Fixed) -> Fixed:
        a, b = self._aligned(other)
        return _result(_lower(a.lo, b.lo), _lower(a.hi, b.hi), a.exp)

    def union(self, other: Fixed) -> Fixed:
        """The smallest type that holds every value of both."""
        a, b = self._aligned(other)
        return _result(_lower(a.lo, b.lo), _upper(a.hi, b.hi), a.exp)

    def __lshift__(self, by: IntLike) -> Fixed:
        return Fixed(self.lo, self.hi, _plain(self.exp + by))

    # ---- comparison and text ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and all(
            np.array_equal(x, y) for x, y in zip((self.lo, self.hi, self.exp), (other.lo, other.hi, other.exp))
        )

    def __hash__(self) -> int:
        return hash(tuple(np.asarray(x).tobytes() for x in (self.lo, self.hi, self.exp)))

    def __repr__(self) -> str:
        return (
            "Fixed("
            + ", ".join(str(x if isinstance(x, int) else x.tolist()) for x in (self.lo, self.hi, self.exp))
            + ")"
        )


def _result(lo: IntLike, hi: IntLike, exp: IntLike) -> Fixed:
    """A computed type: the operands were below 2**62, so int64 holds the sums and only the limit needs a look."""
    if isinstance(lo, int) and isinstance(hi, int) and isinstance(exp, int):
        if hi >= _LIMIT or lo <= -_LIMIT:
            _checked(max(abs(lo), abs(hi)))
        return Fixed(lo, hi, exp)
    return Fixed.of(lo, hi, exp)


@dataclass(frozen=True)
class Tensor:
    """The type of one op's result for one event: a shape (no batch axis) and its fixed-point type."""

    shape: tuple[int, ...]
    fixed: Fixed

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def arrays(self) -> tuple[Int64, Int64, Int64]:
        """(lo, hi, exp), each of `shape`."""
        return self.fixed.arrays(self.shape)

    def flat(self) -> tuple[Int64, Int64, Int64]:
        """(lo, hi, exp), each of `size` in row-major order."""
        lo, hi, exp = self.arrays()
        return lo.reshape(-1), hi.reshape(-1), exp.reshape(-1)
