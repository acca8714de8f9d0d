"""Decision trees as wires: comparisons shared by all trees, the number of the leaf from them, and a table of its values.

A tree of a few levels is a table of as many inputs as a LUT has: its address is the outcome at the root, then the
outcome at the child that was taken, and so on, each a choice between single bits. Deeper trees choose between the values of
their subtrees. Knows the wires of a program, and nothing of Verilog.
"""

from __future__ import annotations

import numpy as np

from ..ir.graph import Node
from ..ir.ops import Forest, Lookup
from ..ir.scalar import Code
from ..ir.types import Fixed, Int64
from .wires import Unroller, Wire, Wires

__all__ = ["forest"]

_ADDRESS = 6
"""Bits of a table's address: each output bit is then one LUT of the larger FPGA families."""


def forest(u: Unroller, node: Node, x: Wires) -> Wires:
    """The sums of all trees, for each leading position of the operand."""
    assert isinstance(node.op, Forest)
    rows = x.map(lambda f: f.reshape(-1, x.rows.shape[-1]))
    found = [w for k in range(len(rows.rows)) for w in _Trees(u, node.op, rows.map(lambda f, k=k: f[k]).flat()).sums()]
    return Wires.of(found, node.type.shape)


class _Trees:
    """The trees over the wires of one set of features."""

    def __init__(self, u: Unroller, op: Forest, features: list[Wire]) -> None:
        self.u, self.op, self.features = u, op, features
        self.grid = np.broadcast_to(np.asarray(op.grid), (len(features),)).tolist()
        self.left, self.right = op.left.tolist(), op.right.tolist()
        self.feature, self.threshold = op.features.tolist(), op.thresholds.tolist()
        self.height = _heights(op)
        self.conditions: dict[int, Wire] = {}

    def sums(self) -> list[Wire]:
        """One wire for each output."""
        trees = [self.values(root) for root in self.op.roots.tolist()]
        return [self.u.tree([t[k] for t in trees], self.u.total) for k in range(self.op.values.shape[1])]

    def values(self, root: int) -> list[Wire]:
        """The values of the leaf that the tree below a node reaches; deep trees are walked without recursion."""
        done: dict[int, list[Wire]] = {}
        waiting = [root]
        while waiting:
            at = waiting[-1]
            if at < 0 or self.height[at] <= _ADDRESS:
                done[at] = self._constants(~at) if at < 0 else self._table(at)
                waiting.pop()
                continue
            missing = [k for k in (self.left[at], self.right[at]) if k not in done]
            if missing:
                waiting += missing
                continue
            pairs = zip(done.pop(self.left[at]), done.pop(self.right[at]))
            done[at] = [self.u.chosen(self.condition(at), x, y) for x, y in pairs]
            waiting.pop()
        return done[root]

    def condition(self, n: int) -> Wire:
        """1 where node n goes left."""
        if n not in self.conditions:
            f = self.feature[n]
            exp = max(int(self.u.fixed(self.features[f]).exp), self.grid[f])
            threshold = self.u.constant(self.threshold[n] >> exp - self.grid[f], exp)  # as the feature counts
            self.conditions[n] = self.u.compared(self.features[f], threshold, "less_equal")
        return self.conditions[n]

    def _constants(self, leaf: int) -> list[Wire]:
        return [self.u.constant(v, self.op.exp) for v in self.op.values[leaf].tolist()]

    def _table(self, root: int) -> list[Wire]:
        """A table for each output, addressed by `_address`."""
        bits, leaves = self._address(root)
        if not bits:
            return self._constants(int(leaves[0]))
        address = self.u.tree([(row, shift + k, sign) for k, (row, shift, sign) in enumerate(bits)], self.u.total)
        return [self._looked_up(address, self.op.values[leaves, k]) for k in range(self.op.values.shape[1])]

    def _address(self, at: int) -> tuple[list[Wire], Int64]:
        """(bits from the lowest on, the leaf at each address) of a subtree; the last bit is the outcome at its root."""
        if at < 0:
            return [], np.array([~at])
        (a, low), (b, high) = self._address(self.right[at]), self._address(self.left[at])
        n, none = max(len(a), len(b)), self.u.constant(0, 0)
        condition = self.condition(at)
        always = self.u.constant_value(condition)
        if always is not None:
            return (b, high) if always else (a, low)
        a, b = ([none] * (n - len(bits)) + bits for bits in (a, b))  # a lower tree has its bits on top: the rest is 0
        low, high = (np.repeat(leaves, (1 << n) // len(leaves)) for leaves in (low, high))
        return [self.u.chosen(condition, y, x) for x, y in zip(a, b)] + [condition], np.concatenate([low, high])

    def _looked_up(self, address: Wire, table: Int64) -> Wire:
        lo, hi = int(table.min()), int(table.max())
        if lo == hi:
            return self.u.constant(lo, self.op.exp)
        key = ("lookup", table.tobytes(), 0, 0, self.op.exp)
        one = self.u.scalar_op(key, lambda: Lookup(table, 0, 0, self.op.exp))
        result = Fixed(lo, hi, self.op.exp)
        row, shift, _ = self.u.positive(address)
        return self.u.make(Code.LOOKUP, lambda a, s, _: self.u.builder.apply(one, a, s, result), row, shift, id(one))


def _heights(op: Forest) -> list[int]:
    """Comparisons on the longest way down from each node."""
    left, right = op.left.tolist(), op.right.tolist()
    found = [0] * len(left)
    for n in range(len(left) - 1, -1, -1):  # children come behind their parent
        found[n] = 1 + max(found[k] if k >= 0 else 0 for k in (left[n], right[n]))
    return found
