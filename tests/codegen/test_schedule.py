"""Schedules from goals: what is asked for is reached or refused with what can be, and files, options and reports agree."""

import io
import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import hwcompile as hc
from hwcompile.cli import cli
from hwcompile.codegen.choose import Goal, choose
from hwcompile.codegen.hls import LayerSchedule, Schedule, emit
from hwcompile.codegen.layer_costs import LARGEST_UNROLLED, constant_digits, unrolled_size
from hwcompile.codegen.schedule_costs import estimate_schedule
from hwcompile.hw_targets import costs, load_target
from hwcompile.ir.errors import CompileError
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Input, Linear, Quantize, Reshape, Window
from hwcompile.ir.passes import PIPELINES, run
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.types import Fixed
from hwcompile.report.html import as_html
from hwcompile.report.model import from_json
from hwcompile.report.text import print_report

VU13P = load_target("vu13p")


def dense_net(sizes=(16, 24, 12), bits=8):
    rng = np.random.default_rng(0)
    b = Builder("net")
    x = b.add(Input((sizes[0],), Fixed(-128, 127, -4)), name="x")
    for k, (m, n) in enumerate(itertools.pairwise(sizes)):
        half = 1 << (bits - 1)
        x = b.add(Linear(rng.integers(-half, half, (m, n)), -5), x, name=f"dense_{k}")
        x = b.add(Add(), x, b.add(Constant(rng.integers(-64, 64, n), -5), name=f"bias_{k}"), name=f"add_{k}")
        x = b.add(Quantize(Fixed(0, 255, -3), Rounding.RND_CONV, Overflow.SAT), x, name=f"act_{k}")
    return run(b.graph([Output("y", x)]), PIPELINES["hardware"])


def conv_net(size=10, channels=4):
    rng = np.random.default_rng(0)
    b = Builder("conv_net")
    x = b.add(Input((size, size, 2), Fixed(-8, 7, -2)), name="x")
    w = b.add(Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), x, name="window")
    w = b.add(Reshape((size, size, 18)), w)
    y = b.add(Linear(rng.integers(-8, 8, (18, channels)), -3), w, name="conv")
    y = b.add(Quantize(Fixed(0, 15, -1), Rounding.RND, Overflow.SAT), y, name="act")
    y = b.add(Reshape((size * size * channels,)), y)
    y = b.add(Linear(rng.integers(-8, 8, (size * size * channels, 5)), -3), y, name="fc")
    return run(b.graph([Output("y", y)]), PIPELINES["hardware"])


# ---- goals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["parallel", "stream"])
def test_an_ii_is_met_and_more_of_it_costs_no_more(architecture):
    graph = conv_net() if architecture == "stream" else dense_net()
    base = Schedule(architecture)
    shares = []
    for ii in (150, 1200, 4000):
        found = choose(graph, VU13P, 5.0, Goal(ii=ii), base).estimate
        assert found.ii <= ii
        shares.append(sum(found.total(k) / getattr(VU13P.resources, k) for k in ("lut", "dsp", "bram")))
        assert emit(graph, VU13P, 5.0, found.schedule).project.files
    assert shares[0] >= shares[1] >= shares[2]
    assert shares[0] > shares[2]


def test_a_latency_is_met():
    free = choose(dense_net(), VU13P, 5.0, Goal(latency_ns=10_000)).estimate
    tight = choose(dense_net(), VU13P, 5.0, Goal(latency_ns=200)).estimate
    assert tight.latency_cycles * 5.0 <= 200 < free.latency_cycles * 5.0 <= 10_000
    assert free.schedule.of("dense_0").reuse > tight.schedule.of("dense_0").reuse


def test_the_fastest_that_there_is_room_for():
    roomy = choose(dense_net(), VU13P, 5.0, Goal(max_lut=10_000, max_dsp=400)).estimate
    small = choose(dense_net(), VU13P, 5.0, Goal(max_lut=3_000, max_dsp=40)).estimate
    assert small.total("lut") <= 3_000
    assert small.total("dsp") <= 40
    assert roomy.total("dsp") <= 400
    assert roomy.ii < small.ii


def test_what_cannot_be_reached_is_refused_with_the_best_that_can():
    with pytest.raises(CompileError) as e:
        choose(dense_net(), VU13P, 5.0, Goal(ii=1, max_lut=100))
    message = str(e.value)
    assert message.startswith("goal: no parallel schedule reaches --")
    assert "the fastest has " in message
    assert "the smallest " in message
    assert message.endswith("allow more, or use --io stream")
    with pytest.raises(
        CompileError, match=r"no stream schedule reaches --ii 50 \(estimates\): the fastest has .* II 1"
    ):
        choose(conv_net(), VU13P, 5.0, Goal(ii=50), Schedule("stream"))


def test_layers_of_the_configuration_stay_as_they_are():
    base = Schedule(layers={"dense_1": LayerSchedule("resource", 6)})
    choice = choose(dense_net(), VU13P, 5.0, Goal(ii=96), base)
    assert choice.schedule.of("dense_1") == LayerSchedule("resource", 6)
    assert choice.schedule.of("dense_0").reuse > 1
    assert choice.why["dense_1"] == "set by the configuration"
    assert choice.why["dense_0"].startswith("a reuse of ")


def test_without_a_goal_everything_is_unrolled():
    choice = choose(dense_net(), VU13P, 5.0, Goal())
    assert not choice.schedule.folded
    assert choice.estimate.ii == 1
    assert set(choice.why.values()) == {"unrolled, as no goal asks for less"}


def test_bad_goals():
    with pytest.raises(CompileError, match="goal ii: must be positive, not 0"):
        Goal(ii=0)
    assert Goal(max_dsp=0).caps == {"dsp": 0}


# ---- costs --------------------------------------------------------------------------------------------------------------


def test_digits_of_constants():
    def fewest(n):
        """Signed digits by the recurrence: an odd n loses 1 or -1."""
        if n == 0:
            return 0
        return fewest(n // 2) if n % 2 == 0 else 1 + min(fewest((n - 1) // 2), fewest((n + 1) // 2) if n > 1 else 0)

    n = np.arange(-300, 300)
    assert constant_digits(n).tolist() == [fewest(abs(int(k))) for k in n]
    assert constant_digits(np.array([[7, 0], [1 << 40, -3]])).tolist() == [[2, 0], [1, 2]]
    assert constant_digits(np.array([[7, 1 << 40], [0, -3]]).T).tolist() == [
        [2, 0],
        [1, 2],
    ]  # the order in memory is free


def test_folding_shares_multipliers_and_takes_cycles():
    graph = dense_net()
    by_reuse = [
        estimate_schedule(graph, VU13P, 5.0, Schedule(layers={"dense_0": LayerSchedule("resource", r)}))
        for r in (2, 8, 48)
    ]
    rows = [next(x for x in e.layers if x.name == "dense_0") for e in by_reuse]
    assert [x.dsp for x in rows] == [192, 48, 8]
    assert [x.ii for x in rows] == [2, 8, 48]
    assert rows[0].latency_cycles < rows[1].latency_cycles < rows[2].latency_cycles


def test_small_memories_are_luts_and_large_ones_block_ram():
    small, large = costs.memory(VU13P, 16, 32), costs.memory(VU13P, 1024, 36)
    assert (float(small.bram), float(small.lut)) == (0, 32)
    assert (float(large.bram), float(large.lut)) == (1, 0)
    assert float(costs.fifo(VU13P, 2, 100).lut) < float(costs.fifo(VU13P, 40, 100).lut)
    assert float(costs.select(VU13P, 1, 8).lut) == 0
    assert float(costs.adder_tree(VU13P, 5, 10).lut) == 4 * float(costs.adder(VU13P, 10).lut)


# ---- what is too large --------------------------------------------------------------------------------------------------


def test_a_network_too_large_to_unroll_is_refused():
    graph = conv_net(size=64, channels=64)
    assert unrolled_size(graph) > LARGEST_UNROLLED
    for backend, fix in (("rtl", "use --backend hls,cpu --io stream, or a reuse factor"), ("hls", "use --io stream")):
        with pytest.raises(CompileError) as e:
            hc.compile(graph, "vu13p", backends=backend)
        assert f"about {unrolled_size(graph):,} shifted inputs to be added are too many" in str(e.value)
        assert fix in str(e.value)


# ---- files, options, reports --------------------------------------------------------------------------------------------


def test_a_written_design_opens_with_its_schedule(tmp_path):
    base = Schedule("stream", {"conv": LayerSchedule("resource", 9)})
    design = hc.compile(conv_net(), "vu13p", 4.0, backends="hls", schedule=base, goal=Goal(ii=1000))
    design.write(tmp_path / "out")
    again = hc.open_design(tmp_path / "out")
    assert again.clock_ns == 4.0
    assert again.hls.schedule.layers == design.hls.schedule.layers
    assert again.hls.project.digest == design.hls.project.digest
    x = np.random.default_rng(0).integers(-8, 8, (20, 10, 10, 2))
    wanted = design.predict(x, raw=True, engine="reference")
    assert np.array_equal(again.predict(x, raw=True, engine="hls"), wanted)


def test_the_report_shows_the_schedule_in_every_form():
    base = Schedule("stream", {"conv": LayerSchedule("resource", 9)})
    report = hc.compile(conv_net(), "vu13p", 5.0, backends="hls", schedule=base).report
    assert from_json(report.as_json()) == report
    row = next(x for x in json.loads(report.as_json())["schedule"]["layers"] if x["name"] == "conv")
    assert (row["strategy"], row["reuse"], row["ii"], row["why"]) == ("resource", 9, 900, "set by the configuration")
    out = io.StringIO()
    print_report(report, Console(file=out, width=150, color_system=None))
    for text in (out.getvalue(), as_html(report)):
        assert "set by the configuration" in text
        assert "resource" in text


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.hwc"
    path.write_text(str(dense_net()))
    return str(path)


def refused(*arguments):
    result = CliRunner().invoke(cli, ["compile", *arguments])
    assert isinstance(result.exception, CompileError), result.output
    return str(result.exception)


def test_options_of_the_command_line(model):
    options = ["--backend", "hls", "--no-verify", "--json"]
    result = CliRunner().invoke(cli, ["compile", model, *options, "--max-dsp", "1%", "--max-lut", "4000"])
    assert result.exception is None, result.output
    schedule = json.loads(result.stdout)["schedule"]
    assert schedule["dsp"] <= 68.4
    assert schedule["lut"] <= 4000
    assert refused(model, *options, "--io", "serial") == (
        "schedule architecture: must be one of parallel, stream, not 'serial'"
    )
    assert refused(model, *options, "--max-lut", "some") == (
        "option --max-lut: must be a count or a share such as 20%, not 'some'"
    )
    assert refused(model, "--backend", "cpu", "--ii", "8") == (
        "schedule: an architecture, a goal and layer schedules are for the HLS writer, which --backend leaves out; "
        "add hls to --backend"
    )


def test_layers_of_the_configuration_file(model, tmp_path):
    config = tmp_path / "hwcompile.toml"
    options = ["--backend", "hls", "--no-verify", "--json", "--config", str(config)]
    config.write_text('ii = 96\n[layers.dense_0]\nstrategy = "resource"\nreuse = 12\n')
    result = CliRunner().invoke(cli, ["compile", model, *options])
    assert result.exception is None, result.output
    rows = {x["name"]: x for x in json.loads(result.stdout)["schedule"]["layers"]}
    assert (rows["dense_0"]["reuse"], rows["dense_0"]["why"]) == (12, "set by the configuration")
    assert rows["dense_1"]["reuse"] > 12
    for text, message in (
        ("[layers.dense_0]\nspeed = 3\n", f"{config}, layers.dense_0: option 'speed' is not known; known: strategy, reuse"),
        ("[layers]\ndense_0 = 3\n", f"{config}, layers.dense_0: must be a table with strategy and reuse, not 3"),
        ("[layers.dense_0]\nreuse = 3\n", f"{config}, layers.dense_0: reuse must be 1 with strategy 'latency', not 3; "
         "use strategy 'resource'"),
        ("layers = 3\n", f"{config}: option 'layers' must be of type table, not 3"),
        ('[layers.dense_7]\nstrategy = "distributed"\n',
         "layer dense_7: there is no matrix layer of that name to be scheduled; known: dense_0, dense_1"),
    ):  # fmt: skip
        config.write_text(text)
        assert refused(model, *options) == message
