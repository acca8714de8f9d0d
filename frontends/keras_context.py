"""What a Keras layer's reader works with: its configuration, operands and variables. Knows no layer and no quantizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from .keras_files import Weights
from .real import Dense, Float, RealBuilder, RealOp

__all__ = ["Config", "Layer", "Weight", "class_and_config"]

_BOOKKEEPING = frozenset((
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "batch_size", "sparse", "ragged", "optional",
    "autocast", "activity_regularizer", "input_dim", "input_length", "quantization_config", "build_config",
    "kernel_range", "bias_range", "depthwise_range", "pointwise_range", "beta_range", "gamma_range",
))  # fmt: skip
"""Keys that any layer may have and that change no number at inference; some are checked by `Layer`."""

_TRAINING = ("_initializer", "_regularizer", "_constraint")
_FLOATS = ("float32", "float64", "int32", "int64", "int8", "uint8", "int16", "bool")


class Config:
    """A configuration of known keys: every key is read or refused by name."""

    def __init__(self, where: str, values: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        self.where, self.values = where, values
        self._read: dict[str, None] = dict.fromkeys(known)

    def error(self, rule: str, fix: str = "") -> CompileError:
        return CompileError(self.where, rule, fix)

    def get(self, key: str, default: Any = None) -> Any:
        """A value; keys never asked for are refused by `finish`."""
        self._read[key] = None
        return self.values.get(key, default)

    def ignore(self, *keys: str) -> None:
        """Keys that are known to change nothing at inference."""
        self._read.update(dict.fromkeys(keys))

    def must_be(self, key: str, *allowed: Any) -> None:
        """Refuse any other value of a key that may be absent."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise self.error(f"{key} must be {' or '.join(map(repr, allowed))}, not {value!r}")

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise self.error(f"{key} must be true or false, not {value!r}")
        return bool(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise self.error(f"{key} must be a whole number, not {value!r}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        """A number as float32 holds it, since that is what the framework computes with."""
        return self.float32(key, self.get(key, default))

    def float32(self, key: str, value: Any) -> float:
        if isinstance(value, dict) and value.get("class_name") == "__numpy__":  # as Keras stores numpy numbers
            value = np.ravel(value.get("config", {}).get("value", []))
            value = float(value[0]) if value.size == 1 else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.error(f"{key} must be a finite number, not {value!r}")
        return float(np.float32(value))

    def wholes(self, key: str, count: int, default: int | None = None) -> tuple[int, ...]:
        """`count` whole numbers; one number stands for all."""
        value: Any = self.get(key, default)
        found = list(value) if isinstance(value, list | tuple) else [value] * count
        if len(found) != count or not all(isinstance(v, int) and not isinstance(v, bool) for v in found):
            raise self.error(f"{key} must be {count} whole numbers, not {value!r}")
        return tuple(found)

    def choice(self, key: str, default: str, *allowed: str) -> str:
        value = self.get(key, default)
        if value not in allowed:
            raise self.error(f"{key} must be {' or '.join(allowed)}, not {value!r}")
        return value

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        unknown = sorted(k for k in self.values if k not in self._read)
        if unknown:
            known = ", ".join(sorted(self._read)) or "none"
            raise self.error(f"the configuration key '{unknown[0]}' is not known", f"known here: {known}")


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant of a layer. If a quantizer made it, ``values == ints * scale``; the scale broadcasts."""

    values: Float
    ints: NDArray[np.int64] | None = None
    scale: Float | None = None

    def mapped(self, f: Callable[[NDArray[Any]], NDArray[Any]]) -> Weight:
        """Rearranged by `f`, which may fill in zeros."""
        if self.ints is None or self.scale is None:
            return Weight(f(self.values))
        return Weight(f(self.values), f(self.ints), f(np.broadcast_to(self.scale, self.values.shape)))

    def matrix(self) -> Dense:
        """A matrix ``[inputs, outputs]`` as an op; integers are kept where one scale fits each column.

        Powers of two meet on the finest of each column.
        """
        if self.ints is None or self.scale is None:
            return Dense(np.array(self.values))
        scale = np.broadcast_to(self.scale, self.ints.shape)
        used = self.ints != 0
        columns = np.where(used, scale, np.inf).min(axis=0, initial=np.inf)
        columns = np.where(np.isfinite(columns), columns, 1.0)
        if (scale == columns)[used].all():
            return Dense(np.array(self.values), np.array(self.ints), columns)
        steps = self.values / columns
        if (np.frexp(scale[used])[0] != 0.5).any() or np.abs(steps).max() >= 2.0**53:
            return Dense(np.array(self.values))
        return Dense(np.array(self.values), steps.astype(np.int64), columns)


class Layer(Config):
    """One call of a layer: configuration, operands (node indices of the model being built) and variables."""

    def __init__(
        self,
        builder: RealBuilder,
        kind: str,
        config: Mapping[str, Any],
        weights: Weights,
        inputs: Sequence[int],
        version: int,
        prefix: str = "",
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = f"{prefix}{config.get('name', kind)}"
        super().__init__(f"{self.name} ({kind})", config, sorted(_BOOKKEEPING))
        self.builder, self.kind, self.weights, self.inputs = builder, kind, weights, list(inputs)
        self.version, self.call = version, dict(call or {})
        self.positional: list[Any] = []  # of an operation: its arguments, tensors as ("node", index)
        self.ignore(*(k for k in config if k.endswith(_TRAINING)))
        dtype = config.get("dtype")
        name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
        if name not in (None, *_FLOATS):
            raise self.error(f"the data type must be float32, not {name!r}", "save the model with float32 layers")
        if config.get("quantization_config") is not None:
            raise self.error("quantization_config must be null", "quantize with QKeras, HGQ2 or Brevitas")

    def inside(self, kind: str, config: Mapping[str, Any], weights: Weights, inputs: Sequence[int]) -> Layer:
        """A layer that this one is made of."""
        return Layer(self.builder, kind, config, weights, inputs, self.version, f"{self.name}.")

    def add(self, op: RealOp, *operands: int, suffix: str = "", group: str = "") -> int:
        """Append a real op named after the layer and return its index."""
        name = f"{self.name}{suffix}"
        group = f"{self.name}{group}" if group else ""
        return self.builder.add(op, *operands, name=name, group=group, layer=(self.name, self.kind))

    def shape(self, i: int) -> tuple[int, ...]:
        return self.builder.nodes[i].shape

    @property
    def x(self) -> int:
        """The only operand."""
        if len(self.inputs) != 1:
            raise self.error(f"takes one input, not {len(self.inputs)}")
        return self.inputs[0]

    def axis(self, axis: Any, rank: int) -> int:
        """An axis as Keras counts it, the batch axis included, to one of the event's."""
        if isinstance(axis, list) and len(axis) == 1:
            axis = axis[0]
        if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis <= rank or axis == 0:
            raise self.error(f"axis must be one of the {rank} axes behind the batch axis, not {axis!r}")
        return axis - 1 if axis > 0 else axis + rank

    def variables(self, *roles: str) -> list[Float]:
        """The layer's variables in the order in which it makes them."""
        found = self.weights.take(self.where, roles)
        for role, v in zip(roles, found):
            if v.dtype.kind == "f" and not np.isfinite(v).all():
                raise self.error(f"the weights '{role}' must be finite, but contain NaN or Inf", "check the training")
        return [np.asarray(v, np.float64) for v in found]

    def shaped(self, role: str, values: Float, shape: Sequence[int]) -> Float:
        """Variables that must have this shape."""
        if values.shape != tuple(shape):
            raise self.error(f"the weights '{role}' must have shape {list(shape)}, not {list(values.shape)}")
        return values


def class_and_config(where: str, spec: Any) -> tuple[str, dict[str, Any]]:
    """(class name, configuration) of a serialized object."""
    if isinstance(spec, dict) and isinstance(spec.get("class_name"), str) and isinstance(spec.get("config"), dict):
        return spec["class_name"], spec["config"]
    raise CompileError(where, f"must be an object with class_name and config, not {str(spec)[:60]!r}", "save it again")
