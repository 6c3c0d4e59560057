"""Several feeds, the first preferred: who is followed when, and what the setting that names them may be."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from authix import Authix, SettingsError, VerifierSettings, fallback
from authix.events import Event, Heartbeat, UserRevoked
from authix.fallback import Feeds, FeedState
from authix.settings import load
from tests.servers.certificates import Authority

Soon = Callable[..., Awaitable[None]]

PATIENCE = 5.0


class Clock:
    """Stands where ``authix.fallback`` looks for the time, and moves when the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looked = 0

    def monotonic(self) -> float:
        self.looked += 1
        return self.now

    async def passes(self, seconds: float) -> None:
        """Let time pass, and wait until it has been looked at."""
        self.now += seconds
        before = self.looked
        while self.looked < before + 3:
            await asyncio.sleep(0.001)


class Spoken:
    """A feed that says what the test says."""

    def __init__(self, url: str, *, leaves_in: float = 0) -> None:
        self.url = url
        self.begun = 0
        self._followed = False
        self.ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaves_in = leaves_in
        self._take: Callable[[Event], None] = print
        self._clock = 0

    def __call__(self, take: Callable[[Event], None]) -> Spoken:
        self._take = take
        return self

    async def follow(self) -> None:
        assert not self._followed, "followed twice"
        self.begun += 1
        self._followed = True
        try:
            await asyncio.shield(self.ends)
        finally:
            await asyncio.sleep(self._leaves_in)
            self._followed = False

    def followed(self) -> bool:
        return self._followed

    def say(self, event: Event) -> None:
        assert self._followed, "nobody listens"
        self._take(event)

    def beat(self, *, lag: float = 0) -> None:
        self._clock += 1
        self.say(Heartbeat(at_us=self._clock + round(lag * 1_000_000), complete_until_us=self._clock))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(fallback, "time", found)
    monkeypatch.setattr(fallback, "_LOOK_EVERY", 0.001)
    return found


@pytest.fixture
def taken() -> list[Event]:
    """What the feeds of the test have said."""
    return []


Following = Callable[..., Awaitable[asyncio.Task[None]]]


@pytest_asyncio.fixture
async def following(clock: Clock, taken: list[Event]) -> AsyncIterator[Following]:
    """``await following(feed, …)``: the task that follows these feeds."""
    tasks: list[asyncio.Task[None]] = []

    async def begin(*feeds: Spoken) -> asyncio.Task[None]:
        feed = Feeds(feeds, take=lambda *events: taken.extend(events), patience=PATIENCE)
        tasks.append(asyncio.create_task(feed.follow()))
        await clock.passes(0.1)
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestWhoIsFollowed:
    async def test_the_first_alone_while_it_is_fresh(self, following: Following, clock: Clock) -> None:
        first, second = Spoken("first"), Spoken("second")
        await following(first, second)
        for _ in range(5):
            first.beat()
            await clock.passes(PATIENCE)
        assert not second.begun

    async def test_the_next_too_once_it_is_stale_and_again_the_first_alone_when_it_is_back(
        self, following: Following, clock: Clock, taken: list[Event]
    ) -> None:
        first, second = Spoken("first"), Spoken("second")
        await following(first, second)
        first.beat()
        await clock.passes(PATIENCE + 1)
        assert second.followed()
        logouts = [UserRevoked(sub=f"u{n}", since_us=n, until=n) for n in range(2)]
        first.say(logouts[0])
        second.say(logouts[1])
        assert taken[-2:] == logouts, "both are heard"
        first.beat()
        await clock.passes(0)
        assert not second.followed()
        assert (first.begun, second.begun) == (1, 1)

    async def test_each_feed_says_how_it_does(self, clock: Clock, soon: Soon) -> None:
        first, second = Spoken("kafka://a:1/t"), Spoken("https://b/revocations")
        feeds = Feeds([first, second], take=print, patience=PATIENCE)
        idle = FeedState("http", followed=False, stale=False, age=None)
        assert feeds.states == (FeedState("kafka", followed=False, stale=False, age=None), idle)
        following = asyncio.create_task(feeds.follow())
        await soon(first.followed, "the first is followed")
        assert feeds.states == (FeedState("kafka", followed=True, stale=False, age=None), idle)
        first.beat(lag=1)
        await clock.passes(2)
        assert feeds.states == (FeedState("kafka", followed=True, stale=False, age=3), idle)
        await clock.passes(PATIENCE)
        begins = FeedState("http", followed=True, stale=False, age=None)
        assert feeds.states == (FeedState("kafka", followed=True, stale=True, age=3 + PATIENCE), begins)
        await clock.passes(PATIENCE + 1)
        assert [state.stale for state in feeds.states] == [True, True], "the last is stale too"
        second.beat()
        assert [state.stale for state in feeds.states] == [True, False]
        first.beat()
        await clock.passes(0)
        assert feeds.states == (FeedState("kafka", followed=True, stale=False, age=0), idle)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def test_each_has_its_time_to_begin(self, following: Following, clock: Clock) -> None:
        first, second, third = Spoken("first"), Spoken("second"), Spoken("third")
        await following(first, second, third)
        await clock.passes(PATIENCE - 1)
        assert not second.begun
        await clock.passes(2)
        assert second.followed()
        assert not third.begun
        second.beat()
        await clock.passes(PATIENCE - 1)
        assert not third.begun, "the second is enough"
        await clock.passes(2)
        assert third.followed()
        first.beat()
        await clock.passes(0)
        assert not second.followed()
        assert not third.followed()
        await clock.passes(PATIENCE + 1)
        assert second.followed()
        assert not third.followed(), "the second has its time again"

    async def test_a_watermark_that_stands_still_is_no_freshness(self, following: Following, clock: Clock) -> None:
        first, second = Spoken("first"), Spoken("second")
        await following(first, second)
        for _ in range(3):
            first.say(Heartbeat(at_us=7, complete_until_us=7))
            await clock.passes(PATIENCE / 2)
        assert second.followed()

    async def test_nor_is_one_that_moves_far_behind(self, following: Following, clock: Clock) -> None:
        first, second = Spoken("first"), Spoken("second")
        await following(first, second)
        for _ in range(3):
            first.beat(lag=PATIENCE + 1)
            await clock.passes(PATIENCE / 2)
        assert second.followed()
        first.beat()
        await clock.passes(0)
        assert not second.followed()

    async def test_one_at_the_edge_makes_nobody_come_and_go(self, following: Following, clock: Clock) -> None:
        first, second = Spoken("first"), Spoken("second")
        await following(first, second)
        for _ in range(20):
            first.beat(lag=PATIENCE - 0.5)
            await clock.passes(0)
            await clock.passes(0.9)
        assert second.followed()
        assert second.begun == 1

    async def test_one_that_is_long_in_leaving_is_not_followed_twice(self, following: Following, clock: Clock) -> None:
        first, second = Spoken("first"), Spoken("second", leaves_in=0.05)
        await following(first, second)
        await clock.passes(PATIENCE + 1)
        first.beat()
        await clock.passes(0)
        await clock.passes(PATIENCE + 1)
        assert second.followed()
        assert second.begun == 2


class TestHowItEnds:
    async def test_what_kills_a_feed_is_told_and_ends_all(self, following: Following, clock: Clock, soon: Soon) -> None:
        first, second = Spoken("first"), Spoken("second")
        task = await following(first, second)
        await clock.passes(PATIENCE + 1)
        second.ends.set_exception(ZeroDivisionError())
        await soon(task.done, "it is told")
        assert isinstance(task.exception(), ZeroDivisionError)
        assert not first.followed()

    @pytest.mark.parametrize("how", ["ends", "is cancelled"])
    async def test_a_feed_that_ends_or_is_cancelled_from_within_is_told_too(
        self, following: Following, soon: Soon, how: str
    ) -> None:
        """Else nobody would know that the verifier hears of no more logouts."""
        only = Spoken("only")
        task = await following(only)
        if how == "ends":
            only.ends.set_result(None)
        else:
            only.ends.cancel()
        await soon(task.done, "it is told")
        assert not task.cancelled()
        assert isinstance(task.exception(), RuntimeError)

    async def test_to_cancel_it_ends_every_feed(self, following: Following, clock: Clock, soon: Soon) -> None:
        first, second = Spoken("first", leaves_in=0.1), Spoken("second", leaves_in=0.1)
        task = await following(first, second)
        await clock.passes(PATIENCE + 1)
        assert second.followed()
        task.cancel()
        await soon(task.done, "it ends")
        assert task.cancelled()
        assert not first.followed()
        assert not second.followed()


NEEDED = {"AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "orders"}


def settings(**environ: str) -> VerifierSettings:
    return load(VerifierSettings, NEEDED | environ)


def problem(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(**environ)
    return str(caught.value)


class TestTheSetting:
    @pytest.mark.parametrize(
        ("value", "feeds"),
        [
            ("https://a.example/revocations", [("https://a.example/revocations", "", "")]),
            ("kafka://a.example:9092/authix.logout", [("", "a.example:9092", "authix.logout")]),
            (
                "kafka://a.example:9092,b.example:9093/authix.logout,https://c.example/revocations",
                [("", "a.example:9092,b.example:9093", "authix.logout"), ("https://c.example/revocations", "", "")],
            ),
            (
                " kafka://a.example:9092/one, kafka://b.example:9092/two , https://c.example/x ",
                [("", "a.example:9092", "one"), ("", "b.example:9092", "two"), ("https://c.example/x", "", "")],
            ),
            (
                "http://127.0.0.1:8000/revocations,kafka://10.0.0.1:9092,[::1]:9092/t",
                [("http://127.0.0.1:8000/revocations", "", ""), ("", "10.0.0.1:9092,[::1]:9092", "t")],
            ),
        ],
    )
    def test_it_names_feeds_in_order_of_preference(self, value: str, feeds: Iterable[tuple[str, str, str]]) -> None:
        found = settings(AUTHIX_FEED=value).feeds
        for feed, (url, servers, topic) in zip(found, feeds, strict=True):
            assert (feed.servers, feed.topic) == (servers, topic)
            assert feed.url == url or (not url and feed.url.startswith("kafka://"))

    @pytest.mark.parametrize(
        "value",
        [
            "kafka://",
            "kafka:///topic",
            "kafka://a.example/topic",
            "kafka://a.example:9092",
            "kafka://a.example:9092/",
            "kafka://a.example:9092/to pic",
            "kafka://a.example:9092/topic/more",
            "kafka://a.example:9092/topic?x=1",
            "kafka://a.example:x/topic",
            "kafka://a.example:0/topic",
            "kafka://a.example:65536/topic",
            "kafka://a.example:9092,/topic",
            "kafka://,a.example:9092/topic",
            "kafka://a.example:9092,,b.example:9092/topic",
            "kafka://a.example:9092b.example:9092/topic",
            "kafka:a.example:9092/topic",
            "kafka://user:s3cr3t@a.example:9092/topic",
            f"kafka://a.example:9092/{'x' * 250}",
            "https://c.example/revocations,kafka://a.example/topic",
        ],
    )
    def test_a_wrong_form_of_kafka_is_refused_with_the_right_one(self, value: str) -> None:
        said = problem(AUTHIX_FEED=value)
        assert said.startswith("AUTHIX_FEED must name Kafka as kafka://host:port,host:port/topic")
        assert "s3cr3t" not in said

    @pytest.mark.parametrize(
        "value", ["KAFKA://a.example:9092/t", "amqp://a.example/x", "https://a.example,", "https://a.example/x,", ","]
    )
    def test_what_names_no_feed_is_refused(self, value: str) -> None:
        assert problem(AUTHIX_FEED=value).startswith("AUTHIX_FEED must be an http(s) URL")

    def test_without_aiokafka_kafka_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "authix.kafka_feed", raising=False)
        monkeypatch.setitem(sys.modules, "aiokafka", None)
        with pytest.raises(SettingsError, match=r"pip install 'authix\[kafka\]'"):
            Authix(issuer="https://auth.example.com", audience="orders", feed="kafka://a.example:9092/t")
        Authix(issuer="https://auth.example.com", audience="orders")


class TestTheConnection:
    def test_it_is_plain_unless_told_otherwise(self) -> None:
        assert settings().kafka_options() == {"security_protocol": "PLAINTEXT"}

    def test_tls_checks_the_servers_name_and_certificate(self) -> None:
        options = settings(AUTHIX_KAFKA_TLS="yes").kafka_options()
        assert options["security_protocol"] == "SSL"
        assert options["ssl_context"].check_hostname

    @pytest.mark.parametrize(("tls", "protocol"), [("yes", "SASL_SSL"), ("no", "SASL_PLAINTEXT")])
    def test_sasl_shows_name_and_password_to_kafka_alone(self, tls: str, protocol: str) -> None:
        found = settings(
            AUTHIX_KAFKA_TLS=tls,
            AUTHIX_KAFKA_SASL="SCRAM-SHA-512",
            AUTHIX_KAFKA_USERNAME="orders",
            AUTHIX_KAFKA_PASSWORD="s3cr3t",
        )
        options = found.kafka_options()
        assert options["security_protocol"] == protocol
        assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "orders")
        assert options["sasl_plain_password"] == "s3cr3t"
        assert "s3cr3t" not in repr(found)

    def test_half_a_setting_is_refused(self, tmp_path: Path) -> None:
        ca = Authority(tmp_path).ca
        assert "AUTHIX_KAFKA_PASSWORD" in problem(AUTHIX_KAFKA_SASL="PLAIN", AUTHIX_KAFKA_USERNAME="orders")
        assert "AUTHIX_KAFKA_TLS=yes" in problem(AUTHIX_KAFKA_CA=str(ca))
        assert "a file that is there" in problem(AUTHIX_KAFKA_TLS="yes", AUTHIX_KAFKA_CA=str(tmp_path / "none.pem"))
        assert "SCRAM-SHA-256" in problem(AUTHIX_KAFKA_SASL="SCRAM")
