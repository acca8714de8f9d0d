"""Random graphs over every op that hardware computes, and random data for them; knows no engine.

Types are per element half of the time, constants and decided comparisons occur, and all rounding and overflow modes are
drawn, so that a few hundred graphs reach the corners of an engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import Builder, Graph, Output
from ..ir.ops import (
    Add,
    Compare,
    Concat,
    Constant,
    Forest,
    Gather,
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
    Transpose,
    Window,
)
from ..ir.ops.compare import RELATIONS
from ..ir.passes import PIPELINES, run
from ..ir.rounding import Overflow, Rounding
from ..ir.types import Fixed, Int64, Tensor

__all__ = [
    "choices_graph",
    "modes_graph",
    "random_forest",
    "random_graph",
    "random_inputs",
    "random_quantize",
    "random_type",
]

_ROUNDINGS, _OVERFLOWS = tuple(Rounding), tuple(Overflow)
_WIDEST = 24  # bits; wider values are quantized before they are used again


def random_type(rng: np.random.Generator, shape: tuple[int, ...], bits: int = 8) -> Fixed:
    """Uniform or per element; signed, unsigned or odd intervals of up to `bits` bits; constants among them."""
    size = shape if rng.random() < 0.5 else ()
    width = rng.integers(0, bits, size, endpoint=True)
    signed = rng.random(size) < 0.6
    lo = np.where(signed, -(1 << np.maximum(width - 1, 0)), 0)
    hi = lo + (1 << width) - 1
    odd = rng.random(size) < 0.3
    lo, hi = np.where(odd, lo + rng.integers(0, 3, size), lo), np.where(odd, hi - rng.integers(0, 3, size), hi)
    return Fixed.of(np.minimum(lo, hi), np.maximum(lo, hi), rng.integers(-5, 3, size))


def random_quantize(rng: np.random.Generator, shape: tuple[int, ...], exp: int, bits: int = 8) -> Quantize:
    """Any mode; the grid is near `exp`, the intervals are what the mode allows."""
    overflow = _OVERFLOWS[rng.integers(len(_OVERFLOWS))]
    rounding = _ROUNDINGS[rng.integers(len(_ROUNDINGS))]
    size = shape if rng.random() < 0.5 else ()
    width = rng.integers(1, bits, size, endpoint=True)
    lo = np.where(rng.random(size) < 0.6, -(1 << (width - 1)), 0)
    hi = lo + (1 << width) - 1
    if overflow is Overflow.WRAP and rng.random() < 0.2:
        lo, hi = lo + 3, hi + 3
    if overflow in (Overflow.SAT, Overflow.SAT_SYM) and rng.random() < 0.4:
        hi = np.maximum(hi - rng.integers(0, 4, size), np.maximum(lo, 0))
    return Quantize(Fixed.of(lo, hi, exp + rng.integers(-2, 6, size)), rounding, overflow)


def random_graph(rng: np.random.Generator, ops: int = 12, name: str = "random") -> Graph:
    """A graph of about `ops` random ops after the pipeline "hardware", its unread nodes as outputs."""
    builder = Builder(name)
    nodes: list[int] = []
    for k in range(int(rng.integers(1, 3))):
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 3)))
        nodes.append(builder.add(Input(shape, random_type(rng, shape)), name=f"x{k}"))
    while len(builder.nodes) < ops:
        make = _MAKERS[rng.integers(len(_MAKERS))]
        x = _narrow(rng, builder, nodes[rng.integers(len(nodes))])
        try:
            nodes.append(make(rng, builder, x, nodes))
        except CompileError:
            continue  # too wide, or an op that does not fit this operand
    read = {j for n in builder.nodes for j in n.operands}
    last = [i for i in range(len(builder.nodes)) if i not in read]
    graph = builder.graph(Output(f"y{k}", i) for k, i in enumerate(last))
    try:
        return run(graph, PIPELINES["hardware"])
    except CompileError:  # a pass may refuse what it narrows; without requantize the graph is hardware already
        return graph


def _narrow(rng: np.random.Generator, builder: Builder, x: int) -> int:
    t = builder.type(x)
    if max(abs(int(np.min(t.fixed.lo))), abs(int(np.max(t.fixed.hi)))).bit_length() < _WIDEST and t.size <= 64:
        return x
    if t.size > 64:
        x = builder.add(Gather(rng.integers(0, t.size, (3, 4))), x)
        t = builder.type(x)
    return builder.add(random_quantize(rng, t.shape, int(np.max(t.fixed.exp))), x)


def _same_shape(rng: np.random.Generator, builder: Builder, x: int, nodes: list[int]) -> int:
    """Another node that broadcasts with x: a constant, or a choice of the elements of a random node."""
    shape = builder.type(x).shape
    shape = tuple(1 if rng.random() < 0.2 else n for n in shape)
    if rng.random() < 0.4:
        return builder.add(Constant(rng.integers(-20, 21, shape), int(rng.integers(-3, 2))))
    y = _narrow(rng, builder, nodes[rng.integers(len(nodes))])
    return builder.add(Gather(rng.integers(0, builder.type(y).size, shape)), y)


def _binary(op: Callable[[], Add | Sub | Mul | Maximum | Minimum]):
    return lambda rng, b, x, nodes: b.add(
        op(), *((x, _same_shape(rng, b, x, nodes)) if rng.random() < 0.5 else (_same_shape(rng, b, x, nodes), x))
    )


def _compare(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    y = _same_shape(rng, b, x, nodes)
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    return b.add(Compare(relation), *((x, y) if rng.random() < 0.5 else (y, x)))


def _select(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    condition = _compare(rng, b, x, nodes)
    if rng.random() < 0.2:  # a condition that is no comparison
        t = b.type(condition)
        condition = b.add(Quantize(Fixed(0, 1, 0), Rounding.TRN, Overflow.WRAP), _same_shape(rng, b, x, nodes))
        x = b.add(Gather(rng.integers(0, b.type(x).size, t.shape)), x)
    pair = (x, _same_shape(rng, b, x, nodes))
    return b.add(Select(), condition, *(pair if rng.random() < 0.5 else pair[::-1]))


def _linear(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    n_in, n_out = b.type(x).shape[-1], int(rng.integers(1, 6))
    weights = rng.integers(-31, 32, (n_in, n_out)) * (rng.random((n_in, n_out)) < 0.8)
    return b.add(Linear(weights, rng.integers(-3, 3, n_out) if rng.random() < 0.5 else -2), x)


def _lookup(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    t = b.type(x)
    x = b.add(random_quantize(rng, t.shape, int(np.max(t.fixed.exp)), bits=5), x)
    t = b.type(x)
    aligned = t.fixed.at(int(np.min(t.fixed.exp)))
    first, last = int(np.min(aligned.lo)), int(np.max(aligned.hi))
    if last - first > 500:
        return x
    shape = t.shape if rng.random() < 0.5 else ()
    return b.add(
        Lookup(rng.integers(-100, 100, (*shape, last - first + 3)), first - 1, int(np.min(t.fixed.exp)), -3), x
    )


def random_forest(rng: np.random.Generator, x: Tensor, trees: int, outputs: int, depth: int = 4) -> Forest:
    """Trees of random shapes up to `depth`, over thresholds within and around what x reaches; some are leaves alone."""
    lo, hi, exp = x.arrays()
    grid = exp.reshape(-1, x.shape[-1]).min(axis=0) - rng.integers(0, 2, x.shape[-1])
    low, high = (np.asarray(f) << exp - grid for f in (lo, hi))
    low, high = low.reshape(-1, x.shape[-1]).min(axis=0), high.reshape(-1, x.shape[-1]).max(axis=0)
    nodes: list[tuple[int, int, int, int]] = []
    leaves = 0

    def grown(room: int) -> int:
        nonlocal leaves
        if room == 0 or rng.random() < 0.15:
            leaves += 1
            return -leaves
        n, f = len(nodes), int(rng.integers(x.shape[-1]))
        nodes.append((0, 0, 0, 0))
        nodes[n] = (f, int(rng.integers(low[f] - 1, high[f] + 1, endpoint=True)), grown(room - 1), grown(room - 1))
        return n

    roots = np.array([grown(int(rng.integers(depth + 1))) for _ in range(trees)], np.int64)
    features, thresholds, left, right = np.array(nodes, np.int64).reshape(-1, 4).T
    values = rng.integers(-60, 61, (leaves, outputs)) * (rng.random((leaves, outputs)) < 0.8)
    return Forest(roots, features, thresholds, left, right, values, int(rng.integers(-4, 2)), grid)


def _forest(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    return b.add(random_forest(rng, b.type(x), int(rng.integers(1, 6)), int(rng.integers(1, 4))), x)


def _reshape(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    t = b.type(x)
    return b.add(Reshape((t.size,) if rng.random() < 0.5 else (1, t.size)), x)


def _window(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    rank = len(b.type(x).shape) - 1
    if rank < 1:
        raise CompileError("window", "needs a spatial axis")
    kernel, strides, dilations = (tuple(int(v) for v in rng.integers(1, 3, rank)) for _ in range(3))
    begin, end = (tuple(int(v) for v in rng.integers(0, 2, rank)) for _ in range(2))
    return b.add(Window(kernel, strides, dilations, begin, end, "nearest" if rng.random() < 0.3 else "zero"), x)


def _concat(rng: np.random.Generator, b: Builder, x: int, nodes: list[int]) -> int:
    t = b.type(x)
    y = _narrow(rng, b, nodes[rng.integers(len(nodes))])
    other = b.add(Gather(rng.integers(0, b.type(y).size, t.shape)), y)
    if any(np.array_equal(f.lo, f.hi) for f in (t.fixed, b.type(other).fixed)):
        raise CompileError("concat", "operands must vary")
    return b.add(Concat(int(rng.integers(len(t.shape)))), x, other)


_MAKERS: tuple[Callable[..., int], ...] = (
    _binary(Add), _binary(Sub), _binary(Mul), _binary(Maximum), _binary(Minimum),
    _compare, _select, _select,
    _linear, _linear, _lookup, _forest, _reshape, _concat, _window,
    lambda rng, b, x, nodes: b.add(random_quantize(rng, b.type(x).shape, int(np.max(b.type(x).fixed.exp))), x),
    lambda rng, b, x, nodes: b.add(random_quantize(rng, b.type(x).shape, int(np.max(b.type(x).fixed.exp))), x),
    lambda rng, b, x, nodes: b.add(Neg(), x),
    lambda rng, b, x, nodes: b.add(Shift(int(rng.integers(-3, 4))), x),
    lambda rng, b, x, nodes: b.add(ReduceSum(int(rng.integers(len(b.type(x).shape)))), x),
    lambda rng, b, x, nodes: b.add(ReduceMax(int(rng.integers(len(b.type(x).shape)))), x),
    lambda rng, b, x, nodes: b.add(Transpose(tuple(int(a) for a in rng.permutation(len(b.type(x).shape)))), x),
)  # fmt: skip


def choices_graph(rng: np.random.Generator, size: int = 24) -> Graph:
    """Every relation between data, a constant and zero, of types per element, and choices by each result."""
    b = Builder("choices")
    x, y = (b.add(Input((size,), random_type(rng, (size,))), name=name) for name in ("x", "y"))
    c = b.add(Constant(rng.integers(-40, 41, size), rng.integers(-3, 3, size)))
    zero = b.add(Constant(np.zeros((), np.int64)))
    nodes: list[int] = []
    for relation in RELATIONS:
        for pair in ((x, y), (x, c), (c, x), (x, zero), (zero, y), (b.add(Neg(), x), b.add(Neg(), y))):
            nodes.append(b.add(Compare(relation), *pair))
    bits = list(nodes)
    for k, (one, other) in enumerate(((x, y), (y, c), (zero, x), (b.add(Neg(), x), b.add(Neg(), y)), (c, zero))):
        nodes += [b.add(Select(), bits[k], one, other), b.add(Select(), bits[-1 - k], one, other)]
    one = b.add(Constant(np.array(1)))
    nodes.append(b.add(Select(), bits[0], one, zero))
    nodes.append(b.add(Compare("equal"), bits[0], bits[1]))
    nodes.append(b.add(Select(), b.add(Sub(), one, bits[1]), x, c))  # a condition with a pending sign or an addition
    return b.graph(Output(f"o{k}", i) for k, i in enumerate(nodes))


def modes_graph(rng: np.random.Generator, size: int = 8, bits: int = 0) -> Graph:
    """A quantizer of every rounding and overflow mode, of types per element and odd intervals; values have `bits` more than 8."""
    b = Builder("quantizers")
    nodes = list[int]()
    for rounding, overflow in itertools.product(Rounding, Overflow):
        lo = -rng.integers(0, 130 << bits, size)
        x = b.add(Input((size,), Fixed.of(lo, lo + rng.integers(1, 260 << bits, size), rng.integers(-4, 3, size))))
        width = rng.integers(1, 7, size) + bits
        low = np.where(rng.random(size) < 0.7, -(1 << (width - 1)), 0)
        high = low + (1 << width) - 1
        if overflow is Overflow.WRAP:
            low, high = (np.where(np.arange(size) == 0, f + 3, f) for f in (low, high))
        if overflow in (Overflow.SAT, Overflow.SAT_SYM):
            high = np.where(np.arange(size) % 3 == 0, np.maximum(high - 1, low), high)
        to = Fixed.of(low, high, rng.integers(-6, 12, size))
        nodes.append(b.add(Quantize(to, rounding, overflow), x, name=f"{rounding.value}_{overflow.value}"))
    return b.graph(Output(f"y{k}", i) for k, i in enumerate(nodes))


def random_inputs(graph: Graph, rng: np.random.Generator, events: int) -> dict[str, Int64]:
    """Raw integers ``[events, *shape]`` by input name: uniform in each element's interval; then its ends."""
    data: dict[str, Int64] = {}
    for i in graph.inputs:
        node = graph.nodes[i]
        lo, hi, _ = node.type.arrays()
        x = rng.integers(lo, hi, (events, *node.type.shape), endpoint=True)
        ends = rng.random((min(events, 8), *node.type.shape)) < 0.5
        x[: len(ends)] = np.where(ends, lo, hi)
        data[node.name] = x
    return data
