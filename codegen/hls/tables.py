"""Constant arrays of the generated C++: plain integers, which compile fast and convert exactly; knows no ops."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...ir.types import Int64
from .names import Names

__all__ = ["Tables", "array_text", "literal", "storage"]

_C_TYPES = (
    ("signed char", 8, True),
    ("unsigned char", 8, False),
    ("short", 16, True),
    ("unsigned short", 16, False),
    ("int", 32, True),
    ("long long", 64, True),
)
_LINE = 116


def storage(values: Int64) -> str:
    """The narrowest C integer type for these values."""
    lo, hi = int(values.min()), int(values.max())
    return next(
        name
        for name, bits, signed in _C_TYPES
        if (-(1 << (bits - 1)) <= lo and hi < 1 << (bits - 1) if signed else lo >= 0 and hi < 1 << bits)
    )


def literal(n: int) -> str:
    """A C++ literal of the value, also where it is too wide for an int."""
    return str(n) if -(1 << 31) < n < 1 << 31 else f"{n}LL"


def array_text(name: str, values: Int64, comment: str, memory: str = "") -> str:
    """``static const TYPE name[...] = {...};`` for one or two axes, each row on lines of its own.

    `memory`: the C++ type that the hardware stores, where that is a memory and its width counts.
    """
    kind = storage(values)
    dims = "".join(f"[{n}]" for n in values.shape)
    suffix = "LL" if kind == "long long" else ""
    if values.ndim == 1:
        body = _rows(values.tolist(), suffix, "    ")
    else:
        body = ",\n".join("    {" + _rows(row, suffix, "     ").lstrip() + "}" for row in values.tolist())
    kind = f"STORED({memory}, {kind})" if memory else kind
    return f"// {comment}\nstatic const {kind} {name}{dims} = {{\n{body}}};\n"


def _rows(values: list[int], suffix: str, indent: str) -> str:
    words = [f"{v}{suffix}" for v in values]
    per_line = max(1, (_LINE - len(indent)) // (max(map(len, words)) + 2))
    lines = [", ".join(words[k : k + per_line]) for k in range(0, len(words), per_line)]
    return indent + f",\n{indent}".join(lines)


@dataclass
class Tables:
    """The tables of one file, in the order they were asked for; `known` is shared by all files of a design."""

    names: Names
    known: dict[tuple[str, bytes], str]
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, wanted: str, values: Int64, comment: str, reserved: bool = False, memory: str = "") -> str:
        """The identifier of the array: `wanted` itself where it was `reserved` and is free, else one near it."""
        key = (wanted, values.tobytes())
        if key not in self.known:
            own = reserved and wanted not in self.known.values()
            self.known[key] = wanted if own else self.names.new(wanted)
            self.texts[self.known[key]] = array_text(self.known[key], values, comment, memory)
        return self.known[key]

    def parameter(self, wanted: str, values: Int64, index: str, comment: str, reserved: bool = False) -> str:
        """A literal where all elements agree, else ``table[index]``."""
        if np.all(values == values.flat[0]):
            return literal(int(values.flat[0]))
        return f"{self.add(wanted, values.reshape(-1), comment, reserved)}[{index}]"
