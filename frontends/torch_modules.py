"""Replaces layers of a torch module by others, class by class; it knows no library's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..ir.errors import CompileError

__all__ = ["first_line", "has_package", "own_class", "replaced"]


def first_line(error: Exception) -> str:
    """Kind and beginning of somebody else's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def own_class(module: Any, package: str) -> str | None:
    """The name of the nearest class of the module that the package defines; None where it has none."""
    return next((c.__name__ for c in type(module).__mro__ if _within(c.__module__, package)), None)


def has_package(module: Any, package: str) -> bool:
    """Some part of the module is of the package."""
    return any(own_class(m, package) is not None for m in module.modules())


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def replaced(
    module: Any,
    table: Mapping[str, Callable[[Any, str], Any]],
    package: str,
    unknown: Callable[[str], bool] = lambda kind: False,
) -> Any:
    """The module, changed in place, with every layer of the package that the table names replaced by what the table makes of it.

    `table`: class name -> f(layer, path); a shared layer stays shared. A class of the package that `unknown` holds to be a
    layer is refused by name. A user's subclass counts as the nearest class of the package, unless it has its own forward.
    """
    made: dict[int, Any] = {}

    def visit(part: Any, path: str) -> Any:
        if id(part) in made:
            return made[id(part)]
        kind = own_class(part, package)
        if kind is not None and kind in table:
            made[id(part)] = table[kind](part, path or kind)
            return made[id(part)]
        if kind is not None and unknown(kind):
            raise CompileError(
                f"{path or kind} ({kind})", f"this layer of {package} is not supported", f"known: {', '.join(table)}"
            )
        made[id(part)] = part
        for name, child in list(part.named_children()):
            new = visit(child, f"{path}.{name}" if path else name)
            if new is not child:
                setattr(part, name, new)
        return part

    return visit(module, "")
