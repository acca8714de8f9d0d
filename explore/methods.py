"""Every way of `optimize` to make a classifier or a regression small, as one space and one training function.

`Methods(task)` searches dense networks with trained or uniform widths, pruned, shrunk or of low rank, networks quantized after
training, trees and formulas, all on one frontier. Other networks: give `network`, and a space for what it takes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .. import optimize as opt
from ..ir.errors import CompileError
from ..optimize.symbolic import Compiled, Row
from ..optimize.task import predict
from .space import Branch, Choice, Integer, Real, Space
from .trial import Past, Step, Trained, Trial

__all__ = ["METHODS", "Methods", "dense"]

STAGES = 6
"""Most stages of a falling budget: each halves it."""

Network = Callable[[Mapping[str, Any]], nn.Module]


def dense(inputs: int, outputs: int) -> Network:
    """Networks of dense layers and ReLUs; ``params["hidden"]`` are the sizes between inputs and outputs."""

    def make(params: Mapping[str, Any]) -> nn.Module:
        sizes = (inputs, *params["hidden"], outputs)
        return nn.Sequential(*[m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1])

    return make


@dataclass(frozen=True, eq=False)
class Methods:
    """A training function for `hc.search`, and its `space`.

    `task`: data, loss and score. `network(params)`: a module for the parameters of `architecture`, a space; by default dense
    layers of some sizes. `epochs`: of a full training. `methods`: those of `METHODS` to choose from. `luts`: from where to where
    budgets are drawn. `test`: a pair (x, y) on which each candidate is scored once more, as ``test``; nothing is
    chosen by it. `warm`: trained widths go on from the nearest network of the same architecture that costs more. `ii`: cycles
    between events to choose from; with more than 1 multipliers are reused, and costs are those of the HLS schedule.
    """

    task: opt.Task
    network: Network | None = None
    architecture: Space = field(default_factory=dict[str, Any])
    epochs: int = 60
    batch: int = 1024
    methods: Sequence[str] = (
        "learned",
        "uniform",
        "pruned",
        "shrunk",
        "low_rank",
        "post_training",
        "trees",
        "formulas",
    )
    luts: tuple[float, float] = (300.0, 30_000.0)
    test: Any = None
    warm: bool = True
    ii: Sequence[int] = (1,)
    target: str = "vu9p"
    clock_ns: float | None = None

    def __post_init__(self) -> None:
        unknown = next((m for m in self.methods if m not in METHODS), None)
        if unknown is not None or not self.methods:
            raise CompileError("methods", f"must be some of {', '.join(METHODS)}, not {unknown or 'none'}")
        if self.task.x is None:
            raise CompileError("methods", "need a task with arrays, not a loader", "give Task(x, y)")
        if self.epochs < 1:
            raise CompileError("methods", f"epochs must be 1 or more, not {self.epochs}")
        if self.network is not None or self.architecture:
            return
        x, y = self.task.x, self.task.y
        if x.ndim != 2:
            rule = f"need a network for inputs {list(x.shape[1:])}; dense ones take a vector"
            raise CompileError("methods", rule, "give network= and architecture=")
        many = int(y.max()) + 1 if self.task.loss == "cross_entropy" else math.prod(y.shape[1:])
        object.__setattr__(self, "network", dense(x.shape[1], many))
        object.__setattr__(
            self, "architecture", {"hidden": Choice([32, 32], [64, 32, 32], [32, 16], [16, 16], [16], [8])}
        )

    @property
    def space(self) -> Space:
        """A branch for each method, those of networks with the architecture."""
        found: dict[str, Space] = {}
        for name in self.methods:
            own = METHODS[name].space(self)
            cycles = {"ii": Choice(*self.ii)} if len(self.ii) > 1 else {}
            found[name] = {**self.architecture, **own, **cycles} if METHODS[name].network else own
        return {"method": Branch(found)}

    @property
    def imports(self) -> tuple[str, ...]:
        """Packages that trials use."""
        return ("sklearn.ensemble",) if "trees" in self.methods else ()

    @property
    def data_digest(self) -> str:
        """Of the training and validation data."""
        h = hashlib.sha256()
        for t in (self.task.x, self.task.y, *self.task.validation):
            h.update(t.detach().contiguous().numpy().tobytes())
        return h.hexdigest()[:32]

    def group(self, params: Mapping[str, Any]) -> str:
        """The same for trials that `many` trains as one program."""
        alike = (*self.architecture, "weight_bits", "data_bits", "distill", "stages")
        return json.dumps([params["method"], {k: params[k] for k in alike if k in params}], sort_keys=True)

    @property
    def first(self) -> list[dict[str, Any]]:
        """A trial of each method that goes through all of the range of LUTs, to begin with."""
        every = {
            "trees": {"depth": 3, "rounds": 15, "rate": 0.5, "bits": 6, "leaf_bits": 6},
            "learned": {
                "luts": self.luts[0],
                "stages": STAGES,
                "weight_bits": 6,
                "data_bits": 6,
                "lr": 6e-3,
                "lr_bits": 0.01,
                "distill": 0.0,
            },
        }
        shape = {k: d.options[0] for k, d in self.architecture.items() if isinstance(d, Choice)}
        return [
            {"method": name, **(shape if METHODS[name].network else {}), **params}
            for name, params in every.items()
            if name in self.methods
        ]

    def __call__(self, trial: Trial) -> Trained:
        method = METHODS[trial.params["method"]]
        return replace(method.train(_Setting(self, trial)), final=method.final)

    def many(self, trials: Sequence[Trial]) -> list[Trained]:
        """Trials of one `group`; those with trained widths as one batched program, the others one after the other."""
        if trials[0].params["method"] != "learned" or trials[0].earlier is not None or trials[0].params["distill"]:
            return [self(t) for t in trials]
        try:
            return _learned_together([_Setting(self, t) for t in trials])
        except CompileError:  # not alike after all, or one of them failed
            return [self(t) for t in trials]


# ---- one trial --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Setting:
    """A trial and what it is trained with."""

    methods: Methods
    trial: Trial

    @property
    def task(self) -> opt.Task:
        return self.methods.task

    @property
    def params(self) -> Mapping[str, Any]:
        return self.trial.params

    def epochs(self, share: float = 1.0) -> int:
        """So many for a share of this trial's effort."""
        return max(round(self.methods.epochs * share * self.trial.effort), 2)

    def architecture(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {k: params[k] for k in self.methods.architecture if k in params}

    def made(self, params: Mapping[str, Any] | None = None) -> nn.Module:
        """The network with weights that depend on its architecture alone, so that all who need it have the same."""
        assert self.methods.network is not None
        torch.manual_seed(int.from_bytes(self.base_key.encode()[-6:], "little"))
        return self.methods.network(params or self.params)

    @property
    def base_key(self) -> str:
        text = json.dumps([self.architecture(self.params), self.methods.epochs, self.methods.batch], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def base(self) -> tuple[nn.Module, Past | Trained]:
        """The float network of this architecture: of the store, or trained now, the same for every trial."""
        module = self.made()
        for past in self.trial.past:
            if past.method == "float" and past.key[-1] == self.base_key:
                loaded(module, self.trial.weights(past))
                return module.eval(), past
        train = opt.Train(max(self.methods.epochs // 2, 2), self.methods.batch, 5e-3)
        module = opt.Pipeline([train]).run(module, self.task, 0).module
        steps = (
            Step("Train", {"epochs": train.epochs, "lr": train.lr, "architecture": self.architecture(self.params)}),
        )
        score = {"accuracy": self.task.evaluate(module)}
        return module, Trained(module, score, method="float", steps=steps, base_key=self.base_key)

    def run(self, module: nn.Module, *passes: Any) -> nn.Module:
        return opt.Pipeline(passes).run(module, self.task, self.trial.seed).module

    def trained(self, module: nn.Module, start: Past | Trained | None, passes: Sequence[Any]) -> Trained:
        """A network as what the search takes."""
        steps = tuple(Step(type(p).__name__, _options(p)) for p in passes)
        cycles = self.params.get("ii", self.methods.ii[0])
        goal = {"ii": cycles} if cycles > 1 or len(self.methods.ii) > 1 else {}
        return Trained(
            module, self.scores(module), self.task.sample[:64], self.params["method"], steps, start=start, goal=goal
        )

    def scores(self, module: nn.Module) -> dict[str, float]:
        x, y = self.task.validation
        return {"accuracy": self.task.score_of(predict(module, x), y), **self._test(lambda x: predict(module, x))}

    def row(self, row: Row, steps: Sequence[Step]) -> Trained:
        """Trees or formulas, by their integers."""
        compiled = Compiled(row.model, self.methods.target, self.methods.clock_ns)
        test = self._test(lambda x: torch.as_tensor(compiled.predict(x), dtype=torch.float32))
        return Trained(row.model, {"accuracy": row.score, **test}, method=self.params["method"], steps=steps)

    def _test(self, outputs: Callable[[Tensor], Tensor]) -> dict[str, float]:
        if self.methods.test is None:
            return {}
        x, y = (torch.as_tensor(v) for v in self.methods.test)
        return {"test": self.task.score_of(outputs(x.float()), y)}


def loaded(module: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
    """The module with the tensors of a store."""
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    return module


def _options(step: Any) -> dict[str, Any]:
    """A pass's options as JSON holds them."""
    return {k: v if isinstance(v, int | float | str | bool | type(None)) else repr(v)[:200] for k, v in vars(step).items()
            if not isinstance(v, nn.Module)}  # fmt: skip


# ---- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to a small model: its own parameters, its training, whether it needs a network, and whether it is `final`: makes the
    same with more effort."""

    space: Callable[[Methods], Space]
    train: Callable[[_Setting], Trained]
    network: bool = True
    final: bool = False


def _spec(s: _Setting, params: Mapping[str, Any]) -> opt.Spec:
    weights, data = params["weight_bits"], params["data_bits"]
    return opt.Spec(opt.learned(weights), opt.learned(weights), opt.learned(data, range="learned"))


def _budgets(s: _Setting) -> list[float]:
    """What the stages of a falling budget allow: each half of the one before, the last ``luts``; none above the range."""
    last = s.params["luts"]
    falling = [last * 2.0**k for k in range(s.params["stages"])]
    return [b for b in reversed(falling) if b <= max(last, s.methods.luts[1])]


def _start(s: _Setting) -> tuple[nn.Module, nn.Module, Past | Trained]:
    """(network with trained widths to go on from, its teacher, where it is from): the trial's own of less effort for one
    stage, or one of this architecture above the first budget, or the float network."""
    module, origin = s.base()
    teacher = module
    budgets = _budgets(s)
    past = s.trial.earlier if len(budgets) == 1 else None
    if past is None and s.methods.warm:
        past = _parent(s, 1.05 * budgets[0])
    if past is None:
        return opt.quantize(teacher, _spec(s, s.params), s.task.sample), teacher, origin
    quantized = opt.quantize(s.made(past.params), _spec(s, past.params), s.task.sample)
    return loaded(quantized, s.trial.weights(past)), teacher, past


def _parent(s: _Setting, above: float) -> Past | None:
    """Of the networks of this architecture that cost more, the best that costs at most four times as much, else the cheapest."""
    same = s.architecture(s.params)
    known = [p for p in s.trial.past if p.method == "learned" and s.architecture(p.params) == same
             and p.values.get("lut", 0) > above]  # fmt: skip
    near = [p for p in known if p.values["lut"] <= 4 * above]
    if near:
        return max(near, key=lambda p: p.values["accuracy"])
    return min(known, key=lambda p: p.values["lut"], default=None)


def _learned_train(s: _Setting, budget: float) -> opt.Train:
    return opt.Train(s.epochs(), s.methods.batch, s.params["lr"], s.params["lr_bits"], budget=budget, strict=False)


def _learned(s: _Setting) -> Trained:
    """Trained widths under a budget that falls stage by stage; the network of each stage is worth keeping."""
    module, teacher, start = _start(s)
    passes: list[Any] = [opt.Distill(teacher, s.params["distill"])] if s.params["distill"] else []
    work = opt.Work(module, s.task, s.trial.seed)
    for p in passes:
        p.apply(work)
    made: list[Trained] = []
    for work.index, budget in enumerate(_budgets(s), 1):
        work.progress = None
        passes.append(_learned_train(s, budget))
        passes[-1].apply(work)
        made.append(s.trained(copy.deepcopy(work.module).eval(), start, passes))
    return _last_of(made)


def _last_of(made: Sequence[Trained]) -> Trained:
    return replace(made[-1], more=tuple(made[:-1]))


def _learned_together(settings: Sequence[_Setting]) -> list[Trained]:
    """One batched program for each stage; each from its own start, without distillation."""
    starts = [_start(s) for s in settings]
    modules = [m for m, _, _ in starts]
    passes: list[list[opt.Train]] = [[] for _ in settings]
    made: list[list[Trained]] = [[] for _ in settings]
    budgets = [_budgets(s) for s in settings]
    if len(set(map(len, budgets))) > 1:
        raise CompileError("trials", "have different numbers of stages", "train them one by one")
    for stage in zip(*budgets, strict=True):
        for s, own, budget in zip(settings, passes, stage, strict=True):
            own.append(_learned_train(s, budget))
        outcomes = opt.Ensemble(modules).train(settings[0].task, [own[-1] for own in passes], settings[0].trial.seed)
        for k, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                raise outcome
            modules[k] = outcome.module
            made[k].append(settings[k].trained(outcome.module, starts[k][2], passes[k]))
    return [_last_of(own) for own in made]


def _uniform_spec(s: _Setting) -> opt.Spec:
    return opt.Spec.uniform(s.params["bits"], s.params["data_bits"])


def _uniform(s: _Setting) -> Trained:
    module, start = s.base()
    passes = [opt.Quantize(_uniform_spec(s)), opt.Train(s.epochs(), s.methods.batch, s.params["lr"])]
    return s.trained(s.run(module, *passes), start, passes)


def _smaller(first: Callable[[_Setting], list[Any]]) -> Callable[[_Setting], Trained]:
    """Made smaller and trained, then quantized and trained."""

    def train(s: _Setting) -> Trained:
        module, start = s.base()
        again = opt.Train(s.epochs(0.5), s.methods.batch, s.params["lr"])
        passes = [*first(s), opt.Quantize(_uniform_spec(s)), again]
        return s.trained(s.run(copy.deepcopy(module), *passes), start, passes)

    return train


def _pruning(s: _Setting) -> list[Any]:
    gradual = opt.Gradual(opt.Prune(s.params["amount"], s.params["criterion"]), end=0.6)
    return [opt.Train(s.epochs(0.5), s.methods.batch, during=(gradual,))]


def _post_training(s: _Setting) -> Trained:
    module, start = s.base()
    passes = [
        opt.PostTraining(
            s.params["bits"], s.params["data_bits"], budget=s.params["luts"], strict=False, events=2048, steps=300
        )
    ]
    return s.trained(s.run(module, *passes), start, passes)


def _trees(s: _Setting) -> Trained:
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
    steps = [[Step("Trees", _options(replace(options, rounds=count)))] for count in rounds]
    return _last_of([s.row(row, own) for row, own in zip(rows, steps, strict=True)])


def _formulas(s: _Setting) -> Trained:
    options = opt.Symbolic(length=s.params["length"], bits=s.params["bits"], budget=s.params["luts"],
                           generations=max(round(50 * s.trial.effort), 3), candidates=4,
                           target=s.methods.target, clock_ns=s.methods.clock_ns)  # fmt: skip
    rows = opt.regress(s.task, options, seed=s.trial.seed).rows
    best, *others = sorted(rows, key=lambda r: -r.score)
    steps = [Step("Symbolic", _options(options))]
    return replace(s.row(best, steps), more=tuple(s.row(r, steps) for r in others[:3]))


def _bits(low: int, high: int) -> Space:
    return {"bits": Integer(low, high), "data_bits": Integer(4, 10), "lr": Real(1e-3, 1e-2, log=True)}


METHODS: dict[str, Method] = {
    "learned": Method(
        lambda m: {
            "luts": Real(*m.luts, log=True), "stages": Integer(1, STAGES), "weight_bits": Integer(4, 8), "data_bits": Integer(4, 8),
            "lr": Real(1e-3, 1e-2, log=True), "lr_bits": Real(5e-3, 5e-2, log=True), "distill": Choice(0.0, 0.5),
        },
        _learned,
    ),
    "uniform": Method(lambda m: _bits(2, 8), _uniform),
    "pruned": Method(
        lambda m: {"amount": Real(0.3, 0.95), "criterion": Choice("magnitude", "taylor"), **_bits(3, 8)}, _smaller(_pruning)
    ),
    "shrunk": Method(
        lambda m: {"amount": Real(0.1, 0.7), **_bits(3, 8)},
        _smaller(lambda s: [opt.Shrink(s.params["amount"]), opt.Train(s.epochs(0.5), s.methods.batch)]),
    ),
    "low_rank": Method(
        lambda m: {"energy": Real(0.6, 0.99), **_bits(3, 8)},
        _smaller(lambda s: [opt.LowRank(energy=s.params["energy"]), opt.Train(s.epochs(0.5), s.methods.batch)]),
    ),
    "post_training": Method(
        lambda m: {"luts": Real(*m.luts, log=True), "bits": Integer(4, 8), "data_bits": Integer(4, 10)}, _post_training,
        final=True,
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
"""Ways to a small model by name."""
