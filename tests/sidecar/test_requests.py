"""Requests through the proxy: what reaches the upstream, and their bodies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import h11
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sidecar.conftest import Fleet, Visit

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
MADE_ID = re.compile(r"[0-9a-f]{32}")


class TestRequest:
    def test_arrives_as_it_was_sent_with_who_sent_it(self, fleet: Fleet) -> None:
        _, user_id, token = fleet.new_user()
        target = "/a%20b/c:d?x=%2e%2e//&y=;z"
        assert fleet.call(fleet.get(target, "Accept: */*", "Cookie: a=b", token=token)).body == target.encode()
        (request,) = fleet.upstream.requests
        session = request.values("x-authix-session")
        assert (request.method, request.target, request.body) == ("GET", target, b"")
        assert request.headers == [
            ("host", "orders.example"),
            ("authorization", f"Bearer {token}"),
            ("accept", "*/*"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "orders.example"),
            ("x-request-id", *request.values("x-request-id")),
            ("x-authix-subject", user_id),
            ("x-authix-session", *session),
            ("x-authix-roles", ""),
        ]
        assert len(session[0]) > 0

    @pytest.mark.parametrize(
        ("lines", "request_id"),
        [
            (["X-Request-Id: Ingress.7f-1_a"], "Ingress.7f-1_a"),
            (["X-Request-Id: Ingress.7f-1_a", f"traceparent: {TRACEPARENT}"], "Ingress.7f-1_a"),
            ([f"traceparent: {TRACEPARENT}"], TRACE),
            ([f"Traceparent: {TRACEPARENT}", "tracestate: a=1,b=2", "X-Request-Id: a b"], TRACE),
            (["X-Request-Id: a b"], None),
            (["X-Request-Id: one", "X_Request_Id: two", "x-request-id: three"], None),
            (["X-Request-Id: one", "traceparent: 00-0-0-01"], "one"),
            (["traceparent: 00-0-0-01"], None),
            ([], None),
        ],
    )
    def test_goes_on_under_the_id_and_in_the_trace_that_it_came_with(
        self, fleet: Fleet, lines: list[str], request_id: str | None
    ) -> None:
        assert fleet.call(fleet.get("/", *lines)).status == 200
        (request,) = fleet.upstream.requests
        (found,) = [value for name, value in request.headers if name.replace("_", "-") == "x-request-id"]
        if request_id is None:
            assert MADE_ID.fullmatch(found)
        else:
            assert found == request_id
        sent = [line.split(": ") for line in lines if line.lower().startswith("trace")]
        assert [[name, value] for name, value in request.headers if name.startswith("trace")] == [
            [name.lower(), value] for name, value in sent
        ]

    def test_that_is_refused_says_the_id_it_came_with(self, fleet: Fleet) -> None:
        answer = fleet.call(fleet.get("/", f"traceparent: {TRACEPARENT}", token="a.b.c"))
        assert (answer.status, answer.values("x-request-id")) == (401, [TRACE])

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY"])
    def test_may_have_any_method_of_http(self, fleet: Fleet, method: str) -> None:
        assert fleet.call(fleet.get("/x", method=method)).status == 200
        assert [request.method for request in fleet.upstream.requests] == [method]

    def test_without_a_token_is_challenged_and_reaches_nobody(self, fleet: Fleet) -> None:
        answer = fleet.call(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.code) == (401, "token_missing")
        assert answer.values("www-authenticate") == ['Bearer realm="authix"']
        assert answer.values("content-type") == ["application/problem+json"]
        fleet.settle()
        assert fleet.upstream.requests == []

    @pytest.mark.parametrize(
        "spoil", [lambda token: token[:-6] + "AAAAAA", lambda token: token + "x", lambda _: "a.b.c"]
    )
    def test_with_a_bad_token_reaches_nobody(self, fleet: Fleet, spoil: Callable[[str], str]) -> None:
        answer = fleet.call(fleet.get("/a", token=spoil(fleet.token)))
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.values("www-authenticate")[0]
        fleet.settle()
        assert fleet.upstream.requests == []

    @pytest.mark.parametrize(
        "name",
        [
            "X-Authix-Subject",
            "x_authix_subject",
            "X.AUTHIX~SUBJECT",
            "X-Authix-Roles",
            "x-authix_session",
            "X-Authix-A",
        ],
    )
    def test_can_not_bring_in_an_identity(self, fleet: Fleet, name: str) -> None:
        assert fleet.call(fleet.get("/a", f"{name}: admin", f"{name}: root")).status == 200
        (request,) = fleet.upstream.requests
        assert not [value for _, value in request.headers if value in {"admin", "root"}]

    @pytest.mark.parametrize("host", [".", "..", ".orders.example", "orders..example", "orders.example..:80"])
    def test_of_a_host_with_an_empty_label_reaches_nobody(self, fleet: Fleet, host: str) -> None:
        answer = fleet.call(fleet.get("/a").replace(b"orders.example", host.encode()))
        assert (answer.status, answer.code) == (400, "host_refused")
        fleet.settle()
        assert fleet.upstream.requests == []

    def test_may_end_its_host_with_a_dot(self, fleet: Fleet) -> None:
        for host in (b"orders.example.", b"orders.example.:80", b"a"):
            assert fleet.call(fleet.get("/a").replace(b"orders.example", host)).status == 200

    @pytest.mark.parametrize(
        "path", ["/a/../admin", "/a//admin", "/%61dmin", "/a%2fadmin", "/a;/admin", "/%2e%2e/admin"]
    )
    def test_with_another_spelling_of_a_path_reaches_nobody(self, fleet: Fleet, path: str) -> None:
        answer = fleet.call(fleet.get(path))
        assert (answer.status, answer.code) == (400, "path_not_canonical")
        fleet.settle()
        assert fleet.upstream.requests == []

    def test_of_a_second_user_on_the_same_connection_carries_that_user(self, fleet: Fleet) -> None:
        wire = fleet.dial()
        users = [fleet.new_user() for _ in range(2)]
        for _, _, token in (*users, *users):
            assert wire.send(fleet.get("/a", token=token)).answer().status == 200
        seen = [request.values("x-authix-subject")[0] for request in fleet.upstream.requests]
        assert seen == [user_id for _, user_id, _ in (*users, *users)]


class TestBody:
    def test_waits_for_the_upstreams_go_ahead_when_the_client_asks_for_it(self, fleet: Fleet) -> None:
        def asking(visit: Visit) -> None:
            head = visit.head()
            assert head is not None
            assert head.values("expect") == ["100-continue"]
            visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert visit.recv_exactly(5) == b"hello"
            visit.send(fleet.upstream.saying(b"thanks"))

        fleet.upstream.script = asking
        wire = fleet.dial().send(fleet.get("/", "Expect: 100-Continue", "Content-Length: 5", method="POST"))
        assert wire.recv() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert wire.send(b"hello").answer().body == b"thanks"

    def test_is_not_asked_for_when_the_upstream_refuses_by_its_head(self, fleet: Fleet) -> None:
        def refusing(visit: Visit) -> None:
            visit.head()
            visit.send(fleet.upstream.saying(b"", status="413 Content Too Large"))
            assert visit.recv() == b""

        fleet.upstream.script = refusing
        wire = fleet.dial().send(fleet.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        answer = wire.answer()
        assert (answer.status, answer.interims, answer.values("connection")) == (413, [], ["close"])

    def test_is_not_asked_for_without_a_good_token(self, fleet: Fleet) -> None:
        request = fleet.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST", token="a.b.c")
        answer = fleet.call(request)
        assert (answer.status, answer.interims, answer.values("connection")) == (401, [], ["close"])

    def test_may_be_answered_before_its_end(self, fleet: Fleet) -> None:
        def echoing(visit: Visit) -> None:
            visit.head()
            visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while isinstance(piece := visit.event(), h11.Data):
                visit.send(b"%x\r\n%b\r\n" % (len(piece.data), bytes(piece.data)))
            visit.send(b"0\r\n\r\n")

        fleet.upstream.script = echoing
        wire = fleet.dial().send(fleet.get("/", "Transfer-Encoding: chunked", method="POST"))
        assert wire.head().status == 200
        for word in (b"one", b"two", b"three"):
            wire.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert wire.piece() == word
        wire.send(b"0\r\n\r\n")
        assert wire.piece() == b""
        assert wire.recv() == b""  # the next request could not be told from the rest of a body

    @pytest.mark.parametrize("together", [True, False])
    def test_that_is_malformed_is_counted_whenever_that_is_found(self, fleet: Fleet, *, together: bool) -> None:
        def counted() -> int:
            text = fleet.call(fleet.get("/metrics"), fleet.sidecar.auth_port).body.decode()
            found = re.search(r'authix_sidecar_decisions_total\{code="body_malformed"\} (\d+)', text)
            return int(found[1]) if found else 0

        before = counted()
        wire = fleet.dial()
        head = fleet.get("/", "Transfer-Encoding: chunked", method="POST")
        if together:
            wire.send(head + b"zz\r\n")
        else:
            wire.send(head)
            fleet.settle()
            wire.send(b"zz\r\n")
        assert wire.answer("POST").code == "body_malformed"
        assert counted() == before + 1

    def test_answered_early_leaves_the_upstreams_connection_to_nobody(self, fleet: Fleet) -> None:
        def early(visit: Visit) -> None:
            if visit is not fleet.upstream.visits[0]:
                fleet.upstream.serve(visit)
                return
            visit.head()
            visit.send(fleet.upstream.saying(b"early"))
            while visit.recv():
                pass

        fleet.upstream.script = early
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 10", method="POST") + b"01234")
        assert wire.answer().body == b"early"
        assert wire.send(b"56789" + fleet.get("/next")).answer().body == b"/next"

    def test_answered_early_by_an_upstream_that_hangs_up_gives_that_answer(self, fleet: Fleet) -> None:
        def hanging_up(visit: Visit) -> None:
            visit.head()
            visit.send(fleet.upstream.saying(b"too large", "Connection: close", status="413 Content Too Large"))

        fleet.upstream.script = hanging_up
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 1000000000", method="POST"))
        wire.try_send(b"x" * 100_000)
        assert wire.answer().body == b"too large"

    @pytest.mark.parametrize("framing", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
    def test_of_a_refused_request_does_not_hide_the_refusal(self, fleet: Fleet, framing: str) -> None:
        wire = fleet.dial().send(fleet.get("/", framing, method="POST", token="a.b.c"))
        wire.try_send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        wire.try_send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        answer = wire.answer()
        assert (answer.status, answer.values("connection")) == (401, ["close"])
        assert wire.recv() == b""

    def test_of_a_refused_request_is_not_read_for_ever(self, fleet: Fleet) -> None:
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 1000000000", method="POST", token="a.b.c"))
        with pytest.raises(OSError):
            wire.send(b"x" * 500_000_000)

    def test_of_a_refused_request_is_dropped_when_it_is_small_and_the_connection_goes_on(self, fleet: Fleet) -> None:
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 10", method="POST", token="a.b.c") + b"01234")
        assert wire.answer().status == 401
        assert wire.send(b"56789" + fleet.get("/next")).answer().body == b"/next"
        assert [request.target for request in fleet.upstream.requests] == ["/next"]

    def test_that_breaks_off_is_never_a_whole_request(self, fleet: Fleet) -> None:
        wire = fleet.dial().send(fleet.get("/", "Content-Length: 10", method="POST") + b"01234")
        fleet.settle()
        wire.close()
        assert fleet.call(fleet.get("/next")).status == 200
        assert [request.target for request in fleet.upstream.requests] == ["/next"]
