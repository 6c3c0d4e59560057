"""POST and DELETE /logout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from authix.errors import TokenRevoked
from authix.events import Snapshot
from authix.keys import KeySet
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.adapters import sqlite_users
from authix_issuer.adapters.sqlite import Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.key_seal import KeySeal
from authix_issuer.keys import SigningKeys, in_use
from authix_issuer.master_secret import kept_in
from tests.programs import DEADLINE, IssuerProgram, bearer, login, register

AssertProblem = Callable[..., dict[str, Any]]
COOKIE = "authix_refresh"


def payload(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@pytest.fixture
def revoked(shared_issuer: IssuerProgram) -> Callable[[str], bool]:
    """``revoked(token)``: whether a verifier that has caught up with the feed refuses it."""

    def look(token: str) -> bool:
        with shared_issuer.client() as client:
            snapshot = msgspec.json.decode(client.get("/revocations").content, type=Snapshot)
            keys = KeySet.from_json(client.get("/.well-known/jwks.json").content)
        verifier = Verifier(issuer=shared_issuer.url, audience="tests")
        verifier.use_keys(keys)
        for event in (*snapshot.revocations, snapshot.heartbeat):
            verifier.apply(event, 0)
        try:
            verifier.verify(token, now=time.time(), monotonic=0)
        except TokenRevoked:
            return True
        return False

    return look


Revoked = Callable[[str], bool]


def can_refresh(client: httpx.Client) -> bool:
    return client.post("/access_token").status_code == 200


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_logout_ends_the_session_and_clears_the_cookie(
    client: httpx.Client, access_token: str, revoked: Revoked, method: str
) -> None:
    token = client.cookies[COOKIE]
    assert not revoked(access_token)
    answer = client.request(method, "/logout")
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["cache-control"] == "no-store"
    (header,) = answer.headers.get_list("set-cookie")
    assert set(header.split("; ")) == {f'{COOKIE}=""', "Path=/", "Max-Age=0", "HttpOnly", "SameSite=Strict"}
    assert COOKIE not in client.cookies
    assert revoked(access_token)
    dead = client.post("/access_token", headers={"Cookie": f"{COOKIE}={token}"})
    assert (dead.status_code, dead.json()["code"]) == (401, "refresh_token_invalid")


@pytest.mark.parametrize("scope", [None, "user", "session", "all"])
def test_a_logout_reaches_as_far_as_its_scope(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, revoked: Revoked, scope: str | None
) -> None:
    with shared_issuer.client() as phone:
        here, there = login(client, user), login(phone, user)
        assert client.post("/logout", params={"scope": scope} if scope else {}).status_code == 204
        assert revoked(here)
        assert revoked(there) is (scope != "session")
        assert not can_refresh(client)
        answer = phone.post("/access_token")
        assert (answer.status_code == 200) is (scope != "all")
        if scope != "all":
            assert not revoked(answer.json()["access_token"])


def test_a_logout_leaves_other_users_alone(
    shared_issuer: IssuerProgram,
    client: httpx.Client,
    access_token: str,
    new_email: Callable[[], str],
    revoked: Revoked,
) -> None:
    with shared_issuer.client() as other:
        email = new_email()
        register(other, email)
        others = login(other, email)
        assert client.post("/logout", params={"scope": "all"}).status_code == 204
        assert not revoked(others)
        assert can_refresh(other)


def test_who_logs_in_again_at_once_has_a_good_token_and_the_old_one_stays_dead(
    client: httpx.Client, user: str, revoked: Revoked
) -> None:
    tokens = []
    for _ in range(10):
        tokens.append(login(client, user))
        assert client.post("/logout").status_code == 204
    last = login(client, user)
    assert not revoked(last)
    assert all(map(revoked, tokens))


@pytest.mark.parametrize("shown", ["cookie", "access token", "both"])
def test_one_session_that_has_ended_does_not_say_that_all_have(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, assert_problem: AssertProblem, shown: str
) -> None:
    with shared_issuer.client() as phone:
        here, _ = login(client, user), login(phone, user)
        cookie = {} if shown == "access token" else {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        token = {} if shown == "cookie" else bearer(here)
        assert client.post("/logout?scope=session").status_code == 204
        for _ in range(2):
            refused = client.post("/logout?scope=all", headers=cookie | token)
            assert_problem(refused, 401, "refresh_token_invalid" if shown == "cookie" else "token_revoked")
        assert can_refresh(phone)
        assert phone.post("/logout?scope=all").status_code == 204
        assert client.post("/logout?scope=all", headers=cookie | token).status_code == 204, "now they have"


def test_a_logout_can_be_repeated(client: httpx.Client, access_token: str) -> None:
    token = client.cookies[COOKIE]
    client.cookies.clear()
    before = client.get("/revocations").json()["revocations"]
    answers = [client.post("/logout", headers={"Cookie": f"{COOKIE}={token}"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [204] * 3
    assert all("Max-Age=0" in answer.headers["set-cookie"] for answer in answers)
    after = client.get("/revocations").json()["revocations"]
    sub = payload(access_token)["sub"]
    assert len([event for event in after if event["sub"] == sub]) == 1
    assert not [event for event in before if event["sub"] == sub]


def test_a_token_already_exchanged_still_logs_out(client: httpx.Client, access_token: str, revoked: Revoked) -> None:
    used = client.cookies[COOKIE]
    for _ in range(3):
        newest = client.post("/access_token").json()["access_token"]
    client.cookies.clear()
    assert client.post("/logout", headers={"Cookie": f"{COOKIE}={used}"}).status_code == 204
    assert revoked(newest)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_access_token_logs_its_session_out(
    client: httpx.Client, access_token: str, revoked: Revoked, method: str
) -> None:
    cookie = client.cookies[COOKIE]
    client.cookies.clear()
    for _ in range(2):
        assert client.request(method, "/logout", headers=bearer(access_token)).status_code == 204
    assert revoked(access_token)
    assert client.post("/access_token", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_an_access_token_helps_where_the_cookie_is_broken(
    client: httpx.Client, access_token: str, revoked: Revoked
) -> None:
    client.cookies.clear()
    headers = bearer(access_token) | {"Cookie": f"{COOKIE}=broken"}
    assert client.post("/logout", headers=headers).status_code == 204
    assert revoked(access_token)


@pytest.mark.parametrize("header", ["Bearer broken", "Bearer", "Basic eDp5"])
def test_a_broken_access_token_is_no_hindrance_where_the_cookie_is_good(
    client: httpx.Client, access_token: str, revoked: Revoked, header: str
) -> None:
    assert client.post("/logout", headers={"Authorization": header}).status_code == 204
    assert revoked(access_token)


def test_a_stale_cookie_does_not_shield_the_session_of_the_access_token(
    client: httpx.Client, user: str, revoked: Revoked
) -> None:
    login(client, user)
    ended = client.cookies[COOKIE]
    client.post("/logout", params={"scope": "session"})
    access_token = login(client, user)
    client.cookies.clear()
    headers = bearer(access_token) | {"Cookie": f"{COOKIE}={ended}"}
    assert client.post("/logout", headers=headers).status_code == 204
    assert revoked(access_token)


def test_an_access_token_of_a_key_that_no_longer_signs_logs_out(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer(AUTHIX_ALGORITHM="ES256")
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        client.cookies.clear()
        issuer.stop()
        issuer.env["AUTHIX_ALGORITHM"] = "EdDSA"
        issuer.start().ready()
        assert client.post("/logout", headers=bearer(token)).status_code == 204
        assert [event["sub"] for event in client.get("/revocations").json()["revocations"]] == [payload(token)["sub"]]


def test_no_token_at_all_is_refused(client: httpx.Client, assert_problem: AssertProblem) -> None:
    for method in ("POST", "DELETE"):
        assert_problem(client.request(method, "/logout"), 401, "refresh_token_missing")


def test_a_forged_refresh_token_is_refused(
    client: httpx.Client, access_token: str, revoked: Revoked, assert_problem: AssertProblem
) -> None:
    token = client.cookies[COOKIE]
    client.cookies.clear()
    for forged in ("x", "axr1.AAAA", token[:-4] + "AAAA", token[:10] + ("A" if token[10] != "A" else "B") + token[11:]):
        answer = client.post("/logout", headers={"Cookie": f"{COOKIE}={forged}"})
        assert_problem(answer, 401, "refresh_token_invalid")
    assert not revoked(access_token)


def forgeries(token: str) -> dict[str, tuple[str, str]]:
    head, body, tail = token.split(".")
    return {
        "no token": ("", "token_missing"),
        "another scheme": ("Basic eDp5", "token_missing"),
        "nothing after the scheme": ("Bearer", "token_malformed"),
        "no token's form": ("Bearer abc", "token_malformed"),
        "two tokens": (f"Bearer {token} {token}", "token_malformed"),
        "wrong signature": (f"Bearer {head}.{body}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}", "signature_invalid"),
        "changed claims": (f"Bearer {head}.{body[:-8]}AAAAAAAA.{tail}", ""),
    }


def test_a_forged_access_token_is_refused_with_a_challenge(
    client: httpx.Client, access_token: str, revoked: Revoked
) -> None:
    client.cookies.clear()
    for name, (header, code) in forgeries(access_token).items():
        answer = client.post("/logout", headers={"Authorization": header})
        assert answer.status_code == 401, name
        assert answer.headers["content-type"] == "application/problem+json", name
        if code:
            assert answer.json()["code"] == code, name
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="authix"'), name
        assert ('error="invalid_token"' in challenge) is (answer.json()["code"] != "token_missing"), name
    assert not revoked(access_token)


@pytest.fixture
async def keys(shared_issuer: IssuerProgram) -> SigningKeys:
    """The issuer's own keys, read from its store."""
    data = shared_issuer.log.parent / "data"
    async with Database(str(data / "users.db"), sqlite_users.SCHEMA) as database:
        return in_use(KeySeal(kept_in(data)).unseal(await SqliteKeys(database).load()).ring)


def test_an_expired_access_token_is_refused(
    shared_issuer: IssuerProgram, client: httpx.Client, keys: SigningKeys, assert_problem: AssertProblem
) -> None:
    issued_us = int((time.time() - 300 - 5 - 1) * 1_000_000)
    tokens = AccessTokens(keys, issuer=shared_issuer.url, audience="tests", life=300)
    token = tokens.issue(subject="a" * 32, session="b" * 32, roles=(), at_us=issued_us)
    assert_problem(client.post("/logout", headers=bearer(token)), 401, "token_expired")


@pytest.mark.parametrize(
    "query",
    ["scope=everyone", "scope=USER", "scope=user&scope=all", "scope=user%00", "scope=%ff", "scope=user;scope=all"],
)
def test_an_unknown_scope_logs_nobody_out(
    client: httpx.Client, access_token: str, revoked: Revoked, assert_problem: AssertProblem, query: str
) -> None:
    problem = assert_problem(client.post(f"/logout?{query}"), 422, "input_invalid")
    assert [reason["code"] for reason in problem["reasons"]] == ["scope_unknown"]
    assert not revoked(access_token)
    assert can_refresh(client)


def at_once(issuer: IssuerProgram, paths: list[str], headers: dict[str, str]) -> list[httpx.Response]:
    """The answers to requests that are sent together."""
    together = threading.Barrier(len(paths))

    def send(path: str) -> httpx.Response:
        with issuer.client() as client:
            together.wait(DEADLINE)
            return client.post(path, headers=headers)

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(send, paths))


def test_tokens_of_refreshes_that_race_a_logout_are_dead_after_it(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, revoked: Revoked
) -> None:
    for scope in ("user", "session", "all"):
        login(client, user)
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        client.cookies.clear()
        paths = ["/access_token"] * 4 + [f"/logout?scope={scope}"] + ["/access_token"] * 4
        answers = at_once(shared_issuer, paths, cookie)
        assert answers[4].status_code == 204
        for answer in (*answers[:4], *answers[5:]):
            if answer.status_code == 200:
                assert revoked(answer.json()["access_token"])
                assert (
                    client.post("/access_token", headers={"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}).status_code
                    == 401
                )
            else:
                assert answer.json()["code"] == "refresh_token_invalid"
