"""What a graph becomes in C++: layer functions of loop nests, and which values are arrays; writes no text itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...ir.graph import Graph
from ...ir.ops import (
    Add,
    Compare,
    Constant,
    Input,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Quantize,
    ReduceMax,
    ReduceSum,
    Reshape,
    Select,
    Shift,
    Sub,
)
from ..layers import layers
from .grids import Grid, common_grid, grid_of
from .names import Names

__all__ = ["ELEMENTWISE", "JOIN", "Function", "Nest", "Plan", "plan"]

ELEMENTWISE = (Add, Sub, Mul, Neg, Shift, Maximum, Minimum, Compare, Select, Quantize, Lookup)
JOIN = (*ELEMENTWISE, Linear, ReduceSum, ReduceMax)


@dataclass(frozen=True)
class Nest:
    """Loops over the elements of one result: `nodes` in order, the last of which is stored in an array."""

    nodes: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.nodes[-1]


@dataclass(frozen=True)
class Function:
    """One layer: the arrays it reads and writes, by the node that owns them."""

    layer: str
    name: str
    nests: tuple[Nest, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything the writers agree on. `storage[i]` owns the array of node i: itself, or what a reshape is made of."""

    graph: Graph
    taken: Names  # for identifiers still to come
    top: str
    functions: tuple[Function, ...]
    storage: tuple[int, ...]
    names: tuple[str, ...]  # identifier of each node, as array or local value
    types: tuple[str, ...]  # typedef of each node
    ports: tuple[str, ...]  # one per output of the graph
    direct: tuple[bool, ...]  # the output's port is the array itself: nothing else reads it
    tables: dict[int, str]  # array of a Constant, Linear or Lookup
    weight_types: dict[int, str]  # typedef of a Linear's weights
    networks: dict[int, str]  # function of a Linear's shift-adds

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Of each node; a reshape shares the array, and so the grid, of what it reshapes."""
        own = [grid_of(n.op, n.type) for n in self.graph.nodes]
        return tuple(own[i] for i in self.storage)

    def weight_grid(self, i: int) -> Grid:
        """The grid of a Linear's weights."""
        op = self.graph.nodes[i].op
        assert isinstance(op, Linear)
        return common_grid(op.weights, op.weights, np.asarray(op.exp, np.int64))


def plan(graph: Graph) -> Plan:
    """Split a graph that `check` accepts."""
    storage = _storage(graph)
    layer_of, layer_names = _layers(graph)
    joined = _joined(graph, storage, layer_of)
    names = Names()
    top = names.new(graph.name)
    found = _functions(graph, storage, layer_of, layer_names, joined, names)
    direct = _direct(graph, storage, found)
    of_node = _identifiers(graph, storage, direct, names)
    ports = tuple(
        of_node[storage[o.node]] if own else names.new(o.name, "_port") for o, own in zip(graph.outputs, direct)
    )
    types = tuple(names.new(f"{of_node[i]}_t") if storage[i] == i else "" for i in range(len(graph.nodes)))
    types = tuple(types[i] for i in storage)
    words = {Linear: "_weights", Lookup: "_table"}
    tables = {
        i: of_node[i] if isinstance(n.op, Constant) else names.new(n.name + words[type(n.op)])
        for i, n in enumerate(graph.nodes)
        if isinstance(n.op, Constant | Linear | Lookup)
    }
    weight_types = {i: names.new(f"{tables[i]}_t") for i in tables if isinstance(graph.nodes[i].op, Linear)}
    networks = {i: names.new(f"{graph.nodes[i].name}_shift_adds") for i in weight_types}
    return Plan(graph, names, top, found, storage, of_node, types, ports, direct, tables, weight_types, networks)


def _identifiers(graph: Graph, storage: tuple[int, ...], direct: tuple[bool, ...], names: Names) -> tuple[str, ...]:
    """One per node: an array that is a port bears the output's name, a reshape the name of what it reshapes."""
    wanted = [n.name for n in graph.nodes]
    for o, own in zip(graph.outputs, direct):
        if own:
            wanted[storage[o.node]] = o.name
    own_names = {
        i: names.new(wanted[i], "_matmul" if isinstance(graph.nodes[i].op, Linear) else "_out")
        for i in range(len(wanted))
        if storage[i] == i
    }
    return tuple(own_names[j] for j in storage)


def _storage(graph: Graph) -> tuple[int, ...]:
    found: list[int] = []
    for i, node in enumerate(graph.nodes):
        found.append(found[node.operands[0]] if isinstance(node.op, Reshape) else i)
    return tuple(found)


def _layers(graph: Graph) -> tuple[dict[int, int], list[str]]:
    layer_of: dict[int, int] = {}
    names: list[str] = []
    for k, layer in enumerate(layers(graph)):
        names.append(layer.name)
        layer_of.update((i, k) for i in layer.nodes if not isinstance(graph.nodes[i].op, Constant))
    return layer_of, names


def _joined(graph: Graph, storage: tuple[int, ...], layer_of: dict[int, int]) -> dict[int, int]:
    """The only reader of a value that needs no array: it is computed in that reader's loop body."""
    users = graph.users()
    results = {storage[o.node] for o in graph.outputs}
    joined: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, JOIN) or i in results or len(users[i]) != 1:
            continue
        reader = graph.nodes[users[i][0]]
        same = reader.type.shape == node.type.shape and layer_of[i] == layer_of[users[i][0]]
        if isinstance(reader.op, ELEMENTWISE) and same:
            joined[i] = users[i][0]
    return joined


def _functions(
    graph: Graph,
    storage: tuple[int, ...],
    layer_of: dict[int, int],
    layer_names: list[str],
    joined: dict[int, int],
    names: Names,
) -> tuple[Function, ...]:
    members: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, Input | Constant | Reshape):
            continue
        end = i
        while end in joined:
            end = joined[end]
        members.setdefault(end, []).append(i)
    nests: list[list[Nest]] = [[] for _ in layer_names]
    for end in sorted(members):
        nests[layer_of[end]].append(Nest(tuple(members[end])))
    shown = {storage[o.node] for o in graph.outputs}
    read_by = _read_by(graph, storage, layer_of)
    found = []
    for k, (name, own) in enumerate(zip(layer_names, nests)):
        if not own:
            continue
        ends = [nest.end for nest in own]
        reads = sorted(
            {
                storage[j]
                for nest in own
                for i in nest.nodes
                for j in graph.nodes[i].operands
                if layer_of.get(storage[j]) != k and not isinstance(graph.nodes[storage[j]].op, Constant)
            }
        )
        writes = [i for i in ends if i in shown or read_by.get(i, set()) - {k}]
        found.append(Function(name, names.new(name), tuple(own), tuple(reads), tuple(writes)))
    return tuple(found)


def _read_by(graph: Graph, storage: tuple[int, ...], layer_of: dict[int, int]) -> dict[int, set[int]]:
    """For each array, the layers that read it."""
    found: dict[int, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, Reshape):
            for j in node.operands:
                found.setdefault(storage[j], set()).add(layer_of[i])
    return found


def _direct(graph: Graph, storage: tuple[int, ...], functions: tuple[Function, ...]) -> tuple[bool, ...]:
    owners = [storage[o.node] for o in graph.outputs]
    read = {j for f in functions for j in f.reads}
    read |= {storage[j] for f in functions for nest in f.nests for i in nest.nodes for j in graph.nodes[i].operands}
    written = {i for f in functions for i in f.writes}
    return tuple(o in written and o not in read and owners.count(o) == 1 for o in owners)
