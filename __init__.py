"""hwcompile: quantized networks to FPGA hardware, exactly.

import hwcompile as hc

design = hc.compile("model.onnx", target="vu9p", clock_ns=5)
design.verify(x)              # every engine equal to the reference, bit for bit
design.report                 # LUT, FF, DSP, latency, Fmax
design.predict(x)             # the emulation, at the machine's speed
design.write("build/model")   # Verilog, HLS C++, engine, report

Training (PyTorch) is in `hc.optimize`; `hc.search(...)` searches the frontier of accuracy against resources, `hc.lineage` is the
store of all that it tried, and `hc.models` has networks to begin with, and their data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .ir.errors import CompileError

if TYPE_CHECKING:
    from . import explore, lineage, models, optimize
    from .design import Design
    from .driver import compile, load, open_design
    from .explore import search
    from .frontends.expressions import expression
    from .frontends.trace import chain, fixed, quantize, take, trace
    from .hw_targets import load_target, targets

__all__ = [
    "CompileError",
    "Design",
    "chain",
    "compile",
    "explore",
    "expression",
    "fixed",
    "lineage",
    "load",
    "load_target",
    "models",
    "open_design",
    "optimize",
    "quantize",
    "search",
    "take",
    "targets",
    "trace",
]

_HOMES = {
    "Design": "design",
    "chain": "frontends.trace",
    "compile": "driver",
    "expression": "frontends.expressions",
    "fixed": "frontends.trace",
    "load": "driver",
    "open_design": "driver",
    "load_target": "hw_targets",
    "quantize": "frontends.trace",
    "search": "explore",
    "take": "frontends.trace",
    "targets": "hw_targets",
    "trace": "frontends.trace",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import hwcompile`` stays fast."""
    if name in ("explore", "lineage", "models", "optimize"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'hwcompile' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
