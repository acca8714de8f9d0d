"""From a graph to a Vitis or Vivado HLS project: checks, then puts the files together.

Choices, in the order exactness, readability, hardware:

- A tensor is an array of one ap_fixed type, the hull of its elements' types. Where they differ, every element still
  lies on its own grid and in its own interval, because each quantizer takes its limits from constant tables; with all
  loops unrolled and the layers inlined those are constants, and the tool narrows each element on its own.
- An accumulator has the exact type of the graph, so nothing is configured and nothing overflows.
- Constants are plain integers in `static const` arrays and become ap_fixed by their bits: no literal is parsed as a
  floating-point number, and a million of them compile in seconds.
- A quantizer is an ap_fixed assignment where one exists that is equal on every reachable value, else an explicit
  formula with its interval.
- Arrays are flat, in row-major order; a reshape is no code at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...hw_targets.devices import Device
from ...ir.errors import CompileError
from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node
from ...ir.ops import Concat, Constant, Forest, Gather, Input, Linear, Lookup, Reshape, Transpose, Window
from ...ir.types import MAX_BITS, Int64
from ..dataflow import Timing
from ..layer_costs import LARGEST_UNROLLED, unrolled_size
from ..project import Project
from ..schedule import Schedule, check_schedule, matrices
from .folded_top import folded_calls, folded_timing, folded_top
from .functions import layer_function
from .grids import Grid, common_grid, grid_of
from .hosted import hosted_transposes, in_order
from .plan import JOIN, Plan, plan
from .scripts import helpers, scripts
from .stages import StreamPlan
from .stream_functions import process_function
from .stream_plan import stream_plan
from .stream_top import bench_call, stream_parameters, stream_timing, stream_top
from .tables import Tables
from .testbench import testbench
from .top import array_call, parameters, top_function

__all__ = ["SUPPORTED", "Hls", "check", "emit"]

SUPPORTED = (Input, Constant, *JOIN, Forest, Reshape, Transpose, Gather, Concat, Window)
"""The primitives that this writer has a rule for."""

_WIDEST = 400
"""Bits of the widest C++ type: products and quantizers of two such values stay below the 1,024 of ap_int."""

_LABELS = (
    "// The labels name the loops in the reports of the tools; for g++ they are unused.",
    "#ifndef __SYNTHESIS__",
    '#pragma GCC diagnostic ignored "-Wunused-label"',
    "#endif",
)

_EVENTS = 64
"""Events of the test bench where no vectors are given."""


@dataclass(frozen=True, eq=False)
class Hls:
    """A written HLS project: its files, the name of the top function, the graph that it equals, and its schedule.

    `call`: what a test bench does with arrays of one event. `order`: the axes in which an input's data enter, by name,
    where that is not the model's. `timing`: when words are handled, in the stream architecture or where layers are folded.
    """

    project: Project
    top: str
    graph: Graph
    plan: Plan
    call: tuple[str, ...]
    order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    timing: Timing | None = None


def check(graph: Graph) -> list[str]:
    """Everything that `emit` refuses, a sentence each that starts with the node's name; empty if nothing."""
    found: list[str] = []
    for node in graph.nodes:
        where = f"{node.name} ({node.op.name})"
        if not isinstance(node.op, SUPPORTED):
            found.append(f"{where}: the HLS writer has no rule for this op; run the passes of PIPELINES['hardware']")
            continue
        if not node.type.size:
            found.append(f"{where}: a tensor must have elements, not shape {list(node.type.shape)}")
            continue
        found += [
            f"{where}: {kind} of all elements on one grid need {grid.width} bits, of at most {limit}; "
            "give them closer exponents"
            for kind, grid, limit in _limited(graph, node)
            if grid.width > limit
        ]
    for o in graph.outputs:
        node = graph.nodes[o.node]
        while isinstance(node.op, Reshape):
            node = graph.nodes[node.operands[0]]
        width = grid_of(node.op, node.type).width if isinstance(node.op, SUPPORTED) and node.type.size else 0
        if width > MAX_BITS:
            found.append(
                f"{o.name} (output): the values of all elements on one grid need {width} bits, of at most "
                f"{MAX_BITS}; quantize the output"
            )
    if not graph.inputs:
        found.append(f"{graph.name} (graph): without inputs it is constant, and needs no hardware")
    return found


def _limited(graph: Graph, node: Node) -> list[tuple[str, Grid, int]]:
    limit = MAX_BITS if isinstance(node.op, Input | Constant | Lookup) else _WIDEST
    found = [("the values", grid_of(node.op, node.type), limit)]
    if isinstance(node.op, Linear):
        weights = node.op.weights
        found.append(("the weights", common_grid(weights, weights, np.asarray(node.op.exp, np.int64)), MAX_BITS))
    if isinstance(node.op, Forest):
        x = graph.nodes[node.operands[0]]
        found.append(("the features", grid_of(x.op, x.type), MAX_BITS))
    return found


def emit(
    graph: Graph,
    device: Device,
    clock_ns: float,
    schedule: Schedule | None = None,
    vectors: tuple[Mapping[str, Int64], Mapping[str, Int64]] | None = None,
) -> Hls:
    """The project of a graph after the passes of PIPELINES["hardware"].

    `vectors`: raw integers ``[events, *shape]`` of inputs and outputs by name for the test bench; by default random
    ones and the reference evaluation of them. Raises `CompileError` for the first thing that `check` finds.
    """
    refused = check(graph)
    if refused:
        where, _, rule = refused[0].partition(": ")
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise CompileError(where, rule + more)
    if not clock_ns > 0:
        raise CompileError("clock", f"must have a period above 0 ns, not {clock_ns}")
    schedule = schedule or Schedule()
    wrong = check_schedule(graph, schedule)
    if wrong:
        raise CompileError(*wrong[0].split(": ", 1))
    if schedule.architecture == "parallel":
        _refuse_too_large(graph, schedule)
    inputs, outputs = vectors or _random_vectors(graph)
    order: dict[str, tuple[int, ...]] = {}
    if schedule.architecture == "stream":
        graph, order = hosted_transposes(graph)
    design, when = plan(graph), None
    if schedule.architecture == "stream":
        stream = stream_plan(design, schedule)
        when = stream_timing(stream, schedule, device, clock_ns)
        firmware, call = _stream_firmware(stream, when, schedule), tuple(bench_call(stream))
    else:
        firmware, when = _firmware(design, schedule, device, clock_ns)
        call = (array_call(design),)
    project = Project(
        {
            **firmware,
            **testbench(design, in_order(inputs, order), outputs, call),
            **helpers(schedule),
            **scripts(design, device, clock_ns, schedule, order, when),
        }
    )
    return Hls(project, design.top, graph, design, call, order, schedule, when)


def _refuse_too_large(graph: Graph, schedule: Schedule) -> None:
    """What no HLS tool gets through in hours: too many products that are hardware of their own."""
    folded = [i for name, i in matrices(graph).items() if schedule.of(name).strategy == "resource"]
    size = unrolled_size(graph, folded)
    if size > LARGEST_UNROLLED:
        rule = (
            f"about {size:,} shifted inputs to be added are too many for strategy 'latency', the limit is "
            f"{LARGEST_UNROLLED:,} (estimate: the signed digits of all weights at all positions)"
        )
        raise CompileError(graph.name, rule, "use --io stream, or --ii for a reuse factor")


def _random_vectors(graph: Graph) -> tuple[dict[str, Int64], dict[str, Int64]]:
    """Uniform integers in each element's interval, the first quarter of the events at its ends."""
    rng = np.random.default_rng(0)
    inputs: dict[str, Int64] = {}
    for i in graph.inputs:
        node = graph.nodes[i]
        lo, hi, _ = node.type.arrays()
        x = rng.integers(lo, hi, (_EVENTS, *node.type.shape), endpoint=True)
        ends = rng.random((_EVENTS // 4, *node.type.shape)) < 0.5
        x[: _EVENTS // 4] = np.where(ends, lo, hi)
        inputs[node.name] = x
    return inputs, evaluate(graph, inputs)


def _firmware(
    design: Plan, schedule: Schedule, device: Device, clock_ns: float
) -> tuple[dict[str, str], Timing | None]:
    """`firmware/` of a parallel design, and its timing where layers are folded."""
    known: dict[tuple[str, bytes], str] = {}
    parts: list[_Part] = []
    for function in design.functions:
        tables = Tables(design.taken, known)
        text = layer_function(design, function, tables, schedule)
        parts.append(_Part(function.name, f"layer {function.layer}", text, tables))
    constants = Tables(design.taken, known)
    if schedule.folded:
        calls = folded_calls(design, schedule, constants)
        when = folded_timing(design, calls, schedule, device, clock_ns)
        top = folded_top(design, calls, when, schedule)
    else:
        when, top = None, top_function(design, constants, schedule)
    about = "one function per layer, and the top function that calls them."
    return _files(design, about, parts, [*constants.texts.values(), top], parameters(design), ""), when


def _stream_firmware(stream: StreamPlan, when: Timing, schedule: Schedule) -> dict[str, str]:
    known: dict[tuple[str, bytes], str] = {}
    parts: list[_Part] = []
    for stage in stream.stages:
        tables = Tables(stream.plan.taken, known)
        text = process_function(stream.plan, stage, tables, schedule)
        parts.append(_Part(stage.name, stage.name, text, tables))
    about = "a process per layer, line buffer and copy, and the top function that connects them with FIFOs."
    return _files(stream.plan, about, parts, [stream_top(stream, when)], stream_parameters(stream), "stream.h")


@dataclass(frozen=True, eq=False)
class _Part:
    """A function, and the tables that it reads."""

    name: str
    described: str
    text: str
    tables: Tables


def _files(
    design: Plan, about: str, parts: list[_Part], rest: list[str], arguments: list[str], header: str
) -> dict[str, str]:
    """`firmware/`: the source, its header, the types, and the constants of each function that has some."""
    files: dict[str, str] = {}
    includes: list[str] = []
    for part in parts:
        if part.tables.texts:
            path = f"weights/{part.name}.h"
            includes.append(f'#include "{path}"')
            comment = f"The constants of {part.described}, as plain integers."
            files[f"firmware/{path}"] = _header(
                comment, f"{part.name}_constants", "\n".join(part.tables.texts.values())
            )
    head = [
        f"// {design.graph.name}: {about}",
        f'#include "{design.top}.h"',
        '#include "fixed_point.h"',
        *includes,
        "",
        *_LABELS,
        "",
    ]
    files[f"firmware/{design.top}.cpp"] = "\n".join([*head, *(part.text for part in parts), *rest])
    prototype = f"void {design.top}({', '.join(arguments)});"
    if len(prototype) > 116:
        prototype = f"void {design.top}(\n        " + ",\n        ".join(arguments) + ");"
    headers = "".join(f'#include "{name}"\n' for name in (header, "types.h") if name)
    files[f"firmware/{design.top}.h"] = _header(
        f"The top function of {design.graph.name}.", design.top, f"{headers}\n{prototype}\n"
    )
    files["firmware/types.h"] = _header(
        "The type of every tensor: real = n * 2^exponent.",
        f"{design.top}_types",
        f'#include "ap_fixed.h"\n\n{_types(design)}',
    )
    return files


def _header(comment: str, name: str, body: str) -> str:
    guard = f"{name.upper()}_H_"
    return f"// {comment}\n#ifndef {guard}\n#define {guard}\n\n{body}\n#endif\n"


def _types(design: Plan) -> str:
    lines = []
    for i, node in enumerate(design.graph.nodes):
        if design.storage[i] != i:
            continue
        grid = design.grids[i]
        varies = "" if node.type.fixed.uniform else "; the hull of its elements"
        what = f"{node.op.name} {list(node.type.shape)}"
        lines.append(f"typedef {grid.cpp()} {design.types[i]}; // {what}: {grid}{varies}")
        if i in design.weight_types:
            weights = design.weight_grid(i)
            lines.append(f"typedef {weights.cpp()} {design.weight_types[i]}; // weights: {weights}")
    return "\n".join(lines) + "\n"
