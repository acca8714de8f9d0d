"""The table of models, and how to get and train one by its name."""

from __future__ import annotations

from ..ir.errors import CompileError
from . import anomaly, handwriting, jets, pixels, pulses
from .data.dataset import DataSet
from .model import Model, Trained, train

__all__ = ["MODELS", "get", "run"]

MODELS = {m.name: m for room in (jets, pixels, anomaly, pulses, handwriting) for m in room.MODELS}


def get(name: str) -> Model:
    """The model `name`; raises `CompileError` with the names there are."""
    if name not in MODELS:
        raise CompileError("model", f"'{name}' is not in the zoo", f"known: {', '.join(MODELS)}")
    return MODELS[name]


def run(
    name: str, data: DataSet | None = None, *, events: int | None = None, seed: int = 0, effort: float = 1.0
) -> Trained:
    """Train the model `name` and give the module to compile, with its test data and figures.

    `data`: a data set, as `hwcompile.models.data` makes and reads them; or `events` to be generated with `seed`; by default the
    sample that ships with the package, which is enough to see it work. `effort`: how long to train, in units of the recipe.
    Raises `CompileError` for an unknown name, data of another kind, and a budget of LUTs that is not reached with an effort of 1.
    """
    model = get(name)
    if data is not None and events is not None:
        raise CompileError("models.run", "data are given, or generated (events), not both", "leave one out")
    if data is None:
        data = model.sample() if events is None else model.generate(events, seed)
    return train(model, data, seed, effort)
