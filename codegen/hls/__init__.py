"""HLS C++ of a graph for Vitis HLS and Vivado HLS: check, then emit; simulate runs it here."""

from .ap_types import find_ap_types
from .emit import Hls, check, emit
from .schedule import Schedule
from .simulate import simulate

__all__ = ["Hls", "Schedule", "check", "emit", "find_ap_types", "simulate"]
