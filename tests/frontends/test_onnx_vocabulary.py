"""Functions, reductions, products of data and selections against the standard's own evaluation."""

import numpy as np
import onnx
import pytest
from onnx_models import Net, standard

import hwcompile as hc
from hwcompile import CompileError


def run(net, *outputs, shape, seed=0, opset=None):
    model = net.model(*outputs)
    x = (np.random.default_rng(seed).integers(-64, 65, (40, *shape)) / 16).astype(np.float32)
    got = hc.compile(model, backends=()).predict(x, engine="reference")
    return (list(got.values()) if isinstance(got, dict) else [got]), standard(model, x)


def exact(net, *outputs, shape, seed=0):
    for a, b in zip(*run(net, *outputs, shape=shape, seed=seed)):
        assert a.shape == b.shape
        assert (a == b).all()


TABLES = {
    "Exp": {}, "Erf": {}, "Softplus": {}, "Softsign": {}, "HardSwish": {}, "Mish": {}, "Sign": {}, "Elu": {"alpha": 0.5},
    "Celu": {"alpha": 2.0}, "Selu": {}, "ThresholdedRelu": {"alpha": 0.5}, "Gelu": {"approximate": "tanh"},
    "Sigmoid": {}, "Tanh": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_quantized_function(name):
    """The standard evaluates in float32, so its results may round to the other side: by one step, and rarely."""
    net = Net((6,))
    y = net.op(name, net.quant("x", 0.0625, 7), **TABLES[name])
    (got,), (want,) = run(net, net.quant(y, 0.015625, 12), shape=(6,))
    steps = np.abs(got - want) / 0.015625
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.02


@pytest.mark.parametrize("name", ["Log", "Sqrt", "Reciprocal"])
def test_functions_of_positive_numbers(name):
    net = Net((6,))
    x = net.op("Clip", net.quant("x", 0.0625, 7), net.const(0.0625))
    (got,), (want,) = run(net, net.quant(net.op(name, x), 0.015625, 12), shape=(6,))
    assert np.abs(got - want).max() <= 0.015625
    net = Net((6,))
    y = net.quant(net.op(name, net.quant("x", 0.0625, 7)), 0.015625, 12)
    with pytest.raises(CompileError, match="which its operand can reach; clip its operand"):
        hc.compile(net.model(y), backends=())


def test_silu_as_exporters_write_it():
    net = Net((6,))
    x = net.quant("x", 0.0625, 7)
    y = net.quant(net.op("Mul", x, net.op("Sigmoid", x)), 0.03125, 9)
    (got,), (want,) = run(net, y, shape=(6,))
    assert np.abs(got - want).max() <= 0.03125
    assert [n.op.name for n in hc.compile(net.model(y), backends=()).graph.nodes] == ["input", "lookup"]


def test_exact_elementwise_operators():
    net = Net((2, 3))
    x = net.quant("x", 0.25, 6)
    r, c = net.op("Relu", x), net.const(np.array([[0.5], [-1.0]]))
    outputs = [net.op("Neg", x), net.op("Abs", x), net.op("Floor", x), net.op("Ceil", x), net.op("Round", x),
               net.op("Pow", x, net.const(2.0)),
               net.op("Max", x, c), net.op("Min", x, r, c), net.op("Sum", x, r, x), net.op("HardSigmoid", x, alpha=0.25, beta=0.5),
               net.quant(net.op("Mean", x, r, c), 0.25, 7)]  # fmt: skip
    exact(net, *outputs, shape=(2, 3))


@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(keep):
    net = Net((3, 4, 2))
    x = net.quant("x", 0.25, 6)
    one, two = net.const([2], np.int64), net.const([1, -1], np.int64)
    outputs = [net.op("ReduceSum", x, two, keepdims=keep), net.op("ReduceMax", x, one, keepdims=keep),
               net.op("ReduceMin", x, two, keepdims=keep),
               net.op("ReduceSumSquare", x, one, keepdims=keep), net.op("ReduceMean", x, one, keepdims=keep)]  # fmt: skip
    exact(net, *outputs, shape=(3, 4, 2))


def test_products_of_data_with_data():
    net = Net((2, 3, 4))
    x = net.quant("x", 0.25, 6)
    t = net.op("Transpose", x, perm=[0, 1, 3, 2])
    outputs = [net.op("MatMul", x, t), net.op("Einsum", x, x, equation="bhij,bhkj->bhik"),
               net.op("Einsum", x, net.const(np.arange(-4, 4).reshape(4, 2)), equation="bhij,jk->bhik"),
               net.op("Einsum", x, x, equation="bhij,bhij->bh")]  # fmt: skip
    exact(net, *outputs, shape=(2, 3, 4))


def test_selections():
    net = Net((3, 4))
    x = net.quant("x", 0.25, 6)

    def ints(*v):
        return net.const(v, np.int64)

    outputs = [
        net.op("Slice", x, ints(0, 3), ints(2, 0), ints(1, 2), ints(1, -1)),
        net.op("Slice", x, ints(-2), ints(1 << 40), ints(-1)),
        net.op("Gather", x, net.const([[0, 2], [1, -1]], np.int64), axis=1),
        net.op("Tile", x, ints(1, 2, 3)),
        net.op("Expand", net.op("Unsqueeze", x, ints(1)), ints(1, 2, 3, 4)),
        net.op("Pad", x, ints(0, 1, 0, 0, 0, 2)),
        net.op("Pad", x, ints(0, 1, 1, 0, 0, 2), net.const(-1.5)),
        net.op("Pad", x, ints(0, 1, 1, 0, 1, 2), mode="reflect"),
        net.op("Pad", x, ints(0, 1, 1, 0, 1, 2), mode="edge"),
        net.op("Resize", x, "", net.const([1.0, 2.0, 3.0]), coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    exact(net, *outputs, shape=(3, 4))


def test_the_batch_axis_may_move():
    """Around recurrent layers it is second: what is elementwise, layout or a reduction follows it."""
    net = Net((3, 4))
    x = net.quant("x", 0.25, 6)
    t = net.op("Transpose", x, perm=[1, 0, 2])  # [3, batch, 4]
    c = net.const(np.arange(12).reshape(3, 1, 4) / 4)
    two, one = net.const([2], np.int64), net.const([0], np.int64)
    parts = [net.op("Add", t, c), net.op("Relu", net.op("Concat", t, t, axis=2)), net.op("Slice", t, one, two, one),
             net.op("ReduceSum", t, two, keepdims=1), net.op("Unsqueeze", t, one),
             net.op("Reshape", t, net.const([3, -1, 2, 2], np.int64)),
             net.op("MatMul", t, net.const(np.arange(8).reshape(4, 2))), net.op("Mul", t, net.op("ReduceMax", t, two))]  # fmt: skip
    front = [net.op("Transpose", p, perm=perm) for p, perm in zip(parts, (
        [1, 0, 2], [1, 0, 2], [1, 0, 2], [1, 0, 2], [2, 0, 1, 3], [1, 0, 2, 3], [1, 2, 0], [1, 0, 2]))]  # fmt: skip
    last = net.op("Gather", t, net.const(-1, np.int64), axis=0)  # [batch, 4]
    pooled = net.op("ReduceMax", t, one, keepdims=0)  # [batch, 4]
    exact(net, *front, last, pooled, shape=(3, 4))


def test_the_batch_axis_may_join_another():
    """Heads of an attention count with the events, and so do particles in front of a shared matrix."""
    net = Net((3, 4))
    x = net.quant("x", 0.25, 6)
    rows = net.op(
        "Relu",
        net.op("MatMul", net.op("Reshape", x, net.const([-1, 4], np.int64)), net.const(np.arange(8).reshape(4, 2) - 3)),
    )
    heads = net.op(
        "Reshape", net.op("Transpose", x, perm=[1, 0, 2]), net.const([3, -1, 2], np.int64)
    )  # [3, batch x 2, 2]
    turned = net.op("Transpose", heads, perm=[1, 0, 2])
    scores = net.op("MatMul", turned, net.op("Transpose", turned, perm=[0, 2, 1]))
    back = net.op("Transpose", net.op("Reshape", heads, net.const([3, -1, 4], np.int64)), perm=[1, 0, 2])
    outputs = [
        net.op("Reshape", rows, net.const([-1, 3, 2], np.int64)),
        net.op("Reshape", scores, net.const([-1, 2, 3, 3], np.int64)),
        back,
    ]
    exact(net, *outputs, shape=(3, 4))


def test_an_operator_that_needs_the_batch_axis_in_front_says_so():
    net = Net((3, 4))
    y = net.op("GlobalMaxPool", net.op("Transpose", net.quant("x"), perm=[1, 0, 2]))
    with pytest.raises(
        CompileError, match=r"needs the batch axis in front, not shape \[3, 'batch', 4\]; transpose before it"
    ):
        hc.compile(net.model(y), backends=())
    net = Net((3, 4))
    x = net.quant("x")
    with pytest.raises(CompileError, match="must have their batch axes at the same place"):
        hc.compile(net.model(net.op("Add", x, net.op("Transpose", x, perm=[1, 0, 2]))), backends=())


@pytest.mark.parametrize("axis,shape", [(0, (1, 24)), (1, (1, 24)), (-3, (1, 24)), (2, (2, 12))])
def test_flatten_of_a_file_for_one_event(axis, shape):
    net = Net((2, 3, 4))
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = net.model(net.op("Flatten", net.quant("x", 0.25, 6), axis=axis))
    x = np.random.default_rng(0).integers(-9, 9, (1, 2, 3, 4)) / 4
    want = standard(model, x)[0]
    assert want.shape == shape
    assert (hc.compile(model, backends=()).predict(x, engine="reference").reshape(shape) == want).all()
    many = np.random.default_rng(0).integers(-9, 9, (7, 2, 3, 4)) / 4
    assert (
        hc.compile(model, backends=()).predict(many, engine="reference").reshape(7, -1) == many.reshape(7, -1)
    ).all()


def test_flatten_that_would_join_events_is_refused():
    net = Net((2, 3))
    with pytest.raises(
        CompileError, match="axis 0 joins the batch axis with others; export it with axis=1, or for one event"
    ):
        hc.compile(net.model(net.op("Flatten", net.quant("x"), axis=0)), backends=())


def test_division_by_data_is_a_table():
    net = Net((4,))
    x = net.quant("x", 0.25, 6)
    y = net.op("Clip", x, net.const(0.5))
    inverse = [net.quant(net.op("Div", net.const(c), y), 2.0**-8, 12) for c in (1.0, 3.0)]
    for got, want in zip(*run(net, *inverse, shape=(4,))):
        assert np.abs(got - want).max() <= 2.0**-8


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    net = Net((8, 2, 3))
    x = net.quant("x", 0.25, 6)
    exact(net, net.op("DepthToSpace", x, blocksize=2, mode=mode), shape=(8, 2, 3))
    net = Net((2, 4, 6))
    exact(net, net.op("SpaceToDepth", net.quant("x", 0.25, 6), blocksize=2), shape=(2, 4, 6))


def test_a_constant_for_every_event_joins_the_data():
    net = Net((2, 3))
    x = net.quant("x", 0.25, 6)
    batch = net.op("Slice", net.op("Shape", x), net.const([0], np.int64), net.const([1], np.int64))
    shape = net.op("Concat", batch, net.const([1, 3], np.int64), axis=0)
    token = net.op("Expand", net.const(np.array([[[0.5, -1, 2]]])), shape)
    ones = net.op("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.float32([1.5])))
    exact(net, net.op("Concat", token, x, ones, axis=1), shape=(2, 3))


def test_negative_padding_crops():
    net = Net((3, 4))
    y = net.op("Pad", net.quant("x", 0.25, 8), net.const([1, -1], np.int64), "", net.const([2], np.int64))
    got = hc.compile(net.model(y), backends=()).predict(np.arange(12.0).reshape(1, 3, 4), engine="reference")
    assert got[0].tolist() == [[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10]]


def test_resize_to_sizes():
    net = Net((2, 2))
    modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    y = net.op("Resize", net.quant("x", 1.0, 8), "", "", net.const([1, 4, 2], np.int64), **modes)
    got = hc.compile(net.model(y), backends=()).predict(np.arange(4.0).reshape(1, 2, 2), engine="reference")
    assert got[0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize("coordinate", ["asymmetric", "half_pixel", "pytorch_half_pixel"])
@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_which_neighbour_is_the_nearest(coordinate, nearest):
    net = Net((2, 3))
    x, modes = net.quant("x", 1.0, 8), {"coordinate_transformation_mode": coordinate, "nearest_mode": nearest}
    factors = [[1.0, 2.0, 3.0], [1.0, 4.0, 1.0]]
    exact(net, *(net.op("Resize", x, "", net.const(f), **modes) for f in factors), shape=(2, 3))


def test_split():
    net = Net((3, 6))
    x = net.quant("x", 0.25, 6)
    net.nodes.append(
        onnx.helper.make_node("Split", [x, net.const([1, 2, 3], np.int64)], ["a", "b", "c"], name="split", axis=2)
    )
    net.nodes.append(onnx.helper.make_node("Split", [x], ["d", "e"], name="halves", axis=-1, num_outputs=2))
    exact(net, "a", "b", "c", "d", "e", shape=(3, 6))


def test_old_upsample():
    net = Net((1, 2, 2), opset=9)
    x = net.quant("x", 0.25, 6)
    model = net.model(net.op("Upsample", x, net.const([1.0, 1.0, 2.0, 3.0]), mode="nearest"))
    design = hc.compile(model, backends=())
    assert (
        design.predict(np.arange(4.0).reshape(1, 1, 2, 2), engine="reference")[0, 0].tolist()
        == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    )


def test_layer_normalization_by_calibration():
    net = Net((8,))
    y = net.op(
        "LayerNormalization", "x", net.const(np.linspace(0.5, 1.5, 8)), net.const(np.linspace(-1, 1, 8)), axis=-1
    )
    model = net.model(y)
    x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32) * 2
    design = hc.compile(model, calibration=x, bits=12, backends=("cpu",))
    found = design.deviate(x)
    assert found.relative_rms < 0.01
    assert np.abs(design.predict(x) - standard(model, x)[0]).max() < 0.2
    assert design.verify(x, events=300).ok


@pytest.mark.parametrize(
    "make,sentence",
    [
        (
            lambda n, x: n.op("Slice", x, n.const([1], np.int64), n.const([2], np.int64), n.const([0], np.int64)),
            "axis 0 is the batch axis",
        ),
        (
            lambda n, x: n.op("Gather", x, n.const([7], np.int64), axis=1),
            "indices must be within the axis of length 4, not [7]",
        ),
        (lambda n, x: n.op("ReduceSum", x), "without axes it would reduce the batch axis"),
        (
            lambda n, x: n.op("Einsum", x, x, equation="ij,ij->"),
            "the first letter of data and result must be the batch axis",
        ),
        (lambda n, x: n.op("Pow", x, n.const(0.3)), "the result of power must be quantized before it is used"),
        (lambda n, x: n.op("Resize", x, "", n.const([1.0, 1.5])), "factors must be whole numbers"),
        (lambda n, x: n.op("Resize", x, "", n.const([1.0, 1e9])), "at most 2**24 elements"),
        (lambda n, x: n.op("Exp", x), "the result of exp must be quantized before it is used"),
    ],
)
def test_refusals(make, sentence):
    net = Net((4,))
    with pytest.raises(CompileError) as e:
        hc.compile(net.model(make(net, net.quant("x"))), backends=())
    assert sentence in str(e.value)
