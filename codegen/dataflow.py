"""When each process of a dataflow design handles each word, and how deep the FIFOs between them must be; no simulation.

A process is one counted loop: iteration t starts a cycle after iteration t - 1, or later where a word that it reads is
not there yet. So the earliest start times are a running maximum over the arrival times of words (max-plus algebra;
Baccelli et al., "Synchronization and Linearity", 1992), and the latest ones that delay nothing behind them a running
minimum, computed backwards. The slowest process sets the pace: it starts as early as it can, and all that feeds it as
late as it may, so that nothing piles up in front of it; then the same for the slowest of the rest. A FIFO that holds the
most words that wait in this schedule never stops its writer: a network of deterministic processes with blocking reads
and writes is no slower than any schedule that fits its FIFOs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.types import Int64

__all__ = ["Process", "Timing", "timing"]

_EVENTS = 4
"""Back-to-back events that are followed; the schedule repeats itself after the second."""


@dataclass(frozen=True, eq=False)
class Process:
    """One loop of `iterations` per event; `latency`: cycles from the start of an iteration to its results.

    `reads` and `writes`: for each stream the iteration at which each word of an event is read or written, increasing.
    `drains`: the pipeline runs empty before the loop of the next event starts.
    """

    name: str
    iterations: int
    latency: int
    reads: Mapping[str, Int64] = field(default_factory=dict)
    writes: Mapping[str, Int64] = field(default_factory=dict)
    drains: bool = True

    @property
    def interval(self) -> int:
        """Cycles from the start of one event to that of the next, when nothing has to be waited for."""
        return self.iterations + (self.latency if self.drains else 0)


@dataclass(frozen=True)
class Timing:
    """`latency_cycles`: from an event's first word to its last result; `ii`: cycles between events; `depths` by stream.

    `spans`: for each process the cycles from the first word of an event that it reads to its last result.
    """

    latency_cycles: int
    ii: int
    depths: Mapping[str, int]
    spans: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Times:
    """Start times of a process, ``[events, points]``, at those iterations that matter."""

    points: Int64
    starts: Int64

    def at(self, iterations: Int64) -> Int64:
        return self.starts[:, np.searchsorted(self.points, iterations)]


def timing(processes: Sequence[Process]) -> Timing:
    """Follow the processes, given in topological order; every stream has one writer and one reader.

    A word can be read the cycle after it was written, and its place be taken the cycle after it was read.
    """
    period = max(p.interval for p in processes)
    points = {p.name: _points(p) for p in processes}
    fixed = _paced(processes, points, period)
    done = np.max([fixed[p.name].starts[:, -1] + p.latency for p in processes if not p.writes], axis=0)
    first = _earliest(processes, points, period, {}, {})
    start = min(int(first[p.name].starts[0, 0]) for p in processes if not p.reads)
    return Timing(
        int(done[0]) + 1 - start,
        max(int(done[-1] - done[-2]), 1),
        _depths(processes, fixed),
        {p.name: _span(p, first[p.name]) for p in processes},
    )


def _span(p: Process, times: _Times) -> int:
    """Cycles from the first word read (or the first iteration) to the last result of one event."""
    begin = min(
        (int(times.at(iterations[:1])[0, 0]) for iterations in p.reads.values()), default=int(times.starts[0, 0])
    )
    return int(times.starts[0, -1]) - begin + p.latency


def _paced(processes: Sequence[Process], points: Mapping[str, Int64], period: int) -> dict[str, _Times]:
    """Start times of all processes: the slowest as early as possible, what feeds it as late; then the rest likewise.

    Where the rest is starved anyway, it needs less room if all of it starts as early as it can.
    """
    fixed: dict[str, _Times] = {}
    writer = {stream: p for p in processes for stream in p.writes}
    early = _earliest(processes, points, period, fixed, {})
    least = sum(_depths(processes, early).values())
    while len(fixed) < len(processes):
        rest = [p for p in processes if p.name not in fixed]
        slowest = max(rest, key=lambda p: p.interval)
        late = _latest(rest, points, early, slowest.name)
        late = {name: late[name] for name in _with_feeders(slowest, writer) if name not in fixed}
        paced = _earliest(processes, points, period, fixed, late)  # what only reads need not wait that long
        tried = fixed | {name: paced[name] for name in late}
        paced = _earliest(processes, points, period, tried, {})
        room = sum(_depths(processes, paced).values())
        if room > least:
            return early
        fixed, early, least = tried, paced, room
    return fixed


def _with_feeders(process: Process, writer: Mapping[str, Process]) -> dict[str, None]:
    """The process and all that its words come from."""
    found: dict[str, None] = {}
    waiting = [process]
    while waiting:
        p = waiting.pop()
        if p.name not in found:
            found[p.name] = None
            waiting += [writer[stream] for stream in p.reads]
    return found


def _points(p: Process) -> Int64:
    parts = [np.array([0, p.iterations - 1]), *p.reads.values(), *p.writes.values()]
    return np.unique(np.concatenate(parts).astype(np.int64))


def _earliest(
    processes: Sequence[Process],
    points: Mapping[str, Int64],
    period: int,
    fixed: Mapping[str, _Times],
    late: Mapping[str, _Times],
) -> dict[str, _Times]:
    """As soon as words are there, but for those that are fixed; events come every `period` cycles.

    Iterations that write are not earlier than in `late`.
    """
    found: dict[str, _Times] = {}
    arrival: dict[str, Int64] = {}
    for p in processes:
        at = points[p.name]
        starts = fixed[p.name].starts if p.name in fixed else np.zeros((_EVENTS, len(at)), np.int64)
        free = 0
        for event in range(_EVENTS if p.name not in fixed else 0):
            bound = np.full(len(at), free, np.int64)
            if not p.reads:
                bound[0] = max(free, event * period)
            for stream, iterations in p.reads.items():
                place = np.searchsorted(at, iterations)
                np.maximum.at(bound, place, arrival[stream][event])
            if p.name in late:
                for iterations in p.writes.values():
                    place = np.searchsorted(at, iterations)
                    np.maximum.at(bound, place, late[p.name].starts[event, place])
            starts[event] = np.maximum.accumulate(bound - at) + at
            free = int(starts[event, -1]) + 1 + (p.interval - p.iterations)
        found[p.name] = _Times(at, starts)
        for stream, iterations in p.writes.items():
            arrival[stream] = found[p.name].at(iterations) + p.latency + 1
    return found


def _latest(
    processes: Sequence[Process], points: Mapping[str, Int64], early: Mapping[str, _Times], slowest: str
) -> dict[str, _Times]:
    """As late as neither a result nor the slowest process is delayed."""
    found: dict[str, _Times] = {}
    need: dict[str, Int64] = {}
    for p in reversed(processes):
        at = points[p.name]
        starts = np.zeros((_EVENTS, len(at)), np.int64)
        after = np.iinfo(np.int64).max
        for event in reversed(range(_EVENTS)):
            pinned = not p.writes or p.name == slowest
            last = early[p.name].starts[event] if pinned else np.full(len(at), np.iinfo(np.int64).max)
            bound = np.minimum(last, after)
            for stream, iterations in p.writes.items():
                place = np.searchsorted(at, iterations)
                np.minimum.at(bound, place, need[stream][event] - 1 - p.latency)
            bound = np.minimum(bound, np.iinfo(np.int64).max // 2)
            starts[event] = np.minimum.accumulate((bound - at)[::-1])[::-1] + at
            after = int(starts[event, 0]) - 1 - (p.interval - p.iterations)
        found[p.name] = _Times(at, starts)
        for stream, iterations in p.reads.items():
            need[stream] = found[p.name].at(iterations)
    return found


def _depths(processes: Sequence[Process], late: Mapping[str, _Times]) -> dict[str, int]:
    """The most words in each stream at once."""
    written = {
        s: (late[p.name].at(iterations) + p.latency).ravel() for p in processes for s, iterations in p.writes.items()
    }
    found: dict[str, int] = {}
    for p in processes:
        for stream, iterations in p.reads.items():
            read = late[p.name].at(iterations).ravel()
            waiting = np.arange(1, len(read) + 1) - np.searchsorted(read, written[stream], side="left")
            found[stream] = int(waiting.max(initial=1))
    return found
