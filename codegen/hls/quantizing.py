"""How a quantizer is written: a plain assignment, an ap_fixed cast with modes, or an explicit element-wise formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...ir.ops import Quantize
from ...ir.rounding import Overflow
from ...ir.types import Int64, Tensor
from .grids import Grid

__all__ = ["Cast", "Elementwise", "realised"]


@dataclass(frozen=True)
class Cast:
    """The quantizer is the assignment to this type; `modes` is empty where it loses nothing."""

    target: Grid
    modes: tuple[str, ...]


@dataclass(frozen=True)
class Elementwise:
    """Drop `drop` low bits (add zeros where negative), bring into lo..hi, shift left by `place`: one each per element.

    `width` bits hold every intermediate.
    """

    drop: Int64
    lo: Int64
    hi: Int64
    place: Int64
    width: int


@dataclass(frozen=True)
class _Facts:
    """What the quantizer does to each element, flat: its target, and which of its parts can act."""

    lo: Int64
    hi: Int64
    exp: Int64
    rounds: NDArray[np.bool_]
    clips_low: NDArray[np.bool_]
    clips_high: NDArray[np.bool_]
    x: Tensor

    @property
    def acts(self) -> NDArray[np.bool_]:
        return self.rounds | self.clips_low | self.clips_high


def realised(op: Quantize, x: Tensor, source: Grid, result: Tensor, grid: Grid) -> Cast | Elementwise:
    """The simplest exact form; `source` and `grid` are the C++ types of operand and result."""
    facts = _facts(op, x)
    if not facts.acts.any():
        return Cast(grid, ())
    cast = _cast(op, facts, source, grid)
    return cast or _elementwise(op, facts, source, result, grid)


def _facts(op: Quantize, x: Tensor) -> _Facts:
    x_lo, x_hi, x_exp = x.flat()
    lo, hi, exp = (f.reshape(-1) for f in op.to.arrays(x.shape))
    if op.overflow is Overflow.SAT_SYM:
        lo = np.minimum(np.where(lo < 0, np.maximum(lo, -hi), lo), hi)  # where hi is negative too, all becomes hi
    low, high = (np.broadcast_to(op.rounded(np.asarray(n), x), x.shape).reshape(-1) for n in (x.fixed.lo, x.fixed.hi))
    rounds = (exp > x_exp) & ((x_lo != 0) | (x_hi != 0))
    return _Facts(lo, hi, exp, rounds, low < lo, high > hi, x)


def _cast(op: Quantize, facts: _Facts, source: Grid, grid: Grid) -> Cast | None:
    """An ap_fixed type whose assignment equals the quantizer on every reachable value, if there is one."""
    clips = facts.clips_low | facts.clips_high
    low_side, high_side = (clips, clips) if op.overflow is Overflow.WRAP else (facts.clips_low, facts.clips_high)
    exps = np.unique(facts.exp[facts.acts])
    lows, highs = np.unique(facts.lo[low_side]), np.unique(facts.hi[high_side])
    if len(exps) != 1 or len(lows) > 1 or len(highs) > 1 or grid.exp < exps[0]:
        return None  # the last: some element that the quantizer leaves alone is finer than this type
    if exps[0] - source.exp > source.width:
        return None  # the headers of ap_fixed read the highest dropped bit, which must be one of the operand's
    by = grid.exp - int(exps[0])
    results = Grid(grid.lo << by, grid.hi << by, int(exps[0]))
    low, high = (int(e[0]) if len(e) else None for e in (lows, highs))
    for signed in (False, True) if results.lo >= 0 else (True,):
        found = _matching(op.overflow, results, signed, low, high)
        if found is not None:
            target, overflow = found
            return Cast(target, (f"AP_{op.rounding.value}", *([f"AP_{overflow.value}"] if clips.any() else [])))
    return None


def _matching(
    overflow: Overflow, results: Grid, signed: bool, low: int | None, high: int | None
) -> tuple[Grid, Overflow] | None:
    """The C++ type that holds `results` and ends where the quantizer clips (None: it does not), and its mode."""
    hull = Grid(min(results.lo, -1 if signed else 0), results.hi, results.exp)
    bits = hull.width - hull.signed
    target = Grid(-(1 << bits) if signed else 0, (1 << bits) - 1, results.exp)
    if high not in (None, target.hi):
        return None
    saturates = overflow in (Overflow.SAT, Overflow.SAT_SYM)
    if low in (None, target.lo):
        return target, Overflow.SAT if saturates else overflow
    symmetric = saturates and signed and bits > 0 and low == -target.hi and results.lo >= low
    return (target, Overflow.SAT_SYM) if symmetric else None


def _elementwise(op: Quantize, facts: _Facts, source: Grid, result: Tensor, grid: Grid) -> Elementwise:
    lo, hi, exp = result.flat()
    x_lo, x_hi, _ = facts.x.flat()
    silent = (x_lo == 0) & (x_hi == 0)
    # Beyond the operand's width all bits are dropped alike: only the sign is left.
    drop = np.where(silent, 0, np.minimum(facts.exp - source.exp, source.width + 1))
    place = np.where((lo == 0) & (hi == 0), 0, exp - grid.exp)
    most = max(abs(int(facts.lo.min())), abs(int(facts.hi.max())), abs(int(facts.lo.max())), abs(int(facts.hi.min())))
    width = max(source.width + int(np.max(-drop, initial=0)), int(np.max(drop)) + 1, grid.width, most.bit_length()) + 3
    return Elementwise(drop, facts.lo, facts.hi, place, width)
