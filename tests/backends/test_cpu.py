"""The CPU engine against the reference: random graphs over all ops and modes, every dense format, every fallback."""

import re

import numpy as np
import pytest

from hwcompile import CompileError
from hwcompile.codegen import cpu
from hwcompile.codegen.cpu.engine import Engine
from hwcompile.codegen.cpu.interface import storage_type
from hwcompile.codegen.project import Project
from hwcompile.hw_targets import process
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Compare, Constant, Input, Linear, Maximum, Quantize, Reshape, Select
from hwcompile.ir.ops.compare import RELATIONS
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.compare import run_engines
from hwcompile.verify.random_graphs import choices_graph, modes_graph, random_graph
from hwcompile.verify.vectors import corner_vectors, join_vectors, random_vectors


def check(graph, project=None, seed=0):
    engine = cpu.build(graph) if project is None else cpu.load(graph, project)
    assert engine.compiled
    data = join_vectors(random_vectors(graph, 150, seed), corner_vectors(graph))
    result = run_engines(graph, data, {"cpu": engine.run}).results[1]
    assert result.mismatches == 0, str(result.first)
    return engine


@pytest.mark.parametrize("seed", range(16))
def test_random_graphs(seed):
    check(random_graph(np.random.default_rng(1000 + seed)), seed=seed)


@pytest.mark.parametrize("bits", [0, 32])
def test_every_rounding_and_overflow_mode_in_both_lanes(bits):
    check(modes_graph(np.random.default_rng(1), bits=bits))


def test_comparisons_and_choices_in_both_lanes():
    check(choices_graph(np.random.default_rng(3)))
    b = Builder("wide")
    x, y = (b.add(Input((5,), Fixed(-(1 << 40), 1 << 40, -3)), name=n) for n in "xy")
    bits = [b.add(Compare(r), x, b.add(Quantize(Fixed(-7, 7, 37), Rounding.RND, Overflow.SAT), y)) for r in RELATIONS]
    check(b.graph(Output(f"o{k}", i) for k, i in enumerate([*bits, b.add(Select(), bits[0], x, y)])))


def test_outputs_that_are_constants():
    b = Builder("constants")
    x = b.add(Input((2,), Fixed(0, 3, 0)), name="x")
    c = b.add(Constant(np.array([1, -(1 << 40)])))
    r = b.add(Reshape((2, 1)), c)
    check(b.graph([Output("c", c), Output("r", r), Output("y", b.add(Add(), b.add(Reshape((2,)), r), x))]))


def dense(x, weights, to=None, bias=None, relu=False, shape=None):
    b = Builder("dense")
    y = b.add(Linear(weights, -2), b.add(Input(shape or (weights.shape[0],), x), name="x"), name="matrix")
    if bias is not None:
        y = b.add(Add(), y, b.add(Constant(bias, -3), name="bias"))
    if relu:
        y = b.add(Maximum(), y, b.add(Constant(np.array(0))))
    if to is not None:
        y = b.add(Quantize(to, Rounding.RND_CONV, Overflow.SAT), y, name="q")
    return b.graph([Output("y", y)])


RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    "kernel,x,most,shape",
    [
        ("u8", Fixed(0, 255, 0), 127, (9, 11)),
        ("u8", Fixed(-128, 127, 0), 120, (16, 8)),
        ("u8", Fixed(-30, 200, 0), 100, (6, 3)),
        ("s16", Fixed(-512, 511, 0), 120, (7, 5)),
        ("s16", Fixed(0, 255, 0), 900, (10, 12)),
        ("i32", Fixed(-40000, 40000, 0), 99, (5, 6)),
        ("i32", Fixed(0, 7, 0), 90000, (4, 3)),
        ("i64", Fixed(-(2**30), 2**30, 0), 1000, (4, 6)),
    ],
)
def test_dense_formats(kernel, x, most, shape):
    weights = RNG.integers(-most, most + 1, shape)
    graph = dense(x, weights, Fixed(0, 255, 3), RNG.integers(-999, 999, shape[1]), relu=True)
    assert re.search(r"dense_(\w+)<", cpu.emit(graph).files["engine.cpp"])[1] == kernel
    check(graph)


@pytest.mark.parametrize("shape", [(3, 8), (3, 7), (2, 3)])
def test_dense_on_several_positions(shape):
    check(dense(Fixed(0, 200, 0), RNG.integers(-9, 10, (shape[-1], 6)), Fixed(-64, 63, 0), shape=shape))


def test_every_portable_path_gives_the_same_integers(tmp_path, monkeypatch):
    graph = dense(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 24)), Fixed(0, 255, 2), RNG.integers(-999, 999, 24))
    from hwcompile.codegen.cpu import engine

    for flags in (("-march=x86-64",), ("-march=haswell",), ("-march=native", "-mno-avx512vnni")):
        monkeypatch.setattr(engine, "FLAGS", ("-O2", *flags, "-std=c++17", "-shared", "-fPIC", "-Wno-psabi"))
        check(graph)


def test_event_counts_around_a_block():
    graph = dense(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8)), Fixed(0, 255, 2))
    engine = cpu.build(graph)
    data = random_vectors(graph, 100)
    whole = evaluate(graph, data)["y"]
    for events in (0, 1, 15, 16, 17, 31, 32, 33, 100):
        for threads in (1, 2):
            assert (engine.run({"x": data["x"][:events]}, threads)["y"] == whole[:events]).all()


def test_a_flipped_sign_is_found_with_the_op_name():
    graph = dense(Fixed(-128, 127, 0), RNG.integers(1, 32, (4, 3)), bias=np.array([5, 6, 7]))
    project = cpu.emit(graph)
    text = project.files["engine.cpp"]
    table = re.search(r"matrix_bias_\d+\[3\] = \{\s*(-?\d+)", text)
    broken = text[: table.start(1)] + str(int(table[1]) + 1) + text[table.end(1) :]
    engine = cpu.load(graph, Project({**project.files, "engine.cpp": broken}))
    data = random_vectors(graph, 50)
    result = run_engines(graph, data, {"cpu": engine.run}).results[1]
    assert result.mismatches == 50
    assert str(result.first).startswith("add (add): output 'y'[0] of event 0 is")


def test_without_a_compiler_the_reference_serves(monkeypatch):
    monkeypatch.setattr(process, "find_compiler", lambda: None)
    graph = dense(Fixed(-8, 7, 0), np.array([[1], [2]]))
    engine = cpu.build(graph)
    assert not engine.compiled
    assert engine.run({"x": np.array([[3, -2]])})["y"].tolist() == [[-1]]


def test_same_graph_same_bytes_and_storage_types():
    graph = dense(Fixed(-128, 127, 0), RNG.integers(-31, 32, (4, 3)))
    assert cpu.emit(graph).digest == cpu.emit(graph).digest
    for t, name in (
        (Fixed(0, 255, 0), "uint8_t"),
        (Fixed(-1, 127, 0), "int8_t"),
        (Fixed(-1, 128, 0), "int16_t"),
        (Fixed(0, 2**40, 0), "int64_t"),
    ):
        assert storage_type(Tensor((), t)) == name


@pytest.mark.parametrize(
    "data,sentence",
    [
        ({"z": np.zeros((1, 4), int)}, "data must be given for every input"),
        ({"x": np.zeros((1, 3), int)}, "must be integers of shape [events, 4]"),
        ({"x": np.full((1, 4), 9)}, "raw data must be within -8..7"),
    ],
)
def test_wrong_data(data, sentence):
    graph = dense(Fixed(-8, 7, 0), np.ones((4, 2), np.int64))
    with pytest.raises(CompileError) as e:
        Engine(graph, cpu.build(graph).library).run(data)
    assert sentence in str(e.value)


@pytest.mark.parametrize("name", ["std", "EOF", "errno", "int", "xor", "vec", "events"])
def test_names_that_c_and_verilog_know(name):
    b = Builder(name)
    x = b.add(Input((2,), Fixed(-8, 7, 0)), name=name)
    check(b.graph([Output("y", b.add(Linear(np.array([[1], [2]])), x, name=f"{name}.linear"))]))


def test_a_deep_chain():
    b = Builder("deep")
    x = b.add(Input((2,), Fixed(-8, 7, 0)), name="x")
    for _ in range(400):
        x = b.add(
            Quantize(Fixed(-16, 15, 0), Rounding.TRN, Overflow.SAT), b.add(Add(), x, b.add(Constant(np.array([1, -1]))))
        )
    check(b.graph([Output("y", x)]))
