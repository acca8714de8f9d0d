"""Structured pruning: whole neurons, filters and attention heads leave the module, which really gets smaller; knows no training.

Pipeline([Shrink(0.5), Train(20)]).run(net, task)              # half of all neurons and filters
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .channels import NORMS, Channels, Cut, Labels
from .composites import Attention, in_parts
from .functions import QuantizedFunction
from .layers import Affine, Weighted, prepare
from .modules import traced
from .pipeline import Work
from .pruning import SCORES, kept_of, scores
from .quantize import as_inputs
from .quantizers import Quantizer
from .task import run

__all__ = ["Shrink"]

# ---- cutting ------------------------------------------------------------------------------------------------------------


def _take(t: Tensor, axis: int, keep: Tensor) -> Tensor:
    """The elements to keep along an axis, all of them where it is shared."""
    return t if t.ndim == 0 or t.shape[axis] != len(keep) else t.index_select(axis, keep.nonzero().reshape(-1)).clone()


def _cut_parameter(m: Any, name: str, axis: int, keep: Tensor) -> None:
    held = getattr(m, name, None)
    if isinstance(held, nn.Parameter):
        setattr(m, name, nn.Parameter(_take(held.detach(), axis, keep), held.requires_grad))
    elif isinstance(held, Tensor):
        setattr(m, name, _take(held, axis, keep))


def _cut_layer(cut: Cut, gone: Tensor) -> None:
    m = cut.module
    for labels, axis in ((cut.outputs, m.channel_axis), (cut.inputs, 1 - m.channel_axis)):
        assert labels is not None
        keep = ~torch.isin(labels, gone)
        depthwise = cut.outputs is cut.inputs
        if bool(keep.all()) or (depthwise and axis != m.channel_axis):
            continue
        for part, name in ((m, "weight"), (m.weight_quantizer, "fraction"), (m.mask, "keep")):
            _cut_parameter(part, name, axis, keep)
        if axis == m.channel_axis:
            for part, name in ((m, "bias"), (m.bias_quantizer, "fraction")):
                _cut_parameter(part, name, 0, keep)
    counts = ("out_features", "in_features") if m.weight.ndim == 2 else ("out_channels", "in_channels")
    for name, labels in zip(counts, (cut.outputs, cut.inputs)):
        assert labels is not None
        setattr(m, name, int((~torch.isin(labels, gone)).sum()))
    if cut.outputs is cut.inputs:
        m.groups = m.out_channels


def _cut_norm(cut: Cut, gone: Tensor) -> None:
    m = cut.module
    assert cut.outputs is not None
    keep = ~torch.isin(cut.outputs, gone)
    parts = (m, getattr(m, "weight_quantizer", None), getattr(m, "bias_quantizer", None), getattr(m, "mask", None))
    for part, names in zip(
        parts, (("weight", "bias", "running_mean", "running_var"), ("fraction",), ("fraction",), ("keep",))
    ):
        for name in names:
            _cut_parameter(part, name, 0, keep)
    if isinstance(m, NORMS):
        m.num_features = int(keep.sum())


def _cut_data(q: Quantizer, labels: Tensor, gone: Tensor) -> tuple[int, ...]:
    """Cut a quantizer's own tensors where an event loses elements; returns the shape of an event that is left."""
    keep = ~torch.isin(labels, gone)
    shape = list(labels.shape)
    for axis in range(labels.ndim):
        along = keep.movedim(axis, 0).reshape(labels.shape[axis], -1)
        if bool((along.any(1) == along.all(1)).all()) and not bool(along.all()):
            for name in ("fraction", "integer", "lowest", "highest"):
                _cut_parameter(q, name, axis, along.any(1))
            shape[axis] = int(along.any(1).sum())
            break
    return tuple(shape)


# ---- the pass -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shrink:
    """Remove neurons, filters and heads; what reads them loses those inputs, and the module gets smaller.

    A channel goes with everything that it means to those that read it: the shrunk module computes what the module computes
    whose readers have weights of 0 for it. `amount`: share of the channels that can leave, from 0 to 1. `score`: a key of
    `SCORES`, averaged over a channel's weights. `scope`: "global" compares all channels, "layer" those of each layer. `layers`:
    whose outputs may leave; all that can if empty. Channels tied by a sum, or in one head of attention, leave together.

    Raises `CompileError` where the module cannot be traced, does with channels what is not known, has their number written out
    (in a reshape), and for a named layer whose channels cannot leave.
    """

    amount: float
    score: str = "magnitude"
    scope: str = "global"
    layers: tuple[str, ...] = ()
    events: int = 8192

    def __post_init__(self) -> None:
        if not isinstance(self.amount, int | float) or not 0 <= self.amount <= 1:
            raise CompileError(
                "Shrink", f"amount must be a share from 0 to 1, not {self.amount!r}", "give 0.5 for half"
            )
        for name, known in (("score", tuple(SCORES)), ("scope", ("global", "layer"))):
            if getattr(self, name) not in known:
                raise CompileError("Shrink", f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    def apply(self, work: Work) -> None:
        inner = copy.copy(work)
        module = inner.module = in_parts(copy.deepcopy(work.module).eval())
        own = {name: m for name, m in prepare(module) if not isinstance(m, Affine)}
        x = work.task.sample[:2]
        labels = Labels(traced(module, "shrinking", (Attention,)))
        with torch.no_grad():
            before = run(module, x).shape
            labels.run(*as_inputs(x[:1]))
        worth = torch.zeros(len(labels.channels.parent))
        for name, value in scores(inner, own, self.score, self.events).items():
            cut = labels.cuts.get(name)
            if cut is not None and cut.outputs is not None and cut.outputs is not cut.inputs:
                each = (
                    (value * kept_of(own[name]))
                    .movedim(own[name].channel_axis, 0)
                    .reshape(len(cut.outputs), -1)
                    .mean(1)
                )
                worth[cut.outputs.long()] = each.float()
        gone = self._chosen(labels.channels, worth, list(own))
        _cut_all(labels, torch.tensor(gone, dtype=torch.float64))
        _check_runs(module, x, before)
        work.module = module.train(work.module.training)
        work.say(f"Shrink: {len(gone)} of {len(labels.channels.parent)} channels are gone")

    def _chosen(self, channels: Channels, worth: Tensor, known: list[str]) -> list[int]:
        """The labels that leave, worst groups first; every layer keeps a channel."""
        reasons, groups = channels.reasons(), channels.groups()
        for name in self.layers:
            self._check_layer(name, known, channels, groups, reasons)
        free = {root: g for root, g in groups.items() if root not in reasons}
        if self.layers:
            free = {root: g for root, g in free.items() if any(channels.owner[k] in self.layers for k in g)}
        parts: dict[str, list[list[int]]] = {}
        for root, g in free.items():
            parts.setdefault("" if self.scope == "global" else channels.owner[root], []).append(g)
        left = Counter(channels.owner)
        return [k for where, part in parts.items() for k in self._worst(part, worth, channels.owner, left, where)]

    def _worst(
        self, groups: list[list[int]], worth: Tensor, owner: list[str], left: Counter[str], where: str
    ) -> list[int]:
        """The labels of the worst groups, as many as the amount says; `left` counts the channels that each layer still has."""
        found, total = list[int](), sum(map(len, groups))
        wanted = round(self.amount * total)
        for g in sorted(groups, key=lambda g: float(worth[g].mean())):
            lost = Counter(owner[k] for k in g)
            if any(left[name] <= n for name, n in lost.items()):
                continue
            if len(found) + len(g) / 2 > wanted:
                return found
            left.subtract(lost)
            found += g
        if len(found) + max(map(len, groups), default=0) / 2 < wanted:
            most = len(found) / total
            rule = f"an amount of {self.amount:g} cannot be reached: {most:.4g} leaves every layer a channel"
            raise CompileError(f"Shrink, layer {where}" if where else "Shrink", rule, "lower the amount")
        return found

    def _check_layer(
        self, name: str, known: list[str], channels: Channels, groups: dict[int, list[int]], reasons: dict[int, str]
    ) -> None:
        if name not in known:
            rule = f"no dense or convolution layer is called '{name}'"
            raise CompileError("Shrink layers", rule, f"layers: {', '.join(known)}")
        own = [root for root, g in groups.items() if any(channels.owner[k] == name for k in g)]
        if own and all(root in reasons for root in own):
            rule = f"its channels must stay, since {reasons[own[0]]}"
            raise CompileError(f"Shrink, layer {name}", rule, "leave it out")


def _cut_all(labels: Labels, gone: Tensor) -> None:
    for cut in labels.cuts.values():
        if isinstance(cut.module, (*NORMS, Affine)):
            _cut_norm(cut, gone)
        elif isinstance(cut.module, Weighted):
            _cut_layer(cut, gone)
        left = [_cut_data(q, each, gone) for q, each in cut.shapes]
        if isinstance(cut.module, Weighted) and left:
            cut.module.input_shape = left[-1]
        if isinstance(cut.module, QuantizedFunction):
            cut.module.shapes = left[: len(cut.module.inputs)]


def _check_runs(module: nn.Module, x: Any, before: torch.Size) -> None:
    try:
        with torch.no_grad():
            said, after = "", run(module, x).shape
    except RuntimeError as e:
        said, after = f" ({str(e).splitlines()[0][:90]})", None
    if after != before:
        rule = f"its forward has the number of channels written out{said}"
        raise CompileError(type(module).__name__, rule, "use -1 for it in reshapes, or prune with masks")
