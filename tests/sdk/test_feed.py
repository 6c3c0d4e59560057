"""The HTTP feed against a real server: replay then live, resumed from the cursor, and closed rather than open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from authix import sse
from authix.events import Event, Heartbeat, UserRevoked, encode_event
from authix.feed import HttpFeed

if TYPE_CHECKING:
    from tests.sdk.conftest import Answer, Peer, Received, Send

Soon = Callable[..., Awaitable[None]]
Follow = Callable[..., list[Event]]

TOKEN = "feed-token-feed-token-feed-token"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest_asyncio.fixture
async def follow(peer: Peer) -> AsyncIterator[Follow]:
    """``follow(silence=…)``: the events that a running feed has taken so far."""
    tasks: list[asyncio.Task[None]] = []

    def begin(*, token: str = "", silence: float = 5, take: Callable[[Event], None] | None = None) -> list[Event]:
        taken: list[Event] = []
        feed = HttpFeed(f"{peer.url}/revocations", token=token, take=take or taken.append, silence=silence)
        tasks.append(asyncio.create_task(feed.follow()))
        return taken

    yield begin
    for task in tasks:
        assert not task.done(), "a feed never ends"
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def logout(n: int) -> UserRevoked:
    return UserRevoked(sub=f"u{n}", since_us=n, until=10**10)


def beat(n: int) -> Heartbeat:
    return Heartbeat(at_us=n, complete_until_us=n)


def told(taken: list[Event]) -> list[Event]:
    """What was taken, but for how late heartbeats were."""
    return [beat(event.complete_until_us) if isinstance(event, Heartbeat) else event for event in taken]


def streaming(*chunks: bytes, head: bytes = HEAD, then_hang: bool = True) -> Answer:
    async def answer(_: Received, send: Send) -> None:
        await send(head)
        for chunk in chunks:
            await send(chunk)
        if then_hang:
            await asyncio.Event().wait()

    return answer


def log(numbers: Iterable[int]) -> bytes:
    return b"".join(sse.encode(encode_event(logout(n)), f"log:{n}") for n in numbers)


class TestFollowing:
    async def test_the_whole_log_comes_first_and_then_what_happens(
        self, peer: Peer, follow: Follow, soon: Soon
    ) -> None:
        go_on = asyncio.Event()

        async def answer(_: Received, send: Send) -> None:
            await send(HEAD + log(range(3)) + sse.encode(encode_event(beat(5))))
            await go_on.wait()
            await send(log([7]))
            await asyncio.Event().wait()

        peer.answer = answer
        taken = follow()
        await soon(lambda: len(taken) == 4, "the log is here")
        assert told(taken) == [logout(0), logout(1), logout(2), beat(5)]
        go_on.set()
        await soon(lambda: len(taken) == 5, "the logout is here")
        assert taken[4] == logout(7)
        (request,) = peer.received
        assert request.headers["accept"] == "text/event-stream"
        assert "last-event-id" not in request.headers
        assert "authorization" not in request.headers

    async def test_a_broken_stream_is_resumed_from_the_last_cursor(
        self, peer: Peer, follow: Follow, soon: Soon
    ) -> None:
        async def answer(request: Received, send: Send) -> None:
            begin = int(request.headers.get("last-event-id", "log:-1").partition(":")[2]) + 1
            cut_short = log([begin + 1])[:-5]
            await send(HEAD + log([begin]) + sse.encode(encode_event(beat(begin))) + cut_short)

        peer.answer = answer
        taken = follow()
        await soon(lambda: len(taken) >= 6, "three streams were followed")
        assert told(taken)[:6] == [logout(0), beat(0), logout(1), beat(1), logout(2), beat(2)]
        assert [request.headers.get("last-event-id") for request in peer.received[:3]] == [None, "log:0", "log:1"]

    async def test_a_server_that_says_so_is_followed_from_the_beginning_again(
        self, peer: Peer, follow: Follow, soon: Soon
    ) -> None:
        peer.answer = streaming(log([1]), b"id\ndata: %b\n\n" % encode_event(beat(1)), then_hang=False)
        follow()
        await soon(lambda: len(peer.received) == 2, "the feed came back")
        assert "last-event-id" not in peer.received[1].headers

    async def test_a_server_that_is_not_there_is_awaited(
        self, peer: Peer, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer.answer = streaming(log([1]))
        await peer.stop()
        taken = follow()
        await soon(lambda: "trying again" in caplog.text, "the feed found nobody")
        await peer.start()
        await soon(lambda: taken == [logout(1)], "the log is here")

    async def test_silence_is_a_broken_stream(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        peer.answer = streaming(log([1]))
        taken = follow(silence=0.3)
        await soon(
            lambda: peer.received[-1:] != [] and "last-event-id" in peer.received[-1].headers, "the feed came back"
        )
        assert peer.received[-1].headers["last-event-id"] == "log:1"
        assert logout(1) in taken

    async def test_a_stream_that_speaks_is_left_alone(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        async def answer(_: Received, send: Send) -> None:
            await send(HEAD)
            for _still in range(13):
                await send(b": still here\n\n")
                await asyncio.sleep(0.1)
            await send(log([1]))
            await asyncio.Event().wait()

        peer.answer = answer
        taken = follow(silence=1)
        await soon(lambda: taken == [logout(1)], "the logout is here")
        assert len(peer.received) == 1

    async def test_a_stream_that_falls_behind_is_known_to_and_then_resumed(
        self, peer: Peer, follow: Follow, soon: Soon
    ) -> None:
        async def answer(request: Received, send: Send) -> None:
            await send(HEAD + log([1]))
            said = 0 if "last-event-id" not in request.headers else 60_000_000
            while True:  # so slow a link that each second brings what was said within a tenth of one
                await send(sse.encode(encode_event(beat(said))))
                said += 10_000
                await asyncio.sleep(0.1)

        peer.answer = answer
        taken = follow(silence=0.5)
        await soon(lambda: len(peer.received) == 2, "the feed came back")
        assert peer.received[1].headers["last-event-id"] == "log:1"
        first = [event for event in taken if isinstance(event, Heartbeat) and event.complete_until_us < 60_000_000]
        late = [(event.at_us - event.complete_until_us) / 1_000_000 for event in first]
        assert late == sorted(late)
        assert late[-2] <= 0.5 < late[-1], "what comes too late is the last that is taken"

    async def test_a_first_heartbeat_is_as_old_as_the_question(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        async def answer(_: Received, send: Send) -> None:
            await send(HEAD + log([1]))
            await asyncio.sleep(0.4)
            await send(sse.encode(encode_event(beat(7))))
            await asyncio.Event().wait()

        peer.answer = answer
        taken = follow(silence=2)
        await soon(lambda: len(taken) == 2, "the heartbeat is here")
        assert isinstance(taken[1], Heartbeat)
        assert 400_000 <= taken[1].at_us - taken[1].complete_until_us < 2_000_000

    async def test_a_clock_that_is_put_forward_makes_nothing_late(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        async def answer(_: Received, send: Send) -> None:
            await send(HEAD + log([1]))
            for said in (0, 60_000_000, 60_100_000, 60_200_000):
                await send(sse.encode(encode_event(beat(said))))
                await asyncio.sleep(0.1)
            await asyncio.Event().wait()

        peer.answer = answer
        taken = follow(silence=2)
        await soon(lambda: len(taken) == 5, "all is here")
        late = [(event.at_us - event.complete_until_us) / 1_000_000 for event in taken if isinstance(event, Heartbeat)]
        assert max(late) < 1

    @pytest.mark.parametrize(
        "content_type", ["text/event-stream;charset=utf-8", "Text/Event-Stream ; charset=UTF-8", "text/event-stream"]
    )
    async def test_a_content_type_may_be_spelt_in_any_way(
        self, peer: Peer, follow: Follow, soon: Soon, content_type: str
    ) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode()
        peer.answer = streaming(log([1]), head=head)
        taken = follow()
        await soon(lambda: taken == [logout(1)], "the log is here")


class TestTheFuture:
    async def test_unknown_types_fields_and_lines_are_passed_over(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        peer.answer = streaming(
            sse.encode(b'{"v":1,"type":"device","sub":"u","since_us":9,"until":9}', "log:1"),
            b"event: x\nretry: 10\nnew: field\n" + sse.encode(encode_event(logout(2))[:-1] + b',"more":[1]}', "log:2"),
            sse.encode(b'{"type":"quorum"}', "log:3"),
            b"",
        )
        taken = follow(silence=0.3)
        await soon(
            lambda: peer.received[-1:] != [] and "last-event-id" in peer.received[-1].headers, "the feed came back"
        )
        assert taken[0] == logout(2)
        assert peer.received[-1].headers["last-event-id"] == "log:3", "an unknown event is not asked for again"


class TestClosed:
    @pytest.mark.parametrize(
        "bad",
        [
            b'data: {"v":1,"type":"user","sub":"u1"}\n\n',
            b'data: {"v":2,"type":"user","sub":"u1","since_us":5,"until":6}\n\n',
            b"data: nonsense\n\n",
            b"data: " + b"[" * 50_000 + b"\n\n",
            b'data: {"type":"user","sub":"\xff"}\n\n',
            b"data\n\n",
            b"id: \xff\ndata: {}\n\n",
            b"data: " + b"x" * 100_000,
            b"data: x\n" * 20_000,
        ],
        ids=lambda bad: repr(bad[:30]),
    )
    async def test_an_event_that_can_not_be_read_is_never_skipped(
        self, peer: Peer, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture, bad: bytes
    ) -> None:
        """So nothing after it counts, no heartbeat makes fresh, and the verifier goes stale."""

        async def answer(request: Received, send: Send) -> None:
            first = b"" if "last-event-id" in request.headers else log([1])
            await send(HEAD + first + bad + log([2]) + sse.encode(encode_event(beat(9))))
            await asyncio.Event().wait()

        peer.answer = answer
        taken = follow()
        await soon(lambda: len(peer.received) >= 3, "the feed tried again")
        assert taken == [logout(1)]
        assert {request.headers.get("last-event-id") for request in peer.received[1:]} == {"log:1"}
        assert "trying again" in caplog.text

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "answered 401"),
            (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "answered 302"),
            (b"HTTP/1.1 302 Found\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n", "trying again"),
            (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
            (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "answered 500"),
            (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", "is no event stream"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "is no event stream"),
            (HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", "is compressed"),
            (HEAD[:-2] + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "trying again"),
            (b"garbage\r\n\r\n", "trying again"),
            (b"", "trying again"),
        ],
    )
    async def test_what_is_no_feed_is_refused_with_a_clear_warning(
        self, peer: Peer, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture, *, answer: bytes, reason: str
    ) -> None:
        peer.answer = streaming(log([1]), head=answer, then_hang=False)
        taken = follow(token=TOKEN)
        await soon(lambda: len(peer.received) >= 2, "the feed tried again")
        assert taken == []
        assert peer.of("/elsewhere") == []
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert reason in warnings[0].getMessage()
        assert f"{peer.url}/revocations" in warnings[0].getMessage()

    async def test_one_who_can_not_take_an_event_gets_it_again(
        self, peer: Peer, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        offered: list[Event] = []

        def take(event: Event) -> None:
            offered.append(event)
            if len(offered) == 1:
                raise ZeroDivisionError

        peer.answer = streaming(log([1]))
        follow(take=take)
        await soon(lambda: len(offered) == 2, "the event was offered again")
        assert offered == [logout(1), logout(1)]
        assert "last-event-id" not in peer.received[1].headers
        (unforeseen,) = [record for record in caplog.records if record.exc_info]
        assert unforeseen.levelno >= logging.WARNING

    async def test_pauses_grow_while_nothing_comes_of_it(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        follow()
        await soon(lambda: len(peer.received) >= 4, "the feed tried four times")
        before = len(peer.received)
        await asyncio.sleep(0.2)
        assert len(peer.received) <= before + 1


class TestItsToken:
    async def test_the_feed_shows_its_token(self, peer: Peer, follow: Follow, soon: Soon) -> None:
        peer.answer = streaming(log([1]))
        taken = follow(token=TOKEN)
        await soon(lambda: taken == [logout(1)], "the log is here")
        assert peer.received[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_the_token_is_in_no_log_and_no_repr(
        self, peer: Peer, follow: Follow, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        follow(token=TOKEN, silence=0.2)
        await soon(lambda: len(peer.received) >= 2, "the feed was refused twice")
        peer.answer = streaming(log([1]))
        await soon(lambda: len(peer.received) >= 4, "the feed fell silent")
        await peer.stop()
        await soon(lambda: "ConnectError" in caplog.text or "attempts failed" in caplog.text, "the feed is away")
        assert TOKEN not in caplog.text
        assert TOKEN not in repr(HttpFeed(peer.url, token=TOKEN, take=print))
