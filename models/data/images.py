"""The handwritten digits that scikit-learn carries; nothing is simulated."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import CompileError
from .dataset import DataSet

__all__ = ["digits"]


def digits() -> DataSet:
    """1,797 images ``[8, 8]`` of 0 to 16, a test set of the UCI collection (Alpaydin and Kaynak, 1998).

    Raises CompileError where scikit-learn is not installed. `DataSet.split` divides it, the same way for one seed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CompileError(
            "data digits", "needs scikit-learn, which is not installed", "run pip install scikit-learn"
        ) from None
    bunch: Any = load_digits()
    return DataSet(
        "digits",
        {"x": np.asarray(bunch.images, np.float32), "label": np.asarray(bunch.target, np.uint8)},
        target="label",
        classes=tuple(str(i) for i in range(10)),
        meaning={"x": "image, 0 to 16", "label": "the digit"},
    )
