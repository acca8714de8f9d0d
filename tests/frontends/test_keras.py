"""Keras and QKeras models against their frameworks' own results, and the graph of layers."""

import zipfile
from dataclasses import replace
from pathlib import Path

import keras_models as k
import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.keras import LAYERS, read_keras
from hwcompile.frontends.lower import lower
from hwcompile.frontends.real import evaluate_real
from hwcompile.ir.evaluate import evaluate, from_real, to_real

DATA = Path(__file__).parents[1] / "data" / "keras"
ARCHIVES = sorted(p.name for p in DATA.glob("*.zip"))
CLOSE = 1e-5
"""How far float32 sums, divisions and functions may be from float64 ones, relative to 1 + the value."""


def opened(archive, folder):
    """(model, inputs by name, the framework's outputs)."""
    with zipfile.ZipFile(DATA / archive) as z:
        z.extractall(folder)
    found = [p for p in folder.iterdir() if p.suffix in (".json", ".keras")] or [folder / "model.h5"]
    stored = np.load(folder / "io.npz")
    inputs = {n: stored[n] for n in stored.files if not n.startswith("y")}
    return hc.load(found[0]), inputs, [stored[f"y{n}"] for n in range(len(stored.files) - len(inputs))]


def of_output(model, k):
    """The model of output k alone."""
    name, last = model.outputs[k]
    live = {last}
    for i in range(last, -1, -1):
        if i in live:
            live.update(model.nodes[i].operands)
    index = {old: new for new, old in enumerate(sorted(live))}
    nodes = tuple(
        replace(model.nodes[i], operands=tuple(index[j] for j in model.nodes[i].operands)) for i in sorted(live)
    )
    return replace(model, nodes=nodes, outputs=((name, index[last]),))


def exact_values(model, inputs):
    """The only output as the fixed-point graph computes it."""
    graph = lower(model)
    nodes = [graph.nodes[i] for i in graph.inputs]
    raw = evaluate(graph, {n.name: from_real(n.op, inputs[n.name]) for n in nodes})
    (output,) = graph.outputs
    return to_real(graph.nodes[output.node].type, output.real, raw[output.name])


def test_there_are_archives_of_every_framework():
    assert {name.split("_")[0] for name in ARCHIVES} == {"keras2", "keras3", "qkeras"}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_real_values_are_the_frameworks(archive, tmp_path):
    """Equal where float32 is exact (names with e), close where the framework rounds in between (names with c)."""
    model, inputs, results = opened(archive, tmp_path)
    assert len(model.outputs) == len(results) >= 16
    values = evaluate_real(model, inputs)
    for (name, i), wanted in zip(model.outputs, results):
        if name.startswith("e"):
            np.testing.assert_array_equal(values[i], wanted, err_msg=name)
        else:
            assert values[i].shape == wanted.shape, name
            assert (np.abs(values[i] - wanted) <= CLOSE * (1 + np.abs(wanted))).all(), name


@pytest.mark.parametrize("archive", [a for a in ARCHIVES if a.startswith("qkeras")])
def test_integers_are_the_frameworks(archive, tmp_path):
    """The exact graph of every QKeras output that float32 holds exactly gives the framework's numbers."""
    model, inputs, results = opened(archive, tmp_path)
    compared = 0
    for n, ((name, _), wanted) in enumerate(zip(model.outputs, results)):
        if name.startswith("e"):
            np.testing.assert_array_equal(exact_values(of_output(model, n), inputs), wanted, err_msg=name)
            compared += 1
    assert compared >= 10


def test_archives_cover_the_layers(tmp_path):
    """Every class of layer that the generator knows is in some archive or in a test of its own below."""
    found = set()
    for archive in ARCHIVES:
        model, _, _ = opened(archive, tmp_path / archive)
        found |= {name.split("_")[1] for name, _ in model.outputs}
    assert len(found & set(LAYERS)) >= 40


# ---- files ------------------------------------------------------------------------------------------------------------

DENSE = k.layer("Dense", "d", ["x"], units=2, use_bias=True, activation="relu")
KERNEL, BIAS = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 1.0]]), np.array([0.5, -0.5])
X = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]])
WANTED = np.maximum(X @ KERNEL + BIAS, 0)


def results(path, *inputs):
    model = read_keras(path)
    names = [model.nodes[i].name for i in model.inputs]
    values = evaluate_real(model, dict(zip(names, inputs)))
    return [values[i] for _, i in model.outputs]


@pytest.mark.parametrize("weights", ["_weights.h5", ".weights.h5", ".h5"])
def test_json_finds_its_weights(tmp_path, weights):
    model = k.functional(k.entry(3), DENSE)
    path = k.write_json(tmp_path / "m.json", model, {"x": {}, "d": {"kernel": KERNEL, "bias": BIAS}}, weights)
    np.testing.assert_array_equal(results(path, X)[0], WANTED)


def test_json_with_given_weights(tmp_path):
    path = k.write_json(tmp_path / "m.json", k.functional(k.entry(3), DENSE), {"d": {"kernel": KERNEL, "bias": BIAS}})
    other = (tmp_path / "m_weights.h5").rename(tmp_path / "other.h5")
    model = read_keras(path, other)
    np.testing.assert_array_equal(evaluate_real(model, {"x": X})[model.outputs[0][1]], WANTED)


def test_order_of_variables_is_by_name(tmp_path):
    path = k.write_h5(tmp_path / "m.h5", k.functional(k.entry(3), DENSE), {"d": {"bias": BIAS, "kernel": KERNEL}})
    np.testing.assert_array_equal(results(path, X)[0], WANTED)


@pytest.mark.parametrize("group", ["layers/dense", "_layer_checkpoint_dependencies/dense"])
def test_keras_archive(tmp_path, group):
    path = k.write_keras(tmp_path / "m.keras", k.functional(k.entry(3), DENSE), {group: [KERNEL, BIAS]})
    np.testing.assert_array_equal(results(path, X)[0], WANTED)


def test_keras_3_counts_layers_of_a_class(tmp_path):
    second = k.layer("Dense", "another", ["d"], units=1, use_bias=False)
    groups = {"layers/dense": [KERNEL, BIAS], "layers/dense_1": [[[1.0], [2.0]]]}
    path = k.write_keras(tmp_path / "m.keras", k.functional(k.entry(3), DENSE, second), groups)
    np.testing.assert_array_equal(results(path, X)[0], WANTED @ [[1.0], [2.0]])


@pytest.mark.parametrize("first", ["InputLayer", "shape of the first layer", "build_input_shape", "list"])
def test_sequential(tmp_path, first):
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 2, "activation": "relu"}}
    model = k.sequential(dense)
    if first == "InputLayer":
        model["config"]["layers"].insert(0, k.entry(3, name="in"))
    elif first == "build_input_shape":
        model["config"]["build_input_shape"] = [None, 3]
    else:
        dense["config"]["batch_input_shape"] = [None, 3]
    if first == "list":
        model["config"] = model["config"]["layers"]
    path = k.write_h5(tmp_path / "m.h5", model, {"d": {"kernel": KERNEL, "bias": BIAS}})
    np.testing.assert_array_equal(results(path, X)[0], WANTED)


# ---- the graph --------------------------------------------------------------------------------------------------------


def test_shared_layer_and_several_inputs_and_outputs(tmp_path):
    shared = k.layer("Dense", "d", ["x"], units=2, activation="relu")
    shared["inbound_nodes"].append([["y", 0, 0, {}]])
    both = k.layer("Subtract", "s", [["d", 0, 0], ["d", 1, 0]])
    model = k.functional(
        both, shared, k.entry(3), k.entry(3, name="y"), inputs=["x", "y"], outputs=["s", ["d", 1, 0], ["d", 0, 0]]
    )
    path = k.write_h5(tmp_path / "m.h5", model, {"d": {"kernel": KERNEL, "bias": BIAS}})
    other = np.maximum(2 * X @ KERNEL + BIAS, 0)
    for found, wanted in zip(results(path, X, 2 * X), (WANTED - other, other, WANTED)):
        np.testing.assert_array_equal(found, wanted)
    assert [n for n, _ in read_keras(path).outputs] == ["s", "d", "d_out1"]


@pytest.mark.parametrize("call", [0, 1])
def test_nested_model_of_keras_2(tmp_path, call):
    """Its variables are those of the outer layer, trainable ones first; its calls count from 1."""
    inner = k.functional(
        k.entry(3, name="i"), {**DENSE, "inbound_nodes": [[["i", 0, 0, {}]]]},
        k.layer("BatchNormalization", "bn", ["d"], epsilon=0.0), inputs=["i"], name="inner",
    )  # fmt: skip
    part = {
        "class_name": "Functional",
        "config": inner["config"],
        "name": "inner",
        "inbound_nodes": [[["x", 0, 0, {}]]],
    }
    model = k.functional(k.entry(3), part, k.layer("Flatten", "f", [["inner", call, 0]]))
    arrays = {
        "d/kernel:0": KERNEL, "d/bias:0": BIAS, "bn/gamma:0": [2.0, 4.0], "bn/beta:0": [0.0, 1.0],
        "bn/moving_mean:0": [1.0, 0.0], "bn/moving_variance:0": [4.0, 1.0],
    }  # fmt: skip
    path = k.write_h5(tmp_path / "m.h5", model, {"inner": arrays})
    np.testing.assert_array_equal(results(path, X)[0], (WANTED - [1.0, 0.0]) / [2.0, 1.0] * [2.0, 4.0] + [0.0, 1.0])


def test_inbound_nodes_of_keras_3(tmp_path):
    def tensor(name, call=0):
        return {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "keras_history": [name, call, 0]}}

    dense = {**DENSE, "inbound_nodes": [{"args": [tensor("x")], "kwargs": {}}]}
    added = k.layer("Add", "a")
    added["inbound_nodes"] = [{"args": [[tensor("d"), tensor("d")]], "kwargs": {}}]
    model = k.functional(k.entry(3), dense, added)
    model["config"]["input_layers"], model["config"]["output_layers"] = ["x", 0, 0], ["a", 0, 0]
    path = k.write_keras(tmp_path / "m.keras", model, {"layers/dense": [KERNEL, BIAS]})
    np.testing.assert_array_equal(results(path, X)[0], 2 * WANTED)


def test_compiles_end_to_end(tmp_path):
    """A QKeras network with its quantizers written as text, through the public interface."""
    layers = (
        k.entry(3),
        k.layer("QActivation", "q", ["x"], activation="quantized_bits(6, 2)"),
        k.layer(
            "QDense",
            "d",
            ["q"],
            units=2,
            kernel_quantizer="quantized_bits(4,1,alpha=1)",
            bias_quantizer="quantized_po2(4)",
        ),
        k.layer("QActivation", "r", ["d"], activation="quantized_relu(4,2)"),
    )
    path = k.write_h5(tmp_path / "m.h5", k.functional(*layers), {"d": {"kernel": KERNEL, "bias": BIAS}})
    design = hc.compile(path, backends="rtl")
    x = np.random.default_rng(0).uniform(-4, 4, (64, 3))
    q = np.clip(np.round(x * 8), -32, 31) / 8
    wanted = np.clip(np.round((q @ np.clip(KERNEL, -2, 1.75) + BIAS) * 4), 0, 15) / 4
    np.testing.assert_array_equal(design.predict(x), wanted)


def test_channels_first_is_channels_last_transposed(tmp_path):
    kernel = np.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3) - 10.0
    x = np.arange(2 * 2 * 4 * 5).reshape(2, 2, 4, 5) % 7 - 3.0
    found = []
    for place, shape in (("channels_first", (2, 4, 5)), ("channels_last", (4, 5, 2))):
        conv = k.layer(
            "Conv2D", "c", ["x"], filters=3, kernel_size=[2, 2], padding="same", use_bias=False, data_format=place
        )
        pool = k.layer("MaxPooling2D", "p", ["c"], pool_size=[2, 2], data_format=place)
        flat = k.layer("Flatten", "f", ["p"], data_format=place)
        path = k.write_h5(
            tmp_path / f"{place}.h5", k.functional(k.entry(*shape), conv, pool, flat), {"c": {"kernel": kernel}}
        )
        found += results(path, x if place == "channels_first" else x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(*found)


def test_grouped_convolution(tmp_path):
    rng = np.random.default_rng(1)
    kernel, x = rng.integers(-4, 5, (3, 2, 6)), rng.integers(-4, 5, (3, 5, 4))
    conv = k.layer("Conv1D", "c", ["x"], filters=6, kernel_size=[3], groups=2, use_bias=False)
    path = k.write_h5(tmp_path / "m.h5", k.functional(k.entry(5, 4), conv), {"c": {"kernel": kernel}})
    wanted = np.zeros((3, 3, 6))
    for g in range(2):
        for t in range(3):
            wanted[:, :, 3 * g : 3 * g + 3] += x[:, t : t + 3, 2 * g : 2 * g + 2] @ kernel[t, :, 3 * g : 3 * g + 3]
    np.testing.assert_array_equal(results(path, x)[0], wanted)


def test_dense_with_folded_batch_normalization(tmp_path):
    """The normalization goes into the weights in float32 before they are quantized; trainable variables come first."""
    rng = np.random.default_rng(2)
    arrays = {n: rng.uniform(0.5, 1.5, 2) for n in ("bias", "gamma", "beta", "moving_mean", "moving_variance")}
    arrays = {"kernel": rng.uniform(-1, 1, (3, 2)), **arrays, "iteration": [-1.0]}
    layer = k.layer(
        "QDenseBatchnorm", "d", ["x"], units=2, epsilon=0.001, kernel_quantizer="quantized_bits(4,1,alpha=1)",
        bias_quantizer="quantized_bits(6,2)", axis=[-1], momentum=0.99, folding_mode="ema_stats_folding",
    )  # fmt: skip
    path = k.write_h5(tmp_path / "m.h5", k.functional(k.entry(3), layer), {"d": arrays})
    factor = arrays["gamma"] / np.sqrt(arrays["moving_variance"] + 0.001)
    kernel = np.clip(np.round(factor * arrays["kernel"] * 4), -8, 7) / 4
    bias = np.clip(np.round((factor * (arrays["bias"] - arrays["moving_mean"]) + arrays["beta"]) * 8), -32, 31) / 8
    np.testing.assert_array_equal(results(path, X)[0], X @ kernel + bias)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.3])
def test_quantized_linear_divides_by_alpha(tmp_path, alpha):
    """Unlike quantized_bits, whose alpha only multiplies the result."""
    spec = {
        "class_name": "qkeras>quantized_linear",
        "config": {"bits": 4, "integer": 1, "symmetric": 1, "alpha": alpha},
    }
    layers = k.layer("QActivation", "q", ["x"], activation=spec)
    path = k.write_h5(tmp_path / "m.h5", k.functional(k.entry(3), layers), {})
    step = 0.25 * float(np.float32(1 if alpha is None else alpha))
    np.testing.assert_allclose(results(path, X)[0], np.clip(np.round(X / step), -7, 7) * step, rtol=1e-12)


def test_calibrated_batch_normalization_has_narrow_constants(tmp_path):
    """Biases of very different sizes times float factors fit the language's 62 bits."""
    rng = np.random.default_rng(3)
    norm = k.layer("BatchNormalization", "n", ["d"], epsilon=0.001)
    model = k.functional(k.entry(3), {**DENSE, "config": {**DENSE["config"], "activation": "linear"}}, norm)
    arrays = {n: rng.uniform(0.5, 1.5, 2) for n in ("gamma", "beta", "moving_mean", "moving_variance")}
    arrays |= {"beta": [0.0, 0.0], "moving_mean": [0.0, 0.0]}
    variables = {"d": {"kernel": KERNEL + rng.normal(size=(3, 2)), "bias": [1.37e-7, 3.1e-8]}, "n": arrays}
    design = hc.compile(
        k.write_h5(tmp_path / "m.h5", model, variables), calibration=rng.normal(size=(200, 3)), bits=8, backends=()
    )
    assert design.calibration is not None
    assert design.calibration.deviation.relative_rms < 0.05
