"""The cost model: shapes, zeroes, monotony, and the few numbers that follow from the architecture alone."""

import numpy as np
import pytest

from hwcompile.hw_targets import costs, load_target, targets
from hwcompile.ir.errors import CompileError

VU9P = load_target("vu9p")
WIDTHS = np.arange(0, 33)

ONE_WIDTH = [costs.adder, costs.compare, costs.mux, costs.maximum, costs.relu]


@pytest.mark.parametrize("name", targets())
@pytest.mark.parametrize("primitive", ONE_WIDTH)
def test_grows_with_width(name: str, primitive):
    cost = primitive(load_target(name), WIDTHS)
    assert cost.lut.shape == cost.delay_ns.shape == WIDTHS.shape
    assert cost.lut[0] == cost.delay_ns[0] == 0
    assert np.all(np.diff(cost.lut) > 0)
    assert np.all(np.diff(cost.delay_ns) >= 0)


def test_adder():
    cost = costs.adder(VU9P, [8, 16])
    d = VU9P.delay_ns
    assert cost.lut.tolist() == [8, 16]
    assert cost.delay_ns[1] - cost.delay_ns[0] == pytest.approx(8 * d.carry_per_bit)
    assert float(cost.delay_ns[0]) > d.route + d.lut


def test_register_is_flip_flops_only():
    cost = costs.register(VU9P, 12)
    assert (float(cost.ff), float(cost.lut), float(cost.delay_ns)) == (12, 0, 0)


def test_table_in_luts():
    bits = np.array([4, 5, 6, 7, 8, 9, 10, 11])
    cost = costs.table(VU9P, bits, 10)
    # Two five-input functions share a LUT6; an eight-input one is four LUT6 and their muxes, less what logic saves.
    fill = VU9P.area.lookup_fill
    assert cost.lut[:3].tolist() == [5, 5, 10]
    assert cost.lut[3:6].tolist() == [np.ceil(10 * fill * n) for n in (2, 4, 8)]
    assert cost.lut[6:].tolist() == [np.ceil(10 * fill * n) for n in (16 + 1, 32 + 1)]
    assert np.all(np.diff(cost.delay_ns) >= 0)


def test_table_in_blocks():
    # A 36-kbit block is 512 x 72, 1K x 36, 2K x 18, 4K x 9, 32K x 1, and can be halved.
    cases = {
        (9, 36): 0.5,
        (9, 72): 1,
        (10, 18): 0.5,
        (10, 36): 1,
        (11, 18): 1,
        (12, 9): 1,
        (15, 1): 1,
        (16, 1): 2,
        (16, 3): 6,
    }
    for (bits_in, bits_out), blocks in cases.items():
        assert float(costs.block_table(VU9P, bits_in, bits_out).bram) == blocks, (bits_in, bits_out)
    ecp5 = {(9, 36): 1, (10, 18): 1, (11, 9): 1, (14, 1): 1, (10, 19): 2}
    for (bits_in, bits_out), blocks in ecp5.items():
        assert float(costs.block_table(load_target("ecp5-85k"), bits_in, bits_out).bram) == blocks, (bits_in, bits_out)


@pytest.mark.parametrize(
    ("name", "a", "b", "blocks"),
    [
        ("vu9p", 27, 18, 1), ("vu9p", 18, 27, 1), ("vu9p", 28, 18, 2), ("vu9p", 19, 19, 2), ("vu9p", 8, 8, 1),
        ("xc7z020", 25, 18, 1), ("xc7z020", 27, 18, 2), ("vp1802", 27, 24, 1), ("ecp5-85k", 18, 18, 1),
        ("vu9p", 32, 32, 4), ("vu9p", 0, 8, 0),
    ],
)  # fmt: skip
def test_multiplier_blocks(name: str, a: int, b: int, blocks: int):
    cost = costs.multiplier(load_target(name), a, b, "dsp")
    assert float(cost.dsp) == blocks
    assert (float(cost.lut) > 0) == (blocks > 1)


def test_saturate_and_round_off():
    assert float(costs.saturate(VU9P, 8, 8).lut) == 0
    assert float(costs.saturate(VU9P, 8, 12).delay_ns) == 0
    assert float(costs.saturate(VU9P, 16, 8).lut) == 8 * VU9P.area.saturate_per_bit + 2  # AND of 9 bits: two LUT6
    assert float(costs.round_off(VU9P, 8, 0).lut) == 0
    assert float(costs.round_off(VU9P, 8, 4).lut) == 8
    assert float(costs.round_off(VU9P, 8, 4, sticky=True).lut) == 9


def test_then_and_beside():
    a, b = costs.adder(VU9P, 8), costs.mux(VU9P, 8)
    assert float(a.then(b).lut) == float(a.beside(b).lut) == 12
    assert float(a.then(b).delay_ns) == float(a.delay_ns + b.delay_ns)
    assert float(a.beside(b).delay_ns) == float(a.delay_ns)


def test_usable_period():
    d = VU9P.delay_ns
    assert costs.usable_period_ns(VU9P, 5.0) == pytest.approx(4.5 - d.clock_to_q - d.setup)
    assert costs.usable_period_ns(VU9P, 5.0, "hls") == pytest.approx(3.65 - d.clock_to_q - d.setup)
    with pytest.raises(
        CompileError, match=r"clock: a period of 0.5 ns leaves no time for one LUT on vu9p; use 0.56 ns"
    ):
        costs.usable_period_ns(VU9P, 0.5)
    costs.usable_period_ns(VU9P, 0.561)
    with pytest.raises(CompileError, match="the flow must be 'rtl' or 'hls', not 'asic'"):
        costs.usable_period_ns(VU9P, 5.0, "asic")


def test_refuses_wrong_arguments():
    with pytest.raises(CompileError, match="bit widths"):
        costs.adder(VU9P, -1)
    with pytest.raises(CompileError, match="'lut' or 'dsp', not 'bram'"):
        costs.multiplier(VU9P, 8, 8, "bram")
