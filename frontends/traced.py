"""The values that a traced function computes with: they look like numpy arrays and append real ops. Knows no numpy function.

A value has the shape of one event. Integers and fixed-point numbers are exact, whatever their width; numpy's overflow of
narrow integers happens where ``astype`` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from .products import contracted
from .real import (
    Add,
    Clip,
    Compare,
    Concat,
    Constant,
    Dense,
    Function,
    Gather,
    Maximum,
    Minimum,
    Mul,
    Offset,
    Quant,
    RealBuilder,
    RealOp,
    Reshape,
    Scale,
    Select,
    Sub,
)
from .traced_axes import AlongAxes
from .traced_errors import error

__all__ = ["Value", "is_value", "whole"]

_UNLIMITED = 1 << 61
_DTYPES = {"bool": np.dtype(bool), "int": np.dtype(np.int64), "real": np.dtype(np.float64)}
_RANK = ("bool", "int", "real")


def is_value(x: Any) -> bool:
    return isinstance(x, Value)


def whole(rounding: Rounding) -> Quant:
    """To whole numbers without limits."""
    return Quant(np.asarray(1.0), np.zeros((), np.int64), -_UNLIMITED, _UNLIMITED - 1, rounding)


def _low_bits(largest: int) -> Quant:
    """As many low bits as `largest` has."""
    return Quant(
        np.asarray(1.0), np.zeros((), np.int64), 0, (1 << largest.bit_length()) - 1, Rounding.TRN, Overflow.WRAP
    )


class Value(AlongAxes):
    """A node of the model being traced. `kind`: "bool", "int" or "real", which decides what ``~``, ``/`` and ``astype`` mean."""

    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]  # == compares elements

    def __init__(self, builder: RealBuilder, index: int, kind: str) -> None:
        self.builder, self.index, self.kind = builder, index, kind

    # ---- what an array says of itself -----------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.builder.nodes[self.index].shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return _DTYPES[self.kind]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a value without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Value]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"<traced {self.kind} {list(self.shape)}>"

    def _no_number(self, what: str) -> Any:
        fix = "use np.where for a choice and hc.take for an index; loops need constant limits"
        raise error(what, "the value is known only when the hardware runs", fix)

    def __bool__(self) -> bool:
        return self._no_number("if, and, or, not")

    def __int__(self) -> int:
        return self._no_number("int")

    def __float__(self) -> float:
        return self._no_number("float")

    def __index__(self) -> int:
        return self._no_number("index")

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        raise error(
            "array", "a traced value is no plain array and no index of one", "use np.stack, or hc.take for a table"
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        from .traced_numpy import call_ufunc

        return call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, options: Any) -> Any:
        from .traced_numpy import call_function

        return call_function(function, args, options)

    # ---- building -------------------------------------------------------------------------------------------------------

    def add_op(self, op: RealOp, *others: Value, kind: str | None = None, label: str = "") -> Value:
        """The value of ``op(self, *others)``."""
        name = f"{label or type(op).__name__.lower()}_{len(self.builder.nodes)}"
        try:
            index = self.builder.add(op, self.index, *(v.index for v in others), name=name)
        except CompileError as e:
            raise error(name, e.rule, e.fix) from None
        return Value(self.builder, index, kind or max((self, *others), key=lambda v: _RANK.index(v.kind)).kind)

    def lifted(self, x: Any) -> Value:
        """A constant as a value of the same model; values as they are."""
        if isinstance(x, Value):
            return x
        values = np.asarray(x)
        if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
            raise error("constant", f"must be finite numbers, not {str(x)[:40]!r}", "give numbers or arrays of numbers")
        kind = {"b": "bool", "f": "real"}.get(values.dtype.kind, "int")
        name = f"constant_{len(self.builder.nodes)}"
        return Value(self.builder, self.builder.add(Constant(values.astype(np.float64)), name=name), kind)

    def constant(self, x: Any) -> NDArray[np.float64] | None:
        """The numbers of an operand that is no traced value."""
        if isinstance(x, Value):
            return None
        self.lifted(x)  # refuses what is no number
        return np.asarray(x, np.float64)

    def chosen(self, index: NDArray[np.int64]) -> Value:
        """The elements at these flat places, in their shape; -1: 0."""
        index = np.array(index, np.int64, order="C")
        if index.shape and not index.size:
            raise error("choice", f"a value must have elements, not shape {list(index.shape)}")
        if index.size == self.size and (index.reshape(-1) == np.arange(self.size)).all():
            return self if index.shape == self.shape else self.add_op(Reshape(index.shape))
        return self.add_op(Gather(index))

    @property
    def places(self) -> NDArray[np.int64]:
        """The flat place of each element: what numpy does to it is done to the value."""
        return np.arange(self.size, dtype=np.int64).reshape(self.shape)

    # ---- arithmetic -----------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Value:
        k = self.constant(other)
        if k is None:
            return self.add_op(Add(), other, kind="int" if self.kind == other.kind == "bool" else None)
        return self.add_op(Offset(k), kind=self._kind_with(other))

    def __sub__(self, other: Any) -> Value:
        k = self.constant(other)
        return self.add_op(Sub(), other) if k is None else self.add_op(Offset(-k), kind=self._kind_with(other))

    def __rsub__(self, other: Any) -> Value:
        return -self + other

    def __mul__(self, other: Any) -> Value:
        k = self.constant(other)
        return self.add_op(Mul(), other) if k is None else self.add_op(Scale(k), kind=self._kind_with(other))

    def __truediv__(self, other: Any) -> Value:
        k = self.constant(other)
        if k is None:
            return self.add_op(Mul(), other.add_op(Function("reciprocal"), kind="real"), kind="real")
        if not np.all(k):
            raise error("division", "by zero")
        return self.add_op(Scale(k, divide=True), kind="real")

    def __rtruediv__(self, other: Any) -> Value:
        k = self.constant(other)
        assert k is not None
        if not np.all(k):
            raise error("division", "a numerator of zero is not supported", "write 0")
        y = self if np.all(k == 1) else self.add_op(Scale(k, divide=True), kind="real")
        return y.add_op(Function("reciprocal"), kind="real")

    def __floordiv__(self, other: Any) -> Value:
        kind = "int" if self._kind_with(other) != "real" else "real"
        return (self / self._divisor(other)).add_op(whole(Rounding.TRN), kind=kind, label="floor")

    def __mod__(self, other: Any) -> Value:
        rest = self - (self // other) * self._divisor(other)
        if rest.kind == "real" or np.min(other) <= 0:
            return rest
        return rest.add_op(_low_bits(int(np.max(other)) - 1), kind="int", label="remainder")

    def __rfloordiv__(self, other: Any) -> Value:
        raise error("//", "the divisor must be a constant", "use a table: hc.take(table, x)")

    __rmod__ = __rfloordiv__

    def _divisor(self, other: Any) -> Any:
        if isinstance(other, Value):
            raise error("//", "the divisor must be a constant", "use a table: hc.take(table, x)")
        return other

    def __pow__(self, exponent: Any) -> Value:
        if isinstance(exponent, Value):
            return (self.add_op(Function("log"), kind="real") * exponent).add_op(Function("exp"), kind="real")
        if np.ndim(exponent):
            raise error("power", "the exponent must be one number", "take the powers one by one")
        n = float(exponent)
        if not np.isfinite(n):
            raise error("power", f"the exponent must be finite, not {n}", "use a finite number")
        if n == -1:
            return 1 / self
        if n == int(n) and 1 <= n <= 4:
            square = self if n == 1 else self * self
            return square if n <= 2 else square * (self if n == 3 else square)
        if n == 0:
            return self * 0 + 1
        if n == 0.5:
            return self.add_op(Function("sqrt"), kind="real")
        return self.add_op(Function("power", (n,)), kind="real")

    def __rpow__(self, base: Any) -> Value:
        return (self * math.log(float(base))).add_op(Function("exp"), kind="real")

    def __neg__(self) -> Value:
        return self.add_op(Scale(np.asarray(-1.0)), label="neg")

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return self.add_op(Maximum(), -self)

    def __matmul__(self, other: Any) -> Value:
        k = self.constant(other)
        if k is not None:
            return self._times_matrix(k)
        a, b = "abcdefgh"[: self.ndim], "ABCDEFGH"[: other.ndim]
        inner = a[-1:]
        b = inner if other.ndim == 1 else b[:-2] + inner + b[-1]
        shared = min(len(a) - 1, len(b) - 2) if other.ndim > 2 else 0
        b = a[:shared] + b[shared:]
        out = a[:-1] + "".join(x for x in b if x != inner and x not in a[:-1])
        return self.einsum(f"{a},{b}->{out}", other)

    def __rmatmul__(self, other: Any) -> Value:
        k = self.constant(other)
        assert k is not None
        if k.ndim > 2 or self.ndim > 2:
            raise error("@", "a constant times a value of more than two axes is not supported", "use np.einsum")
        turned = self._turned(range(self.ndim)[::-1])._times_matrix(k.T)
        return turned._turned(range(turned.ndim)[::-1])

    def _times_matrix(self, matrix: NDArray[np.float64]) -> Value:
        if matrix.ndim > 2:
            raise error("@", f"the constant must have one or two axes, not {matrix.ndim}", "use np.einsum")
        y = self.add_op(Dense(matrix.reshape(len(matrix), -1).copy()), kind=self._kind_with(matrix))
        return y if matrix.ndim == 2 else y.chosen(y.places[..., 0])

    def _turned(self, axes: Sequence[int]) -> Value:
        return self.chosen(self.places.transpose(tuple(axes)))

    def einsum(self, equation: str, other: Value) -> Value:
        """An Einstein sum with another value."""

        def append(op: RealOp, *operands: int, suffix: str = "") -> int:
            return self.builder.add(op, *operands, name=f"einsum_{first}{suffix}")

        first = len(self.builder.nodes)
        index = contracted(append, self.index, other.index, equation, (self.shape, other.shape))
        return Value(self.builder, index, self._kind_with(other))

    def _kind_with(self, other: Any) -> str:
        kind = (
            other.kind
            if isinstance(other, Value)
            else {"b": "bool", "f": "real"}.get(np.asarray(other).dtype.kind, "int")
        )
        return max(self.kind, kind, "int", key=_RANK.index)

    __radd__, __rmul__ = __add__, __mul__

    # ---- bits -----------------------------------------------------------------------------------------------------------

    def __lshift__(self, bits: Any) -> Value:
        return self._whole_numbers("<<") * 2 ** np.asarray(bits, np.int64)

    def __rshift__(self, bits: Any) -> Value:
        return self._whole_numbers(">>") // 2 ** np.asarray(bits, np.int64)

    def _whole_numbers(self, what: str) -> Value:
        if self.kind == "real":
            raise error(what, "needs whole numbers", "use astype(int)")
        return self

    def __and__(self, other: Any) -> Value:
        if self._logical(other):
            return self.add_op(Minimum(), self.lifted(other))
        return self._masked(other, "&")

    def __or__(self, other: Any) -> Value:
        if self._logical(other):
            return self.add_op(Maximum(), self.lifted(other))
        return self + other - self._masked(other, "|")

    def __xor__(self, other: Any) -> Value:
        if self._logical(other):
            return self != other
        return self + other - 2 * self._masked(other, "^")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Value:
        return self == 0 if self.kind == "bool" else -self._whole_numbers("~") - 1

    def _logical(self, other: Any) -> bool:
        kind = other.kind if isinstance(other, Value) else "bool" if np.asarray(other).dtype.kind == "b" else "int"
        return self.kind == kind == "bool"

    def _masked(self, mask: Any, what: str) -> Value:
        """x & mask: each run of ones is a shift and a remainder."""
        if isinstance(mask, Value) or np.ndim(mask) or int(mask) != mask:
            raise error(what, "between integers needs one constant integer", "compare or use bool values")
        x, bits = self._whole_numbers(what), int(mask)
        if bits < 0:  # ...111 in front: what is left are the low bits
            low = ~bits
            return x - x._masked(low, what) if low else x
        total: Value | None = None
        at = 0
        while bits >> at:
            if not bits >> at & 1:
                at += 1
                continue
            run = ((bits >> at) ^ ((bits >> at) + 1)).bit_length() - 1
            part = (x >> at if at else x).add_op(_low_bits((1 << run) - 1), label="bits") * (1 << at)
            total, at = part if total is None else total + part, at + run
        return x * 0 if total is None else total

    # ---- comparisons ----------------------------------------------------------------------------------------------------

    def _compared(self, relation: str, other: Any, swapped: bool = False) -> Value:
        a, b = (self.lifted(other), self) if swapped else (self, self.lifted(other))
        return a.add_op(Compare(relation), b, kind="bool")

    def __lt__(self, other: Any) -> Value:
        return self._compared("less", other)

    def __le__(self, other: Any) -> Value:
        return self._compared("less_equal", other)

    def __gt__(self, other: Any) -> Value:
        return self._compared("less", other, swapped=True)

    def __ge__(self, other: Any) -> Value:
        return self._compared("less_equal", other, swapped=True)

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self._compared("equal", other)

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return ~self._compared("equal", other)

    # ---- elements -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Value:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(p, Value) for p in parts):
            raise error("index", "must be known when the function is traced", "use hc.take or np.where")
        return self.chosen(np.asarray(self.places[key]))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, Value):
            raise error("assignment", "the index must be known when the function is traced", "use np.where")
        new = self.lifted(value)
        place = self.places
        place[key] = self.size + new.places
        joined = self.chosen(self.places.reshape(-1)).add_op(Concat(0), new.chosen(new.places.reshape(-1)))
        self.index, self.kind = joined.chosen(place).index, max(self.kind, new.kind, key=_RANK.index)

    def copy(self) -> Value:
        return Value(self.builder, self.index, self.kind)

    def astype(self, dtype: Any, **options: Any) -> Value:
        """As numpy: to integers towards zero, with the overflow of narrow ones; to bool whether it is not 0."""
        to = np.dtype(dtype)
        if to.kind == "b":
            return self if self.kind == "bool" else self != 0
        if to.kind == "f":
            return Value(self.builder, self.index, "real")
        if to.kind not in "iu":
            raise error("astype", f"to {to} is not supported", "use a float, integer or bool type")
        if to.itemsize == 8:
            found = self if self.kind != "real" else self.add_op(whole(Rounding.TRN_ZERO))
            return Value(self.builder, found.index, "int")
        limits = np.iinfo(to)
        zero = np.zeros((), np.int64)
        narrow = Quant(np.asarray(1.0), zero, int(limits.min), int(limits.max), Rounding.TRN_ZERO, Overflow.WRAP)
        return self.add_op(narrow, kind="int", label=str(to))

    def clip(self, low: Any = None, high: Any = None) -> Value:
        if all(v is None or (not isinstance(v, Value) and np.ndim(v) == 0) for v in (low, high)):
            limits = (None if v is None else float(v) for v in (low, high))
            return self.add_op(Clip(*limits))
        y = self if low is None else self.add_op(Maximum(), self.lifted(low))
        return y if high is None else y.add_op(Minimum(), y.lifted(high))

    def select(self, yes: Any, no: Any) -> Value:
        """`yes` where this bool is true, else `no`."""
        condition = self if self.kind == "bool" else self != 0
        a, b = self.lifted(yes), self.lifted(no)
        shape = np.broadcast_shapes(self.shape, a.shape, b.shape)
        a, b = (v.chosen(np.broadcast_to(v.places, shape)) for v in (a, b))
        return condition.add_op(Select(), a, b, kind=max(a.kind, b.kind, key=_RANK.index))

    # ---- layout and rounding: numpy's functions, as methods ---------------------------------------------------------------

    @property
    def T(self) -> Value:
        return self._turned(range(self.ndim)[::-1])

    def reshape(self, *shape: Any, **options: Any) -> Value:
        return self.chosen(self.places.reshape(*shape))

    def transpose(self, *axes: Any) -> Value:
        return self.chosen(self.places.transpose(*axes))

    def ravel(self, **options: Any) -> Value:
        return self.chosen(self.places.reshape(-1))

    flatten = ravel

    def squeeze(self, axis: Any = None) -> Value:
        return self.chosen(self.places.squeeze(axis))

    def swapaxes(self, a: int, b: int) -> Value:
        return self.chosen(self.places.swapaxes(a, b))

    def repeat(self, count: Any, axis: Any = None) -> Value:
        return self.chosen(self.places.repeat(count, axis))

    def dot(self, other: Any) -> Value:
        return self @ other if np.ndim(other) or isinstance(other, Value) else self * other

    def round(self, decimals: int = 0, **options: Any) -> Value:
        if decimals:
            raise error("round", "rounds to whole numbers here", "use hc.quantize for another grid")
        return self if self.kind != "real" else self.add_op(whole(Rounding.RND_CONV), label="round")

    def __round__(self, decimals: int = 0) -> Value:
        return self.round(decimals or 0)

    def take(self, index: Any, axis: Any = None, **options: Any) -> Value:
        return np.take(self, index, axis=axis)  # type: ignore[call-overload]
