"""Comparisons, logic and order in ONNX: Where, ArgMax, TopK, OneHot and what is made of them; all of it is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .onnx_context import Context, Ref, Value
from .real import (
    Add,
    Compare,
    Concat,
    Constant,
    Dense,
    Gather,
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


def _last(c: Context, x: int, axis: int) -> int:
    """The operand with `axis` behind all others."""
    shape = c.builder.nodes[x].shape
    order = (*(k for k in range(len(shape)) if k != axis), axis)
    return x if axis == len(shape) - 1 else c.add(Transpose(order), x, suffix=".turned").index


def _taken(c: Context, x: int, places: Sequence[int], suffix: str) -> int:
    """The elements of the last axis at `places`."""
    shape = c.builder.nodes[x].shape
    index = np.arange(int(np.prod(shape))).reshape(shape)[..., list(places)]
    return c.add(Gather(np.ascontiguousarray(index)), x, suffix=suffix).index


def _places(c: Context, shape: tuple[int, ...], suffix: str) -> int:
    """0, 1, 2 .. along the last axis of `shape`."""
    values = np.broadcast_to(np.arange(float(shape[-1])), shape)
    return c.add(Constant(values.copy()), suffix=suffix).index


def _arg(largest: bool) -> Callable[[Context], Value]:
    """The place of the extreme along an axis, by a tournament in which the first (or last) of equals wins."""

    def read(c: Context) -> Value:
        shape = c.shape(c.operand(0))
        at, keep = c.axis(int(c.attribute("axis", 0)), len(shape)), bool(c.attribute("keepdims", 1))
        relation = "less_equal" if c.attribute("select_last_index", 0) else "less"
        x = _last(c, c.data(0), at)
        where = _places(c, c.builder.nodes[x].shape, ".places")
        n = shape[at]
        while n > 1:
            m, name = n // 2, f".of{n}"
            left, right = range(0, 2 * m, 2), range(1, 2 * m, 2)
            a, b, i, j = (_taken(c, v, p, name) for v in (x, where) for p in (left, right))
            wins = c.add(Compare(relation), *((a, b) if largest else (b, a)), suffix=f"{name}.wins").index
            x = c.add(Select(), wins, b, a, suffix=f"{name}.best").index
            where = c.add(Select(), wins, j, i, suffix=f"{name}.place").index
            if n % 2:
                x, where = (
                    c.add(Concat(len(shape) - 1), best, _taken(c, before, [n - 1], name), suffix=name).index
                    for best, before in ((x, a_before), (where, i_before))
                ) if (a_before := _odd(c, x)) and (i_before := _odd(c, where)) else (x, where)
            n = m + n % 2
        return c.add(Reshape(shape), where)

    return read
