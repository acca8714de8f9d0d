"""Layers of HGQ2 without attention or steps in time: dense, normalization, convolution, pooling, merging, tables, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .hgq_quantizers import HgqLayer, stored_group
from .keras_activations import activate
from .keras_attention import biased, letters, weighted_sum
from .keras_context import Layer
from .keras_layers import BASIC_LAYERS
from .keras_windows import WINDOW_LAYERS, convolve
from .products import contracted
from .real import Float, Function, Mul, Offset, Reduce, Reshape, Scale, Sub, Transpose

__all__ = ["HGQ_BASIC", "einsum_dense", "merged", "soft_maximum"]

_EPSILON = 1e-7
"""keras.config.epsilon(), which a file does not hold."""


def _activated(c: HgqLayer, y: int) -> int:
    """y through the layer's activation and its output quantizer."""
    return c.result(activate(c, c.get("activation"), y, ".activation"))


def _plus(c: HgqLayer, y: int, bias: Float | None) -> int:
    """y + bias, through the bias quantizer."""
    if bias is None:
        c.ignore("bq_conf")
        return y
    return c.add(Offset(c.weight("bq", bias).values), y, suffix=".bias")


def _single(*values: Float) -> list[Any]:
    return [v.astype(np.float32) for v in values]


# ---- products ---------------------------------------------------------------------------------------------------------


def _dense(c: HgqLayer) -> int:
    x, units, use_bias = c.entry(), c.whole("units"), c.flag("use_bias", True)
    kernel, *bias = c.own("kernel", *(["bias"] if use_bias else []))
    c.shaped("kernel", kernel, (c.shape(x)[-1], units))
    y = c.add(c.weight("kq", kernel).matrix(), x)
    return _activated(c, _plus(c, y, bias[0] if bias else None))


def _dense_with_normalization(c: HgqLayer) -> int:
    """The input's moving statistics go into kernel and bias before these are quantized; the mean meets the plain kernel."""
    c.must_be("use_bias", True)
    c.ignore("momentum", "synchronized")
    x, units, scaled = c.entry(), c.whole("units"), c.flag("scale", True)
    roles = ("kernel", "bias", *(["bn_gamma"] if scaled else []))
    found = dict(zip((*roles, "mean", "variance"), c.own(*roles, later=("moving_mean", "moving_variance"))))
    kernel, bias, mean, variance = _single(*(found[k] for k in ("kernel", "bias", "mean", "variance")))
    c.shaped("kernel", kernel, (c.shape(x)[-1], units))
    factor = _factor(c, found.get("bn_gamma"), variance, c.number("epsilon", 1e-3))
    offset = -(mean.astype(np.float64) @ kernel.astype(np.float64)).astype(np.float32)
    y = c.add(c.weight("kq", (factor[:, None] * kernel).astype(np.float64)).matrix(), x)
    return _activated(c, _plus(c, y, (bias + offset).astype(np.float64)))


def _factor(c: Layer, gamma: Float | None, variance: Any, epsilon: float) -> Any:
    """gamma / sqrt(variance + epsilon) in float32."""
    total = variance + np.float32(epsilon)
    if (total <= 0).any():
        raise c.error("variance + epsilon must be positive", "check the training")
    return (np.float32(1) if gamma is None else gamma.astype(np.float32)) / np.sqrt(total)


def einsum_dense(c: HgqLayer) -> int:
    """An Einstein sum with a kernel; ``QEinsumDenseBatchnorm`` folds moving statistics of its result into kernel and bias."""
    x, normalized = c.entry(), c.kind.endswith("Batchnorm")
    terms, axes = letters(c, str(c.get("equation", "")).replace(" ", ""), len(c.shape(x))), c.get("bias_axes")
    c.ignore("output_shape")
    roles = ("kernel", *(["bias"] if axes else []), *(["gamma"] if normalized else []))
    later = ("moving_mean", "moving_variance") if normalized else ()
    found = dict(zip((*roles, *later), c.own(*roles, later=later)))
    kernel, bias = found["kernel"], found.get("bias")
    if normalized:
        kernel, bias = _folded(c, found, terms, str(axes))
    weight = c.weight("kq", kernel)
    y = weighted_sum(c, x, weight, terms)
    if bias is None:
        c.ignore("bq_conf")
    else:
        y = biased(c, y, c.weight("bq", bias).values, [k for k in terms[2] if k in str(axes)], terms[2])
    return _activated(c, y)


def _folded(c: HgqLayer, found: dict[str, Float], terms: tuple[str, str, str], axes: str) -> tuple[Float, Float]:
    """(kernel, bias) with the moving statistics in them, in float32. The framework takes Keras's epsilon, not the layer's."""
    kernel, mean, variance = _single(*(found[k] for k in ("kernel", "moving_mean", "moving_variance")))
    if not axes:
        raise c.error("bias_axes must be given", "save the model again")
    if set(axes) - set(terms[1]):
        raise c.error(f"bias_axes '{axes}' must be axes of the kernel")
    factor = _factor(c, found["gamma"], variance, _EPSILON)
    order = [k for k in terms[2] if k in axes]  # the statistics have the order of the result
    kernel_axes = [k for k in terms[1] if k in axes]
    if order != kernel_axes:
        raise c.error("the normalized axes must have one order in kernel and result", "reorder the equation")
    spread = factor.reshape([n if k in axes else 1 for k, n in zip(terms[1], kernel.shape)])
    bias = found["bias"].astype(np.float32)
    offset = (-mean * factor).reshape(bias.shape)
    return (kernel * spread).astype(np.float64), (bias + offset).astype(np.float64)


def _convolution(c: HgqLayer) -> int:
    """Padding lies behind the input quantizer, or in front of it for a causal one, which changes nothing: both are 0."""
    x, use_bias = c.entry(), c.flag("use_bias", True)
    kernel, *bias = c.own("kernel", *(["bias"] if use_bias else []))
    rank, groups = int(c.kind[-2]), c.whole("groups", 1)
    if c.get("padding") == "causal" and x != c.x and isinstance(c.builder.nodes[x].op, Offset):
        raise c.error("causal padding in front of an affine quantizer is not 0", "use a quantizer without affine")
    size = c.wholes("kernel_size", rank)
    if kernel.ndim != rank + 2 or kernel.shape[:rank] != size or kernel.shape[-1] != c.whole("filters") or groups < 1:
        raise c.error(f"the kernel must fit kernel_size {list(size)} and filters, not {list(kernel.shape)}")
    offset = c.weight("bq", bias[0]).values if bias else None
    if not bias:
        c.ignore("bq_conf")
    plain = HgqLayer(c, f"Conv{rank}D", [x])
    return c.result(convolve(plain, c.weight("kq", kernel), offset, groups))


def _normalization(c: HgqLayer) -> int:
    """x * quantized factor + quantized offset. Without `center` the framework adds 1 where one would expect 0."""
    c.must_be("renorm", False, None)
    c.ignore("momentum", "synchronized", "renorm_clipping", "renorm_momentum")
    x, scaled, centred = c.entry(), c.flag("scale", True), c.flag("center", True)
    roles = (*(["gamma"] if scaled else []), *(["beta"] if centred else []), "mean", "variance")
    found = dict(zip(roles, c.own(*roles)))
    shape = c.shape(x)
    axis = c.axis(c.get("axis", -1), len(shape))
    mean, variance = _single(*(c.shaped(k, found[k], (shape[axis],)) for k in ("mean", "variance")))
    factor = _factor(c, found.get("gamma"), variance, c.number("epsilon", 1e-3))
    offset = (found["beta"].astype(np.float32) if centred else np.float32(1)) - mean * factor
    full = [n if k == axis else 1 for k, n in enumerate(shape)]
    factor, offset = (
        c.weight(q, v.astype(np.float64)).values.reshape(full) for q, v in (("kq", factor), ("bq", offset))
    )
    return c.result(c.add(Offset(offset), c.add(Scale(factor), x, suffix=".scale")))


# ---- merging, pooling, sums -------------------------------------------------------------------------------------------


def _entries(c: HgqLayer) -> list[int]:
    """The operands, each through its quantizer."""
    if not c.flag("enable_iq", True):
        c.ignore("iq_confs")
        return c.inputs
    specs = c.get("iq_confs")
    specs = specs if isinstance(specs, list) else [specs] * len(c.inputs)
    if len(specs) != len(c.inputs):
        raise c.error(f"iq_confs must be {len(c.inputs)} quantizers, not {len(specs)}")
    groups = [
        stored_group(c.weights, "iq", "quantizers", f"quantizer_{k}" if k else "quantizer") for k in range(len(specs))
    ]
    each = zip(specs, c.inputs, groups)
    return [c.through(f"iq_confs[{k}]", s, x, g, f".iq{k}") for k, (s, x, g) in enumerate(each)]


def merged(kind: str, table: dict[str, Callable[[Layer], Any]] = BASIC_LAYERS) -> Callable[[HgqLayer], int]:
    """Several operands through their quantizers and a layer of Keras."""
    return lambda c: c.result(table[kind](HgqLayer(c, kind, _entries(c))))


def _as_keras(kind: str) -> Callable[[HgqLayer], int]:
    """One operand through its quantizer and a pooling layer of Keras."""
    return lambda c: c.result(WINDOW_LAYERS[kind](HgqLayer(c, kind, [c.entry()])))  # pyright: ignore[reportArgumentType]


def _average_pow2(c: HgqLayer) -> int:
    """The sum times the power of two nearest to 1 / n."""
    total = BASIC_LAYERS["Add"](HgqLayer(c, "Add", _entries(c)))
    return c.result(c.add(Scale(np.asarray(_nearest_power(1.0 / len(c.inputs)))), total, suffix=".mean"))


def _nearest_power(x: float) -> float:
    return 2.0 ** round(math.log2(x))


def _einsum(c: HgqLayer) -> int:
    """An Einstein sum of one or two operands."""
    operands, equation = _entries(c), str(c.get("equation", "")).replace(" ", "")
    given, _, out = equation.partition("->")
    terms = given.split(",")
    if len(operands) > 2 or len(terms) != len(operands):
        raise c.error(
            f"the equation '{equation}' must have one or two operands, not {len(operands)}", "use several layers"
        )
    shapes = tuple(c.shape(i) for i in operands)
    sound = all(
        t.isalpha() and len(set(t)) == len(t) == len(s) + 1 and t[0] == terms[0][0] for t, s in zip(terms, shapes)
    )
    if not sound or not out.isalpha() or out[0] != terms[0][0] or any(terms[0][0] in t[1:] for t in (*terms, out)):
        raise c.error(f"the batch axis must be the first letter everywhere, and no letter twice: '{equation}'")
    terms, out = [t[1:] for t in terms], out[1:]
    if set(out) - set("".join(terms)):
        raise c.error(f"the result's letters must be those of operands: '{equation}'")
    if len(operands) == 1:
        return c.result(_rearranged(c, operands[0], terms[0], out))
    y = contracted(c.add, operands[0], operands[1], f"{terms[0]},{terms[1]}->{out}", (shapes[0], shapes[1]))
    return c.result(y)


def _rearranged(c: HgqLayer, x: int, given: str, out: str) -> int:
    """The sum over the letters that the result lacks, in the result's order."""
    for axis, letter in enumerate(given):
        if letter not in out:
            x = c.add(Reduce("sum", axis), x, suffix=f".sum{axis}")
    kept = [k for k in given if k in out]
    y = c.add(Reshape(tuple(n for n, k in zip(c.shape(x), given) if k in out)), x, suffix=".kept")
    return c.add(Transpose(tuple(kept.index(k) for k in out)), y)


def _sum(c: HgqLayer) -> int:
    """The sum over axes, times a power of two: for QMeanPow2 the one nearest to 1 / n."""
    x, keep, axes = c.entry(), c.flag("keepdims", False), c.get("axes", -1)
    shape = c.shape(x)
    found = sorted({c.axis(a, len(shape)) for a in (axes if isinstance(axes, list) else [axes])})
    count = math.prod(shape[k] for k in found)
    scale = _nearest_power(1.0 / count) if c.kind == "QMeanPow2" else c.number("scale", 1.0)
    if scale <= 0:
        raise c.error(f"scale must be positive, not {scale:g}")
    for axis in found:
        x = c.add(Reduce("sum", axis), x, suffix=f".sum{axis}")
    y = c.add(Scale(np.asarray(scale)), x, suffix=".scale")
    kept = tuple(n for k, n in enumerate(c.shape(y)) if keep or k not in found)
    return c.result(c.add(Reshape(kept), y))


# ---- tables -----------------------------------------------------------------------------------------------------------


def _quantizer(c: HgqLayer) -> int:
    return c.through("config", c.get("config"), c.x, c.weights, "")


def _table(c: HgqLayer) -> int:
    """A function of one variable between two quantizers; QAffinedUnaryFunctionLUT scales and moves its operand."""
    c.ignore("allow_heterogeneous_table", "allow_heterogeneous_input")
    x = c.entry()
    if isinstance(c.get("activation"), dict):
        raise c.error("its function must be one of Keras by name: a function of yours is not in the file", "name one")
    if "Affined" in c.kind:
        scale, bias = c.own("scale", "bias")
        x = c.add(Scale(c.shaped("scale", scale, (1,))[0]), x, suffix=".scale")
        x = c.add(Offset(c.shaped("bias", bias, (1,))[0]), x, suffix=".offset")
    return _activated(c, x)


_OF_TABLES = {"overflow_mode": "SAT", "round_mode": "RND_CONV"}
"""What a softmax sets for its tables, whatever it is given."""


def _softmax(c: HgqLayer) -> int:
    axes = c.get("axes")
    if not isinstance(axes, list) or not axes:
        raise c.error(f"axes must be a list of axes, not {axes!r}")
    x = c.entry()
    found = [c.axis(a, len(c.shape(x))) for a in axes]
    scale = c.number("input_scaler", 1.0)
    c.ignore("allow_heterogeneous_table")
    return c.result(soft_maximum(c, x, found, scale, c.flag("stable", True)))


def soft_maximum(c: HgqLayer, x: int, axes: list[int], scale: float, stable: bool) -> int:
    """exp(x) / sum of exp(x) by the layer's tables; `stable`: of the distance to the largest x, through the table's quantizer."""
    if scale <= 0:
        raise c.error(f"input_scaler must be positive, not {scale:g}")
    if stable:
        top = x
        for axis in axes:
            top = c.add(Reduce("max", axis), top, suffix=f".max{axis}")
        x = c.data("exp_iq", c.add(Sub(), top, x, suffix=".below"), ("exp_table", "iq"))
    else:
        c.ignore("exp_iq_conf")
    x = c.add(Scale(np.asarray(-scale if stable else scale)), x, suffix=".scaled")
    powers = c.data("exp_oq", c.add(Function("exp"), x, suffix=".exp"), ("exp_table", "oq"), _OF_TABLES)
    total = powers
    for axis in axes:
        total = c.add(Reduce("sum", axis), total, suffix=f".sum{axis}")
    total = c.data("inv_iq", total, ("inv_table", "iq"))
    moved = c.add(Offset(np.asarray(float(np.float32(_EPSILON)))), total, suffix=".epsilon")
    inverse = c.data("inv_oq", c.add(Function("reciprocal"), moved, suffix=".inv"), ("inv_table", "oq"), _OF_TABLES)
    return c.add(Mul(), powers, inverse)


_POOLING = [f"{g}{kind}Pooling{n}D" for g in ("", "Global") for kind in ("Max", "Average") for n in (1, 2, 3)]

HGQ_BASIC: dict[str, Callable[[HgqLayer], int]] = {
    "QDense": _dense,
    "QBatchNormDense": _dense_with_normalization,
    "QEinsumDense": einsum_dense,
    "QEinsumDenseBatchnorm": einsum_dense,
    **dict.fromkeys(("QConv1D", "QConv2D", "QConv3D"), _convolution),
    "QBatchNormalization": _normalization,
    **{f"Q{kind}": merged(kind) for kind in ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Dot")},
    "QAveragePow2": _average_pow2,
    "QEinsum": _einsum,
    "QSum": _sum,
    "QMeanPow2": _sum,
    **{f"Q{kind}": _as_keras(kind) for kind in _POOLING},
    "Quantizer": _quantizer,
    "QUnaryFunctionLUT": _table,
    "QAffinedUnaryFunctionLUT": _table,
    "QSoftmax": _softmax,
}
"""Every layer of this file by its class name."""
