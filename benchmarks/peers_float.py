"""Float32 without quantizers, as a yardstick of speed: peers_float.py {onnxruntime,numpy} NET FOLDER REPEATS."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from images import pooled, windows
from timing import rate, said

BATCHES = (256, 1024, 4096, 16384)


def _best_batch(run: Callable[[Any], Any], x: Any, repeats: int) -> dict[str, float]:
    """The rate at the batch size that is fastest."""

    def batched(size: int) -> Callable[[Any], Any]:
        return lambda events: [run(events[k : k + size]) for k in range(0, len(events), size)]

    tried = [{**rate(batched(size), x, repeats, least=256), "batch": size} for size in BATCHES]
    return max(tried, key=lambda r: r["median"])


def by_onnxruntime(name: str, folder: Path) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(folder / f"{name}_float.onnx", options, ["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def by_numpy(name: str, folder: Path) -> Callable[[Any], Any]:
    data = np.load(folder / f"{name}.npz")
    layers = [
        ((data[f"w{k}"] * 2.0**-exp).astype(np.float32), (data[f"b{k}"] / 16).astype(np.float32))
        for k, exp in enumerate(data["exps"])
    ]
    pools = data["pools"]

    def run(x: Any) -> Any:
        for k, (w, b) in enumerate(layers):
            if w.ndim == 4:
                x = windows(x, lambda parts: np.stack(parts, axis=-1)) @ w.reshape(len(w), -1).T
            else:
                x = x.reshape(len(x), -1) @ w
            x += b
            if k < len(layers) - 1:
                np.maximum(x, 0, out=x)
            if w.ndim == 4:
                x = pooled(np.moveaxis(x, -1, 1), pools[k], np.maximum)
        return x

    return run


if __name__ == "__main__":
    peer, name, folder, repeats = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    run = {"onnxruntime": by_onnxruntime, "numpy": by_numpy}[peer](name, folder)
    said(predict=_best_batch(run, np.load(folder / f"{name}_events.npz")["x"], repeats))
