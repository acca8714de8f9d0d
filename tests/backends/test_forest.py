"""Every engine sums decision trees as the reference does, whatever their shapes, depths, widths and leading axes."""

import numpy as np
import pytest

from hwcompile.codegen import cpu, gpu, hls, rtl
from hwcompile.codegen.cpu.forest import forest_lane
from hwcompile.codegen.hls.simulate import simulate as simulate_hls
from hwcompile.codegen.rtl.estimate import estimate
from hwcompile.codegen.rtl.simulate import verify as verify_rtl
from hwcompile.codegen.schedule import Schedule
from hwcompile.codegen.schedule_costs import estimate_schedule
from hwcompile.codegen.unroll import unroll
from hwcompile.hw_targets import load_target
from hwcompile.hw_targets.yosys import synthesize
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Forest, Gather, Input, Quantize
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.scalar import Code
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.random_graphs import random_forest, random_inputs, random_type

VU9P = load_target("vu9p")


def forest_graph(seed, trees=8, depth=5, outputs=1, shape=(4,), bits=8, left=0, prune=True, around=False):
    """Random trees; `left` widens the leaves; `around`: a choice of inputs before them and a quantizer behind them."""
    rng = np.random.default_rng(seed)
    b = Builder("trees")
    x = b.add(Input(shape, random_type(rng, shape, bits)), name="x")
    if around:
        x = b.add(Gather(rng.integers(0, b.type(x).size, (2, 5))), x)
    op = random_forest(rng, b.type(x), trees, outputs, depth)
    op = Forest(op.roots, op.features, op.thresholds, op.left, op.right, op.values << left, op.exp, op.grid)
    y = b.add(op, x, name="forest")
    if around:
        y = b.add(Add(), y, b.add(Constant(np.array(3), op.exp)))
        y = b.add(Quantize(Fixed(-64, 63, op.exp + 1), Rounding.RND, Overflow.SAT), y)
    graph = b.graph([Output("y", y)])
    return run(graph, PIPELINES["hardware"]) if prune else graph


CASES = {
    "stumps": {"depth": 1},
    "several outputs": {"outputs": 3},
    "rows": {"shape": (2, 3, 4)},
    "deep": {"depth": 11, "trees": 4},
    "deep with outputs": {"depth": 9, "outputs": 2, "trees": 4},
    "wide leaves": {"left": 40, "outputs": 2},
    "wide features": {"bits": 34, "depth": 9},
    "one bit": {"bits": 1},
    "unpruned": {"prune": False, "depth": 6, "bits": 3},
    "in a network": {"around": True, "shape": (3, 4), "outputs": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_the_unrolled_program(case):
    graph = forest_graph(1, **CASES[case])
    data = random_inputs(graph, np.random.default_rng(0), 300)
    assert np.array_equal(unroll(graph).evaluate(data)["y"], evaluate(graph, data)["y"])


@pytest.mark.parametrize("case", CASES)
def test_the_cpu_engine(case):
    graph = forest_graph(2, **CASES[case])
    data = random_inputs(graph, np.random.default_rng(0), 333)
    assert np.array_equal(cpu.build(graph).run(data)["y"], evaluate(graph, data)["y"])


@pytest.mark.parametrize("case", CASES)
def test_the_gpu_kernels(case):
    gpu.interpret_here()
    graph = forest_graph(3, **CASES[case])
    data = random_inputs(graph, np.random.default_rng(0), 100)
    assert np.array_equal(gpu.build(graph).run(data)["y"], evaluate(graph, data)["y"])


@pytest.mark.parametrize("case", ["several outputs", "rows", "deep with outputs", "in a network"])
def test_the_verilog(case):
    graph = forest_graph(4, **CASES[case])
    verify_rtl(rtl.emit(graph, VU9P, 2.0), random_inputs(graph, np.random.default_rng(0), 300), bubbles=0.2)


@pytest.mark.parametrize("architecture", ["parallel", "stream"])
@pytest.mark.parametrize(
    "case", ["several outputs", "rows", "deep with outputs", "wide features", "unpruned", "in a network"]
)
def test_the_hls_project(case, architecture):
    graph = forest_graph(5, **CASES[case])
    data = random_inputs(graph, np.random.default_rng(0), 200)
    project = hls.emit(graph, VU9P, 5.0, Schedule(architecture))
    assert np.array_equal(simulate_hls(project, data)["y"], evaluate(graph, data)["y"])
    cost = estimate_schedule(graph, VU9P, 5.0, Schedule(architecture))
    assert cost.total("lut") > 0


def test_the_gpu_kernels_compile_to_machine_code():
    made = gpu.compile_kernels(gpu.emit(forest_graph(3, **CASES["in a network"])), (90,))
    assert made
    assert all(m["cubin"] > 1000 for m in made)


def test_sums_that_leave_32_bits_on_the_way_are_wide_in_the_cpu_engine():
    x = Tensor((1,), Fixed(0, 3, 0))
    one = np.array
    big = Forest(
        one([0, ~2]), one([0]), one([1]), one([~0]), one([~1]), one([[1 << 30], [(1 << 30) + 5], [-(1 << 30)]]), 0
    )
    assert big.infer(x).fixed == Fixed(0, 5, 0)
    assert forest_lane(big, x) == "wide"


def test_comparisons_are_shared_and_a_small_tree_is_a_table():
    b = Builder("shared")
    x = b.add(Input((2,), Fixed(0, 255, 0)), name="x")
    half = np.array
    trees = [[0, 100], [1, 50], [0, 100], [1, 50]]  # two trees of the same two comparisons
    op = Forest(half([0, 2]), half(trees)[:, 0], half(trees)[:, 1], half([1, ~0, 3, ~3]), half([~1, ~2, ~4, ~5]),
                half([[1], [2], [4], [7], [1], [3]]), 0)  # fmt: skip
    scalar = unroll(b.graph([Output("y", b.add(op, x))]))
    codes = scalar.code.tolist()
    assert codes.count(Code.LESS_EQUAL) == 2
    assert codes.count(Code.LOOKUP) == 2
    assert codes.count(Code.MUL) == 0


def full_trees(rng, trees, depth, features):
    """Complete trees over 8-bit features, with 8-bit leaves."""
    size = (1 << depth) - 1
    k, t = np.tile(np.arange(size), trees), np.repeat(np.arange(trees), size)
    below = [2 * k + side for side in (1, 2)]
    left, right = (np.where(c < size, t * size + c, ~(t * (size + 1) + c - size)) for c in below)
    thresholds, values = rng.integers(-120, 120, len(k)), rng.integers(-120, 121, (trees * (size + 1), 1))
    return Forest(np.arange(trees) * size, rng.integers(0, features, len(k)), thresholds, left, right, values, -8, -4)


@pytest.mark.parametrize(("trees", "depth"), [(30, 3), (20, 5)])
def test_the_estimate_is_near_what_yosys_makes(trees, depth):
    b = Builder("bdt")
    x = b.add(Input((8,), Fixed(-128, 127, -4)), name="x")
    op = full_trees(np.random.default_rng(0), trees, depth, 8)
    graph = run(b.graph([Output("y", b.add(op, x))]), PIPELINES["hardware"])
    design = rtl.emit(graph, VU9P, 5.0)
    module = design.verilog.layers[0]
    found = synthesize({"m.v": module.text}, module.name, VU9P).lut
    ratio = found / estimate(design.scalar, design.pipeline, VU9P, 5.0).lut
    assert 0.9 < ratio < 1.45  # Yosys does not put two functions into one LUT
    assert 0.8 < found / estimate_schedule(graph, VU9P, 5.0, Schedule()).total("lut") < 1.25
