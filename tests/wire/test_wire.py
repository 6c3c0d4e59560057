"""The wire forms, byte by byte: what earlier releases wrote is read, what this one writes is what the files hold.

A file changes only when the contract does, and a release may only add optional fields; so never regenerate one to make
a test pass.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authix import Claims, Verifier, sse
from authix.events import (
    Event,
    Heartbeat,
    KeyRevoked,
    Revocation,
    SessionRevoked,
    Snapshot,
    UserRevoked,
    decode_event,
    encode_event,
    keep_until,
)
from authix.keys import ALGORITHMS, KeySet, VerificationKey
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.keys import SigningKey, SigningKeys

AT_US = 1_800_000_000_123_456
SUBJECT, SESSION = "9f86d081884c7d65", "2c26b46b68ffc68f"
UNTIL = keep_until(AT_US)
# The key of RFC 8037, A.1, whose thumbprint A.3 gives
PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="))
KEY_ID = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

USER = UserRevoked(sub=SUBJECT, since_us=AT_US, until=UNTIL)
OF_SESSION = SessionRevoked(sub=SUBJECT, sid=SESSION, since_us=AT_US, until=UNTIL)
KEY = KeyRevoked(kid=KEY_ID, until=UNTIL)
DATED_KEY = KeyRevoked(kid=KEY_ID, at_us=AT_US, until=UNTIL)
BEAT = Heartbeat(at_us=AT_US + 1_000_000, complete_until_us=AT_US + 999_999)
EVENTS: dict[str, Event] = {"user": USER, "session": OF_SESSION, "key": KEY, "key-dated": DATED_KEY, "heartbeat": BEAT}
LOG: tuple[Revocation, ...] = (USER, OF_SESSION, KEY)


def wire(name: str) -> bytes:
    """A file without the newline at its end."""
    return Path(__file__).with_name(name).read_bytes().removesuffix(b"\n")


def claims(key_id: str, **more: Any) -> Claims:
    return Claims(
        subject=SUBJECT,
        session=SESSION,
        roles=frozenset({"reader"}),
        issuer="https://auth.example.com",
        audience=more.pop("audience", ("orders",)),
        issued_at_us=AT_US,
        expires_at=1_800_000_300,
        token_id=more.pop("token_id", "0123456789abcdef" * 2),
        key_id=key_id,
        extra=more,
    )


def verify(token: bytes, keys: bytes) -> Claims:
    verifier = Verifier(issuer="https://auth.example.com", audience="orders", algorithms=frozenset(ALGORITHMS))
    verifier.use_keys(KeySet.from_json(keys))
    verifier.apply(BEAT, monotonic=0)
    return verifier.verify(token.decode("ascii"), now=1_800_000_001, monotonic=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_is_read(algorithm: str) -> None:
    (key_id,) = (key.key_id for key in KeySet.from_json(wire("key-set.json")) if key.algorithm == algorithm)
    assert verify(wire(f"token-{algorithm}.jwt"), wire("key-set.json")) == claims(key_id)


def test_a_token_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0123456789abcdef" * (n // 8))
    key = SigningKey(KEY_ID, "EdDSA", PRIVATE_KEY)
    keys = SigningKeys(key, KeySet([VerificationKey(PRIVATE_KEY.public_key())]))
    tokens = AccessTokens(keys, issuer="https://auth.example.com", audience="orders", life=300)
    token = tokens.issue(subject=SUBJECT, session=SESSION, roles=["reader"], at_us=AT_US)
    assert token.encode() == wire("token-EdDSA.jwt")


def test_a_token_of_the_future_is_read() -> None:
    found = verify(wire("future-token.jwt"), wire("key-set.json"))
    more: dict[str, Any] = {"audience": ("orders", "billing"), "token_id": "0123456789abcdef"}
    assert found == claims(KEY_ID, **more, amr=["pwd", "hwk"], cnf={"jkt": "x"})


def test_a_key_set_is_read_and_written() -> None:
    keys = KeySet.from_json(wire("key-set.json"))
    assert [key.algorithm for key in keys] == ["ES256", "EdDSA", "RS256"]
    assert [key.key_id for key in keys] == [VerificationKey(key.public_key).key_id for key in keys]
    assert keys.to_json() == wire("key-set.json")


def test_a_key_set_of_the_future_is_read() -> None:
    assert [key.key_id for key in KeySet.from_json(wire("future-key-set.json"))] == [KEY_ID]


@pytest.mark.parametrize(("name", "event"), EVENTS.items())
def test_an_event_is_read_and_written(name: str, event: Event) -> None:
    assert decode_event(wire(f"event-{name}.json")) == event
    assert encode_event(event) == wire(f"event-{name}.json")


def test_an_event_of_the_future_is_read() -> None:
    assert decode_event(wire("future-event.json")) == USER


def test_an_event_of_a_type_of_the_future_is_none() -> None:
    assert decode_event(wire("future-event-type.json")) is None


def test_a_snapshot_is_read_and_written() -> None:
    snapshot = Snapshot("5f2b:3", BEAT, list(LOG))
    assert msgspec.json.decode(wire("snapshot.json"), type=Snapshot) == snapshot
    assert msgspec.json.encode(snapshot) == wire("snapshot.json")


def test_the_feed_is_read_and_written() -> None:
    cursors = ["5f2b:1", "5f2b:2", "5f2b:3"]
    entries = [sse.encode(encode_event(event), cursor) for event, cursor in zip(LOG, cursors, strict=True)]
    stream = Path(__file__).with_name("feed.sse").read_bytes()
    assert b"".join([*entries, sse.encode(encode_event(BEAT))]) == stream
    read = [(event.cursor, decode_event(event.data)) for event in sse.Decoder().feed(stream)]
    assert read == [*zip(cursors, LOG, strict=True), ("5f2b:3", BEAT)]


def test_a_feed_of_the_future_is_read() -> None:
    stream = Path(__file__).with_name("future-feed.sse").read_bytes()
    read = [(event.cursor, decode_event(event.data)) for event in sse.Decoder().feed(stream)]
    assert read == [("5f2b:1", USER), ("5f2b:2", None), ("5f2b:2", BEAT)]
