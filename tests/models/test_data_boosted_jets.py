"""Jets: features against plain loops and FastJet's own, kinematics of the hand-made decays, cache and workers."""

import itertools

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.models import data
from hwcompile.models.data import boosted_jets as module
from hwcompile.models.data.detector import Detector, detect
from hwcompile.models.data.hard_process import _decay
from hwcompile.models.data.substructure import FEATURES, _three_point, delta_phi, features, groom


def constituents(seed, n=30):
    rng = np.random.default_rng(seed)
    return rng.exponential(20, n) + 0.3, rng.normal(0, 0.3, n), np.pi - rng.exponential(0.3, n)


def test_three_point_sums_are_those_of_plain_loops():
    _, eta, phi = constituents(1, 12)
    z = np.random.default_rng(2).random(12)
    distance = np.hypot(eta[:, None] - eta, phi[:, None] - phi)
    expected = np.zeros((3, 2))
    for i, j, k in itertools.combinations(range(12), 3):
        a, b, c = sorted((distance[i, j], distance[i, k], distance[j, k]))
        for row, angle in enumerate((a * b * c, a, a * b)):
            expected[row] += z[i] * z[j] * z[k] * np.array([angle, angle**2])
    assert np.allclose(_three_point(z, distance), expected, rtol=1e-12)


def test_grooming_is_that_of_fastjets_soft_drop():
    import awkward as ak
    import fastjet

    sets = [constituents(seed, 10 + seed) for seed in range(40)]
    pt, eta, phi = (np.concatenate(column) for column in zip(*sets))
    columns = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": pt * np.cosh(eta)}
    momenta = ak.unflatten(ak.zip(columns, with_name="Momentum4D"), [len(s[0]) for s in sets])
    sequence = fastjet.ClusterSequence(momenta, fastjet.JetDefinition(fastjet.cambridge_algorithm, 10.0))
    contrib = sequence.exclusive_jets_softdrop_grooming(1, beta=0.0, symmetry_cut=0.1, R0=0.8)
    ours = [groom(*s, 0.1) for s in sets]
    assert np.allclose([mass for _, mass in ours], ak.to_numpy(contrib.msoftdrop), rtol=1e-9, atol=1e-9)
    assert [int(kept.sum()) for kept, _ in ours] == ak.num(contrib.constituents.px).to_list()


def test_features_do_not_depend_on_order_rotation_or_scale():
    pt, eta, phi = constituents(3)
    base = features(pt, eta, phi, pt.sum(), 0.1)
    order = np.random.default_rng(4).permutation(len(pt))
    turned = delta_phi(phi + 2.5)
    other = features(2 * pt[order], eta[order], turned[order], 2 * pt.sum(), 0.1)
    mass = FEATURES.index("mass_mmdt")
    assert other[mass] == pytest.approx(2 * base[mass])
    assert np.allclose(np.delete(other, mass), np.delete(base, mass), rtol=1e-9)


def test_features_of_few_constituents_are_finite():
    one = features(np.array([50.0]), np.zeros(1), np.zeros(1), 50.0, 0.1)
    assert np.isfinite(one).all()
    assert one[-1] == 1
    two = features(np.array([50.0, 40.0]), np.array([0.0, 0.3]), np.zeros(2), 90.0, 0.1)
    assert two[FEATURES.index("C1_b1_mmdt")] == pytest.approx(50 * 40 / 90**2 * 0.3)
    assert two[FEATURES.index("D2_b1_mmdt")] == 0


@pytest.mark.parametrize("boson, mass", [(24, 80.4), (-24, 80.4), (23, 91.2)])
def test_decays_by_hand(boson, mass):
    """Momentum and charge are conserved, the quark comes first, and the angle is longitudinal: <cos^2> = 1/5."""
    rng, momentum = np.random.default_rng(boson % 97), np.array([700.0, -400.0, 300.0])
    p4 = np.append(momentum, np.sqrt(momentum @ momentum + mass**2))
    rows = [_decay(boson, p4, rng) for _ in range(2000)]
    assert np.allclose([[sum(v) for v in zip(*pair)][1:5] for pair in rows], p4, rtol=1e-9)
    assert all(a[0] > 0 > b[0] for a, b in rows)
    third = {q: (2 if q % 2 == 0 else -1) for q in range(1, 6)}
    charges = {third[a[0]] - third[-b[0]] for a, b in rows}
    assert charges == {3 if boson == 24 else -3 if boson == -24 else 0}
    gamma, beta = p4[3] / mass, np.linalg.norm(momentum) / p4[3]
    along = np.array([np.dot(a[1:4], momentum) / np.linalg.norm(momentum) for a, _ in rows])
    parallel = gamma * (along - beta * np.array([a[4] for a, _ in rows]))
    cosine = parallel / (mass / 2)
    assert np.mean(cosine**2) == pytest.approx(0.2, abs=0.015)


def test_detector_keeps_the_scale_and_drops_neutrinos():
    n = 20_000
    p4 = np.tile(np.array([[30.0], [0.0], [40.0], [50.0]]), (1, n))
    event = np.arange(n)
    for pdg_id, sigma in (
        (211, np.hypot(0.01, 0.003)),
        (22, np.hypot(0.05 / 50**0.5, 0.007)),
        (130, np.hypot(0.7 / 50**0.5, 0.05)),
    ):
        _, pt, eta, phi = detect(event, np.full(n, pdg_id), p4, Detector(), np.random.default_rng(0))
        assert len(pt) == n
        assert pt.mean() == pytest.approx(30, rel=0.01)
        assert pt.std() / pt.mean() == pytest.approx(sigma, rel=0.03)
        assert np.abs(eta - np.arcsinh(4 / 3)).max() <= 0.0101
        assert np.abs(phi).max() <= 0.0101
    assert len(detect(event, np.full(n, 14), p4, Detector(), np.random.default_rng(0))[1]) == 0


def test_cells_merge_photons_of_one_event_only():
    p4 = np.array([[10.0, 10.0, 10.0], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [10.0, 10.0, 10.0]])
    exact = Detector(photon_stochastic=0, photon_constant=0)
    event, pt, _, _ = detect(np.array([0, 0, 5]), np.full(3, 22), p4, exact, np.random.default_rng(0))
    assert event.tolist() == [0, 5]
    assert np.allclose(pt, [20, 10], rtol=1e-3)


def test_a_missing_generator_is_named(monkeypatch):
    monkeypatch.setattr(module, "_EXTRA", ("pythia8mc", "no-such-package"))
    with pytest.raises(hc.CompileError, match=r"needs the package no-such-package.*pip install"):
        data.jets(1, 0)


def test_bad_requests():
    with pytest.raises(hc.CompileError, match="per_class must be an integer of at least 1, not 0"):
        data.jets(0, 1)
    with pytest.raises(hc.CompileError, match="seed must be an integer of at least 0, not -1"):
        data.jets(1, -1)


@pytest.fixture(scope="module")
def shipped():
    return data.sample("jets")


def check_ranges(jets):
    x = dict(zip(FEATURES, jets.x.T))
    assert np.array_equal(x["D2_a1_b1_mmdt"], x["D2_b1_mmdt"])
    assert (x["zlogz"] < 0).all()
    assert (x["C1_b0_mmdt"] > 0).all()
    assert (x["C1_b0_mmdt"] < 0.5).all()
    for name in FEATURES[1:14]:
        assert (x[name] >= 0).all()
    pt, eta = jets["jet"].T
    assert (pt >= 800).all()
    assert (pt < 1600).all()
    assert (np.abs(eta) < 2.4).all()
    c = jets["constituents"].astype(float)
    assert (np.diff(c[:, :, 0], axis=1) <= 0).all()
    assert (np.hypot(c[:, :, 1], c[:, :, 2]) < 1.1).all()
    assert (c[:, :, 0].sum(axis=1) < 1.2).all()


def test_shipped_jets_look_like_jets(shipped):
    check_ranges(shipped)
    mass = shipped.x[:, FEATURES.index("mass_mmdt")]
    median = {c: np.median(mass[shipped.y == i]) for i, c in enumerate(shipped.classes)}
    assert 70 < median["w"] < 90
    assert 80 < median["z"] < 100
    assert median["t"] > 120
    assert median["q"] < 70
    multiplicity = shipped.x[:, -1]
    assert multiplicity[shipped.y == 0].mean() > 1.2 * multiplicity[shipped.y == 1].mean()


def test_shipped_features_follow_from_shipped_constituents(shipped):
    """Jets with at most 32 constituents are complete: their features can be computed again, up to half precision."""
    few = np.flatnonzero((shipped.x[:, -1] <= 32) & (shipped["constituents"][:, :, 0].sum(axis=1) > 0.9))
    assert len(few) > 20
    multiplicity = (shipped["constituents"][few, :, 0] > 0).sum(axis=1)
    assert np.array_equal(multiplicity, shipped.x[few, -1])
    for row in few:
        c, pt = shipped["constituents"][row].astype(float), float(shipped["jet"][row, 0])
        c = c[c[:, 0] > 0]
        again = features(c[:, 0] * pt, c[:, 1], c[:, 2], pt, 0.1)
        assert again[0] == pytest.approx(shipped.x[row, 0], rel=2e-2)


@pytest.mark.slow
def test_generated_jets(tmp_path, monkeypatch):
    """20 jets of each class: ranges, progress, the same for any number of workers, and from the cache."""
    monkeypatch.setattr(module, "JETS_PER_BLOCK", 10)  # of the parent only: it cuts the work
    steps = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    first = data.jets(20, 5, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(n, 100) for n in range(10, 101, 10)]
    assert np.bincount(first.y).tolist() == [20] * 5
    check_ranges(first)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert data.jets(20, 5, workers=2).digest == first.digest
    cached = sorted((tmp_path / "two").rglob("*.npz"))
    assert len(cached) == 10
    cached[3].write_bytes(cached[3].read_bytes()[:100])  # a damaged block is made again
    assert data.jets(20, 5).digest == first.digest
    monkeypatch.setattr(module, "_generate", None)  # and then nothing is
    assert data.jets(20, 5).digest == first.digest
    monkeypatch.undo()
    assert data.jets(1, 6, data.Jets(constituents=48))["constituents"].shape == (5, 48, 3)
