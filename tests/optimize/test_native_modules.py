"""Modules whose training steps are generated train as torch trains them; of the others it is said why not."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optimize_modules import some
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.chains import NoProgram
from hwcompile.optimize.layers import Mask, prepare
from hwcompile.optimize.native import Conv, Pool
from hwcompile.optimize.native_program import plan_of


class Functions(nn.Module):
    """Pooling and ReLUs as functions, in the other order."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Conv2d(4, 3, 2, 2), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.a(x), 2))
        return self.c(torch.flatten(torch.relu(self.b(x)), 1))


def image():
    return nn.Sequential(
        nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2, groups=2), nn.ReLU(),
        nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


def series():
    return nn.Sequential(
        nn.Conv1d(2, 5, 3, 2, 1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(5, 4, 2, dilation=2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Raised(nn.Module):
    """An image without an axis of channels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))

    def forward(self, x):
        return self.layers(x.unsqueeze(1))


class Each(nn.Module):
    """A dense network for each position, their mean, and one on that."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.each(x).mean(1))


def vector():
    return nn.Sequential(nn.Unflatten(1, (3, -1)), nn.Conv1d(3, 2, 4), nn.Flatten(), nn.Linear(6, 3))


NETWORKS = {
    "image": (image, (1, 8, 9)),
    "series": (series, (2, 15)),
    "functions": (Functions, (2, 4, 8)),
    "raised": (Raised, (5, 4)),
    "vector": (vector, (18,)),
    "each": (Each, (7, 3)),
}

FORMATS = {
    "float": None,
    "tracked": opt.Spec(),
    "learned ranges": opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, range="learned")),
    "channels": opt.Spec(opt.learned(6, per="channel"), opt.learned(6), opt.learned(6, per="channel")),
    "fixed": opt.Spec.uniform(5, 6),
    "outputs": opt.Spec(output=opt.learned(6, range="learned")),
}


def made(name, seed=0):
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(300, *shape)) * 2.0 ** rng.integers(-2, 2, shape)).astype(
        np.float32
    )  # each element has its own width
    return make(), x, np.abs(x).reshape(300, -1)[:, :3].argmax(1)


def far_off(outputs, y):
    """A loss that only torch knows."""
    return F.huber_loss(outputs[:, 0], y.float()) + outputs[:, 1:].square().mean()


def assert_alike(found):
    assert found["torch"].keys() == found["native"].keys()
    for name, value in found["torch"].items():
        if value.is_floating_point() and "lowest" not in name and "highest" not in name:
            assert torch.allclose(value, found["native"][name], atol=3e-4), name


PAIRS = [(name, formats) for name in NETWORKS for formats in FORMATS]
QUICK = [
    ("image", "learned ranges"),
    ("image", "channels"),
    ("series", "tracked"),
    ("functions", "fixed"),
    ("vector", "float"),
    ("vector", "outputs"),
]


@pytest.mark.parametrize(("name", "formats"), some(PAIRS, QUICK))
def test_torch_and_the_generated_step_train_alike(name, formats):
    found, (module, x, y) = {}, made(name)
    for engine in ("torch", "native"):
        passes = [opt.Quantize(FORMATS[formats])] if FORMATS[formats] else []
        train = opt.Train(1, batch=90, beta=1e-5, engine=engine, lr=1e-3, schedule="constant")
        found[engine] = opt.Pipeline([*passes, train]).run(module, opt.Task(x, y)).module.state_dict()
    assert_alike(found)


@pytest.mark.parametrize("name", some(NETWORKS, ["raised"]))
def test_a_loss_of_its_own_goes_through_the_generated_step(name):
    found, (module, x, y) = {}, made(name)
    for engine in ("torch", "native"):
        train = opt.Train(1, batch=90, beta=1e-5, engine=engine, lr=1e-3, schedule="constant")
        result = opt.Pipeline([opt.Quantize(), train]).run(module, opt.Task(x, y, loss=far_off))
        found[engine] = result.module.state_dict()
    assert_alike(found)


@pytest.mark.parametrize("name", some(NETWORKS, ["image"]))
def test_a_budget_and_pruning_of_convolutions(name):
    module, x, y = made(name)
    start = opt.Pipeline([opt.Quantize()]).run(module, opt.Task(x, y)).module
    budget = 0.6 * opt.measures(start, opt.Task(x, y))["lut"]
    passes = [opt.Quantize(), opt.Prune(0.3), opt.Train(40, batch=90, budget=budget, lr_bits=0.05, engine="native")]
    trained = opt.Pipeline(passes).run(module, opt.Task(x, y)).module
    assert opt.measures(trained, opt.Task(x, y))["lut"] <= 1.05 * budget
    design = hc.compile(trained, example_inputs=x, backends=("cpu",))
    with torch.no_grad():
        assert np.array_equal(design.predict(x), trained.eval()(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("name", some(NETWORKS, ["raised", "each"]))
def test_generated_gradients_are_those_of_the_module(name):
    module, x, _ = made(name)
    module = opt.quantize(module, FORMATS["learned ranges"], x).train()
    inputs = [torch.from_numpy(x).requires_grad_() for _ in range(2)]
    fast, grads = opt.generated(module), []
    for net, given in zip((module, fast), inputs, strict=True):
        module.zero_grad()
        net(given).square().mean().backward()
        grads.append({n: p.grad.clone() for n, p in module.named_parameters()})
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-6)
    for key, gradient in grads[0].items():
        assert torch.allclose(gradient, grads[1][key], rtol=1e-4, atol=1e-5), key


def test_a_generated_module_can_be_copied_saved_and_compiled():
    torch.manual_seed(0)
    x, y = torch.randn(200, 6), torch.arange(200) % 2
    module = opt.quantize(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), None, x)
    made = opt.generated(module, opt.prices(module))
    made.beta = 0.5
    stream = io.BytesIO()
    torch.save(made, stream)
    stream.seek(0)
    for again in (copy.deepcopy(made), torch.load(stream, weights_only=False)):
        assert torch.equal(again(x), made(x))
        assert (again.beta, again.prices, again.training) == (0.5, made.prices, made.training)
        assert all(a is not b for a, b in zip(again.parameters(), made.parameters(), strict=True))
    trained = opt.Pipeline([opt.Train(1)]).run(made, opt.Task(x, y)).module
    assert hc.compile(trained, example_inputs=x, backends="cpu").verify(x.numpy()).ok
    found = hc.compile(made, example_inputs=x, backends="cpu").predict(x.numpy())
    np.testing.assert_array_equal(found, made.eval()(x).detach().numpy())


def test_the_program_of_a_module():
    module, x, _ = made("image")
    prepare(module)
    program = plan_of(module, "cross_entropy", x.shape[1:]).program
    convolutions = [layer for layer in program.layers if isinstance(layer, Conv)]
    assert [c.shape for c in convolutions] == [(1, 8, 9), (1, 6, 7), (4, 3, 3)]
    assert convolutions[1].pool == Pool((2, 2), (2, 2), largest=False)
    assert [c.relu for c in convolutions] == [False, True, True]


REFUSED = [
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten()), "a ReLU does not follow a layer"),
    (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten()), "padding with other than zeros, or by a name"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1), nn.Flatten()), "MaxPool2d with padding"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.MaxPool2d(2)), "pooling does not follow a convolution"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(6, 2)), "is not a dense layer on a vector"),
    (nn.Sequential(nn.Conv2d(1, 2, 3)), "its outputs are not one vector"),
    (nn.Sequential(nn.Flatten(), nn.Tanh()), "Tanh there is not a dense layer, a convolution, a ReLU or pooling"),
    (nn.Sequential(nn.Flatten()), "it has no layer with weights"),
    (nn.Sequential(nn.Flatten(0), nn.Linear(64, 3)), "Flatten there is not a dense layer"),
]


def test_layers_that_do_not_fit_have_no_generated_step():
    with pytest.raises(NoProgram, match=r"a dense layer of 63 inputs reads an event of shape \[64\]"):
        plan_of(prepared(nn.Linear(63, 3)), "cross_entropy", (64,))


@pytest.mark.parametrize("module, says", REFUSED)
def test_why_there_is_no_generated_step(module, says):
    x, y = np.zeros((50, 1, 8, 8), np.float32), np.arange(50) % 2
    prepare(module)
    with pytest.raises(NoProgram, match=says):
        plan_of(module, "cross_entropy", (1, 8, 8))
    with pytest.raises(hc.CompileError, match=says):
        opt.Pipeline([opt.Train(1, engine="native")]).run(module, opt.Task(x, y))


class Calls(nn.Module):
    """A function of a dense layer and a convolution."""

    def __init__(self, forward):
        super().__init__()
        self.dense, self.other, self.conv, self.function = nn.Linear(4, 3), nn.Linear(3, 3), nn.Conv1d(4, 2, 3), forward

    def forward(self, x):
        return self.function(self, x)


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


CALLS = [
    (Calls(lambda m, x: m.dense(x).flatten()), (4,), "Flatten there is not a dense layer"),
    (Calls(lambda m, x: torch.flatten(m.conv(x))), (4, 9), "Flatten there is not a dense layer"),
    (Calls(lambda m, x: torch.flatten(input=m.conv(x), start_dim=1)), (4, 9), "has its data by a keyword"),
    (Calls(lambda m, x: m.dense(x).mean(1)), (4,), "a mean of outputs is not generated"),
    (Calls(lambda m, x: m.conv(x).mean(1)), (4, 9), "Mean there is not"),
    (Calls(lambda m, x: m.other(m.dense(x.unsqueeze(1)).mean(1))), (4,), "the shape of an event is changed before"),
    (Calls(lambda m, x: F.max_pool2d(m.conv(x), (1, 2)).flatten(1)), (4, 9), "MaxPool2d does not pool the axes"),
    (Calls(lambda m, x: (m.dense(x),)), (4,), "its layers are not a chain"),
    (tied(), (4,), "layers share a parameter"),
    (nn.Sequential(nn.Unflatten(1, (3, 5)), nn.Conv1d(3, 1, 5), nn.Flatten()), (16,), "an axis of 16 is not of shape"),
    (nn.Sequential(nn.Linear(4, 3)).double(), (4,), "its parameters are not float32"),
    (nn.Sequential(nn.Linear(4, 3)).to("meta"), (4,), "its parameters are not float32 in the processor's memory"),
]


@pytest.mark.parametrize(("module", "event", "says"), CALLS)
def test_what_looks_like_a_chain_but_is_none(module, event, says):
    prepare(module)
    with pytest.raises(NoProgram, match=says):
        plan_of(module, "cross_entropy", event)


def test_events_of_another_shape_are_refused():
    module, x, _ = made("image")
    fast = opt.generated(opt.quantize(module, opt.Spec(), x).train())
    with pytest.raises(hc.CompileError, match=r"x: must have events of shape \[1, 8, 9\], not \[1, 9, 8\]"):
        fast(torch.from_numpy(x).transpose(2, 3))


def test_a_masked_weight_sets_no_width():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(15, 2))
    module[0].weight.data[0, 0, 0] = 7.0
    x = torch.randn(50, 2, 7)
    module = opt.quantize(module, opt.Spec.uniform(5, 6), x).train()
    keep = torch.ones_like(module[0].weight)
    keep[0, 0, 0] = 0
    module[0].mask = Mask(keep)
    expected = module(x)
    assert torch.allclose(opt.generated(module)(x), expected, atol=1e-6)


def test_outputs_at_positions_have_no_generated_step():
    with pytest.raises(NoProgram, match="its outputs are not one vector"):
        plan_of(prepared(nn.Linear(3, 4)), "cross_entropy", (7, 3))


def prepared(module):
    net = nn.Sequential(module)
    prepare(net)
    return net
