"""The text form of a graph: one line per node, printed and parsed without loss.

    hwcompile graph 1
    graph toy
    x = input() {"shape": [2], "fixed": [-8, 7, -2], ...} : [2] -8..7 * 2^-2
    y = linear(x) {"weights": [[1], [-3]], "exp": 0} : [1] -29..31 * 2^-2
    return out = y {"scale": "1", "offset": "0"}

Attributes are JSON; rationals are strings, big arrays stay nested lists so that a text editor and `diff` can read them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CompileError
from .graph import Graph, Node, Output, verify
from .ops import OPS, Op
from .rational import Affine, as_rational
from .rounding import Overflow, Rounding
from .types import Fixed, Int64, IntLike, Tensor

__all__ = ["format_attributes", "format_graph", "parse_graph"]

_HEADER = "hwcompile graph 1"
_NODE = re.compile(r"^(?P<name>\S+) = (?P<op>\w+)\((?P<args>[^)]*)\) (?P<attrs>\{.*\}) : (?P<type>\[.*)$")
_RETURN = re.compile(r"^return (?P<name>\S+) = (?P<node>\S+) (?P<attrs>\{.*\})$")


def format_graph(graph: Graph) -> str:
    """The text form; equal graphs give equal text."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield _HEADER
    yield f"graph {graph.name}"
    for node in graph.nodes:
        args = ", ".join(graph.nodes[i].name for i in node.operands)
        yield f"{node.name} = {node.op.name}({args}) {format_attributes(node.op)} : {_format_type(node.type)}"
    for o in graph.outputs:
        yield f"return {o.name} = {graph.nodes[o.node].name} {json.dumps(_encode(o.real))}"


def format_attributes(op: Op) -> str:
    """The attributes of an op as JSON: equal ops have equal text."""
    fields = dataclasses.fields(op)  # pyright: ignore[reportArgumentType]
    return json.dumps({f.name: _encode(getattr(op, f.name)) for f in fields}, separators=(", ", ": "))


def _format_type(t: Tensor) -> str:
    lo, hi, exp = (json.dumps(_encode(f), separators=(",", ":")) for f in (t.fixed.lo, t.fixed.hi, t.fixed.exp))
    return f"{list(t.shape)} {lo}..{hi} * 2^{exp}"


def _encode(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Fixed):
        return [_encode(value.lo), _encode(value.hi), _encode(value.exp)]
    if isinstance(value, Affine):
        return {"scale": _encode(value.scale), "offset": _encode(value.offset)}
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, np.ndarray):
        return _encode_array(value)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, np.integer):
        return value.item()
    return [*value] if isinstance(value, tuple) else value


def _encode_array(a: NDArray[Any]) -> Any:
    return np.vectorize(str, otypes=[object])(a).tolist() if a.dtype == object else a.tolist()


def _decode_int(v: Any) -> IntLike:
    return v if isinstance(v, int) else np.array(v, np.int64)


def _decode_rational(v: Any) -> Any:
    return (
        Fraction(v) if isinstance(v, str) else as_rational(np.vectorize(Fraction, otypes=[object])(np.array(v, object)))
    )


def _decode_array(v: Any) -> Int64:
    return np.array(v, np.int64)


def _decode_fixed(v: Any) -> Fixed:
    lo, hi, exp = v
    return Fixed.of(_decode_int(lo), _decode_int(hi), _decode_int(exp))


def _decode_affine(v: Any) -> Affine:
    return Affine(_decode_rational(v["scale"]), _decode_rational(v["offset"]))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "Int64": _decode_array,
    "IntLike": _decode_int,
    "Rational": _decode_rational,
    "Fixed": _decode_fixed,
    "Affine": _decode_affine,
    "Rounding": Rounding,
    "Overflow": Overflow,
    "int": int,
    "bool": bool,
    "str": str,
    "tuple[int, ...]": tuple,
}
"""How each attribute type is read back, by its annotation in the op's dataclass."""


def parse_graph(text: str, where: str = "graph text") -> Graph:
    """Parse and verify a text form. Raises `CompileError` with the line number for anything unexpected."""
    lines = text.splitlines()
    if len(lines) < 2 or lines[0] != _HEADER or not lines[1].startswith("graph "):
        raise CompileError(where, f"must start with '{_HEADER}' and 'graph NAME'", "give a file that hwcompile wrote")
    nodes: list[Node] = []
    outputs: list[Output] = []
    index: dict[str, int] = {}
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        try:
            if line.startswith("return "):
                outputs.append(_parse_return(line, index))
            else:
                nodes.append(_parse_node(line, index))
                index[nodes[-1].name] = len(nodes) - 1
        except (KeyError, ValueError, TypeError, RecursionError, OverflowError) as e:
            raise CompileError(f"{where}, line {number}", f"cannot be read ({type(e).__name__}: {e})") from None
    graph = Graph(lines[1][len("graph ") :], tuple(nodes), tuple(outputs))
    verify(graph)
    return graph


def _parse_node(line: str, index: dict[str, int]) -> Node:
    match = _NODE.match(line)
    if not match:
        raise ValueError("expected 'name = op(operands) {attributes} : type'")
    if match["op"] not in OPS:
        raise ValueError(f"no op is called '{match['op']}'; known: {', '.join(OPS)}")
    kind, given = OPS[match["op"]], json.loads(match["attrs"])
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    if set(given) != set(fields):
        raise ValueError(f"{kind.name} takes the attributes {list(fields)}, not {list(given)}")
    op = kind(**{k: _DECODERS[fields[k]](v) for k, v in given.items()})
    operands = tuple(index[a.strip()] for a in match["args"].split(",") if a.strip())
    return Node(match["name"], op, operands, _parse_type(match["type"]))


def _parse_type(text: str) -> Tensor:
    end = text.index("]") + 1
    shape, rest = json.loads(text[:end]), text[end:].strip()
    interval, exp = rest.split(" * 2^")
    lo, hi = interval.split("..")
    return Tensor(tuple(shape), Fixed.of(*(_decode_int(json.loads(f)) for f in (lo, hi, exp))))


def _parse_return(line: str, index: dict[str, int]) -> Output:
    match = _RETURN.match(line)
    if not match:
        raise ValueError("expected 'return name = node {scale, offset}'")
    return Output(match["name"], index[match["node"]], _DECODERS["Affine"](json.loads(match["attrs"])))
