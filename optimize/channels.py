"""Which channels of a module are which: labels run through it in place of data; knows neither scores nor how to cut.

Every channel that a layer makes has a number, and whatever only moves data (flatten, pooling, transposes, concatenation) moves the
numbers. So each consumer says which of its inputs carry which channel; a sum ties the channels that meet in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..ir.errors import CompileError
from .composites import LayerNormalization, Product
from .functions import QuantizedFunction, SoftmaxTables
from .layers import Affine, Weighted
from .modules import FUNCTIONS
from .quantizers import ActivationQuantizer

__all__ = ["NORMS", "Channels", "Cut", "Labels"]

FIXED = -1
"""The label of what is not a channel that could leave: inputs of the network, constants."""

_MOVES = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle,
)  # fmt: skip
"""Layers that give labels back as they are when they are run on them."""

_TWINS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.ZeroPad1d: lambda m: nn.ReplicationPad1d(m.padding),
    nn.ZeroPad2d: lambda m: nn.ReplicationPad2d(m.padding),
    nn.AvgPool1d: lambda m: nn.MaxPool1d(m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode),
    nn.AvgPool2d: lambda m: nn.MaxPool2d(m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode),
    nn.AdaptiveAvgPool1d: lambda m: nn.AdaptiveMaxPool1d(m.output_size),
    nn.AdaptiveAvgPool2d: lambda m: nn.AdaptiveMaxPool2d(m.output_size),
}
"""Layers that make other numbers, and those with the same geometry that give labels back."""

_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, *(f for f in FUNCTIONS if f is not nn.Softmax))
_FUNCTIONS = (
    torch.relu, F.relu, F.relu6, F.leaky_relu, F.hardtanh, torch.tanh, torch.sigmoid, F.tanh, F.sigmoid, F.gelu, F.silu, F.elu,
    F.selu, F.celu, F.softplus, F.softsign, F.logsigmoid, F.mish, F.dropout, operator.neg, torch.neg, torch.abs, torch.clamp,
    "relu", "tanh", "sigmoid", "abs", "clamp", "neg", "contiguous",
)  # fmt: skip
_MOVING = (
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.cat, torch.concat,
    torch.stack, torch.chunk, torch.split, operator.getitem, F.max_pool1d, F.max_pool2d, F.interpolate, "flatten", "reshape",
    "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "unflatten",
)  # fmt: skip
_SUMS = (
    operator.add, torch.add, operator.sub, torch.sub, operator.mul, torch.mul, operator.truediv, torch.div, "add", "sub", "mul",
    "div",
)  # fmt: skip
_PRODUCTS = (torch.matmul, operator.matmul, "matmul")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass
class Cut:
    """A module's tensors that lose elements: which labels they carry along which axis."""

    name: str
    module: Any
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    """Labels of each input and output feature; None where the module counts none."""
    shapes: list[tuple[ActivationQuantizer, Tensor]] = field(default_factory=list[tuple[ActivationQuantizer, Tensor]])
    """Quantizers of data, and the labels of an event there."""


class Channels:
    """Which labels must leave together, and which cannot."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.owner: list[str] = []
        self.fixed: dict[int, str] = {}

    def new(self, name: str, count: int) -> Tensor:
        first = len(self.parent)
        self.parent += range(first, first + count)
        self.owner += [name] * count
        return torch.arange(first, first + count, dtype=torch.float64)

    def root(self, k: int) -> int:
        while self.parent[k] != k:
            self.parent[k] = self.parent[self.parent[k]]
            k = self.parent[k]
        return k

    def tie(self, labels: Iterable[int], why: str) -> None:
        """These leave together, and not at all if one of them is fixed."""
        found = sorted(set(labels))
        channels = [self.root(k) for k in found if k != FIXED]
        for k in channels[1:]:
            a, b = sorted((self.root(channels[0]), self.root(k)))
            self.parent[b] = a
        if channels and FIXED in found:
            self.hold(channels[:1], why)

    def hold(self, labels: Iterable[int], why: str) -> None:
        for k in labels:
            if k != FIXED:
                self.fixed.setdefault(k, why)

    def groups(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for k in range(len(self.parent)):
            found.setdefault(self.root(k), []).append(k)
        return found

    def reasons(self) -> dict[int, str]:
        """Why a group stays, by its root."""
        return {self.root(k): why for k, why in reversed(self.fixed.items())}


def _ints(labels: Tensor) -> list[int]:
    return [int(v) for v in labels.reshape(-1).unique().tolist()]


class Labels(fx.Interpreter):
    """Runs the graph on labels ``[1, ...]``."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.channels, self.cuts = Channels(), dict[str, Cut]()
        self.at, self.extra_traceback = "", False

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        return super().run_node(n)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return torch.full_like(super().placeholder(target, args, kwargs), FIXED, dtype=torch.float64)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return torch.full_like(found, FIXED, dtype=torch.float64) if isinstance(found, Tensor) else found

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self._hold(args, "they are outputs of the network")
        return args[0]

    def _hold(self, given: Any, why: str) -> None:
        self.channels.hold([k for t in _tensors(given) for k in _ints(t)], why)

    # ---- functions ----

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._function(target, args, kwargs, super().call_function)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._function(target, args, kwargs, super().call_method)

    def _function(self, target: Any, args: Any, kwargs: Any, run: Callable[..., Any]) -> Any:
        data = _tensors([args, kwargs])
        if not data or target in (getattr, "size", "dim"):
            return run(target, args, kwargs)
        if target in _SUMS:
            return self._sum(data)
        if target in _FUNCTIONS:
            return data[0]
        if target in _MOVING:
            return run(target, args, kwargs)
        if target in (torch.mean, "mean", torch.sum, "sum", torch.amax, "amax"):
            return self._reduced(data[0], run, target, args, kwargs)
        if target in _PRODUCTS and len(data) == 2:
            return self._product(*data)
        if target in (torch.softmax, F.softmax, "softmax"):
            return self._softmax(data[0], kwargs.get("dim", args[1] if len(args) > 1 else -1))
        name = getattr(target, "__name__", str(target))
        raise CompileError(self.at, f"shrinking does not know what {name} does to channels", "prune with masks instead")

    def _sum(self, data: list[Tensor]) -> Tensor:
        """Element by element: what meets is tied."""
        if len(data) < 2:
            return data[0]
        a, b = torch.broadcast_tensors(*data)
        for pair in torch.stack([a, b]).reshape(2, -1).unique(dim=1).T.tolist():
            self.channels.tie([int(v) for v in pair], f"{self.at} adds what is not a channel to them")
        return torch.where(a == FIXED, b, a)

    def _reduced(self, x: Tensor, run: Callable[..., Any], target: Any, args: Any, kwargs: Any) -> Tensor:
        """A mean or sum over positions; one over channels needs them all."""
        least = run(torch.amin if not isinstance(target, str) else "amin", args, kwargs)
        most = run(torch.amax if not isinstance(target, str) else "amax", args, kwargs)
        if not torch.equal(least, most):
            self._hold([x], f"{self.at} takes them together")
            return torch.full_like(most, FIXED)
        return most

    def _softmax(self, x: Tensor, axis: int) -> Tensor:
        if not torch.equal(x.amin(axis), x.amax(axis)):
            self._hold([x], f"{self.at} normalizes over them")
            return torch.full_like(x, FIXED)
        return x

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """Attention ``[1, heads, ...]``: a head's channels are tied. Otherwise nothing leaves."""
        result = torch.matmul(torch.zeros_like(a), torch.zeros_like(b))
        if a.ndim != 4 or a.shape[1] != b.shape[1]:
            self._hold([a, b], f"{self.at} multiplies them by each other")
            return torch.full_like(result, FIXED)
        for k in range(a.shape[1]):
            together = [*_ints(a[:, k]), *_ints(b[:, k])]
            self.channels.tie(together, f"{self.at} multiplies them by what is not a channel")
            result[:, k] = max(together)
        return result

    # ---- layers ----

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        m: Any = self.fetch_attr(target)
        x: Tensor = args[0]
        if isinstance(m, Weighted) and not isinstance(m, Affine):
            return self._layer(target, m, x)
        if isinstance(m, (*NORMS, Affine)):
            return self._norm(target, m, x)
        if isinstance(m, ActivationQuantizer):
            self._cut(target, m).shapes.append((m, x[0]))
            return x
        if type(m) in _TWINS:
            return _TWINS[type(m)](m)(x)
        if isinstance(m, _MOVES) and getattr(m, "mode", "nearest") == "nearest":
            return m(x)
        if isinstance(m, LayerNormalization):
            self._hold([x], f"{target} takes them together")
            return torch.full_like(x, FIXED)
        if isinstance(m, QuantizedFunction):
            return self._quantized_function(target, m, list(args))
        return self._of_module(m, list(args))

    def _quantized_function(self, name: str, m: Any, data: list[Tensor]) -> Tensor:
        cut = self._cut(name, m)
        cut.shapes += [(q, t[0]) for q, t in zip(m.inputs, data)]
        found = self._of_module(m.function, data)
        cut.shapes.append((m.output_quantizer, found[0]))
        return found

    def _of_module(self, m: nn.Module, data: list[Tensor]) -> Tensor:
        if isinstance(m, _ELEMENTWISE):
            return data[0]
        if isinstance(m, nn.Softmax):
            return self._softmax(data[0], -1 if m.dim is None else m.dim)
        if isinstance(m, SoftmaxTables):
            return self._softmax(data[0], m.axis)
        if isinstance(m, Product):
            return self._product(*data)
        kind = type(m).__name__
        rule = f"shrinking does not know what {kind} does to channels"
        raise CompileError(self.at, rule, "shrink a network without it, or prune with masks")

    def _cut(self, name: str, m: Any) -> Cut:
        """The record of a module; one that is called twice must see the same channels."""
        if name in self.cuts:
            raise CompileError(
                name, "is called more than once, so that its channels are not its own", "prune with masks"
            )
        self.cuts[name] = Cut(name, m)
        return self.cuts[name]

    def _layer(self, name: str, m: Any, x: Tensor) -> Tensor:
        cut, axis = self._cut(name, m), 1 if m.weight.ndim > 2 else x.ndim - 1
        ins = x.movedim(axis, 0).reshape(x.shape[axis], -1)
        for row in ins:
            self.channels.tie(_ints(row), f"an input of {name} carries more than them")
        cut.inputs = ins[:, 0]
        if m.input_quantizer is not None:
            cut.shapes.append((m.input_quantizer, x[0]))
        count = m.weight.shape[0] if m.channel_axis == 0 else m.weight.shape[1] * m.groups
        like = m.compute(torch.zeros_like(x, dtype=m.weight.dtype), m.weight.detach(), None)
        shape = [-1 if i == axis else 1 for i in range(like.ndim)]
        groups = int(getattr(m, "groups", 1))
        if groups > 1 and groups == len(ins) == count:
            cut.outputs = cut.inputs
        else:
            cut.outputs = self.channels.new(name, count)
        if groups > 1 and cut.outputs is not cut.inputs:
            self._hold([ins, cut.outputs], f"{name} has groups of channels")
        return cut.outputs.reshape(shape).expand_as(like).clone()

    def _norm(self, name: str, m: Any, x: Tensor) -> Tensor:
        cut, axis = self._cut(name, m), m.axis + 1 if isinstance(m, Affine) else 1
        found = x.movedim(axis, 0).reshape(x.shape[axis], -1)
        for row in found:
            self.channels.tie(_ints(row), f"a channel of {name} carries more than them")
        cut.outputs = found[:, 0]
        if isinstance(m, Weighted) and m.input_quantizer is not None:
            cut.shapes.append((m.input_quantizer, x[0]))
        return x


def _tensors(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, list | tuple) else ()
    return [t for part in parts for t in _tensors(part)]
