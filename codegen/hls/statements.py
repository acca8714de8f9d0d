"""One op of one element as C++ statements; knows types, tables and indices, not loops around or functions."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Node
from ...ir.ops import (
    Add,
    Compare,
    Constant,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Quantize,
    ReduceMax,
    ReduceSum,
    Select,
    Shift,
    Sub,
)
from ...ir.rounding import Overflow
from ...ir.types import Int64
from .grids import places
from .plan import Nest, Plan
from .quantizing import Cast, realised
from .tables import Tables

__all__ = ["INDENT", "Body", "array_index", "loop_variables", "strided", "strides"]

_OPERATORS = {Add: "+", Sub: "-", Mul: "*"}
_RELATIONS = {"less": "<", "less_equal": "<=", "equal": "=="}
INDENT = "    "
_WIDTH = 104


def loop_variables(shape: tuple[int, ...]) -> list[str]:
    """A variable per axis, "" for axes of length 1, which need no loop."""
    several = sum(n > 1 for n in shape) > 1
    return [(f"i{axis}" if several else "i") if n > 1 else "" for axis, n in enumerate(shape)]


def array_index(shape: tuple[int, ...], variables: list[str]) -> str:
    """Row-major index of an array of `shape`, whose axes belong to the last of the variables (broadcasting)."""
    own = variables[len(variables) - len(shape) :]
    return strided([v if n > 1 else "" for n, v in zip(shape, own)], strides(shape))


def wrapped(target: str, expression: str, operator: str = "=") -> list[str]:
    """The assignment on one line, or broken at spaces where it is long."""
    line = f"{target} {operator} {expression};"
    if len(line) <= _WIDTH:
        return [line]
    broken = textwrap.wrap(f"{expression};", _WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return [f"{target} {operator}", *(INDENT * 2 + part for part in broken)]


def strides(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next, by axis."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def strided(variables: list[str], steps: list[int], offset: int = 0) -> str:
    """sum(variable * step) + offset, without what is 0."""
    terms = [v if step == 1 else f"{v} * {step}" for v, step in zip(variables, steps) if v]
    return " + ".join([*terms, str(offset)] if offset or not terms else terms)


def linear_table(plan: Plan, i: int) -> Int64:
    """The integers of a Linear's weights on their grid, ``[n_out, n_in]``."""
    op = plan.graph.nodes[i].op
    assert isinstance(op, Linear)
    exp = np.broadcast_to(np.asarray(op.exp), op.weights.shape[1])
    return (op.weights << np.where((op.weights == 0).all(axis=0), 0, exp - plan.weight_grid(i).exp)).T


@dataclass
class Body:
    """Writes the statements of a nest's nodes for one element of its result."""

    plan: Plan
    tables: Tables
    nest: Nest

    def __post_init__(self) -> None:
        self.nodes = self.plan.graph.nodes
        self.shape = self.nodes[self.nest.end].type.shape
        self.variables = loop_variables(self.shape)
        self.index = array_index(self.shape, self.variables)

    def lines(self) -> list[str]:
        found: list[str] = []
        for i in self.nest.nodes:
            found += self._lines(i)
        return found

    def behind(self, total: str) -> list[str]:
        """What follows the matrix or reduction at the head of the nest, whose result is the expression `total`."""
        head, *rest = self.nest.nodes
        if not rest:
            return [f"{self._target(head)} = {total};"]
        lines = [f"const {self.plan.types[head]} {self.plan.names[head]} = {total};"]
        return lines + [line for i in rest for line in self._lines(i)]

    def _lines(self, i: int) -> list[str]:
        node = self.nodes[i]
        if isinstance(node.op, Linear | ReduceSum | ReduceMax):
            lines = self._linear(i, node) if isinstance(node.op, Linear) else self._reduce(i, node)
            value = self._accumulator(i)
            return [*lines, f"{self._target(i)} = {value};"] if value != self.plan.names[i] else lines
        kind = "" if i == self.nest.end else f"const {self.plan.types[i]} "
        return wrapped(f"{kind}{self._target(i)}", self._expression(i, node))

    def _target(self, i: int) -> str:
        return f"{self.plan.names[i]}[{self.index}]" if i == self.nest.end else self.plan.names[i]

    def _accumulator(self, i: int) -> str:
        """A value that later statements read is its own accumulator."""
        if i != self.nest.end:
            return self.plan.names[i]
        return "largest" if isinstance(self.nodes[i].op, ReduceMax) else "total"

    # ---- operands ---------------------------------------------------------------------------------------------------

    def operand(self, j: int, index: str | None = None) -> str:
        """The value of node j at this element, or at `index` of its array."""
        if j in self.nest.nodes:
            return self.plan.names[j]
        return self.stored(j, array_index(self.nodes[j].type.shape, self.variables) if index is None else index)

    def stored(self, j: int, index: str) -> str:
        """The element at `index` of the array that holds node j."""
        owner = self.plan.storage[j]
        if isinstance(self.nodes[owner].op, Constant):
            return self._constant(owner, index)
        return f"{self.plan.names[owner]}[{index}]"

    def _constant(self, j: int, index: str) -> str:
        node, grid = self.nodes[j], self.plan.grids[j]
        raw = node.op.evaluate(node.type, ())[0].reshape(-1) << places(node.type, grid)
        n = self.tables.parameter(self.plan.tables[j], raw, index, f"{node.name} {list(node.type.shape)}: {grid}", True)
        return f"{self.plan.types[j]}(0)" if n == "0" else f"from_raw<{self.plan.types[j]}>({n})"

    # ---- ops --------------------------------------------------------------------------------------------------------

    def _linear(self, i: int, node: Node) -> list[str]:
        assert isinstance(node.op, Linear)
        x, out = node.operands[0], self.nodes[node.operands[0]].type.shape
        values = linear_table(self.plan, i)
        table = self.tables.add(
            self.plan.tables[i], values, f"{node.name}, [outputs][inputs]: {self.plan.weight_grid(i)}", True
        )
        name, row = self._accumulator(i), self.variables[-1] or "0"
        index = array_index(out, [*self.variables[:-1], "k"])
        weight = f"from_raw<{self.plan.weight_types[i]}>({table}[{row}][{'k' if out[-1] > 1 else 0}])"
        return [
            f"{self.plan.types[i]} {name} = 0;",
            f"{self.plan.names[i]}_k: for (int k = 0; k < {out[-1]}; k++) {{",
            "#pragma HLS UNROLL",
            *(INDENT + line for line in wrapped(name, f"{self.operand(x, index)} * {weight}", "+=")),
            "}",
        ]

    def _reduce(self, i: int, node: Node) -> list[str]:
        assert isinstance(node.op, ReduceSum | ReduceMax)
        x, axis = node.operands[0], node.op.axis
        shape = self.nodes[x].type.shape
        name = self._accumulator(i)

        def at(k: str) -> str:
            return self.operand(x, array_index(shape, [*self.variables[:axis], k, *self.variables[axis + 1 :]]))

        if isinstance(node.op, ReduceSum):
            start, first, step = "0", 0, f"{name} += {at('k')};"
            kind = self.plan.types[i]
        else:  # the running maximum may be below any possible result: the operand's type holds it
            start, first, step = at("0"), 1, f"{name} = {at('k')} > {name} ? {at('k')} : {name};"
            kind = self.plan.types[self.plan.storage[x]]
        if shape[axis] == first:
            return [f"{kind} {name} = {start};"]
        return [
            f"{kind} {name} = {start};",
            f"{self.plan.names[i]}_k: for (int k = {first}; k < {shape[axis]}; k++) {{",
            "#pragma HLS UNROLL",
            f"{INDENT}{step}",
            "}",
        ]

    def _expression(self, i: int, node: Node) -> str:
        op, kind = node.op, self.plan.types[i]
        if isinstance(op, Add | Sub | Mul):
            x, y = (self.operand(j) for j in node.operands)
            return f"{x} {_OPERATORS[type(op)]} {y}"
        if isinstance(op, Maximum | Minimum):
            x, y = (self.operand(j) for j in node.operands)
            return f"{'larger' if isinstance(op, Maximum) else 'smaller'}<{kind}>({x}, {y})"
        if isinstance(op, Compare):
            x, y = (self.operand(j) for j in node.operands)
            return f"{kind}({x} {_RELATIONS[op.relation]} {y})"
        if isinstance(op, Select):
            condition, x, y = (self.operand(j) for j in node.operands)
            return f"{condition} != 0 ? {kind}({x}) : {kind}({y})"
        (x,) = node.operands
        if isinstance(op, Neg):
            return f"-{self.operand(x)}"
        if isinstance(op, Shift):
            return self._shift(i, node, x)
        if isinstance(op, Lookup):
            return self._lookup(i, node, x)
        assert isinstance(op, Quantize)
        return self._quantize(i, node, x)

    def _shift(self, i: int, node: Node, x: int) -> str:
        source, grid = self.plan.grids[x], self.plan.grids[i]
        lo, hi, _ = node.type.flat()
        by = np.broadcast_to(np.asarray(node.op.by), node.type.shape).reshape(-1)  # type: ignore[attr-defined]
        left = np.where((lo == 0) & (hi == 0), 0, by + source.exp - grid.exp)
        n = self._parameter(i, "left", left)
        return f"rescaled<{self.plan.types[i]}, {max(source.width, grid.width) + 1}>({self.operand(x)}, {n})"

    def _lookup(self, i: int, node: Node, x: int) -> str:
        op, source = node.op, self.plan.grids[x]
        assert isinstance(op, Lookup)
        up = max(source.exp - op.step, 0)
        table, row = op.table, ""
        if op.table.ndim > 1:
            table, row = self.at(op.table.reshape(-1, op.table.shape[-1]))
            row = f"[{row}]"
        comment = f"{node.name}: entry n is the result for (n {op.first:+d}) * 2^{op.step}, as {self.plan.grids[i]}"
        name = self.tables.add(self.plan.tables[i], table, comment, True)
        position = f"raw_of<32>({self.operand(x)})"
        if up:
            position = f"{position} * {1 << up}"
        if op.first:
            position += f" - {op.first}" if op.first > 0 else f" + {-op.first}"
        return f"from_raw<{self.plan.types[i]}>({name}{row}[({position}).to_int()])"

    def _quantize(self, i: int, node: Node, x: int) -> str:
        assert isinstance(node.op, Quantize)
        form = realised(node.op, self.nodes[x].type, self.plan.grids[x], node.type, self.plan.grids[i])
        value = self.operand(x)
        if isinstance(form, Cast):
            return f"{form.target.cpp(*form.modes)}({value})" if form.modes else value
        overflow = Overflow.SAT if node.op.overflow is Overflow.SAT_SYM else node.op.overflow  # lo says the rest
        numbers = [
            self._parameter(i, name, values)
            for name, values in (("drop", form.drop), ("lo", form.lo), ("hi", form.hi), ("place", form.place))
        ]
        return (
            f"quantized<AP_{node.op.rounding.value}, AP_{overflow.value}, {self.plan.types[i]}, {form.width}>"
            f"({value}, {', '.join(numbers)})"
        )

    def at(self, values: Int64) -> tuple[Int64, str]:
        """A table with an entry for every element ``[elements, ...]``, and the index of this element's."""
        return values, self.index

    def _parameter(self, i: int, name: str, values: Int64) -> str:
        table, index = self.at(values)
        return self.tables.parameter(f"{self.plan.names[i]}_{name}", table, index, f"{self.nodes[i].name}: {name}")
