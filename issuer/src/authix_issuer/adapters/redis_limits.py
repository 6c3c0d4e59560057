"""Limits in Redis, for all processes of an issuer.

Rule: each step is one script on the connections that the sessions use, so what holds for these (TLS, a cluster, a
deadline) holds here. A command that is repeated after a lost answer counts twice: too cautious by one, never too lax.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files

from limits.aio.storage import Storage
from limits.aio.storage.redis.bridge import RedisBridge

from authix_issuer.adapters.redis_pipeline import RedisEngine, Script
from authix_issuer.ports import KEEP_ATTEMPTS, Tried


class RedisCounters(Storage):
    """A storage of ``limits``."""

    STORAGE_SCHEME = None

    def __init__(self, engine: RedisEngine, namespace: str = "authix") -> None:
        super().__init__()
        self._engine = engine
        self._prefix = f"{namespace}:limit:"
        self._script = Script(RedisBridge.SCRIPT_INCR_EXPIRE.decode("ascii"))

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return ()

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return int(await self._engine.run(self._script, [self._prefix + key], expiry, amount))

    async def get(self, key: str) -> int:
        return int(await self._engine.call("GET", self._prefix + key) or 0)

    async def get_expiry(self, key: str) -> float:
        left = int(await self._engine.call("PTTL", self._prefix + key))
        return time.time() + max(left, 0) / 1000

    async def check(self) -> bool:
        await self._engine.time()
        return True

    async def reset(self) -> int | None:
        raise NotImplementedError("counters of all addresses end by themselves")

    async def clear(self, key: str) -> None:
        await self._engine.call("DEL", self._prefix + key)


class RedisAttempts:
    """An ``AttemptStore``."""

    def __init__(self, engine: RedisEngine, namespace: str = "authix") -> None:
        self._engine = engine
        self._prefix = f"{namespace}:attempts:"
        self._script = Script(files(__package__).joinpath("attempts.lua").read_text(encoding="utf-8"))

    async def begin(self, tried: Sequence[Tried], max_delay: int) -> float:
        free = [each.free for each in tried]
        wait_ms = await self._engine.run(self._script, self._keys(tried), "begin", KEEP_ATTEMPTS, max_delay, *free)
        return int(wait_ms) / 1000

    async def withdraw(self, tried: Sequence[Tried]) -> None:
        await self._engine.run(self._script, self._keys(tried), "withdraw", KEEP_ATTEMPTS)

    async def succeed(self, tried: Sequence[Tried]) -> None:
        await self._engine.call("DEL", *self._keys(tried))

    def _keys(self, tried: Sequence[Tried]) -> list[str]:
        return [self._prefix + each.key for each in tried]
