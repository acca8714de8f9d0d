"""Lowers decision trees: a real threshold is an integer one of a quantized feature, so that no comparison loses anything."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..ir import ops
from ..ir.errors import CompileError
from ..ir.graph import Builder
from ..ir.types import MAX_BITS, Int64
from . import real
from .inputs import NEEDS_DATA
from .lazy import Lazy, materialise, settle
from .real import Float, RealNode

__all__ = ["alone", "exact_leaf_grid", "forest", "varying"]

_MOST_BITS = 18
"""Leaf values that lie on a grid of up to so many bits are exact as they stand; wider ones were not quantized."""


def forest(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """The trees on the integers of their features; scales and offsets of these go into the thresholds."""
    op = node.op
    assert isinstance(op, real.Forest)
    x = settle(builder, operands[0], node.name)
    parts = _per_feature(x, node, builder)
    if parts is None:
        x = Lazy(materialise(builder, x, node.name))
        parts = _per_feature(x, node, builder)
        assert parts is not None
    grid = exact_leaf_grid(op)
    if not np.isfinite(op.values).all() or not np.isfinite(op.thresholds).all():
        raise CompileError(
            node.name, "thresholds and leaves must be finite, but contain NaN or Inf", "check the training"
        )
    if grid is None:
        rule = f"its leaves are float numbers that need more than {_MOST_BITS} bits each"
        raise CompileError(node.name, rule, NEEDS_DATA)
    scale, offset = parts
    t = builder.type(x.node)
    lo, hi, exp = (f.reshape(-1, t.shape[-1]) for f in t.arrays())
    finest = np.where((lo == 0) & (hi == 0), np.iinfo(np.int64).max, exp).min(axis=0)
    finest = np.where(finest == np.iinfo(np.int64).max, 0, finest)
    up = np.where((lo == 0) & (hi == 0), 0, exp - finest)
    ends = (lo << up).min(axis=0), (hi << up).max(axis=0)
    thresholds = _integers(op, scale, offset, finest, *ends)
    if np.abs(np.ldexp(op.values, -grid)).max(initial=0) >= 2.0**MAX_BITS:
        raise CompileError(node.name, f"leaves in steps of 2**{grid} need more than {MAX_BITS} bits", "use fewer bits")
    values = np.ldexp(op.values, -grid).astype(np.int64)
    trees = ops.Forest(op.roots, op.features, thresholds, op.left, op.right, values, grid, finest)
    return Lazy(builder.add(trees, x.node, name=node.name))


def _per_feature(x: Lazy, node: RealNode, builder: Builder) -> tuple[list[Fraction], list[Fraction]] | None:
    """Scale and offset of each feature, or None if they differ by position or a scale is not positive."""
    shape = builder.type(x.node).shape
    found: list[list[Fraction]] = []
    for r in (x.affine.scale, x.affine.offset):
        full = np.broadcast_to(np.asarray(r, object), shape).reshape(-1, shape[-1])
        if (full != full[:1]).any():
            return None
        found.append(list(full[0]))
    return None if any(s <= 0 for s in found[0]) else (found[0], found[1])


def _integers(
    op: real.Forest, scale: list[Fraction], offset: list[Fraction], exp: Int64, lo: Int64, hi: Int64
) -> Int64:
    """The highest integer of the feature that goes left, counted in 2**exp; no further out than one beyond the feature."""
    keys = np.stack([op.features, op.strict], axis=1)
    pairs, which = np.unique(np.column_stack([keys, op.thresholds]), axis=0, return_inverse=True)
    found = np.zeros(len(pairs), np.int64)
    for k, (feature, strict, threshold) in enumerate(pairs.tolist()):
        f = int(feature)
        steps = (Fraction(threshold) - offset[f]) / (scale[f] * Fraction(2) ** int(exp[f]))
        highest = -(-steps.numerator // steps.denominator) - 1 if strict else steps.numerator // steps.denominator
        found[k] = min(max(highest, int(lo[f]) - 1), int(hi[f]))
    return found[which.reshape(-1)]


def exact_leaf_grid(op: real.Forest) -> int | None:
    """The exponent of a grid on which all leaves lie, by rounding or, with `_MOST_BITS` bits at most, as they stand; else None."""
    if op.grid is not None:
        return op.grid
    if not np.isfinite(op.values).all():
        return None
    finest = int(np.frexp(np.abs(varying(op)).max(initial=0))[1]) - _MOST_BITS
    whole = np.ldexp(op.values, -finest)
    if (whole != np.round(whole)).any() or np.abs(whole).max(initial=0) >= 2.0**MAX_BITS:
        return None
    low = int(np.bitwise_or.reduce(np.abs(whole).astype(np.int64), axis=None))
    return finest + (low & -low).bit_length() - 1 if low else 0


def varying(op: real.Forest) -> Float:
    """The leaves of trees that compare something; the others are a constant, which may be far from them."""
    compared = ~alone(op)
    return op.values[compared] if compared.any() else op.values


def alone(op: real.Forest) -> NDArray[np.bool_]:
    """Which leaves are all of a tree."""
    found = np.zeros(len(op.values), bool)
    found[~op.roots[op.roots < 0]] = True
    return found
