"""The command `hwcompile search`: a configuration file into a search of `Methods`, and its frontier as a table."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..ir.errors import CompileError

__all__ = ["search_command"]

_TOP = ("data", "search", "methods", "space", "train")
_DATA = ("file", "x", "y", "loss", "standardize", "validation", "events", "seed")
_SEARCH = (
    "name", "folder", "objectives", "constraints", "target", "clock_ns", "budget", "trials", "seed", "sampler", "population",
    "halving", "rungs", "beyond", "first", "batch", "workers", "synthesize", "page", "trial_limit",
)  # fmt: skip
_METHODS = ("use", "hidden", "epochs", "batch", "luts", "warm", "ii")


@click.command("search")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--budget", help="Time in all, such as 1h; instead of the one in the file.")
@click.option("--trials", type=click.IntRange(1), help="Most trials; instead of those in the file.")
@click.option("--page", help="Where the frontier page is written; instead of the place in the file.")
@click.option("--quiet", is_flag=True, help="Say nothing on the way.")
def search_command(config: str, budget: str | None, trials: int | None, page: str | None, quiet: bool) -> None:
    """Search the frontier of accuracy against resources as CONFIG (search.toml) says; a search that was stopped goes on.

    docs/search.md has the keys of the file.
    """
    table = _read(Path(config))
    options = {
        **table.get("search", {}),
        **{k: v for k, v in (("budget", budget), ("trials", trials), ("page", page)) if v},
    }
    options.setdefault("name", Path(config).stem)
    _known("search", options, _SEARCH)
    from . import search

    train, space = _training(table, Path(config).parent, options)
    found = search(space, train, quiet=quiet, **options)
    frontier = found.frontier
    width = max(len(f.method) for f in frontier)
    names = [o.name for o in found.objectives]
    click.echo("  ".join([f"{'state':<10}", f"{'method':<{width}}", *(f"{n:>12}" for n in names)]))
    for f in frontier:
        values = (f"{f.values[n]:>12,.5g}" for n in names)
        click.echo("  ".join([f.state[:10], f"{f.method:<{width}}", *values]))
    if errors := found.errors:
        click.echo(f"{len(errors)} trials failed, the last: {errors[-1]}", err=True)
    if options.get("synthesize") and (left := found.unsynthesized):
        reason = next(iter(left.values()))
        click.echo(f"{len(left)} of the frontier have no numbers of Yosys, the first: {reason}", err=True)
    click.echo(f"build one: {found.command(frontier[0])}")
    if options.get("page"):
        click.echo(f"page: {options['page']}")


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise CompileError(str(path), "there is no such file", "give a search.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise CompileError(str(path), f"cannot be read: {e}", "mend the file") from None
    _known(str(path), table, _TOP)
    return table


def _known(where: str, table: Mapping[str, Any], names: tuple[str, ...]) -> None:
    unknown = next((k for k in table if k not in names), None)
    if unknown is not None:
        raise CompileError(where, f"key '{unknown}' is not known", f"known: {', '.join(names)}")


def _training(table: Mapping[str, Any], folder: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """(training function, space) of the file: that of `methods`, or a function of the user's own."""
    from .space import from_table

    own = table.get("train")
    if own is not None:
        _known("train", own, ("function",))
        if "methods" in table:
            raise CompileError(
                "methods", "are not for a training function of your own", "leave out [methods] or [train]"
            )
        if "space" not in table:
            raise CompileError("train", "needs a table [space] for the function's parameters", "add one")
        return _function(str(own.get("function", "")), folder), from_table(table["space"])
    from .methods import METHODS, Methods
    from .space import Choice

    methods = table.get("methods", {})
    _known("methods", methods, _METHODS)
    task = _task(table.get("data", {}), folder)
    given = {k: methods[k] for k in ("epochs", "batch", "warm", "ii") if k in methods}
    if "luts" in methods:
        given["luts"] = tuple(methods["luts"])
    if "hidden" in methods:
        from .methods import dense

        _check_hidden(methods["hidden"])
        inputs, y = task.x.shape[1], task.y
        outputs = int(y.max()) + 1 if task.loss == "cross_entropy" else y.reshape(len(y), -1).shape[1]
        given |= {"network": dense(inputs, outputs), "architecture": {"hidden": Choice(*methods["hidden"])}}
    target = {k: options[k] for k in ("target", "clock_ns") if k in options}
    train = Methods(task, methods=tuple(methods.get("use", METHODS)), **given, **target)
    return train, {**train.space, **from_table(table.get("space", {}))}


def _check_hidden(hidden: Any) -> None:
    """Sizes of hidden layers: a list for each architecture."""

    def sizes(one: Any) -> bool:
        return isinstance(one, list) and bool(one) and all(isinstance(n, int) and n > 0 for n in one)

    if not isinstance(hidden, list) or not hidden or not all(map(sizes, hidden)):
        rule = f"must be a list of architectures, each a list of sizes, not {hidden!r}"
        raise CompileError("methods.hidden", rule, "write hidden = [[64, 32], [16]]")


def _function(name: str, folder: Path) -> Any:
    """``module:function``, the module in the folder of the file or installed."""
    from importlib import import_module

    module, _, function = name.partition(":")
    if not module or not function:
        raise CompileError("train.function", f"'{name}' is none", 'write "module:function"')
    sys.path.insert(0, str(folder.resolve()))
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise CompileError("train.function", f"'{name}' cannot be imported: {e}", "check the names") from None


def _task(data: Mapping[str, Any], folder: Path) -> Any:
    """The data of the file as a `Task`."""
    import numpy as np

    from ..optimize import Task

    _known("data", data, _DATA)
    if "file" not in data:
        raise CompileError("data", "needs the key file: an .npz with inputs and labels", 'add file = "jets.npz"')
    path = folder / data["file"]
    try:
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files}
    except FileNotFoundError:
        raise CompileError(str(path), "there is no such file", "check data.file") from None
    except (OSError, ValueError) as e:
        raise CompileError(str(path), f"is no .npz file of arrays: {e}", "write it with numpy.savez") from None
    names = [data.get("x", "x" if "x" in arrays else "X"), data.get("y", "y")]
    absent = next((n for n in names if n not in arrays), None)
    if absent is not None:
        raise CompileError(
            str(path), f"has no array '{absent}'", f"set data.x and data.y; there are {', '.join(arrays)}"
        )
    x, y = (arrays[n] for n in names)
    order = np.random.default_rng(data.get("seed", 0)).permutation(len(x))[: data.get("events")]
    x, y = x[order].astype(np.float32), y[order]
    kept = round(len(x) * (1 - data.get("validation", 0.2)))
    if not 0 < kept < len(x):
        raise CompileError("data.validation", f"must leave events on both sides, not {data['validation']}", "give 0.2")
    if data.get("standardize", True):
        mean, deviation = x[:kept].mean(0), x[:kept].std(0)
        x = (x - mean) / np.where(deviation > 0, deviation, 1)
    y = y if data.get("loss", "cross_entropy") != "cross_entropy" else y.astype(np.int64)
    return Task(x[:kept], y[:kept], (x[kept:], y[kept:]), loss=data.get("loss", "cross_entropy"))
