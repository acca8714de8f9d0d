"""Formulas as models: strings, sympy expressions, and what PySR and pyoperon found; nothing in them is executed.

    model = expression("0.5*x0**2 + tanh(x1) - x2/(1 + x1**2)", inputs="ap_fixed<12,4>", tolerance=0.005)

The variables are the features of one input ``x``: x0, x1.. count from 0 and X1, X2.. from 1; other names are in their natural
order, or in that of `variables`. Functions become tables; how fine they are is derived from the tolerance.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from . import real
from .calibrate import calibrate
from .functions import FUNCTIONS as TABLES
from .lower import lower
from .precision import Precision, parse_precision
from .real import RealBuilder, RealModel
from .traced import Value, is_value

__all__ = ["FUNCTIONS", "expression", "is_expression", "read_expression"]

_LONGEST = 100_000
_DEEPEST = 200
_EVENTS = 4000


def expression(
    source: Any,
    inputs: str | Mapping[str, str] = "float",
    *,
    variables: Sequence[str] | None = None,
    tolerance: float | None = None,
    bits: int | None = None,
    name: str = "expression",
) -> RealModel:
    """A formula, a list of them (one output each) or formulas by output name, as a model of ``x[features] -> y``.

    `inputs`: the type of every variable, or types by name; "float" leaves it to calibration data given to `compile`. With types, a
    formula without tables is exact; else products and tables get the precision that keeps the outputs within `tolerance` (RMS,
    relative to their RMS, over the whole range of the inputs; 0.01 if nothing is said), or `bits` each. Either of the two narrows
    an exact formula as well. Raises `CompileError` naming what is not understood.
    """
    formulas = _formulas(source)
    found = {v for f in formulas.values() for v in f.names}
    names = _ordered(found) if variables is None else _distinct(variables)
    if not names:
        for f in formulas.values():
            f.value({})  # refuses what is no formula
        raise CompileError(name, "must have a variable", "a constant needs no hardware")
    missing = [v for f in formulas.values() for v in f.names if v not in names]
    if missing:
        raise CompileError(name, f"the variable '{missing[0]}' is not among {', '.join(names)}")
    types = _types(inputs, names)
    builder = RealBuilder(name)
    index = builder.add(real.Input((len(names),)), name="x")
    if types is not None:
        index = builder.add(_joined(types), index, name="x.type")
    x = Value(builder, index, "real")
    values = {v: x[k] for k, v in enumerate(names)}
    outputs: list[tuple[str, int]] = []
    for output, formula in formulas.items():
        y = formula.value(values)
        if not is_value(y):
            raise CompileError(output, "must depend on a variable", "leave the constant out")
        outputs.append((output, y.index))
    if len(outputs) > 1 and all(re.fullmatch(r"y\d+", n) for n, _ in outputs):
        parts = [Value(builder, i, "real").reshape(1) for _, i in outputs]
        outputs = [("y", parts[0].add_op(real.Concat(0), *parts[1:]).index)]
    model = builder.model(outputs)
    if types is None or (tolerance is None and bits is None and _is_exact(model)):
        return model
    tolerance = 0.01 if tolerance is None and bits is None else tolerance
    data = {"x": _whole_range(types)}
    _check_defined(model, data)
    return calibrate(model, data, bits, tolerance)[0]


def _check_defined(model: RealModel, data: Mapping[str, Any]) -> None:
    """Refuse a formula that has no value somewhere in the range of its inputs, naming the function."""
    for node, values in zip(model.nodes, real.evaluate_real(model, data)):
        if not np.isfinite(values).all():
            what = node.op.function if isinstance(node.op, real.Function) else type(node.op).__name__.lower()
            rule = f"'{what}' has no finite value somewhere in the range of the inputs"
            raise CompileError(model.name, rule, "narrow the inputs' types, or clip its operand: log(max(x0, 0.1))")


def _is_exact(model: RealModel) -> bool:
    try:
        lower(model)
    except CompileError:
        return False
    return True


def is_expression(source: Any) -> bool:
    """A sympy expression, or a fitted regressor of PySR or pyoperon."""
    return bool(_packages(source) & {"sympy", "pysr", "pyoperon"})


def _packages(source: Any) -> set[str]:
    """The packages of an object's classes; an undefined function of sympy has a class of no module."""
    return {str(c.__module__).split(".")[0] for c in type(source).__mro__}


def read_expression(source: Any) -> RealModel:
    """A live expression, with precisions open."""
    return expression(source)


# ---- what people have ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Formula:
    """The variables of a formula, and its value for given ones."""

    names: tuple[str, ...]
    value: Callable[[Mapping[str, Value]], Any]


def _formulas(source: Any) -> dict[str, _Formula]:
    if isinstance(source, Mapping):
        return {str(k): _formula(v, str(k)) for k, v in source.items()}
    if isinstance(source, list | tuple):
        return {f"y{k}" if len(source) > 1 else "y": _formula(v, f"y{k}") for k, v in enumerate(source)}
    module = str(type(source).__module__).split(".")[0]
    if module in ("pysr", "pyoperon") and not hasattr(source, "predict"):
        raise CompileError(
            type(source).__name__, "is no fitted regressor", "give the regressor, or its equation as text"
        )
    if module == "pysr":
        found = source.sympy()
        return _formulas(found if isinstance(found, list) else [found])
    if module == "pyoperon":
        if getattr(source, "model_", None) is None:
            raise CompileError(type(source).__name__, "must be fitted before it is compiled", "call fit")
        names = [f"X{k + 1}" for k in range(source.n_features_in_)]
        formula = _formula(source.get_model_string(source.model_, 17, names), "y")
        return {"y": _Formula(tuple(names), formula.value)}
    return {"y": _formula(source, "y")}


def _formula(source: Any, where: str) -> _Formula:
    if isinstance(source, str):
        return _from_text(source, where)
    if getattr(source, "is_Matrix", False):
        raise CompileError(where, "must be one expression, not a matrix", "give the list of its elements")
    if "sympy" in _packages(source):
        names = tuple(str(s) for s in source.free_symbols)
        return _Formula(names, lambda values: _walked(where, lambda: _Sympy(where, values, {}).value(source)))
    raise CompileError(where, f"must be a string or a sympy expression, not {type(source).__name__}")


def _distinct(variables: Any) -> list[str]:
    """The variables' names as they were given."""
    names = [variables] if isinstance(variables, str) or not isinstance(variables, Sequence) else list(variables)
    if not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise CompileError("variables", f"must be different names, not {variables!r}", "give a list of strings")
    return names


def _ordered(names: set[str]) -> list[str]:
    """Names in the order of their numbers; x0.. and X1.. count all features up to the highest."""
    for first, pattern in ((0, r"x(\d+)"), (1, r"X(\d+)")):
        numbers = [re.fullmatch(pattern, n) for n in names]
        if names and all(numbers):
            top = max(int(m[1]) for m in numbers if m)
            if top > _LONGEST:
                raise CompileError("expression", f"the variable number {top} is too high", "give variables=[...]")
            if first <= min(int(m[1]) for m in numbers if m):
                return [f"{pattern[0]}{k}" for k in range(first, top + 1)]
    return sorted(names, key=lambda n: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", n)])


def _types(inputs: str | Mapping[str, str], names: Sequence[str]) -> list[Precision] | None:
    if inputs == "float":
        return None
    if isinstance(inputs, str):
        return [parse_precision(inputs, "inputs")] * len(names)
    if not isinstance(inputs, Mapping):
        raise CompileError(
            "inputs", f"must be a type, or types by name, not {inputs!r}", "write inputs='ap_fixed<12,4>'"
        )
    unknown, absent = [n for n in inputs if n not in names], [n for n in names if n not in inputs]
    if unknown or absent:
        raise CompileError("inputs", f"must give a type for each of {', '.join(names)}", "or one type for all")
    return [parse_precision(inputs[n], f"inputs '{n}'") for n in names]


def _joined(types: Sequence[Precision]) -> real.Quant:
    """One quantizer for all variables."""
    quants = [t.quant() for t in types]
    if len({(q.rounding, q.overflow) for q in quants}) > 1:
        raise CompileError("inputs", "must have one rounding and one overflow mode", "use the same for all")
    if all(t == types[0] for t in types):
        return quants[0]
    scale, lo, hi = (np.array([getattr(q, k) for q in quants]) for k in ("scale", "lo", "hi"))
    return real.Quant(scale, np.zeros((), np.int64), lo, hi, quants[0].rounding, quants[0].overflow)


def _whole_range(types: Sequence[Precision]) -> np.ndarray:
    """Events over the whole range of the inputs: uniform ones, and the corners of each variable."""
    rng = np.random.default_rng(0)
    columns = []
    for t in types:
        lo, hi, exp = int(np.min(t.type.lo)), int(np.max(t.type.hi)), int(np.min(t.type.exp))
        n = rng.integers(lo, hi, _EVENTS, endpoint=True)
        n[:64] = rng.choice([lo, hi, 0 if lo <= 0 <= hi else lo], 64)
        columns.append(np.ldexp(n.astype(np.float64), exp))
    return np.stack(columns, axis=1)


# ---- functions ------------------------------------------------------------------------------------------------------------


def _table(name: str) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        return x.add_op(real.Function(name), kind="real") if is_value(x) else float(TABLES[name](np.float64(x)))

    return apply


def _power(a: Any, b: Any) -> Any:
    return a**b


def _all(join: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *values: reduce(join, values)


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(condition, yes, no) if any(map(is_value, (condition, yes, no))) else (yes if condition else no)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{n: _table(n) for n in ("sigmoid", "erf", "gelu", "silu", "softplus", "softsign")},
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "ln": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "sqrt": np.sqrt, "cbrt": np.cbrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "arcsin": np.arcsin, "arccos": np.arccos, "arctan": np.arctan,
    "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "ceiling": np.ceil, "round": np.rint, "trunc": np.trunc,
    "relu": lambda x: np.maximum(x, 0), "square": lambda x: x * x, "cube": lambda x: x * x * x, "neg": lambda x: -x,
    "inv": lambda x: 1 / x, "pow": _power, "heaviside": np.heaviside, "hypot": np.hypot,
    "logistic": _table("sigmoid"), "greater": lambda a, b: np.greater(a, b) * 1, "less": lambda a, b: np.less(a, b) * 1,
    "mod": np.mod, "max": _all(np.maximum), "min": _all(np.minimum), "fmax": np.maximum, "fmin": np.minimum,
    "where": _chosen, "ite": _chosen, "cond": lambda c, y: _chosen(c > 0, y, 0),
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_not": np.logical_not,
}  # fmt: skip
"""The functions that formulas may use, by lower-case name; sympy's, PySR's and pyoperon's among them."""

_NO_NUMBERS = ("nan", "inf", "infinity", "oo", "zoo")
"""How failed searches write a formula: these are no variables."""

_CONSTANTS = {"pi": math.pi, "e": math.e, "E": math.e, "True": 1.0, "False": 0.0}


def _called(where: str, name: str, arguments: Sequence[Any]) -> Any:
    function = FUNCTIONS.get(name.lower())
    if function is None:
        raise CompileError(where, f"the function '{name}' is not known", f"known: {', '.join(sorted(FUNCTIONS))}")
    takes = function.nin if isinstance(function, np.ufunc) else len(arguments)
    if takes != len(arguments):
        raise CompileError(where, f"'{name}' takes {takes} arguments, not {len(arguments)}")
    try:
        return function(*arguments)
    except (TypeError, ValueError) as e:
        if isinstance(e, CompileError):
            raise
        raise CompileError(where, f"'{name}' does not take these arguments ({e})") from None


def _walked(where: str, walk: Callable[[], Any]) -> Any:
    """What a walk over a formula gives; its constants are whatever can be written."""
    try:
        with np.errstate(all="ignore"):
            return walk()
    except RecursionError:
        raise CompileError(where, f"is nested more than {_DEEPEST} deep", "simplify it") from None
    except ArithmeticError as e:
        raise CompileError(where, f"has a constant without a finite value ({e})", "check its numbers") from None


def _finite(where: str, value: Any) -> Any:
    """A value, or a constant that is a finite real number."""
    if not is_value(value) and (isinstance(value, complex) or not math.isfinite(value)):
        raise CompileError(where, f"has the constant {value}", "use finite real numbers")
    return value


def _balanced(join: Callable[[Any, Any], Any], parts: list[Any]) -> Any:
    """Joined as a tree, which is the shortest way in hardware; constants first among themselves."""
    parts = sorted(parts, key=is_value)
    constants = [p for p in parts if not is_value(p)]
    values = [p for p in parts if is_value(p)]
    while len(values) > 1:
        values = [join(a, b) for a, b in zip(values[::2], values[1::2])] + values[len(values) & ~1 :]
    return reduce(join, [*values, *([reduce(join, constants)] if constants else [])])


# ---- text -----------------------------------------------------------------------------------------------------------------

_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}
_RELATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _from_text(text: str, where: str) -> _Formula:
    """A formula in Python's syntax, or with ^ for powers; it is parsed and walked, never evaluated."""
    if len(text) > _LONGEST:
        raise CompileError(where, f"must have at most {_LONGEST:,} characters, not {len(text):,}")
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise CompileError(where, f"is no formula: {str(e)[:100]}", "write it in Python's syntax") from None
    undefined = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id.lower() in _NO_NUMBERS]
    if undefined:
        raise CompileError(where, f"has the constant {undefined[0]}", "use finite real numbers")
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called]
    return _Formula(
        tuple(dict.fromkeys(n for n in names if n not in _CONSTANTS)),
        lambda values: _walked(where, lambda: _Text(where, values, {}).value(tree, 0)),
    )


@dataclass(frozen=True)
class _Text:
    """One walk over a syntax tree; what occurs again is computed once."""

    where: str
    values: Mapping[str, Value]
    made: dict[str, Any]

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > _DEEPEST:
            raise CompileError(self.where, f"is nested more than {_DEEPEST} deep", "simplify it")
        key = ast.dump(node) if not isinstance(node, ast.Constant | ast.Name) else ""
        if key not in self.made or not key:
            self.made[key] = _finite(self.where, self._value(node, depth + 1))
        return self.made[key]

    def _value(self, node: ast.expr, depth: int) -> Any:
        def of(n: ast.expr) -> Any:
            return self.value(n, depth)

        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.Name):
            return self.values[node.id] if node.id in self.values else _CONSTANTS[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in (ast.Add, ast.Mult):
            parts = [of(n) for n in _chain(node, type(node.op))]
            return _balanced(_OPERATIONS[type(node.op)], parts)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return -of(node.operand) if isinstance(node.op, ast.USub) else of(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return np.logical_not(of(node.operand))
        if isinstance(node, ast.Compare) and all(type(o) in _RELATIONS for o in node.ops):
            terms = [of(n) for n in (node.left, *node.comparators)]
            pairs = [_RELATIONS[type(o)](a, b) for o, a, b in zip(node.ops, terms, terms[1:])]
            return reduce(np.logical_and, pairs)
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return reduce(join, [of(n) for n in node.values])
        if isinstance(node, ast.IfExp):
            return _chosen(of(node.test), of(node.body), of(node.orelse))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return _called(self.where, node.func.id, [of(n) for n in node.args])
        part = ast.unparse(node)[:40]
        raise CompileError(
            self.where, f"'{part}' is no part of a formula", "use numbers, variables, operators and functions"
        )


def _chain(node: ast.expr, op: type) -> list[ast.expr]:
    """The terms of a + b + c, or the factors of a product."""
    found: list[ast.expr] = []
    rest = [node]
    while rest:
        n = rest.pop()
        if isinstance(n, ast.BinOp) and type(n.op) is op:
            rest += [n.right, n.left]
        else:
            found.append(n)
    return found


# ---- sympy ----------------------------------------------------------------------------------------------------------------

_SYMPY_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "StrictLessThan": np.less,
    "LessThan": np.less_equal,
    "StrictGreaterThan": np.greater,
    "GreaterThan": np.greater_equal,
    "Equality": np.equal,
    "Unequality": np.not_equal,
}


@dataclass(frozen=True)
class _Sympy:
    """One walk over a sympy expression; sympy itself is not imported."""

    where: str
    values: Mapping[str, Value]
    made: dict[Any, Any]

    def value(self, e: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise CompileError(self.where, f"is nested more than {_DEEPEST} deep", "simplify it")
        if e not in self.made:
            self.made[e] = _finite(self.where, self._value(e, depth + 1))
        return self.made[e]

    def _value(self, e: Any, depth: int) -> Any:
        kind = type(e).__name__
        if kind in ("Symbol", "Dummy"):
            if str(e) not in self.values:  # the index of a sum, the variable of an integral
                raise CompileError(self.where, f"'{e}' is bound inside of it", "work it out before, with doit()")
            return self.values[str(e)]
        if getattr(e, "is_number", False):
            return self._number(e)
        if kind in ("BooleanTrue", "BooleanFalse"):
            return kind == "BooleanTrue"
        if kind == "Piecewise":
            return self._piecewise(e, depth)
        parts = [self.value(a, depth) for a in e.args]
        if kind in ("Add", "Mul"):
            return _balanced(_OPERATIONS[ast.Add if kind == "Add" else ast.Mult], parts)
        if kind == "Pow":
            return parts[0] ** parts[1]
        if kind == "exp":
            return np.exp(parts[0])
        if kind in _SYMPY_RELATIONS:
            return _SYMPY_RELATIONS[kind](*parts)
        if kind in ("And", "Or"):
            return reduce(np.logical_and if kind == "And" else np.logical_or, parts)
        if kind == "Not":
            return np.logical_not(parts[0])
        return _called(self.where, e.func.__name__, parts)

    def _number(self, e: Any) -> float:
        try:
            return float(e)
        except TypeError:
            raise CompileError(self.where, f"'{e}' is no real number") from None

    def _piecewise(self, e: Any, depth: int) -> Any:
        found: Any = None
        for value, condition in reversed([a.args for a in e.args]):
            test, v = self.value(condition, depth), self.value(value, depth)
            if found is None:
                if test is not True:
                    raise CompileError(self.where, "a Piecewise must cover all values", "end it with (value, True)")
                found = v
            else:
                found = _chosen(test, v, found)
        return found
