"""Event data from .npz and .npy files, matched to a model's inputs by name and shape."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError

__all__ = ["match_events", "read_arrays", "read_events"]

_LABELS = ("label", "labels", "target", "y_true")


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """The numeric arrays of a file by name; a .npy file's array is called ``x``. Nothing is unpickled."""
    where = str(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {k: loaded[k] for k in loaded.files} if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except FileNotFoundError:
        raise CompileError(where, "there is no such file", "check the path") from None
    except OSError as e:
        raise CompileError(where, f"cannot be read: {e.strerror or e}", "check the path") from None
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError, KeyError):
        raise CompileError(
            where, "must be an intact .npz or .npy file of numbers", "write it with numpy.savez"
        ) from None
    return {k: v for k, v in arrays.items() if v.dtype.kind in "fiub"}


def read_events(
    path: str | Path, inputs: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """(data by input name, labels or None) from a file; see `match_events`."""
    arrays = read_arrays(path)
    data = match_events(str(path), arrays, inputs)
    events = len(next(iter(data.values())))
    labels = next((arrays[k] for k in _LABELS if k in arrays and arrays[k].shape == (events,)), None)
    return data, labels


def match_events(
    where: str, arrays: Mapping[str, Any], inputs: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """The array of each input: by its name, or ``x`` (or the only array) where the model has one input.

    A shape may differ from ``[events, *shape]`` in axes of length 1 only. Raises `CompileError` otherwise.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, shape in inputs.items():
        key = (
            name
            if name in arrays
            else "x"
            if len(inputs) == 1 and "x" in arrays
            else next(iter(arrays))
            if len(inputs) == 1 and len(arrays) == 1
            else None
        )
        if key is None:
            raise CompileError(
                where,
                f"must hold an array named '{name}' for that input, not only {sorted(arrays)}",
                "rename the arrays after the model's inputs",
            )
        x = np.asarray(arrays[key])
        if x.ndim == 0 or not len(x) or [n for n in x.shape[1:] if n != 1] != [n for n in shape if n != 1]:
            raise CompileError(
                where,
                f"array '{key}' must have shape [events, {', '.join(map(str, shape))}], not {list(x.shape)}",
                "reorder or select the columns that the model was trained on",
            )
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            bad = np.argwhere(~np.isfinite(x))[0]
            raise CompileError(
                where, f"array '{key}' must be finite, but holds {x[tuple(bad)]} at {bad.tolist()}", "clean the data"
            )
        found[name] = x.reshape((len(x), *shape))
    if len({len(x) for x in found.values()}) > 1:
        raise CompileError(
            where, f"all arrays must have the same number of events, not {[len(x) for x in found.values()]}"
        )
    return found
