"""The top function of a folded parallel design: each layer works on an event of its own; an array has one reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...hw_targets.devices import Device
from ...ir.ops import Constant, Input, Linear
from ..dataflow import Process, Timing, timing
from ..layer_costs import MatrixCost, matrix_cost, nodes_cost, pipeline_cycles
from ..schedule import Schedule, folding
from .functions import declared, loops, partition
from .loops import indented, signature
from .plan import Function, Nest, Plan
from .statements import Body
from .tables import Tables
from .top import parameters, port_pragmas

__all__ = ["FoldedTop", "folded_calls", "folded_timing", "folded_top"]


@dataclass(frozen=True)
class Call:
    """A process: a layer's function, or a copy; the arrays that it reads and writes."""

    name: str
    function: Function | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FoldedTop:
    """The calls in order, the texts of the functions that copy arrays, and the node that each array holds."""

    calls: tuple[Call, ...]
    copies: tuple[str, ...]
    arrays: Mapping[str, int]


def folded_calls(plan: Plan, schedule: Schedule, constants: Tables) -> FoldedTop:
    """A call per layer; a copy function behind each array that several layers or ports read."""
    graph = plan.graph
    readers = _readers(plan, schedule)
    left = {i: iter(names) for i, names in readers.items()}  # the copies, one for each reader
    direct = {plan.storage[o.node] for o, own in zip(graph.outputs, plan.direct) if own}
    calls: list[Call] = []
    copies: list[str] = []
    arrays: dict[str, int] = {}

    def publish(i: int) -> None:
        targets = readers.get(i, [])
        if i in direct or targets == [plan.names[i]]:
            return
        name = plan.taken.new(f"{plan.names[i]}_copies")
        copies.append(_copies(plan, i, name, targets, constants))
        source = () if isinstance(graph.nodes[i].op, Constant) else (plan.names[i],)
        calls.append(Call(name, None, source, tuple(targets)))
        arrays.update(dict.fromkeys(targets, i))

    for i in (i for i in readers if isinstance(graph.nodes[i].op, Input | Constant)):
        publish(i)
    for function in plan.functions:
        reads = tuple(next(left[i]) for i in function.reads)
        calls.append(Call(function.name, function, reads, tuple(plan.names[i] for i in function.writes)))
        arrays.update((plan.names[i], i) for i in function.writes)
        for i in function.writes:
            publish(i)
    return FoldedTop(tuple(calls), tuple(copies), arrays)


def folded_timing(plan: Plan, top: FoldedTop, schedule: Schedule, device: Device, clock_ns: float) -> Timing:
    """Latency and II; and the buffers that each array needs, as the depth of ``NAME held``.

    A word is a whole array here: there once its writer is done. Its buffer is taken when the writer starts and given back
    when the reader is done, which a second word tells.
    """
    read = {name for call in top.calls for name in call.reads}
    inputs = [plan.names[i] for i in plan.graph.inputs if plan.names[i] in read]
    results = [name for call in top.calls for name in call.writes if name not in read]
    found = [_process(f"port {x}", 1, 0, (), (x,)) for x in inputs]
    for call in top.calls:
        steps, cycles = _cycles(plan, call.function, schedule, device, clock_ns) if call.function else (1, 1)
        found.append(_process(call.name, steps, cycles, call.reads, call.writes))
    return timing([*found, *(_process(f"port {x}", 1, 0, (x,), ()) for x in results)])


def _process(name: str, steps: int, cycles: int, reads: Sequence[str], writes: Sequence[str]) -> Process:
    first, last = np.array([0]), np.array([steps - 1])
    held = [{f"{x} held": slot for x in arrays} for arrays, slot in ((reads, last), (writes, first))]
    return Process(
        name, steps, cycles, dict.fromkeys(reads, first) | held[0], dict.fromkeys(writes, last) | held[1], drains=False
    )


def folded_top(plan: Plan, top: FoldedTop, when: Timing, schedule: Schedule) -> str:
    """The C++ function; arrays that hold more than two events at a time are told so."""
    head = [*signature(f"void {plan.top}", parameters(plan)), *port_pragmas(plan, schedule), "#pragma HLS DATAFLOW"]
    lines: list[str] = []
    for call in top.calls:
        for name in (name for name in call.writes if name not in plan.ports):
            i = top.arrays[name]
            lines += [f"{plan.types[i]} {name}[{plan.graph.nodes[i].type.size}];", partition(name)]
            buffers = when.depths[f"{name} held"]
            if buffers > 2:  # two are what the tools make anyway
                lines.append(f"#pragma HLS STREAM variable={name} type=pipo depth={buffers}")
        lines += ["", f"{call.name}({', '.join((*call.reads, *call.writes))});"]
    return "\n".join([*top.copies, *head, *indented(lines), "}", ""])


def _readers(plan: Plan, schedule: Schedule) -> dict[int, list[str]]:
    """For each array that is read or shown, the name of the array for each reader: its own where there is only one."""
    graph = plan.graph
    count: dict[int, int] = {}
    for function in plan.functions:
        for i in function.reads:
            count[i] = count.get(i, 0) + 1
    shown: dict[int, list[str]] = {}
    for o, port, own in zip(graph.outputs, plan.ports, plan.direct):
        if not own:
            shown.setdefault(plan.storage[o.node], []).append(port)
    found: dict[int, list[str]] = {}
    for i in sorted({*count, *shown}):
        once = isinstance(graph.nodes[i].op, Input) and schedule.interface == "axis"  # a word can be read once only
        if count.get(i, 0) == 1 and i not in shown and not once:
            found[i] = [plan.names[i]]
            continue
        copies = [plan.taken.new(f"{plan.names[i]}_{k + 1}") for k in range(count.get(i, 0))]
        found[i] = [*copies, *shown.get(i, [])]
    return found


def _copies(plan: Plan, i: int, name: str, targets: list[str], constants: Tables) -> str:
    """A function that writes an array into others."""
    node, kind = plan.graph.nodes[i], plan.types[i]
    size = node.type.size
    source = [] if isinstance(node.op, Constant) else [f"const {declared(plan, i)}"]
    index = "i" if size > 1 else "0"
    value = Body(plan, constants, Nest((i,))).stored(i, index)
    arguments = [*source, *(f"{kind} {t}[{size}]" for t in targets)]
    lines = loops(name, (size,), [f"{t}[{index}] = {value};" for t in targets])
    head = [f"// {node.name} for {len(targets)} readers", *signature(f"static void {name}", arguments)]
    pragmas = ["#pragma HLS PIPELINE II=1", *(partition(a) for a in ([plan.names[i]] if source else []) + targets)]
    return "\n".join([*head, *pragmas, *indented(lines), "}", ""])


def _cycles(plan: Plan, function: Function, schedule: Schedule, device: Device, clock_ns: float) -> tuple[int, int]:
    """(steps, pipeline stages) of a layer."""
    graph, own = plan.graph, schedule.of(function.layer)
    nodes = [i for nest in function.nests for i in nest.nodes]
    cost, steps = MatrixCost(0, 0, 0, 0, 0), 1
    for i in nodes:
        op = graph.nodes[i].op
        if isinstance(op, Linear):
            f = folding(op.weights.shape[0], op.weights.shape[1], own.reuse)
            cost, steps = matrix_cost(graph, i, device, own, f, 1), f.reuse
    rest = nodes_cost(graph, [i for i in nodes if not isinstance(graph.nodes[i].op, Linear)], device)
    return steps, pipeline_cycles(cost.delay_ns + rest.delay_ns, device, clock_ns)
