"""Fake quantization with its gradients, by a compiled pass where there is one, else by torch; knows no format and no layer."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..frontends.torch_quantize import overflowed, rounded
from ..hw_targets.process import find_compiler
from ..ir.rounding import Overflow, Rounding
from .native.library import compiled, rendered

__all__ = ["bit_length", "exp2", "fake_quantize", "limits"]

_LN2 = math.log(2)


def exp2(exponent: Tensor) -> Tensor:
    """2 to a whole power, exactly, in float32, made from its bits."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def bit_length(n: Tensor) -> Tensor:
    """Bits of whole numbers without their signs, 0 for 0, as float32; `frexp` is exact."""
    return torch.frexp(n.abs()).exponent.to(torch.float32)


def limits(fraction: Tensor, integer: Tensor, signed: bool | Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest integer of formats with `integer` bits left of the point; both 0 where no bit is left."""
    bits = (fraction + integer).clamp(-100, 100)
    span, zero = exp2(bits), torch.zeros_like(bits)
    lo = torch.where(torch.as_tensor(signed) & (bits >= 0), -span, zero)
    return lo, torch.where(bits > 0, span - 1, zero)


def fake_quantize(
    x: Tensor,
    fraction: Tensor,
    integer: Tensor | None,
    signed: bool,
    rounding: Rounding,
    overflow: Overflow,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``overflow(round(x * 2**F)) * 2**-F`` with whole F = fraction, limits from `integer` and `signed`; without limits where None.

    Straight through to x where nothing is clipped. The gradient of F is ln 2 times what rounding took (HGQ, arXiv:2405.00645,
    eq. 15); where clipped, that of `integer` is ln 2 times the limit, and nothing else moves. fraction and integer broadcast to
    x's last axes. `seen`: lowest and highest values of each format so far, which grow.
    """
    return _FakeQuantize.apply(x, fraction, integer, signed, rounding, overflow, seen)  # pyright: ignore[reportReturnType]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fraction: Tensor, integer: Any, signed: bool, rounding: Any, overflow: Any, seen: Any
    ) -> Tensor:
        x = x.contiguous()
        fits = all(map(_fits, (x, fraction, integer, *(seen or ()))))
        library = _library(rounding.value, None if integer is None else overflow.value) if fits else None
        layout = _layout(x.shape, fraction.shape) if library is not None else None
        ctx.options = (signed, rounding, overflow, library, layout)
        ctx.save_for_backward(x, fraction, integer)
        if library is None or layout is None:
            return _by_torch(x, fraction, integer, signed, rounding, overflow, seen)
        q = torch.empty_like(x)
        low, high = seen or (None, None)
        library.hwc_quantize(_at(x), _at(q), *layout, _at(fraction), _at(integer), int(signed), _at(low), _at(high))
        return q

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, fraction, integer = ctx.saved_tensors
        signed, rounding, overflow, library, layout = ctx.options
        if library is None or layout is None or g.dtype != torch.float32:
            dx, lost, moved = _gradients(x, g, fraction, integer, signed, rounding, overflow)
        else:
            g = g.contiguous()
            dx, lost, moved = torch.empty_like(x), torch.empty_like(fraction), torch.empty_like(fraction)
            library.hwc_differentiate(
                _at(x), _at(g), _at(dx), *layout, _at(fraction), _at(integer), int(signed), _at(lost), _at(moved)
            )
        of_integer = None
        if integer is not None and ctx.needs_input_grad[2]:
            of_integer = _LN2 * exp2(torch.round(integer)) * moved.reshape(integer.shape)
        return dx, _LN2 * lost if ctx.needs_input_grad[1] else None, of_integer, None, None, None, None


# ---- compiled ---------------------------------------------------------------------------------------------------------


def _fits(x: Tensor | None) -> bool:
    return x is None or (x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous())


@cache
def _library(rounding: str, overflow: str | None) -> Any:
    """The compiled passes of a mode, or None without a compiler."""
    if find_compiler() is None:
        return None
    modes = {"clipped": overflow is not None, "rounding": rounding, "overflow": overflow or "SAT"}
    library = compiled(rendered("fake_quantize.cpp", **modes), "fake_quantize.cpp")
    pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.hwc_quantize.argtypes = (pointer, pointer, *[size] * 3, pointer, pointer, flag, pointer, pointer)
    library.hwc_differentiate.argtypes = (*[pointer] * 3, *[size] * 3, pointer, pointer, flag, pointer, pointer)
    library.hwc_quantize.restype = library.hwc_differentiate.restype = None
    return library


@cache
def _layout(shape: tuple[int, ...], widths: tuple[int, ...]) -> tuple[int, int, int] | None:
    """A tensor as [outer][channels][inner] for widths that broadcast to its last axes; None where it is no such thing."""
    own = [1] * (len(shape) - len(widths)) + list(widths)
    held = [i for i, n in enumerate(own) if n != 1]
    if not held:
        return 1, 1, math.prod(shape)
    first, last = held[0], held[-1]
    if list(own[first : last + 1]) != list(shape[first : last + 1]):
        return None
    return math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


# ---- by torch ---------------------------------------------------------------------------------------------------------


def _by_torch(
    x: Tensor, fraction: Tensor, integer: Tensor | None, signed: bool, rounding: Rounding, overflow: Overflow, seen: Any
) -> Tensor:
    f = torch.round(fraction)
    n = rounded(x * exp2(f), rounding)
    if integer is not None:
        n = overflowed(n, *limits(f, torch.round(integer), signed), overflow)
    q = n * exp2(-f)
    if seen is not None:
        shape = seen[0].shape
        over = [i for i in range(q.ndim) if i == 0 or not shape or shape[i - 1] == 1]
        seen[0].copy_(torch.minimum(seen[0], q.amin(over, keepdim=True).reshape(shape)))
        seen[1].copy_(torch.maximum(seen[1], q.amax(over, keepdim=True).reshape(shape)))
    return q


def _gradients(
    x: Tensor, g: Tensor, fraction: Tensor, integer: Tensor | None, signed: bool, rounding: Rounding, overflow: Overflow
) -> tuple[Tensor, Tensor, Tensor]:
    """(of x, sums of g (x - q) where not clipped, sums of g at the top minus at the bottom)."""
    f = torch.round(fraction)
    n, lost, moved = rounded(x * exp2(f), rounding), g, torch.zeros_like(g)
    through = g
    if integer is not None:
        lo, hi = limits(f, torch.round(integer), signed)
        if overflow is not Overflow.WRAP:
            over, under = n > hi, n < lo
            through = g * ~(over | under)
            moved = g * over - (g * under if signed else 0)
        n = overflowed(n, lo, hi, overflow)
    lost = through * (x - n * exp2(-f))
    return through, lost.sum_to_size(fraction.shape), moved.sum_to_size(fraction.shape)
