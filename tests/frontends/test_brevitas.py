"""Brevitas modules against their own results, and against their own QONNX and QDQ exports.

Modules run in float64, where a float scale is divided and multiplied exactly enough that no random value sits on a tie; results
are multiples of scales of at least 1e-4, so equality within 1e-9 is equality of integers.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_models as t
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn
    import brevitas.quant as bq
    from brevitas.export import export_onnx_qcdq, export_qonnx

import hwcompile as hc
from hwcompile.frontends.brevitas import BREVITAS_LAYERS
from hwcompile.frontends.lower import lower
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import Dense
from hwcompile.frontends.torch import read_torch
from hwcompile.ir.ops import Linear

pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = 1e-9

WEIGHTS = (
    bq.Int8WeightPerTensorFloat, bq.Int8WeightPerChannelFloat, bq.Int8WeightPerTensorFixedPoint,
    bq.ShiftedUint8WeightPerTensorFloat,
    bq.SignedBinaryWeightPerTensorConst, bq.SignedTernaryWeightPerTensorConst, bq.Int8WeightPerChannelFloatMSE,
    bq.Int8WeightNormL2PerChannelFixedPoint, bq.Int8WeightPerChannelFixedPointMSE, bq.ShiftedUint8WeightPerChannelFloat,
)  # fmt: skip
BITS = frozenset(k for k in WEIGHTS if "Binary" not in k.__name__ and "Ternary" not in k.__name__)
SIGNED = (
    bq.Int8ActPerTensorFloat,
    bq.Int8ActPerTensorFixedPoint,
    bq.ShiftedUint8ActPerTensorFloat,
    bq.Int8ActPerTensorFloatMinMaxInit,
)
UNSIGNED = (bq.Uint8ActPerTensorFloat, bq.Uint8ActPerTensorFixedPoint)
ROUNDING = ("round", "floor", "ceil", "round_to_zero")


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def weights(rng, bias=None):
    """Random quantizers of weights. A float bias keeps sums off the grid, where float noise would decide a rounding or a sign."""
    kind = pick(rng, *WEIGHTS)
    found = {"weight_quant": kind}
    if kind in BITS:
        found["weight_bit_width"] = int(rng.integers(2, 9))
    if "Shifted" not in kind.__name__ and kind in BITS:
        found["weight_narrow_range"] = bool(rng.random() < 0.5)
    return {**found, "bias": bool(rng.random() < 0.7) if bias is None else bias}


def activation(rng, kinds=SIGNED):
    kind = pick(rng, *kinds)
    limits = {"min_val": -3.0, "max_val": 3.0} if "MinMax" in kind.__name__ else {}
    return {
        "act_quant": kind,
        "bit_width": int(rng.integers(2, 9)),
        "float_to_int_impl_type": pick(rng, *ROUNDING),
        **limits,
    }


def hidden(rng):
    return pick(
        rng,
        lambda: qnn.QuantReLU(**activation(rng, UNSIGNED)),
        lambda: qnn.QuantIdentity(**activation(rng)),
        lambda: qnn.QuantHardTanh(min_val=-1.5, max_val=1.5, bit_width=int(rng.integers(2, 7))),
        lambda: qnn.QuantIdentity(act_quant=bq.SignedBinaryActPerTensorConst, scaling_init=0.3),
        lambda: qnn.QuantIdentity(act_quant=bq.SignedTernaryActPerTensorConst, scaling_init=0.3, threshold=0.5),
        lambda: qnn.QuantTanh(bit_width=int(rng.integers(2, 7))),
        lambda: qnn.QuantSigmoid(bit_width=int(rng.integers(2, 7))),
    )()


def dense(rng):
    return nn.Sequential(
        qnn.QuantIdentity(**activation(rng)),
        qnn.QuantLinear(8, 6, **weights(rng, bias=True)),
        hidden(rng),
        qnn.QuantLinear(6, 3, **weights(rng)),
    )


def image(rng):
    groups = pick(rng, 1, 2)
    conv = qnn.QuantConv2d(
        4,
        4,
        int(rng.integers(1, 4)),
        stride=int(rng.integers(1, 3)),
        padding=int(rng.integers(0, 2)),
        groups=groups,
        **weights(rng, bias=True),
    )
    norm = nn.BatchNorm2d(4) if rng.random() < 0.3 else nn.Identity()
    return nn.Sequential(qnn.QuantIdentity(**activation(rng)), conv, norm, hidden(rng), nn.MaxPool2d(2))


def sequence(rng):
    up = qnn.QuantConvTranspose1d(4, 2, int(rng.integers(2, 4)), stride=int(rng.integers(1, 3)), **weights(rng))
    return nn.Sequential(
        qnn.QuantIdentity(**activation(rng)),
        qnn.QuantConv1d(4, 4, 3, padding=1, dilation=1, **weights(rng, bias=True)),
        hidden(rng),
        up,
    )


def trained(module, *shape, seed=0):
    """The module in float64 after two batches that set the statistics, in eval mode, and data."""
    torch.manual_seed(seed)
    module = module.double().train()
    rng = np.random.default_rng(seed)
    for _ in range(2):
        module(torch.from_numpy(rng.normal(size=(32, *shape))))
    return module.eval(), torch.from_numpy(rng.normal(size=(20, *shape)))


def values(module, *x):
    """The module's own outputs; of quantized tensors their values."""
    with torch.no_grad():
        found = module(*x)
    found = found if isinstance(found, tuple) and not hasattr(found, "scale") else (found,)
    return [getattr(y, "value", y).double().numpy() for y in found]


def check(module, *x):
    model = read_torch(module, x)
    t.assert_same(t.real_values(model, *x), values(module, *x), CLOSE)
    return model


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("network", [dense, image, sequence])
def test_random_networks(network, seed):
    shape = {dense: (8,), image: (4, 6, 8), sequence: (4, 9)}[network]
    module, x = trained(network(np.random.default_rng(seed)), *shape, seed=seed)
    check(module, x)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 120))
@pytest.mark.parametrize("network", [dense, image, sequence])
def test_more_random_networks(network, seed):
    test_random_networks(network, seed)


class Tagger(nn.Module):
    """Every value quantized: input, weights, biases by the scale of the sum, activations, outputs, and an addition."""

    def __init__(self, bias=bq.Int32Bias):
        super().__init__()
        self.inp = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        settings = {"weight_bit_width": 4, "bias_quant": bias, "return_quant_tensor": True}
        self.first = qnn.QuantLinear(8, 6, weight_quant=bq.Int8WeightPerChannelFloat, **settings)
        self.relu = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.second = qnn.QuantLinear(6, 6, **settings)
        self.out = qnn.QuantIdentity(bit_width=10, return_quant_tensor=True)

    def forward(self, x):
        y = self.relu(self.first(self.inp(x)))
        return self.out(self.second(y) + self.second(y))


@pytest.mark.parametrize("bias", [bq.Int8Bias, bq.Int16Bias, bq.Int32Bias, bq.Int8BiasPerTensorFloatInternalScaling])
def test_quantized_tensors_and_biases(bias):
    """Scales of sums reach the biases as Brevitas computes them, and the lowered graph has integer matrices."""
    module, x = trained(Tagger(bias), 8)
    model = check(module, x)
    assert all(n.op.ints is not None for n in model.nodes if isinstance(n.op, Dense))
    if bias is not bq.Int8BiasPerTensorFloatInternalScaling:
        graph = lower(model)
        assert sum(isinstance(n.op, Linear) for n in graph.nodes) == 3
        t.assert_same(t.exact_values(model, x), values(module, x), CLOSE)


class Averages(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.inp = qnn.QuantIdentity(bit_width=6, return_quant_tensor=True)
        self.conv = qnn.QuantConv2d(4, 3, 3, padding=1, bias=False, return_quant_tensor=True)
        self.relu = qnn.QuantReLU(bit_width=5, return_quant_tensor=True)
        self.pool, self.all = qnn.TruncAvgPool2d(2, **settings), qnn.TruncAdaptiveAvgPool2d(1, **settings)
        self.up = qnn.QuantUpsample(scale_factor=2)

    def forward(self, x):
        y = self.relu(self.conv(self.inp(x)))
        return self.pool(y), self.all(y), self.up(y)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bit_width": 5}, {"trunc_quant": bq.TruncTo8bit}, {"bit_width": 4, "float_to_int_impl_type": "floor"}],
)
def test_truncations(settings):
    module, x = trained(Averages(**settings), 4, 8, 8)
    check(module, x)


OTHERS = {
    "QuantEltwiseAdd": (lambda: t.Apply(lambda m, x: m(x, x * 2), qnn.QuantEltwiseAdd()), (4, 6)),
    "QuantMultiheadAttention": (
        lambda: t.Apply(lambda m, x: m(x, x, x)[0], qnn.QuantMultiheadAttention(8, 2, batch_first=True)),
        (5, 8),
    ),
    "separate projections": (
        lambda: t.Apply(
            lambda m, x: m(x, x, x)[0], qnn.QuantMultiheadAttention(8, 2, batch_first=True, packed_in_proj=False)
        ),
        (5, 8),
    ),
    "BatchNorm2dToQuantScaleBias": (lambda: qnn.BatchNorm2dToQuantScaleBias(4), (4, 5, 6)),
    "BatchNorm1dToQuantScaleBias": (lambda: qnn.BatchNorm1dToQuantScaleBias(4), (4, 5)),
    "QuantScaleBias": (lambda: qnn.QuantScaleBias(4, True, runtime_shape=(1, -1, 1)), (4, 5)),
    "QuantHardSwish": (lambda: qnn.QuantHardSwish(bit_width=5), (4, 5)),
    "QuantConvTranspose2d": (lambda: qnn.QuantConvTranspose2d(4, 6, 2, stride=2, weight_bit_width=5), (4, 5, 6)),
    "QuantUpsamplingNearest2d": (
        lambda: nn.Sequential(
            qnn.QuantIdentity(return_quant_tensor=True), qnn.QuantUpsamplingNearest2d(scale_factor=3)
        ),
        (4, 2, 3),
    ),
    "input and output quantizers": (
        lambda: qnn.QuantLinear(
            8,
            4,
            input_quant=bq.Int8ActPerTensorFloat,
            output_quant=bq.Int8ActPerTensorFloat,
            input_bit_width=5,
            output_bit_width=6,
        ),
        (8,),
    ),
    "quantizers switched off": (
        lambda: nn.Sequential(
            qnn.QuantLinear(8, 4, weight_quant=None), qnn.QuantReLU(act_quant=None), qnn.QuantTanh(act_quant=None)
        ),
        (8,),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers(name):
    make, shape = OTHERS[name]
    check(*trained(make(), *shape))


def test_embeddings():
    table = qnn.QuantEmbedding(10, 6, weight_bit_width=4).double().eval()
    index = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (20, 3)))
    check(table, index)


def test_layers_whose_own_forward_fails_in_this_brevitas():
    """QuantCat calls a method that Brevitas 0.13 no longer has, ScaleBias asks a tensor for its truth: by what they say they do."""
    torch.manual_seed(0)
    x = torch.randn(20, 4, 5, dtype=torch.float64)
    cat = qnn.QuantCat(input_bit_width=4, output_bit_width=5).double().eval()
    with torch.no_grad():
        parts = [cat.input_quant(v).value for v in (x, 2 * x)]
        wanted = cat.output_quant(torch.cat(parts, 1)).value.numpy()
    model = read_torch(t.Apply(lambda m, x: m([x, 2 * x], dim=1), cat), x)
    t.assert_same(t.real_values(model, x), [wanted], CLOSE)
    scale = qnn.ScaleBias(4, True, runtime_shape=(1, -1, 1)).double()
    with torch.no_grad():
        scale.weight.copy_(torch.tensor([0.5, 2, -1, 3]))
        scale.bias.copy_(torch.tensor([1.0, 0, -1, 2]))
    wanted = x * scale.weight.detach()[:, None] + scale.bias.detach()[:, None]
    t.assert_same(t.real_values(read_torch(scale, x), x), [wanted.numpy()], CLOSE)


class Own(qnn.QuantLinear):
    """A user's layer with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + 1


def test_subclasses_and_shared_layers():
    module, x = trained(t.Apply(lambda a, x: a(a(x).relu()), Own(8, 8, weight_bit_width=4)), 8)
    check(module, x)


def test_the_module_is_left_as_it_was():
    module, x = trained(Tagger(), 8)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    wanted = values(module, x)
    read_torch(module, x)
    t.assert_same(values(module, x), wanted)
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


# ---- against Brevitas' own exports ------------------------------------------------------------------------------------


def exportable(seed):
    """Quantizers that both formats know."""
    rng = np.random.default_rng(seed)
    bits = [int(b) for b in rng.integers(3, 9, 5)]
    kind = pick(rng, bq.Int8WeightPerTensorFloat, bq.Int8WeightPerChannelFloat, bq.Int8WeightPerTensorFixedPoint)
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=bits[0], return_quant_tensor=True),
        qnn.QuantConv1d(4, 5, 3, padding=1, weight_quant=kind, weight_bit_width=bits[1], bias=True),
        qnn.QuantReLU(bit_width=bits[2], return_quant_tensor=True),
        nn.Flatten(),
        qnn.QuantLinear(40, 3, weight_quant=kind, weight_bit_width=bits[3], bias=False),
        qnn.QuantIdentity(bit_width=bits[4]),
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("export", [export_qonnx, export_onnx_qcdq])
def test_equal_to_its_own_export(export, seed, tmp_path):
    """The fixed-point graphs of the module and of its file give the same numbers."""
    module, x = trained(exportable(seed), 4, 8, seed=seed)
    module, x = module.float(), x.float()
    path = tmp_path / "model.onnx"
    export(module, args=x[:1], export_path=str(path), dynamo=False)
    file, live = read_onnx(path), read_torch(module, x)
    t.assert_same(t.exact_values(live, x), t.exact_values(file, x))


# ---- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "QuantLSTM": (
        lambda: t.Apply(lambda m, x: m(x)[0], qnn.QuantLSTM(4, 3, batch_first=True)), (5, 4),
        "parts.0 (QuantLSTM): this layer of brevitas is not supported; known: QuantLinear, ",
    ),
    "QuantConv3d": (
        lambda: qnn.QuantConv3d(4, 2, 1), (4, 2, 2, 2),
        "QuantConv3d (QuantConv3d): this layer of brevitas is not supported",
    ),
    "minifloat": (
        lambda: nn.Sequential(qnn.QuantLinear(4, 2, weight_quant=bq.Fp8e4m3WeightPerTensorFloat)), (4,),
        "0 (QuantLinear) weight_quant: the quantizer WeightFloatQuantProxyFromInjector is not supported: it "
        "is no integer type; use a",
    ),
    "rounding": (
        lambda: nn.Sequential(qnn.QuantIdentity(float_to_int_impl_type="dpu")), (4,),
        "0 (QuantIdentity) act_quant: the rounding DPURoundSte is not supported; known: RoundSte, FloorSte, "
        "RoundToZeroSte, CeilSte",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, shape, sentence = REFUSED[name]
    with pytest.raises(hc.CompileError) as e:
        read_torch(make().eval(), torch.zeros(2, *shape))
    assert str(e.value).startswith(sentence)


def test_every_layer_is_tested():
    source = Path(__file__).read_text()
    assert [k for k in BREVITAS_LAYERS if f"qnn.{k}(" not in source] == []
