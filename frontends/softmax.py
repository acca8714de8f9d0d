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
from .lazy import Lazy

__all__ = ["softmax"]

_GUARD_BITS = 4
_RECIPROCAL_INDEX_BITS = 12


def softmax(builder: Builder, name: str, x: Lazy, to: Fixed, meaning: Affine, rounding: Rounding) -> int:
    """quantize(softmax(x)) with tables `_GUARD_BITS` finer than the target grid.

    The largest operand is subtracted first, so that every exponential is in (0, 1] and the argmax cannot change by
    overflow; equal results of unequal operands (the target grid) are possible and show in the reported deviation.
    """
    assert isinstance(x.function, real.Softmax)
    t, axis = builder.type(x.node), x.function.axis
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
    top = builder.add(ops.ReduceMax(axis), x.node, name=f"{name}.max")
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
    total = builder.add(ops.ReduceSum(axis), powers, name=f"{name}.sum")
    inverse = _reciprocal(builder, name, total, bits)
    product = builder.add(ops.Mul(), powers, inverse, name=f"{name}.product")
    return builder.add(Quantize(to, rounding, Overflow.SAT), product, name=name)


def _reciprocal(builder: Builder, name: str, total: int, bits: int) -> int:
    """1 / total from a table of its leading bits; the sum is at least 1 (the largest exponential is exactly 1)."""
    t = builder.type(total).fixed.hull()
    assert isinstance(t.hi, int)
    assert isinstance(t.exp, int)
    drop = max(t.hi.bit_length() - _RECIPROCAL_INDEX_BITS, 0)
    step = t.exp + drop
    first, last = max(1 << -t.exp >> drop, 1), t.hi >> drop
    index = builder.add(Quantize(Fixed(first, last, step), Rounding.RND, Overflow.SAT), total, name=f"{name}.sum_index")
    values = np.round(np.ldexp(1 / np.ldexp(np.arange(first, last + 1, dtype=np.float64), step), bits)).astype(np.int64)
    return builder.add(Lookup(values, first, step, -bits), index, name=f"{name}.inverse")
