"""Starting tools: output, time limit with the whole process group, missing programs, the compiler."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwcompile.hw_targets import process
from hwcompile.ir.errors import CompileError

GRANDCHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time, pathlib; time.sleep(1.5); pathlib.Path('alive').touch()"])
print("started", flush=True)
time.sleep(60)
"""


def test_output_is_kept_in_order():
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); sys.exit(3)"
    done = process.run([sys.executable, "-c", code], where="test")
    assert (done.returncode, done.output, done.ok, done.timed_out) == (3, "one\ntwo\n", False, False)


def test_only_the_end_of_long_output_is_kept():
    code = f"print('a' * {2 * process.OUTPUT_TAIL_BYTES} + 'end')"
    output = process.run([sys.executable, "-c", code], where="test").output
    assert len(output) == process.OUTPUT_TAIL_BYTES
    assert output.endswith("end\n")


def test_time_limit_kills_what_the_tool_started(tmp_path: Path):
    done = process.run([sys.executable, "-c", GRANDCHILD], where="test", cwd=tmp_path, time_limit_s=0.7)
    assert done.timed_out
    assert done.output == "started\n"
    assert done.seconds < 5
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_missing_program():
    with pytest.raises(CompileError, match=r"^synthesis: needs no-such-tool, which cannot be started"):
        process.run(["no-such-tool"], where="synthesis")


def test_missing_folder(tmp_path: Path):
    with pytest.raises(CompileError, match=r"synthesis: the folder .* is not there"):
        process.run([sys.executable], where="synthesis", cwd=tmp_path / "none")


def test_error_line():
    assert process.error_line("a\nfoo: Error: bad\nlast\n") == "foo: Error: bad"
    assert process.error_line("a\nlast\n\n") == "last"
    assert process.error_line("") == "it said nothing"


def test_compile_cpp(tmp_path: Path):
    one, two = tmp_path / "one.cpp", tmp_path / "two.cpp"
    one.write_text("int seven() { return 7; }\n")
    two.write_text("int seven(); int main() { return seven(); }\n")
    for jobs in (1, 2):
        process.compile_cpp([one, two], tmp_path / f"program{jobs}", ["-O1"], jobs=jobs)
        assert subprocess.run([tmp_path / f"program{jobs}"], check=False).returncode == 7
    two.write_text("int main() { return eight(); }\n")
    with pytest.raises(CompileError, match=r"engine: the C\+\+ compiler refused: .*eight"):
        process.compile_cpp([one, two], tmp_path / "broken", where="engine")
    assert not (tmp_path / "broken").exists()
    assert not list(tmp_path.glob(".build-*"))


def test_find_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m32")
    with pytest.raises(CompileError, match="CXX names 'no-such-compiler -m32', which is not on the PATH"):
        process.find_compiler()
    monkeypatch.delenv("CXX")
    assert process.find_compiler() is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.find_compiler() is None
    with pytest.raises(CompileError, match=r"needs a C\+\+ compiler, and there is none on the PATH; install"):
        process.compile_cpp([], tmp_path / "x")


def test_write_atomic(tmp_path: Path):
    path = tmp_path / "a" / "b.json"
    assert process.write_atomic(path, "one")
    assert process.write_atomic(path, "two")
    other = tmp_path / "as_any_file"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
    assert not process.write_atomic(path / "below_a_file", "x")
