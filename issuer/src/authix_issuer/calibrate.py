"""``authix-issuer hash calibrate``: what hashing a password costs on this machine, and the setting that fits a target.

Rule: what is printed is measured here. Time is spent on memory first, which costs an attacker's hardware the most, as
far as many logins at once can have it; then on passes. Nothing weaker than OWASP's least is ever proposed.
"""

from __future__ import annotations

import argparse
import re
import time
from importlib.metadata import version
from typing import Final, NamedTuple

import argon2
from argon2.low_level import hash_secret_raw

from authix_issuer import argon2_build
from authix_issuer.argon2_build import Build
from authix_issuer.hashing import PROFILES, hash_parameters, is_enough, spell

_MOST_MEMORY: Final = 64 * 1024  # KiB a hash, as much as RFC 9106, 4, takes where memory is scarce
_NEAR: Final = 0.8  # of the target; a named profile that comes so near is better known than numbers of one's own
_SECONDS: Final = 0.5  # for each measurement, unless one hash takes longer
_DURATION = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(ms|s)", re.ASCII)
_INSTALL = (
    'CFLAGS="-O3 -march=native" pip install --force-reinstall --no-deps --no-cache-dir '
    "--no-binary argon2-cffi-bindings argon2-cffi-bindings=="
)
_GAINS = {
    (Build.SSE2, Build.AVX2): "2 to 3 times as fast",
    (Build.SSE2, Build.AVX512): "2 to 3 times as fast",
    (Build.AVX2, Build.AVX512): "1.3 times as fast",
}


class Cost(NamedTuple):
    """Of one hash: seconds that a login waits for it, and seconds that it takes of all cores together."""

    waited: float
    worked: float


def duration(text: str) -> float:
    """Seconds, from 10ms to 5s."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else 0
    if not 0.01 <= seconds <= 5:
        raise argparse.ArgumentTypeError(f"must be a time from 10ms to 5s, such as 250ms, not {text!r}")
    return seconds


def report(target: float) -> int:
    """Print the measurements, and last the setting whose hash takes about ``target`` seconds."""
    for line in _build():
        _say(line)
    _say(f"\n{'profile':<20}{'parameters':<20}{'ms a hash':>12}{'hashes/s a core':>18}")
    named = {}
    for name, parameters in PROFILES.items():
        cost = measure(parameters)
        _say(f"{name:<20}{spell(parameters):<20}{cost.waited * 1000:>12.1f}{1 / cost.worked:>18.1f}")
        if is_enough(parameters):
            named[name] = cost.waited
    chosen, takes = _choose(target, named)
    if chosen in named and takes > target:
        _say(
            f"\nNothing that is strong enough takes only {target * 1000:.0f} ms on this machine. The fastest:", end=" "
        )
    else:
        _say("\nThe setting:", end=" ")
    memory = hash_parameters(chosen).memory_cost / 1024
    _say(f"{takes * 1000:.0f} ms a hash, and {memory:.0f} MiB for each of AUTHIX_HASH_THREADS:")
    _say(f"AUTHIX_HASH_PROFILE={chosen}")
    return 0


def measure(parameters: argon2.Parameters) -> Cost:
    """What a hash costs; its wait is the shortest of several, which other programs disturbed least."""
    waits: list[float] = []
    began, worked = time.perf_counter(), time.process_time()
    while not waits or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        hash_secret_raw(
            b"correct horse battery staple",
            bytes(parameters.salt_len),
            parameters.time_cost,
            parameters.memory_cost,
            parameters.parallelism,
            parameters.hash_len,
            parameters.type,
        )
        waits.append(time.perf_counter() - start)
    return Cost(min(waits), (time.process_time() - worked) / len(waits))


def _choose(target: float, named: dict[str, float]) -> tuple[str, float]:
    """The setting, and the seconds that it takes."""
    slowest = max((name for name in named if named[name] <= target), key=named.__getitem__, default=None)
    if slowest is not None and named[slowest] >= _NEAR * target:
        return slowest, named[slowest]
    if custom := _fit(target, named["owasp"]):
        return custom
    fastest = min(named, key=named.__getitem__)
    return (slowest, named[slowest]) if slowest else (fastest, named[fastest])


def _fit(target: float, owasp: float) -> tuple[str, float] | None:
    """Numbers of this machine's own, if strong ones fit; ``owasp`` is what that profile takes."""
    profile = PROFILES["owasp"]
    work = profile.memory_cost * profile.time_cost * target / owasp
    for _ in range(2):  # time grows with memory times passes, but for what caches hold
        passes = max(profile.time_cost, int(work / _MOST_MEMORY))
        memory = min(int(work / passes) // 1024 * 1024, _MOST_MEMORY)
        parameters = argon2.Parameters(argon2.Type.ID, 19, 16, 32, passes, memory, 1)
        if not is_enough(parameters):
            return None
        takes = measure(parameters).waited
        if _NEAR * target <= takes <= target:
            break
        work = memory * passes * target / takes
    return spell(parameters), takes


def _build() -> list[str]:
    bindings = version("argon2-cffi-bindings")
    build, fastest = argon2_build.installed(), argon2_build.fastest()
    lines = [f"argon2-cffi-bindings {bindings} is built for {build}."]
    able = f"This processor has {fastest}"
    if fastest is Build.UNKNOWN:
        fastest, able = Build.AVX2, "If this processor has AVX2 (most since 2015 do)"
    if gain := _GAINS.get((build, fastest)):
        lines.append(f"{able}: a build for it hashes {gain} at the same strength. Where pip is,")
        lines.append(f"with a C compiler, for processors like this one only:\n  {_INSTALL}{bindings}")
        lines.append("Then calibrate again: spend what it gains on a stronger setting.")
    return lines


def _say(line: str, end: str = "\n") -> None:
    print(line, end=end, flush=True)  # noqa: T201 - the answer of a command line
