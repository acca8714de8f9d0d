"""Masks: which weights go, that they stay gone, that patterns are those of the hardware, and that targets are met."""

import numpy as np
import pytest
import torch
from pruning_networks import data, dense, image, same_as_compiled, work
from torch import nn

import hwcompile as hc
from hwcompile.codegen.hls.matrix import weight_memory
from hwcompile.codegen.hls.plan import plan
from hwcompile.codegen.schedule import folding, matrices
from hwcompile.optimize import (
    During,
    Pipeline,
    Quantize,
    Spec,
    Task,
    Train,
    Work,
    pipeline,
    prepare,
    pruning_trained,
    quantize,
)
from hwcompile.optimize.layers import Mask
from hwcompile.optimize.pruning import (
    DspWords,
    Gradual,
    MemoryWords,
    Multipliers,
    NofM,
    Prune,
    Unstructured,
    prunable,
    rows,
    scores,
)  # fmt: skip
from hwcompile.optimize.pruning_trained import TrainMasks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SLOW = pytest.mark.slow


def kept(module):
    return {name: m.mask.keep.clone() for name, m in prepare(module) if m.mask is not None}


def zeros(module):
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    total = sum(w.numel() for w in weights)
    return 1 - sum(float(k.sum()) for k in kept(module).values()) / total


# ---- amounts, scores and scopes ---------------------------------------------------------------------------------------


def test_magnitude_takes_the_smallest_weights_of_all():
    net = dense()
    sizes = torch.cat([m.weight.detach().abs().reshape(-1) for m in net if isinstance(m, nn.Linear)])
    threshold = sizes.sort().values[len(sizes) // 2]
    Prune(0.5).apply(work(net))
    for name, keep in kept(net).items():
        assert torch.equal(keep > 0, net.get_submodule(name).weight.abs() >= threshold)


@pytest.mark.parametrize("scope", ["global", "layer", "output"])
@pytest.mark.parametrize("score", ["magnitude", "taylor", "activation", "random"])
def test_every_score_reaches_the_amount_in_every_scope(score, scope):
    net = dense()
    Prune(0.75, score=score, scope=scope).apply(work(net))
    assert zeros(net) == pytest.approx(0.75, abs=0.001)
    each = [1 - float(k.mean()) for k in kept(net).values()]
    if scope != "global":
        assert each == [0.75] * 3
    if scope == "output":
        assert all((k.sum(1) == k.shape[1] // 4).all() for k in kept(net).values())


def test_scores_are_what_they_say():
    net, task = dense(), data()
    own = work(net, task)
    layers = prunable(net)
    x = task.x
    found = scores(own, layers, "activation", events=len(x))
    wanted = layers["0"].weight.abs() * x.square().sum(0).sqrt()
    torch.testing.assert_close(found["0"], wanted.detach())
    loss = task.loss_of(net(x), task.y)
    gradient = torch.autograd.grad(loss, layers["2"].weight)[0]
    found = scores(own, layers, "taylor", events=len(x))
    torch.testing.assert_close(found["2"] / len(x), (layers["2"].weight * gradient).abs().detach())


def test_activation_scores_know_channels_of_convolutions_and_groups():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2), nn.Flatten())
    x = torch.zeros(64, 4, 5, 5)
    x[:, 3] = 1.0
    own = Work(net, Task(x, torch.zeros(64, dtype=torch.long)))
    Prune(0.5, score="activation", layers=("0",), scope="layer").apply(own)
    keep = net[0].mask.keep
    assert keep[4:, 1].sum() == 36
    Prune(0.25, score="activation", layers=("2",)).apply(own)
    assert float(net[2].mask.keep.mean()) == 0.75


def test_what_is_gone_stays_gone():
    net = dense()
    Prune(0.5, score="random").apply(work(net))
    before = kept(net)
    Prune(0.7).apply(work(net))
    assert all(bool((kept(net)[n] <= before[n]).all()) for n in before)
    assert zeros(net) == pytest.approx(0.7, abs=0.002)
    Prune(0.2).apply(work(net))
    assert zeros(net) == pytest.approx(0.7, abs=0.002)


# ---- patterns -----------------------------------------------------------------------------------------------------------


def test_n_of_m_holds_in_every_block():
    net = dense()
    Prune(pattern=NofM(2, 4)).apply(work(net))
    for name, m in prepare(net):
        blocks = m.mask.keep.reshape(-1, 4)
        assert (blocks.sum(1) == 2).all()
        size = m.weight.abs().reshape(-1, 4)
        assert (torch.where(blocks > 0, size, 9).amin(1) >= torch.where(blocks > 0, 0, size).amax(1)).all(), name


@pytest.mark.parametrize("module, name, reuse", [(dense, "0", 16), (image, "3", 8)])
def test_multipliers_are_the_columns_of_the_writers_memory(module, name, reuse):
    """A pruned multiplier is a column of zeros in the memory that the HLS writer makes for the folded matrix."""
    net = module()
    shape = (2, 6, 6) if module is image else (8,)
    task = data(shape)
    layer = dict(net.named_modules())[name]
    Prune(0.5, pattern=Multipliers(reuse), layers=(name,)).apply(work(net, task))
    units = Multipliers(reuse).units(name, layer)
    each = [layer.mask.keep[units == k] for k in range(int(units.max()) + 1)]
    assert all(len(k) == reuse and len(set(k.tolist())) == 1 for k in each)
    net = quantize(net, Spec.uniform(6, 8), task.sample)
    graph = hc.compile(net, example_inputs=task.x[:4]).graph
    n_out, n_in = rows(layer).shape
    node = next(i for i in matrices(graph).values() if graph.nodes[i].op.weights.shape == (n_in, n_out))
    memory = Memory()
    weight_memory(plan(graph), memory, node, folding(n_in, n_out, reuse))
    used = memory.words.any(axis=0)
    np.testing.assert_array_equal(used, [bool(k.any()) for k in each])


class Memory:
    """Takes the words that the writer would print."""

    def add(self, wanted, values, *rest, **named):
        self.words = values


def test_memory_words_and_blocks_are_parts_of_the_same_memory():
    net = dense()
    layer = dict(prepare(net))["2"]
    single = Multipliers(4).units("2", layer)
    words = MemoryWords(weight_bits=6, word_bits=18, reuse=4).units("2", layer)
    blocks = Multipliers(4, together=3).units("2", layer)
    assert int(words.max()) + 1 == 4 * 48 // 3
    assert (words.unique(return_counts=True)[1] == 3).all()
    for k in range(int(words.max()) + 1):
        (where,) = {int(b) for b in blocks[words == k]}
        assert {int(b) // 3 for b in single[words == k]} == {where}
    assert (blocks.unique(return_counts=True)[1] == 12).all()


@pytest.mark.parametrize("bits, inputs, products", [(8, 8, 2), (4, 4, 3), (12, 16, 1)])
def test_dsp_words_share_an_input(bits, inputs, products):
    """AMD WP486: two products of 8 bits in one DSP48E2 of 27 x 18 bits."""
    pattern = DspWords("vu9p", bits, inputs)
    assert pattern.products == products
    net = dense()
    layer = dict(prepare(net))["2"]
    units = pattern.units("2", layer)
    for k in range(int(units.max()) + 1):
        out, column = (units == k).nonzero(as_tuple=True)
        assert len(out) == products
        assert len(set(column.tolist())) == 1
        assert out.tolist() == list(range(int(out[0]), int(out[0]) + products))
    Prune(0.5, pattern=pattern).apply(work(net))
    assert zeros(net) == pytest.approx(0.5, abs=0.005)
    assert all(len(set(layer.mask.keep[units == k].tolist())) == 1 for k in range(int(units.max()) + 1))


# ---- with training and quantization -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [Unstructured(), pytest.param(Multipliers(4), marks=SLOW), NofM(1, 4)])
def test_masks_hold_through_training_and_quantization_and_the_design_is_exact(pattern):
    net, task = dense(), data()
    amount = None if isinstance(pattern, NofM) else 0.5
    first = Pipeline([Prune(amount, pattern=pattern)]).run(net, task).module
    passes = [Prune(amount, pattern=pattern), Train(2, batch=128), Quantize(Spec.uniform(6, 8)), Train(2, batch=128)]
    found = Pipeline(passes).run(net, task).module
    for (name, before), after in zip(kept(first).items(), kept(found).values()):
        assert torch.equal(before, after)
        assert not found.get_submodule(name).used_weight()[after == 0].any()
    assert not any(p is q for p, q in zip(net.parameters(), found.parameters()))
    assert not torch.equal(net[0].weight, found.get_submodule("0").weight)
    same_as_compiled(found, task.x[:200])


def test_a_quantized_convolution_is_pruned_and_stays_exact():
    task = data((2, 6, 6))
    passes = [Quantize(Spec.uniform(6, 8)), Prune(0.6, score="taylor"), Train(1, batch=200)]
    own = work(image(), task)
    for step in passes:
        step.apply(own)
    assert zeros(own.module) == pytest.approx(0.6, abs=0.005)
    same_as_compiled(own.module, task.x[:100])


def test_learned_widths_lose_their_bits_with_the_weight():
    task = data()
    result = Pipeline([Quantize(Spec()), Prune(0.5), Train(1, batch=200)]).run(dense(), task)
    assert result.records[0].measures["ebops"] > 1.5 * result.records[1].measures["ebops"]
    assert result.records[1].measures["weights"] <= 0.5 * (8 * 16 + 16 * 12 + 12 * 3)
    same_as_compiled(result.module, task.x[:100])


@pytest.mark.parametrize("quantized", [False, True])
def test_gradual_pruning_follows_its_curve(quantized):
    task, seen = data(), []

    class Seen(Gradual):
        def epoch(self, work, epoch, total):
            super().epoch(work, epoch, total)
            seen.append(zeros(work.module))

    gradual = Seen(Prune(0.8), begin=0.2, end=0.8)
    passes = [
        *([Quantize(Spec.uniform(6, 8))] if quantized else []),
        Train(5, batch=300, during=(gradual,)),
    ]
    found = Pipeline(passes).run(dense(), task).module
    wanted = [0.8 * (1 - (1 - t) ** 3) for t in (0, 1 / 3, 2 / 3, 1, 1)]
    assert seen == pytest.approx(wanted, abs=0.002)
    assert all(not m.used_weight()[m.mask.keep == 0].any() for _, m in prepare(found))


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_training_computes_with_the_masks_that_gradual_pruning_makes(engine):
    """At a learning rate of nothing, the loss of the last epoch is that of the masked network."""
    losses = []

    class Seen(During):
        def epoch(self, work, epoch, total):
            losses.append(work.progress.losses[-1])

    own = work(dense())
    whole = float(own.task.loss_of(own.module(own.task.x), own.task.y))
    during = (Gradual(Prune(0.8), end=0.5), Seen())
    Train(2, batch=540, lr=1e-9, engine=engine, during=during).apply(own)
    masked = float(own.task.loss_of(own.module(own.task.x), own.task.y))
    assert abs(masked - whole) > 0.01
    assert losses == pytest.approx([whole, masked], abs=1e-4)


# ---- masks that train -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, quantized",
    [
        ("pdp", False),
        ("dst", False),
        ("autosparse", False),
        *(pytest.param(m, True, marks=SLOW) for m in ("pdp", "dst", "autosparse")),
    ],
)
def test_trained_masks_meet_the_amount_and_become_plain(method, quantized):
    net, task, said = dense(), data(events=2000), []
    own = work(net, task)
    own.say = said.append
    if quantized:
        Quantize(Spec.uniform(6, 8)).apply(own)
    TrainMasks(method, 0.7, Train(6, batch=64)).apply(own)
    assert zeros(own.module) == pytest.approx(0.7, abs=0.002)
    assert said[-1] == "69.9% of the weights are zero"  # 249 of 356
    assert all(type(m.mask) is Mask for _, m in prepare(own.module))
    assert all(not m.used_weight()[m.mask.keep == 0].any() for _, m in prepare(own.module))
    assert not any("mask" in n for n, _ in own.module.named_parameters())
    if quantized:
        same_as_compiled(own.module, task.x[:200])


@pytest.mark.parametrize("method", ["dst", "autosparse"])
def test_thresholds_come_near_the_amount_by_themselves(method):
    """Before the masks are fixed, the trained thresholds alone have pruned about the amount."""
    seen = []

    class Seen(During):
        def epoch(self, work, epoch, total):
            found = [pruning_trained.margin(m) <= 0 for _, m in prepare(work.module) if m.mask.keep is None]
            seen.extend([float(torch.cat([f.reshape(-1) for f in found]).float().mean())] if found else [])

    train = Train(10, batch=64, lr=5e-3, during=(Seen(),))
    TrainMasks(method, 0.7, train).apply(work(dense(), data(events=8000)))
    assert len(seen) == 6
    assert seen[0] < 0.5
    assert seen[-1] == pytest.approx(0.7, abs=0.1)


def test_trained_masks_keep_what_was_pruned_before():
    own = work(dense())
    Prune(0.5, score="random").apply(own)
    before = kept(own.module)
    TrainMasks("pdp", 0.7, Train(3, batch=64)).apply(own)
    assert all(bool((after <= before[name]).all()) for name, after in kept(own.module).items())
    assert zeros(own.module) == pytest.approx(0.7, abs=0.002)


@pytest.mark.parametrize("at", [3, 5])
def test_a_training_of_masks_goes_on_from_a_checkpoint(at, tmp_path, monkeypatch):
    """Killed before or after the masks are fixed, it ends as if it had not been."""
    monkeypatch.setattr(pipeline, "CHECKPOINT_S", 0.0)

    class Killed(Exception):
        pass

    class Stop(During):
        def epoch(self, work, epoch, total):
            if epoch == at:
                raise Killed

        def __repr__(self):
            return "Stop"

    net, task = dense(), data()
    passes = [TrainMasks("dst", 0.6, Train(6, batch=100, during=(Stop(),)))]
    with pytest.raises(Killed):
        Pipeline(passes).run(net, task, checkpoint=tmp_path / "run")
    at = None
    again = Pipeline(passes).run(net, task, checkpoint=tmp_path / "run").module
    whole = Pipeline(passes).run(net, task).module
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values()))


# ---- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"amount": 1.5}, r"Prune: amount must be a share from 0 to 1, not 1.5; give 0.8 for 80 %"),
        ({"amount": -0.1}, r"Prune: amount must be a share from 0 to 1, not -0.1"),
        ({"amount": None}, r"Prune: amount must be a share from 0 to 1, not None"),
        ({"amount": float("nan")}, r"Prune: amount must be a share from 0 to 1, not nan"),
        ({"amount": 0.5, "score": "size"}, r"score must be one of magnitude, taylor, activation, random, not 'size'"),
        ({"amount": 0.5, "scope": "all"}, r"scope must be one of global, layer, output, not 'all'"),
        ({"amount": 0.5, "pattern": NofM(2, 4)}, r"n:m sets the amount itself, so none can be given, not 0.5"),
        ({"amount": 0.5, "layers": ("head",)}, r"no dense or convolution layer is called 'head'; layers: 0, 2, 4"),
        ({"amount": 1.0}, r"an amount of 1 cannot be reached: 0.9916 is the largest that leaves every layer a unit"),
        ({"amount": 1.0, "scope": "layer"}, r"Prune, layer 0: an amount of 1 cannot be reached: 0.9922 is the largest"),
        ({"pattern": NofM(1, 5)}, r"NofM, layer 0: its rows of 8 weights must be whole blocks of m = 5"),
        (
            {"amount": 0.5, "pattern": Multipliers(7)},
            r"layer 0, reuse factor: must divide 8 x 16 = 128 products, not 7",
        ),
        (
            {"amount": 0.5, "pattern": DspWords("vu9p", 30, 8)},
            r"DspWords of vu9p: operands must be at most 27 and 18 bits",
        ),
        ({"amount": 0.5, "pattern": DspWords(), "scope": "output"}, r"scope 'output' compares single weights"),
    ],
)
def test_errors_name_the_option_and_the_layer(options, message):
    with pytest.raises(hc.CompileError, match=message):
        Prune(**options).apply(work(dense()))


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: NofM(4, 4), "n must be from 1 to m - 1, not 4 of 4"),
        (lambda: MemoryWords(40, 36), "weight_bits must be from 1 to word_bits = 36, not 40"),
        (lambda: Gradual(Prune(0.5), 0.5, 0.2), r"0 <= begin < end <= 1 must hold, not 0\.5 and 0\.2"),
        (lambda: Gradual(Prune(pattern=NofM(2, 4))), "Gradual: needs a pattern with an amount"),
        (lambda: Prune(0.5).apply(work(nn.Sequential(nn.ReLU()))), "Sequential: has no dense or convolution layer"),
    ],
)
def test_patterns_refuse_what_cannot_be(made, message):
    with pytest.raises(hc.CompileError, match=message):
        made()


def test_groups_have_no_folded_memory():
    grouped = work(nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.Flatten()), data((2, 4, 4)))
    with pytest.raises(hc.CompileError, match="layer 0: a Conv2d with groups or transposed has another order of"):
        Prune(0.5, pattern=Multipliers(2)).apply(grouped)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "lasso"}, r"TrainMasks: method must be one of pdp, dst, autosparse, not 'lasso'"),
        ({"amount": 1.2}, r"TrainMasks: amount must be a share from 0 to 1, not 1.2; give 0.8 for 80 %"),
        ({"amount": 1.0}, r"TrainMasks: an amount of 1 cannot be reached: 0.9916 is the largest"),
        (
            {"train": Train(1, frontier=True)},
            r"a frontier of states cannot be kept; keep the frontier in a Train after it",
        ),
    ],
)
def test_trained_masks_refuse_what_cannot_be(options, message):
    with pytest.raises(hc.CompileError, match=message):
        TrainMasks(**{"method": "pdp", "amount": 0.5, "train": Train(1, batch=300), **options}).apply(work(dense()))
