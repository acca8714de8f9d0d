"""Einstein sums with weights, and multi-head attention, of Keras."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keras_activations import activate
from .keras_context import Layer, Weight
from .keras_files import Weights
from .products import contracted
from .real import Float, Offset, Reshape, Scale, Softmax, Transpose

__all__ = ["ATTENTION_LAYERS", "biased", "letters", "operands", "weighted_sum"]


def weighted_sum(c: Layer, x: int, weight: Weight, terms: tuple[str, str, str], suffix: str = "") -> int:
    """An Einstein sum of node x and weights, given the letters of x, of the weights and of the result, without the batch axis.

    Letters of x that the result lacks are summed with the weights'; letters that all three share make a block-diagonal matrix.
    """
    given, weights, out = terms
    shape, kernel = c.shape(x), weight.values
    size = {**dict(zip(given, shape)), **dict(zip(weights, kernel.shape))}
    if (
        len(shape) != len(given)
        or kernel.shape != tuple(size[k] for k in weights)
        or any(n != size[k] for k, n in zip(given, shape))
    ):
        raise c.error(f"the input {list(shape)} and the kernel {list(kernel.shape)} do not fit the equation's {terms}")
    summed = [k for k in given if k not in out]
    shared = [k for k in given if k in weights and k in out]
    rest = [k for k in given if k not in weights and k in out]
    new = [k for k in weights if k not in given]
    if (
        any(k not in weights for k in summed)
        or any(k not in out for k in new)
        or sorted(rest + shared + new) != sorted(out)
    ):
        raise c.error(f"the equation's letters {terms} must be summed with the weights or be in the result")
    blocks, inner, columns = (math.prod(size[k] for k in part) for part in (shared, summed, new))
    order = [weights.index(k) for k in (*shared, *summed, *new)]

    def blocked(values: NDArray[Any]) -> NDArray[Any]:
        matrix = np.zeros((blocks, inner, blocks, columns), values.dtype)
        matrix[np.arange(blocks), :, np.arange(blocks)] = values.transpose(order).reshape(blocks, inner, columns)
        return matrix.reshape(blocks * inner, blocks * columns)

    y = c.add(Transpose(tuple(given.index(k) for k in (*rest, *shared, *summed))), x, suffix=f"{suffix}.order")
    y = c.add(Reshape((*(size[k] for k in rest), blocks * inner)), y, suffix=f"{suffix}.rows")
    y = c.add(weight.mapped(blocked).matrix(), y, suffix=f"{suffix}.product")
    made = [*rest, *shared, *new]
    y = c.add(Reshape(tuple(size[k] for k in made)), y, suffix=f"{suffix}.shape")
    return c.add(Transpose(tuple(made.index(k) for k in out)), y, suffix=suffix)


def letters(c: Layer, equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of the input, the weights and the result without the batch axis; ``...`` stands for axes in between."""
    match = re.fullmatch(r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*),([a-zA-Z]+)->([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)", equation)
    if not match:
        raise c.error(f"the equation must be like 'abc,cd->abd', not '{equation}'")
    given, weights, out = match.groups()
    if "..." in given:
        free = [k for k in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if k not in equation]
        axes = "".join(free[: max(rank + 1 - len(given.replace("...", "")), 0)])
        given, out = given.replace("...", axes), out.replace("...", axes)
    if (
        not given
        or given[0] != out[:1]
        or given[0] in weights
        or len({*given}) != len(given)
        or len({*out}) != len(out)
    ):
        raise c.error(f"the batch axis must be the first letter of input and result, and no letter twice: '{equation}'")
    return given[1:], weights, out[1:]


def _einsum_dense(c: Layer) -> int:
    x = c.x
    terms = letters(c, str(c.get("equation", "")).replace(" ", ""), len(c.shape(x)))
    axes = c.get("bias_axes")
    c.ignore("output_shape", "lora_alpha", "gptq_unpacked_column_size")
    c.must_be("lora_rank", None)
    kernel, *bias = c.variables("kernel", *(["bias"] if axes else []))
    y = weighted_sum(c, x, Weight(kernel), terms)
    if bias:
        y = biased(c, y, bias[0], [k for k in terms[2] if k in axes], terms[2])
    return activate(c, c.get("activation"), y, ".activation")


def biased(c: Layer, y: int, bias: Float, axes: list[str], out: str) -> int:
    shape = c.shape(y)
    sizes = [n if k in axes else 1 for k, n in zip(out, shape)]
    if bias.size != math.prod(sizes):
        raise c.error(f"the bias {list(bias.shape)} does not fit the result {list(shape)}")
    return c.add(Offset(bias.reshape(sizes)), y, suffix=".bias")


def _projected(c: Layer, x: int, name: str, heads: int, size: int, stored: Weights) -> int:
    """``[length, features] -> [length, heads, size]``."""
    layer = c.inside("EinsumDense", {"name": name}, stored, [x])
    kernel, *bias = layer.variables("kernel", *(["bias"] if c.flag("use_bias", True) else []))
    layer.shaped("kernel", kernel, (c.shape(x)[1], heads, size))
    y = weighted_sum(layer, x, Weight(kernel), ("tc", "chd", "thd"))
    return layer.add(Offset(bias[0]), y, suffix=".bias") if bias else y


def _multi_head_attention(c: Layer) -> int:
    """softmax(q k^T / sqrt(key_dim)) v for each head, and a matrix that joins the heads."""
    for key in ("attention_axes", "sliding_window"):
        if c.get(key) not in (None, [1], 1):
            raise c.error(f"{key} must be null, not {c.get(key)!r}")
    for key in ("use_gate", "flash_attention"):
        c.must_be(key, False, None)
    c.ignore("dropout", "seed", "query_shape", "key_shape", "value_shape", "softmax_robust_masking")
    heads, size, use_bias = c.whole("num_heads"), c.whole("key_dim"), c.flag("use_bias", True)
    value_size = size if c.get("value_dim") is None else c.whole("value_dim")
    q, v, k = operands(c)
    if any(len(c.shape(x)) != 2 for x in (q, k, v)):
        raise c.error("query, key and value must have shape [length, features]")
    names = ("query", "key", "value")
    stored = [c.weights.child(f"{n}_dense", f"_{n}_dense", n) for n in names]
    q, k, v = (
        _projected(c, x, n, heads, value_size if n == "value" else size, s) for x, n, s in zip((q, k, v), names, stored)
    )
    q = c.add(Scale(np.asarray(float(np.float32(1 / math.sqrt(size))))), q, suffix=".scaled")
    scores = contracted(c.add, q, k, "xhd,yhd->hxy", (c.shape(q), c.shape(k)), ".scores")
    shares = c.add(Softmax((2,)), scores, suffix=".softmax")
    joined = contracted(c.add, shares, v, "hxy,yhd->xhd", (c.shape(shares), c.shape(v)), ".values")
    out = c.inside(
        "EinsumDense",
        {"name": "output"},
        c.weights.child("output_dense", "_output_dense", "attention_output"),
        [joined],
    )
    kernel, *bias = out.variables("kernel", *(["bias"] if use_bias else []))
    if kernel.ndim != 3:
        raise c.error("output_shape must be null or one number")
    c.ignore("output_shape")
    y = weighted_sum(out, joined, Weight(kernel), ("thd", "hdo", "to"))
    return c.add(Offset(bias[0]), y) if bias else y


def operands(c: Layer) -> tuple[int, int, int]:
    """(query, value, key), from the inputs in this order or by name; the key is the value by default."""
    found = dict(zip(("query", "value", "key"), c.inputs))
    for name in ("query", "value", "key"):
        given = c.call.pop(name, None)
        if isinstance(given, tuple):
            found[name] = given[1]
    for name in ("use_causal_mask", "return_attention_scores"):
        if c.call.pop(name, False):
            raise c.error(f"{name} must be false")
    if "query" not in found or "value" not in found:
        raise c.error("must be called with a query and a value")
    return found["query"], found["value"], found.get("key", found["value"])


ATTENTION_LAYERS: dict[str, Callable[[Layer], int]] = {
    "EinsumDense": _einsum_dense,
    "MultiHeadAttention": _multi_head_attention,
}
