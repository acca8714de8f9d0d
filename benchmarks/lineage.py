"""Times of the lineage store: adding, queries on 100,000 states, paths, and what removing takes, as a Markdown table.

    python benchmarks/lineage.py                  # about five minutes
    python benchmarks/lineage.py --states 10000

The states are chains from one root, one of 1,000 states and the others of 99; 5 metrics, 3 properties and a parameter each.
One in ten has failed and has no metrics. They are entered with SQLite's syncing off, which only makes the setup faster; `add` is
timed with it on, as the mean of 100, with the weights of the jet tagger (16-64-32-32-5, 8 arrays, 4,389 numbers). All other times
are the best of five, in ms, with what is found read into `State` objects.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from hwcompile.lineage import State, Step, Store

REPEATS, DEPTH, CHAIN = 5, 1000, 99
SIZES = (16, 64, 32, 32, 5)


def fill(store: Store, count: int) -> State:
    """Add `count` states; the end of the chain that is `DEPTH` long."""
    random = np.random.default_rng(0)
    store._database.rows("PRAGMA synchronous = OFF")
    root = last = deepest = store.add(method="float", metrics={"accuracy": 0.76})
    for i in range(count - 1):
        if i == DEPTH - 1:
            deepest, last = last, root
        elif i >= DEPTH and (i - DEPTH) % CHAIN == 0:
            last = root
        last = one(store, last, i, random)
        if i % 100 == 7:
            store.tag(last, "front" if i % 1000 == 7 else "seen")
    store._database.rows("PRAGMA synchronous = FULL")
    return deepest


def one(store: Store, parent: State, i: int, random: np.random.Generator) -> State:
    failed = i % 10 == 3
    names = ("accuracy", "lut", "ff", "dsp", "latency_cycles")
    values = (0.6 + 0.16 * random.random(), *random.integers(100, 100_000, 4).tolist())
    return store.add(
        parents=[parent],
        step=Step(("Prune", "Quantize", "Train")[i % 3], {"amount": i % 97 / 97}, seed=i),
        method=f"method {i % 20}",
        metrics={} if failed else dict(zip(names, values)),
        target="vu9p" if i % 2 else "vu13p",
        properties={"lr": 10 ** -random.uniform(2, 4), "bits": i % 8, "optimizer": {"name": "adam"}},
        error="diverged" if failed else "",
        key=("study", i),
    )


def timed(action: Callable[[], object]) -> tuple[float, int]:
    """Best of five in ms, and how many states came."""
    best, found = float("inf"), None
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = action()
        best = min(best, time.perf_counter() - start)
    return best * 1e3, len(found) if isinstance(found, list) else 1


def weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = [shape for a, b in zip(SIZES, SIZES[1:]) for shape in ((b, a), (b,))]  # noqa: RUF007
    return {f"{i}": random.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def adding(store: Store, count: int = 100) -> list[tuple[str, float, int]]:
    """Mean times of durable adds: new weights, weights that are there already, none."""
    random = np.random.default_rng(1)
    new, same = [weights(random) for _ in range(count)], weights(random)
    rows = []
    for kind, given in (
        ("8 new arrays", new),
        ("8 arrays stored before", [same] * count),
        ("no weights", [{}] * count),
    ):
        start = time.perf_counter()
        for i, arrays in enumerate(given):
            store.add(arrays, metrics={"accuracy": 0.7}, key=(kind, i))
        rows.append((f"add, {kind}", (time.perf_counter() - start) / count * 1e3, 1))
    return rows


def label(text: str, options: dict[str, object]) -> str:
    shown = [f"{name}={value!r}" for name, value in options.items()]
    return ", ".join([f"`{text}`" if text else "all", *shown])


@click.command()
@click.option("--states", default=100_000, show_default=True, type=click.IntRange(2 * DEPTH))
def main(states: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "runs") as store:
        start = time.perf_counter()
        deepest = fill(store, states)
        click.echo(f"{states:,} states entered in {time.perf_counter() - start:.0f} s\n")
        queries: dict[str, Callable[[], object]] = {
            label(text, options): lambda text=text, options=options: store.find(text, **options)
            for text, options in QUERIES
        }
        walks = {
            "path to the root, depth 1,000": lambda: store.path(deepest),
            "rebuild (recipe), depth 1,000": lambda: store.rebuild(deepest),
            "get by the first 8 digits": lambda: store.get(deepest.id[:8]),
            "with_key": lambda: store.with_key(("study", states // 2)),
            "tags": store.tags,
            "remove, a query, dry run": lambda: store.remove("accuracy < 0.65", dry_run=True),
            "remove, all but tagged, dry run": lambda: store.remove(keep_tagged=True, dry_run=True),
        }
        rows = [(name, *timed(action)) for name, action in {**queries, **walks}.items()]
        rows += adding(store)
        database = (Path(folder) / "runs" / "store.sqlite").stat().st_size
    click.echo("| operation | ms | states |\n|---|---|---|")
    for name, milliseconds, count in rows:
        click.echo(f"| {name} | {milliseconds:.1f} | {count:,} |")
    click.echo(f"\nthe database: {database / 1e6:.0f} MB")


QUERIES: tuple[tuple[str, dict[str, object]], ...] = (
    ("accuracy > 0.75 and lut < 5000", {}),
    ("accuracy > 0.75 and lut < 5000", {"order_by": "lut", "limit": 20}),
    ("accuracy > 0.7", {"limit": 20}),
    ("", {"order_by": "accuracy", "descending": True, "limit": 20}),
    ("method = 'method 7' and dsp < 1000", {}),
    ("tag = 'front'", {}),
    ("properties.bits = 4 and properties.lr < 0.0002", {}),
    ("parameters.amount > 0.98 and step = 'Prune'", {}),
    ("has(error) and target = 'vu9p'", {"limit": 20}),
    ("not (accuracy > 0.6005 or has(error))", {}),
    ("created > '2020-01-01' and lut < 200 and ff < 20000", {}),
    ("0.70 < accuracy < 0.701 or lut in (100, 200, 300)", {}),
    ("accuracy > 0.68", {}),
)

if __name__ == "__main__":
    main()
