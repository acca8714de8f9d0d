"""Scalar program and pipeline to Verilog-2001: one module per layer and a top module; knows no tool.

A row is `layer_k`; `layer_k_s3` is the same value in stage 3, after registers. Data registers have no reset: only the
chain of valid bits has. A new event may enter in every clock cycle (II = 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ir.ops import Lookup, Quantize
from ...ir.scalar import Code, ScalarGraph
from ...ir.types import Fixed
from .expressions import COMPARISONS, Operand, extended, literal, quantize_lines, row_lines, table_function
from .packing import Port, identifier
from .pipeline import Pipeline
from .rows import row_widths, table_values

__all__ = ["Module", "Verilog", "verilog"]

Tap = tuple[int, int]  # a row as it is in a stage


@dataclass(frozen=True)
class Module:
    """The Verilog of one layer and what crosses its border: port names are those of `Verilog.tap_name`."""

    name: str
    layer: str
    inputs: tuple[Tap, ...]
    outputs: tuple[Tap, ...]
    text: str


@dataclass(frozen=True)
class Verilog:
    """`layers`: one module each; `top`: the text of the module `name` that joins them; `rows`: the name of each row."""

    name: str
    top: str
    layers: tuple[Module, ...]
    rows: tuple[str, ...]
    stage: tuple[int, ...]

    def tap_name(self, tap: Tap) -> str:
        row, stage = tap
        return self.rows[row] if stage == self.stage[row] else f"{self.rows[row]}_s{stage}"


class _Program:
    """The columns as lists, which Python reads faster than arrays, and the names of rows."""

    def __init__(self, scalar: ScalarGraph, pipeline: Pipeline, name: str, ports: Sequence[str]) -> None:
        self.scalar = scalar
        self.code = scalar.code.tolist()
        self.a, self.b, self.c = scalar.a.tolist(), scalar.b.tolist(), scalar.c.tolist()
        self.shift_a, self.shift_b = scalar.shift_a.tolist(), scalar.shift_b.tolist()
        self.lo, self.hi, self.exp = scalar.lo.tolist(), scalar.hi.tolist(), scalar.exp.tolist()
        self.group, self.attribute = scalar.group.tolist(), scalar.attribute.tolist()
        self.width = row_widths(scalar).tolist()
        self.stage, self.last_use = pipeline.stage.tolist(), pipeline.last_use.tolist()
        self.final = pipeline.stages - 1
        self.prefixes = _prefixes(scalar, [name, *ports])
        self.names = self._named()
        self.view = Verilog(name, "", (), tuple(self.names), tuple(self.stage))

    def _named(self) -> list[str]:
        names = [""] * len(self.code)
        for i, prefix in zip(self.scalar.inputs, self.prefixes[len(self.scalar.groups) :]):
            for k, row in enumerate(i.rows.tolist()):
                names[row] = f"{prefix}_{k}"
        counts = [0] * (len(self.scalar.groups) + 1)
        for row, (code, group) in enumerate(zip(self.code, self.group)):
            if code not in (Code.INPUT, Code.CONSTANT):
                names[row] = f"{self.prefixes[group]}_{counts[group]}"
                counts[group] += 1
        return names

    def is_constant(self, row: int) -> bool:
        return self.code[row] == Code.CONSTANT

    def operand(self, row: int, shift: int, exp: int, stage: int) -> Operand:
        """A row as it is in `stage`, counted in units of 2**exp."""
        name = "" if self.is_constant(row) else self.view.tap_name((row, stage))
        return Operand(name, self.width[row], self.lo[row], self.hi[row], self.exp[row] + shift - exp)

    def operands(self, row: int) -> tuple[int, ...]:
        """Operand rows that are signals."""
        found = (self.c[row], self.a[row], self.b[row])
        return tuple(dict.fromkeys(r for r in found if r >= 0 and not self.is_constant(r)))

    def declaration(self, row: int, kind: str, name: str) -> str:
        return f"{kind} {'signed ' if self.lo[row] < 0 else ''}[{self.width[row] - 1}:0] {name}"

    def ap_fixed(self, row: int) -> str:
        return Fixed(self.lo[row], self.hi[row], self.exp[row]).ap_fixed


def verilog(
    scalar: ScalarGraph, pipeline: Pipeline, name: str, inputs: Sequence[Port], outputs: Sequence[Port]
) -> Verilog:
    """The text of all modules; `name` is the top module, ports in the order of the program's inputs and outputs."""
    p = _Program(scalar, pipeline, name, [q.port for q in (*inputs, *outputs)])
    members: list[list[int]] = [[] for _ in scalar.groups]
    taps: dict[Tap, None] = {}  # values that leave the layer that makes them, in order
    used_by: list[dict[Tap, None]] = [{} for _ in scalar.groups]
    for row, code in enumerate(p.code):
        if code in (Code.INPUT, Code.CONSTANT):
            continue
        members[p.group[row]].append(row)
        for operand in p.operands(row):
            if p.group[operand] != p.group[row] or p.code[operand] == Code.INPUT:
                tap = (operand, p.stage[row])
                taps[tap] = used_by[p.group[row]][tap] = None
    for o in scalar.outputs:
        taps.update({(row, p.final): None for row in o.rows.tolist() if not p.is_constant(row)})
    leaving: list[list[Tap]] = [[] for _ in scalar.groups]
    for tap in taps:
        if p.code[tap[0]] != Code.INPUT:
            leaving[p.group[tap[0]]].append(tap)
    modules = tuple(
        _module(p, g, members[g], sorted(used_by[g]), sorted(leaving[g])) for g in range(len(members)) if members[g]
    )
    top = _top(p, pipeline, modules, inputs, outputs)
    return Verilog(name, top, modules, tuple(p.names), tuple(p.stage))


def _prefixes(scalar: ScalarGraph, taken: Sequence[str]) -> list[str]:
    """A Verilog name for each layer and then each input, such that no `prefix_k` is one of `taken`."""
    found: dict[str, None] = {}
    for given in (*scalar.groups, *(i.name for i in scalar.inputs)):
        prefix = identifier(given, tuple(found))
        while prefix in found or any(t.startswith(f"{prefix}_") for t in taken):
            prefix += "v"
        found[prefix] = None
    return list(found)


# ---- one layer ------------------------------------------------------------------------------------------------------


def _module(p: _Program, group: int, rows: list[int], inputs: list[Tap], outputs: list[Tap]) -> Module:
    name = f"{p.view.name}_{p.prefixes[group]}"
    registers = _registers(p, rows)
    body: list[str] = []
    tables: dict[tuple[int, ...], str] = {}
    exported = {p.view.tap_name(t) for t in outputs}
    for row in rows:
        body += _row(p, row, tables, p.names[row] in exported)
    ports = ["input clk"] if registers else []
    ports += [p.declaration(t[0], "input", p.view.tap_name(t)) for t in inputs]
    in_registers = {tap for tap in outputs if tap[1] > p.stage[tap[0]]}
    ports += [p.declaration(t[0], "output reg" if t in in_registers else "output", p.view.tap_name(t)) for t in outputs]
    lines = [f"// layer {p.scalar.groups[group]}: {len(rows)} operations", f"module {name} ("]
    lines += [f"  {port}{',' if k + 1 < len(ports) else ''}" for k, port in enumerate(ports)] + [");"]
    lines += [f"  {line}" for line in body]
    lines += [*_clocked(p, registers, exported), "endmodule", ""]
    return Module(name, p.scalar.groups[group], tuple(inputs), tuple(outputs), "\n".join(lines))


def _registers(p: _Program, rows: Iterable[int]) -> list[Tap]:
    return [(row, s) for row in rows for s in range(p.stage[row] + 1, p.last_use[row] + 1)]


def _clocked(p: _Program, registers: list[Tap], declared: set[str]) -> list[str]:
    """Registers, each taking the value of the stage before."""
    if not registers:
        return []
    name = p.view.tap_name
    lines = [f"  {p.declaration(t[0], 'reg', name(t))};" for t in registers if name(t) not in declared]
    lines += ["  always @(posedge clk) begin"]
    lines += [f"    {name((row, s))} <= {name((row, s - 1))};" for row, s in registers]
    return [*lines, "  end"]


def _row(p: _Program, row: int, tables: dict[tuple[int, ...], str], exported: bool) -> list[str]:
    """The lines of one row, its type in a comment on the first."""
    name, code, width = p.names[row], Code(p.code[row]), p.width[row]
    declaration = f"assign {name}" if exported else p.declaration(row, "wire", name)
    stage = p.stage[row]
    if code is Code.QUANTIZE:
        op = p.scalar.attributes[p.attribute[row]]
        assert isinstance(op, Quantize)
        exp = p.exp[p.a[row]] + p.shift_a[row]
        lines = quantize_lines(name, width, p.operand(p.a[row], 0, p.exp[p.a[row]], stage), op, exp, declaration)
        comment = f"{p.ap_fixed(row)} {op.rounding.value} {op.overflow.value}"
    elif code is Code.LOOKUP:
        lines = _lookup(p, row, tables, declaration)
        comment = p.ap_fixed(row)
    else:
        pairs = [(r, s) for r, s in ((p.a[row], p.shift_a[row]), (p.b[row], p.shift_b[row])) if r >= 0]
        exp = min(p.exp[r] + s for r, s in pairs) if code in COMPARISONS else p.exp[row]
        operands = [p.operand(r, s, exp, stage) for r, s in pairs]
        if code is Code.SELECT:
            operands.append(p.operand(p.c[row], 0, 0, stage))
        lines = row_lines(code, name, width, operands, declaration)
        comment = p.ap_fixed(row)
    return [*lines[:-1], f"{lines[-1]}  // {comment}"]


def _lookup(p: _Program, row: int, tables: dict[tuple[int, ...], str], declaration: str) -> list[str]:
    a = p.a[row]
    exp = p.exp[a] + p.shift_a[row]
    key = (p.attribute[row], exp, p.lo[a], p.hi[a], p.width[row])
    lines: list[str] = []
    if key not in tables:
        op = p.scalar.attributes[p.attribute[row]]
        assert isinstance(op, Lookup)
        tables[key] = f"{p.names[row]}_table"
        values = table_values(op, p.lo[a], p.hi[a], exp).tolist()
        lines = table_function(tables[key], values, p.lo[a], p.width[a], p.width[row])
    return [*lines, f"{declaration} = {tables[key]}({p.view.tap_name((a, p.stage[row]))});"]


# ---- the top module -------------------------------------------------------------------------------------------------


def _top(
    p: _Program, pipeline: Pipeline, modules: Sequence[Module], inputs: Sequence[Port], outputs: Sequence[Port]
) -> str:
    latency = pipeline.latency_cycles
    lines = [
        f"// {p.view.name}: latency {latency} clock cycles, a new event in every cycle",
        "// Elements are packed in order, element 0 in the low bits, each in its own width.",
        *(_described(port, kind) for kind, ports in (("input", inputs), ("output", outputs)) for port in ports),
        f"module {p.view.name} (",
        "  input clk,",
        "  input rst,  // synchronous, active high: clears the valid bits only",
        "  input in_valid,",
        "  output out_valid,",
    ]
    ports = [f"  input [{port.bits - 1}:0] {port.port}" for port in inputs]
    kind = "output reg" if pipeline.registered_outputs else "output"
    ports += [f"  {kind} [{port.bits - 1}:0] {port.port}" for port in outputs]
    lines += [f"{port}," for port in ports[:-1]] + [ports[-1], ");"]
    lines += _valid(latency) + _unpacked(p, pipeline, inputs)
    input_rows = [r for i in p.scalar.inputs for r in i.rows.tolist()]
    lines += _clocked(p, _registers(p, (r for r in input_rows if p.width[r])), set())
    lines += [line for m in modules for line in _instance(p, m)]
    lines += _packed(p, pipeline, outputs)
    return "\n".join([*lines, "endmodule", ""])


def _described(port: Port, kind: str) -> str:
    shape = ", ".join(map(str, port.shape))
    widths = sorted(set(port.widths.tolist()))
    each = (
        f"{widths[0]} bits each"
        if len(widths) == 1
        else f"{widths[0] if widths else 0} to {max(widths, default=0)} bits each"
    )
    return f"// {kind} {port.port}: '{port.name}' [{shape}], {each}"


def _valid(latency: int) -> list[str]:
    if latency == 0:
        return ["  assign out_valid = in_valid;"]
    shifted = "in_valid" if latency == 1 else f"{{valid[{latency - 2}:0], in_valid}}"
    return [
        f"  reg [{latency - 1}:0] valid;",
        f"  always @(posedge clk) valid <= rst ? {literal(0, latency)} : {shifted};",
        f"  assign out_valid = valid[{latency - 1}];",
    ]


def _unpacked(p: _Program, pipeline: Pipeline, inputs: Sequence[Port]) -> list[str]:
    lines: list[str] = []
    for port, i in zip(inputs, p.scalar.inputs):
        source = port.port
        if pipeline.registered_inputs:
            source = f"{port.port}_registered"
            lines += [f"  reg [{port.bits - 1}:0] {source};", f"  always @(posedge clk) {source} <= {port.port};"]
        for row, offset, width in zip(i.rows.tolist(), port.offsets.tolist(), port.widths.tolist()):
            if width:
                bits = f"{source}[{offset + width - 1}:{offset}]"
                lines.append(f"  {p.declaration(row, 'wire', p.names[row])} = {bits};  // {p.ap_fixed(row)}")
    return lines


def _instance(p: _Program, module: Module) -> list[str]:
    name = p.view.tap_name
    lines = [f"  {p.declaration(t[0], 'wire', name(t))};" for t in module.outputs]
    ports = ["clk"] if module.text.split("\n", 3)[2].strip().startswith("input clk") else []
    ports += [name(t) for t in (*module.inputs, *module.outputs)]
    lines.append(f"  {module.name} {module.name}_i (")
    lines += [f"    .{port}({port}){',' if k + 1 < len(ports) else ''}" for k, port in enumerate(ports)]
    return [*lines, "  );"]


def _packed(p: _Program, pipeline: Pipeline, outputs: Sequence[Port]) -> list[str]:
    lines: list[str] = []
    for port, o in zip(outputs, p.scalar.outputs):
        fields: list[str] = []
        for row, left, width in zip(o.rows.tolist(), o.shifts.tolist(), port.widths.tolist()):
            if width:
                fields.append(extended(p.operand(row, 0, p.exp[row] - left, p.final), width))
        joined = ",\n    ".join(reversed(fields)) or "1'b0"
        packed = f"{{\n    {joined}}}"
        lines.append(
            f"  always @(posedge clk) {port.port} <= {packed};"
            if pipeline.registered_outputs
            else f"  assign {port.port} = {packed};"
        )
    return lines
