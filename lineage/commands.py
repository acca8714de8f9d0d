"""The command group `hwcompile lineage`: options and tables; the work is in `Store`."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ..hw_targets.process import write_atomic
from ..ir.errors import CompileError
from .compare import flat
from .records import State
from .store import Store

__all__ = ["lineage"]

SHOWN_DIGITS = 10  # of an id; enough to name a state among a hundred million
SHOWN_METRICS = 8
USUAL_METRICS = ("accuracy", "score", "lut", "latency_ns", "ff", "dsp", "bram", "ebops")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lineage() -> None:
    """Show, compare, tag and prune the model states that searches and training runs recorded.

    ID is a state's id, the first four or more digits of it, or a tag that one state has.
    """


def _command(*, write: bool = False) -> Callable[[Callable[..., None]], click.Command]:
    """A command of the group with --store, whose function takes the opened store first."""

    def make(function: Callable[..., None]) -> click.Command:
        @click.option("--store", "path", default="runs", show_default=True, help="Folder of the store.")
        @functools.wraps(function)
        def opened(path: str, **given: Any) -> None:
            with Store(path, create=False, read_only=not write) as store:
                function(store, **given)

        return lineage.command(function.__name__.removesuffix("_command"))(opened)

    return make


@_command()
@click.argument("query", default="")
@click.option("--sort", help="A metric, or 'created'; states without the metric are left out.")
@click.option("--descending", is_flag=True, help="Largest, or newest, first.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most states to list.")
def list_command(store: Store, query: str, sort: str | None, descending: bool, limit: int) -> None:
    """List the states that QUERY finds: "accuracy > 0.75 and lut < 5000"."""
    found = store.find(query, order_by=sort or "", descending=descending, limit=limit + 1)
    _print_states(found[:limit], asked=f"{sort or ''} {query}")
    if len(found) > limit:
        click.echo(f"only the first {limit}; --limit shows more")


@_command()
@click.argument("state", metavar="ID")
def show(store: Store, state: str) -> None:
    """Show all that is known of one state."""
    s = store.get(state)
    fields = {
        "id": s.id, "created": _time(s), "method": s.method, "target": s.target, "branch": s.branch, "error": s.error,
        "key": s.key, "tags": ", ".join(s.tags), "parents": ", ".join(s.parents),
    }  # fmt: skip
    fields |= {f"properties.{name}": value for name, value in s.properties.items()}
    if s.step:
        fields |= {"step": s.step.name} | flat("parameters", s.step.parameters)
        fields |= {"seed": s.step.seed, "code version": s.step.code_version, "data digest": s.step.data_digest}
    fields |= {name: f"{value:g}" for name, value in s.metrics.items()}
    _print_rows([(name, str(value)) for name, value in fields.items() if value not in ("", None)])
    if s.removed:
        click.echo("its weights and graph were removed; its recipe is above and in its path")
        return
    weights = store.weights(s)
    _print_rows([(name, f"{array.dtype} {list(array.shape)}") for name, array in weights.items()])
    if graph := store.graph(s):
        click.echo(f"graph: {len(graph):,} {'characters' if isinstance(graph, str) else 'bytes'}")


@_command()
@click.argument("state", metavar="ID")
def path(store: Store, state: str) -> None:
    """List the states from the root to this one."""
    _print_states(store.path(state))


@_command()
@click.argument("state", metavar="ID")
def parents(store: Store, state: str) -> None:
    """List the states that this one was made from."""
    _print_states(store.parents(state))


@_command()
@click.argument("state", metavar="ID")
def children(store: Store, state: str) -> None:
    """List the states that were made from this one."""
    _print_states(store.children(state))


@_command()
@click.argument("state", metavar="ID")
def report(store: Store, state: str) -> None:
    """Print the report of a state as JSON, as "hwcompile report --json" does of a design."""
    found = store.report(state)
    if found is None:
        raise CompileError(f"state {state}", "has no report", "only compiled states have one")
    click.echo(json.dumps(found, indent=2))


@_command(write=True)
@click.argument("state", metavar="ID")
@click.argument("name")
def tag(store: Store, state: str, name: str) -> None:
    """Tag a state; tagged states are never removed."""
    click.echo(f"{store.tag(state, name).id} is tagged {name}")


@_command(write=True)
@click.argument("state", metavar="ID")
@click.argument("name")
def untag(store: Store, state: str, name: str) -> None:
    """Take a tag from a state."""
    click.echo(f"{store.untag(state, name).id} is no longer tagged {name}")


@_command()
@click.argument("a")
@click.argument("b")
def compare(store: Store, a: str, b: str) -> None:
    """Compare two states: metrics, recipes, weights and graphs."""
    click.echo(str(store.compare(a, b)))


@_command(write=True)
@click.argument("state", metavar="ID")
@click.argument("branch")
def fork(store: Store, state: str, branch: str) -> None:
    """Begin the branch BRANCH with the weights of a state."""
    click.echo(f"{store.fork(state, branch).id} begins the branch {branch}")


@_command()
@click.argument("state", metavar="ID")
@click.argument("output")
def export(store: Store, state: str, output: str) -> None:
    """Write the weights of a state to the safetensors file OUTPUT, or its compiled graph to OUTPUT.hwc."""
    from safetensors.numpy import save

    if output.endswith(".hwc"):
        graph = store.graph(state)
        if not graph:
            raise CompileError(f"state {state}", "has no compiled graph to export", "give a name for its weights")
        if not write_atomic(Path(output), graph):
            raise CompileError(output, "cannot be written", "check the path and the space on the disk")
        click.echo(f"graph written to {output}")
        return
    weights = store.weights(state)
    if not weights:
        raise CompileError(f"state {state}", "has no weights to export")
    if not write_atomic(Path(output), save(weights)):
        raise CompileError(output, "cannot be written", "check the path and the space on the disk")
    click.echo(f"{len(weights)} tensors written to {output}")


@_command(write=True)
@click.argument("query", default="")
@click.option("--below", metavar="ID", help="Instead of QUERY: this state and its descendants.")
@click.option("--keep-tagged", is_flag=True, help="Instead of QUERY: all but the tagged states and their ancestors.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
def remove(store: Store, query: str, below: str | None, keep_tagged: bool, dry_run: bool) -> None:
    """Remove the states that QUERY finds; 'collect' then frees their space."""
    found = store.remove(query, below=below, keep_tagged=keep_tagged, dry_run=dry_run)
    verb = "would be" if dry_run else "were"
    click.echo(
        f"{found.states} states {verb} removed and {found.emptied} emptied, because descendants stay; "
        f"{found.freed_bytes:,} bytes of files are then in no use"
    )


@_command(write=True)
def collect(store: Store) -> None:
    """Delete the files that no state refers to."""
    found = store.collect()
    click.echo(f"{found.objects} files deleted, {found.freed_bytes:,} bytes")


@_command()
def check(store: Store) -> None:
    """Read everything and verify every hash; exit code 1 where something is wrong."""
    found = store.check()
    for problem in found.problems:
        click.echo(problem, err=True)
    click.echo(
        f"{found.states} states, {found.objects} files, {found.object_bytes:,} bytes: "
        + ("all is well" if found.ok else f"{len(found.problems)} problems")
    )
    if not found.ok:
        sys.exit(1)


def _print_states(states: Sequence[State], asked: str = "") -> None:
    """As a table; metrics that were `asked` for come first, then the usual ones."""
    from rich.table import Table

    if not states:
        click.echo("no state")
        return
    there = {name for s in states for name in s.metrics}
    wanted = [*re.findall(r"\w+", asked), *USUAL_METRICS, *sorted(there)]
    metrics = list(dict.fromkeys(name for name in wanted if name in there))[:SHOWN_METRICS]
    table = Table(header_style="bold")
    for title in ("id", "created (UTC)"):
        table.add_column(title, no_wrap=True)
    for title in ("method", "branch", "tags"):
        table.add_column(title)
    for title in metrics:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("note")
    for s in states:
        values = (f"{s.metrics[n]:.6g}" if n in s.metrics else "" for n in metrics)
        note = s.error or ("weights removed" if s.removed else "")
        table.add_row(s.id[:SHOWN_DIGITS], _time(s), s.method, s.branch, ", ".join(s.tags), *values, note)
    _console().print(table)


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    # Markup off: a tag such as [best] is text. A pipe gets whole lines.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def _time(state: State) -> str:
    return datetime.fromtimestamp(state.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
