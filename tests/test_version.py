"""What code made a candidate is told apart also between releases, and where the package is not installed."""

import importlib.metadata

from hwcompile import version


def test_the_code_is_told_apart_between_releases(monkeypatch, tmp_path):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    known = version.code_version()
    digest = known.partition("+")[2]
    assert known == f"{importlib.metadata.version('hwcompile')}+{digest}"
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert version.code_version.__wrapped__() == f"0+{digest}"
    (tmp_path / "explore").mkdir()
    (tmp_path / "explore/new.py").write_text("")
    monkeypatch.setattr(version, "PACKAGE", tmp_path)
    assert version.code_version.__wrapped__() != f"0+{digest}"
