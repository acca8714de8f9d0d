"""Passes over a network, applied in sequence, recorded, and resumable; knows no pass by name.

A pass is a frozen dataclass with a method ``apply(work)`` that changes ``work.module``. A run is a function of the module, the
task, the passes and the seed alone; killed, it goes on from its last checkpoint to the same end.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..hw_targets.process import write_atomic
from ..ir.errors import CompileError
from .composites import in_parts
from .cost import ebops, total
from .layers import in_mode, is_quantized
from .quantize import as_inputs, check_module, try_on
from .task import Inputs, Task

__all__ = ["Pass", "Pipeline", "Point", "Record", "Result", "Work", "measures"]

CHECKPOINT_S = 20.0
"""Seconds between checkpoints within a pass."""


class Pass(Protocol):
    """A step of a pipeline: its fields are its options."""

    def apply(self, work: Work) -> None:
        """Change `work.module`; raise `CompileError` where that is not possible."""
        ...


@dataclass(frozen=True)
class Record:
    """A pass that was applied: its options, time, and what the network was after it."""

    name: str
    options: dict[str, Any]
    seconds: float
    measures: dict[str, float]


@dataclass(frozen=True, eq=False)
class Point:
    """A network on the way that none before beats: validation score, estimated cost in LUTs, and the network as it was."""

    score: float
    cost: float
    epoch: int
    module: nn.Module


@dataclass(eq=False)
class Work:
    """What passes work on.

    `digest`: of all that the run depends on, where it has checkpoints. `guides`: what else the training that follows learns from
    (`distill.Guide`). `points`: the frontier that training met. `progress`: of the pass under way, whatever it needs to go on; it
    is saved with the module. `save`: called by long passes between steps, with True where it must happen now.
    """

    module: nn.Module
    task: Task
    seed: int = 0
    index: int = 0
    guides: list[Any] = field(default_factory=list[Any])
    original: nn.Module | None = None
    digest: str = ""
    points: list[Point] = field(default_factory=list[Point])
    records: list[Record] = field(default_factory=list[Record])
    progress: Any = None
    save: Callable[[bool], None] = lambda now: None
    say: Callable[[str], None] = lambda line: None

    def generator(self, salt: int = 0) -> torch.Generator:
        """Random numbers of this pass; the same for the same seed, pass and salt."""
        text = f"{self.seed}/{self.index}/{salt}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "little"))


@dataclass(frozen=True, eq=False)
class Result:
    """The network in eval mode, the records of the passes, and the frontier that training met."""

    module: nn.Module
    records: tuple[Record, ...]
    points: tuple[Point, ...]

    def at(self, point: Point) -> nn.Module:
        """The network of a point of the frontier, whatever passes came after it."""
        return copy.deepcopy(point.module).eval()

    def __str__(self) -> str:
        lines = [f"{'pass':<16}{'s':>8}  " + "  ".join(f"{k:>12}" for k in ("score", "lut", "ebops", "weights"))]
        for r in self.records:
            values = "  ".join(f"{r.measures.get(k, float('nan')):12.5g}" for k in ("score", "lut", "ebops", "weights"))
            lines.append(f"{r.name:<16}{r.seconds:8.2f}  {values}")
        return "\n".join(lines)


def measures(module: nn.Module, task: Task) -> dict[str, float]:
    """Validation score, nonzero weights, and of a quantized module the adder bits by the solver and EBOPs."""
    found = {"score": task.evaluate(module)}
    found["weights"] = float(sum(int((_used(m) != 0).sum()) for _, m in _weighted(module)))
    if is_quantized(module):
        found["ebops"] = ebops(module)
        found["lut"] = total(module)
    return found


def _weighted(module: nn.Module) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in module.named_modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]


def _used(m: Any) -> torch.Tensor:
    with torch.no_grad():
        return m.used_weight() if hasattr(m, "used_weight") else m.weight


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order of their application."""

    passes: Sequence[Pass]

    def __post_init__(self) -> None:
        for p in self.passes:
            if isinstance(p, type) or not dataclasses.is_dataclass(p) or not hasattr(p, "apply"):
                kind = "a class" if isinstance(p, type) else type(p).__name__
                raise CompileError(
                    "pipeline", f"a pass is a frozen dataclass with apply, not {kind}", "write Train(50)"
                )

    def run(
        self,
        module: nn.Module,
        task: Task,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Result:
        """Apply every pass to a copy of the module, in which recurrent layers, layer normalization and attention are in parts.

        `checkpoint`: a file that is written after each pass and every 20 s within one, and from which the same run goes on if
        it exists (it holds a pickle: use only files of your own). `say` is called with a line of progress.
        Raises `CompileError` from any pass, with the passes before it, and for a checkpoint of another run.
        """
        check_module(module, "pipeline")
        work = Work(in_parts(copy.deepcopy(module)), task, seed, original=module, say=say)
        with in_mode(work.module, False):
            task.check_outputs(try_on(work.module, as_inputs(task.sample)))
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None:
            work.digest = self.digest(work)  # once: it reads all the data
        if path is not None and path.exists():
            self._resume(work, path)
        while work.index < len(self.passes):
            self._apply(work, path)
        return Result(work.module.eval(), tuple(work.records), tuple(work.points))

    def _apply(self, work: Work, path: Path | None) -> None:
        step, started, saved = self.passes[work.index], time.perf_counter(), time.monotonic()

        def save(now: bool) -> None:
            nonlocal saved
            if path is not None and (now or time.monotonic() - saved > CHECKPOINT_S):
                self._save(work, path)
                saved = time.monotonic()

        work.save = save
        name = type(step).__name__
        try:
            step.apply(work)
        except CompileError as e:
            if not work.records:
                raise
            before = ", ".join(r.name for r in work.records)
            raise CompileError(f"{e.where} (after {before})", e.rule, e.fix) from None
        found = measures(work.module, work.task)
        work.records.append(Record(name, _plain(step), time.perf_counter() - started, found))
        work.index, work.progress = work.index + 1, None
        save(True)

    def digest(self, work: Work) -> str:
        """What a run depends on: the passes, the seed, the module as given, and the data; of functions and a loader their names."""
        passes = [(type(p).__name__, _plain(p)) for p in self.passes]
        own = [_named(v) for v in (work.task.loss, work.task.score, work.task.loader)]
        h = hashlib.sha256(repr((passes, work.seed, repr(work.original), own)).encode())
        teachers = (v for p in self.passes for v in vars(p).values() if isinstance(v, nn.Module))
        modules = [m for m in (work.original, *teachers) if m is not None]
        tensors = [t for m in modules for t in m.state_dict().values()]
        given = (v for v in (work.task.x, work.task.y, *work.task.validation) if v is not None)
        for v in (*given, *tensors):
            for t in v.tensors if isinstance(v, Inputs) else (v,):
                h.update(t.detach().contiguous().numpy().tobytes())
        return h.hexdigest()

    def _save(self, work: Work, path: Path) -> None:
        kept = ("module", "index", "guides", "points", "records", "progress")
        stream = io.BytesIO()
        torch.save({"digest": work.digest, **{k: getattr(work, k) for k in kept}}, stream)
        if not write_atomic(path, stream.getvalue()):
            raise CompileError(str(path), "the checkpoint cannot be written", "free space, or give another place")

    def _resume(self, work: Work, path: Path) -> None:
        try:
            found = torch.load(path, weights_only=False)
        except Exception as e:  # pickle raises any kind for a damaged file
            raise CompileError(str(path), f"is no checkpoint: {str(e)[:80]}", "delete it to start anew") from None
        if not isinstance(found, dict) or found.pop("digest", None) != work.digest:
            rule = "is the checkpoint of other passes, data, module or seed"
            raise CompileError(str(path), rule, "give another file, or delete it to start anew")
        for name, value in found.items():
            setattr(work, name, value)


def _named(value: Any) -> str:
    """A name that is the same in the next process."""
    if value is None or isinstance(value, str):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _plain(step: Any) -> dict[str, Any]:
    """A pass's options as values that print; modules and data by their kind."""
    return {f.name: _printed(getattr(step, f.name)) for f in dataclasses.fields(step)}


def _printed(value: Any) -> Any:
    if isinstance(value, nn.Module | torch.Tensor):
        return type(value).__name__
    return value if isinstance(value, int | float | str | bool | type(None)) else repr(value)
