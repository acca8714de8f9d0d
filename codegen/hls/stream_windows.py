"""Windows and reductions of a stream design: line buffers, and accumulators over words or within them."""

from __future__ import annotations

from ...ir.ops import ReduceMax, ReduceSum, Window
from .loops import loop, product_of
from .plan import Plan
from .stages import Lines, Reduced, Stage
from .stream_words import (
    PIPELINE,
    declare,
    each_lane,
    each_word,
    lane_of,
    pipelined,
    read,
    totals,
    when,
    word_body,
    word_type,
    write,
)
from .tables import Tables

__all__ = ["reduce", "window"]


def reduce(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    """A sum or maximum within each word, or over words that follow each other."""
    r = stage.detail
    assert isinstance(r, Reduced)
    return _over_words(plan, stage, tables, r) if r.words else _over_lanes(plan, stage, tables, r)


def _taken(plan: Plan, i: int, total: str, value: str) -> str:
    """One more value into a sum or maximum."""
    if isinstance(plan.graph.nodes[i].op, ReduceSum):
        return f"{total} += {value};"
    return f"{total} = {value} > {total} ? {value} : {total};"


def _kind(plan: Plan, stage: Stage) -> str:
    """The type of the running result; a running maximum may be below any possible result."""
    i = stage.nest.nodes[0]
    return plan.types[stage.ins[0].owner] if isinstance(plan.graph.nodes[i].op, ReduceMax) else plan.types[i]


def _over_lanes(plan: Plan, stage: Stage, tables: Tables, r: Reduced) -> list[str]:
    i, (out,), source = stage.nest.nodes[0], stage.outs, stage.ins[0]
    body = word_body(plan, stage, tables, "word")
    many = out.lanes > r.inner  # several reductions beside each other in a word
    first = f"{body.index} / {r.inner} * {r.n * r.inner} + {body.index} % {r.inner}" if many else body.index
    more = [_taken(plan, i, "total", f"{source.variable}.at[{first} + k * {r.inner}]")]
    lines = [
        f"{_kind(plan, stage)} total = {source.variable}.at[{first}];",
        *(loop("k", r.n, more, f"{stage.name}_k", first=1) if r.n > 1 else []),
        *body.behind("total"),
    ]
    reads = [line for e in stage.ins for line in read(plan, e)]
    inner = [*reads, *declare(plan, out), *each_lane(stage.name, out.lanes, lines), write(out)]
    return each_word("word", out.words, inner, f"{stage.name}_words")


def _over_words(plan: Plan, stage: Stage, tables: Tables, r: Reduced) -> list[str]:
    i, (out,), source = stage.nest.nodes[0], stage.outs, stage.ins[0]
    word, k, row = (v if n > 1 else "" for v, n in (("word", r.words), ("k", r.n), ("row", r.outer)))
    body = word_body(plan, stage, tables, product_of([(row, r.words), (word, 1)]))
    total = f"totals[{product_of([(word, out.lanes), ('lane' if out.lanes > 1 else '', 1)])}]"
    value = lane_of(source)
    more = ["if (k == 0) {", f"    {total} = {value};", "} else {", f"    {_taken(plan, i, total, value)}", "}"]
    last = [f"k == {r.n - 1}"] if k else []
    lines = [*(more if k else [f"{total} = {value};"]), *when(last, body.behind(total))]
    others = [f"{e.variable} = {e.name}.read();" for e in stage.ins[1:]]
    inner = [
        f"#pragma HLS {PIPELINE}",
        *read(plan, source),
        *(when(last, others) if others else []),
        *each_lane(stage.name, out.lanes, lines),
        *when(last, [write(out)]),
    ]
    inner = loop("word", r.words, inner, f"{stage.name}_words", "") if word else inner
    inner = loop("k", r.n, inner, f"{stage.name}_k", "") if k else inner
    inner = loop("row", r.outer, inner, f"{stage.name}_rows", "") if row else inner
    words = [line for e in (*stage.ins[1:], out) for line in declare(plan, e)]
    return [*words, *totals(_kind(plan, stage), r.words * out.lanes), *inner]


def window(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    """The last rows in a line buffer, the taps in registers; positions of the padded image in row-major order."""
    (source,), g = stage.ins, stage.detail
    assert isinstance(g, Lines)
    word, (high, wide), (rows, columns) = word_type(plan, source), (g.span(0), g.span(1)), g.padded
    body = [
        *declare(plan, source),
        *_taken_in(plan, stage, g),
        *_shifted(stage, high, wide),
        f"taps[{high - 1}][{wide - 1}] = {source.variable};",
        *when(_ready(g), _taps(plan, stage, g)),
    ]
    lines = [
        f"{word} lines[{high - 1}][{columns}]; // the last rows",
        "#pragma HLS AGGREGATE variable=lines",
        "#pragma HLS ARRAY_PARTITION variable=lines complete dim=1",
    ]
    return [
        *(lines if high > 1 else []),
        f"{word} taps[{high}][{wide}]; // what lies under the kernel",
        "#pragma HLS ARRAY_PARTITION variable=taps complete dim=0",
        *loop("row", rows, pipelined("column", columns, body, f"{stage.name}_columns"), f"{stage.name}_rows", ""),
    ]


def _taken_in(plan: Plan, stage: Stage, g: Lines) -> list[str]:
    """The next element of the padded image. A maximum is told that its padding is as small as a value can be."""
    (source,), op = stage.ins, plan.graph.nodes[stage.nest.end].op
    assert isinstance(op, Window)
    lowest = f"from_raw<{plan.types[source.owner]}>({plan.grids[source.owner].lo})"
    inside = [
        bound
        for axis, at in enumerate(("row", "column"))
        for bound in (
            f"{at} >= {g.begin[axis]}" if g.begin[axis] else "",
            f"{at} < {g.begin[axis] + g.size[axis]}" if g.end[axis] else "",
        )
        if bound
    ]
    take = [f"{source.variable} = {source.name}.read();"]
    if not inside:
        return take
    padding = [f"{lane_of(source)} = {lowest if op.fill == 'nearest' else 0};"]
    return [*each_lane(f"{stage.name}_padding", source.lanes, padding), *when(inside, take)]


def _shifted(stage: Stage, high: int, wide: int) -> list[str]:
    """Every row of taps one to the left; from the line buffer the new right column, and the lines one row up."""
    x = stage.ins[0].variable
    left = ["taps[row_of][column_of] = taps[row_of][column_of + 1];"]
    older = [
        f"taps[row_of][{wide - 1}] = lines[row_of][column];",
        f"lines[row_of][column] = row_of < {high - 2} ? lines[row_of + 1][column] : {x};",
    ]
    return [
        *(loop("row_of", high, _each_column(stage, wide, left), f"{stage.name}_left", once=True) if wide > 1 else []),
        *(loop("row_of", high - 1, older, f"{stage.name}_older", once=True) if high > 1 else []),
    ]


def _each_column(stage: Stage, wide: int, body: list[str]) -> list[str]:
    return loop("column_of", wide - 1, body, f"{stage.name}_left_by", once=True)


def _ready(g: Lines) -> list[str]:
    """When the newest element completes a window."""
    found: list[str] = []
    for axis, at in enumerate(("row", "column")):
        first, stride = g.span(axis) - 1, g.strides[axis]
        found += [f"{at} >= {first}"] if first else []
        if stride > 1:
            found.append(f"({at} - {first}) % {stride} == 0" if first else f"{at} % {stride} == 0")
    return found


def _taps(plan: Plan, stage: Stage, g: Lines) -> list[str]:
    (source,), (out,) = stage.ins, stage.outs
    (high, wide), c = g.kernel, source.lanes
    i0, i1 = "i0" if high > 1 else "", "i1" if wide > 1 else ""
    at = product_of([(i0, wide * c), (i1, c), ("lane" if c > 1 else "", 1)])
    tap = f"taps[{product_of([(i0, g.dilations[0])])}][{product_of([(i1, g.dilations[1])])}]"
    lines = each_lane(stage.name, c, [f"{out.variable}.at[{at}] = {tap}.at[{'lane' if c > 1 else 0}];"])
    lines = loop("i0", high, loop("i1", wide, lines, f"{stage.name}_i1"), f"{stage.name}_i0")
    return [*declare(plan, out), *lines, write(out)]
