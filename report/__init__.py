"""One Report type, and its text, JSON and HTML forms."""

from .model import LayerReport, Report, Resources, Timing, from_json

__all__ = ["LayerReport", "Report", "Resources", "Timing", "from_json"]
