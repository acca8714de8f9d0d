"""Reads PyTorch modules and exported programs into a `RealModel`; it knows torch.export and which values are constant.

Readers of single ATen operators are in the torch_* files beside it; layers of quantization libraries become plain torch first.
"""

from __future__ import annotations

import copy
import inspect
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..ir.errors import CompileError
from ..ir.rounding import Rounding
from .onnx import output_name
from .onnx_context import Ref
from .real import Input, Quant, RealBuilder, RealModel
from .torch_context import BATCH, Call, Known, Sizes
from .torch_functions import FUNCTIONS
from .torch_layers import LAYERS
from .torch_layout import LAYOUT, MOVES
from .torch_modules import first_line, own_class
from .torch_quantizers import QUANTIZERS, fake_quantizers
from .torch_recurrent import RECURRENT
from .torch_reductions import REDUCTIONS

__all__ = ["ATEN", "is_torch", "read_torch"]

ATEN = {**FUNCTIONS, **LAYERS, **LAYOUT, **REDUCTIONS, **RECURRENT, **QUANTIZERS}
"""Every ATen overload that is read, and the function that reads it."""

EXAMPLES = "give example inputs, such as hc.compile(module, example_inputs=x) with x of shape [events, ...]"


def is_torch(model: Any) -> bool:
    """A torch module or an exported program, told by the names of its classes, without torch."""
    names = [f"{c.__module__}.{c.__name__}" for c in type(model).__mro__]
    return "torch.nn.modules.module.Module" in names or "torch.export.exported_program.ExportedProgram" in names


def read_torch(model: Any, example_inputs: Any = None) -> RealModel:
    """The model of a ``torch.nn.Module`` or a ``torch.export.ExportedProgram``.

    `example_inputs`: one tensor or array ``[events, ...]``, a tuple of them, or a dict by the names of forward's arguments;
    an exported program needs none. A module is exported in eval mode from a copy: the module itself is not changed.
    Raises `CompileError` for anything that is not understood, naming the operator.
    """
    import torch

    name = type(model).__name__
    if own_class(model, "keras") is not None:
        raise CompileError(name, "is a live Keras model", "save it with model.save('model.keras') and give the file")
    if isinstance(model, torch.jit.ScriptModule):
        raise CompileError(name, "is a TorchScript module, which torch.export does not take", "give the module itself")
    program = _exported(model, example_inputs) if isinstance(model, torch.nn.Module) else _functional(model)
    found = _Reader(program, getattr(program.graph_module, "name", None) or name)
    return found.model()


# ---- export -----------------------------------------------------------------------------------------------------------


def _exported(module: Any, example_inputs: Any) -> Any:
    """The program of a copy of the module: for any number of events where torch can, else for one event."""
    import torch

    if example_inputs is None:
        raise CompileError(type(module).__name__, "a torch module does not say the shapes of its inputs", EXAMPLES)
    arguments, named = _arguments(module, example_inputs)
    plain = _plain(_copied(module).eval(), arguments, named)
    with warnings.catch_warnings(), torch.no_grad(), _quiet(), _slow_attention(), fake_quantizers():
        warnings.simplefilter("ignore")
        try:
            return _export(plain, *_events(arguments, named, BATCH), dynamic=True)
        except Exception:  # torch raises any kind where an operator fixes the number of events
            try:
                return _export(plain, *_events(arguments, named, 1), dynamic=False)
            except Exception as e:
                raise _refused(type(module).__name__, e) from None


def _export(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], dynamic: bool) -> Any:
    """The program of a module; `dynamic`: for any number of events."""
    import torch

    shapes = None
    if dynamic:
        batch, found = torch.export.Dim("batch"), torch.export.ShapesCollection()
        for t in _leaves([arguments, list(named.values())]):
            if isinstance(t, torch.Tensor):
                found[t] = {0: batch}
        shapes = found.dynamic_shapes(module, arguments, named)
    return _functional(torch.export.export(module, arguments, named, dynamic_shapes=shapes))


def _functional(program: Any) -> Any:
    """The program with nothing that changes in place, and every operator on data that no reader knows decomposed."""
    import torch

    inputs = set(program.graph_signature.user_inputs)
    data = {n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs}
    for node in program.graph.nodes:  # in order, so that one pass finds all that depends on data
        on_data = any(n in data for n in node.all_input_nodes)
        if node.op != "call_function" or str(node.target) in _QUIET:
            continue
        data.update({node} if on_data else ())
        schema = getattr(node.target, "_schema", None)
        if schema is not None and str(node.target) not in _KNOWN and (on_data or schema.is_mutable):
            table = torch.export.default_decompositions()
            return program.run_decompositions({op: rule for op, rule in table.items() if str(op) not in _KNOWN})
    return program


def _copied(module: Any) -> Any:
    """A deep copy; tensors that hooks computed (pruning, weight norm) are copied by value."""
    import torch

    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def _plain(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The module with the layers of quantization libraries turned into plain torch with the operator that rounds."""
    from .brevitas import has_brevitas, plain_brevitas
    from .pquant import has_pquant, plain_pquant
    from .torch_quantizers import plain_fake_quantizers

    for part in list(module.modules()):
        if hasattr(part, "freeze_quantizers"):  # those of optimize: constants cost the export nothing
            part.freeze_quantizers()
    if has_brevitas(module):
        module = plain_brevitas(module, arguments, named)
    if has_pquant(module):
        module = plain_pquant(module, arguments, named)
    return plain_fake_quantizers(module)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of torch's about an export that is tried in another way, or refused in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Attention as separate operators: the fused one of inference is opaque."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _arguments(module: Any, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, named) arguments of forward, as tensors of the module's own float type."""
    import torch

    floats = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

    def tensor(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(tensor(v) for v in value)
        if not isinstance(value, np.ndarray | torch.Tensor):
            return value
        try:
            found = torch.as_tensor(value).detach().cpu()
        except (TypeError, NotImplementedError) as e:  # no numbers; a meta tensor, which has none
            raise CompileError("example_inputs", f"must be arrays of numbers: {str(e)[:80]}", EXAMPLES) from None
        if not found.ndim:
            raise CompileError("example_inputs", "must have the events along their first axis, not no axes", EXAMPLES)
        return found.to(floats) if floats is not None and found.is_floating_point() else found

    if not isinstance(example_inputs, Mapping):
        given = tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)
        return tuple(tensor(v) for v in given), {}
    values = {k: tensor(v) for k, v in example_inputs.items()}
    try:
        bound = inspect.signature(module.forward).bind(**values)
    except TypeError as e:
        raise CompileError("example_inputs", f"must name forward's arguments: {e}", EXAMPLES) from None
    return bound.args, bound.kwargs


def _events(arguments: tuple[Any, ...], named: dict[str, Any], events: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with so many copies of the first event, or of zeros where there is none."""
    import torch

    def first(v: Any) -> Any:
        if isinstance(v, list | tuple):
            return type(v)(first(x) for x in v)
        if not isinstance(v, torch.Tensor):
            return v
        one = v[:1] if len(v) else torch.zeros((1, *v.shape[1:]), dtype=v.dtype)
        return one.repeat_interleave(events, dim=0)

    return tuple(first(v) for v in arguments), {k: first(v) for k, v in named.items()}


def _refused(name: str, error: Exception) -> CompileError:
    """torch's reason in one sentence."""
    if isinstance(error, CompileError):
        return error
    text = str(error)
    if "data-dependent" in text.lower() or "Dynamic control flow" in text or ".item()" in text:
        rule = "its forward decides in Python by values (if, loops or .item() on data), which hardware cannot"
        return CompileError(name, rule, "use torch.where, or make the value a constant")
    if type(error).__name__ == "UnsupportedOperatorException":
        return CompileError(name, f"torch.export does not take the operator {error}", "use another operator")
    rule = f"torch.export does not take it with these example inputs ({first_line(error)})"
    return CompileError(name, rule, "check that module(*example_inputs) runs")


# ---- reading ----------------------------------------------------------------------------------------------------------

_IGNORED = ("aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range.default",
            "aten.sym_constrain_range_for_size.default", "aten._assert_async.msg")  # fmt: skip
"""Checks that change no value."""

_QUIET = frozenset((*_IGNORED, "aten.sym_size.int"))
"""Operators that make no value of an event."""

_FILLS = frozenset((
    "aten.zeros.default", "aten.ones.default", "aten.full.default", "aten.zeros_like.default", "aten.ones_like.default",
    "aten.full_like.default", "aten.new_zeros.default", "aten.new_ones.default", "aten.new_full.default", "aten.expand.default",
    "aten.empty.memory_format", "aten.new_empty.default", "aten.empty_like.default", "aten.scalar_tensor.default",
))  # fmt: skip
"""Operators that may make a constant for each event: all of them alike."""

_LIKE = ("aten.zeros_like.default", "aten.ones_like.default", "aten.full_like.default", "aten.new_zeros.default",
         "aten.new_ones.default", "aten.new_full.default", "aten.empty_like.default", "aten.new_empty.default")  # fmt: skip
"""Operators that take only shape and type from their data operand."""

_LIMITS = {"torch.uint8": (0, 255), "torch.int8": (-128, 127), "torch.int16": (-32768, 32767), "torch.bool": (0, 1),
           "torch.uint16": (0, 65535)}  # fmt: skip
_WHOLE = ("torch.int32", "torch.int64")
_FLOATS = ("torch.float32", "torch.float64")


_KNOWN = frozenset((*ATEN, *_LIKE))
"""Operators that need no decomposition."""


class _Reader:
    """Walks an exported program from its inputs to its outputs."""

    def __init__(self, program: Any, name: str) -> None:
        self.program, self.builder, self.names = program, RealBuilder(name), dict[str, int]()
        self.values: dict[Any, Any] = {}
        self.sizes = self._sizes()

    def model(self) -> RealModel:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "get_attr":
                raise CompileError(node.name, "holds a part of a program (control flow), which is not supported")
            elif node.op == "call_function" and str(node.target) not in _IGNORED:
                self.values[node] = self._call(node)
        return self.builder.model(self._outputs())

    # ---- inputs and outputs -------------------------------------------------------------------------------------------

    def _sizes(self) -> Sizes:
        """The symbol of the number of events; one for all inputs."""
        inputs = set(self.program.graph_signature.user_inputs)
        found: dict[str, Any] = {}
        for node in self.program.graph.nodes:
            value = node.meta.get("val")
            if node.op != "placeholder" or node.name not in inputs or not hasattr(value, "shape"):
                continue
            if not value.ndim:
                raise CompileError(f"input {node.name}", "must have the events along its first axis", EXAMPLES)
            symbols = [getattr(getattr(n, "node", None), "expr", None) for n in value.shape]
            if any(s is not None and not s.is_Integer for s in symbols[1:]):
                raise CompileError(f"input {node.name}", "only the first axis may have a dynamic size", "export it so")
            if symbols[0] is not None and not symbols[0].is_Integer:
                found[str(symbols[0])] = symbols[0]
            elif int(value.shape[0]) != 1:
                fix = "export it with a dynamic first axis, or for one event"
                raise CompileError(f"input {node.name}", f"is for exactly {int(value.shape[0])} events", fix)
        if len(found) > 1:
            raise CompileError("inputs", "must share one dynamic first axis", "export them with one Dim")
        return Sizes(next(iter(found.values()), None))

    def _placeholder(self, node: Any) -> Any:
        signature = self.program.graph_signature
        for table, source in (
            (signature.inputs_to_parameters, self.program.state_dict),
            (signature.inputs_to_buffers, {**self.program.constants, **self.program.state_dict}),
            (signature.inputs_to_lifted_tensor_constants, self.program.constants),
        ):
            if node.name in table:
                return Known(source[table[node.name]].detach().cpu())
        value = node.meta.get("val")
        if not hasattr(value, "shape"):
            return value  # a number that was given as an example stays as it is
        return self._input(node.name, value)

    def _input(self, name: str, value: Any) -> Ref:
        kind = str(value.dtype)
        if kind not in (*_FLOATS, *_WHOLE, *_LIMITS):
            raise CompileError(f"input {name}", f"must be float32, float64, bool or integers, not {kind}")
        shape = tuple(int(n) for n in value.shape[1:])
        index = self.builder.add(Input(shape, kind not in _FLOATS), name=name)
        if kind in _LIMITS:
            one, zero = np.asarray(1.0), np.zeros((), np.int64)
            index = self.builder.add(
                Quant(one, zero, *_LIMITS[kind], Rounding.RND_CONV), index, name=f"{name}.integers"
            )
        return Ref(index, batch=0)

    def _outputs(self) -> list[tuple[str, int]]:
        spec = self.program.call_spec.out_spec
        keys = spec.context if spec is not None and spec.type is dict else None
        results = [self.values.get(n) if hasattr(n, "meta") else n for n in self._results()]
        if keys is None or len(keys) != len(results):
            keys = ["output"] if len(results) == 1 else [f"output_{k}" for k in range(len(results))]
        outputs: list[tuple[str, int]] = []
        for key, value in zip(keys, results):
            if not isinstance(value, Ref):
                raise CompileError(f"output {key}", "must depend on an input", "return data only")
            if value.codes is not None:
                raise CompileError(f"output {key}", "is quantized integers", "return it behind a dequantizer")
            if value.joined or value.batch > 0:
                raise CompileError(f"output {key}", "must have the events along its first axis", "transpose it")
            outputs.append((output_name(str(key), [n for n, _ in outputs]), value.index))
        return outputs

    def _results(self) -> list[Any]:
        (node,) = (n for n in self.program.graph.nodes if n.op == "output")
        changed = self.program.graph_signature.buffers_to_mutate
        if changed:
            raise CompileError(next(iter(changed.values())), "changes from event to event", "keep no state in forward")
        return list(node.args[0])

    # ---- operators ----------------------------------------------------------------------------------------------------

    def _call(self, node: Any) -> Any:
        value = node.meta.get("val")
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        if not hasattr(node.target, "_schema") or type(value).__name__ in ("SymInt", "SymFloat", "SymBool"):
            return self._size(node, value)
        arguments = self._bound(node)
        kind, leaves = str(node.target), list(_leaves(arguments))
        constant = kind in _LIKE or not any(isinstance(v, Ref) for v in leaves)
        name = node.name if constant else self._name(node)
        call = Call(self.builder, name, node.target, arguments, value, self.sizes)
        if constant:
            return self._folded(call, kind)
        if kind not in ATEN:
            raise call.error("this operator is not supported on data", "docs/support.md lists those that are")
        self._check_types(call, value, kind)
        codes = next((v.codes for v in leaves if isinstance(v, Ref) and v.codes is not None), None)
        if codes is not None and kind not in (*MOVES, *_ON_CODES):
            raise call.error("would work on quantized integers", "put a dequantizer before it")
        try:
            found = ATEN[kind](call)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError, RuntimeError) as e:
            rule = f"its arguments do not fit each other ({type(e).__name__}: {e})"
            raise call.error(rule, "check the module") from e
        call.finish({a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()})
        if codes is None or kind in _ON_CODES:
            return found
        if codes.scale.size > 1:
            raise call.error("would move quantized integers with a scale per channel", "put a dequantizer before it")
        return [replace(v, codes=codes) for v in found] if isinstance(found, list) else replace(found, codes=codes)

    def _size(self, node: Any, value: Any) -> Any:
        if isinstance(value, bool | int | float) or self.sizes.shape([value], 1) is not None:
            return value
        raise CompileError(node.name, f"the size {value} must be a multiple of the number of events")

    def _bound(self, node: Any) -> dict[str, Any]:
        """Arguments by the names of the schema, nodes replaced by their values."""

        def value(v: Any) -> Any:
            if isinstance(v, list | tuple):
                return [value(x) for x in v]
            return self.values[v] if hasattr(v, "meta") else v

        names = [a.name for a in node.target._schema.arguments]
        return {**{k: value(v) for k, v in zip(names, node.args)}, **{k: value(v) for k, v in node.kwargs.items()}}

    def _name(self, node: Any) -> str:
        """The path of the torch layer that the node is the first operator of, else the node's own name."""
        stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if isinstance(v, tuple)]
        path, kind = (str(stack[-1][0]), str(stack[-1][1])) if stack else ("", "")
        if not path or "torch.nn.modules" not in kind or "container" in kind or path.startswith("_empty"):
            return node.name
        self.names[path] = self.names.get(path, 0) + 1
        return path if self.names[path] == 1 else f"{path}.{node.name}"

    def _folded(self, call: Call, kind: str) -> Any:
        """An operator on constants alone, run by torch; a quantizer of a constant keeps its integers."""
        import torch

        if kind in QUANTIZERS:
            return QUANTIZERS[kind](call)
        sized = any(hasattr(v, "node") for v in _leaves(call.arguments))
        if (sized or kind in _LIKE) and kind not in _FILLS:
            raise call.error("a constant must not depend on the number of events")
        if "rand" in kind or "bernoulli" in kind:
            raise call.error("random numbers are not supported", "make it a constant")

        def plain(v: Any) -> Any:
            if isinstance(v, list):
                return [plain(x) for x in v]
            if isinstance(v, Ref):
                return torch.empty(self.sizes.shape(call.value.shape, 1) or (), dtype=torch.float64)
            return v.tensor if isinstance(v, Known) else call.concrete(v, 1)

        arguments = {k: plain(v) for k, v in call.arguments.items()}
        with torch.no_grad():
            result = call.target(**arguments)
        many = result if isinstance(result, tuple | list) else [result]
        shapes = call.value if isinstance(call.value, tuple | list) else [call.value]
        first = next((v for v in call.arguments.values() if isinstance(v, Known)), None)
        if kind in MOVES and first is not None and first.ints is not None and isinstance(result, torch.Tensor):
            key = next(k for k, v in call.arguments.items() if v is first)
            return first.mapped(lambda t: call.target(**{**arguments, key: t}))
        found = [self._constant(call, r, s) for r, s in zip(many, shapes)]
        return found if isinstance(result, tuple | list) else found[0]

    def _constant(self, call: Call, result: Any, value: Any) -> Any:
        """A folded tensor, with the axis on which one event stands for all."""
        times = [self.sizes.times(n) for n in value.shape] if self.sizes.batch is not None else []
        if any(t is None or t > 1 for t in times) or sum(map(bool, times)) > 1:
            raise call.error("a constant must not depend on the number of events")
        return Known(result.clone(), batch=times.index(1) if 1 in times else -1)

    def _check_types(self, call: Call, value: Any, kind: str) -> None:
        """Float results must be float32 or float64, and narrow integers must not be computed with: they would wrap."""
        for v in value if isinstance(value, tuple | list) else [value]:
            found = str(getattr(v, "dtype", "torch.float32"))
            if found in (*_FLOATS, "torch.int64", "torch.bool"):
                continue
            if kind in (*MOVES, *_ON_CODES, *QUANTIZERS, "aten.to.dtype", "aten._to_copy.default") and found in (
                *_LIMITS,
                *_WHOLE,
            ):
                continue
            fix = "use float32" if found not in (*_LIMITS, *_WHOLE) else "use int64, which does not wrap"
            raise call.error(f"its result must be float32, float64, int64 or bool, not {found}", fix)


_ON_CODES = frozenset(k for k in QUANTIZERS if "dequantize" in k)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for v in value:
            yield from _leaves(v)
    else:
        yield value
