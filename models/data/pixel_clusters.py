"""Charge clusters of one silicon pixel layer, for smart-pixel filter and regression networks; a fast stand-in for PixelAV."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import CompileError
from .dataset import DataSet, check_count, kept

__all__ = ["CLASSES", "SmartPixels", "charge_levels", "smart_pixels"]

CLASSES = ("high_pt", "low_pt_negative", "low_pt_positive")
LEVELS_ELECTRONS = (400, 1600, 2400)
"""The thresholds of the 2-bit pixel (Yoo et al., arXiv:2310.02474)."""

# The sensor of arXiv:2310.02474 and 2312.11676.
ROWS, COLUMNS = 13, 21  # y (bending plane), x (along the beam)
PITCH_X_UM, PITCH_Y_UM, THICKNESS_UM = 50.0, 12.5, 100.0
LAYER_RADIUS_MM, HALF_MODULE_MM, FIELD_TESLA = 30.0, 8.1, 3.8
TEMPERATURE_K, BIAS_V, DEPLETION_V = 263.0, 100.0, 30.0

# Ionisation in silicon: soft collisions in number per um at beta = 1 and energy in eV, and Rutherford scattering above.
SOFT_COLLISIONS = ((0.5, 160.0), (0.004, 3000.0))  # L and K shell, each with exponential energies
PLASMONS_PER_UM, PLASMON_EV = 3.4, 17.0
RUTHERFORD_EV_PER_UM, RUTHERFORD_MIN_EV = 17.8, 30.0
DELTA_RAY_MIN_EV, DELTA_RAY_MAX_EV = 20e3, 300e3  # harder ones leave the sensor
EV_PER_PAIR, ELECTRON_GEV, PION_GEV = 3.62, 0.511e-3, 0.13957
BOLTZMANN_EV, HALL_FACTOR, PIXEL_SPREAD_UM = 8.617e-5, 1.12, 0.7

DEPTH_SLICES, DELTA_RAY_STEPS, CLUSTERS_PER_CHUNK = 50, 20, 2000
IMPACT_PIXELS = 1.5  # the hit lies within so many pixels of the matrix's centre

Floats = NDArray[np.float64]

GENERATOR_VERSION = 1
"""Part of the cache's key: raise it with every change of what this module generates."""

KEPT_FROM = 10_000
"""So many events take longer to make than to read."""


@dataclass(frozen=True)
class SmartPixels:
    """Tracks and electronics. Charges in electrons, pT in GeV.

    flat_fraction: share of the tracks whose pT is uniform; the others follow a soft spectrum. low_pt_gev: below it
    a track belongs to one of the two low classes. early_ns: the end of the first time slice.
    """

    flat_fraction: float = 0.25
    pt_gev: tuple[float, float] = (0.05, 5.0)
    eta_max: float = 2.5
    low_pt_gev: float = 0.2
    noise: float = 80.0
    threshold: float = 400.0
    lsb: float = 80.0
    early_ns: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.flat_fraction <= 1:
            raise CompileError("data smart_pixels", f"flat_fraction must be from 0 to 1, not {self.flat_fraction}")
        if not 0 < self.pt_gev[0] < self.pt_gev[1]:
            raise CompileError("data smart_pixels", f"pt_gev must be two rising positive numbers, not {self.pt_gev}")


def smart_pixels(
    n: int,
    seed: int,
    options: SmartPixels | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """`n` clusters of pions in 13 x 21 pixels; the first rows do not depend on `n`.

    Arrays: `x` ``[n, 14]``, the inputs of the filter networks: the charge summed over each of the 13 rows, in ADC counts,
    and y0 in mm; `charge` uint8 ``[n, 2, 13, 21]`` in ADC counts (collected by `early_ns`, in total); the truth `pt_gev`
    (signed by charge), `x_um`, `y_um` (at mid-plane from the matrix's centre, the mean Lorentz shift removed), `cot_alpha`,
    `cot_beta`; `physical` (1: of the soft spectrum); `label`. `progress` is called with (clusters done, all). Many clusters
    are kept in the user's cache.
    """
    check_count("data smart_pixels", "the number of clusters", n)
    check_count("data smart_pixels", "seed", seed, 0)
    options = options or SmartPixels()
    if n < KEPT_FROM:
        return _generate(n, seed, options, progress)
    key = [GENERATOR_VERSION, np.__version__, n, seed, dataclasses.asdict(options)]
    return kept("smart_pixels", key, lambda: _generate(n, seed, options, progress))


def _generate(n: int, seed: int, options: SmartPixels, progress: Callable[[int, int], None] | None) -> DataSet:
    rng, drift = np.random.default_rng(seed), _drift()
    chunks: list[dict[str, NDArray[Any]]] = []
    done = 0
    while done < n:
        tracks = _tracks(CLUSTERS_PER_CHUNK, options, rng)
        charge = _collected(tracks, drift, options, rng)
        charge += rng.normal(size=charge.shape) * options.noise
        charge[charge < options.threshold] = 0
        tracks["charge"] = np.minimum(np.floor(charge / options.lsb), 255).astype(np.uint8)
        seen = tracks["charge"][:, 1].any(axis=(1, 2))
        chunks.append({k: v[seen] for k, v in tracks.items()})
        done += int(seen.sum())
        if progress:
            progress(min(done, n), n)
    made_with = {"seed": seed, **dataclasses.asdict(options)}
    return described({k: np.concatenate([c[k] for c in chunks])[:n] for k in chunks[0]}, options, made_with)


def described(arrays: dict[str, NDArray[Any]], options: SmartPixels, made_with: dict[str, Any]) -> DataSet:
    """Clusters ``charge`` with their truth and ``y0_mm`` as a data set, with the inputs and labels of the filter networks."""
    charge, y0 = arrays["charge"], arrays.pop("y0_mm")
    low = np.abs(arrays["pt_gev"]) < options.low_pt_gev
    profile = charge[:, 1].sum(axis=2)
    rounded = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}
    label = np.where(low, np.where(arrays["pt_gev"] < 0, 1, 2), 0).astype(np.uint8)
    return DataSet(
        "smart_pixels",
        {"x": np.column_stack([profile, y0]).astype(np.float32), **rounded, "label": label},
        target="label",
        classes=CLASSES,
        columns={"x": (*(f"row_{i}_adc" for i in range(ROWS)), "y0_mm")},
        meaning={
            "x": f"y profile in ADC counts of {options.lsb:g} electrons, and the cluster's place along y",
            "charge": f"time slice (by {options.early_ns:g} ns, total), row, column; ADC counts",
            "pt_gev": "transverse momentum, signed by charge",
            "x_um": "at mid-plane from the centre of the matrix",
            "y_um": "at mid-plane from the centre of the matrix, mean Lorentz shift removed",
            "cot_alpha": "slope along x, dx/dz",
            "cot_beta": "slope along y, dy/dz",
            "physical": "1: from the soft spectrum, 0: flat in pT",
            "label": f"|pT| from {options.low_pt_gev:g} GeV on, and below it by charge",
        },
        made_with=made_with,
    )


def charge_levels(
    counts: NDArray[Any], lsb: float = 80.0, levels: Sequence[float] = LEVELS_ELECTRONS
) -> NDArray[np.uint8]:
    """The 2-bit charge of each pixel: how many of `levels` (electrons, rising) its ADC counts of `lsb` electrons reach."""
    if list(levels) != sorted(levels) or not 0 < len(levels) < 256:
        raise CompileError("data smart_pixels", f"levels must be a rising list, not {list(levels)}")
    return np.digitize(np.asarray(counts, np.int64) * lsb, levels).astype(np.uint8)


class _Drift(NamedTuple):
    """For each depth slice: distance from the pixels, Lorentz shift, diffusion (um), drift time (ns)."""

    distance: Floats
    shift: Floats
    sigma: Floats
    time_ns: Floats


def _drift() -> _Drift:
    """Electrons in the linear field of an over-depleted n-in-p sensor, highest at the pixels.

    Mobility: Jacoboni et al., Solid-State Electronics 20 (1977) 77.
    """
    steps = 2000
    distance = (np.arange(steps) + 0.5) * THICKNESS_UM / steps
    weak, strong = (BIAS_V - DEPLETION_V) / THICKNESS_UM, 2 * DEPLETION_V / THICKNESS_UM
    field = (weak + strong * (1 - distance / THICKNESS_UM)) * 1e4  # V/cm
    speed = 1.53e9 * TEMPERATURE_K**-0.87  # cm/s
    critical, beta = 1.01 * TEMPERATURE_K**1.55, 2.57e-2 * TEMPERATURE_K**0.66
    mobility = speed / critical / (1 + (field / critical) ** beta) ** (1 / beta)  # cm2/Vs
    tan_lorentz = HALL_FACTOR * mobility * 1e-4 * FIELD_TESLA
    time_s = THICKNESS_UM / steps * 1e-4 / (mobility * field) * (1 + tan_lorentz**2)
    shift = np.cumsum(tan_lorentz) * THICKNESS_UM / steps
    sigma = np.sqrt(np.cumsum(2 * BOLTZMANN_EV * TEMPERATURE_K * mobility * time_s)) * 1e4
    at = ((np.arange(DEPTH_SLICES) + 0.5) * steps // DEPTH_SLICES).astype(int)
    return _Drift(distance[at], shift[at], np.hypot(sigma[at], PIXEL_SPREAD_UM), np.cumsum(time_s)[at] * 1e9)


def _tracks(n: int, options: SmartPixels, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Momenta and where they cross the layer: helices from a point-like beam spot in a field along the beam.

    The soft spectrum is a Tsallis function (T = 0.13 GeV, n = 6.7), as fitted to minimum bias by CMS (arXiv:1005.3299).
    """
    grid = np.linspace(*options.pt_gev, 20_001)
    cumulative = np.cumsum(grid * (1 + (np.hypot(grid, PION_GEV) - PION_GEV) / (6.7 * 0.13)) ** -6.7)
    pt = np.interp(rng.random(n), cumulative / cumulative[-1], grid)
    physical = rng.random(n) >= options.flat_fraction
    pt[~physical] = rng.uniform(*options.pt_gev, (~physical).sum())
    charge = rng.choice([-1, 1], n)
    eta = rng.uniform(-options.eta_max, options.eta_max, n)
    y0 = rng.uniform(-HALF_MODULE_MM, HALF_MODULE_MM, n)
    bending_radius_m = pt / (0.2998 * FIELD_TESLA)
    bend = charge * np.arcsin(np.hypot(LAYER_RADIUS_MM, y0) * 1e-3 / (2 * bending_radius_m))
    angle = np.arctan(y0 / LAYER_RADIUS_MM) + bend  # to the normal, in the bending plane
    x, y = rng.uniform(-IMPACT_PIXELS, IMPACT_PIXELS, (2, n)) * [[PITCH_X_UM], [PITCH_Y_UM]]
    return {
        "pt_gev": pt * charge,
        "y0_mm": y0,
        "x_um": x,
        "y_um": y,
        "cot_alpha": np.sinh(eta) / np.cos(angle),
        "cot_beta": np.tan(angle),
        "physical": physical.astype(np.uint8),
    }


def _collected(tracks: dict[str, Any], drift: _Drift, options: SmartPixels, rng: np.random.Generator) -> Floats:
    """Charge in electrons ``[n, 2, rows, columns]``, before noise."""
    deposited, knocked = _ionise(tracks, rng)
    cot_x, cot_y = tracks["cot_alpha"][:, None], tracks["cot_beta"][:, None]
    lorentz = drift.shift - drift.shift.mean()
    height = THICKNESS_UM / 2 - drift.distance  # along the flight, from mid-plane
    x = tracks["x_um"][:, None] + cot_x * height
    y = tracks["y_um"][:, None] + cot_y * height + lorentz
    step = THICKNESS_UM / DEPTH_SLICES
    in_column = _shares(x, np.hypot(drift.sigma, cot_x * step / math.sqrt(12)), COLUMNS, PITCH_X_UM)
    in_row = _shares(y, np.hypot(drift.sigma, cot_y * step / math.sqrt(12)), ROWS, PITCH_Y_UM)
    in_row *= (deposited / EV_PER_PAIR)[..., None]
    early = drift.time_ns < options.early_ns
    charge = np.stack([in_row[:, k].transpose(0, 2, 1) @ in_column[:, k] for k in (early, slice(None))], axis=1)
    _add_delta_rays(charge, knocked, tracks, (x, y - lorentz), drift, early, rng)
    return charge


def _shares(centre: Floats, sigma: Floats, pixels: int, pitch_um: float) -> Floats:
    """The part of a Gaussian charge cloud that each of `pixels` collects: ``[..., pixels]``."""
    edges = (np.arange(pixels + 1) - pixels / 2) * pitch_um
    return np.diff(_normal_cdf((edges - centre[..., None]) / sigma[..., None]))


_CDF_END, _CDF_STEPS = 6, 256


@cache
def _cdf_table() -> Floats:
    last = _CDF_END * _CDF_STEPS + 1
    return np.array([0.5 * math.erfc(-v / _CDF_STEPS / math.sqrt(2)) for v in range(1 - last, last + 1)])


def _normal_cdf(x: Floats) -> Floats:
    """The normal distribution function by linear interpolation, to 1e-6: numpy has none."""
    at = (np.clip(x, -_CDF_END, _CDF_END) + _CDF_END) * _CDF_STEPS
    index = at.astype(np.int32)
    low = _cdf_table()[index]
    return low + (at - index) * (_cdf_table()[index + 1] - low)


class _Knocked(NamedTuple):
    """Delta rays: the flat index (track, slice) each starts in, and its energy in eV."""

    cell: NDArray[np.int64]
    energy: Floats


def _ionise(tracks: dict[str, Any], rng: np.random.Generator) -> tuple[Floats, _Knocked]:
    """Energy in eV that each track leaves in each depth slice, and the hard collisions whose electrons travel."""
    n = len(tracks["pt_gev"])
    slope2 = 1 + tracks["cot_alpha"] ** 2 + tracks["cot_beta"] ** 2
    # The angle to the beam follows from both slopes: pT/p is the part of the direction that is across the beam.
    momentum = np.abs(tracks["pt_gev"]) * np.sqrt(slope2 / (1 + tracks["cot_beta"] ** 2))
    beta_gamma2 = (momentum / PION_GEV) ** 2
    beta2 = beta_gamma2 / (1 + beta_gamma2)
    rate = (THICKNESS_UM / DEPTH_SLICES * np.sqrt(slope2) / beta2)[:, None]  # um, weighted by 1/beta^2
    shape = (n, DEPTH_SLICES)
    energy = PLASMON_EV * rng.poisson(PLASMONS_PER_UM * rate, shape).astype(float)
    for per_um, mean_ev in SOFT_COLLISIONS:
        energy += mean_ev * rng.standard_gamma(rng.poisson(per_um * rate, shape))
    ratio = ELECTRON_GEV / PION_GEV
    highest = 2 * ELECTRON_GEV * 1e9 * beta_gamma2 / (1 + 2 * ratio * np.sqrt(1 + beta_gamma2) + ratio**2)
    mean = RUTHERFORD_EV_PER_UM * rate * (1 / RUTHERFORD_MIN_EV - 1 / highest[:, None])  # of dN/dE ~ 1/E^2
    cell = np.repeat(np.arange(n * DEPTH_SLICES), rng.poisson(mean, shape).ravel())
    hard = RUTHERFORD_MIN_EV / (1 - rng.random(len(cell)) * (1 - RUTHERFORD_MIN_EV / highest[cell // DEPTH_SLICES]))
    travels = hard > DELTA_RAY_MIN_EV
    energy += np.bincount(cell[~travels], hard[~travels], n * DEPTH_SLICES).reshape(shape)
    return energy, _Knocked(cell[travels], np.minimum(hard[travels], DELTA_RAY_MAX_EV))


def _add_delta_rays(
    charge: Floats,
    knocked: _Knocked,
    tracks: dict[str, Any],
    start: tuple[Floats, Floats],
    drift: _Drift,
    early: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Spread each delta ray along a straight stub of half its practical range, across its track.

    Practical range in um: 0.0172 (E/keV)^1.75 (Everhart and Hoff, J. Appl. Phys. 42 (1971) 5837).
    """
    track, depth = knocked.cell // DEPTH_SLICES, knocked.cell % DEPTH_SLICES
    flight = np.stack([tracks["cot_alpha"][track], tracks["cot_beta"][track], np.ones(len(track))], 1)
    flight /= np.linalg.norm(flight, axis=1, keepdims=True)
    across = rng.normal(size=(len(track), 3))
    across -= (across * flight).sum(1, keepdims=True) * flight
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    length = 0.5 * 0.0172 * (knocked.energy / 1e3) ** 1.75
    along = length[:, None] * (np.arange(DELTA_RAY_STEPS) + 0.5) / DELTA_RAY_STEPS
    distance = drift.distance[depth][:, None] - along * across[:, 2:]
    at = np.floor(distance / THICKNESS_UM * DEPTH_SLICES).astype(int)
    inside = (at >= 0) & (at < DEPTH_SLICES)
    at = at.clip(0, DEPTH_SLICES - 1)
    spread = drift.sigma[at]
    x = start[0].ravel()[knocked.cell][:, None] + along * across[:, :1] + rng.normal(size=at.shape) * spread
    y = start[1].ravel()[knocked.cell][:, None] + along * across[:, 1:2] + rng.normal(size=at.shape) * spread
    y += (drift.shift - drift.shift.mean())[at]
    column = np.floor(x / PITCH_X_UM + COLUMNS / 2).astype(int)
    row = np.floor(y / PITCH_Y_UM + ROWS / 2).astype(int)
    inside &= (column >= 0) & (column < COLUMNS) & (row >= 0) & (row < ROWS)
    pixel = (track[:, None] * ROWS + row) * COLUMNS + column
    electrons = np.broadcast_to(knocked.energy[:, None] / EV_PER_PAIR / DELTA_RAY_STEPS, pixel.shape)
    for time_slice, counted in enumerate((inside & early[at], inside)):
        total = np.bincount(pixel[counted], electrons[counted], len(charge) * ROWS * COLUMNS)
        charge[:, time_slice] += total.reshape(len(charge), ROWS, COLUMNS)
