"""The scalar program equals the tensor graph, is no wider than it, and does no work that is decided before."""

import numpy as np
import pytest

from hwcompile.codegen.unroll import unroll, unroll_nodes
from hwcompile.ir.errors import CompileError
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Compare, Constant, Input, Linear, Maximum, Quantize, Requantize, Select
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.scalar import Code, from_graph
from hwcompile.ir.types import Fixed
from hwcompile.verify.random_graphs import choices_graph, random_graph, random_inputs


def same(graph, events=40, seed=0):
    scalar = unroll(graph)
    x = random_inputs(graph, np.random.default_rng(seed), events)
    expected, found = evaluate(graph, x), scalar.evaluate(x)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name}\n{graph}")
    return scalar


@pytest.mark.parametrize("block", range(8))
def test_random_graphs(block):
    for seed in range(block * 25, block * 25 + 25):
        rng = np.random.default_rng(seed)
        same(random_graph(rng, int(rng.integers(3, 25))), seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_rows_are_no_wider_than_tensors(seed):
    graph = random_graph(np.random.default_rng(1000 + seed), 20)
    unrolled = unroll_nodes(graph)
    s = unrolled.scalar
    for node, wires in zip(graph.nodes, unrolled.wires):
        for (row, shift, sign), lo, hi, exp in zip(wires.flat(), *(f.tolist() for f in node.type.flat())):
            if row < 0:
                continue
            t = Fixed(int(s.lo[row]), int(s.hi[row]), int(s.exp[row]) + shift)
            t = t if sign > 0 else -t
            scale = 2.0 ** (t.exp - exp)
            assert lo <= t.lo * scale <= t.hi * scale <= hi, node.name


def dense(weights, fixed, *more, bias=None):
    b = Builder("net")
    x = b.add(Input((weights.shape[0],), fixed), name="x")
    y = b.add(Linear(weights), x, name="dense")
    if bias is not None:
        y = b.add(Add(), y, b.add(Constant(bias)))
    for op in more:
        y = b.add(op, y)
    return b.graph([Output("y", y)])


def test_zero_bias_and_decided_maximum_cost_nothing():
    weights = np.array([[1, 2], [3, 5]])
    b = Builder("net")
    x = b.add(Input((2,), Fixed(0, 15, 0)), name="x")
    y = b.add(Add(), b.add(Linear(weights), x), b.add(Constant(np.array([0, 0]))))
    y = b.add(Maximum(), y, b.add(Constant(np.array(0))))
    scalar = same(b.graph([Output("y", y)]))
    assert set(scalar.code.tolist()) == {Code.INPUT, Code.CONSTANT, Code.ADD}


def test_choices_that_are_decided_cost_nothing():
    b = Builder("net")
    x = b.add(Input((2,), Fixed(0, 15, 0)), name="x")
    y = b.add(Input((2,), Fixed(15, 31, 0)), name="y")
    bit = b.add(Compare("less_equal"), x, y)
    again = b.add(Compare("equal"), x, x)
    scalar = same(b.graph([Output("y", b.add(Select(), bit, x, y)), Output("z", b.add(Select(), again, x, y))]))
    assert set(scalar.code.tolist()) <= {Code.INPUT, Code.CONSTANT}


@pytest.mark.parametrize("seed", range(5))
def test_choices(seed):
    scalar = same(choices_graph(np.random.default_rng(seed)), seed=seed)
    x = random_inputs(choices_graph(np.random.default_rng(seed)), np.random.default_rng(1), 30)
    graph = scalar.to_graph()
    split = {f"{k}.{j}": v[:, j] for k, v in x.items() for j in range(v.shape[1])}
    again, wanted = from_graph(graph).evaluate(split), evaluate(graph, split)
    assert all((again[k] == wanted[k]).all() for k in wanted)


def test_equal_quantizers_of_one_row_are_shared():
    b = Builder("net")
    x = b.add(Input((1,), Fixed(-128, 127, -4)), name="x")
    to = Fixed(-8, 7, -1)
    outputs = [b.add(Quantize(to, Rounding.TRN, Overflow.SAT), x) for _ in range(3)]
    scalar = same(b.graph([Output(f"y{k}", o) for k, o in enumerate(outputs)]))
    assert int((scalar.code == Code.QUANTIZE).sum()) == 1


def test_operand_exponents_per_element():
    weights = np.array([[3, -1, 0], [5, 7, 0], [-2, 9, 0]])
    fixed = Fixed.of([-8, 0, -3], [7, 15, 2], [-2, 3, 0])
    scalar = same(dense(weights, fixed, bias=np.array([1, -2, 0])))
    assert scalar.code[scalar.outputs[0].rows[2]] == Code.CONSTANT


def test_layers_are_groups():
    graph = dense(np.array([[3, 5], [7, 9]]), Fixed(-8, 7, 0), Quantize(Fixed(-8, 7, 2), Rounding.TRN, Overflow.SAT))
    scalar = unroll(graph)
    assert scalar.groups == ("dense",)
    assert set(scalar.group.tolist()) == {-1, 0}


def test_requantize_is_refused_by_name():
    from fractions import Fraction

    b = Builder("net")
    x = b.add(Input((1,), Fixed(-128, 127, 0)), name="x")
    y = b.add(Requantize(Fraction(1, 3), Fraction(0), Fixed(-8, 7, 0)), x, name="scale")
    with pytest.raises(CompileError, match=r"scale \(requantize\): cannot be unrolled; run the pipeline 'hardware'"):
        unroll(b.graph([Output("y", y)]))
