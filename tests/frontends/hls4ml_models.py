"""Keras models converted by hls4ml, and what its C simulation gives; hls4ml is the witness."""

import contextlib
import copy
import io
import os
import warnings

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")


@contextlib.contextmanager
def quietly():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def default_configuration(model):
    with quietly():
        import hls4ml

        return hls4ml.utils.config_from_keras_model(model, granularity="name", backend="Vitis")


def converted(model, configuration, folder, backend="Vitis", **settings):
    with quietly():
        import hls4ml

        return hls4ml.converters.convert_from_keras_model(
            model, hls_config=copy.deepcopy(configuration), output_dir=str(folder), backend=backend, **settings
        )


def simulated(graph, x):
    """The results of hls4ml's own C simulation, flat per event."""
    with quietly():
        graph.compile()
        given = (
            [np.ascontiguousarray(v, np.float64) for v in x]
            if isinstance(x, list)
            else np.ascontiguousarray(x, np.float64)
        )
        found = graph.predict(given)
    return found if isinstance(found, list) else [found]


def saved(model, path):
    with quietly():
        model.save(path)


def dense_model():
    with quietly():
        import keras
        from keras import layers

        keras.utils.set_random_seed(0)
        x = keras.Input((6,), name="x")
        h = layers.Dense(8, activation="relu", name="a")(x)
        h = layers.BatchNormalization(name="n", momentum=0.9)(h)
        h = layers.Dense(4, activation="tanh", name="b")(h)
        model = keras.Model(x, layers.Dense(3, name="o")(h))
        rng = np.random.default_rng(1)
        model.get_layer("n").set_weights([rng.uniform(0.5, 2, 8), *rng.normal(size=(2, 8)), rng.uniform(0.5, 2, 8)])
        return model


def many_layers():
    """Every kind of layer that both read, one output each."""
    with quietly():
        import keras
        from keras import layers as L

        keras.utils.set_random_seed(1)
        v, image = keras.Input((6,), name="v"), keras.Input((6, 5, 2), name="i")
        h = L.Dense(4, name="d")(v)
        outputs = [
            L.Activation(f, name=f"act_{f}")(h) for f in ("sigmoid", "softplus", "softsign", "elu", "hard_sigmoid")
        ]
        outputs += [
            L.LeakyReLU(negative_slope=0.3, name="leaky")(h),
            L.PReLU(alpha_initializer="glorot_uniform", name="prelu")(h),
        ]
        narrow = L.Dense(4, name="logits")(v)
        outputs.append(L.Softmax(name="softmax")(narrow))
        outputs += [
            L.Add(name="add")([h, narrow]),
            L.Multiply(name="mul")([h, narrow]),
            L.Average(name="mean")([h, narrow]),
        ]
        outputs += [L.Maximum(name="most")([h, narrow]), L.Minimum(name="least")([h, narrow])]
        outputs += [L.Subtract(name="sub")([h, narrow]), L.Concatenate(name="join")([h, narrow])]
        c = L.Conv2D(3, (3, 2), strides=(2, 1), padding="same", activation="relu", name="conv")(image)
        outputs += [
            L.Flatten(name="flat")(L.MaxPooling2D(2, name="largest")(c)),
            L.GlobalAveragePooling2D(name="all")(c),
        ]
        outputs.append(L.Flatten(name="flat2")(L.AveragePooling2D(2, name="average")(c)))
        outputs.append(L.Flatten(name="flat3")(L.DepthwiseConv2D(2, name="depth")(image)))
        outputs.append(L.Flatten(name="flat4")(L.ZeroPadding2D(((1, 0), (0, 2)), name="padded")(image)))
        outputs.append(
            L.Flatten(name="flat5")(L.UpSampling2D(2, name="up")(L.Permute((2, 1, 3), name="turned")(image)))
        )
        row = L.Reshape((10, 6), name="row")(image)
        outputs.append(L.Flatten(name="flat6")(L.Conv1D(2, 3, name="conv1")(row)))
        outputs.append(L.GlobalMaxPooling1D(name="top")(L.MaxPooling1D(2, name="pool1")(row)))
        return keras.Model([v, image], outputs)


def hgq2_network(kind):
    """Small HGQ2 networks with drawn weights and widths, of kinds that hls4ml reads too; inputs on their grid."""
    from hgq_models import draw_bits, draw_weights

    with quietly():
        import keras
        from hgq.config import LayerConfigScope, QuantizerConfigScope
        from hgq.layers import QAdd, QConv2D, QDense

        keras.utils.set_random_seed(3)
        rng = np.random.default_rng(sum(map(ord, kind)))
        shape = (6, 5, 2) if kind == "convolution" else (6,)
        with (
            QuantizerConfigScope(place="all", default_q_type="kbi", overflow_mode="SAT"),
            LayerConfigScope(enable_ebops=False),
        ):
            x = keras.Input(shape, name="x")
            if kind == "convolution":
                h = keras.layers.Flatten(name="flat")(QConv2D(3, (3, 2), activation="relu", name="conv")(x))
            else:
                h = QDense(8, activation="relu", name="first")(x)
            if kind == "deep":
                h = QDense(8, activation="relu", name="third")(QDense(6, activation="relu", name="second")(h))
            if kind == "residual":
                h = QAdd(name="add")([h, QDense(8, name="side")(h)])
            if kind == "wide":
                h = QDense(24, activation="relu", name="second")(h)
            model = keras.Model(x, QDense(4, name="out")(h))
        draw_weights(rng, model)
        draw_bits(rng, model)
        return model, rng.integers(-64, 64, (200, *shape)) / 16
