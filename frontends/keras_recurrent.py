"""Recurrent layers of Keras and QKeras, and the wrappers Bidirectional and TimeDistributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import Direction, State, Step, gru, lstm, simple, unrolled
from .keras_activations import ACTIVATION_LAYERS, activate
from .keras_context import Layer, Weight, class_and_config
from .keras_windows import quantized_variable
from .qkeras import quantize
from .real import Add, Concat, Float, Gather, Mul, RealOp, Reshape, Scale

__all__ = ["RECURRENT_LAYERS", "Stepped", "initial_states", "joined", "recurrent_wrappers", "settings"]

_GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}
_IGNORED = (
    "dropout", "recurrent_dropout", "unroll", "implementation", "unit_forget_bias", "seed", "use_cudnn", "cell",
    "zero_output_for_mask",
)  # fmt: skip
"""How a layer trains and how the framework runs it, which changes no number."""


class Stepped(Layer):
    """A layer whose ops are named after a step and grouped by their role in it."""

    def __init__(self, c: Layer, d: Direction, role: str) -> None:
        self.__dict__.update(c.__dict__)
        self.d, self.role = d, role

    def add(self, op: RealOp, *operands: int, suffix: str = "", group: str = "") -> int:
        return self.d.add(f"{self.role}{suffix}", op, *operands)


@dataclass(frozen=True)
class _Outputs:
    """h of each time in the order of time, and the last state."""

    rows: list[int]
    last: State


def _columns(kind: str, weight: Weight, hidden: int) -> Weight:
    """The gates in the order of `cells`: an LSTM of Keras has input, forget, cell, output."""
    if kind != "LSTM":
        return weight
    order = np.arange(4 * hidden).reshape(4, hidden)[[0, 3, 1, 2]].reshape(-1)
    return weight.mapped(lambda a: a[..., order])


def _bias(c: Layer, kind: str, values: Float | None, hidden: int, twice: bool) -> Float:
    """``[2, gates, hidden]``: of the inputs and of the state; only a GRU that resets behind its product has the second."""
    gates = _GATES[kind]
    found = np.zeros((2, gates, hidden))
    if values is None:
        c.ignore("bias_quantizer")
        return found
    shape = (2, gates * hidden) if twice else (gates * hidden,)
    weight = quantized_variable(c, "bias_quantizer", c.shaped("bias", values, shape))
    found[: 2 if twice else 1] = _columns(kind, weight, hidden).values.reshape(-1, gates, hidden)
    return found


def _activate(c: Layer, kind: str) -> Callable[[Direction, str, int, int], int]:
    """Activation 0 of an LSTM or GRU is that of its gates."""
    quantized = c.kind.startswith("Q")
    outer = c.get("activation", "tanh")
    gates = outer if kind == "SimpleRNN" else c.get("recurrent_activation", "sigmoid")

    def apply(d: Direction, role: str, k: int, x: int) -> int:
        return activate(Stepped(c, d, role), gates if k == 0 else outer, x, quantized=quantized)

    return apply


def _prepare(c: Layer) -> Callable[[Direction, str, int], int] | None:
    spec = c.get("state_quantizer") if c.kind.startswith("Q") else None
    if spec is None:
        return None
    return lambda d, role, x: quantize(Stepped(c, d, role), spec, x)


def _direction(c: Layer, label: str) -> tuple[Direction, Step, int]:
    """(a layer's direction, its step, the number of states)."""
    kind = c.kind.removeprefix("Q")
    hidden, use_bias = c.whole("units"), c.flag("use_bias", True)
    after = kind == "GRU" and c.flag("reset_after", c.version == 3)
    x, shape = c.inputs[0], c.shape(c.inputs[0])
    if len(shape) != 2:
        raise c.error(f"the input must be a sequence [time, features], not shape {list(shape)}")
    weights = c.inside(c.kind, c.values, c.weights.child("cell"), c.inputs)
    kernel, state, *bias = weights.variables("kernel", "recurrent_kernel", *(["bias"] if use_bias else []))
    gates = _GATES[kind]
    c.shaped("kernel", kernel, (shape[1], gates * hidden))
    c.shaped("recurrent_kernel", state, (hidden, gates * hidden))
    if c.kind == "QGRU" and c.get("recurrent_quantizer") is None:
        raise c.error("recurrent_quantizer must be given: without it QKeras multiplies the state by the input's kernel")
    w = _columns(kind, quantized_variable(c, "kernel_quantizer", kernel, True), hidden)
    r = _columns(kind, quantized_variable(c, "recurrent_quantizer", state, True), hidden)
    parts = (slice(None),) if kind != "GRU" else (slice(0, 2 * hidden), slice(2 * hidden, None))
    matrices = tuple(r.mapped(lambda a, s=s: a[:, s]).matrix() for s in parts)
    found = _bias(c, kind, bias[0] if bias else None, hidden, after)
    d = Direction(c.add, _activate(c, kind), label, x, shape[1], w.matrix(), matrices, found, hidden, _prepare(c))
    step = {"SimpleRNN": simple, "LSTM": lstm(), "GRU": gru(after)}[kind]
    return d, step, 2 if kind == "LSTM" else 1


def settings(c: Layer) -> tuple[bool, bool]:
    """(return_sequences, return_state), with everything refused that carries state between events."""
    for key in ("stateful", "time_major"):
        c.must_be(key, False)
    c.ignore(*_IGNORED)
    return c.flag("return_sequences", False), c.flag("return_state", False)


def _run(c: Layer, backward: bool, initial: list[int]) -> _Outputs:
    d, step, states = _direction(c, "reverse" if backward else "forward")
    if len(initial) not in (0, states):
        raise c.error(f"takes {states} initial states, not {len(initial)}")
    begin = initial or [np.zeros(d.hidden)] * states
    rows, last = unrolled(d, step, begin, c.shape(c.inputs[0])[0])
    return _Outputs(rows, last)


def initial_states(c: Layer) -> list[int]:
    given = c.call.pop("initial_state", None)
    parts = given if isinstance(given, list) else [] if given is None else [given]
    return [*c.inputs[1:], *(p[1] for p in parts if isinstance(p, tuple))]


def joined(c: Layer, rows: list[int], hidden: int, suffix: str) -> int:
    """``[time, hidden]`` of the rows."""
    flat = c.add(Concat(0), *rows, suffix=f"{suffix}.joined") if len(rows) > 1 else rows[0]
    return c.add(Reshape((len(rows), hidden)), flat, suffix=suffix)


def _recurrent(c: Layer) -> list[int]:
    sequences, states = settings(c)
    backward = c.flag("go_backwards", False)
    found = _run(c, backward, initial_states(c))
    rows = found.rows[::-1] if backward else found.rows  # the order in which they are computed
    y = joined(c, rows, c.whole("units"), "") if sequences else found.last[0]
    return [y, *found.last] if states else [y]


def _wrapped(c: Layer) -> tuple[str, Any]:
    """(class, configuration) of the layer that a wrapper holds; a layer of HGQ2 has names that others have too."""
    spec = c.get("layer")
    kind, config = class_and_config(c.where, spec)
    if str(spec.get("module")).split(".", maxsplit=1)[0] == "hgq":
        raise c.error(f"its layer {kind} is one of HGQ2", "use it without the wrapper")
    return kind.split(">")[-1], config


def _bidirectional(c: Layer) -> list[int]:
    """The layer forward and another one like it backward; the results of both are in the order of time."""
    kind, config = _wrapped(c)
    if kind.removeprefix("Q") not in _GATES:
        raise c.error(f"its layer must be SimpleRNN, LSTM or GRU, not {kind}")
    other = c.get("backward_layer")
    configs = {"forward": config, "backward": config if other is None else class_and_config(c.where, other)[1]}
    mode, initial = c.get("merge_mode", "concat"), initial_states(c)
    pairs: list[list[int]] = []
    for k, (side, values) in enumerate(configs.items()):
        stored = c.weights.child(f"{side}_layer", f"{side}_", str(values.get("name")))
        layer = c.inside(kind, values, stored, c.inputs[:1])
        sequences, states = settings(layer)
        if layer.flag("go_backwards", side == "backward") and side == "forward":
            raise c.error("the forward layer must not go backwards")
        half = len(initial) // 2
        found = _run(layer, side == "backward", initial[k * half : (k + 1) * half])
        layer.finish()
        y = joined(layer, found.rows, layer.whole("units"), ".sequence") if sequences else found.last[0]
        pairs.append([y, *(found.last if states else ())])
    (a, *first), (b, *second) = pairs
    if mode is None:
        return [a, b, *first, *second]
    return [_merged(c, mode, a, b), *first, *second]


def _merged(c: Layer, mode: Any, a: int, b: int) -> int:
    ops: Mapping[str, RealOp] = {"concat": Concat(len(c.shape(a)) - 1), "sum": Add(), "mul": Mul(), "ave": Add()}
    if mode not in ops:
        raise c.error(f"merge_mode must be {', '.join(ops)} or null, not {mode!r}")
    y = c.add(ops[mode], a, b, suffix=".sum" if mode == "ave" else "")
    return c.add(Scale(np.asarray(0.5)), y) if mode == "ave" else y


_POINTWISE = (
    "Dense",
    "QDense",
    "Activation",
    "QActivation",
    "Dropout",
    *(k for k in ACTIVATION_LAYERS if k != "Softmax"),
)
"""Layers that treat every time alike without being told."""


def _time_distributed(readers: Mapping[str, Callable[[Layer], int | list[int]]]) -> Callable[[Layer], int]:
    """A layer on each element of the first axis."""

    def read(c: Layer) -> int:
        (kind, config), x = _wrapped(c), c.x
        if kind not in readers:
            raise c.error(f"its layer '{kind}' is not supported", f"supported: {', '.join(sorted(readers))}")
        shape, stored = c.shape(x), c.weights.child("layer", str(config.get("name")))
        flat = np.arange(int(np.prod(shape))).reshape(shape)
        if kind in _POINTWISE:
            return _inner(c, readers[kind], kind, config, stored, x, "")
        results: list[int] = []
        for t in range(shape[0]):
            part = c.add(Gather(flat[t].copy()), x, suffix=f".{t}.input")
            y = _inner(c, readers[kind], kind, config, stored, part, f"{t}.")
            results.append(c.add(Reshape((1, *c.shape(y))), y, suffix=f".{t}.row"))
        return c.add(Concat(0), *results) if len(results) > 1 else results[0]

    return read


def _inner(
    c: Layer, reader: Callable[[Layer], int | list[int]], kind: str, config: Any, stored: Any, x: int, label: str
) -> int:
    layer = Layer(c.builder, kind, config, stored, [x], c.version, f"{c.name}.{label}")
    found = reader(layer)
    layer.finish()
    if isinstance(found, list):
        if len(found) != 1:
            raise c.error("its layer must have one result")
        return found[0]
    return found


RECURRENT_LAYERS: dict[str, Callable[[Layer], int | list[int]]] = {
    **{f"{q}{kind}": _recurrent for q in ("", "Q") for kind in _GATES},
    "Bidirectional": _bidirectional,
    "QBidirectional": _bidirectional,
}


def recurrent_wrappers(
    readers: Mapping[str, Callable[[Layer], int | list[int]]],
) -> dict[str, Callable[[Layer], int | list[int]]]:
    """TimeDistributed, around any of the given layers."""
    return {"TimeDistributed": _time_distributed(readers)}
