"""Comparisons, logic and order in ONNX: Where, ArgMax, TopK, OneHot and what is made of them; all of it is exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .onnx_context import Context, Ref, Value
from .order import Order
from .real import (
    Compare,
    Constant,
    Dense,
    Maximum,
    Minimum,
    Offset,
    Quant,
    RealOp,
    Reshape,
    Scale,
    Select,
    Sub,
    Transpose,
)

__all__ = ["LOGIC", "event_rank", "operand_node"]

_UNLIMITED = 1 << 61


def event_rank(c: Context) -> int:
    """Axes of an event in the operand that has most of them."""
    return max(len(c.shape(v)) for v in c.inputs if isinstance(v, Ref))


def operand_node(c: Context, k: int, rank: int) -> int:
    """The node of a data operand, or of a constant that broadcasts against data of `rank` axes."""
    value = c.operand(k)
    if isinstance(value, Ref):
        return value.index
    values: NDArray[np.float64] = c.event(c.floats(k, f"operand {k + 1}"), rank)
    return c.add(Constant(values), suffix=f".constant{k}").index


def _number(c: Context, value: float, name: str) -> int:
    return c.add(Constant(np.asarray(float(value))), suffix=f".{name}").index


# ---- relations and logic ----------------------------------------------------------------------------------------------


def _relation(relation: str, swapped: bool = False) -> Callable[[Context], Value]:
    def read(c: Context) -> Value:
        x, y = (operand_node(c, k, event_rank(c)) for k in range(2))
        return c.add(Compare(relation), *((y, x) if swapped else (x, y)))

    return read


def _both(op: RealOp) -> Callable[[Context], Value]:
    def read(c: Context) -> Value:
        return c.add(op, *(operand_node(c, k, event_rank(c)) for k in range(2)))

    return read


def _not(c: Context, x: int) -> Value:
    return c.add(Compare("equal"), x, _number(c, 0, "zero"))


def _xor(c: Context) -> Value:
    same = c.add(Compare("equal"), *(operand_node(c, k, event_rank(c)) for k in range(2)), suffix=".same")
    return _not(c, same.index)


def _where(c: Context) -> Value:
    rank = event_rank(c)
    return c.add(Select(), *(operand_node(c, k, rank) for k in range(3)))


def _sign(c: Context) -> Value:
    x, zero = c.data(0), _number(c, 0, "zero")
    above = c.add(Compare("less"), zero, x, suffix=".positive")
    return c.add(Sub(), above.index, c.add(Compare("less"), x, zero, suffix=".negative").index)


def _thresholded_relu(c: Context) -> Value:
    """x where x > alpha, else 0."""
    x, alpha = c.data(0), float(np.float32(c.attribute("alpha", 1.0)))
    above = c.add(Compare("less"), _number(c, alpha, "alpha"), x, suffix=".above")
    return c.add(Select(), above.index, x, _number(c, 0, "zero"))


def _shrink(c: Context) -> Value:
    """x + bias below -lambd, x - bias above lambd, else 0."""
    bias, limit = (float(np.float32(c.attribute(k, v))) for k, v in (("bias", 0.0), ("lambd", 0.5)))
    x, zero = c.data(0), _number(c, 0, "zero")
    low = c.add(Compare("less"), x, _number(c, -limit, "low_limit"), suffix=".low").index
    high = c.add(Compare("less"), _number(c, limit, "high_limit"), x, suffix=".high").index
    up, down = (c.add(Offset(np.asarray(v)), x, suffix=s).index for v, s in ((bias, ".up"), (-bias, ".down")))
    rest = c.add(Select(), high, down, zero, suffix=".rest")
    return c.add(Select(), low, up, rest.index)


def _mod(c: Context) -> Value:
    """x - m * floor(x / m), or with the quotient rounded towards zero (fmod)."""
    x, m = c.data(0), c.event(c.floats(1, "the divisor"), len(c.shape(c.operand(0))))
    towards_zero = bool(c.attribute("fmod", 0))
    if np.any(m <= 0):
        raise c.error(f"the divisor must be positive, not {m.min():g}")
    rounding = Rounding.TRN_ZERO if towards_zero else Rounding.TRN
    whole = c.add(Quant(m, np.zeros((), np.int64), -_UNLIMITED, _UNLIMITED - 1, rounding), x, suffix=".multiple")
    return c.add(Sub(), x, whole.index)


# ---- order ------------------------------------------------------------------------------------------------------------


def _arg(largest: bool) -> Callable[[Context], Value]:
    """The place of the extreme along an axis, by a tournament."""

    def read(c: Context) -> Value:
        shape = c.shape(c.operand(0))
        axis = int(c.attribute("axis", 0))
        at, keep = c.axis(axis, len(shape)), bool(c.attribute("keepdims", 1))
        last = bool(c.attribute("select_last_index", 0))
        where = Order(c.builder, c.name).extreme_place(c.data(0), at, largest, last)
        if keep:
            return c.add(Reshape(tuple(1 if k == at else n for k, n in enumerate(shape))), where)
        y = c.add(Reshape(tuple(n for k, n in enumerate(shape) if k != at)), where)
        return c.placed(y, c.batch - (axis % (len(shape) + (c.batch >= 0)) < c.batch))

    return read


def _top_k(c: Context) -> list[Value]:
    """The k largest (or smallest) values in order and their places, by a sorting network; the first of equals leads."""
    shape = c.shape(c.operand(0))
    at = c.axis(int(c.attribute("axis", -1)), len(shape))
    k = int(c.attribute("k", 0)) if c.opset < 10 else int(c.scalar(1, "k"))
    largest = bool(c.attribute("largest", 1))
    c.attribute("sorted", 1)  # sorted is one of the orders that 0 allows
    if not 1 <= k <= shape[at]:
        raise c.error(f"k must be from 1 to the axis' length {shape[at]}, not {k}")
    values, places = Order(c.builder, c.name).ranked(c.data(0), at, k, largest)
    return [c.ref(values), c.ref(places)]


def _one_hot(c: Context) -> Value:
    """`on` where the index is the place, else `off`; a negative index counts from the end."""
    x, depth = c.operand(0), int(c.scalar(1, "the depth"))
    off, on = c.floats(2, "the values").reshape(-1).tolist()
    full = len(c.full_shape(x)) + 1
    axis = int(c.attribute("axis", -1))
    if not -full <= axis < full or depth < 1:
        raise c.error(f"axis {axis} must be one of the result's {full} axes, and the depth positive, not {depth}")
    at, batch = axis % full, c.batch + (axis % full <= c.batch)
    own = at - (0 <= batch < at)
    shape = list(c.shape(x))
    shape.insert(own, 1)
    spread = c.add(Reshape(tuple(shape)), c.data(0), suffix=".index").index
    places = np.arange(float(depth)).reshape([-1 if k == own else 1 for k in range(len(shape))])
    hits = [
        c.add(Compare("equal"), spread, c.add(Constant(p), suffix=f".places{k}").index, suffix=f".hit{k}").index
        for k, p in enumerate((places, places - depth))
    ]
    y = c.add(Maximum(), *hits, suffix=".hit")
    if on - off != 1:
        y = c.add(Scale(np.asarray(on - off)), y.index, suffix=".scale")
    return c.placed(c.add(Offset(np.asarray(off)), y.index) if off else y, batch)


def _cum_sum(c: Context) -> Value:
    """Sums of all elements before, by a triangular matrix of ones."""
    shape = c.shape(c.operand(0))
    at = c.axis(int(c.scalar(1, "the axis")), len(shape))
    exclusive, reverse = (bool(c.attribute(k, 0)) for k in ("exclusive", "reverse"))
    ones = np.triu(np.ones((shape[at], shape[at])), int(exclusive))
    y = c.add(
        Dense(ones.T.copy() if reverse else ones), Order(c.builder, c.name).last_axis(c.data(0), at), suffix=".sums"
    )
    order = list(range(len(shape) - 1))
    order.insert(at, len(shape) - 1)
    return c.add(Transpose(tuple(order)), y.index)


LOGIC: dict[str, Callable[[Context], Value | list[Value]]] = {
    "Less": _relation("less"),
    "LessOrEqual": _relation("less_equal"),
    "Greater": _relation("less", swapped=True),
    "GreaterOrEqual": _relation("less_equal", swapped=True),
    "Equal": _relation("equal"),
    "And": _both(Minimum()),
    "Or": _both(Maximum()),
    "Xor": _xor,
    "Not": lambda c: _not(c, c.data(0)),
    "Where": _where,
    "Sign": _sign,
    "ThresholdedRelu": _thresholded_relu,
    "Shrink": _shrink,
    "Mod": _mod,
    "ArgMax": _arg(largest=True),
    "ArgMin": _arg(largest=False),
    "TopK": _top_k,
    "OneHot": _one_hot,
    "CumSum": _cum_sum,
}
