"""hls4ml's configuration (a dictionary or its YAML file) put on a model: types, tables, reuse and strategy of each layer.

Every key is honoured or refused by name. A type is an assignment as ap_fixed makes it. "auto" is what hls4ml makes of it: what the
model's own quantizers say stays, sums are exact, and inputs, float weights and activations without a quantizer behind them have
the model's default type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from ..ir.ops import Window
from . import real
from .hls4ml_arithmetic import Cell, product_sum
from .hls4ml_tables import activation, is_table, softmax
from .inputs import has_quantizer
from .lazy import exact_weight_bits
from .precision import Precision, parse_precision
from .real import RealBuilder, RealModel, RealNode

__all__ = ["Configuration", "Matrix", "configured", "read_configuration"]

_FILES = (
    "Backend", "ProjectName", "OutputDir", "KerasH5", "KerasJson", "KerasModel", "OnnxModel", "PytorchModel", "InputData",
    "OutputPredictions", "Version", "Stamp", "WriterConfig", "XilinxPart", "InputShape", "ProjectDir",
)  # fmt: skip
"""Top-level keys about hls4ml's own files: the model and the output folder are given to hwcompile."""

_FIXED: dict[str, tuple[Any, str]] = {
    "BramFactor": (1_000_000_000, "memories are chosen from the reuse factor"),
    "TraceOutput": (False, "compare engines with 'hwcompile verify'"),
    "Trace": (False, "compare engines with 'hwcompile verify'"),
    "ConvImplementation": ("LineBuffer", "streams have line buffers"),
    "ParallelizationFactor": (1, "the reuse factor decides"),
    "Skip": (False, "remove the layer from the model"),
    "Compression": (False, "zero weights cost nothing"),
}
"""Keys with the one value that changes nothing here, and why there is no other."""

_STRATEGIES = {
    "latency": "latency",
    "resource": "resource",
    "unrolled": "resource",
    "distributed_arithmetic": "distributed",
}
_LAYER_KEYS = ("Precision", "ReuseFactor", "Strategy", "TableSize", "Implementation", *_FIXED)
_MODEL_KEYS = ("Precision", "ReuseFactor", "Strategy", "BramFactor", "TraceOutput", "Compression")
_VARIABLES = (
    "result", "weight", "bias", "accum", "scale", "table", "exp_table", "inv_table", "inv_inp", "param", "default", "inp_norm",
    "depthwise", "pointwise",
)  # fmt: skip
_SOFTMAX: dict[str, str] = dict.fromkeys(("exp_table", "inv_table", "inv_inp", "accum"), "fixed<18,8,RND,SAT>")
_ACTIVATIONS = (
    "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "ThresholdedReLU", "Relu", "LeakyRelu", "Sigmoid", "Tanh",
)  # fmt: skip
"""Layers whose result hls4ml gives the default type."""
_KEEP_TYPE = (real.Reshape, real.Transpose, real.Gather, real.Clip, Window)


@dataclass(frozen=True)
class _Settings:
    """What one entry says: types by variable, and the rest by key."""

    types: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """A checked configuration. `part`, `clock_ns` and `architecture` are None where it does not say."""

    model: _Settings
    by_type: Mapping[str, _Settings]
    by_name: Mapping[str, _Settings]
    part: str | None = None
    clock_ns: float | None = None
    architecture: str | None = None

    def found(self, name: str, kind: str) -> list[_Settings]:
        """What holds for a layer, the closest first."""
        named = self.by_name.get(name) or self.by_name.get(
            f"{name}_0"
        )  # as hls4ml calls what it reads by older handlers
        own = (named, self.by_type.get(kind))
        return [s for s in (*own, self.model) if s is not None]

    def type(self, name: str, kind: str, variable: str) -> str:
        """The written type of a variable, or "auto"."""
        for s in self.found(name, kind):
            text = s.types.get(variable, s.types.get("default"))
            if text is not None:
                return text
        return "fixed<16,6>"

    def value(self, name: str, kind: str, key: str, default: Any) -> Any:
        return next((s.values[key] for s in self.found(name, kind) if key in s.values), default)

    @property
    def default(self) -> Precision:
        return parse_precision(self.model.types.get("default", "fixed<16,6>"), "hls4ml configuration, Model")


@dataclass(frozen=True)
class Matrix:
    """How the matrix of a layer is to be scheduled."""

    strategy: str
    reuse: int


def read_configuration(source: Mapping[str, Any] | str | Path) -> Configuration:
    """A configuration dictionary as hls4ml's converters take it, the inner part of one, or a YAML file.

    Raises `CompileError` naming the first key that is not known or cannot be honoured.
    """
    where = "hls4ml configuration"
    given = _yaml(source) if isinstance(source, str | Path) else source
    if not isinstance(given, Mapping):
        raise CompileError(where, "must be a dictionary with 'Model' or 'HLSConfig'")
    inner = given.get("HLSConfig", given)
    outer = given if "HLSConfig" in given else {}
    known = ("Model", "LayerType", "LayerName")
    honoured = ("HLSConfig", "Part", "ClockPeriod", "ClockUncertainty", "IOType")
    _refuse_unknown(where, outer, (*honoured, *_FILES))
    _refuse_unknown(where, inner, (*known, "Optimizers", "SkipOptimizers") if outer else known)
    for key in ("Optimizers", "SkipOptimizers"):
        if inner.get(key):
            raise CompileError(where, f"'{key}' chooses passes of hls4ml, which are not run here", "leave it out")
    if outer.get("ClockUncertainty") not in (None, "27%", "12.5%"):
        raise CompileError(where, "'ClockUncertainty' belongs to the device's model", "give a shorter ClockPeriod")
    kinds = {"io_parallel": "parallel", "io_stream": "stream", None: None}
    io = outer.get("IOType")
    if not isinstance(io, str | None) or io not in kinds:
        raise CompileError(where, f"'IOType' must be io_parallel or io_stream, not {io!r}")
    return Configuration(
        _settings(f"{where}, Model", inner.get("Model") or {}, _MODEL_KEYS),
        _layers(where, inner, "LayerType"),
        _layers(where, inner, "LayerName"),
        _part(where, outer.get("Part") or outer.get("XilinxPart")),
        _clock(where, outer.get("ClockPeriod")),
        kinds[io],
    )


def _layers(where: str, inner: Mapping[str, Any], key: str) -> dict[str, _Settings]:
    """The settings by name or kind of layer."""
    given = inner.get(key) or {}
    if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
        raise CompileError(where, f"'{key}' must be a dictionary by names, not {str(given)[:40]!r}")
    return {k: _settings(f"{where}, {k}", v, _LAYER_KEYS) for k, v in given.items()}


def _part(where: str, part: Any) -> str | None:
    if not isinstance(part, str | None):
        raise CompileError(where, f"'Part' must be a part number, not {part!r}")
    return part


def _clock(where: str, given: Any) -> float | None:
    """The clock period in ns; YAML may hold it as text."""
    try:
        return None if given is None else float(given)
    except (TypeError, ValueError, OverflowError):
        raise CompileError(where, f"'ClockPeriod' must be a number of ns, not {given!r}") from None


def _yaml(path: str | Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise CompileError(str(path), "a YAML file needs PyYAML", "pip install pyyaml, or give a dictionary") from None
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as e:
        raise CompileError(str(path), f"cannot be read: {e}", "check the path") from None
    except (yaml.YAMLError, RecursionError) as e:
        raise CompileError(
            str(path), f"is no plain YAML file ({str(e).splitlines()[0]})", "write types as text"
        ) from None


def _refuse_unknown(where: str, given: Any, known: tuple[str, ...]) -> None:
    if not isinstance(given, Mapping):
        raise CompileError(where, f"must be a dictionary, not {str(given)[:40]!r}")
    unknown = [k for k in given if k not in known]
    if unknown:
        raise CompileError(where, f"the key '{unknown[0]}' is not known", f"known here: {', '.join(known)}")


def _settings(where: str, given: Any, known: tuple[str, ...]) -> _Settings:
    _refuse_unknown(where, given, known)
    for key, (value, why) in _FIXED.items():
        if key in given and str(given[key]).lower() != str(value).lower():
            raise CompileError(where, f"'{key}' must be {value}: {why}", "leave it out")
    precision = given.get("Precision", {})
    types = {"default": precision} if isinstance(precision, str) else precision
    _refuse_unknown(f"{where}, Precision", types, _VARIABLES)
    for variable, text in types.items():
        if text != "auto":
            parse_precision(text, f"{where}, Precision, {variable}")
    values = {k: v for k, v in given.items() if k != "Precision" and k not in _FIXED}
    for key in ("ReuseFactor", "TableSize"):
        if key in values and (not isinstance(values[key], int) or isinstance(values[key], bool) or values[key] < 1):
            raise CompileError(where, f"'{key}' must be a whole number from 1, not {values[key]!r}")
    if str(values.get("Strategy", "latency")).lower() not in _STRATEGIES:
        rule = f"the strategy '{values['Strategy']}' is not known"
        raise CompileError(where, rule, "known: Latency, Resource, Unrolled, distributed_arithmetic")
    return _Settings({k: str(v) for k, v in types.items()}, values)


# ---- on a model ---------------------------------------------------------------------------------------------------------


def configured(model: RealModel, configuration: Configuration) -> tuple[RealModel, dict[str, Matrix]]:
    """The model with the types of the configuration, and how each matrix is to be scheduled, by node name."""
    work = _Work(model, configuration, RealBuilder(model.name))
    work.check_names()
    for i, node in enumerate(model.nodes):
        work.place(i, node)
    made = work.builder.model([(name, work.new[i]) for name, i in model.outputs])
    return made, work.matrices


@dataclass
class _Work:
    model: RealModel
    configuration: Configuration
    builder: RealBuilder
    new: dict[int, int] = field(default_factory=dict)
    types: dict[int, Precision | None] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    typed: dict[int, Precision] = field(default_factory=dict)

    @cached_property
    def _ends(self) -> dict[str, int]:
        """The last node of each layer."""
        return {self.key(n): i for i, n in enumerate(self.model.nodes)}

    @cached_property
    def _users(self) -> list[list[real.RealOp]]:
        """What reads each node."""
        found: list[list[real.RealOp]] = [[] for _ in self.model.nodes]
        for n in self.model.nodes:
            for j in dict.fromkeys(n.operands):
                found[j].append(n.op)
        return found

    def check_names(self) -> None:
        """Refuse entries about layers that the model does not have."""
        known = {self.key(n) for n in self.model.nodes} | {n.layer[0] for n in self.model.nodes}
        linear = {f"{n.layer[0]}_linear" for n in self.model.nodes}
        for name in self.configuration.by_name:
            if name not in known | linear and name.removesuffix("_0") not in known:
                shown = ", ".join(sorted(k for k in known if k))
                raise CompileError(f"hls4ml configuration, {name}", "the model has no such layer", f"layers: {shown}")
        kinds = {self.kind(n) for n in self.model.nodes}
        unknown = [k for k in self.configuration.by_type if k not in kinds]
        if unknown:
            where = f"hls4ml configuration, {unknown[0]}"
            raise CompileError(
                where, "the model has no layer of this type", f"types: {', '.join(sorted(kinds - {''}))}"
            )

    def key(self, node: RealNode) -> str:
        """The name that hls4ml has for the node's layer: an activation inside of a layer is a layer of its own."""
        name = node.layer[0]
        if isinstance(node.op, real.Input):
            return node.name
        if not self._is_activation(node):
            return name
        own = [k for k in self.configuration.by_name if k.startswith(f"{name}_")]
        return own[0] if own else f"{name}_activation"

    def kind(self, node: RealNode) -> str:
        if isinstance(node.op, real.Input):
            return "InputLayer"
        if not self._is_activation(node):
            return node.layer[1]
        return "Softmax" if isinstance(node.op, real.Softmax) else "Activation"

    def _is_activation(self, node: RealNode) -> bool:
        return node.name.startswith(f"{clean_name(node.layer[0]).replace('.', '_')}_activation")

    def written(self, node: RealNode, variable: str) -> Precision | None:
        """The type of a variable; None for "auto"."""
        text = self.configuration.type(self.key(node), self.kind(node), variable)
        return None if text == "auto" else parse_precision(text, f"{self.key(node)}, {variable}")

    def setting(self, node: RealNode, key: str, default: Any) -> Any:
        return self.configuration.value(self.key(node), self.kind(node), key, default)

    def error(self, node: RealNode, rule: str, fix: str = "") -> CompileError:
        return CompileError(f"{self.key(node)} ({self.kind(node)})", rule, fix)

    def place(self, i: int, node: RealNode) -> None:
        """Copy a node with its types, and close its layer where it is the last of it."""
        operands = [self.new[j] for j in node.operands]
        rule = _RULES.get(type(node.op))
        if rule is not None:
            index = rule(self, i, node)
        else:
            index = self.add(node, node.op, *operands)
        before = self.types.get(node.operands[0]) if node.operands else None
        keeps = isinstance(node.op, _KEEP_TYPE) or (isinstance(node.op, real.Reduce) and node.op.kind == "max")
        self.types[i] = before if keeps else self.typed.pop(i, None)
        self.new[i] = index
        if self._ends[self.key(node)] == i and not isinstance(node.op, real.Input | real.Quant | real.Bipolar):
            self.close(i, node)

    def add(self, node: RealNode, op: real.RealOp, *operands: int, suffix: str = "") -> int:
        return self.builder.add(op, *operands, name=f"{node.name}{suffix}", group=node.group, layer=node.layer)

    def close(self, i: int, node: RealNode) -> None:
        """The result of a layer in its type; what a function gives needs one."""
        to = self.written(node, "result")
        users = self._users[i]
        quantized = bool(users) and all(isinstance(op, real.Quant | real.Bipolar) for op in users)
        activates = self._is_activation(node) or node.layer[1] in _ACTIVATIONS
        if to is None and activates and not quantized:
            to = self.configuration.default
        if to is not None and not isinstance(node.op, real.Constant):
            self.new[i] = self.add(node, to.quant(), self.new[i], suffix=".result")
            self.types[i] = to

    def cell(self, i: int, node: RealNode, precision: Precision | None) -> Cell:
        if precision is None:
            fix = "give the 'result' precision of the layer before it, or let hls4ml convert the model for this backend"
            raise self.error(node, "the type of its operand must be known", fix)
        return Cell(self.builder, node.name, self.new[node.operands[0]], precision)


def _input(work: _Work, i: int, node: RealNode) -> int:
    index = work.add(node, node.op)
    to = work.written(node, "result")
    if to is None and not has_quantizer(work.model, i):
        to = work.configuration.default
    if to is not None:
        index = work.add(node, to.quant(), index, suffix=".type")
        work.typed[i] = to
    return index


def _held(to: Precision, values: real.Float) -> real.Float:
    op = to.quant()
    return real.quantized(op, np.asarray(values, np.float64)) * op.scale


def _dense(work: _Work, i: int, node: RealNode) -> int:
    op = node.op
    assert isinstance(op, real.Dense)
    to = work.written(node, "weight")
    exact = op.ints is not None or exact_weight_bits(op) is not None
    if to is None and not exact:
        to = work.configuration.default
    weights = op if to is None else real.Dense(_held(to, op.weights))
    reuse = int(work.setting(node, "ReuseFactor", 1))
    strategy = _STRATEGIES[str(work.setting(node, "Strategy", "latency")).lower()]
    scheduled = Matrix("resource" if reuse > 1 and strategy == "latency" else strategy, reuse)
    accum = work.written(node, "accum")
    if accum is None:
        work.matrices[node.name] = scheduled
        return work.add(node, weights, work.new[node.operands[0]])
    x = replace(work.cell(i, node, work.types.get(node.operands[0])), name=node.name)
    y = product_sum(x, weights.weights, np.zeros(op.weights.shape[1]), accum, lambda r, f: work.error(node, r, f))
    shared = any(n.name == f"{node.name}_product" for n in work.builder.nodes)
    if not shared and scheduled.strategy != "latency":
        rule = f"its accumulator {accum.type} drops bits of every product, so that no multiplier can be shared"
        raise work.error(node, rule, "give the accum precision 'auto', or ReuseFactor 1 with the Latency strategy")
    if shared:
        work.matrices[f"{node.name}_product"] = scheduled
    return y.index


def _offset(work: _Work, i: int, node: RealNode) -> int:
    op = node.op
    assert isinstance(op, real.Offset)
    to = work.written(node, "bias")
    mantissa = np.frexp(op.offset)[0] * (1 << 18)
    if to is None and (mantissa != np.round(mantissa)).any():
        to = work.configuration.default
    offset = op.offset if to is None else _held(to, op.offset)
    matrix = any(n.layer == node.layer and isinstance(n.op, real.Dense) for n in work.model.nodes[:i])
    accum = work.written(node, "accum") if matrix else None
    index = work.add(node, real.Offset(offset if accum is None else _held(accum, offset)), work.new[node.operands[0]])
    return index if accum is None else work.add(node, accum.quant(), index, suffix=".accumulated")


def _scale(work: _Work, i: int, node: RealNode) -> int:
    op = node.op
    assert isinstance(op, real.Scale)
    if "ormalization" not in node.layer[1]:
        return work.add(node, op, work.new[node.operands[0]])
    to = work.written(node, "scale") or work.configuration.default
    return work.add(node, real.Scale(_held(to, op.number)), work.new[node.operands[0]])


def _function(work: _Work, i: int, node: RealNode) -> int:
    op = node.op
    assert isinstance(op, real.Function)
    if not is_table(op.function):
        return work.add(node, op, work.new[node.operands[0]])
    table = (
        parse_precision("fixed<18,8>", node.name)
        if work.written(node, "table") is None
        else work.written(node, "table")
    )
    assert table is not None
    x = Cell(work.builder, node.name, work.new[node.operands[0]], table)
    return activation(x, op.function, int(work.setting(node, "TableSize", 1024)), table).index


def _softmax(work: _Work, i: int, node: RealNode) -> int:
    op = node.op
    assert isinstance(op, real.Softmax)
    x = work.cell(i, node, work.types.get(node.operands[0]))
    if op.log or op.axes != (len(x.shape) - 1,):
        raise work.error(node, "a softmax over the last axis is all that hls4ml has")
    values = {
        "table_size": work.setting(node, "TableSize", 1024),
        "implementation": work.setting(node, "Implementation", "stable"),
    }

    def kind(name: str) -> Precision:
        variable = name.removesuffix("_t")
        own = [s.types[variable] for s in work.configuration.found(work.key(node), "Softmax") if variable in s.types]
        text = own[0] if own and own[0] != "auto" else _SOFTMAX[variable]
        return parse_precision(text, f"{node.name}, {variable}")

    return softmax(x, lambda k, d=None: values.get(k, d), kind, lambda r, f="": work.error(node, r, f)).index


_RULES = {
    real.Input: _input,
    real.Dense: _dense,
    real.Offset: _offset,
    real.Scale: _scale,
    real.Function: _function,
    real.Softmax: _softmax,
}
"""Ops with parameters that a configuration types; the others are copied."""
