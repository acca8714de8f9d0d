"""A jet tagger of formulas, found by symbolic regression from a network, and compiled: python examples/formula_tagger.py
[GENERATIONS] [DATA.npz].

Without data the 4,000 jets beside this file; DATA has arrays x and label.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt


def main(generations: str = "30", path: str = str(Path(__file__).with_name("jet_tagger.npz"))) -> None:
    with np.load(path) as data:
        x, y = data["x"].astype(np.float32), data["label"].astype(np.int64)
    kept = len(x) * 8 // 10
    task = opt.Task(x[:kept], y[:kept], (x[kept:], y[kept:]))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    teacher = opt.Pipeline([opt.Train(60, batch=256)]).run(network, task).module
    print(f"network in floats: accuracy {task.evaluate(teacher):.4f}")

    found = opt.regress(task, opt.Symbolic(generations=int(generations), bits=10), teacher)
    print(*found.rows, sep="\n")
    best = max(found.rows, key=lambda row: row.score)
    print(*(f"class {k}: {c.text}" for k, c in enumerate(found.chosen)), sep="\n")
    design = hc.compile(best.model, target="vu9p")
    print(design.verify(x[kept:]))
    design.synthesize()
    print(design.report)
    accuracy = (np.asarray(design.predict(x[kept:])).argmax(1) == y[kept:]).mean()
    print(f"accuracy of the hardware: {accuracy:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
