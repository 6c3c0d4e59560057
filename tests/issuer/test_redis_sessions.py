"""What Redis alone can get wrong: its clock, its memory, its restarts, its absence."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from authix.errors import SettingsError
from authix.events import LOG_WINDOW
from authix_issuer.adapters.redis_pipeline import DEADLINE, RedisEngine
from authix_issuer.adapters.redis_sessions import SHARDS, RedisSessions, shard_of
from authix_issuer.errors import StoreUnavailable
from authix_issuer.ports import KEEP_EXPIRED_US, Grants, NewSession, Presented, Reused, Rotated, Scope, concerns
from tests.programs import HOST, eventually
from tests.servers.redis import RedisCluster, RedisServer
from tests.servers.tcp_proxy import TcpProxy

ANN = "a" * 32
HOUR_US = 3_600_000_000
SECRET = bytes(range(32))


@pytest.fixture
def namespace() -> str:
    return secrets.token_hex(8)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[RedisSessions]:
    async with RedisEngine(redis_url) as engine:
        yield RedisSessions(engine, namespace)


def new_session(subject: str = ANN, session: str = "", life_us: int = HOUR_US) -> tuple[NewSession, Presented]:
    session = session or secrets.token_hex(16)
    return NewSession(session, subject, Grants(("reader",)), SECRET, life_us), Presented(session, subject, SECRET)


async def keys_of(redis: Redis, namespace: str) -> list[str]:
    return sorted([key.decode() async for key in redis.scan_iter(f"*{namespace}*")])


async def test_moments_go_on_from_the_last_when_the_servers_clock_has_stepped_back(
    store: RedisSessions, redis: Redis, namespace: str
) -> None:
    ahead_us = time.time_ns() // 1000 + HOUR_US
    await redis.set(f"{{{namespace}:{shard_of(ANN)}}}:clock", ahead_us)
    opened, shown = new_session()
    at_us = (await store.open(opened)).at_us
    rotated = await store.refresh(shown, 0, grace_us=0)
    logout = await store.close(shown, Scope.USER)
    assert isinstance(rotated, Rotated)
    assert logout is not None
    assert [at_us, rotated.at_us, logout.since_us] == [ahead_us + 1, ahead_us + 2, ahead_us + 3]


async def test_moments_are_the_servers_time(store: RedisSessions) -> None:
    before_us = time.time_ns() // 1000
    at_us = (await store.open(new_session()[0])).at_us
    assert before_us <= at_us <= time.time_ns() // 1000


async def test_every_key_of_a_user_is_on_the_users_shard_and_expires(
    store: RedisSessions, redis: Redis, namespace: str
) -> None:
    opened, shown = new_session()
    await store.open(opened)
    await store.open(new_session()[0])
    await store.close(shown, Scope.SESSION)
    tag = f"{{{namespace}:{shard_of(ANN)}}}:"
    found = await keys_of(redis, namespace)
    assert len(found) == 6
    assert all(key.startswith(tag) for key in found)
    lives = {key.removeprefix(tag).partition(":")[0]: await redis.pttl(key) / 1000 for key in found}
    session_life = (HOUR_US + KEEP_EXPIRED_US) / 1e6
    assert lives.pop("clock") < 0, "the clock stays"
    assert lives == {
        "ended": pytest.approx(10, abs=9),
        "log": pytest.approx(LOG_WINDOW, abs=30),
        "unpublished": pytest.approx(LOG_WINDOW, abs=30),
        "subject": pytest.approx(session_life, abs=30),
        "session": pytest.approx(session_life, abs=30),
    }


async def test_who_ends_a_session_is_told_so_even_if_the_first_answer_is_lost(
    redis_server: RedisServer, namespace: str
) -> None:
    with TcpProxy(redis_server.port) as way:
        async with RedisEngine(f"redis://{HOST}:{way.port}/0") as engine:
            store = RedisSessions(engine, namespace)
            for scope in Scope:
                opened, shown = new_session()
                await store.open(opened)
                way.cut_in_answer(0)
                logout = await store.close(shown, scope)
                assert logout is not None
                assert logout in [entry.revocation for entry in await store.read(None, 1000)]
                assert await store.close(shown, Scope.SESSION) is None or scope is Scope.OTHERS
            opened, shown = new_session()
            await store.open(opened)
            for counter in range(3):
                await store.refresh(shown, counter, grace_us=0)
            way.cut_in_answer(0)
            assert isinstance(await store.refresh(shown, 0, grace_us=0), Reused)
            assert await store.refresh(shown, 0, grace_us=0) is None
    async with Redis(host=HOST, port=redis_server.port) as redis:
        remembered = [key for key in await keys_of(redis, namespace) if ":ended:" in key]
        assert len(remembered) == len(Scope) + 2
        assert all([0 < await redis.pttl(key) <= 10_000 for key in remembered])


async def test_the_set_of_a_users_sessions_loses_the_dead_ones(
    store: RedisSessions, redis: Redis, namespace: str
) -> None:
    key = f"{{{namespace}:{shard_of(ANN)}}}:subject:{ANN}"
    await store.open(new_session(session="dead")[0])
    await redis.zadd(key, {"dead": time.time_ns() // 1000 - KEEP_EXPIRED_US - 1})
    await store.open(new_session(session="alive")[0])
    assert await redis.zrange(key, 0, -1) == [b"alive"]


async def test_to_list_a_users_sessions_cleans_the_set_of_them(
    store: RedisSessions, redis: Redis, namespace: str
) -> None:
    key = f"{{{namespace}:{shard_of(ANN)}}}:subject:{ANN}"
    now_us = time.time_ns() // 1000
    await store.open(new_session(session="alive")[0])
    await redis.zadd(key, {"dead": now_us - KEEP_EXPIRED_US - 1, "expired": now_us - 1, "vanished": now_us + HOUR_US})
    assert [session.id for session in await store.list_open(ANN, 10)] == ["alive"]
    assert await redis.zrange(key, 0, -1) == [b"expired", b"alive"], "an expired one can still be closed"


async def test_to_list_a_users_sessions_takes_one_round_trip(
    store: RedisSessions, redis: Redis, namespace: str
) -> None:
    for _ in range(20):
        await store.open(new_session()[0])
    before = await redis.info("commandstats")
    assert len(await store.list_open(ANN, 100)) == 20
    after = await redis.info("commandstats")
    assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] == 1


async def test_an_expired_session_is_refused_a_refresh_and_can_still_be_logged_out(store: RedisSessions) -> None:
    opened, shown = new_session(life_us=1)
    await store.open(opened)
    assert await store.refresh(shown, 0, grace_us=0) is None
    assert await store.close(shown, Scope.USER) is not None


async def test_the_trail_lives_as_long_as_the_log(store: RedisSessions, redis: Redis, namespace: str) -> None:
    await store.keep_trail(b"trail")
    assert await redis.pttl(f"{namespace}:trail") / 1000 == pytest.approx(LOG_WINDOW, abs=30)


async def test_a_log_of_many_entries_is_read_in_pages_that_waste_nothing(store: RedisSessions) -> None:
    for number in range(SHARDS * 8):
        opened, shown = new_session(f"{number:032d}")
        await store.open(opened)
        await store.close(shown, Scope.USER)
    cursor, pages = None, 0
    found: set[str] = set()
    while page := await store.read(cursor, SHARDS * 4):
        assert len(page) <= SHARDS * 4
        cursor, pages = page[-1].cursor, pages + 1
        found |= {concerns(entry.revocation) for entry in page}
    assert len(found) == SHARDS * 8
    assert pages < 10


async def test_the_log_forgets_what_is_older_than_any_token(store: RedisSessions, redis: Redis, namespace: str) -> None:
    shard = f"{{{namespace}:{shard_of(ANN)}}}"
    old_us = time.time_ns() // 1000 - (LOG_WINDOW + 1) * 1_000_000
    dead: dict[Any, Any] = {"kind": "user", "sub": ANN, "sid": "x", "until": 1}
    await redis.xadd(f"{shard}:log", dead, id=f"{old_us}-0")
    await redis.zadd(f"{shard}:unpublished", {str(old_us): old_us})
    opened, shown = new_session()
    await store.open(opened)
    logout = await store.close(shown, Scope.USER)
    assert [entry.revocation for entry in await store.read(None, 10)] == [logout]
    assert await store.unpublished(age=0, limit=10) == [logout]


async def test_scripts_are_sent_again_after_the_server_forgot_them(store: RedisSessions, redis: Redis) -> None:
    await store.open(new_session()[0])
    await redis.script_flush()
    assert (await store.open(new_session()[0])).at_us > 0


async def test_commands_of_one_moment_do_not_mix_up_their_answers(store: RedisSessions) -> None:
    subjects = [f"{n:032d}" for n in range(300)]
    opened = [new_session(subject) for subject in subjects]
    await asyncio.gather(*(store.open(session) for session, _ in opened))
    logouts = await asyncio.gather(*(store.close(shown, Scope.USER) for _, shown in opened))
    assert [concerns(logout) if logout else "" for logout in logouts] == subjects
    assert len({shard_of(subject) for subject in subjects}) == SHARDS


async def test_a_lease_is_one_holders_until_it_runs_out(store: RedisSessions) -> None:
    assert await store.lease("one", 0.2)
    assert not await store.lease("two", 0.2)
    await store.release("two")
    assert not await store.lease("two", 0.2)
    while not await store.lease("two", 60):
        await asyncio.sleep(0.02)
    assert not await store.lease("one", 60)


async def test_what_was_acknowledged_survives_a_crash_of_redis(redis_server: RedisServer) -> None:
    async with RedisEngine(redis_server.url) as engine:
        store = RedisSessions(engine)
        kept, shown = new_session()
        ended, gone = new_session()
        await store.open(kept)
        await store.open(ended)
        logout = await store.close(gone, Scope.SESSION)
        rotated = await store.refresh(shown, 0, grace_us=0)
        assert isinstance(rotated, Rotated)
        before = await store.tick()
        redis_server.kill()
        await asyncio.to_thread(redis_server.start)
        assert isinstance(await store.refresh(shown, rotated.counter, grace_us=0), Rotated)
        assert await store.refresh(gone, 0, grace_us=0) is None
        assert [entry.revocation for entry in await store.read(None, 10)] == [logout]
        assert await store.unpublished(age=0, limit=10) == [logout]
        assert (await store.tick()).at_us > before.at_us


@pytest.mark.parametrize("how", ["dead", "hanging"])
async def test_a_redis_that_is_away_is_said_within_the_deadline_and_comes_back_by_itself(
    redis_server: RedisServer, how: str
) -> None:
    async with RedisEngine(redis_server.url) as engine:
        store = RedisSessions(engine)
        opened, shown = new_session()
        await store.open(opened)
        redis_server.kill() if how == "dead" else redis_server.pause()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.refresh(shown, 0, grace_us=HOUR_US)
        assert time.monotonic() - began < DEADLINE + 2
        await asyncio.to_thread(redis_server.start) if how == "dead" else redis_server.resume()
        assert await repeated(store, shown)


async def test_a_server_that_is_the_master_no_longer_is_left_for_the_one_that_is(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """As behind a name, or a proxy, that leads to the master of the moment."""
    with RedisServer(tmp_path / "successor") as successor, TcpProxy(redis_server.port) as way:
        async with RedisEngine(f"redis://{HOST}:{way.port}/0") as engine:
            store = RedisSessions(engine)
            opened, shown = new_session()
            await store.open(opened)
            successor.cli("REPLICAOF", HOST, str(redis_server.port))
            eventually(lambda: "master_link_status:up" in successor.cli("INFO", "replication"), "the copy is whole")
            successor.cli("REPLICAOF", "NO", "ONE")
            redis_server.cli("REPLICAOF", HOST, str(successor.port))
            way.upstream_port = successor.port
            assert isinstance(await store.refresh(shown, 0, grace_us=0), Rotated)
            assert await store.close(shown, Scope.SESSION) is not None


async def test_one_dead_node_of_a_cluster_hurts_only_its_own_users(redis_cluster: RedisCluster) -> None:
    async with RedisEngine(redis_cluster.url) as engine:
        store = RedisSessions(engine)
        users = {shard_of(subject): subject for subject in (f"{n:032d}" for n in range(500))}
        opened = {shard: new_session(subject) for shard, subject in users.items()}
        await asyncio.gather(*(store.open(session) for session, _ in opened.values()))
        redis_cluster.nodes[0].kill()
        for counter in range(3):
            answers = await asyncio.gather(
                # without a grace, a step that a healthy node is made to repeat is taken for a theft
                *(store.refresh(shown, counter, grace_us=0) for _, shown in opened.values()),
                return_exceptions=True,
            )
            hurt = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
            assert 0 < len(hurt) < SHARDS
            assert len([answer for answer in answers if isinstance(answer, Rotated)]) == SHARDS - len(hurt)
        await asyncio.to_thread(redis_cluster.nodes[0].start)
        await asyncio.to_thread(redis_cluster.wait_until_ok)
        for (_, shown), answer in zip(opened.values(), answers, strict=True):
            assert await repeated(store, shown, answer.counter if isinstance(answer, Rotated) else 0)


async def test_a_replica_is_refused_at_the_start_with_a_sentence_that_names_its_master(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "replica", "--replicaof", f"{HOST} {redis_server.port}") as replica:
        sentence = f"AUTHIX_SESSIONS_URL names a Redis that is a replica of {HOST}:{redis_server.port}"
        with pytest.raises(SettingsError, match=sentence):
            async with RedisEngine(replica.url):
                pass


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://127.0.0.1:1", "AUTHIX_SESSIONS_URL names a Redis that does not answer"),
        ("redis://user:secret@127.0.0.1:1/x", "AUTHIX_SESSIONS_URL"),
    ],
)
async def test_a_wrong_url_is_said_in_a_sentence_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refusal:
        async with RedisEngine(url):
            pass
    assert "secret" not in str(refusal.value)


async def repeated(store: RedisSessions, shown: Presented, counter: int = 0) -> bool:
    """Whether a refresh works again within a while, as a client that repeats it would find."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return isinstance(await store.refresh(shown, counter, grace_us=HOUR_US), Rotated)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    return False
