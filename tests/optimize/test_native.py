"""The generated training step against torch's autograd on the same formulas, in double precision."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hwcompile as hc
from hwcompile.ir.rounding import Rounding
from hwcompile.optimize.native import LOSSES, Adam, Dense, Program, Quantization, Schedule, build

LN2 = math.log(2)
MODES = [r.value for r in Rounding]


# ---- the reference ---------------------------------------------------------------------------------------------------------


def rounded(t, mode):
    down, rest = torch.floor(t), t - torch.floor(t)
    up_at_tie = {
        "RND": t == t,
        "RND_MIN_INF": t != t,
        "RND_ZERO": t < 0,
        "RND_INF": t > 0,
        "RND_CONV": down % 2 == 1,
    }
    if mode == "TRN":
        return down
    if mode == "TRN_ZERO":
        return torch.trunc(t)
    return down + ((rest > 0.5) | ((rest == 0.5) & up_at_tie[mode]))


def moving(p):
    """Zero, with the gradient of p."""
    return p - p.detach()


def fraction_of(q, name, p, v):
    """Whole fraction bits, and the real parameter that gets their gradient (with its sign)."""
    if q.kind == "fixed":
        size = v.detach().abs()
        largest = size.amax() if q.shape[0] == 1 else size.amax(1, keepdim=True)
        return q.bits - 1 - torch.ceil(torch.log2(largest)), None, 0
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
        value = torch.minimum(torch.maximum(n, low), high) * 2.0**-fraction
        inside = (n <= high) & (n >= low)
        if q.kind == "clipped":
            side = (n > high).double() - (n < low) * float(q.signed)
            change = LN2 * 2.0**integer * side * moving(p[f"{name}.integer"])
    if real is not None:
        change = change + sign * LN2 * (v.detach() - value) * inside * moving(real)
    return value + inside * moving(v) + change


def seen(q, v):
    over = [0] if q.shape[0] > 1 else [0, 1]
    return v.detach().amin(over).reshape(q.shape), v.detach().amax(over).reshape(q.shape)


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
        lowest, highest = seen(q, v)
        lo, hi = rounded(lowest * 2.0**fraction, q.rounding), rounded(highest * 2.0**fraction, q.rounding)
        c = torch.maximum(bit_length(hi.clamp(min=0)), bit_length((-lo - 1).clamp(min=0))) + (lowest < 0)
        c = torch.where((lo == 0) & (hi == 0), torch.zeros_like(c), c)
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
        p, cost = self.p, 0.0
        for k, layer in enumerate(self.program.layers):
            x = quantized(layer.x, f"{k}.input", p, x)
            if layer.x is not None and layer.x.kind == "free":
                self.seen[f"{k}.input"] = seen(layer.x, x)
            w = quantized(layer.w, f"{k}.weight", p, p[f"{k}.weight"])
            if layer.masked:
                w = w * self.constants[f"{k}.mask"]
            if layer.w is not None:
                c = widths(layer.x, f"{k}.input", p, x, self.constants.get(f"{k}.input.bits"))
                b, present = weight_widths(layer.w, f"{k}.weight", p, p[f"{k}.weight"], w)
                u, v, s, t = self.constants[f"{k}.prices"]
                cost = cost + ((u * present + v * b) * (c + s * (c.detach() > 0))).sum() + t * c.sum()
            x = x @ w.T + quantized(layer.b, f"{k}.bias", p, p[f"{k}.bias"])
            x = torch.relu(x) if layer.relu else x
        if self.program.output is not None and self.program.output.kind == "free":
            y = quantized(self.program.output, "output", p, x)
            self.seen["output"] = seen(self.program.output, y)
        return quantized(self.program.output, "output", p, x), cost


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
    if kind == "fixed":
        return Quantization(kind, shapes[0] if len(size) == 1 else shapes[rng.integers(2)], mode, bits=int(rng.integers(2, 8)))
    shape = shapes[rng.integers(len(shapes))]
    trained = bool(rng.random() < 0.8)
    if kind == "free":
        return Quantization(kind, shape, mode, trained)
    bits = int(rng.integers(1, 8)) if data and rng.random() < 0.4 else None
    return Quantization(kind, shape, mode, trained, bool(rng.random() < 0.7), bool(rng.random() < 0.6), bits)


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
        for a, b in zip(dims, dims[1:])
    )  # fmt: skip
    return Program(layers, list(LOSSES)[seed % len(LOSSES)], maybe((dims[-1],), True) if seed % 3 == 0 else None)


def element(*shape, **more):
    return Quantization("free", shape, **more)


PROGRAMS = {
    "learned": Program((
        Dense(13, 7, element(13), element(7, 13), element(7), relu=True, masked=True),
        Dense(7, 3, element(7, rounding="RND_CONV"), element(3, 7, rounding="TRN"), element(3)),
    )),
    "mixed": Program(
        (
            Dense(5, 70, Quantization("clipped", (1,), "TRN_ZERO", True, True, True), Quantization("fixed", (70, 1), "RND_ZERO", bits=5), Quantization("fixed", bits=6), relu=True),
            Dense(70, 33, Quantization("clipped", (70,), "RND_INF", True, True, False, 5), Quantization("clipped", (1, 70), "RND_MIN_INF", True, True), Quantization("clipped", (33,)), relu=True, masked=True),
            Dense(33, 17, element(1), Quantization("free", (17, 1), "RND_INF"), element(1)),
            Dense(17, 4, None, Quantization("fixed", (1, 1), bits=4), None),
        ),
        "distillation",
        Quantization("clipped", (4,), "RND_CONV", True, True),
    ),
    "float": Program((Dense(6, 20, relu=True), Dense(20, 1, bias=False)), "binary_cross_entropy"),
}  # fmt: skip


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
        x, y, order, len(order), Schedule.constant(1, 0.0, 0.0, beta), soft=soft, share=SHARE, temperature=TEMPERATURE, event_weights=weights
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


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batch", [1, 64, 150])
def test_gradients_are_those_of_autograd(name, batch):
    check_against_torch(PROGRAMS[name], batch, exact=name != "float")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed):
    check_against_torch(some_program(seed), 150, seed, exact=False)
