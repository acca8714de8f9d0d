"""What goes into a store comes out of it, once: content, identity, tags and lineage."""

import pickle
import threading

import numpy as np
import pytest

import hwcompile as hc
from hwcompile.lineage import Edge, Step, Store

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "runs") as opened:
        yield opened


def chain(store, length):
    """A root and `length` states below it, each made from the one before."""
    states = [store.add({"w": np.arange(4.0)}, method="root")]
    for i in range(length):
        states.append(
            store.add({"w": np.arange(4.0) + i + 1}, parents=states[-1], step=Step("Train", {"epochs": i}, seed=i))
        )
    return states


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_weights_come_back_bit_for_bit(store, dtype, shape):
    random = np.random.default_rng(len(shape))
    given = np.frombuffer(random.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
    given = given.view(np.uint8).astype(bool).reshape(shape) if dtype == "bool" else given
    back = store.weights(store.add({"w": given}))["w"]
    assert (back.dtype, back.shape, back.tobytes()) == (given.dtype, given.shape, given.tobytes())
    assert back.flags.writeable


def test_views_and_byte_orders_are_their_values(store):
    whole = np.arange(24, dtype=np.int32).reshape(4, 6)
    found = store.weights(
        store.add({"t": whole.T, "s": whole[::2, ::-1], "b": whole.astype(">i4"), "n": np.float32(2.5)})
    )
    assert all((found[n] == v).all() for n, v in {"t": whole.T, "s": whole[::2, ::-1], "b": whole, "n": 2.5}.items())


def test_equal_tensors_are_one_file(store):
    same = np.ones((8, 8))
    store.add({"a": same, "b": same.copy()}, method="x")
    store.add({"c": same, "d": same.astype(np.float32), "e": same.reshape(64)}, method="y")
    assert len(list((store.folder / "objects").rglob("*.safetensors"))) == 3
    assert all(p.parent.name == p.name[:2] and len(p.stem) == 64 for p in (store.folder / "objects").rglob("*.*"))


def test_all_that_is_given_comes_back(store):
    step = Step("Prune", {"amount": 0.5, "pattern": {"n": 2}}, 2**64 - 1, "v1.2", "sha256:ab")
    parent = store.add(method="float")
    report = {"lut": 10, "parts": [1, None, "é"]}
    state = store.add(
        parents=[parent], step=step, method="pruned", metrics={"lut": np.int64(10), "accuracy": np.float32(0.5)}, target="vu9p",
        graph="graph { }", report=report, properties={"lr": 0.1, "deep": {"x": [1, 2]}}, key=("study", 7), tags=["best", "first"],
    )  # fmt: skip
    assert (state.method, state.target, state.branch, state.error) == ("pruned", "vu9p", "main", "")
    assert state.metrics == {"accuracy": 0.5, "lut": 10.0}
    assert state.properties == {"lr": 0.1, "deep": {"x": [1, 2]}}
    assert (state.key, state.tags, state.parents, state.step) == (("study", 7), ("best", "first"), (parent.id,), step)
    assert (store.graph(state), store.report(state), store.weights(state)) == ("graph { }", report, {})
    assert (store.graph(parent), store.report(parent), parent.step) == ("", None, None)
    assert store.graph(store.add(graph=b"\x00\xff")) == b"\x00\xff"
    assert store.get(state.id) == store.get("best") == store.get(state.id[:6]) == store.with_key(["study", 7]) == state


def test_the_same_content_is_the_same_state(store):
    given = {"method": "m", "metrics": {"a": 1.0}, "properties": {"x": 1, "y": 2}}
    first = store.add({"w": np.zeros(2)}, **given)
    assert store.add({"w": np.zeros(2)}, **{**given, "properties": {"y": 2, "x": 1}}, tags="again").id == first.id
    assert store.get(first).tags == ("again",)
    others = [
        store.add({"w": -np.zeros(2)}, **given),
        store.add({"v": np.zeros(2)}, **given),
        store.add({"w": np.zeros(2)}, **given, parents=first),
        store.add({"w": np.zeros(2)}, **given, graph="g"),
        store.add({"w": np.zeros(2)}, **given, report=[]),
        store.add({"w": np.zeros(2)}, **given, key="k"),
        store.add({"w": np.zeros(2)}, **{**given, "metrics": {"a": 2.0}}),
    ]
    assert len({first.id, *(s.id for s in others)}) == len(store) == 8


def test_a_key_counts_once(store):
    assert store.with_key(("study", 1)) is None
    first = store.add({"w": np.zeros(2)}, metrics={"a": 1.0}, key=("study", 1))
    again = store.add({"w": np.ones(2)}, metrics={"a": 1.1}, key=("study", 1))
    assert again == first
    assert len(store) == 1
    assert len(list((store.folder / "objects").rglob("*.*"))) == 1  # the second one's weights were never written


def test_numbers_beyond_the_database_are_kept_as_json_and_found_as_floats(store):
    state = store.add(properties={"big": 2**64 + 1, "huge": 10**400, "small": -(2**63)})
    assert state.properties == {"big": 2**64 + 1, "huge": 10**400, "small": -(2**63)}
    assert store.find(f"properties.big > {2**63} and properties.huge > 1e300 and properties.small = {-(2**63)}") == [
        state
    ]


def test_a_failed_trial_is_a_state(store):
    failed = store.add(error="diverged in epoch 3", parents=store.add(method="root"), key=("s", 2))
    assert store.find("has(error)") == [failed]
    assert store.weights(failed) == {}


def test_lineage(store):
    states = chain(store, 5)
    teacher = store.add(method="teacher")
    student = store.add(parents=[states[3], teacher], step=Step("Distill", {"T": 4}, 1))
    last = store.add(parents=student, step=Step("Quantize"))
    ids = lambda found: [s.id for s in found]  # noqa: E731
    assert ids(store.parents(student)) == [states[3].id, teacher.id] == list(student.parents)
    assert ids(store.children(states[3])) == [states[4].id, student.id]
    assert ids(store.ancestors(last)) == [*ids(states[:4]), teacher.id, student.id]
    assert ids(store.path(last)) == [*ids(states[:4]), student.id, last.id]
    assert ids(store.descendants(states[2])) == [*ids(states[3:]), student.id, last.id]
    assert store.rebuild(last)[-2:] == [
        Edge((states[3].id, teacher.id), student.id, Step("Distill", {"T": 4}, 1)),
        Edge((student.id,), last.id, Step("Quantize")),
    ]
    assert len(store.rebuild(last)) == 7


def test_a_fork_has_the_weights_and_a_branch_of_its_own(store):
    origin = store.add({"w": np.arange(3)}, metrics={"lut": 5}, graph="g", report={"x": 1}, properties={"p": 1})
    files = list((store.folder / "objects").rglob("*.*"))
    fork = store.fork(origin, "asic", tags=["start"])
    below = store.add(parents=fork, step=Step("Train"))
    assert (fork.branch, below.branch, origin.branch) == ("asic", "asic", "main")
    assert (fork.metrics, fork.properties, store.graph(fork), store.report(fork)) == (
        {"lut": 5.0},
        {"p": 1},
        "g",
        {"x": 1},
    )
    assert (store.weights(fork)["w"] == np.arange(3)).all()
    assert store.fork(origin, "asic").id == fork.id
    assert sorted((store.folder / "objects").rglob("*.*")) == sorted(files)
    assert store.find("branch = 'asic'") == [fork, below]


def test_tags(store):
    a, b = store.add(method="a"), store.add(method="b", tags="front")
    store.tag(a, "front", "best")
    assert store.tags() == {"best": (a.id,), "front": (a.id, b.id)}
    assert store.tag("best", "best").tags == ("best", "front")
    assert store.untag(a, "front").tags == ("best",)
    with pytest.raises(hc.CompileError, match="has no tag 'front'"):
        store.untag(a, "front")


def test_comparison(store):
    a = store.add(
        {"w": np.array([[3.0, 0.0]]), "same": np.ones(3), "shape": np.ones(2), "gone": np.ones(1)},
        metrics={"lut": 100, "accuracy": 0.75}, step=Step("Prune", {"amount": 0.5, "score": "magnitude"}, seed=1), graph="g",
    )  # fmt: skip
    b = store.add(
        {"w": np.array([[0.0, 4.0]]), "same": np.ones(3), "shape": np.ones((2, 1)), "new": np.zeros(1)},
        metrics={"lut": 50}, step=Step("Prune", {"amount": 0.7, "score": "magnitude"}, seed=1), graph="g",
    )  # fmt: skip
    found = store.compare(a, b)
    assert found.metrics == {"accuracy": (0.75, None), "lut": (100.0, 50.0)}
    assert found.parameters == {"parameters.amount": (0.5, 0.7)}
    assert found.graphs_equal
    tensors = {t.name: t for t in found.tensors}
    assert (tensors["w"].difference, tensors["w"].nonzero, tensors["w"].equal) == (5.0, (1, 1), False)
    assert (tensors["same"].difference, tensors["same"].equal) == (0.0, True)
    assert (tensors["shape"].difference, tensors["shape"].shapes) == (None, ((2,), (2, 1)))
    assert (tensors["gone"].shapes, tensors["new"].nonzero) == (((1,), None), (None, 0))
    assert (
        str(found)
        == f"""a {a.id}
b {b.id}

metric       a   b  b - a
accuracy  0.75   -      -
lut        100  50    -50

differs              a    b
parameters.amount  0.5  0.7

tensor     shape  nonzero a  nonzero b  |b - a|
gone      1 -> -          1          -        -
shape   2 -> 2x1          2          2        -
w            1x2          1          1        5
new       - -> 1          -          0        -

tensors: 1 equal, 4 not; graphs: equal"""
    )


def test_threads_and_pickles_share_a_store(store):
    again = pickle.loads(pickle.dumps(store))
    threads = [
        threading.Thread(target=lambda i=i: [store.add({"w": np.array([i, j])}, key=(i, j)) for j in range(10)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(again) == 40
    assert store.check().ok
    again.close()


def raised(call):
    with pytest.raises(hc.CompileError) as caught:
        call()
    return str(caught.value)


def test_bad_input_is_refused_in_a_sentence(store):
    state = store.add(method="m")
    said = {
        "weight 'w': must be a numpy array, not list; for torch: tensor.detach().cpu().numpy()": lambda: store.add({"w": [1.0]}),
        f"weight 'w': must have one of the dtypes {', '.join(DTYPES)}, not complex128": lambda: store.add(
            {"w": np.zeros(1, complex)}
        ),
        "metric 'loss': must be a finite number, not nan; leave it out, or set error=": lambda: store.add(metrics={"loss": np.nan}),
        "metric 'loss': must be a finite number, not '1'; leave it out, or set error=": lambda: store.add(metrics={"loss": "1"}),
        "metric 'ok': must be a finite number, not True; leave it out, or set error=": lambda: store.add(metrics={"ok": True}),
        f"metric 'big': must be a finite number, not {10**400}; leave it out, or set error=": lambda: store.add(
            metrics={"big": 10**400}
        ),
        "method: must be text, not 3": lambda: store.add(method=3),
        "tag: must not be empty": lambda: store.tag(state, ""),
        "branch: must not be empty": lambda: store.fork(state, ""),
        "target: must be valid Unicode, not '\\udc80'": lambda: store.add(target="\udc80"),
        "graph: must be text or bytes, not dict": lambda: store.add(graph={}),
        "step: must be a Step, not 'Train'": lambda: store.add(step="Train"),
        "parents: must be different states": lambda: store.add(parents=[state, state]),
        "properties: must be JSON: text, finite numbers, lists, dictionaries by name; found a set": lambda: store.add(
            properties={"x": {1}}
        ),
        "properties: must be JSON: text, finite numbers, lists, dictionaries by name; "
        "found Out of range float values are not JSON compliant": lambda: store.add(properties={"x": np.inf}),
        f"store {store.folder}: there is no state 'nothing'; give its id, at least 4 digits of it, or a tag that it alone has": (
            lambda: store.get("nothing")
        ),
    }  # fmt: skip
    assert [raised(call) for call in said.values()] == list(said)
    store.tag(state, "two")
    store.tag(store.add(method="n"), "two")
    assert "'two' names more than one state" in raised(lambda: store.get("two"))
    assert len(store) == 2
