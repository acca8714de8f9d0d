"""Schedules of the HLS writer change speed and never a number: every strategy equals the reference evaluation."""

import itertools
import re

import numpy as np
import pytest

from hwcompile.codegen.hls import LayerSchedule, Schedule, emit, simulate
from hwcompile.codegen.schedule import Folding, check_schedule, folding, matrices, valid_reuse
from hwcompile.hw_targets import load_target
from hwcompile.ir.errors import CompileError
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Input, Linear, Maximum, Neg, Quantize, ReduceSum, Reshape
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.verify.random_graphs import random_inputs, random_type

VU13P = load_target("vu13p")


def exact(graph, schedule, events=200):
    """Emit, simulate, compare every bit."""
    hls = emit(graph, VU13P, 5.0, schedule)
    inputs = random_inputs(graph, np.random.default_rng(3), events)
    found, wanted = simulate(hls, inputs), evaluate(graph, inputs)
    wrong = [name for name in wanted if not np.array_equal(found[name], wanted[name])]
    assert wrong == []
    return hls.project.files[f"firmware/{hls.top}.cpp"]


def dense_net(sizes=(8, 12, 10, 4), rows=1, seed=0):
    """Layers dense_0, dense_1, ... on `rows` rows, per-element types of inputs and per-column exponents of weights."""
    rng = np.random.default_rng(seed)
    b = Builder("net")
    shape = (sizes[0],) if rows == 1 else (rows, sizes[0])
    x = b.add(Input(shape, random_type(rng, shape)), name="x")
    for k, (m, n) in enumerate(itertools.pairwise(sizes)):
        weights = rng.integers(-32, 32, (m, n)) * (rng.random((m, n)) < 0.8)
        x = b.add(Linear(weights, rng.integers(-6, -3, n)), x, name=f"dense_{k}")
        x = b.add(Add(), x, b.add(Constant(rng.integers(-64, 64, n), -5), name=f"bias_{k}"), name=f"add_{k}")
        if k < len(sizes) - 2:
            x = b.add(Maximum(), x, b.add(Constant(np.array(0))), name=f"relu_{k}")
            x = b.add(Quantize(Fixed(0, 255, -3), Rounding.RND_CONV, Overflow.SAT), x, name=f"act_{k}")
    return run(b.graph([Output("y", x)]), PIPELINES["hardware"])


def resource(**reuse):
    return Schedule(layers={name: LayerSchedule("resource", n) for name, n in reuse.items()})


# ---- which reuse factors there are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_in, n_out, words", [(8, 12, 1), (12, 5, 1), (7, 1, 1), (1, 6, 1), (12, 10, 4), (30, 4, 5)])
def test_every_divisor_folds_and_nothing_else_does(n_in, n_out, words):
    valid = valid_reuse(n_in, n_out, words)
    for reuse in range(1, n_in * n_out + 2):
        if (n_in * n_out) % reuse == 0 and reuse % words == 0:
            f = folding(n_in, n_out, reuse, words)
            assert reuse in valid
            assert f.reuse == reuse
            assert f.multipliers * reuse == n_in * n_out
            assert f.lanes * f.groups == n_out
            assert f.inputs * f.steps * f.words == n_in
        else:
            assert reuse not in valid
            with pytest.raises(CompileError, match="must divide"):
                folding(n_in, n_out, reuse, words)


def test_inputs_are_shared_before_outputs():
    assert folding(64, 32, 16) == Folding(64, 32, 1, 1, 16)
    assert folding(64, 32, 128) == Folding(64, 32, 1, 2, 64)


def test_an_invalid_reuse_factor_names_the_nearest_valid_ones():
    graph = dense_net()
    with pytest.raises(CompileError) as e:
        emit(graph, VU13P, 5.0, resource(dense_0=7))
    assert str(e.value) == (
        "layer dense_0: the reuse factor must divide 8 x 12 = 96 products, not 7; the nearest valid ones are 6 and 8"
    )


def test_an_unknown_layer_is_refused_with_those_there_are():
    found = check_schedule(dense_net(), resource(dense_9=2))
    assert found == [
        "layer dense_9: there is no matrix layer of that name to be scheduled; known: dense_0, dense_1, dense_2"
    ]
    assert list(matrices(dense_net())) == ["dense_0", "dense_1", "dense_2"]


def test_reuse_needs_the_strategy_that_has_it():
    with pytest.raises(CompileError, match="schedule reuse: must be 1 with strategy 'latency', not 4; use strategy"):
        LayerSchedule("latency", 4)
    with pytest.raises(CompileError, match="schedule reuse: must be a whole number from 1, not True"):
        LayerSchedule("resource", True)
    with pytest.raises(CompileError, match="schedule strategy: must be one of latency, resource, distributed"):
        LayerSchedule("fast")


# ---- every strategy is exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, second", [(1, 120), (8, 24), (96, 5), (24, 1)])
def test_folded_layers_are_exact(first, second):
    text = exact(dense_net(), resource(dense_0=first, dense_1=second))
    assert ("#pragma HLS DATAFLOW" in text) == (first > 1 or second > 1)
    assert len(re.findall("PIPELINE II=1 rewind", text)) == 2


@pytest.mark.parametrize("rows", [1, 3])
def test_shift_add_networks_are_exact_and_have_no_multiplication(rows):
    names = ("dense_0", "dense_1", "dense_2")
    text = exact(dense_net(rows=rows), Schedule(layers=dict.fromkeys(names, LayerSchedule("distributed"))))
    assert "_weights" not in text
    assert len(re.findall(r"_shift_adds\(", text)) == 6
    assert "#pragma HLS DATAFLOW" not in text


@pytest.mark.parametrize("reuse", [2, 8, 24, 96])
def test_folded_layers_on_several_rows_are_exact(reuse):
    exact(dense_net(rows=3), resource(dense_0=reuse, dense_1=10))


def test_strategies_mix():
    layers = {"dense_0": LayerSchedule("distributed"), "dense_2": LayerSchedule("resource", 20)}
    exact(dense_net(), Schedule(layers=layers))


def test_one_input_and_one_output():
    exact(dense_net(sizes=(1, 6, 1)), resource(dense_0=6, dense_1=3))
    exact(dense_net(sizes=(4, 1, 2)), resource(dense_0=2, dense_1=1))


def residual():
    rng = np.random.default_rng(5)
    b = Builder("residual")
    x = b.add(Input((6,), Fixed(-8, 7, -2)), name="x")
    h = b.add(Linear(rng.integers(-8, 8, (6, 6)), -2), x, name="first")
    h = b.add(Quantize(Fixed(-16, 15, -2), Rounding.RND, Overflow.SAT), h, name="act")
    g = b.add(Linear(rng.integers(-8, 8, (6, 6)), -2), h, name="second")
    s = b.add(Add(), g, h, name="sum")
    t = b.add(Add(), s, x, name="again")
    total = b.add(ReduceSum(0), t, name="total")
    flat = b.add(Reshape((2, 3)), h, name="flat")
    constant = b.add(Constant(np.array([3, -1]), -1), name="constant")
    outputs = {"y": t, "total": total, "h": flat, "again": h, "x_too": x, "c": constant, "n": b.add(Neg(), total)}
    return b.graph([Output(name, node) for name, node in outputs.items()])


@pytest.mark.parametrize("interface", ["ap_vld", "axis"])
def test_an_array_with_several_readers_is_copied_for_each(interface):
    layers = {"first": LayerSchedule("resource", 6), "second": LayerSchedule("resource", 12)}
    text = exact(residual(), Schedule(layers=layers, interface=interface))
    top = text[text.index("void residual(") :]
    calls = re.findall(r"^ {4}\w+\((.*)\);$", top, re.MULTILINE)
    read = [name for call in calls for name in call.split(", ")]
    assert all(read.count(name) <= 2 for name in read)  # one writer, one reader


def test_weights_are_stored_in_their_own_width():
    hls = emit(dense_net(), VU13P, 5.0, resource(dense_1=60))
    weights = hls.project.files["firmware/weights/dense_1.h"]
    assert "static const STORED(ap_int<8>, signed char) dense_1_weights[60][2] = {" in weights
    text = hls.project.files["firmware/net.cpp"]
    assert "#pragma HLS ARRAY_RESHAPE variable=dense_1_weights complete dim=2" in text
    assert "#pragma HLS BIND_STORAGE variable=dense_1_weights type=rom_1p impl=lutram" in text


def test_an_array_that_passes_layers_by_holds_the_events_on_the_way():
    rng = np.random.default_rng(6)
    b = Builder("bypass")
    x = b.add(Input((8,), Fixed(-8, 7, -2)), name="x")
    h = x
    for k in range(4):
        h = b.add(Linear(rng.integers(-8, 8, (8, 8)), -3), h, name=f"layer_{k}")
        h = b.add(Quantize(Fixed(-8, 7, -2), Rounding.RND, Overflow.SAT), h, name=f"act_{k}")
    graph = b.graph([Output("y", b.add(Add(), h, x, name="sum"))])
    text = exact(graph, resource(layer_0=8, layer_1=8, layer_2=8, layer_3=8))
    (depth,) = re.findall(r"STREAM variable=x_\d type=pipo depth=(\d+)", text)
    assert 4 <= int(depth) <= 6  # an event in each of the four layers, and one on either side
    plain = exact(graph, Schedule())
    assert "pipo" not in plain
