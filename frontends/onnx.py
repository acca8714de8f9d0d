"""Reads ONNX and QONNX models into a `RealModel`; an operator is one function, its attributes read or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.graph import clean_name
from ..ir.rounding import Rounding
from .onnx_context import Const, Context, Ref, Value
from .onnx_file import InputAxes, constant_tensors, input_axes, load_model
from .onnx_functions import FUNCTION_OPERATORS, reciprocal
from .onnx_layout import LAYOUT
from .onnx_logic import LOGIC, event_rank, operand_node
from .onnx_ml import MACHINE_LEARNING
from .onnx_normalization import NORMALIZATIONS
from .onnx_quantizers import QUANTIZERS
from .onnx_recurrent import RECURRENT
from .onnx_reductions import REDUCTIONS, matmul_data
from .onnx_selection import SELECTIONS
from .onnx_windows import WINDOWS
from .real import (
    Add,
    Clip,
    Dense,
    Function,
    Input,
    Leaky,
    Mul,
    Offset,
    Quant,
    RealBuilder,
    RealModel,
    RealOp,
    Scale,
    Softmax,
    Sub,
)

__all__ = ["OPERATORS", "check_batch", "output_name", "read_onnx"]


def read_onnx(source: str | Path | bytes | Any) -> RealModel:
    """Read an ONNX model from a path, bytes or an ``onnx.ModelProto``.

    Weights stored as external data are read from the model's own folder only. Raises `CompileError` for anything that
    is not understood, naming the node.
    """
    model, name = load_model(source)
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 13)
    builder = RealBuilder(graph.name if graph.name not in ("", "main_graph", "torch_jit") else name)
    values: dict[str, Value] = {k: Const(v) for k, v in constant_tensors(model).items()}
    axes = {t.name: input_axes(t) for t in graph.input if t.name not in values}
    single = bool(axes) and all(a.single for a in axes.values())
    for name, a in axes.items():
        values[name] = _input(builder, name, a)
    for node in graph.node:
        _read_node(builder, node, values, opset, single)
    outputs: list[tuple[str, int]] = []
    for tensor in graph.output:
        found = values.get(tensor.name)
        if not isinstance(found, Ref):
            raise CompileError(f"output {tensor.name}", "must depend on an input")
        outputs.append((output_name(tensor.name, [n for n, _ in outputs]), found.index))
    if not outputs:
        raise CompileError(name, "the model has no outputs")
    return builder.model(outputs)


def _input(builder: RealBuilder, name: str, axes: InputAxes) -> Ref:
    """An input; one of a narrow integer type has its precision from there."""
    index = builder.add(Input(axes.shape, axes.whole), name=name)
    if axes.limits is not None:
        one, zero = np.asarray(1.0), np.zeros((), np.int64)
        index = builder.add(Quant(one, zero, *axes.limits, Rounding.RND_CONV), index, name=f"{name}.integers")
    return Ref(index, batch=axes.batch)


def output_name(name: str, taken: list[str]) -> str:
    """The name of an output: letters, digits and '_'. Raises `CompileError` where two outputs would share it."""
    clean = clean_name(name).replace(".", "_")
    if clean in taken:
        raise CompileError(
            f"output {name}", f"every output needs a name of its own, and '{clean}' is there twice", "rename it"
        )
    return clean


def _read_node(builder: RealBuilder, node: Any, values: dict[str, Value], opset: int, single: bool) -> None:
    where = f"{node.name or (node.output[0] if node.output else '')} ({node.op_type})"
    operands = [values.get(i) for i in node.input if i]
    if any(isinstance(values.get(i), Ref) for i in (*node.input, *_captured(node))) and node.op_type in _CONTROL_FLOW:
        fix = "unroll the loop before the export (Keras: unroll=True), or export its layer as LSTM, GRU or RNN"
        raise CompileError(where, "control flow must not depend on data", fix)
    on_data_only = node.op_type not in OPERATORS or node.op_type in _ON_DATA
    if on_data_only and operands and all(isinstance(v, Const) for v in operands):
        values[node.output[0]] = _folded(node, where, [v.values for v in operands if isinstance(v, Const)], opset)
        return
    reader = OPERATORS.get(node.op_type)
    if reader is None or node.domain not in (_ML_DOMAIN if node.op_type in MACHINE_LEARNING else _DOMAINS):
        domain = f" of domain '{node.domain}'" if node.domain else ""
        raise CompileError(where, f"operator{domain} is not supported", f"supported: {', '.join(sorted(OPERATORS))}")
    missing = [i for i in node.input if i and i not in values]
    if missing:
        raise CompileError(
            where, f"operand '{missing[0]}' is defined nowhere before", "the file is damaged or not sorted"
        )
    context = Context(builder, node, where, [values[i] if i else None for i in node.input], opset, single)
    check_batch(context)
    codes = next((v.codes for v in context.inputs if isinstance(v, Ref) and v.codes is not None), None)
    if codes is not None and (node.op_type not in _ON_CODES or (codes.scale.size > 1 and node.op_type in LAYOUT)):
        raise CompileError(where, "would work on quantized integers", "put a DequantizeLinear before it")
    if not node.output:
        raise CompileError(where, "must have an output", "the file is damaged")
    try:
        result = reader(context)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as e:
        raise CompileError(
            where, f"its attributes or operands do not fit each other ({e})", "export the model again"
        ) from e
    context.finish()
    results = result if isinstance(result, list) else [result]
    for name, value in zip(node.output, results):
        keeps = codes is not None and node.op_type != "DequantizeLinear"
        values[name] = replace(value, codes=codes) if keeps and isinstance(value, Ref) else value


def check_batch(c: Context) -> None:
    """Refuse a batch axis that is not in front where an operator cares, and operands that disagree about it."""
    refs = [v for v in c.inputs if isinstance(v, Ref)]
    moved = next((v for v in refs if v.batch != 0 or v.joined), None)
    if moved is None:
        return
    shape = ["batch" if n == -1 else f"batch x {-n}" if n < 0 else n for n in c.full_shape(moved)]
    if c.node.op_type not in (JOINED_BATCH if moved.joined else ANY_BATCH):
        raise c.error(f"needs the batch axis in front, not shape {shape}", "transpose before it")
    behind = [(c.rank(v) - max(v.batch, 0 if v.batch == 0 else -1), v.joined and c.shape(v)[v.batch]) for v in refs]
    if any(n != behind[0] for n in behind) and c.node.op_type not in RECURRENT:
        raise c.error("its operands must have their batch axes at the same place", "transpose one of them")


def _captured(node: Any) -> Iterator[str]:
    """The outer values that the bodies of a control flow operator may read."""
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from inner.input
            yield from _captured(inner)


def _folded(node: Any, where: str, operands: list[NDArray[Any]], opset: int) -> Const:
    """An operator of the standard on constants alone, by the standard's own reference evaluation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [i for i in node.input if i]
    widest = np.result_type(*[v.dtype for v in operands if v.dtype.kind == "f"], np.float16)
    # what was folded before may be float64
    operands = [v.astype(widest) if v.dtype.kind == "f" else v for v in operands]
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, operands)
    ]
    outputs = [onnx.helper.make_value_info(node.output[0], onnx.TypeProto())]
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    try:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        results: Any = ReferenceEvaluator(model).run([node.output[0]], dict(zip(names, operands)))
        return Const(np.asarray(results[0]))
    except Exception as e:  # whatever the evaluator raises, the operator is one we do not read
        raise CompileError(
            where,
            f"cannot be folded to a constant ({type(e).__name__}: {str(e).partition(chr(10))[0][:120]})",
            f"supported on data: {', '.join(sorted(OPERATORS))}",
        ) from None


_ON_DATA = {"Gemm", "MatMul", *WINDOWS, *SELECTIONS, *FUNCTION_OPERATORS, *REDUCTIONS, *NORMALIZATIONS, *LOGIC}
_ON_DATA -= {"Expand"}
"""Operators whose readers expect data: on constants alone they are folded."""

_CONTROL_FLOW = ("Loop", "Scan", "If")
_ON_CODES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Clip", "Identity", "DequantizeLinear")
_DOMAINS = ("", "ai.onnx", "qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_ML_DOMAIN = ("ai.onnx.ml",)


def _binary(
    constant: Callable[[Any, Any], Any],
    data: RealOp,
    with_constant: Callable[[Context, Any, bool], RealOp | None],
) -> Callable[[Context], Value]:
    """A reader of a two-operand operator: constants fold, one constant becomes a scale or an offset."""

    def read(c: Context) -> Value:
        a, b = c.operand(0), c.operand(1)
        if isinstance(a, Const) and isinstance(b, Const):
            return Const(np.asarray(constant(a.values, b.values)))
        if isinstance(a, Ref) and isinstance(b, Ref):
            return _silu(c, a, b) if isinstance(data, Mul) else c.add(data, a.index, b.index)
        ref, k = (a, 1) if isinstance(a, Ref) else (b, 0)
        assert isinstance(ref, Ref)
        extra = c.floats(k, "a constant operand").ndim - c.rank(ref)
        ref = c.lifted(1 - k, extra) if extra > 0 else ref
        values = c.event(c.floats(k, "a constant operand"), len(c.shape(ref)))
        op = with_constant(c, values, k == 0)
        if op is None:
            raise c.error("a constant divided by data is not supported")
        x = ref.index
        if isinstance(data, Sub) and k == 0:
            x = c.add(Scale(np.asarray(-1.0)), x, suffix=".neg").index
        return c.add(op, x)

    return read


def _silu(c: Context, a: Ref, b: Ref) -> Value:
    """x * y; and x * sigmoid(x), as exporters write SiLU, as one function."""
    for x, gate in ((a, b), (b, a)):
        node = c.builder.nodes[gate.index]
        if isinstance(node.op, Function) and node.op.function == "sigmoid" and node.operands == (x.index,):
            return c.add(Function("silu"), x.index)
    return c.add(Mul(), a.index, b.index)


def _by_data(c: Context, divisor: Ref) -> Value:
    """x times a table of 1 / y; a constant over y is 1 / (y / constant)."""
    if isinstance(c.operand(0), Const):
        numerator = c.event(c.floats(0, "the numerator"), event_rank(c))
        if np.any(numerator == 0):
            raise c.error("the numerator must not be zero")
        one = bool((numerator == 1).all())
        y = divisor.index if one else c.add(Scale(numerator, divide=True), divisor.index, suffix=".ratio").index
        return reciprocal(c, y)
    inverse = reciprocal(c, divisor.index, ".inverse")
    return c.add(Mul(), operand_node(c, 0, event_rank(c)), inverse.index)


def _divide(c: Context) -> Value:
    a, b = c.operand(0), c.operand(1)
    if isinstance(b, Ref):
        return _by_data(c, b)
    divisor = c.constant(1, "the divisor").values
    if np.any(divisor == 0):
        raise c.error("the divisor must not be zero")
    if isinstance(a, Const):
        if a.values.dtype.kind in "iu" and divisor.dtype.kind in "iu":  # integers divide towards zero
            quotient = np.abs(a.values) // np.abs(divisor)
            return Const((quotient * np.sign(a.values) * np.sign(divisor)).astype(a.values.dtype))
        return Const(a.values / divisor)
    return c.add(Scale(c.event(divisor.astype(np.float64), len(c.shape(a))), divide=True), a.index)


def _weights(c: Context, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64] | None, NDArray[np.float64] | None]:
    constant = c.constant(k, "weights")
    return constant.values.astype(np.float64), constant.ints, constant.scale


def _dense(c: Context, x: int, weights: tuple[Any, Any, Any], transposed: bool) -> Ref:
    """x @ weights, with quantized weights kept as integers where the scale varies by column at most."""
    values, ints, scale = weights
    if values.ndim != 2:
        raise c.error(f"weights must have 2 axes, not shape {list(values.shape)}")
    if transposed:
        values = values.T
    if ints is None or scale is None:
        return c.add(Dense(values.copy()), x)
    scale = np.broadcast_to(scale, ints.shape)
    ints, scale = (ints.T, scale.T) if transposed else (ints, scale)
    if not (scale == scale[:1]).all():
        return c.add(Dense(values.copy()), x)  # a scale per row is part of the exact weights
    return c.add(Dense(values.copy(), ints.copy(), scale[0].copy()), x)


def _matmul(c: Context) -> Value:
    if c.all_constant:
        return Const(c.constant(0, "operand").values @ c.constant(1, "operand").values)
    if isinstance(c.operand(0), Ref) and isinstance(c.operand(1), Ref):
        return matmul_data(c)
    if isinstance(c.operand(0), Const):
        raise c.error("the constant matrix must be the second operand", "transpose the product")
    return _dense(c, c.data(0), _weights(c, 1), transposed=False)


def _gemm(c: Context) -> Value:
    alpha, beta = float(c.attribute("alpha", 1.0)), float(c.attribute("beta", 1.0))
    trans_a, trans_b = c.attribute("transA", 0), c.attribute("transB", 0)
    if trans_a:
        raise c.error("transA must be 0: it would move the batch axis")
    x = c.data(0)
    if c.rank(c.operand(0)) != 2:
        raise c.error(
            f"the operand must have shape [batch, n], not [batch, {', '.join(map(str, c.shape(c.operand(0))))}]"
        )
    y = _dense(c, x, _weights(c, 1), bool(trans_b))
    if alpha != 1:
        y = c.add(Scale(np.asarray(alpha)), y.index, suffix=".alpha")
    if not c.given(2) or beta == 0:
        return y
    if isinstance(c.operand(2), Ref):
        scaled = c.data(2) if beta == 1 else c.add(Scale(np.asarray(beta)), c.data(2), suffix=".beta").index
        return c.add(Add(), y.index, scaled, suffix=".bias")
    bias = c.event(c.floats(2, "the bias"), len(c.shape(c.operand(0))))
    return c.add(Offset(beta * bias), y.index, suffix=".bias")


def _batch_normalization(c: Context) -> Value:
    epsilon = float(c.attribute("epsilon", 1e-5))
    c.attribute("momentum", 0.9)  # only moves the statistics while training
    if c.attribute("training_mode", 0) or c.attribute("spatial", 1) != 1:
        raise c.error("must be exported for inference (training_mode 0, spatial 1)")
    x = c.data(0)
    gamma, beta, mean, variance = (c.floats(k, what) for k, what in enumerate(("scale", "bias", "mean", "variance"), 1))
    if np.any(variance + epsilon <= 0):
        raise c.error("variance + epsilon must be positive")
    factor = gamma / np.sqrt(variance + epsilon)
    channels = (-1,) + (1,) * (len(c.shape(c.operand(0))) - 1)
    y = c.add(Scale(factor.reshape(channels)), x, suffix=".scale")
    return c.add(Offset((beta - mean * factor).reshape(channels)), y.index)


# ---- activations ------------------------------------------------------------------------------------------------------


def _clip(c: Context) -> Value:
    if c.opset < 11:
        lo, hi = c.attribute("min", None), c.attribute("max", None)
    else:
        lo, hi = (
            c.scalar(k, what) if c.given(k) else None for k, what in ((1, "the lower limit"), (2, "the upper limit"))
        )
    x = c.operand(0)
    if isinstance(x, Const):
        clipped = np.clip(x.values, lo, hi)
        return Const(clipped.astype(x.values.dtype), x.ints, x.scale)
    if lo is not None and hi is not None and lo > hi:
        raise c.error(f"the lower limit {lo} must not exceed the upper limit {hi}")
    if x.codes is not None:
        if x.codes.scale.size > 1:
            raise c.error("a clip of integers with a scale per channel is not supported", "use one scale")
        scale, zero = float(x.codes.scale.reshape(())), int(x.codes.zero.reshape(()))
        lo, hi = (None if v is None else (v - zero) * scale for v in (lo, hi))
    return c.add(Clip(lo, hi), x.index)


def _leaky(c: Context) -> Value:
    return c.add(Leaky(np.asarray(np.float32(c.attribute("alpha", 0.01)), np.float64)), c.data(0))


def _prelu(c: Context) -> Value:
    x = c.data(0)
    return c.add(Leaky(c.event(c.floats(1, "the slope"), len(c.shape(c.operand(0))))), x)


def _softmax(log: bool) -> Callable[[Context], Value]:
    """Along one axis; before opset 13 along all axes from the given one on, which belong together."""

    def read(c: Context) -> Value:
        shape = c.shape(c.operand(0))
        axis = c.axis(int(c.attribute("axis", -1 if c.opset >= 13 else 1)), len(shape))
        if c.opset < 13 and c.batch > axis:
            raise c.error("before opset 13 the batch axis must come before the softmax's", "export with opset 13")
        return c.add(Softmax((axis,) if c.opset >= 13 else tuple(range(axis, len(shape))), log), c.data(0))

    return read


OPERATORS: dict[str, Callable[[Context], Value | list[Value]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "BatchNormalization": _batch_normalization,
    "Add": _binary(np.add, Add(), lambda c, v, flipped: Offset(v)),
    "Sub": _binary(np.subtract, Sub(), lambda c, v, flipped: Offset(v if flipped else -v)),
    "Mul": _binary(np.multiply, Mul(), lambda c, v, flipped: Scale(v)),
    "Div": _divide,
    "Relu": lambda c: c.add(Clip(0.0, None), c.data(0)),
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Clip": _clip,
    "Sigmoid": lambda c: c.add(Function("sigmoid"), c.data(0)),
    "Tanh": lambda c: c.add(Function("tanh"), c.data(0)),
    "Softmax": _softmax(log=False),
    "LogSoftmax": _softmax(log=True),
    **LAYOUT,
    **WINDOWS,
    **SELECTIONS,
    **FUNCTION_OPERATORS,
    **REDUCTIONS,
    **NORMALIZATIONS,
    **LOGIC,
    **RECURRENT,
    **MACHINE_LEARNING,
    **QUANTIZERS,
}
"""Every supported operator and the function that reads it."""

ANY_BATCH = frozenset((
    "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Softmax", "LogSoftmax",
    "Slice", "Gather", "Split", "Reshape", "Flatten", "Shape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Identity",
    "Dropout", "Cast", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "LpNormalization",
    *FUNCTION_OPERATORS, *LOGIC, *QUANTIZERS, *RECURRENT, *(k for k in REDUCTIONS if k.startswith("Reduce")),
))  # fmt: skip
"""Operators for which the batch axis may be anywhere."""

JOINED_BATCH = ANY_BATCH - {
    "Slice", "Gather", "Split", "Flatten", "Squeeze", "Unsqueeze", "OneHot", "TopK", *RECURRENT, *QUANTIZERS,
} | {"Quant"}  # fmt: skip
"""Operators for which it may count events times another axis."""
