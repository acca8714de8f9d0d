"""A search as it goes, in the terminal: frontier, hypervolume, trials an hour, time left."""

from __future__ import annotations

import math
import time
from typing import Any

from .result import Found, SearchResult
from .study import Study

__all__ = ["Shown"]

ROWS = 12
QUIET_S = 30.0
"""Between lines where there is no terminal."""


class Shown:
    """Called by `Study.run`; a context manager that cleans up behind itself."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console, self.quiet = Console(stderr=True, highlight=False), quiet
        self.live: Any = None
        self.last, self.known = 0.0, -1
        self.table: Any = ""

    def __enter__(self) -> Shown:
        if not self.quiet and self.console.is_terminal:
            from rich.live import Live

            self.live = Live(console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, study: Study) -> None:
        if self.quiet:
            return
        if self.live is not None:
            if self.known != len(study.past) + study.failed:
                self.known, self.table = len(study.past) + study.failed, frontier_table(study)
            from rich.console import Group

            self.live.update(Group(self.table, status(study)))
        elif time.monotonic() - self.last > QUIET_S:
            self.last = time.monotonic()
            self.console.print(status(study), soft_wrap=True)


def status(study: Study) -> str:
    """One line."""
    trials = study.told + study.failed
    rate = trials / max(study.seconds, 1e-9) * 3600
    parts = [f"{trials} trials ({study.failed} failed), {rate:,.0f} an hour"]
    if math.isfinite(study.options.budget_s):
        parts.append(f"{_clock(max(study.options.budget_s - study.seconds, 0))} left")
    elif study.options.trials:
        parts.append(
            f"{_clock(max(study.options.trials - trials, 0) / max(rate, 1e-9) * 3600) if trials else '?'} left"
        )
    volume = _result(study).hypervolume(candidates=_all(study)) if study.past else math.nan
    parts.append(
        f"frontier of {sum(study.on_frontier(_measured(study)))}"
        + (f", hypervolume {volume:.4f}" if math.isfinite(volume) else "")
    )
    return "; ".join(parts)


def frontier_table(study: Study) -> Any:
    """The frontier, thinned to what a terminal holds."""
    from rich.table import Table

    past = _measured(study)
    best = [p for p, is_best in zip(past, study.on_frontier(past), strict=True) if is_best]
    first = study.objectives[0]
    best.sort(key=lambda p: first.sign * p.values[first.name])
    table = Table(title=f"search {study.name}", caption="" if len(best) <= ROWS else f"{len(best)} in all")
    table.add_column("state")
    table.add_column("method")
    for o in study.objectives:
        table.add_column(o.name, justify="right")
    chosen = sorted(
        {round(k * (len(best) - 1) / max(min(ROWS, len(best)) - 1, 1)) for k in range(min(ROWS, len(best)))}
    )
    for p in (best[k] for k in chosen):
        table.add_row(p.state[:10], p.method, *(f"{p.values[o.name]:,.5g}" for o in study.objectives))
    return table


def _measured(study: Study) -> list[Any]:
    return [p for p in study.past if all(o.name in p.values for o in study.objectives)]


def _all(study: Study) -> list[Found]:
    return [Found(p.state, p.method, p.params, p.values, None) for p in _measured(study)]


def _result(study: Study) -> SearchResult:
    return _Now(
        study.name,
        study.folder,
        study.target,
        study.objectives,
        study.constraints,
        study.clock_ns,
        (),
        tuple(_all(study)),
    )


class _Now(SearchResult):
    """The candidates that the study holds in memory, so that showing them reads no disk."""

    def __init__(self, *parts: Any) -> None:
        *rest, candidates = parts
        super().__init__(*rest)
        object.__setattr__(self, "_candidates", candidates)

    @property
    def candidates(self) -> tuple[Found, ...]:
        return self._candidates  # pyright: ignore[reportAttributeAccessIssue]


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}"
