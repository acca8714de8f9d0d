"""A quantized network whose forward and backward are the generated step, for training loops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import Price, Prices
from .layers import prepare
from .native import Step, build
from .native_program import NoProgram, Plan, bind, plan_of

__all__ = ["Generated", "generated"]


FREE = Price(0.0, 0.0)
"""Of layers whose bits cost nothing."""


def generated(module: nn.Module, prices: Prices | None = None) -> Generated:
    """The module computed by generated code, with any loss, optimizer and loop.

    Its parameters are the module's own (trained widths too), so that an optimizer of either trains both, and the module can
    be evaluated, saved and compiled at any time. `prices` with the attribute `beta` of the result adds ``beta * resource`` to the
    loss, through its gradients alone. Raises `CompileError` where no step is generated for the module: chains of convolutions
    and dense layers, with ReLUs and pooling, have one.
    """
    prepare(module)
    try:
        plan = plan_of(module, "squared_error")
    except NoProgram as e:
        raise CompileError(
            type(module).__name__, f"no training step is generated for it: {e}", "train the module itself"
        ) from None
    step = build(plan.program)
    names = bind(step, plan)
    own = {m: name for name, m in module.named_modules()}
    for k, layer in enumerate(plan.layers):
        price = (prices or {}).get(own[layer], FREE)
        step.constants[f"{k}.prices"][:] = (price.first, price.bit, price.extra, price.input)
    return Generated(module, step, plan, [(n, t) for n, t in names.items() if n in step.gradients])


class Generated(nn.Module):
    """See `generated`. `beta`: the strength of the resource term."""

    def __init__(self, module: nn.Module, step: Step, plan: Plan, trained: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.module, self.step, self.plan, self.beta = module, step, plan, 0.0
        self.trained = trained

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.module(x)
        return _Run.apply(x, self, *(t for _, t in self.trained))  # pyright: ignore[reportReturnType]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: Generated, *parameters: Tensor) -> Tensor:
        ctx.owner, ctx.x, ctx.events = owner, x.detach(), owner.plan.events(x)
        return torch.from_numpy(owner.step.forward(ctx.events))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        owner: Generated = ctx.owner
        wanted = bool(ctx.needs_input_grad[0])
        dy = np.ascontiguousarray(g.numpy(), np.float32)
        dx = owner.step.backward(ctx.events, dy, beta=owner.beta, input_gradient=wanted)
        found = (owner.plan.as_in(owner.step.gradients[name].copy(), name, t) for name, t in owner.trained)
        return None if dx is None else owner.plan.like(dx, ctx.x), None, *found
