"""QONNX files of quantized modules: compiled, they are the modules, integer for integer."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper
from optimize_modules import NETWORKS, ROUNDINGS, network, random_spec
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.ir.rounding import Overflow, Rounding, overflowed, round_fraction
from hwcompile.optimize.layers import Mask
from hwcompile.optimize.qonnx import _of_data, to_qonnx

HALF = Fraction(1, 2)
QONNX_ROUNDING = {
    "ROUND": round,
    "FLOOR": lambda v: v.__floor__(),
    "DOWN": lambda v: v.__trunc__(),
    "HALF_UP": lambda v: (1 if v >= 0 else -1) * (abs(v) + HALF).__floor__(),
    "HALF_DOWN": lambda v: (1 if v >= 0 else -1) * (abs(v) - HALF).__ceil__(),
}
"""QONNX's rounding modes as its reference implementation defines them."""


def without_sat_zero(spec):
    """The formats with an overflow that QONNX has."""

    def changed(f):
        return replace(f, overflow="SAT") if f.overflow in ("SAT_ZERO", "WRAP") and f.range != "tracked" else f

    return opt.Spec(
        *(None if f is None else changed(f) for f in (spec.weights, spec.biases, spec.activations, spec.output))
    )


def compiled(model, x):
    return hc.compile(model, backends=("cpu",)).predict(x.numpy())


def outputs(module, x):
    with torch.no_grad():
        return module.eval()(x).numpy()


def attributes(node):
    return {a.name: a.s.decode() if a.type == 3 else a.i for a in node.attribute}


def constants(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def quants(model):
    return [n for n in model.graph.node if n.domain == "qonnx.custom_op.general"]


@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_a_file_compiles_to_the_module(name, tmp_path):
    module, x = network(name, 0)
    quantized = opt.quantize(module, opt.Spec(), x)
    model = to_qonnx(quantized, x, tmp_path / "model.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {n.op_type for n in quants(model)} == {"Quant"}
    assert np.array_equal(compiled(tmp_path / "model.onnx", x), outputs(quantized, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(6))
def test_every_network_and_format(name, seed):
    module, x = network(name, seed)
    spec = opt.Spec() if seed == 0 else without_sat_zero(random_spec(100 * seed + len(name)))
    quantized = opt.quantize(module, spec, x)
    model = to_qonnx(quantized, x)
    assert np.array_equal(compiled(model, x), outputs(quantized, x))
    if all(q.format.overflow != "WRAP" for _, q in opt.quantizers(quantized)):
        assert np.array_equal(compiled(model, 20 * x), outputs(quantized, 20 * x))  # most of it saturates


def test_what_is_pruned_and_what_has_no_bits():
    module, x = network("dense", 3)
    quantized = opt.quantize(module, opt.Spec(), x)
    with torch.no_grad():
        quantized[0].input_quantizer.fraction[2] = -20
        quantized[0].weight_quantizer.fraction[3] = -20
        quantized[2].mask = Mask((torch.rand(7, 10) > 0.5).float())
    opt.calibrate(quantized, x)
    assert np.array_equal(compiled(to_qonnx(quantized, x), x), outputs(quantized, x))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("low", "high"), [(-8, 7), (-7, 7), (0, 15), (-1, 0), (0, 1), (-3, 0), (-5, 9), (-2, 14), (0, 0)]
)
@pytest.mark.parametrize("overflow", ["SAT", "SAT_SYM"])
def test_every_range_and_rounding_as_qonnx_defines_it(rounding, low, high, overflow):
    quantizer = opt.ActivationQuantizer(opt.fixed(5, per="element", rounding=rounding, overflow=overflow), (2,))
    quantizer.reachable = lambda: (torch.tensor([low, 0.0]), torch.tensor([high, 1.0]))
    node = _of_data("q", quantizer)
    signed, narrow = node.attributes["signed"], node.attributes["narrow"]
    bits, zero = int(node.bits), int(node.zero)
    assert bits > signed
    bottom = -(2 ** (bits - 1)) + narrow if signed else 0
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    for quarter in range(-100, 101):
        v = Fraction(quarter, 4)
        n = QONNX_ROUNDING[node.attributes["rounding_mode"]](min(max(v + zero, bottom), top)) - zero
        n = n if node.low is None else max(n, int(node.low[0] / node.scale[0]))
        n = n if node.high is None else min(n, int(node.high[0] / node.scale[0]))
        exact = round_fraction(v, Rounding(rounding))
        assert n == int(overflowed(np.array(exact), low, high, Overflow(overflow))), (v, node.attributes)


def test_a_uniform_format_is_one_node_with_its_width():
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(50, 4)
    model = to_qonnx(opt.quantize(module, opt.Spec.uniform(6, 7, rounding="RND_CONV"), x), x)
    assert not [n for n in model.graph.node if n.op_type in ("Max", "Min")]
    held = constants(model)
    assert sorted(float(held[n.input[3]]) for n in quants(model)) == [6, 6, 7, 7, 14, 14]
    assert {attributes(n)["rounding_mode"] for n in quants(model)} == {"ROUND"}
    assert [t.data_type for t in model.graph.initializer] == [TensorProto.FLOAT] * len(model.graph.initializer)


def test_refusals(tmp_path):
    module, x = network("dense", 1)
    with pytest.raises(hc.CompileError, match="has no quantizers to write; quantize the module first"):
        to_qonnx(module, x)
    tracked = opt.quantize(module, opt.Spec(), x)
    with pytest.raises(hc.CompileError, match=r"0\.input_quantizer: wraps around on this data"):
        to_qonnx(tracked, 2 * x)
    dropping = opt.quantize(module, opt.Spec(activations=opt.fixed(6, overflow="SAT_ZERO")), x)
    with pytest.raises(hc.CompileError, match="overflow SAT_ZERO has no equivalent in QONNX"):
        to_qonnx(dropping, x)
    (tmp_path / "file").touch()
    with pytest.raises(hc.CompileError, match="cannot be written; free space, or give another place"):
        to_qonnx(opt.quantize(module, opt.Spec.uniform(4), x), x, tmp_path / "file" / "model.onnx")
