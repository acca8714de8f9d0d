"""The text of one Triton kernel: loads, elementwise expressions, dot products, reductions and stores on tiles of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...ir.graph import Node
from ...ir.ops import Forest, Linear, ReduceMax, ReduceSum
from ...ir.types import Int64, Tensor
from ..elementwise import Expression, apply, fits_int32, lane, literal, narrowest
from . import dots
from .forest import walk
from .plan import Copy, Kernel, Plan, broadcast_index, tile_width

__all__ = ["Arenas", "KernelText", "storage_dtype", "write_kernel"]

_STORAGE = ("int8", "uint8", "int16", "int32", "int64")
_SPLIT_COLUMNS, _SPLIT_DEPTH = 64, 64
"""Columns of a tile, and products of a step, of a matrix that is too large for registers."""
_TILE = 1 << 14
"""Elements of the widest tile of a program."""


def storage_dtype(t: Tensor) -> str:
    """The narrowest type of memory that holds every raw value of a tensor."""
    return narrowest(t, _STORAGE)


@dataclass
class Arenas:
    """All constants of a module, one array for each element type, each set of values once."""

    parts: dict[str, list[Int64]] = field(default_factory=lambda: {k: [] for k in ("int8", "int16", "int32", "int64")})
    _sizes: dict[str, int] = field(default_factory=dict)
    _seen: dict[tuple[str, bytes], int] = field(default_factory=dict)

    def add(self, kind: str, values: Int64) -> int:
        """Where the values begin."""
        key = (kind, values.tobytes())
        if key not in self._seen:
            self._seen[key] = self._sizes.get(kind, 0)
            self._sizes[kind] = self._seen[key] + values.size
            self.parts[kind].append(values.reshape(-1))
        return self._seen[key]

    def array(self, kind: str) -> Int64:
        return np.concatenate([*self.parts[kind], np.zeros(1, np.int64)])


@dataclass(frozen=True)
class KernelText:
    """A kernel's source, the buffers it is given, rows per event, rows of a tile, and programs along the columns."""

    name: str
    source: str
    buffers: tuple[int, ...]
    rows: int
    block: int
    column_programs: int


@dataclass(frozen=True)
class _Columns:
    """The columns that expressions are about: `n` of them in a tile of `width`, numbered by the variable `name`."""

    n: int
    width: int
    name: str
    steady: bool = True  # the same for every tile of rows, so that tables are read once


def write_kernel(plan: Plan, k: int, arenas: Arenas) -> KernelText:
    return _Writer(plan, plan.kernels[k], f"kernel_{k}", arenas).write()


class _Writer:
    """Writes one kernel; it is the dialect of `codegen.elementwise` for Triton."""

    narrow = "tl.int32"
    wide = "tl.int64"

    def __init__(self, plan: Plan, kernel: Kernel, name: str, arenas: Arenas) -> None:
        self.plan, self.kernel, self.name, self.arenas = plan, kernel, name, arenas
        self.nodes = plan.graph.nodes
        self.head: list[str] = []  # before the loop over tiles
        self.body: list[str] = []  # in it
        self.indent = ""
        self.values: dict[int, Expression] = {}
        self.buffers: list[int] = []
        self.loaded: dict[tuple[int, bytes, int], str] = {}
        self.count = 0
        self.at = _Columns(1, 1, "")

    # ---- frame ----------------------------------------------------------------------------------------------------------

    def write(self) -> KernelText:
        widest = max((self.width(n) for n in self.kernel.columns.values()), default=32)
        for i in self.kernel.nodes:
            widest = max(widest, *(self.width(w) for w in self._reads(self.nodes[i])))
            self._node(i, self.nodes[i])
        for copy in self.kernel.copies:
            self._copy(copy)
        block = max(16, min(128, _TILE // widest))
        if self.kernel.split:
            block = 64
        rows = self.kernel.rows
        where = ["g = tile * BLOCK + tl.arange(0, BLOCK)", "valid = g < total"]
        where += (
            ["event = g.to(tl.int64)", "row = g * 0"]
            if rows == 1
            else [f"event = (g // {rows}).to(tl.int64)", f"row = g % {rows}"]
        )
        arguments = ["total", *(f"b{j}" for j in self.buffers), "w8", "w16", "t32", "t64", "BLOCK: tl.constexpr"]
        lines = [
            "@triton.jit",
            f"def {self.name}({', '.join(arguments)}):",
            *(f"    # {self._describe(i)}" for i in self.kernel.nodes),
            *(f"    # copy of {self.nodes[c.node].name}" for c in self.kernel.copies),
            *(f"    {line}" for line in self.head),
            "    tiles = (total + BLOCK - 1) // BLOCK",
            "    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):",
            *(f"        {line}" for line in [*where, *self.body]),
        ]
        programs = 1
        if self.kernel.split:
            programs = -(-next(iter(self.kernel.columns.values())) // _SPLIT_COLUMNS)
        return KernelText(self.name, "\n".join(lines) + "\n", tuple(self.buffers), rows, block, programs)

    def _describe(self, i: int) -> str:
        node = self.nodes[i]
        operands = ", ".join(self.nodes[j].name for j in node.operands)
        return f"{node.name} = {node.op.name}({operands}) {list(node.type.shape)}"

    def _reads(self, node: Node) -> list[int]:
        """Columns of the operands that a matrix or a reduction reads."""
        if isinstance(node.op, Linear) and not self.kernel.split:
            return [node.op.weights.shape[0]]
        if isinstance(node.op, ReduceSum | ReduceMax):
            return [self.nodes[node.operands[0]].type.shape[node.op.axis]]
        return [1]

    def width(self, n: int) -> int:
        return _SPLIT_COLUMNS if self.kernel.split else tile_width(n)

    def say(self, line: str) -> None:
        self.body.append(self.indent + line)

    def name_of(self, text: str, steady: bool = False) -> str:
        """A variable for a value, made before the loop where it is the same for every tile."""
        if text.isidentifier():
            return text
        self.count += 1
        name = f"v{self.count}"
        (self.head.append if steady else self.say)(f"{name} = {text}")
        return name

    def columns(self, n: int) -> _Columns:
        """The columns of a value; their numbers are made once."""
        width = self.width(n)
        name = f"c{width}"
        first = f"tl.program_id(1) * {width} + " if self.kernel.split else ""
        line = f"{name} = {first}tl.arange(0, {width})"
        if line not in self.head:
            self.head.append(line)
        return _Columns(n, width, name)

    # ---- tables -----------------------------------------------------------------------------------------------------------

    def parameter(self, name: str, values: Int64) -> str:
        """One integer per element, from a table that is read as far as it varies: by column, by row or by both."""
        if (values == values.flat[0]).all():
            return literal(int(values.flat[0]), "{}")
        kind = "int32" if fits_int32(values) else "int64"
        arena, at = {"int32": "t32", "int64": "t64"}[kind], self.at
        grid = values.reshape(self.kernel.rows, at.n)
        full = -(-at.n // at.width) * at.width  # columns of the last tile: what lies behind n is never used
        padded = np.pad(grid, [(0, 0), (0, full - at.n)], mode="edge")
        if (grid == grid[:1]).all():
            text = f"tl.load({arena} + {self.arenas.add(kind, padded[0])} + {at.name})[None, :]"
            return self.name_of(text, at.steady and not self.indent)
        if (grid == grid[:, :1]).all():
            return self.name_of(f"tl.load({arena} + {self.arenas.add(kind, grid[:, 0])} + row)[:, None]")
        start = self.arenas.add(kind, padded)
        return self.name_of(f"tl.load({arena} + {start} + row[:, None] * {full} + {at.name}[None, :])")

    def _place(self, index: Int64) -> tuple[str, bool]:
        """(expression of an index per element, whether it may be -1)."""
        grid = index.reshape(self.kernel.rows, self.at.n)
        by_row = int(grid[1, 0] - grid[0, 0]) if len(grid) > 1 else 0
        by_column = int(grid[0, 1] - grid[0, 0]) if self.at.n > 1 else 0
        affine = grid[0, 0] + by_row * np.arange(len(grid))[:, None] + by_column * np.arange(self.at.n)
        if grid.min() >= 0 and (grid == affine).all():
            parts = (("row[:, None]", by_row), (f"{self.at.name}[None, :]", by_column))
            terms = [f"{name} * {by}" if by != 1 else name for name, by in parts if by]
            return " + ".join([*terms, str(int(grid[0, 0]))] if grid[0, 0] or not terms else terms), False
        return self.parameter("from", grid), bool((grid < 0).any())

    def mask(self) -> str:
        """Elements of the tile that exist."""
        return f"valid[:, None] & ({self.at.name} < {self.at.n})[None, :]"

    # ---- dialect ----------------------------------------------------------------------------------------------------------

    def splat(self, kind: str, value: str) -> str:
        return value

    def convert(self, text: str, kind: str) -> str:
        if text.lstrip("-").isdigit():  # a literal has the type of what it meets
            return text
        return f"({text}).to({kind})"

    def product(self, x: str, y: str) -> str:
        return f"(({x}).to(tl.int64) * ({y}))"

    def maximum(self, x: str, y: str, kind: str) -> str:
        return f"tl.maximum({x}, {y})"

    def minimum(self, x: str, y: str, kind: str) -> str:
        return f"tl.minimum({x}, {y})"

    def choose(self, condition: str, x: str, y: str, kind: str) -> str:
        return f"tl.where({condition} != 0, {x}, {y})"

    def switch(self, flag: str, x: str, y: str) -> str:
        return f"tl.where({flag} != 0, {x}, {y})"

    def compare(self, x: str, relation: str, y: str, kind: str) -> str:
        return f"({x} {relation} {y}).to({kind})"

    def keep(self, value: str, conditions: list[tuple[str, str, str]], kind: str) -> str:
        masks = " & ".join(f"({x} {relation} {y})" for x, relation, y in conditions)
        return f"tl.where({masks}, {value}, 0)"

    def let(self, value: str, kind: str, body: Callable[[str], str]) -> str:
        return body(self.name_of(value))

    def lookup(self, index: str, name: str, table: Int64, kind: str) -> str:
        arena, stored = ("t32", "int32") if fits_int32(table) else ("t64", "int64")
        start = self.arenas.add(stored, table.reshape(-1))
        entries = table.shape[-1]
        element = f"(row[:, None] * {self.at.n} + {self.at.name}[None, :]) * {entries} + " if table.ndim > 1 else ""
        return f"tl.load({arena} + {start} + {element}{index}, mask={self.mask()}, other=0).to({kind})"

    def round_even(self, value: str, by: int) -> str | None:
        return None

    # ---- values -----------------------------------------------------------------------------------------------------------

    def operand(self, j: int, result: tuple[int, ...], order: Int64 | None = None) -> Expression:
        """Node j, broadcast to a result's shape, as a tile of the current columns.

        `order`: the element of the result that each element of the tile is, where they are not in order.
        """
        node = self.nodes[j]
        index = broadcast_index(node.type.shape, result)
        index = index if order is None else index[order.reshape(-1)]
        lo, hi, exp = (f[index] for f in (a.reshape(-1) for a in node.type.arrays()))
        if j in self.plan.constants:
            values = self.plan.constants[j].reshape(-1)[index]
            kind = lane(self, values)
            return Expression(self.parameter(node.name, values), kind, values, values, exp, constant=True)
        source = self.plan.views[j].source if j in self.plan.views else j
        if source in self.values:
            return Expression(self.values[source].text, self.values[source].lane, lo, hi, exp)
        return Expression(*self._load(j, index), lo, hi, exp)

    def _load(self, j: int, index: Int64) -> tuple[str, str]:
        """(variable, type) of elements `index` of node j, from memory."""
        view = self.plan.views.get(j)
        source, moved = (view.source, view.index) if view else (j, None)
        if moved is not None:
            index = moved[index]
        t = self.plan.buffers[source]
        kind = lane(self, *(f.reshape(-1) for f in t.arrays()[:2]))
        key = (source, index.tobytes(), self.at.n)
        if key in self.loaded:
            return self.loaded[key], kind
        if source not in self.buffers:
            self.buffers.append(source)
        place, padded = self._place(index)
        mask = self.mask() + (f" & ({place} >= 0)" if padded else "")
        name = self.name_of(
            f"tl.load(b{source} + event[:, None] * {t.size} + ({place}), mask={mask}, other=0).to({kind})"
        )
        if not self.indent:
            self.loaded[key] = name
        return name, kind

    def _store(self, target: int, value: str, to: Int64 | None = None) -> None:
        t = self.plan.buffers[target]
        if target not in self.buffers:
            self.buffers.append(target)
        index = np.arange(self.kernel.rows * self.at.n) if to is None else to
        place, _ = self._place(index)
        self.say(
            f"tl.store(b{target} + event[:, None] * {t.size} + ({place}), ({value}).to(tl.{storage_dtype(t)}), "
            f"mask={self.mask()})"
        )

    def _copy(self, copy: Copy) -> None:
        node = self.nodes[copy.node]
        n = node.type.size // self.kernel.rows
        self.at = self.columns(n)
        e = self.operand(copy.node, node.type.shape)
        text = (
            e.text
            if copy.node not in self.plan.constants
            else f"tl.zeros([BLOCK, {self.at.width}], {e.lane}) + {e.text}"
        )
        self._store(copy.target, text, copy.to)

    def _node(self, i: int, node: Node) -> None:
        n = self.kernel.columns[i]
        if isinstance(node.op, Linear):
            e = self._linear(node, node.op)
        elif isinstance(node.op, Forest):
            e = self._forest(node, node.op)
        elif isinstance(node.op, ReduceSum | ReduceMax):
            e = self._reduce(node, node.op)
        else:
            self.at = self.columns(n)
            e = apply(self, node.op, node.type, [self.operand(j, node.type.shape) for j in node.operands], node.name)
        self.at = self.columns(n)
        self.values[i] = Expression(self.name_of(e.text), e.lane, e.lo, e.hi, e.exp)
        if i in self.kernel.stored:
            self._store(i, self.values[i].text)

    # ---- matrices and reductions ------------------------------------------------------------------------------------------

    def _linear(self, node: Node, op: Linear) -> Expression:
        (j,) = node.operands
        x = self.nodes[j].type
        dot = dots.choose(op, x)
        kind = self.wide if dot.wide else self.narrow
        if self.kernel.split:
            text = self._split_dot(j, op, dot, kind)
        elif op.weights.shape[0] == 1 or op.weights.shape[1] == 1:
            self.at = self.columns(op.weights.shape[0])
            text = self._one_column(self.aligned(j), op, kind)
        else:
            self.at = self.columns(op.weights.shape[0])
            aligned = self.name_of(self.aligned(j).text)
            inner, outer = self.at, self.columns(op.weights.shape[1])
            text = self._dot(aligned, dot, kind, inner.name, inner.width, outer)
        self.at = self.columns(op.weights.shape[1])
        lo, hi, exp = node.type.flat()
        if dot.fold.any() and min(op.weights.shape) > 1:
            text = f"({text} + {self.parameter('fold', np.tile(dot.fold, self.kernel.rows))})"
        common = int(np.min(x.fixed.exp))
        right = exp - np.broadcast_to(np.asarray(op.exp, np.int64), node.type.shape).reshape(-1) - common
        if right.any():
            text = f"({text} >> {self.parameter('right', right)})"
        final = lane(self, lo, hi)
        return Expression(text if final == kind else self.convert(text, final), final, lo, hi, exp)

    def aligned(self, j: int, order: Int64 | None = None) -> Expression:
        """Node j with all elements in units of its finest exponent."""
        t = self.nodes[j].type
        e = self.operand(j, t.shape, order)
        up = e.exp - int(np.min(t.fixed.exp))
        if not up.any():
            return e
        zero = (e.lo == 0) & (e.hi == 0)
        up = np.where(zero, 0, up)
        lo, hi = e.lo << up, e.hi << up
        kind = lane(self, lo, hi)
        x = e.text if e.lane == kind else self.convert(e.text, kind)
        return Expression(f"({x} << {self.parameter('align', up)})", kind, lo, hi, e.exp - up)

    def _one_column(self, x: Expression, op: Linear, kind: str) -> str:
        """A matrix of one row or one column: products in vector registers."""
        value = x.text if x.lane == kind else self.convert(x.text, kind)
        n_in, n_out = op.weights.shape
        if n_in == 1:
            self.at = self.columns(n_out)
            return f"({value} * {self.parameter('weights', np.tile(op.weights[0], self.kernel.rows))})"
        weights = self.parameter("weights", np.tile(op.weights[:, 0], self.kernel.rows))
        return f"tl.sum(tl.where(({self.at.name} < {n_in})[None, :], {value} * {weights}, 0), axis=1)[:, None]"

    def _weights(self, dot: dots.Dot, rows: str, row_width: int, columns: _Columns) -> list[str]:
        """Expressions of the tiles of the weights' digits, zero beyond the matrix."""
        _, n_in, n_out = dot.weights.shape
        full_in, full_out = (-(-n // w) * w for n, w in ((n_in, row_width), (n_out, columns.width)))
        padded = np.pad(dot.weights, [(0, 0), (0, full_in - n_in), (0, full_out - n_out)])
        arena, kind, cast = ("w8", "int8", "") if dot.kind == "int8" else ("w16", "int16", ".to(tl.float16)")
        starts = [self.arenas.add(kind, d) for d in padded]
        place = f"{rows}[:, None] * {full_out} + {columns.name}[None, :]"
        return [f"tl.load({arena} + {start} + {place}){cast}" for start in starts]

    def _dot(self, x: str, dot: dots.Dot, kind: str, rows: str, row_width: int, columns: _Columns) -> str:
        steady = not self.indent
        weights = [self.name_of(w, steady) for w in self._weights(dot, rows, row_width, columns)]
        if dot.kind == "float16":
            return f"tl.dot(({x}).to(tl.float16), {weights[0]}, out_dtype=tl.float32).to({kind})"
        if dot.operand_digits == 1:
            parts = [f"({x} - {dot.offset}).to(tl.int8)" if dot.offset else f"({x}).to(tl.int8)"]
        else:
            parts = []
            for k in range(dot.operand_digits):
                digit = self.name_of(f"(({x} + 128) & 255) - 128")
                parts.append(f"({digit}).to(tl.int8)")
                if k < dot.operand_digits - 1:
                    x = self.name_of(f"({x} - {digit}) >> 8")
        parts = [self.name_of(p) for p in parts]
        terms = []
        for a, part in enumerate(parts):
            for b, w in enumerate(weights):
                term = f"tl.dot({part}, {w}, out_dtype=tl.int32)"
                term = term if kind == self.narrow else self.convert(term, kind)
                terms.append(f"({term} << {8 * (a + b)})" if a + b else term)
        return " + ".join(terms) if len(terms) == 1 else f"({' + '.join(terms)})"

    def _split_dot(self, j: int, op: Linear, dot: dots.Dot, kind: str) -> str:
        """Sums over steps of `_SPLIT_DEPTH` inputs, loaded from memory as they are needed."""
        outer, n_in = self.columns(op.weights.shape[1]), op.weights.shape[0]
        total = self.name_of(f"tl.zeros([BLOCK, {outer.width}], {kind})")
        self.say(f"for step in range(0, {-(-n_in // _SPLIT_DEPTH) * _SPLIT_DEPTH}, {_SPLIT_DEPTH}):")
        self.indent = "    "
        self.say(f"depth = step + tl.arange(0, {_SPLIT_DEPTH})")
        self.at = _Columns(n_in, _SPLIT_DEPTH, "depth", steady=False)
        x = self.name_of(self.aligned(j).text)
        self.say(f"{total} += {self._dot(x, dot, kind, 'depth', _SPLIT_DEPTH, outer)}")
        self.indent = ""
        return total

    def _table(self, values: Int64) -> str:
        """The address of a table in memory."""
        arena, kind = ("t32", "int32") if fits_int32(values) else ("t64", "int64")
        return f"{arena} + {self.arenas.add(kind, values)}"

    def _forest(self, node: Node, op: Forest) -> Expression:
        """The sums over trees, down which each row of the tile walks at the same time."""
        (j,) = node.operands
        x, view = self.nodes[j].type, self.plan.views.get(j)
        source, moved = (view.source, view.index) if view else (j, None)
        if source not in self.buffers:
            self.buffers.append(source)
        w, self.at = walk(op, x), self.columns(op.values.shape[1])
        kind = self.wide if w.wide else self.narrow
        features, thresholds, children = (self._table(t) for t in (w.features, w.thresholds, w.children))
        roots, values = self._table(w.roots), self._table(w.values)
        row = f"row[:, None] * {len(w.features)} + " if len(w.thresholds) > 1 else ""
        place, mask = f"row[:, None] * {x.shape[-1]} + tl.load({features} + at)", "valid[:, None]"
        if moved is not None:
            place = f"tl.load({self._table(moved)} + {place})"
            mask += " & (place >= 0)"
        total = self.name_of(f"tl.zeros([BLOCK, {self.at.width}], {kind})")
        address = f"b{source} + event[:, None] * {self.plan.buffers[source].size} + place"
        for first, last, levels in w.groups:
            self.say(f"for tree in range({first}, {last}):")
            self.say(f"    at = tl.load({roots} + tree) + row[:, None] * 0")
            if levels:
                self.say(f"    for _ in range({levels}):")
                self.say(f"        place = {place}")
                self.say(f"        x = tl.load({address}, mask={mask}, other=0)")
                self.say(f"        right = (x > tl.load({thresholds} + {row}at)).to(tl.int32)")
                self.say(f"        at = tl.load({children} + 2 * at + right)")
            leaf = f"(at - {w.nodes}) * {self.at.n} + {self.at.name}[None, :]"
            self.say(
                f"    {total} += tl.load({values} + {leaf}, mask=({self.at.name} < {self.at.n})[None, :], other=0)"
            )
        lo, hi, exp = node.type.flat()
        final = lane(self, lo, hi)
        return Expression(total if final == kind else self.convert(total, final), final, lo, hi, exp)

    def _reduce(self, node: Node, op: ReduceSum | ReduceMax) -> Expression:
        (j,) = node.operands
        t = self.nodes[j].type
        length = t.shape[op.axis]
        order = np.moveaxis(np.arange(t.size).reshape(t.shape), op.axis, -1).reshape(-1)
        self.at = self.columns(length)
        e = self.operand(j, t.shape, order)
        out = np.broadcast_to(np.asarray(node.type.fixed.exp, np.int64), node.type.shape).reshape(-1)
        up = np.where((e.lo == 0) & (e.hi == 0), 0, e.exp - np.repeat(out, length))
        lo, hi = e.lo << up, e.hi << up
        largest = np.maximum(np.abs(lo), np.abs(hi)).reshape(-1, length).sum(axis=1)
        kind = lane(self, largest) if isinstance(op, ReduceSum) else lane(self, lo, hi)
        x = e.text if e.lane == kind else self.convert(e.text, kind)
        if up.any():
            x = f"({x} << {self.parameter('align', up)})"
        inside = f"({self.at.name} < {length})[None, :]"
        if isinstance(op, ReduceSum):
            text = f"tl.sum(tl.where({inside}, {x}, 0), axis=1)[:, None]"
        else:
            text = f"tl.max(tl.where({inside}, {x}, {literal(int(lo.min()), '{}')}), axis=1)[:, None]"
        low, high, exp = node.type.flat()
        final = lane(self, low, high)
        return Expression(text if final == kind else self.convert(text, final), final, low, high, exp)
