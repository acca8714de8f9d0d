"""One trial of `Methods`: where its network comes from, how it is scored and priced, and how its recipe is recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import optimize as opt
from ..optimize.symbolic import Compiled, Row
from ..optimize.task import predict
from .space import Space
from .trial import Past, Step, Trained, Trial

if TYPE_CHECKING:
    from .methods import Methods

__all__ = ["BASE", "Method", "Setting", "loaded", "recorded", "step_of"]

BASE = "float"
"""The method of what trials start from."""

BASE_SEED = 0
"""Of the training of float networks, which all trials share."""


@dataclass(frozen=True)
class Method:
    """A way to a small model: its own parameters, its training, whether it needs a network, and whether it is `final`: makes the
    same with more effort."""

    space: Callable[[Methods], Space]
    train: Callable[[Setting], Trained]
    network: bool = True
    final: bool = False


@dataclass(frozen=True, eq=False)
class Setting:
    """A trial and what it is trained with."""

    methods: Methods
    trial: Trial

    @property
    def task(self) -> opt.Task:
        return self.methods.task

    @property
    def params(self) -> Mapping[str, Any]:
        return self.trial.params

    @property
    def ii(self) -> int:
        """Cycles between events; trees and formulas, which reuse nothing, have the fewest of those to choose from."""
        return self.params.get("ii", min(self.methods.ii))

    @property
    def goal(self) -> dict[str, Any]:
        """Of the HLS schedule, for all methods if reuse is searched: costs of HLS and of RTL do not compare."""
        return {} if max(self.methods.ii) == 1 else {"ii": self.ii}

    def epochs(self, share: float = 1.0) -> int:
        """So many for a share of this trial's effort."""
        return max(round(self.methods.epochs * share * self.trial.effort), 2)

    def architecture(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {k: params[k] for k in self.methods.architecture if k in params}

    def made(self, params: Mapping[str, Any] | None = None) -> nn.Module:
        """The network with weights that depend on its architecture alone, so that all who need it have the same."""
        assert self.methods.network is not None
        torch.manual_seed(self.initial_seed)
        return self.methods.network(params or self.params)

    @property
    def base_key(self) -> str:
        text = json.dumps([self.architecture(self.params), self.methods.epochs, self.methods.batch], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def initial_seed(self) -> int:
        return int.from_bytes(self.base_key.encode()[-6:], "little")

    def base(self) -> tuple[nn.Module, Past | Trained]:
        """The float network of this architecture: of the store, or trained now, the same for every trial."""
        module = self.made()
        for past in self.trial.past:
            if past.method == BASE and past.key[-1] == self.base_key:
                loaded(module, self.trial.weights(past))
                return module.eval(), past
        train = opt.Train(max(self.methods.epochs // 2, 2), self.methods.batch, 5e-3)
        module = opt.Pipeline([train]).run(module, self.task, BASE_SEED).module
        made_of = {"architecture": self.architecture(self.params), "initial_seed": self.initial_seed}
        steps = (step_of(train, seed=BASE_SEED, **made_of),)
        score = self.named(self.task.evaluate(module))
        return module, Trained(module, score, method=BASE, steps=steps, base_key=self.base_key)

    def run(self, module: nn.Module, *passes: Any) -> nn.Module:
        return opt.Pipeline(passes).run(module, self.task, self.trial.seed).module

    def step(self, p: Any, **more: Any) -> Step:
        """A pass as it is recorded; of a teacher, which is the float network of this architecture, the key of that."""
        return step_of(p, **({"teacher": self.base_key} if isinstance(p, opt.Distill) else {}), **more)

    def trained(self, module: nn.Module, start: Past | Trained | None, steps: Sequence[Step]) -> Trained:
        """A network as what the search takes."""
        x, y = self.task.validation
        scores = {
            **self.named(self.task.score_of(predict(module, x), y)),
            **self._test(lambda x: predict(module, x)),
        }
        method = self.params["method"]
        return Trained(module, scores, self.task.sample[:64], method, steps, start=start, goal=self.goal)

    def row(self, row: Row, steps: Sequence[Step]) -> Trained:
        """Trees or formulas, by their integers."""
        compiled = Compiled(row.model, self.methods.target, self.methods.clock_ns)
        test = self._test(lambda x: torch.as_tensor(compiled.predict(x), dtype=torch.float32))
        scores = {**self.named(row.score), **test}
        return Trained(row.model, scores, method=self.params["method"], steps=steps, goal=self.goal)

    def named(self, score: float) -> dict[str, float]:
        """The task's score, which of classes is the accuracy and of numbers minus the loss, under both names."""
        return {"accuracy": score, "score": score}

    def _test(self, outputs: Callable[[Tensor], Tensor]) -> dict[str, float]:
        if self.methods.test is None:
            return {}
        x, y = (torch.as_tensor(v) for v in self.methods.test)
        return {"test": self.task.score_of(outputs(x.float()), y)}


def loaded(module: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
    """The module with the tensors of a store."""
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    return module


def step_of(p: Any, **more: Any) -> Step:
    """A pass with all its options, and `more` that it depends on. A pass that names a `seed` ran alone, with that and not the
    trial's; `batched`: as one of so many networks of an `Ensemble`."""
    options = recorded(p)
    return Step(options.pop("type"), {**options, **more})


def recorded(value: Any) -> Any:
    """Any option as JSON holds it: a dataclass as a table with its type, whole; modules and functions by name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value):
        options = {f.name: recorded(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **options}
    if isinstance(value, Mapping):
        return {str(k): recorded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(v) for v in value]
    return getattr(value, "__qualname__", type(value).__name__)
