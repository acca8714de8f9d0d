"""Layers of torch that hardware computes in parts, written in parts that take quantizers; knows no format.

What comes out computes the same numbers as the layer of torch it replaces. Its parts are dense layers, functions that become
tables, products of data, and values that are kept (`Kept`), which `quantize` finds and gives quantizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..ir.errors import CompileError
from .layers import Affine, sums_in_double

__all__ = ["COMPOSITES", "Attention", "InverseRoot", "Kept", "LayerNormalization", "Multiplies", "Product", "in_parts"]


class Product(nn.Module):
    """The matrix product of two data, as in attention; both are quantized."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)


class Kept(nn.Identity):
    """A value that is quantized where it stands: the state of a recurrent layer, say, whose width would grow with each step."""


class Multiplies(nn.Module):
    """What multiplies data element by element in its own code."""

    def products(self) -> list[tuple[int, Tensor, Tensor]]:
        """Of each product: how often an event computes it, and the widths of all factors; none where nothing is quantized."""
        raise NotImplementedError  # every kind has its own

    def cost(self, product: float = 1.0, sums: float = 1.0, tables: float = 1.0) -> Tensor:
        """LUTs of an event's products, by the compiler's rule: the widths multiplied; differentiable by the trained ones."""
        found = [times * product * (a * b).sum() for times, a, b in self.products()]
        return torch.stack(found).sum() if found else torch.zeros(())


def _widths(quantized: Any, shape: tuple[int, ...]) -> Tensor:
    """Of what a quantizer gives, or a function with one."""
    return getattr(quantized, "output_quantizer", quantized).widths().expand(shape)


class InverseRoot(nn.Module):
    """``1 / sqrt(x + offset)``, a table."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return torch.rsqrt(x + self.offset)


# ---- recurrent layers -------------------------------------------------------------------------------------------------


class Step(Multiplies):
    """One direction of one recurrent layer: `input` on all steps at once, `state` on the state before each.

    weight_ih, weight_hh, bias_ih, bias_hh: as torch.nn has them.
    """

    def __init__(self, rnn: Any, layer: int, suffix: str) -> None:
        super().__init__()
        self.hidden = rnn.hidden_size
        ih, hh = (getattr(rnn, f"weight_{k}_l{layer}{suffix}").detach() for k in ("ih", "hh"))
        rows = self._order().to(ih.device)
        self.input = nn.Linear(ih.shape[1], len(ih), bias=rnn.bias)
        self.state = nn.Linear(hh.shape[1], len(hh), bias=rnn.bias and self.separate)
        with torch.no_grad():
            self.input.weight.copy_(ih[rows])
            self.state.weight.copy_(hh[rows])
            if rnn.bias:
                a, b = (getattr(rnn, f"bias_{k}_l{layer}{suffix}").detach()[rows] for k in ("ih", "hh"))
                self.input.bias.copy_(a if self.separate else a + b)
                if self.separate:
                    self.state.bias.copy_(b)

    separate = False
    """The state's bias is used on its own."""

    def _order(self) -> Tensor:
        """Rows of torch's gates in the order of this step's."""
        return torch.arange(self.hidden)

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step."""
        return (x.new_zeros(x.shape[0], self.hidden),)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, backwards: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """States h of all steps ``[events, steps, hidden]`` of x ``[events, steps, inputs]``, and the last state."""
        gates = self.input(x)
        state = self.start(x) if state is None else state
        steps = range(x.shape[1])
        found: list[Tensor] = []
        for t in reversed(steps) if backwards else steps:
            state = self.step(gates[:, t], state)
            found.append(state[0])
        return torch.stack(found[::-1] if backwards else found, 1), state

    def step(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        raise NotImplementedError  # every kind has its own

    kept: nn.Module
    """`Kept`, and what quantizes it later."""

    def products(self) -> list[tuple[int, Tensor, Tensor]]:
        steps = getattr(self.state, "calls", 1)
        return [] if isinstance(self.kept, Kept) else list(self._products(steps))

    def _products(self, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Of a quantized step, so many of which an event computes."""
        return iter(())

    def _exact(self, *values: Tensor) -> tuple[Tensor, ...]:
        quantized = not isinstance(self.kept, Kept)
        return tuple(v.double() for v in values) if quantized and sums_in_double(self) else values


class SimpleStep(Step):
    def __init__(self, rnn: Any, layer: int, suffix: str) -> None:
        super().__init__(rnn, layer, suffix)
        self.function = nn.Tanh() if rnn.nonlinearity == "tanh" else nn.ReLU()
        self.kept = Kept()

    def step(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.kept(self.function(gates + self.state(state[0]))),)


class LSTMStep(Step):
    def __init__(self, rnn: Any, layer: int, suffix: str) -> None:
        super().__init__(rnn, layer, suffix)
        self.sigmoid, self.tanh, self.squashed, self.kept = nn.Sigmoid(), nn.Tanh(), nn.Tanh(), Kept()

    def _order(self) -> Tensor:
        i, f, g, o = torch.arange(4 * self.hidden).chunk(4)
        return torch.cat([i, f, o, g])

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        return 2 * super().start(x)

    def step(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        gates = gates + self.state(h)
        sigmoid, g, c = self._exact(
            self.sigmoid(gates[:, : 3 * self.hidden]), self.tanh(gates[:, 3 * self.hidden :]), c
        )
        i, f, o = sigmoid.chunk(3, 1)
        c = self.kept(f * c + i * g)
        o, squashed = self._exact(o, self.squashed(c))
        return o * squashed, c

    def _products(self, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        i, f, o = _widths(self.sigmoid, (3 * self.hidden,)).chunk(3)
        c, g, squashed = (_widths(q, (self.hidden,)) for q in (self.kept, self.tanh, self.squashed))
        yield from ((steps - 1, f, c), (steps, i, g), (steps, o, squashed))  # the first state is 0


class GRUStep(Step):
    separate = True

    def __init__(self, rnn: Any, layer: int, suffix: str) -> None:
        super().__init__(rnn, layer, suffix)
        self.sigmoid, self.tanh, self.inner, self.kept = nn.Sigmoid(), nn.Tanh(), Kept(), Kept()

    def _order(self) -> Tensor:
        return torch.arange(3 * self.hidden)

    def step(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        both, n = 2 * self.hidden, self.state(h)
        (sigmoid, inner) = self._exact(self.sigmoid(gates[:, :both] + n[:, :both]), self.inner(n[:, both:]))
        r, z = sigmoid.chunk(2, 1)
        new, z, h = self._exact(self.tanh(gates[:, both:] + r * inner), z, h)
        return (self.kept(new + z * (h - new)),)

    def _products(self, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        r, z = _widths(self.sigmoid, (2 * self.hidden,)).chunk(2)
        inner, new, h = (_widths(q, (self.hidden,)) for q in (self.inner, self.tanh, self.kept))
        yield from ((steps - 1, r, inner), (steps, z, torch.maximum(h, new) + 1))  # of state 0, inner is the bias


class Recurrent(nn.Module):
    """RNN, LSTM or GRU of torch, with all its steps unrolled; takes and gives what the layer of torch does."""

    def __init__(self, name: str, rnn: Any) -> None:
        super().__init__()
        if getattr(rnn, "proj_size", 0):
            raise CompileError(name, "an LSTM with projections cannot be quantized in training", "use proj_size=0")
        self.first, self.both, self.dropout = rnn.batch_first, rnn.bidirectional, nn.Dropout(rnn.dropout)
        kind: type[Step] = {nn.RNN: SimpleStep, nn.LSTM: LSTMStep, nn.GRU: GRUStep}[type(rnn)]
        suffixes = ("", "_reverse") if self.both else ("",)
        self.steps = nn.ModuleList(kind(rnn, k, suffix) for k in range(rnn.num_layers) for suffix in suffixes)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = x if self.first else x.transpose(0, 1)
        given = None if state is None else state if isinstance(state, tuple) else (state,)
        last: list[tuple[Tensor, ...]] = []
        directions = 2 if self.both else 1
        for k in range(0, len(self.steps), directions):
            parts: list[Tensor] = []
            for d in range(directions):
                own = None if given is None else tuple(s[k + d] for s in given)
                h, end = self.steps[k + d](x, own, backwards=d == 1)
                parts.append(h)
                last.append(end)
            x = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
            if k + directions < len(self.steps):
                x = self.dropout(x)
        ends = [torch.stack(s) for s in zip(*last, strict=True)]
        return x if self.first else x.transpose(0, 1), tuple(ends) if len(ends) > 1 else ends[0]


# ---- normalization and attention --------------------------------------------------------------------------------------


class LayerNormalization(Multiplies):
    """Layer normalization over the last axis: ``d = n x - sum(x)`` is exact, and so is the sum of its squares."""

    def __init__(self, name: str, norm: nn.LayerNorm) -> None:
        super().__init__()
        if len(norm.normalized_shape) != 1:
            rule = f"layer normalization over {len(norm.normalized_shape)} axes cannot be quantized in training"
            raise CompileError(name, rule, "normalize over the last axis alone")
        self.n = norm.normalized_shape[0]
        self.given, self.spread, self.squares = Kept(), Kept(), InverseRoot(self.n**3 * norm.eps)
        root = self.n**0.5
        weight = torch.ones(self.n) if norm.weight is None else norm.weight.detach()
        self.affine = Affine(weight * root, torch.zeros(self.n) if norm.bias is None else norm.bias.detach(), axis=-1)

    def forward(self, x: Tensor) -> Tensor:
        kept = self._wide(self.given(x))
        d = self._wide(self.spread(self.n * kept - kept.sum(-1, keepdim=True)))
        r = self.squares((d * d).sum(-1, keepdim=True))
        y = self.affine(d * r)
        return y.to(x.dtype) if self.training else y

    def products(self) -> list[tuple[int, Tensor, Tensor]]:
        squares: Any = self.squares
        if isinstance(squares, InverseRoot):
            return []
        (*rows, _), times = squares.shapes[0], squares.calls
        d, r = _widths(self.spread, (*rows, self.n)), _widths(squares, (*rows, self.n))
        return [(times, d, d), (times, d, r)]

    def _wide(self, x: Tensor) -> Tensor:
        """In float64 once it is quantized, in training too: squares have twice the bits."""
        return x if isinstance(self.given, Kept) or torch.compiler.is_exporting() else x.double()


class Attention(nn.Module):
    """Multi-head attention of torch (no masks), its matrices apart."""

    def __init__(self, name: str, given: nn.MultiheadAttention) -> None:
        super().__init__()
        if not given.batch_first or given.bias_k is not None or given.add_zero_attn or not given._qkv_same_embed_dim:
            rule = "this attention cannot be quantized in training"
            raise CompileError(name, rule, "use batch_first=True, one embed_dim, no bias_kv and no add_zero_attn")
        size, biased = given.embed_dim, given.in_proj_bias is not None
        self.width = size // given.num_heads  # of a head; how many there are, its matrices say
        self.q, self.k, self.v = (nn.Linear(size, size, bias=biased) for _ in range(3))
        with torch.no_grad():
            for k, (part, scale) in enumerate(((self.q, self.width**-0.5), (self.k, 1.0), (self.v, 1.0))):
                part.weight.copy_(given.in_proj_weight[k * size : (k + 1) * size] * scale)
                if biased:
                    part.bias.copy_(given.in_proj_bias[k * size : (k + 1) * size] * scale)
        self.out = nn.Linear(size, size, bias=given.out_proj.bias is not None)
        self.out.load_state_dict(given.out_proj.state_dict())
        self.scores, self.softmax, self.sums = Product(), nn.Softmax(-1), Product()

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.width)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        asked = [k for k, v in options.items() if v is not None and not (k == "need_weights" and v is False)]
        if asked:
            raise CompileError("attention", f"{asked[0]} cannot be quantized in training", "leave it out")
        q, k, v = self._split(self.q(query)), self._split(self.k(key)), self._split(self.v(value))
        found = self.sums(self.softmax(self.scores(q, k.transpose(-1, -2))), v)
        return self.out(found.transpose(1, 2).flatten(2)), None


COMPOSITES: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: Recurrent,
    nn.LSTM: Recurrent,
    nn.GRU: Recurrent,
    nn.LayerNorm: LayerNormalization,
    nn.MultiheadAttention: Attention,
}
"""Layers of torch, and what computes the same in parts."""


def in_parts(module: nn.Module) -> nn.Module:
    """The module with every layer of `COMPOSITES` in parts; changed in place, unless it is one itself."""
    done: dict[nn.Module, nn.Module] = {}
    for name, m in list(module.named_modules(remove_duplicate=False)):
        if isinstance(m, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            rule = f"a {type(m).__name__} takes shortcuts around its layers"
            raise CompileError(name or "module", rule, "write the block with MultiheadAttention, LayerNorm and Linear")
        if type(m) not in COMPOSITES:
            continue
        made = done.setdefault(m, COMPOSITES[type(m)](name or type(m).__name__, m))
        if not name:
            return made
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, made)
    return module
