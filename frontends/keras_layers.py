"""Keras and QKeras layers without windows or steps in time: dense, normalization, merging, layout. One function for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.rounding import Rounding
from .keras_activations import ACTIVATION_LAYERS, activate
from .keras_context import Layer
from .keras_windows import add_bias, quantized_variable
from .products import contracted
from .real import (
    Add,
    Concat,
    Embedding,
    Float,
    Function,
    Gather,
    Input,
    Leaky,
    Maximum,
    Minimum,
    Mul,
    Offset,
    Quant,
    RealOp,
    Reduce,
    Reshape,
    Scale,
    Sub,
    Transpose,
)

__all__ = ["BASIC_LAYERS", "mean_over"]


# ---- dense and normalization ------------------------------------------------------------------------------------------


def _dense(c: Layer) -> int:
    units, use_bias, x = c.whole("units"), c.flag("use_bias", True), c.x
    found = c.variables("kernel", *(["bias"] if use_bias else []))
    if not c.shape(x):
        raise c.error("the input must have an axis behind the batch axis")
    kernel = c.shaped("kernel", found[0], (c.shape(x)[-1], units))
    c.must_be("lora_rank", None)
    c.ignore("lora_alpha")
    weight = quantized_variable(c, "kernel_quantizer", kernel, True)
    return add_bias(c, c.add(weight.matrix(), x), found[1] if use_bias else None)


def _along(values: Float, axes: list[int], shape: tuple[int, ...]) -> Float:
    """A parameter of some axes, to broadcast against the whole shape."""
    return values.reshape([n if k in axes else 1 for k, n in enumerate(shape)])


def _axes(c: Layer, default: int, rank: int) -> list[int]:
    found = c.get("axis", default)
    return sorted(c.axis(a, rank) for a in (found if isinstance(found, list) else [found]))


def _float32(values: Float) -> Float:
    return values.astype(np.float32).astype(np.float64)


def _batch_normalization(c: Layer) -> int:
    """x * factor + offset with the moving statistics; both are float32 numbers, as the framework makes them."""
    c.ignore(
        "momentum", "fused", "virtual_batch_size", "adjustment", "synchronized", "renorm_clipping", "renorm_momentum"
    )
    c.must_be("renorm", False, None)
    scaled, centred, epsilon = c.flag("scale", True), c.flag("center", True), c.number("epsilon", 1e-3)
    roles = [*(["gamma"] if scaled else []), *(["beta"] if centred else []), "moving_mean", "moving_variance"]
    found = dict(zip(roles, c.variables(*roles)))
    shape = c.shape(c.x)
    axes = _axes(c, -1, len(shape))
    sizes = [shape[k] for k in axes]
    if c.kind.startswith("Q"):
        c.must_be("inverse_quantizer", None)
        c.must_be("activation", None)
        keys = {"gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "variance"}
        for role, key in keys.items():
            if f"{key}_quantizer" not in c.values:
                raise c.error(f"{key}_quantizer must be given, or null", "save the model again")
            if role in found:
                trainable = role in ("gamma", "moving_variance")
                found[role] = quantized_variable(c, f"{key}_quantizer", found[role], trainable).values
            c.ignore(f"{key}_quantizer")
    mean, variance = (c.shaped(k, found[k].reshape(sizes), sizes) for k in ("moving_mean", "moving_variance"))
    if (variance + epsilon <= 0).any():
        raise c.error("variance + epsilon must be positive", "check the training")
    factor = _float32(found.get("gamma", np.ones(sizes)).reshape(sizes) / np.sqrt(variance + epsilon))
    offset = _float32(found.get("beta", np.zeros(sizes)).reshape(sizes) - mean * factor)
    y = c.add(Scale(_along(factor, axes, shape)), c.x, suffix=".scale")
    return c.add(Offset(_along(offset, axes, shape)), y)


def mean_over(c: Layer, x: int, axes: list[int], suffix: str) -> int:
    """The mean over axes, which stay with length 1."""
    shape = c.shape(x)
    for axis in axes:
        x = c.add(Reduce("sum", axis), x, suffix=f"{suffix}.sum")
    return c.add(Scale(np.asarray(float(math.prod(shape[k] for k in axes))), divide=True), x, suffix=suffix)


def _normal(c: Layer, x: int, axes: list[int], epsilon: float) -> int:
    """x / sqrt(mean of x * x + epsilon)."""
    size = mean_over(c, c.add(Mul(), x, x, suffix=".square"), axes, ".variance")
    total = c.add(Offset(np.asarray(epsilon)), size, suffix=".epsilon")
    return c.add(Mul(), x, c.add(Function("rsqrt"), total, suffix=".rsqrt"), suffix=".normal")


def _layer_normalization(c: Layer) -> int:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over `axis`, of each event's own mean and variance."""
    c.must_be("rms_scaling", False)
    shape = c.shape(c.x)
    axes, scaled, centred = _axes(c, -1, len(shape)), c.flag("scale", True), c.flag("center", True)
    found = iter(c.variables(*(["gamma"] if scaled else []), *(["beta"] if centred else [])))
    sizes = [shape[k] for k in axes]
    moved = c.add(Sub(), c.x, mean_over(c, c.x, axes, ".mean"), suffix=".centred")
    y = _normal(c, moved, axes, c.number("epsilon", 1e-3))
    if scaled:
        y = c.add(Scale(_along(c.shaped("gamma", next(found), sizes), axes, shape)), y, suffix=".scale")
    return c.add(Offset(_along(c.shaped("beta", next(found), sizes), axes, shape)), y) if centred else y


def _rms_normalization(c: Layer) -> int:
    """x / sqrt(mean of x * x + epsilon) * scale over `axis`."""
    shape = c.shape(c.x)
    axes, (scale,) = _axes(c, -1, len(shape)), c.variables("scale")
    y = _normal(c, c.x, axes, c.number("epsilon", 1e-6))
    return c.add(Scale(_along(c.shaped("scale", scale, [shape[k] for k in axes]), axes, shape)), y)


def _rescaling(c: Layer) -> int:
    shape = c.shape(c.x)
    scale, offset = (_numbers(c, key, default) for key, default in (("scale", 1.0), ("offset", 0.0)))
    y = c.add(Scale(scale), c.x, suffix=".scale")
    y = c.add(Offset(offset), y)
    if c.shape(y) != shape:
        raise c.error(f"scale and offset must fit the shape {list(shape)}")
    return y


def _numbers(c: Layer, key: str, default: float) -> Float:
    value = c.get(key, default)
    if isinstance(value, dict):  # numpy numbers, as Keras stores them
        value = value.get("config", {}).get("value")
    try:
        found = np.asarray(value, np.float32).astype(np.float64)
    except (ValueError, TypeError):
        raise c.error(f"{key} must be numbers, not {str(value)[:60]}") from None
    if not np.isfinite(found).all():
        raise c.error(f"{key} must be finite")
    return found


def _normalization(c: Layer) -> int:
    """(x - mean) / max(sqrt(variance), 1e-7), with numbers of the configuration or those that the layer adapted to."""
    c.must_be("invert", False)
    shape = c.shape(c.x)
    given = c.get("axis", -1)
    axes = [] if given is None else _axes(c, -1, len(shape))
    sizes = [shape[k] for k in axes]
    c.ignore("mean", "variance")
    stored = c.weights.named or (c.weights.tree or {}).get("vars")
    if stored:
        mean, variance, _ = c.variables("mean", "variance", "count")
    else:
        if c.get("mean") is None or c.get("variance") is None:
            raise c.error("must have a mean and a variance", "adapt the layer before the model is saved")
        mean, variance = (_numbers(c, key, 0.0) for key in ("mean", "variance"))
    mean, variance = (
        np.broadcast_to(v.reshape(-1) if v.size == 1 else v.reshape(sizes), sizes) for v in (mean, variance)
    )
    if (variance < 0).any():
        raise c.error("the variance must be at least 0")
    y = c.add(Offset(-_along(mean, axes, shape)), c.x, suffix=".centred")
    return c.add(Scale(_along(np.maximum(np.sqrt(variance), 1e-7), axes, shape), divide=True), y)


# ---- activations ------------------------------------------------------------------------------------------------------


def _activation(c: Layer) -> int:
    spec = c.get("activation")
    if spec is None:
        raise c.error("activation must be given")
    return activate(c, spec, c.x, quantized=c.kind == "QActivation")


def _prelu(c: Layer) -> int:
    shape = list(c.shape(c.x))
    for axis in c.get("shared_axes") or []:
        shape[c.axis(axis, len(shape))] = 1
    (alpha,) = c.variables("alpha")
    return c.add(Leaky(c.shaped("alpha", alpha, shape)), c.x)


def _identity(c: Layer) -> int:
    c.ignore("rate", "noise_shape", "seed", "stddev", "l1", "l2", "data_format")
    return c.x


# ---- merging ----------------------------------------------------------------------------------------------------------


def _several(c: Layer) -> list[int]:
    if len(c.inputs) < 2:
        raise c.error(f"takes at least two inputs, not {len(c.inputs)}")
    return c.inputs


def _merge(op: RealOp, mean: bool = False, pair: bool = False) -> Callable[[Layer], int]:
    """A chain of two-operand ops; shapes broadcast from the last axis."""

    def read(c: Layer) -> int:
        total, *others = _several(c)
        if pair and len(others) != 1:
            raise c.error(f"takes two inputs, not {len(c.inputs)}")
        for k, other in enumerate(others, 1):
            last = k == len(others) and not mean
            total = c.add(op, total, other, suffix="" if last else f".{k}")
        return c.add(Scale(np.asarray(float(len(c.inputs))), divide=True), total) if mean else total

    return read


def _concatenate(c: Layer) -> int:
    inputs = _several(c)
    return c.add(Concat(c.axis(c.get("axis", -1), len(c.shape(inputs[0])))), *inputs)


def _dot(c: Layer) -> int:
    """Sums of products over one axis of each operand."""
    if len(_several(c)) != 2:
        raise c.error(f"takes two inputs, not {len(c.inputs)}")
    c.must_be("normalize", False)
    a, b = c.inputs
    axes = c.get("axes")
    pair = axes if isinstance(axes, list) else [axes, axes]
    if len(pair) != 2:
        raise c.error(f"axes must be one or two axes, not {axes!r}")
    shapes = c.shape(a), c.shape(b)
    first, second = (c.axis(k, len(s)) for k, s in zip(pair, shapes))
    if shapes[0][first] != shapes[1][second]:
        raise c.error(f"the axes have {shapes[0][first]} and {shapes[1][second]} elements")
    left, right = "abcdefg"[: len(shapes[0])], "hijklmn"[: len(shapes[1])]
    out = (left + right).replace(left[first], "").replace(right[second], "")
    y = contracted(c.add, a, b, f"{left},{right.replace(right[second], left[first])}->{out}", shapes)
    return y if out else c.add(Reshape((1,)), y, suffix=".shape")


# ---- layout -----------------------------------------------------------------------------------------------------------


def _elements(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(math.prod(shape)).reshape(shape)


def _flatten(c: Layer) -> int:
    x, shape = c.x, c.shape(c.x)
    if (
        c.choice("data_format", "channels_last", "channels_last", "channels_first") == "channels_first"
        and len(shape) > 1
    ):
        x = c.add(Transpose((*range(1, len(shape)), 0)), x, suffix=".last")
    return c.add(Reshape((math.prod(shape),)), x)


def _reshape(c: Layer) -> int:
    target, size = c.get("target_shape"), math.prod(c.shape(c.x))
    if not isinstance(target, list) or not all(isinstance(n, int) and (n > 0 or n == -1) for n in target):
        raise c.error(f"target_shape must be whole numbers, not {target!r}")
    known = math.prod(n for n in target if n > 0)
    if target.count(-1) > 1 or size % known:
        raise c.error(f"{size} elements cannot become {target}")
    return c.add(Reshape(tuple(size // known if n == -1 else n for n in target)), c.x)


def _permute(c: Layer) -> int:
    rank = len(c.shape(c.x))
    dims = c.wholes("dims", rank)
    if sorted(dims) != list(range(1, rank + 1)):
        raise c.error(f"dims must be an order of 1 to {rank}, not {list(dims)}")
    return c.add(Transpose(tuple(k - 1 for k in dims)), c.x)


def _repeat(c: Layer) -> int:
    shape, n = c.shape(c.x), c.whole("n")
    if len(shape) != 1 or not 1 <= n <= 1 << 20:
        raise c.error(f"the input must have one axis, not shape {list(shape)}, and n be at least 1, not {n}")
    return c.add(Gather(np.broadcast_to(_elements(shape), (n, *shape)).copy()), c.x)


def _pairs(c: Layer, key: str, rank: int, default: int) -> list[tuple[int, int]]:
    """(in front, behind) for each spatial axis: one number, one for each axis, or pairs."""
    value: Any = c.get(key, default)
    value = [value] * rank if isinstance(value, int) else value
    if rank == 1 and isinstance(value, list) and len(value) == 2:
        value = [value]
    pairs = [[v, v] if isinstance(v, int) else v for v in value] if isinstance(value, list) else []
    sound = all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) and 0 <= n < 1 << 20 for n in p) for p in pairs
    )
    if len(pairs) != rank or not sound:
        raise c.error(f"{key} must be numbers of at least 0 for {rank} axes, not {value!r}")
    return [(p[0], p[1]) for p in pairs]


def _spatial(change: Callable[[Layer, NDArray[np.int64], int], NDArray[np.int64]]) -> Callable[[Layer], int]:
    """A layer that chooses elements; `change` gets their indices with channels last."""

    def read(c: Layer) -> int:
        rank, shape = int(c.kind[-2]), c.shape(c.x)
        first = c.choice("data_format", "channels_last", "channels_last", "channels_first") == "channels_first"
        if len(shape) != rank + 1:
            raise c.error(f"the input must have {rank} spatial axes and channels, not shape {list(shape)}")
        index = _elements(shape)
        index = change(c, np.moveaxis(index, 0, -1) if first else index, rank)
        return c.add(Gather((np.moveaxis(index, -1, 0) if first else index).copy()), c.x)

    return read


def _padded(c: Layer, index: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    return np.pad(index, [*_pairs(c, "padding", rank, 1), (0, 0)], constant_values=-1)


def _cropped(c: Layer, index: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    pairs = _pairs(c, "cropping", rank, 1)
    if any(a + b >= n for (a, b), n in zip(pairs, index.shape)):
        raise c.error(f"cropping {pairs} leaves nothing of {list(index.shape[:-1])}")
    return index[tuple(slice(a, n - b) for (a, b), n in zip(pairs, index.shape))]


def _enlarged(c: Layer, index: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    c.must_be("interpolation", "nearest")
    for axis, n in enumerate(c.wholes("size", rank, 2)):
        if not 1 <= n <= 1 << 10:
            raise c.error(f"size must be from 1 to 1024, not {n}")
        index = np.repeat(index, n, axis=axis)
    return index


def _embedding(c: Layer) -> int:
    """Rows of a table. An input that is read here first is whole, from 0 to the number of rows - 1."""
    rows, columns = c.whole("input_dim"), c.whole("output_dim")
    c.must_be("mask_zero", False)
    c.must_be("lora_rank", None)
    c.ignore("lora_alpha")
    (table,) = c.variables("embeddings")
    x = c.x
    if isinstance(c.builder.nodes[x].op, Input):
        one, zero = np.asarray(1.0), np.zeros((), np.int64)
        x = c.add(Quant(one, zero, 0, rows - 1, Rounding.TRN_ZERO), x, suffix=".index")
    return c.add(Embedding(c.shaped("embeddings", table, (rows, columns))), x)


_SPATIAL = {"ZeroPadding": _padded, "Cropping": _cropped, "UpSampling": _enlarged}
_IDENTITIES = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Identity",
)  # fmt: skip

BASIC_LAYERS: dict[str, Callable[[Layer], int]] = {
    "Dense": _dense,
    "QDense": _dense,
    "BatchNormalization": _batch_normalization,
    "BatchNormalizationV1": _batch_normalization,
    "SyncBatchNormalization": _batch_normalization,
    "QBatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Activation": _activation,
    "QActivation": _activation,
    **ACTIVATION_LAYERS,
    "PReLU": _prelu,
    **dict.fromkeys(_IDENTITIES, _identity),
    "Add": _merge(Add()),
    "Subtract": _merge(Sub(), pair=True),
    "Multiply": _merge(Mul()),
    "Average": _merge(Add(), mean=True),
    "Maximum": _merge(Maximum()),
    "Minimum": _merge(Minimum()),
    "Concatenate": _concatenate,
    "Dot": _dot,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    **{f"{name}{n}D": _spatial(change) for name, change in _SPATIAL.items() for n in (1, 2, 3)},
    "Embedding": _embedding,
}
"""Every layer of this file by its class name."""
