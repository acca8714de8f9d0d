"""Calorimeter pulses: the shape, the noise, the series, its windows, and the optimal filter against what it promises."""

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.models.data import Pulses, calorimeter_pulses, optimal_filter, windows
from hwcompile.models.data.calorimeter import _response, noise_autocorrelation, pulse

QUIET = {"noise_gev": 0.0, "pileup_per_bc": 0.0, "lsb_gev": 2.0**-16, "adc_bits": 30, "pedestal": 1 << 20}


def test_pulse_peaks_at_one_and_has_no_area():
    shape = pulse(Pulses())
    assert shape.samples.max() == shape.samples[shape.peak] == 1
    assert abs(shape.slope_per_ns[shape.peak]) < 1e-6
    assert -0.3 < shape.samples.min() < -0.1  # the long undershoot
    assert abs(shape.samples[-1]) < 1e-3
    t = np.linspace(0, 1000, 200_001)
    positive = np.trapezoid(np.maximum(_response(t, Pulses()), 0), t)
    assert abs(np.trapezoid(_response(t, Pulses()), t)) < 1e-3 * positive


def test_response_is_the_convolution_of_current_and_shaper():
    """Against the sum over the triangular current of the shaper's answer to a spike, (u - u^2 / 2) exp(-u) / RC."""
    options = Pulses()
    dt = 0.02
    s = (np.arange(round(options.drift_ns / dt)) + 0.5) * dt
    for t in (5.0, 26.0, 60.0, 300.0, 470.0, 600.0):
        u = np.maximum(t - s, 0) / options.shaper_ns
        spike = (u - u * u / 2) * np.exp(-u) / options.shaper_ns * (t > s)
        summed = np.sum((1 - s / options.drift_ns) * spike) * dt
        assert abs(summed - _response(t, options)) < 1e-5


def test_noise_has_the_stated_size_and_autocorrelation():
    options = Pulses(**{**QUIET, "noise_gev": 0.5}, signal_gap_bc=(1e9, 0))
    x = calorimeter_pulses(200_000, 3, options).x.astype(float)
    expected = noise_autocorrelation(8, options)
    measured = [np.mean(x[lag:] * x[: len(x) - lag]) / 0.25 for lag in range(8)]
    assert expected[0] == pytest.approx(1)
    assert np.allclose(measured, expected, atol=0.015)


def test_samples_are_the_deposits_times_the_pulse():
    options = Pulses(**QUIET)
    d = calorimeter_pulses(2000, 5, options)
    shape = pulse(options).samples
    expected = np.convolve(d["signal_gev"].astype(float), shape)[: len(d)]
    reach = len(shape)  # before that, deposits from before the first sample are seen
    assert np.allclose(d.x[reach:], expected[reach:], atol=2e-5)
    assert np.array_equal(d.y, d["signal_gev"])


def test_samples_are_fixed_point_numbers_within_the_range():
    options = Pulses(adc_bits=8, pedestal=50)
    counts = calorimeter_pulses(5000, 1, options).x.astype(float) / options.lsb_gev + 50
    assert np.array_equal(counts, np.rint(counts))
    assert counts.min() == 0
    assert counts.max() == 255


def test_deposits_have_the_stated_rate():
    options = Pulses()
    d = calorimeter_pulses(300_000, 2, options)
    pileup = (d["energy_gev"] - d["signal_gev"]).astype(float)
    assert np.mean(pileup) == pytest.approx(0.5 * 0.06, rel=0.02)
    assert np.var(pileup) == pytest.approx(2 * 0.5 * 0.06**2, rel=0.05)
    at = np.flatnonzero(d["signal_gev"])
    assert np.diff(at).mean() == pytest.approx(30, rel=0.02)
    assert d["signal_gev"].max() <= 5
    assert d["signal_gev"][at].mean() == pytest.approx(2.5, rel=0.03)


def test_same_seed_same_series():
    assert calorimeter_pulses(500, 9).digest == calorimeter_pulses(500, 9).digest
    assert calorimeter_pulses(500, 9).digest != calorimeter_pulses(500, 10).digest


def test_windows_are_cut_out_of_the_series():
    d = calorimeter_pulses(300, 1)
    w = windows(d, 5, before=2)
    assert w.x.shape == (296, 5)
    for row in (0, 17, 295):
        assert np.array_equal(w.x[row], d.x[row : row + 5])
        assert w.y[row] == d.y[row + 2]
    assert w.columns["x"] == ("bc-2_gev", "bc-1_gev", "bc+0_gev", "bc+1_gev", "bc+2_gev")
    train, _, test = w.split(0.1, 0.2)
    assert not {tuple(r) for r in np.round(train.x[-30:], 9)} & {tuple(r) for r in np.round(test.x[:30], 9)}
    with pytest.raises(hc.CompileError, match="before < samples <= 300"):
        windows(d, 5, before=5)


@pytest.mark.parametrize("timing", [False, True])
@pytest.mark.parametrize("pileup", [False, True])
def test_optimal_filter_gives_back_the_energy_of_a_lone_pulse(pileup, timing):
    options = Pulses(signal_gap_bc=(1e9, 0))
    filtered = optimal_filter(options, 5, pileup=pileup, timing=timing)
    shape = pulse(options)
    assert filtered.coefficients @ shape.samples[:5] == pytest.approx(1)
    if timing:
        assert abs(filtered.coefficients @ shape.slope_per_ns[:5]) < 1e-9


def test_optimal_filter_is_unbiased_and_as_good_as_it_says():
    options = Pulses(signal_gap_bc=(200, 20))  # signals that do not reach into each other
    filtered = optimal_filter(options)
    d = windows(calorimeter_pulses(400_000, 4, options))
    at = d["signal_gev"] > 0
    at[:40] = False
    residual = filtered(d.x) - d.y
    own = optimal_filter(options).offset_gev - optimal_filter(Pulses(signal_gap_bc=(1e9, 0))).offset_gev
    assert residual[at].std() == pytest.approx(filtered.sigma_gev, rel=0.06)
    # The offset takes out the mean of other signals too, which are not near here.
    assert residual[at].mean() - own == pytest.approx(0, abs=4 * filtered.sigma_gev / np.sqrt(at.sum()))
    assert residual.mean() == pytest.approx(0, abs=2e-3)


def test_no_other_unbiased_filter_is_better():
    options = Pulses()
    best = optimal_filter(options)
    shape, noise = pulse(options).samples, np.random.default_rng(0)
    d = windows(calorimeter_pulses(200_000, 6, Pulses(signal_gap_bc=(1e9, 0))))
    residual = np.std(best(d.x) - d.y)
    for _ in range(20):
        other = best.coefficients + 0.1 * noise.normal(size=5)
        other /= other @ shape[:5]
        assert np.std(d.x @ other - d.y) > residual


def test_a_window_without_the_peak_is_refused():
    with pytest.raises(hc.CompileError, match="must reach 2 samples beyond the deposit, not 1"):
        optimal_filter(Pulses(), samples=5, before=3)


@pytest.mark.parametrize(
    "wrong", [{"shaper_ns": 0}, {"noise_gev": -1}, {"signal_gap_bc": (0.5, 0)}, {"pedestal": 1 << 14}]
)
def test_bad_options(wrong):
    with pytest.raises(hc.CompileError, match="data calorimeter: "):
        Pulses(**wrong)
