"""Every line of the support matrix is compiled and run: the engines against the reference."""

import sys
from pathlib import Path

import numpy as np
import pytest

import hwcompile as hc

sys.path.insert(0, str(Path(hc.__file__).parent / "docs"))
from generate import small_design
from vocabulary import VOCABULARY

ROWS = {row.name: row for row in VOCABULARY}


def wrong(design, row, events):
    x = np.random.default_rng(1).normal(size=(events, *row.shape))
    return {r.engine: r.mismatches for r in design.verify(x, events=events).results}


SOME = [pytest.param(n, marks=pytest.mark.slow) if k % 3 else n for k, n in enumerate(ROWS)]


@pytest.mark.parametrize("name", SOME)
def test_the_engine_runs_it(name):
    found = wrong(small_design(ROWS[name], ("cpu",)), ROWS[name], 300)
    assert found == {"reference": 0, "cpu": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_hardware_runs_it(name):
    found = wrong(small_design(ROWS[name], ("rtl", "hls")), ROWS[name], 100)
    assert found == dict.fromkeys(found, 0)
    assert {"rtl", "hls"} <= set(found)
