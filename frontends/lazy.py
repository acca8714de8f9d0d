"""A value on its way to fixed point: integers and the exact real meaning that nothing had to realise yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.graph import Builder
from ..ir.ops import Add, Constant, Maximum, Minimum, Mul, Neg, Shift
from ..ir.rational import IDENTITY, Affine, Rational, as_rational, is_power_of_two, power_of_two_exponents
from ..ir.types import MAX_BITS, bit_length
from .real import Dense, Function, Softmax

__all__ = ["MAX_WEIGHT_BITS", "Lazy", "constant", "dyadic", "exact_weight_bits", "materialise", "settle"]

MAX_WEIGHT_BITS = 18
"""Float weights that happen to lie on a grid of up to this many bits are exact as they stand; wider ones were not quantized."""


@dataclass(frozen=True)
class Lazy:
    """real = function(clip(join over pieces of (scale * value(node) + offset), lo, hi)).

    One piece is an affine meaning; several, joined by max or min, are a convex or concave one such as a leaky ReLU.
    """

    node: int
    pieces: tuple[Affine, ...] = (IDENTITY,)
    join: str = "max"
    lo: Fraction | None = None
    hi: Fraction | None = None
    function: Function | Softmax | None = None

    @property
    def simple(self) -> bool:
        """Only an affine meaning is pending."""
        return len(self.pieces) == 1 and self.lo is None and self.hi is None and self.function is None

    @property
    def affine(self) -> Affine:
        return self.pieces[0]

    def scaled(self, factor: Rational) -> Lazy:
        """real * factor; the factor must be a positive number unless the value is simple."""
        pieces = tuple(Affine(times(p.scale, factor), times(p.offset, factor)) for p in self.pieces)
        if self.simple:
            return replace(self, pieces=pieces)
        assert isinstance(factor, Fraction)
        return replace(
            self,
            pieces=pieces,
            lo=None if self.lo is None else self.lo * factor,
            hi=None if self.hi is None else self.hi * factor,
        )

    def clipped(self, lo: Fraction | None, hi: Fraction | None) -> Lazy:
        """clip(real, lo, hi) on top of an earlier clip."""

        def limit(v: Fraction | None, outer: Fraction | None) -> Fraction | None:
            if v is None:
                return outer
            v = v if lo is None else max(v, lo)
            return v if hi is None else min(v, hi)

        return replace(self, lo=limit(self.lo, lo), hi=limit(self.hi, hi))

    def arranged(self, node: int, f: Callable[[Any], Any], shape: tuple[int, ...]) -> Lazy:
        """The value after a layout op: `f` rearranges per-element meanings given at the full `shape`."""

        def move(r: Rational) -> Rational:
            return r if isinstance(r, Fraction) else as_rational(f(np.broadcast_to(r, shape)))

        return replace(self, node=node, pieces=tuple(Affine(move(p.scale), move(p.offset)) for p in self.pieces))


def times(a: Rational, b: Rational) -> Rational:
    return as_rational(np.asarray(a, object) * np.asarray(b, object))


def plus(a: Rational, b: Rational) -> Rational:
    return as_rational(np.asarray(a, object) + np.asarray(b, object))


def is_zero(r: Rational) -> bool:
    return bool(np.all(np.asarray(r, object) == 0))


def dyadic(r: Rational) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(n, exp) with r == n * 2**exp and n odd or zero, or None if some element is no dyadic rational of 62 bits."""
    a = np.asarray(r, object)
    n, exp = np.zeros(a.shape, np.int64), np.zeros(a.shape, np.int64)
    for k, v in np.ndenumerate(a):
        if v.denominator & (v.denominator - 1):
            return None
        zeros = (v.numerator & -v.numerator).bit_length() - 1 if v else 0
        if (abs(v.numerator) >> zeros).bit_length() > MAX_BITS:
            return None
        n[k], exp[k] = v.numerator >> zeros, zeros - (v.denominator.bit_length() - 1)
    return n, exp


def exact_weight_bits(op: Dense) -> np.ndarray | None:
    """The exponent of each column's grid if the float weights are exact in `MAX_WEIGHT_BITS` bits on it, else None."""
    mantissa, exponent = np.frexp(op.weights)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    zeros = np.where(whole == 0, 10**6, np.asarray(bit_length(np.maximum(whole & -whole, 1))) - 1 + exponent - 53)
    grid = np.where(zeros.min(axis=0, initial=10**6) == 10**6, 0, zeros.min(axis=0, initial=10**6))
    bits = int(np.max(np.frexp(np.abs(np.ldexp(op.weights, -grid)).max(initial=0))[1]))
    return grid if bits <= MAX_WEIGHT_BITS else None


def constant(builder: Builder, r: Rational, name: str) -> int | None:
    """A constant node of exactly the rational values, or None if they are not dyadic."""
    found = dyadic(r)
    if found is None:
        return None
    n, exp = found
    low = int(exp.min(initial=0))
    return builder.add(
        Constant(n, exp if exp.size and np.any(exp != exp.flat[0]) else int(exp.flat[0]) if exp.size else low),
        name=name,
    )


def settle(builder: Builder, value: Lazy, name: str) -> Lazy:
    """Realise whatever is not affine (clips, pieces), keeping a scale pending where that is possible."""
    if value.function is not None:
        raise CompileError(
            name,
            f"the result of {_function_name(value)} must be quantized before it is used",
            "add a quantizer behind it, or give --calibrate data.npz",
        )
    if value.simple:
        return value
    p = value.affine
    positive = all(v > 0 for v in np.asarray(p.scale, object).flat)
    if len(value.pieces) == 1 and is_zero(p.offset) and positive and value.lo == 0 and value.hi is None:
        zero = builder.add(Constant(np.zeros((), np.int64), 0), name=f"{name}.zero")
        return Lazy(builder.add(Maximum(), value.node, zero, name=f"{name}.relu"), value.pieces)
    return Lazy(materialise(builder, value, name))


def _function_name(value: Lazy) -> str:
    return value.function.function if isinstance(value.function, Function) else "softmax"


def materialise(builder: Builder, value: Lazy, name: str) -> int:
    """A node whose value is the real value itself. Refused if a scale is no dyadic rational or the result too wide."""
    if value.function is not None:
        settle(builder, value, name)
    nodes = [_affine(builder, value.node, p, name) for p in value.pieces]
    node = nodes[0]
    for other in nodes[1:]:
        node = builder.add(Maximum() if value.join == "max" else Minimum(), node, other, name=f"{name}.{value.join}")
    for limit, op, part in ((value.lo, Maximum(), "low"), (value.hi, Minimum(), "high")):
        if limit is not None:
            called = f"{name}.relu" if limit == 0 and part == "low" else f"{name}.{part}"
            node = builder.add(op, node, _required(builder, limit, f"{called}.limit", name), name=called)
    return node


def _affine(builder: Builder, node: int, p: Affine, name: str) -> int:
    signs = np.sign(np.asarray(p.scale, object).astype(float))
    if is_power_of_two(as_rational(np.abs(np.asarray(p.scale, object)))) and len(np.unique(signs)) == 1:
        by = power_of_two_exponents(as_rational(np.abs(np.asarray(p.scale, object))))
        if np.any(by):
            node = builder.add(Shift(by), node, name=f"{name}.shift")
        if signs.flat[0] < 0:
            node = builder.add(Neg(), node, name=f"{name}.neg")
    else:
        node = builder.add(Mul(), node, _required(builder, p.scale, f"{name}.factor", name), name=f"{name}.scale")
    if is_zero(p.offset):
        return node
    return builder.add(Add(), node, _required(builder, p.offset, f"{name}.bias", name), name=f"{name}.sum")


def _required(builder: Builder, r: Rational, part: str, name: str) -> int:
    found = constant(builder, r, part)
    if found is None:
        worst = max(np.asarray(r, object).flat, key=lambda v: v.denominator)
        raise CompileError(
            name,
            f"the value {float(worst):g} is no multiple of a power of two within {MAX_BITS} bits, so it "
            "cannot be computed exactly here",
            "quantize before this operation",
        )
    return found
