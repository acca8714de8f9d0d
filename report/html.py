"""A report as one self-contained HTML page."""

from __future__ import annotations

from .model import Report

__all__ = ["as_html"]


def as_html(report: Report) -> str:
    """The page."""
    return f"<html><pre>{report.as_json()}</pre></html>"
