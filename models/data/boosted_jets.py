"""Five classes of boosted jets by Pythia 8 and FastJet, in blocks of own seeds that are cached and run side by side."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import CompileError
from .dataset import DataSet, check_count, kept
from .detector import Detector, Particles, detect
from .hard_process import PROCESSES, pythia, write_hard_process
from .substructure import FEATURES, delta_phi, features

__all__ = ["CLASSES", "Jets", "jets"]

CLASSES = tuple(PROCESSES)
GENERATOR_VERSION = 1
"""Part of the cache's key: raise it with every change of what this package generates."""
JETS_PER_BLOCK = 500
EVENTS_PER_FILE, EVENTS_PER_BATCH = 500, 25
HADRONIC_DECAYS = ("24:onMode=off", "24:onIfAny=1 2 3 4 5", "23:onMode=off", "23:onIfAny=1 2 3 4 5")
PYTHIA_SEEDS = 900_000_000
"""Pythia takes seeds from 1 to this."""
_EXTRA = ("pythia8mc", "fastjet", "awkward")


@dataclass(frozen=True)
class Jets:
    """What is simulated, as published (arXiv:1709.08705, 1804.06913): a choice of ours is the polarisation of W and Z.

    parton_pt_gev: of the leading-order pair. radius: of anti-kT jets, with jet_pt_gev and |eta| below `eta_max`, within
    `match` of a hard parton. z_cut: of mMDT. longitudinal: W and Z decay as 3/4 sin^2, isotropically else.
    """

    constituents: int = 32
    parton_pt_gev: tuple[float, float] = (990.0, 1010.0)
    jet_pt_gev: tuple[float, float] = (800.0, 1600.0)
    radius: float = 0.8
    eta_max: float = 2.4
    match: float = 0.6
    z_cut: float = 0.1
    longitudinal: bool = True
    detector: Detector = field(default_factory=Detector)


def jets(
    per_class: int,
    seed: int,
    options: Jets | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """`per_class` jets of each of the classes g, q, t, w, z, shuffled.

    Arrays: `x` ``[jets, 16]``, `constituents` ``[jets, n, 3]`` (pT fraction, eta and phi relative to the jet axis; by
    falling pT, zero padded), `jet` ``[jets, 2]`` (pT in GeV, eta; not features), `label`. The result does not depend on
    `workers` (processes); a script that asks for several needs ``if __name__ == "__main__":``. Finished blocks of
    500 jets are kept in the user's cache, so an interrupted run goes on where it was. `progress` is called with
    (jets done, jets in total). Raises CompileError where pythia8mc and fastjet are not installed.
    """
    options = options or Jets()
    for what, value, least in (("per_class", per_class, 1), ("seed", seed, 0), ("workers", workers, 1)):
        check_count("data jets", what, value, least)
    check_count("data jets", "constituents", options.constituents)
    versions = _versions()
    sizes = [min(JETS_PER_BLOCK, per_class - done) for done in range(0, per_class, JETS_PER_BLOCK)]
    work = [(label, i, n, seed, options, versions) for label in range(len(CLASSES)) for i, n in enumerate(sizes)]
    done, found = 0, dict[int, DataSet]()
    for at, block in _run(work, workers):
        found[at], done = block, done + len(block)
        if progress:
            progress(done, per_class * len(CLASSES))
    blocks = [found[at] for at in range(len(work))]
    arrays = {k: np.concatenate([block[k] for block in blocks]) for k in blocks[0].arrays}
    order = np.random.default_rng(seed).permutation(len(arrays["label"]))
    return _described({k: v[order] for k, v in arrays.items()}, seed, options, versions)


def _described(arrays: dict[str, NDArray[Any]], seed: int, options: Jets, versions: dict[str, str]) -> DataSet:
    return DataSet(
        "jets",
        arrays,
        target="label",
        classes=CLASSES,
        columns={"x": FEATURES, "constituents": ("pt_rel", "eta_rel", "phi_rel"), "jet": ("pt_gev", "eta")},
        meaning={
            "x": "high-level features; mass in GeV, the others are pure numbers",
            "constituents": "leading constituents relative to the jet, by falling pT, zero padded",
            "jet": "for plots and cuts, not a feature",
            "label": "what the jet comes from",
        },
        made_with={"seed": seed, **dataclasses.asdict(options), **versions},
    )


def _versions() -> dict[str, str]:
    """The versions that decide the numbers; refuses where one of them is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in _EXTRA} | {"generator": str(GENERATOR_VERSION)}
    except importlib.metadata.PackageNotFoundError as missing:
        raise CompileError(
            "data jets",
            f"needs the package {missing.name}, which is not installed",
            "run pip install --only-binary :all: pythia8mc fastjet, or use sample('jets')",
        ) from None


def _run(work: list[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, DataSet]]:
    if workers == 1:
        for at, item in enumerate(work):
            yield at, _block(*item)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(_block, *item): at for at, item in enumerate(work)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _block(label: int, index: int, n: int, seed: int, options: Jets, versions: dict[str, str]) -> DataSet:
    """Block `index` of a class, from the cache or generated."""
    seeds = np.random.SeedSequence([seed, label, index])
    key = [label, index, n, seed, dataclasses.asdict(options), versions]
    return kept("jets", key, lambda: _described(_generate(label, n, seeds, options), seed, options, versions))


def _generate(label: int, n: int, seeds: np.random.SeedSequence, options: Jets) -> dict[str, NDArray[Any]]:
    """`n` jets of one class: collisions are read, detected and clustered in batches until there are enough."""
    rng = np.random.default_rng(seeds)
    found: list[tuple[Any, Any, Any]] = []
    while len(found) < n:
        hard, shower = (1 + int(v) % PYTHIA_SEEDS for v in rng.integers(0, 1 << 62, 2))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "hard.lhe"
            write_hard_process(path, CLASSES[label], EVENTS_PER_FILE, hard, options.parton_pt_gev, options.longitudinal)
            settings = ("Beams:frameType=4", f"Beams:LHEF={path}", *HADRONIC_DECAYS, f"Random:seed={shower}")
            generator = pythia(*settings)
            for _ in range(EVENTS_PER_FILE // EVENTS_PER_BATCH):
                if len(found) < n:
                    found += _jets_of(generator.nextBatch(EVENTS_PER_BATCH).prt, options, rng)
    x, constituents, jet = (np.array(v, np.float32) for v in zip(*found[:n]))
    return {
        "x": x,
        "constituents": constituents.astype(np.float16),
        "jet": jet,
        "label": np.full(n, label, np.uint8),
    }


def _jets_of(particles: Any, options: Jets, rng: np.random.Generator) -> Iterator[tuple[Any, Any, Any]]:
    """(features, constituents, pT and eta) of every jet that is kept in a batch of collisions."""
    import awkward as ak
    import fastjet

    hard = [ak.to_numpy(getattr(particles.p, c)[:, 5:7]) for c in ("px", "py", "pz")]
    hard_eta, hard_phi = np.arcsinh(hard[2] / np.hypot(hard[0], hard[1])), np.arctan2(hard[1], hard[0])
    final = particles[particles.status > 0]
    event = np.repeat(np.arange(len(particles)), ak.to_numpy(ak.num(final.id)))
    p4 = np.array([ak.to_numpy(ak.flatten(getattr(final.p, c))) for c in ("px", "py", "pz", "e")])
    seen = detect(event, ak.to_numpy(ak.flatten(final.id)), p4, options.detector, rng)
    at, pt, eta, phi = seen
    counts = np.bincount(at, minlength=len(particles))
    columns = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": pt * np.cosh(eta)}
    momenta = ak.unflatten(ak.zip(columns, with_name="Momentum4D"), counts)
    sequence = fastjet.ClusterSequence(momenta, fastjet.JetDefinition(fastjet.antikt_algorithm, options.radius))
    low = options.jet_pt_gev[0]
    clustered, members = sequence.inclusive_jets(low), sequence.constituent_index(low).to_list()
    momentum = {c: getattr(clustered, c).to_list() for c in ("px", "py", "pz")}
    first = np.cumsum(counts) - counts
    for number, of_jets in enumerate(members):
        for i, of_jet in enumerate(of_jets):
            p3 = np.array([momentum[c][number][i] for c in ("px", "py", "pz")])
            jet_pt = float(np.hypot(p3[0], p3[1]))
            axis = float(np.arcsinh(p3[2] / jet_pt)), float(np.arctan2(p3[1], p3[0]))
            distance = np.hypot(axis[0] - hard_eta[number], delta_phi(axis[1] - hard_phi[number])).min()
            if jet_pt < options.jet_pt_gev[1] and abs(axis[0]) < options.eta_max and distance < options.match:
                yield _jet(seen, first[number] + np.array(of_jet), jet_pt, axis, options)


def _jet(seen: Particles, members: NDArray[Any], jet_pt: float, axis: tuple[float, float], options: Jets) -> Any:
    _, pt, eta, phi = seen
    members = members[np.argsort(-pt[members], kind="stable")]
    leading = members[: options.constituents]
    constituents = np.zeros((options.constituents, 3))
    constituents[: len(leading)] = np.column_stack(
        [pt[leading] / jet_pt, eta[leading] - axis[0], delta_phi(phi[leading] - axis[1])]
    )
    return features(pt[members], eta[members], phi[members], jet_pt, options.z_cut), constituents, (jet_pt, axis[0])
