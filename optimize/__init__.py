"""Finds the network worth building: quantization-aware training, pruning, distillation and more, in PyTorch."""
from .formats import Format, Spec, fixed, learned
from .layers import layers, quantizers
from .quantize import calibrate, quantize
from .quantizers import ActivationQuantizer, WeightQuantizer
