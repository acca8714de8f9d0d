"""A search's place on disk: its lock, which one process holds, and Optuna's journal of what was asked and told."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..ir.errors import CompileError

__all__ = ["hold", "open_journal"]

CHANGEABLE = ("constraints",)
"""They change who is on the frontier, and nothing that was measured."""


def hold(home: Path, name: str) -> TextIO:
    """The lock of a search, held until it is closed or the process ends; a `CompileError` where another process holds it."""
    with _said(name):
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        other = lock.read().strip() or "another one"
        lock.close()
        raise CompileError(
            f"search {name}", f"is running already, in process {other}", "wait for it, or give another name"
        ) from None
    with _said(name):
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    return lock


@contextmanager
def _said(name: str) -> Generator[None]:
    """What the system refuses, such as a write to a full disk, in a sentence."""
    try:
        yield
    except OSError as e:
        rule = f"its journal cannot be written ({e.strerror}); what was recorded before stays"
        fix = "free some space, or check the folder's permissions, and go on"
        raise CompileError(f"search {name}", rule, fix) from e


def open_journal(
    home: Path, name: str, directions: Sequence[Any], plan: Mapping[str, Any], first: Sequence[Mapping[str, Any]]
) -> Any:
    """The Optuna study of this name, made (with its `first` points) or found; a `CompileError` where it had another plan.

    What of the plan is in `CHANGEABLE` is as it is now, and what an older journal does not say may be anything. The caller
    holds the lock.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Backend(JournalFileBackend):
        """Writes all of its lines or none: nothing after a torn line would be read."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            size = path.stat().st_size
            with _said(name):
                try:
                    super().append_logs(logs)
                except OSError:
                    os.truncate(path, size)
                    raise

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = home / "journal.log"
    with _said(name):
        _drop_torn_line(path)
        lock = JournalFileOpenLock(str(path))
        (home / "journal.log.lock").unlink(missing_ok=True)  # of a killed process: ours alone has the search
        storage = JournalStorage(Backend(str(path), lock_obj=lock))
    found = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, directions=list(directions))
    known = found.user_attrs.get("plan", {})
    plan = {**known, **json.loads(json.dumps(plan))}
    other = next((k for k in known if k not in CHANGEABLE and known[k] != plan[k]), None)
    if other is not None:
        raise CompileError(
            f"search {name}", f"was begun with another {other}", "give another name, or the same as then"
        )
    if not known:  # the plan is written last: it says that the points are there
        for point in first:
            found.enqueue_trial(dict(point), skip_if_exists=True)
    if plan != known:
        found.set_user_attr("plan", plan)
    return found


def _drop_torn_line(path: Path) -> None:
    """A line that a killed process did not finish: nothing after it would be read."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
