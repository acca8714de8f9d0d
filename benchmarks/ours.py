"""Measures hwcompile in a process of its own: ours.py MEASUREMENT NET FOLDER REPEATS; called by run.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from nets import EVENTS, NETS
from timing import WITNESS_EVENTS, now_s, rate, said, seconds

import hwcompile as hc

FOLDED = ("f",)
"""Networks of a million weights: more than a device has LUTs for, so multipliers are shared."""


def _compiled(name: str, folder: Path, backends: tuple[str, ...]) -> Any:
    """The design; says the processor seconds of each stage. HLS that the device cannot hold unrolled gets a schedule that fits."""
    from hwcompile.codegen.choose import Goal
    from hwcompile.hw_targets import load_target

    compile_model = hc.compile  # imports what it needs here, before the clock starts
    goal = Goal(max_lut=load_target("vu9p").resources.lut) if "hls" in backends and name in FOLDED else None
    marks = [now_s()]

    def stage(what: str, wall_s: float) -> None:
        marks.append(now_s())
        said(**{f"{what}_s": marks[-1] - marks[-2]})

    return compile_model(str(folder / f"{name}.onnx"), backends=backends, goal=goal, progress=stage)


def software(name: str, folder: Path, repeats: int) -> None:
    """Read, lower, write HLS C++ and the CPU engine, and compile the engine (the runner gives an empty cache)."""
    from hwcompile.codegen import cpu

    design = _compiled(name, folder, ("hls", "cpu"))
    said(cpu_emit_s=seconds(lambda: cpu.emit(design.hardware))[0])


def rtl(name: str, folder: Path, repeats: int) -> None:
    """The Verilog, with the estimate of its size."""
    from hwcompile.codegen.rtl.estimate import estimate

    design = _compiled(name, folder, ("rtl",))
    costs = estimate(design.rtl.scalar, design.rtl.pipeline, design.device, design.clock_ns)
    said(lut_estimate=costs.lut, latency_cycles=costs.latency_cycles)


def solver(name: str, folder: Path, repeats: int) -> None:
    """Adder bits of the matrices alone, for the same input intervals that the peers' solver is given."""
    from hwcompile.codegen.solver import adder_bits, solve

    data = np.load(folder / f"{name}.npz")
    total = spent = 0.0
    for k in range(len(data["exps"])):
        lo, hi = (-128, 127) if k == 0 else (0, 255)
        matrix = data[f"w{k}"].astype(np.int64)
        matrix = matrix.reshape(len(matrix), -1).T if matrix.ndim == 4 else matrix
        ends = np.full(len(matrix), lo), np.full(len(matrix), hi)
        took, network = seconds(lambda m=matrix, e=ends: solve(m, *e))
        spent += took
        total += adder_bits(network, *ends)
    said(adder_bits=total, solve_s=spent)


def rates(name: str, folder: Path, repeats: int) -> None:
    """Events per second of the CPU engine, of predict and of the reference; the outputs that the peers must equal."""
    from hwcompile.ir.evaluate import evaluate

    design = _compiled(name, folder, ("cpu",))
    engine = design.cpu
    if not engine.compiled:
        raise SystemExit("there is no C++ compiler, so there is no CPU engine to measure")
    raw = np.load(folder / f"{name}.npz")["x"]
    real = np.load(folder / f"{name}_events.npz")["x"]
    assert len(raw) == EVENTS, NETS[name]
    expected = evaluate(design.graph, {"x": raw[:WITNESS_EVENTS].astype(np.int64)})["y"]
    same = np.array_equal(expected, engine.run({"x": raw[:WITNESS_EVENTS]})["y"])
    np.save(folder / f"{name}_expected.npy", design.predict(real[:WITNESS_EVENTS], engine="reference"))
    said(engine_equals_reference=bool(same))
    said(engine=rate(lambda x: engine.run({"x": x}), raw, repeats))
    said(predict=rate(design.predict, real, repeats))
    wide = raw.astype(np.int64)
    said(reference=rate(lambda x: evaluate(design.graph, {"x": x}), wide, repeats))


if __name__ == "__main__":
    measure = {"software": software, "rtl": rtl, "solver": solver, "rates": rates}[sys.argv[1]]
    measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
