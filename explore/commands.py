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

_WORDS = {
    str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a table",
}  # fmt: skip
_Kinds = dict[str, tuple[type, ...]]
_TOP: _Kinds = dict.fromkeys(("data", "search", "methods", "space", "train"), (dict,))
_DATA: _Kinds = {
    **dict.fromkeys(("file", "x", "y", "loss"), (str,)), "standardize": (bool,), "validation": (int, float),
    **dict.fromkeys(("events", "seed"), (int,)),
}  # fmt: skip
_SEARCH: _Kinds = {
    **dict.fromkeys(("name", "folder", "target", "sampler", "page"), (str,)),
    **dict.fromkeys(("objectives", "constraints"), (list, str)), "first": (list,), "clock_ns": (int, float),
    **dict.fromkeys(("budget", "trial_limit"), (str, int, float)), "synthesize": (bool, int),
    **dict.fromkeys(("trials", "seed", "population", "halving", "rungs", "beyond", "batch", "workers"), (int,)),
}  # fmt: skip
_METHODS: _Kinds = dict.fromkeys(
    ("use", "hidden", "epochs", "batch", "luts", "warm", "ii"), (object,)
)  # `Methods` looks at them
"""The keys of each table, and the types that their values may have."""


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
    _check_table("search", options, _SEARCH)
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
    _check_table(str(path), table, _TOP)
    return table


def _check_table(where: str, table: Mapping[str, Any], kinds: _Kinds) -> None:
    """Every key is known, and its value of one of its types."""
    for key, value in table.items():
        if key not in kinds:
            raise CompileError(where, f"key '{key}' is not known", f"known: {', '.join(kinds)}")
        wrong = isinstance(value, bool) and not {bool, object} & set(kinds[key])  # Python's True is an int
        if wrong or not isinstance(value, kinds[key]):
            may = " or ".join(_WORDS[k] for k in kinds[key] if k is not int or float not in kinds[key])
            raise CompileError(f"{where}.{key}", f"must be {may}, not {value!r}")


def _training(table: Mapping[str, Any], folder: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """(training function, space) of the file: that of `methods`, or a function of the user's own."""
    from .space import from_table

    own = table.get("train")
    if own is not None:
        _check_table("train", own, {"function": (str,)})
        if "methods" in table:
            raise CompileError(
                "methods", "are not for a training function of your own", "leave out [methods] or [train]"
            )
        if "space" not in table:
            raise CompileError("train", "needs a table [space] for the function's parameters", "add one")
        return _function(str(own.get("function", "")), folder), from_table(table["space"])
    from .methods import Methods
    from .space import Choice

    methods = table.get("methods", {})
    _check_table("methods", methods, _METHODS)
    task = _task(table.get("data", {}), folder)
    given = {k: methods[k] for k in ("epochs", "batch", "warm") if k in methods}
    if "ii" in methods:
        given["ii"] = _tuple(methods["ii"])
    if "luts" in methods:
        given["luts"] = _tuple(methods["luts"])
    if "hidden" in methods:
        from .methods import dense

        _check_hidden(methods["hidden"])
        if task.x.ndim != 2:
            rule = f"are sizes of dense networks, which take a vector, not inputs of {list(task.x.shape[1:])}"
            raise CompileError("methods.hidden", rule, "leave it out, or search a training function of your own")
        inputs, y = task.x.shape[1], task.y
        outputs = int(y.max()) + 1 if task.loss == "cross_entropy" else y.reshape(len(y), -1).shape[1]
        given |= {"network": dense(inputs, outputs), "architecture": {"hidden": Choice(*methods["hidden"])}}
    target = {k: options[k] for k in ("target", "clock_ns") if k in options}
    if "use" in methods:
        given["methods"] = _tuple(methods["use"])
    train = Methods(task, **given, **target)
    return train, {**train.space, **from_table(table.get("space", {}))}


def _tuple(value: Any) -> Any:
    """A list as `Methods` takes it; whatever else it says itself that it does not."""
    return tuple(value) if isinstance(value, list) else value


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

    _check_table("data", data, _DATA)
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
    if x.ndim < 2 or len(x) != len(y):
        rule = f"x must be [events, ...] and y as long, not {list(x.shape)} and {list(y.shape)}"
        raise CompileError(str(path), rule, "set data.x and data.y")
    if data.get("events", 1) < 1 or data.get("seed", 0) < 0:
        raise CompileError("data", "events must be 1 or more, and seed 0 or more", "leave them out")
    order = np.random.default_rng(data.get("seed", 0)).permutation(len(x))[: data.get("events")]
    x, y = x[order].astype(np.float32), y[order]
    kept = round(len(x) * (1 - data.get("validation", 0.2)))
    if not 0 < kept < len(x):
        rule = f"must leave events on both sides: of {len(x)} it would leave {kept} to train with"
        raise CompileError("data.validation", rule, "give 0.2")
    if data.get("standardize", True):
        mean, deviation = x[:kept].mean(0), x[:kept].std(0)
        x = (x - mean) / np.where(deviation > 0, deviation, 1)
    y = y if data.get("loss", "cross_entropy") != "cross_entropy" else y.astype(np.int64)
    return Task(x[:kept], y[:kept], (x[kept:], y[kept:]), loss=data.get("loss", "cross_entropy"))
