"""Which of many trained and compiled models are worth building, as numbers, as one HTML page and as a figure for a paper;
knows what a candidate cost and scored, not how it was trained or searched for."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .. import templates
from ..ir.errors import CompileError
from .html import page_templates

__all__ = ["Candidate", "Objective", "costs", "figure", "frontier", "hypervolume", "page"]

SYNTHESIS = "_synthesis"
"""Ends the name of a value that a synthesis tool counted; without it the name is that of the estimate."""

_CAPITALS = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "BRAM", "ebops": "EBOPs", "ii": "II", "auc": "AUC"}
_UNITS = ("ns", "us", "ms", "s", "mhz")
_MARKERS = (("o", 1.0), ("s", 0.9), ("D", 0.85), ("^", 1.1), ("v", 1.1), ("P", 1.1))
"""Of figures, with what makes them look equally large; the page has the same ones in the same order."""


@dataclass(frozen=True)
class Candidate:
    """One trained and compiled model, or a failed trial (`error` is then not empty, and `values` may be).

    `values` are numbers by name: objectives and whatever else was measured; NaN is not known. A name that ends in
    `_synthesis` is shown beside the estimate of the same name. `layers` are mappings with any of `name`, `shape`,
    `weight_bits_mean`, `weight_bits_max`, `activation_bits`, `nonzero_weights`, `weights`, `lut`; other keys are shown
    as they are. `lineage` are the steps from the root, `command` is what builds the model again. `misses`: the constraints
    that it does not meet, such as ``"lut<=500"``; it is then shown in grey, and never on the frontier.
    """

    name: str
    method: str
    values: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    lineage: Sequence[str] = ()
    report: str = ""
    command: str = ""
    error: str = ""
    misses: str = ""


@dataclass(frozen=True)
class Objective:
    """The name of a value, which end of it is better, and its unit (empty: a name like `latency_ns` says it)."""

    name: str
    larger_is_better: bool
    unit: str = ""

    @property
    def label(self) -> str:
        """For axes and tables: `latency_ns` is `latency (ns)`, `lut_synthesis` is `LUT (synthesis)`."""
        words = self.name.removesuffix(SYNTHESIS).split("_")
        unit = self.unit or (words.pop() if len(words) > 1 and words[-1].lower() in _UNITS else "")
        notes = [unit] if unit else []
        notes += ["synthesis"] if self.name.endswith(SYNTHESIS) else []
        text = " ".join(_CAPITALS.get(word, word) for word in words)
        return f"{text} ({', '.join(notes)})" if notes else text


# ---- numbers ------------------------------------------------------------------------------------------------------------


def costs(candidates: Iterable[Candidate], objectives: Sequence[Objective]) -> list[tuple[float, ...]]:
    """The objectives of every candidate, smaller is better (the others negated); NaN where failed or not known."""
    _check(objectives)
    return [
        tuple(-_value(c, o.name) if o.larger_is_better else _value(c, o.name) for o in objectives) for c in candidates
    ]


def frontier(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> tuple[bool, ...]:
    """For every candidate whether none is at least as good in all objectives and better in one (Pareto).

    Failed candidates, those that miss a constraint and those without a finite number for each objective are never on it;
    equal ones are together.
    """
    points = np.array(costs(candidates, objectives)).reshape(len(candidates), len(objectives))
    on = np.zeros(len(points), dtype=bool)
    kept = np.empty((0, len(objectives)))
    # in this order nothing is dominated by what follows, and what a dropped one dominates a kept one dominates too
    for i in np.lexsort(points.T[::-1]):
        if candidates[i].misses or not np.isfinite(points[i]).all():
            continue
        beaten = (kept <= points[i]).all(axis=1) & (kept < points[i]).any(axis=1)
        if not beaten.any():
            on[i] = True
            kept = np.vstack([kept, points[i]])
    return tuple(on.tolist())


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The area or volume between the frontier of `points` and `reference`, for two or three objectives.

    All objectives are costs, smaller is better (see `costs`), and `reference` is worse than what is worth having;
    points that are not better than it in all objectives, or not numbers, add nothing. The sweep is that of Fonseca,
    Paquete and Lopez-Ibanez (CEC 2006) for three objectives, O(n log n) up to list insertions; with integers and
    fractions the result is exact, with floats it is rounded by ordinary sums.
    """
    if len(reference) not in (2, 3):
        raise CompileError("hypervolume", f"is for two or three objectives, not {len(reference)}", "choose three")
    inside: list[tuple[float, ...]] = []
    for p in points:
        if len(p) != len(reference):
            raise CompileError("hypervolume", f"a point must have {len(reference)} objectives, not {len(p)}")
        if all(v < r for v, r in zip(p, reference)):
            inside.append(tuple(p))
    stairs = _Stairs(reference[0], reference[1])
    if len(reference) == 2:
        for p in inside:
            stairs.add(p[0], p[1])
        return stairs.area
    volume, height = 0, 0
    for x, y, z in sorted(inside, key=lambda p: p[2]):
        volume += stairs.area * (z - height)
        stairs.add(x, y)
        height = z
    return volume + stairs.area * (reference[2] - height)


class _Stairs:
    """The union of rectangles from added points to one upper right corner: `xs` rise, `ys` fall, `area` is its area."""

    def __init__(self, right: float, top: float) -> None:
        self.right, self.top = right, top
        self.xs: list[float] = []
        self.ys: list[float] = []
        self.area: float = 0

    def add(self, x: float, y: float) -> None:
        xs, ys = self.xs, self.ys
        first = last = bisect_left(xs, x)
        if (first and ys[first - 1] <= y) or (first < len(xs) and xs[first] == x and ys[first] <= y):
            return
        left, top = x, ys[first - 1] if first else self.top
        while last < len(xs) and ys[last] >= y:
            self.area += (xs[last] - left) * (top - y)
            left, top = xs[last], ys[last]
            last += 1
        self.area += ((xs[last] if last < len(xs) else self.right) - left) * (top - y)
        xs[first:last], ys[first:last] = [x], [y]


def _number(c: Candidate, name: str) -> float:
    value = c.values.get(name, math.nan)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise CompileError(f"candidate '{c.name}'", f"the value of '{name}' must be a number, not {value!r}")
    return value if isinstance(value, int) else float(value)


def _value(c: Candidate, name: str) -> float:
    return math.nan if c.error else float(_number(c, name))


def _check(objectives: Sequence[Objective]) -> None:
    names = [o.name for o in objectives]
    if not names:
        raise CompileError("frontier", "needs at least one objective")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise CompileError("frontier", f"an objective must be given once, and '{twice}' is given twice")


# ---- the page -----------------------------------------------------------------------------------------------------------


def page(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    title: str,
    history: Sequence[tuple[float, int, float]] = (),
    target: str = "",
    subtitle: str = "",
    measures: Sequence[Objective] = (),
) -> str:
    """One self-contained HTML page to look at all candidates; every text in it is escaped.

    `objectives` decide who is on the frontier; `measures` give direction and unit of other values, so that they get a
    staircase too when they are an axis. `history` is (seconds, trials, hypervolume) after each trial or so. Same
    arguments, same bytes. Raises CompileError where an objective is known of no candidate, or a value is no number.
    """
    on = frontier(candidates, objectives)
    data = {
        "objectives": [o.name for o in objectives],
        "measures": _measures(candidates, objectives, measures),
        "methods": list(dict.fromkeys(c.method for c in candidates)),
        "candidates": [_plain_candidate(c, f) for c, f in zip(candidates, on)],
        "history": [[_plain(x) for x in row] for row in history],
    }
    counts = {
        "all": len(candidates),
        "frontier": sum(on),
        "failed": sum(bool(c.error) for c in candidates),
        "missed": sum(bool(c.misses) and not c.error for c in candidates),
    }
    text = (
        page_templates()
        .get_template("frontier.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            target=target,
            counts=counts,
            best=[(o, _best(candidates, o)) for o in objectives],
            objectives=objectives,
            history=bool(history),
            data=_script_json(data),
        )
    )
    # names may hold halves of surrogate pairs, which no file can
    return text.encode("utf-8", "replace").decode("utf-8")


def _measures(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], measures: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Name, label and better end (1, -1 or 0: nobody said) of objectives, then measures, then all other values.

    What was synthesised follows its estimate and has its direction.
    """
    present = dict.fromkeys(name for c in candidates for name in c.values)
    absent = next((o.name for o in objectives if o.name not in present), None)
    if present and absent is not None:
        rule = f"no candidate has a value of the objective '{absent}'"
        raise CompileError("frontier", rule, f"the values are {', '.join(present)}")
    said = {m.name: m for m in (*measures, *objectives)}
    names = dict.fromkeys([*(o.name for o in objectives), *(m.name for m in measures if m.name in present), *present])
    found: list[dict[str, Any]] = []
    for first in names:
        estimate = first.removesuffix(SYNTHESIS)
        if estimate != first and estimate in names:
            continue
        for name in (first, *({first + SYNTHESIS} & names.keys())):
            m = said.get(name) or said.get(estimate)
            label = Objective(name, False, m.unit if m else "").label
            found.append({"name": name, "label": label, "better": 0 if m is None else 1 if m.larger_is_better else -1})
    return found


def _best(candidates: Sequence[Candidate], o: Objective) -> Candidate | None:
    known = [c for c in candidates if not c.misses and math.isfinite(_value(c, o.name))]
    return (max if o.larger_is_better else min)(known, key=lambda c: c.values[o.name], default=None)


def _plain_candidate(c: Candidate, on: bool) -> dict[str, Any]:
    return {
        "name": c.name,
        "method": c.method,
        "frontier": on,
        "values": {k: _plain(_number(c, k)) for k in c.values},
        "parameters": {str(k): _plain(v) for k, v in c.parameters.items()},
        "layers": [{str(k): _plain(v) for k, v in layer.items()} for layer in c.layers],
        "lineage": [str(step) for step in c.lineage],
        "report": c.report,
        "command": c.command,
        "error": c.error,
        "misses": c.misses,
    }


def _plain(value: Any) -> str | int | float | bool | None:
    """What JSON can hold: numbers that are not finite become null, whatever else there is becomes text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _script_json(data: Any) -> Any:
    """JSON that cannot end the script element it stands in, whatever its texts are."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


# ---- the figure ---------------------------------------------------------------------------------------------------------


def figure(candidates: Sequence[Candidate], x: Objective, y: Objective, path: str | Path) -> None:
    """The candidates on two axes with the frontier as a staircase, 8.6 cm wide, as PNG, SVG or PDF by the path's ending; those
    that miss a constraint are grey.

    Same arguments and the same matplotlib, same bytes. An axis whose values span more than a factor of 20 is
    logarithmic. Raises CompileError without matplotlib (the extra `plots`), for another ending, or with no candidate.
    """
    path = Path(path)
    if path.suffix not in _METADATA:
        raise CompileError("figure", f"the path must end in .png, .svg or .pdf, not '{path.suffix}'")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise CompileError(
            "figure", "needs matplotlib, which is not installed", "pip install 'hwcompile[plots]'"
        ) from None
    known = [c for c in candidates if np.isfinite(costs([c], (x, y))).all()]
    if not known:
        raise CompileError("figure", f"no candidate has values of both '{x.name}' and '{y.name}'")
    # a fixed salt makes the identifiers within an SVG the same at every run
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.hashsalt": "hwcompile", "pdf.fonttype": 42, "font.size": 8})
        drawing = Figure(figsize=(3.39, 2.6), layout="constrained")
        axes = drawing.subplots()
        _draw(axes, known, x, y)
        drawing.savefig(path, dpi=300, metadata=_METADATA[path.suffix])


_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def _draw(axes: Any, known: Sequence[Candidate], x: Objective, y: Objective) -> None:
    on = frontier(known, (x, y))
    places = [(c.values[x.name], c.values[y.name]) for c in known]
    style = resources.files(templates).joinpath("report", "style.css.j2").read_text(encoding="utf-8")
    colours = re.findall(r"--c\d: (#[0-9a-f]{6})", style)[:10]
    for k, method in enumerate(dict.fromkeys(c.method for c in known)):
        marker, large = _MARKERS[k % len(_MARKERS)]
        look = {"marker": marker, "linestyle": "none", "color": colours[k % len(colours)], "mew": 0}
        grey = {**look, "color": "0.6"}
        for best, misses, size, alpha in ((False, True, 2.5, 0.3), (False, False, 2.5, 0.3), (True, False, 4.5, 1.0)):
            points = [
                p for p, c, f in zip(places, known, on) if (c.method, f, bool(c.misses)) == (method, best, misses)
            ]
            kind = {"ms": size * large, "alpha": alpha, "zorder": 2 + best, **(grey if misses else look)}
            axes.plot(*(zip(*points) if points else ([], [])), **kind)
        # a name beginning with "_" would be left out of the legend, and a dollar sign begins mathematics
        axes.plot([], [], ms=4.5 * large, label="\u200b" + method.replace("$", r"\$"), **look)
    stairs = sorted({p for p, f in zip(places, on) if f}, reverse=x.larger_is_better)
    axes.step(*(zip(*stairs) if stairs else ([], [])), where="post", color="0.25", lw=0.8, zorder=2)
    for o, axis, set_scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        own = [c.values[o.name] for c in known]
        if min(own) > 0 and max(own) > 20 * min(own):
            set_scale("log")
        axis.set_label_text(o.label.replace("$", r"\$"))
    # in the corner that is better than the frontier nothing can be
    corner = f"{'upper' if y.larger_is_better else 'lower'} {'right' if x.larger_is_better else 'left'}"
    axes.legend(loc=corner, fontsize=6, frameon=False, borderaxespad=0.2)
