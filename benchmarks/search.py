"""The search, random search and an HGQ2 sweep at equal time: search.py DATA.npz FOLDER MINUTES [--seeds 0 1 2] [--only random].

Each on one core: `hc.search` over all methods, with trainings beyond the full length; the same space drawn at random with every
network trained in full from its float base; and HGQ2's rising beta (in .venv-peers), its checkpoints compiled and counted as ours.
Networks are chosen on validation events; accuracies on others are the test. The hypervolume is that of accuracy from 0.65 to 0.75
and of LUTs from 100 to 40,000 on a logarithmic scale, as a share of this box. Called again with more minutes, both searches go on
where they stopped. What is measured is kept in FOLDER, a file for each row and seed; the table is of all that are there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier import peer
from tasks import TASKS

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.explore import Methods
from hwcompile.report.frontier import hypervolume

ACCURACY, LUTS = (0.65, 0.75), (100.0, 40_000.0)
SHARES = (0.1, 0.25, 0.5, 1.0)


def volume(points: list[tuple[float, float]]) -> float:
    """Of pairs (accuracy, LUTs)."""
    span = math.log(LUTS[1] / LUTS[0])
    costs = [
        ((ACCURACY[1] - a) / (ACCURACY[1] - ACCURACY[0]), math.log(max(c, LUTS[0]) / LUTS[0]) / span) for a, c in points
    ]
    return hypervolume(costs, (1.0, 1.0))


def searched(
    data: dict[str, np.ndarray], folder: Path, name: str, seconds: float, seed: int, **options: Any
) -> list[Any]:
    """(seconds, accuracy, test accuracy, LUTs, method) of every network."""
    task = opt.Task(data["x"], data["y"], (data["x_validation"], data["y_validation"]))
    methods = Methods(task, epochs=60, test=(data["x_test"], data["y_test"]), warm=options.pop("warm"))
    found = hc.search(
        methods.space, methods, name=name, folder=folder, budget=seconds, workers=1, seed=seed, quiet=True, **options
    )
    every, rows, before = [c for c in found.candidates if not c.error], list[Any](), 0
    for time_s, count in found.history:
        for c in every[before:count]:
            rows.append([time_s, c.values["accuracy"], c.values["test"], c.values["lut"], c.method])
        before = count
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(ROWS), nargs="+", default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    data = TASKS["jets"].load(options.data)
    for seed in options.seeds:
        for name in options.only:
            out = options.folder / f"{name}-{seed}.json"
            if not out.exists() or json.loads(out.read_text())["minutes"] < options.minutes:
                found = ROWS[name](options, data, seed)
                out.write_text(json.dumps({"minutes": options.minutes, "rows": found}))
    for line in table(options.folder, 60 * options.minutes):
        print(line)


ROWS: dict[str, Callable[[Any, Any, int], list[Any]]] = {
    "search": lambda o, data, seed: searched(
        data, o.folder / "runs", f"search-{seed}", 60 * o.minutes, seed, warm=True, halving=3, rungs=1, beyond=2
    ),
    "random": lambda o, data, seed: searched(
        data, o.folder / "runs", f"random-{seed}", 60 * o.minutes, seed, warm=False, sampler="random", first=()
    ),
    "HGQ2": lambda o, data, seed: [
        [r["at_s"], r["validation"], r["test"], r["estimate"], "HGQ2"]
        for r in peer("peers_hgq.py", "jets", o.data, seed, 60 * o.minutes, data, "20", "1e-3", synthesize=False)
    ],
}


def table(folder: Path, seconds: float) -> Iterator[str]:
    """Markdown: hypervolume on the way (mean and spread over the seeds), and what the frontier holds at the end."""
    rows = {name: [json.loads(f.read_text())["rows"] for f in sorted(folder.glob(f"{name}-*.json"))] for name in ROWS}
    rows = {name: own for name, own in rows.items() if own}
    yield "| | seeds | " + " | ".join(f"{s * seconds / 60:g} min" for s in SHARES) + " |"
    yield "|---" * (2 + len(SHARES)) + "|"
    for name, own in rows.items():
        cells = []
        for share in SHARES:
            found = [volume([(r[2], r[3]) for r in best(v, share * seconds)]) for v in own]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found):.3f}")
        yield f"| {name} | {len(own)} | " + " | ".join(cells) + " |"
    yield ""
    yield "| at most LUTs | " + " | ".join(rows) + " |"
    yield "|---" * (1 + len(rows)) + "|"
    for limit in (20_000, 10_000, 5_000, 2_500, 1_200, 600, 300):
        cells = []
        for own in rows.values():
            under = [best([r for r in v if r[3] <= limit], seconds) for v in own]
            tops = [max(v, key=lambda r: r[1]) for v in under if v]
            methods = ", ".join(dict.fromkeys(t[4] for t in tops))
            cells.append(f"{np.mean([t[2] for t in tops]):.4f} ({methods})" if tops else "none")
        yield f"| {limit:,} | " + " | ".join(cells) + " |"


def best(rows: list[Any], until_s: float) -> list[Any]:
    """The frontier on validation events of what was there by then."""
    there = sorted((r for r in rows if r[0] <= until_s), key=lambda r: (r[3], -r[1]))
    found: list[Any] = []
    for r in there:
        if not found or r[1] > found[-1][1]:
            found.append(r)
    return found


if __name__ == "__main__":
    main()
