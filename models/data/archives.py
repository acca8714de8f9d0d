"""Published data sets: where they are, whether a file is the right one, and how the common ones are read."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hw_targets import process
from ...ir.errors import CompileError
from .dataset import DataSet
from .substructure import FEATURES

__all__ = ["PUBLIC", "PublicFile", "fetch", "public"]

ZENODO_RECORD = "https://zenodo.org/api/records/{record}"
OPENML_RECORD = "https://www.openml.org/api/v1/json/data/{record}"
TIMEOUT_S = 60.0
_CHUNK = 1 << 20
MEMBER_BYTES_MAX = 4 << 30
"""A file inside an archive may not be larger: it is read into memory."""


@dataclass(frozen=True)
class PublicFile:
    """A file of a published set.

    archive: `zenodo` or `openml`, and the number of the record there, which publishes the file's md5; or `by hand`
    where the record is for the user to find. reader: how `public` reads it; without one, `fetch` gives the path.
    """

    archive: str
    record: int | None
    file: str
    about: str
    reader: Callable[[str, Path], DataSet] | None = None

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return {
            "zenodo": f"https://zenodo.org/records/{self.record}",
            "openml": f"https://www.openml.org/d/{self.record}",
        }.get(self.archive, "the page of its authors (see docs/data.md)")


def fetch(name: str, directory: str | Path | None = None, *, sha256: str | None = None) -> Path:
    """The path of a published file: in `directory`, else in the user's cache, else downloaded to `directory` or the cache.

    A download must have the size and md5 that its record publishes. `sha256`, where given, must be the file's. Without
    it the file is trusted on first use: its sha256 is noted in the cache, and a file of this name that differs later
    is refused. Raises CompileError for a wrong or truncated file, and where it is not here and cannot be fetched.
    """
    entry = _entry(name)
    folders = [*([Path(directory)] if directory else []), process.cache_folder("data") / "public"]
    path = next((found for folder in folders if (found := folder / entry.file).is_file()), None)
    if path is None:
        path = folders[0] / entry.file
        _download(entry, path)
    actual = _hash(path, "sha256")
    _check_first_use(entry, path, actual, None if sha256 is None else sha256.lower())
    return path


def public(name: str, directory: str | Path | None = None, *, sha256: str | None = None) -> DataSet:
    """The published set `name`, fetched as `fetch` does and read; see `PUBLIC` for the names.

    Raises CompileError in the cases of `fetch`, where the content is not of the published format, and for sets that this
    package cannot read.
    """
    entry = _entry(name)
    if entry.reader is None:
        raise CompileError(
            f"data {name}",
            f"{entry.file} is one of two files that belong together",
            "fetch() both for smart_pixel_files()",
        )
    path = fetch(name, directory, sha256=sha256)
    try:
        return entry.reader(name, path)
    except (OSError, KeyError, ValueError, IndexError, tarfile.TarError, EOFError) as fault:
        raise CompileError(
            str(path), f"must hold {entry.about}, and cannot be read as that ({fault})", f"take it from {entry.page}"
        ) from None


def _entry(name: str) -> PublicFile:
    if name not in PUBLIC:
        raise CompileError(f"data {name}", "no published set has this name", f"known: {', '.join(PUBLIC)}")
    return PUBLIC[name]


# Checksums.


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _check_first_use(entry: PublicFile, path: Path, actual: str, expected: str | None) -> None:
    noted = process.cache_folder("data") / "public" / f"{entry.archive}_{entry.record}_{entry.file}.sha256"
    try:
        before = noted.read_text().strip()
    except OSError:
        before = actual
    if actual != (expected or before):
        raise CompileError(
            str(path),
            f"sha256 must be {expected or before}{'' if expected else ', as on first use'}, not {actual}",
            f"fetch it again from {entry.page}" + ("" if expected else ", or pass sha256= if this file is right"),
        )
    process.write_atomic(noted, actual + "\n")


# Downloads.


def _download(entry: PublicFile, path: Path) -> None:
    missing = f"is neither in {path.parent} nor in the cache"
    by_hand = f"fetch {entry.file} from {entry.page} and put it into {path.parent}"
    if entry.record is None:
        raise CompileError(entry.file, missing, by_hand)
    try:
        url, size, md5 = _published(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not url.startswith(("https://", "http://")):
            raise CompileError(entry.file, f"its record must give a web address, not {url}", by_hand)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            unfinished = Path(folder) / entry.file
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, unfinished.open("wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
            _check_download(entry, unfinished, size, md5)
            unfinished.replace(path)
    except (OSError, http.client.HTTPException) as fault:  # URLError is an OSError
        reason = getattr(fault, "reason", None) or fault
        raise CompileError(entry.file, f"{missing}, and cannot be downloaded ({reason})", by_hand) from None


def _check_download(entry: PublicFile, path: Path, size: int | None, md5: str) -> None:
    got = path.stat().st_size
    if size is not None and got != size:
        raise CompileError(entry.file, f"must have {size:,} bytes, and {got:,} came", "try again")
    if (actual := _hash(path, "md5")) != md5:
        raise CompileError(entry.file, f"md5 must be {md5} as its record says, not {actual}", "try again")


def _published(entry: PublicFile) -> tuple[str, int | None, str]:
    """URL, size and md5 of a file as its record says."""
    page = {"zenodo": ZENODO_RECORD, "openml": OPENML_RECORD}[entry.archive].format(record=entry.record)
    with urllib.request.urlopen(page, timeout=TIMEOUT_S) as answer:
        content = answer.read(_CHUNK)
    try:
        record = json.loads(content)
        if entry.archive == "openml":
            about = record["data_set_description"]
            return str(about["url"]), None, str(about["md5_checksum"])
        about = next(f for f in record["files"] if f["key"] == entry.file)
        return str(about["links"]["self"]), int(about["size"]), str(about["checksum"]).removeprefix("md5:")
    except (ValueError, KeyError, TypeError, StopIteration):
        raise CompileError(
            entry.file, f"its record {page} does not list it in the known form", f"fetch it from {entry.page}"
        ) from None


# Readers.


def _read_hlf(name: str, path: Path) -> DataSet:
    """ARFF: numeric columns and the class as the last one."""
    columns: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            word = line.split(None, 2)
            if word and word[0].lower() == "@attribute":
                columns.append(word[1].strip("'\""))
            elif word and word[0].lower() == "@data":
                break
        rows = [line.strip().rpartition(",") for line in file if line.strip() and not line.startswith("%")]
    if sorted(c.lower() for c in columns[:-1]) != sorted(f.lower() for f in FEATURES) or not rows:
        raise ValueError(f"it has {len(rows)} rows of the columns {columns}")
    x = np.loadtxt((numbers for numbers, _, _ in rows), delimiter=",", dtype=np.float32, ndmin=2)
    if x.shape[1] != len(FEATURES):
        raise ValueError(f"rows have {x.shape[1]} numbers")
    kinds = [kind.strip("'\" ") for _, _, kind in rows]
    classes, label = np.unique(kinds, return_inverse=True)
    arrays = {"x": x, "label": label.astype(np.uint8)}
    return _labelled(name, arrays, tuple(classes.tolist()), {"x": tuple(columns[:-1])})


def _labelled(name: str, arrays: dict[str, NDArray[Any]], classes: tuple[str, ...], columns: dict[str, Any]) -> DataSet:
    return DataSet(name, arrays, target="label", classes=classes, columns=columns, made_with={"published": name})


_JET_CLASSES = ("g", "q", "t", "w", "z")
_CONSTITUENT_COLUMNS = ("j1_pt", "j1_etarel", "j1_phirel")


def _read_constituents(name: str, path: Path) -> DataSet:
    """A .tar.gz of .h5 files with `jetConstituentList`, `jets` and their columns' names; jets without a class are left out."""
    import h5py

    x: list[NDArray[Any]] = []
    label: list[NDArray[Any]] = []
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if not member.isfile() or not member.name.endswith(".h5"):
                continue
            if member.size > MEMBER_BYTES_MAX:
                raise ValueError(f"{member.name} has {member.size:,} bytes")
            content: Any = archive.extractfile(member)
            opened: Any = h5py.File(io.BytesIO(content.read()), "r")
            with opened as file:
                names = {k: [n.decode() for n in file[f"{k}FeatureNames"][()]] for k in ("particle", "jet")}
                chosen = [names["particle"].index(c) for c in _CONSTITUENT_COLUMNS]
                truth = file["jets"][()][:, [names["jet"].index(f"j_{c}") for c in _JET_CLASSES]]
                known = truth.any(axis=1)
                x.append(file["jetConstituentList"][()][known][:, :, chosen].astype(np.float32))
                label.append(truth[known].argmax(axis=1).astype(np.uint8))
    if not x:
        raise ValueError("there is no .h5 file in it")
    arrays = {"x": np.concatenate(x), "label": np.concatenate(label)}
    return _labelled(name, arrays, _JET_CLASSES, {"x": ("pt_gev", "eta_rel", "phi_rel")})


def _read_trigger_objects(name: str, path: Path) -> DataSet:
    """An .h5 file with `Particles` ``[events, 19, 4]``: pT, eta, phi and kind."""
    import h5py

    opened: Any = h5py.File(path, "r")
    with opened as file:
        particles = file["Particles"][()].astype(np.float32)
    if particles.ndim != 3 or particles.shape[1] != 19 or particles.shape[2] < 3:
        raise ValueError(f"Particles has shape {list(particles.shape)}")
    kind = 0 if name.endswith("background") else 1
    arrays = {"x": particles[:, :, :3], "label": np.full(len(particles), kind, np.uint8)}
    return _labelled(name, arrays, ("background", "signal"), {"x": ("pt_gev", "eta", "phi")})


PUBLIC: dict[str, PublicFile] = {
    "jets_hlf": PublicFile(
        "openml", 42468, "hls4ml_lhc_jets_hlf.arff", "830,000 jets with 16 high-level features", _read_hlf
    ),
    **{
        f"jets_{n}p_{part}": PublicFile(
            "zenodo",
            record,
            f"hls4ml_LHCjet_{n}p_{part}.tar.gz",
            f"jets with up to {n} constituents",
            _read_constituents,
        )
        for n, record in ((100, 3602254), (150, 3602260))
        for part in ("train", "val")
    },
    "adc2021_background": PublicFile(
        "zenodo", 5046389, "background_for_training.h5", "events of 19 trigger objects", _read_trigger_objects
    ),
    **{
        f"adc2021_{name}": PublicFile("by hand", None, file, "events of 19 trigger objects", _read_trigger_objects)
        for name, file in (
            ("a_to_4l", "Ato4l_lepFilter_13TeV_filtered.h5"),
            ("leptoquark", "leptoquark_LOWMASS_lepFilter_13TeV_filtered.h5"),
            ("h_to_tautau", "hToTauTau_13TeV_PU20_filtered.h5"),
            ("h_to_taunu", "hChToTauNu_13TeV_PU20_filtered.h5"),
        )
    },
    **{
        f"smart_pixels_{what}": PublicFile("zenodo", 10783560, file, "clusters as Parquet files")
        for what, file in (("charge", "recon3D.tar.gz"), ("labels", "labels.tar.gz"))
    },
}
"""Sets by name. No checksum is written here: a download is checked against the md5 that its record publishes."""
