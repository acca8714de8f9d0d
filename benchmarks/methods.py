"""Every method of `hwcompile.optimize` at equal CPU time: methods.py jets|pixels DATA.npz OUT.json [CPU_SECONDS] [SEED ...].

jets: X [events, 16] and y (16-64-32-32-5). pixels: yprofile [events, 13], y0, label (14-58-3, the filter of arXiv:2310.02474).
Each method spends its time on several networks, formulas or forests, small to large. Accuracies are those of the compiled
engine, LUTs the cost model's and, for the first seed, Yosys'. Rows that OUT.json has are not made again.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier import measured
from jets import jets
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt

BATCH = 1024
LEARNED = opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, range="learned"))
SIZES = {"jets": (16, 64, 32, 32, 5), "pixels": (14, 58, 3)}
BUDGETS = {"jets": (16_000, 8_000, 4_000, 2_000, 1_000), "pixels": (1_600, 800, 400, 200, 100)}
BITS = (8, 6, 4, 3)
AMOUNTS = (0.5, 0.75, 0.9)

Made = Iterator[tuple[str, Any]]
"""Pairs (label, what `hc.compile` takes)."""


def pixels(path: str) -> dict[str, np.ndarray]:
    """The filter's inputs, y-profile sums / 64 up to 63 and y0 in mm, standardised, in the parts of `jets`."""
    with np.load(path) as file:
        x = np.c_[np.minimum(file["yprofile"] // 64, 63), file["y0"]].astype(np.float32)
        y = file["label"].astype(np.int64)
    kept = (len(x) * 5 // 8, len(x) * 13 // 16)
    x = (x - x[: kept[0]].mean(0)) / (x[: kept[0]].std(0) + 1e-6)
    parts = {"": slice(0, kept[0]), "_validation": slice(*kept), "_test": slice(kept[1], None)}
    return {f"{name}{part}": values[s] for part, s in parts.items() for name, values in (("x", x), ("y", y))}


class Clock:
    """CPU seconds since it was made, and how many epochs of a kind fit into some."""

    def __init__(self, kind: str, seed: int, task: opt.Task, cpu_s: float) -> None:
        self.kind, self.seed, self.task, self.cpu_s = kind, seed, task, cpu_s
        self.started = time.process_time()
        self.known: dict[object, tuple[float, float]] = {}

    def network(self) -> nn.Module:
        torch.manual_seed(self.seed)
        parts = [m for a, b in pairwise(SIZES[self.kind]) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*parts[:-1])

    def apply(self, module: nn.Module, *passes: Any, after: int = 0) -> nn.Module:
        """The module after the passes; `after` tells the runs of one method apart."""
        return opt.Pipeline(passes).run(module, self.task, self.seed + 1000 * after).module

    def epochs(self, share: float, run: Callable[[int], object], kind: object) -> int:
        """How many fit into that share of the time, from what `run` of two lengths takes, tried once for each kind."""
        if kind not in self.known:
            run(2)  # compiles what there is to compile
            spent = []
            for epochs in (10, 30):  # from 10 epochs on the solver is asked ten times, whatever the length
                started = time.process_time()
                run(epochs)
                spent.append(time.process_time() - started)
            each = max((spent[1] - spent[0]) / 20, 1e-3)
            self.known[kind] = each, max(spent[0] - 10 * each, 0.0)
        each, start = self.known[kind]
        return max(int((self.cpu_s * share - start) / each), 2)

    def train(self, module: nn.Module, share: float, make: Callable[[int], list[Any]], after: int = 0) -> nn.Module:
        """The module after `make(epochs)` with as many epochs as take `share` of the time."""
        epochs = self.epochs(share, lambda n: self.apply(module, *make(n)), make.__code__)
        return self.apply(module, *make(epochs), after=after)

    def float_network(self, share: float) -> nn.Module:
        return self.train(self.network(), share, lambda n: [opt.Train(n, BATCH, 5e-3)])


def falling_budget(c: Clock) -> Made:
    """One network that goes down through the budgets, taught by the float network all the way."""
    module, share = c.float_network(0.2), 0.8 / len(BUDGETS[c.kind])
    work = opt.Work(module, c.task, c.seed)
    for step in (opt.Distill(), opt.Quantize(LEARNED)):
        step.apply(work)
    trial = lambda n: c.apply(work.module, opt.Train(n, BATCH, lr_bits=0.02, beta=1e-9))  # noqa: E731
    epochs = c.epochs(share, trial, "budget")
    for work.index, budget in enumerate(BUDGETS[c.kind], 1):
        work.progress = None
        try:
            opt.Train(epochs, BATCH, lr_bits=0.02, budget=budget).apply(work)
        except hc.CompileError:
            return  # too short for this budget
        yield f"{budget:,} LUTs", copy.deepcopy(work.module)


def uniform(c: Clock) -> Made:
    module = c.float_network(0.3)
    for k, bits in enumerate(BITS):
        spec = opt.Spec.uniform(bits, max(bits, 6))
        yield (
            f"{bits} bits",
            c.train(module, 0.7 / len(BITS), lambda n, s=spec: [opt.Quantize(s), opt.Train(n, BATCH)], k),
        )


def _pruned(c: Clock, make: Callable[[float, int], list[Any]], spec: opt.Spec | None = None) -> Made:
    """From one float network: pruned with half of the rest, quantized, trained with the other half."""
    module, spec = c.float_network(0.3), spec or opt.Spec.uniform(6)
    for k, amount in enumerate(AMOUNTS):
        share = 0.35 / len(AMOUNTS)
        smaller = c.train(module, share, lambda n, a=amount: make(a, n), k)
        yield (
            f"{amount:.0%} pruned",
            c.train(smaller, share, lambda n: [opt.Quantize(spec), opt.Train(n, BATCH)], k),
        )


def gradual(c: Clock) -> Made:
    return _pruned(c, lambda a, n: [opt.Train(n, BATCH, during=(opt.Gradual(opt.Prune(a), end=0.6),))])


def autosparse(c: Clock) -> Made:
    return _pruned(c, lambda a, n: [opt.TrainMasks("autosparse", a, opt.Train(n, BATCH))])


def shrunk(c: Clock) -> Made:
    return _pruned(c, lambda a, n: [opt.Shrink(1 - (1 - a) ** 0.5), opt.Train(n, BATCH)])


def low_rank(c: Clock) -> Made:
    return _pruned(c, lambda a, n: [opt.LowRank(energy=1 - a / 4), opt.Train(n, BATCH)])


def post_training(c: Clock) -> Made:
    module = c.float_network(0.7)
    for budget in BUDGETS[c.kind]:
        try:
            yield f"{budget:,} LUTs", c.apply(module, opt.PostTraining(6, 8, budget=budget, events=2048, steps=300))
        except hc.CompileError:
            return  # below what the least bits cost


def trees(c: Clock) -> Made:
    for depth, rounds in ((2, 2), (2, 5), (3, 5), (3, 15), (4, 15), (4, 40)):
        if time.process_time() - c.started < c.cpu_s:
            row = opt.fit_trees(c.task, opt.Trees(depth=depth, rounds=rounds), seed=c.seed)
            yield f"depth {depth}, {rounds} rounds", row.model


def formulas(c: Clock) -> Made:
    teacher = c.float_network(0.3)
    found = opt.regress(c.task, opt.Symbolic(generations=max(int(c.cpu_s / 2), 5)), teacher, c.seed)
    for row in found.rows:
        yield row.method, row.model


METHODS: dict[str, Callable[[Clock], Made]] = {
    "learned widths, falling budget, distilled": falling_budget,
    "uniform widths": uniform,
    "gradual pruning, 6 bits": gradual,
    "AutoSparse, 6 bits": autosparse,
    "shrunk, 6 bits": shrunk,
    "low rank, 6 bits": low_rank,
    "post-training quantization": post_training,
    "trees": trees,
    "formulas": formulas,
}


def main() -> None:
    kind, path, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    cpu_s, seeds = float(sys.argv[4]) if len(sys.argv) > 4 else 30.0, [int(s) for s in sys.argv[5:]] or [0, 1, 2]
    torch.set_num_threads(1)
    data, rows = {"jets": jets, "pixels": pixels}[kind](path), json.loads(out.read_text()) if out.exists() else []
    task = opt.Task(data["x"], data["y"], (data["x_validation"], data["y_validation"]))
    for seed in seeds:
        for method, make in METHODS.items():
            if any(r["seed"] == seed and r["method"] == method for r in rows):
                continue
            clock, last, found = Clock(kind, seed, task, cpu_s), time.process_time(), list[dict[str, Any]]()
            for label, model in make(clock):
                spent = time.process_time() - last
                found.append({**measured(model, data, method, seed, spent), "label": label})
                last = time.process_time()
            rows += found
            out.write_text(json.dumps(rows, indent=1))
            for row in found:
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each method's networks, mean over the seeds of those with the same label."""
    lines = [
        "| method | | accuracy, validation | accuracy, test | LUTs, estimate | LUTs, Yosys |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        own = [r for r in rows if r["method"] == method]
        spent = sum(r["cpu_s"] for r in own) / max(len({r["seed"] for r in own}), 1)
        same = {r["label"]: [q for q in own if q["label"] == r["label"]] for r in own}
        means = {
            k: {n: np.mean([r[n] for r in v]) for n in ("validation", "test", "estimate")} for k, v in same.items()
        }
        for label in sorted(means, key=lambda k: -means[k]["estimate"]):
            m, yosys = means[label], [r["synthesis"] for r in same[label] if "synthesis" in r]
            lines.append(
                f"| {method} ({spent:.0f} s) | {label} | {m['validation']:.4f} | {m['test']:.4f} | {m['estimate']:,.0f} "
                f"| {f'{yosys[0]:,.0f}' if yosys else ''} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
