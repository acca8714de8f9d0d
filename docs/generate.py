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
from hwcompile.frontends.hgq import HGQ_LAYERS, HGQ_REFUSED
from hwcompile.frontends.keras import LAYERS, REFUSED
from hwcompile.frontends.keras_activations import ACTIVATIONS
from hwcompile.frontends.keras_operations import OPERATIONS
from hwcompile.frontends.onnx import OPERATORS
from hwcompile.frontends.pquant import PQUANT_LAYERS
from hwcompile.frontends.qkeras import QUANTIZERS
from hwcompile.frontends.torch import ATEN
from hwcompile.ir.ops import OPS

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
from vocabulary import VOCABULARY, Row  # noqa: E402


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


def _by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    """Names by the reason that they share."""
    found: dict[str, list[str]] = {}
    for name, why in sorted(refused.items()):
        found.setdefault(why, []).append(name)
    return found


def support() -> str:
    """Which operators are read and which ops each engine has a rule for, from the tables that the engines work by."""
    rules = {"cpu": CPU, "gpu": GPU, "rtl": rtl.SUPPORTED, "hls": HLS, "hls stream": HLS}
    rows = [
        "# What is supported",
        "",
        "Generated from the code by `python docs/generate.py`; a test holds it up to date.",
        "",
        "## The vocabulary of networks, by front end and engine",
        "",
        "Composites expand into the ops of the language once, so that no engine hears of them: the engines' columns say whether",
        "all ops that the small model of `docs/vocabulary.py` becomes have a rule. A test compiles and runs every row.",
        "",
        *_vocabulary(rules),
        "",
        "Also: trees and forests (XGBoost, scikit-learn, ONNX-ML), numpy functions and formulas ([functions](functions.md)),",
        "hls4ml's converted models ([from hls4ml](from-hls4ml.md)).",
        "",
        "## ONNX and QONNX operators",
        "",
        ", ".join(f"`{o}`" for o in sorted(OPERATORS)) + ".",
        "",
        "Every attribute is read or refused by name; anything else in a file is refused. Operators on constants alone",
        "are folded by the ONNX standard's reference evaluation.",
        "",
        "## Keras, QKeras and HGQ2 layers",
        "",
        "Keras 2 `.h5` and `.json` with weights, Keras 3 `.keras`, live models; Sequential, functional and nested ones.",
        "",
        ", ".join(f"`{o}`" for o in sorted(LAYERS)) + ".",
        "",
        "Activations: " + ", ".join(f"`{o}`" for o in sorted(ACTIVATIONS)) + ".",
        "",
        "Operations of Keras 3: " + ", ".join(f"`{o}`" for o in sorted(OPERATIONS)) + ".",
        "",
        "Quantizers of QKeras: " + ", ".join(f"`{o}`" for o in sorted(QUANTIZERS)) + ".",
        "",
        "Layers of HGQ2 0.2, with `kbi`, `kif` and `dummy` quantizers of any granularity, and every rounding and overflow mode:",
        "",
        ", ".join(f"`{o}`" for o in sorted(HGQ_LAYERS)) + ".",
        "",
        "Refused by name:",
        "",
        *(
            f"- {', '.join(f'`{k}`' for k in kinds)}: {why}."
            for why, kinds in _by_reason({**REFUSED, **HGQ_REFUSED}).items()
        ),
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


def _vocabulary(rules: dict[str, tuple[type, ...]]) -> Iterable[str]:
    """The support matrix: each row is read by a front end if its names are in the front end's table."""
    fronts = {
        "ONNX": OPERATORS,
        "Keras": LAYERS,
        "torch": {k.removeprefix("aten.").removesuffix(".default") for k in ATEN},
    }
    head = ["", *fronts, "becomes", *rules]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in VOCABULARY:
        names = {"ONNX": row.onnx, "Keras": row.keras, "torch": row.torch}
        unknown = [n for front, text in names.items() for n in text.split() if n not in fronts[front]]
        if unknown:
            raise SystemExit(f"docs/vocabulary.py, {row.name}: no front end knows {', '.join(unknown)}")
        used = {n.op.name: type(n.op) for n in small_design(row).hardware.nodes}
        ops = ", ".join(n for n in OPS if n in used and n not in ("input", "constant"))
        engines = ["exact" if all(issubclass(op, r) for op in used.values()) else "refused" for r in rules.values()]
        cells = [" ".join(f"`{n}`" for n in text.split()) or "-" for text in names.values()]
        yield f"| {row.name} | {' | '.join([*cells, ops or 'nothing', *engines])} |"


def small_design(row: Row, backends: tuple[str, ...] = ()) -> hc.Design:
    """The small model of a row of the vocabulary, calibrated to 8 bits."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(200, *row.shape)).astype(np.float32)
    module = row.make().eval()
    return hc.compile(module, example_inputs=torch.as_tensor(x[:4]), calibration=x, bits=8, backends=backends)


PAGES = {"options.md": options, "support.md": support}


def main() -> None:
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py" if stale else 0)
    for name in stale:
        (DOCS / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
