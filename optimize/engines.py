"""Runs epochs of training: by torch, for any module, or by a generated step; knows no schedule of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cost import resource
from .pipeline import Work
from .train import parameter_groups, quantizers_of

__all__ = ["NativeEngine", "TorchEngine", "native_refusal"]


class TorchEngine:
    """Any module, any loss: autograd and Adam."""

    def __init__(self, options: Any, work: Work) -> None:
        self.options, self.module = options, work.module
        weights, bits = parameter_groups(work.module)
        groups = [{"params": weights, "weight_decay": options.weight_decay}, {"params": bits, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr)
        self.bits = bool(bits)
        if work.progress.optimizer is not None:
            self.optimizer.load_state_dict(work.progress.optimizer)

    def epoch(self, state: Any, work: Work) -> None:
        """One pass over the data."""
        options, module, task = self.options, self.module, work.task
        order = None if task.x is None else torch.randperm(task.events, generator=work.generator(state.epoch))
        steps = -(-task.events // options.batch)
        quantizers = [q for _, q in quantizers_of(module)]
        total, count = 0.0, 0
        module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(work.generator(state.epoch).initial_seed())
            for x, y, index in task.batches(options.batch, order):
                self._rates(*options.rates(state.epoch, count, steps))
                loss = self._loss(x, y, index, work)
                total, count = total + float(loss.detach()), count + 1
                if state.prices and state.beta:
                    loss = loss + state.beta * resource(module, state.prices)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                for q in quantizers:
                    q.limited()
        state.losses.append(total / max(count, 1))
        state.optimizer = self.optimizer.state_dict()

    def _loss(self, x: Tensor, y: Tensor, index: Tensor | None, work: Work) -> Tensor:
        outputs = self.module(x)
        own = work.task.loss_of(outputs, y)
        guide = work.guide
        if guide is None or index is None:
            return own
        return (1 - guide.weight) * own + guide.weight * guide.loss(work.task.kind, outputs, guide.outputs[index])

    def _rates(self, lr: float, lr_bits: float) -> None:
        groups = self.optimizer.param_groups
        groups[0]["lr"] = lr
        if self.bits:
            groups[-1]["lr"] = lr_bits

    def finish(self) -> None:
        """Nothing is left to do."""


def native_refusal(options: Any, work: Work) -> str | None:
    """Why there is no generated step for this training; None where there is one."""
    return "not yet"


class NativeEngine:
    def __init__(self, options: Any, work: Work) -> None:
        raise NotImplementedError
