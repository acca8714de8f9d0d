"""Devices as data, cost models of scalar hardware primitives, and drivers of the tools that measure them.

- `targets()`, `load_target()`: the devices, one .toml each
- `costs`: area and delay of adders, multipliers, tables, ... (estimates)
- `yosys`: synthesis numbers without a vendor tool
- `verilator`: bit-exact simulation of Verilog
- `vendor`, `reports`: run Vitis HLS and Vivado where they are, and read what they write
- `process`: the only module that starts processes
"""

from .devices import Device, load_target, targets

__all__ = ["Device", "load_target", "targets"]
