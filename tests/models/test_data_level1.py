"""Trigger objects: kinematics that give back what was put in, spectra, filters, and independence of processes."""

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.models.data import TriggerObjects, trigger_objects
from hwcompile.models.data import kinematics as kin
from hwcompile.models.data.level1 import BACKGROUNDS, SIGNALS, _a_to_4l, _h_to_taunu, _leptoquark, _tau, _w, _z

N = 2000


def rng(seed=0):
    return np.random.default_rng(seed)


def summed(parts, kinds=None):
    """The sum of the momenta that are there."""
    return sum(p4 * there[:, None] for kind, p4, there in parts if kinds is None or kind in kinds)


def test_two_body_decays_conserve_momentum_and_give_the_masses():
    parent = kin.from_pt(rng(1).exponential(80, N), rng(2).normal(0, 2, N), rng(3).uniform(-3, 3, N), 91.2)
    first, second = kin.two_body(parent, (4.8, 1.777), rng(4))
    assert np.allclose(first + second, parent, rtol=1e-9, atol=1e-6)
    assert np.allclose(kin.invariant_mass(first), 4.8, atol=1e-3)
    assert np.allclose(kin.invariant_mass(second), 1.777, atol=1e-2)


def test_decays_are_isotropic_in_the_rest_frame():
    at_rest = kin.from_pt(np.zeros(20_000), 0.0, 0.0, 50.0)
    first, second = kin.two_body(at_rest, (0.0, 0.0), rng())
    cosine = first[:, 3] / np.linalg.norm(first[:, 1:], axis=1)
    assert np.allclose(first[:, 0], 25)
    assert np.allclose(first[:, 1:], -second[:, 1:])
    assert np.allclose(np.histogram(cosine, 10, (-1, 1))[0] / 2000, 1, atol=0.1)


def test_boost_keeps_masses():
    frame = kin.from_pt(300.0 * np.ones(N), 1.5, 0.3, 80.4)
    p4 = kin.from_pt(rng().exponential(20, N), 0.2, 1.0, 1.777)
    assert np.allclose(kin.invariant_mass(kin.boost(p4, frame)), 1.777, atol=1e-2)
    rest = kin.from_pt(np.zeros(N), 0.0, 0.0, 80.4)
    assert np.allclose(kin.boost(rest, frame), frame)


def test_spectra():
    falling = kin.power_law(100_000, 15.0, 5.0, rng())
    assert falling.min() >= 15
    assert np.mean(falling > 30) == pytest.approx(2.0**-4, rel=0.05)
    assert kin.power_law(1000, 15.0, 5.0, rng(), most=20.0).max() <= 20
    z = kin.breit_wigner(100_000, 91.2, 2.5, (50, 200), rng())
    assert np.mean(np.abs(z - 91.2) < 1.25) == pytest.approx(0.5, abs=0.02)


def test_resonances_give_back_their_masses():
    """Truth level: the decay products of each signal, taken together."""
    leptons = ("electron", "muon")
    assert np.allclose(kin.invariant_mass(summed(_a_to_4l(N, rng()), leptons)), 50, rtol=1e-6)
    z = kin.invariant_mass(summed(_z(N, rng()), leptons))
    assert abs(np.median(z) - 91.2) < 0.3
    hplus = _h_to_taunu(N, rng())[1:]  # without the recoil
    assert np.allclose(kin.invariant_mass(summed(hplus)), 60, rtol=1e-6)
    quarks = _leptoquark(N, rng())
    assert np.allclose(kin.invariant_mass(summed(quarks[: len(quarks) // 2])), 80, rtol=1e-6)


def test_hard_processes_balance():
    parts = _w(N, rng())
    total = summed(parts)
    assert np.allclose(total[:, 1:3], 0, atol=1e-6)


def test_tau_decays_share_the_momentum():
    tau = kin.from_pt(np.full(20_000, 40.0), 0.5, 0.1, 1.777)
    parts = _tau(tau, np.ones(len(tau), bool), rng())
    assert np.allclose(summed(parts), tau)
    shares = {kind: there.mean() for kind, _, there in parts if kind != "invisible"}
    assert shares["electron"] == pytest.approx(0.178, abs=0.01)
    assert shares["muon"] == pytest.approx(0.174, abs=0.01)
    electron, there = next((p4, there) for kind, p4, there in parts if kind == "electron")
    assert np.mean(kin.pt(electron[there])) / 40 == pytest.approx(0.35, abs=0.02)  # of the unpolarised spectrum


@pytest.fixture(scope="module")
def events():
    return trigger_objects(3000, 1, tuple(SIGNALS), signal_events=500)


def test_format(events):
    x = events.x
    assert x.shape == (5000, 19, 3)
    assert np.bincount(events.y).tolist() == [3000, 500, 500, 500, 500]
    for start, stop in ((1, 5), (5, 9), (9, 19)):
        assert (np.diff(x[:, start:stop, 0], axis=1) <= 0).all()
    assert not x[x[:, :, 0] == 0][:, 1:].any()
    assert not x[:, 0, 1].any()
    assert (np.abs(x[:, :, 2]) <= np.pi + 1e-6).all()
    assert (np.abs(x[:, 9:, 1]) < 4).all()
    assert (np.abs(x[:, 5:9, 1]) < 2.1).all()
    assert (x[:, 1:9, 0].max(axis=1) > 23).all()
    jets = x[:, 9:, 0]
    assert jets[jets > 0].min() >= 15


def test_background_is_the_mixture_asked_for(events):
    shares = np.bincount(events["process"][events.y == 0], minlength=4) / 3000
    assert np.allclose(shares, [0.592, 0.338, 0.067, 0.003], atol=0.03)


def test_signals_differ_as_their_decays_do(events):
    leptons = (events.x[:, 1:9, 0] > 0).sum(axis=1)
    count = [leptons[events.y == i].mean() for i in range(5)]
    assert count[1] > 2.5
    assert count[0] < 1.5
    jets = (events.x[:, 9:, 0] > 0).sum(axis=1)
    assert jets[events.y == 2].mean() > jets[events.y == 0].mean() + 0.8


def test_measured_z_mass():
    d = trigger_objects(2000, 3, options=TriggerObjects(background={"z": 1.0}))
    for first in (1, 5):
        pair = d.x[(d.x[:, first, 0] > 0) & (d.x[:, first + 1, 0] > 0)][:, first : first + 2].astype(float)
        p4 = kin.from_pt(pair[..., 0], pair[..., 1], pair[..., 2], 0.0).sum(axis=1)
        assert len(p4) > 300
        assert abs(np.median(kin.invariant_mass(p4)) - 91.2) < 1.5


def test_same_seed_same_events_and_processes_do_not_disturb_each_other(events):
    assert trigger_objects(3000, 1, tuple(SIGNALS), signal_events=500).digest == events.digest
    alone = trigger_objects(3000, 1, ("leptoquark",), signal_events=500)
    of = events.classes.index("leptoquark")

    def ordered(x):
        return x[np.lexsort(x.reshape(len(x), -1).T)]

    assert np.array_equal(ordered(alone.x[alone.y == 1]), ordered(events.x[events.y == of]))


def test_without_filter_and_extra_jets():
    d = trigger_objects(500, 2, options=TriggerObjects({"w": 1.0}, lepton_gev=0.0, extra_jets=0.0))
    assert (d.x[:, 1:9, 0].max(axis=1) < 23).any()
    assert (d.x[:, 10:, 0] > 0).sum() < 250  # the recoil, and hadronic tau


def test_bad_requests():
    with pytest.raises(hc.CompileError, match="signal 'higgs' is not known; known: a_to_4l"):
        trigger_objects(10, 0, ("higgs",))
    with pytest.raises(hc.CompileError, match=f"known: {', '.join(BACKGROUNDS)}"):
        TriggerObjects(background={"x": 1.0})
    with pytest.raises(hc.CompileError, match="at least 0 and not all 0"):
        TriggerObjects(background={"w": 0.0})
    with pytest.raises(hc.CompileError, match="integer of at least 1, not 0"):
        trigger_objects(0, 0)
