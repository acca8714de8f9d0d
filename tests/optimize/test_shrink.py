"""The module really shrinks: it equals the one whose readers have weights of 0, and then its design, bit for bit."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_networks import same_as_compiled
from torch import nn

import hwcompile as hc
from hwcompile.optimize import Format, Pipeline, Quantize, Spec, Task, Train, Work, fixed, learned
from hwcompile.optimize.pruning import Prune
from hwcompile.optimize.shrink import Shrink

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Residual(nn.Module):
    """Convolutions with norms, pools, a sum that ties channels, and a flatten."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.pool, self.depth = nn.AvgPool2d(2), nn.Conv2d(6, 6, 2, groups=6)
        self.dense, self.last = nn.Linear(24, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = self.pool(F.relu(self.left(x) + self.right(x)))
        x = F.relu(self.depth(x)).flatten(1)
        return self.last(torch.relu(self.dense(x)))


class Attention(nn.Module):
    def __init__(self, heads=-1):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(*s) for s in ((4, 12), (4, 12), (4, 12), (12, 6)))
        self.last, self.heads = nn.Linear(6, 3), heads

    def _split(self, x):
        return x.reshape(x.shape[0], 5, self.heads, 4).transpose(1, 2)

    def forward(self, x):
        q, k, v = self._split(self.q(x)), self._split(self.k(x)), self._split(self.v(x))
        a = torch.softmax(torch.matmul(q, k.transpose(2, 3)) / 2, -1)
        x = torch.matmul(a, v).transpose(1, 2).flatten(2)
        return self.last(torch.relu(self.out(x)).mean(1))


class Joined(nn.Module):
    """Two branches that are concatenated; one carries the inputs themselves."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(26, 3)

    def forward(self, x):
        return self.last(torch.cat([torch.relu(self.a(x)), x, torch.tanh(self.b(x))], -1))


def chain():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def transposed():
    parts = [nn.Conv1d(3, 8, 3), nn.ReLU(), nn.ZeroPad1d(1), nn.ConvTranspose1d(8, 6, 2), nn.MaxPool1d(2), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(30, 3))


def shuffled():
    return nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


NETS = {
    "chain": (chain, (8,)),
    "residual": (Residual, (2, 6, 6)),
    "attention": (Attention, (5, 4)),
    "joined": (Joined, (8,)),
    "transposed": (transposed, (3, 10)),
    "shuffled": (shuffled, (2, 6, 6)),
}


def made(name, events=400):
    torch.manual_seed(1)
    build, shape = NETS[name]
    net = build()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.uniform_(-1, 1)
            m.running_var.uniform_(0.5, 2)
    x = np.random.default_rng(0).normal(size=(events, *shape)).astype(np.float32)
    return net.eval(), Task(x, (x.reshape(events, -1)[:, 0] > 0).astype(np.int64))


def silenced(before, after):
    """The module as it was, with 0 for every input of a layer that the shrunk one does not read.

    Layers keep their order of inputs and outputs, so that what is left of a weight is found by its values.
    """
    found = copy.deepcopy(before)
    for name, m in found.named_modules():
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d) and getattr(m, "groups", 1) == 1:
            axis = 0 if isinstance(m, nn.ConvTranspose1d) else 1
            old, new = m.weight.detach().movedim(axis, 0), after.get_submodule(name).weight.detach().movedim(axis, 0)
            rows = _kept(before, after, name)
            part = old.movedim(1, 0)[rows].movedim(0, 1)
            keep = [any(torch.equal(a, b) for b in new) for a in part]
            assert sum(keep) == len(new)
            with torch.no_grad():
                old[~torch.tensor(keep)] = 0
    return found


def _kept(before, after, name):
    """Outputs of a layer that are left, by their biases."""
    old, new = before.get_submodule(name).bias, after.get_submodule(name).bias
    return [k for k, b in enumerate(old.tolist()) if b in new.tolist()]


def shrunk(name, amount=0.5, **options):
    net, task = made(name)
    work = Work(net, task)
    Shrink(amount, **options).apply(work)
    return net, work.module, task


def sizes(net):
    return {
        n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
    }


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", NETS)
def test_the_shrunk_module_is_the_one_whose_readers_have_zeros(name, scope):
    net, small, task = shrunk(name, scope=scope)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        wanted, found = silenced(net, small)(task.x), small(task.x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(net(task.x), found, atol=1e-3)


def test_layers_lose_the_same_share_and_readers_the_same_inputs():
    assert sizes(shrunk("chain", scope="layer")[1]) == {"0": (8, 8), "3": (6, 8), "5": (3, 6)}
    found = sizes(shrunk("residual", scope="layer")[1])
    assert found == {
        "first": (4, 2, 3, 3), "left": (3, 4, 3, 3), "right": (3, 4, 1, 1), "depth": (3, 1, 2, 2), "dense": (5, 12), "last": (3, 5),
    }  # fmt: skip


def test_heads_leave_as_a_whole():
    small = shrunk("attention", 1 / 3, layers=("q",))[1]
    assert sizes(small) == {"q": (8, 4), "k": (8, 4), "v": (8, 4), "out": (6, 8), "last": (3, 6)}


def test_the_worst_channels_go():
    net, small, _ = shrunk("chain", 0.25, layers=("0",))
    worth = net.get_submodule("0").weight.abs().mean(1)
    torch.testing.assert_close(
        small.get_submodule("0").weight, net.get_submodule("0").weight[worth.argsort()[4:].sort().values]
    )


@pytest.mark.parametrize("score", ["taylor", "activation", "random"])
def test_every_score(score):
    net, small, task = shrunk("residual", score=score)
    with torch.no_grad():
        torch.testing.assert_close(small(task.x), silenced(net, small)(task.x), rtol=1e-5, atol=1e-5)


SPECS = {
    "fixed": Spec.uniform(6, 8),
    "elements": Spec(learned(6), learned(8), learned(8)),
    "channels": Spec(fixed(6, per="channel"), fixed(12), Format(8, False, "channel")),
}


SLOW = [
    pytest.param(name, spec, marks=pytest.mark.slow)
    for name, spec in (*(("residual", spec) for spec in SPECS), ("chain", "elements"), ("attention", "elements"))
]


@pytest.mark.parametrize("name, spec", [("chain", "channels"), *SLOW])
def test_quantizers_are_cut_too_and_the_design_is_exact(name, spec):
    """Shrink after quantization, with masks, then train: still exact; shrink before it: exact."""
    net, task = made(name)
    first = applied([Quantize(SPECS[spec]), Prune(0.3), Shrink(0.5)], net, task)
    same_as_compiled(first, task.x[:100])
    same_as_compiled(
        applied([Shrink(0.3), Quantize(SPECS[spec]), Train(1, batch=200, engine="torch")], net, task), task.x[:100]
    )


def applied(passes, net, task):
    """Passes without the measures that a pipeline takes after each."""
    own = Work(copy.deepcopy(net), task)
    for step in passes:
        step.apply(own)
    return own.module


@pytest.mark.parametrize("name", ["chain", "attention", "residual"])
def test_a_quantized_module_shrinks_to_what_its_readers_keep(name):
    """With widths of their own for every element, what is left has the widths that it had: the same numbers."""
    net, task = made(name)
    whole = applied([Quantize(SPECS["elements"])], net, task).eval()
    small = applied([Shrink(0.5)], whole, task).eval()
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in whole.parameters())
    with torch.no_grad():
        torch.testing.assert_close(small(task.x), silenced(whole, small)(task.x), rtol=1e-6, atol=1e-6)


# ---- errors -------------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(self.a(x)))


class WrittenOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 4, 1), nn.Linear(32, 3)

    def forward(self, x):
        return self.b(self.a(x.unsqueeze(1)).reshape(-1, 32))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 8, 2, groups=2)

    def forward(self, x):
        return self.b(self.a(x.unsqueeze(1))).mean(2)


@pytest.mark.parametrize(
    "net, options, message",
    [
        (chain(), {"amount": 2}, r"Shrink: amount must be a share from 0 to 1, not 2; give 0.5 for half"),
        (chain(), {"amount": 1}, r"Shrink: an amount of 1 cannot be reached: 0.9286 leaves every layer a channel"),
        (chain(), {"amount": 0.5, "scope": "output"}, r"scope must be one of global, layer, not 'output'"),
        (
            chain(),
            {"amount": 0.5, "layers": ("5",)},
            r"layer 5: its channels must stay, since they are outputs of the net",
        ),
        (chain(), {"amount": 0.5, "layers": ("x",)}, r"no dense or convolution layer is called 'x'; layers: 0, 3, 5"),
        (Twice(), {"amount": 0.5}, r"a: is called more than once"),
        (WrittenOut(), {"amount": 0.5}, r"WrittenOut: its forward has the number of channels written out"),
        (
            Grouped(),
            {"amount": 0.5, "layers": ("a",)},
            r"layer a: its channels must stay, since b has groups of channels",
        ),
        (
            nn.Sequential(nn.Linear(8, 4), nn.GroupNorm(2, 4)),
            {"amount": 0.5},
            r"_1: shrinking does not know what GroupNorm does",
        ),
    ],
)
def test_errors_name_the_layer_and_the_reason(net, options, message):
    with pytest.raises(hc.CompileError, match=message):
        Shrink(**options).apply(Work(net, Task(torch.randn(40, 8), torch.zeros(40, dtype=torch.long))))


def test_a_head_count_that_is_written_out_is_refused():
    _, task = made("attention")
    with pytest.raises(hc.CompileError, match="Attention: its forward has the number of channels written out"):
        Shrink(0.5).apply(Work(Attention(heads=3), task))


class Block(nn.Module):
    """A block of a transformer as torch users write it."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.mix = (
            nn.Linear(4, 8),
            nn.LayerNorm(8),
            nn.MultiheadAttention(8, 4, batch_first=True),
        )
        self.wide, self.narrow, self.last = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x)
        n = self.norm(h)
        h = h + self.mix(n, n, n, need_weights=False)[0]
        return self.last((h + self.narrow(torch.relu(self.wide(h)))).mean(1))


@pytest.mark.parametrize("quantized", [False, True])
def test_heads_of_torchs_own_attention_leave(quantized):
    torch.manual_seed(0)
    x, y = torch.randn(200, 5, 4), torch.arange(200) % 3
    before = [Quantize(Spec.uniform(6, 6))] if quantized else []
    module = Pipeline([*before, Shrink(0.5)]).run(Block(), Task(x, y)).module
    with torch.no_grad():
        assert module(x).shape == (200, 3)
    kept = module.mix.q.weight.shape[0]
    assert kept in (2, 4, 6)  # whole heads of two channels
    assert module.mix.k.weight.shape[0] == module.mix.v.weight.shape[0] == module.mix.out.weight.shape[1] == kept
    assert module.embed.weight.shape[0] == 8  # the norm takes all of them together
    assert module.wide.weight.shape[0] == module.narrow.weight.shape[1] < 12
    if quantized:
        design = hc.compile(module.eval(), example_inputs=x[:4], backends="cpu")
        np.testing.assert_array_equal(design.predict(x.numpy()), module(x).detach().numpy())
    with pytest.raises(hc.CompileError, match="layer embed: its channels must stay, since norm takes them together"):
        Pipeline([Shrink(0.5, layers=("embed",))]).run(Block(), Task(x, y))


def test_a_head_that_leaves_was_worth_nothing():
    """Without a head whose values count for nothing the network computes the same."""
    torch.manual_seed(1)
    x, net = torch.randn(60, 5, 4), Block().eval()
    with torch.no_grad():
        net.mix.in_proj_weight[20:22] = 0  # the values of the third head
        net.mix.in_proj_bias[20:22] = 0
        for part in (net.mix.in_proj_weight[4:6], net.mix.in_proj_weight[12:14]):
            part.mul_(1e-3)
        wanted = net(x)
    small = Pipeline([Shrink(0.25, layers=("mix.v",))]).run(net, Task(x, torch.zeros(60, dtype=torch.long))).module
    assert small.mix.v.weight.shape[0] == 6
    with torch.no_grad():
        torch.testing.assert_close(small(x), wanted)
