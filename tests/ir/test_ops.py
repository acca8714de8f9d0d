"""Every op against its meaning on fractions, for random types; and its type rule against the values it gives."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwcompile import CompileError
from hwcompile.ir.ops import (
    OPS,
    Add,
    Compare,
    Concat,
    Constant,
    Gather,
    Input,
    Linear,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Quantize,
    ReduceMax,
    ReduceSum,
    Requantize,
    Reshape,
    Select,
    Shift,
    Sub,
    Transpose,
    Window,
)
from hwcompile.ir.rational import as_rational
from hwcompile.ir.rounding import Overflow, Rounding, overflowed, round_fraction
from hwcompile.ir.types import Fixed, Tensor

seeds = st.integers(0, 2**32 - 1)


def random_tensor(rng, shape, bits=8, spread=3):
    """Per-element types half of the time."""
    each = shape if rng.random() < 0.5 else ()
    lo = rng.integers(-(1 << bits), 1 << bits, each)
    return Tensor(shape, Fixed.of(lo, lo + rng.integers(0, 1 << bits, each), rng.integers(-spread, spread + 1, each)))


def random_values(rng, t, events=6):
    lo, hi, _ = t.arrays()
    x = rng.integers(lo, hi, (events, *t.shape), endpoint=True)
    return np.concatenate([x, lo[None], hi[None]])


def real(t, n):
    """Raw integers as fractions."""
    unit = (
        np.vectorize(lambda e: Fraction(2) ** int(e), otypes=[object])(
            np.broadcast_to(np.asarray(t.fixed.exp), t.shape)
        )
        if t.shape
        else Fraction(2) ** int(np.asarray(t.fixed.exp))
    )
    return n.astype(object) * unit


def check(op, operands, values, expected):
    """The op's values equal `expected` and lie within its type, which is reached at the ends where it is an interval hull."""
    result = op.infer(*operands)
    got = op.evaluate(result, operands, *values)
    lo, hi, _ = result.arrays()
    got = np.broadcast_to(got, (max(len(v) for v in values), *result.shape))
    assert (got >= lo).all()
    assert (got <= hi).all()
    assert (real(result, got) == expected).all()
    return result


@pytest.mark.parametrize(
    "op,f",
    [
        (Add(), lambda x, y: x + y),
        (Sub(), lambda x, y: x - y),
        (Mul(), lambda x, y: x * y),
        (Maximum(), np.maximum),
        (Minimum(), np.minimum),
    ],
)
@given(seed=seeds)
@settings(max_examples=40)
def test_binary(op, f, seed):
    rng = np.random.default_rng(seed)
    shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1), (1, 3)), ((), (5,))][rng.integers(4)]
    operands = [random_tensor(rng, s) for s in shapes]
    values = [random_values(rng, t) for t in operands]
    rank = max(map(len, shapes))
    reals = [real(t, v).reshape((len(v),) + (1,) * (rank - len(t.shape)) + t.shape) for t, v in zip(operands, values)]
    check(op, operands, values, f(*reals))


@pytest.mark.parametrize("relation,f", [("less", np.less), ("less_equal", np.less_equal), ("equal", np.equal)])
@given(seed=seeds)
@settings(max_examples=40)
def test_compare(relation, f, seed):
    rng = np.random.default_rng(seed)
    shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1), (1, 3)), ((), (5,))][rng.integers(4)]
    operands = [random_tensor(rng, s, bits=int(rng.integers(1, 9))) for s in shapes]
    values = [random_values(rng, t) for t in operands]
    rank = max(map(len, shapes))
    reals = [real(t, v).reshape((len(v),) + (1,) * (rank - len(t.shape)) + t.shape) for t, v in zip(operands, values)]
    result = check(Compare(relation), operands, values, f(*reals).astype(int))
    # Where the type says that the result varies, some operands within their intervals give each of the two.
    ends = [np.broadcast_to(real(t, a), result.shape) for t in operands for a in t.arrays()[:2]]
    seen = [f(x, y) for x in ends[:2] for y in ends[2:]]
    lo, hi, _ = result.arrays()
    if relation != "equal":
        assert (np.any(seen, axis=0) == hi).all()
        assert (np.all(seen, axis=0) == lo).all()


@given(seed=seeds)
def test_select(seed):
    rng = np.random.default_rng(seed)
    shapes = [((3, 4), (3, 4), (4,)), ((4,), (3, 4), ()), ((), (2, 1), (1, 3))][rng.integers(3)]
    low = rng.integers(0, 2, shapes[0])
    condition = Tensor(shapes[0], Fixed.of(low, np.maximum(low, rng.integers(0, 2, shapes[0])), 0))
    operands = [condition, *(random_tensor(rng, s) for s in shapes[1:])]
    values = [random_values(rng, t) for t in operands]
    rank = max(map(len, shapes))
    c, x, y = (real(t, v).reshape((len(v),) + (1,) * (rank - len(t.shape)) + t.shape) for t, v in zip(operands, values))
    check(Select(), operands, values, np.where(c == 1, x, y))


@given(seed=seeds)
def test_unary(seed):
    rng = np.random.default_rng(seed)
    t = random_tensor(rng, (3, 2))
    v = random_values(rng, t)
    check(Neg(), [t], [v], -real(t, v))
    check(Shift(3), [t], [v], real(t, v) * 8)
    by = rng.integers(-4, 5, (3, 2))
    check(Shift(by), [t], [v], real(t, v) * np.vectorize(lambda k: Fraction(2) ** int(k), otypes=[object])(by))


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("rounding", Rounding)
@given(seed=seeds)
@settings(max_examples=25)
def test_quantize(rounding, overflow, seed):
    rng = np.random.default_rng(seed)
    t = random_tensor(rng, (4,), bits=int(rng.integers(1, 12)), spread=6)
    bits = int(rng.integers(1, 9))
    to = Fixed.bits(bits, int(rng.integers(-3, 10)), bool(rng.integers(2)))
    if overflow in (Overflow.SAT, Overflow.SAT_SYM) and rng.random() < 0.5:
        to = Fixed.of(to.lo + (to.lo < 0), to.hi, to.exp)
    v = random_values(rng, t)
    exact = real(t, v) / Fraction(2) ** to.exp
    rounded = np.vectorize(lambda x: round_fraction(x, rounding), otypes=[object])(exact)
    expected = np.asarray(overflowed(rounded, to.lo, to.hi, overflow)) * Fraction(2) ** to.exp
    op = Quantize(to, rounding, overflow)
    check(op, [t], [v], expected)
    acts = op.acts(t)
    if acts.idle:
        assert (expected == real(t, v)).all()


@pytest.mark.parametrize("rounding", Rounding)
@given(seed=seeds)
@settings(max_examples=25)
def test_requantize(rounding, seed):
    rng = np.random.default_rng(seed)
    t = random_tensor(rng, (3,), bits=10)
    scale = as_rational((rng.normal(size=3) * 10.0 ** rng.integers(-3, 2)).astype(np.float32))
    offset = as_rational(rng.normal(size=3).astype(np.float32))
    to = Fixed.of(-100, int(rng.integers(0, 200)), int(rng.integers(-3, 3)))
    v = random_values(rng, t)
    unit = Fraction(2) ** to.exp
    exact = (real(t, v) * scale + offset) / unit
    rounded = np.vectorize(lambda x: round_fraction(x, rounding), otypes=[object])(exact)
    check(Requantize(scale, offset, to, rounding), [t], [v], np.clip(rounded, to.lo, to.hi) * unit)


@given(seed=seeds)
def test_linear(seed):
    rng = np.random.default_rng(seed)
    t = random_tensor(rng, [(5,), (2, 5)][rng.integers(2)])
    op = Linear(rng.integers(-9, 10, (5, 3)) * (rng.random((5, 3)) < 0.7), [0, np.array([-2, 0, 3])][rng.integers(2)])
    v = random_values(rng, t)
    weights = op.weights.astype(object) * np.array([Fraction(2) ** int(e) for e in np.broadcast_to(op.exp, 3)], object)
    result = check(op, [t], [v], real(t, v) @ weights)
    # The interval is attained: by the operand's low end where the weight is negative, else by its high end.
    lo, hi, _ = t.arrays()
    for j in range(3):
        top = np.where(op.weights[:, j] < 0, lo, hi)[None]
        got = op.evaluate(result, [t], top)
        assert (got[..., j] == result.arrays()[1][..., j]).all()


def test_linear_beyond_the_floats_is_still_exact():
    t = Tensor((2,), Fixed.of(-(2**30), 2**30, 0))
    op = Linear(np.array([[2**29 + 1], [3]]))
    v = np.array([[2**30, 1], [2**30 - 1, -7]])
    assert op.evaluate(op.infer(t), [t], v).tolist() == [[(2**29 + 1) * 2**30 + 3], [(2**29 + 1) * (2**30 - 1) - 21]]


@given(seed=seeds)
def test_reductions(seed):
    rng = np.random.default_rng(seed)
    t = random_tensor(rng, (3, 4))
    v = random_values(rng, t)
    for axis in (0, 1):
        check(ReduceSum(axis), [t], [v], real(t, v).sum(axis=axis + 1, keepdims=True))
        check(ReduceMax(axis), [t], [v], real(t, v).max(axis=axis + 1, keepdims=True))


@given(seed=seeds)
def test_layout(seed):
    rng = np.random.default_rng(seed)
    t, u = random_tensor(rng, (2, 3, 2)), random_tensor(rng, (2, 1, 2))
    v, w = random_values(rng, t), random_values(rng, u)
    x = real(t, v)
    check(Reshape((4, 3)), [t], [v], x.reshape(-1, 4, 3))
    check(Transpose((2, 0, 1)), [t], [v], x.transpose(0, 3, 1, 2))
    index = rng.integers(0, 12, (3, 5))
    check(Gather(index), [t], [v], x.reshape(-1, 12)[:, index])
    check(Concat(1), [t, u], [v, w], np.concatenate([x, real(u, w)], axis=2))


@given(seed=seeds)
def test_window(seed):
    """Against a loop over positions and taps, in fractions."""
    rng = np.random.default_rng(seed)
    x = random_tensor(rng, (5, 4, 2))
    op = Window((3, 2), (2, 1), (1, int(rng.integers(1, 3))), (1, 0), (int(rng.integers(0, 2)), 1))
    values = random_values(rng, x)
    padded = np.pad(real(x, values), ((0, 0), (1, op.end[0]), (0, 1), (0, 0)), constant_values=Fraction(0))
    shape = op.infer(x).shape
    expected = np.empty((len(values), *shape), object)
    for p, q, i, j in np.ndindex(shape[0], shape[1], 3, 2):
        expected[:, p, q, 2 * i + j] = padded[:, 2 * p + i, q + j * op.dilations[1]]
    check(op, [x], [values], expected)


def test_a_window_filled_with_the_nearest_keeps_every_maximum():
    x = Tensor((4, 1), Fixed(-8, -1, 0))
    op = Window((3,), (1,), (1,), (1,), (1,), "nearest")
    got = op.evaluate(op.infer(x), [x], np.array([[[-5], [-3], [-8], [-2]]]))
    assert got[0, :, :, 0].max(axis=1).tolist() == [-3, -3, -2, -2]


@given(seed=seeds)
def test_lookup(seed):
    rng = np.random.default_rng(seed)
    t = Tensor((3,), Fixed.of(rng.integers(-8, 0, 3), rng.integers(0, 8, 3), rng.integers(0, 2, 3)))
    v = random_values(rng, t)
    for shape in ((40,), (3, 40)):
        table = rng.integers(-99, 99, shape)
        op = Lookup(table, -20, 0, -3)
        rows = np.broadcast_to(table, (3, 40))
        index = (real(t, v) + 20).astype(int)
        expected = np.stack([rows[k, index[:, k]] for k in range(3)], axis=1) * Fraction(1, 8)
        check(op, [t], [v], expected)


def test_constant_and_table_of_ops():
    t = Constant(np.array([1, -2]), -3).infer()
    assert t == Tensor((2,), Fixed.of([1, -2], [1, -2], -3))
    assert OPS["input"] is Input
    assert all(name == op.name and op.__doc__ for name, op in OPS.items())


X = Tensor((4,), Fixed(-8, 7, 0))


@pytest.mark.parametrize(
    "op,operands,sentence",
    [
        (Add(), (X, Tensor((3,), Fixed(0, 1, 0))), "add: operand shapes must broadcast, not [4] and [3]"),
        (
            Linear(np.ones((3, 2), np.int64)),
            (X,),
            "linear: the operand's last axis must match the weights' rows, not [4] and [3, 2]",
        ),
        (Reshape((5,)), (X,), "reshape: [4] cannot become [5]: the element counts differ"),
        (
            Quantize(Fixed(0, 2, 0)),
            (X,),
            "quantize: WRAP needs intervals that span a power of two, not Fixed(0, 2, 0); use SAT",
        ),
        (
            Compare("greater"),
            (X, X),
            "compare: the relation must be one of less, less_equal, equal, not 'greater'",
        ),
        (
            Select(),
            (X, X, X),
            "select: the condition must be 0 or 1, not within Fixed(-8, 7, 0); compare it with a constant first",
        ),
        (Gather(np.array([4])), (X,), "gather: indices must be within 0..3, not 4..4"),
        (
            Lookup(np.zeros(4, np.int64), -8, 0, 0),
            (X,),
            "lookup: the table covers 4 values from -8, which the operand leaves",
        ),
        (ReduceSum(1), (X,), "reduce_sum: axis 1 must be one of the operand's axes and not empty, shape [4]"),
        (Transpose((1,)), (X,), "transpose: axes must order the 1 axes of the operand, not [1]"),
    ],
)
def test_refusals(op, operands, sentence):
    with pytest.raises(CompileError) as e:
        op.infer(*operands)
    assert str(e.value) == sentence
