"""Anomaly detection on Level-1 objects: a variational autoencoder, of which the encoder is compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import optimize as opt
from ..optimize.task import predict
from .data import sample, trigger_objects
from .data.dataset import DataSet, Split
from .data.level1 import SIGNALS
from .figures import area_under_roc, efficiency_at
from .model import Inputs, Model, Recipe

__all__ = ["MODELS", "SumOfSquares", "TriggerVAE"]

LATENT = 8
INPUTS = 57
FALSE_POSITIVE_RATES = (1e-3, 1e-4)


def _generate(events: int, seed: int) -> DataSet:
    """`events` of background and a tenth of it of each signal."""
    return trigger_objects(events, seed, tuple(SIGNALS), signal_events=max(events // 10, 1))


def _inputs(train: DataSet) -> Inputs:
    """In units of the background's standard deviations, rounded to powers of two, which cost nothing in hardware. The mean is
    not subtracted: what is absent stays 0."""
    scale = 2.0 ** np.round(np.log2(train.take(train.y == 0).standardisation().std))
    return lambda events: (events.x / scale).reshape(len(events), -1).astype(np.float32)


class TriggerVAE(nn.Module):
    """57-32-16-8 and back. Output ``[events, 8 + 8 + 57]``: mean, logarithm of the variance, and reconstruction.

    In training the reconstruction is that of a point drawn from the latent distribution (Kingma and Welling, arXiv:1312.6114).
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(16, LATENT), nn.Linear(16, LATENT)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, INPUTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden).clamp(-8, 8)
        drawn = mean + torch.exp(log_variance / 2) * torch.randn_like(mean) if self.training else mean
        return torch.cat([mean, log_variance, self.decoder(drawn)], 1)


class SumOfSquares(nn.Module):
    """The anomaly score ``[events, 1]``: the sum of the squares of the latent means (Govorkova et al., arXiv:2108.03986)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        mean = self.encoder(x)
        return (mean * mean).sum(1, keepdim=True)


def _loss(outputs: Tensor, x: Tensor) -> Tensor:
    """Minus the evidence lower bound for errors of variance 1, without the constant: half the squared errors of the
    reconstruction, of objects that are there (pT > 0), and the Kullback-Leibler divergence of the latent distribution from the
    standard normal one."""
    mean, log_variance, found = outputs.split([LATENT, LATENT, INPUTS], 1)
    there = (x[:, 0::3] > 0).repeat_interleave(3, 1)
    error = ((found - x).square() * there).sum(1) / 2
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
    return (error + divergence).mean()


def _task(parts: Split, inputs: Inputs) -> opt.Task:
    """Only background is learned from, and only it decides."""
    background, validation = (inputs(p.take(p.y == 0)) for p in (parts.train, parts.validation))
    return opt.Task(background, background, (validation, validation), loss=_loss)


def _student(vae: nn.Module, task: opt.Task) -> tuple[nn.Module, opt.Task]:
    """The encoder, which shall keep the means that it has: the decoder is never built, so it need not be quantized."""
    assert isinstance(vae, TriggerVAE)
    encoder = nn.Sequential(*vae.body, vae.mean)
    means = [predict(encoder, x) for x in (task.x, task.validation[0])]
    return encoder, replace(task, y=means[0], validation=(task.validation[0], means[1]), loss="mse")


def _metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    """For each signal against the background: area under the ROC curve, and the share that passes at false positive rates."""
    score = outputs.reshape(len(events))
    background, found = score[events.y == 0], {}
    for k, name in enumerate(events.classes[1:], 1):
        signal = score[events.y == k]
        found[f"auc_{name}"] = area_under_roc(background, signal)
        for rate in FALSE_POSITIVE_RATES:
            found[f"efficiency_{name}_at_{rate:.0e}"] = efficiency_at(background, signal, rate)
    return found


MODELS = (
    Model(
        name="anomaly_vae",
        what="encoder 57-32-16-8 of a variational autoencoder on 19 trigger objects; the sum of squared means",
        shape=(INPUTS,),
        references=("arXiv:2108.03986", "arXiv:2107.02157 (data)"),
        sample=lambda: sample("trigger_objects"),
        generate=_generate,
        inputs=_inputs,
        network=TriggerVAE,
        task=_task,
        recipe=Recipe(
            steps=3000,
            quantized_steps=6000,
            batch=1024,
            spec=opt.Spec(activations=opt.learned(8, range="learned"), output=opt.fixed(8)),
            lr=2e-3,
            lr_bits=0.02,
            budget=4000,
        ),
        metrics=_metrics,
        student=_student,
        deployed=SumOfSquares,
    ),
)
