"""Time of a training step of K networks in one batched program, against one network: on a GPU where torch has one, else the CPU.

    python benchmarks/ensemble.py [16-64-32-32-5] [1,4,16,64]

Learned widths, priced; ms per step of each batch size, the median (and lowest) of the repeats, and the ratio to K = 1. `alone`: one
network by the engine "torch", for comparison. On the CPU one thread.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

from hwcompile import optimize as opt
from hwcompile.optimize.ensemble import Ensemble

BATCHES = (256, 1024, 4096)
STEPS, REPEATS = 20, 5


def networks(dims: list[int], count: int, task: opt.Task) -> list[nn.Module]:
    """Quantized networks, each with weights of its own."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        layers = [m for a, b in zip(dims, dims[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1]  # noqa: RUF007
        found.append(opt.quantize(nn.Sequential(*layers), opt.Spec(), task.sample))
    return found


def together(modules: list[nn.Module], task: opt.Task, batch: int) -> list[float]:
    """Seconds per step of each repeat."""
    ensemble = Ensemble(modules)
    program, works = ensemble.program(task, [opt.Train(1, batch, beta=1e-5)] * len(modules))

    def epoch() -> None:
        program.epoch(0, {})
        if not all(np.isfinite(w.progress.losses[-1]) for w in works):  # reading them waits for the device
            raise SystemExit("the loss is not finite: nothing was measured")

    return repeats(epoch)


def alone(module: nn.Module, task: opt.Task, batch: int) -> list[float]:
    """The same of one network, by the engine for any module."""
    train = opt.Train(1, batch, beta=1e-5, engine="torch")
    from hwcompile.optimize.engines import TorchEngine
    from hwcompile.optimize.pipeline import Work
    from hwcompile.optimize.train import _State

    work = Work(module, task)
    work.progress = _State.fresh(work, train)
    engine = TorchEngine(train, work)
    return repeats(lambda: engine.epoch(work.progress, work))


def repeats(epoch) -> list[float]:
    taken = []
    for repeat in range(REPEATS + 1):
        started = time.perf_counter()
        epoch()
        if repeat:  # the first warms up
            taken.append((time.perf_counter() - started) / STEPS)
    return taken


def main() -> None:
    torch.set_num_threads(1)
    dims = [int(n) for n in (sys.argv[1] if len(sys.argv) > 1 else "16-64-32-32-5").split("-")]
    counts = [int(n) for n in (sys.argv[2] if len(sys.argv) > 2 else "1,4,16,64").split(",")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
    print(f"{'-'.join(map(str, dims))}, {device}: ms per step, median (lowest) of {REPEATS} repeats of {STEPS} steps")
    for batch in BATCHES:
        torch.manual_seed(0)
        x = torch.randn(batch * STEPS, dims[0])
        task = opt.Task(x, torch.randint(dims[-1], (len(x),)), validation=(x[:100], torch.zeros(100).long()))
        modules = networks(dims, max(counts), task)
        first = None
        for name, taken in [("alone", alone(modules[0], task, batch))] + [
            (f"K = {k}", together(modules[:k], task, batch)) for k in counts
        ]:
            middle = float(np.median(taken))
            first = middle if name == "K = 1" else first
            ratio = f"{middle / first:6.2f} of K = 1" if first else ""
            print(f"  batch {batch:5d}  {name:8s} {middle * 1e3:9.3f} ({min(taken) * 1e3:.3f})  {ratio}")


if __name__ == "__main__":
    main()
