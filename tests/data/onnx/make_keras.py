"""Writes keras_NAME.MAKER.onnx: small Keras networks as tf2onnx and Keras' own exporter write them, with Keras' own results.

Run by hand, MAKER being one of three, each where its packages are installed; keras_MAKER.npz holds NAME.x0, NAME.y0...

    python make_keras.py tf_keras       # Keras 2 (tf_keras) and tf2onnx
    python make_keras.py tensorflow     # Keras 3 on TensorFlow, and tf2onnx
    python make_keras.py torch          # Keras 3 on torch: model.export(path, format="onnx")

Weights and inputs are multiples of 1/8. Keras' exporter to torch fails on LayerNormalization, tf2onnx on the GELU of tf_keras.
"""

import importlib
import os
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
EVENTS = 6
SKIPPED = {("recurrent", "torch")}  # 40 kB: every step and gate has its own copies of the weights


def networks(keras):
    """(name, model) of each."""
    layers, sequential = keras.layers, keras.Sequential
    yield (
        "cnn",
        sequential(
            [
                layers.Input((8, 8, 2)),
                layers.Conv2D(3, 3, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.MaxPooling2D(2),
                layers.DepthwiseConv2D(3),
                layers.LeakyReLU(),
                layers.AveragePooling2D(2, padding="same"),
                layers.Flatten(),
                layers.Dense(2),
            ]
        ),
    )
    yield (
        "strided",
        sequential(
            [
                layers.Input((7, 7, 1)),
                layers.Conv2D(2, 3, strides=2, padding="same", activation="relu"),
                layers.SeparableConv2D(3, 2, padding="same"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2, activation="sigmoid"),
            ]
        ),
    )
    yield (
        "sequence",
        sequential(
            [
                layers.Input((9, 2)),
                layers.Conv1D(3, 3, padding="same", activation="relu"),
                layers.MaxPooling1D(2),
                layers.Conv1D(2, 2, dilation_rate=2),
                layers.GlobalMaxPooling1D(),
                layers.Dense(2, activation="softmax"),
            ]
        ),
    )
    yield (
        "upsampled",
        sequential(
            [
                layers.Input((4, 4, 1)),
                layers.UpSampling2D(2),
                layers.ZeroPadding2D(1),
                layers.Cropping2D(1),
                layers.Conv2DTranspose(1, 2, strides=2),
                layers.Permute((2, 1, 3)),
                layers.AveragePooling2D(4),
                layers.Reshape((-1,)),
                layers.Dense(2, activation="softplus"),
            ]
        ),
    )
    yield (
        "tokens",
        sequential([layers.Input((3,), dtype="int32"), layers.Embedding(7, 3), layers.Flatten(), layers.Dense(2)]),
    )
    yield (
        "recurrent",
        sequential([layers.Input((5, 3)), layers.LSTM(4, return_sequences=True), layers.GRU(3), layers.Dense(2)]),
    )
    a, b = keras.Input((4,)), keras.Input((4,))
    h = layers.Dense(4, activation="elu")(a)
    s = layers.Add()([h, b])
    joined = layers.Concatenate()([layers.Multiply()([s, a]), layers.BatchNormalization()(h)])
    yield "two", keras.Model([a, b], [layers.Dense(2)(joined), layers.Dense(1, activation="tanh")(s)])
    x = keras.Input((4, 6))
    attended = layers.MultiHeadAttention(2, 3)(x, x)
    yield "attention", keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(attended)))


def grid_weights(rng, model):
    """Multiples of 1/8, variances positive."""
    names = [getattr(w, "path", w.name) for w in model.weights]
    values = [rng.integers(-6, 7, w.shape) / 8 for w in model.weights]
    kept = [np.asarray(w.numpy()) if "seed" in n else None for n, w in zip(names, model.weights)]
    model.set_weights(
        [k if k is not None else abs(v) + 0.25 if "variance" in n else v for n, v, k in zip(names, values, kept)]
    )


def export(maker, model, path):
    if maker == "torch":
        return model.export(path, format="onnx", verbose=False)
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=f"x{k}") for k, i in enumerate(model.inputs)]
    function = tf.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False))
    tf2onnx.convert.from_function(function, input_signature=signature, opset=13, output_path=str(path))


def main(maker):
    if maker != "tf_keras":
        os.environ["KERAS_BACKEND"] = maker
    keras = importlib.import_module("tf_keras" if maker == "tf_keras" else "keras")
    rng, results = np.random.default_rng(0), {}
    for name, model in networks(keras):
        if (name, maker) in SKIPPED:
            continue
        grid_weights(rng, model)
        whole = name == "tokens"
        xs = [
            rng.integers(0, 7, (EVENTS, *i.shape[1:])).astype("i4")
            if whole
            else (rng.integers(-16, 17, (EVENTS, *i.shape[1:])) / 8).astype("f4")
            for i in model.inputs
        ]
        ys = model(xs if len(xs) > 1 else xs[0], training=False)
        ys = ys if isinstance(ys, list | tuple) else [ys]
        results |= {f"{name}.x{k}": x for k, x in enumerate(xs)}
        results |= {f"{name}.y{k}": y.detach().numpy() if maker == "torch" else y.numpy() for k, y in enumerate(ys)}
        export(maker, model, HERE / f"keras_{name}.{maker}.onnx")
    np.savez_compressed(HERE / f"keras_{maker}.npz", **results)


if __name__ == "__main__":
    main(sys.argv[1])
