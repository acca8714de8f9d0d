"""QKeras quantizers as real ops, and what they make of a layer's weights. Knows no layer.

The numbers are those of QKeras 0.9 at inference: no noise, no stochastic rounding, the hard sigmoid inside of the sigmoid
and tanh quantizers (`set_internal_sigmoid` is not stored in a file). On power-of-two grids its float32 arithmetic is exact
up to values of 2**24 steps, so that it equals these ops bit for bit; with a float `alpha` its results differ from the exact
ones by float32 rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.rounding import Rounding
from .keras_context import Config, Layer, Weight, class_and_config
from .qkeras_weights import AUTOMATIC
from .real import (
    Bipolar,
    Clip,
    Compare,
    Constant,
    Float,
    Function,
    Leaky,
    Mul,
    Offset,
    Quant,
    RealBuilder,
    RealOp,
    Scale,
    Sub,
    evaluate_real,
)
from .real import Input as RealInput

__all__ = ["FUNCTIONS", "QUANTIZERS", "quantize", "quantize_weights"]

_MAX_BITS = 61


Core = Callable[[Config, Callable[..., int], int], int]


def _quant(add: Callable[..., int], x: int, exponent: int, lo: int, hi: int, suffix: str = "") -> int:
    zero = np.zeros((), np.int64)
    return add(Quant(np.asarray(np.ldexp(1.0, exponent)), zero, lo, hi, Rounding.RND_CONV), x, suffix=suffix)


def _bits(q: Config, least: int = 1) -> int:
    bits = q.whole("bits", 8)
    if not least <= bits <= _MAX_BITS:
        raise q.error(f"bits must be from {least} to {_MAX_BITS}, not {bits}")
    return bits


def _exponent(q: Config, bits: int) -> int:
    """The exponent of one step of a grid of `bits` bits without sign."""
    integer = q.whole("integer", 0)
    if abs(integer) > _MAX_BITS:
        raise q.error(f"integer must be from -{_MAX_BITS} to {_MAX_BITS}, not {integer}")
    return integer - bits


def _quantized_bits(q: Config, add: Callable[..., int], x: int) -> int:
    bits, keep, symmetric = _bits(q), q.flag("keep_negative", True), q.flag("symmetric", False)
    exponent = _exponent(q, bits - keep)
    if bits == keep:  # one bit with a sign is the sign, whatever `integer`
        return add(Bipolar(np.asarray(1.0)), x)
    steps = 1 << (bits - keep)
    return _quant(add, x, exponent, keep * (symmetric - steps), steps - 1)


def _quantized_linear(q: Config, add: Callable[..., int], x: int) -> int:
    """Unlike quantized_bits, a numeric alpha is part of the grid: the operand is divided by it."""
    bits, keep, symmetric = _bits(q), q.flag("keep_negative", True), q.flag("symmetric", True)
    exponent, alpha = _exponent(q, bits - keep), _factor(q, q.get("alpha"))
    if alpha.size != 1 or alpha.reshape(-1)[0] <= 0:
        raise q.error(f"alpha must be one positive number, not {alpha.tolist()}")
    unit = float(alpha.reshape(-1)[0])
    if bits == keep:
        return add(Bipolar(np.asarray(np.ldexp(unit, exponent - 1))), x)
    steps, zero = 1 << (bits - keep), np.zeros((), np.int64)
    scale = np.asarray(np.ldexp(unit, exponent))
    return add(Quant(scale, zero, keep * (symmetric - steps), steps - 1, Rounding.RND_CONV), x)


def _quantized_relu(q: Config, add: Callable[..., int], x: int) -> int:
    slope, top = q.number("negative_slope", 0.0), q.get("relu_upper_bound")
    bits = _bits(q) - (slope != 0)
    clipped, sigmoid = q.flag("is_quantized_clip", True), q.flag("use_sigmoid", False)
    exponent, steps = _exponent(q, bits), 1 << bits
    if slope < 0 or (slope and np.frexp(slope)[0] != 0.5):
        raise q.error(f"negative_slope must be a power of two or 0, not {slope:g}")
    if slope and slope * steps < 1:
        raise q.error(f"negative_slope {slope:g} must be at least one step of {bits} bits", "use more bits")
    if sigmoid:
        if slope:
            raise q.error("use_sigmoid with a negative_slope is not supported", "use one of them")
        y = _sigmoid_ratio(q, add, x, bits)
    else:
        if slope:
            x = add(Leaky(np.asarray(slope)), x, suffix=".leaky")
        y = _quant(add, x, exponent, -int(slope * steps), steps - 1)
    if top and not clipped:
        y = add(Clip(None, q.float32("relu_upper_bound", top)), y, suffix=".top")
    return y


def _sigmoid_ratio(q: Config, add: Callable[..., int], x: int, bits: int) -> int:
    """2**integer * clip(2 round(hard_sigmoid(x / 2**integer) * m) / m - 1, 0, 1 - 1 / m) with m = 2**bits."""
    integer = q.whole("integer", 0)
    half = add(Scale(np.asarray(np.ldexp(0.5, bits - integer))), x, suffix=".half")
    moved = add(Offset(np.asarray(np.ldexp(0.5, bits))), half, suffix=".moved")
    whole = _quant(add, moved, 0, 0, 1 << bits, ".whole")
    wide = add(Scale(np.asarray(np.ldexp(2.0, integer - bits))), whole, suffix=".wide")
    back = add(Offset(np.asarray(-np.ldexp(1.0, integer))), wide, suffix=".back")
    return add(Clip(0.0, float(np.ldexp(1 - np.ldexp(1.0, -bits), integer))), back)


def _hard_sigmoid(add: Callable[..., int], x: int, slope: float = 0.5, suffix: str = "") -> int:
    y = add(Offset(np.asarray(0.5)), add(Scale(np.asarray(slope)), x, suffix=".slope"), suffix=".offset")
    return add(Clip(0.0, 1.0), y, suffix=suffix)


def _quantized_sigmoid(q: Config, add: Callable[..., int], x: int) -> int:
    bits, symmetric = _bits(q), q.flag("symmetric", False)
    if q.flag("use_real_sigmoid", False):
        y = add(Function("sigmoid"), x, suffix=".sigmoid")
    else:
        y = _hard_sigmoid(add, x, suffix=".sigmoid")
    return _quant(add, y, -bits, int(symmetric), (1 << bits) - 1)


def _quantized_tanh(q: Config, add: Callable[..., int], x: int) -> int:
    bits, symmetric = _bits(q, 2), q.flag("symmetric", False)
    y = add(Function("tanh") if q.flag("use_real_tanh", False) else Clip(-1.0, 1.0), x, suffix=".tanh")
    steps = 1 << (bits - 1)
    return _quant(add, y, 1 - bits, symmetric - steps, steps - 1)


def _quantized_hswish(q: Config, add: Callable[..., int], x: int) -> int:
    """x * clip(x + relu_shift, 0, relu_upper_bound) / relu_upper_bound, then quantized_bits."""
    shift, top = q.number("relu_shift", 3), q.number("relu_upper_bound", 6)
    if shift <= 0 or top <= 0:
        raise q.error(f"relu_shift and relu_upper_bound must be positive, not {shift:g} and {top:g}")
    gate = add(Clip(0.0, top), add(Offset(np.asarray(shift)), x, suffix=".shift"), suffix=".gate")
    y = add(Mul(), x, gate, suffix=".product")
    return _quantized_bits(q, add, add(Scale(np.asarray(top), divide=True), y, suffix=".swish"))


def _binary(q: Config, add: Callable[..., int], x: int) -> int:
    if not q.flag("use_01", False):
        return add(Bipolar(np.asarray(1.0)), x)
    return add(Compare("less_equal"), add(Constant(np.asarray(0.0)), suffix=".zero"), x)


def _ternary(q: Config, add: Callable[..., int], x: int) -> int:
    """-1, 0 or 1 by a threshold on the magnitude."""
    threshold = q.get("threshold")
    limit = q.float32("threshold", 0.33 if threshold is None else threshold)
    if limit <= 0:
        raise q.error(f"threshold must be positive, not {limit:g}")
    high, low = (add(Constant(np.asarray(v)), suffix=s) for v, s in ((limit, ".limit"), (-limit, ".minus_limit")))
    above = add(Compare("less_equal"), high, x, suffix=".above")
    return add(Sub(), above, add(Compare("less_equal"), x, low, suffix=".below"))


def _power_of_two(q: Config, add: Callable[..., int], x: int, bits: int) -> int:
    """sign(x) 2**k with the exponent nearest to log2 |x|, as float32 rounds the logarithm; `bits` for the exponent.

    Exponents too far apart for one fixed-point type get no quantizer: weights need none, and data are refused for that.
    """
    top, even = q.get("max_value"), q.flag("quadratic_approximation", False)
    top = None if top is None else q.float32("max_value", top)
    if top is not None and top < 0:
        raise q.error(f"max_value must be at least 0, not {top:g}")
    floor = q.choice("log2_rounding", "rnd", "rnd", "floor") == "floor"
    bits -= top is None or top > 1
    lowest, highest = -(2.0**bits), 2.0**bits - 1
    highest = 2 * (highest // 2) if even else highest
    first, last = (int((1 + even) * v) for v in (lowest, highest))
    if bits < 0:
        raise q.error("bits must hold the exponent and its sign", "use more bits")
    parameters = (lowest, highest, np.inf if top is None else top, float(even), float(floor))
    if last - first > _MAX_BITS:
        return add(Function("po2", parameters), x)
    y = add(Function("po2", parameters), x, suffix=".po2")
    return _quant(add, y, first, -(1 << (last - first)), 1 << (last - first))


def _quantized_po2(q: Config, add: Callable[..., int], x: int) -> int:
    return _power_of_two(q, add, x, _bits(q) - 1)


def _quantized_relu_po2(q: Config, add: Callable[..., int], x: int) -> int:
    slope = q.number("negative_slope", 0.0)
    if slope < 0 or (slope and np.frexp(slope)[0] != 0.5):
        raise q.error(f"negative_slope must be a power of two or 0, not {slope:g}")
    x = add(Leaky(np.asarray(slope)) if slope else Clip(0.0, None), x, suffix=".relu")
    return _power_of_two(q, add, x, _bits(q))


@dataclass(frozen=True)
class _Kind:
    """A class of quantizers: its parameters in the order of its constructor, and its ops."""

    parameters: tuple[str, ...]
    apply: Core
    alpha: bool = False  # the result is multiplied by `alpha`
    trainable: bool = False  # without alpha, the weights of a kernel get "auto_po2"


_NOISE = ("qnoise_factor", "var_name", "use_ste", "use_variables")
_TRAINING = ("use_stochastic_rounding", "var_name", "use_ste", "use_variables", "temperature", "number_of_unrolls")
"""Parameters that change nothing at inference, except `number_of_unrolls` for automatic scales, where it is read."""

QUANTIZERS: dict[str, _Kind] = {
    "quantized_bits": _Kind(
        ("bits", "integer", "symmetric", "keep_negative", "alpha", "use_stochastic_rounding", "scale_axis", *_NOISE),
        _quantized_bits, alpha=True, trainable=True,
    ),
    "quantized_linear": _Kind(
        ("bits", "integer", "symmetric", "keep_negative", "alpha", "use_stochastic_rounding", "scale_axis", *_NOISE[:2]),
        _quantized_linear,
    ),
    "quantized_relu": _Kind(
        ("bits", "integer", "use_sigmoid", "negative_slope", "use_stochastic_rounding", "relu_upper_bound",
         "is_quantized_clip", *_NOISE),
        _quantized_relu,
    ),
    "quantized_sigmoid": _Kind(("bits", "symmetric", "use_real_sigmoid", "use_stochastic_rounding"), _quantized_sigmoid),
    "quantized_tanh": _Kind(("bits", "use_stochastic_rounding", "symmetric", "use_real_tanh"), _quantized_tanh),
    "quantized_hswish": _Kind(
        ("bits", "integer", "symmetric", "alpha", "use_stochastic_rounding", "scale_axis", *_NOISE, "relu_shift",
         "relu_upper_bound"),
        _quantized_hswish, alpha=True, trainable=True,
    ),
    "binary": _Kind(("use_01", "alpha", "use_stochastic_rounding"), _binary, alpha=True, trainable=True),
    "stochastic_binary": _Kind(("alpha", "temperature", "use_real_sigmoid"), _binary, alpha=True, trainable=True),
    "ternary": _Kind(
        ("alpha", "threshold", "use_stochastic_rounding", "number_of_unrolls"), _ternary, alpha=True, trainable=True
    ),
    "stochastic_ternary": _Kind(
        ("alpha", "threshold", "temperature", "use_real_sigmoid", "number_of_unrolls"), _ternary, alpha=True, trainable=True,
    ),
    "quantized_po2": _Kind(
        ("bits", "max_value", "use_stochastic_rounding", "quadratic_approximation", "log2_rounding", *_NOISE), _quantized_po2
    ),
    "quantized_relu_po2": _Kind(
        ("bits", "max_value", "negative_slope", "use_stochastic_rounding", "quadratic_approximation", "log2_rounding", *_NOISE),
        _quantized_relu_po2,
    ),
}  # fmt: skip
"""Every quantizer that is read; quantized_ulaw (logarithmic) and bernoulli (random) are refused by name."""

_REFUSED = {"quantized_ulaw": "its grid is logarithmic", "bernoulli": "its result is random at inference too"}


def _binary_sigmoid(q: Config, add: Callable[..., int], x: int) -> int:
    return _quant(add, _hard_sigmoid(add, x, suffix=".sigmoid"), 0, 0, 1)


def _binary_tanh(q: Config, add: Callable[..., int], x: int) -> int:
    whole = _quant(add, _hard_sigmoid(add, x, suffix=".sigmoid"), 0, 0, 1, ".whole")
    return add(Offset(np.asarray(-1.0)), add(Scale(np.asarray(2.0)), whole, suffix=".twice"))


def _smooth_tanh(q: Config, add: Callable[..., int], x: int) -> int:
    y = add(Scale(np.asarray(2.0)), _hard_sigmoid(add, x, 0.1875, ".sigmoid"), suffix=".twice")
    return add(Offset(np.asarray(-1.0)), y)


FUNCTIONS: dict[str, Core] = {
    "hard_sigmoid": lambda q, add, x: _hard_sigmoid(add, x),
    "smooth_sigmoid": lambda q, add, x: _hard_sigmoid(add, x, 0.1875),
    "hard_tanh": lambda q, add, x: add(Clip(-1.0, 1.0), x),
    "smooth_tanh": _smooth_tanh,
    "binary_sigmoid": _binary_sigmoid,
    "binary_tanh": _binary_tanh,
}
"""Functions of QKeras that may stand where a quantizer does."""


# ---- reading ----------------------------------------------------------------------------------------------------------


def _value(where: str, text: str) -> Any:
    """An argument in a quantizer's text, as QKeras reads it: a number, True, False, None, or a word in quotes."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    raise CompileError(where, f"the argument {text!r} of a quantizer must be a number or a word in quotes")


def _from_text(where: str, text: str) -> tuple[str, dict[str, Any]]:
    """(name, configuration) of a text such as ``quantized_bits(6, 0, alpha=1)``; nothing is evaluated."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    if not match:
        raise CompileError(where, f"a quantizer must be written as 'quantized_bits(6,0,alpha=1)', not {text[:60]!r}")
    name, given = _known(where, match[1]), match[2] or ""
    parameters = QUANTIZERS[name].parameters if name in QUANTIZERS else ()
    found: dict[str, Any] = {}
    for k, part in enumerate(p.strip() for p in given.split(",") if p.strip()):
        key, _, value = part.rpartition("=")
        if not key and k >= len(parameters):
            raise CompileError(
                where, f"{name} takes at most {len(parameters)} arguments", f"as in {', '.join(parameters)}"
            )
        found[key.strip() or parameters[k]] = _value(where, value.strip())
    return name, found


def _known(where: str, name: str) -> str:
    """The name of a quantizer without its package, if it is one that is read."""
    name = name.rpartition(">")[2]
    if name in _REFUSED:
        raise CompileError(where, f"{name} is not supported: {_REFUSED[name]}", "use quantized_bits")
    if name not in QUANTIZERS and name not in FUNCTIONS:
        raise CompileError(
            where, f"the quantizer '{name}' is not known", f"known: {', '.join(sorted([*QUANTIZERS, *FUNCTIONS]))}"
        )
    return name


def _parse(where: str, spec: Any) -> tuple[str, Config]:
    name, config = _from_text(where, spec) if isinstance(spec, str) else class_and_config(where, spec)
    name = _known(where, name)
    q = Config(f"{where}: {name}", config)
    q.ignore(*_TRAINING)
    if name in ("quantized_hswish", "stochastic_binary", "stochastic_ternary"):
        q.ignore("keep_negative", "use_real_sigmoid")
    if q.get("qnoise_factor", 1.0) != 1:
        raise q.error(f"qnoise_factor must be 1, not {q.get('qnoise_factor')}", "save the model after training")
    for key in ("post_training_scale", "scale_axis", "elements_per_scale", "min_po2_exponent", "max_po2_exponent"):
        if q.get(key) is not None:
            raise q.error(f"{key} must be null, not {q.get(key)!r}")
    return name, q


def _factor(q: Config, alpha: Any) -> Float:
    """`alpha` as numbers; None is 1."""
    if alpha is None:
        return np.asarray(1.0)
    if isinstance(alpha, list):
        try:
            return np.asarray(alpha, np.float32).astype(np.float64)
        except (ValueError, TypeError):
            raise q.error(f"alpha must be numbers, not {str(alpha)[:60]}") from None
    return np.asarray(q.float32("alpha", alpha))


def _appended(name: str, q: Config, add: Callable[..., int], x: int) -> int:
    """The ops of a quantizer without its alpha; unknown parameters are refused."""
    found = (QUANTIZERS[name].apply if name in QUANTIZERS else FUNCTIONS[name])(q, add, x)
    q.finish()
    return found


def quantize(c: Layer, spec: Any, x: int, suffix: str = "") -> int:
    """Node x through a quantizer, given as text or as a serialized object; the last op is named after the layer."""
    name, q = _parse(c.where, spec)
    alpha = q.get("alpha") if name in QUANTIZERS and "alpha" in QUANTIZERS[name].parameters else None
    if isinstance(alpha, str):
        rule = f"alpha '{alpha}' of data depends on the batch"
        raise q.error(rule, "use alpha=1 or another number for activations")
    factor = _factor(q, alpha) if name in QUANTIZERS and QUANTIZERS[name].alpha else np.asarray(1.0)

    def add(op: RealOp, *operands: int, suffix: str = "") -> int:
        return c.add(op, *operands, suffix=f"{outer}{suffix}")

    plain = bool((factor == 1).all())
    outer = suffix if plain else f"{suffix}.unit"
    y = _appended(name, q, add, x)
    last = c.builder.nodes[y].op
    if isinstance(last, Function) and last.function == "po2":
        raise q.error(f"its powers of two do not fit {_MAX_BITS} bits", "use fewer bits for the exponent of data")
    return y if plain else c.add(Scale(factor), y, suffix=suffix)


def quantize_weights(c: Layer, spec: Any, values: Float, trainable: bool = False) -> Weight:
    """Weights as a quantizer leaves them; None leaves them as they are.

    `trainable`: they are a kernel, for which QKeras replaces a missing alpha by "auto_po2".
    """
    if spec is None:
        return Weight(values)
    name, q = _parse(c.where, spec)
    kind = QUANTIZERS.get(name)
    alpha = q.get("alpha") if kind is not None and "alpha" in kind.parameters else None
    if alpha is None and trainable and kind is not None and kind.trainable:
        alpha = "auto_po2"
    if isinstance(alpha, str):
        if alpha not in ("auto", "auto_po2") or name not in AUTOMATIC:
            raise q.error(f"alpha must be a number, 'auto' or 'auto_po2', not '{alpha}'")
        ints, scale = AUTOMATIC[name](q, values.astype(np.float32), alpha)
        q.finish()
        found = Weight(ints * scale, ints, scale)
    else:
        factor = _factor(q, alpha) if kind is not None and kind.alpha else np.asarray(1.0)
        found = _evaluated(name, q, values, factor)
    if not np.isfinite(found.values).all():
        raise q.error("makes NaN or Inf of the weights", "check the training")
    return found


def _evaluated(name: str, q: Config, values: Float, factor: Float) -> Weight:
    """Numbers through the ops of a quantizer, in float64, times `factor`; with integers, where those fit."""
    builder = RealBuilder("weights")

    def add(op: RealOp, *operands: int, suffix: str = "") -> int:
        return builder.add(op, *operands, name=f"q{suffix}")

    result = _appended(name, q, add, builder.add(RealInput(values.shape), name="w"))
    model = builder.model([("y", result)])
    last = model.nodes[model.outputs[0][1]].op
    unit = evaluate_real(model, {"w": values[None]})[model.outputs[0][1]].reshape(values.shape)
    if isinstance(last, Quant | Bipolar) and np.frexp(last.scale)[0] != 0.5:
        ints, scale = np.round(unit / last.scale).astype(np.int64), last.scale
    else:
        step = _coarsest(unit)
        if (np.abs(np.ldexp(unit, -step)) >= 2.0**_MAX_BITS).any():
            return Weight(unit * factor)
        ints, scale = np.ldexp(unit, -step).astype(np.int64), np.ldexp(1.0, step)
    return Weight(unit * factor, ints, scale * factor) if (factor > 0).all() else Weight(unit * factor)


def _coarsest(values: Float) -> int:
    """The largest e with all values multiples of 2**e."""
    mantissa, exponent = np.frexp(values[values != 0])
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    low = np.frexp((whole & -whole).astype(np.float64))[1] - 1 + exponent - 53
    return int(low.min()) if low.size else 0
