"""A matrix that is not simply unrolled: folded into steps over a memory of weights, or a network of shift-adds."""

from __future__ import annotations

from dataclasses import dataclass

from ...hw_targets.costs import BLOCK_RAM_BITS
from ...ir.ops import Linear
from ...ir.types import Int64
from ..adder_graph import AdderGraph, intervals
from ..schedule import Folding
from ..solver import solve
from .grids import Grid, places
from .plan import Plan
from .statements import INDENT, linear_table, wrapped
from .tables import Tables

__all__ = ["Network", "memory_pragmas", "network", "network_function", "weight_memory"]


def weight_memory(plan: Plan, tables: Tables, i: int, f: Folding) -> str:
    """The identifier of the weights in the order of use: a word per step, ``[reuse][lanes * inputs]``."""
    grid = plan.weight_grid(i)
    table = linear_table(plan, i).reshape(f.groups, f.lanes, f.words, f.steps, f.inputs)
    words = table.transpose(2, 0, 3, 1, 4).reshape(f.reuse, f.multipliers)
    comment = (
        f"{plan.graph.nodes[i].name}, [steps][{f.lanes} outputs x {f.inputs} inputs]: {grid}; "
        f"a word of {f.multipliers} weights for each step"
    )
    return tables.add(plan.tables[i], words, comment, True, memory=f"ap_{'' if grid.signed else 'u'}int<{grid.width}>")


def memory_pragmas(plan: Plan, name: str, i: int, f: Folding) -> list[str]:
    """One wide word per step, in block RAM where it is worth one."""
    bits = f.reuse * f.multipliers * plan.weight_grid(i).width
    storage = "bram" if bits >= BLOCK_RAM_BITS and f.reuse > 1 else "lutram"
    return [
        f"#pragma HLS ARRAY_RESHAPE variable={name} complete dim=2",
        f"#pragma HLS BIND_STORAGE variable={name} type=rom_1p impl={storage}",
    ]


# ---- distributed arithmetic -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Network:
    """A shift-add network of one matrix, for operands and weights as integers on the grids of their C++ types.

    `lo`, `hi`: the exact interval of each node. `inputs`: the intervals of the operands.
    """

    graph: AdderGraph
    lo: list[int]
    hi: list[int]


def network(plan: Plan, i: int) -> Network:
    """Solve the matrix of node i for the operands of all positions together."""
    node = plan.graph.nodes[i]
    assert isinstance(node.op, Linear)
    x = node.operands[0]
    t, n_in = plan.graph.nodes[x].type, node.op.weights.shape[0]
    shift = places(t, plan.grids[x])
    lo, hi = ((f << shift).reshape(-1, n_in) for f in t.flat()[:2])
    low, high = lo.min(axis=0), hi.max(axis=0)
    graph = solve(_integers(plan, i), low, high)
    bounds = intervals(graph, low, high)
    return Network(graph, bounds[0].tolist(), bounds[1].tolist())


def _integers(plan: Plan, i: int) -> Int64:
    """The weights ``[n_in, n_out]`` as integers of their common grid."""
    return linear_table(plan, i).T


def network_function(
    plan: Plan, i: int, name: str, found: Network, operand: list[str], target: str, parameters: str
) -> str:
    """The C++ function: one statement per adder. `operand`: the C++ expression of each input, `target`: of the first
    output's index, to which that of each is added."""
    node, g = plan.graph.nodes[i], found.graph
    values = [f"x{k}" for k in range(g.n_inputs)] + [f"s{k}" for k in range(g.n_adders)]
    used = {*g.a.tolist(), *g.b.tolist(), *g.out_node.tolist()}
    lines = [
        f"const {_integer(found, k)} x{k} = raw_of<{_width(found, k)}>({operand[k]});"
        for k in range(g.n_inputs)
        if k in used
    ]
    columns = (g.a, g.b, g.shift_a, g.shift_b, g.sign)
    for k, (a, b, shift_a, shift_b, sign) in enumerate(zip(*(c.tolist() for c in columns))):
        own = g.n_inputs + k
        width = _width(found, own)
        left, right = _shifted(values[a], shift_a, width), _shifted(values[b], shift_b, width)
        lines.append(f"const {_integer(found, own)} s{k} = {left} {'+' if sign > 0 else '-'} {right};")
    lines += _results(plan, i, found, values, target)
    return "\n".join(
        [
            f"// {node.name}: the matrix as {g.n_adders:,} shift-adds of the inputs' integers",
            f"static void {name}({parameters}) {{",
            "#pragma HLS INLINE",
            *(INDENT + line for line in lines),
            "}",
            "",
        ]
    )


def _results(plan: Plan, i: int, found: Network, values: list[str], target: str) -> list[str]:
    """The outputs, moved from the grid of the products to that of the result."""
    node, g, grid = plan.graph.nodes[i], found.graph, plan.grids[i]
    up = plan.grids[node.operands[0]].exp + plan.weight_grid(i).exp - grid.exp
    lines: list[str] = []
    for j, (k, shift, sign) in enumerate(zip(g.out_node.tolist(), g.out_shift.tolist(), g.out_sign.tolist())):
        if k < 0:
            lines.append(f"y[{target}{j}] = 0;")
            continue
        width = max(_width(found, k) + max(shift + up, 0) + 2, grid.width + 1)
        value = f"rescaled<{plan.types[i]}, {width}>({'' if sign > 0 else '-'}{values[k]}, {shift + up})"
        lines += wrapped(f"y[{target}{j}]", value)
    return lines


def _width(found: Network, k: int) -> int:
    return Grid(found.lo[k], found.hi[k], 0).width


def _integer(found: Network, k: int) -> str:
    """The exact C++ type of a node."""
    return f"ap_{'' if found.lo[k] < 0 else 'u'}int<{_width(found, k)}>"


def _shifted(value: str, by: int, width: int) -> str:
    return f"shifted<{width}>({value}, {by})" if by else value
