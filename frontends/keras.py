"""Reads Keras 2, Keras 3, QKeras and HGQ2 model files into a `RealModel`; no framework is needed, and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from .hgq import read_hgq
from .keras_attention import ATTENTION_LAYERS
from .keras_context import Layer, class_and_config
from .keras_files import MODELS, Weights, load_keras
from .keras_layers import BASIC_LAYERS
from .keras_operations import is_operation, read_operation
from .keras_recurrent import RECURRENT_LAYERS, recurrent_wrappers
from .keras_windows import WINDOW_LAYERS
from .real import Input, RealBuilder, RealModel

__all__ = ["LAYERS", "REFUSED", "read_keras"]

_PLAIN = {**BASIC_LAYERS, **WINDOW_LAYERS, **ATTENTION_LAYERS, **RECURRENT_LAYERS}

LAYERS: dict[str, Callable[[Layer], int | list[int]]] = {**_PLAIN, **recurrent_wrappers(_PLAIN)}
"""Every supported layer class and the function that reads it."""

REFUSED = {
    "Masking": "events would have lengths of their own; pad with numbers that the network ignores",
    "Lambda": "its function is code, which a file does not run; write it as layers or operations",
    "QAdaptiveActivation": "its integer bits follow moving averages of the data; use QActivation with the bits that it found",
}
"""Layer classes that are refused, why, and what to do."""

_MODULES = ("keras", "tf_keras", "tensorflow", "qkeras", "hgq", "builtins")
_MOST_LAYERS = 100_000
_MOST_DEPTH = 16
_MOST_VALUES = 1 << 24

Key = tuple[str, int]
"""A call of a layer: its name and which of its calls this is."""


def read_keras(source: str | Path, weights: str | Path | None = None) -> RealModel:
    """Read a Keras model: .h5 or .hdf5 with the model inside, .keras, or .json with its weights.

    `weights`: the weights of a .json file; by default NAME_weights.h5, NAME.weights.h5 or NAME.h5 beside it. The model may be
    Sequential or functional, with nested models, shared layers and several inputs and outputs. Raises `CompileError` for
    anything that is not understood, naming the layer.
    """
    file = load_keras(source, weights)
    config = file.config["config"]
    builder = RealBuilder(str(config.get("name", file.name)) if isinstance(config, dict) else file.name)
    work = _Work(builder, file.version)
    kind = file.config["class_name"]
    if kind not in MODELS:
        raise CompileError(file.where, f"must hold a Sequential or functional model, not '{kind}'", "rebuild it as one")
    named = work.model(kind, config, file.weights, None, "", 0)
    taken: list[tuple[str, int]] = []
    for name, index in named:
        clean = clean_name(name).replace(".", "_")
        same = sum(n == clean or n.startswith(f"{clean}_out") for n, _ in taken)
        taken.append((f"{clean}_out{same}" if same else clean, index))
    return builder.model(taken)


@dataclass(frozen=True)
class _Call:
    """One call of a layer: its operands as (layer, call, which result), other arguments, and, of an operation, all by position."""

    operands: tuple[tuple[str, int, int], ...]
    arguments: Mapping[str, Any]
    positional: tuple[Any, ...] = ()


@dataclass
class _Work:
    """The model under construction."""

    builder: RealBuilder
    version: int

    def model(
        self, kind: str, config: Any, weights: Weights, inputs: Sequence[int] | None, prefix: str, depth: int
    ) -> list[tuple[str, int]]:
        """The outputs of a model by name. Its inputs are nodes, or new inputs where `inputs` is None."""
        if isinstance(config, list):  # Sequential before Keras 2.2.3
            config = {"layers": config}
        if not isinstance(config, dict):
            raise CompileError(f"{prefix}{kind}", "a model's configuration must be an object", "save the model again")
        where = f"{prefix}{config.get('name', kind)} ({kind})"
        layers = config.get("layers")
        if not isinstance(layers, list) or not layers or len(layers) > _MOST_LAYERS:
            raise CompileError(where, f"must have 1 to {_MOST_LAYERS} layers")
        if depth > _MOST_DEPTH:
            raise CompileError(where, f"models may be nested {_MOST_DEPTH} deep", "simplify the model")
        kinds = [_checked(where, v) for v in layers]
        names = [_layer_name(v, c) for v, (_, c) in zip(layers, kinds)]
        if len(set(names)) != len(names):
            raise CompileError(where, "every layer must have a name of its own", "save the model again")
        stored = weights.of_layers([(n, k) for n, (k, _) in zip(names, kinds)])
        run = self._sequential if kind == "Sequential" else self._functional
        return run(where, config, list(zip(names, layers, stored)), inputs, prefix, depth)

    def _sequential(
        self,
        where: str,
        config: Any,
        layers: list[tuple[str, Any, Weights]],
        inputs: Sequence[int] | None,
        prefix: str,
        depth: int,
    ) -> list[tuple[str, int]]:
        name, first, _ = layers[0]
        if first["class_name"] == "InputLayer":
            layers = layers[1:]
        if inputs is None:
            shape = _batch_shape(first["config"] if isinstance(first["config"], dict) else {}) or config.get(
                "build_input_shape"
            )
            label = name if first["class_name"] == "InputLayer" else f"{name}_input"
            values = [self._input(label, shape, first["config"] if isinstance(first["config"], dict) else {})]
        else:
            values = list(inputs)
        for name, layer, weights in layers:
            values = self.layer(layer, name, weights, values, {}, prefix, depth)
        return [(name if k == 0 else f"{name}_{k}", v) for k, v in enumerate(values)]

    def _functional(
        self,
        where: str,
        config: Any,
        layers: list[tuple[str, Any, Weights]],
        inputs: Sequence[int] | None,
        prefix: str,
        depth: int,
    ) -> list[tuple[str, int]]:
        calls = {name: _calls(where, name, layer) for name, layer, _ in layers}
        sources = _references(where, config.get("input_layers"))
        results = _references(where, config.get("output_layers"))
        if any(isinstance(node, dict) for _, layer, _ in layers for node in layer.get("inbound_nodes") or []):
            kinds = {name: layer["class_name"] for name, layer, _ in layers}
            results = [
                (n, c - (kinds.get(n) in ("Functional", "Model")), w) for n, c, w in results
            ]  # Keras 3 counts from 1 here
            begin = dict.fromkeys(calls, 0)
        else:
            begin = _first_calls(calls, results)
        if inputs is not None and len(inputs) != len(sources):
            raise CompileError(where, f"takes {len(sources)} inputs, not {len(inputs)}")
        by_name = {name: (layer, weights) for name, layer, weights in layers}
        values: dict[Key, list[int]] = {}
        for k, (name, call, _) in enumerate(sources):
            if name not in by_name:
                raise CompileError(where, f"the input layer '{name}' is defined nowhere", "the file is damaged")
            layer_config = by_name[name][0]["config"]
            found = self._input(name, _batch_shape(layer_config), layer_config) if inputs is None else inputs[k]
            values[name, call] = [found]
        for name, k in _order(where, calls, begin, values):
            call = calls[name][k]
            operands = [_value(where, values, reference) for reference in call.operands]
            layer, weights = by_name[name]
            label = f"{prefix}{k}." if k else prefix
            arguments = {key: _resolved(where, values, v) for key, v in call.arguments.items()}
            positional = [_resolved(where, values, v) for v in call.positional]
            values[name, k + begin[name]] = self.layer(
                layer, name, weights, operands, arguments, label, depth, positional
            )
        return [(name, _value(where, values, (name, call, which))) for name, call, which in results]

    def _input(self, name: str, shape: Any, config: Mapping[str, Any]) -> int:
        where = f"input {name}"
        event = shape[1:] if isinstance(shape, list) else None
        if not event or not all(isinstance(n, int) and n > 0 for n in event) or len(event) > 7:
            raise CompileError(where, f"its shape must be fixed but for the batch axis, not {shape!r}", "fix the shape")
        size = 1
        for n in event:
            size *= n
        if size >= _MOST_VALUES:
            raise CompileError(where, f"at most 2**24 values per event, not {event}")
        whole = isinstance(config.get("dtype"), str) and config["dtype"].startswith(("int", "uint"))
        return self.builder.add(Input(tuple(event), whole), name=name)

    def layer(
        self,
        layer: Any,
        name: str,
        weights: Weights,
        inputs: list[int],
        arguments: Mapping[str, Any],
        prefix: str,
        depth: int,
        positional: Sequence[Any] = (),
    ) -> list[int]:
        """The results of one call of a layer or nested model."""
        kind = layer["class_name"].split(">")[-1]
        if kind in MODELS:
            config = layer.get("config")
            named = self.model(kind, config, weights, inputs, f"{prefix}{name}.", depth + 1)
            return [v for _, v in named]
        where = f"{prefix}{name} ({kind})"
        module = str(layer.get("module") or "keras")
        reader = _reader(module, kind)
        if kind in REFUSED:
            raise CompileError(where, f"the layer class is not supported: {REFUSED[kind]}")
        if reader is None or module.split(".", maxsplit=1)[0] not in _MODULES:
            origin = f" of {module}" if layer.get("module") else ""
            raise CompileError(
                where, f"the layer class{origin} is not supported", f"supported: {', '.join(sorted(LAYERS))}"
            )
        config = {**layer["config"], "name": name}
        context = Layer(self.builder, kind, config, weights, inputs, self.version, prefix, arguments)
        context.positional = list(positional)
        try:
            found = reader(context)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as e:
            raise CompileError(
                where, f"its configuration and weights do not fit each other ({e})", "save it again"
            ) from e
        context.finish()
        _check_arguments(context)
        return found if isinstance(found, list) else [found]


def _reader(module: str, kind: str) -> Callable[[Layer], int | list[int]] | None:
    """The function that reads a class of layers; the same names stand for others in HGQ2 and among operations."""
    if is_operation(module):
        return read_operation
    return read_hgq if module.split(".", maxsplit=1)[0] == "hgq" else LAYERS.get(kind)


def _check_arguments(c: Layer) -> None:
    """Arguments of a call that no reader took must say nothing."""
    for key, value in c.call.items():
        if not (value is None or (key == "training" and not value)):
            raise c.error(f"the call's argument '{key}' is not supported", "call the layer without it")


def _checked(where: str, layer: Any) -> tuple[str, Any]:
    """(class name, configuration) of a layer or nested model; refused where the file's structure is damaged."""
    if isinstance(layer, dict) and layer.get("class_name") in MODELS and isinstance(layer.get("config"), dict | list):
        return layer["class_name"], layer["config"]
    return class_and_config(where, layer)


def _layer_name(layer: Mapping[str, Any], config: Any) -> str:
    found = layer.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return str(found or layer.get("class_name"))


def _batch_shape(config: Mapping[str, Any]) -> Any:
    return config.get("batch_shape") or config.get("batch_input_shape")


# ---- the graph of calls -----------------------------------------------------------------------------------------------


def _calls(where: str, name: str, layer: Mapping[str, Any]) -> list[_Call]:
    """The calls of a layer, in the format of Keras 3 (args and kwargs) or Keras 2 (nested lists)."""
    nodes = layer.get("inbound_nodes") or []
    if not isinstance(nodes, list):
        raise CompileError(where, f"the inbound_nodes of '{name}' must be a list", "save the model again")
    free = is_operation(str(layer.get("module")))
    return [_call_of_version_3(where, n, free) if isinstance(n, dict) else _call_of_version_2(where, n) for n in nodes]


def _call_of_version_3(where: str, node: Mapping[str, Any], free: bool) -> _Call:
    """`free`: an operation, which takes numbers too."""
    operands: list[tuple[str, int, int]] = []
    arguments = dict(node.get("kwargs") or {})
    args = node.get("args") or []
    for k, value in enumerate(args):
        for part in value if isinstance(value, list) else [value]:
            reference = _history(part)
            if reference is None and not free and (k == 0 or part is not None):
                raise CompileError(where, f"a layer is called with {str(part)[:40]!r}, which is no tensor")
            if reference is not None:
                operands.append(reference)
    return _Call(tuple(operands), arguments, tuple(args) if free else ())


def _history(value: Any) -> tuple[str, int, int] | None:
    """(layer, call, which result) of a serialized tensor."""
    if not isinstance(value, dict) or value.get("class_name") != "__keras_tensor__":
        return None
    history = value.get("config", {}).get("keras_history")
    return _reference(history)


def _reference(value: Any) -> tuple[str, int, int] | None:
    if not isinstance(value, list | tuple) or len(value) < 3:
        return None
    name, call, which = value[0], value[1], value[2]
    if not isinstance(name, str) or not all(isinstance(v, int) and v >= 0 for v in (call, which)):
        return None
    return name, call, which


def _call_of_version_2(where: str, node: Any) -> _Call:
    parts = [node] if _reference(node) is not None else node
    if not isinstance(parts, list) or not parts:
        raise CompileError(where, "a layer's inbound node must list its inputs", "save the model again")
    operands: list[tuple[str, int, int]] = []
    arguments: dict[str, Any] = {}
    for part in parts:
        reference = _reference(part)
        if reference is None:
            raise CompileError(where, f"a layer is called with {str(part)[:40]!r}, which is no tensor")
        operands.append(reference)
        if len(part) > 3 and isinstance(part[3], dict):
            arguments.update(part[3])
    return _Call(tuple(operands), arguments)


def _references(where: str, value: Any) -> list[tuple[str, int, int]]:
    """The inputs or outputs of a model: one reference, a list or a dictionary of them."""
    if _reference(value) is not None:
        value = [value]
    if isinstance(value, dict):
        value = list(value.values())
    found = [_reference(v) for v in value] if isinstance(value, list) else []
    if not found or any(v is None for v in found):
        raise CompileError(where, "must list its input_layers and output_layers", "save the model again")
    return [v for v in found if v is not None]


def _tensors(value: Any) -> list[tuple[str, int, int]]:
    """Every tensor that a call's argument names."""
    reference = _history(value) or _reference(value)
    if reference is not None:
        return [reference]
    parts = value if isinstance(value, list) else []
    return [r for v in parts for r in _tensors(v)]


def _resolved(where: str, values: Mapping[Key, list[int]], value: Any) -> Any:
    """A call's argument with node indices, as ``("node", index)``, in place of tensors."""
    reference = _history(value) or _reference(value)
    if reference is not None:
        return ("node", _value(where, values, reference))
    return [_resolved(where, values, v) for v in value] if isinstance(value, list) else value


def _first_calls(calls: Mapping[str, list[_Call]], results: list[tuple[str, int, int]]) -> dict[str, int]:
    """The number of each layer's first call. Keras 2 counts the making of a nested model as its call 0."""
    highest = dict.fromkeys(calls, -1)
    references = [
        r
        for of in calls.values()
        for c in of
        for r in (*c.operands, *(t for v in c.arguments.values() for t in _tensors(v)))
    ]
    for name, call, _ in (*references, *results):
        highest[name] = max(highest.get(name, -1), call)
    return {name: int(bool(of) and highest[name] >= len(of)) for name, of in calls.items()}


def _order(
    where: str, calls: Mapping[str, list[_Call]], begin: Mapping[str, int], known: Mapping[Key, Any]
) -> list[tuple[str, int]]:
    """All calls (layer, k-th call in the file), each behind those that it needs."""
    sorter: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
    for name, of in calls.items():
        for k, call in enumerate(of):
            needed = [*call.operands, *(t for v in call.arguments.values() for t in _tensors(v))]
            before = [(n, c - begin.get(n, 0)) for n, c, _ in needed if (n, c) not in known]
            missing = [n for n, c in before if n not in calls or not 0 <= c < len(calls[n])]
            if missing:
                raise CompileError(
                    where, f"'{name}' needs the layer '{missing[0]}', which gives no such result", "save again"
                )
            sorter.add((name, k), *before)
    try:
        return list(sorter.static_order())
    except CycleError as e:
        raise CompileError(where, f"the layers {sorted({n for n, _ in e.args[1]})} need each other's results") from None


def _value(where: str, values: Mapping[Key, list[int]], reference: tuple[str, int, int]) -> int:
    name, call, which = reference
    found = values.get((name, call), [])
    if which >= len(found):
        raise CompileError(where, f"the layer '{name}' gives no result {which} in call {call}", "save the model again")
    return found[which]
