"""The published smart-pixel clusters of PixelAV, as the generator's data set; knows their files, and no network."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import CompileError
from .archives import MEMBER_BYTES_MAX
from .dataset import DataSet, check_count
from .pixel_clusters import COLUMNS, ROWS, SmartPixels, described

__all__ = ["smart_pixel_files"]

SLICES, SLICE_NS = 20, 0.2
"""Each cluster is there 20 times: what was collected by 0.2, 0.4, ... 4 ns, in electrons."""

TRUTH = {
    "pt_gev": "pt",
    "y0_mm": "y-local",
    "x_um": "x-midplane",
    "y_um": "y-midplane",
    "cot_alpha": "cotAlpha",
    "cot_beta": "cotBeta",
}
"""Our name: the column of the labels."""


def smart_pixel_files(
    labels: str | Path, charge: str | Path, events: int | None = None, options: SmartPixels | None = None
) -> DataSet:
    """The clusters of ``labels*.parquet`` and ``recon3D*.parquet``, each a folder of such files or a .tar.gz that holds them.

    The arrays are those of `smart_pixels`, of the `threshold`, `lsb` and `early_ns` of `options` (noise is not added); files
    belong together by the rest of their names. `events`: at most so many. Needs pyarrow. Raises `CompileError` for files that are
    not of this form, and for charges without labels.
    """
    if events is not None:
        check_count("smart_pixel_files", "events", events)
    options, chunks, found = options or SmartPixels(), list[dict[str, NDArray[Any]]](), 0
    early = round(options.early_ns / SLICE_NS) - 1
    if not 0 <= early < SLICES or abs(options.early_ns - (early + 1) * SLICE_NS) > 1e-9:
        rule = f"early_ns must be a multiple of {SLICE_NS:g} up to {SLICES * SLICE_NS:g}, not {options.early_ns:g}"
        raise CompileError("smart_pixel_files", rule)
    truth = {tag: _truth(where, table) for tag, where, table in _tables(Path(labels), "labels", tuple(TRUTH.values()))}
    for tag, where, table in _tables(Path(charge), "recon3D", _pixels(early) + _pixels(SLICES - 1)):
        if tag not in truth:
            raise CompileError(where, f"has no labels: there is no labels{tag}.parquet", f"put it into {labels}")
        chunks.append(_joined(where, table, truth[tag], options))
        found += len(chunks[-1]["charge"])
        if events is not None and found >= events:
            break
    if not found:
        raise CompileError(
            str(charge), "holds no recon3D*.parquet with clusters", "give the folder or archive of the charges"
        )
    arrays = {k: np.concatenate([c[k] for c in chunks])[:events] for k in chunks[0]}
    return described(arrays, options, {"published": "smart pixels", "threshold": options.threshold, "lsb": options.lsb})


def _pixels(time_slice: int) -> tuple[str, ...]:
    """Columns of a time slice: pixels are numbered through slices, rows and columns."""
    size = ROWS * COLUMNS
    return tuple(str(k) for k in range(time_slice * size, (time_slice + 1) * size))


def _tables(source: Path, kind: str, columns: tuple[str, ...]) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """(rest of the file's name, where it is, values ``[clusters, columns]``) of each file of the kind, by name."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise CompileError(
            "smart_pixel_files", "needs pyarrow, which is not here", "pip install 'hwcompile[parquet]'"
        ) from None
    for name, content in _files(source, re.compile(rf"{kind}(.*)\.parquet")):
        where = f"{source}: {name}"
        try:
            file = pq.ParquetFile(content)
            absent = [c for c in columns if c not in file.schema_arrow.names]
            if absent:
                raise CompileError(where, f"has no column '{absent[0]}'", "take the files as they are published")
            table = file.read(columns=list(columns))
            values = np.column_stack([table.column(c).to_numpy().astype(np.float64) for c in columns])
        except (pa.ArrowException, OSError, ValueError) as e:
            rule = f"cannot be read as Parquet: {str(e).splitlines()[0][:80]}"
            raise CompileError(where, rule, "fetch it again") from None
        yield name[len(kind) : -len(".parquet")], where, values


def _files(source: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, Any]]:
    """(name, what can be read) of the files in a folder or archive; those of a folder in the order of their names."""
    if source.is_dir():
        for path in sorted(source.rglob("*.parquet")):
            if wanted.fullmatch(path.name):
                yield path.name, path
        return
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                if not member.isfile() or not wanted.fullmatch(name):
                    continue
                if member.size > MEMBER_BYTES_MAX:
                    raise CompileError(
                        f"{source}: {name}", f"has {member.size:,} bytes", "unpack it, and give the folder"
                    )
                content: Any = archive.extractfile(member)
                yield name, io.BytesIO(content.read())
    except FileNotFoundError:
        raise CompileError(str(source), "there is no such folder or archive", "check the path") from None
    except (tarfile.TarError, EOFError, OSError) as e:
        raise CompileError(str(source), f"is no archive that can be read: {str(e)[:80]}", "fetch it again") from None


def _truth(where: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values):
        raise CompileError(where, "has no rows", "fetch it again")
    return values


def _joined(
    where: str, charge: NDArray[np.float64], truth: NDArray[np.float64], options: SmartPixels
) -> dict[str, NDArray[Any]]:
    """The arrays of one pair of files: clusters with a charge above threshold and no missing number."""
    if len(charge) != len(truth):
        raise CompileError(
            where, f"has {len(charge):,} clusters, its labels {len(truth):,}", "take files that belong together"
        )
    electrons = np.nan_to_num(charge).reshape(-1, 2, ROWS, COLUMNS)
    electrons[electrons < options.threshold] = 0
    counts = np.minimum(np.floor(electrons / options.lsb), 255).astype(np.uint8)
    kept = counts[:, 1].any(axis=(1, 2)) & np.isfinite(truth).all(1) & np.isfinite(charge).all(1)
    arrays: dict[str, NDArray[Any]] = {name: truth[kept, k] for k, name in enumerate(TRUTH)}
    return {**arrays, "physical": np.ones(int(kept.sum()), np.uint8), "charge": counts[kept]}
