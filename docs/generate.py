"""Writes the generated pages, docs/options.md and docs/support.md, from the code; `--check` fails if they are out of date."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

import hwcompile as hc
from hwcompile.cli import Options
from hwcompile.codegen import rtl
from hwcompile.codegen.cpu.emit import SUPPORTED as CPU
from hwcompile.codegen.gpu.plan import SUPPORTED as GPU
from hwcompile.codegen.hls.emit import SUPPORTED as HLS
from hwcompile.frontends.brevitas import BREVITAS_LAYERS
from hwcompile.frontends.keras import LAYERS
from hwcompile.frontends.keras_activations import ACTIVATIONS
from hwcompile.frontends.onnx import OPERATORS
from hwcompile.frontends.pquant import PQUANT_LAYERS
from hwcompile.frontends.qkeras import QUANTIZERS
from hwcompile.frontends.torch import ATEN
from hwcompile.ir.ops import OPS

DOCS = Path(__file__).parent


def options() -> str:
    rows = [
        "# Options",
        "",
        "`hwcompile MODEL [options]`; a configuration file (`--config hwcompile.toml`) has the same names as keys, with",
        "underscores: `clock_ns = 5.0`. The command line wins over the file, and an unknown key is refused.",
        "",
        "| option | default | meaning |",
        "|---|---|---|",
    ]
    for f in dataclasses.fields(Options):
        default = "" if f.default is None else str(f.default).lower() if isinstance(f.default, bool) else f"{f.default}"
        shown = f"[{f.name}.NAME]" if f.metadata.get("file_only") else f"--{f.name.replace('_', '-')}"
        rows.append(f"| `{shown}` | {default} | {f.metadata['help']} |")
    rows += [
        "| `--config` | | Configuration file with these options as keys. |",
        "| `--json` | | Print the report as JSON and nothing else. |",
        "",
        "Other commands: `hwcompile targets`, `hwcompile verify FOLDER [--data F]`, `hwcompile report FOLDER [--json]`,",
        "`hwcompile predict FOLDER --data in.npz --output out.npz`. Exit codes: 0 done, 1 an engine differs from the",
        "reference, 2 the input cannot be compiled",
        "(one sentence on stderr).",
        "",
        "## Python",
        "",
        "| name | |",
        "|---|---|",
    ]
    rows += [
        f"| `hc.{name}` | {(getattr(hc, name).__doc__ or '').strip().splitlines()[0]} |" for name in sorted(hc.__all__)
    ]
    rows += [
        f"| `Design.{name}` | {(getattr(hc.Design, name).__doc__ or '').strip().splitlines()[0]} |"
        for name in ("predict", "verify", "deviate", "score", "synthesize", "write", "quantize")
    ]
    return "\n".join(rows) + "\n"


def _by_namespace(operators: Iterable[str]) -> dict[str, list[str]]:
    """Operators of torch by namespace, in order; an overload is named unless it is the default."""
    found: dict[str, list[str]] = {}
    for full in sorted(operators):
        space, name = full.split(".", 1)
        found.setdefault(space, []).append(name.removesuffix(".default"))
    return found


def support() -> str:
    """Which operators are read and which ops each engine has a rule for, from the tables that the engines work by."""
    rules = {"cpu": CPU, "gpu": GPU, "rtl": rtl.SUPPORTED, "hls": HLS, "hls stream": HLS}
    rows = [
        "# What is supported",
        "",
        "Generated from the code by `python docs/generate.py`; a test holds it up to date.",
        "",
        "## ONNX and QONNX operators",
        "",
        ", ".join(f"`{o}`" for o in sorted(OPERATORS)) + ".",
        "",
        "Every attribute is read or refused by name; anything else in a file is refused. Operators on constants alone",
        "are folded by the ONNX standard's reference evaluation.",
        "",
        "## Keras and QKeras layers",
        "",
        "Keras 2 `.h5` and `.json` with weights, Keras 3 `.keras`; Sequential, functional and nested models.",
        "",
        ", ".join(f"`{o}`" for o in sorted(LAYERS)) + ".",
        "",
        "Activations: " + ", ".join(f"`{o}`" for o in sorted(ACTIVATIONS)) + ".",
        "",
        "Quantizers of QKeras: " + ", ".join(f"`{o}`" for o in sorted(QUANTIZERS)) + ".",
        "",
        "Every key of a layer's configuration is read or refused by name; nothing in a file is executed.",
        "",
        "## PyTorch, Brevitas and PQuantML",
        "",
        "Live modules and exported programs. Operators of torch.export on data; those on constants alone are run by torch, and",
        "others are decomposed into these where torch can. Every argument is read or refused by name.",
        "",
        *(f"- `{space}`: " + ", ".join(f"`{o}`" for o in names) + "." for space, names in _by_namespace(ATEN).items()),
        "",
        "Layers of Brevitas: "
        + ", ".join(f"`{o}`" for o in sorted(BREVITAS_LAYERS))
        + "; with integer, binary and ternary",
        "quantizers of static scales, per tensor or per channel.",
        "",
        "Layers of PQuantML: " + ", ".join(f"`{o}`" for o in sorted(PQUANT_LAYERS)) + ".",
        "",
        "## Ops of the language",
        "",
        "`exact`: the engine gives the reference's integers, tested on random types and all rounding and overflow modes.",
        "`realised`: replaced by exact ops before any backend sees it, proved equal (docs/exactness.md).",
        "",
        "| op | meaning | reference | cpu | gpu | rtl | hls | hls stream |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, op in OPS.items():
        meaning = (op.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
        kinds = [
            "exact" if issubclass(op, r) else "realised" if name == "requantize" else "refused" for r in rules.values()
        ]
        rows.append(f"| `{name}` | {meaning} | exact | {' | '.join(kinds)} |")
    return "\n".join(rows) + "\n"


PAGES = {"options.md": options, "support.md": support}


def main() -> None:
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py" if stale else 0)
    for name in stale:
        (DOCS / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
