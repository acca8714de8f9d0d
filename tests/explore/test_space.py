"""Spaces, objectives and constraints: what is drawn, what files say, and what is refused."""

import math

import optuna
import pytest

import hwcompile as hc
from hwcompile.explore import Branch, Choice, Integer, Real, from_table, seconds_of
from hwcompile.explore.objectives import constraints_of, objectives_of, violations
from hwcompile.explore.space import checked, definition, draw, named

SPACE = {
    "width": Integer(4, 16, 4),
    "rate": Real(1e-3, 1.0, log=True),
    "fixed": 7,
    "method": Branch(a={"bits": Integer(2, 8)}, b={"hidden": Choice([16], [32, 16]), "bits": Integer(1, 1)}),
}


def test_what_is_drawn_is_in_the_space():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [draw(checked(SPACE), study.ask()) for _ in range(60)]
    assert {p["width"] for p in found} == {4, 8, 12, 16}
    assert all(1e-3 <= p["rate"] <= 1.0 and p["fixed"] == 7 for p in found)
    assert {p["method"] for p in found} == {"a", "b"}
    assert {tuple(p["hidden"]) for p in found if p["method"] == "b"} == {(16,), (32, 16)}
    assert all("hidden" not in p and 2 <= p["bits"] <= 8 for p in found if p["method"] == "a")


def test_a_file_says_the_same_space():
    table = {
        "width": {"low": 4, "high": 16, "step": 4},
        "rate": {"low": 0.001, "high": 1.0, "log": True},
        "fixed": 7,
        "method": {"branch": {
            "a": {"bits": {"low": 2, "high": 8}},
            "b": {"hidden": {"choice": [[16], [32, 16]]}, "bits": {"low": 1, "high": 1}},
        }},
    }  # fmt: skip
    assert definition(from_table(table)) == definition(SPACE)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({}, "has no dimension, so that there is nothing to search"),
        ({"a": 3}, "has no dimension"),
        ({"a": Integer(5, 4)}, "space.a: is empty: low 5 is above high 4"),
        ({"a": Integer(0, 4, log=True)}, "a logarithmic range must be above 0"),
        ({"a": Real(0.0, math.inf)}, "high must be a number, not inf"),
        ({"a": Integer(0, 4, 0)}, "step must be 1 or more"),
        ({"a": Integer(0.5, 4)}, "low must be a whole number"),
        ({"a": Choice()}, "has no option"),
        ({"a": Branch()}, "has no option"),
        ({"a": Branch(x={"b": Integer(3, 1)})}, "space.a.x.b: is empty"),
        ({"b": 1, "a": Branch(x={"b": Integer(1, 3)})}, "'b' is in the space around it too"),
        ({"a": Integer(1, 2), "f": print}, "must be a dimension, or a value that JSON holds"),
        ([], "must be a dictionary"),
    ],
)
def test_spaces_without_a_meaning_are_refused(space, says):
    with pytest.raises(hc.CompileError, match=says):
        checked(space)


@pytest.mark.parametrize("table", [{"a": {}}, {"a": {"low": 1}}, {"a": {"low": 1.0, "high": 2.0, "step": 1}}])
def test_tables_without_a_meaning_are_refused(table):
    with pytest.raises(hc.CompileError, match=r"space\.a"):
        from_table(table)


def test_objectives_and_constraints():
    assert [(o.name, o.larger) for o in objectives_of(["accuracy", "lut", "min:rms", "max:auc"])] == [
        ("accuracy", True), ("lut", False), ("rms", False), ("auc", True),
    ]  # fmt: skip
    limits = constraints_of(["lut<=20_000", "accuracy > 0.7", "latency_ns<1e2"])
    assert violations(limits, {"lut": 20_000, "accuracy": 0.7, "latency_ns": 150}) == [0.0, 1e-12, 0.5]
    assert violations(limits, {"lut": 10_000, "accuracy": 0.8}) == [-0.5, pytest.approx(-1 / 7), math.inf]


@pytest.mark.parametrize(
    ("function", "texts", "says"),
    [
        (objectives_of, [], "are none"),
        (objectives_of, ["speed"], "'speed' does not say which way is better; give max:speed or min:speed"),
        (objectives_of, ["lut", "lut"], "'lut' is there twice"),
        (objectives_of, ["up:lut"], "'up:lut' is none"),
        (constraints_of, ["lut=3"], "'lut=3' is none; write them as lut<=20000"),
        (constraints_of, ["lut<=3", "lut>=4"], "nothing can meet both lut>=4 and lut<=3"),
        (constraints_of, ["lut<3", "lut>=3"], "nothing can meet both"),
    ],
)
def test_wishes_without_a_meaning_are_refused(function, texts, says):
    with pytest.raises(hc.CompileError, match=says):
        function(texts)


def test_points_by_the_names_of_the_sampler():
    """What is drawn comes back as what was suggested, branches included."""
    space = {"n": Integer(1, 8), "kind": Branch(plain={}, deep={"shape": Choice([4], [8, 4]), "lr": Real(0.1, 1.0)})}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        assert named(space, draw(space, trial)) == trial.params
    assert named(space, {"kind": "deep", "shape": [8, 4]}) == {"kind": "deep", "kind.deep.shape": "[8, 4]"}
    for point, says in (
        ({"kind": "plain", "lr": 0.5}, "the space has no 'lr' at this point"),
        ({"kind": "wide"}, "first.kind: must be one of plain, deep, not 'wide'"),
        ({"kind": "deep", "shape": [16]}, r"first.shape: must be one of \[4\], \[8, 4\], not \[16\]"),
        ({"n": "2"}, "first.n: must be a number from 1 to 8, not '2'"),
    ):
        with pytest.raises(hc.CompileError, match=says):
            named(space, point)


def test_times():
    assert (seconds_of("90min"), seconds_of("1.5h"), seconds_of("45 s"), seconds_of(7), seconds_of(None)) == (
        5400, 5400, 45, 7, math.inf,
    )  # fmt: skip
    for bad in ("soon", "0s", -1, "1.2.3h"):
        with pytest.raises(hc.CompileError, match="budget"):
            seconds_of(bad)
