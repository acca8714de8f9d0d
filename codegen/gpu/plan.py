"""How a graph falls into GPU kernels: what each computes in registers, and which values lie in memory; writes no text.

A kernel works on a tile of rows: a row is one leading position of one event, its columns the last axis. Elementwise ops,
matrices and reductions along the columns of the same rows share a kernel and never touch memory in between, so a small
dense network is one kernel. Layout ops move nothing: they are views, resolved where a later kernel loads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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
from ...ir.types import Int64, Tensor
from ..elementwise import ELEMENTWISE

__all__ = ["SUPPORTED", "Copy", "Kernel", "Plan", "View", "broadcast_index", "plan", "tile_width"]

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
    Window,
    Concat,
)
"""The ops that the backend has a rule for."""

_WIDEST = 256
"""Columns of a value that stays in registers between two matrices."""
_LONGEST_REDUCTION = 8192
_MOST_NODES = 160
"""Nodes of one kernel: beyond, the compiler takes long and registers run out."""


@dataclass(frozen=True, eq=False)
class View:
    """A value as it is loaded: element k is element ``index[k]`` of the stored node (-1: zero; None: the node itself)."""

    source: int
    index: Int64 | None = None


@dataclass(frozen=True, eq=False)
class Copy:
    """Elements of `node` stored into places `to` (None: all, in order) of the buffer of `target`."""

    node: int
    target: int
    to: Int64 | None = None


@dataclass(eq=False)
class Kernel:
    """`rows` tile rows for each event. `split`: its one matrix is too large for registers, and its columns are a grid axis."""

    rows: int
    split: bool = False
    nodes: list[int] = field(default_factory=list)
    columns: dict[int, int] = field(default_factory=dict)  # of each node
    copies: list[Copy] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)  # nodes whose value other kernels or the caller read


@dataclass(frozen=True, eq=False)
class Plan:
    """`constants`: raw integers of nodes that are the same in every event. `outputs`: the buffer of each output."""

    graph: Graph
    kernels: tuple[Kernel, ...]
    views: dict[int, View]
    constants: dict[int, Int64]
    outputs: tuple[int, ...]
    buffers: dict[int, Tensor]


def tile_width(n: int) -> int:
    """Columns of the tile that holds n: a power of two, and at least what an int8 dot product takes."""
    return 1 if n == 1 else max(32, 1 << (n - 1).bit_length())


def broadcast_index(operand: tuple[int, ...], result: tuple[int, ...]) -> Int64:
    """``[result elements]``: the operand's element that each reads."""
    at = np.arange(math.prod(operand), dtype=np.int64).reshape(operand)
    return np.broadcast_to(at, result).reshape(-1)


def plan(graph: Graph) -> Plan:
    """Kernels in the order in which they run. Raises `CompileError` for a reduction that is too long for a tile."""
    return _Planner(graph).plan()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.kernels: list[Kernel] = []
        self.views: dict[int, View] = {}
        self.constants: dict[int, Int64] = {}
        self.made_by: dict[int, int] = {}  # kernel of each computed or copied node
        self.buffers: dict[int, Tensor] = {}

    def plan(self) -> Plan:
        for i, node in enumerate(self.nodes):
            self._place(i, node)
        outputs = tuple(self._output(k, o.node) for k, o in enumerate(self.graph.outputs))
        read = self._readers()
        for k, kernel in enumerate(self.kernels):
            kernel.stored = [i for i in kernel.columns if i in outputs or read.get(i, set()) - {k}]
            self.buffers.update({i: self.nodes[i].type for i in kernel.stored})
        return Plan(self.graph, tuple(self.kernels), self.views, self.constants, outputs, self.buffers)

    def _readers(self) -> dict[int, set[int]]:
        """For each node in a buffer or in registers the kernels that read it."""
        found: dict[int, set[int]] = {}
        for k, kernel in enumerate(self.kernels):
            operands = [j for i in kernel.nodes for j in self.nodes[i].operands] + [c.node for c in kernel.copies]
            for j in operands:
                found.setdefault(self._source(j), set()).add(k)
        return found

    def _source(self, j: int) -> int:
        return self.views[j].source if j in self.views else j

    def _producer(self, j: int) -> int:
        return self.made_by.get(self._source(j), -1)

    # ---- one node ---------------------------------------------------------------------------------------------------

    def _place(self, i: int, node: Node) -> None:
        if isinstance(node.op, Input):
            self.buffers[i] = node.type
            self.views[i] = View(i)
        elif isinstance(node.op, Constant) or all(j in self.constants for j in node.operands):
            values = [self.constants[j][None] for j in node.operands]
            found = node.op.evaluate(node.type, self.graph.operand_types(node), *values)
            self.constants[i] = np.broadcast_to(found, (1, *node.type.shape))[0]
        elif isinstance(node.op, Layout):
            self._view(i, node)
        elif isinstance(node.op, Concat):
            self._concat(i, node, node.op)
        elif isinstance(node.op, Linear):
            self._linear(i, node, node.op)
        elif isinstance(node.op, Forest):
            self.kernels.append(Kernel(math.prod(node.type.shape[:-1])))  # its features are gathered from memory
            self._add(self.kernels[-1], i, node.type.shape[-1])
        elif isinstance(node.op, ReduceSum | ReduceMax):
            self._reduce(i, node, node.op.axis)
        else:
            self._elementwise(i, node)

    def _view(self, i: int, node: Node) -> None:
        (j,) = node.operands
        before = self.views.get(j, View(j))
        if isinstance(node.op, Reshape):
            self.views[i] = before
            return
        shape = self.nodes[j].type.shape
        assert isinstance(node.op, Layout)
        at = node.op.source(shape).reshape(-1)
        if before.index is not None:
            at = np.where(at < 0, -1, before.index[np.maximum(at, 0)])
        self.views[i] = View(before.source, at)

    def _concat(self, i: int, node: Node, op: Concat) -> None:
        """A buffer that each operand is copied into."""
        parts = [np.full(self.nodes[j].type.shape, k) for k, j in enumerate(node.operands)]
        owner = np.concatenate(parts, axis=op.axis).reshape(-1)
        for k, j in enumerate(node.operands):
            self._copy(Copy(j, i, np.flatnonzero(owner == k)))
        self.made_by[i] = len(self.kernels) - 1
        self.buffers[i] = node.type
        self.views[i] = View(i)

    def _copy(self, copy: Copy) -> None:
        shape = self.nodes[copy.node].type.shape
        n = shape[-1] if shape and shape[-1] <= _WIDEST else 1
        kernel = Kernel(math.prod(shape) // n)
        kernel.copies.append(copy)
        self.kernels.append(kernel)

    def _output(self, k: int, i: int) -> int:
        """The buffer of an output: that of a computed node, or a copy of what is an input, a constant or a view."""
        if i in self.made_by and i not in self.views:
            return i
        target = len(self.nodes) + k
        self._copy(Copy(i, target))
        self.buffers[target] = self.nodes[i].type
        return target

    def _rows_join(self, j: int, n: int, rows: int) -> Kernel | None:
        """The kernel that holds node j as `rows` rows of n columns and may take more nodes."""
        k = self._producer(j)
        if k < 0 or j not in self.kernels[k].columns:
            if j not in self.views or self.views[j].index is not None:
                return None
            j = self.views[j].source  # a reshape
        kernel = self.kernels[k] if k >= 0 else None
        if kernel is None or kernel.columns.get(j) != n or kernel.rows != rows or len(kernel.nodes) >= _MOST_NODES:
            return None
        return kernel

    def _linear(self, i: int, node: Node, op: Linear) -> None:
        (j,) = node.operands
        n_in, n_out = op.weights.shape
        rows = math.prod(node.type.shape[:-1])
        small = max(tile_width(n_in), tile_width(n_out)) <= _WIDEST
        kernel = self._rows_join(j, n_in, rows)
        if kernel is None or kernel.split or not small:
            kernel = Kernel(rows, split=not small)
            self.kernels.append(kernel)
        self._add(kernel, i, n_out)

    def _reduce(self, i: int, node: Node, axis: int) -> None:
        (j,) = node.operands
        t = self.nodes[j].type
        length = t.shape[axis]
        if length > _LONGEST_REDUCTION:
            raise CompileError(
                f"{node.name} ({node.op.name})",
                f"the gpu backend reduces at most {_LONGEST_REDUCTION} elements, not {length}",
                "reduce in two steps",
            )
        rows = t.size // length
        last = all(n == 1 for n in t.shape[axis + 1 :])
        kernel = self._rows_join(j, length, rows) if last else None
        if kernel is None or kernel.split:
            kernel = Kernel(rows)
            self.kernels.append(kernel)
        self._add(kernel, i, 1)

    def _elementwise(self, i: int, node: Node) -> None:
        shape = node.type.shape
        data = [j for j in node.operands if j not in self.constants]
        latest = max(self._producer(j) for j in data)
        if latest >= 0 and len(self.kernels[latest].nodes) < _MOST_NODES:
            kernel = self.kernels[latest]
            n = self._joined_columns(kernel, latest, data, node)
            if n:
                self._add(kernel, i, n)
                return
        n = shape[-1] if shape and shape[-1] <= _WIDEST else 1
        kernel = Kernel(math.prod(shape) // n)
        self.kernels.append(kernel)
        self._add(kernel, i, n)

    def _joined_columns(self, kernel: Kernel, latest: int, data: list[int], node: Node) -> int:
        """Columns of the node's tile in the kernel that made its latest operand, or 0 where it cannot join."""
        if node.type.size % kernel.rows or not kernel.nodes:
            return 0
        n = node.type.size // kernel.rows
        for j in data:
            if self._producer(j) == latest and not self.in_registers(kernel, j, n, node.type.shape):
                return 0
        return n

    def in_registers(self, kernel: Kernel, j: int, n: int, shape: tuple[int, ...]) -> bool:
        """Operand j is a tile of this kernel whose columns are those of the result, or one that broadcasts over them."""
        source = self._source(j)
        if source not in kernel.columns or (j in self.views and self.views[j].index is not None):
            return False
        own = kernel.columns[source]
        if own not in (n, 1):
            return False
        at = np.arange(kernel.rows * n)
        expected = at if own == n else at // n
        return bool((broadcast_index(self.nodes[j].type.shape, shape) == expected).all())

    def _add(self, kernel: Kernel, i: int, columns: int) -> None:
        kernel.nodes.append(i)
        kernel.columns[i] = columns
        self.made_by[i] = next(k for k in range(len(self.kernels) - 1, -1, -1) if self.kernels[k] is kernel)
