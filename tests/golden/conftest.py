"""Golden files: `pytest tests/golden --update-golden` writes them anew; read the difference before it is committed."""

from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request):
    """A function (folder, {path: text}): compares with the files below tests/golden/folder, all of them."""
    update = request.config.getoption("--update-golden", default=False)

    def compare(folder, files):
        root = Path(__file__).parent / folder
        if update:
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            for old in root.rglob("*"):
                if old.is_file() and str(old.relative_to(root)) not in files:
                    old.unlink()
        present = {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}
        assert sorted(present) == sorted(files)
        for path, text in files.items():
            assert present[path] == text, path

    return compare
