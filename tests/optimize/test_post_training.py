"""Post-training quantization: what it makes is exact, each step does what its paper says, and budgets are met."""

import numpy as np
import pytest
import torch
from optimize_modules import NETWORKS, network
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.cost import solved, total
from hwcompile.optimize.layers import Mask
from hwcompile.optimize.post_training import PostTraining

STEPS = 40


def quantized(module, x, seed=0, **options):
    with torch.no_grad():
        task = opt.Task(x, module(x), loss="mse")
    return opt.Pipeline([PostTraining(steps=STEPS, **options)]).run(module, task, seed).module


def error(module, exact, x):
    with torch.no_grad():
        return float((module(x) - exact(x)).square().mean())


def assert_exact(module, x):
    """The compiled integers are the module's numbers."""
    design = hc.compile(module, example_inputs=x, backends=())
    with torch.no_grad():
        assert np.array_equal(design.predict(x.numpy(), engine="reference"), module(x).numpy())


def lut(module):
    return sum(solved(layer) for _, layer in opt.layers(module))


QUICK = ("dense", "convolution")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_what_is_compiled_computes_what_the_module_does(name):
    module, x = network(name, len(name))
    bits, ranges = {"dense": (8, "minmax"), "convolution": (3, "percentile")}.get(name, (5, "mse"))
    assert_exact(quantized(module, x, bits=bits, activations=6, ranges=ranges), x)


def test_no_weight_needs_more_bits_than_asked_for():
    module, x = network("convolution", 1)
    for _, layer in opt.layers(quantized(module, x, bits=4)):
        n = layer.weight_quantizer.integers(layer.weight)
        assert n.min() >= -8
        assert n.max() <= 7
        assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)


def test_each_step_brings_the_outputs_nearer():
    module, x = network("dense", 0)
    plain = {"bits": 3, "activations": 8, "rounding": "nearest", "bias_correction": False}
    steps = ({}, {"bias_correction": True}, {"bias_correction": True, "rounding": "adaptive"})
    errors = [error(quantized(module, x, **{**plain, **more}), module, x) for more in steps]
    assert errors[0] > errors[1] > errors[2]


def test_clipping_weights_lowers_their_squared_error():
    module = nn.Sequential(nn.Linear(64, 4))
    with torch.no_grad():
        module[0].weight[:, 0] = 0.6  # far from the others, below 1/8
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(1))
    squares = []
    for ranges in ("minmax", "mse"):
        found = quantized(module, x, bits=3, ranges=ranges, rounding="nearest", bias_correction=False)
        squares.append(float((found[0].weight - module[0].weight).detach().square().sum()))
    assert squares[1] < squares[0]


def test_corrected_biases_leave_no_mean_shift():
    module, x = network("convolution", 2)
    shifts = []
    for correct in (False, True):
        found = quantized(module, x, bits=3, activations=8, rounding="nearest", bias_correction=correct)
        with torch.no_grad():
            shifts.append(float((found(x) - module(x))[: len(x) * 9 // 10].mean(0).abs().max()))
    assert shifts[1] < shifts[0] / 10


def test_adaptive_rounding_moves_weights_by_less_than_a_step():
    module, x = network("dense", 3)
    found = quantized(module, x, bits=3, ranges="minmax", bias_correction=False)
    nearest = quantized(module, x, bits=3, ranges="minmax", bias_correction=False, rounding="nearest")
    moved = 0
    for (_, a), (_, b), (_, layer) in zip(opt.layers(found), opt.layers(nearest), opt.prepare(module)):
        step = 2.0**-a.weight_quantizer.fraction
        assert bool(((a.weight - layer.weight).abs() <= step * 1.0001).all())
        moved += int((a.weight != b.weight).sum())
    assert moved > 0


@pytest.mark.parametrize("name", ["dense", pytest.param("convolution", marks=pytest.mark.slow)])
def test_a_budget_is_met_with_fewer_bits_where_they_matter_least(name):
    module, x = network(name, 4)
    options = {"bits": 5, "rounding": "adaptive"}
    full = quantized(module, x, **options)
    budget = lut(full) / 2
    found = quantized(module, x, budget=budget, **options)
    assert lut(found) <= budget
    assert_exact(found, x)
    bits = 5
    while lut(uniform := quantized(module, x, bits=bits)) > budget:
        bits -= 1
    assert error(found, module, x) < 1.5 * error(uniform, module, x)


def test_a_budget_takes_bits_from_products_and_tables_too():
    module, x = network("attention", 0)
    full, least = (quantized(module, x, bits=bits, rounding="nearest") for bits in (5, 4))
    of_layers_alone = lut(least) + total(full, lambda *_: 0.0)
    budget = (of_layers_alone + total(least)) / 2
    found = quantized(module, x, bits=5, lowest=4, rounding="nearest", budget=budget)
    assert total(found) <= budget < of_layers_alone
    assert_exact(found, x)


def test_a_budget_out_of_reach_names_the_smallest_that_is_not():
    module, x = network("dense", 5)
    with pytest.raises(
        hc.CompileError, match=r"the budget of 10 LUT is not reached: \d+ is the smallest that was; raise"
    ) as e:
        quantized(module, x, bits=4, lowest=3, budget=10)
    least = float(str(e.value).split("reached: ")[1].split()[0])
    assert least > 10
    assert lut(quantized(module, x, bits=4, lowest=3, budget=least + 1)) <= least + 1


def test_masks_stay_and_layers_without_bias_get_one():
    module = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    opt.prepare(module)
    module[0].mask = Mask(torch.eye(8, 6))
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    found = quantized(module, x, bits=3)
    assert torch.equal(found[0].used_weight() != 0, torch.eye(8, 6) != 0)
    assert found[0].bias is not None
    assert found[0].bias.shape == (8,)
    kept = quantized(module, x, bits=3, bias_correction=False)
    assert kept[0].bias is None


def test_training_goes_on_from_there():
    module, x = network("dense", 6)
    with torch.no_grad():
        task = opt.Task(x, module(x), loss="mse")
    passes = [PostTraining(3, rounding="nearest"), opt.Train(30, batch=64, lr=3e-4, engine="torch")]
    result = opt.Pipeline(passes).run(module, task)
    before, after = (r.measures["score"] for r in result.records)
    assert after > before


def test_the_same_seed_gives_the_same_network():
    module, x = network("dense", 7)
    a, b = (quantized(module, x, seed=3, bits=4) for _ in range(2))
    assert all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"ranges": "max"}, "ranges must be one of minmax, percentile, mse, not 'max'"),
        ({"rounding": "up"}, "rounding must be one of nearest, adaptive, not 'up'"),
        ({"percentile": 0}, "percentile must be above 0 and at most 100, not 0"),
        ({"lowest": 9}, "lowest must be from 2 to the 8 bits to start from, not 9"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"budget": -1.0}, "budget must be positive, not -1.0"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(hc.CompileError) as e:
        PostTraining(**options)
    assert sentence in str(e.value)


def test_a_quantized_network_is_refused():
    module, x = network("dense", 8)
    with pytest.raises(hc.CompileError, match="PostTraining: the network is quantized already; use it on a float"):
        quantized(opt.quantize(module, opt.Spec.uniform(6), x), x)
