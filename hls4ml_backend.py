"""hwcompile as a backend of hls4ml: ``convert_from_keras_model(model, backend="hwcompile", ...)`` where hls4ml is installed.

hls4ml reads the model and chooses the types, as for Vitis; what it has chosen is compiled here. `compile` builds the engine that
`predict` runs, `write` writes the project, `build` verifies and synthesizes. The entry point "hls4ml.backends" names `register`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .codegen.schedule import LayerSchedule, Schedule
from .design import Design
from .driver import compile as compile_model
from .frontends.hls4ml import read_hls4ml
from .ir.errors import CompileError
from .ir.graph import clean_name

__all__ = ["design_of", "register"]

_STRATEGIES = {
    "latency": "latency",
    "resource": "resource",
    "resource_unrolled": "resource",
    "unrolled": "resource",
    "distributed_arithmetic": "distributed",
}
_DEFAULT_UNCERTAINTY = "27%"


def register(register_backend: Any, register_writer: Any) -> None:
    """What hls4ml calls when it looks for backends: adds the backend and its writer."""
    from hls4ml.backends import VitisBackend
    from hls4ml.backends.fpga.fpga_backend import FPGABackend
    from hls4ml.model.flow import get_flow, register_flow
    from hls4ml.writer.writers import Writer

    class HwcompileWriter(Writer):
        """Writes the project into hls4ml's output folder."""

        def write_hls(self, model: Any) -> None:
            design_of(model).write(model.config.get_output_dir(), overwrite=True)

    class HwcompileBackend(VitisBackend):
        """The Vitis flow up to the chosen types, and hwcompile from there."""

        def __init__(self) -> None:
            FPGABackend.__init__(self, name="Hwcompile")
            self._register_layer_attributes()
            requires = get_flow("vitis:ip").requires.copy()
            self._default_flow = register_flow("ip", None, requires=requires, backend=self.name)
            passes = ["make_stamp", f"{self.name.lower()}:write_hls"]
            self._writer_flow = register_flow("write", passes, requires=[self._default_flow], backend=self.name)

        def create_initial_config(self, **settings: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
            backends = settings.pop("backends", "hls,cpu")
            return {**super().create_initial_config(**settings), "Backends": backends}

        def compile(self, model: Any) -> str:
            library = design_of(model).cpu.library
            if library is None:
                raise CompileError("hls4ml backend", "needs a C++ compiler", "install g++ or set CXX")
            return str(library)

        def predict(self, model: Any, x: Any) -> Any:
            return _predicted(design_of(model), model, x)

        def build(self, model: Any, synth: bool = True, **settings: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Verify every engine, synthesize the Verilog where it is among the backends, and return the report."""
            unknown = [k for k, v in settings.items() if v and k not in ("csim", "reset")]
            if unknown:
                raise CompileError(
                    "hls4ml backend", f"build takes synth, not '{unknown[0]}'", "use the written project"
                )
            design = design_of(model)
            design.verify()
            if synth and "rtl" in design.backends:
                design.synthesize()
            model.write()
            return json.loads(design.report.as_json())

    register_writer("Hwcompile", HwcompileWriter)
    register_backend("Hwcompile", HwcompileBackend)


def design_of(model: Any) -> Design:
    """The design of a converted hls4ml model; it is kept with the model."""
    if "_hwcompile" not in vars(model):
        config = model.config
        uncertainty = config.get_config_value("ClockUncertainty")
        if uncertainty not in (None, _DEFAULT_UNCERTAINTY):
            rule = (
                f"must be left at {_DEFAULT_UNCERTAINTY}, not {uncertainty}: the margin belongs to the device's model"
            )
            raise CompileError("ClockUncertainty", rule, "give a shorter ClockPeriod")
        names = tuple(b.strip() for b in str(config.get_config_value("Backends") or "hls,cpu").split(","))
        model._hwcompile = compile_model(
            read_hls4ml(model),
            str(config.get_config_value("Part")),
            float(config.get_config_value("ClockPeriod")),
            backends=names,
            schedule=_schedule(model) if "hls" in names else None,
        )
    return model._hwcompile


def _schedule(model: Any) -> Schedule:
    """IOType, and the reuse factor and strategy of each layer with a matrix."""
    architecture = {"io_parallel": "parallel", "io_stream": "stream"}[model.config.get_config_value("IOType")]
    layers: dict[str, LayerSchedule] = {}
    for node in model.get_layers():
        if "weight" not in node.weights and "depthwise" not in node.weights:
            continue
        asked, reuse = str(node.get_attr("strategy", "latency")).lower(), int(node.get_attr("reuse_factor", 1))
        if asked not in _STRATEGIES:
            raise CompileError(node.name, f"the strategy '{asked}' is not known", f"known: {', '.join(_STRATEGIES)}")
        strategy = "resource" if reuse > 1 and _STRATEGIES[asked] == "latency" else _STRATEGIES[asked]
        if strategy != "latency":
            layers[f"{clean_name(node.name).replace('.', '_')}_product"] = LayerSchedule(strategy, reuse)
    return Schedule(architecture, layers)


def _predicted(design: Design, model: Any, x: Any) -> Any:
    """As hls4ml gives it: flat outputs per event, a list where there are several, no event axis for one event."""
    by_name = {design.graph.nodes[i].name: design.graph.nodes[i].type.shape for i in design.graph.inputs}
    names = [clean_name(n).replace(".", "_") for n in model.inputs]
    shapes = [by_name[n] for n in names]
    given = [np.asarray(v) for v in (x if isinstance(x, list | tuple) else [x])]
    events = {n: v.reshape((-1, *s)) for n, v, s in zip(names, given, shapes)}
    found = design.predict(events)
    outputs = list(found.values()) if isinstance(found, dict) else [found]
    flat = [o.reshape(len(o), -1).astype(given[0].dtype) for o in outputs]
    flat = [o[0] if len(o) == 1 else o for o in flat]
    return flat[0] if len(flat) == 1 else flat
