"""ATen operators that move, repeat, drop or pad elements; all but the plainest are one gather, found by running them on indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .onnx_context import Ref
from .torch_context import BATCH, Call, Known, Operand

__all__ = ["LAYOUT", "MOVES", "axis_of", "dims_of"]


def axis_of(c: Call, dim: Any, rank: int) -> int:
    """A dimension counted from the front."""
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise c.error(f"dim {dim} must be one of {rank} axes")
    return dim % rank


def dims_of(c: Call, dims: Any, rank: int) -> list[int]:
    found = [dims] if isinstance(dims, int) else list(dims)
    return [axis_of(c, d, rank) for d in found]


def _same(c: Call) -> Operand:
    """The operand itself: copies, contiguity, dropout at inference."""
    c.ignore("memory_format", "p", "train", "implicit", "size")
    return c.operand("self" if "self" in c.arguments else "input")


def _inference_only(c: Call) -> Operand:
    if c.plain("train", False) or c.plain("training", False):
        raise c.error("must be exported for inference, not for training", "call module.eval() first")
    c.ignore("p", "lower", "upper", "generator", "noise")
    return c.operand("self" if "self" in c.arguments else "input")


def _view(c: Call) -> Any:
    """The target is the result's own shape, in which the number of events is -1."""
    x = c.data()
    c.ignore(*c.arguments)
    wanted = [-times if (times := c.sizes.times(n)) else int(n) for n in c.value.shape]
    if any(c.sizes.times(n) is None for n in c.value.shape):
        raise c.error(f"the shape {list(c.value.shape)} must keep the number of events apart")
    return c.placed(c.read("Reshape", x, np.asarray(wanted, np.int64), allowzero=1))


def _ordered(c: Call, order: Sequence[int]) -> Any:
    return c.read("Transpose", c.data(), perm=list(order))


def _permute(c: Call) -> Any:
    x = c.data()
    return _ordered(c, dims_of(c, c.plain("dims"), c.rank(x)))


def _transpose(c: Call) -> Any:
    rank = c.rank(c.data())
    order = list(range(rank))
    a, b = (axis_of(c, c.plain(k, d), rank) for k, d in (("dim0", 0), ("dim1", 1)))
    order[a], order[b] = b, a
    return _ordered(c, order)


def _turned(c: Call) -> Any:
    """The last two axes exchanged (mT, t)."""
    rank = c.rank(c.data())
    return c.operand() if rank < 2 else _ordered(c, [*range(rank - 2), rank - 1, rank - 2])


def _squeeze(c: Call) -> Any:
    """Axes of length 1 away; torch leaves the others, and an axis of events is none of length 1."""
    x = c.data()
    full = c.full_shape(x)
    dims = dims_of(c, c.plain("dim"), len(full)) if "dim" in c.arguments else range(len(full))
    drop = [k for k in dims if full[k] == 1]
    return c.placed(c.read("Squeeze", x, np.asarray(drop, np.int64))) if drop else x


def _unsqueeze(c: Call) -> Any:
    x = c.data()
    return c.placed(c.read("Unsqueeze", x, np.asarray([axis_of(c, c.plain("dim"), c.rank(x) + 1)], np.int64)))


def _cat(c: Call) -> Any:
    tensors = [t for t in c.get("tensors") if not (isinstance(t, Known) and t.tensor.numel() == 0)]
    refs = [t for t in tensors if isinstance(t, Ref)]
    if len(tensors) == 1:
        c.ignore("dim")
        return refs[0]
    places = {(r.batch, r.joined, c.rank(r)) for r in refs}
    if len(refs) < len(tensors) or len(places) > 1 or c.single:
        return c.moved(tensors=tensors)
    return c.read("Concat", *refs, axis=c.plain("dim", 0))


def _stack(c: Call) -> Any:
    tensors = c.get("tensors")
    at = axis_of(c, c.plain("dim", 0), c.rank(tensors[0]) + 1)
    if not all(isinstance(t, Ref) for t in tensors) or c.single:
        return c.moved()
    lifted = [c.read("Unsqueeze", t, np.asarray([at]), suffix=f".lifted{k}") for k, t in enumerate(tensors)]
    return c.read("Concat", *lifted, axis=at) if len(lifted) > 1 else lifted[0]


def _pad(c: Call) -> Any:
    """Padding of the last axes; torch counts them from the last."""
    mode = c.plain("mode", "constant")
    value = c.plain("value", 0.0) or 0.0
    if mode != "constant" or value == 0:
        return c.moved()
    x, amounts = c.data(), list(c.plain("pad"))
    rank = c.rank(x)
    pads = np.zeros((2, rank), np.int64)
    for k in range(len(amounts) // 2):
        pads[:, rank - 1 - k] = amounts[2 * k : 2 * k + 2]
    return c.read("Pad", x, pads.reshape(-1), float(value))


def _index(c: Call) -> Any:
    """Constant indices choose elements; data may index the first axis of a constant table."""
    indices = c.get("indices")
    if not any(isinstance(i, Ref) for i in indices):
        if any(isinstance(i, Known) and i.tensor.dtype.is_floating_point for i in indices):
            raise c.error("indices must be whole numbers or a mask")
        return c.moved()
    if len(indices) > 1 or not isinstance(c.operand(), Known):
        raise c.error("data can only index the first axis of a constant table", "use a constant index, or torch.where")
    return _looked_up(c, c.operand(), indices[0])


def _looked_up(c: Call, table: Operand, index: Any) -> Any:
    return c.read("Gather", table, index, axis=0)


def _gathered(c: Call) -> Any:
    """Elements at constant places along an axis; the places are the same for every event."""
    index = c.known("index", "the indices")
    c.ignore("sparse_grad")
    batch = index.batch
    if batch < 0:
        return c.moved()
    events = index.tensor.repeat_interleave(1 if c.single else BATCH, dim=batch)
    return c.moved(index=Known(events))


def _embedding(c: Call) -> Any:
    c.ignore("padding_idx", "scale_grad_by_freq", "sparse")
    return _looked_up(c, c.known("weight", "the table"), c.data("indices"))


def _filled(c: Call) -> Any:
    """Every element the same number: what is left of an assignment of a constant."""
    x, value = c.operand(), c.get("value")
    if isinstance(value, Ref):
        raise c.error("the value must be a constant")
    number = c.number("value")
    if isinstance(x, Known):
        return x
    shape = c.builder.nodes[x.index].shape
    return c.constant(np.full(shape, number), "", x.batch)


def _copied(c: Call) -> Any:
    """src in the shape of self."""
    import torch

    c.ignore("non_blocking")
    source = c.get("src")
    if not isinstance(source, Ref):
        raise c.error("src must be data", "assign numbers, or build the tensor by torch.cat")
    full = list(c.value.shape)
    if list(c.full_shape(source)) == [-1 if c.sizes.times(n) else int(n) for n in full]:
        c.ignore(*c.arguments)
        return source
    c.arguments, c.target = {"self": source, "size": full, "implicit": False}, torch.ops.aten.expand.default
    return c.moved()


def _cumulated(c: Call) -> Any:
    c.ignore("dtype")
    return c.read("CumSum", c.data(), np.asarray(c.plain("dim")))


MOVED = (
    "select.int", "slice.Tensor", "narrow.default", "split.Tensor", "split_with_sizes.default", "chunk.default", "unbind.int",
    "tensor_split.sections", "tensor_split.indices", "index_select.default",
    "flip.default", "roll.default", "rot90.default", "repeat.default",
    "repeat_interleave.self_int", "expand.default", "diagonal.default",
    "unfold.default", "tril.default", "triu.default", "reflection_pad1d.default", "reflection_pad2d.default",
    "reflection_pad3d.default", "replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default",
    "_pad_circular.default", "pixel_shuffle.default", "pixel_unshuffle.default", "channel_shuffle.default",
    "upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_nearest3d.default", "upsample_nearest1d.vec",
    "upsample_nearest2d.vec", "upsample_nearest3d.vec", "_upsample_nearest_exact1d.vec", "_upsample_nearest_exact2d.vec",
    "_upsample_nearest_exact1d.default", "_upsample_nearest_exact2d.default", "im2col.default", "movedim.int", "movedim.intlist",
    "select_scatter.default", "slice_scatter.default", "diagonal_scatter.default", "index_put.default",
    "diag_embed.default",
)  # fmt: skip
"""Operators read by running them on indices."""

SAME = (
    "clone.default", "contiguous.default", "detach.default", "detach_.default", "alias.default", "lift_fresh_copy.default",
    "lift_fresh.default", "positive.default", "detach_copy.default", "alias_copy.default", "resolve_conj.default",
    "resolve_neg.default",
)  # fmt: skip
DROPOUT = (
    "dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default",
    "native_dropout.default",
)  # fmt: skip
VIEWS = (
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int", "view_copy.default",
    "ravel.default", "view_as.default", "reshape_as.default",
)  # fmt: skip

LAYOUT: dict[str, Callable[[Call], Any]] = {
    **{f"aten.{k}": lambda c: c.moved() for k in MOVED},
    **dict.fromkeys((f"aten.{k}" for k in SAME), _same),
    **dict.fromkeys((f"aten.{k}" for k in DROPOUT), _inference_only),
    **dict.fromkeys((f"aten.{k}" for k in VIEWS), _view),
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.swapaxes.default": lambda c: c.moved(),
    "aten.t.default": _turned,
    "aten.mT.default": _turned,
    "aten.adjoint.default": _turned,
    "aten.numpy_T.default": lambda c: c.moved(),
    "aten.squeeze.default": _squeeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze,
    "aten.unsqueeze.default": _unsqueeze,
    "aten.cat.default": _cat,
    "aten.concat.default": _cat,
    "aten.stack.default": _stack,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.index.Tensor": _index,
    "aten.gather.default": _gathered,
    "aten.embedding.default": _embedding,
    "aten.fill.Tensor": _filled,
    "aten.fill.Scalar": _filled,
    "aten.copy.default": _copied,
    "aten.cumsum.default": _cumulated,
}
"""Every layout operator and the function that reads it."""

MOVES = frozenset(LAYOUT) - {"aten.cumsum.default", "aten.fill.Tensor", "aten.fill.Scalar", "aten.embedding.default"}
"""Operators that change no value: they work on quantized integers too."""
