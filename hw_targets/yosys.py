"""Synthesis with Yosys in processes of its own: cell counts and logic delay of Verilog; never loads pyosys here."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..ir.errors import CompileError
from . import process
from .devices import Device

__all__ = ["Failure", "Job", "Synthesis", "require", "synthesize", "synthesize_many"]

# Yosys is a library here: a child runs its script, so that it can be killed and its memory is given back.
WORKER = "import sys; from pyosys import libyosys as y; y.run_pass('script ' + sys.argv[1], y.Design())"

# `synth_xilinx` of 0.70 maps with abc9 alone, which takes ten minutes and more on a 5,000-LUT shift-add netlist: its
# steps run up to that one, and the older mapper `abc` takes over with the LUT costs that synth_xilinx itself uses.
XILINX = """\
synth_xilinx -top {top} -family {family} -noiopad -noclkbuf -flatten -run begin:map_luts
opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5,10,20
clean
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean
"""

ECP5 = "synth_ecp5 -top {top} -noiopad\n"
# Its last step makes black boxes of the cells, so their timings are read again for `sta`.
ECP5_TIMING = "read_verilog -lib -specify +/lattice/cells_sim_ecp5.v\n"

FLOWS = {
    "xc7": (XILINX, ""),
    "xcu": (XILINX, ""),
    "xcup": (XILINX, ""),
    "ecp5": (ECP5, ECP5_TIMING),
}

# LUTs that one cell occupies; a cell not listed occupies none (INV is absorbed, MUXF and CARRY are dedicated).
LUTS_OF_CELL = {
    "LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "LUT5": 1, "LUT6": 1, "LUT6_2": 1,
    "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1,
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4,
    "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8,
    "CCU2C": 2, "TRELLIS_DPR16X4": 4,
}  # fmt: skip
FLIP_FLOP = re.compile(r"(FDRE|FDSE|FDCE|FDPE|LDCE|LDPE|TRELLIS_FF)(_1)?")
CARRY = ("CARRY4", "CARRY8", "CCU2C")
DSP = ("DSP48E1", "DSP48E2", "MULT18X18D")
BLOCKS = {"RAMB36E1": 1.0, "RAMB36E2": 1.0, "RAMB18E1": 0.5, "RAMB18E2": 0.5, "DP16KD": 1.0, "PDPW16KD": 1.0}
MUXES = re.compile(r"MUXF[789]|PFUMX|L6MUX21")


@dataclass(frozen=True)
class Synthesis:
    """What Yosys made of one top module.

    `lut` counts LUT cells: Yosys does not put two small functions into one LUT6_2 as Vivado does, so Vivado's number is
    often lower. `carry` counts cells of the carry chain (CARRY4 has 4 bits, CCU2C 2), `bram` blocks of the device's
    size (a half counts 0.5). `levels` and `delay_ns` are those of the longest path through cells alone, without
    routing, by the cell timings of Yosys (for every Xilinx family those of a 7-series part); None where the netlist has
    a cell whose timing Yosys does not know (DSP48E2, and every register and carry chain of ECP5), or no path.
    """

    name: str
    lut: int
    ff: int
    carry: int
    muxf: int
    dsp: int
    bram: float
    cells: Mapping[str, int] = field(repr=False)
    levels: int | None
    delay_ns: float | None
    seconds: float
    tool: str
    cached: bool = False


@dataclass(frozen=True)
class Failure:
    """Why the job `name` gave no numbers, in one sentence; `timed_out` where it was stopped at its time limit."""

    name: str
    sentence: str
    timed_out: bool = False


@dataclass(frozen=True)
class Job:
    """One top module to synthesise: Verilog text by file name; `name` is used in results and messages."""

    name: str
    files: Mapping[str, str]
    top: str


def synthesize(
    files: Mapping[str, str],
    top: str,
    device: Device,
    time_limit_s: float = 300,
    cache: bool = True,
    keep: Path | None = None,
) -> Synthesis:
    """Synthesise the module `top` of the Verilog `files` (text by file name) for `device`.

    Results are cached by content. With `keep` the work folder (sources, script, log) stays there, and the cache is not
    read. Raises CompileError with Yosys's own line for bad Verilog, at the time limit, without pyosys, and for a device
    without a Yosys flow.
    """
    result = _attempt(Job(top, files, top), device, time_limit_s, cache, keep)
    if isinstance(result, Failure):
        raise CompileError(f"synthesis of {top}", result.sentence)
    return result


def synthesize_many(
    jobs: Sequence[Job],
    device: Device,
    processes: int = 2,
    time_limit_s: float = 300,
    progress: Callable[[int, int, Synthesis | Failure], None] | None = None,
    cache: bool = True,
) -> list[Synthesis | Failure]:
    """Synthesise `jobs`, `processes` at a time, each with its own time limit; results in the order of the jobs.

    A job that fails or is stopped gives a `Failure` and takes no other with it. `progress(done, total, result)` is
    called in the caller's thread as results arrive. Raises CompileError only for what concerns all jobs: no pyosys, no
    flow for the device.
    """
    require(device)
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, processes)) as pool:
        futures = [pool.submit(_attempt, job, device, time_limit_s, cache, None, stop) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                if progress is not None:
                    progress(done, len(futures), future.result())
            return [future.result() for future in futures]
        finally:  # an interrupt must not wait for the jobs that still run
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def require(device: Device) -> str:
    """The version of pyosys, after it and a flow for the device have been found."""
    if importlib.util.find_spec("pyosys") is None:
        raise CompileError("synthesis", "needs pyosys, which is not installed", "pip install 'hwcompile[synth]'")
    if device.tools.yosys not in FLOWS:
        have = ", ".join(FLOWS)
        raise CompileError("synthesis", f"Yosys has no flow for {device.name} ({device.family})", f"it has {have}")
    return importlib.metadata.version("pyosys")


def _attempt(
    job: Job, device: Device, limit_s: float, cache: bool, keep: Path | None, stop: threading.Event | None = None
) -> Synthesis | Failure:
    version = require(device)
    bad = _bad_names(job)
    if bad:
        return Failure(job.name, bad)
    entry = process.cache_folder("synth") / f"{_digest(job, device, version)}.json"
    if cache and keep is None and (found := _from_cache(entry, job.name)) is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="hwcompile-synth-") as folder:
        work = Path(folder)
        result = _synthesize_in(work, job, device, limit_s, stop)
        if keep is not None:
            shutil.copytree(work, keep, dirs_exist_ok=True)
    if cache and isinstance(result, Synthesis):
        process.write_atomic(entry, json.dumps(dataclasses.asdict(result), sort_keys=True))
    return result


def _bad_names(job: Job) -> str:
    """Names go into a Yosys script and onto the disk, so only plain ones are taken."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", job.top):
        return f"the top module's name must be a plain Verilog identifier, not {job.top!r}"
    for name in job.files:
        plain = re.fullmatch(r"[A-Za-z0-9_.+][A-Za-z0-9_.+/-]*", name)
        if not plain or ".." in PurePosixPath(name).parts:
            return f"a file name must be relative and of letters, digits, and ._+-/ only, not {name!r}"
    return ""


def _script(job: Job, device: Device) -> str:
    flow, timing = FLOWS[device.tools.yosys]
    sources = [name for name in job.files if name.endswith((".v", ".sv"))]
    lines = [f"read_verilog {'-sv ' if name.endswith('.sv') else ''}src/{name}" for name in sources]
    mapping = flow.format(top=job.top, family=device.tools.yosys)
    reports = f"tee -q -o stat.json stat -json\n{timing}tee -q -o sta.txt sta\n"
    return "\n".join(lines) + "\n" + mapping + reports


def _digest(job: Job, device: Device, version: str) -> str:
    content = [version, job.top, _script(job, device), list(job.files.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _synthesize_in(
    work: Path, job: Job, device: Device, limit_s: float, stop: threading.Event | None
) -> Synthesis | Failure:
    for name, text in job.files.items():
        path = work / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (work / "run.ys").write_text(_script(job, device), encoding="utf-8")
    (work / "tmp").mkdir()
    # -P: the work folder must not provide modules. TMPDIR: abc's files go away with the folder when it is killed.
    command = [sys.executable, "-P", "-c", WORKER, "run.ys"]
    done = process.run(
        command, where="synthesis", cwd=work, time_limit_s=limit_s, environment={"TMPDIR": str(work / "tmp")}, stop=stop
    )
    (work / "yosys.log").write_text(done.output, encoding="utf-8")
    if done.timed_out:
        return Failure(job.name, f"Yosys did not finish in {limit_s:g} s; raise the time limit or split it", True)
    if not done.ok:
        return Failure(job.name, f"Yosys refused: {process.error_line(done.output, 'ERROR:')}")
    stat = json.loads((work / "stat.json").read_text(encoding="utf-8"))
    levels, delay_ns = _longest_path((work / "sta.txt").read_text(encoding="utf-8"))
    return _count(job.name, stat, levels, delay_ns, done.seconds)


def _count(name: str, stat: dict, levels: int | None, delay_ns: float | None, seconds: float) -> Synthesis:
    cells: dict[str, int] = dict(sorted(stat["design"].get("num_cells_by_type", {}).items()))
    version = re.match(r"Yosys (\S+)", stat["creator"])
    return Synthesis(
        name=name,
        lut=sum(LUTS_OF_CELL.get(cell, 0) * n for cell, n in cells.items()),
        ff=sum(n for cell, n in cells.items() if FLIP_FLOP.fullmatch(cell)),
        carry=sum(cells.get(cell, 0) for cell in CARRY),
        muxf=sum(n for cell, n in cells.items() if MUXES.fullmatch(cell)),
        dsp=sum(cells.get(cell, 0) for cell in DSP),
        bram=sum(size * cells.get(cell, 0) for cell, size in BLOCKS.items()),
        cells=cells,
        levels=levels,
        delay_ns=delay_ns,
        seconds=round(seconds, 3),
        tool=f"Yosys {version[1]}" if version else "Yosys",
    )


def _longest_path(sta: str) -> tuple[int | None, float | None]:
    """Cells on the longest path and its delay in ns, of the text of the `sta` pass (picoseconds)."""
    if "has no timing arcs" in sta:  # paths through that cell are missing, so what remains is not the longest
        return None, None
    total = re.search(r"^Latest arrival time in '.*' is (\d+):", sta, re.MULTILINE)
    if total is None:
        return None, None
    path = sta[total.end() :].partition("Arrival histogram")[0]
    cells = re.findall(r"^\s*\d+ .* \((\w+)\.\S+->\S+\)$", path, re.MULTILINE)
    return len(cells), int(total[1]) / 1000


def _from_cache(entry: Path, name: str) -> Synthesis | None:
    """The stored result; None where there is none or where it is damaged (it will be written anew)."""
    try:
        values = json.loads(entry.read_text(encoding="utf-8"))
        result = Synthesis(**{**values, "name": name, "cached": True})
        sound = all(isinstance(x, int) for x in (result.lut, result.ff, result.carry, *result.cells.values()))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return result if sound else None
