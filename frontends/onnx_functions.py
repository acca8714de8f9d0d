"""Functions of one variable and n-ary elementwise operators of ONNX; tables where nothing exact is cheaper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .onnx_context import Const, Context, Ref, Value
from .real import Add, Clip, Constant, Function, Maximum, Minimum, Mul, Offset, Quant, RealOp, Scale

__all__ = ["FUNCTION_OPERATORS", "reciprocal"]

_UNLIMITED = 1 << 61
_TRIGONOMETRY = (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
)  # fmt: skip


def _table(name: str, **defaults: float) -> Callable[[Context], Value]:
    """A reader of a function whose attributes are its parameters."""

    def read(c: Context) -> Value:
        values = tuple(float(np.float32(c.attribute(k, v))) for k, v in defaults.items())
        return c.add(Function(name, values), c.data(0))

    return read


def reciprocal(c: Context, x: int, suffix: str = "") -> Ref:
    """1 / x; that of a square root is one function of what is under the root."""
    node = c.builder.nodes[x]
    if isinstance(node.op, Function) and node.op.function == "sqrt":
        return c.add(Function("rsqrt"), *node.operands, suffix=suffix)
    return c.add(Function("reciprocal"), x, suffix=suffix)


def _gelu(c: Context) -> Value:
    kind = c.attribute("approximate", "none")
    if kind not in ("none", "tanh"):
        raise c.error(f"approximate must be 'none' or 'tanh', not '{kind}'")
    return c.add(Function("gelu" if kind == "none" else "gelu_tanh"), c.data(0))


def _hard_sigmoid(c: Context) -> Value:
    """clip(alpha * x + beta, 0, 1): affine, so it needs no table."""
    alpha, beta = (float(np.float32(c.attribute(k, v))) for k, v in (("alpha", 0.2), ("beta", 0.5)))
    scaled = c.add(Scale(np.asarray(alpha)), c.data(0), suffix=".scale")
    return c.add(Clip(0.0, 1.0), c.add(Offset(np.asarray(beta)), scaled.index, suffix=".offset").index)


def _neg(c: Context) -> Value:
    x = c.operand(0)
    return Const(-x.values) if isinstance(x, Const) else c.add(Scale(np.asarray(-1.0)), x.index)


def _abs(c: Context) -> Value:
    x = c.data(0)
    return c.add(Maximum(), x, c.add(Scale(np.asarray(-1.0)), x, suffix=".neg").index)


def _whole(rounding: Rounding, negated: bool = False) -> Callable[[Context], Value]:
    """Rounding to whole numbers is a quantizer without limits; towards plus infinity it is that of -x."""

    def read(c: Context) -> Value:
        x = c.data(0)
        minus = np.asarray(-1.0)
        if negated:
            x = c.add(Scale(minus), x, suffix=".neg").index
        one, zero = np.asarray(1.0), np.zeros((), np.int64)
        y = c.add(Quant(one, zero, -_UNLIMITED, _UNLIMITED - 1, rounding), x, suffix=".whole" if negated else "")
        return c.add(Scale(minus), y.index) if negated else y

    return read


def _as_data(c: Context, k: int, shape: tuple[int, ...]) -> int:
    """A data operand, or a constant made one of the given shape."""
    value = c.operand(k)
    if isinstance(value, Ref):
        return value.index
    values: NDArray[np.float64] = np.broadcast_to(c.event(c.floats(k, "a constant operand"), len(shape)), shape)
    return c.add(Constant(values.copy()), suffix=f".constant{k}").index


def _fold(op: RealOp, constant: Callable[..., NDArray], mean: bool = False) -> Callable[[Context], Value]:
    """An operator of any number of operands, as a chain of two-operand ones."""

    def read(c: Context) -> Value:
        count = len(c.inputs)
        if c.all_constant:
            values = [c.constant(k, "an operand").values for k in range(count)]
            total = values[0]
            for v in values[1:]:
                total = constant(total, v)
            return Const(total / count if mean else total)
        shape = np.broadcast_shapes(*(c.shape(c.operand(k)) for k in range(count) if isinstance(c.operand(k), Ref)))
        total = _as_data(c, 0, shape)
        for k in range(1, count):
            last = k == count - 1 and not mean
            total = c.add(op, total, _as_data(c, k, shape), suffix="" if last else f".{k}").index
        return (
            c.add(Scale(np.asarray(float(count)), divide=True), total)
            if mean
            else Ref(total, batch=c.batch, joined=c.joined)
        )

    return read


def _pow(c: Context) -> Value:
    """Products for the exponents 1, 2 and 3, else a table; constants fold before they come here."""
    exponent, x = c.scalar(1, "the exponent"), c.data(0)
    if exponent not in (1, 2, 3):
        return c.add(Function("power", (exponent,)), x)
    if exponent == 1:
        return c.operand(0)
    square = c.add(Mul(), x, x, suffix="" if exponent == 2 else ".square")
    return square if exponent == 2 else c.add(Mul(), square.index, x)


FUNCTION_OPERATORS: dict[str, Callable[[Context], Value]] = {
    "Exp": _table("exp"),
    "Log": _table("log"),
    "Sqrt": _table("sqrt"),
    "Reciprocal": lambda c: reciprocal(c, c.data(0)),
    "Erf": _table("erf"),
    "Softplus": _table("softplus"),
    "Softsign": _table("softsign"),
    "HardSwish": _table("hard_swish"),
    "Mish": _table("mish"),
    "Elu": _table("elu", alpha=1.0),
    "Celu": _table("celu", alpha=1.0),
    "Selu": _table("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Swish": _table("swish", alpha=1.0),
    **{f.capitalize(): _table(f) for f in _TRIGONOMETRY},
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Neg": _neg,
    "Abs": _abs,
    "Floor": _whole(Rounding.TRN),
    "Round": _whole(Rounding.RND_CONV),
    "Ceil": _whole(Rounding.TRN, negated=True),
    "Pow": _pow,
    "Max": _fold(Maximum(), np.maximum),
    "Min": _fold(Minimum(), np.minimum),
    "Sum": _fold(Add(), np.add),
    "Mean": _fold(Add(), np.add, mean=True),
}
