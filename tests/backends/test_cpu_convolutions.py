"""Convolutions and pooling of the CPU engine: every number format, arrangement of the image, padding and grouping."""

import re

import numpy as np
import pytest

from hwcompile.codegen import cpu
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Input, Linear, Quantize, ReduceMax, ReduceSum, Reshape, Window
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.verify.compare import run_engines
from hwcompile.verify.vectors import corner_vectors, join_vectors, random_vectors


def check(graph):
    engine = cpu.build(graph)
    assert engine.compiled
    data = join_vectors(random_vectors(graph, 100, 0), corner_vectors(graph))
    result = run_engines(graph, data, {"cpu": engine.run}).results[1]
    assert result.mismatches == 0, str(result.first)


def convolve(b, x, kernel, out, rng, most=20, groups=1, **geometry):
    """Window, reshape, matrix, bias; block-diagonal for groups."""
    *spatial, channels = b.type(x).shape
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    fields = {"strides": ones, "dilations": ones, "begin": zeros, "end": zeros} | geometry
    window = Window(kernel, *fields.values())
    w = b.add(window, x, name="windows")
    rows = b.add(Reshape((*window.positions(spatial), window.taps * channels)), w)
    weights = rng.integers(-most, most + 1, (window.taps, groups, channels // groups, out))
    weights *= np.equal(np.arange(out) * groups // out, np.arange(groups)[:, None])[:, None, :]
    y = b.add(Linear(weights.reshape(-1, out)), rows, name="conv")
    return b.add(Add(), y, b.add(Constant(rng.integers(-99, 100, out))))


def pooled(b, x, kernel=(2, 2), fill="nearest", op=ReduceMax):
    strides, zeros = kernel, (0,) * len(kernel)
    w = b.add(Window(kernel, strides, (1,) * len(kernel), zeros, zeros, fill), x)
    return b.add(op(len(kernel)), w)


GEOMETRIES = [
    {},
    {"begin": (1, 1), "end": (1, 1)},
    {"strides": (2, 2), "begin": (0, 1), "end": (1, 0)},
    {"dilations": (1, 2), "begin": (0, 2), "end": (0, 2)},
    {"dilations": (2, 1), "strides": (1, 2)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "kernel,x", [("u8", Fixed(-128, 127, 0)), ("s16", Fixed(-900, 900, 0)), ("i32", Fixed(-(1 << 17), 1 << 17, 0))]
)
def test_formats_geometries_and_channels(kernel, x, channels, geometry):
    rng = np.random.default_rng(channels)
    b = Builder("conv")
    y = convolve(b, b.add(Input((7, 9, channels), x), name="x"), (3, 3), 5, rng, **geometry)
    graph = b.graph([Output("y", b.add(Quantize(Fixed(0, 255, 4), Rounding.RND, Overflow.SAT), y))])
    text = cpu.emit(graph).files["engine.cpp"]
    assert re.search(r"dense_(\w+)<", text)[1] == kernel
    assert "windows" not in text.split("struct alignas")[1].split("};")[0]  # no buffer holds copies of the windows
    check(graph)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    rng = np.random.default_rng(rank)
    b = Builder("conv")
    x = b.add(Input((*(6, 5, 4)[:rank], 2), Fixed(0, 255, 0)), name="x")
    y = convolve(b, x, (3, 2, 2)[:rank], 4, rng, begin=(1,) * rank, end=(0,) * rank)
    check(b.graph([Output("y", y)]))


def test_two_layers_with_pooling_between():
    """The first kernel takes the maximum of its sums, rounds once, and writes into the padded image of the second."""
    rng = np.random.default_rng(1)
    b = Builder("cnn")
    x = b.add(Input((9, 8, 1), Fixed(-128, 127, 0)), name="x")
    y = convolve(b, x, (3, 3), 8, rng, begin=(1, 1), end=(1, 1))
    y = b.add(Quantize(Fixed(0, 255, 4), Rounding.RND_CONV, Overflow.SAT), y)
    y = b.add(Reshape((4, 4, 8)), pooled(b, y))
    y = convolve(b, y, (3, 3), 6, rng, begin=(1, 1), end=(1, 1))
    graph = b.graph([Output("y", y)])
    assert "the largest of 4" in cpu.emit(graph).files["engine.cpp"]
    check(graph)


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_convolutions_skip_the_zeros(groups):
    rng = np.random.default_rng(groups)
    b = Builder("grouped")
    x = b.add(Input((5, 6, 64), Fixed(0, 255, 0)), name="x")
    graph = b.graph([Output("y", convolve(b, x, (3, 3), 64, rng, groups=groups))])
    steps = re.search(r"dense_u8<64, (\d+), (\d+), 1, \d+>", cpu.emit(graph).files["engine.cpp"])
    assert int(steps[1]) * int(steps[2]) == 9 * 16 // groups
    check(graph)


@pytest.mark.parametrize("op,fill", [(ReduceSum, "zero"), (ReduceMax, "nearest"), (ReduceMax, "zero")])
def test_pooling_alone(op, fill):
    b = Builder("pool")
    x = b.add(Input((5, 7, 3), Fixed(-100, 27, 0)), name="x")
    w = b.add(Window((3, 2), (2, 2), (1, 1), (1, 1), (1, 0), fill), x)
    check(b.graph([Output("y", b.add(op(2), w)), Output("x2", b.add(Reshape((105,)), x))]))


def test_windows_that_others_read_too():
    rng = np.random.default_rng(3)
    b = Builder("shared")
    x = b.add(Input((6, 6, 2), Fixed(-8, 7, 0)), name="x")
    w = b.add(Window((2, 2), (1, 1), (1, 1), (1, 0), (0, 1)), x)
    rows = b.add(Reshape((6, 6, 8)), w)
    y = b.add(Linear(rng.integers(-9, 10, (8, 3))), rows)
    check(b.graph([Output("y", y), Output("largest", b.add(ReduceMax(2), w)), Output("w", w)]))
