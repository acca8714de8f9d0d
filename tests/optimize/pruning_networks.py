"""Networks, data and comparisons of the tests of pruning."""

import numpy as np
import torch
from torch import nn

import hwcompile as hc
from hwcompile.optimize import Task, Work


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def image():
    torch.manual_seed(0)
    parts = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(16, 3))


def data(shape=(8,), events=600, seed=0):
    x = np.random.default_rng(seed).normal(size=(events, *shape)).astype(np.float32)
    y = (x.reshape(events, -1)[:, :2].sum(1) > 0).astype(np.int64) + (x.reshape(events, -1)[:, 2] > 1)
    return Task(x, y)


def work(module, task=None):
    return Work(module, task or data())


def same_as_compiled(module, x):
    """What the module computes is what its design computes, bit for bit."""
    module.eval()
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_array_equal(
        hc.compile(module, example_inputs=x[:4]).predict(x.numpy(), engine="reference"), wanted
    )
