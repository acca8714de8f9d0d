"""Keras activations by name as real ops, and the dispatch to quantizers and layers that stand where an activation does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .keras_context import Layer, class_and_config
from .qkeras import FUNCTIONS, QUANTIZERS, quantize
from .real import (
    Clip,
    Compare,
    Constant,
    Function,
    Gather,
    Leaky,
    Maximum,
    Mul,
    Offset,
    RealOp,
    Scale,
    Select,
    Softmax,
    Sub,
)

__all__ = ["ACTIVATIONS", "activate", "relu"]

Activation = Callable[[Layer, int, str], int]


def activate(c: Layer, spec: Any, x: int, suffix: str = "", quantized: bool = False) -> int:
    """The activation `spec` of node x: a name, a quantizer, or None.

    `quantized`: the layer is one of QKeras, whose hard_sigmoid and the like go before those of Keras. The last op is named
    after the layer and `suffix`.
    """
    if spec is None:
        return x
    if isinstance(spec, dict) and spec.get("class_name") == "function" and isinstance(spec.get("config"), str):
        spec = spec["config"]
    if isinstance(spec, dict):
        kind, config = class_and_config(c.where, spec)
        kind = kind.split(">")[-1]
        if kind in QUANTIZERS:
            return quantize(c, spec, x, suffix)
        if kind in _LAYERS:
            layer = c.inside(kind, config, c.weights, [x])
            found = _LAYERS[kind](layer)
            layer.finish()
            return found
        raise c.error(f"the activation '{kind}' is not supported", _known())
    if not isinstance(spec, str):
        raise c.error(f"the activation must be a name or a quantizer, not {spec!r}")
    name = spec.split(">")[-1]
    if name.split("(")[0] in QUANTIZERS or (quantized and name in FUNCTIONS):
        return quantize(c, name, x, suffix)
    if name not in ACTIVATIONS:
        raise c.error(f"the activation '{name}' is not supported", _known())
    return ACTIVATIONS[name](c, x, suffix)


def _known() -> str:
    return f"known: {', '.join(sorted([*ACTIVATIONS, *QUANTIZERS]))}"


def relu(c: Layer, x: int, top: float | None, slope: float, threshold: float, suffix: str = "") -> int:
    """x above the threshold, limited by `top`; slope * (x - threshold) below. At the threshold itself Keras gives 0."""
    if threshold == 0:
        y = c.add(Leaky(np.asarray(slope)), x, suffix=suffix) if slope else x
        if slope and top is None:
            return y
        return c.add(Clip(None if slope else 0.0, top), y, suffix=suffix)
    limit = c.add(Constant(np.asarray(threshold)), suffix=f"{suffix}.threshold")
    above = c.add(Compare("less"), limit, x, suffix=f"{suffix}.above")
    if slope:
        moved = c.add(Offset(np.asarray(-threshold)), x, suffix=f"{suffix}.moved")
        below = c.add(Scale(np.asarray(slope)), moved, suffix=f"{suffix}.below")
    else:
        below = c.add(Constant(np.asarray(0.0)), suffix=f"{suffix}.zero")
    y = c.add(Select(), above, x, below, suffix=suffix)
    return y if top is None else c.add(Clip(None, top), y, suffix=suffix)


def _relu_layer(c: Layer) -> int:
    top = c.get("max_value")
    slope, threshold = c.get("negative_slope", 0.0), c.get("threshold", 0.0)
    slope, threshold = (c.float32(k, 0.0 if v is None else v) for k, v in (("slope", slope), ("threshold", threshold)))
    top = None if top is None else c.float32("max_value", top)
    if slope < 0 or (top is not None and top < 0) or threshold < 0:
        raise c.error(f"negative_slope, max_value and threshold must be at least 0, not {slope}, {top}, {threshold}")
    if threshold and top is not None and top < threshold:
        raise c.error(f"max_value {top} must not be below the threshold {threshold}")
    return relu(c, c.x, top, slope, threshold)


def _leaky_layer(c: Layer) -> int:
    key = "negative_slope" if "negative_slope" in c.values else "alpha"
    return c.add(Leaky(np.asarray(c.number(key, 0.3))), c.x)


def _elu_layer(c: Layer) -> int:
    return c.add(Function("elu", (c.number("alpha", 1.0),)), c.x)


def _softmax_layer(c: Layer) -> int:
    return c.add(Softmax((c.axis(c.get("axis", -1), len(c.shape(c.x))),)), c.x)


_LAYERS: dict[str, Callable[[Layer], int]] = {
    "ReLU": _relu_layer,
    "LeakyReLU": _leaky_layer,
    "ELU": _elu_layer,
    "Softmax": _softmax_layer,
}
"""Layers that are activations alone."""

ACTIVATION_LAYERS = _LAYERS


def _op(make: Callable[[int], RealOp]) -> Activation:
    """One op, which may need to know how many axes its operand has."""
    return lambda c, x, suffix: c.add(make(len(c.shape(x))), x, suffix=suffix)


def _table(function: str) -> Activation:
    return _op(lambda rank: Function(function))


def _linear_clip(scale: float, offset: float) -> Activation:
    """clip(scale * x + offset, 0, 1)."""

    def apply(c: Layer, x: int, suffix: str) -> int:
        y = c.add(Scale(np.asarray(float(np.float32(scale)))), x, suffix=f"{suffix}.scale")
        return c.add(Clip(0.0, 1.0), c.add(Offset(np.asarray(offset)), y, suffix=f"{suffix}.offset"), suffix=suffix)

    return apply


def _hard_sigmoid(c: Layer, x: int, suffix: str) -> int:
    """Keras 2: clip(0.2 x + 0.5, 0, 1); Keras 3: clip(x + 3, 0, 6) / 6."""
    if c.version == 2:
        return _linear_clip(0.2, 0.5)(c, x, suffix)
    y = c.add(Clip(0.0, 6.0), c.add(Offset(np.asarray(3.0)), x, suffix=f"{suffix}.offset"), suffix=f"{suffix}.clip")
    return c.add(Scale(np.asarray(6.0), divide=True), y, suffix=suffix)


def _minus(function: Activation) -> Activation:
    """x - function(x)."""
    return lambda c, x, suffix: c.add(Sub(), x, function(c, x, f"{suffix}.part"), suffix=suffix)


def _hard_shrink(c: Layer, x: int, suffix: str) -> int:
    """x where its magnitude is above 0.5, else 0."""
    minus = c.add(Scale(np.asarray(-1.0)), x, suffix=f"{suffix}.neg")
    size = c.add(Maximum(), x, minus, suffix=f"{suffix}.size")
    limit = c.add(Constant(np.asarray(0.5)), suffix=f"{suffix}.limit")
    zero = c.add(Constant(np.asarray(0.0)), suffix=f"{suffix}.zero")
    return c.add(Select(), c.add(Compare("less"), limit, size, suffix=f"{suffix}.above"), x, zero, suffix=suffix)


def _log_sigmoid(c: Layer, x: int, suffix: str) -> int:
    """-softplus(-x)."""
    minus = c.add(Scale(np.asarray(-1.0)), x, suffix=f"{suffix}.neg")
    return c.add(
        Scale(np.asarray(-1.0)), c.add(Function("softplus"), minus, suffix=f"{suffix}.softplus"), suffix=suffix
    )


def _glu(c: Layer, x: int, suffix: str) -> int:
    """The first half of the last axis times the sigmoid of the second."""
    shape = c.shape(x)
    if shape[-1] % 2:
        raise c.error(f"glu needs an even number of channels, not {shape[-1]}")
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    first, second = (
        c.add(Gather(part.copy()), x, suffix=f"{suffix}.half{k}") for k, part in enumerate(np.split(flat, 2, axis=-1))
    )
    return c.add(Mul(), first, c.add(Function("sigmoid"), second, suffix=f"{suffix}.gate"), suffix=suffix)


ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda c, x, suffix: x,
    "relu": _op(lambda rank: Clip(0.0, None)),
    "relu6": _op(lambda rank: Clip(0.0, 6.0)),
    "leaky_relu": _op(lambda rank: Leaky(np.asarray(float(np.float32(0.2))))),
    "softmax": _op(lambda rank: Softmax((rank - 1,))),
    "log_softmax": _op(lambda rank: Softmax((rank - 1,), log=True)),
    "sigmoid": _table("sigmoid"),
    "tanh": _table("tanh"),
    "exponential": _table("exp"),
    "softplus": _table("softplus"),
    "softsign": _table("softsign"),
    "elu": _table("elu"),
    "selu": _table("selu"),
    "celu": _table("celu"),
    "gelu": _table("gelu"),
    "silu": _table("silu"),
    "swish": _table("silu"),
    "mish": _table("mish"),
    "hard_silu": _table("hard_swish"),
    "hard_swish": _table("hard_swish"),
    "hard_sigmoid": _hard_sigmoid,
    "sparse_sigmoid": _linear_clip(0.5, 0.5),
    "hard_tanh": _op(lambda rank: Clip(-1.0, 1.0)),
    "hard_shrink": _hard_shrink,
    "soft_shrink": _minus(_op(lambda rank: Clip(-0.5, 0.5))),
    "tanh_shrink": _minus(_table("tanh")),
    "log_sigmoid": _log_sigmoid,
    "glu": _glu,
}
"""Every activation that Keras knows by name and that is read."""
