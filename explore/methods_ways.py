"""The methods that `Methods` chooses from: how each trains, and what of it is searched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .. import optimize as opt
from ..ir.errors import CompileError
from .methods_trial import Method, Setting, loaded, step_of
from .space import Choice, Integer, Real, Space
from .trial import Past, Trained

__all__ = ["METHODS", "STAGES", "from_base", "learned_together", "sizes", "smaller", "training", "uniform_spec"]

STAGES = 6
"""Most stages of a falling budget: each halves it."""


def _last_of(made: Sequence[Trained]) -> Trained:
    return replace(made[-1], more=tuple(made[:-1]))


# ---- trained widths ---------------------------------------------------------------------------------------------------


def _spec(params: Mapping[str, Any]) -> opt.Spec:
    weights, data = params["weight_bits"], params["data_bits"]
    return opt.Spec(opt.learned(weights), opt.learned(weights), opt.learned(data, range="learned"))


def _budgets(s: Setting) -> list[float]:
    """What the stages of a falling budget allow: each half of the one before, the last ``luts``; none above the range."""
    last = s.params["luts"]
    falling = [last * 2.0**k for k in range(s.params["stages"])]
    return [b for b in reversed(falling) if b <= max(last, s.methods.luts[1])]


def _start(s: Setting) -> tuple[nn.Module, nn.Module, Past | Trained]:
    """(network to go on from, its teacher, where it is from): with trained widths the trial's own of less effort for one
    stage, or one of this architecture above the first budget; else the float network."""
    teacher, origin = s.base()
    budgets = _budgets(s)
    past = s.trial.earlier if len(budgets) == 1 else None
    if past is None and s.methods.warm:
        past = _parent(s, 1.05 * budgets[0])
    if past is None:
        return teacher, teacher, origin
    quantized = opt.quantize(s.made(past.params), _spec(past.params), s.task.sample)
    return loaded(quantized, s.trial.weights(past)), teacher, past


def _parent(s: Setting, above: float) -> Past | None:
    """Of the networks of this architecture that cost more, the best that costs at most four times as much, else the cheapest."""
    same = s.architecture(s.params)
    known = [p for p in s.trial.past if p.method == "learned" and s.architecture(p.params) == same
             and p.values.get("lut", 0) > above]  # fmt: skip
    near = [p for p in known if p.values["lut"] <= 4 * above]
    if near:
        return max(near, key=lambda p: p.values["accuracy"])
    return min(known, key=lambda p: p.values["lut"], default=None)


def _begun(s: Setting) -> tuple[opt.Work, list[Any], Past | Trained]:
    """(the network quantized, and with its teacher; the passes that made it so; where it is from)."""
    module, teacher, start = _start(s)
    passes: list[Any] = [opt.Quantize(_spec(s.params))] if module is teacher else []
    passes += [opt.Distill(teacher, s.params["distill"])] if s.params["distill"] else []
    work = opt.Work(module, s.task, s.trial.seed)
    for work.index, p in enumerate(passes):
        p.apply(work)
    return work, passes, start


def _train(s: Setting, budget: float) -> opt.Train:
    return opt.Train(s.epochs(), s.methods.batch, s.params["lr"], s.params["lr_bits"], budget=budget, strict=False)


def _learned(s: Setting) -> Trained:
    """Trained widths under a budget that falls stage by stage; the network of each stage is worth keeping."""
    work, passes, start = _begun(s)
    made: list[Trained] = []
    for work.index, budget in enumerate(_budgets(s), len(passes)):  # as a `Pipeline` of all the passes counts them
        work.progress = None
        passes.append(_train(s, budget))
        passes[-1].apply(work)
        made.append(s.trained(copy.deepcopy(work.module).eval(), start, [s.step(p) for p in passes]))
    return _last_of(made)


def learned_together(settings: Sequence[Setting]) -> list[Trained]:
    """One batched program for each stage; each from its own start, without distillation."""
    begun = [_begun(s) for s in settings]
    modules = [work.module for work, _, _ in begun]
    steps = [[s.step(p) for p in passes] for s, (_, passes, _) in zip(settings, begun, strict=True)]
    made: list[list[Trained]] = [[] for _ in settings]
    budgets = [_budgets(s) for s in settings]
    if len(set(map(len, budgets))) > 1:
        raise CompileError("trials", "have different numbers of stages", "train them one by one")
    seed = settings[0].trial.seed  # one program sees one order of events
    for stage in zip(*budgets, strict=True):
        trains = [_train(s, budget) for s, budget in zip(settings, stage, strict=True)]
        outcomes = opt.Ensemble(modules).train(settings[0].task, trains, seed)
        for k, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                raise outcome
            modules[k] = outcome.module
            steps[k].append(step_of(trains[k], seed=seed, batched=len(trains)))
            made[k].append(settings[k].trained(outcome.module, begun[k][2], tuple(steps[k])))
    return [_last_of(own) for own in made]


# ---- uniform widths ---------------------------------------------------------------------------------------------------


def uniform_spec(s: Setting) -> opt.Spec:
    return opt.Spec.uniform(s.params["bits"], s.params["data_bits"])


def training(s: Setting, share: float = 1.0, **options: Any) -> opt.Train:
    """A share of a full training, at the trial's rate."""
    return opt.Train(s.epochs(share), s.methods.batch, s.params["lr"], **options)


def from_base(passes: Callable[[Setting, nn.Module], list[Any]]) -> Callable[[Setting], Trained]:
    """A training of the float network by some passes."""

    def train(s: Setting) -> Trained:
        module, start = s.base()
        own = passes(s, module)
        return s.trained(s.run(module, *own), start, [s.step(p) for p in own])

    return train


def smaller(first: Callable[[Setting, nn.Module], list[Any]]) -> Callable[[Setting], Trained]:
    """Made smaller and trained, then quantized and trained."""

    def passes(s: Setting, module: nn.Module) -> list[Any]:
        return [*first(s, module), opt.Quantize(uniform_spec(s)), training(s, 0.5)]

    return from_base(passes)


def _half(s: Setting, **options: Any) -> opt.Train:
    return opt.Train(s.epochs(0.5), s.methods.batch, **options)


def _uniform(s: Setting, module: nn.Module) -> list[Any]:
    return [opt.Quantize(uniform_spec(s)), training(s)]


def _pruning(s: Setting, module: nn.Module) -> list[Any]:
    return [_half(s, during=(opt.Gradual(opt.Prune(s.params["amount"], s.params["criterion"]), end=0.6),))]


def _post_training(s: Setting, module: nn.Module) -> list[Any]:
    bits, data_bits, budget = (s.params[k] for k in ("bits", "data_bits", "luts"))
    return [opt.PostTraining(bits, data_bits, budget=budget, strict=False, events=2048, steps=300)]


# ---- no networks ------------------------------------------------------------------------------------------------------


def _trees(s: Setting) -> Trained:
    """Forests of all the rounds, of half of them, and so on: what a smaller one loses is seen at once."""
    p = s.params
    rounds = [p["rounds"]]
    while rounds[-1] > 1:
        rounds.append(rounds[-1] // 2)
    rounds.reverse()
    options = opt.Trees(
        p["depth"], bits=p["bits"], leaf_bits=p["leaf_bits"], rate=p["rate"], damping=1e-3,  # for rates near 1
        target=s.methods.target, clock_ns=s.methods.clock_ns,
    )  # fmt: skip
    rows = opt.fit_forests(s.task, options, rounds, seed=s.trial.seed)
    steps = [[s.step(replace(options, rounds=count))] for count in rounds]
    return _last_of([s.row(row, own) for row, own in zip(rows, steps, strict=True)])


def _formulas(s: Setting) -> Trained:
    options = opt.Symbolic(length=s.params["length"], bits=s.params["bits"], budget=s.params["luts"],
                           generations=max(round(50 * s.trial.effort), 3), candidates=4,
                           target=s.methods.target, clock_ns=s.methods.clock_ns)  # fmt: skip
    rows = opt.regress(s.task, options, seed=s.trial.seed).rows
    best, *others = sorted(rows, key=lambda r: -r.score)
    steps = [s.step(options)]
    return replace(s.row(best, steps), more=tuple(s.row(r, steps) for r in others[:3]))


# ---- all of them ------------------------------------------------------------------------------------------------------


def sizes(low: int, high: int) -> Space:
    """Uniform widths of weights, from low to high, and of data, and the rate with which they are trained."""
    return {"bits": Integer(low, high), "data_bits": Integer(4, 10), "lr": Real(1e-3, 1e-2, log=True)}


METHODS: dict[str, Method] = {
    "learned": Method(
        lambda m: {
            "luts": Real(*m.luts, log=True), "stages": Integer(1, STAGES), "weight_bits": Integer(4, 8), "data_bits": Integer(4, 8),
            "lr": Real(1e-3, 1e-2, log=True), "lr_bits": Real(5e-3, 5e-2, log=True), "distill": Choice(0.0, 0.5),
        },
        _learned,
    ),
    "uniform": Method(lambda m: sizes(2, 8), from_base(_uniform)),
    "pruned": Method(
        lambda m: {"amount": Real(0.3, 0.95), "criterion": Choice("magnitude", "taylor"), **sizes(3, 8)}, smaller(_pruning)
    ),
    "shrunk": Method(
        lambda m: {"amount": Real(0.1, 0.7), **sizes(3, 8)}, smaller(lambda s, _: [opt.Shrink(s.params["amount"]), _half(s)])
    ),
    "low_rank": Method(
        lambda m: {"energy": Real(0.6, 0.99), **sizes(3, 8)},
        smaller(lambda s, _: [opt.LowRank(energy=s.params["energy"]), _half(s)]),
    ),
    "post_training": Method(
        lambda m: {"luts": Real(*m.luts, log=True), "bits": Integer(4, 8), "data_bits": Integer(4, 10)},
        from_base(_post_training), final=True,
    ),
    "trees": Method(
        lambda m: {"depth": Integer(2, 5), "rounds": Integer(1, 40, log=True), "rate": Real(0.1, 1.0),
                   "bits": Integer(4, 10), "leaf_bits": Integer(4, 10)},
        _trees, network=False, final=True,
    ),
    "formulas": Method(
        lambda m: {"length": Integer(5, 30), "luts": Real(*m.luts, log=True), "bits": Integer(6, 12)}, _formulas, network=False
    ),
}  # fmt: skip
"""Ways to a small model by name, from which a search chooses unless it is told others."""
