"""A forest is the sum of its trees, whatever their shape; its type holds every sum; pruning keeps every value."""

from fractions import Fraction

import numpy as np
import pytest

from hwcompile.ir.errors import CompileError
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Forest, Input, Quantize
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.passes.forest import pruned
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.text import parse_graph
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.random_graphs import random_forest, random_inputs, random_type


def ints(*values):
    return np.array(values, np.int64)


STUMP = Forest(ints(0), ints(1), ints(3), ints(~0), ints(~1), ints([5], [-2]), -1, 0)


def graph_of(op, fixed, shape=(3,)):
    b = Builder("trees")
    x = b.add(Input(shape, fixed), name="x")
    return b.graph([Output("y", b.add(op, x, name="forest"))])


def by_hand(op, x, exp):
    """One event, one number after the other, in fractions."""
    total = [Fraction(0)] * op.values.shape[1]
    grid = np.broadcast_to(np.asarray(op.grid), len(x))
    for root in op.roots.tolist():
        at = root
        while at >= 0:
            f = op.features[at]
            below = int(x[f]) * Fraction(2) ** int(exp[f]) <= int(op.thresholds[at]) * Fraction(2) ** int(grid[f])
            at = int(op.left[at] if below else op.right[at])
        total = [t + int(v) * Fraction(2) ** op.exp for t, v in zip(total, op.values[~at])]
    return total


@pytest.mark.parametrize("seed", range(12))
def test_values_are_those_of_a_walk_in_fractions(seed):
    rng = np.random.default_rng(seed)
    fixed = random_type(rng, (5,))
    op = random_forest(rng, Tensor((5,), fixed), 7, 2, depth=5)
    graph = graph_of(op, fixed, (5,))
    data = random_inputs(graph, rng, 40)
    y, exp = evaluate(graph, data)["y"], Tensor((5,), fixed).arrays()[2]
    for event, row in zip(data["x"], y):
        assert [int(n) * Fraction(2) ** op.exp for n in row] == by_hand(op, event, exp)
    lo, hi, _ = graph.nodes[-1].type.arrays()
    assert ((lo <= y) & (y <= hi)).all()


def test_the_threshold_itself_goes_left_and_grids_may_differ():
    graph = graph_of(STUMP, Fixed.of(-8, 7, ints(0, 1, 0)))
    x = np.zeros((4, 3), np.int64)
    x[:, 1] = [1, 2, -8, 7]  # 2, 4, -16, 14
    assert evaluate(graph, {"x": x})["y"].tolist() == [[5], [-2], [5], [-2]]
    assert graph.nodes[-1].type == Tensor((1,), Fixed(-2, 5, -1))


def test_leading_axes_are_rows_of_features():
    graph = graph_of(STUMP, Fixed(-8, 7, 0), (2, 4, 3))
    x = np.random.default_rng(0).integers(-8, 8, (9, 2, 4, 3))
    assert np.array_equal(evaluate(graph, {"x": x})["y"], np.where(x[..., 1:2] <= 3, 5, -2))


def test_a_tree_without_comparisons_is_a_constant_and_the_text_form_comes_back():
    op = Forest(ints(~1, 0), ints(0), ints(0), ints(~0), ints(~1), ints([1, 2], [3, 4]), 0)
    graph = graph_of(op, Fixed(-4, 3, 0))
    assert evaluate(graph, {"x": ints([-1, 0, 0], [1, 0, 0])})["y"].tolist() == [[4, 6], [6, 8]]
    again = parse_graph(str(graph))
    assert str(again) == str(graph)


@pytest.mark.parametrize("seed", range(12))
def test_pruning_keeps_every_value_and_leaves_nothing_decided(seed):
    rng = np.random.default_rng(100 + seed)
    fixed = random_type(rng, (3,), bits=4)
    op = random_forest(rng, Tensor((3,), fixed), 6, 1, depth=6)
    smaller = pruned(op, Tensor((3,), fixed))
    again = pruned(smaller, Tensor((3,), fixed))
    graph = graph_of(op, fixed)
    data = random_inputs(graph, rng, 500)
    assert np.array_equal(evaluate(graph, data)["y"], evaluate(graph_of(smaller, fixed), data)["y"])
    assert len(again.features) == len(smaller.features) <= len(op.features)


def test_pruning_is_in_the_pipeline_and_needs_no_recursion():
    n = 3000  # a chain of comparisons, of which the operand can tell 16 apart
    op = Forest(ints(0), np.zeros(n, np.int64), np.arange(n) - 100, ~np.arange(n), np.append(np.arange(1, n), ~n),
                np.arange(n + 1)[:, None], 0)  # fmt: skip
    graph = run(graph_of(op, Fixed(-8, 7, 0), (1,)), PIPELINES["hardware"])
    found = graph.nodes[-1].op
    assert isinstance(found, Forest)
    assert len(found.features) == 15
    x = np.arange(-8, 8)[:, None]
    assert np.array_equal(evaluate(graph, {"x": x})["y"], x + 100)


def test_a_forest_of_a_constant_is_a_constant():
    b = Builder("constant")
    b.add(Input((3,), Fixed(0, 1, 0)), name="x")
    y = b.add(STUMP, b.add(Constant(ints(0, 9, 0))))
    graph = run(b.graph([Output("y", y)]), PIPELINES["simplify"])
    assert isinstance(graph.nodes[graph.outputs[0].node].op, Constant)
    assert evaluate(graph, {"x": np.zeros((1, 3), np.int64)})["y"].tolist() == [[-2]]


def test_features_that_no_tree_reads_are_dead():
    b = Builder("dead")
    x = b.add(Input((3,), Fixed(-8, 7, 0)), name="x")
    c = b.add(Constant(ints(1, 2, 3)), name="c")
    y = b.add(STUMP, b.add(Quantize(Fixed(-8, 7, 0), Rounding.TRN, Overflow.SAT), b.add(Add(), x, c)))
    graph = run(b.graph([Output("y", y)]), ("zero-unused-elements",))
    assert next(n.op for n in graph.nodes if n.name == "c").values.tolist() == [0, 2, 0]


BROKEN = {
    "a child that is an ancestor": (ints(0), ints(0, 0), ints(0, 0), ints(1, 0), ints(~0, ~1), ints([1], [2]), 0),
    "a node of two parents": (ints(0), ints(0, 0), ints(0, 0), ints(1, ~0), ints(1, ~1), ints([1], [2]), 0),
    "a leaf that is none": (ints(0), ints(0), ints(0), ints(~0), ints(~7), ints([1], [2]), 0),
    "arrays of different lengths": (ints(0), ints(0), ints(0, 1), ints(~0), ints(~1), ints([1], [2]), 0),
    "no tree": (ints(), ints(), ints(), ints(), ints(), ints([1]), 0),
    "a feature that is not there": (ints(0), ints(5), ints(0), ints(~0), ints(~1), ints([1], [2]), 0),
    "a negative feature": (ints(0), ints(-1), ints(0), ints(~0), ints(~1), ints([1], [2]), 0),
    "sums above 62 bits": (ints(0), ints(0), ints(0), ints(~0), ints(~1), ints([1 << 62], [2]), 0),
    "a finer operand": (ints(0), ints(0), ints(0), ints(~0), ints(~1), ints([1], [2]), 0, 1),
    "exponents of other features": (ints(0), ints(0), ints(0), ints(~0), ints(~1), ints([1], [2]), 0, ints(0, 1)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_forest_is_refused(what):
    with pytest.raises(CompileError, match="forest"):
        graph_of(Forest(*BROKEN[what]), Fixed(-8, 7, 0))
