"""Estimated resources and latency of a design, per layer; every number here is a model's, none is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...hw_targets.devices import Device
from ...ir.scalar import Code, ScalarGraph
from .pipeline import Pipeline
from .rows import row_costs, row_widths

__all__ = ["Estimate", "LayerEstimate", "estimate"]


@dataclass(frozen=True)
class LayerEstimate:
    """Resources of one layer, its registers among them; it works in stages `first_stage` to `last_stage`."""

    name: str
    operations: int
    lut: float
    ff: int
    dsp: int
    bram: float
    first_stage: int
    last_stage: int


@dataclass(frozen=True)
class Estimate:
    """The layers, and their sum with the registers of ports and valid bits. Tables are in LUTs (no block RAM)."""

    layers: tuple[LayerEstimate, ...]
    lut: float
    ff: int
    dsp: int
    bram: float
    latency_cycles: int
    latency_ns: float
    path_ns: float


def estimate(scalar: ScalarGraph, pipeline: Pipeline, device: Device, clock_ns: float) -> Estimate:
    """By the cost model of `hw_targets.costs`, with the device's coefficients."""
    cost = row_costs(scalar, device)
    registers = row_widths(scalar) * (pipeline.last_use - pipeline.stage)
    work = (scalar.code != Code.INPUT) & (scalar.code != Code.CONSTANT)
    layers: list[LayerEstimate] = []
    for group, name in enumerate(scalar.groups):
        own = np.flatnonzero((scalar.group == group) & work)
        if len(own):
            stages = pipeline.stage[own]
            layers.append(
                LayerEstimate(
                    name,
                    len(own),
                    float(cost.lut[own].sum()),
                    int(registers[own].sum()),
                    int(cost.dsp[own].sum()),
                    float(cost.bram[own].sum()),
                    int(stages.min()),
                    int(stages.max()),
                )
            )
    latency = pipeline.latency_cycles
    return Estimate(
        tuple(layers),
        sum(x.lut for x in layers),
        pipeline.register_bits + latency,
        sum(x.dsp for x in layers),
        sum(x.bram for x in layers),
        latency,
        latency * clock_ns,
        pipeline.path_ns,
    )
