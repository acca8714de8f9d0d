"""Milliseconds of a training step: the generated one with learned widths against torch's float one; training_step.py [DIMS].

One thread, alternating, medians of many repeats. The generated step learns a width for every weight, bias and activation and
has the resource term in its loss; torch's has neither. DIMS: 16-64-32-32-5 unless given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from hwcompile.optimize.native import Dense, Program, Quantization, Schedule, build

EVENTS = 20_000
BATCHES = (128, 1024)
REPEATS, STEPS = 15, 100


def generated(dims: list[int], learned: bool, data: tuple[np.ndarray, np.ndarray], batch: int) -> Callable[[], None]:
    """STEPS steps of ours; float where no widths are learned."""

    def widths(*shape: int) -> Quantization | None:
        return Quantization("free", shape) if learned else None

    layers = tuple(
        Dense(a, b, widths(a), widths(b, a), widths(b), relu=k < len(dims) - 2)
        for k, (a, b) in enumerate(pairwise(dims))
    )
    step = build(Program(layers))
    rng = np.random.default_rng(1)
    for name, values in step.parameters.items():
        if name.endswith("weight"):
            values[...] = rng.normal(size=values.shape) / np.sqrt(values.shape[1])
        elif name.endswith("fraction"):
            values[...] = 6
    order = rng.integers(0, EVENTS, STEPS * batch)
    schedule = Schedule.constant(STEPS, 1e-3, 1e-3, 1e-7)
    return lambda: _finite(step.run(*data, order, batch, schedule).finite)


def in_torch(dims: list[int], fused: bool, data: tuple[np.ndarray, np.ndarray], batch: int) -> Callable[[], None]:
    """STEPS steps of torch in float32."""
    torch.manual_seed(1)
    parts = [m for a, b in pairwise(dims) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    net = torch.nn.Sequential(*parts[:-1])
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, **({"fused": True} if fused else {"foreach": True}))
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    order = torch.randint(0, EVENTS, (STEPS, batch))

    def run() -> None:
        for rows in order:
            loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        _finite(bool(torch.isfinite(loss)))

    return run


def _finite(ok: bool) -> None:
    if not ok:
        raise SystemExit("the loss is not finite: nothing was measured")


def main() -> None:
    torch.set_num_threads(1)
    dims = [int(n) for n in (sys.argv[1] if len(sys.argv) > 1 else "16-64-32-32-5").split("-")]
    rng = np.random.default_rng(0)
    data = rng.normal(size=(EVENTS, dims[0])).astype(np.float32), rng.integers(0, dims[-1], EVENTS)
    print(f"{'-'.join(map(str, dims))}, ms per step: median (lowest) of {REPEATS} repeats of {STEPS} steps, one thread")
    for batch in BATCHES:
        runs = {
            "generated, learned widths and resources": generated(dims, True, data, batch),
            "generated, float": generated(dims, False, data, batch),
            "torch float, Adam foreach": in_torch(dims, False, data, batch),
            "torch float, Adam fused": in_torch(dims, True, data, batch),
        }
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(REPEATS + 1):
            for name, run in runs.items():
                started = time.process_time()
                run()
                if repeat:  # the first warms up
                    taken[name].append((time.process_time() - started) / STEPS * 1e3)
        for name, each in taken.items():
            print(f"  batch {batch:5d}  {name:42s} {np.median(each):7.3f} ({min(each):.3f})")


if __name__ == "__main__":
    main()
