"""The feed that a sidecar passes on, followed by a verifier as the issuer's own is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from authix import Authix, TokenRevoked
from authix.errors import AuthixError
from tests.programs import bearer, eventually, login

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet

TOKEN = "a-feed-token-that-is-long-enough-0123456789"


def verifier_behind(fleet: Fleet, feed: str, *, token: str = "") -> Authix:
    return Authix(issuer=fleet.issuer.url, audience="tests", feed=feed, feed_token=token or None)


def refuses(auth: Authix, token: str) -> bool:
    try:
        auth.verify(token)
    except TokenRevoked:
        return True
    return False


async def refused(auth: Authix, token: str) -> None:
    end = time.monotonic() + 20
    while not refuses(auth, token):
        assert time.monotonic() < end, "the logout did not arrive"
        await asyncio.sleep(0.01)


def code_of(auth: Authix, token: str) -> str:
    try:
        auth.verify(token)
    except AuthixError as error:
        return error.code
    return "accepted"


async def test_a_verifier_behind_it_hears_of_logouts_before_and_after_its_start(fleet: Fleet) -> None:
    client, _, before = fleet.new_user()
    assert client.post("/logout").status_code == 204
    fleet.until_refused(before)
    second, _, after = fleet.new_user("two-devices-behind@example.com")
    with fleet.issuer.client() as device:
        elsewhere = login(device, "two-devices-behind@example.com")
    async with verifier_behind(fleet, f"{fleet.sidecar.auth_url}/revocations") as auth:
        await auth.wait_ready(20)
        assert refuses(auth, before)
        assert code_of(auth, after) == "accepted"
        assert second.post("/logout?scope=session").status_code == 204
        await refused(auth, after)
        assert code_of(auth, elsewhere) == "accepted"
        assert code_of(auth, fleet.token) == "accepted"
        assert (auth.freshness or 99) < 5
    async with verifier_behind(fleet, f"{fleet.sidecar.auth_url}/revocations") as newcomer:
        await newcomer.wait_ready(20)
        assert refuses(newcomer, after)  # of one session, from the snapshot
        assert code_of(newcomer, elsewhere) == "accepted"


async def test_one_who_resumes_is_told_only_what_it_missed(fleet: Fleet) -> None:
    url = f"{fleet.sidecar.auth_url}/revocations"
    headers = {"Accept": "text/event-stream"}
    client, subject, token = fleet.new_user()
    with httpx.stream("GET", url, headers=headers, timeout=20, trust_env=False) as stream:
        cursor = ""
        for line in stream.iter_lines():
            if line.startswith("id: "):
                cursor = line.removeprefix("id: ")
                break
    assert client.post("/logout").status_code == 204
    fleet.until_refused(token)
    told = []
    with httpx.stream("GET", url, headers=headers | {"Last-Event-ID": cursor}, timeout=20, trust_env=False) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "heartbeat":
                    break
                told.append(event)
    assert [event["sub"] for event in told] == [subject]


def test_the_snapshot_is_the_issuers_form(fleet: Fleet) -> None:
    client, subject, token = fleet.new_user()
    assert client.post("/logout").status_code == 204
    fleet.until_refused(token)
    snapshot = httpx.get(f"{fleet.sidecar.auth_url}/revocations", timeout=20, trust_env=False).json()
    with fleet.issuer.client() as issuer_client:
        theirs = issuer_client.get("/revocations").json()
    assert set(snapshot) == set(theirs)
    ours = {event["sub"]: event for event in snapshot["revocations"]}
    assert ours[subject] == next(event for event in theirs["revocations"] if event["sub"] == subject)
    assert snapshot["heartbeat"]["at_us"] >= snapshot["heartbeat"]["complete_until_us"] > 0


async def test_it_goes_stale_with_the_sidecars_own_feed(
    fleet: Fleet, start_fleet: Callable[..., Fleet], start_issuer: Callable[..., object]
) -> None:
    own = start_issuer()
    other = start_fleet(own, AUTHIX_STALE_AFTER="2")
    async with Authix(
        issuer=other.issuer.url, audience="tests", feed=f"{other.sidecar.auth_url}/revocations", stale_after=3
    ) as auth:
        await auth.wait_ready(20)
        other.issuer.stop()
        end = time.monotonic() + 30
        while auth.problems() != ["feed_stale"]:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


def called_here(request: bytes) -> bytes:
    return request.replace(b"Host: orders.example", b"Host: localhost")


@pytest.mark.parametrize("lines", [["Forwarded: for=1.2.3.4"], ["Via: 1.1 x"], ["X-Forwarded-For: 1.2.3.4"]])
def test_without_a_token_nothing_passed_on_by_a_proxy_gets_it(fleet: Fleet, lines: list[str]) -> None:
    answer = fleet.dial(fleet.sidecar.auth_port).send(called_here(fleet.get("/revocations", *lines))).answer()
    assert (answer.status, answer.code) == (403, "feed_forbidden")


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.rebound.example:8002", "192.0.2.1"])
def test_without_a_token_whoever_calls_this_machine_otherwise_does_not_get_it(fleet: Fleet, host: str) -> None:
    asked = f"GET /revocations HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    answer = fleet.dial(fleet.sidecar.auth_port).send(asked).answer()
    assert (answer.status, answer.code) == (403, "feed_forbidden")


def test_with_a_token_it_needs_it(start_fleet: Callable[..., Fleet], start_issuer: Callable[..., object]) -> None:
    fleet = start_fleet(start_issuer(AUTHIX_FEED_TOKEN=TOKEN), AUTHIX_FEED_TOKEN=TOKEN)
    url = f"{fleet.sidecar.auth_url}/revocations"
    for headers in ({}, bearer("another"), bearer(fleet.token)):
        answer = httpx.get(url, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (403, "feed_forbidden")
    assert httpx.get(url, headers=bearer(TOKEN), trust_env=False).status_code == 200


def test_a_follower_that_does_not_read_harms_nobody(fleet: Fleet) -> None:
    stuck = [
        fleet.dial(fleet.sidecar.auth_port).send(called_here(fleet.get("/revocations", "Accept: text/event-stream")))
        for _ in range(200)
    ]
    client, _, token = fleet.new_user()
    assert client.post("/logout").status_code == 204
    fleet.until_refused(token)
    metrics = fleet.call(fleet.get("/metrics"), fleet.sidecar.auth_port).body.decode()
    assert f"authix_sidecar_feed_followers {float(len(stuck))}" in metrics
    for wire in stuck:
        wire.close()
    eventually(
        lambda: (
            "authix_sidecar_feed_followers 0.0"
            in fleet.call(fleet.get("/metrics"), fleet.sidecar.auth_port).body.decode()
        ),
        "those who left are forgotten",
    )
