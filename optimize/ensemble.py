"""Trains networks of one shape as one batched program: which modules can be batched, and how their tensors are stacked.

How one of them is trained is known by `train`, and what its parts compute by `quantizers`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from ..ir.rounding import Overflow
from .chains import NoProgram, dense_chain
from .cost import Price, present, widths
from .fake_quantize import fake_quantize
from .layers import Mask, Weighted, WeightedLinear, layers, prepare
from .pipeline import Result, Work
from .quantizers import FRACTION_LIMIT, ActivationQuantizer, Quantizer, WeightQuantizer, integer_bits_of
from .runs import Outcome
from .task import LOSSES, Task
from .train import State, Train, after_epoch, check_budget, settle, snap

__all__ = ["Ensemble", "Program"]


class Ensemble:
    """K networks of the same shape and formats, their tensors stacked ``[K, ...]``, so that one step trains them all.

    `modules`: chains of dense layers with ReLUs, quantized or not; weights, widths, ranges and masks are each network's own.
    `device`: a GPU where torch has one, else the CPU. Raises `CompileError` for other networks.
    """

    def __init__(self, modules: Sequence[nn.Module], device: str | torch.device | None = None) -> None:
        if not modules:
            raise CompileError("Ensemble", "needs at least one module")
        self.modules = [copy.deepcopy(m) for m in modules]
        chains = [_chain(k, m) for k, m in enumerate(self.modules)]
        _check_alike(chains)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.names = [[name for layer in found for name, m in layers(module) if m is layer[0]]
                      for found, module in zip(chains, self.modules, strict=True)]  # fmt: skip
        columns = list(zip(*chains, strict=True))
        self.layers = nn.ModuleList(_Layer([m for m, _ in c], c[0][1]) for c in columns).to(self.device)
        self.shared = [
            pair for s, c in zip(self.layers, columns, strict=True) for pair in _shared(s, [m for m, _ in c])
        ]

    def train(self, task: Task, options: Train | Sequence[Train], seed: int = 0) -> list[Outcome]:
        """Each network trained as by ``Pipeline([options]).run(module, task, seed)`` with engine "torch", up to float rounding.

        `options`: for all, or one for each network; learning rates, `beta`, `budget` and the rest are its own, but `epochs`
        and `batch` are those of all. A result holds the network and its frontier (no records); a network that fails gives its
        error instead. The modules that were given stay as they are; a second call goes on where the first ended.
        Raises `CompileError` for a task without arrays or with a loss of its own, and for `during`.
        """
        each = [options] * len(self.modules) if isinstance(options, Train) else list(options)
        program, works = self.program(task, each, seed)
        failed: dict[int, Exception] = {}
        for epoch in range(each[0].epochs):
            self._between(works, failed, lambda k, e=epoch: _begun(e, each[k], works[k]))
            self.stack()
            program.epoch(epoch, failed)
            self.unstack()
            self._between(works, failed, lambda k, e=epoch: _ended(e, each[k], works[k]))
        self._between(works, failed, lambda k: _finished(each[k], works[k]))
        return [
            failed.get(k) or Result(copy.deepcopy(w.module).eval(), (), tuple(w.points)) for k, w in enumerate(works)
        ]

    def program(self, task: Task, options: list[Train], seed: int = 0) -> tuple[Program, list[Work]]:
        """What computes losses and steps, and the state of each network."""
        _check_training(len(self.modules), task, options)
        works = [Work(m, task, seed) for m in self.modules]
        for work, o in zip(works, options, strict=True):
            work.progress = State.fresh(work, o)
        return Program(self, task, options, works), works

    def _between(self, works: list[Work], failed: dict[int, Exception], act: Callable[[int], Any]) -> None:
        """Act on every network that has not failed."""
        for k in range(len(works)):
            if k not in failed:
                try:
                    act(k)
                except CompileError as e:
                    failed[k] = e

    def stack(self) -> None:
        """Take the tensors of the modules."""
        with torch.no_grad():
            for stacked, each in self.shared:
                stacked.copy_(torch.stack([t.detach() for t in each]).reshape(stacked.shape))

    def unstack(self) -> None:
        """Give the modules their tensors."""
        with torch.no_grad():
            for stacked, each in self.shared:
                for t, values in zip(each, stacked.cpu(), strict=True):
                    t.copy_(values.reshape(t.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[K, events, outputs]`` of events ``[events, inputs]``, in training."""
        y = x.expand(len(self.modules), *x.shape)
        for layer in self.layers:
            y = layer(y)
        return y

    def costs(self, prices: list[Price]) -> Tensor:
        """The resource term of each network, ``[K]``; prices of each layer as tensors ``[K, 1, 1]``."""
        return torch.stack([_cost(m, p) for m, p in zip(self.layers, prices, strict=True)]).sum(0)  # pyright: ignore[reportArgumentType]


def _ended(epoch: int, options: Train, work: Work) -> None:
    """What `Train` does after an epoch."""
    work.progress.epoch = epoch + 1
    after_epoch(options, work.progress, work, _Score())


def _begun(epoch: int, options: Train, work: Work) -> None:
    """What `Train` does before an epoch."""
    if epoch >= options.hold * options.epochs:
        snap(work.module)


def _finished(options: Train, work: Work) -> None:
    """What `Train` does at its end."""
    settle(work)
    if options.budget is not None and options.strict:
        check_budget(options.budget, work, options.cost)


class _Score:
    def score(self, work: Work) -> float:
        return work.task.evaluate(work.module)


class Program:
    """Epochs of all networks together: the same events in the same order, a loss, a rate and a resource term for each."""

    def __init__(self, ensemble: Ensemble, task: Task, options: list[Train], works: list[Work]) -> None:
        self.ensemble, self.options, self.works, device = ensemble, options, works, ensemble.device
        self.x, self.y, self.kind = task.x.to(device), task.y.to(device), task.kind
        bits = {
            id(p) for m in ensemble.layers.modules() if isinstance(m, Quantizer) for p in m.parameters(recurse=False)
        }
        own = dict(ensemble.layers.named_parameters())
        decay = torch.tensor([o.weight_decay for o in options], device=device)
        none = torch.zeros_like(decay)
        self.weights = _Adam([p for n, p in own.items() if n.endswith("weight")], decay)
        self.biases = _Adam([p for n, p in own.items() if n.endswith("bias")], none)
        self.bits = _Adam([p for p in own.values() if id(p) in bits], none)

    def epoch(self, epoch: int, failed: dict[int, Exception]) -> None:
        """One pass over the data."""
        k, device, batch = len(self.works), self.ensemble.device, self.options[0].batch
        order = torch.randperm(len(self.x), generator=self.works[0].generator(epoch)).to(device)
        steps = -(-len(order) // batch)
        rates = torch.tensor([[o.rates(epoch, s, steps) for o in self.options] for s in range(steps)], device=device)
        rates[:, list(failed)] = 0
        states = [w.progress for w in self.works]
        prices, priced = self.prices(), bool(states[0].prices)
        steered = priced and any(o.budget is not None for o in self.options)
        beta = torch.tensor([s.beta for s in states], device=device)
        total = torch.zeros(k, device=device)
        for step, index in enumerate(order.split(batch)):
            losses = self.losses(self.ensemble.forward(self.x[index]), self.y[index])
            total += losses.detach()
            if priced:
                costs = self.ensemble.costs(prices)
                if steered:  # only then does the device have to wait
                    for state, o, cost in zip(states, self.options, costs.detach().tolist(), strict=True):
                        state.steer(o, cost, 1 / steps)
                    beta = torch.tensor([s.beta for s in states], device=device)
                losses = losses + beta * costs
            losses.sum().backward()
            self.weights.step(rates[step, :, 0])
            self.biases.step(rates[step, :, 0])
            self.bits.step(rates[step, :, 1], FRACTION_LIMIT)
        for state, loss in zip(states, (total / steps).tolist(), strict=True):
            state.losses.append(loss)

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each network, ``[K]``."""
        k = len(outputs)
        given = y.expand(k, *y.shape)
        flat = outputs.flatten(0, 1) if self.kind == "cross_entropy" else outputs.reshape(given.shape)
        targets = given.flatten(0, 1) if self.kind == "cross_entropy" else given
        function: Any = LOSSES[self.kind]
        return function(flat, targets, reduction="none").reshape(k, -1).mean(1)

    def prices(self) -> list[Price]:
        """Of each layer, with tensors ``[K, 1, 1]`` as its numbers; none where nothing is quantized."""
        works, device = self.works, self.ensemble.device
        if not works[0].progress.prices:
            return []
        return [
            _together(
                [w.progress.prices[names[i]] for w, names in zip(works, self.ensemble.names, strict=True)], device
            )
            for i in range(len(self.ensemble.layers))
        ]


def _together(each: list[Price], device: torch.device) -> Price:
    """One price with tensors for numbers."""

    def tensor(name: str) -> Any:
        return torch.tensor([getattr(p, name) for p in each], device=device)[:, None, None]

    return Price(**{f.name: tensor(f.name) for f in dataclasses.fields(Price)})


class _Adam:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) over tensors ``[K, ...]``, with a rate and a decay for each of the K."""

    def __init__(self, parameters: list[Tensor], decay: Tensor) -> None:
        self.parameters, self.decay, self.count = parameters, decay, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self, rate: Tensor, limit: float | None = None) -> None:
        """One step with the gradients that are there, which are then gone; values stay within plus and minus `limit`."""
        self.count += 1
        first, second = 1 - 0.9**self.count, 1 - 0.999**self.count
        for p, (mean, square) in zip(self.parameters, self.moments, strict=True):
            if p.grad is None:
                continue
            r, decay = (t.reshape(-1, *[1] * (p.ndim - 1)) for t in (rate, self.decay))
            mean.lerp_(p.grad, 0.1)
            square.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            p.mul_(1 - r * decay).sub_(r / first * mean / ((square / second).sqrt() + 1e-8))
            if limit is not None:
                p.clamp_(-limit, limit)
            p.grad = None


# ---- stacked layers ---------------------------------------------------------------------------------------------------


class _Constants(WeightQuantizer):
    """The quantizers of K constants: as one, with tensors ``[K, ...]``."""

    def forward(self, values: Tensor) -> Tensor:
        given = self.format
        if given.trained:
            return fake_quantize(values, self.fraction, None, True, self.rounding, Overflow.SAT)
        over = [i for i in range(1, values.ndim) if self.fraction.shape[i] == 1]
        size = values.detach().abs()
        top = integer_bits_of(size.amax(over, keepdim=True) if over else size)
        fraction = (given.bits - 1 - top).clamp(-FRACTION_LIMIT, FRACTION_LIMIT)
        self.fraction.copy_(fraction)
        return fake_quantize(values, fraction, given.bits - 1 - fraction, True, self.rounding, Overflow(given.overflow))


class _Data(ActivationQuantizer):
    """The quantizers of K data ``[K, events, inputs]``: as one, with tensors ``[K, 1, inputs]`` or ``[K, 1, 1]``."""

    sign: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.tracked:
            fraction, integer = self.fraction_bits(), self.integer_bits()
            return fake_quantize(x, fraction, integer, self.sign, self.rounding, Overflow(self.format.overflow))
        q = fake_quantize(x, self.fraction, None, True, self.rounding, Overflow.SAT)
        over, seen = (1,) if self.lowest.shape[2] == q.shape[2] else (1, 2), q.detach()
        self.lowest.copy_(torch.minimum(self.lowest, seen.amin(over, keepdim=True)))
        self.highest.copy_(torch.maximum(self.highest, seen.amax(over, keepdim=True)))
        return q


class _Layer(Weighted):
    """K dense layers, and the ReLUs after them."""

    def __init__(self, each: list[Any], relu: bool) -> None:
        super().__init__()
        first, self.relu = each[0], relu
        self.weight = nn.Parameter(torch.stack([m.weight.detach() for m in each]))
        self.bias = None if first.bias is None else nn.Parameter(torch.stack([m.bias.detach() for m in each]))
        self.input_shape = (len(each), 1, first.in_features)
        for part, kind in (
            ("weight_quantizer", _Constants),
            ("bias_quantizer", _Constants),
            ("input_quantizer", _Data),
        ):
            found = [getattr(m, part) for m in each]
            self.register_module(part, None if found[0] is None else _stacked(found, kind))
        masks = [m.mask for m in each]
        keep = [m.keep if isinstance(m, Mask) else torch.ones_like(first.weight) for m in masks]
        self.mask = Mask(torch.stack(keep)) if any(m is not None for m in masks) else None

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = (
            torch.bmm(x, weight.transpose(1, 2))
            if bias is None
            else torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        )
        return torch.relu(y) if self.relu else y


def _stacked(each: list[Any], kind: type[Quantizer]) -> Any:
    """One quantizer with the tensors of all."""
    found: Any = copy.deepcopy(each[0])
    found.__class__ = kind
    for name in _tensors(found):
        values = torch.stack([getattr(q, name).detach() for q in each])
        values = values.unsqueeze(1) if kind is _Data else values
        setattr(found, name, nn.Parameter(values) if name in found._parameters else values)
    if kind is _Data:
        found.sign = bool(each[0].signed)
    return found


def _tensors(q: Quantizer) -> list[str]:
    return ["fraction"] if isinstance(q, WeightQuantizer) else ["fraction", "integer", "lowest", "highest"]


def _shared(stacked: Any, each: list[Any]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """(stacked tensor, those of the layers) of all that training changes."""
    yield stacked.weight, [m.weight for m in each]
    if stacked.bias is not None:
        yield stacked.bias, [m.bias for m in each]
    for part in ("weight_quantizer", "bias_quantizer", "input_quantizer"):
        q = getattr(stacked, part)
        for name in [] if q is None or (isinstance(q, _Constants) and not q.format.trained) else _tensors(q):
            yield getattr(q, name), [getattr(getattr(m, part), name) for m in each]


def _cost(layer: _Layer, price: Price) -> Tensor:
    """`cost.layer_cost` of each of the K."""
    b, c = widths(layer)
    spread = c.expand(layer.input_shape)
    weight = price.bit * b + price.first * present(b)
    data = spread + price.extra * (spread.detach() > 0)
    return (weight * data).sum((1, 2)) + (price.input * spread).sum((1, 2))


# ---- checks -----------------------------------------------------------------------------------------------------------


def _chain(index: int, module: nn.Module) -> list[tuple[WeightedLinear, bool]]:
    prepare(module)
    try:
        return dense_chain(module)
    except NoProgram as e:
        raise CompileError(f"module {index}", f"must be a chain of dense layers: {e}", "train it alone") from None


def _check_alike(chains: list[list[tuple[WeightedLinear, bool]]]) -> None:
    """All have the same layers and formats."""
    for index, found in enumerate(chains):
        for layer, _ in found:
            if layer.mask is not None and not isinstance(layer.mask, Mask):
                raise CompileError(f"module {index}", "has a mask that is trained", "train it alone")
            if layer.input_quantizer is not None and layer.input_quantizer.fraction.ndim != 1:
                raise CompileError(f"module {index}", "must take events of one axis", "train it alone")
        if [_kind(*pair) for pair in found] != [_kind(*pair) for pair in chains[0]]:
            rule = "must have the layers, formats and signs of module 0"
            raise CompileError(f"module {index}", rule, "train networks of different shapes with train_all")


def _kind(layer: WeightedLinear, relu: bool) -> tuple[Any, ...]:
    """What must be the same in all networks."""
    found: list[Any] = [tuple(layer.weight.shape), layer.bias is None, relu]
    for q in (layer.input_quantizer, layer.weight_quantizer, layer.bias_quantizer):
        found.append(None if q is None else (q.format, tuple(q.fraction.shape)))
        if isinstance(q, ActivationQuantizer) and not q.tracked:
            found.append(bool(q.signed))
    return tuple(found)


def _check_training(count: int, task: Task, options: list[Train]) -> None:
    if len(options) != count:
        raise CompileError(
            "Ensemble", f"needs options for each of {count} modules, not {len(options)}", "or one for all"
        )
    if not isinstance(task.x, Tensor) or task.x.ndim != 2 or task.kind == "own":
        raise CompileError("Ensemble", f"needs a task with x [events, inputs] and a loss by name ({', '.join(LOSSES)})")
    if len({(o.epochs, o.batch) for o in options}) > 1:
        raise CompileError("Ensemble", "needs the same epochs and batch for all", "use train_all for others")
    if any(o.during for o in options):
        raise CompileError("Ensemble", "takes no methods in `during`", "use train_all")
