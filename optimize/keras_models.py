"""Float models of Keras as torch modules with the same weights and outputs; knows Keras's objects, and imports no Keras.

A graph of layers becomes a `torch.fx.GraphModule` with the layers' names. Images and sequences keep Keras's order of axes at
the inputs and outputs, and have their channels first between convolutions.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir.errors import CompileError

__all__ = ["from_keras"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU,
    "elu": nn.ELU, "selu": nn.SELU, "softplus": nn.Softplus, "softsign": nn.Softsign, "gelu": nn.GELU, "mish": nn.Mish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2), "softmax": lambda: nn.Softmax(-1), "log_sigmoid": nn.LogSigmoid,
}  # fmt: skip
"""Keras's names, with its own default parameters."""

_FINAL = (nn.Softmax, nn.Sigmoid)


def from_keras(model: Any, logits: bool = False) -> fx.GraphModule:
    """A float Keras 3 model, on any of its backends, as a torch module with a copy of its weights, in eval mode.

    `logits`: leave out a softmax or sigmoid at the end, as the losses of `Task` expect.
    Dense, Conv1D, Conv2D, BatchNormalization, Activation, ReLU, LeakyReLU, Softmax, pooling, Flatten, Reshape, Dropout, Add and
    Concatenate, in Sequential and functional models with one output.
    Raises `CompileError` for other layers and options by name, and for models that are not built.
    """
    name = str(getattr(model, "name", type(model).__name__))
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise CompileError(name, "must be a Sequential or functional model that is built", "give it an Input")
    if len(outputs) != 1:
        raise CompileError(name, f"must have one output, not {len(outputs)}", "give one model for each")
    reader = _Reader()
    for tensor in inputs:
        reader.values[id(tensor)] = (reader.graph.placeholder(_plain(tensor.name)), False)
    for node in _ordered(outputs[0], set(reader.values)):
        reader.read(node)
    found = reader.last(*reader.values[id(outputs[0])])
    if logits and isinstance(reader.parts.get(str(found.target)), _FINAL):
        found = found.args[0]
    reader.graph.output(found)
    module = fx.GraphModule(reader.parts, reader.graph, "KerasModel")
    module.graph.eliminate_dead_code()
    module.recompile()
    module.delete_all_unused_submodules()
    return module.eval()


def _ordered(output: Any, known: set[int]) -> list[Any]:
    """Keras's nodes that make the output, operands first."""
    found: dict[int, Any] = {}
    waiting = [output]
    while waiting:
        tensor = waiting[-1]
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        missing = [t for t in node.input_tensors if id(t) not in known]
        if id(tensor) in known or not missing:
            known.update(id(t) for t in node.output_tensors)
            if node.input_tensors:
                found.setdefault(id(node), node)
            waiting.pop()
        else:
            waiting.extend(missing)
    return list(found.values())


class _Reader:
    """Keras's nodes into a graph of torch. A value is (node, whether its channels come first)."""

    def __init__(self) -> None:
        self.graph, self.parts = fx.Graph(), dict[str, nn.Module]()
        self.values: dict[int, tuple[fx.Node, bool]] = {}

    def read(self, node: Any) -> None:
        layer, kind = node.operation, type(node.operation).__name__
        where = f"{layer.name} ({kind})"
        operands = [self.values[id(t)] for t in node.input_tensors]
        shape = tuple(node.input_tensors[0].shape[1:])
        options = layer.get_config()
        if options.get("data_format", "channels_last") != "channels_last":
            raise CompileError(where, "must have data_format channels_last", "build the model so")
        if kind in _JOINED:
            value = self._joined(where, node, [self.last(*v) for v in operands]), False
        elif kind in _CHANNELS and len(shape) > 1:
            value = (
                self._chain(layer.name, _CHANNELS[kind](where, layer, options, shape), self._first(*operands[0])),
                True,
            )
        elif kind in _ANY or kind == "BatchNormalization":
            read = _ANY.get(kind) or _normalization
            value = self._chain(layer.name, read(where, layer, options, shape), self.last(*operands[0])), False
        else:
            known = ", ".join(sorted({*_JOINED, *_CHANNELS, *_ANY}))
            raise CompileError(where, "has no torch module here", f"known are {known}")
        value = self._activated(where, layer, value) if kind in _ACTIVATED else value
        self.values[id(node.output_tensors[0])] = value

    def _chain(self, name: str, parts: list[nn.Module], node: fx.Node) -> fx.Node:
        """Modules one after the other; the last has the layer's name, and one layer called twice stays one module."""
        name = _plain(name)
        for k, part in enumerate(parts):
            own = name if k == len(parts) - 1 else f"{name}_{k}"
            self.parts.setdefault(own, part)
            node = self.graph.call_module(own, (node,))
        return node

    def _activated(self, where: str, layer: Any, value: tuple[fx.Node, bool]) -> tuple[fx.Node, bool]:
        """The activation, elementwise in any order of axes; softmax along the channels."""
        name = getattr(layer.activation, "__name__", str(layer.activation))
        if name not in _ACTIVATIONS:
            raise CompileError(where, f"activation must be one of {', '.join(_ACTIVATIONS)}, not {name}")
        node, first = (self.last(*value), False) if name == "softmax" else value
        return (
            (node, first)
            if name == "linear"
            else (self._chain(f"{layer.name}_{name}", [_ACTIVATIONS[name]()], node), first)
        )

    def _joined(self, where: str, node: Any, nodes: list[fx.Node]) -> fx.Node:
        """Concatenated, or added."""
        if type(node.operation).__name__ == "Concatenate":
            return self.graph.call_function(torch.cat, (nodes, node.operation.axis))
        if len({len(t.shape) for t in node.input_tensors}) > 1:
            raise CompileError(where, "must add tensors with as many axes as each other", "reshape them before")
        return functools.reduce(lambda a, b: self.graph.call_function(torch.add, (a, b)), nodes)

    def _first(self, node: fx.Node, first: bool) -> fx.Node:
        return node if first else self.graph.call_module(self._move(True), (node,))

    def last(self, node: fx.Node, first: bool) -> fx.Node:
        """The value with its channels last."""
        return self.graph.call_module(self._move(False), (node,)) if first else node

    def _move(self, first: bool) -> str:
        name = "channels_first" if first else "channels_last"
        self.parts.setdefault(name, ChannelsFirst() if first else ChannelsLast())
        return name


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


class ChannelsFirst(nn.Module):
    """``[events, ..., channels] -> [events, channels, ...]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


class ChannelsLast(nn.Module):
    """``[events, channels, ...] -> [events, ..., channels]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


# ---- layers: (name, layer, options, shape of an event) -> modules -----------------------------------------------------


def _weights(layer: Any) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras's own arrays on torch
        return [torch.as_tensor(w).clone() for w in layer.get_weights()]


def _copied(where: str, module: Any, layer: Any, kernel: Callable[[Tensor], Tensor]) -> Any:
    weights = _weights(layer)
    if len(weights) != 1 + layer.use_bias:
        raise CompileError(where, "must have a kernel, and a bias at most", "merge or remove what else it has")
    with torch.no_grad():
        module.weight.copy_(kernel(weights[0]))
        if layer.use_bias:
            module.bias.copy_(weights[1])
    return module


def _dense(where: str, layer: Any, options: dict[str, Any], shape: tuple[int, ...]) -> list[nn.Module]:
    made = nn.Linear(shape[-1], options["units"], options["use_bias"])
    return [_copied(where, made, layer, lambda w: w.T)]


def _convolution(where: str, layer: Any, options: dict[str, Any], shape: tuple[int, ...]) -> list[nn.Module]:
    size, stride, spread = (tuple(options[k]) for k in ("kernel_size", "strides", "dilation_rate"))
    if options["padding"] not in ("valid", "same"):
        raise CompileError(where, f"padding must be valid or same, not {options['padding']}")
    pads = [(0, 0)] * len(size)
    if options["padding"] == "same":
        needed = [(math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n for n, k, s, d in zip(shape, size, stride, spread)]
        pads = [(max(n, 0) // 2, max(n, 0) - max(n, 0) // 2) for n in needed]
    even = all(a == b for a, b in pads)
    kind: Any = (nn.Conv1d, nn.Conv2d)[len(size) - 1]
    pad = tuple(a for a, _ in pads) if even else 0
    made = kind(shape[-1], options["filters"], size, stride, pad, spread, options["groups"], options["use_bias"])
    made = _copied(where, made, layer, lambda w: w.movedim((-1, -2), (0, 1)))
    before: Any = (nn.ZeroPad1d, nn.ZeroPad2d)[len(size) - 1]
    return [made] if even else [before(tuple(n for p in reversed(pads) for n in p)), made]


def _normalization(where: str, layer: Any, options: dict[str, Any], shape: tuple[int, ...]) -> list[nn.Module]:
    if options["axis"] not in (-1, len(shape), [-1], [len(shape)]):
        raise CompileError(where, f"axis must be the last, not {options['axis']}")
    made: Any = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(
        shape[-1], options["epsilon"], 1 - options["momentum"]
    )
    given = _weights(layer)
    names = ["weight"] * options["scale"] + ["bias"] * options["center"] + ["running_mean", "running_var"]
    with torch.no_grad():
        for name, values in zip(names, given, strict=True):
            getattr(made, name).copy_(values)
    return [made]


def _pooling(kind: Any, whole: bool = False) -> Callable[..., list[nn.Module]]:
    def read(where: str, layer: Any, options: dict[str, Any], shape: tuple[int, ...]) -> list[nn.Module]:
        if not whole and options["padding"] != "valid":
            raise CompileError(where, "padding must be valid", "pad before it, or choose sizes that divide")
        size = shape[:-1] if whole else tuple(options["pool_size"])
        made = kind[len(size) - 1](size, size if whole else tuple(options["strides"]))
        return [made, nn.Flatten()] if whole and not options["keepdims"] else [made]

    return read


_MAX, _MEAN = (nn.MaxPool1d, nn.MaxPool2d), (nn.AvgPool1d, nn.AvgPool2d)

_CHANNELS: dict[str, Callable[..., list[nn.Module]]] = {
    "Conv1D": _convolution, "Conv2D": _convolution, "BatchNormalization": _normalization,
    "MaxPooling1D": _pooling(_MAX), "MaxPooling2D": _pooling(_MAX), "AveragePooling1D": _pooling(_MEAN),
    "AveragePooling2D": _pooling(_MEAN), "GlobalMaxPooling1D": _pooling(_MAX, True), "GlobalMaxPooling2D": _pooling(_MAX, True),
    "GlobalAveragePooling1D": _pooling(_MEAN, True), "GlobalAveragePooling2D": _pooling(_MEAN, True),
}  # fmt: skip
"""Layers that have channels first in torch."""

_ANY: dict[str, Callable[..., list[nn.Module]]] = {
    "Dense": _dense,
    "Activation": lambda where, layer, options, shape: [nn.Identity()],
    "ReLU": lambda where, layer, options, shape: _relu(where, options),
    "LeakyReLU": lambda where, layer, options, shape: [nn.LeakyReLU(options["negative_slope"])],
    "Softmax": lambda where, layer, options, shape: [nn.Softmax(options["axis"])],
    "Flatten": lambda where, layer, options, shape: [nn.Flatten()],
    "Reshape": lambda where, layer, options, shape: [nn.Flatten(), nn.Unflatten(1, tuple(layer.target_shape))],
    "Dropout": lambda where, layer, options, shape: [nn.Dropout(options["rate"])],
}
"""Layers that have channels last in torch, or do not care."""

_JOINED = ("Add", "Concatenate")
_ACTIVATED = ("Dense", "Conv1D", "Conv2D", "Activation")


def _relu(where: str, options: dict[str, Any]) -> list[nn.Module]:
    top, slope, threshold = (options[k] for k in ("max_value", "negative_slope", "threshold"))
    if threshold or (top is not None and slope):
        raise CompileError(where, "must have no threshold, and no max_value with a slope", "use another activation")
    return [nn.Hardtanh(0.0, float(top)) if top is not None else nn.LeakyReLU(slope) if slope else nn.ReLU()]
