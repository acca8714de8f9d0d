"""Training steps that are generated and compiled: a network's shapes and kinds in, a fast step on numpy arrays out."""

from .program import LOSSES, Conv, Dense, Layer, Pool, Program, Quantization
from .step import Adam, Record, Schedule, Step, build

__all__ = [
    "LOSSES",
    "Adam",
    "Conv",
    "Dense",
    "Layer",
    "Pool",
    "Program",
    "Quantization",
    "Record",
    "Schedule",
    "Step",
    "build",
]
