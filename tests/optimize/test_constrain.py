"""Limits on hardware are met, by the count that is reported, and without waste."""

import numpy as np
import pytest
from optimize_modules import network
from pruning_networks import data, dense, same_as_compiled, work

import hwcompile as hc
from hwcompile.optimize import During, Quantize, Spec, Task, Train, constrain, prepare
from hwcompile.optimize.constrain import Constrain
from hwcompile.optimize.cost import solved, total
from hwcompile.optimize.pruning import MemoryWords, Multipliers, NofM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize(
    "limit", [{"weights": 100}, {"dsp": 30, "pattern": Multipliers(4)}, {"bram": 40, "pattern": MemoryWords(6, 18, 4)}]
)
def test_a_limit_is_met_without_waste(limit):
    own = work(dense(), data())
    limited = Constrain(Train(4, batch=100), **limit)
    limited.apply(own)
    wanted = next(v for k, v in limit.items() if k != "pattern")
    found = 0
    for name, m in prepare(own.module):
        units = limited.pattern.units(name, m)
        found += len(units[m.mask.keep > 0].unique())
    assert found == wanted


def test_a_limit_on_luts_is_met_by_the_solvers_count():
    own = work(dense(), data())
    Quantize(Spec.uniform(6, 8)).apply(own)
    before = sum(solved(m) for _, m in prepare(own.module))
    Constrain(Train(6, batch=100), lut=before / 2).apply(own)
    after = sum(solved(m) for _, m in prepare(own.module))
    assert before / 2 * 0.8 < after <= before / 2
    same_as_compiled(own.module, own.task.x[:200])


def test_a_limit_on_luts_counts_products_and_tables_too():
    (module, x), y = network("attention", 0), np.arange(200) % 2
    own = work(module, Task(x, y))
    Quantize(Spec.uniform(4, 4)).apply(own)
    before, fixed = total(own.module), total(own.module, lambda *_: 0.0)
    assert fixed > 100
    Constrain(Train(4, batch=100), lut=fixed + 0.6 * (before - fixed)).apply(own)
    assert fixed < total(own.module) <= fixed + 0.6 * (before - fixed)
    again = work(module, Task(x, y))
    Quantize(Spec.uniform(4, 4)).apply(again)
    with pytest.raises(hc.CompileError, match=rf"lut 50 cannot be reached: {fixed:g} are for products of data, tables"):
        Constrain(Train(4, batch=100), lut=50).apply(again)


@pytest.mark.parametrize("pressed", [True, False])
def test_the_pressure_moves_weights_and_not_only_masks(pressed, monkeypatch):
    """Units near zero leave the cost under pressure alone, before any mask is fixed; without it they stay."""
    if not pressed:
        monkeypatch.setattr(constrain._Limited, "soft", lambda self, values: values)
    seen = []

    class Watch(During):
        def epoch(self, work, epoch, total):
            masks = [(m.mask, m.weight.detach()) for _, m in prepare(work.module)]
            seen.append(sum(float(mask.cost(w)) for mask, w in masks) / 100 - 1)

    own = work(dense(), data(events=2000))
    Constrain(Train(12, batch=64, during=(Watch(),)), weights=100, end=1.0).apply(own)
    assert (seen[-1] < 0.1) == pressed
    assert sum(int(m.mask.keep.sum()) for _, m in prepare(own.module)) == 100


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"Constrain: takes one limit of lut, weights, dsp, bram, not none"),
        ({"lut": 5, "dsp": 3}, r"takes one limit of lut, weights, dsp, bram, not lut and dsp"),
        ({"weights": -5}, r"Constrain: weights must be positive, not -5"),
        ({"dsp": 5}, r"dsp counts units of a pattern Multipliers or DspWords, not Unstructured"),
        ({"weights": 5, "pattern": NofM(2, 4)}, r"n:m sets the amount itself, so no limit can set it; use Prune"),
        ({"weights": 5, "end": 0}, r"Constrain: end must be a share of the epochs above 0 and up to 1, not 0"),
        ({"weights": 2}, r"weights 2 cannot be reached: 3 is the smallest that leaves every layer a unit"),
        ({"dsp": 1, "pattern": Multipliers(4)}, r"dsp 1 cannot be reached: 3 is the smallest that leaves every layer"),
        ({"lut": 5}, r"layer|Linear: has no widths, since it is not quantized; quantize the module first"),
    ],
)
def test_limits_out_of_reach_name_the_smallest(options, message):
    with pytest.raises(hc.CompileError, match=message):
        Constrain(Train(1, batch=300), **options).apply(work(dense()))
