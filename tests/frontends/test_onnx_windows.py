"""Convolutions and pooling against the standard's own evaluation, exactly, over strides, dilations, groups and paddings."""

import itertools

import numpy as np
import pytest
from onnx.reference.op_run import OpRun
from onnx_models import Net, standard

import hwcompile as hc
from hwcompile import CompileError


def padding(mode, pads, size, kernel, strides, dilations):
    """(begin, end) of each axis, by the words of the standard."""
    if mode in (None, "NOTSET"):
        pads = pads or [0] * (2 * len(size))
        return list(zip(pads[: len(size)], pads[len(size) :]))
    if mode == "VALID":
        return [(0, 0)] * len(size)
    found = []
    for n, k, s, d in zip(size, kernel, strides, dilations):
        total = max((int(np.ceil(n / s)) - 1) * s + (k - 1) * d + 1 - n, 0)
        found.append((total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2))
    return found


def slide(x, kernel, strides, dilations, pads, fill):
    """Each output position and the part of the padded input [batch, channels, *kernel] that it sees."""
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], kernel, strides, dilations)]
    for at in itertools.product(*map(range, counts)):
        yield (
            at,
            padded[
                (..., *(slice(p * s, p * s + (k - 1) * d + 1, d) for p, s, k, d in zip(at, strides, kernel, dilations)))
            ],
        )


class Conv(OpRun):
    """The evaluation package's own one is wrong for dilations with auto_pad: this is the standard in loops."""

    def _run(self, x, w, b=None, group=1, kernel_shape=None, strides=None, dilations=None, pads=None, auto_pad=None):
        rank = x.ndim - 2
        strides, dilations, kernel = strides or [1] * rank, dilations or [1] * rank, w.shape[2:]
        found = {}
        for at, part in slide(
            x, kernel, strides, dilations, padding(auto_pad, pads, x.shape[2:], kernel, strides, dilations), 0
        ):
            outs = []
            for o in range(w.shape[0]):
                first = o // (w.shape[0] // group) * w.shape[1]
                outs.append(
                    (part[:, first : first + w.shape[1]] * w[o]).reshape(len(x), -1).sum(axis=1)
                    + (0 if b is None else b[o])
                )
            found[at] = np.stack(outs, axis=1)
        return (grid(found),)


class MaxPool(OpRun):
    def _run(self, x, kernel_shape=None, strides=None, pads=None, **rest):
        ones = [1] * len(kernel_shape)
        parts = slide(
            x, kernel_shape, strides, ones, padding(None, pads, x.shape[2:], kernel_shape, strides, ones), -np.inf
        )
        return (grid({at: part.reshape(*part.shape[:2], -1).max(axis=2) for at, part in parts}),)


def grid(found):
    """Results by position to an array [batch, channels, *positions]."""
    shape = tuple(max(at[k] for at in found) + 1 for k in range(len(next(iter(found)))))
    first = next(iter(found.values()))
    out = np.zeros((*first.shape, *shape), np.float32)
    for at, value in found.items():
        out[(..., *at)] = value
    return out


def spatial(rng, rank):
    return tuple(int(n) for n in rng.integers(4, 8, rank))


def window(rng, kernel, transposed=False):
    """Random strides, dilations and padding smaller than the kernel."""
    rank = len(kernel)
    settings = {
        "strides": [int(v) for v in rng.integers(1, 3, rank)],
        "dilations": [int(v) for v in rng.integers(1, 3, rank)],
    }
    mode = rng.integers(4) if not transposed else 0
    if mode == 1:
        settings["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        settings["pads"] = [int(rng.integers(0, k)) for k in kernel * 2]
    return settings


def check(net, *outputs, shape, seed):
    model = net.model(*outputs)
    x = (np.random.default_rng(seed).integers(-40, 41, (12, *shape)) / 8).astype(np.float32)
    got = hc.compile(model, backends=()).predict(x, engine="reference")
    (want,) = standard(model, x, Conv, MaxPool)
    assert got.shape == want.shape
    assert (got == want).all()


@pytest.mark.parametrize("seed", range(60))
def test_conv(seed):
    rng = np.random.default_rng(seed)
    rank, groups = int(rng.integers(1, 3)), int(rng.choice([1, 1, 2]))
    channels = groups * int(rng.integers(1, 3))
    out = groups * int(rng.integers(1, 4))
    kernel = tuple(int(k) for k in rng.integers(1, 4, rank))
    size = spatial(rng, rank)
    net = Net((channels, *size))
    scale = rng.choice([0.25, 0.5], (out, *[1] * (rank + 1)))
    w = net.quant(net.const(rng.integers(-8, 9, (out, channels // groups, *kernel)) / 4), scale, 5, narrow=1)
    bias = [net.const(rng.integers(-50, 51, out) / 32)] if rng.random() < 0.6 else []
    y = net.op(
        "Conv", net.quant("x", 0.125, 7), w, *bias, group=groups, kernel_shape=list(kernel), **window(rng, kernel)
    )
    if rng.random() < 0.7:
        y = net.quant(net.op("Relu", y), 0.25, 8, signed=0)
    check(net, y, shape=(channels, *size), seed=seed)


@pytest.mark.parametrize("seed", range(20))
def test_conv_transpose(seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 3))
    channels, out = (int(v) for v in rng.integers(1, 4, 2))
    kernel, size = tuple(int(k) for k in rng.integers(2, 4, rank)), spatial(rng, rank)
    net = Net((channels, *size))
    w = net.quant(net.const(rng.integers(-8, 9, (channels, out, *kernel)) / 4), 0.25, 5)
    settings = window(rng, kernel, transposed=True)
    settings["pads"] = [0] * (2 * rank) if seed % 2 else [1] * (2 * rank)
    settings["dilations"] = [1] * rank
    y = net.op("ConvTranspose", net.quant("x", 0.125, 7), w, net.const(rng.integers(-8, 9, out) / 4), **settings)
    check(net, y, shape=(channels, *size), seed=seed)


@pytest.mark.parametrize("seed", range(40))
def test_pooling(seed):
    rng = np.random.default_rng(seed)
    rank, channels = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    kernel = tuple(int(k) for k in rng.integers(2, 4, rank))
    size = spatial(rng, rank)
    net = Net((channels, *size))
    x = net.quant("x", 0.125, 7)
    settings = {
        "strides": [int(v) for v in rng.integers(1, 3, rank)],
        "pads": [int(rng.integers(0, 2)) for _ in kernel * 2],
    }
    if seed % 2:
        y = net.op("MaxPool", x, kernel_shape=list(kernel), **settings)
    else:  # the standard divides in float32: a quantizer of the exact quotient is what hardware has
        include = int(rng.integers(2))
        y = net.quant(
            net.op("AveragePool", x, kernel_shape=list(kernel), count_include_pad=include, **settings), 0.25, 8
        )
    check(net, y, shape=(channels, *size), seed=seed)


def test_global_pooling():
    net = Net((3, 4, 5))
    x = net.quant("x", 0.125, 7)
    y = net.op("GlobalMaxPool", x)
    check(net, y, shape=(3, 4, 5), seed=0)
    z = net.quant(net.op("GlobalAveragePool", x), 0.125, 8)
    check(net, z, shape=(3, 4, 5), seed=1)


def test_an_average_is_divided_exactly():
    net = Net((1, 3))
    model = net.model(net.quant(net.op("GlobalAveragePool", net.quant("x", 1.0, 4)), 1.0, 4, rounding_mode="FLOOR"))
    design = hc.compile(model, backends=())
    assert design.predict(np.array([[[1.0, 1.0, 1.0]], [[1.0, 1.0, 0.0]]]), engine="reference").ravel().tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    "weights,settings,sentence",
    [
        ((2, 3, 3, 3), {}, "weights [2, 3, 3, 3] do not fit 2 channels, 2 spatial axes and 1 groups"),
        ((2, 2, 9, 9), {}, "the kernel is larger than the padded input"),
        ((2, 2, 3, 3), {"pads": [1, 1]}, "pads must be 4 numbers of at least 0, not [1, 1]"),
        ((2, 2, 3, 3), {"strides": [0, 1]}, "strides must be 2 positive numbers, not [0, 1]"),
        ((2, 2, 3, 3), {"auto_pad": "FULL"}, "auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not 'FULL'"),
        ((2, 2, 3, 3), {"kernel_shape": [3, 2]}, "kernel_shape [3, 2] must be that of the weights, [3, 3]"),
    ],
)
def test_refusals(weights, settings, sentence):
    net = Net((2, 5, 5))
    y = net.op("Conv", net.quant("x"), net.quant(net.const(np.ones(weights))), **settings)
    with pytest.raises(CompileError) as e:
        hc.compile(net.model(y), backends=())
    assert sentence in str(e.value)
