"""Number types as people write them (``ap_fixed<16,6,AP_RND,AP_SAT>``, ``int8``, ``bool``) as types of the language."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from ..ir.types import MAX_BITS, Fixed
from .real import Quant

__all__ = ["Precision", "parse_precision"]

_WRITTEN = re.compile(r"(?:ap_|ac_)?(u?)(fixed|int)<([^<>]*)>")
_PLAIN = re.compile(r"(u?)int(8|16|32)")
_HELP = "write ap_fixed<W,I>, ap_ufixed<W,I>, ap_int<W>, ap_uint<W>, int8, uint16 or bool"


@dataclass(frozen=True)
class Precision:
    """A fixed-point type with what an assignment to it does."""

    type: Fixed
    rounding: Rounding = Rounding.TRN
    overflow: Overflow = Overflow.WRAP

    def quant(self) -> Quant:
        """The assignment as a real op."""
        t = self.type
        assert isinstance(t.lo, int)
        assert isinstance(t.hi, int)
        scale = np.asarray(np.ldexp(1.0, t.exp))
        return Quant(scale, np.zeros((), np.int64), t.lo, t.hi, self.rounding, self.overflow)


def parse_precision(text: Any, where: str) -> Precision:
    """A type as Vitis HLS (UG1399), hls4ml and numpy write it; rounding and overflow are TRN and WRAP where they are not given.

    `ac_fixed` has its sign as third argument. Raises `CompileError` naming `where` for anything else.

    >>> parse_precision("ap_fixed<8,3,AP_RND,AP_SAT>", "x").type
    Fixed(lo=-128, hi=127, exp=-5)
    """
    written = re.sub(r"\s+", "", str(text))
    if written == "bool":
        return Precision(Fixed(0, 1, 0))
    plain = _PLAIN.fullmatch(written)
    if plain:
        return Precision(_fixed(int(plain[2]), int(plain[2]), not plain[1]))
    found = _WRITTEN.fullmatch(written)
    if found is None:
        raise CompileError(where, f"must be a fixed-point or integer type, not {str(text)!r}", _HELP)
    words = found[3].split(",")
    signed = not found[1]
    if found[2] == "int":
        words = [words[0], *words]
    if written.startswith("ac_") and len(words) > 2 and words[2] in ("true", "false"):
        signed = words.pop(2) == "true"
    try:
        width, integer = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        raise CompileError(where, f"must be a type with its width and integer bits, not {str(text)!r}", _HELP) from None
    if not 1 <= width <= MAX_BITS or abs(integer) > MAX_BITS or len(words) > 5:
        raise CompileError(where, f"must have 1 to {MAX_BITS} bits, not {str(text)!r}", _HELP)
    rounding = _mode(words, 2, Rounding, where) or Rounding.TRN
    overflow = _mode(words, 3, Overflow, where) or Overflow.WRAP
    if len(words) > 4 and words[4] != "0":
        raise CompileError(where, f"saturation bits are not supported, not {str(text)!r}", "leave the last number out")
    return Precision(_fixed(width, integer, signed), rounding, overflow)


def _fixed(width: int, integer: int, signed: bool) -> Fixed:
    lo, hi = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    return Fixed(lo, hi, integer - width)


def _mode(words: list[str], at: int, modes: Any, where: str) -> Any:
    if len(words) <= at:
        return None
    name = re.sub("^(AP|AC|SC)_", "", words[at].upper())
    try:
        return modes(name)
    except ValueError:
        known = ", ".join(f"AP_{m.value}" for m in modes)
        raise CompileError(where, f"the mode '{words[at]}' is not known", f"known: {known}") from None
