"""What a generated training step should give, by torch's autograd on the same formulas in double precision."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.optimize.native import LOSSES, Conv, Dense, Program, Quantization, Schedule, build

LN2 = math.log(2)
MODES = [r.value for r in Rounding]


# ---- the reference ---------------------------------------------------------------------------------------------------------


def rounded(t, mode):
    down, rest = torch.floor(t), t - torch.floor(t)
    up_at_tie = {
        "RND": torch.tensor(True),
        "RND_MIN_INF": torch.tensor(False),
        "RND_ZERO": t < 0,
        "RND_INF": t > 0,
        "RND_CONV": down % 2 == 1,
    }
    if mode == "TRN":
        return down
    if mode == "TRN_ZERO":
        return torch.trunc(t)
    return down + ((rest > 0.5) | ((rest == 0.5) & up_at_tie[mode]))


def overflowed(n, low, high, mode):
    if mode == "WRAP":
        return torch.remainder(n - low, high - low + 1) + low
    if mode == "SAT_ZERO":
        return torch.where((n < low) | (n > high), torch.zeros_like(n), n)
    return torch.minimum(torch.maximum(n, torch.maximum(low, -high) if mode == "SAT_SYM" else low), high)


def moving(p):
    """Zero, with the gradient of p."""
    return p - p.detach()


def fraction_of(q, name, p, v):
    """Whole fraction bits, and the real parameter that gets their gradient (with its sign)."""
    if q.kind == "fixed":
        size = v.detach().abs()
        shared = [k for k, n in enumerate(q.shape) if n == 1]
        largest = size.amax(shared, keepdim=True) if shared else size
        return (q.bits - 1 - torch.ceil(torch.log2(largest.clamp(min=2.0**-40)))).clamp(-40, 40), None, 0
    if q.bits is not None:
        i = p[f"{name}.integer"]
        return q.bits - q.signed - torch.round(i.detach()), i, -1
    f = p[f"{name}.fraction"]
    return torch.round(f.detach()), f, 1


def integer_of(q, name, p, fraction):
    return q.bits - 1 - fraction if q.kind == "fixed" else torch.round(p[f"{name}.integer"].detach())


def quantized(q, name, p, v):
    if q is None:
        return v
    fraction, real, sign = fraction_of(q, name, p, v)
    n = rounded(v.detach() * 2.0**fraction, q.rounding)
    inside = torch.ones_like(n, dtype=torch.bool)
    value = n * 2.0**-fraction
    change = 0.0
    if q.kind != "free":
        integer = integer_of(q, name, p, fraction)
        bits = fraction + integer
        low = torch.where(bits >= 0, -(2.0**bits), torch.zeros_like(bits)) if q.signed else torch.zeros_like(bits)
        high = torch.where(bits > 0, 2.0**bits - 1, torch.zeros_like(bits))
        value = overflowed(n, low, high, q.overflow) * 2.0**-fraction
        inside = (n <= high) & (n >= low) | (q.overflow == "WRAP")
        if q.kind == "clipped" and q.overflow != "WRAP":
            side = (n > high).double() - (n < low) * float(q.signed)
            change = LN2 * 2.0**integer * side * moving(p[f"{name}.integer"])
    if real is not None:
        change = change + sign * LN2 * (v.detach() - value) * inside * moving(real)
    return value + inside * moving(v) + change


def seen(q, v):
    each = v.detach().reshape(len(v), *q.shape, -1)
    return each.amin((0, 2)), each.amax((0, 2))


def bit_length(n):
    return torch.frexp(n.abs()).exponent.double()


def widths(q, name, p, v, given):
    """c of each input, with its gradient; `v`: quantized data of the batch, all that was seen."""
    if q is None:
        return given
    fraction, real, sign = fraction_of(q, name, p, v)
    if q.kind == "clipped":
        integer = p[f"{name}.integer"]
        c = torch.relu(fraction + torch.round(integer.detach()) + q.signed)
        c = c + (c > 0) * (moving(integer) + sign * moving(real))
    else:
        lowest, highest = (s.repeat_interleave(len(fraction) // len(s)) for s in seen(q, v))
        lo, hi = rounded(lowest * 2.0**fraction, q.rounding), rounded(highest * 2.0**fraction, q.rounding)
        c = torch.maximum(bit_length(hi.clamp(min=0)), bit_length((-lo - 1).clamp(min=0))) + (lowest < 0)
        c = c + (c > 0) * moving(real)
    return c.expand(v.shape[1:])


def weight_widths(q, name, p, w, wq):
    fraction, real, _ = fraction_of(q, name, p, w)
    b = bit_length(wq.detach() * 2.0**fraction)
    slope = 0.0 if real is None else (b > 0) * moving(real)
    present = (b > 0) + (b == 1) * slope
    return b + slope, present


class Reference:
    """The network in torch: outputs and resource term."""

    def __init__(self, step):
        self.program = step.program
        self.p = {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in step.parameters.items()}
        self.constants = {n: torch.tensor(a, dtype=torch.float64) for n, a in step.constants.items()}
        self.seen = {}

    def __call__(self, x):
        cost = 0.0
        for k, layer in enumerate(self.program.layers):
            p = self.spread(k, layer)
            x = quantized(layer.x, f"{k}.input", p, x)
            if layer.x is not None and layer.x.kind == "free":
                self.seen[f"{k}.input"] = seen(layer.x, x)
            kept = p[f"{k}.weight"] * (self.constants[f"{k}.mask"] if layer.masked else 1)
            w = quantized(layer.w, f"{k}.weight", p, kept)
            if layer.w is not None:
                c = widths(layer.x, f"{k}.input", p, x, self.constants.get(f"{k}.input.bits"))
                b, present = weight_widths(layer.w, f"{k}.weight", p, kept, w)
                u, v, s, t = self.constants[f"{k}.prices"]
                cost = cost + linear(layer, (c + s * (c.detach() > 0))[None], u * present + v * b).sum() + t * c.sum()
            bias = quantized(layer.b, f"{k}.bias", p, p[f"{k}.bias"])
            x = linear(layer, x, w) + (bias[:, None, None] if isinstance(layer, Conv) else bias)
            x = torch.relu(x) if layer.relu else x
            x = pooled(layer, x).flatten(1) if isinstance(layer, Conv) else x
        p = self.p
        if self.program.output is not None and self.program.output.kind == "free":
            y = quantized(self.program.output, "output", p, x)
            self.seen["output"] = seen(self.program.output, y)
        return quantized(self.program.output, "output", p, x), cost

    def spread(self, k, layer):
        """The parameters, those of widths of channels for each value."""
        found = dict(self.p)
        for part in ("fraction", "integer"):
            name = f"{k}.input.{part}"
            if name in found and 1 < len(found[name]) < layer.inputs:
                found[name] = found[name].repeat_interleave(layer.inputs // len(found[name]))
        return found


def linear(layer, x, w):
    if not isinstance(layer, Conv):
        return x @ w.T
    kernel = w.reshape(layer.filters, -1, *layer.kernel)
    return F.conv2d(
        x.reshape(-1, *layer.shape), kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def pooled(layer, x):
    if layer.pool is None:
        return x
    return (F.max_pool2d if layer.pool.largest else F.avg_pool2d)(x, layer.pool.size, layer.pool.stride)


SHARE, TEMPERATURE = 0.3, 2.5


def loss_of(kind, y, labels, targets, weights):
    if kind in ("cross_entropy", "distillation"):
        hard = F.cross_entropy(y, labels, reduction="none")
    if kind in ("soft_cross_entropy", "distillation"):
        soft = -(targets * F.log_softmax(y / TEMPERATURE, 1)).sum(1) * TEMPERATURE**2
    each = {
        "cross_entropy": lambda: hard,
        "soft_cross_entropy": lambda: soft,
        "distillation": lambda: (1 - SHARE) * hard + SHARE * soft,
        "squared_error": lambda: F.mse_loss(y, targets, reduction="none").mean(1),
        "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(y, targets, reduction="none").mean(1),
    }[kind]()
    return (each * weights).mean()


# ---- programs and their values ---------------------------------------------------------------------------------------------


def some_quantization(rng, size, data):
    n, others = size[-1], size[0]
    kind = str(rng.choice(["free", "clipped"] if data else ["free", "clipped", "fixed"]))
    shapes = [(1,), (n,)] if len(size) == 1 else [(1, 1), (others, 1), (1, n), (others, n)]
    mode = str(rng.choice(MODES))
    overflow = str(rng.choice([o.value for o in Overflow]))
    shape = shapes[rng.integers(len(shapes))]
    if kind == "fixed":
        return Quantization(kind, shape, mode, bits=int(rng.integers(2, 8)), overflow=overflow)
    trained = bool(rng.random() < 0.8)
    if kind == "free":
        return Quantization(kind, shape, mode, trained)
    bits = int(rng.integers(1, 8)) if data and rng.random() < 0.4 else None
    return Quantization(kind, shape, mode, trained, rng.random() < 0.6, rng.random() < 0.7, bits, overflow)


def some_program(seed):
    """Odd sizes, and every kind of quantizer in turn."""
    rng = np.random.default_rng(seed)
    dims = [int(n) for n in rng.integers(1, 40, rng.integers(2, 5))]

    def maybe(size, data):
        return some_quantization(rng, size, data) if rng.random() < 0.85 else None

    layers = tuple(
        Dense(
            a, b, maybe((a,), True), maybe((b, a), False), maybe((b,), False),
            relu=bool(rng.random() < 0.7), masked=bool(rng.random() < 0.5),
        )
        for a, b in pairwise(dims)
    )  # fmt: skip
    return Program(layers, list(LOSSES)[seed % len(LOSSES)], maybe((dims[-1],), True) if seed % 3 == 0 else None)


def element(*shape, **more):
    return Quantization("free", shape, **more)


def filled(program, seed=0):
    """A step with values on a grid, so that sums are exact and ties are frequent; and (x, y, soft, weights) for it."""
    rng = np.random.default_rng(seed)
    step = build(program)
    for name, a in step.parameters.items():
        if name.endswith("fraction"):
            a[...] = rng.uniform(0.0, 4.4, a.shape)
        elif name.endswith("integer"):
            a[...] = rng.uniform(-1.4, 2.4, a.shape)
        elif not (name.endswith("bias") and not program.layers[int(name.split(".")[0])].bias):
            a[...] = np.rint(rng.normal(size=a.shape) * 16) / 32
    for name, a in step.constants.items():
        if name.endswith("mask"):
            a[...] = rng.random(a.shape) < 0.7
        elif name.endswith("prices"):
            a[...] = rng.uniform(0, 2, 4)
        else:
            a[...] = rng.integers(0, 9, a.shape)
    events, outputs = 200, program.layers[-1].outputs
    x = (np.rint(rng.normal(size=(events, program.layers[0].inputs)) * 32) / 32).astype(np.float32)
    labels = rng.integers(0, outputs, events)
    targets = rng.random((events, outputs)).astype(np.float32)
    hard = program.loss in ("cross_entropy", "distillation")
    soft = targets if program.loss == "distillation" else None
    return step, x, labels if hard else targets, soft, rng.uniform(0.5, 2, events).astype(np.float32)


def assert_close(a, b, what):
    b = b.detach().numpy() if b is not None else np.zeros_like(a)
    assert np.abs(a - b).max(initial=0) <= 2e-5 * max(1.0, np.abs(b).max(initial=0)), what


def one_step(step, x, y, soft, weights, order, beta=0.01):
    return step.run(
        x,
        y,
        order,
        len(order),
        Schedule.constant(1, 0.0, 0.0, beta),
        soft=soft,
        share=SHARE,
        temperature=TEMPERATURE,
        event_weights=weights,
    )


def check_against_torch(program, batch, seed=0, exact=True):
    step, x, y, soft, weights = filled(program, seed)
    order = np.random.default_rng(seed).permutation(len(x))[:batch]
    reference = Reference(step)
    outputs, cost = reference(torch.tensor(x[order], dtype=torch.float64))
    got = step.forward(x[order])
    if exact:
        np.testing.assert_array_equal(got, outputs.detach().numpy())
    labels = torch.tensor(y[order]) if y.dtype.kind == "i" else None
    targets = soft if soft is not None else y
    loss = loss_of(program.loss, outputs, labels, torch.tensor(targets[order]), torch.tensor(weights[order]))
    cost = torch.as_tensor(cost, dtype=torch.float64)
    (loss + 0.01 * cost).backward()
    record = one_step(step, x, y, soft, weights, order)
    assert record.finite
    assert record.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    assert record.costs[0] == pytest.approx(cost.item(), rel=1e-5)
    assert step.cost().sum() == pytest.approx(cost.item(), rel=1e-5)
    assert step.gradients.keys() <= reference.p.keys()
    for name, gradient in step.gradients.items():
        assert_close(gradient, reference.p[name].grad, name)
    for name, (lowest, highest) in reference.seen.items():
        np.testing.assert_array_equal(step.ranges[f"{name}.lowest"], lowest.numpy())
        np.testing.assert_array_equal(step.ranges[f"{name}.highest"], highest.numpy())


def check_a_loss_outside(program):
    """The gradients for dL/dy, those of the inputs too."""
    step, x, _, _, _ = filled(program)
    reference = Reference(step)
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    outputs, cost = reference(inputs)
    dy = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
    ((outputs * torch.tensor(dy)).sum() + 0.25 * torch.as_tensor(cost)).backward()
    assert_close(step.backward(x, dy, beta=0.25, input_gradient=True), inputs.grad, "inputs")
    for key, gradient in step.gradients.items():
        assert_close(gradient, reference.p[key].grad, key)
