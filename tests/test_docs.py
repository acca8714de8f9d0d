"""The generated pages are what the code says now, links and anchors lead somewhere, and the first page does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_is_built_without_warnings_and_asks_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "start.html", "api.html", "RESULTS.html"} <= {p.name for p in pages}
    for page in pages:  # links to papers are allowed, anything that a browser fetches by itself is not
        assert not re.findall(
            r'(?:src="|<link[^>]*(?:stylesheet|preconnect)[^>]*href=")(?:https?:)?//', page.read_text()
        ), page


def blocks(page: Path, *languages: str) -> str:
    """A Python program that does what the page's code blocks say, in order; a TOML block begins with its file's name."""
    program = ["import pathlib, subprocess"]
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            program.append(text)
        elif language in languages and language == "bash":
            program.append(f"subprocess.run({text!r}, shell=True, check=True)")
        elif language in languages and language == "toml":
            program.append(f"pathlib.Path({text.split()[1]!r}).write_text({text!r})")
    return "\n".join(program)


def run_page(folder: Path, *languages: str) -> str:
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "build").mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    program = blocks(ROOT / "docs" / "start.md", *languages)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_of_the_first_page(tmp_path):
    printed = run_page(tmp_path)
    assert re.search(r"^rtl +1,037 checked, 0 different", printed, re.MULTILINE), printed


@pytest.mark.slow
def test_all_of_the_first_page(tmp_path):
    printed = run_page(tmp_path, "bash", "toml")
    assert "build one:" in printed
    build = tmp_path / "build"
    assert {p.name for p in (build / "start").iterdir()} >= {"rtl", "hls", "engine", "model.hwc", "report.html"}
    assert "frontier" in (build / "frontier.html").read_text()
    for name in ("README.md", "build_hls.tcl", "hls_config.cfg", "Makefile"):
        assert (build / "vitis" / "hls" / name).is_file()
