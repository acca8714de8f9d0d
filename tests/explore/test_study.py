"""A search goes on where it was stopped, loses nothing, counts nothing twice, and says what it could not do."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import search_models
from search_models import SPACE, model, searched, train

import hwcompile as hc
from hwcompile.explore import Choice, Integer, SearchResult, Trained, show
from hwcompile.explore.objectives import constraints_of, objectives_of
from hwcompile.lineage import Store

HERE = Path(search_models.__file__)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return searched(
        tmp_path_factory.mktemp("found") / "my runs", objectives=["accuracy", "lut", "latency_ns"], trials=14
    )


def test_the_frontier_is_what_nothing_dominates(found):
    every = [(-f.values["accuracy"], f.values["lut"], f.values["latency_ns"]) for f in found.candidates]
    best = {p for p in every if not any(all(b <= a for a, b in zip(p, q)) and q != p for q in every)}
    assert len(found.candidates) == 14
    kept = [(-f.values["accuracy"], f.values["lut"], f.values["latency_ns"]) for f in found.frontier]
    assert set(kept) == best
    assert len(kept) == len(best) < len(every)  # of equal ones the first
    assert 0 < found.hypervolume() <= 1
    assert [n for _, n in found.history][-1] == 14


def test_costs_are_those_of_the_compiler_and_any_candidate_is_built_again(found):
    one = found.frontier[0]
    design = hc.compile(model(one.params["bits"], one.params["terms"]), backends=("rtl", "cpu"))
    again = found.design(one, backends=("rtl", "cpu"))
    assert design.report.estimate.lut == one.values["lut"] == again.report.estimate.lut
    assert str(design.graph) == str(again.graph)
    x = np.random.default_rng(0).uniform(-1, 1, (50, one.params["terms"] + 1))
    assert np.array_equal(design.predict(x), again.predict(x))
    with Store(found.folder, read_only=True) as store:
        weights = store.weights(one.state)
    assert np.array_equal(weights["w"], np.full(3, 10 * one.params["bits"] + one.params["terms"]))


def test_the_page_is_written_on_the_way_and_a_full_disk_does_not_end_the_search(tmp_path, monkeypatch):
    written = []

    def page(self, path):
        written.append((path, len(self.candidates)))
        if len(self.candidates) < 8:
            raise hc.CompileError(path, "the page cannot be written")

    monkeypatch.setattr(show, "QUIET_S", 0.0)
    monkeypatch.setattr(show, "PAGE_SHARE", 0)
    monkeypatch.setattr(SearchResult, "page", page)
    searched(tmp_path / "runs", page="frontier.html", workers=1)
    assert written[-1] == ("frontier.html", 8)
    assert len(written) > 3
    counts = [n for _, n in written[:-1]]
    assert counts == sorted(set(counts))  # only when there is more to show


def test_the_command_builds_a_candidate(found, tmp_path):
    command = found.command(found.frontier[0]).replace("hwcompile", f"{sys.executable} -m hwcompile")
    assert "my runs' && " in command  # quoted
    done = subprocess.run(["bash", "-c", f"cd {tmp_path} && {command}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout


def test_the_page_shows_every_candidate(found, tmp_path):
    text = found.page(tmp_path / "page.html").read_text()
    assert all(f.state[:10] in text for f in found.candidates)
    assert "hwcompile lineage export" in text


def test_the_page_keeps_to_the_constraints(found, tmp_path):
    limit = sorted(f.values["lut"] for f in found.candidates)[5]
    bounded = dataclasses.replace(found, constraints=constraints_of([f"lut<={limit}"]))
    text = bounded.page(tmp_path / "page.html").read_text()
    shown = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["candidates"]
    assert {c["name"] for c in shown if c["frontier"]} >= {f.state[:10] for f in bounded.frontier}
    assert all((c["misses"] == f"lut<={limit:g}") is (c["values"]["lut"] > limit) for c in shown)
    assert not any(c["misses"] and c["frontier"] for c in shown)


def test_the_figure_for_a_paper(found, tmp_path):
    assert found.figure(tmp_path / "f.svg").read_text().lstrip().startswith("<?xml")
    with pytest.raises(
        hc.CompileError, match="'speed' is no objective of the search; objectives: accuracy, lut, latency_ns"
    ):
        found.figure(tmp_path / "g.svg", x="speed")


def test_synthesis_is_kept_beside_the_estimate(tmp_path):
    found = searched(tmp_path / "runs", trials=3)
    found.synthesize(1)
    with Store(found.folder, read_only=True) as store:
        child = store.children(found.frontier[0].state)[0]
    assert child.metrics["lut_synthesis"] > 0
    assert child.metrics["lut"] == found.frontier[0].values["lut"]
    found.synthesize(1)  # again: nothing is done twice
    with Store(found.folder, read_only=True) as store:
        assert len(store.children(found.frontier[0].state)) == 1


def with_goals(trial):
    made = train(trial)
    return Trained(made.model, made.metrics, method=made.method, goal={"ii": 2} if trial.params["terms"] > 2 else {})


def test_one_synthesis_that_cannot_be_ends_no_other(tmp_path, monkeypatch):
    pages = []
    page = SearchResult.page
    monkeypatch.setattr(
        SearchResult, "page", lambda self, path: (pages.append(dict(self.unsynthesized)), page(self, path))
    )
    cheapest = []

    def design(self, found, **options):
        cheapest[:] = cheapest or [found.state]
        if found.state == cheapest[0]:
            raise hc.CompileError("synthesis", "Yosys refused")
        return built(self, found, **options)

    built = SearchResult.design
    monkeypatch.setattr(SearchResult, "design", design)
    found = searched(tmp_path / "runs", train=with_goals, trials=10, synthesize=True, page=tmp_path / "page.html")
    goals = {f.state for f in found.frontier if f.goal}
    left = found.unsynthesized
    assert len(pages) == 2  # before it takes its time, and after
    assert set(left) == {*goals, cheapest[0]}
    assert goals
    assert len(left) < len(found.frontier)
    assert left[cheapest[0]] == "synthesis: Yosys refused"
    assert all("Yosys synthesizes the RTL" in left[s] for s in goals)
    assert "synthesis: Yosys refused" in (tmp_path / "page.html").read_text()
    monkeypatch.undo()
    found.synthesize()  # what failed is tried again
    assert set(found.unsynthesized) == goals


def test_a_search_goes_on(tmp_path):
    first = [f.state for f in searched(tmp_path / "runs", trials=4).candidates]
    second = searched(tmp_path / "runs", trials=9)
    assert first == [f.state for f in second.candidates[:4]]
    assert sorted(f.trial for f in second.candidates) == list(range(9))
    assert [f.state for f in searched(tmp_path / "runs", trials=9).candidates] == [f.state for f in second.candidates]


@pytest.mark.parametrize("sampler", ["frontier", "nsga2", "tpe", "random"])
def test_one_worker_is_deterministic(tmp_path, sampler):
    runs = [searched(tmp_path / name, workers=1, sampler=sampler, seed=5, constraints=["lut<=150"]) for name in "ab"]
    assert [(f.params, f.values) for f in runs[0].candidates] == [(f.params, f.values) for f in runs[1].candidates]


def test_trials_that_fail_or_die_or_hang_are_recorded_and_the_search_goes_on(tmp_path):
    space = {**SPACE, "fail": 3, "crash": 5}
    found = searched(tmp_path / "runs", space=space, trials=16, sampler="random", seed=1)
    errors = {f.params["bits"]: f.error for f in found.candidates if f.error}
    assert errors[3] == "ValueError: no luck"
    assert errors[5] == "the process of the trial was killed by SIGKILL"
    assert sorted(f.trial for f in found.candidates) == list(range(16))
    slow = {"bits": Choice(4, 6), "terms": 1, "sleep": Choice(0.0, 60.0)}
    found = searched(tmp_path / "slow", space=slow, trials=6, trial_limit="2s", sampler="random")
    hung = [f for f in found.candidates if f.error]
    assert hung
    assert all("took longer than the 2 s" in f.error and f.params["sleep"] == 60 for f in hung)


def test_a_function_that_only_fails_ends_the_search(tmp_path):
    with pytest.raises(hc.CompileError, match=r"its first 10 trials failed, the last so: ValueError: no luck"):
        searched(tmp_path / "runs", space={"bits": Choice(3), "terms": Integer(1, 4), "fail": 3}, trials=50, workers=1)


def wrong(trial):
    return {"accuracy": 1.0}


def unmeasured(trial):
    return Trained(model(4, 1))


def sometimes(trial):
    """Finite, infinite, and without one of the objectives."""
    made = train(trial)
    extra = [{"rms": 1.0}, {"rms": float("inf")}, {}][trial.number % 3]
    return Trained(made.model, {**made.metrics, **extra}, method=made.method)


def test_a_trial_without_its_values_fails_alone(tmp_path):
    for trials in (6, 9):  # also where the search goes on
        found = searched(tmp_path / "runs", train=sometimes, objectives=["min:rms", "lut"], trials=trials, workers=1)
        errors = {f.trial: f.error for f in found.candidates}
        assert all("metric 'rms': must be a finite number, not inf" in errors[n] for n in range(1, trials, 3))
        assert all("objectives: 'rms' is not measured; the training" in errors[n] for n in range(2, trials, 3))
        assert [n for n in errors if not errors[n]] == list(range(0, trials, 3))
        assert not any("rms" in f.values for f in found.candidates if f.error)
    stricter = dataclasses.replace(found, objectives=objectives_of(["max:auc", "lut"]))  # recorded without it
    assert all("'auc' is not measured" in f.error or f.trial % 3 for f in stricter.candidates)
    assert stricter.frontier == ()


def test_what_a_function_must_return(tmp_path):
    with pytest.raises(hc.CompileError, match=r"must return search\.Trained\(model, metrics\), not dict"):
        searched(tmp_path / "a", train=wrong, trials=2)
    with pytest.raises(hc.CompileError, match="'accuracy' is not measured; the training function must return it"):
        searched(tmp_path / "b", train=unmeasured, trials=2)


def test_constraints_that_nobody_meets_name_the_closest(tmp_path):
    with pytest.raises(
        hc.CompileError,
        match=r"no candidate meets the constraints; the closest, \w+ \(\d terms\), has .* for latency_ns<=1",
    ):
        searched(tmp_path / "runs", constraints=["latency_ns<=1"])


def test_halving_trains_the_best_in_full(tmp_path):
    found = searched(tmp_path / "runs", trials=12, halving=2, rungs=3, workers=1, sampler="random")
    efforts = {f.trial: [] for f in found.candidates}
    with Store(found.folder, read_only=True) as store:
        for f in found.candidates:
            efforts[f.trial].append(store.get(f.state).properties["effort"])
            if store.get(f.state).properties["effort"] > 0.25:
                assert store.get(store.get(f.state).parents[0]).properties["trial"] == f.trial
    assert set(map(tuple, efforts.values())) <= {(0.25,), (0.25, 0.5), (0.25, 0.5, 1.0)}
    assert 0 < sum(len(e) == 3 for e in efforts.values()) < 12
    assert 0 < sum(len(e) == 1 for e in efforts.values()) < 12


@pytest.mark.parametrize("sampler", ["frontier", "random"])
def test_the_best_go_on_beyond_a_full_training(tmp_path, sampler):
    found = searched(tmp_path / "runs", trials=12, halving=2, rungs=2, beyond=2, workers=1, sampler=sampler)
    with Store(found.folder, read_only=True) as store:
        efforts = [store.get(f.state).properties["effort"] for f in found.candidates]
    counts = [efforts.count(e) for e in (0.5, 1.0, 2.0, 4.0)]
    assert sum(counts) == len(efforts)
    assert 12 == counts[0] > counts[1] > counts[3] > 0
    with pytest.raises(hc.CompileError, match="beyond must be 0 without halving, not 2"):
        searched(tmp_path / "other", trials=1, beyond=2)


def final(trial):
    return Trained(**{**vars(train(trial)), "final": trial.params["bits"] > 5})


def test_the_terminal_counts_as_the_result_does(tmp_path, monkeypatch):
    """A trial whose values more effort does not change is there once."""
    lines = []
    monkeypatch.setattr(show.Shown, "__call__", lambda self, study: lines.append(show.reached(study)))
    same = {"train": lambda t: train(dataclasses.replace(t, effort=1.0)), "halving": 2, "rungs": 2}
    found = searched(tmp_path / "runs", trials=10, workers=1, sampler="random", **same)
    values = [f.values for f in found.candidates]
    assert any(values.count(v) > 1 for v in values)
    assert lines[-1].startswith(f"frontier of {len(found.frontier)},")


def test_what_more_effort_does_not_change_is_trained_once(tmp_path):
    """Also where the search was stopped between the store and the journal."""
    options = {"train": final, "halving": 2, "rungs": 2, "workers": 1, "sampler": "random"}
    searched(tmp_path / "runs", trials=8, **options)
    found = searched(tmp_path / "runs", trials=16, **options)
    rungs = {}
    for f in found.candidates:
        rungs.setdefault((f.trial, f.params["bits"] > 5), []).append(f)
    assert all(len(own) == 1 for (_, ends), own in rungs.items() if ends)
    assert any(len(own) == 2 for (_, ends), own in rungs.items() if not ends)


def test_a_search_begins_with_the_points_it_is_given(tmp_path):
    first = [{"bits": 3, "terms": 2}, {"bits": 9}]
    for trials in (1, 4):  # stopped after the first, it goes on with the second
        found = searched(tmp_path / "runs", first=first, trials=trials, workers=1)
    by_trial = {f.trial: f.params for f in found.candidates}
    assert len(by_trial) == 4
    assert by_trial[0] == {"bits": 3, "terms": 2}
    assert by_trial[1]["bits"] == 9
    with pytest.raises(hc.CompileError, match=r"first.bits: must be a number from 2 to 9, not 12"):
        searched(tmp_path / "other", first=[{"bits": 12}], trials=1)
    assert not (tmp_path / "other").exists()


class Together:
    """Trials of the same number of terms are trained by one call."""

    def __call__(self, trial):
        return train(trial)

    def group(self, params):
        return str(params["terms"])

    def many(self, trials):
        assert len({t.params["terms"] for t in trials}) == 1
        made = [train(t) for t in trials]
        return [Trained(m.model, {**m.metrics, "together": len(trials)}, method=m.method) for m in made]


def test_trials_of_one_architecture_train_together(tmp_path):
    found = searched(
        tmp_path / "runs", train=Together(), space={"bits": Integer(2, 9), "terms": Choice(1, 2)}, batch=3, trials=10
    )
    assert max(f.values.get("together", 1) for f in found.candidates) == 3
    assert sorted(f.trial for f in found.candidates) == list(range(10))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trials": None}, "has neither a budget nor a number of trials"),
        ({"constraints": "luts<=3"}, "constraints: 'luts' is not measured"),
        ({"objectives": "luts"}, "'luts' does not say which way is better"),
        ({"sampler": "cmaes"}, "sampler must be one of frontier, nsga2, tpe, random"),
        ({"colour": 3}, "has no option 'colour'"),
        ({"name": "a/b"}, "must be of letters"),
        ({"target": "nothing"}, "nothing"),
        ({"population": 1}, "population must be 2 or more"),
        ({"space": {}}, "has no dimension"),
        ({"workers": "2"}, "workers must be a whole number, not '2'"),
        ({"workers": -1}, "workers must be 0 or more, not -1"),
        ({"trials": 2.5}, r"trials must be a whole number, not 2\.5"),
        ({"halving": 1.5}, r"halving must be a whole number, not 1\.5"),
        ({"batch": -3}, "batch must be 1 or more, not -3"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"clock_ns": -1}, "a period of -1 ns leaves no time"),
        ({"clock_ns": "5"}, "clock: the period must be a number of ns, not '5'"),
        ({"synthesize": -3}, "synthesize: must be True, False, or how many, not -3"),
        ({"train": "train"}, "train: must be a function of a Trial, not 'train'"),
        ({"name": 3}, "name: 3 must be of letters"),
        ({"first": [3]}, "first: must be a point, parameters by name, not 3"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, options, says):
    with pytest.raises(hc.CompileError, match=says):
        searched(tmp_path / "runs", **options)
    assert "constraints" in options or not (tmp_path / "runs").exists()  # mostly before anything is begun


def begun(folder, trials):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    return subprocess.Popen(
        [sys.executable, str(HERE), str(folder), str(trials)], env=environment, start_new_session=True
    )


def test_two_searches_under_one_name(tmp_path):
    first = begun(tmp_path / "runs", 10_000)
    try:
        lock = tmp_path / "runs/searches/killed/lock"
        while not (lock.exists() and lock.read_text()):
            time.sleep(0.05)
        with pytest.raises(hc.CompileError, match=rf"search killed: is running already, in process {first.pid}"):
            searched(tmp_path / "runs", name="killed")
    finally:
        first.kill()
        first.wait()


def assert_whole(folder):
    """Every trial is there once, and the journal and the store say the same."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "searches/killed/journal.log"))
    study = optuna.load_study(study_name="killed", storage=optuna.storages.JournalStorage(backend))
    trials = study.get_trials()
    assert [t.number for t in trials] == list(range(len(trials)))
    with Store(folder) as store:
        assert store.check().ok
        keys = [s.key for s in store.find("branch = 'killed'")]
        assert len(set(keys)) == len(keys)
        for t in trials:
            assert t.state == optuna.trial.TrialState.COMPLETE
            last = store.get(t.user_attrs["state"])
            assert last.key[:2] == ("killed", t.number)
            assert t.values == [last.metrics["accuracy"], last.metrics["lut"]]
            assert np.array_equal(store.weights(last)["w"], np.full(3, 10 * t.params["bits"] + t.params["terms"]))
    return len(trials)


def killed(folder, times, trials, seed):
    """A search killed so often at random moments, then finished."""
    random.seed(seed)
    for _ in range(times):
        process = begun(folder, trials)
        time.sleep(random.uniform(0.3, 4.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process = begun(folder, trials)
    assert process.wait() == 0
    assert assert_whole(folder) == trials


def test_a_killed_search_goes_on(tmp_path):
    killed(tmp_path / "runs", 3, 24, 0)


@pytest.mark.slow
def test_a_search_killed_twenty_five_times_loses_and_repeats_nothing(tmp_path):
    killed(tmp_path / "runs", 25, 200, 1)


def test_a_torn_journal_is_read(tmp_path):
    searched(tmp_path / "runs", trials=3)
    journal = tmp_path / "runs/searches/search/journal.log"
    with journal.open("a") as file:
        file.write(json.dumps({"op_code": 4})[:7])
    assert len(searched(tmp_path / "runs", trials=5).candidates) == 5


def test_packages_of_trials_are_imported_once_before_them(tmp_path):
    class Needs:
        imports = ("wave", "not_there_at_all")

        def __call__(self, trial):
            made = train(trial)
            return Trained(made.model, {**made.metrics, "there": float("wave" in sys.modules)}, method=made.method)

    sys.modules.pop("wave", None)
    found = searched(tmp_path / "runs", train=Needs(), trials=2)
    assert all(f.values["there"] == 1 for f in found.candidates)
