"""Random graphs through engines until time is up; a failure is shrunk to a small graph and shown as text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    """How much was run, and the first failure if there was one. `refused`: how often an engine refused a graph by name."""

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
        graph = replace(graph, name=f"random{seed}")  # what is drawn for a graph, a schedule say, is drawn by its name
        found = difference(graph, engines, seed, events)
        networks, vectors, refused = networks + 1, vectors + found.vectors, refused + found.refused
        if found.engine:
            failure = _shrunk(graph, engines, seed, events)
            return Fuzzed(networks, vectors, refused, time.monotonic() - started, failure)
        progress(networks, vectors)
        seed += 1
    return Fuzzed(networks, vectors, refused, time.monotonic() - started, None)


@dataclass(frozen=True)
class Difference:
    """The engine that differs ("": none does) and how; vectors that were equal, and engines that refused the graph."""

    engine: str = ""
    what: str = ""
    vectors: int = 0
    refused: int = 0


def difference(graph: Graph, engines: Engines, seed: int, events: int) -> Difference:
    """The first engine that does not equal the reference on random and corner vectors."""
    data = join_vectors(random_vectors(graph, events, seed), corner_vectors(graph))
    vectors = refused = 0
    for name, engine in engines(graph).items():
        try:
            _, result = run_engines(graph, data, {name: engine}).results
        except CompileError:
            refused += 1
            continue
        if result.mismatches:
            return Difference(name, str(result.first), vectors, refused)
        vectors += result.vectors
    return Difference(vectors=vectors, refused=refused)


def _shrunk(graph: Graph, engines: Engines, seed: int, events: int) -> Failure:
    small = shrink(graph, lambda g: bool(difference(g, engines, seed, events).engine))
    found = difference(small, engines, seed, events)
    return Failure(seed, found.engine, found.what, small)


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
    builder = Builder(graph.name)
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
