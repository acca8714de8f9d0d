"""Which weights a network can do without: scores, hardware's patterns, and the passes that set them to zero; trains nothing.

A recipe is a score, a pattern, a scope and a schedule, each chosen on its own:

    Pipeline([Prune(0.8), Train(20)]).run(net, task)                             # the smallest 80 % of all weights, then recover
    Pipeline([Train(30, during=(Gradual(Prune(0.9)),))])                         # more and more of them while it trains
    Pipeline([Prune(0.5, score="activation", pattern=Multipliers(reuse=8))])     # whole multipliers of a folded matrix

Weights that are gone stay gone: a later pass counts them in its amount and takes more. Biases are not pruned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..codegen.schedule import folding
from ..hw_targets import load_target
from ..ir.errors import CompileError
from .layers import Affine, Mask, Weighted, prepare
from .pipeline import Work
from .task import run
from .train import During

__all__ = [
    "SCOPES", "SCORES", "DspWords", "Gradual", "MemoryWords", "Multipliers", "NofM", "Pattern", "Prune", "Unstructured",
    "choose", "kept_of", "least", "prunable", "rows", "scores", "set_masks", "sparsity",
]  # fmt: skip

SCOPES = {
    "global": "weights of all layers are compared",
    "layer": "every layer loses the same share",
    "output": "every output of a layer loses the same share, as in Wanda",
}

Weights = Mapping[str, Weighted]


def prunable(module: nn.Module, only: tuple[str, ...] = ()) -> dict[str, Weighted]:
    """The dense and convolution layers by name, all or `only` some, each with a `Mask`.

    Raises `CompileError` for a name that is no such layer, and for a layer whose mask is still being trained.
    """
    found = {name: m for name, m in prepare(module) if not isinstance(m, Affine)}
    for name in only:
        if name not in found:
            rule = f"no dense or convolution layer is called '{name}'"
            raise CompileError("prune layers", rule, f"layers: {', '.join(found)}")
    if not found:
        raise CompileError(type(module).__name__, "has no dense or convolution layer to be pruned")
    chosen = {name: found[name] for name in only} if only else found
    for name, m in chosen.items():
        if m.mask is None:
            m.mask = Mask(torch.ones_like(m.weight))
        if not isinstance(m.mask, Mask):
            raise CompileError(
                name, f"its {type(m.mask).__name__} is being trained", "prune when that training has ended"
            )
    return chosen


def sparsity(layers: Weights) -> float:
    """The share of weights that masks have taken away."""
    kept = sum(float(kept_of(m).sum()) for m in layers.values())
    return 1 - kept / sum(m.weight.numel() for m in layers.values())


def kept_of(m: Weighted) -> Tensor:
    """1 for each weight that is there, in the weight's shape."""
    return m.mask.keep if isinstance(m.mask, Mask) else torch.ones_like(m.weight)


def set_masks(layers: Weights, keep: Mapping[str, Tensor]) -> None:
    """Take the weights away where `keep` is 0."""
    with torch.no_grad():
        for name, m in layers.items():
            kept_of(m).copy_(keep[name])


# ---- scores -------------------------------------------------------------------------------------------------------------


def _magnitude(work: Work, layers: Weights, events: int) -> dict[str, Tensor]:
    return {name: m.weight.detach().abs() for name, m in layers.items()}


def _random(work: Work, layers: Weights, events: int) -> dict[str, Tensor]:
    generator = work.generator(1)
    return {name: torch.rand(m.weight.shape, generator=generator) for name, m in layers.items()}


def _taylor(work: Work, layers: Weights, events: int) -> dict[str, Tensor]:
    module, names = _scored(work.module), list(layers)
    own: dict[str, Any] = dict(module.named_modules())
    weights: list[Tensor] = [own[name].weight for name in names]
    total = [torch.zeros_like(w) for w in weights]
    for x, y in _some(work, events):
        loss = work.task.loss_of(run(module, x), y)
        gradients = torch.autograd.grad(loss, weights)
        total = [t + g * len(x) for t, g in zip(total, gradients)]
    return {name: (w.detach() * t).abs() for name, w, t in zip(names, weights, total)}


def _activation(work: Work, layers: Weights, events: int) -> dict[str, Tensor]:
    module = _scored(work.module)
    own: dict[str, Any] = dict(module.named_modules())
    squares: dict[str, Tensor] = {}

    def see(name: str, m: Any) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0] if m.input_quantizer is None else m.input_quantizer(args[0])
            axis = 1 if m.weight.ndim > 2 else x.ndim - 1
            squares[name] = squares.get(name, 0.0) + x.square().sum([i for i in range(x.ndim) if i != axis])

        return hook

    for name in layers:
        own[name].register_forward_pre_hook(see(name, own[name]))
    with torch.no_grad():
        for x, _ in _some(work, events):
            run(module, x)
    missing = next((name for name in layers if name not in squares), None)
    if missing is not None:
        raise CompileError(missing, "is not called when the module runs, so that its inputs are not known")
    return {name: m.weight.detach().abs() * _per_weight(m, squares[name].sqrt()) for name, m in layers.items()}


def _per_weight(m: Any, inputs: Tensor) -> Tensor:
    """What each input has, at the weights that multiply it."""
    rest = [1] * (m.weight.ndim - 2)
    if m.channel_axis == 1:
        return inputs.reshape(-1, 1, *rest)
    groups = int(getattr(m, "groups", 1))
    return (
        inputs.reshape(groups, -1).repeat_interleave(m.weight.shape[0] // groups, 0).reshape(*m.weight.shape[:2], *rest)
    )


SCORES: dict[str, Callable[[Work, Weights, int], dict[str, Tensor]]] = {
    "magnitude": _magnitude,
    "taylor": _taylor,
    "activation": _activation,
    "random": _random,
}
"""What a weight is worth: |w|; |w dL/dw| (Molchanov et al., arXiv:1906.10771); |w| times the norm of its input (Wanda,
arXiv:2306.11695); nothing (the baseline)."""


def scores(work: Work, layers: Weights, kind: str = "magnitude", events: int = 8192) -> dict[str, Tensor]:
    """The worth of every weight, in the weight's shape; `events` of the training data are used where data is needed."""
    return SCORES[kind](work, layers, events)


def _scored(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose quantizers pass gradients on."""
    found = copy.deepcopy(module).eval()
    for m in found.modules():
        if type(m).__name__.endswith("Quantizer"):
            m.train()
    return found


def _some(work: Work, events: int) -> list[tuple[Any, Tensor]]:
    task, found, left = work.task, list[tuple[Any, Tensor]](), events
    order = None if task.x is None else torch.randperm(task.events, generator=work.generator(2))
    for x, y, _ in task.batches(1024, order):
        found.append((x, y))
        left -= len(x)
        if left <= 0:
            break
    return found


# ---- patterns -------------------------------------------------------------------------------------------------------------


class Pattern(Protocol):
    """Which weights go together."""

    def units(self, name: str, layer: Weighted) -> Tensor:
        """The unit of each weight, from 0, in the weight's shape; a unit is kept or taken as a whole."""
        ...


@dataclass(frozen=True)
class Unstructured:
    """Every weight on its own: what unrolled shift-adds (strategies `latency`, `distributed`, and RTL) make use of."""

    def units(self, name: str, layer: Weighted) -> Tensor:
        return torch.arange(layer.weight.numel()).reshape(layer.weight.shape)


@dataclass(frozen=True)
class NofM:
    """At most `n` of `m` neighbouring weights of a row are kept (2:4 on GPUs, arXiv:2104.08378); it sets the amount itself."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise CompileError("NofM", f"n must be from 1 to m - 1, not {self.n} of {self.m}")

    def units(self, name: str, layer: Weighted) -> Tensor:
        return Unstructured().units(name, layer)

    def blocks(self, name: str, layer: Weighted) -> Tensor:
        """The weights of each block by flat index, ``[blocks, m]``, along the rows of the layer's matrix."""
        found = rows(layer)
        if found.shape[1] % self.m:
            rule = f"its rows of {found.shape[1]} weights must be whole blocks of m = {self.m}"
            raise CompileError(f"NofM, layer {name}", rule, "choose an m that divides them, or leave the layer out")
        return found.reshape(-1, self.m)


@dataclass(frozen=True)
class Multipliers:
    """All weights that one multiplier uses in turn, at a reuse factor (Ramhorst et al., arXiv:2308.05170).

    `reuse`: that of strategy `resource`; one number, or one per layer by name. `together`: multipliers whose weights share a
    block of memory, as many as its word has weights; then a unit is a whole memory and its multipliers. The order is that of
    `codegen.hls.matrix.weight_memory`: a word per step, and one multiplier for each place in the word.
    """

    reuse: int | Mapping[str, int] = 1
    together: int = 1

    def units(self, name: str, layer: Weighted) -> Tensor:
        words = _memory(name, layer, _reuse(self.reuse, name))
        return _spread(layer, words, (torch.arange(words.shape[1]) // self.together).expand_as(words))


@dataclass(frozen=True)
class MemoryWords:
    """The weights that lie in one word of a memory: `word_bits` // `weight_bits` of those that one step uses.

    By default the widest word of a block RAM of AMD's (72 bits, UG573). The order is that of `Multipliers`; the last word
    of a step may be shorter.
    """

    weight_bits: int = 8
    word_bits: int = 72
    reuse: int | Mapping[str, int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.weight_bits <= self.word_bits:
            rule = f"weight_bits must be from 1 to word_bits = {self.word_bits}, not {self.weight_bits}"
            raise CompileError("MemoryWords", rule)

    def units(self, name: str, layer: Weighted) -> Tensor:
        words = _memory(name, layer, _reuse(self.reuse, name))
        each = self.word_bits // self.weight_bits
        per_step = -(-words.shape[1] // each)
        step, place = torch.arange(words.shape[0])[:, None], torch.arange(words.shape[1])
        return _spread(layer, words, step * per_step + place // each)


@dataclass(frozen=True)
class DspWords:
    """The weights that one DSP block of `target` multiplies at once with one input: those of neighbouring outputs.

    Products stand side by side in the wide multiplier, each `weight_bits` + `input_bits` wide (AMD WP486 for two of 8 bits).
    """

    target: str = "vu9p"
    weight_bits: int = 8
    input_bits: int = 8

    @property
    def products(self) -> int:
        """How many products a block computes at once; 0 where not even one fits."""
        dsp = load_target(self.target).dsp
        if self.weight_bits > dsp.a_bits or self.input_bits > dsp.b_bits:
            return 0
        return 1 + (dsp.a_bits - self.weight_bits) // (self.weight_bits + self.input_bits)

    def units(self, name: str, layer: Weighted) -> Tensor:
        each = self.products
        if not each:
            dsp = load_target(self.target).dsp
            rule = f"operands must be at most {dsp.a_bits} and {dsp.b_bits} bits wide, not {self.weight_bits} and {self.input_bits}"
            raise CompileError(f"DspWords of {self.target}", rule)
        matrix = rows(layer)
        out, n_in = torch.arange(matrix.shape[0])[:, None], torch.arange(matrix.shape[1])
        return _spread(layer, matrix, out // each * matrix.shape[1] + n_in)


def rows(layer: Any) -> Tensor:
    """Flat indices of the weights as the compiler's matrix ``[outputs, inputs]``: taps before channels, as in im2col."""
    index = torch.arange(layer.weight.numel()).reshape(layer.weight.shape)
    if layer.channel_axis == 1:
        index = index.transpose(0, 1)
    return index.movedim(1, -1).reshape(index.shape[0], -1)


def _reuse(given: int | Mapping[str, int], name: str) -> int:
    return given if isinstance(given, int) else given.get(name, 1)


def _memory(name: str, layer: Any, reuse: int) -> Tensor:
    """Flat indices of the weights in the order of use, ``[steps, multipliers]``, as `weight_memory` lays them out."""
    if layer.channel_axis == 1 or int(getattr(layer, "groups", 1)) != 1:
        rule = (
            f"a {type(layer).__name__.removeprefix('Weighted')} with groups or transposed has another order of weights"
        )
        raise CompileError(f"layer {name}", rule, "leave it out, or prune it unstructured")
    matrix = rows(layer)
    try:
        f = folding(matrix.shape[1], matrix.shape[0], reuse)
    except CompileError as e:
        raise CompileError(f"layer {name}, {e.where}", e.rule, e.fix) from None
    shaped = matrix.reshape(f.groups, f.lanes, f.words, f.steps, f.inputs)
    return shaped.permute(2, 0, 3, 1, 4).reshape(f.reuse, f.multipliers)


def _spread(layer: Weighted, places: Tensor, units: Tensor) -> Tensor:
    """Units that are known at places, in the weight's shape."""
    found = torch.empty(layer.weight.numel(), dtype=torch.long)
    found[places.reshape(-1)] = units.reshape(-1)
    return found.reshape(layer.weight.shape)


# ---- choosing -------------------------------------------------------------------------------------------------------------


def choose(
    worth: Mapping[str, Tensor], layers: Weights, pattern: Pattern, amount: float, scope: str = "global"
) -> dict[str, Tensor]:
    """1 for every weight to keep, by layer: the units of least mean worth go until `amount` of the weights are gone.

    What masks have taken goes first. The best unit of every layer stays, since nothing passes a layer without weights.
    Raises `CompileError` where the amount cannot be reached for that reason.
    """
    if isinstance(pattern, NofM):
        return {name: _of_m(worth[name] * kept_of(m), pattern.blocks(name, m), pattern.n) for name, m in layers.items()}
    if scope == "output" and not isinstance(pattern, Unstructured):
        raise CompileError(
            "Prune", "scope 'output' compares single weights, which units of a pattern are not", "use 'layer'"
        )
    units = {name: pattern.units(name, m).reshape(-1) for name, m in layers.items()}
    value, size = dict[str, Tensor](), dict[str, Tensor]()
    for name, m in layers.items():
        size[name] = torch.bincount(units[name]).double()
        kept = kept_of(m).reshape(-1)
        mean = torch.bincount(units[name], (worth[name].reshape(-1) * kept).double()) / size[name]
        there = torch.bincount(units[name], kept.double()) > 0
        mean = torch.where(there, mean, -1.0)
        mean[mean.argmax()] = math.inf
        value[name] = mean
    if scope == "global":
        each = [len(v) for v in value.values()]
        gone = least(torch.cat([*value.values()]), torch.cat([*size.values()]), amount, "Prune").split(each)
    elif scope == "layer":
        gone = [least(value[name], size[name], amount, f"Prune, layer {name}") for name in layers]
    else:
        gone = [_of_rows(value[name], rows(m), amount) for name, m in layers.items()]
    found = {name: (~g[units[name]]).float() for name, g in zip(layers, gone)}
    return {name: found[name].reshape(m.weight.shape) * kept_of(m) for name, m in layers.items()}


def least(value: Tensor, size: Tensor, amount: float, where: str) -> Tensor:
    """The units of least value with `amount` of the total size (the nearest that whole units allow)."""
    order = torch.argsort(value, stable=True)
    total = torch.cumsum(size[order], 0)
    free = float(size[~value.isinf()].sum())
    wanted = round(amount * float(total[-1]))
    if wanted > free:
        most = free / float(total[-1])
        rule = f"an amount of {amount:g} cannot be reached: {most:.4g} is the largest that leaves every layer a unit"
        raise CompileError(where, rule, "lower the amount, use smaller units, or shrink the network")
    found = torch.zeros(len(value), dtype=torch.bool)
    count = int(torch.argmin((torch.cat([torch.zeros(1), total.float()]) - wanted).abs()))
    found[order[:count]] = True
    return found & ~value.isinf()


def _of_rows(value: Tensor, matrix: Tensor, amount: float) -> Tensor:
    """The same share of each row."""
    count = round(amount * matrix.shape[1])
    least = value[matrix].argsort(dim=1, stable=True)[:, :count]
    found = torch.zeros(len(value), dtype=torch.bool)
    found[matrix.gather(1, least).reshape(-1)] = True
    return found


def _of_m(worth: Tensor, blocks: Tensor, n: int) -> Tensor:
    best = worth.reshape(-1)[blocks].argsort(dim=1, descending=True, stable=True)[:, :n]
    found = torch.zeros(worth.numel())
    found[blocks.gather(1, best).reshape(-1)] = 1.0
    return found.reshape(worth.shape)


# ---- passes ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prune:
    """Take weights away at once.

    `amount`: share of all weights of the chosen layers that are zero afterwards, from 0 to 1, whole units to the nearest; not
    for `NofM`. `score`: a key of `SCORES`; `events`: how many it looks at. `pattern`: what goes together. `scope`: a key of
    `SCOPES`. `layers`: names; all dense and convolution layers if empty.

    Raises `CompileError` for amounts outside 0 to 1 or out of reach, unknown names, and patterns that a layer does not divide into.
    """

    amount: float | None = None
    score: str = "magnitude"
    pattern: Pattern = field(default_factory=Unstructured)
    scope: str = "global"
    layers: tuple[str, ...] = ()
    events: int = 8192

    def __post_init__(self) -> None:
        for name, known in (("score", SCORES), ("scope", SCOPES)):
            if getattr(self, name) not in known:
                raise CompileError("Prune", f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if isinstance(self.pattern, NofM):
            if self.amount is not None:
                raise CompileError("Prune", f"n:m sets the amount itself, so none can be given, not {self.amount:g}")
        elif not isinstance(self.amount, int | float) or not 0 <= self.amount <= 1:
            raise CompileError("Prune", f"amount must be a share from 0 to 1, not {self.amount!r}", "give 0.8 for 80 %")

    def apply(self, work: Work) -> None:
        layers = prunable(work.module, self.layers)
        worth = scores(work, layers, self.score, self.events)
        set_masks(layers, choose(worth, layers, self.pattern, self.amount or 0.0, self.scope))
        work.say(f"Prune: {sparsity(layers):.1%} of the weights are zero")


@dataclass(frozen=True)
class Gradual(During):
    """Prune along a training, more in each epoch: ``amount * (1 - (1 - t)**3)`` (Zhu & Gupta, arXiv:1710.01878).

    t goes from 0 to 1 between the shares `begin` and `end` of the epochs; afterwards the network recovers.
    """

    prune: Prune
    begin: float = 0.0
    end: float = 0.75

    def __post_init__(self) -> None:
        if self.prune.amount is None:
            raise CompileError("Gradual", "needs a pattern with an amount, which n:m does not have", "prune at once")
        if not 0 <= self.begin < self.end <= 1:
            raise CompileError("Gradual", f"0 <= begin < end <= 1 must hold, not {self.begin:g} and {self.end:g}")

    def start(self, work: Work, total_epochs: int) -> None:
        prunable(work.module, self.prune.layers)  # masks, which the training shall know of

    def epoch(self, work: Work, epoch: int, total_epochs: int) -> None:
        before, now = (self._amount((epoch - k) / total_epochs) for k in (1, 0))
        if now > before:
            replace(self.prune, amount=now).apply(work)

    def _amount(self, share: float) -> float:
        t = min(max((share - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return float(self.prune.amount or 0.0) * (1 - (1 - t) ** 3)
