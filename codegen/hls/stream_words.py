"""What the processes of a stream design share: words, their reading and writing, and statements for one element."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...ir.ops import Constant
from ...ir.types import Int64
from .grids import places
from .loops import indented, loop, product_of
from .plan import Plan
from .stages import Edge, Stage
from .statements import Body
from .tables import Tables

__all__ = [
    "PIPELINE", "WordBody", "declare", "each_lane", "each_word", "fifo", "lane_of", "pipelined", "read", "totals", "when",
    "word_body", "word_type", "write",
]  # fmt: skip

PIPELINE = "PIPELINE II=1 style=flp"
"""A pipeline that empties itself while its input is dry: no result waits inside for words that come later."""


def fifo(plan: Plan, edge: Edge) -> str:
    """The C++ type of a stream."""
    return f"hls::stream<{word_type(plan, edge)} >"


def word_type(plan: Plan, edge: Edge) -> str:
    return f"Word<{plan.types[edge.owner]}, {edge.lanes}>"


@dataclass
class WordBody(Body):
    """Statements for one element of a word: `word` and `lane` say which one, "" where there is only one."""

    stage: Stage
    words: int
    lanes: int
    word: str
    operands: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.index = "lane" if self.lanes > 1 else "0"
        self.result = self.stage.outs[0].variable

    def _target(self, i: int) -> str:
        return f"{self.result}.at[{self.index}]" if i == self.nest.end else self.plan.names[i]

    def stored(self, j: int, index: str = "") -> str:
        owner = self.plan.storage[j]
        if isinstance(self.nodes[owner].op, Constant):
            return self._constant(j, "")
        return f"{self.operands[j]}.at[{index or self.index}]"

    def operand(self, j: int, index: str | None = None) -> str:
        return self.plan.names[j] if j in self.nest.nodes else self.stored(j, index or "")

    def at(self, values: Int64) -> tuple[Int64, str]:
        """The shortest table that has the right entry for every element ``[elements, ...]``, and its index."""
        v = values.reshape(self.words, self.lanes, *values.shape[1:])
        if (v == v[:1]).all():
            return v[0], self.index
        if (v == v[:, :1]).all():
            return v[:, 0], self.word
        return values, product_of([(self.word, self.lanes), (self.index if self.lanes > 1 else "", 1)])

    def _constant(self, j: int, index: str) -> str:
        owner = self.plan.storage[j]
        node, grid = self.nodes[owner], self.plan.grids[owner]
        raw = (node.op.evaluate(node.type, ())[0].reshape(-1) << places(node.type, grid)).reshape(
            self.nodes[j].type.shape
        )
        values, where = self.at(np.broadcast_to(raw, self.shape).reshape(-1))
        name, comment = self.plan.tables[owner], f"{node.name} {list(node.type.shape)}: {grid}"
        n = self.tables.parameter(name, values, where, comment, True)
        return f"{self.plan.types[owner]}(0)" if n == "0" else f"from_raw<{self.plan.types[owner]}>({n})"


def read(plan: Plan, edge: Edge, constant: bool = True) -> list[str]:
    return [f"{'const ' if constant else ''}{word_type(plan, edge)} {edge.variable} = {edge.name}.read();"]


def declare(plan: Plan, edge: Edge) -> list[str]:
    return [f"{word_type(plan, edge)} {edge.variable};", f"#pragma HLS AGGREGATE variable={edge.variable}"]


def write(edge: Edge) -> str:
    return f"{edge.name}.write({edge.variable});"


def each_lane(label: str, lanes: int, body: list[str]) -> list[str]:
    return loop("lane", lanes, body, f"{label}_lanes")


def each_word(variable: str, count: int, body: list[str], label: str) -> list[str]:
    """A pipeline over words; of one word it is that of the function, which takes the next event while it works."""
    return pipelined(variable, count, body, label) if count > 1 else [f"#pragma HLS {PIPELINE}", *body]


def pipelined(variable: str, count: int, body: list[str], label: str, interval: int = 1) -> list[str]:
    return loop(variable, count, body, label, PIPELINE.replace("II=1", f"II={interval}"))


def when(condition: list[str], body: list[str]) -> list[str]:
    """The body under all of these conditions; plain where there is none."""
    return [f"if ({' && '.join(condition)}) {{", *indented(body), "}"] if condition else body


def word_body(plan: Plan, stage: Stage, tables: Tables, word: str) -> WordBody:
    out = stage.outs[0]
    operands = {j: e.variable for j, e in stage.operands.items()}
    return WordBody(plan, tables, stage.nest, stage, out.words, out.lanes, word if out.words > 1 else "0", operands)


def lane_of(edge: Edge) -> str:
    """The element of a word that a loop over lanes is at."""
    return f"{edge.variable}.at[{'lane' if edge.lanes > 1 else 0}]"


def totals(kind: str, size: int) -> list[str]:
    """Accumulators, a register each."""
    return [f"{kind} totals[{size}];", "#pragma HLS ARRAY_PARTITION variable=totals complete dim=0"]
