"""Elementwise ATen operators: arithmetic, comparisons, choices and functions of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .onnx_context import Ref
from .real import Clip, Function, Leaky, Offset, Scale
from .torch_context import Call, Known

__all__ = ["FUNCTIONS", "truth"]

Reader = Callable[[Call], Any]


def _scaled(c: Call, x: Ref, factor: float, suffix: str = "", divide: bool = False) -> Ref:
    return x if factor == 1 else c.add(Scale(np.asarray(factor), divide), x, suffix=suffix)


def _moved_by(c: Call, x: Ref, offset: float, suffix: str = "") -> Ref:
    return x if offset == 0 else c.add(Offset(np.asarray(offset)), x, suffix=suffix)


def _one(kind: str) -> Reader:
    """An operator that ONNX has under another name."""
    return lambda c: c.read(kind, c.data())


def _function(name: str, **parameters: float) -> Reader:
    """A function of one variable with its parameters, whose defaults are torch's."""
    return lambda c: c.add(Function(name, tuple(c.number(k, v) for k, v in parameters.items())), c.data())


# ---- arithmetic -------------------------------------------------------------------------------------------------------


def _other(c: Call, name: str = "other") -> Any:
    """A second operand: data, a constant, or a number in the type of the result."""
    value = c.get(name)
    return value if isinstance(value, Ref | Known) else c.plain(name)


def _binary(kind: str, swapped: bool = False) -> Reader:
    """An operator of two operands; `alpha` multiplies the second."""

    def read(c: Call) -> Any:
        a, b = _self(c), _other(c)
        alpha = c.number("alpha", 1.0) if "alpha" in c.arguments else 1.0
        if alpha != 1:
            b = c.read("Mul", b, alpha, suffix=".alpha") if isinstance(b, Ref) else _times(b, alpha)
        return c.read(kind, *((_number(b), _number(a)) if swapped else (_number(a), _number(b))))

    return read


def _self(c: Call) -> Any:
    return c.get("self")


def _number(v: Any) -> Any:
    """Numbers in Python become floats, so that they take the type of the result."""
    return float(v) if isinstance(v, bool | int | float) else v


def _times(v: Any, alpha: float) -> Any:
    return Known(v.tensor * alpha) if isinstance(v, Known) else v * alpha


def _divided(c: Call) -> Any:
    """x / y, or its floor or whole part."""
    mode = c.plain("rounding_mode", None)
    if mode is None:
        return c.read("Div", _number(_self(c)), _number(_other(c)))
    return _whole_quotient(c, {"floor": "Floor", "trunc": "Cast"}[mode])


def _whole_quotient(c: Call, kind: str) -> Any:
    quotient = c.read("Div", _number(_self(c)), _number(_other(c)), suffix=".quotient")
    return c.read("Floor", quotient) if kind == "Floor" else c.read("Cast", quotient, to=7)


def _modulo(fmod: int) -> Reader:
    return lambda c: c.read("Mod", c.data(), _number(_other(c)), fmod=fmod)


def _power(c: Call) -> Any:
    """Roots and inverses as their own functions; small whole exponents as products."""
    x, exponent = c.data(), c.plain("exponent")
    if exponent == 0.5:
        return c.read("Sqrt", x)
    if exponent == -0.5:
        return c.read("Reciprocal", c.read("Sqrt", x, suffix=".root"))
    if exponent == -1:
        return c.read("Reciprocal", x)
    if exponent == 4:
        square = c.read("Mul", x, x, suffix=".square")
        return c.read("Mul", square, square)
    return c.read("Pow", x, np.asarray(float(exponent)))


def _power_of_base(c: Call) -> Any:
    """base**x = exp(x * log(base))."""
    base = c.number("self")
    if base <= 0:
        raise c.error(f"the base must be positive, not {base}")
    return c.add(Function("exp"), _scaled(c, c.data("exponent"), math.log(base), ".exponent"))


def _lerp(c: Call) -> Any:
    start, end, weight = c.data(), c.get("end"), c.get("weight")
    step = c.read("Mul", c.read("Sub", end, start, suffix=".way"), _number(weight), suffix=".step")
    return c.read("Add", start, step)


def _multiply_add(kind: str) -> Reader:
    """self + value * tensor1 * tensor2, or its quotient."""

    def read(c: Call) -> Any:
        value = c.number("value", 1.0)
        product = c.read(kind, c.get("tensor1"), c.get("tensor2"), suffix=".part")
        return c.read("Add", _self(c), _scaled(c, product, value, ".value"))

    return read


# ---- limits and pieces ------------------------------------------------------------------------------------------------


def _limit(c: Call, name: str) -> float | None:
    value = c.plain(name)
    if value is None or math.isinf(value):
        return None
    return float(np.float32(value)) if c.is_single_precision else float(value)


def _clamp(low: str, high: str) -> Reader:
    def read(c: Call) -> Any:
        lo, hi = (_limit(c, k) if k in c.arguments else None for k in (low, high))
        if lo is not None and hi is not None and lo > hi:
            raise c.error(f"the lower limit {lo} must not exceed the upper limit {hi}")
        return c.add(Clip(lo, hi), c.data())

    return read


def _clamp_by_tensors(c: Call) -> Any:
    y = c.data()
    for kind, name in (("Max", "min"), ("Min", "max")):
        if c.get(name) is not None:
            y = c.read(kind, y, c.get(name), suffix=f".{name}")
    return y


def _hardtanh(c: Call) -> Any:
    return c.add(Clip(c.number("min_val", -1.0), c.number("max_val", 1.0)), c.data())


def _leaky(c: Call) -> Any:
    return c.add(Leaky(np.asarray(c.number("negative_slope", 0.01))), c.data())


def _random_leaky(c: Call) -> Any:
    """At inference the slope is the middle of its range."""
    lower, upper = c.plain("lower", 1 / 8), c.plain("upper", 1 / 3)
    if c.plain("training", False):
        raise c.error("must be exported for inference", "call module.eval() first")
    c.ignore("generator")
    slope = (lower + upper) / 2
    return c.add(Leaky(np.asarray(float(np.float32(slope)) if c.is_single_precision else slope)), c.data())


def _prelu(c: Call) -> Any:
    x, weight = c.data(), c.known("weight", "the slope")
    channels = weight.tensor.numel()
    shape = () if channels == 1 else (channels, *(1 for _ in range(c.rank(x) - 2)))
    return c.read("PRelu", x, weight.tensor.reshape(shape).numpy())


def _hard_sigmoid(c: Call) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    inside = c.add(Clip(0.0, 6.0), _moved_by(c, c.data(), 3.0, ".moved"), suffix=".clip")
    return _scaled(c, inside, 6.0, divide=True)


def _softplus(c: Call) -> Any:
    """log(1 + exp(beta x)) / beta; beyond the threshold torch takes x itself, which from 20 on is no other table."""
    beta, threshold = c.number("beta", 1.0), c.number("threshold", 20.0)
    if threshold < 20:
        raise c.error(f"the threshold must be at least 20, not {threshold:g}")
    inner = c.add(Function("softplus"), _scaled(c, c.data(), beta, ".beta"), suffix="" if beta == 1 else ".softplus")
    return _scaled(c, inner, beta, divide=True)


def _log_sigmoid(c: Call) -> Any:
    """-softplus(-x)."""
    inner = c.add(Function("softplus"), _scaled(c, c.data(), -1.0, ".neg"), suffix=".softplus")
    y = _scaled(c, inner, -1.0)
    return [y, None] if isinstance(c.value, tuple | list) else y


def _elu(c: Call) -> Any:
    """scale * (x, or alpha * (exp(input_scale * x) - 1) below zero)."""
    alpha, scale, inner = (c.number(k, 1.0) for k in ("alpha", "scale", "input_scale"))
    if inner != 1:
        raise c.error(f"input_scale must be 1, not {inner:g}")
    op = Function("elu", (alpha,)) if scale == 1 else Function("selu", (alpha, scale))
    return c.add(op, c.data())


def _gelu(c: Call) -> Any:
    return c.read("Gelu", c.data(), approximate=c.plain("approximate", "none"))


def _threshold(c: Call) -> Any:
    """x where x > threshold, else value."""
    x = c.data()
    above = c.read("Greater", x, c.number("threshold"), suffix=".above")
    return c.read("Where", above, x, c.number("value"))


def _shrink(bias: bool) -> Reader:
    def read(c: Call) -> Any:
        lambd = c.number("lambd", 0.5)
        return c.read("Shrink", c.data(), lambd=lambd, bias=lambd if bias else 0.0)

    return read


def _glu(c: Call) -> Any:
    """The first half along an axis times the sigmoid of the second."""
    x = c.data()
    rank = c.rank(x)
    dim = c.plain("dim", -1) % rank
    half = c.full_shape(x)[dim] // 2
    a, b = c.read("Split", x, np.asarray([half, half]), suffix=".half", axis=dim, outputs=2)
    return c.read("Mul", a, c.read("Sigmoid", b, suffix=".gate"))


def _rounded(c: Call) -> Any:
    return c.read("Round", c.data())


def _fraction(c: Call) -> Any:
    x = c.data()
    return c.read("Sub", x, c.read("Cast", x, suffix=".whole", to=7))


def _after(inner: Callable[[Call, Ref], Ref], name: str) -> Reader:
    """A function of an affine step of x."""
    return lambda c: c.add(Function(name), inner(c, c.data()))


def _before(name: str, outer: Callable[[Call, Ref], Ref]) -> Reader:
    """An affine step behind a function of x."""
    return lambda c: outer(c, c.add(Function(name), c.data(), suffix=f".{name}"))


# ---- comparisons and choices ------------------------------------------------------------------------------------------


def _compared(kind: str) -> Reader:
    return lambda c: c.read(kind, _self(c), _number(_other(c)))


def _not_equal(c: Call) -> Any:
    return c.read("Not", c.read("Equal", _self(c), _number(_other(c)), suffix=".equal"))


def truth(c: Call, name: str = "self") -> Any:
    """A value as 0 or 1."""
    x = c.get(name)
    if isinstance(x, Ref):
        return c.read("Cast", x, to=9, suffix=f".{name}") if not _is_bool(c, x) else x
    return Known(x.tensor != 0) if isinstance(x, Known) else x


def _is_bool(c: Call, x: Ref) -> bool:
    """0 or 1 by its making."""
    from .real import Compare

    return isinstance(c.builder.nodes[x.index].op, Compare)


def _logical(kind: str) -> Reader:
    return lambda c: c.read(kind, truth(c), truth(c, "other"))


def _bitwise(kind: str) -> Reader:
    """On truth values only; bits of integers are another matter."""

    def read(c: Call) -> Any:
        if str(getattr(c.value, "dtype", "")) != "torch.bool":
            raise c.error("bits of integers are not supported", "use truth values")
        return c.read(kind, _self(c)) if kind == "Not" else c.read(kind, _self(c), _other(c))

    return read


def _where(c: Call) -> Any:
    condition, x, y = c.get("condition"), _self(c), _other(c)
    if isinstance(condition, Known) and not isinstance(condition.tensor, bool):
        condition = Known(condition.tensor.to(dtype=_float(condition)), batch=condition.batch)
    return c.read("Where", condition, _number(x), _number(y))


def _float(k: Known) -> Any:
    import torch

    return torch.float32


def _masked_fill(c: Call) -> Any:
    mask, x, value = c.get("mask"), _self(c), c.get("value")
    if isinstance(mask, Known):
        mask = Known(mask.tensor.to(dtype=_float(mask)), batch=mask.batch)
    number = value if isinstance(value, Ref) else c.number("value")
    return c.read("Where", mask, number, x)


def _to(c: Call) -> Any:
    """A change of type: integers towards zero, truth values from anything but 0."""
    x = c.operand()
    c.ignore(*c.arguments)
    assert isinstance(x, Ref)
    kind = str(c.value.dtype).removeprefix("torch.")
    codes = {"float32": 1, "float64": 11, "int32": 6, "int64": 7, "bool": 9}
    if kind not in codes:
        raise c.error(f"data may become float32, float64, int32, int64 or bool, not {kind}", "use a quantizer instead")
    return c.read("Cast", x, to=codes[kind]) if kind != "bool" or not _is_bool(c, x) else x


_LN2, _LN10 = math.log(2), math.log(10)
_TRIGONOMETRY = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")

FUNCTIONS: dict[str, Reader] = {
    **{
        f"aten.{k}.{o}": _binary(v)
        for k, v in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"))
        for o in ("Tensor", "Scalar")
    },
    "aten.subtract.Tensor": _binary("Sub"),
    "aten.multiply.Tensor": _binary("Mul"),
    "aten.rsub.Scalar": _binary("Sub", swapped=True),
    "aten.rsub.Tensor": _binary("Sub", swapped=True),
    **{f"aten.div.{o}": _divided for o in ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode")},
    "aten.divide.Tensor": _divided,
    "aten.floor_divide.default": lambda c: _whole_quotient(c, "Floor"),
    "aten.floor_divide.Scalar": lambda c: _whole_quotient(c, "Floor"),
    **{f"aten.fmod.{o}": _modulo(1) for o in ("Scalar", "Tensor")},
    **{f"aten.remainder.{o}": _modulo(0) for o in ("Scalar", "Tensor")},
    "aten.pow.Tensor_Scalar": _power,
    "aten.pow.Tensor_Tensor": _power,
    "aten.pow.Scalar": _power_of_base,
    "aten.square.default": lambda c: c.read("Mul", c.data(), c.data()),
    "aten.lerp.Scalar": _lerp,
    "aten.lerp.Tensor": _lerp,
    "aten.addcmul.default": _multiply_add("Mul"),
    "aten.addcdiv.default": _multiply_add("Div"),
    "aten.neg.default": _one("Neg"),
    "aten.abs.default": _one("Abs"),
    "aten.sign.default": _one("Sign"),
    "aten.sgn.default": _one("Sign"),
    "aten.floor.default": _one("Floor"),
    "aten.ceil.default": _one("Ceil"),
    "aten.round.default": _rounded,
    "aten.trunc.default": lambda c: c.read("Cast", c.data(), to=7),
    "aten.frac.default": _fraction,
    "aten.maximum.default": lambda c: c.read("Max", _self(c), _other(c)),
    "aten.minimum.default": lambda c: c.read("Min", _self(c), _other(c)),
    "aten.max.other": lambda c: c.read("Max", _self(c), _other(c)),
    "aten.min.other": lambda c: c.read("Min", _self(c), _other(c)),
    "aten.fmax.default": lambda c: c.read("Max", _self(c), _other(c)),
    "aten.fmin.default": lambda c: c.read("Min", _self(c), _other(c)),
    "aten.relu.default": lambda c: c.add(Clip(0.0, None), c.data()),
    "aten.relu6.default": lambda c: c.add(Clip(0.0, 6.0), c.data()),
    "aten.clamp.default": _clamp("min", "max"),
    "aten.clip.default": _clamp("min", "max"),
    "aten.clamp.Tensor": _clamp_by_tensors,
    "aten.clamp_min.default": _clamp("min", ""),
    "aten.clamp_max.default": _clamp("", "max"),
    "aten.clamp_min.Tensor": _clamp_by_tensors,
    "aten.clamp_max.Tensor": _clamp_by_tensors,
    "aten.hardtanh.default": _hardtanh,
    "aten.hardsigmoid.default": _hard_sigmoid,
    "aten.hardswish.default": _function("hard_swish"),
    "aten.leaky_relu.default": _leaky,
    "aten.rrelu.default": _random_leaky,
    "aten.prelu.default": _prelu,
    "aten._prelu_kernel.default": _prelu,
    "aten.threshold.default": _threshold,
    "aten.hardshrink.default": _shrink(False),
    "aten.softshrink.default": _shrink(True),
    "aten.glu.default": _glu,
    "aten.sigmoid.default": _function("sigmoid"),
    "aten.tanh.default": _function("tanh"),
    "aten.elu.default": _elu,
    "aten.celu.default": _function("celu", alpha=1.0),
    "aten.selu.default": _function("selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "aten.gelu.default": _gelu,
    "aten.silu.default": _function("silu"),
    "aten.mish.default": _function("mish"),
    "aten.softplus.default": _softplus,
    "aten.log_sigmoid.default": _log_sigmoid,
    "aten.log_sigmoid_forward.default": _log_sigmoid,
    "aten.exp.default": _function("exp"),
    "aten.exp2.default": _after(lambda c, x: _scaled(c, x, _LN2, ".inner"), "exp"),
    "aten.expm1.default": _before("exp", lambda c, y: _moved_by(c, y, -1.0)),
    "aten.log.default": _function("log"),
    "aten.log2.default": _before("log", lambda c, y: _scaled(c, y, _LN2, divide=True)),
    "aten.log10.default": _before("log", lambda c, y: _scaled(c, y, _LN10, divide=True)),
    "aten.log1p.default": _after(lambda c, x: _moved_by(c, x, 1.0, ".inner"), "log"),
    "aten.sqrt.default": _function("sqrt"),
    "aten.rsqrt.default": _function("rsqrt"),
    "aten.reciprocal.default": _one("Reciprocal"),
    "aten.erf.default": _function("erf"),
    **{f"aten.{f}.default": _function(f) for f in _TRIGONOMETRY},
    "aten.deg2rad.default": lambda c: _scaled(c, c.data(), math.pi / 180),
    "aten.rad2deg.default": lambda c: _scaled(c, c.data(), 180 / math.pi),
    **{
        f"aten.{k}.{o}": _compared(v)
        for k, v in (
            ("lt", "Less"),
            ("le", "LessOrEqual"),
            ("gt", "Greater"),
            ("ge", "GreaterOrEqual"),
            ("eq", "Equal"),
        )
        for o in ("Tensor", "Scalar")
    },
    "aten.ne.Tensor": _not_equal,
    "aten.ne.Scalar": _not_equal,
    "aten.logical_and.default": _logical("And"),
    "aten.logical_or.default": _logical("Or"),
    "aten.logical_xor.default": _logical("Xor"),
    "aten.logical_not.default": lambda c: c.read("Not", truth(c)),
    "aten.bitwise_and.Tensor": _bitwise("And"),
    "aten.bitwise_or.Tensor": _bitwise("Or"),
    "aten.bitwise_xor.Tensor": _bitwise("Xor"),
    "aten.__and__.Tensor": _bitwise("And"),
    "aten.__or__.Tensor": _bitwise("Or"),
    "aten.__xor__.Tensor": _bitwise("Xor"),
    "aten.bitwise_not.default": _bitwise("Not"),
    **{f"aten.where.{o}": _where for o in ("self", "ScalarSelf", "ScalarOther", "Scalar")},
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten.to.dtype": _to,
    "aten.to.dtype_layout": _to,
    "aten.to.other": _to,
    "aten.to.device": _to,
    "aten._to_copy.default": _to,
    "aten.type_as.default": _to,
}
"""Every elementwise operator and the function that reads it."""
