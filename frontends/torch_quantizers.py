"""Quantizers of PyTorch: hwcompile's own operator, pairs of quantize and dequantize, and fake quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Overflow, Rounding
from .onnx_context import Codes
from .real import Offset, Quant, Scale
from .torch_context import Call, Known
from .torch_quantize import quantize_operator

__all__ = ["QUANTIZERS", "fake_quantizers", "plain_fake_quantizers"]


def _whole(c: Call, name: str) -> NDArray[np.int64]:
    values = c.known(name).tensor.double().numpy() if isinstance(c.get(name), Known) else np.asarray(c.plain(name, 0.0))
    if np.any(values != np.round(values)):
        raise c.error(f"{name} must be whole, not {values.reshape(-1)[0]:g}")
    return values.astype(np.int64)


def _scale(c: Call, name: str) -> NDArray[np.float64]:
    found = c.get(name)
    values = found.tensor.double().numpy() if isinstance(found, Known) else np.asarray(float(c.plain(name)))
    if not np.isfinite(values).all() or np.any(values <= 0):
        raise c.error(f"the scale must be positive and finite, not {values.min():g}")
    return values


def _applied(c: Call, op: Quant, x: Any) -> Any:
    """A quantizer of data, or of a constant, which then keeps its integers."""
    import torch

    if isinstance(x, Known):
        arguments = [torch.from_numpy(np.asarray(v)) for v in (op.zero, np.asarray(op.lo), np.asarray(op.hi))]
        one = torch.ones((), dtype=x.tensor.dtype)
        steps = x.tensor / torch.from_numpy(np.asarray(op.scale)).to(x.tensor.dtype)
        moved = quantize_operator()(steps, one, *arguments, op.rounding.value, op.overflow.value)
        scale = torch.from_numpy(np.asarray(op.scale))
        return Known(moved.double() * scale, moved.to(torch.int64), scale.expand(moved.shape), x.batch)

    def event(values: Any) -> Any:
        found = np.asarray(values)
        found = found.reshape(()) if found.size == 1 else c.event(found, x)
        return found

    def limit(values: Any) -> Any:
        found = event(values)
        return int(found) if found.ndim == 0 else found

    return c.add(replace(op, scale=event(op.scale), zero=event(op.zero), lo=limit(op.lo), hi=limit(op.hi)), x)


def _quantize(c: Call) -> Any:
    """hwcompile::quantize."""
    rounding, overflow = Rounding(c.plain("rounding")), Overflow(c.plain("overflow", "SAT"))
    op = Quant(_scale(c, "scale"), _whole(c, "zero"), _whole(c, "lo"), _whole(c, "hi"), rounding, overflow)
    return _applied(c, op, c.get("x"))


# ---- pairs of quantize and dequantize ---------------------------------------------------------------------------------


def _channels(c: Call, values: NDArray[Any], x: Any) -> NDArray[Any]:
    """A parameter along `axis` so that it broadcasts."""
    rank = c.rank(x)
    return values.reshape([-1 if k == c.plain("axis") % rank else 1 for k in range(rank)])


def _parameters(c: Call, x: Any, channels: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scale, zero = (
        (_scale(c, "scales"), _whole(c, "zero_points")) if channels else (_scale(c, "scale"), _whole(c, "zero_point"))
    )
    return (_channels(c, scale, x), _channels(c, zero, x)) if channels else (scale, zero)


def _event(c: Call, values: NDArray[Any], x: Any) -> NDArray[Any]:
    return c.event(values, x) if values.ndim else values


def _to_codes(channels: bool) -> Callable[[Call], Any]:
    """quantized_decomposed.quantize_*: the zero point is added behind the rounding, so it only moves the limits."""

    def read(c: Call) -> Any:
        x, lo, hi = c.operand("input"), c.plain("quant_min"), c.plain("quant_max")
        scale, zero = _parameters(c, x, channels)
        c.ignore("dtype")
        if isinstance(x, Known):
            return Known(c.target(**{k: v.tensor if isinstance(v, Known) else v for k, v in c.arguments.items()}))
        found = _applied(c, Quant(scale, np.zeros((), np.int64), lo - zero, hi - zero, Rounding.RND_CONV), x)
        return replace(found, codes=Codes(_event(c, scale, x), _event(c, zero, x)))

    return read


def _from_codes(channels: bool) -> Callable[[Call], Any]:
    """quantized_decomposed.dequantize_*."""

    def read(c: Call) -> Any:
        import torch

        x = c.operand("input")
        scale, zero = _parameters(c, x, channels)
        c.ignore("dtype", "quant_min", "quant_max", "out_dtype")
        if isinstance(x, Known):
            ints = x.tensor.to(torch.int64) - torch.from_numpy(zero)
            factor = torch.from_numpy(scale)
            return Known(ints.double() * factor, ints, factor.expand(ints.shape))
        scale, zero = _event(c, scale, x), _event(c, zero, x)
        if x.codes is None:  # integers that a program begins with
            moved = c.add(Offset(-zero.astype(np.float64)), x, suffix=".zero") if np.any(zero) else x
            return c.add(Scale(scale), moved)
        if not (np.array_equal(x.codes.scale, scale) and np.array_equal(x.codes.zero, zero)):
            raise c.error("must have the scale and zero point of the quantizer before it")
        return replace(x, codes=None)

    return read


def _fake(channels: bool) -> Callable[[Call], Any]:
    """fake_quantize_*_affine: back to real numbers at once."""

    def read(c: Call) -> Any:
        x = c.operand()
        scale, zero = _scale(c, "scale"), _whole(c, "zero_point")
        if channels:
            scale, zero = _channels(c, scale, x), _channels(c, zero, x)
        lo, hi = c.plain("quant_min"), c.plain("quant_max")
        return _applied(c, Quant(scale, np.zeros((), np.int64), lo - zero, hi - zero, Rounding.RND_CONV), x)

    return read


QUANTIZERS: dict[str, Callable[[Call], Any]] = {
    "hwcompile.quantize.default": _quantize,
    "quantized_decomposed.quantize_per_tensor.default": _to_codes(False),
    "quantized_decomposed.quantize_per_tensor.tensor": _to_codes(False),
    "quantized_decomposed.dequantize_per_tensor.default": _from_codes(False),
    "quantized_decomposed.dequantize_per_tensor.tensor": _from_codes(False),
    "quantized_decomposed.quantize_per_channel.default": _to_codes(True),
    "quantized_decomposed.dequantize_per_channel.default": _from_codes(True),
    "aten.fake_quantize_per_tensor_affine.default": _fake(False),
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": _fake(False),
    "aten.fake_quantize_per_channel_affine.default": _fake(True),
}
"""Every quantizing operator and the function that reads it."""


# ---- fake quantizers in a module --------------------------------------------------------------------------------------


def _as_operator(x: Any, scale: Any, zero: Any, lo: int, hi: int, axis: int | None = None) -> Any:
    """A fake quantizer of PyTorch by hwcompile's operator: the zero point moves the limits."""
    import torch

    def along(v: Any) -> Any:
        found = torch.as_tensor(v).detach().to(x.dtype)
        return found if axis is None else found.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])

    scale, zero = along(scale), along(zero)
    return quantize_operator()(x, scale, torch.zeros_like(zero), lo - zero, hi - zero, "RND_CONV", "SAT")


@contextmanager
def fake_quantizers() -> Iterator[None]:
    """While it is open, PyTorch's fake quantizers, which torch.export does not take, are hwcompile's operator."""
    import torch

    quantize_operator()

    def per_tensor(x: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Any:
        return _as_operator(x, scale, zero_point, quant_min, quant_max)

    def per_channel(x: Any, scale: Any, zero_point: Any, axis: int, quant_min: int, quant_max: int) -> Any:
        return _as_operator(x, scale, zero_point, quant_min, quant_max, axis)

    replaced = {
        torch.fake_quantize_per_tensor_affine: per_tensor,
        torch.fake_quantize_per_channel_affine: per_channel,
    }

    class Replace(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return replaced.get(func, func)(*args, **(kwargs or {}))

    with Replace():
        yield


def plain_fake_quantizers(module: Any) -> Any:
    """The module with torch.ao's FakeQuantize and its observers replaced by what they do at inference."""
    import torch

    from .torch_modules import replaced

    class Fixed(torch.nn.Module):
        def __init__(self, old: Any) -> None:
            super().__init__()
            self.axis = old.ch_axis if old.is_per_channel else None
            self.limits = int(old.activation_post_process.quant_min), int(old.activation_post_process.quant_max)
            self.register_buffer("scale", old.scale.detach().clone())
            self.register_buffer("zero", old.zero_point.detach().clone())

        def forward(self, x: Any) -> Any:
            return _as_operator(x, self.scale, self.zero, *self.limits, self.axis)

    def fixed(old: Any, where: str) -> Any:
        return Fixed(old) if int(old.fake_quant_enabled[0]) else torch.nn.Identity()

    return replaced(module, {"FakeQuantize": fixed, "FusedMovingAvgObsFakeQuantize": fixed}, "torch.ao.quantization")
