"""Every method of `hwcompile.optimize` at equal CPU time: methods.py jets|pixels DATA.npz OUT.json [CPU_SECONDS] [SEED ...].

jets: X [events, 16] and y (16-64-32-32-5). pixels: yprofile [events, 13], y0, label (14-58-3, the filter of arXiv:2310.02474).
Each method spends its time on several networks, formulas or forests, small to large. Accuracies are those of the compiled
engine, LUTs the cost model's and, for the first seed, Yosys'. Rows that OUT.json has are not made again.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier import measured, network
from tasks import BATCH, TASKS
from torch import nn

from hwcompile import optimize as opt

LEARNED = opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, range="learned"))
BUDGETS = {"jets": (16_000, 8_000, 4_000, 2_000, 1_000), "pixels": (1_600, 800, 400, 200, 100)}
BITS = (8, 6, 4, 3)
AMOUNTS = (0.5, 0.75, 0.9)

Made = Iterator[tuple[str, Any]]
"""Pairs (label, what `hc.compile` takes)."""


@dataclass(frozen=True)
class Setting:
    """A method's run: `n` is the length that is set so that the whole takes the time given."""

    kind: str
    seed: int
    task: opt.Task
    n: int

    def apply(self, module: nn.Module, *passes: Any) -> nn.Module:
        return opt.Pipeline(passes).run(module, self.task, self.seed).module

    def train(self, share: float, **options: Any) -> opt.Train:
        return opt.Train(max(round(self.n * share), 2), BATCH, **options)

    def float_network(self) -> nn.Module:
        return self.apply(network(self.kind, self.seed), self.train(1, lr=5e-3))


def falling_budget(s: Setting) -> Made:
    """One network that goes down through the budgets, taught by the float network all the way."""
    work = opt.Work(s.float_network(), s.task, s.seed)
    for step in (opt.Distill(), opt.Quantize(LEARNED)):
        step.apply(work)
    for work.index, budget in enumerate(BUDGETS[s.kind], 1):
        work.progress = None
        s.train(1, lr_bits=0.02, budget=budget, strict=False).apply(work)
        yield f"{budget:,} LUTs", copy.deepcopy(work.module)


def uniform(s: Setting) -> Made:
    module = s.float_network()
    for bits in BITS:
        yield f"{bits} bits", s.apply(module, opt.Quantize(opt.Spec.uniform(bits, max(bits, 6))), s.train(1))


def _smaller(s: Setting, make: Callable[[float], list[Any]]) -> Made:
    """From one float network: made smaller and trained, quantized and trained again."""
    module = s.float_network()
    for amount in AMOUNTS:
        yield f"{amount:.0%}", s.apply(module, *make(amount), opt.Quantize(opt.Spec.uniform(6)), s.train(0.5))


def gradual(s: Setting) -> Made:
    return _smaller(s, lambda a: [s.train(0.5, during=(opt.Gradual(opt.Prune(a), end=0.6),))])


def autosparse(s: Setting) -> Made:
    return _smaller(s, lambda a: [opt.TrainMasks("autosparse", a, s.train(0.5))])


def shrunk(s: Setting) -> Made:
    return _smaller(s, lambda a: [opt.Shrink(1 - (1 - a) ** 0.5), s.train(0.5)])


def low_rank(s: Setting) -> Made:
    return _smaller(s, lambda a: [opt.LowRank(energy=1 - a / 4), s.train(0.5)])


def post_training(s: Setting) -> Made:
    module = s.float_network()
    for budget in BUDGETS[s.kind][:3]:
        yield (
            f"{budget:,} LUTs",
            s.apply(module, opt.PostTraining(6, 8, budget=budget, strict=False, events=2048, steps=100)),
        )


def trees(s: Setting) -> Made:
    for depth, rounds in ((2, 2), (2, 5), (3, 3), (3, 5), (3, 15), (4, 15), (4, 40)):
        row = opt.fit_trees(s.task, opt.Trees(depth=depth, rounds=rounds, bits=6, leaf_bits=6), seed=s.seed)
        yield f"depth {depth}, {rounds} rounds", row.model


def formulas(s: Setting) -> Made:
    found = opt.regress(s.task, opt.Symbolic(generations=s.n), s.float_network(), s.seed)
    for row in found.rows:
        yield row.method, row.model


METHODS: dict[str, Callable[[Setting], Made]] = {
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


def timed(make: Callable[[Setting], Made], setting: Setting, cpu_s: float) -> tuple[list[tuple[str, Any]], float, int]:
    """The method's models, at the length with which it takes the time, what it took, and the length: tried until it does."""
    for _ in range(4):
        started = time.process_time()
        found = list(make(setting))
        spent = time.process_time() - started
        if make is trees or abs(math.log(spent / cpu_s)) < 0.15:
            break
        setting = replace(setting, n=max(round(setting.n * min(cpu_s / spent, 8)), 4))
    return found, spent, setting.n


def main() -> None:
    kind, path, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    cpu_s, seeds = float(sys.argv[4]) if len(sys.argv) > 4 else 30.0, [int(s) for s in sys.argv[5:]] or [0, 1, 2]
    torch.set_num_threads(1)
    data, rows = TASKS[kind].load(path), json.loads(out.read_text()) if out.exists() else []
    task = opt.Task(data["x"], data["y"], (data["x_validation"], data["y_validation"]))
    for seed in seeds:
        for method, make in METHODS.items():
            if any(r["seed"] == seed and r["method"] == method for r in rows):
                continue
            known = next((r["length"] for r in rows if r["method"] == method), 20)
            models, spent, length = timed(make, Setting(kind, seed, task, known), cpu_s)
            found = [
                {**measured(m, data, method, seed, spent), "label": label, "length": length} for label, m in models
            ]
            rows += found
            out.write_text(json.dumps(rows, indent=1))
            for row in found:
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    print(table(rows))


LIMITS = (4_000, 2_000, 1_000, 500)


def named_alike(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One method's rows with labels that all seeds have: its own, or the best up to some numbers of LUTs."""
    seeds = {r["seed"] for r in rows}
    labels = {r["label"]: {q["seed"] for q in rows if q["label"] == r["label"]} for r in rows}
    if all(found == seeds for found in labels.values()) and len(labels) < 10:
        return rows
    best: list[dict[str, Any]] = []
    for limit in LIMITS:
        for seed in seeds:
            own = [r for r in rows if r["seed"] == seed and r["estimate"] <= limit]
            if own:
                best.append({**max(own, key=lambda r: r["validation"]), "label": f"best up to {limit:,} LUTs"})
    return best


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each method's networks, mean over the seeds of those with the same label."""
    lines = [
        "| method | | accuracy, validation | accuracy, test | LUTs, estimate | LUTs, Yosys |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        own = named_alike([r for r in rows if r["method"] == method])
        spent = np.mean([r["cpu_s"] for r in own]) if own else 0.0
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
