"""C++ identifiers: unique, legal, and as near to the names of the graph as that allows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Names"]

_RESERVED = (
    # keywords of C++
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch",
    "char", "char16_t", "char32_t", "class", "compl", "const", "constexpr", "const_cast", "continue", "decltype",
    "default", "delete", "do", "double", "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false",
    "float", "for", "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept",
    "not", "not_eq", "nullptr", "operator", "or", "or_eq", "private", "protected", "public", "register",
    "reinterpret_cast", "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct",
    "switch", "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "union",
    "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
    # what else the generated files or their headers define
    "main", "std", "linux", "unix", "EOF", "NULL", "ap_int", "ap_uint", "ap_fixed", "ap_ufixed", "from_raw",
    "larger", "smaller",
    "raw_of", "rescaled", "rounded", "quantized", "total", "largest", "k", "i", "i0", "i1", "i2", "i3", "i4", "i5",
    "i6", "i7",
    # functions and types of the C library, which tables and typedefs must not redefine
    "assert", "errno", "stdin", "stdout", "stderr", "exp", "exp2", "log", "log2", "log10", "sin", "cos", "tan",
    "sinh", "cosh", "tanh", "atan", "sqrt", "cbrt", "pow", "floor", "ceil", "round", "trunc", "fabs", "fmax",
    "fmin", "hypot", "erf", "gamma", "tgamma", "abs", "div", "rand", "random", "index", "select", "signal", "time",
    "clock", "read", "write", "open", "close", "link", "remove", "rename", "exit", "abort", "size_t", "ssize_t",
    "ptrdiff_t", "time_t", "clock_t", "timer_t", "div_t", "float_t", "double_t", "int8_t", "int16_t", "int32_t",
    "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "off_t", "id_t", "key_t", "mode_t", "pid_t", "uid_t",
    "gid_t", "dev_t", "ino_t", "quad_t", "fpos_t",
)


@dataclass
class Names:
    """Hands out identifiers, each once."""

    used: dict[str, None] = field(default_factory=lambda: dict.fromkeys(_RESERVED))

    def new(self, wanted: str, otherwise: str = "") -> str:
        """`wanted` made legal; where it is taken, `wanted` + `otherwise`, then with a number."""
        base = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        base = base if base[:1].isalpha() else f"n{base}"
        candidates = [base, base + otherwise] if otherwise else [base]
        name = next((c for c in candidates if c not in self.used), "")
        number = 2
        while not name:
            candidate = f"{candidates[-1]}_{number}"
            name = "" if candidate in self.used else candidate
            number += 1
        self.used[name] = None
        return name
