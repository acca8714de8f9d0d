"""Reads the reports that Vivado, Vitis HLS and nextpnr write; refuses what it does not recognise; runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ..ir.errors import CompileError

__all__ = [
    "HlsReport", "Instance", "NextpnrReport", "Timing", "Utilization", "read_csynth", "read_nextpnr", "read_timing",
    "read_utilization",
]  # fmt: skip

SIZE_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Instance:
    """One row of a hierarchical table; `path` joins the instance names by '/', the top module first."""

    path: str
    module: str
    lut: int
    ff: int
    dsp: int
    bram: float
    uram: int


@dataclass(frozen=True)
class Utilization:
    """Vivado's report_utilization: `bram` in 36-kbit blocks (a half is 0.5); `available` of each, where stated;
    `instances` for the hierarchical form, the top module first. `state` is Synthesized, Fully Placed, Routed, ..."""

    design: str
    part: str
    state: str
    tool: str
    lut: int
    ff: int
    dsp: int
    bram: float
    uram: int
    available: Mapping[str, int] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Vivado's report_timing_summary. `wns_ns` is the worst slack of setup; `clock` and `period_ns` are those of the
    clock that it limits, and `fmax_mhz` is 1000 / (period - wns)."""

    clock: str
    period_ns: float
    wns_ns: float
    tns_ns: float
    whs_ns: float | None
    failing_endpoints: int
    fmax_mhz: float

    @property
    def met(self) -> bool:
        return self.wns_ns >= 0 and (self.whs_ns is None or self.whs_ns >= 0)


@dataclass(frozen=True)
class HlsReport:
    """csynth.xml of Vivado HLS or Vitis HLS: cycles (None where the tool says undef), ns, and estimated resources;
    `bram_18k` counts 18-kbit blocks."""

    top: str
    part: str
    version: str
    clock_target_ns: float
    clock_estimated_ns: float
    latency_min: int | None
    latency_max: int | None
    interval_min: int | None
    interval_max: int | None
    lut: int
    ff: int
    dsp: int
    bram_18k: int
    uram: int
    available: Mapping[str, int]


@dataclass(frozen=True)
class NextpnrReport:
    """The log of nextpnr-ecp5: achieved MHz by clock, (used, available) by cell, and the four that matter."""

    fmax_mhz: Mapping[str, float]
    cells: Mapping[str, tuple[int, int]]
    lut: int
    ff: int
    dsp: int
    bram: int


def read_utilization(path: Path) -> Utilization:
    """Read the text of report_utilization, flat or `-hierarchical`. Raises CompileError where it is not one, whole."""
    text = _text(path)
    header = _header(text, path)
    rows = _tables(text)
    hierarchy = _hierarchy(rows)
    if hierarchy:
        top = hierarchy[0]
        found = {"lut": top.lut, "ff": top.ff, "dsp": top.dsp, "bram": top.bram, "uram": top.uram}
    else:
        found = _flat(rows, path)
    return Utilization(**header, **found, instances=hierarchy)


# Site types under which each resource goes, by family: UltraScale and Versal, 7 series.
SITES = {
    "lut": ("CLB LUTs", "Slice LUTs"),
    "ff": ("CLB Registers", "Slice Registers", "Registers"),
    "bram": ("Block RAM Tile",),
    "dsp": ("DSPs", "DSP Slices"),
    "uram": ("URAM",),
}


def _flat(rows: list[dict[str, str]], path: Path) -> dict:
    # Synthesis marks its LUT count with a star (it says below that placement may lower it).
    found = {row["Site Type"].rstrip("*").strip(): row for row in reversed(rows) if "Site Type" in row}
    values: dict = {"available": {}}
    for name, sites in SITES.items():
        row = next((found[site] for site in sites if site in found), None)
        if row is None and name == "uram":  # families without UltraRAM have no such row
            values["uram"] = 0
            continue
        if row is None:
            wanted = " or ".join(repr(site) for site in sites)
            raise _refused(path, f"has no row {wanted}", "write it again: it may be cut off")
        used = _number(row.get("Used", ""), path)
        values[name] = used if name == "bram" else int(used)
        if row.get("Available"):
            values["available"][name] = int(_number(row["Available"], path))
    return values


def _hierarchy(rows: list[dict[str, str]]) -> tuple[Instance, ...]:
    instances: list[Instance] = []
    parents: list[str] = []
    for row in rows:
        if "Instance" not in row or "Total LUTs" not in row:
            continue
        # Depth is the indentation, two spaces a level; "(name)" is the part of a module outside its children.
        label = row["Instance"]
        depth = (len(label) - len(label.lstrip(" "))) // 2
        if label.strip().startswith("("):
            continue
        parents[depth:] = [label.strip()]
        columns = {name: _count(row.get(name, "0")) for name in ("Total LUTs", "FFs", "RAMB36", "RAMB18", "URAM")}
        dsp = _count(row.get("DSP Blocks", row.get("DSP48 Blocks", row.get("DSP Slices", "0"))))
        bram = columns["RAMB36"] + columns["RAMB18"] / 2
        values = (columns["Total LUTs"], columns["FFs"], dsp, bram, columns["URAM"])
        instances.append(Instance("/".join(parents), row.get("Module", "").strip(), *values))
    return tuple(instances)


def _count(cell: str) -> int:
    # With -hierarchical_percentage a cell reads "123(0.01%)".
    found = re.match(r"\s*(\d+)", cell)
    return int(found[1]) if found else 0


def _tables(text: str) -> list[dict[str, str]]:
    """Every row of every +---+ table, as cells by column name; the first column keeps its indentation."""
    rows: list[dict[str, str]] = []
    columns: list[str] | None = None
    rules = 0
    for line in text.splitlines():
        if re.fullmatch(r"\+[-+]+\+", line.strip()):
            rules += 1
            columns = None if rules == 3 else columns
            rules = 0 if rules == 3 else rules
            continue
        if not line.startswith("|") or not rules:
            rules, columns = 0, None
            continue
        cells = line.strip().strip("|").split("|")
        if rules == 1:
            columns = [cell.strip() for cell in cells]
        elif columns is not None and len(cells) == len(columns):
            rows.append({c: (v[1:].rstrip() if i == 0 else v.strip()) for i, (c, v) in enumerate(zip(columns, cells))})
    return rows


def _header(text: str, path: Path) -> dict:
    """Design, part, state and tool of the block at the top of a Vivado report."""
    found = dict(re.findall(r"^\| (Tool Version|Design|Device|Design State)\s*: (.*?)\s*$", text, re.MULTILINE))
    if "Tool Version" not in found or "Design" not in found:
        raise _refused(path, "is not a report of Vivado: its header is missing", "give the .rpt file that Vivado wrote")
    version = re.search(r"v\.?(\d+\.\d+(?:\.\d+)?)", found["Tool Version"])
    tool = f"Vivado {version[1]}" if version else found["Tool Version"]
    state = found.get("Design State", "")
    return {"design": found["Design"], "part": found.get("Device", ""), "state": state, "tool": tool}


def read_timing(path: Path) -> Timing:
    """Read the text of report_timing_summary. Raises CompileError where it is not one, is cut off, or has no clock."""
    text = _text(path)
    _header(text, path)
    totals = _columns_below(text, "| Design Timing Summary", "WNS(ns)")
    if totals is None:
        raise _refused(path, "has no Design Timing Summary", "write it with report_timing_summary, and whole")
    if totals[0] == "NA":
        raise _refused(path, "has no constrained path", "constrain the clock (create_clock) before the report")
    periods = dict(re.findall(r"^\s*(\S+)\s+\{[^}]*\}\s+([\d.]+)\s+[\d.]+\s*$", text, re.MULTILINE))
    if not periods or len(totals) < 3:
        raise _refused(path, "has no Clock Summary", "write it again: it may be cut off")
    wns = _number(totals[0], path)
    clock = _limiting_clock(text, periods, wns)
    period = float(periods[clock])
    whs = _number(totals[4], path) if len(totals) > 4 and totals[4] != "NA" else None
    return Timing(
        clock=clock,
        period_ns=period,
        wns_ns=wns,
        tns_ns=_number(totals[1], path),
        whs_ns=whs,
        failing_endpoints=int(_number(totals[2], path)),
        fmax_mhz=1000 / (period - wns),
    )


def _limiting_clock(text: str, periods: Mapping[str, str], wns: float) -> str:
    """The clock whose own paths have the worst slack; the fastest one where the table of them does not say."""
    table = text.partition("| Intra Clock Table")[2].partition("| Inter Clock Table")[0]
    for name, slack in re.findall(r"^\s*(\S+)\s+(-?\d+\.\d+)\s", table, re.MULTILINE):
        if name in periods and float(slack) == wns:
            return name
    return min(periods, key=lambda name: float(periods[name]))


def _columns_below(text: str, heading: str, first_column: str) -> list[str] | None:
    """The words of the first row of numbers below a heading's column names, or None."""
    below = text.partition(heading)[2].partition(first_column)[2].splitlines()[1:]
    return next((line.split() for line in below if line.split() and not set(line.strip()) <= {"-", " "}), None)


def read_csynth(path: Path) -> HlsReport:
    """Read csynth.xml (or <top>_csynth.xml). Raises CompileError where it is not one, or is cut off."""
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise _refused(path, "must not declare entities", "give the csynth.xml that the tool wrote")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _refused(path, f"is not whole XML ({error})", "run the synthesis again") from error
    if root.tag != "profile":
        raise _refused(path, f"must be a csynth.xml with root <profile>, not <{root.tag}>", "")

    def item(tag: str) -> str:
        node = root.find(tag)
        if node is None or node.text is None:
            raise _refused(path, f"has no <{tag}>", "run the synthesis again")
        return node.text.strip()

    overall = "PerformanceEstimates/SummaryOfOverallLatency/"
    tags = ("Best-caseLatency", "Worst-caseLatency", "Interval-min", "Interval-max")
    cycles = [_cycles(item(overall + tag)) for tag in tags]
    used, available = _resources(root, "Resources"), _resources(root, "AvailableResources")
    if "lut" not in used or "ff" not in used:
        raise _refused(path, "has no <AreaEstimates/Resources>", "run the synthesis again")
    return HlsReport(
        top=item("UserAssignments/TopModelName"),
        part=item("UserAssignments/Part"),
        version=item("ReportVersion/Version"),
        clock_target_ns=_number(item("UserAssignments/TargetClockPeriod"), path),
        clock_estimated_ns=_number(item("PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod"), path),
        latency_min=cycles[0],
        latency_max=cycles[1],
        interval_min=cycles[2],
        interval_max=cycles[3],
        **{name: used.get(name, 0) for name in ("lut", "ff", "dsp", "bram_18k", "uram")},
        available=available,
    )


def _cycles(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _resources(root: ElementTree.Element, table: str) -> dict[str, int]:
    names = {"LUT": "lut", "FF": "ff", "DSP": "dsp", "DSP48E": "dsp", "BRAM_18K": "bram_18k", "URAM": "uram"}
    nodes = root.find(f"AreaEstimates/{table}")
    found: dict[str, int] = {}
    for node in nodes if nodes is not None else ():
        if node.tag in names and (node.text or "").strip().isdigit():
            found[names[node.tag]] = int(node.text or "0")
    return found


def read_nextpnr(path: Path) -> NextpnrReport:
    """Read the log of nextpnr-ecp5: the last frequencies (after routing) and the utilisation. Raises CompileError where
    either is missing."""
    text = _text(path)
    clocks = re.findall(r"Max frequency for clock\s+'([^']+)':\s+([\d.]+) MHz", text)
    cells = re.findall(r"^Info:\s+([A-Z][A-Z0-9_]+):\s+(\d+)/\s*(\d+)\s+\d+%", text, re.MULTILINE)
    used = {name: (int(count), int(total)) for name, count, total in cells}
    if "TRELLIS_COMB" not in used or "TRELLIS_FF" not in used:
        raise _refused(path, "has no 'Device utilisation' of an ECP5", "give the whole log of nextpnr-ecp5")
    if not clocks:
        raise _refused(path, "has no 'Max frequency' of any clock", "give the whole log of a design with registers")
    counts = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}
    totals = {name: used.get(cell, (0, 0))[0] for name, cell in counts.items()}
    return NextpnrReport({name: float(mhz) for name, mhz in clocks}, used, **totals)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise _refused(path, f"is larger than {SIZE_LIMIT_BYTES // 2**20} MiB", "give the report itself")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})", "check the path") from error


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise _refused(path, f"has {text!r} where a number must be", "write it again") from error


def _refused(path: Path, rule: str, fix: str) -> CompileError:
    return CompileError(f"report {path.name}", rule, fix)
