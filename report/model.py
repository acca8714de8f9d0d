"""What a compilation reports: plain values with their kind (estimate, synthesis, measured); prints nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.errors import CompileError

__all__ = ["LayerReport", "Report", "Resources", "Timing", "from_json"]


@dataclass(frozen=True)
class Resources:
    """LUTs, flip-flops, DSP blocks, block RAMs; `carry` cells only where a tool counted them."""

    lut: float
    ff: float
    dsp: float
    bram: float
    carry: float | None = None

    def shares(self, device: Resources) -> dict[str, float]:
        """Each as a fraction of the device's."""
        return {k: getattr(self, k) / getattr(device, k) if getattr(device, k) else 0.0 for k in ("lut", "ff", "dsp", "bram")}


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
    """One layer: what it computes, the widths it works with, and what it costs; `operations` are those of the unrolled program. `width_histogram`: bits -> outputs."""

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
class Report:
    """Everything known about a compiled design; `as_json` and `from_json` round-trip."""

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
    graph: tuple[tuple[str, str, tuple[str, ...]], ...]
    stages: tuple[tuple[str, float], ...]

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
    return value.item() if hasattr(value, "item") else value


def from_json(text: str, where: str = "report.json") -> Report:
    """Read back what `Report.as_json` wrote. Raises `CompileError` for anything else."""
    try:
        v = json.loads(text)
        if v["timing"]:
            v["timing"].pop("latency_ns", None)

        def resources(r: Any) -> Resources | None:
            return None if r is None else Resources(**r)
        layers = tuple(LayerReport(**{**x, "estimate": resources(x["estimate"]), "synthesis": resources(x["synthesis"])})
                       for x in v["layers"])
        timing = None if v["timing"] is None else Timing(**v["timing"])
        graph = tuple((name, op, tuple(operands)) for name, op, operands in v["graph"])
        device = Resources(**v["device"])
        return Report(**{**v, "layers": layers, "timing": timing, "graph": graph, "device": device, "estimate": resources(v["estimate"]),
                         "synthesis": resources(v["synthesis"]), "ports": tuple(v["ports"]), "verification": tuple(v["verification"]),
                         "stages": tuple((n, s) for n, s in v["stages"])})
    except (ValueError, KeyError, TypeError) as e:
        raise CompileError(where, f"is not a report that this version wrote ({type(e).__name__}: {e})", "compile the model again") from None
