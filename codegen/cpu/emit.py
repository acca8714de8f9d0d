"""Writes the CPU engine: one C++ file from a graph, blocked over events, one event in each vector lane."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from ...ir.errors import CompileError
from ...ir.graph import Graph, Node
from ...ir.ops import Concat, Constant, Gather, Input, Linear, Op, ReduceMax, ReduceSum, Reshape, Transpose, Window
from ...ir.types import Int64, Tensor
from ..project import Project
from .expressions import ELEMENTWISE, Expression, Tables, apply, lane, literal
from .formats import GROUP, DenseTables, dense_tables, packed
from .interface import header, identifier, storage_type

__all__ = ["SUPPORTED", "check", "emit"]

SUPPORTED = (*ELEMENTWISE, Input, Constant, Linear, ReduceSum, ReduceMax, Reshape, Transpose, Gather, Concat, Window)
"""The ops that the engine has a rule for."""


def check(graph: Graph) -> list[str]:
    """Everything that `emit` refuses, a sentence each."""
    return [
        str(
            CompileError(
                f"{n.name} ({n.op.name})", "has no rule in the cpu backend", "run the pipeline 'hardware' first"
            )
        )
        for n in graph.nodes
        if not isinstance(n.op, SUPPORTED)
    ]


def emit(graph: Graph) -> Project:
    """A self-contained C++ project: `engine.cpp` with a C ABI, its kernels, and a header.

    The graph must hold no requantize (see the "hardware" passes). The ABI is
    ``int64_t hwc_run(const void* const* inputs, void* const* outputs, int64_t events)``, events outermost, in the order
    and with the types that the header states.
    """
    refused = check(graph)
    if refused:
        where, _, rule = refused[0].partition(": ")
        raise CompileError(where, rule)
    writer = _Writer(graph)
    body = writer.write()
    kernels = resources.files("hwcompile.templates").joinpath("cpu/kernels.hpp.j2").read_text()
    return Project({"engine.cpp": body, "kernels.hpp": kernels, "engine.h": header(graph)})


def source_index(op: Op, shape: tuple[int, ...]) -> Int64:
    """The flat index into the operand, of the given shape, that each element of a layout op is; -1: zero."""
    if isinstance(op, Gather):
        return op.indices
    if isinstance(op, Window):
        return op.indices(shape)
    assert isinstance(op, Transpose)
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape).transpose(op.axes)


@dataclass(frozen=True)
class _Format:
    """How a value is stored for a reader: plain lanes, or groups of a dense kernel.

    `row`: values of each leading position where they do not fill whole groups (each position then starts a new one), or 0.
    """

    kind: str  # "lanes", "u8" or "s16"
    offset: int = 0
    row: int = 0

    @property
    def suffix(self) -> str:
        parts = (self.kind, str(self.offset) if self.offset else "", f"rows{self.row}" if self.row else "")
        return "" if self.kind == "lanes" else "".join(f"_{p}" for p in parts if p)

    def words(self, size: int) -> int:
        """Lane words that `size` values take."""
        if self.kind == "lanes":
            return size
        return size // self.row * self.words_per_row if self.row else -(-size // GROUP[self.kind])

    @property
    def words_per_row(self) -> int:
        return -(-self.row // GROUP[self.kind])


_LANES = _Format("lanes")
_DEEPEST = 24
"""Ops that one expression may nest: beyond, a value is stored in between."""
_OPEN = "const Buffers& b = blocks[u]; (void)b; (void)i;"


def _saturation(forms: list[_Format]) -> tuple[int, int] | None:
    """The interval to which storing in these formats saturates, if they all do."""
    if len(forms) != 1 or forms[0].kind != "u8":
        return None
    return -forms[0].offset, 255 - forms[0].offset


@dataclass
class _Writer:
    graph: Graph
    tables: Tables = field(default_factory=Tables)

    def __post_init__(self) -> None:
        self.nodes = self.graph.nodes
        self.users = self.graph.users()
        self.results = {o.node for o in self.graph.outputs}
        self.depth: list[int] = []  # ops on the longest way to each node
        self.alias: dict[int, int] = {}  # reshapes share their operand's buffer
        self.owner: dict[int, int] = {}  # chain end -> the linear whose sums it maps
        self.dense: dict[int, tuple[DenseTables, ...]] = {}
        self.buffers: list[str] = []
        self.steps: list[str] = []
        self._plan()

    # ---- what is stored, and how ----------------------------------------------------------------------------------------

    def _plan(self) -> None:
        for i, node in enumerate(self.nodes):
            if isinstance(node.op, Reshape):
                self.alias[i] = self.source(node.operands[0])
            self.depth.append(1 + max((self.depth[j] for j in node.operands), default=0))
        for i, node in enumerate(self.nodes):
            if isinstance(node.op, Linear):
                end = self._chain_end(i)
                if end not in self.owner:
                    self.owner[end] = i
                else:
                    self.owner[i] = i
        for end, i in self.owner.items():
            del end
            self.dense[i] = self._tables(i)
        self.formats: dict[int, list[_Format]] = {}
        for i, node in enumerate(self.nodes):
            if i in self.results:
                self._want(i, _LANES)
            for j in node.operands:
                wanted = self._operand_format(i, j) if isinstance(node.op, Linear) else _LANES
                if not self._inlined(j):
                    self._want(j, wanted)

    def source(self, i: int) -> int:
        return self.alias.get(i, i)

    def _want(self, i: int, form: _Format) -> None:
        forms = self.formats.setdefault(self.source(i), [])
        if form not in forms:
            forms.append(form)

    def _inlined(self, i: int) -> bool:
        """The value is computed inside its only reader's expression."""
        node = self.nodes[i]
        if isinstance(node.op, Constant):
            return True
        if isinstance(node.op, Linear):
            return self.owner.get(i) != i
        return self._joins_reader(i)

    def _joins_reader(self, i: int) -> bool:
        if not isinstance(self.nodes[i].op, (*ELEMENTWISE, Linear)) or i in self.results or len(self.users[i]) != 1:
            return False
        reader = self.nodes[self.users[i][0]]
        joins = isinstance(reader.op, ELEMENTWISE) and reader.type.shape == self.nodes[i].type.shape
        return joins and self.depth[i] % _DEEPEST != 0

    def _chain_end(self, i: int) -> int:
        while self._joins_reader(i):
            i = self.users[i][0]
        return i

    def _tables(self, i: int) -> tuple[DenseTables, ...]:
        """The kernel tables of a linear node, with a bias that follows it directly folded in."""
        node = self.nodes[i]
        x, zero = self.nodes[node.operands[0]].type, np.zeros(node.type.shape[-1], np.int64)
        assert isinstance(node.op, Linear)
        plain = dense_tables(node.op, x, node.type, zero, zero)
        bias = self.bias_of(i)
        if bias is None:
            return plain
        found = dense_tables(node.op, x, node.type, *bias)
        if found[0].format == plain[0].format and plain[0].format != "i64":
            return found
        self.unfused.add(i)
        return plain

    unfused: set[int] = field(default_factory=set)

    def bias_of(self, i: int) -> tuple[Int64, Int64] | None:
        """(shift, constant) of ``(linear << shift) + constant`` where that add is the linear's only reader."""
        if i in self.unfused or not self._joins_reader(i):
            return None
        add = self.nodes[self.users[i][0]]
        others = [j for j in add.operands if j != i]
        if add.op.name != "add" or len(others) != 1 or not isinstance(self.nodes[others[0]].op, Constant):
            return None
        n_out = add.type.shape[-1]
        rows = [
            np.broadcast_to(np.asarray(v, np.int64), add.type.shape).reshape(-1, n_out)
            for v in (add.type.fixed.exp, self.nodes[i].type.fixed.exp, self._constant(others[0], add.type))
        ]
        if any((r != r[:1]).any() for r in rows):
            return None
        out, linear, values = (r[0] for r in rows)
        return linear - out, values

    def _constant(self, j: int, result: Tensor) -> Int64:
        """A constant's raw integers at the exponents of `result`, per element."""
        op = self.nodes[j].op
        assert isinstance(op, Constant)
        return np.broadcast_to(op.values, result.shape) << (
            np.broadcast_to(np.asarray(op.exp, np.int64), result.shape) - np.asarray(result.fixed.exp)
        )

    def _operand_format(self, i: int, j: int) -> _Format:
        tables = self.dense[i][0]
        t = self.nodes[j].type
        positions, n_in = math.prod(t.shape[:-1]), t.shape[-1]
        group = GROUP[tables.format]
        if group == 1:
            return _LANES
        return _Format(tables.format, tables.offset, n_in if positions > 1 and n_in % group else 0)

    # ---- text ---------------------------------------------------------------------------------------------------------------

    def write(self) -> str:
        for i, node in enumerate(self.nodes):
            if i in self.alias or (self._inlined(i) and i not in self.formats):
                continue
            self._node(i, node)
        for k, o in enumerate(self.graph.outputs):
            t = self.nodes[o.node].type
            kind = storage_type(t)
            self._each_block(
                f"store_lanes(b.{self.buffer(o.node, _LANES)}, {t.size}, left, ({kind}*)outputs[{k}] + (events - left) * {t.size});"
            )
        return "\n".join(
            [
                f"// {self.graph.name}: generated engine, exact to the bit. See engine.h for the interface.",
                '#include "engine.h"',
                '#include "kernels.hpp"',
                "#include <new>",
                "using namespace hwc;",
                "",
                *self.tables.lines,
                "",
                "namespace {",
                "struct alignas(64) Buffers {",
                *(f"    {b}" for b in self.buffers),
                "};",
                "}  // namespace",
                "",
                'extern "C" int64_t hwc_run(const void* const* inputs, void* const* outputs, int64_t events) {',
                "    Buffers* const blocks = new (std::nothrow) Buffers[BLOCKS];",
                "    if (!blocks) return -1;",
                "    for (int64_t e0 = 0; e0 < events; e0 += BLOCKS * LANES) {",
                *("        " + line for step in self.steps for line in step.split("\n")),
                "    }",
                "    delete[] blocks;",
                "    return events;",
                "}",
                "",
            ]
        )

    def _each_block(self, statement: str) -> None:
        """A statement about the buffers `b` of one block of events, of which `left` and more are still to come."""
        self.steps.append(
            "for (int u = 0; u < BLOCKS; u++) {\n    Buffers& b = blocks[u];\n    const int64_t left = events - e0 - u * LANES;\n"
            f"    (void)left;\n    {statement}\n}}"
        )

    def _blocks(self, value: str) -> str:
        """An array of one value for each block, written with `b` for its buffers."""
        return "{" + ", ".join(re.sub(r"\bb\.", f"blocks[{u}].", value) for u in range(2)) + "}"

    def buffer(self, i: int, form: _Format) -> str:
        return identifier(self.nodes[self.source(i)].name) + form.suffix

    def _node(self, i: int, node: Node) -> None:
        forms = self.formats.get(i, [])
        lo, hi, _ = node.type.flat()
        for form in forms:
            kind = lane(lo, hi) if form == _LANES else "vec"
            self.buffers.append(f"{kind} {self.buffer(i, form)}[{max(form.words(node.type.size), 1)}];")
        if not forms:
            return
        operands = " ".join(f"{self.nodes[j].name}" for j in node.operands)
        self.steps.append(f"// {node.name}: {node.op.name} {operands} -> {list(node.type.shape)}")
        if isinstance(node.op, Input):
            self._input(i, node, forms)
        elif isinstance(node.op, Constant):  # read as an output, or reshaped
            self._elements(i, f"return {self._leaf(i, node.type, {}).text};", forms)
        elif i in self.owner:
            self._dense(i, node, forms)
        elif isinstance(node.op, ELEMENTWISE):
            e = self.expression(i, {}, _saturation(forms))
            self._elements(i, f"return {e.lane}({e.text});", forms)
        elif isinstance(node.op, Concat):
            self._concat(i, node, forms)
        elif isinstance(node.op, Gather | Transpose | Window):
            self._gather(i, node, forms)
        else:
            self._reduce(i, node, forms)

    def _put(self, i: int, forms: list[_Format], position: str = "", row: int = 0) -> tuple[str, str]:
        """(C++ type, value) that stores results in every wanted format, for the leading `position` of `row` values each."""
        lo, hi, _ = self.nodes[i].type.flat()
        names: list[tuple[str, str]] = []
        for form in forms:
            kind = {"lanes": f"PutLanes<{lane(lo, hi)}>", "u8": f"PutU8<{form.offset}>", "s16": "PutS16"}[form.kind]
            words = form.words_per_row if form.row else form.words(row)
            offset = f" + {position} * {words}" if position else ""
            names.append((kind, f"{kind}{{b.{self.buffer(i, form)}{offset}}}"))
        kind, text = names[0]
        for other, value in names[1:]:
            kind, text = f"PutBoth<{kind}, {other}>", f"PutBoth<{kind}, {other}>{{{text}, {value}}}"
        return kind, text

    def _elements(self, i: int, body: str, forms: list[_Format]) -> None:
        """y(i) by the C++ statements `body` for every element i."""
        size = self.nodes[i].type.size
        for form in (f for f in forms if f.row):
            kind, put = self._put(i, [form], "p", form.row)
            self.steps.append(
                f"for (int p = 0; p < {size // form.row}; p++) {{\n    const {kind} put[] = {self._blocks(put)};\n"
                f"    elements<{form.row}>([&](int u, int o) {{ const int i = p * {form.row} + o; {_OPEN} {body} }}, put);\n}}"
            )
        forms = [f for f in forms if not f.row]
        if not forms:
            return
        kind, put = self._put(i, forms)
        self.steps.append(
            f"{{\n    const {kind} put[] = {self._blocks(put)};\n    elements<{self.nodes[i].type.size}>"
            f"([&](int u, int i) {{ {_OPEN} {body} }}, put);\n}}"
        )

    def _input(self, i: int, node: Node, forms: list[_Format]) -> None:
        kind, n = storage_type(node.type), node.type.size
        pointer = f"({kind} const*)inputs[{self.graph.inputs.index(i)}] + (events - left) * {n}"
        rest: list[_Format] = []
        for form in forms:
            direct = (
                {("uint8_t", 0): "0", ("int8_t", 128): "(int32_t)0x80808080u"}.get((kind, form.offset))
                if form.kind == "u8"
                else "0"
                if (form.kind, kind) == ("s16", "int16_t")
                else None
            )
            direct = None if form.row else direct
            if direct is not None:
                self._each_block(f"load_groups<{n}>({pointer}, left, {direct}, b.{self.buffer(i, form)});")
            else:
                rest.append(form)
        if not rest:
            return
        if _LANES not in forms:
            lo, hi, _ = node.type.flat()
            self.buffers.append(f"{lane(lo, hi)} {self.buffer(i, _LANES)}[{n}];")
        self._each_block(f"load_lanes({pointer}, {n}, left, b.{self.buffer(i, _LANES)});")
        packed_forms = [f for f in rest if f != _LANES]
        if packed_forms:
            self._elements(i, f"return b.{self.buffer(i, _LANES)}[i];", packed_forms)

    def _dense(self, i: int, node: Node, forms: list[_Format]) -> None:
        at = self.owner[i]
        linear, tables = self.nodes[at], self.dense[at]
        n_out, positions = linear.type.shape[-1], math.prod(linear.type.shape[:-1])
        separate = positions > 1 and any(f != _LANES and (f.row != n_out if f.row else n_out % 4) for f in forms)
        if separate and _LANES not in forms:
            lo, hi, _ = node.type.flat()
            self.buffers.append(f"{lane(lo, hi)} {self.buffer(i, _LANES)}[{node.type.size}];")
        target = [_LANES] if separate else forms
        n_in = tables[0].weights.shape[1]
        self.steps.append(f"//   {linear.name}: {n_out} sums of {n_in} products in {tables[0].format}")
        for p, one in enumerate(tables if len(tables) > 1 else ()):
            self._dense_call(i, at, one, target, str(p), "")
        if len(tables) == 1:
            many = positions > 1
            loop = f"for (int p = 0; p < {positions}; p++) " if many else ""
            self._dense_call(i, at, tables[0], target, "p" if many else "", loop)
        if separate:
            self._elements(i, f"return b.{self.buffer(i, _LANES)}[i];", [f for f in forms if f != _LANES])

    def _dense_call(self, i: int, at: int, tables: DenseTables, forms: list[_Format], position: str, loop: str) -> None:
        """One kernel call for the leading position `position` (a loop variable, a number, or empty where there is one)."""
        linear = self.nodes[at]
        name, operand, n_out = identifier(linear.name), linear.operands[0], linear.type.shape[-1]
        form, kernel, words, bias = self._operand_format(at, operand), tables.format, packed(tables), tables.bias
        scalar, acc = ("int64_t", "wide") if kernel == "i64" else ("int32_t", "vec")
        w, c = self.tables.add(f"{name}_w", words, scalar), self.tables.add(f"{name}_bias", bias, scalar)
        e = self.expression(i, {at: self._sums(at, acc)}, _saturation(forms))
        x = f"b.{self.buffer(operand, form)}"
        if kernel == "i64" and self._stored_lane(operand) == "vec":
            x = self._widened(operand)
        kind, put = self._put(i, forms, position, n_out)
        at_row = f"const int i = {position} * {n_out} + o;" if position else "const int i = o;"
        operands = self._blocks(f"{x} + {position} * {words.shape[1]}" if position else x)
        self.steps.append(
            f"{loop}{{\n    const {acc}* const x[] = {operands};\n    const {kind} put[] = {self._blocks(put)};\n"
            f"    dense_{kernel}<{n_out}, {words.shape[1]}>(x, {w}, {c}, [&](int u, int o, {acc} a) {{ {at_row} {_OPEN} "
            f"return {e.lane}({e.text}); }}, put);\n}}"
        )

    def _sums(self, at: int, acc: str) -> Expression:
        """What the kernel hands to the map: the linear's value, or its value with the following bias already added."""
        end = self.users[at][0] if self.bias_of(at) is not None else at
        lo, hi, exp = self.nodes[end].type.flat()
        return Expression("a", acc, lo, hi, exp)

    def _stored_lane(self, i: int) -> str:
        lo, hi, _ = self.nodes[self.source(i)].type.flat()
        return lane(lo, hi)

    def _widened(self, i: int) -> str:
        """A wide copy of a buffer for the int64 kernel."""
        name, n = f"{self.buffer(i, _LANES)}_wide", self.nodes[i].type.size
        self.buffers.append(f"wide {name}[{n}];")
        self._each_block(f"for (int i = 0; i < {n}; i++) b.{name}[i] = widen(b.{self.buffer(i, _LANES)}[i]);")
        return f"b.{name}"

    def expression(self, i: int, given: dict[int, Expression], store: tuple[int, int] | None = None) -> Expression:
        """The value of node i for element `i` of the loop, down to stored values and the sums in `given`."""
        node = self.nodes[i]
        for at, sums in given.items():
            if i == at or (self.bias_of(at) is not None and i == self.users[at][0]):
                return sums
        operands = [self._leaf(j, node.type, given) for j in node.operands]
        return apply(node.op, node.type, operands, self.tables, identifier(node.name), store)

    def _leaf(self, j: int, reader: Tensor, given: dict[int, Expression]) -> Expression:
        node = self.nodes[j]
        lo, hi, exp = (np.broadcast_to(f, reader.shape).reshape(-1) for f in node.type.arrays())
        if isinstance(node.op, Constant):
            kind = lane(lo)
            return Expression(
                f"({kind}{{}} + {self.tables.parameter(node.name.replace('.', '_'), lo)})", kind, lo, hi, exp
            )
        if self._inlined(j):
            return self.expression(j, given)
        index = "i"
        if node.type.shape != reader.shape:
            spread = np.broadcast_to(np.arange(node.type.size).reshape(node.type.shape), reader.shape)
            index = self.tables.parameter(f"{node.name.replace('.', '_')}_at", spread.reshape(-1).copy())
        return Expression(f"b.{self.buffer(j, _LANES)}[{index}]", self._stored_lane(j), lo, hi, exp)

    # ---- layout and reductions ------------------------------------------------------------------------------------------

    def _gather(self, i: int, node: Node, forms: list[_Format]) -> None:
        x = node.operands[0]
        index = source_index(node.op, self.nodes[x].type.shape)
        at = self.tables.parameter(f"{node.name.replace('.', '_')}_from", index.reshape(-1).astype(np.int64))
        value = f"b.{self.buffer(x, _LANES)}[{at}]"
        if (index < 0).any():
            value = f"{at} < 0 ? {self._stored_lane(x)}{{}} : {value}"
        self._elements(i, f"return {value};", forms)

    def _concat(self, i: int, node: Node, forms: list[_Format]) -> None:
        """Each element comes from one operand: a table of places copies them one operand at a time."""
        assert isinstance(node.op, Concat)
        lo, hi, _ = node.type.flat()
        if _LANES not in forms:
            self.buffers.append(f"{lane(lo, hi)} {self.buffer(i, _LANES)}[{node.type.size}];")
        parts = [np.full(self.nodes[j].type.shape, k) for k, j in enumerate(node.operands)]
        owner = np.concatenate(parts, axis=node.op.axis).reshape(-1)
        for k, j in enumerate(node.operands):
            places = np.flatnonzero(owner == k).astype(np.int64)
            at = (
                self.tables.parameter(f"{node.name.replace('.', '_')}_to", places)
                if places.size > 1
                else literal(int(places[0]))
            )
            leaf = self._leaf(j, self.nodes[j].type, {})
            convert = "widen" if lane(lo, hi) == "wide" else ""
            self._each_block(
                f"for (int i = 0; i < {places.size}; i++) b.{self.buffer(i, _LANES)}[{at}] = {convert}({leaf.text});"
            )
        packed_forms = [f for f in forms if f != _LANES]
        if packed_forms:
            self._elements(i, f"return b.{self.buffer(i, _LANES)}[i];", packed_forms)

    def _reduce(self, i: int, node: Node, forms: list[_Format]) -> None:
        assert isinstance(node.op, ReduceSum | ReduceMax)
        x, axis = node.operands[0], node.op.axis
        t = self.nodes[x].type
        length, inner = t.shape[axis], math.prod(t.shape[axis + 1 :])
        lo, hi, exp = (np.broadcast_to(f, t.shape) for f in t.arrays())
        up = (exp - np.broadcast_to(np.asarray(node.type.fixed.exp, np.int64), node.type.shape)).reshape(-1)
        kind = lane(*node.type.flat()[:2], lo.reshape(-1) << up, hi.reshape(-1) << up)
        name = identifier(node.name)
        by = f" << {self.tables.add(f'{name}_align', up)}[j]" if up.any() else ""
        widen = "widen" if kind == "wide" else ""
        value = f"({widen}(b.{self.buffer(x, _LANES)}[j]){by})"
        join = f"s + {value}" if isinstance(node.op, ReduceSum) else f"vmax<{kind}>(s, {value})"
        body = (
            f"int j = (i / {inner}) * {length * inner} + i % {inner}; {kind} s = {value};\n"
            f"    for (int k = 1; k < {length}; k++) {{ j += {inner}; s = {join}; }} return s;"
        )
        self._elements(i, body, forms)
