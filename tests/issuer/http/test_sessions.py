"""What users see of their sessions, and how they end them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import StartIssuer
from tests.issuer.http.conftest import AssertProblem
from tests.programs import PASSWORD, IssuerProgram, bearer, eventually, login, register

COOKIE = "authix_refresh"


def sessions_of(client: httpx.Client, token: str) -> list[dict[str, Any]]:
    answer = client.get("/sessions", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["sessions"]
    return found


def refreshed(client: httpx.Client) -> str:
    answer = client.post("/access_token")
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def test_a_user_sees_the_sessions_and_which_one_is_looking(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str
) -> None:
    with shared_issuer.client() as phone:
        phone.headers["User-Agent"] = "Phone/1.0 (naïve)".encode("latin-1").decode("latin-1")
        login(phone, user)
        here, there = sessions_of(client, login(client, user))
        assert [here["current"], there["current"]] == [True, False]
        assert there["user_agent"].startswith("Phone/1.0")
        assert {here["address"], there["address"]} == {"127.0.0.1"}
        assert here["created"] > there["created"]
        created, expires = (datetime.fromisoformat(str(here[name])) for name in ("created", "expires"))
        assert expires - created == timedelta(weeks=4)
        assert abs(created - datetime.now(UTC)) < timedelta(minutes=1)
        used = sessions_of(client, refreshed(client))[0]["last_used"]
        assert used > here["last_used"]


def test_nobody_sees_or_ends_the_sessions_of_others(
    client: httpx.Client, access_token: str, new_email: Callable[[], str], assert_problem: AssertProblem
) -> None:
    (mine,) = sessions_of(client, access_token)
    stranger = new_email()
    register(client, stranger)
    client.cookies.clear()
    token = login(client, stranger)
    assert mine["id"] not in [session["id"] for session in sessions_of(client, token)]
    assert_problem(client.delete(f"/sessions/{mine['id']}", headers=bearer(token)), 404, "session_unknown")
    assert len(sessions_of(client, access_token)) == 1


def test_one_session_is_ended_and_the_others_go_on(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, assert_problem: AssertProblem
) -> None:
    with shared_issuer.client() as elsewhere:
        other = login(elsewhere, user)
        mine = login(client, user)
        ended = next(session["id"] for session in sessions_of(client, mine) if not session["current"])
        assert client.delete(f"/sessions/{ended}", headers=bearer(mine)).status_code == 204
        assert_problem(elsewhere.get("/sessions", headers=bearer(other)), 401, "token_revoked")
        assert_problem(elsewhere.post("/access_token"), 401, "refresh_token_invalid")
        assert [session["current"] for session in sessions_of(client, mine)] == [True]
        assert_problem(client.delete(f"/sessions/{ended}", headers=bearer(mine)), 404, "session_unknown")


def test_all_others_are_ended_and_this_one_heals_by_one_refresh(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, assert_problem: AssertProblem
) -> None:
    with shared_issuer.client() as elsewhere:
        login(elsewhere, user)
        mine = login(client, user)
        assert client.delete("/sessions", headers=bearer(mine)).status_code == 204
        assert_problem(elsewhere.post("/access_token"), 401, "refresh_token_invalid")
        assert_problem(client.get("/sessions", headers=bearer(mine)), 401, "token_revoked")
        assert len(sessions_of(client, refreshed(client))) == 1


def test_who_ends_the_own_session_is_logged_out(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem
) -> None:
    (mine,) = sessions_of(client, access_token)
    answer = client.delete(f"/sessions/{mine['id']}", headers=bearer(access_token))
    assert answer.status_code == 204
    assert f'{COOKIE}=""' in answer.headers["set-cookie"]
    assert_problem(client.post("/access_token"), 401, "refresh_token_missing")


def test_who_logs_in_again_loses_the_session_of_before(
    client: httpx.Client, user: str, assert_problem: AssertProblem
) -> None:
    before = login(client, user)
    now = login(client, user)
    assert_problem(client.get("/sessions", headers=bearer(before)), 401, "token_revoked")
    assert [session["current"] for session in sessions_of(client, now)] == [True]
    client.post("/login", json={"email": user, "password": "wrong horse battery staple"})
    assert len(sessions_of(client, now)) == 1


@pytest.mark.parametrize("session", ["x", "%00", "%2e%2e", "a" * 5000, "%ff", "ö", "' OR 1=1 --", "{tag}", "*"])
def test_what_is_no_session_is_not_found(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem, session: str
) -> None:
    answer = client.delete(f"/sessions/{session}", headers=bearer(access_token))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(sessions_of(client, access_token)) == 1


def test_a_stolen_session_is_ended_and_on_record(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, assert_problem: AssertProblem
) -> None:
    token = login(client, user)
    (mine,) = sessions_of(client, token)
    stolen = client.cookies[COOKIE]
    refreshed(client)
    refreshed(client)
    with shared_issuer.client() as thief:
        answer = thief.post("/access_token", headers={"Cookie": f"{COOKIE}={stolen}"})
    assert_problem(answer, 401, "refresh_token_reused")
    assert_problem(client.get("/sessions", headers=bearer(token)), 401, "token_revoked")
    record = (shared_issuer.log.parent / "audit.log").read_text(encoding="utf-8")
    (entry,) = [
        e for e in map(json.loads, record.splitlines()) if e["event"] == "session.reused" and e["session"] == mine["id"]
    ]
    assert entry["outcome"] == "refresh_token_reused"
    assert stolen not in record


def test_the_oldest_session_makes_room_and_an_idle_one_ends(start_issuer: StartIssuer) -> None:
    issuer = start_issuer(AUTHIX_MAX_SESSIONS="2", AUTHIX_SESSION_IDLE="2", AUTHIX_SESSION_ADDRESS="network")
    with issuer.client() as first, issuer.client() as second, issuer.client() as third:
        register(first, "ann@example.com")
        login(first, "ann@example.com")
        login(second, "ann@example.com")
        answer = third.post("/login", json={"email": "ann@example.com", "password": PASSWORD})
        assert "Max-Age=2" in answer.headers["set-cookie"]
        found = sessions_of(third, answer.json()["access_token"])
        assert len(found) == 2
        assert {session["address"] for session in found} == {"127.0.0.0/24"}
        assert first.post("/access_token").json()["code"] == "refresh_token_invalid"
        # the cookie's life is over on the client's side too, so it is shown by hand
        idle = {"Cookie": f"{COOKIE}={second.cookies[COOKIE]}"}
        second.cookies.clear()

        def over() -> bool:
            return len(sessions_of(third, refreshed(third))) == 1

        eventually(over, "the idle session has ended, and the one in use has not")
        assert second.post("/access_token", headers=idle).json()["code"] == "refresh_token_invalid"
