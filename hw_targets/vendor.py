"""Finds Vitis HLS and Vivado on the PATH and runs them on a written project; what they report, `reports` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import CompileError
from . import process, reports
from .devices import Device

__all__ = ["Implementation", "installed", "run_hls", "run_vivado"]

# How each tool runs a Tcl script; `vitis-run` is the unified Vitis from 2023.2 on, `vitis_hls` ended with 2024.1.
HLS_COMMANDS = {
    "vitis-run": ("vitis-run", "--mode", "hls", "--tcl"),
    "vitis_hls": ("vitis_hls", "-f"),
    "vivado_hls": ("vivado_hls", "-f"),
}
VIVADO_COMMAND = ("vivado", "-mode", "batch", "-nojournal", "-notrace", "-source")
# "ERROR: [HLS 200-70] ...", "ERROR: [Synth 8-439] ..."
ERROR = r"^ERROR[: ]"


@dataclass(frozen=True)
class Implementation:
    """What Vivado reports of one design."""

    utilization: reports.Utilization
    timing: reports.Timing | None
    seconds: float


def installed() -> dict[str, str]:
    """The vendor tools on the PATH, their paths by name: vitis-run, vitis_hls, vivado_hls, vivado."""
    names = (*HLS_COMMANDS, "vivado")
    return {name: path for name in names if (path := process.find_tool(name)) is not None}


def run_hls(
    project: Path, script: str, device: Device, tool: str | None = None, time_limit_s: float = 3600
) -> reports.HlsReport:
    """Run the Tcl `script` of a written HLS project in its folder and read the csynth.xml it writes.

    `tool` is one of the device's vendor tools; by default the first of them that is installed. Raises CompileError
    without a tool, at the time limit, with the tool's own error line, or where no new report appears.
    """
    command = (*HLS_COMMANDS[_hls_tool(device, tool)], script)
    before = _stamps(project)
    _run(command, project, time_limit_s)
    new = [path for path, stamp in _stamps(project).items() if before.get(path) != stamp]
    if not new:
        raise CompileError(command[0], "ended without writing a csynth.xml", f"check that {script} calls csynth_design")
    # csynth.xml is the whole design, <module>_csynth.xml a part of it.
    return reports.read_csynth(min(new, key=lambda path: (path.name != "csynth.xml", len(path.name), str(path))))


def _hls_tool(device: Device, tool: str | None) -> str:
    known = [name for name in device.tools.vendor if name in HLS_COMMANDS]
    if tool is not None and tool not in known:
        have = ", ".join(known) or "none"
        raise CompileError("HLS", f"{device.name} is built by {have}, not by {tool!r}")
    wanted = known if tool is None else [tool]
    found = next((name for name in wanted if process.find_tool(name)), None)
    if found is None:
        rule = f"needs {' or '.join(wanted) or 'a vendor tool'}, and it is not on the PATH"
        raise CompileError("HLS", rule, "source the settings64.sh of Vitis")
    return found


def run_vivado(
    project: Path,
    script: str,
    utilization: str = "utilization.rpt",
    timing: str | None = "timing.rpt",
    time_limit_s: float = 7200,
) -> Implementation:
    """Run the Tcl `script` with Vivado in the folder `project` and read the reports it writes there (paths relative to
    the folder; `timing=None` where the script writes none). Raises CompileError as `run_hls` does."""
    if process.find_tool("vivado") is None:
        raise CompileError("Vivado", "needs vivado, and it is not on the PATH", "source the settings64.sh of Vivado")
    wanted = [project / name for name in (utilization, timing) if name is not None]
    before = [path.stat().st_mtime_ns if path.exists() else None for path in wanted]
    seconds = _run((*VIVADO_COMMAND, script), project, time_limit_s)
    for path, stamp in zip(wanted, before):
        if not path.exists() or path.stat().st_mtime_ns == stamp:
            raise CompileError("Vivado", f"ended without writing {path.name}", f"check that {script} writes it")
    read_timing = None if timing is None else reports.read_timing(project / timing)
    return Implementation(reports.read_utilization(project / utilization), read_timing, seconds)


def _run(command: tuple[str, ...], project: Path, time_limit_s: float) -> float:
    done = process.run(command, where=command[0], cwd=project, time_limit_s=time_limit_s)
    if done.timed_out:
        raise CompileError(command[0], f"did not finish in {time_limit_s:g} s", "raise the time limit")
    if not done.ok:
        raise CompileError(command[0], f"failed: {process.error_line(done.output, ERROR)}", "see its log")
    return done.seconds


def _stamps(project: Path) -> dict[Path, int]:
    """The csynth.xml files below the project and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(project.rglob("*csynth.xml"))}
