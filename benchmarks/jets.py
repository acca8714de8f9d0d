"""The jets of the training benchmarks: a file with X ``[events, 16]`` and y, standardised, in three parts."""

from __future__ import annotations

import sys

import numpy as np

__all__ = ["BATCH", "LAYERS", "jets"]

LAYERS = (16, 64, 32, 32, 5)
BATCH = 1024
TRAINING, VALIDATION = 100_000, 30_000


def jets(path: str) -> dict[str, np.ndarray]:
    """x, y (training), x_validation, y_validation, x_test, y_test; features with mean 0 and deviation 1 in training."""
    with np.load(path) as file:
        x, y = file["X"], file["y"].astype(np.int64)
    if len(x) < TRAINING + VALIDATION + 1:
        sys.exit(f"{path}: needs more than {TRAINING + VALIDATION} events, not {len(x)}")
    x = ((x - x[:TRAINING].mean(0)) / x[:TRAINING].std(0)).astype(np.float32)
    parts = {
        "": slice(0, TRAINING),
        "_validation": slice(TRAINING, TRAINING + VALIDATION),
        "_test": slice(TRAINING + VALIDATION, None),
    }
    return {f"{name}{part}": values[s] for part, s in parts.items() for name, values in (("x", x), ("y", y))}
