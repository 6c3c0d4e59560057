"""What every benchmark prints about its machine, and how a spread of times is summed up."""

from __future__ import annotations

import os
import platform
import statistics
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
    """CPU time that a process and its threads have used (Linux)."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - one line of procfs
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
