"""Distillation: what a teacher knows goes into the loss of the training that follows; knows no widths and no cost."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir.errors import CompileError
from .layers import hooked
from .pipeline import Work
from .task import Task, predict, run

__all__ = ["Distill", "Features", "Guide", "MeanTeacher", "ReconstructionError"]


class Guide(nn.Module):
    """A part of the loss beside the task's own; trained parameters of it train along.

    `weight`: the loss is ``(1 - weight) * own + weight * guided``.
    """

    weight: float

    def loss(self, x: Any, outputs: Tensor, index: Tensor | None) -> Tensor:
        """The guided part, for a batch of inputs, the student's outputs, and which training events they are."""
        raise NotImplementedError

    def follow(self, module: nn.Module) -> None:
        """Before a training: this is the student now."""

    def stepped(self, module: nn.Module) -> None:
        """After each step of the optimizer."""


class OutputGuide(Guide):
    """The student's outputs shall be the teacher's.

    For classes the cross entropy with the teacher's probabilities at `temperature`, times its square (Hinton et al.,
    arXiv:1503.02531); for other losses the mean squared distance. `outputs`: the teacher's, of every training event, or None where
    a loader gives the events.
    """

    outputs: Tensor | None

    def __init__(self, teacher: nn.Module, task: Task, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature, self.kind = weight, temperature, task.kind
        self.teacher = [_frozen(teacher)]  # in a list: the teacher's parameters are not the guide's
        self.outputs = None if task.x is None else predict(self.teacher[0], task.x)

    def loss(self, x: Any, outputs: Tensor, index: Tensor | None) -> Tensor:
        with torch.no_grad():
            teacher = run(self.teacher[0], x) if self.outputs is None or index is None else self.outputs[index]
        if self.kind != "cross_entropy":
            return F.mse_loss(outputs, teacher.reshape(outputs.shape))
        t = self.temperature
        return F.cross_entropy(outputs / t, torch.softmax(teacher / t, -1)) * t * t


class FeatureGuide(Guide):
    """Layers of the student shall compute what layers of the teacher do, by a trained linear map (FitNets, arXiv:1412.6550)."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pairs: Mapping[str, str], weight: float, sample: Tensor):
        super().__init__()
        self.weight, self.pairs = weight, dict(pairs)
        self.teacher = [_frozen(teacher)]
        seen, known = _watched(student, list(pairs), sample), _watched(teacher, list(pairs.values()), sample)
        self.maps = nn.ModuleDict()
        for mine, theirs in pairs.items():
            self.maps[mine.replace(".", "/")] = nn.Linear(seen[mine].shape[-1], known[theirs].shape[-1])
        self.student = [student]

    def follow(self, module: nn.Module) -> None:
        self.student = [module]

    def loss(self, x: Any, outputs: Tensor, index: Tensor | None) -> Tensor:
        with torch.no_grad():
            known = _watched(self.teacher[0], list(self.pairs.values()), x)
        seen = _watched(self.student[0], list(self.pairs), x)
        parts = [F.mse_loss(self.maps[m.replace(".", "/")](seen[m]), known[t]) for m, t in self.pairs.items()]
        return torch.stack(parts).mean()


class MeanGuide(Guide):
    """The teacher is the moving average of the student (Mean Teacher, arXiv:1703.01780)."""

    def __init__(self, student: nn.Module, kind: str, weight: float, temperature: float, decay: float) -> None:
        super().__init__()
        self.weight, self.kind, self.temperature, self.decay = weight, kind, temperature, decay
        self.mean = [_frozen(student)]

    def loss(self, x: Any, outputs: Tensor, index: Tensor | None) -> Tensor:
        with torch.no_grad():
            teacher = run(self.mean[0], x)
        if self.kind != "cross_entropy":
            return F.mse_loss(outputs, teacher)
        t = self.temperature
        return F.cross_entropy(outputs / t, torch.softmax(teacher / t, -1)) * t * t

    def follow(self, module: nn.Module) -> None:
        """What has changed its shape since starts anew as its own mean."""
        own, theirs = self.mean[0].state_dict(), module.state_dict()
        if own.keys() != theirs.keys() or any(own[k].shape != theirs[k].shape for k in own):
            self.mean = [_frozen(module)]

    def stepped(self, module: nn.Module) -> None:
        with torch.no_grad():
            for mean, now in zip(self.mean[0].state_dict().values(), module.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    finite = torch.isfinite(mean) & torch.isfinite(now)
                    mean.copy_(torch.where(finite, mean * self.decay + now * (1 - self.decay), now))
                else:
                    mean.copy_(now)


class ReconstructionError(nn.Module):
    """An autoencoder's anomaly score ``[events, 1]``: the mean squared difference of input and output.

    The teacher for a small student that learns the score itself, as CICADA's does (CMS-DP-2023-086).
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> Tensor:
        return (self.autoencoder(x).reshape(x.shape) - x).square().flatten(1).mean(1, keepdim=True)


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


def _watched(module: nn.Module, names: list[str], x: Any) -> dict[str, Tensor]:
    """Outputs of some layers in a run of the module."""
    found: dict[str, Tensor] = {}
    parts = dict(module.named_modules())
    unknown = next((n for n in names if n not in parts), None)
    if unknown is not None:
        raise CompileError("Features", f"no layer is called '{unknown}'", f"layers: {', '.join(n for n in parts if n)}")

    def seen(name: str) -> Any:
        return lambda m, inputs, y: found.__setitem__(name, y.flatten(2).mean(2) if y.ndim > 3 else y)

    with hooked(parts[n].register_forward_hook(seen(n)) for n in names):
        run(module, x)
    return found


def _checked(where: str, weight: float, temperature: float = 1.0) -> None:
    if not 0 <= weight <= 1:
        raise CompileError(where, f"weight must be from 0 to 1, not {weight}")
    if not temperature > 0:
        raise CompileError(where, f"temperature must be positive, not {temperature}")


@dataclass(frozen=True, eq=False)
class Distill:
    """The trainings that follow learn a teacher's outputs too.

    `teacher`: a module, by default the network as it is now; it takes the place of an earlier teacher.
    `ReconstructionError(autoencoder)` with `weight=1` is that of a student of an anomaly score.
    """

    teacher: nn.Module | None = None
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _checked("Distill", self.weight, self.temperature)

    def apply(self, work: Work) -> None:
        teacher = self.teacher if self.teacher is not None else work.module
        work.guides[:] = [g for g in work.guides if not isinstance(g, OutputGuide)]
        work.guides.append(OutputGuide(teacher, work.task, self.weight, self.temperature))


@dataclass(frozen=True, eq=False)
class Features:
    """The training that follows makes layers of the student (keys of `layers`) tell what layers of the teacher do."""

    teacher: nn.Module
    layers: Mapping[str, str] = field(default_factory=dict[str, str])
    weight: float = 0.3

    def __post_init__(self) -> None:
        _checked("Features", self.weight)

    def apply(self, work: Work) -> None:
        if not self.layers:
            raise CompileError("Features", "needs layers={'student layer': 'teacher layer'}")
        sample = work.task.sample[:64]
        with torch.random.fork_rng(devices=[]):  # the maps start from the seed of the run
            torch.manual_seed(work.generator().initial_seed())
            work.guides.append(FeatureGuide(self.teacher, work.module, self.layers, self.weight, sample))


@dataclass(frozen=True)
class MeanTeacher:
    """The training that follows holds the network near its own moving average, of `decay` per step."""

    weight: float = 0.3
    temperature: float = 1.0
    decay: float = 0.999

    def __post_init__(self) -> None:
        _checked("MeanTeacher", self.weight, self.temperature)

    def apply(self, work: Work) -> None:
        work.guides.append(MeanGuide(work.module, work.task.kind, self.weight, self.temperature, self.decay))


def guided(own: Tensor, guides: list[Any], x: Any, outputs: Tensor, index: Tensor | None) -> Tensor:
    """The loss with every guide's part."""
    for g in guides:
        own = (1 - g.weight) * own + g.weight * g.loss(x, outputs, index)
    return own
