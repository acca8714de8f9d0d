"""Undecayed leading-order pairs at 13 TeV as a Les Houches file, W and Z decayed by hand; showers nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROCESSES", "pythia", "write_hard_process"]

PROCESSES: dict[str, tuple[tuple[str, ...], frozenset[int]]] = {
    "g": (("HardQCD:gg2gg=on", "HardQCD:qqbar2gg=on"), frozenset({21})),
    "q": (
        ("HardQCD:gg2qqbar=on", "HardQCD:qq2qq=on", "HardQCD:qqbar2qqbarNew=on", "HardQCD:nQuarkNew=3"),
        frozenset({1, 2, 3}),
    ),
    "t": (("Top:gg2ttbar=on", "Top:qqbar2ttbar=on"), frozenset({6})),
    "w": (("WeakDoubleBoson:ffbar2WW=on",), frozenset({24})),
    "z": (("WeakDoubleBoson:ffbar2gmZgmZ=on", "WeakZ0:gmZmode=2"), frozenset({23})),
}
"""Pythia settings of each class, and the |PDG id| that both outgoing partons must have."""

COLLISION_ENERGY_GEV = 13_000.0
Z_TO_QUARKS = {1: 0.223, 2: 0.1655, 3: 0.223, 4: 0.1655, 5: 0.223}
"""Z -> d, u, s, c, b: shares of the hadronic width at sin^2(theta_W) = 0.23 (Particle Data Group)."""
QUARK_MASSES_GEV = {4: 1.5, 5: 4.8}
LIGHT_QUARK_MASS_GEV = 0.33
"""Constituent masses, as Pythia has them."""

_EVENT_LINE = "%d %d %d %d %d %d %.10e %.10e %.10e %.10e %.10e 0. 9.\n"


def pythia(*settings: str) -> Any:
    """A quiet Pythia 8 with these settings."""
    import pythia8mc

    generator = pythia8mc.Pythia("", False)
    for setting in ("Print:quiet=on", "Random:setSeed=on", *settings):
        generator.readString(setting)
    if not generator.init():
        raise RuntimeError(f"Pythia refused {settings}")
    return generator


def write_hard_process(
    path: Path, name: str, events: int, seed: int, pt_gev: tuple[float, float], longitudinal: bool
) -> None:
    """Write `events` collisions of the class `name` whose partons have pT within `pt_gev`.

    Pythia decays top quarks when it reads the file, and W and Z where they are not `longitudinal`, without spin
    correlations. Where they are, they decay here as 3/4 sin^2 of the angle to the flight direction.
    """
    settings, wanted = PROCESSES[name]
    rng = np.random.default_rng(seed)
    generator = pythia(
        *settings,
        f"Beams:eCM={COLLISION_ENERGY_GEV:g}",
        f"PhaseSpace:pTHatMin={pt_gev[0]:g}",
        f"PhaseSpace:pTHatMax={pt_gev[1]:g}",
        "ProcessLevel:resonanceDecays=off",
        "PartonLevel:all=off",
        "HadronLevel:all=off",
        f"Random:seed={seed}",
    )
    beam = COLLISION_ENERGY_GEV / 2
    with path.open("w") as file:
        file.write('<LesHouchesEvents version="1.0">\n<init>\n')
        file.write(f"2212 2212 {beam} {beam} 0 0 0 0 3 1\n1. 0. 1. 9999\n</init>\n")
        written = 0
        while written < events:
            if generator.next() and {abs(generator.process[i].id()) for i in (5, 6)} <= wanted:
                file.write(_event(generator, rng, longitudinal and name in "wz"))
                written += 1
        file.write("</LesHouchesEvents>\n")


def _event(generator: Any, rng: np.random.Generator, decayed: bool) -> str:
    """One event record: id, status, mothers, colours, px, py, pz, E, m of each particle."""
    rows: list[tuple[Any, ...]] = []
    for i in (3, 4, 5, 6):
        p = generator.process[i]
        momentum = (p.px(), p.py(), p.pz(), p.e(), p.m())
        status = -1 if i < 5 else 2 if decayed else 1
        mothers = (0, 0) if i < 5 else (1, 2)
        rows.append((p.id(), status, *mothers, p.col(), p.acol(), *momentum))
    for boson, row in enumerate(rows[2:] if decayed else ()):
        for daughter, colour in zip(_decay(row[0], np.array(row[6:10]), rng), ((601 + boson, 0), (0, 601 + boson))):
            rows.append((daughter[0], 1, boson + 3, 0, *colour, *daughter[1:]))
    info = generator.infoPython()
    head = f"<event>\n{len(rows)} 9999 1. {info.QFac():.6e} {info.alphaEM():.6e} {info.alphaS():.6e}\n"
    return head + "".join(_EVENT_LINE % row for row in rows) + "</event>\n"


def _flavours(boson: int, rng: np.random.Generator) -> tuple[int, int]:
    if boson == 23:
        quark = int(rng.choice(list(Z_TO_QUARKS), p=list(Z_TO_QUARKS.values())))
        return quark, -quark
    up = int(rng.choice([2, 4]))
    return (up, 1 - up) if boson > 0 else (up - 1, -up)


def _decay(boson: int, p4: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """The quark and the antiquark of a longitudinal W or Z: rows of id, px, py, pz, E, m."""
    flavours = _flavours(boson, rng)
    masses = [QUARK_MASSES_GEV.get(abs(f), LIGHT_QUARK_MASS_GEV) for f in flavours]
    mass = math.sqrt(p4[3] ** 2 - p4[:3] @ p4[:3])
    momentum = math.sqrt((mass**2 - sum(masses) ** 2) * (mass**2 - (masses[0] - masses[1]) ** 2)) / (2 * mass)
    cosine, azimuth = 2 * rng.beta(2, 2) - 1, rng.uniform(0, 2 * np.pi)  # Beta(2, 2) is 3/4 (1 - cos^2)
    boost = math.sqrt(p4[:3] @ p4[:3])
    along = p4[:3] / boost
    side = np.cross(along, [1.0, 0, 0] if abs(along[0]) < 0.9 else [0, 1.0, 0])
    side /= math.sqrt(side @ side)
    across = np.cos(azimuth) * side + np.sin(azimuth) * np.cross(along, side)
    gamma, gamma_beta = p4[3] / mass, boost / mass
    rows: list[tuple[Any, ...]] = []
    for flavour, sign, m in zip(flavours, (1, -1), masses):
        energy, parallel = math.hypot(momentum, m), sign * momentum * cosine
        transverse = sign * momentum * math.sqrt(1 - cosine**2) * across
        p = transverse + along * (gamma * parallel + gamma_beta * energy)
        rows.append((flavour, *p, gamma * energy + gamma_beta * parallel, m))
    return rows
