"""The generated HLS C++ equals the reference evaluation bit for bit, and the project around it is usable."""

import configparser
import dataclasses
import itertools
import re
import sys

import numpy as np
import pytest

from hwcompile.codegen.hls import Schedule, check, emit, find_ap_types, simulate
from hwcompile.codegen.hls.simulate import build
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
    Minimum,
    Mul,
    Neg,
    Quantize,
    ReduceMax,
    ReduceSum,
    Requantize,
    Reshape,
    Shift,
    Sub,
    Transpose,
)
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.verify.random_graphs import choices_graph, modes_graph, random_graph, random_inputs, random_type

VU13P = load_target("vu13p")


def hls_of(graph, **options):
    assert check(graph) == []
    return emit(graph, VU13P, 5.0, **options)


def exact(graph, inputs=None, **options):
    """Emit, simulate, compare every bit."""
    hls = hls_of(graph, **options)
    inputs = random_inputs(graph, np.random.default_rng(3), 300) if inputs is None else inputs
    found, wanted = simulate(hls, inputs), evaluate(graph, inputs)
    assert list(found) == list(wanted)
    wrong = [name for name in wanted if not np.array_equal(found[name], wanted[name])]
    assert wrong == []
    return hls


def dense_net(seed=0, sizes=(8, 12, 10, 4), name="net"):
    rng = np.random.default_rng(seed)
    b = Builder(name)
    x = b.add(Input((sizes[0],), Fixed(-128, 127, -4)), name="x")
    for k, (m, n) in enumerate(itertools.pairwise(sizes)):
        x = b.add(Linear(rng.integers(-32, 32, (m, n)), -5), x, name=f"dense_{k}")
        x = b.add(Add(), x, b.add(Constant(rng.integers(-64, 64, n), -5), name=f"bias_{k}"), name=f"add_{k}")
        if k < len(sizes) - 2:
            x = b.add(Maximum(), x, b.add(Constant(np.array(0))), name=f"relu_{k}")
            x = b.add(Quantize(Fixed(0, 255, -3), Rounding.RND_CONV, Overflow.SAT), x, name=f"act_{k}")
    return run(b.graph([Output("y", x)]), PIPELINES["hardware"])


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(2))
def test_casts_in_every_mode_on_every_value(part):
    """Intervals that are all of an ap_fixed type: the C++ relies on its assignment."""
    modes = list(itertools.product(Rounding, Overflow))[part::2]
    b = Builder("casts")
    sources = [b.add(Input((1,), Fixed(lo, hi, -4)), name=name) for name, lo, hi in (("s", -128, 127), ("u", 0, 255))]
    outputs = []
    for k, (rounding, overflow) in enumerate(modes):
        targets = ((0, 4, True, -2), (1, 4, False, -1), (0, 3, False, -3 + k % 6), (1, 3, True, k % 4))
        for x, width, signed, exp in targets:
            lo = -(1 << (width - 1)) if signed else 0
            to = Fixed(lo, lo + (1 << width) - 1, exp)
            outputs.append(b.add(Quantize(to, rounding, overflow), sources[x]))
    graph = run(b.graph(Output(f"y{k}", i) for k, i in enumerate(outputs)), PIPELINES["hardware"])
    hls = exact(graph, {"s": np.arange(-128, 128)[:, None], "u": np.arange(256)[:, None]})
    assert sum(text.count(",AP_") for text in hls.project.files.values()) > 50


def test_any_interval_and_grid_in_every_mode():
    """Types that differ between elements, with odd intervals: the explicit formula."""
    exact(run(modes_graph(np.random.default_rng(1)), PIPELINES["hardware"]))


def test_every_other_op_alone_with_random_types():
    rng = np.random.default_rng(2)
    b, nodes = Builder("ops"), []

    def x(shape, bits=8):
        return b.add(Input(shape, random_type(rng, shape, bits)))

    for op in (Add(), Sub(), Mul(), Maximum(), Minimum()):
        nodes += [b.add(op, x((3, 4)), x((4,))), b.add(op, x((1, 4)), x((3, 1))), b.add(op, x((5,)), x((1,)))]
        nodes.append(b.add(op, b.add(Constant(rng.integers(-9, 9, (5,)), rng.integers(-3, 2, 5))), x((5,))))
    nodes += [b.add(Neg(), x((6,))), b.add(Shift(3), x((6,))), b.add(Shift(np.array([-2, 0, 5])), x((2, 3)))]
    for axis in range(2):
        nodes += [b.add(op(axis), x(shape)) for op in (ReduceSum, ReduceMax) for shape in ((3, 4), (1, 1))]
    for shape in ((5,), (2, 5), (2, 1, 5)):
        weights = rng.integers(-31, 32, (5, 3)) * (rng.random((5, 3)) < 0.7)
        nodes += [b.add(Linear(weights, rng.integers(-3, 3, 3)), x(shape)), b.add(Linear(weights[:, :1], 1), x(shape))]
    nodes.append(b.add(Linear(np.array([[1, 0], [-1, 0]])), b.add(Constant(np.array([5, 5]), -3))))
    nodes.append(b.add(Reshape((2, 1)), b.add(Linear(np.array([[8, 0], [-8, 0]])), b.add(Input((2,), Fixed(0, 9, 0))))))
    lookup = b.add(Input((2, 2), Fixed(-3, 5, -1)))
    nodes += [
        b.add(Lookup(rng.integers(-100, 100, 12), -4, -1, -3), lookup),
        b.add(Lookup(rng.integers(-100, 100, (2, 2, 23)), -7, -2, 2), lookup),
    ]
    y = x((2, 3, 4))
    nodes += [
        b.add(Transpose((2, 0, 1)), y),
        b.add(Reshape((6, 4)), y),
        b.add(Gather(np.array([[23, 0], [5, 5]])), y),
        b.add(Gather(np.arange(20, 3, -3)), y),
        b.add(Gather(np.array([7])), y),
        b.add(Concat(1), y, x((2, 1, 4)), b.add(Constant(rng.integers(-9, 9, (2, 2, 4)), -7))),
        b.add(Concat(0), x((1,)), x((1,))),
    ]
    exact(b.graph(Output(f"y{k}", i) for k, i in enumerate(nodes)))


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    exact(random_graph(rng, ops=40))


def test_comparisons_and_choices():
    exact(choices_graph(np.random.default_rng(4), 9))


def test_dense_net_reads_as_layers():
    hls = exact(dense_net())
    text = hls.project.files["firmware/net.cpp"]
    for k in range(3):
        assert f"static void dense_{k}(" in text
    assert "act_0[i] = ap_ufixed<8,5,AP_RND_CONV,AP_SAT>(" in text
    assert hls.top == "net"
    assert hls_of(dense_net()).project.digest == hls.project.digest


def test_outputs_that_are_inputs_constants_or_read_again():
    b = Builder("int")  # a keyword of C++
    x = b.add(Input((2, 3), Fixed.of([[-4], [0]], [[3], [9]], [[-1], [2]])), name="a.b")
    c = b.add(Constant(np.array([3, -40, 5]), 2), name="a_b")
    y = b.add(Add(), x, c, name="x_t")
    z = b.add(Neg(), y, name="z")
    r = b.add(Reshape((6,)), z, name="for")
    m = b.add(ReduceSum(0), r, name="k")
    outputs = [Output("for", r), Output("y", y), Output("again", y), Output("same", x), Output("c", c), Output("k", m)]
    exact(b.graph(outputs))


def test_names_of_the_c_library_are_avoided():
    b = Builder("exp")
    x = b.add(Input((2,), Fixed(-4, 3, -1)), name="size")
    x = b.add(Add(), x, b.add(Constant(np.array([1, 2]), -3), name="log"), name="time")
    exact(b.graph([Output("int8", b.add(Concat(0), x, x, name="a")), Output("a_0", b.add(Neg(), x, name="a_0"))]))


def test_a_flipped_sign_is_found():
    graph = dense_net()
    hls = hls_of(graph)
    inputs = random_inputs(graph, np.random.default_rng(0), 100)
    path = "firmware/weights/dense_1.h"
    text = hls.project.files[path]
    changed = re.sub(r"\{(-?)(\d+),", lambda m: "{" + ("" if m[1] else "-") + m[2] + ",", text, count=1)
    assert changed != text
    project = type(hls.project)({**hls.project.files, path: changed})
    found = simulate(dataclasses.replace(hls, project=project), inputs)
    assert not np.array_equal(found["y"], evaluate(graph, inputs)["y"])


def test_a_quarter_million_weights():
    graph = dense_net(sizes=(16, 500, 500, 5))
    exact(graph, random_inputs(graph, np.random.default_rng(0), 20))


def test_simulation_refuses_wrong_inputs():
    hls = hls_of(dense_net())
    with pytest.raises(CompileError, match="must be given"):
        simulate(hls, {})
    with pytest.raises(CompileError, match="shape"):
        simulate(hls, {"x": np.zeros((3, 7), np.int64)})
    with pytest.raises(CompileError, match="within"):
        simulate(hls, {"x": np.full((3, 8), 128)})


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_check_names_everything_it_refuses():
    b = Builder("refused")
    x = b.add(Input((2,), Fixed(-8, 7, 0)), name="x")
    y = b.add(Requantize(3, 0, Fixed(-8, 7, 0)), x, name="scale")
    z = b.add(Constant(np.array([1, 1]), np.array([0, 90])), name="far")
    w = b.add(Shift(np.array([0, 600])), x, name="apart")
    e = b.add(Gather(np.zeros(0, np.int64)), x, name="empty")
    found = check(b.graph([Output("y", y), Output("z", z), Output("w", w), Output("e", e)]))
    starts = [line.partition(": ")[0] for line in found]
    assert starts == [
        "scale (requantize)",
        "far (constant)",
        "apart (shift)",
        "empty (gather)",
        "z (output)",
        "w (output)",
    ]
    constant = Builder("constant")
    assert check(constant.graph([Output("y", constant.add(Constant(np.array([1]))))])) == [
        "constant (graph): without inputs it is constant, and needs no hardware"
    ]
    with pytest.raises(CompileError, match=r"scale \(requantize\): .* \(and 5 more\)"):
        emit(b.graph([Output("y", y), Output("z", z), Output("w", w), Output("e", e)]), VU13P, 5.0)


def test_bad_options_are_refused():
    with pytest.raises(CompileError, match="schedule interface: must be one of ap_vld, ap_none, axis, not 'wires'"):
        Schedule(interface="wires")
    with pytest.raises(CompileError, match="schedule architecture: must be one of parallel, stream, not 'serial'"):
        Schedule(architecture="serial")
    with pytest.raises(CompileError, match="schedule ii"):
        Schedule(ii=0)
    with pytest.raises(CompileError, match="clock"):
        emit(dense_net(), VU13P, 0.0)
    graph = dense_net()
    inputs = random_inputs(graph, np.random.default_rng(0), 4)
    with pytest.raises(CompileError, match="data of y"):
        emit(graph, VU13P, 5.0, vectors=(inputs, {"y": np.zeros((3, 4), np.int64)}))


# ---- the project ----------------------------------------------------------------------------------------------------


def test_the_schedule_changes_pragmas_and_nothing_else():
    plain = hls_of(dense_net())
    other = hls_of(dense_net(), schedule=Schedule(ii=4, interface="ap_none", inline_layers=False))
    assert "#pragma HLS PIPELINE II=4" in other.project.files["firmware/net.cpp"]
    assert "#pragma HLS INTERFACE ap_none port=x" in other.project.files["firmware/net.cpp"]
    assert "#pragma HLS INTERFACE ap_vld port=x" in plain.project.files["firmware/net.cpp"]

    def code(hls):
        return [line for line in hls.project.files["firmware/net.cpp"].splitlines() if not line.startswith("#pragma")]

    assert code(plain) == code(other)


def test_streams_are_read_once():
    hls = exact(dense_net(), schedule=Schedule(interface="axis"))
    text = hls.project.files["firmware/net.cpp"]
    assert "#pragma HLS INTERFACE axis port=x" in text
    assert len(re.findall(r"\bx\b", text.partition("void net(")[2])) == 4  # parameter, two pragmas, the copy


def test_testbench_passes_and_names_the_first_difference(tmp_path):
    hls = hls_of(dense_net())
    folder = hls.project.write(tmp_path / "net")
    headers = find_ap_types()
    # Warnings count at -O0: with optimization g++ warns about the ap_fixed headers themselves.
    flags = ("-std=c++11", "-O0", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-isystem", str(headers))
    program = tmp_path / "testbench"
    process.compile_cpp([folder / "firmware/net.cpp", folder / "tb/net_tb.cpp"], program, flags)
    passed = process.run([program], where="testbench", cwd=folder)
    assert passed.returncode == 0
    assert passed.output == "PASS: 64 events, every bit equal\n"
    golden = folder / "tb/tb_output.dat"
    lines = golden.read_text().splitlines()
    words = lines[5].split()
    words[2] = str(int(words[2]) + 1)
    golden.write_text("\n".join([*lines[:5], " ".join(words), *lines[6:]]) + "\n")
    failed = process.run([program], where="testbench", cwd=folder)
    assert failed.returncode == 1
    assert failed.output.startswith("FAIL: event 5, y[2] is ")
    golden.write_text("\n".join(lines[:-1]) + "\n")
    assert process.run([program], where="testbench", cwd=folder).returncode == 2


def test_tcl_script_runs_its_steps_in_order(tmp_path):
    script = hls_of(dense_net()).project.files["build_hls.tcl"]
    code = "\n".join(line for line in script.splitlines() if not line.startswith("#"))
    assert code.count("{") == code.count("}")
    assert code.count("[") == code.count("]")
    commands = (
        "open_project",
        "set_top",
        "add_files",
        "open_solution",
        "set_part",
        "create_clock",
        "csim_design",
        "csynth_design",
        "cosim_design",
        "export_design",
    )
    for command in commands:
        assert f"{command} " in code or f"{command}\n" in code
    if process.find_tool("tclsh") is None:
        return
    stubs = "".join(f"proc {c} args {{ puts [concat {c} $args] }}\n" for c in commands)
    (tmp_path / "run.tcl").write_text(stubs + script)
    done = process.run(["tclsh", "run.tcl", "csim=0 export=1"], where="tclsh", cwd=tmp_path)
    assert done.output.split("\n") == [
        "open_project -reset net_prj",
        "set_top net",
        "add_files firmware/net.cpp -cflags -std=c++11",
        "add_files -tb tb/net_tb.cpp -cflags -std=c++11",
        "add_files -tb tb/tb_input.dat",
        "add_files -tb tb/tb_output.dat",
        "open_solution -reset -flow_target vivado solution1",
        "set_part xcvu13p-flga2577-2-e",
        "create_clock -period 5 -name default",
        "csynth_design",
        "export_design -format ip_catalog",
        "",
    ]


def test_config_of_the_unified_flow_is_ini():
    files = hls_of(dense_net()).project.files
    parser = configparser.ConfigParser(strict=False)  # the tool's keys may come several times
    parser.read_string("[main]\n" + files["hls_config.cfg"])
    assert parser["main"]["part"] == VU13P.part
    assert parser["hls"]["syn.top"] == "net"
    assert parser["hls"]["clock"] == "5ns"
    named = re.findall(r"^(?:syn|tb)\.file=(.*)$", files["hls_config.cfg"], re.MULTILINE)
    assert all(path in files for path in named)
    assert len(named) == 4


def test_headers_are_found_without_importing_their_package(monkeypatch, tmp_path):
    assert (find_ap_types() / "ap_int.h").is_file()
    assert "hls4ml" not in sys.modules
    (tmp_path / "include").mkdir()
    (tmp_path / "include/ap_fixed.h").write_text("")
    monkeypatch.setenv("XILINX_HLS", str(tmp_path))
    assert find_ap_types() == tmp_path / "include"


def test_simulation_is_compiled_once(monkeypatch):
    hls = hls_of(dense_net())
    program = build(hls)
    stamp = program.stat().st_mtime_ns
    assert build(hls).stat().st_mtime_ns == stamp
