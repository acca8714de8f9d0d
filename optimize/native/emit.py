"""Writes the C++ of a training step: where each array lies in its flat buffer, and the text; compiles nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from ...codegen.project import Project
from .library import rendered
from .program import Conv, Pool, Program, Quantization

__all__ = ["ALIGNMENT", "Buffer", "Layout", "emit", "plan"]

ALIGNMENT = 16
"""Floats: arrays start at multiples of it and the rows of padded matrices are multiples of it (AVX-512, a cache line)."""

DENSE_TILE, TILE = 64, 32
"""Events at a time, so that all of a layer's values stay in the cache: of dense layers alone, and with convolutions."""


@dataclass
class Buffer:
    """Named arrays one after the other in a flat array: ``{name: (offset, shape)}``."""

    arrays: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict[str, tuple[int, tuple[int, ...]]])
    size: int = 0

    def add(self, name: str, shape: tuple[int, ...]) -> int:
        """Reserve an array; gives its offset in floats."""
        self.arrays[name] = (self.size, shape)
        self.size += padded(prod(shape))
        return self.arrays[name][0]

    def __getitem__(self, name: str) -> int:
        return self.arrays[name][0]

    def get(self, name: str) -> int:
        """The offset, 0 where there is no such array (then nothing reads it)."""
        return self.arrays[name][0] if name in self.arrays else 0


@dataclass
class Layout:
    """Where everything lies. `groups`: the ends of weights, biases and trained widths among the parameters."""

    parameters: Buffer = field(default_factory=Buffer)
    constants: Buffer = field(default_factory=Buffer)
    ranges: Buffer = field(default_factory=Buffer)
    groups: tuple[int, int, int] = (0, 0, 0)


def padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def quantizations(program: Program) -> list[tuple[str, Quantization]]:
    """Every quantizer by the name of its tensor."""
    found: list[tuple[str, Quantization | None]] = []
    for k, layer in enumerate(program.layers):
        found += [(f"{k}.input", layer.x), (f"{k}.weight", layer.w), (f"{k}.bias", layer.b)]
    found.append(("output", program.output))
    return [(name, q) for name, q in found if q is not None]


def plan(program: Program) -> Layout:
    """The layout of a program's arrays."""
    layout = Layout()
    p, layers = layout.parameters, list(enumerate(program.layers))
    for k, layer in layers:
        p.add(f"{k}.weight", layer.weight_shape)
    ends = [p.size]
    for k, layer in layers:
        if layer.bias:
            p.add(f"{k}.bias", layer.weight_shape[:1])
    ends.append(p.size)
    widths = [
        (f"{name}.{part}", q.shape, trained)
        for name, q in quantizations(program)
        for part, there, trained in (
            ("fraction", q.has_fraction, q.fraction_trained),
            ("integer", q.kind == "clipped", q.integer_trained),
        )
        if there
    ]
    for name, shape, trained in widths:
        if trained:
            p.add(name, shape)
    ends.append(p.size)
    for name, shape, trained in widths:
        if not trained:
            p.add(name, shape)
    for k, layer in layers:
        if not layer.bias:
            p.add(f"{k}.bias", layer.weight_shape[:1])
        layout.constants.add(f"{k}.prices", (4,))
        if layer.masked:
            layout.constants.add(f"{k}.mask", layer.weight_shape)
        if layer.x is None:
            layout.constants.add(f"{k}.input.bits", (layer.inputs,))
    for name, q in quantizations(program):
        if q.kind == "free" and (name == "output" or name.endswith("input")):
            layout.ranges.add(f"{name}.lowest", q.shape)
            layout.ranges.add(f"{name}.highest", q.shape)
    layout.groups = (ends[0], ends[1], ends[2])
    return layout


def _described(name: str, q: Quantization | None, layout: Layout, n: int = 0) -> dict[str, Any]:
    """The fields of a quantizer that the text of the step needs, of a tensor that has one or none; `n`: values, of data."""
    parameters = layout.parameters
    rows, columns = (1, *q.shape)[-2:] if q else (1, 1)
    return {
        "quantized": q is not None,
        "kind": "NONE" if q is None else "FREE" if q.kind == "free" else "CLIPPED",
        "mode": q.rounding if q else "TRN",
        "overflow": q.overflow if q else "SAT",
        "signed": q.signed if q else True,
        "bits": (q.bits or 0) if q else 0,
        "fixed": q is not None and q.kind == "fixed",
        "f_trained": q is not None and q.fraction_trained,
        "i_trained": q is not None and q.integer_trained,
        "trained": q is not None and (q.fraction_trained or q.integer_trained),
        "row": columns if rows > 1 else 0,
        "column": 1 if columns > 1 else 0,
        "span": n // columns if n and columns > 1 else 1,
        "f": parameters.get(f"{name}.fraction"),
        "i": parameters.get(f"{name}.integer"),
        "lowest": layout.ranges.get(f"{name}.lowest"),
        "highest": layout.ranges.get(f"{name}.highest"),
    }


def _stages(program: Program, layout: Layout) -> list[dict[str, Any]]:
    """What happens to the values before each layer, and to the outputs."""
    stages: list[dict[str, Any]] = []
    for k in range(len(program.layers) + 1):
        last = k == len(program.layers)
        layer, before = None if last else program.layers[k], program.layers[k - 1] if k else None
        q = program.output if layer is None else layer.x
        n = program.layers[-1].outputs if layer is None else layer.inputs
        found = _described("output" if last else f"{k}.input", q, layout, n)
        found |= {"n": n, "p": padded(n), "planes": isinstance(layer, Conv), "behind_planes": isinstance(before, Conv)}
        found |= {"relu": before is not None and before.relu and not (isinstance(before, Conv) and before.averages)}
        found |= {"q": f"q{k}" if q or found["planes"] else f"v{k}"}
        stages.append(found | {"widths": layout.constants.get(f"{k}.input.bits")})
    return stages


def _layers(program: Program, layout: Layout) -> list[dict[str, Any]]:
    return [
        {
            "out": layer.weight_shape[0],
            "in": layer.weight_shape[1],
            "p": padded(layer.weight_shape[1]),
            "pt": padded(layer.weight_shape[0]),
            "weight": layout.parameters[f"{k}.weight"],
            "bias": layout.parameters[f"{k}.bias"],
            "masked": layer.masked,
            "mask": layout.constants.get(f"{k}.mask"),
            "prices": layout.constants[f"{k}.prices"],
            "w": _described(f"{k}.weight", layer.w, layout),
            "b": _described(f"{k}.bias", layer.b, layout),
            "conv": isinstance(layer, Conv),
            **(_planes(k, layer, program) if isinstance(layer, Conv) else {}),
        }
        for k, layer in enumerate(program.layers)
    ]


def _planes(k: int, layer: Conv, program: Program) -> dict[str, Any]:
    """Of a convolution: its geometry, and the planes of what it computes (`raw`), of what is pooled of that (`made`), and of the
    gradients of both."""
    on = k + 1 < len(program.layers) and isinstance(program.layers[k + 1], Conv)
    made = f"{'v' if on else 'u'}{k + 1}"
    return {
        "geometry": [
            *layer.shape,
            layer.filters,
            *_pairs(layer.kernel, layer.stride, layer.padding, layer.dilation),
            layer.groups,
        ],
        "pool": None if layer.pool is None else _pooling(layer, layer.pool),
        "raw_values": prod(layer.convolved),
        "raw": made if layer.pool is None else f"a{k + 1}",
        "made": made,
        "on": on,
    }


def _pairs(*pairs: tuple[int, int]) -> list[int]:
    return [n for pair in pairs for n in pair]


def _pooling(layer: Conv, pool: Pool) -> list[Any]:
    return [*layer.convolved, *_pairs(pool.size, pool.stride), pool.largest, layer.relu]


def emit(program: Program) -> Project:
    """A C++ project, `step.cpp` with its headers; its interface is in the text's `extern "C"` functions."""
    layout = plan(program)
    stages = _stages(program, layout)
    return rendered(
        "step.cpp",
        title="-".join(str(s["n"]) for s in stages),
        stages=stages,
        layers=_layers(program, layout),
        tile=TILE if any(s["planes"] for s in stages) else DENSE_TILE,
        groups=layout.groups,
        widest=max(s["p"] for k, s in enumerate(stages) if k == 0 or not s["planes"]),
        loss=program.loss.upper(),
    )
