"""Sliding windows: the geometry of convolutions and pooling, kept whole so that engines can stream it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import Fixed, Int64, Tensor
from .base import refuse
from .layout import Layout

__all__ = ["Window"]


@dataclass(frozen=True, eq=False)
class Window(Layout):
    """The elements under a kernel at each of its positions: ``[*spatial, channels] -> [*positions, taps, channels]``.

    `kernel`, `strides`, `dilations` and the padding in front (`begin`) and behind (`end`) have one number per spatial
    axis. Taps in the padding are 0 (`fill` "zero") or the nearest element that the same window holds ("nearest", which
    changes no maximum). A convolution is a window, a reshape and a linear; pooling is a window and a reduction.
    """

    name: ClassVar[str] = "window"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    fill: str = "zero"

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def span(self, axis: int) -> int:
        """Elements from the first to the last that one window touches."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def positions(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """How many positions the kernel has along each axis."""
        return tuple(
            (n + self.begin[k] + self.end[k] - self.span(k)) // self.strides[k] + 1 for k, n in enumerate(spatial)
        )

    def along(self, axis: int, n: int) -> Int64:
        """``[positions, kernel]``: the index along one axis of length `n` that each tap reads; -1: in the padding."""
        count = (n + self.begin[axis] + self.end[axis] - self.span(axis)) // self.strides[axis] + 1
        start = np.arange(count)[:, None] * self.strides[axis] - self.begin[axis]
        at = start + np.arange(self.kernel[axis]) * self.dilations[axis]
        inside = (at >= 0) & (at < n)
        if self.fill == "nearest" and inside.any(axis=1).all():
            first, last = np.where(inside, at, n).min(axis=1), np.where(inside, at, -1).max(axis=1)
            return np.clip(at, first[:, None], last[:, None])
        return np.where(inside, at, -1)

    def source(self, shape: Sequence[int]) -> Int64:
        """``[*positions, taps, channels]``: the flat index that each element of the result is; -1: zero."""
        *spatial, channels = shape
        rank = len(spatial)
        flat, inside = np.zeros((1,) * (2 * rank), np.int64), np.ones((1,) * (2 * rank), bool)
        for k, n in enumerate(spatial):
            at = self.along(k, n)
            spread = at.reshape(
                [at.shape[0] if j == k else at.shape[1] if j == rank + k else 1 for j in range(2 * rank)]
            )
            flat, inside = flat * n + np.maximum(spread, 0), inside & (spread >= 0)
        where = np.where(inside, flat, -1).reshape((*self.positions(spatial), self.taps, 1))
        return np.where(where < 0, -1, where * channels + np.arange(channels))

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        self._check(x)
        index = self.source(x.shape)
        if self.fill == "nearest" and (index < 0).any():
            raise refuse(self, "a window lies in the padding alone", "use less padding")
        lo, hi, exp = (np.broadcast_to(f, x.shape).reshape(-1) for f in x.arrays())
        if (index >= 0).all() and x.fixed.uniform:
            return Tensor(index.shape, x.fixed)
        return Tensor(
            index.shape,
            Fixed.of(np.where(index < 0, 0, lo[index]), np.where(index < 0, 0, hi[index]), exp[np.maximum(index, 0)]),
        )

    def _check(self, x: Tensor) -> None:
        rank, fields = len(x.shape) - 1, (self.kernel, self.strides, self.dilations, self.begin, self.end)
        if rank < 1 or any(len(f) != rank for f in fields):
            raise refuse(self, f"kernel and operand must have the same spatial axes, not {self.kernel} on {x.shape}")
        if any(v < 1 for f in fields[:3] for v in f) or any(v < 0 for f in fields[3:] for v in f):
            raise refuse(self, "kernel, strides and dilations must be positive, and the padding at least 0")
        if self.fill not in ("zero", "nearest"):
            raise refuse(self, f"fill must be 'zero' or 'nearest', not '{self.fill}'")
        if any(n < 1 for n in self.positions(x.shape[:-1])):
            raise refuse(self, f"the kernel {list(self.kernel)} is larger than the padded operand {list(x.shape[:-1])}")

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        index = self.source(operands[0].shape)
        flat = values[0].reshape(values[0].shape[0], -1)
        return np.where(index < 0, 0, flat[:, index])
