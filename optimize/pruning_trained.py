"""Pruning that trains along: masks with thresholds of their own, which end at a share of weights; knows no patterns' order.

    Pipeline([TrainMasks("pdp", 0.8, Train(40))]).run(net, task)                # soft masks from the distribution of weights
    Pipeline([TrainMasks("dst", 0.8, Train(40))]).run(net, task)                # a trained threshold for each output

Each trains its masks until the share `end` of the epochs, fixes them there as plain masks that meet the target, and trains on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .layers import Mask, Weighted, layers
from .pipeline import Work
from .pruning import (
    Weights,
    kept_of,
    least,
    prunable,
    sparsity,
)
from .train import During, Train

__all__ = ["METHODS", "TrainMasks", "TrainedMask", "as_plain_masks", "check_masked_training"]


class TrainedMask(nn.Module):
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


class _Pdp(TrainedMask):
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


class _Thresholds(TrainedMask):
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


METHODS: dict[str, type[TrainedMask]] = {"pdp": _Pdp, "dst": _Dst, "autosparse": _AutoSparse}
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
        check_masked_training("TrainMasks", self.train, self.end)

    def apply(self, work: Work) -> None:
        if work.progress is None:
            for m in prunable(work.module, self.layers).values():
                m.mask = METHODS[self.method](m.weight.detach(), kept_of(m))
        replace(self.train, during=(*self.train.during, _Steer(self.amount, self.end))).apply(work)
        as_plain_masks(work)


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
    return {name: m for name, m in layers(work.module) if isinstance(m.mask, TrainedMask) and m.mask.keep is None}


def margin(m: Weighted) -> Tensor:
    """How far each weight is above its threshold."""
    assert isinstance(m.mask, TrainedMask)
    with torch.no_grad():
        size = m.weight.abs() * m.mask.before
        return size - m.mask.threshold(m.weight) if isinstance(m.mask, _Pdp | _Thresholds) else size


def _fix(found: Weights, amount: float) -> None:
    """The weights least above their thresholds go, as many as the amount says."""
    value = {}
    for name, m in found.items():
        assert isinstance(m.mask, TrainedMask)
        above = margin(m)
        above = torch.where(m.mask.before > 0, above, above.min() - 1).reshape(-1)
        above[above.argmax()] = math.inf
        value[name] = above
    together = torch.cat([*value.values()])
    gone = least(together, torch.ones(len(together)), amount, "TrainMasks").split([len(v) for v in value.values()])
    with torch.no_grad():
        for m, g in zip(found.values(), gone):
            assert isinstance(m.mask, TrainedMask)
            m.weight.copy_(m.mask.soft(m.weight * m.mask.before))
            m.mask.keep = (~g).float().reshape(m.weight.shape) * m.mask.before


def as_plain_masks(work: Work) -> None:
    """Masks that were trained become plain ones."""
    for _, m in layers(work.module):
        if isinstance(m.mask, TrainedMask):
            m.mask = Mask(m.mask.before if m.mask.keep is None else m.mask.keep)
    masked = {name: m for name, m in layers(work.module) if m.mask is not None}
    work.say(f"{sparsity(masked):.1%} of the weights are zero")


def check_masked_training(where: str, train: Train, end: float) -> None:
    """Refuse a training that masks cannot go along with."""
    if train.frontier:
        rule = "the masks change the network's parts, so that a frontier of states cannot be kept"
        raise CompileError(where, rule, "keep the frontier in a Train after it")
    if not 0 < end <= 1:
        raise CompileError(where, f"end must be a share of the epochs above 0 and up to 1, not {end:g}")
