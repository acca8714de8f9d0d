"""`Train`: the pass that trains weights and widths together, towards a budget; knows how, and neither layers nor formats."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..ir.errors import CompileError
from .cost import Price, ebops, prices, refit, resource, total, widths
from .engines import TorchEngine
from .layers import is_quantized, layers, prepare, quantizers
from .native_engine import NativeEngine
from .pipeline import Point, Work
from .quantize import calibrate
from .quantizers import ActivationQuantizer

__all__ = ["During", "Train"]


_GAIN = 80.0
"""How fast the resource term follows: at a cost e times too high, by this power of e over the whole training."""

_LEAD = 8.0
"""How much more of it there is at once at a cost that is too high, as a power of the ratio."""

_REFIT = 0.2
"""The solver is asked again when the cost has changed by this logarithm, and ten times in a training anyway."""

_AIM = 0.97
"""Of the budget: where training aims, so that it ends below it."""


class During:
    """What goes along with training: called before the first step and after each epoch. Methods of pruning derive from it."""

    def start(self, work: Work, total_epochs: int) -> None:
        """Before the first epoch."""

    def epoch(self, work: Work, epoch: int, total_epochs: int) -> None:
        """After each epoch, from 1."""


@dataclass(frozen=True)
class Train:
    """Train a module, quantized or not.

    `epochs` over the data in batches of `batch`, by Adam with learning rate `lr` (`lr_bits` for trained widths), falling to zero
    along a cosine, or "constant". `cost`: what trained widths cost, "lut" (the compiler's shift-add networks, their prices set
    anew by the solver as the network changes) or "ebops". Its weight in the loss is `beta`; or, with a `budget`, whatever makes
    the cost fall to the budget by the time `reach` of the epochs are over, and stay there; if `strict`, one that is not reached
    is an error. From `hold` of the epochs on widths stay as they are, and weights settle in them. `frontier`: keep every
    network on the way that none before beats, in `Result.points`. `engine`: "native", a generated training step where there
    is one for the module, "torch", or "auto".
    `during`: methods that act between epochs, as gradual pruning.

    Raises `CompileError` for a loss that is not finite, a layer that loses all its weights, and a budget that is not reached.
    """

    epochs: int
    batch: int = 1024
    lr: float = 3e-3
    lr_bits: float | None = None
    schedule: str = "cosine"
    cost: str = "lut"
    beta: float = 0.0
    budget: float | None = None
    strict: bool = True
    reach: float = 0.6
    hold: float = 0.85
    weight_decay: float = 0.0
    frontier: bool = False
    engine: str = "auto"
    during: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lr", "lr_bits", "reach", "hold", "beta", "weight_decay"):
            value, least = getattr(self, name), name in ("beta", "weight_decay")
            if value is not None and not (math.isfinite(value) and (value >= 0 if least else value > 0)):
                raise CompileError("Train", f"{name} must be {'0 or more' if least else 'positive'}, not {value}")
        if max(self.reach, self.hold) > 1:
            raise CompileError("Train", f"reach and hold are shares up to 1, not {self.reach} and {self.hold}")
        for name in ("epochs", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise CompileError("Train", f"{name} must be a whole number from 1 on, not {getattr(self, name)}")
        choices = {"schedule": ("cosine", "constant"), "cost": ("lut", "ebops"), "engine": ("auto", "native", "torch")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise CompileError("Train", f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.budget is not None and not self.budget > 0:
            raise CompileError("Train", f"budget must be positive, not {self.budget}")

    def apply(self, work: Work) -> None:
        prepare(work.module)
        self._check_priced(work)
        state = work.progress or State.fresh(work, self)
        work.progress = state
        for method in self.during if state.epoch == 0 else ():
            method.start(work, self.epochs)
        for guide in work.guides:
            guide.follow(work.module)
        engine = _engine(self, work)  # after the methods, which may put masks on
        work.say(f"Train: {engine.computed}")
        while state.epoch < self.epochs:
            if state.epoch >= self.hold * self.epochs:
                snap(work.module)
            engine.epoch(state, work)
            state.epoch += 1
            for method in self.during:
                method.epoch(work, state.epoch, self.epochs)
            after_epoch(self, state, work, engine)
            work.save(False)
        engine.finish()
        settle(work)
        if self.budget is not None and self.strict:
            check_budget(self.budget, work, self.cost)

    def _check_priced(self, work: Work) -> None:
        """A budget, and a price of widths, move trained widths alone."""
        trained = any(q.format.trained for _, q in quantizers(work.module))
        if self.beta and not trained:
            work.say("Train: beta has no effect, since no width is trained")
        if self.budget is None or trained or (self.during and is_quantized(work.module)):
            return
        kind = "all of this network's are fixed" if is_quantized(work.module) else "a float network has none"
        fix = "put Quantize with opt.learned(...) before, or prune with Constrain"
        raise CompileError("Train", f"a budget needs trained widths, and {kind}", fix)

    def rates(self, epoch: int, step: int, steps: int) -> tuple[float, float]:
        """Learning rates of weights and of widths at a step."""
        share = (epoch + step / max(steps, 1)) / self.epochs
        bits = self.lr if self.lr_bits is None else self.lr_bits
        if self.schedule == "constant":
            return self.lr, bits * (share < self.hold)
        return self.lr * max(_cosine(share), 1e-3), bits * _cosine(share / self.hold)


def _cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1 and after."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@dataclass(eq=False)
class State:
    """Where training is: saved in checkpoints."""

    epoch: int = 0
    beta: float = 0.0
    strength: float = 0.0
    start_cost: float | None = None
    share: float = 0.0
    smallest: float = math.inf
    solved_at: float = 1e-9
    prices: dict[str, Price] = field(default_factory=dict[str, Price])
    optimizer: Any = None
    losses: list[float] = field(default_factory=list[float])

    @classmethod
    def fresh(cls, work: Work, options: Train) -> State:
        """At the start of training."""
        return cls(beta=options.beta, prices=prices(work.module, options.cost) if is_quantized(work.module) else {})

    def steer(self, options: Train, cost: float, share: float) -> None:
        """Set the strength of the resource term for the next `share` of an epoch: more of it where the cost is above where it
        should be by now, less below."""
        if options.budget is None:
            return
        if self.start_cost is None:
            self.start_cost = max(cost, options.budget)
            self.strength = math.log(self.beta or 0.01 / max(cost, 1.0))
        self.share += share / options.epochs
        aim = self.start_cost * (_AIM * options.budget / self.start_cost) ** min(self.share / options.reach, 1.0)
        error = math.log(max(cost, 1.0) / aim)
        self.strength += max(min(_GAIN * share / options.epochs * error, 0.3), -0.3)
        self.beta = math.exp(self.strength + max(min(_LEAD * error, 1.5), -1.5))


def _engine(options: Train, work: Work) -> Any:
    if options.engine != "torch":
        found = NativeEngine.try_for(options, work)
        if not isinstance(found, str):
            return found
        if options.engine == "native":
            raise CompileError("Train", f"no training step is generated here: {found}", "use engine='auto'")
    return TorchEngine(options, work)


# ---- between epochs ---------------------------------------------------------------------------------------------------


def after_epoch(options: Train, state: State, work: Work, engine: Any) -> None:
    if not math.isfinite(state.losses[-1]):
        rule = f"the loss is not finite in epoch {state.epoch}"
        raise CompileError("Train", rule, f"lower the learning rate (lr={options.lr:g}) or look for bad events")
    if state.prices:
        _refuse_collapse(options, state, work.module)
    said = f"epoch {state.epoch} of {options.epochs}: loss {state.losses[-1]:.4f}"
    if state.prices and (options.beta > 0 or options.budget is not None or options.frontier):  # else nobody asks
        said += f", {_price(options, state, work, engine):,.0f} {options.cost.upper()}"
    if state.epoch % max(options.epochs // 10, 1) == 0:
        work.say(f"Train: {said}")
    if not state.prices:
        return
    for _, q in quantizers(work.module):
        if isinstance(q, ActivationQuantizer) and q.tracked and state.epoch < options.epochs:
            q.forget_range()


def _price(options: Train, state: State, work: Work, engine: Any) -> float:
    """What the network costs; the solver is asked again where it has changed, and it is kept where it is on the frontier."""
    with torch.no_grad():
        cost = float(resource(work.module, state.prices))
    moved = abs(math.log(max(cost, 1.0) / max(state.solved_at, 1.0))) > _REFIT
    if options.cost == "lut" and (moved or state.epoch % max(options.epochs // 10, 1) == 0):
        state.prices = refit(work.module, state.prices)
        with torch.no_grad():
            cost = state.solved_at = float(resource(work.module, state.prices))
    state.smallest = min(state.smallest, cost)
    if options.frontier:
        _keep(work, state.epoch, cost, engine.score(work))
    return cost


def _refuse_collapse(options: Train, state: State, module: nn.Module) -> None:
    """A layer without weights or inputs says nothing of the event; with a budget, the smallest network before that is named."""
    for name, layer in layers(module):
        b, c = widths(layer)
        if not bool((b > 0).any()) or not bool((c > 0).any()):
            what = "weights" if not bool((b > 0).any()) else "inputs"
            rule = f"all its {what} have lost their bits in epoch {state.epoch}"
            if options.budget is None:
                raise CompileError(f"Train, layer {name}", rule, "lower beta or lr_bits, or train longer")
            if math.isfinite(state.smallest):
                least = f"{state.smallest:.0f} {options.cost.upper()}"
                rule += f" on the way to a budget of {options.budget:g}; before, {least} was the smallest"
            raise CompileError(f"Train, layer {name}", rule, "raise the budget, lower lr_bits, or train longer")


def snap(module: nn.Module) -> None:
    """Put trained weights in the middle of what rounds to the same: those that stay between two steps would change between
    them to the end (Nagel et al., arXiv:2203.11086)."""
    with torch.no_grad():
        for _, layer in layers(module):
            for values, q in ((layer.weight, layer.weight_quantizer), (layer.bias, layer.bias_quantizer)):
                if values is not None and q is not None and q.format.trained:
                    values.copy_(q(values))


def _keep(work: Work, epoch: int, cost: float, score: float) -> None:
    """Remember the network if none that costs as little is as good."""
    if any(p.score >= score and p.cost <= cost for p in work.points):
        return
    kept = [p for p in work.points if not (p.score <= score and p.cost >= cost)]
    work.points[:] = [*kept, Point(score, cost, epoch, copy.deepcopy(work.module))]


def check_budget(budget: float, work: Work, cost: str) -> None:
    """Refuse a network above its budget, in LUTs by the solver or in EBOPs."""
    found = ebops(work.module) if cost == "ebops" else total(work.module)
    if found > budget * 1.05:
        rule = f"the budget of {budget:g} {cost.upper()} was not reached: {found:.0f} is the smallest that was"
        raise CompileError("Train", rule, "train longer, raise lr_bits or the budget, or keep it (strict=False)")


def settle(work: Work) -> None:
    """See the ranges of activations anew on all the training data, so that what is tracked is what there is."""
    if any(isinstance(q, ActivationQuantizer) for _, q in quantizers(work.module)):
        calibrate(work.module, work.task.sample if work.task.x is None else work.task.x)
