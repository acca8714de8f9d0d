"""Trains a network of a store again by its recipe, as `Methods` recorded it: what its weights were is what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import optimize as opt
from ..ir.errors import CompileError
from ..lineage import State, Store
from .methods_trial import BASE

if TYPE_CHECKING:
    from .methods import Methods

__all__ = ["rebuilt"]


def rebuilt(methods: Methods, store: Store, state: State | str, networks: tuple[str, ...]) -> nn.Module:
    """The network of a state, from the root on; `networks`: the methods that train some."""
    state = store.get(state)
    step, where = state.step, f"state {state.id[:10]}"
    if step is None or state.error or state.method not in (BASE, *networks):
        raise CompileError(where, "is no network that Methods trained, so that it cannot be trained again")
    if step.data_digest not in ("", methods.data_digest):
        raise CompileError(where, "was trained on other data", "give Methods the task of its search")
    if state.method == BASE:
        options = [(step.name, step.parameters)]
        if "initial_seed" not in step.parameters:
            raise CompileError(where, "was recorded by an older hwcompile, whose recipes are not whole")
        torch.manual_seed(step.parameters["initial_seed"])
        assert methods.network is not None
        module = methods.network(step.parameters["architecture"])
    else:
        options = [(k.split()[1], v) for k, v in step.parameters.items()]  # "1 Quantize", "2 Train", ...
        module = rebuilt(methods, store, state.parents[0], networks)
    passes = [_pass(methods, store, state, name, o, networks) for name, o in options]
    if not any("seed" in o for _, o in options):
        return opt.Pipeline(passes).run(module, methods.task, step.seed or 0).module
    for p, (_, o) in zip(passes, options, strict=True):
        module = _alone(p, module, methods.task, o.get("seed", step.seed), "batched" in o)
    return module


def _alone(p: Any, module: nn.Module, task: opt.Task, seed: int, batched: bool) -> nn.Module:
    """A pass that is the first of its run."""
    if not batched:
        return opt.Pipeline([p]).run(module, task, seed).module
    (outcome,) = opt.Ensemble([module]).train(task, [p], seed)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.module


def _pass(methods: Methods, store: Store, state: State, name: str, options: Any, networks: tuple[str, ...]) -> opt.Pass:
    """A pass, with its teacher where it has one."""
    if name != "Distill":
        return _read({**options, "type": name})
    teacher = rebuilt(methods, store, store.with_key((state.key[0], "base", options["teacher"])) or "", networks)
    return opt.Distill(teacher, options["weight"], options["temperature"])


def _read(value: Any) -> Any:
    """An option from what `recorded` made of it."""
    if isinstance(value, list):
        return tuple(map(_read, value))
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {k: _read(v) for k, v in value.items()}
    kind = getattr(opt, value["type"])
    return kind(**{k: _read(v) for k, v in value.items() if k in kind.__dataclass_fields__})
