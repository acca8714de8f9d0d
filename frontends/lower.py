"""Lowers a real-valued model to an exact fixed-point graph; one function per real op. Nothing is rounded but by quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from ..ir import ops
from ..ir.errors import CompileError
from ..ir.graph import Builder, Graph, Output
from ..ir.ops import Linear, Lookup, Quantize, Requantize
from ..ir.ops.quantizing import MAX_TABLE
from ..ir.rational import Affine, as_rational, is_power_of_two, power_of_two_exponents
from ..ir.rounding import Overflow, Rounding
from ..ir.types import MAX_BITS, Fixed, Tensor, bit_length
from . import real
from .inputs import NEEDS_DATA, input_quantizers, lower_input, target_type
from .lazy import MAX_WEIGHT_BITS, Lazy, constant, dyadic, exact_weight_bits, is_zero, materialise, plus, settle, times
from .lower_choices import compare, embedding, extreme, select, unsigned
from .lower_trees import forest
from .real import Float, Quant, RealModel, RealNode
from .softmax import softmax

__all__ = ["lower"]

_UNLIMITED = 1 << 61


def lower(model: RealModel) -> Graph:
    """The exact fixed-point graph of a quantized model.

    Raises `CompileError` where the model leaves a precision open: an input or a nonlinear function without a quantizer,
    or float weights.
    """
    quantizers = input_quantizers(model)
    builder = Builder(model.name)
    values: list[Lazy] = []
    for i, node in enumerate(model.nodes):
        if isinstance(node.op, real.Input):
            values.append(lower_input(builder, node, quantizers[i]))
        else:
            values.append(_RULES[type(node.op)](builder, node, [values[j] for j in node.operands]))
    return builder.graph(_output(builder, name, values[i]) for name, i in model.outputs)


# ---- quantizers -------------------------------------------------------------------------------------------------------


def _quant(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    (x,) = operands
    to, meaning = target_type(node.op)  # pyright: ignore[reportArgumentType]
    assert isinstance(node.op, Quant)
    rounding, overflow = node.op.rounding, node.op.overflow
    if isinstance(x.function, real.Softmax):
        if overflow is not Overflow.SAT:
            raise CompileError(node.name, f"behind softmax must saturate, not {overflow.value}", "use SAT")
        return Lazy(softmax(builder, node.name, x, to, meaning, rounding), (meaning,))
    if x.function is not None:
        return Lazy(_table(builder, node, x, to, meaning), (meaning,))
    if not is_zero(meaning.offset):
        x = settle(builder, x, node.name)
        x = replace(x, pieces=(Affine(x.affine.scale, plus(x.affine.offset, times(meaning.offset, Fraction(-1)))),))
    inverse = as_rational(1 / np.asarray(meaning.scale, object))
    if not (isinstance(inverse, Fraction) or x.simple):
        x = Lazy(materialise(builder, x, node.name))
    if not (isinstance(inverse, Fraction) and inverse == 1):
        x = x.scaled(inverse)
    return Lazy(_rounded(builder, node.name, x, to, rounding, overflow), (meaning,))


def _rounded(
    builder: Builder, name: str, x: Lazy, to: Fixed, rounding: Rounding, overflow: Overflow = Overflow.SAT
) -> int:
    """quantize(x): by shifts where every scale is a power of two, else by one requantize per piece."""
    if all(_shifts(p) for p in x.pieces) or (_many(to) and all(_exact(p) for p in x.pieces)):
        return builder.add(Quantize(to, rounding, overflow), materialise(builder, x, name), name=name)
    if overflow is not Overflow.SAT:  # a requantize saturates: first to whole steps, then into the interval
        whole = _rounded(builder, f"{name}.steps", x, Fixed.of(-_UNLIMITED, _UNLIMITED - 1, to.exp), rounding)
        return builder.add(Quantize(to, rounding, overflow), whole, name=name)
    # Rounding is monotone: it commutes with max, min and clip.
    lo, hi = _limited(x, to, rounding)
    nodes = [
        builder.add(Requantize(p.scale, p.offset, Fixed.of(lo, hi, to.exp), rounding), x.node, name=name)
        for p in x.pieces
    ]
    node = nodes[0]
    for other in nodes[1:]:
        node = builder.add(ops.Maximum() if x.join == "max" else ops.Minimum(), node, other, name=f"{name}.{x.join}")
    return node


def _shifts(p: Affine) -> bool:
    magnitude = as_rational(np.abs(np.asarray(p.scale, object)))
    signs = {v > 0 for v in np.asarray(p.scale, object).flat}
    return is_power_of_two(magnitude) and len(signs) == 1 and dyadic(p.offset) is not None


def _many(to: Fixed) -> bool:
    """More results than the steps of a requantize are written out for."""
    return int(np.max(np.asarray(to.hi) - np.asarray(to.lo))) >= 1 << 16


def _exact(p: Affine) -> bool:
    return dyadic(p.scale) is not None and dyadic(p.offset) is not None


def _limited(x: Lazy, to: Fixed, rounding: Rounding) -> tuple[Any, Any]:
    """The target interval, narrowed by the pending clip."""

    def at(limit: Fraction) -> Any:
        point = Tensor((), Fixed.of(0, 0, 0))
        shape = np.broadcast_shapes(np.shape(to.lo), np.shape(to.hi), np.shape(to.exp))
        op = Requantize(Fraction(0), limit, to, rounding)
        return op.evaluate(point, [Tensor(shape, Fixed.of(0, 0, 0))], np.zeros((1, *shape), np.int64))[0]

    lo = to.lo if x.lo is None else np.maximum(to.lo, at(x.lo))
    hi = to.hi if x.hi is None else np.minimum(to.hi, at(x.hi))
    return lo, hi


def _table(builder: Builder, node: RealNode, x: Lazy, to: Fixed, meaning: Affine) -> int:
    """quantize(function(x)) as a table over every value the operand can take."""
    assert isinstance(x.function, real.Function)
    assert isinstance(node.op, Quant)
    t = builder.type(x.node)
    lo, hi, exp = t.flat()
    step = int(exp.min())
    first, last = int((lo << (exp - step)).min()), int((hi << (exp - step)).max())
    if last - first + 1 > MAX_TABLE:
        raise CompileError(
            node.name,
            f"a table of {x.function.function} over {last - first + 1} values exceeds 2**20 entries",
            "quantize its operand, or give --calibrate data.npz",
        )
    fields = [np.asarray(v, np.int64) for v in (to.lo, to.hi, to.exp)]
    shared = all(isinstance(r, Fraction) for p in (*x.pieces, meaning) for r in (p.scale, p.offset))
    shape = () if shared and all(v.ndim == 0 for v in fields) else t.shape
    if int(np.prod(shape)) * (last - first + 1) > 16 * MAX_TABLE:
        rule = f"{np.prod(shape)} tables of {last - first + 1} values are more than 2**24"
        raise CompileError(
            node.name, rule, "quantize its operand to fewer bits, or with one quantizer for all elements"
        )
    argument = _real_values(
        replace(x, function=None), np.ldexp(np.arange(first, last + 1, dtype=np.float64), step), shape
    )
    unit, zero = (np.broadcast_to(np.asarray(r, np.float64), shape)[..., None] for r in (meaning.scale, meaning.offset))
    lo_to, hi_to, exp_to = (np.broadcast_to(v, shape)[..., None] for v in fields)
    offset = -np.ldexp(zero / unit, -exp_to).astype(np.int64)
    target = Quant(np.ldexp(unit, exp_to), offset, lo_to, hi_to, node.op.rounding, node.op.overflow)
    results = x.function(argument)
    if not np.isfinite(results).all():
        bad = argument.reshape(-1)[np.argmin(np.isfinite(results).reshape(-1))]
        raise CompileError(
            node.name,
            f"{x.function.function} is not defined for {bad:g}, which its operand can reach",
            "clip its operand",
        )
    grid = int(exp_to.min())
    table = real.quantized(target, results).astype(np.int64) << (exp_to - grid)
    return builder.add(Lookup(table.reshape(*shape, -1), first, step, grid), x.node, name=node.name)


def _real_values(x: Lazy, values: Float, shape: tuple[int, ...]) -> Float:
    """The real meaning of node values, ``[*shape, entries]``, in float64: what a table is made of."""

    def spread(r: Any) -> Float:
        return np.broadcast_to(np.asarray(r, np.float64), shape)[..., None]

    pieces = [spread(p.scale) * values + spread(p.offset) for p in x.pieces]
    out = np.maximum.reduce(pieces) if x.join == "max" else np.minimum.reduce(pieces)
    out = out if x.lo is None else np.maximum(out, float(x.lo))
    return out if x.hi is None else np.minimum(out, float(x.hi))


def _bipolar(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """floor, limited to -1..0, tells the sign; 2q + 1 is then -1 or +1."""
    x = settle(builder, operands[0], node.name)
    sign = _rounded(builder, f"{node.name}.sign", x, Fixed(-1, 0, 0), Rounding.TRN)
    one = builder.add(ops.Constant(np.ones((), np.int64)), name=f"{node.name}.one")
    result = builder.add(ops.Add(), builder.add(ops.Shift(1), sign, name=f"{node.name}.twice"), one, name=node.name)
    return Lazy(result).scaled(as_rational(node.op.scale))  # pyright: ignore[reportAttributeAccessIssue]


# ---- arithmetic -------------------------------------------------------------------------------------------------------


def _dense(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    op = node.op
    assert isinstance(op, real.Dense)
    x = settle(builder, operands[0], node.name)
    scale, offset = x.affine.scale, x.affine.offset
    if not isinstance(scale, Fraction):  # one scale per input channel belongs to the exact values, not to the result
        x = Lazy(materialise(builder, x, node.name))
        scale, offset = Fraction(1), Fraction(0)
    ints, exp, factor = _weights(node, op)
    result = builder.add(Linear(ints, exp), x.node, name=node.name)
    scale = times(scale, factor)
    if is_zero(offset):
        return Lazy(result, (Affine(scale),))
    rows = np.broadcast_to(np.asarray(offset, object), builder.type(x.node).shape)
    columns = rows @ (
        ints.astype(object) * np.asarray([Fraction(2) ** int(e) for e in np.broadcast_to(exp, ints.shape[1:])], object)
    )
    return Lazy(result, (Affine(scale, times(as_rational(columns), factor)),))


def _weights(node: RealNode, op: real.Dense) -> tuple[Any, Any, Any]:
    """(integers, exponent, remaining scale) with weights == integers * 2**exponent * scale, per column."""
    if not np.isfinite(op.weights).all():
        raise CompileError(node.name, "weights must be finite, but contain NaN or Inf", "check the training")
    if op.ints is not None and op.scale is not None:
        scale = as_rational(op.scale)
        if is_power_of_two(scale):
            return op.ints, power_of_two_exponents(scale), Fraction(1)
        return op.ints, 0, scale
    grid = exact_weight_bits(op)
    if grid is None:
        raise CompileError(
            node.name, f"its weights are float numbers that need more than {MAX_WEIGHT_BITS} bits each", NEEDS_DATA
        )
    return np.ldexp(op.weights, -grid).astype(np.int64), grid, Fraction(1)


def _scale(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Scale)
    factor = as_rational(node.op.factor)
    if node.op.divide:
        factor = as_rational(Fraction(1) / np.asarray(factor, object))
    x = operands[0]
    if x.function is not None or not (x.simple or (isinstance(factor, Fraction) and factor > 0)):
        x = settle(builder, x, node.name)
    return _broadened(builder, node, x.scaled(factor), node.op.factor)


def _offset(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Offset)
    x = settle(builder, operands[0], node.name)
    moved = replace(x, pieces=(Affine(x.affine.scale, plus(x.affine.offset, as_rational(node.op.offset))),))
    return _broadened(builder, node, moved, node.op.offset)


def _broadened(builder: Builder, node: RealNode, x: Lazy, values: Float) -> Lazy:
    """The value, with its node broadcast where a constant has more elements than the data."""
    shape = builder.type(x.node).shape
    if node.shape == shape:
        return x
    index = np.broadcast_to(np.arange(int(np.prod(shape))).reshape(shape), node.shape)
    return replace(x, node=builder.add(ops.Gather(index.copy()), x.node, name=f"{node.name}.broadcast"))


def _clip(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Clip)
    x = operands[0] if operands[0].function is None else settle(builder, operands[0], node.name)
    limits = (None if v is None or np.isinf(v) else Fraction(v) for v in (node.op.lo, node.op.hi))
    return x.clipped(*limits)


def _leaky(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """x * slope for x < 0: the larger (slope <= 1) or smaller (slope >= 1) of two affine pieces, else sum of two halves."""
    assert isinstance(node.op, real.Leaky)
    x, slope = settle(builder, operands[0], node.name), as_rational(node.op.slope)
    flat = list(np.asarray(slope, object).flat)
    join = "max" if all(s <= 1 for s in flat) else "min" if all(s >= 1 for s in flat) else None
    if join is not None:
        p = x.affine
        return replace(x, pieces=(p, Affine(times(p.scale, slope), times(p.offset, slope))), join=join)
    value = materialise(builder, x, node.name)
    zero = builder.add(ops.Constant(np.zeros((), np.int64)), name=f"{node.name}.zero")
    above = builder.add(ops.Maximum(), value, zero, name=f"{node.name}.above")
    below = Lazy(builder.add(ops.Minimum(), value, zero, name=f"{node.name}.below")).scaled(slope)
    return Lazy(builder.add(ops.Add(), above, materialise(builder, below, node.name), name=node.name))


def _function(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Function | real.Softmax)
    x = operands[0]
    if x.function is not None or isinstance(node.op, real.Softmax):
        x = settle(builder, x, node.name)
    return replace(x, function=node.op)


def _sum(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """x + y or x - y; a common scale stays pending."""
    x, y = (settle(builder, v, node.name) for v in operands)
    op = ops.Add() if isinstance(node.op, real.Add) else ops.Sub()
    alike = isinstance(x.affine.scale, Fraction) or builder.type(x.node).shape == builder.type(y.node).shape
    if alike and np.array_equal(np.asarray(x.affine.scale, object), np.asarray(y.affine.scale, object)):
        minus = Fraction(1 if isinstance(node.op, real.Add) else -1)
        offset = plus(x.affine.offset, times(y.affine.offset, minus))
        return Lazy(builder.add(op, x.node, y.node, name=node.name), (Affine(x.affine.scale, offset),))
    return Lazy(builder.add(op, materialise(builder, x, node.name), materialise(builder, y, node.name), name=node.name))


def _product(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    x, y = (settle(builder, v, node.name) for v in operands)
    pure = all(is_zero(v.affine.offset) and isinstance(v.affine.scale, Fraction) for v in (x, y))
    if not pure:
        x, y = (Lazy(materialise(builder, v, node.name)) for v in (x, y))
    product = builder.add(ops.Mul(), x.node, y.node, name=node.name)
    if x.node == y.node:  # a square, which no interval of a product knows
        product = unsigned(builder, product, f"{node.name}.square")
    return Lazy(product, (Affine(times(x.affine.scale, y.affine.scale)),))


# ---- layout -----------------------------------------------------------------------------------------------------------


def _layout(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    x = operands[0] if not isinstance(operands[0].function, real.Softmax) else settle(builder, operands[0], node.name)
    shape, op = builder.type(x.node).shape, node.op
    if isinstance(op, real.Reshape):
        return x.arranged(
            builder.add(ops.Reshape(op.shape), x.node, name=node.name), lambda a: a.reshape(op.shape), shape
        )
    if isinstance(op, real.Transpose):
        return x.arranged(
            builder.add(ops.Transpose(op.axes), x.node, name=node.name), lambda a: a.transpose(op.axes), shape
        )
    assert isinstance(op, real.Gather)
    if (op.indices < 0).any():
        return _padded(builder, node, op, x)
    return x.arranged(
        builder.add(ops.Gather(op.indices), x.node, name=node.name), lambda a: a.reshape(-1)[op.indices], shape
    )


def _padded(builder: Builder, node: RealNode, op: real.Gather, x: Lazy) -> Lazy:
    """A gather in which the index -1 stands for zero: the number 0 is appended to the elements."""
    x = settle(builder, x, node.name)
    if not is_zero(x.affine.offset):  # the integer 0 is not the number 0
        x = Lazy(materialise(builder, x, node.name))
    size = builder.type(x.node).size
    flat = builder.add(ops.Reshape((size,)), x.node, name=f"{node.name}.flat")
    zero = builder.add(ops.Constant(np.zeros(1, np.int64)), name=f"{node.name}.zero")
    joined = builder.add(ops.Concat(0), flat, zero, name=f"{node.name}.padded")
    index = np.where(op.indices < 0, size, op.indices)
    gathered = builder.add(ops.Gather(index), joined, name=node.name)
    scale = x.affine.scale
    if isinstance(scale, Fraction):
        return Lazy(gathered, x.pieces)
    full = np.broadcast_to(scale, builder.type(x.node).shape).reshape(-1)
    spread = np.concatenate([full, np.array([Fraction(1)], object)])
    return Lazy(gathered, (Affine(as_rational(spread[index])),))


def _window(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """The op itself; padding is the number 0, so an offset has to be realised before."""
    op = node.op
    assert isinstance(op, ops.Window)
    x, shape = operands[0], builder.type(operands[0].node).shape
    index = op.source(shape)
    if (index < 0).any() or x.function is not None:
        x = settle(builder, x, node.name)
    if (index < 0).any() and not is_zero(x.affine.offset):  # the integer 0 is not the number 0
        x = Lazy(materialise(builder, x, node.name))
    windows = builder.add(op, x.node, name=node.name)
    return x.arranged(windows, lambda a: a.reshape(-1)[np.maximum(index, 0)], shape)


def _reduce(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    """A sum or maximum; one scale for all elements stays pending."""
    op = node.op
    assert isinstance(op, real.Reduce)
    x = settle(builder, operands[0], node.name)
    scale, offset = x.affine.scale, x.affine.offset
    uniform = isinstance(scale, Fraction) and isinstance(offset, Fraction)
    if not uniform or (op.kind == "max" and not (isinstance(scale, Fraction) and scale > 0)):
        x = Lazy(materialise(builder, x, node.name))
        scale, offset = Fraction(1), Fraction(0)
    reduced = ops.ReduceMax(op.axis) if op.kind == "max" else ops.ReduceSum(op.axis)
    count = Fraction(1 if op.kind == "max" else builder.type(x.node).shape[op.axis])
    return Lazy(builder.add(reduced, x.node, name=node.name), (Affine(scale, times(offset, count)),))


def _constant(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Constant)
    made = constant(builder, as_rational(node.op.values), node.name)
    if made is None:
        raise CompileError(node.name, "its values need more than 62 bits", "use fewer digits")
    if builder.type(made).shape != node.shape:
        made = builder.add(ops.Gather(np.zeros(node.shape, np.int64)), made, name=f"{node.name}.spread")
    return Lazy(made)


def _concat(builder: Builder, node: RealNode, operands: list[Lazy]) -> Lazy:
    assert isinstance(node.op, real.Concat)
    parts = [settle(builder, v, node.name) for v in operands]
    joined = builder.add(ops.Concat(node.op.axis), *(v.node for v in parts), name=node.name)
    shapes = [builder.type(v.node).shape for v in parts]

    def along(pick: Callable[[Affine], Any]) -> Any:
        full = [np.broadcast_to(np.asarray(pick(v.affine), object), s) for v, s in zip(parts, shapes)]
        return as_rational(np.concatenate(full, axis=node.op.axis))  # pyright: ignore[reportAttributeAccessIssue]

    return Lazy(joined, (Affine(along(lambda p: p.scale), along(lambda p: p.offset)),))


def _output(builder: Builder, name: str, value: Lazy) -> Output:
    """An output keeps a scale that is no power of two as its meaning; everything else is computed."""
    settled = settle(builder, value, name)
    p = settled.affine
    if _shifts(p):
        node = materialise(builder, settled, name)
        return Output(name, node)
    if not is_zero(p.offset) and (bias := _grid_offset(p)) is not None:
        added = constant(builder, bias, f"{name}.bias")
        assert added is not None
        return Output(name, builder.add(ops.Add(), settled.node, added, name=f"{name}.sum"), Affine(p.scale))
    return Output(name, settled.node, p)


def _grid_offset(p: Affine) -> Any | None:
    """offset / scale where that is dyadic and narrow: then the hardware adds it and only a scale is left."""
    scale = np.asarray(p.scale, object)
    if any(v == 0 for v in scale.flat):
        return None
    ratio = as_rational(np.asarray(p.offset, object) / scale)
    found = dyadic(ratio)
    return (
        ratio if found is not None and int(np.max(np.asarray(bit_length(np.abs(found[0]))))) < MAX_BITS // 2 else None
    )


_RULES: dict[type, Callable[[Builder, RealNode, list[Lazy]], Lazy]] = {
    real.Quant: _quant,
    real.Bipolar: _bipolar,
    real.Dense: _dense,
    real.Scale: _scale,
    real.Offset: _offset,
    real.Clip: _clip,
    real.Leaky: _leaky,
    real.Function: _function,
    real.Softmax: _function,
    real.Add: _sum,
    real.Sub: _sum,
    real.Mul: _product,
    real.Reshape: _layout,
    real.Transpose: _layout,
    real.Gather: _layout,
    ops.Window: _window,
    real.Concat: _concat,
    real.Reduce: _reduce,
    real.Constant: _constant,
    real.Maximum: extreme,
    real.Minimum: extreme,
    real.Compare: compare,
    real.Select: select,
    real.Embedding: embedding,
    real.Forest: forest,
}
"""How each real op is lowered."""
