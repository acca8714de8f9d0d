"""Recurrent layers of HGQ2, unrolled over time with the quantizers of their cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cells import Direction, State, Step, simple, unrolled
from .hgq_quantizers import HgqLayer, in_single
from .keras_activations import activate
from .keras_context import Layer
from .keras_recurrent import Stepped, initial_states, joined, settings
from .real import Add, Gather, Mul, Offset, RealOp, Sub

__all__ = ["HGQ_RECURRENT"]


class _Role(HgqLayer):
    """A cell whose ops are named after a step and grouped by their role in it."""

    def __init__(self, c: Layer, d: Direction, role: str) -> None:
        super().__init__(c)
        self.step = Stepped(c, d, role)

    def add(self, op: RealOp, *operands: int, suffix: str = "", group: str = "") -> int:
        return self.step.add(in_single(op), *operands, suffix=suffix)


def _direction(c: HgqLayer, gates: int, label: str) -> tuple[HgqLayer, Direction]:
    hidden, use_bias = c.whole("units"), c.flag("use_bias", True)
    shape = c.shape(c.inputs[0])
    if len(shape) != 2:
        raise c.error(f"the input must be a sequence [time, features], not shape {list(shape)}")
    cell = HgqLayer(c)
    cell.weights = c.weights.child("cell")
    x = cell.data("iq", c.inputs[0]) if c.flag("enable_iq", True) else c.inputs[0]
    kernel, state, *bias = cell.variables("kernel", "recurrent_kernel", *(["bias"] if use_bias else []))
    c.shaped("kernel", kernel, (shape[1], gates * hidden))
    c.shaped("recurrent_kernel", state, (hidden, gates * hidden))
    found = np.zeros((2, gates, hidden))
    if bias:
        quantized = cell.weight("bq", bias[0]).values.reshape(-1, gates, hidden)
        found[: len(quantized)] = quantized
    else:
        c.ignore("bq_conf")
    r = cell.weight("rkq", state)
    parts = (slice(None),) if gates == 1 else (slice(0, 2 * hidden), slice(2 * hidden, None))
    matrices = tuple(r.mapped(lambda a, s=s: a[:, s]).matrix() for s in parts)
    w = cell.weight("kq", kernel).matrix()
    return cell, Direction(c.add, _activate(cell), label, x, shape[1], w, matrices, found, hidden)


def _activate(cell: HgqLayer) -> Callable[[Direction, str, int, int], int]:
    """Activation 0 of a GRU is that of its gates; quantizers lie in front of it in a simple cell, and behind it in a GRU."""
    gru = cell.kind == "QGRU"
    outer = cell.get("activation", "linear")
    inner = cell.get("recurrent_activation", "linear") if gru else outer

    def apply(d: Direction, role: str, k: int, x: int) -> int:
        of_gates = gru and k == 0
        named, quantizer = _Role(cell, d, role), "praq" if of_gates else "paq"
        if not gru:
            return activate(named, outer, named.data(quantizer, x), ".activation")
        return named.data(quantizer, activate(named, inner if of_gates else outer, x, ".activation"))

    return apply


def _simple(c: HgqLayer) -> list[int]:
    def step(cell: HgqLayer, d: Direction) -> Step:
        if c.flag("enable_sq", c.get("sq_conf") is not None):
            d.prepare = lambda d, role, x: _Role(cell, d, role).data("sq", x)
        return simple

    c.ignore("sq_conf")
    return _run(c, 1, step)


def _gru(c: HgqLayer) -> list[int]:
    after = c.flag("reset_after", True)
    return _run(c, 3, lambda cell, d: _gru_step(cell, after))


def _gru_step(cell: HgqLayer, after: bool) -> Step:
    """h = z q(h) + (1 - z) n, where q is the quantizer of the state."""

    def step(d: Direction, t: int, state: State) -> State:
        h = _Role(cell, d, "state").data("sq", state[0])
        wx = d.from_inputs(t, d.bias[0])
        both = d.add("wx.gates", Gather(np.arange(2 * d.hidden)), wx)
        recurrent = d.add("rh.bias", Offset(d.bias[1, :2].reshape(-1)), d.add("rh", d.r[0], h))
        gates = d.activate(d, "zr", 0, d.add("zr.sum", Add(), both, recurrent))
        z, r = (d.gate(gates, k, role) for k, role in enumerate("zr"))
        if after:
            inner = d.add("rn.bias", Offset(d.bias[1, 2]), d.add("rn", d.r[1], h))
            inner = d.add("r.rn", Mul(), r, _Role(cell, d, "rn.quantized").data("rhq", inner))
        else:
            gated = _Role(cell, d, "r.h.quantized").data("rhq", d.add("r.h", Mul(), r, h))
            inner = d.add("rn", d.r[1], gated)
        n = d.activate(d, "n", 1, d.add("n.sum", Add(), d.gate(wx, 2, "n"), inner))
        return (d.add("h", Add(), n, d.add("z.gap", Mul(), z, d.add("gap", Sub(), h, n))),)

    return step


def _run(c: HgqLayer, gates: int, make: Callable[[HgqLayer, Direction], Step]) -> list[int]:
    """All steps of a layer; `make` gives its step."""
    sequences, states = settings(c)
    c.ignore_costs()
    c.must_be("enable_oq", False)
    c.ignore("oq_conf", "iq_conf")
    backward, begin = c.flag("go_backwards", False), initial_states(c)
    if len(begin) > 1:
        raise c.error(f"takes 1 initial state, not {len(begin)}")
    cell, d = _direction(c, gates, "reverse" if backward else "forward")
    rows, last = unrolled(d, make(cell, d), begin or [np.zeros(d.hidden)], c.shape(c.inputs[0])[0])
    rows = rows[::-1] if backward else rows  # the order in which they are computed
    y = joined(c, rows, d.hidden, "") if sequences else last[0]
    return [y, *last] if states else [y]


HGQ_RECURRENT: dict[str, Callable[[HgqLayer], list[int]]] = {"QSimpleRNN": _simple, "QGRU": _gru}
"""Every layer of this file by its class name."""
