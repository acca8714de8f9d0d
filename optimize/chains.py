"""Which modules are chains of layers that one training step can compute; knows no program and no formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from ..ir.errors import CompileError
from .layers import Weighted, WeightedConv1d, WeightedConv2d, WeightedLinear
from .modules import traced
from .native import Pool
from .quantizers import ActivationQuantizer

__all__ = ["Chain", "Link", "NoProgram", "chain", "dense_chain", "has_hooks", "pair", "part_of"]

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


def chain(module: nn.Module) -> Chain:
    """The layers of a module that is a chain of convolutions, then dense layers, with ReLUs and pooling; `NoProgram` otherwise."""
    if has_hooks(module):
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
            found.add(part_of(node, parts))
    if not found.links:
        raise NoProgram("it has no layer with weights")
    return found


def has_hooks(module: nn.Module) -> bool:
    """Whether anything listens to a layer, which generated code would not call."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def dense_chain(module: nn.Module) -> list[tuple[WeightedLinear, bool]]:
    """The dense layers of a module that is a chain of them, each with whether a ReLU follows; raises `NoProgram` otherwise."""
    found, whole = list[tuple[WeightedLinear, bool]](), chain(module)
    if whole.entry != (-1,):
        raise NoProgram("the shape of an event is changed first")
    if whole.output is not None:
        raise NoProgram("its outputs are quantized")
    for link in whole.links:
        if not isinstance(link.layer, WeightedLinear) or link.mean:
            raise NoProgram(f"{'a mean' if link.mean else type(link.layer).__name__} is not a dense layer")
        found.append((link.layer, link.relu))
    return found


def part_of(node: fx.Node, parts: Mapping[str, nn.Module]) -> nn.Module:
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
    `output`: quantizes what the last layer gives.
    """

    def __init__(self) -> None:
        self.links, self.flat, self.entry, self.flattened = list[Link](), None, (-1,), False
        self.output: ActivationQuantizer | None = None

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
        if self.output is not None and not isinstance(part, nn.Identity):
            raise NoProgram("a quantizer of its own is not the last")
        if isinstance(part, ActivationQuantizer) and self.links:
            self.output = part
        elif isinstance(part, Weighted):
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
    return Pool(pair(part.kernel_size, one), pair(part.stride, one), largest)


def pair(given: Any, one: bool, there: int = 1) -> tuple[int, int]:
    """(rows, columns) of a layer's option; along `one` axis that of the columns, beside `there`."""
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if one:
        return there, int(numbers[0])
    return (int(numbers[0]), int(numbers[-1]))
