"""HLS C++ of a graph for Vitis HLS and Vivado HLS: check, then emit; simulate runs it here."""

from ..schedule import LayerSchedule, Schedule
from .ap_types import find_ap_types
from .emit import Hls, check, emit
from .simulate import simulate

__all__ = ["Hls", "LayerSchedule", "Schedule", "check", "emit", "find_ap_types", "simulate"]
