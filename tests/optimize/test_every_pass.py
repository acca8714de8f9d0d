"""After every pass, on modules of several kinds, what trains is what is compiled; and passes follow each other in any order."""

import numpy as np
import pytest
import torch
from optimize_modules import network

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.post_training import PostTraining

SHORT = opt.Train(2, batch=50)
QUANTIZED = opt.Quantize(opt.Spec(activations=opt.learned(7, range="learned")))

PASSES = {
    "quantize": [QUANTIZED],
    "uniform": [opt.Quantize(opt.Spec.uniform(4, 6))],
    "train": [SHORT, QUANTIZED, opt.Train(3, batch=50, beta=1e-5)],
    "calibrate": [QUANTIZED, SHORT, opt.Calibrate()],
    "prune before": [opt.Prune(0.6), SHORT, QUANTIZED, SHORT],
    "prune behind": [QUANTIZED, opt.Prune(0.6), SHORT],
    "gradual": [QUANTIZED, opt.Train(4, batch=50, during=(opt.Gradual(opt.Prune(0.7)),))],
    "train masks": [QUANTIZED, opt.TrainMasks("dst", 0.5, opt.Train(4, batch=50))],
    "constrain": [QUANTIZED, opt.Constrain(opt.Train(4, batch=50), weights=60)],
    "shrink before": [opt.Shrink(0.3), QUANTIZED, SHORT],
    "shrink behind": [QUANTIZED, SHORT, opt.Shrink(0.3)],
    "low rank": [opt.LowRank(energy=0.8), QUANTIZED, SHORT],
    "distill": [opt.Distill(weight=0.5, temperature=2.0), QUANTIZED, SHORT],
    "mean teacher": [QUANTIZED, opt.MeanTeacher(), SHORT],
    "post-training": [SHORT, PostTraining(6, 7)],
}


def task(x, outputs, seed=0):
    y = np.random.default_rng(seed).integers(0, outputs, len(x))
    return opt.Task(x, y)


def checked(name, kind):
    module, x = network(kind, 5)
    with torch.no_grad():
        outputs = module(x[:1]).shape[1]
    result = opt.Pipeline(PASSES[name]).run(module, task(x, outputs))
    with torch.no_grad():
        expected = result.module(x).numpy()
    found = hc.compile(result.module, example_inputs=x, backends=("cpu",)).predict(x.numpy())
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", PASSES)
def test_dense_networks_are_exact_after_every_pass(name):
    checked(name, "dense")


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_convolutions_are_exact_after_every_pass(name):
    checked(name, "convolution")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PASSES if "shrink" not in name])  # it uses a layer twice
def test_residual_networks_are_exact_after_every_pass(name):
    checked(name, "residual")
