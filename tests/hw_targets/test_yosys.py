"""The Yosys driver: known counts, the cache, the time limit, and one sentence for everything that goes wrong."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwcompile.hw_targets import load_target
from hwcompile.hw_targets.yosys import Failure, Job, Synthesis, synthesize, synthesize_many
from hwcompile.ir.errors import CompileError

VU9P = load_target("vu9p")
ADD = """
module add(input clk, input [7:0] a, input [7:0] b, output reg [8:0] y);
  always @(posedge clk) y <= a + b;
endmodule
"""
BROKEN = "module add(input a, output y);\n  assign y = a + ;\nendmodule\n"
# A multiplier wider than any DSP and a divider: seconds of work.
SLOW = "module slow(input [63:0] a, input [63:0] b, output [63:0] y, z); assign y = a / b; assign z = b % a; endmodule"

pytestmark = pytest.mark.usefixtures("own_cache")


def test_adder_on_xilinx(own_cache: Path):
    found = synthesize({"add.v": ADD}, "add", VU9P)
    assert (found.lut, found.ff, found.carry, found.dsp, found.bram, found.muxf) == (8, 9, 3, 0, 0, 0)
    assert found.cells == {"CARRY4": 3, "FDRE": 9, "LUT2": 8}
    assert found.levels == 4  # LUT, three CARRY4
    assert found.delay_ns is not None
    assert 0.5 < found.delay_ns < 2
    assert found.tool == "Yosys 0.70"
    assert not found.cached
    again = synthesize({"add.v": ADD}, "add", VU9P)
    assert again.cached
    assert (again.cells, again.seconds) == (found.cells, found.seconds)
    # Another part of the same family is the same synthesis; a damaged entry is made anew.
    assert synthesize({"add.v": ADD}, "add", load_target("zu7ev")).cached
    (entry,) = (own_cache / "hwcompile" / "synth").iterdir()
    entry.write_text(entry.read_text()[:50])
    assert not synthesize({"add.v": ADD}, "add", VU9P).cached
    assert synthesize({"add.v": ADD}, "add", VU9P).cached


def test_adder_on_ecp5():
    found = synthesize({"add.v": ADD}, "add", load_target("ecp5-85k"))
    assert (found.ff, found.carry, found.dsp) == (9, 5, 0)
    assert found.lut == 2 * found.carry + found.cells.get("LUT4", 0)
    assert (found.levels, found.delay_ns) == (None, None)  # Yosys has no timing of CCU2C


def test_multiplier_and_memory_are_counted():
    text = """
    module top(input clk, input [9:0] a, input [15:0] d, input we, output reg [15:0] q,
               input signed [15:0] x, input signed [15:0] y, output reg signed [31:0] p);
      reg [15:0] m [0:1023];
      always @(posedge clk) begin if (we) m[a] <= d; q <= m[a]; p <= x * y; end
    endmodule"""
    xilinx = synthesize({"top.sv": text}, "top", VU9P)
    assert (xilinx.dsp, xilinx.bram) == (1, 0.5)
    ecp5 = synthesize({"top.sv": text}, "top", load_target("ecp5-85k"))
    assert (ecp5.dsp, ecp5.bram) == (1, 1)


def test_pyosys_is_not_loaded_here():
    code = (
        "import sys; from hwcompile.hw_targets import load_target, yosys;"
        "yosys.synthesize({'a.v': 'module a(input x, output y); assign y = !x; endmodule'}, 'a', load_target('vu9p'));"
        "sys.exit(any(name.startswith('pyosys') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def message(files: dict[str, str], top: str, target: str = "vu9p", **options) -> str:
    with pytest.raises(CompileError) as caught:
        synthesize(files, top, load_target(target), **options)
    return str(caught.value)


def test_broken_verilog():
    expected = "synthesis of add: Yosys refused: src/add.v:2: ERROR: syntax error, unexpected ';'"
    assert message({"add.v": BROKEN}, "add") == expected
    assert "is not part of the design" in message({"a.v": "module a(input x); b u(x); endmodule"}, "a")


def test_refusals(monkeypatch: pytest.MonkeyPatch):
    expected = "synthesis: Yosys has no flow for vp1802 (Versal Premium); it has xc7, xcu, xcup, ecp5"
    assert message({"add.v": ADD}, "add", "vp1802") == expected
    assert "plain Verilog identifier" in message({"add.v": ADD}, "add; exec rm")
    for name in ("../add.v", "/add.v", "a b.v", "-add.v"):
        assert "a file name must be relative" in message({name: ADD}, "add")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = "synthesis: needs pyosys, which is not installed; pip install 'hwcompile[synth]'"
    assert message({"add.v": ADD}, "add") == expected


def test_time_limit():
    expected = "synthesis of slow: Yosys did not finish in 0.5 s; raise the time limit or split it"
    assert message({"slow.v": SLOW}, "slow", time_limit_s=0.5) == expected


def test_many_jobs_do_not_hurt_each_other():
    jobs = [
        Job("slow layer", {"slow.v": SLOW}, "slow"),
        Job("good layer", {"add.v": ADD}, "add"),
        Job("broken layer", {"add.v": BROKEN}, "add"),
    ]
    seen: list[tuple[int, int, str]] = []
    found = synthesize_many(
        jobs,
        load_target("ecp5-85k"),
        2,
        5.0,
        progress=lambda done, total, result: seen.append((done, total, result.name)),
    )
    assert [result.name for result in found] == ["slow layer", "good layer", "broken layer"]
    slow, good, broken = found
    assert isinstance(slow, Failure)
    assert slow.timed_out
    assert isinstance(good, Synthesis)
    assert isinstance(broken, Failure)
    assert not broken.timed_out
    assert "syntax error" in broken.sentence
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(name for *_, name in seen) == sorted(job.name for job in jobs)


def test_an_interrupt_stops_the_jobs_that_run():
    def interrupt(done: int, total: int, result: Synthesis | Failure) -> None:
        raise KeyboardInterrupt

    jobs = [Job("slow", {"slow.v": SLOW}, "slow"), Job("broken", {"add.v": BROKEN}, "add")]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        synthesize_many(jobs, load_target("ecp5-85k"), 2, 60, interrupt)
    assert time.monotonic() - started < 20


def test_keep_leaves_the_work(tmp_path: Path):
    synthesize({"rtl/add.v": ADD}, "add", VU9P, keep=tmp_path / "kept")
    assert {"run.ys", "yosys.log", "stat.json", "src"} <= {path.name for path in (tmp_path / "kept").iterdir()}
    assert (tmp_path / "kept" / "src" / "rtl" / "add.v").read_text() == ADD
