"""Formulas from strings, sympy and pyoperon against their own values."""

import numpy as np
import pytest
import sympy

import hwcompile as hc
from hwcompile.frontends.expressions import expression

# What needs no table is exact: a formula, and the same of numpy arrays.
EXACT = {
    "0.5*x0**2 - 3*x1 + x0*x1 + 0.25": lambda a, b: 0.5 * a**2 - 3 * b + a * b + 0.25,
    "x0^3 + square(x1) + cube(x0) + pow(x1, 2)": lambda a, b: 2 * a**3 + 2 * b**2,
    "x0 if x0 > x1 else -x1": lambda a, b: np.where(a > b, a, -b),
    "max(x0, x1, 0.5) + min(x0, x1) - abs(x0)": lambda a, b: (
        np.maximum(np.maximum(a, b), 0.5) + np.minimum(a, b) - abs(a)
    ),
    "where(x0 > 0 and not (x1 < 1 or x1 > 2), 1, x0)": lambda a, b: np.where((a > 0) & (b >= 1) & (b <= 2), 1, a),
    "where(-1 < x0 <= 1, x1, 0)": lambda a, b: np.where((a > -1) & (a <= 1), b, 0),
    "floor(x0) + ceil(x1) + sign(x0*x1)": lambda a, b: np.floor(a) + np.ceil(b) + np.sign(a * b),
    "x0 // 0.5 + x1 % 2": lambda a, b: a // 0.5 + b % 2,
    "cond(x0, x1) + greater(x0, x1)": lambda a, b: np.where(a > 0, b, 0) + (a > b),
    "relu(x1) + neg(x0)": lambda a, b: np.maximum(b, 0) - a,
    "x0 + x1 + x0 + 1 + x1 - 2": lambda a, b: 2 * a + 2 * b - 1,
}

TABLES = {
    "0.5*x0**2 + tanh(x1) - x1/(1 + x1**2)": lambda a, b: 0.5 * a**2 + np.tanh(b) - b / (1 + b**2),
    "(1.67 + (0.76 * (x0 / (sqrt(1 + ((-0.957) * x1) ^ 2)))))": lambda a, b: (
        1.67 + 0.76 * a / np.sqrt(1 + (0.957 * b) ** 2)
    ),
    "sin(pi*x0/4) * cos(x1)": lambda a, b: np.sin(np.pi * a / 4) * np.cos(b),
    "exp(-abs(x0)) + log(1 + x1^2)": lambda a, b: np.exp(-abs(a)) + np.log(1 + b**2),
    "sigmoid(x0) - logistic(x1)": lambda a, b: 1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b)),
    "(abs(x0) + 1)^(x1/4)": lambda a, b: (abs(a) + 1) ** (b / 4),
}


def events(count=2000):
    return np.random.default_rng(3).integers(-256, 256, (count, 2)) / 64


@pytest.mark.parametrize("text", EXACT)
def test_formulas_without_tables_are_exact(text):
    wanted = EXACT[text]
    x = events()
    got = hc.compile(expression(text, "ap_fixed<9,3>"), backends="cpu").predict(x)
    np.testing.assert_array_equal(got, wanted(x[:, 0], x[:, 1]))


@pytest.mark.parametrize("text", TABLES)
def test_tables_are_as_fine_as_the_tolerance_asks(text):
    wanted = TABLES[text]
    x = events()
    want = wanted(x[:, 0], x[:, 1])
    for tolerance in (0.05, 0.002):
        design = hc.compile(expression(text, "ap_fixed<9,3>", tolerance=tolerance), backends="cpu")
        difference = design.predict(x) - want
        assert (
            np.sqrt(np.mean(difference**2) / np.mean(want**2)) < 1.2 * tolerance
        )  # other events than it was chosen on


def test_every_engine_gives_the_same():
    model = expression(["tanh(x0) * x1", "x0 > x1"], "ap_fixed<9,3>", tolerance=0.02)
    design = hc.compile(model, backends="rtl,hls,cpu")
    assert design.predict(events()).shape == (2000, 2)
    verified = design.verify(events(500)).results
    assert [r.mismatches for r in verified] == [0] * len(verified)
    assert len(verified) == 5


def test_variables_and_their_types():
    model = expression({"a": "pt - 2*eta", "b": "eta"}, {"eta": "ap_int<4>", "pt": "ap_ufixed<8,6>"})
    got = hc.compile(model, backends="cpu").predict(np.array([[3, 10.25], [-8, 63.75]]))  # eta, pt: in natural order
    np.testing.assert_array_equal(got["a"], [4.25, 79.75])
    np.testing.assert_array_equal(got["b"], [3, -8])
    model = expression("x2 - x10", "int8")
    assert model.nodes[model.inputs[0]].shape == (11,)
    model = expression("X2", "int8")
    assert model.nodes[model.inputs[0]].shape == (2,)
    model = expression("x2", "int8", variables=["x1", "x2", "x3"])
    np.testing.assert_array_equal(hc.compile(model, backends="cpu").predict([[1, 2, 3]]), [2])


def test_sympy_expressions():

    a, b = sympy.symbols("x0 x1")
    e = (
        sympy.Piecewise((a * b, a > 1), (-b / 4, sympy.And(a < 0, b > 0)), (sympy.Rational(1, 2), True))
        + sympy.Max(a, b)
        - sympy.Abs(b)
    )
    x = events()
    got = hc.compile(expression(e, "ap_fixed<9,3>"), backends="cpu").predict(x)
    want = sympy.lambdify((a, b), e)(x[:, 0], x[:, 1])
    np.testing.assert_array_equal(got, want)
    e = sympy.exp(-(a**2)) * sympy.sin(b) + sympy.sqrt(1 + a**2) + sympy.pi * a
    got = hc.compile(expression(e, "ap_fixed<9,3>", tolerance=0.01), backends="cpu").predict(x)
    want = sympy.lambdify((a, b), e)(x[:, 0], x[:, 1])
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.012
    got = hc.compile(a * b - 2 * a, backends="cpu", calibration=x, tolerance=0.001).predict(x)
    assert np.abs(got - (x[:, 0] * x[:, 1] - 2 * x[:, 0])).max() < 0.1


def test_a_regressor_of_pyoperon():
    from pyoperon.sklearn import SymbolicRegressor

    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (400, 3)) / 64
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] ** 2
    settings = {
        "allowed_symbols": "add,mul,sub,aq,sin,square,constant,variable",
        "population_size": 100,
        "generations": 5,
    }
    found = SymbolicRegressor(**settings, n_threads=1, random_state=1, max_time=5)
    with pytest.raises(hc.CompileError, match="must be fitted"):
        hc.load(found)
    found.fit(x, y)
    design = hc.compile(expression(found, "ap_fixed<8,2>", tolerance=0.005), backends="cpu")
    want = found.predict(x).reshape(-1)
    got = design.predict(x)
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.01
    assert hc.load(found).nodes[0].shape == (3,)


REFUSALS = {
    "x0 +": "is no formula",
    "__import__('os').system('ls')": "is no part of a formula",
    "open(x0)": "the function 'open' is not known",
    "x0.real": "'x0.real' is no part of a formula",
    "[x0]": "is no part of a formula",
    "atan2(x0, x1)": "the function 'atan2' is not known; known: abs",
    "sin(x0, x1)": "'sin' takes 1 arguments, not 2",
    "3": "must have a variable",
    "'a' + x0": "is no part of a formula",
    "x0 + 1j": "is no part of a formula",
    "lambda x: x": "is no part of a formula",
    "x0 // x1": "the divisor must be a constant",
    "log(x0)": "'log' has no finite value somewhere in the range of the inputs",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_is_no_formula_is_refused_and_nothing_is_executed(text):
    with pytest.raises(hc.CompileError) as caught:
        expression(text, "ap_fixed<8,4>")
    assert REFUSALS[text] in str(caught.value)


def test_huge_formulas_are_refused():
    for text in (
        "(" * 300 + "x0" + ")" * 300,
        "-" * 5000 + "x0",
        "sin(" * 250 + "x0" + ")" * 250,
        "x0+" * 60_000 + "x0",
        "x99999999",
    ):
        with pytest.raises(hc.CompileError):
            expression(text, "ap_fixed<8,4>")


def test_wrong_settings_are_refused():
    for arguments, text in (
        ({"inputs": {"x0": "int8"}}, "must give a type for each of x0, x1"),
        ({"inputs": {"x0": "int8", "x1": "int8", "x2": "int8"}}, "must give a type for each of x0, x1"),
        ({"inputs": {"x0": "ap_fixed<8,4>", "x1": "ap_fixed<8,4,AP_RND>"}}, "must have one rounding"),
        ({"inputs": "int8", "variables": ["x0"]}, "the variable 'x1' is not among x0"),
    ):
        with pytest.raises(hc.CompileError) as caught:
            expression("x0 + x1", **arguments)
        assert text in str(caught.value)
    with pytest.raises(hc.CompileError, match="must be a string or a sympy expression, not int"):
        expression([3])


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("x0*1e400", "has the constant inf"),
        ("x0**1e400", "has the constant inf"),
        ("0/0*x0", "has a constant without a finite value"),
        ("9**9**9**9*x0", "has a constant without a finite value"),
        ("x0*(2**100000)", "has a constant without a finite value"),
        ("inv(0)*x0", "has a constant without a finite value"),
        ("log(0)*x0", "has the constant -inf"),
        ("(-8)**0.5*x0", "use finite real numbers"),
        ("nan*x0", "has the constant nan"),
        ("Inf + x0", "has the constant Inf"),
        ("-" * 2000 + "x0", "is nested more than"),
    ],
)
def test_constants_are_finite_real_numbers(text, sentence):
    with pytest.raises(hc.CompileError) as caught:
        expression(text, "ap_fixed<8,4>")
    assert sentence in str(caught.value)


def test_settings_of_the_wrong_kind_are_refused():
    for arguments, text in (
        ({"inputs": None}, "inputs: must be a type, or types by name, not None"),
        ({"inputs": 3}, "inputs: must be a type, or types by name, not 3"),
        ({"inputs": "int8", "variables": 3}, "variables: must be different names, not 3"),
        ({"inputs": "int8", "variables": [1, 2]}, "variables: must be different names"),
        ({"inputs": "int8", "variables": ["x0", "x0"]}, "variables: must be different names"),
        ({"inputs": "int8", "bits": "x"}, "bits must be from 2 to 20, not 'x'"),
        ({"inputs": "int8", "tolerance": "a"}, "the tolerance must be between 0 and 1, not 'a'"),
    ):
        with pytest.raises(hc.CompileError) as caught:
            expression("x0 + tanh(x1)", **arguments)
        assert text in str(caught.value)


def test_what_sympy_has_beyond_formulas_is_refused():
    import sympy

    x, y = sympy.symbols("x y")
    for formula, text in (
        (sympy.Matrix([x, y]), "must be one expression, not a matrix"),
        (sympy.Sum(x, (y, 0, 10)), "'y' is bound inside of it"),
        (sympy.Function("f")(x), "the function 'f' is not known"),
    ):
        with pytest.raises(hc.CompileError) as caught:
            expression(formula, "ap_fixed<8,4>")
        assert text in str(caught.value)
    with pytest.raises(hc.CompileError, match="the function 'f' is not known"):
        hc.load(sympy.Function("f")(x))


def test_a_regressor_of_pysr_is_asked_for_its_formula():
    """PySR needs Julia; this is what its regressor offers: `sympy()` gives the chosen equation, or one for each output."""
    a, b = sympy.symbols("x0 x2")

    class PySRRegressor:
        def __init__(self, found):
            self.found = found

        def sympy(self):
            return self.found

        def predict(self, x):
            return sympy.lambdify((a, b), self.found)(x[:, 0], x[:, 2])

    PySRRegressor.__module__ = "pysr.sr"
    one, two = PySRRegressor(a * b - 0.5), PySRRegressor([a + b, a - b])
    x = np.random.default_rng(0).integers(-64, 64, (100, 3)) / 16
    np.testing.assert_array_equal(
        hc.compile(expression(one, "ap_fixed<8,4>"), backends="cpu").predict(x), one.predict(x)
    )
    got = hc.compile(expression(two, "ap_fixed<8,4>"), backends="cpu").predict(x)
    np.testing.assert_array_equal(got, np.stack([x[:, 0] + x[:, 2], x[:, 0] - x[:, 2]], 1))
    assert hc.load(one).nodes[0].shape == (3,)
