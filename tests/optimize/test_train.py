"""Training towards a budget, by torch and by the generated step; what goes wrong is said; what is killed goes on."""

import dataclasses
import itertools
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize import cost


def task(events=600, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(events, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3)) + 0.5 * np.abs(x[:, :3])).argmax(1)
    return opt.Task(x, y, **options)


def module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def state(result):
    return {k: v.clone() for k, v in result.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


BUDGET = opt.Pipeline(
    [opt.Train(10, batch=64), opt.Quantize(), opt.Train(60, batch=64, budget=350, lr_bits=0.05, frontier=True)]
)


@pytest.fixture(scope="module")
def trained():
    return BUDGET.run(module(), task())


def test_a_budget_is_met_and_the_network_still_works(trained):
    last = trained.records[-1].measures
    assert last["lut"] <= 350
    assert last["score"] > 0.75
    assert trained.records[1].measures["lut"] > 1000
    assert [r.name for r in trained.records] == ["Train", "Quantize", "Train"]


def test_the_frontier_rises(trained):
    points = sorted(trained.points, key=lambda p: p.cost)
    assert len(points) > 2
    assert all(a.score < b.score for a, b in itertools.pairwise(points))
    assert task().evaluate(trained.at(points[-1])) == pytest.approx(points[-1].score, abs=0.02)


def test_a_point_is_there_after_the_network_has_shrunk():
    train = opt.Train(3, batch=64, beta=1e-4, frontier=True)
    found = opt.Pipeline([opt.Quantize(), train, opt.Shrink(0.5)]).run(module(), task())
    point = found.points[0]
    assert task().evaluate(found.at(point)) == pytest.approx(point.score, abs=0.02)
    assert sum(p.numel() for p in found.at(point).parameters()) > sum(p.numel() for p in found.module.parameters())


def test_what_was_trained_is_what_is_compiled(trained):
    x = task().validation[0]
    found = hc.compile(trained.module, example_inputs=x, backends=("cpu",)).predict(x.numpy())
    with torch.no_grad():
        assert np.array_equal(found, trained.module(x).numpy())


def test_the_same_seed_gives_the_same_network(trained):
    assert same(state(trained), state(BUDGET.run(module(), task())))
    assert not same(state(trained), state(BUDGET.run(module(), task(), seed=1)))


@pytest.mark.parametrize("spec", [opt.Spec(), opt.Spec.uniform(5, 6), None])
def test_torch_and_the_generated_step_train_alike(spec):
    """After one epoch the weights differ by rounding of sums alone."""
    found = {}
    for engine in ("torch", "native"):
        passes = [opt.Quantize(spec)] if spec else []
        train = opt.Train(1, batch=100, beta=1e-4, engine=engine, lr=1e-3, schedule="constant")
        found[engine] = state(opt.Pipeline([*passes, train]).run(module(), task()))
    for name, value in found["torch"].items():
        if value.is_floating_point() and "lowest" not in name and "highest" not in name:
            assert torch.allclose(value, found["native"][name], atol=2e-4), name


def test_a_guided_step_is_torchs_too():
    found = {}
    for engine in ("torch", "native"):
        distill = opt.Distill(module(3), weight=0.7, temperature=2.0)
        train = opt.Train(1, batch=100, engine=engine, lr=1e-3, schedule="constant")
        found[engine] = state(opt.Pipeline([distill, opt.Quantize(), train]).run(module(), task()))
    for name, value in found["torch"].items():
        if name.endswith("weight"):
            assert torch.allclose(value, found["native"][name], atol=2e-4), name


KILLED = """
    import sys
    sys.path[:0] = {paths!r}
    import torch, hwcompile as hc
    from hwcompile import optimize as opt
    from hwcompile.optimize import pipeline
    from test_train import BUDGET, module, task
    pipeline.CHECKPOINT_S = 0
    count = 0
    def say(self, now, save=None):
        pass
    original = pipeline.Pipeline._save
    def killed(self, work, path):
        global count
        original(self, work, path)
        count += 1
        if count == {after}:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    pipeline.Pipeline._save = killed
    BUDGET.run(module(), task(), checkpoint={path!r})
"""


@pytest.mark.parametrize("after", [3, 30])
def test_a_killed_run_goes_on_to_the_same_end(trained, tmp_path, after):
    path = str(tmp_path / "run.pt")
    paths = [p for p in sys.path if p.endswith("optimize")] or ["tests/optimize"]
    code = textwrap.dedent(KILLED.format(paths=paths, after=after, path=path))
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -9
    assert same(state(BUDGET.run(module(), task(), checkpoint=path)), state(trained))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    short = opt.Pipeline([opt.Train(1)])
    short.run(module(), task(), checkpoint=path)
    with pytest.raises(hc.CompileError, match="is the checkpoint of other passes, data, module or seed"):
        short.run(module(), task(), seed=1, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(hc.CompileError, match="is no checkpoint"):
        short.run(module(), task(), checkpoint=path)


def test_training_says_what_computes_it_and_how_far_it_is():
    said = []
    opt.Pipeline([opt.Quantize(), opt.Train(20, budget=1500, strict=False)]).run(module(), task(), say=said.append)
    assert said[0] == "Train: a generated step"
    assert len(said) == 11
    assert re.fullmatch(r"Train: epoch 20 of 20: loss [\d.]+, [\d,]+ LUT", said[-1])
    said.clear()
    opt.Pipeline([opt.Train(1, engine="torch")]).run(module(), task(), say=said.append)
    assert said[0] == "Train: torch"


def test_a_checkpoint_of_another_score_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    short, given = opt.Pipeline([opt.Train(1)]), task()
    short.run(module(), given, checkpoint=path)
    own = dataclasses.replace(given, score=lambda outputs, y: 0.0)
    with pytest.raises(hc.CompileError, match="is the checkpoint of other passes"):
        short.run(module(), own, checkpoint=path)


def test_a_checkpoint_knows_weights_loss_and_seed(tmp_path):
    path = tmp_path / "run.pt"
    short = opt.Pipeline([opt.Train(1)])
    short.run(module(), task(), checkpoint=path)
    with pytest.raises(hc.CompileError, match="is the checkpoint of other passes"):
        short.run(module(4), task(), checkpoint=path)


def test_ranges_hold_all_the_training_data(trained):
    data = task()
    for _, q in opt.quantizers(trained.module):
        if isinstance(q, opt.ActivationQuantizer):
            assert torch.isfinite(q.lowest).all()
    trained.module.train()
    with torch.no_grad():
        training = trained.module(data.x)
    assert torch.equal(training, trained.module.eval()(data.x))


class Ends:
    """A loader that runs dry in its second epoch."""

    def __init__(self, x, y):
        self.left = iter([(x, y)])

    def __iter__(self):
        return self.left


def bad_loader():
    t = task()
    return opt.Task(loader=Ends(t.x, t.y), validation=t.validation)


@pytest.mark.parametrize(
    ("passes", "data", "says"),
    [
        ([opt.Train(3)], bad_loader, "loader: gave no batch in this epoch: it has run dry"),
        ([opt.Train(2, lr=1e30)], task, "Train: the loss is not finite in epoch"),
        (
            [opt.Quantize(), opt.Train(40, beta=10.0, lr_bits=1.0)],
            task,
            "Train, layer .* have lost their bits in epoch",
        ),
        (
            [opt.Quantize(), opt.Train(60, lr_bits=1.0, budget=0.1)],
            task,
            r"on the way to a budget of 0.1; before, \d+ LUT was the smallest; raise the budget, lower lr_bits",
        ),
        (
            [opt.Quantize(opt.Spec.uniform(6)), opt.Train(2, budget=10)],
            task,
            "a budget needs trained widths, and all of this network's are fixed; put Quantize with opt.learned",
        ),
        ([opt.Train(2, budget=100)], task, "a budget needs trained widths, and a float network has none; put Quantize"),
        (
            [opt.Quantize(), opt.Train(2, budget=10)],
            task,
            r"\(after Quantize\): the budget of 10 LUT was not reached: \d+ is",
        ),
        (
            [opt.Train(1, engine="native")],
            bad_loader,
            "no training step is generated here: the data do not lie in memory",
        ),
    ],
)
def test_what_goes_wrong_is_said(passes, data, says):
    with pytest.raises(hc.CompileError, match=says):
        opt.Pipeline(passes).run(module(), data())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: opt.Task(np.zeros((3, 2)), np.zeros(4)), "as many events"),
        (lambda: opt.Task(np.full((3, 2), np.nan), np.zeros(3)), "not finite"),
        (lambda: opt.Task(np.zeros((3, 2)), np.zeros(3), loss="hinge"), "loss must be one of"),
        (opt.Task, "needs either x and y, or a loader"),
        (lambda: opt.Task(loader=[]), "a loader needs validation"),
        (lambda: opt.Train(0), "epochs must be a whole number from 1 on"),
        (lambda: opt.Train(1, cost="watts"), "cost must be one of lut, ebops"),
        (lambda: opt.Train(1, budget=-3), "budget must be positive"),
        (lambda: opt.Train(1, hold=0), "hold must be positive"),
        (lambda: opt.Train(1, beta=-1), "beta must be 0 or more"),
        (lambda: opt.Train(1, lr=float("nan")), "lr must be positive"),
        (lambda: opt.Task(np.zeros((3, 2)), np.zeros((3, 1), int)), r"labels must be of shape \[events\]"),
        (lambda: opt.Distill(weight=2), "weight must be from 0 to 1"),
        (lambda: opt.Pipeline([3]), "a pass is a frozen dataclass with apply, not int"),
        (lambda: opt.Pipeline([opt.Train]), "a pass is a frozen dataclass with apply, not a class"),
        (lambda: opt.Train(2.5), "epochs must be a whole number from 1 on, not 2.5"),
        (lambda: opt.Task(np.zeros((2, 3)), ["a", "b"]), "x and y must be arrays of numbers"),
        (lambda: opt.Pipeline([]).run(None, task()), "takes a torch module, not NoneType"),
        (lambda: opt.Pipeline([]).run(nn.Linear(5, 3), task()), r"does not take this data, of shape \[540, 6\]"),
        (lambda: opt.Pipeline([]).run(nn.Linear(6, 2), task()), "y: labels must be from 0 to 1, not 0 to 2"),
        (
            lambda: opt.Pipeline([]).run(module(), task(validation=(np.zeros((2, 6)), np.array([0, 7])))),
            "validation: labels must be from 0 to 2, not 0 to 7",
        ),
    ],
)
def test_options_are_checked(make, says):
    with pytest.raises(hc.CompileError, match=says):
        make()


def test_a_loader_trains_any_module_and_loss():
    t = task()
    batches = [(t.x[i : i + 100], t.y[i : i + 100]) for i in range(0, 500, 100)]
    data = opt.Task(loader=batches, validation=t.validation, loss=nn.functional.cross_entropy)
    result = opt.Pipeline([opt.Quantize(), opt.Train(15, lr=0.01)]).run(module(), data)
    assert result.records[-1].measures["score"] > -1.0


def test_costs_can_be_effective_bit_operations():
    passes = [opt.Quantize(), opt.Train(30, batch=64, budget=400, cost="ebops", lr_bits=0.05)]
    with pytest.raises(hc.CompileError, match="budget"):
        opt.Pipeline([*passes[:1], dataclasses.replace(passes[1], budget=1.0)]).run(module(), task())
    result = opt.Pipeline(passes).run(module(), task())
    assert cost.ebops(result.module) <= 400 * 1.05


def test_a_float_lstm_trains_and_is_scored():
    x = torch.randn(400, 3, 4, generator=torch.Generator().manual_seed(0))
    module = torch.nn.LSTM(4, 3, batch_first=True)

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = module, torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.layer(x)[0][:, -1])

    task = opt.Task(x, (x[:, -1, 0] > 0).long())
    result = opt.Pipeline([opt.Train(15, 32, 0.02), opt.Quantize(), opt.Train(3, 32)]).run(Last(), task)
    assert result.records[0].measures["score"] > 0.8
    assert result.records[2].measures["score"] > 0.8
