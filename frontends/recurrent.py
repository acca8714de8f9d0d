"""One time step of an unrolled recurrent network as a model of its own, with the states as inputs and outputs.

Knows the groups that `frontends.onnx_recurrent` gives to the nodes of a step, and no kind of layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from . import real
from .real import RealBuilder, RealModel

__all__ = ["step_model"]

Int64 = NDArray[np.int64]
_UNIFORM = (real.Quant, real.Scale, real.Offset, real.Clip, real.Leaky, real.Function)
"""Ops that treat every element alike where their parameters are single numbers: a choice of elements may go before them."""


@dataclass(frozen=True)
class _State:
    """One state of a layer: its quantized value after each step, in order; the first is before any step."""

    name: str
    values: tuple[int, ...]


def step_model(model: RealModel) -> RealModel:
    """The last step of a quantized, unrolled network: running it once per time step equals the unrolled network.

    Inputs are the sequence's input at one time, and for each layer its states ``NAME_h`` (and ``NAME_c``), which begin at
    zero or at the layer's initial state. Outputs are the states after the step, ``NAME_h_next``, of the same types, and
    those of the model's outputs that the last step alone decides. Raises `CompileError` for a network without forward
    recurrent layers, with a layer that runs backward, or with a state that has no quantizer.
    """
    states = _states(model)
    work = _Step(model, states)
    outputs = [(f"{s.name}_next", work.whole(s.values[-1])) for s in states]
    for name, i in model.outputs:
        try:
            outputs.append((name, work.whole(i)))
        except _NeedsHistoryError:
            continue
    if len(work.inputs) > len(model.inputs):
        raise CompileError(
            model.name, "a step reads its input at several times", "step through networks of causal layers only"
        )
    return work.builder.model(outputs)


def _states(model: RealModel) -> list[_State]:
    """The states of all layers. A state's group ends in .h or .c; its value is what the quantizer behind it gives."""
    found: dict[str, list[int]] = {}
    for i, node in enumerate(model.nodes):
        match = re.fullmatch(r"(.*)\.(forward|reverse)\.(h|c)", node.group)
        if not match or not isinstance(node.op, real.Quant):
            continue
        if match[2] == "reverse":
            raise CompileError(match[1], "runs backward, which needs the whole sequence", "use forward layers")
        found.setdefault(clean_name(f"{match[1]}_{match[3]}").replace(".", "_"), []).append(i)
    if not found or any(len(v) < 3 for v in found.values()):
        rule = "must have recurrent layers of two steps or more whose states have quantizers"
        raise CompileError(model.name, rule, "calibrate the unrolled network first")
    return [_State(name, tuple(values)) for name, values in found.items()]


class _NeedsHistoryError(Exception):
    """A value depends on more than the last step."""


@dataclass
class _Step:
    """The model of one step under construction; `inputs`: what of each input it reads, and the new input for that."""

    model: RealModel
    states: list[_State]
    inputs: dict[tuple[int, bytes], int] = field(default_factory=dict)
    made: dict[tuple[int, bytes], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = RealBuilder(f"{self.model.name}_step")
        self.before: dict[int, _State] = {s.values[-2]: s for s in self.states}
        self.history = {i for s in self.states for i in s.values[:-2]}

    def whole(self, i: int) -> int:
        """Node i as the step computes it."""
        shape = self.model.nodes[i].shape
        return self.elements(i, np.arange(int(np.prod(shape))).reshape(shape))

    def elements(self, i: int, at: Int64) -> int:
        """The elements `at` of node i, an array of flat indices (-1: zero)."""
        key = (i, repr(at.shape).encode() + at.tobytes())
        if key not in self.made:
            self.made[key] = self._make(i, at)
        return self.made[key]

    def _add(self, i: int, op: real.RealOp, *operands: int) -> int:
        node = self.model.nodes[i]
        return self.builder.add(op, *operands, name=node.name, group=node.group)

    def _make(self, i: int, at: Int64) -> int:
        node, op = self.model.nodes[i], self.model.nodes[i].op
        if i in self.history:
            raise _NeedsHistoryError
        if i in self.before:
            return self._chosen(i, self._state(i), at)
        if isinstance(op, real.Input):
            return self._input(i, at)
        if isinstance(op, real.Reshape):
            return self.elements(node.operands[0], at)
        if isinstance(op, real.Transpose | real.Gather):
            shape = self.model.nodes[node.operands[0]].shape
            flat = np.arange(int(np.prod(shape))).reshape(shape)
            index = op.indices if isinstance(op, real.Gather) else flat.transpose(op.axes)
            return self.elements(node.operands[0], index.reshape(-1)[at])
        if isinstance(op, real.Concat):
            part = self._part(i, op, at)
            if part is not None:
                return self.elements(*part)
        if isinstance(op, _UNIFORM) and all(np.size(v) == 1 for v in vars(op).values() if isinstance(v, np.ndarray)):
            return self._add(i, op, self.elements(node.operands[0], at))
        if isinstance(op, real.Dense):
            rows = self._rows(op, at)
            if rows is not None:
                return self._add(i, op, self.elements(node.operands[0], rows))
        return self._chosen(i, self._add(i, op, *(self.whole(j) for j in node.operands)), at)

    def _chosen(self, i: int, new: int, at: Int64) -> int:
        shape = self.model.nodes[i].shape
        if at.shape == shape and (at.reshape(-1) == np.arange(at.size)).all():
            return new
        return self._add(i, real.Gather(at), new)

    def _state(self, i: int) -> int:
        """The state before the step: an input with the state's own quantizer."""
        node, state = self.model.nodes[i], self.before[i]
        value = self.builder.add(real.Input(node.shape), name=state.name)
        return self._add(i, node.op, value)

    def _input(self, i: int, at: Int64) -> int:
        node = self.model.nodes[i]
        assert isinstance(node.op, real.Input)
        key = (i, np.sort(at.reshape(-1)).tobytes())
        if key not in self.inputs:
            self.inputs[key] = self.builder.add(real.Input((at.size,), node.op.whole), name=node.name)
        order = np.searchsorted(np.sort(at.reshape(-1)), at)
        if at.ndim == 1 and (order == np.arange(at.size)).all():
            return self.inputs[key]
        return self._add(i, real.Gather(order), self.inputs[key])

    def _part(self, i: int, op: real.Concat, at: Int64) -> tuple[int, Int64] | None:
        """(operand, indices in it) where all elements come from one operand."""
        operands = self.model.nodes[i].operands
        shapes = [self.model.nodes[j].shape for j in operands]
        owner = np.concatenate([np.full(s, k) for k, s in enumerate(shapes)], axis=op.axis).reshape(-1)[at]
        places = [np.arange(int(np.prod(s))).reshape(s) for s in shapes]
        own = np.unique(owner)
        if own.size != 1 or (at < 0).any():
            return None
        return operands[int(own[0])], np.concatenate(places, axis=op.axis).reshape(-1)[at]

    def _rows(self, op: real.Dense, at: Int64) -> Int64 | None:
        """The operand's elements for whole rows of the result."""
        n_in, n_out = op.weights.shape
        if at.ndim < 1 or at.shape[-1] != n_out or not (at % n_out == np.arange(n_out)).all():
            return None
        return at[..., :1] // n_out * n_in + np.arange(n_in)
