"""The generated training step against torch's autograd on the same formulas, in double precision."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hwcompile as hc
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.optimize.native import LOSSES, Adam, Dense, Program, Quantization, Schedule, build
from hwcompile.optimize.native import library as library_module
from hwcompile.optimize.native import step as step_module

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


PROGRAMS = {
    "learned": Program((
        Dense(13, 7, element(13), element(7, 13), element(7), relu=True, masked=True),
        Dense(7, 3, element(7, rounding="RND_CONV"), element(3, 7, rounding="TRN"), element(3)),
    )),
    "mixed": Program(
        (
            Dense(
                5, 70, Quantization("clipped", (1,), "TRN_ZERO", True, True, True),
                Quantization("fixed", (70, 1), "RND_ZERO", bits=5), Quantization("fixed", (70,), bits=6), relu=True,
            ),
            Dense(
                70, 33, Quantization("clipped", (70,), "RND_INF", True, True, False, 5),
                Quantization("clipped", (1, 70), "RND_MIN_INF", True, True), Quantization("clipped", (33,), overflow="SAT_SYM"),
                relu=True, masked=True,
            ),
            Dense(33, 17, element(1), Quantization("free", (17, 1), "RND_INF"), element(1)),
            Dense(17, 4, Quantization("clipped", (17,), bits=6, overflow="WRAP"), Quantization("fixed", (1, 1), bits=4), None),
        ),
        "distillation",
        Quantization("clipped", (4,), "RND_CONV", True, True, overflow="SAT_ZERO"),
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


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batch", [1, 64, 150])
def test_gradients_are_those_of_autograd(name, batch):
    check_against_torch(PROGRAMS[name], batch, exact=name != "float")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed):
    check_against_torch(some_program(seed), 150, seed, exact=False)


@pytest.mark.parametrize("name", ["learned", "float"])
def test_a_loss_computed_elsewhere(name):
    step, x, _, _, _ = filled(PROGRAMS[name])
    reference = Reference(step)
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    outputs, cost = reference(inputs)
    dy = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
    ((outputs * torch.tensor(dy)).sum() + 0.25 * torch.as_tensor(cost)).backward()
    dx = step.backward(x, dy, beta=0.25, input_gradient=True)
    assert_close(dx, inputs.grad, "inputs")
    for key, gradient in step.gradients.items():
        assert_close(gradient, reference.p[key].grad, key)


def test_what_ranges_do():
    step, x, _, _, _ = filled(PROGRAMS["learned"])
    dy = np.ones((len(x), 3), np.float32)
    assert np.isinf(step.ranges["0.input.lowest"]).all()
    assert step.cost()[0] == pytest.approx(0)  # nothing was seen
    step.forward(x)
    step.backward(x, dy, track=False)
    assert np.isinf(step.ranges["0.input.highest"]).all()
    step.backward(x[:100], dy[:100])
    first = {name: a.copy() for name, a in step.ranges.items()}
    step.backward(x[100:], dy[100:])
    assert all(
        (a <= first[name] if name.endswith("lowest") else a >= first[name]).all() for name, a in step.ranges.items()
    )
    whole, *_ = filled(PROGRAMS["learned"])
    whole.backward(x, dy)
    assert all((a == whole.ranges[name]).all() for name, a in step.ranges.items())
    assert step.cost()[0] > 0
    step.forget_ranges()
    assert np.isinf(step.ranges["1.input.lowest"]).all()


def test_adam_is_that_of_torch():
    step, x, _, _, _ = filled(PROGRAMS["learned"])
    rng = np.random.default_rng(2)
    params = {n: torch.nn.Parameter(torch.tensor(step.parameters[n])) for n in step.gradients}
    groups = [
        {"params": [p for n, p in params.items() if n.endswith("weight")], "lr": 0.03, "weight_decay": 0.1},
        {"params": [p for n, p in params.items() if n.endswith("bias")], "lr": 0.03, "weight_decay": 0.0},
        {"params": [p for n, p in params.items() if n.endswith("fraction")], "lr": 0.2, "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, betas=(0.8, 0.99), eps=1e-6)
    for _ in range(20):
        step.backward(x, rng.normal(size=(len(x), 3)), beta=0.01)
        for n, p in params.items():
            p.grad = torch.tensor(step.gradients[n])
        step.update(0.03, 0.2, Adam(0.8, 0.99, 1e-6, decay=0.1, lowest=-1, highest=4))
        theirs.step()
        for n, p in params.items():
            if n.endswith("fraction"):
                p.data.clamp_(-1, 4)
            np.testing.assert_allclose(step.parameters[n], p.detach().numpy(), rtol=2e-5, atol=2e-6)
    assert step.parameters["0.weight.fraction"].max() == 4
    np.testing.assert_array_equal(step.counts, 20)


def test_frozen_groups_stay():
    step, x, y, _, _ = filled(PROGRAMS["learned"])
    before = {n: a.copy() for n, a in step.parameters.items()}
    schedule = Schedule.constant(3, 0.1, 0.1, 0.01)
    step.run(x, y, np.arange(192), 64, schedule, adam=Adam(frozen=("biases", "widths")))
    assert {n for n, a in step.parameters.items() if (a != before[n]).any()} == {"0.weight", "1.weight"}
    np.testing.assert_array_equal(step.counts, [3, 0, 0])


def trained(step, x, y, soft, weights, parts=1):
    """The step's parameters and losses after 40 steps, in one run or several."""
    order = np.random.default_rng(3).integers(0, len(x), 40 * 70)
    losses = []
    for rows in order.reshape(parts, -1):
        schedule = Schedule.constant(40 // parts, 0.01, 0.05, 1e-5)
        losses.append(step.run(x, y, rows, 70, schedule, soft=soft, event_weights=weights).losses)
    return np.concatenate(losses), {n: a.copy() for n, a in step.parameters.items()}


def assert_same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    for name, values in a[1].items():
        np.testing.assert_array_equal(values, b[1][name])


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_bits_again_in_parts_and_in_threads(name):
    once = trained(*filled(PROGRAMS[name]))
    assert_same(once, trained(*filled(PROGRAMS[name]), parts=8))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: trained(*filled(PROGRAMS[name])), range(4)))
    for again in both:
        assert_same(once, again)


def test_it_learns_and_becomes_cheaper():
    step, x, _, _, _ = filled(PROGRAMS["learned"])
    y = np.argmax(x[:, :3], 1)
    order = np.random.default_rng(0).integers(0, len(x), 600 * 64)
    record = step.run(x, y, order, 64, Schedule.constant(600, 0.01, 0.02, 1e-5))
    assert record.losses[-20:].mean() < 0.3 * record.losses[:20].mean()
    pruned = step.run(x, y, order, 64, Schedule.constant(600, 0.01, 0.02, 1e-3))
    assert pruned.costs[-1] < 0.5 * pruned.costs[0]
    assert pruned.losses[-20:].mean() < 0.6 * record.losses[:20].mean()


def test_torch_shares_the_memory():
    step = build(PROGRAMS["float"])
    weight = torch.from_numpy(step.parameters["0.weight"])
    weight.fill_(0.5)
    assert step.forward(np.ones((1, 6)))[0, 0] == 0
    torch.from_numpy(step.parameters["1.weight"]).fill_(1)
    assert step.forward(np.ones((1, 6)))[0, 0] == 60


def test_a_loss_that_is_not_finite_stops():
    step, x, y, _, _ = filled(PROGRAMS["learned"])
    x[150, 3] = np.nan
    before = {n: a.copy() for n, a in step.parameters.items()}
    record = step.run(x, y, np.arange(200), 50, Schedule.constant(4, 0.0))
    assert not record.finite
    assert len(record.losses) == 4
    assert np.isfinite(record.losses[:3]).all()
    assert np.isnan(record.losses[3])
    assert np.isnan(record.costs[3])
    assert all((a == before[n]).all() for n, a in step.parameters.items())
    np.testing.assert_array_equal(step.counts, 3)


def test_small_numbers_stay_outside():
    step, x, y, _, _ = filled(PROGRAMS["learned"])
    step.run(x, y, np.arange(64), 64, Schedule.constant(1, 0.1))
    assert np.multiply(np.full(64, 1e-20, np.float32), np.float32(1e-20)).min() > 0


def test_powers_of_two_are_exact_to_forty_bits():
    program = Program((Dense(3, 2, Quantization("free", (3,)), Quantization("free", (2, 3))),), "squared_error")
    step = build(program)
    step.parameters["0.weight.fraction"][:] = [[40, 0, 20], [-3, 1, 5]]
    step.parameters["0.weight"][:] = [[3 * 2.0**-41, 2.5, 3 * 2.0**-21], [20, -0.25, 1]]
    step.parameters["0.input.fraction"][:] = [-40, 0, -2]
    x = np.array([[2.0**41 + 2.0**39, 0, 0], [0, 1, 0], [0, 0, 6], [2.0**40 * 1.5, 0, 0]], np.float32)
    w = np.array([[2 * 2.0**-40, 3, 2 * 2.0**-20], [24, 0, 1]])
    q = np.array([[3 * 2.0**40, 0, 0], [0, 1, 0], [0, 0, 8], [2.0**41, 0, 0]])
    np.testing.assert_array_equal(step.forward(x), q @ w.T)


BAD = [
    (lambda: Program(()), "at least one layer"),
    (lambda: Program((Dense(2, 3), Dense(4, 1))), "must take the 3 outputs of the layer before, not 4"),
    (lambda: Program((Dense(2, 0),)), "must have inputs and outputs"),
    (lambda: Program((Dense(2, 3),), "hinge"), "loss must be one of cross_entropy, .* not 'hinge'"),
    (lambda: Program((Dense(2, 3, Quantization("fixed", (1,), bits=4)),)), "must be one of free, clipped, not 'fixed'"),
    (lambda: Program((Dense(2, 3, w=Quantization("free", (2, 3))),)), r"must broadcast to \(3, 2\), not be \(2, 3\)"),
    (lambda: Program((Dense(2, 3, w=Quantization("free", (1, 1), "NEAREST")),)), "rounding must be one of"),
    (lambda: Program((Dense(2, 3, w=Quantization("fixed", (1, 1))),)), "bits from 1 to 24"),
    (lambda: Program((Dense(2, 3, w=Quantization("clipped", (1, 1), bits=3)),)), "bits from 1 to 24 belong"),
    (lambda: Program((Dense(2, 3, Quantization("clipped", overflow="CLIP")),)), "one of WRAP, SAT, SAT_ZERO, SAT_SYM"),
    (lambda: Program((Dense(2, 3, Quantization(integer_trained=True)),)), "only where kind is 'clipped'"),
    (lambda: Program((Dense(2, 3, b=Quantization(), bias=False),)), "has no bias"),
    (lambda: Program((Dense(2, 3),), output=Quantization(shape=(2,))), r"outputs: .* broadcast to \(3,\)"),
    (lambda: Adam(beta1=1.0), "betas from 0 to below 1"),
    (lambda: Adam(highest=99), "within plus and minus 40"),
    (lambda: Adam(frozen=("bits",)), "some of weights, biases, widths, not 'bits'"),
]  # fmt: skip


@pytest.mark.parametrize("make, message", BAD)
def test_bad_programs(make, message):
    with pytest.raises(hc.CompileError, match=message):
        make()


BAD_DATA = [
    ({"x": np.zeros((200, 12))}, r"x: must have the shape \(events, 13\), not \(200, 12\)"),
    ({"y": np.zeros(200)}, "must be integer labels"),
    ({"y": np.full(200, 3)}, "labels must be from 0 to 2, not 3 to 3"),
    ({"order": np.arange(63)}, "must have 1 steps of 64 events, not 63"),
    ({"order": np.arange(64) - 1}, "must name events from 0 to 199, not -1 to 62"),
    ({"order": [], "batch": 0}, "must have 1 steps of 0 events"),
    ({"schedule": Schedule(np.zeros(1), np.zeros(2), np.zeros(1))}, "three values a step"),
    ({"soft": np.zeros((200, 3))}, "belongs to the loss 'distillation'"),
    ({"event_weights": np.zeros(3)}, r"event_weights: must have the shape \(200\), not \(3,\)"),
    ({"temperature": 0.0}, "must be positive"),
]


@pytest.mark.parametrize("given, message", BAD_DATA)
def test_bad_data(given, message):
    step, x, y, _, _ = filled(PROGRAMS["learned"])
    good = {"x": x, "y": y, "order": np.arange(64), "batch": 64, "schedule": Schedule.constant(1, 0.1)}
    assert step.run(**good).finite
    with pytest.raises(hc.CompileError, match=message):
        step.run(**(good | given))


def test_a_machine_without_vector_instructions(monkeypatch):
    program = PROGRAMS["mixed"]
    expected = trained(*filled(program))
    flags = tuple(f for f in library_module.FLAGS if f != "-march=native")
    monkeypatch.setattr(library_module, "FLAGS", flags)
    monkeypatch.setattr(step_module, "_library", step_module._library.__wrapped__)
    step, *data = filled(program)
    here, *_ = filled(program)
    np.testing.assert_array_equal(
        step.forward(data[0]), Reference(here)(torch.tensor(data[0]).double())[0].detach().numpy()
    )
    losses, _ = trained(step, *data)
    np.testing.assert_allclose(losses[:5], expected[0][:5], rtol=1e-5)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(hc.CompileError, match="needs a C\\+\\+ compiler"):
        build(Program((Dense(2, 2),), "squared_error"))
