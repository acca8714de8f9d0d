"""Writes the files beside it: small networks as PyTorch's two exporters write them, with PyTorch's own results.

Run by hand, with torch and onnxscript installed: python tests/data/onnx/make.py. NAME.EXPORTER_OPSET.onnx is the network,
results.npz holds NAME.x and NAME.y.
"""

import pathlib

import numpy as np
import onnx
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent
torch.manual_seed(0)


class Apply(nn.Module):
    """f(x, *modules)."""

    def __init__(self, f, *modules):
        super().__init__()
        self.f, self.parts = f, nn.ModuleList(modules)

    def forward(self, x):
        return self.f(x, *self.parts)


def stripped(path):
    """Without the exporter's notes about source files, which are most of a small file."""
    model = onnx.load(path)
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.save(model, path)


def head(n):
    return nn.Linear(n, 2)


NETWORKS = {
    "mlp": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1)), (6,)),
    "cnn": (
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.Flatten(), head(12)
        ),
        (1, 6, 6),
    ),
    "lstm": (Apply(lambda x, r, h: h(r(x)[0][:, -1]), nn.LSTM(3, 4, batch_first=True), head(4)), (5, 3)),
    "bigru": (
        Apply(
            lambda x, r, h: h(r(x)[1][-2:].transpose(0, 1).flatten(1)),
            nn.GRU(3, 4, 2, batch_first=True, bidirectional=True),
            head(8),
        ),
        (5, 3),
    ),
    "rnn": (Apply(lambda x, r, h: h(r(x)[0]), nn.RNN(3, 4, batch_first=True, nonlinearity="relu"), head(4)), (3, 3)),
    "encoder": (
        Apply(lambda x, e, h: h(e(x)[:, 0]), nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True), head(8)),
        (4, 8),
    ),
    "particles": (Apply(lambda x, h: h(x.reshape(-1, 4)).reshape(-1, 6, 2).amax(1), head(4)), (6, 4)),
    "normal": (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU(), head(6)), (6,)),
    "choice": (Apply(lambda x, h: torch.where(x[:, :2] > 0.5, torch.topk(x, 2)[0], h(x)), head(6)), (6,)),
    "tokens": (Apply(lambda x, e, h: h(e(x).flatten(1)), nn.Embedding(7, 3), head(9)), (3,)),
}
EXPORTERS = {"script_13": (False, 13), "script_17": (False, 17), "dynamo_18": (True, 18), "dynamo_23": (True, 23)}
SKIPPED = {("encoder", "script_13")}  # PyTorch does not export it


def main():
    results = {}
    for name, (network, shape) in NETWORKS.items():
        network.eval()
        x = torch.randint(0, 7, (6, *shape)) if name == "tokens" else torch.randn(6, *shape)
        results[f"{name}.x"] = x.numpy()
        results[f"{name}.y"] = network(x).detach().numpy()
        for label, (dynamo, opset) in EXPORTERS.items():
            if (name, label) in SKIPPED:
                continue
            path, common = HERE / f"{name}.{label}.onnx", {"opset_version": opset, "input_names": ["x"]}
            if dynamo:
                shapes = ({0: torch.export.Dim("batch")},)
                torch.onnx.export(
                    network,
                    (x,),
                    path,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    external_data=False,
                    verbose=False,
                    **common,
                )
            else:
                torch.onnx.export(network, (x,), path, dynamo=False, dynamic_axes={"x": {0: "batch"}}, **common)
            stripped(path)
    np.savez_compressed(HERE / "results.npz", **results)


if __name__ == "__main__":
    main()
