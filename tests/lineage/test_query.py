"""A query finds exactly the states for which Python says the same thing, and nothing outside the language runs."""

import operator
from datetime import UTC, datetime

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.lineage import Store

OPERATORS = {"=": operator.eq, "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
             ">": operator.gt, ">=": operator.ge}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("query") / "runs") as opened:
        random = np.random.default_rng(3)
        for i in range(60):
            metrics = {n: int(random.integers(4)) for n in ("lut", "ff", "val/accuracy") if random.random() < 0.7}
            opened.add(
                metrics=metrics,
                method=("prune", "quantize", "")[i % 3],
                properties={
                    "lr": random.choice([0.1, 0.2]),
                    "auto": [1, "x", True, None][i % 4],
                    "o": {"name": "ab"[i % 2]},
                },
                error="failed" if i % 7 == 0 else "",
                tags=["best"] if i % 5 == 0 else [],
                key=i,
            )
        yield opened


def atom(random):
    """A comparison as text, and as a function of a state."""
    sign, number = str(random.choice(list(OPERATORS))), int(random.integers(4))
    compare = OPERATORS[sign]
    match int(random.integers(8)):
        case 0:
            return f"lut {sign} {number}", lambda s: "lut" in s.metrics and compare(s.metrics["lut"], number)
        case 1:
            return f"{number} {sign} ff", lambda s: "ff" in s.metrics and compare(number, s.metrics["ff"])
        case 2:
            low = number - 1
            text = f"{low} < metric('val/accuracy') {sign} {number}"
            return (
                text,
                lambda s: low < s.metrics.get("val/accuracy", -9) and compare(s.metrics["val/accuracy"], number),
            )
        case 3:
            return "method in ('prune', 'x')", lambda s: s.method == "prune"
        case 4:
            return "tag != 'best'", lambda s: "best" not in s.tags
        case 5:
            return "has(ff)", lambda s: "ff" in s.metrics
        case 6:
            return "properties.o.name = 'a'", lambda s: s.properties["o"]["name"] == "a"
    return "has(error)", lambda s: s.error != ""


def expression(random, depth):
    if depth == 0 or random.random() < 0.2:
        return atom(random)
    (a, in_a), (b, in_b) = expression(random, depth - 1), expression(random, depth - 1)
    match int(random.integers(3)):
        case 0:
            return f"({a}) and {b}" if " or " in a else f"{a} and ({b})", lambda s: in_a(s) and in_b(s)
        case 1:
            return f"({a} or {b})", lambda s: in_a(s) or in_b(s)
    return f"not ({a})", lambda s: not in_a(s)


def test_a_query_is_what_python_says(store):
    states = store.find()
    assert len(states) == 60
    found_some = 0
    for seed in range(300):
        text, holds = expression(np.random.default_rng(seed), 3)
        expected = [s for s in states if holds(s)]
        assert store.find(text) == expected, text
        found_some += 0 < len(expected) < 60
    assert found_some > 100


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("properties.auto > 0", lambda p: p["auto"] in (1, True)),
        ("properties.auto < 'y'", lambda p: p["auto"] == "x"),
        ("properties.auto != 'x'", lambda p: p["auto"] not in ("x", None)),
        ("properties.auto = True", lambda p: p["auto"] in (1, True)),
        ("has(properties.auto)", lambda p: p["auto"] is not None),
        ("properties('o.name') = 'b'", lambda p: p["o"]["name"] == "b"),
        ("properties.lr >= -1e400 and properties.lr < 0.15", lambda p: p["lr"] == 0.1),
        (f"properties.lr < {10**400}", lambda p: True),
    ],
)
def test_properties_of_mixed_types(store, text, holds):
    assert [s.key for s in store.find(text)] == [s.key for s in store.find() if holds(s.properties)]


def test_dates_are_utc(store):
    now = datetime.now(UTC)
    assert len(store.find(f"created < '{now.isoformat()}' and created > '2020-02-29 12:00'")) == 60
    assert store.find(f"created >= '{now.year + 1}-01-01'") == []


def test_order_and_limit(store):
    with_lut = [s for s in store.find() if "lut" in s.metrics]
    up = sorted(with_lut, key=lambda s: s.metrics["lut"])
    assert store.find(order_by="lut") == up
    assert [s.metrics["lut"] for s in store.find(order_by="lut", descending=True, limit=3)] == [3.0, 3.0, 3.0]
    assert (
        store.find("lut > 0 and has(ff)", order_by="lut", limit=4)
        == [s for s in up if s.metrics["lut"] > 0 and "ff" in s.metrics][:4]
    )
    assert store.find(order_by="created", descending=True) == store.find()[::-1]
    assert store.find(limit=0) == []


def test_quotes_and_equal_signs_inside_texts_are_text(store):
    state = store.add(method="a='b\" or 1=1; DROP TABLE states --", tags=["it's = x"])
    assert store.find("""method = 'a=\\'b" or 1=1; DROP TABLE states --'""") == [state]
    assert store.find('''tag="it's = x"''') == [state]
    assert len(store) == 61


FORMS = "see docs/lineage.md; for instance: accuracy > 0.75 and (lut < 5000 or tag = 'best') and not has(error)"

NO_FIELD = "is no metric, none of id, method, target, branch, step, error, created, tag, and not properties.NAME"
PROPERTIES = "properties.auto, properties.lr, properties.o.name"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy > 1", "no state has a metric 'accuracy'; known: ff, lut, val/accuracy"),
        ("properties.x = 1", f"no state has a property or parameter 'properties.x'; known: {PROPERTIES}"),
        ("lut <", f"is not an expression (invalid syntax); {FORMS}"),
        ("lut", f"'lut' is not a condition; {FORMS}"),
        ("lut + 1 > 2", f"'lut + 1' {NO_FIELD}; {FORMS}"),
        ("lut > 'x'", f"'lut > 'x'' must compare lut with a number; {FORMS}"),
        ("lut > True", f"'lut > True' must compare lut with a number; {FORMS}"),
        ("lut < ff", f"'lut < ff' must compare with a number or a text; a text needs quotes: 'ff'; {FORMS}"),
        ("method = 1", f"'method == 1' must compare method with a text in quotes; {FORMS}"),
        ("tag < 'b'", f"'tag < 'b'' must use =, !=, in or not in: tags have no order; {FORMS}"),
        ("created > 'May'", f"'created > 'May'' must have a date such as '2026-03-31' or '2026-03-31 12:00' (UTC); {FORMS}"),
        ("lut is 1", f"'lut is 1' must use =, !=, <, <=, >, >=, in or not in; {FORMS}"),
        ("lut in 1", f"'lut in 1' must have a list in parentheses after 'in'; {FORMS}"),
        ("__import__('os').system('true')", f"'__import__('os').system('true')' is not a condition; {FORMS}"),
        ("(lambda: 1)() > 1", f"'(lambda: 1)()' {NO_FIELD}; {FORMS}"),
        ("not " * 60 + "has(lut)", "must not be nested more than 50 deep"),
        ("lut > 1 " * 1000, "must be at most 5000 characters long, not 8000"),
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(store, text, said):
    with pytest.raises(hc.CompileError) as caught:
        store.find(text)
    assert str(caught.value) == f"query {text.strip()[:80]!r}: {said}"


def test_what_no_state_has_is_refused_for_the_order(store):
    with pytest.raises(
        hc.CompileError, match=r"order 'luts': must be a metric or 'created'; metrics: ff, lut, val/accuracy"
    ):
        store.find(order_by="luts")
    with pytest.raises(hc.CompileError, match="limit: must be at least 0, not -1"):
        store.find(limit=-1)
