"""The generated training step against torch's autograd on the same formulas, in double precision."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from native_reference import (
    Reference,
    check_a_loss_outside,
    check_against_torch,
    element,
    filled,
    some_program,
)

import hwcompile as hc
from hwcompile.optimize.native import Adam, Dense, Program, Quantization, Schedule, build
from hwcompile.optimize.native import library as library_module
from hwcompile.optimize.native import step as step_module

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
    check_a_loss_outside(PROGRAMS[name])


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
