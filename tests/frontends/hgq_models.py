"""Random HGQ2 models for the tests of their reader: every layer, quantizers of every kind and granularity, and narrow numbers.

Widths are small enough for float32 to hold every sum exactly, so the framework's prediction has to be met bit for bit.
"""

import os
import sys
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

ROUNDINGS = ["TRN", "RND", "RND_CONV", "TRN_ZERO", "RND_ZERO", "RND_MIN_INF", "RND_INF", "S_RND", "S_RND_CONV"]


@contextmanager
def framework():
    """Warnings of the frameworks are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
        from hgq import config, layers

        yield keras, layers, config


class Maker:
    """Draws configurations for the `RECIPES`, which apply a layer to a tensor ``[batch, 4, 6]``."""

    def __init__(self, rng, keras, layers, config):
        self.rng, self.keras, self.q, self.config = rng, keras, layers, config

    def any(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def conf(self, place="datalane", rank=2, modes=("WRAP", "SAT", "SAT_SYM"), **given):
        """A quantizer for data of `rank` axes behind the batch axis, or for weights of `rank` axes."""
        if place == "datalane":
            axes = self.any(
                {"homogeneous_axis": (0,)}, {"heterogeneous_axis": ()}, {"heterogeneous_axis": (rank,)},
                {"homogeneous_axis": (0, rank)},
            )  # fmt: skip
        else:
            axes = self.any({"homogeneous_axis": ()}, {"heterogeneous_axis": ()}, {"homogeneous_axis": (0,)})
        scaler = self.any(None, None, None, None, 0.5, 2.0)
        made = {
            "round_mode": self.any(*ROUNDINGS),
            "overflow_mode": self.any(*modes),
            "scaler": scaler,
            **axes,
            **given,
        }
        if place == "datalane" and self.rng.random() < 0.1:
            made["affine"] = (self.any(0.5, -2.0), self.any(0.25, -1.0))
        return self.config.QuantizerConfig(self.any("kbi", "kif"), place, **made)

    def one(self, place="datalane", rank=2, **given):
        """A quantizer with one width for all elements of an event, or of weights."""
        axes = (0,) if place == "datalane" else tuple(range(rank))
        return self.conf(place, rank, homogeneous_axis=axes, heterogeneous_axis=None, **given)

    def of_table(self, **given):
        """A quantizer inside of a softmax."""
        return self.conf(affine=None, scaler=None, heterogeneous_axis=(), homogeneous_axis=None, **given)

    def entry(self, rank=2):
        return {"iq_conf": self.conf(rank=rank)}

    def common(self, rank=2):
        """Input and output quantizers."""
        found = {**self.entry(rank), "enable_ebops": bool(self.rng.random() < 0.8)}
        return {**found, "enable_oq": True, "oq_conf": self.one(rank=rank)} if self.rng.random() < 0.3 else found

    def weights(self, rank, bias=1):
        return {"kq_conf": self.conf("weight", rank), "bq_conf": self.conf("bias", bias)}

    def activation(self):
        return self.any(None, "relu", "relu", "linear", "relu6")


def _dense(m, x):
    rank = len(x.shape) - 1
    return m.q.QDense(5, activation=m.activation(), use_bias=m.any(True, False), **m.common(rank), **m.weights(2))(x)


def _norm_dense(m, x):
    return m.q.QBatchNormDense(4, scale=m.any(True, False), **m.common(), **m.weights(2))(x)


def _each(m):
    """Quantizers with a width for each weight, whatever the axes."""
    axes = {"homogeneous_axis": (), "heterogeneous_axis": None}
    return {f"{k}_conf": m.conf(place, **axes) for k, place in (("kq", "weight"), ("bq", "bias"))}


def _einsum_dense(m, x):
    equation, shape, bias = m.any(
        ("btc,cd->btd", (4, 5), "d"), ("btc,tcd->btd", (4, 3), "td"), ("btc,sct->bs", (3,), None), ("...c,cd->...d", 3, "d"),
        ("btc,cd->bdt", (3, 4), "t"),
    )  # fmt: skip
    return m.q.QEinsumDense(equation, shape, bias_axes=bias, activation=m.activation(), **m.common(), **_each(m))(x)


def _einsum_norm(m, x):
    equation, shape, bias = m.any(("btc,cd->btd", (4, 5), "d"), ("btc,tcd->btd", (4, 3), "td"))
    return m.q.QEinsumDenseBatchnorm(equation, shape, bias_axes=bias, **m.common(), **_each(m))(x)


def _normalization(m, x):
    rank = len(x.shape) - 1
    return m.q.QBatchNormalization(
        center=m.any(True, False), scale=m.any(True, False), **m.common(rank), **m.weights(1)
    )(x)


def _conv1(m, x):
    padding = m.any("valid", "same", "causal")
    common = m.common()
    if padding == "causal":  # the framework quantizes what it has padded, so that only one quantizer for all fits
        common["iq_conf"] = m.config.QuantizerConfig("kif", "datalane", heterogeneous_axis=(), affine=None)
    groups = m.any(1, 2)
    return m.q.QConv1D(4, 2, strides=1 if padding == "causal" else m.any(1, 2), padding=padding, groups=groups,
                       activation=m.activation(), **common, **m.weights(3))(x)  # fmt: skip


def _conv2(m, x):
    y = m.keras.layers.Reshape((4, 3, 2))(x)
    return m.q.QConv2D(3, (2, 3), padding=m.any("valid", "same"), use_bias=m.any(True, False), **m.common(3),
                       **m.weights(4))(y)  # fmt: skip


def _conv3(m, x):
    y = m.keras.layers.Reshape((2, 2, 3, 2))(x)
    return m.q.QConv3D(2, (2, 1, 2), **m.common(4), **m.weights(5))(y)


def _pool(m, x):
    """Averages over powers of two, which float32 holds."""
    kind, rank = m.any("Max", "Average"), m.any(1, 2)
    if m.rng.random() < 0.4:
        y = m.keras.layers.Reshape((4, 6) if rank == 1 else (2, 4, 3))(x)
        return getattr(m.q, f"QGlobal{kind}Pooling{rank}D")(keepdims=m.any(True, False), **m.entry(rank + 1))(y)
    y = x if rank == 1 else m.keras.layers.Reshape((4, 2, 3))(x)
    return getattr(m.q, f"Q{kind}Pooling{rank}D")(2, padding="valid", **m.entry(rank + 1))(y)


def _merge(m, x):
    kind = m.any("QAdd", "QSubtract", "QMultiply", "QMaximum", "QMinimum", "QAveragePow2")
    count = 3 if kind in ("QAdd", "QMultiply", "QAveragePow2") and m.any(True, False) else 2
    operands = [x, *(m.q.Quantizer(m.one())(x) for _ in range(count - 1))]
    return getattr(m.q, kind)(iq_confs=[m.conf() for _ in operands])(operands)


def _dot(m, x):
    return m.q.QDot(axes=m.any(-1, 2, (1, 1)), iq_confs=[m.conf(), m.conf()])([x, m.keras.layers.ReLU()(x)])


def _einsum(m, x):
    if m.any(0, 0, 1):
        return m.q.QEinsum(m.any("btc->bct", "btc->bt"), iq_confs=[m.conf()])([x])
    equation = m.any("btc,bsc->bts", "btc,btc->bt", "btc,btd->bcd")
    return m.q.QEinsum(equation, iq_confs=[m.conf(), m.conf()])([x, m.keras.layers.ReLU()(x)])


def _sum(m, x):
    if m.any(0, 1):
        return m.q.QSum(
            axes=m.any(-1, 1, (1, 2)), scale=m.any(1.0, 0.25), keepdims=m.any(True, False), iq_conf=m.conf()
        )(x)
    return m.q.QMeanPow2(axes=m.any(-1, 1, (1, 2)), keepdims=m.any(True, False), iq_conf=m.conf())(x)


def _table(m, x):
    function = m.any("tanh", "sigmoid", "relu", "softplus", "elu", "exponential", "gelu", "silu", "softsign")
    kind = m.any(m.q.QUnaryFunctionLUT, m.q.QUnaryFunctionLUT, m.q.QAffinedUnaryFunctionLUT)
    oq = m.conf(modes=("SAT", "SAT_SYM", "WRAP"), affine=None)
    return kind(function, iq_conf=m.conf(affine=None), oq_conf=oq, allow_heterogeneous_table=m.any(True, False))(x)


def _softmax(m, x):
    tables = {f"{k}_conf": m.of_table() for k in ("exp_iq", "exp_oq", "inv_iq", "inv_oq")}
    more = {"stable": m.any(True, True, False), "input_scaler": m.any(1.0, 0.3), "axis": m.any(-1, (1, 2))}
    return m.q.QSoftmax(enable_iq=True, iq_conf=m.conf(affine=None, scaler=None), **more, **tables)(x)


def _attention(m, x):
    confs = {f"qkvo_{k}_conf": m.one() for k in ("iq", "oq")} | {f"qkvo_{k}": v for k, v in _each(m).items()}
    confs |= {f"softmax_{k}_conf": m.of_table() for k in ("exp_iq", "exp_oq", "inv_iq", "inv_oq", "oq")}
    kind, more = m.any(
        (m.q.QMultiHeadAttention, {"fuse": m.any("none", "kv", "qkv")}), (m.q.QMultiHeadAttention, {}),
        (m.q.QLinformerAttention, {"lin_kv_proj_dim": 2, "share_kv_proj": m.any(True, False)}),
    )  # fmt: skip
    return kind(num_heads=2, key_dim=3, use_bias=m.any(True, False), **more, **confs)(x, x)


def _rnn(m, x):
    confs = {**_each(m), "rkq_conf": m.one("weight"), "iq_conf": m.one(rank=1)}
    more = {"return_sequences": m.any(True, False), "use_bias": m.any(True, False), "go_backwards": m.any(True, False)}
    if m.any(True, False):
        return m.q.QSimpleRNN(3, activation=m.any("linear", "relu"), **confs, **more)(x)
    return m.q.QGRU(3, reset_after=m.any(True, False), **confs, **more)(x)


def _standard(m, x):
    """Layers of Keras between those of HGQ2."""
    k = m.keras.layers
    y = m.any(k.ReLU(), k.Flatten(), k.Permute((2, 1)), k.MaxPooling1D(2))(x)
    return m.q.QDense(3, iq_conf=m.conf(rank=len(y.shape) - 1), **m.weights(2))(y)


RECIPES = {
    "dense": _dense, "normdense": _norm_dense, "einsumdense": _einsum_dense, "einsumnorm": _einsum_norm, "norm": _normalization,
    "conv1": _conv1, "conv2": _conv2, "conv3": _conv3, "pool": _pool, "merge": _merge, "dot": _dot, "einsum": _einsum, "sum": _sum,
    "table": _table, "softmax": _softmax, "attention": _attention, "rnn": _rnn, "standard": _standard,
}  # fmt: skip


def draw_bits(rng, model):
    """Random widths, whole and broken, some of them 0, for every quantizer."""
    from hgq.quantizer.internal import FixedPointQuantizerKBI, FixedPointQuantizerKIF

    for q in model._flatten_layers():
        if not isinstance(q, FixedPointQuantizerKBI | FixedPointQuantizerKIF):
            continue
        shape = tuple(q._k.shape)
        broken = rng.choice([0.0, 0.3, -0.4, 0.5], shape)
        if "_table" in q.path:  # wide enough that a softmax is not 0 everywhere
            for w, low, high in ((getattr(q, "_f", None), 3, 7), (getattr(q, "_b", None), 5, 9), (q._i, 1, 4)):
                if w is not None:
                    w.assign(rng.integers(low, high, shape))
        elif isinstance(q, FixedPointQuantizerKIF):
            q._f.assign(rng.integers(0, 5, shape) + broken)
            q._i.assign(np.where(rng.random(shape) < 0.1, -np.round(q._f.numpy()), rng.integers(-1, 3, shape)))
        else:
            q._b.assign(rng.integers(0, 6, shape) + broken)
            q._i.assign(rng.integers(-1, 3, shape) + rng.choice([0.0, 0.25], shape))
        q._k.assign((rng.random(shape) < 0.8).astype(np.uint8))


def draw_weights(rng, model):
    """Random weights; those of normalizations have positive variances."""
    for w in model.weights:
        if (
            w.name in ("kernel", "recurrent_kernel", "bias", "bn_beta", "moving_mean", "scale")
            and "quantizer" not in w.path
        ):
            w.assign(rng.uniform(-1.5, 1.5, w.shape))
        elif w.name in ("gamma", "bn_gamma", "moving_variance"):
            w.assign(rng.uniform(0.3, 2.0, w.shape))


def random_model(seed, outputs=12):
    """(model, inputs ``[events, 4, 6]``): branches of one to three layers behind a wide quantizer."""
    rng = np.random.default_rng(seed)
    with framework() as (keras, layers, config):
        m = Maker(rng, keras, layers, config)
        entry = keras.Input((4, 6))
        wide = config.QuantizerConfig("kif", "datalane", i0=3, f0=4, heterogeneous_axis=())
        x = layers.Quantizer(wide, name="wide")(entry)
        found = []
        for k in range(outputs):
            name = list(RECIPES)[(seed * 7 + k) % len(RECIPES)]
            y = RECIPES[m.any("merge", "norm")](m, x) if m.any(0, 0, 1) else x
            y = RECIPES[name](m, y)
            if len(y.shape) == 3 and m.any(0, 0, 1):
                y = _dense(m, y)
            found.append(keras.layers.Identity(name=f"y{k}_{name}")(y))
        model = keras.Model(entry, found)
        draw_bits(rng, model)
        draw_weights(rng, model)
        first = next(v for v in model.layers if v.name == "wide").quantizer
        first._i.assign(np.full(first._i.shape, 3))
        first._f.assign(np.full(first._f.shape, 4))
        inputs = rng.uniform(-6, 6, (24, 4, 6)).astype(np.float32)
        inputs[:8] = np.round(inputs[:8] * 32) / 32  # ties
        return model, inputs


def predicted(model, inputs):
    """Every output for the inputs."""
    with framework():
        found = model(inputs, training=False)
    return [np.asarray(y.detach()) for y in (found if isinstance(found, list) else [found])]


def save(model, path):
    with framework():
        model.save(path)
    return path


if __name__ == "__main__":  # python tests/frontends/hgq_models.py tests/data/keras/hgq2: one model with every recipe
    target = Path(sys.argv[1])
    drawn, x = random_model(0, len(RECIPES))
    with tempfile.TemporaryDirectory() as folder:
        parts = zipfile.ZipFile(save(drawn, Path(folder) / "m.keras"))
        files = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(target.with_suffix(".keras"), "w") as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    np.savez_compressed(target.with_suffix(".npz"), x=x, **{f"y{k}": y for k, y in enumerate(predicted(drawn, x))})
