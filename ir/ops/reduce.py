"""Reductions along one axis, which stays with length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import Fixed, Int64, Tensor
from .base import Op, refuse

__all__ = ["ReduceMax", "ReduceSum"]


def _checked_axis(op: Op, axis: int, x: Tensor) -> None:
    if not 0 <= axis < len(x.shape) or not x.shape[axis]:
        raise refuse(op, f"axis {axis} must be one of the operand's axes and not empty, shape {list(x.shape)}")


@dataclass(frozen=True, eq=False)
class ReduceSum(Op):
    """The exact sum along `axis`."""

    name: ClassVar[str] = "reduce_sum"
    arity: ClassVar[int | None] = 1
    axis: int

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        _checked_axis(self, self.axis, x)
        lo, hi, exp = x.arrays()
        shape = tuple(1 if k == self.axis else n for k, n in enumerate(x.shape))
        total = Fixed(0, 0, exp.min(axis=self.axis, keepdims=True))
        for k in range(x.shape[self.axis]):
            total = total + Fixed.of(*(f.take([k], self.axis) for f in (lo, hi, exp)))
        return Tensor(shape, Fixed.of(total.lo, total.hi, total.exp))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        aligned = values[0] << np.asarray(operands[0].fixed.exp - np.asarray(result.fixed.exp))
        return aligned.sum(axis=self.axis + 1, keepdims=True)


@dataclass(frozen=True, eq=False)
class ReduceMax(Op):
    """The largest value along `axis`."""

    name: ClassVar[str] = "reduce_max"
    arity: ClassVar[int | None] = 1
    axis: int

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        _checked_axis(self, self.axis, x)
        lo, hi, exp = x.arrays()
        shape = tuple(1 if k == self.axis else n for k, n in enumerate(x.shape))
        best = Fixed.of(*(f.take([0], self.axis) for f in (lo, hi, exp)))
        for k in range(1, x.shape[self.axis]):
            best = best.maximum(Fixed.of(*(f.take([k], self.axis) for f in (lo, hi, exp))))
        return Tensor(shape, Fixed.of(best.lo, best.hi, best.exp))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        aligned = values[0] << np.asarray(operands[0].fixed.exp - np.asarray(result.fixed.exp))
        return aligned.max(axis=self.axis + 1, keepdims=True)
