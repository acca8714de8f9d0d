"""Real trained networks, end to end: the framework's own outputs, every engine, written folders and what breaks in them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import Quant, evaluate_real
from hwcompile.ir.evaluate import evaluate_all

ROOT = Path(__file__).parents[2]
FOLDERS = {"jet_tagger": ROOT / "examples"} | dict.fromkeys(
    ("jets_float_w4a6", "jets_qdq_w8a8", "smartpix_filter_po2_w4a8"), ROOT / "tests" / "data"
)


def files(name):
    return FOLDERS[name] / f"{name}.onnx", np.load(FOLDERS[name] / f"{name}.npz")


@pytest.fixture(scope="module")
def designs():
    return {name: hc.compile(files(name)[0], "vu9p", 5) for name in FOLDERS}


def last_sums(design, x):
    """Raw integers of the last matrix, and the same read back from outputs in real units."""
    graph = design.graph
    at = max(i for i, n in enumerate(graph.nodes) if n.op.name == "linear")
    raw = evaluate_all(graph, design.quantize(x))[at]
    output = graph.outputs[0]
    zero = design.predict(x, engine="reference") - raw * unit(graph, at, output)
    return raw, unit(graph, at, output), zero[:1]


def unit(graph, at, output):
    return np.ldexp(1.0, np.asarray(graph.nodes[at].type.fixed.exp)) * np.asarray(output.real.scale, np.float64)


@pytest.mark.parametrize(
    "name,most", [("jet_tagger", 0), ("jets_float_w4a6", 0), ("smartpix_filter_po2_w4a8", 0), ("jets_qdq_w8a8", 2)]
)
def test_integers_of_the_exporting_framework(name, most, designs):
    """The framework's float32 outputs, read back as the integers that they stand for, are ours."""
    data, design = files(name)[1], designs[name]
    raw, step, bias = last_sums(design, data["x"])
    theirs = np.round((data["y"].astype(np.float64) - bias) / step).astype(np.int64)
    wrong = np.flatnonzero((theirs != raw).any(axis=1))
    assert len(wrong) <= most
    for event in wrong:
        assert nearest_tie(name, data["x"][event : event + 1]) < 5e-5


def nearest_tie(name, x):
    """Distance from the nearest rounding boundary of any quantizer in the network, in steps: where float32 goes astray."""
    model = read_onnx(files(name)[0])
    values = evaluate_real(model, {model.nodes[0].name: x})
    found = [
        np.abs((values[n.operands[0]] / n.op.scale) % 1 - 0.5).min() for n in model.nodes if isinstance(n.op, Quant)
    ]
    return min(found)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_engine_equals_the_reference(name, designs):
    data, design = files(name)[1], designs[name]
    verification = design.verify(data["x"], events=300)
    ran = {r.engine: r for r in verification.results}
    assert set(ran) == {"reference", "cpu", "rtl", "hls", "proof"}
    assert all(r.vectors > 0 for r in verification.results)
    assert verification.ok, [str(r.first or r.note) for r in verification.results if r.mismatches]
    found = design.deviate(data["x"])
    assert found.relative_rms < 1e-9
    assert found.argmax_agreement == 1


def test_accuracy_is_the_networks(designs):
    data = files("jet_tagger")[1]
    score = designs["jet_tagger"].score(data["x"], data["label"])
    assert score["compiled"] == score["model"] == pytest.approx(np.mean(data["y"].argmax(1) == data["label"]))


def test_predict_in_all_its_forms(designs):
    data, design = files("jet_tagger")[1], designs["jet_tagger"]
    x = data["x"][:50]
    real = design.predict(x)
    assert np.abs(real - data["y"][:50]).max() < 5e-5
    raw_in = design.quantize(x)
    for engine in ("cpu", "reference", "rtl", "hls"):
        raw = design.predict(raw_in, raw=True, engine=engine)
        exp = design.graph.nodes[design.graph.outputs[0].node].type.fixed.exp
        assert (np.ldexp(raw.astype(float), exp) == real).all()
    assert (design.predict({"input": x}, threads=2) == real).all()
    with pytest.raises(hc.CompileError, match=r"'fpga' is not available here .*; available: cpu, reference"):
        design.predict(x, engine="fpga")


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "hwcompile", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def written(designs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("design") / "jet_tagger"
    design = designs["jet_tagger"]
    design.verify(files("jet_tagger")[1]["x"][:50])
    return design.write(folder)


def test_written_folder(written, tmp_path):
    assert {p.name for p in written.iterdir()} == {
        "rtl",
        "hls",
        "engine",
        "model.hwc",
        "report.json",
        "report.html",
        "hwcompile.json",
    }
    report = json.loads((written / "report.json").read_text())
    assert report["timing"]["latency_cycles"] > 0
    assert report["estimate"]["lut"] > 1000
    again = hc.open_design(written)
    assert str(again.graph) == (written / "model.hwc").read_text()
    shown = run("report", written)
    assert "node_linear_1" in shown.stdout
    done = run("predict", written, "--data", ROOT / "examples" / "jet_tagger.npz", "--output", tmp_path / "p.npz")
    assert done.returncode == 0, done.stderr
    y = np.load(tmp_path / "p.npz")["linear_3"]
    assert np.abs(y - files("jet_tagger")[1]["y"]).max() < 5e-5


def test_a_design_for_a_device_of_ones_own_is_opened_again(tmp_path):
    own = tmp_path / "my_board.toml"
    shipped = (ROOT / "hw_targets" / "vu9p.toml").read_text()
    own.write_text(shipped.replace('name = "vu9p"', 'name = "my_board"'))
    folder = hc.compile(ROOT / "examples" / "jet_tagger.onnx", str(own), backends=("cpu",)).write(tmp_path / "out")
    own.unlink()
    assert hc.open_design(folder).device.name == "my_board"
    assert run("verify", folder).returncode == 0


def test_same_input_same_bytes(designs, written):
    again = hc.compile(files("jet_tagger")[0], "vu9p", 5).project()
    for path, content in again.files.items():
        if not path.startswith("report."):
            assert (written / path).read_bytes() == (content if isinstance(content, bytes) else content.encode()), path


def mutated(written, tmp_path, pattern, replacement, glob):
    """A copy of the folder with the first match in its files changed."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(written, folder)
    for path in sorted(folder.glob(glob)):
        text = path.read_text()
        changed = re.sub(pattern, replacement, text, count=1)
        if changed != text:
            path.write_text(changed)
            return folder
    raise AssertionError(f"nothing matches {pattern}")


@pytest.mark.parametrize(
    "pattern,replacement,glob,engine",
    [
        (r" \+ ", " - ", "rtl/src/*node_linear_1.v", "rtl"),
        (r"node_linear_2_bias_\d+\[32\] = \{\s*-?\d+", lambda m: m[0] + "1", "engine/engine.cpp", "cpu"),
    ],
)
def test_a_change_on_disk_is_found_and_named(written, tmp_path, pattern, replacement, glob, engine):
    folder = mutated(written, tmp_path, pattern, replacement, glob)
    done = run("verify", folder, "--data", ROOT / "examples" / "jet_tagger.npz", "--events", 200)
    assert done.returncode == 1, done.stdout + done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith(engine))
    assert "input vector: input = [" in line
    assert "the reference gives" in line
    if engine == "rtl":
        assert "differs in layer node_linear_1" in line


def test_float_model_by_calibration(tmp_path):
    """The tagger without its quantizers: a tolerance gives widths, a budget gives a deviation."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = [(16, 32), (32, 5)]
    weights = [(rng.normal(size=s) / np.sqrt(s[0])).astype(np.float32) for s in shapes]
    constants = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    constants.append(numpy_helper.from_array(rng.normal(size=32).astype(np.float32), "b"))
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w1"], ["s"], name="second"),
        helper.make_node("Softmax", ["s"], ["y"], name="prob"),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("x", 1, ["n", 16])],
        [helper.make_tensor_value_info("y", 1, ["n", 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = rng.normal(size=(3000, 16)).astype(np.float32) * np.geomspace(0.01, 300, 16)
    design = hc.compile(model, "zu7ev", calibration=x, tolerance=0.02)
    found = design.deviate(x)
    assert found.relative_rms <= 0.02
    assert found.argmax_agreement > 0.95
    assert design.calibration.bits["first.weights"] >= 2
    assert design.verify(x, events=200).ok
    eight = hc.compile(model, "zu7ev", calibration=x, bits=8, backends=("cpu",))
    assert set(eight.calibration.bits.values()) == {8}
    with pytest.raises(hc.CompileError, match="a tolerance of 1e-12 is not reached with 20 bits"):
        hc.compile(model, calibration=x, tolerance=1e-12, backends=())
    onnx.save(model, tmp_path / "f.onnx")
    assert "give --calibrate data.npz" in run(tmp_path / "f.onnx").stderr
