"""Small things to search for the tests of `hwcompile.explore`: formulas, which compile in milliseconds."""

import os
import signal
import sys
import time

import numpy as np

import hwcompile as hc
from hwcompile.explore import Integer, Trained
from hwcompile.frontends.expressions import expression

SPACE = {"bits": Integer(2, 9), "terms": Integer(1, 4)}


def model(bits, terms):
    """A sum of products of numbers of so many bits."""
    return expression(" + ".join(f"x{k} * x{k + 1}" for k in range(terms)), inputs=f"ap_fixed<{bits},1>")


def train(trial):
    """Better with more bits and terms, which cost LUTs."""
    time.sleep(trial.params.get("sleep", 0.0))
    if trial.params.get("fail") == trial.params["bits"]:
        raise ValueError("no luck")
    if trial.params.get("crash") == trial.params["bits"]:
        os.kill(os.getpid(), signal.SIGKILL)
    bits, terms = trial.params["bits"], trial.params["terms"]
    accuracy = trial.effort * (1 - 2.0**-bits) * (0.5 + 0.1 * terms)
    weights = {"w": np.full(3, 10 * bits + terms, np.int64)}
    return Trained(model(bits, terms), {"accuracy": accuracy}, method=f"{terms} terms", weights=weights)


def searched(folder, **options):
    """A search of them, by default of eight trials."""
    given = {"trials": 8, "quiet": True, "workers": 2, "population": 4, **options}
    space = given.pop("space", SPACE)
    return hc.search(space, given.pop("train", train), folder=folder, **given)


if __name__ == "__main__":  # for the tests that kill it
    folder, trials = sys.argv[1], int(sys.argv[2])
    hc.search(
        SPACE,
        train,
        trials=trials,
        folder=folder,
        name="killed",
        quiet=True,
        workers=2,
        population=4,
        halving=2,
        rungs=2,
        beyond=1,
    )
