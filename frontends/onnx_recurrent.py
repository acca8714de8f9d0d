"""RNN, LSTM and GRU of ONNX, unrolled over the fixed length of the sequence into matrices, functions and products.

Every value of a step belongs to a group (`RealNode.group`), so that calibration gives all steps one precision; that is
what makes one step, compiled alone, equal to the unrolled network (`frontends.recurrent`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .onnx_context import Const, Context, Ref, Value
from .real import (
    Add,
    Clip,
    Compare,
    Concat,
    Constant,
    Dense,
    Float,
    Function,
    Gather,
    Leaky,
    Mul,
    Offset,
    RealOp,
    Reshape,
    Scale,
    Select,
    Sub,
)

__all__ = ["RECURRENT"]

_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_PARAMETERS = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None), "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0, None), "relu": (None, None), "tanh": (None, None), "sigmoid": (None, None),
    "softsign": (None, None), "softplus": (None, None),
}  # fmt: skip
"""Activations and the defaults of their alpha and beta (None: it has none)."""


@dataclass(frozen=True)
class _Activation:
    """An activation by its lower-case name; alpha and beta are 0 where it has none."""

    name: str
    alpha: float
    beta: float


@dataclass
class _Direction:
    """One direction of a layer while it is unrolled; `step` counts the steps as they are computed."""

    c: Context
    label: str
    x: int  # [time, inputs]
    w: RealOp  # all gates of the inputs
    r: tuple[RealOp, ...]  # matrices of the state, as the kind of layer needs them
    bias: Float  # [2, gates, hidden]: of the inputs, of the state
    activations: tuple[_Activation, ...]
    hidden: int
    clip: float | None
    step: int = 0

    def add(self, role: str, op: RealOp, *operands: int) -> int:
        """A node of the current step; nodes of equal role share their precision."""
        group = f".{self.label}.{role}"
        return self.c.add(op, *operands, suffix=f".{self.label}.{self.step}.{role}", group=group).index

    def inputs(self, t: int, bias: Float) -> int:
        """x W + bias for all gates."""
        n = self.c.builder.nodes[self.x].shape[1]
        row = self.add("x", Gather(t * n + np.arange(n)), self.x)
        return self.add("wx", Offset(bias.reshape(-1)), self.add("matrix", self.w, row))

    def gate(self, value: int, k: int, role: str) -> int:
        """Gate k of all gates."""
        return self.add(f"{role}.part", Gather(k * self.hidden + np.arange(self.hidden)), value)

    def activated(self, role: str, k: int, x: int) -> int:
        """Activation k of a sum, which is limited first if the layer says so."""
        if self.clip is not None:
            x = self.add(f"{role}.limit", Clip(-self.clip, self.clip), x)
        a = self.activations[k]

        def scaled(by: float, value: int, part: str) -> int:
            return value if by == 1 else self.add(f"{role}.{part}", Scale(np.asarray(by)), value)

        if a.name in ("tanh", "sigmoid", "softsign", "softplus"):
            return self.add(role, Function(a.name), x)
        if a.name == "scaledtanh":
            return scaled(a.alpha, self.add(role, Function("tanh"), scaled(a.beta, x, "inner")), "outer")
        if a.name == "elu":
            return self.add(role, Function("elu", (a.alpha,)), x)
        if a.name == "relu":
            return self.add(role, Clip(0.0, None), x)
        if a.name == "leakyrelu":
            return self.add(role, Leaky(np.asarray(a.alpha)), x)
        if a.name == "thresholdedrelu":
            limit, zero = (
                self.add(f"{role}.{part}", Constant(np.asarray(v))) for part, v in (("limit", a.alpha), ("zero", 0.0))
            )
            return self.add(role, Select(), self.add(f"{role}.above", Compare("less"), limit, x), x, zero)
        line = self.add(f"{role}.line", Offset(np.asarray(a.beta)), scaled(a.alpha, x, "slope"))
        return line if a.name == "affine" else self.add(role, Clip(0.0, 1.0), line)


State = tuple[int, ...]
Step = Callable[[_Direction, int, State], State]


def _rnn(d: _Direction, t: int, state: State) -> State:
    sums = d.add("sums", Add(), d.inputs(t, d.bias.sum(axis=0)), d.add("rh", d.r[0], state[0]))
    return (d.activated("h", 0, sums),)


def _lstm(peepholes: Float | None, coupled: bool) -> Step:
    """Gates in the order input, output, forget, cell; `peepholes` ``[3, hidden]`` in the order input, output, forget."""

    def step(d: _Direction, t: int, state: State) -> State:
        h, c = state
        sums = d.add("sums", Add(), d.inputs(t, d.bias.sum(axis=0)), d.add("rh", d.r[0], h))

        def gate(k: int, role: str, cell: int) -> int:
            value = d.gate(sums, k, role)
            if peepholes is not None and peepholes[k].any():
                seen = d.add(f"{role}.peephole", Scale(peepholes[k]), cell)
                value = d.add(f"{role}.sum", Add(), value, seen)
            return d.activated(role, 0, value)

        i = gate(0, "i", c)
        if coupled:
            f = d.add("f", Offset(np.asarray(1.0)), d.add("minus_i", Scale(np.asarray(-1.0)), i))
        else:
            f = gate(2, "f", c)
        g = d.activated("g", 1, d.gate(sums, 3, "g"))
        c = d.add("c", Add(), d.add("f.c", Mul(), f, c), d.add("i.g", Mul(), i, g))
        return d.add("h", Mul(), gate(1, "o", c), d.activated("tanh_c", 2, c)), c

    return step


def _gru(before_reset: bool) -> Step:
    """Gates in the order update, reset, new. The state becomes n + z (h - n), which is (1 - z) n + z h."""

    def step(d: _Direction, t: int, state: State) -> State:
        (h,) = state
        outer = d.bias[0] + d.bias[1] * np.array([[1], [1], [not before_reset]])
        wx = d.inputs(t, outer)
        both = d.add("wx.gates", Gather(np.arange(2 * d.hidden)), wx)
        sums = d.add("sums", Add(), both, d.add("rh", d.r[0], h))
        z, r = (d.activated(role, 0, d.gate(sums, k, role)) for k, role in enumerate("zr"))
        if before_reset:
            inner = d.add("rn.bias", Offset(d.bias[1, 2]), d.add("rn", d.r[1], h))
            inner = d.add("r.rn", Mul(), r, inner)
        else:
            inner = d.add("rn", d.r[1], d.add("r.h", Mul(), r, h))
        n = d.activated("n", 1, d.add("n.sum", Add(), d.gate(wx, 2, "n"), inner))
        return (d.add("h", Add(), n, d.add("z.gap", Mul(), z, d.add("gap", Sub(), h, n))),)

    return step


# ---- reading ----------------------------------------------------------------------------------------------------------


def _activations(c: Context, directions: int) -> list[tuple[_Activation, ...]]:
    """The activations of each direction; alpha and beta are lists that those take from in turn which have them."""
    defaults = _DEFAULTS[c.node.op_type]
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in c.attribute("activations", [])]
    names = [n.lower() for n in names or [*defaults] * directions]
    known = [n for n in names if n not in _PARAMETERS]
    if known or len(names) != len(defaults) * directions:
        rule = f"activations must be {len(defaults) * directions} of {', '.join(_PARAMETERS)}, not {names}"
        raise c.error(rule)
    given = [list(c.attribute(f"activation_{k}", [])) for k in ("alpha", "beta")]

    def taken(n: str, k: int) -> float:
        default = _PARAMETERS[n][k]
        if default is None:
            return 0.0
        return float(np.float32(given[k].pop(0) if given[k] else default))

    found = [_Activation(n, taken(n, 0), taken(n, 1)) for n in names]
    size = len(defaults)
    return [tuple(found[k * size : (k + 1) * size]) for k in range(directions)]


def _initial(c: Context, k: int, layout: int, directions: int, hidden: int) -> list[int | Float]:
    """The initial state of each direction: numbers, or nodes where it is data."""
    if not c.given(k):
        return [np.zeros(hidden) for _ in range(directions)]
    value = c.operand(k)
    if isinstance(value, Ref):
        if c.shape(value) != (directions, hidden) or value.batch != 1 - layout:
            raise c.error(f"an initial state must be [{directions}, batch, {hidden}], not {list(c.full_shape(value))}")
        rows = [d * hidden + np.arange(hidden) for d in range(directions)]
        return [c.add(Gather(r), value.index, suffix=f".initial{k}.{d}").index for d, r in enumerate(rows)]
    values = np.moveaxis(c.floats(k, "an initial state"), 0 if layout else 1, 0)
    if values.shape[1:] != (directions, hidden) or not (values == values[:1]).all():
        raise c.error("a constant initial state must be the same for all events")
    return list(values[0])


def _sequence(c: Context, layout: int) -> tuple[int, int, int]:
    """(node, time steps, inputs) of the operand."""
    value = c.operand(0)
    if not isinstance(value, Ref) or len(c.shape(value)) != 2 or value.batch != 1 - layout:
        wanted = "[batch, time, inputs]" if layout else "[time, batch, inputs]"
        shape = ["batch" if n == -1 else n for n in c.full_shape(value)]
        fix = "export it with a dynamic batch axis, and with nothing else dynamic"
        raise c.error(f"the sequence must have shape {wanted}, not {shape}", fix)
    time, inputs = c.shape(value)
    if c.given(4) and (c.constant(4, "sequence_lens").values != time).any():
        raise c.error(f"sequence_lens must be constant and the full length {time}", "pad the sequences")
    return value.index, time, inputs


def _dense(weights: Const, d: int, rows: slice) -> Dense:
    """The matrix of some gates of direction d, ``[inputs, gates]``; quantized weights keep their integers."""
    values = weights.values[d, rows].astype(np.float64).T.copy()
    if weights.ints is None or weights.scale is None:
        return Dense(values)
    scale = np.broadcast_to(weights.scale, weights.ints.shape)[d, rows].T
    if not (scale == scale[:1]).all():
        return Dense(values)
    return Dense(values, weights.ints[d, rows].T.copy(), scale[0].copy())


def _state_matrices(kind: str, weights: Const, d: int, hidden: int) -> tuple[Dense, ...]:
    """All gates at once, but for the GRU, whose new gate sees the state behind the reset."""
    if kind != "GRU":
        return (_dense(weights, d, slice(None)),)
    return _dense(weights, d, slice(0, 2 * hidden)), _dense(weights, d, slice(2 * hidden, None))


def _step_of(c: Context, hidden: int) -> list[Step]:
    """How each direction makes a step, from the attributes of the kind of layer."""
    directions = 2 if c.attribute("direction", "forward") == "bidirectional" else 1
    if c.node.op_type == "RNN":
        return [_rnn] * directions
    if c.node.op_type == "GRU":
        return [_gru(bool(c.attribute("linear_before_reset", 0)))] * directions
    coupled = bool(c.attribute("input_forget", 0))
    if not c.given(7):
        return [_lstm(None, coupled)] * directions
    peepholes = c.floats(7, "the peepholes").reshape(directions, 3, hidden)
    return [_lstm(p, coupled) for p in peepholes]


def _recurrent(c: Context) -> list[Value]:
    kind, layout = c.node.op_type, int(c.attribute("layout", 0))
    direction = str(c.attribute("direction", "forward"))
    if direction not in ("forward", "reverse", "bidirectional") or layout not in (0, 1):
        raise c.error(
            f"direction must be forward, reverse or bidirectional and layout 0 or 1, not {direction}, {layout}"
        )
    x, time, inputs = _sequence(c, layout)
    w, r = c.constant(1, "the weights"), c.constant(2, "the recurrent weights")
    labels = ["forward", "reverse"] if direction == "bidirectional" else [direction]
    gates, hidden = _GATES[kind], int(r.values.shape[-1])
    sizes = ((len(labels), gates * hidden, inputs), (len(labels), gates * hidden, hidden))
    if (w.values.shape, r.values.shape) != sizes or c.attribute("hidden_size", hidden) != hidden:
        found = f"{list(w.values.shape)} and {list(r.values.shape)}"
        raise c.error(f"weights must have shapes {list(sizes[0])} and {list(sizes[1])}, not {found}")
    bias = c.floats(3, "the bias") if c.given(3) else np.zeros((len(labels), 2 * gates * hidden))
    bias, clip = bias.reshape(len(labels), 2, gates, hidden), c.attribute("clip", None)
    activations, steps = _activations(c, len(labels)), _step_of(c, hidden)
    states = [_initial(c, k, layout, len(labels), hidden) for k in ((5, 6) if kind == "LSTM" else (5,))]
    rows: list[list[int]] = []
    last: list[State] = []
    for d, label in enumerate(labels):
        matrices = _dense(w, d, slice(None)), _state_matrices(kind, r, d, hidden)
        limit = None if clip is None else float(np.float32(clip))
        one = _Direction(c, label, x, *matrices, bias[d], activations[d], hidden, limit)
        outputs, state = _unrolled(one, steps[d], [s[d] for s in states], time)
        rows.append(outputs)
        last.append(state)
    return _results(c, rows, last, layout, hidden)


def _unrolled(d: _Direction, step: Step, initial: list[int | Float], time: int) -> tuple[list[int], State]:
    """(h of each time, the last state)."""
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


def _results(c: Context, rows: list[list[int]], last: list[State], layout: int, hidden: int) -> list[Value]:
    """Y ``[time, directions, hidden]`` and the last states ``[directions, hidden]``, with the batch axis where it belongs."""
    parts = [h for at_time in zip(*rows) for h in at_time]
    joined = c.add(Concat(0), *parts, suffix=".joined") if len(parts) > 1 else Ref(parts[0])
    shape = (len(rows[0]), len(rows), hidden)
    found: list[Value] = [c.placed(c.add(Reshape(shape), joined.index, suffix=".Y"), 0 if layout else 2)]
    for k, name in enumerate(("Y_h", "Y_c")[: len(last[0])]):
        ends = [state[k] for state in last]
        joined = c.add(Concat(0), *ends, suffix=f".{name}.joined") if len(ends) > 1 else Ref(ends[0])
        y = c.add(Reshape((len(ends), hidden)), joined.index, suffix=f".{name}")
        found.append(c.placed(y, 1 - layout))
    return found


RECURRENT: dict[str, Callable[[Context], list[Value]]] = {"RNN": _recurrent, "GRU": _recurrent, "LSTM": _recurrent}
