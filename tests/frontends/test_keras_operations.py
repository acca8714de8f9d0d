"""Operations of Keras 3 in functional models, against Keras itself: equal where float32 is exact, else close."""

import json
import zipfile

import hgq_models
import numpy as np
import pytest
from hgq_models import framework

import hwcompile as hc
from hwcompile.frontends.keras import read_keras
from hwcompile.frontends.keras_operations import OPERATIONS
from hwcompile.frontends.real import evaluate_real

EXACT = {
    "add": lambda o, z: [z + 1.5, 2.0 + z, z + z, o.add(z, 3)],
    "subtract": lambda o, z: [1.5 - z, z - 0.5, o.subtract(z, 2), z - z[:, :1]],
    "multiply": lambda o, z: [z * z, 0.5 * z, o.square(z)],
    "divide": lambda o, z: [z / 2.0, o.divide(z, 4.0)],
    "sign": lambda o, z: [-z, o.abs(z), o.absolute(z)],
    "limits": lambda o, z: [o.relu(z), o.relu6(z), o.maximum(z, 0.25), o.minimum(1.0, z), o.clip(z, -1, 1), o.maximum(z, -z)],
    "choice": lambda o, z: [z[:, :2], z[:, 0], z[..., 1:3], z[:, None], z[:, ::2, -1], o.squeeze(z[:, :1], 1)],
    "layout": lambda o, z: [o.reshape(z, (-1, 24)), o.reshape(z, (-1, 2, 12)), o.transpose(z, (0, 2, 1)), o.expand_dims(z, 1)],
    "join": lambda o, z: [o.concatenate([z, z], axis=-1), o.concatenate([z, -z], axis=1)],
    "sums": lambda o, z: [o.sum(z, axis=-1), o.mean(z, axis=1, keepdims=True), o.max(z, axis=(1, 2)), o.sum(z, axis=[1, 2])],
    "product": lambda o, z: [o.matmul(z, o.transpose(z, (0, 2, 1))), z @ o.transpose(z, (0, 2, 1))],
}  # fmt: skip

CLOSE = {
    "functions": lambda o, z: [o.tanh(z), o.exp(z), o.sigmoid(z), o.softplus(z), o.silu(z), o.erf(z), o.hard_sigmoid(z), o.sin(z)],
    "quotients": lambda o, z: [2.0 / (z * z + 1.0), z / (z * z + 1.0), o.sqrt(z * z), o.log(z * z + 1.0), o.softmax(z)],
}  # fmt: skip


def functional(make):
    with framework() as (keras, _, _):
        keras.utils.clear_session()  # names count from 0
        entry = keras.Input((4, 6), name="x")
        return keras.Model(entry, make(keras.ops, entry))


def read_and_predict(make, folder):
    model = functional(make)
    x = np.random.default_rng(0).integers(-16, 17, (10, 4, 6)).astype(np.float32) / 4
    found = read_keras(hgq_models.save(model, folder / "m.keras"))
    values = evaluate_real(found, {"x": x})
    return zip([values[i] for _, i in found.outputs], hgq_models.predicted(model, x))


@pytest.mark.parametrize("case", EXACT)
def test_exact(case, tmp_path):
    for found, wanted in read_and_predict(EXACT[case], tmp_path):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", CLOSE)
def test_close(case, tmp_path):
    for found, wanted in read_and_predict(CLOSE[case], tmp_path):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_residual_network_compiles(tmp_path):
    """``x + relu(dense(x))`` behind a quantizer, through an engine."""
    with framework() as (keras, layers, config):
        entry = keras.Input((6,), name="x")
        x = layers.Quantizer(config.QuantizerConfig("kif", "datalane", heterogeneous_axis=()))(entry)
        model = keras.Model(entry, x + keras.ops.relu(layers.QDense(6)(x)))
        hgq_models.draw_bits(np.random.default_rng(1), model)
    x = np.random.default_rng(2).uniform(-3, 3, (40, 6)).astype(np.float32)
    np.testing.assert_array_equal(hc.compile(model, backends="cpu").predict(x), hgq_models.predicted(model, x)[0])


REFUSED = {
    "unknown": (lambda o, z: o.cumsum(z, axis=1), "cumsum (Cumsum): the operation is not supported; supported: Abs, "),
    "all axes": (lambda o, z: o.sum(z), "sum (Sum): axis must be given: over all axes it would mix events; name the axes"),
    "events": (lambda o, z: z[:3, 1:], "(GetItem): the batch axis must be taken whole, as in x[:, 1:]"),
    "batch": (lambda o, z: o.mean(z, axis=0), "mean (Mean): axis must be one of the 2 axes behind the batch axis, not 0"),
    "order": (lambda o, z: o.transpose(z), "(Transpose): axes must be an order of 0 to 2 that begins with 0, not None"),
    "reshape": (lambda o, z: o.reshape(z, (-1,)), "newshape must be [-1, ...]: the batch axis stays, not [-1]; use the layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    make, sentence = REFUSED[case]
    with pytest.raises(hc.CompileError) as e:
        read_keras(hgq_models.save(functional(make), tmp_path / "m.keras"))
    assert sentence in str(e.value)


def test_a_number_that_is_none(tmp_path):
    """Arguments in the file are data: neither text nor nested objects become numbers."""
    path = hgq_models.save(functional(lambda o, z: z + 1.5), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as z:
        files = {name: z.read(name) for name in z.namelist()}
    for value in ('"x"', "[1, 2]", "null", '{"class_name": "__numpy__", "config": 3}', "1e999"):
        config = files["config.json"].decode()
        changed = config.replace("1.5]", f"{value}]")
        assert json.loads(changed) != json.loads(config)
        with zipfile.ZipFile(tmp_path / "n.keras", "w") as z:
            for name, content in {**files, "config.json": changed}.items():
                z.writestr(name, content)
        with pytest.raises(hc.CompileError):
            read_keras(tmp_path / "n.keras")


def test_every_operation_is_in_a_test(tmp_path):
    used = set()
    for make in (*EXACT.values(), *CLOSE.values()):
        used |= {type(v).__name__ for v in functional(make).operations}
    assert len(used & set(OPERATIONS)) >= 30
