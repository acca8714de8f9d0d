"""Pruning that trains along: masks with thresholds of their own, and masks under a limit on hardware; knows no patterns' order.

Three methods end at a share of weights, one at what the hardware costs:

    Pipeline([TrainMasks("pdp", 0.8, Train(40))]).run(net, task)                # soft masks from the distribution of weights
    Pipeline([TrainMasks("dst", 0.8, Train(40))]).run(net, task)                # a trained threshold for each output
    Pipeline([Quantize(spec), Constrain(lut=5000, train=Train(40))]).run(net, task)   # as many weights as 5,000 LUTs hold

Each trains its masks until the share `end` of the epochs, fixes them there as plain masks that meet the target, and trains on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import solved
from .layers import Mask, Weighted, layers
from .pipeline import Work
from .pruning import (
    DspWords,
    MemoryWords,
    Multipliers,
    NofM,
    Pattern,
    Unstructured,
    Weights,
    kept_of,
    least,
    prunable,
    sparsity,
)
from .train import During, Train

__all__ = ["METHODS", "Constrain", "TrainMasks"]


class _Trained(nn.Module):
    """A mask under training: `before` is what earlier masks took; `keep`, once it is fixed, what is left."""

    before: Tensor
    keep: Tensor | None

    def __init__(self, weight: Tensor, before: Tensor) -> None:
        super().__init__()
        self.register_buffer("before", before.clone())
        self.register_buffer("keep", None)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.keep if self.keep is not None else self.soft(values * self.before)

    def soft(self, values: Tensor) -> Tensor:
        """The weights in use before the mask is fixed."""
        raise NotImplementedError


# ---- thresholds -----------------------------------------------------------------------------------------------------------


class _Pushed(torch.autograd.Function):
    """A parameter as it is; its gradient is driven upwards by `push` times its mean size, so that no loss has to be scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, push: float) -> Tensor:
        ctx.push = push
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient - ctx.push * (gradient.abs().mean() + 1e-12), None


class _Step(torch.autograd.Function):
    """1 above 0; the gradient is the long-tailed estimate of DST (arXiv:2005.06870, eq. 5)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = ctx.saved_tensors[0].abs()
        return gradient * torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))


class _Shrunk(torch.autograd.Function):
    """``sign(w) * relu(|w| - t)``; weights below t get the share `leak` of their gradient (AutoSparse, arXiv:2304.06941)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, t: Tensor, leak: float) -> Tensor:
        above = w.abs() > t
        ctx.save_for_backward(w, above)
        ctx.leak, ctx.shape = leak, t.shape
        return torch.where(above, w - w.sign() * t, torch.zeros_like(w))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        w, above = ctx.saved_tensors
        passed = gradient * torch.where(above, 1.0, ctx.leak)
        return passed, (-passed * w.sign()).sum_to_size(ctx.shape), None


class _Pdp(_Trained):
    """``w * sigmoid((w**2 - t**2) / (temperature * t**2))``; t lies where `share` of the weights are smaller (arXiv:2305.11203).

    The temperature is relative to t, so that it fits weights of any size.
    """

    temperature = 0.1

    def __init__(self, weight: Tensor, before: Tensor) -> None:
        super().__init__(weight, before)
        self.share = 0.0

    def threshold(self, values: Tensor) -> Tensor:
        """Half way between the largest weight to go and the smallest to stay."""
        size = values.detach().abs().reshape(-1).sort().values
        count = min(round(self.share * len(size)), len(size) - 1)
        return (size[count - 1] + size[count]) / 2 if count else torch.zeros_like(size[0])

    def soft(self, values: Tensor) -> Tensor:
        t = self.threshold(values).square()
        return values if not t else values * torch.sigmoid((values.square() - t) / (self.temperature * t))


class _Thresholds(_Trained):
    """A trained threshold for each output; `push` drives them up or down."""

    def __init__(self, weight: Tensor, before: Tensor) -> None:
        super().__init__(weight, before)
        self.push, self.leak = 0.0, 1.0
        self.raw = nn.Parameter(torch.full([weight.shape[0]] + [1] * (weight.ndim - 1), self.start))

    start = 0.0

    def threshold(self, values: Tensor) -> Tensor:
        return _Pushed.apply(self.raw, self.push)  # pyright: ignore[reportReturnType]


class _Dst(_Thresholds):
    """``w * [|w| > t]`` with trained t."""

    def soft(self, values: Tensor) -> Tensor:
        return values * _Step.apply(values.abs() - self.threshold(values))  # pyright: ignore[reportOperatorIssue]


class _AutoSparse(_Thresholds):
    """``sign(w) * relu(|w| - sigmoid(s))`` with trained s (counted in tenths, so that a step of Adam moves it)."""

    start = -0.5

    def threshold(self, values: Tensor) -> Tensor:
        return torch.sigmoid(10 * super().threshold(values))

    def soft(self, values: Tensor) -> Tensor:
        return _Shrunk.apply(values, self.threshold(values), self.leak)  # pyright: ignore[reportReturnType]


METHODS: dict[str, type[_Trained]] = {"pdp": _Pdp, "dst": _Dst, "autosparse": _AutoSparse}
"""Soft masks from the distribution of weights; trained thresholds with an estimated gradient; trained soft thresholds whose
gradient for pruned weights is annealed to 0."""


@dataclass(frozen=True)
class TrainMasks:
    """Train masks and weights together until `amount` of the weights are zero, which the fixed masks meet exactly.

    `method`: a key of `METHODS`. `train`: the training (the generated step does not know these masks, so torch trains).
    `end`: share of the epochs after which the masks are fixed. `layers`: names; all dense and convolution layers if empty.
    The amount rises as in `Gradual`; thresholds are driven to it by their gradients.

    Raises `CompileError` for amounts outside 0 to 1 or out of reach, unknown methods and names, and a training with a frontier.
    """

    method: str
    amount: float
    train: Train
    end: float = 0.6
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise CompileError("TrainMasks", f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not isinstance(self.amount, int | float) or not 0 <= self.amount <= 1:
            rule = f"amount must be a share from 0 to 1, not {self.amount!r}"
            raise CompileError("TrainMasks", rule, "give 0.8 for 80 %")
        _check_training("TrainMasks", self.train, self.end)

    def apply(self, work: Work) -> None:
        if work.progress is None:
            for m in prunable(work.module, self.layers).values():
                m.mask = METHODS[self.method](m.weight.detach(), kept_of(m))
        replace(self.train, during=(*self.train.during, _Steer(self.amount, self.end))).apply(work)
        _as_plain_masks(work)


@dataclass(frozen=True)
class _Steer(During):
    """Brings trained masks to the amount, and fixes them."""

    amount: float
    end: float

    def epoch(self, work: Work, epoch: int, total_epochs: int) -> None:
        found = _open(work)
        if not found:
            return
        last = max(round(self.end * total_epochs), 1)
        if epoch >= last:
            _fix(found, self.amount)
            return
        aim = self.amount * (1 - (1 - (epoch + 1) / last) ** 3)
        sizes = torch.cat([m.weight.detach().abs().reshape(-1) for m in found.values()])
        smallest = sizes.sort().values[min(round(aim * len(sizes)), len(sizes) - 1)]
        pruned = torch.cat([(margin(m) <= 0).reshape(-1) for m in found.values()])
        for m in found.values():
            mask = m.mask
            if isinstance(mask, _Pdp):
                mask.share = float((m.weight.abs() < smallest).float().mean())
            elif isinstance(mask, _Thresholds):
                mask.push = min(max(40 * (aim - float(pruned.float().mean())), -5.0), 5.0)
                mask.leak = 0.5 * (1 + math.cos(math.pi * epoch / last))


def _open(work: Work) -> dict[str, Weighted]:
    """Layers whose masks are still open."""
    return {name: m for name, m in layers(work.module) if isinstance(m.mask, _Trained) and m.mask.keep is None}


def margin(m: Weighted) -> Tensor:
    """How far each weight is above its threshold."""
    assert isinstance(m.mask, _Trained)
    with torch.no_grad():
        size = m.weight.abs() * m.mask.before
        return size - m.mask.threshold(m.weight) if isinstance(m.mask, _Pdp | _Thresholds) else size


def _fix(found: Weights, amount: float) -> None:
    """The weights least above their thresholds go, as many as the amount says."""
    value = {}
    for name, m in found.items():
        assert isinstance(m.mask, _Trained)
        above = margin(m)
        above = torch.where(m.mask.before > 0, above, above.min() - 1).reshape(-1)
        above[above.argmax()] = math.inf
        value[name] = above
    together = torch.cat([*value.values()])
    gone = least(together, torch.ones(len(together)), amount, "TrainMasks").split([len(v) for v in value.values()])
    with torch.no_grad():
        for m, g in zip(found.values(), gone):
            assert isinstance(m.mask, _Trained)
            m.weight.copy_(m.mask.soft(m.weight * m.mask.before))
            m.mask.keep = (~g).float().reshape(m.weight.shape) * m.mask.before


def _as_plain_masks(work: Work) -> None:
    for _, m in layers(work.module):
        if isinstance(m.mask, _Trained):
            m.mask = Mask(m.mask.before if m.mask.keep is None else m.mask.keep)
    masked = {name: m for name, m in layers(work.module) if m.mask is not None}
    work.say(f"{sparsity(masked):.1%} of the weights are zero")


def _check_training(where: str, train: Train, end: float) -> None:
    if train.frontier:
        rule = "the masks change the network's parts, so that a frontier of states cannot be kept"
        raise CompileError(where, rule, "keep the frontier in a Train after it")
    if not 0 < end <= 1:
        raise CompileError(where, f"end must be a share of the epochs above 0 and up to 1, not {end:g}")


# ---- limits on hardware ---------------------------------------------------------------------------------------------------


class _Pressed(torch.autograd.Function):
    """Weights as they are, with a term of the loss that is known by its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient + ctx.saved_tensors[0], None


class _Limited(_Trained):
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


KINDS = ("lut", "weights", "dsp", "bram")


@dataclass(frozen=True)
class Constrain:
    """Train under a limit on one resource, and meet it: the network loses the weights that are worth least for their price.

    One of `lut` (adder bits of all layers by the compiler's solver; for a quantized module), `weights` (that are not zero), `dsp`
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
        _check_training("Constrain", self.train, self.end)

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
            self._first_threshold(found)
        replace(self.train, during=(*self.train.during, _Limit(self))).apply(work)
        _take_until(self, _limited(work))
        work.say(f"Constrain: {self.kind} {self.cost(_limited(work)):g} of {self.limit:g}")
        _as_plain_masks(work)

    def cost(self, found: Weights) -> float:
        """What the layers cost as they are."""
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

    def _first_threshold(self, found: Weights) -> None:
        """The size of units at which those that are larger cost what the limit allows."""
        self.set_prices(found)
        power, price = [], []
        for m in found.values():
            assert isinstance(m.mask, _Limited)
            power.append(m.mask.power(m.weight.detach() * m.mask.before))
            price.append(torch.full_like(power[-1], m.mask.price))
        order = torch.cat(power).sort(descending=True)
        total = torch.cat(price)[order.indices].cumsum(0)
        count = int((total <= self.limit).sum())
        for m in found.values():
            m.mask.threshold = 0.0 if count == len(total) else float(order.values[count].sqrt())  # pyright: ignore


def _limited(work: Work) -> dict[str, Weighted]:
    return {name: m for name, m in layers(work.module) if isinstance(m.mask, _Limited)}


@dataclass(frozen=True)
class _Limit(During):
    """Raises the multiplier between epochs, and fixes the masks."""

    owner: Constrain

    def epoch(self, work: Work, epoch: int, total_epochs: int) -> None:
        own, found = self.owner, _limited(work)
        last = max(round(own.end * total_epochs), 1)
        if epoch == last:
            margin = 0.97 if own.kind == "lut" and epoch < total_epochs else 1.0  # of weights that go on to train
            _take_until(own, found, margin)
        if epoch >= last:
            return
        own.set_prices(found)
        masks = [(m.mask, m.weight.detach()) for m in found.values() if isinstance(m.mask, _Limited)]
        if not masks[0][0].threshold:
            return  # the limit holds as it is
        excess = sum(float(mask.cost(w * mask.before)) for mask, w in masks) / own.limit - 1
        for mask, _ in masks:
            mask.multiplier = max(mask.multiplier + excess, 0.0)
            mask.pressure = max(mask.multiplier + excess, 0.0) / own.limit


def _take_until(own: Constrain, found: Mapping[str, Weighted], margin: float = 1.0) -> None:
    """Take the units of least magnitude per price, the fewest with which the limit holds; every layer keeps one."""
    start = {name: _kept(m) for name, m in found.items()}
    for name, m in found.items():
        m.mask.keep = start[name]  # pyright: ignore
    if own.cost(found) <= own.limit * margin:
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
        return own.cost(found)

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
