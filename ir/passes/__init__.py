"""Exact passes: graph in, equal graph out; each is a function, and the order they run in is a table."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import CompileError
from ..graph import Graph, verify
from .layout import fold_layout, merge_layout, sink_transposes
from .maxima import maxima_first
from .narrow import drop_unseen_bits, zero_unused_elements
from .realise import realise_requantize
from .round_by_bias import round_by_bias
from .simplify import fold_affine, fold_constants, merge_equal, narrow_ranges, remove_dead

__all__ = ["PASSES", "PIPELINES", "run"]

Pass = Callable[[Graph], Graph]

PASSES: dict[str, Pass] = {
    "fold-constants": fold_constants,
    "fold-affine": fold_affine,
    "sink-transposes": sink_transposes,
    "merge-layout": merge_layout,
    "fold-layout": fold_layout,
    "narrow-ranges": narrow_ranges,
    "drop-unseen-bits": drop_unseen_bits,
    "zero-unused-elements": zero_unused_elements,
    "merge-equal": merge_equal,
    "remove-dead": remove_dead,
    "realise-requantize": realise_requantize,
    "maxima-first": maxima_first,
    "round-by-bias": round_by_bias,
}

PIPELINES: dict[str, tuple[str, ...]] = {
    # What every model goes through: fold, then narrow forwards and backwards, then clean up.
    "simplify": (
        "fold-constants",
        "fold-affine",
        "fold-constants",
        "sink-transposes",
        "merge-layout",
        "fold-layout",
        "narrow-ranges",
        "remove-dead",
        "zero-unused-elements",
        "drop-unseen-bits",
        "narrow-ranges",
        "merge-equal",
        "remove-dead",
    ),
    # What backends are given: requantize is gone, and what it left is simplified.
    "hardware": (
        "realise-requantize",
        "round-by-bias",
        "fold-constants",
        "narrow-ranges",
        "merge-equal",
        "remove-dead",
    ),
    # What engines in software run: as hardware, with pooling before rounding.
    "software": ("maxima-first", "remove-dead"),
}


def run(graph: Graph, names: tuple[str, ...]) -> Graph:
    """Apply passes in order, verifying the graph after each; an error names the pass and those before it."""
    for k, name in enumerate(names):
        try:
            graph = PASSES[name](graph)
            verify(graph)
        except CompileError as e:
            before = f" after {', '.join(names[:k])}" if k else ""
            raise CompileError(e.where, f"{e.rule} (in pass {name}{before})", e.fix) from e
    return graph
