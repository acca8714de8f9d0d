"""`DataSet`: what it refuses, how it splits and standardises, its digest and its file; the samples and the command."""

import numpy as np
import pytest
from click.testing import CliRunner

import hwcompile as hc
from hwcompile.frontends.data import read_events
from hwcompile.models import data
from hwcompile.models.data import level1, pixel_clusters
from hwcompile.models.data.commands import data_command


def small(n=100, **fields):
    x = np.random.default_rng(0).normal(3, 2, (n, 4))
    return data.DataSet("small", {"x": x, "label": np.arange(n) % 3}, target="label", classes=("a", "b", "c"), **fields)


def test_public_names():
    for name in data.__all__:
        assert getattr(data, name) is not None
    assert sorted(n for names in data._HOMES.values() for n in names) == sorted(data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018


def test_what_a_notebook_prints_is_a_line():
    assert repr(small()) == "DataSet(small: x float64 [100, 4], label int64 [100])"


def test_split_is_a_partition_that_the_seed_decides():
    d = small()
    parts = d.split(validation=0.1, test=0.25, seed=3)
    assert [len(p) for p in parts] == [65, 10, 25]
    rows = np.concatenate([p.x for p in parts])
    assert np.array_equal(np.sort(rows, axis=0), np.sort(d.x, axis=0))
    assert parts.train.digest == d.split(validation=0.1, test=0.25, seed=3).train.digest
    assert parts.train.digest != d.split(validation=0.1, test=0.25, seed=4).train.digest


def test_a_time_series_is_cut_in_order_with_gaps():
    x = np.arange(100.0)
    parts = data.DataSet("series", {"x": x, "y": x}, target="y", overlap=4).split(validation=0.1, test=0.2)
    assert parts.train.x.tolist() == list(range(70))
    assert parts.validation.x.tolist() == list(range(74, 80))
    assert parts.test.x.tolist() == list(range(84, 100))


def test_standardisation_is_that_of_the_training_part():
    parts = small(1000).split()
    scale = parts.train.standardisation()
    assert np.allclose(scale(parts.train.x).mean(0), 0, atol=1e-6)
    assert np.allclose(scale(parts.train.x).std(0), 1, atol=1e-6)
    assert np.array_equal(scale(parts.test.x), ((parts.test.x - scale.mean) / scale.std).astype(np.float32))


def test_a_constant_feature_is_only_centred():
    d = data.DataSet("flat", {"x": np.full((5, 1), 7.0), "y": np.zeros(5)}, target="y")
    assert np.array_equal(d.standardisation()(d.x), np.zeros((5, 1)))


def test_digest_sees_every_array_and_no_order():
    d = small()
    swapped = data.DataSet("small", dict(reversed(d.arrays.items())), target="label")
    assert swapped.digest == d.digest
    changed = d.x.copy()
    changed[7, 2] = np.nextafter(changed[7, 2], 9)
    assert data.DataSet("small", {**d.arrays, "x": changed}, target="label").digest != d.digest


def test_saved_and_read_again(tmp_path):
    d = small(columns={"x": ("p", "q", "r", "s")}, meaning={"x": "noise"}, made_with={"seed": 0})
    d.save(tmp_path / "d.npz")
    again = data.read(tmp_path / "d.npz")
    assert again.digest == d.digest
    assert (again.name, again.classes, again.columns, again.made_with) == (d.name, d.classes, d.columns, d.made_with)
    assert again.describe() == d.describe()
    assert "a 34, b 33, c 33" in d.describe()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "d.npz"
    small().save(path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(hc.CompileError, match="must be an intact data set"):
        data.read(path)


def test_other_faults(tmp_path):
    with pytest.raises(hc.CompileError, match="there is no such file"):
        data.read(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(hc.CompileError, match="must be an intact data set"):
        data.read(tmp_path / "other.npz")
    with pytest.raises(hc.CompileError, match=r"one row for each event, not \{'x': 3, 'y': 2\}"):
        data.DataSet("bad", {"x": np.zeros(3), "y": np.zeros(2)}, target="y")
    with pytest.raises(hc.CompileError, match="no array 'z'; known: label, x"):
        small()["z"]
    with pytest.raises(hc.CompileError, match=r"less than 1, not 0\.5 and 0\.5"):
        small().split(0.5, 0.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(hc.CompileError, match="cannot be written"):
        small().save(tmp_path / "file" / "d.npz")


@pytest.mark.parametrize("name", list(data.SAMPLES))
def test_samples_are_small_and_whole(name):
    from hwcompile.models.data.samples import FOLDER

    assert (FOLDER / f"{name}.npz").stat().st_size < 150_000
    d = data.sample(name)
    assert all(np.isfinite(a).all() for a in d.arrays.values())
    if d.classes:
        assert (np.bincount(d.y, minlength=len(d.classes)) >= 50).all()


@pytest.mark.parametrize("name", ["smart_pixels", "calorimeter_pulses", "trigger_objects"])
def test_samples_are_what_the_code_generates(name):
    made, shipped = data.SAMPLES[name](), data.sample(name)
    assert made.arrays.keys() == shipped.arrays.keys()
    for key, array in made.arrays.items():  # another platform's exp and log may differ in the last bit
        assert np.isclose(array.astype(float), shipped[key], rtol=1e-5, atol=1e-6).mean() > 0.999, key


def test_an_unknown_sample_is_refused():
    with pytest.raises(hc.CompileError, match="known: jets, smart_pixels"):
        data.sample("none")


def test_digits():
    d = data.digits()
    assert d.x.shape == (1797, 8, 8)
    assert set(d.y) == set(range(10))
    assert data.digits().split(seed=1).test.digest == d.split(seed=1).test.digest


def test_command_writes_what_compile_reads(tmp_path):
    out = tmp_path / "pixels.npz"
    done = CliRunner().invoke(data_command, ["smart_pixels", "--events", "50", "--seed", "4", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "50 events" in done.output
    assert data.read(out).digest == data.smart_pixels(50, 4).digest
    events, labels = read_events(out, {"inputs": (14,)})
    assert events["inputs"].shape == (50, 14)
    assert labels is not None


@pytest.mark.parametrize("name, rows", [("calorimeter_pulses", 60), ("trigger_objects", 5 * 60), ("digits", 1797)])
def test_command_makes_every_set(tmp_path, name, rows):
    done = CliRunner().invoke(data_command, [name, "--events", "60", "--out", str(tmp_path / "d.npz")])
    assert done.exit_code == 0, done.output
    assert len(data.read(tmp_path / "d.npz")) == rows


def test_command_wants_equal_classes(tmp_path):
    done = CliRunner().invoke(data_command, ["jets", "--events", "12", "--out", str(tmp_path / "d.npz")])
    assert isinstance(done.exception, hc.CompileError)
    assert "multiple of 5" in str(done.exception)


@pytest.mark.parametrize(
    "make", [lambda n: data.smart_pixels(n, 3), lambda n: data.trigger_objects(n, 3, ("a_to_4l",))]
)
def test_large_sets_are_kept(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (level1, pixel_clusters):
        monkeypatch.setattr(module, "KEPT_FROM", 200)
    first = make(200)
    (file,) = tmp_path.rglob("*.npz")
    for module in (level1, pixel_clusters):
        monkeypatch.setattr(module, "_generate", None)
    assert make(200).digest == first.digest
    file.write_bytes(b"damaged")
    with pytest.raises(TypeError):  # it would be made anew
        make(200)
