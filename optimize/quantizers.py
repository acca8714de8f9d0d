"""Fixed-point quantizers that train: their values, gradients and widths; knows torch and no layer.

A quantizer's value is the one that every engine computes: ``overflow(round(x * 2**F)) * 2**-F`` with whole F. In training
the numbers are float32, which holds them exactly up to 24 bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..frontends.torch_quantize import overflowed, quantize_operator, rounded
from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from .fake_quantize import bit_length, exp2, fake_quantize, limits
from .formats import MAX_BITS, Format

__all__ = ["FRACTION_LIMIT", "ActivationQuantizer", "Quantizer", "WeightQuantizer", "bit_length", "exp2", "whole"]

FRACTION_LIMIT = 40
"""Fraction bits stay within plus and minus this."""

_FEWER = 5
"""Integer bits less than the largest value needs that a learned range may start with, and one more."""


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient


def whole(x: Tensor) -> Tensor:
    """The nearest whole number (ties to even), with a straight-through gradient."""
    return _Whole.apply(x)  # pyright: ignore[reportReturnType]


class Operator(nn.Module):
    """A quantizer whose format stays: torch.ops.hwcompile.quantize with constants, as `hc.compile` reads it."""

    scale: Tensor
    lo: Tensor
    hi: Tensor

    def __init__(self, given: Format, fraction: Tensor, lo: Tensor, hi: Tensor, overflow: str) -> None:
        super().__init__()
        self.rounding, self.overflow = given.rounding, overflow
        for name, value in (("scale", exp2(-fraction)), ("lo", lo), ("hi", hi)):
            self.register_buffer(name, value.detach())

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(self.scale)
        return quantize_operator()(x, self.scale, zero, self.lo, self.hi, self.rounding, self.overflow)


class Quantizer(nn.Module):
    """What weight and activation quantizers share: the format, and the fraction bits that may be trained.

    `fraction`: real, rounded to whole bits in use; its shape broadcasts to the value.
    """

    fraction: Tensor

    def __init__(self, given: Format, fraction: Tensor) -> None:
        super().__init__()
        self.format = given
        self.operator: Operator | None = None
        if given.trained:
            self.fraction = nn.Parameter(fraction.to(torch.float32))
        else:
            self.register_buffer("fraction", fraction.to(torch.float32))

    @property
    def rounding(self) -> Rounding:
        return Rounding(self.format.rounding)

    def extra_repr(self) -> str:
        f = self.format
        kind = "learned" if f.trained else "fixed"
        return f"{kind}({f.bits}), per={f.per}, rounding={f.rounding}, overflow={f.overflow}"


class WeightQuantizer(Quantizer):
    """The quantizer of a constant: as a parametrization of a layer's weight or bias.

    Learned: the fraction is trained, and the integer bits are those that the values need (nothing is clipped). Fixed: the
    fraction follows from `bits` and the largest magnitude, of the tensor or of each channel along `axis`.
    """

    def __init__(self, given: Format, values: Tensor, axis: int = 0) -> None:
        self.axis = axis
        if given.per == "element" and not given.trained:
            raise CompileError("format", "fixed weights have a width per tensor or channel, not per element")
        super().__init__(given, self._start(given, values.detach()))

    def _start(self, given: Format, values: Tensor) -> Tensor:
        """The fraction bits with which values have `given.bits`: of each, or of the largest of those that share them."""
        top = integer_bits_of(self._largest(given, values))
        return (given.bits - 1 - top).clamp(-FRACTION_LIMIT, FRACTION_LIMIT)

    def _largest(self, given: Format, values: Tensor) -> Tensor:
        size = values.detach().abs()
        if given.per == "channel" and values.ndim > 1:
            others = [i for i in range(values.ndim) if i != self.axis]
            return size.amax(others, keepdim=True)
        if given.per == "tensor":
            return size.amax().reshape([1] * values.ndim)
        return size.amax().expand_as(size).clone() if given.trained else size

    def integers(self, values: Tensor) -> Tensor:
        """The integers n of the quantized values n * 2**-F; their F are the rounded fraction."""
        with torch.no_grad():
            return torch.round(self(values) * exp2(torch.round(self.fraction)))

    def freeze(self, values: Tensor) -> None:
        """Become the operator that computes the same for these values."""
        self.operator = self._operator(values)

    def _operator(self, values: Tensor) -> Operator:
        if self.format.trained:
            top = bit_length(rounded(values.detach() * exp2(torch.round(self.fraction)), self.rounding)) + 1
            return Operator(self.format, torch.round(self.fraction), -exp2(top), exp2(top) - 1, "SAT")
        fraction = self._start(self.format, values)
        lo, hi = limits(fraction, self.format.bits - 1 - fraction, True)
        return Operator(self.format, fraction, lo, hi, self.format.overflow)

    def forward(self, values: Tensor) -> Tensor:
        if self.operator is not None:
            return self.operator(values)
        if torch.compiler.is_exporting():
            return self._operator(values)(values)
        if self.format.trained:
            return fake_quantize(values, self.fraction, None, True, self.rounding, Overflow.SAT)
        self.fraction = self._start(self.format, values)
        top = self.format.bits - 1 - self.fraction
        return fake_quantize(values, self.fraction, top, True, self.rounding, Overflow(self.format.overflow))


def integer_bits_of(largest: Tensor) -> Tensor:
    """Integer bits that hold magnitudes up to `largest`: ceil(log2), of 2**-FRACTION_LIMIT at least."""
    mantissa, exponent = torch.frexp(largest.clamp(min=2.0**-FRACTION_LIMIT))
    return (exponent - (mantissa == 0.5).to(exponent.dtype)).to(torch.float32)


class ActivationQuantizer(Quantizer):
    """The quantizer of data ``[events, ...]``; its shapes are those of an event (1 where shared).

    `lowest`, `highest`: the range that was seen. `integer`: bits left of the point without the sign (not for a tracked
    range, where they follow from what was seen). Before its first use it must be calibrated: `calibrate(x)`.
    """

    integer: Tensor
    signed: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, given: Format, shape: tuple[int, ...] | None = None, channel_axis: int = -1) -> None:
        if shape is None and given.per != "tensor":
            rule = f"a width per {given.per} needs the shape of an event"
            raise CompileError("quantizer", rule, "give shape=(...), or per='tensor'")
        shape = shape or ()
        shared = {
            "tensor": tuple(1 for _ in shape),
            "channel": tuple(n if i == channel_axis % len(shape) else 1 for i, n in enumerate(shape)),
            "element": shape,
        }[given.per]
        super().__init__(given, torch.zeros(shared))
        self.register_buffer("lowest", torch.full(shared, math.inf))
        self.register_buffer("highest", torch.full(shared, -math.inf))
        self.register_buffer("signed", torch.tensor(True))
        self.calibrating: str | None = None
        if given.range == "learned":
            self.integer = nn.Parameter(torch.zeros(shared))
        else:
            self.register_buffer("integer", torch.zeros(shared))

    @property
    def tracked(self) -> bool:
        return self.format.range == "tracked"

    def calibrate(self, x: Tensor, widths: bool = True) -> None:
        """Take the range from data ``[events, ...]`` and what was seen before; with `widths` the widths start anew."""
        with torch.no_grad():
            self._see(x)
            self.signed.fill_(bool((self.lowest < 0).any()))
            size = torch.maximum(self.highest, -self.lowest)
            needed = integer_bits_of(torch.where(size > 0, size, size.amax()))  # what is always 0 may not stay so
            if self.format.overflow == "SAT" and (widths or self.format.range == "calibrated"):
                needed = self._nearest(x, needed)
            if widths or self.format.range == "calibrated":
                self.integer.copy_(needed)
            if widths or not self.format.trained:
                self.fraction.copy_((self.format.bits - self._sign() - needed).clamp(-FRACTION_LIMIT, FRACTION_LIMIT))

    def _nearest(self, x: Tensor, needed: Tensor) -> Tensor:
        """Integer bits with which `bits` are nearest to x (mean square): a few large values may saturate, so that all others
        have finer steps. Training moves them from there."""
        best, least = needed, torch.full_like(needed, math.inf)
        for fewer in range(_FEWER):
            top = needed - fewer
            fraction = (self.format.bits - self._sign() - top).clamp(-FRACTION_LIMIT, FRACTION_LIMIT)
            lo, hi = self._interval(fraction, top)
            q = overflowed(rounded(x * exp2(fraction), self.rounding), lo, hi, Overflow.SAT) * exp2(-fraction)
            error = (x - q).square().sum(self._shared(x), keepdim=True).reshape(needed.shape)
            best, least = torch.where(error < least, top, best), torch.minimum(error, least)
        return best

    def forget_range(self) -> None:
        """Start to track the range anew."""
        self.lowest.fill_(math.inf)
        self.highest.fill_(-math.inf)

    def _see(self, q: Tensor) -> None:
        shape, over = self.lowest.shape, self._shared(q)
        self.lowest.copy_(torch.minimum(self.lowest, q.amin(over, keepdim=True).reshape(shape)))
        self.highest.copy_(torch.maximum(self.highest, q.amax(over, keepdim=True).reshape(shape)))

    def _shared(self, values: Tensor) -> list[int]:
        """Axes along which all have one format: the events', and those that are 1 in its shape."""
        shape = self.lowest.shape
        return [i for i in range(values.ndim) if i == 0 or not shape or shape[i - 1] == 1]

    def _sign(self) -> Tensor:
        """1 where the format has a sign bit."""
        if self.tracked:
            return (self.lowest < 0).to(torch.float32)
        return self.signed.to(torch.float32).expand_as(self.integer)

    def fraction_bits(self) -> Tensor:
        """Fraction bits with their gradient; those of a fixed width with a learned range follow the range."""
        if self.format.trained:
            return whole(self.fraction)
        if self.format.range == "learned":
            return self.format.bits - self._sign() - whole(self.integer)
        return torch.round(self.fraction)

    def integer_bits(self) -> Tensor:
        """Integer bits without the sign, with their gradient where they have one."""
        if not self.tracked:
            return whole(self.integer)
        f = torch.round(self.fraction.detach())
        lo, hi = rounded(self.lowest * exp2(f), self.rounding), rounded(self.highest * exp2(f), self.rounding)
        hi, lo = hi.nan_to_num(0, 0, 0), lo.nan_to_num(0, 0, 0)
        return torch.maximum(bit_length(hi.clamp(min=0)), bit_length((-lo - 1).clamp(min=0))) - f

    def widths(self) -> Tensor:
        """Bits of every element, the sign included, 0 where nothing is left; differentiable by the trained ones."""
        return torch.relu(self.fraction_bits() + self.integer_bits() + self._sign())

    def reachable(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest integer n of the values n * 2**-F that come out."""
        fraction, integer = self.fraction_bits().detach(), self.integer_bits().detach()
        return self._interval(fraction, integer)

    def forward(self, x: Tensor) -> Tensor:
        if self.operator is not None:
            return self.operator(x)
        if torch.compiler.is_exporting():
            return self._operator()(x)
        if self.calibrating:
            self.calibrate(x, self.calibrating == "widths")
        if self.tracked and (self.training or self.calibrating):
            return fake_quantize(x, self.fraction, None, True, self.rounding, Overflow.SAT, (self.lowest, self.highest))
        if not self.training:
            self._ready()
        if self.tracked:
            return self._wrapped(x, self.fraction_bits(), self.integer_bits()).to(torch.float32)
        follows = self.format.range == "learned" and not self.format.trained
        fraction, mode = self.fraction_bits() if follows else self.fraction, Overflow(self.format.overflow)
        return fake_quantize(x, fraction, self.integer, bool(self.signed), self.rounding, mode).to(torch.float32)

    def _ready(self) -> None:
        """Refuse to compute with a range that is open, or with more bits than are exact."""
        if bool(self.lowest.isinf().any()):
            raise CompileError("quantizer", "has seen no data, so that its range is open", "calibrate it on data first")
        most = int((self.fraction_bits() + self.integer_bits()).max())
        if most > MAX_BITS:
            raise CompileError(
                "quantizer", f"at most {MAX_BITS} bits are exact in training, not {most}", "train fewer bits"
            )

    def _wrapped(self, x: Tensor, fraction: Tensor, integer: Tensor) -> Tensor:
        lo, hi = self._interval(fraction, integer)
        n = rounded(x * exp2(fraction), self.rounding)
        return overflowed(n, lo, hi, Overflow.WRAP) * exp2(-fraction)

    def _interval(self, fraction: Tensor, integer: Tensor) -> tuple[Tensor, Tensor]:
        return limits(fraction, integer, self._sign() > 0)

    def freeze_quantizers(self) -> None:
        """Become the operator that computes the same, for good: what `hc.compile` does to a copy."""
        self._ready()
        self.operator = self._operator()

    def _operator(self) -> Operator:
        fraction, integer = self.fraction_bits().detach(), self.integer_bits().detach()
        return Operator(self.format, fraction, *self._interval(fraction, integer), self.format.overflow)
