"""A search that goes on where it was stopped, by whatever: who asks, who trains, and what is written when.

Optuna's journal holds what was asked and told, the lineage store what was made of it. A trial is in the journal before it is
trained, in the store when it is trained, and told to the journal after that; whatever is missing when the search goes on is
done then, under the same number. So no trial is lost, and none is counted twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..hw_targets.process import cores
from ..ir.errors import CompileError
from ..lineage import State, Step, Store
from .frontier import on_frontier
from .journal import hold, open_journal
from .measure import Measured
from .objectives import Constraint, Objective, unmeasured, violations
from .proposal import FrontierSampler, Proposal, beyond, branch_of, kind_of, proposed
from .space import Space, definition, draw
from .trial import Past, Trial
from .worker import Base, Done, Job, Workers

__all__ = ["SAMPLERS", "Options", "Study"]

SAMPLERS = ("frontier", "nsga2", "tpe", "random")

HOPELESS = 10
"""So many failures before the first success end a search."""

LEAST = {
    "trials": 1, "workers": 0, "population": 2, "halving": 1, "rungs": 1, "beyond": 0, "batch": 1, "seed": 0,
}  # fmt: skip
"""Options of a search that are whole numbers, and the least they may be."""

LARGEST = 0.1
"""What goes beyond a full training may take this share of the time that is left."""


@dataclass(frozen=True)
class Options:
    """How a search goes about it.

    `budget_s`: seconds in all, those of earlier sittings included; `trials`: most trials. `workers`: processes. `sampler`: of
    `SAMPLERS`; "frontier" gives the time to what pays (`explore.proposal`). `halving`: each trial begins with
    1/halving**(rungs - 1) of a full training and goes on, times `halving`, while it is among the best 1/halving of those that
    came so far (Li et al., arXiv:1810.05934); 1 trains all in full.
    `beyond`: so many times the best go on from a full training, to `halving` times as much, one of `halving` that came as far,
    unless that would take more than a tenth of the time that is left.
    `batch`: so many trials of one architecture are trained by one call of the training function's `many`. `trial_s`: seconds
    that one call may take.
    """

    budget_s: float = math.inf
    trials: int | None = None
    workers: int = 0
    sampler: str = "frontier"
    population: int = 24
    halving: int = 1
    rungs: int = 3
    beyond: int = 0
    batch: int = 1
    trial_s: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise CompileError("search", f"sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if name == "trials" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise CompileError("search", f"{name} must be a whole number, not {value!r}")
            if value < least:
                raise CompileError("search", f"{name} must be {least} or more, not {value}")
        if self.beyond and self.halving == 1:
            raise CompileError("search", f"beyond must be 0 without halving, not {self.beyond}", "give halving=3")
        if not self.budget_s > 0 or not self.trial_s > 0:
            raise CompileError("search", f"budget must be above 0, not {self.budget_s}")
        if self.trials is None and math.isinf(self.budget_s):
            raise CompileError(
                "search", "has neither a budget nor a number of trials", 'give budget="1h" or trials=100'
            )

    def efforts(self) -> tuple[float, ...]:
        """Shares of a full training, rung by rung."""
        if self.halving == 1:
            return (1.0,)
        return tuple(self.halving ** (k + 1.0 - self.rungs) for k in range(self.rungs + self.beyond))


@dataclass(eq=False)
class _Pending:
    """A trial on its way: which rung comes next, its latest candidate, and whether the journal knows how it ended."""

    trial: Any
    params: dict[str, Any]
    rung: int = 0
    latest: Past | None = None
    told: bool = False


@dataclass(eq=False)
class Study:
    """One search by name, in a store's folder. `training`: what the training function was made with, as far as it says so."""

    name: str
    folder: Path
    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    target: str
    clock_ns: float | None
    options: Options
    code_version: str = ""
    data_digest: str = ""
    first: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    past: list[Past] = field(default_factory=list[Past])
    failed: int = 0
    told: int = 0
    on_way: dict[int, _Pending] = field(default_factory=dict[int, _Pending])

    def __post_init__(self) -> None:
        self.home = self.folder / "searches" / self.name
        with ExitStack() as opened:
            self.store = opened.enter_context(Store(self.folder))
            opened.enter_context(hold(self.home, self.name))
            self.study = self._journal()
            self._open = opened.pop_all()
        self.before_s = float(self.study.user_attrs.get("seconds", 0.0))
        self.started = time.monotonic()
        self._by_key = {
            json.dumps(s.key): s for s in self.store.find(f"branch = '{self.name}'") if _is_ours(s, self.name)
        }
        self.past = [_past(s) for s in sorted(self._by_key.values(), key=lambda s: s.created) if not s.error]

    def close(self) -> None:
        """Let others go on with the search."""
        self._open.close()

    # ---- the journal --------------------------------------------------------------------------------------------------

    def _journal(self) -> Any:
        """The journal of this search, with the sampler that goes on with it."""
        halving, digest = self.options.halving, self.data_digest
        plan = {
            "space": definition(self.space),
            "objectives": [f"{'max' if o.larger else 'min'}:{o.name}" for o in self.objectives],
            "constraints": [str(c) for c in self.constraints],
            "target": self.target,
            "clock_ns": self.clock_ns,
            "halving": halving,
            "rungs": self.options.rungs if halving > 1 else 1,
            **({"data_digest": digest} if digest else {}),
            **{f"train.{name}": value for name, value in self.training.items()},
        }
        directions = ["maximize" if o.larger else "minimize" for o in self.objectives]
        found = open_journal(self.home, self.name, directions, plan, self.first)
        found.sampler = self._sampler(len(found.get_trials(deepcopy=False)))
        return found

    def _sampler(self, count: int) -> Any:
        """Begun anew from the seed and how far the search is, so that one that goes on proposes nothing twice."""
        import warnings

        from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

        seed = self._seed(count)
        if self.options.sampler == "frontier":
            return FrontierSampler(self._seed(0), branch_of(self.space)[0], self._proposal)
        if self.options.sampler == "random":
            return RandomSampler(seed=seed)
        bounded: dict[str, Any] = {"constraints_func": lambda t: t.user_attrs["violations"]} if self.constraints else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints are experimental in Optuna
            if self.options.sampler == "tpe":
                return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, **bounded)
            return NSGAIISampler(seed=seed, population_size=self.options.population, **bounded)

    def _seed(self, count: int) -> int:
        """Of the sampler, or of a trial; the same for the same search."""
        return int.from_bytes(hashlib.sha256(f"{self.options.seed}/{count}".encode()).digest()[:4], "little")

    # ---- going on -----------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Of searching, earlier sittings included."""
        return self.before_s + time.monotonic() - self.started

    def run(self, train: Callable[[Trial], Any], shown: Callable[[Study], None]) -> None:
        """Search until the budget is spent; `shown` is called every half second and after each trial."""
        from optuna.trial import TrialState

        states = self.study.get_trials(deepcopy=False)
        self.told = sum(t.state == TrialState.COMPLETE for t in states)
        self.failed = sum(t.state == TrialState.FAIL for t in states)
        waiting = deque(self._left_over(states))
        asked = sum(t.state != TrialState.WAITING for t in states)
        workers = Workers(train, self.target, self.clock_ns, self.options.workers or cores(), self.options.trial_s)
        try:
            while True:
                over = self.seconds >= self.options.budget_s
                while not over and workers.free:
                    while len(waiting) < self.options.batch:
                        more = asked < (self.options.trials or math.inf)
                        on = self._goes_on(instead=more)
                        if on is None and not more:
                            break
                        asked += on is None
                        waiting.append(on or self._ask())
                    if not waiting:
                        break
                    workers.start(self._job(train, waiting))
                if not workers.running or over:
                    break
                for job, done in workers.wait(0.5):
                    waiting.extendleft(self._settle(job, done))
                    self.study.set_user_attr("seconds", self.seconds)
                shown(self)
        finally:
            workers.stop()
            with suppress(CompileError):  # what ends the search says more than that the disk is full
                self.study.set_user_attr("seconds", self.seconds)
            self.before_s, self.started = self.seconds, time.monotonic()

    def _ask(self) -> _Pending:
        trial = self.study.ask()
        return _Pending(trial, draw(self.space, trial))

    def _goes_on(self, instead: bool) -> _Pending | None:
        """A trial to go beyond a full training; if it may be `instead` of a new one, only if that is worth more."""
        found = self._beyond()
        if not found:
            return None
        chosen: _Pending | None = next(iter(found.values()))
        if instead and self.options.sampler == "frontier":
            proposal = self._proposal()
            rng = np.random.default_rng([self._seed(len(self._by_key)), 1])
            chosen = found.get(proposal.kind(rng, (*proposal.kinds, *found)))
        if chosen is not None:
            self.on_way[chosen.trial.number] = chosen
        return chosen

    def _proposal(self) -> Proposal:
        """What was tried so far, the oldest first, and what comes of it."""
        states = sorted(self._trained(), key=lambda s: s.created)
        running = [kind_of(self.space, p.params) for p in self.on_way.values()]
        return proposed(self.objectives, self.constraints, self.space, states, self.options.rungs, running)

    def _beyond(self) -> dict[str, _Pending]:
        """For each kind a trial that was trained in full, or beyond, and may go on from there, if enough came as far; the one that
        came farthest, of several the first."""
        found: dict[str, _Pending] = {}
        for rung in reversed(range(self.options.rungs, len(self.options.efforts()))):
            here, before = self._reached(rung), self._reached(rung - 1)
            if len(here) >= len(before) // self.options.halving:
                continue
            for number in sorted((before - here) & self._promising(rung - 1)):
                state = self._by_key.get(json.dumps([self.name, number, rung - 1, 0]))
                if state is None or state.error or _is_final(state):
                    continue
                expected_s = state.properties["seconds"] * self.options.halving
                params = state.properties["params"]
                kind = beyond(kind_of(self.space, params))
                if kind not in found and expected_s <= LARGEST * (self.options.budget_s - self.seconds):
                    trial = self.study.get_trials(deepcopy=False)[number]
                    found[kind] = _Pending(trial, params, rung, _past(state), told=True)
        return found

    def _reached(self, rung: int) -> set[int]:
        """Trials that came as far, or are on their way there."""
        done = {s.key[1] for s in self._trained() if s.key[2] == rung}
        return done | {p.trial.number for p in self.on_way.values() if p.rung == rung}

    def _left_over(self, states: Iterable[Any]) -> Iterable[_Pending]:
        """Trials that were asked for and not told: from the store where it has them, else to be trained."""
        import optuna
        from optuna.trial import TrialState

        for frozen in states:
            if frozen.state != TrialState.RUNNING:
                continue
            trial = optuna.trial.Trial(self.study, frozen._trial_id)
            pending = _Pending(trial, draw(self.space, trial))
            ended = False
            for _ in self.options.efforts():
                found = self._by_key.get(json.dumps(self._key(pending, 0)))
                if found is None:
                    break
                ended = self._next(pending, found)
                if ended:
                    break
            if not ended:
                yield pending

    def _job(self, train: Any, waiting: deque[_Pending]) -> Job:
        """The next trial, and others like it where the training function takes many."""
        first = waiting.popleft()
        chosen, group = [first], getattr(train, "group", None)
        if self.options.batch > 1 and group is not None and hasattr(train, "many"):
            like = [p for p in waiting if p.rung == first.rung and group(p.params) == group(first.params)]
            for p in like[: self.options.batch - 1]:
                waiting.remove(p)
                chosen.append(p)
        return Job([self._trial(p) for p in chosen])

    def _trial(self, p: _Pending) -> Trial:
        seed = self._seed(p.trial.number)
        self.on_way[p.trial.number] = p
        spent, effort = (0.0, *self.options.efforts())[p.rung : p.rung + 2]
        return Trial(p.trial.number, p.params, seed, effort, p.latest, spent, tuple(self.past), str(self.folder))

    # ---- recording ----------------------------------------------------------------------------------------------------

    def _key(self, p: _Pending, part: int) -> list[Any]:
        return [self.name, p.trial.number, p.rung, part]

    def _settle(self, job: Job, done: Sequence[Done]) -> list[_Pending]:
        """Record how trials ended; gives back those that go on to the next rung."""
        on: list[_Pending] = []
        for trial, ended in zip(job.trials, map(self._complete, done), strict=True):
            p = self.on_way.pop(trial.number)
            first: State | None = None
            if ended.error:
                first = self.store.add(
                    method=str(p.params.get("method", "")), properties=self._properties(p, ended), error=ended.error,
                    key=self._key(p, 0), branch=self.name, target=self.target,
                )  # fmt: skip
                self._by_key[json.dumps(first.key)] = first
            else:
                extra = list(enumerate(zip(ended.candidates, ended.starts, strict=True)))
                for part, (candidate, start) in reversed(extra):  # the trial's own last: it says that all is there
                    first = self._add(p, part, candidate, start, ended)
                    self._know(first)
            assert first is not None
            if not self._next(p, first):
                on.append(p)
        return on

    def _complete(self, ended: Done) -> Done:
        """How a trial ended; one of which a candidate lacks a value that is needed failed."""
        lacking = (unmeasured(self.objectives, self.constraints, c.values) for c in ended.candidates)
        error = next(filter(None, lacking), ended.error)
        return replace(ended, candidates=(), starts=(), error=error) if error else ended

    def _add(self, p: _Pending, part: int, made: Measured, start: Past | Base | None, ended: Done) -> State:
        parents: list[str] = []
        if isinstance(start, Past):
            parents = [start.state]
        elif start is not None:
            *early, last = start.steps or (("start", {}),)
            base = self.store.add(
                start.weights, method=start.method, metrics=start.metrics, branch=self.name, key=[self.name, "base", start.key],
                step=self._step(last, self.options.seed), properties={"before": [list(s) for s in early]},
            )  # fmt: skip
            self._know(base)
            parents = [base.id]
        elif p.latest is not None:
            parents = [p.latest.state]
        steps = made.steps or (("train", {}),)
        return self.store.add(
            made.weights, parents=parents, step=self._step(_joined(steps), self._seed(p.trial.number)),
            method=made.method, metrics=made.values, target=self.target,
            branch=self.name, graph=made.graph, report=json.loads(made.report),
            properties={**self._properties(p, ended), "goal": dict(made.goal)}, key=self._key(p, part),
        )  # fmt: skip

    def _know(self, state: State) -> None:
        key = json.dumps(state.key)
        if key not in self._by_key:
            self._by_key[key] = state
            self.past.append(_past(state))

    def _step(self, step: tuple[str, dict[str, Any]], seed: int) -> Step:
        name, parameters = step
        return Step(name, parameters, parameters.get("seed", seed), self.code_version, self.data_digest)

    def _properties(self, p: _Pending, ended: Done) -> dict[str, Any]:
        effort = self.options.efforts()[p.rung]
        spent = {"seconds": round(ended.seconds, 3), "at": round(self.seconds, 2)}
        return {"params": p.params, "trial": p.trial.number, "effort": effort, "final": ended.final, **spent}

    def _next(self, p: _Pending, state: State) -> bool:
        """Tell the journal how a trial ended, or send it to the next rung (False); beyond a full training it is told already."""
        from optuna.trial import TrialState

        if p.told:
            return True

        error = state.error or unmeasured(self.objectives, self.constraints, state.metrics)
        if error:
            self.study.tell(p.trial.number, state=TrialState.FAIL)
            self.failed += 1
            if self.failed >= HOPELESS and not self.told:
                rule = f"its first {self.failed} trials failed, the last so: {error}"
                fix = "run the training function by itself, mend it, and go on"
                raise CompileError(f"search {self.name}", rule, fix)
            return True
        p.latest = _past(state)
        more = p.rung + 1 < self.options.rungs and self.options.halving > 1 and not _is_final(state)
        if more and p.trial.number in self._promising(p.rung):
            p.rung += 1
            return False
        p.trial.set_user_attr("violations", violations(self.constraints, state.metrics))
        p.trial.set_user_attr("state", state.id)
        self.study.tell(p.trial.number, [state.metrics[o.name] for o in self.objectives])
        self.told += 1
        return True

    def _promising(self, rung: int) -> set[int]:
        """The best 1/halving of the trials that had this rung so far, by fronts of candidates that none dominates."""
        left = [s for s in self._trained() if s.key[2] == rung and not s.error]
        every = {s.key[1] for s in left}
        if len(every) < self.options.halving:
            return every
        better = set[int]()
        while left and len(better) < math.ceil(len(every) / self.options.halving):
            best = self.on_frontier([_past(s) for s in left])
            front = {s.key[1] for s, is_best in zip(left, best, strict=True) if is_best}
            if not front:
                break
            better |= front
            left = [s for s in left if s.key[1] not in better]
        return better

    def _trained(self) -> list[State]:
        """What trials made; not what they started from, nor what synthesis said of them."""
        return [s for s in self._by_key.values() if isinstance(s.key[1], int)]

    def on_frontier(self, past: Sequence[Past]) -> tuple[bool, ...]:
        """Which networks meet the constraints and are dominated by none that does."""
        return on_frontier(self.objectives, self.constraints, [p.values for p in past])


def _joined(steps: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """Passes as one step, their parameters by place and name: one pass may come twice."""
    return ", ".join(name for name, _ in steps), {f"{k} {name}": v for k, (name, v) in enumerate(steps, 1)}


def _is_ours(state: State, name: str) -> bool:
    return isinstance(state.key, tuple) and bool(state.key) and state.key[0] == name


def _is_final(state: State) -> bool:
    return bool((state.properties or {}).get("final"))


def _past(state: State) -> Past:
    params = state.properties.get("params", {}) if state.properties else {}
    return Past(state.id, state.key, state.method, params, dict(state.metrics))
