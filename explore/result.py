"""What a search found: its candidates, the frontier, and each of them as a design, a page or a command."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..codegen.choose import Goal
from ..driver import compile as compile_model
from ..hw_targets import load_target
from ..hw_targets.process import write_atomic
from ..hw_targets.yosys import require
from ..ir.errors import CompileError
from ..ir.text import parse_graph
from ..lineage import State, Step, Store
from ..report import frontier as page
from ..report.model import from_json
from . import frontier
from .measure import values_of
from .objectives import Constraint, Objective, unmeasured, violations

__all__ = ["Found", "SearchResult"]


@dataclass(frozen=True)
class Found:
    """A trained and compiled network, formula or forest: `state` is its id in the store, `at_s` when it was there."""

    state: str
    method: str
    params: Mapping[str, Any]
    values: Mapping[str, float]
    trial: int | None
    error: str = ""
    goal: Mapping[str, Any] = field(default_factory=dict)
    at_s: float = math.nan

    def __str__(self) -> str:
        values = "  ".join(f"{k} {v:.6g}" for k, v in self.values.items())
        return f"{self.state[:10]}  {self.method:<20} {values or self.error}"


@dataclass(frozen=True, eq=False)
class SearchResult:
    """All that a search tried."""

    name: str
    folder: Path
    target: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    clock_ns: float | None

    # ---- candidates ---------------------------------------------------------------------------------------------------

    @property
    def candidates(self) -> tuple[Found, ...]:
        """Every trained model with its values, the oldest first; and failed trials, with their errors."""
        with Store(self.folder, read_only=True) as store:
            states = store.find(f"branch = '{self.name}'")
        return tuple(self._found(s) for s in states if _kind(s) == "trial")

    @property
    def errors(self) -> list[str]:
        """Of failed trials, the oldest first."""
        return [f.error for f in self.candidates if f.error]

    @property
    def frontier(self) -> tuple[Found, ...]:
        """Those that meet the constraints and are dominated by none that does, in the order of the first objective; of equal ones
        the first that was found."""
        found = [f for f in self.candidates if not f.error]
        best = frontier.best_first(self.objectives, self.constraints, [f.values for f in found])
        return tuple(found[k] for k in best)

    @property
    def history(self) -> tuple[tuple[float, int], ...]:
        """(seconds of searching, how many candidates there were by then)."""
        return tuple((f.at_s, k + 1) for k, f in enumerate(f for f in self.candidates if not f.error))

    def closest(self) -> tuple[Found, Mapping[str, float]] | None:
        """The candidate that misses the constraints least, and by how much each (relative)."""
        scored = [(max(violations(self.constraints, f.values), default=0.0), f) for f in self.candidates if not f.error]
        if not scored:
            return None
        _, best = min(scored, key=lambda pair: pair[0])
        return best, {str(c): c.violation(best.values.get(c.name, math.nan)) for c in self.constraints}

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> float:
        """How much the frontier covers, see `explore.frontier.hypervolume`."""
        every = [f.values for f in self.candidates if not f.error]
        return frontier.hypervolume(self.objectives, self.constraints, every, every, reference)

    def _found(self, state: State) -> Found:
        """A state of a trial; without a value for each objective it is none that succeeded."""
        properties, values = state.properties, dict(state.metrics)
        return Found(
            state.id,
            state.method,
            properties.get("params", {}),
            values,
            properties.get("trial"),
            state.error or unmeasured(self.objectives, (), values),
            properties.get("goal", {}),
            properties.get("at", math.nan),
        )

    # ---- one of them --------------------------------------------------------------------------------------------------

    def design(self, found: Found, **options: Any) -> Any:
        """The candidate compiled anew from the graph in the store, as `hc.compile` with these options and its goal gives it."""
        with Store(self.folder, read_only=True) as store:
            text = store.graph(found.state)
        if not text:
            raise CompileError(
                found.state[:10], "was removed from the store, its recipe is left", "run its trial again"
            )
        graph = parse_graph(text if isinstance(text, str) else text.decode(), f"state {found.state[:10]}")
        goal = {"goal": Goal(**found.goal)} if found.goal else {}
        return compile_model(graph, self.target, self.clock_ns, **{**goal, **options})

    def command(self, found: Found) -> str:
        """What builds the candidate's hardware, in a shell."""
        name = f"{self.name}-{found.state[:10]}"
        speed = {} if self.clock_ns is None else {"clock_ns": self.clock_ns}
        options = [t for k, v in {**speed, **found.goal}.items() for t in (f"--{k.replace('_', '-')}", f"{v:.12g}")]
        export = ["hwcompile", "lineage", "export", found.state[:10], f"{name}.hwc", "--store", str(self.folder)]
        build = ["hwcompile", f"{name}.hwc", "--target", self.target, *options, "--output", name]
        return f"{shlex.join(export)} && {shlex.join(build)}"

    def synthesize(self, most: int | None = None, time_limit_s: float = 300) -> None:
        """Synthesize the frontier with Yosys and keep the numbers, as children of the states; those that have them stay.

        What fails is recorded with its error, and the others go on; `unsynthesized` says what has no numbers, and why.
        """
        require(load_target(self.target))
        with Store(self.folder) as store:
            for found in [f for f in self.frontier if not f.goal][:most]:
                if store.with_key(self._synthesis_key(found)) is None:
                    self._synthesize(store, found, time_limit_s)

    def _synthesize(self, store: Store, found: Found, time_limit_s: float) -> None:
        step = Step("synthesize", {"time_limit_s": time_limit_s})
        kept: dict[str, Any] = {
            "parents": [found.state], "method": found.method, "branch": self.name, "target": self.target,
            "properties": {"params": dict(found.params), "goal": dict(found.goal)},
        }  # fmt: skip
        try:
            design = self.design(found, backends=("rtl",))
            design.synthesize(time_limit_s=time_limit_s)
            report = design.report
            if report.synthesis is None:
                raise CompileError("synthesis", report.synthesis_note)
        except CompileError as e:
            store.add(step=step, error=str(e), **kept)  # without a key, so that it may be tried again
            return
        step = replace(step, parameters={"tool": report.synthesis_tool, **step.parameters})
        values = {k: v for k, v in values_of(report).items() if k.endswith("_synthesis")}
        store.add(
            step=step, metrics={**found.values, **values}, report=json.loads(report.as_json()),
            key=self._synthesis_key(found), **kept,
        )  # fmt: skip

    def _synthesis_key(self, found: Found) -> list[str]:
        return [self.name, "synthesis", found.state]

    @property
    def unsynthesized(self) -> Mapping[str, str]:
        """Why those of the frontier that Yosys was not, or not successfully, run for have no numbers of it; by state."""
        with Store(self.folder, read_only=True) as store:
            tried = _syntheses(store.find(f"branch = '{self.name}'"))
        of_hls = "has a goal, so that its costs are those of an HLS schedule; Yosys synthesizes the RTL"
        why = {f.state: of_hls if f.goal else tried[f.state].error for f in self.frontier if f.goal or f.state in tried}
        return {state: reason for state, reason in why.items() if reason}

    # ---- all of them --------------------------------------------------------------------------------------------------

    def page(self, path: str | Path, title: str = "") -> Path:
        """Write the frontier page (`report.frontier`)."""
        with Store(self.folder, read_only=True) as store:
            states = store.find(f"branch = '{self.name}'")
            tried = _syntheses(states)
            shown = [self._full(store, s, tried.get(s.id)) for s in states if _kind(s) == "trial"]
        limits = ", ".join(map(str, self.constraints))
        text = page.page(
            shown,
            frontier.shown(self.objectives),
            title or f"Search {self.name}",
            self.progress(),
            self.target,
            limits and f"with {limits}",
        )
        if not write_atomic(Path(path), text):
            raise CompileError(str(path), "the page cannot be written", "free space, or give another place")
        return Path(path)

    def figure(self, path: str | Path, x: str = "lut", y: str = "accuracy") -> Path:
        """Draw the candidates on two of the objectives, for a paper (.svg, .pdf or .png; needs matplotlib)."""
        axes = {o.name: o for o in frontier.shown(self.objectives)}
        unknown = next((n for n in (x, y) if n not in axes), None)
        if unknown is not None:
            raise CompileError("figure", f"'{unknown}' is no objective of the search", f"objectives: {', '.join(axes)}")
        page.figure([self._shown(f) for f in self.candidates], axes[x], axes[y], path)
        return Path(path)

    def progress(self, points: int = 60) -> list[tuple[float, int, float]]:
        """(seconds, trained, hypervolume) on the way."""
        every = [f for f in self.candidates if not f.error]
        values = [f.values for f in every]
        counts = range(1, len(every) + 1, max(len(every) // points, 1))
        return [
            (every[n - 1].at_s, n, frontier.hypervolume(self.objectives, self.constraints, values, values[:n]))
            for n in counts
        ]

    def _shown(self, f: Found) -> page.Candidate:
        return page.Candidate(f.state[:10], f.method, f.values, f.params, error=f.error, misses=self._misses(f))

    def _misses(self, f: Found) -> str:
        return "" if f.error else frontier.missed(self.constraints, f.values)

    def _full(self, store: Store, state: State, synthesis: State | None) -> page.Candidate:
        """With its report, layers and lineage; and synthesis where it was tried."""
        done = None if synthesis is None or synthesis.error else synthesis
        found, report = self._found(state), store.report((done or state).id)
        read = from_json(json.dumps(report)) if report else None
        path = [*store.path(state), *([synthesis] if synthesis else [])]
        layers = [
            {"name": la.name, "shape": la.outputs, "weight_bits_max": la.weight_bits, "activation_bits": la.output_bits,
             "nonzero_weights": la.weights, "lut": la.estimate.lut if la.estimate else math.nan}
            for la in (read.layers if read else ())
        ]  # fmt: skip
        return page.Candidate(
            state.id[:10], state.method, {**found.values, **(done.metrics if done else {})}, found.params, layers,
            [_line(s) for s in path], str(read) if read else "", self.command(found) if not found.error else "", found.error,
            self._misses(found),
        )  # fmt: skip


def _kind(state: State) -> str:
    key = state.key
    if not isinstance(key, tuple) or len(key) < 2:
        return "other"
    return key[1] if isinstance(key[1], str) else "trial"


def _syntheses(states: Sequence[State]) -> dict[str, State]:
    """What synthesis made of a state, by its id: the numbers, or the last error where there are none."""
    every = [s for s in states if s.step is not None and s.step.name == "synthesize"]
    return {s.parents[0]: s for s in sorted(every, key=lambda s: not s.error)}


def _line(state: State) -> str:
    if state.step is None:
        return f"{state.id[:10]} {state.method}"
    options = ", ".join(f"{k}={json.dumps(v)}" for k, v in state.step.parameters.items())
    seed = "" if state.step.seed is None else f" seed {state.step.seed}"
    return f"{state.id[:10]} {state.step.name}({options}){seed}" + (f": {state.error}" if state.error else "")
