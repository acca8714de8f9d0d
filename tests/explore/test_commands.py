"""A value of the wrong kind in a configuration file of `hwcompile search` is refused in one sentence, before anything is begun."""

import numpy as np
import pytest
from click.testing import CliRunner

import hwcompile as hc
from hwcompile.explore.commands import search_command

DATA = '[data]\nfile = "toy.npz"\n'


def refused(folder, text):
    """The sentence that a file of this text is refused with; beside it the data of 40 events."""
    rng = np.random.default_rng(0)
    np.savez(
        folder / "toy.npz", x=rng.normal(size=(40, 4)), y=np.arange(40) % 3, image=np.zeros((40, 2, 2)), few=np.zeros(7)
    )
    (folder / "search.toml").write_text(text)
    done = CliRunner().invoke(search_command, [str(folder / "search.toml"), "--quiet"])
    assert isinstance(done.exception, hc.CompileError), done.exception
    assert sorted(p.name for p in folder.iterdir()) == ["search.toml", "toy.npz"]
    return str(done.exception)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("search = 3", "search.toml.search: must be a table, not 3"),
        (DATA + '[search]\ntrials = "8"', "search.trials: must be a whole number, not '8'"),
        (DATA + '[search]\ntrials = 8\nhalving = "2"', "search.halving: must be a whole number, not '2'"),
        (DATA + "[search]\ntrials = true", "search.trials: must be a whole number, not True"),
        (DATA + "[search]\ntrials = 8\nclock_ns = [5]", "search.clock_ns: must be a number, not [5]"),
        (DATA + "[search]\ntrials = 8\nobjectives = 3", "search.objectives: must be a list or text, not 3"),
        (DATA + "[search]\ntrials = 8\nname = 3", "search.name: must be text, not 3"),
        (DATA + 'events = "100"\n[search]\ntrials = 2', "data.events: must be a whole number, not '100'"),
        (DATA + "events = -1\n[search]\ntrials = 2", "data: events must be 1 or more"),
        (DATA + "events = 1\n[search]\ntrials = 2", "data.validation: must leave events on both sides: of 1"),
        (DATA + "standardize = 1\n[search]\ntrials = 2", "data.standardize: must be true or false, not 1"),
        (DATA + 'y = "few"\n[search]\ntrials = 2', "x must be [events, ...] and y as long, not [40, 4] and [7]"),
        (
            DATA + 'x = "image"\n[methods]\nhidden = [[8]]\n[search]\ntrials = 2',
            "methods.hidden: are sizes of dense networks, which take a vector, not inputs of [2, 2]",
        ),
        ("[data]\nfile = 3\n[search]\ntrials = 2", "data.file: must be text, not 3"),
        ("[train]\nfunction = 3", "train.function: must be text, not 3"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path, text, says):
    assert says in refused(tmp_path, text)
