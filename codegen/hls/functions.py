"""Layer functions as C++: loops, arrays, pragmas; what a loop computes, `statements` says."""

from __future__ import annotations

import numpy as np

from ...ir.ops import Concat, Forest, Gather, Layout, Linear, Transpose, Window
from ..schedule import LayerSchedule, Schedule, folding
from .forest import forest_lines
from .loops import indented, loop, partition, product_of, signature
from .matrix import memory_pragmas, network, network_function, weight_memory
from .plan import Function, Nest, Plan
from .statements import Body, array_index, loop_variables, strided, strides
from .tables import Tables

__all__ = ["array", "declared", "layer_function", "loops", "partition"]


def layer_function(plan: Plan, function: Function, tables: Tables, schedule: Schedule) -> str:
    """The C++ function of one layer, after that of its shift-add network where it has one."""
    nodes, scheduled = plan.graph.nodes, schedule.of(function.layer)
    own = [nest.end for nest in function.nests if nest.end not in function.writes]
    body: list[str] = [line for i in own for line in array(plan, i)]
    for nest in function.nests:
        body += ["", f"// {_describe(plan, nest)}", *_nest(plan, nest, tables, scheduled)]
    arguments = [f"const {declared(plan, i)}" for i in function.reads] + [declared(plan, i) for i in function.writes]
    shapes = " and ".join(str(list(nodes[i].type.shape)) for i in function.reads) or "nothing"
    results = " and ".join(str(list(nodes[i].type.shape)) for i in function.writes) or "nothing"
    separate = schedule.folded or not schedule.inline_layers
    pragma = f"PIPELINE II={1 if schedule.folded else schedule.ii}" if separate else "INLINE"
    partitions = [partition(plan.names[i]) for i in (*function.reads, *function.writes)] if separate else []
    head = [
        *_networks(plan, function, scheduled),
        f"// Layer {function.layer}: {shapes} -> {results}{_described(scheduled)}",
        *signature(f"static void {function.name}", arguments),
        f"#pragma HLS {pragma if scheduled.reuse == 1 else 'INLINE off'}",
        *partitions,
    ]
    return "\n".join([*head, *indented(body), "}", ""])


def _described(scheduled: LayerSchedule) -> str:
    """What the comment of a layer says of its schedule; nothing for the plain one."""
    if scheduled == LayerSchedule():
        return ""
    uses = f", each multiplier used {scheduled.reuse} times" if scheduled.reuse > 1 else ""
    return f"; {scheduled.strategy}{uses}"


def declared(plan: Plan, i: int) -> str:
    """The declaration of the array that holds node i."""
    return f"{plan.types[i]} {plan.names[i]}[{plan.graph.nodes[i].type.size}]"


def array(plan: Plan, i: int) -> list[str]:
    """The same as a local variable."""
    return [f"{declared(plan, i)};", partition(plan.names[i])]


def _describe(plan: Plan, nest: Nest) -> str:
    nodes = plan.graph.nodes
    ops = ", ".join(nodes[i].op.name for i in nest.nodes)
    return f"{nodes[nest.end].name} {list(nodes[nest.end].type.shape)}: {ops}; {plan.grids[nest.end]}"


def loops(label: str, shape: tuple[int, ...], body: list[str]) -> list[str]:
    """The body inside an unrolled loop per axis that is longer than 1."""
    lines = body
    axes = [(v, n) for v, n in zip(loop_variables(shape), shape) if v]
    for depth, (v, n) in reversed(list(enumerate(axes))):
        name = f"{label}_{v}: " if depth else f"{label}_loop: "
        lines = [f"{name}for (int {v} = 0; {v} < {n}; {v}++) {{", "#pragma HLS UNROLL", *indented(lines), "}"]
    return lines if axes else ["{", *indented(lines), "}"]


def _nest(plan: Plan, nest: Nest, tables: Tables, own: LayerSchedule) -> list[str]:
    node = plan.graph.nodes[nest.end]
    label, body = plan.names[nest.end], Body(plan, tables, nest)
    if isinstance(plan.graph.nodes[nest.nodes[0]].op, Linear) and own.strategy == "resource":
        return _folded(plan, nest, body, own.reuse)
    if isinstance(plan.graph.nodes[nest.nodes[0]].op, Linear) and own.strategy == "distributed":
        return _distributed(plan, nest, body)
    if isinstance(node.op, Forest):
        return _forest(plan, nest.end, body, tables)
    if isinstance(node.op, Gather | Window):
        return _gather(plan, nest.end, body, tables)
    if isinstance(node.op, Transpose):
        steps = strides(plan.graph.nodes[node.operands[0]].type.shape)
        index = strided(body.variables, [steps[a] for a in node.op.axes])
        return loops(label, node.type.shape, [f"{label}[{body.index}] = {body.operand(node.operands[0], index)};"])
    if isinstance(node.op, Concat):
        return _concat(plan, nest.end, body)
    return loops(label, node.type.shape, body.lines())


def _networks(plan: Plan, function: Function, scheduled: LayerSchedule) -> list[str]:
    """The shift-add networks that the layer calls."""
    if scheduled.strategy != "distributed":
        return []
    heads = [nest.nodes[0] for nest in function.nests]
    return [_network_text(plan, i) for i in heads if isinstance(plan.graph.nodes[i].op, Linear)]


def _network_text(plan: Plan, i: int) -> str:
    node = plan.graph.nodes[i]
    x, many = node.operands[0], node.type.size > node.type.shape[-1]
    kind, size = plan.types[plan.storage[x]], plan.graph.nodes[x].type.shape[-1]
    arguments = [f"const {kind} x[{plan.graph.nodes[x].type.size}]", f"{plan.types[i]} y[{node.type.size}]"]
    start = f"row * {size} + " if many else ""
    operand = [f"x[{start}{k}]" for k in range(size)]
    target = f"row * {node.type.shape[-1]} + " if many else ""
    parameters = ", ".join([*arguments, *(["const int row"] if many else [])])
    return network_function(plan, i, plan.networks[i], network(plan, i), operand, target, parameters)


def _distributed(plan: Plan, nest: Nest, body: Body) -> list[str]:
    """The network for each row of the operand, then what follows the matrix, all at once."""
    i = nest.nodes[0]
    node = plan.graph.nodes[i]
    rows = node.type.size // node.type.shape[-1]
    arguments = [plan.names[node.operands[0]], "totals", *(["row"] if rows > 1 else [])]
    call = [f"{plan.networks[i]}({', '.join(arguments)});"]
    label = plan.names[nest.end]
    return [
        f"{plan.types[i]} totals[{node.type.size}];",
        partition("totals"),
        *loop("row", rows, call, f"{label}_rows"),
        *loops(label, node.type.shape, body.behind(f"totals[{body.index}]")),
    ]


def _folded(plan: Plan, nest: Nest, body: Body, reuse: int) -> list[str]:
    """The products of all rows in `reuse` steps, and what follows the matrix where a sum is complete."""
    i = nest.nodes[0]
    node = plan.graph.nodes[i]
    assert isinstance(node.op, Linear)
    f = folding(node.op.weights.shape[0], node.op.weights.shape[1], reuse)
    memory, label = weight_memory(plan, body.tables, i, f), plan.names[nest.end]
    *outer, out = body.variables
    group, step = "group" if f.groups > 1 else "", "step" if f.steps > 1 else ""
    which = product_of([(group, f.steps), (step, 1)])
    k = product_of([(step, f.inputs), ("k" if f.inputs > 1 else "", 1)])
    x = body.operand(node.operands[0], array_index(plan.graph.nodes[node.operands[0]].type.shape, [*outer, k]))
    weight = product_of([("lane" if f.lanes > 1 else "", f.inputs), ("k" if f.inputs > 1 else "", 1)])
    total = f"totals[{body.index}]"
    term = f"{total} += {x} * from_raw<{plan.weight_types[i]}>({memory}[{which}][{weight}]);"
    products = loop("k", f.inputs, [term], f"{label}_k")
    finish = body.behind(total)
    lines = [
        *(["if (step == 0) {", f"    {total} = 0;", "}"] if step else [f"{total} = 0;"]),
        *products,
        *([f"if (step == {f.steps - 1}) {{", *indented(finish), "}"] if step else finish),
    ]
    lane = product_of([(group, f.lanes), ("lane" if f.lanes > 1 else "", 1)])
    lines = loop("lane", f.lanes, [*([f"const int {out} = {lane};"] if out else []), *lines], f"{label}_lanes")
    for axis in reversed(range(len(outer))):
        lines = loop(outer[axis], node.type.shape[axis], lines, f"{label}_{outer[axis]}") if outer[axis] else lines
    lines = ["#pragma HLS PIPELINE II=1 rewind", *lines]
    lines = loop("step", f.steps, lines, f"{label}_steps", "") if step else lines
    lines = loop("group", f.groups, lines, f"{label}_groups", "") if group else lines
    return [
        *memory_pragmas(plan, memory, i, f),
        f"{plan.types[i]} totals[{node.type.size}];",
        partition("totals"),
        *lines,
    ]


def _forest(plan: Plan, i: int, body: Body, tables: Tables) -> list[str]:
    """The trees for each row of features."""
    node, x, name = plan.graph.nodes[i], plan.graph.nodes[i].operands[0], plan.names[i]
    features, outputs = plan.graph.nodes[x].type.shape[-1], node.type.shape[-1]
    rows = node.type.size // outputs
    row = "row" if rows > 1 else ""

    def feature(k: str) -> str:
        return body.operand(x, product_of([(row, features), (k, 1)]))

    def result(o: int) -> str:
        return f"{name}[{product_of([(row, outputs), (str(o) if o else '', 1)])}]"

    return loop("row", rows, forest_lines(plan, i, tables, feature, result), f"{name}_rows")


def _gather(plan: Plan, i: int, body: Body, tables: Tables) -> list[str]:
    node = plan.graph.nodes[i]
    assert isinstance(node.op, Layout)
    x, name = node.operands[0], plan.names[i]
    flat = node.op.source(plan.graph.nodes[x].type.shape).reshape(-1)
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
    return loops(name, (flat.size,), [line])


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
        lines += loops(plan.taken.new(f"{name}_{part}"), shape, [f"{name}[{target}] = {value};"])
        start += shape[axis]
    return lines
