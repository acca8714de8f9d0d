"""What an ONNX operator's reader works with: constants, values of each event, and the node with its attributes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from .onnx_file import attribute_values
from .real import (
    Add,
    Compare,
    Concat,
    Constant,
    Embedding,
    Gather,
    Input,
    Maximum,
    Minimum,
    Mul,
    Quant,
    RealBuilder,
    RealOp,
    Reshape,
    Select,
    Sub,
    Transpose,
)

__all__ = ["Codes", "Const", "Context", "Ref", "Value"]


@dataclass(frozen=True, eq=False)
class Const:
    """A value known at compile time. If it left a quantizer, ``values == ints * scale``; it keeps its batch axis, if any."""

    values: NDArray[Any]
    ints: NDArray[np.int64] | None = None
    scale: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Ref:
    """A value of each event: node `index` of the real model, whose shape has no batch axis.

    Between QuantizeLinear and DequantizeLinear the file speaks of integer codes: then `codes` is their scale and zero
    point, and the node holds the real value that the codes stand for. `batch` is where the file has the batch axis: in
    front, but not around recurrent layers, and -1 where a file for one event has dropped it. `joined`: that axis of the file
    counts events times another axis (attention heads), which is axis `batch` of the node: inside each event (1), or with the
    events inside of it (2).
    """

    index: int
    codes: Codes | None = None
    batch: int = 0
    joined: int = 0


@dataclass(frozen=True, eq=False)
class Codes:
    """real = (code - zero) * scale."""

    scale: NDArray[np.float64]
    zero: NDArray[np.int64]


Value: TypeAlias = Const | Ref


class Context:
    """What an operator's function sees: its node, its operands and attributes, and the model being built."""

    def __init__(
        self, builder: RealBuilder, node: Any, where: str, inputs: list[Value | None], opset: int, single: bool = False
    ) -> None:
        self.builder, self.node, self.where, self.inputs, self.opset = builder, node, where, inputs, opset
        self.single = single  # the file is for one event: its batch axis has length 1
        self._follow()
        self._attributes = attribute_values(node, where)
        self._read: set[str] = set()

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value; anything never asked for is refused by `finish`."""
        self._read.add(name)
        return self._attributes.get(name, default)

    def finish(self) -> None:
        unknown = sorted(set(self._attributes) - self._read)
        if unknown:
            raise self.error(
                f"attribute '{unknown[0]}' is not known", f"known here: {', '.join(sorted(self._read)) or 'none'}"
            )

    def error(self, rule: str, fix: str = "") -> CompileError:
        return CompileError(self.where, rule, fix)

    def _follow(self) -> None:
        """The batch axis of results is that of the data operand with most axes."""
        refs = [v for v in self.inputs if isinstance(v, Ref)]
        self._first = max(refs, key=lambda v: len(self.shape(v)), default=Ref(-1))
        self.batch, self.joined = self._first.batch, self._first.joined

    def lifted(self, k: int, axes: int) -> Ref:
        """Data operand k with so many more axes of length 1 in front."""
        value = self.operand(k)
        assert isinstance(value, Ref)
        node = self.builder.nodes[value.index]
        index = self.builder.add(Reshape((1,) * axes + node.shape), value.index, name=f"{node.name}.lifted")
        self.inputs[k] = found = replace(value, index=index, batch=value.batch + axes if value.batch >= 0 else -1)
        self._follow()
        return found

    def add(self, op: RealOp, *operands: int, suffix: str = "", group: str = "") -> Ref:
        """Append a real op. The batch axis of the result stays where it was, counted from the last axis."""
        group = f"{self.name}{group}" if group else ""
        return self.ref(
            self.builder.add(
                op, *operands, name=f"{self.name}{suffix}", group=group, layer=(self.name, self.node.op_type)
            )
        )

    @property
    def name(self) -> str:
        """What the names of the node's real ops begin with."""
        return self.node.name or self.node.output[0] or self.node.op_type

    def ref(self, index: int) -> Ref:
        """A node that this one made, with its batch axis where it was, counted from the last axis."""
        batch = self.batch
        if batch > 0:
            batch += len(self.builder.nodes[index].shape) - len(self.shape(self._first))
        return Ref(index, batch=batch, joined=self.joined)

    def placed(self, value: Ref, batch: int, joined: int = 0) -> Ref:
        """The value, whose batch axis is at `batch` in the file; an axis of length 1 in front of a lone event is it again."""
        shape = self.shape(value)
        if batch == -1 and self.single and len(shape) > 1 and shape[0] == 1:
            node = self.builder.nodes[value.index]
            index = self.builder.add(Reshape(shape[1:]), value.index, name=f"{node.name}.event")
            return replace(value, index=index, batch=0, joined=0)
        return replace(value, batch=batch, joined=joined)

    def rank(self, value: Value) -> int:
        """Axes in the file, the batch axis among them."""
        return len(self.full_shape(value))

    def full_shape(self, value: Value) -> tuple[int, ...]:
        """The shape in the file, with -1 for the batch axis; -n where it counts events times n."""
        shape = self.shape(value)
        if isinstance(value, Const) or value.batch < 0:
            return shape
        count = -shape[value.batch] if value.joined else -1
        return (*shape[: value.batch], count, *shape[value.batch + bool(value.joined) :])

    def shape(self, value: Value) -> tuple[int, ...]:
        return self.builder.nodes[value.index].shape if isinstance(value, Ref) else value.values.shape

    def is_whole(self, value: Ref) -> bool:
        """The value is a whole number because of where it comes from: an integer input, a comparison, a rounding."""
        return _is_whole(self.builder, value.index)

    def given(self, k: int) -> bool:
        return k < len(self.inputs) and self.inputs[k] is not None

    def operand(self, k: int) -> Value:
        if not self.given(k):
            raise self.error(f"operand {k + 1} is missing")
        value = self.inputs[k]
        assert value is not None
        return value

    def data(self, k: int) -> int:
        """The node index of a data operand."""
        value = self.operand(k)
        if isinstance(value, Const):
            raise self.error(f"operand {k + 1} must be data, not a constant", "export the model with constant folding")
        return value.index

    def constant(self, k: int, what: str) -> Const:
        value = self.operand(k)
        if isinstance(value, Ref):
            raise self.error(
                f"{what} must be constant, not the output of '{self.builder.nodes[value.index].name}'",
                "export the model with constant folding",
            )
        if value.values.dtype.kind not in "fiub":
            raise self.error(f"{what} must be numbers, not {value.values.dtype}")
        if value.values.dtype.kind == "f" and not np.isfinite(value.values).all():
            raise self.error(f"{what} must be finite, but contains NaN or Inf", "check the training")
        return value

    def floats(self, k: int, what: str) -> NDArray[np.float64]:
        return self.constant(k, what).values.astype(np.float64)

    def scalar(self, k: int, what: str) -> float:
        values = self.constant(k, what).values
        if values.size != 1:
            raise self.error(f"{what} must be one number, not an array of shape {list(values.shape)}")
        return float(values.reshape(()))

    def axis(self, axis: int, rank: int) -> int:
        """An axis of a data tensor as ONNX counts it (batch axis included) to one without the batch axis."""
        full = rank + (self.batch >= 0 and not self.joined)
        if not -full <= axis < full:
            raise self.error(f"axis {axis} must be one of the operand's {full} axes")
        if axis % full == self.batch:
            raise self.error(f"axis {self.batch} is the batch axis, which must stay as it is")
        return axis % full - (0 <= self.batch < axis % full and not self.joined)

    @property
    def all_constant(self) -> bool:
        """No operand depends on the event."""
        return all(isinstance(v, Const) for v in self.inputs if v is not None)

    def event(self, values: NDArray[Any], rank: int) -> NDArray[Any]:
        """A constant that broadcasts against batched data, without the batch axis."""
        at = values.ndim - (rank + (self.joined == 0) - self.batch)  # the batch axis, as the constant counts
        if self.batch < 0 or at < 0:
            return values
        if at > self.batch or values.shape[at] != 1:
            raise self.error(f"a constant of shape {list(values.shape)} must not depend on the batch axis")
        return values if self.joined else np.take(values, 0, axis=at)


def _is_whole(builder: RealBuilder, i: int) -> bool:
    node = builder.nodes[i]
    if isinstance(node.op, Input):
        return node.op.whole
    if isinstance(node.op, Constant):
        return bool((node.op.values == np.round(node.op.values)).all())
    if isinstance(node.op, Embedding):
        return bool((node.op.table == np.round(node.op.table)).all())
    if isinstance(node.op, Quant):
        return bool(np.all(node.op.scale == 1))
    if isinstance(node.op, Select):
        return all(_is_whole(builder, j) for j in node.operands[1:])
    if isinstance(node.op, Reshape | Transpose | Gather | Concat | Add | Sub | Mul | Maximum | Minimum):
        return all(_is_whole(builder, j) for j in node.operands)
    return isinstance(node.op, Compare)
