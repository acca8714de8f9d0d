"""What a traced value does along its axes: sums, extremes, order. The methods of `frontends.traced.Value`, under numpy's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .order import Order
from .real import Dense, RealOp, Reduce
from .traced_errors import error

__all__ = ["AlongAxes"]


class AlongAxes:
    """Methods that need a value's `shape`, `places`, `chosen` and `add_op`."""

    def reduced(self: Any, op: Callable[[int], RealOp], axis: Any, keepdims: bool, kind: str | None = None) -> Any:
        """An op along axes (all of them for None), which are then left out, or kept with length 1."""
        axes = range(self.ndim) if axis is None else [axis] if np.ndim(axis) == 0 else axis
        try:
            along = sorted({range(self.ndim)[int(a)] for a in axes})
        except IndexError:
            raise error("axis", f"{axis} must be one of the {self.ndim} axes") from None
        y = self
        for a in along:
            y = y.add_op(op(a), kind=kind)
        shape = tuple(1 if k in along else n for k, n in enumerate(self.shape) if keepdims or k not in along)
        return y.chosen(y.places.reshape(shape))

    def sum(self: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self.reduced(lambda a: Reduce("sum", a), axis, keepdims, "int" if self.kind == "bool" else None)

    def max(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self.reduced(lambda a: Reduce("max", a), axis, keepdims)

    def min(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return -(-self).max(axis, None, keepdims) if self.kind != "bool" else ~(~self).max(axis, None, keepdims)

    def mean(self: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        total = self.sum(axis, keepdims=keepdims)
        return total / (self.size // total.size)

    def any(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return (self if self.kind == "bool" else self != 0).max(axis, None, keepdims)

    def all(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return (self if self.kind == "bool" else self != 0).min(axis, None, keepdims)

    def prod(self: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        x = self.chosen(self.places.reshape(-1)) if axis is None else self
        at = 0 if axis is None else range(self.ndim)[axis]
        parts = [x.chosen(np.take(x.places, k, axis=at)) for k in range(x.shape[at])]
        while len(parts) > 1:  # a tree: the shortest way
            parts = [a * b for a, b in zip(parts[::2], parts[1::2])] + parts[len(parts) & ~1 :]
        if not keepdims:
            return parts[0]
        shape = (1,) * self.ndim if axis is None else tuple(1 if k == at else n for k, n in enumerate(self.shape))
        return parts[0].chosen(parts[0].places.reshape(shape))

    def cumsum(self: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        x = self.chosen(self.places.reshape(-1)) if axis is None else self
        at = 0 if axis is None else range(self.ndim)[axis]
        turned = x.chosen(np.moveaxis(x.places, at, -1))
        y = turned.add_op(Dense(np.triu(np.ones((x.shape[at],) * 2))), kind="int" if self.kind == "bool" else None)
        return y.chosen(np.moveaxis(y.places, -1, at))

    def argmax(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self._extreme(True, axis, keepdims)

    def argmin(self: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self._extreme(False, axis, keepdims)

    def _extreme(self: Any, largest: bool, axis: Any, keepdims: bool) -> Any:
        x = self.chosen(self.places.reshape(-1)) if axis is None else self
        at = 0 if axis is None else range(self.ndim)[axis]
        order = Order(self.builder, f"place_{len(self.builder.nodes)}")
        found = type(self)(self.builder, order.extreme_place(x.index, at, largest), "int")
        kept = (1,) * self.ndim if axis is None else tuple(1 if k == at else n for k, n in enumerate(self.shape))
        shape = kept if keepdims else tuple(n for k, n in enumerate(x.shape) if k != at)
        return found.chosen(found.places.reshape(shape))

    def ranked(self: Any, axis: Any) -> tuple[Any, Any]:
        """(values, places) in rising order along an axis; equal values keep their order."""
        x = self.chosen(self.places.reshape(-1)) if axis is None else self
        at = 0 if axis is None else range(self.ndim)[axis]
        order = Order(self.builder, f"sort_{len(self.builder.nodes)}")
        values, places = order.ranked(x.index, at, x.shape[at], largest=False)
        return type(self)(self.builder, values, self.kind), type(self)(self.builder, places, "int")

    def argsort(self: Any, axis: Any = -1, **options: Any) -> Any:
        return self.ranked(axis)[1]

    def sort(self: Any, axis: Any = -1, **options: Any) -> None:
        """In place, as numpy's method."""
        self.index = self.ranked(axis)[0].index
