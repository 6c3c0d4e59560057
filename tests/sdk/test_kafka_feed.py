"""The Kafka feed on real brokers: all of the topic before it vouches for anything, and closed rather than open."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from authix import kafka_feed
from authix.events import LOG_WINDOW, Event, Heartbeat, SessionRevoked, Take, UserRevoked, encode_event
from authix.kafka_feed import KafkaFeed
from authix.revocations import RevocationMap
from tests.programs import HOST
from tests.servers.kafka import KafkaServer
from tests.servers.tcp_proxy import TcpProxy

Soon = Callable[..., Awaitable[None]]

MANY = 3000
BEAT = 0.05
LIVE_FOR = 3600


def logout(n: int) -> UserRevoked:
    return UserRevoked(sub=f"u{n}", since_us=n, until=int(time.time()) + LIVE_FOR)


def beat(complete_us: int, *, lag_us: int = 0) -> Heartbeat:
    return Heartbeat(at_us=complete_us + lag_us, complete_until_us=complete_us)


def now_us() -> int:
    return time.time_ns() // 1000


class Clock:
    """The time as ``authix.kafka_feed`` sees it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.epoch: float | None = None

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() if self.epoch is None else self.epoch


class Brokers:
    """An admin's and a producer's way to the brokers, past any proxy."""

    def __init__(self, bootstrap: str, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer) -> None:
        self.bootstrap = bootstrap
        self.admin = admin
        self.producer = producer

    async def make(self, name: str, partitions: int = 1) -> Topic:
        config = {"message.timestamp.type": "LogAppendTime"}
        answer = await self.admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        assert answer.topic_errors[0][1] == 0, answer
        while await self.partitions(name) != partitions:
            await asyncio.sleep(0.01)
        return Topic(self, name, partitions)

    async def partitions(self, name: str) -> int:
        return len((await self.admin.describe_topics([name]))[0]["partitions"]) if name in await self.topics() else 0

    async def topics(self) -> list[str]:
        names: list[str] = await self.admin.list_topics()
        return names


class Topic:
    def __init__(self, brokers: Brokers, name: str, partitions: int) -> None:
        self.brokers = brokers
        self.name = name
        self.partitions = partitions

    async def append(self, events: Sequence[Event | bytes], *partitions: int) -> None:
        """Append them, in turn to each of these partitions (all, if none is named); all are on the topic then."""
        turn = itertools.cycle(partitions or range(self.partitions))
        values = [event if isinstance(event, bytes) else encode_event(event) for event in events]
        sent = [
            await self.brokers.producer.send(self.name, value, partition=partition)
            for value, partition in zip(values, turn, strict=False)
        ]
        await asyncio.gather(*sent)

    async def fill(self, values: Iterable[bytes], *partitions: int) -> None:
        """As ``append``, for a great many."""
        producer, turn = self.brokers.producer, itertools.cycle(partitions or range(self.partitions))
        batch, sent = producer.create_batch(), []
        for value in values:
            if batch.append(key=None, value=value, timestamp=None) is None:
                sent.append(await producer.send_batch(batch, self.name, partition=next(turn)))
                batch = producer.create_batch()
                batch.append(key=None, value=value, timestamp=None)
        sent.append(await producer.send_batch(batch, self.name, partition=next(turn)))
        await asyncio.gather(*sent)

    async def beat(self, heartbeat: Heartbeat) -> None:
        await self.append([heartbeat] * self.partitions)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """A heartbeat on every partition, again and again."""

        async def beat_for_ever() -> None:
            while True:
                await self.beat(beat(now_us()))
                await asyncio.sleep(BEAT)

        task = asyncio.create_task(beat_for_ever())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def forget(self, partition: int, before: int) -> None:
        """Do what retention does."""
        await self.brokers.admin.delete_records({TopicPartition(self.name, partition): RecordsToDelete(before)})

    async def delete(self) -> None:
        await self.brokers.admin.delete_topics([self.name])
        while self.name in await self.brokers.topics():
            await asyncio.sleep(0.01)


class Follower:
    """A running feed and what it has taken, in order."""

    def __init__(self, feed_of: Callable[[Take], KafkaFeed]) -> None:
        self.taken: list[Event] = []
        self.map = RevocationMap()
        self.task = asyncio.create_task(feed_of(self._take).follow())

    @property
    def logouts(self) -> Counter[str]:
        return Counter(event.sub for event in self.taken if isinstance(event, UserRevoked | SessionRevoked))

    @property
    def heartbeats(self) -> list[Heartbeat]:
        return [event for event in self.taken if isinstance(event, Heartbeat)]

    def vouches(self) -> bool:
        return bool(self.heartbeats)

    def lag(self) -> float:
        """Seconds, of the last heartbeat."""
        return (self.heartbeats[-1].at_us - self.heartbeats[-1].complete_until_us) / 1_000_000

    def knows(self, revocation: UserRevoked) -> bool:
        return self.map.revokes(subject=revocation.sub, session=None, issued_at_us=revocation.since_us)

    def _take(self, *events: Event) -> None:
        self.taken.extend(events)
        for event in events:
            if not isinstance(event, Heartbeat):
                self.map.apply(event)


Follow = Callable[..., Follower]
names = (f"authix.logout.{number}" for number in itertools.count())


@pytest_asyncio.fixture
async def brokers(kafka_bootstrap: str) -> AsyncIterator[Brokers]:
    async with reach(kafka_bootstrap) as found:
        yield found


@asynccontextmanager
async def reach(bootstrap: str) -> AsyncIterator[Brokers]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1 << 18) as producer:
            yield Brokers(bootstrap, admin, producer)
    finally:
        await admin.close()


class CarelessServer(KafkaServer):
    """A broker that makes every topic that anybody names."""

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {"auto.create.topics.enable": "true"}


@pytest.fixture(scope="module")
def proxied(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker of this file's own, and the proxy that a feed comes by."""
    if reason := KafkaServer.missing():  # the shared one was named by a URL
        pytest.skip(reason)
    server = CarelessServer(tmp_path_factory.mktemp("kafka-proxied"))
    with TcpProxy(server.proxied_port) as proxy:
        server.proxy_port = proxy.port
        with server:
            yield server, proxy


class Proxied(NamedTuple):
    brokers: Brokers
    """Reached past the proxy."""
    proxy: TcpProxy
    bootstrap: str
    """The way by the proxy."""


@pytest_asyncio.fixture
async def remote(proxied: tuple[KafkaServer, TcpProxy]) -> AsyncIterator[Proxied]:
    server, proxy = proxied
    async with reach(server.bootstrap) as found:
        yield Proxied(found, proxy, f"{HOST}:{proxy.port}")
    proxy.heal()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed's patience, shortened."""
    monkeypatch.setattr(kafka_feed, "SILENCE", 0.5)
    monkeypatch.setattr(kafka_feed, "_CALL_WITHIN", 1.5)
    monkeypatch.setattr(kafka_feed, "_METADATA_EVERY_MS", 300)
    monkeypatch.setattr(kafka_feed, "_FETCH_WAIT_MS", 450)
    monkeypatch.setattr(kafka_feed, "_LONGEST_PAUSE", 0.4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(kafka_feed, "time", found)
    return found


@pytest.fixture
def name() -> str:
    """A topic's name that no other test has."""
    return next(names)


@pytest_asyncio.fixture
async def topic(brokers: Brokers, name: str) -> Topic:
    """A topic of two partitions."""
    return await brokers.make(name, 2)


@pytest_asyncio.fixture
async def follow(kafka_bootstrap: str) -> AsyncIterator[Follow]:
    """``follow(topic)``: a running feed of this topic."""
    running: list[Follower] = []

    def begin(topic: str, bootstrap: str = kafka_bootstrap) -> Follower:
        url = f"kafka://{bootstrap}/{topic}"
        running.append(Follower(lambda take: KafkaFeed(url, bootstrap, topic, options={}, take=take)))
        return running[-1]

    yield begin
    for follower in running:
        assert not follower.task.done(), "a feed never ends"
        follower.task.cancel()
    await asyncio.gather(*(follower.task for follower in running), return_exceptions=True)


class TestReplay:
    @pytest.mark.parametrize("partitions", [1, 6])
    async def test_every_live_logout_is_known_before_the_feed_vouches_for_anything(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str, partitions: int
    ) -> None:
        topic = await brokers.make(name, partitions)
        logouts = [logout(n) for n in range(MANY)]
        for begin in range(0, MANY, 500):
            await topic.append(logouts[begin : begin + 500])
            await topic.beat(beat(begin + 499))
        async with topic.beating():
            follower = follow(name)
            await soon(follower.vouches, "the feed vouches")
        first = next(at for at, event in enumerate(follower.taken) if isinstance(event, Heartbeat))
        assert {event.sub for event in follower.taken[:first] if isinstance(event, UserRevoked)} == {
            event.sub for event in logouts
        }
        assert all(follower.knows(event) for event in logouts)

    async def test_no_partition_counts_before_the_longest_was_read(
        self, topic: Topic, follow: Follow, soon: Soon
    ) -> None:
        one_in_many = {n: encode_event(beat(n)) for n in range(0, 100_000, 100)}
        logouts = [one_in_many.get(n) or encode_event(logout(n)) for n in range(100_000)]
        await topic.fill(logouts, 1)
        async with topic.beating():
            follower = follow(topic.name)
            await soon(follower.vouches, "the feed vouches")
        first = next(at for at, event in enumerate(follower.taken) if isinstance(event, Heartbeat))
        assert first == 99_000

    async def test_a_heartbeat_that_stood_there_before_the_feed_vouches_for_nothing(
        self, topic: Topic, follow: Follow, soon: Soon
    ) -> None:
        """Nobody may have sent one since, though there were logouts: the relay may be dead."""
        await topic.append([logout(1), logout(2)])
        await topic.beat(beat(now_us()))
        follower = follow(topic.name)
        await soon(lambda: len(follower.logouts) == 2, "what stood there was read")
        await topic.append([logout(3), logout(4)])
        await soon(lambda: len(follower.logouts) == 4, "the feed goes on live")
        assert not follower.vouches()
        await topic.beat(beat(now_us()))
        await soon(follower.vouches, "a heartbeat of now counts")

    async def test_an_empty_topic_vouches_for_nothing_until_its_first_heartbeats(
        self, topic: Topic, follow: Follow, soon: Soon
    ) -> None:
        follower = follow(topic.name)
        await topic.append([logout(1), logout(2)])
        await soon(lambda: len(follower.logouts) == 2, "the feed reads it")
        assert not follower.vouches()
        await topic.beat(beat(5))
        await soon(lambda: follower.heartbeats == [beat(5)], "the heartbeat counts")

    async def test_what_is_so_old_that_all_its_tokens_are_dead_is_not_read(
        self, topic: Topic, follow: Follow, soon: Soon, clock: Clock
    ) -> None:
        await topic.append([logout(1), logout(2)])
        await asyncio.sleep(0.1)  # the brokers' clock counts in ms
        clock.epoch = time.time() + LOG_WINDOW + kafka_feed.CLOCK_SLACK
        await asyncio.sleep(0.1)
        await topic.append([logout(3), logout(4)])
        async with topic.beating():
            follower = follow(topic.name)
            await soon(follower.vouches, "the feed vouches")
        assert follower.logouts.keys() == {"u3", "u4"}

    async def test_a_replay_leaves_the_event_loop_to_others_and_is_fast(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str
    ) -> None:
        """How fast is printed (run with -s); how many are taken in one go is what others on the loop wait for."""
        topic = await brokers.make(name, 4)
        count = 200_000
        await topic.fill(encode_event(logout(n)) for n in range(count))
        follower = follow(name)
        at_once, longest = 0, 0.0
        taken, began, looked = 0, 0.0, time.thread_time()
        while taken < count:
            await asyncio.sleep(0)
            now, before, taken = time.thread_time(), taken, len(follower.taken)
            at_once, longest, looked = max(at_once, taken - before), max(longest, now - looked), now
            began = began or (taken and now)
        print(  # noqa: T201 - a measurement
            f"replay: {count / (looked - began):,.0f} events/s of CPU time, the loop was held {longest * 1000:.1f} ms"
        )
        assert at_once <= kafka_feed.AT_ONCE


class TestTheWatermark:
    async def test_only_the_lowest_of_the_partitions_counts(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await brokers.make(name, 3)
        follower = follow(name)
        await topic.append([logout(n) for n in range(3)])
        await soon(lambda: len(follower.logouts) == 3, "the feed reads it")
        await topic.append([beat(50), beat(70)], 0, 1)
        await topic.append([logout(n) for n in range(3, 6)])
        await soon(lambda: len(follower.logouts) == 6, "the feed reads it")
        assert not follower.vouches(), "one partition has said nothing"
        await topic.append([beat(60)], 2)
        await soon(lambda: follower.heartbeats == [beat(50)], "the lowest counts")
        await topic.append([beat(90), beat(90)], 1, 2)
        await topic.append([logout(n) for n in range(6, 9)])
        await soon(lambda: len(follower.logouts) == 9, "the feed reads it")
        assert follower.heartbeats == [beat(50)], "the silent partition holds it back"

    async def test_the_lag_shown_is_the_worst_partitions(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await brokers.make(name, 3)
        follower = follow(name)
        await topic.append([logout(n) for n in range(3)])
        await soon(lambda: len(follower.logouts) == 3, "the feed reads it")
        second = 1_000_000
        await topic.append([beat(60 * second), beat(50 * second, lag_us=7 * second), beat(70 * second)])
        await soon(follower.vouches, "the feed vouches")
        assert follower.heartbeats == [beat(50 * second, lag_us=7 * second)]

    async def test_a_heartbeat_that_hung_in_a_broker_shows_as_late_as_it_is(
        self, topic: Topic, follow: Follow, soon: Soon, clock: Clock
    ) -> None:
        """Whoever sent it could not send the logouts after it either."""
        follower = follow(topic.name)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        sent_at = now_us()
        clock.ahead += 20
        for n in range(3):
            await topic.beat(beat(sent_at + n))
            await soon(lambda at=sent_at + n: follower.heartbeats[-1].complete_until_us == at, "it arrived")
            assert follower.lag() > 15
        await topic.beat(beat(now_us() + 20_000_000))
        await soon(lambda: follower.lag() < 5, "what is of now is not late")

    async def test_clocks_of_issuers_that_stand_still_make_nobody_late(
        self, topic: Topic, follow: Follow, soon: Soon, clock: Clock
    ) -> None:
        follower = follow(topic.name)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        moments = itertools.count(now_us())

        async def seconds_pass(count: int) -> None:
            for _ in range(count):
                clock.ahead += 1
                moment, before = next(moments), len(follower.heartbeats)
                await topic.beat(beat(moment))
                await soon(lambda before=before: len(follower.heartbeats) > before, "it arrived")

        await seconds_pass(5)
        assert follower.lag() == 0
        clock.ahead += 20
        await seconds_pass(1)
        assert follower.lag() > 15, "who is silent must be up to date then"
        await seconds_pass(35)
        assert follower.lag() == 0, "who goes on and on is believed"


@pytest.mark.usefixtures("hasty")
class TestAMissingTopic:
    async def test_it_is_awaited_calmly_and_never_made(
        self, remote: Proxied, follow: Follow, soon: Soon, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def tries() -> int:
            return sum("does not exist" in record.getMessage() for record in caplog.records)

        caplog.set_level(logging.DEBUG, "authix.feed")  # that it is so once more is said there only
        follower = follow(name, remote.bootstrap)
        began, used = time.monotonic(), time.process_time()
        await soon(lambda: tries() >= 5, "the feed tries again and again")
        assert time.process_time() - used < 0.5 * (time.monotonic() - began)
        assert name not in await remote.brokers.topics()
        topic = await remote.brokers.make(name)
        async with topic.beating():
            await topic.append([logout(1)])
            await soon(follower.vouches, "the feed vouches")
            assert follower.logouts.keys() == {"u1"}

    async def test_one_that_goes_is_left_at_once_and_followed_again_when_it_is_back(
        self,
        topic: Topic,
        follow: Follow,
        soon: Soon,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        caplog.set_level(logging.DEBUG, "authix.feed")  # that it is so once more is said there only
        follower = follow(topic.name)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        monkeypatch.setattr(kafka_feed, "SILENCE", 60)
        await topic.delete()
        began, used = time.monotonic(), time.process_time()
        await soon(lambda: caplog.text.count("does not exist") >= 3, "the feed has noticed and looks again and again")
        assert time.monotonic() - began < 5
        assert time.process_time() - used < 0.5 * (time.monotonic() - began)
        topic = await topic.brokers.make(topic.name, 2)
        before = len(follower.heartbeats)
        async with topic.beating():
            await topic.append([logout(1), logout(2)])
            await soon(lambda: len(follower.heartbeats) > before, "the feed vouches again")
        assert follower.logouts.keys() == {"u1", "u2"}


@pytest.mark.usefixtures("hasty")
class TestGaps:
    async def test_records_that_went_before_they_were_read_make_it_read_everything_again(
        self, remote: Proxied, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await remote.brokers.make(name, 2)
        follower = follow(name, remote.bootstrap)
        await topic.append([logout(1)], 0)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        remote.proxy.refuse()
        await topic.append([logout(2), logout(3)], 1)
        await topic.forget(1, -1)
        await topic.append([logout(4)], 1)
        remote.proxy.heal()
        await soon(lambda: follower.logouts == {"u1": 2, "u4": 1}, "everything is read again")
        before = len(follower.heartbeats)
        async with topic.beating():
            await soon(lambda: len(follower.heartbeats) > before, "the feed vouches again")

    async def test_a_topic_made_anew_is_read_from_its_beginning_though_it_is_longer_by_now(
        self, remote: Proxied, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await remote.brokers.make(name, 1)
        follower = follow(name, remote.bootstrap)
        await topic.append([logout(n) for n in range(100)])
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        remote.proxy.stall()
        await topic.delete()
        topic = await remote.brokers.make(name, 1)
        await topic.append([logout(n) for n in range(1000, 1200)])
        # A topic that grows beyond the old one sooner than a silence is looked into is the same one to a client.
        await asyncio.sleep(kafka_feed.SILENCE + kafka_feed._CALL_WITHIN)
        remote.proxy.heal()
        before = len(follower.heartbeats)
        async with topic.beating():
            await soon(lambda: len(follower.heartbeats) > before, "the feed vouches again")
        assert {f"u{n}" for n in range(1000, 1200)} <= follower.logouts.keys()

    async def test_a_new_partition_is_read_from_its_beginning_and_must_vouch_too(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await brokers.make(name, 1)
        follower = follow(name)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        await brokers.admin.create_partitions({name: NewPartitions(3)})
        while await brokers.partitions(name) != 3:
            await asyncio.sleep(0.01)
        grown = Topic(brokers, name, 3)
        await brokers.producer.client.force_metadata_update()
        await grown.append([logout(n) for n in range(9)], 1, 2)
        await soon(lambda: len(follower.logouts) == 9, "the new partitions are read")
        before = len(follower.heartbeats)
        await topic.beat(beat(now_us()))
        await grown.append([logout(n) for n in range(9, 12)])
        await soon(lambda: len(follower.logouts) == 12, "the feed goes on")
        assert len(follower.heartbeats) == before, "a new partition has said nothing"
        await grown.beat(beat(now_us()))
        await soon(lambda: len(follower.heartbeats) > before, "the feed vouches again")

    async def test_a_record_that_can_not_be_read_is_never_passed_over(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "authix.feed")
        topic = await brokers.make(name, 1)
        follower = follow(name)
        await topic.append([logout(1), b'{"v":1,"type":"user","sub":"u2"}', logout(3)])
        async with topic.beating():
            await soon(lambda: caplog.text.count("can't be read") >= 2, "the feed tries again")  # said once aloud
        assert not follower.vouches()
        assert follower.logouts.keys() == {"u1"}

    async def test_types_of_later_releases_are_passed_over(
        self, brokers: Brokers, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await brokers.make(name, 1)
        follower = follow(name)
        await topic.append([logout(1), b'{"v":1,"type":"device","sub":"u2"}', logout(3)])
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        assert follower.logouts.keys() == {"u1", "u3"}


@pytest.mark.usefixtures("hasty")
class TestFaults:
    @pytest.mark.parametrize("fault", ["cut", "refuse", "stall"])
    async def test_after_a_fault_of_the_network_nothing_is_missing(
        self, remote: Proxied, follow: Follow, soon: Soon, name: str, fault: str
    ) -> None:
        topic = await remote.brokers.make(name, 2)
        follower = follow(name, remote.bootstrap)
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
            getattr(remote.proxy, fault)()
            if fault != "cut":
                await soon(
                    lambda: now_us() - follower.heartbeats[-1].at_us > 3_500_000,
                    "the fault has lasted beyond its patience",
                )
            await topic.append([logout(1), logout(2)])
            remote.proxy.heal()
            healed = now_us()
            await soon(lambda: follower.heartbeats[-1].complete_until_us > healed, "the feed vouches again")
        assert follower.logouts.keys() == {"u1", "u2"}

    async def test_a_server_of_several_that_swallows_everything_keeps_nobody_from_the_others(
        self, remote: Proxied, follow: Follow, soon: Soon, name: str
    ) -> None:
        topic = await remote.brokers.make(name)
        remote.proxy.stall()
        follower = follow(name, f"{remote.bootstrap},{remote.brokers.bootstrap}")
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")

    async def test_an_issuer_that_is_away_makes_nobody_read_the_topic_again_and_again(
        self, topic: Topic, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        follower = follow(topic.name)
        await topic.append([logout(1), logout(2)])
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        silent = time.monotonic()
        await soon(lambda: time.monotonic() - silent > 1.5, "nobody has said anything for long")
        async with topic.beating():
            before = len(follower.heartbeats)
            await soon(lambda: len(follower.heartbeats) > before, "the feed vouches again")
        assert follower.logouts == {"u1": 1, "u2": 1}
        assert "trying again" not in caplog.text

    async def test_whatever_goes_wrong_the_feed_tries_again(
        self, brokers: Brokers, kafka_bootstrap: str, soon: Soon, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        topic = await brokers.make(name)
        await topic.append([logout(1)])
        offered: list[Event] = []

        def take(*events: Event) -> None:
            offered.extend(events)
            if len(offered) == 1:
                raise ZeroDivisionError

        task = asyncio.create_task(KafkaFeed("kafka", kafka_bootstrap, name, options={}, take=take).follow())
        await soon(lambda: len(offered) >= 2, "the event was offered again")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert offered[0] == offered[1]
        (unforeseen,) = [record for record in caplog.records if record.exc_info]
        assert unforeseen.levelno == logging.WARNING

    async def test_it_ends_at_once_whatever_the_network_does(self, remote: Proxied, soon: Soon, name: str) -> None:
        topic = await remote.brokers.make(name)
        bootstrap = remote.bootstrap
        follower = Follower(lambda take: KafkaFeed("kafka", bootstrap, name, options={}, take=take))
        async with topic.beating():
            await soon(follower.vouches, "the feed vouches")
        remote.proxy.stall()
        follower.task.cancel()
        done, _ = await asyncio.wait([follower.task], timeout=10)
        assert done

    async def test_it_leaves_no_connection_open_though_it_ends_while_one_is_being_made(
        self, kafka_bootstrap: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """aiokafka leaves the one open by which it asks what brokers there are."""
        asked, send = asyncio.Event(), AIOKafkaConnection.send

        def spied(connection: AIOKafkaConnection, request: object, **options: bool) -> object:
            if isinstance(request, MetadataRequest):
                asked.set()
            return send(connection, request, **options)

        monkeypatch.setattr(AIOKafkaConnection, "send", spied)
        task = asyncio.create_task(KafkaFeed("kafka", kafka_bootstrap, name, options={}, take=print).follow())
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.collect()  # an open connection warns here, and a warning fails the test
