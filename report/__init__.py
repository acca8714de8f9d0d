"""One Report type, and its text, JSON and HTML forms."""

from .model import LayerReport, NodeReport, Report, Resources, Timing, from_json

__all__ = ["LayerReport", "NodeReport", "Report", "Resources", "Timing", "from_json"]
