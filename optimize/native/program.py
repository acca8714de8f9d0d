"""What a generated training step computes: shapes and kinds of dense networks; knows no values and no C++."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import CompileError
from ...ir.rounding import Overflow, Rounding

__all__ = ["KINDS", "LOSSES", "Dense", "Program", "Quantization"]

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
    of biases and of data (1,) or (n,).
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


@dataclass(frozen=True)
class Program:
    """A chain of dense layers, the loss (one of LOSSES) and an optional quantization of the outputs."""

    layers: tuple[Dense, ...]
    loss: str = "cross_entropy"
    output: Quantization | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise CompileError("program", "must have at least one layer, not none")
        if self.loss not in LOSSES:
            raise CompileError("program", f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        width = self.layers[0].inputs
        for k, layer in enumerate(self.layers):
            where = f"layer {k}"
            if min(layer.inputs, layer.outputs) < 1:
                raise CompileError(where, f"must have inputs and outputs, not {layer.inputs} and {layer.outputs}")
            if layer.inputs != width:
                raise CompileError(where, f"must take the {width} outputs of the layer before, not {layer.inputs}")
            width = layer.outputs
            if layer.b is not None and not layer.bias:
                raise CompileError(where, "has no bias, so that there is nothing for b to quantize", "leave b out")
            for name, q, size, constant in (
                ("inputs", layer.x, (layer.inputs,), False),
                ("weights", layer.w, (layer.outputs, layer.inputs), True),
                ("biases", layer.b, (layer.outputs,), True),
            ):
                if q is not None:
                    q.check(f"{where} ({name})", size, constant)
        if self.output is not None:
            self.output.check("outputs", (width,), False)
