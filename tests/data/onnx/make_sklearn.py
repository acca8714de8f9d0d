"""Writes the files sklearn_*.onnx beside it: linear models of scikit-learn as skl2onnx writes them, and their predictions.

Run by hand, with scikit-learn and skl2onnx installed: python tests/data/onnx/make_sklearn.py. sklearn.npz holds x and, for
each network, the label or value that scikit-learn predicts (NAME.y) and its probabilities, if any (NAME.p).
"""

import pathlib

import numpy as np
from skl2onnx import to_onnx
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

HERE = pathlib.Path(__file__).parent


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    two, three = (x[:, 0] + x[:, 1] > 0) * 3 + 4, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
    value = x @ np.arange(5)
    models = {
        "regression": (LinearRegression(), value),
        "ridge": (make_pipeline(StandardScaler(), Ridge()), value),
        "logistic": (LogisticRegression(), two),
        "logistic3": (make_pipeline(StandardScaler(), LogisticRegression()), three),
        "pca": (make_pipeline(PCA(3), LinearRegression()), value),
        "mlp": (MLPClassifier(hidden_layer_sizes=(6,), max_iter=30), three),
        "mlp_regression": (MLPRegressor(hidden_layer_sizes=(6,), max_iter=30), value),
        "lda": (LinearDiscriminantAnalysis(), three),
        "ridge_classifier": (make_pipeline(MinMaxScaler(), RidgeClassifier()), two),
        "normalized": (make_pipeline(Normalizer(), LinearRegression()), value),
        "bayes": (GaussianNB(), two),
    }
    results = {"x": x[:50]}
    for name, (model, target) in models.items():
        model.fit(x, target)
        results[f"{name}.y"] = model.predict(x[:50])
        if hasattr(model, "predict_proba"):
            results[f"{name}.p"] = model.predict_proba(x[:50])
        (HERE / f"sklearn_{name}.onnx").write_bytes(to_onnx(model, x[:1], target_opset=17).SerializeToString())
    np.savez_compressed(HERE / "sklearn.npz", **results)


if __name__ == "__main__":
    main()
