"""Devices as values: reads a device's .toml and refuses what it does not know; holds no figure of any device itself."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..ir.errors import CompileError

__all__ = [
    "Area", "Carry", "Delays", "Device", "Dsp", "Lut", "Margin", "Memory", "OwnDevice", "Resources", "Tools", "load_target",
    "targets",
]  # fmt: skip

FOLDER = Path(__file__).parent
FILE_LIMIT_BYTES = 100_000


@dataclass(frozen=True)
class Resources:
    """How many of each the whole part has; `bram` counts blocks of `Memory.block_kbit`, `slr` is 1 for one die."""

    lut: int
    ff: int
    dsp: int
    bram: int
    uram: int
    slr: int


@dataclass(frozen=True)
class Lut:
    """`inputs` of one LUT; `wide_inputs` of the largest function its dedicated muxes (F7, F8, F9, PFUMX) join;
    `outputs` is 2 where one LUT holds two functions of up to `inputs - 1` shared inputs."""

    inputs: int
    wide_inputs: int
    outputs: int


@dataclass(frozen=True)
class Carry:
    """The dedicated carry chain: `bits_per_block` of one `cell`."""

    cell: str
    bits_per_block: int


@dataclass(frozen=True)
class Dsp:
    """The multiplier of one DSP block: signed operands of `a_bits` (the wider) and `b_bits`; `accumulator_bits`."""

    cell: str
    a_bits: int
    b_bits: int
    accumulator_bits: int


@dataclass(frozen=True)
class Memory:
    """Block RAM: kbit (1,024 bits, with parity) of one block, its widest word, whether halves are usable; URAM kbit."""

    block_kbit: int
    widest_word: int
    halves: bool
    uram_kbit: int


@dataclass(frozen=True)
class Delays:
    """Delays in ns. `route` is the average net in front of one logic level; `carry_entry` is LUT output to the chain,
    `carry_exit` the chain to a sum bit; `bram` is clock to data; `dsp` is operand to product, no register inside."""

    lut: float
    route: float
    muxf: float
    carry_entry: float
    carry_per_bit: float
    carry_exit: float
    clock_to_q: float
    setup: float
    dsp: float
    bram: float


@dataclass(frozen=True)
class Area:
    """LUTs per bit (or per bit product) of each primitive: the coefficients that a fit replaces."""

    adder_per_bit: float
    compare_per_bit: float
    mux_per_bit: float
    relu_per_bit: float
    saturate_per_bit: float
    multiply_per_bit_product: float
    lookup_fill: float


@dataclass(frozen=True)
class Margin:
    """Fraction of the clock period kept free: `rtl` for placed RTL, `hls` is the default uncertainty of Vitis HLS."""

    rtl: float
    hls: float


@dataclass(frozen=True)
class Tools:
    """`vendor`: commands that build for it, first choice first; `yosys`: the family of synth_xilinx, or 'ecp5', or ''
    where Yosys has no flow; `nextpnr`: the device option of nextpnr, or ''."""

    vendor: tuple[str, ...]
    yosys: str
    nextpnr: str


@dataclass(frozen=True)
class Device:
    """One FPGA: what it has, how fast it is and which tools build for it; `part` is the vendor's full name of it."""

    name: str
    description: str
    device: str
    part: str
    family: str
    process_nm: int
    speed_grade: str
    boards: tuple[str, ...]
    clock_ns: float
    resources: Resources
    lut: Lut
    carry: Carry
    dsp: Dsp
    memory: Memory
    delay_ns: Delays
    area: Area
    margin: Margin
    tools: Tools


@dataclass(frozen=True)
class OwnDevice(Device):
    """A device that does not come with the package; `text` is that of its file, which goes with what is built for it."""

    text: str


def targets() -> tuple[str, ...]:
    """The names of the devices that come with the package, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_target(name_or_path: str | Path) -> Device:
    """The device of that name, part string or .toml file.

    A part string (`xcvu9p-flgb2104-2-i`) gives the device of that die with that part; its speed grade must be the one
    whose delays are known. Raises CompileError, naming the nearest names, where nothing fits.

    >>> load_target("vu9p").resources.dsp
    6840
    """
    given = str(name_or_path)
    if given.endswith(".toml"):
        return OwnDevice(**vars(_read(Path(given))), text=Path(given).read_text())
    if given.lower() in targets():
        return _read(FOLDER / f"{given.lower()}.toml")
    return _from_part(given) or _refuse(given)


def _from_part(given: str) -> Device | None:
    for name in targets():
        device = _read(FOLDER / f"{name}.toml")
        rest = given[len(device.device) :]
        if not given.lower().startswith(device.device.lower()) or rest[:1].isdigit():
            continue
        grade = re.search(r"-(\d)", rest)
        if grade is None:
            return device if not rest else None
        if grade[1] != re.sub(r"\D", "", device.speed_grade):
            rule = f"'{given}' has speed grade -{grade[1]}, and the delays of {name} are those of {device.speed_grade}"
            raise CompileError("target", rule, f"use '{device.part}', or copy {name}.toml and give it your delays")
        return dataclasses.replace(device, part=given)
    return None


def _refuse(given: str) -> Device:
    near = difflib.get_close_matches(given.lower(), targets(), n=3, cutoff=0.4)
    nearest = f"nearest are {', '.join(near)}; " if near else ""
    raise CompileError("target", f"'{given}' is not known", f"{nearest}`hwcompile targets` lists all")


@cache
def _read_package(path: Path) -> Device:
    return _parse(path)


def _read(path: Path) -> Device:
    # Only our own files are remembered: a user's file may change while the program runs.
    return _read_package(path) if path.parent == FOLDER else _parse(path)


def _parse(path: Path) -> Device:
    where = f"target {path.name}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CompileError(where, f"the file cannot be read ({error.strerror})", "check the path") from error
    if len(text) > FILE_LIMIT_BYTES:
        raise CompileError(where, f"a device file has at most {FILE_LIMIT_BYTES} bytes, not {len(text)}")
    try:
        table = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompileError(where, f"must be valid TOML ({error})") from error
    device = _build(Device, table, where, "")
    _check(device, where)
    return device


def _build(kind: Any, table: Mapping[str, Any], where: str, prefix: str) -> Any:
    """Make the dataclass `kind` of `table`, each key known, present and of its declared type."""
    types = get_type_hints(kind)
    for key in table:
        if key not in types:
            raise CompileError(where, f"unknown key '{prefix}{key}'", f"the keys here are {', '.join(types)}")
    values: dict[str, Any] = {}
    for key, expected in types.items():
        if key not in table:
            raise CompileError(where, f"missing key '{prefix}{key}'", "add it; any device of the package shows how")
        values[key] = _value(expected, table[key], where, prefix + key)
    return kind(**values)


def _value(expected: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(expected):
        if not isinstance(value, dict):
            raise CompileError(where, f"'{key}' must be a table, not {value!r}")
        return _build(expected, value, where, key + ".")
    if get_origin(expected) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, get_args(expected)[0]) for item in value):
            raise CompileError(where, f"'{key}' must be a list of strings, not {value!r}")
        return tuple(value)
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise CompileError(where, f"'{key}' must be {_NAMES[expected]}, not {value!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
# A device may lack these; every other number is positive.
_MAY_BE_ZERO = (
    "dsp", "bram", "uram", "muxf", "a_bits", "b_bits", "accumulator_bits", "block_kbit", "widest_word", "uram_kbit",
)  # fmt: skip


def _check(device: Any, where: str, prefix: str = "") -> None:
    for field in dataclasses.fields(device):
        value = getattr(device, field.name)
        if dataclasses.is_dataclass(value):
            _check(value, where, f"{prefix}{field.name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            optional = field.name in _MAY_BE_ZERO
            if not (0 <= value < 1e9) or (value == 0 and not optional):
                least = "not negative" if optional else "positive"
                raise CompileError(where, f"'{prefix}{field.name}' must be {least} and below 1e9, not {value}")
