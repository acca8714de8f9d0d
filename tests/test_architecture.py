"""The house rules that a reader relies on: who imports whom, what the package lists, what the API offers, how fast it opens."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hwcompile as hc

ROOT = Path(hc.__file__).parent
ROOMS = {
    "ir": set(),
    "frontends": {"ir"},
    "hw_targets": {"ir"},
    "report": {"ir", "templates"},
    "codegen": {"ir", "hw_targets", "templates"},
    "verify": {"ir", "codegen"},
    "optimize": {"ir", "frontends", "codegen", "hw_targets", "templates"},
    "lineage": {"ir", "hw_targets"},
    "explore": {"ir", "hw_targets", "codegen", "report", "lineage", "optimize", "driver", "version"},
    "models": {"ir", "optimize", "hw_targets"},
}
OUTSIDE_IR = {"numpy"}


def modules(room):
    return sorted((ROOT / room).rglob("*.py"))


def imported(path):
    """(relative target room or None, absolute top package or None) of every import."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            yield target[0] if target[0] else node.names[0].name, None
        elif isinstance(node, ast.ImportFrom):
            yield None, node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield None, name.name.split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    for path in modules(room):
        for inner, outer in imported(path):
            assert inner in {None, room} | ROOMS[room], f"{path} imports {inner}"
            assert outer != "hwcompile", f"{path} must import relatively"
            if room == "ir" and outer is not None:
                assert outer in OUTSIDE_IR or outer in sys.stdlib_module_names, f"{path} imports {outer}"


def test_the_listed_packages_are_the_tree():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"hwcompile"} | {
        "hwcompile." + ".".join(p.parent.relative_to(ROOT).parts)
        for room in (*ROOMS, "templates")
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert listed == found


def test_public_names():
    assert set(hc.__all__) == {
        "CompileError", "Design", "chain", "compile", "explore", "expression", "fixed", "lineage", "load", "load_target", "models",
        "open_design", "optimize", "quantize", "search", "take", "targets", "trace",
    }  # fmt: skip
    for name in hc.__all__:
        assert getattr(hc, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hc.nothing  # noqa: B018


def test_import_loads_nothing_heavy():
    code = "import sys, hwcompile; print([m for m in ('numpy', 'onnx', 'torch', 'rich', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() in (
        "[]",
        "['numpy']",
    )


def test_no_test_of_ours_is_skipped():
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            assert "pytest.skip" not in path.read_text(), path
            assert "importorskip" not in path.read_text(), path
