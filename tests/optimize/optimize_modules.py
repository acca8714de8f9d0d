"""Random torch modules and formats for the tests of `hwcompile.optimize`."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hwcompile import optimize as opt

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV")
OVERFLOWS = ("WRAP", "SAT", "SAT_ZERO", "SAT_SYM")


class Residual(nn.Module):
    """Two branches, a function in the code, normalization, a sum and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8, bias=False), nn.Linear(16, 3)
        self.inner = nn.BatchNorm1d(8)

    def forward(self, x):
        h = torch.relu(self.inner(self.a(self.norm(x))))
        return self.c(torch.cat([torch.tanh(self.b(h)), h + self.b(h)], 1))


class Attention(nn.Module):
    """A product of data and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        scores = torch.softmax(torch.matmul(self.q(x), self.k(x).transpose(1, 2)), -1)
        return self.out(torch.matmul(scores, self.v(x)).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer of torch whose last state is read."""

    def __init__(self, kind, **options) -> None:
        super().__init__()
        self.layer = kind(3, 4, batch_first=True, **options)
        self.out = nn.Linear(8 if self.layer.bidirectional else 4, 2)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


class Transformer(nn.Module):
    """Layer normalization, attention with two heads and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        h = self.embed(x)
        n = self.norm(h)
        return self.out((h + self.attention(n, n, n, need_weights=False)[0]).mean(1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, groups=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 12, 3),
    )


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose1d(4, 3, 2),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


NETWORKS = {
    "dense": (dense, (6,)),
    "residual": (Residual, (6,)),
    "convolution": (convolution, (1, 9, 13)),
    "sequence": (sequence, (2, 7)),
    "attention": (Attention, (5, 3)),
    "lstm": (partial(Recurrent, nn.LSTM), (2, 3)),
    "gru": (partial(Recurrent, nn.GRU), (2, 3)),
    "transformer": (Transformer, (4, 3)),
}
"""Name: (what makes the module, shape of an event)."""


def network(name: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A module with trained-like norms, and data ``[200, ...]``."""
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    module, x = make(), torch.randn(200, *shape)
    module.train()(x)  # norms see some data
    return module.eval(), x


def random_spec(seed: int) -> opt.Spec:
    """Formats of any kind, mode and granularity."""
    rng = np.random.default_rng(seed)

    def weights() -> opt.Format:
        rounding = str(rng.choice(ROUNDINGS))
        if rng.random() < 0.5:
            return opt.learned(
                int(rng.integers(2, 9)), per=str(rng.choice(["tensor", "channel", "element"])), rounding=rounding
            )
        overflow = str(rng.choice(["SAT", "SAT_SYM"]))
        return opt.fixed(
            int(rng.integers(2, 9)), per=str(rng.choice(["tensor", "channel"])), rounding=rounding, overflow=overflow
        )

    def data() -> opt.Format:
        rounding, per = str(rng.choice(ROUNDINGS)), str(rng.choice(["tensor", "channel", "element"]))
        kind = int(rng.integers(0, 4))
        bits = int(rng.integers(3, 9))
        if kind == 0:
            return opt.learned(bits, per=per, rounding=rounding)
        if kind == 1:
            return opt.learned(bits, per=per, rounding=rounding, range="learned")
        overflow = str(rng.choice(OVERFLOWS))
        if kind == 2:
            return opt.fixed(bits, per=per, rounding=rounding, overflow=overflow)
        return opt.fixed(bits, per=per, rounding=rounding, range="learned")

    return opt.Spec(weights(), weights(), data(), output=data() if rng.random() < 0.3 else None)


def some(every, quick):
    """All of them, those not in `quick` in the nightly run: each is compiled."""
    return [
        e if e in quick else pytest.param(*(e if isinstance(e, tuple) else (e,)), marks=pytest.mark.slow) for e in every
    ]
