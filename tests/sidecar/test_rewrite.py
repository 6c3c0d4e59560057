"""What goes upstream, read by h11 as the reference; and what comes back."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authix.claims import Claims
from authix.verifier import CACHE_ENTRIES
from authix_sidecar.answers import AnswerHead, read_answer
from authix_sidecar.errors import RequestRefused, UpstreamBroken
from authix_sidecar.fields import goes_upstream
from authix_sidecar.requests import RequestHead, read_request
from authix_sidecar.rewrite import Framing, answer_head, chunk, framing, identity, request_head

TOKEN_BYTES = "!#$%&'*+-.^_`|~" + "0123456789" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def claims(*, subject: str = "user-1", session: str | None = "session-1", roles: Collection[str] = ()) -> Claims:
    return Claims(
        subject=subject,
        session=session,
        roles=frozenset(roles),
        issuer="https://auth.example.com",
        audience=("orders",),
        issued_at_us=1,
        expires_at=2,
        token_id=None,
        key_id="key",
        extra={},
    )


def forward(request: RequestHead, *, roles: Collection[str] = ()) -> bytes:
    return request_head(request, claims(roles=roles), peer=b"192.0.2.1", scheme=b"http", upstream=b"upstream:80")


def as_read_by_h11(wire: bytes) -> tuple[h11.Request, bytes]:
    """The one request in ``wire``. Fails when there is not exactly one."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(wire)
    head = reader.next_event()
    assert isinstance(head, h11.Request), head
    body = b""
    while isinstance(piece := reader.next_event(), h11.Data):
        body += piece.data
    assert isinstance(piece, h11.EndOfMessage), piece
    assert reader.trailing_data == (b"", False)
    return head, body


def head_of(*lines: bytes, start: bytes = b"GET /a?b HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: orders.example", *lines, b"", b""])


def sent(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields that h11 reads in what is forwarded of ``head``."""
    return list(as_read_by_h11(forward(read_request(head)))[0].headers)


def test_an_identity_is_never_another_users_however_many_come_and_go() -> None:
    request, kept = read_request(head_of()), claims(subject="kept")

    def subject(whose: Claims) -> bytes:
        head = request_head(request, whose, peer=b"192.0.2.1", scheme=b"http", upstream=b"upstream:80")
        return head.partition(b"X-Authix-Subject: ")[2].partition(b"\r\n")[0]

    for number in range(CACHE_ENTRIES * 2):
        assert subject(claims(subject=f"user-{number}")) == b"user-%d" % number
        assert subject(kept) == b"kept"


TEMPLATES = (
    head_of(b"Authorization: Bearer a.b.c", b"Accept: */*", b"X-Authix-Subject: admin"),
    head_of(b"Content-Length: 5", b"Connection: close, X-A", b"X-A: 1", start=b"POST /a/b HTTP/1.1"),
    head_of(b"Transfer-Encoding: chunked", b"Cookie: a=b; c=d", start=b"PUT /a%20b?c=%20 HTTP/1.1"),
    head_of(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    head_of(b"Expect: 100-continue", b"Content-Length: 1", b"TE: trailers", start=b"PATCH / HTTP/1.1"),
    head_of(b"Connection: keep-alive", start=b"GET /old HTTP/1.0"),
)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.sampled_from(
            [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"/", b"-", b"_", b"\x80", b"\xff"]
        )
        | st.binary(min_size=1, max_size=3)
        | st.sampled_from([b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"0\r\n\r\n"]),
        st.integers(0, 3),
    ),
    max_size=3,
)


@given(st.sampled_from(TEMPLATES), EDITS)
@example(TEMPLATES[0], [])
def test_whatever_is_accepted_is_forwarded_as_exactly_one_request_with_the_same_target_and_body(
    head: bytes, edits: list[tuple[int, bytes, int]]
) -> None:
    for at, new, dropped in edits:
        head = head[:at] + new + head[at + dropped :]
    head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        request = read_request(head)
    except RequestRefused:
        return
    body = b"x" * (request.length or 0)
    if len(body) > 10_000:
        return
    wire = chunk(b"hello") + b"0\r\n\r\n" if request.chunked else body
    read, read_body = as_read_by_h11(forward(request) + wire)
    method, target, _ = head.split(b" ", 2)
    assert (read.method, read.target) == (method, target)
    assert read_body == (b"hello" if request.chunked else body)
    assert [value for name, value in read.headers if name == b"x-authix-subject"] == [b"user-1"]
    assert len([1 for name, _ in read.headers if name == b"host"]) == 1


SPELLINGS = st.sampled_from(
    ["x-authix-subject", "x-authix-session", "x-authix-roles", "x-authix-new", "x-authix"]
).flatmap(
    lambda name: st.tuples(
        *(st.sampled_from("!#$%&'*+-.^_`|~") if byte == "-" else st.sampled_from([byte, byte.upper()]) for byte in name)
    ).map("".join)
)


@given(st.lists(st.tuples(SPELLINGS, st.sampled_from(["admin", "", " admin", "a,b"])), min_size=1, max_size=6))
def test_no_spelling_of_an_identity_field_comes_in(pairs: list[tuple[str, str]]) -> None:
    lines = [f"{name}: {value}".encode() for name, value in pairs]
    folded = [
        ("".join(letter if letter.isalnum() else "-" for letter in name.decode().lower()), value)
        for name, value in sent(head_of(*lines))
    ]
    assert [pair for pair in folded if pair[0].startswith("x-authix")] == [
        ("x-authix-subject", b"user-1"),
        ("x-authix-session", b"session-1"),
        ("x-authix-roles", b""),
    ]


NOT_PASSED = (
    *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade"),
    *("content-length", "expect", "host"),
    *("forwarded", "x-original-uri", "x-original-url", "x-real-ip", "x-rewrite-url"),
    *("x-request-id",),
)


# folded names are drawn too, because letters alone hardly ever make one
@given(
    st.text(TOKEN_BYTES, min_size=1, max_size=20)
    | st.tuples(
        st.sampled_from([*NOT_PASSED, "x-authix", "x-forwarded-for", "x-requested-with", "accept"]),
        st.sampled_from("-._!~"),
        st.booleans(),
    ).map(lambda drawn: (drawn[0].upper() if drawn[2] else drawn[0]).replace("-", drawn[1]))
)
def test_other_fields_pass(name: str) -> None:
    folded = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    ours = (folded + "-").startswith(("x-authix-", "x-forwarded-"))
    if ours or folded in NOT_PASSED:
        assert not goes_upstream(name.encode())
    else:
        assert (name.lower().encode(), b"v") in sent(head_of(f"{name}: v".encode()))


@pytest.mark.parametrize(
    "name", [b"X-Authix-Subject", b"x-authix-subject", b"Authorization", b"Host", b"X-Forwarded-For"]
)
def test_naming_a_field_hop_by_hop_does_not_take_ours_away(name: bytes) -> None:
    found = dict(sent(head_of(b"Connection: close, " + name, b"X-Forwarded-For: 203.0.113.9")))
    assert found[b"x-authix-subject"] == b"user-1"
    assert found[b"host"] == b"orders.example"
    assert found[b"x-forwarded-for"] == b"192.0.2.1"


def test_hop_by_hop_fields_and_those_named_by_connection_stay_here() -> None:
    found = sent(
        head_of(
            b"Connection: X-One, keep-alive , x-TWO",
            b"X-One: 1",
            b"x-two: 2",
            b"X-Three: 3",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eA==",
            b"TE: trailers",
            b"Trailer: X",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAA",
        )
    )
    assert [name for name, _ in found] == [
        *(b"host", b"x-three", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"),
        *(b"x-authix-subject", b"x-authix-session", b"x-authix-roles"),
    ]


def test_a_clients_word_about_itself_is_replaced() -> None:
    found = sent(
        head_of(
            b"Forwarded: for=203.0.113.9",
            b"X-Forwarded-For: 203.0.113.9",
            b"X_Forwarded_For: 203.0.113.9",
            b"X-Forwarded-Host: evil.example",
            b"X-Forwarded-User: admin",
            b"X-Real-IP: 203.0.113.9",
            b"X-Original-URL: /admin",
            b"X-Rewrite-URL: /admin",
        )
    )
    assert found[1:4] == [
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"orders.example"),
    ]
    assert len(found) == 7


@pytest.mark.parametrize("protocols", [b"h2c", b"H2C", b"websocket, h2c", b"HTTP/2.0", b"TLS/1.0", b"h2"])
def test_a_protocol_that_carries_requests_unjudged_is_not_asked_for(protocols: bytes) -> None:
    request = read_request(head_of(b"Connection: Upgrade", b"Upgrade: " + protocols))
    assert request.upgrade == b""
    assert b"pgrade" not in forward(request)


@given(st.sets(st.text(max_size=12), max_size=6))
@example({"a,b", "a", "b", "%2C", "ä", "\r\nX-Evil: 1", "\ud800", " ", ""})
def test_roles_can_be_told_apart_again_whatever_they_hold(roles: set[str]) -> None:
    value = dict(identity(claims(roles=roles)))["X-Authix-Roles"]
    assert value.isascii()
    assert value.isprintable()
    assert {unquote(role, errors="surrogatepass") for role in value.split(",")} == (roles or {""})


def test_roles_are_sorted_and_plain_ones_stand_as_they_are() -> None:
    assert dict(identity(claims(roles={"writer", "admin", "a:b/c"})))["X-Authix-Roles"] == "a:b/c,admin,writer"


def answer(
    status: int = 200, *lines: tuple[bytes, bytes], method: bytes = b"GET", asked: bytes = b"", reason: bytes = b""
) -> AnswerHead:
    return read_answer(status=status, reason=reason, found=list(lines), method=method, asked=asked)


@pytest.mark.parametrize(
    ("head", "minor", "how"),
    [
        pytest.param(answer(200, (b"Content-Length", b"5")), 1, Framing.LENGTH, id="a length"),
        pytest.param(answer(200, (b"Content-Length", b"5")), 0, Framing.LENGTH, id="a length to HTTP/1.0"),
        pytest.param(answer(200, (b"Content-Length", b"0")), 1, Framing.NONE, id="a length of 0"),
        pytest.param(answer(200, (b"Transfer-Encoding", b"chunked")), 1, Framing.CHUNKED, id="chunked"),
        pytest.param(answer(200, (b"Transfer-Encoding", b"Chunked")), 0, Framing.CLOSE, id="chunked to HTTP/1.0"),
        pytest.param(answer(200), 1, Framing.CHUNKED, id="until the connection closes"),
        pytest.param(answer(200), 0, Framing.CLOSE, id="until the connection closes, to HTTP/1.0"),
        pytest.param(answer(204, (b"Content-Length", b"5")), 1, Framing.NONE, id="204"),
        pytest.param(answer(304, (b"Content-Length", b"5")), 1, Framing.NONE, id="304"),
        pytest.param(answer(200, (b"Content-Length", b"5"), method=b"HEAD"), 1, Framing.NONE, id="to HEAD"),
    ],
)
def test_an_answer_is_framed_anew_for_its_client(head: AnswerHead, minor: int, how: Framing) -> None:
    assert framing(head, minor) is how


@pytest.mark.parametrize(
    "lines",
    [
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"xchunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Content-Length", b"5"), (b"Content-Length", b"5")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"")],
    ],
)
def test_an_answer_with_two_ends_is_broken(lines: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UpstreamBroken):
        answer(200, *lines)


@pytest.mark.parametrize(
    ("asked", "got"),
    [(b"", b"websocket"), (b"websocket", b"h2c"), (b"websocket", b""), (b"websocket", b"websocket, h2c")],
)
def test_a_switch_to_what_was_not_asked_for_is_broken(asked: bytes, got: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        answer(101, (b"Upgrade", got), asked=asked)


def test_an_answers_own_fields_pass_and_hop_by_hop_ones_stay_here() -> None:
    head = answer(
        200,
        (b"Content-Type", b"text/plain"),
        (b"Connection", b"X-Private, keep-alive"),
        (b"X-Private", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Trailer", b"X"),
        (b"Upgrade", b"h2c"),
        (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"),
        reason=b"Fine",
    )
    assert answer_head(head, Framing.CHUNKED, minor=1, keep_alive=True) == (
        b"HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("minor", "keep_alive", "line"),
    [
        (1, True, b""),
        (1, False, b"Connection: close"),
        (0, True, b"Connection: keep-alive"),
        (0, False, b"Connection: close"),
    ],
)
def test_a_client_is_told_whether_the_connection_goes_on(*, minor: int, keep_alive: bool, line: bytes) -> None:
    head = answer_head(answer(200, (b"Content-Length", b"0")), Framing.NONE, minor=minor, keep_alive=keep_alive)
    assert head.endswith(b"Content-Length: 0\r\n" + (line + b"\r\n" if line else b"") + b"\r\n")
