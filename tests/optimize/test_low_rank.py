"""Chains of lower rank: exact at full rank, as near as the energy says below it, and cheaper by the solver's count."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile.optimize import Pipeline, Quantize, Spec, Task, Train, Work, prepare, quantize
from hwcompile.optimize.cost import solved
from hwcompile.optimize.low_rank import LowRank, TensorTrain, _chain, candidates, cp_als, factors
from hwcompile.optimize.pruning import Prune

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def low(shape, rank, noise=0.02, seed=0):
    """A matrix of about this rank."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(shape[0], rank, generator=g), torch.randn(rank, shape[1], generator=g)
    return a @ b / rank**0.5 / shape[1] ** 0.5 + noise * torch.randn(shape, generator=g) / shape[1] ** 0.5


def dense():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight.copy_(low((24, 16), 4))
        net[2].weight.copy_(low((16, 24), 3, seed=1))
    return net


def image():
    torch.manual_seed(0)
    first = nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 8, 3))


def line():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


def data(shape=(16,), events=500):
    x = np.random.default_rng(0).normal(size=(events, *shape)).astype(np.float32)
    return Task(x, (x.reshape(events, -1)[:, 0] > 0).astype(np.int64))


CASES = [
    (dense, (16,), "0", "svd", 16),
    (dense, (16,), "0", "tt", 400),
    (image, (4, 8, 8), "0", "svd", 8),
    (image, (4, 8, 8), "0", "spatial", 12),
    (image, (4, 8, 8), "0", "tt", 8),
    (line, (4, 8), "0", "svd", 6),
    (line, (4, 8), "0", "tt", 6),
    (line, (4, 8), "0", "cp", 18),
    (image, (4, 8, 8), "0", "cp", 96),
]


@pytest.mark.parametrize("net, shape, name, method, full", CASES)
def test_at_full_rank_the_chain_is_the_layer(net, shape, name, method, full):
    """With any stride, padding and dilation; the tolerance is that of float32 sums."""
    layer = dict(prepare(net()))[name]
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(20, *shape)).astype(np.float32))
    chain, held = _chain(layer, method, full, 2)
    assert held == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(chain(x), layer(x), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("net, shape, name, method, full", CASES)
def test_the_energy_is_that_of_the_chains_own_weights(net, shape, name, method, full):
    """The chain is linear: its matrix, from what it does to unit vectors, has the distance that the energy says."""
    layer = dict(prepare(net()))[name]
    layer.bias = None
    weight = layer.weight.detach()
    chain, held = _chain(layer, method, max(full // 4, 1), 2)
    assert 0.05 < held < 1
    taps = 1 if weight.ndim == 2 else 3 ** (weight.ndim - 2)
    units = torch.eye(weight.shape[1] * taps)
    if weight.ndim > 2:
        units = units.reshape(-1, weight.shape[1], *[3] * (weight.ndim - 2))
        for m in chain.modules():
            if isinstance(m, nn.Conv1d | nn.Conv2d):
                n = weight.ndim - 2
                m.stride, m.padding, m.dilation = (1,) * n, (0,) * n, (1,) * n
    with torch.no_grad():
        found = chain(units).reshape(len(units), -1).T
    whole = weight.reshape(weight.shape[0], -1)
    distance = float((found - whole).square().sum() / whole.square().sum())
    assert 1 - distance == pytest.approx(held, abs=1e-4)


def test_cp_finds_a_tensor_of_low_rank():
    g = torch.Generator().manual_seed(3)
    parts = [torch.randn(n, 3, generator=g) for n in (6, 5, 3, 3)]
    kernel = torch.einsum("az,bz,cz,dz->abcd", *parts)
    assert cp_als(kernel, 3)[1] > 0.9999
    held = [cp_als(kernel, r)[1] for r in (1, 2, 3)]
    assert all(a < b for a, b in itertools.pairwise(held))


@pytest.mark.parametrize("n, parts, wanted", [(64, 2, (8, 8)), (16, 2, (4, 4)), (30, 3, (3, 2, 5)), (7, 2, (7, 1))])
def test_factors(n, parts, wanted):
    found = factors(n, parts)
    assert int(np.prod(found)) == n
    assert sorted(found) == sorted(wanted)


# ---- choosing a rank ------------------------------------------------------------------------------------------------------


def applied(options, net=None, task=None):
    said = []
    work = Work(net or dense(), task or data(), say=said.append)
    options.apply(work)
    return work.module, said


def test_the_smallest_rank_with_the_energy_is_taken_and_what_does_not_gain_stays():
    net, (found, said) = dense(), applied(LowRank(energy=0.98))
    for name, m in (("0", net[0]), ("2", net[2])):
        s = torch.linalg.svdvals(m.weight.double()).square()
        wanted = int((s.cumsum(0) / s.sum() < 0.98).sum()) + 1
        assert found.get_submodule(name)[0].out_features == wanted
    assert isinstance(found.get_submodule("4"), nn.Linear)
    assert sum("<-" in line for line in said) == 3
    assert any(line.startswith("4") and "full" in line and "<-" in line for line in said)


@pytest.mark.parametrize("method", ["svd", "tt", "cp", "spatial"])
def test_a_given_rank(method):
    found, _ = applied(LowRank(rank=2, method=method, layers=("0",)), image(), data((4, 8, 8)))
    chain = found.get_submodule("0")
    assert chain[0].out_channels == 2
    assert len(chain) == {"svd": 2, "spatial": 2, "tt": 3, "cp": 4}[method]


def test_the_solver_chooses_the_rank():
    """What is taken costs at most the share of the layer; the layer of full rank stays."""
    net, task, spec = dense(), data(), Spec.uniform(6, 8)
    before = {n: solved(m) for n, m in prepare(quantize(net, spec, task.sample))}
    found, said = applied(LowRank(lut=0.7, energy=0.9, spec=spec))
    after: dict = {}
    for name, m in prepare(quantize(found, spec, task.sample)):
        after[name.split(".")[0]] = after.get(name.split(".")[0], 0) + solved(m)
    assert after["0"] <= 0.7 * before["0"]
    assert after["2"] <= 0.7 * before["2"]
    assert isinstance(found.get_submodule("4"), nn.Linear)
    assert all("LUT" in line for line in said)
    taken = [line for line in said if "<-" in line]
    assert len(taken) == 3


def test_the_table_of_candidates():
    task = data()
    layer = dict(prepare(dense()))["0"]
    found = candidates("0", layer, LowRank(lut=0.7, spec=Spec.uniform(6, 8)), task.sample, Spec.uniform(6, 8))
    assert found[0].rank == 0
    assert sum(c.taken for c in found) == 1
    assert all(a.energy <= b.energy and a.weights < b.weights for a, b in itertools.pairwise(found[1:]))
    assert all(c.weights < layer.weight.numel() for c in found[1:])


EXACT = {
    "svd": (dense, (16,), LowRank(energy=0.9)),
    "tt": (dense, (16,), LowRank(rank=3, method="tt", layers=("0",))),
    "spatial": (image, (4, 8, 8), LowRank(rank=3, method="spatial", layers=("0",))),
    "cp": (image, (4, 8, 8), LowRank(rank=3, method="cp", layers=("0",))),
    "line": (line, (4, 8), LowRank(rank=2, method="tt", layers=("0",))),
}
FAST = (("svd", False), ("tt", True), ("spatial", False))
ORDERS = itertools.product(EXACT, (True, False))


@pytest.mark.parametrize("case, first", [pytest.param(*o, marks=() if o in FAST else pytest.mark.slow) for o in ORDERS])
def test_before_and_after_quantization_the_design_is_exact(case, first):
    net, shape, options = EXACT[case]
    task, work = data(shape), Work(net(), data(shape))
    order = [options, Quantize(Spec.uniform(6, 8))] if first else [Quantize(Spec.uniform(6, 8)), options]
    for step in [*order, Prune(0.3), Train(1, batch=200, engine="torch")]:
        step.apply(work)
    module, x = work.module.eval(), task.x[:100]
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_array_equal(
        hc.compile(module, example_inputs=x[:4]).predict(x.numpy(), engine="reference"), wanted
    )


def test_a_chain_trains():
    task = data()
    run = Pipeline([LowRank(rank=2, layers=("0",)), Train(8, batch=50)]).run(dense(), task)
    assert run.records[1].measures["score"] > run.records[0].measures["score"]


def test_a_tensor_train_is_smaller():
    found, _ = applied(LowRank(rank=4, method="tt", layers=("0",)))
    chain = found.get_submodule("0")
    assert isinstance(chain, TensorTrain)
    assert sum(p.numel() for p in chain.stages.parameters()) < 24 * 16


# ---- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"LowRank: takes one of energy, rank and lut, or energy with lut, not none"),
        ({"energy": 0.9, "rank": 3}, r"or energy with lut, not energy and rank"),
        ({"energy": 1.5}, r"energy must be a share above 0 and up to 1, not 1.5"),
        ({"lut": 0.0}, r"lut must be a share above 0 and up to 1, not 0"),
        ({"rank": 0}, r"rank must be a whole number from 1, not 0"),
        ({"rank": 2, "method": "qr"}, r"method must be one of svd, spatial, tt, cp, not 'qr'"),
        ({"rank": 2, "parts": 1}, r"parts must be 2 or more, not 1"),
        ({"rank": 2, "layers": ("x",)}, r"no dense or convolution layer is called 'x'; layers: 0, 2, 4"),
        ({"rank": 2, "method": "cp", "layers": ("0",)}, r"LowRank, layer 0: method 'cp' is for convolutions"),
        ({"lut": 0.5}, r"LowRank, layer 0: LUTs depend on widths, which the layer does not have; give spec="),
    ],
)
def test_errors_name_the_option_and_the_layer(options, message):
    with pytest.raises(hc.CompileError, match=message):
        LowRank(**options).apply(Work(dense(), data()))


def test_a_layer_that_a_method_does_not_fit_stays():
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 8, 2, groups=2), nn.Flatten(), nn.Linear(392, 2)
    )
    found, said = applied(LowRank(rank=2, method="spatial"), net, data((4, 8, 8)))
    assert [line.split("stays: ")[1] for line in said] == [
        "its padding must be numbers, of zeros",
        "transposed convolutions and those with groups are not decomposed",
        "method 'spatial' is for convolutions",
    ]
    assert isinstance(found.get_submodule("0"), nn.Conv2d)
