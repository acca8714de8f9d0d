"""What a search wants and what it must keep to: objectives and constraints as text; knows neither spaces nor networks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.errors import CompileError

__all__ = [
    "COSTS",
    "RESOURCES",
    "Constraint",
    "Objective",
    "constraints_of",
    "objectives_of",
    "unmeasured",
    "violations",
]

COSTS = {
    "lut": "LUTs by the cost model", "ff": "flip-flops by the cost model", "dsp": "DSP blocks by the cost model",
    "bram": "block RAMs by the cost model", "latency_ns": "latency in ns by the cost model",
    "latency_cycles": "latency in cycles by the cost model", "weights": "constants that are not zero",
    "weight_bits": "bits of all constants, the widest of each layer", "ebops": "effective bit operations",
}  # fmt: skip
"""What every candidate is measured by; smaller is better."""

RESOURCES = ("lut", "ff", "dsp", "bram", "weights", "weight_bits", "ebops")
"""Costs that differ by factors and not by amounts."""

LARGER = ("accuracy", "score", "test", "fmax_mhz", "auc", "efficiency", "rejection", "r2")
"""Names whose larger values are better, unless ``min:`` is said."""

_CONSTRAINT = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*([-+]?[\d._]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Objective:
    """A value by name, and whether larger ones are better."""

    name: str
    larger: bool

    @property
    def sign(self) -> float:
        """1 where the value itself is minimised, -1 where its negative is."""
        return -1.0 if self.larger else 1.0


@dataclass(frozen=True)
class Constraint:
    """``name sign limit``; sign is one of <= < >= >."""

    name: str
    sign: str
    limit: float

    def violation(self, value: float) -> float:
        """0 or less where it is met, else by how much it is not, relative to the limit; infinite for no number."""
        if not math.isfinite(value):
            return math.inf
        over = value - self.limit if self.sign[0] == "<" else self.limit - value
        strict = len(self.sign) == 1 and over == 0
        return 1e-12 if strict else over / max(abs(self.limit), 1e-12)

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:g}"


def objectives_of(texts: Sequence[str]) -> tuple[Objective, ...]:
    """Objectives from names: costs and accuracy say themselves which way is better, others by ``max:`` or ``min:`` before them."""
    found: list[Objective] = []
    for text in [texts] if isinstance(texts, str) else texts:
        way, _, name = str(text).strip().rpartition(":")
        if way not in ("", "min", "max") or not name.isidentifier():
            raise CompileError("objectives", f"'{text}' is none", "give names such as accuracy, lut, max:auc, min:rms")
        if not way and name not in (*COSTS, *LARGER):
            known = ", ".join(("accuracy", *COSTS))
            fix = f"give max:{name} or min:{name}; known: {known}"
            raise CompileError("objectives", f"'{name}' does not say which way is better", fix)
        found.append(Objective(name, way == "max" or (not way and name in LARGER)))
    if not found:
        raise CompileError("objectives", "are none", 'give ["accuracy", "lut"]')
    names = [o.name for o in found]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise CompileError("objectives", f"'{twice}' is there twice", "give it once")
    return tuple(found)


def constraints_of(texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Constraints from texts such as ``lut<=20000``; raises `CompileError` for those that no value can meet together."""
    found: list[Constraint] = []
    for text in [texts] if isinstance(texts, str) else texts:
        match = _CONSTRAINT.fullmatch(str(text))
        if match is None:
            raise CompileError("constraints", f"'{text}' is none", "write them as lut<=20000 or accuracy>=0.7")
        found.append(Constraint(match[1], match[2], float(match[3].replace("_", ""))))
    for name in {c.name: None for c in found}:
        above = [c for c in found if c.name == name and c.sign[0] == ">"]
        below = [c for c in found if c.name == name and c.sign[0] == "<"]
        for a in above:
            for b in below:
                if a.limit > b.limit or (a.limit == b.limit and (a.sign == ">" or b.sign == "<")):
                    raise CompileError("constraints", f"nothing can meet both {a} and {b}", "widen one of them")
    return tuple(found)


def violations(constraints: Sequence[Constraint], values: Mapping[str, float]) -> list[float]:
    """How far each constraint is missed; a value that is not there misses it."""
    return [c.violation(values.get(c.name, math.nan)) for c in constraints]


def unmeasured(objectives: Sequence[Objective], constraints: Sequence[Constraint], values: Mapping[str, float]) -> str:
    """What is wrong with a candidate that lacks the value of one of these, in a sentence; empty where it has all."""
    for where, wanted in (("objectives", objectives), ("constraints", constraints)):
        missing = next((w.name for w in wanted if w.name not in values), None)
        if missing is not None:
            fix = f"the training function must return it as a metric; there are {', '.join(sorted(values))}"
            return str(CompileError(where, f"'{missing}' is not measured", fix))
    return ""
