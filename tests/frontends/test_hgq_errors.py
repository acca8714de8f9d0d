"""What an HGQ2 file must not hold: one sentence each, and damage never escapes. No framework is needed."""

import copy
import json
import random

import keras_models as k
import numpy as np
import pytest
from test_keras_errors import damaged, outcome, refused

import hwcompile as hc
from hwcompile.frontends.hgq import HGQ_REFUSED
from hwcompile.frontends.keras import read_keras

KERNEL = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 1.0]])


def quantizer(q_type="kif", place="datalane", **given):
    values = {"q_type": q_type, "place": place, "scaler": None, "affine": None, "qnoise_factor": None, "k0": True}
    values |= {"round_mode": "RND", "overflow_mode": "SAT", "is_weight": place == "weight", "trainable": True}
    return {"module": "hgq.quantizer.config", "class_name": "QuantizerConfig", "config": {**values, **given}}


def of_hgq(kind, name, inputs=("x",), **config):
    return {**k.layer(kind, name, inputs, **config), "module": "hgq.layers"}


def dense(**given):
    confs = {"iq_conf": quantizer(), "kq_conf": quantizer("kbi", "weight"), "bq_conf": quantizer("kbi", "bias")}
    settings = {
        "units": 2,
        "use_bias": True,
        "enable_ebops": True,
        "ebops_factor": 1.0,
        "enable_iq": True,
        "enable_oq": False,
    }
    return of_hgq("QDense", "d", **{**settings, "activation": "relu", "oq_conf": None, "beta0": None, **confs, **given})


def bits(shape, first, second, kept=1):
    return [np.full(shape, first), np.full(shape, second), np.full(shape, kept, np.uint8)]


def groups(**given):
    found = {
        "layers/q_dense": [KERNEL, [0.5, -0.5], [1e-5], [0.0]],
        "layers/q_dense/iq/quantizer": bits((1, 3), 2, 3),
        "layers/q_dense/kq/quantizer": bits((3, 2), 4, 2),
        "layers/q_dense/bq/quantizer": bits((2,), 4, 2),
    }
    return {**found, **{f"layers/q_dense/{name}/quantizer": v for name, v in given.items()}}


def written(folder, layer, stored=None):
    return k.write_keras(folder / "m.keras", k.functional(k.entry(3), layer), groups() if stored is None else stored)


def test_a_file_by_hand(tmp_path):
    """The model that the other tests damage is sound, and its numbers are those of its bits."""
    design = hc.compile(written(tmp_path, dense()), backends=())
    x = np.array([[0.26, -9.0, 1.0], [3.99, 0.1, 0.0]])
    q = np.clip(np.floor(x * 8 + 0.5) / 8, -4, 3.875)
    np.testing.assert_array_equal(design.predict(x), np.maximum(q @ KERNEL + [0.5, -0.5], 0))


CASES = {
    "unknown key": (dense(speed=3), "d (QDense): the configuration key 'speed' is not known; known here: "),
    "unknown class": (of_hgq("QMystery", "m"), "m (QMystery): this layer of HGQ2 is not supported: its class is not known; sup"),
    "float": (
        dense(iq_conf=quantizer("float")),
        "d (QDense): iq_conf: a float quantizer has no fixed-point grid; train with q_type kbi or kif",
    ),
    "type": (dense(iq_conf=quantizer("kfc")), "d (QDense): iq_conf: q_type must be kbi, kif or dummy, not 'kfc'"),
    "key of a quantizer": (dense(iq_conf=quantizer(speed=1)), "d (QDense): iq_conf: the configuration key 'speed' is not known"),
    "class of a quantizer": (
        dense(iq_conf={"class_name": "Mine", "config": {}}),
        "d (QDense): iq_conf: must be one of QuantizerConfig, HardTanhConfig, HardSigmoidConfig, not 'Mine'; save the model",
    ),
    "no quantizer": (dense(iq_conf=None), "d (QDense): iq_conf: must be an object with class_name and config, not 'None'"),
    "rounding": (dense(iq_conf=quantizer(round_mode="UP")), "iq_conf: round_mode must be one of TRN, TRN_ZERO, RND, "),
    "overflow": (
        dense(iq_conf=quantizer(overflow_mode="WRAP_SM")), "overflow_mode must be one of WRAP, SAT, SAT_SYM, not 'WRAP_SM'",
    ),
    "scaler": (dense(iq_conf=quantizer(scaler=-1.0)), "iq_conf: scaler must be positive and the factor of affine not 0"),
    "affine": (dense(iq_conf=quantizer(affine=[1.0])), "iq_conf: affine must be two numbers, not [1.0]"),
    "mapper": (
        dense(iq_conf=quantizer(bw_mapper={"class_name": "Mine"})),
        "d (QDense): iq_conf: bw_mapper must be the default one; train without a mapper of your own",
    ),
    "frozen weights that wrap": (
        dense(trainable=False, kq_conf=quantizer("kif", "weight", overflow_mode="WRAP")),
        "d (QDense): kq_conf: a WRAP quantizer of frozen weights wraps before the model is saved and not after; set trainable",
    ),
    "costs": (dense(enable_ebops=False), "d (QDense): must have the 2 weights ['kernel', 'bias'] in the file, not 4; save"),
    "no output quantizer": (dense(enable_oq=True, oq_conf=quantizer()), "oq_conf: its bit widths must be in the file; save"),
    "units": (dense(units=3), "d (QDense): the weights 'kernel' must have shape [3, 3], not [3, 2]"),
    "wrapper": (
        k.layer("TimeDistributed", "w", ["x"], layer={"class_name": "QDense", "module": "hgq.layers", "config": {}}),
        "w (TimeDistributed): its layer QDense is one of HGQ2; use it without the wrapper",
    ),
    "function of the user": (
        of_hgq("QUnaryFunctionLUT", "t", activation={"class_name": "function", "config": "mine"}, enable_iq=False),
        "t (QUnaryFunctionLUT): its function must be one of Keras by name: a function of yours is not in the file; name one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers(tmp_path, case):
    layer, sentence = CASES[case]
    stored = groups(kq=[*bits((3, 2), 4, 2)[:1], np.ones((3, 2), np.uint8), np.ones((3, 2)), [0.0]])
    assert sentence in refused(written(tmp_path, layer, stored if case.startswith("frozen") else None))


VARIABLES = {
    "missing": ({"iq": []}, "d (QDense): iq_conf: must have the 3 weights ['i', 'f', 'k'] in the file, not 0; save"),
    "sign": ({"iq": bits((1, 3), 2, 3, 2)}, "d (QDense): iq_conf: its variable 'k' must be 0 or 1 and of an unsigned type; save"),
    "order": ({"iq": bits((1, 3), 2, 3)[::-1]}, "its variable 'k' must be 0 or 1 and of an unsigned type; save the model again"),
    "shapes": ({"iq": [*bits((1, 3), 2, 3)[:2], np.ones((1, 2), np.uint8)]}, "iq_conf: its variables must have one shape; save"),
    "data": ({"iq": bits((1, 4), 2, 3)}, "d (QDense): iq_conf: its bit widths [4] do not fit the shape [3]; save it again"),
    "batch": ({"iq": bits((2, 3), 2, 3)}, "iq_conf: its bit widths [2, 3] must be the same for all events; save it again"),
    "weights": ({"kq": bits((2, 2), 4, 2)}, "d (QDense): kq_conf: its bit widths [2, 2] do not fit the shape [3, 2]; save"),
    "wide": ({"iq": bits((1, 3), 2, 90)}, "iq_conf: the variable 'f' must hold widths of at most 60 bits; save it again"),
    "wide in sum": ({"iq": bits((1, 3), 40, 40)}, "iq_conf: must have at most 60 bits; limit the widths with ic, fc or bc"),
    "not a number": ({"iq": bits((1, 3), 2, np.nan)}, "the variable 'f' must hold widths of at most 60 bits; save it again"),
}  # fmt: skip


@pytest.mark.parametrize("case", VARIABLES)
def test_variables(tmp_path, case):
    given, sentence = VARIABLES[case]
    assert sentence in refused(written(tmp_path, dense(), groups(**given)))


@pytest.mark.parametrize("kind", sorted(HGQ_REFUSED))
def test_refused_layers_say_why(tmp_path, kind):
    message = refused(written(tmp_path, of_hgq(kind, "m")))
    assert f"m ({kind}): this layer of HGQ2 is not supported: {HGQ_REFUSED[kind]}; supported: QAdd, " in message


def test_legacy_files(tmp_path):
    """An .h5 file has no tree of variables."""
    path = k.write_h5(
        tmp_path / "m.h5", k.functional(k.entry(3), dense()), {"d": {"kernel": KERNEL, "bias": [0.5, -0.5]}}
    )
    assert "a model with layers of HGQ2 must be a .keras file; save it with model.save('model.keras')" in refused(path)


def test_classes_of_qkeras_are_others(tmp_path):
    """A QDense of QKeras does not know the keys of one of HGQ2."""
    layer = {**dense(), "module": "qkeras.qlayers"}
    path = k.write_h5(
        tmp_path / "m.h5", k.functional(k.entry(3), layer), {"d": {"kernel": KERNEL, "bias": [0.5, -0.5]}}
    )
    assert "is not known; known here: " in refused(path)


def test_damaged_configurations_never_escape(tmp_path):
    """Every change of a sound file is read or refused in a sentence."""
    table = of_hgq(
        "QUnaryFunctionLUT", "t", ["d"], activation="tanh", iq_conf=quantizer(), oq_conf=quantizer("kbi", "table"),
        enable_oq=True, enable_ebops=False,
    )  # fmt: skip
    stored = groups()
    stored |= {f"layers/q_unary_function_lut/{n}/quantizer": bits((1, 1), 3, 2) for n in ("iq", "oq")}
    model = k.functional(k.entry(3), dense(), table)
    path = k.write_keras(tmp_path / "m.keras", model, stored)
    assert len(read_keras(path).nodes) >= 7
    rng, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for _ in range(150):
        k.write_keras(path, json.loads(json.dumps(damaged(model, rng), allow_nan=True)), stored)
        outcomes[outcome(path)] += 1
    assert min(outcomes.values()) > 15


def test_damaged_variables_never_escape(tmp_path):
    rng, outcomes, model = random.Random(1), {"read": 0, "refused": 0}, k.functional(k.entry(3), dense())
    for _ in range(100):
        stored = copy.deepcopy(groups())
        name = rng.choice(list(stored))
        place = rng.randrange(len(stored[name]))
        value = rng.choice(
            [np.zeros(0), np.full((3, 2), 1e30), np.full((1, 3), -5.0), np.zeros((2, 2, 2)), np.nan, 7.0]
        )
        stored[name][place] = np.asarray(value)
        outcomes[outcome(k.write_keras(tmp_path / "m.keras", model, stored))] += 1
    assert min(outcomes.values()) > 5
