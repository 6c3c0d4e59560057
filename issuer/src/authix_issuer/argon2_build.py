"""Which instructions the installed Argon2 was built for: the wheels of PyPI stop at those that every x86-64 has.

Rule: the build is told apart by its machine code, which does not depend on how busy the machine is. Argon2's innermost
step is one multiplication (PMULUDQ), and the width of its registers is how many of them are done at once. What has none
of it, as on another kind of processor or with the system's own library, is not guessed at.
"""

from __future__ import annotations

import re
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CPU = Path("/proc/cpuinfo")
# what x86-64-v3 and -v4 ask for beyond the level below, as far as it matters here
_V3 = {"avx2", "bmi2", "fma"}
_V4 = {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


class Build(IntEnum):
    """The slowest first."""

    UNKNOWN = 0
    SSE2 = 128
    AVX2 = 256
    AVX512 = 512

    def __str__(self) -> str:
        name = "AVX-512" if self is Build.AVX512 else self.name
        return f"{self.value}-bit instructions ({name})" if self else "instructions that its code does not tell"


def installed() -> Build:
    """The build of the argon2-cffi-bindings in use."""
    found = find_spec("_argon2_cffi_bindings._ffi")
    if found is None or found.origin is None:
        return Build.UNKNOWN
    return build_of(Path(found.origin).read_bytes())


def build_of(code: bytes) -> Build:
    """The build by its machine code."""
    counts = {build: len(found.findall(code)) for build, found in _MULTIPLICATIONS.items()}
    most = max(counts.values())
    builds = [build for build, count in counts.items() if count == most]
    return builds[0] if len(builds) == 1 else Build.UNKNOWN


def fastest() -> Build:
    """The fastest build that this machine's processor can run; ``UNKNOWN`` where it can't be told."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", _CPU.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return Build.UNKNOWN
    if flags is None:
        return Build.UNKNOWN
    has = set(flags[1].split())
    if not has >= _V3:
        return Build.SSE2
    return Build.AVX512 if has >= _V4 else Build.AVX2


def _one_of(*values: int) -> bytes:
    return b"[%b]" % b"".join(b"\\x%02x" % value for value in values)


# Intel's manual, volume 2, PMULUDQ. In the last byte of a VEX prefix the low three bits hold the width and the implied
# 66h, and those above name registers. In an EVEX prefix the second byte has the 66h and the third the width, in its
# sixth and seventh bit. F4h is the multiplication.
_VEX: Final = b"(?:\xc5|\xc4" + _one_of(*range(0x01, 0xE2, 0x20)) + b")"
_EVEX: Final = b"\x62." + _one_of(*range(0x85, 0x100, 8))
_MULTIPLICATIONS: Final = {
    build: re.compile(code, re.DOTALL)
    for build, code in {
        Build.SSE2: b"\x66[\x40-\x4f]?\x0f\xf4|" + _VEX + _one_of(*range(0x01, 0x100, 8)) + b"\xf4",
        Build.AVX2: _VEX + _one_of(*range(0x05, 0x100, 8)) + b"\xf4",
        Build.AVX512: _EVEX + _one_of(*(byte for byte in range(0x100) if byte & 0x60 == 0x40)) + b"\xf4",
    }.items()
}
