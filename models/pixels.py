"""Smart pixels: the filter that drops clusters of low momentum, and the regression of a track's parameters and covariance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import optimize as opt
from .data import charge_levels, sample, smart_pixels
from .data.dataset import DataSet, Split
from .figures import half_width, threshold_keeping
from .model import Inputs, Model, Recipe

__all__ = ["MODELS", "PixelRegression", "covariance_root", "negative_log_likelihood"]

SIGNAL_GEV = 2.0
OPERATING_POINTS = (0.933, 0.976)
"""Shares of the tracks above 2 GeV that the filters of Yoo et al., arXiv:2310.02474, keep."""


def _sample() -> DataSet:
    return sample("smart_pixels")


# ---- the filter -------------------------------------------------------------------------------------------------------


def _profile(train: DataSet) -> Inputs:
    """Sums along x of the 2-bit charges, and y0; in units of 8 and 4 mm, powers of two."""

    def inputs(events: DataSet) -> NDArray[np.float32]:
        profile = charge_levels(events["charge"][:, 1]).sum(2)
        return np.column_stack([profile / 8.0, events.x[:, -1] / 4.0]).astype(np.float32)

    return inputs


def _filter_task(parts: Split, inputs: Inputs) -> opt.Task:
    validation = parts.validation
    return opt.Task(inputs(parts.train), parts.train.y, (inputs(validation), validation.y))


def _filter_metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    """At each operating point the share of tracks above 2 GeV that is kept and, of the soft spectrum, the shares below 2 and
    0.2 GeV that are rejected.

    A cluster is kept if the output of high_pt exceeds the larger of the others by a threshold, which is set on these events.
    """
    margin = outputs[:, 0] - np.maximum(outputs[:, 1], outputs[:, 2])
    pt, soft = np.abs(events["pt_gev"]), events["physical"] == 1
    found = {"accuracy": float(np.mean(outputs.argmax(1) == events.y))}
    for share in OPERATING_POINTS:
        kept = margin >= threshold_keeping(margin[pt > SIGNAL_GEV], share)
        point = f"{100 * share:.1f}"
        found[f"kept_at_{point}"] = float(kept[pt > SIGNAL_GEV].mean())
        found[f"rejected_below_2_gev_at_{point}"] = float(1 - kept[soft & (pt < SIGNAL_GEV)].mean())
        found[f"rejected_below_0.2_gev_at_{point}"] = float(1 - kept[soft & (pt < 0.2)].mean())
    return found


def pixel_filter() -> nn.Module:
    """14-58-3 (arXiv:2310.02474)."""
    return nn.Sequential(nn.Linear(14, 58), nn.ReLU(), nn.Linear(58, 3))


# ---- the regression ---------------------------------------------------------------------------------------------------

TARGETS = {"x_um": 75.0, "y_um": 18.75, "cot_alpha": 8.0, "cot_beta": 0.5}
"""What is regressed, and the units of the network's outputs."""

SMALLEST_SIGMA = 2.0**-6
"""Of a target, in its unit: what the loss adds to the diagonal, so that no event's likelihood grows without end."""

ROWS, COLUMNS = np.tril_indices(len(TARGETS))
"""Of the 10 elements of the covariance's root, in the order of the outputs 4 to 13."""


class PixelRegression(nn.Module):
    """Six layers: separable and pointwise convolution, pooling, three dense layers (Dickinson et al., arXiv:2312.11676).

    Input ``[events, 13, 21]``, the charge at the end of the second time slice. Output ``[events, 14]``: means of `TARGETS`
    in their units, and the 10 elements of a lower triangular matrix, row by row, see `covariance_root`. The paper has tanh
    where this has ReLU, which needs no tables.
    """

    def __init__(self, filters: int = 5, dense: int = 16) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 1, 3, bias=False),  # separable: one channel's 3 x 3, then the channels
            nn.Conv2d(1, filters, 1),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 1),
            nn.ReLU(),
            nn.AvgPool2d(3),
        )
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(filters * 3 * 6, dense),
            nn.ReLU(),
            nn.Linear(dense, dense),
            nn.ReLU(),
            nn.Linear(dense, 14),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.convolutions(x.unsqueeze(1)))


def covariance_root(outputs: Tensor) -> Tensor:
    """L ``[events, 4, 4]`` of outputs ``[events, 14]``, where L L^T is the covariance in the units of `TARGETS`.

    The diagonal is softplus of the output plus `SMALLEST_SIGMA`. Hardware gives the outputs as they are: softplus is for
    whoever uses the covariance, off the chip.
    """
    root = outputs.new_zeros(len(outputs), len(TARGETS), len(TARGETS))
    root[:, ROWS, COLUMNS] = outputs[:, len(TARGETS) :]
    diagonal = F.softplus(torch.diagonal(root, dim1=1, dim2=2)) + SMALLEST_SIGMA
    return torch.tril(root, -1) + torch.diag_embed(diagonal)


def negative_log_likelihood(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean over events of -log of the normal density of y ``[events, 4]``, without the constant.

    With z = L^-1 (y - mean), by forward substitution, that is |z|^2 / 2 + sum(log diag L): no matrix is inverted, and the
    diagonal stays above `SMALLEST_SIGMA`, whatever a quantizer does to the outputs.
    """
    root, residual = covariance_root(outputs), y - outputs[:, : len(TARGETS)]
    z: list[Tensor] = []
    for i in range(len(TARGETS)):
        known = sum((root[:, i, j] * z[j] for j in range(i)), torch.zeros_like(residual[:, i]))
        z.append((residual[:, i] - known) / root[:, i, i])
    squares = torch.stack(z, 1).square().sum(1) / 2
    return (squares + torch.log(torch.diagonal(root, dim1=1, dim2=2)).sum(1)).mean()


def _targets(events: DataSet) -> NDArray[np.float32]:
    return np.column_stack([events[name] / unit for name, unit in TARGETS.items()]).astype(np.float32)


def _two_bit_charge(train: DataSet) -> Inputs:
    return lambda events: charge_levels(events["charge"][:, 1]).astype(np.float32)


def _adc_charge(train: DataSet) -> Inputs:
    """ADC counts in units of 64, of the order of the 2-bit charges."""
    return lambda events: (events["charge"][:, 1] / 64.0).astype(np.float32)


def _regression_task(parts: Split, inputs: Inputs) -> opt.Task:
    validation = inputs(parts.validation), _targets(parts.validation)
    return opt.Task(inputs(parts.train), _targets(parts.train), validation, loss=negative_log_likelihood)


def _regression_metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    """Residuals (root mean square, half width of the central 68 %) in um and units of slope, pulls (residual by predicted
    sigma: mean and half width, 1 if the sigmas are right) and coverage: the share of events within one sigma (0.683)."""
    units = np.array(list(TARGETS.values()))
    residual = (outputs[:, : len(units)] - _targets(events)) * units
    root = covariance_root(torch.as_tensor(np.asarray(outputs, np.float64))).numpy()
    sigma = np.sqrt((root**2).sum(2)) * units  # the diagonal of L L^T
    pulls = residual / sigma
    found: dict[str, float] = {}
    for k, name in enumerate(TARGETS):
        found[f"{name}_rms"] = float(np.sqrt(np.mean(residual[:, k] ** 2)))
        found[f"{name}_half_width"] = half_width(residual[:, k])
        found[f"{name}_pull_mean"] = float(pulls[:, k].mean())
        found[f"{name}_pull_half_width"] = half_width(pulls[:, k])
        found[f"{name}_coverage"] = float(np.mean(np.abs(pulls[:, k]) < 1))
    return found


_REGRESSION = Model(
    name="pixel_regression",
    what="CNN of 6 layers on 13 x 21 charges of 2 bits: x, y, two slopes and their covariance, by likelihood",
    shape=(13, 21),
    references=("arXiv:2312.11676", "arXiv:2602.15946"),
    sample=_sample,
    generate=smart_pixels,
    inputs=_two_bit_charge,
    network=PixelRegression,
    task=_regression_task,
    recipe=Recipe(steps=4000, quantized_steps=2500, spec=opt.Spec.uniform(8, 10)),
    metrics=_regression_metrics,
)

MODELS = (
    Model(
        name="pixel_filter",
        what="dense network 14-58-3 on the profile of 2-bit charges and y0: high pT, low pT of either charge",
        shape=(14,),
        references=("arXiv:2310.02474",),
        sample=_sample,
        generate=smart_pixels,
        inputs=_profile,
        network=pixel_filter,
        task=_filter_task,
        recipe=Recipe(
            steps=8000,
            quantized_steps=24000,
            spec=opt.Spec(activations=opt.learned(6, range="learned")),
            batch=1024,
            lr_bits=0.02,
            budget=1500,
            distils=True,
        ),
        metrics=_filter_metrics,
    ),
    _REGRESSION,
    replace(
        _REGRESSION,
        name="pixel_regression_adc",
        what="the same on charges of 8 bits",
        inputs=_adc_charge,
    ),
)
