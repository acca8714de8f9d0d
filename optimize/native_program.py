"""The programs of chains of layers, and which tensors of theirs a generated step holds too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..ir.errors import CompileError
from .chains import Chain, Link, NoProgram, chain, pair, part_of
from .layers import Mask, Weighted, WeightedConv1d, WeightedLinear, layers
from .native import Conv, Dense, Layer, Pool, Program, Quantization, Step
from .quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["Plan", "bind", "part_plans", "plan_of"]


def _constant(q: WeightQuantizer | None) -> Quantization | None:
    if q is None:
        return None
    given, (first, *others) = q.format, q.fraction.shape
    shape = (first, math.prod(others)) if others else (first,)
    if given.trained:
        return Quantization("free", shape, given.rounding)
    return Quantization("fixed", shape, given.rounding, trained=False, bits=given.bits, overflow=given.overflow)


def _data(q: ActivationQuantizer | None) -> Quantization | None:
    if q is None:
        return None
    given, shape = q.format, (q.fraction.numel(),)
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


def _described(link: Link, shape: Sequence[int]) -> Layer:
    """A layer of the program; `shape`: of an event as it reads it."""
    layer: Any = link.layer
    if layer.mask is not None and not isinstance(layer.mask, Mask):
        raise NoProgram("a mask is trained")
    if (layer.input_quantizer is None) != (layer.weight_quantizer is None):
        raise NoProgram("a layer is quantized in part")
    common: dict[str, Any] = {
        "x": _data(layer.input_quantizer), "w": _constant(layer.weight_quantizer), "b": _constant(layer.bias_quantizer),
        "relu": link.relu, "masked": layer.mask is not None, "bias": layer.bias is not None,
    }  # fmt: skip
    if isinstance(layer, WeightedLinear):
        if shape[-1] != layer.in_features or len(shape) > 2:
            raise NoProgram(f"a dense layer of {layer.in_features} inputs reads an event of shape {list(shape)}")
        if len(shape) == 1 and link.mean:
            raise NoProgram("a mean of outputs is not generated")
        if len(shape) == 1:
            return Dense(layer.in_features, layer.out_features, **common)
        pool = Pool((shape[0], 1), (1, 1), largest=False) if link.mean else None
        return Conv((shape[1], shape[0], 1), layer.out_features, (1, 1), pool=pool, **common)
    one = isinstance(layer, WeightedConv1d)
    if len(shape) != (2 if one else 3):
        raise NoProgram(f"an event of shape {list(shape)} is not [channels, ...] for its convolution")
    rows, columns = (1, shape[1]) if one else (shape[1], shape[2])
    there = [
        (name, pair(getattr(layer, name), one, int(name != "padding"))) for name in ("stride", "padding", "dilation")
    ]
    return Conv(
        (shape[0], rows, columns),
        layer.out_channels,
        pair(layer.kernel_size, one),
        **dict(there),
        groups=layer.groups,
        pool=link.pool,
        **common,
    )


def _behind(link: Link, made: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an event behind a layer, as the next one reads it."""
    if isinstance(made, Dense):
        return (made.outputs,)
    if isinstance(link.layer, WeightedLinear):
        return (made.filters,) if link.mean else (shape[0], made.filters)
    return (made.made[0], made.made[2]) if isinstance(link.layer, WeightedConv1d) else made.made


@dataclass(frozen=True)
class Plan:
    """The program of a module, and its layers.

    `event`: the shape of one, None where any of the size will do; `made`: that of its outputs. `positions`: the module begins with
    dense layers for each of the positions of an event; the program takes channels with all their positions, and gives them so, of
    shape `turned`, where no mean was taken. Or it takes each of so many `rows` of an event as an event of its own, which is faster.
    """

    program: Program
    layers: list[Weighted]
    output: ActivationQuantizer | None
    event: tuple[int, ...] | None
    made: tuple[int, ...]
    positions: bool = False
    turned: tuple[int, int] | None = None
    rows: int = 1

    def events(self, x: Tensor) -> np.ndarray:
        """What the program takes for x: ``[events, values]``. Raises `CompileError` for events of another shape."""
        if self.event is not None and tuple(x.shape[1:]) != self.event:
            raise CompileError("x", f"must have events of shape {list(self.event)}, not {list(x.shape[1:])}")
        return self._rows(x.detach().transpose(1, 2) if self.positions else x.detach())

    def like(self, values: np.ndarray, shape: Sequence[int]) -> Tensor:
        """Values of the program's inputs as those of a module's input of that shape."""
        found = torch.from_numpy(values)
        return found.view(shape[0], shape[2], shape[1]).transpose(1, 2) if self.positions else found.view(*shape)

    def outputs(self, values: np.ndarray) -> Tensor:
        """The module's outputs, of what the program gives."""
        found = torch.from_numpy(values)
        if self.turned is not None:
            found = found.view(-1, *self.turned).transpose(1, 2)
        return found.reshape(-1, *self.made)

    def gradients(self, of_outputs: Tensor) -> np.ndarray:
        """The other way round."""
        if self.turned is not None:
            of_outputs = of_outputs.reshape(-1, *reversed(self.turned)).transpose(1, 2)
        return self._rows(of_outputs)

    def _rows(self, x: Tensor) -> np.ndarray:
        return np.ascontiguousarray(x.reshape(len(x) * self.rows, -1).numpy(), np.float32)

    def as_in(self, array: np.ndarray, name: str, tensor: Tensor) -> Tensor:
        """A step's array as the module's tensor of that name has it: widths of data at positions stand the other way round."""
        if self.positions and ".input." in name and tensor.ndim == 2:
            return torch.from_numpy(array).view(tensor.shape[1], tensor.shape[0]).t()
        return torch.from_numpy(array).view(tensor.shape)


def plan_of(module: nn.Module, loss: str, event: Sequence[int] | None = None) -> Plan:
    """The program of a chain; raises `NoProgram` where there is none. `event`: the shape of one; what `quantize` saw, if it is not
    given."""
    found = _planned(chain(module), loss, event)
    if len(found.made) > 1 or found.turned is not None or found.rows > 1:
        raise NoProgram("its outputs are not one vector")
    return found


def part_plans(graph: fx.GraphModule, loss: str) -> Iterator[tuple[Plan, list[fx.Node]]]:
    """Programs of the longest chains of quantized layers within a graph, and the nodes that each computes."""
    parts = dict(graph.named_modules())
    held = Counter(id(t) for _, layer in layers(graph) for _, t in _shared([layer]))
    called = Counter(node.target for node in graph.graph.nodes)

    def alone(part: nn.Module, name: Any) -> bool:
        """A step has the only memory of its parameters."""
        if isinstance(part, Weighted):
            once = part.input_quantizer is not None and part.calls == called[name] == 1
            return once and all(held[id(t)] == 1 for _, t in _shared([part]))
        return not isinstance(part, ActivationQuantizer) or called[name] == 1

    done = set[fx.Node]()
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(parts[str(node.target)], Weighted) and node not in done:
            for plan, nodes in _grown(node, parts, alone, loss):
                done.update(nodes)
                yield plan, nodes


def _grown(
    start: fx.Node, parts: Mapping[str, nn.Module], alone: Callable[[nn.Module, Any], bool], loss: str
) -> list[tuple[Plan, list[fx.Node]]]:
    """The longest chain from a layer on that has a program, or none."""
    found, nodes, best, node = Chain(), list[fx.Node](), list[tuple[Plan, list[fx.Node]]](), start
    while node.op != "output":
        try:
            part = part_of(node, parts)
            if not alone(part, node.target):
                break
            found.add(part)
        except NoProgram:
            break
        nodes.append(node)
        with suppress(NoProgram):  # there may be one with the next layer
            best = [(_planned(found, loss, found.links[0].layer.input_shape), list(nodes))]
        if len(node.users) != 1:
            break
        node = next(iter(node.users))
    return best


def _planned(found: Chain, loss: str, event: Sequence[int] | None) -> Plan:
    shape = _first_shape(found.links[0].layer) if event is None else found.shape(event)
    event = None if found.flattened else found.event(shape)
    shape = (math.prod(shape),) if found.flattened else shape
    positions = isinstance(found.links[0].layer, WeightedLinear) and len(shape) == 2
    if positions and found.entry != (-1,):
        raise NoProgram("the shape of an event is changed before a dense layer")
    chained = [link.layer for link in found.links]
    held = [t for _, t in _shared(chained, found.output)]
    if len({id(t) for t in held}) < len(held):
        raise NoProgram("layers share a parameter")
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in held):
        raise NoProgram("its parameters are not float32 in the processor's memory")
    if positions and not any(link.mean for link in found.links):
        with suppress(NoProgram):  # where positions share their widths
            program, made = _program(found, loss, shape[1:], False)
            outputs = (shape[0] * made[0],) if found.flat else (shape[0], *made)
            return Plan(program, chained, found.output, event, outputs, rows=shape[0])
    program, made = _program(found, loss, shape, positions)
    turned = (made[1], made[0]) if positions and len(made) > 1 else None
    if turned and found.output is not None:
        raise NoProgram("a quantizer of outputs at positions is not generated")
    outputs = (math.prod(made),) if found.flat else made
    return Plan(program, chained, found.output, event, outputs, positions, turned)


def _program(found: Chain, loss: str, shape: tuple[int, ...], positions: bool) -> tuple[Program, tuple[int, ...]]:
    """The program for events of a shape, and the shape of what it gives."""
    made = list[Layer]()
    try:
        for link in found.links:
            if isinstance(link.layer, WeightedLinear) and len(shape) > 1 and not positions:
                shape = (math.prod(shape),)  # the chain has a Flatten here
            made.append(_described(link, shape))
            shape = _behind(link, made[-1], shape)
        return Program(tuple(made), loss, _data(found.output)), shape
    except CompileError as e:
        raise NoProgram(e.rule) from None


def _first_shape(layer: Any) -> tuple[int, ...]:
    """Of an event as the first layer reads it, by the layer alone."""
    if hasattr(layer, "input_shape"):
        return tuple(layer.input_shape)
    if isinstance(layer, WeightedLinear):
        return (layer.in_features,)
    raise NoProgram("the shape of an event is not known, since the module is not quantized")


def _shared(layers: list[Weighted], output: ActivationQuantizer | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name in the step, tensor of the module) of everything that both hold."""
    for k, layer in enumerate(layers):
        yield f"{k}.weight", layer.weight
        if layer.bias is not None:
            yield f"{k}.bias", layer.bias
        parts = (("weight", layer.weight_quantizer), ("bias", layer.bias_quantizer), ("input", layer.input_quantizer))
        for part, q in parts:
            yield from _of_quantizer(f"{k}.{part}", q)
        if isinstance(layer.mask, Mask):
            yield f"{k}.mask", layer.mask.keep
    yield from _of_quantizer("output", output)


def _of_quantizer(name: str, q: WeightQuantizer | ActivationQuantizer | None) -> Iterator[tuple[str, Tensor]]:
    if q is not None:
        yield f"{name}.fraction", q.fraction
    if isinstance(q, ActivationQuantizer):
        yield f"{name}.integer", q.integer
        yield f"{name}.lowest", q.lowest
        yield f"{name}.highest", q.highest


def bind(step: Step, plan: Plan) -> dict[str, Tensor]:
    """Make the step's memory that of the layers' tensors, which keep their numbers; gives these by their names in the step."""
    found = dict(_shared(plan.layers, plan.output))
    for name, tensor in found.items():
        for arrays in (step.parameters, step.ranges, step.constants):
            if name in arrays:
                view = plan.as_in(arrays[name], name, tensor)
                view.copy_(tensor.detach())
                tensor.data = view
    return found
