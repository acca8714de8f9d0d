"""Decision trees as lines of a Triton kernel: every row walks down every tree, level by level, by loads that no branch guards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.ops import Forest
from ...ir.types import Int64, Tensor
from ..elementwise import fits_int32

__all__ = ["Walk", "walk"]


@dataclass(frozen=True)
class Walk:
    """Nodes and, behind them, leaves, which are nodes whose children are themselves; the tables of a walk.

    `features`: ``[places]``; `thresholds`: ``[leading positions or 1, places]``; `children`: ``[2 * places]``; `values`:
    ``[leaves, outputs]``; `groups`: (first tree, behind the last, levels) of `roots`, which are in the order of levels. `wide`:
    sums may need 64 bits on the way.
    """

    features: Int64
    thresholds: Int64
    children: Int64
    values: Int64
    roots: Int64
    groups: tuple[tuple[int, int, int], ...]
    wide: bool

    @property
    def nodes(self) -> int:
        return len(self.features) - len(self.values)


def walk(op: Forest, x: Tensor) -> Walk:
    """The tables for an operand of type x."""
    nodes, leaves = len(op.features), len(op.values)
    none = np.zeros(leaves, np.int64)
    limits = op.counted(x)
    limits = limits[:1] if (limits == limits[:1]).all() else limits
    sides = np.stack([op.left, op.right], axis=1).reshape(-1)
    stay = np.repeat(np.arange(nodes, nodes + leaves), 2)
    order = np.argsort(op.depths, kind="stable")
    roots, depths = op.roots[order], op.depths[order]
    starts = np.flatnonzero(np.diff(depths, prepend=-1)).tolist()
    groups = tuple((a, b, int(depths[a])) for a, b in zip(starts, [*starts[1:], len(depths)]))
    largest = np.array([sum(int(np.abs(op.values[k]).max(initial=0)) for k in op.leaves_of_trees)])
    return Walk(
        np.append(op.features, none),
        np.concatenate([limits, np.zeros((len(limits), leaves), np.int64)], axis=1),
        np.append(np.where(sides < 0, nodes + ~sides, sides), stay),
        op.values,
        np.where(roots < 0, nodes + ~roots, roots),
        groups,
        not fits_int32(largest, -largest),
    )
