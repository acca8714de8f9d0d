"""The tasks of the training benchmarks: features and classes of a file, standardised, in three parts, and the network for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["BATCH", "TASKS", "Parts", "Task"]

BATCH = 1024

Parts = dict[str, np.ndarray]
"""x, y (training), x_validation, y_validation, x_test, y_test; features with mean 0 and deviation 1 in training."""


@dataclass(frozen=True)
class Task:
    """`load(path)` gives the parts; `layers`: sizes of the dense network, input to output; `budgets`: LUTs it may cost, falling."""

    load: Callable[[str], Parts]
    layers: tuple[int, ...]
    budgets: tuple[int, ...]


def _jets(path: str) -> Parts:
    """X ``[events, 16]`` and y."""
    with np.load(path) as file:
        return _in_parts(path, file["X"], file["y"], 100_000, 130_000)


def _pixels(path: str) -> Parts:
    """The filter's inputs, y-profile sums / 64 up to 63 and y0 in mm, and its labels."""
    with np.load(path) as file:
        x, y = np.c_[np.minimum(file["yprofile"] // 64, 63), file["y0"]], file["label"]
    return _in_parts(path, x, y, len(x) * 5 // 8, len(x) * 13 // 16)


def _in_parts(path: str, x: np.ndarray, y: np.ndarray, training: int, validation: int) -> Parts:
    if len(x) <= validation:
        sys.exit(f"{path}: needs more than {validation} events, not {len(x)}")
    x, y = x.astype(np.float32), y.astype(np.int64)
    x = (x - x[:training].mean(0)) / (x[:training].std(0) + 1e-6)
    parts = {"": slice(0, training), "_validation": slice(training, validation), "_test": slice(validation, None)}
    return {f"{name}{part}": values[s] for part, s in parts.items() for name, values in (("x", x), ("y", y))}


TASKS = {
    "jets": Task(_jets, (16, 64, 32, 32, 5), (20_000, 12_000, 7_000, 4_000, 2_500, 1_500, 1_000)),
    "pixels": Task(_pixels, (14, 58, 3), (1_600, 1_100, 800, 550, 400, 200, 100)),
}
"""Jets: 16 features, 5 classes (arXiv:1804.06913). Pixels: the smart-pixel filter, 3 classes (arXiv:2310.02474)."""
