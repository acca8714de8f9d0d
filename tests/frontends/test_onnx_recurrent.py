"""RNN, LSTM and GRU: every attribute against the operators' definition, calibrated networks, and one step alone."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Net, standard

import hwcompile as hc
from hwcompile import CompileError
from hwcompile.frontends.calibrate import calibrate
from hwcompile.frontends.onnx import read_onnx
from hwcompile.frontends.real import evaluate_real
from hwcompile.frontends.recurrent import step_model

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {
    "Relu": lambda x, a, b: np.maximum(x, 0), "Tanh": lambda x, a, b: np.tanh(x), "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b, "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0), "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1), "Elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)), "Softplus": lambda x, a, b: np.log1p(np.exp(x)),
}  # fmt: skip


def definition(kind, x, w, r, b, h, c, p, acts, clip=None, coupled=False, before=False):
    """One direction as the standard's text defines it: x ``[time, events, inputs]``; (outputs by time, last h, last c)."""
    n = r.shape[-1]
    wb, rb = np.split(b, 2)

    def f(k, v):
        name, alpha, beta = acts[k]
        return FUNCTIONS[name](v if clip is None else np.clip(v, -clip, clip), alpha, beta)

    rows = []
    for xt in x:
        a, s = xt @ w.T, h @ r.T
        part = [slice(k * n, (k + 1) * n) for k in range(4)]
        if kind == "RNN":
            h = f(0, a + s + wb + rb)
        elif kind == "GRU":
            z, t = (f(0, a[:, q] + s[:, q] + wb[q] + rb[q]) for q in part[:2])
            q = part[2]
            inner = t * (s[:, q] + rb[q]) if before else (t * h) @ r[q].T + rb[q]
            h = (1 - z) * f(1, a[:, q] + inner + wb[q]) + z * h
        else:
            i, o, g, d = (a[:, q] + s[:, q] + wb[q] + rb[q] for q in part)
            i = f(0, i + p[0] * c)
            e = 1 - i if coupled else f(0, g + p[2] * c)
            c = e * c + i * f(1, d)
            h = f(0, o + p[1] * c) * f(2, c)
        rows.append(h)
    return np.stack(rows), h, c


def layer(
    kind, rng, directions=1, inputs=3, hidden=2, time=4, layout=0, initial=False, peep=False, bias=True, **attributes
):
    """(net, the names of its results, weights)."""
    net = Net((time, inputs))
    if not layout:
        net.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [time, "batch", inputs])]
    g = GATES[kind]
    weights = [
        rng.normal(size=s).astype(np.float32) * 0.7
        for s in ((directions, g * hidden, inputs), (directions, g * hidden, hidden))
    ]
    weights.append(rng.normal(size=(directions, 2 * g * hidden)).astype(np.float32) * (0.3 if bias else 0))
    shape = (1, directions, hidden) if layout else (directions, 1, hidden)
    states = [rng.normal(size=shape).astype(np.float32) if initial else np.zeros(shape, np.float32) for _ in range(2)]
    peepholes = rng.normal(size=(directions, 3 * hidden)).astype(np.float32) * peep
    given = ["x", *(net.const(v) for v in weights[: 3 if bias else 2])]
    given += [*([] if bias else [""]), "", net.const(states[0]) if initial else ""]
    if kind == "LSTM":
        given += [net.const(states[1]) if initial else "", net.const(peepholes) if peep else ""]
    names = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    settings = {"hidden_size": hidden, "layout": layout, **attributes}
    net.nodes.append(helper.make_node(kind, given, names, name="layer", **settings))
    return net, names, weights, states, peepholes


CASES = [
    *[(kind, {"layout": layout}) for kind in GATES for layout in (0, 1)],
    *[(kind, {"direction": d, "initial": True}) for kind in GATES for d in ("reverse", "bidirectional")],
    *[(kind, {"bias": False, "clip": 0.5}) for kind in GATES],
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional", "layout": 1, "initial": True}),
    ("LSTM", {"peep": True}),
    ("LSTM", {"peep": True, "direction": "bidirectional", "input_forget": 1, "initial": True}),
    ("LSTM", {"activations": ["HardSigmoid", "ScaledTanh", "Affine"], "activation_alpha": [0.3, 1.5, 0.5],
              "activation_beta": [0.4, 0.7, 0.125]}),
    ("LSTM", {"activations": ["Sigmoid", "Relu", "Softsign"]}),
    ("GRU", {"activations": ["HardSigmoid", "LeakyRelu"]}),
    *[("RNN", {"activations": [n]}) for n in FUNCTIONS],
    ("RNN", {"activations": ["Tanh", "Elu"], "activation_alpha": [0.75], "direction": "bidirectional"}),
]  # fmt: skip
DEFAULTS = {"Affine": (1, 0), "LeakyRelu": (0.01, 0), "ThresholdedRelu": (1, 0), "ScaledTanh": (1, 1), "HardSigmoid": (0.2, 0.5),
            "Elu": (1, 0)}  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_attribute(case):
    kind, settings = CASES[case]
    settings = dict(settings)
    rng = np.random.default_rng(case)
    directions = 2 if settings.get("direction") == "bidirectional" else 1
    net, names, (w, r, b), (h, c), p = layer(kind, rng, directions, **settings)
    model = read_onnx(net.model(*names))
    layout = settings.get("layout", 0)
    x = rng.normal(size=(5, 4, 3))
    values = evaluate_real(model, {"x": x})
    found = {name: values[i] for name, i in model.outputs}
    count = {"RNN": 1, "GRU": 2, "LSTM": 3}[kind]
    acts = settings.get(
        "activations", [["Tanh"], ["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"]][count - 1] * directions
    )
    alpha, beta = (list(settings.get(f"activation_{k}", [])) for k in ("alpha", "beta"))
    full = []
    for name in acts:
        a, bb = DEFAULTS.get(name, (0, 0))
        full.append((name, alpha.pop(0) if alpha and name in DEFAULTS else a,
                     beta.pop(0) if beta and name in ("Affine", "ScaledTanh", "HardSigmoid") else bb))  # fmt: skip
    for d in range(directions):
        backward = settings.get("direction") == "reverse" or d == 1
        steps = np.swapaxes(x, 0, 1)[:: -1 if backward else 1]
        start = [np.repeat(s[0][d : d + 1] if layout else s[d], 5, axis=0).astype(float) for s in (h, c)]
        rows, last, cell = definition(
            kind, steps, w[d], r[d], b[d], *start, p[d].reshape(3, -1), full[d * count : (d + 1) * count],
            settings.get("clip"), bool(settings.get("input_forget")), bool(settings.get("linear_before_reset")),
        )  # fmt: skip
        rows = np.swapaxes(rows[:: -1 if backward else 1], 0, 1)
        np.testing.assert_allclose(found["Y"][:, :, d], rows, atol=2e-6)
        np.testing.assert_allclose(found["Y_h"][:, d], last, atol=2e-6)
        if kind == "LSTM":
            np.testing.assert_allclose(found["Y_c"][:, d], cell, atol=2e-6)


@pytest.mark.parametrize("kind", GATES)
def test_the_standards_evaluation_agrees(kind):
    net, names, *_ = layer(kind, np.random.default_rng(0))
    model = net.model(*names[:2])
    x = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32)
    real = read_onnx(model)
    values = evaluate_real(real, {"x": x})
    y, h = standard(model, np.swapaxes(x, 0, 1))
    np.testing.assert_allclose(values[real.outputs[0][1]], np.moveaxis(y, 2, 0), atol=1e-6)
    np.testing.assert_allclose(values[real.outputs[1][1]], np.moveaxis(h, 1, 0), atol=1e-6)


def trained_like(kind, rng, bits=10, layers=1, **attributes):
    """(float model, data, its quantized unrolled form): a sequence tagger with a dense head, as exporters write it."""
    time, inputs, hidden = 4, 3, 4
    net = Net((time, inputs))
    value = net.op("Transpose", "x", perm=[1, 0, 2])
    g = GATES[kind]
    for k in range(layers):
        n = inputs if k == 0 else hidden
        w, r, b = (
            rng.normal(size=s).astype(np.float32) * 0.6
            for s in ((1, g * hidden, n), (1, g * hidden, hidden), (1, 2 * g * hidden))
        )
        net.nodes.append(
            helper.make_node(
                kind,
                [value, *map(net.const, (w, r, b))],
                [f"y{k}", f"h{k}"],
                name=f"layer{k}",
                hidden_size=hidden,
                **attributes,
            )
        )
        value = net.op("Squeeze", f"y{k}", net.const([1], np.int64))
    last = net.op("Gather", net.op("Transpose", value, perm=[1, 0, 2]), net.const(-1, np.int64), axis=1)
    y = net.op("Gemm", last, net.const(rng.normal(size=(2, hidden))), net.const([0.25, -0.5]), transB=1)
    model = net.model(y)
    x = rng.normal(size=(300, time, inputs)).astype(np.float32)
    return model, x, calibrate(read_onnx(model), {"x": x}, bits)[0]


@pytest.mark.parametrize("kind", GATES)
def test_a_float_network_by_calibration(kind):
    model, x, _ = trained_like(kind, np.random.default_rng(2))
    design = hc.compile(model, calibration=x, bits=12, backends=("cpu",))
    got, want = design.predict(x), standard(model, x)[0]
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.02 * np.sqrt(np.mean(want**2))
    assert design.verify(x, events=200).ok
    bits = {k: v for k, v in design.calibration.bits.items() if "layer0" in k}
    assert len(bits) < 25  # one precision for all steps


@pytest.mark.parametrize("kind,layers,settings", [
    ("RNN", 1, {}), ("GRU", 1, {}), ("GRU", 1, {"linear_before_reset": 1}), ("LSTM", 1, {}), ("LSTM", 2, {}), ("GRU", 2, {}),
])  # fmt: skip
def test_one_step_again_and_again_equals_the_unrolled_network(kind, layers, settings):
    _, x, quantized = trained_like(kind, np.random.default_rng(3), layers=layers, **settings)
    unrolled, step = (hc.compile(m, backends=()) for m in (quantized, step_model(quantized)))
    names = [step.graph.nodes[i].name for i in step.graph.inputs]
    types = {step.graph.nodes[i].name: step.graph.nodes[i].type for i in step.graph.inputs}
    states = [n for n in names if n != "x"]
    assert len(states) == layers * (2 if kind == "LSTM" else 1)
    (outputs,) = (o.name for o in step.graph.outputs if not o.name.endswith("_next"))
    raw = unrolled.quantize(x)["x"]
    now = {s: np.zeros((len(x), *types[s].shape), np.int64) for s in states}
    for t in range(x.shape[1]):
        found = step.predict({"x": raw[:, t], **now}, raw=True, engine="reference")
        now = {s: found[f"{s}_next"] for s in states}
    whole = unrolled.predict(raw, raw=True, engine="reference")
    assert (found[outputs] == whole).all()
    assert len(np.unique(whole)) > 100


def test_a_step_in_every_engine():
    _, _, quantized = trained_like("GRU", np.random.default_rng(4), bits=6)
    assert hc.compile(step_model(quantized), clock_ns=10).verify(events=300).ok


def test_steps_that_cannot_be():
    rng = np.random.default_rng(0)
    _, _, backward = trained_like("RNN", rng, direction="reverse")
    with pytest.raises(CompileError, match="layer0: runs backward, which needs the whole sequence"):
        step_model(backward)
    model, _, _ = trained_like("RNN", rng)
    with pytest.raises(CompileError, match="whose states have quantizers; calibrate the unrolled network first"):
        step_model(read_onnx(model))


@pytest.mark.parametrize("change,sentence", [
    (lambda n, node: node.input.insert(4, n.const([4, 3], np.int32)), "sequence_lens must be constant and the full length 4"),
    (lambda n, node: node.attribute.append(helper.make_attribute("direction", "up")), "direction must be forward, reverse or"),
    (lambda n, node: node.attribute.append(helper.make_attribute("activations", ["Cosh"])), "activations must be 1 of affine"),
    (lambda n, node: node.attribute.append(helper.make_attribute("layout", 1)),
     "must have shape [batch, time, inputs], not [4, 'batch', 3]"),
])  # fmt: skip
def test_refusals(change, sentence):
    net, names, *_ = layer("RNN", np.random.default_rng(0))
    node = net.nodes[-1]
    for a in [a for a in node.attribute if a.name == "layout"]:
        node.attribute.remove(a)
    del node.input[4:]
    change(net, node)
    with pytest.raises(CompileError) as e:
        read_onnx(net.model(*names))
    assert sentence in str(e.value)
