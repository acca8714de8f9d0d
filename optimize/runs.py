"""Independent runs of pipelines over the cores of a machine; knows no pass."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hw_targets.process import cores
from ..ir.errors import CompileError
from .pipeline import Pipeline, Result
from .task import Task

__all__ = ["Outcome", "Run", "train_all"]


@dataclass(frozen=True, eq=False)
class Run:
    """The arguments of one `Pipeline.run`."""

    pipeline: Pipeline
    module: nn.Module
    task: Task
    seed: int = 0
    checkpoint: str | Path | None = None


Outcome = Result | Exception


def train_all(
    runs: Sequence[Run],
    jobs: int | None = None,
    progress: Callable[[int, Outcome], None] = lambda index, outcome: None,
) -> list[Outcome]:
    """Every run's result, in their order, or the error that it ended with, which stops no other run.

    `jobs`: how many run at a time, each in a process of its own and on one thread; as many as there are cores, if not given;
    with 1 they run one after the other, in this process. A run is the same, bit for bit, whatever `jobs`.
    `progress(index, outcome)` is called here when a run has ended. Processes start anew, so that a script must call this under
    ``if __name__ == "__main__":``.
    Raises `CompileError` for modules, tasks or passes that cannot be sent to another process.
    """
    jobs = min(cores() if jobs is None else jobs, len(runs))
    if jobs < 1 and runs:
        raise CompileError("train_all", f"jobs must be 1 or more, not {jobs}")
    found: list[Outcome] = [CompileError("train_all", "has not run")] * len(runs)
    for index, outcome in _one_by_one(runs) if jobs <= 1 else _in_processes(runs, jobs):
        found[index] = outcome
        progress(index, outcome)
    return found


def _one_by_one(runs: Sequence[Run]) -> Iterator[tuple[int, Outcome]]:
    for index, run in enumerate(runs):
        with _one_thread():
            outcome = _outcome(run)
        yield index, outcome


def _outcome(run: Run) -> Outcome:
    try:
        return run.pipeline.run(run.module, run.task, run.seed, run.checkpoint)
    except Exception as e:  # whatever it is, it is this run's alone
        return e


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(runs: Sequence[Run], jobs: int) -> Iterator[tuple[int, Outcome]]:
    """Processes and not threads: torch's random numbers are those of the process, and the solver holds the interpreter.

    Everything goes as bytes, each task once for each process: torch would share tensors in memory that may be small.
    """
    tasks = list({id(run.task): run.task for run in runs}.values())
    number = {id(task): k for k, task in enumerate(tasks)}
    packed = _packed(tasks)
    each = [_packed((number[id(run.task)], dataclasses.replace(run, task=None))) for run in runs]  # pyright: ignore[reportArgumentType]
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (packed,)) as pool:
        waiting = {pool.submit(_work, data): index for index, data in enumerate(each)}
        for done in as_completed(waiting):
            error = done.exception()  # of the pool: a process that was killed
            yield waiting[done], _unpacked(done.result()) if error is None else RuntimeError(str(error))


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    try:
        pickle.dump(value, stream)
    except Exception as e:  # pickle raises any kind
        rule = f"cannot be sent to another process: {str(e)[:120]}"
        fix = "define its functions and classes in a file that is imported, or use jobs=1"
        raise CompileError("train_all", rule, fix) from None
    return stream.getvalue()


_TASKS: list[Task] = []
"""Of a process that `train_all` started."""


def _start(packed: bytes) -> None:
    torch.set_num_threads(1)
    _TASKS[:] = pickle.loads(packed)


def _work(packed: bytes) -> bytes:
    number, run = pickle.loads(packed)
    outcome = _outcome(dataclasses.replace(run, task=_TASKS[number]))
    try:
        return pickle.dumps(_as_parts(outcome))
    except Exception:  # an error may hold what cannot be sent
        return pickle.dumps(RuntimeError(repr(outcome)))


def _as_parts(outcome: Outcome) -> Any:
    """A `CompileError` is made anew from its parts."""
    return (outcome.where, outcome.rule, outcome.fix) if isinstance(outcome, CompileError) else outcome


def _unpacked(data: bytes) -> Outcome:
    found = pickle.loads(data)
    return CompileError(*found) if isinstance(found, tuple) else found
