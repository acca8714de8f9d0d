"""How a value lies in its buffer: which of its elements each part of each lane word holds; writes no text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...ir.ops import Window
from ...ir.types import Int64
from .formats import GROUP

__all__ = ["ANY", "LANES", "ZERO", "Storage", "flat", "image", "row_windows", "rows"]

LANES = "lanes"
ZERO, ANY = -1, -2
"""In place of an element: the number zero (padding), or whatever (weights of zero meet it)."""


@dataclass(frozen=True, eq=False)
class Storage:
    """One element in each lane word ("lanes"), or groups of four bytes ("u8", value + offset) or two int16 ("s16").

    `index` is ``[words * group]``: the element that each place holds. `row`: elements that lie one after the other and
    begin a word of their own, or 0 where all do.
    """

    kind: str
    offset: int
    index: Int64
    row: int = 0

    @property
    def group(self) -> int:
        return GROUP[self.kind] if self.kind != LANES else 1

    @property
    def words(self) -> int:
        return len(self.index) // self.group

    @cached_property
    def key(self) -> tuple[str, int, bytes]:
        return self.kind, self.offset, self.index.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def is_flat(self) -> bool:
        """All elements in order, without gaps."""
        size = int((self.index >= 0).sum())
        return len(self.index) - size < self.group and bool((self.index[:size] == np.arange(size)).all())

    def starts(self, row: int, size: int) -> Int64 | None:
        """The word at which each run of `row` elements begins, or None where they do not lie so."""
        if row == 0 or size % row or (self.row != row and not (self.is_flat and row % self.group == 0)):
            return None
        place = np.full(size, -1, np.int64)
        held = np.flatnonzero(self.index >= 0)
        if len(held) != size:
            return None
        place[self.index[held]] = held
        return place[::row] // self.group

    def first_bytes(self) -> Int64 | None:
        """The element in the first byte of each word, where each word holds consecutive ones; else None."""
        if self.kind != "u8" or self.padded:
            return None
        words = self.index.reshape(-1, self.group)
        first = words[:, :1]
        expected = first + np.arange(self.group)
        return first[:, 0] if (first >= 0).all() and ((words == expected) | (words == ANY)).all() else None

    @property
    def padded(self) -> bool:
        """Some places hold the number zero, once and for all."""
        return bool((self.index == ZERO).any())


def _grouped(kind: str, offset: int, index: Int64, row: int) -> Storage:
    """Each last axis of `index` in words of its own."""
    group = GROUP[kind] if kind != LANES else 1
    gap = -index.shape[-1] % group
    full = np.pad(index, [(0, 0)] * (index.ndim - 1) + [(0, gap)], constant_values=ANY)
    return Storage(kind, offset, full.reshape(-1), row)


def flat(kind: str, offset: int, size: int) -> Storage:
    """All elements in order."""
    return _grouped(kind, offset, np.arange(size, dtype=np.int64), 0)


def rows(kind: str, offset: int, shape: tuple[int, ...]) -> Storage:
    """In order, each last axis in words of its own."""
    group = GROUP[kind] if kind != LANES else 1
    if shape[-1] % group == 0 or math.prod(shape[:-1]) == 1:
        return flat(kind, offset, math.prod(shape))
    return _grouped(kind, offset, np.arange(math.prod(shape), dtype=np.int64).reshape(shape), shape[-1])


def image(kind: str, offset: int, window: Window, shape: tuple[int, ...]) -> Storage:
    """A channels-last image with the window's padding around it, each pixel in words of its own."""
    if not any((*window.begin, *window.end)):
        return rows(kind, offset, shape)
    pixels = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    around = [*zip(window.begin, window.end), (0, 0)]
    return _grouped(kind, offset, np.pad(pixels, around, constant_values=ZERO), shape[-1])


def row_windows(kind: str, offset: int, window: Window, shape: tuple[int, ...]) -> Storage:
    """For each line of a padded channels-last image and each position along it, what the kernel's line covers."""
    pixels = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    around = [*zip(window.begin[:-1], window.end[:-1]), (0, 0), (0, 0)]
    padded = np.pad(pixels, around, constant_values=ZERO)
    at = window.along(len(window.kernel) - 1, shape[-2])
    lines = np.where(
        at[..., None] < 0, ZERO, padded[..., np.maximum(at, 0), :]
    )  # [*lines, positions, kernel, channels]
    return _grouped(kind, offset, lines.reshape((*lines.shape[:-2], -1)), 0)
