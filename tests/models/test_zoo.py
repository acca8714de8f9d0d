"""The zoo on the samples that ship: every model trains, compiles to the integers of its module, and is better than chance."""

import dataclasses

import numpy as np
import pytest
import torch

import hwcompile as hc
from hwcompile import models
from hwcompile.ir.errors import CompileError
from hwcompile.models import anomaly, data, figures, pixels
from hwcompile.models.jets import JetTransformer
from hwcompile.models.model import train


def trained(name, effort, **changes):
    """A model trained briefly on its sample; budgets are for long trainings."""
    model = models.get(name)
    recipe = dataclasses.replace(model.recipe, **{"budget": None, **changes})
    return train(dataclasses.replace(model, recipe=recipe), model.sample(), seed=0, effort=effort)


def compiled(found):
    """The figures of the compiled engine, whose outputs must be the module's."""
    design = hc.compile(found.module, example_inputs=found.x[:50], backends="cpu")
    outputs = design.predict(found.x)
    with torch.no_grad():
        assert np.array_equal(outputs, found.module(torch.as_tensor(found.x)).numpy())
    return found.metrics(outputs)


def test_jet_mlp():
    found = trained("jet_mlp", 0.01)
    assert compiled(found)["accuracy"] > 0.45  # of 5 classes
    assert found.float_metrics()["accuracy"] > 0.45
    assert [r.name for r in found.records] == ["Train", "Distill", "Quantize", "Train"]


def test_a_budget_is_kept():
    found = trained("pixel_filter", 0.05, budget=1000)
    assert found.records[-1].measures["lut"] <= 1050
    figures = compiled(found)
    assert figures["kept_at_93.3"] >= 0.933


@pytest.mark.slow
def test_jet_deepsets():
    assert compiled(trained("jet_deepsets", 0.05))["accuracy"] > 0.3


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"blocks": 2, "norm": True}, marks=pytest.mark.slow)],
    ids=["one block", "two blocks and layer normalization"],
)
def test_jet_transformer(options):
    """Eight constituents."""
    model = models.get("jet_transformer")

    def inputs(part):
        given = model.inputs(part)
        return lambda events: given(events)[:, :8]

    small = dataclasses.replace(
        model, shape=(8, 3), inputs=inputs, network=lambda: JetTransformer(size=8, **options),
        recipe=dataclasses.replace(model.recipe, budget=None),
    )  # fmt: skip
    assert compiled(train(small, model.sample(), seed=0, effort=0.15 if options else 0.05))["accuracy"] > 0.3


def test_pixel_filter_tells_charges_apart():
    found = compiled(trained("pixel_filter", 0.05))
    assert found["rejected_below_0.2_gev_at_93.3"] > 0.3  # 0.067 is chance


@pytest.mark.slow
@pytest.mark.parametrize(("name", "effort"), [("pixel_regression", 0.06), ("pixel_regression_adc", 0.25)])
def test_pixel_regression(name, effort):
    found = trained(name, effort)
    got, test = compiled(found), found.parts.test
    for target in ("x_um", "y_um"):
        assert got[f"{target}_rms"] < 0.8 * test[target].std()
        assert 0.5 < got[f"{target}_coverage"] < 0.85


@pytest.mark.slow
def test_anomaly_vae():
    found = trained("anomaly_vae", 0.05)
    got = compiled(found)
    assert (got["auc_a_to_4l"] + got["auc_leptoquark"]) / 2 > 0.58
    assert isinstance(found.module, anomaly.SumOfSquares)
    assert (found.module(torch.as_tensor(found.x)) >= 0).all()


def test_pulse_lstm():
    got = compiled(trained("pulse_lstm", 0.05))
    assert got["rms_all_mev"] < got["optimal_filter_rms_all_mev"]


def test_digits():
    assert compiled(trained("digits", 0.1))["accuracy"] > 0.8


def test_a_seed_gives_the_same_network():
    x = torch.rand(50, 14)
    model = models.get("pixel_filter")
    model = dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, budget=None))
    first, second, other = (train(model, model.sample(), seed, 0.001).module(x) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_likelihood_is_that_of_the_normal_distribution():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(20, 14, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    root = pixels.covariance_root(outputs)
    exact = torch.distributions.MultivariateNormal(outputs[:, :4], scale_tril=root).log_prob(y)
    constant = 2 * np.log(2 * np.pi)
    assert float(pixels.negative_log_likelihood(outputs, y)) == pytest.approx(float(-exact.mean()) - constant, abs=1e-9)


def test_likelihood_stays_finite_with_its_gradient():
    """The diagonal of outputs that are as small as any quantizer makes them."""
    outputs = torch.full((3, 14), -1000.0, requires_grad=True)
    loss = pixels.negative_log_likelihood(outputs, torch.full((3, 4), -999.0))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


def test_pulls_of_a_right_covariance_are_one():
    """Outputs that state the true means and covariance of events drawn from them."""
    rng = np.random.default_rng(0)
    n, units = 4000, np.array(list(pixels.TARGETS.values()))
    outputs = np.zeros((n, 14))
    outputs[:, :4], outputs[:, 4:] = rng.normal(size=(n, 4)), rng.normal(size=(n, 10)) / 2
    root = pixels.covariance_root(torch.as_tensor(outputs)).numpy()
    truth = (outputs[:, :4] + np.einsum("nij,nj->ni", root, rng.normal(size=(n, 4)))) * units
    events = data.DataSet("drawn", dict(zip(pixels.TARGETS, truth.T)), target="x_um", inputs="x_um")
    got = models.get("pixel_regression").metrics(outputs, events)
    for name in pixels.TARGETS:
        assert got[f"{name}_pull_half_width"] == pytest.approx(1, abs=0.06)
        assert got[f"{name}_coverage"] == pytest.approx(0.683, abs=0.03)
        assert abs(got[f"{name}_pull_mean"]) < 0.06


def test_separation_figures():
    rng = np.random.default_rng(1)
    low, high = rng.integers(0, 20, 300), rng.integers(5, 30, 200)
    pairs = np.sign(high[:, None] - low).mean() / 2 + 0.5
    assert figures.area_under_roc(low, high) == pytest.approx(pairs)
    assert figures.area_under_roc(low, low) == pytest.approx(0.5)
    for rate in (0.0, 0.01, 0.1):
        passes = [t for t in range(-1, 31) if np.mean(low > t) <= rate]
        assert figures.efficiency_at(low, high, rate) == np.mean(high > min(passes))
    kept = figures.threshold_keeping(high, 0.9)
    assert np.mean(high >= kept) >= 0.9 > np.mean(high > kept)
    assert figures.half_width(rng.normal(0, 3, 100_000)) == pytest.approx(3, rel=0.02)


def test_outputs_from_outside_are_judged_like_the_modules():
    found = trained("pixel_filter", 0.005)
    assert found.metrics() == compiled(found)
    with pytest.raises(CompileError, match="one for each of the 200 test events, not 3"):
        found.metrics(np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: models.get("resnet"), "'resnet' is not in the zoo; known: jet_mlp, "),
        (lambda: models.run("digits", data.digits(), events=5), "data are given, or generated"),
        (lambda: models.run("digits", events=500), "option --events: there are only scikit-learn's digits, not 500"),
        (lambda: models.run("digits", effort=0), "effort: must be positive, not 0"),
        (lambda: models.run("jet_mlp", data.digits()), "must be of shape [16], not [8, 8]"),
        (lambda: models.run("jet_deepsets", data.digits()), "there is no array 'constituents'"),
        (lambda: models.run("digits", data.digits().take(slice(20))), "some 100 events at least, not 20"),
        (lambda: models.run("jet_mlp", events=101), "must be a multiple of 5"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(CompileError) as error:
        wrong()
    assert message in str(error.value)
