"""Removes states and the files that nobody refers to, and checks what is there; knows no weights' meaning."""

from __future__ import annotations

from itertools import islice

from ..ir.errors import CompileError
from .database import Database
from .objects import UNFINISHED, Objects
from .query import Condition
from .records import Collected, Health, Removed

__all__ = ["check", "collect", "remove"]

UNFINISHED_GRACE_S = 3600.0
AT_ONCE = 1000  # files that are deleted while writers wait

REFERENCED = (
    "(EXISTS (SELECT 1 FROM tensors WHERE object = o.number) OR EXISTS (SELECT 1 FROM states WHERE graph = o.number))"
)
ANCESTORS = "WITH RECURSIVE found(n) AS ({start} UNION SELECT parent FROM parents JOIN found ON child = n)"
DESCENDANTS = "WITH RECURSIVE found(n) AS (SELECT ? UNION SELECT child FROM parents JOIN found ON parent = n)"


def by_condition(condition: Condition) -> Condition:
    """A statement that selects the numbers of the states that a query finds."""
    return Condition(f"SELECT s.number FROM states s WHERE {condition.sql}", condition.values)


def below(number: int) -> Condition:
    """A statement that selects a state and its descendants."""
    return Condition(f"{DESCENDANTS} SELECT n FROM found", (number,))


def untagged() -> Condition:
    """A statement that selects all but the tagged states and their ancestors."""
    kept = ANCESTORS.format(start="SELECT state FROM tags")
    return Condition(f"{kept} SELECT number FROM states WHERE number NOT IN (SELECT n FROM found)")


def remove(database: Database, selection: Condition) -> Removed:
    """Delete the selected states but the tagged; those with descendants that stay are emptied instead.

    The caller opens the transaction, and takes it back for a dry run, which so says what would happen.
    """
    before = _unreferenced(database)
    database.rows("CREATE TEMP TABLE gone (number INTEGER PRIMARY KEY)")
    database.rows(f"INSERT INTO gone {selection.sql}", selection.values)
    # A state that was emptied earlier goes with the last descendant that needed it.
    database.rows("INSERT OR IGNORE INTO gone SELECT number FROM states WHERE removed")
    database.rows("DELETE FROM gone WHERE number IN (SELECT state FROM tags)")
    needed = ANCESTORS.format(start="SELECT p.parent FROM parents p WHERE p.child NOT IN (SELECT number FROM gone)")
    database.rows("CREATE TEMP TABLE emptied (number INTEGER PRIMARY KEY)")
    database.rows(
        f"INSERT INTO emptied {needed} SELECT n FROM found JOIN gone ON number = n "
        "JOIN states USING (number) WHERE NOT removed"
    )
    database.rows(f"{needed} DELETE FROM gone WHERE number IN (SELECT n FROM found)")
    database.rows("DELETE FROM tensors WHERE state IN (SELECT number FROM emptied)")
    database.rows("UPDATE states SET removed = 1, graph = NULL WHERE number IN (SELECT number FROM emptied)")
    database.rows("DELETE FROM parents WHERE child IN (SELECT number FROM gone)")
    database.rows("DELETE FROM states WHERE number IN (SELECT number FROM gone)")
    counts = [database.value(f"SELECT count(*) FROM {table}") for table in ("gone", "emptied")]
    freed = _unreferenced(database) - before
    database.rows("DROP TABLE gone")
    database.rows("DROP TABLE emptied")
    return Removed(counts[0], counts[1], freed)


def _unreferenced(database: Database) -> int:
    """Bytes of the files that no state refers to."""
    return database.value(f"SELECT coalesce(sum(bytes), 0) FROM objects o WHERE NOT {REFERENCED}")


def collect(database: Database, objects: Objects, *, grace_s: float) -> Collected:
    """Delete the files that no state refers to and that are at least `grace_s` old.

    A writer creates files first and refers to them in a transaction of its own, in which it looks for each of them once
    more. Files are deleted only inside a transaction, after asking again whether a state refers to them. Of the two one is
    first, so what a state refers to is there, whatever the grace period; the period only spares a writer the second writing.
    """
    database.require_writable()
    referred = {row[0] for row in database.rows(f"SELECT digest FROM objects o WHERE {REFERENCED}")}
    candidates = ((digest, path) for digest, path in objects.files() if digest not in referred)
    count = freed = 0
    while some := list(islice(candidates, AT_ONCE)):
        with database.transaction():
            for digest, path in some:
                if database.rows(f"SELECT 1 FROM objects o WHERE digest = ? AND {REFERENCED}", (digest,)):
                    continue
                unfinished = path.name.startswith(UNFINISHED)
                size = objects.delete(path, max(grace_s, UNFINISHED_GRACE_S) if unfinished else grace_s)
                if size >= 0:
                    database.rows("DELETE FROM objects WHERE digest = ?", (digest,))
                    count, freed = count + 1, freed + size
    return Collected(count, freed)


def check(database: Database, objects: Objects) -> Health:
    """Read everything: the database's own consistency, and that each file is there with the content that its name says."""
    problems = [f"database: {row[0]}" for row in database.rows("PRAGMA integrity_check") if row[0] != "ok"]
    problems += [f"database: a row of {row[0]} refers to nothing" for row in database.rows("PRAGMA foreign_key_check")]
    referred = database.rows(f"SELECT digest, kind, bytes FROM objects o WHERE {REFERENCED} ORDER BY digest")
    for digest, kind, _ in referred:
        try:
            objects.read(digest, kind)
        except CompileError as error:
            # Its last state may have been removed, and the file collected, since the list was made.
            if database.rows(f"SELECT 1 FROM objects o WHERE digest = ? AND {REFERENCED}", (digest,)):
                problems.append(str(error))
    states = database.value("SELECT count(*) FROM states")
    return Health(states, len(referred), sum(row[2] for row in referred), tuple(problems))
