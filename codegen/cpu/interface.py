"""The engine's border: how events lie in memory, the C header that says so, and names in C++."""

from __future__ import annotations

from ...ir.graph import Graph
from ...ir.types import Tensor
from ..identifiers import CPP_RESERVED, safe

__all__ = ["header", "identifier", "storage_type"]

_STORAGE = (
    ("uint8_t", 0, 255),
    ("int8_t", -128, 127),
    ("uint16_t", 0, 65535),
    ("int16_t", -32768, 32767),
    ("int32_t", -(1 << 31), (1 << 31) - 1),
    ("int64_t", -(1 << 63), (1 << 63) - 1),
)


def storage_type(t: Tensor) -> str:
    """The narrowest C integer type that holds every raw value of a tensor: how events lie in memory."""
    lo, hi, _ = t.flat()
    return next(
        name for name, low, high in _STORAGE if low <= int(lo.min(initial=0)) and int(hi.max(initial=0)) <= high
    )


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
