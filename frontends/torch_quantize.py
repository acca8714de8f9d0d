"""`torch.ops.hwcompile.quantize`: fixed-point rounding as one operator that trains, exports and is read back exactly.

Knows torch's way to define operators, and nothing about networks.
"""

from __future__ import annotations

import functools
from typing import Any

from ..ir.rounding import Overflow, Rounding

__all__ = ["overflowed", "quantize_operator", "rounded"]

_SCHEMA = '(Tensor x, Tensor scale, Tensor zero, Tensor lo, Tensor hi, str rounding, str overflow="SAT") -> Tensor'


@functools.cache
def quantize_operator() -> Any:
    """The operator ``hwcompile::quantize(x, scale, zero, lo, hi, rounding, overflow="SAT")``, defined at the first call.

    It is ``(overflow(round(x / scale + zero), lo, hi) - zero) * scale`` in the type of x: `scale` positive, `zero`, `lo` and
    `hi` whole, all of them tensors that broadcast to x; `rounding` and `overflow` are names of `ir.rounding` (meanings of
    ap_fixed, UG1399). The integers ``lo..hi`` are those of the result before `zero` is taken away. `overflow` WRAP needs an
    interval of a power of two elements.

    Its gradient is straight through: 1 for x inside the interval and 0 outside (1 everywhere for WRAP); the scale has that of
    learned step sizes (Esser et al., arXiv:1902.08153), and zero, lo and hi have none.

    Raises `ValueError` for a mode that does not exist.
    """
    import torch

    def integers(x: Any, scale: Any, zero: Any, lo: Any, hi: Any, rounding: str, overflow: str) -> Any:
        return overflowed(rounded(x / scale + zero, Rounding(rounding)), lo, hi, Overflow(overflow))

    @torch.library.custom_op("hwcompile::quantize", mutates_args=(), schema=_SCHEMA)
    def quantize(x: Any, scale: Any, zero: Any, lo: Any, hi: Any, rounding: str, overflow: str = "SAT") -> Any:
        return ((integers(x, scale, zero, lo, hi, rounding, overflow) - zero) * scale).to(x.dtype)

    @quantize.register_fake
    def _(x: Any, *parameters: Any) -> Any:
        return torch.empty_like(x)

    def remember(ctx: Any, inputs: Any, output: Any) -> None:
        x, scale, zero, lo, hi, _, overflow = inputs
        ctx.save_for_backward(x, scale, zero, lo, hi)
        ctx.wraps = overflow == "WRAP"

    def backward(ctx: Any, gradient: Any) -> Any:
        x, scale, zero, lo, hi = ctx.saved_tensors
        steps = x / scale + zero
        inside = torch.ones_like(x, dtype=torch.bool) if ctx.wraps else (steps >= lo) & (steps <= hi)
        by_scale = torch.where(inside, torch.round(steps) - steps, torch.minimum(torch.maximum(steps, lo), hi) - zero)
        of_scale = (gradient * by_scale).sum_to_size(scale.shape) if ctx.needs_input_grad[1] else None
        return gradient * inside, of_scale, None, None, None, None, None

    quantize.register_autograd(backward, setup_context=remember)
    return torch.ops.hwcompile.quantize


def rounded(x: Any, mode: Rounding) -> Any:
    """x to whole numbers; exact in floating point, since ties are found from the remainder."""
    import torch

    if mode is Rounding.TRN_ZERO:
        return torch.trunc(x)
    if mode is Rounding.RND_CONV:
        return torch.round(x)
    down = torch.floor(x)
    rest = x - down
    if mode is Rounding.TRN:
        return down
    up = {
        Rounding.RND: rest >= 0.5,
        Rounding.RND_MIN_INF: rest > 0.5,
        Rounding.RND_ZERO: (rest > 0.5) | ((rest == 0.5) & (x < 0)),
        Rounding.RND_INF: (rest > 0.5) | ((rest == 0.5) & (x > 0)),
    }[mode]
    return down + up


def overflowed(n: Any, lo: Any, hi: Any, mode: Overflow) -> Any:
    import torch

    if mode is Overflow.WRAP:
        return torch.remainder(n - lo, hi - lo + 1) + lo
    if mode is Overflow.SAT_ZERO:
        return torch.where((n < lo) | (n > hi), torch.zeros_like(n), n)
    if mode is Overflow.SAT_SYM:
        lo = torch.where(lo < 0, torch.maximum(lo, -hi), lo)
    return torch.minimum(torch.maximum(n, lo), hi)
