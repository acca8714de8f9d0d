"""The cost of a network in training: effective bit operations by hand, the solver's cost, and prices that follow it."""

import numpy as np
import pytest
import torch
from optimize_modules import network
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize import composites, cost
from hwcompile.optimize.composites import Multiplies, Product
from hwcompile.optimize.functions import QuantizedFunction, functions
from hwcompile.optimize.quantizers import ActivationQuantizer


def quantized(name="dense", seed=0, bits=5):
    module, x = network(name, seed)
    return opt.quantize(module, opt.Spec(*(opt.learned(bits) for _ in range(3))), x), x


def test_ebops_of_a_layer_by_hand():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.75, 0.0], [-1.5, 0.5]]))
    q = opt.quantize(layer, opt.Spec(opt.learned(3), opt.learned(3), opt.fixed(4)), torch.tensor([[1.0, -1.0]]))
    with torch.no_grad():
        q.weight_quantizer.fraction.fill_(2)
    # 0.75 = 3/4, 1.5 = 6/4 and 0.5 = 2/4 have 2, 3 and 2 bits; inputs have 4
    assert cost.ebops(q) == 4 * (2 + 3 + 2)
    total = cost.resource(q, cost.prices(q, "ebops"))
    total.backward()
    assert q.weight_quantizer.fraction.grad.tolist() == [[4, 0], [4, 4]]


def test_a_first_bit_has_a_price_and_lost_weights_have_none():
    q, _ = quantized()
    price = cost.Price(first=2, bit=1, extra=3, input=0.5)
    layer = q[0]
    with torch.no_grad():
        b, c = cost.widths(layer)
        expected = ((2 * (b > 0) + b) * (c + 3 * (c > 0))).sum() + 0.5 * c.sum()
        assert float(cost.layer_cost(layer, price)) == pytest.approx(float(expected))
        layer.weight_quantizer.fraction.fill_(-20)
    assert float(cost.layer_cost(layer, price).detach()) == pytest.approx(0.5 * float(c.sum()))


@pytest.mark.parametrize("name", ["dense", "convolution", "sequence"])
def test_matrices_are_the_layers(name):
    """The matrices that are solved compute what the layers do, tap by tap, in the integers of their inputs."""
    q, _x = quantized(name, 3)
    q.eval()
    for _, layer in opt.layers(q):
        found = cost.matrices(layer)
        w = layer.used_weight().detach().double().numpy()
        assert sum(int((m != 0).sum()) for m, *_ in found) <= int((w != 0).sum())
        if w.ndim == 2:
            (matrix, lo, hi, copies) = found[0]
            assert copies == 1
            fraction = layer.input_quantizer.fraction_bits().detach().double().numpy()
            n = np.random.default_rng(0).integers(lo, hi + 1, (50, len(lo)))
            real = (n * 2.0**-fraction) @ w.T
            whole = n @ matrix
            ratio = real[whole != 0] / whole[whole != 0]
            assert np.all(ratio == ratio[0])  # the same, but for one power of two
            assert np.log2(ratio[0]) % 1 == 0


def test_the_solver_is_asked_about_the_compiled_matrices():
    """Adder bits of the layers are those of the design, whose estimate adds rounding and activations."""
    q, x = quantized(bits=4)
    solved = sum(cost.solved(layer) for _, layer in opt.layers(q))
    design = hc.compile(q, example_inputs=x, backends=("rtl",))
    estimate = sum(layer.estimate.lut for layer in design.report.layers)
    assert solved <= estimate * 1.05
    assert estimate < 2 * solved


def test_prices_follow_the_solver():
    q, _ = quantized(bits=3)
    for kind in ("lut", "ebops"):
        by = cost.refit(q, cost.prices(q, kind))
        for name, layer in opt.layers(q):
            priced = cost.layer_cost(layer, by[name]) - by[name].input * layer.input_quantizer.widths().sum()
            assert priced.item() == pytest.approx(cost.solved(layer), rel=1e-4)


@pytest.mark.parametrize("name", ["attention", "transformer", "tables", "lstm", "gru"])
@pytest.mark.parametrize("bits", [4, 6])
def test_functions_of_data_are_counted_as_the_design_counts_them(name, bits):
    """Products of data and tables are most of these networks; rounding and activations come on top in the design."""
    if name == "tables":
        module, x = (
            nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(-1)),
            network("attention", 0)[1],
        )
    else:
        module, x = network(name, 0)
    q = opt.quantize(module, opt.Spec.uniform(bits), x)
    design = hc.compile(q, example_inputs=x, backends=("rtl",))
    estimate = sum(layer.estimate.lut for layer in design.report.layers)
    of_layers = sum(cost.solved(layer) for _, layer in opt.layers(q))
    assert of_layers < 0.75 * cost.total(q)
    assert 0.7 * estimate < cost.total(q) < 1.2 * estimate
    assert opt.measures(q, opt.Task(x, module(x).detach(), loss="mse"))["lut"] == cost.total(q)


def test_a_product_of_data_by_hand_and_its_gradient():
    """Widths multiplied; the gradient by one is the sum of the others'."""
    product = QuantizedFunction(Product(), [ActivationQuantizer(opt.learned(4), s) for s in ((2, 3), (3, 1))],
                                ActivationQuantizer(opt.fixed(8)), [(2, 3), (3, 1)])  # fmt: skip
    for q, bits in zip(product.inputs, ([[4, 5, 3], [1, 2, 7]], [[2], [3], [4]]), strict=True):
        q.calibrate(torch.ones(1, *q.fraction.shape))  # 1 needs one bit left of the point
        with torch.no_grad():
            q.fraction.copy_(torch.tensor(bits) - 1)
    assert product.cost(sums=0).item() == (4 * 2 + 5 * 3 + 3 * 4) + (1 * 2 + 2 * 3 + 7 * 4)
    assert product.cost(product=0).item() == 2 * (2 + 3 + 4) + (4 + 5 + 3) + (1 + 2 + 7)
    product.cost(sums=0).backward()
    assert product.inputs[0].fraction.grad.tolist() == [[2, 3, 4]] * 2
    assert product.inputs[1].fraction.grad.tolist() == [[5], [7], [10]]


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_products_in_a_layers_own_code_have_gradients(name):
    module, x = network(name, 0)
    q = opt.quantize(module, opt.Spec(), x)
    own = [m for _, m in functions(q) if isinstance(m, Multiplies)]
    assert len(own) == 1
    own[0].cost().backward()
    kept = own[0].spread if name == "transformer" else own[0].kept
    assert bool((kept.fraction.grad > 0).all())
    assert Multiplies.cost(own[0], product=2.0).item() == pytest.approx(2 * own[0].cost().item())
    assert composites.in_parts(nn.LSTM(2, 3)).steps[0].cost().item() == 0  # without widths


def test_unknown_costs_and_float_layers_are_refused():
    with pytest.raises(hc.CompileError, match="must be one of lut, ebops, not 'dsp'"):
        cost.prices(nn.Linear(2, 2), "dsp")
    module, _ = network("dense", 0)
    opt.prepare(module)
    with pytest.raises(hc.CompileError, match="has no widths, since it is not quantized"):
        cost.ebops(module)
