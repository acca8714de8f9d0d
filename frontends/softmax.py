"""Softmax as exact ops: a table of exponentials, a sum, a table of reciprocals and a product."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ..ir import ops
from ..ir.errors import CompileError
from ..ir.graph import Builder
from ..ir.ops import Lookup, Quantize
from ..ir.ops.quantizing import MAX_TABLE
from ..ir.rational import Affine
from ..ir.rounding import Overflow, Rounding
from ..ir.types import Fixed
from . import real
from .lazy import Lazy, materialise

__all__ = ["softmax"]

_GUARD_BITS = 4
_RECIPROCAL_INDEX_BITS = 12


def softmax(builder: Builder, name: str, x: Lazy, to: Fixed, meaning: Affine, rounding: Rounding) -> int:
    """quantize(softmax(x)) with tables `_GUARD_BITS` finer than the target grid.

    The largest operand is subtracted first, so that every exponential is in (0, 1]. Each step rises with the operand:
    the table of exponentials, the product with one factor for all (or the difference from one logarithm), and the
    rounding. So the order of results never contradicts that of the operands; but unequal operands may give equal
    results where the tables or the target grid are too coarse to tell them apart, and an argmax then takes the first of
    them. That share of events is in the reported deviation; where it matters, take the argmax of the operands.
    """
    assert isinstance(x.function, real.Softmax)
    t, axes = builder.type(x.node), x.function.axes
    scale, offset = x.affine.scale, x.affine.offset
    if not (
        isinstance(scale, Fraction)
        and isinstance(offset, Fraction)
        and meaning.is_identity  # no zero point either
        and isinstance(to.exp, int)
        and isinstance(t.fixed.exp, int)
    ):
        raise CompileError(
            name,
            "softmax needs one scale on its operand and a power-of-two scale on its result",
            "quantize per tensor, with a power-of-two scale behind softmax",
        )
    bits = max(-to.exp, 1) + _GUARD_BITS
    top = x.node
    for axis in axes:
        top = builder.add(ops.ReduceMax(axis), top, name=f"{name}.max")
    below = builder.add(ops.Sub(), x.node, top, name=f"{name}.below")
    unit = float(scale) * 2.0**t.fixed.exp
    # Exponentials below half a step of the table are zero: everything further down is the same entry.
    lowest = max(int(np.min(builder.type(below).fixed.lo)), -int(np.ceil((bits + 1) * np.log(2) / unit)) - 1)
    if -lowest + 1 > MAX_TABLE:
        raise CompileError(
            name, f"its table of exponentials needs {-lowest + 1} entries, more than 2**20", "quantize its operand"
        )
    index = builder.add(
        Quantize(Fixed(lowest, 0, t.fixed.exp), Rounding.TRN, Overflow.SAT), below, name=f"{name}.index"
    )
    entries = np.round(np.ldexp(np.exp(unit * np.arange(lowest, 1)), bits)).astype(np.int64)
    powers = builder.add(Lookup(entries, lowest, t.fixed.exp, -bits), index, name=f"{name}.exp")
    total = powers
    for axis in axes:
        total = builder.add(ops.ReduceSum(axis), total, name=f"{name}.sum")
    if x.function.log:
        exact = materialise(builder, Lazy(below, (Affine(scale),)), f"{name}.scaled")
        logarithm = _leading_table(builder, name, total, bits, "log")
        return builder.add(Quantize(to, rounding, Overflow.SAT), builder.add(ops.Sub(), exact, logarithm), name=name)
    inverse = _leading_table(builder, name, total, bits, "inverse")
    product = builder.add(ops.Mul(), powers, inverse, name=f"{name}.product")
    return builder.add(Quantize(to, rounding, Overflow.SAT), product, name=name)


def _leading_table(builder: Builder, name: str, total: int, bits: int, kind: str) -> int:
    """1 / total or log(total) from a table of its leading bits; the sum is at least 1 (the largest exponential)."""
    t = builder.type(total).fixed.hull()
    assert isinstance(t.hi, int)
    assert isinstance(t.exp, int)
    drop = max(t.hi.bit_length() - _RECIPROCAL_INDEX_BITS, 0)
    step = t.exp + drop
    first, last = max(1 << -t.exp >> drop, 1), t.hi >> drop
    index = builder.add(Quantize(Fixed(first, last, step), Rounding.RND, Overflow.SAT), total, name=f"{name}.sum_index")
    totals = np.ldexp(np.arange(first, last + 1, dtype=np.float64), step)
    values = np.round(np.ldexp(np.log(totals) if kind == "log" else 1 / totals, bits)).astype(np.int64)
    return builder.add(Lookup(values, first, step, -bits), index, name=f"{name}.{kind}")
