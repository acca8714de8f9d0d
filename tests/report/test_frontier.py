"""The frontier as numbers, as a figure, and as a page that is opened in a real browser.

Candidates are made by formula with a seed: material for tests, the result of nothing.
"""

import itertools
import json
import math
import random
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwcompile as hc
from hwcompile.report.frontier import Candidate, Objective, costs, figure, frontier, hypervolume, page

ACCURACY, LUT = Objective("accuracy", True), Objective("lut", False)
LATENCY, BITS = Objective("latency_ns", False), Objective("bits", False)
BOTH = (ACCURACY, LUT)
HOSTILE = "</script ></script><!--<script ><b>'\"&<img src=x onerror=alert(1)>\u2028{{ 7*7 }}"
BUILD = Path(hc.__file__).parent / "build" / "frontier"
nan = math.nan

METHODS = {  # best accuracy, LUTs at which half of what is to be had is reached, spread
    "learned widths": (0.741, 420, 0.006),
    "uniform widths": (0.738, 1500, 0.008),
    "pruned, 6 bits": (0.736, 900, 0.008),
    "boosted trees": (0.728, 300, 0.010),
    "symbolic": (0.712, 90, 0.012),
}
SIZES = (16, 64, 32, 32, 5)


def make_candidates(count=120, seed=7):
    """Every 30th failed, every third is synthesised, every 17th has no latency."""
    draw = random.Random(seed)
    return [make_failed(k, draw) if k % 30 == 29 else make_candidate(k, draw) for k in range(count)]


def make_failed(k, draw):
    error = "dense_2 (Dense): the budget of 400 LUTs was missed; the smallest that was reached is 516"
    return Candidate(f"trial {k}", draw.choice(list(METHODS)), error=error)


def make_candidate(k, draw):
    method, (best, half, spread) = draw.choice(list(METHODS.items()))
    lut = half * math.exp(draw.uniform(-1, 3))
    bits = min(12.0, 1.5 + math.log2(lut / 30) * draw.uniform(0.6, 0.9))
    values = {
        "accuracy": round(best - 0.05 * half / (half + lut) - abs(draw.gauss(0, spread)), 4),
        "lut": round(lut),
        "latency_ns": nan if k % 17 == 5 else 2.5 * round(3 + math.log2(lut) * draw.uniform(0.8, 1.1)),
        "bits": round(bits, 2),
        "ff": round(lut * draw.uniform(0.4, 0.6)),
    }
    if k % 3 == 0:
        values["lut_synthesis"] = round(lut * draw.gauss(0.96, 0.04))
    return Candidate(
        f"trial {k}",
        method,
        values,
        {"lr": draw.choice([1e-3, 3e-3]), "budget": round(lut), "epochs": 300, "distilled": draw.random() < 0.5},
        [make_layer(i, bits, lut, draw) for i in range(len(SIZES) - 1)],
        ("float, 50 epochs", "distilled from trial 0", f"quantized: {method}", f"trained to {round(lut):,} LUTs"),
        f"trial {k} for vu13p\nLUT {round(lut):,} (estimate)\nbit-exact: cpu, rtl\n",
        f"hwcompile compile trial-{k}.onnx --target vu13p --output build/trial-{k}",
    )


def make_layer(i, bits, lut, draw):
    weights, mean = SIZES[i] * SIZES[i + 1], max(0.5, bits * draw.uniform(0.5, 0.8))
    return {
        "name": f"dense_{i + 1}",
        "shape": f"{SIZES[i]} → {SIZES[i + 1]}",
        "weight_bits_mean": round(mean, 2),
        "weight_bits_max": math.ceil(mean * 1.7),
        "activation_bits": draw.randint(4, 9),
        "nonzero_weights": round(weights * draw.uniform(0.2, 0.9)),
        "weights": weights,
        "lut": round(lut / 4),
    }


def make_history(count=60):
    return [(12.0 * k, 2 * k, 5000 * (1 - math.exp(-k / 9)) + 10 * (k // 7)) for k in range(1, count + 1)]


def make_page(candidates, **changes):
    options = {"history": make_history(), "target": "vu13p", "subtitle": "16-64-32-32-5", "measures": (LATENCY, BITS)}
    return page(candidates, BOTH, "Jet tagger: 120 trials", **{**options, **changes})


def points_of(rows):
    """Candidates and objectives of rows of numbers, the first objective larger is better."""
    objectives = [Objective(f"v{k}", k == 0) for k in range(len(rows[0]))]
    return [Candidate(str(i), "m", {o.name: v for o, v in zip(objectives, r)}) for i, r in enumerate(rows)], objectives


# ---- numbers ------------------------------------------------------------------------------------------------------------

values = st.one_of(st.integers(0, 5), st.just(nan), st.just(math.inf))


@settings(max_examples=100)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[values] * n), min_size=1, max_size=25)))
def test_frontier_is_what_nothing_dominates(rows):
    def beats(p, q):
        as_good = p[0] >= q[0] and all(a <= b for a, b in zip(p[1:], q[1:]))
        return all(math.isfinite(v) for v in p) and as_good and p != q

    wanted = [all(math.isfinite(v) for v in q) and not any(beats(p, q) for p in rows) for q in rows]
    assert list(frontier(*points_of(rows))) == wanted


def test_failed_and_unknown_candidates_are_never_on_it():
    rows = [Candidate("a", "m", {"accuracy": 0.9, "lut": 1}, error="no"), Candidate("b", "m", {"accuracy": 0.9})]
    rows += [
        Candidate("c", "m", {"accuracy": 0.1, "lut": 5}),
        Candidate("d", "m", {"accuracy": np.float32(0.1), "lut": 5}),
    ]
    assert frontier(rows, [LUT]) == (False, False, True, True)
    assert frontier(rows, BOTH)[:3] == (False, False, False)
    assert frontier([], BOTH) == ()


def test_what_misses_a_constraint_is_never_on_it_and_beats_nothing():
    best = Candidate("a", "m", {"accuracy": 0.9, "lut": 5}, misses="latency_ns<=10")
    assert frontier([best, Candidate("b", "m", {"accuracy": 0.8, "lut": 7})], BOTH) == (False, True)


def test_costs_are_smaller_is_better():
    assert costs([Candidate("a", "m", {"accuracy": 0.5, "lut": 3})], BOTH) == [(-0.5, 3.0)]


@settings(max_examples=100)
@given(st.sampled_from([2, 3]).flatmap(lambda n: st.lists(st.tuples(*[st.integers(-3, 7)] * n), max_size=30)))
def test_hypervolume_counts_the_cells_that_are_dominated(points):
    n = len(points[0]) if points else 2
    cells = itertools.product(range(-3, 5), repeat=n)
    wanted = sum(any(all(a <= c for a, c in zip(p, cell)) for p in points) for cell in cells)
    assert hypervolume(points, (5,) * n) == wanted


def test_hypervolume_of_known_sets():
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (4, 4)) == 6
    assert hypervolume([(0, 0, 0)], (2, 3, 5)) == 30
    assert hypervolume([(0, 0, 1), (0, 1, 0), (1, 0, 0)], (2, 2, 2)) == 7
    assert hypervolume([], (1, 1)) == hypervolume([(nan, 0), (1, 0), (0, 2)], (1, 1)) == 0
    third = Fraction(1, 3)
    assert hypervolume([(third, third, third)], (1, 1, 1)) == Fraction(8, 27)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frontier([], []), "frontier: needs at least one objective"),
        (lambda: frontier([], [LUT, LUT]), "frontier: an objective must be given once, and 'lut' is given twice"),
        (lambda: hypervolume([], (1,)), "hypervolume: is for two or three objectives, not 1; choose three"),
        (lambda: hypervolume([(1, 2, 3)], (1, 2)), "hypervolume: a point must have 2 objectives, not 3"),
        (
            lambda: page([Candidate("a", "m", {"lut": "many"})], [LUT], "t"),
            "candidate 'a': the value of 'lut' must be a number, not 'many'",
        ),
        (
            lambda: page([Candidate("a", "m", {"lut": 1})], BOTH, "t"),
            "frontier: no candidate has a value of the objective 'accuracy'; the values are lut",
        ),
        (lambda: figure([], LUT, ACCURACY, "a.gif"), "figure: the path must end in .png, .svg or .pdf, not '.gif'"),
        (lambda: figure([], LUT, ACCURACY, "a.svg"), "figure: no candidate has values of both 'lut' and 'accuracy'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(hc.CompileError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "unit", "label"),
    [
        ("lut", "", "LUT"),
        ("lut_synthesis", "", "LUT (synthesis)"),
        ("latency_ns", "", "latency (ns)"),
        ("energy", "pJ", "energy (pJ)"),
        ("mean_bits", "", "mean bits"),
    ],
)
def test_labels(name, unit, label):
    assert Objective(name, False, unit).label == label


# ---- the text of the page, the figure -----------------------------------------------------------------------------------


def test_page_is_deterministic_and_asks_for_nothing():
    text = make_page(make_candidates())
    assert text == make_page(make_candidates())
    assert not re.search(r"(src|href)\s*=|@import|url\(", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in text


def test_page_holds_every_candidate_and_what_is_no_json():
    odd = Candidate(
        "odd", "m", {"accuracy": np.float32(0.5), "lut": np.int64(3), "x": nan}, {"p": Path("a"), "q": None}
    )
    text = make_page([*make_candidates(12), odd])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [c["name"] for c in data["candidates"]] == [*(f"trial {k}" for k in range(12)), "odd"]
    assert data["candidates"][-1]["values"] == {"accuracy": 0.5, "lut": 3, "x": None}
    assert data["candidates"][-1]["parameters"] == {"p": "a", "q": None}
    better = {m["name"]: m["better"] for m in data["measures"]}
    assert better == {"accuracy": 1, "lut": -1, "lut_synthesis": -1, "latency_ns": -1, "bits": -1, "ff": 0, "x": 0}
    assert list(better)[:3] == ["accuracy", "lut", "lut_synthesis"]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_figure_has_the_same_bytes_each_time(tmp_path, ending):
    rows = make_candidates()
    rows += [Candidate("a", "_$x", {"accuracy": 0.7, "lut": 77}, misses="ff<=9")]
    for name in ("a", "b"):
        figure(rows, LUT, ACCURACY, tmp_path / f"{name}.{ending}")
    written = (tmp_path / f"a.{ending}").read_bytes()
    assert written == (tmp_path / f"b.{ending}").read_bytes()
    assert written.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])


# ---- the page in a browser ----------------------------------------------------------------------------------------------


def shown(tab):
    """Indices of the candidates that the plot shows, and of those that are drawn strong."""
    drawn = tab.eval_on_selector_all("#points path", "all => all.map(p => [Number(p.dataset.i), p.classList[0]])")
    return {i for i, _ in drawn}, {i for i, look in drawn if look == "best"}


def places(tab):
    """The middle of every point, in pixels of the window."""
    tab.locator("#plot").scroll_into_view_if_needed()
    script = """all => all.map(p => [p.dataset.i, p.getBoundingClientRect()])
        .map(([i, box]) => [Number(i), box.x + box.width / 2, box.y + box.height / 2])"""
    return {i: (x, y) for i, x, y in tab.eval_on_selector_all("#points path", script)}


def lone(tab, rows):
    """A strong, synthesised candidate that no other point is near to, and its place."""
    at = places(tab)
    for i in sorted(shown(tab)[1]):
        if "lut_synthesis" in rows[i].values and all(math.dist(at[i], p) > 12 for k, p in at.items() if k != i):
            return i, at[i]
    raise LookupError


def test_points_are_the_candidates_and_strong_ones_the_frontier(open_page):
    rows = make_candidates()
    points, strong = shown(open_page(make_page(rows)))
    assert points == {i for i, c in enumerate(rows) if not c.error}
    assert strong == {i for i, on in enumerate(frontier(rows, BOTH)) if on}


def test_hover_says_what_a_point_is(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    index, place = lone(tab, rows)
    assert tab.locator("#tip").is_hidden()
    tab.mouse.move(*place)
    text = tab.locator("#tip").inner_text()
    assert text.splitlines()[:2] == [rows[index].name, rows[index].method]
    assert f"{rows[index].values['accuracy']:.4f}" in text
    tab.mouse.move(2, 2)
    assert tab.locator("#tip").is_hidden()


def test_click_opens_the_panel_and_the_command_is_copied(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows), permissions=["clipboard-read", "clipboard-write"])
    index, place = lone(tab, rows)
    tab.mouse.click(*place)
    panel, c = tab.locator("#panel"), rows[index]
    assert panel.locator("h2").inner_text() == c.name
    assert panel.locator(".command").inner_text() == c.command
    assert panel.locator(".layer").count() == len(c.layers)
    assert panel.locator("ol li").all_inner_texts() == list(c.lineage)
    assert panel.locator(".parameters tr").count() == len(c.parameters)
    assert f"{c.values['lut_synthesis'] / c.values['lut']:.2f}" in panel.locator(".values").inner_text()
    panel.get_by_role("button", name="copy").click()
    panel.get_by_role("button", name="copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == c.command
    panel.locator("summary").click()
    assert panel.locator(".report").inner_text().strip() == c.report.strip()
    BUILD.mkdir(parents=True, exist_ok=True)
    tab.mouse.move(*places(tab)[index])
    tab.screenshot(path=BUILD / "page.png")
    (BUILD / "page.html").write_text(make_page(rows), encoding="utf-8")


def test_filters_hide_points_and_the_staircase_follows(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    tab.get_by_label("learned widths").uncheck()
    kept = [c if c.method != "learned widths" else Candidate(c.name, c.method, error="hidden") for c in rows]
    on = {i for i, f in enumerate(frontier(kept, BOTH)) if f}
    assert shown(tab) == ({i for i, c in enumerate(kept) if not c.error}, on)
    tab.locator("#ranges summary").click()
    tab.get_by_label("LUT, largest", exact=True).fill("1000")
    tab.get_by_label("accuracy, smallest").fill("0.69")
    left = {i for i, c in enumerate(kept) if not c.error and c.values["lut"] <= 1000 and c.values["accuracy"] >= 0.69}
    assert shown(tab)[0] == left
    assert tab.locator("#shown").inner_text().startswith(f"{len(left)} of 116 shown")
    tab.locator("#reset").click()
    assert len(shown(tab)[0]) == 116


def test_a_frame_drawn_with_the_mouse_becomes_the_ranges(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    middle = places(tab)
    box = tab.locator("#plot").bounding_box()
    x, y = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 200, y + 150, steps=4)
    tab.mouse.up()
    inside = {i for i, (px, py) in middle.items() if x < px < x + 200 and y < py < y + 150}
    assert 0 < len(inside) < len(middle)
    assert shown(tab)[0] == inside


def test_axes_switch(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    tab.locator("#x").select_option("latency_ns")
    assert shown(tab)[0] == {i for i, c in enumerate(rows) if not c.error and not math.isnan(c.values["latency_ns"])}
    assert "latency (ns)" in tab.locator("#plot").text_content()
    assert "have no place on these axes" in tab.locator("#shown").inner_text()
    assert tab.locator("#plot .stairs").count() == 1
    tab.locator("#x").select_option("ff")  # nobody said which end of it is better
    assert tab.locator("#plot .stairs").count() == 0
    before = tab.locator("#points path").first.get_attribute("d")
    tab.locator("#logx").uncheck()
    assert tab.locator("#points path").first.get_attribute("d") != before
    tab.locator("#x").select_option("lut")
    tab.get_by_label("staircase of each method").check()
    assert tab.locator("#plot .own").count() == len(METHODS)


def test_table_sorts_and_chooses(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    tab.locator("#more").click()
    assert tab.locator("#table tbody tr").count() == 116
    header = tab.locator("#table th[data-sort='accuracy']")
    header.locator("button").click()
    order = tab.eval_on_selector_all("#table tbody tr", "all => all.map(r => Number(r.dataset.i))")
    best = [rows[i].values["accuracy"] for i in order]
    assert best == sorted(best, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    tab.locator("#table tbody button").nth(3).click()
    assert tab.locator("#panel h2").inner_text() == rows[order[3]].name
    assert tab.locator("#table tr[aria-selected=true]").count() == 1
    tab.locator("#table th[data-sort='latency_ns'] button").click()
    assert tab.locator("#table tbody tr").last.locator("td").nth(6).inner_text() == "–"  # not known is last


def test_a_click_anywhere_in_a_row_chooses_it(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    row = tab.locator("#table tbody tr").nth(2)
    row.locator("td").nth(3).click()
    assert tab.locator("#panel h2").inner_text() == rows[int(row.get_attribute("data-i"))].name
    row.locator("button").press("Enter")
    assert row.get_attribute("aria-selected") == "true"


def with_limit(rows, most):
    """As a search gives them: those above so many LUTs miss its constraint."""
    return [replace(c, misses="" if c.error or c.values["lut"] <= most else f"lut<={most}") for c in rows]


def test_what_misses_a_constraint_is_grey_and_says_so(open_page):
    rows = with_limit(make_candidates(), 1000)
    tab = open_page(make_page(rows))
    grey = {i for i, c in enumerate(rows) if c.misses}
    drawn = tab.eval_on_selector_all("#points path.missed", "all => all.map(p => Number(p.dataset.i))")
    assert set(drawn) == grey
    strong = {i for i, on in enumerate(frontier(rows, BOTH)) if on}
    assert shown(tab)[1] == strong
    assert f"{len(grey)} do not meet the constraints" in tab.locator(".tiles").inner_text()
    assert (
        tab.locator(".tile").nth(2).inner_text().split()[2] == f"{max(rows[i].values['accuracy'] for i in strong):.4f}"
    )
    assert "Grey points do not meet the constraints." in tab.locator("#caption").inner_text()
    tab.locator("#table th[data-sort='accuracy'] button").click()
    row = tab.locator("#table tbody tr:has-text('✕')").first
    row.click()
    assert int(row.get_attribute("data-i")) in grey
    assert "misses lut<=1000" in tab.locator("#panel").inner_text()


def test_a_figure_of_which_nothing_meets_the_constraints(tmp_path):
    figure(with_limit(make_candidates(), 0), LUT, ACCURACY, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size


def test_keyboard_goes_from_point_to_point(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    tab.locator("#plot").focus()
    tab.keyboard.press("Home")
    cheapest = min((c for c in rows if not c.error), key=lambda c: c.values["lut"])
    assert cheapest.name in tab.locator("#tip").inner_text()
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    ahead = sorted((c for c, on in zip(rows, frontier(rows, BOTH)) if on), key=lambda c: c.values["lut"])
    assert tab.locator("#panel h2").inner_text() == ahead[1].name


def test_failed_trials_are_in_a_fold(open_page):
    rows = make_candidates()
    tab = open_page(make_page(rows))
    fold = tab.locator("#failed")
    assert fold.locator("summary").inner_text() == "4 failed"
    fold.locator("summary").click()
    assert fold.locator("pre").all_inner_texts() == [c.error for c in rows if c.error]
    fold.get_by_role("button").first.click()
    assert tab.locator("#panel .error").inner_text() == rows[29].error
    top = tab.locator("#panel").bounding_box()["y"]
    assert 0 <= top < 800  # the panel came into view


def test_hostile_names_are_only_text(open_page):
    c = make_candidate(0, random.Random(1))
    layer = {"name": HOSTILE, HOSTILE: HOSTILE, "weight_bits_mean": HOSTILE}
    row = Candidate(
        HOSTILE, HOSTILE, {**c.values, HOSTILE: 1}, {HOSTILE: HOSTILE}, [layer], [HOSTILE], HOSTILE, HOSTILE
    )
    failed = Candidate(HOSTILE, HOSTILE, error=HOSTILE)
    objectives = (*BOTH, Objective(HOSTILE, False, HOSTILE))
    tab = open_page(page([row, failed], objectives, HOSTILE, make_history(), HOSTILE, HOSTILE))
    assert tab.locator("main b").count() == 1  # the target's, which is ours
    assert tab.locator("img").count() == 0
    assert tab.locator("#methods label").text_content().startswith(HOSTILE)
    tab.mouse.click(*places(tab)[0])
    assert tab.locator("#panel .command").text_content() == HOSTILE
    assert tab.locator("img").count() == 0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        make_candidates(1),
        [make_failed(0, random.Random(1))],
        [Candidate("zero", "m", {"accuracy": 0, "lut": 0, "x": nan})],
        [Candidate("a", "m", {"accuracy": 0.5, "lut": 1e30}), Candidate("b", "n", {"accuracy": -3, "lut": 1e-9})],
    ],
    ids=["none", "one", "failed", "zero", "far"],
)
def test_few_or_odd_candidates_open_too(open_page, rows):
    tab = open_page(make_page(rows, history=[]))
    assert shown(tab)[0] == {i for i, c in enumerate(rows) if not c.error}
    for axis in tab.locator("#x option").all():
        tab.locator("#x").select_option(axis.get_attribute("value"))
        assert not re.search("NaN|Infinity|undefined", tab.locator("#plot").inner_html())


def test_one_objective_and_nothing_else(open_page):
    rows = [Candidate("a", "m", {"lut": 3}), Candidate("b", "m", {"lut": 5})]
    tab = open_page(page(rows, [LUT], "LUTs alone"))
    assert shown(tab) == ({0, 1}, {0})
    assert tab.locator("#plot .stairs").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_do_not_scroll_sideways(open_page, scheme):
    tab = open_page(make_page(make_candidates()), width=420, height=900, color_scheme=scheme)
    tab.locator("#ranges summary").click()
    tab.locator("#table tbody button").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == 420
    BUILD.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=BUILD / f"narrow-{scheme}.png", full_page=True)


def test_five_thousand_candidates(open_page):
    rows = make_candidates(5000)
    tab = open_page(make_page(rows))
    strong = {i for i, on in enumerate(frontier(rows, BOTH)) if on}
    assert shown(tab) == ({i for i, c in enumerate(rows) if not c.error}, strong)
    tab.get_by_label("symbolic").uncheck()
    left = sum(not c.error and c.method != "symbolic" for c in rows)
    assert tab.locator("#points path").count() == left
    index = max(i for i in strong if rows[i].method != "symbolic")
    tab.mouse.click(*places(tab)[index])
    assert tab.locator("#panel h2").inner_text() == rows[index].name
