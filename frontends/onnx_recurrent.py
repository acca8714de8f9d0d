"""RNN, LSTM and GRU of ONNX: their attributes, weights and states for the steps in `frontends.cells`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cells import Direction, State, Step, gru, lstm, simple, unrolled
from .onnx_context import Const, Context, Ref, Value
from .real import (
    Clip,
    Compare,
    Concat,
    Constant,
    Dense,
    Float,
    Function,
    Gather,
    Leaky,
    Offset,
    Reshape,
    Scale,
    Select,
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


def _activated(a: _Activation, clip: float | None, d: Direction, role: str, x: int) -> int:
    """An activation of a sum, which is limited first if the layer says so."""
    if clip is not None:
        x = d.add(f"{role}.limit", Clip(-clip, clip), x)

    def scaled(by: float, value: int, part: str) -> int:
        return value if by == 1 else d.add(f"{role}.{part}", Scale(np.asarray(by)), value)

    if a.name in ("tanh", "sigmoid", "softsign", "softplus"):
        return d.add(role, Function(a.name), x)
    if a.name == "scaledtanh":
        return scaled(a.alpha, d.add(role, Function("tanh"), scaled(a.beta, x, "inner")), "outer")
    if a.name == "elu":
        return d.add(role, Function("elu", (a.alpha,)), x)
    if a.name == "relu":
        return d.add(role, Clip(0.0, None), x)
    if a.name == "leakyrelu":
        return d.add(role, Leaky(np.asarray(a.alpha)), x)
    if a.name == "thresholdedrelu":
        limit, zero = (
            d.add(f"{role}.{part}", Constant(np.asarray(v))) for part, v in (("limit", a.alpha), ("zero", 0.0))
        )
        return d.add(role, Select(), d.add(f"{role}.above", Compare("less"), limit, x), x, zero)
    line = d.add(f"{role}.line", Offset(np.asarray(a.beta)), scaled(a.alpha, x, "slope"))
    return line if a.name == "affine" else d.add(role, Clip(0.0, 1.0), line)


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
        return [simple] * directions
    if c.node.op_type == "GRU":
        return [gru(bool(c.attribute("linear_before_reset", 0)))] * directions
    coupled = bool(c.attribute("input_forget", 0))
    if not c.given(7):
        return [lstm(None, coupled)] * directions
    peepholes = c.floats(7, "the peepholes").reshape(directions, 3, hidden)
    return [lstm(p, coupled) for p in peepholes]


def _append(c: Context) -> Callable[..., int]:
    return lambda op, *operands, suffix, group: c.add(op, *operands, suffix=suffix, group=group).index


def _activate(chosen: tuple[_Activation, ...], clip: float | None) -> Callable[[Direction, str, int, int], int]:
    return lambda d, role, k, x: _activated(chosen[k], clip, d, role, x)


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
        one = Direction(_append(c), _activate(activations[d], limit), label, x, inputs, *matrices, bias[d], hidden)
        outputs, state = unrolled(one, steps[d], [s[d] for s in states], time)
        rows.append(outputs)
        last.append(state)
    return _results(c, rows, last, layout, hidden)


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
