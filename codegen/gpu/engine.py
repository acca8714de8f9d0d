"""Runs a written GPU module: on a GPU where there is one, else in Triton's interpreter; and compiles it for others."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...hw_targets import process
from ...ir.errors import CompileError
from ...ir.graph import Graph
from ...ir.types import Int64
from ..project import Project
from .emit import emit
from .real import from_real, to_real

__all__ = ["Engine", "build", "compile_kernels", "interpret_here", "missing"]

_FIX = "pip install 'hwcompile[gpu]'"
_COMPILE = """
import importlib.util, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

path, *capabilities = sys.argv[1:]
spec = importlib.util.spec_from_file_location("module", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
short = {"int8": "i8", "uint8": "u8", "int16": "i16", "int32": "i32", "int64": "i64"}
types = {k: v[0] for k, v in (module.INPUTS | module.BUFFERS).items()}
found = []
for kernel, buffers, rows, block, columns, warps in module.LAUNCHES:
    names = kernel.arg_names
    pointers = [f"*{short[str(types[b]).removeprefix('torch.')]}" for b in buffers] + ["*i8", "*i16", "*i32", "*i64"]
    signature = dict(zip(names, ["i32", *pointers, "constexpr"]))
    for capability in capabilities:
        source = ASTSource(fn=kernel, signature=signature, constexprs={"BLOCK": block})
        made = triton.compile(source, target=GPUTarget("cuda", int(capability), 32), options={"num_warps": warps})
        dots = sum(line.count("mma") > 0 and "sync" in line for line in made.asm["ptx"].splitlines())
        found.append({"kernel": kernel.__name__, "capability": int(capability), "cubin": len(made.asm["cubin"]), "dots": dots})
print(json.dumps(found))
"""


def missing() -> str | None:
    """What the backend needs and this environment lacks, or None."""
    absent = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    return f"no {' and no '.join(absent)}: {_FIX}" if absent else None


def interpret_here() -> None:
    """Where there is no GPU, run kernels in this process and not in others; call it before triton is imported."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


class Engine:
    """The kernels of a graph. `on_gpu`: they run on a GPU; else in Triton's interpreter, exact and slow.

    The interpreter is a process of its own, since Triton chooses when it is imported; with TRITON_INTERPRET=1 set it is this
    process.
    """

    def __init__(self, graph: Graph, project: Project) -> None:
        self.graph, self.project = graph, project
        reason = missing()
        if reason:
            raise CompileError("gpu engine", reason)
        import torch

        self.on_gpu = torch.cuda.is_available()
        self._path = _written(project)
        here = self.on_gpu or os.environ.get("TRITON_INTERPRET") == "1"
        self._module = _imported(self._path) if here else None

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Raw integers ``[events, *shape]`` by name in and out: torch tensors stay on their device, numpy comes back as numpy.

        Raises `CompileError` for values outside an input's interval, wrong shapes and missing inputs.
        """
        import torch

        if self._module is None:
            found = self._interpreted(inputs)
            of_torch = all(torch.is_tensor(v) for v in inputs.values())
            return {k: torch.from_numpy(v) for k, v in found.items()} if of_torch else found
        device = "cuda" if self.on_gpu else "cpu"
        tensors = {k: v if torch.is_tensor(v) else torch.as_tensor(v, device=device) for k, v in inputs.items()}
        try:
            results = self._module.run(tensors)
        except ValueError as e:
            where, _, rule = str(e).partition(": ")
            raise CompileError(where, rule) from None
        if all(torch.is_tensor(v) for v in inputs.values()):
            return results
        return {k: v.cpu().numpy().astype(np.int64) for k, v in results.items()}

    def predict(self, x: Mapping[str, Any]) -> dict[str, Any]:
        """Real units in and out, torch tensors by name; they stay on their device."""
        nodes = {self.graph.nodes[i].name: self.graph.nodes[i].op for i in self.graph.inputs}
        results = self.run({k: from_real(nodes[k], v) for k, v in x.items()})  # pyright: ignore[reportArgumentType]
        return {o.name: to_real(self.graph.nodes[o.node].type, o.real, results[o.name]) for o in self.graph.outputs}

    def _interpreted(self, inputs: Mapping[str, Any]) -> dict[str, Int64]:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in inputs.items()}
            np.savez(source, **arrays)
            _python([self._path, source, target], {"TRITON_INTERPRET": "1"}, "gpu engine")
            with np.load(target) as data:
                return {k: data[k].astype(np.int64) for k in data.files}


def build(graph: Graph) -> Engine:
    """The engine of a graph after the passes of PIPELINES["hardware"]."""
    return Engine(graph, emit(graph))


def compile_kernels(project: Project, capabilities: tuple[int, ...] = (80, 90)) -> list[dict[str, Any]]:
    """Each kernel compiled to machine code for each compute capability, without a GPU: sizes and tensor-core instructions.

    Raises `CompileError` with the compiler's last line where one does not compile.
    """
    words = ["-c", _COMPILE, _written(project), *map(str, capabilities)]
    return json.loads(_python(words, {"TRITON_INTERPRET": "0"}, "gpu compiler").splitlines()[-1])


def _python(words: list[Any], environment: dict[str, str], where: str) -> str:
    own = {**environment, "TRITON_DEFAULT_FP_FUSION": "0", "PYTHONWARNINGS": "ignore"}
    done = process.run([sys.executable, *words], where=where, environment=own)
    if not done.ok:
        raise CompileError(where, process.error_line(done.output, r"^\w*Error"))
    return done.output


def _written(project: Project) -> Path:
    """The module on disk, once for each content: Triton reads a kernel's source from its file."""
    folder = process.cache_folder("gpu") / project.digest[:2] / project.digest
    (path,) = (folder / name for name in project.files)
    if not path.exists() and not process.write_atomic(path, next(iter(project.files.values()))):
        raise CompileError(str(folder), "cannot be written", "free space, or set XDG_CACHE_HOME")
    return path


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
