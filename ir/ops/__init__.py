"""The ops of the language, one definition each: attributes, type rule, value rule."""

from .arithmetic import Add, Maximum, Minimum, Mul, Neg, Shift, Sub
from .base import Op
from .layout import Concat, Gather, Reshape, Transpose
from .linear import Linear
from .quantizing import Lookup, Quantize, Requantize
from .reduce import ReduceMax, ReduceSum
from .sources import Constant, Input

__all__ = [
    "OPS",
    "Add",
    "Concat",
    "Constant",
    "Gather",
    "Input",
    "Linear",
    "Lookup",
    "Maximum",
    "Minimum",
    "Mul",
    "Neg",
    "Op",
    "Quantize",
    "ReduceMax",
    "ReduceSum",
    "Requantize",
    "Reshape",
    "Shift",
    "Sub",
    "Transpose",
]

OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        Input,
        Constant,  # sources
        Quantize,
        Requantize,
        Lookup,  # the only three that lose information
        Add,
        Sub,
        Mul,
        Neg,
        Shift,
        Maximum,
        Minimum,  # elementwise, exact
        Linear,  # a constant matrix
        ReduceSum,
        ReduceMax,
        Reshape,
        Transpose,
        Gather,
        Concat,  # layout: wires
    )
}
"""Every op by its name in the text form."""
