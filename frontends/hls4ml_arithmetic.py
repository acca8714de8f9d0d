"""Values with the types that C++ gives them, and sums of products in an accumulator type. Knows no layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from . import real
from .lazy import exact_weight_bits
from .precision import Precision
from .real import RealBuilder, RealOp

__all__ = ["Cell", "product_sum"]


@dataclass(frozen=True)
class Cell:
    """A node of the model, the type that its elements were last assigned to, and the layer that its followers are named after."""

    builder: RealBuilder
    name: str
    index: int
    precision: Precision

    @property
    def shape(self) -> tuple[int, ...]:
        return self.builder.nodes[self.index].shape

    def add(self, op: RealOp, *others: Cell, suffix: str = "") -> Cell:
        index = self.builder.add(op, self.index, *(o.index for o in others), name=f"{self.name}{suffix}")
        return replace(self, index=index)

    def constant(self, value: float | NDArray[np.float64], suffix: str) -> Cell:
        """A number of the same model, whatever its type."""
        index = self.builder.add(real.Constant(np.asarray(value, np.float64)), name=f"{self.name}{suffix}")
        return replace(self, index=index)

    def to(self, precision: Precision, suffix: str = "") -> Cell:
        """Assigned to a type."""
        return replace(self.add(precision.quant(), suffix=suffix), precision=precision)

    def divided(self, precision: Precision, suffix: str = "") -> Cell:
        """A quotient assigned to a type: integer division drops bits towards zero."""
        return self.to(replace(precision, rounding=Rounding.TRN_ZERO), suffix)

    def above(self, other: Cell) -> Cell:
        """1 where this is larger than the other."""
        return other.add(real.Compare("less"), self, suffix=f".above{len(self.builder.nodes)}")

    def select(self, yes: Cell, no: Cell) -> Cell:
        """The first where this is 1, else the second."""
        found = self.add(real.Select(), yes, no, suffix=f".choice{len(self.builder.nodes)}")
        return replace(found, precision=yes.precision)


def product_sum(
    x: Cell,
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    accum: Precision,
    error: Callable[[str, str], CompileError],
) -> Cell:
    """``x @ weights + bias`` as hls4ml sums it: each product and each partial sum is assigned to the accumulator's type."""
    start = accum.quant()
    bias = real.quantized(start, bias) * start.scale
    grid = exact_weight_bits(real.Dense(weights))
    finest = int(np.min(x.precision.type.exp)) + (int(grid.min()) if grid is not None else -60)
    keeps = int(np.min(accum.type.exp)) <= finest
    if keeps and _stays_inside(x, weights, bias, accum):
        y = x.add(real.Dense(weights), suffix=".product")
        return y.add(real.Offset(bias), suffix=".bias")
    if accum.overflow is not Overflow.WRAP:
        raise error(
            "its accumulator may saturate on the way, which depends on the order of the sum",
            "give the accumulator more integer bits, or leave its precision to hls4ml ('auto')",
        )
    if keeps:  # sums that wrap are the same in any order
        y = x.add(real.Dense(weights), suffix=".product").add(real.Offset(bias), suffix=".bias")
        return y.to(accum, ".accumulated")
    return _rounded_products(x, weights, bias, accum)


def _stays_inside(x: Cell, weights: NDArray[np.float64], bias: NDArray[np.float64], accum: Precision) -> bool:
    """No partial sum leaves the accumulator."""
    t, a = x.precision.type, accum.type
    largest = float(max(abs(int(np.min(t.lo))), abs(int(np.max(t.hi))))) * 2.0 ** int(np.min(t.exp))
    reach = (np.abs(weights).sum(axis=0) * largest + np.abs(bias)).max(initial=0.0)
    return bool(reach <= float(np.max(a.hi)) * 2.0 ** int(np.min(a.exp)))


def _rounded_products(x: Cell, weights: NDArray[np.float64], bias: NDArray[np.float64], accum: Precision) -> Cell:
    """Each product loses its low bits before it is added."""
    *rows, n_in = x.shape
    n_out = weights.shape[1]
    places = np.arange(int(np.prod(x.shape))).reshape((*rows, n_in, 1))
    spread = x.add(real.Gather(np.broadcast_to(places, (*rows, n_in, n_out)).copy()), suffix=".spread")
    products = spread.add(real.Mul(), x.constant(weights, ".weights"), suffix=".products").to(accum, ".rounded")
    total = products.add(real.Reduce("sum", len(rows)), suffix=".sum")
    y = total.add(real.Reshape((*rows, n_out)), suffix=".total").add(real.Offset(bias), suffix=".bias")
    return y.to(accum, ".accumulated")
