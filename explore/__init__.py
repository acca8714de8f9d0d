"""Searches the frontier of accuracy against resources, and never loses a trial; training itself is in `optimize`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hw_targets import load_target
from ..hw_targets.costs import usable_period_ns
from ..hw_targets.yosys import require
from ..ir.errors import CompileError
from ..version import code_version
from .objectives import Constraint, Objective, constraints_of, objectives_of
from .result import Found, SearchResult
from .space import Branch, Choice, Integer, Real, Space, checked, from_table, named
from .study import Options, Study
from .trial import Past, Step, Trained, Trial

__all__ = [
    "Branch", "Choice", "Constraint", "Found", "Integer", "Methods", "Objective", "Past", "Real", "SearchResult",
    "Space", "Step", "Trained", "Trial", "from_table", "search", "seconds_of",
]  # fmt: skip

if TYPE_CHECKING:
    from .methods import Methods


def __getattr__(name: str) -> Any:
    """`Methods` needs PyTorch, which a search of one's own function may not."""
    if name != "Methods":
        raise AttributeError(f"module 'hwcompile.explore' has no attribute '{name}'")
    from .methods import Methods

    return Methods


_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(budget: str | float | None) -> float:
    """Seconds of a time such as ``"1h"``, ``"90min"``, ``"45 s"`` or a number; infinite for None."""
    if budget is None:
        return math.inf
    if isinstance(budget, int | float) and not isinstance(budget, bool):
        found = float(budget)
    else:
        match = re.fullmatch(r"\s*([\d.]+)\s*(s|min|m|h|d)\s*", str(budget))
        if match is None or match[1].count(".") > 1:
            raise CompileError("budget", f"'{budget}' is no time", 'write "45s", "90min" or "1h"')
        found = float(match[1]) * _UNITS[match[2]]
    if not found > 0:
        raise CompileError("budget", f"must be above 0, not {budget}")
    return found


def search(
    space: Space,
    train: Callable[[Trial], Trained],
    objectives: Sequence[str] = ("accuracy", "lut"),
    constraints: Sequence[str] = (),
    target: str = "vu9p",
    budget: str | float | None = None,
    *,
    trials: int | None = None,
    first: Sequence[Mapping[str, Any]] | None = None,
    clock_ns: float | None = None,
    name: str = "search",
    folder: str | Path = "runs",
    seed: int = 0,
    synthesize: int | bool = False,
    page: str | Path | None = None,
    quiet: bool = False,
    data_digest: str = "",
    trial_limit: str | float | None = None,
    **options: Any,
) -> SearchResult:
    """Search a space for what is best in several objectives at once, and keep every trial.

    `space`: dimensions by name (`explore.space`). `train(trial)`: a `Trained` for the parameters of a `Trial`; it runs in a
    process of its own, and what it raises is recorded as a failed trial. `objectives`: costs (`objectives.COSTS`, by the
    compiler for `target` at `clock_ns`) and metrics that `train` returns. `constraints`: such as ``"lut<=20000"``.
    `budget`: time in all, ``"1h"``; `trials`: most trials; at least one of them. `first`: points of the space, or parts of them, to
    begin with; by default those of ``train.first``, if it has some. `name`, `folder`: the search's name in a lineage
    store; a search of this name that was stopped, or killed, goes on, with the same plan but for constraints and how long.
    `synthesize`: the frontier's candidates that Yosys counts at the end, all of them if True; not those with a goal
    (`SearchResult.unsynthesized`). `page`: where the frontier page is written, on the way and at the end. `options`: those of
    `explore.study.Options` (sampler, workers, halving, ...).

    Raises `CompileError` for spaces, objectives and constraints that make no sense, for another search of the same name that is
    running, and where no candidate meets the constraints, with the closest one.
    """
    _check_names(name, options)
    _check_hardware(target, clock_ns, synthesize)
    _check_function(train, target, clock_ns)
    plan = Options(seconds_of(budget), trials, trial_s=seconds_of(trial_limit), seed=seed, **options)
    wanted, limits = objectives_of(objectives), constraints_of(constraints)
    digest = data_digest or getattr(train, "data_digest", "")
    points = [named(checked(space), p) for p in (getattr(train, "first", ()) if first is None else first)]
    study = Study(
        name, Path(folder), checked(space), wanted, limits, target, clock_ns, plan, code_version(), digest, points,
        _options(train),
    )  # fmt: skip
    found = SearchResult(name, Path(folder), target, wanted, limits, clock_ns)
    try:
        from .show import Shown

        with Shown(quiet, None if page is None else partial(found.page, page)) as shown:
            study.run(train, shown)
    finally:
        study.close()
    _refuse_none(found)
    if page is not None:
        found.page(page)
    if synthesize:
        found.synthesize(None if synthesize is True else synthesize)
        if page is not None:
            found.page(page)
    return found


def _check_names(name: str, options: Mapping[str, Any]) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):  # pyright: ignore
        raise CompileError("name", f"{name!r} must be of letters, digits and -_. alone", "give another name")
    known = sorted(k for k in Options.__dataclass_fields__ if k not in ("budget_s", "trials", "trial_s", "seed"))
    unknown = next((k for k in options if k not in known), None)
    if unknown is not None:
        raise CompileError("search", f"has no option '{unknown}'", f"options: {', '.join(known)}")


def _check_function(train: Any, target: str, clock_ns: float | None) -> None:
    """A function that was made for hardware must have been made for that of the search."""
    if not callable(train):
        raise CompileError("train", f"must be a function of a Trial, not {train!r}")
    for name, wanted in (("target", target), ("clock_ns", clock_ns)):
        own = getattr(train, name, None)
        if own is not None and own != wanted:
            rule = f"{name} must be that of the training function, {own}, not {wanted}"
            raise CompileError("search", rule, "give both the same")


def _check_hardware(target: str, clock_ns: float | None, synthesize: int | bool) -> None:
    """What every trial or the end would fail of otherwise."""
    device = load_target(target)
    if clock_ns is not None:
        if isinstance(clock_ns, bool) or not isinstance(clock_ns, int | float) or not math.isfinite(clock_ns):
            raise CompileError("clock", f"the period must be a number of ns, not {clock_ns!r}", "give clock_ns=5")
        usable_period_ns(device, clock_ns)
    if not isinstance(synthesize, int) or synthesize < 0:
        raise CompileError("synthesize", f"must be True, False, or how many, not {synthesize!r}")
    if synthesize:
        require(device)


def _options(train: Any) -> dict[str, Any]:
    """Numbers and texts that a training function was made with, if it is a dataclass as `Methods` is: epochs, batch, ..."""
    values = {f.name: getattr(train, f.name) for f in fields(train)} if is_dataclass(train) else {}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}


def _refuse_none(found: SearchResult) -> None:
    """Where nothing was found there is a reason."""
    if found.frontier:
        return
    closest = found.closest()
    if closest is None:
        errors = found.errors
        rule = (
            f"no trial was without an error ({len(errors)} failed), the last: {errors[-1]}"
            if errors
            else "the budget was over before a trial was"
        )
        raise CompileError(f"search {found.name}", rule, "mend the training function, or give more time, and go on")
    best, by = closest
    missed = ", ".join(f"{best.values.get(c.name, math.nan):g} for {c}" for c in found.constraints if by[str(c)] > 0)
    rule = f"no candidate meets the constraints; the closest, {best.state[:10]} ({best.method}), has {missed}"
    raise CompileError(f"search {found.name}", rule, "widen the constraints or the space, or give more time, and go on")
