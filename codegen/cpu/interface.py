"""The engine's border: how events lie in memory, the C header that says so, and names in C++."""

from __future__ import annotations

from ...ir.graph import Graph
from ...ir.types import Tensor
from ..elementwise import narrowest
from ..identifiers import CPP_RESERVED, safe

__all__ = ["header", "identifier", "storage_type"]

_STORAGE = ("uint8", "int8", "uint16", "int16", "int32", "int64")


def storage_type(t: Tensor) -> str:
    """The narrowest C integer type that holds every raw value of a tensor: how events lie in memory."""
    return f"{narrowest(t, _STORAGE)}_t"


def header(graph: Graph) -> str:
    lines = [
        "// The C ABI of the engine: raw integers in and out, event-major; real = n * 2**exponent (per element where it varies).",
        "#pragma once",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
    ]
    for kind, names in (
        ("input", [(graph.nodes[i].name, graph.nodes[i].type) for i in graph.inputs]),
        ("output", [(o.name, graph.nodes[o.node].type) for o in graph.outputs]),
    ):
        for k, (name, t) in enumerate(names):
            exp = t.fixed.exp if isinstance(t.fixed.exp, int) else "per element"
            lines.append(
                f"// {kind}s[{k}]: {name}, {storage_type(t)}[events]{list(t.shape)}, exponent {exp}, "
                f"{t.fixed.hull().lo}..{t.fixed.hull().hi} on the finest grid"
            )
    lines += [
        "int64_t hwc_run(const void* const* inputs, void* const* outputs, int64_t events);",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
    ]
    return "\n".join(lines)


_RESERVED = frozenset((*CPP_RESERVED, "vec", "wide", "half", "Halves", "Buffers", "blocks", "lookup", "product", "hwc"))


def identifier(name: str) -> str:
    """A node's name in C++, kept apart from keywords and from the names of the kernels."""
    plain = safe(name.replace(".", "_"))
    return f"{plain}_" if plain in _RESERVED else plain
