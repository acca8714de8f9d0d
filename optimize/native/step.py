"""Compiles, loads and runs generated training steps on numpy arrays; knows neither torch nor how a step computes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import CompileError
from .emit import emit, plan
from .library import compiled
from .program import Program

__all__ = ["GROUPS", "Adam", "Record", "Schedule", "Step", "build"]

"""A product may be fused with a sum (one rounding less); sums are never reordered."""
GROUPS = ("weights", "biases", "widths")
"""Parameters that share an optimizer's options; widths are the trained fraction and integer bits."""
WIDTH_LIMIT = 40.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Adam:
    """Adam (arXiv:1412.6980), as torch computes it; `decay` (of weights alone) is decoupled from it (arXiv:1711.05101).

    `lowest`, `highest`: bounds of trained fraction and integer bits. `frozen`: groups (of GROUPS) that stay as they are.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0
    lowest: float = -WIDTH_LIMIT
    highest: float = WIDTH_LIMIT
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0 and self.decay >= 0):
            raise CompileError("Adam", f"needs betas from 0 to below 1, epsilon > 0 and decay >= 0, not {self}")
        if not -WIDTH_LIMIT <= self.lowest <= self.highest <= WIDTH_LIMIT:
            rule = f"lowest and highest must be within plus and minus {WIDTH_LIMIT:g}, not {self.lowest} and {self.highest}"
            raise CompileError("Adam", rule)
        unknown = sorted(set(self.frozen) - set(GROUPS))
        if unknown:
            raise CompileError("Adam", f"frozen groups are some of {', '.join(GROUPS)}, not {unknown[0]!r}")


@dataclass(frozen=True)
class Schedule:
    """Of each step: the learning rates of weights with biases and of widths, and the strength of the resource term."""

    rate: NDArray[Any]
    width_rate: NDArray[Any]
    beta: NDArray[Any]

    @classmethod
    def constant(cls, steps: int, rate: float, width_rate: float = 0.0, beta: float = 0.0) -> Schedule:
        """The same in all steps."""
        return cls(*(np.full(steps, value, np.float32) for value in (rate, width_rate, beta)))

    def packed(self) -> Floats:
        """``[steps, 3]``."""
        columns = [np.asarray(c, np.float32) for c in (self.rate, self.width_rate, self.beta)]
        if any(c.ndim != 1 or c.shape != columns[0].shape for c in columns):
            raise CompileError("schedule", f"must have three values a step, not shapes {[c.shape for c in columns]}")
        return np.ascontiguousarray(np.stack(columns, axis=1))


@dataclass(frozen=True)
class Record:
    """What a run did: per step the loss (mean over the batch) and the resource term (without beta), both before the update.

    `finite`: False where the last loss was not finite; that step made no update and has no resource term (NaN).
    """

    losses: NDArray[np.float64]
    costs: NDArray[np.float64]
    finite: bool


class _Options(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_float) for name in ("beta1", "beta2", "epsilon", "decay", "lowest", "highest")),
        *((name, ctypes.c_float) for name in ("share", "temperature")),
        ("frozen", ctypes.c_int32 * 3),
        ("track", ctypes.c_int32),
    )


class _State(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("parameters", "gradients", "first", "second", "constants", "ranges", "counts", "work")
    )


class _Data(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("x", "labels", "targets", "weights"))


class Step:
    """A compiled training step with the state of one network; get one from `build`.

    All dictionaries hold float32 views into flat buffers, to be read and written in place at any time between calls; fraction
    and integer bits must stay within plus and minus 40. Values are float32: exact, and equal to integer arithmetic, where all
    sums of a layer fit 24 bits. A Step is for one thread at a time; several of one program may run side by side.

    `parameters`: "0.weight", "0.bias", "0.input.fraction", "0.weight.fraction", "0.weight.integer", ..., "output.fraction".
    `gradients`: of the trained ones. `term`: the resource term of the last `backward`, without beta. `first`, `second`: Adam's
    moments; `counts`: its steps by group.
    `ranges`: "0.input.lowest", "0.input.highest", of "free" data. `constants`: "0.mask", "0.input.bits" (widths of inputs
    without a quantizer) and "0.prices": u, v, s, t of the layer's resource term

        sum_ij (u [b_ij > 0] + v b_ij) (c_j + s [c_j > 0]) + t sum_j c_j

    with b the bit lengths of the integer weights and c the widths of the inputs; u = s = t = 0, v = 1 are HGQ's EBOPs.
    """

    def __init__(self, program: Program, library: ctypes.CDLL) -> None:
        self.program, self._library = program, library
        layout = plan(program)
        trained = {name: a for name, a in layout.parameters.arrays.items() if a[0] < layout.groups[2]}
        self._buffers = [_aligned(layout.parameters.size) for _ in range(4)]
        self._buffers += [_aligned(layout.constants.size), _aligned(layout.ranges.size)]
        self.parameters = _views(self._buffers[0], layout.parameters.arrays)
        self.gradients, self.first, self.second = (_views(b, trained) for b in self._buffers[1:4])
        self.constants = _views(self._buffers[4], layout.constants.arrays)
        self.ranges = _views(self._buffers[5], layout.ranges.arrays)
        self.counts = np.zeros(3, np.int64)
        self.term = 0.0
        self._work = _aligned(library.hwc_workspace_bytes() // 4)
        for name, array in self.constants.items():
            if name.endswith("mask"):
                array[:] = 1
            elif name.endswith("prices"):
                array[1] = 1
        self.forget_ranges()

    def forget_ranges(self) -> None:
        """Start to track the ranges of data anew."""
        for name, array in self.ranges.items():
            array[:] = np.inf if name.endswith("lowest") else -np.inf

    def run(
        self,
        x: ArrayLike,
        y: ArrayLike,
        order: ArrayLike,
        batch: int,
        schedule: Schedule,
        *,
        adam: Adam | None = None,
        soft: ArrayLike | None = None,
        share: float = 0.5,
        temperature: float = 1.0,
        event_weights: ArrayLike | None = None,
        track: bool = True,
    ) -> Record:
        """One step for each entry of the schedule, over the events ``order[k * batch : (k + 1) * batch]`` of x.

        x: ``[events, inputs]``. y: labels ``[events]`` or targets ``[events, outputs]``, as the program's loss has it;
        distillation takes labels as y and probabilities as `soft`, and is (1 - share) * hard + share * soft, where the soft
        part has both sides at `temperature` and its square as a factor. The loss is the mean over the batch of event weight
        times loss. `track`: whether the ranges of data follow. Arrays of float32 (labels: int32, order: int64) in C order are
        read in place. It stops at the first loss that is not finite. Other threads run meanwhile.
        """
        x = self._input(x)
        packed = schedule.packed()
        rows = np.ascontiguousarray(order, np.int64).reshape(-1)
        if batch < 1 or len(rows) != len(packed) * batch:
            raise CompileError(
                "order", f"must have {len(packed)} steps of {batch} events, not {len(rows)}", "cut it to whole batches"
            )
        if len(rows) and (rows.min() < 0 or rows.max() >= len(x)):
            raise CompileError("order", f"must name events from 0 to {len(x) - 1}, not {rows.min()} to {rows.max()}")
        if not temperature > 0:
            raise CompileError("temperature", f"must be positive, not {temperature}")
        labels, targets = self._compared(y, soft, len(x))
        weights = None if event_weights is None else _floats("event_weights", event_weights, (len(x),))
        data = _Data(_address(x), _address(labels), _address(targets), _address(weights))
        losses, costs = np.full(len(packed), np.nan), np.full(len(packed), np.nan)
        options = _options(adam or Adam(), share, temperature, track)
        done = self._library.hwc_run(
            ctypes.byref(self._state()), ctypes.byref(options), ctypes.byref(data), _pointer(rows),
            ctypes.c_int64(len(packed)), ctypes.c_int64(batch), _pointer(packed), _pointer(losses), _pointer(costs),
        )  # fmt: skip
        made = min(done + 1, len(packed))
        return Record(losses[:made], costs[:made], done == len(packed))

    def forward(self, x: ArrayLike) -> Floats:
        """Outputs ``[events, outputs]``, quantized as in training; the ranges stay."""
        x = self._input(x)
        y = np.empty((len(x), self.program.layers[-1].outputs), np.float32)
        self._library.hwc_forward(ctypes.byref(self._state()), _pointer(x), ctypes.c_int64(len(x)), _pointer(y))
        return y

    def backward(
        self, x: ArrayLike, dy: ArrayLike, *, beta: float = 0.0, track: bool = True, input_gradient: bool = False
    ) -> Floats | None:
        """Fill `gradients` for a loss computed elsewhere, dy = dL/dy ``[events, outputs]``, and beta times the resource term.

        `update` then makes Adam's step. Returns dL/dx where `input_gradient` asks for it.
        """
        x = self._input(x)
        dy = _floats("dy", dy, (len(x), self.program.layers[-1].outputs))
        dx = np.empty_like(x) if input_gradient else None
        self.term = self._library.hwc_backward(
            ctypes.byref(self._state()), _pointer(x), _pointer(dy), ctypes.c_int64(len(x)), ctypes.c_float(beta),
            ctypes.c_int32(track), None if dx is None else _pointer(dx),
        )  # fmt: skip
        return dx

    def update(self, rate: float, width_rate: float = 0.0, adam: Adam | None = None) -> None:
        """One step of Adam with the gradients that are there."""
        options = _options(adam or Adam(), 0, 1, False)
        state = ctypes.byref(self._state())
        self._library.hwc_update(state, ctypes.byref(options), ctypes.c_float(rate), ctypes.c_float(width_rate))

    def cost(self) -> Floats:
        """The resource term of every layer now, without beta; 0 for float weights."""
        each = np.zeros(len(self.program.layers), np.float32)
        self._library.hwc_costs(ctypes.byref(self._state()), _pointer(each))
        return each

    def _state(self) -> _State:
        return _State(*(_address(b) for b in (*self._buffers, self.counts, self._work)))

    def _input(self, x: ArrayLike) -> Floats:
        return _floats("x", x, (None, self.program.layers[0].inputs))

    def _compared(self, y: ArrayLike, soft: ArrayLike | None, events: int) -> tuple[NDArray[np.int32] | None, Any]:
        """(labels, targets), as far as the loss has them."""
        loss, outputs = self.program.loss, self.program.layers[-1].outputs
        if (soft is not None) != (loss == "distillation"):
            raise CompileError(
                "soft", "belongs to the loss 'distillation' and only to it", f"the loss here is {loss!r}"
            )
        if loss not in ("cross_entropy", "distillation"):
            return None, _floats("y", y, (events, outputs))
        labels = np.asarray(y)
        if labels.shape != (events,) or labels.dtype.kind not in "iu":
            raise CompileError(
                "y", f"must be integer labels of shape ({events},), not {labels.dtype} of {labels.shape}"
            )
        if events and (labels.min() < 0 or labels.max() >= outputs):
            raise CompileError("y", f"labels must be from 0 to {outputs - 1}, not {labels.min()} to {labels.max()}")
        targets = None if soft is None else _floats("soft", soft, (events, outputs))
        return np.ascontiguousarray(labels, np.int32), targets


def build(program: Program) -> Step:
    """Generate, compile (once per content and machine) and load a step; parameters are 0, masks 1, and prices those of EBOPs.

    Raises `CompileError` where there is no C++ compiler.
    """
    return Step(program, _library(program))


@cache
def _library(program: Program) -> ctypes.CDLL:
    library = compiled(emit(program), "step.cpp")
    library.hwc_run.restype = library.hwc_workspace_bytes.restype = ctypes.c_int64
    library.hwc_backward.restype = ctypes.c_double
    for name in ("hwc_forward", "hwc_update", "hwc_costs"):
        getattr(library, name).restype = None
    return library


def _aligned(floats: int) -> Floats:
    """Zeros that start at a cache line."""
    raw = np.zeros(4 * floats + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * floats].view(np.float32)


def _views(flat: Floats, arrays: dict[str, tuple[int, tuple[int, ...]]]) -> dict[str, Floats]:
    sizes = {name: int(np.prod(shape)) for name, (_, shape) in arrays.items()}
    return {name: flat[at : at + sizes[name]].reshape(shape) for name, (at, shape) in arrays.items()}


def _floats(where: str, given: ArrayLike, shape: tuple[int | None, ...]) -> Floats:
    array = np.ascontiguousarray(given, np.float32)
    if array.ndim != len(shape) or any(b not in (None, a) for a, b in zip(array.shape, shape)):
        wanted = ", ".join("events" if n is None else str(n) for n in shape)
        raise CompileError(where, f"must have the shape ({wanted}), not {array.shape}")
    return array


def _options(adam: Adam, share: float, temperature: float, track: bool) -> _Options:
    frozen = (ctypes.c_int32 * 3)(*(group in adam.frozen for group in GROUPS))
    values = (adam.beta1, adam.beta2, adam.epsilon, adam.decay, adam.lowest, adam.highest, share, temperature)
    return _Options(*values, frozen, track)


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
