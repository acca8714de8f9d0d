"""What post-training quantization keeps of a float jet tagger, at several widths: plain, and with each of its steps.

python benchmarks/post_training.py jets.npz            # X [events, 16] and y; some minutes
"""

from __future__ import annotations

import time

import click
import torch
from frontier import network
from tasks import BATCH, TASKS

from hwcompile.optimize import Pipeline, Task, Train
from hwcompile.optimize.post_training import PostTraining

BITS = (4, 6, 8)
STEPS = {
    "nearest, min-max": {"ranges": "minmax", "rounding": "nearest", "bias_correction": False},
    "nearest, mse": {"rounding": "nearest", "bias_correction": False},
    "+ bias correction": {"rounding": "nearest"},
    "+ adaptive rounding": {},
}
BUDGETS = (20_000, 10_000, 5_000)


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True))
@click.option("--epochs", default=30)
@click.option("--seed", default=0)
@click.option("--engine", default="auto")
def main(data: str, epochs: int, seed: int, engine: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = TASKS["jets"].load(data)
    task = Task(d["x"], d["y"], validation=(d["x_validation"], d["y_validation"]))
    test = torch.as_tensor(d["x_test"]), torch.as_tensor(d["y_test"])
    trained = Pipeline([Train(epochs, BATCH, engine=engine)]).run(network("jets", seed), task, seed).module
    print(f"float: {task.evaluate(trained, *test):.4f} of {len(test[1])} test events", flush=True)
    rows = [(f"{bits} bits, {name}", PostTraining(bits, **step)) for bits in BITS for name, step in STEPS.items()]
    rows += [(f"8 bits, at most {b} LUT", PostTraining(8, budget=b)) for b in BUDGETS]
    for name, step in rows:
        started = time.perf_counter()
        result = Pipeline([step]).run(trained, task, seed)
        lut = result.records[-1].measures["lut"]
        spent = time.perf_counter() - started
        print(f"| {name} | {task.evaluate(result.module, *test):.4f} | {lut:.0f} | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main()
