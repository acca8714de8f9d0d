"""Symbolic regression: a network, or the data, as formulas chosen by what they cost in hardware; knows no search of its own.

pyoperon or PySR finds formulas; each is compiled here, and the compiled ones compete: R2 and the task's score are those of the
integers that hardware computes, and LUTs are the compiler's estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codegen.rtl.estimate import Estimate, estimate
from ..codegen.rtl.pipeline import pipeline
from ..codegen.unroll import unroll_nodes
from ..frontends.calibrate import calibrate
from ..frontends.expressions import expression
from ..frontends.lower import lower
from ..frontends.real import RealModel
from ..hw_targets import load_target
from ..ir.errors import CompileError
from ..ir.evaluate import evaluate, from_real, to_real
from ..ir.graph import Graph
from ..ir.ops import Input
from ..ir.passes import PIPELINES, run
from .task import Task, predict

__all__ = [
    "OPERATORS", "Candidate", "Compiled", "Row", "Symbolic", "SymbolicResult", "centred", "flat", "operator_costs", "regress",
    "targets",
]  # fmt: skip

Floats = NDArray[np.float64]

OPERATORS: dict[str, str] = {
    "add": "x0 + x1",
    "sub": "x0 - x1",
    "mul": "x0 * x1",
    "div": "x0 / max(x1, 0.25)",
    "fmin": "min(x0, x1)",
    "fmax": "max(x0, x1)",
    "abs": "abs(x0)",
    "square": "x0 * x0",
    "exp": "exp(x0)",
    "log": "log(max(x0, 0.25))",
    "sqrt": "sqrt(x0)",
    "sin": "sin(x0)",
    "cos": "cos(x0)",
    "tanh": "tanh(x0)",
}
"""Operators by pyoperon's names, and the formula that says what one costs."""

_PYSR = {"add": "+", "sub": "-", "mul": "*", "div": "/", "fmin": "min", "fmax": "max"}
_BINARY = tuple(_PYSR)

_LONGEST = 15
"""Bits of constants where a tolerance says how fine the rest is."""


# ---- what compiled models cost and compute ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model with all precisions set, as `hc.compile` compiles it for `target` at `clock_ns` (the device's own by default)."""

    model: RealModel
    target: str = "vu9p"
    clock_ns: float | None = None

    @cached_property
    def graph(self) -> Graph:
        """The exact graph."""
        return run(lower(self.model), PIPELINES["simplify"])

    @cached_property
    def estimate(self) -> Estimate:
        """Resources and latency by the cost model, unrolled and pipelined."""
        device = load_target(self.target)
        clock = device.clock_ns if self.clock_ns is None else self.clock_ns
        scalar = unroll_nodes(run(self.graph, PIPELINES["hardware"])).scalar
        return estimate(scalar, pipeline(scalar, device, clock), device, clock)

    @property
    def cost(self) -> float:
        """LUTs, and for each DSP block as many as the device has of them per block."""
        have, used = load_target(self.target).resources, self.estimate
        return used.lut + (used.dsp * have.lut / have.dsp if used.dsp else 0.0)

    def predict(self, x: Any) -> Floats:
        """Outputs ``[events, ...]`` in real units of the one input ``[events, ...]``, by the reference evaluation."""
        node = self.graph.nodes[self.graph.inputs[0]]
        assert isinstance(node.op, Input)
        n = evaluate(self.graph, {node.name: from_real(node.op, np.asarray(x, np.float64))})
        (output,) = self.graph.outputs
        return to_real(self.graph.nodes[output.node].type, output.real, n[output.name])


@dataclass(frozen=True, eq=False)
class Row:
    """A model on the frontier: how it was made, its validation score (larger is better), LUTs, DSP blocks, both of them as LUTs
    (`Compiled.cost`), latency, and what `hc.compile` takes."""

    method: str
    score: float
    lut: float
    dsp: int
    cost: float
    latency_ns: float
    model: RealModel

    @classmethod
    def of(cls, method: str, compiled: Compiled, score: Callable[[Floats], float], x: Any) -> Row:
        """The row of a compiled model, scored on its integers' values for inputs x."""
        found = compiled.estimate
        return cls(
            method, score(compiled.predict(x)), found.lut, found.dsp, compiled.cost, found.latency_ns, compiled.model
        )

    def __str__(self) -> str:
        return f"{self.method:<32} {self.score:8.4f} {self.lut:8.0f} LUT {self.dsp:4d} DSP {self.latency_ns:6.1f} ns"


def operator_costs(
    operators: Sequence[str] = tuple(OPERATORS), bits: int = 8, target: str = "vu9p", clock_ns: float | None = None
) -> dict[str, tuple[float, float]]:
    """(`Compiled.cost`, latency in ns) of each operator, compiled alone, on operands of `bits` with a result of as many.

    Raises `CompileError` for operators that are not known.
    """
    data = np.random.default_rng(0).uniform(0.25, 4.0, (2000, 2))  # where all of them are defined
    found: dict[str, tuple[float, float]] = {}
    for name in _known(operators):
        model = calibrate(expression(OPERATORS[name], variables=["x0", "x1"]), {"x": data}, bits=bits)[0]
        compiled = Compiled(model, target, clock_ns)
        found[name] = (compiled.cost, float(compiled.estimate.latency_ns))
    return found


def _known(operators: Sequence[str]) -> Sequence[str]:
    unknown = next((o for o in operators if o not in OPERATORS), None)
    if unknown is not None:
        raise CompileError("operators", f"'{unknown}' is not known", f"known: {', '.join(OPERATORS)}")
    return operators


# ---- data -------------------------------------------------------------------------------------------------------------


def flat(where: str, task: Task) -> Tensor:
    """The training inputs ``[events, features]``. Raises `CompileError` for a loader, several inputs and other shapes."""
    if not isinstance(task.x, Tensor):
        raise CompileError(
            where, "needs the data as one array, neither a loader nor several inputs", "give the task x and y"
        )
    if task.x.ndim != 2:
        raise CompileError(where, f"needs events of features, not of shape {list(task.x.shape[1:])}", "flatten them")
    return task.x


def targets(task: Task, teacher: nn.Module | None, x: Tensor, y: Tensor) -> Floats:
    """What a student shall learn ``[events, outputs]``: the teacher's outputs, or the targets themselves.

    Of classes and of yes or no these are probabilities: the teacher's, or 1 and 0 as the labels say.
    """
    if teacher is None:
        classes = task.kind == "cross_entropy" and not y.is_floating_point()
        found = torch.nn.functional.one_hot(y) if classes else y
    else:
        links = {"cross_entropy": lambda z: torch.softmax(z, -1), "bce": torch.sigmoid}
        found = links.get(task.kind, lambda z: z)(predict(teacher, x).double())
    return found.double().reshape(len(x), -1).numpy()


def centred(task: Task, wanted: Floats) -> Floats:
    """Targets for least squares: of yes or no with 0 between the two, which is where the score divides them."""
    return wanted - 0.5 if task.kind == "bce" else wanted


def r2(outputs: Floats, wanted: Floats) -> float:
    """The share of the variance that is explained."""
    return 1 - float(np.square(outputs - wanted).sum() / max(np.square(wanted - wanted.mean()).sum(), 1e-300))


# ---- regression -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbolic:
    """How formulas are found and compiled.

    `engine`: "pyoperon" or "pysr" (needs Julia). `operators`: of `OPERATORS`. `length`: most nodes of a formula. `population`,
    `generations`: of the search, on `events` of the training data. `candidates`: formulas of each output's front that are
    compiled, with `bits` for inputs, tables and products, or as many as keep the relative RMS deviation below `tolerance`.
    `outputs`: which ones, by default all. `budget`: most LUTs, DSP blocks as LUTs; `within`: how much less than the best
    score is good enough for a cheaper choice.
    """

    engine: str = "pyoperon"
    operators: tuple[str, ...] = ("add", "sub", "mul", "square", "tanh", "fmax")
    length: int = 25
    population: int = 300
    generations: int = 50
    events: int = 2000
    candidates: int = 8
    bits: int | None = 10
    tolerance: float | None = None
    outputs: tuple[int, ...] | None = None
    budget: float | None = None
    within: float = 0.0
    target: str = "vu9p"
    clock_ns: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise CompileError("Symbolic", f"engine must be one of {', '.join(_ENGINES)}, not {self.engine!r}")
        _known(self.operators)
        for name in ("length", "population", "generations", "events", "candidates"):
            if getattr(self, name) < 1:
                raise CompileError("Symbolic", f"{name} must be 1 or more, not {getattr(self, name)}")
        if (self.bits is None) == (self.tolerance is None):
            raise CompileError("Symbolic", "takes either bits or a tolerance", "set the other to None")


@dataclass(frozen=True)
class Candidate:
    """A compiled formula: R2 on validation data, nodes by the search's count, `Compiled.cost` in LUTs, and latency."""

    text: str
    r2: float
    complexity: int
    cost: float
    latency_ns: float


@dataclass(frozen=True, eq=False)
class SymbolicResult:
    """`fronts`: of each output, formulas that none cheaper beats. `chosen`: one of each. `rows`: whole models, the cheapest
    first; `row` the chosen one. `refused`: formulas that could not be compiled, with the reason."""

    fronts: tuple[tuple[Candidate, ...], ...]
    chosen: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    row: Row
    refused: tuple[tuple[str, str], ...]

    @property
    def model(self) -> RealModel:
        """All outputs, as `hc.compile` takes them."""
        return self.row.model


def regress(
    task: Task, options: Symbolic | None = None, teacher: nn.Module | None = None, seed: int = 0
) -> SymbolicResult:
    """Formulas of the task's outputs, learned from the teacher's outputs where there is one, from the data else.

    Raises `CompileError` where the engine is missing, no formula compiles, or none is within the budget.
    """
    options = options or Symbolic()
    x, (x_v, y_v) = flat("Symbolic", task), task.validation
    events = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: options.events]
    data, wanted = x[events].double().numpy(), centred(task, targets(task, teacher, x[events], task.y[events]))
    checked = centred(task, targets(task, teacher, x_v, y_v))
    outputs = range(wanted.shape[1]) if options.outputs is None else options.outputs
    unknown = next((k for k in outputs if not 0 <= k < wanted.shape[1]), None)
    if unknown is not None:
        raise CompileError("Symbolic", f"output {unknown} does not exist", f"there are {wanted.shape[1]}, from 0")
    refused: list[tuple[str, str]] = []
    fronts: list[list[Candidate]] = []
    for k in outputs:
        found = _ENGINES[options.engine](options, data, wanted[:, k], seed)
        fronts.append(_front(options, found, data, x_v, checked[:, k], refused))
        if not fronts[-1]:
            raise CompileError(
                "Symbolic", f"no formula of output {k} compiles: {refused[-1][1]}", "use other operators"
            )

    def score(y: Floats) -> float:
        if options.outputs is not None:  # of some outputs there is no score of the task
            return r2(y.reshape(len(x_v), -1), checked[:, list(outputs)])
        return task.score_of(torch.as_tensor(y, dtype=torch.float32), y_v)

    rows = []
    for chosen in _path(fronts):
        model = _model(options, [c.text for c in chosen], data)
        method = f"symbolic, {sum(c.complexity for c in chosen)} nodes"
        rows.append((Row.of(method, Compiled(model, options.target, options.clock_ns), score, x_v), chosen))
    row, chosen = _chosen(options, rows)
    return SymbolicResult(tuple(map(tuple, fronts)), chosen, tuple(r for r, _ in rows), row, tuple(refused))


def _model(options: Symbolic, texts: Sequence[str], data: Floats) -> RealModel:
    names = [f"X{k + 1}" for k in range(data.shape[1])]
    model = expression(list(texts), variables=names, name="symbolic")
    return calibrate(model, {"x": data}, options.bits, options.tolerance)[0]


def _front(
    options: Symbolic,
    found: Sequence[tuple[str, int, float]],
    data: Floats,
    x: Tensor,
    wanted: Floats,
    refused: list[tuple[str, str]],
) -> list[Candidate]:
    """Compiled candidates that none cheaper beats, the cheapest first."""
    candidates: list[Candidate] = []
    for given, complexity, _ in _thinned(found, options.candidates):
        text = _shorter(given, (options.bits or _LONGEST) + 1)
        try:
            compiled = Compiled(_model(options, [text], data), options.target, options.clock_ns)
            cost, latency = compiled.cost, compiled.estimate.latency_ns
        except CompileError as e:
            refused.append((text, str(e)))
            continue
        explained = r2(compiled.predict(x).reshape(-1), wanted)
        candidates.append(Candidate(text, explained, complexity, cost, latency))
    front: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.cost, -c.r2)):
        if not front or c.r2 > front[-1].r2:
            front.append(c)
    return front


def _shorter(text: str, bits: int) -> str:
    """The formula with its constants rounded to so many significant bits, exactly as they are compiled: a constant of nine
    digits is a wide multiplication, and exact sums of several need more bits than there are."""

    def rounded(match: re.Match[str]) -> str:
        mantissa, exponent = np.frexp(float(match[0]))
        return repr(float(np.ldexp(np.round(np.ldexp(mantissa, bits)), int(exponent) - bits)))

    return re.sub(r"(?<![\w.])(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(?![\w.])", rounded, text)


def _thinned(found: Sequence[tuple[str, int, float]], count: int) -> list[tuple[str, int, float]]:
    """So many formulas, at even steps of complexity; the best among them."""
    ordered = sorted(found, key=lambda f: f[1])
    if len(ordered) <= count:
        return ordered
    return [ordered[round(k)] for k in np.linspace(len(ordered) - 1, 0, count)]


def _path(fronts: Sequence[Sequence[Candidate]]) -> list[tuple[Candidate, ...]]:
    """From the cheapest formula of each output to the best, each time by what gains most R2 per LUT."""
    at = [0] * len(fronts)
    path = [tuple(f[0] for f in fronts)]
    while True:
        steps = [
            ((f[j].r2 - f[i].r2) / max(f[j].cost - f[i].cost, 1.0), k, j)
            for k, (f, i) in enumerate(zip(fronts, at))
            for j in range(i + 1, len(f))
        ]
        if not steps:
            return path
        _, k, j = max(steps)
        at[k] = j
        path.append(tuple(f[i] for f, i in zip(fronts, at)))


def _chosen(options: Symbolic, rows: Sequence[tuple[Row, tuple[Candidate, ...]]]) -> tuple[Row, tuple[Candidate, ...]]:
    """The cheapest model that is good enough among those within the budget."""
    allowed = [r for r in rows if options.budget is None or r[0].cost <= options.budget]
    if not allowed:
        least = min(r.cost for r, _ in rows)
        rule = f"the budget of {options.budget:g} LUT is below the cheapest formulas, of {least:.0f}"
        raise CompileError("Symbolic", rule, "raise the budget or use fewer bits")
    best = max(r.score for r, _ in allowed)
    return min((r for r in allowed if r[0].score >= best - options.within), key=lambda r: r[0].cost)


# ---- engines ----------------------------------------------------------------------------------------------------------


def _pyoperon(options: Symbolic, x: Floats, y: Floats, seed: int) -> list[tuple[str, int, float]]:
    """(formula of X1.., length, R2) of the front of accuracy and length."""
    try:
        from pyoperon.sklearn import SymbolicRegressor
    except ImportError:
        raise CompileError("Symbolic", "needs pyoperon", "pip install 'hwcompile[symbolic]'") from None
    regressor = SymbolicRegressor(
        allowed_symbols=",".join((*options.operators, "constant", "variable")),
        objectives=["r2", "length"],
        max_length=options.length,
        population_size=options.population,
        pool_size=options.population,
        generations=options.generations,
        max_evaluations=10**9,
        max_time=10**6,  # the generations are the limit: a time would not give the same formulas again
        optimizer_iterations=3,
        n_threads=1,
        random_state=seed,
    )
    regressor.fit(x, y)
    names = [f"X{k + 1}" for k in range(x.shape[1])]
    return [
        (regressor.get_model_string(s["tree"], 9, names), int(s["complexity"]), -float(s["objective_values"][0]))
        for s in regressor.pareto_front_
    ]


def _pysr(options: Symbolic, x: Floats, y: Floats, seed: int) -> list[tuple[str, int, float]]:
    """The same by PySR, to which an operator is as complex as it is large, an adder being 1."""
    try:
        from pysr import PySRRegressor  # pyright: ignore[reportMissingImports]
    except Exception as e:  # it downloads Julia when it is imported, and raises whatever comes of it
        raise CompileError("Symbolic", f"engine 'pysr' needs PySR with Julia ({str(e)[:80]})", "use pyoperon") from None
    costs = operator_costs(options.operators, options.bits or 10, options.target, options.clock_ns)
    adder = operator_costs(["add"], options.bits or 10, options.target, options.clock_ns)["add"][0]
    names = {o: _PYSR.get(o, o) for o in options.operators}
    regressor = PySRRegressor(
        binary_operators=[names[o] for o in options.operators if o in _BINARY],
        unary_operators=[names[o] for o in options.operators if o not in _BINARY],
        complexity_of_operators={names[o]: max(round(lut / adder), 1) for o, (lut, _) in costs.items()},
        maxsize=max(options.length, 7),
        populations=1,
        population_size=options.population,
        niterations=options.generations,
        deterministic=True,
        parallelism="serial",
        random_state=seed,
        progress=False,
        verbosity=0,
    )
    names_in = [f"X{k + 1}" for k in range(x.shape[1])]
    regressor.fit(x, y, variable_names=names_in)
    spread = float(np.var(y)) or 1.0
    table: Mapping[str, Any] = regressor.equations_
    return [
        (str(text), int(size), 1 - float(loss) / spread)
        for text, size, loss in zip(table["equation"], table["complexity"], table["loss"])
    ]


_ENGINES: dict[str, Callable[[Symbolic, Floats, Floats, int], list[tuple[str, int, float]]]] = {
    "pyoperon": _pyoperon,
    "pysr": _pysr,
}
"""What searches."""
