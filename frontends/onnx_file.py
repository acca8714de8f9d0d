"""ONNX files as data: loading, external weights, attributes and shapes; knows no operator. A file is untrusted input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError

__all__ = ["InputAxes", "attribute_values", "constant_tensors", "input_axes", "load_model"]

_MAX_TENSOR_BYTES = 1 << 31
_MAX_RANK = 8
_INTEGERS = {
    2: (0, 255),
    3: (-128, 127),
    4: (0, 65535),
    5: (-32768, 32767),
    6: None,
    7: None,
    9: (0, 1),
    12: None,
    13: None,
}
"""ONNX element types that are integers or bool, with their limits where those say how wide the data are."""

_NUMBER_TYPES = (0, 1, 10, 11, *_INTEGERS)
"""ONNX element types that are integers or floats; 0 is unspecified."""


def load_model(source: str | Path | bytes | Any) -> tuple[Any, str]:
    """(ModelProto with weights inside, a name) from a path, bytes or a ModelProto."""
    import onnx

    if isinstance(source, onnx.ModelProto):
        model, folder, where, name = source, None, "model", "model"
    elif isinstance(source, bytes):
        model, folder, where, name = _parsed(source, "model"), None, "model", "model"
    elif not isinstance(source, str | Path):
        raise CompileError("model", f"must be a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    else:
        path = Path(source)
        where, name, folder = str(path), path.stem, path.parent
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CompileError(where, "there is no such file", "check the path") from None
        except OSError as e:
            raise CompileError(where, f"cannot be read: {e.strerror or e}", "check the path") from None
        model = _parsed(data, where)
    if not model.graph.node:
        raise CompileError(
            where, "must be an ONNX model with at least one operator", "check that this is the right file"
        )
    tensors = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]
    for tensor in tensors:
        _check_size(tensor, where)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _load_external(tensor, folder, where)
    if model.graph.sparse_initializer:
        raise CompileError(where, "sparse initializers are not supported", "export dense weights")
    return model, name


def _parsed(data: bytes, where: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise CompileError(where, "is not an ONNX file, or it is truncated", "export it again") from None
    if not model.HasField("graph"):
        raise CompileError(where, "is not an ONNX file: it holds no graph", "check that this is the right file")
    return model


def _check_size(tensor: Any, where: str) -> None:
    import onnx

    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > _MAX_RANK:
        raise CompileError(
            f"{where}: {tensor.name}",
            f"a tensor must have at most {_MAX_RANK} axes of known length, not {list(tensor.dims)}",
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        raise CompileError(f"{where}: {tensor.name}", f"ONNX type {tensor.data_type} is not supported") from None
    if math.prod(tensor.dims) * dtype.itemsize >= _MAX_TENSOR_BYTES:
        raise CompileError(
            f"{where}: {tensor.name}", "a tensor must be smaller than 2 GB", "this is no network for a trigger"
        )


def _load_external(tensor: Any, folder: Path | None, where: str) -> None:
    """Fill a tensor from its file, which must lie in the model's own folder."""
    import onnx

    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    what = f"{where}: {tensor.name}"
    if folder is None:
        raise CompileError(
            what, f"its weights are in the external file '{location}'", "give the model's path instead of its bytes"
        )
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder.resolve()):
        raise CompileError(
            what, f"external weights must lie in the model's folder, not at '{location}'", "export the model again"
        )
    size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise CompileError(what, f"external offset and length must be numbers, not {entries}") from None
    if offset < 0 or length != size:
        raise CompileError(what, f"external data must be {size} bytes for shape {list(tensor.dims)}, not {length}")
    try:
        with path.open("rb") as f:
            f.seek(offset)
            data = f.read(length)
    except OSError as e:
        raise CompileError(
            what,
            f"external weights '{location}' cannot be read: {e.strerror or e}",
            "keep the .data file beside the model",
        ) from None
    if len(data) != length:
        raise CompileError(what, f"external weights '{location}' are truncated", "copy the .data file again")
    tensor.raw_data = data
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def constant_tensors(model: Any) -> dict[str, NDArray[Any]]:
    """The initializers as arrays. Raises `CompileError` for stored data that does not fit its shape."""
    return {t.name: _array(t, t.name) for t in model.graph.initializer}


def _array(tensor: Any, where: str) -> NDArray[Any]:
    import onnx

    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as e:
        raise CompileError(
            where, f"its stored data do not fit shape {list(tensor.dims)} ({e})", "export the model again"
        ) from None


@dataclass(frozen=True)
class InputAxes:
    """Shape of an input of one event, where the file has the batch axis, whether that is fixed at one event, and the
    interval of its integers where its type is a narrow integer; `whole`: its type is some integer."""

    shape: tuple[int, ...]
    batch: int
    single: bool
    whole: bool
    limits: tuple[int, int] | None


def input_axes(tensor: Any) -> InputAxes:
    """The axes of a graph input. One may be dynamic, which then is the batch axis; else that is the first."""
    dims = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.type.tensor_type.shape.dim]
    where, kind = f"input {tensor.name}", tensor.type.tensor_type.elem_type
    if not tensor.type.HasField("tensor_type") or not dims:
        raise CompileError(where, "must be a tensor with a batch axis in front")
    if kind not in _NUMBER_TYPES:
        raise CompileError(where, "must be a tensor of numbers", "export it as float32")
    dynamic = [k for k, d in enumerate(dims) if not (isinstance(d, int) and d > 0)]
    if len(dynamic) > 1:
        raise CompileError(
            where, f"only one axis may be dynamic, the batch axis, not {dims}", "export the model with fixed shapes"
        )
    batch = dynamic[0] if dynamic else 0
    shape = [int(d) for k, d in enumerate(dims) if k != batch]
    if math.prod(shape) >= 1 << 24:
        raise CompileError(where, f"at most 2**24 values per event, not {shape}")
    return InputAxes(tuple(shape), batch, dims[batch] == 1, kind in _INTEGERS, _INTEGERS.get(kind))


def attribute_values(node: Any, where: str) -> dict[str, Any]:
    """A node's attributes as Python values; tensors as arrays, text as str."""
    import onnx

    found: dict[str, Any] = {}
    for a in node.attribute:
        if a.type == onnx.AttributeProto.TENSOR:
            found[a.name] = _array(a.t, f"{where}: {a.name}")
        elif a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise CompileError(
                where, f"attribute '{a.name}' holds a subgraph, which is not supported", "export without control flow"
            )
        else:
            value = onnx.helper.get_attribute_value(a)
            found[a.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
                raise CompileError(where, f"attribute '{a.name}' must be finite, not {value}", "export the model again")
    return found
