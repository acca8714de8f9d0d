"""hls4ml's activation tables as real ops: how a value becomes an index, and what stands there. Knows no layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from . import real
from .hls4ml_arithmetic import Cell
from .precision import Precision, parse_precision

__all__ = ["activation", "is_table", "softmax"]

Table = NDArray[np.float64]


@dataclass(frozen=True)
class _Function:
    """A table over -reach..reach (or 0..-reach for `negative`), and the function in float32, as C++ fills it."""

    reach: float
    values: Callable[[NDArray[np.float32]], NDArray[Any]]
    negative: bool = False


_FUNCTIONS = {
    "sigmoid": _Function(8.0, lambda x: (1.0 / (1 + np.exp(-x).astype(np.float64))).astype(np.float32)),
    "tanh": _Function(4.0, lambda x: np.tanh(x.astype(np.float64))),
    "softplus": _Function(8.0, lambda x: np.log(np.exp(x).astype(np.float64) + 1.0)),
    "softsign": _Function(8.0, lambda x: x / (np.abs(x) + np.float32(1))),
    "elu": _Function(8.0, lambda x: np.exp(x) - np.float32(1), negative=True),
}


def is_table(kind: str) -> bool:
    """hls4ml computes this activation by a table of its whole argument."""
    return kind in _FUNCTIONS and kind != "elu"


def activation(x: Cell, kind: str, size: int, held: Precision) -> Cell:
    """The table of `size` entries of type `held`; the index drops bits towards zero and stays inside."""
    f = _FUNCTIONS[kind]
    step = f.reach / size if f.negative else 2 * f.reach / size
    lo, hi = (1 - size, 0) if f.negative else (-(size // 2), size - size // 2 - 1)
    index = np.arange(lo, hi + 1)
    values = _held(held, f.values((index * step).astype(np.float32)))
    to = real.Quant(np.asarray(step), np.zeros((), np.int64), lo, hi, Rounding.TRN_ZERO)
    return _looked_up(x.add(to, suffix=".index"), step, lo, values, held)


def softmax(
    x: Cell, attribute: Callable[..., Any], kind: Callable[[str], Precision], error: Callable[..., CompileError]
) -> Cell:
    """Along the last axis: stable (the largest is subtracted first) or latency; by tables of exponentials and of 1 / sum."""
    implementation = str(attribute("implementation", "stable"))
    if implementation not in ("stable", "latency") or int(attribute("n_inner", 1)) != 1 or attribute("skip", False):
        raise error(
            f"the implementation {str(implementation)!r} of softmax is not supported",
            "use stable or latency, along the last axis, without Skip",
        )
    held, inverse, sums, total = (kind(k) for k in ("exp_table_t", "inv_table_t", "accum_t", "inv_inp_t"))
    size, inverse_size = (int(attribute(f"{k}_table_size") or attribute("table_size")) for k in ("exp", "inv"))
    scale, axis = float(attribute("exp_scale", 1.0)), len(x.shape) - 1
    if implementation == "stable":
        y, size = _below_largest(x, attribute, kind, size)
        scale = -scale
    else:
        y = x
    e = _by_top_bits(y, size, ".exp", held, lambda v: np.exp((v * np.float32(scale)).astype(np.float32)))
    e = e.to(sums, ".term")
    n = x.shape[-1]
    reach = float(np.max(sums.type.hi)) * 2.0 ** int(np.min(sums.type.exp))
    exponential = min(1.0, float(np.max(held.type.hi)) * 2.0 ** int(np.min(held.type.exp)))
    bound = (
        exponential if implementation == "stable" else float(np.max(held.type.hi)) * 2.0 ** int(np.min(held.type.exp))
    )
    if n * bound > reach and sums.overflow is not Overflow.WRAP:
        raise error(f"the sum of {n} exponentials may saturate its accumulator", "give accum more integer bits")
    s = e.add(real.Reduce("sum", axis), suffix=".sum").to(sums, ".total").to(total, ".whole")
    with np.errstate(divide="ignore"):
        i = _by_top_bits(s, inverse_size, ".inverse", inverse, lambda v: np.float32(1) / v)
    return e.add(real.Mul(), i, suffix=".product")


def _below_largest(
    x: Cell, attribute: Callable[..., Any], kind: Callable[[str], Precision], size: int
) -> tuple[Cell, int]:
    """(largest - x in the type that addresses the exponentials, the size of their table)."""
    largest = x.add(real.Reduce("max", len(x.shape) - 1), suffix=".largest")
    below = largest.add(real.Sub(), x, suffix=".below")
    if attribute("inp_norm_t") is not None:
        return below.to(kind("inp_norm_t"), ".norm"), size
    t = x.precision.type
    signed = int(np.min(t.lo)) < 0
    width = _bits(x.precision) - signed
    norm = parse_precision(f"ap_ufixed<{width},{width + int(np.min(t.exp))}>", x.name)
    return below.to(norm, ".norm"), min(
        int(attribute("inv_table_size") or attribute("table_size")), 1 << width
    ) if signed else size


def _bits(p: Precision) -> int:
    span = int(np.max(p.type.hi)) - int(np.min(p.type.lo))
    return span.bit_length()


def _by_top_bits(x: Cell, size: int, suffix: str, held: Precision, f: Callable[[Any], Any]) -> Cell:
    """A table addressed by the highest bits of x."""
    t, width, n = x.precision.type, _bits(x.precision), math.ceil(math.log2(size))
    drop = max(width - n, 0)
    exp = int(np.min(t.exp)) + drop
    lo, hi = int(np.min(t.lo)) >> drop, int(np.max(t.hi)) >> drop
    values = f(np.ldexp(np.arange(lo, hi + 1, dtype=np.float64), exp).astype(np.float32))
    to = real.Quant(np.asarray(np.ldexp(1.0, exp)), np.zeros((), np.int64), lo, hi, Rounding.TRN)
    return _looked_up(x.add(to, suffix=f"{suffix}.index"), np.ldexp(1.0, exp), lo, _held(held, values), held, suffix)


def _held(held: Precision, values: Any) -> Table:
    """What a table of this type holds of values."""
    op = held.quant()
    largest = float(np.max(held.type.hi)) * 2.0 ** int(np.min(held.type.exp))
    finite = np.nan_to_num(np.asarray(values, np.float64), posinf=2 * largest, neginf=-2 * largest)
    return real.quantized(op, finite) * op.scale


def _looked_up(x: Cell, step: float, lo: int, values: Table, held: Precision, suffix: str = ".table") -> Cell:
    """values[x / step - lo]; rows of an embedding count from its end for negative numbers."""
    whole = x.add(real.Scale(np.asarray(step), divide=True), suffix=f"{suffix}.whole")
    rows = np.roll(values, lo)[:, None]
    found = whole.add(real.Embedding(rows), suffix=f"{suffix}.rows").add(real.Reshape(x.shape), suffix=suffix)
    return Cell(x.builder, x.name, found.index, held)
