"""How fast the hardware shall be: what the pragmas say. Knows no numbers; no field here can change a result."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import CompileError

__all__ = ["INTERFACES", "STRATEGIES", "Schedule"]

STRATEGIES = {
    "latency": "every loop unrolled, a new event every `ii` cycles",
}
"""What can be asked for. A strategy with reuse factors or streams adds its fields to `Schedule` and its line here."""

INTERFACES = {
    "ap_vld": "wires with a valid flag per element",
    "ap_none": "bare wires",
    "axis": "one AXI4-Stream per element",
}


@dataclass(frozen=True)
class Schedule:
    """The speed of one design.

    `strategy`: a key of STRATEGIES. `ii`: cycles between events. `interface`: a key of INTERFACES. `inline_layers`:
    dissolve the layer functions into the top function, so that the tool narrows every element of a tensor on its own
    (smaller where elements differ in width); False keeps one module per layer in the reports.
    """

    strategy: str = "latency"
    ii: int = 1
    interface: str = "ap_vld"
    inline_layers: bool = True

    def __post_init__(self) -> None:
        for field, table in (("strategy", STRATEGIES), ("interface", INTERFACES)):
            value = getattr(self, field)
            if value not in table:
                raise CompileError(f"schedule {field}", f"must be one of {', '.join(table)}, not {value!r}")
        if isinstance(self.ii, bool) or not isinstance(self.ii, int) or self.ii < 1:
            raise CompileError("schedule ii", f"must be a whole number of cycles from 1, not {self.ii!r}")
