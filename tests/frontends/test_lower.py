"""What lowering keeps pending and what it realises: scales per channel, squares and sizes without a sign, wrapping quantizers."""

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.frontends.real import Add, Input, Maximum, Mul, Quant, RealBuilder, Scale, Sub
from hwcompile.frontends.real import quantized as quantized_values
from hwcompile.ir.rounding import Overflow, Rounding

ZERO = np.zeros((), np.int64)


def quantized(scale, lo=-8, hi=7, overflow=Overflow.SAT):
    builder = RealBuilder("net")
    x = builder.add(Input((3,)), name="x")
    return builder, builder.add(Quant(np.asarray(scale), ZERO, lo, hi, Rounding.RND_CONV, overflow), x, name="q")


def design(builder, result):
    return hc.compile(builder.model([("y", result)]), backends="cpu")


def test_a_sum_keeps_equal_scales_per_channel_pending():
    builder, q = quantized([0.1, 0.2, 0.3])
    twice = builder.add(Add(), q, q, name="twice")
    d = design(builder, builder.add(Sub(), twice, q, name="once"))
    np.testing.assert_allclose(d.predict([[0.2, 0.4, 0.6], [0.7, -5, 0.9]]), [[0.2, 0.4, 0.6], [0.7, -1.6, 0.9]])
    assert all(n.op.name != "mul" for n in d.graph.nodes)


def test_squares_and_sizes_have_no_sign():
    for op, most in ((Mul(), 64), (Maximum(), 8)):
        builder, q = quantized(1.0)
        other = q if isinstance(op, Mul) else builder.add(Scale(np.asarray(-1.0)), q, name="minus")
        d = design(builder, builder.add(op, q, other, name="result"))
        t = d.graph.nodes[d.graph.outputs[0].node].type.fixed
        assert t.lo == 0
        assert most <= t.hi < 2 * most
        np.testing.assert_array_equal(d.predict([[-8, 3, 7]]), [[64, 9, 49] if isinstance(op, Mul) else [8, 3, 7]])


def test_a_wrapping_quantizer_wraps_behind_any_scale():
    for scale in (0.5, 0.3):
        builder, q = quantized(scale, overflow=Overflow.WRAP)
        thirds = builder.add(Scale(np.asarray(7.0)), q, name="wide")
        again = Quant(np.asarray(scale), ZERO, -8, 7, Rounding.RND, Overflow.WRAP)
        d = design(builder, builder.add(again, thirds, name="again"))
        n = np.array([[-8, 3, 7], [1, 2, -3]])
        np.testing.assert_allclose(d.predict(n * scale), ((7 * n + 8) % 16 - 8) * scale)


def test_an_input_may_meet_several_quantizers():
    """One finer quantizer on the host, and the others as hardware: the same numbers as each on its own."""
    x = np.concatenate([np.linspace(-9, 9, 999), np.random.default_rng(0).normal(size=999)]).reshape(-1, 3)
    for roundings, overflow in (
        ((Rounding.TRN, Rounding.TRN), Overflow.SAT),
        ((Rounding.RND, Rounding.TRN), Overflow.SAT),
        ((Rounding.RND, Rounding.RND), Overflow.WRAP),
        ((Rounding.TRN, Rounding.RND), Overflow.SAT_SYM),
    ):
        builder = RealBuilder("net")
        i = builder.add(Input((3,)), name="x")
        fine = Quant(np.array([0.25, 0.125, 0.5]), ZERO, -16, 15, roundings[0], overflow)
        coarse = Quant(np.asarray(0.5), ZERO, -4, 3, roundings[1], overflow)
        outputs = [(f"y{k}", builder.add(q, i, name=f"q{k}")) for k, q in enumerate((fine, coarse))]
        got = hc.compile(builder.model(outputs), backends="cpu").predict(x)
        for k, q in enumerate((fine, coarse)):
            np.testing.assert_array_equal(got[f"y{k}"], quantized_values(q, x) * q.scale)


def test_quantizers_that_no_finer_one_serves_are_refused():
    for roundings in ((Rounding.RND_CONV, Rounding.TRN), (Rounding.RND_CONV, Rounding.RND)):
        builder = RealBuilder("net")
        i = builder.add(Input((3,)), name="x")
        outputs = [
            (f"y{k}", builder.add(Quant(np.asarray(0.5 * (k + 1)), ZERO, -4, 3, r), i, name=f"q{k}"))
            for k, r in enumerate(roundings)
        ]
        with pytest.raises(hc.CompileError, match="must have one quantizer, or several on power-of-two grids"):
            hc.compile(builder.model(outputs), backends=())
