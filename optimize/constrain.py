"""Training under a limit on hardware: as many weights as LUTs, DSP blocks or block RAMs hold.

    Pipeline([Quantize(spec), Constrain(lut=5000, train=Train(40))]).run(net, task)   # as many weights as 5,000 LUTs hold

The masks are under pressure until the share `end` of the epochs; then they are fixed, meet the limit, and training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import solved, total
from .layers import Weighted, layers
from .pipeline import Work
from .pruning import DspWords, MemoryWords, Multipliers, NofM, Pattern, Unstructured, Weights, kept_of, prunable
from .pruning_trained import TrainedMask, as_plain_masks, check_masked_training
from .train import During, Train

__all__ = ["Constrain"]

KINDS = ("lut", "weights", "dsp", "bram")


class _Pressed(torch.autograd.Function):
    """Weights as they are, with a term of the loss that is known by its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient + ctx.saved_tensors[0], None


class _Limited(TrainedMask):
    """A mask that presses units of weights below `threshold`, the harder the larger `pressure`; `price`: of one unit."""

    units: Tensor

    def __init__(self, weight: Tensor, before: Tensor, units: Tensor) -> None:
        super().__init__(weight, before)
        self.register_buffer("units", units.reshape(-1))
        self.price, self.threshold, self.multiplier, self.pressure = 1.0, 0.0, 0.0, 0.0

    def power(self, values: Tensor) -> Tensor:
        """The mean square of the weights of each unit."""
        sizes = torch.bincount(self.units).to(values.dtype)
        return torch.zeros_like(sizes).index_add(0, self.units, values.reshape(-1).square()) / sizes

    def cost(self, values: Tensor) -> Tensor:
        """The price of the units that are there; those near the threshold count in part, so that it has a gradient."""
        t = max(self.threshold, 1e-12) ** 2
        return self.price * torch.sigmoid((self.power(values) - t) / (0.25 * t)).sum()

    def soft(self, values: Tensor) -> Tensor:
        if not self.training or not self.pressure:
            return values
        with torch.enable_grad():
            own = values.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.cost(own), own)
        return _Pressed.apply(values, self.pressure * gradient)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Constrain:
    """Train under a limit on one resource, and meet it: the network loses the weights that are worth least for their price.

    One of `lut` (all that `measures` counts: adder bits of the layers by the compiler's solver, products of data and tables; for a
    quantized module), `weights` (that are not zero), `dsp`
    (units of a `pattern` Multipliers or DspWords), `bram` (units of MemoryWords, or of Multipliers that share a memory).
    By the method of multipliers (Platt & Barr 1987): the loss gets ``m * r + r**2 / 2``, r the relative excess of the cost with
    units near zero counted in part; the multiplier m grows by r after each epoch. After the share `end` of the epochs the units of
    least magnitude per price are taken until the limit holds, and once more at the end if the trained weights cost more.

    Raises `CompileError` unless exactly one limit is given, and for one out of reach, with the smallest that can be reached.
    """

    train: Train
    lut: float | None = None
    weights: float | None = None
    dsp: float | None = None
    bram: float | None = None
    pattern: Pattern = field(default_factory=Unstructured)
    end: float = 0.6
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [k for k in KINDS if getattr(self, k) is not None]
        if len(given) != 1:
            raise CompileError(
                "Constrain", f"takes one limit of {', '.join(KINDS)}, not {' and '.join(given) or 'none'}"
            )
        if not self.limit > 0:
            raise CompileError("Constrain", f"{self.kind} must be positive, not {self.limit:g}")
        fitting = {"dsp": (Multipliers, DspWords), "bram": (MemoryWords, Multipliers)}.get(self.kind, ())
        if fitting and not isinstance(self.pattern, fitting):
            rule = f"{self.kind} counts units of a pattern {' or '.join(p.__name__ for p in fitting)}"
            raise CompileError("Constrain", f"{rule}, not {type(self.pattern).__name__}")
        if isinstance(self.pattern, NofM):
            raise CompileError("Constrain", "n:m sets the amount itself, so no limit can set it", "use Prune")
        check_masked_training("Constrain", self.train, self.end)

    @property
    def kind(self) -> str:
        return next(k for k in KINDS if getattr(self, k) is not None)

    @property
    def limit(self) -> float:
        return float(getattr(self, self.kind))

    def apply(self, work: Work) -> None:
        if work.progress is None:
            found = prunable(work.module, self.layers)
            for name, m in found.items():
                m.mask = _Limited(m.weight.detach(), kept_of(m), self.pattern.units(name, m))
            rest = self.rest(work.module)
            if rest >= self.limit and not self.train.beta and self.train.budget is None:
                rule = f"lut {self.limit:g} cannot be reached: {rest:g} are for products of data, tables and layers left out"
                raise CompileError("Constrain", rule, "raise the limit, or lower the widths of activations")
            self._first_threshold(found, rest)
        replace(self.train, during=(*self.train.during, _Limit(self))).apply(work)
        rest = self.rest(work.module)
        _take_until(self, _limited(work), rest)
        work.say(f"Constrain: {self.kind} {rest + self.cost(_limited(work)):g} of {self.limit:g}")
        as_plain_masks(work)

    def rest(self, module: nn.Module) -> float:
        """LUTs of what this does not prune: layers without its masks, products of data and tables."""
        if self.kind != "lut":
            return 0.0
        return total(module, lambda _, layer: 0.0 if isinstance(layer.mask, _Limited) else solved(layer))

    def cost(self, found: Weights) -> float:
        """What the layers that it prunes cost as they are."""
        if self.kind == "lut":
            return float(sum(solved(m) for m in found.values()))
        used = {name: (m.used_weight().detach() != 0).reshape(-1) for name, m in found.items()}
        if self.kind == "weights":
            return float(sum(int(u.sum()) for u in used.values()))
        return float(sum(len(m.mask.units[used[name]].unique()) for name, m in found.items()))  # pyright: ignore

    def set_prices(self, found: Weights) -> None:
        """What a unit of each layer costs."""
        for m in found.values():
            assert isinstance(m.mask, _Limited)
            each = float(torch.bincount(m.mask.units).float().mean())
            if self.kind == "lut":
                m.mask.price = max(solved(m) / max(int((m.used_weight() != 0).sum()), 1), 1e-3) * each
            else:
                m.mask.price = each if self.kind == "weights" else 1.0

    def _first_threshold(self, found: Weights, rest: float) -> None:
        """The size of units at which those that are larger cost what the limit leaves beside the `rest`."""
        self.set_prices(found)
        power, price = [], []
        for m in found.values():
            assert isinstance(m.mask, _Limited)
            power.append(m.mask.power(m.weight.detach() * m.mask.before))
            price.append(torch.full_like(power[-1], m.mask.price))
        order = torch.cat(power).sort(descending=True)
        summed = torch.cat(price)[order.indices].cumsum(0)
        count = int((rest + summed <= self.limit).sum())
        for m in found.values():
            m.mask.threshold = 0.0 if count == len(summed) else float(order.values[count].sqrt())  # pyright: ignore


def _limited(work: Work) -> dict[str, Weighted]:
    return {name: m for name, m in layers(work.module) if isinstance(m.mask, _Limited)}


@dataclass(frozen=True)
class _Limit(During):
    """Raises the multiplier between epochs, and fixes the masks."""

    owner: Constrain

    def epoch(self, work: Work, epoch: int, total_epochs: int) -> None:
        own, found = self.owner, _limited(work)
        last = max(round(own.end * total_epochs), 1)
        # Quantized weights that go on to train become fewer, and the LUTs that they leave free hold others.
        again = (last + total_epochs) // 2 if own.kind == "lut" else last
        if epoch in (last, again):
            for m in found.values():
                m.mask.keep = None  # pyright: ignore
            _take_until(own, found, own.rest(work.module), 0.97 if own.kind == "lut" and epoch < total_epochs else 1.0)
        if epoch >= last:
            return
        own.set_prices(found)
        masks = [(m.mask, m.weight.detach()) for m in found.values() if isinstance(m.mask, _Limited)]
        if not masks[0][0].threshold:
            return  # the limit holds as it is
        excess = (own.rest(work.module) + sum(float(mask.cost(w * mask.before)) for mask, w in masks)) / own.limit - 1
        for mask, _ in masks:
            mask.multiplier = max(mask.multiplier + excess, 0.0)
            mask.pressure = max(mask.multiplier + excess, 0.0) / own.limit


def _take_until(own: Constrain, found: Mapping[str, Weighted], rest: float, margin: float = 1.0) -> None:
    """Take the units of least magnitude per price, the fewest with which the limit holds beside the `rest`; a layer keeps one."""
    start = {name: _kept(m) for name, m in found.items()}
    for name, m in found.items():
        m.mask.keep = start[name]  # pyright: ignore
    if rest + own.cost(found) <= own.limit * margin:
        return
    own.set_prices(found)
    units, worth = dict[str, Tensor](), list[Tensor]()
    for name, m in found.items():
        assert isinstance(m.mask, _Limited)
        units[name] = m.mask.units
        power = m.mask.power(m.used_weight().detach())
        value = torch.where(power > 0, power.sqrt() / m.mask.price, -1.0)
        value[value.argmax()] = math.inf
        worth.append(value)
    order = torch.cat(worth).argsort(stable=True)
    most = int((~torch.cat(worth).isinf()).sum())
    sizes = [len(v) for v in worth]

    def cost(count: int) -> float:
        gone = torch.zeros(len(order), dtype=torch.bool)
        gone[order[:count]] = True
        for (name, m), g in zip(found.items(), gone.split(sizes)):
            m.mask.keep = start[name] * (~g[units[name]]).float().reshape(m.weight.shape)  # pyright: ignore
        return rest + own.cost(found)

    smallest = cost(most)
    if smallest > own.limit:
        rule = (
            f"{own.kind} {own.limit:g} cannot be reached: {smallest:g} is the smallest that leaves every layer a unit"
        )
        raise CompileError("Constrain", rule, "raise the limit, or shrink the network")
    cost(_fewest(cost, most, max(own.limit * margin, smallest)))


def _fewest(cost: Callable[[int], float], most: int, limit: float) -> int:
    """By bisection, a count whose cost is within the limit, and one less is not."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= limit else (middle, high)
    return high


def _kept(m: Weighted) -> Tensor:
    assert isinstance(m.mask, _Limited)
    return m.mask.before.clone() if m.mask.keep is None else m.mask.keep.clone()
