"""The example of the documentation, at its small size: it trains, compiles and verifies."""

import runpy
import sys
from pathlib import Path

import pytest

import hwcompile as hc

EXAMPLE = Path(hc.__file__).parent / "examples" / "train_jet_tagger.py"


@pytest.mark.slow
def test_the_example_meets_its_budget_exactly(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "2500"])
    found = runpy.run_path(str(EXAMPLE), run_name="__main__")
    last = found["result"].records[-1].measures
    assert last["lut"] <= 2500
    assert last["score"] > 0.65
    said = capsys.readouterr().out
    assert "✓ rtl" in said
    assert "✗" not in said
