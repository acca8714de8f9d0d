"""Trees of XGBoost, scikit-learn and ONNX give what their frameworks predict, and compile exactly with the given precisions.

Frameworks sum in float32 (XGBoost, onnxruntime) or divide by counts, so float outputs agree to their last digits; which leaf is
reached is an exact matter, since the features of the data lie on the grid that is compiled.
"""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

import hwcompile as hc
from hwcompile.frontends.calibrate import open_precisions
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import evaluate_real
from hwcompile.frontends.trees import Tree, joined, tree_model, with_types
from hwcompile.frontends.trees_files import parse_document
from hwcompile.frontends.trees_sklearn import read_sklearn
from hwcompile.frontends.trees_xgboost import read_xgboost
from hwcompile.ir.ops import Forest

DATA = Path(__file__).parent.parent / "data" / "trees"
GIVEN = np.load(DATA / "predictions.npz")
X = GIVEN["x"].astype(np.float64)
XGBOOST = sorted(p for p in DATA.glob("xgboost_*") if p.suffix in (".json", ".ubj"))
ONNX = sorted(DATA.glob("*.onnx"))
SKLEARN = sorted({k.split("/")[0] for k in np.load(DATA / "sklearn.npz").files})


def outputs(model, x=X):
    values = evaluate_real(model, {model.nodes[model.inputs[0]].name: x})
    return [values[i] for _, i in model.outputs]


def near(found, expected, digits=2e-6):
    expected = np.asarray(expected, np.float64).reshape(len(X), -1)
    return np.allclose(found.reshape(len(X), -1), expected, rtol=digits, atol=digits)


def stand_in(name):
    """An object with the class name and the fitted attributes of a scikit-learn model."""
    stored = np.load(DATA / "sklearn.npz")
    return _built({k.removeprefix(f"{name}/"): stored[k] for k in stored.files if k.startswith(f"{name}/")})


def _built(flat):
    heads = list(dict.fromkeys(k.split("/")[0] for k in flat))
    parts = {h: {k.partition("/")[2]: v for k, v in flat.items() if k.split("/")[0] == h} for h in heads}
    values = {h: p[""] if "" in p else _built(p) for h, p in parts.items()}
    if all(h.isdigit() for h in heads):
        return [values[str(k)] for k in range(len(heads))]
    kind = type(str(values.pop("class", "Part")), (), {"__module__": "sklearn.stored"})
    found = kind()
    for key, value in values.items():
        setattr(found, key, value.item() if isinstance(value, np.ndarray) and value.shape == () else value)
    return found


@pytest.mark.parametrize("path", XGBOOST, ids=lambda p: p.name)
def test_xgboost_files_predict_what_xgboost_predicts(path):
    (margin,) = outputs(read_xgboost(path, margin=True))
    assert near(margin, GIVEN[f"{path.stem}.margin"])
    (y,) = outputs(hc.load(path))
    expected = GIVEN[f"{path.stem}.y"]
    two = expected.ndim == 2 and expected.shape[1] == 2
    assert near(y, expected[:, 1] if two else expected)


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn_models_predict_what_scikit_learn_predicts(name):
    model = stand_in(name)
    (y,) = outputs(hc.load(model))
    expected = GIVEN[f"sklearn_{name}.y"]
    one = expected.ndim == 2 and expected.shape[1] == 2 and y.shape[1] == 1
    assert near(y, expected[:, 1] if one else expected, 1e-12)
    if f"sklearn_{name}.margin" in GIVEN.files:
        assert near(outputs(read_sklearn(model, margin=True))[0], GIVEN[f"sklearn_{name}.margin"], 1e-12)


@pytest.mark.parametrize("path", ONNX, ids=lambda p: p.name)
def test_onnx_ensembles_predict_what_the_framework_predicts(path):
    model = hc.load(path)
    found = dict(zip((name for name, _ in model.outputs), outputs(model)))
    expected = GIVEN[f"{path.stem}.y"]
    if expected.ndim == 1:
        assert near(found["variable"], expected)
        return
    label, scores = found.values()
    assert near(scores, expected)
    assert np.array_equal(label, expected.argmax(axis=1))


@pytest.mark.parametrize("path", ONNX, ids=lambda p: p.name)
def test_onnx_ensembles_are_those_of_the_standard(path):
    from onnx.reference import ReferenceEvaluator

    expected = ReferenceEvaluator(str(path)).run(None, {"x" if "xgboost" in path.name else "X": X.astype(np.float32)})
    for found, wanted in zip(outputs(hc.load(path)), expected):
        assert near(found, wanted)


def test_the_ensemble_of_version_five_is_read():
    def tensor(values, kind=np.float32):
        return onnx.numpy_helper.from_array(np.array(values, kind))

    node = onnx.helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, aggregate_function=1, post_transform=0,
        tree_roots=[0, 2], nodes_featureids=[0, 1, 0], nodes_splits=tensor([0.5, -1, 0.25]),
        nodes_modes=tensor([0, 2, 1], np.uint8), nodes_truenodeids=[1, 0, 3], nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 3], nodes_falseleafs=[1, 1, 1], leaf_targetids=[0, 1, 0, 1],
        leaf_weights=tensor([5, 7, 11, 13]),
    )  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, [None, 2])], [info("y", 1, [None, 2])])
    opsets = [onnx.helper.make_opsetid("ai.onnx.ml", 5), onnx.helper.make_opsetid("", 20)]
    model = read_onnx(onnx.helper.make_model(graph, opset_imports=opsets))
    x = np.array([[0.5, -1], [0.5, -1.5], [0.75, 0]])
    assert outputs(model, x)[0].tolist() == [[5, 13], [0, 20], [11, 13]]


@pytest.mark.parametrize("path", XGBOOST, ids=lambda p: p.name)
def test_features_on_the_compiled_grid_reach_the_same_leaves(path):
    margin = read_xgboost(path, margin=True)
    design = hc.compile(with_types(margin, "ap_fixed<8,4>", "ap_fixed<28,6>"), backends="cpu")
    found, expected = design.predict(X), GIVEN[f"{path.stem}.margin"].reshape(len(X), -1)
    trees = len(next(n.op for n in margin.nodes if n.name == "trees").roots)
    assert (
        np.abs(found - expected).max() <= trees * 2.0**-23 + 1e-6
    )  # half a step for each leaf, and XGBoost's own sums
    assert design.deviate(X).maximum == 0


def test_calibration_rounds_thresholds_and_leaves_and_states_the_deviation():
    design = hc.compile(DATA / "xgboost_regression.ubj", calibration=X, tolerance=0.02, backends="cpu")
    deviation = design.deviate(X)
    assert 0 < deviation.relative_rms <= 0.02
    assert design.calibration.deviation.events == 100
    forest = next(n.op for n in design.graph.nodes if isinstance(n.op, Forest))
    assert design.calibration.bits["trees.weights"] < 12
    assert len(forest.thresholds) > 10


def test_a_probability_is_a_table_and_every_engine_agrees():
    design = hc.compile(DATA / "xgboost_binary.json", calibration=X, bits=9, clock_ns=5)
    assert all(r.mismatches == 0 for r in design.verify(X, events=500).results)
    assert design.deviate(X).maximum < 0.02


def test_a_precision_that_is_left_open_is_told():
    model = hc.load(DATA / "xgboost_binary.json")
    assert open_precisions(model) == ("x", "trees", "trees", "sigmoid")
    with pytest.raises(hc.CompileError, match=r"input x: its precision is open: 'trees' reads it.*--calibrate"):
        hc.compile(model)
    with pytest.raises(hc.CompileError, match=r"trees: its leaves are float numbers.*--calibrate"):
        hc.compile(with_types(read_xgboost(DATA / "xgboost_binary.json", margin=True), "ap_fixed<8,4>"))


def test_a_constant_far_from_the_leaves_takes_none_of_their_bits():
    stump = Tree(np.array([0, 0, 0]), np.array([0.5, 0, 0]), np.array([1, -1, -1]), np.array([2, -1, -1]),
                 np.array([[0.0], [0.011], [-0.007]]))  # fmt: skip
    model = tree_model("offset", 1, [stump], np.array([1000.0]), "identity")
    design = hc.compile(model, calibration=np.linspace(0, 1, 50)[:, None], bits=8, backends="cpu")
    assert np.allclose(design.predict(np.array([[0.0], [1.0]]))[:, 0], [1000.011, 999.993], atol=2e-4)


# ---- refused ------------------------------------------------------------------------------------------------------------


def changed(path, change):
    document = json.loads((DATA / path).read_text())
    change(document["learner"])
    return json.dumps(document).encode()


REFUSED = {
    "objective 'survival:cox' is not supported": lambda d: d["objective"].update(name="survival:cox"),
    "objective 'multi:softmax' is not supported; use multi:softprob": lambda d: d["objective"].update(
        name="multi:softmax"
    ),
    "booster 'gblinear' is not supported": lambda d: d["gradient_booster"].update(name="gblinear"),
    "categorical splits are not supported": lambda d: first(d).update(split_type=[1] * len(first(d)["split_type"])),
    "leaves with several values": lambda d: first(d)["tree_param"].update(size_leaf_vector="3"),
    "is no complete XGBoost model: it lacks 'split_indices'": lambda d: first(d).pop("split_indices"),
    "children must be within": lambda d: first(d)["left_children"].__setitem__(0, 999),
    "every node must have one parent": lambda d: first(d)["left_children"].__setitem__(0, 0),
    "must have features": lambda d: d["learner_model_param"].update(num_feature="0"),
    "says of 7 trees": lambda d: d["gradient_booster"]["model"]["tree_info"].pop(),
    "is for output 4 of 1": lambda d: d["gradient_booster"]["model"]["tree_info"].__setitem__(0, 4),
    "must be finite": lambda d: first(d)["split_conditions"].__setitem__(0, float("nan")),
    "has parts that do not fit each other": lambda d: d["learner_model_param"].update(base_score="half"),
    "must hold the features": lambda d: d["learner_model_param"].update(num_feature="1"),
}


def first(learner):
    return learner["gradient_booster"]["model"]["trees"][0]


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_xgboost_file_must_not_hold(what):
    with pytest.raises(hc.CompileError, match=what.replace("(", r"\(")):
        read_xgboost(changed("xgboost_binary.json", REFUSED[what]))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[[[", b"{" * 5000, b"[$d#L\x7f" + b"\xff" * 7, b"Zz", b"{i\x01", b"[#i\x80"]
)
def test_damaged_files_are_refused(data):
    with pytest.raises(hc.CompileError, match="is no JSON or UBJSON file"):
        parse_document(data, "model")


def test_every_truncation_of_a_file_is_refused():
    data = (DATA / "xgboost_regression.ubj").read_bytes()
    for n in range(0, len(data), 97):
        with pytest.raises(hc.CompileError):
            read_xgboost(data[:n])


def test_ubjson_values():
    made = b"{i\x01aZi\x01b[TFi\xffU\xffI\xff\x00l\x00\x00\x00\x07L" + struct.pack(">q", 1 << 40)
    made += (
        b"d\x3f\x80\x00\x00D\x3f\xf0"
        + b"\0" * 6
        + b"Si\x02hiCx]i\x01c[$U#i\x03\x01\x02\x03i\x01d{#i\x01i\x01e[#i\x01T}"
    )
    found = parse_document(made, "document")
    assert found["b"] == [True, False, -1, 255, -256, 7, 1 << 40, 1.0, 1.0, "hi", "x"]
    assert found["c"].tolist() == [1, 2, 3]
    assert (found["a"], found["d"]) == (None, {"e": [True]})


def test_pickles_and_unknown_models_are_refused():
    with pytest.raises(hc.CompileError, match="is a pickle, and reading one runs whatever it holds"):
        hc.load("forest.pkl")
    with pytest.raises(hc.CompileError, match="SVC: is not a supported model of scikit-learn; known: DecisionTree"):
        hc.load(type("SVC", (), {"__module__": "sklearn.svm"})())
    with pytest.raises(hc.CompileError, match=r"cannot be read \(AttributeError.*fit the model"):
        hc.load(type("RandomForestRegressor", (), {"__module__": "sklearn.ensemble"})())


@pytest.mark.parametrize(
    "given", [("ap_int<8>", None), ("ap_fixed<40,4>", None), (None, "float"), (None, "ap_fixed<4,1>")]
)
def test_precisions_that_do_not_fit_are_refused(given):
    with pytest.raises(hc.CompileError, match=r"precision: must be ap_fixed|a leaf of .* does not fit"):
        with_types(read_xgboost(DATA / "xgboost_regression.ubj", margin=True), *given)


def test_a_forest_needs_a_tree():
    with pytest.raises(hc.CompileError, match="must have at least one tree"):
        joined([], "model")
