"""FIFO depths from the schedule: with them nothing waits, and with less on a residual path something does."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from dataflow_model import run

from hwcompile.codegen.dataflow import Process, timing


def chain(n, *stages):
    """Sources and sinks of n words around stages (name, reads, writes, extra)."""
    every = np.arange(n)
    return [Process("in", n, 0, {}, {"a": every}, False), *stages]


def pipe(name, source, target, n, latency=3, each=1):
    slots = np.arange(n) * each
    return Process(name, n * each, latency, {source: slots}, {target: slots + each - 1})


def sink(stream, n):
    return Process(f"out {stream}", n, 0, {stream: np.arange(n)}, {}, False)


def copies(source, n, *targets):
    every = np.arange(n)
    return Process(f"copy {source}", n, 1, {source: every}, dict.fromkeys(targets, every))


def line_buffer(name, source, target, rows, columns, latency=2):
    """A 3 x 3 window with padding: reads inside the padded image, writes when the window is complete."""
    at = np.arange((rows + 2) * (columns + 2)).reshape(rows + 2, columns + 2)
    return Process(name, at.size, latency, {source: at[1:-1, 1:-1].ravel()}, {target: at[2:, 2:].ravel()})


def residual(rows=6, columns=7, each=1):
    """copy -> (window -> matrix) + skip -> add."""
    n, every = rows * columns, np.arange(rows * columns)
    return [
        *chain(n, copies("a", n, "main", "skip")),
        line_buffer("window", "main", "taps", rows, columns),
        pipe("matrix", "taps", "product", n, 5, each),
        Process("add", n, 2, {"product": every, "skip": every}, {"y": every}),
        sink("y", n),
    ]


def collected(n=30):
    """A process that needs all words before it gives the first, beside one that needs none: skip holds the event."""
    every = np.arange(n)
    return [
        *chain(n, copies("a", n, "main", "skip")),
        Process("total", n, 4, {"main": every}, {"sum": np.array([n - 1])}),
        Process("scale", n, 2, {"sum": np.array([0]), "skip": every}, {"y": every}),
        sink("y", n),
    ]


def rates(n=24):
    """A fast producer, a slow consumer, and a last process that gives one word for all."""
    every = np.arange(n)
    return [
        *chain(n, pipe("fast", "a", "b", n, 2)),
        pipe("slow", "b", "c", n, 6, each=7),
        Process("last", n, 3, {"c": every}, {"y": np.array([n - 1])}),
        sink("y", 1),
    ]


NETWORKS = {
    "residual": residual(),
    "slow residual": residual(each=5),
    "collected": collected(),
    "rates": rates(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_waits_with_the_analytic_depths(name):
    processes = NETWORKS[name]
    t = timing(processes)
    unlimited = run(processes, dict.fromkeys(t.depths, 10**6))
    assert run(processes, t.depths) == unlimited
    assert unlimited[0] + 1 == t.latency_cycles
    assert unlimited[-1] - unlimited[-2] == t.ii
    assert t.ii == max(p.interval for p in processes)


@pytest.mark.parametrize("name", ["residual", "slow residual", "collected"])
def test_one_place_less_on_the_short_branch_stalls(name):
    processes = NETWORKS[name]
    t = timing(processes)
    less = run(processes, {**t.depths, "skip": t.depths["skip"] - 1})
    assert less is None or less > run(processes, t.depths)


@pytest.mark.parametrize("name", ["residual", "collected"])
def test_a_single_place_on_the_short_branch_is_a_deadlock(name):
    processes = NETWORKS[name]
    assert run(processes, {**timing(processes).depths, "skip": 1}) is None


def test_chains_need_no_more_than_a_hand_over():
    t = timing(rates())
    assert max(t.depths.values()) <= 2


def test_depth_of_a_residual_is_the_delay_of_the_long_branch():
    rows, columns = 6, 7
    t = timing(residual(rows, columns))
    # words that enter until the first product is there: a padded row, two elements, and the pipelines at a word a cycle
    delay = (columns + 2) + 2 + 1 + 2 + 5 + 3
    assert columns < t.depths["skip"] <= delay


@pytest.mark.parametrize("name", NETWORKS)
def test_deeper_pipelines_than_estimated_never_deadlock(name):
    processes = NETWORKS[name]
    deeper = [dataclasses.replace(p, latency=p.latency * 4) for p in processes]
    assert run(deeper, timing(processes).depths) is not None
