"""Clocks for the measuring processes: medians of repeats after a warm-up; needs numpy alone, so that peers share it.

Processor time and not wall-clock time: for work in one thread they are the same on an idle machine, and on a busy one
the first does not count what others do.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["WITNESS_EVENTS", "mismatches", "now_s", "rate", "said", "seconds"]

WITNESS_EVENTS = 1000
PASS_S = 1.0  # one call takes at most about this long
SHORTEST_S = 0.05  # one repeat is as many calls as this takes, so that a short disturbance does not decide it


def now_s() -> float:
    """Processor seconds of this process and of the children that it has waited for, user and system."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, and its result."""
    started = now_s()
    result = work()
    return now_s() - started, result


def rate(run: Callable[[Any], Any], x: Any, repeats: int, least: int = 64) -> dict[str, float]:
    """Events per processor second of ``run(x)``: median, lowest and highest of the repeats, and the events of one call.

    All events of `x` where one pass takes less than a second, otherwise as many as nearly fit into it, so that what a
    call costs once does not count much.
    """
    events = min(least, len(x))
    spent = _call(run, x[:events])
    while events < len(x) and spent < PASS_S / 4:
        events = min(4 * events, len(x))
        spent = _call(run, x[:events])
    some = x[:events]
    calls = max(1, round(SHORTEST_S / _call(run, some)))
    found = [events * calls / sum(_call(run, some) for _ in range(calls)) for _ in range(repeats)]
    return {"median": float(np.median(found)), "low": min(found), "high": max(found), "events": events}


def _call(run: Callable[[Any], Any], x: Any) -> float:
    return seconds(lambda: run(x))[0]


def mismatches(got: Any, expected: Any) -> int:
    """How many values differ, of all events and outputs."""
    have = np.asarray(got, np.float64).reshape(expected.shape)
    return int(np.count_nonzero(have != expected))


def said(**values: Any) -> None:
    """What this process measured so far, as a line for the runner; later lines add to earlier ones."""
    sys.stdout.flush()
    print("BENCH " + json.dumps(values), flush=True)
