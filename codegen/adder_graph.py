"""Knows what a network of shift-adds computes: its coefficients (the proof), exact intervals, depth and adder bits.

Does not know how the network was found, nor what it is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["AdderGraph", "adder_bits", "coefficients", "depth", "evaluate", "input_bounds", "intervals", "signed_width"]

_WIDEST = 62  # bits; the widest integer of the whole project, so that int64 never wraps
_BLOCK_BYTES = 64 << 20  # working memory of the coefficient propagation


@dataclass(frozen=True, eq=False)
class AdderGraph:
    """y = x @ W as two-operand shift-adds in topological order, held as columns.

    Nodes ``0 .. n_inputs-1`` are the inputs; node ``n_inputs + k`` is
    ``(v[a[k]] << shift_a[k]) + sign[k] * (v[b[k]] << shift_b[k])`` with sign +1 or -1.
    Output j is ``out_sign[j] * (v[out_node[j]] << out_shift[j])``; ``out_node[j] == -1`` means the constant 0.
    a, b, shift_a, shift_b, out_node and out_shift are int32, sign and out_sign int8.
    """

    n_inputs: int
    a: np.ndarray
    b: np.ndarray
    shift_a: np.ndarray
    shift_b: np.ndarray
    sign: np.ndarray
    out_node: np.ndarray
    out_shift: np.ndarray
    out_sign: np.ndarray

    @property
    def n_adders(self) -> int:
        return len(self.a)

    @property
    def n_outputs(self) -> int:
        return len(self.out_node)


def depth(graph: AdderGraph) -> int:
    """Largest number of adders on a path from an input to an output."""
    used = graph.out_node[graph.out_node >= 0]
    return int(_levels(graph)[used].max(initial=0))


def coefficients(graph: AdderGraph) -> np.ndarray:
    """The matrix (n_inputs, n_outputs) that the graph multiplies by: equal to the weights iff the graph is exact.

    int64 where every coefficient of every node provably fits 62 bits, otherwise Python integers (dtype object).
    """
    used = graph.out_node >= 0
    result = np.zeros((graph.n_inputs, graph.n_outputs), dtype=_coefficient_dtype(graph))
    shift = graph.out_shift[used].astype(result.dtype)
    sign = graph.out_sign[used].astype(result.dtype)
    for start, block in _coefficient_blocks(graph):
        columns = block[graph.out_node[used]].T
        result[start : start + columns.shape[0], used] = (columns << shift) * sign
    return result


def intervals(graph: AdderGraph, lo: ArrayLike, hi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The exact smallest and largest value of each node, int64 (n_inputs + n_adders,), for inputs in [lo, hi].

    Exact, not just sound: a node is a linear form of independent inputs, so its bounds are attained at corners.
    Raises OverflowError where a node, or a shifted operand or output, needs more than 62 bits.
    """
    low, high = input_bounds(graph.n_inputs, lo, hi)
    largest = max(1, -int(low.min(initial=0)), int(high.max(initial=0)))
    dtype = np.int64 if _largest_coefficient(graph) * largest < 2.0**_WIDEST else object
    node_lo = np.zeros(graph.n_inputs + graph.n_adders, dtype=dtype)
    node_hi = node_lo.copy()
    for start, block in _coefficient_blocks(graph):
        positive, negative = np.maximum(block, 0).astype(dtype), np.minimum(block, 0).astype(dtype)
        some = slice(start, start + block.shape[1])
        node_lo += positive @ low[some].astype(dtype) + negative @ high[some].astype(dtype)
        node_hi += positive @ high[some].astype(dtype) + negative @ low[some].astype(dtype)
    if dtype is object:
        _refuse_wide(graph, node_lo, node_hi)
    return node_lo.astype(np.int64), node_hi.astype(np.int64)


def signed_width(lo: int, hi: int) -> int:
    """Bits of a two's complement number (unsigned where lo >= 0) that holds lo..hi."""
    return max(max(hi, 0).bit_length(), (-1 - lo).bit_length() if lo < 0 else 0) + (lo < 0)


def _refuse_wide(graph: AdderGraph, lo: np.ndarray, hi: np.ndarray) -> None:
    used = graph.out_node >= 0
    node = np.concatenate([np.arange(len(lo)), graph.a, graph.b, graph.out_node[used]])
    shift = np.concatenate([np.zeros(len(lo), dtype=np.int32), graph.shift_a, graph.shift_b, graph.out_shift[used]])
    for n, s in zip(node.tolist(), shift.tolist(), strict=True):
        width = signed_width(int(lo[n]), int(hi[n])) + s
        if width > _WIDEST:
            raise OverflowError(f"node {n} shifted left by {s} needs {width} bits; at most {_WIDEST} are supported")


def adder_bits(graph: AdderGraph, lo: ArrayLike, hi: ArrayLike) -> int:
    """Full-adder bits of the graph for inputs in [lo, hi]: the estimate of its size in lookup tables.

    One adder costs the bits from the lowest one where both operands have a digit to the top of the wider operand, sign
    included (the carry out is free on a carry chain). Below that, the bits of the unshifted operand pass through as
    wires, unless it is the one subtracted: then the borrow runs through them and they count. Operands known to be 0
    cost nothing. The same measure as the cost of published distributed-arithmetic compilers, except that those let the
    low bits of a subtracted operand pass for free.
    """
    node_lo, node_hi = intervals(graph, lo, hi)
    lo_a, hi_a = node_lo[graph.a] << graph.shift_a, node_hi[graph.a] << graph.shift_a
    lo_b, hi_b = node_lo[graph.b] << graph.shift_b, node_hi[graph.b] << graph.shift_b
    signed = (lo_a < 0) | (lo_b < 0)
    magnitude = np.maximum(_unsigned_bits(lo_a, hi_a), _unsigned_bits(lo_b, hi_b))
    wired = np.where(graph.sign > 0, np.maximum(graph.shift_a, graph.shift_b), graph.shift_b)
    both = ((lo_a != 0) | (hi_a != 0)) & ((lo_b != 0) | (hi_b != 0))
    return int(np.where(both, np.maximum(magnitude + signed - wired, 1), 0).sum())


def evaluate(graph: AdderGraph, x: np.ndarray) -> np.ndarray:
    """The outputs, int64 (events, n_outputs), for integer inputs (events, n_inputs): the definition, executed."""
    values = np.zeros((graph.n_inputs + graph.n_adders, len(x)), dtype=np.int64)
    values[: graph.n_inputs] = np.asarray(x).T
    for k in range(graph.n_adders):
        left, right = values[graph.a[k]] << graph.shift_a[k], values[graph.b[k]] << graph.shift_b[k]
        values[graph.n_inputs + k] = left + right if graph.sign[k] > 0 else left - right
    used = graph.out_node >= 0
    outputs = np.zeros((len(x), graph.n_outputs), dtype=np.int64)
    outputs[:, used] = (values[graph.out_node[used]].T << graph.out_shift[used]) * graph.out_sign[used]
    return outputs


def _levels(graph: AdderGraph) -> np.ndarray:
    levels = [0] * graph.n_inputs
    for a, b in zip(graph.a.tolist(), graph.b.tolist(), strict=True):
        levels.append(1 + max(levels[a], levels[b]))
    return np.array(levels, dtype=np.int64)


def _largest_coefficient(graph: AdderGraph) -> float:
    """An upper bound of the sum of absolute coefficients of any node or output, without computing them."""
    bound = [1.0] * graph.n_inputs
    columns = (graph.a, graph.b, graph.shift_a, graph.shift_b)
    for a, b, shift_a, shift_b in zip(*(column.tolist() for column in columns), strict=True):
        bound.append(bound[a] * 2.0**shift_a + bound[b] * 2.0**shift_b)
    outputs = zip(graph.out_node.tolist(), graph.out_shift.tolist(), strict=True)
    return max([1.0, *bound, *(bound[node] * 2.0**shift for node, shift in outputs if node >= 0)])


def _coefficient_dtype(graph: AdderGraph) -> type:
    return np.int64 if _largest_coefficient(graph) < 2.0**_WIDEST else object


def _coefficient_blocks(graph: AdderGraph) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first input, coefficients (nodes, some inputs)) by blocks of inputs: all at once may need gigabytes."""
    nodes = graph.n_inputs + graph.n_adders
    dtype = _coefficient_dtype(graph)
    levels = _levels(graph)[graph.n_inputs :]
    order = np.argsort(levels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(levels[order])) + 1) if len(order) else []
    width = max(1, min(graph.n_inputs, _BLOCK_BYTES // (8 * max(1, nodes))))
    for start in range(0, graph.n_inputs, width):
        stop = min(start + width, graph.n_inputs)
        block = np.zeros((nodes, stop - start), dtype=dtype)
        block[np.arange(start, stop), np.arange(stop - start)] = 1
        for group in groups:
            left = block[graph.a[group]] << graph.shift_a[group, None].astype(dtype)
            right = block[graph.b[group]] << graph.shift_b[group, None].astype(dtype)
            block[graph.n_inputs + group] = left + right * graph.sign[group, None].astype(dtype)
        yield start, block


def input_bounds(n_inputs: int, lo: ArrayLike, hi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked int64 copies of the intervals of the inputs.

    Raises TypeError for what is not integers, ValueError for a wrong shape or an empty interval.
    """
    low, high = np.asarray(lo), np.asarray(hi)
    if n_inputs and not (low.dtype.kind in "iu" and high.dtype.kind in "iu"):
        raise TypeError(f"lo and hi must be integers, not {low.dtype} and {high.dtype}")
    if low.shape != (n_inputs,) or high.shape != (n_inputs,):
        raise ValueError(f"lo and hi must have shape ({n_inputs},), not {low.shape} and {high.shape}")
    if (low > high).any():
        raise ValueError(f"lo must not exceed hi, as it does for input {int(np.argmax(low > high))}")
    return low.astype(np.int64), high.astype(np.int64)


def _unsigned_bits(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Bits of the integers lo..hi without the sign bit: the least w with -2**w <= lo and hi < 2**w; exact."""
    largest = np.maximum(hi, -1 - lo).astype(np.uint64)
    bits = np.zeros(largest.shape, dtype=np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = largest >> np.uint64(step)
        bits += np.where(high > 0, step, 0)
        largest = np.where(high > 0, high, largest)
    return bits + (largest > 0)
