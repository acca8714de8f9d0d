"""GPU kernels of a graph, in Triton: check, then emit; build runs them here."""

from .emit import check, emit, module_name
from .engine import Engine, build, compile_kernels, interpret_here, missing

__all__ = ["Engine", "build", "check", "compile_kernels", "emit", "interpret_here", "missing", "module_name"]
