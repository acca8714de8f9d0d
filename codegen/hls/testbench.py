"""The C++ test bench of a design and its golden vectors: raw integers in text files, compared bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.errors import CompileError
from ...ir.types import Int64, Tensor
from .grids import places
from .plan import Plan
from .tables import array_text
from .templates import render

__all__ = ["Port", "checked", "ports", "testbench"]

Port = tuple[str, str, str, Tensor, Int64]
"""(name in the graph, C++ identifier, C++ type, tensor, left shift of each element to the C++ type's grid)."""


def ports(design: Plan) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs, in the order of the top function's parameters."""
    graph = design.graph
    inputs = [
        (
            graph.nodes[i].name,
            design.names[i],
            design.types[i],
            graph.nodes[i].type,
            places(graph.nodes[i].type, design.grids[i]),
        )
        for i in graph.inputs
    ]
    outputs = [
        (
            o.name,
            port,
            design.types[o.node],
            graph.nodes[o.node].type,
            places(graph.nodes[o.node].type, design.grids[o.node]),
        )
        for o, port in zip(graph.outputs, design.ports)
    ]
    return inputs, outputs


def testbench(
    design: Plan, inputs: Mapping[str, Int64], outputs: Mapping[str, Int64], call: Sequence[str]
) -> dict[str, str]:
    """`tb/`: the program, and a line per event with the integers of all ports in order. `call`: one event, in C++."""
    given, wanted = ports(design)
    text = render(
        "testbench.cpp",
        top=design.top,
        call=call,
        inputs=[_described(p) for p in given],
        outputs=[_described(p) for p in wanted],
    )
    events = next(iter(inputs.values())).shape[0]
    return {
        f"tb/{design.top}_tb.cpp": text,
        "tb/tb_input.dat": _vectors(given, inputs, events),
        "tb/tb_output.dat": _vectors(wanted, outputs, events),
    }


def _described(port: Port) -> dict[str, object]:
    name, cpp, kind, t, shifts = port
    table = (
        array_text(f"{cpp}_place", shifts, f"{name}: left shift of each raw integer to the grid of {kind}")
        if np.any(shifts != 0)
        else ""
    )
    return {
        "name": name,
        "cpp": cpp,
        "type": kind,
        "size": t.size,
        "shape": list(t.shape),
        "table": table,
        "place": f"{cpp}_place[i]" if table else "0",
    }


def checked(port: Port, data: Mapping[str, Int64]) -> Int64:
    """The port's raw integers, ``[events, elements]``; `CompileError` for a missing name, another shape or interval."""
    name, _, _, t, _ = port
    if name not in data:
        raise CompileError(f"data of {name}", f"must be given for every port, not only for {sorted(data)}")
    x = np.asarray(data[name])
    if x.ndim != len(t.shape) + 1 or x.shape[1:] != t.shape or x.dtype.kind not in "iu":
        shape = ", ".join(("events", *map(str, t.shape)))
        raise CompileError(
            f"data of {name}", f"must be raw integers of shape [{shape}], not {x.dtype} of {list(x.shape)}"
        )
    lo, hi, _ = t.arrays()
    if x.size and (np.any(x < lo) or np.any(x > hi)):
        raise CompileError(f"data of {name}", f"must be within {t.fixed.lo}..{t.fixed.hi}")
    return x.astype(np.int64).reshape(x.shape[0], t.size)


def _vectors(given: Sequence[Port], data: Mapping[str, Int64], events: int) -> str:
    columns = [checked(port, data) for port in given]
    for port, column in zip(given, columns):
        if len(column) != events:
            raise CompileError(f"data of {port[0]}", f"must have {events} events as the first input, not {len(column)}")
    rows = np.concatenate(columns, axis=1).tolist()
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)
