"""Keras files written without Keras: configurations and variables as the frameworks store them."""

import json
import zipfile

import h5py
import numpy as np


def layer(kind, name, inputs=(), **config):
    """A layer of a functional model in the format of Keras 2; `inputs` are names of layers or (name, call, result)."""
    references = [[*([v, 0, 0] if isinstance(v, str) else v), {}] for v in inputs]
    config = {"name": name, **config}
    return {"class_name": kind, "config": config, "name": name, "inbound_nodes": [references] if inputs else []}


def entry(*shape, name="x", **config):
    return layer("InputLayer", name, batch_input_shape=[None, *shape], **config)


def functional(*layers, inputs=("x",), outputs=None, name="net"):
    """A functional model whose outputs are by default its last layer's."""
    outputs = outputs or [layers[-1]["name"]]
    ends = [[[*([v, 0, 0] if isinstance(v, str) else v)] for v in names] for names in (inputs, outputs)]
    config = {"name": name, "layers": list(layers), "input_layers": ends[0], "output_layers": ends[1]}
    return {"class_name": "Functional", "config": config, "keras_version": "2.15.0"}


def sequential(*layers, name="net"):
    return {"class_name": "Sequential", "config": {"name": name, "layers": list(layers)}, "keras_version": "2.15.0"}


def write_variables(group, variables):
    """The legacy format: a group for each layer with its arrays and their names in order."""
    group.attrs["layer_names"] = [n.encode() for n in variables]
    group.attrs["backend"] = b"tensorflow"
    for name, arrays in variables.items():
        part = group.create_group(name)
        names = [k if "/" in k else f"{name}/{k}:0" for k in arrays]
        part.attrs["weight_names"] = [n.encode() for n in names] or np.zeros(0)
        for full, values in zip(names, arrays.values()):
            part[full] = np.asarray(values, np.float32)


def write_h5(path, model, variables):
    """A model and its variables in one .h5 file."""
    with h5py.File(path, "w") as f:
        f.attrs["model_config"] = json.dumps(model)
        f.attrs["keras_version"] = model.get("keras_version", "2.15.0")
        write_variables(f.create_group("model_weights"), variables)
    return path


def write_json(path, model, variables, weights="_weights.h5"):
    """A .json file and its weights beside it."""
    path.write_text(json.dumps(model))
    with h5py.File(path.with_name(path.stem + weights), "w") as f:
        write_variables(f, variables)
    return path


def write_keras(path, model, groups, compression=zipfile.ZIP_STORED):
    """A .keras archive; `groups` maps a group's path to its variables in order."""
    weights = path.with_suffix(".weights")
    with h5py.File(weights, "w") as f:
        f.create_group("vars")
        for where, arrays in groups.items():
            part = f.require_group(f"{where}/vars")
            for k, values in enumerate(arrays):
                kept = isinstance(values, np.ndarray) and values.dtype.kind == "u"
                part[str(k)] = values if kept else np.asarray(values, np.float32)
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr("config.json", json.dumps(model))
        z.write(weights, "model.weights.h5")
    return path
