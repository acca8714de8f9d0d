"""A mild parametric detector for stable particles: smears, merges in cells and drops; knows no jets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Detector", "Particles", "detect"]

Particles = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Event number, pT in GeV, eta and phi of massless objects, ordered by event."""

NEUTRINOS = (12, 14, 16)
NEUTRAL_HADRONS = (2112, 130, 310, 3122, 3322)
"""n, K0_L, K0_S, Lambda, Xi0: |PDG id| of what reaches the hadronic calorimeter without a track."""
ETA_MAX = 3.2
_PER_AXIS = 1 << 14
"""More cells than either axis has: a cell's key is event, eta and phi in one integer."""


@dataclass(frozen=True)
class Detector:
    """Resolutions of a general-purpose detector, of about the size of CMS (arXiv:1706.04965); no pile-up, no material.

    track: sigma(pT)/pT is `track_constant` and `track_per_gev` times pT, added in quadrature, above `track_pt_min_gev`;
    photons and neutral hadrons: sigma(E)/E is the stochastic term over sqrt(E/GeV) and the constant one, in square
    cells of so many units of eta and phi, kept above `cell_pt_min_gev`.
    """

    track_constant: float = 0.01
    track_per_gev: float = 1e-4
    track_pt_min_gev: float = 0.3
    photon_cell: float = 0.02
    photon_stochastic: float = 0.05
    photon_constant: float = 0.007
    hadron_cell: float = 0.02
    hadron_stochastic: float = 0.70
    hadron_constant: float = 0.05
    cell_pt_min_gev: float = 0.2


def detect(
    event: NDArray[Any], pdg_id: NDArray[Any], p4: NDArray[np.float64], options: Detector, rng: np.random.Generator
) -> Particles:
    """What is seen of the stable particles of many events. `p4` ``[4, particles]``: px, py, pz, E in GeV."""
    kind = np.abs(pdg_id)
    pt = np.hypot(p4[0], p4[1])
    eta, phi = np.arcsinh(p4[2] / np.maximum(pt, 1e-9)), np.arctan2(p4[1], p4[0])
    inside = ~np.isin(kind, NEUTRINOS) & (np.abs(eta) < ETA_MAX)
    hadron, photon = inside & np.isin(kind, NEUTRAL_HADRONS), inside & (kind == 22)
    charged = inside & ~hadron & ~photon & (pt > options.track_pt_min_gev)
    resolution = np.hypot(options.track_constant, options.track_per_gev * pt[charged])
    smeared = pt[charged] * (1 + resolution * rng.normal(size=charged.sum()))
    seen = [(event[charged], smeared, eta[charged], phi[charged])]
    for chosen, cell, stochastic, constant in (
        (photon, options.photon_cell, options.photon_stochastic, options.photon_constant),
        (hadron, options.hadron_cell, options.hadron_stochastic, options.hadron_constant),
    ):
        at, energy, cell_eta, cell_phi = _cells(event[chosen], eta[chosen], phi[chosen], p4[3][chosen], cell)
        sigma = np.hypot(stochastic / np.sqrt(np.maximum(energy, 1e-3)), constant)
        cell_pt = energy * (1 + sigma * rng.normal(size=len(energy))) / np.cosh(cell_eta)
        kept = cell_pt > options.cell_pt_min_gev
        seen.append((at[kept], cell_pt[kept], cell_eta[kept], cell_phi[kept]))
    numbers, pt, eta, phi = (np.concatenate(parts) for parts in zip(*seen))
    order = np.flatnonzero(pt > 0)
    order = order[np.argsort(numbers[order], kind="stable")]
    return numbers[order].astype(np.int64), pt[order], eta[order], phi[order]


def _cells(event: NDArray[Any], eta: Any, phi: Any, energy: Any, cell: float) -> tuple[Any, Any, Any, Any]:
    """Energies summed over cells: event, energy, eta and phi of the cells' centres."""
    half = _PER_AXIS // 2
    row, column = (np.floor(v / cell).astype(np.int64) + half for v in (eta, phi))
    keys, inverse = np.unique((event.astype(np.int64) * _PER_AXIS + row) * _PER_AXIS + column, return_inverse=True)
    summed = np.bincount(inverse, energy, len(keys))
    row, column = keys // _PER_AXIS % _PER_AXIS, keys % _PER_AXIS
    return keys // _PER_AXIS**2, summed, (row - half + 0.5) * cell, (column - half + 0.5) * cell
