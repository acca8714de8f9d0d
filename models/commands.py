"""The command `hwcompile train`: trains a model of the zoo, compiles it and prints its figures; the compiler is given to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ..ir.errors import CompileError

__all__ = ["train_command"]


@click.command("train")
@click.argument("name", required=False)
@click.option("--data", help="Data set (.npz) that `hwcompile data` wrote; by default the sample that ships.")
@click.option("--events", type=click.IntRange(100), help="Generate so many events instead.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of data, weights and batches.")
@click.option("--effort", type=float, default=1.0, show_default=True, help="Length of the training, 1 as measured.")
@click.option("--target", help="Device [vu9p].")
@click.option("--output", help="Folder to write the project to; nothing is written without it.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier project in the output folder.")
@click.pass_obj
def train_command(
    compiler: Any,
    name: str | None,
    data: str | None,
    events: int | None,
    seed: int,
    effort: float,
    target: str | None,
    output: str | None,
    overwrite: bool,
) -> None:
    """Train the model NAME of the zoo, compile it and print its figures, in floats and in hardware. Without NAME: list them."""
    from ..hw_targets import load_target
    from .data import read
    from .zoo import MODELS, run

    if name is None:
        for model in MODELS.values():
            click.echo(f"{model.name:<22}{model.what} ({', '.join(model.references)})")
        return
    if data is not None and events is not None:
        raise CompileError("option --events", "goes without --data", "leave one out")
    load_target(target or "vu9p")  # before the training, which takes longer
    if output is not None:
        compiler.check_replaceable(Path(output), overwrite)
    started = time.process_time()
    trained = run(name, None if data is None else read(data), events=events, seed=seed, effort=effort)
    seconds = time.process_time() - started
    for r in trained.records:
        click.echo(f"{r.name:<12}{r.seconds:8.1f} s  " + "  ".join(f"{k} {v:.5g}" for k, v in r.measures.items()))
    click.echo(f"trained in {seconds:.0f} s of processor time, data included")
    design = compiler.compile(trained.module, target, example_inputs=trained.x[:1000], backends="rtl,cpu")
    floats, hardware = trained.float_metrics(), trained.metrics(design.predict(trained.x))
    width = max(map(len, floats))
    click.echo(f"{'':<{width}}  {'float':>10}  {'hardware':>10}    {len(trained.x)} test events")
    for key, value in floats.items():
        click.echo(f"{key:<{width}}  {value:10.4g}  {hardware[key]:10.4g}")
    report = design.report
    click.echo(f"estimate: {report.estimate.lut:,.0f} LUT, {report.estimate.ff:,.0f} FF, {report.estimate.dsp:g} DSP")
    click.echo(
        f"latency {report.timing.latency_cycles} cycles, {report.timing.latency_ns:g} ns, II {report.timing.ii}, {report.part}"
    )
    if output is not None:
        click.echo(f"written to {design.write(output, overwrite)}")
