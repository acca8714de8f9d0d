"""Small ONNX models for tests, and the standard's own evaluation of them with QONNX's operators added."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

QONNX = "qonnx.custom_op.general"
ROUND = {
    "ROUND": np.round,
    "FLOOR": np.floor,
    "DOWN": np.trunc,
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}


class Quant(OpRun):
    op_domain = QONNX

    def _run(self, x, scale, zero, bits, signed=1, narrow=0, rounding_mode="ROUND"):
        y = x / scale + zero
        if bits == 1 and signed:
            return (((np.where(y >= 0, 1, -1) - zero) * scale).astype(np.float32),)
        hi = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        lo = -(2 ** (bits - 1)) + narrow if signed else 0
        return (((ROUND[rounding_mode](np.clip(y, lo, hi)) - zero) * scale).astype(np.float32),)


class BipolarQuant(OpRun):
    op_domain = QONNX

    def _run(self, x, scale):
        return ((np.where(x >= 0, 1, -1) * scale).astype(np.float32),)


class Trunc(OpRun):
    op_domain = QONNX

    def _run(self, x, scale, zero, bits_in, *rest, rounding_mode="FLOOR", signed=1, narrow=0):
        y = np.round(x / scale + zero)
        if len(rest) == 1:  # version 1 keeps the scale
            y = ROUND[rounding_mode](y / 2.0 ** (bits_in - rest[0]))
            return (((y - zero) * scale).astype(np.float32),)
        out_scale, bits_out = rest
        y = y / 2.0 ** np.round(np.log2(out_scale / scale))
        hi = 2 ** (bits_out - 1) - 1 if signed else 2**bits_out - 1
        y = np.clip(y, -(2 ** (bits_out - 1)) + narrow if signed else 0, hi)
        return ((ROUND[rounding_mode](y) * out_scale).astype(np.float32),)


class Net:
    """An ONNX graph built call by call; `x` is the input, every call returns the name of its result."""

    def __init__(self, shape, opset=20):
        self.nodes, self.constants, self.opset = [], [], opset
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])]
        self.count = 0

    def const(self, values, dtype=np.float32):
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{self.count}"))
        return f"c{self.count}"

    def op(self, kind, *inputs, domain="", **attributes):
        self.count += 1
        out = f"{kind.lower()}{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, domain=domain, **attributes))
        return out

    def quant(self, x, scale=0.25, bits=8, zero=0, **attributes):
        settings = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attributes}
        return self.op("Quant", x, self.const(scale), self.const(zero), self.const(bits), domain=QONNX, **settings)

    def model(self, *outputs):
        infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(QONNX, 2)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def standard(model: onnx.ModelProto, x, *replaced):
    """The outputs of the standard's reference implementation, with some operators `replaced`."""
    return ReferenceEvaluator(model, new_ops=[Quant, BipolarQuant, Trunc, *replaced]).run(
        None, {"x": x.astype(np.float32)}
    )
