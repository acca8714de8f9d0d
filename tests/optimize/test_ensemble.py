"""Many candidates at once are what they are alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.cost import resource
from hwcompile.optimize.ensemble import Ensemble
from hwcompile.optimize.layers import Mask
from hwcompile.optimize.runs import Run, train_all
from hwcompile.optimize.task import LOSSES

SPECS = {
    "learned": opt.Spec(),
    "channels": opt.Spec(opt.learned(5, per="channel"), opt.learned(6), opt.learned(6, per="tensor")),
    "uniform": opt.Spec.uniform(5, 6),
    "ranges": opt.Spec(
        opt.fixed(4, per="channel", overflow="SAT_SYM"), opt.fixed(7), opt.learned(6, per="channel", range="learned")
    ),
    "follows": opt.Spec(
        opt.learned(5), opt.fixed(8), opt.fixed(6, per="element", range="learned", rounding="RND_CONV")
    ),
}


def data(outputs=3, kind="cross_entropy", events=600):
    torch.manual_seed(1)
    x = torch.randn(events, 6)
    y = {"cross_entropy": x[:, :outputs].argmax(1), "mse": x[:, :outputs] ** 2, "bce": (x[:, 0] > 0).float()}[kind]
    return opt.Task(x, y, loss=kind)


def network(seed, outputs=3, **options):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7, **options), nn.ReLU(), nn.Linear(7, outputs))


def candidates(spec, task, count=3, **options):
    """Networks with weights, widths and masks of their own."""
    found = [opt.quantize(network(k, **options), spec, task.sample) for k in range(count)]
    for k, module in enumerate(found):
        torch.manual_seed(10 + k)
        if k:
            module[2].mask = Mask((torch.rand(7, 9) > 0.3 * k).float())
        for _, q in opt.quantizers(module):
            if q.format.trained:
                q.fraction.data += torch.randint(-1, 2, q.fraction.shape)
    return found


def states(module):
    return {k: v.detach().double() for k, v in module.state_dict().items() if "mask" not in k}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_each_alone(spec, kind):
    task = data(1 if kind == "bce" else 3, kind)
    modules = candidates(SPECS[spec], task, outputs=1 if kind == "bce" else 3)
    betas = [0.0, 1e-4, 1e-3]
    ensemble = Ensemble(modules, "cpu")
    options = [opt.Train(1, 100, beta=b, engine="torch") for b in betas]
    program, works = ensemble.program(task, options)
    losses = program.losses(ensemble.forward(task.x), task.y)
    costs = ensemble.costs(program.prices())
    (losses + torch.tensor(betas) * costs).sum().backward()
    for k, (module, work) in enumerate(zip(modules, works, strict=True)):
        loss = task.loss_of(module.train()(task.x), task.y)
        cost = resource(module, work.progress.prices)
        (loss + betas[k] * cost).backward()
        assert float(losses[k].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert float(costs[k].detach()) == pytest.approx(float(cost.detach()), rel=1e-5)
        own = [p for layer in (module[0], module[2], module[4]) for p in parameters(layer)]
        stacked = [p for layer in ensemble.layers for p in parameters(layer)]
        assert len(own) == len(stacked) > 5
        for a, b in zip(own, stacked, strict=True):
            assert torch.allclose(a.grad, b.grad[k].reshape(a.shape), rtol=1e-4, atol=2e-6)


def parameters(layer):
    """In an order of their own, whatever the layer's."""
    return [p for _, p in sorted(layer.named_parameters())]


@pytest.mark.parametrize("spec", SPECS)
def test_training_is_that_of_each_alone(spec):
    task = data()
    modules = candidates(SPECS[spec], task)
    options = [
        opt.Train(2, 100, lr=lr, beta=b, weight_decay=d, engine="torch", frontier=True)
        for lr, b, d in ((3e-3, 0, 0), (1e-3, 1e-4, 0), (1e-2, 1e-3, 0.1))
    ]
    before = [states(m) for m in modules]
    together = Ensemble(modules, "cpu").train(task, options, seed=4)
    for k, module in enumerate(modules):
        alone = opt.Pipeline([options[k]]).run(module, task, seed=4)
        assert [p.epoch for p in together[k].points] == [p.epoch for p in alone.points]
        found, wanted = states(together[k].module), states(alone.module)
        assert found.keys() == wanted.keys()
        moved = 0.0
        for name, value in wanted.items():
            assert torch.allclose(found[name], value, atol=1e-4), name
            moved = max(moved, float((value - before[k][name]).abs().nan_to_num(0, 0, 0).max()))
        assert moved > 1e-3
        assert all(torch.equal(v, before[k][n]) for n, v in states(module).items())


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_needs_nothing_but_its_device(spec):
    """On torch's device without numbers, which refuses tensors of another and whatever would wait for numbers."""
    task = data()
    ensemble = Ensemble(candidates(SPECS[spec], task), "meta")
    program, _ = ensemble.program(task, [opt.Train(1, 100, beta=1e-3)] * 3)
    losses = program.losses(ensemble.forward(program.x), program.y) + ensemble.costs(program.prices())
    losses.sum().backward()
    assert all(p.grad is not None for p in ensemble.layers.parameters())
    program.weights.step(torch.ones(3, device="meta"))
    program.bits.step(torch.ones(3, device="meta"), 40)
    tensors = [*ensemble.layers.parameters(), *ensemble.layers.buffers()]
    assert {t.device.type for t in tensors} == {losses.device.type} == {"meta"}


def test_budgets_and_float_networks():
    task = data()
    modules = candidates(opt.Spec(), task, 2)
    budget = opt.Train(20, 100, lr=1e-2, lr_bits=0.1, budget=1500.0, engine="torch")
    found = Ensemble(modules, "cpu").train(task, [budget, replace(budget, budget=1.0)])
    assert opt.measures(found[0].module, task)["lut"] < 1.05 * 1500
    assert isinstance(found[1], hc.CompileError)
    plain = [network(0, bias=False), network(1, bias=False)]
    alone = opt.Pipeline([opt.Train(2, 100, engine="torch")]).run(plain[1], task)
    together = Ensemble(plain, "cpu").train(task, opt.Train(2, 100))
    for (name, a), (_, b) in zip(states(together[1].module).items(), states(alone.module).items(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_a_network_that_fails_leaves_the_others():
    task = data()
    modules = candidates(opt.Spec(), task)
    options = [opt.Train(2, 100, lr=lr, engine="torch") for lr in (3e-3, 3e-3, 3e-3)]
    with torch.no_grad():
        modules[1][0].bias.fill_(torch.nan)
    found = Ensemble(modules, "cpu").train(task, options)
    assert "loss is not finite in epoch 1" in str(found[1])
    alone = opt.Pipeline(options[:1]).run(modules[2], task)
    for (name, a), (_, b) in zip(states(found[2].module).items(), states(alone.module).items(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        return x + self.a(x)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([], "needs at least one module"),
        ([network(0), Skipping()], "module 1: must be a chain of dense layers"),
        ([network(0), network(0, 2)], "module 1: must have the layers, formats and signs of module 0"),
        ([network(0), network(0, bias=False)], "module 1: must have the layers"),
    ],
)
def test_networks_that_are_refused(modules, says):
    with pytest.raises(hc.CompileError, match=says):
        Ensemble(modules)


def test_trainings_that_are_refused():
    task, ensemble = data(), Ensemble([network(0), network(1)], "cpu")
    one = opt.Train(1)
    with pytest.raises(hc.CompileError, match="options for each of 2 modules, not 1"):
        ensemble.train(task, [one])
    with pytest.raises(hc.CompileError, match="the same epochs and batch for all"):
        ensemble.train(task, [one, opt.Train(2)])
    with pytest.raises(hc.CompileError, match="takes no methods in `during`"):
        ensemble.train(task, replace(one, during=(opt.During(),)))
    with pytest.raises(hc.CompileError, match="a loss by name"):
        ensemble.train(replace(task, loss=nn.functional.cross_entropy), one)


# ---- independent runs -------------------------------------------------------------------------------------------------


def runs(task):
    train = opt.Train(2, 100)
    good = opt.Pipeline([opt.Train(1, 100), opt.Quantize(opt.Spec()), replace(train, beta=1e-4)])
    bad = opt.Pipeline([opt.Quantize(opt.Spec()), replace(train, lr=1e30)])
    dropped = nn.Sequential(
        nn.Linear(6, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3)
    )  # has random numbers of torch's
    return [Run(good, network(0), task, 1), Run(bad, network(0), task), Run(good, dropped, task, 2)]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_runs_together_are_runs_alone(jobs):
    given, seen = runs(data()), []
    found = train_all(given, jobs, lambda index, outcome: seen.append(index))
    assert sorted(seen) == [0, 1, 2]
    assert isinstance(found[1], hc.CompileError)
    assert "after Quantize" in found[1].where
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for k in (0, 2):
        alone = given[k].pipeline.run(given[k].module, given[k].task, given[k].seed)
        wanted, state = alone.module.state_dict(), found[k].module.state_dict()
        assert all(np.array_equal(state[n].numpy(), v.numpy()) for n, v in wanted.items())
        assert [r.measures for r in found[k].records] == [r.measures for r in alone.records]
    torch.set_num_threads(threads)


def test_runs_that_are_refused():
    assert train_all([]) == []
    task = data()
    with pytest.raises(hc.CompileError, match="jobs must be 1 or more, not 0"):
        train_all(runs(task), 0)
    with pytest.raises(hc.CompileError, match="cannot be sent to another process"):
        train_all(runs(replace(task, score=lambda outputs, y: 0.0)), 2)
