"""hls4ml's converted models, its configurations and its backend plug-in, against its own C simulation, bit for bit."""

import copy

import numpy as np
import pytest
from hls4ml_models import (
    converted,
    default_configuration,
    dense_model,
    hgq2_network,
    many_layers,
    quietly,
    saved,
    simulated,
)

import hwcompile as hc
from hwcompile.frontends.hls4ml import LAYERS
from hwcompile.frontends.hls4ml_config import read_configuration

TYPED = {
    "a": {"Precision": {"weight": "ap_fixed<6,1>", "bias": "ap_fixed<8,2>", "result": "ap_fixed<12,4,AP_RND,AP_SAT>"}},
    "b_tanh": {"Precision": {"result": "ap_fixed<8,1>"}, "TableSize": 256},
    "o": {"ReuseFactor": 4, "Strategy": "Resource"},
}
CONFIGURATIONS = {
    "types by name": lambda c: {**c, "LayerName": {k: {**v, **TYPED.get(k, {})} for k, v in c["LayerName"].items()}},
    "one type for all": lambda c: {"Model": {"Precision": "ap_fixed<16,6>", "ReuseFactor": 1, "Strategy": "Latency"}},
    "auto": lambda c: c,
}


def data(shape, events=200, seed=0):
    return np.random.default_rng(seed).normal(size=(events, *shape))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    model = many_layers()
    configuration = default_configuration(model)
    for name in ("logits", "softmax"):
        entry = configuration["LayerName"][name]
        entry["Precision"]["result"] = "ap_fixed<10,4>"
    graph = converted(model, configuration, tmp_path_factory.mktemp("vitis") / "all")
    events = {"v": data((6,)), "i": data((6, 5, 2))}
    x = [events[n[0]] for n in graph.inputs]  # hls4ml calls them i_0 and v_0 where it has to
    return model, configuration, graph, x, simulated(graph, x)


def test_a_converted_model_equals_its_c_simulation(everything):
    _, _, graph, x, want = everything
    design = hc.compile(graph, backends="cpu,hls")
    events = dict(zip(graph.inputs, x))
    got = list(design.predict(events).values())
    assert len(got) == len(want) > 20
    wrong = {graph.outputs[k]: int((g.reshape(len(g), -1) != w).sum()) for k, (g, w) in enumerate(zip(got, want))}
    assert wrong == dict.fromkeys(wrong, 0)
    assert all(len(np.unique(w)) > 3 for w in want)
    assert [r.mismatches for r in design.verify(events).results] == [0, 0, 0]


def test_the_backend_gives_the_same_through_hls4mls_own_functions(everything, tmp_path):
    model, configuration, _, x, want = everything
    graph = converted(model, configuration, tmp_path / "ours", backend="hwcompile", part="xcvu13p-flga2577-2-e")
    got = simulated(graph, x)
    for g, w in zip(got, want):
        np.testing.assert_array_equal(g, w)
    assert (tmp_path / "ours" / "hls" / "firmware").is_dir()


def test_the_backend_schedules_builds_and_refuses(tmp_path):
    model = dense_model()
    configuration = default_configuration(model)
    configuration["LayerName"]["o"]["ReuseFactor"] = 4
    settings = {"backend": "hwcompile", "backends": "rtl,hls,cpu", "part": "xcvu9p-flga2104-2L-e", "clock_period": 4}
    graph = converted(model, configuration, tmp_path / "ours", **settings)
    report = graph.build(synth=False)
    assert report["timing"]["clock_ns"] == 4
    assert [r["mismatches"] for r in report["verification"]] == [0] * len(report["verification"])
    assert [(s["name"], s["strategy"], s["reuse"]) for s in report["schedule"]["layers"] if s["reuse"] > 1] == [
        ("o_product", "resource", 4)
    ]
    with pytest.raises(hc.CompileError, match="build takes synth, not 'cosim'"):
        graph.build(cosim=True)
    with pytest.raises(hc.CompileError, match="'xc7'"):
        simulated(converted(model, configuration, tmp_path / "other", backend="hwcompile", part="xc7"), data((6,)))


@pytest.mark.parametrize(
    "name", ["types by name", *(pytest.param(n, marks=pytest.mark.slow) for n in ("one type for all", "auto"))]
)
def test_a_configuration_gives_what_hls4ml_gives(name, tmp_path):
    model, x = dense_model(), data((6,))
    configuration = CONFIGURATIONS[name](default_configuration(model))
    (want,) = simulated(converted(model, configuration, tmp_path / "vitis"), x)
    saved(model, tmp_path / "model.keras")
    design = hc.compile(tmp_path / "model.keras", hls4ml=configuration, backends="cpu,hls")
    np.testing.assert_array_equal(design.predict(x), want)
    if name == "types by name":
        assert design.schedule.layers["o"].reuse == 4
        assert [r.mismatches for r in design.verify(x).results] == [0, 0, 0]


def test_a_yaml_file(tmp_path):
    model = dense_model()
    saved(model, tmp_path / "model.keras")
    text = """
        ProjectName: jets
        Part: xcku115-flvb2104-2-i
        ClockPeriod: 4
        IOType: io_parallel
        HLSConfig:
          Model: {Precision: "ap_fixed<14,5>", ReuseFactor: 1}
          LayerType: {Dense: {Precision: {accum: auto, result: auto}}}
    """
    (tmp_path / "hls4ml.yml").write_text(text)
    design = hc.compile(tmp_path / "model.keras", hls4ml=tmp_path / "hls4ml.yml", backends="cpu")
    assert (design.device.name, design.clock_ns) == ("ku115", 4)
    same = {
        "Model": {"Precision": "ap_fixed<14,5>"},
        "LayerType": {"Dense": {"Precision": {"accum": "auto", "result": "auto"}}},
    }
    x = data((6,))
    np.testing.assert_array_equal(
        design.predict(x), hc.compile(tmp_path / "model.keras", hls4ml=same, backends="cpu").predict(x)
    )


REFUSALS = {
    "unknown": ({"Model": {"Precison": "x"}}, "the key 'Precison' is not known; known here: Precision"),
    "top": ({"HLSConfig": {"Model": {}}, "Clock": 5}, "the key 'Clock' is not known"),
    "type": ({"Model": {"Precision": "ap_float<8>"}}, "must be a fixed-point or integer type, not 'ap_float<8>'"),
    "variable": ({"Model": {"Precision": {"wieght": "auto"}}}, "the key 'wieght' is not known"),
    "trace": (
        {"LayerType": {"Dense": {"Trace": True}}},
        "'Trace' must be False: compare engines with 'hwcompile verify'",
    ),
    "stream": ({"LayerName": {"a": {"ConvImplementation": "Encoded"}}}, "'ConvImplementation' must be LineBuffer"),
    "strategy": ({"Model": {"Strategy": "Fast"}}, "the strategy 'Fast' is not known"),
    "reuse": ({"Model": {"ReuseFactor": 0}}, "'ReuseFactor' must be a whole number from 1, not 0"),
    "io": ({"HLSConfig": {}, "IOType": "io_serial"}, "'IOType' must be io_parallel or io_stream"),
    "passes": ({"HLSConfig": {"Optimizers": ["x"]}}, "'Optimizers' chooses passes of hls4ml"),
    "io kind": (
        {"HLSConfig": {}, "IOType": ["io_stream"]},
        "'IOType' must be io_parallel or io_stream, not ['io_stream']",
    ),
    "clock": ({"HLSConfig": {}, "ClockPeriod": "5 ns"}, "'ClockPeriod' must be a number of ns, not '5 ns'"),
    "clock kind": ({"HLSConfig": {}, "ClockPeriod": (1, 2)}, "'ClockPeriod' must be a number of ns, not (1, 2)"),
    "part": ({"HLSConfig": {}, "Part": 3}, "'Part' must be a part number, not 3"),
    "layers": ({"LayerName": "fc1"}, "'LayerName' must be a dictionary by names, not 'fc1'"),
    "kinds": ({"LayerType": ["Dense"]}, "'LayerType' must be a dictionary by names"),
    "layer": ({"LayerName": {3: {}}}, "'LayerName' must be a dictionary by names"),
    "line": ({"Model": {"Precision": "\n"}}, "must be a fixed-point or integer type, not '\\n'"),
    "text": ([3], "must be a dictionary"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_key_is_honoured_or_refused(name):
    given, text = REFUSALS[name]
    with pytest.raises(hc.CompileError) as caught:
        read_configuration(given)
    assert text in str(caught.value)


def test_layers_that_the_model_does_not_have(tmp_path):
    saved(dense_model(), tmp_path / "model.keras")
    for given, text in (
        ({"LayerName": {"c": {"ReuseFactor": 2}}}, "the model has no such layer; layers: a, a_activation, b"),
        ({"LayerType": {"Conv2D": {"ReuseFactor": 2}}}, "the model has no layer of this type; types: Activation, "),
        ({"Model": {"ReuseFactor": 4}}, "so that no multiplier can be shared"),
        (
            {"Model": {"Precision": {"default": "ap_fixed<16,6>", "accum": "ap_fixed<24,3,AP_TRN,AP_SAT>"}}},
            "may saturate on the way",
        ),
    ):
        with pytest.raises(hc.CompileError) as caught:
            hc.compile(tmp_path / "model.keras", hls4ml=given, backends="cpu")
        assert text in str(caught.value)
    (tmp_path / "bad.yml").write_text("!!python/object/apply:os.system ['touch hacked']")
    with pytest.raises(hc.CompileError, match="is no plain YAML file"):
        hc.compile(tmp_path / "model.keras", hls4ml=tmp_path / "bad.yml", backends="cpu")


def test_layers_are_named_where_they_are_not_read():
    with quietly():
        import keras
        from keras import layers

        x = keras.Input((4, 3))
        model = keras.Model(x, layers.LSTM(2, name="memory")(x))
    graph = converted(model, default_configuration(model), "unused")
    with pytest.raises(hc.CompileError, match=r"memory \(LSTM\): the layer is not supported; supported: Activation"):
        hc.load(graph)
    assert len(LAYERS) > 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shallow", "deep", "wide", "residual", "convolution"])
def test_networks_that_both_read_agree(kind, tmp_path):
    """The file read here, hls4ml's graph read here, hls4ml's C simulation and the framework itself."""
    model, x = hgq2_network(kind)
    saved(model, tmp_path / "model.keras")
    graph = converted(model, {"Model": {"Precision": "ap_fixed<16,6>", "ReuseFactor": 1}}, tmp_path / "vitis")
    (want,) = simulated(graph, x)
    assert len(np.unique(want)) > 10
    for source in (tmp_path / "model.keras", graph):
        np.testing.assert_array_equal(hc.compile(source, backends="cpu").predict(x), want)
    with quietly():
        np.testing.assert_array_equal(np.asarray(model.predict(x, verbose=0)), want)


ODD = (None, [], {}, 0, -1, 2**70, 1.5, float("nan"), "", "auto", "ap_fixed<0,0>", "ap_fixed<8,3", "ap_fixed<8,3,AP_RND,FOO>",
       True, [1], {"a": 1}, b"x", (1, 2), "Resource", "1", np.int64(4), "<>", "ufixed<8,0,RND_CONV,SAT>")  # fmt: skip


def _places(given, path=()):
    for key, value in given.items() if isinstance(given, dict) else ():
        yield (*path, key)
        yield from _places(value, (*path, key))


def test_odd_values_in_any_place_are_refused_or_work(tmp_path):
    """500 random changes of a valid configuration."""
    saved(dense_model(), tmp_path / "model.keras")
    model, rng = hc.load(tmp_path / "model.keras"), np.random.default_rng(0)
    layer = {"Precision": {"weight": "ap_fixed<8,3>", "result": "auto"}, "ReuseFactor": 1, "Strategy": "Latency"}
    valid = {"HLSConfig": {"Model": {"Precision": {"default": "ap_fixed<16,6>"}, "ReuseFactor": 1},
                           "LayerName": {"a": layer, "a_activation": {"Precision": {"result": "ap_fixed<10,4>"}, "TableSize": 512}},
                           "LayerType": {"Dense": {"ReuseFactor": 1}}},
             "Part": "xcvu9p-flga2104-2-e", "ClockPeriod": 5, "IOType": "io_parallel"}  # fmt: skip
    worked, refused = 0, []
    for _ in range(500):
        given = copy.deepcopy(valid)
        for _ in range(rng.integers(1, 3)):
            places = list(_places(given))
            *path, key = places[rng.integers(len(places))]
            inner = given
            for step in path:
                inner = inner[step]
            inner[key] = ODD[rng.integers(len(ODD))]
        try:
            hc.compile(model, hls4ml=given, backends=())
            worked += 1
        except hc.CompileError as e:
            refused.append(str(e))
    assert len(refused) > 100
    assert worked > 10
    assert not any("\n" in sentence for sentence in refused)
