"""What a model of the zoo is, and how one is trained; knows no network and no physics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import optimize as opt
from ..ir.errors import CompileError
from ..optimize.task import predict
from .data.dataset import DataSet, Split

__all__ = ["Inputs", "Model", "Recipe", "Trained", "train"]

Inputs = Callable[[DataSet], NDArray[np.float32]]
"""The inputs of a network ``[events, *shape]`` of a data set."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: in floats, then quantized, learning from the float network's outputs as well if it `distils`.

    Lengths are in steps of `batch` events, so that a small data set gets more epochs. `budget`: LUTs by the solver, for a
    `spec` with learned widths; to miss it is an error, unless training is cut short (effort below 1).
    """

    steps: int
    quantized_steps: int
    spec: opt.Spec = field(default_factory=opt.Spec)
    batch: int = 512
    lr: float = 3e-3
    quantized_lr: float = 3e-3
    lr_bits: float | None = None
    budget: float | None = None
    distils: bool = False

    def float_passes(self, events: int, effort: float) -> list[Any]:
        """Training in floats."""
        batch, epochs = self._epochs(self.steps, events, effort)
        return [opt.Train(epochs, batch=batch, lr=self.lr)]

    def quantized_passes(self, events: int, effort: float) -> list[Any]:
        """Quantization, and training towards the budget."""
        batch, epochs = self._epochs(self.quantized_steps, events, effort)
        widths = {"lr_bits": self.lr_bits, "budget": self.budget, "strict": effort >= 1}
        training = opt.Train(epochs, batch=batch, lr=self.quantized_lr, **widths)
        return [*([opt.Distill()] if self.distils else []), opt.Quantize(self.spec), training]

    def _epochs(self, steps: int, events: int, effort: float) -> tuple[int, int]:
        batch = max(min(self.batch, events // 8), 1)
        return batch, max(round(effort * steps * batch / events), 1)


def _itself(network: nn.Module, task: opt.Task) -> tuple[nn.Module, opt.Task]:
    return network, task


def _whole(network: nn.Module) -> nn.Module:
    return network


@dataclass(frozen=True)
class Model:
    """A network with its data, its training and what it is judged by.

    what: one sentence, with the architecture; `shape`: of an event's inputs; `references`: papers.
    sample: the small data set that ships with the package; `generate`: (events, seed) -> more of it. `inputs`: of the
    training part, gives the inputs of any part. `task`: of the three parts and the inputs.
    `student`: of the float network and its task, what is quantized and what that shall learn; `deployed`: what of it is
    compiled. Both are the network itself by default. `metrics`: of outputs ``[events, ...]`` and the events' data.
    """

    name: str
    what: str
    shape: tuple[int, ...]
    references: tuple[str, ...]
    sample: Callable[[], DataSet]
    generate: Callable[[int, int], DataSet]
    inputs: Callable[[DataSet], Inputs]
    network: Callable[[], nn.Module]
    task: Callable[[Split, Inputs], opt.Task]
    recipe: Recipe
    metrics: Callable[[NDArray[Any], DataSet], dict[str, float]]
    student: Callable[[nn.Module, opt.Task], tuple[nn.Module, opt.Task]] = _itself
    deployed: Callable[[nn.Module], nn.Module] = _whole

    def seeded(self, seed: int) -> nn.Module:
        """The network with the weights that `seed` draws."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network()


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model: `module` is what to compile; its outputs in eval mode are the compiled engine's.

    `float_module`: the same before quantization; `records`: of all passes; `parts`: the data it was trained and is
    tested on.
    """

    model: Model
    module: nn.Module
    float_module: nn.Module
    records: tuple[opt.Record, ...]
    parts: Split
    inputs: Inputs

    @property
    def x(self) -> NDArray[np.float32]:
        """Inputs of the test part, ``[events, *shape]``."""
        return self.inputs(self.parts.test)

    def metrics(self, outputs: Any = None) -> dict[str, float]:
        """The figures of outputs on the test part, as of ``design.predict(trained.x)``; by default the module's."""
        if outputs is None:
            outputs = predict(self.module, torch.as_tensor(self.x)).numpy()
        given = np.asarray(outputs)
        if len(given) != len(self.parts.test):
            rule = f"must be one for each of the {len(self.parts.test)} test events, not {len(given)}"
            raise CompileError("outputs", rule, "predict on trained.x")
        return self.model.metrics(given, self.parts.test)

    def float_metrics(self) -> dict[str, float]:
        """The figures of the network before quantization."""
        return self.metrics(predict(self.float_module, torch.as_tensor(self.x)).numpy())


def train(model: Model, data: DataSet, seed: int, effort: float) -> Trained:
    """Train by the model's recipe, `effort` times as long; deterministic for a seed."""
    if not (math.isfinite(effort) and effort > 0):
        raise CompileError("effort", f"must be positive, not {effort}", "1 is the recipe as it was measured")
    parts = data.split(seed=seed)
    if min(len(p) for p in parts) < 10:
        raise CompileError("data", f"must have some 100 events at least, not {len(data)}", "generate more")
    inputs = model.inputs(parts.train)
    found = inputs(parts.train).shape[1:]
    if found != model.shape:
        rule = f"inputs of '{model.name}' must be of shape {list(model.shape)}, not {list(found)}"
        raise CompileError(f"data {data.name}", rule, f"use data like that of '{model.sample().name}'")
    task = model.task(parts, inputs)
    first = opt.Pipeline(model.recipe.float_passes(task.events, effort)).run(model.seeded(seed), task, seed)
    student, its_task = model.student(first.module, task)
    second = opt.Pipeline(model.recipe.quantized_passes(its_task.events, effort)).run(student, its_task, seed)
    module, before = (model.deployed(m).eval() for m in (second.module, student))
    return Trained(model, module, before, first.records + second.records, parts, inputs)
