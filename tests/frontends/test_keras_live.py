"""Live Keras models, and weights that lie elsewhere than beside their .json file."""

import json
import sys

import hgq_models
import keras_models as k
import numpy as np
import pytest
from click.testing import CliRunner
from hgq_models import framework

import hwcompile as hc
from hwcompile.cli import cli

KERNEL, BIAS = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 1.0]]), np.array([0.5, -0.5])


def quantized(keras, layers, config):
    """A functional model with a quantizer in front and two layers of Keras behind."""
    entry = keras.Input((3,), name="x")
    x = layers.Quantizer(config.QuantizerConfig("kif", "datalane", heterogeneous_axis=()))(entry)
    dense = keras.layers.Dense(2, activation="relu", name="d")
    model = keras.Model(entry, dense(x), name="small")
    dense.set_weights([KERNEL, BIAS])
    return model


def test_functional_and_sequential():
    x = np.random.default_rng(0).uniform(-2, 2, (30, 3)).astype(np.float32)
    with framework() as (keras, layers, config):
        model = quantized(keras, layers, config)
        sequence = keras.Sequential([keras.Input((3,)), *model.layers[1:]])
    for live in (model, sequence):
        graph = hc.compile(live, backends=())
        np.testing.assert_array_equal(graph.predict(x), hgq_models.predicted(model, x)[0])


def test_what_cannot_be_saved_is_said():
    with framework() as (keras, _, _):
        dense, empty = keras.layers.Dense(2, name="d"), keras.Sequential([keras.layers.Dense(2)], name="empty")

        class Mine(keras.Model):
            def call(self, x):
                return x

        mine = Mine(name="mine")
        mine(np.zeros((1, 3), np.float32))
    for live, sentence in (
        (dense, "d (Dense): must be a model, not a layer; wrap it: Sequential([layer])"),
        (empty, "empty (Sequential): must be built; give it an Input, or call it once"),
        (mine, "mine: must hold a Sequential or functional model, not 'Mine'; rebuild it as one"),
    ):
        with pytest.raises(hc.CompileError) as e:
            hc.load(live)
        assert str(e.value) == sentence


def test_keras_2_models_are_saved_as_h5(monkeypatch):
    """A stand-in for tf_keras, which the tests do not install: its classes lie in its own package."""
    layer = type("Layer", (), {"__module__": "tf_keras.src.engine.base_layer"})
    base = type("Model", (layer,), {"__module__": "tf_keras.src.engine.training"})
    saved = []

    def save(self, path):
        saved.append(path)
        first = k.layer("QActivation", "q", ["x"], activation="quantized_bits(6,2)")
        model = k.functional(k.entry(3), first, k.layer("Dense", "d", ["q"], units=2, activation="linear"))
        k.write_h5(path, model, {"d": {"kernel": KERNEL, "bias": BIAS}})

    live = type("Functional", (base,), {"__module__": "tf_keras.src.engine.functional", "save": save, "built": True})()
    assert "tf_keras" not in sys.modules
    design = hc.compile(live, backends=())
    np.testing.assert_array_equal(design.predict(np.ones((1, 3))), (KERNEL.sum(axis=0) + BIAS)[None])
    assert [path.rsplit(".")[-1] for path in saved] == ["h5"]


def model_elsewhere(tmp_path):
    first = k.layer("QActivation", "q", ["x"], activation="quantized_bits(6,2)")
    model = k.functional(k.entry(3), first, k.layer("Dense", "d", ["q"], units=2, activation="linear"))
    path = k.write_json(tmp_path / "m.json", model, {"d": {"kernel": KERNEL, "bias": BIAS}})
    return path, (tmp_path / "m_weights.h5").rename(tmp_path / "elsewhere.h5")


def test_weights_by_path(tmp_path):
    path, weights = model_elsewhere(tmp_path)
    with pytest.raises(hc.CompileError, match="the weights must lie beside it"):
        hc.load(path)
    for design in (
        hc.compile(path, weights=weights, backends=()),
        hc.compile(hc.load(path, weights=weights), backends=()),
    ):
        np.testing.assert_array_equal(design.predict(np.ones((1, 3))), (KERNEL.sum(axis=0) + BIAS)[None])
    with pytest.raises(hc.CompileError) as e:
        hc.load("m.onnx", weights=weights)
    assert str(e.value) == "weights: are for a Keras .json file; any other model has its own; leave them out"


def test_weights_on_the_command_line(tmp_path):
    path, weights = model_elsewhere(tmp_path)
    found = CliRunner().invoke(cli, [str(path), "--weights", str(weights), "--backend", "rtl", "--no-verify", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["name"] == "net"
