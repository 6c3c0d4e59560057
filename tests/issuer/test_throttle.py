"""Limits by address and account where only the clock, the store or the hash queue differ from a real run."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

import pytest

from authix_issuer.adapters.memory_limits import MemoryAttempts, MemoryCounters
from authix_issuer.adapters.redis_limits import RedisAttempts, RedisCounters
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.errors import (
    CredentialsWrong,
    IssuerError,
    Overloaded,
    StoreUnavailable,
    TooManyAttempts,
    TooManyRequests,
)
from authix_issuer.ports import KEEP_ATTEMPTS, Tried
from authix_issuer.throttle import FREE_AT_ADDRESS, FREE_IN_ALL, Throttle
from tests.servers.redis import RedisServer

KEY = bytes(32)
HERE, THERE = "192.0.2.1", "192.0.2.2"
ANN = "ann@example.com"


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(MemoryCounters(clock), MemoryAttempts(clock), KEY, logins="off", registrations="off", max_delay=900)


async def attempt(throttle: Throttle, outcome: IssuerError | None, address: str = HERE, email: str = ANN) -> int:
    """Seconds to wait; 0 when the attempt was let through."""
    try:
        async with throttle.attempt(address, email):
            if outcome is not None:
                raise outcome
    except TooManyAttempts as refused:
        return refused.retry_after
    except IssuerError as error:
        if error is not outcome:
            raise
    return 0


WRONG = CredentialsWrong("email or password is wrong")


async def test_the_delays_double_up_to_the_cap_and_are_told_to_the_second(throttle: Throttle, clock: Clock) -> None:
    for _ in range(FREE_AT_ADDRESS):
        assert await attempt(throttle, WRONG) == 0
    told = []
    for _ in range(13):
        told.append(await attempt(throttle, WRONG))
        clock.now += told[-1] - 0.01
        assert await attempt(throttle, WRONG) == 1
        clock.now += 0.02
        assert await attempt(throttle, WRONG) == 0
    assert told == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_whoever_guesses_from_one_place_does_not_keep_the_owner_out_of_another(throttle: Throttle) -> None:
    for _ in range(1000):
        await attempt(throttle, WRONG, HERE)
    assert await attempt(throttle, None, THERE) == 0


async def test_guesses_from_many_places_are_delayed_together(throttle: Throttle) -> None:
    outcomes = [await attempt(throttle, WRONG, f"192.0.2.{n}") for n in range(FREE_IN_ALL + 1)]
    assert outcomes == [0] * FREE_IN_ALL + [1]


async def test_the_owners_login_does_not_help_the_guesser(throttle: Throttle) -> None:
    for _ in range(FREE_AT_ADDRESS):
        await attempt(throttle, WRONG, HERE)
    assert await attempt(throttle, None, THERE) == 0
    assert await attempt(throttle, WRONG, HERE) == 1


@pytest.mark.parametrize("nothing", [Overloaded(), StoreUnavailable()])
async def test_an_attempt_that_told_nothing_about_the_password_does_not_count(
    throttle: Throttle, nothing: IssuerError
) -> None:
    for _ in range(3 * FREE_AT_ADDRESS):
        assert await attempt(throttle, nothing) == 0


async def test_attempts_are_forgotten_after_some_time_of_quiet(throttle: Throttle, clock: Clock) -> None:
    for _ in range(FREE_AT_ADDRESS):
        await attempt(throttle, WRONG)
    clock.now += KEEP_ATTEMPTS + 1
    for _ in range(FREE_AT_ADDRESS):
        assert await attempt(throttle, WRONG) == 0


@pytest.mark.parametrize("spelling", ["Ann@Example.com", "ANN@EXAMPLE.COM", "\uff41nn@example.com"])
async def test_every_spelling_of_an_email_is_one_account(throttle: Throttle, spelling: str) -> None:
    for _ in range(FREE_AT_ADDRESS):
        await attempt(throttle, WRONG)
    assert await attempt(throttle, WRONG, email=spelling) == 1


@pytest.mark.parametrize("email", ["", "nonsense", "a\udc00@example.com", "x" * 16_000, "\0"])
async def test_what_is_no_email_counts_like_an_account(throttle: Throttle, email: str) -> None:
    for _ in range(FREE_AT_ADDRESS):
        assert await attempt(throttle, WRONG, email=email) == 0
    assert await attempt(throttle, WRONG, email=email) == 1


async def test_what_has_expired_leaves_the_memory(clock: Clock) -> None:
    counters, attempts = MemoryCounters(clock), MemoryAttempts(clock)
    for n in range(20_000):
        await counters.incr(f"address-{n}", 60)
        await attempts.begin([Tried(f"account-{n}", 5)], 900)
    clock.now += KEEP_ATTEMPTS + 1
    for n in range(20_000):
        await counters.incr(f"another-{n}", 60)
        await attempts.begin([Tried(f"another-{n}", 5)], 900)
    assert len(counters) == len(attempts) == 20_000


async def test_memory_is_bounded_whoever_fills_it() -> None:
    counters = MemoryCounters()
    for n in range(500_000):
        await counters.incr(str(n), 3600)
    assert len(counters) <= 200_000
    assert await counters.incr("499999", 3600) == 2


async def test_a_limit_tells_when_the_next_request_is_let_through(clock: Clock) -> None:
    counters = MemoryCounters()
    throttle = Throttle(counters, MemoryAttempts(), KEY, logins="off", registrations="2/hour", max_delay=0)
    for _ in range(2):
        await throttle.registration(HERE)
    with pytest.raises(TooManyRequests) as refused:
        await throttle.registration(HERE)
    assert 3595 <= refused.value.retry_after <= 3600
    await throttle.registration(THERE)


@pytest.fixture
async def on_redis(redis_server: RedisServer) -> AsyncIterator[Throttle]:
    async with RedisEngine(redis_server.url) as engine:
        yield Throttle(
            RedisCounters(engine), RedisAttempts(engine), KEY, logins="2/hour", registrations="2/hour", max_delay=900
        )


async def test_redis_holds_the_limits_but_no_email_address(on_redis: Throttle, redis_server: RedisServer) -> None:
    assert await attempt(on_redis, WRONG) == 0
    keys = redis_server.cli("KEYS", "*").splitlines()
    assert len(keys) == 3
    assert all(int(redis_server.cli("TTL", key)) > 0 for key in keys)
    assert not any("ann" in key or "example" in key for key in keys)
    assert await attempt(on_redis, WRONG) == 0
    with pytest.raises(TooManyRequests) as refused:
        await attempt(on_redis, WRONG)
    assert type(refused.value) is TooManyRequests
    assert 3590 <= refused.value.retry_after <= 3600


async def test_without_redis_passwords_are_not_tried_but_users_register_and_the_log_says_so_once(
    on_redis: Throttle, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    with caplog.at_level(logging.ERROR, "authix.issuer"):
        for _ in range(5):
            await on_redis.registration(HERE)
        with pytest.raises(StoreUnavailable):
            async with on_redis.attempt(HERE, ANN):
                pytest.fail("a password was tried")
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "authix.issuer"] == [
        "requests are not limited by address until the store answers"
    ]
