"""What one row of a scalar program takes in hardware: width, area and delay; knows no stages and no text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...hw_targets import costs
from ...hw_targets.costs import Cost
from ...hw_targets.devices import Device
from ...ir.ops import Lookup, Quantize
from ...ir.rounding import Overflow, Rounding, round_ratio
from ...ir.scalar import Code, ScalarGraph
from ...ir.types import Int64, bit_length, trailing_zeros

__all__ = ["Quantizer", "quantizer", "row_costs", "row_widths", "table_values"]

DSP_PRODUCT = 64
"""Products of at least so many bits (of one operand times those of the other) are taken to go to DSP blocks."""


@dataclass(frozen=True)
class Quantizer:
    """What a Quantize row does to the reachable integers of its operand.

    `dropped` low bits go away (negative: zeros are appended); `rounds` says that an increment may follow; lo..hi is
    reachable then; `low` and `high` are limits that can really be passed, else None.
    """

    dropped: int
    rounds: bool
    lo: int
    hi: int
    low: int | None
    high: int | None
    wraps: bool


def quantizer(op: Quantize, lo: int, hi: int, exp: int) -> Quantizer:
    """Of an operand with integers lo..hi of exponent `exp`; `op.to` is uniform."""
    bottom, top, grid = int(np.min(op.to.lo)), int(np.max(op.to.hi)), int(np.max(op.to.exp))
    dropped = grid - exp
    if dropped > 0:  # beyond two bits above the operand only its sign matters
        dropped = min(dropped, max(hi.bit_length(), (-lo).bit_length()) + 2)
        low, high = (int(round_ratio(n, 1 << dropped, op.rounding)) for n in (lo, hi))
    else:
        low, high = lo << -dropped, hi << -dropped
    if op.overflow is Overflow.SAT_SYM and bottom < 0:
        bottom = max(bottom, -top)
    under, over = low < bottom, high > top
    return Quantizer(
        dropped,
        dropped > 0 and op.rounding is not Rounding.TRN,
        low,
        high,
        bottom if under else None,
        top if over else None,
        op.overflow is Overflow.WRAP and (under or over),
    )


def row_widths(scalar: ScalarGraph) -> Int64:
    """Bits of each row, a sign among them where the row may be negative; 0 for the constant 0."""
    lo, hi = scalar.lo, scalar.hi
    below = np.asarray(bit_length(np.where(lo < 0, -lo - 1, 0)))
    return np.maximum(below, np.asarray(bit_length(np.maximum(hi, 0)))) + (lo < 0)


def row_costs(scalar: ScalarGraph, device: Device) -> Cost:
    """Estimated area and delay of each row, without registers."""
    n = len(scalar)
    total = Cost(*(np.zeros(n) for _ in range(5)))
    widths = row_widths(scalar)
    for codes, rule in _RULES:
        some = np.flatnonzero(np.isin(scalar.code, [int(c) for c in codes]))
        if len(some):
            cost = rule(scalar, device, widths, some)
            for part in ("lut", "ff", "dsp", "bram", "delay_ns"):
                getattr(total, part)[some] = getattr(cost, part)
    return total


def _left(scalar: ScalarGraph, some: Int64, operand: NDArray[np.int32], shift: NDArray[np.int16]) -> Int64:
    """By how many bits an operand's integer is shifted left to count as the result does."""
    return scalar.exp[operand[some]].astype(np.int64) + shift[some] - scalar.exp[some]


def _sums(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    left_a, left_b = _left(s, some, s.a, s.shift_a), _left(s, some, s.b, s.shift_b)
    top = np.maximum(widths[s.a[some]] + left_a, widths[s.b[some]] + left_b)
    wired = np.where(s.code[some] == Code.ADD, np.maximum(left_a, left_b), left_b)  # low bits that pass as wires
    bits = np.maximum(np.minimum(top, widths[some]) - wired, 1)
    below = (widths[s.a[some]] + left_a <= left_b) | (widths[s.b[some]] + left_b <= left_a)
    beside = below & (s.lo[s.a[some]] >= 0) & (s.lo[s.b[some]] >= 0) & (s.code[some] == Code.ADD)  # no bit in common
    return costs.adder(device, np.where(beside, 0, bits))


def _negations(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    return costs.adder(device, widths[some])


def _extremes(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    a, b = s.a[some], s.b[some]
    zero = ((s.lo[a] == 0) & (s.hi[a] == 0)) | ((s.lo[b] == 0) & (s.hi[b] == 0))
    bits = np.maximum(widths[a] + _left(s, some, s.a, s.shift_a), widths[b] + _left(s, some, s.b, s.shift_b))
    relu, other = costs.relu(device, widths[some]), costs.maximum(device, bits)
    return _chosen(zero, relu, other)


def _comparisons(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    a, b = s.a[some], s.b[some]
    exp_a, exp_b = (s.exp[r].astype(np.int64) + shift[some] for r, shift in ((a, s.shift_a), (b, s.shift_b)))
    lowest = np.minimum(exp_a, exp_b)
    sign = (s.code[some] == Code.LESS) & (s.lo[b] == 0) & (s.hi[b] == 0)  # a bit that is there already
    bits = np.where(sign, 0, np.maximum(widths[a] + exp_a - lowest, widths[b] + exp_b - lowest))
    limit = (s.code[some] == Code.LESS_EQUAL) & (s.code[b] == Code.CONSTANT)
    unseen = np.asarray(trailing_zeros((s.lo[b] << np.maximum(exp_b - exp_a, 0)) + 1))  # x <= 0111 looks at the top bit
    seen = np.clip(widths[a] - unseen, 1, None)
    return _chosen(limit & (exp_b >= exp_a), costs.limit(device, seen), costs.compare(device, bits))


def _choices(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    masked = (s.code[s.a[some]] == Code.CONSTANT) | (s.code[s.b[some]] == Code.CONSTANT)
    return _chosen(masked, costs.relu(device, widths[some]), costs.mux(device, widths[some]))


def _chosen(first: NDArray[np.bool_], x: Cost, y: Cost) -> Cost:
    return Cost(*(np.where(first, getattr(x, p), getattr(y, p)) for p in ("lut", "ff", "dsp", "bram", "delay_ns")))


def _products(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    a, b = widths[s.a[some]], widths[s.b[some]]
    in_lut = costs.multiplier(device, a, b, "lut")
    if not device.resources.dsp:
        return in_lut
    return _chosen(a * b < DSP_PRODUCT, in_lut, costs.multiplier(device, a, b, "dsp"))


def _quantizers(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    steps: list[tuple[int, int, int, int, int]] = []
    sticky = (Rounding.RND_CONV, Rounding.RND_ZERO, Rounding.RND_INF, Rounding.RND_MIN_INF, Rounding.TRN_ZERO)
    for row in some.tolist():
        op, a = s.attributes[s.attribute[row]], int(s.a[row])
        assert isinstance(op, Quantize)
        q = quantizer(op, int(s.lo[a]), int(s.hi[a]), int(s.exp[a]) + int(s.shift_a[row]))
        bits = max(q.hi.bit_length(), (-q.lo - 1).bit_length() if q.lo < 0 else 0) + (q.lo < 0)
        limited = (q.low is not None or q.high is not None) and not q.wraps
        steps.append((bits, q.dropped if q.rounds else 0, op.rounding in sticky, bits if limited else 0, limited))
    bits, dropped, sticky_bits, limited_bits, limited = np.array(steps, np.int64).T
    plain, full = (costs.round_off(device, bits, np.maximum(dropped, 0), sticky=k) for k in (False, True))
    rounded = _chosen(sticky_bits == 0, plain, full)
    return rounded.then(costs.saturate(device, limited_bits, np.where(limited, widths[some], 0)))


def _tables(s: ScalarGraph, device: Device, widths: Int64, some: Int64) -> Cost:
    return costs.table(device, widths[s.a[some]], widths[some])


_RULES = (
    ((Code.ADD, Code.SUB), _sums),
    ((Code.NEG,), _negations),
    ((Code.MAXIMUM, Code.MINIMUM), _extremes),
    ((Code.MUL,), _products),
    ((Code.QUANTIZE,), _quantizers),
    ((Code.LOOKUP,), _tables),
    ((Code.LESS, Code.LESS_EQUAL, Code.EQUAL), _comparisons),
    ((Code.SELECT,), _choices),
)


def table_values(op: Lookup, lo: int, hi: int, exp: int) -> Int64:
    """The table's values for the operand's integers lo..hi of exponent `exp`."""
    return op.table[(np.arange(lo, hi + 1, dtype=np.int64) << (exp - op.step)) - op.first]
