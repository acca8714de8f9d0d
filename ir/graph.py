"""The graph: a tuple of nodes in topological order, and the builder that makes one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import CompileError
from .ops import Input, Op
from .rational import IDENTITY, Affine
from .types import Tensor

__all__ = ["Builder", "Graph", "Node", "Output", "clean_name", "rewrite", "verify"]


@dataclass(frozen=True)
class Node:
    """One op applied to earlier nodes. `name` is unique and stable across passes: it keys schedules and reports."""

    name: str
    op: Op
    operands: tuple[int, ...]
    type: Tensor


@dataclass(frozen=True)
class Output:
    """A result of the graph: real = real.scale * value + real.offset."""

    name: str
    node: int
    real: Affine = IDENTITY


@dataclass(frozen=True)
class Graph:
    """An exact fixed-point program. `str(graph)` is its text form (see `ir.text`)."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(i for i, n in enumerate(self.nodes) if isinstance(n.op, Input))

    def operand_types(self, node: Node) -> tuple[Tensor, ...]:
        return tuple(self.nodes[i].type for i in node.operands)

    def users(self) -> list[list[int]]:
        """For each node the nodes that read it, in order."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in dict.fromkeys(node.operands):
                found[j].append(i)
        return found

    @property
    def digest(self) -> str:
        """sha256 of the text form: equal programs have equal digests."""
        return hashlib.sha256(str(self).encode()).hexdigest()

    def __str__(self) -> str:
        from .text import format_graph

        return format_graph(self)


class Builder:
    """Appends nodes with inferred types; the only thing in `ir` that mutates."""

    def __init__(self, name: str) -> None:
        self.name = clean_name(name)
        self.nodes: list[Node] = []
        self._names: dict[str, int] = {}

    def add(self, op: Op, *operands: int, name: str = "") -> int:
        """Append ``op(*operands)`` and return its index. A name in use gets a number appended.

        Raises `CompileError`, naming the node, if the operands do not fit the op.
        """
        name = self._unique(clean_name(name or op.name))
        if (op.arity is not None and len(operands) != op.arity) or (op.arity is None and not operands):
            raise CompileError(
                f"{name} ({op.name})", f"takes {op.arity or 'one or more'} operands, not {len(operands)}"
            )
        if not all(0 <= i < len(self.nodes) for i in operands):
            raise CompileError(f"{name} ({op.name})", "operands must be earlier nodes")
        try:
            result = op.infer(*(self.nodes[i].type for i in operands))
        except CompileError as e:
            raise CompileError(f"{name} ({op.name})", e.rule, e.fix) from None
        self.nodes.append(Node(name, op, operands, result))
        return len(self.nodes) - 1

    def type(self, index: int) -> Tensor:
        return self.nodes[index].type

    def _unique(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = 0
            return name
        while True:
            self._names[name] += 1
            candidate = f"{name}_{self._names[name]}"
            if candidate not in self._names:
                self._names[candidate] = 0
                return candidate

    def graph(self, outputs: Iterable[Output]) -> Graph:
        results = tuple(outputs)  # first: making them may append nodes
        return Graph(self.name, tuple(self.nodes), results)


def clean_name(name: str) -> str:
    """Letters, digits, '_' and '.', starting with a letter: safe in text, C++ (with '.' replaced) and file names."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "x"
    return name if name[0].isalpha() else f"n{name}"


Rewrite = Callable[[Builder, Node, tuple[int, ...]], int | None]


def rewrite(graph: Graph, rule: Rewrite) -> Graph:
    """Rebuild the graph node by node: `rule` returns the index that stands for the node, or None to copy it."""
    builder = Builder(graph.name)
    new: list[int] = []
    for node in graph.nodes:
        operands = tuple(new[i] for i in node.operands)
        found = rule(builder, node, operands)
        new.append(builder.add(node.op, *operands, name=node.name) if found is None else found)
    return builder.graph(Output(o.name, new[o.node], o.real) for o in graph.outputs)


def verify(graph: Graph) -> None:
    """Check what every pass must keep: order, unique names, and types equal to the inferred ones.

    Raises `CompileError` naming the first node that breaks a rule.
    """
    seen: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        where = f"{node.name} ({node.op.name})"
        if node.name in seen:
            raise CompileError(where, "names must be unique")
        seen[node.name] = i
        if any(j >= i or j < 0 for j in node.operands):
            raise CompileError(where, "operands must come before their users")
        inferred = node.op.infer(*graph.operand_types(node))
        if inferred != node.type:
            raise CompileError(where, f"the type must be the inferred {inferred}, not {node.type}")
    if not graph.outputs:
        raise CompileError(graph.name, "a graph must have at least one output")
    for o in graph.outputs:
        if not 0 <= o.node < len(graph.nodes):
            raise CompileError(o.name, f"an output must name a node of the graph, not {o.node}")
