"""Ordinary numpy functions as models: preprocessing, thresholds, decisions; they join with networks into one model.

    @trace(pt=fixed("ap_ufixed<14,12>", (4,)), eta=fixed("int16", (4,)))
    def muons(pt, eta):
        good = (pt > 3.5) & (np.abs(eta) < 1200)
        return np.sort(np.where(good, pt, 0))[::-1][:2]

    model = chain(muons, load("network.onnx"), lambda score: score > 0.5)

The function sees one event. It runs once, on values that record what is done to them (`frontends.traced`); called with plain
arrays it is the function that it was.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from . import real
from .precision import Precision, parse_precision
from .real import RealBuilder, RealModel, RealNode
from .traced import Value, is_value
from .traced_errors import error, stopped
from .traced_numpy import take as _take

__all__ = ["InputType", "Traced", "chain", "fixed", "quantize", "take", "trace"]

_MOST_ELEMENTS = 1 << 20
"""Of one event: each is hardware of its own."""


@dataclass(frozen=True)
class InputType:
    """What one input of a traced function is: the shape of an event, and its type; None leaves the precision to calibration."""

    shape: tuple[int, ...]
    precision: Precision | None

    def value(self, builder: RealBuilder, name: str) -> Value:
        """The input as a traced value."""
        p = self.precision
        integers = p is not None and p.type.exp == 0
        index = builder.add(real.Input(self.shape, integers), name=name)
        if p is not None:
            index = builder.add(p.quant(), index, name=f"{name}.type")
        bits = integers and p is not None and (p.type.lo, p.type.hi) == (0, 1)
        return Value(builder, index, "bool" if bits else "int" if integers else "real")


def fixed(type: str = "float", shape: int | tuple[int, ...] = ()) -> InputType:
    """An input of a traced function: a type such as ``ap_fixed<16,6>``, ``int12``... and the shape of one event.

    Real data are brought to the type as ap_fixed assigns: with its rounding and overflow. "float" leaves the precision open:
    compile then needs calibration data.
    """
    event = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not all(isinstance(n, int | np.integer) and n > 0 for n in event) or math.prod(event) > _MOST_ELEMENTS:
        rule = f"must be whole numbers from 1, and at most {_MOST_ELEMENTS:,} elements, not {shape!r}"
        raise CompileError("shape of an input", rule)
    event = tuple(int(n) for n in event)
    return InputType(event, None if type == "float" else parse_precision(type, "input"))


@dataclass(frozen=True)
class Traced:
    """A function and the types of its inputs."""

    function: Callable[..., Any]
    inputs: Mapping[str, InputType]

    @property
    def name(self) -> str:
        return clean_name(getattr(self.function, "__name__", "function").strip("<>"))

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)

    def model(self) -> RealModel:
        """The function as a model. Raises `CompileError` at the line that cannot be hardware."""
        if not self.inputs:
            raise CompileError(
                self.name, "the types of its inputs must be given", 'trace(x=fixed("ap_fixed<16,6>", (4,)))'
            )
        builder = RealBuilder(self.name)
        values = {name: t.value(builder, name) for name, t in self.inputs.items()}
        return builder.model(_outputs(self.name, _result(self.name, self.function, **values)))


def _result(name: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What a function gives for traced values; what it raises is the user's to fix, like all else in it."""
    try:
        return function(*args, **named)
    except CompileError:
        raise
    except Exception as e:
        raise stopped(name, e) from e


def trace(function: Callable[..., Any] | None = None, /, **inputs: InputType) -> Any:
    """Make a numpy function a model; a decorator, with the inputs as keywords or as the annotations of the arguments."""
    if function is None:
        return lambda f: trace(f, **inputs)
    try:
        arguments = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not callable; a builtin that does not say
        raise CompileError("trace", f"must be given a function, not {function!r}", "write it with def") from None
    given = {n: inputs.get(n, p.annotation) for n, p in arguments.items()}
    found = {n: t for n, t in given.items() if isinstance(t, InputType)}
    unknown = [n for n in inputs if n not in arguments]
    untyped = [n for n in given if n not in found]
    if unknown:
        raise CompileError(function.__name__, f"has no argument '{unknown[0]}'", f"arguments: {', '.join(arguments)}")
    if untyped and found:
        raise CompileError(
            function.__name__, f"the argument '{untyped[0]}' needs a type", f"trace({untyped[0]}=fixed(...))"
        )
    return Traced(function, found)


def quantize(x: Any, type: str) -> Any:
    """x in a fixed-point type such as ``ap_fixed<8,3,AP_RND,AP_SAT>``; of traced values and of plain numbers alike.

    Functions (tanh, exp, sqrt, division by data) need one behind them: it says how precise their tables are.
    """
    precision = parse_precision(type, "quantize")
    if is_value(x):
        return x.add_op(precision.quant(), kind="int" if precision.type.exp == 0 else "real", label="quantize")
    op = precision.quant()
    return (real.quantized(op, np.asarray(x, np.float64)) - op.zero) * op.scale


def take(table: Any, index: Any) -> Any:
    """``table[index]`` with whole numbers as index, traced or plain: a lookup of a constant table, comparisons for a traced one."""
    return _take(table, index, 0) if is_value(index) else np.take(table, index, axis=0)


def chain(*stages: Any) -> RealModel:
    """One model of stages in a row: what one gives is what the next one takes, in order.

    A stage is a loaded model, a traced function, or (not the first) any function of numpy arrays.
    """
    if not stages:
        raise CompileError("chain", "needs at least one stage")
    first, *rest = stages
    model = first.model() if isinstance(first, Traced) else first
    if not isinstance(model, RealModel):
        raise CompileError("chain", "must begin with a model or a traced function", "load the file, or use trace")
    builder = RealBuilder(model.name)
    values = _copied(builder, model, {})
    names = [name for name, _ in model.outputs]
    for number, stage in enumerate(rest, 1):
        if isinstance(stage, RealModel):
            found: Any = inlined(stage, values)
            names = [name for name, _ in stage.outputs]
            values = list(found) if isinstance(found, tuple) else [found]
        elif callable(stage):
            outputs = _outputs(f"stage {number}", _result(f"stage {number}", stage, *values))
            names = [name for name, _ in outputs]
            values = [Value(builder, i, "real") for _, i in outputs]
        else:
            raise CompileError(f"stage {number}", "must be a model or a function", "load the file first")
    return builder.model([(name, v.index) for name, v in zip(names, values)])


def inlined(model: RealModel, values: list[Value]) -> Any:
    """The outputs of a model that reads traced values: one value, or a tuple of them."""
    names = [model.nodes[i].name for i in model.inputs]
    if not all(map(is_value, values)):
        raise CompileError(model.name, "is called on traced values only", "compile it and use predict for data")
    if len(values) != len(names):
        raise error(model.name, f"takes {len(names)} inputs ({', '.join(names)}), not {len(values)}")
    builder = values[0].builder
    for name, i, v in zip(names, model.inputs, values):
        if v.shape != model.nodes[i].shape:
            raise error(model.name, f"the input '{name}' has shape {list(model.nodes[i].shape)}, not {list(v.shape)}")
    found = _copied(builder, model, dict(zip(names, values)))
    return found[0] if len(found) == 1 else tuple(found)


def _copied(builder: RealBuilder, model: RealModel, given: Mapping[str, Value]) -> list[Value]:
    """The outputs of a copy of the model's nodes, with values in the place of inputs where they are given."""
    new: list[int] = []
    prefix = f"{model.name}_{len(builder.nodes)}." if builder.nodes else ""

    def copied(node: RealNode) -> int:
        if isinstance(node.op, real.Input) and node.name in given:
            return given[node.name].index
        group = f"{prefix}{node.group}" if node.group else ""
        return builder.add(node.op, *(new[j] for j in node.operands), name=f"{prefix}{node.name}", group=group)

    for node in model.nodes:
        new.append(copied(node))
    return [Value(builder, new[i], "real") for _, i in model.outputs]


def _outputs(where: str, result: Any) -> list[tuple[str, int]]:
    """Names and nodes of what a traced function returns: a value, a tuple or list of them, or values by name."""
    if isinstance(result, Mapping):
        named = {str(k): v for k, v in result.items()}
    elif isinstance(result, tuple | list):
        named = {f"output_{k}": v for k, v in enumerate(result)} if len(result) != 1 else {"output": result[0]}
    else:
        named = {"output": result}
    wrong = [name for name, v in named.items() if not is_value(v)]
    if wrong or not named:
        what = f"'{wrong[0]}'" if wrong else "the result"
        raise CompileError(
            where, f"{what} does not depend on an input", "return traced values, a tuple or a dict of them"
        )
    return [(clean_name(name).replace(".", "_"), v.index) for name, v in named.items()]
