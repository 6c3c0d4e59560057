"""GET /revocations: the snapshot, the live feed and who may have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from authix import sse
from authix.errors import TokenRevoked
from authix.events import Event, Heartbeat, Snapshot, decode_event
from authix.keys import KeySet
from authix.verifier import Verifier
from tests.programs import DEADLINE, IssuerProgram, bearer, login, register

AssertProblem = Callable[..., dict[str, Any]]
STREAM = {"Accept": "text/event-stream"}
HOUR = 3600


def snapshot_of(client: httpx.Client) -> Snapshot:
    return msgspec.json.decode(client.get("/revocations").content, type=Snapshot)


def log_out(client: httpx.Client, user: str) -> dict[str, Any]:
    """The claims of the token that is dead now."""
    claims: dict[str, Any] = jwt.decode(login(client, user), options={"verify_signature": False})
    assert client.post("/logout").status_code == 204
    return claims


@contextmanager
def follow(client: httpx.Client, headers: dict[str, str] | None = None) -> Iterator[Iterator[tuple[str | None, Event]]]:
    """Cursor and event, one by one."""
    with client.stream("GET", "/revocations", headers=STREAM | (headers or {}), timeout=DEADLINE) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["connection"] == "close"

        def events() -> Iterator[tuple[str | None, Event]]:
            decoder = sse.Decoder()
            for chunk in answer.iter_raw():
                for received in decoder.feed(chunk):
                    event = decode_event(received.data)
                    assert event is not None
                    yield received.cursor, event

        yield events()


def test_the_snapshot_holds_every_logout_and_vouches_for_it(client: httpx.Client, user: str) -> None:
    claims = log_out(client, user)
    answer = client.get("/revocations")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert set(document) == {"cursor", "heartbeat", "revocations"}
    assert set(document["heartbeat"]) == {"v", "type", "at_us", "complete_until_us"}
    (entry,) = [event for event in document["revocations"] if event["sub"] == claims["sub"]]
    assert set(entry) == {"v", "type", "sub", "since_us", "until"}
    assert (entry["v"], entry["type"]) == (1, "user")
    assert claims["iat_us"] < entry["since_us"] < document["heartbeat"]["complete_until_us"]
    assert claims["exp"] < entry["until"] < time.time() + 2 * HOUR


def test_a_session_logout_names_the_session(client: httpx.Client, user: str) -> None:
    claims = jwt.decode(login(client, user), options={"verify_signature": False})
    client.delete("/logout", params={"scope": "session"})
    (entry,) = [event for event in client.get("/revocations").json()["revocations"] if event["sub"] == claims["sub"]]
    assert set(entry) == {"v", "type", "sub", "sid", "since_us", "until"}
    assert (entry["type"], entry["sid"]) == ("session", claims["sid"])


def test_the_live_feed_begins_with_everything_and_a_heartbeat(client: httpx.Client, user: str) -> None:
    claims = log_out(client, user)
    told = []
    with follow(client) as events:
        for cursor, event in events:
            if isinstance(event, Heartbeat):
                assert event.complete_until_us > claims["iat_us"]
                break
            assert cursor
            told.append(getattr(event, "sub", ""))
    assert claims["sub"] in told


def test_the_live_feed_goes_on_from_the_snapshot_and_tells_a_logout_at_once(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str
) -> None:
    log_out(client, user)
    cursor = snapshot_of(client).cursor
    with shared_issuer.client() as follower, follow(follower, {"Last-Event-ID": cursor}) as events:
        assert isinstance(next(events)[1], Heartbeat)
        claims = log_out(client, user)
        for _, event in events:
            if getattr(event, "sub", "") == claims["sub"] and getattr(event, "since_us", 0) > claims["iat_us"]:
                break
        for _, event in events:
            if isinstance(event, Heartbeat):
                assert event.complete_until_us > claims["iat_us"]
                break


def test_heartbeats_come_without_logouts_and_their_watermark_rises(client: httpx.Client) -> None:
    watermarks = []
    with follow(client, {"Last-Event-ID": snapshot_of(client).cursor}) as events:
        for _, event in events:
            if isinstance(event, Heartbeat):
                watermarks.append(event.complete_until_us)
                if len(watermarks) == 3:
                    break
    assert watermarks == sorted(set(watermarks))
    assert watermarks[-1] - watermarks[0] > 1_000_000


@pytest.mark.parametrize("cursor", ["nonsense", "0", "-1", "x:1", "9" * 500])
def test_an_unknown_cursor_gets_everything(client: httpx.Client, user: str, cursor: str) -> None:
    claims = log_out(client, user)
    with follow(client, {"Last-Event-ID": cursor}) as events:
        assert any(getattr(event, "sub", "") == claims["sub"] for _, event in events)


def test_a_cursor_is_good_over_a_restart(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer()
    with issuer.client() as client:
        register(client, "ann@example.com")
        log_out(client, "ann@example.com")
        before = snapshot_of(client)
        issuer.stop()
        issuer.start().ready()
        assert snapshot_of(client).revocations == before.revocations
        with follow(client, {"Last-Event-ID": before.cursor}) as events:
            assert isinstance(next(events)[1], Heartbeat)


def test_a_verifier_that_follows_refuses_the_token_after_the_logout(client: httpx.Client, user: str) -> None:
    token = login(client, user)
    verifier = Verifier(issuer=str(client.base_url).rstrip("/"), audience="tests")
    verifier.use_keys(KeySet.from_json(client.get("/.well-known/jwks.json").content))
    with follow(client) as events:
        for _, event in events:
            verifier.apply(event, 0)
            if isinstance(event, Heartbeat):
                break
        assert verifier.verify(token, now=time.time(), monotonic=0).subject
        with httpx.Client(base_url=client.base_url, cookies=client.cookies, trust_env=False) as browser:
            assert browser.post("/logout").status_code == 204
        for _, event in events:
            verifier.apply(event, 0)
            if not isinstance(event, Heartbeat):
                break
    with pytest.raises(TokenRevoked):
        verifier.verify(token, now=time.time(), monotonic=0)


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "Via", "x-forwarded-for"])
def test_behind_a_proxy_the_feed_needs_its_token(
    client: httpx.Client, assert_problem: AssertProblem, header: str
) -> None:
    for accept in ({}, STREAM):
        assert_problem(client.get("/revocations", headers={header: "for=192.0.2.1"} | accept), 401, "feed_token_wrong")


def test_under_another_name_the_feed_needs_its_token(
    client: httpx.Client, listing_issuer: IssuerProgram, assert_problem: AssertProblem
) -> None:
    with listing_issuer.client() as at_a_public_one:
        for accept in ({}, STREAM):
            assert_problem(at_a_public_one.get("/revocations", headers=accept), 401, "feed_token_wrong")
            # a proxy that tells nothing of itself, or a web page that has its name point to this machine
            for host in ("rebound.example", "[::1", "127.0.0.1.rebound.example:80", "localhost@rebound.example"):
                assert_problem(client.get("/revocations", headers={"Host": host} | accept), 401, "feed_token_wrong")
    for host in ("localhost", "127.0.0.1:1", "[::1]:1"):
        assert client.get("/revocations", headers={"Host": host}).status_code == 200


def feed_token(issuer: IssuerProgram) -> str:
    return issuer.env["AUTHIX_FEED_TOKEN"]


def wrong_headers(token: str) -> list[list[tuple[str, str]]]:
    values = [
        token,
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        f"Bearer {token.upper()}",
        f"Basic {token}",
        "Bearer",
        "",
    ]
    return [
        [],
        [("Cookie", f"token={token}")],
        [("Authorization", f"Bearer {token}")] * 2,
        *([("Authorization", value)] for value in values),
    ]


def test_the_feed_needs_its_token_when_one_is_set(
    unusual_issuer: IssuerProgram, unusual_client: httpx.Client, assert_problem: AssertProblem
) -> None:
    token = feed_token(unusual_issuer)
    for headers in wrong_headers(token):
        for accept in ("*/*", "text/event-stream"):
            answer = unusual_client.get("/revocations", headers=[*headers, ("Accept", accept)])
            assert_problem(answer, 401, "feed_token_wrong")
            assert token not in answer.text
    assert_problem(unusual_client.get("/revocations", params={"token": token}), 401, "feed_token_wrong")


def test_the_feed_is_open_to_who_has_its_token(unusual_issuer: IssuerProgram, unusual_client: httpx.Client) -> None:
    headers = bearer(feed_token(unusual_issuer))
    assert unusual_client.get("/revocations", headers=headers).status_code == 200
    assert unusual_client.get("/revocations", headers=headers | {"Via": "1.1 proxy"}).status_code == 200
    with follow(unusual_client, headers) as events:
        assert any(isinstance(event, Heartbeat) for _, event in events)
