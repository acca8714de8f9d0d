"""What the site has beyond docs/*.md: the pages of benchmarks/ and the public names; knows nothing of what they say."""

import re
import shutil
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

import hwcompile as hc
from hwcompile import optimize

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "build" / "docs-source" / "hwcompile"
"""The package under its name, of links: mkdocstrings finds modules by the names of folders."""


def on_startup(**_: Any) -> None:
    """Link the package's modules into a folder of its name."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for item in [*ROOT.glob("*.py"), *(p.parent for p in ROOT.glob("*/__init__.py"))]:
        (SOURCE / item.name).symlink_to(Path("../../..") / item.name)


def api() -> str:
    """The reference page: each public name, in the order of its package; the texts are the docstrings."""
    modules = [("hwcompile", hc.__all__), ("hwcompile.optimize", optimize.__all__)]
    rows = ["# Python API", "", "The public names and their docstrings.", ""]
    for module, names in modules:
        rows += [f"## {module}", ""]
        rows += [f"::: {module}.{name}\n" for name in names if not isinstance(getattr(hc, name, None), type(hc))]
    return "\n".join(rows)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that docs/ does not hold."""
    for page in sorted((ROOT / "benchmarks").glob("*.md")):
        files.append(File.generated(config, f"benchmarks/{page.name}", abs_src_path=str(page)))
    files.append(File.generated(config, "api.md", content=api()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and benchmarks/, which lie side by side in the repository and not in the site."""
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../docs/", "](../")
    return markdown.replace("](../benchmarks/", "](benchmarks/")


class Doctests(Extension):
    """Docstrings are Markdown, in which ``>>>`` would be a quotation of a quotation: examples become code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            example = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
            obj.docstring.value = example.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
