"""The command `hwcompile data`: makes a data set and writes it to a file; the physics is in the other modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ...ir.errors import CompileError

__all__ = ["GENERATORS", "data_command"]

Progress = Callable[[int, int], None]


def _jets(events: int, seed: int, workers: int, progress: Progress) -> Any:
    from .boosted_jets import CLASSES, jets

    if events % len(CLASSES):
        raise CompileError("option --events", f"must be a multiple of {len(CLASSES)} (classes) for jets, not {events}")
    return jets(events // len(CLASSES), seed, workers=workers, progress=progress)


def _smart_pixels(events: int, seed: int, workers: int, progress: Progress) -> Any:
    from .pixel_clusters import smart_pixels

    return smart_pixels(events, seed, progress=progress)


def _calorimeter_pulses(events: int, seed: int, workers: int, progress: Progress) -> Any:
    from .calorimeter import calorimeter_pulses, windows

    return windows(calorimeter_pulses(events + 4, seed))


def _trigger_objects(events: int, seed: int, workers: int, progress: Progress) -> Any:
    from .level1 import SIGNALS, trigger_objects

    return trigger_objects(events, seed, tuple(SIGNALS))


def _digits(events: int, seed: int, workers: int, progress: Progress) -> Any:
    from .images import digits

    return digits()


GENERATORS: dict[str, tuple[Callable[[int, int, int, Progress], Any], str]] = {
    "jets": (_jets, "boosted jets of 5 classes (needs pythia8mc and fastjet); --events is their sum"),
    "smart_pixels": (_smart_pixels, "charge clusters of a pixel sensor"),
    "calorimeter_pulses": (_calorimeter_pulses, "windows of 5 samples of a calorimeter cell"),
    "trigger_objects": (_trigger_objects, "Level-1 objects; --events of background and of each of 4 signals"),
    "digits": (_digits, "8 x 8 images that scikit-learn carries; always all 1,797"),
}


@click.command("data", epilog="Sets: " + "; ".join(f"{name}: {about}" for name, (_, about) in GENERATORS.items()) + ".")
@click.argument("name", type=click.Choice(list(GENERATORS)))
@click.option("--events", type=click.IntRange(1), default=10_000, show_default=True, help="How many events.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same data.")
@click.option("--out", required=True, help="The .npz file to write.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, for jets.")
def data_command(name: str, events: int, seed: int, out: str, workers: int) -> None:
    """Generate the data set NAME and write it to a file that numpy reads and that --data takes."""
    from rich.console import Console
    from rich.progress import Progress

    make, _ = GENERATORS[name]
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        made = make(events, seed, workers, lambda done, total: bar.update(task, completed=done, total=total))
    made.save(out)
    click.echo(made.describe())
    click.echo(f"written to {out}")
