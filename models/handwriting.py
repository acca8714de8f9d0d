"""Handwritten digits by a small CNN: the smallest complete example with convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import optimize as opt
from ..ir.errors import CompileError
from .data import digits
from .data.dataset import DataSet, Split
from .figures import classification
from .model import Inputs, Model, Recipe

__all__ = ["MODELS", "DigitsCNN"]


class DigitsCNN(nn.Module):
    """Convolution 3 x 3 to 8 channels, the largest of 2 x 2, dense 72-10. Input ``[events, 8, 8]``."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9 * channels, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.unsqueeze(1))


def _generate(events: int, seed: int) -> DataSet:
    raise CompileError("option --events", f"there are only scikit-learn's digits, not {events}", "leave it out")


def _inputs(train: DataSet) -> Inputs:
    return lambda events: (events.x / 16.0).astype(np.float32)


def _task(parts: Split, inputs: Inputs) -> opt.Task:
    validation = parts.validation
    return opt.Task(inputs(parts.train), parts.train.y, (inputs(validation), validation.y))


def _metrics(outputs: NDArray[Any], events: DataSet) -> dict[str, float]:
    return classification(outputs, events.y, events.classes)


MODELS = (
    Model(
        name="digits",
        what="CNN on images of 8 x 8: convolution to 8 channels, pooling, dense 72-10; 10 classes",
        shape=(8, 8),
        references=("UCI optical recognition of handwritten digits",),
        sample=digits,
        generate=_generate,
        inputs=_inputs,
        network=DigitsCNN,
        task=_task,
        recipe=Recipe(
            steps=1500,
            quantized_steps=6000,
            spec=opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, per="channel", range="learned")),
            batch=128,
            lr_bits=0.02,
            budget=8000,
        ),
        metrics=_metrics,
    ),
)
