"""How fast the hardware shall be: architecture, and strategy and reuse factor of each layer; no field changes a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ..ir.errors import CompileError
from ..ir.graph import Graph
from ..ir.ops import Linear
from .layers import layers

__all__ = [
    "ARCHITECTURES", "INTERFACES", "STRATEGIES", "Folding", "LayerSchedule", "Schedule", "check_schedule", "folding",
    "matrices", "products", "valid_reuse",
]  # fmt: skip

ARCHITECTURES = {
    "parallel": "all elements of a tensor at once",
    "stream": "one position of a tensor after the other, in FIFOs between the layers",
}

STRATEGIES = {
    "latency": "every product is hardware of its own",
    "resource": "each multiplier is used `reuse` times, with weights from a memory",
    "distributed": "no multipliers: a network of shared shift-adds",
}

INTERFACES = {
    "ap_vld": "wires with a valid flag per element",
    "ap_none": "bare wires",
    "axis": "AXI4-Stream, one per element, or of one position per word in the stream architecture",
}


@dataclass(frozen=True)
class LayerSchedule:
    """`strategy`: a key of STRATEGIES. `reuse`: how often each multiplier is used for one row of the layer's matrix."""

    strategy: str = "latency"
    reuse: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise CompileError("schedule strategy", f"must be one of {', '.join(STRATEGIES)}, not {self.strategy!r}")
        _positive("schedule reuse", self.reuse, "number")
        if self.reuse > 1 and self.strategy != "resource":
            rule = f"must be 1 with strategy '{self.strategy}', not {self.reuse}"
            raise CompileError("schedule reuse", rule, "use strategy 'resource'")


@dataclass(frozen=True)
class Schedule:
    """The speed of one design.

    `architecture`: a key of ARCHITECTURES. `layers`: by layer name; the others are LayerSchedule(). `ii`: cycles
    between events where nothing is folded. `interface`: a key of INTERFACES, for the parallel architecture.
    `inline_layers`: dissolve the layer functions into the top function where nothing is folded, so that the tool
    narrows every element of a tensor on its own (smaller where elements differ in width); False keeps one module per
    layer in the reports.
    """

    architecture: str = "parallel"
    layers: Mapping[str, LayerSchedule] = field(default_factory=lambda: MappingProxyType({}))
    ii: int = 1
    interface: str = "ap_vld"
    inline_layers: bool = True

    def __post_init__(self) -> None:
        for name, table in (("architecture", ARCHITECTURES), ("interface", INTERFACES)):
            value = getattr(self, name)
            if value not in table:
                raise CompileError(f"schedule {name}", f"must be one of {', '.join(table)}, not {value!r}")
        _positive("schedule ii", self.ii, "number of cycles")

    def of(self, layer: str) -> LayerSchedule:
        """The schedule of one layer."""
        return self.layers.get(layer, LayerSchedule())

    @property
    def folded(self) -> bool:
        """Some layer takes more than one step, so that layers work on different events at a time."""
        return any(s.reuse > 1 for s in self.layers.values())


def _positive(where: str, value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CompileError(where, f"must be a whole {what} from 1, not {value!r}")


@dataclass(frozen=True)
class Folding:
    """The products of one row as steps: for each incoming word, group of outputs and step, `lanes` x `inputs` at once."""

    n_in: int
    n_out: int
    words: int
    groups: int
    steps: int

    @property
    def lanes(self) -> int:
        """Outputs that are worked on at once."""
        return self.n_out // self.groups

    @property
    def inputs(self) -> int:
        """Inputs that each of them takes in at once."""
        return self.n_in // self.words // self.steps

    @property
    def reuse(self) -> int:
        return self.words * self.groups * self.steps

    @property
    def multipliers(self) -> int:
        """The block factor: n_in * n_out / reuse."""
        return self.lanes * self.inputs


def folding(n_in: int, n_out: int, reuse: int, words: int = 1) -> Folding:
    """The steps of a matrix whose row of inputs arrives in `words` equal parts: first inputs are shared, then outputs.

    Raises `CompileError` unless `reuse` is a multiple of `words` and divides n_in * n_out; it names the nearest valid
    ones.
    """
    if reuse % words or n_in * n_out % reuse:
        valid = np.array(valid_reuse(n_in, n_out, words))
        below, above = valid[valid < reuse][-1:], valid[valid > reuse][:1]
        near = " and ".join(map(str, [*below, *above]))
        arrives = f" and be a multiple of {words}, as a row arrives in {words} words" if words > 1 else ""
        rule = f"must divide {n_in} x {n_out} = {n_in * n_out} products{arrives}, not {reuse}"
        raise CompileError("reuse factor", rule, f"the nearest valid ones are {near}")
    rest = reuse // words
    steps = math.gcd(rest, n_in // words)
    return Folding(n_in, n_out, words, rest // steps, steps)


def valid_reuse(n_in: int, n_out: int, words: int = 1) -> list[int]:
    """Every reuse factor that `folding` takes, in order."""
    n = n_in * n_out // words
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return [k * words for k in sorted({*small, *(n // k for k in small)})]


def matrices(graph: Graph) -> dict[str, int]:
    """The layers that can be scheduled: name, and the node of their matrix."""
    found: dict[str, int] = {}
    for layer in layers(graph):
        for i in layer.nodes:
            if isinstance(graph.nodes[i].op, Linear):
                found[layer.name] = i
    return found


def products(graph: Graph, i: int) -> int:
    """Multiplications by nonzero weights of a matrix at all of its positions."""
    op, t = graph.nodes[i].op, graph.nodes[i].type
    assert isinstance(op, Linear)
    return int(np.count_nonzero(op.weights)) * (t.size // max(t.shape[-1], 1))


def check_schedule(graph: Graph, schedule: Schedule) -> list[str]:
    """What the schedule says that the graph's layers cannot do, a sentence each; empty if nothing."""
    known = matrices(graph)
    found: list[str] = []
    for name, own in schedule.layers.items():
        if name not in known:
            rule, fix = "there is no matrix layer of that name to be scheduled", f"known: {', '.join(known)}"
            found.append(str(CompileError(f"layer {name}", rule, fix)))
            continue
        op = graph.nodes[known[name]].op
        assert isinstance(op, Linear)
        if own.strategy == "resource" and schedule.architecture == "parallel":
            try:
                folding(op.weights.shape[0], op.weights.shape[1], own.reuse)
            except CompileError as e:
                found.append(str(CompileError(f"layer {name}", f"the {e.where} {e.rule}", e.fix)))
    return found
