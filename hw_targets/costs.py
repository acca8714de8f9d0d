"""Area and delay of scalar hardware primitives as functions of bit widths and a device; knows no graph and no tool.

Every number is an estimate: coefficients come from the device's .toml, none from here. Every function takes widths as
an int or an array (they broadcast together) and returns a `Cost` of float64 arrays of that shape. A delay is that of
the combinational path in ns, with the average routing in front of each of its logic levels, and without the register's
own clock-to-q and setup: `usable_period_ns` has taken those off. A width of 0 costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..ir.errors import CompileError
from .devices import Device

__all__ = [
    "BLOCK_RAM_BITS", "Cost", "adder", "adder_tree", "block_table", "compare", "fifo", "limit", "maximum", "memory", "multiplier",
    "mux", "register", "relu", "round_off", "saturate", "select", "table", "usable_period_ns",
]  # fmt: skip

BLOCK_RAM_BITS = 8192
"""A memory of this many bits and more is block RAM, where the device has any; fewer are in LUTs."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """Estimated LUTs, flip-flops, DSP blocks, block RAMs (fractions where halves exist) and delay in ns."""

    lut: Floats
    ff: Floats
    dsp: Floats
    bram: Floats
    delay_ns: Floats

    def then(self, other: Cost) -> Cost:
        """Both areas, and one delay after the other."""
        return self._join(other, np.add)

    def beside(self, other: Cost) -> Cost:
        """Both areas, and the longer of the two delays."""
        return self._join(other, np.maximum)

    def _join(self, other: Cost, delay: Callable[[Floats, Floats], Floats]) -> Cost:
        return Cost(
            self.lut + other.lut,
            self.ff + other.ff,
            self.dsp + other.dsp,
            self.bram + other.bram,
            delay(self.delay_ns, other.delay_ns),
        )


def usable_period_ns(device: Device, clock_ns: float, flow: str = "rtl") -> float:
    """The time in ns that logic between two registers may take at a clock of `clock_ns`.

    It is the clock less clock-to-q, setup and the margin of `flow`: 'hls' keeps 27 % free (the default clock
    uncertainty of Vitis HLS, UG1399), 'rtl' the smaller fraction of the device's `margin.rtl`, for nets longer than the
    average one. Raises CompileError where nothing is left.
    """
    if flow not in ("rtl", "hls"):
        raise CompileError("clock", f"the flow must be 'rtl' or 'hls', not {flow!r}")
    margin = device.margin.rtl if flow == "rtl" else device.margin.hls
    taken = device.delay_ns.clock_to_q + device.delay_ns.setup
    usable = clock_ns * (1 - margin) - taken
    least = (taken + _level(device)) / (1 - margin)
    if not usable >= _level(device):
        rule = f"a period of {clock_ns:g} ns leaves no time for one LUT on {device.name}"
        raise CompileError("clock", rule, f"use {least:.3g} ns or more")
    return float(usable)


def adder(device: Device, bits: ArrayLike) -> Cost:
    """An adder or subtractor whose carry chain spans `bits` (the result's bits that both operands or a carry reach)."""
    n, d = _floats(bits), device.delay_ns
    delay = _level(device) + d.carry_entry + d.carry_per_bit * n + d.carry_exit
    return _cost(n, lut=device.area.adder_per_bit * n, delay_ns=delay)


def compare(device: Device, bits: ArrayLike) -> Cost:
    """One of <, <=, >, >= of two operands of `bits`, on a carry chain of which only the last carry is used."""
    n, d = _floats(bits), device.delay_ns
    delay = _level(device) + d.carry_entry + d.carry_per_bit * device.area.compare_per_bit * n + d.carry_exit
    return _cost(n, lut=device.area.compare_per_bit * n, delay_ns=delay)


def limit(device: Device, bits: ArrayLike) -> Cost:
    """x <= constant as a tree of LUTs over the `bits` of x that can decide it."""
    return _reduction(device, _floats(bits))


def mux(device: Device, bits: ArrayLike) -> Cost:
    """A choice between two words of `bits` by one select bit."""
    n = _floats(bits)
    return _cost(n, lut=device.area.mux_per_bit * n, delay_ns=np.full_like(n, _level(device)))


def maximum(device: Device, bits: ArrayLike) -> Cost:
    """max or min of two words of `bits`: a comparison, then a choice."""
    return compare(device, bits).then(mux(device, bits))


def relu(device: Device, bits: ArrayLike) -> Cost:
    """max(x, 0): `bits` result bits, each masked by the sign bit."""
    n = _floats(bits)
    return _cost(n, lut=device.area.relu_per_bit * n, delay_ns=np.full_like(n, _level(device)))


def saturate(device: Device, bits_in: ArrayLike, bits_out: ArrayLike) -> Cost:
    """Clip a word of `bits_in` to `bits_out`: detect that the dropped top bits differ from the sign, then choose."""
    n, m = np.broadcast_arrays(_floats(bits_in), _floats(bits_out))
    dropped = np.where(m > 0, np.maximum(n - m, 0), 0)
    tested = np.where(dropped > 0, dropped + 1, 0)
    detect = _reduction(device, tested)
    clip = _cost(dropped, lut=device.area.saturate_per_bit * m, delay_ns=np.full_like(n, _level(device)))
    return detect.then(clip)


def round_off(device: Device, bits_out: ArrayLike, bits_dropped: ArrayLike, sticky: bool = False) -> Cost:
    """Round `bits_dropped` low bits away to nearest: an increment of `bits_out`, for `sticky` modes (RND_CONV,
    RND_ZERO, RND_INF, RND_MIN_INF) after an OR of the bits below the rounding bit. Truncation costs nothing."""
    m, dropped = np.broadcast_arrays(_floats(bits_out), _floats(bits_dropped))
    increment = adder(device, np.where(dropped > 0, m, 0))
    if not sticky:
        return increment
    return _reduction(device, np.maximum(dropped - 1, 0)).then(increment)


def table(device: Device, bits_in: ArrayLike, bits_out: ArrayLike) -> Cost:
    """A constant table of 2**bits_in words of `bits_out` in LUTs.

    Up to the LUT's inputs, one LUT per output bit (half of one where two functions share it); up to `wide_inputs`, LUTs
    joined by the dedicated muxes; beyond, 4-way muxes of such groups. `area.lookup_fill` is the fraction left after
    logic minimisation of tables larger than a LUT.
    """
    n, m = np.broadcast_arrays(_floats(bits_in), _floats(bits_out))
    k, wide, d = device.lut.inputs, device.lut.wide_inputs, device.delay_ns
    groups = 2.0 ** np.maximum(n - wide, 0)
    leaves = 2.0 ** np.maximum(n - k, 0)
    # A K-input LUT is a 2-way (K >= 3) or 4-way (K >= 6) mux; a tree over `groups` leaves has this many of them.
    ways = 4 if k >= 6 else 2
    muxes = np.ceil((groups - 1) / (ways - 1))
    levels = 1 + np.ceil(np.log2(groups) / np.log2(ways))
    shared = np.where((n <= k - 1) & (device.lut.outputs == 2), 0.5, 1.0)
    fill = np.where(n > k, device.area.lookup_fill, 1.0)
    lut = np.ceil(m * shared * fill * (leaves + muxes))
    delay = levels * _level(device) + d.muxf * np.clip(n - k, 0, wide - k)
    return _cost(n * m, lut=lut, delay_ns=delay)


def block_table(device: Device, bits_in: ArrayLike, bits_out: ArrayLike) -> Cost:
    """The same table in block RAM: read on a clock edge, so `delay_ns` is clock to data and it takes one cycle.

    Raises CompileError where the device has no block RAM.
    """
    memory = device.memory
    if not device.resources.bram:
        raise CompileError(f"target {device.name}", "has no block RAM", "keep tables in LUTs")
    n, m = np.broadcast_arrays(_floats(bits_in), _floats(bits_out))
    word, deeper = _block_word(n, memory.block_kbit, memory.widest_word)
    whole = np.floor(m / word)
    rest = m - whole * word
    half_word = _block_word(n, memory.block_kbit / 2, memory.widest_word / 2)[0] if memory.halves else 0.0
    last = np.where(rest > 0, np.where((rest <= half_word) & (deeper == 1), 0.5, 1.0), 0.0)
    return _cost(n * m, bram=(whole + last) * deeper, delay_ns=np.full_like(n, device.delay_ns.bram))


def _block_word(bits_in: Floats, kbit: float, widest: float) -> tuple[Floats, Floats]:
    """The word of one block that is 2**bits_in deep, and how many blocks deep a table of single bits is."""
    # Each halving of the depth doubles the word; from 8 bits on, every ninth (parity) bit can be used too.
    data_bits = np.log2(kbit * 1024 * 8 / 9)
    word = 2.0 ** np.floor(np.maximum(data_bits - bits_in, 0))
    word = np.where(word >= 8, word * 9 / 8, word)
    return np.minimum(word, widest), 2.0 ** np.maximum(bits_in - data_bits, 0)


def memory(device: Device, words: ArrayLike, bits: ArrayLike) -> Cost:
    """A memory of `words` of `bits` with one port: block RAM from BLOCK_RAM_BITS on, else LUTs (2**inputs bits each)."""
    n, m = np.broadcast_arrays(_floats(words), _floats(bits))
    small = _cost(n * m, lut=np.ceil(n / 2.0**device.lut.inputs) * m, delay_ns=np.full_like(n, _level(device)))
    if not device.resources.bram:
        return small
    block = block_table(device, np.ceil(np.log2(np.maximum(n, 1))), m)
    large = n * m >= BLOCK_RAM_BITS
    parts = [np.where(large, b, a) for a, b in zip(_parts(small), _parts(block))]
    return Cost(*parts)


def fifo(device: Device, depth: ArrayLike, bits: ArrayLike) -> Cost:
    """A FIFO: shift registers in LUTs (half of 2**inputs bits each), or block RAM, and a counter."""
    n, m = np.broadcast_arrays(_floats(depth), _floats(bits))
    counter = _cost(n, lut=2 * np.ceil(np.log2(np.maximum(n, 2))), ff=2 * np.ceil(np.log2(np.maximum(n, 2))))
    shift = _cost(n * m, lut=np.ceil(n / 2.0 ** (device.lut.inputs - 1)) * m)
    stored = memory(device, n, m)
    large = (n * m >= BLOCK_RAM_BITS) & (n > 2.0 ** (device.lut.inputs - 1)) & (device.resources.bram > 0)
    return Cost(*(np.where(large, b, a) for a, b in zip(_parts(shift), _parts(stored)))).beside(counter)


def select(device: Device, ways: ArrayLike, bits: ArrayLike) -> Cost:
    """One of `ways` words of `bits`: a tree of two-way choices."""
    n, m = np.broadcast_arrays(_floats(ways), _floats(bits))
    levels = np.ceil(np.log2(np.maximum(n, 1)) / 2)  # a LUT of six inputs chooses between four
    return _cost(np.maximum(n - 1, 0) * m, lut=device.area.mux_per_bit * m * (n - 1), delay_ns=levels * _level(device))


def adder_tree(device: Device, terms: ArrayLike, bits: ArrayLike) -> Cost:
    """The sum of `terms` words, the result and every partial sum counted at `bits`."""
    n, m = np.broadcast_arrays(_floats(terms), _floats(bits))
    one = adder(device, m)
    count, levels = np.maximum(n - 1, 0), np.ceil(np.log2(np.maximum(n, 1)))
    return _cost(count, lut=count * one.lut, delay_ns=levels * one.delay_ns)


def _parts(c: Cost) -> tuple[Floats, ...]:
    return c.lut, c.ff, c.dsp, c.bram, c.delay_ns


def multiplier(device: Device, a_bits: ArrayLike, b_bits: ArrayLike, use: str = "lut") -> Cost:
    """The product of two signed variables, in LUTs (rows of adders, added as a tree) or in DSP blocks (tiled).

    `use` is 'lut' or 'dsp'. Raises CompileError for 'dsp' on a device without DSP blocks.
    """
    if use not in ("lut", "dsp"):
        raise CompileError("multiplier", f"must be built of 'lut' or 'dsp', not {use!r}")
    a, b = np.broadcast_arrays(_floats(a_bits), _floats(b_bits))
    return _lut_product(device, a, b) if use == "lut" else _dsp_product(device, a, b)


def _lut_product(device: Device, a: Floats, b: Floats) -> Cost:
    rows = np.minimum(a, b)
    levels = np.maximum(np.ceil(np.log2(np.maximum(rows, 1))), 1)
    one = adder(device, a + b)
    return _cost(a * b, lut=device.area.multiply_per_bit_product * a * b, delay_ns=levels * one.delay_ns)


def _dsp_product(device: Device, a: Floats, b: Floats) -> Cost:
    shape = device.dsp
    if not device.resources.dsp:
        raise CompileError(f"target {device.name}", "has no DSP blocks", "build multipliers of LUTs")

    # A further tile brings one bit less than its operand: the parts below the top one are unsigned.
    def tiles(x: Floats, y: Floats) -> Floats:
        return _tiles(x, shape.a_bits) * _tiles(y, shape.b_bits)

    count = np.minimum(tiles(a, b), tiles(b, a))
    depth = np.ceil(np.log2(np.maximum(count, 1)))
    sums = adder(device, np.where(count > 1, a + b, 0))
    delay = device.delay_ns.route + device.delay_ns.dsp + depth * sums.delay_ns
    return _cost(a * b, dsp=count, lut=np.maximum(count - 1, 0) * sums.lut, delay_ns=delay)


def _tiles(bits: Floats, operand: int) -> Floats:
    return np.maximum(np.ceil((bits - 1) / (operand - 1)), 1)


def register(device: Device, bits: ArrayLike) -> Cost:
    """A register of `bits`: flip-flops only (shift registers in LUTs are not counted), no combinational delay."""
    n = _floats(bits)
    return _cost(n, ff=n)


def _reduction(device: Device, inputs: Floats) -> Cost:
    """An AND or OR of `inputs` bits as a tree of LUTs."""
    k = device.lut.inputs
    luts = np.ceil(np.maximum(inputs - 1, 0) / (k - 1))
    levels = np.ceil(np.log(np.maximum(inputs, 1)) / np.log(k) - 1e-9)
    return _cost(inputs, lut=luts, delay_ns=levels * _level(device))


def _level(device: Device) -> float:
    return device.delay_ns.route + device.delay_ns.lut


def _floats(widths: ArrayLike) -> Floats:
    values = np.asarray(widths, dtype=np.float64)
    if not np.all((values >= 0) & (values < 1e6)):
        raise CompileError("cost", "bit widths must be from 0 to a million")
    return values


def _cost(
    present: Floats, lut: ArrayLike = 0.0, ff: ArrayLike = 0.0, dsp: ArrayLike = 0.0, bram: ArrayLike = 0.0,
    delay_ns: ArrayLike = 0.0,
) -> Cost:  # fmt: skip
    """A Cost of the shape of `present`, all zero where `present` is 0."""
    return Cost(*(np.where(present > 0, part, 0.0) for part in (lut, ff, dsp, bram, delay_ns)))
