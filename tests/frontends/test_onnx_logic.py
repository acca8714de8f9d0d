"""Comparisons, logic, order and choice in ONNX against the standard's own evaluation, exactly."""

from fractions import Fraction

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Net, standard

import hwcompile as hc
from hwcompile import CompileError


def run(net, *outputs, shape, seed=0, most=64, kind=None):
    model = net.model(*outputs)
    if kind is not None:
        for o in model.graph.output:
            o.type.tensor_type.elem_type = kind
    x = (np.random.default_rng(seed).integers(-most, most + 1, (60, *shape)) / 16).astype(np.float32)
    got = hc.compile(model, backends=()).predict(x, engine="reference")
    return (list(got.values()) if isinstance(got, dict) else [got]), standard(model, x)


def exact(net, *outputs, **options):
    for a, b in zip(*run(net, *outputs, **options), strict=True):
        assert a.shape == b.shape
        assert (a == b).all()


RELATIONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")


NUMPY = (np.greater, np.greater_equal, np.less, np.less_equal, np.equal)


@pytest.mark.parametrize("scales", [(0.25, 0.25), (0.25, 0.0625), (0.3, 0.1), (0.3, 0.7), (0.0371, 0.25)])
@pytest.mark.parametrize("name,relation", list(zip(RELATIONS, NUMPY)))
def test_relations_on_any_scales(name, relation, scales):
    """The values that float scales stand for are compared, not their integers, in exact arithmetic."""
    net = Net((6,))
    net.inputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6]))
    x, y = (net.quant(v, s, b) for v, s, b in zip("xy", scales, (6, 5)))
    limit = np.float32([0.25, -1.5, 0.3, 0.0, 2.1, -0.7])
    model = net.model(net.op(name, x, y), net.op(name, x, net.const(limit)), net.op(name, net.const(limit), y))
    raw = {k: np.random.default_rng(3).integers(-(1 << b - 1), 1 << b - 1, (300, 6)) for k, b in (("x", 6), ("y", 5))}
    found = hc.compile(model, backends=()).predict(raw, raw=True, engine="reference").values()
    u, v = (raw[k].astype(object) * Fraction(float(np.float32(s))) for k, s in zip("xy", scales))
    c = np.broadcast_to(np.array([Fraction(float(n)) for n in limit]), u.shape)
    for got, pair in zip(found, ((u, v), (u, c), (c, v))):
        assert (got == relation(*pair).astype(int)).all()


def test_relations_equal_the_standard():
    net = Net((2, 3))
    x = net.quant("x", 0.25, 5)
    y = net.op("Relu", net.op("Neg", x))
    outputs = [
        net.op("Cast", net.op(n, a, b), to=1) for n in RELATIONS for a, b in ((x, y), (x, net.const([0.5, -1, 0])))
    ]
    exact(net, *outputs, shape=(2, 3))


def test_logic_and_where():
    net = Net((2, 3))
    x = net.quant("x", 0.25, 5)
    a, b = net.op("Greater", x, net.const(0.5)), net.op("Less", x, net.const([[1.0], [-0.25]]))
    bits = [net.op("And", a, b), net.op("Or", a, b), net.op("Xor", a, b), net.op("Not", a)]
    outputs = [net.op("Cast", o, to=1) for o in bits]
    outputs += [net.op("Where", a, x, net.op("Mul", x, x)), net.op("Where", b, net.const(0.0), x),
                net.op("Where", bits[2], net.const([[1.5], [2.5]]), net.const([1.0, 2.0, 3.0]))]  # fmt: skip
    outputs.append(
        net.op("Mul", net.op("Cast", net.op("Cast", x, to=9), to=1), net.op("Cast", net.op("Cast", x, to=7), to=1))
    )
    exact(net, *outputs, shape=(2, 3))


def test_a_choice_keeps_a_common_scale():
    net = Net((4,))
    x = net.quant("x", 0.0371, 6)
    design = hc.compile(
        net.model(net.op("Where", net.op("Greater", x, net.const(0.5)), x, net.const(0.0))), backends=()
    )
    assert [n.op.name for n in design.graph.nodes if n.op.name not in ("input", "constant")] == ["compare", "select"]


def test_functions_that_are_choices():
    net = Net((6,))
    x = net.quant("x", 0.25, 6)
    outputs = [net.op("Sign", x), net.op("ThresholdedRelu", x, alpha=0.5), net.op("Shrink", x, lambd=0.75, bias=0.25),
               net.op("Mod", x, net.const(1.5), fmod=1)]  # fmt: skip
    exact(net, *outputs, shape=(6,))


def test_mod_of_whole_numbers_has_the_sign_of_the_divisor():
    net = Net((9,))
    y = net.op("Mod", net.quant("x", 1.0, 6), net.const(5.0))
    x = np.arange(-4.0, 5)[None]
    assert hc.compile(net.model(y), backends=()).predict(x, engine="reference").tolist() == [
        [1, 2, 3, 4, 0, 1, 2, 3, 4]
    ]


@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (8, 2)])
def test_arg_extremes_and_their_ties(name, last, shape):
    net = Net(shape)
    x = net.quant("x", 1.0, 3)  # few levels: ties are common
    outputs = [
        net.op(name, x, axis=a, keepdims=k, select_last_index=last) for a in range(1, len(shape) + 1) for k in (0, 1)
    ]
    exact(net, *outputs, shape=shape, kind=TensorProto.INT64)


@pytest.mark.parametrize("n,k", [(1, 1), (2, 1), (5, 5), (7, 3), (8, 2), (12, 4)])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(n, k, largest):
    net = Net((2, n))
    x = net.quant("x", 0.5, 5)
    net.nodes.append(helper.make_node("TopK", [x, net.const([k], np.int64)], ["v", "i"], name="top", largest=largest))
    exact(net, "v", "i", shape=(2, n))


def test_top_k_along_another_axis():
    net = Net((4, 3))
    x = net.quant("x", 0.5, 5)
    net.nodes.append(helper.make_node("TopK", [x, net.const([2], np.int64)], ["v", "i"], name="top", axis=1))
    exact(net, "v", "i", shape=(4, 3))


@pytest.mark.parametrize("axis", [-1, 1])
def test_one_hot(axis):
    net = Net((4,))
    index = net.op(
        "ArgMax", net.op("Reshape", net.quant("x", 0.5, 5), net.const([0, 2, 2], np.int64)), axis=2, keepdims=0
    )
    y = net.op("OneHot", index, net.const(3, np.int64), net.const([0.5, 2.0]), axis=axis)
    exact(net, y, shape=(4,))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive, reverse):
    net = Net((3, 4))
    x = net.quant("x", 0.25, 6)
    outputs = [net.op("CumSum", x, net.const(a, np.int64), exclusive=exclusive, reverse=reverse) for a in (1, -1)]
    exact(net, *outputs, shape=(3, 4))


def embedding(table, kind=TensorProto.INT64, clip=False):
    """Rows of a table by an integer input, then a matrix."""
    net = Net((3,))
    net.inputs[0].type.tensor_type.elem_type = kind
    return net, net.op("Gather", net.const(table), net.op("Identity", "x"), axis=0)


@pytest.mark.parametrize("table", [np.arange(-6, 6).reshape(6, 2) / 4, np.array([1.0, -2.0, 0.5, 3.0, 0.0, 9.0])])
def test_embedding(table):
    net, y = embedding(table)
    model = net.model(y)
    x = np.random.default_rng(0).integers(0, 6, (20, 3))
    design = hc.compile(model, backends=("cpu",))
    assert (design.predict(x) == table.astype(np.float32)[x]).all()
    assert design.verify(events=200).ok


def test_embedding_by_calibration():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(9, 4))
    net, y = embedding(table)
    x = rng.integers(0, 9, (500, 3))
    design = hc.compile(
        net.model(net.op("MatMul", y, net.const(rng.normal(size=(4, 2))))), calibration=x, bits=10, backends=()
    )
    assert design.deviate(x).relative_rms < 0.02


def test_an_index_that_leaves_the_table_is_refused():
    net = Net((3,))
    y = net.op("Gather", net.const(np.ones((5, 2))), net.op("Cast", net.quant("x", 1.0, 4), to=7), axis=0)
    with pytest.raises(CompileError, match=r"the index reaches -8..7, and the table has 5 rows; clip or quantize"):
        hc.compile(net.model(y), backends=())
    net = Net((3,))
    y = net.op("Gather", net.const(np.ones((50, 2))), net.quant("x", 0.5, 4), axis=0)
    with pytest.raises(CompileError, match="the index must be a whole number"):
        hc.compile(net.model(y), backends=())


def test_inputs_of_narrow_integers_have_their_precision():
    net = Net((4,))
    net.inputs[0].type.tensor_type.elem_type = TensorProto.UINT8
    y = net.op("MatMul", net.op("Cast", "x", to=1), net.const(np.arange(8).reshape(4, 2) - 3))
    design = hc.compile(net.model(y), backends=())
    assert str(design.graph.nodes[0].type.fixed) == "Fixed(0, 255, 0)"
    x = np.random.default_rng(0).integers(0, 256, (30, 4))
    assert (design.predict(x, engine="reference") == x @ (np.arange(8).reshape(4, 2) - 3)).all()


def test_integers_that_a_file_begins_with_are_dequantized():
    net = Net((4,))
    net.inputs[0].type.tensor_type.elem_type = TensorProto.INT8
    y = net.op("DequantizeLinear", "x", net.const(0.5), net.const(3, np.int8))
    x = np.random.default_rng(0).integers(-128, 128, (30, 4))
    assert (hc.compile(net.model(y), backends=()).predict(x, engine="reference") == (x - 3) / 2).all()


def test_every_engine_on_a_network_of_choices():
    net = Net((6,))
    x = net.quant("x", 0.25, 6)
    net.nodes.append(helper.make_node("TopK", [x, net.const([3], np.int64)], ["v", "i"], name="top"))
    best = net.op("ArgMax", x, axis=1)
    y = net.op("Where", net.op("Greater", x, net.const(0.5)), x, net.op("Sign", x))
    design = hc.compile(net.model("v", "i", best, y))
    assert design.verify(events=500).ok
