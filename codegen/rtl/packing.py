"""How the elements of an input or output lie in its flat port, and data to port words and back; knows no Verilog."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...ir.types import Int64, Tensor, bit_length
from ..identifiers import safe

__all__ = ["Port", "identifier", "pack", "port", "unpack"]

_BLOCK_BITS = 1 << 26  # of the expanded bits of one block of events

_KEYWORDS = (
    " accept_on alias always always_comb always_ff always_latch and assert assign assume auto automatic before begin "
    " bind bins binsof bit bool break buf bufif0 bufif1 byte case casex casez catch cell chandle char checker class "
    " clk clocking cmos config const constraint context contextp continue cover covergroup coverpoint cross deassign "
    " default defparam delete design disable dist do double edge else end endcase endconfig endfunction endgenerate "
    " endmodule endprimitive endspecify endtable endtask enum eval eval_step event eventually expect explicit export "
    " extends extern false final first_match float for force foreach forever fork forkjoin friend function generate "
    " genvar global goto highz0 highz1 if iff ifnone ignore_bins illegal_bins implements implies import in_valid "
    " incdir include initial inline inout input inside instance int integer interconnect interface intersect join "
    " join_any join_none large let liblist library local localparam logic long longint macromodule main matches "
    " medium modport module mutable name namespace nand negedge nettype new nexttime nmos nor noshowcancelled not "
    " notif0 notif1 null operator or out_valid output package packed parameter pmos posedge primitive priority "
    " private program property protected public pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent "
    " pure rand randc randcase randsequence rcmos real realtime ref reg register reject_on release repeat restrict "
    " return rnmos rootp rpmos rst rtran rtranif0 rtranif1 s_always scalared sequence short shortint shortreal "
    " showcancelled signed sizeof small soft solve specify specparam static string strong strong0 strong1 struct "
    " super supply0 supply1 sync_accept_on table tagged task template this throughout throw time timeprecision "
    " timeunit trace tran tranif0 tranif1 tri tri0 tri1 triand trior trireg true try type typedef typename union "
    " unique unique0 unsigned until untyped use using uwire valid var vectored virtual void volatile wait wand weak "
    " weak0 weak1 while wildcard wire with within wor xnor xor "
)
"""Words of Verilog, SystemVerilog, C++ and Verilator's classes, and our own ports; each between two blanks."""


@dataclass(frozen=True, eq=False)
class Port:
    """One packed vector of `bits` (at least 1): element k of the tensor `name`, row-major, is at ``offsets[k]``, takes
    ``widths[k]`` bits, in two's complement where ``signed[k]``; its value is the integer times ``2**exps[k]``."""

    name: str
    port: str
    shape: tuple[int, ...]
    bits: int
    offsets: Int64
    widths: Int64
    signed: NDArray[np.bool_]
    exps: Int64


def identifier(name: str, taken: Sequence[str] = ()) -> str:
    """A Verilog identifier for `name`: no keyword, no double underscore, none of `taken`."""
    base = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", name)).strip("_") or "x"
    base = f"n{base}" if base[0].isdigit() else base
    base = f"{base}_p" if f" {base} " in _KEYWORDS or safe(base) != base else base
    found, k = base, 1
    while found in taken:
        found, k = f"{base}_{k}", k + 1
    return found


def port(name: str, identifier_: str, t: Tensor) -> Port:
    """Elements in order, each in its own width, element 0 in the low bits."""
    lo, hi, exp = t.flat()
    below = np.asarray(bit_length(np.where(lo < 0, -lo - 1, 0)))
    widths = np.maximum(below, np.asarray(bit_length(np.maximum(hi, 0)))) + (lo < 0)
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    return Port(name, identifier_, t.shape, max(int(offsets[-1]), 1), offsets[:-1], widths, lo < 0, exp)


def pack(p: Port, data: Int64) -> NDArray[np.uint32]:
    """Raw integers ``[events, *shape]`` to ``[events, words]`` of 32 bits, least significant word first."""
    events, words = len(data), -(-p.bits // 32)
    flat = np.ascontiguousarray(data.reshape(events, -1))
    out = np.zeros((events, words), np.uint32)
    element = np.repeat(np.arange(len(p.widths)), p.widths)
    place = np.arange(int(p.widths.sum())) - np.repeat(p.offsets, p.widths)
    for first in range(0, events, step := max(1, _BLOCK_BITS // (words * 32))):
        some = flat[first : first + step]
        bits = np.zeros((len(some), words * 32), np.uint8)
        bits[:, : len(element)] = (some[:, element] >> place) & 1
        out[first : first + step] = np.packbits(bits, axis=1, bitorder="little").view("<u4")
    return out


def unpack(p: Port, words: NDArray[np.uint32]) -> Int64:
    """``[events, words]`` to raw integers ``[events, *shape]``; the inverse of `pack`."""
    events = len(words)
    out = np.zeros((events, len(p.widths)), np.int64)
    for first in range(0, events, step := max(1, _BLOCK_BITS // (words.shape[1] * 32))):
        block = np.ascontiguousarray(words[first : first + step]).astype("<u4")
        bits = np.unpackbits(block.view(np.uint8), axis=1, bitorder="little")
        for k, (offset, width) in enumerate(zip(p.offsets.tolist(), p.widths.tolist())):
            field = bits[:, offset : offset + width].astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))
            out[first : first + step, k] = field - ((field >> max(width - 1, 0)) << width) * int(p.signed[k])
    return out.reshape(events, *p.shape)
