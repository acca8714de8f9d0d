"""The published smart-pixel files: written in their form from known clusters, and read back as the generator's data set."""

import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hwcompile as hc
from hwcompile.models import data
from hwcompile.models.data.pixel_files import SLICES, TRUTH


def write(folder, tag, clusters, seed):
    """labels{tag}.parquet and recon3D{tag}.parquet with `clusters` clusters; their charges in electrons and truth."""
    rng = np.random.default_rng(seed)
    charge = np.where(
        rng.random((clusters, SLICES, 13, 21)) < 0.05, rng.integers(-200, 30_000, (clusters, SLICES, 13, 21)), 0
    )
    charge = charge.astype(np.float64)
    truth = {name: rng.normal(size=clusters) for name in ("x-entry", *TRUTH.values(), "n_x")}
    folder.mkdir(parents=True, exist_ok=True)
    flat = charge.reshape(clusters, -1)
    pq.write_table(pa.table({str(k): flat[:, k] for k in range(flat.shape[1])}), folder / f"recon3D{tag}.parquet")
    pq.write_table(pa.table(truth), folder / f"labels{tag}.parquet")
    return charge, truth


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return folder, [write(folder, f"_d{k}", 20 + k, k) for k in range(2)]


def test_clusters_come_back_as_the_generator_gives_them(published):
    folder, parts = published
    found = data.smart_pixel_files(folder, folder)
    charge = np.concatenate([c for c, _ in parts])[:, [1, SLICES - 1]]
    counts = np.where(charge < 400, 0, np.minimum(charge // 80, 255)).astype(np.uint8)
    assert counts[:, 1].any(axis=(1, 2)).all()
    assert np.array_equal(found["charge"], counts)
    assert np.array_equal(found.x[:, :13], counts[:, 1].sum(axis=2))
    for name, column in TRUTH.items():
        expected = np.concatenate([t[column] for _, t in parts]).astype(np.float32)
        assert np.array_equal(found.x[:, 13] if name == "y0_mm" else found[name], expected)
    pt = found["pt_gev"]
    assert np.array_equal(found.y, np.where(np.abs(pt) >= np.float32(0.2), 0, np.where(pt < 0, 1, 2)))
    made = data.smart_pixels(10, 0)
    assert {k: (v.dtype, v.shape[1:]) for k, v in found.arrays.items()} == {
        k: (v.dtype, v.shape[1:]) for k, v in made.arrays.items()
    }


def test_archives_are_read_as_folders_are(published, tmp_path):
    folder, _ = published
    for kind in ("labels", "recon3D"):
        with tarfile.open(tmp_path / f"{kind}.tar.gz", "w:gz") as archive:
            for path in sorted(folder.glob(f"{kind}*")):
                archive.add(path, f"somewhere/{path.name}")
    found = data.smart_pixel_files(tmp_path / "labels.tar.gz", tmp_path / "recon3D.tar.gz", events=30)
    whole = data.smart_pixel_files(folder, folder)
    assert len(found) == 30
    assert found.digest == whole.take(slice(30)).digest


def test_empty_clusters_and_missing_numbers_are_left_out(tmp_path):
    _, truth = write(tmp_path, "_d0", 5, 1)
    table = pq.read_table(tmp_path / "recon3D_d0.parquet")
    values = {name: table.column(name).to_numpy().copy() for name in table.column_names}
    for k in range((SLICES - 1) * 273, SLICES * 273):
        values[str(k)][1] = 399.0  # below the threshold
    values["300"][2] = np.nan
    truth["pt"][3] = np.nan
    pq.write_table(pa.table(values), tmp_path / "recon3D_d0.parquet")
    pq.write_table(pa.table(truth), tmp_path / "labels_d0.parquet")
    found = data.smart_pixel_files(tmp_path, tmp_path)
    assert np.array_equal(found["x_um"], truth["x-midplane"][[0, 4]].astype(np.float32))


def test_what_is_wrong_with_files_is_said(published, tmp_path, monkeypatch):
    folder, _ = published
    other = tmp_path / "other"
    write(other, "_d7", 3, 0)
    with pytest.raises(hc.CompileError, match=r"recon3D_d7.parquet: has no labels: there is no labels_d7.parquet"):
        data.smart_pixel_files(folder, other)
    write(other, "_d0", 3, 0)
    with pytest.raises(hc.CompileError, match="has 3 clusters, its labels 20; take files that belong together"):
        data.smart_pixel_files(folder, other)
    pq.write_table(pa.table({"pt": [1.0]}), other / "labels_d7.parquet")
    with pytest.raises(hc.CompileError, match="has no column 'y-local'"):
        data.smart_pixel_files(other, other)
    (other / "labels_d7.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(hc.CompileError, match="cannot be read as Parquet"):
        data.smart_pixel_files(other, other)
    (tmp_path / "a.tar.gz").write_bytes(b"none")
    with pytest.raises(hc.CompileError, match="is no archive that can be read"):
        data.smart_pixel_files(folder, tmp_path / "a.tar.gz")
    with pytest.raises(hc.CompileError, match="there is no such folder or archive"):
        data.smart_pixel_files(folder, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(hc.CompileError, match=r"holds no recon3D\*.parquet with clusters"):
        data.smart_pixel_files(folder, tmp_path / "empty")
    with pytest.raises(hc.CompileError, match=r"early_ns must be a multiple of 0\.2 up to 4, not 0\.5"):
        data.smart_pixel_files(folder, folder, options=data.SmartPixels(early_ns=0.5))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(hc.CompileError, match="needs pyarrow, which is not here"):
        data.smart_pixel_files(folder, folder)
