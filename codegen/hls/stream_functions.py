"""The processes of a stream design as C++ functions; windows and reductions are in `stream_windows`."""

from __future__ import annotations

import math

import numpy as np

from ...ir.ops import Concat, Constant
from ..schedule import Folding, Schedule
from .forest import forest_lines
from .loops import indented, loop, product_of, signature
from .matrix import memory_pragmas, network, network_function, weight_memory
from .plan import Plan
from .stages import Buffered, Stage
from .stream_windows import reduce, window
from .stream_words import (
    PIPELINE,
    WordBody,
    declare,
    each_lane,
    each_word,
    fifo,
    lane_of,
    pipelined,
    read,
    totals,
    when,
    word_body,
    word_type,
    write,
)  # fmt: skip
from .tables import Tables

__all__ = ["process_function"]


def process_function(plan: Plan, stage: Stage, tables: Tables, schedule: Schedule) -> str:
    """The C++ function of one process, after its shift-add network where it has one."""
    writers = {
        "words": _words, "copies": _copies, "matrix": _matrix, "network": _network, "reduce": reduce,
        "forest": _forest, "window": window, "buffer": _buffer, "pick": _pick, "join": _join, "sequence": _sequence,
    }  # fmt: skip
    arguments = [f"{fifo(plan, e)} &{e.name}" for e in (*stage.ins, *stage.outs)]
    lines = writers[stage.kind](plan, stage, tables)
    network_text = [_network_text(plan, stage)] if stage.kind == "network" else []
    return "\n".join(
        [*network_text, *_described(plan, stage, schedule), *signature(f"static void {stage.name}", arguments),
         *indented(lines), "}", ""]
    )  # fmt: skip


def _described(plan: Plan, stage: Stage, schedule: Schedule) -> list[str]:
    """What the process does, and in which words."""
    node = plan.graph.nodes[stage.nest.end]
    words = " and ".join(f"{e.words} words of {e.lanes}" for e in stage.ins) or "nothing"
    result = f"{stage.outs[0].words} words of {stage.outs[0].lanes}"
    what = {
        "copies": f"{node.name}: the same words for {len(stage.outs)} readers",
        "buffer": f"{node.name}: collected, and read again in another order",
        "window": f"{node.name}: line buffer",
    }.get(stage.kind)
    if what is None:
        what = f"Layer {stage.layer}: {', '.join(plan.graph.nodes[i].op.name for i in stage.nest.nodes)}"
    if isinstance(stage.detail, Folding):
        f = stage.detail
        uses = f", {f.multipliers} multipliers, each used {f.reuse} times a row" if f.reuse > 1 else ""
        what += f"; {schedule.of(stage.layer).strategy}{uses}"
    return [f"// {what}", f"// {words} -> {result}; {plan.grids[stage.nest.end]}"]


# ---- elementwise and layout ---------------------------------------------------------------------------------------------


def _words(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    (out,), body = stage.outs, word_body(plan, stage, tables, "word")
    constant = isinstance(plan.graph.nodes[stage.nest.end].op, Constant)
    lines = [f"{body.result}.at[{body.index}] = {body.stored(stage.nest.end)};"] if constant else body.lines()
    reads = [line for e in stage.ins for line in read(plan, e)]
    inner = [*reads, *declare(plan, out), *each_lane(stage.name, out.lanes, lines), write(out)]
    return each_word("word", out.words, inner, f"{stage.name}_words")


def _forest(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    """The sums of the trees for each word of features."""
    (source,), (out,) = stage.ins, stage.outs
    lines = forest_lines(
        plan, stage.nest.end, tables, lambda k: f"{source.variable}.at[{k}]", lambda o: f"{out.variable}.at[{o}]"
    )
    inner = [*read(plan, source), *declare(plan, out), *lines, write(out)]
    return each_word("word", out.words, inner, f"{stage.name}_words")


def _copies(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    (source,) = stage.ins
    writes = [f"{e.name}.write({source.variable});" for e in stage.outs]
    return each_word("word", source.words, [*read(plan, source), *writes], f"{stage.name}_words")


def _pick(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    """Some of the channels of each word."""
    (source,), (out,), b = stage.ins, stage.outs, stage.detail
    assert isinstance(b, Buffered)
    at = "lane" if out.lanes > 1 else "0"
    if not np.array_equal(b.index, np.arange(out.lanes)):
        at = tables.parameter(f"{stage.name}_from", b.index, at, f"{stage.name}: which channel each one is")
    lines = each_lane(stage.name, out.lanes, [f"{lane_of(out)} = {source.variable}.at[{at}];"])
    inner = [*read(plan, source), *declare(plan, out), *lines, write(out)]
    return each_word("word", out.words, inner, f"{stage.name}_words")


def _join(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    node, (out,), body = plan.graph.nodes[stage.nest.end], stage.outs, word_body(plan, stage, tables, "word")
    lines: list[str] = []
    start = 0
    for part, j in enumerate(node.operands):
        n = plan.graph.nodes[j].type.size // out.words
        piece = WordBody(plan, tables, stage.nest, stage, out.words, n, body.word, body.operands)
        piece.shape = plan.graph.nodes[j].type.shape
        target = product_of([(piece.index if n > 1 else "", 1), (str(start) if start else "", 1)])
        lines += each_lane(f"{stage.name}_{part}", n, [f"{body.result}.at[{target}] = {piece.operand(j)};"])
        start += n
    reads = [line for e in stage.ins for line in read(plan, e)]
    return each_word("word", out.words, [*reads, *declare(plan, out), *lines, write(out)], f"{stage.name}_words")


def _sequence(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    node, (out,) = plan.graph.nodes[stage.nest.end], stage.outs
    assert isinstance(node.op, Concat)
    outer = math.prod(node.type.shape[: node.op.axis % len(node.type.shape)])
    lines: list[str] = []
    for place, j in enumerate(node.operands):
        words = plan.graph.nodes[j].type.size // outer // out.lanes
        at = product_of([("row" if outer > 1 else "", words), ("word" if words > 1 else "", 1)])
        body = WordBody(plan, tables, stage.nest, stage, outer * words, out.lanes, at)
        body.shape = plan.graph.nodes[j].type.shape
        edge = stage.operands.get(place)
        body.operands = {j: edge.variable} if edge else {}
        copied = [f"{body.result}.at[{body.index}] = {body.operand(j)};"]
        inner = [
            *(read(plan, edge) if edge else []),
            *declare(plan, out),
            *each_lane(f"{stage.name}_{place}", out.lanes, copied),
        ]
        lines += pipelined("word", words, [*inner, write(out)], f"{stage.name}_{place}")
    return loop("row", outer, lines, f"{stage.name}_rows", "") if outer > 1 else lines


def _buffer(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    (source,), (out,), b = stage.ins, stage.outs, stage.detail
    assert isinstance(b, Buffered)
    size, kind = source.words * source.lanes, plan.types[source.owner]
    partition = "complete" if b.banks == size else f"cyclic factor={b.banks}"
    put = product_of([("word" if source.words > 1 else "", source.lanes), ("lane" if source.lanes > 1 else "", 1)])
    get = product_of([("word" if out.words > 1 else "", out.lanes), ("lane" if out.lanes > 1 else "", 1)])
    if not np.array_equal(b.index, np.arange(out.words * out.lanes)):
        name = f"{stage.name}_from"
        get = f"{tables.add(name, b.index, f'{stage.name}: where each element comes from')}[{get}]"
    value, result = f"values[{get}]", plan.types[out.owner]
    if (b.index < 0).any():
        value = f"{get} < 0 ? {result}(0) : {result}({value})"
    fill = each_lane(f"{stage.name}_fill", source.lanes, [f"values[{put}] = {lane_of(source)};"])
    drain = each_lane(f"{stage.name}_drain", out.lanes, [f"{lane_of(out)} = {value};"])
    return [
        f"{kind} values[{size}];",
        f"#pragma HLS ARRAY_PARTITION variable=values {partition}",
        *pipelined("word", source.words, [*read(plan, source), *fill], f"{stage.name}_in"),
        *pipelined("word", out.words, [*declare(plan, out), *drain, write(out)], f"{stage.name}_out", b.step),
    ]


# ---- matrices -----------------------------------------------------------------------------------------------------------


def _matrix(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    """Steps over the products of each row; what follows the matrix, where a sum is complete."""
    i, f, (out,), source = stage.nest.nodes[0], stage.detail, stage.outs, stage.ins[0]
    assert isinstance(f, Folding)
    body, memory = word_body(plan, stage, tables, "row"), weight_memory(plan, tables, i, f)
    word, group, step = (v if n > 1 else "" for v, n in (("word", f.words), ("group", f.groups), ("step", f.steps)))
    which = product_of([(word, f.groups * f.steps), (group, f.steps), (step, 1)])
    k = product_of([(step, f.inputs), ("k" if f.inputs > 1 else "", 1)])
    weight = product_of([("lane" if f.lanes > 1 else "", f.inputs), ("k" if f.inputs > 1 else "", 1)])
    if f.lanes < out.lanes:
        body.index = "i"
    total = f"totals[{body.index}]"
    term = f"{total} += {source.variable}.at[{k}] * from_raw<{plan.weight_types[i]}>({memory}[{which}][{weight}]);"
    first = [f"{v} == 0" for v in (word, step) if v]
    last = [f"{v} == {n - 1}" for v, n in ((word, f.words), (step, f.steps)) if v]
    lane = product_of([(group, f.lanes), ("lane" if f.lanes > 1 else "", 1)])
    lines = [
        *([f"const int i = {lane};"] if body.index == "i" else []),
        *when(first, [f"{total} = 0;"]),
        *loop("k", f.inputs, [term], f"{stage.name}_k"),
        *when(last, body.behind(total)),
    ]
    lines = [
        *_words_taken(stage, f),
        *loop("lane", f.lanes, lines, f"{stage.name}_lanes"),
        *when([*last, *([f"group == {f.groups - 1}"] if group else [])], [write(out)]),
    ]
    lines = [f"#pragma HLS {PIPELINE}", *lines]
    for variable, count in (("step", f.steps), ("group", f.groups), ("word", f.words), ("row", out.words)):
        lines = loop(variable, count, lines, f"{stage.name}_{variable}s", "") if count > 1 else lines
    words = [line for e in (*stage.ins, out) for line in declare(plan, e)]
    return [*_memory(plan, memory, i, f), *words, *totals(plan.types[i], out.lanes), *lines]


def _words_taken(stage: Stage, f: Folding) -> list[str]:
    """In the first step of each word of the row the word; in that of the last one also what is added behind the matrix."""
    source, *others = (f"{e.variable} = {e.name}.read();" for e in stage.ins)
    starts = [f"{v} == 0" for v, n in (("group", f.groups), ("step", f.steps)) if n > 1]
    if f.words == 1:
        return when(starts, [source, *others])
    added = when([f"word == {f.words - 1}", *starts], others) if others else []
    return [*when(starts, [source]), *added]


def _memory(plan: Plan, memory: str, i: int, f: Folding) -> list[str]:
    if f.reuse == 1:  # every weight is a constant of its own multiplier
        return [f"#pragma HLS ARRAY_PARTITION variable={memory} complete dim=0"]
    return memory_pragmas(plan, memory, i, f)


def _network_text(plan: Plan, stage: Stage) -> str:
    i, source = stage.nest.nodes[0], stage.ins[0]
    arguments = f"const {word_type(plan, source)} &x, {plan.types[i]} y[{stage.outs[0].lanes}]"
    operand = [f"x.at[{k}]" for k in range(source.lanes)]
    return network_function(plan, i, plan.networks[i], network(plan, i), operand, "", arguments)


def _network(plan: Plan, stage: Stage, tables: Tables) -> list[str]:
    i, (out,) = stage.nest.nodes[0], stage.outs
    body = word_body(plan, stage, tables, "row")
    inner = [
        *(line for e in stage.ins for line in read(plan, e)),
        *totals(plan.types[i], out.lanes),
        f"{plan.networks[i]}({stage.ins[0].variable}, totals);",
        *declare(plan, out),
        *each_lane(stage.name, out.lanes, body.behind(f"totals[{body.index}]")),
        write(out),
    ]
    return each_word("row", out.words, inner, f"{stage.name}_rows")
