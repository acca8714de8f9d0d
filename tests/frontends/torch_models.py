"""Random torch modules over each layer's parameters, on grids where float64 is exact, and how a read model is compared."""

import numpy as np
import torch
from torch import nn

from hwcompile.frontends.lower import lower
from hwcompile.frontends.real import evaluate_real
from hwcompile.frontends.torch import read_torch
from hwcompile.frontends.torch_quantize import quantize_operator
from hwcompile.ir.evaluate import evaluate, from_real, to_real

EVENTS = 4


class Apply(nn.Module):
    """A function of modules and inputs as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


class Parallel(nn.Module):
    """Several modules of the same input, so that one export reads them all."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return tuple(m(*inputs) for m in self.parts)


class Rounded(nn.Module):
    """Inputs on a grid of 2**-`bits`, which lowering needs to know."""

    def __init__(self, module, bits=2, limit=64):
        super().__init__()
        self.module, self.bits, self.limit = module, bits, limit

    def forward(self, *inputs):
        return self.module(*(to_grid(x, self.bits, self.limit) if x.is_floating_point() else x for x in inputs))


def to_grid(x, bits, limit=64):
    numbers = (torch.tensor(v, dtype=x.dtype) for v in (2.0**-bits, 0.0, -limit, limit - 1))
    return quantize_operator()(x, *numbers, "RND_CONV")


def data(rng, *shape, bits=2, limit=4):
    """Multiples of 2**-bits."""
    return torch.from_numpy(rng.integers(-(limit << bits), limit << bits, (EVENTS, *shape)) * 2.0**-bits)


def on_grid(module, rng, bits=3, limit=1):
    """The module in float64 and eval mode, its parameters multiples of 2**-bits and its variances powers of 4."""
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.from_numpy(rng.integers(-(limit << bits), (limit << bits) + 1, tuple(p.shape)) * 2.0**-bits))
        for m in module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.eps = 0.0
                m.running_mean.copy_(torch.from_numpy(rng.integers(-8, 8, m.num_features) / 4.0))
                m.running_var.copy_(torch.from_numpy(4.0 ** rng.integers(-2, 3, m.num_features)))
    return module


def outputs(module, *inputs):
    """The module's own results as float64 arrays."""
    with torch.no_grad():
        found = module(*inputs)
    leaves = torch.utils._pytree.tree_leaves(found)
    return [y.double().numpy() for y in leaves if isinstance(y, torch.Tensor)]


def named(model, inputs):
    return {model.nodes[i].name: x.numpy() for i, x in zip(model.inputs, inputs, strict=True)}


def real_values(model, *inputs):
    values = evaluate_real(model, named(model, inputs))
    return [values[i] for _, i in model.outputs]


def exact_values(model, *inputs):
    """What the fixed-point graph computes, in real units."""
    graph, given = lower(model), named(model, inputs)
    raw = evaluate(graph, {n.name: from_real(n.op, given[n.name]) for n in (graph.nodes[i] for i in graph.inputs)})
    return [to_real(graph.nodes[o.node].type, o.real, raw[o.name]) for o in graph.outputs]


def assert_same(found, wanted, close=0.0):
    """Equal arrays; with `close`, relative to 1 + the value, for functions that two libraries round differently in float64."""
    assert len(found) == len(wanted)
    for k, (a, b) in enumerate(zip(found, wanted)):
        assert a.shape == b.shape, f"output {k}"
        if close:
            np.testing.assert_allclose(a, b, rtol=close, atol=close, err_msg=f"output {k}")
        else:
            np.testing.assert_array_equal(a, b, err_msg=f"output {k}")


def check_exact(module, *inputs):
    """A module whose float64 arithmetic is exact on these inputs: read and lowered it gives the same numbers."""
    module = Rounded(module)
    model = read_torch(module, inputs)
    assert_same(exact_values(model, *inputs), outputs(module, *inputs))
    return model


def check_real(module, *inputs, close=1e-9):
    """A module with functions: the read model in float64 against the module in float64."""
    model = read_torch(module, inputs)
    assert_same(real_values(model, *inputs), outputs(module, *inputs), close)
    return model


# ---- random layers ----------------------------------------------------------------------------------------------------


def _pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def _many(rng, rank, low, high):
    """One number, or one for each axis."""
    return int(rng.integers(low, high)) if rng.random() < 0.5 else tuple(rng.integers(low, high, rank).tolist())


def conv(rng, rank):
    kind, groups = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1], _pick(rng, 1, 1, 2, 4)
    padding = _pick(rng, "same", "valid", _many(rng, rank, 0, 3))
    stride = 1 if padding == "same" else _many(rng, rank, 1, 4)
    mode = _pick(rng, "zeros", "zeros", "reflect", "replicate", "circular") if rank < 3 else "zeros"
    outputs = groups * int(rng.integers(1, 4))
    settings = {
        "padding": padding,
        "dilation": _many(rng, rank, 1, 3),
        "groups": groups,
        "bias": bool(rng.random() < 0.7),
    }
    return kind(4, outputs, _many(rng, rank, 1, 4), stride=stride, padding_mode=mode, **settings)


def conv_transpose(rng, rank):
    kind, groups = (nn.ConvTranspose1d, nn.ConvTranspose2d)[rank - 1], _pick(rng, 1, 2)
    stride = int(rng.integers(1, 4))
    settings = {"output_padding": int(rng.integers(0, stride)), "groups": groups, "bias": bool(rng.random() < 0.7)}
    return kind(4, 2 * groups, _many(rng, rank, 2, 4), stride=stride, padding=int(rng.integers(0, 2)), **settings)


def max_pool(rng, rank):
    kernel = int(rng.integers(2, 4))
    settings = {
        "stride": int(rng.integers(1, 4)),
        "padding": int(rng.integers(0, kernel // 2 + 1)),
        "ceil_mode": bool(rng.random() < 0.5),
    }
    return (nn.MaxPool1d, nn.MaxPool2d)[rank - 1](kernel, dilation=_pick(rng, 1, 1, 2), **settings)


def average_pool(rng, rank):
    """Kernels of a power of two elements, so that the division is exact."""
    kernel = _pick(rng, 2, 4)
    settings = {"stride": int(rng.integers(1, 4)), "padding": int(rng.integers(0, kernel // 2 + 1))}
    return (nn.AvgPool1d, nn.AvgPool2d)[rank - 1](kernel, **settings)


def linear(rng):
    return nn.Linear(8, int(rng.integers(1, 9)), bias=bool(rng.random() < 0.7))


def piecewise(rng):
    quarter = float(rng.integers(1, 8)) / 4
    return _pick(
        rng,
        nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-quarter, 2 * quarter), nn.LeakyReLU(0.25), nn.PReLU(_pick(rng, 1, 4)),
        nn.Threshold(quarter, -0.5), nn.Hardshrink(quarter), nn.Softshrink(quarter), nn.Identity(), nn.Dropout(),
        Apply(lambda x: x.abs() - x.sign()), Apply(lambda x: torch.clamp(x, -quarter, None)), nn.Dropout1d(),
    )  # fmt: skip


SEQUENCES = {
    "Conv1d": lambda rng: conv(rng, 1),
    "ConvTranspose1d": lambda rng: conv_transpose(rng, 1),
    "MaxPool1d": lambda rng: max_pool(rng, 1),
    "AvgPool1d": lambda rng: average_pool(rng, 1),
    "Linear": linear,
    "piecewise": piecewise,
    "BatchNorm1d": lambda rng: nn.BatchNorm1d(4),
    "AdaptiveMaxPool1d": lambda rng: nn.AdaptiveMaxPool1d(_pick(rng, 1, 2, 4, 8)),
    "AdaptiveAvgPool1d": lambda rng: nn.AdaptiveAvgPool1d(_pick(rng, 1, 2, 4, 8)),
}
"""Random layers on data ``[events, 4, 8]``."""

IMAGES = {
    "Conv2d": lambda rng: conv(rng, 2),
    "ConvTranspose2d": lambda rng: conv_transpose(rng, 2),
    "MaxPool2d": lambda rng: max_pool(rng, 2),
    "AvgPool2d": lambda rng: average_pool(rng, 2),
    "BatchNorm2d": lambda rng: nn.BatchNorm2d(4),
    "AdaptiveMaxPool2d": lambda rng: nn.AdaptiveMaxPool2d((_pick(rng, 1, 2), _pick(rng, 1, 2, 4))),
    "Upsample": lambda rng: nn.Upsample(scale_factor=int(rng.integers(1, 4))),
    "PixelShuffle": lambda rng: _pick(rng, nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)),
    "padding": lambda rng: _pick(rng, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)(
        tuple(rng.integers(0, 4, 4).tolist())
    ),
    "Flatten": lambda rng: nn.Flatten(int(rng.integers(1, 4))),
}
"""Random layers on data ``[events, 4, 6, 8]``."""
