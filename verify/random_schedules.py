"""Seeded random schedules: architecture, and strategy and reuse factor of each matrix layer."""

from __future__ import annotations

import numpy as np

from ..codegen.schedule import ARCHITECTURES, STRATEGIES, LayerSchedule, Schedule, matrices, valid_reuse
from ..ir.graph import Graph
from ..ir.ops import Linear

__all__ = ["random_schedule"]


def random_schedule(rng: np.random.Generator, graph: Graph) -> Schedule:
    """One that the parallel architecture takes; streaming may refuse a reuse factor or a graph by name."""
    found: dict[str, LayerSchedule] = {}
    for name, i in matrices(graph).items():
        op = graph.nodes[i].op
        assert isinstance(op, Linear)
        strategy = str(rng.choice(list(STRATEGIES)))
        reuse = int(rng.choice(valid_reuse(*op.weights.shape))) if strategy == "resource" else 1
        found[name] = LayerSchedule(strategy, reuse)
    return Schedule(str(rng.choice(list(ARCHITECTURES))), found)
