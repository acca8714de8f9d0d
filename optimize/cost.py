"""What a network that is being trained costs in hardware: effective bit operations, and LUTs by the compiler's own solver.

Two numbers: `resource` is differentiable and prices bits; `solved` runs the solver on the weights as they are. The prices
are set anew from the solver during training (`refit`), so that the first follows the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..codegen.adder_graph import adder_bits
from ..codegen.solver import solve
from ..ir.errors import CompileError
from .composites import Multiplies
from .functions import QuantizedFunction, functions
from .layers import Affine, Weighted, layers
from .quantizers import ActivationQuantizer, WeightQuantizer, bit_length, exp2

__all__ = [
    "EBOPS",
    "FREE",
    "LUT",
    "Price",
    "Prices",
    "ebops",
    "matrices",
    "prices",
    "refit",
    "resource",
    "solved",
    "total",
    "widths",
]


@dataclass(frozen=True)
class Price:
    """What a layer's bits cost.

    The sum over all products of ``(first * [b > 0] + bit * b) * (c + extra * [c > 0])`` for weights of b bits (without
    sign) and inputs of c bits, and `input` for each bit of each input: what rounding and activating it takes.
    """

    first: float
    bit: float
    extra: float = 0.0
    input: float = 0.0

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """As a generated step takes them."""
        return self.first, self.bit, self.extra, self.input

    def times(self, ratio: float) -> Price:
        """The products at another price."""
        return replace(self, first=self.first * ratio, bit=self.bit * ratio)


FREE = Price(first=0.0, bit=0.0)
"""Of layers whose bits cost nothing."""

EBOPS = Price(first=0.0, bit=1.0)
"""Effective bit operations of HGQ (arXiv:2405.00645)."""

LUT = Price(first=0.55, bit=0.18, extra=2.0, input=0.5)
"""LUTs of a shift-add network, where no layer has been solved yet: a weight costs its first digit, and less for more bits.

Only the ratios of its numbers last: `refit` scales it to each layer. A fit to random layers (`benchmarks/prices.py`) prices the
first digit lower.
"""

FUNCTION = Price(first=1.0, bit=1.0, input=1.0)
"""LUTs of functions of data, by the compiler's own rules: `bit` for products, `first` to add them, `input` for tables."""

Prices = Mapping[str, Price]


def prices(module: nn.Module, kind: str = "lut") -> dict[str, Price]:
    """The same price for every layer, and one for every function of data: "lut" or "ebops"."""
    known = {"lut": (LUT, FUNCTION), "ebops": (EBOPS, EBOPS)}
    if kind not in known:
        raise CompileError("cost", f"must be one of {', '.join(known)}, not {kind!r}")
    layer, function = known[kind]
    return {**{name: layer for name, _ in layers(module)}, **{name: function for name, _ in functions(module)}}


# ---- differentiable ---------------------------------------------------------------------------------------------------


def widths(layer: Weighted) -> tuple[Tensor, Tensor]:
    """Bits of each weight without sign ``[out, in, ...]`` and of each element of the input; differentiable by trained widths.

    Raises `CompileError` where the layer is not quantized.
    """
    weight, data = layer.weight_quantizer, layer.input_quantizer
    if not isinstance(weight, WeightQuantizer) or not isinstance(data, ActivationQuantizer):
        raise CompileError(
            type(layer).__name__, "has no widths, since it is not quantized", "quantize the module first"
        )
    values = layer.masked_weight()
    bits = bit_length(weight.integers(values))
    if weight.format.trained:
        moving = weight.fraction - weight.fraction.detach()
        bits = torch.where(bits > 0, bits + moving, bits)
    return bits, data.widths()


def layer_cost(layer: Weighted, price: Price) -> Tensor:
    """`Price` summed over the layer's products, all positions of an event included."""
    b, c = widths(layer)
    if isinstance(layer, nn.Linear) and len(layer.input_shape) == 1:
        c = c.expand(layer.input_shape)
        return layer.calls * _Products.apply(b, c, price)  # pyright: ignore[reportReturnType, reportOperatorIssue]
    spread = c.expand(layer.input_shape)
    weight = price.bit * b + price.first * present(b)
    data = spread + price.extra * (spread.detach() > 0)
    products = layer.compute(data[None], weight, None).sum()
    return layer.calls * (products + price.input * spread.sum())


class _Products(torch.autograd.Function):
    """The cost of a matrix with its gradients in closed form: many small operations would take longer than the layer."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, c: Tensor, price: Price) -> Tensor:
        data = c + price.extra * (c > 0)
        each = price.bit * b.sum(0) + price.first * (b > 0).sum(0)
        ctx.save_for_backward(b, data, each)
        ctx.price = price
        return each @ data + price.input * c.sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        b, data, each = ctx.saved_tensors
        of_weight = torch.where(b == 1, ctx.price.bit + ctx.price.first, ctx.price.bit) * data
        return g * of_weight, g * (each + ctx.price.input), None


def present(b: Tensor) -> Tensor:
    """1 where a weight has bits; one that is about to lose its last has the gradient of that bit."""
    some = (b.detach() > 0).to(b.dtype)
    return some + (b - b.detach()) * (b.detach() == 1)


def resource(module: nn.Module, by: Prices, without: Collection[str] = ()) -> Tensor:
    """The price of the whole module, but for the layers of the names `without`."""
    found = [layer_cost(layer, by[name]) for name, layer in layers(module) if name not in without]
    found += [_function(f, by[name]) for name, f in functions(module)]
    return torch.stack(found).sum() if found else torch.zeros(())


def _function(f: QuantizedFunction | Multiplies, price: Price) -> Tensor:
    return f.cost(price.bit, price.first, price.input)


def ebops(module: nn.Module) -> float:
    """Effective bit operations: the sum over products of weight bits times input bits, and of data with data."""
    with torch.no_grad():
        return float(resource(module, prices(module, "ebops")))


# ---- by the solver ----------------------------------------------------------------------------------------------------


Matrix = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def matrices(layer: Weighted) -> list[Matrix]:
    """The layer's products as integer matrices: (weights [inputs, outputs], lowest, highest input, copies in hardware).

    Inputs that an event's positions share (pixels of an image) count with their widest; groups are matrices of their own.
    """
    with torch.no_grad():
        weight, data = layer.weight_quantizer, layer.input_quantizer
        _, c = widths(layer)
        assert weight is not None
        assert data is not None
        values = layer.masked_weight()
        w = weight(values).double()
        fraction = torch.where(c > 0, data.fraction_bits(), torch.full_like(c, -math.inf))
        lo, hi = data.reachable()
        each = [t.expand(layer.input_shape) for t in (fraction, lo, hi)]
        outputs = layer.compute(torch.zeros(1, *layer.input_shape), layer.weight.detach(), None)[0].numel()
    if isinstance(layer, Affine):
        return []
    return _as_matrices(layer, w, each, outputs)


def _as_matrices(layer: Weighted, w: Tensor, each: list[Tensor], outputs: int) -> list[Matrix]:
    """Matrices with whole weights: each input's own power of two goes into its row."""
    if w.ndim == 2:
        rows = _shared([t.reshape(-1, w.shape[1]).T for t in each])
        return [(*_whole(w.T, *rows), outputs // w.shape[0])]
    rows = _shared([t.reshape(t.shape[0], -1) for t in each])
    groups, taps = int(getattr(layer, "groups", 1)), math.prod(w.shape[2:])
    found = list[Matrix]()
    for g, part in enumerate(w.chunk(groups)):
        kernel = part.transpose(0, 1) if layer.channel_axis == 1 else part  # [out, in, ...]
        n_out, n_in = kernel.shape[:2]
        own = [t[g * n_in : (g + 1) * n_in].repeat_interleave(taps) for t in rows]
        found.append((*_whole(kernel.reshape(n_out, -1).T, *own), outputs // (n_out * groups)))
    return found


def _shared(each: list[Tensor]) -> list[Tensor]:
    """(fraction, lowest, highest) ``[inputs]`` of what shares a weight, in its finest step, from those ``[inputs, positions]``."""
    fraction, lo, hi = each
    finest = fraction.amax(1, keepdim=True)
    finer = exp2(torch.where(torch.isfinite(fraction), finest - fraction, torch.zeros_like(fraction)))
    return [finest[:, 0], (lo * finer).amin(1), (hi * finer).amax(1)]


def _whole(matrix: Tensor, fraction: Tensor, lo: Tensor, hi: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrix in integers for inputs in steps of 2**-fraction; an input of no bits has an empty row."""
    alive = torch.isfinite(fraction)
    step = torch.where(alive, exp2(-fraction.nan_to_num(0, 0, 0)).double(), torch.zeros(len(lo), dtype=torch.float64))
    scaled = (matrix * step[:, None]).numpy()
    mantissa, exponent = np.frexp(scaled[scaled != 0])
    if not len(mantissa):
        return np.zeros(matrix.shape, np.int64), lo.long().numpy() * 0, hi.long().numpy() * 0
    lowest = int(exponent.min()) - 24
    whole = np.round(np.ldexp(scaled, -lowest)).astype(object)
    common = math.gcd(*(int(v) for v in np.abs(whole).ravel() if v))
    shift = (common & -common).bit_length() - 1
    n = np.array([int(v) >> shift for v in whole.ravel()], dtype=np.int64).reshape(whole.shape)
    return n, torch.where(alive, lo, 0).long().numpy(), torch.where(alive, hi, 0).long().numpy()


def solved(layer: Weighted) -> float:
    """Adder bits of the layer's shift-add networks by the solver, all positions of an event included."""
    total = 0.0
    for matrix, lo, hi, copies in matrices(layer):
        if matrix.any():
            total += adder_bits(solve(matrix, lo, hi), lo, hi) * copies
    return total * layer.calls


def total(module: nn.Module, layer_luts: Callable[[str, Weighted], float] = lambda _, layer: solved(layer)) -> float:
    """LUTs of a quantized module: its layers by the solver, or by `layer_luts(name, layer)`, and functions of data."""
    with torch.no_grad():
        of_functions = sum(float(_function(f, FUNCTION)) for _, f in functions(module))
    return of_functions + sum(layer_luts(name, layer) for name, layer in layers(module))


def refit(module: nn.Module, by: Prices) -> dict[str, Price]:
    """Prices at which each layer costs what the solver says of its weights now."""
    found = dict(by)
    for name, layer in layers(module):
        products = replace(by[name], input=0.0)
        with torch.no_grad():
            priced = float(layer_cost(layer, products))
        ratio = solved(layer) / priced if priced > 0 else 1.0
        found[name] = by[name].times(min(max(ratio, 0.2), 5.0))
    return found
