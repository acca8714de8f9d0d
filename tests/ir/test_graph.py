"""Builder, verify, text form, reference evaluation and the scalar level."""

import tracemalloc

import numpy as np
import pytest

from hwcompile import CompileError
from hwcompile.ir.evaluate import evaluate, from_real, to_real
from hwcompile.ir.graph import Builder, Graph, Node, Output, verify
from hwcompile.ir.ops import OPS, Add, Constant, Input, Linear, Maximum, Quantize, Requantize
from hwcompile.ir.rational import Affine, as_rational
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.scalar import ScalarBuilder, ScalarOutput, from_graph
from hwcompile.ir.text import parse_graph
from hwcompile.ir.types import Fixed, Tensor
from hwcompile.verify.random_graphs import random_graph


def toy():
    b = Builder("toy")
    x = b.add(Input((2,), Fixed(-8, 7, -2)), name="x")
    y = b.add(Linear(np.array([[1, 2], [-3, 0]]), -1), x, name="dense")
    z = b.add(
        Maximum(),
        b.add(Add(), y, b.add(Constant(np.array([1, -5]), -4), name="bias")),
        b.add(Constant(np.array(0))),
        name="relu",
    )
    q = b.add(Requantize(as_rational([0.1, 0.3]), as_rational(0.5), Fixed(0, 15, 0)), z, name="q")
    return b.graph([Output("y", q, Affine(as_rational(0.25)))])


def test_text_form_round_trips():
    graph = toy()
    text = str(graph)
    assert "dense = linear(x)" in text
    again = parse_graph(text)
    assert str(again) == text
    assert again.digest == graph.digest
    data = {"x": np.array([[7, -8], [0, 1]])}
    assert evaluate(again, data)["y"].tolist() == evaluate(graph, data)["y"].tolist()


@pytest.mark.parametrize("seed", range(12))
def test_text_form_of_random_graphs(seed):
    graph = random_graph(np.random.default_rng(seed))
    verify(graph)
    assert str(parse_graph(str(graph))) == str(graph)


@pytest.mark.parametrize(
    "change,sentence",
    [
        (lambda t: t.replace("hwcompile graph 1", "something"), "must start with 'hwcompile graph 1'"),
        (lambda t: t.replace("maximum(", "maxinum("), "no op is called 'maxinum'"),
        (
            lambda t: t.replace('"rounding": "RND_CONV", "overflow"', '"rounding": "UP", "overflow"'),
            "line 3: cannot be read",
        ),
        (lambda t: t.replace("dense = linear(x)", "dense = linear(y)"), "line 4: cannot be read (KeyError"),
        (lambda t: t.replace('"exp": -1', '"exq": -1'), "linear takes the attributes"),
        (lambda t: t.replace(": [2] -8..7 * 2^-2", ": [2] -8..6 * 2^-2"), "x (input): the type must be the inferred"),
        (lambda t: t.split("return")[0], "at least one output"),
    ],
)
def test_damaged_text_is_refused(change, sentence):
    with pytest.raises(CompileError) as e:
        parse_graph(change(str(toy())))
    assert sentence in str(e.value)


def test_verify_names_the_broken_node():
    graph = toy()
    nodes = list(graph.nodes)
    nodes[1] = Node("x", *[getattr(nodes[1], k) for k in ("op", "operands", "type")])
    with pytest.raises(CompileError, match=r"x \(linear\): names must be unique"):
        verify(Graph("toy", tuple(nodes), graph.outputs))


def test_builder_names_the_node_it_refuses():
    b = Builder("g")
    x = b.add(Input((3,), Fixed(0, 1, 0)), name="x")
    with pytest.raises(CompileError, match=r"^d \(linear\): the operand's last axis"):
        b.add(Linear(np.ones((2, 2), np.int64)), x, name="d")
    assert [b.nodes[b.add(Add(), x, x, name="a/b 1")].name for _ in range(2)] == ["a_b_1", "a_b_1_1"]


@pytest.mark.parametrize(
    "data,sentence",
    [
        ({}, "data must be given for every input"),
        ({"x": np.zeros((3, 5), int)}, "must have shape [events, 2], not [3, 5]"),
        ({"x": np.zeros((3, 2))}, "raw data must be integers, not float64"),
        ({"x": np.full((3, 2), 8)}, "raw data must be within -8..7, not 8 at [0, 0]"),
    ],
)
def test_evaluate_refuses_wrong_data(data, sentence):
    with pytest.raises(CompileError) as e:
        evaluate(toy(), data)
    assert sentence in str(e.value)


@pytest.mark.parametrize(
    "mode,expected",
    [
        (Rounding.RND_CONV, [-2, 0, 0, 2, 7, -8]),
        (Rounding.RND, [-1, 0, 1, 2, 7, -8]),
        (Rounding.TRN, [-2, -1, 0, 1, 7, -8]),
    ],
)
def test_real_data_to_integers_and_back(mode, expected):
    op = Input((6,), Fixed(-8, 7, -1), rounding=mode)
    n = from_real(op, np.array([[-0.75, -0.25, 0.25, 0.75, 1e9, -1e9]]))
    assert n.tolist() == [expected]
    assert to_real(op.infer(), Affine(), n).tolist() == [[v / 2 for v in expected]]
    with pytest.raises(CompileError, match="data must be finite, not nan"):
        from_real(op, np.full((1, 6), np.nan))


def test_float_scale_of_an_input_divides_in_float32():
    scale = np.float32(0.0371)
    op = Input((1,), Fixed(-128, 127, 0), Affine(as_rational(scale)))
    x = np.linspace(-6, 6, 4001, dtype=np.float32)[:, None]
    assert (from_real(op, x) == np.clip(np.round(x / scale), -128, 127)).all()


def test_scalar_level_equals_the_tensor_level():
    b = ScalarBuilder("s")
    x = b.inputs("x", Tensor((3,), Fixed.of([-8, 0, -3], [7, 15, 4], [0, -1, 2])))
    rng = np.random.default_rng(0)
    rows = [int(r) for r in x]
    quant = Quantize(Fixed(-16, 15, -1), Rounding.RND_CONV, Overflow.SAT)
    for k in range(40):
        i, j = (rows[v] for v in rng.integers(len(rows), size=2))
        choices = (b.add, b.sub, b.neg, b.maximum, b.minimum, b.apply)
        operands = ((i, j, 0, 2), (i, j, 1), (i, 1), (i, j), (i, j, 0, 1), (quant, i, -1))
        rows.append(choices[k % 6](*operands[k % 6]))
        rows[-1] = b.apply(quant, rows[-1])
    y = b.mul(rows[-1], rows[-2])
    program = b.build([ScalarOutput("y", (2,), np.array([rows[-1], y]))])
    assert len(program) == len(b)
    t = Tensor((3,), Fixed.of([-8, 0, -3], [7, 15, 4], 0))
    data = {"x": rng.integers(t.fixed.lo, t.fixed.hi, (50, 3), endpoint=True)}
    got = program.evaluate(data)["y"]
    graph = program.to_graph()
    verify(graph)
    columns = {f"x.{k}": data["x"][:, k] for k in range(3)}
    law = evaluate(graph, columns)
    assert (got == np.stack([law["y.0"], law["y.1"]], axis=1)).all()
    again = from_graph(parse_graph(str(graph)))
    assert (again.evaluate(columns)["y.0"] == got[:, 0]).all()


def test_a_hundred_thousand_scalar_ops_stay_small():
    tracemalloc.start()
    b = ScalarBuilder("big")
    x = b.inputs("x", Tensor((64,), Fixed(-128, 127, -4)))
    for k in range(100_000):
        (b.add if k % 2 else b.sub)(int(x[k % 64]), int(x[(k * 7) % 64]), 0, k % 5)
    program = b.build([])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(program) == 100_064
    assert peak < 50e6


def test_every_op_is_documented_and_has_text_attributes():
    for op in OPS.values():
        assert op.__doc__.strip().endswith((".", "table."))
