"""Trigger networks in small, through every engine: CNN, DeepSets, attention, autoencoder score, residuals with two outputs."""

import numpy as np
import pytest
from onnx_models import Net, standard

import hwcompile as hc

RNG = np.random.default_rng(11)


def dense(net, x, n_in, n_out, relu=True, bits=8, scale=0.125):
    w = net.quant(net.const(RNG.normal(size=(n_in, n_out)) / np.sqrt(n_in)), 0.0625, 5, narrow=1)
    y = net.op("Add", net.op("MatMul", x, w), net.const(RNG.integers(-8, 9, n_out) / 16))
    return net.quant(net.op("Relu", y) if relu else y, scale, bits, signed=int(not relu))


def cnn():
    net = Net((1, 7, 6))
    w = net.quant(net.const(RNG.normal(size=(3, 1, 3, 3)) / 3), 0.125, 5, narrow=1)
    y = net.op(
        "Relu", net.op("Conv", net.quant("x", 0.125, 7), w, net.const(RNG.integers(-8, 9, 3) / 16), pads=[1, 1, 1, 1])
    )
    y = net.op("MaxPool", net.quant(y, 0.125, 7, signed=0), kernel_shape=[2, 2], strides=[2, 2])
    return net, dense(net, net.op("Flatten", y), 27, 4, relu=False), (1, 7, 6)


def deep_sets():
    net = Net((6, 3))
    h = dense(net, dense(net, net.quant("x", 0.0625, 8), 3, 8), 8, 8)
    pooled = net.quant(net.op("ReduceMean", h, net.const([1], np.int64), keepdims=0), 0.125, 8, signed=0)
    return net, dense(net, dense(net, pooled, 8, 8), 8, 5, relu=False), (6, 3)


def attention():
    net = Net((4, 4))
    x = net.quant("x", 0.125, 6)
    q, k, v = (dense(net, x, 4, 4, relu=False, bits=6, scale=0.25) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    weights = net.quant(net.op("Softmax", net.quant(scores, 0.25, 7), axis=-1), 2.0**-7, 7, signed=0)
    mixed = net.quant(net.op("MatMul", weights, v), 0.125, 7)
    return net, net.quant(net.op("Add", x, dense(net, mixed, 4, 4, relu=False)), 0.125, 7), (4, 4)


def anomaly_score():
    net = Net((10,))
    mean = dense(net, dense(net, net.quant("x", 0.125, 7), 10, 8), 8, 3, relu=False)
    return net, net.op("ReduceSumSquare", mean, net.const([1], np.int64), keepdims=0), (10,)


def residual_with_two_outputs():
    net = Net((6,))
    x = net.quant("x", 0.125, 7)
    h = net.op("Add", x, dense(net, x, 6, 6, relu=False))
    left, right = dense(net, net.quant(h, 0.125, 8), 6, 2, relu=False), net.op("Concat", net.op("Relu", h), x, axis=1)
    return net, (left, right), (6,)


@pytest.mark.parametrize("make", [cnn, deep_sets, attention, anomaly_score, residual_with_two_outputs])
def test_every_engine(make):
    net, outputs, shape = make()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    model = net.model(*outputs)
    x = np.random.default_rng(0).normal(size=(120, *shape)).astype(np.float32)
    design = hc.compile(model, "vu13p", 5, backends="rtl,hls,cpu,gpu")
    verification = design.verify(x)
    assert all(r.vectors for r in verification.results)
    assert verification.ok, [str(r.first or r.note) for r in verification.results if r.mismatches]
    got = design.predict(x)
    got = list(got.values()) if isinstance(got, dict) else [got]
    for a, b in zip(got, standard(model, x)):
        if make is attention:  # softmax is tables: the deviation is stated, not zero
            assert np.abs(a - b).max() <= 0.5
        elif make is deep_sets:  # the standard divides in float32 and may round to the other side
            assert np.abs(a - b).max() <= 0.25
        else:
            assert (a == b).all()


def linear(net, x, n_in, n_out):
    return net.op(
        "Add",
        net.op("MatMul", x, net.const(RNG.normal(size=(n_in, n_out)) / np.sqrt(n_in))),
        net.const(RNG.normal(size=n_out) / 8),
    )


def lstm():
    """A calorimeter pulse: samples in, energy and time out; exporters put the batch axis second."""
    net = Net((5, 2))
    w, r, b = (net.const(RNG.normal(size=s) / 2) for s in ((1, 16, 2), (1, 16, 4), (1, 32)))
    states = net.op("LSTM", net.op("Transpose", "x", perm=[1, 0, 2]), w, r, b, hidden_size=4)
    last = net.op("Gather", net.op("Squeeze", states, net.const([1], np.int64)), net.const(-1, np.int64), axis=0)
    return net, linear(net, last, 4, 2), (5, 2)


def transformer():
    """One encoder block of two heads: attention, residuals, layer normalization, GELU."""
    net = Net((3, 4))
    heads = []
    for _ in range(2):
        q, k, v = (linear(net, "x", 4, 2) for _ in range(3))
        scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), net.const(0.7))
        heads.append(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))
    mixed = net.op("Add", "x", linear(net, net.op("Concat", *heads, axis=-1), 4, 4))
    normal = net.op("LayerNormalization", mixed, net.const(np.ones(4)), net.const(np.zeros(4)), axis=-1)
    wide = net.op("Gelu", linear(net, normal, 4, 6))
    return (
        net,
        net.op("ReduceMean", net.op("Add", normal, linear(net, wide, 6, 4)), net.const([1], np.int64), keepdims=0),
        (3, 4),
    )


def vae():
    """An anomaly score: the Kullback-Leibler divergence of the latent distribution, mu^2 + sigma^2 - log sigma^2 - 1."""
    net = Net((8,))
    hidden = net.op("Relu", linear(net, "x", 8, 6))
    mean, log_variance = linear(net, hidden, 6, 3), linear(net, hidden, 6, 3)
    spread = net.op("Sub", net.op("Exp", log_variance), log_variance)
    terms = net.op("Add", net.op("Mul", mean, mean), spread)
    return net, net.op("ReduceSum", terms, net.const([1], np.int64), keepdims=0), (8,)


@pytest.mark.parametrize("make", [lstm, transformer, vae])
def test_float_networks_by_calibration(make):
    """Every engine equals the reference; the deviation from the float network is stated and small."""
    net, output, shape = make()
    model = net.model(output)
    x = np.random.default_rng(0).normal(size=(400, *shape)).astype(np.float32)
    design = hc.compile(model, "vu13p", 5, calibration=x, bits=9, backends="rtl,hls,cpu,gpu")
    verification = design.verify(x, events=60)
    assert all(r.vectors for r in verification.results)
    assert verification.ok, [str(r.first or r.note) for r in verification.results if r.mismatches]
    (expected,) = standard(model, x)
    error = np.sqrt(np.mean((design.predict(x).reshape(expected.shape) - expected) ** 2))
    assert error < 0.1 * np.sqrt(np.mean(expected**2))
