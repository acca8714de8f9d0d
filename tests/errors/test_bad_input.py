"""What users get wrong: one sentence, exit code 2, no traceback, nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import QONNX, Net

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL, DATA = EXAMPLES / "jet_tagger.onnx", EXAMPLES / "jet_tagger.npz"


def hwcompile(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "hwcompile", *map(str, args)], capture_output=True, text=True, cwd=cwd, check=False
    )


def refused(*args, cwd=None):
    """The sentence; asserts the manners."""
    done = hwcompile(*args, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("hwcompile: ")


def save(net, path, *outputs, change=lambda m: None):
    model = net.model(*outputs)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def dense_net(w, **quant):
    net = Net((2,))
    weights = net.const(w)
    return net, net.op("MatMul", net.quant("x", **quant), net.quant(weights, 0.25, 6))


W = np.ones((2, 3))


def dynamic(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"


CASES = {
    "nan": (
        lambda: dense_net(np.full((2, 3), np.nan)),
        None,
        "weights must be finite, but contains NaN or Inf; check the training",
    ),
    "inf": (lambda: dense_net(np.full((2, 3), np.inf)), None, "weights must be finite"),
    "zero_scale": (lambda: dense_net(W, scale=0.0), None, "the scale must be positive, not 0"),
    "negative_scale": (lambda: dense_net(W, scale=-0.5), None, "the scale must be positive, not -0.5"),
    "wide": (lambda: dense_net(W, bits=63), None, "the bit width must be one number from 1 to 62, not [63]"),
    "fraction": (lambda: dense_net(W, zero=0.5), None, "the zero point must be whole, not 0.5"),
    "rounding": (lambda: dense_net(W, rounding_mode="CEIL"), None, "rounding_mode must be one of ROUND, HALF_EVEN"),
    "attribute": (lambda: dense_net(W, colour=3), None, "attribute 'colour' is not known; known here: "),
    "dynamic": (
        lambda: dense_net(W),
        dynamic,
        "input x: only one axis may be dynamic, the batch axis, not ['batch', 'n']; export the model with fixed",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_models(name, tmp_path):
    make, change, sentence = CASES[name]
    net, out = make()
    path = save(net, tmp_path / "m.onnx", out, change=change or (lambda m: None))
    assert sentence in refused(path)


def test_unknown_operator(tmp_path):
    net = Net((2,))
    text = refused(save(net, tmp_path / "m.onnx", net.op("NonZero", "x")))
    assert text.startswith("nonzero1 (NonZero): operator is not supported; supported: Abs, Acos, Acosh, Add, And")


def test_weights_that_are_data(tmp_path):
    net = Net((2,))
    x = net.quant("x")
    text = refused(save(net, tmp_path / "m.onnx", net.op("Gemm", x, net.op("Relu", x))))
    assert (
        text
        == "gemm6 (Gemm): weights must be constant, not the output of 'relu5'; export the model with constant folding"
    )


def test_transposed_batch(tmp_path):
    net = Net((2,))
    y = net.op("Gemm", net.quant("x"), net.const(W), transA=1)
    assert "transA must be 0: it would move the batch axis" in refused(save(net, tmp_path / "m.onnx", y))


def test_a_dequantizer_of_another_scale(tmp_path):
    net = Net((2,))
    zero = net.const(0, np.int8)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", net.const(0.5), zero), net.const(0.25), zero)
    assert "must have the scale and zero point of the QuantizeLinear before it" in refused(
        save(net, tmp_path / "m.onnx", y)
    )


def test_arithmetic_on_codes(tmp_path):
    net = Net((2,))
    q = net.op("QuantizeLinear", "x", net.const(0.5), net.const(0, np.int8))
    assert "would work on quantized integers; put a DequantizeLinear before it" in refused(
        save(net, tmp_path / "m.onnx", net.op("Relu", q))
    )


def test_subgraphs(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "inner", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    net = Net((2,))
    y = net.op("If", net.const(True, np.bool_), "x", then_branch=inner, else_branch=inner)
    assert "(If): control flow must not depend on data" in refused(save(net, tmp_path / "m.onnx", y))


def test_a_float_model_says_what_it_needs(tmp_path):
    net = Net((4,))
    path = save(
        net, tmp_path / "m.onnx", net.op("MatMul", "x", net.const(np.random.default_rng(0).normal(size=(4, 2))))
    )
    assert refused(path) == (
        "input x: its precision is open: 'matmul2' reads it without a quantizer; give --calibrate data.npz with a few "
        "thousand events of real input, or export a quantized model"
    )


def test_huge_tensor(tmp_path):
    model = onnx.load(MODEL)
    model.graph.initializer.append(TensorProto(name="big", dims=[1 << 20, 1 << 12], data_type=TensorProto.FLOAT))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "a tensor must be smaller than 2 GB" in refused(tmp_path / "m.onnx")


def test_data_that_do_not_fit_their_shape(tmp_path):
    model = onnx.load(MODEL)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros(4, np.float32), model.graph.initializer[0].name)
    )
    model.graph.initializer[0].dims[0] = 64
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "its stored data do not fit shape [64]" in refused(tmp_path / "m.onnx")


def test_files(tmp_path):
    assert refused(tmp_path / "none.onnx").endswith("none.onnx: there is no such file; check the path")
    assert "is a folder, not a model file" in refused(tmp_path)
    (tmp_path / "cut.onnx").write_bytes(MODEL.read_bytes()[:5000])
    assert "is not an ONNX file, or it is truncated; export it again" in refused(tmp_path / "cut.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    assert "not an ONNX file" in refused(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "not an ONNX file" in refused(tmp_path / "empty.onnx")
    (tmp_path / "m.hwc").write_text("hello")
    assert "must start with 'hwcompile graph 1'" in refused(tmp_path / "m.hwc")


def test_options(tmp_path):
    assert refused(MODEL, "--target", "vu9").startswith("target: 'vu9' is not known; nearest are vu9p")
    assert refused(MODEL, "--backend", "rtl,vhdl") == "backend: 'vhdl' is not known; known: rtl, hls, cpu, gpu"
    assert "--bits and --tolerance need a model with open precisions" in refused(MODEL, "--bits", 8)
    assert "the period must be between 0.1 and 1,000,000 ns, not 0.01" in refused(
        MODEL, "--clock-ns", 0.01, "--backend", "cpu"
    )
    assert "0.11 ns" in refused(MODEL, "--clock-ns", 0.11, "--backend", "rtl")
    assert "add rtl to --backend" in refused(MODEL, "--synth", "--backend", "cpu")
    assert "option --events: must be at least 1, not 0" in refused(MODEL, "--events", 0)
    config = tmp_path / "hwcompile.toml"
    config.write_text("target = 'vu9p'\nreuse = 4\n")
    assert f"{config}: option 'reuse' is not known; known: target, clock_ns" in refused(MODEL, "--config", config)
    config.write_text("clock_ns = 'fast'\n")
    assert "option 'clock_ns' must be of type float, not 'fast'" in refused(MODEL, "--config", config)
    config.write_text("clock_ns = \n")
    assert "is not a readable TOML file" in refused(MODEL, "--config", config)
    assert refused("serch", "x.toml") == "serch: is neither a command nor a file; did you mean 'search'?"
    done = hwcompile(MODEL, "--taget", "vu9p")
    assert done.returncode == 2
    assert "No such option" in done.stderr


@pytest.mark.parametrize(
    "arrays,sentence",
    [
        ({"x": np.zeros((5, 15))}, "array 'x' must have shape [events, 16], not [5, 15]"),
        (
            {"a": np.zeros((5, 16)), "b": np.zeros(5)},
            "must hold an array named 'input' for that input, not only ['a', 'b']",
        ),
        ({"x": np.full((5, 16), np.nan)}, "array 'x' must be finite, but holds nan at [0, 0]; clean the data"),
        ({"x": np.zeros((0, 16))}, "must have shape [events, 16], not [0, 16]"),
        ({"x": np.array([["a"] * 16])}, "must hold an array named 'input' for that input, not only []"),
        (
            {"x": np.zeros((5, 16)), "label": np.arange(1, 6)},
            "labels: must be whole numbers from 0 to 4, as 'linear_3' has 5 scores, not 5; number the classes from 0",
        ),
    ],
)
def test_data_arrays(arrays, sentence, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    assert sentence in refused(MODEL, "--backend", "cpu", "--data", tmp_path / "d.npz")


def test_data_files(tmp_path):
    (tmp_path / "d.npz").write_bytes(DATA.read_bytes()[:1000])
    assert "must be an intact .npz or .npy file of numbers" in refused(
        MODEL, "--backend", "cpu", "--data", tmp_path / "d.npz"
    )
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    assert "must be an intact .npz or .npy file of numbers" in refused(
        MODEL, "--backend", "cpu", "--data", tmp_path / "o.npy"
    )
    assert "there is no such file" in refused(MODEL, "--backend", "cpu", "--data", tmp_path / "no.npz")


def test_output_folders(tmp_path):
    out = tmp_path / "out"
    args = (MODEL, "--backend", "cpu", "--no-verify", "--output", out)
    assert hwcompile(*args).returncode == 0
    assert refused(*args) == f"{out}: already holds a compiled project; add --overwrite or choose another --output"
    assert hwcompile(*args, "--overwrite").returncode == 0
    (out / "notes.txt").write_text("mine")
    assert "holds 1 files that hwcompile did not write, such as 'notes.txt'" in refused(*args, "--overwrite")
    (tmp_path / "file").write_text("")
    assert "must be a folder, not a file" in refused(*args[:-1], tmp_path / "file")
    assert refused("verify", tmp_path / "nowhere").endswith(
        "must be a folder that hwcompile wrote; compile a model with --output first"
    )
    assert "cannot be read" in refused("report", tmp_path / "nowhere")


def test_predictions_replace_files_only(tmp_path):
    out = tmp_path / "out"
    assert hwcompile(MODEL, "--backend", "cpu", "--no-verify", "--output", out).returncode == 0
    assert "must be a regular file or not exist yet" in refused("predict", out, "--data", DATA, "--output", "/dev/null")
    assert "cannot be written" in refused("predict", out, "--data", DATA, "--output", tmp_path / "none" / "p.npz")
    link = tmp_path / "link.npz"
    link.symlink_to(tmp_path / "real.npz")
    assert hwcompile("predict", out, "--data", DATA, "--output", link).returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "real.npz").stat().st_mode & 0o077 == (out / "model.hwc").stat().st_mode & 0o077
    shutil.rmtree(out / "engine")
    assert "lacks 3 of its files, such as 'engine/engine.cpp'" in refused("verify", out)
    (out / "hwcompile.json").write_text("{}")
    assert "is not a list of files that hwcompile wrote" in refused("verify", out)


DAMAGED = {
    "text for a number": lambda n, x: n.op("LeakyRelu", x, alpha="a"),
    "nan": lambda n, x: n.op("LeakyRelu", x, alpha=float("nan")),
    "list for a number": lambda n, x: n.op("Gemm", x, n.const(W), alpha=[1.0]),
    "text axis": lambda n, x: n.op("Softmax", x, axis="a"),
    "a reshape that does not fit": lambda n, x: n.op(
        "MatMul", x, n.op("Reshape", n.const(W), n.const([5, 5], np.int64))
    ),
    "constants that do not broadcast": lambda n, x: n.op("Mul", x, n.op("Add", n.const(W), n.const(np.ones(4)))),
    "no columns": lambda n, x: n.op("MatMul", x, n.const(np.ones((2, 0)))),
    "input that is an output": lambda n, x: "x",
    "one bit with a zero point": lambda n, x: n.quant(x, bits=1, zero=2),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_models(name, tmp_path):
    net = Net((2,))
    refused(save(net, tmp_path / "m.onnx", DAMAGED[name](net, net.quant("x"))))


def test_wrong_kinds_of_models():
    import hwcompile as hc

    with pytest.raises(hc.CompileError, match=r"must be a path, bytes or an onnx.ModelProto, not int"):
        hc.compile(3)
    assert hc.compile(MODEL, backends="cpu").backends == ("cpu",)


def test_outputs_of_one_name(tmp_path):
    net = Net((2,))
    y = net.op("Relu", net.quant("x"))
    assert "every output needs a name of its own" in refused(save(net, tmp_path / "m.onnx", y, y))


def test_integer_constants_divide_as_integers():
    import hwcompile as hc

    net = Net((2,))
    half = net.op("Cast", net.op("Div", net.const([7, -7], np.int64), net.const([2], np.int64)), to=1)
    design = hc.compile(net.model(net.op("Add", net.quant("x"), half)), backends=())
    assert design.predict(np.zeros((1, 2)), engine="reference").tolist() == [[3, -3]]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import hwcompile as hc
    from hwcompile.codegen import project

    design = hc.compile(MODEL, backends=("cpu",))
    monkeypatch.setattr(
        project.Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(hc.CompileError, match="cannot be written: No space left on device"):
        design.write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_tools_are_named(tmp_path, monkeypatch):
    import hwcompile as hc
    from hwcompile import design

    monkeypatch.setattr(design.process, "find_compiler", lambda: None)
    verification = hc.compile(MODEL, backends=("cpu",)).verify()
    assert [r.note for r in verification.results if not r.vectors] == [
        "not run, no C++ compiler: install g++ or set CXX"
    ]
    shutil.rmtree(tmp_path)


def test_domains(tmp_path):
    net = Net((2,))
    y = net.op("Quant", "x", domain="my.own")
    assert "(Quant): operator of domain 'my.own' is not supported" in refused(save(net, tmp_path / "m.onnx", y))
    assert QONNX
