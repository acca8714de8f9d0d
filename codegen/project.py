"""A generated project: a table of files, and the only code that writes one to disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import CompileError

__all__ = ["MANIFEST", "Project", "check_replaceable", "read_manifest", "write_file"]

MANIFEST = "hwcompile.json"
"""Lists the files of a written project, so that a later write knows which are its own."""


@dataclass(frozen=True)
class Project:
    """Files by relative path, text or bytes. Same input, same bytes."""

    files: Mapping[str, str | bytes]

    @property
    def digest(self) -> str:
        """sha256 over paths and contents."""
        h = hashlib.sha256()
        for path in sorted(self.files):
            content = self.files[path]
            data = content.encode() if isinstance(content, str) else content
            h.update(f"{path}\0{len(data)}\0".encode() + data)
        return h.hexdigest()

    def under(self, folder: str) -> Project:
        """The same files below `folder`."""
        return Project({f"{folder}/{path}": content for path, content in self.files.items()})

    def __or__(self, other: Project) -> Project:
        return Project({**self.files, **other.files})

    def write(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write all files or none: a sibling temporary folder is filled and then renamed into place.

        An existing folder is replaced only if `overwrite` is set and every file in it came from an earlier write.
        Raises `CompileError` for foreign files, a full disk or missing permission.
        """
        target = Path(folder).absolute()
        check_replaceable(target, overwrite)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                self._fill(staging)
                if target.exists():
                    shutil.rmtree(target)
                staging.chmod(0o755)
                os.replace(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as e:
            raise CompileError(
                str(target), f"cannot be written: {e.strerror or e}", "free space or choose another --output"
            ) from e
        return target

    def _fill(self, folder: Path) -> None:
        for path, content in sorted(self.files.items()):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        listing = {"files": sorted(self.files), "digest": self.digest}
        (folder / MANIFEST).write_text(json.dumps(listing, indent=1) + "\n")


def check_replaceable(target: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an earlier project of ours (and that only with `overwrite`)."""
    if not target.exists():
        return
    if not target.is_dir():
        raise CompileError(str(target), "must be a folder, not a file", "choose another --output")
    present = sorted(str(p.relative_to(target)) for p in target.rglob("*") if not p.is_dir())
    if not present:
        return
    try:
        own = {MANIFEST, *json.loads((target / MANIFEST).read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    foreign = [p for p in present if p not in own]
    if foreign:
        raise CompileError(
            str(target),
            f"holds {len(foreign)} files that hwcompile did not write, such as '{foreign[0]}'",
            "choose another --output or move them away",
        )
    if not overwrite:
        raise CompileError(
            str(target), "already holds a compiled project", "add --overwrite or choose another --output"
        )


def write_file(path: str | Path, data: bytes) -> None:
    """Write one file that the user named, whole or not at all; a link is followed, and only a regular file is replaced.

    Raises `CompileError` for anything else at that place, a folder that is not there, a full disk or missing permission.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise CompileError(str(path), "must be a regular file or not exist yet", "choose another --output")
    staging = target.with_name(f".{target.name}.part")
    try:
        try:
            staging.write_bytes(data)
            os.replace(staging, target)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as e:
        raise CompileError(
            str(path), f"cannot be written: {e.strerror or e}", "free space or choose another --output"
        ) from e


def read_manifest(folder: Path) -> tuple[str, ...]:
    """The files that `Project.write` put into a folder, all of which must still be there."""
    where = str(folder / MANIFEST)
    try:
        files = tuple(str(f) for f in json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CompileError(where, "is not a list of files that hwcompile wrote", "compile the model again") from None
    missing = [f for f in files if not (folder / f).is_file()]
    if missing:
        raise CompileError(
            str(folder), f"lacks {len(missing)} of its files, such as '{missing[0]}'", "compile the model again"
        )
    return files
