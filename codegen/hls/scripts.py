"""The files around the C++: scripts of old and new tools, Makefile, README; knows no operations."""

from __future__ import annotations

from collections.abc import Mapping

from ...hw_targets.devices import Device
from ..dataflow import Timing
from ..schedule import ARCHITECTURES, INTERFACES, LayerSchedule, Schedule
from .plan import Plan
from .templates import render
from .testbench import ports

__all__ = ["CPP_STANDARD", "helpers", "scripts"]

CPP_STANDARD = "c++11"
"""What the generated code needs; both the compiler of Vivado HLS and that of Vitis HLS take it."""


def helpers(schedule: Schedule) -> dict[str, str]:
    """Headers that every design shares, and that of words in streams where there are some."""
    names = ("fixed_point.h", "stream.h") if schedule.architecture == "stream" else ("fixed_point.h",)
    return {f"firmware/{name}": render(name) for name in names}


def scripts(
    design: Plan,
    device: Device,
    clock_ns: float,
    schedule: Schedule,
    order: Mapping[str, tuple[int, ...]],
    when: Timing | None,
) -> dict[str, str]:
    """`build_hls.tcl`, `hls_config.cfg`, `Makefile`, `README.md`. `when`: the timing of a stream or folded design."""
    inputs, outputs = ports(design)
    nodes = [*design.graph.inputs, *(o.node for o in design.graph.outputs)]
    rows = [
        {
            "cpp": cpp,
            "shape": _shape(list(t.shape), order.get(name)),
            "type": design.grids[i].cpp(),
            "grid": str(design.grids[i]),
        }
        for (name, cpp, _, t, _), i in zip([*inputs, *outputs], nodes)
    ]
    interface = "axis" if schedule.architecture == "stream" else schedule.interface
    values = {
        "top": design.top,
        "part": device.part,
        "clock": f"{clock_ns:g}",
        "standard": CPP_STANDARD,
        "name": design.graph.name,
        "device": device.description,
        "ii": when.ii if when else schedule.ii,
        "stream": schedule.architecture == "stream",
        "architecture": f"{schedule.architecture} ({ARCHITECTURES[schedule.architecture]})",
        "interface": f"{interface} ({INTERFACES[interface]})",
        "inputs": rows[: len(inputs)],
        "outputs": rows[len(inputs) :],
        "layers": [(f.name, f.layer, _told(schedule, f.layer)) for f in design.functions],
    }
    names = ("build_hls.tcl", "hls_config.cfg", "Makefile", "README.md")
    return {name: render(name, **values) for name in names}


def _told(schedule: Schedule, layer: str) -> str:
    """The strategy of a layer, where it is not the plain one."""
    own = schedule.of(layer)
    uses = f", each multiplier used {own.reuse} times" if own.reuse > 1 else ""
    return f"{own.strategy}{uses}" if own != LayerSchedule() else ""


def _shape(shape: list[int], axes: tuple[int, ...] | None) -> str:
    return f"{shape}, axes {list(axes)} of the model's" if axes else f"{shape}"
