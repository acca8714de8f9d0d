"""The top function of a stream design: its FIFOs with their depths, and a call per process."""

from __future__ import annotations

import numpy as np

from ...hw_targets.devices import Device
from ..dataflow import Process, Timing, timing
from ..layer_costs import matrix_cost, nodes_cost, pipeline_cycles
from ..schedule import Folding, Schedule
from .loops import indented, signature
from .plan import Plan
from .stages import Edge, Stage, StreamPlan
from .stream_words import fifo

__all__ = ["bench_call", "fifo_depth", "stream_parameters", "stream_processes", "stream_timing", "stream_top"]

_LEAST = 2
"""Depth of a FIFO that the tools make anyway."""

_READ_AND_WRITE = 2
"""Cycles of a pipeline besides those of its logic: a FIFO's output and input are registers."""


def stream_processes(design: StreamPlan, schedule: Schedule, device: Device, clock_ns: float) -> list[Process]:
    """The processes between the ports, and one for each port that gives or takes a word a cycle."""
    sources = [Process(f"port {e.name}", e.words, 0, {}, {e.name: np.arange(e.words)}, False) for e in design.inputs]
    sinks = [Process(f"port {e.name}", e.words, 0, {e.name: np.arange(e.words)}, {}, False) for e in design.outputs]
    inner = [
        Process(
            s.name, s.iterations, _pipeline(design.plan, s, schedule, device, clock_ns), s.reads, s.writes, _drains(s)
        )
        for s in design.stages
    ]
    return [*sources, *inner, *sinks]


def _drains(stage: Stage) -> bool:
    """A loop runs empty before it starts again; a process without one is a pipeline of events."""
    return stage.iterations > 1 or stage.kind in ("buffer", "sequence", "window")


def stream_timing(design: StreamPlan, schedule: Schedule, device: Device, clock_ns: float) -> Timing:
    """When each word is handled, and the depth of each FIFO; the cycles of pipelines are an estimate."""
    return timing(stream_processes(design, schedule, device, clock_ns))


def _pipeline(plan: Plan, stage: Stage, schedule: Schedule, device: Device, clock_ns: float) -> int:
    """The cycles from the start of an iteration to what it writes."""
    nodes, f = list(stage.nest.nodes), stage.detail
    delay = 0.0
    if isinstance(f, Folding):
        delay = matrix_cost(plan.graph, nodes.pop(0), device, schedule.of(stage.layer), f, 1).delay_ns
    if stage.kind in ("words", "matrix", "network", "reduce"):
        delay += nodes_cost(plan.graph, nodes, device).delay_ns
    return pipeline_cycles(delay, device, clock_ns) + _READ_AND_WRITE


def stream_parameters(design: StreamPlan) -> list[str]:
    """The top function's parameters: inputs, then outputs, in the graph's order."""
    return [f"{fifo(design.plan, e)} &{e.name}" for e in (*design.inputs, *design.outputs)]


def fifo_depth(depths: Timing, edge: Edge) -> int:
    """The depth that a stream is given."""
    return max(depths.depths[edge.name], _LEAST)


def stream_top(design: StreamPlan, depths: Timing) -> str:
    """The function that hardware is made of: all processes run at once, and wait for each other's words."""
    ports = {e.name: None for e in (*design.inputs, *design.outputs)}
    head = [
        *signature(f"void {design.plan.top}", stream_parameters(design)),
        *(f"#pragma HLS INTERFACE axis port={name}" for name in ports),
        "#pragma HLS DATAFLOW",
    ]
    lines: list[str] = []
    for stage in design.stages:
        for edge in stage.outs:
            if edge.name not in ports:
                lines += [
                    f'{fifo(design.plan, edge)} {edge.name}("{edge.name}"); // {edge.words} words',
                    f"#pragma HLS STREAM variable={edge.name} depth={fifo_depth(depths, edge)}",
                ]
        lines.append(f"{stage.name}({', '.join(e.name for e in (*stage.ins, *stage.outs))});")
    return "\n".join([*head, *indented(lines), "}", ""])


def bench_call(design: StreamPlan) -> list[str]:
    """What a test bench does with arrays of whole events: as words through the top function."""
    plan, edges = design.plan, (*design.inputs, *design.outputs)
    return [
        *(f'{fifo(plan, e)} {e.name}_stream("{e.name}");' for e in edges),
        *(f"to_words({e.name}, {e.name}_stream);" for e in design.inputs),
        f"{plan.top}({', '.join(f'{e.name}_stream' for e in edges)});",
        *(f"from_words({e.name}_stream, {e.name});" for e in design.outputs),
    ]
