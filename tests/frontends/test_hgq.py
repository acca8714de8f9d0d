"""HGQ2 models against the framework itself, bit for bit, and against what it predicted for a model in the repository."""

from pathlib import Path

import hgq_models as h
import numpy as np
import pytest
from hgq_models import framework, predicted, random_model, save

import hwcompile as hc
from hwcompile.frontends.hgq import HGQ_LAYERS, HGQ_REFUSED
from hwcompile.frontends.keras import read_keras
from hwcompile.frontends.lower import lower
from hwcompile.frontends.real import evaluate_real
from hwcompile.ir.evaluate import evaluate, from_real, to_real

STORED = Path(__file__).parents[1] / "data" / "keras" / "hgq2.keras"


def differing(path, x, wanted):
    """Names of the outputs in which the real model or the exact graph differs anywhere from the wanted numbers."""
    model = read_keras(path)
    real = evaluate_real(model, {model.nodes[i].name: x for i in model.inputs})
    graph = lower(model)
    raw = evaluate(graph, {graph.nodes[i].name: from_real(graph.nodes[i].op, x) for i in graph.inputs})
    assert len(graph.outputs) == len(wanted)
    found = []
    for (name, i), output, y in zip(model.outputs, graph.outputs, wanted):
        integers = to_real(graph.nodes[output.node].type, output.real, raw[output.name])
        if not (np.array_equal(real[i], y) and np.array_equal(integers, y)):
            found.append(name)
    return found


def test_stored_model_has_every_recipe_and_its_numbers():
    """Neither Keras nor HGQ2 is needed for this."""
    stored = np.load(STORED.with_suffix(".npz"))
    wanted = [stored[f"y{k}"] for k in range(len(stored.files) - 1)]
    assert {n.split("_")[1] for n, _ in read_keras(STORED).outputs} == set(h.RECIPES)
    assert sum(y.std() > 0 for y in wanted) >= 15
    assert differing(STORED, stored["x"], wanted) == []


def test_a_live_model_compiles_to_its_own_numbers():
    """Through the public interface and the generated engine; on torch a Keras model is a torch module, too."""
    model, x = random_model(0, 3)
    design = hc.compile(model, backends="cpu")
    for y, wanted in zip(design.predict(x).values(), predicted(model, x)):
        np.testing.assert_array_equal(y, wanted)


def check_seed(seed, folder):
    model, x = random_model(seed)
    wanted = predicted(model, x)
    assert sum(y.std() > 0 for y in wanted) >= len(wanted) // 2
    assert differing(save(model, folder / "m.keras"), x, wanted) == []


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_models(seed, tmp_path):
    """12 branches of one to three layers each, with quantizers of random kind, mode, granularity and width."""
    check_seed(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7, 60))
def test_many_random_models(seed, tmp_path):
    check_seed(seed, tmp_path)


# ---- quantizers -------------------------------------------------------------------------------------------------------


def quantizer_model(**given):
    """One quantizer for all elements, with weights as a function of its variables."""
    with framework() as (keras, layers, config):
        entry = keras.Input((64,))
        conf = config.QuantizerConfig(**{"place": "datalane", "heterogeneous_axis": (), **given})
        return keras.Model(entry, layers.Quantizer(conf, name="q")(entry))


def ties(rng):
    """Numbers around every border and tie of a few bits."""
    return (rng.integers(-80, 81, (40, 64)) / 16).astype(np.float32)


@pytest.mark.parametrize("overflow", ["WRAP", "SAT", "SAT_SYM"])
@pytest.mark.parametrize("rounding", h.ROUNDINGS)
@pytest.mark.parametrize("kind", ["kif", "kbi"])
def test_every_mode(kind, rounding, overflow, tmp_path):
    """Widths from nothing to five bits, with and without sign, coarser than 1 too."""
    x = ties(np.random.default_rng(0))
    model = quantizer_model(q_type=kind, round_mode=rounding, overflow_mode=overflow)
    q = model.get_layer("q").quantizer
    for k, width, i in [(0, 0, 1), (1, 0, 1), (1, -1, 0), (0, 1, -1), (1, 3, 1), (0, 3, 5), (1, 4, 2), (1, 3, -2)]:
        q._k.assign(np.full(q._k.shape, k))
        q._i.assign(np.full(q._i.shape, i))
        last = q._f if kind == "kif" else q._b
        last.assign(np.full(last.shape, width - i if kind == "kif" else width))
        assert differing(save(model, tmp_path / "m.keras"), x, predicted(model, x)) == [], (k, width, i)


@pytest.mark.parametrize(
    "given",
    [
        {"q_type": "dummy"}, {"q_type": "kif", "scaler": 0.25}, {"q_type": "kbi", "affine": (-0.5, 1.5)},
        {"q_type": "kif", "scaler": 2.0, "affine": (4.0, -0.25), "overflow_mode": "SAT"},
    ],
)  # fmt: skip
def test_scaler_affine_and_none(given, tmp_path):
    x = ties(np.random.default_rng(1))
    if given["q_type"] == "dummy":
        with framework() as (keras, layers, config):
            entry = keras.Input((64,))
            first = layers.Quantizer(config.QuantizerConfig("kif", "datalane", heterogeneous_axis=()))(entry)
            model = keras.Model(entry, layers.Quantizer(config.QuantizerConfig("dummy"))(first))
    else:
        model = quantizer_model(**given)
    assert differing(save(model, tmp_path / "m.keras"), x, predicted(model, x)) == []


@pytest.mark.parametrize("name", ["HardTanhConfig", "HardSigmoidConfig"])
def test_shorthand_configurations(name, tmp_path):
    x = ties(np.random.default_rng(2))
    with framework() as (keras, layers, config):
        entry = keras.Input((64,))
        conf = getattr(config, name, None) or getattr(__import__("hgq.quantizer.config", fromlist=[name]), name)
        model = keras.Model(entry, layers.Quantizer(conf(heterogeneous_axis=()))(entry))
    assert differing(save(model, tmp_path / "m.keras"), x, predicted(model, x)) == []


# ---- models -----------------------------------------------------------------------------------------------------------


def test_shared_layers_nested_models_and_operations(tmp_path):
    """A layer called twice, a model in a model, several inputs, and the sum of two tensors."""
    rng = np.random.default_rng(3)
    with framework() as (keras, layers, config):
        m = h.Maker(rng, keras, layers, config)
        inner_entry = keras.Input((6,))
        inner = keras.Model(inner_entry, layers.QDense(5, activation="relu", **m.entry(1), **m.weights(2))(inner_entry))
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        wide = layers.Quantizer(config.QuantizerConfig("kif", "datalane", heterogeneous_axis=()))
        x, y = wide(a), wide(b)
        dense = layers.QDense(5, **m.entry(1), **m.weights(2))
        model = keras.Model([a, b], [dense(x) + inner(y), dense(y), 2.0 * inner(x)[:, 1:4] - 1.0])
        h.draw_bits(rng, model)
        h.draw_weights(rng, model)
    data = {n: rng.uniform(-3, 3, (50, 6)).astype(np.float32) for n in "ab"}
    wanted = predicted(model, [data["a"], data["b"]])
    found = read_keras(save(model, tmp_path / "m.keras"))
    graph = lower(found)
    raw = evaluate(graph, {n: from_real(graph.nodes[i].op, data[n]) for n, i in zip("ab", graph.inputs)})
    for output, y in zip(graph.outputs, wanted):
        np.testing.assert_array_equal(to_real(graph.nodes[output.node].type, output.real, raw[output.name]), y)


def special(keras, layers, config, m):
    """A model of what the recipes do not reach: states, data formats, defaults of the framework, activations that are tables."""
    entry = keras.Input((4, 6))
    x = layers.Quantizer(config.QuantizerConfig("kif", "datalane", heterogeneous_axis=()), name="wide")(entry)
    image, first = keras.layers.Reshape((2, 4, 3))(x), {"data_format": "channels_first"}
    cell = {"rkq_conf": m.one("weight"), "iq_conf": m.one(rank=1)}
    conv = {**m.entry(3), **m.weights(4)}
    outputs = [
        layers.QSimpleRNN(3, enable_sq=True, sq_conf=m.one(rank=1), **cell)(x),
        *layers.QGRU(3, return_state=True, return_sequences=True, **cell)(x),
        layers.QGRU(3, **cell)(x, initial_state=layers.QDense(3)(x[:, 0])),
        layers.QConv2D(
            3, 2, padding="same", activation="relu", enable_oq=True, oq_conf=m.conf(rank=3), **first, **conv
        )(image),
        layers.QMaxPooling2D(2, strides=1, padding="same", **m.entry(3))(image),
        layers.QMaxPooling2D(2, **first, **m.entry(3))(image),
        layers.QSoftmax()(x),
        layers.QMultiHeadAttention(2, 3, value_dim=2, output_shape=5)(x, x),
        layers.QConv2D(3, 2, dilation_rate=2, **conv)(keras.layers.Reshape((4, 3, 2))(x)),
        layers.QUnaryFunctionLUT("tanh", enable_iq=False)(x),
        layers.QDense(3, activation="tanh", enable_oq=True)(x),
    ]
    return keras.Model(entry, outputs)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_recipes_do_not_reach(seed, tmp_path):
    rng = np.random.default_rng(seed)
    with framework() as (keras, layers, config):
        model = special(keras, layers, config, h.Maker(rng, keras, layers, config))
        h.draw_bits(rng, model)
        h.draw_weights(rng, model)
        wide = model.get_layer("wide").quantizer
        wide._i.assign(np.full(wide._i.shape, 2))
        wide._f.assign(np.full(wide._f.shape, 3))
    x = rng.uniform(-4, 4, (40, 4, 6)).astype(np.float32)
    assert differing(save(model, tmp_path / "m.keras"), x, predicted(model, x)) == []


LAYOUTS = {
    "flat": lambda layers, x: layers.Flatten()(x),
    "permuted": lambda layers, x: layers.Permute((2, 1))(x),
    "padded": lambda layers, x: layers.ZeroPadding1D(1)(layers.Cropping1D(1)(x)),
    "twice": lambda layers, x: layers.Reshape((4, 2, 3))(layers.Flatten()(x)),
    "part": lambda layers, x: x[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantizer_of_each_element_behind_a_layout(layout, tmp_path):
    """The input's elements take the quantizers that they meet."""
    rng = np.random.default_rng(5)
    with framework() as (keras, layers, _):
        entry = keras.Input((4, 6))
        model = keras.Model(entry, layers.QDense(3)(LAYOUTS[layout](keras.layers, entry)))
        h.draw_bits(rng, model)
        h.draw_weights(rng, model)
    x = rng.uniform(-5, 5, (30, 4, 6)).astype(np.float32)
    assert differing(save(model, tmp_path / "m.keras"), x, predicted(model, x)) == []


def test_windows_with_different_quantizers_are_refused(tmp_path):
    """An element that two windows quantize differently has no precision of its own."""
    rng = np.random.default_rng(6)
    with framework() as (keras, layers, _):
        entry = keras.Input((4, 6))
        model = keras.Model(entry, layers.QDense(3)(keras.layers.Concatenate()([entry[:, :3], entry[:, 1:]])))
        h.draw_bits(rng, model)
    with pytest.raises(hc.CompileError, match="its precision is open: "):
        lower(read_keras(save(model, tmp_path / "m.keras")))


def test_weights_that_no_float_reader_takes(tmp_path):
    """Kernels wider than what a float network's may have are exact all the same: their quantizer says the grid."""
    rng = np.random.default_rng(4)
    with framework() as (keras, layers, config):
        entry = keras.Input((3,))
        conf = config.QuantizerConfig("kbi", "weight", b0=22, i0=1)
        iq = config.QuantizerConfig("kif", "datalane", i0=0, f0=0, overflow_mode="SAT")
        dense = layers.QDense(2, use_bias=False, kq_conf=conf, iq_conf=iq)
        model = keras.Model(entry, dense(entry))
        dense.kernel.assign(rng.uniform(-1, 1, (3, 2)))
        dense.iq.quantizer._i.assign(np.ones(dense.iq.quantizer._i.shape))
    x = rng.uniform(-2, 2, (20, 3)).astype(np.float32)
    wanted = np.clip(np.floor(x + 0.5), -2, 1).astype(np.float64) @ np.asarray(dense.qkernel.detach(), np.float64)
    assert differing(save(model, tmp_path / "m.keras"), x, [wanted]) == []


def test_every_exported_layer_is_read_or_refused_by_name():
    with framework() as (_, layers, _config):
        exported = {getattr(layers, name).__name__ for name in layers.__all__}
    assert exported == exported & (set(HGQ_LAYERS) | set(HGQ_REFUSED))
    assert not set(HGQ_LAYERS) & set(HGQ_REFUSED)
