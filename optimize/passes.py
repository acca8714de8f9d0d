"""Passes that only set formats and ranges; knows no training."""

from __future__ import annotations

from dataclasses import dataclass, field

from .formats import Spec
from .pipeline import Work
from .quantize import calibrate, quantize

__all__ = ["Calibrate", "Quantize"]


@dataclass(frozen=True)
class Quantize:
    """Give every layer the formats of `spec`, with ranges from the task's data."""

    spec: Spec = field(default_factory=Spec)

    def apply(self, work: Work) -> None:
        work.module = quantize(work.module, self.spec, work.task.sample)


@dataclass(frozen=True)
class Calibrate:
    """See the ranges of activations anew on all the training data; with `widths` start their widths anew."""

    widths: bool = False

    def apply(self, work: Work) -> None:
        calibrate(work.module, work.task.sample if work.task.x is None else work.task.x, self.widths)
