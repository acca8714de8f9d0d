"""Where in the user's own code a traced function cannot be hardware."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..ir.errors import CompileError

__all__ = ["error"]

_HERE = str(Path(__file__).parent)
_NUMPY = str(Path(np.__file__).parent)


def _line() -> str:
    """The line of the traced function that is at work: file name and number."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith((_HERE, _NUMPY, "<")):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def error(what: str, rule: str, fix: str = "") -> CompileError:
    """An error at the line of the traced function."""
    return CompileError(f"{_line()} ({what})", rule, fix)
