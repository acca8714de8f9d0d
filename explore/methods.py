"""Every way of `optimize` to make a classifier or a regression small, as one space and one training function.

`Methods(task)` searches dense networks with trained or uniform widths, pruned, shrunk or of low rank, networks quantized after
training, trees and formulas, all on one frontier. Other networks: give `network`, and a space for what it takes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from .. import optimize as opt
from ..hw_targets import load_target
from ..ir.errors import CompileError
from ..lineage import State, Store
from .methods_again import rebuilt
from .methods_further import FURTHER
from .methods_trial import Setting
from .methods_ways import METHODS, STAGES, learned_together
from .space import Branch, Choice, Space
from .trial import Trained, Trial

__all__ = ["FURTHER", "METHODS", "Methods", "dense"]

EVERY = {**METHODS, **FURTHER}

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

    `task`: data, loss and score. The score is the metric ``score``, and ``accuracy`` too, which of a regression is minus the loss.
    `network(params)`: a module for the parameters of `architecture`, a space; by default dense
    layers of some sizes. `epochs`: of a full training. `methods`: those of `METHODS` and `FURTHER` to choose from; by default
    all of `METHODS` that take such data. `luts`: from where to where
    budgets are drawn. `test`: a pair (x, y) on which each candidate is scored once more, as ``test``; nothing is
    chosen by it. `warm`: trained widths go on from the nearest network of the same architecture that costs more. `ii`: cycles
    between events to choose from; with more than 1 multipliers are reused, and costs are those of the HLS schedule, of trees and
    formulas too. `target`, `clock_ns`: for which formulas are found and words of DSP blocks cut; give `hc.search` the same.

    Raises `CompileError` for options that make no sense and methods that cannot take the data.
    """

    task: opt.Task
    network: Network | None = None
    architecture: Space = field(default_factory=dict[str, Any])
    epochs: int = 60
    batch: int = 1024
    methods: Sequence[str] | None = None
    luts: tuple[float, float] = (300.0, 30_000.0)
    test: Any = None
    warm: bool = True
    ii: Sequence[int] = (1,)
    target: str = "vu9p"
    clock_ns: float | None = None

    def __post_init__(self) -> None:
        self._check_options()
        if not isinstance(self.task.x, Tensor):
            raise CompileError(
                "methods", "need a task with one array, neither a loader nor several inputs", "give Task(x, y)"
            )
        self._check_methods()
        if self.network is not None:
            return
        x, y = self.task.x, self.task.y
        if x.ndim != 2:
            rule = f"need a network for inputs {list(x.shape[1:])}; dense ones take a vector"
            raise CompileError("methods", rule, "give network= and architecture=")
        if self.architecture and "hidden" not in self.architecture:
            rule = "architecture must have 'hidden', the sizes of dense layers, where no network is given"
            raise CompileError("methods", rule, "give network= too")
        many = int(y.max()) + 1 if self.task.loss == "cross_entropy" else math.prod(y.shape[1:])
        object.__setattr__(self, "network", dense(x.shape[1], many))
        if not self.architecture:
            sizes = Choice([32, 32], [64, 32, 32], [32, 16], [16, 16], [16], [8])
            object.__setattr__(self, "architecture", {"hidden": sizes})

    def _check_options(self) -> None:
        def whole(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= 1

        def positive(value: Any) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf

        def many(value: Any, each: Callable[[Any], bool]) -> bool:
            return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(each, value))

        rules = {
            "task": ("an optimize.Task", isinstance(self.task, opt.Task)),
            "network": ("a function of parameters", self.network is None or callable(self.network)),
            "architecture": ("a space: dimensions by name", isinstance(self.architecture, Mapping)),
            "epochs": ("a whole number, 1 or more", whole(self.epochs)),
            "batch": ("a whole number, 1 or more", whole(self.batch)),
            "luts": (
                "two positive numbers, the lower one first",
                many(self.luts, positive) and len(self.luts) == 2 and self.luts[0] <= self.luts[1],
            ),
            "test": (
                "a pair (x, y)",
                self.test is None or (isinstance(self.test, list | tuple) and len(self.test) == 2),
            ),
            "warm": ("True or False", isinstance(self.warm, bool)),
            "ii": ("a list of whole numbers, each 1 or more", many(self.ii, whole)),
            "target": ("the name of a target", isinstance(self.target, str)),
            "clock_ns": ("a positive number", self.clock_ns is None or positive(self.clock_ns)),
        }
        for name, (rule, holds) in rules.items():
            if not holds:
                given = getattr(self, name)
                shown = repr(given) if isinstance(given, str | int | float | list | tuple) else type(given).__name__
                raise CompileError("methods", f"{name} must be {rule}, not {shown[:80]}")
        load_target(self.target)

    def _check_methods(self) -> None:
        given = self.methods
        if given is None:
            return
        if isinstance(given, str) or not isinstance(given, Sequence):
            shown = repr(given) if isinstance(given, str) else type(given).__name__
            raise CompileError("methods", f"methods must be a list of names, not {shown}", 'write ["learned", "trees"]')
        unknown = [m for m in given if not isinstance(m, str) or m not in EVERY]
        if unknown or not given:
            raise CompileError(
                "methods", f"must be some of {', '.join(EVERY)}, not {unknown[0] if unknown else 'none'}"
            )
        unfit = next((m for m in given if self._unfit(m)), None)
        if unfit is not None:
            raise CompileError("methods", f"'{unfit}' {self._unfit(unfit)}", "leave it out")

    def _unfit(self, name: str) -> str:
        """Why a method can never work on the task; empty if it may."""
        if not EVERY[name].network and self.task.x.ndim != 2:
            return f"takes events of features, not of shape {list(self.task.x.shape[1:])}"
        if name == "trees" and self.task.kind == "own":
            return "fits losses by name, not a function"
        if name == "patterned" and max(self.ii) == 1:
            return "takes whole multipliers or words of memory, which needs reuse, such as ii=(1, 8)"
        return ""

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods to choose from."""
        return tuple(m for m in METHODS if not self._unfit(m)) if self.methods is None else tuple(self.methods)

    @property
    def space(self) -> Space:
        """A branch for each method, those of networks with the architecture."""
        found: dict[str, Space] = {}
        for name in self.chosen:
            own = EVERY[name].space(self)
            cycles = {"ii": Choice(*self.ii)} if len(self.ii) > 1 else {}
            found[name] = {**self.architecture, **own, **cycles} if EVERY[name].network else own
        return {"method": Branch(found)}

    @property
    def imports(self) -> tuple[str, ...]:
        """Packages that trials use."""
        return ("sklearn.ensemble",) if "trees" in self.chosen else ()

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
            {"method": name, **(shape if EVERY[name].network else {}), **params}
            for name, params in every.items()
            if name in self.chosen
        ]

    def __call__(self, trial: Trial) -> Trained:
        method = EVERY[trial.params["method"]]
        return replace(method.train(Setting(self, trial)), final=method.final)

    def many(self, trials: Sequence[Trial]) -> list[Trained]:
        """Trials of one `group`; those with trained widths as one batched program, the others one after the other."""
        if trials[0].params["method"] != "learned" or trials[0].earlier is not None or trials[0].params["distill"]:
            return [self(t) for t in trials]
        try:
            return learned_together([Setting(self, t) for t in trials])
        except CompileError:  # not alike after all, or one of them failed
            return [self(t) for t in trials]

    def rebuild(self, store: Store, state: State | str) -> nn.Module:
        """A network of a search with these data and networks, trained again by its recipe and those of what it was made from.

        On the same machine with the same code its weights are what they were. Raises `CompileError` for other states and other
        data.
        """
        networks = tuple(name for name, m in EVERY.items() if m.network)
        return rebuilt(self, store, state, networks)
