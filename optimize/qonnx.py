"""Writes a quantized module as QONNX: which Quant node each quantizer is; knows no training, and leaves all else to torch.onnx."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..frontends.torch_modules import first_line
from ..frontends.torch_quantize import rounded
from ..hw_targets.process import write_atomic
from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from .fake_quantize import exp2
from .layers import hooked, layers, quantizers
from .quantize import as_inputs
from .quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["to_qonnx"]

_NAMES = {
    Rounding.RND_CONV: "ROUND",
    Rounding.TRN: "FLOOR",
    Rounding.TRN_ZERO: "DOWN",
    Rounding.RND_INF: "HALF_UP",  # away from zero in QONNX
    Rounding.RND_ZERO: "HALF_DOWN",  # towards zero in QONNX
}
_NAMES_ABOVE_ZERO = {Rounding.RND: "HALF_UP", Rounding.RND_MIN_INF: "HALF_DOWN"}
"""Modes without a name in QONNX, and what they are for positive numbers: a zero point makes all that is not clipped positive."""


def to_qonnx(module: nn.Module, data: Any, path: str | Path | None = None) -> Any:
    """The quantized module as a QONNX model (an ``onnx.ModelProto``), also written to `path` where one is given.

    `module`: as `quantize` makes it and training leaves it; `data`: a batch of inputs ``[events, ...]``, or a tuple of them.
    Layers become the operators of ONNX, and quantizers nodes `Quant` of the domain qonnx.custom_op.general (Pappalardo et al.,
    arXiv:2206.07527), each with one bit width and a scale per tensor, channel or element; where elements have ranges of their
    own, Max and Min follow. Weights are stored as they are used. ``hc.compile(path)`` gives the integers of
    ``hc.compile(module, example_inputs=data)``.

    QONNX knows no overflow but saturation: a quantizer that would wrap around is written as one that saturates, which is the same
    on all data in its range, as all of `data` must be. Raises `CompileError` where data leaves that range, for the overflow
    SAT_ZERO, for a module without quantizers, and for what torch.onnx does not export.
    """
    inputs = as_inputs(data)
    if not any(True for _ in quantizers(module)):
        raise CompileError(type(module).__name__, "has no quantizers to write", "quantize the module first")
    copied = copy.deepcopy(module).eval()
    _refuse_wrapping(copied, inputs)
    _write_weights(copied)
    for name, q in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(q, ActivationQuantizer):
            parent, _, last = name.rpartition(".")
            setattr(copied.get_submodule(parent), last, _of_data(name, q))
    model = _exported(copied, inputs)
    if path is not None and not write_atomic(Path(path), model.SerializeToString()):
        raise CompileError(str(path), "the model cannot be written", "free space, or give another place")
    return model


class _Quant(nn.Module):
    """A Quant node of `bits`, and where elements have ranges of their own, Max with `low` and Min with `high` after it."""

    scale: Tensor
    zero: Tensor
    bits: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(
        self, scale: Tensor, bits: int, signed: bool = True, narrow: bool = False, zero: int = 0, mode: str = "ROUND"
    ) -> None:
        super().__init__()
        self.attributes = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": mode}
        for name, value in {"scale": scale, "zero": float(zero), "bits": float(bits)}.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).detach().clone())
        self.register_buffer("low", None)
        self.register_buffer("high", None)
        self.lowest = (int(narrow) - 2 ** (bits - 1) if signed else 0) - zero
        self.highest = (2 ** (bits - 1) - 1 if signed else 2**bits - 1 - int(narrow)) - zero

    def forward(self, x: Tensor) -> Tensor:
        y = torch.onnx.ops.symbolic(
            "qonnx.custom_op.general::Quant",
            [x, self.scale, self.zero, self.bits],
            attrs=self.attributes,
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
        y = y if self.low is None else torch.maximum(y, self.low)
        return y if self.high is None else torch.minimum(y, self.high)


def _of_data(name: str, q: ActivationQuantizer) -> _Quant:
    """The node that computes what the quantizer does on data in its range."""
    if q.format.overflow == Overflow.SAT_ZERO.value:
        rule = "overflow SAT_ZERO has no equivalent in QONNX, which saturates"
        raise CompileError(name, rule, "quantize with overflow SAT or SAT_SYM")
    with torch.no_grad():
        scale, (low, high) = exp2(-q.fraction_bits()), q.reachable()
    if q.format.overflow == Overflow.SAT_SYM.value:
        low = torch.maximum(low, -high)
    written = _narrowest(scale, int(low.min()), int(high.max()), q.rounding)
    if bool((low != written.lowest).any()):
        written.low = low * scale
    if bool((high != written.highest).any()):
        written.high = high * scale
    return written


def _narrowest(scale: Tensor, low: int, high: int, rounding: Rounding) -> _Quant:
    """The node with the fewest bits that has all integers from `low` to `high`, and rounds so."""
    mode = _NAMES.get(rounding) or _NAMES_ABOVE_ZERO[rounding]
    if low >= 0:
        return _Quant(scale, max(high.bit_length(), 1), signed=False, mode=mode)
    if rounding in _NAMES_ABOVE_ZERO:
        bits = (high - low).bit_length()
        return _Quant(scale, bits, signed=False, narrow=high - low == 2**bits - 2, zero=-low, mode=mode)
    bits = max(max(high, -low - 1).bit_length() + 1, 2)  # one signed bit would be -1 or 1
    return _Quant(scale, bits, narrow=-low == high == 2 ** (bits - 1) - 1, mode=mode)


def _write_weights(module: nn.Module) -> None:
    """Every weight and bias as it is used, behind a node that changes it no more."""
    with torch.no_grad():
        for _, layer in layers(module):
            weight, bias = layer.used_weight(), layer.used_bias()
            layer.weight.data, layer.mask = weight, None
            if layer.weight_quantizer is not None:
                layer.register_module("weight_quantizer", _of_constant(layer.weight_quantizer, weight))
            if layer.bias is not None and bias is not None and layer.bias_quantizer is not None:
                layer.bias.data = bias
                layer.register_module("bias_quantizer", _of_constant(layer.bias_quantizer, bias))


def _of_constant(q: WeightQuantizer, values: Tensor) -> _Quant:
    fraction = torch.round(q.fraction)
    n = values * exp2(fraction)
    bits = 2 if q.format.trained else max(q.format.bits, 2)
    needed = max(int(n.max()), -int(n.min()) - 1).bit_length() + 1
    return _Quant(exp2(-fraction), max(bits, needed))


def _refuse_wrapping(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Run the module, and raise where a value wraps around."""
    names = {q: name for name, q in quantizers(module)}

    def check(q: Any, given: tuple[Tensor, ...]) -> None:
        low, high = q.reachable()
        n = rounded(given[0] * exp2(q.fraction_bits()), q.rounding)
        if bool(((n < low) | (n > high)).any()):
            rule = "wraps around on this data, and QONNX has only quantizers that saturate"
            raise CompileError(names[q], rule, "give the data that set its ranges, or calibrate on this data first")

    wrapping = [q for q in names if isinstance(q, ActivationQuantizer) and q.format.overflow == "WRAP"]
    with hooked(q.register_forward_pre_hook(check) for q in wrapping), torch.no_grad():
        module(*inputs)


# ---- torch.onnx -------------------------------------------------------------------------------------------------------


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The ONNX model for any number of events."""
    try:
        import onnx
        import onnxscript  # noqa: F401
        import torch.onnx.ops
    except ImportError as e:
        rule = f"needs PyTorch 2.8 or newer and onnxscript: {first_line(e)}"
        raise CompileError("to_qonnx", rule, "pip install 'torch>=2.8' onnxscript") from None
    names = [f"input_{k}" for k in range(len(inputs))] if len(inputs) > 1 else ["input"]
    arguments = tuple(x[:1].repeat_interleave(2, 0) for x in inputs)
    events, shapes = torch.export.Dim("events"), torch.export.ShapesCollection()
    for x in arguments:
        shapes[x] = {0: events}
    with _quiet():
        try:
            dynamic = shapes.dynamic_shapes(module, arguments)
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
            written: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names)
        except Exception as e:  # torch raises any kind for what it cannot export
            rule = f"is not exported by torch.onnx for any number of events ({first_line(e)})"
            raise CompileError(type(module).__name__, rule, "check that each layer is one that ONNX has") from None
    model = written.model_proto
    for node in model.graph.node:  # what the exporter notes of itself holds paths of this machine
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no log of an export that is refused in one sentence where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
