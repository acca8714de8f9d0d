"""Every method as a trial on a small task: what is trained is what is compiled, and the same trial gives the same network."""

import subprocess
import sys

import numpy as np
import optuna
import pytest

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.explore import Choice, Trial
from hwcompile.explore.methods import METHODS, Methods, dense
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


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_is_exact_and_deterministic(name):
    methods = Methods(
        TASK, network=dense(4, 3), architecture={"hidden": Choice([8], [8, 4])}, epochs=4, batch=128, luts=(400, 2000),
        test=(X[:300], Y[:300]),
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
    assert set(first.metrics) == {"accuracy", "test"}
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
    assert "--ii 4" in found.command(by[4])
    assert found.design(by[4], backends=("hls",)).report.schedule["ii"] == by[4].values["ii"] <= 4


def test_a_pass_that_comes_twice_is_recorded_twice(tmp_path):
    methods = Methods(TASK, network=dense(4, 3), architecture={"hidden": [8]}, epochs=4, batch=256, methods=("shrunk",))
    found = hc.search(methods.space, methods, trials=1, quiet=True, folder=tmp_path / "runs")
    with Store(found.folder, read_only=True) as store:
        step = store.get(found.candidates[0].state).step
    assert step.name == "Shrink, Train, Quantize, Train"
    assert list(step.parameters) == ["1 Shrink", "2 Train", "3 Quantize", "4 Train"]


def test_methods_and_networks_without_a_meaning_are_refused():
    with pytest.raises(hc.CompileError, match="must be some of learned, uniform"):
        Methods(TASK, methods=("magic",))
    with pytest.raises(hc.CompileError, match=r"need a network for inputs \[2, 2\]"):
        Methods(opt.Task(X.reshape(-1, 2, 2), Y))
    with pytest.raises(hc.CompileError, match="epochs must be 1 or more"):
        Methods(TASK, epochs=0)


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
