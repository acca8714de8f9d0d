"""How a graph falls into layers: the unit of functions in generated code, of schedules and of reports."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Builder, Graph, Node, Output
from ..ir.ops import Constant, Forest, Input, Linear, Mul, ReduceMax, ReduceSum
from ..ir.rounding import Overflow

__all__ = ["Layer", "layers", "subgraph"]

_HEAVY = (Linear, Forest, ReduceSum, ReduceMax)


@dataclass(frozen=True)
class Layer:
    """A run of nodes that depends only on earlier layers.

    `nodes`: indices in topological order, with the constants they use (a constant may be in several layers).
    `inputs`: nodes outside that it reads; `outputs`: its nodes that later layers or the graph's outputs read.
    """

    name: str
    nodes: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def layers(graph: Graph) -> tuple[Layer, ...]:
    """A heavy op (matrix, reduction, product of data) opens a layer; what follows elementwise joins it."""
    level: dict[int, int] = {}
    names: list[str] = []
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, Input | Constant):
            continue
        latest = max((level.get(j, -1) for j in node.operands), default=-1)
        if latest < 0 or _is_heavy(graph, node):
            names.append(node.name.replace(".", "_"))
            latest = len(names) - 1
        level[i] = latest
    return tuple(_layer(graph, level, k, name) for k, name in enumerate(names))


def _is_heavy(graph: Graph, node: Node) -> bool:
    if isinstance(node.op, Mul):
        return not any(isinstance(graph.nodes[j].op, Constant) for j in node.operands)
    return isinstance(node.op, _HEAVY)


def _layer(graph: Graph, level: dict[int, int], k: int, name: str) -> Layer:
    own = [i for i, at in level.items() if at == k]
    constants = {j for i in own for j in graph.nodes[i].operands if isinstance(graph.nodes[j].op, Constant)}
    outside = {j for i in own for j in graph.nodes[i].operands if level.get(j) != k and j not in constants}
    read = {j for i, node in enumerate(graph.nodes) if level.get(i) != k for j in node.operands}
    read |= {o.node for o in graph.outputs}
    return Layer(name, tuple(sorted([*own, *constants])), tuple(sorted(outside)), tuple(i for i in own if i in read))


def subgraph(graph: Graph, layer: Layer) -> Graph:
    """The layer alone: what it reads becomes inputs of exactly the reachable type, under the nodes' names."""
    builder = Builder(layer.name)
    index: dict[int, int] = {}
    for i in layer.inputs:
        node = graph.nodes[i]
        index[i] = builder.add(Input(node.type.shape, node.type.fixed, overflow=Overflow.SAT), name=node.name)
    for i in layer.nodes:
        node = graph.nodes[i]
        index[i] = builder.add(node.op, *(index[j] for j in node.operands), name=node.name)
    return builder.graph(Output(graph.nodes[i].name, index[i]) for i in layer.outputs)
