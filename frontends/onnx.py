"""Reads ONNX and QONNX models into a `RealModel`; one function per operator, every attribute read or refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Rounding
from .onnx_file import attribute_values, constant_tensors, input_shape, load_model
from .real import (Add, Bipolar, Clip, Concat, Dense, Function, Input, Leaky, Mul, Offset, Quant, RealBuilder, RealModel,
                   RealOp, Reshape, Scale, Softmax, Sub, Transpose, quantized)

__all__ = ["OPERATORS", "read_onnx"]


@dataclass(frozen=True, eq=False)
class Const:
    """A value known at compile time. If it left a quantizer, ``values == ints * scale``; it keeps its batch axis, if any."""

    values: NDArray[Any]
    ints: NDArray[np.int64] | None = None
    scale: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Ref:
    """A value of each event: node `index` of the real model.

    Between QuantizeLinear and DequantizeLinear the file speaks of integer codes: then `codes` is their scale and zero
    point, and the node holds the real value that the codes stand for.
    """

    index: int
    codes: Codes | None = None


@dataclass(frozen=True, eq=False)
class Codes:
    """real = (code - zero) * scale."""

    scale: NDArray[np.float64]
    zero: NDArray[np.int64]


Value: TypeAlias = Const | Ref


class Context:
    """What an operator's function sees: its node, its operands and attributes, and the model being built."""

    def __init__(self, builder: RealBuilder, node: Any, where: str, inputs: list[Value | None], opset: int) -> None:
        self.builder, self.node, self.where, self.inputs, self.opset = builder, node, where, inputs, opset
        self._attributes = attribute_values(node, where)
        self._read: set[str] = set()

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value; anything never asked for is refused by `finish`."""
        self._read.add(name)
        return self._attributes.get(name, default)

    def finish(self) -> None:
        unknown = sorted(set(self._attributes) - self._read)
        if unknown:
            raise self.error(f"attribute '{unknown[0]}' is not known", f"known here: {', '.join(sorted(self._read)) or 'none'}")

    def error(self, rule: str, fix: str = "") -> CompileError:
        return CompileError(self.where, rule, fix)

    def add(self, op: RealOp, *operands: int, suffix: str = "") -> Ref:
        name = self.node.name or self.node.output[0] or self.node.op_type
        return Ref(self.builder.add(op, *operands, name=f"{name}{suffix}"))

    def shape(self, value: Value) -> tuple[int, ...]:
        return self.builder.nodes[value.index].shape if isinstance(value, Ref) else value.values.shape

    def given(self, k: int) -> bool:
        return k < len(self.inputs) and self.inputs[k] is not None

    def operand(self, k: int) -> Value:
        if not self.given(k):
            raise self.error(f"operand {k + 1} is missing")
        value = self.inputs[k]
        assert value is not None
        return value

    def data(self, k: int) -> int:
        """The node index of a data operand."""
        value = self.operand(k)
        if isinstance(value, Const):
            raise self.error(f"operand {k + 1} must be data, not a constant", "export the model with constant folding")
        return value.index

    def constant(self, k: int, what: str) -> Const:
        value = self.operand(k)
        if isinstance(value, Ref):
            raise self.error(f"{what} must be constant, not the output of '{self.builder.nodes[value.index].name}'",
                             "export the model with constant folding")
        if value.values.dtype.kind == "f" and not np.isfinite(value.values).all():
            raise self.error(f"{what} must be finite, but contains NaN or Inf", "check the training")
        return value

    def floats(self, k: int, what: str) -> NDArray[np.float64]:
        return self.constant(k, what).values.astype(np.float64)

    def scalar(self, k: int, what: str) -> float:
        values = self.constant(k, what).values
        if values.size != 1:
            raise self.error(f"{what} must be one number, not an array of shape {list(values.shape)}")
        return float(values.reshape(()))

    def axis(self, axis: int, rank: int) -> int:
        """An axis of a data tensor as ONNX counts it (batch axis included) to one without the batch axis."""
        full = rank + 1
        if not -full <= axis < full:
            raise self.error(f"axis {axis} must be one of the operand's {full} axes")
        if axis % full == 0:
            raise self.error("axis 0 is the batch axis, which must stay as it is")
        return axis % full - 1

    def event(self, values: NDArray[Any], rank: int) -> NDArray[Any]:
        """A constant that broadcasts against batched data, without the batch axis."""
        if values.ndim <= rank:
            return values
        if values.ndim > rank + 1 or values.shape[0] != 1:
            raise self.error(f"a constant of shape {list(values.shape)} must not depend on the batch axis")
        return values[0]


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
    for tensor in graph.input:
        if tensor.name not in values:
            values[tensor.name] = Ref(builder.add(Input(input_shape(tensor)), name=tensor.name))
    for node in graph.node:
        _read_node(builder, node, values, opset)
    outputs: list[tuple[str, int]] = []
    for tensor in graph.output:
        found = values.get(tensor.name)
        if not isinstance(found, Ref):
            raise CompileError(f"output {tensor.name}", "must depend on an input")
        outputs.append((tensor.name.replace(".", "_"), found.index))
    if not outputs:
        raise CompileError(name, "the model has no outputs")
    return builder.model(outputs)


def _read_node(builder: RealBuilder, node: Any, values: dict[str, Value], opset: int) -> None:
    where = f"{node.name or (node.output[0] if node.output else '')} ({node.op_type})"
    operands = [values.get(i) for i in node.input if i]
    if node.op_type not in OPERATORS and operands and all(isinstance(v, Const) for v in operands):
        values[node.output[0]] = _folded(node, where, [v.values for v in operands if isinstance(v, Const)], opset)
        return
    reader = OPERATORS.get(node.op_type)
    if reader is None or node.domain not in ("", "ai.onnx", *_QUANT_DOMAINS):
        domain = f" of domain '{node.domain}'" if node.domain else ""
        raise CompileError(where, f"operator{domain} is not supported", f"supported: {', '.join(sorted(OPERATORS))}")
    missing = [i for i in node.input if i and i not in values]
    if missing:
        raise CompileError(where, f"operand '{missing[0]}' is defined nowhere before", "the file is damaged or not sorted")
    context = Context(builder, node, where, [values[i] if i else None for i in node.input], opset)
    codes = next((v.codes for v in context.inputs if isinstance(v, Ref) and v.codes is not None), None)
    if codes is not None and (node.op_type not in _ON_CODES or (codes.scale.size > 1 and node.op_type in _LAYOUT)):
        raise CompileError(where, "would work on quantized integers", "put a DequantizeLinear before it")
    result = reader(context)
    context.finish()
    if codes is not None and node.op_type != "DequantizeLinear" and isinstance(result, Ref):
        result = Ref(result.index, codes)
    if node.output:
        values[node.output[0]] = result


def _folded(node: Any, where: str, operands: list[NDArray[Any]], opset: int) -> Const:
    """An operator of the standard on constants alone, by the standard's own reference evaluation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [i for i in node.input if i]
    inputs = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in zip(names, operands)]
    outputs = [onnx.helper.make_value_info(node.output[0], onnx.TypeProto())]
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    try:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        return Const(np.asarray(ReferenceEvaluator(model).run([node.output[0]], dict(zip(names, operands)))[0]))
    except Exception as e:  # whatever the evaluator raises, the operator is one we do not read
        raise CompileError(where, f"cannot be folded to a constant ({type(e).__name__}: {e})",
                           f"supported on data: {', '.join(sorted(OPERATORS))}") from None


_LAYOUT = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
_ON_CODES = (*_LAYOUT, "Clip", "Identity", "DequantizeLinear")
_QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


# ---- arithmetic -------------------------------------------------------------------------------------------------------


def _both_constant(c: Context) -> bool:
    return all(isinstance(v, Const) for v in c.inputs if v is not None)


def _float32(values: NDArray[Any]) -> NDArray[Any]:
    """Constants computed at compile time keep the precision of the file, as every runtime computes them."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _binary(constant: Callable[[Any, Any], Any], data: RealOp, with_constant: Callable[[Context, Any, bool], RealOp | None],
            ) -> Callable[[Context], Value]:
    """A reader of a two-operand operator: constants fold, one constant becomes a scale or an offset."""

    def read(c: Context) -> Value:
        a, b = c.operand(0), c.operand(1)
        if isinstance(a, Const) and isinstance(b, Const):
            return Const(np.asarray(constant(a.values, b.values)))
        if isinstance(a, Ref) and isinstance(b, Ref):
            return c.add(data, a.index, b.index)
        ref, k = (a, 1) if isinstance(a, Ref) else (b, 0)
        assert isinstance(ref, Ref)
        values = c.event(c.floats(k, "a constant operand"), len(c.shape(ref)))
        op = with_constant(c, values, k == 0)
        if op is None:
            raise c.error("a constant divided by data is not supported")
        x = ref.index
        if isinstance(data, Sub) and k == 0:
            x = c.add(Scale(np.float64(-1)), x, suffix=".neg").index
        return c.add(op, x)

    return read


def _divide(c: Context) -> Value:
    a, b = c.operand(0), c.operand(1)
    if isinstance(b, Ref):
        raise c.error("the divisor must be constant", "multiply by a table of the reciprocal instead")
    divisor = c.constant(1, "the divisor").values
    if np.any(divisor == 0):
        raise c.error("the divisor must not be zero")
    if isinstance(a, Const):
        return Const(a.values / divisor)
    inverse = 1 / c.event(divisor.astype(np.float64), len(c.shape(a)))
    return c.add(Scale(inverse), a.index)


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
    if _both_constant(c):
        return Const(c.constant(0, "operand").values @ c.constant(1, "operand").values)
    if isinstance(c.operand(0), Const):
        raise c.error("the constant matrix must be the second operand", "transpose the product")
    return _dense(c, c.data(0), _weights(c, 1), transposed=False)


def _gemm(c: Context) -> Value:
    alpha, beta = float(c.attribute("alpha", 1.0)), float(c.attribute("beta", 1.0))
    trans_a, trans_b = c.attribute("transA", 0), c.attribute("transB", 0)
    if trans_a:
        raise c.error("transA must be 0: it would move the batch axis")
    x = c.data(0)
    if len(c.shape(c.operand(0))) != 1:
        raise c.error(f"the operand must have shape [batch, n], not [batch, {', '.join(map(str, c.shape(c.operand(0))))}]")
    y = _dense(c, x, _weights(c, 1), bool(trans_b))
    if alpha != 1:
        y = c.add(Scale(np.float64(alpha)), y.index, suffix=".alpha")
    if not c.given(2) or beta == 0:
        return y
    if isinstance(c.operand(2), Ref):
        scaled = c.data(2) if beta == 1 else c.add(Scale(np.float64(beta)), c.data(2), suffix=".beta").index
        return c.add(Add(), y.index, scaled, suffix=".bias")
    return c.add(Offset(beta * c.event(c.floats(2, "the bias"), 1)), y.index, suffix=".bias")


def _batch_normalization(c: Context) -> Value:
    epsilon = float(c.attribute("epsilon", 1e-5))
    c.attribute("momentum", 0.9)                 # only moves the statistics while training
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
        lo, hi = (c.scalar(k, what) if c.given(k) else None for k, what in ((1, "the lower limit"), (2, "the upper limit")))
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
    return c.add(Leaky(np.float64(np.float32(c.attribute("alpha", 0.01)))), c.data(0))


def _prelu(c: Context) -> Value:
    x = c.data(0)
    return c.add(Leaky(c.event(c.floats(1, "the slope"), len(c.shape(c.operand(0))))), x)


def _softmax(c: Context) -> Value:
    default = -1 if c.opset >= 13 else 1
    axis, rank = c.attribute("axis", default), len(c.shape(c.operand(0)))
    if c.opset < 13 and c.axis(axis, rank) != rank - 1:
        raise c.error("before opset 13 only the last axis has today's meaning", "export with opset 13 or newer")
    return c.add(Softmax(c.axis(axis, rank)), c.data(0))


# ---- layout -----------------------------------------------------------------------------------------------------------


def _resolved(c: Context, wanted: Sequence[int], size: int, batched: bool) -> tuple[int, ...]:
    """A reshape target without the batch axis."""
    target = [int(n) for n in wanted]
    if batched:
        if not target:
            raise c.error("cannot drop the batch axis")
        rest = target[1:]
        known = math.prod(n for n in rest if n != -1)
        whole = -1 not in rest and known == size      # then the first axis can only be the batch, whatever its number
        if not (whole or target[0] in (-1, 0, 1)) or target.count(-1) > 1 and target[0] != -1:
            raise c.error(f"the target {target} must keep the batch axis in front")
        if -1 not in rest:
            return tuple(rest)
        if not known or size % known:
            raise c.error(f"{size} values cannot take the shape {target}")
        return tuple(size // known if n == -1 else n for n in rest)
    return tuple(target)


def _reshape(c: Context) -> Value:
    allow_zero = c.attribute("allowzero", 0)
    wanted = [int(n) for n in c.constant(1, "the shape").values.reshape(-1)]
    x = c.operand(0)
    if isinstance(x, Const):
        return Const(x.values.reshape([x.values.shape[k] if n == 0 and not allow_zero else n for k, n in enumerate(wanted)]))
    shape = c.shape(x)
    if not allow_zero:
        wanted = wanted[:1] + [shape[k] if n == 0 and k < len(shape) else n for k, n in enumerate(wanted[1:])]
    return c.add(Reshape(_resolved(c, wanted, math.prod(shape), True)), x.index)


def _shape_of(c: Context) -> Value:
    """The shape as a constant, with -1 for the batch axis, as a reshape wants it back."""
    x = c.operand(0)
    full = x.values.shape if isinstance(x, Const) else (-1, *c.shape(x))
    return Const(np.array(full[c.attribute("start", 0):c.attribute("end", None)], np.int64))


def _flatten(c: Context) -> Value:
    axis = c.attribute("axis", 1)
    shape = c.shape(c.operand(0))
    if axis % (len(shape) + 1) != 1 and not (axis == 1):
        raise c.error(f"axis must be 1, which keeps the batch axis, not {axis}")
    return c.add(Reshape((math.prod(shape),)), c.data(0))


def _transpose(c: Context) -> Value:
    x = c.operand(0)
    rank = len(c.shape(x))
    if isinstance(x, Const):
        axes = c.attribute("perm", list(range(rank))[::-1])

        def turn(a: Any) -> Any:
            return a.transpose(axes) if a is not None and a.ndim == rank else a
        return Const(turn(x.values), turn(x.ints), turn(np.broadcast_to(x.scale, x.values.shape)) if x.scale is not None else None)
    axes = list(c.attribute("perm", list(range(rank + 1))[::-1]))
    if not axes or axes[0] != 0 or sorted(axes) != list(range(rank + 1)):
        raise c.error(f"perm must keep the batch axis first, not {axes}")
    return c.add(Transpose(tuple(a - 1 for a in axes[1:])), x.index)


def _axes(c: Context) -> list[int] | None:
    if c.opset < 13:
        found = c.attribute("axes", None)
        return None if found is None else [int(a) for a in found]
    return [int(a) for a in c.constant(1, "axes").values.reshape(-1)] if c.given(1) else None


def _squeeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if isinstance(x, Const):
        return Const(np.squeeze(x.values, None if axes is None else tuple(axes)))
    shape = c.shape(x)
    drop = [k for k, n in enumerate(shape) if n == 1] if axes is None else [c.axis(a, len(shape)) for a in axes]
    if any(shape[k] != 1 for k in drop):
        raise c.error(f"only axes of length 1 can be squeezed, not {axes} of shape {list(shape)}")
    return c.add(Reshape(tuple(n for k, n in enumerate(shape) if k not in drop)), x.index)


def _unsqueeze(c: Context) -> Value:
    axes, x = _axes(c), c.operand(0)
    if axes is None:
        raise c.error("axes are missing")
    if isinstance(x, Const):
        return Const(np.expand_dims(x.values, tuple(axes)))
    shape = list(c.shape(x))
    rank = len(shape) + len(axes)
    for k in sorted(c.axis(a, rank) for a in axes):
        shape.insert(k, 1)
    return c.add(Reshape(tuple(shape)), x.index)


def _concat(c: Context) -> Value:
    axis = c.attribute("axis", None)
    if axis is None:
        raise c.error("attribute 'axis' is missing")
    if _both_constant(c):
        return Const(np.concatenate([c.constant(k, "operand").values for k in range(len(c.inputs))], axis=axis))
    refs = [c.data(k) for k in range(len(c.inputs))]
    return c.add(Concat(c.axis(axis, len(c.shape(c.operand(0))))), *refs)


def _identity(c: Context) -> Value:
    return c.operand(0)


def _dropout(c: Context) -> Value:
    c.attribute("seed", 0)
    c.attribute("ratio", 0.5)
    if c.given(2) and c.scalar(2, "training_mode"):
        raise c.error("must be exported for inference, not with training_mode 1")
    return c.operand(0)


def _constant(c: Context) -> Value:
    kinds = {"value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    found = [(k, v) for k in kinds if (v := c.attribute(k, None)) is not None]
    if len(found) != 1:
        raise c.error(f"must have exactly one of {', '.join(kinds)}")
    key, value = found[0]
    return Const(np.asarray(value, kinds[key]) if kinds[key] else np.asarray(value))


def _cast(c: Context) -> Value:
    target = c.attribute("to", None)
    c.attribute("saturate", 1)
    c.attribute("round_mode", "up")
    names = {1: np.float32, 11: np.float64, 10: np.float16, 6: np.int32, 7: np.int64, 2: np.uint8, 3: np.int8, 4: np.uint16,
             5: np.int16, 9: np.bool_}
    if target not in names:
        raise c.error(f"a cast to ONNX type {target} is not supported")
    x = c.operand(0)
    if isinstance(x, Const):
        return Const(x.values.astype(names[target]), x.ints, x.scale)
    if target not in (1, 11):
        raise c.error(f"data may be cast to float32 or float64 only, not to {np.dtype(names[target])}", "use a quantizer instead")
    return x


# ---- quantizers -------------------------------------------------------------------------------------------------------

_ROUNDING = {
    "ROUND": Rounding.RND_CONV, "HALF_EVEN": Rounding.RND_CONV, "FLOOR": Rounding.TRN, "DOWN": Rounding.TRN_ZERO,
    "ROUND_TO_ZERO": Rounding.TRN_ZERO, "HALF_UP": Rounding.RND_INF, "HALF_DOWN": Rounding.RND_ZERO,
}
"""QONNX's names (its HALF_UP is away from zero, its HALF_DOWN towards zero)."""


def _rounding(c: Context, default: str = "ROUND") -> Rounding:
    mode = str(c.attribute("rounding_mode", default)).upper()
    if mode not in _ROUNDING:
        raise c.error(f"rounding_mode must be one of {', '.join(_ROUNDING)}, not '{mode}'")
    return _ROUNDING[mode]


def _scale(c: Context, k: int) -> NDArray[np.float64]:
    scale = c.floats(k, "the scale")
    if np.any(scale <= 0):
        raise c.error(f"the scale must be positive, not {scale.min():g}")
    return scale


def _whole(c: Context, k: int, what: str) -> NDArray[np.int64]:
    values = c.floats(k, what)
    if np.any(values != np.round(values)):
        raise c.error(f"{what} must be whole, not {values.reshape(-1)[0]:g}")
    return values.astype(np.int64)


def _bits(c: Context, k: int, what: str = "the bit width") -> int:
    values = _whole(c, k, what).reshape(-1)
    if values.size != 1 or not 1 <= values[0] <= 62:
        raise c.error(f"{what} must be one number from 1 to 62, not {values.tolist()}")
    return int(values[0])


def _apply_quant(c: Context, op: Quant) -> Value:
    """A quantizer of data, or of a constant, which then keeps its integers."""
    x = c.operand(0)
    if isinstance(x, Const):
        c.constant(0, "weights")
        # In float32, as the exporting framework rounds its weights.
        steps = x.values.astype(np.float32) / op.scale.astype(np.float32)
        ints = (quantized(Quant(np.float64(1), op.zero, op.lo, op.hi, op.rounding), steps.astype(np.float64)) - op.zero).astype(np.int64)
        return Const(ints * op.scale, ints, np.asarray(op.scale))
    rank = len(c.shape(x))
    return c.add(Quant(c.event(op.scale, rank), c.event(op.zero, rank), op.lo, op.hi, op.rounding), x.index)


def _quant(c: Context) -> Value:
    signed, narrow = bool(c.attribute("signed", 1)), bool(c.attribute("narrow", 1 if c.node.op_type == "IntQuant" else 0))
    rounding, scale, zero, bits = _rounding(c), _scale(c, 1), _whole(c, 2, "the zero point"), _bits(c, 3)
    if bits == 1 and signed:  # QONNX defines one signed bit as -1 or +1
        return _apply_bipolar(c, scale)
    lo = (-(1 << (bits - 1)) + narrow) if signed else 0
    hi = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - narrow
    return _apply_quant(c, Quant(scale, zero, lo, hi, rounding))


def _apply_bipolar(c: Context, scale: NDArray[np.float64]) -> Value:
    x = c.operand(0)
    if isinstance(x, Const):
        ints = np.where(c.constant(0, "weights").values >= 0, 1, -1).astype(np.int64)
        return Const(ints * scale, ints, scale)
    return c.add(Bipolar(c.event(scale, len(c.shape(x)))), x.index)


def _bipolar(c: Context) -> Value:
    return _apply_bipolar(c, _scale(c, 1))


def _trunc(c: Context) -> Value:
    """QONNX Trunc: back to integers, drop low bits, and scale again (version 1 keeps the scale, version 2 has its own)."""
    scale, zero, bits_in = _scale(c, 1), _whole(c, 2, "the zero point"), _bits(c, 3, "the input bit width")
    rounding = _rounding(c, "FLOOR")
    second = len(c.inputs) == 6
    signed, narrow = bool(c.attribute("signed", 1)), bool(c.attribute("narrow", 0))
    bits_out = _bits(c, 5 if second else 4, "the output bit width")
    out_scale = _scale(c, 4) if second else scale
    ratio = np.log2(out_scale / scale) if second else np.asarray(float(bits_in - bits_out))
    if np.any(zero) or ratio.size != 1 or np.any(ratio < 0) or scale.size != 1:
        raise c.error("Trunc needs one scale, no zero point, and at least as many input as output bits")
    factor = 2.0 ** float(np.round(ratio.reshape(())))
    x = c.data(0)
    limit = 1 << 61
    lo, hi = -limit, limit - 1
    if second:
        lo = (-(1 << (bits_out - 1)) + narrow) if signed else 0
        hi = (1 << (bits_out - 1)) - 1 if signed else (1 << bits_out) - 1 - narrow
    zero_point = np.zeros((), np.int64)
    whole = c.add(Quant(scale.reshape(()), zero_point, -limit, limit - 1, Rounding.RND_CONV), x, suffix=".int")
    cut = c.add(Quant(scale.reshape(()) * factor, zero_point, lo, hi, rounding), whole.index, suffix=".cut")
    rescale = out_scale.reshape(()) / (scale.reshape(()) * factor)
    return cut if rescale == 1 else c.add(Scale(rescale), cut.index)


_INTEGER_RANGE = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127), np.dtype(np.uint16): (0, 65535),
                  np.dtype(np.int16): (-32768, 32767)}


def _channels(c: Context, values: NDArray[Any], x: Value, axis: int) -> NDArray[Any]:
    """A per-channel parameter shaped to broadcast against the (batched) operand."""
    if values.size == 1:
        return values.reshape(())
    rank = len(c.shape(x)) + isinstance(x, Ref)
    if values.ndim != 1 or not -rank <= axis < rank:
        raise c.error(f"a per-axis scale must have one axis, not shape {list(values.shape)}, and axis {axis} must exist")
    return values.reshape([-1 if k == axis % rank else 1 for k in range(rank)])


def _quantize_linear(c: Context) -> Value:
    axis = c.attribute("axis", 1)
    c.attribute("saturate", 1)                   # only for float8 targets, refused below
    if c.attribute("block_size", 0) or c.attribute("precision", 0) not in (0, 1):
        raise c.error("blocked quantization is not supported", "use one scale per tensor or axis")
    wanted = c.attribute("output_dtype", 0)
    if c.given(2):
        zero = c.constant(2, "the zero point").values
    else:
        zero = np.zeros((), {0: np.uint8, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}.get(wanted, np.float32))
    if zero.dtype not in _INTEGER_RANGE:
        raise c.error(f"the target type must be int8, uint8, int16 or uint16, not {zero.dtype}")
    lo, hi = _INTEGER_RANGE[zero.dtype]
    x = c.operand(0)
    scale = _channels(c, _scale(c, 1), x, axis)
    point = _channels(c, zero.astype(np.int64), x, axis)
    if isinstance(x, Ref):
        scale, point = (c.event(v, len(c.shape(x))) for v in (scale, point))
    # The standard adds the zero point behind the rounding, so it only moves the limits.
    result = _apply_quant(c, Quant(scale, np.zeros((), np.int64), lo - point, hi - point, Rounding.RND_CONV))
    if isinstance(result, Const):
        assert result.ints is not None
        return Const((result.ints + point).astype(zero.dtype))
    return Ref(result.index, Codes(scale, point))


def _dequantize_linear(c: Context) -> Value:
    """The value already carries its scale since QuantizeLinear; stored integer weights get it here."""
    axis = c.attribute("axis", 1)
    if c.attribute("block_size", 0) or c.attribute("output_dtype", 0) not in (0, 1):
        raise c.error("blocked quantization and other types than float32 are not supported")
    x = c.operand(0)
    scale = _channels(c, _scale(c, 1), x, axis)
    zero = _channels(c, _whole(c, 2, "the zero point"), x, axis) if c.given(2) else np.zeros((), np.int64)
    if isinstance(x, Ref):
        rank = len(c.shape(x))
        same = x.codes is not None and np.array_equal(x.codes.scale, c.event(scale, rank)) \
            and np.array_equal(x.codes.zero, c.event(zero, rank))
        if not same:
            raise c.error("must have the scale and zero point of the QuantizeLinear before it")
        return Ref(x.index)
    ints = c.constant(0, "weights").values.astype(np.int64) - zero
    return Const(ints * scale, ints, np.asarray(scale))


OPERATORS: dict[str, Callable[[Context], Value]] = {
    "MatMul": _matmul, "Gemm": _gemm, "BatchNormalization": _batch_normalization,
    "Add": _binary(np.add, Add(), lambda c, v, flipped: Offset(v)),
    "Sub": _binary(np.subtract, Sub(), lambda c, v, flipped: Offset(v if flipped else -v)),
    "Mul": _binary(np.multiply, Mul(), lambda c, v, flipped: Scale(v)),
    "Div": _divide,
    "Relu": lambda c: c.add(Clip(0.0, None), c.data(0)),
    "LeakyRelu": _leaky, "PRelu": _prelu, "Clip": _clip,
    "Sigmoid": lambda c: c.add(Function("sigmoid"), c.data(0)),
    "Tanh": lambda c: c.add(Function("tanh"), c.data(0)),
    "Softmax": _softmax,
    "Flatten": _flatten, "Shape": _shape_of, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": _concat, "Identity": _identity, "Dropout": _dropout, "Constant": _constant, "Cast": _cast,
    "Quant": _quant, "IntQuant": _quant, "BipolarQuant": _bipolar, "Trunc": _trunc,
    "QuantizeLinear": _quantize_linear, "DequantizeLinear": _dequantize_linear,
}
"""Every supported operator and the function that reads it."""
