"""PQuantML's torch models against their own results, in float64, where their quantizers are exact."""

import os
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch_models as t
from torch import nn

with warnings.catch_warnings(), mock.patch.dict(os.environ, KERAS_BACKEND="torch"):
    warnings.simplefilter("ignore")
    import pquant
    from pquant import layers as pq
    from pquant.activations import PQActivation, PQSoftmax

import hwcompile as hc
from hwcompile.frontends.pquant import PQUANT_LAYERS
from hwcompile.frontends.torch import read_torch

pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = {
    "saturating": {},
    "wrapping": {"overflow_mode_data": "WRAP", "round_mode": "TRN"},
    "symmetric": {"overflow_mode_data": "SAT_SYM", "overflow_mode_parameters": "SAT_SYM", "round_mode": "RND_CONV"},
    "per weight": {"use_high_granularity_quantization": True, "granularity": "per_weight"},
    "per weight, wrapping": {
        "use_high_granularity_quantization": True,
        "granularity": "per_weight",
        "overflow_mode_data": "WRAP",
        "overflow_mode_parameters": "WRAP",
        "round_mode": "RND_ZERO",
    },
    "per channel": {"granularity": "per_channel", "round_mode": "RND_INF"},
    "towards zero": {"round_mode": "TRN_ZERO", "overflow_mode_data": "SAT_SYM"},
    "not quantized": {"enable_quantization": False},
}


def settings(name, **more):
    config = pquant.pdp_config()
    q = config.quantization_parameters
    q.default_data_keep_negatives, q.default_data_integer_bits, q.default_data_fractional_bits = 1.0, 1.0, 3.0
    for key, value in {**SETTINGS[name], **more}.items():
        setattr(q, key, value)
    return config


MODELS = {
    "dense": lambda c: (
        nn.Sequential(
            pq.PQDense(c, 8, 6),
            PQActivation(c, "relu", quantize_output=True),
            pq.PQDense(c, 6, 3, quantize_output=True),
        ),
        (8,),
    ),
    "images": lambda c: (
        nn.Sequential(
            pq.PQConv2d(c, 4, 3, 3, padding=1),
            pq.PQBatchNorm2d(c, 3),
            PQActivation(c, "relu"),
            pq.PQAvgPool2d(c, 2, quantize_output=True),
        ),
        (4, 6, 8),
    ),
    "sequences": lambda c: (
        nn.Sequential(pq.PQConv1d(c, 4, 3, 3, stride=2), pq.PQBatchNorm1d(c, 3), pq.PQAvgPool1d(c, 2)),
        (4, 9),
    ),
    "softmax": lambda c: (nn.Sequential(pq.PQDense(c, 8, 5), PQSoftmax(c, quantize_output=True)), (8,)),
    "norm": lambda c: (pq.PQLayerNorm(c, 8), (4, 8)),
    "attention": lambda c: (
        t.Apply(lambda m, x: m(x, x, x)[0], pq.PQMultiheadAttention(c, 8, 2, batch_first=True)),
        (4, 8),
    ),
}


def trained(module, shape, seed=0, bits=None):
    """The module in float64, built by one training batch, in eval mode; with `bits`, its quantizers have random ones."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    module = module.double().train()
    module(torch.from_numpy(rng.normal(size=(16, *shape))))
    module = module.double().eval()
    if bits is not None:
        for m in module.modules():
            inner = getattr(m, "quantizer", None)
            if hasattr(inner, "_f"):
                inner._f.data = torch.from_numpy(np.asarray(rng.integers(*bits, tuple(inner._f.shape)) * 1.0))
    return module, torch.from_numpy(rng.normal(size=(30, *shape)) * 2)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_all_settings(kind, name):
    module, x = trained(*MODELS[kind](settings(name)))
    t.check_real(module, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["sequences", "softmax", "norm", "attention"])
def test_all_settings_of_more_models(kind, name):
    test_all_settings(kind, name)


@pytest.mark.parametrize("name", ["saturating", "per weight, wrapping"])
@pytest.mark.parametrize("kind", ["sequences", "softmax", "norm", "attention"])
def test_models(kind, name):
    module, x = trained(*MODELS[kind](settings(name)))
    t.check_real(module, x)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["dense", "images", "sequences"])
def test_a_precision_for_each_element(kind, seed):
    """Random fractional bits, among them none at all (the element is zero)."""
    name = "per weight" if seed % 2 else "per weight, wrapping"
    module, x = trained(*MODELS[kind](settings(name)), seed=seed, bits=(-2, 6))
    t.check_real(module, x)


@pytest.mark.parametrize("activation", ["relu", "tanh", "hard_tanh", "leaky_relu", "gelu"])
def test_activations(activation):
    config = settings("saturating", use_relu_multiplier=True)
    module, x = trained(PQActivation(config, activation, quantize_output=True), (8,))
    t.check_real(module, x)


def pruned(finished):
    """A pruned dense model, its compression applied for good or not."""
    config = settings("saturating")
    module, x = trained(*MODELS["dense"](config))
    for m in module.modules():
        if isinstance(m, pq.PQDense):
            m.pruning_layer.mask = (torch.rand(m._weight.shape) < 0.5).double()
    return (pquant.apply_final_compression(module) if finished else module), x


@pytest.mark.parametrize("finished", [False, True])
def test_pruned_and_lowered_exactly(finished):
    """Masked weights; the fixed-point graph gives the model's own numbers."""
    module, x = pruned(finished)
    model = t.check_real(module, x)
    weights = [n.op.weights for n in model.nodes if hasattr(n.op, "weights")]
    assert all(np.mean(w == 0) > 0.2 for w in weights)
    t.assert_same(t.exact_values(model, x), t.outputs(module, x))


def test_the_module_is_left_as_it_was():
    module, x = pruned(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    read_torch(module, x)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_refused():
    module, x = trained(*MODELS["dense"](settings("saturating")))
    module[0].input_quantizer.overflow = "WRAP_SM"
    with pytest.raises(hc.CompileError) as e:
        read_torch(module, x)
    assert (
        str(e.value)
        == "0.input_quantizer (Quantizer): overflow must be SAT, SAT_SYM or WRAP, not WRAP_SM; retrain with one of them"
    )


def test_every_layer_is_tested():
    source = Path(__file__).read_text()
    assert [k for k in PQUANT_LAYERS if f"{k}(c" not in source] == []
