"""Products with a constant matrix, the op that networks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..types import MAX_BITS, Fixed, Int64, IntLike, Tensor, trailing_zeros
from .base import Op, refuse

__all__ = ["Linear", "exact_matmul"]


def exact_matmul(x: Int64, weights: Int64, bound: int) -> Int64:
    """x @ weights where no partial sum exceeds `bound`; below 2**53 float64 holds every one, and BLAS is fast."""
    if bound < 1 << 53:
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
        lo, hi, base = self.operand_range(x)
        if self.partial_sum_bound(x) >= 1 << MAX_BITS:
            raise refuse(self, f"partial sums need more than {MAX_BITS} bits", "quantize the operand or the weights")
        positive, negative = np.maximum(self.weights, 0), np.minimum(self.weights, 0)
        bound = self.partial_sum_bound(x)
        low = exact_matmul(lo, positive, bound) + exact_matmul(hi, negative, bound)
        high = exact_matmul(hi, positive, bound) + exact_matmul(lo, negative, bound)
        zeros = self._common_zeros(x, base)
        return Tensor(
            shape,
            Fixed.of(
                (low >> zeros).reshape(shape),
                (high >> zeros).reshape(shape),
                np.broadcast_to(base + zeros + self.exp, low.shape).reshape(shape),
            ),
        )

    def operand_range(self, x: Tensor) -> tuple[Int64, Int64, int]:
        """(lo, hi) of the operand as ``[positions, n_in]`` integers of one common exponent, and that exponent."""
        base = int(np.min(x.fixed.exp))
        n_in = self.weights.shape[0]
        aligned = Tensor(x.shape, x.fixed.at(base))
        lo, hi, _ = (f.reshape(-1, n_in) for f in aligned.arrays())
        return lo, hi, base

    def partial_sum_bound(self, x: Tensor) -> int:
        """No sum of any subset of the products exceeds this, in units of 2**(common exponent)."""
        lo, hi, _ = self.operand_range(x)
        if not self.weights.size or not lo.size:
            return 0
        largest = np.maximum(np.abs(lo), np.abs(hi)).astype(np.float64)
        exact = largest @ np.abs(self.weights).astype(np.float64)
        return int(np.nextafter(exact.max() * (1 + 1e-9), np.inf)) + 1

    def _common_zeros(self, x: Tensor, base: int) -> Int64:
        """Low bits that are zero in every reachable sum, ``[positions, n_out]``."""
        n_in, n_out = self.weights.shape
        weights = np.asarray(trailing_zeros(self.weights))
        exp = np.broadcast_to(np.asarray(x.fixed.exp), x.shape).reshape(-1, n_in) - base
        if not n_in:
            return np.zeros((exp.shape[0], n_out), np.int64)
        rows = {r.tobytes(): r for r in exp}  # few distinct rows: most types are per channel
        found = {k: np.min(np.where(weights == 63, 63, weights + r[:, None]), axis=0) for k, r in rows.items()}
        zeros = np.stack([found[r.tobytes()] for r in exp]) if exp.size else np.zeros((0, n_out), np.int64)
        return np.where(zeros >= 63, 0, zeros)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        (x,) = operands
        base = int(np.min(x.fixed.exp))
        aligned = values[0] << np.asarray(x.fixed.exp - np.int64(base))
        sums = exact_matmul(aligned, self.weights, self.partial_sum_bound(x))
        return sums >> (np.asarray(result.fixed.exp) - np.asarray(self.exp) - base)  # exact: these bits are zero
