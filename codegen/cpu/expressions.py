"""The C++ of the CPU engine: constant arrays, and how elementwise expressions are spelled on vector lanes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.types import Int64
from ..elementwise import fits_int32, literal

__all__ = ["Tables", "lane"]


def lane(*values: Int64) -> str:
    """The lane type that holds all the given integers."""
    return "vec" if fits_int32(*values) else "wide"


@dataclass
class Tables:
    """Constant arrays of the generated file, each written once; the dialect of `codegen.elementwise` that reads them."""

    narrow = "vec"
    wide = "wide"
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

    def splat(self, kind: str, value: str) -> str:
        return f"({kind}{{}} + {value})"

    def convert(self, text: str, kind: str) -> str:
        return f"{'widen' if kind == 'wide' else 'narrow'}({text})"

    def product(self, x: str, y: str) -> str:
        return f"product({x}, {y})"

    def maximum(self, x: str, y: str, kind: str) -> str:
        return f"vmax<{kind}>({x}, {y})"

    def minimum(self, x: str, y: str, kind: str) -> str:
        return f"vmin<{kind}>({x}, {y})"

    def choose(self, condition: str, x: str, y: str, kind: str) -> str:
        return f"({condition} != {kind}{{}} ? {x} : {y})"

    def switch(self, flag: str, x: str, y: str) -> str:
        return f"({flag} ? {x} : {y})"

    def compare(self, x: str, relation: str, y: str, kind: str) -> str:
        return f"({kind}({x} {relation} {y}) & 1)"  # vector comparisons give -1 and 0

    def keep(self, value: str, conditions: list[tuple[str, str, str]], kind: str) -> str:
        masks = " & ".join(f"({x} {relation} {y})" for x, relation, y in conditions)
        return f"({value} & {kind}({masks}))"

    def let(self, value: str, kind: str, body: Callable[[str], str]) -> str:
        return f"[&]({kind} v) {{ return {kind}({body('v')}); }}({value})"

    def lookup(self, index: str, name: str, table: Int64, kind: str) -> str:
        entries = table.shape[-1]
        values = self.add(name, table.reshape(-1))
        return f"lookup({index}, {f'{values} + {entries} * (int64_t)i' if table.ndim > 1 else values})"

    def round_even(self, value: str, by: int) -> str | None:
        return f"round_even<{by}>({value})"


def _chunks(values: list[int], size: int) -> list[list[int]]:
    return [values[k : k + size] for k in range(0, len(values), size)]
