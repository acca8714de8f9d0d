"""What a design of streams is made of: FIFOs, and processes that read and write them; knows neither how it is planned nor text."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.types import Int64
from ..schedule import Folding
from .plan import Nest, Plan

__all__ = ["Buffered", "Edge", "Lines", "Reduced", "Stage", "StreamPlan"]


@dataclass(frozen=True)
class Edge:
    """A FIFO: `words` of `lanes` elements of node `owner` for each event; `variable` holds one word."""

    name: str
    owner: int
    words: int
    lanes: int
    variable: str


@dataclass(frozen=True)
class Lines:
    """The geometry of a window on a grid of rows and columns: a single spatial axis is one row."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begin: tuple[int, int]
    end: tuple[int, int]

    def span(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    @property
    def padded(self) -> tuple[int, int]:
        rows, columns = (n + b + e for n, b, e in zip(self.size, self.begin, self.end))
        return rows, columns


@dataclass(frozen=True)
class Reduced:
    """A reduction over n: within a word (`words` is 0), or of `words` words that come n times."""

    outer: int
    n: int
    inner: int
    words: int


@dataclass(frozen=True, eq=False)
class Buffered:
    """Element k of the result is element `index[k]` of what was collected (-1: zero); `step` cycles for each word."""

    index: Int64
    banks: int
    step: int


@dataclass(frozen=True, eq=False)
class Stage:
    """One process. `operands`: the stream that brings each outside node of the nest; `reads`, `writes`: iterations."""

    kind: str
    layer: str
    name: str
    nest: Nest
    ins: tuple[Edge, ...]
    outs: tuple[Edge, ...]
    iterations: int
    reads: dict[str, Int64]
    writes: dict[str, Int64]
    operands: dict[int, Edge] = field(default_factory=dict)
    detail: Folding | Lines | Reduced | Buffered | None = None


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """The processes in topological order, and the streams of the ports in the graph's order."""

    plan: Plan
    stages: tuple[Stage, ...]
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
