"""The stream architecture of the HLS writer: every op in words, equal to the reference; FIFOs that never make it wait."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "codegen"))
from dataflow_model import run as run_cycles

from hwcompile.codegen.dataflow import timing
from hwcompile.codegen.hls import LayerSchedule, Schedule, emit, find_ap_types, simulate
from hwcompile.codegen.hls.hosted import hosted_transposes
from hwcompile.codegen.hls.plan import plan
from hwcompile.codegen.hls.stream_plan import stream_plan
from hwcompile.codegen.hls.stream_top import stream_processes
from hwcompile.hw_targets import load_target, process
from hwcompile.ir.errors import CompileError
from hwcompile.ir.evaluate import evaluate
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import (
    Add,
    Concat,
    Constant,
    Gather,
    Input,
    Linear,
    Lookup,
    Maximum,
    Mul,
    Quantize,
    ReduceMax,
    ReduceSum,
    Reshape,
    Transpose,
    Window,
)
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.verify.random_graphs import random_graph, random_inputs, random_type

VU13P = load_target("vu13p")
STREAM = Schedule("stream")


def exact(graph, schedule=STREAM, events=60):
    """Emit, simulate, compare every bit."""
    hls = emit(graph, VU13P, 5.0, schedule)
    inputs = random_inputs(graph, np.random.default_rng(3), events)
    found, wanted = simulate(hls, inputs), evaluate(graph, inputs)
    wrong = [name for name in wanted if not np.array_equal(found[name], wanted[name])]
    assert wrong == []
    return hls


class Net(Builder):
    """A builder with the layers of convolutional networks, channels last."""

    def __init__(self, name, seed=0):
        super().__init__(name)
        self.rng = np.random.default_rng(seed)

    def window(self, x, kernel, stride=1, pad=0, dilation=1, fill="zero", name=""):
        rank = len(self.type(x).shape) - 1
        fields = ((v,) * rank if isinstance(v, int) else v for v in (kernel, stride, dilation, pad, pad))
        return self.add(Window(*fields, fill), x, name=f"{name}.window")

    def conv(self, x, n, kernel, name, low=0, **geometry):
        w = self.window(x, kernel, name=name, **geometry)
        *positions, taps, channels = self.type(w).shape
        y = self.add(Reshape((*positions, taps * channels)), w, name=f"{name}.taps")
        return self.dense(y, n, name, low)

    def dense(self, x, n, name, low=0):
        n_in = self.type(x).shape[-1]
        y = self.add(Linear(self.rng.integers(-8, 8, (n_in, n)), -3), x, name=name)
        y = self.add(Add(), y, self.add(Constant(self.rng.integers(-8, 8, n), -3), name=f"{name}.bias"))
        return self.add(Quantize(Fixed(low, 127, -3), Rounding.RND_CONV, Overflow.SAT), y, name=f"{name}.act")

    def pool(self, x, kernel, name, op=ReduceMax, **geometry):
        w = self.window(x, kernel, name=name, **geometry)
        y = self.add(op(len(self.type(w).shape) - 2), w, name=name)
        *positions, _, channels = self.type(y).shape
        return self.add(Reshape((*positions, channels)), y, name=f"{name}.shape")

    def flat(self, x):
        return self.add(Reshape((self.type(x).size,)), x)

    def done(self, **outputs):
        return run(self.graph([Output(name, i) for name, i in outputs.items()]), PIPELINES["hardware"])


def residual_cnn():
    b = Net("cnn")
    x = b.add(Input((2, 9, 11), Fixed(-16, 15, -2)), name="x")
    h = b.conv(b.add(Transpose((1, 2, 0)), x), 4, 3, "c1", pad=1)
    g = b.conv(h, 4, 3, "c2", pad=1, low=-128)
    s = b.add(Quantize(Fixed(-64, 63, -2), Rounding.RND, Overflow.SAT), b.add(Add(), g, h), name="sum")
    p = b.pool(s, 2, "pool", stride=2, pad=1, fill="nearest")
    q = b.conv(p, 3, 2, "c3", stride=2)
    return b.done(y=b.dense(b.flat(q), 5, "fc", low=-128))


FOLDED = Schedule(
    "stream",
    {
        "c1": LayerSchedule("resource", 6),
        "c2": LayerSchedule("resource", 18),
        "c3": LayerSchedule("distributed"),
        "fc": LayerSchedule("resource", 30),
    },
)


@pytest.mark.parametrize("schedule", [STREAM, FOLDED], ids=["latency", "folded"])
def test_a_residual_network_is_exact_and_never_waits(schedule):
    graph = residual_cnn()
    hls = exact(graph, schedule)
    assert dict(hls.order) == {"x": (1, 2, 0)}
    hosted, _ = hosted_transposes(graph)
    processes = stream_processes(stream_plan(plan(hosted), schedule), schedule, VU13P, 5.0)
    t = timing(processes)
    ends = run_cycles(processes, t.depths)
    assert ends == run_cycles(processes, dict.fromkeys(t.depths, 10**6))
    assert ends[0] + 1 == t.latency_cycles == hls.timing.latency_cycles
    assert ends[-1] - ends[-2] == t.ii == max(p.interval for p in processes)
    assert run_cycles(processes, t.depths, 7)[-1] == ends[-1] + 3 * t.ii
    skip = max((name for name in t.depths if name.startswith("c1_act_")), key=lambda name: t.depths[name])
    fewer = run_cycles(processes, {**t.depths, skip: t.depths[skip] - 1})
    assert fewer is None or fewer > ends
    assert run_cycles(processes, {**t.depths, skip: 1}) is None
    text = hls.project.files["firmware/cnn.cpp"]
    assert f"#pragma HLS STREAM variable={skip} depth={t.depths[skip]}\n" in text


def test_reuse_must_fit_the_words_of_a_row():
    layers = {"fc": LayerSchedule("resource", 5)}
    with pytest.raises(CompileError) as e:
        emit(residual_cnn(), VU13P, 5.0, Schedule("stream", layers))
    assert str(e.value) == (
        "layer fc: the reuse factor must divide 18 x 5 = 90 products and be a multiple of 6, as a row arrives in 6 words, "
        "not 5; the nearest valid ones are 6"
    )


@pytest.mark.parametrize("geometry", [
    {"kernel": 3}, {"kernel": 3, "pad": 1}, {"kernel": 2, "stride": 2}, {"kernel": 3, "stride": 2, "pad": 1},
    {"kernel": 2, "dilation": 2}, {"kernel": (1, 3)}, {"kernel": (3, 1), "pad": (1, 0)}, {"kernel": 1},
    {"kernel": 1, "stride": 2},
])  # fmt: skip
def test_windows_of_every_geometry(geometry):
    b = Net("windows")
    rng = np.random.default_rng(1)
    x = b.add(Input((5, 7, 3), random_type(rng, (5, 7, 3))), name="x")
    y = b.window(x, **geometry, name="w")
    z = b.pool(x, **geometry, name="largest", fill="nearest")
    hls = exact(b.done(y=y, z=z))
    assert "_buffer" not in hls.project.files["firmware/windows.cpp"]


def test_windows_in_one_and_three_dimensions():
    b = Net("rank")
    x = b.add(Input((9, 2), Fixed(-8, 7, -1)), name="x")
    y = b.conv(x, 3, 3, "conv", stride=2, pad=1)
    v = b.add(Input((3, 4, 3, 2), Fixed(-8, 7, -1)), name="v")
    z = b.pool(b.conv(v, 2, 2, "deep", pad=1), 2, "mean", op=ReduceSum)
    nearest = b.window(x, 3, pad=1, fill="nearest", name="nearest")
    hls = exact(b.done(y=y, z=z, nearest=nearest))
    assert "collected, and read again" in hls.project.files["firmware/rank.cpp"]


def test_particles_with_a_shared_network_and_a_sum():
    b = Net("deepsets")
    x = b.add(Input((8, 3), Fixed(-16, 15, -2)), name="x")
    h = b.dense(b.dense(x, 6, "phi1"), 4, "phi2")
    total = b.add(ReduceSum(0), h, name="total")
    top = b.add(ReduceMax(0), h, name="top")
    both = b.add(Concat(1), total, top, name="both")
    y = b.dense(b.flat(both), 3, "rho", low=-128)
    scale = b.add(Mul(), h, top, name="gate")  # the larger operand waits for the smaller one
    graph = b.done(y=y, gate=scale)
    hls = exact(graph, Schedule("stream", {"phi1": LayerSchedule("resource", 9)}))
    assert hls.timing.ii >= 8 * 9


def test_layout_and_tables_in_words():
    b = Net("layout")
    rng = np.random.default_rng(4)
    x = b.add(Input((4, 6), Fixed(-8, 7, -1)), name="x")
    c = b.add(Constant(rng.integers(-9, 9, (4, 2)), -2), name="c")
    p = b.add(Constant(rng.integers(-9, 9, (4, 1)), -2), name="p")
    parts = {
        "turned": b.add(Transpose((1, 0)), x),
        "some": b.add(Gather(np.arange(24).reshape(4, 6)[:, 1::2]), x),
        "mixed": b.add(Gather(rng.integers(0, 24, (5, 3))), x),
        "square": b.add(Lookup(np.arange(-8, 8) ** 2, -8, -1, -2), x),
        "each": b.add(Lookup(rng.integers(-50, 50, (4, 6, 16)), -8, -1, -2), x),
        "beside": b.add(Concat(1), x, c, b.add(Maximum(), x, p)),
        "behind": b.add(Concat(0), x, b.add(Add(), x, p), x),
        "image": b.add(Reshape((2, 2, 6)), x),
        "wide": b.add(ReduceMax(1), x),
        "halves": b.add(ReduceSum(1), b.add(Reshape((4, 3, 2)), x)),
        "x_again": x,
        "c": c,
    }
    text = exact(b.done(**parts)).project.files["firmware/layout.cpp"]
    assert len(re.findall(r"collected, and read again", text)) == 2  # turned and mixed; all else stays in its word


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs(seed):
    exact(random_graph(np.random.default_rng(seed), ops=25))


def test_an_input_that_nothing_reads_is_refused():
    b = Net("unread")
    x, _ = (b.add(Input((2,), Fixed(0, 3, 0)), name=name) for name in ("x", "spare"))
    with pytest.raises(CompileError, match=r"spare \(input\): nothing reads it, and a stream must be read"):
        emit(b.graph([Output("y", b.add(ReduceSum(0), x))]), VU13P, 5.0, STREAM)


def test_the_testbench_passes_and_no_stream_is_read_while_empty(tmp_path):
    hls = emit(residual_cnn(), VU13P, 5.0, FOLDED)
    folder = hls.project.write(tmp_path / "cnn")
    flags = ("-std=c++11", "-O0", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-isystem", str(find_ap_types()))
    program = tmp_path / "testbench"
    process.compile_cpp([folder / "firmware/cnn.cpp", folder / "tb/cnn_tb.cpp"], program, flags)
    done = process.run([program], where="testbench", cwd=folder)
    assert done.output == "PASS: 64 events, every bit equal\n"


def test_one_fifo_has_one_writer_and_one_reader():
    text = emit(residual_cnn(), VU13P, 5.0, FOLDED).project.files["firmware/cnn.cpp"]
    top = text[text.index("\nvoid cnn(") :]
    calls = [call.split(", ") for call in re.findall(r"^ {4}\w+\(([^\"\n]*)\);$", top, re.MULTILINE)]
    names = [name for call in calls for name in call]
    assert {name: names.count(name) for name in names if name not in ("x", "y")} == dict.fromkeys(
        (n for n in names if n not in ("x", "y")), 2
    )
