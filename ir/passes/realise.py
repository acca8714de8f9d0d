"""Requantize becomes multiply, add and quantize (or a table) with integer constants, so that no backend hears of it."""

from __future__ import annotations

import numpy as np

from ..errors import CompileError
from ..graph import Builder, Graph, Node, rewrite
from ..ops import Add, Constant, Lookup, Mul, Quantize, Requantize
from ..ops.quantizing import MAX_TABLE
from ..rounding import Overflow, Rounding
from ..types import Fixed
from .staircase import multiply_shift, prove

__all__ = ["realise_requantize"]


def realise_requantize(graph: Graph) -> Graph:
    """Every requantize as ``quantize(x * multiplier + bias)``, proved equal on the whole reachable interval.

    Where no multiplier exists (uneven ties) a table of the operand serves. Raises `CompileError` if neither fits.
    """

    def rule(builder: Builder, node: Node, operands: tuple[int, ...]) -> int | None:
        if not isinstance(node.op, Requantize):
            return None
        x = builder.type(operands[0])
        found = multiply_shift(node.op, x)
        if found is None:
            return _table(builder, node, node.op, operands[0])
        wrong = prove(node.op, x, found)
        if wrong is not None:
            raise CompileError(
                node.name, f"the multiply-shift of element {wrong} is not equal to the scale", "report this as a bug"
            )
        to = node.op.infer(x).fixed
        # Operand integers n count in 2**x.exp; (m * n + b) / 2**s must count in 2**to.exp.
        exp_in, exp_out = (np.broadcast_to(np.asarray(e, np.int64), x.shape).reshape(-1) for e in (x.fixed.exp, to.exp))
        unit = exp_out - found.shift
        factor = builder.add(
            Constant(found.multiplier.reshape(x.shape), (unit - exp_in).reshape(x.shape)), name=f"{node.name}.factor"
        )
        bias = builder.add(Constant(found.bias.reshape(x.shape), unit.reshape(x.shape)), name=f"{node.name}.bias")
        product = builder.add(Mul(), operands[0], factor, name=f"{node.name}.product")
        total = builder.add(Add(), product, bias, name=f"{node.name}.sum") if np.any(found.bias) else product
        return builder.add(Quantize(to, found.rounding, Overflow.SAT), total, name=node.name)

    return rewrite(graph, rule)


def _table(builder: Builder, node: Node, op: Requantize, operand: int) -> int:
    x = builder.type(operand)
    lo, hi, exp = x.flat()
    step = int(exp.min())
    first, last = int((lo << (exp - step)).min()), int((hi << (exp - step)).max())
    entries = last - first + 1
    if entries * max(x.size, 1) > MAX_TABLE:
        raise CompileError(
            node.name,
            f"this scale breaks ties unevenly, which needs a table of {entries} entries for each of "
            f"{x.size} elements, more than 2**20",
            "use a power-of-two scale or fewer bits",
        )
    # Every element is evaluated at every entry's value, by the law itself.
    wide = type(x)(x.shape, Fixed(first, last, step))
    values = np.broadcast_to(np.arange(first, last + 1).reshape((-1,) + (1,) * len(x.shape)), (entries, *x.shape))
    table = np.moveaxis(op.evaluate(op.infer(wide), [wide], values), 0, -1)
    if isinstance(op.to.exp, int):
        return builder.add(Lookup(table.copy(), first, step, op.to.exp), operand, name=node.name)
    # Elements with steps of their own: the table has the finest, and the type of each takes nothing away.
    coarser = np.broadcast_to(np.asarray(op.to.exp, np.int64), x.shape)
    finest = int(coarser.min())
    found = builder.add(
        Lookup(table << (coarser - finest)[..., None], first, step, finest), operand, name=f"{node.name}.table"
    )
    return builder.add(Quantize(op.infer(x).fixed, Rounding.TRN, Overflow.SAT), found, name=node.name)
