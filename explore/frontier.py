"""Which of many candidates are worth having under objectives and constraints, and how much they cover; knows values alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..report.frontier import Candidate, frontier
from ..report.frontier import Objective as Shown
from ..report.frontier import hypervolume as volume
from .objectives import RESOURCES, Constraint, Objective, violations

__all__ = ["Values", "best_first", "hypervolume", "missed", "on_frontier", "shown"]

Values = Mapping[str, float]


def missed(constraints: Sequence[Constraint], values: Values) -> str:
    """The constraints that are not met, such as "lut<=500"; empty where all are."""
    over = violations(constraints, values)
    return ", ".join(str(c) for c, v in zip(constraints, over, strict=True) if v > 0)


def shown(objectives: Sequence[Objective]) -> list[Shown]:
    """The objectives as the page has them."""
    return [Shown(o.name, o.larger) for o in objectives]


def on_frontier(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], every: Sequence[Values]
) -> tuple[bool, ...]:
    """Which candidates meet the constraints and are dominated by none that does."""
    return frontier([Candidate("", "", v, misses=missed(constraints, v)) for v in every], shown(objectives))


def best_first(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], every: Sequence[Values]
) -> list[int]:
    """The places of those that are `on_frontier`, in the order of the first objective; of equal values the first."""
    different: dict[tuple[float, ...], int] = {}
    for k, is_best in enumerate(on_frontier(objectives, constraints, every)):
        if is_best:
            different.setdefault(tuple(every[k][o.name] for o in objectives), k)
    first = objectives[0]
    return sorted(different.values(), key=lambda k: first.sign * every[k][first.name])


def hypervolume(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    every: Sequence[Values],
    found: Sequence[Values],
    reference: Values | None = None,
) -> float:
    """The volume that `found` dominates, as a share of the box from the best value of each objective in `every` to `reference`,
    by default a tenth beyond the worst; NaN where there is none. Resources count by their logarithm, other values as they are."""
    whole = [v for v in found if all(math.isfinite(v.get(o.name, math.nan)) for o in objectives)]
    fit = [v for v in whole if not missed(constraints, v)]
    if not fit or not 2 <= len(objectives) <= 3:
        return math.nan
    worst, best = [], []
    for o in objectives:
        heights = [_height(o, values[o.name]) for values in every if o.name in values]
        best.append(min(heights))
        beyond = max(heights) + 0.1 * (max(heights) - min(heights))
        worst.append(_height(o, reference[o.name]) if reference and o.name in reference else beyond)
    box = math.prod(w - b for w, b in zip(worst, best, strict=True))
    points = [[_height(o, values[o.name]) for o in objectives] for values in fit]
    return volume(points, worst) / box if box > 0 else math.nan


def _height(o: Objective, value: float) -> float:
    """The value as the hypervolume counts it; smaller is better."""
    return math.log(max(value, 1.0)) if o.name in RESOURCES else o.sign * value
