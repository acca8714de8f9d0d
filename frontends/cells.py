"""Steps of recurrent layers as real ops: simple, LSTM and GRU cells, unrolled over time. Knows no file format.

Every value of a step belongs to a group (`RealNode.group`), so that calibration gives all steps one precision; that is
what makes one step, compiled alone, equal to the unrolled network (`frontends.recurrent`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .real import Add, Constant, Float, Gather, Mul, Offset, RealOp, Scale, Sub

__all__ = ["Direction", "State", "Step", "gru", "lstm", "simple", "unrolled"]

State: TypeAlias = tuple[int, ...]


@dataclass
class Direction:
    """One direction of a layer while it is unrolled; `step` counts the steps as they are computed.

    `append(op, *operands, suffix=..., group=...)` adds a node to the model and returns its index. `activate(d, role, k, x)`
    applies activation k to a sum. `prepare(d, role, x)` is what happens to a state before a step uses it.
    """

    append: Callable[..., int]
    activate: Callable[[Direction, str, int, int], int]
    label: str
    x: int  # [time, inputs]
    inputs: int
    w: RealOp  # all gates of the inputs
    r: tuple[RealOp, ...]  # matrices of the state, as the kind of layer needs them
    bias: Float  # [2, gates, hidden]: of the inputs, of the state
    hidden: int
    prepare: Callable[[Direction, str, int], int] | None = None
    step: int = 0

    def add(self, role: str, op: RealOp, *operands: int) -> int:
        """A node of the current step; nodes of equal role share their precision."""
        group = f".{self.label}.{role}"
        return self.append(op, *operands, suffix=f".{self.label}.{self.step}.{role}", group=group)

    def from_inputs(self, t: int, bias: Float) -> int:
        """x W + bias for all gates."""
        row = self.add("x", Gather(t * self.inputs + np.arange(self.inputs)), self.x)
        return self.add("wx", Offset(bias.reshape(-1)), self.add("matrix", self.w, row))

    def gate(self, value: int, k: int, role: str) -> int:
        """Gate k of all gates."""
        return self.add(f"{role}.part", Gather(k * self.hidden + np.arange(self.hidden)), value)

    def prepared(self, state: State, *roles: str) -> State:
        """The states as the step uses them."""
        if self.prepare is None:
            return state
        return tuple(self.prepare(self, f"{role}.state", x) for role, x in zip(roles, state))


Step = Callable[[Direction, int, State], State]


def simple(d: Direction, t: int, state: State) -> State:
    """h = f(x W + h R + b)."""
    (h,) = d.prepared(state, "h")
    sums = d.add("sums", Add(), d.from_inputs(t, d.bias.sum(axis=0)), d.add("rh", d.r[0], h))
    return (d.activate(d, "h", 0, sums),)


def lstm(peepholes: Float | None = None, coupled: bool = False) -> Step:
    """Gates in the order input, output, forget, cell; `peepholes` ``[3, hidden]`` in the order input, output, forget."""

    def step(d: Direction, t: int, state: State) -> State:
        h, c = d.prepared(state, "h", "c")
        sums = d.add("sums", Add(), d.from_inputs(t, d.bias.sum(axis=0)), d.add("rh", d.r[0], h))

        def gate(k: int, role: str, cell: int) -> int:
            value = d.gate(sums, k, role)
            if peepholes is not None and peepholes[k].any():
                seen = d.add(f"{role}.peephole", Scale(peepholes[k]), cell)
                value = d.add(f"{role}.sum", Add(), value, seen)
            return d.activate(d, role, 0, value)

        i = gate(0, "i", c)
        if coupled:
            f = d.add("f", Offset(np.asarray(1.0)), d.add("minus_i", Scale(np.asarray(-1.0)), i))
        else:
            f = gate(2, "f", c)
        g = d.activate(d, "g", 1, d.gate(sums, 3, "g"))
        c = d.add("c", Add(), d.add("f.c", Mul(), f, c), d.add("i.g", Mul(), i, g))
        return d.add("h", Mul(), gate(1, "o", c), d.activate(d, "tanh_c", 2, c)), c

    return step


def gru(before_reset: bool) -> Step:
    """Gates in the order update, reset, new. The state becomes n + z (h - n), which is (1 - z) n + z h."""

    def step(d: Direction, t: int, state: State) -> State:
        (h,) = d.prepared(state, "h")
        outer = d.bias[0] + d.bias[1] * np.array([[1], [1], [not before_reset]])
        wx = d.from_inputs(t, outer)
        both = d.add("wx.gates", Gather(np.arange(2 * d.hidden)), wx)
        sums = d.add("sums", Add(), both, d.add("rh", d.r[0], h))
        z, r = (d.activate(d, role, 0, d.gate(sums, k, role)) for k, role in enumerate("zr"))
        if before_reset:
            inner = d.add("rn.bias", Offset(d.bias[1, 2]), d.add("rn", d.r[1], h))
            inner = d.add("r.rn", Mul(), r, inner)
        else:
            inner = d.add("rn", d.r[1], d.add("r.h", Mul(), r, h))
        n = d.activate(d, "n", 1, d.add("n.sum", Add(), d.gate(wx, 2, "n"), inner))
        return (d.add("h", Add(), n, d.add("z.gap", Mul(), z, d.add("gap", Sub(), h, n))),)

    return step


def unrolled(d: Direction, step: Step, initial: Sequence[int | Float], time: int) -> tuple[list[int], State]:
    """(h of each time, the last state). A direction with the label "reverse" begins at the end."""
    state: State = tuple(
        v if isinstance(v, int) else d.add(role, Constant(np.asarray(v, np.float64)))
        for v, role in zip(initial, ("h", "c"))
    )
    found = [0] * time
    for t in reversed(range(time)) if d.label == "reverse" else range(time):
        d.step += 1
        state = step(d, t, state)
        found[t] = state[0]
    return found, state
