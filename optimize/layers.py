"""Layers that compute with quantized and pruned weights, in place of torch's own; knows no training and no cost.

A layer keeps its object, its parameters and their names: its class becomes a subclass of the one it had, so that modules
deep-copy, pickle and export as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.utils.hooks import RemovableHandle

from .quantizers import ActivationQuantizer, Quantizer, WeightQuantizer

__all__ = [
    "WEIGHTED",
    "Affine",
    "Mask",
    "Weighted",
    "hooked",
    "in_mode",
    "is_quantized",
    "layers",
    "prepare",
    "quantizers",
]


class Mask(nn.Module):
    """A pruned weight: `keep` is 0 where there is none."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep.to(torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.keep


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """The hooks that these handles are of, for as long as the block runs."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """All of the module in training or in eval mode, for as long as the block runs."""
    modes = [(m, m.training) for m in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for m, before in modes:
            m.training = before


def sums_in_double(module: nn.Module) -> bool:
    """In eval mode sums are float64, which holds 53 bits: quantizers then see what hardware sums. An export has no types."""
    return not module.training and not torch.compiler.is_exporting()


class Affine(nn.Module):
    """``x * weight + bias`` for each channel: a batch normalization that no layer precedes.

    weight, bias: (channels,); `axis`: that of the channels within an event.
    """

    def __init__(self, weight: Tensor, bias: Tensor, axis: int) -> None:
        super().__init__()
        self.weight, self.bias, self.axis = nn.Parameter(weight.clone()), nn.Parameter(bias.clone()), axis

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.weight, self.bias)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape = [1] * (x.ndim - 1)
        shape[self.axis] = -1
        y = x * weight.reshape(shape)
        return y if bias is None else y + bias.reshape(shape)


class Weighted(nn.Module):
    """What the layers with weights share: input, weight and bias quantizers and a mask, each of which may be absent.

    The weight in use is ``weight_quantizer(mask(weight))``.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    input_quantizer: ActivationQuantizer | None
    weight_quantizer: WeightQuantizer | None
    bias_quantizer: WeightQuantizer | None
    mask: nn.Module | None
    input_shape: tuple[int, ...]
    """Of an event's input, known once the layer is quantized."""
    calls: int = 1
    """How often an event uses the layer."""

    def masked_weight(self) -> Tensor:
        """The weight before it is quantized."""
        return self.weight if self.mask is None else self.mask(self.weight)

    def used_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        w = self.masked_weight()
        return w if self.weight_quantizer is None else self.weight_quantizer(w)

    def used_bias(self) -> Tensor | None:
        """The bias that the layer computes with."""
        if self.bias is None or self.bias_quantizer is None:
            return self.bias
        return self.bias_quantizer(self.bias)

    def freeze_quantizers(self) -> None:
        """Give the quantizers of weight and bias the formats that they have now, for good: what `hc.compile` does to a copy."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.freeze(self.masked_weight())
        if self.bias_quantizer is not None and self.bias is not None:
            self.bias_quantizer.freeze(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        weight, bias = self.used_weight(), self.used_bias()
        if self.weight_quantizer is not None and sums_in_double(self):
            x, weight, bias = x.double(), weight.double(), None if bias is None else bias.double()
        return self.compute(x, weight, bias)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's function of data and constants."""
        raise NotImplementedError  # every kind of layer has its own

    @property
    def channel_axis(self) -> int:
        """The axis of the weight that counts outputs."""
        return 0


class WeightedLinear(Weighted, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class _WeightedConv(Weighted):
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)  # pyright: ignore[reportCallIssue]


class WeightedConv1d(_WeightedConv, nn.Conv1d):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    pass


class WeightedConv2d(_WeightedConv, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = isinstance(self.padding, str) or self.padding_mode != "zeros"
        if self.in_channels > 1 or plain or not x.requires_grad or not self.training:
            return super().compute(x, weight, bias)
        found = _OneChannel.apply(x, weight, self.stride, self.padding, self.dilation)
        return found if bias is None else found + bias[:, None, None]  # pyright: ignore[reportOperatorIssue, reportReturnType]


class _OneChannel(torch.autograd.Function):
    """Convolution of a single channel, an image whose widths are trained: the library's gradient of its input is slow.

    That gradient is, for each element of the kernel, the outputs' gradients times its weights, laid where it stood.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        of_weight = conv2d_weight(x, weight.shape, gradient, stride, padding, dilation)
        events, _, rows, columns = gradient.shape
        parts = weight.flatten(1).t() @ gradient.flatten(2)  # [events, elements of the kernel, outputs]
        laid = x.new_zeros(events, x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1])
        for k, part in enumerate(parts.unflatten(2, (rows, columns)).unbind(1)):
            i, j = (a * d for a, d in zip(divmod(k, weight.shape[3]), dilation, strict=True))
            laid[:, i : i + stride[0] * rows : stride[0], j : j + stride[1] * columns : stride[1]] += part
        inner = laid[:, padding[0] : padding[0] + x.shape[2], padding[1] : padding[1] + x.shape[3]]
        return inner.unsqueeze(1), of_weight, None, None, None


class _WeightedTransposed(Weighted):
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function: Any = F.conv_transpose1d if weight.ndim == 3 else F.conv_transpose2d
        c: Any = self
        return function(x, weight, bias, c.stride, c.padding, c.output_padding, c.groups, c.dilation)

    @property
    def channel_axis(self) -> int:
        return 1


class WeightedConvTranspose1d(_WeightedTransposed, nn.ConvTranspose1d):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    pass


class WeightedConvTranspose2d(_WeightedTransposed, nn.ConvTranspose2d):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    pass


class WeightedAffine(Weighted, Affine):  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return Affine.compute(self, x, weight, bias)


WEIGHTED: dict[type[nn.Module], type[Weighted]] = {
    nn.Linear: WeightedLinear,
    nn.Conv1d: WeightedConv1d,
    nn.Conv2d: WeightedConv2d,
    nn.ConvTranspose1d: WeightedConvTranspose1d,
    nn.ConvTranspose2d: WeightedConvTranspose2d,
    Affine: WeightedAffine,
}
"""Layers with weights, and what they become."""


def prepare(module: nn.Module) -> list[tuple[str, Weighted]]:
    """Make every layer with weights in the module able to hold quantizers and a mask; its numbers stay the same."""
    for m in module.modules():
        if type(m) in WEIGHTED:
            m.__class__ = WEIGHTED[type(m)]
            for part in ("input_quantizer", "weight_quantizer", "bias_quantizer", "mask"):
                m.register_module(part, None)
    return layers(module)


def layers(module: nn.Module) -> list[tuple[str, Weighted]]:
    """The prepared layers with weights and their names, in the module's order."""
    return [(name, m) for name, m in module.named_modules() if isinstance(m, Weighted)]


def is_quantized(module: nn.Module) -> bool:
    """Every layer with weights has widths, so that the module has a cost."""
    found = layers(module)
    return bool(found) and all(m.weight_quantizer is not None and m.input_quantizer is not None for _, m in found)


def quantizers(module: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Every quantizer in the module, with its name."""
    return ((name, m) for name, m in module.named_modules() if isinstance(m, Quantizer))


def activation_axis(module: nn.Module) -> int:
    """The axis of channels within an event of what the layer reads."""
    if isinstance(module, Affine):
        return module.axis
    return 0 if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)) else -1
