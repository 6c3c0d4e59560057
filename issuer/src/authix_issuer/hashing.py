"""Hash passwords with Argon2id.

Rule: hashing runs in a bounded pool of threads, never on the event loop, and a full queue is refused at once. An
unknown user costs the same work as a known one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from authix_issuer.errors import Overloaded

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
_NICE = 5


class PasswordHasher:
    """Argon2id with named parameters. ``threads`` hash at once, ``queue`` more may wait."""

    def __init__(self, profile: str, *, threads: int, queue: int) -> None:
        self._argon2 = argon2.PasswordHasher.from_parameters(PROFILES[profile])
        self._limit = threads + queue
        self._busy = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hash", initializer=_give_way)
        self._dummy = ""

    async def __aenter__(self) -> Self:
        self._dummy = await self._run(lambda: self._argon2.hash(secrets.token_bytes(32)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    async def hash(self, password: bytes) -> str:
        """The hash of ``password``. Raises ``Overloaded`` when too many are waiting."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, password_hash: str | None, password: bytes) -> bool:
        """Whether ``password`` has this hash; None (no such user) costs as much. Raises ``Overloaded``."""
        matches = await self._run(lambda: self._matches(password_hash or self._dummy, password))
        return matches and password_hash is not None

    def needs_rehash(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str, password: bytes) -> bool:
        try:
            return self._argon2.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._busy >= self._limit:
            raise Overloaded("too many passwords are waiting to be checked; try again in a moment")
        self._busy += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, work)
            future.add_done_callback(self._done)
        except BaseException:
            self._busy -= 1
            raise
        return await future

    def _done(self, _: object) -> None:
        self._busy -= 1


def _give_way() -> None:
    """Let the event loop's thread go first where the system allows a thread its own priority (Linux)."""
    if hasattr(os, "setpriority"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        except OSError:
            return
