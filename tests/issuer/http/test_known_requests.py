"""Requests for the keys that are the same to the last byte as one before: answered alike, and in their turn."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix.keys import KeySet
from tests.programs import DEADLINE, HOST, PASSWORD, IssuerProgram, eventually, free_port, register

PATHS = ["/public_key", "/.well-known/jwks.json"]
TIMES = 4


class Told(NamedTuple):
    """An answer, without the id of its request."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str

    def alike(self) -> object:
        return self._replace(request_id="")


class Line:
    """A connection, down to its bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._file = connection.makefile("rb")

    def close(self) -> None:
        self._file.close()

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def read(self, method: str = "GET") -> Told:
        status = int(self._file.readline().split()[1])
        fields: list[tuple[str, str]] = []
        while row := self._file.readline().strip():
            name, _, value = row.decode().partition(":")
            fields.append((name.lower(), value.strip()))
        told = dict(fields)
        assert len(told) == len(fields)
        length = 0 if method == "HEAD" or status == 304 else int(told["content-length"])
        name = told.pop("x-request-id")
        return Told(status, tuple(told.items()), self._file.read(length), name)

    def ask(self, data: bytes) -> Told:
        self.send(data)
        return self.read(data.partition(b" ")[0].decode())


@contextmanager
def line(issuer: IssuerProgram) -> Iterator[Line]:
    with (
        socket.create_connection((HOST, issuer.port), timeout=DEADLINE) as connection,
        closing(Line(connection)) as made,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield made


def head(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Accept: application/jwk-set+json",),
        ("Origin: https://elsewhere.example", "User-Agent: a browser"),
        ("If-None-Match: *",),
        ('If-None-Match: "another"',),
        ("Accept: ;;;",),
    ],
)
def test_the_same_request_gets_the_same_answer_under_another_id(
    shared_issuer: IssuerProgram, path: str, method: str, fields: tuple[str, ...]
) -> None:
    sent = head(path, *fields, method=method)
    with line(shared_issuer) as one, line(shared_issuer) as other:
        answers = [each.ask(sent) for each in (one, one, other, other) * 2]
        # the same question in other words, which nothing is known of
        asked = one.ask(sent.replace(b"Host: x", b"Host:  x"))
    assert {answer.alike() for answer in answers} == {asked.alike()}
    assert len({answer.request_id for answer in answers}) == len(answers)


def test_each_is_counted_and_logged(start_issuer: Callable[..., IssuerProgram]) -> None:
    port = free_port()
    issuer = start_issuer(AUTHIX_METRICS_PORT=str(port), AUTHIX_LOG="json")
    with line(issuer) as asking:
        ids = [asking.ask(head("/public_key", "If-None-Match: *")).request_id for _ in range(TIMES)]

    def lines() -> list[tuple[object, ...]]:
        entries = [json.loads(text) for text in issuer.output().splitlines() if "/public_key" in text]
        return [tuple(entry[key] for key in ("request_id", "method", "path", "status", "code")) for entry in entries]

    expected = [(name, "GET", "/public_key", 304, "ok") for name in ids]
    eventually(lambda: lines() == expected, lambda: f"{expected} are logged, not {lines()}")
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    labels = 'code="ok",method="GET",route="/public_key",status="3xx"'
    counted = [sample for sample in text.splitlines() if "requests_total{" in sample and "/public_key" in sample]
    assert [(set(re.findall(r'\w+="[^"]*"', sample)), sample.split()[-1]) for sample in counted] == [
        (set(labels.split(",")), f"{TIMES}.0")
    ]


@pytest.mark.parametrize("path", PATHS)
def test_a_revoked_key_is_shown_to_nobody_who_has_asked_before(
    start_issuer: Callable[..., IssuerProgram], path: str
) -> None:
    issuer = start_issuer()
    with line(issuer) as asking:
        sent = head(path, "Accept: application/jwk-set+json")
        before = [asking.ask(sent) for _ in range(TIMES)][-1]
        revoked = next(iter(KeySet.from_json(before.body))).key_id
        assert issuer.run("keys", "revoke", revoked).returncode == 0
        eventually(lambda: revoked not in KeySet.from_json(asking.ask(sent).body), "the revoked key is gone")
        for _ in range(TIMES):  # meanwhile a next key may come in
            assert revoked not in KeySet.from_json(asking.ask(sent).body)


@pytest.mark.parametrize("length", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_body_is_waited_for_and_never_taken_for_a_request(shared_issuer: IssuerProgram, length: str) -> None:
    sent = head("/public_key", length)
    body = b"5\r\nhello\r\n0\r\n\r\n" if "chunked" in length else b"hello"
    with line(shared_issuer) as asking:
        for _ in range(TIMES):
            assert asking.ask(sent + body).status == 200
        for _ in range(TIMES):
            asking.send(sent)
            time.sleep(0.05)  # so that it comes alone
            asking.send(body)
            assert asking.read().status == 200


KNOWN = head("/public_key")
WITH_LENGTH = f"Content-Length: {len(KNOWN)}"
IN_CHUNKS = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        pytest.param([head("/logout", WITH_LENGTH, method="POST")], [], 401, id="a body that is read"),
        pytest.param([head("/nowhere", WITH_LENGTH)], [], 404, id="a body that nobody reads"),
        pytest.param([head("/login", WITH_LENGTH, method="PUT")], [], 405, id="of a wrong method"),
        pytest.param([head("/login", WITH_LENGTH, method="OPTIONS")], [], 405, id="of a question for methods"),
        pytest.param([head("/nowhere", IN_CHUNKS), b"%x\r\n" % len(KNOWN)], [b"\r\n0\r\n\r\n"], 404, id="a chunk"),
        pytest.param([b"GET /nowhere HTTP/1.1\r\nUser-Agent: "], [], 404, id="a field"),
        pytest.param([b"GET /nowhere?"], [], 400, id="a target"),
    ],
)
def test_what_belongs_to_another_request_is_none_even_if_it_looks_like_one(
    shared_issuer: IssuerProgram, before: list[bytes], after: list[bytes], status: int
) -> None:
    with line(shared_issuer) as asking:
        assert {asking.ask(KNOWN).status for _ in range(TIMES)} == {200}
        for packet in (*before, KNOWN, *after):
            asking.send(packet)
            time.sleep(0.05)  # so that what follows comes alone
        assert asking.read().status == status
        if status != 400:  # after which the connection ends
            assert asking.ask(head("/livez")).body == b'{"status":"alive"}'


def test_a_known_request_instead_of_the_end_of_a_body_is_none(shared_issuer: IssuerProgram) -> None:
    with line(shared_issuer) as asking:
        assert {asking.ask(KNOWN).status for _ in range(TIMES)} == {200}
        for packet in (head("/nowhere", IN_CHUNKS), b"0\r\n", KNOWN):
            asking.send(packet)
            time.sleep(0.05)
        assert asking.read().status == 404
        assert asking.connection.recv(1) == b"", "the connection ends"


def test_answers_come_in_the_order_of_the_requests(shared_issuer: IssuerProgram, new_email: Callable[[], str]) -> None:
    email, known = new_email(), head("/public_key")
    with shared_issuer.client() as client:
        register(client, email)
    body = json.dumps({"email": email, "password": PASSWORD})
    slow = head("/login", "Content-Type: application/json", f"Content-Length: {len(body)}", method="POST")
    with line(shared_issuer) as asking:
        assert {asking.ask(known).status for _ in range(TIMES)} == {200}
        packets = ([slow + body.encode(), known], [known + slow, body.encode() + known], [known, slow, body.encode()])
        for sent in packets:
            for packet in sent:
                asking.send(packet)
                time.sleep(0.002)  # so that each comes alone, while what came before is still under way
            for method in re.findall(rb"(GET|POST) /", b"".join(sent)):
                answer = asking.read()
                kind = "application/json" if method == b"POST" else "application/x-pem-file"
                assert (answer.status, dict(answer.fields)["content-type"]) == (200, kind)


KINDS = {
    head("/public_key"): (200, "application/x-pem-file"),
    head("/public_key", "If-None-Match: *"): (304, None),
    head("/.well-known/jwks.json"): (200, "application/jwk-set+json"),
    head("/livez"): (200, "application/json"),
    head("/nowhere", WITH_LENGTH, method="POST") + KNOWN: (404, "application/problem+json"),
    head("/public_key", "Content-Length: 30") + b"GET /livez HTTP/1.1\r\nHost: x\r\n": (200, "application/x-pem-file"),
    head("/logout", "Content-Length: 0", method="POST"): (401, "application/problem+json"),
}


@given(
    asked=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=12),
    at_ends=st.booleans(),
)
def test_whatever_the_packets_each_request_is_answered_once_and_in_its_turn(
    shared_issuer: IssuerProgram, asked: list[bytes], cuts: list[tuple[int, bool]], *, at_ends: bool
) -> None:
    whole = b"".join(asked)
    ends = list(itertools.accumulate(map(len, asked)))
    pauses = {at % len(whole): pause for at, pause in cuts} | (dict.fromkeys(ends, True) if at_ends else {})
    bounds = sorted({0, *pauses, len(whole)})
    with line(shared_issuer) as asking:
        for start, end in itertools.pairwise(bounds):
            asking.send(whole[start:end])
            if pauses.get(end):
                time.sleep(0.001)
        answers = [asking.read() for _ in asked]
        asking.send(head("/nowhere"))
        assert asking.read().status == 404
    found = [(answer.status, dict(answer.fields).get("content-type")) for answer in answers]
    assert found == [KINDS[each] for each in asked]
    assert len({answer.request_id for answer in answers}) == len(answers)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_one_that_comes_in_pieces_or_with_others_is_answered_once(shared_issuer: IssuerProgram, size: int) -> None:
    known = head("/public_key")
    with line(shared_issuer) as asking:
        expected = [asking.ask(known) for _ in range(TIMES)][-1].alike()
        for start in range(0, len(known), size):
            asking.send(known[start : start + size])
            time.sleep(0.001)
        assert asking.read().alike() == expected
        asking.send(known * TIMES + known[:size])
        assert {asking.read().alike() for _ in range(TIMES)} == {expected}
        asking.send(known[size:])
        assert asking.read().alike() == expected
        assert asking.ask(head("/livez")).status == 200


@pytest.mark.parametrize(
    "sent", [head("/public_key", "Connection: close"), head("/public_key").replace(b"HTTP/1.1", b"HTTP/1.0")]
)
def test_a_connection_that_is_to_end_does_so_each_time(shared_issuer: IssuerProgram, sent: bytes) -> None:
    for _ in range(TIMES):
        with line(shared_issuer) as asking:
            assert asking.ask(head("/livez")).status == 200
            assert dict(asking.ask(sent).fields)["connection"] == "close"
            assert asking.connection.recv(1) == b""


def test_at_the_end_of_the_issuer_an_answer_says_that_it_was_the_last(
    start_issuer: Callable[..., IssuerProgram],
) -> None:
    issuer, known = start_issuer(), head("/public_key")
    with line(issuer) as asking:
        for _ in range(TIMES):
            assert dict(asking.ask(known).fields)["connection"] == "keep-alive"
        assert issuer.process is not None
        issuer.process.send_signal(signal.SIGTERM)
        last = asking.ask(known)
        while dict(last.fields)["connection"] == "keep-alive":  # the signal is on its way
            last = asking.ask(known)
        assert asking.connection.recv(1) == b""


def test_the_id_that_came_is_the_id_that_goes(shared_issuer: IssuerProgram) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced = f"traceparent: 00-{trace}-b7ad6b7169203331-01"
    with line(shared_issuer) as asking:
        for field, name in (("X-Request-Id: mine", "mine"), (traced, trace)):
            assert {asking.ask(head("/public_key", field)).request_id for _ in range(TIMES)} == {name}


def test_a_client_that_reads_no_answers_is_read_from_no_more(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer, known = start_issuer(), head("/public_key", "User-Agent: " + "hasty " * 300)
    with line(issuer) as asking:
        expected = [asking.ask(known) for _ in range(TIMES)][-1].alike()
        asking.connection.settimeout(1)
        sent = 0
        try:
            while sent < 100_000:
                asking.send(known)
                time.sleep(0.0001)  # so that it comes alone, as a known one does
                sent += 1
        except TimeoutError:
            pass
        assert sent < 100_000
        asking.connection.settimeout(DEADLINE)
        for _ in range(sent):
            assert asking.read().alike() == expected


def test_where_decisions_are_logged_each_is(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer(AUTHIX_LOG_LEVEL="debug")
    with line(issuer) as asking:
        for _ in range(TIMES):
            assert asking.ask(head("/public_key")).status == 200
    eventually(lambda: issuer.output().count("GET /public_key: ok") == TIMES, issuer.output)


def test_where_requests_are_traced_each_is(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer(OTEL_TRACES_EXPORTER="console", OTEL_BSP_SCHEDULE_DELAY="50")
    with line(issuer) as asking:
        for _ in range(TIMES):
            assert asking.ask(head("/public_key")).status == 200
    eventually(lambda: issuer.output().count('"name": "GET /public_key"') == TIMES, issuer.output)
