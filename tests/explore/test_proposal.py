"""Time goes to the kind of trial that pays, and new points lie near those on the frontier and inside the space."""

from itertools import pairwise

import numpy as np
import optuna
import pytest
from search_models import model

import hwcompile as hc
from hwcompile.explore import Branch, Choice, Integer, Real, Trained, named
from hwcompile.explore.objectives import constraints_of, objectives_of
from hwcompile.explore.proposal import ALONE, FrontierSampler, Proposal, Tried, branch_of
from hwcompile.explore.space import draw

KINDS = ("a", "b")


def proposal(tried, kinds=KINDS, objectives=("accuracy", "lut"), constraints=()):
    return Proposal(objectives_of(objectives), constraints_of(constraints), kinds, tried)


def tried(kind, seconds, *made, point=None):
    return Tried((kind,), point or {}, seconds, [{"accuracy": a, "lut": c} for a, c in made])


def often(p, kinds=KINDS, count=200):
    """How often each kind comes next."""
    found = [p.kind(np.random.default_rng(k), kinds) for k in range(count)]
    return {k: found.count(k) / count for k in kinds}


def test_every_kind_is_tried_and_then_the_one_that_gains_most_per_second():
    assert often(proposal([])) == {"a": 1, "b": 0}
    assert often(proposal([tried("a", 1, (0.7, 100))])) == {"a": 0, "b": 1}
    both = [tried("a", 10, (0.7, 1000)), tried("b", 1, (0.69, 400))]  # b gains less, in a tenth of the time
    p = proposal(both)
    assert 0 < p.rate("a", 4) < p.rate("b", 4)
    assert often(p)["b"] > 0.8
    assert often(proposal([*both, *[tried("b", 1, (0.5, 900))] * 4]))["a"] > 0.8  # and now no more
    nothing = [tried(k, 1, (0.5, 900)) for k in KINDS] * 4
    assert often(proposal([*both, *nothing]))["b"] > 0.8  # by more of the past, where the last of both gained nothing


def test_what_another_kind_does_as_well_is_no_gain():
    p = proposal([tried("a", 1, (0.7, 100), (0.6, 50)), tried("b", 1, (0.7, 100), (0.65, 200))])
    assert p.rate("b", 4) == 0
    assert p.rate("a", 4) > 0


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "lut", "min:a", "min:b")])
def test_without_a_hypervolume_candidates_on_the_frontier_count(objectives):
    made = [{"accuracy": 0.7, "lut": 1, "a": 1, "b": 1}], [{"accuracy": 0.6, "lut": 2, "a": 2, "b": 2}]
    p = proposal([Tried((k,), {}, 1, m) for k, m in zip(KINDS, made, strict=True)], objectives=objectives)
    assert p.rate("a", 4) > p.rate("b", 4) == 0


def test_candidates_that_miss_a_constraint_gain_nothing():
    p = proposal([tried("a", 1, (0.7, 100)), tried("b", 1, (0.9, 5000))], constraints=["lut<=1000"])
    assert p.rate("b", 4) == 0


def test_parents_are_on_the_frontier_or_the_best_of_their_kind():
    best, worse = {"n": 1}, {"n": 2}
    of_a = [tried("a", 1, (0.7, 100), point=best), *[tried("a", 1, (0.6, 200), point=worse)] * ALONE]
    p = proposal([*of_a, tried("b", 1, (0.8, 10), point={"n": 3})])  # which dominates all of a
    parents = [p.parent(np.random.default_rng(k), "a") for k in range(100)]
    assert best in parents
    assert {} in parents
    assert worse not in parents
    assert all(p.parent(np.random.default_rng(k), "b") == {} for k in range(20))  # too few to go on from


SPACE = {
    "kind": Branch(net={"width": Integer(4, 64, log=True), "bits": Integer(2, 8, step=2)}, trees={"rate": Real(0.1, 1.0)}),
    "lr": Real(1e-4, 1e-1, log=True),
    "shape": Choice([16], [8, 8]),
}  # fmt: skip


def drawn(history, count=300):
    sampler = FrontierSampler(3, branch_of(SPACE)[0], lambda: proposal(history, ("net", "trees")))
    study = optuna.create_study(sampler=sampler)
    return [draw(SPACE, study.ask()) for _ in range(count)]


def test_draws_cover_the_space_and_stay_in_it():
    points = drawn([tried("trees", 1, (0.7, 100))])  # so that networks come next
    assert {p["width"] for p in points} >= {4, 5, 6, 8, 16, 32, 60}
    assert {p["bits"] for p in points} == {2, 4, 6, 8}
    assert min(p["lr"] for p in points) < 2e-4
    assert max(p["lr"] for p in points) > 5e-2
    assert len({str(p["shape"]) for p in points}) == 2
    for p in points:
        named(SPACE, p)  # raises for what is outside


def test_points_near_a_parent():
    parent = named(SPACE, {"kind": "net", "width": 16, "bits": 4, "lr": 1e-2, "shape": [16]})
    history = [tried("trees", 1e6, (0.1, 1e6)), *[tried("net", 1, (0.7, 100), point=parent)] * ALONE]
    points = [p for p in drawn(history) if p["kind"] == "net"]
    same = np.mean([p["width"] == 16 for p in points])
    assert 0.4 < same < 0.7
    near = [abs(np.log(p["lr"] / 1e-2)) < 0.4 * np.log(1e3) for p in points]
    assert np.mean(near) > 0.8
    assert len({(p["width"], p["bits"]) for p in points}) > 10
    assert all(a != b for a, b in pairwise([p["lr"] for p in points if p["lr"] != 1e-2]))


def paying(trial):
    """One kind widens the frontier, the other never does."""
    if trial.params["kind"] == "poor":
        return Trained(model(9, 4), {"accuracy": 0.1}, method="poor")
    bits, terms = trial.params["bits"], trial.params["terms"][0]
    return Trained(model(bits, terms), {"accuracy": (1 - 2.0**-bits) * (0.5 + 0.1 * terms)}, method="rich")


def test_a_search_tries_every_kind_and_goes_on_from_where_it_was_stopped(tmp_path):
    space = {"kind": Branch(poor={"n": Integer(1, 50)}, rich={"bits": Integer(2, 9), "terms": Choice((1,), (2,))})}
    options = {"workers": 1, "folder": tmp_path / "runs", "quiet": True}
    found = hc.search(space, paying, trials=5, synthesize=1, **options)
    assert [f.method for f in found.candidates][:2] == ["poor", "rich"]
    again = hc.search(space, paying, trials=9, **options)
    assert [f.trial for f in again.candidates] == list(range(9))


def test_what_is_running_is_not_begun_again():
    p = proposal([], ("a", "b", "c"))
    assert p.kind(np.random.default_rng(0), p.kinds) == "a"
    p = Proposal(p.objectives, (), p.kinds, (), running=("a", "b"))
    assert p.kind(np.random.default_rng(0), p.kinds) == "c"


def test_while_no_candidate_meets_the_constraints_the_nearest_count():
    near, far = {"n": 1}, {"n": 2}
    of_a = [tried("a", 1, (0.7, 900), point=far)] * ALONE
    of_b = [*[tried("b", 1, (0.6, 700), point=far)] * ALONE, tried("b", 1, (0.5, 300), point=near)]
    p = proposal([*of_a, *of_b], constraints=["lut<=100"])
    assert p.rate("b", 4) > p.rate("a", 4) == 0
    parents = [p.parent(np.random.default_rng(k), "b") for k in range(50)]
    assert near in parents
    assert far not in parents


def test_candidates_without_an_objective_count_nothing():
    p = proposal(
        [tried("a", 1, (0.7, 100), (0.6, 50)), Tried(("b",), {}, 1, [{"lut": 10.0}]), Tried(("b",), {}, 1, [])]
    )
    assert p.rate("a", 4) > p.rate("b", 4) == 0
    assert p.parent(np.random.default_rng(1), "b") == {}


def test_parameters_with_like_names_are_drawn_apart():
    space = {"layer1_channels": Integer(4, 64), "layer2_channels": Integer(4, 64)}
    study = optuna.create_study(sampler=FrontierSampler(0, "", lambda: proposal([], ("all",))))
    points = [draw(space, study.ask()) for _ in range(20)]
    assert sum(p["layer1_channels"] == p["layer2_channels"] for p in points) < 5
