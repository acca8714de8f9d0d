"""Proves the linear part of an unrolled program: every emitted adder network multiplies by exactly its matrix.

Knows what sums of shifted rows are, and nothing of how the network was found; executes nothing. From a matrix's operand
rows on, each row is an integer combination of them; propagating the coefficients must give the matrix back, and the
combination's exact interval must fit the interval, hence the width, that the row was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..codegen.unroll import Unrolled, Wires
from ..ir.graph import Graph, Node
from ..ir.ops import Linear
from ..ir.scalar import Code, ScalarGraph

__all__ = ["Proof", "prove_linear"]

_SUMS = {Code.ADD: 1, Code.SUB: -1}


@dataclass(frozen=True)
class Proof:
    """`layers`: the linear ops whose every output was proved; `adders`: rows that the proof went through; `failures`: a
    sentence for each output or row that is wrong, beginning with the op's name."""

    layers: tuple[str, ...]
    adders: int
    failures: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.failures


def prove_linear(graph: Graph, unrolled: Unrolled, scalar: ScalarGraph | None = None) -> Proof:
    """Checks each `linear` of `graph` on the rows that were emitted for it.

    `scalar` replaces the program of `unrolled` (of the same rows), so that one read back from elsewhere can be proved.
    Outputs whose rows were dropped because nothing reads them are left out.
    """
    program = _Program(scalar or unrolled.scalar)
    proved: list[str] = []
    failures: list[str] = []
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, Linear):
            found = _prove_node(program, graph, node, unrolled.wires[node.operands[0]], unrolled.wires[i])
            failures += found
            proved += [] if found else [node.name]
    return Proof(tuple(proved), len(program.seen), tuple(failures))


class _Program:
    """The columns as lists, and the rows that proofs have gone through."""

    def __init__(self, scalar: ScalarGraph) -> None:
        self.code, self.a, self.b = scalar.code.tolist(), scalar.a.tolist(), scalar.b.tolist()
        self.shift_a, self.shift_b = scalar.shift_a.tolist(), scalar.shift_b.tolist()
        self.lo, self.hi, self.exp = scalar.lo.tolist(), scalar.hi.tolist(), scalar.exp.tolist()
        self.seen: dict[int, None] = {}


def _prove_node(p: _Program, graph: Graph, node: Node, x: Wires, y: Wires) -> list[str]:
    op = node.op
    assert isinstance(op, Linear)
    n_in, n_out = op.weights.shape
    exps = np.broadcast_to(np.asarray(op.exp), (n_out,)).tolist()
    inputs, outputs = (w.map(lambda f, n=n: f.reshape(-1, n)) for w, n in ((x, n_in), (y, n_out)))
    failures: list[str] = []
    for position in range(len(outputs.rows)):
        operands = list(zip(*(f[position].tolist() for f in (inputs.rows, inputs.shifts, inputs.signs))))
        results = list(zip(*(f[position].tolist() for f in (outputs.rows, outputs.shifts, outputs.signs))))
        failures += [f"{node.name} (linear): {rule}" for rule in _prove_position(p, op, operands, results, exps)]
    return failures


_Wire = tuple[int, int, int]
_Form = tuple[list[int] | np.ndarray, int]  # coefficients of the operand rows' integers, and a constant


def _prove_position(
    p: _Program, op: Linear, operands: Sequence[_Wire], results: Sequence[_Wire], exps: Sequence[int]
) -> list[str]:
    leaves = list(dict.fromkeys(row for row, _, _ in operands if row >= 0 and p.code[row] != Code.CONSTANT))
    place = {row: k for k, row in enumerate(leaves)}
    low = np.array([p.lo[r] for r in leaves], object)
    high = np.array([p.hi[r] for r in leaves], object)
    forms: dict[int, _Form] = {}
    failures: list[str] = []
    for row in _cone(p, [r for r, _, _ in results if r >= 0], place):
        form = _row_form(p, row, forms, place)
        if form is None:
            return [f"row {row} is a {Code(p.code[row]).name.lower()} and no sum of the operands"]
        forms[row] = form
        failures += _outside(p, row, form, low, high)
        if row not in place:
            p.seen[row] = None
    for j, result in enumerate(results):
        if result[0] >= 0 and not _is_column(p, forms, place, operands, op.weights[:, j].tolist(), exps[j], result):
            failures.append(f"output {j} is not the product with column {j} of the matrix")
    return failures


def _cone(p: _Program, roots: Sequence[int], place: dict[int, int]) -> list[int]:
    """Rows between the operands and the results, operands first (rows are in topological order)."""
    found: dict[int, None] = {}
    pending = list(roots)
    while pending:
        row = pending.pop()
        if row in found:
            continue
        found[row] = None
        if row not in place and p.code[row] in (Code.ADD, Code.SUB, Code.NEG):
            pending += [r for r in (p.a[row], p.b[row]) if r >= 0]
    return sorted(found)


def _row_form(p: _Program, row: int, forms: dict[int, _Form], place: dict[int, int]) -> _Form | None:
    """The row's integer as a combination of the operands' integers."""
    if row in place:
        unit = np.zeros(len(place), object)
        unit[place[row]] = 1
        return unit, 0
    code = p.code[row]
    if code == Code.CONSTANT:
        return np.zeros(len(place), object), p.lo[row]
    if code not in (Code.ADD, Code.SUB, Code.NEG):
        return None
    left_a = p.exp[p.a[row]] + p.shift_a[row] - p.exp[row]
    a, constant_a = forms[p.a[row]]
    if left_a < 0:
        return None
    if code == Code.NEG:
        return -(np.asarray(a) << left_a), -(constant_a << left_a)
    left_b = p.exp[p.b[row]] + p.shift_b[row] - p.exp[row]
    b, constant_b = forms[p.b[row]]
    if left_b < 0:
        return None
    sign = _SUMS[Code(code)]
    return (np.asarray(a) << left_a) + sign * (np.asarray(b) << left_b), (constant_a << left_a) + sign * (
        constant_b << left_b
    )


def _outside(p: _Program, row: int, form: _Form, low: np.ndarray, high: np.ndarray) -> list[str]:
    """The row's exact interval must be within the one it was given."""
    c = np.asarray(form[0], object)
    ends = np.where(c > 0, c * low, c * high), np.where(c > 0, c * high, c * low)
    lowest, highest = (int(e.sum()) + form[1] for e in ends)
    if p.lo[row] <= lowest and highest <= p.hi[row]:
        return []
    return [f"row {row} reaches {lowest}..{highest} and its width holds only {p.lo[row]}..{p.hi[row]}"]


def _is_column(
    p: _Program,
    forms: dict[int, _Form],
    place: dict[int, int],
    operands: Sequence[_Wire],
    column: Sequence[int],
    exp: int,
    result: _Wire,
) -> bool:
    """sign * row * 2**shift must be the sum of weight * operand * 2**exp, with all powers of two made whole."""
    row, shift, sign = result
    own = p.exp[row] + shift
    powers = [p.exp[r] + s + exp for (r, s, _), w in zip(operands, column) if w]
    unit = min([own, *powers])
    expected, constant = [0] * len(place), 0
    for (r, s, operand_sign), weight in zip(operands, column):
        if not weight:
            continue
        factor = weight * operand_sign << p.exp[r] + s + exp - unit
        if r in place:
            expected[place[r]] += factor
        else:
            constant += factor * p.lo[r]
    coefficients, found = forms[row]
    return [int(c) * sign << own - unit for c in coefficients] == expected and found * sign << own - unit == constant
