"""Elementwise ops as expressions on machine integers of 32 or 64 bits; how they are spelled, a dialect says.

Every intermediate is given the narrow type only where its interval proves that it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..ir.ops import Add, Compare, Lookup, Maximum, Minimum, Mul, Neg, Op, Quantize, Select, Shift, Sub
from ..ir.rounding import Overflow, Rounding, round_ratio
from ..ir.types import Fixed, Int64, Tensor

__all__ = ["ELEMENTWISE", "RELATIONS", "Dialect", "Expression", "apply", "fits_int32", "literal", "narrowest"]

ELEMENTWISE = (Add, Sub, Mul, Neg, Shift, Maximum, Minimum, Compare, Select, Quantize, Lookup)
RELATIONS = {"less": "<", "less_equal": "<=", "equal": "=="}

_INT32 = (1 << 31) - 1


def fits_int32(*values: NDArray[np.int64]) -> bool:
    """All of the given integers, and sums of a few units more, fit an int32."""
    return all(v.size == 0 or (int(v.min()) >= -_INT32 + 4 and int(v.max()) <= _INT32 - 4) for v in values)


def narrowest(t: Tensor, kinds: Sequence[str]) -> str:
    """The first of these integer types (as numpy names them) that holds every raw value of a tensor."""
    lo, hi, _ = t.flat()
    least, most = int(lo.min(initial=0)), int(hi.max(initial=0))
    return next(k for k in kinds if np.iinfo(k).min <= least and most <= np.iinfo(k).max)


def literal(n: int, wide: str = "INT64_C({})") -> str:
    return str(n) if -(1 << 31) < n < 1 << 31 else wide.format(n)


@dataclass(frozen=True)
class Expression:
    """The text of one element's value, its machine type, and its raw interval and exponent per element.

    `constant`: lo == hi is the value, and the text a table of it.
    """

    text: str
    lane: str
    lo: Int64
    hi: Int64
    exp: Int64
    constant: bool = False


class Dialect(Protocol):
    """How a target spells what is no plain operator. `narrow` and `wide` name its types of 32 and 64 bits.

    Values are text; `+ - * << >> & < <= ==` between two values of one type are spelled alike everywhere.
    """

    narrow: str
    wide: str

    def parameter(self, name: str, values: Int64) -> str:
        """One integer per element of the result: a literal where all agree."""
        ...

    def splat(self, kind: str, value: str) -> str:
        """A parameter as a value of type `kind`."""
        ...

    def convert(self, text: str, kind: str) -> str:
        """To the other of the two types; the value fits."""
        ...

    def product(self, x: str, y: str) -> str:
        """The wide product of two narrow values."""
        ...

    def maximum(self, x: str, y: str, kind: str) -> str: ...

    def minimum(self, x: str, y: str, kind: str) -> str: ...

    def choose(self, condition: str, x: str, y: str, kind: str) -> str:
        """x where the condition, a value of type `kind`, is not 0, else y."""
        ...

    def switch(self, flag: str, x: str, y: str) -> str:
        """x where the parameter `flag` is not 0, else y."""
        ...

    def compare(self, x: str, relation: str, y: str, kind: str) -> str:
        """1 where it holds, else 0, as a value of type `kind`."""
        ...

    def keep(self, value: str, conditions: list[tuple[str, str, str]], kind: str) -> str:
        """The value where all conditions (x, operator, y) hold, else 0."""
        ...

    def let(self, value: str, kind: str, body: Callable[[str], str]) -> str:
        """`body` of a name for the value, which is computed once."""
        ...

    def lookup(self, index: str, name: str, table: Int64, kind: str) -> str:
        """``table[index]`` or, with a table of two axes, ``table[element, index]``; the result has type `kind`."""
        ...

    def round_even(self, value: str, by: int) -> str | None:
        """value / 2**by to the nearest, ties to even, for narrow values below 2**24; None: no short way."""
        ...


def lane(d: Dialect, *values: Int64) -> str:
    """The type that holds all the given integers."""
    return d.narrow if fits_int32(*values) else d.wide


def _to(d: Dialect, e: Expression, kind: str) -> str:
    return e.text if e.lane == kind else d.convert(e.text, kind)


def apply(
    d: Dialect, op: Op, result: Tensor, operands: list[Expression], name: str, store: tuple[int, int] | None = None
) -> Expression:
    """The expression of one elementwise op on operands given per element of the result.

    `store`: the interval to which the place that takes the value saturates by itself, so that a quantizer need not.
    """
    lo, hi, exp = result.flat()
    if isinstance(op, Add | Sub | Maximum | Minimum):
        text, kind = _binary(d, op, lo, hi, exp, operands, name)
    elif isinstance(op, Mul):
        kind = lane(d, lo, hi)
        if kind == d.wide and all(e.lane == d.narrow for e in operands):
            text = d.product(operands[0].text, operands[1].text)
        else:
            text = f"({_to(d, operands[0], kind)} * {_to(d, operands[1], kind)})"
    elif isinstance(op, Compare):
        text, kind = _compare(d, op, operands, name), d.narrow
    elif isinstance(op, Select):
        text, kind = _select(d, lo, hi, exp, operands, name)
    elif isinstance(op, Neg):
        kind = lane(d, lo, hi)
        text = f"(-{_to(d, operands[0], kind)})"
    elif isinstance(op, Shift):
        text, kind = operands[0].text, operands[0].lane
    elif isinstance(op, Lookup):
        text, kind = _lookup(d, op, lo, hi, operands[0], name)
    else:
        assert isinstance(op, Quantize)
        text, kind = _quantize(d, op, result, operands[0], name, store)
    return Expression(text, kind, lo, hi, exp)


def _shifted(d: Dialect, e: Expression, by: Int64, kind: str, name: str) -> str:
    if by.any() and e.constant:
        return d.splat(kind, d.parameter(f"{name}_aligned", e.lo << by))
    x = _to(d, e, kind)
    return x if not by.any() else f"({x} << {d.parameter(f'{name}_align', by)})"


def _binary(
    d: Dialect, op: Op, lo: Int64, hi: Int64, exp: Int64, operands: list[Expression], name: str
) -> tuple[str, str]:
    ups = [np.maximum(e.exp - exp, 0) for e in operands]
    kind = lane(d, lo, hi, *(v << by for e, by in zip(operands, ups) for v in (e.lo, e.hi)))
    x, y = (_shifted(d, e, by, kind, name) for e, by in zip(operands, ups))
    if isinstance(op, Maximum | Minimum):
        return (d.maximum if isinstance(op, Maximum) else d.minimum)(x, y, kind), kind
    return f"({x} {'+' if isinstance(op, Add) else '-'} {y})", kind


def _compare(d: Dialect, op: Compare, operands: list[Expression], name: str) -> str:
    x, y = operands
    exp = np.minimum(*(np.where((e.lo == 0) & (e.hi == 0), 1 << 30, e.exp) for e in (x, y)))  # a zero has no grid
    ups = [np.where((e.lo == 0) & (e.hi == 0), 0, e.exp - exp) for e in (x, y)]
    kind = lane(d, *(v << by for e, by in zip((x, y), ups) for v in (e.lo, e.hi)))
    a, b = (_shifted(d, e, by, kind, name) for e, by in zip((x, y), ups))
    text = d.compare(a, RELATIONS[op.relation], b, kind)
    return text if kind == d.narrow else d.convert(text, d.narrow)


def _select(d: Dialect, lo: Int64, hi: Int64, exp: Int64, operands: list[Expression], name: str) -> tuple[str, str]:
    condition, x, y = operands
    ups = [np.where((e.lo == 0) & (e.hi == 0), 0, np.maximum(e.exp - exp, 0)) for e in (x, y)]
    kind = lane(d, lo, hi, *(v << by for e, by in zip((x, y), ups) for v in (e.lo, e.hi)))
    a, b = (_shifted(d, e, by, kind, name) for e, by in zip((x, y), ups))
    return d.choose(_to(d, condition, kind), a, b, kind), kind


def _lookup(d: Dialect, op: Lookup, lo: Int64, hi: Int64, x: Expression, name: str) -> tuple[str, str]:
    up = x.exp - op.step
    first = np.array([op.first])
    kind = lane(d, lo, hi, x.lo << up, x.hi << up, first, (x.lo << up) - op.first, (x.hi << up) - op.first)
    index = f"{_shifted(d, x, up, kind, name)} - {d.splat(kind, d.parameter(f'{name}_first', first))}"
    return d.lookup(index, f"{name}_table", op.table, kind), kind


def _rounding(d: Dialect, mode: Rounding, x: str, s: str, h: str, z: str, kind: str) -> str:
    """x / 2**s; h is half a step or 0, z is 1 where s > 0 and else 0, both values of type `kind`."""
    zero = d.splat(kind, "0")
    negative = d.compare(x, "<", zero, kind)
    if mode is Rounding.TRN:
        return f"({x} >> {s})"
    if mode is Rounding.TRN_ZERO:
        return f"(({x} + {d.keep(f'(2 * {h} - {z})', [(x, '<', zero)], kind)}) >> {s})"
    if mode is Rounding.RND:
        return f"(({x} + {h}) >> {s})"
    if mode is Rounding.RND_MIN_INF:
        return f"(({x} + ({h} - {z})) >> {s})"
    if mode is Rounding.RND_ZERO:
        return f"(({x} + ({h} - {z}) + ({negative} & {z})) >> {s})"
    if mode is Rounding.RND_INF:
        return f"(({x} + {h} - ({negative} & {z})) >> {s})"
    return f"(({x} + ({h} - {z}) + (({x} >> {s}) & {z})) >> {s})"


def _quantize(
    d: Dialect, op: Quantize, result: Tensor, x: Expression, name: str, store: tuple[int, int] | None
) -> tuple[str, str]:
    """Rounding by adding and shifting, then whatever of the overflow handling the operand's range can reach."""
    to_lo, to_hi, to_exp = (
        np.broadcast_to(np.asarray(v, np.int64), result.shape).reshape(-1) for v in (op.to.lo, op.to.hi, op.to.exp)
    )
    by = to_exp - x.exp
    up, down = np.maximum(-by, 0), np.clip(by, 0, 62)
    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    far = by > 62  # only the sign of x matters there: keep it within the shift
    low, high = (np.where(far, np.sign(v), v << up) for v in (x.lo, x.hi))
    kind = lane(d, low - 2 * half, high + 2 * half, to_lo, to_hi, low - to_lo, high - to_lo, high - to_hi)
    value = _to(d, x, kind)
    if far.any():
        sign = d.minimum(d.maximum(value, d.splat(kind, "-1"), kind), d.splat(kind, "1"), kind)
        value = sign if far.all() else d.switch(d.parameter(f"{name}_far", far.astype(np.int64)), sign, value)
    if up.any():
        value = f"({value} << {d.parameter(f'{name}_up', up)})"
    if down.any():
        value = _rounded(d, op.rounding, value, kind, down, max(-int(low.min()), int(high.max())), name)
    low, high = (round_ratio(v, np.int64(1) << down, op.rounding) for v in (low, high))
    if kind == d.wide and fits_int32(low, high, to_lo, to_hi, low - to_lo, high - to_lo):
        value, kind = d.convert(value, d.narrow), d.narrow
    if kind == d.wide or max(-int(low.min()), int(high.max())) >= 1 << 30:
        store = None  # the store saturates int32 lanes after adding its offset
    text = _limited(d, op, value, kind, result, x, (to_lo, to_hi), name, store)
    lo, hi, _ = result.flat()
    return (d.convert(text, d.narrow), d.narrow) if kind == d.wide and fits_int32(lo, hi) else (text, kind)


def _rounded(d: Dialect, rounding: Rounding, value: str, kind: str, down: Int64, largest: int, name: str) -> str:
    """value / 2**down, rounded; `down` is per element and may be zero for some."""
    if rounding is Rounding.RND_CONV and kind == d.narrow and largest < 1 << 24 and (down == down[0]).all():
        short = d.round_even(value, int(down[0]))
        if short is not None:
            return short
    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    s = d.parameter(f"{name}_shift", down)
    h = d.splat(kind, d.parameter(f"{name}_half", half))
    z = d.splat(kind, d.parameter(f"{name}_rounds", (down > 0).astype(np.int64)))
    return d.let(value, kind, lambda v: _rounding(d, rounding, v, s, h, z, kind))


def _limited(
    d: Dialect,
    op: Quantize,
    value: str,
    kind: str,
    result: Tensor,
    x: Expression,
    to: tuple[Int64, Int64],
    name: str,
    store: tuple[int, int] | None,
) -> str:
    lo, hi = to
    acts = op.acts(Tensor(result.shape, _fixed(x, result.shape)))
    if not (acts.clips_low or acts.clips_high):
        return value
    low, high = (d.splat(kind, d.parameter(f"{name}_{end}", v)) for end, v in (("low", lo), ("high", hi)))
    if op.overflow is Overflow.WRAP:
        mask = d.splat(kind, d.parameter(f"{name}_mask", hi - lo))
        return f"((({value} - {low}) & {mask}) + {low})"
    if op.overflow is Overflow.SAT_ZERO:
        return d.let(value, kind, lambda v: d.keep(v, [(v, ">=", low), (v, "<=", high)], kind))
    if op.overflow is Overflow.SAT_SYM:
        low = d.splat(kind, d.parameter(f"{name}_low", np.where(lo < 0, np.maximum(lo, -hi), lo)))
    if acts.clips_low and not (store is not None and op.overflow is Overflow.SAT and (lo == store[0]).all()):
        value = d.maximum(value, low, kind)
    if acts.clips_high and not (store is not None and (hi == store[1]).all()):
        value = d.minimum(value, high, kind)
    return value


def _fixed(x: Expression, shape: tuple[int, ...]) -> Fixed:
    return Fixed.of(x.lo.reshape(shape), x.hi.reshape(shape), x.exp.reshape(shape))
