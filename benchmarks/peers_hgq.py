"""Trains a network with HGQ2 and costs it with alkaid: peers_hgq.py TASK DATA.npz SEED CPU_SECONDS FOLDER [NETWORKS] [BETA];
needs .venv-peers.

One run with beta rising to BETA (1e-4); the networks that none before beats (validation accuracy against EBOPs) are kept, some
(7) are costed.
Prints a JSON list of {cpu_s, at_s, validation, test, ebops, alkaid, file}; `at_s`: when the network was there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks import BATCH, TASKS

BETA = 3e-7
"""Before it rises."""

Kept = tuple[float, float, list[np.ndarray], float]
"""(validation accuracy, EBOPs, weights, CPU seconds)"""


def model(layers: tuple[int, ...]) -> Any:
    """Dense layers with trained widths of every weight and activation."""
    import keras
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QDense

    with (
        QuantizerConfigScope(place="all", default_q_type="kbi", overflow_mode="SAT_SYM", round_mode="RND"),
        QuantizerConfigScope(place="datalane", default_q_type="kif", overflow_mode="WRAP", round_mode="RND"),
        LayerConfigScope(enable_ebops=True, beta0=BETA),
    ):
        hidden = [QDense(n, activation="relu") for n in layers[1:-1]]
        return keras.Sequential([keras.Input((layers[0],)), *hidden, QDense(layers[-1])])


def train(
    data: dict[str, np.ndarray], layers: tuple[int, ...], seed: int, cpu_s: float, last: float
) -> tuple[Any, list[Kept]]:
    """(model, the frontier), in that much CPU time."""
    import keras
    from hgq.utils.sugar import FreeEBOPs

    keras.utils.set_random_seed(seed)
    started = time.process_time()
    net = model(layers)
    net.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=-(-len(data["x"]) // BATCH) // 2,
    )  # fmt: skip
    kept: list[Kept] = []
    betas = [layer._beta for layer in net.layers if getattr(layer, "_beta", None) is not None]
    total = 1000

    def begin(epoch: int, logs: Any) -> None:
        share = epoch / total
        net.optimizer.learning_rate.assign(max(3e-3 * 0.5 * (1 + np.cos(np.pi * share)), 1e-5))
        for beta in betas:
            beta.assign(BETA * (last / BETA) ** share)

    def end(epoch: int, logs: Any) -> None:
        score = float(
            (net.predict(data["x_validation"], batch_size=15000, verbose=0).argmax(1) == data["y_validation"]).mean()
        )
        ebops = float(logs["ebops"])
        if not any(a >= score and e <= ebops for a, e, *_ in kept):
            kept[:] = [k for k in kept if not (k[0] <= score and k[1] >= ebops)]
            kept.append((score, ebops, net.get_weights(), time.process_time() - started))

    def fit(first: int, until: int) -> None:
        each = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        net.fit(
            data["x"], data["y"], batch_size=BATCH, initial_epoch=first, epochs=until, verbose=0, callbacks=[FreeEBOPs(), each]
        )  # fmt: skip

    fit(0, 3)
    begun = time.process_time()
    fit(3, 8)
    total = max(int(8 + (cpu_s - (time.process_time() - started)) * 5 / (time.process_time() - begun)), 9)
    fit(8, total)
    return net, sorted(kept, key=lambda k: k[1])


def costed(net: Any, data: dict[str, np.ndarray], file: Path) -> dict[str, Any]:
    """The network's accuracies and its cost, with ranges of the training data."""
    from alkaid.converter import trace_model
    from alkaid.trace import trace
    from hgq.utils import trace_minmax

    trace_minmax(net, data["x"], batch_size=20000, verbose=False)
    program = trace(*trace_model(net))
    net.save(file)

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return float((net.predict(x, batch_size=10000, verbose=0).argmax(1) == y).mean())

    return {
        "method": "HGQ2 + alkaid",
        "validation": accuracy(data["x_validation"], data["y_validation"]),
        "test": accuracy(data["x_test"], data["y_test"]),
        "ebops": float(sum(float(layer.ebops) for layer in net.layers if hasattr(layer, "ebops"))),
        "alkaid": float(program.cost),
        "file": str(file),
    }


def main(task: str, path: str, seed: int, cpu_s: float, folder: str, networks: int = 7, beta: float = 1e-4) -> None:
    data = TASKS[task].load(path)
    started = time.process_time()
    net, kept = train(data, TASKS[task].layers, seed, cpu_s, beta)
    spent = time.process_time() - started
    print(len(kept), "networks kept in", round(spent), "s", file=sys.stderr)
    found = []
    for k in np.unique(np.linspace(0, len(kept) - 1, networks).astype(int)):
        net.set_weights(kept[k][2])
        found.append(
            {"cpu_s": spent, "at_s": kept[k][3], **costed(net, data, Path(folder) / f"hgq2_{seed}_{cpu_s:g}_{k}.keras")}
        )
    print(json.dumps(found))


if __name__ == "__main__":
    task, path, seed, cpu_s, folder, *more = sys.argv[1:]
    main(task, path, int(seed), float(cpu_s), folder, *(kind(v) for kind, v in zip((int, float), more)))
