"""Trials in processes of their own: a training that fails, hangs or is killed ends one trial and nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

from ..ir.errors import CompileError
from .measure import Measured, measured, tensors
from .trial import Past, Trained, Trial

__all__ = ["Base", "Done", "Job", "Workers"]

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True)
class Base:
    """What a trial started from and is not in the store yet: tensors, and how they were made."""

    key: Any
    method: str
    metrics: dict[str, float]
    weights: dict[str, Any]
    steps: tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Done:
    """How a trial ended: its candidates, the first being its own, or the error; `final`: more effort makes no other."""

    candidates: tuple[Measured, ...] = ()
    starts: tuple[Past | Base | None, ...] = ()
    error: str = ""
    seconds: float = 0.0
    final: bool = False


@dataclass(frozen=True, eq=False)
class Job:
    """Trials that are trained together by one call; mostly one."""

    trials: Sequence[Trial]


@dataclass(eq=False)
class _Running:
    job: Job
    process: Any
    pipe: connection.Connection
    started: float


class Workers:
    """Up to `count` processes that train jobs. `limit_s`: seconds that one may take."""

    def __init__(
        self, train: Callable[[Trial], Any], target: str, clock_ns: float | None, count: int, limit_s: float
    ) -> None:
        self.train, self.target, self.clock_ns, self.count, self.limit_s = train, target, clock_ns, count, limit_s
        self.running: list[_Running] = []
        _import([*getattr(train, "imports", ()), *(_EXPORT if "torch" in sys.modules else ())])

    @property
    def free(self) -> bool:
        return len(self.running) < self.count

    def start(self, job: Job) -> None:
        """Begin a job in a new process."""
        context = get_context("fork")  # the training function and its data are there as they are
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(self.train, job, self.target, self.clock_ns, theirs, os.getpid()))
        sys.stdout.flush()
        process.start()
        theirs.close()
        self.running.append(_Running(job, process, ours, time.monotonic()))

    def wait(self, timeout_s: float) -> list[tuple[Job, list[Done]]]:
        """The jobs that ended, after the first does or the time is over."""
        connection.wait([r.pipe for r in self.running], timeout_s)
        found: list[tuple[Job, list[Done]]] = []
        for r in list(self.running):
            if r.pipe.poll():
                found.append((r.job, self._received(r)))
            elif time.monotonic() - r.started > self.limit_s:
                r.process.kill()
                error = f"training took longer than the {self.limit_s:g} s that a trial may"
                found.append((r.job, [Done(error=error, seconds=self.limit_s)] * len(r.job.trials)))
            else:
                continue
            r.process.join()
            r.pipe.close()
            self.running.remove(r)
        return found

    def _received(self, r: _Running) -> list[Done]:
        try:
            return pickle.loads(r.pipe.recv_bytes())
        except (EOFError, OSError):
            r.process.join()
            code = r.process.exitcode
            how = (
                f"was killed by {signal.Signals(-code).name}"
                if code is not None and code < 0
                else f"ended with code {code}"
            )
            error = f"the process of the trial {how}"
            return [Done(error=error, seconds=time.monotonic() - r.started)] * len(r.job.trials)

    def stop(self) -> None:
        """End everything that runs; its trials are neither recorded nor lost."""
        for r in self.running:
            r.process.kill()
            r.process.join()
            r.pipe.close()
        self.running.clear()


_EXPORT = ("torch.export._trace",)
"""What compiling a module of torch imports at last."""


def _import(modules: Sequence[str]) -> None:
    """Now, and not in every trial's process anew, which takes seconds; a trial that needs what is not installed will say so."""
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _work(
    train: Callable[[Trial], Any],
    job: Job,
    target: str,
    clock_ns: float | None,
    pipe: connection.Connection,
    parent: int,
) -> None:
    """In the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, and ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    started = time.monotonic()
    try:
        many = getattr(train, "many", None)
        made = (
            list(many(job.trials)) if len(job.trials) > 1 and many is not None else [_one(train, t) for t in job.trials]
        )
    except BaseException as e:
        made = [e] * len(job.trials)
    each = (time.monotonic() - started) / len(made)
    pipe.send_bytes(pickle.dumps([_done(m, target, clock_ns, each) for m in made]))
    pipe.close()
    os._exit(0)  # what the parent would do at its end is not ours to do


def _one(train: Callable[[Trial], Any], trial: Trial) -> Any:
    try:
        return train(trial)
    except Exception as e:
        return e


def _done(made: Any, target: str, clock_ns: float | None, seconds: float) -> Done:
    """A training's candidates, compiled; the time that this takes counts."""
    started = time.monotonic()
    try:
        if isinstance(made, BaseException):
            raise made
        if not isinstance(made, Trained):
            rule = f"must return search.Trained(model, metrics), not {type(made).__name__}"
            raise CompileError("the training function", rule)
        every = (made, *made.more)
        found = tuple(measured(t, target, clock_ns) for t in every)
        return Done(found, tuple(_start(t) for t in every), "", seconds + time.monotonic() - started, made.final)
    except CompileError as e:
        error = str(e)
    except BaseException as e:
        error = f"{type(e).__name__}: {e}".strip().splitlines()[0][:500]
    return Done(error=error, seconds=seconds + time.monotonic() - started)


def _start(trained: Trained) -> Past | Base | None:
    start = trained.start
    if not isinstance(start, Trained):
        return start
    steps = tuple((s.name, dict(s.parameters)) for s in start.steps)
    metrics = {k: float(v) for k, v in start.metrics.items() if math.isfinite(v)}
    return Base(start.base_key, start.method, metrics, tensors(start), steps)
