"""Text of templates/train rendered, compiled once per content and machine, and loaded; knows nothing of what it computes."""

from __future__ import annotations

import ctypes
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from ... import templates
from ...codegen.cpu.engine import machine
from ...codegen.project import Project
from ...hw_targets import process
from ...ir.errors import CompileError

__all__ = ["FLAGS", "compiled", "rendered"]

FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-Wno-psabi",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-ffp-contract=fast",
)
HEADERS = ("vectors.hpp", "quantizers.hpp", "planes.hpp", "losses.hpp")


def rendered(name: str, **values: Any) -> Project:
    """The template `name` with its headers."""
    folder = resources.files(templates).joinpath("train")
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: str(value).lower() if isinstance(value, bool) else value,
    )
    text = environment.from_string(folder.joinpath(f"{name}.j2").read_text(encoding="utf-8")).render(**values)
    headers = {h: folder.joinpath(f"{h}.j2").read_text(encoding="utf-8") for h in HEADERS}
    return Project({name: text, **headers})


def compiled(project: Project, source: str) -> ctypes.CDLL:
    """The library of `source` in the project, from the user's cache where it was compiled before.

    Raises `CompileError` where it must be compiled and there is no compiler.
    """
    compiler = process.find_compiler()
    key = Project({**project.files, "flags": " ".join((compiler or "", *FLAGS, machine()))}).digest
    folder = process.cache_folder("train") / key[:2] / key
    path = folder / f"{source.partition('.')[0]}.so"
    if compiler is None or not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CompileError(str(folder), f"cannot be written: {e.strerror or e}", "free space") from None
        for name, text in project.files.items():
            process.write_atomic(folder / name, text)
        process.compile_cpp([folder / source], path, FLAGS, where="training step")
    return ctypes.CDLL(str(path))
