"""Trees as students: the compiled trees are what is scored, on one frontier, for labels, teachers and every loss."""

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.optimize.symbolic import Compiled
from hwcompile.optimize.trees import Trees, fit_forests, fit_trees, frontier, sweep


def task(loss="cross_entropy", events=1500):
    x = np.random.default_rng(7).normal(size=(events, 4)).astype(np.float32)
    values = np.stack([x[:, 0] ** 2, x[:, 1] + 0.5, np.tanh(x[:, 2]) * 2], 1)
    y = {
        "cross_entropy": values.argmax(1),
        "mse": values.astype(np.float32),
        "bce": (values[:, 1] > 0).astype(np.float32),
    }
    return opt.Task(x, y[loss], loss=loss)


class Teacher(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0] ** 2, x[:, 1] + 0.5, torch.tanh(x[:, 2]) * 2], 1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_rows_are_what_is_compiled(loss, shared):
    given = task(loss)
    row = fit_trees(given, Trees(depth=3, rounds=8, shared=shared))
    x, y = given.validation
    design = hc.compile(row.model, backends="rtl")
    got = torch.as_tensor(design.predict(x.numpy(), engine="reference"), dtype=torch.float32)
    assert row.score == given.score_of(got, y)
    constant = {"cross_entropy": 0.5, "mse": -float(y.float().var(0).mean()) / 2, "bce": 0.8}[loss]
    assert row.score > constant
    assert design.report.estimate.lut == pytest.approx(row.lut)
    assert row.cost == row.lut


def test_the_engine_computes_what_was_scored():
    given = task()
    row = fit_trees(given, Trees(depth=3, rounds=6, shared=True))
    x = given.validation[0].numpy()
    assert np.array_equal(hc.compile(row.model, backends="cpu").predict(x), Compiled(row.model).predict(x))


@pytest.mark.parametrize("shared", [False, True])
def test_a_few_far_events_do_not_cost_the_others_their_bits(shared):
    rng = np.random.default_rng(3)
    x = (rng.standard_t(1.5, (4000, 3)) * [1, 0.02, 50]).astype(np.float32)  # most near 0, some a thousand times as far
    given = opt.Task(x, ((x[:, 0] > 0.2).astype(int) + (x[:, 1] > 0.01) + (x[:, 2] > 0)))
    few, many = (fit_trees(given, Trees(3, 12, shared, bits=b, leaf_bits=b)).score for b in (5, 14))
    assert many > 0.98
    assert few > 0.9


@pytest.mark.parametrize("shared", [False, True])
def test_leaves_of_one_class_alone_do_not_round_the_others_away(shared):
    few, many = (fit_trees(task(), Trees(4, 30, shared, rate=1.0, leaf_bits=b)).score for b in (6, 16))
    assert many > 0.75
    assert few > many - 0.04


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_far_from_the_leaves_does_not_cost_their_bits(shared):
    x = task("mse").x
    near, far = (fit_trees(opt.Task(x, x[:, :1] + by, loss="mse"), Trees(2, 15, shared)).score for by in (0, 100))
    assert far == pytest.approx(near, abs=0.05)


def test_a_feature_that_is_always_0_has_no_grid_of_its_own():
    given = task()
    x = torch.cat([given.x, torch.zeros(len(given.x), 1)], 1)
    model = fit_trees(opt.Task(x, given.y), Trees(2, 4, damping=0, shared=True, bits=6)).model
    lsb = [np.min(hc.compile(model, backends=()).graph.nodes[0].type.fixed.exp)]
    assert min(lsb) > -8


def test_two_classes():
    x = task().x
    given = opt.Task(x, (x[:, 0] > x[:, 1]).long())
    rows = [fit_trees(given, Trees(rounds=10, shared=s)) for s in (False, True)]
    assert all(row.score > 0.85 for row in rows)
    assert all(Compiled(row.model).predict(x[:5].numpy()).shape == (5, 2) for row in rows)


@pytest.mark.parametrize("shared", [False, True])
def test_leaves_and_inputs_have_the_bits_that_were_asked_for(shared):
    model = fit_trees(task(), Trees(depth=2, rounds=5, shared=shared, bits=5, leaf_bits=6)).model
    graph = hc.compile(model, backends=()).graph
    assert max(int(np.max(graph.nodes[i].type.fixed.width)) for i in graph.inputs) <= 5
    forests = [n.op for n in graph.nodes if n.op.name == "forest"]
    assert forests
    assert all(np.abs(op.values).max() < 2**5 for op in forests)


@pytest.mark.parametrize("shared", [False, True])
def test_a_teacher_is_learned_from(shared):
    given = task()
    wrong = opt.Task(given.x, given.y.flip(0), validation=given.validation)  # labels that say nothing
    assert fit_trees(wrong, Trees(shared=shared, rounds=10), Teacher()).score > 0.85


@pytest.mark.parametrize("shared", [False, True])
def test_a_teacher_of_yes_or_no_is_learned_from(shared):
    given = task("bce")

    class Says(nn.Module):
        def forward(self, x):
            return 6 * x[:, 1] + 3

    wrong = opt.Task(given.x, 1 - given.y, validation=given.validation, loss="bce")
    assert fit_trees(wrong, Trees(shared=shared, rounds=6), Says()).score > 0.95


def test_shared_trees_pay_their_comparisons_once():
    own, shared = (fit_trees(task(), Trees(depth=3, rounds=8, shared=s)) for s in (False, True))
    assert shared.lut < own.lut


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
@pytest.mark.parametrize("shared", [False, True])
def test_forests_of_fewer_rounds_are_the_first_trees_of_the_largest(loss, shared):
    given, options = task(loss), Trees(depth=2, shared=shared)
    together = fit_forests(given, options, (1, 3, 7))
    alone = [fit_trees(given, Trees(depth=2, shared=shared, rounds=n)) for n in (1, 3, 7)]
    assert [str(Compiled(r.model).graph) for r in together] == [str(Compiled(r.model).graph) for r in alone]
    assert [(r.method, r.score) for r in together] == [(r.method, r.score) for r in alone]


def test_a_sweep_is_a_frontier():
    rows = sweep(task(), Trees(shared=True), depths=(1, 3), rounds=(1, 4, 12))
    costs, scores = [r.cost for r in rows], [r.score for r in rows]
    assert len(rows) > 2
    assert costs == sorted(costs)
    assert scores == sorted(scores)
    assert frontier(reversed(rows)) == rows
    worse = fit_trees(task(), Trees(depth=1, rounds=2))
    assert (worse in frontier([*rows, worse])) == all(r.score < worse.score for r in rows if r.cost <= worse.cost)


def test_the_same_seed_gives_the_same_trees():
    a, b = (fit_trees(task(), Trees(rounds=4, events=300, shared=True), seed=3) for _ in range(2))
    x = task().validation[0]
    assert np.array_equal(Compiled(a.model).predict(x), Compiled(b.model).predict(x))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"depth": 0}, "Trees: depth must be 1 or more, not 0"),
        ({"leaf_bits": 40}, "Trees: leaf_bits must be from 2 to 16, not 40"),
        ({"damping": -1.0}, "Trees: damping must be 0 or more, not -1.0"),
        ({"rate": 0}, "Trees: rate must be above 0 and at most 1, not 0"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(hc.CompileError) as e:
        Trees(**options)
    assert str(e.value) == sentence


def test_tasks_that_trees_do_not_learn():
    own = opt.Task(task().x, task().y, loss=lambda outputs, y: outputs.mean())
    with pytest.raises(hc.CompileError, match="Trees: fit losses by name, not a function; give a teacher"):
        fit_trees(own)
    some = opt.Task(task().x[:50], torch.tensor([0, 2] * 25))
    with pytest.raises(hc.CompileError, match="some class has no event in the training data"):
        fit_trees(some)
    loader = opt.Task(loader=[], validation=(task().x, task().y))
    with pytest.raises(hc.CompileError, match="Trees: needs the data as one array, neither a loader"):
        fit_trees(loader)
