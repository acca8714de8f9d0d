"""`hwcompile train`: what it prints, and what it refuses."""

import re

from click.testing import CliRunner

import hwcompile as hc
from hwcompile import models
from hwcompile.cli import _Compiler
from hwcompile.models.commands import train_command


def ran(*arguments):
    return CliRunner().invoke(train_command, arguments, obj=_Compiler())


def test_without_a_name_it_lists_the_models():
    found = ran().output
    assert [line.split()[0] for line in found.splitlines()] == list(models.MODELS)


def test_it_trains_compiles_and_writes(tmp_path):
    found = ran("pixel_filter", "--effort", "0.05", "--output", str(tmp_path / "filter"))
    assert found.exit_code == 0, found.output
    accuracy = re.search(r"^accuracy\s+([\d.]+)\s+([\d.]+)$", found.output, re.M)
    assert accuracy
    assert float(accuracy[2]) > 0.7
    assert re.search(r"estimate: [\d,]+ LUT", found.output)
    assert re.search(r"latency \d+ cycles", found.output)
    assert (tmp_path / "filter" / "model.hwc").exists()
    again = ran("pixel_filter", "--output", str(tmp_path / "filter"))
    assert "already holds a compiled project" in str(again.exception)
    assert not again.output  # nothing was trained for it


def test_data_and_events_exclude_each_other():
    found = ran("digits", "--data", "digits.npz", "--events", "1000")
    assert isinstance(found.exception, hc.CompileError)
    assert str(found.exception).startswith("option --events: goes without --data")
