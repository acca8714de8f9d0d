"""The store: adds states, finds them, walks their lineage; SQL and files are behind it, training is not its business."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np

from ..ir.errors import CompileError
from . import compare as comparing
from . import removal
from .database import Database
from .objects import Object, Objects, blob, tensor
from .query import Condition, Names, translate
from .records import Collected, Edge, Health, Removed, State, Step, canonical, checked_metrics, checked_text, leaves

__all__ = ["Store"]

ID_DIGITS = 32
SHORTEST_PREFIX = 4
COLLECT_GRACE_S = 60.0
FIRST_BRANCH = "main"

P = ParamSpec("P")
R = TypeVar("R")


def _at_one_moment(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """A method that makes several reads, none of which sees what other processes write meanwhile."""

    @functools.wraps(method)
    def reading(self: Store, *arguments: P.args, **options: P.kwargs) -> R:
        with self._database.snapshot():
            return method(self, *arguments, **options)

    return reading


class Store:
    """A folder of model states and how each was made from others.

    `path` is the folder, made where there is none (not with `create=False` or `read_only=True`). Any number of threads and
    processes of one machine may use a store at once. A method that takes a state takes a `State`, an id, a unique start of
    an id, or a tag that one state has. Raises CompileError for a path that is no store, a newer schema, a damaged file.
    """

    def __init__(self, path: str | Path, *, create: bool = True, read_only: bool = False) -> None:
        self.folder = Path(path)
        self._database = Database(self.folder, create=create, read_only=read_only)
        self._objects = Objects(self.folder / "objects")
        self._where = self._database.where

    @property
    def read_only(self) -> bool:
        return self._database.read_only

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._database.value("SELECT count(*) FROM states")

    # Adding.

    def add(
        self,
        weights: Mapping[str, np.ndarray] | None = None,
        *,
        parents: Iterable[State | str] = (),
        step: Step | None = None,
        method: str = "",
        metrics: Mapping[str, float] | None = None,
        target: str = "",
        branch: str = "",
        graph: str | bytes = "",
        report: Any = None,
        properties: Mapping[str, Any] | None = None,
        error: str = "",
        key: Any = None,
        tags: Iterable[str] = (),
    ) -> State:
        """Record a state; once this returns it survives kill -9 and, if the disk syncs as it says, a power cut.

        `weights` are numpy arrays by name, `graph` is a compiled graph's text or bytes, `report` and `properties` are
        JSON-able. The branch is by default that of the first parent. A failed trial has its `error` and, mostly, no weights.

        The same content is the same state: adding it again adds nothing but tags. With a `key` (text or JSON-able, such as
        (study, trial number)) the key decides: a second add with it returns the first one's state, whatever else it says,
        so that a trial which is run again after a crash is not counted twice.
        """
        if isinstance(parents, State | str):
            parents = (parents,)
        mothers = [self.get(p) for p in parents]
        names = [checked_text("tag", tag, empty=False) for tag in ([tags] if isinstance(tags, str) else tags)]
        row, values = _row(mothers, step, method, target, branch, properties, error, key)
        tensors = {
            checked_text("weights: a name", n, empty=False): tensor(f"weight '{n}'", a)
            for n, a in (weights or {}).items()
        }
        compiled = _graph(graph)
        values["metrics"] = checked_metrics(metrics or {})
        values["report"] = canonical("report", report) if report is not None else ""
        values["weights"] = {n: o.digest for n, o in tensors.items()}
        values["graph"] = compiled.digest if compiled else ""
        row["id"] = hashlib.sha256(canonical("state", values).encode()).hexdigest()[:ID_DIGITS]
        objects = [*tensors.values(), *([compiled] if compiled else [])]

        self._database.require_writable()
        known = self._known(row)
        if known is None or known[1] == row["id"]:
            self._objects.write(objects)
        with self._database.transaction():
            known = self._known(row)
            number = known[0] if known else self._insert(row, mothers, values)
            if known is None or known[1:] == (row["id"], True):
                self._objects.write(objects)  # those that were collected since; nobody collects now
                self._refer(number, tensors, compiled)
            for name in names:
                self._database.rows("INSERT OR IGNORE INTO tags VALUES (?, ?)", (name, number))
            return self._states([number])[0]

    def _known(self, row: Mapping[str, Any]) -> tuple[int, str, bool] | None:
        """Number, id and whether it was emptied, of the state with this row's key or, without a key, its id."""
        by = "id" if row["key"] is None else "key"
        found = self._database.rows(f"SELECT number, id, removed FROM states WHERE {by} = ?", (row[by],))
        return (*found[0][:2], bool(found[0][2])) if found else None

    def _insert(self, row: Mapping[str, Any], mothers: Sequence[State], values: Mapping[str, Any]) -> int:
        database = self._database
        full = {**row, "created": time.time()}
        database.rows(
            f"INSERT INTO states ({', '.join(full)}) VALUES ({', '.join('?' * len(full))})", tuple(full.values())
        )
        number: int = database.value("SELECT number FROM states WHERE id = ?", (row["id"],))
        for position, mother in enumerate(mothers):
            found = database.value("SELECT number FROM states WHERE id = ?", (mother.id,))
            if found is None:
                raise CompileError(self._where, f"the parent {mother.id} was removed meanwhile")
            database.rows("INSERT INTO parents VALUES (?, ?, ?)", (number, position, found))
        database.insert("INSERT INTO metrics VALUES (?, ?, ?)", ((number, n, v) for n, v in values["metrics"].items()))
        facts = dict(leaves("properties", json.loads(row["properties"])))
        facts |= dict(leaves("parameters", json.loads(row["step"])["parameters"] if row["step"] else {}))
        database.insert("INSERT INTO facts VALUES (?, ?, ?)", ((number, n, v) for n, v in facts.items()))
        if values["report"]:
            database.rows("INSERT INTO reports VALUES (?, ?)", (number, values["report"]))
        return number

    def _refer(self, number: int, tensors: Mapping[str, Object], compiled: Object | None) -> None:
        for name, item in tensors.items():
            self._database.rows("INSERT INTO tensors VALUES (?, ?, ?)", (number, name, self._object(item)))
        graph = self._object(compiled) if compiled else None
        self._database.rows("UPDATE states SET graph = ?, removed = 0 WHERE number = ?", (graph, number))

    def _object(self, item: Object) -> int:
        found = self._database.value("SELECT number FROM objects WHERE digest = ?", (item.digest,))
        if found is None:
            size = self._objects.path(item.digest, item.kind).stat().st_size
            values = (item.digest, item.kind, size)
            self._database.rows("INSERT INTO objects (digest, kind, bytes) VALUES (?, ?, ?)", values)
            found = self._database.value("SELECT number FROM objects WHERE digest = ?", (item.digest,))
        return found

    def fork(self, state: State | str, branch: str, *, tags: Iterable[str] = ()) -> State:
        """A child with the same weights, graph, metrics and properties that begins the branch `branch`.

        Its tensors take no space of their own.
        """
        checked_text("branch", branch, empty=False)
        origin = self.get(state)
        return self.add(
            self.weights(origin),
            parents=[origin],
            step=Step("fork", {"branch": branch}),
            method=origin.method,
            metrics=origin.metrics,
            target=origin.target,
            branch=branch,
            graph=self.graph(origin),
            report=self.report(origin),
            properties=origin.properties,
            error=origin.error,
            tags=tags,
        )

    def tag(self, state: State | str, *names: str) -> State:
        """Give a state tags; several states may have the same one. A tagged state is never removed."""
        with self._database.transaction():
            number = self._number(state)
            for name in names:
                values = (checked_text("tag", name, empty=False), number)
                self._database.rows("INSERT OR IGNORE INTO tags VALUES (?, ?)", values)
            return self._states([number])[0]

    def untag(self, state: State | str, *names: str) -> State:
        """Take tags from a state; refuses one that it does not have."""
        with self._database.transaction():
            number = self._number(state)
            for name in names:
                if not self._database.rows("SELECT 1 FROM tags WHERE name = ? AND state = ?", (name, number)):
                    raise CompileError(f"state {self._states([number])[0].id}", f"has no tag '{name}'")
                self._database.rows("DELETE FROM tags WHERE name = ? AND state = ?", (name, number))
            return self._states([number])[0]

    # Finding.

    def tags(self) -> dict[str, tuple[str, ...]]:
        """All tags, with the ids of the states that have them, oldest first."""
        found: dict[str, list[str]] = {}
        for name, identity in self._database.rows(
            "SELECT name, id FROM tags JOIN states ON number = state ORDER BY name, number"
        ):
            found.setdefault(name, []).append(identity)
        return {name: tuple(ids) for name, ids in found.items()}

    @_at_one_moment
    def get(self, state: State | str) -> State:
        """The state as it is now: by id, by a unique start of at least 4 digits, or by a tag that one state has."""
        return self._states([self._number(state)])[0]

    @_at_one_moment
    def with_key(self, key: Any) -> State | None:
        """The state that was added with this key, None if there is none yet."""
        number = self._database.value("SELECT number FROM states WHERE key = ?", (canonical("key", key),))
        return None if number is None else self._states([number])[0]

    @_at_one_moment
    def find(
        self, query: str = "", *, order_by: str = "", descending: bool = False, limit: int | None = None
    ) -> list[State]:
        """The states for which `query` holds (docs/lineage.md has the language), oldest first; all for an empty query.

        `order_by` is a metric, and then only states that have it are found, or 'created'. `limit` is the most to return.
        Raises CompileError for anything outside the language and for a metric that no state has.
        """
        if limit is not None and limit < 0:
            raise CompileError("limit", f"must be at least 0, not {limit}")
        condition = self._condition(query)
        direction = "DESC" if descending else "ASC"
        tail = f"LIMIT {-1 if limit is None else int(limit)}"
        if order_by in ("", "created"):
            sql = f"SELECT s.number FROM states s WHERE {condition.sql} ORDER BY s.number {direction} {tail}"
            return self._states([row[0] for row in self._database.rows(sql, condition.values)])
        if order_by not in (known := self.metric_names()):
            raise CompileError(
                f"order '{order_by}'", "must be a metric or 'created'", f"metrics: {', '.join(known) or 'none'}"
            )
        sql = (
            "SELECT s.number FROM metrics o CROSS JOIN states s ON s.number = o.state "  # CROSS: in the index's order
            f"WHERE o.name = ? AND {condition.sql} ORDER BY o.value {direction}, o.state {direction} {tail}"
        )
        return self._states([row[0] for row in self._database.rows(sql, (order_by, *condition.values))])

    def metric_names(self) -> list[str]:
        """The names of all metrics that states have."""
        return self._distinct("metrics")

    def _distinct(self, table: str) -> list[str]:
        # One look into the index for each name, where DISTINCT would read all of it.
        return [row[0] for row in self._database.rows(
            f"WITH RECURSIVE found(x) AS (SELECT min(name) FROM {table} UNION ALL "
            f"SELECT (SELECT min(name) FROM {table} WHERE name > x) FROM found WHERE x IS NOT NULL) "
            "SELECT x FROM found WHERE x IS NOT NULL"
        )]  # fmt: skip

    def _condition(self, query: str) -> Condition:
        return translate(checked_text("query", query), Names(self.metric_names(), self._distinct("facts")))

    def _number(self, state: State | str) -> int:
        given = state.id if isinstance(state, State) else checked_text("state", state, empty=False)
        found = self._database.rows("SELECT number FROM states WHERE id = ?", (given,))
        if not found and not isinstance(state, State):
            found = self._database.rows("SELECT state FROM tags WHERE name = ? LIMIT 2", (given,))
            if not found and len(given) >= SHORTEST_PREFIX:
                found = self._database.rows(
                    "SELECT number FROM states WHERE id >= ? AND id < ? LIMIT 2", (given, given + "g")
                )
        if len(found) == 1:
            return found[0][0]
        rule = f"'{given}' names more than one state" if found else f"there is no state '{given}'"
        raise CompileError(self._where, rule, "give its id, at least 4 digits of it, or a tag that it alone has")

    def _states(self, numbers: Sequence[int]) -> list[State]:
        """The states with these numbers, in this order."""
        some = (json.dumps(numbers),)
        of = "IN (SELECT value FROM json_each(?))"
        metrics: dict[int, dict[str, float]] = {n: {} for n in numbers}
        tags: dict[int, list[str]] = {n: [] for n in numbers}
        parents: dict[int, list[str]] = {n: [] for n in numbers}
        for number, name, value in self._database.rows(
            f"SELECT state, name, value FROM metrics WHERE state {of}", some
        ):
            metrics[number][name] = value
        for number, name in self._database.rows(f"SELECT state, name FROM tags WHERE state {of} ORDER BY name", some):
            tags[number].append(name)
        for number, identity in self._database.rows(
            f"SELECT child, id FROM parents JOIN states ON number = parent WHERE child {of} ORDER BY child, position",
            some,
        ):
            parents[number].append(identity)
        rows = self._database.rows(
            "SELECT number, id, method, target, branch, error, created, removed, "
            "properties, coalesce(key, 'null'), coalesce(step, 'null') "
            f"FROM states WHERE number {of}", some,
        )  # fmt: skip
        # One JSON text for all rows: parsing three small ones for each takes a fifth longer in all.
        parsed = json.loads(f"[{','.join(f'[{row[8]},{row[9]},{row[10]}]' for row in rows)}]")
        found = {}
        for row, (properties, key, step) in zip(rows, parsed):
            number, identity, method, target, branch, error, created, removed = row[:8]
            found[number] = State(
                identity, method, metrics[number], target, branch, properties, error,
                tuple(key) if isinstance(key, list) else key, created, tuple(tags[number]), tuple(parents[number]),
                Step(**step) if step else None, bool(removed),
            )  # fmt: skip
        return [found[n] for n in numbers]

    # Lineage.

    @_at_one_moment
    def parents(self, state: State | str) -> list[State]:
        """The states that this one was made from, in the order in which they were given."""
        return self._walk("SELECT parent FROM parents WHERE child = ? ORDER BY position", state)

    @_at_one_moment
    def children(self, state: State | str) -> list[State]:
        """The states that were made from this one, oldest first."""
        return self._walk("SELECT DISTINCT child FROM parents WHERE parent = ? ORDER BY child", state)

    @_at_one_moment
    def ancestors(self, state: State | str) -> list[State]:
        """All that this state was made from, in any number of steps; each after its own parents."""
        walk = removal.ANCESTORS.format(start="SELECT parent FROM parents WHERE child = ?")
        return self._walk(f"{walk} SELECT n FROM found ORDER BY n", state)

    @_at_one_moment
    def descendants(self, state: State | str) -> list[State]:
        """All that was made from this state, in any number of steps; each after its own parents."""
        return self._walk(f"{removal.DESCENDANTS} SELECT n FROM found ORDER BY n LIMIT -1 OFFSET 1", state)

    @_at_one_moment
    def path(self, state: State | str) -> list[State]:
        """From the root to this state, along first parents."""
        return self._walk(
            "WITH RECURSIVE found(n) AS (SELECT ? UNION ALL SELECT parent FROM parents JOIN found ON child = n "
            "WHERE position = 0) SELECT n FROM found ORDER BY n",
            state,
        )

    @_at_one_moment
    def rebuild(self, state: State | str) -> list[Edge]:
        """The recipe, to be read: every step from the roots to this state, each after those that made its parents."""
        return [Edge(s.parents, s.id, s.step) for s in (*self.ancestors(state), self.get(state))]

    def _walk(self, sql: str, state: State | str) -> list[State]:
        return self._states([row[0] for row in self._database.rows(sql, (self._number(state),))])

    # Content.

    def weights(self, state: State | str) -> dict[str, np.ndarray]:
        """The arrays by name, each checked against its hash; empty for a failed trial.

        Raises CompileError where a file is damaged or missing, and for a state whose weights were removed.
        """
        with self._database.snapshot():
            rows = self._database.rows(
                "SELECT name, digest, kind FROM tensors JOIN objects ON number = object WHERE state = ? ORDER BY name",
                (self._present(state),),
            )
        return {name: self._objects.read(digest, kind) for name, digest, kind in rows}  # type: ignore[misc]

    def graph(self, state: State | str) -> str | bytes:
        """The compiled graph as it was given; empty text if none was."""
        with self._database.snapshot():
            rows = self._database.rows(
                "SELECT digest, kind FROM objects o JOIN states s ON s.graph = o.number WHERE s.number = ?",
                (self._present(state),),
            )
        if not rows:
            return ""
        content = self._objects.read(*rows[0])
        return content.decode() if rows[0][1] == "text" else content  # type: ignore[return-value,union-attr]

    @_at_one_moment
    def report(self, state: State | str) -> Any:
        """The report as JSON gives it back; None if there was none."""
        text = self._database.value("SELECT report FROM reports WHERE state = ?", (self._number(state),))
        return None if text is None else json.loads(text)

    def _present(self, state: State | str) -> int:
        number = self._number(state)
        if self._database.value("SELECT removed FROM states WHERE number = ?", (number,)):
            raise CompileError(
                f"state {self._states([number])[0].id}", "its weights and graph were removed, its recipe is left",
                "train it again by the steps that Store.rebuild lists",
            )  # fmt: skip
        return number

    def compare(self, a: State | str, b: State | str) -> comparing.Comparison:
        """Metrics, tensors and recipes of two states side by side; print it for a table."""
        first, second = self.get(a), self.get(b)
        graphs = self.graph(first) == self.graph(second)
        return comparing.compare(first, second, (self.weights(first), self.weights(second)), graphs)

    # Removing and checking.

    def remove(
        self, query: str = "", *, below: State | str | None = None, keep_tagged: bool = False, dry_run: bool = False
    ) -> Removed:
        """Remove states: those of a query, one and its descendants, or all but the tagged and their ancestors.

        One of the three must be given. A tagged state always stays. A state with descendants that stay keeps its recipe and
        metrics, and loses weights and graph. `dry_run` changes nothing and says what would happen. Files stay until `collect`.
        """
        if bool(query.strip()) + (below is not None) + keep_tagged != 1:
            raise CompileError("remove", "must have exactly one of a query, below and keep_tagged")
        with self._database.transaction(keep=not dry_run):
            if below is not None:
                selection = removal.below(self._number(below))
            elif keep_tagged:
                selection = removal.untagged()
                if not self.tags():
                    raise CompileError("remove", "would take every state, as none is tagged", "tag what is to stay")
            else:
                selection = removal.by_condition(self._condition(query))
            return removal.remove(self._database, selection)

    def collect(self, *, grace_s: float = COLLECT_GRACE_S) -> Collected:
        """Delete the files that no state refers to, and that are at least `grace_s` seconds old; safe beside writers."""
        return removal.collect(self._database, self._objects, grace_s=grace_s)

    def check(self) -> Health:
        """Read the whole store and say all that is wrong with it."""
        return removal.check(self._database, self._objects)


def _reopen(path: Path, read_only: bool) -> Store:
    return Store(path, create=False, read_only=read_only)


def _row(
    mothers: Sequence[State], step: Step | None, method: str, target: str, branch: str,
    properties: Mapping[str, Any] | None, error: str, key: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The columns of the table `states`, and the values that, with the content's, make the id."""
    texts = {"method": method, "target": target, "branch": branch, "error": error}
    row: dict[str, Any] = {name: checked_text(name, text) for name, text in texts.items()}
    row["branch"] = branch or (mothers[0].branch if mothers else FIRST_BRANCH)
    row["properties"] = canonical("properties", dict(properties or {}))
    row["key"] = None if key is None else canonical("key", key)
    row["step"], row["step_name"] = None, ""
    if step is not None:
        if not isinstance(step, Step):
            raise CompileError("step", f"must be a Step, not {step!r}")
        row["step_name"] = checked_text("step", step.name, empty=False)
        row["step"] = canonical(f"step '{step.name}'", {**vars(step), "parameters": dict(step.parameters)})
    if len({mother.id for mother in mothers}) < len(mothers):
        raise CompileError("parents", "must be different states")
    return row, {**row, "parents": [mother.id for mother in mothers]}


def _graph(graph: str | bytes) -> Object | None:
    if not isinstance(graph, str | bytes):
        raise CompileError("graph", f"must be text or bytes, not {type(graph).__name__}")
    return blob(checked_text("graph", graph) if isinstance(graph, str) else graph) if graph else None
