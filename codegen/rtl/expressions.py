"""One row of a scalar program as Verilog text; knows no stages, modules or ports.

Operands are extended by concatenation to exactly the width of the result, so no expression depends on Verilog's rules
of context; sums are then computed modulo 2**width, which is exact because the result's interval fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.ops import Quantize
from ...ir.rounding import Overflow, Rounding
from ...ir.scalar import Code
from .rows import Quantizer, quantizer

__all__ = ["CASE_ENTRIES", "COMPARISONS", "Operand", "extended", "literal", "row_lines", "table_function"]

COMPARISONS = {Code.LESS: "<", Code.LESS_EQUAL: "<=", Code.EQUAL: "=="}
"""Rows of one bit, and Verilog's operator."""

CASE_ENTRIES = 4096
"""Larger tables are one long constant that is indexed, which tools read faster than so many cases."""


@dataclass(frozen=True)
class Operand:
    """A named value of `width` bits with integers lo..hi, to be shifted left by `left`; a constant has no name."""

    name: str
    width: int
    lo: int
    hi: int
    left: int

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def sign(self) -> str:
        """The bit that says negative."""
        return f"{self.name}[{self.width - 1}]" if self.signed else "1'b0"


def literal(n: int, width: int) -> str:
    """n in two's complement of `width` bits."""
    return f"{width}'h{n & ((1 << width) - 1):x}"


def extended(x: Operand, width: int) -> str:
    """The operand's value, shifted, in exactly `width` bits (its low ones where it is longer)."""
    if not x.name:
        return literal(x.lo << x.left, width)
    room = width - x.left
    if room <= 0:
        return literal(0, width)
    parts = []
    if room > x.width:
        pad = room - x.width
        parts.append(_repeated(f"{x.name}[{x.width - 1}]", pad) if x.signed else f"{pad}'b0")
    parts.append(x.name if room >= x.width else f"{x.name}[{room - 1}:0]")
    if x.left:
        parts.append(f"{x.left}'b0")
    return parts[0] if len(parts) == 1 and room >= x.width else f"{{{', '.join(parts)}}}"


def _repeated(bit: str, times: int) -> str:
    return bit if times == 1 else f"{{{times}{{{bit}}}}}"


def row_lines(code: Code, name: str, width: int, operands: list[Operand], declaration: str) -> list[str]:
    """Lines that declare and compute an arithmetic row; `declaration` is `wire ... name`."""
    if code is Code.ADD and (joined := _joined(operands, width)):
        return [f"{declaration} = {joined};"]
    if code in (Code.ADD, Code.SUB):
        x, y = (extended(o, width) for o in operands)
        return [f"{declaration} = {x} {'+' if code is Code.ADD else '-'} {y};"]
    if code is Code.NEG:
        return [f"{declaration} = {literal(0, width)} - {extended(operands[0], width)};"]
    if code is Code.MUL:
        x, y = (o.name if o.signed else f"$signed({{1'b0, {o.name}}})" for o in operands)
        return [f"{declaration} = {x} * {y};"]
    if code is Code.LESS_EQUAL and not operands[1].name and operands[0].name and not operands[0].left:
        return [f"{declaration} = {_limit(operands[0], operands[1].lo << operands[1].left)};"]
    if code in COMPARISONS:
        lines, test = _test(COMPARISONS[code], name, operands)
        return [*lines, f"{declaration} = {test};"]
    if code is Code.SELECT:
        x, y, condition = operands
        return [f"{declaration} = {condition.name} ? {extended(x, width)} : {extended(y, width)};"]
    return _extreme(code is Code.MAXIMUM, name, width, operands, declaration)


def _joined(operands: list[Operand], width: int) -> str:
    """The sum of two values that have no bit in common, side by side; "" for others."""
    low, high = sorted(operands, key=lambda o: o.left)
    gap = high.left - low.left - low.width
    if gap < 0 or low.signed or high.signed or not (low.name and high.name) or high.left + high.width > width:
        return ""
    parts = [_zeros(width - high.left - high.width), high.name, _zeros(gap), low.name, _zeros(low.left)]
    return f"{{{', '.join(part for part in parts if part)}}}"


def _zeros(bits: int) -> str:
    return f"{bits}'b0" if bits else ""


def _limit(x: Operand, highest: int) -> str:
    """x <= highest as logic on the bits of x, from the lowest on that can decide it; such logic is shared and merged."""
    text = ""
    for k in range(x.width):
        sign = x.signed and k == x.width - 1
        low = f"{'' if sign else '~'}{x.name}[{k}]"  # the bit says that x is lower
        if (highest >> k & 1) ^ sign:
            text = f"({low} | {text})" if text else ""  # so far, any x is low enough
        else:
            text = f"({low} & {text})" if text else low
    return text or "1'b1"


def _extreme(largest: bool, name: str, width: int, operands: list[Operand], declaration: str) -> list[str]:
    x, y = sorted(operands, key=lambda o: not o.name)  # a constant comes second
    if not y.name and y.lo == 0:
        choice = [literal(0, width), extended(x, width)]
        return [f"{declaration} = {x.sign} ? {' : '.join(choice if largest else choice[::-1])};"]
    lines, test = _test(">" if largest else "<", name, [x, y])
    return [*lines, f"{declaration} = ({test}) ? {extended(x, width)} : {extended(y, width)};"]


def _test(operator: str, name: str, operands: list[Operand]) -> tuple[list[str], str]:
    """(lines that go before, the comparison) of two operands in one width; one against zero may be a sign bit."""
    x, y = operands
    if operator == "<" and x.signed and not y.name and y.lo == 0:
        return [], x.sign
    signed = x.signed or y.signed
    wide = max(
        o.width + o.left + (signed and not o.signed) if o.name else (o.lo << o.left).bit_length() + signed
        for o in operands
    )
    text, lines = [], []
    for o, suffix in ((x, "a"), (y, "b")):
        if o.name == "" or (o.width == wide and not o.left):
            text.append(extended(o, wide))
            continue
        lines.append(f"wire [{wide - 1}:0] {name}_{suffix} = {extended(o, wide)};")
        text.append(f"{name}_{suffix}")
    return lines, f" {operator} ".join(f"$signed({t})" if signed else f"$unsigned({t})" for t in text)


# ---- quantizers -----------------------------------------------------------------------------------------------------


def quantize_lines(name: str, width: int, x: Operand, op: Quantize, exp: int, declaration: str) -> list[str]:
    """Round, then limit; `exp` is the operand's exponent with its free shift."""
    q = quantizer(op, x.lo, x.hi, exp)
    wide = max(q.hi.bit_length(), (-q.lo - 1).bit_length() if q.lo < 0 else 0) + (q.lo < 0)
    limits = q.low is not None or q.high is not None
    if q.wraps:
        return _wrapped(name, width, x, op, q, max(wide, width), declaration)
    if not limits:
        return _grid_lines(name, width, x, op, q, declaration)
    inner = f"wire [{wide - 1}:0] {name}_r"
    return [*_grid_lines(f"{name}_r", wide, x, op, q, inner), f"{declaration} = {_limited(name, width, wide, op, q)};"]


def _grid_lines(name: str, width: int, x: Operand, op: Quantize, q: Quantizer, declaration: str) -> list[str]:
    """The operand on the coarser (or finer) grid, low `width` bits of it."""
    if q.dropped <= 0:
        return [f"{declaration} = {extended(Operand(x.name, x.width, x.lo, x.hi, -q.dropped), width)};"]
    lines, source = [], x
    if q.dropped >= x.width:  # one bit above those that go, so that every slice below exists
        source = Operand(f"{name}_x", q.dropped + 1, x.lo, x.hi, 0)
        lines.append(f"wire [{q.dropped}:0] {source.name} = {extended(x, q.dropped + 1)};")
    kept = source.width - q.dropped
    down = _slice(source, q.dropped, kept, width)
    if not q.rounds:
        return [*lines, f"{declaration} = {down};"]
    up = _increment(op.rounding, source, q.dropped)
    return [*lines, f"{declaration} = {down} + {_padded(up, width)};"]


def _slice(x: Operand, low: int, kept: int, width: int) -> str:
    """Bits from `low` up, sign-extended (or cut) to `width`."""
    if kept >= width:
        return f"{x.name}[{low + width - 1}:{low}]"
    return f"{{{_repeated(x.sign, width - kept)}, {x.name}[{x.width - 1}:{low}]}}"


def _padded(bit: str, width: int) -> str:
    return f"{{{width - 1}'b0, {bit}}}" if width > 1 else bit


def _increment(rounding: Rounding, x: Operand, dropped: int) -> str:
    """The bit that is added after the low bits are dropped; see `ir.rounding` for what it must be."""
    half = f"{x.name}[{dropped - 1}]"
    below = f"(|{x.name}[{dropped - 2}:0])" if dropped > 1 else "1'b0"
    tie_up = {
        Rounding.RND: "1'b1",
        Rounding.RND_MIN_INF: "1'b0",
        Rounding.RND_ZERO: x.sign,
        Rounding.RND_INF: f"~{x.sign}",
        Rounding.RND_CONV: f"{x.name}[{dropped}]",
    }
    if rounding is Rounding.TRN_ZERO:
        return f"({x.sign} & (|{x.name}[{dropped - 1}:0]))"
    if rounding is Rounding.RND:
        return half
    return f"({half} & ({below} | {tie_up[rounding]}))"


def _limited(name: str, width: int, wide: int, op: Quantize, q: Quantizer) -> str:
    r = f"{name}_r"
    zero = op.overflow is Overflow.SAT_ZERO
    text = f"{r}[{width - 1}:0]" if width < wide else r
    if width > wide:  # a limited value is never wider than what it came from, but its declared interval may be
        text = extended(Operand(r, wide, q.lo, q.hi, 0), width)
    if q.high is not None:
        text = f"{_above(r, wide, q)} ? {literal(0 if zero else q.high, width)} : {text}"
    if q.low is not None:
        text = f"{_below(r, wide, q)} ? {literal(0 if zero else q.low, width)} : {text}"
    return text


def _above(r: str, wide: int, q: Quantizer) -> str:
    """r > q.high; at a whole power of two that is a look at the top bits."""
    high = q.high or 0
    signed = q.lo < 0
    k = high.bit_length()
    if high >= 0 and high + 1 == 1 << k:
        top = wide - 1 - signed
        return f"(~{r}[{wide - 1}] & (|{r}[{top}:{k}]))" if signed else f"(|{r}[{top}:{k}])"
    if not signed:
        return f"({r} > {literal(high, wide)})"
    return f"($signed({r}) > $signed({literal(high, wide)}))"


def _below(r: str, wide: int, q: Quantizer) -> str:
    """r < q.low."""
    low = q.low or 0
    signed = q.lo < 0
    if low == 0:
        return f"{r}[{wide - 1}]" if signed else "1'b0"
    k = (-low - 1).bit_length()
    if low < 0 and -low == 1 << k:
        return f"({r}[{wide - 1}] & ~(&{r}[{wide - 2}:{k}]))"
    if not signed:
        return f"({r} < {literal(low, wide)})"
    return f"($signed({r}) < $signed({literal(low, wide)}))"


def _wrapped(name: str, width: int, x: Operand, op: Quantize, q: Quantizer, wide: int, declaration: str) -> list[str]:
    """Low bits; for an interval that does not begin at 0 or -2**k, counted from where it begins."""
    lo, hi = int(op.to.lo), int(op.to.hi)  # pyright: ignore[reportArgumentType]
    bits = (hi - lo).bit_length()
    lines = _grid_lines(f"{name}_r", wide, x, op, q, f"wire [{wide - 1}:0] {name}_r")
    if lo == 0 or lo == -(1 << (bits - 1) if bits else 0):
        taken = Operand(f"{name}_r", wide, q.lo, q.hi, 0)
        return [*lines, f"{declaration} = {extended(taken, width)};"]
    wide_offset = max(wide, bits)
    from_low = Operand(f"{name}_o", bits, 0, hi - lo, 0)
    source = extended(Operand(f"{name}_r", wide, q.lo, q.hi, 0), wide_offset)
    lines.append(f"wire [{wide_offset - 1}:0] {name}_f = {source} - {literal(lo, wide_offset)};")
    lines.append(f"wire [{bits - 1}:0] {name}_o = {name}_f[{bits - 1}:0];")
    return [*lines, f"{declaration} = {extended(from_low, width)} + {literal(lo, width)};"]


# ---- tables ---------------------------------------------------------------------------------------------------------


def table_function(function: str, values: list[int], lo: int, width_in: int, width: int) -> list[str]:
    """A function of the operand's bits; what the operand cannot be gives 0."""
    lines = [f"function [{width - 1}:0] {function};", f"  input [{width_in - 1}:0] x;"]
    if len(values) > CASE_ENTRIES:
        text = "".join(format(v & ((1 << width) - 1), f"0{width}b") for v in reversed(values))
        joined = int(text, 2)
        total = len(values) * width
        index = max(width_in, (len(values)).bit_length()) + 1
        pad = f"{{{index - width_in}{{x[{width_in - 1}]}}}}" if lo < 0 else f"{index - width_in}'b0"
        return [
            f"localparam [{total - 1}:0] {function}_t = {total}'h{joined:x};",
            *lines,
            f"  reg [{index - 1}:0] k;",
            "  begin",
            f"    k = {{{pad}, x}} - {literal(lo, index)};",
            f"    {function} = {function}_t[k * {width} +: {width}];",
            "  end",
            "endfunction",
        ]
    lines.append("  case (x)")
    for k, v in enumerate(values):
        lines.append(f"    {literal(lo + k, width_in)}: {function} = {literal(v, width)};")
    return [*lines, f"    default: {function} = {literal(0, width)};", "  endcase", "endfunction"]
