"""Which trial comes next: time goes to what widens the frontier most per second, and points are drawn near those that are on it.

Kinds of trials are the options of the space's first `Branch`, and for each the trials that go on beyond a full training. All is
worked out anew from what is recorded, so that a search that goes on proposes what it would have proposed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from ..lineage import State
from .frontier import Values, hypervolume, on_frontier
from .objectives import Constraint, Objective, violations
from .space import Branch, Space, named

__all__ = ["FrontierSampler", "Proposal", "Tried", "beyond", "branch_of", "kind_of", "proposed"]

RECENT = (4, 16, 64)
"""What a kind is worth is measured by so many of its last trials; by more of them where the last of every kind gained nothing."""

EVEN = 0.15
"""So often the kind that had the least time comes next, whatever it was worth: what pays changes."""

ALONE = 3
"""A kind's first trials are drawn from all of its space."""

ANYWHERE = 0.2
"""So often a later one is, too."""

CHANGED, SPREAD, SWAPPED = 0.5, 0.15, 0.25
"""How often a number of the parent is changed, by what share of its range (standard deviation), and how often a choice is."""


@dataclass(frozen=True)
class Tried:
    """One training of a search that ended: its kinds (one that went on beyond a full training has two), its point by the sampler's
    names, seconds, and what it made."""

    kinds: tuple[str, ...]
    point: Mapping[str, Any]
    seconds: float
    made: Sequence[Values]


def branch_of(space: Space) -> tuple[str, tuple[str, ...]]:
    """The first branch and its options, which are the kinds of trials; without one all are of one kind."""
    return next(((n, tuple(d.options)) for n, d in space.items() if isinstance(d, Branch)), ("", ("all",)))


def kind_of(space: Space, params: Mapping[str, Any]) -> str:
    """The kind of a trial with these parameters."""
    name, kinds = branch_of(space)
    return params.get(name, kinds[0])


def beyond(kind: str) -> str:
    """The kind of those trials of a kind that go on from a full training."""
    return f"{kind}, beyond"


@dataclass(frozen=True)
class Proposal:
    """What to try after what was `tried`, for a space's `kinds`; `running`: kinds of trials that have not ended."""

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    kinds: Sequence[str]
    tried: Sequence[Tried]
    running: Sequence[str] = ()

    def kind(self, rng: np.random.Generator, kinds: Sequence[str]) -> str:
        """One of these: the first that was never tried, else mostly the one that widens the frontier most per second."""
        known = {*self.running, *(k for t in self.tried for k in t.kinds)}
        new = next((k for k in kinds if k not in known), None)
        if new is not None:
            return new
        seconds = {k: sum(t.seconds for t in self.tried if k in t.kinds) for k in kinds}
        if rng.random() < EVEN:
            return min(kinds, key=lambda k: seconds[k])
        for last in RECENT:
            rates = {k: self.rate(k, last) for k in kinds}
            if max(rates.values()) > 0:
                return max(kinds, key=lambda k: rates[k])
        return min(kinds, key=lambda k: seconds[k])

    def rate(self, kind: str, last: int) -> float:
        """Hypervolume that would be missing without so many last trials of the kind, per second they took."""
        own = set([k for k, t in enumerate(self.tried) if kind in t.kinds][-last:])
        rest = [v for k, t in enumerate(self.tried) if k not in own for v in t.made]
        return (self._whole - self._worth(rest)) / max(sum(self.tried[k].seconds for k in own), 1e-9)

    @cached_property
    def _all(self) -> list[Values]:
        return [v for t in self.tried for v in t.made]

    @cached_property
    def _whole(self) -> float:
        return self._worth(self._all)

    @cached_property
    def _best(self) -> set[int]:
        """Of all that was made by `id`: what is on the frontier."""
        best = on_frontier(self.objectives, self.constraints, self._all)
        return {id(v) for v, b in zip(self._all, best, strict=True) if b}

    def _missed(self, found: Sequence[Values]) -> float:
        """How far the one that is nearest to meeting all constraints is from it, at most 1; 0 where one does."""
        worst = (max([0.0, *violations(self.constraints, v)]) for v in found)
        return min((1.0 - 1.0 / (1.0 + w) for w in worst), default=1.0)

    def _worth(self, found: Sequence[Values]) -> float:
        """The hypervolume; with one objective or more than three the share of all that was made that is on the frontier; while
        nothing meets the constraints, how near they are."""
        if not self._best:
            return -self._missed(found)
        if 2 <= len(self.objectives) <= 3:
            volume = hypervolume(self.objectives, self.constraints, self._all, found)
            return 0.0 if math.isnan(volume) else volume
        return sum(id(v) in self._best for v in found) / len(self._all)

    def parent(self, rng: np.random.Generator, kind: str) -> Mapping[str, Any]:
        """The point of a trial to go on from, of those of the kind by how many they have on the frontier, or on the kind's own; {}
        to draw from all of the space."""
        own = [t for t in self.tried if kind in t.kinds]
        if len(own) < ALONE or rng.random() < ANYWHERE:
            return {}
        nearest = self._missed([v for t in own for v in t.made])
        if nearest > 0:  # nobody meets the constraints
            found = [t for t in own for v in t.made if self._missed([v]) == nearest]
        else:
            found = [t for t in own for v in t.made if id(v) in self._best] or self._best_of(own)
        return found[rng.integers(len(found))].point if found else {}

    def _best_of(self, own: Sequence[Tried]) -> list[Tried]:
        """Those on the frontier of some."""
        owners = [(t, v) for t in own for v in t.made]
        best = on_frontier(self.objectives, self.constraints, [v for _, v in owners])
        return [t for (t, _), b in zip(owners, best, strict=True) if b]


def proposed(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    space: Space,
    states: Sequence[State],
    rungs: int,
    running: Sequence[str] = (),
) -> Proposal:
    """After the candidates and failures of a search, the oldest first; a full training is the last of so many rungs."""
    trainings: dict[tuple[int, int], list[State]] = {}
    for state in states:
        trainings.setdefault((state.key[1], state.key[2]), []).append(state)
    tried: list[Tried] = []
    for (_, rung), of_one in trainings.items():
        params, seconds = (of_one[0].properties[k] for k in ("params", "seconds"))
        kind = kind_of(space, params)
        kinds = (kind, beyond(kind)) if rung >= rungs else (kind,)
        tried.append(Tried(kinds, named(space, params), seconds, [s.metrics for s in of_one if not s.error]))
    return Proposal(objectives, constraints, branch_of(space)[1], tried, running)


class FrontierSampler(BaseSampler):
    """Draws the points of an Optuna study by `Proposal`; `proposal` says what was tried so far, `branch` what kinds are told by."""

    def __init__(self, seed: int, branch: str, proposal: Callable[[], Proposal]) -> None:
        self.seed, self.branch, self.proposal = seed, branch, proposal
        self._plan: tuple[int, str, Mapping[str, Any]] = (-1, "", {})

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """Every parameter is drawn when it is asked for: only then is it known which there are."""
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """None, see `infer_relative_search_space`."""
        return {}

    def before_trial(self, study: Any, trial: Any) -> None:
        """Choose the trial's kind, unless its point is given, and what it goes on from."""
        proposal, rng = self.proposal(), np.random.default_rng([self.seed, trial.number])
        given = trial.system_attrs.get("fixed_params", {})
        kind = given.get(self.branch) or proposal.kind(rng, proposal.kinds)
        self._plan = trial.number, kind, {} if given else proposal.parent(rng, kind)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """The parent's value, or one near it, or any."""
        number, kind, parent = self._plan  # a trial is drawn as soon as it is asked for
        assert number == trial.number
        if param_name == self.branch and kind in param_distribution.choices:
            return kind
        rng = np.random.default_rng([self.seed, trial.number, zlib.crc32(param_name.encode())])
        if param_name not in parent:
            return _drawn(rng, param_distribution)
        return _near(rng, param_distribution, parent[param_name])


def _drawn(rng: np.random.Generator, d: Any) -> Any:
    """Anywhere in the range."""
    if isinstance(d, CategoricalDistribution):
        return d.choices[rng.integers(len(d.choices))]
    return _at(d, rng.random())


def _near(rng: np.random.Generator, d: Any, value: Any) -> Any:
    """The value itself or another choice, or a number not far from it."""
    if isinstance(d, CategoricalDistribution):
        return _drawn(rng, d) if rng.random() < SWAPPED else value
    if rng.random() >= CHANGED or d.low == d.high:
        return value
    low, high = _ends(d)
    share = ((math.log(value) if d.log else value) - low) / (high - low)
    moved = abs(share + SPREAD * rng.standard_normal())
    return _at(d, max(1 - abs(1 - moved), 0.0))  # what goes beyond an end comes back from it


def _ends(d: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Of the range in the scale in which it is drawn; whole numbers have half a step to either side."""
    half = d.step / 2 if isinstance(d, IntDistribution) else 0.0
    low, high = d.low - half, d.high + half
    return (math.log(low), math.log(high)) if d.log else (low, high)


def _at(d: FloatDistribution | IntDistribution, share: float) -> float | int:
    """The value at a share of the range."""
    low, high = _ends(d)
    value = low + share * (high - low)
    value = math.exp(value) if d.log else value
    if isinstance(d, IntDistribution):
        value = d.low + round((value - d.low) / d.step) * d.step
    return min(max(value, d.low), d.high)
