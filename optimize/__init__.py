"""Finds the network worth building: quantization-aware training, pruning, distillation and more, in PyTorch."""

from ..ir.errors import CompileError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise CompileError("optimize", "needs PyTorch, which is not installed", "pip install 'hwcompile[torch]'") from None

from .distill import Distill, Features, MeanTeacher, ReconstructionError
from .formats import Format, Spec, fixed, learned
from .layers import layers, prepare, quantizers
from .passes import Calibrate, Quantize
from .pipeline import Pass, Pipeline, Point, Record, Result, Work
from .quantize import calibrate, quantize
from .quantizers import ActivationQuantizer, WeightQuantizer
from .task import Task
from .train import During, Train

__all__ = [
    "ActivationQuantizer", "Calibrate", "Distill", "During", "Features", "Format", "MeanTeacher", "Pass", "Pipeline", "Point",
    "Quantize", "ReconstructionError", "Record", "Result", "Spec", "Task", "Train", "WeightQuantizer", "Work", "calibrate",
    "fixed", "layers", "learned", "prepare", "quantize", "quantizers",
]  # fmt: skip
