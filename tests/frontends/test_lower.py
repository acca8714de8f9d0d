"""What lowering keeps pending and what it realises: scales per channel, squares and sizes without a sign, wrapping quantizers."""

import numpy as np

import hwcompile as hc
from hwcompile.frontends.real import Add, Input, Maximum, Mul, Quant, RealBuilder, Scale, Sub
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
