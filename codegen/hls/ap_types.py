"""Finds the ap_fixed headers of an installed tool or of the hls4ml wheel; they are used in place, never copied."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

__all__ = ["find_ap_types"]

TOOL_VARIABLES = ("XILINX_HLS", "XILINX_VITIS")
"""Set by the vendor's settings64.sh."""


def find_ap_types() -> Path | None:
    """The folder with ap_fixed.h and ap_int.h: of Vitis or Vivado HLS where one is set up, else of the wheel."""
    tools = [Path(os.environ[name]) / "include" for name in TOOL_VARIABLES if os.environ.get(name)]
    folders = [*tools, *_of_wheel()]
    return next((folder for folder in folders if (folder / "ap_fixed.h").is_file()), None)


def _of_wheel() -> list[Path]:
    found = importlib.util.find_spec("hls4ml")  # locates the package and does not import it
    places = found.submodule_search_locations if found is not None else None
    return [Path(place) / "templates" / "vivado" / "ap_types" for place in places or ()]
