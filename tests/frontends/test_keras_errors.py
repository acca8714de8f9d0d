"""What a Keras file must not do or hold: one sentence each, and nothing is executed or followed."""

import copy
import json
import random
import zipfile

import h5py
import keras_models as k
import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.keras import read_keras

KERNEL = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 1.0]])
VARIABLES = {"d": {"kernel": KERNEL, "bias": [0.5, -0.5]}}


def dense(**config):
    return k.layer("Dense", "d", ["x"], **{"units": 2, **config})


def refused(path):
    with pytest.raises(hc.CompileError) as e:
        read_keras(path)
    return str(e.value)


def model_of(*layers):
    return k.functional(k.entry(3), *layers)


LAYERS = {
    "unknown key": (dense(speed=3), "d (Dense): the configuration key 'speed' is not known; known here: "),
    "unknown class": (k.layer("Mystery", "m", ["x"]), "m (Mystery): the layer class is not supported; supported: "),
    "lambda": (k.layer("Lambda", "l", ["x"], function={"class_name": "__lambda__"}), "l (Lambda): the layer class is not"),
    "masking": (k.layer("Masking", "m", ["x"], mask_value=0.0), "m (Masking): the layer class is not supported: events would"),
    "adaptive": (
        k.layer("QAdaptiveActivation", "a", ["x"], activation="quantized_relu", total_bits=4),
        "its integer bits follow moving averages of the data; use QActivation with the bits that it found",
    ),
    "lambda activation": (
        k.layer("Activation", "a", ["x"], activation={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}),
        "a (Activation): the activation '__lambda__' is not supported; known: ",
    ),
    "foreign class": (
        {**dense(), "module": "os.path"}, "d (Dense): the layer class of os.path is not supported; supported: ",
    ),
    "unknown activation": (dense(activation="wild"), "d (Dense): the activation 'wild' is not supported; known: "),
    "float16": (dense(dtype="float16"), "d (Dense): the data type must be float32, not 'float16'; save the model with"),
    "units": (dense(units=3), "d (Dense): the weights 'kernel' must have shape [3, 3], not [3, 2]"),
    "no bias in the file": (dense(use_bias=False), "d (Dense): must have the 1 weights ['kernel'] in the file, not 2; save"),
    "stateful": (k.layer("LSTM", "d", ["x"], units=2, stateful=True), "d (LSTM): stateful must be False, not True"),
    "mask": (k.layer("Embedding", "e", ["x"], input_dim=2, output_dim=2, mask_zero=True), "mask_zero must be False, not True"),
    "quantizer": (
        k.layer("QActivation", "q", ["x"], activation="quantized_wild(3)"), "the activation 'quantized_wild(3)' is not",
    ),
    "ulaw": (k.layer("QDense", "d", ["x"], units=2, kernel_quantizer="quantized_ulaw(6)"), "its grid is logarithmic; use"),
    "bernoulli": (
        k.layer("QDense", "d", ["x"], units=2, kernel_quantizer={"class_name": "bernoulli", "config": {"alpha": 1}}),
        "d (QDense): bernoulli is not supported: its result is random at inference too; use quantized_bits",
    ),
    "alpha of data": (
        k.layer("QActivation", "q", ["x"], activation="quantized_bits(4,1,alpha='auto')"),
        "q (QActivation): quantized_bits: alpha 'auto' of data depends on the batch; use alpha=1 or another number",
    ),
    "noise": (
        k.layer("QActivation", "q", ["x"], activation="quantized_relu(4,1,qnoise_factor=0.5)"), "qnoise_factor must be 1, not 0.5",
    ),
    "argument": (
        k.layer("QActivation", "q", ["x"], activation="quantized_relu(4,speed=1)"),
        "q (QActivation): quantized_relu: the configuration key 'speed' is not known; known here: ",
    ),
    "code in a quantizer": (
        k.layer("QActivation", "q", ["x"], activation="quantized_relu(__import__)"), "must be a number or a word in quotes",
    ),
    "wide powers of two": (
        k.layer("QActivation", "q", ["x"], activation="quantized_po2(8)"), "its powers of two do not fit 61 bits; use fewer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_layers(tmp_path, case):
    layer, sentence = LAYERS[case]
    assert sentence in refused(k.write_h5(tmp_path / "m.h5", model_of(layer), VARIABLES))


def cyclic():
    return model_of(k.layer("Add", "a", ["x", "b"]), k.layer("Activation", "b", ["a"], activation="relu"))


def deep(levels):
    model = model_of(k.layer("Activation", "a", ["x"], activation="relu"))
    for _ in range(levels):
        part = {
            "class_name": "Functional",
            "config": model["config"],
            "name": "inner",
            "inbound_nodes": [[["x", 0, 0, {}]]],
        }
        model = k.functional(k.entry(3), part)
    return model


MODELS = {
    "cycle": (cyclic(), "net (Functional): the layers ['a', 'b'] need each other's results"),
    "missing layer": (
        model_of(k.layer("Activation", "a", ["z"], activation="relu")), "'a' needs the layer 'z', which gives no such result",
    ),
    "missing call": (
        model_of(k.layer("Activation", "a", [["x", 7, 0]], activation="relu")), "'a' needs the layer 'x', which gives no such",
    ),
    "names": (model_of(dense(), dense()), "net (Functional): every layer must have a name of its own; save the model again"),
    "depth": (deep(17), "models may be nested 16 deep; simplify the model"),
    "very deep": (deep(60), "its configuration is nested deeper than 96; simplify the model"),
    "open shape": (k.functional(k.entry(None, 3), dense()), "input x: its shape must be fixed but for the batch axis, not"),
    "huge shape": (k.functional(k.entry(1 << 20, 1 << 20), dense()), "input x: at most 2**24 values per event, not"),
    "subclass": ({"class_name": "MyModel", "config": {}}, "must hold a Sequential or functional model, not 'MyModel'; rebuild"),
    "no layers": ({"class_name": "Sequential", "config": {"layers": []}}, "must have 1 to 100000 layers"),
    "no model": ({"layers": []}, "must hold a model's class_name and config; save it with model.save"),
    "a list": ([], "its model configuration must be an object, not list"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models(tmp_path, case):
    model, sentence = MODELS[case]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    with h5py.File(tmp_path / "m.h5", "w") as f:
        k.write_variables(f, VARIABLES)
    assert sentence in refused(path)


# ---- containers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".json", ".keras"])
def test_files_that_are_not_there_or_broken(tmp_path, ending):
    path = tmp_path / f"m{ending}"
    assert refused(path) == f"{path}: there is no such file; check the path"
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"{", b"[" * 100_000):
        path.write_bytes(content)
        assert str(path) in refused(path)


def test_json_without_weights(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(model_of(dense())))
    sentence = "the weights must lie beside it, as one of m_weights.h5, m.weights.h5, m.h5; copy them there"
    assert sentence in refused(tmp_path / "m.json")


def test_weights_alone(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as f:
        k.write_variables(f, VARIABLES)
    assert "must hold a model, but holds weights alone; give the .json file" in refused(tmp_path / "m.h5")


@pytest.mark.parametrize("link", ["soft", "external", "external data", "virtual"])
def test_links_to_other_places(tmp_path, link):
    path = k.write_h5(tmp_path / "m.h5", model_of(dense()), VARIABLES)
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["kernel"] = KERNEL.astype(np.float32)
    with h5py.File(path, "a") as f:
        group = f["model_weights/d/d"]
        del group["kernel:0"]
        if link == "soft":
            group["kernel:0"] = h5py.SoftLink("/model_weights/d/d/bias:0")
        elif link == "external":
            group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "kernel")
        elif link == "external data":
            group.create_dataset("kernel:0", (3, 2), "f4", external=[(str(tmp_path / "secret.bin"), 0, 24)])
        else:
            layout = h5py.VirtualLayout((3, 2), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (3, 2))
            group.create_virtual_dataset("kernel:0", layout)
    assert "which is refused" in refused(path)


def test_huge_tensors_are_not_read(tmp_path):
    """A compressed tensor of zeros may be small in the file and huge in memory."""
    path = k.write_h5(tmp_path / "m.h5", model_of(dense()), VARIABLES)
    with h5py.File(path, "a") as f:
        f["model_weights"].create_dataset(
            "huge", (1 << 20, 1 << 12), "f4", chunks=(1 << 10, 1 << 10), compression="gzip"
        )
    assert "all weights must be smaller than 1 GB" in refused(path)


def test_zip_bombs(tmp_path):
    path = k.write_keras(tmp_path / "m.keras", model_of(dense()), {"layers/dense": [KERNEL, [0.0, 0.0]]})
    read_keras(path)
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("config.json", json.dumps(model_of(dense())))
        z.writestr("model.weights.h5", bytes(1 << 24))
    assert "unpacks" in refused(tmp_path / "bomb.keras")
    with zipfile.ZipFile(tmp_path / "half.keras", "w") as z:
        z.writestr("config.json", json.dumps(model_of(dense())))
    assert "must hold one 'model.weights.h5', not 0" in refused(tmp_path / "half.keras")


def test_cyclic_groups(tmp_path):
    path = k.write_h5(tmp_path / "m.h5", model_of(dense()), VARIABLES)
    with h5py.File(path, "a") as f:
        f["model_weights/d/again"] = f["model_weights"]
    assert "nested deeper than" in refused(path)


def test_nan_weights(tmp_path):
    path = k.write_h5(tmp_path / "m.h5", model_of(dense()), {"d": {"kernel": KERNEL * np.nan, "bias": [0.0, 0.0]}})
    assert refused(path) == "d (Dense): the weights 'kernel' must be finite, but contain NaN or Inf; check the training"


# ---- damage -----------------------------------------------------------------------------------------------------------


def nodes_of(tree, found=None):
    """Every dictionary and list in a configuration."""
    found = [] if found is None else found
    if isinstance(tree, dict | list):
        found.append(tree)
        for v in tree.values() if isinstance(tree, dict) else tree:
            nodes_of(v, found)
    return found


def outcome(path):
    """Whether a file is read or refused; any other end is an error of ours."""
    try:
        read_keras(path)
    except hc.CompileError:
        return "refused"
    return "read"


def damaged(model, rng):
    """A configuration with one entry removed or replaced."""
    model = copy.deepcopy(model)
    node = rng.choice([n for n in nodes_of(model) if n])
    key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice([None, -1, 0, 10**9, 1e400, "x", [], {}, [1, 2, 3], [[None]], True, {"class_name": "x"}])
    return model


def test_damaged_configurations_never_escape(tmp_path):
    """Every change of a sound file is read or refused in a sentence."""
    layers = (
        k.entry(6, 3),
        k.layer(
            "Conv1D", "c", ["x"], filters=2, kernel_size=[2], strides=[1], padding="same", data_format="channels_last"
        ),
        k.layer("LSTM", "l", ["c"], units=2, activation="tanh", recurrent_activation="sigmoid", return_sequences=True),
        k.layer("MaxPooling1D", "p", ["l"], pool_size=[2], strides=[2], padding="valid"),
        k.layer("Flatten", "f", ["p"]),
        k.layer(
            "QDense",
            "d",
            ["f"],
            units=2,
            kernel_quantizer={"class_name": "quantized_bits", "config": {"bits": 4, "alpha": 1}},
        ),
        k.layer("Reshape", "r", ["d"], target_shape=[1, -1]),
    )
    arrays = {
        "c": {"kernel": np.ones((2, 3, 2)), "bias": np.zeros(2)}, "d": {"kernel": np.ones((6, 2)), "bias": np.zeros(2)},
        "l": {"l/lstm_cell/kernel:0": np.ones((2, 8)), "l/lstm_cell/recurrent_kernel:0": np.ones((2, 8)),
              "l/lstm_cell/bias:0": np.ones(8)},
    }  # fmt: skip
    model = k.functional(*layers)
    path = k.write_json(tmp_path / "m.json", model, arrays)
    assert len(read_keras(path).nodes) > 20
    rng, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for _ in range(400):
        path.write_text(json.dumps(damaged(model, rng)))
        outcomes[outcome(path)] += 1
    assert min(outcomes.values()) > 50


def test_damaged_bytes_never_escape(tmp_path):
    path = k.write_keras(tmp_path / "m.keras", model_of(dense()), {"layers/dense": [KERNEL, [0.0, 0.0]]})
    sound, rng, outcomes = path.read_bytes(), random.Random(1), {"read": 0, "refused": 0}
    for _ in range(100):
        data = bytearray(sound)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        outcomes[outcome(path)] += 1
    assert outcomes["refused"] > 20
