"""Every method as a trial on a small task: what is trained is what is compiled, and the same trial gives the same network."""

import re
import subprocess
import sys

import numpy as np
import optuna
import pytest
import torch

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.explore import Choice, Trained, Trial
from hwcompile.explore.measure import measured
from hwcompile.explore.methods import FURTHER, METHODS, Methods, dense
from hwcompile.explore.methods_trial import Setting
from hwcompile.explore.space import checked, draw
from hwcompile.lineage import Store

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1200, 4)).astype(np.float32)
Y = ((X[:, 0] * X[:, 1] > 0) + (X[:, 2] > 0.5)).astype(np.int64)
TASK = opt.Task(X, Y)


def params(methods, name, seed=0):
    """A point of the space with the method, as a search draws it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return {"method": name, **draw(methods.space["method"].options[name], study.ask())}


@pytest.mark.parametrize("name", [*METHODS, *FURTHER])
def test_a_trial_is_exact_and_deterministic(name):
    methods = Methods(
        TASK, network=dense(4, 3), architecture={"hidden": Choice([8], [8, 4])}, epochs=4, batch=128, luts=(400, 2000),
        test=(X[:300], Y[:300]), methods=[name], ii=(4,) if name == "patterned" else (1,),
    )  # fmt: skip
    checked(methods.space)
    chosen = params(methods, name)
    first, second = (methods(Trial(0, chosen, seed=3)) for _ in range(2))
    given = {} if first.example_inputs is None else {"example_inputs": first.example_inputs}
    design = hc.compile(first.model, backends=("cpu",), **given)
    outputs = np.asarray(design.predict(np.asarray(TASK.validation[0])))
    accuracy = float((outputs.reshape(len(outputs), -1).argmax(1) == np.asarray(TASK.validation[1])).mean())
    assert first.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert first.metrics == second.metrics
    assert str(hc.compile(second.model, backends=("cpu",), **given).graph) == str(design.graph)
    assert set(first.metrics) == {"accuracy", "score", "test"}
    assert first.final == (name in ("trees", "post_training"))  # more effort makes the same


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    methods = Methods(
        TASK, dense(4, 3), {"hidden": [16]}, epochs=20, batch=128, methods=("learned", "trees"), luts=(100, 3000)
    )
    first = [*methods.first, {"method": "learned", "luts": 150.0, "stages": 1}]
    return hc.search(
        methods.space, methods, ["accuracy", "lut"], trials=6, workers=1, quiet=True, seed=4, population=4, first=first,
        folder=tmp_path_factory.mktemp("methods") / "runs",
    )  # fmt: skip


def test_networks_go_on_from_what_there_is(found):
    with Store(found.folder, read_only=True) as store:
        learned = [store.get(f.state) for f in found.candidates if f.method == "learned"]
        roots = {store.path(s)[0].method for s in learned}
        assert roots == {"float"}
        third = next(s for s in learned if s.properties["trial"] == 2)
        assert store.get(third.parents[0]).method == "learned"
        assert len({s.step.seed for s in learned}) == len({s.properties["trial"] for s in learned})  # each trial's own
        for s in learned:  # the weights in the store are those that the graph was compiled of
            text = store.graph(s)
            assert "hwc" in (text if isinstance(text, str) else text.decode())[:20]
            assert store.weights(s)


def test_it_begins_with_a_falling_budget_whose_stages_are_all_kept(found):
    first = [f for f in found.candidates if f.trial == 1]
    luts = [f.values["lut"] for f in first]
    assert {f.method for f in first} == {"learned"}
    assert len(luts) == 5
    assert max(luts) > 2 * min(luts)
    forests = [f for f in found.candidates if f.trial == 0]
    assert {f.method for f in forests} == {"trees"}
    costs = sorted(f.values["lut"] for f in forests)
    assert len(costs) == 4
    assert costs[-1] > 3 * costs[0]


@pytest.mark.slow
def test_a_recipe_repeats_the_training(tmp_path):
    methods = Methods(
        TASK, dense(4, 3), {"hidden": [8]}, 4, 128, methods=["learned", "pruned", "trees"], luts=(50, 3000)
    )
    learned = {
        "luts": 300.0,
        "stages": 2,
        "weight_bits": 6,
        "data_bits": 6,
        "lr": 0.003,
        "lr_bits": 0.02,
        "distill": 0.5,
    }
    pruned = {"amount": 0.5, "criterion": "magnitude", "bits": 5, "data_bits": 6, "lr": 0.003}
    trees = {"depth": 2, "rounds": 1, "rate": 0.5, "bits": 4, "leaf_bits": 4}
    first = [{"method": "pruned", **pruned}, {"method": "learned", **learned}]
    below = {**learned, "luts": 120.0, "distill": 0.0}  # goes on from the one before
    first += [{"method": "learned", **below}, {"method": "trees", **trees}]
    found = hc.search(methods.space, methods, trials=4, workers=1, quiet=True, first=first, folder=tmp_path / "runs")
    pair = [{**p, "distill": 0.0, "stages": 1} for p in first[1:3]]
    batched = hc.search(
        methods.space, methods, trials=2, workers=1, batch=2, quiet=True, first=pair, name="pair", folder=found.folder
    )
    with Store(found.folder) as store:
        states = [store.get(f.state) for f in (*batched.candidates, *found.candidates)]
        assert [s.step.parameters["2 Train"]["batched"] for s in states[:2]] == [2, 2]
        assert [len(store.path(s)) for s in states if s.method == "learned"] == [2, 2, 2, 2, 3, 3]
        weights = {s.id: store.weights(s) for s in states}
        store.remove("method = 'float'")
        for s in states:
            if s.method == "trees":
                with pytest.raises(hc.CompileError, match="is no network that Methods trained"):
                    methods.rebuild(store, s)
                continue
            again = methods.rebuild(store, s).state_dict()
            assert all(np.array_equal(again[k].numpy(), v) for k, v in weights[s.id].items())
        with pytest.raises(hc.CompileError, match="was trained on other data; give Methods the task of its search"):
            Methods(opt.Task(X[:500], Y[:500])).rebuild(store, states[0])


def test_what_a_student_learned_from_is_recorded():
    methods = Methods(TASK, architecture={"hidden": [8]}, epochs=2, batch=128, methods=["distilled"])
    chosen = {"method": "distilled", "hidden": [8], "distill": 0.5, "bits": 5, "data_bits": 6, "lr": 0.003}
    made = methods(Trial(0, chosen, seed=3))
    assert [s.name for s in made.steps] == ["Quantize", "Distill", "Train"]
    assert made.steps[1].parameters["teacher"] == made.start.base_key


def test_reuse_is_searched_beside_the_rest(tmp_path):
    methods = Methods(
        TASK, network=dense(4, 3), architecture={"hidden": [8]}, epochs=2, batch=256, methods=("uniform",), ii=(1, 4)
    )
    found = hc.search(
        methods.space,
        methods,
        ["accuracy", "dsp", "latency_ns"],
        trials=5,
        sampler="random",
        quiet=True,
        folder=tmp_path / "runs",
    )
    by = {f.goal["ii"]: f for f in found.candidates}
    assert set(by) == {1, 4}
    assert by[1].values["ii"] == 1
    assert by[1].values["latency_ns"] < by[4].values["latency_ns"]
    assert re.search(r"--ii[ =]4\b", found.command(by[4]))
    assert found.design(by[4], backends=("hls",)).report.schedule["ii"] == by[4].values["ii"] <= 4


def test_a_pass_that_comes_twice_is_recorded_twice(tmp_path):
    methods = Methods(TASK, network=dense(4, 3), architecture={"hidden": [8]}, epochs=4, batch=256, methods=("shrunk",))
    found = hc.search(methods.space, methods, trials=1, quiet=True, folder=tmp_path / "runs")
    with Store(found.folder, read_only=True) as store:
        step = store.get(found.candidates[0].state).step
    assert step.name == "Shrink, Train, Quantize, Train"
    assert list(step.parameters) == ["1 Shrink", "2 Train", "3 Quantize", "4 Train"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ["magic"]}, "must be some of learned, uniform, .*distilled, not magic"),
        ({"methods": []}, "must be some of .*, not none"),
        ({"methods": "trees"}, "methods must be a list of names, not 'trees'"),
        ({"epochs": 0}, "epochs must be a whole number, 1 or more, not 0"),
        ({"epochs": "x"}, "epochs must be a whole number, 1 or more, not 'x'"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch": -3}, "batch must be a whole number, 1 or more, not -3"),
        ({"luts": 300}, "luts must be two positive numbers, the lower one first, not 300"),
        ({"luts": (0, 100)}, "luts must be two positive numbers"),
        ({"luts": (300, 100)}, "luts must be two positive numbers"),
        ({"ii": 4}, "ii must be a list of whole numbers, each 1 or more, not 4"),
        ({"ii": (0,)}, "ii must be a list of whole numbers"),
        ({"warm": "no"}, "warm must be True or False, not 'no'"),
        ({"target": "none"}, "none"),
        ({"clock_ns": -1}, "clock_ns must be a positive number, not -1"),
        ({"test": X}, r"test must be a pair \(x, y\), not ndarray"),
        ({"architecture": {"width": 3}}, "architecture must have 'hidden'"),
    ],
)
def test_options_without_a_meaning_are_refused(options, says):
    with pytest.raises(hc.CompileError, match=says):
        Methods(TASK, **options)


def test_methods_that_cannot_take_the_data_are_left_out_and_refused_by_name():
    images = opt.Task(X.reshape(-1, 2, 2), Y)
    with pytest.raises(hc.CompileError, match=r"need a network for inputs \[2, 2\]"):
        Methods(images)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    by_default = Methods(images, network=lambda _: flat).chosen
    assert set(METHODS) - set(by_default) == {"trees", "formulas"}
    with pytest.raises(hc.CompileError, match=r"'trees' takes events of features, not of shape \[2, 2\]; leave it out"):
        Methods(images, network=lambda _: flat, methods=["learned", "trees"])
    own = opt.Task(X, Y, loss=torch.nn.functional.cross_entropy)
    assert "trees" not in Methods(own).chosen
    with pytest.raises(
        hc.CompileError, match=r"'patterned' takes whole multipliers .* needs reuse, such as ii=\(1, 8\)"
    ):
        Methods(TASK, methods=["patterned"])
    assert Methods(TASK).chosen == tuple(METHODS)


def test_a_goal_that_is_none_is_refused():
    with pytest.raises(hc.CompileError, match="goal: key 'io' is not known; known: latency_ns, ii, max_lut"):
        Trained(None, goal={"io": "stream"})


def test_trees_are_priced_as_the_networks_beside_them():
    reused = Methods(TASK, methods=("trees", "formulas", "uniform"), ii=(1, 8))
    assert Setting(reused, Trial(0, {"method": "trees"}, 0)).goal == {"ii": 1}
    assert Setting(reused, Trial(0, {"method": "uniform", "ii": 8}, 0)).goal == {"ii": 8}
    assert not Setting(Methods(TASK), Trial(0, {"method": "trees"}, 0)).goal
    small = {"method": "trees", "depth": 2, "rounds": 1, "rate": 0.5, "bits": 4, "leaf_bits": 4}
    forest = reused(Trial(0, small, 0))
    assert "ii" in measured(forest, "vu9p", None).values  # of the HLS schedule


def test_a_regression_has_its_score_by_a_name_that_fits():
    task = opt.Task(X, X[:, 0] * X[:, 1], loss="mse")
    methods = Methods(task, architecture={"hidden": [4]}, epochs=2, batch=256, methods=["uniform"])
    made = methods(Trial(0, {"method": "uniform", "hidden": [4], "bits": 6, "data_bits": 6, "lr": 0.01}, 0))
    assert made.metrics["score"] == made.metrics["accuracy"] < 0


def test_learned_widths_of_one_architecture_train_as_one_program():
    methods = Methods(
        TASK, network=dense(4, 3), architecture={"hidden": [8]}, epochs=20, batch=128, methods=("learned",), warm=False
    )
    same = {
        "method": "learned",
        "hidden": [8],
        "weight_bits": 6,
        "data_bits": 6,
        "lr": 0.003,
        "lr_bits": 0.02,
        "distill": 0.0,
        "stages": 2,
    }
    trials = [Trial(k, {**same, "luts": luts}, seed=k) for k, luts in enumerate((200.0, 450.0))]
    together = methods.many(trials)
    assert methods.group(trials[0].params) == methods.group(trials[1].params)
    assert [t.method for t in together] == ["learned", "learned"]
    assert [s.name for s in together[1].steps] == ["Quantize", "Train", "Train"]
    assert [s.parameters.get("seed") for s in together[1].steps] == [None, 0, 0]  # that of the program
    costs = [opt.measures(t.model, TASK)["lut"] for t in together]
    assert costs[0] < costs[1]


TOML = """
[data]
file = "toy.npz"
[methods]
use = ["uniform", "trees"]
hidden = [[8], [4, 4]]
epochs = 2
[search]
objectives = ["accuracy", "lut"]
trials = 4
folder = "{folder}"
page = "{folder}/frontier.html"
"""

OWN = """
[train]
function = "own:train"
[space]
bits = {{low = 2, high = 6}}
[search]
trials = 3
folder = "{folder}"
"""


def command(folder, text, *options):
    (folder / "toy.npz").exists() or np.savez(folder / "toy.npz", x=X, y=Y)
    (folder / "search.toml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "hwcompile", "search", str(folder / "search.toml"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_searches_and_says_how_to_build(tmp_path):
    done = command(tmp_path, TOML.format(folder=tmp_path / "runs"), "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["state", "method", "accuracy", "lut"]
    assert "build one: hwcompile lineage export" in done.stdout
    assert (tmp_path / "runs/frontier.html").read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "own.py").write_text(
        "import hwcompile as hc\n"
        "def train(t):\n"
        "    return hc.explore.Trained(hc.expression('x0*x1', inputs=f\"ap_fixed<{t.params['bits']},1>\"), {'accuracy': 1.0})\n"
    )
    done = command(tmp_path, OWN.format(folder=tmp_path / "own"), "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[search", "cannot be read"),
        ("[colour]", "key 'colour' is not known"),
        ("[search]\ntrials = 1\nspeed = 2", "search: key 'speed' is not known"),
        ("[search]\ntrials = 1", "data: needs the key file"),
        ('[data]\nfile = "none.npz"\n[search]\ntrials = 1', "there is no such file"),
        (
            '[data]\nfile = "toy.npz"\nx = "z"\n[search]\ntrials = 1',
            "has no array 'z'; set data.x and data.y; there are x, y",
        ),
        ('[data]\nfile = "search.toml"\n[search]\ntrials = 1', "is no .npz file"),
        ('[data]\nfile = "toy.npz"\nvalidation = 2\n[search]\ntrials = 1', "data.validation"),
        ('[data]\nfile = "toy.npz"\n[methods]\nuse = ["magic"]\n[search]\ntrials = 1', "must be some of learned"),
        ('[data]\nfile = "toy.npz"', "has neither a budget nor a number of trials"),
        ('[train]\nfunction = "none:train"\n[space]\na = 1', "cannot be imported"),
        ('[train]\nfunction = "train"\n[space]\na = 1', 'write "module:function"'),
        ('[train]\nfunction = "a:b"', "needs a table"),
        (
            '[train]\nfunction = "a:b"\n[methods]\n[space]\na = 1',
            "methods: are not for a training function of your own",
        ),
        (
            '[data]\nfile = "toy.npz"\n[methods]\nhidden = [64, 32]\n[search]\ntrials = 1',
            "write hidden = [[64, 32], [16]]",
        ),
        ('[data]\nfile = "toy.npz"\n[methods]\nhidden = []\n[search]\ntrials = 1', "must be a list of architectures"),
        ('[data]\nfile = "toy.npz"\n[search]\ntrials = 0', "search: trials must be 1 or more, not 0"),
    ],
)
def test_files_without_a_meaning_are_refused_in_one_sentence(tmp_path, text, says):
    done = command(tmp_path, text)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_the_search_and_its_methods_are_for_the_same_hardware(tmp_path):
    methods = Methods(TASK, methods=["trees"], clock_ns=4)
    options = {"trials": 1, "quiet": True, "folder": tmp_path / "runs"}
    with pytest.raises(hc.CompileError, match="target must be that of the training function, vu9p, not zu7ev"):
        hc.search(methods.space, methods, target="zu7ev", **options)
    with pytest.raises(hc.CompileError, match="clock_ns must be that of the training function, 4, not None"):
        hc.search(methods.space, methods, **options)
