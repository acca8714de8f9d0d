"""Attention layers of HGQ2: projections, scores, the softmax of tables, and a projection back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .hgq_layers import einsum_dense, soft_maximum
from .hgq_quantizers import HgqLayer, stored_group
from .keras_attention import operands
from .keras_files import Weights
from .products import contracted

__all__ = ["HGQ_ATTENTION"]


def _inner(c: HgqLayer, name: str, group: str, x: int, equation: str, bias_axes: str | None, shared: str | None) -> int:
    """A projection with the quantizers of the attention layer; `shared`: the group that has its input quantizer, if not its own."""
    stored = stored_group(c.weights, group) or Weights(c.where, {})
    tree = dict(stored.tree or {})
    owner = stored_group(c.weights, shared, "iq") if shared and "iq" not in tree else None
    if owner is not None:
        tree["iq"] = owner.tree
    config: dict[str, Any] = {"name": name, "equation": equation, "bias_axes": bias_axes, "activation": None}
    config |= {f"{q}_conf": c.get(f"qkvo_{q}_conf") for q in ("iq", "kq", "bq", "oq")}
    config |= {"enable_iq": "iq" in tree, "enable_oq": "oq" in tree, "enable_ebops": c.flag("enable_ebops", True)}
    layer = HgqLayer(c.inside("QEinsumDense", config, Weights(c.where, tree), [x]))
    y = einsum_dense(layer)
    layer.finish()
    return y


def _attention(c: HgqLayer) -> int:
    """softmax(q k^T / sqrt(key_dim)) v for each head, and a matrix that joins the heads."""
    for key in ("attention_axes", "sliding_window"):
        if c.get(key) not in (None, [1], 1):
            raise c.error(f"{key} must be null, not {c.get(key)!r}")
    c.must_be("use_gate", False, None)
    c.must_be("flash_attention", False, None)
    c.ignore(
        "dropout", "seed", "query_shape", "key_shape", "value_shape", "softmax_iq_conf", "value_dim", "output_shape"
    )
    c.ignore("softmax_allow_heterogeneous_table", "num_heads", "enable_iq")
    fuse, size = c.choice("fuse", "none", "none", "kv", "qkv"), c.whole("key_dim")
    use_bias = c.flag("use_bias", True)
    q, v, k = operands(c)
    if any(len(c.shape(x)) != 2 for x in (q, k, v)):
        raise c.error("query, key and value must have shape [length, features]")
    k, v = _shortened(c, k, v)
    to_heads, bias = "btc,chd->bthd", "hd" if use_bias else None
    q = _inner(c, "query", "query_dense", q, to_heads, bias, "key_dense" if fuse == "qkv" else None)
    k = _inner(c, "key", "key_dense", k, to_heads, None, None)
    v = _inner(c, "value", "value_dense", v, to_heads, bias, "key_dense" if fuse != "none" else None)
    scores = contracted(c.add, q, k, "xhd,yhd->hxy", (c.shape(q), c.shape(k)), ".scores")
    shares = _softmax(c, scores, float(np.float32(1 / math.sqrt(size))))
    joined = contracted(c.add, shares, v, "hxy,yhd->xhd", (c.shape(shares), c.shape(v)), ".values")
    y = _inner(c, "output", "output_dense", joined, "bthd,hdo->bto", "o" if use_bias else None, None)
    return c.result(y)


def _softmax(c: HgqLayer, x: int, scale: float) -> int:
    stored = stored_group(c.weights, "_softmax") or Weights(c.where, {})
    names = ("exp_iq_conf", "exp_oq_conf", "inv_iq_conf", "inv_oq_conf", "oq_conf")
    config: dict[str, Any] = {"name": "softmax", **{n: c.get(f"softmax_{n}") for n in names}}
    layer = HgqLayer(c.inside("QSoftmax", {**config, "enable_oq": True}, stored, [x]))
    y = layer.result(soft_maximum(layer, x, [2], scale, c.flag("stable_softmax", True)))
    layer.finish()
    return y


def _shortened(c: HgqLayer, k: int, v: int) -> tuple[int, int]:
    """Key and value with fewer rows, as a Linformer projects them; others as they are."""
    if c.kind != "QLinformerAttention":
        return k, v
    c.must_be("lin_kv_proj_mode", "dense")
    c.ignore("lin_kv_proj_dim")
    value = "_lin_k_proj" if c.flag("share_kv_proj", False) else "_lin_v_proj"
    k = _inner(c, "lin_key", "_lin_k_proj", k, "bsc,st->btc", None, None)
    return k, _inner(c, "lin_value", value, v, "bsc,st->btc", None, None)


HGQ_ATTENTION: dict[str, Callable[[HgqLayer], int]] = {
    "QMultiHeadAttention": _attention,
    "QLinformerAttention": _attention,
}
"""Every layer of this file by its class name."""
