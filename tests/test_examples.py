"""The examples run at small size, and what they print is what they promise."""

import runpy
from pathlib import Path

import pytest

import hwcompile as hc

EXAMPLES = Path(hc.__file__).parent / "examples"


def said(name, capsys, *arguments):
    """What an example prints when it is called with these arguments."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments)
    text = capsys.readouterr().out
    assert "✓" in text
    assert "✗" not in text
    return text


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_the_formula_tagger(capsys):
    text = said("formula_tagger", capsys, "3")
    assert "class 4: " in text
    assert float(text.rsplit("accuracy of the hardware: ", 1)[1]) > 0.4


@pytest.mark.slow
def test_the_search_of_a_jet_tagger(capsys, tmp_path):
    text = said("search_jet_tagger", capsys, "60s")
    assert float(text.split("nothing was chosen by: ")[1].split()[0]) > 0.55
    assert (tmp_path / "build/search/design/rtl").is_dir()
    assert (tmp_path / "build/search/frontier.html").is_file()
    assert "✓ hls" in text


@pytest.mark.parametrize(
    ("name", "arguments", "figure"),
    [
        ("pixel_filter", (), "rejected_below_2_gev_at_93.3"),
        pytest.param("pixel_regression", ("", "0.1"), "half_width", marks=pytest.mark.slow),
        pytest.param("anomaly_score", (), "auc_a_to_4l", marks=pytest.mark.slow),
    ],
)
def test_models_close_the_loop(name, arguments, figure, capsys):
    assert figure in said(name, capsys, *arguments)
