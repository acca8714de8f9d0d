"""Rewrites torch modules before they are quantized: norms into weights, functions into modules; numbers stay the same."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..ir.errors import CompileError
from .composites import InverseRoot, Product
from .layers import Affine, hooked

__all__ = ["FUNCTIONS", "functions_as_modules", "without_norms"]

FUNCTIONS = (
    nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Mish, nn.Softmax,
    InverseRoot,
)  # fmt: skip
"""Layers that become tables in hardware: their inputs and outputs are quantized."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

_FUNCTIONAL: dict[Any, type[nn.Module]] = {
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    torch.softmax: nn.Softmax, F.softmax: nn.Softmax, "softmax": nn.Softmax,
    F.gelu: nn.GELU, F.silu: nn.SiLU, F.elu: nn.ELU, F.selu: nn.SELU, F.celu: nn.CELU,
    F.softplus: nn.Softplus, F.softsign: nn.Softsign, F.logsigmoid: nn.LogSigmoid, F.mish: nn.Mish,
}  # fmt: skip
"""Functions and methods of tensors, and the module that does the same."""

_PRODUCTS = (torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm")


class _Tracer(fx.Tracer):
    """Layers of torch are leaves, and so are ours, but for those `inside` which one looks."""

    def __init__(self, inside: tuple[type[nn.Module], ...] = ()) -> None:
        super().__init__()
        self.inside = inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or (_ours(m) and not isinstance(m, self.inside))


def _ours(m: nn.Module) -> bool:
    return type(m).__module__.startswith(__package__ or "")


def traced(module: nn.Module, why: str, inside: tuple[type[nn.Module], ...] = ()) -> fx.GraphModule:
    """The module as a graph of its layers, and of the parts of those of our own layers that are `inside`.

    `why`: what needs it, for the error where torch.fx cannot follow the code.
    """
    if isinstance(module, fx.GraphModule) and not inside:
        return module
    try:
        return _with_dropout(fx.GraphModule(module, _Tracer(inside).trace(module)))
    except Exception as e:  # torch.fx raises any kind for code that depends on data
        said = str(e).strip().splitlines()[0][:120] if str(e).strip() else type(e).__name__
        what = f"{why} needs a forward that torch.fx can trace ({said})"
        raise CompileError(
            type(module).__name__, what, "write it as a torch.nn module, or take branches on data out"
        ) from None


def _with_dropout(graph: fx.GraphModule) -> fx.GraphModule:
    """Dropout as a layer, so that it hears of training, which tracing froze."""
    for count, node in enumerate(list(graph.graph.nodes)):
        if node.op == "call_function" and node.target is F.dropout:
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            _substitute(graph, node, f"dropout_{count}", nn.Dropout(p))  # pyright: ignore[reportArgumentType]
    graph.recompile()
    return graph


def _substitute(graph: fx.GraphModule, node: fx.Node, name: str, by: nn.Module) -> None:
    """A module in place of a function of data."""
    graph.add_module(name, by)
    data = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
    with graph.graph.inserting_after(node):
        new = graph.graph.call_module(name, tuple(data))
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def functions_as_modules(module: nn.Module, used: set[str]) -> nn.Module:
    """The module with functions that become tables, and products of data, as modules of their own, and factors as float32.

    `used`: names of functions that a run of the module called, as `functions_used` finds them; untouched where none needs it.
    """
    if not used:
        return module
    graph = traced(module, f"{sorted(used)[0]} in its forward")
    for count, node in enumerate(list(graph.graph.nodes)):
        if node.op not in ("call_function", "call_method"):
            continue
        node.args = tuple(_single(a) if _uneven(a) else a for a in node.args)
        made = _module_of(node)
        if made is None:
            continue
        _substitute(graph, node, f"{getattr(node.target, '__name__', node.target)}_{count}", made)
    graph.recompile()
    return graph


def _module_of(node: fx.Node) -> nn.Module | None:
    if node.target in _PRODUCTS:
        return Product() if all(isinstance(a, fx.Node) for a in node.args[:2]) else None
    kind = _FUNCTIONAL.get(node.target)
    if kind is None:
        return None
    options = {k: v for k, v in node.kwargs.items() if k in ("dim", "approximate", "alpha", "beta", "threshold")}
    extra = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
    return kind(*extra, **options)


def _single(value: Any) -> float:
    """What torch computes with when a float32 tensor meets a number of Python's."""
    return float(torch.tensor(value, dtype=torch.float32))


def _uneven(value: Any) -> bool:
    """A number that float32 does not hold: sums in float64 would compute with another one than what is compiled."""
    return isinstance(value, float) and math.isfinite(value) and _single(value) != value


def functions_used(module: nn.Module, inputs: tuple[Tensor, ...]) -> set[str]:
    """Functions of `FUNCTIONS`, products of data and uneven factors that the module's own code has, not its layers."""
    found: set[str] = set()
    constants = {id(p) for p in module.parameters()}

    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if depth == 0 and (name in _NAMES or name in ("matmul", "bmm", "__matmul__")):
                product = name not in _NAMES
                if not product or not any(id(a) in constants for a in args):
                    found.add(name.strip("_"))
            elif depth == 0 and name.strip("_") in _SCALED and any(_uneven(a) for a in args):
                found.add(name.strip("_"))
            return func(*args, **(kwargs or {}))

    depth = 0

    def enter(m: nn.Module, args: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(m: nn.Module, args: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1

    modules = list(module.modules())
    leaves = [m for m in modules if _ours(m) or (type(m).__module__.startswith("torch.nn") and not list(m.children()))]
    hooks = (h for m in leaves for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave)))
    with hooked(hooks), torch.no_grad(), Seen():
        module(*inputs)
    return found


_SCALED = ("mul", "rmul", "add", "radd", "sub", "rsub", "div", "truediv")
_NAMES = {k if isinstance(k, str) else k.__name__ for k in _FUNCTIONAL}


def without_norms(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The module with every batch normalization folded into the layer before it, or made an `Affine` where there is none.

    The statistics are those of eval mode. Raises `CompileError` where one keeps no statistics.
    """
    if not any(isinstance(m, _NORMS) for m in module.modules()):
        return module
    rows = _matrix_layers(module, inputs)
    graph = traced(module, "batch normalization")
    parts = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        norm = parts.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _NORMS):
            continue
        scale, shift = _affine(str(node.target), norm)
        before = node.args[0]
        layer = parts.get(str(before.target)) if before.op == "call_module" and len(before.users) == 1 else None
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and _calls(graph, before) == 1 and layer not in rows:
            _fold(layer, scale, shift)
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            parent, _, name = str(node.target).rpartition(".")
            setattr(graph.get_submodule(parent), name, Affine(scale, shift, axis=0))
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def _calls(graph: fx.GraphModule, node: fx.Node) -> int:
    return sum(n.op == "call_module" and n.target == node.target for n in graph.graph.nodes)


def _matrix_layers(module: nn.Module, inputs: tuple[Tensor, ...]) -> set[nn.Module]:
    """Dense layers on the rows of a matrix: a norm behind one counts rows as its channels, not the layer's outputs."""
    found: set[nn.Module] = set()

    def seen(m: nn.Module, args: Any, output: Tensor) -> None:
        if output.ndim > 2:
            found.add(m)

    dense = (m for m in module.modules() if isinstance(m, nn.Linear))
    with hooked(m.register_forward_hook(seen) for m in dense), torch.no_grad():
        module(*inputs)
    return found


def _affine(name: str, norm: Any) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None:
        rule = "batch normalization without running statistics depends on the batch"
        raise CompileError(name, rule, "train it with track_running_stats=True")
    rest = torch.rsqrt(norm.running_var + norm.eps)
    scale = rest if norm.weight is None else norm.weight.detach() * rest
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


def _fold(layer: Any, scale: Tensor, shift: Tensor) -> None:
    with torch.no_grad():  # new parameters: others may share the old ones
        weight = layer.weight * scale.reshape([-1] + [1] * (layer.weight.ndim - 1))
        bias = shift.clone() if layer.bias is None else layer.bias * scale + shift
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
