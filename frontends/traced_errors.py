"""Where in the user's own code a traced function cannot be hardware."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import numpy as np

from ..ir.errors import CompileError

__all__ = ["error", "stopped"]

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


def stopped(name: str, e: Exception) -> CompileError:
    """The error where the traced function itself raised, at the last of its lines that was at work."""
    own = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith((_HERE, _NUMPY, "<"))]
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno} ({name})" if own else name
    rule = f"stops with {type(e).__name__}: {str(e).partition(chr(10))[0]}"
    return CompileError(where, rule, "correct it; called with plain arrays, the function is ordinary numpy")
