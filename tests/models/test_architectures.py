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
    design = hc.compile(model, "vu13p", 5)
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
