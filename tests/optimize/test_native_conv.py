"""Convolutions and pooling of the generated training step against torch's autograd, in double precision."""

import numpy as np
import pytest
import torch
from native_reference import (
    check_a_loss_outside,
    check_against_torch,
    element,
    filled,
    some_quantization,
)

import hwcompile as hc
from hwcompile.optimize.native import LOSSES, Conv, Dense, Pool, Program, Quantization, Schedule, build
from hwcompile.optimize.native import library as library_module
from hwcompile.optimize.native import step as step_module

PROGRAMS = {
    "pixels": Program((
        Conv((1, 9, 11), 6, (3, 3), x=Quantization("clipped", (99,), "RND", True, True), w=element(6, 9), b=element(6), relu=True,
             pool=Pool((2, 2), (2, 2))),
        Conv((6, 3, 4), 5, (2, 2), x=element(6), w=Quantization("fixed", (5, 1), bits=5), b=element(5), relu=True, masked=True),
        Dense(30, 7, element(30), element(7, 30), element(7), relu=True),
        Dense(7, 3, element(1), element(3, 7), element(3)),
    )),
    "separable": Program((
        Conv((4, 6, 5), 8, (3, 2), (2, 1), (1, 1), groups=4, x=element(1), w=element(8, 6), bias=False),
        Conv((8, 3, 6), 3, (1, 1), x=Quantization("clipped", (8,), "RND_CONV", True, False, False, 5), w=element(3, 8), relu=True,
             pool=Pool((2, 3), (1, 2), largest=False)),
    ), "squared_error", element(12)),
    "spread": Program((
        Conv((2, 1, 23), 9, (1, 3), (1, 2), (0, 3), (1, 2), x=element(46), w=element(9, 6), b=element(1),
             pool=Pool((1, 3), (1, 2))),
        Conv((9, 1, 6), 4, (1, 6), (1, 1), (2, 0), x=Quantization("clipped", (54,), "TRN", True, True, True, overflow="SAT_SYM"),
             w=Quantization("clipped", (4, 54), "RND", True, True), relu=True),
        Dense(20, 4, element(20), element(4, 20)),
    ), "distillation"),
    "float": Program((
        Conv((3, 4, 4), 7, (2, 2), padding=(1, 1), relu=True, pool=Pool((2, 2), (3, 3))), Dense(28, 2),
    ), "binary_cross_entropy"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batch", [1, 32, 150])
def test_gradients_are_those_of_autograd(name, batch):
    check_against_torch(PROGRAMS[name], batch, exact=name not in ("float", "separable"))


def some_program(seed):
    """Any geometry, with every kind of quantizer in turn."""
    rng = np.random.default_rng(seed)

    def few(low, high):
        return tuple(int(n) for n in rng.integers(low, high + 1, 2))

    def maybe(size, data):
        return some_quantization(rng, size, data) if rng.random() < 0.85 else None

    layers, shape = [], (int(rng.integers(1, 5)), *few(5, 9))
    for _ in range(rng.integers(1, 4)):
        channels, *sides = shape
        groups = int(rng.choice([1, 1, channels]))
        filters = groups * int(rng.integers(1, 6))
        kernel = tuple(min(k, n) for k, n in zip(few(1, 3), sides))
        pool = Pool(few(1, 2), few(1, 3), bool(rng.random() < 0.6)) if rng.random() < 0.5 else None
        x = maybe((int(rng.choice([channels, channels * sides[0] * sides[1]])),), True)
        taps = channels // groups * kernel[0] * kernel[1]
        made = Conv(
            shape, filters, kernel, few(1, 2), few(0, 1), (1, 1), groups, x, maybe((filters, taps), False),
            maybe((filters,), False), bool(rng.random() < 0.7), bool(rng.random() < 0.5), pool=pool,
        )  # fmt: skip
        if made.outputs:
            layers.append(made)
            shape = made.made
    if rng.random() < 0.7 or not layers:
        n = int(np.prod(shape))
        layers.append(Dense(n, 3, maybe((n,), True), maybe((3, n), False), maybe((3,), False)))
    return Program(tuple(layers), list(LOSSES)[seed % len(LOSSES)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed):
    check_against_torch(some_program(seed), 70, seed, exact=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_loss_computed_elsewhere(name):
    check_a_loss_outside(PROGRAMS[name])


def test_the_same_bits_whatever_the_machine_did_before():
    runs = []
    for _ in range(2):
        step, x, y, _, _ = filled(PROGRAMS["pixels"])
        step.forward(x + 5)  # other events in the lanes that a last, smaller tile leaves
        runs.append(step.run(x, y, np.arange(100), 50, Schedule.constant(2, 0.01, 0.05, 1e-5)).losses)
    step, x, y, _, _ = filled(PROGRAMS["pixels"])
    runs.append(step.run(x, y, np.arange(100), 50, Schedule.constant(2, 0.01, 0.05, 1e-5)).losses)
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_it_learns():
    step, x, _, _, _ = filled(PROGRAMS["pixels"])
    y = x.reshape(-1, 9, 11)[:, ::4, ::5].reshape(-1, 9)[:, :3].argmax(1)
    order = np.random.default_rng(0).integers(0, len(x), 600 * 64)
    record = step.run(x, y, order, 64, Schedule.constant(600, 0.01, 0.02, 1e-6))
    assert record.finite
    assert record.losses[-20:].mean() < 0.3 * record.losses[:20].mean()


def test_a_machine_without_vector_instructions(monkeypatch):
    flags = tuple(f for f in library_module.FLAGS if f != "-march=native")
    monkeypatch.setattr(library_module, "FLAGS", flags)
    monkeypatch.setattr(step_module, "_library", step_module._library.__wrapped__)
    check_against_torch(PROGRAMS["spread"], 70)


BAD = [
    (lambda: Conv((2, 3, 3), 2, (4, 4)), "must have inputs and outputs, not 18 and 0"),
    (lambda: Conv((2, 3, 3), 2, (2, 2), pool=Pool((3, 3), (1, 1))), "must have inputs and outputs"),
    (lambda: Conv((2, 3, 3), 3, (2, 2), groups=2), "groups must divide 2 channels and 3 filters, not be 2"),
    (lambda: Conv((2, 3, 3), 2, (2, 2), (0, 1)), "must be 1 or more"),
    (lambda: Conv((2, 3, 3), 2, (2, 2), x=Quantization(shape=(9,))), r"must broadcast to \(18,\), not be \(9,\)"),
    (lambda: Conv((2, 3, 3), 2, (2, 2), w=Quantization(shape=(2, 2))), r"must broadcast to \(2, 8\)"),
]


@pytest.mark.parametrize("make, message", BAD)
def test_bad_convolutions(make, message):
    with pytest.raises(hc.CompileError, match=message):
        Program((make(),))


def test_a_convolution_stands_before_dense_layers():
    with pytest.raises(hc.CompileError, match="layer 1: is a convolution behind a dense layer; put convolutions first"):
        Program((Dense(4, 18), Conv((2, 3, 3), 2, (2, 2))))


def test_shapes_are_those_of_torch():
    conv = Conv((4, 11, 9), 8, (3, 2), (2, 1), (1, 0), (2, 3), 2, pool=Pool((2, 2), (2, 1)))
    made = torch.nn.functional.max_pool2d(
        torch.nn.Conv2d(4, 8, (3, 2), (2, 1), (1, 0), (2, 3), 2)(torch.zeros(1, 4, 11, 9)), 2, (2, 1)
    )
    assert conv.made == made.shape[1:]
    assert build(Program((conv,), "squared_error")).forward(np.zeros((2, 396))).shape == (2, conv.outputs)
