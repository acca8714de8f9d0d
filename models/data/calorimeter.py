"""Samples of one liquid-argon calorimeter cell at 40 MHz, with pile-up, and the optimal filter that networks must beat."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import CompileError
from .dataset import DataSet, check_count

__all__ = [
    "OptimalFilter",
    "Pulses",
    "calorimeter_pulses",
    "noise_autocorrelation",
    "optimal_filter",
    "pulse",
    "windows",
]

BUNCH_SPACING_NS = 24.95
"""One LHC bunch crossing (BC)."""
NOISE_STEPS = 8
"""White noise is shaped on a grid so many times finer than the samples."""
NOISE_REACH = 12.0
"""The shaper's response to a spike is followed for so many time constants: less than 1e-3 of its peak is left then."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pulses:
    """One cell, its electronics and what falls into it. Energies in GeV, of the order of a middle-layer barrel cell.

    drift_ns: electrons drift through the gap, which gives a triangular current. shaper_ns: RC of the CR-RC^2 shaper; more
    than the 13 ns of ATLAS, as it stands for the preamplifier too, which has no part of its own here.
    noise_gev: electronic, white before the shaper. lsb_gev: a power of two, so that a sample in GeV is a fixed-point
    number. pileup_per_bc: mean number of soft deposits in a BC, each exponential with mean pileup_gev. signal_gap_bc: mean
    and standard deviation of the distance between the deposits to be found, whose energies are uniform up to
    signal_gev.
    """

    drift_ns: float = 450.0
    shaper_ns: float = 20.0
    noise_gev: float = 0.03
    lsb_gev: float = 2.0**-8
    adc_bits: int = 14
    pedestal: int = 1000
    pileup_per_bc: float = 0.5
    pileup_gev: float = 0.06
    signal_gap_bc: tuple[float, float] = (30.0, 10.0)
    signal_gev: float = 5.0

    def __post_init__(self) -> None:
        for name in ("drift_ns", "shaper_ns", "lsb_gev", "signal_gev"):
            if not getattr(self, name) > 0:
                raise CompileError("data calorimeter", f"{name} must be positive, not {getattr(self, name)}")
        for name in ("noise_gev", "pileup_per_bc", "pileup_gev"):
            if not getattr(self, name) >= 0:
                raise CompileError("data calorimeter", f"{name} must be at least 0, not {getattr(self, name)}")
        if not (self.signal_gap_bc[0] >= 1 and self.signal_gap_bc[1] >= 0):
            raise CompileError("data calorimeter", f"signal_gap_bc must be at least (1, 0), not {self.signal_gap_bc}")
        if not (2 <= self.adc_bits <= 30 and 0 <= self.pedestal < 1 << self.adc_bits):
            raise CompileError(
                "data calorimeter", f"the pedestal must lie in the range of adc_bits (2 to 30), not {self.pedestal}"
            )


def _response(t_ns: Any, options: Pulses) -> Floats:
    """The shaped triangular current at `t_ns` after the deposit, in units of its own charge scale.

    The shaper answers a step with ``u^2 exp(-u) / 2`` (u = t / RC); the current (1 - t / drift) is a step whose slope
    is taken back evenly over the drift time, so the integral of the answer is subtracted.
    """

    def integral(t: Floats) -> Floats:
        u = np.maximum(t, 0) / options.shaper_ns
        return options.shaper_ns * (1 - np.exp(-u) * (1 + u + u * u / 2))

    t = np.asarray(t_ns, float)
    u = np.maximum(t, 0) / options.shaper_ns
    return u * u * np.exp(-u) / 2 - (integral(t) - integral(t - options.drift_ns)) / options.drift_ns


class _Shape(NamedTuple):
    samples: Floats
    slope_per_ns: Floats
    peak: int


def pulse(options: Pulses) -> _Shape:
    """The pulse of a deposit of 1 GeV as sampled: its samples (1 at the peak), their slopes, and the peak's index.

    The first sample belongs to the BC of the deposit. One sample sits on the peak, as the detector is timed.
    """
    grid = np.linspace(0, 10 * options.shaper_ns, 100_001)
    peak_ns = float(grid[np.argmax(_response(grid, options))])
    peak = round(peak_ns / BUNCH_SPACING_NS)
    length = peak + math.ceil((options.drift_ns + NOISE_REACH * options.shaper_ns) / BUNCH_SPACING_NS)
    t = peak_ns + (np.arange(length) - peak) * BUNCH_SPACING_NS
    top, step = _response(peak_ns, options), 1e-3
    slope = (_response(t + step, options) - _response(t - step, options)) / (2 * step * top)
    return _Shape(_response(t, options) / top, slope, peak)


def _noise_kernel(options: Pulses) -> Floats:
    """The shaper's answer to a spike on the fine grid, with unit sum of squares."""
    u = np.arange(0, NOISE_REACH, BUNCH_SPACING_NS / NOISE_STEPS / options.shaper_ns)
    kernel = (u - u * u / 2) * np.exp(-u)
    return kernel / np.linalg.norm(kernel)


def noise_autocorrelation(samples: int, options: Pulses) -> Floats:
    """Correlation of the electronic noise of samples 0, 1, ... BC apart: ``[samples]``, 1 first."""
    kernel = _noise_kernel(options)
    lags = np.arange(samples) * NOISE_STEPS
    return np.array([kernel[lag:] @ kernel[: len(kernel) - lag] if lag < len(kernel) else 0.0 for lag in lags])


def calorimeter_pulses(n: int, seed: int, options: Pulses | None = None) -> DataSet:
    """`n` consecutive samples of one cell: a time series, to be cut into windows by `windows`.

    Arrays: `x` float32 ``[n]``, samples in GeV (ADC counts without pedestal, times the LSB); `energy_gev` ``[n]``, all energy
    deposited in that BC, and `signal_gev` ``[n]``, the part of it that is not pile-up. Aad et al., Comput. Softw. Big Sci.
    5 (2021) 19, doi:10.1007/s41781-021-00066-y, train on sequences of this kind.
    """
    check_count("data calorimeter", "the number of samples", n)
    check_count("data calorimeter", "seed", seed, 0)
    options = options or Pulses()
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    shape = pulse(options)
    total = n + len(shape.samples)  # the pulses of deposits before the first sample reach into it
    signal = _signal(total, options, streams[0])
    count = streams[1].poisson(options.pileup_per_bc, total)
    energy = signal + options.pileup_gev * streams[1].standard_gamma(count)
    kernel = _noise_kernel(options)
    white = streams[2].normal(size=n * NOISE_STEPS + len(kernel) - 1)
    noise = options.noise_gev * np.convolve(white, kernel, "valid")[::NOISE_STEPS]
    analog = np.convolve(energy, shape.samples)[:total][-n:] + noise
    counts = np.clip(np.rint(analog / options.lsb_gev) + options.pedestal, 0, (1 << options.adc_bits) - 1)
    return DataSet(
        "calorimeter_pulses",
        {
            "x": ((counts - options.pedestal) * options.lsb_gev).astype(np.float32),
            "energy_gev": energy[-n:].astype(np.float32),
            "signal_gev": signal[-n:].astype(np.float32),
        },
        target="energy_gev",
        meaning={
            "x": "sample of each BC in GeV, pedestal subtracted",
            "energy_gev": "all energy deposited in that BC",
            "signal_gev": "the part of it that is not pile-up",
        },
        overlap=len(shape.samples),
        made_with={"seed": seed, **dataclasses.asdict(options)},
    )


def _signal(n: int, options: Pulses, rng: np.random.Generator) -> Floats:
    mean, sigma = options.signal_gap_bc
    gaps = np.maximum(np.rint(rng.normal(mean, sigma, 2 * math.ceil(n / mean) + 10)), 1).astype(np.int64)
    at = np.cumsum(gaps)
    at = at[at < n]
    signal = np.zeros(n)
    signal[at] = rng.uniform(0, options.signal_gev, len(at))
    return signal


def windows(series: DataSet, samples: int = 5, before: int = 0) -> DataSet:
    """One row for each BC of a time series: its sample, `before` earlier ones and later ones, `samples` in all.

    `x` ``[rows, samples]`` in order of time; the other arrays are those of the BC. A network that reads a window answers
    ``samples - before - 1`` BC after the deposit. BCs without a whole window are left out.
    """
    check_count("data calorimeter", "samples", samples)
    check_count("data calorimeter", "before", before, 0)
    rows = len(series) - samples + 1
    if before >= samples or rows < 1:
        raise CompileError(
            "data calorimeter",
            f"a window needs before < samples <= {len(series)} (the series), not {before} and {samples}",
        )
    cut = {k: v[before : before + rows] for k, v in series.arrays.items()}
    cut[series.inputs] = np.lib.stride_tricks.sliding_window_view(series.x, samples).copy()
    columns = {series.inputs: tuple(f"bc{i - before:+d}_gev" for i in range(samples))}
    return replace(
        series,
        arrays=cut,
        columns=columns,
        overlap=max(samples - 1, series.overlap),
        made_with={**series.made_with, "samples": samples, "before": before},
    )


@dataclass(frozen=True)
class OptimalFilter:
    """Coefficients of the samples of a window and what is added to their sum; `sigma_gev`: the resolution expected."""

    coefficients: Floats
    offset_gev: float
    sigma_gev: float

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Energy in GeV of windows ``[rows, samples]``."""
        return np.asarray(x, float) @ self.coefficients + self.offset_gev


def optimal_filter(
    options: Pulses | None = None, samples: int = 5, before: int = 0, *, pileup: bool = True, timing: bool = False
) -> OptimalFilter:
    """The unbiased linear estimate of a deposit with the smallest variance (Cleland and Stern, NIM A 338 (1994) 467).

    For windows of `windows` with the same `samples` and `before`, which must see the peak. The noise is the electronic
    one and the rounding, and with `pileup` the fluctuation of soft deposits in other BCs, not that of large ones nearby;
    the offset takes out the mean of all of them. `timing` also makes the estimate blind to a small shift in time.
    """
    options, shape = options or Pulses(), pulse(options or Pulses())
    check_count("data calorimeter", "samples", samples, 1 + timing)
    check_count("data calorimeter", "before", before, 0)
    if samples - before <= max(shape.peak, 1 if timing else 0):
        raise CompileError(
            "data calorimeter",
            f"a window must reach {shape.peak} samples beyond the deposit, not {samples - before - 1}",
            "raise samples or lower before",
        )
    lag = np.arange(samples)[:, None] - np.arange(samples)
    noise = options.noise_gev**2 * noise_autocorrelation(samples, options)[np.abs(lag)]
    noise = noise + options.lsb_gev**2 / 12 * np.eye(samples)
    padded = np.concatenate([np.zeros(samples), shape.samples, np.zeros(samples)])
    # Row m is the pulse of a deposit m - reach + 1 - before BC away as the window sees it, for every m that it sees.
    others = np.array([padded[at : at + samples] for at in range(len(padded) - samples + 1)])
    own = others[samples - before]
    if pileup:
        variance = 2 * options.pileup_per_bc * options.pileup_gev**2  # of a sum of exponential deposits
        noise = noise + variance * (others.T @ others - np.outer(own, own))
    slope = np.concatenate([np.zeros(samples), shape.slope_per_ns, np.zeros(samples)])[samples - before :][:samples]
    constraints = np.column_stack([own, slope] if timing else [own])
    weighted = np.linalg.solve(noise, constraints)
    coefficients = weighted @ np.linalg.solve(constraints.T @ weighted, np.eye(constraints.shape[1])[0])
    mean = options.pileup_per_bc * options.pileup_gev + options.signal_gev / 2 / options.signal_gap_bc[0]
    offset = -mean * (others.sum(0) - own) @ coefficients
    return OptimalFilter(coefficients, float(offset), math.sqrt(coefficients @ noise @ coefficients))
