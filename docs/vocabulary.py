"""The vocabulary of networks, a line each: what it is called in each front end, and the smallest torch model that has it.

`docs/generate.py` makes the support matrix from this table: the engines' columns come from the ops that the small model really
becomes, and a test compiles and runs every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["VOCABULARY", "Row"]


@dataclass(frozen=True)
class Row:
    """Names by front end, separated by spaces; `make` gives a torch module or function; `shape` is an event's."""

    name: str
    onnx: str
    keras: str
    torch: str
    make: Callable[[], Any]
    shape: tuple[int, ...] = (4,)


def _nn(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torch

        return getattr(torch.nn, name)(*args, **options)

    return make


def _f(function: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """A function of torch and one tensor, as a module."""

    def make() -> Any:
        import torch

        class Module(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return function(torch, x)

        return Module()

    return make


def _last(module: Callable[[], Any], *operands: int) -> Callable[[], Any]:
    """The first result of a module that takes its input `operands` times."""

    def make() -> Any:
        import torch

        inner = module()

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> Any:
                return self.inner(*[x] * len(operands or (0,)))[0]

        return Module()

    return make


def _behind_relu(module: Callable[[], Any]) -> Callable[[], Any]:
    """In the middle of a network: in front of everything, the host would do it to the data."""

    def make() -> Any:
        import torch

        return torch.nn.Sequential(torch.nn.ReLU(), module())

    return make


IMAGE, SEQUENCE = (2, 6, 5), (3, 6)

# ruff: noqa: E501
VOCABULARY = (
    Row("dense", "Gemm MatMul", "Dense QDense", "linear", _nn("Linear", 4, 3)),
    Row("convolution 1D", "Conv", "Conv1D QConv1D", "conv1d", _nn("Conv1d", 3, 2, 3), SEQUENCE),
    Row("convolution 2D", "Conv", "Conv2D QConv2D", "conv2d", _nn("Conv2d", 2, 3, 3, stride=2, padding=1), IMAGE),
    Row("convolution, dilated", "Conv", "Conv2D", "conv2d", _nn("Conv2d", 2, 3, 2, dilation=2), IMAGE),
    Row("convolution, grouped and depthwise", "Conv", "DepthwiseConv2D QDepthwiseConv2D", "conv2d", _nn("Conv2d", 2, 4, 3, groups=2), IMAGE),
    Row("convolution, separable", "Conv", "SeparableConv1D SeparableConv2D", "conv2d", _nn("Conv2d", 2, 4, 1), IMAGE),
    Row("convolution, transposed", "ConvTranspose", "Conv1DTranspose Conv2DTranspose", "conv_transpose2d.input", _nn("ConvTranspose2d", 2, 2, 3, stride=2), IMAGE),
    Row("pooling, maximum", "MaxPool", "MaxPooling1D MaxPooling2D", "max_pool2d", _nn("MaxPool2d", 2), IMAGE),
    Row("pooling, average", "AveragePool", "AveragePooling1D AveragePooling2D", "avg_pool2d", _nn("AvgPool2d", 2), IMAGE),
    Row("pooling, global", "GlobalAveragePool GlobalMaxPool", "GlobalAveragePooling2D GlobalMaxPooling2D", "adaptive_avg_pool2d", _nn("AdaptiveAvgPool2d", 1), IMAGE),
    Row("upsampling, nearest", "Resize Upsample", "UpSampling1D UpSampling2D", "upsample_nearest2d.vec", _nn("Upsample", scale_factor=2), IMAGE),
    Row("padding and cropping", "Pad", "ZeroPadding2D Cropping2D", "constant_pad_nd", _nn("ZeroPad2d", (1, 0, 2, -1)), IMAGE),
    Row("batch normalization", "BatchNormalization", "BatchNormalization QBatchNormalization", "batch_norm", _behind_relu(_nn("BatchNorm2d", 2)), IMAGE),
    Row("layer normalization", "LayerNormalization", "LayerNormalization", "layer_norm", _nn("LayerNorm", 4)),
    Row("RMS normalization", "RMSNormalization", "RMSNormalization", "rms_norm", _nn("RMSNorm", 4)),
    Row("group and instance normalization", "GroupNormalization InstanceNormalization", "", "group_norm instance_norm", _nn("GroupNorm", 1, 2), IMAGE),
    Row("addition and subtraction", "Add Sub Sum", "Add Subtract", "add.Tensor sub.Tensor", _f(lambda t, x: x + x[:, :1] - 0.5)),
    Row("multiplication", "Mul", "Multiply", "mul.Tensor", _f(lambda t, x: x * x[:, :1])),
    Row("division", "Div Reciprocal", "", "div.Tensor reciprocal", _f(lambda t, x: x[:, :2] / (x[:, 2:].abs() + 1))),
    Row("maximum and minimum", "Max Min", "Maximum Minimum", "maximum minimum", _f(lambda t, x: t.maximum(x, t.minimum(x[:, :1], x)))),
    Row("concatenation and stacking", "Concat", "Concatenate", "cat stack", _f(lambda t, x: t.cat([x, t.stack([x, -x], 2).flatten(1)], 1))),
    Row("matrix product of data", "MatMul", "Dot", "matmul bmm", _f(lambda t, x: x @ x.transpose(1, 2)), SEQUENCE),
    Row("Einstein sum", "Einsum", "EinsumDense", "einsum", _f(lambda t, x: t.einsum("bij,bkj->bik", x, x)), SEQUENCE),
    Row("sum and mean", "ReduceSum ReduceMean Mean", "Average", "sum.dim_IntList mean.dim", _f(lambda t, x: x.sum(1) + x.mean(1))),
    Row("largest and smallest along an axis", "ReduceMax ReduceMin", "", "amax amin", _f(lambda t, x: x.amax(1) - x.amin(1))),
    Row("norms", "ReduceL1 ReduceL2 ReduceSumSquare", "", "linalg_vector_norm", _f(lambda t, x: (x * x).sum(1, keepdim=True))),
    Row("slices, splits, choices", "Slice Split Gather Tile Expand", "RepeatVector", "slice.Tensor split.Tensor index_select repeat", _f(lambda t, x: x[:, ::2].repeat(1, 2))),
    Row("reshapes and transposes", "Reshape Flatten Transpose Squeeze Unsqueeze", "Reshape Flatten Permute", "reshape permute", _f(lambda t, x: x.permute(0, 2, 1).flatten(1)), SEQUENCE),
    Row("argmax and argmin", "ArgMax ArgMin", "", "argmax argmin", _f(lambda t, x: x.argmax(1))),
    Row("top-k and sorting", "TopK", "", "topk sort", _f(lambda t, x: x.topk(2).values)),
    Row("comparisons and logic", "Less Greater Equal And Or Not Xor", "", "lt.Tensor gt.Scalar logical_and", _f(lambda t, x: ((x > 0.5) & (x < 1.0)).float())),
    Row("selection", "Where", "", "where.self", _f(lambda t, x: t.where(x > 0, x, -x))),
    Row("absolute value, sign, rounding", "Abs Sign Floor Ceil Round", "", "abs sign floor", _f(lambda t, x: x.abs() + t.sign(x) + t.floor(x))),
    Row("ReLU, ReLU6, clip", "Relu Clip", "ReLU QActivation", "relu clamp", _f(lambda t, x: t.relu(x) + t.clamp(x, -1, 6))),
    Row("leaky and parametric ReLU", "LeakyRelu PRelu", "LeakyReLU PReLU", "leaky_relu prelu", _nn("LeakyReLU", 0.125)),
    Row("ELU, SELU, CELU", "Elu Selu Celu", "ELU", "elu selu celu", _nn("ELU")),
    Row("hard sigmoid, hard swish, hard tanh", "HardSigmoid HardSwish", "Activation", "hardsigmoid hardswish hardtanh", _nn("Hardtanh")),
    Row("sigmoid and tanh", "Sigmoid Tanh", "Activation", "sigmoid tanh", _f(lambda t, x: t.sigmoid(x) + t.tanh(x))),
    Row("softplus and softsign", "Softplus Softsign", "Activation", "softplus", _nn("Softplus")),
    Row("GELU, SiLU, Mish", "Gelu Swish Mish", "Activation", "gelu silu mish", _nn("GELU")),
    Row("exponential, logarithm, roots", "Exp Log Sqrt Pow", "Activation", "exp log sqrt rsqrt", _f(lambda t, x: t.exp(x) + t.sqrt(x.abs() + 1))),
    Row("trigonometry", "Sin Cos Tan Asin Acos Atan", "", "sin cos tan", _f(lambda t, x: t.sin(x))),
    Row("softmax", "Softmax LogSoftmax", "Softmax", "softmax.int log_softmax.int", _nn("Softmax", -1)),
    Row("attention", "Attention", "MultiHeadAttention", "scaled_dot_product_attention", _last(_nn("MultiheadAttention", 6, 2, batch_first=True), 0, 0, 0), SEQUENCE),
    Row("simple RNN", "RNN", "SimpleRNN QSimpleRNN", "rnn_tanh.input", _last(_nn("RNN", 6, 2, batch_first=True)), SEQUENCE),
    Row("LSTM", "LSTM", "LSTM QLSTM Bidirectional", "lstm.input", _last(_nn("LSTM", 6, 2, batch_first=True)), SEQUENCE),
    Row("GRU", "GRU", "GRU QGRU", "gru.input", _last(_nn("GRU", 6, 2, batch_first=True)), SEQUENCE),
    Row("squared-error heads", "ReduceSumSquare", "", "sum.dim_IntList", _f(lambda t, x: ((x - 0.5) ** 2).sum(1))),
    Row("dropout and noise: nothing", "Dropout Identity", "Dropout GaussianNoise", "dropout", _nn("Dropout"), (4,)),
)  # fmt: skip
