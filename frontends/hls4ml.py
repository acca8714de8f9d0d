"""Reads a converted hls4ml model (its `ModelGraph`) into a `RealModel` that computes what hls4ml's C++ computes, bit for bit.

hls4ml has chosen every type by then; a type is an assignment as ap_fixed makes it. A layer is one function; what is not read is
refused by name. hls4ml itself is not imported: the graph's own objects are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.ops import Window
from ..ir.rounding import Overflow
from . import real
from .hls4ml_arithmetic import Cell, product_sum
from .hls4ml_tables import activation, is_table, softmax
from .precision import Precision, parse_precision
from .real import RealBuilder, RealModel
from .windows import grouped_matrix

__all__ = ["LAYERS", "is_hls4ml", "read_hls4ml"]


def is_hls4ml(source: Any) -> bool:
    """A model that hls4ml has converted."""
    return any(str(c.__module__).startswith("hls4ml.") and c.__name__ == "ModelGraph" for c in type(source).__mro__)


def read_hls4ml(graph: Any) -> RealModel:
    """A converted model. Raises `CompileError` naming the layer for what has no exact equivalent."""
    builder = RealBuilder(str(graph.config.get_project_name()))
    values: dict[str, tuple[int, Precision]] = {}
    for node in graph.get_layers():
        layer = Layer(builder, node, values)
        reader = LAYERS.get(layer.kind)
        if reader is None:
            raise layer.error("the layer is not supported", f"supported: {', '.join(sorted(LAYERS))}")
        found = reader(layer)
        for output in node.outputs:
            values[output] = layer.assigned(found), layer.result
    return builder.model(
        [(v.name.removesuffix("_out"), values[v.name if v.name in values else n][0]) for n, v in _outputs(graph)]
    )


def _outputs(graph: Any) -> list[tuple[str, Any]]:
    """(name of the tensor, variable) of each output."""
    return [(name, graph.output_vars[name]) for name in graph.outputs]


@dataclass(frozen=True)
class Layer:
    """One layer of hls4ml's graph and the values known so far: node and type by tensor name."""

    builder: RealBuilder
    node: Any
    values: dict[str, tuple[int, Precision]]

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def kind(self) -> str:
        """The name of the layer's class in hls4ml, without what a backend adds."""
        known = [c.__name__ for c in type(self.node).__mro__]
        return next((k for k in known if k in LAYERS), str(self.node.class_name))

    def error(self, rule: str, fix: str = "") -> CompileError:
        return CompileError(f"{self.name} ({self.node.class_name})", rule, fix)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.get_attr(name, default)

    def type(self, name: str) -> Precision:
        """The type of an attribute such as ``accum_t``."""
        found = self.attribute(name)
        if found is None:
            raise self.error(f"has no {name}", "convert the model with hls4ml 1.1 or newer")
        return self.precision(found.precision)

    def precision(self, p: Any) -> Precision:
        if type(p).__name__ not in (
            "FixedPrecisionType",
            "IntegerPrecisionType",
            "APFixedPrecisionType",
            "APIntegerPrecisionType",
        ):
            raise self.error(f"the type {p} is not supported", "use fixed-point types")
        return parse_precision(str(p), self.name)

    @property
    def result(self) -> Precision:
        return self.precision(self.node.get_output_variable().type.precision)

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's shape in hls4ml."""
        return tuple(int(n) for n in self.node.get_output_variable().shape)

    @property
    def x(self) -> Cell:
        return self.operand(0)

    def operand(self, k: int) -> Cell:
        index, precision = self.values[self.node.inputs[k]]
        return self.cell(index, precision)

    def cell(self, index: int, precision: Precision) -> Cell:
        return Cell(self.builder, self.name, index, precision)

    @property
    def transposed(self) -> bool:
        """A strategy has put the outputs of the weights first."""
        return bool(self.attribute("_weights_transposed", False))

    def weight(self, name: str) -> NDArray[np.float64]:
        """A weight as the C++ holds it."""
        variable = self.node.weights[name]
        values = np.asarray(variable.data, np.float64)
        op = self.precision(variable.type.precision).quant()
        return real.quantized(op, values) * op.scale

    def assigned(self, cell: Cell) -> int:
        """The value in the layer's result type."""
        return cell.to(self.result, "" if cell.index not in {v for v, _ in self.values.values()} else ".result").index


# ---- matrices -----------------------------------------------------------------------------------------------------------


def _input(c: Layer) -> Cell:
    return c.cell(c.builder.add(real.Input(c.shape), name=c.name), c.result)


def _constant(c: Layer) -> Cell:
    values = np.asarray(c.attribute("value"), np.float64).reshape(c.shape)
    return c.cell(c.builder.add(real.Constant(values), name=c.name), c.result)


def _bias(c: Layer, n: int) -> NDArray[np.float64]:
    return c.weight("bias").reshape(-1) if "bias" in c.node.weights else np.zeros(n)


def _dense(c: Layer) -> Cell:
    weights = c.weight("weight")
    weights = weights.T if c.transposed else weights
    weights = weights.reshape(c.x.shape[-1], -1)
    return product_sum(c.x, weights, _bias(c, weights.shape[1]), c.type("accum_t"), c.error)


def _window(c: Layer, kernel: tuple[int, ...]) -> Window:
    axes = ("height", "width")[-len(kernel) :]
    ends = (("top", "bottom"), ("left", "right"))[-len(kernel) :]
    if c.attribute("data_format", "channels_last") != "channels_last":
        raise c.error("must have channels last", "convert with channels_last_conversion")
    return Window(
        kernel,
        tuple(int(c.attribute(f"stride_{a}", 1)) for a in axes),
        tuple(int(c.attribute(f"dilation_{a}", 1)) for a in axes),
        tuple(int(c.attribute(f"pad_{a}", 0)) for a, _ in ends),
        tuple(int(c.attribute(f"pad_{b}", 0)) for _, b in ends),
    )


def _patches(c: Layer, window: Window) -> Cell:
    windows = c.x.add(window, suffix=".windows")
    *positions, taps, channels = windows.shape
    return windows.add(real.Reshape((*positions, taps * channels)), suffix=".rows")


def _conv(c: Layer) -> Cell:
    weights = c.weight("weight")
    rank = len(c.x.shape) - 1
    size = tuple(int(c.attribute(f"filt_{a}")) for a in ("height", "width")[-rank:])
    n_in, n_out = c.x.shape[-1], c.shape[-1]
    kernel = _kernel(c, weights, size, n_in, n_out)
    return product_sum(_patches(c, _window(c, size)), kernel, _bias(c, n_out), c.type("accum_t"), c.error)


def _kernel(
    c: Layer, weights: NDArray[np.float64], size: tuple[int, ...], n_in: int, n_out: int
) -> NDArray[np.float64]:
    """``[taps * inputs, outputs]``; a strategy may have put the outputs first."""
    taps = math.prod(size)
    if weights.size != taps * n_in * n_out:
        raise c.error("grouped convolutions are not supported")
    keras = (*size, n_in, n_out)
    if c.transposed:  # the outputs are in front
        return np.moveaxis(weights.reshape(n_out, *size, n_in), 0, -1).reshape(taps * n_in, n_out)
    if weights.shape not in (keras, (taps * n_in, n_out)):
        raise c.error(f"the weights must have shape {list(keras)}, not {list(weights.shape)}")
    return weights.reshape(taps * n_in, n_out)


def _depthwise(c: Layer) -> Cell:
    weights = c.weight("depthwise" if "depthwise" in c.node.weights else "weight")
    rank = len(c.x.shape) - 1
    size = tuple(int(c.attribute(f"filt_{a}")) for a in ("height", "width")[-rank:])
    n_in, taps = c.x.shape[-1], math.prod(size)
    if weights.size != taps * c.shape[-1]:
        raise c.error("the strategy rearranged the depthwise weights", "use the Latency strategy")
    each = weights.reshape(taps, n_in, -1)
    kernel = grouped_matrix(each.reshape(taps, 1, -1), n_in)
    return product_sum(_patches(c, _window(c, size)), kernel, _bias(c, kernel.shape[1]), c.type("accum_t"), c.error)


def _normalization(c: Layer) -> Cell:
    """x * scale + bias in full precision."""
    scale, bias = c.weight("scale"), c.weight("bias") if "bias" in c.node.weights else np.zeros(1)
    shape = c.x.shape if scale.size == math.prod(c.x.shape) else (scale.size,)
    y = c.x.add(real.Scale(scale.reshape(shape)), suffix=".scale")
    return y.add(real.Offset(bias.reshape(shape if bias.size == scale.size else (bias.size,))), suffix=".bias")


def _bias_add(c: Layer) -> Cell:
    return c.x.add(real.Offset(c.weight("bias").reshape(-1)), suffix=".bias")


# ---- elementwise --------------------------------------------------------------------------------------------------------


def _activation(c: Layer) -> Cell:
    kind = str(c.attribute("activation")).lower()
    if is_table(kind):
        return activation(c.x, kind, int(c.attribute("table_size")), c.type("table_t"))
    simple: dict[str, Callable[[Cell], Cell]] = {
        "linear": lambda x: x,
        "relu": lambda x: x.add(real.Clip(0.0, None), suffix=".relu"),
        "relu6": lambda x: x.add(real.Clip(0.0, 6.0), suffix=".relu"),
        "relu1": lambda x: x.add(real.Clip(0.0, 1.0), suffix=".relu"),
        "binary_tanh": lambda x: x.add(real.Bipolar(np.asarray(1.0)), suffix=".sign"),
    }
    if kind not in simple:
        known = ", ".join(sorted((*simple, "sigmoid", "tanh", "softplus", "softsign")))
        raise c.error(f"the activation '{kind}' is not supported", f"supported: {known}")
    return simple[kind](c.x)


def _parametrized(c: Layer) -> Cell:
    kind, x = str(c.attribute("activation")).lower(), c.x
    p = c.type("param_t").quant()
    parameter = float(real.quantized(p, np.asarray(float(c.attribute("activ_param")))) * p.scale)
    zero = x.constant(0.0, ".zero")
    if kind in ("leaky_relu", "leakyrelu"):
        return x.above(zero).select(x, x.add(real.Scale(np.asarray(parameter)), suffix=".below"))
    if kind in ("thresholded_relu", "thresholdedrelu"):
        return x.above(x.constant(parameter, ".threshold")).select(x, zero)
    if kind == "elu":
        table = activation(x, "elu", int(c.attribute("table_size")), c.type("table_t"))
        below = table.add(real.Scale(np.asarray(parameter)), suffix=".below")
        return zero.above(x).select(below, x)
    raise c.error(f"the activation '{kind}' is not supported", "supported: leaky_relu, thresholded_relu, elu")


def _prelu(c: Layer) -> Cell:
    x = c.x
    alpha = c.weight("param").reshape(x.shape)
    return x.above(x.constant(0.0, ".zero")).select(x, x.add(real.Scale(alpha), suffix=".below"))


def _hard(c: Layer) -> Cell:
    slope, shift = (_held(c, f"{k}_t", float(c.attribute(k))) for k in ("slope", "shift"))
    y = c.x.add(real.Scale(np.asarray(slope)), suffix=".slope").add(real.Offset(np.asarray(shift)), suffix=".shift")
    y = y.add(real.Clip(0.0, 1.0), suffix=".clip")
    if c.attribute("activation") == "hard_sigmoid":
        return y
    return y.add(real.Scale(np.asarray(2.0)), suffix=".twice").add(real.Offset(np.asarray(-1.0)), suffix=".centre")


def _held(c: Layer, kind: str, value: float) -> float:
    op = c.type(kind).quant()
    return float(real.quantized(op, np.asarray(value)) * op.scale)


def _softmax(c: Layer) -> Cell:
    return softmax(c.x, c.attribute, c.type, c.error)


def _merge(c: Layer) -> Cell:
    a, b, kind = c.operand(0), c.operand(1), str(c.attribute("op")).lower()
    ops: dict[str, real.RealOp] = {
        "add": real.Add(),
        "subtract": real.Sub(),
        "multiply": real.Mul(),
        "average": real.Add(),
        "maximum": real.Maximum(),
        "minimum": real.Minimum(),
    }
    if kind not in ops:
        raise c.error(f"'{kind}' is not supported", f"supported: {', '.join(ops)}")
    if kind in ("maximum", "minimum"):  # each is brought to the result type before it is chosen
        wins = a.above(b) if kind == "maximum" else b.above(a)
        return wins.select(a.to(c.result, ".first"), b.to(c.result, ".second"))
    y = a.add(ops[kind], b, suffix=f".{kind}")
    return y.add(real.Scale(np.asarray(0.5)), suffix=".half") if kind == "average" else y


def _concatenate(c: Layer) -> Cell:
    a, b = c.operand(0), c.operand(1)
    axis = int(c.attribute("axis", -1))
    axis = axis - 1 if axis > 0 else axis + len(a.shape)
    a, b = (v.to(c.result, f".part{k}") for k, v in enumerate((a, b)))
    return a.add(real.Concat(axis), b, suffix=".joined")


# ---- layout and pooling -------------------------------------------------------------------------------------------------


def _reshape(c: Layer) -> Cell:
    return c.x.add(real.Reshape(c.shape), suffix=".shape")


def _transpose(c: Layer) -> Cell:
    permutation = tuple(int(p) for p in c.attribute("perm"))
    if len(permutation) > len(c.x.shape):
        permutation = permutation[1:]
    least = min(permutation)
    return c.x.add(real.Transpose(tuple(p - least for p in permutation)), suffix=".turned")


def _gathered(f: Callable[[Layer, NDArray[np.int64]], NDArray[np.int64]]) -> Callable[[Layer], Cell]:
    """A layer that only moves elements, by what it does to their places; -1: zero."""

    def read(c: Layer) -> Cell:
        places = np.arange(math.prod(c.x.shape), dtype=np.int64).reshape(c.x.shape)
        return c.x.add(real.Gather(np.ascontiguousarray(f(c, places)).reshape(c.shape)), suffix=".places")

    return read


def _padding(c: Layer, places: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = (("top", "bottom"), ("left", "right"))[-(places.ndim - 1) :]
    width = [(int(c.attribute(f"pad_{a}", 0)), int(c.attribute(f"pad_{b}", 0))) for a, b in ends]
    return np.pad(places, [*width, (0, 0)], constant_values=-1)


def _cropping(c: Layer, places: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = (("top", "bottom"), ("left", "right"))[-(places.ndim - 1) :]
    cut = [(int(c.attribute(f"crop_{a}", 0)), int(c.attribute(f"crop_{b}", 0))) for a, b in ends]
    return places[tuple(slice(a, n - b) for (a, b), n in zip(cut, places.shape))]


def _resize(c: Layer, places: NDArray[np.int64]) -> NDArray[np.int64]:
    if c.attribute("algorithm", "nearest") != "nearest":
        raise c.error("the algorithm must be nearest")
    for axis, (n, m) in enumerate(zip(places.shape[:-1], c.shape[:-1])):
        if m % n:
            raise c.error("the size must grow by whole factors")
        places = np.repeat(places, m // n, axis=axis)
    return places


def _pooling(c: Layer) -> Cell:
    """The maximum; or the sum divided in the accumulator's type, which drops bits towards zero."""
    window = _window(c, tuple(int(c.attribute(f"pool_{a}")) for a in ("height", "width")[-(len(c.x.shape) - 1) :]))
    if str(c.attribute("pool_op")).lower() == "max":
        if any(window.begin) or any(window.end):
            window = Window(window.kernel, window.strides, window.dilations, window.begin, window.end, "nearest")
        return _reduced(c.x.add(window, suffix=".windows"), "max")
    ones = np.ones((*c.x.shape[:-1], 1))
    inside = np.where(window.source(ones.shape) >= 0, 1.0, 0.0).sum(axis=(-1, -2))
    count = np.full(inside.shape, float(window.taps)) if c.attribute("count_pad", False) else inside
    return _mean(c, c.x.add(window, suffix=".windows"), count)


def _global_pooling(c: Layer) -> Cell:
    flat = c.x.add(real.Reshape((1, math.prod(c.x.shape[:-1]), c.x.shape[-1])), suffix=".flat")
    found = (
        _reduced(flat, "max")
        if str(c.attribute("pool_op")).lower() == "max"
        else _mean(c, flat, np.array([float(flat.shape[1])]))
    )
    return found.add(real.Reshape(c.shape), suffix=".shape")


def _reduced(windows: Cell, kind: str) -> Cell:
    *positions, _, channels = windows.shape
    y = windows.add(real.Reduce(kind, len(positions)), suffix=f".{kind}")
    return y.add(real.Reshape((*positions, channels)), suffix=".pooled")


def _mean(c: Layer, windows: Cell, count: NDArray[np.float64]) -> Cell:
    accum = c.type("accum_t")
    x = c.x.precision.type
    if accum.type.exp > x.exp or accum.overflow is not Overflow.WRAP:  # pyright: ignore[reportOperatorIssue]
        raise c.error(
            "the accumulator must hold the bits of its operand and wrap", "leave its precision to hls4ml ('auto')"
        )
    total = _reduced(windows, "sum").to(accum, ".accumulated")
    mean = total.add(real.Scale(count[..., None], divide=True), suffix=".mean")
    return mean.divided(accum, ".divided")


def _embedding(c: Layer) -> Cell:
    table = c.weight("embeddings").reshape(-1, c.shape[-1])
    return c.x.add(real.Embedding(table), suffix=".rows")


def _quantizer(c: Layer) -> Cell:
    """HGQ's quantizer: a type for each element, as sign, width and integer bits (the sign's included)."""
    mask = c.attribute("mask_kbi")
    signed, width, integer = (np.broadcast_to(np.asarray(v, np.int64), (1, *c.x.shape))[0] for v in mask)
    modes = parse_precision(f"ap_fixed<8,8,{c.attribute('RND')},{c.attribute('SAT')}>", c.name)
    steps = np.where(width > 0, 1 << np.maximum(width - (signed > 0), 0), 1)
    lo, hi = np.where((signed > 0) & (width > 0), -steps, 0), steps - 1
    scale, zero = np.ldexp(1.0, integer - width), np.zeros((), np.int64)
    return c.x.add(real.Quant(scale, zero, lo, hi, modes.rounding, modes.overflow), suffix=".quantized")


def _unary_table(c: Layer) -> Cell:
    """A table addressed by all bits of its operand; negative numbers are its upper half."""
    x = c.x
    whole = x.add(real.Scale(np.asarray(np.ldexp(1.0, -int(np.min(x.precision.type.exp))))), suffix=".whole")
    rows = c.weight("table").reshape(-1, 1)
    return whole.add(real.Embedding(rows), suffix=".rows").add(real.Reshape(x.shape), suffix=".table")


LAYERS: dict[str, Callable[[Layer], Cell]] = {
    "Input": _input,
    "Constant": _constant,
    "Dense": _dense,
    "Conv1D": _conv,
    "Conv2D": _conv,
    "Conv2DBatchnorm": _conv,
    "PointwiseConv1D": _conv,
    "PointwiseConv2D": _conv,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _normalization,
    "ApplyAlpha": _normalization,
    "BiasAdd": _bias_add,
    "Activation": _activation,
    "ParametrizedActivation": _parametrized,
    "PReLU": _prelu,
    "HardActivation": _hard,
    "Softmax": _softmax,
    "Merge": _merge,
    "Concatenate": _concatenate,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "ZeroPadding1D": _gathered(_padding),
    "ZeroPadding2D": _gathered(_padding),
    "Cropping1D": _gathered(_cropping),
    "Cropping2D": _gathered(_cropping),
    "Resize": _gathered(_resize),
    "Pooling1D": _pooling,
    "Pooling2D": _pooling,
    "GlobalPooling1D": _global_pooling,
    "GlobalPooling2D": _global_pooling,
    "Embedding": _embedding,
    "Repack": _reshape,
    "Clone": lambda c: c.x,
    "FixedPointQuantizer": _quantizer,
    "UnaryLUT": _unary_table,
}
"""Every supported layer of hls4ml's graph and the function that reads it."""
