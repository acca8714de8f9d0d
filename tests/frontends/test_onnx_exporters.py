"""Networks as the exporters of PyTorch, TensorFlow, Keras and scikit-learn write them: read, they give their makers' results."""

from pathlib import Path

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import evaluate_real

DATA = Path(__file__).parent.parent / "data/onnx"
FILES = sorted(
    p.name.removesuffix(".onnx") for p in DATA.glob("*_*.onnx") if not p.name.startswith(("sklearn", "keras"))
)
KERAS = sorted(p.name.removesuffix(".onnx").removeprefix("keras_") for p in DATA.glob("keras_*.onnx"))
LOOPS = ("recurrent.tensorflow",)  # tf2onnx leaves the loop over time of Keras 3 as it is
ML = ("Scaler", "LinearRegressor", "LinearClassifier", "Normalizer", "ArrayFeatureExtractor", "ZipMap")
SKLEARN = np.load(DATA / "sklearn.npz")
RESULTS = np.load(DATA / "results.npz")


def test_all_files_are_there():
    assert len(FILES) == 39
    assert len(KERAS) == 23


@pytest.mark.parametrize("name", FILES)
def test_the_networks_own_results(name):
    model = read_onnx(DATA / f"{name}.onnx")
    x, y = (RESULTS[f"{name.partition('.')[0]}.{k}"] for k in "xy")
    values = evaluate_real(model, {"x": x})
    np.testing.assert_allclose(values[model.outputs[0][1]], y, atol=2e-6)


def keras_data(name):
    """(the model's inputs by name, Keras' outputs) of a file."""
    network, maker = name.split(".")
    stored = np.load(DATA / f"keras_{maker}.npz")
    x, y = ([stored[k] for k in sorted(stored.files) if k.startswith(f"{network}.{side}")] for side in "xy")
    return x, y


@pytest.mark.parametrize("name", [n for n in KERAS if n not in LOOPS])
def test_results_of_keras(name):
    x, y = keras_data(name)
    model = read_onnx(DATA / f"keras_{name}.onnx")
    values = evaluate_real(model, {model.nodes[i].name: v for i, v in zip(model.inputs, x, strict=True)})
    for (_, i), wanted in zip(model.outputs, y, strict=True):
        np.testing.assert_allclose(values[i], wanted, atol=1e-5)


def test_a_loop_over_data_is_refused_in_one_sentence():
    with pytest.raises(hc.CompileError, match=r"\(Loop\): control flow must not depend on data; unroll the loop") as e:
        read_onnx(DATA / f"keras_{LOOPS[0]}.onnx")
    assert len(str(e.value)) < 250


@pytest.mark.parametrize("name", ["attention.tf_keras", "upsampled.tf_keras", "strided.torch", "two.tensorflow"])
def test_keras_compiled_by_calibration(name):
    model, rng = read_onnx(DATA / f"keras_{name}.onnx"), np.random.default_rng(0)
    nodes = [model.nodes[i] for i in model.inputs]
    x = {n.name: np.clip(rng.integers(-16, 17, (300, *n.shape)) / 8, -2, 2) for n in nodes}
    design = hc.compile(model, calibration=x, bits=10, backends=("cpu",))
    assert design.verify(x, events=200).ok
    assert design.deviate(x).relative_rms < 0.03


@pytest.mark.parametrize(
    "name", ["encoder.dynamo_23", "lstm.script_17", "choice.dynamo_18", "tokens.script_13", "particles.script_17"]
)
def test_compiled_by_calibration(name):
    rng = np.random.default_rng(0)
    model = read_onnx(DATA / f"{name}.onnx")
    shape = model.nodes[model.inputs[0]].shape
    x = rng.integers(0, 7, (300, *shape)) if "tokens" in name else rng.normal(size=(300, *shape)).astype(np.float32)
    design = hc.compile(model, calibration=x, bits=10, backends=("cpu",))
    assert design.verify(x, events=200).ok
    assert design.deviate(x).argmax_agreement > 0.97


@pytest.mark.parametrize("name", sorted(p.stem.removeprefix("sklearn_") for p in DATA.glob("sklearn_*.onnx")))
def test_predictions_of_scikit_learn(name):
    """Labels or values, and probabilities."""
    model = read_onnx(DATA / f"sklearn_{name}.onnx")
    values = evaluate_real(model, {model.nodes[model.inputs[0]].name: SKLEARN["x"]})
    found = [values[i] for _, i in model.outputs]
    np.testing.assert_allclose(found[0].reshape(-1), SKLEARN[f"{name}.y"], atol=1e-5)
    if f"{name}.p" in SKLEARN:
        np.testing.assert_allclose(found[1], SKLEARN[f"{name}.p"], atol=1e-5)


def test_a_classifier_compiled():
    """Integer labels are exact; the scores come from quantized weights."""
    x = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    design = hc.compile(DATA / "sklearn_logistic.onnx", calibration=x, bits=12, backends=("cpu",))
    labels = next(iter(design.predict(x).values()))
    assert set(labels.reshape(-1).tolist()) == {4.0, 7.0}
    assert design.verify(x, events=200).ok


def test_the_files_hold_every_operator_of_machine_learning():
    import onnx

    found = {n.op_type for p in DATA.glob("sklearn_*.onnx") for n in onnx.load(p).graph.node}
    assert set(ML) <= found
