"""The CPU engine: generated C++, blocked over events, exact to the bit."""

from .emit import check, emit
from .engine import Engine, build, load, storage_dtype

__all__ = ["Engine", "build", "check", "emit", "load", "storage_dtype"]
