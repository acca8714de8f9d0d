"""What the CPU engine stores, and how: which values get buffers in which forms, and which are computed inside their reader's
expression or by the kernel that takes them along; writes no text."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Graph, Node
from ...ir.ops import Concat, Constant, Linear, ReduceMax, ReduceSum, Reshape, Window
from ..elementwise import ELEMENTWISE
from .products import Product, product
from .storage import LANES, Storage, flat

__all__ = ["Plan"]

_DEEPEST = 24
"""Ops that one expression may nest: beyond, a value is stored in between."""


class Plan:
    """By node: `alias`, `owner`, `inside` and `forms`, as they are explained where they are made."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes, self.users = graph, graph.nodes, graph.users()
        self.results = {o.node for o in graph.outputs}
        self.depth: list[int] = []  # ops on the longest way to each node
        self.alias: dict[int, int] = {}  # reshapes share their operand's buffer
        self.heads: dict[int, Product] = {}  # the node that each kernel call hands on
        self.owner: dict[int, Product] = {}  # chain end -> the kernel call whose results it maps
        self.inside: set[int] = set()  # nodes without a buffer, since a kernel or a reduction takes them along
        self.forms: dict[int, list[Storage]] = {}  # how each node is stored for its readers
        self._decide()

    def _decide(self) -> None:
        for i, node in enumerate(self.nodes):
            if isinstance(node.op, Reshape):
                self.alias[i] = self.source(node.operands[0])
            self.depth.append(1 + max((self.depth[j] for j in node.operands), default=0))
            if isinstance(node.op, Linear):
                call = product(self.graph, self.users, self.results, i)
                self.heads[call.head] = call
                self.inside |= {i, call.sums, *call.absorbed} - {call.head}
        self.inside |= {i for i, node in enumerate(self.nodes) if self._read_by_reduction(i, node)}
        for head, call in self.heads.items():
            end = self._chain_end(head)
            self.owner[head if end in self.owner else end] = call
        for i, node in enumerate(self.nodes):
            if i in self.results:
                self._want(i, self.lanes(i))
            if i in self.inside or isinstance(node.op, Reshape) or i in self.heads:
                continue
            for j in node.operands:
                stored = isinstance(self.nodes[j].op, Constant) and not isinstance(node.op, (*ELEMENTWISE, Concat))
                if stored or not self.inlined(j):
                    self._want(j, self.lanes(j))
                elif j in self.inside and isinstance(self.nodes[j].op, Window):
                    self._want(self.nodes[j].operands[0], self.lanes(self.nodes[j].operands[0]))
        for call in self.heads.values():
            for reading in call.readings:
                self._want(reading.source, reading.storage)

    def _read_by_reduction(self, i: int, node: Node) -> bool:
        """A window that only a sum or maximum over its taps reads: that finds the elements itself."""
        if not isinstance(node.op, Window) or i in self.results or len(self.users[i]) != 1 or i in self.inside:
            return False
        reader = self.nodes[self.users[i][0]]
        if not isinstance(reader.op, ReduceSum | ReduceMax) or reader.op.axis != len(node.type.shape) - 2:
            return False
        exp = np.asarray(reader.type.fixed.exp)
        return bool((np.broadcast_to(exp, reader.type.shape) == node.type.arrays()[2]).all())

    def source(self, i: int) -> int:
        """The node whose buffer a node's values lie in."""
        return self.alias.get(i, i)

    def lanes(self, i: int) -> Storage:
        """One element in each word, one event in each lane."""
        return flat(LANES, 0, self.nodes[i].type.size)

    def _want(self, i: int, form: Storage) -> None:
        forms = self.forms.setdefault(self.source(i), [])
        if form not in forms:
            forms.append(form)

    def inlined(self, i: int) -> bool:
        """The value is computed inside its only reader's expression, or by the kernel that takes it along."""
        if isinstance(self.nodes[i].op, Constant) or i in self.inside:
            return True
        return i not in self.owner and self._joins_reader(i)

    def _joins_reader(self, i: int) -> bool:
        joining = isinstance(self.nodes[i].op, ELEMENTWISE) or i in self.heads
        if not joining or i in self.results or len(self.users[i]) != 1:
            return False
        reader = self.nodes[self.users[i][0]]
        joins = isinstance(reader.op, ELEMENTWISE) and reader.type.shape == self.nodes[i].type.shape
        return joins and self.users[i][0] not in self.heads and self.depth[i] % _DEEPEST != 0

    def _chain_end(self, i: int) -> int:
        while self._joins_reader(i):
            i = self.users[i][0]
        return i
