"""Knows the SQLite file: its schema and version, opening, transactions, and what SQLite's errors mean to the user."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..ir.errors import CompileError

__all__ = ["SCHEMA_VERSION", "Database"]

FILE = "store.sqlite"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x68776C31  # "hwl1": a database of some other program is told apart
BUSY_TIMEOUT_S = 60.0

# `number` is the order of creation: a parent's is always below its child's. `facts` are the scalar leaves of `properties`
# and of the step's parameters, named 'properties.optimizer.lr', so that queries on them have an index as metrics have.
SCHEMA = """
CREATE TABLE objects (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE states (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT UNIQUE, method TEXT NOT NULL,
    target TEXT NOT NULL, branch TEXT NOT NULL, error TEXT NOT NULL, created REAL NOT NULL, properties TEXT NOT NULL,
    step_name TEXT NOT NULL, step TEXT, graph INTEGER REFERENCES objects, removed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX states_method ON states (method);
CREATE INDEX states_target ON states (target);
CREATE INDEX states_branch ON states (branch);
CREATE INDEX states_error ON states (error);
CREATE INDEX states_created ON states (created);
CREATE INDEX states_step ON states (step_name);
CREATE INDEX states_graph ON states (graph);
CREATE INDEX states_removed ON states (number) WHERE removed;
CREATE TABLE parents (
    child INTEGER NOT NULL REFERENCES states ON DELETE CASCADE, position INTEGER NOT NULL,
    parent INTEGER NOT NULL REFERENCES states, PRIMARY KEY (child, position)) WITHOUT ROWID;
CREATE INDEX parents_parent ON parents (parent);
CREATE TABLE tensors (
    state INTEGER NOT NULL REFERENCES states ON DELETE CASCADE, name TEXT NOT NULL,
    object INTEGER NOT NULL REFERENCES objects, PRIMARY KEY (state, name)) WITHOUT ROWID;
CREATE INDEX tensors_object ON tensors (object);
CREATE TABLE metrics (
    state INTEGER NOT NULL REFERENCES states ON DELETE CASCADE, name TEXT NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (state, name)) WITHOUT ROWID;
CREATE INDEX metrics_value ON metrics (name, value, state);
CREATE TABLE facts (
    state INTEGER NOT NULL REFERENCES states ON DELETE CASCADE, name TEXT NOT NULL, value,
    PRIMARY KEY (state, name)) WITHOUT ROWID;
CREATE INDEX facts_value ON facts (name, value, state);
CREATE TABLE tags (
    name TEXT NOT NULL, state INTEGER NOT NULL REFERENCES states ON DELETE CASCADE, PRIMARY KEY (name, state)) WITHOUT ROWID;
CREATE INDEX tags_state ON tags (state);
CREATE TABLE reports (state INTEGER PRIMARY KEY REFERENCES states ON DELETE CASCADE, report TEXT NOT NULL);
"""

MEANINGS = {
    sqlite3.SQLITE_FULL: ("the disk is full, and nothing was recorded", "free some space"),
    sqlite3.SQLITE_IOERR: (
        "the database cannot be read or written ({error}), and nothing was recorded",
        "check the disk",
    ),
    sqlite3.SQLITE_READONLY: ("the store can only be read here", "get permission to write to the folder"),
    sqlite3.SQLITE_BUSY: (f"another process has held the store for more than {BUSY_TIMEOUT_S:g} s", "try again"),
    sqlite3.SQLITE_CORRUPT: (f"the file {FILE} is damaged ({{error}})", "restore it from a copy"),
    sqlite3.SQLITE_NOTADB: (f"the file {FILE} is damaged ({{error}})", "restore it from a copy"),
    sqlite3.SQLITE_CANTOPEN: (f"the file {FILE} cannot be opened ({{error}})", "check the folder's permissions"),
}


class Database:
    """One connection to the store's SQLite file, safe to share among threads, opened anew in a forked process.

    `folder` is the store's. Without `create` it must hold a store. `read_only` becomes true where the folder cannot be
    written. Raises CompileError for a folder that is no store, a newer schema and a damaged file.
    """

    def __init__(self, folder: Path, *, create: bool, read_only: bool) -> None:
        self.folder, self.where = folder, f"store {folder}"
        self.read_only = read_only
        self._lock, self._process = threading.RLock(), os.getpid()
        self._of_parents: list[sqlite3.Connection] = []
        self._prepare(create and not read_only)
        with self._errors():
            self._connection = self._open()

    def _prepare(self, create: bool) -> None:
        """See that there is a folder in which the file is, or may be created."""
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            entries = os.listdir(self.folder)
            writable = os.access(self.folder, os.W_OK) and (
                FILE not in entries or os.access(self.folder / FILE, os.W_OK)
            )
        except (FileExistsError, NotADirectoryError):
            raise CompileError(self.where, "must be a folder, not a file", "give another path") from None
        except FileNotFoundError:
            raise CompileError(self.where, "there is no such folder", "give the folder of a store") from None
        except OSError as error:
            raise CompileError(self.where, f"cannot be opened ({error.strerror})") from None
        if FILE not in entries and (entries or not create):
            raise CompileError(
                self.where, f"is not a lineage store: it holds no {FILE}", "give the folder of a store, or a new one"
            )
        self.read_only = self.read_only or not writable

    def _open(self) -> sqlite3.Connection:
        address = f"{(self.folder / FILE).absolute().as_uri()}?mode={'ro' if self.read_only else 'rwc'}"
        try:
            connection = self._connect(address)
        except sqlite3.OperationalError as error:
            log = self.folder / f"{FILE}-wal"
            unreadable = _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
            if not (self.read_only and unreadable) or (log.exists() and log.stat().st_size):
                raise
            # SQLite wants to make its log and cannot. There is none, so no writer has the store open: read the file alone.
            connection = self._connect(f"{address}&immutable=1")
        try:
            self._check_version(connection)
            if not self.read_only:
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, address: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")  # a committed state survives a power cut
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first access to the file
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        """Refuse what is not ours or newer than this code; an empty file is a store whose creation was interrupted."""
        version, owner, tables = (
            connection.execute(sql).fetchone()[0]
            for sql in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
        if owner != APPLICATION_ID and (tables or self.read_only):
            raise CompileError(
                self.where, f"is not a lineage store: its {FILE} is another program's", "give the folder of a store"
            )
        if version > SCHEMA_VERSION:
            raise CompileError(
                self.where,
                f"has schema version {version}, and this hwcompile reads versions up to {SCHEMA_VERSION}",
                "install a newer hwcompile",
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Create the schema unless it is there; of several processes that open a new store at once, one does it."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:  # this one statement does not wait for the lock by itself
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        if connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _code(error) not in MEANINGS:
                raise
            rule, fix = MEANINGS[_code(error)]
            raise CompileError(self.where, rule.format(error=error), fix) from error

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        if self._process != os.getpid():  # SQLite forbids using, and closing, a connection that came through a fork
            self._of_parents.append(self._connection)
            self._lock, self._process = threading.RLock(), os.getpid()
            with self._errors():
                self._connection = self._open()
        with self._lock, self._errors():
            yield self._connection

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows that one statement gives."""
        with self._held() as connection:
            return connection.execute(sql, values).fetchall()

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row, None without one."""
        found = self.rows(sql, values)
        return found[0][0] if found else None

    def insert(self, sql: str, many: Iterable[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with self._held() as connection:
            connection.executemany(sql, many)

    def require_writable(self) -> None:
        if self.read_only:
            rule, fix = MEANINGS[sqlite3.SQLITE_READONLY]
            raise CompileError(self.where, rule, fix)

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[None]:
        """All or nothing, and no other process writes meanwhile; with `keep` False nothing, as for a dry run."""
        self.require_writable()
        with self._held() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT" if keep else "ROLLBACK")
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one moment of the store, whatever other processes write meanwhile."""
        with self._held() as connection:
            if connection.in_transaction:
                yield
                return
            connection.execute("BEGIN")
            try:
                yield
            finally:
                connection.rollback()

    def close(self) -> None:
        """Close the connection; SQLite then writes its log back into the file."""
        if self._process == os.getpid():
            with self._lock:
                self._connection.close()


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (the low byte of the extended one)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
