"""The text of a tiny HLS project, to be read by people: a change of it is a decision."""

import numpy as np

from hwcompile.codegen.hls import LayerSchedule, Schedule, emit
from hwcompile.hw_targets import load_target
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Input, Linear, Lookup, Quantize, ReduceMax, Reshape, Window
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed


def tiny():
    b = Builder("tiny")
    x = b.add(Input((3,), Fixed(-128, 127, -4)), name="x")
    hidden = b.add(Linear(np.array([[3, -1, 0, 7], [-5, 2, 6, 0], [1, 4, -8, 2]]), -3), x, name="hidden")
    hidden = b.add(Add(), hidden, b.add(Constant(np.array([5, -3, 0, 9]), -5), name="hidden.bias"), name="hidden.sum")
    hidden = b.add(Quantize(Fixed(0, 63, -2), Rounding.RND_CONV, Overflow.SAT), hidden, name="relu")
    y = b.add(Linear(np.array([[1, -2], [3, 0], [-1, 1], [2, 5]]), np.array([-1, 0])), hidden, name="logits")
    interval = Fixed.of(np.array([-16, -4]), np.array([15, 5]), 1)
    y = b.add(Quantize(interval, Rounding.RND, Overflow.SAT), y, name="narrow")
    y = b.add(Lookup((np.arange(-16, 16) ** 2) // 2, -16, 1, -3), y, name="square")
    return run(b.graph([Output("y", y)]), PIPELINES["hardware"])


def test_hls_tiny(golden):
    files = emit(tiny(), load_target("vu13p"), 5.0).project.files
    golden("hls_tiny", {path: text for path, text in files.items() if not path.endswith((".dat", "fixed_point.h"))})


def image():
    """A convolution with a residual, a maximum over the image, and a dense layer."""
    b = Builder("image")
    x = b.add(Input((4, 5, 2), Fixed(-8, 7, -2)), name="x")
    w = b.add(Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), x, name="window")
    w = b.add(Reshape((4, 5, 18)), w, name="taps")
    weights = np.array([[(3 * i + 5 * j) % 7 - 3 for j in range(2)] for i in range(18)])
    y = b.add(Linear(weights, -2), w, name="conv")
    y = b.add(Add(), y, x, name="residual")
    y = b.add(Quantize(Fixed(0, 15, -1), Rounding.RND, Overflow.SAT), y, name="relu")
    y = b.add(ReduceMax(0), b.add(Reshape((20, 2)), y, name="pixels"), name="largest")
    y = b.add(Linear(np.array([[1, -2, 3], [4, 0, -1]])), b.add(Reshape((2,)), y, name="flat"), name="logits")
    return run(b.graph([Output("y", y)]), PIPELINES["hardware"])


def test_hls_stream(golden):
    schedule = Schedule("stream", {"conv": LayerSchedule("resource", 6)})
    files = emit(image(), load_target("vu13p"), 5.0, schedule).project.files
    golden("hls_stream", {p: t for p, t in files.items() if p.startswith("firmware/") and "fixed_point" not in p})
