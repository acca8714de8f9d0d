"""Pruning takes what was asked and no more, recipes stay whole, and collecting never takes a file that is in use."""

import os
import time
from contextlib import contextmanager

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.lineage import Collected, Removed, Step, Store

SIZE = 32 + 72  # bytes of a file with four float64: data, and the header of the format


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "runs") as opened:
        yield opened


@pytest.fixture
def tree(store):
    """root - a - b - c, and d below a; each with a tensor of its own and one that all share."""
    states = {}
    for i, (name, parent) in enumerate([("root", ""), ("a", "root"), ("b", "a"), ("c", "b"), ("d", "a")]):
        states[name] = store.add(
            {"own": np.full(4, float(i)), "shared": np.full(4, -1.0)},
            parents=[states[parent]] if parent else [],
            step=Step("Train", seed=i),
            method=name,
            metrics={"lut": i},
        )
    return states


def files(store):
    return sorted(p.name for p in (store.folder / "objects").rglob("*.*"))


def methods(store):
    return [(s.method, s.removed) for s in store.find()]


def test_a_query_removes_leaves_and_empties_what_descendants_need(store, tree):
    said = store.remove("method in ('a', 'd')", dry_run=True)
    assert methods(store) == [("root", False), ("a", False), ("b", False), ("c", False), ("d", False)]
    assert store.remove("method in ('a', 'd')") == said == Removed(1, 1, 2 * SIZE)
    assert methods(store) == [("root", False), ("a", True), ("b", False), ("c", False)]
    assert [edge.step.seed for edge in store.rebuild(tree["c"])] == [0, 1, 2, 3]
    assert store.get(tree["a"]).metrics == {"lut": 1.0}
    with pytest.raises(hc.CompileError, match="its recipe is left; train it again by the steps that"):
        store.weights(tree["a"])
    assert len(files(store)) == 6
    assert store.collect(grace_s=0) == Collected(2, 2 * SIZE)
    assert len(files(store)) == 4
    assert store.check().ok


def test_an_emptied_state_goes_with_its_last_descendant_or_comes_back(store, tree):
    store.remove("method in ('a', 'b')")
    assert methods(store) == [("root", False), ("a", True), ("b", True), ("c", False), ("d", False)]
    store.collect(grace_s=0)
    given = {"own": np.full(4, 2.0), "shared": np.full(4, -1.0)}
    again = store.add(given, parents=tree["a"], step=Step("Train", seed=2), method="b", metrics={"lut": 2})
    assert (again.id, again.removed) == (tree["b"].id, False)
    assert (store.weights(tree["b"])["own"] == 2.0).all()
    store.remove("method in ('c', 'd', 'b')")
    assert methods(store) == [("root", False)]
    assert store.check().ok


def test_a_subtree(store, tree):
    store.tag(tree["c"], "best")
    assert store.remove(below=tree["a"]) == Removed(1, 2, 3 * SIZE)
    assert methods(store) == [("root", False), ("a", True), ("b", True), ("c", False)]
    store.untag(tree["c"], "best")
    assert store.remove(below=tree["a"]) == Removed(3, 0, SIZE)


def test_all_but_the_tagged_and_their_ancestors(store, tree):
    with pytest.raises(hc.CompileError, match="remove: would take every state, as none is tagged"):
        store.remove(keep_tagged=True)
    store.tag(tree["d"], "front")
    assert store.remove(keep_tagged=True) == Removed(2, 0, 2 * SIZE)
    assert methods(store) == [("root", False), ("a", False), ("d", False)]


@pytest.mark.parametrize("scope", [{}, {"query": " "}, {"query": "lut > 1", "keep_tagged": True}])
def test_exactly_one_scope(store, scope):
    with pytest.raises(hc.CompileError, match="remove: must have exactly one of a query, below and keep_tagged"):
        store.remove(**scope)


def test_files_wait_for_their_age(store):
    store.add({"w": np.zeros(4)})
    store.remove("created > '1970-01-01'")
    assert store.collect() == Collected(0, 0)
    (path,) = (store.folder / "objects").rglob("*.safetensors")
    os.utime(path, (time.time() - 61,) * 2)
    assert store.collect() == Collected(1, SIZE)


def test_unfinished_and_unreferred_files_are_collected(store):
    store.add({"w": np.zeros(4)})
    folder = next(p for p in (store.folder / "objects").iterdir())
    (folder / ".unfinished-00").write_bytes(b"12345")
    orphan = folder / (folder.name + "0" * 62 + ".txt")
    orphan.write_bytes(b"123")
    assert store.collect(grace_s=0) == Collected(1, 3)  # the unfinished one may be a writer's
    os.utime(folder / ".unfinished-00", (time.time() - 3601,) * 2)
    assert store.collect(grace_s=0) == Collected(1, 5)
    assert len(files(store)) == 1
    assert store.check().ok


def test_a_file_that_is_collected_between_writing_and_referring_is_written_again(store, monkeypatch):
    """The race at its worst point: another process collects just before the writer's transaction."""
    other = Store(store.folder)
    begin, collected = store._database.transaction, []

    def late(**options):
        collected.append(other.collect(grace_s=0).objects)
        return begin(**options)

    monkeypatch.setattr(store._database, "transaction", late)
    state = store.add({"v": np.zeros(4), "w": np.ones(4)}, graph="text")
    assert collected == [3]
    assert store.check().ok
    assert set(store.weights(state)) == {"v", "w"}
    other.close()


def test_a_file_is_not_collected_once_it_is_referred_to(store, monkeypatch):
    """The race the other way: a writer takes up an orphan after the collector has listed it."""
    weights = {"w": np.zeros(4)}
    store.add(weights, method="first")
    store.remove("method = 'first'")
    other = Store(store.folder)
    begin, added = store._database.transaction, []

    def late(**options):
        added.append(other.add(weights, method="second"))
        return begin(**options)

    monkeypatch.setattr(store._database, "transaction", late)
    assert store.collect(grace_s=0) == Collected(0, 0)
    assert (other.weights(added[0])["w"] == 0).all()
    other.close()


def test_a_state_that_another_process_removes_meanwhile(store, monkeypatch):
    """What a method returns is of one moment: the state as added, tagged or found, though it is gone by then."""
    other = Store(store.folder)
    begin, states, read = store._database.transaction, store._states, store._objects.read

    @contextmanager
    def removed_after(**options):
        with begin(**options):
            yield
        other.remove("method = 'brief'")

    def removed_before(numbers):
        other.remove("method = 'brief'")
        return states(numbers)

    with monkeypatch.context() as patch:
        patch.setattr(store._database, "transaction", removed_after)
        assert store.add(method="brief", metrics={"a": 1}).metrics == {"a": 1.0}
    assert len(store) == 0
    brief = store.add(method="brief", metrics={"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(store, "_states", removed_before)
        assert store.find("a = 1") == [brief]
    assert len(store) == 0
    with pytest.raises(hc.CompileError, match=f"there is no state '{brief.id}'"):
        store.tag(brief, "x")
    brief = store.add({"w": np.zeros(4)}, method="brief")
    monkeypatch.setattr(store._objects, "read", lambda *which: [other.remove("method = 'brief'"), read(*which)][1])
    assert (store.weights(brief)["w"] == 0).all()
    other.close()


def test_check_names_what_is_missing_or_damaged(store, tree):
    paths = sorted((store.folder / "objects").rglob("*.safetensors"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"\x01")
    paths[2].write_bytes(b"")
    paths[3].write_bytes(paths[4].read_bytes())
    found = store.check()
    fix = "restore it from a copy, or delete it and add the state again"
    assert found.problems == (
        f"{paths[0]}: the file is missing; restore it from a copy, or add the state again",
        *(f"{p}: the file is damaged: its content is not what its name says; {fix}" for p in paths[1:4]),
    )
    with pytest.raises(hc.CompileError, match=r"the file is (missing|damaged)"):
        [store.weights(s) for s in tree.values()]
    for path in paths[1:4]:
        path.unlink()
    for i, (name, state) in enumerate(tree.items()):
        store.add(
            {"own": np.full(4, float(i)), "shared": np.full(4, -1.0)},
            parents=state.parents, step=Step("Train", seed=i), method=name, metrics={"lut": i},
        )  # fmt: skip
    assert store.check().ok
    assert len(store) == 5
