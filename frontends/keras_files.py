"""Keras model files as data: .h5, .json with .h5, and .keras; knows no layer. A file is untrusted input; nothing in it runs.

Everything is read at once into nested dictionaries of numbers, within limits on sizes, counts and depths.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError

__all__ = ["KERAS_ENDINGS", "MODELS", "KerasFile", "Weights", "load_keras"]

KERAS_ENDINGS = (".h5", ".hdf5", ".json", ".keras")
"""File endings that are Keras models."""

MODELS = ("Sequential", "Functional", "Model")
"""Classes that are made of layers."""

_MAX_BYTES = 1 << 30
_MAX_CONFIG_BYTES = 1 << 26
_MAX_RATIO = 1000
_MAX_OBJECTS = 100_000
_MAX_DEPTH = 48
_MAX_RANK = 8

Tree = dict[str, Any]
"""A group of an HDF5 file: arrays and groups by name; the key ``""`` holds a legacy layer's list of weight names."""


@dataclass(frozen=True)
class Weights:
    """The variables of one layer, or of a model and its layers.

    Keras 3 stores a tree of objects (`tree`), in which variables have numbers; Keras 2 a flat list of named arrays for each
    layer of the outermost model (`named`).
    """

    where: str
    tree: Tree | None = None
    named: tuple[tuple[str, NDArray[Any]], ...] = ()

    def of_layers(self, layers: Sequence[tuple[str, str]]) -> list[Weights]:
        """The variables of each layer of a model, given as (name, class name)."""
        if self.tree is None:
            return [self._named_part(name) if kind not in MODELS else self for name, kind in layers]
        groups = next((g for k in ("layers", "_layer_checkpoint_dependencies") if (g := _group(self.tree, k))), {})
        used: dict[str, int] = {}
        found: list[Weights] = []
        for _, kind in layers:
            name = _snake_case(kind)
            count = used[name] = used.get(name, -1) + 1
            found.append(Weights(self.where, _group(groups, f"{name}_{count}" if count else name)))
        return found

    def child(self, *names: str) -> Weights:
        """The variables of a layer inside a layer: the first of the `names` that there is.

        In Keras 2 files a name is the beginning of a path component; where none fits, all variables are meant.
        """
        if self.tree is not None:
            return Weights(self.where, _group(self.tree, next((n for n in names if n in self.tree), names[0])))
        for name in names:
            part = tuple(v for v in self.named if any(p.startswith(name) for p in v[0].split("/")[:-1]))
            if part:
                return Weights(self.where, named=part)
        return self

    def take(self, where: str, roles: Sequence[str]) -> list[NDArray[Any]]:
        """The variables of a layer in the order of `roles`, by name where the file has names. All must be asked for."""
        if self.tree is not None:
            stored = _group(self.tree, "vars")
            named = [(k, v) for k, v in sorted(stored.items(), key=lambda kv: (len(kv[0]), kv[0])) if k]
        else:
            named = list(self.named)
        if len(named) != len(roles) or any(isinstance(v, dict) for _, v in named):
            rule = f"must have the {len(roles)} weights {list(roles)} in the file, not {len(named)}"
            raise CompileError(where, rule, "save the model and its weights together, after building it")
        by_role = {path.split("/")[-1].split(":")[0]: v for path, v in named}
        if set(by_role) == set(roles):
            return [by_role[r] for r in roles]
        return [v for _, v in named]

    def _named_part(self, name: str) -> Weights:
        """The variables of a layer of a nested model: those with its name in their path. Paths do not name models in it."""
        return Weights(self.where, named=tuple(v for v in self.named if name in v[0].split("/")[:-1]))


@dataclass(frozen=True)
class LayerFile(Weights):
    """The variables of the outermost model in a Keras 2 file: a flat list for each of its layers."""

    by_layer: dict[str, Weights] = field(default_factory=dict)

    def of_layers(self, layers: Sequence[tuple[str, str]]) -> list[Weights]:
        return [self.by_layer.get(name, Weights(self.where)) for name, _ in layers]


@dataclass(frozen=True)
class KerasFile:
    """A model's configuration (class name and config) and its variables. `version`: 2 or 3, whose defaults differ."""

    name: str
    where: str
    config: dict[str, Any]
    weights: Weights
    version: int


def load_keras(source: str | Path, weights: str | Path | None = None) -> KerasFile:
    """Read a Keras file. A .json file needs `weights`, or its weights beside it as NAME_weights.h5, NAME.weights.h5 or NAME.h5.

    Raises `CompileError` for files that cannot be read, exceed the limits, or hold no model.
    """
    path = Path(source)
    where = str(path)
    if path.suffix == ".keras":
        config, tree, written_by = _read_zip(path, where)
        stored, version = Weights(where, tree), _version({"keras_version": written_by})
    elif path.suffix == ".json":
        config = _parsed(_read_bytes(path, where), where)
        tree = _read_h5(_weights_file(path, weights))[1]
        stored = _as_weights(tree, where)
        version = _version(config)
    else:
        text, tree = _read_h5(path)
        if text is None:
            rule = "must hold a model, but holds weights alone"
            raise CompileError(where, rule, "give the .json file of the model, or save it with model.save")
        config = _parsed(text, where)
        stored, version = _as_weights(tree, where), _version({**config, **_versions(tree)})
    if not isinstance(config.get("class_name"), str) or not isinstance(config.get("config"), dict | list):
        raise CompileError(where, "must hold a model's class_name and config", "save it with model.save")
    return KerasFile(path.stem, where, config, stored, version)


def _version(config: dict[str, Any]) -> int:
    """The major version of the Keras that wrote a configuration. Keras 2 always says; Keras 3 does not in JSON, but has modules."""
    found = str(config.get("keras_version", ""))
    return 3 if found.startswith("3") or (not found and "module" in config) else 2


def _versions(tree: Tree) -> dict[str, Any]:
    return {"keras_version": tree["keras_version"]} if "keras_version" in tree else {}


def _read_bytes(path: Path, where: str, limit: int = _MAX_CONFIG_BYTES) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(limit + 1)
    except FileNotFoundError:
        raise CompileError(where, "there is no such file", "check the path") from None
    except OSError as e:
        raise CompileError(where, f"cannot be read: {e.strerror or e}", "check the path") from None
    if len(data) > limit:
        raise CompileError(where, f"must be smaller than {limit} bytes", "this is no network for a trigger")
    return data


def _weights_file(path: Path, given: str | Path | None) -> Path:
    if given is not None:
        return Path(given)
    choices = [path.with_name(path.stem + ending) for ending in ("_weights.h5", ".weights.h5", ".h5")]
    found = next((c for c in choices if c.is_file()), None)
    if found is None:
        names = ", ".join(c.name for c in choices)
        raise CompileError(str(path), f"the weights must lie beside it, as one of {names}", "copy them there")
    return found


def _parsed(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise CompileError(where, "its model configuration is no valid JSON", "export the model again") from None
    if isinstance(config, str):  # tf.keras to_json() written once more with json.dump
        return _parsed(config, where)
    if not isinstance(config, dict):
        raise CompileError(where, f"its model configuration must be an object, not {type(config).__name__}")
    _check_depth(config, where)
    return config


def _check_depth(config: Any, where: str) -> None:
    level, depth = [config], 0
    while level:
        depth += 1
        if depth > 2 * _MAX_DEPTH:
            raise CompileError(where, f"its configuration is nested deeper than {2 * _MAX_DEPTH}", "simplify the model")
        level = [
            v
            for c in level
            for v in (c.values() if isinstance(c, dict) else c if isinstance(c, list) else ())
            if isinstance(v, dict | list)
        ]


# ---- containers -------------------------------------------------------------------------------------------------------


def _read_zip(path: Path, where: str) -> tuple[dict[str, Any], Tree, str]:
    """(configuration, variables, version of Keras) of a .keras file."""
    try:
        with zipfile.ZipFile(path) as z:
            config = _member(z, "config.json", where, _MAX_CONFIG_BYTES)
            weights = _member(z, "model.weights.h5", where, _MAX_BYTES)
            named = "metadata.json" in z.namelist()
            metadata = _parsed(_member(z, "metadata.json", where, _MAX_CONFIG_BYTES), where) if named else {}
    except FileNotFoundError:
        raise CompileError(where, "there is no such file", "check the path") from None
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError) as e:
        raise CompileError(where, f"is not an intact .keras file ({e})", "save it again with model.save") from None
    return _parsed(config, where), _read_h5(io.BytesIO(weights), where)[1], str(metadata.get("keras_version", "3"))


def _member(z: zipfile.ZipFile, name: str, where: str, limit: int) -> bytes:
    """A file in the archive; refused where it is too large or its compression is a bomb."""
    infos = [i for i in z.infolist() if i.filename == name]
    if len(infos) != 1:
        raise CompileError(where, f"must hold one '{name}', not {len(infos)}", "save it again with model.save")
    size, packed = infos[0].file_size, infos[0].compress_size
    if size > limit or size > _MAX_RATIO * max(packed, 1):
        raise CompileError(where, f"'{name}' unpacks {packed} bytes to {size}, which is refused", "save it again")
    with z.open(infos[0]) as f:
        data = f.read(limit + 1)
    if len(data) != size:
        raise CompileError(where, f"'{name}' is not of the size that the archive states", "save it again")
    return data


def _read_h5(source: Path | io.BytesIO, where: str = "") -> tuple[str | bytes | None, Tree]:
    """(the model's configuration, if it is there; the variables) of an HDF5 file."""
    import h5py

    where = where or str(source)
    if isinstance(source, Path) and not source.is_file():
        raise CompileError(where, "there is no such file", "check the path")
    try:
        with h5py.File(source, "r") as f:
            config = f.attrs.get("model_config")
            versions = {"keras_version": _text(v)} if (v := f.attrs.get("keras_version")) is not None else {}
            root = _hard_linked(f, "model_weights", where) if "model_weights" in f else f
            if _text(root.attrs.get("backend", "")) == "theano":
                raise CompileError(where, "its kernels are those of Theano", "save it with the TensorFlow backend")
            reader = _Reader(where)
            tree = reader.group(root, 0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as e:
        raise CompileError(where, f"is not an intact HDF5 file ({e})", "save it again") from None
    return None if config is None else _text(config), {**tree, **versions}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def _hard_linked(group: Any, name: str, where: str) -> Any:
    """A member of a group; links that lead elsewhere are refused."""
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise CompileError(where, f"'{name}' is a link to another place, which is refused", "save it again")
    return group[name]


@dataclass
class _Reader:
    """Reads groups of an HDF5 file, counting what it takes."""

    where: str
    objects: int = 0
    total: int = 0

    def group(self, group: Any, depth: int) -> Tree:
        import h5py

        if depth > _MAX_DEPTH:
            raise CompileError(self.where, f"its groups are nested deeper than {_MAX_DEPTH}", "save it again")
        found: Tree = {}
        names = self._names(group, "weight_names")
        if names is not None:
            found[""] = names
        if (order := self._names(group, "layer_names")) is not None:
            found["layer_names"] = order
        for name in group:
            self.objects += 1
            if self.objects > _MAX_OBJECTS:
                raise CompileError(self.where, f"must hold at most {_MAX_OBJECTS} objects", "save it again")
            if name in ("optimizer_weights", "optimizer"):
                continue
            member = _hard_linked(group, name, self.where)
            if isinstance(member, h5py.Group):
                found[name] = self.group(member, depth + 1)
            elif isinstance(member, h5py.Dataset):
                found[name] = self._array(member)
        return found

    def _names(self, group: Any, key: str) -> list[str] | None:
        """A list of names in an attribute; long lists are cut into numbered ones."""
        parts = [key] if key in group.attrs else []
        while f"{key}{len(parts)}" in group.attrs:
            parts.append(f"{key}{len(parts)}")
        if not parts:
            return None
        return [_text(v) if isinstance(v, str | bytes) else str(v) for p in parts for v in np.ravel(group.attrs[p])]

    def _array(self, data: Any) -> NDArray[Any]:
        what = f"{self.where}: {data.name}"
        if data.dtype.kind == "O" or data.dtype.kind not in "fiub":
            return np.empty(0)  # text, such as a vocabulary: no variable of a supported layer
        if data.external or data.is_virtual:
            raise CompileError(what, "keeps its data in another file, which is refused", "save it again")
        if len(data.shape) > _MAX_RANK:
            raise CompileError(what, f"a tensor must have at most {_MAX_RANK} axes, not {len(data.shape)}")
        self.total += data.size * data.dtype.itemsize
        if self.total > _MAX_BYTES:
            raise CompileError(what, "all weights must be smaller than 1 GB", "this is no network for a trigger")
        return np.asarray(data[()])


def _as_weights(tree: Tree, where: str) -> Weights:
    """The variables of a legacy file by layer, or those of Keras 3."""
    if "layer_names" not in tree:
        return Weights(where, tree)
    by_layer: dict[str, Weights] = {}
    for name in tree["layer_names"]:
        group = _group(tree, name) if "/" not in name else _at(tree, name, where)
        by_layer[name] = Weights(where, named=tuple((path, _at(group, path, where)) for path in group.get("", [])))
    return LayerFile(where, by_layer=by_layer)


def _group(tree: Tree, name: str) -> Tree:
    found = tree.get(name, {})
    return found if isinstance(found, dict) else {}


def _at(tree: Tree, path: str, where: str) -> Any:
    found: Any = tree
    for part in path.split("/"):
        if not isinstance(found, dict) or part not in found:
            raise CompileError(where, f"the variable '{path}' is listed but not there", "save it again")
        found = found[part]
    return found


def _snake_case(name: str) -> str:
    """A class name as Keras 3 makes it a group's name."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
