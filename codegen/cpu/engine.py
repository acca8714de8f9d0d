"""Compiles and runs the generated CPU engine; without a C++ compiler the reference evaluation serves, exact and slower."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hw_targets import process
from ...ir.errors import CompileError
from ...ir.evaluate import evaluate
from ...ir.graph import Graph
from ...ir.types import Tensor
from ..project import Project
from .emit import emit
from .interface import storage_type

__all__ = ["FLAGS", "Engine", "build", "load", "machine", "storage_dtype"]

FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi", "-fno-trapping-math")


@dataclass(frozen=True)
class Engine:
    """A compiled engine. `run` takes and gives raw integers by name, ``[events, *shape]``."""

    graph: Graph
    library: Path | None

    @property
    def compiled(self) -> bool:
        return self.library is not None

    def run(self, inputs: Mapping[str, NDArray[Any]], threads: int = 1) -> dict[str, NDArray[Any]]:
        """Raw integers in, raw integers out, in the narrowest C type of each tensor (int64 without a compiler).

        Arrays that already have that type and lie in C order are read in place. Raises `CompileError` for missing
        inputs, wrong shapes and values outside an input's interval.
        """
        if self.library is None:
            return dict(evaluate(self.graph, inputs))
        arrays = [self._checked(i, inputs) for i in self.graph.inputs]
        events = arrays[0].shape[0] if arrays else 1
        if any(a.shape[0] != events for a in arrays):
            raise CompileError("inputs", f"must have the same number of events, not {[a.shape[0] for a in arrays]}")
        outputs = [
            np.empty((events, *t.shape), storage_dtype(t))
            for t in (self.graph.nodes[o.node].type for o in self.graph.outputs)
        ]
        function = self._function
        step = -(-events // max(threads, 1) // 64) * 64 or 1

        def part(start: int) -> int:
            stop = min(start + step, events)
            return function(
                _pointers([a[start:stop] for a in arrays]),
                _pointers([a[start:stop] for a in outputs]),
                ctypes.c_int64(stop - start),
            )

        starts = range(0, events, step)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(part, starts))
        else:
            done = [part(s) for s in starts]
        if any(d < 0 for d in done):
            raise CompileError("cpu engine", "has no memory for its buffers", "close other programs")
        return {o.name: y for o, y in zip(self.graph.outputs, outputs)}

    @cached_property
    def _function(self) -> Any:
        """The library's entry point, opened once."""
        function = ctypes.CDLL(str(self.library)).hwc_run
        function.restype = ctypes.c_int64
        return function

    @cached_property
    def _limits(self) -> dict[int, tuple[Any, Any, bool]]:
        """Lowest and highest raw integers of each input, and whether they are all that its C type can hold."""
        found: dict[int, tuple[Any, Any, bool]] = {}
        for i in self.graph.inputs:
            t = self.graph.nodes[i].type
            kind, (lo, hi, _) = np.iinfo(storage_dtype(t)), t.arrays()
            found[i] = (lo, hi, bool((lo == kind.min).all() and (hi == kind.max).all()))
        return found

    def _checked(self, i: int, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        node = self.graph.nodes[i]
        if node.name not in inputs:
            raise CompileError(
                f"input {node.name}", f"data must be given for every input, not only for {sorted(inputs)}"
            )
        x = np.asarray(inputs[node.name])
        if x.ndim != len(node.type.shape) + 1 or x.shape[1:] != node.type.shape or x.dtype.kind not in "iu":
            raise CompileError(
                f"input {node.name}",
                f"raw data must be integers of shape [events, {', '.join(map(str, node.type.shape))}], "
                f"not {x.dtype} of {list(x.shape)}",
            )
        lo, hi, full = self._limits[i]
        dtype = storage_dtype(node.type)
        if not (full and x.dtype == dtype) and x.size and bool((x < lo).any() or (x > hi).any()):
            raise CompileError(
                f"input {node.name}", f"raw data must be within {node.type.fixed.lo}..{node.type.fixed.hi}"
            )
        return np.ascontiguousarray(x, dtype)


def storage_dtype(t: Tensor) -> np.dtype[Any]:
    """How raw integers of a tensor lie in memory."""
    return np.dtype(storage_type(t).removesuffix("_t"))


def _pointers(arrays: list[NDArray[Any]]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def build(graph: Graph) -> Engine:
    """Emit, compile (once per content) and load the engine of a graph without requantize."""
    return load(graph, emit(graph))


def load(graph: Graph, project: Project) -> Engine:
    """Compile an emitted project, cached by content, compiler and machine."""
    compiler = process.find_compiler()
    if compiler is None:
        return Engine(graph, None)
    key = Project({**project.files, "flags": " ".join((compiler, *FLAGS, machine()))}).digest
    folder = process.cache_folder("engine") / key[:2] / key
    library = folder / "engine.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, text in project.files.items():
                assert isinstance(text, str)
                process.write_atomic(folder / path, text)
        except OSError as e:
            raise CompileError(str(folder), f"the engine cannot be written: {e.strerror or e}", "free space") from None
        process.compile_cpp([folder / "engine.cpp"], library, FLAGS, where="cpu engine")
    return Engine(graph, library)


def machine() -> str:
    """What -march=native depends on: the processor's flags, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
