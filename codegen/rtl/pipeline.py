"""Which clock stage each row of a scalar program belongs to; knows delays and widths, not what a row computes.

Rows are placed as early as their operands allow, with logic chained inside a stage as long as it fits the usable
period; that fixes the number of stages. Then the period is tightened as far as this number of stages allows, which is
slack for routing, and rows move later, from the last to the first, where fewer register bits are then needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...hw_targets.costs import usable_period_ns
from ...hw_targets.devices import Device
from ...ir.errors import CompileError
from ...ir.scalar import Code, ScalarGraph
from ...ir.types import Int64
from .rows import row_costs, row_widths

__all__ = ["Pipeline", "pipeline"]

_TIGHTENINGS = 8  # halvings of the interval in which the least period is searched


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Stage of each row, and until which stage it is read: it passes ``last_use - stage`` registers.

    `stages` are the pieces of logic; `latency_cycles` the registers between any input port and any output port (its own
    included, where it has one); `register_bits` all of these but the valid bits. `path_ns` is the
    estimated longest logic between two registers, which is at most `usable_ns`.
    """

    stage: Int64
    last_use: Int64
    stages: int
    latency_cycles: int
    register_bits: int
    path_ns: float
    usable_ns: float
    registered_inputs: bool
    registered_outputs: bool


def pipeline(
    scalar: ScalarGraph,
    device: Device,
    clock_ns: float,
    *,
    register_inputs: bool = False,
    register_outputs: bool = True,
) -> Pipeline:
    """Stages for a clock of `clock_ns` on `device`; all outputs arrive together.

    By default outputs come from registers and inputs go to logic, so modules that follow each other need no register
    twice. Raises `CompileError` for an operation that alone takes longer than the usable period.
    """
    usable = usable_period_ns(device, clock_ns, "rtl")
    delays = row_costs(scalar, device).delay_ns
    _refuse_slow(scalar, delays, clock_ns, usable)
    widths = row_widths(scalar).tolist()
    operands = _operands(scalar)
    read = [int(r) for o in scalar.outputs for r in o.rows if scalar.code[r] != Code.CONSTANT]
    candidates = _placements(delays.tolist(), operands, usable)
    best = min((_moved_later(*c, delays.tolist(), operands, widths, read) for c in candidates), key=lambda c: c[2])
    stage, last_use, bits, stages, path = best
    bits += sum(widths[int(r)] for i in scalar.inputs for r in i.rows) if register_inputs else 0
    bits += sum(widths[r] for r in read) if register_outputs else 0
    latency = stages - 1 + register_inputs + register_outputs
    return Pipeline(
        np.array(stage, np.int64),
        np.array(last_use, np.int64),
        stages,
        latency,
        bits,
        path,
        usable,
        register_inputs,
        register_outputs,
    )


def _operands(scalar: ScalarGraph) -> list[tuple[int, ...]]:
    """The operands of each row that have a stage: constants are always there."""
    constant = (scalar.code == Code.CONSTANT).tolist()
    columns = zip(scalar.c.tolist(), scalar.a.tolist(), scalar.b.tolist())
    return [tuple(dict.fromkeys(r for r in rows if r >= 0 and not constant[r])) for rows in columns]


def _refuse_slow(scalar: ScalarGraph, delays: np.ndarray, clock_ns: float, usable: float) -> None:
    slow = int(np.argmax(delays)) if len(delays) else 0
    if len(delays) and delays[slow] > usable:
        layer = scalar.groups[scalar.group[slow]] if scalar.group[slow] >= 0 else scalar.name
        name = Code(int(scalar.code[slow])).name.lower()
        rule = (
            f"one {name} takes an estimated {delays[slow]:.2f} ns, more than the {usable:.2f} ns that a clock of "
            f"{clock_ns:g} ns leaves between registers"
        )
        raise CompileError(f"{layer} ({name})", rule, "use a slower clock or narrower operands")


Placement = tuple[list[int], list[float], int, float]  # stage and finishing time of each row, stages, period


def _placements(delays: Sequence[float], operands: Sequence[tuple[int, ...]], usable: float) -> list[Placement]:
    """Earliest placements with the fewest stages: at the usable period, and at the least that needs no more."""
    stage, finish, stages = _earliest(delays, operands, usable)
    found: list[Placement] = [(stage, finish, stages, usable)]
    low, high = max(delays, default=0.0), usable
    for _ in range(_TIGHTENINGS):
        middle = (low + high) / 2
        stage, finish, needed = _earliest(delays, operands, middle)
        if needed > stages:
            low = middle
        else:
            found[1:] = [(stage, finish, needed, middle)]
            high = middle
    return found


def _earliest(
    delays: Sequence[float], operands: Sequence[tuple[int, ...]], period: float
) -> tuple[list[int], list[float], int]:
    stage: list[int] = []
    finish: list[float] = []
    for delay, needs in zip(delays, operands):
        at, start = 0, 0.0
        for r in needs:
            if stage[r] > at:
                at, start = stage[r], finish[r]
            elif stage[r] == at and finish[r] > start:
                start = finish[r]
        if start + delay > period:
            at, start = at + 1, 0.0
        stage.append(at)
        finish.append(start + delay)
    return stage, finish, max(stage, default=0) + 1


def _moved_later(
    stage: list[int],
    finish: list[float],
    stages: int,
    period: float,
    delays: Sequence[float],
    operands: Sequence[tuple[int, ...]],
    widths: Sequence[int],
    read: Sequence[int],
) -> tuple[list[int], list[int], int, int, float]:
    """(stage, last use, register bits, stages, longest path) after each row went where it costs fewest register bits.

    Users come before their operands, so a row's users are fixed when it is placed: `deadline` holds the stage and time
    at which the first of them starts. Staying is always possible.
    """
    n, last = len(stage), stages - 1
    deadline = [(stages, 0.0)] * n
    top: list[tuple[int, int, int]] = [(stage[k], -1, stage[k]) for k in range(n)]  # last use, its user, the one before
    for r in range(n):
        for o in operands[r]:
            top[o] = _with_use(top[o], stage[r], r)
    for r in read:
        top[r] = (last, n, last)
    for r in range(n - 1, -1, -1):
        if not operands[r]:
            continue
        until = top[r][0]
        to, room = deadline[r]
        latest = to if room - delays[r] >= 0 else to - 1
        latest = min(latest, last)
        chosen = _cheapest(r, stage[r], latest, until, operands[r], top, widths)
        if chosen != stage[r]:
            stage[r] = chosen
            for o in operands[r]:
                top[o] = _with_use(top[o], chosen, r)
        start = (room if chosen == to else period) - delays[r]
        for o in operands[r]:
            deadline[o] = min(deadline[o], (chosen, start))
    last_use = [max(t[0], s) for t, s in zip(top, stage)]
    bits = sum(w * (u - s) for w, u, s in zip(widths, last_use, stage))
    return stage, last_use, bits, stages, _longest(stage, delays, operands)


def _with_use(top: tuple[int, int, int], at: int, user: int) -> tuple[int, int, int]:
    """Later uses only push others back, so the two latest are enough to know the last without any one user."""
    first, who, second = top
    if user == who:
        return max(first, at), who, second
    if at > first:
        return at, user, first
    return first, who, max(second, at)


def _cheapest(
    r: int,
    earliest: int,
    latest: int,
    until: int,
    needs: tuple[int, ...],
    top: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
) -> int:
    """The stage at which the registers behind the row and in front of it, beyond those that others need, are fewest."""
    if latest <= earliest:
        return earliest
    others = [(top[o][2] if top[o][1] == r else top[o][0], widths[o]) for o in needs]
    stops = {earliest, latest, *(s for s, _ in others if earliest < s < latest)}

    def bits(s: int) -> int:
        return widths[r] * (until - s) + sum(w * max(0, s - used) for used, w in others)

    return min(sorted(stops), key=bits)


def _longest(stage: Sequence[int], delays: Sequence[float], operands: Sequence[tuple[int, ...]]) -> float:
    finish: list[float] = []
    for r, needs in enumerate(operands):
        start = max((finish[o] for o in needs if stage[o] == stage[r]), default=0.0)
        finish.append(start + delays[r])
    return max(finish, default=0.0)
