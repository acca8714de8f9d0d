"""The real-valued model that every front end produces: what a network computes, before any number of bits is chosen.

Values are real tensors for one event (no batch axis). `evaluate_real` runs the model in float64, for calibration and for
reporting deviations; `frontends.lower` turns it into an exact fixed-point graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from ..ir.ops import Window
from ..ir.ops.forest import walk
from ..ir.rounding import Overflow, Rounding, overflowed, round_ratio
from .functions import FUNCTIONS

__all__ = [
    "Add",
    "Bipolar",
    "Clip",
    "Compare",
    "Concat",
    "Constant",
    "Dense",
    "Embedding",
    "Float",
    "Forest",
    "Function",
    "Gather",
    "Input",
    "Leaky",
    "Maximum",
    "Minimum",
    "Mul",
    "Offset",
    "Quant",
    "RealBuilder",
    "RealModel",
    "RealNode",
    "RealOp",
    "Reduce",
    "Reshape",
    "Scale",
    "Select",
    "Softmax",
    "Sub",
    "Transpose",
    "evaluate_real",
    "quantized",
]

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Input:
    """A graph input of `shape`; `whole`: its data are integers."""

    shape: tuple[int, ...]
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Quant:
    """(clamp(round(x / scale + zero), lo, hi) - zero) * scale; every array broadcasts against x.

    `overflow` says what happens outside lo..hi; WRAP needs an interval that spans a power of two.
    `zero` is added before rounding, as QONNX defines it. A zero point that is added behind the rounding (ONNX
    QuantizeLinear) moves the limits instead, and `zero` is 0.
    """

    scale: Float
    zero: NDArray[np.int64]
    lo: int | NDArray[np.int64]
    hi: int | NDArray[np.int64]
    rounding: Rounding
    overflow: Overflow = Overflow.SAT


@dataclass(frozen=True, eq=False)
class Bipolar:
    """+scale where x >= 0, else -scale."""

    scale: Float


@dataclass(frozen=True, eq=False)
class Dense:
    """x @ weights along the last axis. If the weights were quantized, weights == ints * scale with scale per column."""

    weights: Float
    ints: NDArray[np.int64] | None = None
    scale: Float | None = None


@dataclass(frozen=True, eq=False)
class Scale:
    """x * factor with a constant that broadcasts; x / factor, exactly, if `divide`."""

    factor: Float
    divide: bool = False

    @property
    def number(self) -> Float:
        """What x is multiplied by, in float64."""
        return 1 / self.factor if self.divide else self.factor


@dataclass(frozen=True, eq=False)
class Offset:
    """x + offset with a constant that broadcasts."""

    offset: Float


@dataclass(frozen=True, eq=False)
class Clip:
    """min(max(x, lo), hi); None leaves an end open. ReLU is Clip(0, None)."""

    lo: float | None
    hi: float | None


@dataclass(frozen=True, eq=False)
class Leaky:
    """x where x >= 0, else x * slope; the slope broadcasts (PReLU)."""

    slope: Float


@dataclass(frozen=True, eq=False)
class Function:
    """A function of one variable, one of `FUNCTIONS`, with its parameters if it has any.

    `single`: its operand and result are rounded to float32, as a framework's are.
    """

    function: str
    parameters: tuple[float, ...] = ()
    single: bool = False

    def __call__(self, x: Float) -> Float:
        x = np.asarray(x, np.float32 if self.single else np.float64).astype(np.float64)
        with np.errstate(
            all="ignore"
        ):  # a table over a domain that the function does not have is refused by its values
            y = FUNCTIONS[self.function](x, *self.parameters)
            return y.astype(np.float32).astype(np.float64) if self.single else y


@dataclass(frozen=True, eq=False)
class Softmax:
    """exp(x) / sum(exp(x)) over `axes`; its logarithm if `log`."""

    axes: tuple[int, ...]
    log: bool = False


@dataclass(frozen=True, eq=False)
class Add:
    """x + y."""


@dataclass(frozen=True, eq=False)
class Sub:
    """x - y."""


@dataclass(frozen=True, eq=False)
class Mul:
    """x * y."""


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same values under another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Transpose:
    """Axes in the order `axes`."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Gather:
    """result.flat = x.flat[indices.flat]; an index of -1 stands for the number 0 (padding)."""

    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reduce:
    """The sum or maximum (`kind`: "sum", "max") along `axis`, which stays with length 1."""

    kind: str
    axis: int


@dataclass(frozen=True, eq=False)
class Constant:
    """The same values in every event."""

    values: Float


@dataclass(frozen=True, eq=False)
class Maximum:
    """max(x, y)."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """min(x, y)."""


@dataclass(frozen=True, eq=False)
class Compare:
    """1 where x < y (`relation` "less"), x <= y ("less_equal") or x == y ("equal"), else 0."""

    relation: str


@dataclass(frozen=True, eq=False)
class Select:
    """The second operand where the first is 1, the third where it is 0."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """table[x], ``[..] -> [.., columns]``, for whole x; negative x count from the end."""

    table: Float


@dataclass(frozen=True, eq=False)
class Forest:
    """The sum of the values of the leaf that each tree reaches, ``[.., features] -> [.., outputs]``; arrays as `ir.ops.Forest`.

    Node n goes left where ``x[features[n]] <= thresholds[n]``; where ``strict[n]``, only below the threshold. `grid`: the values
    were rounded to multiples of 2**grid; None: they are as they were trained.
    """

    roots: NDArray[np.int64]
    features: NDArray[np.int64]
    thresholds: Float
    strict: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: Float
    grid: int | None = None

    def __call__(self, x: Float) -> Float:
        def below(at: Float, node: NDArray[np.int64]) -> NDArray[np.bool_]:
            limit = self.thresholds[node]
            return np.where(self.strict[node], at < limit, at <= limit)

        return walk(self, x.reshape(-1, x.shape[-1]), below).reshape((*x.shape[:-1], self.values.shape[1]))


@dataclass(frozen=True, eq=False)
class Concat:
    """Joined along `axis`."""

    axis: int


RealOp: TypeAlias = (
    Input
    | Quant
    | Bipolar
    | Dense
    | Scale
    | Offset
    | Clip
    | Leaky
    | Function
    | Softmax
    | Add
    | Sub
    | Mul
    | Reshape
    | Transpose
    | Gather
    | Window
    | Concat
    | Reduce
    | Constant
    | Maximum
    | Minimum
    | Compare
    | Select
    | Embedding
    | Forest
)


@dataclass(frozen=True)
class RealNode:
    """One op; `shape` is its result's. Nodes of one `group` are to have the same precision (steps of a recurrence).

    `layer`: (name, class) of the layer that the op belongs to, as the file has them.
    """

    name: str
    op: RealOp
    operands: tuple[int, ...]
    shape: tuple[int, ...]
    group: str = ""
    layer: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class RealModel:
    """A network as a front end read it: nodes in topological order and named outputs."""

    name: str
    nodes: tuple[RealNode, ...]
    outputs: tuple[tuple[str, int], ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(i for i, n in enumerate(self.nodes) if isinstance(n.op, Input))

    def __call__(self, *values: Any) -> Any:
        """The outputs for values of a traced function (`frontends.trace`): a network inside of it."""
        from .trace import inlined

        return inlined(self, list(values))


class RealBuilder:
    """Appends nodes to a real model, working out their shapes."""

    def __init__(self, name: str) -> None:
        self.name = clean_name(name)
        self.nodes: list[RealNode] = []

    def add(self, op: RealOp, *operands: int, name: str, group: str = "", layer: tuple[str, str] = ("", "")) -> int:
        """Append a node and return its index. Raises `CompileError` naming the node if shapes do not fit."""
        try:
            shape = _shape(op, [self.nodes[i].shape for i in operands])
        except ValueError as e:
            shapes = " and ".join(str(list(self.nodes[i].shape)) for i in operands)
            raise CompileError(name, f"{type(op).__name__.lower()} does not fit shapes {shapes} ({e})") from None
        if 0 in shape:
            raise CompileError(name, f"a tensor must have elements, not shape {list(shape)}", "check the layer's size")
        self.nodes.append(RealNode(clean_name(name).replace(".", "_"), op, operands, shape, group, layer))
        return len(self.nodes) - 1

    def model(self, outputs: Sequence[tuple[str, int]]) -> RealModel:
        """The model of these outputs; nodes that none of them depends on are left out, but inputs stay."""
        live = {i for _, i in outputs} | {i for i, n in enumerate(self.nodes) if isinstance(n.op, Input)}
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in live:
                live.update(self.nodes[i].operands)
        index = {old: new for new, old in enumerate(sorted(live))}
        nodes = tuple(
            replace(self.nodes[i], operands=tuple(index[j] for j in self.nodes[i].operands)) for i in sorted(live)
        )
        return RealModel(self.name, nodes, tuple((name, index[i]) for name, i in outputs))


def _shape(op: RealOp, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The result's shape, from numpy itself on arrays without memory."""
    if isinstance(op, Input):
        return op.shape
    if isinstance(op, Dense):
        if not shapes[0] or shapes[0][-1] != op.weights.shape[0]:
            raise ValueError(f"the last axis must be {op.weights.shape[0]}")
        return (*shapes[0][:-1], op.weights.shape[1])
    if isinstance(op, Reshape):
        if math.prod(op.shape) != math.prod(shapes[0]):
            raise ValueError(f"cannot become {list(op.shape)}")
        return op.shape
    if isinstance(op, Gather):
        return op.indices.shape
    if isinstance(op, Window):
        return (*op.positions(shapes[0][:-1]), op.taps, shapes[0][-1])
    if isinstance(op, Constant):
        return op.values.shape
    if isinstance(op, Embedding):
        return (*shapes[0], op.table.shape[1])
    if isinstance(op, Forest):
        if not shapes[0] or shapes[0][-1] <= op.features.max(initial=0):
            raise ValueError(f"the last axis must hold the features 0..{op.features.max(initial=0)}")
        return (*shapes[0][:-1], op.values.shape[1])
    if isinstance(op, Reduce):
        return tuple(1 if k == op.axis else n for k, n in enumerate(shapes[0]))
    parts = [np.broadcast_to(np.zeros((), np.float64), s) for s in shapes]
    if isinstance(op, Transpose):
        return parts[0].transpose(op.axes).shape
    if isinstance(op, Concat):
        return np.concatenate(parts, axis=op.axis).shape
    constants = [np.broadcast_to(0.0, v.shape) for v in vars(op).values() if isinstance(v, np.ndarray)]
    result = np.broadcast_shapes(*shapes, *(c.shape for c in constants))
    if len(shapes) == 1 and result != shapes[0] and not isinstance(op, Scale | Offset):
        raise ValueError("the constant must not have more axes or elements than the operand")
    return result


def quantized(op: Quant, x: Float) -> Float:
    """The integers of a quantizer, ``clamp(round(x / scale + zero), lo, hi)``, of float64 data."""
    wraps = op.overflow is Overflow.WRAP
    low, high = (-(2.0**60), 2.0**60) if wraps else (np.subtract(op.lo, 1.0), np.add(op.hi, 1.0))
    steps = np.clip(x / op.scale + op.zero, low, high)
    whole = np.floor(steps)
    rest = steps - whole
    quarters = 4 * whole.astype(np.int64) + (rest > 0) + (rest >= 0.5) + (rest > 0.5)
    return np.asarray(
        overflowed(round_ratio(quarters, np.int64(4), op.rounding), op.lo, op.hi, op.overflow), np.float64
    )


def _softmax(op: Softmax, x: Float) -> Float:
    axes = tuple(a + 1 for a in op.axes)
    below = x - x.max(axis=axes, keepdims=True)
    e = np.exp(below)
    total = e.sum(axis=axes, keepdims=True)
    return below - np.log(total) if op.log else e / total


def _align(args: Sequence[Float]) -> list[Float]:
    rank = max(a.ndim for a in args)
    return [a.reshape((a.shape[0],) + (1,) * (rank - a.ndim) + a.shape[1:]) for a in args]


_REDUCE: dict[str, Callable[..., Float]] = {"sum": np.sum, "max": np.max}

_RELATIONS = {"less": np.less, "less_equal": np.less_equal, "equal": np.equal}

_EVALUATE: dict[type, Callable[..., Float]] = {
    Quant: lambda op, x: (quantized(op, x) - op.zero) * op.scale,
    Bipolar: lambda op, x: np.where(x >= 0, op.scale, -op.scale),
    Dense: lambda op, x: x @ op.weights,
    Scale: lambda op, x: x / op.factor if op.divide else x * op.factor,
    Offset: lambda op, x: x + op.offset,
    Clip: lambda op, x: np.clip(x, op.lo, op.hi),
    Leaky: lambda op, x: np.where(x >= 0, x, x * op.slope),
    Function: lambda op, x: op(x),
    Softmax: _softmax,
    Add: lambda op, *xs: np.add(*_align(xs)),
    Sub: lambda op, *xs: np.subtract(*_align(xs)),
    Mul: lambda op, *xs: np.multiply(*_align(xs)),
    Reshape: lambda op, x: x.reshape((x.shape[0], *op.shape)),
    Transpose: lambda op, x: x.transpose((0, *(a + 1 for a in op.axes))),
    Window: lambda op, x: np.where((at := op.source(x.shape[1:])) < 0, 0.0, x.reshape(x.shape[0], -1)[:, at]),
    Gather: lambda op, x: np.where(op.indices < 0, 0.0, x.reshape(x.shape[0], -1)[:, op.indices]),
    Reduce: lambda op, x: _REDUCE[op.kind](x, axis=op.axis + 1, keepdims=True),
    Maximum: lambda op, *xs: np.maximum(*_align(xs)),
    Minimum: lambda op, *xs: np.minimum(*_align(xs)),
    Compare: lambda op, *xs: _RELATIONS[op.relation](*_align(xs)).astype(np.float64),
    Select: lambda op, *xs: np.where((a := _align(xs))[0] != 0, a[1], a[2]),
    Embedding: lambda op, x: op.table[x.astype(np.int64)],
    Forest: lambda op, x: op(x),
    Concat: lambda op, *xs: np.concatenate(xs, axis=op.axis + 1),
}


def evaluate_real(model: RealModel, inputs: Mapping[str, Any]) -> list[Float]:
    """The float64 value of every node, ``[events, *shape]``; a constant scale may broaden the shape."""
    values: list[Float] = []
    for node in model.nodes:
        if isinstance(node.op, Input):
            if node.name not in inputs:
                raise CompileError(
                    f"input {node.name}", f"data must be given for every input, not only for {sorted(inputs)}"
                )
            x = np.asarray(inputs[node.name], np.float64)
            if x.shape[1:] != node.op.shape or x.ndim == 0:
                wanted = ", ".join(["events", *map(str, node.op.shape)])
                raise CompileError(f"input {node.name}", f"data must have shape [{wanted}], not {list(x.shape)}")
            values.append(x)
        elif isinstance(node.op, Constant):
            events = len(next(iter(inputs.values())))
            values.append(np.broadcast_to(node.op.values, (events, *node.op.values.shape)))
        else:
            values.append(_EVALUATE[type(node.op)](node.op, *(values[i] for i in node.operands)))
    return values
