"""Turns Brevitas layers into plain torch: every quantizer becomes hwcompile's operator with what Brevitas uses at inference.

The layers keep their own forward; their quantizers are replaced by fixed ones, whose scales, zero points and integers are
those that one run of the module in eval mode showed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..ir.errors import CompileError
from .torch_modules import first_line, has_package, own_class, replaced
from .torch_quantize import quantize_operator

__all__ = ["BREVITAS_LAYERS", "has_brevitas", "plain_brevitas"]

_FAR = float(1 << 40)
"""Limits of a quantizer that limits nothing, exact in float32."""

_ROUNDING = {"RoundSte": "RND_CONV", "FloorSte": "TRN", "RoundToZeroSte": "TRN_ZERO", "CeilSte": "CEIL"}
"""Brevitas' rounding modules; CEIL is TRN of the negated value."""

_Made = Callable[[Any, str, Mapping[int, "list[_Seen]"]], Any]


def has_brevitas(module: Any) -> bool:
    """Some layer is of Brevitas."""
    return has_package(module, "brevitas")


def plain_brevitas(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The module (a copy in eval mode, changed in place) with plain quantizers instead of Brevitas'.

    `arguments`, `named`: an example call. Raises `CompileError` naming the layer for layers and quantizers that have no exact
    counterpart: minifloat, groupwise, dynamic and stochastic ones.
    """
    patched = {k: _bound(BREVITAS_LAYERS[k], {}) for k in _BROKEN}
    seen = _recorded(replaced(module, patched, "brevitas"), arguments, named)
    table = {k: _bound(make, seen) for k, make in BREVITAS_LAYERS.items()}
    return replaced(module, table, "brevitas", unknown=lambda kind: True)


def _bound(make: _Made, seen: Mapping[int, list[_Seen]]) -> Callable[[Any, str], Any]:
    return lambda layer, where: make(layer, where, seen)


# ---- what the quantizers do -------------------------------------------------------------------------------------------


class _Seen:
    """The parameters of one call of a quantizer: of its result and, for a truncation, of its operand."""

    def __init__(self, found: Any, operand: Any) -> None:
        self.value, self.scale, self.zero, self.bits = found.value, found.scale, found.zero_point, found.bit_width
        self.signed = bool(found.signed)
        self.operand_scale = getattr(operand, "scale", found.scale)


def _recorded(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[int, list[_Seen]]:
    """What every quantizer of the module used in one run, by the identity of the quantizer."""
    import torch

    seen: dict[int, list[_Seen]] = {}

    def watch(quantizer: Any, operands: Any, result: Any) -> None:
        if hasattr(result, "scale") and hasattr(result, "bit_width"):
            seen.setdefault(id(quantizer), []).append(_Seen(result, operands[0] if operands else None))

    hooks = [m.register_forward_hook(watch) for m in module.modules() if _is_quantizer(m)]
    try:
        with torch.no_grad():
            module(*arguments, **named)
    except CompileError:
        raise
    except Exception as e:  # whatever Brevitas or forward raises, the example does not fit
        rule = f"does not run on the example inputs ({first_line(e)})"
        raise CompileError(
            type(module).__name__, rule, "check that module(*example_inputs) runs in eval mode"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _is_quantizer(module: Any) -> bool:
    return any(
        c.__module__.startswith("brevitas.proxy") and c.__name__.endswith("Injector") for c in type(module).__mro__
    )


def _tensors(like: Any, *values: Any) -> list[Any]:
    """Constants in the type of a tensor."""
    import torch

    return [torch.as_tensor(v).detach().clone().to(like.dtype) for v in values]


def _limits(layer: Any, seen: _Seen, where: str) -> tuple[int, int]:
    """The integers of a quantizer: of a bit width, signed or not, narrow or not."""
    if seen.bits.numel() != 1 or float(seen.bits) != int(seen.bits):
        raise CompileError(
            where, f"the bit width must be one whole number, not {seen.bits.tolist()}", "fix the bit width"
        )
    bits, narrow = int(seen.bits), bool(layer.is_narrow_range)
    if seen.signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def _rounding(implementation: Any, where: str) -> str:
    kind = type(implementation).__name__
    if kind not in _ROUNDING:
        rule = f"the rounding {kind} is not supported"
        raise CompileError(where, rule, f"known: {', '.join(_ROUNDING)}")
    return _ROUNDING[kind]


def _module(forward: Callable[..., Any], **buffers: Any) -> Any:
    """A plain torch module with constants and a forward, which answers as an enabled quantizer would."""
    import torch

    class Plain(torch.nn.Module):
        is_quant_enabled = True
        requires_quant_input = False
        export_mode = False

        def forward(self, *operands: Any) -> Any:
            return forward(self, *operands)

    made = Plain()
    for name, value in buffers.items():
        made.register_buffer(name, value)
    return made


def _quantized(rounding: str, x: Any, scale: Any, zero: Any, lo: Any, hi: Any) -> Any:
    quantize = quantize_operator()
    if rounding == "CEIL":  # ceil(x) = -floor(-x)
        return -quantize(-x, scale, -zero, -hi, -lo, "TRN", "SAT")
    return quantize(x, scale, zero, lo, hi, rounding, "SAT")


# ---- quantizers -------------------------------------------------------------------------------------------------------


def _activation(quantizer: Any, where: str, seen: list[_Seen]) -> Any:
    """An activation with the quantizer behind it."""
    import torch

    fused = quantizer.fused_activation_quant_proxy
    if fused is None:
        return _module(lambda m, x: x)
    act = fused.activation_impl
    plain = torch.nn.Identity() if own_class(act, "brevitas") == "Identity" else act
    if not quantizer.is_quant_enabled:
        return _with(plain, _module(lambda m, x: x))
    _refuse_kind(quantizer, where)
    if not seen:
        return quantizer  # never called, so it is not in the program either
    one, kind = seen[0], type(fused.tensor_quant).__name__
    like = one.value
    if kind in ("BinaryQuant", "ClampedBinaryQuant"):
        zero, low, scale = _tensors(like, torch.tensor(0.0), torch.tensor(-1.0), one.scale)
        unit = torch.ones_like(zero)
        sign = _module(
            lambda m, x: (2 * _quantized("TRN", x, m.unit, m.zero, m.low, m.zero) + 1) * m.scale,
            zero=zero, low=low, scale=scale, unit=unit,
        )  # fmt: skip
        return _with(plain, sign)
    if kind == "TernaryQuant":
        scale, limit = _tensors(like, one.scale, fused.tensor_quant.threshold * one.scale)
        sign = _module(
            lambda m, x: ((x > m.limit).to(x.dtype) - (x < -m.limit).to(x.dtype)) * m.scale, scale=scale, limit=limit
        )
        return _with(plain, sign)
    if kind != "RescalingIntQuant":
        raise CompileError(
            where, f"the quantizer {kind} is not supported", "known: integer, binary and ternary quantizers"
        )
    inner = fused.tensor_quant.int_quant
    if type(inner).__name__ != "IntQuant" or type(inner.delay_wrapper.delay_impl).__name__ != "_NoDelay":
        raise CompileError(
            where, f"the quantizer {type(inner).__name__} is not supported with a delay", "use quant_delay_steps=0"
        )
    rounding = _rounding(inner.float_to_int_impl, where)
    scale, zero, lo, hi = _tensors(like, one.scale, one.zero, *_limits(quantizer, one, where))
    step = _module(
        lambda m, x: _quantized(rounding, x, m.scale, m.zero, m.lo, m.hi), scale=scale, zero=zero, lo=lo, hi=hi
    )
    return _with(plain, step)


def _with(act: Any, quantizer: Any) -> Any:
    """An activation in front of a quantizer."""
    quantizer.act = act
    forward = type(quantizer).forward
    type(quantizer).forward = lambda self, x: forward(self, self.act(x))
    return quantizer


def _refuse_kind(quantizer: Any, where: str) -> None:
    kind = type(quantizer).__name__
    for word, why in (
        ("Dynamic", "scales depend on the data"),
        ("Group", "it is groupwise"),
        ("Float", "it is no integer type"),
    ):
        if word in kind:
            raise CompileError(where, f"the quantizer {kind} is not supported: {why}", "use a static integer quantizer")


def _constant(quantizer: Any, where: str, seen: list[_Seen]) -> Any:
    """Weights or a bias: the values that Brevitas used, as integers times their scale; one per call of a shared layer."""
    import torch

    if not quantizer.is_quant_enabled:
        return _module(lambda m, x, *rest: x)
    _refuse_kind(quantizer, where)
    if not seen:
        return quantizer
    buffers: dict[str, Any] = {}
    for k, one in enumerate(seen):
        value, scale, zero = (t.detach().double() for t in (one.value, one.scale, one.zero))
        whole = torch.round(value / scale + zero)
        if not torch.allclose((whole - zero) * scale, value, rtol=1e-4, atol=float(scale.min()) * 1e-3):
            raise CompileError(where, "its values are no whole multiples of its scale", "use an integer quantizer")
        numbers = _tensors(one.value, one.value, one.scale, one.zero, whole.min(), whole.max())
        buffers.update({f"{name}{k}": n for name, n in zip(("value", "scale", "zero", "lo", "hi"), numbers)})
    turn = _Turn(len(seen))

    def forward(m: Any, x: Any, *rest: Any) -> Any:
        k = turn.next()
        return _quantized("RND_CONV", *(getattr(m, f"{n}{k}") for n in ("value", "scale", "zero", "lo", "hi")))

    return _module(forward, **buffers)


class _Turn:
    """Counts the calls of a quantizer within a run of the module."""

    def __init__(self, calls: int) -> None:
        self.calls, self.at = calls, -1

    def next(self) -> int:
        self.at = (self.at + 1) % self.calls
        return self.at


def _truncation(quantizer: Any, where: str, seen: list[_Seen]) -> Any:
    """To whole numbers of the operand's scale first, then low bits off."""
    if not quantizer.is_quant_enabled or not seen:
        return _module(lambda m, x: x)
    one, kind = seen[0], type(quantizer.tensor_quant).__name__
    if kind != "TruncIntQuant" or any(float(s.zero.abs().max()) for s in seen):
        raise CompileError(
            where, f"the truncation {kind} is not supported", "known: TruncIntQuant without a zero point"
        )
    if len({(s.scale.item(), s.operand_scale.item()) for s in seen}) > 1:
        raise CompileError(where, "is called with different scales", "use a layer for each call")
    rounding = _rounding(quantizer.tensor_quant.float_to_int_impl, where)
    inner, scale, lo, hi, far, zero = _tensors(
        one.value, one.operand_scale, one.scale, *_limits(quantizer, one, where), _FAR, 0.0
    )

    def forward(m: Any, x: Any) -> Any:
        whole = _quantized("RND_CONV", x, m.inner, m.zero, -m.far, m.far)
        return _quantized(rounding, whole, m.scale, m.zero, m.lo, m.hi)

    return _module(forward, inner=inner, scale=scale, lo=lo, hi=hi, far=far, zero=zero)


_QUANTIZERS = {
    "input_quant": _activation,
    "act_quant": _activation,
    "output_quant": _activation,
    "weight_quant": _constant,
    "bias_quant": _constant,
    "trunc_quant": _truncation,
}
"""The quantizers of a layer by attribute, and how each becomes plain."""


# ---- layers -----------------------------------------------------------------------------------------------------------


def _layer(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    """The layer itself, with plain quantizers: Brevitas' own forward does the rest."""
    made: dict[int, Any] = {}
    named = f"{where} ({own_class(layer, 'brevitas')})"
    for name, make in _QUANTIZERS.items():
        quantizer = getattr(layer, name, None)
        if quantizer is None or not _is_quantizer(quantizer):
            continue
        if id(quantizer) not in made:
            made[id(quantizer)] = make(quantizer, f"{named} {name}", seen.get(id(quantizer), []))
        setattr(layer, name, made[id(quantizer)])
    if hasattr(layer, "return_quant_tensor"):
        layer.return_quant_tensor = False
    return layer


def _attention(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    """Attention, which is made of layers. Packed projections belong to self-attention: one product, cut in three."""
    for name, child in list(layer.named_children()):
        kind = own_class(child, "brevitas")
        if kind in BREVITAS_LAYERS:
            setattr(layer, name, BREVITAS_LAYERS[kind](child, f"{where}.{name}", seen))
    if layer.in_proj is not None:
        packed, kept = layer.in_proj, list[Any]()
        layer.in_proj = None
        for k, name in enumerate(("q_proj", "k_proj", "v_proj")):
            setattr(layer, name, _third(packed, kept, k))
    return layer


def _third(packed: Any, kept: list[Any], k: int) -> Any:
    """One of three projections of the same operand; the first one computes them all."""

    def forward(m: Any, x: Any) -> Any:
        if k == 0:
            kept[:] = m.packed(x).chunk(3, dim=-1)
        return kept[k]

    made = _module(forward)
    if k == 0:
        made.packed = packed
    return made


def _scale_bias(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    """x * weight + bias; Brevitas asks a whole bias for its truth."""
    return _forward(
        layer, lambda m, x: x * m.weight.view(m.runtime_shape) + (0 if m.bias is None else m.bias.view(m.runtime_shape))
    )


def _forward(layer: Any, forward: Callable[..., Any]) -> Any:
    """The layer with another forward, unless a user's subclass has its own."""
    import types

    if type(layer).__module__.startswith("brevitas"):
        layer.forward = types.MethodType(forward, layer)
    return layer


def _average(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    """The average, then the truncation, which Brevitas leaves out for tensors without a scale."""
    import torch

    layer = _layer(layer, where, seen)
    pool = torch.nn.AdaptiveAvgPool2d if isinstance(layer, torch.nn.AdaptiveAvgPool2d) else torch.nn.AvgPool2d
    return _forward(layer, lambda m, x: m.trunc_quant(pool.forward(m, x)))


def _cat(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    import torch

    layer = _layer(layer, where, seen) if seen else layer
    return _forward(
        layer, lambda m, tensors, dim=1: m.output_quant(torch.cat([m.input_quant(t) for t in tensors], dim))
    )


def _upsample(layer: Any, where: str, seen: Mapping[int, list[_Seen]]) -> Any:
    import torch

    if layer.mode != "nearest":
        raise CompileError(
            f"{where} ({type(layer).__name__})", f"mode must be nearest, not {layer.mode}", "use nearest"
        )
    return _forward(layer, lambda m, x: torch.nn.functional.interpolate(x, m.size, m.scale_factor, m.mode))


BREVITAS_LAYERS: dict[str, _Made] = {
    **dict.fromkeys(
        ("QuantLinear", "QuantConv1d", "QuantConv2d", "QuantConvTranspose1d", "QuantConvTranspose2d"), _layer
    ),
    **dict.fromkeys(
        ("QuantReLU", "QuantIdentity", "QuantHardTanh", "QuantSigmoid", "QuantTanh", "QuantHardSwish"), _layer
    ),
    **dict.fromkeys(("QuantScaleBias", "BatchNorm1dToQuantScaleBias", "BatchNorm2dToQuantScaleBias"), _layer),
    "QuantEltwiseAdd": _layer,
    "QuantEmbedding": _layer,
    "QuantMultiheadAttention": _attention,
    "ScaleBias": _scale_bias,
    "QuantCat": _cat,
    "TruncAvgPool2d": _average,
    "TruncAdaptiveAvgPool2d": _average,
    "QuantUpsample": _upsample,
    "QuantUpsamplingNearest2d": _upsample,
}
"""Every supported layer of Brevitas and how it becomes plain torch."""

_BROKEN = ("QuantCat", "ScaleBias")
"""Layers whose own forward fails in some versions of Brevitas; ours runs with their quantizers too."""
