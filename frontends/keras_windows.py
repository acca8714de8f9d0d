"""Convolutions and pooling of Keras and QKeras: windows, then a matrix or a reduction. Channels stay last."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..ir.ops import Window
from .keras_activations import activate
from .keras_context import Layer, Weight
from .qkeras import quantize_weights
from .real import Dense, Float, Gather, Offset, Reduce, Reshape, Scale, Transpose
from .windows import grouped_matrix, same_padding, spread_indices

__all__ = ["WINDOW_LAYERS", "add_bias", "convolve", "quantized_variable"]


def quantized_variable(c: Layer, key: str, values: Float, trainable: bool = False) -> Weight:
    """A variable through the quantizer in `key`, if the layer is one of QKeras."""
    return quantize_weights(c, c.get(key), values, trainable) if c.kind.startswith("Q") else Weight(values)


def add_bias(c: Layer, y: int, bias: Float | None) -> int:
    """y + bias, through the bias quantizer, and then the layer's activation."""
    if c.kind.startswith("Q") and bias is None:
        c.ignore("bias_quantizer")
    if bias is not None:
        y = c.add(Offset(quantized_variable(c, "bias_quantizer", bias).values), y, suffix=".bias")
    return activate(c, c.get("activation"), y, ".activation", quantized=c.kind.startswith("Q"))


def _rank(c: Layer) -> int:
    """Spatial axes, from the class's name."""
    return int(next(c.kind[k - 1] for k in range(1, len(c.kind)) if c.kind[k] == "D" and c.kind[k - 1] in "123"))


def _channels_last(c: Layer, rank: int) -> tuple[int, bool]:
    """(the operand with channels last, whether they were first)."""
    first = c.choice("data_format", "channels_last", "channels_last", "channels_first") == "channels_first"
    shape = c.shape(c.x)
    if len(shape) != rank + 1:
        raise c.error(f"the input must have {rank} spatial axes and channels, not shape {list(shape)}")
    return (c.add(Transpose((*range(1, rank + 1), 0)), c.x, suffix=".last") if first else c.x), first


def _placed(c: Layer, y: int, first: bool, suffix: str = ".first") -> int:
    """The result with its channels where the layer has them."""
    rank = len(c.shape(y)) - 1
    return c.add(Transpose((rank, *range(rank))), y, suffix=suffix) if first else y


def _window(
    c: Layer, kernel: tuple[int, ...], spatial: tuple[int, ...], fill: str = "zero", pool: bool = False
) -> Window:
    rank = len(spatial)
    strides = kernel if pool and c.get("strides") is None else c.wholes("strides", rank, 1)
    dilations = (1,) * rank if pool else c.wholes("dilation_rate", rank, 1)
    if any(v < 1 for v in (*kernel, *strides, *dilations)):
        raise c.error(f"kernel, strides and dilation must be positive, not {kernel}, {strides}, {dilations}")
    allowed = ("valid", "same", "causal") if rank == 1 and not pool else ("valid", "same")
    padding = c.choice("padding", "valid", *allowed)
    begin = end = (0,) * rank
    if padding == "same":
        begin, end = same_padding(spatial, kernel, strides, dilations)
    elif padding == "causal":
        begin = ((kernel[0] - 1) * dilations[0],)
    window = Window(kernel, strides, dilations, begin, end, fill)
    if any(n < 1 for n in window.positions(spatial)):
        raise c.error(f"the kernel {list(kernel)} is larger than the padded input {list(spatial)}")
    return window


def _product(c: Layer, x: int, window: Window, matrix: Dense, suffix: str = "") -> int:
    """Windows of channels-last data times ``[taps * channels, outputs]``."""
    *spatial, channels = c.shape(x)
    windows = c.add(window, x, suffix=f"{suffix}.windows")
    rows = c.add(Reshape((*window.positions(spatial), window.taps * channels)), windows, suffix=f"{suffix}.rows")
    return c.add(matrix, rows, suffix=suffix)


def _variables(c: Layer, *roles: str) -> tuple[list[Float], Float | None]:
    """(kernels, bias or None)."""
    if not c.flag("use_bias", True):
        return c.variables(*roles), None
    *kernels, bias = c.variables(*roles, "bias")
    return kernels, bias


def convolve(c: Layer, kernel: Weight, bias: Float | None, groups: int) -> int:
    """A convolution with a kernel ``[*kernel, inputs / groups, outputs]``, bias and activation."""
    rank = kernel.values.ndim - 2
    x, first = _channels_last(c, rank)
    *spatial, channels = c.shape(x)
    *size, per_group, out = kernel.values.shape
    if per_group * groups != channels or out % groups:
        raise c.error(f"a kernel {list(kernel.values.shape)} in {groups} groups does not fit {channels} channels")
    window = _window(c, tuple(size), tuple(spatial))
    matrix = kernel.mapped(lambda a: grouped_matrix(a.reshape(window.taps, per_group, out), groups)).matrix()
    y = _product(c, x, window, matrix)
    return _placed(c, add_bias(c, y, bias), first)


def _conv(c: Layer) -> int:
    rank = _rank(c)
    (kernel,), bias = _variables(c, "kernel")
    groups, size = c.whole("groups", 1), c.wholes("kernel_size", rank)
    if kernel.ndim != rank + 2 or kernel.shape[:rank] != size or kernel.shape[-1] != c.whole("filters") or groups < 1:
        raise c.error(f"the kernel must fit kernel_size {list(size)} and filters, not {list(kernel.shape)}")
    c.must_be("lora_rank", None)
    c.ignore("lora_alpha", "mask", "kernel_quantizer_internal", "bias_quantizer_internal")
    return convolve(c, quantized_variable(c, "kernel_quantizer", kernel, True), bias, groups)


def _depthwise_kernel(kernel: NDArray) -> NDArray:
    """``[*kernel, channels, multiplier]`` as that of a convolution in as many groups as channels."""
    return kernel.reshape((*kernel.shape[:-2], 1, kernel.shape[-2] * kernel.shape[-1]))


def _depthwise(c: Layer) -> int:
    rank = _rank(c)
    (kernel,), bias = _variables(c, "depthwise_kernel")
    size, multiplier = c.wholes("kernel_size", rank), c.whole("depth_multiplier", 1)
    if kernel.ndim != rank + 2 or kernel.shape[:rank] != size or kernel.shape[-1] != multiplier:
        raise c.error(f"the kernel must fit kernel_size {list(size)} and depth_multiplier, not {list(kernel.shape)}")
    c.must_be("groups", 1, kernel.shape[-2])
    c.ignore("filters")
    weight = quantized_variable(c, "depthwise_quantizer", kernel, True)
    return convolve(c, weight.mapped(_depthwise_kernel), bias, kernel.shape[-2])


def _separable(c: Layer) -> int:
    """A depthwise convolution and one of single pixels."""
    rank = _rank(c)
    (deep, point), bias = _variables(c, "depthwise_kernel", "pointwise_kernel")
    size, multiplier, filters = c.wholes("kernel_size", rank), c.whole("depth_multiplier", 1), c.whole("filters")
    if deep.ndim != rank + 2 or deep.shape[:rank] != size or deep.shape[-1] != multiplier:
        raise c.error(f"the kernel must fit kernel_size {list(size)} and depth_multiplier, not {list(deep.shape)}")
    c.shaped("pointwise_kernel", point, (*(1,) * rank, deep.shape[-2] * multiplier, filters))
    c.must_be("groups", 1)
    x, first = _channels_last(c, rank)
    window = _window(c, size, c.shape(x)[:-1])
    if deep.shape[-2] != c.shape(x)[-1]:
        raise c.error(f"the kernel {list(deep.shape)} does not fit {c.shape(x)[-1]} channels")
    deep_weight = quantized_variable(c, "depthwise_quantizer", deep, True)
    blocks = deep_weight.mapped(
        lambda a: grouped_matrix(_depthwise_kernel(a).reshape(window.taps, 1, -1), deep.shape[-2])
    )
    y = _product(c, x, window, blocks.matrix(), ".depthwise")
    pointwise = quantized_variable(c, "pointwise_quantizer", point, True)
    y = c.add(pointwise.mapped(lambda a: a.reshape(-1, filters)).matrix(), y)
    return _placed(c, add_bias(c, y, bias), first)


def _transposed_length(n: int, span: int, stride: int, padding: str, extra: int | None) -> int:
    """Elements that a transposed convolution makes of n along one axis."""
    if extra is None:
        return n * stride + (max(span - stride, 0) if padding == "valid" else 0)
    return (n - 1) * stride + span - (2 * (span // 2) if padding == "same" else 0) + extra


def _transpose(c: Layer) -> int:
    """A convolution with the mirrored kernel over the input with zeros in between and around."""
    rank = _rank(c)
    (kernel,), bias = _variables(c, "kernel")
    size, strides, dilations = (c.wholes(k, rank, 1) for k in ("kernel_size", "strides", "dilation_rate"))
    padding, extra = c.choice("padding", "valid", "valid", "same"), c.get("output_padding")
    extras = [None] * rank if extra is None else list(c.wholes("output_padding", rank))
    x, first = _channels_last(c, rank)
    *spatial, channels = c.shape(x)
    c.shaped("kernel", kernel, (*size, c.whole("filters"), channels))
    c.must_be("groups", 1)
    if any(v < 1 for v in (*size, *strides, *dilations)):
        raise c.error(f"kernel, strides and dilation must be positive, not {size}, {strides}, {dilations}")
    reach = [(k - 1) * d for k, d in zip(size, dilations)]
    lengths = [_transposed_length(n, r + 1, s, padding, e) for n, r, s, e in zip(spatial, reach, strides, extras)]
    if any(v < 1 for v in lengths):
        raise c.error(f"its result would have the spatial shape {lengths}")
    begins = same_padding(lengths, size, strides, dilations)[0] if padding == "same" else (0,) * rank
    starts = [b - r for b, r in zip(begins, reach)]
    index = spread_indices(spatial, strides, starts, [n + r for n, r in zip(lengths, reach)])
    spread = np.where(index[..., None] < 0, -1, index[..., None] * channels + np.arange(channels))
    y = c.add(Gather(spread), x, suffix=".spread")
    window = Window(size, (1,) * rank, dilations, (0,) * rank, (0,) * rank)
    weight = quantized_variable(c, "kernel_quantizer", kernel, True)
    matrix = weight.mapped(
        lambda a: a.reshape(window.taps, -1, channels)[::-1].transpose(0, 2, 1).reshape(window.taps * channels, -1)
    )
    return _placed(c, add_bias(c, _product(c, y, window, matrix.matrix()), bias), first)


def _folded(c: Layer) -> int:
    """QKeras' convolution or dense layer with a batch normalization folded into its weights before they are quantized.

    The folding is done in float32, as QKeras does it at inference: with the moving statistics, whatever the folding mode.
    """
    depthwise, dense = "Depthwise" in c.kind, c.kind == "QDenseBatchnorm"
    role = "depthwise_kernel" if depthwise else "kernel"
    scaled, centred, biased = c.flag("scale", True), c.flag("center", True), c.flag("use_bias", True)
    if not centred:
        raise c.error("center must be true: without it QKeras cannot fold", "set center to true")
    c.choice("folding_mode", "ema_stats_folding", "ema_stats_folding", "batch_stats_folding")
    c.ignore("axis", "momentum", "ema_freeze_delay", "renorm", "renorm_clipping", "renorm_momentum", "fused")
    c.ignore("virtual_batch_size", "adjustment", "synchronized", "groups", "filters", "units", "mask")
    own = [role, *(["bias"] if biased else []), "iteration"]
    inner = [*(["gamma"] if scaled else []), "beta", "moving_mean", "moving_variance"]
    if c.weights.tree is None:
        found = dict(zip([*own, *inner], c.variables(*own, *inner)))
    else:
        normalization = c.inside("BatchNormalization", {"name": "batchnorm"}, c.weights.child("batchnorm"), [])
        found = dict(zip([*own, *inner], [*c.variables(*own), *normalization.variables(*inner)]))
    found = {k: v.astype(np.float32) for k, v in found.items()}
    kernel, beta, mean, variance = (found[k] for k in (role, "beta", "moving_mean", "moving_variance"))
    bias, gamma = found.get("bias", np.float32(0)), found.get("gamma", np.float32(1))
    inverse = np.float32(1) / np.sqrt(variance + np.float32(c.number("epsilon", 1e-3)))
    inverse = inverse * gamma if scaled else inverse
    offset = (inverse * (bias - mean) + beta).astype(np.float64)
    inverse = inverse.reshape(kernel.shape[-2:]) if depthwise else inverse
    key = "depthwise_quantizer" if depthwise else "kernel_quantizer"
    weight = quantized_variable(c, key, (inverse * kernel).astype(np.float64), True)
    if dense:
        return add_bias(c, c.add(weight.matrix(), c.x), offset)
    c.wholes("kernel_size", 2)
    c.ignore("depth_multiplier")
    if depthwise:
        return convolve(c, weight.mapped(_depthwise_kernel), offset, kernel.shape[-2])
    return convolve(c, weight, offset, 1)


# ---- pooling ----------------------------------------------------------------------------------------------------------


def _pool(c: Layer, kind: str) -> int:
    """A maximum, or a mean over what is no padding, as on TensorFlow and JAX; on torch, Keras 3 counts uneven padding too."""
    rank = _rank(c)
    x, first = _channels_last(c, rank)
    *spatial, channels = c.shape(x)
    window = _window(
        c, c.wholes("pool_size", rank, 2), tuple(spatial), "nearest" if kind == "max" else "zero", pool=True
    )
    inside = replace(window, fill="zero").source((*spatial, 1))[..., 0] >= 0  # [*positions, taps]
    y = c.add(window, x, suffix=".windows")
    y = c.add(Reduce(kind, rank), y, suffix=f".{kind}")
    if kind == "sum":
        y = _average(c, y, inside.sum(axis=-1).astype(np.float64)[..., None, None], window.taps)
    y = c.add(Reshape((*window.positions(spatial), channels)), y)
    if c.kind.startswith("Q"):
        y = activate(c, c.get("activation"), y, ".activation", quantized=True)
    return _placed(c, y, first)


def _average(c: Layer, total: int, counts: Float, area: int) -> int:
    """A sum over counts. QKeras multiplies the mean by the area and a quantized 1 / area."""
    counts = counts.reshape(-1)[0] if (counts == counts.reshape(-1)[0]).all() else counts
    spec = c.get("average_quantizer") if c.kind.startswith("Q") else None
    if spec is None:
        return c.add(Scale(np.asarray(counts), divide=True), total, suffix=".mean")
    factor = quantize_weights(c, spec, np.asarray([float(np.float32(1.0 / area))])).values[0]
    return c.add(Scale(np.asarray(factor * (area / counts))), total, suffix=".mean")


def _global_pool(c: Layer, kind: str) -> int:
    rank = _rank(c)
    x, first = _channels_last(c, rank)
    *spatial, channels = c.shape(x)
    flat = c.add(Reshape((math.prod(spatial), channels)), x, suffix=".flat")
    y = c.add(Reduce(kind, 0), flat, suffix=f".{kind}")
    if kind == "sum":
        y = _average(c, y, np.asarray([float(math.prod(spatial))]), math.prod(spatial))
    keep = c.flag("keepdims", False)
    shape = ((channels, *(1,) * rank) if first else (*(1,) * rank, channels)) if keep else (channels,)
    y = c.add(Reshape(shape), y)
    return activate(c, c.get("activation"), y, ".activation", quantized=True) if c.kind.startswith("Q") else y


WINDOW_LAYERS: dict[str, Callable[[Layer], int]] = {
    **{f"{q}Conv{n}": _conv for q in ("", "Q") for n in ("1D", "2D")},
    "Conv3D": _conv,
    **{f"{q}Conv{n}Transpose": _transpose for q, n in (("", "1D"), ("", "2D"), ("Q", "2D"))},
    **{f"{q}DepthwiseConv{n}": _depthwise for q, n in (("", "1D"), ("", "2D"), ("Q", "2D"))},
    **{f"{q}SeparableConv{n}": _separable for q in ("", "Q") for n in ("1D", "2D")},
    **dict.fromkeys(("QConv2DBatchnorm", "QDepthwiseConv2DBatchnorm", "QDenseBatchnorm"), _folded),
    **{f"MaxPooling{n}": lambda c: _pool(c, "max") for n in ("1D", "2D", "3D")},
    **{
        f"{q}AveragePooling{n}": lambda c: _pool(c, "sum") for q, n in (("", "1D"), ("", "2D"), ("", "3D"), ("Q", "2D"))
    },
    **{f"GlobalMaxPooling{n}": lambda c: _global_pool(c, "max") for n in ("1D", "2D", "3D")},
    **{
        f"{q}GlobalAveragePooling{n}": lambda c: _global_pool(c, "sum")
        for q, n in (("", "1D"), ("", "2D"), ("", "3D"), ("Q", "2D"))
    },
}
