"""Measures hls4ml's C simulation in a process of its own: peers_hls4ml.py NET FOLDER REPEATS; needs .venv-peers."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from timing import WITNESS_EVENTS, mismatches, rate, said, seconds

HIDDEN = "ufixed<8,4,RND_CONV,SAT>"
VALUE = "fixed<8,4>"
LARGEST_LATENCY = 4096  # products of a layer that the strategy "latency" unrolls at most


def _keras_model(data: Any) -> Any:
    import keras

    *_, height, width = data["x"].shape if data["x"].ndim == 4 else (0, 0, 0, 0)
    shape = (height, width, data["x"].shape[1]) if height else data["x"].shape[1:]
    layers: list[Any] = [keras.layers.Input(shape, name="x")]
    last = len(data["exps"]) - 1
    for k in range(last + 1):
        w = data[f"w{k}"]
        if w.ndim == 4:
            layers.append(keras.layers.Conv2D(len(w), 3, name=f"dense{k}"))
        else:
            if k and data[f"w{k - 1}"].ndim == 4:
                layers.append(keras.layers.Flatten(name="flat"))
            layers.append(keras.layers.Dense(w.shape[1], name=f"dense{k}"))
        if k < last:
            layers.append(keras.layers.Activation("relu", name=f"relu{k}"))
        if w.ndim == 4 and data["pools"][k] > 1:
            layers.append(keras.layers.MaxPooling2D(int(data["pools"][k]), name=f"pool{k}"))
    model = keras.Sequential(layers)
    for k, exp in enumerate(data["exps"]):
        w = _channels_last(data, k, model) * 2.0**-exp
        model.get_layer(f"dense{k}").set_weights([w, data[f"b{k}"] / 16])
    return model


def _channels_last(data: Any, k: int, model: Any) -> Any:
    """Weights in Keras' order; a flattened image has its channels last."""
    w = data[f"w{k}"]
    if w.ndim == 4:
        return w.transpose(2, 3, 1, 0)
    if k and data[f"w{k - 1}"].ndim == 4:
        height, width, channels = model.get_layer("flat").input.shape[1:]
        return w.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(w.shape)
    return w


def _precisions(data: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Every type set by hand to the network's own: nothing is left to the default or inferred."""
    config["Model"]["Strategy"] = "Latency"
    names = config["LayerName"]
    names["x"]["Precision"] = {"result": VALUE}
    for k, exp in enumerate(int(e) for e in data["exps"]):
        w = data[f"w{k}"]
        n_in = w[0].size if w.ndim == 4 else w.shape[0]
        total = f"fixed<{8 + 8 + int(n_in).bit_length()},{8 + 8 + int(n_in).bit_length() - 4 - exp}>"
        layer = names[f"dense{k}"]
        layer["Precision"] = {"weight": f"fixed<8,{8 - exp}>", "bias": VALUE, "accum": total, "result": total}
        layer["Strategy"] = "Latency" if data[f"w{k}"].size <= LARGEST_LATENCY else "Resource"
        if f"dense{k}_linear" in names:
            names[f"dense{k}_linear"]["Precision"] = {"result": total}
        if f"relu{k}" in names:
            names[f"relu{k}"]["Precision"] = {"result": HIDDEN}
    return config


def _converted(data: Any, folder: str) -> Any:
    import hls4ml

    model = _keras_model(data)
    config = hls4ml.utils.config_from_keras_model(model, granularity="name", backend="Vitis")
    config = _precisions(data, config)
    return hls4ml.converters.convert_from_keras_model(
        model, hls_config=config, output_dir=folder, backend="Vitis", io_type="io_parallel"
    )


def main(name: str, folder: Path, repeats: int) -> None:
    """Convert, compile, compare with the expected outputs, and run the C simulation."""
    import hls4ml  # noqa: F401  (its import takes seconds and is no part of the conversion)
    import keras  # noqa: F401

    data = np.load(folder / f"{name}.npz")
    with tempfile.TemporaryDirectory() as output:
        spent, model = seconds(lambda: _converted(data, output))
        said(convert_s=spent)
        said(compile_s=seconds(model.compile)[0])
        x = np.load(folder / f"{name}_events.npz")["x"]
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x
        expected = np.load(folder / f"{name}_expected.npy")
        said(mismatches=mismatches(model.predict(x[:WITNESS_EVENTS]), expected), values=expected.size)
        said(predict=rate(model.predict, x, repeats))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
