"""Traced numpy functions against numpy itself, event by event."""

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.real import RealBuilder
from hwcompile.frontends.trace import Traced, chain, fixed, quantize, take, trace

W = np.array([[1, -2, 0.5], [3, 0, -1], [0.25, 1, 2], [-1, 1, 1]])
EDGES = np.array([-3.0, -0.5, 0.5, 4.0])
TABLE = np.array([3, 1, 4, 1, 5, 9, 2, 6])

INPUTS = {
    "x": fixed("ap_fixed<8,4>", (4,)),
    "m": fixed("ap_fixed<6,3>", (3, 4)),
    "n": fixed("int8", (4,)),
    "u": fixed("ap_uint<3>", (4,)),
    "b": fixed("bool", (4,)),
    "s": fixed("ap_fixed<8,4>"),
}


def assigned(x):
    y = x.copy()
    y[1] = 2 * y[0]
    y[2:] = 0.5
    return y


def sorted_in_place(x):
    y = x.copy()
    y.sort()
    return y


def zeros_filled(x):
    out = np.zeros_like(x, shape=(2, 4))
    out[0] = x
    out[1, ::2] = x[:2]
    return out


FUNCTIONS = {
    "add": lambda x, n: x + n,
    "add_constant": lambda x: 1.5 + x + np.array([1, 2, 3, 4]),
    "subtract": lambda x, n: n - x,
    "from_constant": lambda x: 3 - x,
    "array_first": lambda x: np.arange(4) * x + np.ones(4),
    "multiply": lambda x, n: x * n,
    "broadcast": lambda x, m, s: x * m + s,
    "divide": lambda x: x / 4 - 3 / 8,
    "floor_divide": lambda x, n: (x // 0.5) + n // 3,
    "remainder": lambda x, n: (x % 1.5) + n % 5,
    "negative_divisor": lambda n: n // -4,
    "powers": lambda x: x**2 + x**3 + x**4 + x**1,
    "power_zero": lambda x: x**0,
    "abs_sign": lambda x: abs(x) + np.sign(x) - np.abs(-x),
    "bits": lambda n: (n >> 2) + (n << 3) + (n & 0x35) + (n | 6) + (n ^ 9) + ~n,
    "mask_negative": lambda n: n & ~7,
    "mask_zero": lambda n: n & 0,
    "logic": lambda b, x: (b & (x > 0)) | ~b ^ (x < -1),
    "logical": lambda n, x: np.logical_and(n, x > 1) | np.logical_not(n) | np.logical_xor(n, x),
    "comparisons": lambda x, n: [x < n, x <= 1, x > n, x <= 1, x == n, x != 0.5],
    "indexing": lambda m: m[1, ::-1] + m[:, 2][[0, 1, 1, 2]] + m[-1],
    "ellipsis": lambda m: m[..., None, :2],
    "boolean_index": lambda x: x[np.array([True, False, True, True])],
    "assigned": assigned,
    "zeros_filled": zeros_filled,
    "iteration": lambda m: sum(row * k for k, row in enumerate(m)),
    "astype_int": lambda x: x.astype(int),
    "astype_int8": lambda n: (n * 3).astype(np.int8),
    "astype_uint8": lambda n: n.astype(np.uint8),
    "astype_bool": lambda x: x.astype(bool).astype(float),
    "floor_ceil": lambda x: np.floor(x) + 3 * np.ceil(x) - np.trunc(x) + np.fix(x),
    "round": lambda x: np.rint(x) + np.round(x) + x.round() + round(x[0]),
    "clip": lambda x, n: np.clip(x, -1, 2) + x.clip(0) + np.clip(n, -u_limit(), n + 1),
    "max_min": lambda x, n: np.maximum(x, n) + np.minimum(x, 0.5) + np.fmax(0, x),
    "where": lambda x, n: np.where(x > n, x, 2 * n) + np.where(x > 0, 1, -1),
    "select": lambda x: np.select([x > 2, x > 0], [x, 2 * x], default=-1),
    "sum": lambda m: m.sum(0) + m.sum() + m.sum(1, keepdims=True)[0],
    "mean": lambda m: np.mean(m, axis=1),
    "mean_exact": lambda x: x.mean() * x,
    "max_axis": lambda m: m.max(0) - m.min(axis=0) + np.ptp(m),
    "any_all": lambda x, m: [np.any(x > 2), (m > -3).all(0), np.count_nonzero(m > 0)],
    "prod": lambda x: [np.prod(x[:3]), np.prod(x[:2], keepdims=True)],
    "prod_axis": lambda m: m.prod(axis=0),
    "cumsum": lambda m: np.cumsum(m, axis=0) + np.cumsum(m, axis=1) + np.cumsum(m).reshape(3, 4),
    "argmax": lambda m: [np.argmax(m), m.argmax(0), np.argmin(m, axis=1, keepdims=True)],
    "sort": lambda m: np.sort(m) + np.sort(m, axis=0) + np.sort(m, axis=None).reshape(3, 4),
    "sort_method": sorted_in_place,
    "argsort": lambda u: np.argsort(u, kind="stable"),
    "median": lambda m: [np.median(m[:, :3], axis=1), np.median(m)],
    "var": lambda x: np.var(x) + np.var(x, ddof=0),
    "matmul": lambda x, m: [x @ W, m @ W, np.matmul(m, W[:, 0]), W.T @ x, np.dot(W.T, x), m.dot(W)],
    "matmul_left": lambda m: np.arange(6).reshape(2, 3) @ m,
    "matmul_data": lambda x, m, n: [m @ x, m @ m.T, x @ n, np.inner(x, n)],
    "outer": lambda x, n: np.outer(x, n) + np.multiply.outer(x, n),
    "einsum": lambda m, x: [np.einsum("ij,j->i", m, W[:, 1]), np.einsum("ij,j->", m, x), np.einsum("ij->ji", m)],
    "diff": lambda m: np.diff(m, axis=0).sum() + np.diff(m, n=2),
    "layout": lambda m: np.transpose(m).reshape(2, 6)[:, ::2] + np.swapaxes(m, 0, 1).ravel()[:6].reshape(2, 3),
    "layout_methods": lambda m: m.T.flatten()[:4] + m.transpose(1, 0).swapaxes(0, 1)[0] + m.squeeze()[1],
    "roll_flip": lambda m: np.roll(m, 1, axis=1) + np.flip(m) + np.fliplr(m) + np.flipud(m) + np.rot90(m, 2),
    "repeat_tile": lambda x: np.repeat(x, 2) + np.tile(x, 2) + x.repeat(2),
    "expand": lambda x: np.expand_dims(x, 0) + np.broadcast_to(x, (3, 4)) + np.moveaxis(x[:, None], 0, 1),
    "join": lambda x, n: [np.concatenate([x, n]), np.stack([x, n], axis=1), np.hstack([x, 2 * n]), np.vstack([x, n])],
    "join_constant": lambda x: np.concatenate([np.zeros(2), x, [1, 2]]),
    "column_stack": lambda x, n: np.column_stack([x, n]),
    "stack_scalars": lambda x: np.stack([x[0], x[1] * 2, x.sum()]),
    "split": lambda x: np.split(x, 2)[0] - np.array_split(x, 2)[1],
    "take": lambda m, x: np.take(m, [2, 0], axis=0) + x.take([3, 1, 2, 0]),
    "take_table": lambda u: take(TABLE, u) + take(W[:, 0], u[:1] % 4),
    "take_table_rows": lambda u: take(W, u % 4),
    "take_data": lambda x, u: np.take(x, u % 4) + take(x, u[0] % 4),
    "take_along_axis": lambda m: np.take_along_axis(m, np.argsort(m, axis=1, kind="stable"), axis=1),
    "searchsorted": lambda x: (
        np.searchsorted(EDGES, x) + np.digitize(x, EDGES) * 10 + np.searchsorted(EDGES, x, "right")
    ),
    "pad": lambda x: [np.pad(x, 1), np.pad(x, (2, 1), constant_values=3), np.pad(x, 2, mode="edge")],
    "heaviside": lambda x: np.heaviside(x, 0.5),
    "trace": lambda m: np.trace(m[:3, :3]),
    "norm": lambda x: np.linalg.norm(x, 1) + np.linalg.norm(x, np.inf),
    "reduce": lambda m: np.add.reduce(m) + np.maximum.reduce(m, axis=0) + np.minimum.reduce(m),
    "average": lambda x: np.average(x, weights=[1, 1, 1, 1]),
    "like": lambda x: np.zeros_like(x) + np.ones_like(x) * np.full_like(x, 3) + x,
    "scalar": lambda s: s * 2 + 1,
    "python_sum": lambda x: sum(x) + max(2, 3),
    "shape": lambda m: m * np.size(m) + np.shape(m)[0] + m.ndim + len(m) + np.ndim(m),
    "quantize": lambda x: quantize(x * 1.25, "ap_fixed<5,3,AP_RND_CONV,AP_SAT>") + quantize(x, "ap_fixed<4,2>"),
    "quantize_third": lambda x: quantize(x / 3, "ap_fixed<6,4,AP_RND>"),
    "tanh": lambda x: quantize(np.tanh(x), "ap_fixed<10,2,AP_RND,AP_SAT>"),
    "functions": lambda x: quantize(np.exp(x / 4), "ap_fixed<12,5>") + quantize(np.log1p(abs(x)), "ap_fixed<10,3>"),
    "sqrt": lambda x: quantize((x * x) ** 0.5, "ap_fixed<10,5,AP_RND>") + quantize(np.sqrt(abs(x)), "ap_fixed<9,3>"),
    "reciprocal": lambda u: quantize(1 / (u + 1), "ap_ufixed<10,1,AP_RND>"),
}


def u_limit():
    return 3


def as_traced(function):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return Traced(function, {n: INPUTS[n] for n in names})


def events_of(traced, count, rng):
    found = {}
    for name, given in traced.inputs.items():
        t = given.precision.type
        n = rng.integers(t.lo, t.hi, (count, *given.shape), endpoint=True)
        found[name] = np.ldexp(n.astype(np.float64), t.exp)
    return found


def as_numpy(traced, events, k):
    """The function's own results for event k, with integers as int64, by output."""
    kinds = {
        n: (t.precision.type.exp == 0, (t.precision.type.lo, t.precision.type.hi) == (0, 1))
        for n, t in traced.inputs.items()
    }
    args = {
        n: (v[k].astype(bool) if kinds[n][1] else v[k].astype(np.int64) if kinds[n][0] else v[k])
        for n, v in events.items()
    }
    result = traced(**args)
    return [np.asarray(r, np.float64) for r in (result if isinstance(result, list) else [result])]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_traced_function_gives_what_numpy_gives(name):
    traced = as_traced(FUNCTIONS[name])
    design = hc.compile(traced, backends="cpu")
    events = events_of(traced, 40, np.random.default_rng(len(name)))
    for engine in ("reference", "cpu"):
        got = design.predict(events, engine=engine)
        outputs = list(got.values()) if isinstance(got, dict) else [got]
        for k in range(40):
            want = as_numpy(traced, events, k)
            assert len(want) == len(outputs)
            for a, b in zip(want, outputs):
                if name in ("mean", "tanh", "functions", "quantize_third"):  # the float result is rounded, or a scale
                    np.testing.assert_allclose(b[k], a, rtol=1e-15, atol=1e-15)
                else:
                    np.testing.assert_array_equal(b[k], a)


def network():
    """16 hidden units would do; two make the sentence."""
    builder = RealBuilder("net")
    from hwcompile.frontends.precision import parse_precision
    from hwcompile.frontends.real import Clip, Dense, Input

    x = builder.add(Input((3,)), name="features")
    q = builder.add(parse_precision("ap_fixed<8,3,AP_RND,AP_SAT>", "x").quant(), x, name="features_quant")
    h = builder.add(Dense(np.array([[1.0, -0.5], [0.25, 2], [-1, 0.75]])), q, name="dense")
    r = builder.add(Clip(0.0, None), h, name="relu")
    return builder.model([("score", builder.add(Dense(np.array([[1.0], [-0.5]])), r, name="out"))])


@trace(pt=fixed("ap_uint<12>", (3,)), eta=fixed("int16", (3,)))
def features(pt, eta):
    good = np.abs(eta) < 1000
    return np.where(good, pt, 0) / 64 - 2


def expected(pt, eta):
    q = quantize(features(pt, eta), "ap_fixed<8,3,AP_RND,AP_SAT>")
    h = np.maximum(q @ np.array([[1.0, -0.5], [0.25, 2], [-1, 0.75]]), 0)
    return h @ np.array([[1.0], [-0.5]])


def raw_events(count=300):
    rng = np.random.default_rng(5)
    return {"pt": rng.integers(0, 4096, (count, 3)), "eta": rng.integers(-2000, 2000, (count, 3))}


def test_integers_go_in_and_trigger_bits_come_out_of_one_kernel():
    model = chain(features, network(), lambda score: {"accept": (score > 0.5)[0], "score": score})
    design = hc.compile(model, backends="cpu,rtl,hls")
    events = raw_events()
    got = design.predict(events)
    want = np.array([expected(p, e) for p, e in zip(events["pt"], events["eta"])])
    np.testing.assert_array_equal(got["score"], want)
    np.testing.assert_array_equal(got["accept"], want[:, 0] > 0.5)
    assert 0 < got["accept"].mean() < 1
    verified = design.verify(events)
    assert [(r.engine, r.mismatches) for r in verified.results] == [(r.engine, 0) for r in verified.results]
    assert {r.engine for r in verified.results} >= {"reference", "cpu", "rtl", "hls"}


def test_a_network_is_called_inside_of_a_traced_function():
    net = network()

    @trace
    def trigger(pt: fixed("ap_uint<12>", 3), eta: fixed("int16", 3)):
        return net(features(pt, eta))[0] > 0.5

    events = raw_events(50)
    got = hc.compile(trigger, backends=()).predict(events, engine="reference")
    np.testing.assert_array_equal(got, [expected(p, e)[0] > 0.5 for p, e in zip(events["pt"], events["eta"])])


def test_a_float_input_is_calibrated():
    rng = np.random.default_rng(1)
    traced = trace(lambda x: np.tanh(x) * 0.3 + x, x=fixed("float", (4,)))
    x = rng.normal(size=(2000, 4))
    design = hc.compile(traced, backends="cpu", calibration=x, tolerance=0.02)
    difference = design.predict(x) - (np.tanh(x) * 0.3 + x)
    assert np.sqrt((difference**2).mean()) < 0.03 * np.sqrt((x**2).mean())


def error_of(function, **inputs):
    with pytest.raises(hc.CompileError) as caught:
        hc.load(trace(function, **inputs))
    return str(caught.value)


X = {"x": fixed("ap_fixed<8,4>", (4,))}

REFUSALS = {
    "branch": (lambda x: 1 if x[0] > 0 else 2, "known only when the hardware runs; use"),
    "item": (lambda x: np.zeros(4)[x[0]], "no plain array and no index of one"),
    "unsupported": (lambda x: np.fft.fft(x[:]), "(np.fft): is not supported in a traced function; supported: np."),
    "unsupported_ufunc": (lambda x: np.arctan2(x, x), "(np.arctan2): is not supported in a traced function"),
    "stored": (lambda x: np.asarray(x[:]), "no plain array and no index of one"),
    "nonzero": (lambda x: np.where(x > 0), "needs both choices"),
    "constant_result": (lambda x: 3, "does not depend on an input"),
    "not_finite": (lambda x: x + np.inf, "must be finite numbers"),
    "text": (lambda x: x + "a", "must be finite numbers"),
    "zero": (lambda x: x / 0, "by zero"),
    "data_divisor": (lambda x: x // x, "the divisor must be a constant"),
    "bits_of_reals": (lambda x: x >> 1, "needs whole numbers"),
    "shapes": (lambda x: x + np.ones(3), "does not fit shapes"),
    "axis": (lambda x: x.sum(2), "must be one of the 1 axes"),
    "type": (lambda x: quantize(x, "float16"), "must be a fixed-point or integer type, not 'float16'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_hardware_cannot_do_is_refused_at_its_line(name):
    function, text = REFUSALS[name]
    message = error_of(function, **X)
    assert text in message
    if name not in ("constant_result", "type"):
        assert message.startswith("test_trace.py:")


def test_inputs_must_have_types():
    assert "the types of its inputs must be given" in error_of(lambda x: x)
    assert "the argument 'y' needs a type" in error_of(lambda x, y: x + y, **X)
    assert "has no argument 'z'" in error_of(lambda x: x, z=fixed("int8"))


def test_a_pending_function_must_be_quantized():
    with pytest.raises(hc.CompileError, match="the result of tanh must be quantized"):
        hc.compile(trace(lambda x: np.tanh(x) + 1, **X), backends=())


@pytest.mark.parametrize(
    "text, lo, hi, exp, modes",
    [
        ("ap_fixed<16,6>", -(1 << 15), (1 << 15) - 1, -10, "TRN WRAP"),
        ("fixed<8,3,RND,SAT>", -128, 127, -5, "RND SAT"),
        ("ap_ufixed< 5 , 7 , AP_RND_CONV , AP_SAT_SYM >", 0, 31, 2, "RND_CONV SAT_SYM"),
        ("ac_fixed<8,3,false>", 0, 255, -5, "TRN WRAP"),
        ("ac_fixed<8,3,true,AC_RND,AC_SAT>", -128, 127, -5, "RND SAT"),
        ("uint<4>", 0, 15, 0, "TRN WRAP"),
        ("ap_int<4>", -8, 7, 0, "TRN WRAP"),
        ("uint16", 0, 65535, 0, "TRN WRAP"),
        ("bool", 0, 1, 0, "TRN WRAP"),
    ],
)
def test_types_are_read_as_people_write_them(text, lo, hi, exp, modes):
    from hwcompile.frontends.precision import parse_precision

    p = parse_precision(text, "x")
    assert (p.type.lo, p.type.hi, p.type.exp) == (lo, hi, exp)
    assert f"{p.rounding.value} {p.overflow.value}" == modes


@pytest.mark.parametrize(
    "text", ["ap_fixed<16>", "ap_fixed<0,3>", "ap_fixed<8,3,AP_UP>", "double", "ap_fixed<8,3,AP_RND,AP_WRAP,2>", ""]
)
def test_other_types_are_refused(text):
    from hwcompile.frontends.precision import parse_precision

    with pytest.raises(hc.CompileError):
        parse_precision(text, "x")


def _endless(x):
    return _endless(x)


@pytest.mark.parametrize(
    "function, sentence",
    [
        (_endless, "stops with RecursionError"),
        (lambda x: x[9], "stops with IndexError: index 9 is out of bounds"),
        (lambda x: x.reshape(3, -1), "stops with ValueError: cannot reshape"),
        (lambda x: {}["a"], "stops with KeyError: 'a'"),
        (lambda x: np.sort(x, axis=7), "stops with IndexError"),
        (lambda x: x.astype("foo"), "stops with TypeError"),
        (lambda x: x**np.inf, "the exponent must be finite"),
    ],
)
def test_what_the_function_raises_is_told_at_its_line(function, sentence):
    with pytest.raises(hc.CompileError) as caught:
        trace(function, x=fixed("int8", 4)).model()
    assert str(caught.value).startswith("test_trace.py:")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("shape", [0, -1, (2, 0), 1 << 40, None, "4", 2.5])
def test_shapes_of_no_hardware_are_refused(shape):
    with pytest.raises(hc.CompileError, match="shape of an input: must be whole numbers from 1"):
        fixed("int8", shape)


def test_only_functions_are_traced():
    for given in (3, int):
        with pytest.raises(hc.CompileError, match="must be given a function"):
            trace(given, x=fixed("int8", 4))
    with pytest.raises(hc.CompileError, match="stage 1: stops with TypeError"):
        chain(trace(lambda x: x, x=fixed("int8", 4)), lambda a, b: a)
