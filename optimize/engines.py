"""Epochs of training by torch, for any module and any loss; knows no schedule of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import resource
from .distill import guided
from .layers import quantizers
from .pipeline import Work
from .quantizers import FRACTION_LIMIT

__all__ = ["TorchEngine"]


class TorchEngine:
    """Any module, any loss: autograd and Adam."""

    def __init__(self, options: Any, work: Work) -> None:
        self.options, self.module = options, work.module
        weights, bits = parameter_groups(work.module)
        others = [p for p in weights if p.ndim < 2] + [p for g in work.guides for p in g.parameters()]
        weights = [p for p in weights if p.ndim >= 2]
        groups = [
            {"params": weights, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
            {"params": bits, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr)
        self.bits = bits
        if work.progress.optimizer is not None:
            if "param_groups" not in work.progress.optimizer:
                rule = "was written by the generated training step, which there is no compiler for here"
                raise CompileError("checkpoint", rule, "install g++, or delete the checkpoint to start anew")
            self.optimizer.load_state_dict(work.progress.optimizer)

    def epoch(self, state: Any, work: Work) -> None:
        """One pass over the data."""
        options, module, task = self.options, self.module, work.task
        order = None if task.x is None else torch.randperm(task.events, generator=work.generator(state.epoch))
        steps = -(-task.events // options.batch)
        total, count = 0.0, 0
        module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(work.generator(state.epoch).initial_seed())
            for x, y, index in task.batches(options.batch, order):
                self._rates(*options.rates(state.epoch, count, steps))
                outputs = module(x)
                loss = guided(task.loss_of(outputs, y), work.guides, x, outputs, index)
                total, count = total + float(loss.detach()), count + 1
                if state.prices and (state.beta > 0 or options.budget is not None):
                    cost = resource(module, state.prices)
                    state.steer(options, float(cost.detach()), 1 / max(steps, count))
                    loss = loss + state.beta * cost
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self._limit()
                for g in work.guides:
                    g.stepped(module)
        state.losses.append(total / max(count, 1))
        state.optimizer = self.optimizer.state_dict()

    def _limit(self) -> None:
        """Keep the trained widths within what arithmetic holds."""
        with torch.no_grad():
            for p in self.bits:
                p.clamp_(-FRACTION_LIMIT, FRACTION_LIMIT)

    def _rates(self, lr: float, lr_bits: float) -> None:
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"] = lr
        if self.bits:
            groups[-1]["lr"] = lr_bits

    def score(self, work: Work) -> float:
        """On the validation data, with the ranges as they are tracked."""
        return work.task.evaluate(self.module)

    def finish(self) -> None:
        """Nothing is left to do."""


def parameter_groups(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(weights and biases, trained widths and ranges)."""
    bits = {id(p) for _, q in quantizers(module) for p in q.parameters(recurse=False)}
    own = [p for p in module.parameters() if p.requires_grad]
    return [p for p in own if id(p) not in bits], [p for p in own if id(p) in bits]
