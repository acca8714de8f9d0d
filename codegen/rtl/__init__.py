"""Verilog of a graph, unrolled into shift-adds and pipelined to a clock: check, then emit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...hw_targets.costs import usable_period_ns
from ...hw_targets.devices import Device
from ...ir.errors import CompileError
from ...ir.evaluate import evaluate
from ...ir.graph import Graph
from ...ir.ops import Linear, Mul
from ...ir.scalar import ScalarGraph
from ...ir.types import Int64
from ..project import Project
from ..unroll import SUPPORTED, Unrolled, unroll_nodes
from .packing import Port, identifier, port
from .pipeline import Pipeline, pipeline
from .scripts import constraints, makefile, port_map, testbench, vivado
from .verilog import Verilog, verilog

__all__ = ["LARGEST", "Rtl", "check", "emit"]

LARGEST = 20_000_000
"""Most products of data and nonzero weights that are unrolled: beyond, the text alone is gigabytes."""


@dataclass(frozen=True, eq=False)
class Rtl:
    """A written-out design: its files, and everything that they were made from."""

    project: Project
    top: str
    graph: Graph
    unrolled: Unrolled
    pipeline: Pipeline
    verilog: Verilog
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    device: Device
    clock_ns: float

    @property
    def scalar(self) -> ScalarGraph:
        return self.unrolled.scalar

    @property
    def latency_cycles(self) -> int:
        return self.pipeline.latency_cycles

    @property
    def sources(self) -> dict[str, str]:
        """The synthesizable files by path, without the test bench."""
        return {
            path: text for path, text in self.project.files.items() if path.startswith("src/") and isinstance(text, str)
        }


def check(graph: Graph, device: Device, clock_ns: float | None = None) -> list[str]:
    """Everything that `emit` would refuse without looking at single operations, a sentence each; empty if nothing."""
    found: list[str] = []
    products = 0
    for node in graph.nodes:
        where = f"{node.name} ({node.op.name})"
        if not isinstance(node.op, SUPPORTED):
            found.append(
                str(CompileError(where, "has no rule in the rtl backend", "run the pipeline 'hardware' first"))
            )
        elif isinstance(node.op, Linear):
            positions = node.type.size // max(node.type.shape[-1], 1)
            products += positions * int(np.count_nonzero(node.op.weights))
        elif isinstance(node.op, Mul):
            products += node.type.size
    if products > LARGEST:
        rule = f"{products} multiplications are too many to be unrolled, the limit is {LARGEST}"
        found.append(str(CompileError(graph.name, rule, "use a folded schedule or the hls backend")))
    if not graph.inputs:
        found.append(str(CompileError(graph.name, "must have an input", "a constant needs no hardware")))
    try:
        usable_period_ns(device, device.clock_ns if clock_ns is None else clock_ns, "rtl")
    except CompileError as e:
        found.append(str(e))
    return found


def emit(
    graph: Graph,
    device: Device,
    clock_ns: float | None = None,
    *,
    register_inputs: bool = False,
    register_outputs: bool = True,
    golden: Mapping[str, Int64] | None = None,
) -> Rtl:
    """The Verilog project of `graph`, which has been through the pipeline "hardware", for a clock (the device's own by
    default).

    Outputs come from registers and inputs go straight to logic unless told otherwise. `golden`: raw inputs of a few
    events, for the test bench. Raises `CompileError` with the first thing that `check` finds, or for an operation that
    does not fit the clock.
    """
    clock = device.clock_ns if clock_ns is None else clock_ns
    refused = check(graph, device, clock)
    if refused:
        where, _, rule = refused[0].partition(": ")
        raise CompileError(where, rule)
    unrolled = unroll_nodes(graph)
    stages = pipeline(
        unrolled.scalar, device, clock, register_inputs=register_inputs, register_outputs=register_outputs
    )
    top = identifier(graph.name)
    inputs, outputs = _ports(graph, top)
    text = verilog(unrolled.scalar, stages, top, inputs, outputs)
    files = {f"src/{m.name}.v": m.text for m in text.layers} | {f"src/{top}.v": text.top}
    names = list(files)
    files["ports.json"] = port_map(top, stages.latency_cycles, inputs, outputs)
    files["constraints.xdc"] = constraints(clock)
    files["vivado.tcl"] = vivado(top, names, device)
    files["Makefile"] = makefile(top, names, golden is not None)
    if golden is not None:
        files["testbench.v"] = testbench(top, stages.latency_cycles, inputs, outputs, golden, evaluate(graph, golden))
    return Rtl(Project(files), top, graph, unrolled, stages, text, inputs, outputs, device, clock)


def _ports(graph: Graph, top: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Port names must differ from each other and from the top module."""
    taken: dict[str, None] = {top: None}
    found: list[Port] = []
    named = [(graph.nodes[i].name, graph.nodes[i].type) for i in graph.inputs]
    named += [(o.name, graph.nodes[o.node].type) for o in graph.outputs]
    for name, t in named:
        name_in_verilog = identifier(name, tuple(taken))
        taken[name_in_verilog] = None
        found.append(port(name, name_in_verilog, t))
    return tuple(found[: len(graph.inputs)]), tuple(found[len(graph.inputs) :])
