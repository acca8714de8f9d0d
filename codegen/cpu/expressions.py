"""Elementwise ops as C++ vector expressions; knows lanes and parameters, not buffers or loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...ir.ops import Add, Compare, Lookup, Maximum, Minimum, Mul, Neg, Op, Quantize, Select, Shift, Sub
from ...ir.rounding import Overflow, Rounding, round_ratio
from ...ir.types import Fixed, Int64, Tensor
from .formats import fits_int32

__all__ = ["ELEMENTWISE", "Expression", "Tables", "apply", "lane"]

ELEMENTWISE = (Add, Sub, Mul, Neg, Shift, Maximum, Minimum, Compare, Select, Quantize, Lookup)
_RELATIONS = {"less": "<", "less_equal": "<=", "equal": "=="}


@dataclass(frozen=True)
class Expression:
    """A C++ expression of one element `i`, its lane type (``vec`` or ``wide``), and its raw interval per element."""

    text: str
    lane: str
    lo: Int64
    hi: Int64
    exp: Int64


@dataclass
class Tables:
    """Constant arrays of the generated file, each written once."""

    lines: list[str] = field(default_factory=list)
    _names: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def add(self, name: str, values: Int64, kind: str = "") -> str:
        """The name of an array of these integers, of the narrowest of int32 and int64 unless `kind` says otherwise."""
        kind = kind or ("int32_t" if fits_int32(values) else "int64_t")
        key = (kind, values.tobytes())
        if key not in self._names:
            unique = f"{name}_{len(self._names)}"
            self._names[key] = unique
            rows = [", ".join(map(str, chunk)) for chunk in _chunks(values.reshape(-1).tolist(), 24)]
            self.lines.append(f"static const {kind} {unique}[{values.size}] = {{\n    " + ",\n    ".join(rows) + "};")
        return self._names[key]

    def parameter(self, name: str, values: Int64) -> str:
        """A literal if all elements agree, else ``table[i]``."""
        if (values == values.flat[0]).all():
            return literal(int(values.flat[0]))
        return f"{self.add(name, values)}[i]"


def _chunks(values: list[int], size: int) -> list[list[int]]:
    return [values[k : k + size] for k in range(0, len(values), size)]


def literal(n: int) -> str:
    return str(n) if -(1 << 31) < n < 1 << 31 else f"INT64_C({n})"


def lane(*values: Int64) -> str:
    """The lane type that holds all the given integers."""
    return "vec" if fits_int32(*values) else "wide"


def _to(e: Expression, kind: str) -> str:
    return e.text if e.lane == kind else f"{'widen' if kind == 'wide' else 'narrow'}({e.text})"


def _all(kind: str, value: str) -> str:
    """A scalar in every lane."""
    return f"({kind}{{}} + {value})"


def apply(
    op: Op, result: Tensor, operands: list[Expression], tables: Tables, name: str, store: tuple[int, int] | None = None
) -> Expression:
    """The expression of one elementwise op on operands given per element of the result.

    `store`: the interval to which the place that takes the value saturates by itself, so that a quantizer need not.
    """
    lo, hi, exp = result.flat()
    if isinstance(op, Add | Sub | Maximum | Minimum):
        text, kind = _binary(op, lo, hi, exp, operands, tables, name)
    elif isinstance(op, Mul):
        kind = lane(lo, hi)
        both_narrow = all(e.lane == "vec" for e in operands)
        text = (
            f"product({operands[0].text}, {operands[1].text})"
            if kind == "wide" and both_narrow
            else f"({_to(operands[0], kind)} * {_to(operands[1], kind)})"
        )
    elif isinstance(op, Compare):
        text, kind = _compare(op, operands, tables, name), "vec"
    elif isinstance(op, Select):
        text, kind = _select(lo, hi, exp, operands, tables, name)
    elif isinstance(op, Neg):
        kind = lane(lo, hi)
        text = f"(-{_to(operands[0], kind)})"
    elif isinstance(op, Shift):
        text, kind = operands[0].text, operands[0].lane
    elif isinstance(op, Lookup):
        text, kind = _lookup(op, lo, hi, operands[0], tables, name)
    else:
        assert isinstance(op, Quantize)
        text, kind = _quantize(op, result, operands[0], tables, name, store)
    return Expression(text, kind, lo, hi, exp)


def _shifted(e: Expression, by: Int64, kind: str, tables: Tables, name: str) -> str:
    x = _to(e, kind)
    return x if not by.any() else f"({x} << {tables.parameter(f'{name}_align', by)})"


def _binary(
    op: Op, lo: Int64, hi: Int64, exp: Int64, operands: list[Expression], tables: Tables, name: str
) -> tuple[str, str]:
    ups = [np.maximum(e.exp - exp, 0) for e in operands]
    kind = lane(lo, hi, *(v << by for e, by in zip(operands, ups) for v in (e.lo, e.hi)))
    x, y = (_shifted(e, by, kind, tables, name) for e, by in zip(operands, ups))
    if isinstance(op, Maximum | Minimum):
        return f"{'vmax' if isinstance(op, Maximum) else 'vmin'}<{kind}>({x}, {y})", kind
    return f"({x} {'+' if isinstance(op, Add) else '-'} {y})", kind


def _compare(op: Compare, operands: list[Expression], tables: Tables, name: str) -> str:
    """Vector comparisons give -1 and 0."""
    x, y = operands
    exp = np.minimum(*(np.where((e.lo == 0) & (e.hi == 0), 1 << 30, e.exp) for e in (x, y)))  # a zero has no grid
    ups = [np.where((e.lo == 0) & (e.hi == 0), 0, e.exp - exp) for e in (x, y)]
    kind = lane(*(v << by for e, by in zip((x, y), ups) for v in (e.lo, e.hi)))
    a, b = (_shifted(e, by, kind, tables, name) for e, by in zip((x, y), ups))
    text = f"({kind}({a} {_RELATIONS[op.relation]} {b}) & 1)"
    return text if kind == "vec" else f"narrow({text})"


def _select(lo: Int64, hi: Int64, exp: Int64, operands: list[Expression], tables: Tables, name: str) -> tuple[str, str]:
    condition, x, y = operands
    ups = [np.where((e.lo == 0) & (e.hi == 0), 0, np.maximum(e.exp - exp, 0)) for e in (x, y)]
    kind = lane(lo, hi, *(v << by for e, by in zip((x, y), ups) for v in (e.lo, e.hi)))
    a, b = (_shifted(e, by, kind, tables, name) for e, by in zip((x, y), ups))
    return f"({_to(condition, kind)} != {kind}{{}} ? {a} : {b})", kind


def _lookup(op: Lookup, lo: Int64, hi: Int64, x: Expression, tables: Tables, name: str) -> tuple[str, str]:
    up = x.exp - op.step
    kind = lane(lo, hi, x.lo << up, x.hi << up, np.array([op.first]), (x.lo << up) - op.first, (x.hi << up) - op.first)
    entries = op.table.shape[-1]
    table = tables.add(f"{name}_table", op.table.reshape(-1))
    start = f"{table} + {entries} * (int64_t)i" if op.table.ndim > 1 else table
    index = _shifted(x, up, kind, tables, name)
    return f"lookup({index} - {_all(kind, literal(op.first))}, {start})", kind


_ROUND: dict[Rounding, Callable[[str, str, str, str, str], str]] = {
    # x, shift S, half H = 2**(S-1) or 0, Z = 1 if S > 0 else 0, and the lane type
    Rounding.TRN: lambda x, s, h, z, k: f"({x} >> {s})",
    Rounding.TRN_ZERO: lambda x, s, h, z, k: f"(({x} + (({x} < {k}{{}}) & (2 * {h} - {z}))) >> {s})",
    Rounding.RND: lambda x, s, h, z, k: f"(({x} + {h}) >> {s})",
    Rounding.RND_MIN_INF: lambda x, s, h, z, k: f"(({x} + ({h} - {z})) >> {s})",
    Rounding.RND_ZERO: lambda x, s, h, z, k: f"(({x} + ({h} - {z}) + (negative({x}) & {z})) >> {s})",
    Rounding.RND_INF: lambda x, s, h, z, k: f"(({x} + {h} - (negative({x}) & {z})) >> {s})",
    Rounding.RND_CONV: lambda x, s, h, z, k: f"(({x} + ({h} - {z}) + (({x} >> {s}) & {z})) >> {s})",
}


def _quantize(
    op: Quantize, result: Tensor, x: Expression, tables: Tables, name: str, store: tuple[int, int] | None
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
    kind = lane(low - 2 * half, high + 2 * half, to_lo, to_hi, low - to_lo, high - to_lo, high - to_hi)
    value = _to(x, kind)
    if far.any():
        sign = f"vmin(vmax({value}, {_all(kind, '-1')}), {_all(kind, '1')})"
        flag = tables.parameter(f"{name}_far", far.astype(np.int64))
        value = sign if far.all() else f"({flag} ? {sign} : {value})"
    if up.any():
        value = f"({value} << {tables.parameter(f'{name}_up', up)})"
    if down.any():
        value = _rounded(op.rounding, value, kind, down, max(-int(low.min()), int(high.max())), tables, name)
    low, high = (round_ratio(v, np.int64(1) << down, op.rounding) for v in (low, high))
    if kind == "wide" and fits_int32(low, high, to_lo, to_hi, low - to_lo, high - to_lo):
        value, kind = f"narrow({value})", "vec"
    if kind == "wide" or max(-int(low.min()), int(high.max())) >= 1 << 30:
        store = None  # the store saturates int32 lanes after adding its offset
    text = _limited(op, value, kind, result, x, (to_lo, to_hi), tables, name, store)
    lo, hi, _ = result.flat()
    return (f"narrow({text})", "vec") if kind == "wide" and fits_int32(lo, hi) else (text, kind)


def _rounded(rounding: Rounding, value: str, kind: str, down: Int64, largest: int, tables: Tables, name: str) -> str:
    """value / 2**down, rounded; `down` is per element and may be zero for some."""
    if rounding is Rounding.RND_CONV and kind == "vec" and largest < 1 << 24 and (down == down[0]).all():
        return f"round_even<{int(down[0])}>({value})"

    def scalar(part: str, v: Int64) -> str:
        text = tables.parameter(f"{name}_{part}", v)
        return text if kind == "vec" else f"(int64_t){text}"

    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    s = tables.parameter(f"{name}_shift", down)
    h, z = scalar("half", half), scalar("rounds", (down > 0).astype(np.int64))
    return _let(value, lambda v: _ROUND[rounding](v, s, h, z, kind), kind)


def _let(value: str, body: Callable[[str], str], kind: str) -> str:
    """`value` computed once, then used several times."""
    return f"[&]({kind} v) {{ return {kind}({body('v')}); }}({value})"


def _limited(
    op: Quantize,
    value: str,
    kind: str,
    result: Tensor,
    x: Expression,
    to: tuple[Int64, Int64],
    tables: Tables,
    name: str,
    store: tuple[int, int] | None,
) -> str:
    lo, hi = to
    source = Tensor(result.shape, _fixed(x, result.shape))
    acts = op.acts(source)
    low, high = tables.parameter(f"{name}_low", lo), tables.parameter(f"{name}_high", hi)
    if not (acts.clips_low or acts.clips_high):
        return value
    if op.overflow is Overflow.WRAP:
        mask = tables.parameter(f"{name}_mask", hi - lo)
        return f"((({value} - {_all(kind, low)}) & {mask}) + {_all(kind, low)})"
    if op.overflow is Overflow.SAT_ZERO:
        return _let(value, lambda v: f"v & ((v >= {_all(kind, low)}) & (v <= {_all(kind, high)}))", kind)
    if op.overflow is Overflow.SAT_SYM:
        low = tables.parameter(f"{name}_low", np.where(lo < 0, np.maximum(lo, -hi), lo))
    if acts.clips_low and not (store is not None and op.overflow is Overflow.SAT and (lo == store[0]).all()):
        value = f"at_least({value}, {low})"
    if acts.clips_high and not (store is not None and (hi == store[1]).all()):
        value = f"at_most({value}, {high})"
    return value


def _fixed(x: Expression, shape: tuple[int, ...]) -> Fixed:
    return Fixed.of(x.lo.reshape(shape), x.hi.reshape(shape), x.exp.reshape(shape))
