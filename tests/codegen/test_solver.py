"""The constant-matrix solver: exact by propagated coefficients, sound intervals, no needless adders, deterministic."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwcompile.codegen.solver import AdderGraph, adder_bits, coefficients, depth, evaluate, intervals, solve


@st.composite
def matrices(draw: st.DrawFn, largest: int = 12) -> np.ndarray:
    shape = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    bits, density = draw(st.integers(1, 30)), draw(st.sampled_from([0.1, 0.5, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.integers(-(2**bits) + 1, 2**bits, shape) * (random.random(shape) < density)


@st.composite
def input_intervals(draw: st.DrawFn, n_inputs: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [sorted((draw(st.integers(-300, 300)), draw(st.integers(-300, 300)))) for _ in range(n_inputs)]
    return np.array(pairs).T[0], np.array(pairs).T[1]


def check_form(graph: AdderGraph) -> None:
    node = graph.n_inputs + np.arange(graph.n_adders)
    assert (graph.a >= 0).all()
    assert (graph.a < node).all()
    assert (graph.b >= 0).all()
    assert (graph.b < node).all()
    assert (np.minimum(graph.shift_a, graph.shift_b) == 0).all()
    assert set(np.abs(graph.sign).tolist()) | set(np.abs(graph.out_sign).tolist()) <= {1}
    assert (graph.out_shift >= 0).all()
    types = {field.name: getattr(graph, field.name).dtype for field in fields(graph) if field.name != "n_inputs"}
    assert types == {name: np.int8 if "sign" in name else np.int32 for name in types}


@given(matrices())
def test_coefficients_prove_the_matrix(weights: np.ndarray) -> None:
    graph = solve(weights)
    check_form(graph)
    assert np.array_equal(coefficients(graph), weights)


@given(st.data())
def test_intervals_hold_every_value_and_are_reached(data: st.DataObject) -> None:
    weights = data.draw(matrices(6))
    lo, hi = data.draw(input_intervals(len(weights)))
    graph = solve(weights, lo, hi)
    node_lo, node_hi = intervals(graph, lo, hi)
    nodes = replace(  # every node as an output
        graph,
        out_node=np.arange(len(node_lo), dtype=np.int32),
        out_shift=np.zeros(len(node_lo), np.int32),
        out_sign=np.ones(len(node_lo), np.int8),
    )
    corners = np.where(coefficients(nodes).T > 0, lo, hi), np.where(coefficients(nodes).T > 0, hi, lo)
    samples = np.random.default_rng(0).integers(lo, hi + 1, (50, len(lo)))
    values = evaluate(nodes, np.concatenate([*corners, samples]))
    assert np.array_equal(values.min(axis=0), node_lo)
    assert np.array_equal(values.max(axis=0), node_hi)


@given(st.data())
def test_absent_inputs_are_not_read(data: st.DataObject) -> None:
    weights = data.draw(matrices(8))
    absent = np.array(data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights))))
    graph = solve(weights, np.where(absent, 0, -8), np.where(absent, 0, 7))
    assert np.array_equal(coefficients(graph), np.where(absent[:, None], 0, weights))
    assert not np.isin(np.flatnonzero(absent), np.concatenate([graph.a, graph.b, graph.out_node])).any()


@pytest.mark.parametrize(
    ("weights", "adders"),
    [
        ([[0]], 0),
        ([[0, 0], [0, 0]], 0),
        ([[8]], 0),
        ([[-4]], 0),
        ([[7]], 1),
        ([[-7]], 1),
        ([[1], [1]], 1),
        ([[1], [-1]], 1),
        ([[-1], [-1]], 1),
        (np.eye(5, dtype=int), 0),
        (-np.eye(5, dtype=int) * 4, 0),
        ([[1, 2, -1, 4, 0], [3, 6, -3, 12, 0]], 2),  # equal but for a power of two and a sign
        ([[5, 10, 20], [5, 10, 20]], 2),
        ([[7, 14, 3]], 2),
        ([[1, 1, 1], [1, 1, 1], [1, 0, 0]], 2),  # a shared sum
        ([[45]], 3),
        ([[0b100100100]], 2),  # overlapping occurrences of one pattern
        ([[0b1001001001]], 2),
        ([[0], [3], [0]], 1),
    ],
)
def test_small_matrices_use_few_adders(weights: list[list[int]], adders: int) -> None:
    matrix = np.array(weights)
    graph = solve(matrix)
    check_form(graph)
    assert np.array_equal(coefficients(graph), matrix)
    assert graph.n_adders <= adders
    assert adder_bits(graph, np.full(len(matrix), -128), np.full(len(matrix), 127)) <= 16 * adders


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_matrices(shape: tuple[int, int]) -> None:
    graph = solve(np.zeros(shape, dtype=np.int64))
    assert np.array_equal(coefficients(graph), np.zeros(shape))
    assert depth(graph) == 0
    nothing = np.zeros(shape[0], dtype=np.int64)
    assert adder_bits(graph, nothing, nothing) == 0


def test_columns_with_a_positive_term_need_no_negation() -> None:
    weights = np.random.default_rng(5).integers(-31, 32, (16, 32))
    assert (solve(weights).out_sign > 0).all()
    assert solve(np.array([[-1], [4]])).out_sign.tolist() == [1]
    assert solve(np.array([[-7]])).out_sign.tolist() == [1]  # x - 8 x
    assert solve(np.array([[-1], [-1]])).out_sign.tolist() == [-1]


def test_same_matrix_same_network() -> None:
    weights = np.random.default_rng(3).integers(-31, 32, (24, 24))
    first, second = solve(weights), solve(weights.copy())
    for field in fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name))


def test_every_adder_is_used() -> None:
    graph = solve(np.random.default_rng(4).integers(-31, 32, (20, 30)))
    read = np.bincount(np.concatenate([graph.a, graph.b, graph.out_node]), minlength=20 + graph.n_adders)
    assert (read[20:] > 0).all()


def test_a_broken_network_is_found() -> None:
    weights = np.random.default_rng(6).integers(-31, 32, (8, 8))
    graph = solve(weights)
    for k in range(graph.n_adders):
        sign, shift = graph.sign.copy(), graph.shift_b.copy()
        sign[k], shift[k] = -sign[k], shift[k] + 1
        assert not np.array_equal(coefficients(replace(graph, sign=sign)), weights)
        assert not np.array_equal(coefficients(replace(graph, shift_b=shift)), weights)


def test_late_inputs_are_added_last() -> None:
    weights = np.ones((9, 1), dtype=np.int64)
    assert depth(solve(weights)) == 4
    late = solve(weights, arrival=[0] * 8 + [3])
    assert depth(late) == 4
    assert 8 in (late.a[-1], late.b[-1])


def test_depth_is_near_the_balanced_tree() -> None:
    weights = np.random.default_rng(7).integers(-31, 32, (64, 32))
    assert depth(solve(weights)) <= 12  # about 130 digits a column: a tree without sharing has 8 levels


def test_cost_of_known_adders() -> None:
    lo, hi = [0, 0], [255, 255]
    assert adder_bits(solve(np.array([[1], [1]]), lo, hi), lo, hi) == 8
    assert adder_bits(solve(np.array([[1], [16]]), lo, hi), lo, hi) == 8  # four low bits are wires
    assert adder_bits(solve(np.array([[1], [-16]]), lo, hi), lo, hi) == 8
    assert adder_bits(solve(np.array([[-1], [16]]), lo, hi), lo, hi) == 12  # the borrow runs through them
    assert adder_bits(solve(np.array([[1], [1]]), [-128, 0], [127, 255]), [-128, 0], [127, 255]) == 9


def test_published_size_of_a_trigger_network_is_reached() -> None:
    random = np.random.default_rng(1)
    total = deepest = 0
    for index, shape in enumerate([(16, 64), (64, 32), (32, 32), (32, 5)]):
        weights = random.integers(-31, 32, shape)
        lo, hi = (np.full(shape[0], value) for value in ((-128, 127) if index == 0 else (0, 255)))
        graph = solve(weights, lo, hi)
        assert np.array_equal(coefficients(graph), weights)
        total += adder_bits(graph, lo, hi)
        deepest = max(deepest, depth(graph))
    assert total < 49_034  # da4ml 0.6.0 with its default options on these matrices, at a depth of 14
    assert deepest <= 9


def test_more_inputs_than_one_window() -> None:
    weights = np.random.default_rng(8).integers(-7, 8, (150, 20))
    graph = solve(weights)
    check_form(graph)
    assert np.array_equal(coefficients(graph), weights)


@pytest.mark.slow
def test_large_matrix() -> None:
    weights = np.random.default_rng(2).integers(-31, 32, (256, 256))
    graph = solve(weights)
    assert np.array_equal(coefficients(graph), weights)
    assert depth(graph) <= 12


def test_wide_coefficients_and_refusals() -> None:
    wide = np.array([[2**56 - 1, -(2**55) + 12345]])
    assert np.array_equal(coefficients(solve(wide)), wide)
    with pytest.raises(OverflowError, match="62"):
        intervals(solve(wide), [0], [255])
    with pytest.raises(OverflowError, match="56 bits"):
        solve(np.array([[2**56]]))
    with pytest.raises(OverflowError, match="56 bits"):
        solve(np.array([[-(2**63)]]))
    with pytest.raises(TypeError, match="integers"):
        solve(np.array([[0.5]]))
    with pytest.raises(ValueError, match="shape"):
        solve(np.array([[1]]), [0, 0], [1, 1])
    with pytest.raises(TypeError, match="lo and hi"):
        solve(np.array([[1]]), [0.5], [1])
    with pytest.raises(ValueError, match="arrival"):
        solve(np.array([[1]]), arrival=[-1])
    with pytest.raises(ValueError, match="input 0"):
        solve(np.array([[1]]), [1], [0])


def test_coefficients_beyond_int64_are_python_integers() -> None:
    chain = np.arange(40, dtype=np.int32)
    graph = AdderGraph(
        1, chain, chain, np.zeros(40, np.int32), np.full(40, 3, np.int32), np.ones(40, np.int8),
        np.array([40], np.int32), np.array([0], np.int32), np.array([1], np.int8),
    )  # fmt: skip
    assert coefficients(graph).tolist() == [[9**40]]
