"""The matrices of a graph as kernel calls: what each call reads, sums, pools and hands on; writes no text.

A convolution reads its windows where they lie: the words of a kernel line follow each other in the buffer, so a window
is a few runs of words, and nothing is copied. Max pooling behind it takes the maximum while the sums are in registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...ir.graph import Graph
from ...ir.ops import Constant, Linear, ReduceMax, Reshape, Window
from ...ir.types import Int64, Tensor
from .formats import GROUP, DenseTables, dense_tables
from .storage import LANES, Storage, image, row_windows, rows

__all__ = ["Product", "Reading", "product"]

_ROWS = 8
"""Sums of one kernel call that share their reads: a block of outputs skips words that meet only zeros in all of it."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Where the operands of each sum are: word ``at[position] + runs[k] + j``, j below `words`, for every run k.

    `columns` is ``[runs, words, group]``: the row of the matrix that each part of a word meets, or -1. With `pool`
    taps the sums at the offsets `pool` are pooled.
    """

    source: int
    storage: Storage
    at: Int64
    runs: Int64
    words: int
    columns: Int64
    pool: Int64


@dataclass(frozen=True, eq=False)
class Product:
    """A linear node; `sums` is the node whose value the kernel's accumulators hold (the linear, or the bias behind it).

    `head` is the node that the kernel hands on: `sums`, or the maximum over its windows. `absorbed`: nodes in between.
    """

    linear: int
    sums: int
    head: int
    tables: tuple[DenseTables, ...]
    readings: tuple[Reading, ...]
    absorbed: tuple[int, ...]

    @cached_property
    def n_out(self) -> int:
        return len(self.tables[0].bias)

    def weights(self, k: int) -> tuple[Int64, Int64, int]:
        """(packed ``[n_out, runs * words]``, runs ``[blocks or 1, runs]``, words of a run) of reading k."""
        table, reading = self.tables[k], self.readings[k]
        group = reading.columns.shape[-1]
        columns = reading.columns.reshape(-1, group)
        parts = np.where(columns >= 0, table.weights[:, np.maximum(columns, 0)], 0)  # [n_out, words, group]
        bits = 32 // group
        if group == 1:
            packed = parts[..., 0]
        else:
            packed = sum((parts[..., j] & ((1 << bits) - 1)) << (bits * j) for j in range(group))
            packed = np.asarray(packed).astype(np.uint32).view(np.int32).astype(np.int64)
        found = None if table.format == "i64" else _without_zeros(packed, reading)
        return found or (packed, reading.runs[None], reading.words)

    @cached_property
    def pooled(self) -> int:
        """Sums that one result is the maximum of."""
        return len(self.readings[0].pool)


def _without_zeros(packed: Int64, reading: Reading) -> tuple[Int64, Int64, int] | None:
    """Single words in place of runs, for each block of outputs those that meet a weight; None where that gains little."""
    n_out, total = packed.shape
    blocks = [packed[k : k + _ROWS] for k in range(0, n_out, _ROWS)]
    kept = [np.flatnonzero(b.any(axis=0)) for b in blocks]
    longest = max((len(k) for k in kept), default=0)
    if longest > 0.6 * total:
        return None
    offsets = (reading.runs[:, None] + np.arange(reading.words)).reshape(-1)
    longest = max(longest, 1)
    found = np.zeros((n_out, longest), np.int64)
    runs = np.zeros((len(blocks), longest), np.int64)
    for k, (block, words) in enumerate(zip(blocks, kept)):
        found[k * _ROWS : k * _ROWS + len(block), : len(words)] = block[:, words]
        runs[k, : len(words)] = offsets[words]
    return found, runs, 1


def product(graph: Graph, users: list[list[int]], results: set[int], linear: int) -> Product:
    """The kernel call of a linear node, with the bias, the windows and the pooling around it that it can take along."""
    sums, tables = _with_bias(graph, users, results, linear)
    node = graph.nodes[linear]
    plain = _plain(graph, node.operands[0], tables)
    one, *others = plain
    if others:
        return Product(linear, sums, sums, tables, plain, ())
    found = _window_reading(graph, users, results, node.operands[0], tables[0])
    reading, absorbed = found if found else (one, ())
    pooled = _pooling(graph, users, results, sums, reading)
    head, reading, more = pooled if pooled else (sums, reading, ())
    return Product(linear, sums, head, tables, (reading,), (*absorbed, *more))


def _only_reader(users: list[list[int]], results: set[int], i: int) -> int | None:
    return users[i][0] if len(users[i]) == 1 and i not in results else None


def _with_bias(graph: Graph, users: list[list[int]], results: set[int], i: int) -> tuple[int, tuple[DenseTables, ...]]:
    """(sums, tables): with the bias that alone reads the linear folded in, where that costs no wider format."""
    node, x = graph.nodes[i], graph.nodes[graph.nodes[i].operands[0]].type
    assert isinstance(node.op, Linear)
    zero = np.zeros(node.type.shape[-1], np.int64)
    plain = dense_tables(node.op, x, node.type, zero, zero)
    bias = _bias(graph, users, results, i)
    if bias is not None:
        found = dense_tables(node.op, x, node.type, *bias)
        if found[0].format == plain[0].format and plain[0].format != "i64":
            return users[i][0], found
    return i, plain


def _bias(graph: Graph, users: list[list[int]], results: set[int], i: int) -> tuple[Int64, Int64] | None:
    """(shift, constant) of ``(linear << shift) + constant`` where that add is the linear's only reader."""
    reader = _only_reader(users, results, i)
    if reader is None:
        return None
    add, linear = graph.nodes[reader], graph.nodes[i]
    others = [j for j in add.operands if j != i]
    if add.op.name != "add" or len(others) != 1 or add.type.shape != linear.type.shape:
        return None
    constant = graph.nodes[others[0]].op
    if not isinstance(constant, Constant):
        return None
    values = constant_at(constant, add.type)
    rows = [
        np.broadcast_to(np.asarray(v, np.int64), add.type.shape).reshape(-1, add.type.shape[-1])
        for v in (add.type.fixed.exp, linear.type.fixed.exp, values)
    ]
    if any((r != r[:1]).any() for r in rows):
        return None
    out, before, values = (r[0] for r in rows)
    return before - out, values


def constant_at(op: Constant, result: Tensor) -> Int64:
    """A constant's raw integers at the exponents of `result`, per element."""
    return np.broadcast_to(op.values, result.shape) << (
        np.broadcast_to(np.asarray(op.exp, np.int64), result.shape) - np.asarray(result.fixed.exp)
    )


def _kind(tables: DenseTables) -> str:
    return LANES if GROUP[tables.format] == 1 else tables.format


def _plain(graph: Graph, x: int, tables: tuple[DenseTables, ...]) -> tuple[Reading, ...]:
    """One reading for all positions, or one for each where their tables differ."""
    shape = graph.nodes[x].type.shape
    positions, n_in = math.prod(shape[:-1]), shape[-1]
    storage = rows(_kind(tables[0]), tables[0].offset, shape)
    words = storage.words // positions
    columns = np.full(words * storage.group, -1, np.int64)
    columns[:n_in] = np.arange(n_in)
    columns = columns.reshape(1, words, -1)
    at, zero = np.arange(positions, dtype=np.int64) * words, np.zeros(1, np.int64)
    if len(tables) == 1:
        return (Reading(x, storage, at, zero, words, columns, zero),)
    return tuple(Reading(x, storage, at[p : p + 1], zero, words, columns, zero) for p in range(positions))


def _window_reading(
    graph: Graph, users: list[list[int]], results: set[int], x: int, tables: DenseTables
) -> tuple[Reading, tuple[int, ...]] | None:
    """The reading of a linear behind ``reshape(window(image))``, and the nodes that need no buffer for it."""
    reshape = graph.nodes[x]
    if not isinstance(reshape.op, Reshape) or _only_reader(users, results, x) is None:
        return None
    at = reshape.operands[0]
    window = graph.nodes[at]
    if not isinstance(window.op, Window) or window.op.fill != "zero" or _only_reader(users, results, at) is None:
        return None
    if reshape.type.shape != (*window.type.shape[:-2], window.type.shape[-2] * window.type.shape[-1]):
        return None
    source = window.operands[0]
    return _runs(window.op, source, graph.nodes[source].type.shape, tables), (at, x)


def _runs(op: Window, source: int, shape: tuple[int, ...], tables: DenseTables) -> Reading:
    kind, offset, channels = _kind(tables), tables.offset, shape[-1]
    group = GROUP[tables.format] if kind != LANES else 1
    width, pixel = op.kernel[-1], -(-channels // group)
    line = -(-width * channels // group)
    taps = np.arange(op.taps * channels).reshape(-1, width, channels)  # [lines of the kernel, along it, channels]
    padded = [n + b + e for n, b, e in zip(shape[:-1], op.begin, op.end)]
    positions = op.positions(shape[:-1])
    if line < width * pixel:
        storage, length, step = row_windows(kind, offset, op, shape), positions[-1], 1
        words, runs = line, np.zeros(1, np.int64)
        columns = np.pad(
            taps.reshape(len(taps), -1), [(0, 0), (0, line * group - width * channels)], constant_values=-1
        )
    else:
        storage, length, step = image(kind, offset, op, shape), padded[-1], op.strides[-1]
        line, words = pixel, pixel * width if op.dilations[-1] == 1 else pixel
        runs = np.arange(1 if op.dilations[-1] == 1 else width) * op.dilations[-1] * pixel
        columns = np.pad(taps, [(0, 0), (0, 0), (0, pixel * group - channels)], constant_values=-1)
    sizes = [*padded[:-1], length]  # words of a leading axis: the product of the sizes behind it, times a pixel's words
    strides = [math.prod(sizes[k + 1 :]) * line for k in range(len(sizes))]
    at, lead = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for k, n in enumerate(positions):
        by = op.strides[k] if k < len(positions) - 1 else step
        at = (at[:, None] + np.arange(n) * by * strides[k]).reshape(-1)
    for k, n in enumerate(op.kernel[:-1]):
        lead = (lead[:, None] + np.arange(n) * op.dilations[k] * strides[k]).reshape(-1)
    runs = (lead[:, None] + runs).reshape(-1)
    return Reading(source, storage, at, runs, words, columns.reshape(len(runs), words, group), np.zeros(1, np.int64))


def _pooling(
    graph: Graph, users: list[list[int]], results: set[int], sums: int, reading: Reading
) -> tuple[int, Reading, tuple[int, ...]] | None:
    """(the maximum, the reading of its windows of sums, nodes without a buffer) where that alone follows the sums."""
    w = _only_reader(users, results, sums)
    if w is None or not isinstance(op := graph.nodes[w].op, Window):
        return None
    m = _only_reader(users, results, w)
    shape = graph.nodes[sums].type.shape
    if m is None or not isinstance(top := graph.nodes[m].op, ReduceMax) or top.axis != len(shape) - 1:
        return None
    before, after = (graph.nodes[k].type.arrays()[2].reshape(-1, shape[-1]) for k in (sums, m))
    index = op.source(shape)[..., 0].reshape(-1, op.taps) // shape[-1]
    if (index < 0).any() or (before != before[:1]).any() or (after != before[:1]).any():
        return None
    where = reading.at[index]
    pool = where - where[:, :1]
    if (pool != pool[:1]).any():
        return None
    moved = Reading(reading.source, reading.storage, where[:, 0], reading.runs, reading.words, reading.columns, pool[0])
    return m, moved, (w,)
