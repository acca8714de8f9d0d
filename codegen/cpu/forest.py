"""Decision trees for the CPU engine: which form each tree takes, its tables, and the C++ that sums them.

A tree of a few levels is completed to a full one and evaluated by comparing and blending all of it, one event in each lane:
measured on 16 lanes, this beats a walk from node to node up to about seven levels. Deeper trees blend their top levels and
walk the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.ops import Forest
from ...ir.types import Int64, Tensor
from ..elementwise import fits_int32
from .expressions import Tables

__all__ = ["forest_lane", "forest_statement"]

_BLENDED = 7
"""Levels of the deepest tree that is blended as a whole."""

_TOP = 5
"""Levels that are blended of a deeper one."""

_CHUNK = 4
"""Levels of the subtrees that lie together; as in `forest.hpp`."""


def forest_lane(op: Forest, x: Tensor) -> str:
    """The lane type in which features are compared and values summed: no partial sum may leave it."""
    largest = sum(int(np.abs(op.values[k]).max(initial=0)) for k in op.leaves_of_trees)
    lo, hi, _ = x.flat()
    nodes = len(op.features) + len(op.values)
    return "vec" if fits_int32(np.array([largest, -largest, 2 * nodes + 2]), lo, hi) else "wide"


def forest_statement(tables: Tables, name: str, op: Forest, x: Tensor, source: str, target: str) -> str:
    """C++ that adds up the trees for every leading position; `source`, `target`: its first feature and output."""
    features, outputs, kind = x.shape[-1], op.values.shape[1], forest_lane(op, x)
    limits = op.counted(x)
    same = (limits == limits[:1]).all()
    parts: list[str] = []
    for p in range(1 if same else len(limits)):
        at = "p" if same else str(p)
        loop = f"for (int p = 0; p < {len(limits)}; p++) " if same else ""
        lines = [f"const {kind}* const x = {source} + {at} * {features};", f"{kind} total[{outputs}] = {{}};"]
        lines += _Trees(tables, name, op, limits[p], kind).lines()
        lines.append(f"for (int o = 0; o < {outputs}; o++) assign({target}[{at} * {outputs} + o], total[o]);")
        parts.append(f"{loop}{{\n    " + "\n    ".join(lines) + "\n}")
    return "\n".join(parts)


@dataclass(frozen=True)
class _Trees:
    """The trees with their thresholds as the features of one position count."""

    tables: Tables
    name: str
    op: Forest
    thresholds: Int64
    lane: str

    @property
    def scalar(self) -> str:
        return "int32_t" if self.lane == "vec" else "int64_t"

    def lines(self) -> list[str]:
        groups: dict[tuple[int, int], list[int]] = {}  # (levels, the only output or -1) -> trees
        for k, (leaves, depth) in enumerate(zip(self.op.leaves_of_trees, self.op.depths.tolist())):
            columns = np.flatnonzero(self.op.values[leaves].any(axis=0))
            alone = depth <= _BLENDED and len(columns) <= 1
            if len(columns):
                groups.setdefault((depth, int(columns[0]) if alone else -1), []).append(k)
        found: list[str] = []
        for (depth, column), trees in sorted(groups.items()):
            found += self._blended(depth, column, trees) if column >= 0 else self._numbered(depth, trees)
        return found

    def _blended(self, levels: int, column: int, trees: list[int]) -> list[str]:
        """Trees that blend their values and add to one output."""
        call = self._tree(levels, trees, lambda at: self.op.values[~at, column])
        return [f"for (int k = 0; k < {len(trees)}; k++) total[{column}] += {call};"]

    def _numbered(self, depth: int, trees: list[int]) -> list[str]:
        """Trees that blend the number of a node or leaf, walk on if they are deep, and look the leaf's values up."""
        nodes, outputs = len(self.op.features), self.op.values.shape[1]
        levels = depth if depth <= _BLENDED else _TOP
        call = self._tree(levels, trees, lambda at: np.where(at >= 0, at, nodes + ~at))
        if depth > levels:
            call = f"descend(x, {', '.join(self._walked())}, {call}, {depth - levels})"
        values = self._add("values", self.op.values.T)
        return [
            f"for (int k = 0; k < {len(trees)}; k++) {{",
            f"    const {self.lane} at = {call} - {nodes};",
            f"    for (int o = 0; o < {outputs}; o++) total[o] += lookup(at, {values} + o * {len(self.op.values)});",
            "}",
        ]

    def _add(self, what: str, values: Int64, kind: str = "") -> str:
        return self.tables.add(f"{self.name}_{what}", np.ascontiguousarray(values).reshape(-1), kind or self.scalar)

    def _tree(self, levels: int, trees: list[int], number: Callable[[Int64], Int64]) -> str:
        """A call that gives ``number(node or ~leaf)`` of what tree k reaches after so many levels."""
        nodes, ends = _completed(self.op, self.op.roots[trees], levels)
        nodes = nodes[:, _order(levels)]
        feature, threshold = (np.append(a, 0)[np.maximum(nodes, -1)] for a in (self.op.features, self.thresholds))
        f, t = self._add("feature", feature, "int32_t"), self._add("threshold", threshold)
        size = (1 << levels) - 1
        leaf = f"{self._add('leaf', number(ends))} + k * {size + 1}"
        return f"tree<{levels}>(x, {f} + k * {size}, {t} + k * {size}, {leaf})"

    def _walked(self) -> list[str]:
        """Feature, threshold and children of nodes and, behind them, of leaves, which stay where they are."""
        nodes, leaves = len(self.op.features), len(self.op.values)
        children = np.stack([self.op.left, self.op.right], axis=1)
        children = np.where(children >= 0, children, nodes + ~children)
        stay = np.repeat(np.arange(nodes, nodes + leaves), 2)
        none = np.zeros(leaves, np.int64)
        return [
            self._add("features", np.append(self.op.features, none)),
            self._add("thresholds", np.append(self.thresholds, none)),
            self._add("children", np.append(children, stay)),
        ]


def _completed(op: Forest, roots: Int64, levels: int) -> tuple[Int64, Int64]:
    """(nodes ``[trees, 2**levels - 1]`` in heap order, what is below them ``[trees, 2**levels]``); leaves stay leaves."""
    at, found = roots[:, None], [np.zeros((len(roots), 0), np.int64)]
    for _ in range(levels):
        found.append(at)
        node = np.maximum(at, 0)
        below = [np.where(at < 0, at, side[node] if len(side) else at) for side in (op.left, op.right)]
        at = np.stack(below, axis=-1).reshape(len(roots), -1)
    return np.concatenate(found, axis=1), at


def _order(levels: int) -> Int64:
    """The heap numbers of a full tree's nodes in the order of `forest.hpp`."""
    if levels <= _CHUNK:
        return np.arange((1 << levels) - 1)
    local = np.arange((1 << _CHUNK) - 1)
    level = np.log2(local + 1).astype(np.int64)
    first = np.arange((1 << (levels - _CHUNK)) - 1, (1 << (levels - _CHUNK + 1)) - 1)[:, None]
    subtrees = ((first + 1) << level) + local - (1 << level)
    above = [np.arange((1 << d) - 1, (1 << (d + 1)) - 1) for d in range(levels - _CHUNK - 1, -1, -1)]
    return np.concatenate([subtrees.reshape(-1), *above])
