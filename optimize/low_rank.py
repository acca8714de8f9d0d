"""Low rank: a layer as a chain of smaller ones, where that costs less; trains nothing.

    Pipeline([LowRank(energy=0.95), Train(20)]).run(net, task)                    # singular values with 95 % of the energy
    Pipeline([LowRank(lut=0.7, spec=Spec.uniform(6, 8)), Train(20)])              # 70 % of the LUTs, by the compiler's solver
    Pipeline([LowRank(rank=8, method="spatial", layers=("conv1",)), Train(20)])   # k x 1 and 1 x k

Methods for dense layers: "svd", and "tt", a tensor train over factors of the shape (Novikov et al., arXiv:1509.06569). For
convolutions: "svd", fewer filters and then 1 x 1; "spatial", a column and then a row (Jaderberg et al., arXiv:1405.3866); "tt",
1 x 1, the window, 1 x 1 (as Kim et al., arXiv:1511.06530); "cp", 1 x 1, column and row by channel, 1 x 1 (Lebedev et al.,
arXiv:1412.6553).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .cost import solved
from .formats import Spec
from .layers import Affine, Weighted, hooked, prepare
from .pipeline import Work
from .quantize import quantize
from .task import Task, run

__all__ = ["METHODS", "Candidate", "LowRank", "TensorTrain", "candidates", "cp_als", "factors"]

METHODS = ("svd", "spatial", "tt", "cp")


class TensorTrain(nn.Module):
    """A dense layer ``[events, prod(n)] -> [events, prod(m)]`` as small dense layers between reshapes.

    `cores`: tensors ``[r, m_k, n_k, r']``, whose contraction over the ranks r is the matrix.
    """

    def __init__(self, cores: Sequence[Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.shapes = [tuple(c.shape) for c in cores]
        self.stages = nn.ModuleList()
        for core in cores:
            r, m, n, after = core.shape
            self.stages.append(_dense(core.permute(1, 3, 0, 2).reshape(m * after, r * n)))
        self.shift = None if bias is None else Affine(torch.ones_like(bias), bias.detach(), 0)

    def forward(self, x: Tensor) -> Tensor:
        done, rest = 1, math.prod(s[2] for s in self.shapes)
        for stage, (r, m, n, after) in zip(self.stages, self.shapes):
            rest //= n
            x = x.reshape(-1, done, r * n, rest).transpose(2, 3)
            x = stage(x).reshape(-1, done, rest, m, after).permute(0, 1, 3, 4, 2)
            done *= m
        x = x.reshape(-1, done)
        return x if self.shift is None else self.shift(x)


def _dense(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(layer, weight, bias)


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


# ---- decompositions -----------------------------------------------------------------------------------------------------


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """(left ``[a, rank]``, right ``[rank, b]``, the share of the squares that they hold); both carry the root of the values."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    held = float(s[:rank].square().sum() / s.square().sum().clamp(min=1e-300))
    return (u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float(), held


def cp_als(kernel: Tensor, rank: int, sweeps: int = 60) -> tuple[list[Tensor], float]:
    """Factors ``[size, rank]`` of each axis of a tensor as a sum of `rank` outer products, and the share of the squares they hold.

    Alternating least squares (Carroll & Chang 1970) from the singular vectors of each unfolding; the same kernel gives the same
    factors.
    """
    t = kernel.double()
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for axis, size in enumerate(t.shape):
        u = torch.linalg.svd(t.movedim(axis, 0).reshape(size, -1), full_matrices=False)[0][:, :rank]
        extra = torch.randn(size, rank - u.shape[1], generator=generator, dtype=torch.float64) / math.sqrt(size)
        found.append(torch.cat([u, extra], 1))
    eye = torch.eye(rank, dtype=torch.float64)
    for _ in range(sweeps):
        for axis in range(t.ndim):
            others = [f for k, f in enumerate(found) if k != axis]
            product = others[0]
            for f in others[1:]:
                product = (product[:, None] * f[None]).reshape(-1, rank)
            gram = torch.stack([f.T @ f for f in others]).prod(0)
            right = t.movedim(axis, 0).reshape(t.shape[axis], -1) @ product
            found[axis] = torch.linalg.solve(gram + 1e-9 * gram.trace() / rank * eye, right.T).T
        norms = torch.stack([f.norm(dim=0).clamp(min=1e-30) for f in found])
        even = norms.prod(0) ** (1 / t.ndim)
        found = [f / n * even for f, n in zip(found, norms)]
    letters = "abcdefg"[: t.ndim]
    whole = torch.einsum(",".join(f"{c}z" for c in letters) + "->" + letters, *found)
    held = 1 - float((whole - t).square().sum() / t.square().sum().clamp(min=1e-300))
    return [f.float() for f in found], held


def factors(n: int, parts: int) -> tuple[int, ...]:
    """`n` as a product of `parts` numbers, as equal as can be."""
    found = list[int]()
    for k in range(parts, 1, -1):
        best = min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(math.log(d) - math.log(n) / k))
        found.append(best)
        n //= best
    return (*found, n)


def _tensor_train(weight: Tensor, rank: int, parts: int) -> tuple[list[Tensor], float]:
    """Cores of a matrix ``[out, in]`` with ranks up to `rank`, by singular values from the left (Oseledets 2011)."""
    m, n = factors(weight.shape[0], parts), factors(weight.shape[1], parts)
    order = [i for k in range(parts) for i in (k, parts + k)]
    rest, r, cores = weight.reshape(*m, *n).permute(order).double(), 1, list[Tensor]()
    for k in range(parts - 1):
        left, right, _ = _svd(rest.reshape(r * m[k] * n[k], -1), rank)
        cores.append(left.reshape(r, m[k], n[k], -1))
        rest, r = right.double(), left.shape[1]
    cores.append(rest.float().reshape(r, m[-1], n[-1], 1))
    whole = cores[0].double()
    for core in cores[1:]:
        whole = torch.tensordot(whole, core.double(), 1)
    whole = (
        whole.squeeze(0).squeeze(-1).permute([*range(0, 2 * parts, 2), *range(1, 2 * parts, 2)]).reshape(weight.shape)
    )
    return cores, 1 - float((whole - weight).square().sum() / weight.square().sum().clamp(min=1e-300))


# ---- layers as chains -----------------------------------------------------------------------------------------------------

_GEOMETRY = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def _conv(c: Any, weight: Tensor, axes: Sequence[int], bias: Tensor | None = None, by_channel: bool = False) -> Any:
    """A convolution with the window of `c` along `axes`, and 1 along the others; `weight` in any shape of its elements."""
    pick = {n: tuple(v if k in axes else d for k, v in enumerate(getattr(c, n))) for n, d in _GEOMETRY.items()}
    outs = weight.shape[0]
    ins = outs if by_channel else weight.numel() // outs // math.prod(pick["kernel_size"])
    kind: Any = nn.Conv1d if c.weight.ndim == 3 else nn.Conv2d
    return _filled(kind(ins, outs, groups=outs if by_channel else 1, bias=bias is not None, **pick), weight, bias)


def _chain(layer: Any, method: str, rank: int, parts: int) -> tuple[nn.Module, float]:
    """The layer as a chain of float layers, and the share of its weights' squares that it holds."""
    w = layer.masked_weight().detach()
    b = None if layer.bias is None else layer.bias.detach()
    if w.ndim == 2:
        if method == "tt":
            cores, held = _tensor_train(w, rank, parts)
            return TensorTrain(cores, b), held
        left, right, held = _svd(w, rank)
        return nn.Sequential(_dense(right), _dense(left, b)), held
    return _CONVOLUTIONS[method](layer, w, b, rank)


def _filters(c: Any, w: Tensor, b: Tensor | None, rank: int) -> tuple[nn.Module, float]:
    left, right, held = _svd(w.reshape(len(w), -1), rank)
    return nn.Sequential(_conv(c, right, range(w.ndim - 2)), _conv(c, left, (), b)), held


def _spatial(c: Any, w: Tensor, b: Tensor | None, rank: int) -> tuple[nn.Module, float]:
    out, ins, high, wide = w.shape
    left, right, held = _svd(w.permute(1, 2, 3, 0).reshape(ins * high, wide * out), rank)
    row = right.reshape(-1, wide, out).permute(2, 0, 1)
    return nn.Sequential(_conv(c, left.T, (0,)), _conv(c, row, (1,), b)), held


def _train_of_cores(c: Any, w: Tensor, b: Tensor | None, rank: int) -> tuple[nn.Module, float]:
    out, ins = w.shape[:2]
    first, rest, held = _svd(w.movedim(0, -1).reshape(ins, -1), rank)
    core, last, also = _svd(rest.reshape(-1, out), rank)
    middle = core.reshape(first.shape[1], -1, core.shape[1]).permute(2, 0, 1)
    chain = nn.Sequential(_conv(c, first.T, ()), _conv(c, middle, range(w.ndim - 2)), _conv(c, last.T, (), b))
    return chain, held * also


def _outer_products(c: Any, w: Tensor, b: Tensor | None, rank: int) -> tuple[nn.Module, float]:
    found, held = cp_als(w, rank)
    windows = [_conv(c, f.T, (k,), by_channel=True) for k, f in enumerate(found[2:])]
    return nn.Sequential(_conv(c, found[1].T, ()), *windows, _conv(c, found[0], (), b)), held


_CONVOLUTIONS = {"svd": _filters, "spatial": _spatial, "tt": _train_of_cores, "cp": _outer_products}


def _refusal(layer: Any, method: str, x: Tensor) -> str | None:
    """Why a layer has no such chain."""
    if layer.weight.ndim == 2:
        if method in ("spatial", "cp"):
            return f"method '{method}' is for convolutions"
        return "a tensor train reads [events, features]" if method == "tt" and x.ndim != 2 else None
    if layer.channel_axis == 1 or layer.groups != 1:
        return "transposed convolutions and those with groups are not decomposed"
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return "its padding must be numbers, of zeros"
    return "method 'spatial' needs two axes" if method == "spatial" and layer.weight.ndim != 4 else None


# ---- the pass -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A rank that was considered: the squares of the weights that it holds, how many weights it has, and its LUTs if asked for.

    Rank 0 stands for the layer as it is.
    """

    layer: str
    rank: int
    energy: float
    weights: int
    lut: float | None = None
    taken: bool = False

    def __str__(self) -> str:
        lut = "" if self.lut is None else f"{self.lut:10.0f} LUT"
        mark = " <-" if self.taken else ""
        return f"{self.layer:<16} rank {self.rank or 'full':>5}  energy {self.energy:7.4f}  {self.weights:8d} weights{lut}{mark}"


@dataclass(frozen=True)
class LowRank:
    """Replace layers by chains of lower rank; a layer that does not gain stays.

    One of `energy` (the smallest rank that holds this share of the squares of the weights), `rank`, and `lut` (the largest
    rank whose chain costs at most this share of the layer's LUTs by the compiler's solver, at the formats of `spec`, or those
    that the layer has); with both `lut` and `energy` the rank must hold this energy too. `method`: one of `METHODS`; layers that
    it does not fit stay, and are refused where they are named in `layers`. `parts`: factors of a dense layer's shape in a tensor
    train. A quantized layer's chain has its formats, with ranges from the task's data; masks are not handed on.

    `work.say` gets a line for each rank that was considered. Raises `CompileError` for values out of range and unknown names.
    """

    energy: float | None = None
    rank: int | None = None
    lut: float | None = None
    spec: Spec | None = None
    method: str = "svd"
    parts: int = 2
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [k for k in ("energy", "rank", "lut") if getattr(self, k) is not None]
        if len(given) != 1 and given != ["energy", "lut"]:
            said = " and ".join(given) or "none"
            raise CompileError("LowRank", f"takes one of energy, rank and lut, or energy with lut, not {said}")
        for name in ("energy", "lut"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise CompileError("LowRank", f"{name} must be a share above 0 and up to 1, not {value:g}")
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 1):
            raise CompileError("LowRank", f"rank must be a whole number from 1, not {self.rank!r}")
        if self.method not in METHODS:
            raise CompileError("LowRank", f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.parts < 2:
            raise CompileError("LowRank", f"parts must be 2 or more, not {self.parts}")

    def apply(self, work: Work) -> None:
        own = {name: m for name, m in prepare(work.module) if not isinstance(m, Affine)}
        unknown = next((n for n in self.layers if n not in own), None)
        if unknown is not None:
            rule = f"no dense or convolution layer is called '{unknown}'"
            raise CompileError("LowRank layers", rule, f"layers: {', '.join(own)}")
        inputs = _inputs(work.module, work.task, own)
        for name in self.layers or own:
            if name in inputs:
                self._replace(work, name, own[name], inputs[name])

    def _replace(self, work: Work, name: str, m: Weighted, x: Tensor) -> None:
        why = _refusal(m, self.method, x)
        if why is not None:
            if name in self.layers:
                raise CompileError(f"LowRank, layer {name}", why, "choose another method, or leave the layer out")
            work.say(f"{name:<16} stays: {why}")
            return
        spec = _spec_of(m) or self.spec
        if self.lut is not None and spec is None:
            rule = "LUTs depend on widths, which the layer does not have"
            raise CompileError(f"LowRank, layer {name}", rule, "give spec=Spec.uniform(6, 8), or quantize before")
        found = candidates(name, m, self, x, spec)
        for c in found:
            work.say(str(c))
        taken = next((c for c in found if c.taken and c.rank), None)
        if taken is None:
            return
        chain, _ = _chain(m, self.method, taken.rank, self.parts)
        if m.weight_quantizer is not None:
            chain = quantize(chain, spec, x)
        parent, _, last = name.rpartition(".")
        setattr(work.module.get_submodule(parent), last, chain.train(work.module.training))


def candidates(name: str, m: Weighted, options: LowRank, x: Tensor, spec: Spec | None) -> list[Candidate]:
    """The ranks that were considered for a layer, the full one first; exactly one of them is taken."""

    def of(rank: int) -> Candidate:
        chain, held = _chain(m, options.method, rank, options.parts)
        lut = None if options.lut is None else _luts(chain, spec, x)
        return Candidate(name, rank, held, _count(chain), lut)

    whole = Candidate(name, 0, 1.0, m.weight.numel(), None if options.lut is None else _luts(_plain(m), spec, x))
    most, least = _largest_gaining(m, options), options.energy or 0.0
    found = list[Candidate]()
    if most and options.rank is not None:
        found = [of(options.rank)] if options.rank <= most else []
        best = found[0] if found else whole
    elif most and options.lut is None:
        found = _by_energy(of, most, least)
        best = next((c for c in found if c.energy >= least), whole)
    elif most:
        ranks = sorted({max(round(most * k / 8), 1) for k in range(1, 9)})
        found = [of(r) for r in ranks]
        limit = float(options.lut or 0) * float(whole.lut or 0)
        fitting = [c for c in found if c.lut is not None and c.lut <= limit and c.energy >= least]
        best = max(fitting, key=lambda c: c.energy, default=whole)
    else:
        best = whole
    return [replace(c, taken=c is best) for c in (whole, *found)]


def _by_energy(of: Callable[[int], Candidate], most: int, energy: float) -> list[Candidate]:
    """Ranks on the way to the smallest that holds the energy, by bisection, in order."""
    low, high, found = 0, most, {most: of(most)}
    while high - low > 1 and found[most].energy >= energy:
        middle = (low + high) // 2
        found[middle] = of(middle)
        low, high = (low, middle) if found[middle].energy >= energy else (middle, high)
    return [found[r] for r in sorted(found)]


def _largest_gaining(m: Weighted, options: LowRank) -> int:
    """The largest rank whose chain has fewer weights than the layer, 0 if there is none."""
    low, high = 0, _full_rank(m, options) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _weights_at(m, options, middle) < m.weight.numel() else (low, middle)
    return low


def _full_rank(m: Weighted, options: LowRank) -> int:
    w = m.weight
    if w.ndim == 2:
        return min(w.shape) if options.method == "svd" else w.numel()
    if options.method == "cp":
        return w.numel() // max(w.shape)
    taps = math.prod(w.shape[2:])
    return {"svd": min(w.shape[0], w.shape[1] * taps), "tt": max(w.shape[:2])}.get(
        options.method, min(w.shape[1] * w.shape[2], w.shape[-1] * w.shape[0])
    )


def _weights_at(m: Weighted, options: LowRank, rank: int) -> int:
    """Weights of the chain, by its shapes alone."""
    w, taps = m.weight, math.prod(m.weight.shape[2:])
    out, ins = w.shape[:2]
    if w.ndim == 2 and options.method == "tt":
        a, b = factors(out, options.parts), factors(ins, options.parts)
        left = [1]
        for k in range(options.parts - 1):
            left.append(min(rank, left[-1] * a[k] * b[k], math.prod(a[k + 1 :]) * math.prod(b[k + 1 :])))
        return sum(r * p * q * after for r, p, q, after in zip(left, a, b, [*left[1:], 1]))
    if options.method == "tt":
        r = min(rank, ins)
        after = min(rank, r * taps, out)
        return ins * r + r * taps * after + after * out
    if options.method == "cp":
        return rank * (ins + out + sum(w.shape[2:]))
    if options.method == "spatial":
        return rank * (ins * w.shape[2] + out * w.shape[3])
    return rank * (ins * taps + out)


def _count(chain: nn.Module) -> int:
    return sum(p.numel() for n, p in chain.named_parameters() if n.endswith("weight") and "shift" not in n)


def _plain(m: Any) -> nn.Module:
    """A float layer that computes with the weights in use."""
    kind: Any = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}[m.weight.ndim]
    w = m.masked_weight().detach()
    if kind is nn.Linear:
        return nn.Sequential(_dense(w, m.bias))
    return nn.Sequential(_conv(m, w, range(w.ndim - 2), m.bias))


def _luts(chain: nn.Module, spec: Spec | None, x: Tensor) -> float:
    return float(sum(solved(part) for _, part in prepare(quantize(chain, spec, x))))


def _spec_of(m: Weighted) -> Spec | None:
    """The formats that a quantized layer has."""
    if m.weight_quantizer is None or m.input_quantizer is None:
        return None
    biases = m.weight_quantizer if m.bias_quantizer is None else m.bias_quantizer
    return Spec(m.weight_quantizer.format, biases.format, m.input_quantizer.format)


def _inputs(module: nn.Module, task: Task, own: dict[str, Weighted]) -> dict[str, Tensor]:
    """What each layer reads, for the events of the task's sample."""
    found: dict[str, Tensor] = {}

    def see(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[name] = args[0].detach()

        return hook

    before = module.training
    try:
        with hooked(m.register_forward_pre_hook(see(name)) for name, m in own.items()), torch.no_grad():
            run(module.eval(), task.sample[:2048])
    finally:
        module.train(before)
    return found
