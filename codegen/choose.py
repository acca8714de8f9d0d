"""A schedule from a goal: for each layer the cheapest strategy that is fast enough, or the fastest that there is room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..hw_targets.devices import Device
from ..ir.errors import CompileError
from ..ir.graph import Graph
from ..ir.ops import Linear
from .hls.hosted import hosted_transposes
from .hls.plan import plan
from .hls.stream_plan import stream_plan
from .layer_costs import SOLVABLE, MatrixCost, matrix_cost
from .schedule import Folding, LayerSchedule, Schedule, check_schedule, folding, matrices, valid_reuse
from .schedule_costs import ScheduleEstimate, estimate_schedule

__all__ = ["Choice", "Goal", "choose"]

_KINDS = ("lut", "dsp", "bram")


@dataclass(frozen=True)
class Goal:
    """What a schedule must reach; None does not matter. Resources are counts of LUTs, DSP blocks and block RAMs."""

    latency_ns: float | None = None
    ii: int | None = None
    max_lut: float | None = None
    max_dsp: float | None = None
    max_bram: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ns", "ii", "max_lut", "max_dsp", "max_bram"):
            value = getattr(self, name)
            if value is not None and not (value > 0 or (value == 0 and name in ("max_dsp", "max_bram"))):
                raise CompileError(f"goal {name}", f"must be positive, not {value!r}")

    @property
    def is_none(self) -> bool:
        return self == Goal()

    @property
    def caps(self) -> dict[str, float]:
        """The resources that are limited."""
        limits = {kind: getattr(self, f"max_{kind}") for kind in _KINDS}
        return {kind: limit for kind, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Choice:
    """A schedule with its estimate, and for each layer one sentence why it is as it is."""

    estimate: ScheduleEstimate
    why: Mapping[str, str]

    @property
    def schedule(self) -> Schedule:
        return self.estimate.schedule


@dataclass(frozen=True, eq=False)
class _Option:
    """A strategy of one layer: cycles for an event, and cost."""

    own: LayerSchedule
    cycles: int
    cost: MatrixCost


@dataclass(frozen=True, eq=False)
class _Search:
    graph: Graph
    device: Device
    clock_ns: float
    base: Schedule
    goal: Goal
    options: Mapping[str, list[_Option]]  # of each layer that is not given
    given: Mapping[str, LayerSchedule] = field(default_factory=dict)

    def at(self, cycles: int) -> dict[str, _Option]:
        """For each layer the cheapest option of at most so many cycles for an event; its fastest where none is."""
        found: dict[str, _Option] = {}
        for name, options in self.options.items():
            fast = [o for o in options if o.cycles <= cycles]
            found[name] = min(fast, key=self.price) if fast else min(options, key=lambda o: (o.cycles, self.price(o)))
        return found

    def price(self, o: _Option) -> float:
        """Shares of what is limited, or of the device."""
        limits = {k: self.goal.caps.get(k, getattr(self.device.resources, k)) for k in _KINDS}
        used = {k: getattr(o.cost, k) for k in _KINDS}
        return sum(used[k] / limits[k] if limits[k] else math.inf for k in _KINDS if used[k])

    def estimate(self, chosen: Mapping[str, _Option]) -> ScheduleEstimate:
        layers = {name: o.own for name, o in chosen.items()} | dict(self.given)
        return estimate_schedule(self.graph, self.device, self.clock_ns, replace(self.base, layers=layers))


def choose(
    graph: Graph,
    device: Device,
    clock_ns: float,
    goal: Goal,
    base: Schedule | None = None,
) -> Choice:
    """The schedule of a graph after the pipeline "hardware"; the layers that `base` schedules stay as they are.

    Without a goal every other layer has strategy 'latency'. With limits on resources it is the fastest that fits them,
    else the cheapest that is fast enough. Raises `CompileError` with the best that can be reached where nothing is.
    """
    base = base or Schedule()
    wrong = check_schedule(graph, base)
    if wrong:
        raise CompileError(*wrong[0].split(": ", 1))
    why = dict.fromkeys(base.layers, "set by the configuration")
    if goal.is_none:
        found = estimate_schedule(graph, device, clock_ns, base)
        return Choice(found, {**_default_reasons(found), **why})
    search = _Search(graph, device, clock_ns, base, goal, _options(graph, device, base), base.layers)
    least = max((min(o.cycles for o in options) for options in search.options.values()), default=1)
    cycles = sorted({least, *(o.cycles for options in search.options.values() for o in options if o.cycles > least)})
    found, limit = _slowest(search, cycles) if not goal.caps else _fastest(search, cycles)
    missed = _missed(goal, found, clock_ns)
    if missed:
        raise _unreachable(search, cycles, missed)
    reasons = {name: _reason(search, name, found, limit) for name in search.options}
    return Choice(found, {**_default_reasons(found), **reasons, **why})


def _options(graph: Graph, device: Device, base: Schedule) -> dict[str, list[_Option]]:
    """Every strategy and reuse factor of every layer that `base` leaves open."""
    shapes = _shapes(graph, base)
    hosted = hosted_transposes(graph)[0] if base.architecture == "stream" else graph
    found: dict[str, list[_Option]] = {}
    for name, i in matrices(hosted).items():
        if name in base.layers:
            continue
        rows, words = shapes[name]
        op, stream = hosted.nodes[i].op, base.architecture == "stream"
        assert isinstance(op, Linear)
        n_in, n_out = op.weights.shape
        solvable = words == 1 and np.count_nonzero(op.weights) <= SOLVABLE
        owns = [LayerSchedule(), LayerSchedule("distributed")] if solvable else [LayerSchedule()]
        owns += [LayerSchedule("resource", r) for r in valid_reuse(n_in, n_out, words) if r > words]
        found[name] = []
        for own in owns:
            f = folding(n_in, n_out, own.reuse if own.strategy == "resource" else words, words)
            cost = matrix_cost(hosted, i, device, own, f, 1 if stream else rows)
            found[name].append(_Option(own, f.reuse * (rows if stream else 1), cost))
    return found


def _shapes(graph: Graph, base: Schedule) -> dict[str, tuple[int, int]]:
    """(rows, words in which a row arrives) of each matrix layer."""
    if base.architecture == "parallel":
        sizes = {name: graph.nodes[i].type for name, i in matrices(graph).items()}
        return {name: (t.size // t.shape[-1], 1) for name, t in sizes.items()}
    stages = stream_plan(plan(hosted_transposes(graph)[0]), Schedule("stream")).stages
    return {s.layer: (s.outs[0].words, s.detail.words) for s in stages if isinstance(s.detail, Folding)}


def _slowest(search: _Search, cycles: list[int]) -> tuple[ScheduleEstimate, int]:
    """The cheapest that meets latency and II: the most cycles a layer may take, by bisection."""
    low, high = 0, len(cycles) - 1
    best = search.estimate(search.at(cycles[0]))
    while low < high:
        middle = (low + high + 1) // 2
        found = search.estimate(search.at(cycles[middle]))
        if _missed(search.goal, found, search.clock_ns):
            high = middle - 1
        else:
            low, best = middle, found
    return best, cycles[low]


def _fastest(search: _Search, cycles: list[int]) -> tuple[ScheduleEstimate, int]:
    """The fastest that fits the limits: the fewest cycles a layer may take, by bisection."""
    low, high = 0, len(cycles) - 1
    best = search.estimate(search.at(cycles[high]))
    while low < high:
        middle = (low + high) // 2
        found = search.estimate(search.at(cycles[middle]))
        if any(found.total(kind) > limit for kind, limit in search.goal.caps.items()):
            low = middle + 1
        else:
            high, best = middle, found
    return best, cycles[high]


def _missed(goal: Goal, found: ScheduleEstimate, clock_ns: float) -> list[str]:
    """The goals that an estimate does not reach."""
    reached = {"latency_ns": found.latency_cycles * clock_ns, "ii": found.ii}
    reached |= {f"max_{kind}": found.total(kind) for kind in goal.caps}
    return [name for name, value in reached.items() if (limit := getattr(goal, name)) is not None and value > limit]


def _unreachable(search: _Search, cycles: list[int], missed: list[str]) -> CompileError:
    goal, clock = search.goal, search.clock_ns
    fast, small = search.estimate(search.at(cycles[0])), search.estimate(search.at(cycles[-1]))

    def told(e: ScheduleEstimate) -> str:
        parts = [f"{e.latency_cycles * clock:,.0f} ns, II {e.ii:,}"]
        return ", ".join([*parts, *(f"{e.total(kind):,.0f} {kind.upper()}" for kind in _KINDS)])

    asked = " and ".join(f"--{name.replace('_', '-')} {getattr(goal, name):,.6g}" for name in missed)
    other = "parallel" if search.base.architecture == "stream" else "stream"
    return CompileError(
        "goal",
        f"no {search.base.architecture} schedule reaches {asked} (estimates): the fastest has {told(fast)}, the smallest "
        f"{told(small)}",
        f"allow more, or use --io {other}",
    )


def _default_reasons(found: ScheduleEstimate) -> dict[str, str]:
    return {x.name: "unrolled, as no goal asks for less" if x.schedule else "has no matrix" for x in found.layers}


def _reason(search: _Search, name: str, found: ScheduleEstimate, limit: int) -> str:
    """Why a layer has its strategy, in one sentence."""
    own = found.schedule.of(name)
    options = search.options[name]
    chosen = next(o for o in options if o.own == own)
    ways = sum(o.cycles <= limit for o in options)
    asked = f"of the {ways} ways to take at most {limit:,} cycles for an event"
    if ways == 1:
        return f"the only way to take at most {limit:,} cycles for an event"
    if own.strategy == "distributed":
        return f"shared shift-adds cost least {asked}"
    if own.strategy == "latency":
        return f"unrolled products cost least {asked}"
    return f"a reuse of {own.reuse:,} takes {chosen.cycles:,} cycles and costs least {asked}"
