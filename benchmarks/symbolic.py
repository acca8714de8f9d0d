"""Formulas and trees in place of a jet tagger: accuracy and LUTs of each, learned from labels and from a float network.

python benchmarks/symbolic.py jets.npz            # X [events, 16] and y; some minutes
"""

from __future__ import annotations

import time

import click
import torch
from frontier import network
from tasks import BATCH, TASKS

from hwcompile.optimize import Pipeline, Task, Train
from hwcompile.optimize.symbolic import Symbolic, operator_costs, regress
from hwcompile.optimize.trees import Trees, sweep

SWEEP = {"depths": (2, 3, 4), "rounds": (5, 15, 40)}


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True))
@click.option("--epochs", default=20)
@click.option("--generations", default=50)
@click.option("--seed", default=0)
@click.option("--engine", default="auto")
@click.option("--only", default="symbolic,trees")
def main(data: str, epochs: int, generations: int, seed: int, engine: str, only: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    d = TASKS["jets"].load(data)
    task = Task(d["x"], d["y"], validation=(d["x_test"], d["y_test"]))
    teacher = Pipeline([Train(epochs, BATCH, engine=engine)]).run(network("jets", seed), task, seed).module
    print(f"float network: {task.evaluate(teacher):.4f} of {len(task.validation[1])} events", flush=True)
    if "symbolic" in only:
        for bits in (8, 10):
            costs = {k: f"{lut:.0f}" for k, (lut, _) in operator_costs(bits=bits).items()}
            print(f"LUTs of operators of {bits} bits: {costs}")
        for name, by in (("labels", None), ("teacher", teacher)):
            started = time.perf_counter()
            found = regress(task, Symbolic(generations=generations), by, seed)
            print(f"\nformulas from the {name}, {time.perf_counter() - started:.0f} s, {len(found.refused)} refused")
            print("\n".join(map(str, found.rows)), "\nchosen:", *[c.text for c in found.chosen], sep="\n", flush=True)
    if "trees" in only:
        for name, by, shared in (("labels", None, False), ("labels", None, True), ("teacher", teacher, True)):
            started = time.perf_counter()
            rows = sweep(task, Trees(shared=shared), **SWEEP, teacher=by, seed=seed)
            print(f"\n{'shared ' * shared}trees from the {name}, {time.perf_counter() - started:.0f} s")
            print("\n".join(map(str, rows)), flush=True)


if __name__ == "__main__":
    main()
