"""Runs the generated C++ on this machine, compiled against the ap_fixed headers; knows ports, not ops."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...hw_targets import process
from ...ir.errors import CompileError
from ...ir.types import Int64
from ..project import Project
from .ap_types import find_ap_types
from .emit import Hls
from .hosted import in_order
from .scripts import CPP_STANDARD
from .templates import render
from .testbench import Port, checked, ports

__all__ = ["FLAGS", "build", "simulate"]

FLAGS = (f"-std={CPP_STANDARD}", "-O2", "-w")


def simulate(hls: Hls, inputs: Mapping[str, Int64], time_limit_s: float = 600) -> dict[str, Int64]:
    """Raw integers ``[events, *shape]`` by name in and out, computed by the generated C++.

    Raises `CompileError` without a compiler or the headers, for missing inputs, wrong shapes, and values outside an
    input's interval.
    """
    given, wanted = ports(hls.plan)
    arrays = in_order({k: np.asarray(v) for k, v in inputs.items()}, hls.order)
    columns = [checked(port, arrays) << port[4] for port in given]
    events = columns[0].shape[0]
    if any(c.shape[0] != events for c in columns):
        raise CompileError("inputs", f"must have the same number of events, not {[c.shape[0] for c in columns]}")
    program = build(hls)
    with tempfile.TemporaryDirectory() as folder:
        source, sink = Path(folder) / "in.bin", Path(folder) / "out.bin"
        np.concatenate(columns, axis=1).astype("<i8").tofile(source)
        done = process.run([program, source, sink], where="HLS simulation", time_limit_s=time_limit_s)
        if not done.ok:
            reason = "did not finish in time" if done.timed_out else f"failed: {process.error_line(done.output)}"
            raise CompileError("HLS simulation", reason)
        raw = np.fromfile(sink, "<i8").reshape(events, sum(t.size for _, _, _, t, _ in wanted)).astype(np.int64)
    return _unpacked(wanted, raw)


def build(hls: Hls) -> Path:
    """The program that simulates the design, compiled once per content."""
    headers = find_ap_types()
    if headers is None:
        raise CompileError(
            "HLS simulation",
            "needs the ap_fixed headers, and there are none",
            "source the settings64.sh of Vitis, or pip install 'hwcompile[hls]'",
        )
    given, wanted = ports(hls.plan)
    harness = render(
        "harness.cpp",
        top=hls.top,
        call=hls.call,
        inputs=[(cpp, kind, t.size) for _, cpp, kind, t, _ in given],
        outputs=[(cpp, kind, t.size) for _, cpp, kind, t, _ in wanted],
    )
    own = {path: text for path, text in hls.project.files.items() if path.startswith("firmware/")}
    project = Project({**own, "harness.cpp": harness})
    key = Project({**project.files, "flags": " ".join((process.find_compiler() or "", str(headers), *FLAGS))}).digest
    folder = process.cache_folder("hls") / key[:2] / key
    program = folder / "simulate"
    if not program.exists():
        try:
            for path, text in project.files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(str(text), encoding="utf-8")
        except OSError as e:
            raise CompileError(str(folder), f"cannot be written: {e.strerror or e}", "free space") from None
        flags = (*FLAGS, "-iquote", str(folder / "firmware"), "-isystem", str(headers))
        sources = [folder / "firmware" / f"{hls.top}.cpp", folder / "harness.cpp"]
        process.compile_cpp(sources, program, flags, where="HLS simulation")
    return program


def _unpacked(wanted: list[Port], raw: Int64) -> dict[str, Int64]:
    found: dict[str, Int64] = {}
    start = 0
    for name, _, _, t, shifts in wanted:
        found[name] = (raw[:, start : start + t.size] >> shifts).reshape(-1, *t.shape)
        start += t.size
    return found
