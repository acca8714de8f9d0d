"""Finds the network worth building: quantization-aware training, pruning, distillation and more, in PyTorch."""

from ..ir.errors import CompileError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise CompileError("optimize", "needs PyTorch, which is not installed", "pip install 'hwcompile[torch]'") from None

from .cost import ebops, prices, resource, solved
from .distill import Distill, Features, MeanTeacher, ReconstructionError
from .formats import Format, Spec, fixed, learned
from .generated import generated
from .layers import layers, prepare, quantizers
from .low_rank import LowRank
from .passes import Calibrate, Quantize
from .pipeline import Pass, Pipeline, Point, Record, Result, Work, measures
from .pruning import DspWords, Gradual, MemoryWords, Multipliers, NofM, Prune, Unstructured
from .pruning_trained import Constrain, TrainMasks
from .quantize import calibrate, quantize
from .quantizers import ActivationQuantizer, WeightQuantizer
from .shrink import Shrink
from .task import Task
from .train import During, Train

__all__ = [  # noqa: RUF022  in the order in which they are met
    # Formats, and modules that compute with them.
    "Format", "Spec", "fixed", "learned", "quantize", "calibrate", "generated", "ActivationQuantizer", "WeightQuantizer",
    # What it costs.
    "ebops", "prices", "resource", "solved", "measures",
    # Passes, and what runs them.
    "Task", "Pipeline", "Pass", "Work", "Record", "Point", "Result",
    "Quantize", "Calibrate", "Train", "During",
    "Prune", "Gradual", "TrainMasks", "Constrain", "Shrink", "Unstructured", "NofM", "Multipliers", "MemoryWords", "DspWords",
    "LowRank", "Distill", "Features", "MeanTeacher", "ReconstructionError",
    # Layers, for passes of one's own.
    "layers", "prepare", "quantizers",
]  # fmt: skip
