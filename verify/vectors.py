"""Test vectors for a graph: data, random and corner events as raw integers; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.types import Int64, Tensor

__all__ = ["corner_vectors", "join_vectors", "make_vectors", "random_vectors"]

_SINGLE_CORNERS = 64


def random_vectors(graph: Graph, events: int, seed: int = 0) -> dict[str, Int64]:
    """Uniform raw integers over each input's whole interval, half of the events with a bias towards its ends."""
    rng = np.random.default_rng(seed)
    found: dict[str, Int64] = {}
    for i in graph.inputs:
        t = graph.nodes[i].type
        lo, hi, _ = t.arrays()
        x = rng.integers(lo, hi, size=(events, *t.shape), endpoint=True, dtype=np.int64)
        ends = np.where(rng.random(x.shape) < 0.5, lo, hi)
        extreme = (np.arange(events) % 2 == 1).reshape((-1,) + (1,) * len(t.shape))
        found[graph.nodes[i].name] = np.where(extreme & (rng.random(x.shape) < 0.5), ends, x)
    return found


def corner_vectors(graph: Graph) -> dict[str, Int64]:
    """All lowest, all highest, all nearest zero, alternating ends, and single inputs at their ends (up to 64 of them)."""
    found: dict[str, Int64] = {}
    for i in graph.inputs:
        found[graph.nodes[i].name] = _corners(graph.nodes[i].type)
    events = max((len(v) for v in found.values()), default=0)
    return {k: np.concatenate([v, np.repeat(v[-1:], events - len(v), axis=0)]) for k, v in found.items()}


def _corners(t: Tensor) -> Int64:
    lo, hi, _ = t.flat()
    zero = np.clip(0, lo, hi)
    even = np.arange(t.size) % 2 == 0
    rows = [lo, hi, zero, np.where(even, lo, hi), np.where(even, hi, lo)]
    for k in range(min(t.size, _SINGLE_CORNERS)):
        for end in (lo, hi):
            row = zero.copy()
            row[k] = end[k]
            rows.append(row)
    return np.stack(rows).reshape((-1, *t.shape))


def join_vectors(*parts: Mapping[str, Any]) -> dict[str, Int64]:
    """Vectors one after the other."""
    return {k: np.concatenate([np.asarray(p[k], np.int64) for p in parts]) for k in parts[0]}


def make_vectors(graph: Graph, data: Mapping[str, Any] | None, events: int, seed: int = 0) -> dict[str, Int64]:
    """At most `events` of the data, as many random ones (2,000 without data), and the corners."""
    corners = corner_vectors(graph)
    if data is None:
        return join_vectors(random_vectors(graph, min(events, 2000), seed), corners)
    kept = {k: np.asarray(v)[:events] for k, v in data.items()}
    count = len(next(iter(kept.values()))) if kept else 0
    return join_vectors(kept, random_vectors(graph, max(min(count, 1000), 1), seed), corners)
