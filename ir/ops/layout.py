"""Ops that move values and change none: wires in hardware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import Fixed, Int64, Tensor
from .base import Op, refuse

__all__ = ["Concat", "Gather", "Layout", "Reshape", "Transpose"]


@dataclass(frozen=True, eq=False)
class Layout(Op):
    """An op whose elements are elements of its only operand, or 0."""

    arity: ClassVar[int | None] = 1

    def source(self, shape: Sequence[int]) -> Int64:
        """In the result's shape: the flat index into an operand of `shape` that each element is; -1: it is 0."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Reshape(Layout):
    """The same values in row-major order under another shape."""

    name: ClassVar[str] = "reshape"
    shape: tuple[int, ...]

    def source(self, shape: Sequence[int]) -> Int64:
        return np.arange(math.prod(shape), dtype=np.int64).reshape(self.shape)

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        if int(np.prod(self.shape, dtype=np.int64)) != x.size:
            raise refuse(self, f"{list(x.shape)} cannot become {list(self.shape)}: the element counts differ")
        return Tensor(self.shape, _spread(x).map(lambda f: f.reshape(self.shape)))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return values[0].reshape((values[0].shape[0], *self.shape))


@dataclass(frozen=True, eq=False)
class Transpose(Layout):
    """Axes in the order `axes` (without the batch axis), as numpy's transpose."""

    name: ClassVar[str] = "transpose"
    axes: tuple[int, ...]

    def source(self, shape: Sequence[int]) -> Int64:
        return np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape)).transpose(self.axes)

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        if sorted(self.axes) != list(range(len(x.shape))):
            raise refuse(self, f"axes must order the {len(x.shape)} axes of the operand, not {list(self.axes)}")
        return Tensor(tuple(x.shape[a] for a in self.axes), _spread(x).map(lambda f: f.transpose(self.axes)))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return values[0].transpose((0, *(a + 1 for a in self.axes)))


@dataclass(frozen=True, eq=False)
class Gather(Layout):
    """result.flat[k] = x.flat[indices.flat[k]]: slices, crops, repeats and any other fixed choice of elements."""

    name: ClassVar[str] = "gather"
    indices: Int64

    def source(self, shape: Sequence[int]) -> Int64:
        return self.indices

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        if self.indices.size and (int(self.indices.min()) < 0 or int(self.indices.max()) >= x.size):
            raise refuse(
                self, f"indices must be within 0..{x.size - 1}, not {self.indices.min()}..{self.indices.max()}"
            )
        return Tensor(self.indices.shape, _spread(x).map(lambda f: f.reshape(-1)[self.indices]))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return values[0].reshape(values[0].shape[0], -1)[:, self.indices]


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Operands joined along `axis` (without the batch axis)."""

    name: ClassVar[str] = "concat"
    arity: ClassVar[int | None] = None
    axis: int

    def infer(self, *operands: Tensor) -> Tensor:
        try:
            parts = [np.concatenate([t.arrays()[k] for t in operands], axis=self.axis) for k in range(3)]
        except ValueError:
            shapes = ", ".join(str(list(t.shape)) for t in operands)
            raise refuse(self, f"shapes must agree but for axis {self.axis}, not {shapes}") from None
        return Tensor(parts[0].shape, Fixed.of(*parts))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        events = max(v.shape[0] for v in values)  # a constant has one event for all
        return np.concatenate([np.broadcast_to(v, (events, *v.shape[1:])) for v in values], axis=self.axis + 1)


def _spread(x: Tensor) -> Fixed:
    """The operand's type with every non-uniform field at full shape, so that layout functions apply to it."""
    return x.fixed.map(lambda f: np.broadcast_to(f, x.shape))
