"""Elementwise ops that lose nothing: the result type holds every possible result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import Fixed, Int64, IntLike, Tensor
from .base import Op, aligned, broadcast_shape

__all__ = ["Add", "Maximum", "Minimum", "Mul", "Neg", "Shift", "Sub"]


@dataclass(frozen=True, eq=False)
class Add(Op):
    """x + y, broadcasting."""

    name: ClassVar[str] = "add"
    arity: ClassVar[int | None] = 2

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        return Tensor(broadcast_shape(self, x, y), x.fixed + y.fixed)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        x, y = aligned(result, operands, values)
        return x + y


@dataclass(frozen=True, eq=False)
class Sub(Op):
    """x - y, broadcasting."""

    name: ClassVar[str] = "sub"
    arity: ClassVar[int | None] = 2

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        return Tensor(broadcast_shape(self, x, y), x.fixed - y.fixed)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        x, y = aligned(result, operands, values)
        return x - y


@dataclass(frozen=True, eq=False)
class Mul(Op):
    """x * y elementwise, broadcasting; exponents add."""

    name: ClassVar[str] = "mul"
    arity: ClassVar[int | None] = 2

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        return Tensor(broadcast_shape(self, x, y), x.fixed * y.fixed)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        rank = len(result.shape)
        x, y = (v.reshape((v.shape[0],) + (1,) * (rank - (v.ndim - 1)) + v.shape[1:]) for v in values)
        return x * y


@dataclass(frozen=True, eq=False)
class Maximum(Op):
    """max(x, y), broadcasting; ReLU is the maximum with the constant 0."""

    name: ClassVar[str] = "maximum"
    arity: ClassVar[int | None] = 2

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        return Tensor(broadcast_shape(self, x, y), x.fixed.maximum(y.fixed))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        x, y = aligned(result, operands, values)
        return np.maximum(x, y)


@dataclass(frozen=True, eq=False)
class Minimum(Op):
    """min(x, y), broadcasting."""

    name: ClassVar[str] = "minimum"
    arity: ClassVar[int | None] = 2

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        return Tensor(broadcast_shape(self, x, y), x.fixed.minimum(y.fixed))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        x, y = aligned(result, operands, values)
        return np.minimum(x, y)


@dataclass(frozen=True, eq=False)
class Neg(Op):
    """-x."""

    name: ClassVar[str] = "neg"
    arity: ClassVar[int | None] = 1

    def infer(self, *operands: Tensor) -> Tensor:
        return Tensor(operands[0].shape, -operands[0].fixed)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return -values[0]


@dataclass(frozen=True, eq=False)
class Shift(Op):
    """x * 2**by: the same integers with another exponent, so it costs no hardware."""

    name: ClassVar[str] = "shift"
    arity: ClassVar[int | None] = 1
    by: IntLike

    def infer(self, *operands: Tensor) -> Tensor:
        x = operands[0].fixed
        return Tensor(operands[0].shape, Fixed.of(x.lo, x.hi, x.exp + np.asarray(self.by)))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return values[0]
