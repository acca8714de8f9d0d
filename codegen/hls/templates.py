"""Fills the text files of `templates/hls`; knows nothing of what they say."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined

from ... import templates

__all__ = ["render"]


def render(template: str, /, **values: object) -> str:
    """The text of a template with its fields filled; an unknown field is an error."""
    text = resources.files(templates).joinpath(f"hls/{template}.j2").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(text).render(values)
