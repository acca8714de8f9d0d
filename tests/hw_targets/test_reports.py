"""Report readers on samples of the real formats, whole and cut off."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hwcompile.hw_targets import reports
from hwcompile.ir.errors import CompileError

DATA = Path(__file__).parent / "data"


def test_flat_utilization():
    found = reports.read_utilization(DATA / "vivado_utilization.rpt")
    assert (found.design, found.part, found.state) == ("tagger", "xcvu9p-flga2104-2L-e", "Synthesized")
    assert found.tool == "Vivado 2023.2"
    assert (found.lut, found.ff, found.dsp, found.bram, found.uram) == (5730, 1424, 3, 1.5, 2)
    assert found.available == {"lut": 1182240, "ff": 2364480, "bram": 2160, "dsp": 6840, "uram": 960}
    assert found.instances == ()


def test_flat_utilization_of_7_series():
    found = reports.read_utilization(DATA / "vivado_utilization_7series.rpt")
    assert (found.lut, found.ff, found.dsp, found.bram, found.uram) == (37302, 51023, 26, 120.5, 0)
    assert found.state == "Fully Placed"


def test_hierarchical_utilization():
    found = reports.read_utilization(DATA / "vivado_utilization_hierarchical.rpt")
    assert (found.lut, found.ff, found.dsp, found.bram, found.uram) == (8354, 5005, 3, 2.5, 4)
    assert [row.path for row in found.instances] == [
        "tagger",
        "tagger/dense_1",
        "tagger/dense_1/adder_tree",
        "tagger/dense_2",
    ]
    assert found.instances[2] == reports.Instance("tagger/dense_1/adder_tree", "adder_tree", 7000, 500, 0, 0, 0)


def test_timing():
    found = reports.read_timing(DATA / "vivado_timing.rpt")
    assert (found.clock, found.period_ns, found.wns_ns, found.tns_ns) == ("clk", 2.5, -0.277, -3.104)
    assert (found.whs_ns, found.failing_endpoints, found.met) == (0.057, 21, False)
    assert found.fmax_mhz == 1000 / (2.5 + 0.277)


def test_timing_without_clock(tmp_path: Path):
    text = (
        (DATA / "vivado_timing.rpt").read_text().replace("     -0.277       -3.104   ", "         NA           NA   ")
    )
    path = tmp_path / "timing.rpt"
    path.write_text(text)
    with pytest.raises(CompileError, match=r"report timing\.rpt: has no constrained path; constrain the clock"):
        reports.read_timing(path)


def test_csynth(tmp_path: Path):
    found = reports.read_csynth(DATA / "csynth.xml")
    assert (found.top, found.part, found.version) == ("tagger", "xcvu9p-flga2104-2L-e", "2023.2")
    assert (found.clock_target_ns, found.clock_estimated_ns) == (5.0, 3.638)
    assert (found.latency_min, found.latency_max, found.interval_min, found.interval_max) == (13, 14, 1, 1)
    assert (found.lut, found.ff, found.dsp, found.bram_18k, found.uram) == (21310, 4093, 12, 4, 0)
    assert found.available["dsp"] == 6840
    # Vivado HLS writes DSP48E, and undef where a loop has no bound.
    old = (DATA / "csynth.xml").read_text().replace("DSP>", "DSP48E>").replace(">14<", ">undef<")
    (tmp_path / "old.xml").write_text(old)
    again = reports.read_csynth(tmp_path / "old.xml")
    assert (again.dsp, again.latency_max) == (12, None)


def test_csynth_takes_no_entities(tmp_path: Path):
    path = tmp_path / "csynth.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "bbbb">]>\n' + (DATA / "csynth.xml").read_text())
    with pytest.raises(CompileError, match="must not declare entities"):
        reports.read_csynth(path)


def test_nextpnr():
    found = reports.read_nextpnr(DATA / "nextpnr_ecp5.log")
    assert found.fmax_mhz == {"$glbnet$clk$TRELLIS_IO_IN": 82.95}
    assert (found.lut, found.ff, found.dsp, found.bram) == (111, 168, 1, 2)
    assert found.cells["TRELLIS_COMB"] == (111, 83640)


READERS: dict[str, Callable] = {
    "vivado_utilization.rpt": reports.read_utilization,
    "vivado_utilization_7series.rpt": reports.read_utilization,
    "vivado_timing.rpt": reports.read_timing,
    "csynth.xml": reports.read_csynth,
    "nextpnr_ecp5.log": reports.read_nextpnr,
}


@pytest.mark.parametrize("name", READERS)
def test_cut_off_and_foreign_files_are_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    lines = (DATA / name).read_text().splitlines(keepends=True)
    for keep in (0, 3, len(lines) // 4, len(lines) // 3):
        path.write_text("".join(lines[:keep]))
        with pytest.raises(CompileError, match=f"report {name}: "):
            READERS[name](path)
    for other, reader in READERS.items():
        if reader is not READERS[name]:
            with pytest.raises(CompileError):
                READERS[name](DATA / other)
    with pytest.raises(CompileError, match="cannot be read"):
        READERS[name](tmp_path / "none")
