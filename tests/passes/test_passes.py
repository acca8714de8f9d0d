"""Each pass alone: text in, text out; and the pipelines keep every output of random graphs."""

import numpy as np
import pytest

from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import (
    Add,
    Compare,
    Constant,
    Input,
    Linear,
    Lookup,
    Maximum,
    Mul,
    Neg,
    Quantize,
    Requantize,
    Select,
)
from hwcompile.ir.passes import PASSES, PIPELINES, run
from hwcompile.ir.passes.staircase import multiply_shift, prove
from hwcompile.ir.rational import as_rational
from hwcompile.ir.rounding import Overflow, Rounding, round_ratio
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.random_graphs import random_graph
from hwcompile.verify.vectors import corner_vectors, join_vectors, random_vectors


def vectors(graph, seed=0):
    return join_vectors(random_vectors(graph, 200, seed), corner_vectors(graph))


def ops(graph):
    return [n.op.name for n in graph.nodes]


def same(before, after):
    data = vectors(before)
    a, b = evaluate(before, data), evaluate(after, data)
    return all((a[k] == b[k]).all() for k in a)


def start(lo=-8, hi=7, exp=0, n=2):
    b = Builder("g")
    return b, b.add(Input((n,), Fixed(lo, hi, exp)), name="x")


def test_fold_constants():
    b, x = start()
    c = b.add(Add(), b.add(Constant(np.array([1, 2]))), b.add(Constant(np.array([3, 4]), -1)), name="sum")
    g = b.graph([Output("y", b.add(Add(), x, c))])
    h = run(g, ("fold-constants", "remove-dead"))
    assert ops(h) == ["input", "constant", "add"]
    assert h.nodes[1].op.values.tolist() == [5, 8]
    assert same(g, h)


def test_fold_affine_moves_batch_norm_into_the_matrix():
    b, x = start()
    y = b.add(Linear(np.array([[1, 2], [3, -4]])), x, name="dense")
    y = b.add(Mul(), y, b.add(Constant(np.array([3, 5]), [-2, -1])), name="gamma")
    y = b.add(Add(), y, b.add(Constant(np.array([1, -1]))), name="beta")
    g = b.graph([Output("y", y)])
    h = run(g, ("fold-affine", "remove-dead"))
    assert ops(h) == ["input", "linear", "constant", "add"]
    assert h.nodes[1].op.weights.tolist() == [[3, 10], [9, -20]]
    assert same(g, h)


def test_fold_affine_moves_an_input_scale_into_the_matrix():
    b, x = start()
    y = b.add(Mul(), x, b.add(Constant(np.array([3, 5]), [0, -1])))
    y = b.add(Add(), y, b.add(Constant(np.array([7, 1]))))
    g = b.graph([Output("y", b.add(Linear(np.array([[1, 2], [3, -4]])), y, name="dense"))])
    h = run(g, ("fold-affine", "fold-affine", "remove-dead"))
    assert ops(h) == ["input", "linear", "constant", "add"]
    assert same(g, h)


def test_narrow_ranges_drops_idle_quantizers_and_repeated_limits():
    b, x = start()
    y = b.add(Quantize(Fixed(-16, 15, 0), Rounding.RND, Overflow.SAT), x, name="idle")
    y = b.add(Maximum(), y, b.add(Constant(np.array(0))), name="relu")
    y = b.add(Quantize(Fixed(0, 3, 1), Rounding.TRN, Overflow.SAT), y, name="q")
    g = b.graph([Output("y", y)])
    h = run(g, ("narrow-ranges", "remove-dead"))
    assert ops(h) == ["input", "quantize"]
    assert same(g, h)


def test_narrow_ranges_decides_comparisons_and_choices():
    b, x = start(0, 7)
    bit = b.add(Compare("less_equal"), b.add(Constant(np.array(0))), x)
    y = b.add(Neg(), b.add(Select(), bit, x, b.add(Constant(np.array(9)))))
    g = b.graph([Output("y", y)])
    h = run(g, ("narrow-ranges", "remove-dead"))
    assert ops(h) == ["input", "neg"]
    assert same(g, h)


def test_narrow_ranges_trims_tables():
    b, x = start(-2, 1)
    g = b.graph([Output("y", b.add(Lookup(np.arange(16), -8, 0, 0), x))])
    h = run(g, ("narrow-ranges",))
    assert h.nodes[1].op.table.tolist() == [6, 7, 8, 9]
    assert same(g, h)


@pytest.mark.parametrize("rounding", Rounding)
def test_drop_unseen_bits_keeps_every_rounding_decision(rounding):
    rng = np.random.default_rng(3)
    b, x = start(-64, 63, -3, n=12)
    bias = np.concatenate([rng.integers(-(2**20), 2**20, 10), [0, 2**14]])
    y = b.add(Add(), x, b.add(Constant(bias, -16), name="bias"), name="sum")
    y = b.add(Maximum(), y, b.add(Constant(np.array(-2))), name="limit")
    y = b.add(Quantize(Fixed(-8, 7, -1), rounding, Overflow.SAT), y, name="q")
    g = b.graph([Output("y", y)])
    h = run(g, ("drop-unseen-bits", "remove-dead"))
    constant = next(n.op for n in h.nodes if n.name.startswith("bias"))
    assert int(np.min(constant.exp)) >= -4
    data = {"x": np.tile(np.arange(-64, 64)[:, None], (1, 12))}
    assert (evaluate(g, data)["y"] == evaluate(h, data)["y"]).all()


def test_drop_unseen_bits_leaves_outputs_alone():
    b, x = start()
    g = b.graph([Output("y", b.add(Add(), x, b.add(Constant(np.array([1, 3]), -9))))])
    assert str(run(g, ("drop-unseen-bits",))) == str(g)


def test_zero_unused_elements():
    b, x = start()
    y = b.add(Add(), b.add(Linear(np.array([[1, 2], [3, 4]])), x, name="a"), b.add(Constant(np.array([5, 6]))))
    g = b.graph([Output("y", b.add(Linear(np.array([[1], [0]])), y, name="b"))])
    h = run(g, ("zero-unused-elements",))
    assert h.nodes[1].op.weights.tolist() == [[1, 0], [3, 0]]
    assert h.nodes[2].op.values.tolist() == [5, 0]
    assert same(g, h)


def test_merge_equal_and_remove_dead():
    b, x = start()
    one, two = (b.add(Linear(np.array([[1], [3]])), x, name=n) for n in ("one", "two"))
    b.add(Linear(np.array([[9], [9]])), x, name="dead")
    g = b.graph([Output("y", b.add(Add(), one, two))])
    h = run(g, ("merge-equal", "remove-dead"))
    assert [n.name for n in h.nodes] == ["x", "one", "add"]
    assert same(g, h)


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("seed", range(6))
def test_multiply_shift_equals_the_law_on_the_whole_interval(rounding, seed):
    rng = np.random.default_rng(seed)
    x = Tensor((6,), Fixed.of(rng.integers(-3000, 0, 6), rng.integers(0, 3000, 6), rng.integers(-4, 3)))
    scale = as_rational((rng.normal(size=6) * 10.0 ** rng.integers(-4, 0)).astype(np.float32))
    if seed % 3 == 0:  # scales with ties
        scale = as_rational(rng.choice([0.25, 0.5, -1.5, 0.375], 6))
    op = Requantize(scale, as_rational(rng.choice([0.0, 0.5, 0.3], 6)), Fixed(-128, 127, -1), rounding)
    found = multiply_shift(op, x)
    if found is None:
        return
    assert prove(op, x, found) is None
    lo, hi, _ = x.arrays()
    n = np.clip(np.arange(-3000, 3001)[:, None] + np.zeros((1, 6), np.int64), lo, hi)
    result = op.infer(x)
    got = np.clip(
        round_ratio(n * found.multiplier + found.bias, np.int64(1) << found.shift, found.rounding), *result.arrays()[:2]
    )
    assert (got == op.evaluate(result, [x], n)).all()
    off = type(found)(
        found.multiplier, found.bias + (np.int64(1) << np.maximum(found.shift, 1)) // 2, found.shift, found.rounding
    )
    assert prove(op, x, off) is not None


@pytest.mark.parametrize("exp", [0, np.array([0, -2])])
def test_uneven_ties_become_a_table(exp):
    b, x = start(-40, 40)
    third = as_rational(np.array([1.0, 1.0])) / 6 * np.array([1, 1], object)
    to = Fixed(-8, 7, exp)
    g = b.graph([Output("y", b.add(Requantize(third, as_rational(0.0), to, Rounding.RND_CONV), x, name="q"))])
    h = run(g, PIPELINES["hardware"])
    assert "lookup" in ops(h)
    data = {"x": np.tile(np.arange(-40, 41)[:, None], (1, 2))}
    assert (evaluate(g, data)["y"] == evaluate(h, data)["y"]).all()


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("seed", range(6))
def test_every_pass_keeps_random_graphs(name, seed):
    g = random_graph(np.random.default_rng(100 + seed))
    assert same(g, run(g, (name,)))


@pytest.mark.parametrize("seed", range(20))
def test_pipelines_keep_random_graphs(seed):
    g = random_graph(np.random.default_rng(seed))
    h = run(g, PIPELINES["simplify"] + PIPELINES["hardware"])
    assert "requantize" not in ops(h)
    assert same(g, h)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SAT])
def test_rounding_to_nearest_moves_into_the_bias(relu, overflow):
    b = Builder("g")
    x = b.add(Input((4,), Fixed.of(-40, 40, np.array([-4, -3, 0, -2]))), name="x")
    total = b.add(Add(), x, b.add(Constant(np.array([5, -3, 2, 0]), np.array([-4, -1, 0, -2])), name="c"), name="sum")
    if relu:
        total = b.add(Maximum(), total, b.add(Constant(np.array(0), 0), name="zero"), name="relu")
    to = Fixed.of(0, 15, np.array([-2, -1, 0, 1])) if relu else Fixed.of(-8, 7, np.array([-2, -1, 0, 1]))
    q = b.add(Quantize(to, Rounding.RND, overflow), total, name="q")
    before = b.graph([Output("y", q)])
    after = run(before, ("round-by-bias", "remove-dead"))
    assert after.nodes[-1].op.rounding is Rounding.TRN
    assert ops(after).count("add") == 1
    same(before, after)


def test_rounding_stays_where_the_sum_has_another_reader():
    b = Builder("g")
    x = b.add(Input((2,), Fixed(-40, 40, -4)), name="x")
    total = b.add(Add(), x, b.add(Constant(np.array([5, -3]), -4), name="c"), name="sum")
    q = b.add(Quantize(Fixed(-8, 7, -2), Rounding.RND, Overflow.SAT), total, name="q")
    before = b.graph([Output("y", q), Output("z", total)])
    assert run(before, ("round-by-bias",)).nodes[-1].op.rounding is Rounding.RND
