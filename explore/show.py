"""A search as it goes, in the terminal: frontier, hypervolume, trials an hour, time left."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from ..ir.errors import CompileError
from .frontier import best_first, hypervolume
from .study import Study
from .trial import Past

__all__ = ["Shown"]

ROWS = 12
QUIET_S = 30.0
"""Between lines where there is no terminal, and at least between two writings of the page."""
PAGE_SHARE = 20
"""A page is written again after so many times what the last took: 5 % of the time at most goes into it."""


class Shown:
    """Called by `Study.run`; a context manager that cleans up behind itself. `page` writes the page of what is there."""

    def __init__(self, quiet: bool = False, page: Callable[[], object] | None = None) -> None:
        from rich.console import Console

        self.console, self.quiet, self.page = Console(stderr=True, highlight=False), quiet, page
        self.paged, self.next_page = 0, time.monotonic() + QUIET_S
        self.live: Any = None
        self.last, self.known = 0.0, -1
        self.table: Any = ""
        self.reached = ""

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
        self._write_page(study)
        if self.quiet:
            return
        if self.live is not None:
            from rich.console import Group

            if self.known != len(study.past):
                self.known, self.table, self.reached = len(study.past), frontier_table(study), reached(study)
            self.live.update(Group(self.table, f"{status(study)}; {self.reached}"))
        elif time.monotonic() - self.last > QUIET_S:
            self.last = time.monotonic()
            self.console.print(f"{status(study)}; {reached(study)}", soft_wrap=True)

    def _write_page(self, study: Study) -> None:
        begun = time.monotonic()
        if self.page is None or begun < self.next_page or self.paged == len(study.past):
            return
        self.paged = len(study.past)
        with contextlib.suppress(CompileError):  # a full disk stops no search; the page at its end says so
            self.page()
        took = time.monotonic() - begun
        self.next_page = begun + took + max(QUIET_S, PAGE_SHARE * took)


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
    return "; ".join(parts)


def reached(study: Study) -> str:
    """How large the frontier is, in words."""
    values = [p.values for p in _measured(study)]
    volume = hypervolume(study.objectives, study.constraints, values, values)
    return f"frontier of {len(_best(study))}" + (f", hypervolume {volume:.4f}" if math.isfinite(volume) else "")


def frontier_table(study: Study) -> Any:
    """The frontier, thinned to what a terminal holds."""
    from rich.table import Table

    best = _best(study)
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


def _measured(study: Study) -> list[Past]:
    return [p for p in study.past if all(o.name in p.values for o in study.objectives)]


def _best(study: Study) -> list[Past]:
    """The frontier as the search's result has it."""
    past = _measured(study)
    return [past[k] for k in best_first(study.objectives, study.constraints, [p.values for p in past])]


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}"
