"""Makes random Keras and QKeras models with their framework's own results; needs the frameworks, unlike the tests.

    python generate.py keras2 FOLDER SEEDS...     # tf_keras 2.21: .h5, .keras, or .json with weights
    python generate.py qkeras FOLDER SEEDS...     # qkeras 0.9 on tf_keras 2.21: the same
    python generate.py keras3 FOLDER SEEDS...     # Keras 3 on torch: the same

Each model has a vector, a sequence and an image as inputs and a dozen outputs, each of a random layer in a random setting. The
name of an output says what its result is: ``e...`` exact in float32 (weights and inputs are small multiples of powers of two),
``c...`` only close, because the framework rounds in between. FOLDER gets one archive for each seed: the model's file or files,
and ``io.npz`` with the inputs by name and the outputs ``y0``, ``y1``... The archives beside this script are those of seeds 0 and 1
with 24 outputs (environment variable OUTPUTS).
"""

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

SHAPES = {"v": (6,), "s": (5, 3), "i": (6, 5, 2)}
EVENTS = 8
EXACT_ACTIVATIONS = ("linear", "relu", "relu6", "leaky")
TABLES = (
    "tanh",
    "sigmoid",
    "softplus",
    "softsign",
    "elu",
    "selu",
    "gelu",
    "exponential",
    "swish",
    "hard_sigmoid",
    "softmax",
)


def pick(rng, *values):
    return values[int(rng.integers(len(values)))]


def flag(rng):
    return bool(rng.integers(2))


def chance(rng, p):
    return bool(rng.random() < p)


# ---- layers of Keras: (exact, the layer's class, arguments, which inputs) --------------------------------------------------


def dense(rng, k):
    exact = chance(rng, 0.6)
    activation = pick(rng, None, "relu", "linear") if exact else pick(rng, *TABLES)
    return (
        exact,
        "Dense",
        {"units": int(rng.integers(1, 5)), "use_bias": flag(rng), "activation": activation},
        pick(rng, "v", "s", "i"),
    )


def _strides_or_dilation(rng, n):
    strides, dilation = [1] * n, [1] * n
    which = pick(rng, strides, dilation)
    for a in range(n):
        which[a] = int(rng.integers(1, 3))
    if which is dilation:
        dilation[:] = [dilation[0]] * n
    else:  # TensorFlow on the CPU has equal strides for depthwise convolutions only
        strides[:] = [strides[0]] * n
    return tuple(strides), tuple(dilation)


def conv(rng, k):
    n = pick(rng, 1, 2)
    strides, dilation = _strides_or_dilation(rng, n)
    settings = {
        "filters": int(rng.integers(1, 4)), "kernel_size": tuple(int(v) for v in rng.integers(1, 4, n)), "strides": strides,
        "dilation_rate": dilation, "padding": pick(rng, *(("valid", "same", "causal") if n == 1 else ("valid", "same"))),
        "use_bias": flag(rng), "activation": pick(rng, None, "relu"),
    }  # fmt: skip
    return _fitting(settings, n), f"Conv{n}D", settings, "s" if n == 1 else "i"


def _fitting(settings, n):
    """With padding "valid", kernel and dilation must fit the input."""
    spatial = SHAPES["s" if n == 1 else "i"]
    if any((v - 1) * d + 1 > m for v, d, m in zip(settings["kernel_size"], settings["dilation_rate"], spatial)):
        settings["dilation_rate"] = (1,) * n
    return True


def depthwise(rng, k):
    n = pick(rng, 1, 2)
    strides, dilation = _strides_or_dilation(rng, n)
    settings = {
        "kernel_size": tuple(int(v) for v in rng.integers(1, 4, n)), "strides": strides, "dilation_rate": dilation,
        "padding": pick(rng, "valid", "same"), "depth_multiplier": int(rng.integers(1, 3)), "use_bias": flag(rng),
    }  # fmt: skip
    return _fitting(settings, n), f"DepthwiseConv{n}D", settings, "s" if n == 1 else "i"


def separable(rng, k):
    exact, kind, settings, source = depthwise(rng, k)
    settings["filters"] = int(rng.integers(1, 4))
    return exact, kind.replace("Depthwise", "Separable"), settings, source


def transposed(rng, k):
    n = pick(rng, 1, 2)
    strides, padding = int(rng.integers(1, 4)), pick(rng, "valid", "same")
    settings = {
        "filters": int(rng.integers(1, 4)), "kernel_size": tuple(int(v) for v in rng.integers(1, 4, n)),
        "strides": (strides,) * n, "padding": padding, "use_bias": flag(rng),
    }  # fmt: skip
    return True, f"Conv{n}DTranspose", settings, "s" if n == 1 else "i"


def pooling(rng, k):
    n, kind = pick(rng, 1, 2), pick(rng, "Max", "Average")
    size = tuple(int(v) for v in rng.integers(1, 4, n))
    same = kind == "Max" or os.environ.get("FAMILY") != "keras3"  # on torch, Keras 3 averages over uneven padding too
    settings = {
        "pool_size": size,
        "strides": pick(rng, None, 1, 2),
        "padding": pick(rng, "valid", "same" if same else "valid"),
    }
    return kind == "Max", f"{kind}Pooling{n}D", settings, "s" if n == 1 else "i"


def global_pooling(rng, k):
    n, kind = pick(rng, 1, 2), pick(rng, "Max", "Average")
    return kind == "Max", f"Global{kind}Pooling{n}D", {"keepdims": flag(rng)}, "s" if n == 1 else "i"


def batch_normalization(rng, k):
    settings = {"scale": flag(rng), "center": flag(rng), "epsilon": pick(rng, 1e-3, 1e-5), "axis": pick(rng, -1, 1)}
    return False, "BatchNormalization", settings, pick(rng, "v", "s", "i")


def layer_normalization(rng, k):
    settings = {"scale": flag(rng), "center": flag(rng), "epsilon": pick(rng, 1e-2, 1e-3), "axis": -1}
    if os.environ.get("FAMILY") != "keras3":  # on torch, Keras 3 takes the last axis only
        settings["axis"] = pick(rng, -1, 1)
    return False, "LayerNormalization", settings, pick(rng, "v", "s")


def activation(rng, k):
    return False, "Activation", {"activation": pick(rng, *TABLES)}, pick(rng, "v", "s")


def relu(rng, k):
    slope, top = pick(rng, 0.0, 0.25), pick(rng, None, 1.5)
    return (
        True,
        "ReLU",
        {"max_value": top, "negative_slope": slope, "threshold": pick(rng, 0.0, 0.5)},
        pick(rng, "v", "i"),
    )


def other_activation(rng, k):
    return pick(
        rng, (True, "PReLU", {}, "s"), (True, "PReLU", {"shared_axes": [1, 2]}, "i"), (False, "ELU", {"alpha": 0.5}, "v"),
        (False, "Softmax", {"axis": -1}, "s"), (False, "Softmax", {"axis": 1}, "s"), (False, "LeakyReLU", {}, "v"),
    )  # fmt: skip


def layout(rng, k):
    a, b = (int(v) for v in rng.integers(0, 3, 2))
    return pick(
        rng,
        (True, "Flatten", {}, "i"), (True, "Reshape", {"target_shape": (3, -1)}, "i"), (True, "Permute", {"dims": (2, 3, 1)}, "i"),
        (True, "RepeatVector", {"n": a + 1}, "v"), (True, "ZeroPadding1D", {"padding": (a, b)}, "s"),
        (True, "ZeroPadding2D", {"padding": ((a, b), (b, 1))}, "i"), (True, "Cropping1D", {"cropping": (a, b)}, "s"),
        (True, "Cropping2D", {"cropping": ((a, b), (1, 1))}, "i"), (True, "UpSampling1D", {"size": a + 1}, "s"),
        (True, "UpSampling2D", {"size": (a + 1, b + 1)}, "i"), (True, "Dropout", {"rate": 0.5}, "s"),
        (True, "SpatialDropout1D", {"rate": 0.5}, "s"), (True, "GaussianNoise", {"stddev": 0.5}, "s"),
    )  # fmt: skip


def merge(rng, k):
    count = int(rng.integers(2, 4))
    kind = pick(rng, "Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract", "Concatenate", "Dot")
    if kind == "Subtract":
        count = 2
    if kind == "Dot":
        return True, "Dot", {"axes": pick(rng, 1, 2, (2, 2), (1, 1))}, "ss"
    settings = {"axis": pick(rng, 1, -1)} if kind == "Concatenate" else {}
    return kind != "Average" or count == 2, kind, settings, pick(rng, "v", "s", "i") * count


def numbers(rng, k):
    return True, "Rescaling", {"scale": 0.25, "offset": -0.5}, "s"


def normalization(rng, k):
    return False, "Normalization", {"axis": -1, "mean": [0.5, 1.0, -1.0], "variance": [1.0, 4.0, 2.0]}, "s"


def embedding(rng, k):
    return True, "Embedding", {"input_dim": 9, "output_dim": 3}, "n"


def recurrent(rng, k):
    kind = pick(rng, "SimpleRNN", "LSTM", "GRU")
    settings = {
        "units": int(rng.integers(1, 4)),
        "return_sequences": flag(rng),
        "use_bias": flag(rng),
        "go_backwards": flag(rng),
    }
    if kind == "GRU":
        settings["reset_after"] = flag(rng)
    if flag(rng):
        settings["activation"] = pick(rng, "relu", "softsign", "tanh")
    return False, kind, settings, "s"


def wrapped(rng, k):
    inner = pick(rng, (dense, "Bidirectional"), (conv, "TimeDistributed"), (dense, "TimeDistributed"))
    if inner[1] == "Bidirectional":
        _, kind, settings, _ = recurrent(rng, k)
        settings["go_backwards"] = False
        return (
            False,
            "Bidirectional",
            {"layer": (kind, settings), "merge_mode": pick(rng, "concat", "sum", "mul", "ave")},
            "s",
        )
    if inner[0] is conv:
        settings = {"filters": 2, "kernel_size": 2, "padding": pick(rng, "valid", "same")}
        return True, "TimeDistributed", {"layer": ("Conv1D", settings)}, "i"
    return True, "TimeDistributed", {"layer": ("Dense", {"units": 2, "activation": "relu"})}, pick(rng, "s", "i")


def attention(rng, k):
    if flag(rng):
        equation = pick(
            rng,
            ("abc,cd->abd", (5, 4), "d"),
            ("abc,cde->abde", (5, 2, 2), "de"),
            ("abc,bd->adc", (2, 3), None),
            ("abc,bcd->abd", (5, 2), "d"),
        )
        return (
            True,
            "EinsumDense",
            {"equation": equation[0], "output_shape": equation[1], "bias_axes": equation[2]},
            "s",
        )
    settings = {"num_heads": int(rng.integers(1, 3)), "key_dim": int(rng.integers(1, 4)), "use_bias": flag(rng)}
    return False, "MultiHeadAttention", settings, "ss"


def nested(rng, k):
    """A functional model with a sequential one in it, which it calls twice; see `nested_model`."""
    return flag(rng), "Nested", {}, "s"


def nested_model(layers, model, make_input, name):
    exact = name.startswith("e")
    middle = [] if exact else [layers.BatchNormalization(), layers.Dense(2, activation="tanh")]
    inner = [layers.Dense(3, activation="relu"), *middle, layers.Dense(2)]
    x = make_input(SHAPES["s"])
    shared = model(x, _chained(inner, x), name=f"{name}_shared")
    y, z = make_input(SHAPES["s"]), make_input((2,))
    first = shared(y)
    second = shared(layers.Rescaling(0.5)(y))
    both = layers.Add()([first, second, layers.Reshape((1, 2))(z)])
    return model([y, z], [both, second], name=name)


def _chained(chain, x):
    for layer in chain:
        x = layer(x)
    return x


KERAS = (
    dense, dense, nested, conv, conv, depthwise, separable, transposed, pooling, global_pooling, batch_normalization,
    layer_normalization,
    activation, relu, other_activation, layout, layout, merge, merge, numbers, normalization, embedding, recurrent,
    recurrent, wrapped,
    attention,
)  # fmt: skip


# ---- layers of QKeras -------------------------------------------------------------------------------------------------------


def kernel_quantizer(rng):
    """(exact, text)."""
    bits, integer = int(rng.integers(2, 9)), int(rng.integers(0, 2))
    return pick(
        rng,
        (True, f"quantized_bits({bits},{integer},alpha=1)"), (True, f"quantized_bits({bits},{integer},1,alpha=1)"),
        (True, f"quantized_bits({bits},{integer},alpha=0.5)"), (True, f"quantized_bits({bits},{integer},1,alpha='auto_po2')"),
        (True, f"quantized_bits({bits},{integer})"), (False, f"quantized_bits({bits},{integer},1,alpha='auto')"),
        (True, "quantized_bits(1,0,alpha=1)"), (True, f"quantized_bits({bits},{integer},0,0,alpha=1)"),
        (True, "binary(alpha=1)"), (True, "binary(alpha='auto_po2')"), (False, "binary(alpha='auto')"), (True, "binary()"),
        (True, "ternary(alpha=1)"), (True, "ternary(alpha='auto_po2')"), (False, "ternary(alpha='auto')"),
        (True, "stochastic_ternary()"), (True, "stochastic_binary()"), (True, "ternary(alpha=1.0,threshold=0.5)"),
        (True, "quantized_po2(4)"), (True, "quantized_po2(3,1)"), (True, "quantized_po2(4,2,quadratic_approximation=1)"),
        (True, "quantized_po2(4,log2_rounding='floor')"),
    )  # fmt: skip


def activation_quantizer(rng):
    """(exact, text)."""
    bits, integer = int(rng.integers(2, 9)), int(rng.integers(0, 3))
    return pick(
        rng,
        (True, f"quantized_relu({bits},{integer})"), (True, f"quantized_relu({bits + 1},{integer},negative_slope=0.25)"),
        (True, f"quantized_relu({bits},{integer},1)"), (True, f"quantized_relu({bits},{integer},0,0.5)"),
        (True, f"quantized_bits({bits},{integer},alpha=1)"), (True, f"quantized_bits({bits},{integer},1)"),
        (True, f"quantized_bits({bits},{integer},0,0)"), (True, f"quantized_bits({bits},{integer},alpha=2.0)"),
        (True, f"quantized_tanh({bits})"), (True, f"quantized_tanh({bits},symmetric=1)"),
        (True, f"quantized_tanh({bits},use_real_tanh=1)"),
        (True, f"quantized_sigmoid({bits})"), (True, f"quantized_sigmoid({bits},1)"),
        (True, f"quantized_sigmoid({bits},use_real_sigmoid=1)"),
        (True, f"quantized_hswish({bits},{integer})"),
        (True, f"quantized_hswish({bits},{integer},relu_shift=2,relu_upper_bound=4)"),
        (True, "binary(alpha=1)"), (True, "binary(1,alpha=1)"), (True, "ternary(alpha=1)"),
        (True, "ternary(alpha=1,threshold=0.75)"),
        (True, "stochastic_binary(alpha=1)"), (True, "quantized_po2(4)"), (True, "quantized_po2(4,2)"),
        (True, "quantized_relu_po2(3)"), (True, "quantized_relu_po2(3,4)"), (True, "quantized_relu_po2(3,negative_slope=0.5)"),
        (True, "quantized_relu_po2(3,log2_rounding='floor')"), (True, "hard_sigmoid"), (True, "hard_tanh"), (True, "binary_tanh"),
        (True, "binary_sigmoid"), (True, "smooth_sigmoid"), (True, "smooth_tanh"), (True, "relu"),
        (False, "binary"), (False, "ternary()"),
    )  # fmt: skip


def _quantizers(rng, settings, *keys):
    exact = True
    for key in keys:
        sound, settings[key] = kernel_quantizer(rng)
        exact &= sound
    settings["bias_quantizer"] = pick(
        rng, "quantized_bits(6,1,alpha=1)", "quantized_bits(4,0)", "quantized_po2(4)", "binary(alpha=0.5)"
    )
    if chance(rng, 0.5):
        sound, settings["activation"] = activation_quantizer(rng)
        exact &= sound
    else:
        settings.pop("activation", None)
    return exact


def quantized(layer, *keys):
    def make(rng, k):
        _, kind, settings, source = layer(rng, k)
        return _quantizers(rng, settings, *keys), f"Q{kind}", settings, source

    return make


def quantized_separable(rng, k):
    _, kind, settings, _ = separable(rng, k)
    settings["strides"] = (1,) * len(settings["strides"])
    return (
        _quantizers(rng, settings, "depthwise_quantizer", "pointwise_quantizer"),
        f"Q{kind}",
        settings,
        "s" if "1D" in kind else "i",
    )


def quantized_depthwise(rng, k):
    while True:
        _, kind, settings, source = depthwise(rng, k)
        if "2D" in kind:
            return _quantizers(rng, settings, "depthwise_quantizer"), f"Q{kind}", settings, source


def quantized_transposed(rng, k):
    while True:
        _, kind, settings, source = transposed(rng, k)
        if "2D" in kind:
            return _quantizers(rng, settings, "kernel_quantizer"), f"Q{kind}", settings, source


def quantized_activation(rng, k):
    exact, text = activation_quantizer(rng)
    return exact, "QActivation", {"activation": text}, pick(rng, "v", "s", "i")


def quantized_batch_normalization(rng, k):
    settings = {"scale": flag(rng), "center": flag(rng)}
    if flag(rng):
        settings |= {"gamma_quantizer": "quantized_bits(6,1,alpha=1)", "variance_quantizer": "quantized_relu(8,3)",
                     "beta_quantizer": None, "mean_quantizer": "quantized_bits(6,1,1)"}  # fmt: skip
    return False, "QBatchNormalization", settings, pick(rng, "v", "i")


def folded(rng, k):
    kind = pick(rng, "QConv2DBatchnorm", "QDepthwiseConv2DBatchnorm")
    settings = {"kernel_size": (2, 2), "padding": pick(rng, "valid", "same"), "use_bias": flag(rng), "scale": flag(rng)}
    exact = _quantizers(rng, settings, "kernel_quantizer" if kind == "QConv2DBatchnorm" else "depthwise_quantizer")
    settings["folding_mode"] = pick(rng, "ema_stats_folding", "batch_stats_folding")
    if kind == "QConv2DBatchnorm":
        settings["filters"] = 2
    return exact, kind, settings, "i"


def quantized_pooling(rng, k):
    settings = {
        "average_quantizer": pick(rng, None, "quantized_bits(4,0,1,alpha=1)"),
        "activation": "quantized_bits(6,2,1)",
    }
    if flag(rng):
        return True, "QGlobalAveragePooling2D", settings, "i"
    return True, "QAveragePooling2D", {**settings, "pool_size": pick(rng, (2, 2), (3, 1))}, "i"


def quantized_recurrent(rng, k):
    kind = pick(rng, "QSimpleRNN", "QLSTM", "QGRU")
    settings = {
        "units": int(rng.integers(1, 4)), "return_sequences": flag(rng), "kernel_quantizer": "quantized_bits(4,0,alpha=1)",
        "recurrent_quantizer": "quantized_bits(4,0,1,alpha=1)", "bias_quantizer": "quantized_bits(4,0,alpha=1)",
        "state_quantizer": "quantized_bits(6,1,1,alpha=1)", "activation": pick(rng, "quantized_tanh(6)",
        "quantized_bits(5,0,alpha=1)"),
    }  # fmt: skip
    if kind != "QSimpleRNN":
        settings["recurrent_activation"] = pick(rng, "quantized_sigmoid(6)", "quantized_relu(5,0)")
    if kind == "QGRU":
        settings["reset_after"] = flag(rng)
    if chance(rng, 0.3):
        return True, "QBidirectional", {"layer": (kind, settings)}, "s"
    return True, kind, settings, "s"


QKERAS = (
    quantized(dense, "kernel_quantizer"), quantized(dense, "kernel_quantizer"), quantized(conv, "kernel_quantizer"),
    quantized(conv, "kernel_quantizer"), quantized_depthwise, quantized_separable, quantized_transposed, quantized_activation,
    quantized_activation, quantized_activation, quantized_batch_normalization, folded, quantized_pooling, quantized_recurrent,
)  # fmt: skip


# ---- models -----------------------------------------------------------------------------------------------------------------


def framework(family):
    """(layers by name, Model, Input) of the family's framework."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    if family == "keras3":
        import keras

        return keras.layers, keras.Model, keras.Input
    import tf_keras as keras

    if family == "keras2":
        return keras.layers, keras.Model, keras.Input
    import tensorflow as tf
    from tensorflow.python.ops import array_ops
    from tensorflow.python.util import nest

    nest.is_sequence, array_ops.stack, array_ops.unstack = (
        nest.is_nested,
        tf.stack,
        tf.unstack,
    )  # names that QKeras 0.9 expects
    import qkeras
    import qkeras.qconv2d_batchnorm
    import qkeras.qdepthwiseconv2d_batchnorm
    import qkeras.qpooling

    found = {
        k: v
        for m in (qkeras.qconv2d_batchnorm, qkeras.qdepthwiseconv2d_batchnorm, qkeras.qpooling)
        for k, v in vars(m).items()
    }
    return type("Layers", (), {**vars(keras.layers), **vars(qkeras), **found}), keras.Model, keras.Input


def build(family, seed, count):
    """A random model of `count` outputs."""
    rng = np.random.default_rng(seed)
    layers, model, make_input = framework(family)
    shapes = SHAPES if family == "qkeras" else {**SHAPES, "n": (4,)}
    inputs = {k: make_input(shape, name=k) for k, shape in shapes.items()}
    sources = dict(inputs)
    if family == "qkeras":
        sources = {k: layers.QActivation("quantized_bits(6,2,1,alpha=1)", name=f"q{k}")(x) for k, x in inputs.items()}
    outputs = []
    if family == "qkeras":
        outputs = [
            layers.QActivation("quantized_bits(5,1,1)", name=f"e{k}_QActivation")(x)
            for k, x in enumerate(sources.values())
        ]
    while len(outputs) < count:
        choices = QKERAS if family == "qkeras" else KERAS
        exact, kind, settings, which = choices[int(rng.integers(len(choices)))](rng, len(outputs))
        settings = {k: getattr(layers, v[0])(**v[1]) if k == "layer" else v for k, v in settings.items()}
        name = f"{'e' if exact else 'c'}{len(outputs)}_{kind}"
        operands = [sources[which[0]]]
        for m, source in enumerate(which[1:]):
            step = layers.Rescaling(float(2.0 ** -(m + 1)), 0.125, name=f"{name}_in{m}")
            operands.append(step(sources[source]))
        if kind == "Nested":
            last = layers.GlobalMaxPooling1D(name=f"{name}_in")(layers.Dense(2, name=f"{name}_dense")(sources["s"]))
            outputs += nested_model(layers, model, make_input, name)([sources["s"], last])
            continue
        layer = getattr(layers, kind)(**settings, name=name)
        if kind == "MultiHeadAttention":
            outputs.append(layer(operands[0], operands[1]))
        else:
            outputs.append(layer(operands[0] if len(operands) == 1 else operands))
    return model([inputs[k] for k in inputs], outputs, name=f"{family}_{seed}"), shapes, rng


def fill(model, rng, family):
    """Random weights: small multiples of 1/8 for Keras, any float32 for QKeras, which rounds them itself."""
    for layer in model.layers:
        values = []
        for w in layer.weights:
            name = getattr(w, "path", w.name)
            v = rng.integers(-8, 9, w.shape) / 8
            if family == "qkeras":
                v = rng.uniform(-1.2, 1.2, w.shape)
            if "variance" in name:
                v = rng.uniform(0.25, 2.0, w.shape)
            if "count" in name or "iteration" in name or "seed" in name:
                v = np.asarray(w)
            values.append(np.asarray(v, np.asarray(w).dtype))
        if values:
            layer.set_weights(values)


def make(family, folder, seed, count):
    while True:
        try:
            model, shapes, rng = build(family, seed, count)
            break
        except Exception as e:  # the framework refuses some random settings
            print(f"{family} {seed}: {type(e).__name__} {str(e)[:150]}".replace("\n", " "), file=sys.stderr)
            seed += 10_000
    fill(model, rng, family)
    step = 32.0 if family == "qkeras" else 8.0
    data = {k: (rng.integers(-40, 41, (EVENTS, *s)) * (8.0 / step)).astype(np.float32) for k, s in shapes.items()}
    data = {
        k: v / 8 if family != "qkeras" else v / 8 + rng.uniform(-0.1, 0.1, v.shape).astype(np.float32)
        for k, v in data.items()
    }
    if "n" in data:
        data["n"] = rng.integers(0, 9, (EVENTS, *shapes["n"])).astype(np.float32)
    results = model.predict([data[k] for k in shapes], verbose=0)
    with tempfile.TemporaryDirectory() as place:
        files = save(model, Path(place), family, seed)
        buffer = io.BytesIO()
        np.savez(buffer, **data, **{f"y{k}": np.asarray(v) for k, v in enumerate(results)})
        with zipfile.ZipFile(Path(folder) / f"{family}_{seed}.zip", "w", zipfile.ZIP_LZMA) as z:
            for file in files:
                z.write(file, file.name)
            z.writestr("io.npz", buffer.getvalue())


def save(model, place, family, seed):
    """The files of the model: .keras, .h5, or .json with weights."""
    if seed % 3 == 1:
        model.save(place / "model.keras")
    elif seed % 3 == 0:
        (place / "model.json").write_text(model.to_json())
        model.save_weights(place / ("model.weights.h5" if family == "keras3" else "model_weights.h5"))
    else:
        model.save(place / "model.h5")
    return sorted(place.iterdir())


if __name__ == "__main__":
    os.environ["FAMILY"] = sys.argv[1]
    Path(sys.argv[2]).mkdir(exist_ok=True)
    for number in sys.argv[3:]:
        make(sys.argv[1], sys.argv[2], int(number), int(os.environ.get("OUTPUTS", "12")))
