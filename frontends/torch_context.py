"""What an ATen operator's reader works with: its arguments by name, constants as tensors, and the steps of the ONNX reader.

An operator is read as one or more operators of ONNX, which know about batch axes and quantized constants, or as real ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from .onnx import OPERATORS, check_batch
from .onnx_context import Const, Context, Ref
from .real import Concat, Constant, Gather, RealBuilder, RealOp, Reshape

__all__ = ["BATCH", "Call", "Known", "Operand", "Sizes"]

_OPSET = 23
BATCH = 3
"""Events with which layout is tried out, and the example with which a module is exported."""


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor known at compile time; `batch`: the axis on which one event stands for all, or -1.

    If a quantizer made it, ``tensor == ints * scale``; the scale broadcasts.
    """

    tensor: Any
    ints: Any = None
    scale: Any = None
    batch: int = -1

    def mapped(self, f: Callable[..., Any]) -> Known:
        """Rearranged by `f`, which moves elements or fills in zeros."""
        if self.ints is None:
            return Known(f(self.tensor))
        return Known(f(self.tensor), f(self.ints), f(self.scale.expand(self.tensor.shape)))

    @property
    def const(self) -> Const:
        """As the ONNX reader has it."""
        values = self.tensor.detach().cpu().numpy()
        if self.ints is None:
            return Const(values)
        ints, scale = self.ints.numpy(), self.scale.numpy()
        return Const(ints * scale, ints, scale)


Operand: TypeAlias = Ref | Known


@dataclass(frozen=True)
class _Grid:
    """An operand and the number of its first element among those of all operands."""

    ref: Ref
    start: int


@dataclass(frozen=True)
class Sizes:
    """The symbolic sizes of an export: `batch` is the number of events, None in a program for one event."""

    batch: Any = None

    def times(self, n: Any) -> int | None:
        """How often the number of events is in n; 0: a plain number; None: something else than a multiple."""
        expression = getattr(getattr(n, "node", None), "expr", None)
        if expression is None or expression.is_Integer:
            return 0
        if self.batch is None:
            return None
        ratio = expression / self.batch
        return int(ratio) if ratio.is_Integer else None

    def shape(self, sizes: Sequence[Any], events: int) -> tuple[int, ...] | None:
        """Sizes for so many events; None where one is no multiple of their number."""
        many = [self.times(n) for n in sizes]
        return (
            tuple(m * events if m else int(n) for m, n in zip(many, sizes) if m is not None)
            if None not in many
            else None
        )


class _Step(Context):
    """An operator of ONNX with its attributes as plain values."""

    def __init__(
        self, call: Call, kind: str, name: str, inputs: list[Any], results: int, attributes: Mapping[str, Any]
    ) -> None:
        outputs = [f"{name}.{k}" for k in range(results)]
        node = SimpleNamespace(op_type=kind, name=name, output=outputs, attribute=(), domain="")
        super().__init__(call.builder, node, call.where, inputs, _OPSET, call.single)
        self._attributes = dict(attributes)


class Call:
    """One node of the exported program: its arguments, and the model being built."""

    def __init__(
        self, builder: RealBuilder, name: str, target: Any, arguments: dict[str, Any], value: Any, sizes: Sizes
    ) -> None:
        self.builder, self.name, self.where, self.arguments = builder, name, f"{name} ({target})", arguments
        self.target, self.value, self.sizes, self.single = target, value, sizes, sizes.batch is None
        self._read: set[str] = set()

    def error(self, rule: str, fix: str = "") -> CompileError:
        return CompileError(self.where, rule, fix)

    # ---- arguments ----------------------------------------------------------------------------------------------------

    def get(self, name: str, default: Any = None) -> Any:
        """An argument; those never asked for must have their default (`finish`)."""
        self._read.add(name)
        value = self.arguments.get(name)
        return default if value is None else value

    def ignore(self, *names: str) -> None:
        """Arguments that change no number."""
        self._read.update(names)

    def finish(self, defaults: Mapping[str, Any]) -> None:
        for name, value in self.arguments.items():
            if name not in self._read and value is not None and value != defaults.get(name):
                raise self.error(f"the argument {name} must be {defaults.get(name)}, not {value}")

    def plain(self, name: str, default: Any = None) -> Any:
        """A number, text or list that must not be data."""
        value = self.get(name, default)
        if isinstance(value, Known) and value.tensor.numel() == 1:
            return value.tensor.item()
        if isinstance(value, Ref | Known):
            raise self.error(f"{name} must be a number, not data")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number as the operands' type holds it."""
        value = self.plain(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.error(f"{name} must be a finite number, not {value}")
        return float(np.float32(value)) if self.is_single_precision else float(value)

    def known(self, name: str, what: str = "") -> Known:
        """An argument that must be constant."""
        value = self.get(name)
        if isinstance(value, Known):
            return value
        if isinstance(value, Ref):
            found = self.builder.nodes[value.index].name
            raise self.error(f"{what or name} must be constant, not the output of '{found}'")
        raise self.error(f"{what or name} must be given")

    def operand(self, name: str = "self") -> Operand:
        value = self.get(name)
        if not isinstance(value, Ref | Known):
            raise self.error(f"{name} must be a tensor, not {value}")
        return value

    def data(self, name: str = "self") -> Ref:
        value = self.operand(name)
        if isinstance(value, Known):
            raise self.error(f"{name} must be data, not a constant")
        return value

    @property
    def is_single_precision(self) -> bool:
        """The result is float32, in which torch then takes numbers."""
        value = self.value[0] if isinstance(self.value, tuple | list) and self.value else self.value
        return str(getattr(value, "dtype", "")) in ("torch.float32", "torch.bool")

    # ---- shapes -------------------------------------------------------------------------------------------------------

    def full_shape(self, x: Operand) -> tuple[int, ...]:
        """The shape in the program with -1 for the batch axis; -n where it counts events times n."""
        if isinstance(x, Known):
            return tuple(x.tensor.shape)
        shape = self.builder.nodes[x.index].shape
        if x.batch < 0:
            return shape
        return (*shape[: x.batch], -shape[x.batch] if x.joined else -1, *shape[x.batch + bool(x.joined) :])

    def rank(self, x: Operand) -> int:
        return len(self.full_shape(x))

    # ---- steps --------------------------------------------------------------------------------------------------------

    def read(self, kind: str, *operands: Any, suffix: str = "", **attributes: Any) -> Any:
        """One operator of ONNX on refs, known tensors, arrays or numbers; its result, a list where `outputs` is given."""
        results = attributes.pop("outputs", 1)
        inputs = [self._input(v) for v in operands]
        step = _Step(self, kind, f"{self.name}{suffix}", inputs, results, attributes)
        check_batch(step)
        found = OPERATORS[kind](step)
        step.finish()
        return found

    def add(self, op: RealOp, *operands: Ref, suffix: str = "") -> Ref:
        """One real op; the batch axis of the result is where the operands have it."""
        step = _Step(self, "Where", f"{self.name}{suffix}", list(operands), 1, {})
        check_batch(step)
        return step.add(op, *(v.index for v in operands))

    def event(self, values: NDArray[Any], x: Ref) -> NDArray[Any]:
        """A constant that broadcasts against data, without the batch axis."""
        step = _Step(self, "Where", self.name, [x], 1, {})
        return step.event(values, len(self.builder.nodes[x.index].shape))

    def _input(self, v: Any) -> Any:
        if v is None or isinstance(v, Ref | Const):
            return v
        if isinstance(v, Known):
            return v.const
        if hasattr(v, "node"):
            raise self.error("a number must not depend on the number of events", "use a constant")
        if isinstance(v, np.ndarray):
            return Const(v)
        if isinstance(v, float) and self.is_single_precision:
            return Const(np.asarray(np.float32(v)))
        return Const(np.asarray(v))

    def concrete(self, value: Any, events: int) -> Any:
        """An argument with so many events in place of their number."""
        if isinstance(value, list | tuple):
            return [self.concrete(v, events) for v in value]
        found = self.sizes.shape([value], events) if hasattr(value, "node") else (value,)
        if found is None:
            raise self.error(f"the size {value} must be a multiple of the number of events")
        return found[0]

    def moved(self, suffix: str = "", **replaced: Any) -> Any:
        """The operator itself on the indices of its operands: whatever only moves, repeats or drops elements.

        It runs on several events whose indices differ, so that it cannot mix them unnoticed; 0 stands for a filled zero.
        """
        import torch

        arguments = {**self.arguments, **replaced}
        self._read.update(arguments)
        events = 1 if self.single else BATCH
        refs: list[Ref] = []
        starts: list[int] = [1]

        def collect(name: str, v: Any) -> Any:
            if isinstance(v, list | tuple):
                return [collect(name, x) for x in v]
            if isinstance(v, Known) and name not in ("index", "indices"):
                v = self._as_data(v, f"{suffix}.constant{len(refs)}")
            if isinstance(v, Ref):
                refs.append(v)
                starts.append(starts[-1] + math.prod(self.builder.nodes[v.index].shape))
                return _Grid(v, starts[-2])
            return self.concrete(v, events)

        def numbered(v: Any) -> Any:
            if isinstance(v, list):
                return [numbered(x) for x in v]
            return (
                self._grid(v, starts[-1], events) if isinstance(v, _Grid) else v.tensor if isinstance(v, Known) else v
            )

        collected = {k: collect(k, v) for k, v in arguments.items()}
        result = self.target(**{k: numbered(v) for k, v in collected.items()})
        if isinstance(result, torch.Tensor):
            return self._taken(result, refs, starts[-1], events, suffix)
        return [self._taken(r, refs, starts[-1], events, f"{suffix}.{k}") for k, r in enumerate(result)]

    def _as_data(self, v: Known, suffix: str) -> Ref:
        """A constant as a value of each event, which has the constant's batch axis if it has one."""
        values = v.const.values.astype(np.float64)
        return self.constant(values if v.batch < 0 else np.take(values, 0, axis=v.batch), suffix, v.batch)

    def _grid(self, g: _Grid, total: int, events: int) -> Any:
        """The 1-based indices of an operand's elements, in the program's shape; those of event k are k * (total - 1) higher."""
        import torch

        if g.ref.joined:
            raise self.error("works on an axis that counts events times another", "reshape behind it")
        shape = self.builder.nodes[g.ref.index].shape
        grid = np.arange(g.start, g.start + math.prod(shape), dtype=np.float64).reshape(shape)
        if g.ref.batch >= 0:
            grid = np.stack([grid + k * (total - 1) for k in range(events)], axis=g.ref.batch)
        return torch.from_numpy(grid)

    def _taken(self, found: Any, refs: list[Ref], total: int, events: int, suffix: str) -> Ref:
        """The elements at 1-based indices of all operands of an event, behind each other; 0: the number 0."""
        index, batch = found.numpy().astype(np.int64), -1
        if any(r.batch >= 0 for r in refs):
            batch = self._batch_axis(index, total, events)
            index = np.take(index, 0, axis=batch)
        source = refs[0].index
        if len(refs) > 1:
            flat = [self._flat(r, f"{suffix}.flat{k}") for k, r in enumerate(refs)]
            source = self.builder.add(Concat(0), *flat, name=f"{self.name}{suffix}.joined")
        shape = self.builder.nodes[source].shape
        if index.shape == shape and (index.reshape(-1) == np.arange(1, index.size + 1)).all():
            return self.placed(Ref(source, batch=batch))  # all of them, in order
        node = self.builder.add(Gather(np.array(index, order="C") - 1), source, name=f"{self.name}{suffix}")
        return self.placed(Ref(node, batch=batch))

    def _flat(self, r: Ref, suffix: str) -> int:
        size = math.prod(self.builder.nodes[r.index].shape)
        return self.builder.add(Reshape((size,)), r.index, name=f"{self.name}{suffix}")

    def _batch_axis(self, index: NDArray[np.int64], total: int, events: int) -> int:
        """The axis along which the result's events lie; refused if an element comes from another event than its own."""
        for axis in [k for k, n in enumerate(index.shape) if n == events]:
            own = np.arange(events).reshape([-1 if k == axis else 1 for k in range(index.ndim)])
            within = np.where(index > 0, index - own * (total - 1), 0)
            if (within == np.take(within, [0], axis=axis)).all() and within.min() >= 0 and within.max() < total:
                return axis
        raise self.error("would mix events or hide the batch axis", "leave the first axis, the batch, as it is")

    def placed(self, value: Ref) -> Ref:
        """In a program for one event, a leading axis of length 1 is the batch axis."""
        if not self.single or value.batch >= 0:
            return value
        shape = self.builder.nodes[value.index].shape
        if len(shape) < 2 or shape[0] != 1:
            return value
        index = self.builder.add(Reshape(shape[1:]), value.index, name=f"{self.name}.event")
        return replace(value, index=index, batch=0)

    def constant(self, values: NDArray[np.float64], suffix: str, batch: int = -1) -> Ref:
        """A constant as a value of each event; `batch`: where the program has its batch axis."""
        return Ref(self.builder.add(Constant(values), name=f"{self.name}{suffix}"), batch=batch)
