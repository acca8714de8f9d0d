"""The small samples that ship with the package: read here, and made again by `write_samples`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...ir.errors import CompileError
from .boosted_jets import jets
from .calorimeter import calorimeter_pulses
from .dataset import DataSet, read
from .level1 import SIGNALS, trigger_objects
from .pixel_clusters import smart_pixels

__all__ = ["SAMPLES", "sample", "write_samples"]

FOLDER = Path(__file__).parent / "samples"
SEED = 20

SAMPLES: dict[str, Callable[[], DataSet]] = {
    "jets": lambda: jets(100, SEED),
    "smart_pixels": lambda: smart_pixels(1_000, SEED),
    "calorimeter_pulses": lambda: calorimeter_pulses(20_000, SEED),
    "trigger_objects": lambda: trigger_objects(600, SEED, tuple(SIGNALS), signal_events=100),
}
"""How each sample was made."""


def sample(name: str) -> DataSet:
    """The sample `name` that ships with the package: small, for tests, examples and a first look."""
    if name not in SAMPLES:
        raise CompileError(f"data {name}", "no sample has this name", f"known: {', '.join(SAMPLES)}")
    return read(FOLDER / f"{name}.npz")


def write_samples(folder: str | Path = FOLDER) -> None:
    """Generate all samples and write them: python -c 'from hwcompile.models.data import samples; samples.write_samples()'."""
    for name, make in SAMPLES.items():
        make().save(Path(folder) / f"{name}.npz")
