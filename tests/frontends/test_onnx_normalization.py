"""Normalizations, logarithms of sums and softmax along any axes: compiled by calibration, near the standard's own values."""

import numpy as np
import pytest
from onnx_models import Net, standard

import hwcompile as hc
from hwcompile import CompileError
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import evaluate_real


def calibrated(net, y, x, bits=14, tolerance=0.01):
    """The compiled network's outputs, which every engine agrees on, within `tolerance` RMS of the standard's."""
    model = net.model(y)
    design = hc.compile(model, calibration=x, bits=bits, backends=("cpu",))
    got, want = design.predict(x), standard(model, x)[0]
    assert got.shape == want.shape
    assert np.sqrt(np.mean((got - want) ** 2)) < tolerance * np.sqrt(np.mean(want**2))
    assert design.verify(x, events=200).ok


def data(*shape, events=800):
    return np.random.default_rng(0).normal(size=(events, *shape)).astype(np.float32) * 2


def test_rms_normalization():
    net = Net((6,), opset=23)
    calibrated(net, net.op("RMSNormalization", "x", net.const(np.linspace(0.5, 1.5, 6)), epsilon=0.01), data(6))


def test_simplified_layer_normalization_is_rms_normalization():
    net, same = Net((6,)), Net((6,), opset=23)
    scale = np.linspace(0.5, 1.5, 6)
    one, two = (
        hc.compile(n.model(n.op(name, "x", n.const(scale), axis=-1)), calibration=data(6), bits=12, backends=())
        for n, name in ((net, "SimplifiedLayerNormalization"), (same, "RMSNormalization"))
    )
    x = data(6, events=50)
    assert (one.predict(x, engine="reference") == two.predict(x, engine="reference")).all()


def test_instance_normalization():
    net = Net((2, 5))
    calibrated(
        net,
        net.op("InstanceNormalization", "x", net.const([0.5, 1.5]), net.const([0.25, -1]), epsilon=0.01),
        data(2, 5),
    )


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset):
    net = Net((4, 3), opset=opset)
    size = 2 if opset == 18 else 4
    scale, bias = net.const(np.linspace(0.5, 1.5, size)), net.const(np.linspace(-1, 1, size))
    calibrated(net, net.op("GroupNormalization", "x", scale, bias, num_groups=2, epsilon=0.01), data(4, 3))


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p):
    net = Net((5,), opset=22)
    calibrated(net, net.op("LpNormalization", "x", axis=1, p=p), data(5) + 8)


@pytest.mark.parametrize("name", ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_with_a_function(name, keep):
    net = Net((3, 4))
    x = data(3, 4)
    if name == "ReduceLogSum":
        x = np.abs(x) + 1
    calibrated(net, net.op(name, "x", net.const([2], np.int64), keepdims=keep), x)


def test_reduce_l1_is_exact():
    net = Net((3, 4))
    model = net.model(net.op("ReduceL1", net.quant("x", 0.25, 6), net.const([1, 2], np.int64)))
    x = data(3, 4, events=50)
    assert (hc.compile(model, backends=()).predict(x, engine="reference") == standard(model, x)[0]).all()


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset,axis", [(13, 1), (13, -1), (11, 1), (11, 2)])
def test_softmax_along_axes(name, opset, axis):
    """Before opset 13 all axes from the given one on are one."""
    net = Net((3, 4), opset=opset)
    model = net.model(net.quant(net.op(name, net.quant("x", 0.0625, 8), axis=axis), 2.0**-9, 14))
    x = data(3, 4)
    got = hc.compile(model, backends=()).predict(x, engine="reference")
    q = np.clip(np.round(x / 0.0625), -128, 127) * 0.0625
    flat = q.reshape(len(x), -1) if (opset, axis) == (11, 1) else q
    at = -1 if opset == 11 else axis
    e = np.exp(flat - flat.max(axis=at, keepdims=True))
    want = (e / e.sum(axis=at, keepdims=True)).reshape(x.shape)
    want = np.log(want) if name == "LogSoftmax" else want
    assert np.abs(got - want).max() < 3 * 2.0**-9


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_never_contradicts_the_order_of_its_operands(name):
    """A coarse result may make unequal operands equal, never exchange them."""
    net = Net((6,))
    x = net.quant("x", 0.0625, 8)
    model = net.model(x, net.quant(net.op(name, x, axis=-1), 2.0**-4, 6))
    q, y = hc.compile(model, backends=()).predict(data(6), engine="reference").values()
    rises, falls = q[:, :, None] > q[:, None, :], y[:, :, None] < y[:, None, :]
    assert not (rises & falls).any()


DOMAINS = {"Sin": (-4, 4), "Cos": (-4, 4), "Tan": (-1, 1), "Asin": (-1, 1), "Acos": (-1, 1), "Atan": (-4, 4), "Sinh": (-2, 2),
           "Cosh": (-2, 2), "Asinh": (-4, 4), "Acosh": (1, 4), "Atanh": (-0.875, 0.875)}  # fmt: skip


@pytest.mark.parametrize("name", DOMAINS)
def test_tables_of_functions(name):
    net = Net((4,))
    x = net.op("Clip", net.quant("x", 0.0625, 8), *(net.const(v) for v in DOMAINS[name]))
    model = net.model(net.quant(net.op(name, x), 2.0**-8, 14))
    got = hc.compile(model, backends=()).predict(data(4), engine="reference")
    assert np.abs(got - standard(model, data(4))[0]).max() <= 2.0**-8


def test_swish_and_powers():
    x = data(4)
    net = Net((4,), opset=24)
    y = hc.compile(net.model(net.op("Swish", "x", alpha=1.5)), calibration=x, bits=14, backends=()).predict(
        x, engine="reference"
    )
    assert np.abs(y - x / (1 + np.exp(-1.5 * x))).max() < 0.02
    net = Net((4,))
    q = net.quant("x", 0.25, 6)
    model = net.model(*(net.op("Pow", q, net.const(e)) for e in (1.0, 2.0, 3.0)))
    got = hc.compile(model, backends=()).predict(x, engine="reference").values()
    assert all((a == b).all() for a, b in zip(got, standard(model, x)))
    net = Net((4,))
    calibrated(net, net.op("Pow", "x", net.const(1.5)), np.abs(x) + 0.5)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.25}, {"q_num_heads": 2, "kv_num_heads": 2}])
def test_attention(settings):
    flat = "q_num_heads" in settings
    shape = (4, 6) if flat else (2, 4, 3)
    net = Net(shape, opset=23)
    model = net.model(net.op("Attention", "x", net.op("Relu", "x"), net.op("Neg", "x"), **settings))
    x = data(*shape, events=20)
    real = read_onnx(model)
    got = evaluate_real(real, {"x": x})[real.outputs[0][1]]
    np.testing.assert_allclose(got, standard(model, x)[0], atol=1e-5)


def test_attention_with_a_mask_is_refused():
    net = Net((2, 4, 3), opset=23)
    with pytest.raises(CompileError, match="is_causal must be 0, not 1; write out the attention"):
        read_onnx(net.model(net.op("Attention", "x", "x", "x", is_causal=1)))
