"""Keras models as torch modules: the same outputs, and trained and compiled like any other."""

import os

import numpy as np
import pytest
import torch

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.keras_models import from_keras

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from keras import layers


def dense():
    return keras.Sequential([
        layers.Input((6,)), layers.Dense(9), layers.BatchNormalization(), layers.Activation("relu"),
        layers.Dense(8, use_bias=False), layers.BatchNormalization(scale=False, epsilon=1e-2),
        layers.LeakyReLU(negative_slope=0.25),
        layers.Dropout(0.5), layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


def images():
    return keras.Sequential([
        layers.Input((9, 12, 2)), layers.Conv2D(4, (3, 2), strides=(2, 1), padding="same"), layers.BatchNormalization(),
        layers.ReLU(), layers.MaxPooling2D((2, 3)), layers.Conv2D(6, 2, groups=2, activation="tanh"),
        layers.Conv2D(4, 3, padding="same", dilation_rate=2), layers.AveragePooling2D((1, 3)),
        layers.ReLU(max_value=6), layers.Flatten(), layers.Dense(3),
    ])  # fmt: skip


def sequences():
    x = inputs = layers.Input((8, 3))
    x = layers.Conv1D(5, 3, padding="same", activation="gelu")(x)
    y = layers.Conv1D(5, 2, strides=2)(inputs)
    y = layers.Concatenate(axis=-1)([layers.GlobalAveragePooling1D()(y), layers.GlobalMaxPooling1D()(x)])
    z = layers.Flatten()(layers.Add()([x, layers.Dense(5)(x), layers.Softmax()(x)]))
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([y, z])))


def shared():
    a, b = layers.Input((4,), name="first"), layers.Input((4,), name="second")
    layer = layers.Dense(4, activation="sigmoid")
    square = layers.Reshape((2, 2))(layers.Add()([layer(a), layer(b)]))
    return keras.Model([a, b], layers.Activation("softsign")(square))


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras's own arrays on torch

MODELS = {"dense": dense, "images": images, "sequences": sequences, "shared": shared}


def built(name):
    keras.utils.set_random_seed(3)
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return model, [torch.tensor(rng.normal(size=(50, *t.shape[1:])), dtype=torch.float32) for t in model.inputs]


@pytest.mark.parametrize("name", MODELS)
def test_the_module_computes_what_the_model_does(name):
    model, x = built(name)
    wanted = model(x if len(x) > 1 else x[0], training=False).detach().numpy()
    module = from_keras(model)
    with torch.no_grad():
        found = module(*x).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 2e-6 * max(np.abs(wanted).max(), 1)


@pytest.mark.parametrize("name", ["dense", "images"])
def test_it_quantizes_trains_and_compiles(name):
    model, (x,) = built(name)
    module = from_keras(model, logits=True)
    task = opt.Task(x, torch.arange(len(x)) % 3)
    found = opt.Pipeline([opt.Quantize(opt.Spec.uniform(6, 8)), opt.Train(1)]).run(module, task).module
    assert [n for n, _ in opt.layers(found)] == [
        la.name for la in model.layers if hasattr(la, "kernel")
    ]  # norms are folded
    with torch.no_grad():
        assert np.array_equal(
            hc.compile(found, example_inputs=x, backends=("cpu",)).predict(x.numpy()), found(x).numpy()
        )


def test_logits_are_what_softmax_takes():
    model, (x,) = built("dense")
    with torch.no_grad():
        whole, logits = from_keras(model)(x), from_keras(model, logits=True)(x)
    assert torch.allclose(torch.softmax(logits, -1), whole, atol=1e-6)
    assert not torch.allclose(logits, whole, atol=1e-2)


def unbuilt():
    return keras.Sequential([layers.Dense(2)])


def wrapped(*parts, shape=(8, 8, 2)):
    return keras.Sequential([layers.Input(shape), *parts])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (unbuilt, "must be a Sequential or functional model that is built; give it an Input"),
        (lambda: wrapped(layers.LSTM(2), shape=(4, 2)), r"lstm.* \(LSTM\): has no torch module here; known are .*Dense"),
        (lambda: wrapped(layers.Dense(2, activation="hard_sigmoid")), "activation must be one of linear, .*not hard_sigmoid"),
        (lambda: wrapped(layers.MaxPooling2D(2, padding="same")), "padding must be valid"),
        (lambda: wrapped(layers.ReLU(threshold=1.0)), "must have no threshold"),
        (lambda: wrapped(layers.BatchNormalization(axis=1)), "axis must be the last, not 1"),
        (lambda: wrapped(layers.MaxPooling2D(2, data_format="channels_first")), "must have data_format channels_last"),
        (lambda: keras.Model(x := layers.Input((3,)), [x, layers.Dense(1)(x)]), "must have one output, not 2"),
    ],
)  # fmt: skip
def test_refusals(make, says):
    with pytest.raises(hc.CompileError, match=says):
        from_keras(make())
