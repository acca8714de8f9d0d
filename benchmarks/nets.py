"""The benchmark networks and their event data, from fixed seeds; knows nothing of what is measured with them.

Each network is written as QONNX (for hwcompile), as float ONNX of the same shapes (for onnxruntime) and as integers
(.npz, for the other compilers). The formats: inputs ap_fixed<8,4>, hidden values ap_ufixed<8,4,AP_RND_CONV,AP_SAT>
behind a ReLU, biases ap_fixed<8,4>, weights signed integers times a power of two, outputs the exact sums.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

QONNX = "qonnx.custom_op.general"
FRACTION_BITS = 4  # of inputs, hidden values and biases, which are 8 bits wide
EVENTS = 65_536

__all__ = ["NETS", "Net", "arrays", "float_model", "quantized_model", "write"]


@dataclass(frozen=True)
class Net:
    """Widths of the dense layers, bits of the weights, and the share of weights that are zero.

    `image`: channels, height and width of the input where convolutions come first; each of `convolutions` is 3 x 3 without
    padding: its output channels, and the max pooling behind it. Their flattened result has widths[0] values.
    """

    widths: tuple[int, ...]
    weight_bits: int
    zeros: float = 0.0
    seed: int = 1
    image: tuple[int, int, int] | None = None
    convolutions: tuple[tuple[int, int], ...] = ()

    @property
    def label(self) -> str:
        pruned = f", {self.zeros:.0%} zeros" if self.zeros else ""
        layers = [
            f"conv {n} (3 x 3)" + (f", pool {pool} x {pool}" if pool > 1 else "") for n, pool in self.convolutions
        ]
        image = f"{self.image[1]} x {self.image[2]} image, {', '.join(layers)}, flattened " if self.image else ""
        return f"{image}{'-'.join(map(str, self.widths))}, {self.weight_bits}-bit weights{pruned}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one event."""
        return self.image or (self.widths[0],)

    @property
    def kernels(self) -> list[tuple[int, ...]]:
        """Shape of each layer's weights: ``[out, in, 3, 3]`` of a convolution, ``[in, out]`` of a dense layer."""
        channels = [self.image[0] if self.image else 0, *(n for n, _ in self.convolutions)]
        convolutions = [(n, m, 3, 3) for m, n in itertools.pairwise(channels)]
        return [*convolutions, *zip(self.widths, self.widths[1:])]


NETS: dict[str, Net] = {
    "a": Net((16, 64, 32, 32, 5), 6),
    "b": Net((16, 64, 32, 32, 5), 6, zeros=0.7),
    "c": Net((14, 58, 3), 4),
    "d": Net((336, 32, 14), 8, image=(1, 21, 13), convolutions=((8, 2), (16, 1))),
    "e": Net((64, 256, 256, 128, 10), 6),
    "f": Net((16, 500, 500, 500, 500, 500, 5), 6),
}
"""By the letters of the published table."""


def arrays(net: Net) -> dict[str, NDArray[Any]]:
    """Integers of the network and its events: w0, b0, ... with ``weight = w * 2**-exps[k]``, and x of 8 signed bits."""
    rng = np.random.default_rng(net.seed)
    limit = 2 ** (net.weight_bits - 1) - 1
    found: dict[str, NDArray[Any]] = {}
    exps = []
    for k, shape in enumerate(net.kernels):
        w = np.clip(np.rint(rng.normal(0, limit / 2.5, shape)), -limit, limit)
        kept = rng.random(w.shape) >= net.zeros
        n_in, n_out = (shape[1] * 9, shape[0]) if len(shape) == 4 else shape
        found[f"w{k}"] = (w * kept).astype(np.int8)
        found[f"b{k}"] = rng.integers(-16, 17, n_out).astype(np.int8)
        # The power of two that keeps the spread of hidden values; the first layer widens it, so that some saturate.
        gain = limit / 2.5 * np.sqrt(n_in * (1 - net.zeros) * (0.5 if k else 1 / 16))
        exps.append(round(np.log2(gain)))
    found["exps"] = np.array(exps, np.int64)
    found["pools"] = np.array([n for _, n in net.convolutions], np.int64)
    found["x"] = np.clip(np.rint(rng.normal(0, 32, (EVENTS, *net.shape))), -128, 127).astype(np.int8)
    return found


def quantized_model(net: Net, data: dict[str, NDArray[Any]]) -> ModelProto:
    """The network in QONNX: every weight, bias and value behind a Quant node."""
    nodes, constants = [], []

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def quant(x: str, name: str, exp: int, bits: int, signed: int, narrow: int = 0) -> str:
        settings = [constant(f"{name}_{part}", v) for part, v in (("scale", 2.0**-exp), ("zero", 0), ("bits", bits))]
        nodes.append(
            helper.make_node(
                "Quant", [x, *settings], [name], name=name, domain=QONNX, signed=signed, narrow=narrow,
                rounding_mode="ROUND",
            )
        )  # fmt: skip
        return name

    value = quant("x", "x_q", FRACTION_BITS, 8, signed=1)
    last = len(net.kernels) - 1
    for k in range(last + 1):
        weights, bias = _floats(data, k)
        w = quant(constant(f"w{k}", weights), f"w{k}_q", int(data["exps"][k]), net.weight_bits, signed=1, narrow=1)
        b = quant(constant(f"b{k}", bias), f"b{k}_q", FRACTION_BITS, 8, signed=1)
        out = "y" if k == last else f"sum{k}"
        if k < len(net.convolutions):
            nodes.append(helper.make_node("Conv", [value, w, b], [out], name=out))
        else:
            nodes.append(helper.make_node("MatMul", [value, w], [f"dense{k}"], name=f"dense{k}"))
            nodes.append(helper.make_node("Add", [f"dense{k}", b], [out], name=out))
        if k < last:
            nodes.append(helper.make_node("Relu", [out], [f"relu{k}"], name=f"relu{k}"))
            value = quant(f"relu{k}", f"relu{k}_q", FRACTION_BITS, 8, signed=0)
            value = _pooled(net, nodes, k, value)
    return _model(net, nodes, constants)


def _pooled(net: Net, nodes: list[Any], k: int, value: str) -> str:
    """What follows the activation of layer k: pooling, and the flattening behind the last convolution."""
    if k < len(net.convolutions) and (pool := net.convolutions[k][1]) > 1:
        shape = [pool, pool]
        nodes.append(helper.make_node("MaxPool", [value], [f"pool{k}"], kernel_shape=shape, strides=shape))
        value = f"pool{k}"
    if k == len(net.convolutions) - 1:
        nodes.append(helper.make_node("Flatten", [value], ["flat"], axis=1))
        value = "flat"
    return value


def float_model(net: Net, data: dict[str, NDArray[Any]]) -> ModelProto:
    """The same layers in float32, without any quantizer."""
    nodes, constants = [], []
    value = "x"
    last = len(net.kernels) - 1
    for k in range(last + 1):
        for name, values in zip((f"w{k}", f"b{k}"), _floats(data, k)):
            constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        out = "y" if k == last else f"sum{k}"
        nodes.append(
            helper.make_node("Conv" if k < len(net.convolutions) else "Gemm", [value, f"w{k}", f"b{k}"], [out])
        )
        if k < last:
            value = f"relu{k}"
            nodes.append(helper.make_node("Relu", [out], [value]))
            value = _pooled(net, nodes, k, value)
    return _model(net, nodes, constants)


def _floats(data: dict[str, NDArray[Any]], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return data[f"w{k}"] * 2.0 ** -float(data["exps"][k]), data[f"b{k}"] * 2.0**-FRACTION_BITS


def _model(net: Net, nodes: list[Any], constants: list[Any]) -> ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("x", net.shape), ("y", net.widths[-1:]))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX, 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write(names: list[str], folder: Path) -> None:
    """The files of each network: NAME.onnx, NAME_float.onnx, NAME.npz (integers) and NAME_events.npz (real inputs)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        net, data = NETS[name], arrays(NETS[name])
        (folder / f"{name}.onnx").write_bytes(quantized_model(net, data).SerializeToString())
        (folder / f"{name}_float.onnx").write_bytes(float_model(net, data).SerializeToString())
        np.savez(folder / f"{name}.npz", **data)  # pyright: ignore[reportArgumentType]
        np.savez(folder / f"{name}_events.npz", x=(data["x"] * 2.0**-FRACTION_BITS).astype(np.float32))


def main(folder: Path, names: list[str]) -> None:
    """Write the networks, all of them without names, and print their labels as JSON."""
    unknown = [n for n in names if n not in NETS]
    if unknown:
        raise SystemExit(f"network '{unknown[0]}' is not known, there are {', '.join(NETS)}")
    chosen = names or list(NETS)
    write(chosen, folder)
    print(json.dumps({n: NETS[n].label for n in chosen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
