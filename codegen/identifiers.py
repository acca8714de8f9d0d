"""Names that generated C and C++ must not use: keywords, what common headers define, and macros."""

from __future__ import annotations

__all__ = ["CPP_RESERVED", "safe"]

CPP_RESERVED: tuple[str, ...] = tuple(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl const
    constexpr const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern
    false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or
    or_eq private protected public register reinterpret_cast return short signed sizeof static static_assert
    static_cast struct switch template this thread_local throw true try typedef typeid typename union unsigned using
    virtual void volatile wchar_t while xor xor_eq main std linux unix EOF NULL ap_int ap_uint ap_fixed ap_ufixed
    from_raw larger smaller raw_of rescaled rounded quantized total largest k i i0 i1 i2 i3 i4 i5 i6 i7 assert errno
    stdin stdout stderr exp exp2 log log2 log10 sin cos tan sinh cosh tanh atan sqrt cbrt pow floor ceil round trunc
    fabs fmax fmin hypot erf gamma tgamma abs div rand random index select signal time clock read write open close
    link remove rename exit abort size_t ssize_t ptrdiff_t time_t clock_t timer_t div_t float_t double_t int8_t
    int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t off_t id_t key_t mode_t pid_t uid_t gid_t dev_t ino_t
    quad_t fpos_t
    """.split()
)
"""Keywords of C++ and names that its headers and ap_types put into the global namespace."""

_TAKEN = frozenset(("std", "errno", "stdin", "stdout", "stderr", "main", "assert", "linux", "unix", "signals", "emit"))


def safe(name: str) -> str:
    """`name`, with '_' appended where it is a macro of some header: all capitals, as EOF and NULL, or in a short list.

    >>> safe("EOF"), safe("std"), safe("dense_1")
    ('EOF_', 'std_', 'dense_1')
    """
    return f"{name}_" if name in _TAKEN or (name.upper() == name and any(c.isalpha() for c in name)) else name
