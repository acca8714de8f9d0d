"""Data sets by name, generated or published, each as one `DataSet`; what is simulated in them is in docs/data.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archives import PUBLIC, fetch, public
    from .boosted_jets import Jets, jets
    from .calorimeter import OptimalFilter, Pulses, calorimeter_pulses, optimal_filter, windows
    from .dataset import DataSet, Standardisation, read
    from .images import digits
    from .level1 import TriggerObjects, trigger_objects
    from .pixel_clusters import SmartPixels, charge_levels, smart_pixels
    from .pixel_files import smart_pixel_files
    from .samples import SAMPLES, sample

__all__ = [
    "PUBLIC",
    "SAMPLES",
    "DataSet",
    "Jets",
    "OptimalFilter",
    "Pulses",
    "SmartPixels",
    "Standardisation",
    "TriggerObjects",
    "calorimeter_pulses",
    "charge_levels",
    "digits",
    "fetch",
    "jets",
    "optimal_filter",
    "public",
    "read",
    "sample",
    "smart_pixel_files",
    "smart_pixels",
    "trigger_objects",
    "windows",
]

_HOMES = {
    "archives": ("PUBLIC", "fetch", "public"),
    "boosted_jets": ("Jets", "jets"),
    "calorimeter": ("OptimalFilter", "Pulses", "calorimeter_pulses", "optimal_filter", "windows"),
    "dataset": ("DataSet", "Standardisation", "read"),
    "images": ("digits",),
    "level1": ("TriggerObjects", "trigger_objects"),
    "pixel_clusters": ("SmartPixels", "charge_levels", "smart_pixels"),
    "pixel_files": ("smart_pixel_files",),
    "samples": ("SAMPLES", "sample"),
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: the command line opens without all of them."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
