"""What a layer costs under a schedule, without writing it: LUT, FF, DSP, BRAM and pipeline depth; all are estimates.

Widths are those of the widest element, and no logic is shared or minimised, so small numbers are better known than
large ones. How far off they are is in docs/costs.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..hw_targets import costs
from ..hw_targets.costs import Cost
from ..hw_targets.devices import Device
from ..ir.graph import Graph, Node
from ..ir.ops import (
    Add,
    Compare,
    Forest,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Quantize,
    ReduceMax,
    ReduceSum,
    Select,
    Sub,
)  # fmt: skip
from ..ir.rounding import Overflow, Rounding
from ..ir.types import Tensor
from .adder_graph import adder_bits, depth
from .schedule import Folding, LayerSchedule
from .solver import solve

__all__ = [
    "LARGEST_UNROLLED",
    "SOLVABLE",
    "MatrixCost",
    "constant_digits",
    "matrix_cost",
    "nodes_cost",
    "pipeline_cycles",
    "unrolled_size",
    "width_of",
]

SOLVABLE = 5_000
"""Most nonzero weights of a matrix whose shift-add network is solved to know its cost."""

LARGEST_UNROLLED = 1_500_000
"""Most shifted inputs that are unrolled (`unrolled_size`): beyond, it takes many minutes, and no device has the room."""

_DSP_BITS = 6
"""A product whose narrower operand has this many bits and more is a DSP block, where the device has any."""


@dataclass(frozen=True)
class MatrixCost:
    """A matrix under a strategy: its resources (flip-flops of accumulators included) and what one step takes in ns."""

    lut: float
    ff: float
    dsp: float
    bram: float
    delay_ns: float


def width_of(t: Tensor) -> int:
    """Bits of the widest element."""
    return int(np.max(np.asarray(t.fixed.width), initial=0))


def constant_digits(weights: np.ndarray) -> np.ndarray:
    """Signed digits of each weight in canonical form: as many shifted inputs are added.

    The nonzero digits of n are the bits in which 3 n and n differ (Reitwiesner 1960).
    """
    n = np.abs(weights).astype("<i8", order="C")  # the bytes are looked at in place
    return np.unpackbits(((3 * n) ^ n).view(np.uint8).reshape(*n.shape, 8), axis=-1).sum(axis=-1, dtype=np.int64)


def unrolled_size(graph: Graph, without: Collection[int] = ()) -> int:
    """Shifted inputs that the matrices add when every product at every position is hardware: the work of unrolling.

    Signed digits of the weights, without sharing; half of it and less is left of the sums. A node of a tree counts as one.
    `without`: nodes left out.
    """
    total = 0
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, Linear) and i not in without:
            total += int(constant_digits(node.op.weights).sum()) * (node.type.size // node.type.shape[-1])
        elif isinstance(node.op, Forest):
            total += len(node.op.features) * (node.type.size // node.type.shape[-1])
    return total


def pipeline_cycles(delay_ns: float, device: Device, clock_ns: float) -> int:
    """Stages that a path of this delay is cut into."""
    return max(math.ceil(delay_ns / costs.usable_period_ns(device, clock_ns, "hls") - 1e-9), 1)


# ---- everything but matrices ------------------------------------------------------------------------------------------


def nodes_cost(graph: Graph, nodes: Sequence[int], device: Device, copies: float = 1.0) -> MatrixCost:
    """The elementwise ops and reductions among `nodes`, `copies` of all their elements being hardware (1: all)."""
    total = MatrixCost(0, 0, 0, 0, 0)
    for i in nodes:
        node = graph.nodes[i]
        one = _element(graph, node, device)
        n = node.type.size * copies
        total = MatrixCost(
            total.lut + float(one.lut) * n,
            total.ff + width_of(node.type) * n,
            total.dsp + float(one.dsp) * n,
            total.bram + float(one.bram) * n,
            total.delay_ns + float(one.delay_ns),
        )
    return total


def _element(graph: Graph, node: Node, device: Device) -> Cost:
    """One element of one op."""
    op, bits = node.op, width_of(node.type)
    operands = [graph.nodes[j].type for j in node.operands]
    if isinstance(op, Add | Sub | Neg):
        return costs.adder(device, bits)
    if isinstance(op, Maximum | Minimum):
        zero = any(not np.any(t.fixed.lo) and not np.any(t.fixed.hi) for t in operands)
        return costs.relu(device, bits) if zero else costs.maximum(device, bits)
    if isinstance(op, Compare):
        return costs.compare(device, max(map(width_of, operands)))
    if isinstance(op, Select):
        return costs.mux(device, bits)
    if isinstance(op, Mul):
        return _product(device, *map(width_of, operands))
    if isinstance(op, Lookup):
        entries = op.table.shape[-1]
        return costs.table(device, min(max(entries - 1, 1).bit_length(), 20), bits)
    if isinstance(op, Quantize):
        return _quantizer(device, op, operands[0], bits)
    if isinstance(op, Forest):
        return _trees(device, op, operands[0], bits)
    if isinstance(op, ReduceSum):
        return costs.adder_tree(device, operands[0].shape[op.axis], bits)
    if isinstance(op, ReduceMax):
        n, one = operands[0].shape[op.axis], costs.maximum(device, bits)
        return replace(
            one, lut=one.lut * (n - 1), delay_ns=one.delay_ns * math.ceil(math.log2(n)) if n > 1 else one.lut * 0
        )
    return costs.adder(device, 0)  # layout: wires


def _quantizer(device: Device, op: Quantize, x: Tensor, bits: int) -> Cost:
    acts = op.acts(x)
    found = costs.adder(device, 0)
    if acts.rounds and op.rounding is not Rounding.TRN:
        dropped = int(np.max(np.asarray(op.to.exp) - np.asarray(x.fixed.exp), initial=0))
        found = found.then(costs.round_off(device, bits, max(dropped, 0), op.rounding is not Rounding.RND))
    if (acts.clips_low or acts.clips_high) and op.overflow is not Overflow.WRAP:
        found = found.then(costs.saturate(device, max(width_of(x), bits + 1), bits))
    return found


def _trees(device: Device, op: Forest, x: Tensor, bits: int) -> Cost:
    """One output of a forest: its share of the comparisons and of the choices between them, a table per tree, and the sum."""
    outputs, trees = op.values.shape[1], len(op.roots)
    tests = len(np.unique(np.stack([op.features, op.thresholds]), axis=1).T) / outputs
    leaf = max(int(np.abs(op.values).max(initial=0)).bit_length(), 1)
    compared, chosen = costs.limit(device, max(width_of(x), 1)), costs.mux(device, 1)
    table = costs.table(device, min(max(int(op.depths.max()), 1), 6), leaf)
    total = costs.adder_tree(device, trees, bits)
    lut = tests * compared.lut + len(op.features) / outputs * chosen.lut + trees * table.lut + total.lut
    levels = max(int(op.depths.max()) - 1, 0) * chosen.delay_ns
    return replace(total, lut=lut, delay_ns=compared.delay_ns + levels + table.delay_ns + total.delay_ns)


def _product(device: Device, a: int, b: int) -> Cost:
    use = "dsp" if device.resources.dsp and min(a, b) >= _DSP_BITS else "lut"
    return costs.multiplier(device, a, b, use)


# ---- matrices -----------------------------------------------------------------------------------------------------------


def matrix_cost(graph: Graph, i: int, device: Device, own: LayerSchedule, f: Folding, rows: int) -> MatrixCost:
    """The matrix of node i, `rows` rows of it being hardware at once, under a layer's schedule."""
    node = graph.nodes[i]
    assert isinstance(node.op, Linear)
    bits, x_bits = width_of(node.type), width_of(graph.nodes[node.operands[0]].type)
    if own.strategy == "distributed":
        one = _network(graph, i, device, bits)
    elif f.reuse == 1:
        one = _constants(device, node.op.weights, x_bits, bits)
    else:
        one = _folded(device, node.op.weights, f, x_bits, bits)
    return MatrixCost(one.lut * rows, one.ff * rows, one.dsp * rows, one.bram, one.delay_ns)


def _constants(device: Device, weights: np.ndarray, x_bits: int, bits: int) -> MatrixCost:
    """Each product a constant multiplication in LUTs: its digits' adders, and the tree that sums each column."""
    digits = constant_digits(weights)
    adders = float(np.maximum(digits - 1, 0).sum())
    terms = (weights != 0).sum(axis=0)
    inner = costs.adder(device, x_bits + 2)
    tree = costs.adder_tree(device, terms, bits)
    levels = math.ceil(math.log2(max(int(digits.max(initial=1)), 1)))
    delay = float(inner.delay_ns) * levels + float(tree.delay_ns.max(initial=0))
    return MatrixCost(adders * float(inner.lut) + float(tree.lut.sum()), bits * weights.shape[1], 0, 0, delay)


def _network(graph: Graph, i: int, device: Device, bits: int) -> MatrixCost:
    """The shift-add network itself where it is small enough to be solved, else digits without sharing."""
    node = graph.nodes[i]
    assert isinstance(node.op, Linear)
    weights = node.op.weights
    if np.count_nonzero(weights) > SOLVABLE:
        return _constants(device, weights, width_of(graph.nodes[node.operands[0]].type), bits)
    lo, hi, _, _ = node.op.operand_rows(graph.nodes[node.operands[0]].type)
    low, high = lo.min(axis=0), hi.max(axis=0)
    solved = solve(weights, low, high)
    lut = device.area.adder_per_bit * adder_bits(solved, low, high)
    return MatrixCost(lut, bits * weights.shape[1], 0, 0, depth(solved) * float(costs.adder(device, bits).delay_ns))


def _folded(device: Device, weights: np.ndarray, f: Folding, x_bits: int, bits: int) -> MatrixCost:
    """Multipliers of two variables, a memory of weights, the choice of inputs, and accumulators."""
    w_bits = max(int(np.max(np.abs(weights), initial=0)).bit_length() + bool((weights < 0).any()), 1)
    product = _product(device, x_bits, w_bits)
    tree = costs.adder_tree(device, f.inputs + 1, bits)  # and the accumulator
    stored = costs.memory(device, f.reuse, f.multipliers * w_bits)
    chosen = costs.select(device, f.steps, x_bits)
    delay = float(product.delay_ns + tree.delay_ns + chosen.delay_ns)
    return MatrixCost(
        f.multipliers * float(product.lut)
        + f.lanes * float(tree.lut)
        + float(stored.lut)
        + f.inputs * float(chosen.lut),
        bits * f.n_out,
        f.multipliers * float(product.dsp),
        float(stored.bram),
        delay,
    )
