"""Compares two states: their metrics, tensors, recipes and graphs; reads nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .records import State

__all__ = ["Comparison", "TensorChange", "compare", "flat"]

CELL = 48
"""Most characters of a parameter in a printed table."""


@dataclass(frozen=True)
class TensorChange:
    """One tensor in two states: shapes and counts of nonzero elements, None where a state does not have it.

    `difference` is the 2-norm of b - a, 0.0 for equal tensors, None where shapes differ or one is missing. `equal` is
    equality of dtype, shape and every bit.
    """

    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    nonzero: tuple[int | None, int | None]
    difference: float | None
    equal: bool


@dataclass(frozen=True)
class Comparison:
    """Two states side by side; `metrics` and `parameters` map a name to the pair of values, None where there is none.

    `parameters` has only what differs: of method, target, branch, step, properties; nested names are dotted. Print it for a table.
    """

    a: State
    b: State
    metrics: Mapping[str, tuple[float | None, float | None]]
    parameters: Mapping[str, tuple[Any, Any]]
    tensors: tuple[TensorChange, ...]
    graphs_equal: bool

    def __str__(self) -> str:
        lines = _table(["metric", "a", "b", "b - a"], [_metric_row(n, *ab) for n, ab in self.metrics.items()])
        lines += _table(["differs", "a", "b"], [[n, *map(_cell, ab)] for n, ab in self.parameters.items()])
        equal = sum(t.equal for t in self.tensors)
        changed = [_tensor_row(t) for t in self.tensors if not t.equal]
        lines += _table(["tensor", "shape", "nonzero a", "nonzero b", "|b - a|"], changed)
        lines.append(
            f"tensors: {equal} equal, {len(changed)} not; graphs: {'equal' if self.graphs_equal else 'differ'}"
        )
        return "\n".join([f"a {self.a.id}", f"b {self.b.id}", "", *lines])


def compare(
    a: State, b: State, weights: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], graphs_equal: bool
) -> Comparison:
    """Put the states, with their weights by name, side by side."""
    of_a, of_b = _recipe(a), _recipe(b)
    differing = {n: (of_a.get(n), of_b.get(n)) for n in _names(of_a, of_b) if of_a.get(n) != of_b.get(n)}
    return Comparison(
        a,
        b,
        {n: (a.metrics.get(n), b.metrics.get(n)) for n in _names(a.metrics, b.metrics)},
        differing,
        tuple(_change(n, weights[0].get(n), weights[1].get(n)) for n in _names(*weights)),
        graphs_equal,
    )


def _names(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [*a, *(n for n in b if n not in a)]


def _recipe(state: State) -> dict[str, Any]:
    found: dict[str, Any] = {n: getattr(state, n) for n in ("method", "target", "branch", "error")}
    found |= flat("properties", state.properties)
    if state.step:
        found |= {n: getattr(state.step, n) for n in ("seed", "code_version", "data_digest")} | {
            "step": state.step.name
        }
        found |= flat("parameters", state.step.parameters)
    return found


def flat(name: str, value: Any) -> dict[str, Any]:
    """Nested tables as dotted names, so that only what differs is shown."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: v for n, inner in value.items() for key, v in flat(f"{name}.{n}", inner).items()}


def _change(name: str, a: np.ndarray | None, b: np.ndarray | None) -> TensorChange:
    difference, equal = None, False
    if a is not None and b is not None and a.shape == b.shape:
        equal = a.dtype == b.dtype and a.tobytes() == b.tobytes()
        difference = (
            0.0 if equal else float(np.linalg.norm(b.astype(np.float64).ravel() - a.astype(np.float64).ravel()))
        )
    shapes = (None if a is None else a.shape, None if b is None else b.shape)
    nonzero = (None if a is None else int(np.count_nonzero(a)), None if b is None else int(np.count_nonzero(b)))
    return TensorChange(name, shapes, nonzero, difference, equal)


def _cell(value: Any) -> str:
    text = str(value)
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


def _metric_row(name: str, a: float | None, b: float | None) -> list[str]:
    return [name, *("-" if v is None else f"{v:g}" for v in (a, b)), "-" if a is None or b is None else f"{b - a:+g}"]


def _tensor_row(t: TensorChange) -> list[str]:
    shapes = ["-" if s is None else "x".join(map(str, s)) or "scalar" for s in t.shapes]
    shape = shapes[0] if shapes[0] == shapes[1] else " -> ".join(shapes)
    counts = ["-" if n is None else f"{n:,}" for n in t.nonzero]
    return [t.name, shape, *counts, "-" if t.difference is None else f"{t.difference:.4g}"]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with an empty one below it, nothing without rows; the first column is left-aligned."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]
    align = lambda row: "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))  # noqa: E731
    return [*(align(row) for row in (titles, *rows)), ""]
