"""The search against random search and against an HGQ2 sweep at equal time: search.py DATA.npz FOLDER [MINUTES] [SEED ...].

Each on one core: `hc.search` over all methods (NSGA-II, halving, warm starts), the same space drawn at random with every network
trained in full from its float base, and HGQ2's rising beta costed by alkaid (in .venv-peers). Networks are chosen on validation
events; accuracies on others are the test. The hypervolume is that of accuracy from 0.65 to 0.75 and of LUTs from 100 to
40,000 on a logarithmic scale, as a share of this box. Called again with more minutes, both searches go on where they stopped.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier import peer
from jets import jets

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
    path, folder = sys.argv[1], Path(sys.argv[2])
    seconds = 60 * float(sys.argv[3]) if len(sys.argv) > 3 else 3600.0
    seeds = [int(s) for s in sys.argv[4:]] or [0, 1, 2]
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data, out = jets(path), folder / "search.json"
    kept = json.loads(out.read_text()) if out.exists() else {"minutes": {}, "rows": {}}
    rows, minutes = kept["rows"], kept["minutes"]
    for seed in seeds:
        for name, run in {
            "search": lambda s=seed: searched(
                data, folder / "runs", f"nsga2-{s}", seconds, s, warm=True, halving=3, rungs=1, beyond=2
            ),
            "random": lambda s=seed: searched(
                data, folder / "runs", f"random-{s}", seconds, s, warm=False, sampler="random", first=()
            ),
            "HGQ2": lambda s=seed: [
                [r["at_s"], r["validation"], r["test"], r["estimate"], "HGQ2"]
                for r in peer("peers_hgq.py", path, s, seconds, data, "20")
            ],
        }.items():
            key = f"{name} {seed}"
            if minutes.get(key, 0) < seconds / 60:
                rows[key], minutes[key] = run(), seconds / 60
                out.write_text(json.dumps({"minutes": minutes, "rows": rows}))
                print(table(rows, seconds), flush=True)


def table(rows: dict[str, list[Any]], seconds: float) -> str:
    """Markdown: hypervolume on the way (mean and spread over the seeds), and what the frontier holds at the end."""
    lines = ["| | " + " | ".join(f"at {s:.0%}" for s in SHARES) + " |", "|---" * (1 + len(SHARES)) + "|"]
    names = dict.fromkeys(k.split()[0] for k in rows)
    for name in names:
        own = [v for k, v in rows.items() if k.split()[0] == name]
        cells = []
        for share in SHARES:
            found = [volume([(r[2], r[3]) for r in best(v, share * seconds)]) for v in own]
            cells.append(f"{np.mean(found):.4f} +- {np.std(found):.4f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| at most LUTs | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for limit in (20_000, 10_000, 5_000, 2_500, 1_200, 600, 300):
        cells = []
        for name in names:
            own = [best([r for r in v if r[3] <= limit], math.inf) for k, v in rows.items() if k.split()[0] == name]
            tops = [max(v, key=lambda r: r[1]) for v in own if v]
            cells.append(
                f"{np.mean([t[2] for t in tops]):.4f} ({', '.join(dict.fromkeys(t[4] for t in tops))})" if tops else ""
            )
        lines.append(f"| {limit:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
