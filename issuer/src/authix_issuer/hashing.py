"""Hash passwords with Argon2id.

Rule: hashing runs in a bounded pool of threads, never on the event loop, and a full queue is refused at once. An
unknown user costs the same work as a known one.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from authix import tracing
from authix.histograms import Histogram
from authix.recent import Recent
from authix_issuer.errors import Overloaded
from authix_issuer.lanes import Lane, one_by_one

T = TypeVar("T")

PROFILES: Final[Mapping[str, argon2.Parameters]] = {
    # OWASP Password Storage Cheat Sheet: m=19 MiB, t=2, p=1
    "owasp": argon2.Parameters(argon2.Type.ID, 19, 16, 32, 2, 19 * 1024, 1),
    # the original Authix: m=7168 KiB, t=5, p=1 (also in OWASP's list of equals)
    "original": argon2.Parameters(argon2.Type.ID, 19, 16, 32, 5, 7168, 1),
    # RFC 9106, 4, second recommended option: m=64 MiB, t=3, p=4
    "rfc9106-low-memory": argon2.profiles.RFC_9106_LOW_MEMORY,
    "cheapest": argon2.profiles.CHEAPEST,  # only for tests and benchmarks
}
_LEAST: Final = ((47104, 1), (19456, 2), (12288, 3), (9216, 4), (7168, 5))
"""OWASP's equals: memory in KiB and passes."""
_MOST_MEMORY: Final = 1024 * 1024
_MOST_PASSES: Final = 999
_MOST_LANES: Final = 16
_NUMBERS = re.compile(r"m=([0-9]{1,7}),t=([0-9]{1,3}),p=([0-9]{1,2})", re.ASCII)
_NICE = 5
_FORMS = 64


def hash_parameters(profile: str) -> argon2.Parameters:
    """Those of a named profile, or of ``m=19456,t=2,p=1``: KiB of memory, passes, lanes. Raises ``ValueError``."""
    if profile in PROFILES:
        return PROFILES[profile]
    match = _NUMBERS.fullmatch(profile)
    if match is None:
        raise ValueError(f"must be one of {', '.join(PROFILES)}, or numbers such as m=19456,t=2,p=1, not {profile!r}")
    memory, passes, lanes = map(int, match.groups())
    if memory > _MOST_MEMORY or passes > _MOST_PASSES or not 1 <= lanes <= _MOST_LANES:
        raise ValueError(f"must be at most m={_MOST_MEMORY},t={_MOST_PASSES},p={_MOST_LANES}, not {profile!r}")
    parameters = argon2.Parameters(argon2.Type.ID, 19, 16, 32, passes, memory, lanes)
    if not is_enough(parameters):
        least = ", ".join(f"m={memory},t={passes}" for memory, passes in _LEAST)
        raise ValueError(f"must be at least as strong as one of OWASP's {least}, not {profile!r}")
    return parameters


def is_enough(parameters: argon2.Parameters) -> bool:
    """Whether a stolen hash resists as long as OWASP's least."""
    return any(parameters.memory_cost >= memory and parameters.time_cost >= passes for memory, passes in _LEAST)


def spell(parameters: argon2.Parameters) -> str:
    """As ``hash_parameters`` reads them."""
    return f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"


class PasswordHasher:
    """Argon2id with the parameters of ``profile``. ``threads`` hash at once, ``queue`` more may wait."""

    def __init__(self, profile: str, *, threads: int, queue: int) -> None:
        self._argon2 = argon2.PasswordHasher.from_parameters(hash_parameters(profile))
        self._limit = threads + queue
        self._busy = 0
        self._lane: Lane[None] = Lane("hash", one_by_one, threads=threads)
        self._dummy = ""
        self._outdated: Recent[tuple[str, int, int], bool] = Recent(_FORMS)
        self.waits = Histogram()
        """From the question to a thread."""
        self.durations = Histogram()
        """In the thread."""
        self.refused = 0
        """Passwords that found the queue full."""

    async def __aenter__(self) -> Self:
        await self._lane.start(_give_way)
        self._dummy = await self._run(lambda: self._argon2.hash(secrets.token_bytes(32)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lane.close()

    async def hash(self, password: bytes) -> str:
        """The hash of ``password``. Raises ``Overloaded`` when too many are waiting."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, password_hash: str | None, password: bytes) -> bool:
        """Whether ``password`` has this hash; None (no such user) costs as much. Raises ``Overloaded``."""
        matches = await self._run(lambda: self._matches(password_hash or self._dummy, password))
        return matches and password_hash is not None

    @property
    def load(self) -> tuple[int, int]:
        """How many passwords are being hashed or wait for it, and how many there may be."""
        return self._busy, self._limit

    def needs_rehash(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        # they stand before the salt; what follows counts by its length
        parameters, salt, digest = password_hash.rsplit("$", 2)
        form = parameters, len(salt), len(digest)
        outdated = self._outdated.get(form)
        if outdated is None:
            outdated = self._argon2.check_needs_rehash(password_hash)
            self._outdated.keep(form, outdated)
        return outdated

    def _matches(self, password_hash: str, password: bytes) -> bool:
        try:
            return self._argon2.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._busy >= self._limit:
            self.refused += 1
            raise Overloaded("too many passwords are waiting to be checked; try again in a moment")
        self._busy += 1
        asked = time.perf_counter()

        def timed(_: None) -> T:
            began = time.perf_counter()
            self.waits.observe(began - asked)
            try:
                return work()
            finally:
                self.durations.observe(time.perf_counter() - began)

        try:
            with tracing.span("hash"):  # the wait for a thread included
                return await self._lane.ask(timed)
        finally:
            self._busy -= 1


def _give_way() -> None:
    """Let the event loop's thread go first where the system allows a thread its own priority (Linux)."""
    if hasattr(os, "setpriority"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        except OSError:
            return
