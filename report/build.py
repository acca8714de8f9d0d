"""Makes a Report from what a compilation knows; computes widths and shapes, measures nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import Graph
from ..ir.ops import Constant, Input, Linear
from ..ir.types import Tensor, bit_length
from .model import LayerReport, NodeReport, Report, Resources, Timing

__all__ = ["build_report"]


def build_report(
    graph: Graph,
    device: Any,
    clock_ns: float,
    layers: Sequence[Any],
    costs: Any,
    calibration: Any,
    found: Mapping[str, Any],
    stages: Sequence[tuple[str, float]],
    version: str,
    choice: Any = None,
) -> Report:
    """The report of `graph` on `device`.

    `layers`: name, nodes, inputs and outputs of each layer. `costs`: the estimate with its layers, or None. `found`:
    results of verification, deviation, accuracy and synthesis by name, where they have run. `choice`: the schedule of the
    HLS design with its estimate, or None.
    """
    synthesis = found.get("synthesis", {})
    estimates = {e.name: e for e in costs.layers} if costs else {}
    wires = Resources(0, 0, 0, 0) if costs else None  # a layer that is written and has no estimate is nothing else
    rows = tuple(_layer(graph, x, estimates.get(x.name), synthesis.get(x.name), wires) for x in layers)
    whole, failure = _whole(synthesis, costs)
    have = device.resources
    return Report(
        graph.name,
        version,
        device.name,
        device.part,
        Resources(have.lut, have.ff, have.dsp, have.bram),
        _timing(device, clock_ns, costs),
        rows,
        _resources(costs) if costs else None,
        whole,
        next((s.tool for s in synthesis.values() if hasattr(s, "tool")), ""),
        _ports(graph),
        tuple(_engine(r) for r in found["verification"].results) if "verification" in found else (),
        dataclasses.asdict(found["deviation"]) if found.get("deviation") else None,
        dataclasses.asdict(calibration) if calibration else None,
        found.get("accuracy"),
        _nodes(graph, layers),
        tuple((name, seconds) for name, seconds in stages),
        failure,
        _schedule(choice, clock_ns) if choice else None,
    )


def _schedule(choice: Any, clock_ns: float) -> dict[str, Any]:
    """Architecture, II, latency and resources of the HLS design, and a row for each layer; all numbers are estimates."""
    whole = choice.estimate
    kinds = ("lut", "ff", "dsp", "bram")
    return {
        "architecture": whole.schedule.architecture,
        "clock_ns": clock_ns,
        "ii": whole.ii,
        "latency_cycles": whole.latency_cycles,
        "latency_ns": whole.latency_cycles * clock_ns,
        **{kind: whole.total(kind) for kind in kinds},
        "layers": [
            {
                "name": x.name,
                "strategy": x.schedule.strategy if x.schedule else "",
                "reuse": x.schedule.reuse if x.schedule else 1,
                "ii": x.ii,
                "latency_cycles": x.latency_cycles,
                **{kind: getattr(x, kind) for kind in kinds},
                "why": choice.why.get(x.name, ""),
            }
            for x in whole.layers
        ],
    }


def _whole(synthesis: Mapping[str, Any], costs: Any) -> tuple[Resources | None, str]:
    """(sum of the synthesized layers and the registers of the ports, or None; why there is none).

    The top module only wires layers and registers its ports, so the sum is the whole but for logic that a flat
    synthesis would share across layers.
    """
    failed = next((s.sentence for s in synthesis.values() if not hasattr(s, "lut")), "")
    if not synthesis or failed:
        return None, failed
    parts = [s for s in synthesis.values() if hasattr(s, "lut")]
    ports = costs.ff - sum(layer.ff for layer in costs.layers)
    lut, ff, dsp, bram, carry = (
        float(sum(getattr(s, k) for s in parts)) for k in ("lut", "ff", "dsp", "bram", "carry")
    )
    return Resources(lut, ff + ports, dsp, bram, carry), ""


def _timing(device: Any, clock_ns: float, costs: Any) -> Timing | None:
    if costs is None:
        return None
    period = (costs.path_ns + device.delay_ns.clock_to_q + device.delay_ns.setup) / (1 - device.margin.rtl)
    return Timing(clock_ns, costs.latency_cycles, 1, 1000 / period if costs.path_ns else 1000 / clock_ns)


def _nodes(graph: Graph, layers: Sequence[Any]) -> tuple[NodeReport, ...]:
    """Every node with its type; a constant belongs to the first layer that reads it."""
    layer_of: dict[int, str] = {}
    for layer in layers:
        for i in layer.nodes:
            layer_of.setdefault(i, layer.name)
    return tuple(
        NodeReport(
            n.name,
            n.op.name,
            tuple(graph.nodes[j].name for j in n.operands),
            "x".join(map(str, n.type.shape)),
            _type(n.type),
            layer_of.get(i, ""),
        )
        for i, n in enumerate(graph.nodes)
    )


def _type(t: Tensor) -> str:
    """The C++ type that holds every element, or the widths where 62 bits do not hold them all."""
    try:
        return t.fixed.hull().ap_fixed
    except CompileError:
        return f"{int(np.min(np.asarray(t.fixed.width)))} to {_widest(t)} bits, one type per element"


def _resources(e: Any) -> Resources:
    return Resources(float(e.lut), float(e.ff), float(e.dsp), float(e.bram))


def _synthesised(s: Any) -> Resources | None:
    if s is None or not hasattr(s, "lut"):
        return None
    return Resources(float(s.lut), float(s.ff), float(s.dsp), float(s.bram), float(s.carry))


def _engine(result: Any) -> dict[str, Any]:
    return {
        "engine": result.engine,
        "vectors": result.vectors,
        "mismatches": result.mismatches,
        "seconds": result.seconds,
        "note": result.note,
        "first": str(result.first) if result.first else "",
    }


def _widest(t: Tensor) -> int:
    return int(np.max(np.asarray(t.fixed.width), initial=0))


def _widths(t: Tensor) -> Any:
    """The width of every element, flat."""
    return np.broadcast_to(np.asarray(t.fixed.width), t.shape).reshape(-1)


def _shape(graph: Graph, nodes: Sequence[int]) -> str:
    return " + ".join("x".join(map(str, graph.nodes[i].type.shape)) or "1" for i in nodes)


def _layer(graph: Graph, layer: Any, estimate: Any, synthesis: Any, wires: Resources | None) -> LayerReport:
    own = [graph.nodes[i] for i in layer.nodes if not isinstance(graph.nodes[i].op, Constant)]
    linear = [n for n in own if isinstance(n.op, Linear)]
    weights = [n.op.weights for n in linear if isinstance(n.op, Linear)]
    outputs = [graph.nodes[i].type for i in layer.outputs]
    bits, counts = np.unique(np.concatenate([np.zeros(0, int), *(_widths(t) for t in outputs)]), return_counts=True)
    return LayerReport(
        layer.name,
        " ".join(n.op.name for n in own),
        _shape(graph, layer.inputs),
        _shape(graph, layer.outputs),
        sum(int(np.count_nonzero(w)) * (n.type.size // max(n.type.shape[-1], 1)) for w, n in zip(weights, linear)),
        sum(int(np.count_nonzero(w)) for w in weights),
        max((_weight_bits(w) for w in weights), default=0),
        max((_widest(n.type) for n in linear), default=0),
        max((_widest(t) for t in outputs), default=0),
        {str(int(b)): int(c) for b, c in zip(bits, counts)},
        int(estimate.operations) if estimate else 0,
        _resources(estimate) if estimate else wires,
        _synthesised(synthesis),
        getattr(synthesis, "sentence", "") if synthesis is not None and not hasattr(synthesis, "lut") else "",
    )


def _weight_bits(w: Any) -> int:
    return int(np.max(np.asarray(bit_length(np.abs(w))), initial=0)) + bool((w < 0).any())


def _ports(graph: Graph) -> tuple[dict[str, Any], ...]:
    """Inputs and outputs: shape, type and what their integers mean."""
    found = [("input", n.name, n.type, _meaning(n.op)) for n in (graph.nodes[i] for i in graph.inputs)]
    found += [("output", o.name, graph.nodes[o.node].type, o.real) for o in graph.outputs]
    return tuple(
        {
            "kind": kind,
            "name": name,
            "shape": list(t.shape),
            "type": _type(t),
            "uniform": t.fixed.uniform,
            "bits": int(np.sum(_widths(t))),
            "scaled": real is not None and not real.is_identity,
        }
        for kind, name, t, real in found
    )


def _meaning(op: object) -> Any:
    return op.real if isinstance(op, Input) else None
