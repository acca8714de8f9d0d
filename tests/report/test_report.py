"""The report in all its forms: JSON that reads back, a page that needs nothing else and trusts no name, text for terminals."""

import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from rich.console import Console

import hwcompile as hc
from hwcompile.frontends.expressions import expression
from hwcompile.report import LayerReport, NodeReport, Report, Resources, Timing, from_json
from hwcompile.report.drawing import MOST_BOXES, draw, drawn_boxes
from hwcompile.report.html import as_html
from hwcompile.report.text import engine_line, print_report

HOSTILE = "</title><script>alert('x')</script><img src=x onerror=\"a\"> [/red] [bold] \x1b[31m {{ 7*7 }} & \\"
VOID = {"meta", "link", "br", "img", "input", "hr", "line", "rect", "path"}
nan = float("nan")


TOY = """hwcompile graph 1
graph toy
x = input() {"shape": [2], "fixed": [-8, 7, -2], "real": {"scale": "1", "offset": "0"}, \
"rounding": "RND_CONV", "overflow": "SAT"} : [2] -8..7 * 2^-2
y = linear(x) {"weights": [[1], [-3]], "exp": 0} : [1] -29..31 * 2^-2
return out = y {"scale": "1", "offset": "0"}
"""


def engine(name, vectors, mismatches=0, note="", first=""):
    return {"engine": name, "vectors": vectors, "mismatches": mismatches, "seconds": 0.25, "note": note, "first": first}


def make_layer(name, k=0, **changes):
    values = LayerReport(
        name,
        "linear add quantize",
        "16",
        "64",
        902,
        902,
        6,
        14,
        8,
        {"7": 1 + k, "8": 63},
        795 + k,
        Resources(7885.5 + k, 4332, 0, 0.5),
        Resources(7080 + k, 4145, 0, 0.5, 1651),
    )
    return dataclasses.replace(values, **changes)


def make_report(names=("dense", "out"), **changes):
    graph = [NodeReport("x", "input", (), "16", "ap_fixed<8,4>")]
    for name in names:
        graph += [
            NodeReport(f"{name}.bias", "constant", (), "64", "ap_fixed<8,4>", name),
            NodeReport(name, "linear", (graph[-1].name,), "64", "ap_fixed<14,8>", name),
        ]
        graph.append(NodeReport(f"{name}.sum", "add", (name, f"{name}.bias"), "64", "ap_fixed<14,8>", name))
    values = Report(
        "toy",
        "0.1.0",
        "vu9p",
        "xcvu9p-flga2104-2L-e",
        Resources(1182240, 2364480, 6840, 2160),
        Timing(2.5, 14, 1, 372.36),
        tuple(make_layer(name, k) for k, name in enumerate(names)),
        Resources(33866.5, 17420, 0, 1.5),
        Resources(32468, 16731, 0, 1.5, 7000),
        "Yosys 0.70",
        (
            {
                "kind": "input",
                "name": "x",
                "shape": [16],
                "type": "ap_fixed<8,4>",
                "uniform": True,
                "bits": 128,
                "scaled": False,
            },
            {
                "kind": "output",
                "name": "y",
                "shape": [],
                "type": "ap_fixed<38,6>",
                "uniform": False,
                "bits": 38,
                "scaled": True,
            },
        ),
        (
            engine("reference", 5037, note="the law"),
            engine("rtl", 5037),
            engine("hls", 0, note="not run, no ap_types headers"),
            engine("proof", 4, note="4 matrices proved equal to their 2,900 adders"),
        ),
        {"maximum": 0.5, "rms": 0.01, "relative_rms": 0.002, "argmax_agreement": 0.99, "events": 4000},
        {
            "bits": {"dense": 7, "out": 6},
            "tolerance": 0.01,
            "deviation": {"maximum": 0.5, "rms": 0.01, "relative_rms": 0.002, "argmax_agreement": 0.99, "events": 4000},
        },
        {"compiled": 0.7335, "model": 0.7342, "events": 4000},
        tuple(graph),
        (("load", 0.04), ("synthesize", 65.2)),
    )
    return dataclasses.replace(values, **changes)


def minimal():
    nothing = Resources(0, 0, 0, 0)
    return Report("empty", "0.1.0", "vu9p", "part", nothing, None, (), None, None, "", (), (), None, None, None, (), ())


def without_numbers():
    """What JSON makes of a report whose numbers do not exist."""
    bad = {"maximum": nan, "rms": float("inf"), "relative_rms": nan, "argmax_agreement": nan, "events": 0}
    report = make_report(
        deviation=bad,
        calibration={"bits": {}, "tolerance": None, "deviation": bad},
        timing=Timing(2.5, 0, 1, nan),
        accuracy={"compiled": 0.5, "model": nan, "events": 10},
        estimate=Resources(nan, 0, 0, 0),
        verification=({**engine("cpu", 5), "seconds": nan},),
    )
    return report


def hostile():
    report = make_report(
        (HOSTILE, "b" * 400, "<i>", "a\"'`&lt;"),
        name=HOSTILE,
        target=HOSTILE,
        part=HOSTILE,
        synthesis=None,
        synthesis_note=HOSTILE,
        synthesis_tool=HOSTILE,
        verification=(engine(HOSTILE, 9, 3, HOSTILE, HOSTILE),),
    )
    ports = tuple({**p, "name": HOSTILE, "type": HOSTILE} for p in report.ports)
    layers = tuple(
        dataclasses.replace(x, synthesis=None, note=HOSTILE, inputs=HOSTILE, ops=HOSTILE) for x in report.layers
    )
    return dataclasses.replace(
        report, ports=ports, layers=layers, calibration={**report.calibration, "bits": {HOSTILE: 3}}
    )


def estimate_only():
    report = make_report(
        synthesis=None, synthesis_tool="", deviation=None, calibration=None, accuracy=None, verification=()
    )
    return dataclasses.replace(report, layers=tuple(dataclasses.replace(x, synthesis=None) for x in report.layers))


REPORTS = {
    "full": make_report,
    "minimal": minimal,
    "hostile": hostile,
    "estimate_only": estimate_only,
    "without_numbers": without_numbers,
    "many": lambda: make_report([f"layer_{k}" for k in range(100)]),
    "without_numbers_read_back": lambda: from_json(without_numbers().as_json()),
    "half_a_surrogate": lambda: make_report(("a\ud800b",)),
    "uses_what_is_not_there": lambda: make_report(device=Resources(100, 0, 0, 0)),
    "no_weights": lambda: dataclasses.replace(
        make_report(), layers=(make_layer("max", weights=0, width_histogram={}),)
    ),
}


@pytest.fixture(params=REPORTS)
def report(request):
    return REPORTS[request.param]()


class Page(HTMLParser):
    """Tags that are open and close in order, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag != "path" or (self.open and self.open[-1] == tag):
            if tag in VOID:
                return
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def shown(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=118, highlight=False))
    return out.getvalue()


# ---- JSON ---------------------------------------------------------------------------------------------------------------


def test_json_round_trip():
    report = make_report()
    assert from_json(report.as_json()) == report


def test_json_of_any_report_reads_back_the_same(report):
    text = report.as_json()
    assert from_json(text).as_json() == text
    json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"name": 1}', make_report().as_json().replace('"target"', '"targets"')]
)
def test_other_json_is_refused(text):
    with pytest.raises(hc.CompileError, match="not a report that this version wrote"):
        from_json(text)


def test_shares_of_a_device_without_the_resource():
    shares = Resources(10, 5, 0, 1).shares(Resources(100, 0, 0, 4))
    assert shares == {"lut": 0.1, "ff": float("inf"), "dsp": 0.0, "bram": 0.25}


# ---- the page -----------------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_needs_nothing_else(report):
    text = as_html(report)
    text.encode("utf-8")
    page = Page(text)
    assert not page.open
    assert page.tags.count("script") == 1
    assert {"img", "link", "iframe", "object", "base", "form", "a"}.isdisjoint(page.tags)
    loading = {"src", "href", "xlink:href", "srcset", "action"}
    assert not [name for name, _ in page.attributes if name in loading or name.startswith("on")]
    urls = re.findall(r"url\(([^)]*)\)", text)
    assert set(urls) <= {"#tip"}
    assert "default-src 'none'" in text
    for forbidden in ("http://", "https://", "@import", "fetch(", "XMLHttpRequest"):
        assert forbidden not in text


def test_page_escapes_hostile_names():
    text = as_html(hostile())
    for tag in ("<script>alert", "<img", "<i>"):
        assert tag not in text
    assert "{{ 7*7 }}" in text
    page = Page(text)
    words = "".join(page.text)
    assert "</title><script>alert('x')</script>" in words
    assert [v for n, v in page.attributes if n == "title" and "</title>" in v]


def test_page_names_every_layer(report):
    text = "".join(Page(as_html(report)).text)
    for layer in report.layers:
        assert layer.name.replace("\ud800", "?") in text


def test_page_is_deterministic():
    assert as_html(make_report()) == as_html(from_json(make_report().as_json()))


def test_every_svg_is_well_formed(report):
    text = as_html(report).replace("\x1b", "")
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)


def test_headline_says_the_kind_of_every_number():
    tiles = re.findall(r'<div class="tile.*?</div>\n', as_html(make_report()), re.DOTALL)
    kinds = [re.search(r'class="kind (\w+)"', t)[1] for t in tiles]
    assert kinds == ["synthesis"] * 4 + ["design", "design", "estimate", "measured", "measured", "measured"]
    assert "synthesis (Yosys 0.70)" in tiles[0]
    tiles = re.findall(r'<div class="tile.*?</div>\n', as_html(estimate_only()), re.DOTALL)
    assert [re.search(r'class="kind (\w+)"', t)[1] for t in tiles[:4]] == ["estimate"] * 4


def test_verification_is_not_claimed_without_an_engine():
    assert "bit-exact" in as_html(make_report())
    for verification in ((), (engine("reference", 5),), (engine("rtl", 0, note="not run"),), (engine("rtl", 5, 1),)):
        assert "bit-exact" not in as_html(make_report(verification=verification))


def test_page_warns_of_a_slow_clock_and_a_small_device():
    text = as_html(make_report(timing=Timing(1.0, 14, 1, 372.0), device=Resources(100, 2364480, 6840, 2160)))
    assert "below the 1000 MHz asked for" in text
    assert "32468.00%" in text


# ---- the drawing --------------------------------------------------------------------------------------------------------


def chain(count, layer=lambda k: "", extra=lambda k: ()):
    return tuple(
        NodeReport(f"n{k}", "add", (*((f"n{k - 1}",) if k else ()), *extra(k)), "4", "ap_fixed<8,4>", layer(k))
        for k in range(count)
    )


@pytest.mark.parametrize(
    "graph",
    [
        (),
        chain(1),
        chain(30),
        chain(150, extra=lambda k: ("n0", f"n{k // 2}", "unknown")),
        (
            *(NodeReport(f"i{k}", "input", ()) for k in range(20)),
            NodeReport("c", "concat", tuple(f"i{k}" for k in range(20))),
        ),
    ],
)
def test_boxes_do_not_overlap_and_edges_go_down(graph):
    boxes, _ = drawn_boxes(make_report(graph=graph))
    drawing = draw(boxes)
    assert len(drawing.boxes) == len(graph)
    assert len(drawing.paths) == sum(len(b.operands) for b in boxes)
    for k, a in enumerate(drawing.boxes):
        assert a.x >= 0
        assert a.x + a.width <= drawing.width
        assert a.y + a.height <= drawing.height
        assert all(drawing.boxes[j].y < a.y for j in a.box.operands)
        for b in drawing.boxes[:k]:
            assert a.y != b.y or a.x + a.width <= b.x + 1e-6 or b.x + b.width <= a.x + 1e-6


def test_large_graphs_are_drawn_by_layers_or_cut():
    boxes, said = drawn_boxes(make_report(graph=chain(1000, lambda k: f"layer{k // 10}")))
    assert len(boxes) == 100
    assert "1,000 nodes and is drawn by layers" in said
    assert boxes[1].operands == (0,)
    boxes, said = drawn_boxes(make_report(graph=chain(1000)))
    assert len(boxes) == MOST_BOXES
    assert "first 200 of 1,000" in said
    interleaved = chain(300, lambda k: f"layer{k % 7}")
    assert all(j < i for i, b in enumerate(drawn_boxes(make_report(graph=interleaved))[0]) for j in b.operands)


# ---- text ---------------------------------------------------------------------------------------------------------------


def test_text_prints_for_any_report(report):
    text = shown(report)
    assert "\x1b" not in text
    assert all(len(line) <= 118 for line in text.splitlines())
    for layer in report.layers:
        assert layer.name[:8].replace("\ud800", "\N{REPLACEMENT CHARACTER}") in text


def test_text_keeps_the_kinds_of_numbers_apart():
    text = shown(make_report())
    assert "syn.: Yosys 0.70" in text
    assert "(estimate)" in text
    assert text.count("(measured)") == 3
    assert "syn." not in shown(estimate_only())


def test_a_layer_without_synthesis_shows_a_dash_and_why():
    failed = make_layer("failed", synthesis=None, note="stopped at its time limit of 300 s")
    text = shown(make_report(layers=(failed,)))
    row = next(line for line in text.splitlines() if "failed " in line)
    assert row.split()[-5:] == ["–"] * 5
    assert "failed: stopped at its time limit" in text


def test_engine_lines():
    assert "✓" in engine_line(engine("rtl", 5))
    assert "✗" in engine_line(engine("rtl", 5, 1))
    assert "4 matrices" in engine_line(engine("proof", 4))
    assert engine_line(engine("rtl", 0, note="not run, no Verilator")).endswith("not run, no Verilator")


# ---- a real one -----------------------------------------------------------------------------------------------------------


def test_report_of_a_compiled_graph(tmp_path):
    source = tmp_path / "toy.hwc"
    source.write_text(TOY)
    report = hc.compile(source, "vu9p", backends=("rtl",)).report
    assert from_json(report.as_json()) == report
    x, y = (next(n for n in report.graph if n.name == name) for name in ("x", "y"))
    assert (x.op, x.shape, x.type, x.layer) == ("input", "2", "ap_fixed<4,2>", "")
    assert (y.op, y.operands, y.layer) == ("linear", ("x",), "y")
    assert "ap_fixed&lt;4,2&gt;" in as_html(report)
    assert "y" in shown(report)


def test_layers_that_are_wires_cost_nothing():
    """A layer that only chooses inputs has an estimate all the same, so that sums over layers are possible."""
    formula = expression("x1 * x3 + max(x1, x2)", inputs="ap_fixed<8,3>")
    report = hc.compile(formula, backends=("rtl",)).report
    assert [layer.name for layer in report.layers if layer.operations == 0]
    assert 0 < sum(layer.estimate.lut for layer in report.layers) <= report.estimate.lut


def test_without_verilog_no_columns_wait_for_its_costs():
    design = hc.compile(expression("x0 * x1", inputs="ap_fixed<8,3>"), backends=("hls", "cpu"))
    console = Console(file=io.StringIO(), width=120)
    print_report(design.report, console)
    text = console.file.getvalue()
    assert "weights" in text
    assert "ops" not in text
    assert "of vu9p" not in text
    assert "HLS, parallel (estimates)" in text
