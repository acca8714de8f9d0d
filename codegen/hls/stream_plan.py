"""How a plan becomes processes that hand words to each other: which words, in which iterations; writes no text.

A stream carries one tensor in row-major order as `words` of `lanes` elements: one position (pixel, particle, time step)
with all of its channels, where the ops allow it. A reshape is the same stream. What an op cannot take word by word is
collected in a buffer and read again in the order it wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...ir.errors import CompileError
from ...ir.ops import Concat, Constant, Forest, Gather, Layout, Linear, ReduceMax, ReduceSum, Transpose, Window
from ...ir.types import Int64
from ..schedule import Folding, Schedule, folding
from .plan import Function, Nest, Plan
from .stages import Buffered, Edge, Lines, Reduced, Stage, StreamPlan

__all__ = ["stream_plan"]

_WIDEST_PORT = 4096
"""Bits of the widest word of an input: that of an AXI4-Stream."""

_WIDEST_WORD = 4096
"""Elements of the widest word that is collected for a reduction or a concatenation."""


_PROCESS = {Window: "lines", Gather: "buffer", Transpose: "buffer", Concat: "join"}
"""How the process of an op is called that does not have its layer's name."""


def stream_plan(plan: Plan, schedule: Schedule) -> StreamPlan:
    """The processes of a graph. Raises `CompileError`, naming the node, for what has no place in a stream."""
    return _Planner(plan, schedule).run()


class _Planner:
    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self.plan, self.schedule = plan, schedule
        self.nodes = plan.graph.nodes
        self.form: dict[int, tuple[int, int]] = {}  # (words, lanes) of each owner
        self.uses: dict[int, list[Edge]] = {}  # the streams that bring each owner's words to its readers
        self.stages: list[Stage] = []
        self.edges = 0
        self.wanted = self._wanted()

    def run(self) -> StreamPlan:
        inputs: list[Edge] = []
        for i in self.plan.graph.inputs:
            if i not in self.wanted:
                where = f"{self.nodes[i].name} (input)"
                raise CompileError(where, "nothing reads it, and a stream must be read", "remove the input")
            words, lanes = self.form[i] = self._input_form(i)
            inputs.append(self._edge(i, words, lanes, self.plan.names[i]))
        for function in self.plan.functions:
            for nest in function.nests:
                if nest.end in self.wanted:
                    self._add(function, nest)
        ports = [
            self._use(self.plan.storage[o.node], port) for o, port in zip(self.plan.graph.outputs, self.plan.ports)
        ]
        stages = self._connected(inputs, ports)
        names = self._named(stages, [*inputs, *ports])
        return StreamPlan(
            self.plan,
            tuple(_renamed(stage, names) for stage in stages),
            tuple(names[e] for e in inputs),
            tuple(names[e] for e in ports),
        )

    # ---- streams ----------------------------------------------------------------------------------------------------

    def _wanted(self) -> dict[int, None]:
        """Nodes that some output depends on."""
        found: dict[int, None] = {}
        waiting = [o.node for o in self.plan.graph.outputs]
        while waiting:
            i = waiting.pop()
            if i not in found:
                found[i] = None
                waiting += self.nodes[i].operands
        return found

    def _input_form(self, i: int) -> tuple[int, int]:
        """One position per word as the first window sees it, else the last axis; no wider than a port may be."""
        t = self.nodes[i].type
        lanes = t.shape[-1] if t.shape else 1
        for node in self.nodes:
            if isinstance(node.op, Window) and self.plan.storage[node.operands[0]] == i:
                lanes = self.nodes[node.operands[0]].type.shape[-1]
                break
        most = max(_WIDEST_PORT // self.plan.grids[i].width, 1)
        lanes = max(k for k in range(1, lanes + 1) if lanes % k == 0 and k <= most)
        return t.size // lanes, lanes

    def _edge(self, owner: int, words: int, lanes: int, name: str = "") -> Edge:
        self.edges += 1
        return Edge(name or f"#{self.edges}", owner, words, lanes, "")  # named at the end, when all readers are known

    def _named(self, stages: list[Stage], ports: list[Edge]) -> dict[Edge, Edge]:
        """The streams with their identifiers: the tensor's, with a number where it has several readers."""
        found: dict[Edge, Edge] = {}
        wanted = [(e, e.name) for e in ports]
        for stage in stages:
            for k, edge in enumerate(stage.outs):
                own, many = self.plan.names[edge.owner], stage.kind == "copies" and len(stage.outs) > 1
                again = stage.kind == "buffer" and stage.nest.end == stage.ins[0].owner
                constant = isinstance(self.nodes[edge.owner].op, Constant)  # whose name its table has
                number = f"{own}_{k + 1}" if many else f"{own}_words" if constant else own
                wanted.append((edge, f"{own}_reordered" if again else number))
        for edge, name in wanted:
            if edge not in found:
                given = not edge.name.startswith("#") or name == self.plan.names[edge.owner]
                own = name if given else self.plan.taken.new(name)
                found[edge] = replace(edge, name=own, variable=self.plan.taken.new(f"{own}_word"))
        return found

    def _use(self, owner: int, name: str = "") -> Edge:
        """A stream of the words of an owner, in the form that it has."""
        if isinstance(self.nodes[owner].op, Constant):
            return self._constant(owner, name)
        edge = self._edge(owner, *self.form[owner], name)
        self.uses.setdefault(owner, []).append(edge)
        return edge

    def _constant(self, owner: int, name: str) -> Edge:
        """A process that gives the words of a constant, to one reader."""
        words, lanes = self._form(owner)
        edge = self._edge(owner, words, lanes, name)
        process = self.plan.taken.new(f"{self.plan.names[owner]}_source")
        nest, every = Nest((owner,)), np.arange(words)
        self.stages.append(Stage("words", "", process, nest, (), (edge,), words, {}, {edge.name: every}))
        return edge

    def _connected(self, inputs: list[Edge], ports: list[Edge]) -> list[Stage]:
        """The stages with their result streams; where several read a result, or a port feeds a port, a copy process."""
        found: list[Stage] = []
        port_of: dict[Edge, Edge] = {}
        for edge in inputs:
            readers = self.uses[edge.owner]
            if len(readers) == 1 and readers[0] not in ports:
                port_of[readers[0]] = edge
            else:
                found.append(self._copies("", edge, readers))
        for stage in (_renamed(s, port_of) for s in self.stages):
            if stage.outs:
                found.append(stage)
                continue
            owner, (slots,) = stage.nest.end, stage.writes.values()
            readers = self.uses[owner]
            one = readers[0] if len(readers) == 1 else self._edge(owner, *self.form[owner])
            found.append(replace(stage, outs=(one,), writes={one.name: slots}))
            if len(readers) > 1:
                found.append(self._copies(stage.layer, one, readers))
        return found

    def _copies(self, layer: str, edge: Edge, readers: list[Edge]) -> Stage:
        name = self.plan.taken.new(f"{self.plan.names[edge.owner]}_copies")
        every = np.arange(edge.words)
        return Stage(
            "copies", layer, name, Nest((edge.owner,)), (edge,), tuple(readers), edge.words, {edge.name: every},
            {r.name: every for r in readers},
        )  # fmt: skip

    def _form(self, owner: int) -> tuple[int, int]:
        """(words, lanes) of an owner."""
        t = self.nodes[owner].type
        lanes = t.shape[-1] if t.shape else 1
        return self.form.get(owner, (t.size // lanes, lanes))  # without an entry: a constant

    def _lanes(self, j: int) -> int:
        """The width of the words of node j."""
        return self._form(self.plan.storage[j])[1]

    def _fitted(self, layer: str, j: int, lanes: int, index: Int64 | None = None) -> Edge:
        """Node j in words of `lanes`; of the elements of `index` where it is given; buffered where it must be."""
        owner, size = self.plan.storage[j], self.nodes[j].type.size
        if index is None and self._form(owner) == (size // lanes, lanes):
            return self._use(owner)
        index = np.arange(size) if index is None else index.reshape(-1)
        source = self._use(owner)
        target = self._edge(owner, len(index) // lanes, lanes)
        name = self.plan.taken.new(f"{self.plan.names[owner]}_buffer")
        self.stages.append(_buffer(name, layer, Nest((owner,)), source, index, lanes, target))
        return target

    # ---- processes --------------------------------------------------------------------------------------------------

    def _add(self, function: Function, nest: Nest) -> None:
        """The process of one nest; that of the layer's matrix, or else its last one, has the layer's name."""
        head = self.nodes[nest.nodes[0]].op
        rules: dict[type, Callable[[str, str, Nest], None]] = {
            Linear: self._matrix,
            Forest: self._forest,
            ReduceSum: self._reduction,
            ReduceMax: self._reduction,
            Window: self._window,
            Gather: self._gather,
            Transpose: self._gather,
            Concat: self._concat,
        }
        heavy = [
            n for n in function.nests if isinstance(self.nodes[n.nodes[0]].op, Linear | Forest | ReduceSum | ReduceMax)
        ]
        names_layer = nest is (heavy or function.nests)[-1]
        own = f"{self.plan.names[nest.end]}_{_PROCESS.get(type(head), 'step')}"
        name = function.name if names_layer else self.plan.taken.new(own)
        rules.get(type(head), self._words)(function.layer, name, nest)

    def _outside(self, nest: Nest) -> list[int]:
        """Data operands that the nest does not compute itself, each once."""
        found: dict[int, None] = {}
        for i in nest.nodes:
            for j in self.nodes[i].operands:
                if j not in nest.nodes and not isinstance(self.nodes[self.plan.storage[j]].op, Constant):
                    found[j] = None
        return list(found)

    def _spread(self, layer: str, nest: Nest, others: list[int], words: int, lanes: int) -> dict[int, Edge]:
        """Operands of elementwise ops: the element for each element of the result, by node."""
        shape = self.nodes[nest.end].type.shape
        found: dict[int, Edge] = {}
        known: dict[tuple[int, bytes], Edge] = {}
        for j in others:
            t = self.nodes[j].type
            index = np.broadcast_to(np.arange(t.size).reshape(t.shape), shape).reshape(-1)
            key = self.plan.storage[j], index.tobytes()
            if key not in known:
                same = t.size == words * lanes
                known[key] = self._fitted(layer, j, lanes, None if same else index)
            found[j] = known[key]
        return found

    def _words(self, layer: str, name: str, nest: Nest) -> None:
        t, others = self.nodes[nest.end].type, self._outside(nest)
        whole = [j for j in others if self.nodes[j].type.size == t.size]
        lanes = self.form[self.plan.storage[whole[0]]][1] if whole else t.shape[-1] if t.shape else 1
        words = t.size // lanes
        operands = self._spread(layer, nest, others, words, lanes)
        every = np.arange(words)
        ins = tuple(dict.fromkeys(operands.values()))
        self.form[nest.end] = words, lanes
        self._append("words", layer, name, nest, ins, words, {e.name: every for e in ins}, every, operands)

    def _append(
        self, kind: str, layer: str, name: str, nest: Nest, ins: tuple[Edge, ...], iterations: int,
        reads: dict[str, Int64], writes: Int64, operands: dict[int, Edge], detail: object = None,
    ) -> None:  # fmt: skip
        """A stage whose result streams are known when all readers are."""
        assert detail is None or isinstance(detail, Folding | Lines | Reduced | Buffered)
        self.stages.append(Stage(kind, layer, name, nest, ins, (), iterations, reads, {"": writes}, operands, detail))

    def _matrix(self, layer: str, name: str, nest: Nest) -> None:
        i = nest.nodes[0]
        op, x = self.nodes[i].op, self.nodes[i].operands[0]
        assert isinstance(op, Linear)
        n_in, n_out = op.weights.shape
        own = self.schedule.of(layer)
        lanes = self._lanes(x)
        lanes = lanes if n_in % lanes == 0 and own.strategy != "distributed" else n_in
        words = n_in // lanes
        try:
            f = folding(n_in, n_out, own.reuse if own.strategy == "resource" else words, words)
        except CompileError as e:
            raise CompileError(f"layer {layer}", f"the {e.where} {e.rule}", e.fix) from None
        source = self._fitted(layer, x, lanes)
        rows = source.words // words
        operands = self._spread(layer, nest, [j for j in self._outside(nest) if j != x], rows, n_out)
        first = np.arange(source.words) * (f.groups * f.steps)
        row = np.arange(rows) * f.reuse
        reads = {e.name: row + (words - 1) * f.groups * f.steps for e in operands.values()} | {source.name: first}
        ins = (source, *dict.fromkeys(operands.values()))
        self.form[nest.end] = rows, n_out
        kind = "network" if own.strategy == "distributed" else "matrix"
        self._append(kind, layer, name, nest, ins, rows * f.reuse, reads, row + f.reuse - 1, {x: source, **operands}, f)

    def _forest(self, layer: str, name: str, nest: Nest) -> None:
        x = self.nodes[nest.end].operands[0]
        source = self._fitted(layer, x, self.nodes[x].type.shape[-1])
        every = np.arange(source.words)
        self.form[nest.end] = source.words, self.nodes[nest.end].type.shape[-1]
        self._append("forest", layer, name, nest, (source,), source.words, {source.name: every}, every, {x: source})

    def _reduction(self, layer: str, name: str, nest: Nest) -> None:
        i = nest.nodes[0]
        op, x = self.nodes[i].op, self.nodes[i].operands[0]
        assert isinstance(op, ReduceSum | ReduceMax)
        shape = self.nodes[x].type.shape
        outer, n, inner = math.prod(shape[: op.axis]), shape[op.axis], math.prod(shape[op.axis + 1 :])
        lanes = self._lanes(x)
        within = lanes % (n * inner) == 0
        if not within and inner % lanes:
            within = n * inner <= _WIDEST_WORD
            lanes = n * inner if within else inner
        source = self._fitted(layer, x, lanes)
        every = np.arange(source.words)
        if within:
            words, width, writes, r = source.words, lanes // n, every, Reduced(outer, n, inner, 0)
        else:
            r = Reduced(outer, n, inner, inner // lanes)
            words, width, writes = outer * r.words, lanes, every.reshape(outer, n, r.words)[:, -1].reshape(-1)
        operands = self._spread(layer, nest, [j for j in self._outside(nest) if j != x], words, width)
        reads = {e.name: writes for e in operands.values()} | {source.name: every}
        ins = (source, *dict.fromkeys(operands.values()))
        self.form[nest.end] = words, width
        self._append("reduce", layer, name, nest, ins, source.words, reads, writes, {x: source, **operands}, r)

    def _window(self, layer: str, name: str, nest: Nest) -> None:
        node = self.nodes[nest.end]
        op, x = node.op, node.operands[0]
        assert isinstance(op, Window)
        *spatial, channels = self.nodes[x].type.shape
        padded = any(op.begin) or any(op.end)
        if len(spatial) > 2 or (padded and op.fill == "nearest" and not self._only_maxima(nest.end)):
            self._gather(layer, name, nest)
            return
        one = (1,) * (2 - len(spatial))
        none = (0,) * len(one)
        fields = [
            *((*one, *f) for f in (spatial, op.kernel, op.strides, op.dilations)), (*none, *op.begin), (*none, *op.end)
        ]  # fmt: skip
        g = Lines(*((int(rows), int(columns)) for rows, columns in fields))
        source = self._fitted(layer, x, channels)
        rows, columns = g.padded
        at = np.arange(rows * columns).reshape(rows, columns)
        inside = at[g.begin[0] : g.begin[0] + g.size[0], g.begin[1] : g.begin[1] + g.size[1]].reshape(-1)
        done = at[g.span(0) - 1 :: g.strides[0], g.span(1) - 1 :: g.strides[1]].reshape(-1)
        self.form[nest.end] = len(done), op.taps * channels
        self._append(
            "window", layer, name, nest, (source,), rows * columns, {source.name: inside}, done, {x: source}, g
        )

    def _only_maxima(self, i: int) -> bool:
        """All that becomes of the windows is their maximum over the taps."""
        for node in self.nodes:
            if i in node.operands and not (isinstance(node.op, ReduceMax) and node.op.axis == len(node.type.shape) - 2):
                return False
        return all(o.node != i for o in self.plan.graph.outputs)

    def _gather(self, layer: str, name: str, nest: Nest) -> None:
        node = self.nodes[nest.end]
        x = node.operands[0]
        shape = self.nodes[x].type.shape
        assert isinstance(node.op, Layout)
        index = node.op.source(shape)
        lanes = node.type.shape[-1] if node.type.shape else 1
        source = self._use(self.plan.storage[x])
        words = node.type.size // lanes
        self.form[nest.end] = words, lanes
        own = index.reshape(words, lanes) - np.arange(words)[:, None] * source.lanes
        if words == source.words and (own == own[:1]).all() and own.min() >= 0 and own.max() < source.lanes:
            every, picked = np.arange(words), Buffered(own[0], source.lanes, 1)
            self._append("pick", layer, name, nest, (source,), words, {source.name: every}, every, {x: source}, picked)
            return
        stage = _buffer(name, layer, nest, source, index.reshape(-1), lanes, None)
        self.stages.append(replace(stage, operands={x: source}))

    def _concat(self, layer: str, name: str, nest: Nest) -> None:
        node = self.nodes[nest.end]
        assert isinstance(node.op, Concat)
        axis = node.op.axis % len(node.type.shape)
        outer = math.prod(node.type.shape[:axis])
        parts = [self.nodes[j].type.size // outer for j in node.operands]
        data = [j for j in node.operands if not isinstance(self.nodes[self.plan.storage[j]].op, Constant)]
        joins = sum(parts) <= _WIDEST_WORD
        chunks = [self.form[self.plan.storage[j]][1] for j in data]
        if axis < len(node.type.shape) - 1 and len(set(chunks)) == 1 and all(n % chunks[0] == 0 for n in parts):
            joins = False  # positions behind positions
        if joins:
            self._join(layer, name, nest, data, dict(zip(node.operands, parts)), outer)
            return
        fits = chunks and all(n % chunks[0] == 0 for n in parts)
        lanes = chunks[0] if fits else math.gcd(*parts)
        edges: dict[int, Edge] = {}
        reads: dict[str, Int64] = {}
        start = 0
        for place, (j, n) in enumerate(zip(node.operands, parts)):
            if j in data:
                edges[place] = self._fitted(layer, j, lanes)
                at = np.arange(outer)[:, None] * (sum(parts) // lanes) + start + np.arange(n // lanes)
                reads[edges[place].name] = at.reshape(-1)
            start += n // lanes
        total = node.type.size // lanes
        self.form[nest.end] = total, lanes
        self._append("sequence", layer, name, nest, tuple(edges.values()), total, reads, np.arange(total), edges)

    def _join(self, layer: str, name: str, nest: Nest, data: list[int], parts: dict[int, int], words: int) -> None:
        """Channels beside channels: a word of each operand."""
        operands = {j: self._fitted(layer, j, parts[j]) for j in dict.fromkeys(data)}
        every = np.arange(words)
        self.form[nest.end] = words, self.nodes[nest.end].type.size // words
        ins = tuple(operands.values())
        self._append("join", layer, name, nest, ins, words, {e.name: every for e in ins}, every, operands)


def _renamed(stage: Stage, names: dict[Edge, Edge]) -> Stage:
    """The stage with some of its streams replaced."""
    by_name = {old.name: new.name for old, new in names.items()}
    return replace(
        stage,
        ins=tuple(names.get(e, e) for e in stage.ins),
        outs=tuple(names.get(e, e) for e in stage.outs),
        reads={by_name.get(n, n): slots for n, slots in stage.reads.items()},
        writes={by_name.get(n, n): slots for n, slots in stage.writes.items()},
        operands={j: names.get(e, e) for j, e in stage.operands.items()},
    )


def _buffer(name: str, layer: str, nest: Nest, source: Edge, index: Int64, lanes: int, target: Edge | None) -> Stage:
    """Collect all words, then write those that are asked for, as fast as the banks of the memory can give them."""
    rows = index.reshape(-1, lanes)
    banks = source.lanes if source.lanes * source.words > 1024 else source.lanes * source.words
    step = 1
    if banks < source.lanes * source.words:
        busy = [np.bincount(np.unique(r[r >= 0]) % banks, minlength=1).max(initial=1) for r in rows]
        step = -(-int(max(busy)) // 2)  # a block RAM has two ports
    iterations = source.words + len(rows) * step
    writes = source.words + (np.arange(len(rows)) + 1) * step - 1
    return Stage(
        "buffer", layer, name, nest, (source,), (target,) if target else (), iterations,
        {source.name: np.arange(source.words)}, {target.name if target else "": writes}, {}, Buffered(index, banks, step),
    )  # fmt: skip
