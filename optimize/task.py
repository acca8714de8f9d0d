"""What a network shall learn: data, loss and score; knows no quantizer and no optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ir.errors import CompileError

__all__ = ["LOSSES", "Inputs", "Task", "predict", "run"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
}
"""Losses by name: classes from labels; numbers; yes or no from logits. The generated training step knows these."""


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(-1) == y).float().mean())


def _yes_or_no(outputs: Tensor, y: Tensor) -> float:
    return float(((outputs > 0) == (y > 0.5)).float().mean())


class Inputs:
    """Events of a network with several inputs: a tensor for each of them, indexed and parted by events together."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = tuple(tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, events: Any) -> Inputs:
        return Inputs(t[events] for t in self.tensors)

    def split(self, batch: Any) -> list[Inputs]:
        """Events in their order, so many at a time."""
        return [Inputs(parts) for parts in zip(*(t.split(batch) for t in self.tensors), strict=True)]


@dataclass(frozen=True, eq=False)
class Task:
    """Training and validation data, the loss and the score.

    x: inputs ``[events, ...]``, a tuple of them for a network with several inputs; y: targets ``[events]`` (labels) or
    ``[events, ...]``. Arrays become tensors. Instead of both, `loader` gives batches ``(x, y)`` and can be iterated once per
    epoch (a DataLoader). `validation`: a pair (x, y); by default the last tenth of the data is kept for it. `loss`: one of
    `LOSSES`, or a function of (outputs, y). `score`: a function of (outputs, y), larger is better; by default the accuracy, or
    minus the loss. Several outputs are a tuple.
    """

    x: Any = None
    y: Any = None
    validation: Any = None
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    score: Callable[[Tensor, Tensor], float] | None = None
    loader: Iterable[Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise CompileError("task", f"loss must be one of {', '.join(LOSSES)} or a function, not {self.loss!r}")
        if (self.x is None or self.y is None) == (self.loader is None):
            raise CompileError("task", "needs either x and y, or a loader of batches (x, y)")
        if self.loader is not None:
            if self.validation is None:
                raise CompileError("task", "a loader needs validation=(x, y)", "keep some events apart")
            self._set("validation", self._pair("validation", *self.validation))
            return
        x, y = self._pair("task", self.x, self.y)
        if self.validation is None:
            keep = len(x) - max(len(x) // 10, 1)
            self._set("validation", (x[keep:], y[keep:]))
            x, y = x[:keep], y[:keep]
        else:
            self._set("validation", self._pair("validation", *self.validation))
        self._set("x", x)
        self._set("y", y)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _pair(self, where: str, x: Any, y: Any, several: bool | None = None) -> tuple[Any, Tensor]:
        """Tensors of the types that the loss takes; they must fit each other and be finite. `several`: whether x holds inputs."""
        try:
            each, targets = [torch.as_tensor(v) for v in _several(x, y, several)], torch.as_tensor(y)
        except (TypeError, ValueError, RuntimeError) as e:
            rule = f"x and y must be arrays of numbers: {str(e).splitlines()[0][:100]}"
            raise CompileError(where, rule, "number the classes from 0") from None
        each = [t.to(torch.float32) for t in each]
        if any(len(t) != len(targets) for t in each) or not len(targets):
            rule = f"x and y must have as many events, and some, not {len(each[0])} and {len(targets)}"
            raise CompileError(where, rule)
        if not all(bool(t.isfinite().all()) for t in each):
            raise CompileError(where, "x has values that are not finite", "remove or replace those events")
        inputs = each[0] if len(each) == 1 else Inputs(each)
        if self.loss == "cross_entropy" and not targets.is_floating_point():
            if targets.ndim != 1:
                raise CompileError(where, f"labels must be of shape [events], not {list(targets.shape)}")
            return inputs, targets.long()
        if isinstance(self.loss, str) and not bool(targets.isfinite().all()):
            raise CompileError(where, "y has values that are not finite", "remove or replace those events")
        return inputs, targets.to(torch.float32) if isinstance(self.loss, str) else targets

    def check_outputs(self, outputs: Any) -> None:
        """Raise `CompileError` where labels are none of a network's classes."""
        if self.kind != "cross_entropy" or not isinstance(outputs, Tensor) or outputs.ndim != 2:
            return
        for where, y in (("y", self.y), ("validation", self.validation[1])):
            labels = isinstance(y, Tensor) and not y.is_floating_point()
            if labels and (int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]):
                rule = f"labels must be from 0 to {outputs.shape[1] - 1}, not {int(y.min())} to {int(y.max())}"
                raise CompileError(where, rule, "give the network an output for each class, or number them from 0")

    @property
    def kind(self) -> str:
        """The loss by its name, "own" for a function."""
        return self.loss if isinstance(self.loss, str) else "own"

    @property
    def events(self) -> int:
        """How many events the training data has; 0 where a loader does not say."""
        return 0 if self.x is None else len(self.x)

    @property
    def sample(self) -> Any:
        """Some events for shapes and ranges."""
        return self.validation[0][:2048] if self.x is None else self.x[:16384]

    def loss_of(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch."""
        function = LOSSES[self.loss] if isinstance(self.loss, str) else self.loss
        if self.loss in ("mse", "bce"):
            outputs = outputs.reshape(y.shape)
        return function(outputs, y)

    def score_of(self, outputs: Tensor, y: Tensor) -> float:
        """The score of predictions; larger is better."""
        if self.score is not None:
            return float(self.score(outputs, y))
        if self.loss == "cross_entropy" and not y.is_floating_point():
            return _accuracy(outputs, y)
        if self.loss == "bce":
            return _yes_or_no(outputs.reshape(y.shape), y)
        return -float(self.loss_of(outputs, y))

    def evaluate(self, module: nn.Module, x: Any = None, y: Tensor | None = None) -> float:
        """The score of a module in eval mode, on the validation data unless others are given."""
        events, targets = self.validation if x is None or y is None else (x, y)
        return self.score_of(predict(module, events), targets)

    def batches(self, batch: int, order: Tensor | None = None) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """One epoch of (x, y, index of the events) in the given order; a loader's batches as they come, without index."""
        if self.loader is None:
            order = torch.arange(self.events) if order is None else order
            for index in order.split(batch):
                yield self.x[index], self.y[index], index
            return
        count = 0
        for given in self.loader:
            if not isinstance(given, list | tuple) or len(given) != 2:
                raise CompileError("loader", "must give pairs (x, y)")
            x, y = self._pair("loader", *given, several=isinstance(self.validation[0], Inputs))
            if _shapes(x) != _shapes(self.validation[0]):
                rule = f"gives events of shape {_shapes(x)}, and the validation data has {_shapes(self.validation[0])}"
                raise CompileError("loader", rule)
            count += 1
            yield x, y, None
        if not count:
            rule = "gave no batch in this epoch: it has run dry"
            raise CompileError(
                "loader", rule, "give one that starts anew each time it is iterated, such as a DataLoader"
            )


def _several(x: Any, y: Any, known: bool | None) -> tuple[Any, ...]:
    """The inputs of a network: `x`, or what is in it if that is `known`, or if it holds arrays, but not one for each event."""
    if isinstance(x, Inputs):
        return x.tensors
    if not isinstance(x, list | tuple) or not x or not all(hasattr(v, "shape") for v in x):
        return (x,)
    return tuple(x) if known or (known is None and len(x) != len(y)) else (x,)


def _shapes(x: Any) -> list[list[int]]:
    return [list(t.shape[1:]) for t in (x.tensors if isinstance(x, Inputs) else (x,))]


def run(module: nn.Module, x: Any) -> Any:
    """The module's outputs for a tensor of events, or for `Inputs`."""
    return module(*x.tensors) if isinstance(x, Inputs) else module(x)


def predict(module: nn.Module, x: Any, batch: int = 16384) -> Any:
    """The module's outputs in eval mode: a tensor, or a tuple where it has several."""
    before = module.training
    module.eval()
    with torch.no_grad():
        found = [run(module, part) for part in x.split(batch)]
    module.train(before)
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
