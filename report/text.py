"""A report as tables in the terminal; every number says whether it is an estimate, synthesis or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .model import LayerReport, Report, Resources
from .numbers import ABSENT, count, exists, number, percent, ratio, share

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["engine_line", "print_report"]

_KINDS = ("lut", "ff", "dsp", "bram")


def print_report(report: Report, console: Console) -> None:
    """The design, its layers, totals with their share of the device, timing, engines and deviation."""
    console.print(f"[bold]{_plain(report.name)}[/bold] for {_plain(report.target)} ({_plain(report.part)})")
    console.print(_layers(report))
    for line in (*_notes(report), *_timing(report)):
        console.print(line)
    if report.schedule and report.schedule["layers"]:
        console.print(_schedule(report.schedule))
    for result in report.verification:
        console.print(engine_line(result))
    for line in _measured(report):
        console.print(line)


def _plain(text: object) -> str:
    """Text from a model file without control characters, and with its brackets kept from being markup."""
    from rich.markup import escape

    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    # a final backslash would escape the bracket of the markup that follows
    return escape(printable) + (" " if printable.endswith("\\") else "")


def _layers(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    synthesised, written = _synthesised(report), _written(report)
    table = Table(header_style="bold", pad_edge=False, box=SIMPLE_HEAD)
    table.add_column("layer", overflow="fold", min_width=12)
    table.add_column("shape", overflow="fold")
    kind = "syn." if synthesised else "est."
    costs = [
        "ops",
        "LUT\nest.",
        *(["LUT\nsyn.", "LUT\nratio"] * synthesised),
        *(f"{k}\n{kind}" for k in ("FF", "DSP", "BRAM")),
    ]
    titles = ["weights", "bits\nw/acc/out", *(costs if written else ())]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    columns = 2 + len(titles)
    for layer in report.layers:
        table.add_row(*_row(layer, synthesised)[:columns])
    table.add_section()
    table.add_row(*_total(report, synthesised)[:columns])
    if written:
        table.add_row(*_share(report, synthesised))
    return table


def _written(report: Report) -> bool:
    """There is Verilog, whose costs the table has; those of an HLS design are in a table of their own."""
    return report.estimate is not None or _synthesised(report) or any(x.estimate or x.note for x in report.layers)


def _synthesised(report: Report) -> bool:
    return report.synthesis is not None or any(layer.synthesis for layer in report.layers)


def _row(layer: LayerReport, synthesised: bool) -> list[str]:
    worked = (f"{layer.weight_bits}", f"{layer.accumulator_bits}") if layer.weights else (ABSENT, ABSENT)
    shape = f"{_plain(layer.inputs)} → {_plain(layer.outputs)}"
    return [
        _plain(layer.name),
        shape,
        f"{layer.weights:,}",
        "/".join((*worked, f"{layer.output_bits}")),
        f"{layer.operations:,}",
        *_costs(layer.estimate, layer.synthesis, synthesised),
    ]


def _costs(estimate: Resources | None, synthesis: Resources | None, synthesised: bool) -> list[str]:
    """LUT estimate, LUT synthesis and ratio where something was synthesised, then the rest of one kind only."""
    cells = [number(estimate.lut if estimate else None)]
    if synthesised:
        lut = synthesis.lut if synthesis else None
        cells += [number(lut), ratio(lut, estimate.lut if estimate else None)]
    rest = synthesis if synthesised else estimate
    return cells + [count(getattr(rest, kind) if rest else None, kind) for kind in _KINDS[1:]]


def _total(report: Report, synthesised: bool) -> list[str]:
    weights = sum(layer.weights for layer in report.layers)
    operations = sum(layer.operations for layer in report.layers)
    return ["total", "", f"{weights:,}", "", f"{operations:,}", *_costs(report.estimate, report.synthesis, synthesised)]


def _share(report: Report, synthesised: bool) -> list[str]:
    nothing = dict.fromkeys(_KINDS)
    estimate = report.estimate.shares(report.device) if report.estimate else nothing
    synthesis = report.synthesis.shares(report.device) if report.synthesis else nothing
    cells = [f"of {_plain(report.target)}", "", "", "", "", share(estimate["lut"])]
    if synthesised:
        cells += [share(synthesis["lut"]), ""]
    rest = synthesis if synthesised else estimate
    return cells + [share(rest[kind]) for kind in _KINDS[1:]]


def _notes(report: Report) -> Sequence[str]:
    """What the kinds of numbers are, and why some are missing."""
    kinds = ["est.: cost model"] * any(x is not None for x in (report.estimate, *(y.estimate for y in report.layers)))
    kinds += [
        f"syn.: {_plain(report.synthesis_tool)}; its total adds the layers and the port registers"
    ] * _synthesised(report)
    lines = [f"[dim]{', '.join(kinds)}[/dim]"] if kinds else []
    missing = [(layer.name, layer.note) for layer in report.layers if layer.note]
    missing += [("the whole design", report.synthesis_note)] if report.synthesis_note else []
    return [*lines, *(f"[yellow]{ABSENT}[/yellow] {_plain(name)}: {_plain(note)}" for name, note in missing)]


def _timing(report: Report) -> Sequence[str]:
    t = report.timing
    if t is None:
        return ()
    slow = exists(t.fmax_mhz) and t.fmax_mhz * t.clock_ns < 999.5
    warning = f", [yellow]below the {1000 / t.clock_ns:.0f} MHz asked for[/yellow]" if slow else ""
    return (
        f"latency [bold]{t.latency_cycles} cycles = {number(t.latency_ns, '.4g')} ns[/bold] "
        f"at the {t.clock_ns:g} ns asked for, II {t.ii}; Fmax {number(t.fmax_mhz)} MHz (estimate){warning}",
    )


def _schedule(schedule: Mapping[str, Any]) -> Table:
    """How the HLS design is folded; every number is an estimate."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"HLS, {schedule['architecture']} (estimates)"
    table = Table(header_style="bold", pad_edge=False, box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("layer", overflow="fold", min_width=12)
    table.add_column("strategy")
    for name in ("reuse", "II", "latency", "DSP", "LUT", "BRAM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for x in schedule["layers"]:
        table.add_row(
            _plain(x["name"]), x["strategy"] or ABSENT, f"{x['reuse']:,}", f"{x['ii']:,}", f"{x['latency_cycles']:,}",
            count(x["dsp"]), count(x["lut"]), count(x["bram"], "bram"), _plain(x["why"]),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "total", "", "", f"{schedule['ii']:,}", f"{schedule['latency_cycles']:,}", count(schedule["dsp"]),
        count(schedule["lut"]), count(schedule["bram"], "bram"), f"{number(schedule['latency_ns'], ',.4g')} ns",
    )  # fmt: skip
    return table


def engine_line(v: Mapping[str, Any]) -> str:
    """One line, in rich's markup, for one engine of a verification."""
    name, note = f"{_plain(v['engine']):<10}", _plain(v["note"])
    if not v["vectors"]:
        return f"[yellow]{ABSENT}[/yellow] {name} {note}"
    mark = "[red]✗[/red]" if v["mismatches"] else "[green]✓[/green]"
    what, wrong = ("matrices", "wrong") if v["engine"] == "proof" else ("vectors ", "mismatches")
    line = f"{mark} {name} {v['vectors']:>7,} {what}  {v['mismatches']:>5,} {wrong:<10}"
    line += f"  {number(v['seconds'], '6.2f')} s"
    return f"{line}  {note}" if note else line


def _measured(report: Report) -> Sequence[str]:
    lines: list[str] = []
    if report.deviation:
        d = report.deviation
        same = f", argmax equal in {d['argmax_agreement']:.2%}" if exists(d["argmax_agreement"]) else ""
        lines.append(
            f"deviation from the model on {d['events']:,} events (measured): "
            f"max {number(d['maximum'], '.3g')}, RMS {number(d['rms'], '.3g')} "
            f"({percent(d['relative_rms'])} of the outputs' RMS){same}"
        )
    if report.accuracy:
        a = report.accuracy
        model = f", {a['model']:.4f} by the model itself" if exists(a["model"]) else ""
        lines.append(f"accuracy on {a['events']:,} labelled events (measured): {number(a['compiled'], '.4f')}{model}")
    if report.calibration:
        c, tolerance = report.calibration, report.calibration["tolerance"]
        allowed = f" for a tolerance of {tolerance:g}" if exists(tolerance) else ""
        widths = sorted(c["bits"].values())
        span = f"{widths[0]} to {widths[-1]} bits" if widths else "no widths"
        lines.append(
            f"calibration chose {span} at {len(widths)} places{allowed}, "
            f"deviation there {percent(c['deviation']['relative_rms'])} of the outputs' RMS (measured)"
        )
    return lines
