"""Functions of one variable that tables are made of, in float64; nothing else ever evaluates them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUNCTIONS"]

Float = NDArray[np.float64]


def _po2(x: Float, lowest: float, highest: float, top: float, even: float, floor: float) -> Float:
    """sign(x) 2**k, k nearest to log2 |x| (or below it, or even), in float32 as QKeras computes it."""
    size = np.minimum(np.maximum(np.abs(x), 1e-7), top).astype(np.float32)
    steps = np.log(np.sqrt(size) if even else size) / np.float32(np.log(2.0))
    k = np.clip(np.floor(steps) if floor else np.round(steps), lowest, highest).astype(np.float64)
    k = np.where(np.abs(x).astype(np.float32) < np.float32(1e-7), lowest, k * (1 + even))
    return np.where(x < 0, -1.0, 1.0) * np.exp2(k)


FUNCTIONS: dict[str, Callable[..., Float]] = {
    "po2": _po2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))),
    "tanh": np.tanh,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "cbrt": np.cbrt,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-np.clip(x, -700, 700))),
    "softplus": lambda x: np.logaddexp(0, x),
    "swish": lambda x, alpha=1.0: x / (1 + np.exp(-np.clip(alpha * x, -700, 700))),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "power": lambda x, exponent=1.0: np.power(x, exponent),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "elu": lambda x, alpha=1.0: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "selu": lambda x, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: (
        gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)
    ),
    "celu": lambda x, alpha=1.0: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha)),
}
"""Functions of one variable, evaluated in float64 when a table is made and never again; NaN or Inf: not defined there."""
