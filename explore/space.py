"""What a search may choose: dimensions, and spaces of them as dictionaries; knows no network and nothing of how it is searched.

A space is a dictionary from names to dimensions, or to plain values that stay as they are:

    {"width": Integer(8, 64), "lr": Real(1e-3, 1e-1, log=True), "method": Branch(uniform={"bits": Integer(2, 8)}, trees={})}

A `Branch` chooses among sub-spaces: what is drawn is its option's name, and the option's own parameters beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.errors import CompileError

__all__ = ["Branch", "Choice", "Integer", "Real", "Space", "checked", "definition", "draw", "from_table", "named"]


@dataclass(frozen=True)
class Integer:
    """A whole number from low to high, both included, in steps; `log`: as many draws in each octave."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True)
class Real:
    """A number from low to high; `log`: as many draws in each octave."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values, which JSON can hold: ``Choice(4, 8)``, ``Choice([16], [32, 16])``."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)


@dataclass(frozen=True, init=False)
class Branch:
    """One of some sub-spaces by name: ``Branch(network={"bits": Integer(2, 8)}, trees={"depth": Integer(2, 4)})``."""

    options: Mapping[str, Space]

    def __init__(self, options: Mapping[str, Space] | None = None, **named: Space) -> None:
        object.__setattr__(self, "options", {**(options or {}), **named})


Dimension = Integer | Real | Choice | Branch
Space = Mapping[str, Any]


def checked(space: Space, where: str = "space") -> Space:
    """The space, if something can be drawn from it; raises `CompileError` for an empty or contradictory one."""
    if not isinstance(space, Mapping):
        raise CompileError(where, f"must be a dictionary of dimensions by name, not {type(space).__name__}")
    if where == "space" and not any(isinstance(d, Integer | Real | Choice | Branch) for d in space.values()):
        raise CompileError(
            where, "has no dimension, so that there is nothing to search", 'give {"bits": Integer(2, 8)}'
        )
    for name, d in space.items():
        inside = f"{where}.{name}"
        if not isinstance(name, str) or not name:
            raise CompileError(where, f"names of dimensions are text, not {name!r}")
        if isinstance(d, Integer | Real):
            _check_range(inside, d)
        elif isinstance(d, Choice):
            if not d.options:
                raise CompileError(inside, "has no option to choose", "give some")
            _as_json(inside, list(d.options))
        elif isinstance(d, Branch):
            if not d.options:
                raise CompileError(inside, "has no option to choose", "give some")
            for option, sub in d.options.items():
                checked(sub, f"{inside}.{option}")
                both = next((n for n in sub if n in space), None)
                if both is not None:
                    raise CompileError(f"{inside}.{option}", f"'{both}' is in the space around it too", "rename one")
        else:
            _as_json(inside, d)
    return space


def _check_range(where: str, d: Integer | Real) -> None:
    kind = int if isinstance(d, Integer) else (int, float)
    for name, value in (("low", d.low), ("high", d.high)):
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            raise CompileError(where, f"{name} must be a {'whole ' * isinstance(d, Integer)}number, not {value!r}")
    if d.low > d.high:
        raise CompileError(where, f"is empty: low {d.low} is above high {d.high}", "exchange them")
    if d.log and d.low <= 0:
        raise CompileError(
            where, f"a logarithmic range must be above 0, not from {d.low}", "raise low, or leave log out"
        )
    if isinstance(d, Integer) and (d.step < 1 or (d.log and d.step > 1)):
        raise CompileError(where, f"step must be 1 or more, and 1 on a logarithmic range, not {d.step}")


def _as_json(where: str, value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise CompileError(where, f"must be a dimension, or a value that JSON holds, not {value!r}") from None


def draw(space: Space, trial: Any, prefix: str = "") -> dict[str, Any]:
    """One point of the space, chosen by an Optuna trial: parameters by name, those of a branch's option beside the others."""
    found: dict[str, Any] = {}
    for name, d in space.items():
        full = prefix + name
        if isinstance(d, Integer):
            found[name] = trial.suggest_int(full, d.low, d.high, step=d.step, log=d.log)
        elif isinstance(d, Real):
            found[name] = trial.suggest_float(full, d.low, d.high, log=d.log)
        elif isinstance(d, Choice):
            found[name] = json.loads(trial.suggest_categorical(full, [json.dumps(o) for o in d.options]))
        elif isinstance(d, Branch):
            found[name] = trial.suggest_categorical(full, list(d.options))
            found |= draw(d.options[found[name]], trial, f"{full}.{found[name]}.")
        else:
            found[name] = d
    return found


def named(space: Space, point: Mapping[str, Any], where: str = "first", prefix: str = "") -> dict[str, Any]:
    """A point as `draw` gives it, or part of one, by the names and values that `draw` asks of Optuna.

    Raises `CompileError` for a parameter that the space does not have there, and for a value outside its range.
    """
    if not isinstance(point, Mapping):
        raise CompileError(where, f"must be a point, parameters by name, not {point!r}")
    found: dict[str, Any] = {}
    left = dict(point)
    for name, d in space.items():
        if name not in left:
            continue
        value, full, inside = left.pop(name), prefix + name, f"{where}.{name}"
        if isinstance(d, Integer | Real):
            if isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
                raise CompileError(inside, f"must be a number from {d.low} to {d.high}, not {value!r}")
            found[full] = value
        elif isinstance(d, Choice | Branch):
            options = list(d.options)
            if _as_json(inside, value) not in map(json.dumps, options):  # a tuple is as good as a list
                raise CompileError(inside, f"must be one of {', '.join(map(str, options))}, not {value!r}")
            found[full] = json.dumps(value) if isinstance(d, Choice) else value
        if isinstance(d, Branch):
            sub = d.options[str(value)]
            found |= named(sub, {k: left.pop(k) for k in sub if k in left}, where, f"{full}.{value}.")
    if left:
        raise CompileError(where, f"the space has no '{next(iter(left))}' at this point", "leave it out")
    return found


def definition(space: Space) -> dict[str, Any]:
    """The space as JSON holds it; equal for equal spaces."""
    found: dict[str, Any] = {}
    for name, d in space.items():
        if isinstance(d, Branch):
            found[name] = {"branch": {o: definition(s) for o, s in d.options.items()}}
        elif isinstance(d, Choice):
            found[name] = {"choice": list(d.options)}
        elif isinstance(d, Integer):
            found[name] = {"low": d.low, "high": d.high, "step": d.step, "log": d.log}
        elif isinstance(d, Real):
            found[name] = {"low": float(d.low), "high": float(d.high), "log": d.log}
        else:
            found[name] = d
    return found


def from_table(table: Mapping[str, Any], where: str = "space") -> Space:
    """A space from a table of a configuration file: ``bits = {low = 2, high = 8}``, ``hidden = {choice = [[16], [32, 16]]}``,
    ``[space.method.branch.trees]`` and plain values; numbers with a point make a real range."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        inside = f"{where}.{name}"
        if not isinstance(value, Mapping):
            found[name] = value
        elif set(value) == {"choice"} and isinstance(value["choice"], list):
            found[name] = Choice(*value["choice"])
        elif set(value) == {"branch"} and isinstance(value["branch"], Mapping):
            found[name] = Branch({o: from_table(sub, f"{inside}.{o}") for o, sub in value["branch"].items()})
        elif {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
            whole = all(isinstance(value[k], int) for k in ("low", "high"))
            if "step" in value and not whole:
                raise CompileError(inside, "step is for whole numbers", "leave it out")
            found[name] = Integer(**value) if whole else Real(**value)
        else:
            keys = ", ".join(map(str, value))
            raise CompileError(
                inside, f"must have low and high (log, step), choice, or branch, not {keys or 'nothing'}"
            )
    return found
