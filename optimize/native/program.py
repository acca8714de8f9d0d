"""What a generated training step computes: shapes and kinds of convolutions and dense layers; knows no values and no C++."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from ...ir.errors import CompileError
from ...ir.rounding import Overflow, Rounding

__all__ = ["KINDS", "LOSSES", "Conv", "Dense", "Layer", "Pool", "Program", "Quantization"]

KINDS = ("free", "clipped", "fixed")
"""`free`: nothing is clipped. `clipped`: SAT to given integer bits. `fixed`: constants of a width, which follow their largest."""

LOSSES = {
    "cross_entropy": "integer labels",
    "soft_cross_entropy": "probabilities at a temperature",
    "distillation": "integer labels, and probabilities at a temperature",
    "squared_error": "targets; the mean over the outputs",
    "binary_cross_entropy": "targets from 0 to 1, of logits; the mean over the outputs",
}
"""Losses of an event, and what they compare the outputs with."""

MAX_BITS = 24


@dataclass(frozen=True)
class Quantization:
    """How a tensor is fake-quantized: q = 2**-F clip(round(v 2**F)), F and I being the parameters fraction and integer, rounded.

    `shape`: of fraction and integer, broadcast to the tensor: of weights (1, 1), (outputs, 1), (1, inputs) or (outputs, inputs);
    of biases and of data (1,) or (n,), of a convolution's data (channels,) too.
    `kind`: "free", where nothing is clipped (data: the range that was seen is tracked), "clipped" to [-2**I or 0, 2**I - 2**-F]
    by the `overflow` mode, or "fixed": constants of `bits` bits, clipped, F = bits - 1 - ceil(log2(max |v|)) of all that share it.
    `trained`: whether fraction has a gradient, ln 2 * (v - q) dL/dq (HGQ, arXiv:2405.00645); `integer_trained` the same of
    integer: ln 2 * 2**I dL/dq where clipped. `bits` of clipped data: F = bits - signed - I instead of a parameter.
    """

    kind: str = "free"
    shape: tuple[int, ...] = (1,)
    rounding: str = "RND"
    trained: bool = True
    integer_trained: bool = False
    signed: bool = True
    bits: int | None = None
    overflow: str = "SAT"

    @property
    def has_fraction(self) -> bool:
        """Whether there is a parameter for F (of "fixed" it only shows the F in use)."""
        return self.kind == "fixed" or self.bits is None

    @property
    def fraction_trained(self) -> bool:
        return self.trained and self.bits is None

    def check(self, where: str, size: tuple[int, ...], constant: bool) -> None:
        """Raise `CompileError` unless this can quantize a tensor (`constant`: weights or biases) of that size."""
        if self.kind not in (KINDS if constant else KINDS[:2]):
            kinds = ", ".join(KINDS if constant else KINDS[:2])
            raise CompileError(where, f"the kind of its quantization must be one of {kinds}, not {self.kind!r}")
        for name, given, known in (("rounding", self.rounding, Rounding), ("overflow", self.overflow, Overflow)):
            if given not in known.__members__:
                raise CompileError(where, f"{name} must be one of {', '.join(known.__members__)}, not {given!r}")
        if len(self.shape) != len(size) or any(a not in (1, b) for a, b in zip(self.shape, size)):
            raise CompileError(where, f"the shape of its widths must broadcast to {size}, not be {self.shape}")
        needs = self.kind == "fixed" or (self.kind == "clipped" and not constant and self.bits is not None)
        if needs != (self.bits is not None) or (needs and not 1 <= (self.bits or 0) <= MAX_BITS):
            rule = f"bits from 1 to {MAX_BITS} belong to kind 'fixed' and to clipped data, not {self.bits!r} to {self.kind!r}"
            raise CompileError(where, rule)
        if self.integer_trained and self.kind != "clipped":
            raise CompileError(where, f"integer bits are trained only where kind is 'clipped', not {self.kind!r}")


@dataclass(frozen=True)
class Dense:
    """y = relu(Qx(x) (Qw(w) * mask)^T + Qb(b)), w ``[outputs, inputs]``; a quantization of None leaves float."""

    inputs: int
    outputs: int
    x: Quantization | None = None
    w: Quantization | None = None
    b: Quantization | None = None
    relu: bool = False
    masked: bool = False
    bias: bool = True

    @property
    def weight_shape(self) -> tuple[int, int]:
        return self.outputs, self.inputs

    @property
    def data_shape(self) -> tuple[int, ...]:
        """That of the widths of the data broadcasts to it."""
        return (self.inputs,)


Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Pool:
    """The largest value, or the mean, of windows of `size` at strides `stride`; what does not fill a window is left out."""

    size: Pair
    stride: Pair
    largest: bool = True


@dataclass(frozen=True)
class Conv:
    """y = pool(relu(Qx(x) * (Qw(w) * mask) + Qb(b))) of x ``[channels, rows, columns]`` in that order; w ``[filters, taps]``, a tap
    being (channel of the group, row, column). Zeros are added at the border."""

    shape: tuple[int, int, int]
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    x: Quantization | None = None
    w: Quantization | None = None
    b: Quantization | None = None
    relu: bool = False
    masked: bool = False
    bias: bool = True
    pool: Pool | None = None

    @property
    def inputs(self) -> int:
        return prod(self.shape)

    @property
    def convolved(self) -> tuple[int, int, int]:
        """The shape before pooling."""
        sides = zip(self.shape[1:], self.kernel, self.stride, self.padding, self.dilation)
        rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
        return self.filters, rows, columns

    @property
    def made(self) -> tuple[int, int, int]:
        """The shape of the result."""
        filters, *sides = self.convolved
        if self.pool is None:
            return self.convolved
        rows, columns = ((n - k) // s + 1 for n, k, s in zip(sides, self.pool.size, self.pool.stride))
        return filters, rows, columns

    @property
    def outputs(self) -> int:
        return prod(self.made) if min(self.made) > 0 else 0

    @property
    def weight_shape(self) -> tuple[int, int]:
        return self.filters, self.shape[0] // self.groups * prod(self.kernel)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """That of the widths of the data broadcasts to it: of channels, or of all values."""
        of_channels = self.x is not None and self.x.shape == (self.shape[0],)
        return (self.shape[0] if of_channels else self.inputs,)

    @property
    def averages(self) -> bool:
        """Pooling takes the means of the ReLUs, not the largest value, which may as well be taken before."""
        return self.pool is not None and not self.pool.largest

    def faults(self) -> Iterator[str]:
        """What makes no convolution."""
        numbers = (*self.shape, self.filters, *self.kernel, *self.stride, *self.dilation, self.groups)
        numbers += (*self.pool.size, *self.pool.stride) if self.pool else ()
        if min(numbers) < 1 or min(self.padding) < 0:
            yield "sizes, strides, dilations and groups must be 1 or more, and padding 0 or more"
        elif self.shape[0] % self.groups or self.filters % self.groups:
            yield f"groups must divide {self.shape[0]} channels and {self.filters} filters, not be {self.groups}"


Layer: TypeAlias = Dense | Conv


@dataclass(frozen=True)
class Program:
    """A chain of convolutions, then dense layers (either may be missing), the loss (one of LOSSES) and an optional quantization of
    the outputs."""

    layers: tuple[Layer, ...]
    loss: str = "cross_entropy"
    output: Quantization | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise CompileError("program", "must have at least one layer, not none")
        if self.loss not in LOSSES:
            raise CompileError("program", f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        before: Layer | None = None
        for k, layer in enumerate(self.layers):
            _check(f"layer {k}", layer, before)
            before = layer
        if self.output is not None:
            self.output.check("outputs", (self.layers[-1].outputs,), False)


def _check(where: str, layer: Layer, before: Layer | None) -> None:
    """Raise `CompileError` unless the layer can be computed, behind the one before."""
    fault = next(layer.faults(), None) if isinstance(layer, Conv) else None
    if fault is not None:
        raise CompileError(where, fault)
    if min(layer.inputs, layer.outputs) < 1:
        raise CompileError(where, f"must have inputs and outputs, not {layer.inputs} and {layer.outputs}")
    if before is not None and layer.inputs != before.outputs:
        raise CompileError(where, f"must take the {before.outputs} outputs of the layer before, not {layer.inputs}")
    if isinstance(layer, Conv) and not isinstance(before, Conv | None):
        raise CompileError(where, "is a convolution behind a dense layer", "put convolutions first")
    if layer.b is not None and not layer.bias:
        raise CompileError(where, "has no bias, so that there is nothing for b to quantize", "leave b out")
    for name, q, size, constant in (
        ("inputs", layer.x, layer.data_shape, False),
        ("weights", layer.w, layer.weight_shape, True),
        ("biases", layer.b, layer.weight_shape[:1], True),
    ):
        if q is not None:
            q.check(f"{where} ({name})", size, constant)
