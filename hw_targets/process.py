"""Starts tools under a time limit, kills the whole process group at it, keeps the output; knows no tool's meaning."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import CompileError

__all__ = [
    "Finished",
    "cache_folder",
    "compile_cpp",
    "cores",
    "error_line",
    "find_compiler",
    "find_tool",
    "run",
    "write_atomic",
]

COMPILERS = ("g++", "clang++", "c++")
OUTPUT_TAIL_BYTES = 200_000
STOP_POLL_S = 0.1


@dataclass(frozen=True)
class Finished:
    """How a tool ended: `output` is stdout and stderr in order, at most the last 200,000 bytes of it."""

    returncode: int
    output: str
    seconds: float
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.returncode == 0 and not self.timed_out


def find_tool(name: str) -> str | None:
    """The path of the program `name`, or None where the PATH has none."""
    return shutil.which(name)


def run(
    command: Sequence[str | Path],
    *,
    where: str,
    cwd: Path | None = None,
    time_limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Finished:
    """Run `command` to its end or to the time limit, and never raise for its exit status.

    `where` names the caller in errors. `environment` is added to the inherited one. At the limit, when this process is
    interrupted and when another thread sets `stop`, the tool and everything it started are killed. Raises CompileError
    where the program or the folder `cwd` is not there.
    """
    if cwd is not None and not cwd.is_dir():
        raise CompileError(where, f"the folder {cwd} is not there")
    started = time.monotonic()
    # A file and not a pipe: a grandchild that keeps the pipe open cannot make us wait after the tool has ended.
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CompileError(where, f"needs {command[0]}, which cannot be started ({error.strerror})") from error
        try:
            timed_out = _wait(process, time_limit_s, stop)
        finally:
            if process.returncode is None:
                _kill_group(process)
        return Finished(process.wait(), _tail(log), time.monotonic() - started, timed_out)


def _wait(process: subprocess.Popen[bytes], limit_s: float | None, stop: threading.Event | None) -> bool:
    """Wait for the end (False), the time limit (True) or `stop` (False, and the process still runs)."""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        step = left if stop is None else min(STOP_POLL_S, STOP_POLL_S if left is None else left)
        try:
            process.wait(step)
            return False
        except subprocess.TimeoutExpired:
            if stop is not None and stop.is_set():
                return False
            if deadline is not None and time.monotonic() >= deadline:
                return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - OUTPUT_TAIL_BYTES))
    return log.read().decode("utf-8", "replace")


def error_line(output: str, pattern: str = r"error") -> str:
    """The first line that matches `pattern` (any case), else the last that is not empty, at most 300 characters."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    matching = (line for line in lines if re.search(pattern, line, re.IGNORECASE))
    return next(matching, lines[-1] if lines else "it said nothing")[:300]


def find_compiler() -> str | None:
    """The C++ compiler's command: CXX where it is set (it may hold options), else g++, clang++ or c++ from the PATH."""
    named = os.environ.get("CXX", "").strip()
    if not named:
        return next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if shutil.which(shlex.split(named)[0]) is None:
        raise CompileError(
            "compiler", f"the variable CXX names '{named}', which is not on the PATH", "unset or correct it"
        )
    return named


def compile_cpp(
    sources: Sequence[Path],
    output: Path,
    flags: Sequence[str] = (),
    *,
    where: str = "compiler",
    time_limit_s: float = 600,
    jobs: int = 1,
) -> None:
    """Compile C++ `sources` (and link `.o` files among them) into `output`, which appears whole or not at all.

    With `-c` in `flags` there is one source and `output` is its object file. With `jobs` above 1 the sources are
    compiled side by side. Raises CompileError with the compiler's first error line, or when there is no compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompileError(
            where, "needs a C++ compiler, and there is none on the PATH", "install g++ or clang++, or set CXX"
        )
    words = shlex.split(compiler)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        inputs = list(sources)
        if jobs > 1 and "-c" not in flags:
            inputs = _objects(words, inputs, Path(folder), flags, where, time_limit_s, jobs)
        unfinished = Path(folder) / output.name
        _compile([*words, *flags, *inputs, "-o", unfinished], where, time_limit_s)
        os.replace(unfinished, output)


def _objects(
    words: Sequence[str],
    sources: Sequence[Path],
    folder: Path,
    flags: Sequence[str],
    where: str,
    limit_s: float,
    jobs: int,
) -> list[Path]:
    objects = [path if path.suffix == ".o" else folder / f"{i}.o" for i, path in enumerate(sources)]
    compile_only = [flag for flag in flags if not flag.startswith("-l") and flag != "-shared"]
    pending = [[*words, *compile_only, "-c", s, "-o", o] for s, o in zip(sources, objects) if s != o]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda command: _compile(command, where, limit_s), pending))
    return objects


def _compile(command: Sequence[str | Path], where: str, time_limit_s: float) -> None:
    finished = run(command, where=where, time_limit_s=time_limit_s)
    if finished.timed_out:
        raise CompileError(where, f"the C++ compiler did not finish in {time_limit_s:g} s", "raise the time limit")
    if not finished.ok:
        raise CompileError(
            where, f"the C++ compiler refused: {error_line(finished.output, 'error|undefined reference')}"
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder(kind: str) -> Path:
    """The user's cache folder for `kind` (`synth`, `verilator`, ...), not created: XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "hwcompile" / kind


def write_atomic(path: Path, content: str | bytes) -> bool:
    """Write `content` so that no reader ever sees half of it; False where the place cannot be written (as for a cache)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f".unfinished-{uuid.uuid4().hex}"
        try:
            with unfinished.open("xb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:
        return False
    return True
