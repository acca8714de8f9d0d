"""Which modules a training step can be generated for, as what program, and which of their tensors both hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..ir.errors import CompileError
from .layers import Mask, Weighted, WeightedConv1d, WeightedConv2d, WeightedLinear
from .modules import traced
from .native import Conv, Dense, Layer, Pool, Program, Quantization, Step
from .quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["Chain", "Link", "NoProgram", "Plan", "bind", "chain", "dense_chain", "plan_of"]

_RELU = (torch.relu, functional.relu, "relu")
_FLAT = (torch.flatten, "flatten")
_RAISED = (torch.unsqueeze, "unsqueeze")
_AVERAGED = (torch.mean, "mean")
_POOLS: dict[Any, type[nn.Module]] = {
    functional.max_pool1d: nn.MaxPool1d,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool1d: nn.AvgPool1d,
    functional.avg_pool2d: nn.AvgPool2d,
}
_LARGEST, _MEAN = (nn.MaxPool1d, nn.MaxPool2d), (nn.AvgPool1d, nn.AvgPool2d)


class NoProgram(Exception):
    """Why there is no generated step."""


@dataclass
class Link:
    """A layer of a chain, and what follows it: a ReLU, then pooling, or the mean over the positions that a dense layer was
    computed for."""

    layer: Weighted
    relu: bool = False
    pool: Pool | None = None
    mean: bool = False

    @property
    def averaged(self) -> bool:
        return self.mean or (self.pool is not None and not self.pool.largest)


class _Mean(nn.Module):
    """Over the first axis of an event."""


# ---- the chain --------------------------------------------------------------------------------------------------------------


def chain(module: nn.Module) -> Chain:
    """The layers of a module that is a chain of convolutions, then dense layers, with ReLUs and pooling; `NoProgram` otherwise."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        raise NoProgram("it has forward hooks")
    try:
        graph = traced(module, "a generated training step")
    except CompileError as e:
        raise NoProgram(e.rule) from None
    parts, found = dict(graph.named_modules()), Chain()
    inputs = 0
    for node in graph.graph.nodes:
        inputs += node.op == "placeholder"
        whole = node.op != "output" or isinstance(node.args[0], fx.Node)
        if len(node.users) > 1 or inputs > 1 or not whole:
            raise NoProgram("its layers are not a chain")
        if node.op not in ("placeholder", "output"):
            found.add(_part(node, parts))
    if not found.links:
        raise NoProgram("it has no layer with weights")
    if found.flat is False:
        raise NoProgram("its outputs are not one vector")
    return found


def dense_chain(module: nn.Module) -> list[tuple[WeightedLinear, bool]]:
    """The dense layers of a module that is a chain of them, each with whether a ReLU follows; raises `NoProgram` otherwise."""
    found, whole = list[tuple[WeightedLinear, bool]](), chain(module)
    if whole.entry != (-1,):
        raise NoProgram("the shape of an event is changed first")
    for link in whole.links:
        if not isinstance(link.layer, WeightedLinear) or link.mean:
            raise NoProgram(f"{'a mean' if link.mean else type(link.layer).__name__} is not a dense layer")
        found.append((link.layer, link.relu))
    return found


def _part(node: fx.Node, parts: Mapping[str, nn.Module]) -> nn.Module:
    """The layer that a node calls, or the one that does the same as its function."""
    if node.op == "call_module":
        return parts[str(node.target)]
    if not node.args:
        raise NoProgram(f"{node.target} has its data by a keyword")
    if node.target in _RELU:
        return nn.ReLU()
    if node.target in _FLAT:
        start = {} if node.args[1:] else {"start_dim": 0}  # where the function begins, if it is not told
        return nn.Flatten(*node.args[1:], **{**start, **node.kwargs})  # pyright: ignore[reportArgumentType]
    if node.target in _RAISED and node.args[1:] == (1,):
        return nn.Unflatten(1, (1, -1))
    if node.target in _AVERAGED and (node.args[1:], dict(node.kwargs)) in (((1,), {}), ((), {"dim": 1})):
        return _Mean()
    if node.target in _POOLS:
        return _POOLS[node.target](*node.args[1:], **node.kwargs)
    raise NoProgram(f"{getattr(node.target, '__name__', node.target)} is not a layer, a ReLU or pooling")


class Chain:
    """The links so far.

    `flat`: what comes next reads one vector; None: at most dense layers came, on a vector or on each of some positions. `entry`:
    what the first axis of an event becomes before the first layer, -1 being what is left. `flattened`: all of it, before that.
    """

    def __init__(self) -> None:
        self.links, self.flat, self.entry, self.flattened = list[Link](), None, (-1,), False

    def shape(self, event: Sequence[int]) -> tuple[int, ...]:
        """Of an event as the first layer reads it."""
        if not event:
            raise NoProgram("an event is one number")
        known = -math.prod(self.entry) if -1 in self.entry else math.prod(self.entry)
        if event[0] % known or (-1 not in self.entry and event[0] != known):
            raise NoProgram(f"an axis of {event[0]} is not of shape {list(self.entry)}")
        return (*(event[0] // known if n == -1 else n for n in self.entry), *event[1:])

    def event(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The other way round."""
        return (math.prod(shape[: len(self.entry)]), *shape[len(self.entry) :])

    def add(self, part: nn.Module) -> None:
        """The next layer; raises `NoProgram` for one that does not go on."""
        if isinstance(part, Weighted):
            self._layer(part)
        elif isinstance(part, nn.ReLU):
            last = self.links[-1] if self.links else None
            if last is None or last.relu or last.averaged:
                raise NoProgram("a ReLU does not follow a layer")
            last.relu = True  # of the largest value, or the largest of the ReLUs: it is the same
        elif isinstance(part, (*_LARGEST, *_MEAN)):
            if not self.links or self.links[-1].pool is not None or self.flat is not False:
                raise NoProgram("pooling does not follow a convolution")
            self.links[-1].pool = _pool(part, isinstance(self.links[-1].layer, WeightedConv1d))
        elif isinstance(part, _Mean) and self.links and self.flat is None:
            self.links[-1].mean = self.flat = True
        elif isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (1, -1):
            self.flat, self.flattened = True, self.flattened or not self.links
        elif isinstance(part, nn.Unflatten) and part.dim == 1 and not self.links and self.flat is None:
            self.entry = tuple(int(n) for n in part.unflattened_size)
        elif not isinstance(part, nn.Identity):
            raise NoProgram(
                f"{type(part).__name__.lstrip('_')} there is not a dense layer, a convolution, a ReLU or pooling"
            )

    def _layer(self, part: Weighted) -> None:
        if any(part is link.layer for link in self.links):
            raise NoProgram("a layer is used twice")
        if isinstance(part, WeightedConv1d | WeightedConv2d) and self.flat is (False if self.links else None):
            self.flat = False
            if isinstance(part.padding, str) or part.padding_mode != "zeros":
                raise NoProgram("padding with other than zeros, or by a name, is not generated")
        elif not isinstance(part, WeightedLinear) or self.flat is False:
            raise NoProgram(f"{type(part).__name__} is not a dense layer on a vector, or a convolution before those")
        self.links.append(Link(part))


def _pool(part: Any, one: bool) -> Pool:
    """A pooling layer's, behind a convolution along `one` axis or two."""
    largest = isinstance(part, _LARGEST)
    plain = part.padding in (0, (0,), (0, 0)) and not part.ceil_mode
    if largest:
        plain = plain and part.dilation in (1, (1,), (1, 1)) and not part.return_indices
    if not plain or getattr(part, "divisor_override", None) is not None:
        raise NoProgram(f"{type(part).__name__} with padding, dilation, ceil_mode or other divisors is not generated")
    if isinstance(part, nn.MaxPool1d | nn.AvgPool1d) != one:
        raise NoProgram(f"{type(part).__name__} does not pool the axes of the convolution before it")
    return Pool(_pair(part.kernel_size, one), _pair(part.stride, one), largest)


def _pair(given: Any, one: bool, there: int = 1) -> tuple[int, int]:
    """(rows, columns) of a layer's option; along `one` axis that of the columns, beside `there`."""
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if one:
        return there, int(numbers[0])
    return (int(numbers[0]), int(numbers[-1]))


# ---- the program ------------------------------------------------------------------------------------------------------------


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
        (name, _pair(getattr(layer, name), one, int(name != "padding"))) for name in ("stride", "padding", "dilation")
    ]
    return Conv(
        (shape[0], rows, columns),
        layer.out_channels,
        _pair(layer.kernel_size, one),
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
    """The program of a module, and its layers. `event`: the shape of one, None where any of the size will do. `positions`: the
    module begins with dense layers for each of the positions of an event; the program takes channels with all their positions."""

    program: Program
    layers: list[Weighted]
    event: tuple[int, ...] | None
    positions: bool

    def events(self, x: Tensor) -> np.ndarray:
        """What the program takes for x: ``[events, values]``. Raises `CompileError` for events of another shape."""
        if self.event is not None and tuple(x.shape[1:]) != self.event:
            raise CompileError("x", f"must have events of shape {list(self.event)}, not {list(x.shape[1:])}")
        x = x.detach().transpose(1, 2) if self.positions else x.detach()
        return np.ascontiguousarray(x.reshape(len(x), -1).numpy(), np.float32)

    def like(self, values: np.ndarray, x: Tensor) -> Tensor:
        """Values of the program's inputs in the order of x."""
        found = torch.from_numpy(values)
        return found.view(len(x), x.shape[2], x.shape[1]).transpose(1, 2) if self.positions else found.view(x.shape)

    def as_in(self, array: np.ndarray, name: str, tensor: Tensor) -> Tensor:
        """A step's array as the module's tensor of that name has it: widths of data at positions stand the other way round."""
        if self.positions and ".input." in name and tensor.ndim == 2:
            return torch.from_numpy(array).view(tensor.shape[1], tensor.shape[0]).t()
        return torch.from_numpy(array).view(tensor.shape)


def plan_of(module: nn.Module, loss: str, event: Sequence[int] | None = None) -> Plan:
    """The program of a chain; raises `NoProgram` where there is none. `event`: the shape of one; what `quantize` saw, if it is not
    given."""
    found, layers = chain(module), list[Layer]()
    shape = _first_shape(found.links[0].layer) if event is None else found.shape(event)
    event = None if found.flattened else found.event(shape)
    shape = (math.prod(shape),) if found.flattened else shape
    positions = isinstance(found.links[0].layer, WeightedLinear) and len(shape) == 2
    if positions and found.entry != (-1,):
        raise NoProgram("the shape of an event is changed before a dense layer")
    held = [id(t) for _, t in _shared([link.layer for link in found.links])]
    if len(set(held)) < len(held):
        raise NoProgram("layers share a parameter")
    try:
        for link in found.links:
            if isinstance(link.layer, WeightedLinear) and len(shape) > 1 and not positions:
                shape = (math.prod(shape),)  # the chain has a Flatten here
            layers.append(_described(link, shape))
            shape = _behind(link, layers[-1], shape)
        if positions and len(shape) > 1:
            raise NoProgram("its outputs are not one vector")
        return Plan(Program(tuple(layers), loss), [link.layer for link in found.links], event, positions)
    except CompileError as e:
        raise NoProgram(e.rule) from None


def _first_shape(layer: Any) -> tuple[int, ...]:
    """Of an event as the first layer reads it, by the layer alone."""
    if hasattr(layer, "input_shape"):
        return tuple(layer.input_shape)
    if isinstance(layer, WeightedLinear):
        return (layer.in_features,)
    raise NoProgram("the shape of an event is not known, since the module is not quantized")


def _shared(layers: list[Weighted]) -> Iterator[tuple[str, Tensor]]:
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


def bind(step: Step, plan: Plan) -> dict[str, Tensor]:
    """Make the step's memory that of the layers' tensors, which keep their numbers; gives these by their names in the step."""
    found = dict(_shared(plan.layers))
    for name, tensor in found.items():
        for arrays in (step.parameters, step.ranges, step.constants):
            if name in arrays:
                view = plan.as_in(arrays[name], name, tensor)
                view.copy_(tensor.detach())
                tensor.data = view
    return found
