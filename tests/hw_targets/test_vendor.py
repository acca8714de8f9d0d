"""The vendor drivers against stand-ins for the tools: scripts on the PATH that write real report formats."""

from pathlib import Path

import pytest

from hwcompile.hw_targets import load_target
from hwcompile.hw_targets.vendor import installed, run_hls, run_vivado
from hwcompile.ir.errors import CompileError

DATA = Path(__file__).parent / "data"
VU9P = load_target("vu9p")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts a shell script on the PATH, where no vendor tool is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, script: str) -> None:
        path = folder / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    return add


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


WRITE_CSYNTH = f'mkdir -p p/s/syn/report && cp {DATA}/csynth.xml p/s/syn/report/ && echo "$@" > arguments\n'


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("vitis-run", "--mode hls --tcl build.tcl"), ("vitis_hls", "-f build.tcl"), ("vivado_hls", "-f build.tcl")],
)
def test_run_hls(tools, project: Path, tool: str, arguments: str):
    tools(tool, WRITE_CSYNTH)
    assert list(installed()) == [tool]
    assert run_hls(project, "build.tcl", VU9P).lut == 21310
    assert (project / "arguments").read_text().strip() == arguments


def test_hls_whole_design_before_its_parts(tools, project: Path):
    part = "sed s/21310/99/ p/s/syn/report/csynth.xml > p/s/syn/report/dense_1_csynth.xml\n"
    tools("vitis_hls", WRITE_CSYNTH + part)
    assert run_hls(project, "build.tcl", VU9P).lut == 21310


def message(run) -> str:
    with pytest.raises(CompileError) as caught:
        run()
    return str(caught.value)


def test_hls_failures(tools, project: Path):
    def run(**options):
        return message(lambda: run_hls(project, "build.tcl", VU9P, **options))

    assert run() == (
        "HLS: needs vitis-run or vitis_hls or vivado_hls, and it is not on the PATH; source the settings64.sh of Vitis"
    )
    assert run(tool="vitis_hls").startswith("HLS: needs vitis_hls, and it is not on the PATH")
    assert run(tool="quartus") == "HLS: vu9p is built by vitis-run, vitis_hls, vivado_hls, not by 'quartus'"
    tools("vitis_hls", 'echo "INFO: ok"; echo "ERROR: [HLS 200-70] Compilation errors found: dense.h:12"; exit 1\n')
    assert run() == "vitis_hls: failed: ERROR: [HLS 200-70] Compilation errors found: dense.h:12; see its log"
    tools("vitis_hls", "exit 0\n")
    assert run() == "vitis_hls: ended without writing a csynth.xml; check that build.tcl calls csynth_design"
    tools("vitis_hls", "sleep 30\n")
    assert run(time_limit_s=0.3) == "vitis_hls: did not finish in 0.3 s; raise the time limit"


def test_an_old_report_is_not_taken_for_a_new_one(tools, project: Path):
    tools("vitis_hls", WRITE_CSYNTH)
    run_hls(project, "build.tcl", VU9P)
    tools("vitis_hls", "exit 0\n")
    assert "without writing" in message(lambda: run_hls(project, "build.tcl", VU9P))


def test_run_vivado(tools, project: Path):
    assert message(lambda: run_vivado(project, "build.tcl")).startswith(
        "Vivado: needs vivado, and it is not on the PATH"
    )
    tools("vivado", f"cp {DATA}/vivado_utilization.rpt utilization.rpt; cp {DATA}/vivado_timing.rpt timing.rpt\n")
    found = run_vivado(project, "build.tcl")
    assert found.utilization.lut == 5730
    assert found.timing is not None
    assert found.timing.clock == "clk"
    tools("vivado", f"cp {DATA}/vivado_utilization.rpt utilization.rpt\n")
    assert run_vivado(project, "build.tcl", timing=None).timing is None
    assert "without writing timing.rpt" in message(lambda: run_vivado(project, "build.tcl"))
