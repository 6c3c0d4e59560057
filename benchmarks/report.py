"""What every benchmark prints about its machine, and how a spread of times is summed up."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def compiled_python() -> str:
    """What runs the sidecar as its image has it."""
    found = Path(__file__).parents[1] / ".compiled" / "bin" / "python"
    if not found.exists():
        raise SystemExit("There is no compiled sidecar: run `make compiled`.")
    return str(found)


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("sanic", "argon2-cffi", "cryptography", "pyjwt"))
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def spread(milliseconds: Sequence[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=100)
    return f"n={len(milliseconds)}  p50 {cuts[49]:7.2f} ms  p99 {cuts[98]:7.2f} ms  max {max(milliseconds):7.2f} ms"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads (Linux), to the nanosecond; procfs tells hundredths of a second.

    Raises ``OSError`` when it has ended.
    """
    # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux' posix-timers.h, as clock_getcpuclockid(3) makes it
    return time.clock_gettime((~pid << 3) | 2)
