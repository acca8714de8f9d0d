"""`quantize`: a module into one that computes with fixed-point numbers, and trains; knows which layers take quantizers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .composites import InverseRoot, Kept, Product, in_parts
from .formats import Format, Spec, fixed
from .functions import QuantizedFunction, SoftmaxTables
from .layers import WEIGHTED, Weighted, activation_axis, hooked, in_mode, prepare, quantizers
from .modules import FUNCTIONS, functions_as_modules, functions_used, without_norms
from .quantizers import ActivationQuantizer, WeightQuantizer
from .task import Inputs

__all__ = ["as_inputs", "calibrate", "check_module", "quantize", "try_on"]

EXACT = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.ZeroPad1d, nn.ZeroPad2d, nn.Upsample, nn.PixelShuffle,
)  # fmt: skip
"""Layers that are exact on fixed-point numbers: they stay as they are."""

PLACED = (*FUNCTIONS, Product, Kept)
"""What is replaced by quantizers and itself between them."""


class _Output(nn.Module):
    """A module of several inputs whose output is quantized."""

    def __init__(self, module: nn.Module, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.module, self.output_quantizer = module, quantizer

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output_quantizer(self.module(*inputs))


def quantize(module: nn.Module, spec: Spec | None = None, data: Any = None) -> nn.Module:
    """A copy of the module that computes with the formats of `spec`, its ranges taken from `data`.

    `data`: a batch of inputs ``[events, ...]`` (a tensor, an array, or a tuple of them). Layers with weights quantize their
    input, weight and bias; batch normalization is folded into the layer before it; functions that become tables, and products
    of data, get quantizers around them. The copy trains with any optimizer and any loop, and
    ``hc.compile(copy, example_inputs=data)`` is exactly what it computes in eval mode.
    Raises `CompileError` for layers that cannot be quantized, for names in `spec.layers` that do not exist, and without data.
    """
    check_module(module, "quantize")
    spec, inputs = spec or Spec(), as_inputs(data)
    changed = _own_functions(in_parts(copy.deepcopy(module).eval()))
    with _calibrating(changed, "widths"):  # quantizers that are there already
        try_on(changed, inputs)
        changed = without_norms(changed, inputs)
        changed = functions_as_modules(changed, functions_used(changed, inputs))
        _check(changed, spec)
        shapes = _shapes(changed, inputs)
    names = {m: name for name, m in changed.named_modules()}
    for name, layer in prepare(changed):
        formats = spec.of(name)
        if layer not in shapes:
            rule = "is not called as a layer when the module runs, so that its input cannot be quantized"
            raise CompileError(name, rule, "call the layer itself, not a function on its weights")
        layer.weight_quantizer = WeightQuantizer(formats.weights, layer.weight, layer.channel_axis)
        if layer.bias is not None:
            layer.bias_quantizer = WeightQuantizer(formats.biases, layer.bias)
        (shape,), _, layer.calls = shapes[layer]
        layer.input_shape = shape
        layer.input_quantizer = ActivationQuantizer(formats.activations, shape, activation_axis(layer))
    for m in [m for m in changed.modules() if isinstance(m, PLACED)]:
        if m in shapes:
            _replace(changed, names[m], _surrounded(m, spec.of(names[m]).activations, *shapes[m]))
    if spec.output is not None:
        last = ActivationQuantizer(spec.output, shapes[changed][1])
        changed = nn.Sequential(changed, last) if len(inputs) == 1 else _Output(changed, last)
    try:
        calibrate(changed, inputs, widths=True)
    except CompileError as e:
        own = _own_parameters(changed)
        if not own:
            raise
        rule = f"is used by the module's own code, beside sums that are exact in float64 ({e.rule.split(': ', 1)[-1][:120]})"
        fix = "make it a layer, such as nn.Linear, or use it as p.to(x.dtype); it is not quantized then"
        raise CompileError(f"parameter {own[0]}", rule, fix) from None
    return changed.train(module.training)


def check_module(module: Any, where: str) -> None:
    """Refuse what is no torch module, and a Keras model, which only looks like one."""
    if any(c.__module__.split(".")[0] == "keras" for c in type(module).__mro__):
        raise CompileError(where, "takes a torch module, not a Keras model", "convert it with opt.from_keras(model)")
    if not isinstance(module, nn.Module):
        raise CompileError(where, f"takes a torch module, not {type(module).__name__}")


def _own_parameters(module: nn.Module) -> list[str]:
    """Parameters that belong to no layer of torch's or ours."""
    ours = __name__.split(".")[0]
    return [
        f"{name}.{p}".lstrip(".")
        for name, m in module.named_modules()
        if type(m).__module__.split(".")[0] not in ("torch", ours)
        for p, _ in m.named_parameters(recurse=False)
    ]


def _own_functions(module: nn.Module) -> nn.Module:
    """A function that stands in several places becomes one for each, and slopes are the float32 that is compiled."""
    seen: set[nn.Module] = set()
    for name, m in list(module.named_modules(remove_duplicate=False)):
        if isinstance(m, FUNCTIONS) and m in seen:
            _replace(module, name, copy.deepcopy(m))
        seen.add(m)
        if isinstance(m, nn.Softmax) and m.dim is None:
            raise CompileError(name, "softmax must say its axis", "give dim")
        if isinstance(m, nn.LeakyReLU):
            m.negative_slope = float(torch.tensor(m.negative_slope, dtype=torch.float32))
    return module


def _surrounded(
    m: nn.Module, given: Format, shapes: list[tuple[int, ...]], output: tuple[int, ...], calls: int
) -> nn.Module:
    """The function between quantizers; a table saturates for nothing, and softmax takes one scale for all."""
    if isinstance(m, Kept):
        return ActivationQuantizer(given, output)
    if isinstance(m, InverseRoot):  # sums of squares spread over decades, and all of the layer hangs on one factor
        given = fixed(min(given.bits + 4, 12))
    if isinstance(m, nn.Softmax):
        given = replace(given, per="tensor")
        m = SoftmaxTables(-1 if m.dim is None else m.dim, given.bits)
    saturating = replace(given, range="calibrated", overflow="SAT") if given.range == "tracked" else given
    inputs = [ActivationQuantizer(given, shape) for shape in shapes]
    return QuantizedFunction(m, inputs, ActivationQuantizer(saturating, output), shapes, calls)


def _replace(module: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, by)


def as_inputs(data: Any) -> tuple[Tensor, ...]:
    """Inputs of a module from what a user gives: tensors or arrays of floats, one or several."""
    if data is None:
        raise CompileError("data", "a batch of inputs is needed, for shapes and ranges", "give data=x")
    several = data.tensors if isinstance(data, Inputs) else data
    given = tuple(several) if isinstance(several, list | tuple) else (several,)
    try:
        found = tuple(torch.as_tensor(v) for v in given)
    except (TypeError, ValueError, RuntimeError) as e:
        raise CompileError("data", f"must be arrays of numbers: {str(e)[:80]}") from None
    for t in found:
        if t.ndim < 2 or not len(t):
            raise CompileError("data", f"must be [events, ...] with some events, not of shape {list(t.shape)}")
        if t.is_floating_point() and not bool(t.isfinite().all()):
            raise CompileError("data", "has values that are not finite", "remove or replace those events")
    return tuple(t.to(torch.float32) if t.is_floating_point() else t for t in found)


def try_on(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The module's output for the first event. Raises `CompileError` where it does not take such data."""
    try:
        with torch.no_grad():
            return module(*(x[:1] for x in inputs))
    except (RuntimeError, TypeError, ValueError) as e:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        rule = f"does not take this data, of shape {shapes}: {str(e).splitlines()[0][:100]}"
        raise CompileError(type(module).__name__, rule, "give data as the module's forward takes it") from None


def calibrate(module: nn.Module, data: Any, widths: bool = False) -> None:
    """See the ranges of all activations anew, on `data`; with `widths` their fraction bits start anew too.

    Trained integer bits stay as they were trained, unless `widths`.
    """
    inputs = as_inputs(data)
    with in_mode(module, False), _calibrating(module, "widths" if widths else "ranges"), torch.no_grad():
        try_on(module, inputs)
        module(*inputs)


@contextmanager
def _calibrating(module: nn.Module, what: str) -> Iterator[None]:
    """Activation quantizers take what they see from the data that pass meanwhile, starting anew."""
    found = [q for _, q in quantizers(module) if isinstance(q, ActivationQuantizer)]
    for q in found:
        q.forget_range()
        q.calibrating = what
    try:
        yield
    finally:
        for q in found:
            q.calibrating = None


def _check(module: nn.Module, spec: Spec) -> None:
    """Every layer is known, and every name in the spec is a layer."""
    names = dict(module.named_modules())
    weighted = [n for n, m in names.items() if isinstance(m, (Weighted, *WEIGHTED))]
    quantized = {n for n, m in names.items() if isinstance(m, (Weighted, *WEIGHTED, *PLACED))}
    unknown = next((n for n in spec.layers if n not in quantized), None)
    if unknown is not None:
        raise CompileError(
            "spec.layers", f"no layer with quantizers is called '{unknown}'", f"layers: {', '.join(weighted)}"
        )
    for name, given in spec.layers.items():
        if not isinstance(given, Spec):
            raise CompileError(f"spec.layers['{name}']", f"must be a Spec, not {type(given).__name__}")
    for name, m in names.items():
        if isinstance(m, tuple(WEIGHTED)) and type(m) not in WEIGHTED and not isinstance(m, Weighted):
            rule = f"is a {type(m).__name__}, whose weight may not be what it computes with"
            raise CompileError(name or type(m).__name__, rule, "use torch's own layer, without parametrizations")
        if not type(m).__module__.startswith("torch.nn.modules") or list(m.children()):
            continue
        if isinstance(m, nn.Upsample) and m.mode != "nearest":
            raise CompileError(name, f"upsampling must be 'nearest' in training, not {m.mode!r}")
        if type(m) not in (*WEIGHTED, *FUNCTIONS, *EXACT):
            known = (
                "dense, convolution and recurrent layers, norms, attention, activation functions, pooling and reshapes"
            )
            rule = f"a {type(m).__name__} cannot be quantized in training"
            raise CompileError(name or type(m).__name__, rule, f"use {known}")
    if not weighted:
        raise CompileError(
            type(module).__name__,
            "has no layer with weights",
            "use layers such as nn.Linear, not functions of parameters",
        )


Shapes = tuple[list[tuple[int, ...]], tuple[int, ...], int]


def _shapes(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, Shapes]:
    """Shapes of an event's inputs and output at every module that a run calls, and how often it does."""
    found: dict[nn.Module, Shapes] = {}

    def seen(m: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            given = [tuple(a.shape[1:]) for a in args if isinstance(a, Tensor)]
            if m in found and found[m][0] != given and isinstance(m, (*WEIGHTED, *PLACED)):
                raise CompileError(type(m).__name__, "is used on data of different shapes", "make a layer for each use")
            found[m] = given, tuple(output.shape[1:]), found[m][2] + 1 if m in found else 1

    with hooked(m.register_forward_hook(seen) for m in module.modules()), torch.no_grad():
        module(*inputs)
    return found
