"""The three ops that lose information, each saying exactly how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from ..rational import Rational, ratio_parts
from ..rounding import Overflow, Rounding, overflowed, round_ratio
from ..types import MAX_BITS, Fixed, Int64, IntLike, Tensor
from .base import Op, refuse

__all__ = ["MAX_TABLE", "Acts", "Lookup", "Quantize", "Requantize"]

MAX_TABLE = 1 << 20
"""Most entries of one lookup table."""


@dataclass(frozen=True)
class Acts:
    """What a quantizer really does to its operand's reachable range; a backend omits the rest."""

    rounds: bool  # some reachable value is between two grid points
    clips_low: bool  # some reachable value is below the interval after rounding
    clips_high: bool  # ... or above it

    @property
    def idle(self) -> bool:
        return not (self.rounds or self.clips_low or self.clips_high)


@dataclass(frozen=True, eq=False)
class Quantize(Op):
    """Round x to the grid of `to`, then bring it into the interval of `to`; ap_fixed's assignment.

    The result type is `to`, or less where the operand cannot reach all of it.
    """

    name: ClassVar[str] = "quantize"
    arity: ClassVar[int | None] = 1
    to: Fixed
    rounding: Rounding = Rounding.TRN
    overflow: Overflow = Overflow.WRAP

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        lo, hi, exp = self.to.lo, self.to.hi, self.to.exp
        if self.overflow is Overflow.WRAP:
            span = np.asarray(hi) - np.asarray(lo) + 1
            if np.any(span & (span - 1)):
                raise refuse(self, f"WRAP needs intervals that span a power of two, not {self.to}", "use SAT")
        if self.overflow is Overflow.SAT_ZERO and (np.any(np.asarray(lo) > 0) or np.any(np.asarray(hi) < 0)):
            raise refuse(self, f"SAT_ZERO needs an interval that contains 0, not {self.to}", "use SAT")
        low, high = self.rounded(np.asarray(x.fixed.lo), x), self.rounded(np.asarray(x.fixed.hi), x)
        inside = (low >= lo) & (high <= hi)
        if self.overflow is Overflow.SAT_SYM:
            inside &= low >= -np.asarray(hi)
        if self.overflow in (Overflow.SAT, Overflow.SAT_SYM):
            low, high = overflowed(low, lo, hi, self.overflow), overflowed(high, lo, hi, self.overflow)
        elif self.overflow is Overflow.SAT_ZERO:  # values that leave the interval come back as 0
            low, high = (
                np.where(inside, low, np.minimum(np.maximum(low, lo), 0)),
                np.where(inside, high, np.maximum(np.minimum(high, hi), 0)),
            )
        else:
            low, high = np.where(inside, low, lo), np.where(inside, high, hi)
        return Tensor(x.shape, Fixed.of(low, high, exp))

    def acts(self, x: Tensor) -> Acts:
        """Which of rounding and limiting can happen for some element."""
        lo = np.asarray(self.to.lo)
        if self.overflow is Overflow.SAT_SYM:
            lo = np.maximum(lo, np.where(lo < 0, -np.asarray(self.to.hi), lo))
        low, high = self.rounded(np.asarray(x.fixed.lo), x), self.rounded(np.asarray(x.fixed.hi), x)
        varies = (np.asarray(x.fixed.lo) != 0) | (np.asarray(x.fixed.hi) != 0)
        return Acts(
            bool(np.any((np.asarray(self.to.exp) > np.asarray(x.fixed.exp)) & varies)),
            bool(np.any(low < lo)),
            bool(np.any(high > np.asarray(self.to.hi))),
        )

    def rounded(self, n: Int64, x: Tensor) -> Int64:
        """Operand integers on the grid of `to`, not yet limited."""
        by = np.asarray(self.to.exp) - np.asarray(x.fixed.exp)
        finer = int(np.max(-by, initial=0))
        if finer > 0 and int(np.max(np.abs(n), initial=0)).bit_length() + finer > MAX_BITS:
            raise refuse(
                self,
                f"a grid {finer} bits finer than the operand's needs more than {MAX_BITS} bits",
                "quantize to a coarser grid",
            )
        n = np.where(by > MAX_BITS, np.sign(n), n)  # then |n| < 2**by / 2: only the sign matters, and 2**by fits
        return round_ratio(n << np.maximum(-by, 0), np.int64(1) << np.clip(by, 0, MAX_BITS), self.rounding)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        (x,) = operands
        return np.asarray(overflowed(self.rounded(values[0], x), self.to.lo, self.to.hi, self.overflow), np.int64)


@dataclass(frozen=True, eq=False)
class Requantize(Op):
    """clamp(round((scale * x + offset) / 2**to.exp), to.lo, to.hi) with exact rational scale and offset per element.

    How float-scaled networks (Brevitas, QuantizeLinear) stay exact: integers flow, and this is the only place where
    the real scale acts. Every engine realises it in its own way (see `codegen.steps`), proved equal to this.
    """

    name: ClassVar[str] = "requantize"
    arity: ClassVar[int | None] = 1
    scale: Rational
    offset: Rational
    to: Fixed
    rounding: Rounding = Rounding.RND_CONV

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        ends = [
            self._exact(np.broadcast_to(np.asarray(n, np.int64), x.shape)[np.newaxis], x)
            for n in (x.fixed.lo, x.fixed.hi)
        ]
        return Tensor(x.shape, Fixed.of(np.minimum(*ends)[0], np.maximum(*ends)[0], self.to.exp))

    def ratio(self, x: Tensor) -> tuple[Any, Any, Any]:
        """(p, r, q): result = clamp(round((p * n + r) / q)) for operand integers n; Python ints, per element or one."""
        unit = _power(x.fixed.exp) / _power(self.to.exp)
        offset = np.asarray(self.offset, object) / np.asarray(_power(self.to.exp), object)
        scale = np.asarray(np.asarray(self.scale, object) * unit, object)
        scale, offset = np.broadcast_arrays(scale, np.asarray(offset, object))
        p, q = ratio_parts(scale.copy())
        r, s = ratio_parts(offset.copy())
        return p * s, r * q, q * s

    def _exact(self, n: Int64, x: Tensor) -> Int64:
        p, r, q = self.ratio(x)
        bound = (
            max(abs(int(v)) for v in np.ravel(p)) * (int(np.max(np.abs(n), initial=0)) + 1)
            + max(abs(int(v)) for v in np.ravel(r))
            + max(int(v) for v in np.ravel(q))
        )
        if bound < 1 << MAX_BITS:  # the same formula in int64
            p, r, q = (np.asarray(v, np.int64) for v in (p, r, q))
        else:
            n = n.astype(object)
        m = np.asarray(round_ratio(p * n + r, q, self.rounding))
        return np.asarray(np.minimum(np.maximum(m, self.to.lo), self.to.hi), np.int64)

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        return self._exact(values[0], operands[0])


def _power(exp: IntLike) -> Any:
    """2**exp as a Fraction or an object array of Fractions."""
    if isinstance(exp, int):
        return Fraction(2) ** exp
    out = np.empty(exp.shape, object)
    out.reshape(-1)[:] = [Fraction(2) ** int(e) for e in exp.flat]
    return out


@dataclass(frozen=True, eq=False)
class Lookup(Op):
    """table[x / 2**step - first]: any function of a narrow operand, its values part of the graph.

    `table` holds raw integers of exponent `exp`, ``[entries]`` shared by all elements or ``[*shape, entries]``.
    """

    name: ClassVar[str] = "lookup"
    arity: ClassVar[int | None] = 1
    table: Int64
    first: int
    step: int
    exp: int

    def infer(self, *operands: Tensor) -> Tensor:
        (x,) = operands
        if self.table.shape[-1] > MAX_TABLE:
            raise refuse(
                self, f"a table may have at most 2**20 entries, not {self.table.shape[-1]}", "quantize the operand"
            )
        if self.table.ndim > 1 and self.table.shape[:-1] != x.shape:
            raise refuse(
                self,
                f"the table must have shape [entries] or [*{list(x.shape)}, entries], not {list(self.table.shape)}",
            )
        zero = (np.asarray(x.fixed.lo) == 0) & (np.asarray(x.fixed.hi) == 0)  # a zero lies on every grid
        if np.any((np.asarray(x.fixed.exp) < self.step) & ~zero):
            raise refuse(
                self, f"the operand's grid (exponent {np.min(x.fixed.exp)}) is finer than the table's ({self.step})"
            )
        lo, hi, exp = x.flat()
        up = np.maximum(exp - self.step, 0)
        start, stop = (lo << up) - self.first, (hi << up) - self.first
        if start.size and (start.min() < 0 or stop.max() >= self.table.shape[-1]):
            raise refuse(
                self, f"the table covers {self.table.shape[-1]} values from {self.first}, which the operand leaves"
            )
        if self.table.ndim == 1:
            spans = {(int(a), int(b)): None for a, b in zip(start, stop)}
            ends = {s: (int(self.table[s[0] : s[1] + 1].min()), int(self.table[s[0] : s[1] + 1].max())) for s in spans}
            pairs = [ends[int(a), int(b)] for a, b in zip(start, stop)]
        else:
            rows = self.table.reshape(-1, self.table.shape[-1])
            pairs = [(int(r[a : b + 1].min()), int(r[a : b + 1].max())) for r, a, b in zip(rows, start, stop)]
        low, high = (np.array([p[k] for p in pairs], np.int64).reshape(x.shape) for k in (0, 1))
        return Tensor(x.shape, Fixed.of(low, high, self.exp))

    def evaluate(self, result: Tensor, operands: Sequence[Tensor], *values: Int64) -> Int64:
        (x,) = operands
        index = (values[0] << np.maximum(np.asarray(x.fixed.exp) - self.step, 0)) - self.first
        if self.table.ndim == 1:
            return self.table[index]
        rows = self.table.reshape(-1, self.table.shape[-1])
        flat = index.reshape(index.shape[0], -1)
        return rows[np.arange(rows.shape[0]), flat].reshape(index.shape)
