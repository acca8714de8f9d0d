"""Teachers: of outputs, of inner layers, of an anomaly score; and quantizers that a module has of its own."""

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt


def events(n=800, seed=0):
    """Points near a plane: what an autoencoder with two inner numbers can learn."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(n, 6))).astype(np.float32)


def small(outputs=1):
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))


def test_a_small_student_learns_the_anomaly_score_of_an_autoencoder():
    torch.manual_seed(0)
    x = np.concatenate([events(), 2 * np.random.default_rng(1).normal(size=(400, 6)).astype(np.float32)])
    autoencoder = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6))
    trained = opt.Pipeline([opt.Train(60, batch=100, lr=0.01)]).run(autoencoder, opt.Task(x[:800], x[:800], loss="mse"))
    score = opt.ReconstructionError(trained.module)
    with torch.no_grad():
        wanted = score(torch.from_numpy(x)).flatten().numpy()
    assert wanted[800:].mean() > 3 * wanted[:800].mean()
    student = opt.Pipeline([opt.Distill(score, weight=1.0), opt.Quantize(), opt.Train(150, batch=100, lr=0.01)])
    found = student.run(small(), opt.Task(x, np.zeros((len(x), 1)), (x, wanted[:, None]), loss="mse"))
    got = hc.compile(found.module, example_inputs=x, backends=("cpu",)).predict(x)[:, 0]
    assert np.corrcoef(got, wanted)[0, 1] > 0.9


def test_features_of_a_teacher_are_learned():
    """The training with a guide ends nearer to the teacher's inner layer, up to a linear map, than the one without."""
    torch.manual_seed(1)
    teacher, x = small(3), torch.from_numpy(events())
    y = np.random.default_rng(2).integers(0, 3, len(x))
    left = {}
    for guided in (False, True):
        torch.manual_seed(5)
        net = small(3)
        passes = [opt.Features(teacher, {"1": "1"}, weight=0.9)] if guided else []
        module = opt.Pipeline([*passes, opt.Train(60, batch=100, lr=0.01)]).run(net, opt.Task(x, y)).module
        with torch.no_grad():
            mine, theirs = module[1](module[0](x)), teacher[1](teacher[0](x))
        design = torch.cat([mine, torch.ones(len(x), 1)], 1).double()
        found = torch.linalg.lstsq(design, theirs.double(), driver="gelsd").solution  # some neurons may be dead
        left[guided] = float((design @ found - theirs).square().mean())
    assert left[True] < 0.5 * left[False]


def test_unknown_layers_and_bad_weights_are_refused():
    task = opt.Task(events(), np.zeros(800, int))
    with pytest.raises(hc.CompileError, match="no layer is called 'inner'; layers: 0, 1, 2"):
        opt.Pipeline([opt.Features(small(3), {"inner": "1"})]).run(small(3), task)
    with pytest.raises(hc.CompileError, match="needs layers="):
        opt.Pipeline([opt.Features(small(3))]).run(small(3), task)
    with pytest.raises(hc.CompileError, match="temperature must be positive"):
        opt.Distill(temperature=0)


class Own(nn.Module):
    """A product of data in the module's own code, with quantizers that its author put there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2)
        self.left = opt.ActivationQuantizer(opt.fixed(6))
        self.right = opt.ActivationQuantizer(opt.learned(5, per="element"), (4,))

    def forward(self, x):
        return self.out(self.left(self.a(x)) * self.right(self.b(x)))


def test_quantizers_of_a_modules_own_are_calibrated_and_compiled():
    torch.manual_seed(0)
    x = torch.from_numpy(events())
    module = opt.quantize(Own(), opt.Spec.uniform(5, 6), x).eval()
    with torch.no_grad():
        expected = module(x).numpy()
    found = hc.compile(module, example_inputs=x, backends=("cpu",)).predict(x.numpy())
    assert np.array_equal(found, expected)
    assert len(np.unique(module.right(module.b(x)).detach().numpy()[:, 0])) <= 32


def test_generated_modules_train_in_a_loop_of_their_own():
    torch.manual_seed(0)
    x = torch.from_numpy(events())
    y = x[:, :1].abs()
    module = opt.quantize(small(), opt.Spec(), x).train()
    slow = opt.quantize(small(), opt.Spec(), x).train()
    slow.load_state_dict(module.state_dict())
    fast = opt.generated(module, opt.prices(module))
    for net in (fast, slow):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(5):
            loss = nn.functional.huber_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b in zip(module.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    found = hc.compile(module, example_inputs=x, backends=("cpu",)).predict(x.numpy())
    with torch.no_grad():
        assert np.array_equal(found, fast.eval()(x).numpy())


def test_some_modules_have_no_generated_step():
    module = opt.quantize(nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten()), opt.Spec(), torch.randn(20, 2, 5))
    with pytest.raises(hc.CompileError, match="no training step is generated for it: WeightedConvTranspose1d is not"):
        opt.generated(module)
