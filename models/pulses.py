"""Energies from calorimeter pulses by an LSTM, beside the optimal filter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import optimize as opt
from .data import calorimeter_pulses, optimal_filter, sample, windows
from .data.dataset import DataSet, Split
from .figures import half_width
from .model import Inputs, Model, Recipe

__all__ = ["MODELS", "PulseLSTM"]

SAMPLES = 5
THRESHOLD_GEV = 0.24
"""Deposits above it that are no pile-up are judged: three to four standard deviations of the filter."""


class PulseLSTM(nn.Module):
    """An LSTM over the samples of a window, and a dense layer on its last state (doi:10.1007/s41781-021-00066-y).

    Input ``[events, 5]`` and output ``[events, 1]`` in GeV.
    """

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.unsqueeze(2))
        return self.head(states[:, -1])


def _inputs(train: DataSet) -> Inputs:
    return lambda events: np.asarray(events.x, np.float32)


def _task(parts: Split, inputs: Inputs) -> opt.Task:
    train, validation = ((inputs(p), p.y[:, None]) for p in (parts.train, parts.validation))
    return opt.Task(*train, validation, loss="mse")


def _metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    """Estimate minus truth in MeV: mean, root mean square and half width of deposits, root mean square of all BC; the
    same of the optimal filter for the pulses as they are by default."""
    found: dict[str, float] = {}
    energy = events.y.astype(float)
    high = events["signal_gev"] > THRESHOLD_GEV
    for prefix, estimate in (("", outputs.reshape(len(events))), ("optimal_filter_", optimal_filter()(events.x))):
        error = 1000 * (estimate - energy)
        found[f"{prefix}bias_mev"] = float(error[high].mean())
        found[f"{prefix}rms_mev"] = float(np.sqrt(np.mean(error[high] ** 2)))
        found[f"{prefix}half_width_mev"] = half_width(error[high])
        found[f"{prefix}rms_all_mev"] = float(np.sqrt(np.mean(error**2)))
    return found


MODELS = (
    Model(
        name="pulse_lstm",
        what="LSTM of 10 units on 5 samples of a calorimeter cell, and a dense layer: the energy in GeV",
        shape=(SAMPLES,),
        references=("doi:10.1007/s41781-021-00066-y", "arXiv:2510.11469"),
        sample=lambda: windows(sample("calorimeter_pulses"), SAMPLES),
        generate=lambda events, seed: windows(calorimeter_pulses(events + SAMPLES - 1, seed), SAMPLES),
        inputs=_inputs,
        network=PulseLSTM,
        task=_task,
        recipe=Recipe(steps=6000, quantized_steps=1100, spec=opt.Spec.uniform(8, 12)),
        metrics=_metrics,
    ),
)
