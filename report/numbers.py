"""How numbers of a report are written, the same in text and HTML; knows no layout."""

from __future__ import annotations

import math

__all__ = ["ABSENT", "count", "exists", "number", "percent", "ratio", "share"]

ABSENT = "–"
"""Stands where there is no number."""


def exists(value: float | None) -> bool:
    """Whether there is a number: not None, not NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    """The value in a format, or a dash.

    >>> number(1234.4), number(38.878, ".3g", " ns"), number(None), number(float("nan"))
    ('1,234', '38.9 ns', '–', '–')
    """
    return f"{value:{form}}{unit}" if value is not None and exists(value) else ABSENT


def count(value: float | None, kind: str = "") -> str:
    """How many cells of a kind: whole ones, but block RAMs come in halves.

    >>> count(33866.5, "lut"), count(2.5, "bram"), count(2.0, "bram")
    ('33,866', '2.5', '2')
    """
    halves = kind == "bram" and value is not None and exists(value) and value != int(value)
    return number(value, ",.1f" if halves else ",.0f")


def percent(value: float | None) -> str:
    """A small part in percent with three digits: 0% is exactly none.

    >>> percent(0.0), percent(0.00123456), percent(None)
    ('0%', '0.123%', '–')
    """
    return number(value * 100 if value is not None else None, ".3g", "%")


def ratio(part: float | None, whole: float | None) -> str:
    """`part` over `whole` with two digits, or a dash."""
    return f"{part / whole:.2f}" if part is not None and whole and exists(part) and exists(whole) else ABSENT


def share(value: float | None) -> str:
    """A share of a device in percent; what is used but below the last digit is not written as zero.

    >>> share(0.0275), share(0.0), share(3e-6), share(float("inf"))
    ('2.75%', '0%', '<0.01%', 'none there')
    """
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "none there"
    if not value:
        return "0%"
    return "<0.01%" if value < 0.0001 else f"{value:.2%}"
