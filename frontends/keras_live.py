"""Live Keras models: saved by their own `save` to a temporary file, which is read like any other; Keras is never imported here."""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ..ir.errors import CompileError
from .keras import read_keras
from .real import RealModel

__all__ = ["is_keras", "read_keras_live"]

_PACKAGES = ("keras", "tf_keras")


def _bases(model: Any, name: str) -> list[str]:
    """The modules of the classes `name` of Keras that an object's class derives from."""
    found = [c.__module__.split(".") for c in type(model).__mro__ if c.__name__ == name]
    return [".".join(m) for m in found if m[0] in _PACKAGES or m[:3] == ["tensorflow", "python", "keras"]]


def is_keras(model: Any) -> bool:
    """A layer or model of Keras 2 or 3, on whatever backend; on torch it is a torch module as well."""
    return bool(_bases(model, "Layer"))


def read_keras_live(model: Any) -> RealModel:
    """A live model of Keras 3 (with layers of HGQ2 too), tf_keras or tf.keras.

    Raises `CompileError` for a layer alone, a model that is not built, and what `read_keras` refuses.
    """
    name = re.sub(r"\W", "_", str(getattr(model, "name", ""))) or "model"
    modules = _bases(model, "Model")
    if not modules:
        raise CompileError(
            f"{name} ({type(model).__name__})", "must be a model, not a layer", "wrap it: Sequential([layer])"
        )
    if not getattr(model, "built", False):
        raise CompileError(f"{name} ({type(model).__name__})", "must be built", "give it an Input, or call it once")
    ending = ".keras" if modules[0].startswith("keras.src.models.") else ".h5"  # Keras 3 alone has that place
    with tempfile.TemporaryDirectory(prefix="hwcompile-") as folder:
        path = Path(folder) / f"{name}{ending}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that .h5 is an old format
                model.save(str(path))
        except Exception as e:  # whatever a layer's own get_config may raise
            rule = f"cannot be saved ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
            raise CompileError(name, rule, "see that model.save works") from e
        try:
            return read_keras(path)
        except CompileError as e:
            raise CompileError(e.where.replace(str(path), name), e.rule, e.fix) from None
