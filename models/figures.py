"""Figures of merit of outputs and truth, in numpy; knows no network and no data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_under_roc", "classification", "efficiency_at", "half_width", "threshold_keeping"]

Floats = NDArray[np.float64]


def area_under_roc(background: NDArray[Any], signal: NDArray[Any]) -> float:
    """Probability that a signal's score is above a background's, a tie counting half: 0.5 is chance."""
    scores = np.concatenate([background, signal])
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal scores, from 1
    n, m = len(background), len(signal)
    return float((rank[place[n:]].sum() - m * (m + 1) / 2) / (n * m))


def efficiency_at(background: NDArray[Any], signal: NDArray[Any], rate: float) -> float:
    """Share of the signal above the lowest threshold that lets at most `rate` of the background through."""
    falling = np.sort(background)[::-1]
    return float(np.mean(signal > falling[int(rate * len(falling))]))


def threshold_keeping(signal: NDArray[Any], share: float) -> float:
    """The highest threshold at which at least `share` of the signal's scores reach it."""
    falling = np.sort(signal)[::-1]
    return float(falling[max(int(np.ceil(share * len(falling))), 1) - 1])


def half_width(residuals: NDArray[Any]) -> float:
    """Half of the interval that holds the central 68.3 % of the residuals: sigma, for a normal distribution."""
    low, high = np.quantile(residuals, [0.1585, 0.8415])
    return float(high - low) / 2


def classification(logits: NDArray[Any], labels: NDArray[Any], classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy, and for each class the area under the ROC curve of its softmax against all others.

    logits: ``[events, classes]``; labels: ``[events]``.
    """
    logits = np.asarray(logits, float)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    found = {"accuracy": float(np.mean(logits.argmax(1) == labels))}
    for k, name in enumerate(classes):
        found[f"auc_{name}"] = area_under_roc(shares[labels != k, k], shares[labels == k, k])
    return found
