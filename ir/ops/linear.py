"""Products with a constant matrix, the op that networks are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..types import MAX_BITS, Fixed, Int64, IntLike, Tensor, trailing_zeros
from .base import Op, refuse

__all__ = ["Linear", "exact_matmul"]


def exact_matmul(x: Int64, weights: Int64, bound: int) -> Int64:
    """x @ weights where no partial sum exceeds `bound`; below 2**53 float64 holds every one, and BLAS is fast."""
    if bound < 1 << 53:
        with np.errstate(invalid="ignore"):  # BLAS kernels may raise the flag for what they read beyond an edge
            return (x.astype(np.float64) @ weights.astype(np.float64)).astype(np.int64)
    return x @ weights


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """x @ (weights * 2**exp) along the last axis: ``[..., n_in] -> [..., n_out]``; a dense layer without its bias.

    `weights` is ``[n_in, n_out]``; `exp` one exponent or one per column.
    """

    name: ClassVar[str] = "linear"
    arity: ClassVar[int | None] = 1
    weights: Int64
    exp: IntLike = 0

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        if self.weights.ndim != 2 or not x.shape or x.shape[-1] != self.weights.shape[0]:
            raise refuse(
                self,
                f"the operand's last axis must match the weights' rows, not {list(x.shape)} and "
                f"{list(self.weights.shape)}",
            )
        shape = (*x.shape[:-1], self.weights.shape[1])
        lo, hi, exp, which = self.operand_rows(x)
        bound = self.partial_sum_bound(x)
        if bound >= 1 << MAX_BITS:
            raise refuse(self, f"partial sums need more than {MAX_BITS} bits", "quantize the operand or the weights")
        positive, negative = np.maximum(self.weights, 0), np.minimum(self.weights, 0)
        low = exact_matmul(lo, positive, bound) + exact_matmul(hi, negative, bound)
        high = exact_matmul(hi, positive, bound) + exact_matmul(lo, negative, bound)
        base = int(np.min(x.fixed.exp))
        zeros = self._common_zeros(exp - base)
        rows = (low >> zeros, high >> zeros, np.broadcast_to(base + zeros + self.exp, low.shape))
        return Tensor(shape, Fixed.of(*(r[which].reshape(shape) for r in rows)))

    def operand_rows(self, x: Tensor) -> tuple[Int64, Int64, Int64, Int64]:
        """The distinct types that a leading position of the operand has, and which of them each position has.

        (lo, hi, exp, which): lo and hi are ``[rows, n_in]`` integers in units of the finest exponent of all, exp the
        exponents as they are, which ``[positions]``. A convolution has few rows (inside and at the borders) at any size.
        """
        n_in, positions = self.weights.shape[0], math.prod(x.shape[:-1])
        if x.fixed.uniform:
            fields = [np.full((1, n_in), f, np.int64) for f in (x.fixed.lo, x.fixed.hi, x.fixed.exp)]
            which = np.zeros(positions, np.int64)
        else:
            full = np.stack([f.reshape(-1, n_in) for f in x.arrays()], axis=1)
            rows: dict[bytes, int] = {}
            which = np.array([rows.setdefault(r.tobytes(), len(rows)) for r in full], np.int64)
            first = np.unique(which, return_index=True)[1]
            fields = [full[first, k] for k in range(3)]
        lo, hi, exp = fields
        aligned = Fixed(lo, hi, exp).at(int(np.min(x.fixed.exp)))
        return np.asarray(aligned.lo, np.int64), np.asarray(aligned.hi, np.int64), exp, which

    def partial_sum_bound(self, x: Tensor) -> int:
        """No sum of any subset of the products exceeds this, in units of 2**(common exponent)."""
        lo, hi, _, _ = self.operand_rows(x)
        if not self.weights.size or not lo.size:
            return 0
        largest = np.maximum(np.abs(lo), np.abs(hi)).astype(np.float64)
        exact = largest @ np.abs(self.weights).astype(np.float64)
        return int(np.nextafter(exact.max() * (1 + 1e-9), np.inf)) + 1

    @cached_property
    def _weight_zeros(self) -> Int64:
        return np.asarray(trailing_zeros(self.weights))

    def _common_zeros(self, exp: Int64) -> Int64:
        """Low bits that are zero in every reachable sum, ``[rows, n_out]``, for operands that are multiples of 2**exp."""
        n_in, n_out = self.weights.shape
        if not n_in or not exp.size:
            return np.zeros((exp.shape[0], n_out), np.int64)
        weights = self._weight_zeros
        found = np.stack([np.min(np.where(weights == 63, 63, weights + row[:, None]), axis=0) for row in exp])
        return np.where(found >= 63, 0, found)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        (x,) = operands
        base = int(np.min(x.fixed.exp))
        aligned = values[0] << np.asarray(x.fixed.exp - np.int64(base))
        sums = exact_matmul(aligned, self.weights, self.partial_sum_bound(x))
        return sums >> (np.asarray(result.fixed.exp) - np.asarray(self.exp) - base)  # exact: these bits are zero
