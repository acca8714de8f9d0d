"""Every device file loads and is sane; what is wrong in one is refused by name."""

import re
from pathlib import Path

import pytest

from hwcompile.hw_targets import load_target, targets
from hwcompile.hw_targets.devices import FOLDER
from hwcompile.hw_targets.vendor import HLS_COMMANDS
from hwcompile.hw_targets.yosys import FLOWS
from hwcompile.ir.errors import CompileError

EXPECTED = ("ecp5-85k", "ku115", "u250", "u55c", "vp1802", "vu13p", "vu9p", "xc7z020", "zu7ev")
VU9P = (FOLDER / "vu9p.toml").read_text()


def test_targets_are_sorted_and_complete():
    assert targets() == tuple(sorted(targets()))
    assert set(EXPECTED) <= set(targets())


@pytest.mark.parametrize("name", targets())
def test_device_is_sane(name: str):
    device = load_target(name)
    assert device.name == name
    assert device.part.startswith(device.device)
    assert device.resources.lut <= device.resources.ff <= 2 * device.resources.lut
    assert 4 <= device.lut.inputs <= device.lut.wide_inputs <= 9
    assert device.dsp.a_bits >= device.dsp.b_bits
    assert device.tools.yosys in ("", *FLOWS)
    assert set(device.tools.vendor) <= set(HLS_COMMANDS)
    assert 0 < device.margin.rtl < device.margin.hls < 1
    assert device.delay_ns.carry_per_bit < device.delay_ns.lut <= device.delay_ns.route < device.clock_ns
    assert "Counts:" in (FOLDER / f"{name}.toml").read_text().splitlines()[0]


def test_part_strings():
    assert load_target("xcvu9p-flgb2104-2-i").part == "xcvu9p-flgb2104-2-i"
    assert load_target("xcvu9p-flgb2104-2-i").resources == load_target("vu9p").resources
    assert load_target("xc7z020clg484-1").name == "xc7z020"
    assert load_target("XCVU9P").part == "xcvu9p-flga2104-2L-e"
    assert load_target("VU9P") == load_target("vu9p")
    for name in targets():
        assert load_target(load_target(name).part) == load_target(name)


def message(given: str | Path) -> str:
    with pytest.raises(CompileError) as caught:
        load_target(given)
    return str(caught.value)


def test_unknown_names():
    assert message("vu9") == "target: 'vu9' is not known; nearest are vu9p, vu13p; `hwcompile targets` lists all"
    assert message("zzzzzz") == "target: 'zzzzzz' is not known; `hwcompile targets` lists all"
    assert message("xcvu9-flga2104-2L-e").startswith("target: 'xcvu9-flga2104-2L-e' is not known")
    assert message("xcvu9p-flga2104-1-e") == (
        "target: 'xcvu9p-flga2104-1-e' has speed grade -1, and the delays of vu9p are those of -2L; "
        "use 'xcvu9p-flga2104-2L-e', or copy vu9p.toml and give it your delays"
    )


def test_own_file(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(VU9P.replace('name = "vu9p"', 'name = "mine"').replace("slr = 3", "slr = 1"))
    assert load_target(path).resources.slr == 1
    path.write_text(path.read_text().replace("slr = 1", "slr = 2"))
    assert load_target(str(path)).resources.slr == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "slr = 3",
            "slr = 3\nluts = 4",
            "unknown key 'resources.luts'; the keys here are lut, ff, dsp, bram, uram, slr",
        ),
        ("uram = 960\n", "", "missing key 'resources.uram'"),
        ("slr = 3", 'slr = "3"', "'resources.slr' must be a whole number, not '3'"),
        ("slr = 3", "slr = true", "'resources.slr' must be a whole number, not True"),
        ("slr = 3", "slr = -3", "'resources.slr' must be positive and below 1e9, not -3"),
        ("lut = 0.1\n", "lut = nan\n", "'delay_ns.lut' must be positive"),
        ('family = "Virtex', 'famly = "Virtex', "unknown key 'famly'"),
        ("[lut]", "[luts]", "unknown key 'luts'"),
        ('boards = ["VCU118", "VCU1525"]', "boards = [1]", "'boards' must be a list of strings, not [1]"),
        ("slr = 3", "slr = = 3", "must be valid TOML"),
    ],
)
def test_wrong_files(tmp_path: Path, old: str, new: str, expected: str):
    assert old in VU9P
    path = tmp_path / "mine.toml"
    path.write_text(VU9P.replace(old, new, 1))
    assert re.match(r"target mine\.toml: ", message(path))
    assert expected in message(path)


def test_missing_file(tmp_path: Path):
    expected = "target none.toml: the file cannot be read (No such file or directory); check the path"
    assert message(tmp_path / "none.toml") == expected
