"""Ops without operands: what enters a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..rational import IDENTITY, Affine
from ..rounding import Overflow, Rounding
from ..types import Fixed, Int64, IntLike, Tensor
from .base import Op, refuse

__all__ = ["Constant", "Input"]


@dataclass(frozen=True, eq=False)
class Input(Op):
    """One input of the graph: raw integers of type `fixed` for each event.

    `real` says what the integers mean (real = scale * n * 2**exp + offset); `rounding` and `overflow` say how real
    data become integers on the host, before the hardware.
    """

    name: ClassVar[str] = "input"
    arity: ClassVar[int | None] = 0
    shape: tuple[int, ...]
    fixed: Fixed
    real: Affine = field(default=IDENTITY)
    rounding: Rounding = Rounding.RND_CONV
    overflow: Overflow = Overflow.SAT

    def infer(self, *operands: Tensor) -> Tensor:
        return Tensor(self.shape, self.fixed)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        raise refuse(self, "an input has no value of its own", "give data for every input")


@dataclass(frozen=True, eq=False)
class Constant(Op):
    """The same integers in every event: ``values * 2**exp``."""

    name: ClassVar[str] = "constant"
    arity: ClassVar[int | None] = 0
    values: Int64
    exp: IntLike = 0

    def infer(self, *operands: Tensor) -> Tensor:
        return Tensor(self.values.shape, Fixed.of(self.values, self.values, self.exp))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return self.values[np.newaxis]
