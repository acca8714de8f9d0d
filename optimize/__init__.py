"""Finds the network worth building: quantization-aware training, pruning, distillation and more, in PyTorch."""

from ..ir.errors import CompileError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise CompileError("optimize", "needs PyTorch, which is not installed", "pip install 'hwcompile[torch]'") from None

from .constrain import Constrain
from .cost import ebops, prices, resource, solved
from .distill import Distill, Features, MeanTeacher, ReconstructionError
from .ensemble import Ensemble
from .formats import Format, Spec, fixed, learned
from .generated import generated
from .keras_models import from_keras
from .layers import layers, prepare, quantizers
from .low_rank import LowRank
from .passes import Calibrate, Quantize
from .pipeline import Pass, Pipeline, Point, Record, Result, Work, measures
from .post_training import PostTraining
from .pruning import DspWords, Gradual, MemoryWords, Multipliers, NofM, Prune, Unstructured
from .pruning_trained import TrainMasks
from .qonnx import to_qonnx
from .quantize import calibrate, quantize
from .quantizers import ActivationQuantizer, WeightQuantizer
from .runs import Run, train_all
from .shrink import Shrink
from .symbolic import Symbolic, SymbolicResult, regress
from .task import Task
from .train import During, Train
from .trees import Trees, fit_forests, fit_trees, sweep

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
    "PostTraining",
    # Students that are no networks.
    "Symbolic", "SymbolicResult", "regress", "Trees", "fit_forests", "fit_trees", "sweep",
    # Many at once; from and to other tools.
    "Ensemble", "Run", "train_all", "from_keras", "to_qonnx",
    # Layers, for passes of one's own.
    "layers", "prepare", "quantizers",
]  # fmt: skip
