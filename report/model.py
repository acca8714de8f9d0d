"""What a compilation reports: plain values with their kind (estimate, synthesis, measured); prints nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import CompileError

__all__ = ["LayerReport", "NodeReport", "Report", "Resources", "Timing", "from_json"]


@dataclass(frozen=True)
class Resources:
    """LUTs, flip-flops, DSP blocks, block RAMs; `carry` cells only where a tool counted them."""

    lut: float
    ff: float
    dsp: float
    bram: float
    carry: float | None = None

    def shares(self, device: Resources) -> dict[str, float]:
        """Each as a fraction of the device's; infinite where the device has none and some are used."""
        found: dict[str, float] = {}
        for kind in ("lut", "ff", "dsp", "bram"):
            used, have = getattr(self, kind), getattr(device, kind)
            found[kind] = used / have if have else math.inf if used else 0.0
        return found


@dataclass(frozen=True)
class Timing:
    """Latency in cycles and ns at the clock, cycles between events (II), and the fastest clock by the same model."""

    clock_ns: float
    latency_cycles: int
    ii: int
    fmax_mhz: float

    @property
    def latency_ns(self) -> float:
        return self.latency_cycles * self.clock_ns


@dataclass(frozen=True)
class LayerReport:
    """One layer: what it computes, the widths it works with, and what it costs.

    `operations` are those of the unrolled program. `width_histogram`: bits -> how many outputs have them. `note` says
    why there is no synthesis.
    """

    name: str
    ops: str
    inputs: str
    outputs: str
    macs: int
    weights: int
    weight_bits: int
    accumulator_bits: int
    output_bits: int
    width_histogram: Mapping[str, int]
    operations: int
    estimate: Resources | None
    synthesis: Resources | None = None
    note: str = ""


@dataclass(frozen=True)
class NodeReport:
    """One node of the graph: `type` is the smallest that holds all its elements, `layer` is empty outside layers."""

    name: str
    op: str
    operands: tuple[str, ...]
    shape: str = ""
    type: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Report:
    """Everything known about a compiled design; `as_json` and `from_json` round-trip.

    `synthesis_note` says why there are no numbers for the whole although a synthesis ran. `schedule`: that of the HLS
    design, its layers with strategy, reuse, estimated cost, and why.
    """

    name: str
    version: str
    target: str
    part: str
    device: Resources
    timing: Timing | None
    layers: tuple[LayerReport, ...]
    estimate: Resources | None
    synthesis: Resources | None
    synthesis_tool: str
    ports: tuple[Mapping[str, Any], ...]
    verification: tuple[Mapping[str, Any], ...]
    deviation: Mapping[str, Any] | None
    calibration: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    graph: tuple[NodeReport, ...]
    stages: tuple[tuple[str, float], ...]
    synthesis_note: str = ""
    schedule: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        """The report as the command prints it, without colours."""
        from rich.console import Console

        from .text import print_report

        console = Console(width=120, no_color=True, highlight=False)
        with console.capture() as text:
            print_report(self, console)
        return text.get()

    def as_json(self) -> str:
        """JSON text; a number that does not exist (NaN) is null."""
        values = dataclasses.asdict(self)
        if self.timing is not None:
            values["timing"]["latency_ns"] = self.timing.latency_ns
        return json.dumps(_clean(values), indent=1) + "\n"


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _numbers(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values with NaN again where JSON has null."""
    return {k: math.nan if v is None and k in keys else v for k, v in values.items()}


def _resources(values: Mapping[str, Any] | None) -> Resources | None:
    return None if values is None else Resources(**_numbers(values, ("lut", "ff", "dsp", "bram")))


def _layer(values: Mapping[str, Any]) -> LayerReport:
    costs = {kind: _resources(values[kind]) for kind in ("estimate", "synthesis")}
    return LayerReport(**{**values, **costs})


def _timing(values: Mapping[str, Any] | None) -> Timing | None:
    if values is None:
        return None
    known = {k: v for k, v in values.items() if k != "latency_ns"}
    return Timing(**{**_numbers(known, ("fmax_mhz",)), "clock_ns": float(values["clock_ns"])})


def from_json(text: str, where: str = "report.json") -> Report:
    """Read back what `Report.as_json` wrote. Raises `CompileError` for anything else."""
    try:
        v = json.loads(text)
        return Report(
            **{
                **v,
                "layers": tuple(_layer(x) for x in v["layers"]),
                "timing": _timing(v["timing"]),
                "device": Resources(**v["device"]),
                "graph": tuple(NodeReport(**{**n, "operands": tuple(n["operands"])}) for n in v["graph"]),
                "estimate": _resources(v["estimate"]),
                "synthesis": _resources(v["synthesis"]),
                "ports": tuple(v["ports"]),
                "verification": tuple(v["verification"]),
                "stages": tuple((n, s) for n, s in v["stages"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        rule = f"is not a report that this version wrote ({type(e).__name__}: {e})"
        raise CompileError(where, rule, "compile the model again") from None
