"""Closes the precisions that a float model leaves open, from data: where quantizers go, their ranges and their bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.ops import Window
from ..ir.rounding import Rounding
from .inputs import has_quantizer
from .lazy import exact_weight_bits
from .lower_trees import exact_leaf_grid, varying
from .real import (
    Bipolar,
    Clip,
    Compare,
    Concat,
    Dense,
    Embedding,
    Float,
    Forest,
    Function,
    Gather,
    Input,
    Leaky,
    Maximum,
    Minimum,
    Mul,
    Offset,
    Quant,
    RealBuilder,
    RealModel,
    RealNode,
    Reduce,
    Reshape,
    Scale,
    Select,
    Softmax,
    Transpose,
    evaluate_real,
)

__all__ = ["Calibration", "Deviation", "calibrate", "deviation", "open_precisions"]

_EVENTS = 4000
_SAMPLES = 1_000_000
_MOST_BITS = 20


@dataclass(frozen=True)
class Calibration:
    """What was chosen: bits of each weight matrix and value by node name, and the deviation on the calibration data."""

    bits: Mapping[str, int]
    tolerance: float | None
    deviation: Deviation


@dataclass(frozen=True)
class Deviation:
    """Distance of outputs from a reference on the same events: absolute max and RMS, RMS relative to the reference's,
    and the share of events with the same argmax (of the last axis; NaN for a single value)."""

    maximum: float
    rms: float
    relative_rms: float
    argmax_agreement: float
    events: int


def deviation(reference: Float, outputs: Float) -> Deviation:
    """Compare ``[events, *shape]`` outputs with the reference's."""
    difference = np.abs(outputs - reference)
    rms, size = (float(np.sqrt(np.mean(np.square(a)))) if a.size else 0.0 for a in (difference, reference))
    same = float("nan")
    if reference.ndim > 1 and reference.shape[-1] > 1 and reference.size:
        same = float(np.mean(reference.argmax(-1) == outputs.argmax(-1)))
    return Deviation(float(difference.max(initial=0)), rms, rms / size if size else 0.0, same, len(reference))


@dataclass(frozen=True)
class _Site:
    """A place whose precision is open: the weights of a node, or its value; `per_element` allows one exponent each.

    `positive`: a function that is not defined at zero reads it, so zero is no value of its type if the data have none.
    `compared`: only decision trees read it, so its range is that of their thresholds.
    """

    node: int
    weights: bool
    per_element: bool = False
    clip: bool = True
    positive: bool = False
    compared: bool = False


def open_precisions(model: RealModel) -> tuple[str, ...]:
    """Names of the nodes whose precision the model does not say; empty for a fully quantized model."""
    return tuple(model.nodes[s.node].name for s in _sites(fold_scales(model), outputs=False))


def calibrate(
    model: RealModel, inputs: Mapping[str, Any], bits: int | None = None, tolerance: float | None = None
) -> tuple[RealModel, Calibration]:
    """Insert quantizers with power-of-two scales wherever the model leaves a precision open.

    `inputs`: float data by input name, ``[events, *shape]``. Either `bits`, the width of every open weight and value, or
    `tolerance`, the RMS deviation of the outputs allowed relative to their RMS: then the smallest common width that keeps
    it is found, and narrowed further site by site. Ranges come from the data: per element for inputs, per column for
    weights, and clipped where that lowers the mean square error.
    """
    if (bits is None) == (tolerance is None):
        raise CompileError(
            "calibration", "takes either a number of bits or a tolerance", "give --bits 8 or --tolerance 0.01"
        )
    if bits is not None and not (isinstance(bits, int | np.integer) and 2 <= bits <= _MOST_BITS):
        raise CompileError("calibration", f"bits must be from 2 to {_MOST_BITS}, not {bits!r}")
    if tolerance is not None and not (isinstance(tolerance, int | float | np.floating) and 0 < tolerance < 1):
        raise CompileError("calibration", f"the tolerance must be between 0 and 1, not {tolerance!r}")
    folded = fold_scales(model)
    data = {k: np.asarray(v)[:_EVENTS] for k, v in inputs.items()}
    values = evaluate_real(folded, data)
    if any(not np.isfinite(v).all() for v in values):
        raise CompileError(
            "calibration", "the float model gives NaN or Inf on these data", "clean the data or the model"
        )
    if not len(values[0]):
        raise CompileError("calibration", "needs at least one event")
    task = _Task(folded, data, values, _sites(folded, outputs=True))
    widths = dict.fromkeys(task.sites, bits) if bits is not None else task.search(tolerance or 0.0)
    chosen = {folded.nodes[s.node].name + (".weights" if s.weights else ""): w for s, w in widths.items()}
    return task.apply(widths), Calibration(chosen, tolerance, task.distance(widths))


@dataclass(frozen=True)
class _Task:
    model: RealModel
    data: Mapping[str, NDArray[Any]]
    values: list[Float]
    sites: tuple[_Site, ...]
    made: dict[tuple[_Site, int], Quant] = field(default_factory=dict)

    def distance(self, widths: Mapping[_Site, int]) -> Deviation:
        quantized = self.apply(widths)
        got = evaluate_real(quantized, self.data)
        pairs = [(self.values[i], got[j]) for (_, i), (_, j) in zip(self.model.outputs, quantized.outputs)]
        worst = [deviation(a, b) for a, b in pairs]
        return max(worst, key=lambda d: d.relative_rms)

    def search(self, tolerance: float) -> dict[_Site, int]:
        """The smallest common width within the tolerance, then each site alone as narrow as the tolerance allows."""
        for common in range(3, _MOST_BITS + 1):
            widths = dict.fromkeys(self.sites, common)
            if self.distance(widths).relative_rms <= tolerance:
                break
        else:
            reached = self.distance(dict.fromkeys(self.sites, _MOST_BITS)).relative_rms
            raise CompileError(
                "calibration",
                f"a tolerance of {tolerance:g} is not reached with {_MOST_BITS} bits (then {reached:.2g})",
                "allow a larger tolerance",
            )
        for site in self.sites:
            while widths[site] > 2:
                narrower = {**widths, site: widths[site] - 1}
                if self.distance(narrower).relative_rms > tolerance:
                    break
                widths = narrower
        return widths

    def members(self, site: _Site) -> list[int]:
        """The nodes whose precision the site decides: its own, and those of the same group."""
        group = self.model.nodes[site.node].group
        return self._groups[group] if group else [site.node]

    @cached_property
    def _groups(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, node in enumerate(self.model.nodes):
            found.setdefault(node.group, []).append(i)
        return found

    def quantizer(self, site: _Site, bits: int) -> Quant:
        """Of a value, for what all members take in the data."""
        if (site, bits) not in self.made:
            values = [self.values[i] for i in self.members(site)]
            joined = values[0] if len(values) == 1 else np.concatenate(values)
            self.made[site, bits] = (
                _threshold_quantizer(_thresholds(self.model, site.node), joined, bits)
                if site.compared
                else _value_quantizer(joined, bits, site)
            )
        return self.made[site, bits]

    def apply(self, widths: Mapping[_Site, int]) -> RealModel:
        """The model with a quantizer at every site."""
        builder = RealBuilder(self.model.name)
        by_node: dict[int, list[_Site]] = {}
        for s in self.sites:
            for i in self.members(s):
                by_node.setdefault(i, []).append(s)
        new: list[int] = []
        for i, node in enumerate(self.model.nodes):
            sites = by_node.get(i, [])
            op = node.op
            for s in sites:
                if s.weights and isinstance(op, Dense):
                    op = _quantized_weights(op, widths[s])
                if s.weights and isinstance(op, Embedding):
                    op = Embedding(_quantized_table(op.table, widths[s]))
                if s.weights and isinstance(op, Forest):
                    op = _quantized_leaves(op, widths[s])
                if s.weights and isinstance(op, Scale):
                    op = Scale(_significant(op.number, widths[s]))
            index = builder.add(op, *(new[j] for j in node.operands), name=node.name, group=node.group)
            for s in sites:
                if not s.weights:
                    index = builder.add(
                        self.quantizer(s, widths[s]), index, name=f"{node.name}_quant", group=node.group
                    )
            new.append(index)
        return builder.model([(name, new[i]) for name, i in self.model.outputs])


# ---- where --------------------------------------------------------------------------------------------------------------


def _sites(model: RealModel, outputs: bool) -> tuple[_Site, ...]:
    """Every open precision: float weights; inputs; what enters a matrix, product or function; what a function gives."""
    users: list[list[int]] = [[] for _ in model.nodes]
    for i, node in enumerate(model.nodes):
        for j in node.operands:
            users[j].append(i)
    found: dict[_Site, None] = {}

    def open_value(i: int, reader: Any = None) -> None:
        """Mark the narrowest place that decides the precision of value i: behind layout, the producer itself."""
        if not _narrow(model, i):
            positive = isinstance(reader, Function) and reader.function in ("log", "rsqrt", "reciprocal")
            found[_Site(i, weights=False, positive=positive)] = None

    for i, node in enumerate(model.nodes):
        op = node.op
        if isinstance(op, Input):
            if not has_quantizer(model, i):
                trees = bool(users[i]) and all(isinstance(model.nodes[u].op, Forest) for u in users[i])
                found[_Site(i, weights=False, per_element=len(op.shape) == 1, compared=trees)] = None
        elif isinstance(op, Dense):
            open_value(node.operands[0])
            if op.ints is None and exact_weight_bits(op) is None:
                found[_Site(i, weights=True)] = None
        elif isinstance(op, Forest):
            open_value(node.operands[0])
            if exact_leaf_grid(op) is None:
                found[_Site(i, weights=True)] = None
        elif isinstance(op, Embedding):
            if exact_weight_bits(Dense(op.table)) is None:
                found[_Site(i, weights=True)] = None
        elif isinstance(op, Scale) and not _power_of_two(op.number) and not _ends_quantized(model, users, i):
            found[_Site(i, weights=True)] = None
        elif isinstance(op, Function | Softmax | Mul | Concat):
            for j in node.operands:
                open_value(j, op)
        if isinstance(op, Function | Softmax) and not (
            users[i] and all(isinstance(model.nodes[u].op, Quant) for u in users[i])
        ):
            found[_Site(i, weights=False)] = None
    if outputs and found:  # a float model's outputs get a precision too; a quantized model's are exact as they are
        for _, i in model.outputs:
            if not _narrow(model, i) and not isinstance(model.nodes[i].op, Forest):  # a sum on the grid of its leaves
                found[_Site(i, weights=False, clip=False)] = None
    return _one_per_group(model, sorted(found, key=lambda s: (s.node, s.weights)))


def _one_per_group(model: RealModel, sites: list[_Site]) -> tuple[_Site, ...]:
    """The first site of each group, which decides for all of it."""
    first: dict[object, _Site] = {}
    for s in sites:
        key = (model.nodes[s.node].group or s.node, s.weights)
        known = first.setdefault(key, s)
        first[key] = replace(known, positive=known.positive or s.positive, clip=known.clip and s.clip)
    return tuple(first.values())


def _narrow(model: RealModel, i: int) -> bool:
    """The value is on a quantizer's grid already, or will be because its producer is a site itself."""
    rest, seen = [i], set[int]()
    while rest:
        i = rest.pop()
        if i in seen:
            continue
        seen.add(i)
        op = model.nodes[i].op
        chooses = isinstance(op, Maximum | Minimum | Select) or (isinstance(op, Reduce) and op.kind == "max")
        if chooses or isinstance(op, Reshape | Transpose | Gather | Window | Clip):
            rest += model.nodes[i].operands
        elif not isinstance(op, Quant | Bipolar | Input | Function | Softmax | Concat | Compare | Embedding):
            return False
    return True


def _ends_quantized(model: RealModel, users: list[list[int]], i: int) -> bool:
    """Everything behind node i up to a quantizer is affine or a limit, so that a requantize carries its scale exactly."""
    rest = [i]
    while rest:
        behind = users[rest.pop()]
        through = [u for u in behind if not isinstance(model.nodes[u].op, Quant)]
        affine = all(
            isinstance(model.nodes[u].op, Offset | Clip | Leaky | Scale | Reshape | Transpose) for u in through
        )
        if not behind or not affine:
            return False
        rest += through
    return True


def _power_of_two(x: Float) -> bool:
    return bool(np.all(np.frexp(np.abs(x))[0] == 0.5))


def fold_scales(model: RealModel) -> RealModel:
    """Batch normalizations into the float weights beside them: ``(x @ w + b) * g = x @ (w * g) + b * g``."""
    nodes = list(model.nodes)
    readers = np.bincount([j for node in nodes for j in node.operands], minlength=len(nodes))
    results = {i for _, i in model.outputs}
    for i, node in enumerate(nodes):
        if not isinstance(node.op, Scale):
            continue
        chain = _dense_chain(nodes, node.operands[0])
        factor = np.asarray(node.op.number)
        per_column = factor.size in (1, *node.shape[-1:]) and all(n == 1 for n in factor.shape[:-1])
        if not chain or not per_column or any(readers[k] != 1 or k in results for k in chain):
            continue
        for k in chain:
            op = nodes[k].op
            if isinstance(op, Offset):
                offset = np.float32(op.offset * factor)  # a product of two float32 numbers has bits that nothing needs
                nodes[k] = replace(nodes[k], op=Offset(np.asarray(offset, np.float64)))
            elif isinstance(op, Dense):
                nodes[k] = replace(nodes[k], op=Dense(op.weights * factor.reshape(-1)))
        nodes[i] = RealNode(node.name, Reshape(node.shape), node.operands, node.shape)
    return RealModel(model.name, tuple(nodes), model.outputs)


def _dense_chain(nodes: list[RealNode], i: int) -> list[int]:
    """Node i, and what it reads, if that is a matrix of float weights with or without a bias behind it; else nothing."""
    chain = [i, nodes[i].operands[0]] if isinstance(nodes[i].op, Offset) else [i]
    op = nodes[chain[-1]].op
    return chain if isinstance(op, Dense) and op.ints is None else []


# ---- how wide -------------------------------------------------------------------------------------------------------------


def _exponent(largest: Float, steps: int) -> NDArray[np.int64]:
    """The smallest e with largest <= steps * 2**e; 0 where there is nothing to hold."""
    with np.errstate(divide="ignore"):
        e = np.ceil(np.log2(largest / steps))
    return np.where(largest > 0, e, 0).astype(np.int64)


def _value_quantizer(values: Float, bits: int, site: _Site) -> Quant:
    signed = bool(values.min() < 0)
    lo, hi = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if site.positive and values.min() > 0:
        lo = 1
    if site.per_element:
        exp = np.array([_best_exponent(column, lo, hi, site.clip) for column in values.T], np.int64)
    else:
        exp = np.asarray(_best_exponent(values.reshape(-1), lo, hi, site.clip))
    return Quant(np.ldexp(1.0, exp), np.zeros((), np.int64), lo, hi, Rounding.RND)


def _thresholds(model: RealModel, i: int) -> list[Float]:
    """What the trees that read node i compare each of its features with."""
    trees = [n.op for n in model.nodes if isinstance(n.op, Forest) and i in n.operands]
    return [np.concatenate([t.thresholds[t.features == f] for t in trees]) for f in range(model.nodes[i].shape[-1])]


def _threshold_quantizer(thresholds: list[Float], values: Float, bits: int) -> Quant:
    """The finest grid of each feature that has a step on either side of every threshold: what lies further out may saturate.

    A feature that nothing is compared with has the range of its data.
    """
    columns = values.reshape(-1, values.shape[-1]).T
    signed = any(t.min(initial=1) <= 0 for t in thresholds)
    lo, hi = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    largest = np.array([np.abs(t if t.size else c).max(initial=0) for t, c in zip(thresholds, columns)])
    return Quant(np.ldexp(1.0, _exponent(largest, hi - 1)), np.zeros((), np.int64), lo, hi, Rounding.RND_CONV)


def _best_exponent(values: Float, lo: int, hi: int, clip: bool) -> int:
    """The exponent that holds every value, or up to two less where clipping the tail lowers the mean square error."""
    sample = values[:: max(1, values.size // _SAMPLES)]
    whole = int(_exponent(np.abs(values).max(initial=0), hi))
    choices = [whole - k for k in range(3)] if clip else [whole]

    def error(e: int) -> float:
        unit = 2.0**e
        return float(np.mean(np.square(np.clip(np.floor(sample / unit + 0.5), lo, hi) * unit - sample)))

    return min(choices, key=lambda e: (error(e), -e))


def _quantized_weights(op: Dense, bits: int) -> Dense:
    """Weights of `bits` bits with one power-of-two scale per column."""
    steps = (1 << (bits - 1)) - 1
    scale = np.ldexp(1.0, _exponent(np.abs(op.weights).max(axis=0, initial=0), steps))
    ints = np.clip(np.round(op.weights / scale), -steps, steps).astype(np.int64)
    return Dense(ints.astype(np.float64) * scale, ints, scale)


def _quantized_table(table: Float, bits: int) -> Float:
    """The values of a table in `bits` bits with one power-of-two scale."""
    steps = (1 << (bits - 1)) - 1
    scale = np.ldexp(1.0, _exponent(np.abs(table).max(initial=0), steps))
    return np.clip(np.round(table / scale), -steps, steps) * scale


def _quantized_leaves(op: Forest, bits: int) -> Forest:
    """Leaves of `bits` bits with one power-of-two scale; what is added to all events lies on their grid."""
    steps = (1 << (bits - 1)) - 1
    grid = int(_exponent(np.abs(varying(op)).max(initial=0), steps))
    return replace(op, values=np.ldexp(np.round(np.ldexp(op.values, -grid)), grid), grid=grid)


def _significant(x: Float, bits: int) -> Float:
    """x rounded to `bits` significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
