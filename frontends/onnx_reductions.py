"""Reductions and products of data with data in ONNX: sums, extremes, MatMul, Einsum and Attention."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from .onnx_context import Context, Ref, Value
from .products import contracted
from .real import Add, Constant, Function, Gather, Maximum, Mul, RealOp, Reduce, Reshape, Scale, Softmax, Sub, Transpose

__all__ = ["REDUCTIONS", "matmul_data", "reduced"]


def _axes(c: Context, rank: int) -> list[int]:
    """Axes to reduce, without the batch axis; an operand since opset 13 (sums) or 18, an attribute before."""
    found = [int(a) for a in c.constant(1, "axes").values.reshape(-1)] if c.given(1) else c.attribute("axes", None)
    if not found:
        if c.attribute("noop_with_empty_axes", 0):
            return []
        raise c.error("without axes it would reduce the batch axis", "name the axes")
    return sorted({c.axis(int(a), rank) for a in found})


def reduced(
    c: Context, x: int, shape: tuple[int, ...], axes: list[int], kind: str, keep: bool, suffix: str = ""
) -> Ref:
    """One sum or maximum over all of `axes`, which move behind the others into a single one first."""
    rest = [k for k in range(len(shape)) if k not in axes]
    flat = np.arange(math.prod(shape)).reshape(shape).transpose((*rest, *axes)).reshape((*(shape[k] for k in rest), -1))
    y = c.add(Gather(flat), x, suffix=f"{suffix}.elements")
    y = c.add(Reduce(kind, len(rest)), y.index, suffix=f"{suffix}.{kind}")
    target = tuple(1 if k in axes else n for k, n in enumerate(shape)) if keep else tuple(shape[k] for k in rest)
    return c.add(Reshape(target), y.index, suffix=f"{suffix}.shape")


def _reduce(
    kind: str, mean: bool = False, negate: bool = False, before: str = "", after: str = ""
) -> Callable[[Context], Value]:
    """A sum or maximum, of values that a step `before` changed ("square", "abs"), with a function `after` it."""

    def read(c: Context) -> Value:
        x = c.data(0)
        shape = c.shape(c.operand(0))
        axes, keep = _axes(c, len(shape)), bool(c.attribute("keepdims", 1))
        c.attribute("noop_with_empty_axes", 0)
        if not axes and not (before or after):
            return c.operand(0)
        minus = Scale(np.asarray(-1.0))
        if negate:
            x = c.add(minus, x, suffix=".neg").index
        if before == "square":
            x = c.add(Mul(), x, x, suffix=".square").index
        if before == "abs":
            x = c.add(Maximum(), x, c.add(minus, x, suffix=".neg").index, suffix=".abs").index
        y = reduced(c, x, shape, axes, kind, keep)
        if mean:
            y = c.add(Scale(np.asarray(float(math.prod(shape[k] for k in axes))), divide=True), y.index)
        if after:
            y = c.add(Function(after), y.index, suffix=f".{after}")
        return _behind(c, c.add(minus, y.index) if negate else y, axes, keep)

    return read


def _behind(c: Context, y: Ref, axes: list[int], keep: bool) -> Ref:
    """The result of a reduction, whose batch axis moves forward where axes before it went away."""
    return y if keep or c.batch <= 0 else c.placed(y, c.batch - sum(k < c.batch for k in axes), c.joined)


def _log_sum_exp(c: Context) -> Value:
    """max + log(sum(exp(x - max))), so that every exponential is at most 1."""
    shape = c.shape(c.operand(0))
    axes, keep = _axes(c, len(shape)), bool(c.attribute("keepdims", 1))
    c.attribute("noop_with_empty_axes", 0)
    top = reduced(c, c.data(0), shape, axes, "max", True, ".top")
    below = c.add(Sub(), c.data(0), top.index, suffix=".below")
    total = reduced(c, c.add(Function("exp"), below.index, suffix=".exp").index, shape, axes, "sum", True, ".total")
    y = c.add(Add(), c.add(Function("log"), total.index, suffix=".log").index, top.index, suffix=".result")
    target = shape if keep else tuple(n for k, n in enumerate(shape) if k not in axes)
    target = tuple(1 if keep and k in axes else n for k, n in enumerate(target))
    return _behind(c, c.add(Reshape(target), y.index), axes, keep)


def _contracted(
    c: Context, a: int, b: int, equation: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], part: str = ""
) -> Ref:
    """An Einstein sum of two data values (no batch axis in the letters)."""
    made: list[Ref] = []

    def append(op: RealOp, *operands: int, suffix: str = "") -> int:
        made.append(c.add(op, *operands, suffix=suffix))
        return made[-1].index

    contracted(append, a, b, equation, shapes, part)
    return made[-1]


def _einsum(c: Context) -> Value:
    equation = str(c.attribute("equation", "")).replace(" ", "")
    match = re.fullmatch(r"([a-zA-Z]*),([a-zA-Z]*)->([a-zA-Z]*)", equation)
    if not match or len(c.inputs) != 2:
        raise c.error(f"the equation must have two operands and a result such as 'bij,bjk->bik', not '{equation}'")
    terms = list(match.groups())
    batch = terms[2][:1]
    nodes: list[int] = []
    shapes: list[tuple[int, ...]] = []
    for k in range(2):
        value = c.operand(k)
        if isinstance(value, Ref):
            if not batch or terms[k][:1] != batch or batch in terms[k][1:]:
                raise c.error(f"the first letter of data and result must be the batch axis, not '{equation}'")
            terms[k] = terms[k][1:]
            nodes.append(value.index)
            shapes.append(c.shape(value))
        else:
            values = c.floats(k, "a constant operand")
            nodes.append(c.add(Constant(values), suffix=f".constant{k}").index)
            shapes.append(values.shape)
        if len(shapes[k]) != len(terms[k]):
            raise c.error(f"'{equation}' does not fit an operand of shape {list(shapes[k])}")
    return _contracted(c, nodes[0], nodes[1], f"{terms[0]},{terms[1]}->{terms[2][1:]}", (shapes[0], shapes[1]))


def matmul_data(c: Context) -> Value:
    """MatMul of two data values; leading axes must agree."""
    shapes = (c.shape(c.operand(0)), c.shape(c.operand(1)))
    lead = "abcdefgh"[: max(len(s) for s in shapes) - 2]
    if c.batch > 0:
        raise c.error("a product of data with data needs the batch axis in front", "transpose before it")
    if any(len(s) < 2 for s in shapes) or shapes[0][:-2] != shapes[1][:-2] or len(lead) > 6:
        raise c.error(f"matrices of shapes {list(shapes[0])} and {list(shapes[1])} must agree in their leading axes")
    return _contracted(c, c.data(0), c.data(1), f"{lead}xy,{lead}yz->{lead}xz", shapes)


def _heads(c: Context, k: int, heads: int) -> tuple[int, tuple[int, ...]]:
    """(node, shape) of an operand as ``[heads, length, size]``."""
    shape, x = c.shape(c.operand(k)), c.data(k)
    if len(shape) == 3:
        return x, shape
    if len(shape) != 2 or heads < 1 or shape[1] % heads:
        raise c.error(f"an operand of shape [batch, {', '.join(map(str, shape))}] does not fit {heads} heads")
    length, size = shape[0], shape[1] // heads
    split = c.add(Reshape((length, heads, size)), x, suffix=f".heads{k}")
    return c.add(Transpose((1, 0, 2)), split.index, suffix=f".turned{k}").index, (heads, length, size)


def _attention(c: Context) -> Value:
    """softmax(q k^T * scale) v for each head, without masks and caches."""
    heads = [int(c.attribute(f"{k}_num_heads", 0)) for k in ("q", "kv")]
    flat = len(c.shape(c.operand(0))) == 2
    settings = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0}
    for name, plain in settings.items():
        if c.attribute(name, plain) != plain:
            raise c.error(f"{name} must be {plain}, not {c.attribute(name, plain)}", "write out the attention")
    c.attribute("softmax_precision", 1)
    if any(c.given(k) for k in range(3, len(c.inputs))) or len(c.node.output) > 1:
        raise c.error("masks, caches and further outputs are not supported", "write out the attention")
    (q, qs), (k, ks), (v, vs) = (_heads(c, i, heads[i > 0]) for i in range(3))
    if qs[0] != ks[0]:
        raise c.error(f"queries and keys must have as many heads, not {qs[0]} and {ks[0]}")
    scale = float(np.float32(c.attribute("scale", 1 / math.sqrt(qs[2]))))
    scores = c.add(
        Scale(np.asarray(scale)), _contracted(c, q, k, "hxd,hyd->hxy", (qs, ks), ".scores").index, suffix=".scores"
    )
    weights = c.add(Softmax((2,)), scores.index, suffix=".softmax")
    y = _contracted(c, weights.index, v, "hxy,hyd->hxd", ((qs[0], qs[1], ks[1]), vs), ".values")
    if not flat:
        return y
    turned = c.add(Transpose((1, 0, 2)), y.index, suffix=".joined")
    return c.add(Reshape((qs[1], vs[0] * vs[2])), turned.index, suffix=".flat")


REDUCTIONS: dict[str, Callable[[Context], Value]] = {
    "ReduceSum": _reduce("sum"),
    "ReduceMean": _reduce("sum", mean=True),
    "ReduceMax": _reduce("max"),
    "ReduceMin": _reduce("max", negate=True),
    "ReduceSumSquare": _reduce("sum", before="square"),
    "ReduceL1": _reduce("sum", before="abs"),
    "ReduceL2": _reduce("sum", before="square", after="sqrt"),
    "ReduceLogSum": _reduce("sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "Einsum": _einsum,
    "Attention": _attention,
}
