"""How a model's inputs become integers: the quantizer in front of everything else moves to the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..ir import ops
from ..ir.errors import CompileError
from ..ir.graph import Builder
from ..ir.rational import Affine, Rational, as_rational, is_power_of_two, power_of_two_exponents
from ..ir.rounding import Overflow, Rounding
from ..ir.types import Fixed
from . import real
from .lazy import Lazy, plus, times
from .real import Quant, RealModel, RealNode

__all__ = ["NEEDS_DATA", "InputQuantizer", "has_quantizer", "input_quantizers", "lower_input", "target_type"]

NEEDS_DATA = "give --calibrate data.npz with a few thousand events of real input, or export a quantized model"


@dataclass(frozen=True)
class InputQuantizer:
    """quantizer(factor * x + offset): what the host does to real data before they enter the hardware."""

    quantizer: Quant
    factor: Rational
    offset: Rational


@dataclass(frozen=True)
class _Path:
    """The input's meaning at one node: factor * x + offset; `index`: which elements of x, -1 for zeros (None: all, in order)."""

    factor: Rational = Fraction(1)
    offset: Rational = Fraction(0)
    index: NDArray[np.int64] | None = None

    @property
    def direct(self) -> bool:
        return self.index is None


def input_quantizers(model: RealModel) -> dict[int, InputQuantizer]:
    """The quantizer that every path from an input meets first, for each input.

    Constant scales and offsets in front of it move to the host with it, and layout may lie between. Where paths have different
    ones, a finer one serves all of them. Raises `CompileError` if a path has none, or if there is no such finer one.
    """
    return {i: _first_quantizer(model, i) for i in model.inputs}


def has_quantizer(model: RealModel, i: int) -> bool:
    """Input i has its precision from the model."""
    try:
        _first_quantizer(model, i)
    except CompileError:
        return False
    return True


def _first_quantizer(model: RealModel, i: int) -> InputQuantizer:
    where = f"input {model.nodes[i].name}"
    paths, found = {i: _Path()}, list[InputQuantizer]()
    for at, node in enumerate(model.nodes):
        path = next((paths[j] for j in node.operands if j in paths), None)
        if path is None:
            continue
        if isinstance(node.op, Quant) and (op := _of_input(node.op, path.index, model.nodes[i].shape)) is not None:
            found.append(InputQuantizer(op, path.factor, path.offset))
            continue
        behind = _behind(model, node, path)
        if behind is None:
            raise CompileError(where, f"its precision is open: '{node.name}' reads it without a quantizer", NEEDS_DATA)
        paths[at] = behind
    if any(j in paths for _, j in model.outputs):
        raise CompileError(where, "its precision is open: it is an output as well, before any quantizer", NEEDS_DATA)
    if not found:
        raise CompileError(where, "nothing depends on it", "remove it from the model")
    return found[0] if all(_same(found[0], q) for q in found) else _common(where, found)


def _common(where: str, found: list[InputQuantizer]) -> InputQuantizer:
    """One quantizer in front of several, which are then hardware: it drops only bits that none of them sees.

    Floor and round-half-up of x are those of x cut half a step below the finest grid, TRN and RND; limits are one step further
    than the furthest, and remainders of the largest power of two have the same remainders of smaller ones.
    """
    ops_, first = [q.quantizer for q in found], found[0]
    affine = all(np.array_equal(q.factor, first.factor) and np.array_equal(q.offset, first.offset) for q in found)  # pyright: ignore
    dyadic = all(is_power_of_two(as_rational(q.scale)) and not np.any(q.zero) for q in ops_)
    rounds = {q.rounding for q in ops_} <= {Rounding.TRN, Rounding.RND}
    wraps = [q.overflow is Overflow.WRAP for q in ops_]
    if not (affine and dyadic and rounds and all(w == wraps[0] for w in wraps)):
        rule = "must have one quantizer, or several on power-of-two grids that all round by TRN or RND and all wrap or all saturate"
        raise CompileError(where, rule, "quantize it once")
    exps = [np.asarray(power_of_two_exponents(as_rational(q.scale))) for q in ops_]
    finest = np.minimum.reduce(np.broadcast_arrays(*exps)) - any(q.rounding is Rounding.RND for q in ops_)
    if wraps[0]:
        spans = [np.asarray(q.hi) - np.asarray(q.lo) + 1 << (e - finest) for q, e in zip(ops_, exps)]
        half = np.maximum.reduce(np.broadcast_arrays(*spans)) // 2
        lo, hi, overflow = -half, half - 1, Overflow.WRAP
    else:
        ends = [
            (np.asarray(q.lo) - 1 << (e - finest), np.asarray(q.hi) + 1 << (e - finest)) for q, e in zip(ops_, exps)
        ]
        lo = np.minimum.reduce(np.broadcast_arrays(*(e[0] for e in ends)))
        hi, overflow = np.maximum.reduce(np.broadcast_arrays(*(e[1] for e in ends))), Overflow.SAT
    op = Quant(np.ldexp(1.0, finest), np.zeros((), np.int64), lo, hi, Rounding.TRN, overflow)
    return InputQuantizer(op, first.factor, first.offset)


def _of_input(op: Quant, index: NDArray[np.int64] | None, shape: tuple[int, ...]) -> Quant | None:
    """The quantizer behind a layout as one of the input itself; None where an element meets several."""
    if index is None or not _per_element(op):
        return op
    used = index >= 0
    at, places = np.unique(index[used], return_index=True)
    if at.size == 0:
        return None
    found: dict[str, NDArray] = {}
    for name in ("scale", "zero", "lo", "hi"):
        behind = np.broadcast_to(getattr(op, name), index.shape)[used]
        full = np.full(math.prod(shape), behind[0])  # of elements that nothing reads: as of another
        full[at] = behind[places]
        if (full[index[used]] != behind).any():
            return None
        found[name] = full.reshape(shape)
    return replace(op, **found)


def _arranged(op: real.RealOp, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index behind a layout op."""
    if isinstance(op, real.Reshape):
        return index.reshape(op.shape)
    if isinstance(op, real.Transpose):
        return index.transpose(op.axes)
    assert isinstance(op, real.Gather | ops.Window)
    source = op.indices if isinstance(op, real.Gather) else op.source(index.shape)
    return np.where(source < 0, -1, index.reshape(-1)[source])


def _behind(model: RealModel, node: RealNode, path: _Path) -> _Path | None:
    """The path behind a node that the host can take over, else None."""
    shape = model.nodes[node.operands[0]].shape
    uniform = isinstance(path.factor, Fraction) and isinstance(path.offset, Fraction)
    if isinstance(node.op, real.Reshape | real.Transpose | real.Gather | ops.Window):
        plain = path.factor == 1 and path.offset == 0
        if not uniform or not (plain or not _padded(node.op, shape)):
            return None
        index = np.arange(math.prod(shape)).reshape(shape) if path.index is None else path.index
        return _Path(path.factor, path.offset, _arranged(node.op, index))
    if not isinstance(node.op, real.Scale | real.Offset) or node.shape != shape:
        return None
    values = node.op.factor if isinstance(node.op, real.Scale) else node.op.offset
    if not path.direct and np.size(values) != 1:
        return None
    if isinstance(node.op, real.Scale):
        by = as_rational(node.op.factor)
        by = as_rational(Fraction(1) / np.asarray(by, object)) if node.op.divide else by
        nonzero = all(v != 0 for v in np.asarray(by, object).flat)
        return _Path(times(path.factor, by), times(path.offset, by), path.index) if nonzero else None
    return _Path(path.factor, plus(path.offset, as_rational(node.op.offset)), path.index)


def _padded(op: real.RealOp, shape: tuple[int, ...]) -> bool:
    """A layout op with elements that are the number 0, whatever the input's meaning."""
    if isinstance(op, ops.Window):
        return bool((op.source(shape) < 0).any())
    return isinstance(op, real.Gather) and bool((op.indices < 0).any())


def _same(a: InputQuantizer, b: InputQuantizer) -> bool:
    same = all(np.array_equal(getattr(a.quantizer, k), getattr(b.quantizer, k)) for k in ("lo", "hi", "scale", "zero"))
    affine = np.array_equal(np.asarray(a.factor, object), np.asarray(b.factor, object)) and np.array_equal(
        np.asarray(a.offset, object), np.asarray(b.offset, object)
    )
    modes = all(getattr(a.quantizer, k) is getattr(b.quantizer, k) for k in ("rounding", "overflow"))
    return modes and same and affine


def _per_element(q: Quant) -> bool:
    return any(np.ndim(v) > 0 and np.size(v) > 1 for v in (q.scale, q.zero, q.lo, q.hi))


def lower_input(builder: Builder, node: RealNode, q: InputQuantizer) -> Lazy:
    """The input node; its integers mean x = (scale * n + zero - offset) / factor."""
    to, meaning = target_type(q.quantizer)
    inverse = as_rational(Fraction(1) / np.asarray(q.factor, object))
    offset = times(plus(meaning.offset, times(q.offset, Fraction(-1))), inverse)
    meaning = Affine(times(meaning.scale, inverse), offset)
    op = ops.Input(node.shape, to, meaning, q.quantizer.rounding, q.quantizer.overflow)
    return Lazy(builder.add(op, name=node.name), (meaning,))


_SHIFT_INVARIANT = (Rounding.TRN, Rounding.RND, Rounding.RND_MIN_INF)
"""round(x + n) == round(x) + n for every integer n; the other modes depend on the sign or on being even."""


def target_type(q: Quant) -> tuple[Fixed, Affine]:
    """(type of a quantizer's integers, their meaning): a power-of-two scale is the exponent, any other stays a scale.

    A zero point moves the limits where the rounding allows it, else it stays in the meaning.
    """
    scale, moved = as_rational(q.scale), q.rounding in _SHIFT_INVARIANT or not np.any(q.zero)
    lo, hi = (q.lo - q.zero, q.hi - q.zero) if moved else (q.lo, q.hi)
    offset = Fraction(0) if moved else times(as_rational(-q.zero), scale)
    if is_power_of_two(scale):
        return Fixed.of(lo, hi, power_of_two_exponents(scale)), Affine(Fraction(1), offset)
    return Fixed.of(lo, hi, 0), Affine(scale, offset)
