"""Train a jet tagger for a budget of LUTs, compile it and prove the hardware equal: python examples/train_jet_tagger.py [LUTS]."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hwcompile as hc
from hwcompile import optimize as opt

BUDGET = float(sys.argv[1]) if len(sys.argv) > 1 else 3000

data = np.load(Path(__file__).with_name("jet_tagger.npz"))  # 4,000 jets: enough to see it work, not to be good
task = opt.Task(data["x"], data["label"])

torch.manual_seed(0)
tagger = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))

line = opt.Pipeline(
    [
        opt.Train(60, batch=256, lr=3e-3),
        opt.Distill(),
        opt.Quantize(opt.Spec(activations=opt.learned(6, range="learned"))),
        opt.Train(200, batch=256, lr_bits=0.02, budget=BUDGET),
    ]
)
result = line.run(tagger, task, seed=0)
print(result)

design = hc.compile(result.module, example_inputs=task.x, target="vu9p")
design.verify(task.x.numpy())
print(design.report)
