"""The ONNX front end against the standard's own evaluation, exactly, on random configurations of every operator.

Weights and scales are multiples of powers of two and small, so that the standard's float32 arithmetic is exact too and
equality can be demanded; real trained networks with float scales are in tests/models.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import QONNX, Net, standard

import hwcompile as hc
from hwcompile import CompileError
from hwcompile.frontends.onnx import OPERATORS, read_onnx


def dyadic(rng, shape, bits=4, fraction=2):
    return rng.integers(-(1 << bits), (1 << bits) + 1, shape) / 2.0**fraction


def compiled(model):
    return hc.compile(model, backends=())


def check(net, *outputs, shape=None, seed=0, events=64):
    """Compiled predictions, real units, equal the standard's on random float data."""
    model = net.model(*outputs)
    shape = tuple(d.dim_value for d in net.inputs[0].type.tensor_type.shape.dim[1:]) if shape is None else shape
    x = np.random.default_rng(seed).normal(size=(events, *shape)).astype(np.float32) * 4
    got = compiled(model).predict(x, engine="reference")
    got = list(got.values()) if isinstance(got, dict) else [got]
    for a, b in zip(got, standard(model, x)):
        assert a.shape == b.shape
        assert (a == b).all()


def quantized_dense(net, rng, x, n_in, n_out, kind):
    """One of the ways in which exporters write a dense layer."""
    w = net.quant(
        net.const(dyadic(rng, (n_out, n_in) if kind == "gemm" else (n_in, n_out))),
        scale=rng.choice([0.25, 0.5], (n_out, 1) if kind == "gemm" else (1, n_out)),
        bits=5,
        narrow=1,
    )
    bias = net.const(dyadic(rng, n_out, 6, 5))
    if kind == "gemm":
        return net.op(
            "Gemm", x, w, bias, alpha=float(rng.choice([1.0, 0.5])), beta=float(rng.choice([1.0, 2.0])), transB=1
        )
    y = net.op("MatMul", x, w)
    return net.op("Add", *((y, bias) if rng.random() < 0.5 else (bias, y)))


def activation(net, rng, x, n):
    return [
        lambda: net.op("Relu", x),
        lambda: x,
        lambda: net.op("LeakyRelu", x, alpha=0.25),
        lambda: net.op("LeakyRelu", x, alpha=2.0),
        lambda: net.op("PRelu", x, net.const(rng.choice([0.0, 0.25, 0.5], n))),
        lambda: net.op("PRelu", x, net.const(rng.choice([-1.0, 0.5, 2.0], n))),
        lambda: net.op("Clip", x, net.const(-1.25), net.const(2.5)),
        lambda: net.op("Clip", x, net.const(-0.5)),
        lambda: net.op("Clip", x, "", net.const(3.0)),
        lambda: net.op("Sigmoid", net.quant(x, 0.25, 6)),
        lambda: net.op("Tanh", net.quant(x, 0.125, 7)),
    ][rng.integers(11)]()


def affine(net, rng, x, n):
    """Constant arithmetic between a matrix and its quantizer."""
    c = net.const(rng.choice([0.5, 1.0, 2.0, -1.0, 0.75], [(), (n,), (1, n)][rng.integers(3)]))
    return [
        lambda: x,
        lambda: net.op("Mul", x, c),
        lambda: net.op("Mul", c, x),
        lambda: net.op("Div", x, net.const(rng.choice([2.0, 0.5]))),
        lambda: net.op("Sub", x, c),
        lambda: net.op("Sub", c, x),
        lambda: net.op("Add", x, c),
        lambda: net.op(
            "BatchNormalization",
            x,
            *(net.const(v) for v in (rng.choice([0.5, 1.0, -2.0], n), dyadic(rng, n), dyadic(rng, n), np.ones(n))),
            epsilon=0.0,
        ),
    ][rng.integers(8)]()


@pytest.mark.parametrize("seed", range(150))
def test_random_dense_networks(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    net = Net((n,))
    x = net.quant(
        "x",
        rng.choice([0.125, 0.25, 0.5]),
        int(rng.integers(2, 9)),
        signed=int(rng.integers(2)),
        rounding_mode=str(rng.choice(["ROUND", "FLOOR", "HALF_UP", "HALF_DOWN", "DOWN"])),
    )
    for _ in range(int(rng.integers(1, 4))):
        m = int(rng.integers(1, 7))
        x = quantized_dense(net, rng, x, n, m, rng.choice(["gemm", "matmul"]))
        x = activation(net, rng, affine(net, rng, x, m), m)
        x = net.quant(
            x,
            rng.choice([0.0625, 0.25, 1.0]),
            int(rng.integers(2, 9)),
            signed=int(rng.integers(2)),
            narrow=int(rng.integers(2)),
            zero=int(rng.integers(-2, 3)) if rng.random() < 0.3 else 0,
            rounding_mode=str(rng.choice(["ROUND", "FLOOR", "HALF_UP", "HALF_DOWN", "DOWN"])),
        )
        n = m
    check(net, x, seed=seed)


@pytest.mark.parametrize("seed", range(40))
def test_random_qdq_networks(seed):
    rng = np.random.default_rng(seed)
    n, m = (int(v) for v in rng.integers(1, 7, 2))
    net = Net((n,))

    def qdq(x, kind, scale, zero):
        s, z = net.const(scale), net.const(zero, kind)
        q = net.op("QuantizeLinear", x, s, z)
        if rng.random() < 0.3:
            q = net.op("Clip", q, net.const(3, kind), net.const(90, kind))
        return net.op("DequantizeLinear", q, s, z)

    x = qdq("x", rng.choice([np.int8, np.uint8]), 0.125, int(rng.integers(0, 60)))
    if rng.random() < 0.5:  # stored integer weights, one scale for each column
        scale, zero = net.const(rng.choice([0.25, 0.5], m)), net.const(np.zeros(m), np.int8)
        w = net.op("DequantizeLinear", net.const(rng.integers(-9, 10, (n, m)), np.int8), scale, zero, axis=1)
    else:
        scale, zero = net.const(0.25), net.const(0, np.int8)
        w = net.op(
            "DequantizeLinear", net.op("QuantizeLinear", net.const(dyadic(rng, (n, m))), scale, zero), scale, zero
        )
    y = net.op("Add", net.op("MatMul", x, w), net.const(dyadic(rng, m, 6, 5)))
    check(net, qdq(net.op("Relu", y), np.uint8, 0.5, int(rng.integers(0, 9))), seed=seed)


def test_layout_operators():
    rng = np.random.default_rng(0)
    net = Net((2, 3, 1))
    x = net.quant("x")
    y = net.op("Transpose", x, perm=[0, 2, 1, 3])
    y = net.op("Squeeze", y, net.const([3], np.int64))
    y = net.op("Unsqueeze", y, net.const([1], np.int64))
    y = net.op("Reshape", y, net.const([0, -1, 2], np.int64))
    z = net.op("Reshape", net.op("Identity", net.op("Dropout", x)), net.const([-1, 3, 2], np.int64))
    y = net.op("Concat", y, z, axis=1)
    y = net.op("Cast", net.op("Flatten", y), to=1)
    y = quantized_dense(net, rng, y, 12, 4, "gemm")
    check(net, y, z)


def test_shape_arithmetic_folds_to_a_reshape():
    net = Net((2, 3))
    x = net.quant("x")
    batch = net.op("Gather", net.op("Shape", x), net.const(0, np.int64), axis=0)
    target = net.op("Concat", net.op("Unsqueeze", batch, net.const([0], np.int64)), net.const([6], np.int64), axis=0)
    check(net, net.op("Reshape", x, target))


def test_constants_and_old_attributes():
    net = Net((3,), opset=10)
    c = net.op("Constant", value=onnx.numpy_helper.from_array(np.float32([0.5, 0.25, 2])))
    y = net.op("Clip", net.op("Mul", net.quant("x"), c), min=-1.0, max=2.0)
    y = net.op("Unsqueeze", y, axes=[1])
    check(net, net.op("Squeeze", y, axes=[1]))


def test_data_with_data():
    net = Net((4,))
    x = net.quant("x", 0.25, 6)
    y = net.op("Relu", x)
    check(net, net.op("Add", x, y), net.op("Sub", y, x), net.op("Mul", x, y))


def test_bipolar_weights_and_activations():
    rng = np.random.default_rng(1)
    net = Net((5,))
    x = net.op("BipolarQuant", net.quant("x", 0.5, 4), net.const(0.5), domain=QONNX)
    w = net.op("BipolarQuant", net.const(rng.normal(size=(5, 3))), net.const(0.25), domain=QONNX)
    y = net.op("MatMul", x, w)
    check(net, net.op("BipolarQuant", y, net.const(1.0), domain=QONNX), net.quant(y, 1.0, 1))


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND"])
def test_trunc(mode):
    net = Net((4,))
    x = net.quant("x", 0.25, 8)
    one = net.op(
        "Trunc", x, net.const(0.25), net.const(0), net.const(8), net.const(5), domain=QONNX, rounding_mode=mode
    )
    two = net.op(
        "Trunc",
        x,
        net.const(0.25),
        net.const(0),
        net.const(8),
        net.const(1.0),
        net.const(5),
        domain=QONNX,
        rounding_mode=mode,
        signed=1,
        narrow=0,
    )
    check(net, one, two)


def test_softmax_is_close_and_says_how_close():
    net = Net((5,))
    y = net.quant(net.op("Softmax", net.quant("x", 0.0625, 8), axis=-1), 2.0**-8, 8, signed=0)
    model = net.model(y)
    x = np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32) * 2
    design = compiled(model)
    difference = np.abs(design.predict(x, engine="reference") - standard(model, x)[0])
    assert difference.max() <= 2 * 2.0**-8
    found = design.deviate(x)
    assert found.maximum == pytest.approx(difference.max(), abs=1e-6)
    assert found.argmax_agreement > 0.98


def test_float_scales_become_requantize_and_equal_the_exact_arithmetic():
    rng = np.random.default_rng(2)
    net = Net((6,))
    x = net.quant("x", 0.0371, 8)
    w = net.quant(net.const(rng.normal(size=(6, 4)) * 0.2), rng.uniform(0.01, 0.05, (1, 4)), 5, narrow=1)
    y = net.quant(
        net.op("Relu", net.op("Add", net.op("MatMul", x, w), net.const(rng.normal(size=4) * 0.1))), 0.0123, 6, signed=0
    )
    model = net.model(y)
    design = compiled(model)
    assert "requantize" in {n.op.name for n in design.graph.nodes}
    data = rng.normal(size=(4000, 6)).astype(np.float32) * 3
    got, floats = design.predict(data, engine="reference"), standard(model, data)[0]
    wrong = np.abs(got - floats) > 1e-4
    assert wrong.mean() < 1e-3  # float32 rounds near a tie; the compiled arithmetic does not


def test_every_operator_is_tested():
    text = "".join(p.read_text() for p in sorted(Path(__file__).parent.glob("*.py")))
    untested = [name for name in OPERATORS if f'"{name}"' not in text and name != "IntQuant"]
    assert not untested


def test_intquant_is_narrow_by_default():
    net = Net((2,))
    constants = [net.const(v) for v in (0.5, 0, 3)]
    y = net.op("IntQuant", "x", *constants, domain=QONNX, signed=1)
    design = compiled(net.model(y))
    assert design.predict(np.full((1, 2), -9.0), engine="reference").tolist() == [[-1.5, -1.5]]


def test_external_weights_stay_in_their_folder(tmp_path):
    rng = np.random.default_rng(3)
    net = Net((4,))
    model = net.model(net.op("MatMul", net.quant("x"), net.quant(net.const(dyadic(rng, (4, 300))), 0.25, 6)))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=100)
    assert compiled(path).graph.nodes[1].op.weights.shape == (4, 300)
    with pytest.raises(CompileError, match="give the model's path instead of its bytes"):
        read_onnx(path.read_bytes())
    data = (tmp_path / "m.onnx.data").read_bytes()
    (tmp_path / "m.onnx.data").write_bytes(data[:-8])
    with pytest.raises(CompileError, match="are truncated"):
        read_onnx(path)
    moved = onnx.load(path, load_external_data=False)
    for t in moved.graph.initializer:
        for e in t.external_data:
            if e.key == "location":
                e.value = "../m.onnx.data"
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "m.onnx").write_bytes(moved.SerializeToString())
    with pytest.raises(CompileError, match="must lie in the model's folder"):
        read_onnx(inner / "m.onnx")


def test_arithmetic_in_front_of_the_first_quantizer_moves_to_the_host():
    net = Net((2, 3))
    x = net.op("Sub", net.op("Mul", net.op("Flatten", "x"), net.const(2.0)), net.const(1.0))
    y = quantized_dense(net, np.random.default_rng(0), net.quant(x, 0.25, 6), 6, 3, "matmul")
    check(net, y)
    design = compiled(net.model(y))
    assert [n.op.name for n in design.graph.nodes] == ["input", "reshape", "linear", "constant", "add"]
