"""What a trained model costs and scores: compiled, and read off the report; knows no search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codegen.choose import Goal
from ..driver import compile as compile_model
from ..ir.errors import CompileError
from ..report.model import Report
from .trial import Trained

__all__ = ["Measured", "compilation", "measured", "tensors", "values_of"]


@dataclass(frozen=True)
class Measured:
    """A compiled candidate as plain values, which processes can send each other and the store keeps."""

    method: str
    values: Mapping[str, float]
    weights: Mapping[str, np.ndarray]
    graph: str
    report: str
    steps: tuple[tuple[str, dict[str, Any]], ...]
    goal: Mapping[str, Any]


def measured(trained: Trained, target: str, clock_ns: float | None) -> Measured:
    """The candidate with its costs; raises `CompileError` for a model that does not compile and metrics that are not finite."""
    metrics = {k: float(v) for k, v in trained.metrics.items()}
    bad = next((k for k, v in metrics.items() if not math.isfinite(v)), None)
    if bad is not None:
        rule = f"must be a finite number, not {metrics[bad]}"
        raise CompileError(f"metric '{bad}'", rule, "look at what the training function returns")
    given = {} if trained.example_inputs is None else {"example_inputs": trained.example_inputs}
    design = compile_model(trained.model, target, clock_ns, **compilation(trained.goal), **given)
    report = design.report
    values = {**{k: v for k, v in values_of(report).items() if math.isfinite(v)}, **metrics}
    if _is_module(trained.model):
        from ..optimize import ebops, layers

        if any(True for _ in layers(trained.model)):
            values.setdefault("ebops", ebops(trained.model))
    return Measured(
        trained.method, values, tensors(trained), str(design.graph), report.as_json(),
        tuple((s.name, dict(s.parameters)) for s in trained.steps), dict(trained.goal),
    )  # fmt: skip


def compilation(goal: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `hc.compile` for costs alone: unrolled RTL, or HLS with the schedule for a goal."""
    return {"backends": ("hls",), "goal": Goal(**goal)} if goal else {"backends": ("rtl",)}


def values_of(report: Report) -> dict[str, float]:
    """The costs of `objectives.COSTS` that a report holds, and those of a synthesis as ``lut_synthesis`` and so on."""
    found = {
        "weights": float(sum(layer.weights for layer in report.layers)),
        "weight_bits": float(sum(layer.weights * layer.weight_bits for layer in report.layers)),
    }
    for resources, ending in ((report.estimate, ""), (report.synthesis, "_synthesis")):
        if resources is not None:
            found |= {f"{k}{ending}": float(getattr(resources, k)) for k in ("lut", "ff", "dsp", "bram")}
    if report.schedule is not None:
        kinds = ("lut", "ff", "dsp", "bram", "latency_ns", "latency_cycles", "ii")
        found |= {k: float(report.schedule[k]) for k in kinds}
    if report.timing is not None:
        found |= {k: float(getattr(report.timing, k)) for k in ("latency_ns", "latency_cycles", "fmax_mhz")}
    return found


def tensors(trained: Trained) -> dict[str, np.ndarray]:
    """The tensors to keep: those given, or all of a torch module."""
    if trained.weights is not None:
        return {k: np.asarray(v) for k, v in trained.weights.items()}
    if _is_module(trained.model):
        return {k: v.detach().cpu().numpy() for k, v in trained.model.state_dict().items()}
    return {}


def _is_module(model: Any) -> bool:
    return hasattr(model, "state_dict") and hasattr(model, "named_modules")
