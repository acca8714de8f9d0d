"""A report as tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import LayerReport, Report, Resources

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["engine_line", "print_report"]


def print_report(report: Report, console: Console) -> None:
    """The design, its layers, totals with their share of the device, timing, engines and deviation."""
    console.print(f"[bold]{report.name}[/bold] for {report.target} ({report.part})")
    console.print(_layers(report))
    if report.timing:
        t = report.timing
        console.print(f"latency [bold]{t.latency_cycles} cycles = {t.latency_ns:g} ns[/bold] at {t.clock_ns:g} ns, II {t.ii}, "
                      f"Fmax {t.fmax_mhz:.0f} MHz (estimate)")
    for v in report.verification:
        console.print(engine_line(v))
    if report.deviation:
        console.print(_deviation(report))
    if report.accuracy:
        a = report.accuracy
        console.print(f"accuracy {a['compiled']:.4f} compiled, {a['model']:.4f} model, on {a['events']} labelled events")


def _layers(report: Report) -> Table:
    from rich.table import Table

    synthesised = report.synthesis is not None
    table = Table(header_style="bold", show_footer=False, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for title in ("shape", "weights", "bits w/acc/out", "ops", "LUT est."):
        table.add_column(title, justify="right", no_wrap=True)
    if synthesised:
        for title in ("LUT synth.", "ratio"):
            table.add_column(title, justify="right", no_wrap=True)
    for title in ("FF", "DSP", "BRAM"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in report.layers:
        table.add_row(*_row(layer, synthesised))
    if report.estimate:
        table.add_section()
        table.add_row(*_total(report, report.estimate, synthesised))
        table.add_row(*_share(report, report.estimate, synthesised))
    return table


def _row(layer: LayerReport, synthesised: bool) -> list[str]:
    widths = f"{layer.weight_bits}/{layer.accumulator_bits}/{layer.output_bits}" if layer.weights else f"-/-/{layer.output_bits}"
    cells = [layer.name, f"{layer.inputs} → {layer.outputs}", f"{layer.weights:,}", widths, f"{layer.operations:,}"]
    return cells + _costs(layer.estimate, layer.synthesis, synthesised)


def _costs(estimate: Resources | None, synthesis: Resources | None, synthesised: bool) -> list[str]:
    lut = [f"{estimate.lut:,.0f}" if estimate else "-"]
    if synthesised:
        ratio = f"{synthesis.lut / estimate.lut:.2f}" if synthesis and estimate and estimate.lut else "-"
        lut += [f"{synthesis.lut:,.0f}" if synthesis else "-", ratio]
    shown = synthesis or estimate
    return lut + [f"{v:,.0f}" if shown else "-" for v in ((shown.ff, shown.dsp, shown.bram) if shown else (0, 0, 0))]


def _total(report: Report, estimate: Resources, synthesised: bool) -> list[str]:
    weights = sum(layer.weights for layer in report.layers)
    operations = sum(layer.operations for layer in report.layers)
    return ["total", "", f"{weights:,}", "", f"{operations:,}", *_costs(estimate, report.synthesis, synthesised)]


def _share(report: Report, estimate: Resources, synthesised: bool) -> list[str]:
    shown = (report.synthesis or estimate).shares(report.device)
    cells = [f"of {report.target}", "", "", "", "", f"{estimate.shares(report.device)['lut']:.2%}"]
    if synthesised:
        cells += [f"{shown['lut']:.2%}", ""]
    return cells + [f"{shown[k]:.2%}" for k in ("ff", "dsp", "bram")]


def engine_line(v: object) -> str:
    """One line for one engine."""
    assert isinstance(v, dict)
    if not v["vectors"]:
        return f"[yellow]–[/yellow] {v['engine']:<10} {v['note']}"
    good = not v["mismatches"]
    mark = "[green]✓[/green]" if good else "[red]✗[/red]"
    note = f"  {v['note']}" if v["note"] else ""
    return f"{mark} {v['engine']:<10} {v['vectors']:>7,} vectors  {v['mismatches']:>5,} mismatches  {v['seconds']:6.2f} s{note}"


def _deviation(report: Report) -> str:
    d = report.deviation
    assert d is not None
    same = d["argmax_agreement"]
    argmax = f", argmax equal in {same:.2%}" if same is not None and same == same else ""
    return (f"deviation from the model on {d['events']:,} events: max {d['maximum']:.3g}, RMS {d['rms']:.3g} "
            f"({d['relative_rms']:.2%} of the outputs' RMS){argmax}")
