"""Fits what a weight costs in LUTs (`hwcompile.optimize.cost.LUT`) to the solver: prices.py; two minutes.

Dense layers of many shapes, widths and sparsities, with weights as training leaves them (normal, rounded per element) are
solved; first, bit and extra are those that give the least relative squared error of the adder bits. Prints them with the error.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hwcompile import optimize as opt
from hwcompile.optimize import cost

LAYERS = 120


def layer(rng: np.random.Generator) -> nn.Module:
    """A quantized dense layer with data behind it."""
    inputs, outputs = (int(n) for n in rng.integers(8, 65, 2))
    torch.manual_seed(int(rng.integers(1 << 30)))
    dense, x = nn.Linear(inputs, outputs, bias=False), torch.randn(400, inputs)
    spec = opt.Spec(opt.learned(int(rng.integers(1, 9))), activations=opt.learned(int(rng.integers(2, 10))))
    found = opt.quantize(dense, spec, x)
    with torch.no_grad():  # widths that differ, and weights that are gone
        found.weight_quantizer.fraction += torch.randn(outputs, inputs) * float(rng.uniform(0, 2))
        found.weight_quantizer.fraction[torch.rand(outputs, inputs) < float(rng.uniform(0, 0.9))] = -30
        found.input_quantizer.fraction += torch.randn(inputs) * float(rng.uniform(0, 1.5))
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    rows, solved = [], []
    for _ in range(LAYERS):
        with torch.no_grad():
            found = layer(rng)
            b, c = (t.double().numpy() for t in cost.widths(found))
        lut = cost.solved(found)
        if lut > 50:
            live, some = b > 0, c > 0
            rows.append([float((m * v).sum()) for m in (live, b) for v in (c, some * 1.0)])
            solved.append(lut)
    features, lut = np.array(rows), np.array(solved)
    best = min(
        ((error(features, lut, extra), extra) for extra in np.arange(0, 6.1, 0.25)), key=lambda found: found[0][0]
    )
    (rms, (first, bit)), extra = best
    print(f"first={first:.3f}, bit={bit:.3f}, extra={extra:g}")
    print(f"relative error {rms:.1%} over {len(lut)} layers of {lut.min():.0f} to {lut.max():.0f} LUTs")


def error(features: np.ndarray, lut: np.ndarray, extra: float) -> tuple[float, np.ndarray]:
    """(RMS relative error, best first and bit) at a given `extra`."""
    columns = (
        np.stack([features[:, 0] + extra * features[:, 1], features[:, 2] + extra * features[:, 3]], 1) / lut[:, None]
    )
    found = np.linalg.lstsq(columns, np.ones(len(lut)), rcond=None)[0]
    return float(np.sqrt(np.mean((columns @ found - 1) ** 2))), found


if __name__ == "__main__":
    main()
