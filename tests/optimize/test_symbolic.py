"""Symbolic regression: what it finds is what is compiled, costs are the compiler's, and choices keep what they promise."""

import re
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.frontends.expressions import expression
from hwcompile.optimize.symbolic import OPERATORS, Compiled, Symbolic, operator_costs, regress

SMALL = {"population": 50, "generations": 8, "length": 10, "events": 300, "candidates": 3}


def numbers(events=1200, outputs=1):
    x = np.random.default_rng(5).uniform(-2, 2, (events, 3)).astype(np.float32)
    y = np.stack([x[:, 0] * x[:, 1] + 0.5, x[:, 2] - x[:, 0]], 1).astype(np.float32)
    return opt.Task(x, y[:, 0] if outputs == 1 else y, loss="mse")


def classes(events=1200):
    x = np.random.default_rng(6).normal(size=(events, 3)).astype(np.float32)
    return opt.Task(x, np.stack([x[:, 0] ** 2, x[:, 1] + 0.5, x[:, 2]], 1).argmax(1))


def predicted(model, x):
    return hc.compile(model, backends=()).predict(np.asarray(x), engine="reference")


@pytest.fixture(scope="module")
def found():
    return regress(classes(), Symbolic(**SMALL))


def test_rows_are_what_is_compiled(found):
    x, y = classes().validation
    for row in found.rows:
        assert row.score == pytest.approx(float((predicted(row.model, x).argmax(1) == y.numpy()).mean()))
    report = hc.compile(found.model, backends="rtl").report
    assert report.estimate.lut == pytest.approx(found.row.lut)
    assert report.estimate.dsp == found.row.dsp


def test_the_engine_computes_what_was_scored(found):
    x = classes().validation[0].numpy()
    got = hc.compile(found.model, backends="cpu").predict(x)
    assert np.array_equal(got, Compiled(found.model).predict(x))


def test_fronts_and_the_choice(found):
    assert len(found.fronts) == len(found.chosen) == 3
    for front in found.fronts:
        costs, explained = [c.cost for c in front], [c.r2 for c in front]
        assert costs == sorted(costs)
        assert explained == sorted(explained)
        assert len(set(explained)) == len(explained)
    assert found.row.score == max(r.score for r in found.rows)
    assert all(c in f for c, f in zip(found.chosen, found.fronts))


def test_a_budget_bounds_the_choice_and_a_seed_repeats_it():
    free = regress(numbers(), Symbolic(**SMALL))
    budget = (free.rows[0].cost + free.row.cost) / 2
    assert free.rows[0].cost < free.row.cost
    bounded = regress(numbers(), Symbolic(**SMALL, budget=budget))
    assert bounded.row.cost <= budget
    assert bounded.fronts == free.fronts
    with pytest.raises(hc.CompileError, match="the budget of 1 LUT is below the cheapest formulas, of "):
        regress(numbers(), Symbolic(**SMALL, budget=1))


def test_a_law_is_found_again():
    task = numbers()
    found = regress(task, Symbolic(operators=("add", "sub", "mul"), **SMALL))
    assert found.chosen[0].r2 > 0.999
    assert predicted(found.model, task.validation[0]).shape == (120,)


def test_a_teacher_is_learned_from_and_outputs_are_chosen():
    task = numbers(outputs=2)
    teacher = nn.Linear(3, 2)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, -0.5, 0.25]]))
    found = regress(task, Symbolic(operators=("add", "sub", "mul"), outputs=(1,), **SMALL), teacher)
    assert len(found.chosen) == 1
    assert found.row.score > 0.99
    x = task.validation[0]
    with torch.no_grad():
        wanted = teacher(x)[:, 1].numpy()
    assert np.abs(predicted(found.model, x) - wanted).max() < 0.2


def test_constants_are_as_short_as_the_data():
    found = regress(numbers(), Symbolic(**{**SMALL, "bits": 6, "operators": ("add", "mul")}))
    for front in found.fronts:
        for text in (c.text for c in front):
            constants = [float(c) for c in re.findall(r"(?<![\w.])\d+\.?\d*(?:e-?\d+)?", text)]
            assert constants
            assert all(
                float(c * 2.0**40).is_integer() and len(f"{int(c * 2**40):b}".strip("0")) <= 7 for c in constants
            )


def test_yes_or_no_is_told_by_the_sign():
    x = np.random.default_rng(8).normal(size=(600, 2)).astype(np.float32)
    task = opt.Task(x, (x[:, 0] + x[:, 1] > 0).astype(np.float32), loss="bce")
    found = regress(task, Symbolic(operators=("add", "sub"), **SMALL))
    assert found.row.score > 0.9


def test_operators_cost_what_compiling_them_says():
    costs = operator_costs(bits=8)
    assert set(costs) == set(OPERATORS)
    assert costs["mul"][0] > costs["add"][0] > 0
    assert all(operator_costs([o], bits=12)[o][0] > costs[o][0] for o in ("add", "tanh"))
    assert operator_costs(["mul"], clock_ns=10)["mul"][1] == 10


def test_a_dsp_block_costs_its_share_of_the_device():
    device = hc.load_target("vu9p")
    compiled = Compiled(expression("x0 * x1", "ap_fixed<12,4>"))
    assert compiled.estimate.dsp == 1
    assert compiled.cost == compiled.estimate.lut + device.resources.lut / device.resources.dsp


def test_formulas_that_do_not_compile_are_told():
    operators = ("div", "sub", "mul")
    found = regress(numbers(), Symbolic(**{**SMALL, "operators": operators, "candidates": 8}))
    for text, reason in found.refused:
        assert "/" in text
        assert "reciprocal" in reason or "divi" in reason
    assert found.chosen


def test_pysr_is_refused_where_julia_is_not(monkeypatch):
    broken = types.ModuleType("pysr")  # its import works, and what it looks for there raises anything
    broken.__getattr__ = lambda name: (_ for _ in ()).throw(RuntimeError("no Julia"))
    monkeypatch.setitem(sys.modules, "pysr", broken)
    with pytest.raises(hc.CompileError, match=r"engine 'pysr' needs PySR with Julia .*; use pyoperon"):
        regress(numbers(), Symbolic(engine="pysr", **SMALL))


def test_pysr_gets_the_cost_of_operators(monkeypatch):
    seen = {}

    class Regressor:
        """What this project uses of PySR's."""

        def __init__(self, **options):
            seen.update(options)

        def fit(self, x, y, variable_names):
            seen["names"] = variable_names
            self.equations_ = {"equation": ["X1", "X1*X2 + 0.5"], "complexity": [1, 5], "loss": [1.0, 0.0]}

    monkeypatch.setitem(sys.modules, "pysr", types.SimpleNamespace(PySRRegressor=Regressor))
    found = regress(numbers(), Symbolic(engine="pysr", operators=("add", "mul", "tanh"), **SMALL))
    assert found.chosen[0].text == "X1*X2 + 0.5"  # 0.5 is short
    assert seen["names"] == ["X1", "X2", "X3"]
    assert seen["binary_operators"] == ["+", "*"]
    assert seen["unary_operators"] == ["tanh"]
    assert seen["complexity_of_operators"]["+"] == 1
    assert seen["complexity_of_operators"]["*"] > 1


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"engine": "gplearn"}, "engine must be one of pyoperon, pysr, not 'gplearn'"),
        ({"operators": ("add", "gamma")}, "operators: 'gamma' is not known; known: add, sub"),
        ({"tolerance": 0.1}, "takes either bits or a tolerance"),
        ({"length": 0}, "length must be 1 or more, not 0"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(hc.CompileError) as e:
        Symbolic(**options)
    assert sentence in str(e.value)


def test_data_that_make_no_sense():
    with pytest.raises(hc.CompileError, match="Symbolic: output 3 does not exist; there are 1, from 0"):
        regress(numbers(), Symbolic(**SMALL, outputs=(3,)))
    images = opt.Task(np.zeros((20, 4, 4)), np.zeros(20), loss="mse")
    with pytest.raises(hc.CompileError, match=r"needs events of features, not of shape \[4, 4\]; flatten them"):
        regress(images)
