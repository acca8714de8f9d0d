"""Measures alkaid in a process of its own: peers_alkaid.py {compile,solver} NET FOLDER REPEATS; needs .venv-peers."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from images import pooled, windows
from timing import WITNESS_EVENTS, mismatches, rate, said, seconds


def _traced(data: Any) -> Any:
    from alkaid.trace import FVArrayInput, trace

    given = FVArrayInput(data["x"].shape[1:])
    ones = np.ones(given.shape, int)
    x = given.quantize(ones, 3 * ones, 4 * ones)
    last = len(data["exps"]) - 1
    for k, exp in enumerate(data["exps"]):
        w = data[f"w{k}"] * 2.0**-exp
        if w.ndim == 4:
            x = windows(x, lambda parts: np.stack(parts, axis=-1)) @ w.reshape(len(w), -1).T
        else:
            x = x.reshape(-1) @ w
        x = x + data[f"b{k}"] / 16
        if k < last:
            x = np.maximum(x, 0).quantize(0, 4, 4, "SAT", "RND_CONV")
        if w.ndim == 4:
            x = pooled(np.moveaxis(x, -1, 0), int(data["pools"][k]), np.maximum)
    return trace(given, x)


def compile(name: str, folder: Path, repeats: int) -> None:
    """Trace, write Verilog, compare with the expected outputs, and run the interpreter."""
    from alkaid.codegen import RTLModel

    spent, program = seconds(lambda: _traced(np.load(folder / f"{name}.npz")))
    said(trace_s=spent, cost=program.cost, operations=len(program.ops))
    with tempfile.TemporaryDirectory() as verilog:
        said(verilog_s=seconds(lambda: RTLModel(program, verilog, "top", latency_cutoff=5).write())[0])
    x = np.load(folder / f"{name}_events.npz")["x"].astype(np.float64)
    expected = np.load(folder / f"{name}_expected.npy")
    said(mismatches=mismatches(program.predict(x[:WITNESS_EVENTS], n_threads=1), expected), values=expected.size)
    said(predict=rate(lambda events: program.predict(events, n_threads=1), x, repeats))


def solver(name: str, folder: Path, repeats: int) -> None:
    """Cost of the matrices alone, for the same integer matrices and input intervals that hwcompile is given."""
    from alkaid.cmvm import cmvm_solve

    data = np.load(folder / f"{name}.npz")
    total = spent = 0.0
    for k in range(len(data["exps"])):
        matrix = data[f"w{k}"].astype(np.float32)
        matrix = matrix.reshape(len(matrix), -1).T if matrix.ndim == 4 else matrix
        interval = (-128.0, 127.0, 1.0) if k == 0 else (0.0, 255.0, 1.0)
        took, parts = seconds(lambda m=matrix, i=interval: cmvm_solve(m, qintervals=[i] * len(m)))
        spent += took
        total += sum(part.cost for part in parts)
    said(adder_bits=total, solve_s=spent)


if __name__ == "__main__":
    {"compile": compile, "solver": solver}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
