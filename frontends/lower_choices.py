"""Lowers comparisons, choices and embeddings: values that carry scales meet on one grid, exactly, or are refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ..ir import ops
from ..ir.errors import CompileError
from ..ir.graph import Builder
from ..ir.ops.quantizing import MAX_TABLE
from ..ir.rational import IDENTITY, Affine, as_rational
from ..ir.rounding import Overflow, Rounding
from ..ir.types import Fixed, IntLike, Tensor, bit_length
from . import real
from .inputs import NEEDS_DATA
from .lazy import Lazy, exact_weight_bits, is_zero, materialise, settle
from .real import RealNode

__all__ = ["compare", "embedding", "extreme", "one_grid", "select", "unsigned"]

_SMALL = 1 << 16
"""Two scales whose ratio has numerator and denominator below this meet on their common measure."""


def one_grid(builder: Builder, name: str, x: Lazy, y: Lazy) -> tuple[int, int, Affine]:
    """(node of x, node of y, the meaning that both now have): the operands of an op that needs one grid."""
    a, b = x.affine, y.affine
    if not all(isinstance(r, Fraction) for r in (a.scale, a.offset, b.scale, b.offset)):
        return materialise(builder, x, f"{name}.x"), materialise(builder, y, f"{name}.y"), IDENTITY
    if a == b:
        return x.node, y.node, a
    if is_zero(a.offset) and is_zero(b.offset):
        if _is_zero_constant(builder, y.node):
            return x.node, y.node, a
        if _is_zero_constant(builder, x.node):
            return x.node, y.node, b
        assert isinstance(a.scale, Fraction)
        assert isinstance(b.scale, Fraction)
        ratio = abs(a.scale / b.scale) if b.scale and a.scale else Fraction(0)
        if 0 < ratio.numerator < _SMALL and ratio.denominator < _SMALL:
            unit = abs(a.scale) / ratio.numerator
            nodes = [
                materialise(builder, Lazy(v.node, (Affine(p.scale / unit),)), f"{name}.{part}")
                for v, p, part in ((x, a, "x"), (y, b, "y"))
            ]
            return nodes[0], nodes[1], Affine(unit)
    return materialise(builder, x, f"{name}.x"), materialise(builder, y, f"{name}.y"), IDENTITY


def _is_zero_constant(builder: Builder, i: int) -> bool:
    op = builder.nodes[i].op
    return isinstance(op, ops.Constant) and not op.values.any()


def compare(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """A comparison with a constant is one with an integer threshold, whatever the scale; others meet on one grid."""
    assert isinstance(node.op, real.Compare)
    x, y = (settle(builder, v, node.name) for v in operands)
    for value, limit, below in ((x, y, True), (y, x, False)):
        found = _threshold(builder, node, value, limit, below)
        if found is not None:
            return Lazy(found)
    a, b, meaning = one_grid(builder, node.name, x, y)
    assert isinstance(meaning.scale, Fraction)
    pair = (a, b) if meaning.scale > 0 else (b, a)
    return Lazy(builder.add(ops.Compare(node.op.relation), *pair, name=node.name))


def _threshold(builder: Builder, node: RealNode, x: Lazy, limit: Lazy, below: bool) -> int | None:
    """``x relation limit`` (or ``limit relation x``, if not `below`) for a constant limit, on the integers of x."""
    assert isinstance(node.op, real.Compare)
    source = builder.nodes[limit.node]
    signs = {v > 0 for v in np.asarray(x.affine.scale, object).flat}
    if not isinstance(source.op, ops.Constant) or isinstance(builder.nodes[x.node].op, ops.Constant) or len(signs) != 1:
        return None
    if any(v == 0 for v in np.asarray(x.affine.scale, object).flat):
        return None
    number = source.op.values.astype(object) * _powers(source.op.exp)
    number = number * np.asarray(limit.affine.scale, object) + np.asarray(limit.affine.offset, object)
    t = builder.type(x.node)
    at = (number - np.asarray(x.affine.offset, object)) / np.asarray(x.affine.scale, object) / _powers(t.fixed.exp)
    at = np.asarray(at, object)
    below = below == signs.pop()  # a negative scale turns the relation round
    up = (node.op.relation == "less") == below  # n < t is n < ceil(t), n <= t is n <= floor(t), t < n is floor(t) < n
    whole = np.vectorize(math.ceil if up else math.floor, otypes=[object])(at)
    shape = np.broadcast_shapes(at.shape, t.shape)
    lo, hi, exp = (np.broadcast_to(f, shape) for f in t.arrays())
    if node.op.relation == "equal":  # what is on no grid point is never reached
        whole = np.where(np.equal(whole, at).astype(bool), whole, lo.astype(object) - 1)
    inside = np.clip(np.broadcast_to(whole, shape), lo.astype(object) - 1, hi.astype(object) + 1)
    whole = np.asarray(inside, np.int64)
    same = exp.size > 0 and bool((exp == exp.flat[0]).all())
    grid: IntLike = int(exp.flat[0]) if same else exp.copy()
    constant = builder.add(ops.Constant(whole, grid), name=f"{node.name}.threshold")
    pair = (x.node, constant) if below else (constant, x.node)
    return builder.add(ops.Compare(node.op.relation), *pair, name=node.name)


def _powers(exp: IntLike) -> Any:
    """2**exp as a Fraction or an array of them."""
    return as_rational(np.vectorize(lambda e: Fraction(2) ** int(e), otypes=[object])(np.asarray(exp)))


def select(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """A choice between values; a common scale stays pending."""
    condition, x, y = (settle(builder, v, node.name) for v in operands)
    bit = materialise(builder, condition, f"{node.name}.condition")
    a, b, meaning = one_grid(builder, node.name, x, y)
    return Lazy(builder.add(ops.Select(), bit, a, b, name=node.name), (meaning,))


def extreme(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """max or min of two data values; a common positive scale stays pending."""
    x, y = (settle(builder, v, node.name) for v in operands)
    if isinstance(node.op, real.Maximum) and _opposite(x, y):
        return _absolute(builder, node, x)
    a, b, meaning = one_grid(builder, node.name, x, y)
    assert isinstance(meaning.scale, Fraction)
    largest = isinstance(node.op, real.Maximum) == (meaning.scale > 0)
    return Lazy(builder.add(ops.Maximum() if largest else ops.Minimum(), a, b, name=node.name), (meaning,))


def _opposite(x: Lazy, y: Lazy) -> bool:
    """y is -x."""
    a, b = x.affine, y.affine
    scaled = isinstance(a.scale, Fraction) and isinstance(b.scale, Fraction) and a.scale == -b.scale
    return scaled and x.node == y.node and is_zero(a.offset) and is_zero(b.offset)


def _absolute(builder: Builder, node: RealNode, x: Lazy) -> Lazy:
    """max(x, -x) without the sign, which the interval of a maximum cannot know to be unused: dropping it costs nothing."""
    assert isinstance(x.affine.scale, Fraction)
    minus = builder.add(ops.Neg(), x.node, name=f"{node.name}.neg")
    size = builder.add(ops.Maximum(), x.node, minus, name=node.name)
    return Lazy(unsigned(builder, size, f"{node.name}.size"), (Affine(abs(x.affine.scale)),))


def unsigned(builder: Builder, i: int, name: str) -> int:
    """Node i, which is never negative, without its sign."""
    t = builder.type(i).fixed
    hi = (np.int64(1) << np.asarray(bit_length(np.asarray(np.maximum(t.hi, 0))))) - 1
    return builder.add(ops.Quantize(Fixed.of(0, hi, t.exp), Rounding.TRN, Overflow.WRAP), i, name=name)


def embedding(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """One lookup for each column of the table; the index must be whole and cannot leave the table."""
    assert isinstance(node.op, real.Embedding)
    index = materialise(builder, settle(builder, operands[0], node.name), f"{node.name}.index")
    t, (rows, columns) = builder.type(index), node.op.table.shape
    lo, hi, exp = t.flat()
    if np.any((exp < 0) & ((lo != 0) | (hi != 0))):
        raise CompileError(node.name, "the index must be a whole number", "round it, or give an integer input")
    first, last = int((lo << np.maximum(exp, 0)).min()), int((hi << np.maximum(exp, 0)).max())
    if first < -rows or last >= rows:
        rule = f"the index reaches {first}..{last}, and the table has {rows} rows"
        raise CompileError(node.name, rule, "clip or quantize the index to the rows")
    entries = last - first + 1
    if entries * t.size * columns > 16 * MAX_TABLE:
        raise CompileError(node.name, f"{t.size} lookups of {columns} x {entries} values are more than 2**24")
    values, grid = _table(node)
    table = values[np.arange(first, last + 1) % rows].T  # [columns, entries]
    spread = np.broadcast_to(np.arange(t.size).reshape((*t.shape, 1)), node.shape)
    each = builder.add(ops.Gather(spread.copy()), index, name=f"{node.name}.index")
    full = np.broadcast_to(table, (*node.shape, entries)).copy()
    return Lazy(builder.add(ops.Lookup(full, first, 0, grid), each, name=node.name))


def _table(node: RealNode) -> tuple[Any, int]:
    """(integers, exponent) of the table's values."""
    assert isinstance(node.op, real.Embedding)
    if not np.isfinite(node.op.table).all():
        raise CompileError(node.name, "its values must be finite, but contain NaN or Inf", "check the training")
    found = exact_weight_bits(real.Dense(node.op.table))
    if found is None:
        raise CompileError(node.name, "its values are float numbers of many bits", NEEDS_DATA)
    grid = int(found.min())
    integers = np.ldexp(node.op.table, -grid)
    Tensor((), Fixed.of(int(integers.min()), int(integers.max()), grid))  # refuses what is too wide
    return integers.astype(np.int64), grid
