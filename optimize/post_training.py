"""`PostTraining`: a trained float network into fixed point without training it again; knows no label and no epoch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import LUT, Price, layer_cost, solved, total
from .formats import Spec, fixed, learned
from .layers import Weighted, activation_axis, hooked, layers, quantizers
from .pipeline import Work
from .quantize import quantize
from .quantizers import FRACTION_LIMIT, ActivationQuantizer, WeightQuantizer, exp2
from .task import predict, run

__all__ = ["PostTraining"]

RANGES = ("minmax", "percentile", "mse")
ROUNDINGS = ("nearest", "adaptive")

_FINER = 4
"""Ranges that are tried: each half of the one before."""

_STRETCH = (-0.1, 1.1)
"""The sigmoid of adaptive rounding reaches 0 and 1 (AdaRound, eq. 23)."""

_BATCH, _RATE, _WARM_UP, _DECIDE = 256, 1e-2, 0.2, 1.0
"""Of adaptive rounding: events and rate of a step, when the term that makes it decide sets in, and the weight of that."""

_SENSITIVITY = 1024
"""Events on which the price of a bit is measured."""

_SHARE = 0.25
"""Of the bits that could go, those that go before prices are measured anew."""


@dataclass(frozen=True)
class PostTraining:
    """Quantize a trained network: ranges, widths, rounding and biases from some unlabelled events.

    `bits` of weights, `activations` of data (the same, if not given), with a power-of-two range per weight channel and one for each
    layer's data. `ranges`: "minmax" clips nothing; "mse" clips where that lowers the mean squared error; "percentile" lets
    `percentile` % of the data magnitudes pass (weights as for "mse"). `rounding`: "nearest", or "adaptive": up or down as the
    layer's output is best reconstructed, in `steps` of Adam a layer (AdaRound, Nagel et al., arXiv:2004.10568).
    `bias_correction`: the mean shift of each layer's outputs goes into its bias (Nagel et al., arXiv:1906.04721).

    `budget`: LUTs by the solver, products of data and tables included, as `measures` counts them. Widths of weight channels and of
    the data of each layer and function then go down to `lowest` where the outputs change least per LUT saved, until it is met.
    `events`: how many training events all of this sees.

    The widths stay trainable, so that `Train` may follow. Raises `CompileError` for a network that is quantized already, and for a
    budget below what `lowest` bits cost, with that cost, unless `strict` is off.
    """

    bits: int = 8
    activations: int | None = None
    ranges: str = "mse"
    percentile: float = 99.9
    rounding: str = "adaptive"
    bias_correction: bool = True
    budget: float | None = None
    strict: bool = True
    lowest: int = 2
    events: int = 4096
    steps: int = 1000

    def __post_init__(self) -> None:
        for name, known in {"ranges": RANGES, "rounding": ROUNDINGS}.items():
            if getattr(self, name) not in known:
                rule = f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                raise CompileError("PostTraining", rule)
        if not 0 < self.percentile <= 100:
            raise CompileError("PostTraining", f"percentile must be above 0 and at most 100, not {self.percentile}")
        if not 2 <= self.lowest <= min(self.bits, self.data_bits):
            rule = (
                f"lowest must be from 2 to the {min(self.bits, self.data_bits)} bits to start from, not {self.lowest}"
            )
            raise CompileError("PostTraining", rule)
        for name in ("events", "steps"):
            if getattr(self, name) < 1:
                raise CompileError("PostTraining", f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.budget is not None and not self.budget > 0:
            raise CompileError("PostTraining", f"budget must be positive, not {self.budget}")

    @property
    def data_bits(self) -> int:
        """Bits of the data."""
        return self.bits if self.activations is None else self.activations

    def tried(self, bits: int) -> range:
        """Widths that may be taken where `bits` is the widest."""
        return range(bits if self.budget is None else self.lowest, bits + 1)

    def apply(self, work: Work) -> None:
        if any(True for _ in quantizers(work.module)):
            raise CompileError("PostTraining", "the network is quantized already", "use it on a float network")
        x = work.task.sample[: self.events]
        spec = Spec(learned(self.bits, per="channel"), learned(self.bits), fixed(self.data_bits, range="learned"))
        module = quantize(work.module, spec, x).eval()
        exact = _exact(module)
        with torch.no_grad():
            widths = _Widths(module, exact, x, self)
            if self.budget is not None:
                _meet(self, self.budget, widths, exact, x[:_SENSITIVITY], work)
        for name, layer in layers(module):
            if self.rounding == "adaptive":
                nearest = layer.weight.detach().clone()
                seen, wanted = _at(module, name, x)[0], _at(exact, name, x)[1]
                _round(layer, exact.get_submodule(name), seen, wanted, widths.weights[name], self, work)
                if self.budget is not None and widths.cost(name) > self.budget:
                    layer.weight.data.copy_(nearest)
                    widths.cost(name)
            _set_bias(layer, self.bias_correction)
            if self.bias_correction:
                _correct(module, exact, name, x)
        work.module = module


# ---- the float network beside it --------------------------------------------------------------------------------------


def _exact(module: nn.Module) -> nn.Module:
    """A copy that computes without quantizers; its layers have the same names."""
    found = copy.deepcopy(module)
    for name, _ in list(quantizers(found)):
        parent, _, last = name.rpartition(".")
        setattr(found.get_submodule(parent), last, nn.Identity())
    return found


def _at(module: nn.Module, name: str, x: Any) -> tuple[Tensor, Tensor]:
    """A layer's input and output when the module runs."""
    found: list[tuple[Tensor, Tensor]] = []

    def seen(m: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        found.append((args[0], y))

    with hooked([module.get_submodule(name).register_forward_hook(seen)]):
        predict(module, x)
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])


def _values(layer: nn.Module) -> Tensor:
    """A float layer's weights after its mask."""
    assert isinstance(layer, Weighted)
    return layer.masked_weight().detach()


# ---- ranges and widths ------------------------------------------------------------------------------------------------


def _weight_grid(values: Tensor, coarsest: Tensor, bits: int, ranges: str) -> tuple[Tensor, Tensor]:
    """(fraction bits, integers) of weights in `bits`, sign included; at the `coarsest` fraction nothing is clipped."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for k in range(1 if ranges == "minmax" else _FINER):
        fraction = (coarsest + k).clamp(-FRACTION_LIMIT, FRACTION_LIMIT)
        n = torch.round(values * exp2(fraction)).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        found.append(((n * exp2(-fraction) - values).square().sum_to_size(fraction.shape), fraction, n))
    error, fraction, n = found[0]
    for other, finer, m in found[1:]:
        better = other < error
        error, fraction = torch.where(better, other, error), torch.where(better, finer, fraction)
        n = torch.where(better, m, n)
    empty = n.abs().sum_to_size(fraction.shape) == 0
    return torch.where(empty, torch.zeros_like(fraction), fraction), n


def _data_range(x: Tensor, q: ActivationQuantizer, bits: int, options: PostTraining) -> float:
    """Integer bits of data in `bits`; the quantizer's own hold all of the data."""
    signed, top = bool(q.signed), float(q.integer.max())
    tried = [top - k for k in range(_FINER)]
    if options.ranges == "minmax":
        return top
    if options.ranges == "percentile":
        size = x.abs().flatten()
        limit = float(size.kthvalue(max(math.ceil(len(size) * options.percentile / 100), 1)).values)
        return min((t for t in tried if 2.0**t >= limit), default=top)

    def error(integer: float) -> float:
        step = 2.0 ** (integer - bits + signed)
        n = torch.floor(x / step + 0.5)
        kept = (n * step).clamp(-(2.0**integer) if signed else 0.0, 2.0**integer - step)
        return float((kept - x).square().mean())

    return min(tried, key=error)


class _Widths:
    """Bits of each weight channel, and of the data of each layer and function, in a module; and the grids that it has at each.

    `data` is by the name of what quantizes: a layer, or a quantizer beside a function of data.
    """

    def __init__(self, module: nn.Module, exact: nn.Module, x: Any, options: PostTraining) -> None:
        self.module, self.options = module, options
        self.weights: dict[str, Tensor] = {}
        self.data: dict[str, int] = {}
        self._grids: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        self._ranges: dict[nn.Module, dict[int, float]] = {}
        self._costs: dict[str, float] = {}
        for name, layer in layers(module):
            assert layer.weight_quantizer is not None
            start, values = layer.weight_quantizer.fraction.clone(), _values(exact.get_submodule(name))
            self._grids[name] = {
                b: _weight_grid(values, start + b - options.bits, b, options.ranges)
                for b in options.tried(options.bits)
            }
            self.weights[name] = torch.full_like(start, options.bits)
            self.data[name] = options.data_bits
            self._put_weights(name, layer)
        self._see(x)
        of_layers = {layer.input_quantizer for _, layer in layers(module)}
        beside = {name: q for name, q in quantizers(module) if q in self._ranges and q not in of_layers}
        self.data |= dict.fromkeys(beside, options.data_bits)

    def _see(self, x: Any) -> None:
        """Set the range of all data, each with what is before it quantized already."""

        def seen(q: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert isinstance(q, ActivationQuantizer)
            bits = self.options.tried(self.options.data_bits)
            found = {b: _data_range(given[0], q, b, self.options) for b in bits}
            before = self._ranges.get(q, found)  # a layer that is called again
            self._ranges[q] = {b: max(found[b], before[b]) for b in bits}
            q.integer.fill_(self._ranges[q][self.options.data_bits])

        own = [
            q for _, q in quantizers(self.module) if isinstance(q, ActivationQuantizer) and q.format.range == "learned"
        ]
        with hooked(q.register_forward_pre_hook(seen) for q in own):
            run(self.module, x)

    def _put_weights(self, name: str, layer: Weighted) -> None:
        assert layer.weight_quantizer is not None
        bits = self.weights[name]
        fraction, n = self._grids[name][self.options.bits]
        for b, (f, m) in self._grids[name].items():
            fraction, n = torch.where(bits == b, f, fraction), torch.where(bits == b, m, n)
        layer.weight_quantizer.fraction.copy_(fraction)
        layer.weight.copy_(n * exp2(-fraction))

    def put(self, name: str) -> None:
        """Make the layer, or the quantizer beside a function, compute with the widths as they are."""
        part, bits = self.module.get_submodule(name), self.data[name]
        if isinstance(part, Weighted):
            self._put_weights(name, part)
        q = part.input_quantizer if isinstance(part, Weighted) else part
        assert isinstance(q, ActivationQuantizer)
        q.format = replace(q.format, bits=bits)
        q.integer.fill_(self._ranges[q][bits])
        self._costs.pop(name, None)

    def lower(self, name: str, group: int | None, by: int = 1) -> None:
        """A weight channel, or the data, by a bit."""
        if group is None:
            self.data[name] -= by
        else:
            self.weights[name].view(-1)[group] -= by
        self.put(name)

    def lowered(self) -> list[tuple[str, int | None]]:
        """What can lose a bit yet."""
        least = self.options.lowest
        found: list[tuple[str, int | None]] = [(name, None) for name, bits in self.data.items() if bits > least]
        for name, bits in self.weights.items():
            found += [(name, int(g)) for g in torch.nonzero(bits.flatten() > least)]
        return found

    def cost(self, changed: str = "") -> float:
        """LUTs of the network by the solver; `changed`: a layer that has other weights now."""
        self._costs.pop(changed, None)
        return total(self.module, self._solved)

    def _solved(self, name: str, layer: Weighted) -> float:
        if name not in self._costs:
            self._costs[name] = solved(layer)
        return self._costs[name]

    def price(self, name: str, by: dict[str, Price]) -> float:
        """What the layer costs at its price; of the data of functions, what all functions cost."""
        part = self.module.get_submodule(name)
        return float(layer_cost(part, by[name])) if isinstance(part, Weighted) else total(self.module, lambda *_: 0.0)

    def prices(self) -> dict[str, Price]:
        """What a bit costs in each layer, so that the layer costs what the solver says."""
        self.cost()
        priced = {name: float(layer_cost(layer, LUT)) for name, layer in layers(self.module)}
        return {name: LUT.times(self._costs[name] / max(p, 1.0)) for name, p in priced.items()}


# ---- widths for a budget ----------------------------------------------------------------------------------------------


def _meet(options: PostTraining, budget: float, widths: _Widths, exact: nn.Module, x: Any, work: Work) -> None:
    """Take bits away, in rounds of the cheapest, until the solver counts at most `budget` LUTs."""
    while widths.cost() > budget:
        steps = _steps(widths, x, run(exact, x), work.task.kind)
        if not steps and not options.strict:
            return
        if not steps:
            rule = f"the budget of {budget:g} LUT is not reached: {widths.cost():.0f} is the smallest that was"
            fix = "raise the budget, lower `lowest`, or prune first"
            raise CompileError("PostTraining", rule, fix)
        steps = steps[: max(round(len(steps) * _SHARE), 1)]
        _as_many_as_needed(steps, budget, widths)
        work.say(f"widths: {widths.cost():.0f} LUT")


def _as_many_as_needed(steps: list[tuple[str, int | None]], budget: float, widths: _Widths) -> None:
    """All of the steps, or the first of them that meet the budget, by bisection."""
    taken, fewest, most = 0, 0, len(steps)

    def take(count: int) -> None:
        nonlocal taken
        for step in steps[taken:count]:
            widths.lower(*step)
        for step in steps[count:taken]:
            widths.lower(*step, -1)
        taken = count

    take(most)
    if widths.cost() > budget:
        return
    while most - fewest > 1:
        middle = (fewest + most) // 2
        take(middle)
        fewest, most = (fewest, middle) if widths.cost() <= budget else (middle, most)
    take(most)


def _steps(widths: _Widths, x: Any, wanted: Tensor, kind: str) -> list[tuple[str, int | None]]:
    """What can lose a bit, the cheapest first.

    The price is how much farther the outputs are from the float network's without the bit, and how far they move at all,
    per LUT that is saved. The first alone makes bits look free whose errors happen to cancel with others.
    """
    by, now = widths.prices(), run(widths.module, x)
    base = _distance(now, wanted, kind)
    priced: list[tuple[float, tuple[str, int | None]]] = []
    for name, group in widths.lowered():
        before = widths.price(name, by)
        widths.lower(name, group)
        saved, outputs = before - widths.price(name, by), run(widths.module, x)
        lost = _distance(outputs, wanted, kind) - base + _distance(outputs, now, kind)
        priced.append((lost / max(saved, 0.1), (name, group)))
        widths.lower(name, group, -1)
    return [step for _, step in sorted(priced, key=lambda p: p[0])]


def _distance(outputs: Tensor, wanted: Tensor, kind: str) -> float:
    """How far outputs are from others: the divergence of classes' probabilities, or the mean square."""
    if kind != "cross_entropy":
        return float(F.mse_loss(outputs, wanted))
    p, q = torch.log_softmax(outputs, -1), torch.log_softmax(wanted, -1)
    return float(F.kl_div(p, q, log_target=True, reduction="batchmean"))


# ---- rounding and biases ----------------------------------------------------------------------------------------------


def _round(
    layer: Weighted, exact: nn.Module, x: Tensor, y: Tensor, bits: Tensor, options: PostTraining, work: Work
) -> None:
    """Round each weight up or down so that the layer's outputs are nearest to the float layer's `y`.

    As AdaRound, with the error relative to that of rounding to nearest. `x`: the layer's inputs before their quantizer. What is
    no better than rounding to nearest is not taken.
    """
    assert isinstance(exact, Weighted)
    assert layer.weight_quantizer is not None
    assert layer.input_quantizer is not None
    with torch.no_grad():
        x, values = layer.input_quantizer(x), _values(exact)
        step = exp2(-layer.weight_quantizer.fraction.detach())
        lowest, highest = -exp2(bits - 1), exp2(bits - 1) - 1
        down = torch.floor(values / step)
        part = (values / step - down - _STRETCH[0]) / (_STRETCH[1] - _STRETCH[0])
    free = torch.logit(part).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=_RATE)
    bias = None if exact.bias is None else exact.bias.detach()

    def error(up: Tensor, inputs: Tensor, wanted: Tensor) -> Tensor:
        w = (down + up).clamp(lowest, highest) * step
        w = w if layer.mask is None else layer.mask(w)
        return (layer.compute(inputs, w, bias) - wanted).square().mean()

    nearest = torch.round(values / step) - down
    with torch.no_grad():
        unit = float(error(nearest, x, y))
    if unit == 0:
        return
    random = work.generator()
    for k in range(options.steps):
        some = torch.randint(len(x), (min(_BATCH, len(x)),), generator=random)
        up = (torch.sigmoid(free) * (_STRETCH[1] - _STRETCH[0]) + _STRETCH[0]).clamp(0, 1)
        loss = error(up, x[some], y[some]) / unit
        if k >= options.steps * _WARM_UP:
            left = 1 - (k / options.steps - _WARM_UP) / (1 - _WARM_UP)
            loss = loss + _DECIDE * (1 - (2 * up - 1).abs().pow(2 + 18 * left)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        up = (torch.sigmoid(free) > 0.5).to(values.dtype)
        if float(error(up, x, y)) < unit:
            layer.weight.copy_((down + up).clamp(lowest, highest) * step)


def _set_bias(layer: Weighted, correct: bool) -> None:
    """Biases lie on the grid of the layer's products, which costs no further bits; a layer without may need one."""
    data, weight = layer.input_quantizer, layer.weight_quantizer
    assert data is not None
    assert weight is not None
    if layer.bias is None and not correct:
        return
    with torch.no_grad():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(_channels(layer)))
            layer.bias_quantizer = WeightQuantizer(learned(), layer.bias)
        own = torch.round(weight.fraction).flatten()
        own = own if len(own) == len(layer.bias) else own.max().expand_as(layer.bias)
        assert layer.bias_quantizer is not None
        fraction = own + data.fraction_bits().max()
        layer.bias_quantizer.fraction.copy_(fraction.clamp(-FRACTION_LIMIT, FRACTION_LIMIT))


def _channels(layer: Weighted) -> int:
    return layer.weight.shape[layer.channel_axis] * (int(getattr(layer, "groups", 1)) if layer.channel_axis else 1)


def _correct(module: nn.Module, exact: nn.Module, name: str, x: Any) -> None:
    """The mean by which a layer's outputs have shifted goes into its bias."""
    layer = module.get_submodule(name)
    assert isinstance(layer, Weighted)
    assert layer.bias is not None
    shift = _at(exact, name, x)[1] - _at(module, name, x)[1]
    axis = activation_axis(layer) % (shift.ndim - 1) + 1
    with torch.no_grad():
        layer.bias.add_(shift.mean([i for i in range(shift.ndim) if i != axis]))
