"""Loops of the generated C++ as lines of text; knows no ops and no types."""

from __future__ import annotations

__all__ = ["INDENT", "indented", "loop", "partition", "product_of", "signature"]

INDENT = "    "
_LINE = 116


def indented(lines: list[str]) -> list[str]:
    """One step to the right, but for pragmas and empty lines."""
    return [line if not line or line.startswith("#") else INDENT + line for line in lines]


def loop(
    variable: str,
    count: int,
    body: list[str],
    label: str = "",
    pragma: str = "UNROLL",
    first: int = 0,
    once: bool = False,
) -> list[str]:
    """The body for `first` to `count` - 1. An unrolled loop of one round is none, unless `variable` must exist (`once`)."""
    if count == 1 and pragma == "UNROLL" and not once:
        return body
    name = f"{label}: " if label else ""
    head = f"{name}for (int {variable} = {first}; {variable} < {count}; {variable}++) {{"
    return [head, *([f"#pragma HLS {pragma}"] if pragma else []), *indented(body), "}"]


def partition(name: str) -> str:
    """The pragma that makes every element of an array a register or wire of its own."""
    return f"#pragma HLS ARRAY_PARTITION variable={name} complete dim=0"


def product_of(terms: list[tuple[str, int]]) -> str:
    """sum(variable * step) of those variables that exist ("" does not), "0" where none does."""
    return (
        " + ".join(v if step == 1 else f"({v}) * {step}" if " " in v else f"{v} * {step}" for v, step in terms if v)
        or "0"
    )


def signature(start: str, arguments: list[str]) -> list[str]:
    """The head of a function, on one line where it fits."""
    line = f"{start}({', '.join(arguments)}) {{"
    if len(line) <= _LINE:
        return [line]
    *first, last = arguments
    return [f"{start}(", *(f"{INDENT * 2}{a}," for a in first), f"{INDENT * 2}{last}) {{"]
