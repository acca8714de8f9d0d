"""`requantize` as one multiplication, one addition and one shift, proved equal on the whole reachable interval.

A requantization is a monotone staircase of its integer operand. Two staircases are equal if and only if every step
happens at the same operand value; there are at most as many steps as result values, so the proof is exhaustive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import CompileError
from ..ops import Requantize
from ..rounding import Rounding, round_ratio
from ..types import MAX_BITS, Fixed, Int64, Tensor

__all__ = ["MultiplyShift", "multiply_shift", "prove"]

_MAX_LEVELS = 1 << 16
_MAX_SHIFT = 48


@dataclass(frozen=True)
class MultiplyShift:
    """result = clamp(round((multiplier * n + bias) / 2**shift), lo, hi), lo..hi being the interval of the result's type.

    The arrays are ``[size]`` of the operand, row-major; `rounding` is TRN wherever the staircase allows it.
    """

    multiplier: Int64
    bias: Int64
    shift: Int64
    rounding: Rounding


def multiply_shift(op: Requantize, x: Tensor) -> MultiplyShift | None:
    """The multiply-shift of every element with the smallest shift, or None if some element has none.

    There is none where ties are broken unevenly (to even) on a scale whose denominator is no power of two, or where
    the multiplier would exceed 62 bits. Raises `CompileError` above 2**16 result values.
    """
    p, r, q = (np.broadcast_to(np.asarray(v, object), x.shape).reshape(-1) for v in op.ratio(x))
    lo, hi, _ = x.flat()
    to_lo, to_hi, _ = (np.broadcast_to(np.asarray(v, np.int64), x.shape).reshape(-1) for v in (op.to.lo, op.to.hi, 0))
    keys = list(zip(p, r, q, lo.tolist(), hi.tolist(), to_lo.tolist(), to_hi.tolist(), strict=True))
    first = {k: i for i, k in reversed(list(enumerate(keys)))}  # equal elements are solved once
    rows = {k: _solve(_one(op, x, i), _element(x, i)) for k, i in first.items()}
    rounding = Rounding.TRN
    if any(v is None for v in rows.values()):  # reachable ties: exact as it stands if the scale is dyadic
        if any(int(v) & (int(v) - 1) for v in q) or not _fits(p, r, lo, hi):
            return None
        rows = {k: (int(k[0]), int(k[1]), int(k[2]).bit_length() - 1) for k in first}
        rounding = op.rounding
    table = [rows[k] for k in keys]
    found = np.array(table, np.int64).reshape(-1, 3)
    return MultiplyShift(found[:, 0], found[:, 1], found[:, 2], rounding)


def _fits(p: np.ndarray, r: np.ndarray, lo: Int64, hi: Int64) -> bool:
    reach = np.maximum(np.abs(lo), np.abs(hi))
    return all(abs(int(a)) * int(n) + abs(int(b)) < 1 << MAX_BITS for a, b, n in zip(p, r, reach))


def prove(op: Requantize, x: Tensor, realised: MultiplyShift) -> int | None:
    """The first element (flat index) where the realisation differs from the op for some reachable operand, or None."""
    result = op.infer(x)
    for i in range(x.size):
        one, t = _one(op, x, i), _element(x, i)
        bottom, top = (int(v[i]) for v in result.flat()[:2])
        m, b, s = int(realised.multiplier[i]), int(realised.bias[i]), int(realised.shift[i])
        _, at = _thresholds(one, t)
        sign = 1 if int(one.ratio(t)[0]) >= 0 else -1
        # A rising staircase is known from where its steps are; the ends show that it has no other steps.
        n = np.concatenate([sign * at, sign * (at - 1), [int(t.fixed.lo), int(t.fixed.hi)]]).astype(object)
        got = np.clip(round_ratio(m * n + b, 1 << s, realised.rounding), bottom, top)
        if m * sign < 0 or np.any(got != one.evaluate(t, [t], n.astype(np.int64))):
            return i
    return None


def _one(op: Requantize, x: Tensor, i: int) -> Requantize:
    """The op of element i alone."""

    def pick(v: object) -> object:
        return np.broadcast_to(np.asarray(v, object), x.shape).reshape(-1)[i]

    to = Fixed(int(pick(op.to.lo)), int(pick(op.to.hi)), int(pick(op.to.exp)))  # pyright: ignore[reportArgumentType]
    return Requantize(pick(op.scale), pick(op.offset), to, op.rounding)  # pyright: ignore[reportArgumentType]


def _element(x: Tensor, i: int) -> Tensor:
    lo, hi, exp = x.flat()
    return Tensor((), Fixed(int(lo[i]), int(hi[i]), int(exp[i])))


def _thresholds(op: Requantize, x: Tensor) -> tuple[Int64, Int64]:
    """(levels, n): for each result level above the lowest, the first operand that reaches it.

    For a negative scale the operands are negated, so that the staircase always rises. Found by bisection on the law
    itself, from a bracket guessed in floating point.
    """
    p, r, q = (int(v) for v in op.ratio(x))
    sign = 1 if p >= 0 else -1
    lo, hi = sorted((sign * int(x.fixed.lo), sign * int(x.fixed.hi)))

    def value(n: Int64) -> Int64:
        return op.evaluate(x, [x], sign * n)

    bottom, top = (int(v) for v in value(np.array([lo, hi])))
    if top - bottom > _MAX_LEVELS:
        raise CompileError(
            "requantize",
            f"a scale that is no power of two may have at most {_MAX_LEVELS} result values, not {top - bottom}",
            "use fewer bits or a power-of-two scale",
        )
    levels = np.arange(bottom + 1, top + 1, dtype=np.int64)
    if not levels.size:
        return levels, levels
    guess = np.clip(np.floor((levels.astype(float) - r / q) * (q / abs(p))), -(2.0**60), 2.0**60).astype(np.int64)
    slack = max(2, int(q / abs(p)) + 2)
    below, reached = np.clip(guess - slack, lo, hi), np.clip(guess + slack, lo, hi)
    below = np.where(value(below) < levels, below, lo)  # a bad guess costs time, never exactness
    reached = np.where(value(reached) >= levels, reached, hi)
    while np.any(reached - below > 1):
        middle = (below + reached) >> 1
        up = value(middle) >= levels
        below, reached = np.where(up, below, middle), np.where(up, middle, reached)
    return levels, reached


def _solve(op: Requantize, x: Tensor) -> tuple[int, int, int] | None:
    """(multiplier, bias, shift) with the smallest shift whose floored staircase has exactly the op's steps."""
    levels, at = _thresholds(op, x)
    p, _, q = (int(v) for v in op.ratio(x))
    sign = 1 if p >= 0 else -1
    if not levels.size:
        return 0, int(op.infer(x).fixed.lo), 0
    reach = max(abs(int(x.fixed.lo)), abs(int(x.fixed.hi)), 1)
    for shift in range(_MAX_SHIFT):
        centre = (2 * abs(p) * (1 << shift) + q) // (2 * q)
        if (centre + 1) * reach >= 1 << (MAX_BITS - 1):
            break
        for m in (centre, centre + 1, centre - 1):
            lowest = int(((levels << shift) - m * at).max())
            highest = int(((levels << shift) - 1 - m * (at - 1)).min())
            if m > 0 and lowest <= highest:
                return sign * m, _roundest(lowest, highest), shift
    return None


def _roundest(lowest: int, highest: int) -> int:
    """The integer in lowest..highest with the most trailing zeros: the cheapest bias in hardware."""
    for zeros in range(MAX_BITS, -1, -1):
        candidate = -((-lowest) >> zeros) << zeros
        if candidate <= highest:
            return candidate
    return lowest
