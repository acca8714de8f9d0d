"""Toy events as a Level-1 trigger sees them, for anomaly detection: MET, electrons, muons and jets by simple kinematics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import CompileError
from . import kinematics as kin
from .dataset import DataSet, check_count, kept

__all__ = ["BACKGROUNDS", "KINDS", "SIGNALS", "TriggerObjects", "trigger_objects"]

Floats = NDArray[np.float64]

KINDS = {"met": 1, "electron": 4, "muon": 4, "jet": 10}
"""Objects of each kind and how many of it an event holds, in the order of the rows (arXiv:2107.02157)."""
INVISIBLE = "invisible"
ACCEPTANCE = {"electron": (3.0, 3.0), "muon": (3.0, 2.1), "jet": (15.0, 4.0)}
"""Lowest pT in GeV and highest |eta|."""
RESOLUTION = {"electron": (0.10, 0.01), "muon": (0.0, 0.03), "jet": (0.80, 0.05)}
"""sigma(pT)/pT: the first over sqrt(pT/GeV), and the second, added in quadrature."""
EFFICIENCY = {"electron": 0.9, "muon": 0.95, "jet": 1.0}

# Masses and widths in GeV, branching fractions: Particle Data Group.
W, Z, TOP, TAU = (80.4, 2.1), (91.2, 2.5), (172.5, 1.4), 1.777
TAU_LEPTONIC = {"electron": 0.178, "muon": 0.174}
RHO_OVER_TAU = 0.19  # (m_rho / m_tau)^2: the least part of a hadronic tau that is seen
BOTTOM_GEV = 4.8

Part = tuple[str, Floats, NDArray[np.bool_]]
"""Particles of one kind, a momentum for each event, and in which events they are there."""

GENERATOR_VERSION = 1
"""Part of the cache's key: raise it with every change of what this module generates."""

KEPT_FROM = 10_000
"""So many events take longer to make than to read."""


@dataclass(frozen=True)
class TriggerObjects:
    """What is mixed and how it is seen.

    background: shares of the background's processes in the events kept; by default those of arXiv:2107.02157. lepton_gev:
    an event is kept if it has an electron or muon above this pT; 0 keeps all. extra_jets: mean number of jets that
    are not of the hard process, by a falling spectrum. met_gev: resolution of each component of MET.
    """

    background: Mapping[str, float] = field(
        default_factory=lambda: {"w": 0.592, "qcd": 0.338, "z": 0.067, "top": 0.003}
    )
    lepton_gev: float = 23.0
    extra_jets: float = 1.5
    met_gev: float = 8.0

    def __post_init__(self) -> None:
        shares = list(self.background.values())
        unknown = [name for name in self.background if name not in BACKGROUNDS]
        if unknown:
            raise CompileError(
                "data trigger_objects", f"background '{unknown[0]}' is not known", f"known: {', '.join(BACKGROUNDS)}"
            )
        if not shares or min(shares) < 0 or not sum(shares) > 0:
            raise CompileError("data trigger_objects", f"shares must be at least 0 and not all 0, not {shares}")


def trigger_objects(
    n: int,
    seed: int,
    signals: Sequence[str] = (),
    options: TriggerObjects | None = None,
    *,
    signal_events: int | None = None,
) -> DataSet:
    """`n` background events and `signal_events` (by default `n`) of each of `signals`, shuffled.

    Arrays: `x` float32 ``[events, 19, 3]``: pT in GeV, eta, phi of MET (eta 0), 4 electrons, 4 muons and 10 jets, each by
    falling pT and zero padded; `label` (0 background, 1, ... the signals in this order); `process`, the index in
    `made_with["processes"]`. The format is that of Govorkova et al., Sci. Data 9 (2022) 118, arXiv:2107.02157; the events
    are simple decays and smearing, see docs/data.md. Many events are kept in the user's cache.
    """
    check_count("data trigger_objects", "the number of events", n)
    check_count("data trigger_objects", "seed", seed, 0)
    each = n if signal_events is None else signal_events
    check_count("data trigger_objects", "signal_events", each)
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown:
        raise CompileError(
            "data trigger_objects", f"signal '{unknown[0]}' is not known", f"known: {', '.join(SIGNALS)}"
        )
    options = options or TriggerObjects()
    if n < KEPT_FROM:
        return _generate(n, each, seed, signals, options)
    key = [GENERATOR_VERSION, np.__version__, n, each, seed, list(signals), dataclasses.asdict(options)]
    return kept("trigger_objects", key, lambda: _generate(n, each, seed, signals, options))


def _generate(n: int, each: int, seed: int, signals: Sequence[str], options: TriggerObjects) -> DataSet:
    names, shares = list(options.background), np.array(list(options.background.values()))
    counts = np.random.default_rng([seed, 0]).multinomial(n, shares / shares.sum())
    wanted = [*zip(names, counts.tolist()), *((name, each) for name in signals)]
    processes = [*names, *signals]
    # A stream of its own for each process: asking for one more does not change the others.
    order = [*BACKGROUNDS, *SIGNALS]
    x = [_events(name, count, options, np.random.default_rng([seed, 1 + order.index(name)])) for name, count in wanted]
    process = np.repeat(np.arange(len(wanted)), [count for _, count in wanted])
    label = np.maximum(process - len(names) + 1, 0)
    mixed = np.random.default_rng([seed, 0, 1]).permutation(len(process))
    return DataSet(
        "trigger_objects",
        {
            "x": np.concatenate(x).astype(np.float32)[mixed],
            "label": label.astype(np.uint8)[mixed],
            "process": process.astype(np.uint8)[mixed],
        },
        target="label",
        classes=("background", *signals),
        columns={"x": ("pt_gev", "eta", "phi")},
        meaning={
            "x": "MET, 4 electrons, 4 muons, 10 jets; by falling pT, zero padded",
            "label": "0: background, then the signals",
            "process": f"of {', '.join(processes)}",
        },
        made_with={"seed": seed, "processes": processes, **dataclasses.asdict(options)},
    )


def _events(name: str, n: int, options: TriggerObjects, rng: np.random.Generator) -> Floats:
    """`n` events of a process that pass the lepton filter."""
    make, kept, tried, done = {**BACKGROUNDS, **SIGNALS}[name], [np.zeros((0, 19, 3))], 0, 0
    while done < n:
        # As many again as the filter has let through so far would need, in bounded batches.
        size = int(np.clip(1.1 * (n - done) * (tried + 100) / (done + 10), 1000, 50_000))
        seen = _seen(make(size, rng), size, options, rng)
        leptons = seen[:, 1 : 1 + KINDS["electron"] + KINDS["muon"], 0]
        kept.append(seen[leptons.max(axis=1) > options.lepton_gev] if options.lepton_gev > 0 else seen)
        tried, done = tried + size, done + len(kept[-1])
        if tried >= 1_000_000 and done == 0:
            raise CompileError(
                "data trigger_objects",
                f"lepton_gev = {options.lepton_gev:g} lets none of {tried:,} events of '{name}' through",
                "lower it",
            )
    return np.concatenate(kept)[:n]


# What becomes of particles.


def _all(n: int) -> NDArray[np.bool_]:
    return np.ones(n, bool)


def _flavour(n: int, p4: Floats, there: NDArray[np.bool_], rng: np.random.Generator) -> list[Part]:
    """A lepton that is an electron or a muon with even chances."""
    electron = rng.random(n) < 0.5
    return [("electron", p4, there & electron), ("muon", p4, there & ~electron)]


def _tau(p4: Floats, there: NDArray[np.bool_], rng: np.random.Generator) -> list[Part]:
    """A tau decayed along its flight: an unpolarised leptonic spectrum, or a jet with a flat part of its momentum."""
    n = len(p4)
    grid = np.linspace(0, 1, 501)
    cumulative = (5 * grid - 3 * grid**3 + grid**4) / 3  # of (5 - 9 x^2 + 4 x^3) / 3, Tsai, Phys. Rev. D 4 (1971) 2821
    leptonic = np.interp(rng.random(n), cumulative, grid)
    hadronic = rng.uniform(RHO_OVER_TAU, 1, n)
    chance, parts = rng.random(n), list[Part]()
    electron = chance < TAU_LEPTONIC["electron"]
    muon = ~electron & (chance < sum(TAU_LEPTONIC.values()))
    for kind, chosen, fraction in (
        ("electron", electron, leptonic), ("muon", muon, leptonic), ("jet", ~electron & ~muon, hadronic)
    ):  # fmt: skip
        parts.append((kind, p4 * fraction[:, None], there & chosen))
        parts.append((INVISIBLE, p4 * (1 - fraction)[:, None], there & chosen))
    return parts


def _produced(n: int, mass: Any, scale: float, rng: np.random.Generator) -> tuple[Floats, list[Part]]:
    """A resonance and the jet it recoils against: dN/dpT^2 ~ (1 + pT^2 / scale^2)^-2.5, Gaussian rapidity."""
    pt = scale * np.sqrt((1 - rng.random(n)) ** (-1 / 1.5) - 1)
    phi = rng.uniform(-np.pi, np.pi, n)
    recoil = kin.from_pt(pt, rng.normal(0, 2.0, n), phi + np.pi, 0.0)
    return kin.from_pt(pt, rng.normal(0, 1.8, n), phi, mass), [("jet", recoil, _all(n))]


# Processes: particles of n events, before the detector.


def _w(n: int, rng: np.random.Generator) -> list[Part]:
    boson, parts = _produced(n, kin.breit_wigner(n, *W, (40, 200), rng), 25.0, rng)
    return parts + _w_decay(boson, _all(n), rng)


def _w_decay(boson: Floats, there: NDArray[np.bool_], rng: np.random.Generator) -> list[Part]:
    """To e, mu or tau and a neutrino, a third each."""
    n = len(boson)
    lepton, neutrino = kin.two_body(boson, (0.0, 0.0), rng)
    tau = rng.random(n) < 1 / 3
    return [
        (INVISIBLE, neutrino, there),
        *_flavour(n, lepton, there & ~tau, rng),
        *_tau(lepton, there & tau, rng),
    ]


def _z(n: int, rng: np.random.Generator) -> list[Part]:
    """To e e or mu mu."""
    boson, parts = _produced(n, kin.breit_wigner(n, *Z, (50, 200), rng), 25.0, rng)
    return parts + _pair(boson, rng)


def _pair(boson: Floats, rng: np.random.Generator) -> list[Part]:
    """Two leptons of one flavour."""
    n = len(boson)
    electron = rng.random(n) < 0.5
    return [
        (kind, lepton, there)
        for lepton in kin.two_body(boson, (0.0, 0.0), rng)
        for kind, there in (("electron", electron), ("muon", ~electron))
    ]


def _top(n: int, rng: np.random.Generator) -> list[Part]:
    """t t to two b and two W; the W decay to leptons (a third) or to two jets."""
    pt, phi, rapidity = kin.power_law(n, 60.0, 3.0, rng), rng.uniform(-np.pi, np.pi, n), rng.normal(0, 1.2, (2, n))
    parts: list[Part] = []
    for side in (0, 1):
        top = kin.from_pt(pt, rapidity[side], phi + side * np.pi, TOP[0])
        boson, bottom = kin.two_body(top, (W[0], BOTTOM_GEV), rng)
        leptonic = rng.random(n) < 1 / 3
        quarks = kin.two_body(boson, (0.0, 0.0), rng)
        parts += [("jet", bottom, _all(n)), *(("jet", q, ~leptonic) for q in quarks)]
        parts += _w_decay(boson, leptonic, rng)
    return parts


def _qcd(n: int, rng: np.random.Generator) -> list[Part]:
    """Two jets of pT^-5, one with a lepton of a heavy quark: x(1-x)^2 of its momentum, and half as much for the neutrino."""
    pt, phi = kin.power_law(n, 30.0, 5.0, rng), rng.uniform(-np.pi, np.pi, n)
    first = kin.from_pt(pt, rng.normal(0, 1.6, n), phi, 0.0)
    second = kin.from_pt(pt, rng.normal(0, 1.6, n), phi + np.pi, 0.0)
    part = rng.beta(2, 3, n)[:, None]
    away = rng.normal(0, 0.2, (2, n))  # of the lepton from the jet's axis
    lepton = kin.from_pt(kin.pt(first) * part[:, 0], kin.eta(first) + away[0], kin.phi(first) + away[1], 0.0)
    neutrino = 0.5 * lepton
    rest = first - lepton - neutrino
    rest[:, 0] = np.linalg.norm(rest[:, 1:], axis=1)
    return [
        ("jet", second, _all(n)),
        ("jet", rest, _all(n)),
        (INVISIBLE, neutrino, _all(n)),
        *_flavour(n, lepton, _all(n), rng),
    ]


def _a_to_4l(n: int, rng: np.random.Generator) -> list[Part]:
    """A neutral A of 50 GeV to two off-shell Z of uniform masses (their sum is below that of A), each to two leptons."""
    scalar, parts = _produced(n, 50.0, 25.0, rng)
    first, second = np.sort(rng.uniform(4, 46, (2, n)), axis=0)
    masses = first, 50 - second  # uniform over the triangle m1 + m2 < 50 with both above 4
    for boson in kin.two_body(scalar, masses, rng):
        parts += _pair(boson, rng)
    return parts


def _leptoquark(n: int, rng: np.random.Generator) -> list[Part]:
    """Two leptoquarks of 80 GeV back to back, each to b tau."""
    pt, phi, rapidity = kin.power_law(n, 30.0, 3.0, rng), rng.uniform(-np.pi, np.pi, n), rng.normal(0, 1.4, (2, n))
    parts: list[Part] = []
    for side in (0, 1):
        parent = kin.from_pt(pt, rapidity[side], phi + side * np.pi, 80.0)
        bottom, tau = kin.two_body(parent, (BOTTOM_GEV, TAU), rng)
        parts += [("jet", bottom, _all(n)), *_tau(tau, _all(n), rng)]
    return parts


def _h_to_tautau(n: int, rng: np.random.Generator) -> list[Part]:
    """A neutral scalar of 60 GeV to two tau."""
    scalar, parts = _produced(n, 60.0, 25.0, rng)
    for tau in kin.two_body(scalar, (TAU, TAU), rng):
        parts += _tau(tau, _all(n), rng)
    return parts


def _h_to_taunu(n: int, rng: np.random.Generator) -> list[Part]:
    """A charged scalar of 60 GeV to tau nu."""
    scalar, parts = _produced(n, 60.0, 25.0, rng)
    tau, neutrino = kin.two_body(scalar, (TAU, 0.0), rng)
    return [*parts, (INVISIBLE, neutrino, _all(n)), *_tau(tau, _all(n), rng)]


Process = Callable[[int, np.random.Generator], list[Part]]
BACKGROUNDS: dict[str, Process] = {"w": _w, "qcd": _qcd, "z": _z, "top": _top}
SIGNALS: dict[str, Process] = {
    "a_to_4l": _a_to_4l,
    "leptoquark": _leptoquark,
    "h_to_tautau": _h_to_tautau,
    "h_to_taunu": _h_to_taunu,
}


# The detector.


def _seen(parts: list[Part], n: int, options: TriggerObjects, rng: np.random.Generator) -> Floats:
    """What the trigger reports of `n` events: ``[n, 19, 3]``."""
    parts = parts + _extra_jets(n, options, rng)
    missing = rng.normal(0, options.met_gev, (n, 2))
    found: dict[str, list[Floats]] = {kind: [] for kind in ACCEPTANCE}
    for kind, p4, there in parts:
        if kind == INVISIBLE:
            missing += p4[:, 1:3] * there[:, None]
            continue
        pt, eta, phi = kin.pt(p4), kin.eta(p4), kin.phi(p4)
        stochastic, constant = RESOLUTION[kind]
        sigma = np.hypot(stochastic / np.sqrt(np.maximum(pt, 1.0)), constant)
        measured = pt * np.maximum(1 + sigma * rng.normal(size=n), 0)
        lowest, highest = ACCEPTANCE[kind]
        accepted = there & (measured > lowest) & (np.abs(eta) < highest) & (rng.random(n) < EFFICIENCY[kind])
        # A mismeasured object changes MET; one that is lost as a muon is missing, others leave their energy behind.
        lost = there & ~accepted if kind == "muon" else np.zeros(n, bool)
        change = np.where(there, pt - measured, 0.0) * ~lost + pt * lost
        missing += change[:, None] * np.stack([np.cos(phi), np.sin(phi)], axis=1)
        found[kind].append(np.where(accepted[:, None], np.stack([measured, eta, phi], axis=1), 0.0))
    met = np.stack([np.hypot(*missing.T), np.zeros(n), np.arctan2(missing[:, 1], missing[:, 0])], axis=1)
    return np.concatenate([met[:, None], *(_leading(found[k], KINDS[k], n) for k in found)], axis=1)


def _extra_jets(n: int, options: TriggerObjects, rng: np.random.Generator) -> list[Part]:
    """Soft jets of pile-up and radiation; each of the most that an event may have is there or not."""
    count = rng.poisson(options.extra_jets, n)
    return [
        (
            "jet",
            kin.from_pt(
                kin.power_law(n, 15.0, 5.0, rng), rng.uniform(-4.5, 4.5, n), rng.uniform(-np.pi, np.pi, n), 0.0
            ),
            count > i,
        )
        for i in range(int(count.max(initial=0)))
    ]


def _leading(objects: list[Floats], most: int, n: int) -> Floats:
    """The `most` objects of highest pT of each event, padded with zeros."""
    padded = np.stack([*objects, *(np.zeros((n, 3)) for _ in range(most))], axis=1)
    order = np.argsort(-padded[:, :, 0], axis=1, kind="stable")[:, :most]
    return np.take_along_axis(padded, order[:, :, None], axis=1)
