"""A quantized network whose forward and backward are generated steps, for training loops of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir.errors import CompileError
from .chains import NoProgram, has_hooks
from .composites import Attention, LayerNormalization
from .cost import FREE, Prices
from .layers import in_mode, prepare
from .modules import traced
from .native import build
from .native_program import Plan, bind, part_plans, plan_of

__all__ = ["Generated", "generated", "in_generated_parts"]

_LOSS = "squared_error"
"""Every program has one; these compute losses elsewhere."""

_INSIDE = (Attention, LayerNormalization)
"""Layers of ours that torch.fx can follow."""


def generated(module: nn.Module, prices: Prices | None = None) -> Generated:
    """The module computed by generated code, with any loss, optimizer and loop.

    Chains of convolutions and dense layers, with ReLUs and pooling, are computed as one; of other modules every such chain is, and
    torch computes what is between. The module's parameters stay its own (trained widths too), so that an optimizer of either
    trains both, and the module can be evaluated, saved and compiled at any time. `prices` with the attribute `beta` of the result
    adds ``beta * resource`` to the loss, through its gradients alone, for the layers that are generated (`names`). Numbers that
    the module's own code reads beside its layers stay as they are now. Raises `CompileError` where no layer is generated.
    """
    prepare(module)
    try:
        found = in_generated_parts(module)
    except NoProgram as e:
        raise CompileError(
            type(module).__name__, f"no training step is generated for it: {e}", "train the module itself"
        ) from None
    found.price(prices or {})
    return found


def in_generated_parts(module: nn.Module) -> Generated:
    """The module with all its chains generated; raises `NoProgram` where it has none, with what stands in the way of the whole."""
    try:
        part = Part(plan_of(module, _LOSS))
        return Generated(module, part, [part])
    except NoProgram as e:
        why = e
    if has_hooks(module):
        raise why
    try:
        with in_mode(module, True):
            graph = traced(module, "a generated training step", _INSIDE)
    except CompileError:
        raise why from None
    found = list(part_plans(graph, _LOSS))
    if not found:
        raise why
    return Generated(module, graph, [_put(graph, f"generated_{k}", *each) for k, each in enumerate(found)])


def _put(graph: fx.GraphModule, name: str, plan: Plan, nodes: list[fx.Node]) -> Part:
    """One part in place of the nodes of a chain."""
    part = Part(plan)
    graph.add_module(name, part)
    with graph.graph.inserting_before(nodes[0]):
        made = graph.graph.call_module(name, (nodes[0].all_input_nodes[0],))
    nodes[-1].replace_all_uses_with(made)
    for node in reversed(nodes):
        graph.graph.erase_node(node)
    graph.recompile()
    return part


class Generated(nn.Module):
    """See `generated`. `names`: layers that are generated."""

    def __init__(self, module: nn.Module, computed: nn.Module, parts: list[Part]) -> None:
        super().__init__()
        self.module, self.computed, self.parts = module, computed, parts
        own = {m: name for name, m in module.named_modules()}
        self.names = [own[layer] for part in parts for layer in part.plan.layers]
        self.prices: Prices = {}

    def __reduce__(self) -> Any:
        """Copies and pickles are made anew of the module: compiled code is in no file."""
        return _again, (self.module, self.prices, self.beta, self.training)

    def price(self, prices: Prices) -> None:
        """What bits cost from now on; layers without a price cost nothing."""
        self.prices = dict(prices)
        names = iter(self.names)
        for part in self.parts:
            for k in range(len(part.plan.layers)):
                p = prices.get(next(names), FREE)
                p = replace(p.times(part.plan.rows), input=p.input * part.plan.rows)
                part.step.constants[f"{k}.prices"][:] = p.numbers

    @property
    def beta(self) -> float:
        """The strength of the resource term."""
        return self.parts[0].beta

    @beta.setter
    def beta(self, strength: float) -> None:
        for part in self.parts:
            part.beta = strength

    @property
    def term(self) -> float:
        """The resource term of the last backward pass, without beta, of the layers that are generated."""
        return sum(part.step.term for part in self.parts)

    def release(self) -> None:
        """Give the module memory of its own; this is of no use after."""
        for part in self.parts:
            for tensor in part.tensors.values():
                tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.computed(*inputs, **named) if self.training else self.module(*inputs, **named)


def _again(module: nn.Module, prices: Prices, beta: float, training: bool) -> Generated:
    found = generated(module, prices)
    found.beta = beta
    return found.train(training)


class Part(nn.Module):
    """A chain of layers by its generated step."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.step, self.beta = plan, build(plan.program), 0.0
        self.tensors = bind(self.step, plan)
        self.trained = [(n, t) for n, t in self.tensors.items() if n in self.step.gradients]

    def forward(self, x: Tensor) -> Tensor:
        return _Run.apply(x, self, *(t for _, t in self.trained))  # pyright: ignore[reportReturnType]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Part, *parameters: Tensor) -> Tensor:
        ctx.part, ctx.shape, ctx.events = part, x.shape, part.plan.events(x)
        return part.plan.outputs(part.step.forward(ctx.events))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        part: Part = ctx.part
        dy, wanted = part.plan.gradients(g), bool(ctx.needs_input_grad[0])
        dx = part.step.backward(ctx.events, dy, beta=part.beta, input_gradient=wanted)
        found = (part.plan.as_in(part.step.gradients[name].copy(), name, t) for name, t in part.trained)
        return None if dx is None else part.plan.like(dx, ctx.shape), None, *found
