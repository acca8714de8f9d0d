"""Torch modules against their own results: exact where float64 is exact, else both in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_models as t
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import hwcompile as hc
from hwcompile.frontends.real import Quant
from hwcompile.frontends.torch import read_torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def drawn(table, kind, seed, count, shape):
    """So many random layers that torch itself can run, and data for them."""
    rng = np.random.default_rng(seed)
    x, found = t.data(rng, *shape), []
    while len(found) < count:
        module = t.on_grid(table[kind](rng), rng)
        try:
            t.outputs(module, x)
        except RuntimeError:  # a kernel larger than its padded input
            continue
        found.append(module)
    return t.Parallel(found), x


@pytest.mark.parametrize("kind", t.SEQUENCES)
def test_random_layers_on_sequences(kind):
    t.check_exact(*drawn(t.SEQUENCES, kind, 0, 10, (4, 8)))


@pytest.mark.parametrize("kind", t.IMAGES)
def test_random_layers_on_images(kind):
    t.check_exact(*drawn(t.IMAGES, kind, 0, 10, (4, 6, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 8))
@pytest.mark.parametrize("kind", [*t.SEQUENCES, *t.IMAGES])
def test_more_random_layers(kind, seed):
    table, shape = (t.SEQUENCES, (4, 8)) if kind in t.SEQUENCES else (t.IMAGES, (4, 6, 8))
    t.check_exact(*drawn(table, kind, seed, 20, shape))


# ---- operators --------------------------------------------------------------------------------------------------------

EXACT = {
    "arithmetic": lambda x: (
        x + 1,
        2 - x,
        x * 3,
        x / 4,
        -x,
        x.abs(),
        x.sign(),
        torch.rsub(x, 2),
        x * x - x,
        torch.add(x, x * x, alpha=0.5),
    ),
    "rounding": lambda x: (
        x.floor(),
        x.ceil(),
        x.round(),
        x.trunc(),
        x.frac(),
        x // 2,
        torch.fmod(x, 2),
        x % 2,
        torch.div(x, 2, rounding_mode="trunc"),
    ),
    "limits": lambda x: (
        torch.maximum(x, -x),
        x.clamp(0, 1),
        x.clamp(min=0.5),
        x.clamp_max(0.25),
        torch.clamp(x, torch.zeros(8, dtype=x.dtype), None),
        F.relu6(x),
        x.relu(),
    ),
    "powers": lambda x: (
        x.pow(2),
        x**3,
        x**4,
        x.square(),
        torch.lerp(x, x * 2, 0.25),
        torch.addcmul(x, x, x, value=0.5),
    ),
    "relations": lambda x: (x > 0, x >= 0.5, x < -x, x <= 1, x == x.abs(), x != 0),
    "logic": lambda x: (
        (x > 0) & (x < 1),
        (x > 0) | (x < -1),
        ~(x > 0),
        (x > 0) ^ (x < 0.5),
        torch.logical_and(x, x < 1),
        torch.logical_not(x),
        (x > 0).any(-1),
        (x > 1).all(1),
    ),
    "choices": lambda x: (
        torch.where(x > 0, x, 0.0),
        torch.where(x > 0, 1.0, x),
        torch.where(x > 0, x, -x),
        x.masked_fill(x > 1, 0.0),
        (x > 0).to(x.dtype) * x,
        (x * 2).long(),
    ),
    "views": lambda x: (
        x.view(-1, 32),
        x.reshape(x.size(0), 8, 4),
        x.flatten(1),
        x.unflatten(2, (2, 4)),
        x.unsqueeze(1),
        x.unsqueeze(-1).squeeze(-1),
        x.squeeze(1),
    ),
    "axes": lambda x: (
        x.permute(0, 2, 1),
        x.transpose(1, 2),
        x.mT,
        x.movedim(1, 2),
        x.swapaxes(1, 2),
        x.transpose(0, 1).contiguous().transpose(1, 0),
    ),
    "slices": lambda x: (
        x[:, 1],
        x[:, 1:3],
        x[..., ::2],
        x[:, [0, 3, 1]],
        x[:, -1:],
        x.narrow(1, 1, 2),
        x.index_select(1, torch.tensor([2, 0])),
        x[:, 0, 3],
        x[:, None],
    ),
    "parts": lambda x: (
        x.chunk(2, -1)[1],
        x.split(3, 1)[1],
        *x.unbind(1),
        x.split([3, 5], 2)[0],
        torch.tensor_split(x, 3, 2)[2],
    ),
    "joins": lambda x: (
        torch.cat([x, x * 2], 1),
        torch.stack([x, -x], 1),
        torch.hstack([x, x]),
        torch.cat([x, torch.ones(x.shape[0], 1, 8, dtype=x.dtype)], 1),
    ),
    "repeats": lambda x: (
        x.repeat(1, 2, 1),
        x.tile(1, 1, 2),
        x.repeat_interleave(2, 1),
        x.unsqueeze(1).expand(-1, 3, -1, -1),
        x[:, :1].expand_as(x),
    ),
    "order": lambda x: (
        x.flip(1),
        x.roll(1, 2),
        x.rot90(1, (1, 2)),
        x.diagonal(0, 1, 2),
        x.unfold(1, 3, 1),
        x.tril(),
        x.triu(1),
    ),
    "gather": lambda x: x.gather(2, torch.tensor([[0, 3], [1, 1], [7, 2], [5, 5]]).expand(x.shape[0], 4, 2)),
    "padding": lambda x: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 2), value=3.0),
        F.pad(x, (1, 2), mode="reflect"),
        F.pad(x, (1, 0, 1, 2)),
        F.pad(x, (-1, 1)),
    ),
    "sums": lambda x: (
        x.sum(1),
        x.sum(-1, keepdim=True),
        x.mean((1, 2)),
        x.cumsum(1),
        x.cumsum(-1).flip(2),
        x[:, :2].prod(1),
    ),
    "extremes": lambda x: (x.amax(1), x.amin(-1), x.max(1)[0], x.min(1).values, x.amax((1, 2), keepdim=True)),
    "places": lambda x: (
        distinct(x).argmax(-1),
        distinct(x).argmin(2, keepdim=True),
        distinct(x).max(2)[1],
        *distinct(x).topk(3),
        *distinct(x).sort(-1, descending=True),
        distinct(x).argsort(-1),
    ),
    "norms": lambda x: (torch.linalg.vector_norm(x, 1, dim=1), torch.linalg.vector_norm(x, float("inf"), dim=1)),
    "products": lambda x: (
        x @ x.mT,
        torch.bmm(x, x.transpose(1, 2)),
        torch.einsum("bij,bkj->bik", x, x),
        torch.einsum("bij->bji", x),
    ),
    "split heads": lambda x: x.view(-1, 4, 2, 4).transpose(1, 2) @ x.view(-1, 4, 2, 4).permute(0, 2, 3, 1),
}
"""Functions of data ``[events, 4, 8]`` whose float64 arithmetic is exact on small grids."""


def distinct(x):
    """No two equal elements along the last axis, since torch orders equal ones as it likes."""
    return x * 64 + torch.arange(8, dtype=x.dtype)


@pytest.mark.parametrize("name", EXACT)
def test_exact_functions(name):
    t.check_exact(t.Apply(EXACT[name]), t.data(np.random.default_rng(0), 4, 8))


def test_assignments():
    def assigned(x):
        y = x.clone()
        y[:, 0] = 1.0
        y[:, :, 2] = y[:, :, 3] * 2
        y += 1
        return y.relu_()

    t.check_exact(t.Apply(assigned), t.data(np.random.default_rng(0), 4, 8))


REAL = {
    "roots": lambda x: ((p := x.abs() + 0.1).sqrt(), p.rsqrt(), p.reciprocal(), p**0.5, p**-0.5, p**-1, p**1.5, 1 / p),
    "logarithms": lambda x: (
        (p := x.abs() + 0.1).log(),
        p.log2(),
        p.log10(),
        p.log1p(),
        2**x,
        x.exp(),
        x.expm1(),
        torch.exp2(x),
    ),
    "trigonometry": lambda x: (x.sin(), x.cos(), x.tan(), x.tanh(), x.sinh(), x.cosh(), x.atan(), x.asinh(), x.erf()),
    "activations": lambda x: (
        F.sigmoid(x),
        F.elu(x, 0.7),
        F.celu(x, 0.9),
        F.selu(x),
        F.gelu(x),
        F.gelu(x, approximate="tanh"),
        F.silu(x),
        F.mish(x),
        F.logsigmoid(x),
        F.softsign(x),
        F.tanhshrink(x),
        F.hardswish(x),
        F.hardsigmoid(x),
        F.glu(x),
        F.rrelu(x),
    ),
    "softmax": lambda x: (F.softmax(x, 1), F.log_softmax(x, -1), F.softmin(x, -1), x.logsumexp(-1)),
    "moments": lambda x: (
        x.var(1),
        x.std(-1),
        *torch.var_mean(x, 1),
        x.norm(dim=-1),
        torch.linalg.norm(x, dim=1),
        F.normalize(x, dim=-1),
    ),
    "normalized": lambda x: (
        F.layer_norm(x, (8,)),
        F.layer_norm(x, (4, 8)),
        F.group_norm(x, 2),
        F.instance_norm(x),
        F.rms_norm(x, (8,)),
    ),
    "attention": lambda x: (
        F.scaled_dot_product_attention(x, x, x),
        F.scaled_dot_product_attention(x, x, x, scale=0.3),
        F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(4, 4, dtype=x.dtype).tril()),
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_functions(name):
    t.check_real(t.Apply(REAL[name]), t.data(np.random.default_rng(0), 4, 8), close=1e-8)


def test_softplus():
    """Torch takes x itself beyond the threshold of 20, 2e-9 away from the function."""
    t.check_real(
        t.Apply(lambda x: (F.softplus(x), F.softplus(x, 2.0))), t.data(np.random.default_rng(0), 4, 8), close=1e-8
    )


MODULES = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, affine=True),
    "MultiheadAttention": lambda: t.Apply(lambda m, x: m(x, x, x), nn.MultiheadAttention(8, 2, batch_first=True)),
    "time first": lambda: t.Apply(
        lambda m, x: m((y := x.transpose(0, 1)), y, y)[0].transpose(0, 1), nn.MultiheadAttention(8, 4, bias=False)
    ),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"),
    "LSTM": lambda: t.Apply(
        lambda m, x: ((o := m(x))[0], o[1][0].transpose(0, 1), o[1][1][-1]),
        nn.LSTM(8, 3, 2, bidirectional=True, batch_first=True),
    ),
    "LSTM time first": lambda: t.Apply(lambda m, x: m(x.transpose(0, 1))[0][-1], nn.LSTM(8, 3)),
    "GRU": lambda: t.Apply(lambda m, x: m(x.transpose(0, 1))[0].transpose(0, 1), nn.GRU(8, 3, 2)),
    "RNN": lambda: t.Apply(lambda m, x: m(x)[0], nn.RNN(8, 3, nonlinearity="relu", batch_first=True, bias=False)),
    "cells": lambda: t.Apply(
        lambda a, b, x: (*a(x[:, 0]), b(x[:, 1], b(x[:, 0]))), nn.LSTMCell(8, 3), nn.GRUCell(8, 3)
    ),
    "Bilinear of matrices": lambda: t.Apply(lambda m, x: m(x) @ m.weight, nn.Linear(8, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_with_functions(name):
    torch.manual_seed(0)
    t.check_real(MODULES[name]().double().eval(), t.data(np.random.default_rng(0), 4, 8), close=1e-8)


PRODUCTS = {
    "linear": lambda m, x: F.linear(x, m.weight, m.bias),
    "matmul": lambda m, x: x @ m.weight.T + m.bias,
    "left": lambda m, x: (m.weight @ x.mT, m.weight[0] @ x.mT, torch.ones(3, 4, dtype=x.dtype) @ x),
    "vector": lambda m, x: x @ m.weight[0],
    "einsum": lambda m, x: (
        torch.einsum("bij,kj->bik", x, m.weight),
        torch.einsum("kj,bij->bki", m.weight, x),
        torch.einsum("bij,ijk->bk", x, m.weight.T[None, :, :2].expand(4, 8, 2)),
    ),
    "addmm": lambda m, x: torch.addmm(m.bias, x[:, 0], m.weight.t(), beta=0.5, alpha=2),
    "stacked": lambda m, x: x.view(-1, 4, 2, 4).transpose(1, 2) @ m.weight.reshape(5, 2, 4).permute(1, 2, 0),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_constants(name):
    rng = np.random.default_rng(0)
    t.check_exact(t.Apply(PRODUCTS[name], t.on_grid(nn.Linear(8, 5), rng)), t.data(rng, 4, 8))


def test_embeddings_and_one_hot():
    rng = np.random.default_rng(0)
    index = torch.from_numpy(rng.integers(0, 10, (t.EVENTS, 5)))
    table = t.on_grid(nn.Embedding(10, 6), rng)
    model = read_torch(t.Apply(lambda m, i: (m(i), F.one_hot(i, 10)), table), index)
    t.assert_same(t.real_values(model, index), t.outputs(t.Apply(lambda m, i: (m(i), F.one_hot(i, 10)), table), index))


# ---- one network, written in several ways -----------------------------------------------------------------------------


class Modules(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(4, 3, 3), nn.BatchNorm1d(3), nn.Linear(9, 2)
        self.relu, self.pool, self.flat = nn.ReLU(inplace=True), nn.MaxPool1d(2), nn.Flatten()

    def forward(self, x):
        return self.fc(self.flat(self.pool(self.relu(self.norm(self.conv(x))))))


class Functionals(Modules):
    def forward(self, x):
        n = self.norm
        y = F.relu(
            F.batch_norm(
                F.conv1d(x, self.conv.weight, self.conv.bias),
                n.running_mean,
                n.running_var,
                n.weight,
                n.bias,
                eps=n.eps,
            )
        )
        return F.linear(torch.flatten(F.max_pool1d(y, 2), 1), self.fc.weight, self.fc.bias)


class Methods(Modules):
    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        return self.fc(F.max_pool1d(y, 2).view(x.size(0), -1))


def test_modules_functionals_and_methods_give_the_same_graph():
    rng = np.random.default_rng(0)
    modules = t.on_grid(Modules(), rng)
    x = t.data(rng, 4, 8)
    found = []
    for kind in (Modules, Functionals, Methods):
        net = kind().double().eval()
        net.load_state_dict(modules.state_dict())
        net.norm.eps = 0.0
        model = t.check_exact(net, x)
        found.append([(type(n.op).__name__, n.operands, n.shape) for n in model.nodes])
    assert found[0] == found[1] == found[2]


def test_nodes_are_named_by_layers():
    names = [n.name for n in read_torch(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 4)).nodes]
    assert names == ["input", "n0_product", "n0", "n1"]
    assert {"conv", "norm", "fc"} <= {n.name for n in read_torch(Modules(), torch.zeros(2, 4, 8)).nodes}


class Parametrized(nn.Module):
    def forward(self, weight):
        return weight.triu() / 2


def test_parametrizations_and_pruning_are_folded():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    parametrize.register_parametrization(net[0], "weight", Parametrized())
    prune.l1_unstructured(net[1], "weight", 0.5)
    parametrizations.weight_norm(net[2])
    net = net.double().eval()
    net(torch.zeros(1, 8, dtype=torch.float64))
    before = copy.deepcopy({k: v.clone() for k, v in net.state_dict().items()})
    t.check_real(net, t.data(np.random.default_rng(0), 8))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# ---- the interface ----------------------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU(inplace=True)).train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    read_torch(net, torch.randn(5, 4))
    assert net.training
    assert all(m.training for m in net.modules())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


class Several(nn.Module):
    def forward(self, a, *, scale=2.0, b):
        return {"total": a + b * scale, "difference": a - b}


def test_names_of_inputs_and_outputs():
    a, b = torch.ones(2, 3), torch.ones(2, 3)
    model = read_torch(Several(), {"b": b, "a": a})
    assert [model.nodes[i].name for i in model.inputs] == ["a", "b"]
    assert [n for n, _ in model.outputs] == ["total", "difference"]
    pair = read_torch(t.Apply(lambda x: (x + 1, x * 2)), a)
    assert [n for n, _ in pair.outputs] == ["output_0", "output_1"]
    assert [n for n, _ in read_torch(nn.ReLU(), (a.numpy(),)).outputs] == ["output"]


def test_an_exported_program():
    net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.zeros(3, 4)
    dynamic = hc.load(torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("events")},)))
    single = hc.load(torch.export.export(net, (x[:1],)))
    module = hc.load(net, x)
    assert [n.shape for n in dynamic.nodes] == [n.shape for n in single.nodes] == [n.shape for n in module.nodes]
    with pytest.raises(
        hc.CompileError, match="input input: is for exactly 3 events; export it with a dynamic first axis"
    ):
        hc.load(torch.export.export(net, (x,)))


def test_a_module_that_fixes_the_number_of_events():
    net = t.Apply(lambda x: (x.view(1, 2, 4).sum(1), x.reshape(2, 4)[1].unsqueeze(0)))
    x = t.data(np.random.default_rng(0), 8)
    found = t.real_values(read_torch(net, x), x)
    wanted = [np.concatenate(v) for v in zip(*(t.outputs(net, x[k : k + 1]) for k in range(len(x))))]
    t.assert_same(found, wanted)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.bool])
def test_narrow_integers_bring_their_precision(kind):
    x = torch.tensor([[0, 1, 1]], dtype=kind)
    model = read_torch(t.Apply(lambda x: x.float() * 0.5), x)
    assert any(isinstance(n.op, Quant) for n in model.nodes)
    t.assert_same(t.exact_values(model, x), [x.numpy() * 0.5])


def test_a_float_module_is_calibrated_and_compiled():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8))
    design = hc.compile(
        nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3), nn.Softmax(-1)),
        example_inputs=x, calibration=x, bits=10, backends=("cpu",),
    )  # fmt: skip
    assert design.verify(x, events=100).ok
    assert design.deviate(x).argmax_agreement > 0.97
