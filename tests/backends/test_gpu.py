"""The GPU backend in Triton's interpreter against the reference, and compiled to machine code of two generations."""

import os
import subprocess
import sys
from fractions import Fraction

os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported: every kernel of this process is interpreted

import numpy as np
import pytest
import torch

import hwcompile as hc
from hwcompile import CompileError
from hwcompile.codegen import gpu
from hwcompile.codegen.gpu import dots
from hwcompile.codegen.gpu.plan import plan
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import (
    Add,
    Concat,
    Constant,
    Gather,
    Input,
    Linear,
    Lookup,
    Maximum,
    Mul,
    Quantize,
    ReduceMax,
    ReduceSum,
    Requantize,
    Reshape,
    Sub,
    Transpose,
    Window,
)
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.compare import run_engines
from hwcompile.verify.random_graphs import modes_graph, random_graph
from hwcompile.verify.vectors import corner_vectors, join_vectors, random_vectors


def check(graph, events=70, seed=0):
    engine = gpu.build(graph)
    data = join_vectors(random_vectors(graph, events, seed), corner_vectors(graph))
    result = run_engines(graph, data, {"gpu": engine.run}).results[1]
    assert result.mismatches == 0, str(result.first)
    return engine


def matrix(x, weights, shape=None):
    b = Builder("matrix")
    y = b.add(Linear(weights, -2), b.add(Input(shape or (weights.shape[0],), x), name="x"), name="product")
    y = b.add(Add(), y, b.add(Constant(RNG.integers(-99, 100, weights.shape[1]), -3)))
    y = b.add(Quantize(Fixed(-128, 127, 1), Rounding.RND_CONV, Overflow.SAT), y)
    return b.graph([Output("y", y)])


RNG = np.random.default_rng(5)


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs(seed):
    check(random_graph(np.random.default_rng(3000 + seed)), seed=seed)


@pytest.mark.parametrize("bits", [0, 32])
def test_every_rounding_and_overflow_mode_in_both_lanes(bits):
    check(modes_graph(np.random.default_rng(1), bits=bits))


@pytest.mark.parametrize(
    "kind,digits,x,most,shape",
    [
        ("int8", 1, Fixed(-128, 127, 0), 120, (16, 8)),
        ("int8", 1, Fixed(0, 255, 0), 127, (9, 11)),
        ("int8", 1, Fixed(-30, 200, 0), 100, (40, 33)),
        ("float16", 1, Fixed(-512, 511, 0), 120, (7, 5)),
        ("float16", 1, Fixed(0, 255, 0), 900, (10, 12)),
        ("int8", 3, Fixed(-40000, 40000, 0), 99, (5, 6)),
        ("int8", 1, Fixed(0, 7, 0), 90000, (4, 3)),
        ("int8", 4, Fixed(-(2**30), 2**30, 0), 100_000, (4, 6)),
    ],
)
def test_every_number_format(kind, digits, x, most, shape):
    graph = matrix(x, RNG.integers(-most, most + 1, shape))
    found = dots.choose(graph.nodes[1].op, graph.nodes[0].type)
    assert (found.kind, found.operand_digits) == (kind, digits)
    check(graph)


def test_int8_products_are_used_only_where_int32_holds_every_sum():
    """The hardware saturates: 140,000 products of 127 * 127 would not fit, though each operand does."""
    narrow, wide = (
        dots.choose(Linear(np.full((n, 1), 127)), Tensor((n,), Fixed(-128, 127, 0))) for n in (131_000, 131_071)
    )
    assert (narrow.kind, narrow.wide) == (wide.kind, wide.wide) == ("int8", False)
    with pytest.raises(CompileError, match="sums at most 131071 products, not 140000"):
        dots.choose(Linear(np.full((140_000, 1), 127)), Tensor((140_000,), Fixed(-128, 127, 0)))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (300, 70), (70, 300)])
def test_thin_and_large_matrices(shape):
    check(matrix(Fixed(-128, 127, 0), RNG.integers(-9, 10, shape)))
    check(matrix(Fixed(-70000, 70000, 0), RNG.integers(-9, 10, shape)), events=20)


def test_a_small_dense_network_is_one_kernel():
    b = Builder("dense")
    y = b.add(Input((16,), Fixed(-128, 127, -4)), name="x")
    for n in (64, 32, 5):
        y = b.add(Linear(RNG.integers(-31, 32, (b.type(y).shape[0], n))), y)
        y = b.add(Quantize(Fixed(0, 255, 4), Rounding.RND, Overflow.SAT), y)
    engine = check(b.graph([Output("y", y)]))
    assert len(plan(engine.graph).kernels) == 1


def test_a_convolution_reads_windows_from_the_image():
    b = Builder("conv")
    x = b.add(Input((8, 7, 3), Fixed(0, 255, 0)), name="x")
    w = b.add(Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), x)
    y = b.add(Linear(RNG.integers(-9, 10, (27, 8))), b.add(Reshape((8, 7, 27)), w))
    y = b.add(Quantize(Fixed(0, 255, 4), Rounding.RND, Overflow.SAT), y)
    y = b.add(ReduceMax(2), b.add(Window((2, 2), (2, 2), (1, 1), (0, 0), (0, 0)), y))
    engine = check(b.graph([Output("y", y)]), events=5)
    assert all(t.size <= 8 * 7 * 8 for t in plan(engine.graph).buffers.values())  # no copies of windows


def test_attention_like_shapes():
    """Products of data, a softmax-like row maximum that broadcasts, sums over another axis, layout, tables, joins."""
    b = Builder("attention")
    x = b.add(Input((4, 6), Fixed(-8, 7, 0)), name="x")
    y = b.add(Input((4, 6), Fixed(0, 15, -1)), name="y")
    centred = b.add(Sub(), x, b.add(ReduceMax(1), x))
    e = b.add(Lookup(np.arange(40) ** 2, -20, 0, -3), centred)
    product = b.add(Mul(), e, b.add(Gather(np.arange(24).reshape(6, 4).T.copy()), y))
    total = b.add(ReduceSum(0), product)
    joined = b.add(Concat(0), total, product, b.add(Constant(np.arange(6)[None] - 2)))
    outputs = {"y": b.add(Maximum(), joined, total), "x": x, "t": b.add(Transpose((1, 0)), x)}
    check(b.graph(Output(name, node) for name, node in outputs.items()))


def test_more_events_than_one_pass(monkeypatch):
    graph = matrix(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8)))
    engine = gpu.build(graph)
    monkeypatch.setattr(engine._module, "EVENTS", 50)
    data = random_vectors(graph, 120)
    assert run_engines(graph, data, {"gpu": engine.run}).ok
    assert engine.run({"x": data["x"][:0]})["y"].shape == (0, 8)


def test_torch_tensors_go_in_and_come_out():
    graph = matrix(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8)))
    engine = gpu.build(graph)
    data = random_vectors(graph, 30)["x"]
    got = engine.run({"x": torch.from_numpy(data.astype(np.int8))})["y"]
    assert torch.is_tensor(got)
    assert got.dtype == torch.int8
    assert (got.numpy() == engine.run({"x": data})["y"]).all()


@pytest.mark.parametrize(
    "x,sentence",
    [
        (np.full((3, 16), 200), "input x: must be within -128..127, not 200..200"),
        (
            np.zeros((3, 15), np.int64),
            r"input x: must be integers of shape \[events, \*\[16\]\], not torch.int64 \[3, 15\]",
        ),
        (np.zeros((3, 16)), "input x: must be integers"),
    ],
)
def test_bad_data_is_refused(x, sentence):
    engine = gpu.build(matrix(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8))))
    with pytest.raises(CompileError, match=sentence):
        engine.run({"x": x})


def test_unknown_ops_are_refused_by_name():
    b = Builder("g")
    y = b.add(Requantize(1, 0, Fixed(0, 255, 0)), b.add(Input((2,), Fixed(-8, 7, 0)), name="x"), name="scale")
    with pytest.raises(CompileError, match=r"scale \(requantize\): has no rule in the gpu backend; run the pipeline"):
        gpu.emit(b.graph([Output("y", y)]))


def test_kernels_compile_for_two_generations_of_gpus():
    """To cubin, without a GPU; the int8 products are tensor-core instructions."""
    graph = matrix(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8)))
    made = gpu.compile_kernels(gpu.emit(graph), (80, 90))
    assert [m["capability"] for m in made] == [80, 90]
    assert all(m["cubin"] > 1000 and m["dots"] for m in made)


def test_random_kernels_compile():
    graphs = [random_graph(np.random.default_rng(seed)) for seed in (3001, 3002, 3003)]
    for graph in graphs:
        assert all(m["cubin"] for m in gpu.compile_kernels(gpu.emit(graph), (80,)))


def test_the_written_file_needs_torch_and_triton_alone(tmp_path):
    graph = matrix(Fixed(-128, 127, 0), RNG.integers(-31, 32, (16, 8)))
    ((name, text),) = gpu.emit(graph).files.items()
    assert "hwcompile" not in text
    (tmp_path / name).write_text(text)
    data = random_vectors(graph, 20)
    np.savez(tmp_path / "in.npz", **data)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, name, "in.npz", "out.npz"], cwd=tmp_path, env=environment, check=True)
    with np.load(tmp_path / "out.npz") as found:
        assert run_engines(graph, data, {"gpu": lambda x: {"y": found["y"]}}).ok


@pytest.mark.parametrize("rounding", Rounding)
def test_real_data_becomes_the_same_integers_as_in_numpy(rounding):
    from hwcompile.codegen.gpu.real import from_real
    from hwcompile.ir.evaluate import from_real as law
    from hwcompile.ir.rational import Affine

    ties = np.arange(-40, 41) / 8
    x = np.concatenate([ties, RNG.normal(0, 3, 200), [0.49999999999999994, -1e30, 1e30]])[:, None]
    for scale in (1, Fraction(1, 3)):
        op = Input((1,), Fixed(-9, 7, -1), Affine(Fraction(scale)), rounding)
        assert (from_real(op, torch.from_numpy(x)).numpy() == law(op, x)).all()
    with pytest.raises(CompileError, match="data must be finite"):
        from_real(op, torch.tensor([[np.nan]]))


def test_a_design_predicts_with_torch_tensors():
    data = np.load("examples/jet_tagger.npz")["x"][:50]
    design = hc.compile("examples/jet_tagger.onnx", backends="gpu")
    got = design.predict(torch.from_numpy(data), engine="gpu")
    assert (got.numpy() == design.predict(data)).all()
    assert (design.predict(data, engine="gpu") == design.predict(data)).all()
