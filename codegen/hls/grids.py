"""The C++ type of a tensor: the one grid that holds all its elements; knows no ops and no text of a program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.ops import Linear, Op, ReduceSum
from ...ir.types import Int64, Tensor

__all__ = ["Grid", "common_grid", "grid_of", "places"]


@dataclass(frozen=True)
class Grid:
    """``{n * 2**exp : lo <= n <= hi}`` with Python integers: a hull may be wider than any single element may be."""

    lo: int
    hi: int
    exp: int

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def width(self) -> int:
        magnitude = max(self.hi, 0).bit_length()
        return max(magnitude, (-self.lo - 1).bit_length()) + 1 if self.signed else max(magnitude, 1)

    def cpp(self, *modes: str) -> str:
        """``ap_fixed<W,I>`` or ``ap_ufixed<W,I>``, with rounding and overflow modes where they are given."""
        arguments = ",".join((str(self.width), str(self.width + self.exp), *modes))
        return f"ap_{'' if self.signed else 'u'}fixed<{arguments}>"

    def __str__(self) -> str:
        return f"{self.lo}..{self.hi} * 2^{self.exp}"


def common_grid(lo: Int64, hi: Int64, exp: Int64, zeros: bool = False) -> Grid:
    """The hull of elements. Those that are always 0 have no exponent to respect, unless `zeros` says otherwise."""
    lo, hi, exp = (f.reshape(-1) for f in np.broadcast_arrays(lo, hi, exp))
    if not zeros:
        varies = (lo != 0) | (hi != 0)
        if not varies.any():
            return Grid(0, 0, int(exp.min()))
        skipped = not varies.all()
        lo, hi, exp = lo[varies], hi[varies], exp[varies]
    else:
        skipped = False
    finest = int(exp.min())
    low, high = [0] if skipped else [], [0] if skipped else []
    for e in np.unique(exp).tolist():
        here = exp == e
        low.append(int(lo[here].min()) << (e - finest))
        high.append(int(hi[here].max()) << (e - finest))
    return Grid(min(low), max(high), finest)


def grid_of(op: Op, t: Tensor) -> Grid:
    """The grid of a node's result. Sums keep the exponents of elements that come out as 0: their terms have them."""
    return common_grid(*t.flat(), zeros=isinstance(op, Linear | ReduceSum))


def places(t: Tensor, grid: Grid) -> Int64:
    """For each element, flat, the left shift that takes its raw integers to those of the grid; 0 where always 0."""
    lo, hi, exp = t.flat()
    return np.where((lo == 0) & (hi == 0), 0, exp - grid.exp)
