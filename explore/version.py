"""Which code made a candidate, also between two releases."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path

__all__ = ["code_version"]

PACKAGE = Path(__file__).parents[1]
ROOMS = ("ir", "frontends", "codegen", "hw_targets", "verify", "report", "lineage", "explore", "models", "optimize")
"""Folders of the package; in a checkout there are others beside them."""


@functools.cache
def code_version() -> str:
    """The release, and a digest of the sources as they are: ``"0.1.0+3f2a90c1"``; "0" where the package is not installed."""
    try:
        release = importlib.metadata.version("hwcompile")
    except importlib.metadata.PackageNotFoundError:
        release = "0"
    h = hashlib.sha256()
    for path in sorted([*PACKAGE.glob("*.py"), *(p for room in ROOMS for p in (PACKAGE / room).rglob("*.py"))]):
        h.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return f"{release}+{h.hexdigest()[:8]}"
