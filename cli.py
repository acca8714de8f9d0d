"""The `hwcompile` command: options, progress and exit codes; the work is in `driver`."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .ir.errors import CompileError

__all__ = ["Options", "main"]


def _option(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The options of a compilation; command line and configuration file have exactly these."""

    target: str | None = _option("Device: a name from 'hwcompile targets', a part number, or a .toml file [vu9p].")
    clock_ns: float | None = _option("Clock period in ns; the device's own by default.")
    weights: str | None = _option(
        "The weights of a Keras .json model; by default the file NAME_weights.h5 or the like beside it."
    )
    backend: str = _option("What to write, comma separated: rtl, hls, cpu, gpu.", "rtl,hls,cpu")
    calibrate: str | None = _option("Float data (.npz, .npy) that closes the precisions a float model leaves open.")
    bits: int | None = _option("With --calibrate: the width of every open weight and value.")
    tolerance: float | None = _option(
        "With --calibrate: the RMS deviation allowed, relative to the outputs' RMS [0.01]."
    )
    hls4ml: str | None = _option(
        "A configuration of hls4ml (YAML): types, tables, reuse and strategy, part, clock, IOType."
    )
    step: bool = _option("Compile one time step of a recurrent network, with its states as inputs and outputs.", False)
    io: str = _option(
        "HLS architecture: parallel (all elements at once) or stream (position after position).", "parallel"
    )
    latency_ns: float | None = _option("HLS goal: the cheapest schedule with at most this latency.")
    ii: int | None = _option("HLS goal: the cheapest schedule with at most so many cycles between events.")
    max_lut: str | None = _option("HLS goal: the fastest schedule with at most so many LUTs, or such a share: 20%.")
    max_dsp: str | None = _option("HLS goal: likewise for DSP blocks.")
    max_bram: str | None = _option("HLS goal: likewise for block RAMs.")
    layers: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Configuration file only: a table for each layer, [layers.NAME] with strategy (latency, resource, "
            "distributed) and reuse, which no goal changes.",
            "file_only": True,
        },
    )
    data: str | None = _option("Event data (.npz, .npy) to verify with; 'label' in it gives the accuracy.")
    events: int = _option("Most events of the data to verify with; deviation and accuracy use all of it.", 10_000)
    synth: bool = _option("Synthesize every layer with Yosys.", False)
    synth_time_limit_s: float = _option("Seconds that one synthesis may take.", 300.0)
    verify: bool = _option("Run every engine against the reference.", True)
    output: str | None = _option("Folder to write the project to; nothing is written without it.")
    overwrite: bool = _option("Replace an earlier project in the output folder.", False)


def _click_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The fields of `Options` as command-line options; defaults stay None so that a configuration file shows through."""
    for f in reversed([f for f in dataclasses.fields(Options) if not f.metadata.get("file_only")]):
        flag = f.name.replace("_", "-")
        kind = {"int": int, "int | None": int, "float": float, "float | None": float}.get(str(f.type), str)
        shown = "" if f.default is None or f.default is False or f.type == "bool" else f" [{f.default}]"
        text = f.metadata["help"] + shown
        if f.type == "bool":
            command = click.option(f"--{flag}/--no-{flag}", f.name, default=None, help=text)(command)
        else:
            command = click.option(f"--{flag}", f.name, type=kind, default=None, help=text)(command)
    return command


def _merged(config: str | None, given: dict[str, Any]) -> Options:
    """Options from the configuration file, overridden by those on the command line."""
    known = {f.name: f for f in dataclasses.fields(Options)}
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(Path(config).read_text())
        except FileNotFoundError:
            raise CompileError(config, "there is no such file", "check --config") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
            raise CompileError(config, f"is not a readable TOML file ({e})") from None
        for key, value in values.items():
            if key not in known:
                raise CompileError(config, f"option '{key}' is not known", f"known: {', '.join(known)}")
            _check_type(config, key, value, str(known[key].type))
    return Options(**{**values, **{k: v for k, v in given.items() if v is not None}})


def _check_type(where: str, key: str, value: Any, kind: str) -> None:
    kinds = {"str": str, "bool": bool, "int": int, "float": (int, float), "dict[str, Any]": dict}
    wanted = kinds[kind.removesuffix(" | None")]
    if not isinstance(value, wanted) or isinstance(value, bool) != (kind == "bool"):
        name = kind.removesuffix(" | None").replace("dict[str, Any]", "table")
        raise CompileError(where, f"option '{key}' must be of type {name}, not {value!r}")


def _check_options(options: Options) -> None:
    """What can be said before any work is done."""
    from .design import BACKENDS
    from .hw_targets import load_target
    from .hw_targets.yosys import require

    backends = [b.strip() for b in options.backend.split(",")]
    if options.events < 1:
        raise CompileError("option --events", f"must be at least 1, not {options.events}")
    if not options.synth_time_limit_s > 0:
        raise CompileError("option --synth-time-limit-s", f"must be positive, not {options.synth_time_limit_s:g}")
    if options.synth and all(b in BACKENDS for b in backends):
        if "rtl" not in backends:
            raise CompileError(
                "option --synth", "synthesizes the Verilog, which --backend leaves out", "add rtl to --backend"
            )
        require(load_target(options.target or "vu9p"))


def _limit(option: str, text: str | None, have: int) -> float | None:
    """A count, or a share of what the device has, as text."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise CompileError(f"option --{option}", f"must be a count or a share such as 20%, not '{text}'") from None
    if not 0 <= value < 1e12:
        raise CompileError(f"option --{option}", f"must be at least 0, not {text}")
    return value / 100 * have if text.endswith("%") else value


def _goal(options: Options) -> Any:
    """What the options ask of the HLS schedule."""
    from .codegen.choose import Goal
    from .hw_targets import load_target

    have = load_target(options.target or "vu9p").resources
    return Goal(
        options.latency_ns,
        options.ii,
        _limit("max-lut", options.max_lut, have.lut),
        _limit("max-dsp", options.max_dsp, have.dsp),
        _limit("max-bram", options.max_bram, have.bram),
    )


def _schedule(options: Options, config: str | None) -> Any:
    """The architecture, and the layers that the configuration file schedules."""
    from .codegen.schedule import LayerSchedule, Schedule

    known = [f.name for f in dataclasses.fields(LayerSchedule)]
    own: dict[str, LayerSchedule] = {}
    for name, values in (options.layers or {}).items():
        where = f"{config}, layers.{name}"
        if not isinstance(values, dict):
            raise CompileError(where, f"must be a table with {' and '.join(known)}, not {values!r}")
        unknown = [key for key in values if key not in known]
        if unknown:
            raise CompileError(where, f"option '{unknown[0]}' is not known", f"known: {', '.join(known)}")
        try:
            own[name] = LayerSchedule(**values)
        except CompileError as e:
            raise CompileError(where, f"{e.where.removeprefix('schedule ')} {e.rule}", e.fix) from None
    return Schedule(options.io, own)


_ELSEWHERE = {
    "data": ("models.data.commands", "data_command"),
    "lineage": ("lineage.commands", "lineage"),
    "search": ("explore.commands", "search_command"),
    "train": ("models.commands", "train_command"),
}
"""Commands that live with what they do, imported when they are asked for."""


class _Group(click.Group):
    """`hwcompile MODEL ...` is `hwcompile compile MODEL ...`: the main job needs no verb."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = _ELSEWHERE[cmd_name]
        return getattr(import_module(f".{module}", __package__), name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = (*self.commands, *_ELSEWHERE)
        if args and args[0] not in (*known, "-h", "--help", "--version"):
            meant = difflib.get_close_matches(args[0], known, 1)
            if meant and not Path(args[0]).exists():
                raise CompileError(args[0], "is neither a command nor a file", f"did you mean '{meant[0]}'?")
            args = ["compile", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hwcompile")
def cli() -> None:
    """Compile a quantized network to FPGA hardware, exactly: hwcompile MODEL.onnx --target vu9p.

    See `hwcompile compile --help` for the options of the main job.
    """


@cli.command("compile")
@click.argument("model")
@_click_options
@click.option("--config", help="Configuration file (hwcompile.toml) with these options as keys.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
def compile_command(model: str, config: str | None, as_json: bool, **given: Any) -> None:
    """Compile MODEL (.onnx, .h5, .keras, .json, .ubj, or .hwc written by hwcompile), verify it and report its cost."""
    from .codegen.project import check_replaceable
    from .driver import compile as compile_model
    from .frontends.data import read_events

    options = _merged(config, given)
    _check_options(options)
    if options.output is not None:
        check_replaceable(Path(options.output), options.overwrite)
    progress = _Progress(quiet=as_json)
    design = compile_model(
        model,
        options.target,
        options.clock_ns,
        weights=options.weights,
        backends=tuple(b.strip() for b in options.backend.split(",")),
        calibration=options.calibrate,
        bits=options.bits,
        tolerance=options.tolerance,
        hls4ml=options.hls4ml,
        step=options.step,
        schedule=_schedule(options, config),
        goal=_goal(options),
        progress=progress.stage,
    )
    shapes = {design.graph.nodes[i].name: design.graph.nodes[i].type.shape for i in design.graph.inputs}
    data, labels = read_events(options.data, shapes) if options.data else (None, None)
    if options.verify:
        design.verify(data, events=options.events)
    if data is None and options.calibrate and not options.step:  # the data are sequences
        data, _ = read_events(options.calibrate, shapes)
    if data is not None:
        design.deviate(data)
        if labels is not None and design.classes is not None:
            design.score(data, labels)
    if options.synth:
        with progress.bar() as update:
            design.synthesize(time_limit_s=options.synth_time_limit_s, progress=update)
    folder = design.write(options.output, options.overwrite) if options.output else None
    _finish(design, progress, as_json, folder)


def _finish(design: Any, progress: _Progress, as_json: bool, folder: Path | None) -> None:
    from .report.text import print_report

    report = design.report
    if as_json:
        click.echo(report.as_json(), nl=False)
    else:
        print_report(report, progress.console)
        if folder:
            progress.console.print(
                f"written to {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}", highlight=False
            )
    _exit_on_mismatch(design.found.get("verification"), progress)


def _exit_on_mismatch(verification: Any, progress: _Progress) -> None:
    if verification is None or verification.ok:
        return
    for result in verification.results:
        if result.mismatches:
            progress.error(
                f"{result.engine}: {result.first or result.note}"
                + (f" ({result.note})" if result.first and result.note else "")
            )
    sys.exit(1)


@cli.command("targets")
def targets_command() -> None:
    """List the devices: part, family and what they hold."""
    from rich.table import Table

    from .hw_targets import load_target, targets

    table = Table(header_style="bold")
    for title in ("target", "part", "family", "boards"):
        table.add_column(title, no_wrap=title != "boards")
    for title in ("LUT", "FF", "DSP", "BRAM", "clock ns"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in targets():
        d = load_target(name)
        r = d.resources
        table.add_row(
            d.name,
            d.part,
            d.family,
            ", ".join(d.boards),
            *(f"{v:,}" for v in (r.lut, r.ff, r.dsp, r.bram)),
            f"{d.clock_ns:g}",
        )
    _Progress().console.print(table)


@cli.command("verify")
@click.argument("folder")
@click.option("--data", help="Event data (.npz, .npy); random and corner vectors alone without it.")
@click.option("--events", type=click.IntRange(1), default=10_000, show_default=True, help="Most events of the data.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random vectors.")
def verify_command(folder: str, data: str | None, events: int, seed: int) -> None:
    """Run every engine of a written FOLDER, as its files are now, against the reference, and prove the linear parts."""
    from .driver import open_design
    from .report.text import engine_line

    progress = _Progress()
    design = open_design(folder)
    verification = design.verify(data, events=events, seed=seed)
    for result in verification.results:
        progress.console.print(engine_line(dataclasses.asdict(result)))
    _exit_on_mismatch(verification, progress)


@cli.command("report")
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def report_command(folder: str, as_json: bool) -> None:
    """Print the report of a written FOLDER."""
    from .report.model import from_json
    from .report.text import print_report

    path = Path(folder) / "report.json"
    try:
        text = path.read_text()
    except OSError as e:
        raise CompileError(
            str(path), f"cannot be read: {e.strerror or e}", "give a folder that hwcompile wrote"
        ) from None
    report = from_json(text, str(path))
    if as_json:
        click.echo(text, nl=False)
    else:
        print_report(report, _Progress().console)


@cli.command("predict")
@click.argument("folder")
@click.option("--data", required=True, help="Event data (.npz, .npy).")
@click.option("--output", required=True, help="The .npz file to write, with one array for each output.")
@click.option("--raw", is_flag=True, help="Raw integers in and out instead of real units.")
@click.option("--engine", default="cpu", show_default=True, help="cpu, gpu, reference, rtl or hls.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of the CPU engine."
)
def predict_command(folder: str, data: str, output: str, raw: bool, engine: str, threads: int) -> None:
    """Run the compiled network of a written FOLDER on event data."""
    import io

    import numpy as np

    from .codegen.project import write_file
    from .driver import open_design

    design = open_design(folder)
    outputs = design.predict(data, raw=raw, engine=engine, threads=threads)
    named = outputs if isinstance(outputs, dict) else {design.graph.outputs[0].name: outputs}
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    write_file(output, buffer.getvalue())
    click.echo(f"{len(next(iter(named.values())))} events written to {output}: {', '.join(named)}")


@cli.command("fuzz")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="How long to go on."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the first network; each next one adds 1.",
)
@click.option("--backend", default="rtl,hls,cpu", show_default=True, help="Engines to compare, comma separated.")
def fuzz_command(minutes: float, seed: int, backend: str) -> None:
    """Run random programs over all ops, types and modes through every engine; a difference is shrunk and printed."""
    from .driver import fuzz

    progress = _Progress()
    with progress.console.status("starting") as status:
        done = fuzz(
            [b.strip() for b in backend.split(",")],
            minutes,
            seed,
            lambda networks, vectors: status.update(f"{networks} networks, {vectors:,} vectors"),
        )
    progress.console.print(
        f"{done.networks} networks, {done.vectors:,} vectors, {done.refused} refused, {done.seconds:.0f} s"
    )
    if done.failure:
        progress.error(str(done.failure))
        sys.exit(1)


class _Progress:
    """Stages with their times, to stderr where reports go to stdout as JSON."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.console = Console(stderr=quiet, highlight=False, width=None if sys.stdout.isatty() else 132)

    def stage(self, name: str, seconds: float) -> None:
        if not self.quiet:
            self.console.print(f"[dim]{name:<11}{seconds:7.2f} s[/dim]")

    def bar(self) -> Any:
        """A context manager that yields progress(done, total, result) for a synthesis of many parts."""
        from contextlib import contextmanager

        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        @contextmanager
        def shown() -> Any:
            columns = (
                TextColumn("synthesize"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            with Progress(
                *columns, console=self.console, disable=self.quiet or not self.console.is_terminal, transient=True
            ) as bar:
                task = bar.add_task("", total=None)
                yield lambda done, total, result: bar.update(task, completed=done, total=total, description=result.name)

        return shown()

    def error(self, text: str) -> None:
        click.echo(text, err=True)


class _Compiler:
    """What commands of rooms that do not see the driver need of it."""

    def compile(self, *arguments: Any, **options: Any) -> Any:
        """As `hc.compile`."""
        from .driver import compile

        return compile(*arguments, **options)

    def check_replaceable(self, folder: Path, overwrite: bool) -> None:
        """Refuse a folder that a design may not be written to."""
        from .codegen.project import check_replaceable

        check_replaceable(folder, overwrite)


def main() -> None:
    """Entry point: a `CompileError` is one sentence on stderr and exit code 2."""
    try:
        cli(standalone_mode=False, obj=_Compiler())
    except CompileError as e:
        click.echo(f"hwcompile: {e}", err=True)
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as e:
        e.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
