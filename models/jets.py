"""Jet taggers: a dense network on features, deep sets and a transformer on constituents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import optimize as opt
from ..ir.errors import CompileError
from .data import jets, sample
from .data.boosted_jets import CLASSES
from .data.dataset import DataSet, Split
from .figures import classification
from .model import Inputs, Model, Recipe

__all__ = ["MODELS", "JetDeepSets", "JetTransformer"]

CONSTITUENTS = 16
"""Those of largest pT that the networks see."""

CONSTITUENT_SCALE = np.array([16.0, 8.0, 8.0])
"""pT fraction, eta and phi become numbers of the order of 1; powers of two cost nothing in hardware."""


_SHARED = opt.Spec(activations=opt.learned(6, per="channel", range="learned"))
"""Constituents share the widths of what is computed of them, as they share weights."""


def _generate(events: int, seed: int) -> DataSet:
    if events % len(CLASSES):
        raise CompileError("events", f"must be a multiple of {len(CLASSES)} (classes) for jets, not {events}")
    return jets(events // len(CLASSES), seed)


def _sample() -> DataSet:
    return sample("jets")


def _features(train: DataSet) -> Inputs:
    scale = train.standardisation()
    return lambda events: scale(events.x)


def _constituents(train: DataSet) -> Inputs:
    return lambda events: (events["constituents"][:, :CONSTITUENTS] * CONSTITUENT_SCALE).astype(np.float32)


def _task(parts: Split, inputs: Inputs) -> opt.Task:
    validation = parts.validation
    return opt.Task(inputs(parts.train), parts.train.y, (inputs(validation), validation.y))


def _metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    return classification(outputs, events.y, events.classes)


def jet_mlp() -> nn.Module:
    """16-64-32-32-5 (Duarte et al., arXiv:1804.06913)."""
    sizes = (16, 64, 32, 32)
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(32, 5))


class JetDeepSets(nn.Module):
    """Each constituent through 3-32-32-32, their mean, then 32-32-5 (after Odagiu et al., arXiv:2402.01876).

    Input ``[events, constituents, 3]``; absent constituents are zeros and count in the mean, as in the paper's data.
    """

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        sizes = (3, size, size, size)
        self.each = nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())))
        self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(x).mean(1))


class Block(nn.Module):
    """Attention and a dense network, each added to its input; layer normalization before them if `norm`."""

    def __init__(self, size: int, heads: int, norm: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))
        self.norms = nn.ModuleList(nn.LayerNorm(size) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        given = self.norms[0](x)
        x = x + self.attention(given, given, given, need_weights=False)[0]
        return x + self.dense(self.norms[1](x))


class JetTransformer(nn.Module):
    """Constituents embedded in `size` dimensions, blocks of attention without positions, their mean, and a dense network
    `size` - 2 `size` - 5."""

    def __init__(self, size: int = 16, heads: int = 2, blocks: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3, size)
        self.blocks = nn.Sequential(*(Block(size, heads, norm) for _ in range(blocks)))
        self.head = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)).mean(1))


MODELS = (
    Model(
        name="jet_mlp",
        what="dense network 16-64-32-32-5 on 16 features of a jet; 5 classes",
        shape=(16,),
        references=("arXiv:1804.06913",),
        sample=_sample,
        generate=_generate,
        inputs=_features,
        network=jet_mlp,
        task=_task,
        recipe=Recipe(
            steps=12000,
            quantized_steps=24000,
            spec=opt.Spec(activations=opt.learned(6, range="learned")),
            batch=1024,
            lr_bits=0.02,
            budget=4000,
            distils=True,
        ),
        metrics=_metrics,
    ),
    Model(
        name="jet_deepsets",
        what="deep sets on 16 constituents: 3-32-32-32 for each, mean, 32-32-5; 5 classes",
        shape=(CONSTITUENTS, 3),
        references=("arXiv:2402.01876",),
        sample=_sample,
        generate=_generate,
        inputs=_constituents,
        network=JetDeepSets,
        task=_task,
        recipe=Recipe(
            steps=24000,
            quantized_steps=24000,
            lr=4e-3,
            spec=_SHARED,
            lr_bits=0.02,
            budget=60_000,
            distils=True,
        ),
        metrics=_metrics,
    ),
    Model(
        name="jet_transformer",
        what="transformer on 16 constituents: embedding 16, one block of 2 heads, mean, 16-32-5; 5 classes",
        shape=(CONSTITUENTS, 3),
        references=("arXiv:1706.03762", "arXiv:2402.01876 (data)"),
        sample=_sample,
        generate=_generate,
        inputs=_constituents,
        network=JetTransformer,
        task=_task,
        recipe=Recipe(steps=4000, quantized_steps=2500, spec=_SHARED, lr_bits=0.02, budget=300_000, distils=True),
        metrics=_metrics,
    ),
)
