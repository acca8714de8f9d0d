"""Pruning methods side by side on a jet tagger: accuracy, weights and LUTs at the same sparsity, as a Markdown table.

    python benchmarks/pruning.py jets.npz            # X [events, 16] and y [events]; three seeds, about a quarter of an hour

Each method starts from the same float network (16-64-32-32-5), prunes, recovers, is quantized (6-bit weights, 8-bit data), and
trains once more; all have as many epochs. LUTs are adder bits by the compiler's solver. Accuracy is that of the quantized
network on the last tenth of the events.
"""

from __future__ import annotations

import copy
import sys
import time

import click
import numpy as np
import torch
from torch import nn

from hwcompile.optimize import Pipeline, Quantize, Spec, Task, Train
from hwcompile.optimize.constrain import Constrain
from hwcompile.optimize.low_rank import LowRank
from hwcompile.optimize.pipeline import Pass
from hwcompile.optimize.pruning import Gradual, Multipliers, NofM, Prune
from hwcompile.optimize.pruning_trained import TrainMasks
from hwcompile.optimize.shrink import Shrink

SPEC = Spec.uniform(6, 8)
EPOCHS, AFTER, BATCH, LR = 8, 2, 1024, 3e-3
"""Epochs of pruning and recovery, and of training after quantization."""


def network(seed: int) -> nn.Module:
    """The tagger of arXiv:1804.06913, without its softmax."""
    torch.manual_seed(seed)
    sizes = (16, 64, 32, 32, 5)
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]  # noqa: RUF007
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]


def task(path: str) -> Task:
    """The data, standardised with the first 100,000 rows."""
    found = np.load(path)
    x, y = found["X"].astype(np.float32), found["y"].astype(np.int64)
    first = x[:100_000]
    return Task((x - first.mean(0)) / (first.std(0) + 1e-9), y)


def methods(amount: float) -> dict[str, list[Pass]]:
    """The passes of each method up to quantization; every one trains as many epochs."""
    train = Train(EPOCHS, BATCH, LR)
    along = Train(EPOCHS, BATCH, LR, during=(Gradual(Prune(amount), end=0.5),))
    found: dict[str, list[Pass]] = {
        "random, at once": [Prune(amount, "random"), train],
        "magnitude, at once": [Prune(amount), train],
        "activation (Wanda), at once": [Prune(amount, "activation", scope="output"), train],
        "taylor, at once": [Prune(amount, "taylor"), train],
        "magnitude, gradual": [along],
        "PDP": [TrainMasks("pdp", amount, train)],
        "DST": [TrainMasks("dst", amount, train)],
        "AutoSparse": [TrainMasks("autosparse", amount, train)],
        "multipliers of reuse 4": [Prune(amount, pattern=Multipliers(4)), train],
        "constrained to as many weights": [Constrain(train, weights=round((1 - amount) * 4256))],
    }
    if amount in (0.5, 0.75):
        found[f"{4 - round(4 * amount)}:4"] = [Prune(pattern=NofM(4 - round(4 * amount), 4)), train]
    # a share s of each layer's neurons leaves about (1 - s)**2 of the weights
    found["shrunk neurons"] = [Shrink(1 - (1 - amount) ** 0.5), train]
    return found


def measured(net: nn.Module, passes: list[Pass], data: Task, seed: int) -> tuple[float, float, float]:
    """(accuracy, weights that are not zero, LUTs) of the quantized network."""
    line = Pipeline([*passes, Quantize(SPEC), Train(AFTER, BATCH, LR / 3)])
    found = line.run(copy.deepcopy(net), data, seed).records[-1].measures
    return found["score"], found["weights"], found["lut"]


@click.command()
@click.argument("path")
@click.option("--amounts", default="0.5,0.75,0.9", help="Sparsities, separated by commas.")
@click.option("--seeds", default=3)
def main(path: str, amounts: str, seeds: int) -> None:
    """Print the table for the data in PATH."""
    torch.set_num_threads(1)
    data, started = task(path), time.perf_counter()
    nets = [Pipeline([Train(20, BATCH, LR)]).run(network(s), data, s).module for s in range(seeds)]
    rows = {
        "dense": [Train(EPOCHS, BATCH, LR)],
        "low rank, energy 0.9": [LowRank(energy=0.9), Train(EPOCHS, BATCH, LR)],
    }
    table = [("0 %", name, passes) for name, passes in rows.items()]
    for amount in map(float, amounts.split(",")):
        table += [(f"{amount:.0%}", name, passes) for name, passes in methods(amount).items()]
    print("| zero | method | accuracy (mean ± spread of the seeds) | weights | LUT |\n|---|---|---|---|---|")
    for share, name, passes in table:
        found = np.array([measured(net, passes, data, s) for s, net in enumerate(nets)])
        score, weights, lut = found.mean(0)
        print(f"| {share} | {name} | {score:.4f} ± {found[:, 0].std():.4f} | {weights:,.0f} | {lut:,.0f} |", flush=True)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
