"""Turns PQuantML's torch layers into plain torch: pruned and quantized weights as they end, quantizers as hwcompile's operator.

The layers keep their own forward. Knows PQuantML's quantizers at inference: k sign, i integer and f fractional bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from .torch_modules import first_line, has_package, own_class, replaced
from .torch_quantize import quantize_operator

__all__ = ["PQUANT_LAYERS", "has_pquant", "plain_pquant"]

_FAR = float(1 << 40)
"""Limits of a quantizer that limits nothing, exact in float32."""


def has_pquant(module: Any) -> bool:
    """Some layer is of PQuantML."""
    return has_package(module, "pquant")


def plain_pquant(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The module (a copy in eval mode, changed in place) with final weights and plain quantizers.

    `arguments`, `named`: an example call, since layers make their quantizers when they are first called. Raises `CompileError`
    naming the layer for layers and quantizers that have no exact counterpart.
    """
    import torch

    try:
        with torch.no_grad():
            module(*arguments, **named)
    except Exception as e:  # whatever the library or forward raises, the example does not fit
        rule = f"does not run on the example inputs ({first_line(e)})"
        raise CompileError(
            type(module).__name__, rule, "check that module(*example_inputs) runs in eval mode"
        ) from None
    for path, part in list(module.named_modules()):
        kind = own_class(part, "pquant")
        if kind in PQUANT_LAYERS:
            with torch.no_grad():
                PQUANT_LAYERS[kind](part, path or kind)
    known = {"Quantizer": _quantizer}
    return replaced(module, known, "pquant", unknown=lambda kind: kind not in PQUANT_LAYERS)


# ---- layers -----------------------------------------------------------------------------------------------------------


def _weighted(layer: Any, where: str) -> None:
    """Pruning masks and quantizers of the parameters applied for good."""
    import torch

    layer.apply_final_compression()
    del layer.final_compression_done
    layer.final_compression_done = True
    if hasattr(layer, "pruning_layer"):
        layer.pruning_layer, layer.pruning_method = torch.nn.Identity(), ""


def _affine(layer: Any, where: str) -> None:
    """A normalization: its scale and bias applied for good, where it has them."""
    if layer._weight is None:
        return
    _weighted(layer, where)


def _as_it_is(layer: Any, where: str) -> None:
    """Only its quantizers are replaced."""


PQUANT_LAYERS: dict[str, Callable[[Any, str], None]] = {
    "PQDense": _weighted,
    "PQConv1d": _weighted,
    "PQConv2d": _weighted,
    "PQBatchNorm1d": _affine,
    "PQBatchNorm2d": _affine,
    "PQLayerNorm": _affine,
    "PQActivation": _as_it_is,
    "PQAvgPool1d": _as_it_is,
    "PQAvgPool2d": _as_it_is,
    "PQSoftmax": _as_it_is,
    "PQMultiheadAttention": _as_it_is,
}
"""Every supported layer of PQuantML and what is made final in it."""


# ---- quantizers -------------------------------------------------------------------------------------------------------


def _quantizer(old: Any, where: str) -> Any:
    """k, i and f bits as the limits of an integer times 2**-f; no bits at all give zero."""
    import torch

    named = f"{where} (Quantizer)"
    rounding, overflow = str(old.round_mode).upper().removeprefix("S_"), str(old.overflow).upper()
    if rounding not in Rounding.__members__:
        raise CompileError(named, f"round_mode must be one of {', '.join(Rounding.__members__)}, not {rounding}")
    if overflow not in ("SAT", "SAT_SYM", "WRAP"):
        raise CompileError(named, f"overflow must be SAT, SAT_SYM or WRAP, not {overflow}", "retrain with one of them")
    inner = old.quantizer
    if old.use_hgq and not inner.built:
        return old  # never called, so it is not in the program either
    if old.use_hgq and (inner.scaler is not None or inner.affine is not None):
        raise CompileError(named, "scaler and affine must be None", "fold them into the layer before")
    k, i, f = (torch.as_tensor(v).detach().double() for v in old.get_quantization_bits())
    if bool((f != f.round()).any() or (i != i.round()).any()):
        raise CompileError(named, f"bits must be whole, not i = {i.max():g}, f = {f.max():g}", "round them")
    empty = (k + i + f <= 0) if old.use_hgq else torch.zeros_like(k + i + f, dtype=torch.bool)
    steps = 2.0 ** (torch.maximum(i, -f) + f)
    hi = torch.where(empty, 0.0, steps - 1)
    lo = torch.where(empty, 0.0, -k * (hi if overflow == "SAT_SYM" else steps))
    if overflow == "WRAP" and old.use_hgq and not old.is_data:  # weights are only rounded
        overflow, lo, hi = "SAT", torch.where(empty, 0.0, -_FAR), torch.where(empty, 0.0, _FAR)
    if overflow == "SAT_SYM":  # the limits say it
        overflow = Overflow.SAT.value
    return _fixed(2.0**-f, lo, hi, rounding, overflow)


def _fixed(scale: Any, lo: Any, hi: Any, rounding: str, overflow: str) -> Any:
    import torch

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in (
                ("scale", scale),
                ("lo", lo),
                ("hi", hi),
                ("zero", torch.zeros((), dtype=torch.float64)),
            ):
                self.register_buffer(name, value)

        def forward(self, x: Any) -> Any:
            numbers = (v.to(x.dtype) for v in (self.scale, self.zero, self.lo, self.hi))
            return quantize_operator()(x, *numbers, rounding, overflow)

    return Fixed()
