"""Attempts at passwords, on every engine: counted when they begin, delayed, forgotten."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from authix_issuer.adapters.memory_limits import MemoryAttempts
from authix_issuer.adapters.redis_limits import RedisAttempts
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.ports import AttemptStore, Tried

ENGINES = ("memory", "redis", "redis-cluster")


@pytest.fixture(params=ENGINES)
async def attempts(request: pytest.FixtureRequest) -> AsyncIterator[AttemptStore]:
    if request.param == "memory":
        yield MemoryAttempts()
        return
    url = request.getfixturevalue("redis_url" if request.param == "redis" else "redis_cluster_url")
    async with RedisEngine(url) as engine:
        yield RedisAttempts(engine, secrets.token_hex(4))


def tried(free: int = 3, more: int = 100) -> tuple[Tried, Tried]:
    account = secrets.token_hex(8)
    return Tried(f"{{{account}}}:here", free), Tried(f"{{{account}}}", more)


async def until_allowed(attempts: AttemptStore, these: tuple[Tried, ...], max_delay: int) -> float:
    """Seconds until an attempt may begin again; it has begun."""
    began = time.monotonic()
    while wait := await attempts.begin(these, max_delay):
        await asyncio.sleep(wait)
    return time.monotonic() - began


async def test_after_the_free_attempts_each_costs_twice_the_delay_of_the_one_before(attempts: AttemptStore) -> None:
    these = tried()
    for _ in range(3):
        assert await attempts.begin(these, 60) == 0
    assert 0 < await attempts.begin(these, 60) <= 1
    assert await until_allowed(attempts, these, 60) <= 1.5
    assert 1 < await attempts.begin(these, 60) <= 2


async def test_no_delay_is_longer_than_the_longest(attempts: AttemptStore) -> None:
    these = tried(free=1)
    for _ in range(3):
        assert await until_allowed(attempts, these, 1) <= 1.5
    assert 0 < await attempts.begin(these, 1) <= 1


async def test_a_refused_attempt_makes_the_delay_no_longer(attempts: AttemptStore) -> None:
    these = tried(free=1)
    await attempts.begin(these, 60)
    first = await attempts.begin(these, 60)
    for _ in range(20):
        await attempts.begin(these, 60)
    assert await attempts.begin(these, 60) <= first


async def test_success_forgets_all_attempts(attempts: AttemptStore) -> None:
    these = tried(free=2)
    for _ in range(3):
        assert await attempts.begin(these, 60) == 0
        await attempts.succeed(these)
    assert await attempts.begin(these, 60) == 0
    assert await attempts.begin(these, 60) == 0
    assert await attempts.begin(these, 60) > 0


async def test_an_attempt_that_came_to_nothing_is_taken_back(attempts: AttemptStore) -> None:
    these = tried(free=2)
    for _ in range(5):
        assert await attempts.begin(these, 60) == 0
        await attempts.withdraw(these)
    await attempts.withdraw(these)
    assert await attempts.begin(these, 60) == 0
    assert await attempts.begin(these, 60) == 0
    await attempts.withdraw(these)
    assert await attempts.begin(these, 60) == 0
    assert await attempts.begin(these, 60) > 0


async def test_of_many_side_by_side_only_the_free_ones_begin(attempts: AttemptStore) -> None:
    these = tried(free=3)
    waits = await asyncio.gather(*(attempts.begin(these, 60) for _ in range(50)))
    assert sum(wait == 0 for wait in waits) == 3


async def test_what_is_counted_together_is_delayed_together_and_nothing_else(attempts: AttemptStore) -> None:
    here, account = tried(free=1, more=2)
    there = here._replace(key=here.key + "-not")
    assert await attempts.begin((here, account), 60) == 0
    assert await attempts.begin((here, account), 60) > 0
    assert await attempts.begin((there, account), 60) == 0
    assert await attempts.begin((there._replace(key=there.key + "-either"), account), 60) > 0
    assert await attempts.begin(tried(), 60) == 0
