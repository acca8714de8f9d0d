"""Geometry and matrices of convolutions that every front end shares; channels are last, and taps come before channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["grouped_matrix", "same_padding", "spread_indices"]

Int64 = NDArray[np.int64]


def same_padding(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(in front, behind): the padding with which ceil(n / stride) positions fit; an odd element goes behind."""
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, s, k, d in zip(spatial, strides, kernel, dilations)
    ]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def grouped_matrix(kernel: NDArray, groups: int) -> NDArray:
    """``[taps, inputs / groups, outputs]`` as a block-diagonal ``[taps * inputs, outputs]``."""
    taps, per_group, out = kernel.shape
    full = np.zeros((taps, groups * per_group, out), kernel.dtype)
    for k in range(groups):
        columns = slice(k * out // groups, (k + 1) * out // groups)
        full[:, k * per_group : (k + 1) * per_group, columns] = kernel[:, :, columns]
    return full.reshape(-1, out)


def spread_indices(
    spatial: Sequence[int], strides: Sequence[int], starts: Sequence[int], lengths: Sequence[int]
) -> Int64:
    """The input of a transposed convolution with zeros in between: ``[*lengths]`` of flat spatial indices, -1 for a zero.

    Element k of an axis stands at place ``starts + k``, and input i at place ``i * strides``.
    """
    rank = len(spatial)
    index = np.zeros((1,) * rank, np.int64)
    for k, n in enumerate(spatial):
        place = np.arange(starts[k], starts[k] + lengths[k])
        inside = (place % strides[k] == 0) & (place >= 0) & (place // strides[k] < n)
        at = np.where(inside, place // strides[k], -1).reshape([-1 if j == k else 1 for j in range(rank)])
        index = np.where((index < 0) | (at < 0), -1, index * n + at)
    return index
