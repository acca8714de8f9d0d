"""Processor time of a training step at batch 1024 in ms, ours and the peers': steps.py [mlp|cnn|residual|sets|transformer].

mlp: 16-64-32-32-5. cnn: 13 x 21 pixels, convolutions of 8 and 16 channels, two poolings, dense 32 and 14. Ours alone: residual,
16-64, 64-32-64 added to it, 64-5; sets, 3-32-32-32 for each of 16 constituents, the largest of each output, 32-32-5; and the jet
transformer of `hwcompile.models`. Adam everywhere, one thread, one run. What is quantized is said in each row. HGQ2 on TensorFlow
runs in .venv-peers, the rest here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from frontier import network as dense
from tasks import BATCH, TASKS
from torch import nn

from hwcompile import optimize as opt
from hwcompile.models.jets import JetDeepSets, JetTransformer
from hwcompile.optimize import native
from hwcompile.optimize.native_program import bind, plan_of

REPEATS = 30
PEERS = ("mlp", "cnn")
SHARED = opt.Spec(activations=opt.learned(6, per="channel", range="learned"))
"""Positions share the widths of what is computed of them, as they share weights."""
os.environ.setdefault("KERAS_BACKEND", "torch")  # PQuantML imports Keras
HERE = Path(__file__).parent


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 5)
        self.around = nn.Sequential(nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(torch.relu(x + self.around(x)))


class Largest(JetDeepSets):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.each(x).amax(1))


def network(kind: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The module with random weights, and a batch."""
    torch.manual_seed(0)
    if kind == "mlp":
        inputs, *_, classes = TASKS["jets"].layers
        return dense("jets", 0), torch.randn(BATCH, inputs), torch.randint(0, classes, (BATCH,))
    if kind in OWN:
        return (
            OWN[kind](),
            torch.randn(BATCH, *((16,) if kind == "residual" else (16, 3))),
            torch.randint(0, 5, (BATCH,)),
        )
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 14),
    )  # fmt: skip
    return net, torch.rand(BATCH, 1, 13, 21), torch.randint(0, 14, (BATCH,))


OWN: dict[str, Callable[[], nn.Module]] = {"residual": Residual, "sets": Largest, "transformer": JetTransformer}


def milliseconds(step: Callable[[], object]) -> tuple[float, float]:
    """Median and least of REPEATS steps, after some to warm up."""
    for _ in range(8):
        step()
    spent = []
    for _ in range(REPEATS):
        started = time.process_time()
        step()
        spent.append(time.process_time() - started)
    return float(np.median(spent)) * 1e3, min(spent) * 1e3


def by_torch(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, extra: Callable[[], torch.Tensor] | None = None
) -> Callable[[], object]:
    """A step of torch: forward, cross entropy, backward, fused Adam."""
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        outputs = net(x)
        loss = nn.functional.cross_entropy(getattr(outputs, "value", outputs), y)
        if extra is not None:
            loss = loss + 1e-7 * extra()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def ours(kind: str) -> Iterator[tuple[str, Callable[[], object]]]:
    net, x, y = network(kind)
    spec = SHARED if x.ndim == 3 else opt.Spec()
    yield "torch, float", by_torch(net, x, y)
    learned = opt.quantize(net, spec, x).train()
    priced = opt.prices(learned)
    yield "hwcompile on torch, widths fixed", by_torch(opt.quantize(net, opt.Spec.uniform(6, 8), x).train(), x, y)
    if kind in PEERS:
        first = "0"
        still = opt.Spec(layers={first: opt.Spec(activations=opt.fixed(8))})
        yield (
            "hwcompile on torch, widths learned per element, input fixed",
            by_torch(opt.quantize(net, still, x).train(), x, y),
        )
    yield "hwcompile on torch, widths learned", by_torch(learned, x, y)
    yield "the same with the resource term", by_torch(learned, x, y, lambda: opt.resource(learned, priced))
    fast = opt.generated(opt.quantize(net, spec, x).train(), priced)
    fast.beta, rest = 1e-7, set(opt.prices(fast.module)) - set(fast.names)
    between = (lambda: opt.resource(fast.module, priced, fast.names)) if rest else None
    yield "hwcompile generated, torch's loop, loss and Adam, resource term", by_torch(fast, x, y, between)
    if kind in PEERS:
        yield "hwcompile generated step, learned per element, resource term", generated(net, x, y)


def generated(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    module = opt.quantize(net, opt.Spec(), x).train()
    plan = plan_of(module, "cross_entropy")
    step = native.build(plan.program)
    bind(step, plan)
    for k in range(len(plan.layers)):
        step.constants[f"{k}.prices"][:] = (0.55, 0.18, 2.0, 0.5)
    order, schedule = np.arange(len(x)), native.Schedule.constant(1, 1e-3, 1e-3, 1e-7)
    data, labels = plan.events(x), y.numpy().astype(np.int32)
    return lambda: step.run(data, labels, order, len(x), schedule)


def brevitas(kind: str) -> tuple[str, Callable[[], object]]:
    import brevitas.nn as q

    net, x, y = network(kind)
    parts: list[nn.Module] = [q.QuantIdentity(bit_width=8)]
    for m in net:
        if isinstance(m, nn.Linear):
            parts.append(q.QuantLinear(m.in_features, m.out_features, True, weight_bit_width=6))
        elif isinstance(m, nn.Conv2d):
            parts.append(q.QuantConv2d(m.in_channels, m.out_channels, 3, weight_bit_width=6))
        else:
            parts.append(q.QuantReLU(bit_width=8) if isinstance(m, nn.ReLU) else m)
    return "Brevitas, 6 and 8 bits", by_torch(nn.Sequential(*parts).train(), x, y)


def hgq(kind: str, backend: str) -> tuple[float, float]:
    """HGQ2 with widths learned per element and EBOPs, in a process of its own."""
    where = ".venv-peers" if backend == "tensorflow" else ".venv"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    done = subprocess.run(
        [str(HERE.parent / where / "bin/python"), str(HERE / "peers_hgq_steps.py"), kind, str(REPEATS)],
        capture_output=True, text=True, check=False, env={**os.environ, **threads, "KERAS_BACKEND": backend},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


def pquant(kind: str) -> tuple[str, Callable[[], object]]:
    """PQuantML's layers with its configuration for automatic channel pruning switched off: quantization alone."""
    from pquant import add_compression_layers, dst_config

    net, x, y = network(kind)
    config = dst_config()
    config.pruning_parameters.enable_pruning = False
    return "PQuantML, quantization alone", by_torch(add_compression_layers(net, config, x.shape).train(), x, y)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for kind in sys.argv[1:] or (*PEERS, *OWN):
        rows = {name: milliseconds(step) for name, step in ours(kind)}
        for peer in (brevitas, pquant) if kind in PEERS else ():
            name, step = peer(kind)
            rows[name] = milliseconds(step)
        for backend in ("tensorflow", "torch") if kind in PEERS else ():
            rows[f"HGQ2 on {backend}, learned per element, EBOPs"] = hgq(kind, backend)
        print(f"\n| {kind}, batch {BATCH} | ms | least | to torch float |\n|---|---|---|---|")
        for name, (median, least) in rows.items():
            print(f"| {name} | {median:.2f} | {least:.2f} | {median / rows['torch, float'][0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
