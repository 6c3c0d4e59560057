"""An upstream that fails, and the connections to it."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import h11
import pytest
import uvloop

from authix_sidecar.origins import origins
from authix_sidecar.pool import Pool
from authix_sidecar.upstream import Patience
from tests.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from authix_sidecar.answers import AnswerHead
    from authix_sidecar.errors import UpstreamError
    from authix_sidecar.fields import Field
    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Fleet, Upstream, Visit, Wire


class TestUpstream:
    def test_that_is_not_there_is_unreachable(self, fleet: Fleet, start_sidecar: StartSidecar) -> None:
        sidecar = start_sidecar(fleet.issuer.url, f"http://127.0.0.1:{free_port()}").ready()
        answer = fleet.dial(sidecar.proxy_port).send(fleet.get("/")).answer()
        assert (answer.status, answer.code, answer.values("retry-after")) == (503, "upstream_unreachable", ["1"])

    def test_that_ended_its_idle_connections_is_asked_anew(self, fleet: Fleet) -> None:
        wire = fleet.dial()
        for number in range(5):
            assert wire.send(fleet.get(f"/{number}", method="POST")).answer().status == 200
            fleet.upstream.close_idle()
            fleet.settle()

    @pytest.mark.parametrize(
        ("method", "lines", "body", "status"),
        [
            ("GET", [], b"", 200),
            ("PUT", [], b"", 200),
            ("POST", [], b"", 502),
            ("PUT", ["Content-Length: 1"], b"x", 502),
        ],
    )
    def test_whose_kept_connection_dies_under_a_request_is_asked_once_more_when_that_is_safe(
        self, fleet: Fleet, method: str, lines: list[str], body: bytes, status: int
    ) -> None:
        def dying(visit: Visit) -> None:
            while (request := visit.request()) is not None:
                if request.target == "/second" and visit is fleet.upstream.visits[0]:
                    visit.reset()
                    return
                visit.send(fleet.upstream.answer(request))

        fleet.upstream.script = dying
        wire = fleet.dial()
        assert wire.send(fleet.get("/first")).answer().status == 200
        answer = wire.send(fleet.get("/second", *lines, method=method) + body).answer(method)
        assert answer.status == status
        assert answer.body == b"/second" if status == 200 else answer.code == "upstream_broken"

    def test_that_dies_under_every_request_is_asked_at_most_twice(self, fleet: Fleet) -> None:
        def dying(visit: Visit) -> None:
            request = visit.request()
            if request is not None and request.target == "/first":
                visit.send(fleet.upstream.answer(request))
                visit.request()

        fleet.upstream.script = dying
        wire = fleet.dial()
        assert wire.send(fleet.get("/first")).answer().status == 200
        answer = wire.send(fleet.get("/second")).answer()
        assert (answer.status, answer.code) == (502, "upstream_broken")
        assert [request.target for request in fleet.upstream.requests] == ["/first", "/second", "/second"]

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
        ids=lambda answer: repr(answer[:60]),
    )
    def test_whose_answer_is_none_is_broken(self, fleet: Fleet, answer: bytes) -> None:
        def talking(visit: Visit) -> None:
            visit.request()
            visit.send(answer)

        fleet.upstream.script = talking
        given = fleet.dial().send(fleet.get("/", version="HTTP/1.0")).answer()
        assert (given.status, given.code) == (502, "upstream_broken")

    @pytest.mark.parametrize(
        "part", [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4000]
    )
    def test_whose_head_does_not_end_is_broken(self, fleet: Fleet, part: bytes) -> None:
        def talking(visit: Visit) -> None:
            visit.request()
            visit.send(part)
            assert visit.recv() == b""

        fleet.upstream.script = talking
        given = fleet.dial().send(fleet.get("/", version="HTTP/1.0")).answer()
        assert (given.status, given.code) == (502, "upstream_broken")

    @pytest.mark.parametrize(
        "beginning",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
        ],
    )
    def test_that_dies_amid_an_answer_breaks_it_off_where_its_client_can_see(
        self, fleet: Fleet, beginning: bytes
    ) -> None:
        def dying(visit: Visit) -> None:
            visit.request()
            visit.send(beginning)

        fleet.upstream.script = dying
        wire = fleet.dial().send(fleet.get("/"))
        with pytest.raises(h11.RemoteProtocolError):
            wire.answer()

    def test_that_dies_amid_an_answer_without_length_breaks_it_off(self, fleet: Fleet) -> None:
        def dying(visit: Visit) -> None:
            visit.request()
            visit.send(b"HTTP/1.1 200 OK\r\n\r\n01234")
            assert broken.wait(20)
            visit.reset()

        broken = threading.Event()
        fleet.upstream.script = dying
        wire = fleet.dial().send(fleet.get("/"))
        assert wire.head().status == 200
        assert wire.piece() == b"01234"
        broken.set()
        with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
            wire.piece()

    @pytest.mark.parametrize(
        ("lines", "head"),
        [
            ((), b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
            (
                ("Connection: upgrade", "Upgrade: websocket"),
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
        ],
        ids=["events", "WebSocket"],
    )
    def test_that_dies_ends_its_streams_and_the_next_request_is_served(
        self, fleet: Fleet, lines: tuple[str, ...], head: bytes
    ) -> None:
        dies = threading.Event()

        def dying(visit: Visit) -> None:
            visit.head()
            visit.send(head)
            assert dies.wait(20)
            visit.reset()

        fleet.upstream.script = dying
        wire = fleet.dial().send(fleet.get("/stream", *lines))
        assert (wire.answer() if lines else wire.head()).status in {200, 101}
        dies.set()
        assert wire.rest() == b""
        fleet.upstream.script = fleet.upstream.serve
        assert fleet.call(fleet.get("/")).status == 200

    def test_that_is_slow_makes_its_answer_late_and_no_other(self, fleet: Fleet) -> None:
        goes_on = threading.Event()

        def slow(visit: Visit) -> None:
            while (request := visit.request()) is not None:
                assert request.target != "/slow" or goes_on.wait(20)
                visit.send(fleet.upstream.answer(request))

        fleet.upstream.script = slow
        late = fleet.dial().send(fleet.get("/slow"))
        assert fleet.call(fleet.get("/other")).body == b"/other"
        goes_on.set()
        assert late.answer().body == b"/slow"

    def test_that_does_not_answer_in_time_is_told_so(self, impatient: Fleet) -> None:
        def silent(visit: Visit) -> None:
            visit.request()
            assert visit.recv() == b""

        impatient.upstream.script = silent
        answer = impatient.call(impatient.get("/"))
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        impatient.upstream.script = impatient.upstream.serve
        assert impatient.call(impatient.get("/")).status == 200

    def test_that_is_silent_on_a_kept_connection_is_not_asked_again(self, impatient: Fleet) -> None:
        def falling_silent(visit: Visit) -> None:
            while (request := visit.request()) is not None and request.target != "/second":
                visit.send(impatient.upstream.answer(request))
            assert visit.recv() == b""

        impatient.upstream.script = falling_silent
        wire = impatient.dial()
        assert wire.send(impatient.get("/first")).answer().status == 200
        answer = wire.send(impatient.get("/second", method="DELETE")).answer("DELETE")
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert [request.target for request in impatient.upstream.requests] == ["/first", "/second"]

    def test_is_not_blamed_while_its_client_uploads_slowly(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet(AUTHIX_UPSTREAM_TIMEOUT="1")

        def taking(visit: Visit) -> None:
            head = visit.head()
            if head is not None and head.values("expect"):
                visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            while isinstance(visit.event(), h11.Data):
                pass
            if head is not None and head.target == "/answered":
                visit.send(fleet.upstream.saying(b"taken"))
            visit.recv()

        fleet.upstream.script = taking
        plain, waiting, unanswered = (
            fleet.dial().send(fleet.get(target, "Content-Length: 5", *lines, method="PUT") + begun)
            for target, lines, begun in (
                ("/answered", (), b"he"),
                ("/answered", ("Expect: 100-continue",), b""),
                ("/silent", (), b"he"),
            )
        )
        time.sleep(2.5)  # longer than an upstream may be silent
        plain.send(b"llo")
        waiting.send(b"hello")
        unanswered.send(b"llo")
        assert plain.answer("PUT").body == b"taken"
        answer = waiting.answer("PUT")
        assert (answer.interims, answer.body) == ([100], b"taken")
        answer = unanswered.answer("PUT")
        assert (answer.status, answer.code) == (504, "upstream_timeout")

    def test_that_gives_no_go_ahead_or_takes_no_body_is_told_so(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet(AUTHIX_UPSTREAM_TIMEOUT="1")
        over = threading.Event()

        def silent(visit: Visit) -> None:
            visit.head()
            assert over.wait(20)

        fleet.upstream.script = silent
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
        answer = wire.answer("PUT")
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        size = 64 << 20
        wire = fleet.dial().send(fleet.get("/", f"Content-Length: {size}", method="PUT"))
        threading.Thread(target=wire.try_send, args=(b"x" * size,), daemon=True).start()
        answer = wire.answer("PUT")
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        over.set()

    def test_that_falls_silent_amid_an_answer_breaks_it_off(self, impatient: Fleet) -> None:

        def falling_silent(visit: Visit) -> None:
            visit.request()
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
            assert visit.recv() == b""

        impatient.upstream.script = falling_silent
        with pytest.raises(h11.RemoteProtocolError):
            impatient.call(impatient.get("/"))

    def test_that_takes_too_long_in_all_is_left_however_busy_it_is(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet(AUTHIX_UPSTREAM_TOTAL_TIMEOUT="1")
        ending = threading.Event()

        def busy(visit: Visit) -> None:
            request = visit.request()
            kind = b"text/event-stream" if request and request.target == "/events" else b"text/plain"
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind)
            while not ending.wait(0.1):
                visit.send(b"1\r\nx\r\n")
            visit.send(b"0\r\n\r\n")

        fleet.upstream.script = busy
        events = fleet.dial().send(fleet.get("/events"))
        assert events.head().status == 200
        with pytest.raises(h11.RemoteProtocolError):
            fleet.call(fleet.get("/"))
        assert events.piece()
        ending.set()
        while events.piece():
            pass
        fleet.upstream.script = fleet.upstream.serve
        wire = fleet.dial()
        for _ in range(3):  # nor does it count for a kept connection's next request
            assert wire.send(fleet.get("/")).answer().status == 200

    def test_is_left_when_its_client_is_gone(self, fleet: Fleet) -> None:
        left = threading.Event()

        def streaming(visit: Visit) -> None:
            visit.request()
            visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                while True:
                    visit.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            except OSError:
                left.set()

        fleet.upstream.script = streaming
        wire = fleet.dial().send(fleet.get("/"))
        assert wire.head().status == 200
        wire.close()
        assert left.wait(20)


class Waiter:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.status = 0
        self.content = b""
        self.complete = False

    def interim(self, status: int, found: list[Field]) -> None:
        raise NotImplementedError

    def answer(self, head: AnswerHead, content: list[bytes], *, complete: bool) -> None:
        self.status = head.status
        self.answer_more(content, complete=complete)

    def answer_more(self, content: list[bytes], *, complete: bool) -> None:
        self.content += b"".join(content)
        self.complete = complete
        if complete:
            self.ended.set()

    def upgraded(self, head: AnswerHead, behind: bytes) -> None:
        raise NotImplementedError

    def tunnelled_back(self, data: bytes) -> None:
        raise NotImplementedError

    def upstream_ended(self) -> None:
        raise NotImplementedError

    def upstream_slow(self) -> None:
        """Nothing more is sent anyway."""

    def upstream_ready(self) -> None:
        """Nothing more is sent anyway."""

    def upstream_lost(self, error: UpstreamError, *, stale: bool) -> None:
        assert not stale
        self.ended.set()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", True),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 100000\r\n\r\n" + b"n" * 100_000, True),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno", False),
        (b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\nno", False),  # a reset may have cut it
        (b"", False),
    ],
)
def test_an_answer_to_an_upload_is_read_though_the_upstream_has_reset_the_connection(
    upstream: Upstream, new_loop: Callable[[], asyncio.AbstractEventLoop], answer: bytes, *, whole: bool
) -> None:
    unread, refuses, refused = threading.Event(), threading.Event(), threading.Event()

    def refusing(visit: Visit) -> None:
        visit.head()
        visit.socket.recv(1, socket.MSG_PEEK)
        unread.set()
        assert refuses.wait(20)
        visit.send(answer)
        visit.socket.close()  # over unread bytes, so by RST
        refused.set()

    async def upload() -> Waiter:
        pool = Pool(origins(upstream.url), Patience(answer=60, total=60))
        connection, waiter = await pool.connect(), Waiter()
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
        connection.begin(waiter, head, method=b"PUT", asked=b"", whole=False)
        await asyncio.sleep(0.05)
        connection.write(b"x" * 500)
        while not unread.is_set():
            await asyncio.sleep(0.01)
        refuses.set()
        assert refused.wait(20)  # while the loop reads nothing
        connection.write(b"x" * 500)
        async with asyncio.timeout(20):
            await waiter.ended.wait()
        pool.close()
        while pool.connections:
            await asyncio.sleep(0.01)
        return waiter

    upstream.script = refusing
    with asyncio.Runner(loop_factory=new_loop) as runner:
        waiter = runner.run(upload())
    assert waiter.status == (413 if answer else 0)
    assert waiter.complete is whole
    assert waiter.content == answer.partition(b"\r\n\r\n")[2]


class Asker(threading.Thread):
    """Asks for targets of its own, and hangs up now and then."""

    def __init__(self, fleet: Fleet, number: int, mood: random.Random) -> None:
        super().__init__()
        self.fleet, self.number, self.mood = fleet, number, mood
        self.complete = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        wire = self.fleet.dial()
        for turn in range(400):
            try:
                if not self.ask(wire, f"/{self.number}-{turn}"):
                    wire = self.fleet.dial()
            except (OSError, h11.RemoteProtocolError):  # the upstream's mood
                wire = self.fleet.dial()

    def ask(self, wire: Wire, target: str) -> bool:
        """Whether the connection may be used on."""
        wire.send(self.fleet.get(target))
        if self.mood.random() < 0.05:
            wire.close()
            return False
        answer = wire.answer()
        if answer.status == 200:
            self.complete += 1
            if answer.body.replace(target.encode(), b""):
                self.wrong.append(f"{target}: {answer.body[:60]!r}")
        elif answer.code != "upstream_broken":
            self.wrong.append(f"{target}: {answer}")
        return True


def test_no_answer_reaches_another_request_whoever_breaks_off(fleet: Fleet) -> None:
    """Both sides hang up at random; whatever is answered in full is the answer to what was asked."""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)

    def moody(visit: Visit) -> None:
        mood = random.Random(dice.random())
        while (request := visit.request()) is not None:
            answer = fleet.upstream.saying(request.target.encode() * mood.choice([1, 1, 5000]))
            if mood.random() < 0.05:
                visit.send(answer[: mood.randrange(len(answer))])
                (visit.reset if mood.random() < 0.5 else visit.socket.close)()
                return
            visit.send(answer)

    fleet.upstream.script = moody
    askers = [Asker(fleet, number, random.Random(dice.random())) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [asker.wrong for asker in askers] == [[]] * len(askers), f"seed {seed}"
    assert sum(asker.complete for asker in askers) > 1000
