"""Writes the tree models beside it and what their framework predicts: XGBoost files, ONNX files, and scikit-learn's arrays.

Run by hand, with xgboost, scikit-learn, skl2onnx and onnxmltools installed: python tests/data/trees/make.py. predictions.npz holds
x, whose features are multiples of 1/16, and for each model NAME.margin and NAME.y. sklearn.npz holds the fitted attributes that
the reader uses, by MODEL/ATTRIBUTE; a test puts them into objects of the same class names.
"""

import pathlib

import numpy as np
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn import ensemble, tree

HERE = pathlib.Path(__file__).parent
FEATURES = 6


def data():
    rng = np.random.default_rng(0)
    x = np.clip(np.round(rng.normal(size=(600, FEATURES)) * 16), -127, 127) / 16
    three = (x[:, 0] * x[:, 1] > 0.2).astype(int) + (x[:, 2] > x[:, 3])
    return x.astype(np.float32), (three > 0).astype(int), three, x[:, 0] ** 2 + np.sin(x[:, 1]) + 3


def xgboost_models(x, two, three, value, results):
    common = {"n_estimators": 8, "max_depth": 3, "learning_rate": 0.5}
    models = {
        "binary": (xgb.XGBClassifier(**common), two, "json"),
        "binary_ubj": (xgb.XGBClassifier(**common), two, "ubj"),
        "multi": (xgb.XGBClassifier(**common, objective="multi:softprob"), three, "json"),
        "regression": (xgb.XGBRegressor(**common), value, "ubj"),
        "poisson": (xgb.XGBRegressor(**common, objective="count:poisson"), value, "json"),
        "dart": (xgb.XGBClassifier(**common, booster="dart", rate_drop=0.3), two, "json"),
        "lossguide": (
            xgb.XGBRegressor(n_estimators=4, grow_policy="lossguide", max_leaves=30, max_depth=0),
            value,
            "json",
        ),
    }
    for name, (model, target, ending) in models.items():
        model.fit(x, target)
        model.save_model(HERE / f"xgboost_{name}.{ending}")
        results[f"xgboost_{name}.margin"] = model.predict(x[:100], output_margin=True)
        has = hasattr(model, "predict_proba")
        results[f"xgboost_{name}.y"] = model.predict_proba(x[:100]) if has else model.predict(x[:100])
        if name in ("binary", "multi"):
            onnx_model = convert_xgboost(
                model, initial_types=[("x", FloatTensorType([None, FEATURES]))], target_opset=15
            )
            (HERE / f"xgboost_{name}.onnx").write_bytes(onnx_model.SerializeToString())


def sklearn_models(x, two, three, value, results):
    small = {"n_estimators": 5, "max_depth": 4, "random_state": 0}
    models = {
        "tree_classifier": (tree.DecisionTreeClassifier(max_depth=5, random_state=0), three),
        "tree_regressor": (tree.DecisionTreeRegressor(max_depth=5, random_state=0), value),
        "forest_classifier": (ensemble.RandomForestClassifier(**small), three),
        "forest_regressor": (ensemble.RandomForestRegressor(**small), value),
        "extra_classifier": (ensemble.ExtraTreesClassifier(**small), two),
        "boosted_binary": (ensemble.GradientBoostingClassifier(**small), two),
        "boosted_multi": (ensemble.GradientBoostingClassifier(**small), three),
        "boosted_exponential": (ensemble.GradientBoostingClassifier(**small, loss="exponential"), two),
        "boosted_regressor": (ensemble.GradientBoostingRegressor(**small), value),
        "histogram_binary": (ensemble.HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=8), two),
        "histogram_multi": (ensemble.HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=8), three),
        "histogram_regressor": (ensemble.HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=8), value),
    }
    arrays = {}
    for name, (model, target) in models.items():
        model.fit(x, target)
        has = hasattr(model, "predict_proba")
        results[f"sklearn_{name}.y"] = model.predict_proba(x[:100]) if has else model.predict(x[:100])
        if hasattr(model, "decision_function"):
            results[f"sklearn_{name}.margin"] = model.decision_function(x[:100])
        arrays |= {f"{name}/{k}": v for k, v in attributes(model).items()}
        if not name.startswith("histogram") and name != "boosted_exponential":
            options = {"zipmap": False} if has else {}
            found = to_onnx(model, x[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options=options)
            (HERE / f"sklearn_{name}.onnx").write_bytes(found.SerializeToString())
    np.savez_compressed(HERE / "sklearn.npz", **arrays)


def attributes(model):
    """What a reader needs of a fitted model, as arrays by a path of attributes; numbers are places in lists."""
    found = {"class": type(model).__name__, "n_features_in_": model.n_features_in_}
    for k in ("classes_", "learning_rate", "loss", "_baseline_prediction"):
        if hasattr(model, k):
            found[k] = getattr(model, k)
    if hasattr(model, "tree_"):
        for k in ("children_left", "children_right", "feature", "threshold", "value"):
            found[f"tree_/{k}"] = getattr(model.tree_, k)
    if hasattr(model, "estimators_"):
        each = np.asarray(model.estimators_, object)
        for place in np.ndindex(each.shape):
            inner = attributes(each[place])
            found |= {f"estimators_/{'/'.join(map(str, place))}/{k}": v for k, v in inner.items()}
    if hasattr(model, "init_"):
        start = getattr(model.init_, "class_prior_", None)
        found |= {"init_/class_prior_": start} if start is not None else {"init_/constant_": model.init_.constant_}
    for i, stage in enumerate(getattr(model, "_predictors", [])):
        found |= {f"_predictors/{i}/{k}/nodes": p.nodes for k, p in enumerate(stage)}
    return {k: np.asarray(v) for k, v in found.items()}


def main():
    x, two, three, value = data()
    results = {"x": x[:100]}
    xgboost_models(x, two, three, value, results)
    sklearn_models(x, two, three, value, results)
    np.savez_compressed(HERE / "predictions.npz", **results)


if __name__ == "__main__":
    main()
