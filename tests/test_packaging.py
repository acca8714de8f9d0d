"""A wheel installs into an environment of its own and compiles a model there, with the base dependencies alone."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests/data"
FRAMEWORKS = ("tensorflow", "torch", "keras", "tf_keras", "xgboost", "sklearn")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An environment of its own with nothing but the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    dist, home = folder / "dist", folder / "env"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(ROOT)], check=True, capture_output=True
    )
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *dist.glob("*.whl")], check=True, capture_output=True)
    return home


@pytest.mark.slow
def test_wheel_in_an_empty_environment(home, tmp_path):
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


@pytest.mark.slow
def test_no_framework_is_there(home):
    """Or the test below would show nothing."""
    code = f"import importlib.util as u; print([n for n in {FRAMEWORKS} if u.find_spec(n)])"
    done = subprocess.run([home / "bin/python", "-c", code], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, data",
    [
        ("jets_qdq_w8a8.onnx", "jets_qdq_w8a8.npz"),
        ("keras/qkeras_2.zip/model.h5", "keras/qkeras_2.zip/io.npz"),
        ("keras/hgq2.keras", "keras/hgq2.npz"),
        ("keras/qkeras_0.zip/model.json", "keras/qkeras_0.zip/io.npz"),
        ("trees/xgboost_binary.json", "trees/predictions.npz"),
        ("trees/xgboost_regression.ubj", "trees/predictions.npz"),
    ],
)
def test_files_of_frameworks_that_are_not_there(home, tmp_path, file, data):
    """Integers equal in the reference and the engine, from each kind of file; open precisions get 8 bits."""
    archive, inside, _ = file.partition(".zip")
    if inside:
        with zipfile.ZipFile(DATA / f"{archive}.zip") as z:
            z.extractall(tmp_path)
    model, events = ((tmp_path / Path(p).name if inside else DATA / p) for p in (file, data))
    open_precisions = inside or file.startswith("trees")
    if data.startswith("trees"):
        events = tmp_path / "x.npz"
        np.savez(events, x=np.load(DATA / data)["x"])
    use = ["--calibrate", events, "--bits", "8"] if open_precisions else ["--data", events]
    command = [home / "bin/hwcompile", model, *use, "--backend", "cpu", "--events", "200", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    engines = {v["engine"]: v for v in json.loads(done.stdout)["verification"]}
    assert engines["cpu"]["vectors"] >= 100
    assert engines["cpu"]["mismatches"] == 0
