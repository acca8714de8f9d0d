"""The unrolled level: one value per op, held as numpy columns, so that a million ops stay small and fast.

The ops are those of `ir.ops` on shape-less values; `add` and `sub` carry a free shift of each operand because a shift
is wires. `to_graph` and `from_graph` convert to and from the common form, which gives printing, parsing and the law.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CompileError
from .graph import Builder, Graph, Output
from .ops import Add, Compare, Constant, Input, Lookup, Maximum, Minimum, Mul, Neg, Op, Quantize, Select, Shift, Sub
from .rational import IDENTITY, Affine
from .rounding import Overflow
from .types import Fixed, Int64, Tensor

__all__ = ["Code", "ScalarBuilder", "ScalarGraph", "ScalarOutput", "from_graph"]


class Code(IntEnum):
    """The op of one row."""

    INPUT = 0
    CONSTANT = 1
    ADD = 2
    SUB = 3
    NEG = 4
    MUL = 5
    MAXIMUM = 6
    MINIMUM = 7
    QUANTIZE = 8
    LOOKUP = 9
    LESS = 10
    LESS_EQUAL = 11
    EQUAL = 12
    SELECT = 13


_SIMPLE: dict[Code, Op] = {
    Code.ADD: Add(),
    Code.SUB: Sub(),
    Code.NEG: Neg(),
    Code.MUL: Mul(),
    Code.MAXIMUM: Maximum(),
    Code.MINIMUM: Minimum(),
    Code.LESS: Compare("less"),
    Code.LESS_EQUAL: Compare("less_equal"),
    Code.EQUAL: Compare("equal"),
    Code.SELECT: Select(),
}
_CODES: dict[str, Code] = {op.relation if isinstance(op, Compare) else op.name: code for code, op in _SIMPLE.items()}


@dataclass(frozen=True)
class ScalarOutput:
    """Result `name` (of `shape`, row-major): the rows that carry its elements.

    The raw integer of element k is that of row ``rows[k]`` shifted left by ``left[k]`` (None: not shifted), so that a
    row may be counted in coarser units than the tensor it came from.
    """

    name: str
    shape: tuple[int, ...]
    rows: Int64
    real: Affine = IDENTITY
    left: Int64 | None = None

    @property
    def shifts(self) -> Int64:
        """`left` as an array of one per row."""
        return np.zeros(len(self.rows), np.int64) if self.left is None else self.left


@dataclass(frozen=True, eq=False)
class ScalarGraph:
    """Columns of equal length, one row per op, in topological order.

    The value of a row is ``n * 2**exp`` with ``lo <= n <= hi``. `a`, `b`: operand rows (-1: none), read as
    ``value * 2**shift_a`` and ``value * 2**shift_b``. `c`: the condition of a SELECT row, which gives a where it is 1 and
    b where it is 0 (-1 for all others). `attribute`: index into `attributes` of a Quantize or Lookup row (-1: none).
    `group`: index into `groups`, the layer a row belongs to. Inputs come first, in the order of `input_names`/`input_shapes`.
    """

    name: str
    code: NDArray[np.uint8]
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    c: NDArray[np.int32]
    shift_a: NDArray[np.int16]
    shift_b: NDArray[np.int16]
    lo: Int64
    hi: Int64
    exp: NDArray[np.int16]
    attribute: NDArray[np.int32]
    group: NDArray[np.int32]
    attributes: tuple[Quantize | Lookup, ...]
    groups: tuple[str, ...]
    inputs: tuple[ScalarOutput, ...]
    outputs: tuple[ScalarOutput, ...]

    def __len__(self) -> int:
        return len(self.code)

    def op(self, row: int) -> Op:
        """The op of one row as defined in `ir.ops`, without the free shifts."""
        code = Code(int(self.code[row]))
        if code is Code.INPUT:
            return Input((), Fixed(int(self.lo[row]), int(self.hi[row]), int(self.exp[row])))
        if code is Code.CONSTANT:
            return Constant(np.array(self.lo[row], np.int64), int(self.exp[row]))
        return _SIMPLE[code] if code in _SIMPLE else self.attributes[int(self.attribute[row])]

    def evaluate(self, inputs: dict[str, Int64]) -> dict[str, Int64]:
        """Raw integers ``[events, *shape]`` in and out, by name; equal to the tensor graph it was unrolled from."""
        events = next(iter(inputs.values())).shape[0] if inputs else 1
        given = {int(r): inputs[i.name].reshape(events, -1)[:, k] for i in self.inputs for k, r in enumerate(i.rows)}
        values: list[Int64] = []
        for row in range(len(self)):
            if self.code[row] == Code.INPUT:
                values.append(given[row].astype(np.int64))
                continue
            operands = [(values[i], self._operand(i, s)) for i, s in self.operands(row)]
            result = Tensor((), Fixed(int(self.lo[row]), int(self.hi[row]), int(self.exp[row])))
            values.append(self.op(row).evaluate(result, [t for _, t in operands], *(v for v, _ in operands)))
        return {
            o.name: _stacked([values[int(r)] << s for r, s in zip(o.rows, o.shifts)], events).reshape(
                (events, *o.shape)
            )
            for o in self.outputs
        }

    def operands(self, row: int) -> list[tuple[int, int]]:
        """(row, shift) of each operand, in the order of the op's."""
        found = (
            (self.c[row], 0),
            (self.a[row], self.shift_a[row]),
            (self.b[row], self.shift_b[row]),
        )
        return [(int(i), int(s)) for i, s in found if i >= 0]

    def _operand(self, row: int, shift: int) -> Tensor:
        return Tensor((), Fixed(int(self.lo[row]), int(self.hi[row]), int(self.exp[row]) + shift))

    def to_graph(self) -> Graph:
        """The same program as a graph of shape-less nodes; each element becomes an input or output of its own."""
        builder = Builder(self.name)
        names = {int(r): f"{i.name}.{k}" for i in self.inputs for k, r in enumerate(i.rows)}
        index: list[int] = []
        for row in range(len(self)):
            operands: list[int] = []
            for i, s in self.operands(row):
                operands.append(builder.add(Shift(s), index[i], name=f"v{row}.shift") if s else index[i])
            index.append(builder.add(self.op(row), *operands, name=names.get(row, f"v{row}")))
        outputs = [
            Output(f"{o.name}.{k}", self._recounted(builder, index[int(r)], int(left)), o.real)
            for o in self.outputs
            for k, (r, left) in enumerate(zip(o.rows, o.shifts))
        ]
        return builder.graph(outputs)

    @staticmethod
    def _recounted(builder: Builder, node: int, left: int) -> int:
        """The same value in units 2**left times finer."""
        t = builder.type(node).fixed
        finer = t.at(t.exp - left)
        return builder.add(Quantize(finer, overflow=Overflow.SAT), node) if left else node


def _stacked(columns: list[Int64], events: int) -> Int64:
    return (
        np.stack([np.broadcast_to(c, events) for c in columns], axis=1) if columns else np.zeros((events, 0), np.int64)
    )


class ScalarBuilder:
    """Appends rows with inferred types, by the same rules as the tensor ops."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._code, self._a, self._b, self._c = array("B"), array("i"), array("i"), array("i")
        self._sa, self._sb, self._exp = array("h"), array("h"), array("h")
        self._lo, self._hi = array("q"), array("q")
        self._attribute, self._group = array("i"), array("i")
        self._attributes: dict[int, int] = {}
        self._kept: list[Quantize | Lookup] = []
        self.groups: list[str] = []
        self._current = -1
        self._inputs: list[ScalarOutput] = []
        self._constants: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._code)

    def group(self, name: str) -> None:
        """Rows appended from now on belong to layer `name`, new or used before."""
        if name not in self.groups:
            self.groups.append(name)
        self._current = self.groups.index(name)

    @property
    def current(self) -> int:
        """Index of the layer that rows are appended to; -1 before the first."""
        return self._current

    def is_constant(self, row: int) -> bool:
        return self._code[row] == Code.CONSTANT

    def fixed(self, row: int, shift: int = 0) -> Fixed:
        """The type of a row, times 2**shift."""
        return Fixed(self._lo[row], self._hi[row], self._exp[row] + shift)

    def types(self, rows: Int64, shifts: Int64) -> Fixed:
        """The types of many rows, times 2**shifts, in one value."""
        flat = rows.reshape(-1).tolist()
        lo, hi, exp = (
            np.array([column[r] for r in flat], np.int64).reshape(rows.shape)
            for column in (self._lo, self._hi, self._exp)
        )
        return Fixed.of(lo, hi, exp + shifts)

    def narrow(self, row: int, lo: int, hi: int) -> None:
        """The caller has proved that the row stays within lo..hi (integers of the row's own exponent)."""
        self._lo[row], self._hi[row] = max(self._lo[row], lo), min(self._hi[row], hi)

    def _append(
        self, code: Code, t: Fixed, a: int = -1, b: int = -1, sa: int = 0, sb: int = 0, attribute: int = -1, c: int = -1
    ) -> int:
        self._code.append(code)
        self._a.append(a)
        self._b.append(b)
        self._c.append(c)
        self._sa.append(sa)
        self._sb.append(sb)
        self._lo.append(t.lo)  # pyright: ignore[reportArgumentType]
        self._hi.append(t.hi)  # pyright: ignore[reportArgumentType]
        self._exp.append(t.exp)  # pyright: ignore[reportArgumentType]
        self._attribute.append(attribute)
        self._group.append(self._current)
        return len(self._code) - 1

    def inputs(self, name: str, t: Tensor, real: Affine = IDENTITY) -> Int64:
        """One row per element of an input tensor, row-major."""
        rows = np.array(
            [self._append(Code.INPUT, Fixed(int(lo), int(hi), int(e))) for lo, hi, e in zip(*t.flat())], np.int64
        )
        self._inputs.append(ScalarOutput(name, t.shape, rows, real))
        return rows

    def constant(self, n: int, exp: int = 0) -> int:
        """n * 2**exp; equal constants share a row."""
        if n == 0:
            exp = 0
        if (n, exp) not in self._constants:
            self._constants[n, exp] = self._append(Code.CONSTANT, Fixed.of(n, n, exp))
        return self._constants[n, exp]

    def add(self, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """a * 2**shift_a + b * 2**shift_b."""
        return self._append(Code.ADD, self.fixed(a, shift_a) + self.fixed(b, shift_b), a, b, shift_a, shift_b)

    def sub(self, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """a * 2**shift_a - b * 2**shift_b."""
        return self._append(Code.SUB, self.fixed(a, shift_a) - self.fixed(b, shift_b), a, b, shift_a, shift_b)

    def neg(self, a: int, shift: int = 0) -> int:
        """-a * 2**shift."""
        return self._append(Code.NEG, -self.fixed(a, shift), a, sa=shift)

    def mul(self, a: int, b: int, shift: int = 0) -> int:
        """a * b * 2**shift, both variable."""
        return self._append(Code.MUL, self.fixed(a, shift) * self.fixed(b), a, b, sa=shift)

    def maximum(self, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """max(a * 2**shift_a, b * 2**shift_b)."""
        return self._append(
            Code.MAXIMUM, self.fixed(a, shift_a).maximum(self.fixed(b, shift_b)), a, b, shift_a, shift_b
        )

    def minimum(self, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """min(a * 2**shift_a, b * 2**shift_b)."""
        return self._append(
            Code.MINIMUM, self.fixed(a, shift_a).minimum(self.fixed(b, shift_b)), a, b, shift_a, shift_b
        )

    def compare(self, code: Code, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """1 where a * 2**shift_a is less than (LESS), at most (LESS_EQUAL) or EQUAL to b * 2**shift_b, else 0."""
        x, y = (Tensor((), self.fixed(r, s)) for r, s in ((a, shift_a), (b, shift_b)))
        return self._append(code, _SIMPLE[code].infer(x, y).fixed, a, b, shift_a, shift_b)

    def select(self, c: int, a: int, b: int, shift_a: int = 0, shift_b: int = 0) -> int:
        """a * 2**shift_a where c is 1, b * 2**shift_b where it is 0."""
        types = (self.fixed(c), self.fixed(a, shift_a), self.fixed(b, shift_b))
        result = _SIMPLE[Code.SELECT].infer(*(Tensor((), t) for t in types)).fixed
        return self._append(Code.SELECT, result, a, b, shift_a, shift_b, c=c)

    def apply(self, op: Quantize | Lookup, a: int, shift: int = 0, result: Fixed | None = None) -> int:
        """op(a * 2**shift); pass the same op object for many rows, it is stored once.

        `result` is what ``op.infer`` gives, where the caller has it already (inferring a whole tensor is faster).
        """
        if result is None:
            result = op.infer(Tensor((), self.fixed(a, shift))).fixed
        code = Code.QUANTIZE if isinstance(op, Quantize) else Code.LOOKUP
        if id(op) not in self._attributes:
            self._attributes[id(op)] = len(self._kept)
            self._kept.append(op)
        return self._append(code, result, a, sa=shift, attribute=self._attributes[id(op)])

    def build(self, outputs: Sequence[ScalarOutput]) -> ScalarGraph:
        """The finished columns. Raises `CompileError` above 2**31 rows."""
        if len(self) >= 1 << 31:
            raise CompileError(self.name, "unrolling gives more than 2**31 operations", "use a folded schedule")

        def column(values: array[int], kind: type[Any]) -> NDArray[Any]:
            return np.array(values, kind)

        return ScalarGraph(
            self.name,
            column(self._code, np.uint8),
            column(self._a, np.int32),
            column(self._b, np.int32),
            column(self._c, np.int32),
            column(self._sa, np.int16),
            column(self._sb, np.int16),
            column(self._lo, np.int64),
            column(self._hi, np.int64),
            column(self._exp, np.int16),
            column(self._attribute, np.int32),
            column(self._group, np.int32),
            tuple(self._kept),
            tuple(self.groups),
            tuple(self._inputs),
            tuple(outputs),
        )


def from_graph(graph: Graph) -> ScalarGraph:
    """A graph of shape-less nodes as columns; inverse of `ScalarGraph.to_graph` up to free shifts."""
    builder = ScalarBuilder(graph.name)
    rows: list[tuple[int, int]] = []  # (row, pending shift) of each node
    methods: dict[Code, Callable[..., int]] = {
        Code.ADD: builder.add,
        Code.SUB: builder.sub,
        Code.MAXIMUM: builder.maximum,
        Code.MINIMUM: builder.minimum,
    }
    for node in graph.nodes:
        operands = [rows[i] for i in node.operands]
        if node.type.shape != ():
            raise CompileError(node.name, f"must have no axes in a scalar program, not shape {list(node.type.shape)}")
        rows.append(_scalar_row(builder, methods, node.name, node.op, operands))
    outputs = [
        ScalarOutput(o.name, (), np.array([_settled(builder, *rows[o.node])], np.int64), o.real) for o in graph.outputs
    ]
    return builder.build(outputs)


def _scalar_row(
    builder: ScalarBuilder, methods: dict[Code, Callable[..., int]], name: str, op: Op, operands: list[tuple[int, int]]
) -> tuple[int, int]:
    if isinstance(op, Input):
        return int(builder.inputs(name, Tensor((), op.fixed), op.real)[0]), 0
    if isinstance(op, Constant):
        return builder.constant(int(op.values), int(op.exp)), 0
    if isinstance(op, Shift):
        return operands[0][0], operands[0][1] + int(op.by)
    if isinstance(op, Quantize | Lookup):
        return builder.apply(op, *operands[0]), 0
    code = _CODES.get(op.relation if isinstance(op, Compare) else op.name)
    if code is Code.NEG:
        return builder.neg(*operands[0]), 0
    if code is Code.MUL:
        return builder.mul(operands[0][0], operands[1][0], operands[0][1] + operands[1][1]), 0
    if code is None:
        raise CompileError(f"{name} ({op.name})", "is not an op of the scalar level", "unroll the graph first")
    if isinstance(op, Select):
        condition, operands = _settled(builder, *operands[0]), operands[1:]
        return builder.select(condition, *(r for r, _ in operands), *(s for _, s in operands)), 0
    (a, sa), (b, sb) = operands
    if isinstance(op, Compare):
        return builder.compare(code, a, b, sa, sb), 0
    return methods[code](a, b, sa, sb), 0


def _settled(builder: ScalarBuilder, row: int, shift: int) -> int:
    """A row whose own exponent includes the pending shift."""
    if not shift:
        return row
    t = builder.fixed(row, shift)
    return builder.apply(Quantize(Fixed(t.lo, t.hi, t.exp), overflow=Overflow.SAT), row, shift)
