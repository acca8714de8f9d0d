"""What a training function of a search is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..codegen.choose import Goal
from ..ir.errors import CompileError
from ..lineage import Step, Store

__all__ = ["Past", "Step", "Trained", "Trial"]


@dataclass(frozen=True)
class Past:
    """A network that is in the store already: of an earlier trial, or a base that trials start from."""

    state: str
    key: Any
    method: str
    params: Mapping[str, Any]
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Trial:
    """A point of the space to be trained.

    `params`: by name, as `space.draw` gives them. `effort`: share of a full training, above 0, and above 1 where the search goes
    beyond. `earlier`: the same
    trial at less effort, `spent`, to go on from. `past`: all that was trained before. `store`: where their weights are.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    effort: float = 1.0
    earlier: Past | None = None
    spent: float = 0.0
    past: Sequence[Past] = ()
    store: str = ""

    def weights(self, past: Past) -> dict[str, np.ndarray]:
        """The tensors of a network that was trained before, by name."""
        with Store(self.store, read_only=True) as store:
            return store.weights(past.state)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training made.

    `model`: what `hc.compile` takes, with `example_inputs` for a torch module. `metrics`: values by name, such as accuracy; costs
    are added by the compiler. `weights`: tensors to keep, by default those of a torch module. `start`: what it was
    trained from: something of the past, or a base that shall be kept under `base_key`. `more`: other networks of the same
    training, worth keeping. `final`: more effort would make the same, so that the trial ends here. `goal`: of
    the HLS design (fields of `codegen.choose.Goal`, such as ``{"ii": 8}``); costs are then those of the schedule that meets it, and
    without one those of the unrolled RTL.
    """

    model: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    example_inputs: Any = None
    method: str = ""
    steps: Sequence[Step] = ()
    weights: Mapping[str, np.ndarray] | None = None
    start: Past | Trained | None = None
    base_key: Any = None
    more: Sequence[Trained] = ()
    final: bool = False
    goal: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [f.name for f in fields(Goal)]
        unknown = next((k for k in self.goal if k not in known), None)
        if unknown is not None:
            raise CompileError("goal", f"key '{unknown}' is not known", f"known: {', '.join(known)}")
