"""Einstein sums of two data values as real ops. Knows no file format."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .real import Gather, Mul, Reduce, Reshape

__all__ = ["contracted"]


def contracted(
    append: Callable[..., int],
    a: int,
    b: int,
    equation: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    part: str = "",
) -> int:
    """An Einstein sum such as ``hxd,hyd->hxy`` of nodes a and b: gathered, multiplied and summed.

    `append(op, *operands, suffix=...)` adds a node and returns its index; the last node has the suffix `part`. Every element
    of the result is a sum of products over the letters that it does not have.
    """
    left, out = equation.split("->")
    terms = left.split(",")
    size = {letter: n for term, shape in zip(terms, shapes) for letter, n in zip(term, shape)}
    inner = "".join(dict.fromkeys(x for x in terms[0] + terms[1] if x not in out))
    order = out + inner
    full = tuple(size[x] for x in order)
    parts: list[int] = []
    for node, term, shape in ((a, terms[0], shapes[0]), (b, terms[1], shapes[1])):
        flat = np.arange(math.prod(shape)).reshape(shape)
        spread = np.einsum(flat, [order.index(x) for x in term], sorted(order.index(x) for x in set(term)))
        kept = sorted(order.index(x) for x in set(term))
        index = np.broadcast_to(spread.reshape([full[k] if k in kept else 1 for k in range(len(order))]), full)
        parts.append(append(Gather(index.copy()), node, suffix=f"{part}.operand{len(parts)}"))
    product = append(Mul(), *parts, suffix=f"{part}.products")
    if not inner:
        return append(Reshape(tuple(size[x] for x in out)), product, suffix=part)
    flat_shape = (*(size[x] for x in out), math.prod(size[x] for x in inner))
    joined = append(Reshape(flat_shape), product, suffix=f"{part}.flat")
    total = append(Reduce("sum", len(out)), joined, suffix=f"{part}.sum")
    return append(Reshape(tuple(size[x] for x in out)), total, suffix=part)
