"""Epochs of training by torch, for any module and any loss; knows no schedule of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..hw_targets.process import find_compiler
from ..ir.errors import CompileError
from .chains import NoProgram
from .cost import resource
from .distill import guided
from .generated import Generated, in_generated_parts
from .layers import is_quantized, layers, quantizers
from .pipeline import Work
from .quantizers import FRACTION_LIMIT
from .task import run

__all__ = ["TorchEngine"]

_WORTH = 1000
"""Steps of a training for which it pays to compile its parts, two seconds each."""


class TorchEngine:
    """Any module, any loss: autograd and Adam. Chains of quantized layers within the module are generated, unless `options` say
    torch alone."""

    def __init__(self, options: Any, work: Work) -> None:
        self.options, self.module = options, work.module
        self.parts = None if options.engine == "torch" else _parts(options, work)
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

    @property
    def computed(self) -> str:
        """What computes the steps, in words."""
        count = len(layers(self.module))
        return "torch" if self.parts is None else f"torch, {len(self.parts.names)} of {count} layers by generated code"

    def epoch(self, state: Any, work: Work) -> None:
        """One pass over the data."""
        options, module, task = self.options, self.module, work.task
        order = None if task.x is None else torch.randperm(task.events, generator=work.generator(state.epoch))
        steps = -(-task.events // options.batch)
        total, count = 0.0, 0
        module.train()
        if self.parts is not None and options.during:  # they may have changed what the module's code reads
            self.parts = _parts(options, work)
        computed = self.parts or module
        if self.parts is not None:
            self.parts.price(state.prices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(work.generator(state.epoch).initial_seed())
            for x, y, index in task.batches(options.batch, order):
                self._rates(*options.rates(state.epoch, count, steps))
                outputs = run(computed, x)
                loss = guided(task.loss_of(outputs, y), work.guides, x, outputs, index)
                total, count = total + float(loss.detach()), count + 1
                priced = bool(state.prices) and (state.beta > 0 or options.budget is not None)
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(loss, state, priced, 1 / max(steps, count))
                self.optimizer.step()
                self._limit()
                for g in work.guides:
                    g.stepped(module)
        state.losses.append(total / max(count, 1))
        state.optimizer = self.optimizer.state_dict()

    def _backward(self, loss: Tensor, state: Any, priced: bool, share: float) -> None:
        """Gradients of the loss and of the resource term, whose strength is set for the next step, a `share` of an epoch."""
        if not priced:
            loss.backward()
            return
        cost = resource(self.module, state.prices, () if self.parts is None else self.parts.names)
        if self.parts is not None:
            self.parts.beta = state.beta
        (loss + state.beta * cost).backward()
        state.steer(self.options, float(cost.detach()) + (0 if self.parts is None else self.parts.term), share)

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
        """Give the module memory of its own."""
        if self.parts is not None:
            self.parts.release()


def _parts(options: Any, work: Work) -> Generated | None:
    short = work.task.x is not None and options.epochs * -(-work.task.events // options.batch) < _WORTH
    if short or not is_quantized(work.module) or find_compiler() is None:
        return None
    try:
        return in_generated_parts(work.module)
    except NoProgram:
        return None


def parameter_groups(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(weights and biases, trained widths and ranges)."""
    bits = {id(p) for _, q in quantizers(module) for p in q.parameters(recurse=False)}
    own = [p for p in module.parameters() if p.requires_grad]
    return [p for p in own if id(p) not in bits], [p for p in own if id(p) in bits]
