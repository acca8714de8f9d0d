"""The main job: load -> calibrate -> lower -> a `Design`; with `design.py` and the command line all that sees every room."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .codegen import cpu, gpu
from .codegen.choose import Goal
from .codegen.project import Project, read_manifest
from .codegen.schedule import LayerSchedule, Schedule
from .design import BACKENDS, Design, Stages, input_data, missing, shapes
from .frontends.calibrate import Calibration, calibrate, open_precisions
from .frontends.expressions import is_expression, read_expression
from .frontends.hls4ml import is_hls4ml, read_hls4ml
from .frontends.hls4ml_config import Configuration, configured, read_configuration
from .frontends.keras import read_keras
from .frontends.keras_files import KERAS_ENDINGS
from .frontends.keras_live import is_keras, read_keras_live
from .frontends.lower import lower
from .frontends.onnx import read_onnx
from .frontends.real import RealModel
from .frontends.recurrent import step_model
from .frontends.torch import is_torch, read_torch
from .frontends.trace import Traced
from .frontends.trees_sklearn import is_sklearn, read_sklearn
from .frontends.trees_xgboost import is_xgboost, read_xgboost
from .hw_targets import load_target
from .ir.errors import CompileError
from .ir.graph import Graph
from .ir.passes import PIPELINES, run
from .ir.text import parse_graph
from .ir.types import Int64
from .report.model import Report, from_json
from .verify.fuzz import Fuzzed
from .verify.fuzz import fuzz as fuzz_engines
from .verify.random_schedules import random_schedule

__all__ = ["BACKENDS", "Design", "compile", "fuzz", "load", "open_design"]

DEFAULT_BACKENDS = ("rtl", "hls", "cpu")
"""What is written where nothing else is asked for."""

Progress = Callable[[str, float], None]


def load(
    source: str | Path | bytes | Any, example_inputs: Any = None, weights: str | Path | None = None
) -> RealModel | Graph:
    """Read a model: an ONNX file, its bytes or a ``ModelProto``; a Keras, QKeras or HGQ2 file (.h5, .keras, .json with its weights
    beside it) or live model; trees of XGBoost (.json, .ubj or live) or of scikit-learn (live); a traced numpy function;
    a formula (sympy, PySR, pyoperon); a torch module (Brevitas' and PQuantML's layers too) or an exported program; or a
    `.hwc` file that hwcompile wrote. `example_inputs`: for a torch module, one array ``[events, ...]``, a tuple, or a dict by the
    names of forward's arguments. `weights`: the weights of a Keras .json file that lie elsewhere.

    Raises `CompileError` for files that cannot be read or hold something unsupported.
    """
    if weights is not None and not (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        raise CompileError("weights", "are for a Keras .json file; any other model has its own", "leave them out")
    if is_torch(source) and not is_keras(source):
        return read_torch(source, example_inputs)
    if example_inputs is not None:
        raise CompileError("example_inputs", "are for torch modules; this model knows its inputs", "leave them out")
    if isinstance(source, str | Path) and Path(source).is_dir():
        raise CompileError(
            str(source),
            "is a folder, not a model file",
            "give the .onnx file, or use 'hwcompile report' for a compiled folder",
        )
    if isinstance(source, str | Path) and Path(source).suffix == ".hwc":
        return parse_graph(_read_text(Path(source)), str(source))
    if isinstance(source, str | Path) and Path(source).suffix in (".pkl", ".pickle", ".joblib"):
        fix = "load it yourself and give the model, or save it as JSON or ONNX"
        raise CompileError(str(source), "is a pickle, and reading one runs whatever it holds", fix)
    if isinstance(source, Traced):
        return source.model()
    if is_hls4ml(source):
        return read_hls4ml(source)
    if is_expression(source):
        return read_expression(source)
    if is_keras(source):
        return read_keras_live(source)
    if is_xgboost(source) and weights is None:
        return read_xgboost(source)
    if is_sklearn(source):
        return read_sklearn(source)
    if isinstance(source, str | Path) and Path(source).suffix in KERAS_ENDINGS:
        return read_keras(source, weights)
    return read_onnx(source)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise CompileError(str(path), "there is no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as e:
        raise CompileError(str(path), f"cannot be read: {e}", "check the path") from None


def compile(
    model: Any,
    target: str | None = None,
    clock_ns: float | None = None,
    *,
    example_inputs: Any = None,
    weights: str | Path | None = None,
    hls4ml: Mapping[str, Any] | str | Path | None = None,
    backends: str | Sequence[str] = DEFAULT_BACKENDS,
    calibration: Any = None,
    bits: int | None = None,
    tolerance: float | None = None,
    step: bool = False,
    schedule: Schedule | None = None,
    goal: Goal | None = None,
    progress: Progress = lambda stage, seconds: None,
) -> Design:
    """Compile a model for a device.

    `model`: whatever `load` takes, or its result; for `example_inputs` and `weights` see there.
    `target`: a device, vu9p by default. `clock_ns`: the clock period, the device's own by default.
    `hls4ml`: a configuration of hls4ml, a dictionary or its YAML file: types, tables, reuse and strategy of each layer, part,
    clock and IOType (`frontends.hls4ml_config`); arguments given here come first.
    `calibration`: float data for a model that leaves precisions open (a path, an array ``[events, *shape]``, or arrays by
    input name), with `bits` for every open width or `tolerance` for the relative RMS deviation of the outputs (0.01 if
    neither is given). `step`: compile one time step of a recurrent network, with its states as inputs and outputs
    (`frontends.recurrent`). `schedule`: how fast the HLS design shall be (`codegen.schedule`); the layers that it leaves open are
    chosen for the `goal` (`codegen.choose`) where there is one. `progress(stage, seconds)` is called after each stage.

    Raises `CompileError` for anything that cannot be compiled exactly.
    """
    configuration = None if hls4ml is None else read_configuration(hls4ml)
    device = load_target(target or (configuration.part if configuration else None) or "vu9p")
    backends = tuple(b.strip() for b in backends.split(",")) if isinstance(backends, str) else tuple(backends)
    clock_ns = clock_ns if clock_ns is not None or configuration is None else configuration.clock_ns
    clock = float(clock_ns if clock_ns is not None else device.clock_ns)
    schedule, goal = schedule or Schedule(), goal or Goal()
    _check(backends, clock, schedule, goal)
    stages = Stages(progress)
    with stages("load"):
        source = model if isinstance(model, RealModel | Graph) else load(model, example_inputs, weights)
    if configuration is not None:
        source, schedule = _configured(source, configuration, schedule)
    law, real, chosen = _law(source, calibration, bits, tolerance, step, stages)
    with stages("realise"):
        hardware = run(law, PIPELINES["hardware"])
    design = Design(law, hardware, device, clock, tuple(backends), real, chosen, stages, schedule=schedule, goal=goal)
    for backend in backends:
        with stages(backend):
            getattr(design, backend)
    return design


def _law(
    source: RealModel | Graph, calibration: Any, bits: int | None, tolerance: float | None, step: bool, stages: Stages
) -> tuple[Graph, RealModel | None, Calibration | None]:
    """The integer graph of a model, the model that it is of, and the precisions that calibration chose."""
    if isinstance(source, Graph):
        if step:
            raise CompileError("step", "is for models; a compiled graph has no time steps", "compile the model again")
        return source, None, None
    quantized, chosen = source, None
    if calibration is not None and open_precisions(source):
        with stages("calibrate"):
            if bits is None and tolerance is None:
                tolerance = 0.01
            quantized, chosen = calibrate(source, input_data(calibration, shapes(source)), bits, tolerance)
    elif bits is not None or tolerance is not None:
        raise CompileError(
            "calibration",
            "--bits and --tolerance need a model with open precisions and --calibrate data.npz",
            "leave them out for a quantized model",
        )
    if step:
        quantized = source = step_model(quantized)
    with stages("lower"):
        return run(lower(quantized), PIPELINES["simplify"]), source, chosen


def _check(backends: Sequence[str], clock: float, schedule: Schedule, goal: Goal) -> None:
    """What can be said before the model is read."""
    unknown = [b for b in backends if b not in BACKENDS]
    if unknown:
        raise CompileError("backend", f"'{unknown[0]}' is not known", f"known: {', '.join(BACKENDS)}")
    if not 0.1 <= clock <= 1e6:
        rule = f"the period must be between 0.1 and 1,000,000 ns, not {clock:g}"
        raise CompileError("clock", rule, "give --clock-ns 5")
    if backends and "hls" not in backends and (schedule != Schedule() or not goal.is_none):
        rule = "an architecture, a goal and layer schedules are for the HLS writer, which --backend leaves out"
        raise CompileError("schedule", rule, "add hls to --backend")


def _configured(model: RealModel | Graph, given: Configuration, schedule: Schedule) -> tuple[RealModel, Schedule]:
    """The model with an hls4ml configuration on it, and the schedule that this asks for."""
    if isinstance(model, Graph):
        raise CompileError("hls4ml configuration", "is for models; a compiled graph has its types", "give the model")
    typed, matrices = configured(model, given)
    own = {k: LayerSchedule(m.strategy, m.reuse) for k, m in matrices.items() if m.strategy != "latency"}
    architecture = given.architecture if schedule.architecture == Schedule().architecture else schedule.architecture
    layers = {**own, **schedule.layers}
    return typed, dataclasses.replace(schedule, architecture=architecture or schedule.architecture, layers=layers)


def _scheduled(report: Report) -> Schedule:
    """The schedule that a written design has, as its report tells."""
    told = report.schedule
    if told is None:
        return Schedule()
    own = {x["name"]: LayerSchedule(x["strategy"], int(x["reuse"])) for x in told["layers"] if x["strategy"]}
    return Schedule(told["architecture"], own)


def fuzz(
    backends: Sequence[str] = DEFAULT_BACKENDS,
    minutes: float = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda networks, vectors: None,
) -> Fuzzed:
    """Run random programs over all ops, modes and schedules through every engine until `minutes` have passed or one differs."""
    for backend in backends:
        if backend not in BACKENDS:
            raise CompileError("backend", f"'{backend}' is not known", f"known: {', '.join(BACKENDS)}")
        if what := missing(backend):
            raise CompileError(backend, what.partition(": ")[0], what.partition(": ")[2])
    if "gpu" in backends:
        gpu.interpret_here()
    device = load_target("vu9p")

    def engines(graph: Graph) -> dict[str, Callable[[Mapping[str, Int64]], Mapping[str, Any]]]:
        design = Design(graph, graph, device, 5.0, tuple(backends))
        found = design._engines()
        if "hls" in found:
            drawn = random_schedule(np.random.default_rng(list(graph.name.encode())), graph)
            found["hls with a drawn schedule"] = dataclasses.replace(design, schedule=drawn)._run_hls
        return found

    return fuzz_engines(engines, minutes, seed, progress=progress)


def open_design(folder: str | Path) -> Design:
    """A design from the folder that `write` made, with the Verilog, HLS and engine files as they are on disk now."""
    path = Path(folder)
    if not path.is_dir():
        raise CompileError(str(path), "must be a folder that hwcompile wrote", "compile a model with --output first")
    graph = parse_graph(_read_text(path / "model.hwc"), str(path / "model.hwc"))
    report = from_json(_read_text(path / "report.json"), str(path / "report.json"))
    written = {f.split("/")[0] for f in read_manifest(path)}
    backends = tuple(
        b for b, part in (("rtl", "rtl"), ("hls", "hls"), ("cpu", "engine"), ("gpu", "gpu")) if part in written
    )
    clock = report.timing.clock_ns if report.timing else report.schedule["clock_ns"] if report.schedule else None
    own = path / "target.toml"  # a device that does not come with the package
    target = str(own) if "target.toml" in written else report.target
    design = compile(graph, target, clock, backends=(), schedule=_scheduled(report))
    design = dataclasses.replace(design, backends=backends)
    if "rtl" in backends:
        design.__dict__["rtl"] = dataclasses.replace(design.rtl, project=_on_disk(design.rtl.project, path / "rtl"))
    if "hls" in backends:
        design.__dict__["hls"] = dataclasses.replace(design.hls, project=_on_disk(design.hls.project, path / "hls"))
    if "cpu" in backends:
        design.__dict__["cpu"] = cpu.load(design.hardware, _on_disk(cpu.emit(design.hardware), path / "engine"))
    if "gpu" in backends:
        design.__dict__["gpu"] = gpu.Engine(design.hardware, _on_disk(gpu.emit(design.hardware), path / "gpu"))
    return design


def _on_disk(project: Project, folder: Path) -> Project:
    """The files of a project as the folder has them."""
    return Project(
        {
            p: _read_text(folder / p) if isinstance(c, str) else (folder / p).read_bytes()
            for p, c in project.files.items()
        }
    )
