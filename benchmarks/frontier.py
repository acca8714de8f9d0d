"""Accuracy against LUTs on the jets, ours and the peers' at equal CPU time: frontier.py DATA.npz [CPU_SECONDS] [SEEDS] [OUT.json].

Ours: one pipeline that trains a float network, then lowers the budget step by step. HGQ2 with alkaid and Brevitas run in
.venv-peers. Costs: adder bits by each tool's own solver, and every network through hwcompile's RTL writer and Yosys. Accuracy on
30,000 validation events, by which networks are chosen, and on 30,000 others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jets import LAYERS, jets
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt

BUDGETS = (20_000, 12_000, 7_000, 4_000, 2_500, 1_500, 1_000)
EPOCH_S = 0.045
"""CPU seconds of an epoch, the solver's share included: it sets how many fit; what was used is measured."""

HERE = Path(__file__).parent


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    parts = [m for a, b in zip(LAYERS, LAYERS[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def ours(data: dict[str, np.ndarray], seed: int, cpu_s: float, epoch_s: float = EPOCH_S) -> list[dict[str, Any]]:
    """A network for each budget, with the CPU time until it was there."""
    task = opt.Task(data["x"], data["y"], (data["x_validation"], data["y_validation"]))
    epochs = max(int(cpu_s / epoch_s), 20)
    each = max(epochs // (len(BUDGETS) + 1), 2)
    spec = opt.Spec(opt.learned(6), opt.learned(6), opt.learned(6, range="learned"))
    module, found = network(seed), list[dict[str, Any]]()
    started = time.process_time()
    stages: list[list[Any]] = [[opt.Train(each, lr=5e-3, engine="native"), opt.Distill(), opt.Quantize(spec)]]
    stages += [[opt.Train(each, lr=3e-3, lr_bits=0.02, budget=b, engine="native")] for b in BUDGETS]
    work = opt.Work(module, task, seed)
    for stage in stages:
        for step in stage:
            step.apply(work)
            work.index, work.progress = work.index + 1, None
        if len(stage) == 1:
            found.append(measured(work.module, data, "hwcompile", seed, time.process_time() - started))
            started += time.process_time() - started - found[-1]["cpu_s"]
    return found


def measured(module: Any, data: dict[str, np.ndarray], method: str, seed: int, cpu_s: float) -> dict[str, Any]:
    """A row of the table: accuracies of the compiled engine, adder bits, estimate and synthesis."""
    design = hc.compile(module, example_inputs=data["x"][:100], backends=("rtl", "cpu")) if isinstance(module, nn.Module) else hc.compile(module, backends=("rtl", "cpu"))  # fmt: skip
    row: dict[str, Any] = {"method": method, "seed": seed, "cpu_s": cpu_s}
    for part in ("validation", "test"):
        outputs = design.predict(data[f"x_{part}"])
        row[part] = float((np.asarray(outputs).argmax(1) == data[f"y_{part}"]).mean())
    if isinstance(module, nn.Module):
        row["solver"] = opt.measures(module, opt.Task(data["x"][:10], data["y"][:10]))["lut"]
    row["estimate"] = float(sum(layer.estimate.lut for layer in design.report.layers))
    design.synthesize()
    row["synthesis"] = float(design.report.synthesis.lut) if design.report.synthesis else float("nan")
    return row


def peer(script: str, path: str, seed: int, cpu_s: float, data: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A peer's networks, read back and compiled here; the time is the peer's training alone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(HERE.parent / ".venv-peers/bin/python"), str(HERE / script), path, str(seed), str(cpu_s), folder]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, check=False)
        if done.returncode:
            sys.exit(f"{script}: {done.stderr[-2000:]}")
        rows = []
        for told in json.loads(done.stdout.strip().splitlines()[-1]):
            row = measured(told["file"], data, told["method"], seed, told["cpu_s"])
            rows.append({**row, **{k: told[k] for k in ("alkaid", "ebops") if k in told}})
        return rows


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def main() -> None:
    path, cpu_s = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    seeds, out = (
        int(sys.argv[3]) if len(sys.argv) > 3 else 3,
        Path(sys.argv[4] if len(sys.argv) > 4 else "frontier.json"),
    )
    torch.set_num_threads(1)
    data, rows = jets(path), list[dict[str, Any]]()
    for seed in range(seeds):
        for run in (
            lambda s=seed: ours(data, s, cpu_s),
            lambda s=seed: peer("peers_hgq.py", path, s, cpu_s, data),
            lambda s=seed: peer("peers_brevitas.py", path, s, cpu_s, data),
        ):
            rows += run()
            out.write_text(json.dumps(rows, indent=1))
            for row in rows[-12:]:
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
