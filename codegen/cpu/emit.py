"""Writes the CPU engine: one C++ file from a graph, blocked over events, one event in each vector lane."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from ...ir.errors import CompileError
from ...ir.graph import Graph, Node
from ...ir.ops import (
    Concat,
    Constant,
    Forest,
    Gather,
    Input,
    Layout,
    Linear,
    ReduceMax,
    ReduceSum,
    Reshape,
    Transpose,
    Window,
)
from ...ir.passes import PIPELINES, run
from ...ir.types import Int64, Tensor
from ..elementwise import ELEMENTWISE, Expression, apply, literal
from ..project import Project
from .expressions import Tables, lane
from .forest import forest_lane, forest_statement
from .interface import header, identifier, storage_type
from .plan import Plan
from .products import Product
from .storage import LANES, Storage, flat

__all__ = ["SUPPORTED", "check", "emit"]

SUPPORTED = (
    *ELEMENTWISE,
    Input,
    Constant,
    Linear,
    Forest,
    ReduceSum,
    ReduceMax,
    Reshape,
    Transpose,
    Gather,
    Concat,
    Window,
)
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
    writer = _Writer(run(graph, PIPELINES["software"]))
    body = writer.write()
    kernels = {
        name: resources.files("hwcompile.templates").joinpath(f"cpu/{name}.j2").read_text() for name in writer.kernels
    }
    return Project({"engine.cpp": body, **kernels, "engine.h": header(graph)})


_OPEN = "const Buffers& b = blocks[u]; (void)b; (void)i;"


def _row(t: Tensor) -> int:
    """Elements along the last axis."""
    return t.shape[-1] if t.shape else 1


def _saturation(forms: list[Storage]) -> tuple[int, int] | None:
    """The interval to which storing in these formats saturates, if they all do."""
    if len(forms) != 1 or forms[0].kind != "u8":
        return None
    return -forms[0].offset, 255 - forms[0].offset


@dataclass
class _Writer:
    graph: Graph
    tables: Tables = field(default_factory=Tables)

    def __post_init__(self) -> None:
        self.nodes, self.plan = self.graph.nodes, Plan(self.graph)
        self.buffers: list[str] = []
        self.starts: list[str] = []
        self.steps: list[str] = []

    @property
    def kernels(self) -> list[str]:
        """The headers that the engine needs."""
        trees = any(isinstance(node.op, Forest) for node in self.nodes)
        return ["kernels.hpp", *(["forest.hpp"] if trees else [])]

    # ---- text ---------------------------------------------------------------------------------------------------------------

    def write(self) -> str:
        for i, node in enumerate(self.nodes):
            if i in self.plan.alias or (self.plan.inlined(i) and i not in self.plan.forms):
                continue
            self._node(i, node)
        for k, o in enumerate(self.graph.outputs):
            t = self.nodes[o.node].type
            kind = storage_type(t)
            self._each_block(
                f"store_lanes(b.{self.buffer(o.node)}, {t.size}, left, ({kind}*)outputs[{k}] + (events - left) * {t.size});"
            )
        return "\n".join(
            [
                f"// {self.graph.name}: generated engine, exact to the bit. See engine.h for the interface.",
                '#include "engine.h"',
                *(f'#include "{name}"' for name in self.kernels),
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
                *("    " + line for line in self.starts),
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

    def buffer(self, i: int, form: Storage | None = None) -> str:
        """The name of a node's buffer in one of its forms, by default one element in each word."""
        i = self.plan.source(i)
        name, form = identifier(self.nodes[i].name), form or self.plan.lanes(i)
        return name if form == self.plan.lanes(i) else f"{name}_{form.kind}_{self.plan.forms[i].index(form)}"

    def _stored_lane(self, i: int) -> str:
        lo, hi, _ = self.nodes[self.plan.source(i)].type.flat()
        return lane(lo, hi)

    def _declare(self, i: int, form: Storage) -> None:
        kind, name = self._stored_lane(i) if form.kind == LANES else "vec", self.buffer(i, form)
        self.buffers.append(f"{kind} {name}[{max(form.words, 1)}];")
        if form.padded:  # the padding is written once
            pattern = "0x%08xu" % (form.offset * 0x01010101) if form.kind == "u8" else "0"
            self.starts.append(
                f"for (int u = 0; u < BLOCKS; u++)\n        for ({kind}& v : blocks[u].{name}) v = {kind}{{}} + (int32_t){pattern};"
            )

    def _node(self, i: int, node: Node) -> None:
        forms = self.plan.forms.get(i, [])
        if not forms:
            return
        row = _row(node.type)
        direct = [f for f in forms if f.is_flat or f.starts(row, node.type.size) is not None]
        rest = [f for f in forms if f not in direct]
        if i in self.plan.owner and len(self.plan.owner[i].readings[0].at) * len(self.plan.owner[i].readings) > 1:
            direct = [f for f in forms if f.starts(self.plan.owner[i].n_out, node.type.size) is not None]
            rest = [f for f in forms if f not in direct]
        if rest and self.plan.lanes(i) not in direct and not isinstance(node.op, Input):
            direct.append(self.plan.lanes(i))
        for form in dict.fromkeys([*direct, *rest]):
            self._declare(i, form)
        operands = " ".join(f"{self.nodes[j].name}" for j in node.operands)
        self.steps.append(f"// {node.name}: {node.op.name} {operands} -> {list(node.type.shape)}")
        if isinstance(node.op, Input):
            self._input(i, node, forms)
            return
        if i in self.plan.owner:
            self._dense(i, self.plan.owner[i], direct)
        elif isinstance(node.op, ELEMENTWISE):
            e = self.expression(i, {}, _saturation(direct))
            self._elements(i, f"return {e.lane}({e.text});", direct)
        elif isinstance(node.op, Constant):
            self._elements(i, f"return {self._leaf(i, node.type, {}).text};", direct)
        elif isinstance(node.op, Concat):
            self._concat(i, node, direct)
        elif isinstance(node.op, Forest):
            self._forest(i, node.op, direct)
        elif isinstance(node.op, Gather | Transpose | Window):
            self._gather(i, node, direct)
        else:
            self._reduce(i, node, direct)
        for form in rest:
            self._repack(i, form)

    def _put(self, i: int, forms: list[Storage], position: str = "", row: int = 0) -> tuple[str, str]:
        """(C++ type, value) that stores results in every wanted format, for the leading `position` of `row` values each."""
        lo, hi, _ = self.nodes[i].type.flat()
        names: list[tuple[str, str]] = []
        for form in forms:
            kind = {LANES: f"PutLanes<{lane(lo, hi)}>", "u8": f"PutU8<{form.offset}>", "s16": "PutS16"}[form.kind]
            starts = form.starts(row, self.nodes[i].type.size) if position else None
            offset = f" + {self._word(starts, position)}" if starts is not None else ""
            names.append((kind, f"{kind}{{b.{self.buffer(i, form)}{offset}}}"))
        kind, text = names[0]
        for other, value in names[1:]:
            kind, text = f"PutBoth<{kind}, {other}>", f"PutBoth<{kind}, {other}>{{{text}, {value}}}"
        return kind, text

    def _word(self, at: Int64, position: str) -> str:
        """The entry of a table at `position`, a number or a loop variable, as a product where that is the same."""
        if position.isdigit():
            return str(int(at[int(position)]))
        step = int(at[1] - at[0]) if len(at) > 1 else 0
        if (at == at[0] + step * np.arange(len(at))).all():
            return f"{position} * {step}" + (f" + {at[0]}" if at[0] else "")
        return f"{self.tables.add('at', at)}[{position}]"

    def _elements(self, i: int, body: str, forms: list[Storage]) -> None:
        """y(i) by the C++ statements `body` for every element i."""
        size, row = self.nodes[i].type.size, _row(self.nodes[i].type)
        for form in (f for f in forms if not f.is_flat):
            kind, put = self._put(i, [form], "p", row)
            self.steps.append(
                f"for (int p = 0; p < {size // row}; p++) {{\n    const {kind} put[] = {self._blocks(put)};\n"
                f"    elements<{row}>([&](int u, int o) {{ const int i = p * {row} + o; {_OPEN} {body} }}, put);\n}}"
            )
        forms = [f for f in forms if f.is_flat]
        if forms:
            kind, put = self._put(i, forms)
            self.steps.append(
                f"{{\n    const {kind} put[] = {self._blocks(put)};\n    elements<{size}>"
                f"([&](int u, int i) {{ {_OPEN} {body} }}, put);\n}}"
            )

    def _repack(self, i: int, form: Storage, given: Storage | None = None) -> None:
        """Another arrangement of a stored value: straight from groups of bytes, or element by element."""
        if given is not None and (first := form.first_bytes()) is not None:
            at = self.tables.add("first", first)
            self._each_block(
                f"for (int i = 0; i < {form.words}; i++) b.{self.buffer(i, form)}[i] = "
                f"unaligned(b.{self.buffer(i, given)}, {at}[i]);"
            )
            return
        value = f"b.{self.buffer(i)}[{(at := self.tables.parameter('of', np.maximum(form.index, -1)))}]"
        if (form.index < 0).any():
            value = f"{at} < 0 ? {self._stored_lane(i)}{{}} : {value}"
        kind, put = self._put(i, [form])
        self.steps.append(
            f"{{\n    const {kind} put[] = {self._blocks(put)};\n    elements<{len(form.index)}>"
            f"([&](int u, int i) {{ {_OPEN} return {value}; }}, put);\n}}"
        )

    def _input(self, i: int, node: Node, forms: list[Storage]) -> None:
        """Events from memory: as they lie where that is a form, else byte by byte or element by element from there."""
        kind, n = storage_type(node.type), node.type.size
        pointer = f"({kind} const*)inputs[{self.graph.inputs.index(i)}] + (events - left) * {n}"
        as_stored = {
            "uint8_t": flat("u8", 0, n), "int8_t": flat("u8", 128, n), "int16_t": flat("s16", 0, n)
        }.get(kind)  # fmt: skip
        same = [f for f in forms if as_stored is not None and (f.kind, f.offset) == (as_stored.kind, as_stored.offset)]
        shifted = [f for f in same if f != as_stored and f.first_bytes() is not None]
        rest = [f for f in forms if f != as_stored and f not in shifted and f != self.plan.lanes(i)]
        if as_stored is not None and (as_stored in forms or shifted):
            if as_stored not in forms:
                forms.append(as_stored)
                self._declare(i, as_stored)
            flip = "(int32_t)0x80808080u" if as_stored.offset else "0"
            self._each_block(f"load_groups<{n}>({pointer}, left, {flip}, b.{self.buffer(i, as_stored)});")
            for form in shifted:
                self._repack(i, form, as_stored)
        if rest or self.plan.lanes(i) in forms:
            if self.plan.lanes(i) not in forms:
                self._declare(i, self.plan.lanes(i))
            self._each_block(f"load_lanes<{n}>({pointer}, left, b.{self.buffer(i)});")
        for form in rest:
            self._repack(i, form)

    def _dense(self, i: int, call: Product, forms: list[Storage]) -> None:
        """Kernel calls: one in a loop over the positions, or one for each position where their tables differ."""
        name = self.nodes[call.linear].name
        n_in = self.nodes[call.linear].op.weights.shape[0]  # pyright: ignore[reportAttributeAccessIssue]
        pooled = f", the largest of {call.pooled}" if call.pooled > 1 else ""
        self.steps.append(f"//   {name}: {call.n_out} sums of {n_in} products in {call.tables[0].format}{pooled}")
        first, *others = call.readings
        if others:
            for p in range(len(call.readings)):
                self._dense_call(i, call, p, forms, str(p), "")
            return
        many = len(first.at)
        loop = f"for (int p = 0; p < {many}; p++) " if many > 1 else ""
        self._dense_call(i, call, 0, forms, "p" if many > 1 else "", loop)

    def _dense_call(self, i: int, call: Product, k: int, forms: list[Storage], position: str, loop: str) -> None:
        """One kernel call for the leading position `position` (a loop variable, a number, or empty where there is one)."""
        tables, reading = call.tables[k], call.readings[k]
        name, kernel, n_out = identifier(self.nodes[call.linear].name), tables.format, call.n_out
        packed, runs, words = call.weights(k)
        scalar, acc = ("int64_t", "wide") if kernel == "i64" else ("int32_t", "vec")
        w, c = self.tables.add(f"{name}_w", packed, scalar), self.tables.add(f"{name}_bias", tables.bias, scalar)
        e = self.expression(i, {call.head: self._sums(call.head, acc)}, _saturation(forms))
        x = f"b.{self.buffer(reading.source, reading.storage)}"
        if kernel == "i64" and self._stored_lane(reading.source) == "vec":
            x = self._widened(reading.source, reading.storage)
        kind, put = self._put(i, forms, position, n_out)
        at_row = f"const int i = {position} * {n_out} + o;" if position else "const int i = o;"
        start = self._word(reading.at, position) if len(reading.at) > 1 else str(int(reading.at[0]))
        places = ", ".join(
            self.tables.add(what, v.reshape(-1), "int32_t") for what, v in (("runs", runs), ("pool", reading.pool))
        )
        shape = f"{n_out}, {runs.shape[1]}, {words}, {call.pooled}, {runs.shape[1] if len(runs) > 1 else 0}"
        self.steps.append(
            f"{loop}{{\n    const {acc}* const x[] = {self._blocks(x if start == '0' else f'{x} + {start}')};\n"
            f"    const {kind} put[] = {self._blocks(put)};\n"
            f"    dense_{kernel}<{shape}>(x, {places}, {w}, {c}, [&](int u, int o, {acc} a) {{ {at_row} {_OPEN} "
            f"return {e.lane}({e.text}); }}, put);\n}}"
        )

    def _sums(self, head: int, acc: str) -> Expression:
        """What the kernel hands to the map: the value of its head."""
        lo, hi, exp = self.nodes[head].type.flat()
        return Expression("a", acc, lo, hi, exp)

    def _forest(self, i: int, op: Forest, forms: list[Storage]) -> None:
        """The sums as lane words, from there to whatever else is wanted."""
        (x,) = self.nodes[i].operands
        t, source = self.nodes[x].type, f"b.{self.buffer(x)}"
        if forest_lane(op, t) == "wide" and self._stored_lane(x) == "vec":
            source = self._widened(self.plan.source(x), self.plan.lanes(x))
        if self.plan.lanes(i) not in forms:
            self._declare(i, self.plan.lanes(i))
        name = identifier(self.nodes[i].name)
        self._each_block(forest_statement(self.tables, name, op, t, source, f"b.{self.buffer(i)}"))
        packed_forms = [f for f in forms if f != self.plan.lanes(i)]
        if packed_forms:
            self._elements(i, f"return b.{self.buffer(i)}[i];", packed_forms)

    def _widened(self, source: int, form: Storage) -> str:
        """A wide copy of a buffer for the int64 kernels."""
        name, n = f"{self.buffer(source, form)}_wide", form.words
        if f"wide {name}[{n}];" not in self.buffers:
            self.buffers.append(f"wide {name}[{n}];")
        x = self.buffer(source, form)
        self._each_block(f"for (int i = 0; i < {n}; i++) b.{name}[i] = widen(b.{x}[i]);")
        return f"b.{name}"

    def expression(self, i: int, given: dict[int, Expression], store: tuple[int, int] | None = None) -> Expression:
        """The value of node i for element `i` of the loop, down to stored values and the sums in `given`."""
        node = self.nodes[i]
        if i in given:
            return given[i]
        operands = [self._leaf(j, node.type, given) for j in node.operands]
        return apply(self.tables, node.op, node.type, operands, identifier(node.name), store)

    def _leaf(self, j: int, reader: Tensor, given: dict[int, Expression]) -> Expression:
        node = self.nodes[j]
        lo, hi, exp = (np.broadcast_to(f, reader.shape).reshape(-1) for f in node.type.arrays())
        if isinstance(node.op, Constant):
            kind = lane(lo)
            values = self.tables.parameter(node.name.replace(".", "_"), lo)
            return Expression(f"({kind}{{}} + {values})", kind, lo, hi, exp, constant=True)
        if self.plan.inlined(j):
            return self.expression(j, given)
        index = "i"
        if node.type.shape != reader.shape:
            spread = np.broadcast_to(np.arange(node.type.size).reshape(node.type.shape), reader.shape)
            index = self.tables.parameter(f"{node.name.replace('.', '_')}_at", spread.reshape(-1).copy())
        return Expression(f"b.{self.buffer(j)}[{index}]", self._stored_lane(j), lo, hi, exp)

    # ---- layout and reductions ------------------------------------------------------------------------------------------

    def _gather(self, i: int, node: Node, forms: list[Storage]) -> None:
        x = node.operands[0]
        assert isinstance(node.op, Layout)
        index = node.op.source(self.nodes[x].type.shape)
        at = self.tables.parameter(f"{node.name.replace('.', '_')}_from", index.reshape(-1).astype(np.int64))
        value = f"b.{self.buffer(x)}[{at}]"
        if (index < 0).any():
            value = f"{at} < 0 ? {self._stored_lane(x)}{{}} : {value}"
        self._elements(i, f"return {value};", forms)

    def _concat(self, i: int, node: Node, forms: list[Storage]) -> None:
        """Each element comes from one operand: a table of places copies them one operand at a time."""
        assert isinstance(node.op, Concat)
        lo, hi, _ = node.type.flat()
        if self.plan.lanes(i) not in forms:
            self._declare(i, self.plan.lanes(i))
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
                f"for (int i = 0; i < {places.size}; i++) b.{self.buffer(i)}[{at}] = {convert}({leaf.text});"
            )
        packed_forms = [f for f in forms if f != self.plan.lanes(i)]
        if packed_forms:
            self._elements(i, f"return b.{self.buffer(i)}[i];", packed_forms)

    def _reduce(self, i: int, node: Node, forms: list[Storage]) -> None:
        """The sum or maximum along an axis, or over the taps of a window that is not stored itself."""
        assert isinstance(node.op, ReduceSum | ReduceMax)
        x, axis = node.operands[0], node.op.axis
        t = self.nodes[x].type
        length, inner = t.shape[axis], math.prod(t.shape[axis + 1 :])
        lo, hi, exp = (np.broadcast_to(f, t.shape) for f in t.arrays())
        up = (exp - np.broadcast_to(np.asarray(node.type.fixed.exp, np.int64), node.type.shape)).reshape(-1)
        kind = lane(*node.type.flat()[:2], lo.reshape(-1) << up, hi.reshape(-1) << up)
        name, widen = identifier(node.name), "widen" if kind == "wide" else ""
        if x in self.plan.inside:
            source, window = self.nodes[x].operands[0], self.nodes[x].op
            assert isinstance(window, Window)
            taps = window.source(self.nodes[source].type.shape)[..., 0].reshape(-1)
            at = self.tables.add(f"{name}_taps", np.where(taps < 0, -1, taps))
            start, step, value = f"(i / {inner}) * {length}", "j++", f"b.{self.buffer(source)}[{at}[j] + i % {inner}]"
            if (taps < 0).any():
                value = f"({at}[j] < 0 ? {self._stored_lane(source)}{{}} : {value})"
        else:
            by = f" << {self.tables.add(f'{name}_align', up)}[j]" if up.any() else ""
            start, step = f"(i / {inner}) * {length * inner} + i % {inner}", f"j += {inner}"
            value = f"(b.{self.buffer(x)}[j])"
            widen, value = "", f"({widen}{value}{by})"
        value = f"{widen}({value})"
        join = f"s + {value}" if isinstance(node.op, ReduceSum) else f"vmax<{kind}>(s, {value})"
        body = (
            f"int j = {start}; {kind} s = {value};\n"
            f"    for (int k = 1; k < {length}; k++) {{ {step}; s = {join}; }} return s;"
        )
        self._elements(i, body, forms)
