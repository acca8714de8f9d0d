"""Writes the GPU backend: one Python file with Triton kernels and their constants, from a graph."""

from __future__ import annotations

import base64
import textwrap
import zlib
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from ... import templates
from ...ir.errors import CompileError
from ...ir.graph import Graph
from ...ir.passes import PIPELINES, run
from ...ir.rational import Affine
from ...ir.types import Int64, Tensor
from ..identifiers import safe
from ..project import Project
from .kernels import Arenas, KernelText, storage_dtype, write_kernel
from .plan import SUPPORTED, Plan, plan

__all__ = ["check", "emit", "module_name"]

_SCRATCH = 1 << 30
"""Bytes that the buffers of one pass may take."""
_ARENAS = (("w8", "int8"), ("w16", "int16"), ("t32", "int32"), ("t64", "int64"))


def check(graph: Graph) -> list[CompileError]:
    """Everything that `emit` refuses."""
    found = [
        CompileError(f"{n.name} ({n.op.name})", "has no rule in the gpu backend", "run the pipeline 'hardware' first")
        for n in graph.nodes
        if not isinstance(n.op, SUPPORTED)
    ]
    found += [CompileError(n.name, "a tensor must have elements") for n in graph.nodes if not n.type.size]
    return found + ([] if graph.inputs else [CompileError(graph.name, "without inputs there is nothing to compute")])


def module_name(graph: Graph) -> str:
    """The name of the Python file, without its ending."""
    return f"{safe(graph.name.replace('.', '_'))}_gpu"


def emit(graph: Graph) -> Project:
    """``NAME_gpu.py``: kernels, weights and a `run` function; it needs torch and triton alone.

    The graph must hold no requantize (see the "hardware" passes).
    """
    refused = check(graph)
    if refused:
        raise refused[0]
    design = plan(run(graph, PIPELINES["software"]))
    arenas = Arenas()
    kernels = [write_kernel(design, k, arenas) for k in range(len(design.kernels))]
    inputs = {i: design.graph.nodes[i].name for i in design.graph.inputs}
    scratch = {i: t for i, t in design.buffers.items() if i not in inputs}
    bytes_per_event = sum(t.size * np.dtype(storage_dtype(t)).itemsize for t in scratch.values())
    text = _template().render(
        name=graph.name,
        module=module_name(graph),
        inputs=[_port(design.graph.nodes[i].name, design.graph.nodes[i].type, _real(design.graph, i)) for i in inputs],
        outputs=[
            _port(o.name, design.graph.nodes[o.node].type, o.real) | {"buffer": str(b)}
            for o, b in zip(design.graph.outputs, design.outputs)
        ],
        buffers=[{"name": str(i), "dtype": storage_dtype(t), "size": t.size} for i, t in scratch.items()],
        events=_events(design, bytes_per_event),
        kernels=[_launch(k, inputs) for k in kernels],
        data=[(name, _encoded(arenas.array(kind), kind)) for name, kind in _ARENAS],
    )
    return Project({f"{module_name(graph)}.py": text})


def _template() -> Any:
    text = resources.files(templates).joinpath("gpu/module.py.j2").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(text)


def _real(graph: Graph, i: int) -> Affine:
    return graph.nodes[i].op.real  # pyright: ignore[reportAttributeAccessIssue]


def _port(name: str, t: Tensor, real: Affine) -> dict[str, Any]:
    lo, hi, _ = t.flat()
    exp = str(t.fixed.exp) if isinstance(t.fixed.exp, int) else "per element"
    scale = "" if real.is_identity else ", times a scale or plus an offset"
    return {
        "name": name,
        "shape": list(t.shape),
        "dtype": storage_dtype(t),
        "lo": int(lo.min(initial=0)) if lo.size == 0 else int(lo.min()),
        "hi": int(hi.max(initial=0)) if hi.size == 0 else int(hi.max()),
        "meaning": f"exponent {exp}{scale}",
    }


def _events(design: Plan, bytes_per_event: int) -> int:
    """Events of one pass: bounded by memory, and by the rows that an int32 counts."""
    rows = max((k.rows for k in design.kernels), default=1)
    return max(1, min(_SCRATCH // max(bytes_per_event, 1), (1 << 30) // rows))


def _launch(k: KernelText, inputs: dict[int, str]) -> dict[str, Any]:
    names = [inputs.get(j, str(j)) for j in k.buffers]
    return {**vars(k), "buffers": names, "warps": 4}


def _encoded(values: Int64, kind: str) -> list[str]:
    data = base64.b85encode(zlib.compress(values.astype(f"<i{np.dtype(kind).itemsize}").tobytes(), 9)).decode()
    return [f'"{line}"' for line in textwrap.wrap(data, 110, break_on_hyphens=False)]
