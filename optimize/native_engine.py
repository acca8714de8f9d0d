"""Epochs of training by a generated step: which modules it takes, and how their tensors share its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..hw_targets.process import find_compiler
from ..ir.errors import CompileError
from .distill import OutputGuide
from .layers import Mask, WeightedLinear
from .modules import traced
from .native import Adam, Dense, Program, Quantization, Schedule, Step, build
from .pipeline import Work
from .quantizers import FRACTION_LIMIT, ActivationQuantizer, WeightQuantizer

__all__ = ["NativeEngine", "NoProgram", "chain", "program_of", "shared"]

_RELU = (torch.relu, functional.relu, "relu")
_PASSED = (nn.Identity, nn.Flatten)
_LOSSES = {"cross_entropy": "cross_entropy", "mse": "squared_error", "bce": "binary_cross_entropy"}
_CHUNKS = 20
"""How often an epoch stops for the strength of the resource term to be set."""


class NoProgram(Exception):
    """Why there is no generated step."""


def chain(module: nn.Module) -> list[tuple[WeightedLinear, bool]]:
    """The dense layers of a module that is a chain of them, each with whether a ReLU follows; raises `NoProgram` otherwise."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        raise NoProgram("it has forward hooks")
    try:
        graph = traced(module, "a generated training step")
    except CompileError as e:
        raise NoProgram(e.rule) from None
    parts, found = dict(graph.named_modules()), list[tuple[WeightedLinear, bool]]()
    inputs = 0
    for node in graph.graph.nodes:
        part = parts.get(str(node.target)) if node.op == "call_module" else None
        inputs += node.op == "placeholder"
        if len(node.users) > 1 or inputs > 1:
            raise NoProgram("its layers are not a chain")
        if isinstance(part, WeightedLinear):
            if any(part is layer for layer, _ in found):
                raise NoProgram("a layer is used twice")
            found.append((part, False))
        elif isinstance(part, nn.ReLU) or (node.op in ("call_function", "call_method") and node.target in _RELU):
            if not found or found[-1][1]:
                raise NoProgram("a ReLU does not follow a dense layer")
            found[-1] = (found[-1][0], True)
        elif node.op not in ("placeholder", "output") and not isinstance(part, _PASSED):
            raise NoProgram(
                f"{type(part).__name__ if part is not None else node.target} is not a dense layer or a ReLU"
            )
    if not found:
        raise NoProgram("it has no dense layer")
    return found


def _constant(q: WeightQuantizer | None) -> Quantization | None:
    if q is None:
        return None
    given = q.format
    if given.trained:
        return Quantization("free", tuple(q.fraction.shape), given.rounding)
    return Quantization(
        "fixed", tuple(q.fraction.shape), given.rounding, trained=False, bits=given.bits, overflow=given.overflow
    )


def _data(q: ActivationQuantizer | None) -> Quantization | None:
    if q is None:
        return None
    given, shape = q.format, tuple(q.fraction.shape)
    if len(shape) != 1:
        raise NoProgram("its data have more than one axis")
    if given.range == "tracked":
        return Quantization("free", shape, given.rounding, trained=given.trained)
    follows = given.range == "learned" and not given.trained
    return Quantization(
        "clipped",
        shape,
        given.rounding,
        trained=given.trained,
        integer_trained=given.range == "learned",
        signed=bool(q.signed),
        bits=given.bits if follows else None,
        overflow=given.overflow,
    )


def program_of(module: nn.Module, loss: str) -> tuple[Program, list[WeightedLinear]]:
    """The program of a chain of dense layers, and these layers; raises `NoProgram` where there is none."""
    found = chain(module)
    dense = []
    for layer, relu in found:
        if layer.mask is not None and not isinstance(layer.mask, Mask):
            raise NoProgram("a mask is trained")
        if (layer.input_quantizer is None) != (layer.weight_quantizer is None):
            raise NoProgram("a layer is quantized in part")
        dense.append(
            Dense(
                layer.in_features,
                layer.out_features,
                _data(layer.input_quantizer),
                _constant(layer.weight_quantizer),
                _constant(layer.bias_quantizer),
                relu,
                layer.mask is not None,
                layer.bias is not None,
            )
        )
    try:
        return Program(tuple(dense), loss), [layer for layer, _ in found]
    except CompileError as e:
        raise NoProgram(e.rule) from None


def _plan(work: Work) -> tuple[Program, list[WeightedLinear]]:
    task = work.task
    if task.x is None or task.x.ndim != 2:
        raise NoProgram("the data do not lie in memory as [events, features]")
    if task.kind not in _LOSSES:
        raise NoProgram("the loss is a function of its own")
    labels = task.kind == "cross_entropy" and not task.y.is_floating_point()
    loss = _LOSSES[task.kind] if labels or task.kind != "cross_entropy" else "soft_cross_entropy"
    if work.guides:
        if len(work.guides) > 1 or not isinstance(work.guides[0], OutputGuide) or not labels:
            raise NoProgram("only the distillation of classes is generated")
        loss = "distillation"
    if any(not p.requires_grad for p in work.module.parameters()):
        raise NoProgram("some parameters are frozen")
    return program_of(work.module, loss)


def shared(layers: list[WeightedLinear]) -> Iterator[tuple[str, Tensor]]:
    """(name in the step, tensor of the module) of everything that both hold."""
    for k, layer in enumerate(layers):
        yield f"{k}.weight", layer.weight
        if layer.bias is not None:
            yield f"{k}.bias", layer.bias
        parts = (("weight", layer.weight_quantizer), ("bias", layer.bias_quantizer), ("input", layer.input_quantizer))
        for part, q in parts:
            if q is not None:
                yield f"{k}.{part}.fraction", q.fraction
            if isinstance(q, ActivationQuantizer):
                yield f"{k}.{part}.integer", q.integer
                yield f"{k}.{part}.lowest", q.lowest
                yield f"{k}.{part}.highest", q.highest
        if isinstance(layer.mask, Mask):
            yield f"{k}.mask", layer.mask.keep


class NativeEngine:
    """A generated step: the module's parameters are views of its memory while it trains."""

    def __init__(self, options: Any, work: Work, program: Program, layers: list[WeightedLinear]) -> None:
        self.options, self.module, self.layers = options, work.module, layers
        names = {m: name for name, m in work.module.named_modules()}
        self.names = [names[layer] for layer in layers]
        self.step: Step = build(program)
        self.data = dict(shared(layers))
        for name, tensor in self.data.items():
            self._bind(name, tensor)
        self.adam = Adam(decay=options.weight_decay, lowest=-FRACTION_LIMIT, highest=FRACTION_LIMIT)
        saved = work.progress.optimizer
        if saved is not None and "moments" not in saved:
            raise CompileError("checkpoint", "was written by torch, not by the generated step", "set engine='torch'")
        if saved is not None:
            for name, moments in saved["moments"].items():
                self.step.first[name][...], self.step.second[name][...] = moments
            self.step.counts[:] = saved["counts"]
        task = work.task
        self.x = np.ascontiguousarray(task.x.numpy(), np.float32)
        self.y = self._targets(task.y)
        self.extra = _guided(work)

    @staticmethod
    def try_for(options: Any, work: Work) -> NativeEngine | str:
        """The engine, or why there is none for this training."""
        if find_compiler() is None:
            return "there is no C++ compiler"
        try:
            return NativeEngine(options, work, *_plan(work))
        except NoProgram as e:
            return str(e)

    def _targets(self, y: Tensor) -> np.ndarray:
        if y.is_floating_point():
            return np.ascontiguousarray(y.reshape(len(y), -1).numpy(), np.float32)
        return np.ascontiguousarray(y.numpy(), np.int32)

    def _bind(self, name: str, tensor: Tensor) -> None:
        for arrays in (self.step.parameters, self.step.ranges, self.step.constants):
            if name in arrays:
                arrays[name][...] = tensor.detach().numpy()
                tensor.data = torch.from_numpy(arrays[name])

    def epoch(self, state: Any, work: Work) -> None:
        """One pass over the data, in pieces between which the strength of the resource term is set."""
        options = self.options
        order = torch.randperm(work.task.events, generator=work.generator(state.epoch)).numpy()
        batch = min(options.batch, len(order))
        steps = -(-len(order) // batch)
        for k in range(len(self.layers)):
            self.step.constants[f"{k}.prices"][:] = state.price_of(self.names[k])
        size = max(steps // _CHUNKS, 1)
        total = 0.0
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
            plan = Schedule(rates[:, 0], rates[:, 1], beta)
            done = self.step.run(self.x, self.y, rows, size, plan, adam=self.adam, **self.extra)
            if not done.finite:
                return float("nan"), cost
            total, cost = total + float(done.losses.sum()), float(done.costs[-1])
        return total, cost

    def score(self, work: Work) -> float:
        """On the validation data, with the ranges as they are tracked."""
        x, y = work.task.validation
        return work.task.score_of(torch.from_numpy(self.step.forward(x.numpy())), y)

    def finish(self) -> None:
        """Give the module memory of its own."""
        for tensor in self.data.values():
            tensor.data = tensor.data.clone()


def _guided(work: Work) -> dict[str, Any]:
    if not work.guides:
        return {}
    guide = work.guides[0]
    soft = torch.softmax(guide.outputs / guide.temperature, -1).numpy()
    return {"soft": soft, "share": guide.weight, "temperature": guide.temperature}
