"""The benchmark networks: the same bytes from the same seed, and read and compiled as they are described."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.ir.evaluate import evaluate


def _nets():
    path = Path(hc.__file__).parent / "benchmarks" / "nets.py"
    spec = importlib.util.spec_from_file_location("benchmark_nets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


nets = _nets()


@pytest.mark.parametrize("name", nets.NETS)
def test_the_same_bytes_every_time(name):
    net = nets.NETS[name]
    first, second = nets.arrays(net), nets.arrays(net)
    assert all((first[k] == second[k]).all() for k in first)
    for build in (nets.quantized_model, nets.float_model):
        assert build(net, first).SerializeToString() == build(net, second).SerializeToString()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_compiled_networks_compute_what_the_integers_say(name):
    """A second way to the outputs: float64 matrices, exact at these sizes, with numpy's rounding to even."""
    net = nets.NETS[name]
    data = nets.arrays(net)
    design = hc.compile(nets.quantized_model(net, data), backends=("cpu",))
    x = data["x"][:500]
    value, last = x / 16.0, len(net.widths) - 2
    for k in range(last + 1):
        value = value @ (data[f"w{k}"] * 2.0 ** -float(data["exps"][k])) + data[f"b{k}"] / 16
        if k < last:
            value = np.clip(np.rint(value * 16), 0, 255) / 16
    assert (design.predict(x / 16.0) == value).all()
    assert (design.cpu.run({"x": x})["y"] == evaluate(design.graph, {"x": x.astype(np.int64)})["y"]).all()


def test_pruned_network_has_its_zeros_and_hidden_values_saturate():
    data = nets.arrays(nets.NETS["b"])
    zeros = np.mean([(data[f"w{k}"] == 0).mean() for k in range(4)])
    assert 0.65 < zeros < 0.8
    hidden = np.rint(16 * (data["x"] / 16.0 @ (data["w0"] * 2.0 ** -float(data["exps"][0])) + data["b0"] / 16))
    assert (hidden > 255).any()
