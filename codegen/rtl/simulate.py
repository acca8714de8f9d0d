"""Runs emitted Verilog in Verilator on real vectors, checks its latency, and finds the layer that differs.

The harness is generic: it plays one word per input port and clock cycle from a file and records every output port in
every cycle before the clock edge; what the bits mean is decided here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...hw_targets import process
from ...hw_targets import verilator as tool
from ...ir.errors import CompileError
from ...ir.evaluate import evaluate
from ...ir.scalar import ScalarGraph
from ...ir.types import Fixed, Int64, Tensor
from . import Rtl
from .packing import Port, pack, port, unpack
from .verilog import Module, Tap

__all__ = ["different_layers", "simulate", "verify"]

Words = NDArray[np.uint32]

_HARNESS = """\
#include <cstdio>
#include <cstdint>
#include <vector>
#include "Vtop.h"
#include "verilated.h"
double sc_time_stamp() { return 0; }
int main(int argc, char** argv) {
  if (argc != 3) return 2;
  VerilatedContext context;
  Vtop top{&context};
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (!in || !out) return 3;
  uint32_t x[%(words_in)d], y[%(words_out)d];
  while (fread(x, sizeof x, 1, in) == 1) {
%(set)s
    top.eval();
%(get)s
    if (fwrite(y, sizeof y, 1, out) != 1) return 4;
%(clock)s
  }
  top.final();
  return fclose(out) ? 5 : 0;
}
"""


def simulate(
    rtl: Rtl,
    inputs: Mapping[str, Int64],
    *,
    bubbles: float = 0.0,
    seed: int = 0,
    workdir: Path | None = None,
    sources: Mapping[str, str] | None = None,
    optimize: int = 0,
    time_limit_s: float = 600,
) -> dict[str, Int64]:
    """Raw integers ``[events, *shape]`` by input name in, by output name out, through the emitted Verilog.

    One event enters per cycle; with `bubbles` (a probability) random cycles have in_valid low and random data. Raises
    `CompileError` if out_valid does not come exactly `latency_cycles` after in_valid. `sources` replaces the emitted
    files, `workdir` keeps what is built.
    """
    events = len(next(iter(inputs.values())))
    rng = np.random.default_rng(seed)
    gaps = rng.random(2 * events + 8) < bubbles
    valid = np.flatnonzero(~gaps)[:events] if bubbles else np.arange(events)
    if len(valid) < events:
        raise CompileError("simulation", f"bubbles must be below 0.5, not {bubbles}")
    cycles = (int(valid[-1]) + 1 if events else 0) + rtl.latency_cycles + 2
    played = {"rst": np.zeros((cycles + 2, 1), np.uint32), "in_valid": np.zeros((cycles + 2, 1), np.uint32)}
    played["rst"][:2] = 1  # the two cycles before the first event
    played["in_valid"][valid + 2] = 1
    for p in rtl.inputs:
        words = (
            rng.integers(0, 1 << 32, (cycles + 2, -(-p.bits // 32)), np.uint32)
            if bubbles
            else np.zeros((cycles + 2, -(-p.bits // 32)), np.uint32)
        )
        words = _masked(words, p.bits)
        words[valid + 2] = pack(p, np.asarray(inputs[p.name], np.int64))
        played[p.port] = words
    bits = {"rst": 1, "in_valid": 1, **{p.port: p.bits for p in rtl.inputs}}
    watched = {"out_valid": 1, **{p.port: p.bits for p in rtl.outputs}}
    seen = _play(sources or rtl.sources, rtl.top, bits, watched, played, True, workdir, optimize, time_limit_s)
    arrived = np.flatnonzero(seen["out_valid"][2:, 0])
    if not np.array_equal(arrived, valid + rtl.latency_cycles):
        raise CompileError(rtl.graph.name, _latency_sentence(arrived, valid, rtl.latency_cycles))
    return {p.name: unpack(p, seen[p.port][arrived + 2]) for p in rtl.outputs}


def _latency_sentence(arrived: Int64, sent: Int64, latency: int) -> str:
    if not len(arrived) or len(arrived) != len(sent):
        return f"out_valid came {len(arrived)} times for {len(sent)} events"
    return f"out_valid came {int(arrived[0] - sent[0])} cycles after in_valid, the latency must be {latency}"


def verify(
    rtl: Rtl, inputs: Mapping[str, Int64], *, bubbles: float = 0.0, sources: Mapping[str, str] | None = None
) -> None:
    """Simulates and compares with the reference evaluation; a difference is a `CompileError` that names the layers."""
    found = simulate(rtl, inputs, bubbles=bubbles, sources=sources)
    expected = evaluate(rtl.graph, inputs)
    for o in rtl.outputs:
        differs = found[o.name] != expected[o.name]
        if not differs.any():
            continue
        event = int(np.argwhere(differs)[0][0])
        few = {name: x[event : event + 1] for name, x in inputs.items()}
        layers = different_layers(rtl, few, sources)
        where = f"layer {', '.join(layers)}" if layers else "the top module"
        raise CompileError(
            where,
            f"the Verilog differs from the reference: output {o.name}, event {event}, is "
            f"{found[o.name][event].tolist()} and must be {expected[o.name][event].tolist()}",
        )


def different_layers(rtl: Rtl, inputs: Mapping[str, Int64], sources: Mapping[str, str] | None = None) -> list[str]:
    """Layers whose module, given exact operands, does not give exact results.

    Each module runs alone; an event is held until it has passed all registers.
    """
    values = row_values(rtl.scalar, inputs)
    files = sources or rtl.sources
    return [m.layer for m in rtl.verilog.layers if not _layer_is_right(rtl, m, values, files)]


def row_values(scalar: ScalarGraph, inputs: Mapping[str, Int64]) -> list[Int64]:
    """The integers ``[events]`` of every row."""
    events = len(next(iter(inputs.values())))
    given = {int(r): inputs[i.name].reshape(events, -1)[:, k] for i in scalar.inputs for k, r in enumerate(i.rows)}
    values: list[Int64] = []
    for row in range(len(scalar)):
        if row in given:
            values.append(given[row].astype(np.int64))
            continue
        operands = scalar.operands(row)
        types = [Tensor((), Fixed(int(scalar.lo[r]), int(scalar.hi[r]), int(scalar.exp[r]) + s)) for r, s in operands]
        result = Tensor((), Fixed(int(scalar.lo[row]), int(scalar.hi[row]), int(scalar.exp[row])))
        value = scalar.op(row).evaluate(result, types, *(values[r] for r, _ in operands))
        values.append(np.broadcast_to(value, events))
    return values


def _layer_is_right(rtl: Rtl, module: Module, values: list[Int64], files: Mapping[str, str]) -> bool:
    hold = rtl.pipeline.stages + 1
    events = len(values[0])

    def of_tap(tap: Tap) -> Port:
        lo, hi = np.array([rtl.scalar.lo[tap[0]]]), np.array([rtl.scalar.hi[tap[0]]])
        name = rtl.verilog.tap_name(tap)
        return port(name, name, Tensor((1,), Fixed(lo, hi, int(rtl.scalar.exp[tap[0]]))))

    given = {t: of_tap(t) for t in module.inputs}
    watched = {t: of_tap(t) for t in module.outputs}
    played = {p.port: pack(p, np.repeat(values[t[0]], hold)[:, np.newaxis]) for t, p in given.items()}
    if not played:
        return True
    clocked = any(s > rtl.pipeline.stage[row] for row, s in module.outputs) or "input clk" in module.text
    seen = _play(
        {f"{module.name}.v": files[f"src/{module.name}.v"]},
        module.name,
        {p.port: p.bits for p in given.values()},
        {p.port: p.bits for p in watched.values()},
        played,
        clocked,
        None,
        0,
        600,
    )
    settled = np.arange(events) * hold + hold - 1
    return all(np.array_equal(unpack(p, seen[p.port][settled])[:, 0], values[t[0]]) for t, p in watched.items())


# ---- the harness ----------------------------------------------------------------------------------------------------


def _play(
    files: Mapping[str, str],
    top: str,
    bits_in: Mapping[str, int],
    bits_out: Mapping[str, int],
    played: Mapping[str, Words],
    clocked: bool,
    workdir: Path | None,
    optimize: int,
    limit_s: float,
) -> dict[str, Words]:
    """Words ``[cycles, words]`` by port in, and out: what each output port is in each cycle before the clock edge."""
    with tempfile.TemporaryDirectory(prefix="hwcompile-rtl-") as folder:
        work = workdir or Path(folder)
        program = tool.build(
            files,
            top,
            _harness(bits_in, bits_out, clocked),
            work,
            optimize=optimize,
            time_limit_s=limit_s,
            where="rtl simulation",
        )
        np.concatenate([played[name] for name in bits_in], axis=1).astype("<u4").tofile(work / "in.bin")
        done = process.run([program, work / "in.bin", work / "out.bin"], where="rtl simulation", time_limit_s=limit_s)
        if not done.ok:
            raise CompileError(
                "rtl simulation", f"ended with status {done.returncode}: {process.error_line(done.output)}"
            )
        out = np.fromfile(work / "out.bin", "<u4").reshape(-1, sum(_words(b) for b in bits_out.values()))
    found: dict[str, Words] = {}
    at = 0
    for name, bits in bits_out.items():
        found[name] = out[:, at : at + _words(bits)]
        at += _words(bits)
    return found


def _words(bits: int) -> int:
    return -(-bits // 32)


def _masked(words: Words, bits: int) -> Words:
    """Bits above the port's width must be zero for Verilator."""
    if bits % 32:
        words[:, -1] &= np.uint32((1 << bits % 32) - 1)
    return words


def _harness(bits_in: Mapping[str, int], bits_out: Mapping[str, int], clocked: bool) -> str:
    clock = "    top.clk = 1; top.eval(); top.clk = 0;" if clocked else ""
    return _HARNESS % {
        "words_in": sum(map(_words, bits_in.values())),
        "words_out": sum(map(_words, bits_out.values())),
        "set": "\n".join(_moves(bits_in, "x", True)),
        "get": "\n".join(_moves(bits_out, "y", False)),
        "clock": clock,
    }


def _moves(bits: Mapping[str, int], array: str, into: bool) -> Sequence[str]:
    lines: list[str] = []
    at = 0
    for name, width in bits.items():
        words = _words(width)
        if width > 64:
            pair = (f"top.{name}[k]", f"{array}[{at} + k]")
            move = " = ".join(pair if into else pair[::-1])
            lines.append(f"    for (int k = 0; k < {words}; ++k) {move};")
        elif into:
            high = f" | (uint64_t){array}[{at + 1}] << 32" if words == 2 else ""
            lines.append(f"    top.{name} = {array}[{at}]{high};")
        else:
            lines.append(f"    {array}[{at}] = (uint32_t)top.{name};")
            lines += [f"    {array}[{at + 1}] = (uint32_t)(top.{name} >> 32);"] * (words == 2)
        at += words
    return lines
