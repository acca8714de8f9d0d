"""Published sets: found, fetched, checked and read; every fault is one sentence. Records are served from this machine."""

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest

import hwcompile as hc
from hwcompile.models.data import PUBLIC, fetch, public
from hwcompile.models.data import archives as module
from hwcompile.models.data.substructure import FEATURES


def events_file(n=6):
    buffer = io.BytesIO()
    particles = np.random.default_rng(0).normal(size=(n, 19, 4))
    with h5py.File(buffer, "w") as file:
        file["Particles"] = particles
    return buffer.getvalue(), particles


def arff(rows=4):
    lines = ["% comment", "@RELATION jets", ""]
    lines += [f"@ATTRIBUTE {name.lower()} REAL" for name in FEATURES] + ["@ATTRIBUTE class {g,q,t,w,z}", "", "@DATA"]
    numbers = np.random.default_rng(1).normal(size=(rows, 16)).astype(np.float32)
    kinds = ["t", "g", "z", "g"]
    lines += [",".join([*(repr(float(v)) for v in row), kind]) for row, kind in zip(numbers, kinds)]
    return "\n".join(lines).encode() + b"\n", numbers


def constituents_file():
    x, buffer, outer = np.random.default_rng(2).normal(size=(3, 100, 4)), io.BytesIO(), io.BytesIO()
    truth = np.zeros((3, 8))
    truth[0, 2 + 4] = truth[1, 2 + 0] = 1  # z, g; the third has no class
    with h5py.File(buffer, "w") as file:
        file["jetConstituentList"] = x
        file["jets"] = truth
        file["particleFeatureNames"] = [b"j1_phirel", b"j1_pt", b"j1_e", b"j1_etarel"]
        file["jetFeatureNames"] = [b"j_pt", b"j_eta", b"j_g", b"j_q", b"j_t", b"j_w", b"j_z", b"j_undef"]
    with tarfile.open(fileobj=outer, mode="w:gz") as archive:
        for name, content in (("train/a.h5", buffer.getvalue()), ("train/notes.txt", b"hello")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return outer.getvalue(), x


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nowhere = "http://127.0.0.1:9/{record}"  # no test asks the net
    monkeypatch.setattr(module, "ZENODO_RECORD", nowhere)
    monkeypatch.setattr(module, "OPENML_RECORD", nowhere)


@pytest.fixture
def archive(monkeypatch):
    """A server of records: `files[path] = content`; the records' addresses lead to it."""
    files: dict[str, bytes] = {}
    short = ("/short",)  # breaks off before its announced end

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            if self.path in short:
                self.send_header("Content-Length", str(len(content) + 100))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(module, "ZENODO_RECORD", base + "/zenodo/{record}")
    monkeypatch.setattr(module, "OPENML_RECORD", base + "/openml/{record}")
    yield files, base
    server.shutdown()
    thread.join()
    server.server_close()


def serve_zenodo(archive, name, content, **changed):
    files, base = archive
    entry = PUBLIC[name]
    about = {
        "key": entry.file,
        "size": len(content),
        "checksum": "md5:" + hashlib.md5(content).hexdigest(),
        "links": {"self": f"{base}/content"},
    }
    files[f"/zenodo/{entry.record}"] = json.dumps({"files": [{"key": "other"}, {**about, **changed}]}).encode()
    files["/content"] = content


def test_a_file_that_is_there_is_read(tmp_path):
    content, particles = events_file()
    (tmp_path / PUBLIC["adc2021_a_to_4l"].file).write_bytes(content)
    d = public("adc2021_a_to_4l", tmp_path)
    assert np.array_equal(d.x, particles[:, :, :3].astype(np.float32))
    assert d.y.tolist() == [1] * 6


def test_download_from_zenodo_is_checked_and_kept(archive, tmp_path):
    content, particles = events_file()
    serve_zenodo(archive, "adc2021_background", content)
    assert len(public("adc2021_background", tmp_path / "data")) == len(particles)
    archive[0].clear()  # the second time, nothing is asked
    assert fetch("adc2021_background", tmp_path / "data").read_bytes() == content


def test_download_goes_to_the_cache_without_a_directory(archive, tmp_path):
    serve_zenodo(archive, "adc2021_background", events_file()[0])
    assert tmp_path / "cache" in fetch("adc2021_background").parents


def test_download_from_openml(archive):
    content, numbers = arff()
    files, base = archive
    about = {"url": f"{base}/content", "md5_checksum": hashlib.md5(content).hexdigest()}
    files["/openml/42468"] = json.dumps({"data_set_description": about}).encode()
    files["/content"] = content
    d = public("jets_hlf")
    assert np.array_equal(d.x, numbers)
    assert [d.classes[i] for i in d.y] == ["t", "g", "z", "g"]


def test_constituents(tmp_path):
    content, x = constituents_file()
    (tmp_path / PUBLIC["jets_100p_train"].file).write_bytes(content)
    d = public("jets_100p_train", tmp_path)
    assert np.array_equal(d.x, x[:2][:, :, [1, 3, 0]].astype(np.float32))
    assert [d.classes[i] for i in d.y] == ["z", "g"]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"checksum": "md5:" + "0" * 32}, "md5 must be 0000"),
        ({"size": 10**6}, "must have 1,000,000 bytes, and"),
        ({"links": {}}, "does not list it in the known form"),
        ({"links": {"self": "file:///etc/hostname"}}, "must give a web address"),
    ],
)
def test_a_wrong_download_is_refused_and_not_kept(archive, tmp_path, changed, message):
    serve_zenodo(archive, "adc2021_background", events_file()[0], **changed)
    with pytest.raises(hc.CompileError, match=message):
        fetch("adc2021_background", tmp_path / "data")
    assert not list((tmp_path / "data").glob("*"))


def test_a_download_that_breaks_off_is_refused(archive, tmp_path):
    content, _ = events_file()
    serve_zenodo(archive, "adc2021_background", content, links={"self": f"{archive[1]}/short"}, size=len(content) + 100)
    archive[0]["/short"] = content
    with pytest.raises(hc.CompileError, match=r"bytes, and|cannot be downloaded"):
        fetch("adc2021_background", tmp_path / "data")
    assert not list((tmp_path / "data").glob("*"))


def test_a_record_that_is_gone(archive, tmp_path):
    with pytest.raises(
        hc.CompileError, match=r"cannot be downloaded \(Not Found\); fetch background_for_training.h5 from"
    ):
        fetch("adc2021_background", tmp_path)


def test_without_network_it_says_what_to_fetch(tmp_path):
    with pytest.raises(hc.CompileError) as refused:
        public("jets_150p_val", tmp_path)
    text = str(refused.value)
    assert "cannot be downloaded" in text
    assert (
        f"fetch hls4ml_LHCjet_150p_val.tar.gz from https://zenodo.org/records/3602260 and put it into {tmp_path}"
        in text
    )
    with pytest.raises(hc.CompileError, match="put it into"):
        fetch("adc2021_leptoquark", tmp_path)


def test_sha256_and_trust_on_first_use(tmp_path):
    content, _ = events_file()
    name, path = "adc2021_background", tmp_path / PUBLIC["adc2021_background"].file
    path.write_bytes(content)
    right = hashlib.sha256(content).hexdigest()
    with pytest.raises(hc.CompileError, match="sha256 must be 1111"):
        fetch(name, tmp_path, sha256="1" * 64)
    assert fetch(name, tmp_path, sha256=right.upper()) == path
    other = events_file(7)[0]
    path.write_bytes(other)
    with pytest.raises(hc.CompileError, match=f"must be {right}, as on first use.*pass sha256="):
        fetch(name, tmp_path)
    assert fetch(name, tmp_path, sha256=hashlib.sha256(other).hexdigest()) == path
    assert fetch(name, tmp_path) == path


@pytest.mark.parametrize("name", ["adc2021_background", "jets_hlf", "jets_100p_val"])
@pytest.mark.parametrize("content", [b"", b"nonsense\n", None])
def test_a_broken_file_is_refused(tmp_path, name, content):
    whole = {"adc2021_background": events_file, "jets_hlf": arff, "jets_100p_val": constituents_file}[name]()[0]
    (tmp_path / PUBLIC[name].file).write_bytes(whole[: len(whole) * 2 // 3] if content is None else content)
    with pytest.raises(hc.CompileError, match="and cannot be read as that"):
        public(name, tmp_path)


def test_one_file_of_two_is_fetched_but_not_read_alone(tmp_path):
    path = tmp_path / PUBLIC["smart_pixels_labels"].file
    path.write_bytes(b"parquet inside")
    assert fetch("smart_pixels_labels", tmp_path) == path
    with pytest.raises(hc.CompileError, match="one of two files that belong together"):
        public("smart_pixels_labels", tmp_path)


def test_unknown_names():
    with pytest.raises(hc.CompileError, match="known: jets_hlf"):
        fetch("mnist")
