"""Several writers, kill -9, a full disk, folders that cannot be written, damaged files: the store stays whole or says why not."""

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.lineage import Store

# Adds states, removes and collects, and says each id once `add` has returned.
WRITER = """
import sys
import numpy as np
from hwcompile.lineage import Step, Store
folder, name, count, tidy = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "tidy"
store = Store(folder)
last = store.add({"w": np.zeros(9)}, method="root")
for i in range(count):
    weights = {"shared": np.arange(i // 3 % 7, dtype=float), "own": np.frombuffer(f"{name:>12}{i:>12}".encode(), np.int64)}
    last = store.add(weights, parents=last, step=Step("Train", seed=i), metrics={"i": i}, key=(name, i), tags=["kept"])
    print(last.id, flush=True)
    store.add({"scrap": np.random.default_rng().random(50)}, parents=last)
    if tidy and i % 5 == 4:
        store.remove("not has(i) and method != 'root'")
        store.collect(grace_s=0)
"""


def writer(folder, name, count, tidy="tidy"):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, name, str(count), tidy], stdout=subprocess.PIPE, text=True
    )


def check_added(store, said):
    """Every state that a writer reported is there, with its weights and its key."""
    for name, ids in said.items():
        for i, identity in enumerate(ids):
            state = store.get(identity)
            weights = store.weights(state)
            assert state.key == (name, i)
            assert weights["own"].tobytes() == f"{name:>12}{i:>12}".encode()
            assert weights["shared"].tolist() == list(range(i // 3 % 7))


def test_four_processes_write_remove_and_collect_at_once(tmp_path):
    folder = tmp_path / "runs"  # which none of them finds
    processes = {f"p{i}": writer(folder, f"p{i}", 30) for i in range(4)}
    said = {name: p.communicate()[0].split() for name, p in processes.items()}
    assert [p.returncode for p in processes.values()] == [0] * 4
    with Store(folder, create=False) as store:
        assert all(len(ids) == 30 for ids in said.values())
        check_added(store, said)
        assert len(store.find("has(i)")) == 120
        assert store.check().problems == ()


def kill_and_look(folder, kills, longest_s):
    """Kill a writer at random moments, some before its store is made; after each, all that it reported is there."""
    moments = random.Random(1)
    said = {}
    for i in range(kills):
        process = writer(folder, f"k{i}", 10**6)
        first = [process.stdout.readline().strip()] if i % 4 else []
        time.sleep(moments.uniform(0, longest_s))
        process.send_signal(signal.SIGKILL)
        said[f"k{i}"] = [*first, *process.communicate()[0].split()]
        assert process.returncode == -signal.SIGKILL
        with Store(folder) as store:
            check_added(store, {f"k{i}": said[f"k{i}"]})
            assert store.check().problems == ()
            there = Counter(s.key[0] for s in store.find() if s.key)
            # Of each writer, at most the last add was on its way when the kill came.
            assert all(0 <= there[name] - len(ids) <= 1 for name, ids in said.items())
    return said


def test_killed_writers_leave_a_whole_store(tmp_path):
    assert sum(map(len, kill_and_look(tmp_path / "runs", 4, 0.3).values())) > 4


@pytest.mark.slow
def test_killed_writers_leave_a_whole_store_each_of_30_times(tmp_path):
    said = kill_and_look(tmp_path / "runs", 30, 0.5)
    assert sum(map(len, said.values())) > 100
    with Store(tmp_path / "runs") as store:
        store.remove("not has(i) and method != 'root'")
        store.collect(grace_s=0)
        check_added(store, said)
        assert store.check().problems == ()


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_full_disk_for_a_file(tmp_path, monkeypatch, at):
    with Store(tmp_path / "runs") as store:
        kept = store.add({"w": np.ones(4)})

        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            if at == "write":
                patch.setattr(os, "fdopen", full)
                patch.setattr("builtins.open", full)
            else:
                patch.setattr(os, at, full)
            with pytest.raises(
                hc.CompileError, match=r"cannot write \w+.safetensors \(No space left on device\), and nothing"
            ):
                store.add({"w": np.zeros(4)})
        assert len(store) == 1
        assert len(list((store.folder / "objects").rglob("*.*"))) == 1
        assert store.check().ok
        assert store.add({"w": np.zeros(4)}).parents == ()
        assert (store.weights(kept)["w"] == 1).all()


# The limit is on the size of each file: of a tensor's with `tensor`, of the database's log without.
LIMITED = """
import resource, sys
import numpy as np
import hwcompile as hc
from hwcompile.lineage import Store
store = Store(sys.argv[1])
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    for i in range(1000):
        store.add({"w": np.arange(int(sys.argv[3])) + i}, properties={"text": "x" * 1000}, key=i)
        print(i, flush=True)
except hc.CompileError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "length", "said"), [(20_000, 4000, "cannot write "), (400_000, 4, "the database cannot be ")]
)
def test_a_full_disk_for_the_system(tmp_path, limit, length, said):
    folder = tmp_path / "runs"
    Store(folder).close()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, folder, str(limit), str(length)], capture_output=True, text=True, check=True
    )
    *added, error = done.stdout.splitlines()
    assert error.startswith(f"store {folder}: {said}"), done.stderr
    assert "nothing was recorded" in error
    with Store(folder) as store:
        assert [s.key for s in store.find()] == [int(i) for i in added]
        assert store.check().problems == ()
        store.add({"w": np.arange(length)}, key="after")


READER = """
import os, sys
import hwcompile as hc
from hwcompile.lineage import Store
os.setuid(int(sys.argv[2]))
store = Store(sys.argv[1])
print(store.read_only, len(store), store.weights("best")["w"].tolist(), store.check().ok)
for change in (lambda: store.add(), lambda: store.tag("best", "x"), lambda: store.remove("has(a)"), lambda: store.collect()):
    try:
        change()
    except hc.CompileError as error:
        print(error)
"""


@pytest.mark.parametrize("writer_has", ["closed", "it open", "been killed"])
def test_a_store_that_cannot_be_written_can_be_read(writer_has):
    # Not below tmp_path, which other users cannot enter: root writes everywhere, so the reader becomes 'nobody'.
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder / "runs")
        store.add({"w": np.arange(3)}, metrics={"a": 1}, tags=["best"])
        if writer_has == "closed":
            store.close()
        if writer_has == "been killed":
            (folder / "killed").mkdir()
            for path in (folder / "runs").iterdir():  # as the files are now, with SQLite's log
                shutil.move(path, folder / "killed") if path.is_dir() else shutil.copy(path, folder / "killed")
            store.close()
            shutil.rmtree(folder / "runs")
            (folder / "killed").rename(folder / "runs")
            assert (folder / "runs" / "store.sqlite-wal").stat().st_size
        folder.chmod(0o755)
        for path in [folder / "runs", *(folder / "runs").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        user = 65534 if os.getuid() == 0 else os.getuid()
        done = subprocess.run(
            [sys.executable, "-c", READER, folder / "runs", str(user)], capture_output=True, text=True, check=False
        )
        store.close()
        refused = f"store {folder / 'runs'}: the store can only be read here; get permission to write to the folder"
        assert done.stdout.splitlines() == ["True 1 [0, 1, 2] True", *[refused] * 4], done.stderr
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_read_only_on_request(tmp_path):
    with Store(tmp_path / "runs") as store:
        store.add(method="m")
        with Store(tmp_path / "runs", read_only=True) as reader:
            assert (len(reader), reader.read_only) == (1, True)
            with pytest.raises(hc.CompileError, match="the store can only be read here"):
                reader.add()
            store.add(method="n")
            assert len(reader) == 2


def refusal(path, **options):
    with pytest.raises(hc.CompileError) as caught:
        Store(path, **options)
    return str(caught.value).removeprefix(f"store {path}: ")


def test_what_is_no_store_is_refused(tmp_path):
    file, folder, empty, foreign = (tmp_path / n for n in ("file", "folder", "empty", "foreign"))
    file.write_text("text")
    for made in (folder, empty, foreign):
        made.mkdir()
    (folder / "notes.txt").write_text("mine")
    with sqlite3.connect(foreign / "store.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    no_store = "is not a lineage store: it holds no store.sqlite; give the folder of a store, or a new one"
    another = "is not a lineage store: its store.sqlite is another program's; give the folder of a store"
    assert refusal(file) == refusal(file / "below") == "must be a folder, not a file; give another path"
    assert refusal(folder) == refusal(empty, create=False) == refusal(empty, read_only=True) == no_store
    assert refusal(tmp_path / "none", create=False) == "there is no such folder; give the folder of a store"
    assert refusal(foreign) == refusal(foreign, read_only=True) == another
    assert os.listdir(folder) == ["notes.txt"]
    assert os.listdir(empty) == []


def test_a_newer_store_is_refused(tmp_path):
    Store(tmp_path / "runs").close()
    file = sqlite3.connect(tmp_path / "runs" / "store.sqlite")
    file.execute("PRAGMA user_version = 2")
    file.close()
    said = "has schema version 2, and this hwcompile reads versions up to 1; install a newer hwcompile"
    assert refusal(tmp_path / "runs") == refusal(tmp_path / "runs", read_only=True) == said


def test_a_damaged_database_is_refused(tmp_path):
    folder = tmp_path / "runs"
    with Store(folder) as store:
        for i in range(200):
            store.add(metrics={"a": i}, key=i)
    file = folder / "store.sqlite"
    whole = file.read_bytes()
    file.write_bytes(b"no database" * 100)
    assert refusal(folder) == "the file store.sqlite is damaged (file is not a database); restore it from a copy"
    file.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    with (
        pytest.raises(hc.CompileError, match=r"the file store.sqlite is damaged \(database disk image is malformed\)"),
        Store(folder) as store,
    ):
        store.find("a > 3")
    file.write_bytes(whole)
    with Store(folder) as store:
        assert store.check().ok


def test_an_interrupted_creation_is_a_new_store(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "store.sqlite").touch()
    with Store(tmp_path / "runs") as store:
        assert len(store) == 0


def test_a_store_serves_a_forked_process(tmp_path):
    """As `multiprocessing` forks: in an interpreter without other threads."""
    code = (
        "import os, sys; from hwcompile.lineage import Store; store = Store(sys.argv[1]); store.add(method='a');"
        "parents = store._database._connection; child = os.fork(); store.add(method='parent' if child else 'child');"
        "child or os._exit(3 if store._database._connection is parents else 0); print(os.waitpid(child, 0)[1]);"
        "print(sorted(s.method for s in store.find()), store.check().ok)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "runs"], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n['a', 'child', 'parent'] True\n"
