"""What a schedule makes of a graph: resources, II and latency of each layer and of the whole, as estimates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..hw_targets import costs
from ..hw_targets.devices import Device
from ..ir.graph import Graph
from ..ir.ops import Linear
from .hls.hosted import hosted_transposes
from .hls.plan import Plan, plan
from .hls.stages import Buffered, Edge, Lines, Stage
from .hls.stream_plan import stream_plan
from .hls.stream_top import fifo_depth, stream_timing
from .layer_costs import MatrixCost, matrix_cost, nodes_cost, pipeline_cycles, width_of
from .layers import layers
from .schedule import Folding, LayerSchedule, Schedule, folding

__all__ = ["LayerEstimate", "ScheduleEstimate", "estimate_schedule"]

NOTHING = MatrixCost(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class LayerEstimate:
    """One layer: cycles between events (`ii`) and from its first input to its last result, and its resources."""

    name: str
    schedule: LayerSchedule | None
    ii: int
    latency_cycles: int
    lut: float
    ff: float
    dsp: float
    bram: float


@dataclass(frozen=True)
class ScheduleEstimate:
    """The layers under a schedule, and the whole design: sums of resources, II and latency of an event."""

    schedule: Schedule
    layers: tuple[LayerEstimate, ...]
    ii: int
    latency_cycles: int

    def total(self, kind: str) -> float:
        """LUTs ("lut"), "ff", "dsp" or "bram" of all layers."""
        return sum(getattr(x, kind) for x in self.layers)


def estimate_schedule(graph: Graph, device: Device, clock_ns: float, schedule: Schedule) -> ScheduleEstimate:
    """Estimates for a graph after the pipeline "hardware". Raises `CompileError` as the writer of the schedule would."""
    return (_stream if schedule.architecture == "stream" else _parallel)(graph, device, clock_ns, schedule)


def _add(a: MatrixCost, b: MatrixCost) -> MatrixCost:
    return MatrixCost(a.lut + b.lut, a.ff + b.ff, a.dsp + b.dsp, a.bram + b.bram, a.delay_ns + b.delay_ns)


def _parallel(graph: Graph, device: Device, clock_ns: float, schedule: Schedule) -> ScheduleEstimate:
    found: list[LayerEstimate] = []
    ready: dict[int, int] = {}  # node that a layer gives: cycle at which it is there
    for layer in layers(graph):
        own, cost, steps, copies = None, NOTHING, 1, 1.0
        rest = [i for i in layer.nodes if not isinstance(graph.nodes[i].op, Linear)]
        for i in (i for i in layer.nodes if i not in rest):
            op, own = graph.nodes[i].op, schedule.of(layer.name)
            assert isinstance(op, Linear)
            f = folding(op.weights.shape[0], op.weights.shape[1], own.reuse)
            cost = matrix_cost(graph, i, device, own, f, graph.nodes[i].type.size // f.n_out)
            steps, copies = f.reuse, f.lanes / f.n_out
        cost = _add(cost, nodes_cost(graph, rest, device, copies))
        stages = pipeline_cycles(cost.delay_ns, device, clock_ns)
        cycles = steps - 1 + stages
        start = max((ready.get(j, 0) for j in layer.inputs), default=0)
        ready.update(dict.fromkeys(layer.outputs, start + cycles))
        cost = _registered(graph, layer.outputs, cost, stages)
        found.append(_row(layer.name, own, steps if schedule.folded else schedule.ii, cycles, cost))
    ii = max((x.ii for x in found), default=1)
    return ScheduleEstimate(schedule, tuple(found), ii, max(ready.values(), default=0))


def _registered(graph: Graph, outputs: Iterable[int], cost: MatrixCost, stages: int) -> MatrixCost:
    """With the pipeline's registers, counted as wide as the results."""
    bits = sum(width_of(graph.nodes[i].type) * graph.nodes[i].type.size for i in outputs)
    return replace(cost, ff=cost.ff + bits * stages)


def _row(name: str, own: LayerSchedule | None, ii: int, cycles: int, c: MatrixCost) -> LayerEstimate:
    return LayerEstimate(name, own, ii, cycles, c.lut, c.ff, c.dsp, c.bram)


# ---- streams ------------------------------------------------------------------------------------------------------------


def _stream(graph: Graph, device: Device, clock_ns: float, schedule: Schedule) -> ScheduleEstimate:
    graph, _ = hosted_transposes(graph)
    design = stream_plan(plan(graph), schedule)
    when = stream_timing(design, schedule, device, clock_ns)
    rows: dict[str, LayerEstimate] = {}
    for stage in design.stages:
        name = stage.layer or "ports"
        cost = _stage_cost(design.plan, stage, schedule, device)
        for edge in stage.outs:
            if edge.name in when.depths:
                cost = _add(cost, _fifo(design.plan, edge, fifo_depth(when, edge), device))
        own = schedule.of(name) if isinstance(stage.detail, Folding) else None
        row = _row(name, own, stage.iterations, when.spans[stage.name], cost)
        rows[name] = _joined(rows[name], row) if name in rows else row
    return ScheduleEstimate(schedule, tuple(rows.values()), when.ii, when.latency_cycles)


def _joined(a: LayerEstimate, b: LayerEstimate) -> LayerEstimate:
    """Two processes of a layer."""
    return LayerEstimate(
        a.name, a.schedule or b.schedule, max(a.ii, b.ii), max(a.latency_cycles, b.latency_cycles),
        a.lut + b.lut, a.ff + b.ff, a.dsp + b.dsp, a.bram + b.bram,
    )  # fmt: skip


def _fifo(plan: Plan, edge: Edge, depth: int, device: Device) -> MatrixCost:
    return _cost(costs.fifo(device, depth, edge.lanes * plan.grids[edge.owner].width))


def _cost(c: costs.Cost) -> MatrixCost:
    return MatrixCost(float(c.lut), float(c.ff), float(c.dsp), float(c.bram), float(c.delay_ns))


def _stage_cost(plan: Plan, stage: Stage, schedule: Schedule, device: Device) -> MatrixCost:
    graph, nodes, d = plan.graph, list(stage.nest.nodes), stage.detail
    out = stage.outs[0]
    registers = MatrixCost(0, out.lanes * plan.grids[out.owner].width, 0, 0, 0)
    if isinstance(d, Folding):
        own, i = schedule.of(stage.layer), nodes.pop(0)
        matrix = matrix_cost(graph, i, device, own, d, 1)
        rest = nodes_cost(graph, nodes, device, d.lanes / graph.nodes[stage.nest.end].type.size)
        return _add(_add(matrix, rest), registers)
    if stage.kind in ("words", "reduce"):
        return _add(nodes_cost(graph, nodes, device, out.lanes / graph.nodes[stage.nest.end].type.size), registers)
    if isinstance(d, Lines | Buffered) and stage.kind != "pick":
        return _add(_kept(plan, stage, d, device), registers)
    return registers


def _kept(plan: Plan, stage: Stage, d: Lines | Buffered, device: Device) -> MatrixCost:
    """The memory of a line buffer with the registers of its taps, or of a tensor that is collected."""
    source = stage.ins[0]
    bits = plan.grids[source.owner].width
    if isinstance(d, Lines):
        lines = _cost(costs.memory(device, d.padded[1], source.lanes * bits))
        n, taps = d.span(0) - 1, d.span(0) * d.span(1) * source.lanes * bits
        return MatrixCost(lines.lut * n, taps, 0, lines.bram * n, 0)
    size = source.words * source.lanes
    if d.banks == size:
        chosen = costs.select(device, -(-size // stage.outs[0].lanes), bits)
        return MatrixCost(float(chosen.lut) * stage.outs[0].lanes, size * bits, 0, 0, 0)
    bank = _cost(costs.memory(device, -(-size // d.banks), bits))
    return MatrixCost(bank.lut * d.banks, 0, 0, bank.bram * d.banks, 0)
