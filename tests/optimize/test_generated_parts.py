"""Chains within modules that are none themselves are generated, and train as torch trains them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optimize_modules import NETWORKS, network, random_spec, some
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize import engines
from hwcompile.optimize.chains import NoProgram
from hwcompile.optimize.cost import Price
from hwcompile.optimize.generated import in_generated_parts


class Residual(nn.Module):
    """A sum around a chain of two."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.around = nn.Sequential(nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6))

    def forward(self, x):
        x = self.first(x)
        return self.last(torch.relu(x + self.around(x)))


class Image(nn.Module):
    """A convolution whose map is used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3 * 2 * 3, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.a(x)), 2)
        return self.c((x + self.b(x)).flatten(1))


class Largest(nn.Module):
    """A dense network for each position, and the largest of each of its outputs."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.each(x).amax(1))


class Flattened(nn.Module):
    """A dense network for each position, all outputs of which a dense layer reads."""

    def __init__(self):
        super().__init__()
        self.each, self.head = nn.Linear(3, 5), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(self.each(x).flatten(1))


OWN = {
    "around": (Residual, (4,)),
    "image": (Image, (1, 6, 8)),
    "largest": (Largest, (7, 3)),
    "flattened": (Flattened, (4, 3)),
}


def made(name, seed=0):
    """The module in training and data of any scale."""
    if name in NETWORKS:
        module, x = network(name, seed)
        return module.train(), x
    torch.manual_seed(seed)
    make, shape = OWN[name]
    return make(), torch.randn(200, *shape) * 2.0 ** torch.randint(-2, 2, shape)


def passed(net, module, x):
    """Outputs, and gradients of the input and of the module's parameters."""
    given = x.clone().requires_grad_()
    module.zero_grad()
    outputs = net(given)
    (outputs * torch.linspace(0.5, 1, outputs.numel()).view(outputs.shape)).sum().backward()
    found = {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}
    return outputs.detach(), {**found, "x": given.grad}


def assert_alike(module, x):
    module.train()
    slow = passed(module, module, x)
    parts = in_generated_parts(module)
    fast = passed(parts, module, x)
    assert torch.equal(slow[0], fast[0])
    for name, gradient in slow[1].items():
        if gradient is None:
            assert not torch.any(fast[1][name] if fast[1][name] is not None else torch.zeros(1)), name
        else:
            assert torch.allclose(gradient, fast[1][name], rtol=1e-3, atol=1e-6 + 1e-3 * float(gradient.abs().max())), (
                name
            )
    return parts


EVERY = [*OWN, *(n for n in NETWORKS if n not in ("lstm", "gru"))]


SHARED = opt.Spec(activations=opt.learned(6, per="channel", range="learned"))
"""Positions have the same widths."""


@pytest.mark.parametrize("name", some(EVERY, ["image", "flattened", "transformer"]))
def test_parts_have_the_outputs_and_gradients_of_the_module(name):
    module, x = made(name)
    parts = assert_alike(opt.quantize(module, SHARED if name == "transformer" else opt.Spec(), x), x)
    assert parts.names
    with torch.no_grad():
        assert parts.eval()(x).dtype == torch.float64  # the module itself


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", EVERY)
def test_parts_of_any_formats(name, seed):
    module, x = made(name, seed)
    module = opt.quantize(module, random_spec(100 + seed), x)
    assert_alike(module, x)


@pytest.mark.parametrize(("spec", "rows"), [(SHARED, [4, 1]), (opt.Spec(), [1, 1])])
def test_the_resource_term_of_positions_as_rows_and_as_channels(spec, rows):
    module, x = made("flattened")
    module = opt.quantize(module, spec, x).train()
    priced = {"each": Price(0.5, 0.2, 2.0, 0.4), "head": Price(0.7, 0.1, 1.0, 0.3)}
    module(x)  # the ranges of its data
    cost = opt.resource(module, priced)
    cost.backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    parts = in_generated_parts(module)
    assert [part.plan.rows for part in parts.parts] == rows
    parts.price(priced)
    parts.beta = 1.0
    (0 * parts(x).sum()).backward()
    assert parts.term == pytest.approx(cost.item(), rel=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose(gradient, dict(module.named_parameters())[name].grad, rtol=1e-4, atol=1e-5), name


def test_which_layers_are_generated():
    module, x = made("around")
    parts = in_generated_parts(opt.quantize(module, opt.Spec(), x))
    assert parts.names == ["first", "around.1", "around.3", "last"]
    assert [len(part.plan.layers) for part in parts.parts] == [1, 2, 1]
    module, x = made("lstm")
    parts = in_generated_parts(opt.quantize(module, opt.Spec(), x))
    assert parts.names == ["out"]  # torch.fx does not follow the steps


class Tied(nn.Module):
    """Two layers with one weight, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(x) + self.b(x) + self.c(self.c(x))


def test_what_shares_its_parameters_is_left_to_torch():
    x = torch.randn(50, 4)
    module = opt.quantize(Tied(), opt.Spec(), x)
    module.b.weight = module.a.weight
    with pytest.raises(NoProgram, match="its layers are not a chain"):
        in_generated_parts(module)


@pytest.mark.parametrize("name", some(["around", "image", "largest"], ["around"]))
def test_a_budget_is_reached_with_generated_parts(name, monkeypatch):
    monkeypatch.setattr(engines, "_WORTH", 0)
    module, x = made(name)
    y = x.flatten(1)[:, :3].abs().argmax(1)
    task = opt.Task(x.numpy(), y.numpy())
    start = opt.Pipeline([opt.Quantize()]).run(module, task).module
    budget = 0.6 * opt.measures(start, task)["lut"]
    passes = [opt.Quantize(), opt.Train(60, batch=50, budget=budget, lr_bits=0.05)]
    trained = opt.Pipeline(passes).run(module, task).module
    assert opt.measures(trained, task)["lut"] <= 1.05 * budget
    design = hc.compile(trained, example_inputs=x, backends=("cpu",))
    with torch.no_grad():
        assert np.array_equal(design.predict(x.numpy()), trained.eval()(x).numpy())


def test_parts_and_torch_train_alike_with_the_resource_term(monkeypatch):
    monkeypatch.setattr(engines, "_WORTH", 0)
    module, x = made("around")
    task = opt.Task(x.numpy(), x[:, :3].abs().argmax(1).numpy())
    found = {}
    for engine in ("torch", "auto"):
        passes = [opt.Quantize(), opt.Train(2, batch=50, beta=1e-4, engine=engine, lr=1e-3, schedule="constant")]
        found[engine] = opt.Pipeline(passes).run(module, task).module.state_dict()
    for name, value in found["torch"].items():
        if value.is_floating_point() and "lowest" not in name and "highest" not in name:
            assert torch.allclose(value, found["auto"][name], atol=3e-4), name


class Scaled(nn.Module):
    """A factor that is no parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.factor = nn.Linear(4, 4), nn.Linear(4, 3), 1.0

    def forward(self, x):
        return self.b(x + self.a(x) * self.factor)


class Doubled(opt.During):
    def epoch(self, work, epoch, total_epochs):
        work.module.factor *= 2.0


def test_methods_may_change_what_the_modules_code_reads(monkeypatch):
    monkeypatch.setattr(engines, "_WORTH", 0)
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    task, module, found = opt.Task(x.numpy(), x[:, :3].argmax(1).numpy()), Scaled(), {}
    for engine in ("torch", "auto"):
        train = opt.Train(3, batch=60, engine=engine, lr=1e-3, schedule="constant", during=(Doubled(),))
        found[engine] = opt.Pipeline([opt.Quantize(), train]).run(module, task).module.state_dict()
    assert torch.allclose(found["torch"]["a.weight"], found["auto"]["a.weight"], atol=3e-4)


def test_short_trainings_and_float_networks_compile_nothing(monkeypatch):
    module, x = made("around")
    work = SimpleNamespace(task=SimpleNamespace(x=x, events=1000), module=opt.quantize(module, opt.Spec(), x))
    made_parts = []
    monkeypatch.setattr(engines, "in_generated_parts", made_parts.append)
    for epochs, net, counted in ((9, work.module, 0), (1000, module, 0), (1000, work.module, 1)):
        work.module = net
        engines._parts(SimpleNamespace(epochs=epochs, batch=100), work)
        assert len(made_parts) == counted
