"""Knows the files: one for each distinct tensor or text, named by its content; not which state refers to it."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import CompileError

__all__ = ["Object", "Objects", "blob", "tensor"]

SUFFIXES = {"tensor": ".safetensors", "text": ".txt", "bytes": ".bin"}
DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
UNFINISHED = ".unfinished-"
NAME = "tensor"  # of the one tensor in each safetensors file


@dataclass(frozen=True)
class Object:
    """Content, its SHA-256 (64 hexadecimal digits) and its kind: `tensor` (an array), `text` or `bytes` (bytes)."""

    digest: str
    kind: str
    content: np.ndarray | bytes


def tensor(where: str, array: Any) -> Object:
    """A numpy array (or scalar) of any shape, by dtype, shape and bytes; refuses dtypes that a safetensors file cannot hold."""
    if not isinstance(array, np.ndarray | np.generic):
        raise CompileError(
            where, f"must be a numpy array, not {type(array).__name__}", "for torch: tensor.detach().cpu().numpy()"
        )
    if array.dtype.name not in DTYPES:
        raise CompileError(where, f"must have one of the dtypes {', '.join(DTYPES)}, not {array.dtype}")
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    hashed = hashlib.sha256(f"tensor {array.dtype.name} {array.shape}\n".encode())
    hashed.update(array.reshape(-1).view(np.uint8))
    return Object(hashed.hexdigest(), "tensor", array)


def blob(content: str | bytes) -> Object:
    """Text or bytes, as a compiled graph is."""
    kind, data = ("text", content.encode()) if isinstance(content, str) else ("bytes", content)
    return Object(hashlib.sha256(f"{kind}\n".encode() + data).hexdigest(), kind, data)


class Objects:
    """The folder `objects`: a file is there whole or not at all, and never changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str, kind: str) -> Path:
        return self.folder / digest[:2] / (digest + SUFFIXES[kind])

    def write(self, objects: Iterable[Object]) -> None:
        """Write those that are not there yet. After this they survive a crash of the machine."""
        changed: set[Path] = set()
        for item in objects:
            path = self.path(item.digest, item.kind)
            if path.exists():
                continue
            data = item.content if isinstance(item.content, bytes) else _safetensors().save({NAME: item.content})
            try:
                if not path.parent.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    changed |= {self.folder, self.folder.parent}
                self._write(path, data)
            except OSError as error:
                raise CompileError(
                    f"store {self.folder.parent}",
                    f"cannot write {path.name} ({error.strerror}), and nothing was recorded",
                    "free some space, or check the folder's permissions",
                ) from error
            changed.add(path.parent)
        for folder in changed:
            _sync_folder(folder)

    def _write(self, path: Path, data: bytes) -> None:
        unfinished = path.with_name(UNFINISHED + secrets.token_hex(8))
        try:
            # Not tempfile: its files are for their owner alone, and a group shares a store.
            with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def read(self, digest: str, kind: str) -> np.ndarray | bytes:
        """The content, which is what the digest says; CompileError where the file is missing or damaged."""
        path = self.path(digest, kind)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CompileError(
                str(path), "the file is missing", "restore it from a copy, or add the state again"
            ) from None
        except OSError as error:
            raise CompileError(
                str(path), f"the file cannot be read ({error.strerror})", "check its permissions"
            ) from None
        content = _parsed(data) if kind == "tensor" else data
        if content is None or _digest(content, kind) != digest:
            raise CompileError(
                str(path), "the file is damaged: its content is not what its name says",
                "restore it from a copy, or delete it and add the state again",
            )  # fmt: skip
        return content

    def files(self) -> Iterator[tuple[str, Path]]:
        """(digest, path) of all files, the digest empty for one that was never finished."""
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem = entry.name.partition(".")[0]
                    if entry.name.startswith(UNFINISHED) or len(stem) == 64:
                        yield stem, Path(entry.path)

    def delete(self, path: Path, grace_s: float) -> int:
        """Delete a file that is at least `grace_s` old; its size in bytes, -1 if it stays or has gone."""
        try:
            found = path.stat()
            if time.time() - found.st_mtime < grace_s:
                return -1
            path.unlink()
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise CompileError(str(path), f"cannot be deleted ({error.strerror})", "check its permissions") from None
        return found.st_size


def _digest(content: np.ndarray | bytes, kind: str) -> str:
    if isinstance(content, np.ndarray):
        return tensor(NAME, content).digest
    return hashlib.sha256(f"{kind}\n".encode() + content).hexdigest()


def _parsed(data: bytes) -> np.ndarray | None:
    """The one tensor of a safetensors file, writable; None for anything else."""
    library = _safetensors()
    try:
        found = library.load(data)
    except Exception:  # whatever a damaged file does to the parser
        return None
    return np.array(found[NAME]) if list(found) == [NAME] else None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise CompileError(
            "lineage", "needs safetensors, which is not installed", "pip install 'hwcompile[search]'"
        ) from None
    return safetensors.numpy


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder durable; a system that cannot open folders (Windows) orders them itself."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
