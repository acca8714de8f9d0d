"""C++ identifiers: unique, legal, and as near to the names of the graph as that allows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..identifiers import CPP_RESERVED, safe

__all__ = ["Names"]

_OWN = (
    "at", "below", "column", "column_of", "from_words", "group", "hls", "lane", "lines", "raw", "reached", "row", "row_of",
    "shifted", "step", "taps", "to_words", "totals", "tree", "values", "word", "STORED", "Word",
)  # fmt: skip
"""What the generated functions call their own variables and helpers."""


@dataclass
class Names:
    """Hands out identifiers, each once."""

    used: dict[str, None] = field(default_factory=lambda: dict.fromkeys((*CPP_RESERVED, *_OWN)))

    def new(self, wanted: str, otherwise: str = "") -> str:
        """`wanted` made legal; where it is taken, `wanted` + `otherwise`, then with a number."""
        base = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        base = safe(base if base[:1].isalpha() else f"n{base}")
        candidates = [base, base + otherwise] if otherwise else [base]
        name = next((c for c in candidates if c not in self.used), "")
        number = 2
        while not name:
            candidate = f"{candidates[-1]}_{number}"
            name = "" if candidate in self.used else candidate
            number += 1
        self.used[name] = None
        return name
