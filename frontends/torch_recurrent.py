"""RNN, LSTM and GRU of ATen: layers, directions and the order of gates, for the steps that the ONNX reader unrolls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .onnx_context import Ref
from .torch_context import Call, Known

__all__ = ["RECURRENT"]

_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's gates (i o f c; z r h) as torch numbers its own (i f g o; r z n)."""


def _gates(kind: str, k: Known) -> Known:
    """Rows in ONNX's order of gates, with the axis of directions in front."""
    import torch

    def turned(t: Any) -> Any:
        parts = t.chunk(len(_ORDER[kind]), 0)
        return torch.cat([parts[g] for g in _ORDER[kind]], 0)[None]

    return k.mapped(turned)


def _joined(parts: Sequence[Known], axis: int = 0) -> Known:
    """Constants behind each other; integers are kept where all have them."""
    import torch

    if any(p.ints is None for p in parts):
        return Known(torch.cat([p.tensor for p in parts], axis))
    scales = torch.cat([p.scale.expand(p.tensor.shape) for p in parts], axis)
    return Known(torch.cat([p.tensor for p in parts], axis), torch.cat([p.ints for p in parts], axis), scales)


def _weights(c: Call, kind: str, params: list[Known], biased: bool, directions: int) -> list[Any]:
    """W, R and B of one layer as ONNX has them."""
    each = 4 if biased else 2
    own = [params[d * each : (d + 1) * each] for d in range(directions)]
    w, r = (_joined([_gates(kind, p[k]) for p in own]) for k in (0, 1))
    if not biased:
        return [w, r, None]
    return [w, r, _joined([_joined([_gates(kind, p[2]), _gates(kind, p[3])], 1) for p in own])]


def _state(c: Call, state: Any, layer: int, directions: int, first: bool) -> Any:
    """The initial state of one layer, ``[directions, batch, hidden]``, or ``[batch, directions, hidden]`` if `first`."""
    begin, end = layer * directions, (layer + 1) * directions
    if isinstance(state, Known):
        own = state.tensor[begin:end]
        return Known(own.transpose(0, 1) if first else own)
    found = c.read("Slice", state, *(np.asarray([v]) for v in (begin, end, 0)), suffix=f".initial{layer}")
    return c.read("Transpose", found, suffix=f".initial{layer}.turned", perm=[1, 0, 2]) if first else found


def _recurrent(kind: str, activation: str = "") -> Callable[[Call], Any]:
    def read(c: Call) -> Any:
        x, first, both = c.data("input"), bool(c.plain("batch_first", False)), bool(c.plain("bidirectional", False))
        biased, layers, directions = bool(c.plain("has_biases")), c.plain("num_layers"), 1 + both
        c.ignore("dropout")
        if c.plain("train", False):
            raise c.error("must be exported for inference", "call module.eval() first")
        params = list(c.get("params"))
        if any(not isinstance(p, Known) for p in params):
            raise c.error("weights must be constant")
        each = directions * (4 if biased else 2)
        if len(params) != each * layers:
            raise c.error("projections (proj_size) are not supported", "use proj_size=0")
        given = c.get("hx")
        states = list(given) if isinstance(given, list | tuple) else [given]
        last: list[list[Ref]] = []
        for layer in range(layers):
            own = _weights(c, kind, params[layer * each : (layer + 1) * each], biased, directions)
            begin = [_state(c, s, layer, directions, first) for s in states]
            x, ends = _layer(
                c, kind, activation, x, own, begin, directions, first, f".layer{layer}" if layers > 1 else ""
            )
            last.append(ends)
        return [x, *(_ends(c, [e[k] for e in last], k) for k in range(len(states)))]

    return read


def _layer(
    c: Call,
    kind: str,
    activation: str,
    x: Ref,
    weights: list[Any],
    states: list[Any],
    directions: int,
    first: bool,
    suffix: str,
) -> tuple[Ref, list[Ref]]:
    """(sequence, last states ``[directions, batch, hidden]``) of one layer."""
    attributes: dict[str, Any] = {"layout": int(first), "direction": "bidirectional" if directions == 2 else "forward"}
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if activation:
        attributes["activations"] = [activation] * directions
    found = c.read(kind, x, *weights, None, *states, suffix=suffix, outputs=1 + len(states), **attributes)
    y, ends = found[0], found[1:]
    time, _, hidden = c.builder.nodes[y.index].shape
    if not first:
        y = c.read("Transpose", y, suffix=f"{suffix}.turned", perm=[0, 2, 1, 3])
    wanted = [-1, time, directions * hidden] if first else [time, -1, directions * hidden]
    y = c.read("Reshape", y, np.asarray(wanted), suffix=f"{suffix}.sequence")
    if first:
        ends = [c.read("Transpose", e, suffix=f"{suffix}.state{k}", perm=[1, 0, 2]) for k, e in enumerate(ends)]
    return y, list(ends)


def _ends(c: Call, ends: list[Ref], k: int) -> Ref:
    return ends[0] if len(ends) == 1 else c.read("Concat", *ends, suffix=f".last{k}", axis=0)


def _cell(kind: str, activation: str = "") -> Callable[[Call], Any]:
    """One step: a sequence of length 1."""

    def read(c: Call) -> Any:
        x = c.read("Unsqueeze", c.data("input"), np.asarray([0]), suffix=".sequence")
        names = ("w_ih", "w_hh", "b_ih", "b_hh") if c.get("b_ih") is not None else ("w_ih", "w_hh")
        weights = _weights(c, kind, [c.known(n, "weights") for n in names], len(names) == 4, 1)
        given = c.get("hx")
        states = [_with_direction(c, s, k) for k, s in enumerate(given if isinstance(given, list | tuple) else [given])]
        _, ends = _layer(c, kind, activation, x, weights, states, 1, False, ".step")
        found = [c.read("Squeeze", e, np.asarray([0]), suffix=f".state{k}") for k, e in enumerate(ends)]
        return found if kind == "LSTM" else found[0]

    return read


def _with_direction(c: Call, state: Any, k: int) -> Any:
    if isinstance(state, Known):
        return Known(state.tensor[None])
    return c.read("Unsqueeze", state, np.asarray([0]), suffix=f".initial{k}")


RECURRENT: dict[str, Callable[[Call], Any]] = {
    "aten.lstm.input": _recurrent("LSTM"),
    "aten.gru.input": _recurrent("GRU"),
    "aten.rnn_tanh.input": _recurrent("RNN"),
    "aten.rnn_relu.input": _recurrent("RNN", "Relu"),
    "aten.lstm_cell.default": _cell("LSTM"),
    "aten.gru_cell.default": _cell("GRU"),
    "aten.rnn_tanh_cell.default": _cell("RNN"),
    "aten.rnn_relu_cell.default": _cell("RNN", "Relu"),
}
"""Every recurrent operator and the function that reads it."""
