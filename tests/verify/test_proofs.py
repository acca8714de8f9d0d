"""The proof accepts what was emitted and finds any flipped sign, wrong shift or narrow row, naming the op."""

import dataclasses

import numpy as np
import pytest

from hwcompile.codegen.unroll import unroll_nodes
from hwcompile.ir.graph import Builder, Output
from hwcompile.ir.ops import Add, Constant, Gather, Input, Linear, Neg, Quantize
from hwcompile.ir.rounding import Overflow, Rounding
from hwcompile.ir.scalar import Code
from hwcompile.ir.types import Fixed
from hwcompile.verify.proofs import prove_linear
from hwcompile.verify.random_graphs import random_graph


def two_layers(seed=0):
    rng = np.random.default_rng(seed)
    b = Builder("net")
    x = b.add(Input((3, 6), Fixed.of(np.full(6, -8), np.full(6, 7), [0, 0, -2, 3, 1, 0])), name="x")
    x = b.add(Linear(rng.integers(-15, 16, (6, 5)), rng.integers(-3, 0, 5)), x, name="first")
    x = b.add(Add(), x, b.add(Constant(rng.integers(-9, 9, 5))))
    x = b.add(Neg(), b.add(Quantize(Fixed(-16, 15, 0), Rounding.RND, Overflow.SAT), x))
    x = b.add(Gather(np.array([[0, 1, 2, 2, 7], [14, 13, 12, 11, 10]])), x)
    return b.graph([Output("y", b.add(Linear(rng.integers(-15, 16, (5, 4)), -2), x, name="second"))])


def test_two_layers_are_proved():
    graph = two_layers()
    proof = prove_linear(graph, unroll_nodes(graph))
    assert proof.holds
    assert proof.layers == ("first", "second")
    assert proof.adders > 40


@pytest.mark.parametrize("block", range(4))
def test_random_graphs_are_proved(block):
    for seed in range(block * 25, block * 25 + 25):
        graph = random_graph(np.random.default_rng(seed), 20)
        proof = prove_linear(graph, unroll_nodes(graph))
        assert proof.failures == ()


def rows_of(unrolled, layer, code):
    s = unrolled.scalar
    return np.flatnonzero((s.code == code) & (s.group == s.groups.index(layer)))


@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_flipped_sign_is_found(layer):
    graph = two_layers()
    unrolled = unroll_nodes(graph)
    for row in rows_of(unrolled, layer, Code.SUB)[:10]:
        code = unrolled.scalar.code.copy()
        code[row] = Code.ADD
        proof = prove_linear(graph, unrolled, dataclasses.replace(unrolled.scalar, code=code))
        assert not proof.holds
        assert layer not in proof.layers
        assert all(f.startswith(f"{layer} (linear): ") for f in proof.failures)


def test_a_wrong_shift_is_found():
    graph = two_layers()
    unrolled = unroll_nodes(graph)
    row = rows_of(unrolled, "second", Code.SUB)[-1]
    shift = unrolled.scalar.shift_b.copy()
    shift[row] += 1
    proof = prove_linear(graph, unrolled, dataclasses.replace(unrolled.scalar, shift_b=shift))
    assert any("is not the product with column" in f for f in proof.failures)


def test_a_row_too_narrow_is_found():
    graph = two_layers()
    unrolled = unroll_nodes(graph)
    row = rows_of(unrolled, "first", Code.SUB)[0]
    hi = unrolled.scalar.hi.copy()
    hi[row] -= 1
    proof = prove_linear(graph, unrolled, dataclasses.replace(unrolled.scalar, hi=hi))
    assert len(proof.failures) == 1
    assert "and its width holds only" in proof.failures[0]


def test_a_foreign_op_in_the_network_is_found():
    graph = two_layers()
    unrolled = unroll_nodes(graph)
    code = unrolled.scalar.code.copy()
    code[rows_of(unrolled, "first", Code.SUB)[0]] = Code.MAXIMUM
    proof = prove_linear(graph, unrolled, dataclasses.replace(unrolled.scalar, code=code))
    assert "is a maximum and no sum of the operands" in proof.failures[0]
