"""What one jet looks like inside: mMDT grooming and the 16 high-level features; knows no generator and no detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "delta_phi", "features", "groom"]

FEATURES = (
    "zlogz", "C1_b0_mmdt", "C1_b1_mmdt", "C1_b2_mmdt", "C2_b1_mmdt", "C2_b2_mmdt", "D2_b1_mmdt", "D2_b2_mmdt",
    "D2_a1_b1_mmdt", "D2_a1_b2_mmdt", "M2_b1_mmdt", "M2_b2_mmdt", "N2_b1_mmdt", "N2_b2_mmdt", "mass_mmdt", "multiplicity",
)  # fmt: skip
"""The inputs of the hls4ml jet tagger, in its order (Coleman et al., arXiv:1709.08705; Duarte et al., arXiv:1804.06913)."""

Floats = NDArray[np.float64]
_ALL_IN_ONE = 10.0
"""A radius (Cambridge/Aachen) beyond every distance within a jet, so that reclustering ends in one jet."""


def delta_phi(phi: Any) -> Any:
    """An azimuthal difference, brought to [-pi, pi)."""
    return (phi + np.pi) % (2 * np.pi) - np.pi


def groom(pt: Floats, eta: Floats, phi: Floats, z_cut: float) -> tuple[NDArray[np.bool_], float]:
    """Modified mass drop tagger: (kept constituents, groomed mass in GeV).

    The massless constituents are reclustered by Cambridge/Aachen; the softer branch is dropped until it carries more
    than `z_cut` of the pT of both (Dasgupta et al., arXiv:1307.0007; soft drop with beta = 0, arXiv:1402.2657).
    """
    import fastjet

    momenta = zip(*(v.tolist() for v in (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))))
    particles = []
    for index, momentum in enumerate(momenta):
        particle = fastjet.PseudoJet(*momentum)
        particle.set_user_index(index)
        particles.append(particle)
    sequence: Any = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.cambridge_algorithm, _ALL_IN_ONE))
    jet = sequence.inclusive_jets()[0]
    hard, soft = fastjet.PseudoJet(), fastjet.PseudoJet()
    while jet.has_parents(hard, soft):
        if hard.pt() < soft.pt():
            hard, soft = soft, hard
        if soft.pt() > z_cut * (hard.pt() + soft.pt()):
            break
        jet, hard = hard, fastjet.PseudoJet()
    kept = np.zeros(len(pt), bool)
    kept[[particle.user_index() for particle in jet.constituents()]] = True
    return kept, math.sqrt(max(jet.m2(), 0.0))


def _three_point(z: Floats, distance: Floats) -> Floats:
    """Sums over all triples of z z z times (all three angles, the smallest, the two smallest): ``[3, beta = 1 or 2]``."""
    j, k = np.tril_indices(len(z), -1)
    between, weights = distance[j, k], z[j] * z[k]
    sums = np.zeros((3, 2))
    for i in range(2, len(z)):  # with the pairs k < j < i, which come first: few enough to stay in the cache
        m = i * (i - 1) // 2
        a, b, c, weight = between[:m], distance[i][j[:m]], distance[i][k[:m]], z[i] * weights[:m]
        largest = np.maximum(np.maximum(a, b), c)
        three = a * b * c
        angles = three, np.minimum(np.minimum(a, b), c), three / np.where(largest > 0, largest, 1.0)
        sums += [[weight @ angle, weight @ (angle * angle)] for angle in angles]
    return sums


def features(pt: Floats, eta: Floats, phi: Floats, jet_pt: float, z_cut: float) -> Floats:
    """The 16 `FEATURES` of one jet from its constituents (pT in GeV).

    C, D: arXiv:1305.0007 and 1409.6298; M, N: arXiv:1609.07483. Momentum fractions of the correlators refer to the groomed
    scalar pT sum, and all groomed constituents enter. Jets groomed to one constituent have zero correlators.
    """
    kept, mass = groom(pt, eta, phi, z_cut)
    fraction = pt / jet_pt
    z, eta, phi = pt[kept] / pt[kept].sum(), eta[kept], phi[kept]
    distance = np.hypot(eta[:, None] - eta, delta_phi(phi[:, None] - phi))
    out = np.zeros(len(FEATURES))
    out[0] = np.sum(fraction * np.log(fraction))
    pairs = np.outer(z, z)
    e2 = {beta: np.sum(np.tril(pairs * distance**beta, -1)) for beta in (0, 1, 2)}
    out[1:4] = e2[0], e2[1], e2[2]
    if e2[1] > 0:
        all_three, smallest, two_smallest = _three_point(z, distance)
        out[4:6] = all_three[0] / e2[1] ** 2, all_three[1] / e2[2] ** 2
        out[6:8] = all_three[0] / e2[1] ** 3, all_three[1] / e2[2] ** 3
        out[8:10] = (
            all_three[0] / e2[1] ** 3,
            all_three[0] / e2[2] ** 1.5,
        )  # D2(alpha, beta) = e3(alpha) / e2(beta)^(3 alpha / beta)
        out[10:12] = smallest[0] / e2[1], smallest[1] / e2[2]
        out[12:14] = two_smallest[0] / e2[1] ** 2, two_smallest[1] / e2[2] ** 2
    out[14:] = mass, len(pt)
    return out
