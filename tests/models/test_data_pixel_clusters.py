"""Smart pixels: charge is conserved, slopes are those of the geometry, classes are those of the truth."""

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.models.data import SmartPixels, charge_levels, smart_pixels
from hwcompile.models.data.dataset import DataSet


@pytest.fixture(scope="module")
def clusters() -> DataSet:
    return smart_pixels(3000, 7)


def test_same_seed_same_clusters_whatever_their_number(clusters):
    again = smart_pixels(1000, 7)
    for name, array in again.arrays.items():
        assert np.array_equal(array, clusters[name][:1000]), name
    assert smart_pixels(100, 8).digest != smart_pixels(100, 7).digest


def test_the_profile_is_the_charge_summed_along_x(clusters):
    assert np.array_equal(clusters.x[:, :13], clusters["charge"][:, 1].sum(axis=2))


def test_labels_follow_from_pt(clusters):
    pt = clusters["pt_gev"]
    assert np.array_equal(clusters.y == 0, np.abs(pt) >= 0.2)
    assert (pt[clusters.y == 1] < 0).all()
    assert (pt[clusters.y == 2] > 0).all()


def test_slopes_are_those_of_the_helix(clusters):
    """cot(beta) = tan(angle of the place + bending), with 0.3 B R the momentum."""
    pt, y0 = clusters["pt_gev"].astype(float), clusters.x[:, 13].astype(float)
    bending = np.arcsin(np.hypot(30.0, y0) * 1e-3 * 0.2998 * 3.8 / 2 / pt)
    assert np.allclose(clusters["cot_beta"], np.tan(np.arctan(y0 / 30.0) + bending), rtol=1e-4, atol=1e-5)


def test_charge_grows_with_the_path_and_its_peak_is_that_of_silicon(clusters):
    slope2 = 1 + clusters["cot_alpha"].astype(float) ** 2 + clusters["cot_beta"].astype(float) ** 2
    fast = (np.abs(clusters["pt_gev"]) > 1) & (clusters["cot_alpha"].astype(float) ** 2 < 9)
    electrons = clusters["charge"][fast, 1].sum(axis=(1, 2)) * 80.0
    per_um = electrons / np.sqrt(slope2[fast]) / 100
    # A minimum ionising particle leaves most probably 60 to 75 electrons per um; zero suppression takes some.
    assert 50 < np.median(per_um) < 90


def test_charge_centre_is_the_truth(clusters):
    """The charge-weighted mean of short clusters inside the matrix is the hit at mid-plane: Lorentz shift removed."""
    short = (np.abs(clusters["cot_alpha"]) < 1) & (np.abs(clusters["cot_beta"]) < 0.5)
    charge = clusters["charge"][short, 1].astype(float)
    total = charge.sum(axis=(1, 2))
    y = (charge.sum(axis=2) @ (np.arange(13) - 6)) * 12.5 / total
    x = (charge.sum(axis=1) @ (np.arange(21) - 10)) * 50.0 / total
    assert abs(np.median(y - clusters["y_um"][short])) < 1.0
    assert abs(np.median(x - clusters["x_um"][short])) < 3.0


def test_charge_is_conserved_without_threshold():
    """All that is deposited arrives: sharing between pixels adds up, and the first time slice is part of the second."""
    from hwcompile.models.data.pixel_clusters import _collected, _drift, _ionise, _shares, _tracks

    options = SmartPixels(early_ns=100.0)
    tracks = _tracks(300, options, np.random.default_rng(1))
    for name in ("cot_alpha", "cot_beta", "x_um", "y_um"):
        tracks[name] *= 0  # nothing can leave the matrix
    energy, knocked = _ionise(tracks, np.random.default_rng(2))
    charge = _collected(tracks, _drift(), options, np.random.default_rng(2))
    assert np.array_equal(charge[:, 0], charge[:, 1])
    quiet = np.setdiff1d(np.arange(300), knocked.cell // 50)
    assert len(quiet) > 50
    assert np.allclose(charge[quiet, 1].sum(axis=(1, 2)), energy.sum(axis=1)[quiet] / 3.62, rtol=1e-5)
    shares = _shares(np.array([0.0, 3.0]), np.array([2.0, 5.0]), 13, 12.5)
    assert np.allclose(shares.sum(axis=-1), 1, atol=1e-6)


def test_a_slow_track_leaves_more():
    slow = smart_pixels(1500, 1, SmartPixels(pt_gev=(0.06, 0.1), eta_max=0.5))
    fast = smart_pixels(1500, 1, SmartPixels(pt_gev=(2.0, 5.0), eta_max=0.5))
    assert np.median(slow["charge"][:, 1].sum(axis=(1, 2))) > 1.5 * np.median(fast["charge"][:, 1].sum(axis=(1, 2)))


def test_two_bit_charge():
    counts = np.array([0, 4, 5, 19, 20, 29, 30, 255], np.uint8)  # 80 electrons each
    assert charge_levels(counts).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(hc.CompileError, match="rising"):
        charge_levels(counts, levels=[5, 1])


def test_bad_options():
    with pytest.raises(hc.CompileError, match="at least 1, not 0"):
        smart_pixels(0, 1)
    with pytest.raises(hc.CompileError, match="flat_fraction must be from 0 to 1, not 2"):
        SmartPixels(flat_fraction=2)
    with pytest.raises(hc.CompileError, match="rising positive"):
        SmartPixels(pt_gev=(1.0, 0.5))
