"""The top function as C++: ports, the arrays between layers, and a call per layer; knows no ops."""

from __future__ import annotations

import math
from dataclasses import replace

from ...ir.ops import Constant, Input
from ..schedule import Schedule
from .functions import array, declared, loops, partition
from .loops import indented, signature
from .plan import Nest, Plan
from .statements import Body
from .tables import Tables

__all__ = ["array_call", "dataflow_top", "parameters", "top_function"]


def parameters(plan: Plan) -> list[str]:
    """The top function's parameters: inputs, then outputs, in the graph's order."""
    graph = plan.graph
    outputs = [
        f"{plan.types[o.node]} {port}[{graph.nodes[o.node].type.size}]" for o, port in zip(graph.outputs, plan.ports)
    ]
    return [f"const {declared(plan, i)}" for i in graph.inputs] + outputs


def array_call(plan: Plan) -> str:
    """What a test bench does with arrays of one event."""
    return f"{plan.top}({', '.join([*(plan.names[i] for i in plan.graph.inputs), *plan.ports])});"


def top_function(plan: Plan, constants: Tables, schedule: Schedule) -> str:
    """The function that hardware is made of: one call per layer."""
    graph = plan.graph
    head = [*signature(f"void {plan.top}", parameters(plan)), *_ports(plan, schedule)]
    head.append(f"#pragma HLS PIPELINE II={schedule.ii}")
    plan, body = _read_once(plan) if schedule.interface == "axis" else (plan, [])
    direct = {plan.storage[o.node] for o, own in zip(graph.outputs, plan.direct) if own}
    for function in plan.functions:
        for i in function.writes:
            if i not in direct:
                body += array(plan, i)
        body += ["", f"{function.name}({', '.join(plan.names[i] for i in (*function.reads, *function.writes))});"]
    for o, port, own in zip(graph.outputs, plan.ports, plan.direct):
        if not own:
            body += ["", *_copy(plan, o.node, port, constants)]
    return "\n".join([*head, *indented(body), "}", ""])


def dataflow_top(plan: Plan, constants: Tables, schedule: Schedule) -> str:
    """The same for folded layers: each works on an event of its own, and an array has one reader, so others get copies."""
    graph = plan.graph
    readers = _readers(plan, schedule)
    direct = {plan.storage[o.node] for o, own in zip(graph.outputs, plan.direct) if own}
    copies: list[str] = []
    calls: list[str] = []

    def declare(i: int, name: str) -> list[str]:
        return [f"{plan.types[i]} {name}[{graph.nodes[i].type.size}];", partition(name)]

    def publish(i: int) -> None:
        targets = readers.get(i, [])
        if i in direct or targets == [plan.names[i]]:
            return
        function = plan.taken.new(f"{plan.names[i]}_copies")
        copies.append(_copies(plan, i, function, targets, constants))
        source = [] if isinstance(graph.nodes[i].op, Constant) else [plan.names[i]]
        for name in targets:
            if name not in plan.ports:
                calls.extend(declare(i, name))
        calls.extend(["", f"{function}({', '.join([*source, *targets])});"])

    reading = _Reading(plan, readers)
    for i in (i for i in readers if isinstance(graph.nodes[i].op, Input | Constant)):
        publish(i)
    for function in plan.functions:
        for i in function.writes:
            calls += [] if i in direct else declare(i, plan.names[i])
        arguments = [*(reading.name(i) for i in function.reads), *(plan.names[i] for i in function.writes)]
        calls += ["", f"{function.name}({', '.join(arguments)});"]
        for i in function.writes:
            publish(i)
    head = [*signature(f"void {plan.top}", parameters(plan)), *_ports(plan, schedule), "#pragma HLS DATAFLOW"]
    return "\n".join([*copies, *head, *indented(calls), "}", ""])


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


class _Reading:
    """Hands the copies of each array to its readers, one after the other."""

    def __init__(self, plan: Plan, readers: dict[int, list[str]]) -> None:
        self.left = {i: iter(names) for i, names in readers.items()}

    def name(self, i: int) -> str:
        return next(self.left[i])


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


def _ports(plan: Plan, schedule: Schedule) -> list[str]:
    ports = [plan.names[i] for i in plan.graph.inputs] + list(plan.ports)
    return [
        line for port in ports for line in (partition(port), f"#pragma HLS INTERFACE {schedule.interface} port={port}")
    ]


def _read_once(plan: Plan) -> tuple[Plan, list[str]]:
    """Copies of the inputs, since an element of a stream can be read once only; and the plan that uses them."""
    names, lines = list(plan.names), []
    for i in plan.graph.inputs:
        port, size = plan.names[i], plan.graph.nodes[i].type.size
        names[i] = plan.taken.new(f"{port}_word")
        lines += [f"{plan.types[i]} {names[i]}[{size}];", partition(names[i])]
        k = "i" if size > 1 else "0"
        lines += loops(names[i], (size,), [f"{names[i]}[{k}] = {port}[{k}];"])
    return replace(plan, names=tuple(names[j] for j in plan.storage)), lines


def _copy(plan: Plan, i: int, port: str, constants: Tables) -> list[str]:
    """An output whose values also go elsewhere, or that are an input or a constant."""
    size = math.prod(plan.graph.nodes[i].type.shape)
    value = Body(plan, constants, Nest((i,))).stored(i, "i" if size > 1 else "0")
    return loops(port, (size,), [f"{port}[{'i' if size > 1 else 0}] = {value};"])
