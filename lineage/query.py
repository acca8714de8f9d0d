"""Knows the query language, and writes it as SQL with parameters; runs nothing and knows no state."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..ir.errors import CompileError

__all__ = ["Condition", "Names", "translate"]

COLUMNS = {
    "id": "s.id", "method": "s.method", "target": "s.target", "branch": "s.branch", "step": "s.step_name", "error": "s.error",
}  # fmt: skip
TREES = ("properties", "parameters")  # JSON, whose scalar leaves are in the table `facts`
OPERATORS = {ast.Eq: "=", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
MEMBERSHIP = {ast.In: "IN", ast.NotIn: "NOT IN"}
MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
LONGEST, DEEPEST = 5000, 50
FORMS = "see docs/lineage.md; for instance: accuracy > 0.75 and (lut < 5000 or tag = 'best') and not has(error)"


@dataclass(frozen=True)
class Names:
    """The names that queries may use: of metrics, and of the leaves of properties and parameters."""

    metrics: Collection[str]
    facts: Collection[str]


@dataclass(frozen=True)
class Condition:
    """SQL over the table `states` as `s`, and the values of its question marks in order."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Test(Condition):
    """A test of the one value that a state has under (table, name): `sql` wraps `test`, which has all values but the name."""

    of: tuple[str, str] = ("", "")
    test: str = ""


@dataclass(frozen=True)
class _Field:
    """What stands on one side of a comparison: `kind` is column, created, tag, metrics or facts."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name


def translate(text: str, names: Names) -> Condition:
    """The condition that `text` states; everything for an empty text.

    Raises CompileError for anything outside the language and for a metric or property that no state has.
    """
    if not text.strip():
        return Condition("1")
    where = f"query {text.strip()[:80]!r}"
    if len(text) > LONGEST:
        raise CompileError(where, f"must be at most {LONGEST} characters long, not {len(text)}")
    try:
        tree = ast.parse(_with_equality(text), mode="eval")
    except (SyntaxError, tokenize.TokenError, ValueError, MemoryError, RecursionError) as error:
        raise CompileError(where, f"is not an expression ({getattr(error, 'msg', None) or error})", FORMS) from None
    return _Translator(where, names).condition(tree.body, 0)


def _with_equality(text: str) -> str:
    """`text` in one line, with == for each single = outside of strings."""
    line = " ".join(text.split("\n")).strip()
    at = [
        t.start[1]
        for t in tokenize.generate_tokens(io.StringIO(line).readline)
        if t.type == tokenize.OP and t.string == "="
    ]
    for column in reversed(at):
        line = f"{line[:column]}=={line[column + 1 :]}"
    return line


class _Translator:
    def __init__(self, where: str, names: Names) -> None:
        self.where, self.names = where, names

    def refuse(self, node: ast.AST, rule: str) -> CompileError:
        return CompileError(self.where, f"'{ast.unparse(node)[:80]}' {rule}", FORMS)

    def condition(self, node: ast.expr, depth: int) -> Condition:
        if depth > DEEPEST:
            raise CompileError(self.where, f"must not be nested more than {DEEPEST} deep")
        match node:
            case ast.BoolOp(op, parts):
                word = " AND " if isinstance(op, ast.And) else " OR "
                return _joined(word, [self.condition(part, depth + 1) for part in parts])
            case ast.UnaryOp(ast.Not(), operand):
                inner = self.condition(operand, depth + 1)
                return Condition(f"NOT {inner.sql}", inner.values)
            case ast.Compare(left, operators, rights):
                sides = [left, *rights]
                pairs = zip(sides, operators, rights)
                return _joined(" AND ", [self.comparison(node, a, op, b) for a, op, b in pairs])
            case ast.Call(ast.Name("has"), [argument], []):
                return self.has(argument)
        raise self.refuse(node, "is not a condition")

    def comparison(self, node: ast.expr, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
        if type(operator) in MEMBERSHIP:
            if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                raise self.refuse(node, "must have a list in parentheses after 'in'")
            values = [self.constant(item) for item in right.elts]
            return self.compare(node, self.field(left), MEMBERSHIP[type(operator)], values)
        if type(operator) not in OPERATORS:
            raise self.refuse(node, "must use =, !=, <, <=, >, >=, in or not in")
        sign = OPERATORS[type(operator)]
        if _is_constant(left) and not _is_constant(right):
            left, right, sign = right, left, MIRRORED[sign]
        field = self.field(left)
        if not _is_constant(right):
            word = ast.unparse(right)
            raise self.refuse(node, f"must compare with a number or a text; a text needs quotes: '{word}'")
        return self.compare(node, field, sign, [self.constant(right)])

    def compare(self, node: ast.expr, field: _Field, sign: str, values: Sequence[Any]) -> Condition:
        def all_of(kinds: type | tuple[type, ...], what: str) -> None:
            if not all(isinstance(v, kinds) and (kinds is str or not isinstance(v, bool)) for v in values):
                raise self.refuse(node, f"must compare {field} with {what}")

        given = f"({', '.join('?' * len(values))})" if "IN" in sign else "?"
        if field.kind == "metrics":
            all_of((int, float), "a number")
            return _test(("metrics", field.name), f"value {sign} {given}", tuple(map(_bounded, values)))
        if field.kind == "facts":
            kind = "text" if isinstance(values[0], str) else "number"
            # SQLite puts every text above every number; here the two have no order.
            types = {"text": "'text'", "number": "'integer', 'real'"}[kind] if sign[0] in "<>" else ""
            guard = f" AND typeof(value) IN ({types})" if types else ""
            return _test(("facts", field.name), f"value {sign} {given}{guard}", tuple(map(_bounded, values)))
        all_of(str, "a text in quotes")
        if field.kind == "created":
            return Condition(f"s.created {sign} {given}", tuple(self.seconds(node, v) for v in values))
        if field.kind == "column":
            return Condition(f"{COLUMNS[field.name]} {sign} {given}", tuple(values))
        if sign not in ("=", "!=", "IN", "NOT IN"):
            raise self.refuse(node, "must use =, !=, in or not in: tags have no order")
        found = _among("tags", f"name IN ({', '.join('?' * len(values))})", tuple(values))
        return found if sign in ("=", "IN") else Condition(f"NOT {found.sql}", found.values)

    def has(self, node: ast.expr) -> Condition:
        field = self.field(node)
        match field.kind:
            case "tag":
                return Condition("s.number IN (SELECT state FROM tags)")
            case "created":
                return Condition("1")
            case "column":
                return Condition(f"{COLUMNS[field.name]} != ''")
        return _among(field.kind, "name = ?", (field.name,))

    def field(self, node: ast.expr) -> _Field:
        match node:
            case ast.Call(ast.Name("metric"), [ast.Constant(str(name))], []):
                return self.known("metrics", name)
            case ast.Call(ast.Name("properties" | "parameters" as tree), [ast.Constant(str(name))], []):
                return self.known("facts", f"{tree}.{name}")
            case ast.Name(name) if name in COLUMNS:
                return _Field("column", name)
            case ast.Name("created" | "tag" as name):
                return _Field(name, name)
            case ast.Name(name) if name not in TREES:
                return self.known("metrics", name)
            case ast.Attribute():
                parts = ast.unparse(node).split(".")
                if parts[0] in TREES and all(map(str.isidentifier, parts)):
                    return self.known("facts", ".".join(parts))
        raise self.refuse(
            node, f"is no metric, none of {', '.join((*COLUMNS, 'created', 'tag'))}, and not properties.NAME"
        )

    def known(self, kind: str, name: str) -> _Field:
        known = self.names.metrics if kind == "metrics" else self.names.facts
        if name not in known:
            what = "metric" if kind == "metrics" else "property or parameter"
            raise CompileError(
                self.where, f"no state has a {what} '{name}'", f"known: {', '.join(sorted(known)) or 'none'}"
            )
        return _Field(kind, name)

    def constant(self, node: ast.expr) -> Any:
        if not _is_constant(node):
            raise self.refuse(node, "must be a number or a text in quotes")
        return ast.literal_eval(node)

    def seconds(self, node: ast.expr, text: str) -> float:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise self.refuse(node, "must have a date such as '2026-03-31' or '2026-03-31 12:00' (UTC)") from None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _is_constant(node: ast.expr) -> bool:
    """A number, with a sign or without, a text, True or False."""
    match node:
        case ast.UnaryOp(ast.USub() | ast.UAdd(), ast.Constant(value)):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Constant(value):
            return isinstance(value, int | float | str)
    return False


def _bounded(value: Any) -> Any:
    """A number that the database can hold; an integer beyond any float is infinite, as its literal is."""
    return float(str(value)) if isinstance(value, int) and abs(value) >= 2**63 else value


def _among(table: str, condition: str, values: tuple[Any, ...]) -> Condition:
    return Condition(f"s.number IN (SELECT state FROM {table} WHERE {condition})", values)


def _test(of: tuple[str, str], test: str, values: tuple[Any, ...]) -> _Test:
    whole = _among(of[0], f"name = ? AND {test}", (of[1], *values))
    return _Test(whole.sql, whole.values, of, test)


def _joined(word: str, parts: Sequence[Condition]) -> Condition:
    if word == " AND ":
        parts = _merged(parts)
    if len(parts) == 1:
        return parts[0]
    return Condition(f"({word.join(p.sql for p in parts)})", tuple(v for p in parts for v in p.values))


def _merged(parts: Sequence[Condition]) -> list[Condition]:
    """Tests of one metric become one test: 0.7 < accuracy < 0.71 then reads that range of the index, and not two halves."""
    tests: dict[tuple[str, str], _Test] = {}
    others: list[Condition] = []
    for part in parts:
        if not isinstance(part, _Test):
            others.append(part)
        elif (before := tests.get(part.of)) is None:
            tests[part.of] = part
        else:
            tests[part.of] = _test(part.of, f"{before.test} AND {part.test}", (*before.values[1:], *part.values[1:]))
    return [*tests.values(), *others]
