"""Which code this is: the release, and between two releases the sources as they are."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path

__all__ = ["code_version", "release"]

PACKAGE = Path(__file__).parent
ROOMS = ("ir", "frontends", "codegen", "hw_targets", "verify", "report", "lineage", "explore", "models", "optimize")
"""Folders of the package; in a checkout there are others beside them."""


def release() -> str:
    """The version that is installed; "0" for sources that are used without being installed."""
    try:
        return importlib.metadata.version("hwcompile")
    except importlib.metadata.PackageNotFoundError:
        return "0"


@functools.cache
def code_version() -> str:
    """The release, and a digest of the sources: ``"0.1.0+3f2a90c1"``."""
    h = hashlib.sha256()
    for path in sorted([*PACKAGE.glob("*.py"), *(p for room in ROOMS for p in (PACKAGE / room).rglob("*.py"))]):
        h.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return f"{release()}+{h.hexdigest()[:8]}"
