"""ATen operators with weights or windows: products, convolutions, pooling, normalizations and attention."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .onnx_context import Ref
from .real import Scale
from .torch_context import Call, Known, Operand
from .windows import same_padding

__all__ = ["LAYERS"]

Reader = Callable[[Call], Any]


# ---- products ---------------------------------------------------------------------------------------------------------


def _linear(c: Call) -> Any:
    """x @ weight.T + bias."""
    weight = c.get("weight")
    turned = _turned(c, weight, ".weight")
    bias = c.get("bias")
    y = _product(c, c.operand("input"), turned, "" if bias is None else ".product")
    return y if bias is None else c.read("Add", y, bias)


def _turned(c: Call, x: Operand, suffix: str) -> Operand:
    """The last two axes exchanged."""
    if isinstance(x, Known):
        return x.mapped(lambda t: t.transpose(-1, -2)) if x.tensor.ndim > 1 else x
    rank = c.rank(x)
    return c.read("Transpose", x, suffix=suffix, perm=[*range(rank - 2), rank - 1, rank - 2])


def _product(c: Call, a: Operand, b: Operand, suffix: str = "") -> Any:
    """a @ b as torch.matmul has it; a constant matrix on the left is one on the right of the turned data."""
    if isinstance(b, Ref) and isinstance(a, Ref):
        return _data_product(c, a, b, suffix)
    if isinstance(b, Known):
        if b.tensor.ndim == 1:
            y = c.read("MatMul", a, b.mapped(lambda t: t[:, None]), suffix=f"{suffix}.column")
            return c.placed(c.read("Squeeze", y, np.asarray([c.rank(y) - 1]), suffix=suffix))
        if b.tensor.ndim > 2:
            return _stacked(c, a, b, suffix)
        return c.read("MatMul", a, b, suffix=suffix)
    assert isinstance(a, Known)
    assert isinstance(b, Ref)
    if a.tensor.ndim == 1:
        a = a.mapped(lambda t: t[None])
        y = _turned_product(c, a, b, suffix, ".row")
        return c.placed(c.read("Squeeze", y, np.asarray([c.rank(y) - 2]), suffix=suffix))
    if a.tensor.ndim > 2:
        turned = _stacked(
            c, _turned(c, b, f"{suffix}.turned"), a.mapped(lambda t: t.transpose(-1, -2)), f"{suffix}.product"
        )
        return _turned(c, turned, suffix)
    return _turned_product(c, a, b, suffix, "")


def _turned_product(c: Call, a: Known, b: Ref, suffix: str, last: str) -> Any:
    y = c.read("MatMul", _turned(c, b, f"{suffix}.turned"), _turned(c, a, ""), suffix=f"{suffix}.product")
    return _turned(c, y, f"{suffix}{last}")


def _stacked(c: Call, a: Operand, b: Known, suffix: str) -> Any:
    """Data times a constant matrix for each leading index, ``[.., n, k] @ [.., k, m]``."""
    if c.rank(a) < b.tensor.ndim:
        raise c.error("a product of data with more constant matrices than data is not supported", "use one matrix")
    lead = "abcdefg"[: c.rank(a) - 2]
    own = lead[len(lead) - (b.tensor.ndim - 2) :]
    keep = "".join(x for x, n in zip(own, b.tensor.shape) if n != 1)
    squeezed = b.tensor.reshape([n for n in b.tensor.shape[:-2] if n != 1] + list(b.tensor.shape[-2:]))
    return c.read("Einsum", a, squeezed.numpy(), suffix=suffix, equation=f"{lead}xy,{keep}yz->{lead}xz")


def _data_product(c: Call, a: Any, b: Any, suffix: str) -> Any:
    """Vectors as matrices of one row or column; leading axes broadcast."""
    ranks = c.rank(a), c.rank(b)
    if min(ranks) < 2 or (a.batch >= 0 and min(ranks) < 3 and not a.joined) or ranks[0] != ranks[1]:
        raise c.error("a product of data with data needs matrices of as many axes", "give them the same leading axes")
    shapes = [c.builder.nodes[v.index].shape[:-2] for v in (a, b)]
    if shapes[0] != shapes[1]:
        full = np.broadcast_shapes(*shapes)
        a, b = (_spread(c, v, full, f"{suffix}.spread{k}") for k, v in enumerate((a, b)))
    return c.read("MatMul", a, b, suffix=suffix)


def _spread(c: Call, x: Ref, lead: tuple[int, ...], suffix: str) -> Ref:
    shape = c.builder.nodes[x.index].shape
    if shape[:-2] == lead:
        return x
    full = [*lead, *shape[-2:]]
    return c.read("Expand", x, np.asarray([-1, *full] if x.batch == 0 else full), suffix=suffix)


def _matmul(c: Call, left: str = "self", right: str = "other") -> Any:
    return _product(c, c.operand(left), c.operand(right))


def _add_product(left: str, right: str) -> Reader:
    """beta * self + alpha * (left @ right)."""

    def read(c: Call) -> Any:
        alpha, beta = c.number("alpha", 1.0), c.number("beta", 1.0)
        y = _product(c, c.operand(left), c.operand(right), ".product")
        y = y if alpha == 1 else c.add(Scale(np.asarray(alpha)), y, suffix=".alpha")
        other = c.get("self")
        if beta != 1:
            other = (
                Known(other.tensor * beta)
                if isinstance(other, Known)
                else c.add(Scale(np.asarray(beta)), other, suffix=".beta")
            )
        return c.read("Add", y, other)

    return read


def _einsum(c: Call) -> Any:
    """Two operands; a constant matrix becomes one product, data with data an Einstein sum."""
    equation, tensors = str(c.plain("equation")).replace(" ", ""), c.get("tensors")
    c.ignore("path")
    if "->" not in equation:
        letters = sorted(x for x in set(equation) if x.isalpha() and equation.count(x) == 1)
        equation = f"{equation}->{''.join(letters)}"
    left, out = equation.split("->")
    terms = left.split(",")
    if len(tensors) == 1 and len(terms) == 1 and sorted(terms[0]) == sorted(out):
        return c.read("Transpose", tensors[0], perm=[terms[0].index(x) for x in out])
    if len(tensors) != 2 or not re.fullmatch(r"[a-zA-Z,]*->[a-zA-Z]*", equation):
        raise c.error(
            f"must have two operands named by letters, such as 'bij,jk->bik', not '{equation}'", "write it so"
        )
    if isinstance(tensors[0], Known):
        tensors, terms = tensors[::-1], terms[::-1]
    if isinstance(tensors[1], Known) and not set(terms[1]) & set(terms[0]) & set(out):
        return _einsum_matrix(c, tensors[0], tensors[1], terms[0], terms[1], out)
    return c.read("Einsum", *tensors, equation=f"{terms[0]},{terms[1]}->{out}")


def _einsum_matrix(c: Call, x: Ref, weights: Known, data: str, constant: str, out: str) -> Any:
    """All letters that data and constant share are summed: data ``[keep, inner]`` times ``[inner, new]``."""
    inner = [k for k in data if k in constant]
    if (
        any(k not in out for k in data if k not in inner)
        or len(set(data)) < len(data)
        or len(set(constant)) < len(constant)
    ):
        raise c.error(f"'{data},{constant}->{out}' sums over letters of one operand alone", "sum it before")
    new = [k for k in constant if k not in inner]
    keep = [k for k in data if k not in inner]
    sizes = dict(zip(constant, weights.tensor.shape))
    full = dict(zip(data, c.full_shape(x)))
    x = c.read("Transpose", x, suffix=".turned", perm=[data.index(k) for k in (*keep, *inner)])
    rows = math.prod(sizes[k] for k in inner)
    x = c.read("Reshape", x, np.asarray([*(full[k] for k in keep), rows]), suffix=".rows", allowzero=1)
    matrix = weights.mapped(lambda t: t.permute([constant.index(k) for k in (*inner, *new)]).reshape(rows, -1))
    y = c.read("MatMul", x, matrix, suffix=".product")
    y = c.read(
        "Reshape", y, np.asarray([*(full[k] for k in keep), *(sizes[k] for k in new)]), suffix=".shape", allowzero=1
    )
    order = [*keep, *new]
    return c.read("Transpose", y, perm=[order.index(k) for k in out])


# ---- windows ----------------------------------------------------------------------------------------------------------


def _sizes(c: Call, name: str, rank: int, default: Any) -> list[int]:
    """One number for each spatial axis; a single one stands for all."""
    found = c.plain(name, default)
    found = [found] if isinstance(found, int) else list(found)
    if not found:
        found = [default] if isinstance(default, int) else list(default)
    found = found * rank if len(found) == 1 else found
    if len(found) != rank or any(v < 0 for v in found):
        raise c.error(f"{name} must be {rank} numbers of at least 0, not {found}")
    return [int(v) for v in found]


def _conv(c: Call) -> Any:
    x, weight = c.data("input" if "input" in c.arguments else "self"), c.known("weight", "weights")
    rank = weight.tensor.ndim - 2
    _with_batch(c, x, rank)
    strides, dilations = _sizes(c, "stride", rank, 1), _sizes(c, "dilation", rank, 1)
    if c.plain("transposed", False):
        return _conv_transpose(c)
    c.ignore("output_padding", "transposed")
    spatial, kernel = list(c.full_shape(x)[2:]), list(weight.tensor.shape[2:])
    padding = c.plain("padding", 0)
    if padding == "same":  # of stride 1; an odd element goes behind
        before, behind = same_padding(spatial, kernel, strides, dilations)
    elif padding == "valid":
        before = behind = (0,) * rank
    else:
        before = behind = tuple(_sizes(c, "padding", rank, 0))
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "pads": [*before, *behind],
        "group": c.plain("groups", 1),
    }
    return c.read("Conv", x, weight, c.get("bias"), **attributes)


def _with_batch(c: Call, x: Ref, rank: int) -> None:
    if c.rank(x) != rank + 2:
        raise c.error(f"the operand must have shape [batch, channels] and {rank} axes, not {c.rank(x)} axes in all")


def _conv_transpose(c: Call) -> Any:
    x, weight = c.data("input"), c.known("weight", "weights")
    rank, groups = weight.tensor.ndim - 2, c.plain("groups", 1)
    c.ignore("transposed")
    _with_batch(c, x, rank)
    pads = _sizes(c, "padding", rank, 0)
    attributes: dict[str, Any] = {
        "strides": _sizes(c, "stride", rank, 1), "dilations": _sizes(c, "dilation", rank, 1), "pads": [*pads, *pads],
        "output_padding": _sizes(c, "output_padding", rank, 0),
    }  # fmt: skip
    if groups > 1:
        weight = weight.mapped(lambda t: _block_diagonal(t, groups))
    return c.read("ConvTranspose", x, weight, c.get("bias"), **attributes)


def _block_diagonal(t: Any, groups: int) -> Any:
    """``[in, out / groups, ..]`` as ``[in, out, ..]`` with zeros between the groups."""
    import torch

    per = t.shape[0] // groups
    full = torch.zeros((t.shape[0], t.shape[1] * groups, *t.shape[2:]), dtype=t.dtype)
    for g in range(groups):
        full[g * per : (g + 1) * per, g * t.shape[1] : (g + 1) * t.shape[1]] = t[g * per : (g + 1) * per]
    return full


def _pool(kind: str, rank: int) -> Reader:
    def read(c: Call) -> Any:
        x = c.data("self" if "self" in c.arguments else "input")
        _with_batch(c, x, rank)
        kernel = _sizes(c, "kernel_size", rank, 1)
        pads = _sizes(c, "padding", rank, 0)
        strides, dilations = _sizes(c, "stride", rank, kernel), _sizes(c, "dilation", rank, 1)
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": [*pads, *pads],
                                      "dilations": dilations, "ceil_mode": int(c.plain("ceil_mode", False))}  # fmt: skip
        if kind == "MaxPool":
            return c.read(kind, x, **attributes)
        attributes["count_include_pad"] = int(c.plain("count_include_pad", True))
        divisor = c.plain("divisor_override")
        if divisor is None:
            return c.read(kind, x, **attributes)
        whole = c.read(kind, x, suffix=".mean", **{**attributes, "count_include_pad": 1})
        if attributes["ceil_mode"]:
            raise c.error("divisor_override with ceil_mode is not supported", "use one of them")
        return c.add(Scale(np.asarray(math.prod(kernel) / divisor)), whole)

    return read


def _with_indices(rank: int) -> Reader:
    """Maxima alone; their places are refused where they are used."""
    return lambda c: [_pool("MaxPool", rank)(c), None]


def _adaptive(kind: str, rank: int) -> Reader:
    """Pooling to a fixed size: each axis in windows of [k n / m, (k + 1) n / m), outwards to whole elements."""

    def read(c: Call) -> Any:
        x = c.data()
        _with_batch(c, x, rank)
        spatial = list(c.full_shape(x)[2:])
        sizes = c.plain("output_size")
        sizes = [sizes] * rank if isinstance(sizes, int) else list(sizes)
        sizes = [n if m is None else m for m, n in zip(sizes, spatial)]
        if all(n % m == 0 for m, n in zip(sizes, spatial)):
            kernel = [n // m for m, n in zip(sizes, spatial)]
            y = c.read(f"{kind}Pool", x, kernel_shape=kernel, strides=kernel)
            return [y, None] if isinstance(c.value, tuple | list) else y
        raise c.error(f"the sizes {spatial} must be multiples of the output's {sizes}", "pool with a fixed kernel")

    return read


# ---- normalizations ---------------------------------------------------------------------------------------------------


def _batch_norm(c: Call) -> Any:
    x = c.data("input")
    c.ignore("momentum", "cudnn_enabled", "training")
    if c.plain("training", False) or c.get("running_mean") is None or c.get("running_var") is None:
        raise c.error("must have fixed statistics", "use track_running_stats=True and module.eval()")
    mean, variance = (c.known(k).tensor.double() for k in ("running_mean", "running_var"))
    ones = mean * 0 + 1
    weight, bias = (ones if (v := c.get(k)) is None else v.tensor.double() for k in ("weight", "bias"))
    bias = bias if c.get("bias") is not None else mean * 0
    numbers = [v.numpy() for v in (weight, bias, mean, variance)]
    y = c.read("BatchNormalization", x, *numbers, epsilon=c.plain("eps", 1e-5))
    return [y, None, None] if isinstance(c.value, tuple | list) else y


def _affine(c: Call, shape: Sequence[int]) -> tuple[Any, Any]:
    weight, bias = (c.get(k) for k in ("weight", "bias"))
    return np.ones(tuple(shape)) if weight is None else weight, bias


def _layer_norm(c: Call) -> Any:
    x, shape = c.data("input"), list(c.plain("normalized_shape"))
    weight, bias = _affine(c, shape)
    c.ignore("cudnn_enable")
    y = c.read("LayerNormalization", x, weight, bias, axis=c.rank(x) - len(shape), epsilon=c.plain("eps", 1e-5))
    return [y, None, None] if isinstance(c.value, tuple | list) else y


def _rms_norm(c: Call) -> Any:
    x, shape = c.data("input"), list(c.plain("normalized_shape"))
    weight, _ = _affine(c, shape)
    epsilon = c.plain("eps")
    if epsilon is None:
        epsilon = float(np.finfo(np.float32 if c.is_single_precision else np.float64).eps)
    return c.read("RMSNormalization", x, weight, axis=c.rank(x) - len(shape), epsilon=epsilon)


def _group_norm(c: Call) -> Any:
    x = c.data("input")
    channels = c.full_shape(x)[1]
    weight, bias = _affine(c, [channels])
    c.ignore("cudnn_enabled")
    epsilon, groups = c.plain("eps", 1e-5), c.plain("num_groups")
    zeros = np.zeros(channels) if bias is None else bias
    return c.read("GroupNormalization", x, weight, zeros, num_groups=groups, epsilon=epsilon)


def _instance_norm(c: Call) -> Any:
    x = c.data("input")
    if not c.plain("use_input_stats", True):
        return _batch_norm(c)
    c.ignore("momentum", "cudnn_enabled", "running_mean", "running_var")
    channels = c.full_shape(x)[1]
    weight, bias = _affine(c, [channels])
    zeros = np.zeros(channels) if bias is None else bias
    return c.read("InstanceNormalization", x, weight, zeros, epsilon=c.plain("eps", 1e-5))


# ---- attention --------------------------------------------------------------------------------------------------------


def _attention(c: Call) -> Any:
    """softmax(q k^T * scale + mask) v, for finite constant masks."""
    q, k, v = (c.data(n) for n in ("query", "key", "value"))
    if c.plain("is_causal", False) or c.plain("enable_gqa", False):
        raise c.error("causal masks and grouped queries are not supported", "write out the attention")
    if c.plain("dropout_p", 0.0):
        raise c.error("dropout must be 0", "call module.eval() first")
    scale = c.plain("scale")
    scale = 1 / math.sqrt(c.full_shape(q)[-1]) if scale is None else scale
    scale = float(np.float32(scale)) if c.is_single_precision else scale
    scores = _data_product(c, q, _turned(c, k, ".keys"), ".scores")
    scores = c.add(Scale(np.asarray(scale)), scores, suffix=".scaled")
    mask = c.get("attn_mask")
    if mask is not None:
        scores = c.read("Add", scores, _mask(c, mask), suffix=".masked")
    weights = c.read("Softmax", scores, suffix=".softmax", axis=c.rank(scores) - 1)
    return _data_product(c, weights, v, "")


def _mask(c: Call, mask: Any) -> Any:
    if isinstance(mask, Known):
        found = mask.tensor.double()
        if str(mask.tensor.dtype) == "torch.bool" or not np.isfinite(found.numpy()).all():
            raise c.error("masks must be finite numbers", "drop the masked positions, or add -100")
    return mask


LAYERS: dict[str, Reader] = {
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul,
    "aten.mm.default": lambda c: _matmul(c, right="mat2"),
    "aten.bmm.default": lambda c: _matmul(c, right="mat2"),
    "aten.mv.default": lambda c: _matmul(c, right="vec"),
    "aten.addmm.default": _add_product("mat1", "mat2"),
    "aten.baddbmm.default": _add_product("batch1", "batch2"),
    "aten.einsum.default": _einsum,
    **{f"aten.conv{n}d.{o}": _conv for n in (1, 2, 3) for o in ("default", "padding")},
    "aten.convolution.default": _conv,
    "aten.conv_transpose1d.default": _conv_transpose,
    "aten.conv_transpose2d.input": _conv_transpose,
    "aten.conv_transpose3d.input": _conv_transpose,
    **{f"aten.max_pool{n}d.default": _pool("MaxPool", n) for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices.default": _with_indices(n) for n in (1, 2, 3)},
    **{f"aten.avg_pool{n}d.default": _pool("AveragePool", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d.default": _adaptive("Average", n) for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d.default": _adaptive("Max", n) for n in (1, 2, 3)},
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.scaled_dot_product_attention.default": _attention,
}
"""Every layer-like operator and the function that reads it."""
