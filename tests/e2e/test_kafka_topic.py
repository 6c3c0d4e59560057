"""An issuer on the embedded stores that publishes to Kafka, and verifiers that follow it: brokers come, go and hang."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from authix import Authix, TokenError, Unavailable
from authix.events import Event, Heartbeat, SessionRevoked, UserRevoked, decode_event
from authix_issuer import relay as relay_module
from authix_issuer.adapters import kafka_topic, sqlite_sessions
from authix_issuer.adapters.kafka_topic import KafkaTopic, lossy_settings
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.errors import TopicUnavailable
from authix_issuer.ports import Grants, Logout, NewSession, Presented, Scope
from authix_issuer.relay import Relay
from tests.programs import DEADLINE, IssuerProgram, Program, eventually, is_free, login, register
from tests.servers.kafka import KafkaServer
from tests.servers.tcp_proxy import TcpProxy

T = TypeVar("T")
StartIssuer = Callable[..., IssuerProgram]
names = (f"authix.logout-{number}" for number in itertools.count())

GOOD = {
    "cleanup.policy": "delete",
    "retention.ms": "7440000",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
    "min.insync.replicas": "2",
}
# setting -> (a value that could lose a logout, what it is to be set to)
LOSSY = {
    "cleanup.policy": ("compact", "delete"),
    "retention.ms": ("60000", "7440000"),
    "retention.bytes": ("1000000", "-1"),
    "message.timestamp.type": ("CreateTime", "LogAppendTime"),
    "unclean.leader.election.enable": ("true", "false"),
}


class Appended(NamedTuple):
    partition: int
    offset: int
    at_ms: int
    """The broker's time."""
    event: Event


@asynccontextmanager
async def admin_of(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def settings_of(bootstrap: str, topic: str) -> tuple[int, Mapping[str, str]]:
    """The number of partitions and the settings."""
    async with admin_of(bootstrap) as admin:
        partitions = (await admin.describe_topics([topic]))[0]["partitions"]
        answer = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))[0].resources[0]
    return len(partitions), {name: value for name, value, *_ in answer[4]}


async def make(bootstrap: str, topic: str, config: Mapping[str, str], partitions: int = 1) -> None:
    async with admin_of(bootstrap) as admin:
        answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=dict(config))])
        assert answer.topic_errors[0][1] == 0, answer
        while topic not in await admin.list_topics():
            await asyncio.sleep(0.01)


async def mend(bootstrap: str, topic: str) -> None:
    async with admin_of(bootstrap) as admin:
        config = GOOD | {"min.insync.replicas": "1"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])


async def read(bootstrap: str, topic: str) -> list[Appended]:
    """All that stands in the topic, each partition in its order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)
    async with consumer:
        await consumer.end_offsets([TopicPartition(topic, 0)])
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        firsts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        for partition, first in firsts.items():
            consumer.seek(partition, first)
        found: list[Appended] = []
        while len(found) < sum(ends.values()) - sum(firsts.values()):
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    event = decode_event(record.value)
                    assert event is not None
                    found.append(Appended(partition.partition, record.offset, record.timestamp, event))
    return found


def revoked(found: list[Appended]) -> Counter[str]:
    return Counter(one.event.sub for one in found if isinstance(one.event, UserRevoked | SessionRevoked))


def run(call: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(call)


def is_on_topic(bootstrap: str, topic: str, *subjects: str) -> Callable[[], bool]:
    def look() -> bool:
        return set(subjects) <= revoked(run(read(bootstrap, topic))).keys()

    return look


def readiness(issuer: IssuerProgram) -> Any:
    answer = httpx.get(f"{issuer.url}/readyz", timeout=DEADLINE, trust_env=False)
    assert answer.status_code == 200, "without Kafka, logins and logouts go on"
    return answer.json()["degraded"]


def log_out(client: httpx.Client) -> float:
    """Returns the seconds that it took."""
    began = time.monotonic()
    assert client.post("/logout").status_code == 204
    return time.monotonic() - began


def logout_of(subject: str) -> Logout:
    return UserRevoked(sub=subject, since_us=1, until=2)


async def log_out_at(store: SqliteSessions, subject: str) -> Logout:
    session = NewSession(f"session of {subject}", subject, Grants(), b"", 10**12)
    await store.open(session)
    revocation = await store.close(Presented(session.id, subject, None), Scope.USER)
    assert revocation is not None
    return revocation


@pytest.fixture
def topic() -> str:
    """A topic's name that no other test has."""
    return next(names)


@pytest.fixture
def issuer_of(tmp_path: Path, programs: Callable[[Program], Program]) -> StartIssuer:
    """``issuer_of(bootstrap, topic)``: an issuer that is not yet started."""

    def prepare(bootstrap: str, topic: str) -> IssuerProgram:
        issuer = IssuerProgram(tmp_path / "issuer", AUTHIX_KAFKA=bootstrap, AUTHIX_TOPIC=topic)
        programs(issuer)
        return issuer

    return prepare


@pytest.fixture(scope="module")
def brokers(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker of this file's own, and a proxy in front of it."""
    if reason := KafkaServer.missing():  # the shared one was named by a URL
        pytest.skip(reason)
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    with TcpProxy(server.proxied_port) as proxy:
        server.proxy_port = proxy.port
        with server:
            yield server, proxy


@pytest.fixture
def broker(brokers: tuple[KafkaServer, TcpProxy]) -> Iterator[KafkaServer]:
    """One that the test may stop, kill and pause."""
    server, _ = brokers
    yield server
    assert server.process is not None
    if server.process.poll() is None:
        server.resume()
    else:
        server.start()


@pytest.fixture
def proxy(brokers: tuple[KafkaServer, TcpProxy]) -> Iterator[TcpProxy]:
    """In front of ``broker``."""
    yield brokers[1]
    brokers[1].heal()


class TestTheTopicsSettings:
    def test_a_missing_topic_is_made_so_that_it_keeps_every_live_logout(
        self, kafka_bootstrap: str, topic: str, start_issuer: StartIssuer
    ) -> None:
        issuer = start_issuer(AUTHIX_KAFKA=kafka_bootstrap, AUTHIX_TOPIC=topic)
        assert readiness(issuer) == {}
        partitions, config = run(settings_of(kafka_bootstrap, topic))
        assert partitions == 6
        assert lossy_settings(topic, config, replicas=1, brokers=1) == []
        assert {name: config[name] for name in GOOD} == GOOD | {"min.insync.replicas": "1"}

    def test_a_topic_that_could_lose_logouts_stops_the_start_with_what_mends_it(
        self, kafka_bootstrap: str, topic: str, issuer_of: StartIssuer
    ) -> None:
        run(make(kafka_bootstrap, topic, {name: bad for name, (bad, _) in LOSSY.items()}))
        issuer = issuer_of(kafka_bootstrap, topic).start()
        assert issuer.process is not None
        assert issuer.process.wait(DEADLINE) == 2
        said = issuer.output()
        for name, (bad, good) in LOSSY.items():
            (line,) = [line for line in said.splitlines() if f" {name}=" in line]
            assert f"{topic} has {name}={bad}" in line
            assert f"set it to {good} with kafka-configs" in line
        assert "Traceback" not in said
        run(mend(kafka_bootstrap, topic))
        assert readiness(issuer.start().ready()) == {}

    @pytest.mark.parametrize("name", LOSSY)
    def test_each_of_them_is_one_too_many(self, name: str) -> None:
        bad, good = LOSSY[name]
        (sentence,) = lossy_settings("t", GOOD | {name: bad}, replicas=3, brokers=3)
        assert f"t has {name}={bad}" in sentence
        assert f"set it to {good}" in sentence
        config = {key: value for key, value in GOOD.items() if key != name}
        assert len(lossy_settings("t", config, replicas=3, brokers=3)) == 1, "a setting that is not told is not good"

    @pytest.mark.parametrize(
        ("config", "replicas", "brokers", "problems"),
        [
            ({}, 3, 3, []),
            ({}, 3, 9, []),
            ({"cleanup.policy": "compact,delete"}, 3, 3, ["cleanup.policy"]),
            ({"retention.ms": "-1"}, 3, 3, []),
            ({"retention.ms": "3720000"}, 3, 3, []),
            ({"retention.ms": "3719999"}, 3, 3, ["retention.ms"]),
            ({"min.insync.replicas": "1"}, 3, 3, ["min.insync.replicas"]),
            ({"min.insync.replicas": "3"}, 5, 5, []),
            ({"min.insync.replicas": "1"}, 1, 1, []),
            ({"min.insync.replicas": "1"}, 2, 2, []),
            ({}, 2, 3, ["2 replica(s) on 3 brokers"]),
            ({"min.insync.replicas": "1"}, 1, 2, ["1 replica(s) on 2 brokers"]),
            ({"min.insync.replicas": "1", "retention.bytes": "9"}, 1, 3, ["retention.bytes", "1 replica(s)"]),
        ],
    )
    def test_one_brokers_word_is_enough_only_where_there_is_but_one(
        self, config: dict[str, str], replicas: int, brokers: int, problems: list[str]
    ) -> None:
        found = lossy_settings("t", GOOD | config, replicas=replicas, brokers=brokers)
        assert len(found) == len(problems)
        for sentence, problem in zip(found, problems, strict=True):
            assert problem in sentence


class TestTheProducer:
    async def test_a_record_that_is_refused_stands_in_no_others_way(self, kafka_bootstrap: str, topic: str) -> None:
        await make(kafka_bootstrap, topic, GOOD | {"min.insync.replicas": "1", "max.message.bytes": "300"})
        async with KafkaTopic(kafka_bootstrap, topic, {}) as published:
            with pytest.raises(TopicUnavailable):
                await published.publish([logout_of("x" * 128)])
            for subject in ("ann", "bob"):
                await published.publish([logout_of(subject)])
        assert revoked(await read(kafka_bootstrap, topic)) == {"ann": 1, "bob": 1}

    async def test_what_was_given_up_is_not_sent_later_by_itself(
        self, broker: KafkaServer, proxy: TcpProxy, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else each try of an outage would come, and heartbeats as if they were of now."""
        monkeypatch.setattr(kafka_topic, "DEADLINE", 1.0)
        async with KafkaTopic(f"127.0.0.1:{proxy.port}", topic, {}) as published:
            proxy.refuse()
            for _ in range(2):
                with pytest.raises(TopicUnavailable):
                    await published.publish([logout_of("ann")])
            proxy.heal()
            await published.publish([logout_of("ann")])
            await published.publish([logout_of("bob")])
        assert revoked(await read(broker.bootstrap, topic)) == {"ann": 1, "bob": 1}


class TestBrokersThatAreAway:
    def test_an_issuer_starts_without_them_and_publishes_once_they_are_there_and_fit(
        self, broker: KafkaServer, topic: str, issuer_of: StartIssuer
    ) -> None:
        bootstrap = broker.bootstrap
        run(make(bootstrap, topic, {"retention.ms": "60000"}))
        broker.stop()
        issuer = issuer_of(bootstrap, topic).start().ready()
        with ExitStack() as stack:
            users = {email: stack.enter_context(issuer.client()) for email in ("ann@example.com", "bob@example.com")}
            subjects = [register(client, email) for email, client in users.items()]
            ann, bob = users.values()
            for email, client in users.items():
                login(client, email)
            assert log_out(ann) < 1
            eventually(lambda: "does not confirm" in readiness(issuer).get("topic", ""), "it says that Kafka is away")
            broker.start()
            assert log_out(bob) < 1
        eventually(lambda: "retention.ms=60000" in readiness(issuer)["topic"], "it says what is wrong with the topic")
        assert revoked(run(read(bootstrap, topic))) == {}
        run(mend(bootstrap, topic))
        eventually(is_on_topic(bootstrap, topic, *subjects), "both logouts are published")
        eventually(lambda: readiness(issuer) == {}, "it says that all is well")
        assert "Traceback" not in issuer.output()

    @pytest.mark.parametrize("how", ["refused from the start", "hanging"])
    def test_an_issuer_ends_soon_and_cleanly_without_them(
        self, proxy: TcpProxy, topic: str, issuer_of: StartIssuer, how: str
    ) -> None:
        if how == "refused from the start":
            proxy.refuse()
        issuer = issuer_of(f"127.0.0.1:{proxy.port}", topic).start().ready()
        with issuer.client() as ann:
            register(ann, "ann@example.com")
            login(ann, "ann@example.com")
            if how == "hanging":
                proxy.stall()
            assert log_out(ann) < 1
        began = time.monotonic()
        assert issuer.stop() == 0
        assert time.monotonic() - began < 15
        for noise in ("Traceback", "Task was destroyed", "Unclosed", "never retrieved", "never awaited"):
            assert noise not in issuer.output()

    def test_an_issuer_that_is_ended_while_they_hang_publishes_what_it_has_once_they_go_on(
        self, broker: KafkaServer, topic: str, issuer_of: StartIssuer, redis_url: str
    ) -> None:
        bootstrap = broker.bootstrap
        issuer = issuer_of(bootstrap, topic)
        issuer.env |= {"AUTHIX_SESSIONS_URL": redis_url, "AUTHIX_SECRET": secrets.token_urlsafe(32)}
        issuer.start().ready()
        with ExitStack() as stack:
            users = {f"{name}@example.com": stack.enter_context(issuer.client()) for name in ("ann", "bob", "cy")}
            subjects = [register(client, email) for email, client in users.items()]
            for email, client in users.items():
                login(client, email)
            broker.pause()
            for client in users.values():  # the first is on its way by then, the others wait behind it
                assert log_out(client) < 1
        assert issuer.process is not None
        issuer.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_free(issuer.port), "it ends")
        assert issuer.process.poll() is None, "it waits for the broker"
        broker.resume()
        assert issuer.process.wait(DEADLINE) == 0
        assert set(subjects) <= revoked(run(read(bootstrap, topic))).keys()
        assert "Traceback" not in issuer.output()


class TestCrashes:
    def test_a_logout_between_closed_and_published_survives_the_issuers_crash(
        self, broker: KafkaServer, topic: str, issuer_of: StartIssuer
    ) -> None:
        issuer = issuer_of(broker.bootstrap, topic).start().ready()
        with issuer.client() as ann:
            subject = register(ann, "ann@example.com")
            login(ann, "ann@example.com")
            broker.pause()
            assert log_out(ann) < 1
        issuer.kill()
        broker.resume()
        issuer.start().ready()
        eventually(is_on_topic(broker.bootstrap, topic, subject), "the logout is published")

    def test_under_load_and_with_brokers_that_hang_and_crash_no_heartbeat_vouches_for_what_is_not_there(
        self, broker: KafkaServer, topic: str, issuer_of: StartIssuer
    ) -> None:
        issuer = issuer_of(broker.bootstrap, topic).start().ready()
        acknowledged: list[str] = []
        slowest: list[float] = []
        ending = threading.Event()

        def log_in_and_out(number: int) -> None:
            with issuer.client() as client:
                subject = register(client, f"user{number}@example.com")
                while not ending.is_set():
                    login(client, f"user{number}@example.com")
                    slowest.append(log_out(client))
                    acknowledged.append(subject)

        users = [threading.Thread(target=log_in_and_out, args=(number,)) for number in range(4)]
        for user in users:
            user.start()
        rng = random.Random(4)
        time.sleep(rng.uniform(0.2, 1))
        broker.pause()
        time.sleep(rng.uniform(1, 6))
        broker.resume()
        time.sleep(rng.uniform(0.2, 1))
        broker.kill()
        broker.start()
        time.sleep(rng.uniform(0.2, 1))
        ending.set()
        for user in users:
            user.join()
        eventually(lambda: readiness(issuer) == {}, "publishing works again", 30)

        def different() -> int:
            events = [one.event for one in run(read(broker.bootstrap, topic))]
            return len({event.since_us for event in events if isinstance(event, UserRevoked)})

        eventually(lambda: different() >= len(acknowledged), "all is published, however often", 30)
        found = run(read(broker.bootstrap, topic))
        first_of: dict[int, Appended] = {}
        for one in found:
            if isinstance(one.event, UserRevoked):
                earliest = first_of.setdefault(one.event.since_us, one)
                first_of[one.event.since_us] = min(one, earliest, key=lambda appended: appended.at_ms)
        assert len(first_of) == len(acknowledged)
        heartbeats = [one for one in found if isinstance(one.event, Heartbeat)]
        assert len({one.partition for one in heartbeats}) == 6
        for heartbeat in heartbeats:
            assert isinstance(heartbeat.event, Heartbeat)
            covered = [one for since_us, one in first_of.items() if since_us <= heartbeat.event.complete_until_us]
            assert all(one.at_ms <= heartbeat.at_ms for one in covered)
            assert all(one.offset < heartbeat.offset for one in covered if one.partition == heartbeat.partition)
        assert max(slowest) < 2, "a logout never waits for Kafka"


Soon = Callable[[Callable[[], bool], str], Awaitable[None]]


@pytest.fixture
def soon() -> Soon:
    """``eventually`` for who runs an event loop."""

    async def wait(condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, what
            await asyncio.sleep(0.01)

    return wait


def verdict(auth: Authix, token: str) -> str:
    try:
        auth.verify(token)
    except (TokenError, Unavailable) as error:
        return error.code
    return "accepted"


class TestVerifiers:
    @pytest.mark.parametrize("fault", ["killed", "paused", "stalled"])
    async def test_while_kafka_is_away_the_http_feed_is_followed_and_left_again(
        self, brokers: tuple[KafkaServer, TcpProxy], topic: str, issuer_of: StartIssuer, soon: Soon, fault: str
    ) -> None:
        broker, proxy = brokers
        begin = {"killed": broker.kill, "paused": broker.pause, "stalled": proxy.stall}[fault]
        end = {"killed": broker.start, "paused": broker.resume, "stalled": proxy.heal}[fault]
        issuer = issuer_of(broker.bootstrap, topic).start().ready()
        http = f"{issuer.url}/revocations"
        feeds = f"kafka://127.0.0.1:{proxy.port}/{topic},{http}"
        dead: list[str] = []
        async with Authix(issuer=issuer.url, audience="tests", feed=feeds, stale_after=6) as auth:
            await soon(auth.ready, "the verifier is ready")
            with issuer.client() as ann:
                register(ann, "ann@example.com")

                async def refused_after_logout() -> None:
                    token = login(ann, "ann@example.com")
                    assert verdict(auth, token) == "accepted"
                    assert log_out(ann) < 1
                    await soon(lambda: verdict(auth, token) == "token_revoked", "the token is refused")
                    dead.append(token)

                await refused_after_logout()
                begin()
                await soon(lambda: len(auth.feeds_in_use) == 2, "the HTTP feed is followed")
                await soon(lambda: (auth.freshness or 0) < 1, "the HTTP feed makes fresh")
                await refused_after_logout()
                end()
                await soon(lambda: len(auth.feeds_in_use) == 1, "Kafka is followed alone")
                await refused_after_logout()
                assert {verdict(auth, token) for token in dead} == {"token_revoked"}

    async def test_who_was_stale_accepts_no_logged_out_user_when_kafka_is_back(
        self, broker: KafkaServer, topic: str, issuer_of: StartIssuer, soon: Soon
    ) -> None:
        """What a broker that hung appends first are heartbeats of before, and the logouts come later."""
        issuer = issuer_of(broker.bootstrap, topic).start().ready()
        feed = f"kafka://{broker.bootstrap}/{topic}"
        async with Authix(issuer=issuer.url, audience="tests", feed=feed, stale_after=3) as auth:
            await soon(auth.ready, "the verifier is ready")
            with issuer.client() as ann:
                register(ann, "ann@example.com")
                token = login(ann, "ann@example.com")
                broker.pause()
                await soon(lambda: bool(readiness(issuer)), "the issuer has given up sending")
                assert log_out(ann) < 1
            await soon(lambda: verdict(auth, token) == "feed_stale", "the verifier is stale")
            broker.resume()
            seen: set[str] = set()
            while seen < {"feed_stale", "token_revoked"} or not auth.ready():
                seen.add(verdict(auth, token))
                await asyncio.sleep(0)
            assert seen == {"feed_stale", "token_revoked"}


async def delete(bootstrap: str, topic: str) -> None:
    async with admin_of(bootstrap) as admin:
        await admin.delete_topics([topic])


async def purge(bootstrap: str, topic: str) -> None:
    ends = {one.partition: one.offset + 1 for one in await read(bootstrap, topic)}
    async with admin_of(bootstrap) as admin:
        up_to = {TopicPartition(topic, number): RecordsToDelete(before_offset=end) for number, end in ends.items()}
        await admin.delete_records(up_to)


async def delete_and_make(bootstrap: str, topic: str) -> None:
    await delete(bootstrap, topic)
    config = GOOD | {"min.insync.replicas": "1"}
    while True:  # until the old one has gone for good
        try:
            await make(bootstrap, topic, config, partitions=6)
        except AssertionError:
            continue
        return


async def never_accepted(issuer: IssuerProgram, bootstrap: str, topic: str, token: str) -> None:
    """A verifier that starts now on Kafka alone refuses the token, and accepts it at no moment before that."""
    feed = f"kafka://{bootstrap}/{topic}"
    async with Authix(issuer=issuer.url, audience="tests", feed=feed) as auth:
        seen: set[str] = set()
        end = time.monotonic() + 40
        while "token_revoked" not in seen:
            assert time.monotonic() < end, seen
            seen.add(verdict(auth, token))
            assert "accepted" not in seen
            await asyncio.sleep(0)
        while not auth.ready():
            assert time.monotonic() < end, auth.problems()
            await asyncio.sleep(0.01)


class TestATopicThatLostItsRecords:
    @pytest.mark.parametrize("lose", [delete, delete_and_make, purge])
    @pytest.mark.parametrize("issuers", ["run", "are stopped meanwhile"])
    async def test_a_verifier_that_starts_afterwards_refuses_who_had_logged_out_before(
        self, kafka_bootstrap: str, topic: str, issuer_of: StartIssuer, lose: Any, issuers: str
    ) -> None:
        issuer = issuer_of(kafka_bootstrap, topic).start().ready()
        with issuer.client() as ann:
            subject = register(ann, "ann@example.com")
            token = login(ann, "ann@example.com")
            log_out(ann)
        while not is_vouched_for(subject, await read(kafka_bootstrap, topic)):
            await asyncio.sleep(0.1)
        if issuers != "run":
            assert issuer.stop() == 0
        await lose(kafka_bootstrap, topic)
        if issuers != "run":
            issuer.start().ready()
        await never_accepted(issuer, kafka_bootstrap, topic, token)
        assert "all live logouts were published again" in issuer.output()

    async def test_no_heartbeat_vouches_before_all_is_published_anew(self, kafka_bootstrap: str, topic: str) -> None:
        async with Database(MEMORY, sqlite_sessions.SCHEMA) as database:
            store = SqliteSessions(database)
            async with KafkaTopic(kafka_bootstrap, topic, {}) as published, Relay(store, published) as relay:
                for number in range(relay_module.PAGE * 3):
                    relay.publish(await log_out_at(store, f"u{number}"))
                while await store.unpublished(age=0, limit=1) or await store.trail() is None:
                    await asyncio.sleep(0.01)
                await purge(kafka_bootstrap, topic)
                purged_us = (await store.tick()).at_us
                heartbeats: list[Appended] = []
                while len(heartbeats) < 6:
                    await asyncio.sleep(0.1)
                    found = await read(kafka_bootstrap, topic)
                    # the second at the earliest: one may have been on its way
                    heartbeats = [
                        one
                        for one in found
                        if isinstance(one.event, Heartbeat) and one.event.at_us > purged_us + 1_000_000
                    ]
        assert len(revoked(found)) == relay_module.PAGE * 3
        last = {one.partition: one.offset for one in found if isinstance(one.event, UserRevoked)}
        assert all(last[one.partition] < one.offset for one in heartbeats)

    async def test_a_topic_that_lost_nothing_is_left_alone_when_issuers_come_and_go(
        self, kafka_bootstrap: str, topic: str, issuer_of: StartIssuer
    ) -> None:
        issuer = issuer_of(kafka_bootstrap, topic).start().ready()
        with issuer.client() as ann:
            subject = register(ann, "ann@example.com")
            login(ann, "ann@example.com")
            log_out(ann)
        counts = []
        for _ in range(2):
            issuer.kill()
            issuer.start().ready()
            before = len(await read(kafka_bootstrap, topic))
            while len(await read(kafka_bootstrap, topic)) < before + 12:  # two heartbeats
                await asyncio.sleep(0.1)
            counts.append(revoked(await read(kafka_bootstrap, topic)))
        assert counts[0].keys() == {subject}
        assert counts[0] == counts[1]
        assert "published again" not in issuer.output()


def is_vouched_for(subject: str, found: list[Appended]) -> bool:
    """Whether the subject's logout is there, and a heartbeat after it."""
    logouts = [one for one in found if isinstance(one.event, UserRevoked) and one.event.sub == subject]
    return any(
        isinstance(one.event, Heartbeat) and one.partition == logout.partition and one.offset > logout.offset
        for one in found
        for logout in logouts
    )


class TestTheRelay:
    async def test_what_piled_up_is_published_in_one_go_however_long_that_takes(
        self, kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "LEASE", 0.2)
        monkeypatch.setattr(relay_module, "PAGE", 5)
        started = int(time.time() * 1_000_000)
        moments = itertools.count(started - 10_000_000)
        async with Database(MEMORY, sqlite_sessions.SCHEMA) as database:
            earlier = SqliteSessions(database, lambda: next(moments))
            for number in range(500):
                session = NewSession(f"s{number}", f"u{number}", Grants(), b"", 10**12)
                await earlier.open(session)
                await earlier.close(Presented(session.id, session.subject, None), Scope.USER)
            store = SqliteSessions(database)
            async with KafkaTopic(kafka_bootstrap, topic, {}) as published, Relay(store, published) as relay:
                while await store.unpublished(age=0, limit=1):
                    assert relay.problem is None
                    await asyncio.sleep(0.01)
        assert len(revoked(await read(kafka_bootstrap, topic))) == 500

    @pytest.mark.parametrize("what", ["the topic", "the outbox", "the clock"])
    async def test_it_outlives_whatever_goes_wrong(
        self, kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        monkeypatch.setattr(relay_module, "STEP_BACK", 0.1)
        monkeypatch.setattr(relay_module, "EVERY", 0.1)
        monkeypatch.setattr(kafka_topic, "DEADLINE", 1.0)
        async with (
            Database(MEMORY, sqlite_sessions.SCHEMA) as database,
            KafkaTopic(kafka_bootstrap, topic, {}) as published,
            Relay(store := SqliteSessions(database), published) as relay,
        ):
            with monkeypatch.context() as patch:
                match what:
                    case "the topic":
                        patch.setattr(published, "_partition_of", lambda subject: 77)
                    case "the outbox":
                        patch.setattr(store, "published", lambda revocations: 1 / 0)
                    case _:
                        patch.setattr(store, "watermark", lambda: 1 / 0)
                for name in ("ann", "bob"):
                    relay.publish(await log_out_at(store, name))
                    while relay.problem is None:
                        await asyncio.sleep(0.01)
            while relay.problem is not None or await store.unpublished(age=0, limit=1):
                await asyncio.sleep(0.01)
            relay.publish(await log_out_at(store, "cy"))
            while await store.unpublished(age=0, limit=1):
                await asyncio.sleep(0.01)
        assert revoked(await read(kafka_bootstrap, topic)).keys() == {"ann", "bob", "cy"}

    async def test_it_publishes_what_it_has_before_it_ends(
        self, broker: KafkaServer, proxy: TcpProxy, topic: str
    ) -> None:
        async with Database(MEMORY, sqlite_sessions.SCHEMA) as database:
            store = SqliteSessions(database)
            async with KafkaTopic(f"127.0.0.1:{proxy.port}", topic, {}) as published:
                async with Relay(store, published) as relay:
                    proxy.stall()
                    for name in ("ann", "bob"):
                        relay.publish(await log_out_at(store, name))
                        await asyncio.sleep(0.1)  # the first is on its way by now
                    threading.Timer(0.5, proxy.heal).start()
                assert await store.unpublished(age=0, limit=1) == []
        assert revoked(await read(broker.bootstrap, topic)).keys() == {"ann", "bob"}
