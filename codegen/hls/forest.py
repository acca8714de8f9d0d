"""Decision trees as C++: all comparisons at once, which leaf is reached by ands, its value by ors, and the sum of the trees.

Everything is a table and a loop over it, whatever the shape of the trees; unrolled, the tables are constants and the loops are
wires. A comparison that several nodes make is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.ops import Forest
from ...ir.ops.forest import levels
from ...ir.types import Int64
from .grids import Grid
from .loops import loop, partition
from .plan import Plan
from .tables import Tables, literal

__all__ = ["forest_lines"]


@dataclass(frozen=True)
class _Ways:
    """The trees by the places where one can be: place n is node n, the leaves of each tree follow, the last is nowhere.

    `tests`: ``[comparisons, 2]`` features and thresholds; `test`: that of each node; `left`, `right`: the places below it;
    `ends`, `leaves`: ``[trees, most leaves]`` places and what leaf each is (-1 at the place `places`, which is nowhere).
    """

    tests: Int64
    test: Int64
    left: Int64
    right: Int64
    roots: Int64
    ends: Int64
    leaves: Int64
    places: int


def forest_lines(
    plan: Plan, i: int, tables: Tables, feature: Callable[[str], str], result: Callable[[int], str]
) -> list[str]:
    """The sums of one row of features; `feature` is the text of the feature of an index, `result` where a sum goes."""
    node = plan.graph.nodes[i]
    op, name, grid = node.op, plan.names[i], plan.grids[node.operands[0]]
    assert isinstance(op, Forest)
    ways = _ways(op, grid)

    def table(what: str, values: Int64, comment: str) -> str:
        return tables.add(f"{name}_{what}", values, f"{node.name}: {comment}")

    lines = [f"{plan.types[i]} totals[{op.values.shape[1]}];", partition("totals")]
    if len(ways.test):
        lines += _reached(ways, grid, name, table, feature)
    constant = op.values[~op.roots[op.roots < 0]].sum(axis=0)
    for o in range(op.values.shape[1]):
        lines.append(f"totals[{o}] = from_raw<{plan.types[i]}>({literal(int(constant[o]))});")
        lines += _sum(ways, op, o, name, table)
        lines.append(f"{result(o)} = totals[{o}];")
    return lines


_Table = Callable[[str, Int64, str], str]


def _ways(op: Forest, grid: Grid) -> _Ways:
    """Thresholds are counted as the array of features is, and no further out than one below it, which is never reached."""
    nodes = len(op.features)
    by = (
        grid.exp
        - np.broadcast_to(np.asarray(op.grid), max(op.features.max(initial=0) + 1, np.size(op.grid)))[op.features]
    )
    thresholds = (op.thresholds >> np.clip(by, 0, 63)) << np.maximum(-by, 0)
    pairs = np.stack([op.features, np.clip(thresholds, grid.lo - 1, grid.hi)], axis=1)
    tests, test = np.unique(pairs, axis=0, return_inverse=True)
    sides = np.stack([op.left, op.right], axis=1).reshape(-1)
    ending = sides < 0
    places = np.where(ending, nodes + np.cumsum(ending) - 1, sides).reshape(-1, 2)
    tree = np.zeros(nodes, np.int64)
    for own, at in levels(op):
        tree[at[at >= 0]] = own[at >= 0]
    owner = np.repeat(tree, 2)[ending]
    kept = [np.flatnonzero(owner == k) for k in np.flatnonzero(op.roots >= 0)]
    most = max((len(k) for k in kept), default=0)
    ends = np.array([np.pad(nodes + k, (0, most - len(k)), constant_values=nodes + len(owner)) for k in kept], np.int64)
    leaves = np.array([np.pad((~sides[ending])[k], (0, most - len(k)), constant_values=-1) for k in kept], np.int64)
    roots = op.roots[op.roots >= 0]
    return _Ways(tests, test.reshape(-1), places[:, 0], places[:, 1], roots, ends, leaves, nodes + len(owner))


def _reached(w: _Ways, grid: Grid, name: str, table: _Table, feature: Callable[[str], str]) -> list[str]:
    """`reached`: whether each place is on the way of its tree."""
    kind = Grid(min(grid.lo - 1, -1), max(grid.hi, 0), grid.exp).cpp()
    at = table("feature", w.tests[:, 0], "the feature of each comparison")
    threshold = table("threshold", w.tests[:, 1], f"what it is compared with, counted in 2^{grid.exp}")
    test = table("test", w.test, "the comparison of each node")
    left = table("left", w.left, "the node or leaf where it holds")
    right = table("right", w.right, "the node or leaf where it does not")
    root = table("root", w.roots, "the first node of each tree")
    compared = f"below[k] = {feature(f'{at}[k]')} <= from_raw<{kind} >({threshold}[k]);"
    ways = [
        f"const bool holds = below[{test}[k]];",
        f"reached[{left}[k]] = reached[k] && holds;",
        f"reached[{right}[k]] = reached[k] && !holds;",
    ]
    return [
        f"bool below[{len(w.tests)}], reached[{w.places + 1}];",
        partition("below"),
        partition("reached"),
        *loop("k", len(w.tests), [compared], f"{name}_comparisons", once=True),
        *loop("k", len(w.roots), [f"reached[{root}[k]] = true;"], f"{name}_roots", once=True),
        *loop("k", len(w.test), ways, f"{name}_ways", once=True),
        f"reached[{w.places}] = false;",
    ]


def _sum(w: _Ways, op: Forest, o: int, name: str, table: _Table) -> list[str]:
    """The trees whose leaves differ in this output, added to `totals`; of each the one value that is reached."""
    values = np.append(op.values[:, o], 0)[w.leaves]
    used = values.any(axis=1) if values.size else np.zeros(0, bool)
    if not used.any():
        return []
    values, ends = values[used], np.where(values[used] == 0, w.places, w.ends[used])
    held = Grid(min(int(values.min()), 0), max(int(values.max()), 0), op.exp)
    place = table(f"end_{o}", ends, f"the leaves of each tree that give output {o} a value, then a place that is none")
    leaf = table(f"leaf_{o}", values, f"their values, counted in 2^{op.exp}")
    bits = f"ap_{'' if held.signed else 'u'}int<{held.width}>"
    chosen = [f"if (reached[{place}[tree][k]]) raw |= {bits}({leaf}[tree][k]);"]
    inner = [
        f"{bits} raw = 0;",
        *loop("k", values.shape[1], chosen, f"{name}_leaves_{o}", once=True),
        f"totals[{o}] += from_raw<{held.cpp()} >(raw.to_int64());",
    ]
    return loop("tree", len(values), inner, f"{name}_trees_{o}", once=True)
