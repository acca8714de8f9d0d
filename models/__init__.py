"""Networks of particle physics, each with the data it is trained on, the way it is trained, and what it shall reach."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import Model, Recipe, Trained
    from .zoo import MODELS, get, run

__all__ = ["MODELS", "Model", "Recipe", "Trained", "get", "run"]

_HOMES = {"model": ("Model", "Recipe", "Trained"), "zoo": ("MODELS", "get", "run")}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: data sets need no torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
