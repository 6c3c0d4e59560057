"""Which instructions the installed Argon2 was built for: the wheels of PyPI stop at those that every x86-64 has.

Rule: the build is told apart by its machine code, which does not depend on how busy the machine is. Argon2's innermost
step is one multiplication (PMULUDQ), and the width of its registers is how many of them are done at once. What has none
of it, as on another kind of processor or with the system's own library, is not guessed at.
"""

from __future__ import annotations

import re
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CPU = Path("/proc/cpuinfo")
_V3 = {"avx2", "bmi2", "fma"}  # what x86-64-v3 asks for beyond the oldest, as far as it matters here


class Build(Enum):
    NARROW = "128-bit instructions (SSE2)"
    WIDE = "256-bit or wider instructions (AVX2, AVX-512)"
    UNKNOWN = "instructions that its code does not tell"


def installed() -> Build:
    """The build of the argon2-cffi-bindings in use."""
    found = find_spec("_argon2_cffi_bindings._ffi")
    if found is None or found.origin is None:
        return Build.UNKNOWN
    return build_of(Path(found.origin).read_bytes())


def build_of(code: bytes) -> Build:
    """The build by its machine code."""
    narrow, wide = len(_NARROW.findall(code)), len(_WIDE.findall(code))
    if narrow == wide:
        return Build.UNKNOWN
    return Build.WIDE if wide > narrow else Build.NARROW


def has_wide() -> bool | None:
    """Whether this machine's processor can run a wide build; None where it can't be told."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", _CPU.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return set(flags[1].split()) >= _V3 if flags else None


def _one_of(*values: int) -> bytes:
    return b"[%b]" % b"".join(b"\\x%02x" % value for value in values)


# Intel's manual, volume 2, PMULUDQ. In the last byte of a VEX prefix, and in the third of an EVEX one, the low three
# bits hold the width and the implied 66h; the bits above them name registers. F4h is the multiplication.
_VEX: Final = b"(?:\xc5|\xc4" + _one_of(*range(0x01, 0xE2, 0x20)) + b")"
_NARROW: Final = re.compile(
    b"\x66[\x40-\x4f]?\x0f\xf4|" + _VEX + _one_of(*range(0x01, 0x100, 8)) + b"\xf4",
)
_WIDE: Final = re.compile(
    _VEX + _one_of(*range(0x05, 0x100, 8)) + b"\xf4|\x62." + _one_of(*range(0x85, 0x100, 8)) + b".\xf4",
    re.DOTALL,
)
