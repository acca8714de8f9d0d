"""Accuracy against LUTs at equal CPU time: frontier.py jets|pixels DATA.npz OUT.json [CPU_SECONDS] [SEED ...].

Ours: one pipeline that trains a float network, then lowers the budget step by step. Beside it HGQ2 with alkaid (in .venv-peers)
and Brevitas. Costs: adder bits by each tool's own solver, and every network through hwcompile's RTL writer and Yosys.
Networks are chosen on validation events; others are the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks import BATCH, TASKS, Parts
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt

EPOCH_S = {"jets": 0.045, "pixels": 0.03}
"""CPU seconds of an epoch, the solver's share included: it sets how many fit; what was used is measured."""

BETA = {"jets": "1e-4", "pixels": "1e-3"}
"""Where HGQ2's factor ends."""

HERE = Path(__file__).parent


def network(task: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    parts = [m for a, b in pairwise(TASKS[task].layers) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def ours(task: str, data: Parts, seed: int, cpu_s: float) -> list[dict[str, Any]]:
    """A network for each budget, with the CPU time until it was there."""
    budgets = TASKS[task].budgets
    events = opt.Task(data["x"], data["y"], (data["x_validation"], data["y_validation"]))
    epochs = max(int(cpu_s / EPOCH_S[task]), 20)
    each = max(epochs // (len(budgets) + 1), 2)
    spec = opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, range="learned"))
    module, found = network(task, seed), list[dict[str, Any]]()
    started = time.process_time()
    stages: list[list[Any]] = [[opt.Train(each, lr=5e-3, engine="native"), opt.Distill(), opt.Quantize(spec)]]
    stages += [[opt.Train(each, lr=3e-3, lr_bits=0.02, budget=b, engine="native")] for b in budgets]
    work = opt.Work(module, events, seed)
    for stage in stages:
        for step in stage:
            step.apply(work)
            work.index, work.progress = work.index + 1, None
        if len(stage) == 1:
            found.append(measured(work.module, data, "hwcompile", seed, time.process_time() - started))
            started += time.process_time() - started - found[-1]["cpu_s"]
    return found


def measured(module: Any, data: Parts, method: str, seed: int, cpu_s: float, synthesize: bool = True) -> dict[str, Any]:
    """A row of the table: accuracies of the compiled engine, adder bits, estimate and synthesis."""
    options = {"example_inputs": data["x"][:100]} if isinstance(module, nn.Module) else {}
    design = hc.compile(module, backends=("rtl", "cpu"), **options)
    row: dict[str, Any] = {"method": method, "seed": seed, "cpu_s": cpu_s}
    for part in ("validation", "test"):
        outputs = design.predict(data[f"x_{part}"])
        row[part] = float((np.asarray(outputs).argmax(1) == data[f"y_{part}"]).mean())
    if method == "hwcompile":
        row["solver"] = opt.measures(module, opt.Task(data["x"][:10], data["y"][:10]))["lut"]
    row["estimate"] = float(sum(layer.estimate.lut for layer in design.report.layers))
    # more takes minutes, and the estimate is within a few percent of it
    if synthesize and seed == 0 and row["estimate"] < 30_000:
        design.synthesize()
        row["synthesis"] = float(design.report.synthesis.lut) if design.report.synthesis else float("nan")
    return row


def uniform(task: str, data: Parts, seed: int, cpu_s: float) -> list[dict[str, Any]]:
    """Brevitas at 8, 6, 4 and 3 bits with power-of-two scales, a quarter of the time for each."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerTensorFixedPoint, Int16Bias, Uint8ActPerTensorFixedPoint
    from brevitas.quant.fixed_point import Int8ActPerTensorFixedPoint

    layers = TASKS[task].layers
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    rows = []
    for bits in (8, 6, 4, 3):
        torch.manual_seed(seed)
        parts: list[nn.Module] = [
            qnn.QuantIdentity(Int8ActPerTensorFixedPoint, bit_width=max(bits, 6), return_quant_tensor=True)
        ]
        for k, (a, b) in enumerate(pairwise(layers)):
            parts.append(
                qnn.QuantLinear(
                    a,
                    b,
                    True,
                    Int8WeightPerTensorFixedPoint,
                    Int16Bias,
                    weight_bit_width=bits,
                    return_quant_tensor=True,
                )
            )
            if k < len(layers) - 2:
                parts.append(qnn.QuantReLU(Uint8ActPerTensorFixedPoint, bit_width=bits, return_quant_tensor=True))
        net = nn.Sequential(*parts)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        started = time.process_time()
        while (share := (time.process_time() - started) / (cpu_s / 4)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * 0.5 * (1 + np.cos(np.pi * share))
            for rows_of in torch.randperm(len(x)).split(BATCH):
                loss = nn.functional.cross_entropy(net(x[rows_of]).value, y[rows_of])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        rows.append(measured(net.eval(), data, f"Brevitas, {bits} bits", seed, cpu_s))
    return rows


def peer(
    script: str, task: str, path: str, seed: int, cpu_s: float, data: Parts, *options: str, synthesize: bool = True
) -> list[dict[str, Any]]:
    """A peer's networks, read back and compiled here; the time is the peer's training alone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(HERE.parent / ".venv-peers/bin/python"),
            str(HERE / script),
            task,
            path,
            str(seed),
            str(cpu_s),
            folder,
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, check=False)
        if done.returncode:
            sys.exit(f"{script}: {done.stderr[-2000:]}")
        rows = []
        for told in json.loads(done.stdout.strip().splitlines()[-1]):
            row = measured(told["file"], data, told["method"], seed, told["cpu_s"], synthesize)
            rows.append({**row, **{k: told[k] for k in ("alkaid", "ebops", "at_s") if k in told}})
        return rows


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def main() -> None:
    task, path, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    cpu_s, seeds = float(sys.argv[4]) if len(sys.argv) > 4 else 60.0, [int(s) for s in sys.argv[5:]] or [0, 1, 2]
    torch.set_num_threads(1)
    data, rows = TASKS[task].load(path), json.loads(out.read_text()) if out.exists() else list[dict[str, Any]]()
    for seed in seeds:
        for method, run in (
            ("hwcompile", lambda s=seed: ours(task, data, s, cpu_s)),
            ("HGQ2", lambda s=seed: peer("peers_hgq.py", task, path, s, cpu_s, data, "7", BETA[task])),
            ("Brevitas", lambda s=seed: uniform(task, data, s, cpu_s)),
        ):
            if any(r["seed"] == seed and r["method"].startswith(method) for r in rows):
                continue  # of an earlier run
            rows += (found := run())
            out.write_text(json.dumps(rows, indent=1))
            for row in found:
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each method's networks by their place in its frontier, mean over the seeds."""
    lines = [
        "| method | CPU s | accuracy, chosen on | accuracy, test | LUTs, solver | LUTs, estimate | LUTs, Yosys (seed 0) |",
        "|---|---|---|---|---|---|---|",
    ]
    places: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for method, seed in dict.fromkeys((r["method"], r["seed"]) for r in rows):
        own = sorted((r for r in rows if (r["method"], r["seed"]) == (method, seed)), key=lambda r: -r["estimate"])
        for place, row in enumerate(own):
            places.setdefault((method, place), []).append(row)
    for (method, _), found in places.items():
        mean = {k: np.mean([r[k] for r in found if k in r]) for k in ("cpu_s", "validation", "test", "estimate")}
        solver = np.mean([r.get("solver", r.get("alkaid", np.nan)) for r in found])
        yosys = next((f"{r['synthesis']:,.0f}" for r in found if "synthesis" in r), "")
        lines.append(
            f"| {method} | {mean['cpu_s']:.0f} | {mean['validation']:.4f} | {mean['test']:.4f} "
            f"| {solver:,.0f} | {mean['estimate']:,.0f} | {yosys} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
