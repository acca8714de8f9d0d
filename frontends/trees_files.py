"""JSON and UBJSON as plain data, with bounded sizes and depths; knows nothing of what they describe."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import CompileError

__all__ = ["parse_document", "read_bytes"]

_MOST_BYTES = 1 << 30
_DEEPEST = 32


def read_bytes(source: str | Path) -> bytes:
    """The bytes of a file. Raises `CompileError` where there is none, or it is too large."""
    path = Path(source)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CompileError(str(path), f"may have at most {_MOST_BYTES:,} bytes", "train a smaller model")
        return path.read_bytes()
    except FileNotFoundError:
        raise CompileError(str(path), "there is no such file", "check the path") from None
    except OSError as e:
        raise CompileError(str(path), f"cannot be read: {e.strerror or e}", "check the path") from None


def parse_document(data: bytes, where: str) -> Any:
    """The value that JSON or UBJSON bytes hold; arrays of one type of number are numpy arrays in UBJSON."""
    try:
        if data[:1] == b"{" and data[1:2] in b' \t\r\n"}':
            return json.loads(data)
        return _Ubjson(data).document()
    except (ValueError, RecursionError, struct.error) as e:
        raise CompileError(where, f"is no JSON or UBJSON file ({e})", "save the model again") from None


_NUMBERS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
_LITERALS: dict[str, Any] = {"Z": None, "T": True, "F": False}


class _Ubjson:
    """A reader of the UBJSON specification, draft 12, without no-ops and high-precision numbers."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def document(self) -> Any:
        found = self.value(self.marker(), 0)
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes follow its end")
        return found

    def take(self, n: int) -> bytes:
        if n < 0 or n > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, within a value")
        self.at += n
        return self.data[self.at - n : self.at]

    def marker(self) -> str:
        return self.take(1).decode("latin-1")

    def peek(self) -> str:
        return self.data[self.at : self.at + 1].decode("latin-1")

    def number(self, kind: str) -> Any:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def length(self) -> int:
        kind = self.marker()
        if kind not in "iUIlL" or not kind:
            raise ValueError(f"a length must be an integer, not '{kind}' at byte {self.at - 1}")
        n = self.number(kind)
        if n < 0:
            raise ValueError(f"a length must not be negative, at byte {self.at}")
        return n

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8")

    def value(self, kind: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"values may be nested {_DEEPEST} deep")
        if kind in _NUMBERS:
            return self.number(kind)
        if kind in _LITERALS:
            return _LITERALS[kind]
        if kind == "S":
            return self.text()
        if kind == "C":
            return self.marker()
        if kind == "[":
            return self.array(depth)
        if kind == "{":
            return self.object(depth)
        raise ValueError(f"unknown type '{kind}' at byte {self.at - 1}")

    def header(self) -> tuple[str, int | None]:
        """The type and count of a container that gives them: ``$type#count`` or ``#count``."""
        kind = ""
        if self.peek() == "$":
            self.at += 1
            kind = self.marker()
            if self.peek() != "#":
                raise ValueError(f"a type needs a count, at byte {self.at}")
        if self.peek() != "#":
            return kind, None
        self.at += 1
        count = self.length()
        if count > len(self.data) - self.at and (kind not in _LITERALS or count > 1 << 24):
            raise ValueError(f"{count} elements cannot follow byte {self.at}")
        return kind, count

    def array(self, depth: int) -> Any:
        kind, count = self.header()
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype)
        found: list[Any] = []
        while count is None or len(found) < count:
            own = kind or self.marker()
            if count is None and own == "]":
                break
            found.append(self.value(own, depth + 1))
        return found

    def object(self, depth: int) -> dict[str, Any]:
        kind, count = self.header()
        found: dict[str, Any] = {}
        read = 0
        while count is None or read < count:
            if count is None and self.peek() == "}":
                self.at += 1
                break
            key = self.text()
            found[key] = self.value(kind or self.marker(), depth + 1)
            read += 1
        return found
