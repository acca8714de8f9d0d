"""The files around the Verilog: port map, Vivado script and constraints, test bench, Makefile; knows no operations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from ...hw_targets.devices import Device
from ...ir.types import Int64
from .packing import Port, pack

__all__ = ["constraints", "makefile", "port_map", "testbench", "vivado"]


def port_map(top: str, latency_cycles: int, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """JSON: for each port the place, width, sign and exponent of every element (real = integer * 2**exponent)."""

    def described(p: Port) -> dict[str, object]:
        return {
            "name": p.name,
            "port": p.port,
            "shape": list(p.shape),
            "bits": p.bits,
            "offsets": p.offsets.tolist(),
            "widths": p.widths.tolist(),
            "signed": p.signed.astype(int).tolist(),
            "exponents": p.exps.tolist(),
        }

    content = {
        "top": top,
        "latency_cycles": latency_cycles,
        "initiation_interval": 1,
        "inputs": [described(p) for p in inputs],
        "outputs": [described(p) for p in outputs],
    }
    lines = json.dumps(content, indent=1)
    return lines + "\n"


def constraints(clock_ns: float) -> str:
    return (
        f"create_clock -name clk -period {clock_ns:g} [get_ports clk]\n"
        "# Out of context: what is outside is taken to be registers of the same clock.\n"
    )


def vivado(top: str, files: Sequence[str], device: Device) -> str:
    """Synthesis, placement and routing out of context; reports go to `reports`."""
    sources = " ".join(files)
    return f"""\
# vivado -mode batch -source vivado.tcl
set_part {device.part}
read_verilog [list {sources}]
read_xdc -mode out_of_context constraints.xdc
file mkdir reports
synth_design -top {top} -part {device.part} -mode out_of_context -flatten_hierarchy rebuilt
report_utilization -hierarchical -file reports/utilization_synth.rpt
report_timing_summary -file reports/timing_synth.rpt
opt_design
place_design
phys_opt_design
route_design
report_utilization -file reports/utilization.rpt
report_utilization -hierarchical -file reports/utilization_layers.rpt
report_timing_summary -file reports/timing.rpt
report_power -file reports/power.rpt
write_checkpoint -force {top}.dcp
"""


def makefile(top: str, files: Sequence[str], testbench_: bool) -> str:
    sources = " ".join(files)
    run = (
        f"""
test: {sources} testbench.v
\tverilator --binary --timing -CFLAGS -std=c++20 -Wno-fatal -Wno-lint --top-module testbench $^ && ./obj_dir/Vtestbench
"""
        if testbench_
        else ""
    )
    return f"""\
.PHONY: lint{" test" if testbench_ else ""} vivado

lint: {sources}
\tverilator --lint-only -Wall -Wno-UNUSEDSIGNAL -Wno-DECLFILENAME --top-module {top} $^
{run}
vivado: {sources}
\tvivado -mode batch -source vivado.tcl
"""


def testbench(
    top: str,
    latency_cycles: int,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    data: Mapping[str, Int64],
    expected: Mapping[str, Int64],
) -> str:
    """Sends each event of `data`, compares what comes back with `expected` and the latency with what it must be."""
    n = len(next(iter(expected.values())))

    def memory(p: Port, values: Int64) -> list[str]:
        words = pack(p, np.asarray(values, np.int64))
        numbers = [sum(int(w) << (32 * k) for k, w in enumerate(row)) for row in words]
        return [f"    {p.port}_data[{k}] = {p.bits}'h{v:x};" for k, v in enumerate(numbers)]

    ports = [*inputs, *outputs]
    declared = [f"  reg [{p.bits - 1}:0] {p.port}_data [0:{n - 1}];" for p in ports]
    declared += [f"  reg [{p.bits - 1}:0] {p.port};" for p in inputs] + [
        f"  wire [{p.bits - 1}:0] {p.port};" for p in outputs
    ]
    filled = [line for p in ports for line in memory(p, {**data, **expected}[p.name])]
    connected = "".join(f", .{p.port}({p.port})" for p in ports)
    sent = " ".join(f"{p.port} = {p.port}_data[cycle < {n} ? cycle : 0];" for p in inputs)
    wrong = " || ".join(f"{p.port} !== {p.port}_data[seen]" for p in outputs)
    text = f"""\
`timescale 1ns/1ps
// Golden vectors: {n} events, one per clock cycle.
module testbench;
  reg clk = 0, rst = 1, in_valid = 0;
  wire out_valid;
  integer cycle = 0, seen = 0, errors = 0;
{chr(10).join(declared)}
  {top} dut (.clk(clk), .rst(rst), .in_valid(in_valid), .out_valid(out_valid){connected});
  initial begin
{chr(10).join(filled)}
    repeat (4) begin #1 clk = 1; #1 clk = 0; end
    rst = 0;
    for (cycle = 0; cycle < {n + latency_cycles}; cycle = cycle + 1) begin
      in_valid = cycle < {n};
      {sent}
      #1;
      if (out_valid !== (cycle >= {latency_cycles})) begin
        errors = errors + 1;
        $display("FAIL: out_valid is %b in cycle %0d, the latency must be {latency_cycles}", out_valid, cycle);
      end
      if (cycle >= {latency_cycles}) begin
        if ({wrong}) begin
          errors = errors + 1;
          $display("FAIL: event %0d", seen);
        end
        seen = seen + 1;
      end
      clk = 1; #1 clk = 0;
    end
    if (errors == 0 && seen == {n}) $display("PASS: %0d events", seen);
    else $display("FAIL: %0d errors", errors);
    $finish;
  end
endmodule
"""
    return text
