"""Convolutions as the peers need them: windows and pooling of channels-first images, in plain numpy indexing."""

from __future__ import annotations

from typing import Any

__all__ = ["pooled", "windows"]


def windows(x: Any, stack: Any) -> Any:
    """``[..., channels, height, width]`` to ``[..., positions, channels * 9]`` for a 3 x 3 kernel; `stack` joins on a last axis."""
    height, width = x.shape[-2] - 2, x.shape[-1] - 2
    parts = [x[..., c, i : i + height, j : j + width] for c in range(x.shape[-3]) for i in range(3) for j in range(3)]
    return stack(parts)


def pooled(x: Any, n: int, maximum: Any) -> Any:
    """The largest of each n x n block of ``[..., height, width]``."""
    height, width = x.shape[-2] // n * n, x.shape[-1] // n * n
    parts = [x[..., i:height:n, j:width:n] for i in range(n) for j in range(n)]
    found = parts[0]
    for part in parts[1:]:
        found = maximum(found, part)
    return found
