"""A wheel installs into an environment of its own and compiles a model there, with the base dependencies alone."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    dist = tmp_path / "dist"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(ROOT)], check=True, capture_output=True
    )
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *dist.glob("*.whl")], check=True, capture_output=True)
    command = [
        home / "bin" / "hwcompile",
        ROOT / "examples" / "jet_tagger.onnx",
        "--target",
        "vu9p",
        "--data",
        ROOT / "examples" / "jet_tagger.npz",
        "--output",
        tmp_path / "out",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    engines = {v["engine"]: v for v in report["verification"]}
    assert engines["cpu"]["mismatches"] == 0
    assert "hwcompile[synth]" in engines["rtl"]["note"]
    assert "hwcompile[hls]" in engines["hls"]["note"]
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "rtl",
        "hls",
        "engine",
        "model.hwc",
        "report.html",
        "report.json",
    }
