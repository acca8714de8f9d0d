"""Random graphs through engines until time is up; a failure is shrunk to a small graph and shown as text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import Builder, Graph, Output
from ..ir.ops import Constant, Input
from ..ir.passes import PIPELINES, run
from ..ir.rounding import Overflow
from ..ir.types import Int64
from .compare import run_engines
from .random_graphs import random_graph
from .vectors import corner_vectors, join_vectors, random_vectors

__all__ = ["Failure", "Fuzzed", "fuzz", "shrink"]

Engines = Callable[[Graph], Mapping[str, Callable[[Mapping[str, Int64]], Mapping[str, Any]]]]
"""The engines built for a graph, by name."""


@dataclass(frozen=True)
class Failure:
    """A graph on which an engine differs from the reference, shrunk, and what was seen."""

    seed: int
    engine: str
    what: str
    graph: Graph

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.engine}: {self.what}\n\n{self.graph}"


@dataclass(frozen=True)
class Fuzzed:
    """How much was run, and the first failure if there was one. `refused`: graphs that a backend refused by name."""

    networks: int
    vectors: int
    refused: int
    seconds: float
    failure: Failure | None


def fuzz(
    engines: Engines,
    minutes: float,
    seed: int = 0,
    events: int = 200,
    progress: Callable[[int, int], None] = lambda networks, vectors: None,
) -> Fuzzed:
    """Compare engines on seeded random graphs until `minutes` have passed or one differs.

    `progress(networks, vectors)` is called after each graph.
    """
    started, networks, vectors, refused = time.monotonic(), 0, 0, 0
    while time.monotonic() - started < 60 * minutes:
        graph = run(random_graph(np.random.default_rng(seed)), PIPELINES["hardware"])
        found = difference(graph, engines, seed, events)
        if found is None:
            refused += 1
        elif found[0]:
            failure = _shrunk(graph, engines, seed, events)
            return Fuzzed(networks + 1, vectors, refused, time.monotonic() - started, failure)
        else:
            networks, vectors = networks + 1, vectors + found[2]
        progress(networks, vectors)
        seed += 1
    return Fuzzed(networks, vectors, refused, time.monotonic() - started, None)


def difference(graph: Graph, engines: Engines, seed: int, events: int) -> tuple[str, str, int] | None:
    """(engine that differs or "", what differs, vectors), or None where a backend refuses the graph."""
    data = join_vectors(random_vectors(graph, events, seed), corner_vectors(graph))
    try:
        results = run_engines(graph, data, engines(graph)).results
    except CompileError:
        return None
    wrong = next((r for r in results if r.mismatches), None)
    if wrong is None:
        return "", "", results[0].vectors * (len(results) - 1)
    return wrong.engine, str(wrong.first), 0


def _shrunk(graph: Graph, engines: Engines, seed: int, events: int) -> Failure:
    def seen(g: Graph) -> tuple[str, str, int]:
        return difference(g, engines, seed, events) or ("", "", 0)

    small = shrink(graph, lambda g: bool(seen(g)[0]))
    engine, what, _ = seen(small)
    return Failure(seed, engine, what, small)


def shrink(graph: Graph, fails: Callable[[Graph], bool]) -> Graph:
    """A small graph that still fails: one output, and as many nodes as possible turned into inputs."""
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, Input | Constant):
            part = _part(graph, i, frozenset())
            if fails(part):
                return _cut(graph, i, fails)
    return graph


def _cut(graph: Graph, i: int, fails: Callable[[Graph], bool]) -> Graph:
    """Turn nodes in front of node i into inputs, nearest first, while it still fails."""
    cut: frozenset[int] = frozenset()
    for j in range(i - 1, -1, -1):
        if not isinstance(graph.nodes[j].op, Input | Constant) and fails(_part(graph, i, cut | {j})):
            cut |= {j}
    return _part(graph, i, cut)


def _part(graph: Graph, i: int, cut: frozenset[int]) -> Graph:
    """Node i and what it needs, with the nodes in `cut` replaced by inputs of their types."""
    needed, stack = set[int](), [i]
    while stack:
        j = stack.pop()
        if j not in needed:
            needed.add(j)
            stack.extend(() if j in cut else graph.nodes[j].operands)
    builder = Builder("shrunk")
    index: dict[int, int] = {}
    for j in sorted(needed):
        node = graph.nodes[j]
        if j in cut:
            index[j] = builder.add(Input(node.type.shape, node.type.fixed, overflow=Overflow.SAT), name=node.name)
        else:
            index[j] = builder.add(node.op, *(index[k] for k in node.operands), name=node.name)
    if not any(isinstance(n.op, Input) for n in builder.nodes):
        first = next(n for n in graph.nodes if isinstance(n.op, Input))
        builder.add(first.op, name=first.name)
    return builder.graph([Output("y", index[i])])
