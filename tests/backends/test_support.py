"""What docs/support.md calls exact: every op of the language in one graph, through every engine, against the reference."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # as tests/backends/test_gpu.py does, before triton is imported

import numpy as np
import pytest

from hwcompile.codegen import cpu, gpu, hls, rtl
from hwcompile.codegen.schedule import Schedule
from hwcompile.hw_targets.devices import load_target
from hwcompile.ir import ops
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.verify.compare import run_engines
from hwcompile.verify.random_graphs import random_forest
from hwcompile.verify.vectors import corner_vectors, join_vectors, random_vectors

REALISED = {"requantize"}  # exact ops take its place before any backend sees it


def every_op():
    b = Builder("support")
    x = b.add(ops.Input((3, 4), Fixed(-16, 15, -2)), name="x")
    y = b.add(ops.Input((3, 4), Fixed(0, 31, -1)), name="y")
    c = b.add(ops.Constant(np.arange(12).reshape(3, 4) - 5, -1))
    found = [
        b.add(ops.Quantize(Fixed(-4, 3, 0), Rounding.RND_CONV, Overflow.SAT), x),
        b.add(ops.Lookup(np.arange(32) ** 2, -16, -2, -3), x),
        b.add(ops.Add(), x, c),
        b.add(ops.Sub(), x, y),
        b.add(ops.Mul(), x, y),
        b.add(ops.Neg(), x),
        b.add(ops.Shift(2), x),
        b.add(ops.Maximum(), x, y),
        b.add(ops.Minimum(), x, y),
        b.add(ops.Select(), b.add(ops.Compare("less"), x, y), x, y),
        b.add(ops.Linear(np.arange(8).reshape(4, 2) - 3), x),
        b.add(random_forest(np.random.default_rng(0), b.type(x), 3, 2), x),
        b.add(ops.ReduceSum(1), x),
        b.add(ops.ReduceMax(0), y),
        b.add(ops.Add(), b.add(ops.Reshape((2, 6)), x), b.add(ops.Reshape((2, 6)), y)),
        b.add(ops.Neg(), b.add(ops.Transpose((1, 0)), x)),
        b.add(ops.Neg(), b.add(ops.Gather(np.array([[3, 1], [0, 11]])), x)),
        b.add(ops.Neg(), b.add(ops.Concat(1), x, y)),
        b.add(ops.Neg(), b.add(ops.Window((2,), (1,), (1,), (1,), (0,)), x)),
    ]
    return b.graph(Output(f"out{k}", i) for k, i in enumerate(found))


def by_hls(graph, schedule):
    return lambda x: hls.simulate(hls.emit(graph, load_target("vu9p"), 5.0, schedule), x)


def by_rtl(graph):
    from hwcompile.codegen.rtl.simulate import simulate

    return lambda x: simulate(rtl.emit(graph, load_target("vu9p"), 5.0), x)


ENGINES = {
    "cpu": lambda g: cpu.build(g).run,
    "gpu": lambda g: gpu.build(g).run,
    "rtl": by_rtl,
    "hls": lambda g: by_hls(g, Schedule()),
    "hls stream": lambda g: by_hls(g, Schedule("stream")),
}


def test_the_graph_has_every_op():
    assert {n.op.name for n in every_op().nodes} == set(ops.OPS) - REALISED


@pytest.mark.parametrize("engine", ENGINES)
def test_every_op_in_every_engine(engine):
    graph = every_op()
    data = join_vectors(random_vectors(graph, 60, 0), corner_vectors(graph))
    result = run_engines(graph, data, {engine: ENGINES[engine](graph)}).results[1]
    assert result.mismatches == 0, str(result.first)
