"""The reference evaluation: the law that every engine and every pass must equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import CompileError
from .graph import Graph
from .ops import Input
from .rational import Affine, Rational, is_power_of_two
from .rounding import Overflow, Rounding, overflowed, round_ratio
from .types import Int64, Tensor

__all__ = ["evaluate", "evaluate_all", "from_real", "to_real"]


def evaluate(graph: Graph, inputs: Mapping[str, Int64]) -> dict[str, Int64]:
    """Raw integers ``[events, *shape]`` by input name in, raw integers by output name out.

    Raises `CompileError` if an input is missing, has another shape or leaves its type's interval.
    """
    values = evaluate_all(graph, inputs)
    return {o.name: values[o.node] for o in graph.outputs}


def evaluate_all(graph: Graph, inputs: Mapping[str, Int64]) -> list[Int64]:
    """The value of every node, ``[events, *shape]``."""
    values: list[Int64] = []
    for node in graph.nodes:
        if isinstance(node.op, Input):
            values.append(_checked(node.name, node.type, inputs))
        else:
            operands = [values[i] for i in node.operands]
            values.append(node.op.evaluate(node.type, graph.operand_types(node), *operands))
    events = max((v.shape[0] for v in values), default=0) if not graph.inputs else values[graph.inputs[0]].shape[0]
    return [np.broadcast_to(v, (events, *n.type.shape)) for v, n in zip(values, graph.nodes)]


def _checked(name: str, t: Tensor, inputs: Mapping[str, Int64]) -> Int64:
    if name not in inputs:
        raise CompileError(f"input {name}", f"data must be given for every input, not only for {sorted(inputs)}")
    x = np.asarray(inputs[name])
    if x.shape[1:] != t.shape or x.ndim != len(t.shape) + 1:
        raise CompileError(
            f"input {name}", f"data must have shape [events, {', '.join(map(str, t.shape))}], not {list(x.shape)}"
        )
    if not np.issubdtype(x.dtype, np.integer):
        raise CompileError(f"input {name}", f"raw data must be integers, not {x.dtype}", "give real data to predict()")
    lo, hi, _ = t.arrays()
    if x.size and (np.any(x < lo) or np.any(x > hi)):
        bad = np.argwhere((x < lo) | (x > hi))[0]
        raise CompileError(
            f"input {name}",
            f"raw data must be within {t.fixed.lo}..{t.fixed.hi}, not {int(x[tuple(bad)])} at {bad.tolist()}",
        )
    return x.astype(np.int64)


def from_real(op: Input, x: ArrayLike, dtype: DTypeLike = np.int64) -> NDArray[Any]:
    """Real data ``[events, *shape]`` to the raw integers of an input, as the input's quantizer says.

    A power-of-two scale is exact. Any other scale divides in float32, as the exporting frameworks and the ONNX
    standard define QuantizeLinear. NaN is refused. `dtype`: an integer type that holds the input's interval.
    """
    real = np.asarray(x)
    if real.dtype.kind not in "fiub":
        raise CompileError("input", f"data must be numbers, not {real.dtype}")
    if real.dtype.kind == "f" and not np.isfinite(real).all():
        raise CompileError("input", f"data must be finite, not {real[~np.isfinite(real)][0]}", "clean the data")
    lo, hi, exp = op.fixed.arrays(op.shape)
    unit = np.ldexp(_floats(op.real.scale), exp)
    zero = _floats(op.real.offset) / unit  # a zero point: added to the quotient, before rounding
    if is_power_of_two(op.real.scale) and op.overflow is Overflow.SAT and op.rounding in _IN_FLOAT and not zero.any():
        return _rounded_in_parts(real, 1 / unit, lo, hi, _IN_FLOAT[op.rounding], dtype)
    if is_power_of_two(op.real.scale):
        steps = real.astype(np.float64) * (1 / unit)
        steps = steps - zero if zero.any() else steps
    else:
        steps = (real.astype(np.float32) / unit.astype(np.float32) - zero.astype(np.float32)).astype(np.float64)
    if op.overflow is Overflow.SAT and op.rounding in _IN_FLOAT:  # the same numbers, without the way through integers
        return np.clip(_IN_FLOAT[op.rounding](steps), lo, hi).astype(dtype)
    n = round_ratio(_quarters(steps), np.int64(4), op.rounding)
    return np.asarray(overflowed(n, lo, hi, op.overflow), dtype)


def _rounded_in_parts(
    x: NDArray[Any], factor: NDArray[np.float64], lo: Int64, hi: Int64, rounding: Callable[..., Any], dtype: DTypeLike
) -> NDArray[Any]:
    """``clip(round(x * factor), lo, hi)`` for powers of two, in parts that stay in the cache and in the data's own float type.

    float32 holds the product exactly (an overflow to infinity is clipped, an underflow rounds as zero does), and integers of
    up to 24 bits; wider ones take float64.
    """
    narrow = x.dtype == np.float32 and max(abs(int(lo.min(initial=0))), abs(int(hi.max(initial=0)))) < 1 << 24
    kind = np.float32 if narrow else np.float64
    by, low, high = (np.asarray(v.flat[0] if (v == v.flat[0]).all() else v, kind) for v in (factor, lo, hi))
    out = np.empty(x.shape, dtype)
    step = max(1, (1 << 16) // max(1, math.prod(x.shape[1:])))
    for k in range(0, len(x), step):
        part = np.multiply(x[k : k + step], by, dtype=kind)
        rounding(part, out=part)
        np.clip(part, low, high, out=part)
        out[k : k + step] = part
    return out


_IN_FLOAT = {Rounding.RND_CONV: np.rint, Rounding.TRN: np.floor}
"""Roundings that float64 does exactly."""


def _quarters(x: NDArray[np.float64]) -> Int64:
    """Integers that round, over 4, as x does: 4 * floor(x) + (0, below half, half, above half). Huge x are limited."""
    whole = np.clip(np.floor(x), -(2.0**59), 2.0**59)
    fraction = x - whole
    part = (fraction > 0).astype(np.int64) + (fraction >= 0.5) + (fraction > 0.5)
    return 4 * whole.astype(np.int64) + part


def to_real(t: Tensor, real: Affine, n: Int64) -> NDArray[np.float64]:
    """Raw integers ``[events, *shape]`` of a node or output to real units, in float64."""
    value = np.ldexp(n.astype(np.float64), np.asarray(t.fixed.exp))
    return value if real.is_identity else value * _floats(real.scale) + _floats(real.offset)


def _floats(x: Rational) -> NDArray[np.float64]:
    return np.asarray(x, np.float64)
