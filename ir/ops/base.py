"""What every op is: attributes, a type rule and a value rule; knows no particular op."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..errors import CompileError
from ..types import Int64, Tensor

__all__ = ["Op", "aligned", "broadcast_shape", "refuse"]


class Op(ABC):
    """An op of the language: a frozen dataclass whose fields are its attributes.

    `name` is its spelling in the text form and in messages, `arity` the number of operands (None: one or more).
    """

    name: ClassVar[str]
    arity: ClassVar[int | None]

    @abstractmethod
    def infer(self, *operands: Tensor) -> Tensor:
        """The exact type of the result; `CompileError` if the operands do not fit."""

    @abstractmethod
    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        """The raw integers of the result, ``[events, *shape]``, from those of the operands. This is the law."""


def refuse(op: Op, rule: str, fix: str = "") -> CompileError:
    return CompileError(op.name, rule, fix)


def broadcast_shape(op: Op, *operands: Tensor) -> tuple[int, ...]:
    """numpy's broadcasting, on shapes without the batch axis."""
    try:
        return tuple(np.broadcast_shapes(*(t.shape for t in operands)))
    except ValueError:
        shapes = " and ".join(str(list(t.shape)) for t in operands)
        raise refuse(op, f"operand shapes must broadcast, not {shapes}") from None


def aligned(result: Tensor, operands: Sequence[Tensor], values: Sequence[Int64]) -> list[Int64]:
    """The values of all operands at the result's exponent, with batch axis in front of the broadcast shape."""
    rank = len(result.shape)
    spread = [v.reshape((v.shape[0],) + (1,) * (rank - (v.ndim - 1)) + v.shape[1:]) for v in values]
    out: list[Int64] = []
    for v, t in zip(spread, operands):
        exp = t.fixed.exp if isinstance(t.fixed.exp, int) else np.broadcast_to(t.fixed.exp, t.shape)
        out.append(v << np.asarray(exp - np.asarray(result.fixed.exp), np.int64))
    return out
