"""Epochs of training by a generated step, with a loss of its own or one that torch computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..hw_targets.process import find_compiler
from ..ir.errors import CompileError
from .chains import NoProgram
from .cost import FREE
from .distill import OutputGuide
from .native import Adam, Record, Schedule, Step, build
from .native_program import Plan, bind, plan_of
from .pipeline import Work
from .quantizers import FRACTION_LIMIT

__all__ = ["NativeEngine"]

_LOSSES = {
    "cross_entropy": "cross_entropy",
    "mse": "squared_error",
    "bce": "binary_cross_entropy",
    "own": "squared_error",
}
"""By a task's kind; a loss of its own is computed outside, so that the program's does not count."""
_CHUNKS = 20
"""How often an epoch stops for the strength of the resource term to be set."""


def _plan(work: Work) -> Plan:
    task = work.task
    if task.x is None:
        raise NoProgram("the data do not lie in memory")
    if not isinstance(task.x, Tensor):
        raise NoProgram("it has several inputs")
    labels = task.kind == "cross_entropy" and not task.y.is_floating_point()
    loss = _LOSSES[task.kind] if labels or task.kind != "cross_entropy" else "soft_cross_entropy"
    if work.guides:
        if len(work.guides) > 1 or not isinstance(work.guides[0], OutputGuide) or not labels:
            raise NoProgram("only the distillation of classes is generated")
        loss = "distillation"
    if any(not p.requires_grad for p in work.module.parameters()):
        raise NoProgram("some parameters are frozen")
    return plan_of(work.module, loss, task.x.shape[1:])


class NativeEngine:
    """A generated step: the module's parameters are views of its memory while it trains."""

    computed = "a generated step"
    """What computes the steps, in words."""

    def __init__(self, options: Any, work: Work, plan: Plan) -> None:
        self.options, self.module, self.plan = options, work.module, plan
        names = {m: name for name, m in work.module.named_modules()}
        self.names = [names[layer] for layer in plan.layers]
        self.step: Step = build(plan.program)
        self.data = bind(self.step, plan)
        self.adam = Adam(decay=options.weight_decay, lowest=-FRACTION_LIMIT, highest=FRACTION_LIMIT)
        saved = work.progress.optimizer
        if saved is not None and "moments" not in saved:
            raise CompileError("checkpoint", "was written by torch, not by the generated step", "set engine='torch'")
        if saved is not None:
            for name, moments in saved["moments"].items():
                self.step.first[name][...], self.step.second[name][...] = moments
            self.step.counts[:] = saved["counts"]
        self.task = work.task
        self.x = plan.events(self.task.x)
        self.y = None if self.task.kind == "own" else self._targets(self.task.y)
        self.extra = _guided(work)

    @staticmethod
    def try_for(options: Any, work: Work) -> NativeEngine | str:
        """The engine, or why there is none for this training."""
        if find_compiler() is None:
            return "there is no C++ compiler"
        try:
            return NativeEngine(options, work, _plan(work))
        except NoProgram as e:
            return str(e)

    def _targets(self, y: Tensor) -> np.ndarray:
        if y.is_floating_point():
            return np.ascontiguousarray(y.reshape(len(y), -1).numpy(), np.float32)
        return np.ascontiguousarray(y.numpy(), np.int32)

    def epoch(self, state: Any, work: Work) -> None:
        """One pass over the data, in pieces between which the strength of the resource term is set."""
        options = self.options
        order = torch.randperm(work.task.events, generator=work.generator(state.epoch)).numpy()
        batch = min(options.batch, len(order))
        steps = -(-len(order) // batch)
        for k in range(len(self.names)):
            self.step.constants[f"{k}.prices"][:] = state.prices.get(self.names[k], FREE).numbers
        size = max(steps // _CHUNKS, 1)
        total = 0.0
        with torch.random.fork_rng(devices=[]):  # for a loss that draws
            torch.manual_seed(work.generator(state.epoch).initial_seed())
            for first in range(0, steps, size):
                last = min(first + size, steps)
                losses, cost = self._piece(state, order, batch, first, last, steps)
                total += losses
                if state.prices and np.isfinite(cost):
                    state.steer(options, cost, (last - first) / steps)
        state.losses.append(total / steps)
        state.optimizer = {
            "moments": {n: (a.copy(), self.step.second[n].copy()) for n, a in self.step.first.items()},
            "counts": self.step.counts.copy(),
        }

    def _piece(
        self, state: Any, order: np.ndarray, batch: int, first: int, last: int, steps: int
    ) -> tuple[float, float]:
        """Steps from `first` to `last` of an epoch: the sum of their losses, and the last cost; the last batch may be smaller."""
        total, cost = 0.0, float("nan")
        whole = len(order) // batch
        for low, high, size in ((first, min(last, whole), batch), (whole, last, len(order) - whole * batch)):
            if low >= high or low < first:
                continue
            rates = np.array([self.options.rates(state.epoch, k, steps) for k in range(low, high)], np.float32)
            beta = np.full(high - low, state.beta if state.prices else 0.0, np.float32)
            rows = order[low * batch : low * batch + (high - low) * size]
            schedule = Schedule(rates[:, 0], rates[:, 1], beta)
            done = self._outside(rows, size, schedule) if self.y is None else self._inside(rows, size, schedule)
            if not done.finite:
                return float("nan"), cost
            total, cost = total + float(done.losses.sum()), float(done.costs[-1])
        return total, cost

    def _inside(self, rows: np.ndarray, batch: int, schedule: Schedule) -> Record:
        """Whole steps, generated."""
        assert self.y is not None
        return self.step.run(self.x, self.y, rows, batch, schedule, adam=self.adam, **self.extra)

    def _outside(self, rows: np.ndarray, batch: int, schedule: Schedule) -> Record:
        """Steps with a loss that torch computes of the outputs."""
        losses, cost = np.full(len(schedule.rate), np.nan), np.full(len(schedule.rate), np.nan)
        for k, index in enumerate(rows.reshape(-1, batch)):
            x = self.x[index]
            outputs = torch.from_numpy(self.step.forward(x)).requires_grad_()
            loss = self.task.loss_of(outputs, self.task.y[torch.from_numpy(index)])
            losses[k] = float(loss.detach())
            if not np.isfinite(losses[k]):
                return Record(losses[: k + 1], cost[: k + 1], False)
            (dy,) = torch.autograd.grad(loss, outputs)
            self.step.backward(x, dy.numpy(), beta=float(schedule.beta[k]))
            cost[k] = self.step.term
            self.step.update(float(schedule.rate[k]), float(schedule.width_rate[k]), self.adam)
        return Record(losses, cost, True)

    def score(self, work: Work) -> float:
        """On the validation data, with the ranges as they are tracked."""
        x, y = work.task.validation
        return work.task.score_of(torch.from_numpy(self.step.forward(self.plan.events(x))), y)

    def finish(self) -> None:
        """Give the module memory of its own."""
        for tensor in self.data.values():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _guided(work: Work) -> dict[str, Any]:
    if not work.guides:
        return {}
    guide = work.guides[0]
    soft = torch.softmax(guide.outputs / guide.temperature, -1).numpy()
    return {"soft": soft, "share": guide.weight, "temperature": guide.temperature}
