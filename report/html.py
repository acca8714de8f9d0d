"""A report as one self-contained HTML page: what it shows and in which words; how it looks is in the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .. import templates
from .drawing import draw, drawn_boxes, shortened
from .model import LayerReport, Report, Resources
from .numbers import ABSENT, count, exists, number, percent, ratio, share

__all__ = ["as_html", "page_templates"]

_KINDS = ("lut", "ff", "dsp", "bram")
_COLOURS = 10


def page_templates() -> Any:
    """The templates of pages, which escape every value and refuse one that is not given."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files(templates).joinpath("report")
    return Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_html(report: Report) -> str:
    """The page: no scripts, styles, fonts or pictures from elsewhere; every name from the model is escaped."""
    environment = page_templates()
    environment.filters |= {
        "number": number,
        "share": share,
        "percent": percent,
        "shortened": shortened,
        "count": count,
    }
    page = environment.get_template("report.html.j2").render(
        r=report,
        tiles=_tiles(report),
        layers=_layers(report),
        total=_total(report),
        use=_use(report),
        stacks=_stacks(report),
        widths=_widths(report),
        graph=_graph(report),
        calibration=_calibration(report),
        kinds=_KINDS,
        dash=ABSENT,
        synthesised=_synthesised(report),
        ratio=ratio,
        colour={x.name: k % _COLOURS for k, x in enumerate(report.layers)},
    )
    # names may hold halves of surrogate pairs, which no file can
    return page.encode("utf-8", "replace").decode("utf-8")


def _synthesised(report: Report) -> bool:
    return report.synthesis is not None or any(layer.synthesis for layer in report.layers)


# ---- headline -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """A headline number; `kind` is estimate, synthesis, measured, design (a property of what was written) or empty."""

    title: str
    value: str
    unit: str = ""
    kind: str = ""
    lines: tuple[str, ...] = ()
    state: str = ""


def _tiles(report: Report) -> list[_Tile]:
    return [*(_resource(report, kind) for kind in _KINDS), *_timing(report), *_accuracy(report), _verified(report)]


def _resource(report: Report, kind: str) -> _Tile:
    title = kind.upper()
    shown, origin = (report.synthesis, "synthesis") if report.synthesis else (report.estimate, "estimate")
    if shown is None:
        return _Tile(
            title, ABSENT, lines=("no Verilog was written, so nothing is known",) if not report.synthesis_note else ()
        )
    used = shown.shares(report.device)[kind]
    lines = [f"{share(used)} of {report.target}"]
    if report.synthesis and report.estimate:
        lines.append(f"estimate {count(getattr(report.estimate, kind), kind)}")
    return _Tile(title, count(getattr(shown, kind), kind), "", origin, tuple(lines), "bad" if used > 1 else "")


def _timing(report: Report) -> list[_Tile]:
    t = report.timing
    if t is None:
        return [_Tile("Latency", ABSENT, lines=("no Verilog was written",))]
    asked = 1000 / t.clock_ns
    slow = exists(t.fmax_mhz) and t.fmax_mhz < asked * 0.9995
    return [
        _Tile(
            "Latency",
            number(t.latency_ns, ".4g"),
            "ns",
            "design",
            (f"{t.latency_cycles} cycles at the {t.clock_ns:g} ns asked for",),
        ),
        _Tile("Initiation interval", str(t.ii), "cycle" if t.ii == 1 else "cycles", "design", ("between two events",)),
        _Tile(
            "Fmax",
            number(t.fmax_mhz),
            "MHz",
            "estimate",
            (f"below the {asked:.0f} MHz asked for" if slow else f"asked for: {asked:.0f} MHz",),
            "bad" if slow else "",
        ),
    ]


def _accuracy(report: Report) -> list[_Tile]:
    found: list[_Tile] = []
    a, d = report.accuracy, report.deviation
    if a:
        model = (f"{a['model']:.4f} by the model itself",) if exists(a["model"]) else ()
        found.append(
            _Tile(
                "Accuracy", number(a["compiled"], ".4f"), "", "measured", (*model, f"{a['events']:,} labelled events")
            )
        )
    if d:
        same = (f"argmax equal in {d['argmax_agreement']:.2%}",) if exists(d["argmax_agreement"]) else ()
        lines = (f"relative RMS, largest {number(d['maximum'], '.3g')}", *same, f"{d['events']:,} events")
        found.append(_Tile("Deviation", percent(d["relative_rms"]), "", "measured", lines))
    return found


def _verified(report: Report) -> _Tile:
    ran = [v for v in report.verification if v["vectors"]]
    absent = [v["engine"] for v in report.verification if not v["vectors"]]
    left = (f"not run: {', '.join(absent)}",) if absent else ()
    wrong = [v["engine"] for v in ran if v["mismatches"]]
    if wrong:
        return _Tile("Verification", "differs", "", "measured", (f"in {', '.join(wrong)}", *left), "bad")
    # the reference agrees with itself: that alone verifies nothing
    checked = [v["engine"] for v in ran if v["engine"] != "reference"]
    if not checked:
        return _Tile("Verification", "not run", "", "", left)
    return _Tile("Verification", "bit-exact", "", "measured", (", ".join(checked), *left), "good")


# ---- layers and resources -----------------------------------------------------------------------------------------------


def _layers(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "layer": x,
            "colour": k % _COLOURS,
            "ratio": _ratio(x.estimate, x.synthesis),
            "rest": x.synthesis if _synthesised(report) else x.estimate,
        }
        for k, x in enumerate(report.layers)
    ]


def _ratio(estimate: Resources | None, synthesis: Resources | None) -> str:
    return ratio(synthesis.lut if synthesis else None, estimate.lut if estimate else None)


def _total(report: Report) -> dict[str, Any]:
    return {
        "weights": sum(x.weights for x in report.layers),
        "operations": sum(x.operations for x in report.layers),
        "macs": sum(x.macs for x in report.layers),
        "ratio": _ratio(report.estimate, report.synthesis),
        "rest": report.synthesis if _synthesised(report) else report.estimate,
        "shares": {
            name: values.shares(report.device) if values else dict.fromkeys(_KINDS)
            for name, values in (("estimate", report.estimate), ("synthesis", report.synthesis))
        },
    }


def _use(report: Report) -> list[dict[str, Any]]:
    """One bar for each resource and kind of number; wider than the device is cut and marked."""
    found: list[dict[str, Any]] = []
    for kind in _KINDS:
        for origin, values in (("estimate", report.estimate), ("synthesis", report.synthesis)):
            if values is not None:
                used = values.shares(report.device)[kind]
                found.append(
                    {
                        "kind": kind,
                        "title": kind.upper(),
                        "origin": origin,
                        "used": getattr(values, kind),
                        "have": getattr(report.device, kind),
                        "share": used,
                        "percent": min(used, 1) * 100 if exists(used) else 0,
                    }
                )
    return found


def _stacks(report: Report) -> list[dict[str, Any]]:
    """LUTs of all layers side by side, estimates and synthesis on one scale."""
    sums: dict[str, list[tuple[LayerReport, float]]] = {}
    for origin in ("estimate", "synthesis"):
        costs = [(x, getattr(x, origin)) for x in report.layers]
        parts = [(x, float(c.lut)) for x, c in costs if c is not None and exists(c.lut)]
        if sum(lut for _, lut in parts) > 0:
            sums[origin] = parts
    most = max((sum(lut for _, lut in parts) for parts in sums.values()), default=1)
    place = {id(x): k for k, x in enumerate(report.layers)}

    def part(x: LayerReport, lut: float) -> dict[str, Any]:
        return {"name": x.name, "lut": lut, "percent": lut / most * 100, "colour": place[id(x)] % _COLOURS}

    return [
        {
            "origin": origin,
            "sum": sum(lut for _, lut in parts),
            "layers": len(parts),
            "parts": [part(*p) for p in parts],
        }
        for origin, parts in sums.items()
    ]


# ---- widths, graph, calibration -----------------------------------------------------------------------------------------


def _widths(report: Report) -> dict[str, Any]:
    """Bars of each layer's output widths on one axis of bits for all layers."""
    counts = [{int(b): int(n) for b, n in x.width_histogram.items()} for x in report.layers]
    most = max([8, *(b for c in counts for b in c), *(max(x.weight_bits, x.accumulator_bits) for x in report.layers)])
    step = 240 / (most + 1)

    def bars(histogram: Mapping[int, int]) -> list[dict[str, Any]]:
        high = max(histogram.values(), default=1)
        return [
            {
                "bits": b,
                "count": n,
                "x": 10 + b * step + step * 0.1,
                "width": step * 0.8,
                "height": max(56 * n / high, 2),
            }
            for b, n in sorted(histogram.items())
        ]

    return {
        "layers": [
            {
                "layer": x,
                "colour": k % _COLOURS,
                "bars": bars(c),
                "outputs": sum(c.values()),
                "marks": [
                    (letter, 10 + (bits + 0.5) * step, f"{what}: {bits} bits")
                    for letter, bits, what in (
                        ("w", x.weight_bits, "weights"),
                        ("a", x.accumulator_bits, "accumulator"),
                    )
                    if x.weights
                ],
            }
            for k, (x, c) in enumerate(zip(report.layers, counts))
        ],
        "ticks": [(b, 10 + (b + 0.5) * step) for b in range(0, most + 1, 8 if most > 16 else 4)],
    }


def _graph(report: Report) -> dict[str, Any]:
    boxes, said = drawn_boxes(report)
    return {"drawing": draw(boxes), "said": said}


def _calibration(report: Report) -> dict[str, Any] | None:
    c = report.calibration
    if c is None:
        return None
    tolerance = c["tolerance"] if exists(c["tolerance"]) else None
    return {"bits": list(c["bits"].items()), "tolerance": tolerance, "deviation": c["deviation"]}
