"""What trains is what is compiled: the outputs of quantized modules equal the compiled engine's, integer for integer."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from optimize_modules import NETWORKS, OVERFLOWS, ROUNDINGS, network, random_spec
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.ir.rounding import Overflow, Rounding, overflowed, round_fraction
from hwcompile.optimize.composites import in_parts


def compiled(module, x):
    design = hc.compile(module, example_inputs=x, backends=("cpu",))
    found = design.predict(x.numpy())
    return found if isinstance(found, np.ndarray) else next(iter(found.values()))


def outputs(module, x):
    with torch.no_grad():
        return module(x).numpy()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_engine_computes_what_the_module_does(name, seed):
    module, x = network(name, seed)
    quantized = opt.quantize(module, random_spec(100 * seed + len(name)), x)
    assert np.array_equal(compiled(quantized, x), outputs(quantized.eval(), x))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3, 40))
def test_the_engine_computes_what_the_module_does_at_length(name, seed):
    test_the_engine_computes_what_the_module_does(name, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_training_forward_is_the_engine_after_training(name):
    module, x = network(name, 7)
    torch.manual_seed(0)
    quantized = opt.quantize(module, opt.Spec(), x).train()
    optimizer = torch.optim.Adam(quantized.parameters(), lr=0.02)
    for _ in range(5):
        loss = quantized(x).square().mean() + 1e-4 * sum(
            q.fraction.square().sum() for _, q in opt.quantizers(quantized)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    opt.calibrate(quantized, x)
    training = outputs(quantized.train(), x)
    assert np.array_equal(training, outputs(quantized.eval(), x))
    assert np.array_equal(training, compiled(quantized, x))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_every_mode_is_that_of_ap_fixed(rounding, overflow):
    quantizer = opt.ActivationQuantizer(opt.fixed(4, rounding=rounding, overflow=overflow))
    quantizer.calibrate(torch.tensor([[-2.0], [1.9]]))  # steps of 1/4, from -2 to 1.75
    x = np.arange(-64, 64) / 16
    found = outputs(quantizer.eval(), torch.tensor(x[:, None], dtype=torch.float32))[:, 0]
    for v, q in zip(x, found, strict=True):
        n = round_fraction(Fraction(float(v)) * 4, Rounding(rounding))
        assert q * 4 == int(overflowed(np.array(n), -8, 7, Overflow(overflow)))


def test_gradients_of_widths_and_ranges():
    x = torch.tensor([[0.3], [0.8], [5.0], [6.0], [-7.0]])
    clipped = opt.ActivationQuantizer(opt.learned(4, per="tensor", range="learned"))
    clipped.calibrate(torch.tensor([[-1.0], [1.0]]))
    with torch.no_grad():
        clipped.integer.fill_(0)
        clipped.fraction.fill_(2)
    x.requires_grad_()
    clipped(x).sum().backward()
    ln2 = float(np.log(2))
    assert x.grad.flatten().tolist() == [1, 1, 0, 0, 0]
    assert float(clipped.fraction.grad) == pytest.approx(ln2 * (0.05 + 0.05), rel=1e-5)
    assert float(clipped.integer.grad) == pytest.approx(ln2 * (1 + 1 - 1))
    weight = nn.Parameter(torch.tensor([[0.3, -0.6]]))
    free = opt.WeightQuantizer(opt.learned(3), weight)
    with torch.no_grad():
        free.fraction.copy_(torch.tensor([[1.0, 0.0]]))
    (free(weight) * torch.tensor([[2.0, 1.0]])).sum().backward()
    assert weight.grad.tolist() == [[2, 1]]
    assert free.fraction.grad.flatten().tolist() == pytest.approx([ln2 * 2 * (0.3 - 0.5), ln2 * (-0.6 + 1)])


def test_a_width_of_no_bits_prunes():
    module, x = network("dense", 0)
    quantized = opt.quantize(module, opt.Spec(), x)
    with torch.no_grad():
        quantized[0].weight_quantizer.fraction[3] = -20
        quantized[2].input_quantizer.fraction[5] = -20
    assert not quantized[0].used_weight()[3].any()
    quantized.eval()
    assert np.array_equal(compiled(quantized, x), outputs(quantized, x))


def test_layers_take_formats_of_their_own():
    module, x = network("dense", 0)
    spec = opt.Spec(layers={"2": opt.Spec.uniform(3, 5)})
    quantized = opt.quantize(module, spec, x)
    assert quantized[2].weight_quantizer.format == opt.fixed(3)
    assert quantized[0].weight_quantizer.format.trained
    assert len(np.unique(outputs(quantized[2].weight_quantizer, module[2].weight))) <= 8


def test_the_module_given_stays_as_it_was_and_the_copy_copies():
    module, x = network("residual", 0)
    before = outputs(module, x)
    quantized = opt.quantize(module, opt.Spec(), x)
    assert np.array_equal(outputs(module, x), before)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert np.array_equal(outputs(other.eval(), x), outputs(quantized.eval(), x))
    assert np.abs(outputs(quantized, x) - before).max() < 0.2


def test_norms_behind_rows_of_a_matrix_count_rows():
    torch.manual_seed(0)
    x = torch.randn(64, 4, 3)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    module(3 * x + 1)
    found = opt.quantize(module.eval(), opt.Spec.uniform(16, 16), x)
    assert np.abs(outputs(found.eval(), x) - outputs(module, x)).max() < 0.01


def test_a_function_in_two_places_and_a_layer_used_twice():
    torch.manual_seed(0)
    act, layer, x = nn.Tanh(), nn.Linear(6, 6), torch.randn(100, 6)
    module = nn.Sequential(layer, act, layer, act, nn.Linear(6, 2))
    quantized = opt.quantize(module, opt.Spec.uniform(6, 7), x).eval()
    assert [type(m).__name__ for m in quantized].count("QuantizedFunction") == 2
    assert np.array_equal(compiled(quantized, x), outputs(quantized, x))
    assert quantized[0].calls == 2


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.RNN(3, 4, nonlinearity="relu"), (5, 3)),
        (nn.GRU(3, 4, 2, bidirectional=True, batch_first=True), (5, 3)),
        (nn.LSTM(3, 4, 2, bias=False, bidirectional=True), (5, 3)),
        (nn.LayerNorm(6), (6,)),
        (nn.LayerNorm(6, elementwise_affine=False), (4, 6)),
    ],
)
def test_layers_in_parts_compute_what_torchs_own_do(layer, shape):
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = layer(x), in_parts(copy.deepcopy(layer).eval())(x)
    for a, b in zip(_flat(expected), _flat(found), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def _flat(value):
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in _flat(v)]


def test_attention_in_parts_computes_what_torchs_own_does():
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(7, 5, 8)
    parts = in_parts(copy.deepcopy(layer))
    with torch.no_grad():
        assert torch.allclose(layer(x, x, x, need_weights=False)[0], parts(x, x, x, need_weights=False)[0], atol=1e-5)
        with pytest.raises(hc.CompileError, match="attn_mask cannot be quantized in training"):
            parts(x, x, x, attn_mask=torch.zeros(5, 5))


@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 3), "padding": (1, 2)}, {"dilation": 2, "padding": 3, "bias": False}]
)
def test_the_gradient_of_an_image_of_one_channel_is_torchs(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 4, 3, **options)
    x, own = (torch.randn(5, 1, 9, 13, requires_grad=True) for _ in range(2))
    own.data.copy_(x.data)
    prepared = copy.deepcopy(layer)
    opt.prepare(prepared)
    for module, given in ((layer, x), (prepared, own)):
        module(given).square().sum().backward()
    assert torch.allclose(x.grad, own.grad, atol=1e-4)
    assert torch.allclose(layer.weight.grad, prepared.weight.grad, atol=1e-3)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x) * 0.1) - 0.7)


def test_factors_that_float32_does_not_hold_are_what_is_compiled():
    torch.manual_seed(0)
    x = torch.randn(800, 6)
    quantized = opt.quantize(Scaled(), opt.Spec.uniform(6, 7), x).eval()
    assert np.array_equal(compiled(quantized, x), outputs(quantized, x))


def test_dropout_in_the_code_still_drops_behind_a_norm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(6, 64), nn.BatchNorm1d(64)

        def forward(self, x):
            return nn.functional.dropout(self.norm(self.layer(x)), 0.5, self.training)

    x = torch.randn(100, 6)
    quantized = opt.quantize(Net(), opt.Spec.uniform(6), x)
    assert 0.4 < float((quantized.train()(x) == 0).float().mean()) < 0.6
    assert float((quantized.eval()(x) == 0).float().mean()) < 0.2


class Twisted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight)


class Mixing(nn.Module):
    """Mixes with a parameter of its own, which is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = nn.Linear(6, 4), nn.Parameter(torch.ones(4, 3)), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) @ self.mix)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        return torch.tanh(self.layer(x)) if float(x.sum()) > 0 else self.layer(x)


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (
            nn.Sequential(nn.Linear(6, 4), nn.GroupNorm(2, 4)),
            {},
            "a GroupNorm cannot be quantized in training; use dense",
        ),
        (
            nn.LSTM(6, 4, proj_size=2),
            {"data": torch.zeros(4, 3, 6)},
            "LSTM: an LSTM with projections cannot be quantized",
        ),
        (
            nn.TransformerEncoderLayer(6, 2, batch_first=True),
            {"data": torch.zeros(4, 3, 6)},
            "write the block with MultiheadAttention",
        ),
        (nn.ReLU(), {}, "has no layer with weights"),
        (Twisted(), {}, "layer: is not called as a layer when the module runs"),
        (Mixing(), {}, "parameter mix: is used by the module's own code.*make it a layer, such as nn.Linear"),
        ("model.keras", {}, "quantize: takes a torch module, not str"),
        (Branching(), {}, "needs a forward that torch.fx can trace"),
        (nn.Linear(6, 2), {"spec": opt.Spec(layers={"fc": opt.Spec()})}, "no layer with quantizers is called 'fc'"),
        (
            nn.Sequential(nn.Linear(6, 2), nn.ReLU()),
            {"spec": opt.Spec(layers={"1": opt.Spec()})},
            "no layer with quantizers",
        ),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)), {}, "whose weight may not be what it computes with"),
        (nn.Sequential(nn.Linear(6, 2), nn.Softmax()), {}, "softmax must say its axis"),
        (nn.Linear(6, 2), {"data": None}, "a batch of inputs is needed"),
        (nn.Linear(6, 2), {"data": torch.full((4, 6), torch.nan)}, "not finite"),
        (nn.Linear(6, 2), {"data": torch.zeros(6)}, r"must be \[events, ...\]"),
        (nn.Linear(6, 2), {"data": torch.zeros(4, 5)}, "does not take this data"),
    ],
)
def test_refusals(module, options, says):
    with pytest.raises(hc.CompileError, match=says):
        opt.quantize(module, **{"data": torch.ones(4, 6), **options})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: opt.fixed(0), "bits must be a whole number from 1 to 24, not 0"),
        (lambda: opt.learned(30), "from 1 to 24, not 30"),
        (lambda: opt.learned(per="row"), "per must be one of tensor, channel, element, not 'row'"),
        (lambda: opt.fixed(4, rounding="NEAREST"), "rounding must be one of TRN,"),
        (lambda: opt.learned(overflow="SAT"), "a tracked range clips nothing"),
        (lambda: opt.ActivationQuantizer(opt.learned()), "needs the shape of an event"),
        (lambda: opt.WeightQuantizer(opt.fixed(4, per="element"), torch.ones(2, 2)), "per tensor or channel"),
    ],
)
def test_formats_are_checked(make, says):
    with pytest.raises(hc.CompileError, match=says):
        make()


def test_a_quantizer_needs_calibration():
    quantizer = opt.ActivationQuantizer(opt.learned(per="tensor")).eval()
    with pytest.raises(hc.CompileError, match="has seen no data"):
        quantizer(torch.ones(2, 3))
