"""Comparisons and choices: elementwise, exact, on the values and not on their integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import Fixed, Int64, Tensor
from .base import Op, aligned, broadcast_shape, refuse

__all__ = ["RELATIONS", "Compare", "Select"]

RELATIONS = ("less", "less_equal", "equal")
"""The relations of `Compare`; the other three are these with operands exchanged or the result negated."""


@dataclass(frozen=True, eq=False)
class Compare(Op):
    """1 where x < y (`relation` "less"), x <= y ("less_equal") or x == y ("equal"), else 0, broadcasting."""

    name: ClassVar[str] = "compare"
    arity: ClassVar[int | None] = 2
    relation: str

    def infer(self, *operands: Tensor) -> Tensor:
        x, y = operands
        if self.relation not in RELATIONS:
            raise refuse(self, f"the relation must be one of {', '.join(RELATIONS)}, not '{self.relation}'")
        gap = x.fixed - y.fixed  # its sign decides, and it is known to fit
        lo, hi = np.asarray(gap.lo), np.asarray(gap.hi)
        if self.relation == "less":
            always, never = hi < 0, lo >= 0
        elif self.relation == "less_equal":
            always, never = hi <= 0, lo > 0
        else:
            always, never = (lo == 0) & (hi == 0), (lo > 0) | (hi < 0)
        return Tensor(broadcast_shape(self, x, y), Fixed.of(always.astype(np.int64), 1 - never.astype(np.int64), 0))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        gap = Tensor(result.shape, operands[0].fixed - operands[1].fixed)
        x, y = aligned(gap, operands, values)
        found = x < y if self.relation == "less" else x <= y if self.relation == "less_equal" else x == y
        return found.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Select(Op):
    """x where the condition (first operand, 0 or 1) is 1, else y, broadcasting."""

    name: ClassVar[str] = "select"
    arity: ClassVar[int | None] = 3

    def infer(self, *operands: Tensor) -> Tensor:
        condition, x, y = operands
        c = condition.fixed
        lo, hi = np.asarray(c.lo), np.asarray(c.hi)
        if np.any(lo < 0) or np.any(hi > 1) or np.any((np.asarray(c.exp) != 0) & (hi > 0)):
            raise refuse(self, f"the condition must be 0 or 1, not within {c}", "compare it with a constant first")
        both = x.fixed.union(y.fixed)
        one, other = x.fixed.at(both.exp), y.fixed.at(both.exp)
        low = np.where(lo == 1, one.lo, np.where(hi == 0, other.lo, both.lo))
        high = np.where(lo == 1, one.hi, np.where(hi == 0, other.hi, both.hi))
        return Tensor(broadcast_shape(self, condition, x, y), Fixed.of(low, high, both.exp))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        x, y = aligned(result, operands[1:], values[1:])
        rank, c = len(result.shape), values[0]
        return np.where(c.reshape((c.shape[0],) + (1,) * (rank - (c.ndim - 1)) + c.shape[1:]) == 1, x, y)
