"""Tree ensembles of ONNX as the standard's reference evaluates them: modes, base values, means, labels; the rest is refused."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import hwcompile as hc
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import evaluate_real

X = np.random.default_rng(0).integers(-20, 21, (200, 3)) / 4

NODES = {
    "nodes_treeids": [0, 0, 0, 0, 0, 4, 4, 4],
    "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
    "nodes_values": [0.25, -1.5, 0, 0, 0, 2.0, 0, 0],
    "nodes_truenodeids": [1, 2, 0, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [4, 3, 0, 0, 0, 2, 0, 0],
}
LEAVES = {
    "treeids": [0, 0, 0, 4, 4],
    "nodeids": [2, 3, 4, 1, 2],
    "ids": [0, 1, 0, 1, 0],
    "weights": [0.5, -1.25, 0.75, 2.0, -0.125],
}


def model(kind, outputs, classes=False, **attributes):
    what = "class" if classes else "target"
    given = NODES | {f"{what}_{k}": v for k, v in LEAVES.items()} | attributes
    node = onnx.helper.make_node(kind, ["x"], outputs, "trees", domain="ai.onnx.ml", **given)
    info = onnx.helper.make_tensor_value_info
    types = [info(o, 7 if o == "label" else 1, None) for o in outputs]
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, [None, 3])], types)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in (("ai.onnx.ml", 3), ("", 17))]
    )


def equal(made):
    read = read_onnx(made)
    values = evaluate_real(read, {"x": X})
    expected = ReferenceEvaluator(made).run(None, {"x": X.astype(np.float32)})
    for (_, i), wanted in zip(read.outputs, expected):
        assert np.allclose(values[i].reshape(len(X), -1), wanted.reshape(len(X), -1), atol=1e-6)
    return read


@pytest.mark.parametrize(
    "modes", [("BRANCH_LEQ", "BRANCH_GT"), ("BRANCH_GTE", "BRANCH_LT"), ("BRANCH_LT", "BRANCH_GTE")]
)
@pytest.mark.parametrize("more", [{}, {"base_values": [3.0, -7.0]}, {"aggregate_function": "AVERAGE"}])
def test_regressors(modes, more):
    mixed = [*modes, "LEAF", "LEAF", "LEAF", modes[0], "LEAF", "LEAF"]
    equal(model("TreeEnsembleRegressor", ["y"], n_targets=2, nodes_modes=mixed, **more))


@pytest.mark.parametrize("post_transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_classifiers_of_several_classes(post_transform):
    made = model("TreeEnsembleClassifier", ["label", "scores"], True, classlabels_int64s=[5, 7, 2],
                 post_transform=post_transform, base_values=[0.0, 0.25, 0.5])  # fmt: skip
    equal(made)


@pytest.mark.parametrize("positive", [True, False])
def test_two_classes_of_one_score(positive):
    weights = np.array([0.125, 0.25 if positive else -1.25, 0.375, 0.25, 0.5 if positive else -0.5])
    made = model("TreeEnsembleClassifier", ["label", "scores"], True, classlabels_int64s=[4, 9], class_ids=[0] * 5,
                 class_weights=weights, post_transform="NONE" if positive else "LOGISTIC")  # fmt: skip
    equal(made)


def test_a_classifier_compiles_and_its_label_is_a_comparison():
    made = model("TreeEnsembleClassifier", ["label", "scores"], True, classlabels_int64s=[4, 9], class_ids=[0] * 5,
                 class_weights=[0.125, 0.25, 0.5, 0.375, 0.125])  # fmt: skip
    design = hc.compile(made, calibration=X, bits=8, clock_ns=5)
    found = design.predict(X)
    wanted = ReferenceEvaluator(made).run(None, {"x": X.astype(np.float32)})
    assert np.array_equal(found["label"], wanted[0])
    assert np.allclose(found["scores"], wanted[1])
    assert all(r.mismatches == 0 for r in design.verify(X, events=300).results)


REFUSED = {
    "node mode BRANCH_EQ is not supported; known: BRANCH_LEQ": {
        "nodes_modes": ["BRANCH_EQ", *NODES["nodes_modes"][1:]]
    },
    "aggregate_function must be SUM or AVERAGE, not MAX": {"aggregate_function": "MAX"},
    "post_transform must be NONE, SOFTMAX, LOGISTIC, not PROBIT": {"post_transform": "PROBIT"},
    "a child or leaf is a node that is not there": {"nodes_truenodeids": [1, 77, 0, 0, 0, 1, 0, 0]},
    "every node needs a number of its own": {"nodes_nodeids": [0, 1, 2, 3, 3, 0, 1, 2]},
    "every tree must have one root": {"nodes_truenodeids": [0, 2, 0, 0, 0, 1, 0, 0]},
    "which leads to each of its nodes once": {
        "nodes_falsenodeids": [1, 3, 0, 0, 0, 2, 0, 0],
        "nodes_truenodeids": [1, 4, 0, 0, 0, 1, 0, 0],
    },
    r"outputs must be within 0\.\.1, not 0\.\.5": {"target_ids": [0, 1, 5, 1, 0]},
    "base values must be one per output, not 3 for 2": {"base_values": [1.0, 2.0, 3.0]},
    "does not fit shapes": {"nodes_featureids": [0, 1, 0, 0, 0, 9, 0, 0]},
    "every node must have a tree, a number, a mode": {"nodes_values": [0.5]},
    "attribute 'color' is not known": {"color": 1},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_ensemble_must_not_be(what):
    with pytest.raises(hc.CompileError, match=what):
        read_onnx(model("TreeEnsembleRegressor", ["y"], **({"n_targets": 2} | REFUSED[what])))


def test_classifiers_that_runtimes_or_readers_disagree_about_are_refused():
    positive = {
        "class_ids": [0] * 5,
        "class_weights": [0.1] * 5,
        "classlabels_int64s": [0, 1],
        "post_transform": "LOGISTIC",
    }
    with pytest.raises(hc.CompileError, match="runtimes disagree about LOGISTIC of weights that are all positive"):
        read_onnx(model("TreeEnsembleClassifier", ["label", "scores"], True, **positive))
    with pytest.raises(hc.CompileError, match="runtimes disagree about NONE of weights of both signs"):
        read_onnx(
            model("TreeEnsembleClassifier", ["label", "scores"], True, classlabels_int64s=[0, 1], class_ids=[0] * 5)
        )
    with pytest.raises(hc.CompileError, match="class labels must be integers, not strings"):
        read_onnx(model("TreeEnsembleClassifier", ["label", "scores"], True, classlabels_strings=["a", "b"]))
    with pytest.raises(hc.CompileError, match="there must be two classes or more, not 0"):
        read_onnx(model("TreeEnsembleClassifier", ["label", "scores"], True))
