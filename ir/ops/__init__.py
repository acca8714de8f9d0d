"""The ops of the language, one definition each: attributes, type rule, value rule."""

from .arithmetic import Add, Maximum, Minimum, Mul, Neg, Shift, Sub
from .base import Op
from .compare import Compare, Select
from .forest import Forest
from .layout import Concat, Gather, Layout, Reshape, Transpose
from .linear import Linear
from .quantizing import Lookup, Quantize, Requantize
from .reduce import ReduceMax, ReduceSum
from .sources import Constant, Input
from .window import Window

__all__ = [
    "OPS",
    "Add",
    "Compare",
    "Concat",
    "Constant",
    "Forest",
    "Gather",
    "Input",
    "Layout",
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
    "Select",
    "Shift",
    "Sub",
    "Transpose",
    "Window",
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
        Minimum,
        Compare,
        Select,  # elementwise, exact
        Linear,  # a constant matrix
        Forest,  # decision trees
        ReduceSum,
        ReduceMax,
        Reshape,
        Transpose,
        Gather,
        Concat,
        Window,  # layout: wires
    )
}
"""Every op by its name in the text form."""
