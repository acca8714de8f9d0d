"""Quantizers of HGQ2 as real ops, for data and for weights: their configuration and stored bit widths. Knows no layer.

The numbers are those at inference, and equal the framework's float32 bit for bit up to 2**23 steps, but for one float32: that just
below half a step, which its RND carries up. With a `scaler` or an `affine` that is no power of two its results differ from
the exact ones by float32 rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import CompileError
from ..ir.rounding import Overflow, Rounding
from .keras_context import Config, Layer, Weight, class_and_config
from .keras_files import Weights
from .real import Float, Function, Offset, Quant, RealOp, Scale, quantized

__all__ = ["HgqLayer", "in_single", "stored_group"]

_MAX_BITS = 60
_ROUNDINGS = {prefix + mode.value: mode for prefix in ("", "S_") for mode in Rounding}
"""Stochastic rounding is for training; at inference its mode is the plain one."""

_VARIABLES = {
    ("kif", True): ("f", "k", "i", "i_decay_speed"),
    ("kif", False): ("i", "f", "k"),
    ("kbi", True): ("b", "k", "i", "i_decay_speed"),
    ("kbi", False): ("b", "i", "k"),
}
"""A quantizer's variables in the file, by parametrization and whether it wraps: trainable ones first."""

_TRAINING = (
    "place", "qnoise_factor", "k0", "b0", "i0", "f0", "bc", "ic", "fc", "br", "ir", "fr", "i_decay_speed",
    "homogeneous_axis", "heterogeneous_axis",
)  # fmt: skip
"""Keys about training and about the first values and shapes of variables, which the file has."""

_SHORTHANDS: dict[str, dict[str, Any]] = {
    "QuantizerConfig": {},
    "HardTanhConfig": {"overflow_mode": "SAT", "affine": None},
    "HardSigmoidConfig": {"overflow_mode": "SAT", "affine": [0.25, 0.5]},
}
"""Configurations and what those leave out of the file, as the framework fills it in when it loads them."""

Bits = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Quantizer:
    """``a * quant(x) + b`` with `affine` ``(a, b)``; `quant` None passes through. Arrays have the axes of the bit widths."""

    quant: Quant | None
    affine: tuple[float, float] | None
    scaler: float
    shape: tuple[int, ...] = ()  # of the bit widths in the file
    only_rounds: bool = False  # a weight's own quantizer that wraps never does: its integer bits follow the weights


def stored_group(weights: Weights, *path: str) -> Weights | None:
    """The part of a file at a path of names, or None where there is nothing."""
    found = weights
    for name in path:
        if not found.tree or not isinstance(found.tree.get(name), dict):
            return None
        found = found.child(name)
    return found


def _bits(where: str, role: str, values: NDArray[Any]) -> Bits:
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all() or np.abs(values).max(initial=0) > _MAX_BITS:
        raise CompileError(
            where, f"the variable '{role}' must hold widths of at most {_MAX_BITS} bits", "save it again"
        )
    return np.round(values.astype(np.float64)).astype(np.int64)


def _steps(where: str, kind: str, wraps: bool, stored: Weights) -> tuple[Bits, Bits, Bits]:
    """(1 where the sign is kept, the width without sign, fraction bits), of one shape."""
    roles = _VARIABLES[kind, wraps]
    found = dict(zip(roles, stored.take(where, roles)))
    if any(found[r].shape != found["k"].shape for r in ("i", *("bf" if kind == "kif" else "b")) if r in found):
        raise CompileError(where, "its variables must have one shape", "save the model again")
    if found["k"].dtype.kind not in "ub" or (found["k"] > 1).any():
        raise CompileError(where, "its variable 'k' must be 0 or 1 and of an unsigned type", "save the model again")
    k, i = _bits(where, "k", found["k"]), _bits(where, "i", found["i"])
    if kind == "kif":
        f = _bits(where, "f", found["f"])
        return k, i + f, f
    b = _bits(where, "b", found["b"])
    return k, b, b - i


def _quant(where: str, k: Bits, width: Bits, f: Bits, rounding: Rounding, overflow: str, scaler: float) -> Quant:
    """The op; where there are no bits, the result is 0 (and with a sign alone, one negative step or 0)."""
    empty = k + width <= 0
    if width.max(initial=0) > _MAX_BITS or np.abs(f).max(initial=0) > _MAX_BITS:
        raise CompileError(where, f"must have at most {_MAX_BITS} bits", "limit the widths with ic, fc or bc")
    steps = np.int64(1) << np.maximum(width, 0)
    hi = np.where(empty, 0, steps - 1)
    lo = np.where(empty, 0, -k * (hi if overflow == "SAT_SYM" else steps))
    if (~empty).any():  # a grid without points may as well be another element's
        f = np.where(empty, f[~empty].flat[0], f)
    scale, lo, hi = (_plain(v) for v in (np.ldexp(scaler, -f), lo, hi))
    mode = Overflow.WRAP if overflow == "WRAP" else Overflow.SAT
    return Quant(scale, np.zeros((), np.int64), lo, hi, rounding, mode)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """One number where all are equal."""
    return values.reshape(-1)[0] if values.size and (values == values.reshape(-1)[0]).all() else values


def in_single(op: RealOp) -> RealOp:
    """A function as the framework computes it: in float32."""
    return replace(op, single=True) if isinstance(op, Function) else op


class HgqLayer(Layer):
    """A layer of HGQ2: its quantizers are keys ``NAME_conf`` and groups NAME of variables.

    Functions are float32 ones, as the framework computes them.
    """

    def __init__(self, c: Layer, kind: str | None = None, inputs: list[int] | None = None) -> None:
        self.__dict__.update(c.__dict__)
        self.kind = kind or c.kind
        self.inputs = c.inputs if inputs is None else inputs

    def add(self, op: RealOp, *operands: int, suffix: str = "", group: str = "") -> int:
        return super().add(in_single(op), *operands, suffix=suffix, group=group)

    def own(self, *roles: str, later: tuple[str, ...] = ()) -> list[Float]:
        """The layer's variables; those of the cost model (beta, ebops) lie between `roles` and `later`."""
        cost = ("beta", "ebops") if self.flag("enable_ebops", True) else ()
        found = self.variables(*roles, *cost, *later)
        return [*found[: len(roles)], *found[len(roles) + len(cost) :]]

    def ignore_costs(self) -> None:
        """Keys of the cost model."""
        self.ignore("enable_ebops", "ebops_factor", "beta0", "parallelization_factor")

    def data(self, name: str, x: int, at: tuple[str, ...] = (), fixed: dict[str, Any] | None = None) -> int:
        """Node x through the quantizer `name`, whose variables are in the group `at`; `fixed`: values that the layer sets."""
        stored = stored_group(self.weights, *(at or (name,)))
        return self.through(f"{name}_conf", self.get(f"{name}_conf"), x, stored, f".{name}", fixed)

    def through(
        self, key: str, spec: Any, x: int, stored: Weights | None, suffix: str, fixed: dict[str, Any] | None = None
    ) -> int:
        """Node x through the quantizer that `spec`, found under `key`, and the variables describe."""
        q = self._quantizer(key, spec, stored, fixed)
        if q.quant is not None:
            shape = self.shape(x)
            inner = suffix if q.affine is None else f"{suffix}.steps"
            x = self.add(_of_event(f"{self.where}: {key}", q, q.quant, shape), x, suffix=inner)
        if q.affine is None:
            return x
        x = self.add(Scale(np.asarray(q.affine[0])), x, suffix=f"{suffix}.scale")
        return self.add(Offset(np.asarray(q.affine[1])), x, suffix=suffix)

    def weight(self, name: str, values: Float) -> Weight:
        """Weights through the quantizer `name`."""
        q = self._quantizer(f"{name}_conf", self.get(f"{name}_conf"), stored_group(self.weights, name), None)
        ints, scale = None, None
        if q.quant is not None:
            _check_fits(f"{self.where}: {name}_conf", q.shape, values.shape)
            x = (values.astype(np.float32) / np.float32(q.scaler)).astype(np.float64) * q.scaler
            ints = quantized(q.quant, x).astype(np.int64)
            scale = np.broadcast_to(np.asarray(q.quant.scale), values.shape)
            values = ints * scale
        if q.affine is None:
            return Weight(values, ints, scale)
        a, b = (np.float32(v) for v in q.affine)
        return Weight((values.astype(np.float32) * a + b).astype(np.float64))

    def result(self, y: int) -> int:
        """The layer's result through the output quantizer, if it has one."""
        self.ignore_costs()
        if self.flag("enable_oq", False):
            return self.data("oq", y)
        self.ignore("oq_conf")
        return y

    def entry(self) -> int:
        """The only operand through the input quantizer, if the layer has one."""
        if self.flag("enable_iq", True):
            return self.data("iq", self.x)
        self.ignore("iq_conf")
        return self.x

    def _quantizer(self, key: str, spec: Any, stored: Weights | None, fixed: dict[str, Any] | None) -> _Quantizer:
        where = f"{self.where}: {key}"
        kind, values = class_and_config(where, spec)
        kind = kind.split(">")[-1]
        if kind not in _SHORTHANDS:
            raise CompileError(where, f"must be one of {', '.join(_SHORTHANDS)}, not '{kind}'", "save the model again")
        q = Config(where, {**_SHORTHANDS[kind], **values, **(fixed or {})})
        found = _read(q, None if stored is None else stored_group(stored, "quantizer"))
        if found.only_rounds and not self.flag("trainable", True):
            rule = "a WRAP quantizer of frozen weights wraps before the model is saved and not after"
            raise q.error(rule, "set trainable to true, or use SAT for weights")
        return found


def _check_fits(where: str, given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """The shape of bit widths broadcasts to that of what is quantized."""
    if len(given) > len(shape) or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1])):
        raise CompileError(where, f"its bit widths {list(given)} do not fit the shape {list(shape)}", "save it again")


def _of_event(where: str, q: _Quantizer, op: Quant, shape: tuple[int, ...]) -> Quant:
    """The op with arrays for one event: without their batch axis, which must have length 1."""
    if q.shape[:1] != (1,):
        raise CompileError(where, f"its bit widths {list(q.shape)} must be the same for all events", "save it again")
    _check_fits(where, q.shape[1:], shape)

    def cut(values: Any) -> Any:
        return values if np.ndim(values) == 0 else values[0]

    return replace(op, scale=cut(op.scale), lo=cut(op.lo), hi=cut(op.hi))


def _mode(q: Config, key: str, known: list[str]) -> str:
    found = str(q.get(key)).upper()
    if found not in known:
        raise q.error(f"{key} must be one of {', '.join(known)}, not {q.get(key)!r}")
    return found


def _read(q: Config, stored: Weights | None) -> _Quantizer:
    """A quantizer's configuration with its variables."""
    kind = q.get("q_type")
    if kind == "float":
        rule = "a float quantizer has no fixed-point grid"
        raise q.error(rule, "train with q_type kbi or kif")
    if kind not in ("kbi", "kif", "dummy"):
        raise q.error(f"q_type must be kbi, kif or dummy, not {kind!r}")
    scaler = 1.0 if q.get("scaler") is None else q.float32("scaler", q.get("scaler"))
    affine = q.get("affine")
    if affine is not None:
        if not isinstance(affine, list | tuple) or len(affine) != 2:
            raise q.error(f"affine must be two numbers, not {affine!r}")
        affine = (q.float32("affine", affine[0]), q.float32("affine", affine[1]))
    if scaler <= 0 or (affine is not None and affine[0] == 0):
        raise q.error("scaler must be positive and the factor of affine not 0")
    q.ignore(*_TRAINING)
    if kind == "dummy":
        q.ignore("round_mode", "overflow_mode", "bw_mapper", "trainable", "is_weight")
        q.finish()
        return _Quantizer(None, affine, scaler)
    mapper = q.get("bw_mapper")
    if mapper is not None and not (
        isinstance(mapper, dict) and str(mapper.get("class_name")).endswith("DefaultBitwidthMapper")
    ):
        raise q.error("bw_mapper must be the default one", "train without a mapper of your own")
    mode = _ROUNDINGS[_mode(q, "round_mode", [*_ROUNDINGS])]
    overflow = _mode(q, "overflow_mode", ["WRAP", "SAT", "SAT_SYM"])
    wraps = overflow == "WRAP"
    weight = q.flag("is_weight", False) and q.flag("trainable", True)
    q.flag("trainable", True)
    q.finish()
    if stored is None:
        raise q.error("its bit widths must be in the file", "save the model after it was built")
    only_rounds = wraps and weight and (kind == "kif" or mode is Rounding.RND)
    k, width, f = _steps(q.where, str(kind), wraps, stored)
    if only_rounds:
        far = 1 << _MAX_BITS
        op = Quant(np.ldexp(scaler, -f), np.zeros((), np.int64), -far, far, mode)
    else:
        op = _quant(q.where, k, width, f, mode, overflow, scaler)
    return _Quantizer(op, affine, scaler, k.shape, only_rounds)
