"""Keeps every model state that a search or a compression makes, how it was made, and what it measured; trains nothing."""

from .compare import Comparison, TensorChange
from .records import Collected, Edge, Health, Removed, State, Step
from .store import Store

__all__ = ["Collected", "Comparison", "Edge", "Health", "Removed", "State", "Step", "Store", "TensorChange"]
