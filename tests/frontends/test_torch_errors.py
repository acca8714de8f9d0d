"""What a torch module must not do: one sentence each, which says where and what to do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_models as t
from torch import nn

import hwcompile as hc
from hwcompile.frontends.calibrate import calibrate
from hwcompile.frontends.torch import ATEN, is_torch, read_torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

X = torch.linspace(-1, 1, 24).reshape(3, 8)
IMAGE = torch.linspace(-1, 1, 3 * 4 * 7 * 7).reshape(3, 4, 7, 7)


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        self.seen += 1
        return x + self.seen


SENTENCES = {
    "decision by value": (
        Decides(),
        X,
        "Decides: its forward decides in Python by values (if, loops or .item() on data), which hardware "
        "cannot; use torch.where, or "
        "make the value a constant",
    ),
    "state": (Counts(), X, "seen: changes from event to event; keep no state in forward"),
    "complex": (
        lambda x: torch.fft.fft(x).real,
        X,
        "_fft_r2c (aten._fft_r2c.default): this operator is not supported on data; docs/support.md",
    ),
    "unknown": (
        torch.special.i0,
        X,
        "i0 (aten.i0.default): this operator is not supported on data; docs/support.md lists",
    ),
    "half precision": (
        lambda x: x.half(),
        X,
        "to (aten.to.dtype): its result must be float32, float64, int64 or bool, not torch.float16; use float32",
    ),
    "wrapping integers": (
        lambda x: x + x,
        torch.ones(3, 4, dtype=torch.int8),
        "add (aten.add.Tensor): its result must be float32, float64, int64 or bool, not torch.int8; use int64, which does not wrap",
    ),
    "random": (
        lambda x: x + torch.rand(8),
        X,
        "rand (aten.rand.default): random numbers are not supported; make it a constant",
    ),
    "over events": (
        lambda x: x.sum(0),
        X,
        "sum_1 (aten.sum.dim_IntList): axis 0 is the batch axis, which must stay as it is",
    ),
    "over everything": (
        lambda x: x.sum(),
        X,
        "sum_1 (aten.sum.default): without dim it would reduce the batch axis; name the axes behind the first",
    ),
    "events exchanged": (
        lambda x: x.flip(0),
        X,
        "flip (aten.flip.default): would mix events or hide the batch axis; leave the first axis, the batch, as it is",
    ),
    "number of events": (
        lambda x: x / x.shape[0],
        X,
        "div (aten.div.Tensor): a number must not depend on the number of events; use a constant",
    ),
    "events counted": (
        lambda x: x + torch.arange(x.shape[0])[:, None],
        X,
        "arange (aten.arange.default): a constant must not depend on the number of events",
    ),
    "mask of data": (
        lambda x: x[x > 0],
        X,
        "index (aten.index.Tensor): data can only index the first axis of a constant table; use a constant index, or torch.where",
    ),
    "causal": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        X.reshape(3, 2, 4),
        "scaled_dot_product_attention (aten.scaled_dot_product_attention.default): causal masks and grouped "
        "queries are not supported; "
        "write out the attention",
    ),
    "infinite mask": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.tensor([[0.0, -torch.inf], [0, 0]])),
        X.reshape(3, 2, 4),
        "scaled_dot_product_attention (aten.scaled_dot_product_attention.default): masks must be finite numbers; drop the masked",
    ),
    "bilinear": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        IMAGE,
        "upsample_bilinear2d (aten.upsample_bilinear2d.vec): this operator is not supported on data; "
        "docs/support.md lists those that are",
    ),
    "uneven pooling": (
        lambda x: F.adaptive_avg_pool2d(x, 3),
        IMAGE,
        "adaptive_avg_pool2d (aten.adaptive_avg_pool2d.default): the sizes [7, 7] must be multiples of the "
        "output's [3, 3]; pool with a",
    ),
    "projections": (
        t.Apply(lambda m, x: m(x)[0], nn.LSTM(4, 3, batch_first=True, proj_size=2)),
        X.reshape(3, 2, 4),
        "parts.0 (aten.lstm.input): projections (proj_size) are not supported; use proj_size=0",
    ),
    "no statistics": (
        nn.BatchNorm1d(8, track_running_stats=False),
        X,
        "batch_norm (aten.batch_norm.default): must have fixed statistics; use track_running_stats=True and module.eval()",
    ),
    "constant output": (
        lambda x: (x + 1, torch.ones(3)),
        X,
        "output output_1: must depend on an input; return data only",
    ),
    "output turned": (
        lambda x: x.transpose(0, 1),
        X,
        "output output: must have the events along its first axis; transpose it",
    ),
    "no axes": (
        lambda x: x + 1,
        torch.tensor(1.0),
        "example_inputs: must have the events along their first axis, not no axes; give example inputs, such as "
        "hc.compile(module, example_inputs=x) with x of shape [events, ...]",
    ),
    "other arguments": (lambda a: a, {"z": X}, "example_inputs: must name forward's arguments: "),
    "complex input": (
        lambda x: x.abs(),
        X.to(torch.complex64),
        "input inputs_0: must be float32, float64, bool or integers, not torch.complex64",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name):
    module, inputs, sentence = SENTENCES[name]
    module = module if isinstance(module, nn.Module) else t.Apply(module)
    with pytest.raises(hc.CompileError) as e:
        read_torch(module, inputs)
    assert str(e.value)[: len(sentence)] == sentence
    assert "\n" not in str(e.value)


def test_a_module_that_does_not_run_on_its_examples():
    with pytest.raises(hc.CompileError) as e:
        read_torch(nn.Linear(5, 2), X)
    assert str(e.value).startswith("Linear: torch.export does not take it with these example inputs (")
    assert str(e.value).endswith("; check that module(*example_inputs) runs")


def test_example_inputs_are_asked_for_and_only_by_torch():
    with pytest.raises(hc.CompileError) as e:
        hc.compile(nn.Linear(5, 2))
    assert str(e.value) == (
        "Linear: a torch module does not say the shapes of its inputs; give example inputs, such as "
        "hc.compile(module, example_inputs=x) with x of shape [events, ...]"
    )
    with pytest.raises(hc.CompileError) as e:
        hc.load("model.onnx", np.zeros((1, 3)))
    assert str(e.value) == "example_inputs: are for torch modules; this model knows its inputs; leave them out"


def test_torchscript():
    with pytest.raises(hc.CompileError) as e:
        hc.load(torch.jit.script(nn.Linear(2, 2)), X)
    assert (
        str(e.value)
        == "RecursiveScriptModule: is a TorchScript module, which torch.export does not take; give the module itself"
    )


def test_what_counts_as_torch():
    assert is_torch(nn.ReLU())
    assert not is_torch(X)
    assert not is_torch("model.onnx")


def test_every_reader_is_of_an_operator_that_torch_has():
    import torch.ao.quantization.fx._decomposed

    from hwcompile.frontends.torch_quantize import quantize_operator

    quantize_operator()
    for name in ATEN:
        space, operator, overload = name.split(".")
        assert hasattr(getattr(getattr(torch.ops, space), operator), overload), name


@pytest.mark.parametrize(
    "example", [np.array([None] * 4), np.array([["a"] * 4]), torch.zeros(5, 4, device="meta")], ids=repr
)
def test_examples_are_arrays_of_numbers(example):
    with pytest.raises(hc.CompileError, match="example_inputs: must be arrays of numbers"):
        read_torch(nn.Linear(4, 3), example)


def test_data_may_be_tensors_with_gradients():
    x = torch.linspace(-1, 1, 40, requires_grad=True).reshape(10, 4)
    design = hc.compile(nn.Linear(4, 3), example_inputs=x, calibration=x, bits=8, backends=())
    want = design.predict(x.detach().numpy(), engine="reference")
    assert (design.predict(x, engine="reference") == want).all()
    with pytest.raises(hc.CompileError, match="must be one array of numbers"):
        design.predict([[1, 2, 3, 4], [1]], engine="reference")


def test_a_module_of_very_many_layers():
    """Deeper than Python's stack."""
    network = nn.Sequential(nn.Linear(4, 2), *[nn.LeakyReLU(0.5) for _ in range(1200)])
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    model = hc.load(network, example_inputs=x)
    assert len(model.nodes) > 1200
    calibrate(model, {model.nodes[model.inputs[0]].name: x}, 8, None)
