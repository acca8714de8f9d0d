"""Methods that a search uses where it is told so by name: masks under constraints or trained, hardware's patterns, distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from .. import optimize as opt
from ..codegen.schedule import valid_reuse
from ..optimize.pruning import Pattern, prunable, rows
from .methods_trial import Method, Setting
from .methods_ways import from_base, sizes, smaller, training, uniform_spec
from .space import Choice, Integer, Real

__all__ = ["FURTHER"]

BLOCK = 4
"""Weights of a block of N:M."""


def _constrained(s: Setting, module: nn.Module) -> list[opt.Pass]:
    return [opt.Quantize(uniform_spec(s)), opt.Constrain(training(s), lut=s.params["luts"])]


def _masked(s: Setting, module: nn.Module) -> list[opt.Pass]:
    return [opt.TrainMasks(s.params["masks"], s.params["amount"], training(s, 0.5))]


def _distilled(s: Setting, module: nn.Module) -> list[opt.Pass]:
    return [opt.Quantize(uniform_spec(s)), opt.Distill(module, s.params["distill"]), training(s)]


def _matrices(module: nn.Module) -> dict[str, Tensor]:
    """The matrix ``[outputs, inputs]`` of each layer that can be pruned, as the compiler has it."""
    return {name: rows(m) for name, m in prunable(copy.deepcopy(module)).items()}


def _some_of_four(s: Setting, module: nn.Module) -> list[opt.Pass]:
    """In all layers whose rows are whole blocks."""
    names = tuple(name for name, m in _matrices(module).items() if not m.shape[1] % BLOCK)
    return [opt.Prune(pattern=opt.NofM(s.params["kept"], BLOCK), layers=names), training(s, 0.5)]


def _dsp_words(s: Setting, module: nn.Module) -> Pattern:
    return opt.DspWords(s.methods.target, s.params["bits"], s.params["data_bits"])


PATTERNS: dict[str, Callable[[Setting, nn.Module], Pattern]] = {
    "multipliers": lambda s, module: opt.Multipliers(_reuse(s, module)),
    "dsp_words": _dsp_words,
    "memory_words": lambda s, module: opt.MemoryWords(s.params["bits"], reuse=_reuse(s, module)),
}
"""What goes together, for the reuse and the widths of the trial."""


def _reuse(s: Setting, module: nn.Module) -> dict[str, int]:
    """Of each layer the largest reuse factor that keeps to the trial's cycles between events."""
    shapes = {name: m.shape for name, m in _matrices(module).items()}
    return {
        name: max(r for r in valid_reuse(inputs, outputs) if r <= s.ii) for name, (outputs, inputs) in shapes.items()
    }


def _patterned(s: Setting, module: nn.Module) -> list[opt.Pass]:
    prune = opt.Prune(s.params["amount"], pattern=PATTERNS[s.params["pattern"]](s, module))
    return [training(s, 0.5, during=(opt.Gradual(prune, end=0.6),))]


FURTHER: dict[str, Method] = {
    "constrained": Method(lambda m: {"luts": Real(*m.luts, log=True), **sizes(3, 8)}, from_base(_constrained)),
    "masked": Method(
        lambda m: {"amount": Real(0.3, 0.95), "masks": Choice("pdp", "dst", "autosparse"), **sizes(3, 8)}, smaller(_masked)
    ),
    "n_of_m": Method(lambda m: {"kept": Integer(1, BLOCK - 1), **sizes(3, 8)}, smaller(_some_of_four)),
    "patterned": Method(
        lambda m: {"amount": Real(0.3, 0.95), "pattern": Choice(*PATTERNS), **sizes(3, 8)}, smaller(_patterned)
    ),
    "distilled": Method(lambda m: {"distill": Real(0.2, 0.9), **sizes(2, 8)}, from_base(_distilled)),
}  # fmt: skip
"""Ways that no search chooses from unless it is told so."""
