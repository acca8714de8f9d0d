"""Layer functions and the top function as C++: loops, arrays, pragmas; what a loop computes, `statements` says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ...ir.ops import Concat, Gather, Transpose, Window
from .plan import Function, Nest, Plan
from .schedule import Schedule
from .statements import INDENT, Body, array_index, loop_variables, strided, strides
from .tables import Tables

__all__ = ["layer_function", "parameters", "top_function"]


def layer_function(plan: Plan, function: Function, tables: Tables, schedule: Schedule) -> str:
    """The C++ function of one layer."""
    nodes = plan.graph.nodes
    own = [nest.end for nest in function.nests if nest.end not in function.writes]
    body: list[str] = [line for i in own for line in _array(plan, i)]
    for nest in function.nests:
        body += ["", f"// {_describe(plan, nest)}", *_nest(plan, nest, tables)]
    arguments = [f"const {_declared(plan, i)}" for i in function.reads] + [_declared(plan, i) for i in function.writes]
    shapes = " and ".join(str(list(nodes[i].type.shape)) for i in function.reads) or "nothing"
    results = " and ".join(str(list(nodes[i].type.shape)) for i in function.writes) or "nothing"
    pragma = "INLINE" if schedule.inline_layers else f"PIPELINE II={schedule.ii}"
    ports = () if schedule.inline_layers else (*function.reads, *function.writes)
    partitions = [_partition(plan.names[i]) for i in ports]
    head = [
        f"// Layer {function.layer}: {shapes} -> {results}",
        *_signature(f"static void {function.name}", arguments),
        f"#pragma HLS {pragma}",
        *partitions,
    ]
    return "\n".join([*head, *_indented(body), "}", ""])


def top_function(plan: Plan, constants: Tables, schedule: Schedule) -> str:
    """The function that hardware is made of: one call per layer."""
    graph = plan.graph
    ports = [plan.names[i] for i in graph.inputs] + list(plan.ports)
    pragmas = [line for port in ports for line in _port_pragmas(port, schedule)]
    head = [*_signature(f"void {plan.top}", parameters(plan)), *pragmas, f"#pragma HLS PIPELINE II={schedule.ii}"]
    plan, body = _read_once(plan) if schedule.interface == "axis" else (plan, [])
    direct = {plan.storage[o.node] for o, own in zip(graph.outputs, plan.direct) if own}
    for function in plan.functions:
        for i in function.writes:
            if i not in direct:
                body += _array(plan, i)
        body += ["", f"{function.name}({', '.join(plan.names[i] for i in (*function.reads, *function.writes))});"]
    for o, port, own in zip(graph.outputs, plan.ports, plan.direct):
        if not own:
            body += ["", *_copy(plan, o.node, port, constants)]
    return "\n".join([*head, *_indented(body), "}", ""])


def _read_once(plan: Plan) -> tuple[Plan, list[str]]:
    """Copies of the inputs, since an element of a stream can be read once only; and the plan that uses them."""
    names, lines = list(plan.names), []
    for i in plan.graph.inputs:
        port, size = plan.names[i], plan.graph.nodes[i].type.size
        names[i] = plan.taken.new(f"{port}_word")
        lines += [f"{plan.types[i]} {names[i]}[{size}];", _partition(names[i])]
        k = "i" if size > 1 else "0"
        lines += _loops(names[i], (size,), [f"{names[i]}[{k}] = {port}[{k}];"])
    return replace(plan, names=tuple(names[j] for j in plan.storage)), lines


def parameters(plan: Plan) -> list[str]:
    """The top function's parameters: inputs, then outputs, in the graph's order."""
    graph = plan.graph
    outputs = [
        f"{plan.types[o.node]} {port}[{graph.nodes[o.node].type.size}]" for o, port in zip(graph.outputs, plan.ports)
    ]
    return [f"const {_declared(plan, i)}" for i in graph.inputs] + outputs


def _signature(start: str, arguments: list[str]) -> list[str]:
    line = f"{start}({', '.join(arguments)}) {{"
    if len(line) <= 116:
        return [line]
    *first, last = arguments
    return [f"{start}(", *(f"{INDENT * 2}{a}," for a in first), f"{INDENT * 2}{last}) {{"]


def _port_pragmas(port: str, schedule: Schedule) -> list[str]:
    return [_partition(port), f"#pragma HLS INTERFACE {schedule.interface} port={port}"]


def _partition(name: str) -> str:
    return f"#pragma HLS ARRAY_PARTITION variable={name} complete dim=0"


def _declared(plan: Plan, i: int) -> str:
    return f"{plan.types[i]} {plan.names[i]}[{plan.graph.nodes[i].type.size}]"


def _array(plan: Plan, i: int) -> list[str]:
    return [f"{_declared(plan, i)};", _partition(plan.names[i])]


def _indented(lines: list[str]) -> list[str]:
    return [line if not line or line.startswith("#") else INDENT + line for line in lines]


def _describe(plan: Plan, nest: Nest) -> str:
    nodes = plan.graph.nodes
    ops = ", ".join(nodes[i].op.name for i in nest.nodes)
    return f"{nodes[nest.end].name} {list(nodes[nest.end].type.shape)}: {ops}; {plan.grids[nest.end]}"


def _loops(label: str, shape: tuple[int, ...], body: list[str]) -> list[str]:
    """The body inside an unrolled loop per axis that is longer than 1."""
    lines = body
    axes = [(v, n) for v, n in zip(loop_variables(shape), shape) if v]
    for depth, (v, n) in reversed(list(enumerate(axes))):
        name = f"{label}_{v}: " if depth else f"{label}_loop: "
        lines = [f"{name}for (int {v} = 0; {v} < {n}; {v}++) {{", "#pragma HLS UNROLL", *_indented(lines), "}"]
    return lines if axes else ["{", *_indented(lines), "}"]


def _nest(plan: Plan, nest: Nest, tables: Tables) -> list[str]:
    node = plan.graph.nodes[nest.end]
    label, body = plan.names[nest.end], Body(plan, tables, nest)
    if isinstance(node.op, Gather | Window):
        return _gather(plan, nest.end, body, tables)
    if isinstance(node.op, Transpose):
        steps = strides(plan.graph.nodes[node.operands[0]].type.shape)
        index = strided(body.variables, [steps[a] for a in node.op.axes])
        return _loops(label, node.type.shape, [f"{label}[{body.index}] = {body.operand(node.operands[0], index)};"])
    if isinstance(node.op, Concat):
        return _concat(plan, nest.end, body)
    return _loops(label, node.type.shape, body.lines())


def _gather(plan: Plan, i: int, body: Body, tables: Tables) -> list[str]:
    node = plan.graph.nodes[i]
    assert isinstance(node.op, Gather | Window)
    x = node.operands[0]
    index = node.op.indices if isinstance(node.op, Gather) else node.op.indices(plan.graph.nodes[x].type.shape)
    flat, name = index.reshape(-1), plan.names[i]
    steps = np.unique(np.diff(flat))
    if len(steps) <= 1:
        step = int(steps[0]) if len(steps) else 0
        index = strided(["i"] if step else [], [step], int(flat[0]))
    else:
        index = f"{tables.add(f'{name}_from', flat, f'{node.name}: where each element comes from')}[i]"
    value = body.operand(x, index)
    if (flat < 0).any():  # padding
        value = f"{index} < 0 ? {plan.types[i]}(0) : {plan.types[i]}({value})"
    line = f"{name}[{'i' if flat.size > 1 else 0}] = {value};"
    return _loops(name, (flat.size,), [line])


def _concat(plan: Plan, i: int, body: Body) -> list[str]:
    node, name = plan.graph.nodes[i], plan.names[i]
    assert isinstance(node.op, Concat)
    steps, lines, start = strides(node.type.shape), [], 0
    axis = node.op.axis % len(node.type.shape)
    for part, j in enumerate(node.operands):
        shape = plan.graph.nodes[j].type.shape
        variables = loop_variables(shape)
        target = strided(variables, steps, start * steps[axis])
        value = body.operand(j, array_index(shape, variables))
        lines += _loops(plan.taken.new(f"{name}_{part}"), shape, [f"{name}[{target}] = {value};"])
        start += shape[axis]
    return lines


def _copy(plan: Plan, i: int, port: str, constants: Tables) -> list[str]:
    """An output whose values also go elsewhere, or that are an input or a constant."""
    size = math.prod(plan.graph.nodes[i].type.shape)
    value = Body(plan, constants, Nest((i,))).stored(i, "i" if size > 1 else "0")
    return _loops(port, (size,), [f"{port}[{'i' if size > 1 else 0}] = {value};"])
