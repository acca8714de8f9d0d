"""Four-momenta ``[events, 4]`` (E, px, py, pz in GeV): boosts, decays and spectra; knows no process and no detector."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "boost",
    "breit_wigner",
    "eta",
    "from_pt",
    "invariant_mass",
    "isotropic",
    "phi",
    "power_law",
    "pt",
    "two_body",
]

Floats = NDArray[np.float64]


def from_pt(pt: Any, rapidity: Any, phi: Any, mass: Any) -> Floats:
    """Momenta from transverse momentum, rapidity, azimuth and mass."""
    transverse_mass = np.hypot(pt, mass)
    parts = transverse_mass * np.cosh(rapidity), pt * np.cos(phi), pt * np.sin(phi), transverse_mass * np.sinh(rapidity)
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def pt(p4: Floats) -> Floats:
    """Transverse momentum."""
    return np.hypot(p4[..., 1], p4[..., 2])


def eta(p4: Floats) -> Floats:
    """Pseudorapidity."""
    return np.arcsinh(p4[..., 3] / np.maximum(pt(p4), 1e-9))


def phi(p4: Floats) -> Floats:
    """Azimuth."""
    return np.arctan2(p4[..., 2], p4[..., 1])


def invariant_mass(p4: Floats) -> Floats:
    """Mass; zero where rounding makes its square negative."""
    return np.sqrt(np.maximum(p4[..., 0] ** 2 - np.sum(p4[..., 1:] ** 2, axis=-1), 0.0))


def isotropic(n: int, rng: np.random.Generator) -> Floats:
    """Unit vectors ``[n, 3]``."""
    cosine, azimuth = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=-1)


def boost(p4: Floats, frame: Floats) -> Floats:
    """`p4`, given in the rest frame of `frame`, in the frame where `frame` is given."""
    mass = invariant_mass(frame)[:, None]
    along = np.sum(p4[:, 1:] * frame[:, 1:], axis=-1, keepdims=True)
    energy = (p4[:, :1] * frame[:, :1] + along) / mass
    momentum = p4[:, 1:] + frame[:, 1:] * (p4[:, :1] + energy) / (frame[:, :1] + mass)
    return np.concatenate([energy, momentum], axis=-1)


def two_body(parent: Floats, masses: tuple[Any, Any], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """An isotropic decay into two particles of these masses, which must not exceed the parent's."""
    mass = invariant_mass(parent)
    total, difference = np.add(*masses), np.subtract(*masses)
    momentum = np.sqrt(np.maximum((mass**2 - total**2) * (mass**2 - difference**2), 0)) / (2 * mass)
    direction = momentum[:, None] * isotropic(len(parent), rng)
    daughters = (
        np.concatenate([np.sqrt(momentum**2 + np.square(m))[:, None], sign * direction], axis=-1)
        for m, sign in zip(masses, (1, -1))
    )
    first, second = (boost(daughter, parent) for daughter in daughters)
    return first, second


def breit_wigner(n: int, mass: float, width: float, limits: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Masses of a non-relativistic Breit-Wigner within `limits`."""
    low, high = (np.arctan(2 * (limit - mass) / width) for limit in limits)
    return mass + width / 2 * np.tan(rng.uniform(low, high, n))


def power_law(n: int, least: float, exponent: float, rng: np.random.Generator, most: float = np.inf) -> Floats:
    """Values from `least` to `most` with density ``x ** -exponent`` (`exponent` above 1)."""
    end = (most / least) ** (1 - exponent)
    return least * (1 - rng.random(n) * (1 - end)) ** (1 / (1 - exponent))
