"""The browser of the page's tests: the cache before the PATH, and nothing runs that is not what was tested."""

import tarfile

import pytest

import hwcompile as hc
from hwcompile.hw_targets import browser, process


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with an empty cache and nothing on the PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_cache_comes_before_the_path(bare):
    assert browser.find_browser() is None
    installed = bare / "chromium"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    assert browser.find_browser().program == installed
    cached = process.cache_folder("browser") / browser.VERSION / "chromium"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert browser.find_browser().program == cached
    assert browser.prepare() == browser.find_browser()


def test_another_archive_is_refused_and_leaves_nothing(bare, monkeypatch):
    def run(command, *, cwd, **_):
        assert f"{browser.PACKAGE}@{browser.VERSION}" in command
        with tarfile.open(cwd / "package.tgz", "w:gz"):
            pass
        return process.Finished(0, "", 0.0)

    monkeypatch.setattr(process, "run", run)
    with pytest.raises(hc.CompileError, match="is not what was tested"):
        browser.prepare()
    assert list(process.cache_folder("browser").iterdir()) == []


def test_what_npm_says_is_passed_on(bare, monkeypatch):
    monkeypatch.setattr(process, "run", lambda *_, **__: process.Finished(1, "npm error network is unreachable", 0.0))
    with pytest.raises(
        hc.CompileError, match="npm did not fetch @sparticuz/chromium: npm error network is unreachable"
    ):
        browser.prepare()
