"""What the store says about a state, a step and its own operations, as values; knows no database and no file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from ..ir.errors import CompileError

__all__ = [
    "Collected",
    "Edge",
    "Health",
    "Removed",
    "State",
    "Step",
    "canonical",
    "checked_metrics",
    "checked_text",
    "leaves",
]


@dataclass(frozen=True)
class Step:
    """The pass that made a state: what is needed to run it again.

    `parameters` are JSON-able; `code_version` is a commit or a release; `data_digest` names the training data by content.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    code_version: str = ""
    data_digest: str = ""


@dataclass(frozen=True)
class State:
    """One node of the lineage, without its weights (`Store.weights`), graph and report.

    `id` is 32 hexadecimal digits of a SHA-256 over everything given to `Store.add`. `created` is in seconds since 1970
    (UTC). `parents` are ids; the first is the one whose path this state continues. `error` is not empty for a failed
    trial. `removed` says that weights and graph were pruned, and the recipe kept because descendants need it.
    """

    id: str
    method: str
    metrics: Mapping[str, float]
    target: str
    branch: str
    properties: Mapping[str, Any]
    error: str
    key: Any
    created: float
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    step: Step | None
    removed: bool = False


@dataclass(frozen=True)
class Edge:
    """`step`, run on the states `parents` (ids, none for a root), made the state `child`."""

    parents: tuple[str, ...]
    child: str
    step: Step | None


@dataclass(frozen=True)
class Removed:
    """`states` are gone, `emptied` lost weights and graph but keep their recipe; `freed_bytes` is what collect can take."""

    states: int
    emptied: int
    freed_bytes: int


@dataclass(frozen=True)
class Collected:
    """Files that no state referred to, and their size."""

    objects: int
    freed_bytes: int


@dataclass(frozen=True)
class Health:
    """What `Store.check` read, and one sentence for each thing that is wrong."""

    states: int
    objects: int
    object_bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def canonical(where: str, value: Any) -> str:
    """JSON with sorted keys, the same text for the same content; numpy scalars count as numbers."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic):
            return item.item()
        raise TypeError(f"a {type(item).__name__}")

    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise CompileError(
            where, f"must be JSON: text, finite numbers, lists, dictionaries by name; found {error}"
        ) from None


def checked_text(where: str, value: Any, *, empty: bool = True) -> str:
    """`value`, if it is text that a database can hold."""
    if not isinstance(value, str):
        raise CompileError(where, f"must be text, not {value!r}")
    if not value and not empty:
        raise CompileError(where, "must not be empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CompileError(where, f"must be valid Unicode, not {value!r}") from None
    if "\0" in value:
        raise CompileError(where, "must not contain a zero character")
    return value


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as floats, sorted by name."""
    found: dict[str, float] = {}
    for name in sorted(metrics):
        value = metrics[checked_text("metrics: a name", name, empty=False)]
        try:
            found[name] = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
        except OverflowError:
            found[name] = math.inf
        if not math.isfinite(found[name]):
            raise CompileError(
                f"metric '{name}'", f"must be a finite number, not {value!r}", "leave it out, or set error="
            )
    return found


def leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of each text, number, True and False that dictionaries lead to, the name as in `properties.a.b`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(f"{prefix}.{name}", inner)
    elif isinstance(value, bool | int | float | str):
        too_wide = isinstance(value, int) and abs(value) >= 2**63  # for a database
        yield prefix, float(str(value)) if too_wide else value
