"""Functions of data between quantizers, as hardware has them: tables, softmax, products of data; and what they cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .composites import Multiplies, Product
from .formats import fixed
from .layers import sums_in_double
from .quantizers import ActivationQuantizer

__all__ = ["QuantizedFunction", "SoftmaxTables", "functions"]

_INPUTS = 6
"""Of a LUT: larger tables take several for an output bit."""

_FILL = 0.8
"""Share of the LUTs of a large table that are left when it is minimised, as in `hw_targets`."""


class QuantizedFunction(nn.Module):
    """A function that becomes a table, or a product of data: its inputs and its output are quantized.

    `shapes`: of an event's inputs. `calls`: how often a run uses it.
    """

    def __init__(
        self,
        function: nn.Module,
        inputs: list[ActivationQuantizer],
        output: ActivationQuantizer,
        shapes: list[tuple[int, ...]],
        calls: int = 1,
    ) -> None:
        super().__init__()
        self.inputs, self.function, self.output_quantizer = nn.ModuleList(inputs), function, output
        self.shapes, self.calls = shapes, calls

    def forward(self, *data: Tensor) -> Tensor:
        given = [q(x) for q, x in zip(self.inputs, data, strict=True)]
        if sums_in_double(self):
            given = [x.double() for x in given]
        return self.output_quantizer(self.function(*given))

    def widths(self) -> list[Tensor]:
        """Bits of every element of an event's inputs; differentiable by the trained ones."""
        return [q.widths().expand(s) for q, s in zip(self.inputs, self.shapes, strict=True)]  # pyright: ignore

    def cost(self, product: float = 1.0, sums: float = 1.0, tables: float = 1.0) -> Tensor:
        """LUTs of an event, by the compiler's rules: of a product of data the widths multiplied, and what it takes to add such
        products; of a table its size. Each by its price; differentiable by the trained widths."""
        given = self.widths()
        if isinstance(self.function, Product):
            a, b = given
            return self.calls * _product(a, b, product, sums)
        if isinstance(self.function, SoftmaxTables):
            return self.calls * tables * self.function.cost(given[0])
        return self.calls * tables * _table(given[0], self.output_quantizer.widths()).sum()


class SoftmaxTables(nn.Module):
    """Softmax as hardware computes it: a table of exponentials below the largest, and one of the reciprocal of their sum."""

    def __init__(self, axis: int, bits: int) -> None:
        super().__init__()
        self.axis = axis
        self.exponential, self.reciprocal = (ActivationQuantizer(fixed(min(bits + 2, 12))) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        below = (x - x.amax(self.axis, keepdim=True)).clamp(max=0)  # it never is above, which intervals do not show
        e = self.exponential(torch.exp(below))  # the largest gives 1, or the step below
        return e * self.reciprocal(torch.reciprocal(e.sum(self.axis, keepdim=True).clamp(min=0.5)))

    def cost(self, bits: Tensor) -> Tensor:
        """For inputs of `bits`: the largest, differences, a table for each, their sum, a table of its reciprocal, products."""
        axis = self.axis if self.axis < 0 else self.axis - 1
        n, e, r = bits.shape[axis], self.exponential.widths(), self.reciprocal.widths()
        rows = bits.numel() // n
        each = 2.5 * bits + _table(bits, e) + e + e * r
        return each.sum() + rows * _table(e + math.ceil(math.log2(max(n, 2))), r).sum()


def _product(a: Tensor, b: Tensor, product: float, sums: float) -> Tensor:
    """Of a matrix product: a multiplier takes the product of the widths, and to add what it gives takes their sum."""
    some_a, some_b = ((t.detach() > 0).to(t.dtype) for t in (a, b))
    return product * (a @ b).sum() + sums * ((a @ some_b).sum() + (some_a @ b).sum())


def _table(bits_in: Tensor, bits_out: Tensor) -> Tensor:
    """LUTs of a table; the last steps to none of the inputs are as steep as those before."""
    large = torch.where(
        bits_in > _INPUTS, _FILL * torch.exp2((bits_in - _INPUTS).clamp(min=0)), torch.ones_like(bits_in)
    )
    return bits_out * large * (bits_in.detach() > 0)


def functions(module: nn.Module) -> list[tuple[str, QuantizedFunction | Multiplies]]:
    """Those in the module, and layers that multiply data themselves, with their names, in its order."""
    return [(name, m) for name, m in module.named_modules() if isinstance(m, QuantizedFunction | Multiplies)]
