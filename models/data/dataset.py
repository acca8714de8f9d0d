"""One data set: arrays by name, what they mean, and how they are split and standardised; knows no physics."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...hw_targets import process
from ...ir.errors import CompileError

__all__ = ["DataSet", "Split", "Standardisation", "kept", "read"]

_ABOUT = "about"
"""The entry of a file that holds everything but the arrays, as JSON in bytes."""


class Split(NamedTuple):
    """Three parts of one data set."""

    train: DataSet
    validation: DataSet
    test: DataSet


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature, taken from the training part and applied to every part."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """``(x - mean) / std`` as float32."""
        return ((x - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class DataSet:
    """Arrays with one row for each event.

    arrays: by name, all with the same first axis; `columns`: the names of the last axis of an array, with units;
    `meaning`: one sentence for each array. `inputs` and `target` name the arrays a network is trained on; `classes` name
    the labels 0, 1, ... where the target is a label. `overlap`: how many neighbouring rows share samples, 0 for
    independent events; rows of a time series are never shuffled. `made_with`: the parameters, for the record.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    target: str
    inputs: str = "x"
    classes: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
    overlap: int = 0
    made_with: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {k: len(v) for k, v in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise CompileError(f"data {self.name}", f"all arrays must have one row for each event, not {lengths}")
        for name in (self.inputs, self.target):
            self._known(name)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in self.arrays.items())
        return f"DataSet({self.name}: {arrays})"

    def _known(self, name: str) -> None:
        if name not in self.arrays:
            raise CompileError(
                f"data {self.name}", f"there is no array '{name}'", f"known: {', '.join(sorted(self.arrays))}"
            )

    def __len__(self) -> int:
        return len(self.arrays[self.target])

    def __getitem__(self, name: str) -> NDArray[Any]:
        self._known(name)
        return self.arrays[name]

    @property
    def x(self) -> NDArray[Any]:
        """The inputs ``[events, ...]``."""
        return self.arrays[self.inputs]

    @property
    def y(self) -> NDArray[Any]:
        """The targets ``[events]``."""
        return self.arrays[self.target]

    @property
    def digest(self) -> str:
        """sha256 over names, types, shapes and contents of the arrays, independent of their order."""
        h = hashlib.sha256()
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            h.update(f"{name}\0{little.dtype.str}\0{little.shape}\0".encode() + little.tobytes())
        return h.hexdigest()

    def describe(self) -> str:
        """The arrays, what they mean, their columns and the number of events in each class, as text."""
        lines = [f"{self.name}: {len(self):,} events, sha256 {self.digest[:16]}"]
        for name, array in self.arrays.items():
            role = {self.inputs: " (inputs)", self.target: " (target)"}.get(name, "")
            shape = "".join(f"[{n}]" for n in array.shape[1:])
            lines.append(f"  {name}{shape} {array.dtype}{role}: {self.meaning.get(name, '')}".rstrip(": "))
            if name in self.columns:
                lines.append(f"    {', '.join(self.columns[name])}")
        if self.classes:
            counts = np.bincount(self.y.astype(np.int64), minlength=len(self.classes))
            lines.append("  classes: " + ", ".join(f"{c} {n:,}" for c, n in zip(self.classes, counts)))
        return "\n".join(lines)

    def take(self, rows: Any) -> DataSet:
        """The events `rows`: indices, a slice or a mask."""
        return replace(self, arrays={k: v[rows] for k, v in self.arrays.items()})

    def split(self, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Split:
        """Training, validation and test part; the fractions are of all events, the rest is for training.

        Independent events are shuffled by `seed`. A time series (`overlap` > 0) is cut in this order instead, and
        the rows at a border that share samples with the part before are left out.
        """
        if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
            raise CompileError(
                f"data {self.name}", f"fractions must be at least 0 and sum to less than 1, not {validation} and {test}"
            )
        n = len(self)
        ends = [n - round(n * test) - round(n * validation), n - round(n * test), n]
        order = np.arange(n) if self.overlap else np.random.default_rng(seed).permutation(n)
        starts = [0, *(end + self.overlap for end in ends[:-1])]
        return Split(*(self.take(order[start:end]) for start, end in zip(starts, ends)))

    def standardisation(self) -> Standardisation:
        """Mean and standard deviation of every input feature over these events; a constant feature is only centred."""
        x = self.x.astype(np.float64)
        std = x.std(0)
        return Standardisation(x.mean(0), np.where(std > 0, std, 1.0))

    def packed(self) -> bytes:
        """The data set as the content of a compressed .npz file."""
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez_compressed(buffer, allow_pickle=False, **{**self.arrays, _ABOUT: text})
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz file, whole or not at all; `read` gives the data set back."""
        if not process.write_atomic(Path(path), self.packed()):
            raise CompileError(str(path), "cannot be written", "check the folder, its permissions and the space left")
        Path(path).chmod(0o644)  # the temporary file it was is for the user alone


def kept(name: str, key: Sequence[Any], make: Callable[[], DataSet]) -> DataSet:
    """A data set from the user's cache, or made and put there; `key`: all that it depends on, the version of what makes it too."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = process.cache_folder("data") / name / digest[:2] / f"{digest}.npz"
    try:
        return read(path)
    except CompileError:  # not there yet, or damaged
        made = make()
    process.write_atomic(path, made.packed())
    return made


def read(path: str | Path) -> DataSet:
    """The data set that `DataSet.save` wrote. Nothing is unpickled; raises CompileError for anything else."""
    where = str(path)
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        columns = {k: tuple(v) for k, v in about.pop("columns").items()}
        return DataSet(arrays=arrays, columns=columns, classes=tuple(about.pop("classes")), **about)
    except FileNotFoundError:
        raise CompileError(where, "there is no such file", "check the path") from None
    except OSError as e:
        raise CompileError(where, f"cannot be read: {e.strerror or e}", "check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise CompileError(
            where, "must be an intact data set of hwcompile (.npz)", "write it with `hwcompile data` or DataSet.save"
        ) from None


def check_count(where: str, what: str, value: int, least: int = 1) -> None:
    """Refuse a count that is no integer or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise CompileError(where, f"{what} must be an integer of at least {least}, not {value!r}")
