"""Real units on the GPU: what `ir.evaluate.from_real` and `to_real` do, on torch tensors where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.errors import CompileError
from ...ir.evaluate import from_real as numpy_from_real
from ...ir.ops import Input
from ...ir.rational import Affine, is_power_of_two
from ...ir.rounding import Overflow, Rounding
from ...ir.types import Tensor

__all__ = ["from_real", "to_real"]


def _nearest(up_at_half: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """Rounding to the nearest; `up_at_half(x, floor)` says where a tie goes up."""

    def rounded(x: Any) -> Any:
        whole = x.floor()
        rest = x - whole
        return whole + ((rest > 0.5) | ((rest == 0.5) & up_at_half(x, whole)))

    return rounded


_ROUND: dict[Rounding, Callable[[Any], Any]] = {
    Rounding.TRN: lambda x: x.floor(),
    Rounding.TRN_ZERO: lambda x: x.trunc(),
    Rounding.RND: _nearest(lambda x, whole: x.isfinite()),
    Rounding.RND_MIN_INF: _nearest(lambda x, whole: x.isinf()),
    Rounding.RND_ZERO: _nearest(lambda x, whole: x < 0),
    Rounding.RND_INF: _nearest(lambda x, whole: x >= 0),
    Rounding.RND_CONV: lambda x: x.round(),
}


def from_real(op: Input, x: Any) -> Any:
    """A torch tensor ``[events, *shape]`` of numbers to the raw integers of an input, int64 on the same device.

    Raises `CompileError` for NaN and infinity.
    """
    import torch

    if op.overflow is not Overflow.SAT:
        return torch.from_numpy(numpy_from_real(op, x.cpu().numpy())).to(x.device)
    if not bool(torch.isfinite(x).all()):
        raise CompileError("input", "data must be finite, not NaN or infinite", "clean the data")

    def on_device(values: Any, kind: Any) -> Any:
        return torch.as_tensor(np.asarray(values, np.float64), device=x.device).to(kind)

    lo, hi, exp = op.fixed.arrays(op.shape)
    unit = np.ldexp(np.asarray(op.real.scale, np.float64), exp)
    zero = np.asarray(op.real.offset, np.float64) / unit
    kind = torch.float64 if is_power_of_two(op.real.scale) else torch.float32  # as the law divides
    steps = (x.to(kind) / on_device(unit, kind) - on_device(zero, kind)).to(torch.float64)
    rounded = _ROUND[op.rounding](steps)
    return torch.minimum(torch.maximum(rounded, on_device(lo, rounded.dtype)), on_device(hi, rounded.dtype)).long()


def to_real(t: Tensor, real: Affine, n: Any) -> Any:
    """Raw integers of an output, a torch tensor, to real units in float64."""
    import torch

    def on_device(values: Any) -> Any:
        return torch.as_tensor(np.asarray(values, np.float64), device=n.device)

    value = n.double() * on_device(np.ldexp(1.0, np.asarray(t.fixed.exp)))
    return value if real.is_identity else value * on_device(real.scale) + on_device(real.offset)
