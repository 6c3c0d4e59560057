"""Tokens under keys that the sidecar did not yet know, and what only a token of one's own making can hold."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authix.keys import KeySet, VerificationKey
from tests.programs import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sidecar.conftest import Fleet, Upstream, Visit


class Key:
    """A signing key of the test's own."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.public = VerificationKey(self._private.public_key())

    def token(self, issuer: str, **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": issuer, "aud": "tests", "sub": "user-1", "sid": "s1", "jti": secrets.token_hex(8), "roles": []}
        times = {"iat": now, "iat_us": now * 1_000_000, "exp": now + 300}
        return jwt.encode(
            {**claims, **times, **changes}, self._private, "ES256", {"kid": self.public.key_id, "typ": "at+jwt"}
        )


class OwnKeys:
    """A fleet whose sidecar takes its keys from the test."""

    def __init__(self, start_fleet: Callable[..., Fleet], key_server: Upstream, **env: str) -> None:
        self.key = Key()
        self.published = [self.key.public]
        self.server = key_server
        key_server.answer = lambda _: key_server.saying(
            KeySet(self.published).to_json(), "Content-Type: application/jwk-set+json", "Cache-Control: max-age=300"
        )
        self.fleet = start_fleet(AUTHIX_KEYS=f"{key_server.url}/keys", **env)

    def token(self, key: Key | None = None, **changes: Any) -> str:
        return (key or self.key).token(self.fleet.issuer.url, **changes)


@pytest.fixture
def own(start_fleet: Callable[..., Fleet], key_server: Upstream) -> OwnKeys:
    return OwnKeys(start_fleet, key_server, AUTHIX_LEEWAY="0")


def test_a_new_key_is_fetched_while_its_first_request_waits_with_its_body(own: OwnKeys) -> None:
    fleet, new = own.fleet, Key()
    own.published.append(new.public)
    wire = fleet.dial().send(fleet.get("/", "Content-Length: 10", method="POST", token=own.token(new)) + b"01234")
    wire.send(b"56789" + fleet.get("/next", token=own.token(new)))
    assert [wire.answer().status for _ in range(2)] == [200, 200]
    assert [(request.target, request.body) for request in fleet.upstream.requests] == [
        ("/", b"0123456789"),
        ("/next", b""),
    ]
    assert len(own.server.requests) == 2


def test_forward_auth_waits_for_a_new_key_too(own: OwnKeys) -> None:
    new = Key()
    own.published.append(new.public)
    answer = own.fleet.call(own.fleet.get("/verify", token=own.token(new)), own.fleet.sidecar.auth_port)
    assert (answer.status, answer.values("x-authix-subject")) == (200, ["user-1"])


def test_tokens_under_unknown_keys_are_refused_and_cost_the_issuer_one_look(own: OwnKeys) -> None:
    fleet = own.fleet
    for _ in range(20):
        answer = fleet.call(fleet.get("/", token=own.token(Key())))
        assert (answer.status, answer.code) == (401, "key_unknown")
    assert len(own.server.requests) == 2  # at the start, and for the first of them
    assert fleet.upstream.requests == []


def test_roles_reach_the_upstream_and_can_not_break_out_of_their_field(own: OwnKeys) -> None:
    fleet = own.fleet
    token = own.token(roles=["writer", "a,b", "x\r\nX-Evil: 1", "ä"])
    assert fleet.call(fleet.get("/", token=token)).status == 200
    (request,) = fleet.upstream.requests
    assert request.values("x-authix-roles") == ["%C3%A4,a%2Cb,writer,x%0D%0AX-Evil:%201"]
    assert request.values("x-evil") == []


def saying(visit: Visit) -> None:
    """One event of a stream that goes on."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    visit.recv()


def test_a_stream_ends_with_its_token(own: OwnKeys) -> None:
    fleet = own.fleet
    fleet.upstream.script = saying
    expires = int(time.time()) + 3
    wire = fleet.dial().send(fleet.get("/events", token=own.token(exp=expires)))
    other = fleet.dial().send(fleet.get("/events", token=own.token()))
    for stream in (wire, other):
        assert stream.head().status == 200
        assert stream.piece() == b"data: 1\n\n"
    assert wire.rest().strip() == b""
    assert time.time() >= expires
    eventually(lambda: "token_expired" in fleet.sidecar.output(), "the log says why")
    other.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        other.piece()


def test_a_stream_may_outlive_its_token_until_its_user_logs_out(
    start_fleet: Callable[..., Fleet], key_server: Upstream
) -> None:
    own = OwnKeys(start_fleet, key_server, AUTHIX_LEEWAY="0", AUTHIX_CUT_AT_EXPIRY="no")
    fleet = own.fleet
    client, subject, _ = fleet.new_user()
    fleet.upstream.script = saying
    expires = int(time.time()) + 2
    token = own.token(sub=subject, exp=expires)
    stream = fleet.dial().send(fleet.get("/events", token=token))
    assert stream.head().status == 200
    assert stream.piece() == b"data: 1\n\n"
    fleet.until_refused(token)
    stream.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        stream.piece()
    assert client.post("/logout").status_code == 204
    stream.socket.settimeout(20)
    assert stream.rest().strip() == b""
    eventually(lambda: "token_revoked" in fleet.sidecar.output(), "the log says why")
