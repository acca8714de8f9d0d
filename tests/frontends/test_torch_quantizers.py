"""hwcompile's own torch operator, PyTorch's fake quantizers, and programs with quantize and dequantize pairs."""

import warnings

import numpy as np
import pytest
import torch
import torch_models as t
from torch import nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, default_per_channel_weight_fake_quant

import hwcompile as hc
from hwcompile.frontends.real import Dense, Quant
from hwcompile.frontends.torch import read_torch
from hwcompile.frontends.torch_quantize import quantize_operator
from hwcompile.ir.rounding import Overflow, Rounding, overflowed, round_fraction

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def numbers(*values):
    return [torch.tensor(float(v), dtype=torch.float64) for v in values]


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("rounding", Rounding)
def test_the_operator_is_the_languages_quantizer(rounding, overflow):
    """Against exact fractions, in torch and read back."""
    from fractions import Fraction

    x = torch.arange(-80, 80, dtype=torch.float64)[:, None] / 16
    net = t.Apply(lambda x: quantize_operator()(x, *numbers(0.5, 0, -4, 3), rounding.value, overflow.value))
    wanted = [
        float(overflowed(round_fraction(Fraction(v) / Fraction(1, 2), rounding), -4, 3, overflow)) / 2
        for v in x.reshape(-1).tolist()
    ]
    np.testing.assert_array_equal(t.outputs(net, x)[0].reshape(-1), wanted)
    model = read_torch(t.Rounded(net, bits=4, limit=128), x)
    np.testing.assert_array_equal(t.exact_values(model, x)[0].reshape(-1), wanted)


def test_zero_point_and_scales_per_channel():
    rng = np.random.default_rng(0)
    scale, zero = (
        torch.from_numpy(rng.uniform(0.1, 1, (1, 3, 1))),
        torch.from_numpy(rng.integers(-3, 4, (1, 3, 1)) * 1.0),
    )
    net = t.Apply(lambda x: quantize_operator()(x, scale, zero, *numbers(-8, 7), "RND_CONV"))
    x = torch.from_numpy(rng.normal(size=(50, 3, 4)) * 3)
    t.assert_same(t.real_values(read_torch(net, x), x), t.outputs(net, x))


def test_constants_keep_their_integers():
    rng = np.random.default_rng(0)
    layer = nn.Linear(5, 3, bias=False)
    scale = torch.tensor([[0.3], [0.1], [0.7]])
    limits = [torch.tensor(v) for v in (0.0, -4.0, 3.0)]
    net = t.Apply(lambda m, x: x @ quantize_operator()(m.weight, scale, *limits, "RND_CONV").T, layer)
    model = read_torch(net, torch.from_numpy(rng.normal(size=(2, 5)).astype(np.float32)))
    (dense,) = (n.op for n in model.nodes if isinstance(n.op, Dense))
    steps = torch.round(layer.weight.detach() / scale).clamp(-4, 3).numpy().T
    np.testing.assert_array_equal(dense.ints, steps)
    np.testing.assert_array_equal(dense.scale, scale.double().numpy().reshape(-1))


def test_the_gradient_is_straight_through():
    x = torch.tensor([-3.0, -0.6, 0.2, 0.9, 5.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    zero, lo, hi = (torch.tensor(v) for v in (0.0, -2.0, 1.0))
    quantize_operator()(x, scale, zero, lo, hi, "RND", "SAT").sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0, 0]
    learned = [-2, round(-1.2) + 1.2, 0 - 0.4, 1, 1]  # limits outside, rounding errors inside
    assert scale.grad.item() == pytest.approx(sum(learned))
    wrapped = torch.tensor([9.0], requires_grad=True)
    quantize_operator()(wrapped, scale.detach(), zero, lo, hi, "RND", "WRAP").sum().backward()
    assert wrapped.grad.tolist() == [1]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'ROUND' is not a valid Rounding"):
        quantize_operator()(torch.zeros(2), *[torch.ones(())] * 4, "ROUND")


# ---- PyTorch's own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_fake_quantize_functions(zero):
    """Scales of powers of two, so that PyTorch's x * (1 / scale) is exact."""
    x = torch.arange(-200, 200, dtype=torch.float32).reshape(-1, 8) / 8
    points = torch.tensor([zero, 0, 5, 9, 0, 0, 1, 2], dtype=torch.int32)
    scales = 2.0 ** torch.tensor([-1.0, 0, 1, -2, 0, 0, 1, 2])
    net = t.Apply(
        lambda x: (
            torch.fake_quantize_per_tensor_affine(x, 0.5, zero, 0, 15),
            torch.fake_quantize_per_channel_affine(x, scales, points, 1, 0, 15),
        )
    )
    t.assert_same(t.real_values(read_torch(net, x), x), t.outputs(net, x))


class Trained(nn.Module):
    """A layer with the fake quantizers of torch.ao."""

    def __init__(self):
        super().__init__()
        self.data = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        self.weight, self.layer = default_per_channel_weight_fake_quant(), nn.Linear(8, 4)

    def forward(self, x):
        return nn.functional.linear(self.data(x), self.weight(self.layer.weight))


def test_fake_quantizers_of_torch_ao():
    """Integers of weights and data; sums are float32 in PyTorch."""
    torch.manual_seed(0)
    x, net = torch.randn(200, 8), Trained()
    net(x)
    net.eval()
    model = read_torch(net, x)
    (dense,) = (n.op for n in model.nodes if isinstance(n.op, Dense))
    weight = net.weight(net.layer.weight).detach().double().numpy().T
    np.testing.assert_array_equal(dense.ints, np.round(weight / dense.scale))
    t.assert_same(t.exact_values(model, x), t.outputs(net, x), close=1e-6)


def exported_pairs():
    """A program as quantization in PyTorch 2 exports it: int8 weights, quantize and dequantize pairs around data."""
    import torch.ao.quantization.fx._decomposed

    ops = torch.ops.quantized_decomposed
    weights = torch.randint(-127, 128, (4, 8), dtype=torch.int8)
    scales, points = torch.rand(4) / 64 + 0.01, torch.zeros(4, dtype=torch.int64)

    class Converted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", weights)

        def forward(self, x):
            x = ops.quantize_per_tensor.default(x, 0.05, -3, -128, 127, torch.int8)
            x = ops.dequantize_per_tensor.default(x.view(-1, 8), 0.05, -3, -128, 127, torch.int8)
            w = ops.dequantize_per_channel.default(self.weight, scales, points, 0, -127, 127, torch.int8)
            y = torch.relu(nn.functional.linear(x, w))
            y = ops.quantize_per_tensor.default(y, 0.1, 0, 0, 255, torch.uint8)
            return ops.dequantize_per_tensor.default(y, 0.1, 0, 0, 255, torch.uint8)

    return Converted().eval(), weights


def test_pairs_of_quantize_and_dequantize():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, weights = exported_pairs()
    x = torch.randn(300, 2, 4)
    model = read_torch(net, x)
    (dense,) = (n.op for n in model.nodes if isinstance(n.op, Dense))
    np.testing.assert_array_equal(dense.ints, weights.numpy().T)
    assert sum(isinstance(n.op, Quant) for n in model.nodes) == 2
    found, wanted = t.exact_values(model, x)[0] / 0.1, t.outputs(net, x)[0] / 0.1
    np.testing.assert_array_equal(np.round(found), np.round(wanted))


def test_integers_that_no_dequantizer_follows_are_refused():
    import torch.ao.quantization.fx._decomposed

    ops = torch.ops.quantized_decomposed
    net = t.Apply(lambda x: ops.quantize_per_tensor.default(x, 0.05, -3, -128, 127, torch.int8))
    with pytest.raises(hc.CompileError, match="output output: is quantized integers; return it behind a dequantizer"):
        read_torch(net, torch.zeros(2, 3))
    with pytest.raises(hc.CompileError, match="would work on quantized integers; put a dequantizer before it"):
        read_torch(t.Apply(lambda x: net(x).float() + 1), torch.zeros(2, 3))
