"""The files around the C++: scripts of old and new tools, Makefile, README; knows no operations."""

from __future__ import annotations

from ...hw_targets.devices import Device
from ..schedule import ARCHITECTURES, INTERFACES, Schedule
from .plan import Plan
from .templates import render
from .testbench import ports

__all__ = ["CPP_STANDARD", "helpers", "scripts"]

CPP_STANDARD = "c++11"
"""What the generated code needs; both the compiler of Vivado HLS and that of Vitis HLS take it."""


def helpers() -> dict[str, str]:
    """Headers that every design shares."""
    return {"firmware/fixed_point.h": render("fixed_point.h")}


def scripts(design: Plan, device: Device, clock_ns: float, schedule: Schedule) -> dict[str, str]:
    """`build_hls.tcl`, `hls_config.cfg`, `Makefile`, `README.md`."""
    inputs, outputs = ports(design)
    nodes = [*design.graph.inputs, *(o.node for o in design.graph.outputs)]
    rows = [
        {"cpp": cpp, "shape": list(t.shape), "type": design.grids[i].cpp(), "grid": str(design.grids[i])}
        for (_, cpp, _, t, _), i in zip([*inputs, *outputs], nodes)
    ]
    values = {
        "top": design.top,
        "part": device.part,
        "clock": f"{clock_ns:g}",
        "standard": CPP_STANDARD,
        "name": design.graph.name,
        "device": device.description,
        "ii": schedule.ii,
        "architecture": f"{schedule.architecture} ({ARCHITECTURES[schedule.architecture]})",
        "interface": f"{schedule.interface} ({INTERFACES[schedule.interface]})",
        "inputs": rows[: len(inputs)],
        "outputs": rows[len(inputs) :],
        "layers": [(f.name, f.layer) for f in design.functions],
    }
    names = ("build_hls.tcl", "hls_config.cfg", "Makefile", "README.md")
    return {name: render(name, **values) for name in names}
