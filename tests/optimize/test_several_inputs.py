"""Networks with several inputs and outputs go through the same passes, and compute what is compiled."""

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.task import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class TwoInputs(nn.Module):
    """Tracks and clusters side by side; a class, and an energy if it is asked for."""

    def __init__(self, energy: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(16, 2)
        self.e = nn.Linear(16, 1) if energy else None

    def forward(self, x, z):
        h = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(z))], 1)
        return self.c(h) if self.e is None else (self.c(h), self.e(h))


def events(n=600, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(n, 6)).astype(np.float32), rng.normal(size=(n, 4)).astype(np.float32)
    return x, z, (x[:, 0] + z[:, 0] > 0).astype(np.int64)


def same_as_compiled(module, x, z):
    design = hc.compile(module, example_inputs=(x[:4], z[:4]), backends="cpu")
    found = design.predict(dict(zip([design.graph.nodes[i].name for i in design.graph.inputs], (x, z), strict=True)))
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(x), torch.from_numpy(z))
    found = list(found.values()) if isinstance(found, dict) else [found]
    for a, b in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        np.testing.assert_array_equal(a, b.numpy())


PASSES = {
    "widths": [opt.Quantize(), opt.Train(8, batch=100, lr_bits=0.02, budget=1500, strict=False)],
    "mask": [opt.Quantize(), opt.Prune(0.5, score="taylor"), opt.Train(2, batch=100)],
    "wanda": [opt.Prune(0.3, score="activation"), opt.Quantize()],
    "teacher": [opt.Distill(), opt.MeanTeacher(), opt.Quantize(), opt.Train(2, batch=100)],
    "shrink": [opt.Shrink(0.3), opt.Quantize()],
    "factors": [opt.LowRank(energy=0.9), opt.Quantize()],
    "after": [opt.PostTraining(6, steps=20)],
}


@pytest.mark.parametrize("name", PASSES)
def test_two_inputs(name):
    torch.manual_seed(0)
    x, z, y = events()
    result = opt.Pipeline([opt.Train(10, batch=50, lr=0.02), *PASSES[name]]).run(TwoInputs(), opt.Task((x, z), y))
    assert result.records[-1].measures["score"] > 0.75
    same_as_compiled(result.module, x, z)


def test_batches_of_a_loader_hold_several_inputs():
    x, z, y = events()
    batches = [([torch.from_numpy(x[k : k + 100]), torch.from_numpy(z[k : k + 100])], y[k : k + 100]) for k in (0, 100)]
    batches.append(([torch.from_numpy(x[:2]), torch.from_numpy(z[:2])], y[:2]))  # as many events as inputs
    task = opt.Task(loader=batches, validation=((x[400:], z[400:]), y[400:]))
    result = opt.Pipeline([opt.Train(6), opt.Quantize(), opt.Train(2)]).run(TwoInputs(), task)
    same_as_compiled(result.module, x, z)
    wrong = opt.Task(loader=[((x[:, :5], z), y)], validation=((x, z), y))
    with pytest.raises(
        hc.CompileError, match=r"loader: gives events of shape \[\[5\], \[4\]\], and the validation data"
    ):
        opt.Pipeline([opt.Train(1)]).run(TwoInputs(), wrong)


def test_several_outputs_are_a_tuple_for_loss_and_score():
    torch.manual_seed(0)
    x, z, y = events()

    def loss(outputs, y):
        classes, energy = outputs
        return nn.functional.cross_entropy(classes, y.long()) + 0.1 * (energy[:, 0] - y).square().mean()

    def score(outputs, y):
        return float((outputs[0].argmax(1) == y).float().mean())

    task = opt.Task((x, z), y, loss=loss, score=score)
    result = opt.Pipeline([opt.Train(10, batch=50, lr=0.02), opt.Quantize(), opt.Train(2, batch=50)]).run(
        TwoInputs(energy=True), task
    )
    assert result.records[-1].measures["score"] > 0.75
    same_as_compiled(result.module, x, z)


def test_a_batch_of_arrays_is_one_input():
    images = [np.zeros((3, 3), np.float32)] * 5
    assert opt.Task(images, np.arange(5), validation=(images, np.arange(5))).x.shape == (5, 3, 3)
    assert isinstance(opt.Task((np.zeros((5, 2)), np.zeros((5, 3))), np.arange(5)).x, Inputs)
    with pytest.raises(hc.CompileError, match="x and y must have as many events"):
        opt.Task((np.zeros((5, 2)), np.zeros((4, 3))), np.arange(5))
