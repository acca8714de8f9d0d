"""The top function as C++: ports, the arrays between layers, and a call per layer; knows no ops."""

from __future__ import annotations

import math
from dataclasses import replace

from ..schedule import Schedule
from .functions import array, declared, loops, partition
from .loops import indented, signature
from .plan import Nest, Plan
from .statements import Body
from .tables import Tables

__all__ = ["array_call", "parameters", "port_pragmas", "top_function"]


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
    head = [*signature(f"void {plan.top}", parameters(plan)), *port_pragmas(plan, schedule)]
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


def port_pragmas(plan: Plan, schedule: Schedule) -> list[str]:
    """Each port as wires of single elements."""
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
