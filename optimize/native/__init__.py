"""Training steps that are generated and compiled: a network's shapes and kinds in, a fast step on numpy arrays out."""

from .program import LOSSES, Dense, Program, Quantization
from .step import Adam, Record, Schedule, Step, build

__all__ = ["LOSSES", "Adam", "Dense", "Program", "Quantization", "Record", "Schedule", "Step", "build"]
