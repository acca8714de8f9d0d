"""Runs engines on the same vectors and compares them, integer for integer, with the reference evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node
from ..ir.types import Int64

__all__ = ["EngineResult", "Mismatch", "Verification", "compare", "run_engines"]

Engine = Callable[[Mapping[str, Int64]], Mapping[str, Any]]


@dataclass(frozen=True)
class Mismatch:
    """The first differing value: where, on which input vector, and both raw integers."""

    output: str
    op: str
    element: tuple[int, ...]
    event: int
    expected: int
    got: int
    inputs: Mapping[str, list[Any]]

    def __str__(self) -> str:
        vector = "; ".join(f"{k} = {v}" for k, v in self.inputs.items())
        return (
            f"{self.op}: output '{self.output}'{list(self.element)} of event {self.event} is {self.got}, the reference gives "
            f"{self.expected}; input vector: {vector}"
        )


@dataclass(frozen=True)
class EngineResult:
    """One engine on all vectors; `note` says why it did not run, or what was proved."""

    engine: str
    vectors: int
    mismatches: int
    seconds: float
    first: Mismatch | None = None
    note: str = ""

    @property
    def ran(self) -> bool:
        return self.vectors > 0


@dataclass(frozen=True)
class Verification:
    """All engines on the same vectors."""

    results: tuple[EngineResult, ...]

    @property
    def ok(self) -> bool:
        return all(r.mismatches == 0 for r in self.results)

    def __str__(self) -> str:
        """A line for each engine."""
        lines = (
            f"{r.engine:<10} {r.vectors:>7,} checked, {r.mismatches:,} different  {r.note}".rstrip()
            for r in self.results
        )
        return "\n".join(lines)


def compare(
    graph: Graph, inputs: Mapping[str, Int64], expected: Mapping[str, Int64], got: Mapping[str, Any]
) -> tuple[int, Mismatch | None]:
    """(number of differing values, the first one in event order)."""
    total, first = 0, None
    for o in graph.outputs:
        want, have = expected[o.name], np.asarray(got[o.name])
        if have.shape != want.shape:
            raise CompileError(
                f"output {o.name}",
                f"an engine gave shape {list(have.shape)} instead of {list(want.shape)}",
                "report this as a bug",
            )
        wrong = np.argwhere(have.astype(np.int64) != want)
        total += len(wrong)
        if len(wrong) and (first is None or wrong[0][0] < first.event):
            event, *element = (int(k) for k in wrong[0])
            at = (event, *element)
            first = Mismatch(
                o.name,
                _op_of(graph.nodes[o.node]),
                tuple(element),
                event,
                int(want[at]),
                int(have[at]),
                {k: np.asarray(v)[event].tolist() for k, v in inputs.items()},
            )
    return total, first


def _op_of(node: Node) -> str:
    return f"{node.name} ({node.op.name})"


def run_engines(
    graph: Graph,
    inputs: Mapping[str, Int64],
    engines: Mapping[str, Engine],
    progress: Callable[[EngineResult], None] = lambda r: None,
) -> Verification:
    """Run every engine on the vectors and compare it with the reference evaluation of `graph`."""
    started = time.perf_counter()
    expected = evaluate(graph, inputs)
    events = len(next(iter(inputs.values()))) if inputs else 1
    results = [EngineResult("reference", events, 0, time.perf_counter() - started, note="the law")]
    progress(results[0])

    def one(name: str) -> EngineResult:
        began = time.perf_counter()
        got = engines[name](inputs)
        wrong, first = compare(graph, inputs, expected, got)
        return EngineResult(name, events, wrong, time.perf_counter() - began, first)

    with ThreadPoolExecutor(
        max(len(engines), 1)
    ) as pool:  # simulators are processes of their own: they run side by side
        for result in pool.map(one, engines):
            results.append(result)
            progress(result)
    return Verification(tuple(results))
