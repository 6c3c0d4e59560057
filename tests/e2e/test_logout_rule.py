"""The one rule of logout, at random, over every engine and over a fleet of issuers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from authix.errors import TokenRevoked
from authix.events import Snapshot
from authix.keys import KeySet
from authix.verifier import Verifier
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused
from authix_issuer.ports import (
    Scope,
    SessionStore,
    User,
)
from authix_issuer.sessions import Tokens
from tests.e2e.logout_rule import ALWAYS, AUDIENCE, COOKIE, ISSUER, SKEWS, LogoutRule, OpenStore
from tests.programs import DEADLINE, PASSWORD, Program, SkewedIssuer, bearer

FEED_TOKEN = secrets.token_hex(20)


class Fleet:
    """The use cases of several issuers in processes of their own; each step goes to the one that ``turn`` names."""

    def __init__(self, issuers: Sequence[SkewedIssuer]) -> None:
        self.issuers = issuers
        self.turn = 0
        self.http = httpx.AsyncClient(trust_env=False, timeout=DEADLINE)
        self._emails: dict[str, str] = {}

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        self.http.cookies.clear()
        return await self.http.request(method, f"{self.issuers[self.turn].url}{path}", **options)

    async def open(self, user: User) -> Tokens:
        known = user.id in self._emails
        email = self._emails.setdefault(user.id, f"{secrets.token_hex(8)}@example.com")
        credentials = {"email": email, "password": PASSWORD}
        if not known:
            assert (await self.ask("POST", "/register", json=credentials)).status_code == 201
        return self._tokens(await self.ask("POST", "/login", json=credentials))

    async def refresh(self, token: str) -> Tokens:
        answer = await self.ask("POST", "/access_token", headers=cookie(token))
        if answer.status_code == 401:
            raise {error.code: error for error in (RefreshTokenInvalid, RefreshTokenReused)}[answer.json()["code"]]
        return self._tokens(answer)

    async def close(self, token: str, scope: Scope) -> None:
        await self._close(scope, cookie(token))

    async def close_of(self, token: str, scope: Scope) -> None:
        await self._close(scope, bearer(token))

    async def snapshot(self) -> Snapshot:
        answer = await self.ask("GET", "/revocations", headers=bearer(FEED_TOKEN))
        return msgspec.json.decode(answer.content, type=Snapshot)

    async def _close(self, scope: Scope, headers: dict[str, str]) -> None:
        answer = await self.ask("POST", f"/logout?scope={scope}", headers=headers)
        if answer.status_code == 401:
            raise {error.code: error for error in (RefreshTokenInvalid, TokenRevoked)}[answer.json()["code"]]
        assert answer.status_code == 204, answer.text

    def _tokens(self, answer: httpx.Response) -> Tokens:
        assert answer.status_code == 200, answer.text
        return Tokens("", answer.json()["access_token"], 300, answer.cookies[COOKIE], 86400)


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


class LogoutRuleOfAFleet(LogoutRule):
    """The same by HTTP, each step at whichever issuer, while the clocks of their hosts differ and are set."""

    issuers: ClassVar[Sequence[SkewedIssuer]]
    graces = (ALWAYS,)

    def set_up(self) -> None:
        self.fleet = Fleet(self.issuers)
        for issuer, skew in zip(self.issuers, SKEWS, strict=True):
            issuer.set_clock(skew)
        self.stack.push_async_callback(self.fleet.http.aclose)
        keys = self.run(self.fleet.ask("GET", "/.well-known/jwks.json")).content
        self.published = KeySet.from_json(keys)

    def use_cases(self, grace: int, store: SessionStore | None = None) -> Any:
        return self.fleet

    def verifier(self) -> Verifier:
        verifier = Verifier(issuer=ISSUER, audience=AUDIENCE)
        verifier.use_keys(self.published)
        return verifier

    async def close_of(self, access_token: str, scope: Scope) -> None:
        await self.fleet.close_of(access_token, scope)

    async def catch_up(self, verifier: Verifier, cursor: str | None) -> str | None:
        snapshot = await self.fleet.snapshot()
        for event in (*snapshot.revocations, snapshot.heartbeat):
            verifier.apply(event, 0)
        return None

    @rule(at=st.integers(0, 1))
    def the_next_steps_go_to(self, at: int) -> None:
        self.fleet.turn = at

    @rule(at=st.integers(0, 1), skew=st.sampled_from([-420, -61, 0, 2, 600]))
    def a_clock_is_set(self, at: int, skew: int) -> None:
        self.issuers[at].set_clock(skew)

    def begin_a_refresh(self, data: st.DataObject) -> None:
        """None: a store's answer can't be held up from here."""

    def time_passes(self, step_us: int) -> None:
        """By itself."""

    def the_wall_clock_steps_back(self, step_us: int) -> None:
        """See ``a_clock_is_set``."""


NORMAL = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def over(open_store: OpenStore) -> type[LogoutRule]:
    """The machine over the stores of one engine."""
    return type("LogoutRule", (LogoutRule,), {"open_store": staticmethod(open_store)})


def test_a_token_is_accepted_exactly_when_its_step_comes_after_the_last_logout(open_store: OpenStore) -> None:
    run_state_machine_as_test(over(open_store), settings=NORMAL)


@pytest.mark.soak
def test_the_rule_of_logout_holds_over_long_walks(open_store: OpenStore) -> None:
    long = settings(NORMAL, max_examples=1500, stateful_step_count=80)
    run_state_machine_as_test(over(open_store), settings=long)


@pytest.fixture
def fleet(
    tmp_path: Path, mongodb_url: str, redis_url: str, programs: Callable[[Program], Program]
) -> Sequence[SkewedIssuer]:
    """Two ready issuers that share users and sessions, on hosts whose clocks differ by minutes."""
    shared = {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_url,
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
        "AUTHIX_ISSUER": ISSUER,
        "AUTHIX_AUDIENCE": AUDIENCE,
        "AUTHIX_FEED_TOKEN": FEED_TOKEN,
        "AUTHIX_REFRESH_GRACE": "300",
    }
    issuers = [SkewedIssuer(tmp_path / f"issuer{skew}", skew, **shared) for skew in SKEWS]
    for issuer in issuers:
        programs(issuer)
        issuer.start()
    for issuer in issuers:  # at the same time, so each in twice the time
        issuer.wait_for(f"{issuer.url}/readyz", within=2 * DEADLINE)
    return issuers


def of_fleet(issuers: Sequence[SkewedIssuer]) -> type[LogoutRuleOfAFleet]:
    return type("LogoutRuleOfAFleet", (LogoutRuleOfAFleet,), {"issuers": issuers})


def test_a_token_is_judged_so_whatever_the_clocks_of_the_issuers_say(fleet: Sequence[SkewedIssuer]) -> None:
    few = settings(NORMAL, max_examples=8, stateful_step_count=30)
    run_state_machine_as_test(of_fleet(fleet), settings=few)


@pytest.mark.soak
def test_the_rule_of_logout_holds_over_long_walks_of_a_fleet(fleet: Sequence[SkewedIssuer]) -> None:
    long = settings(NORMAL, max_examples=300, stateful_step_count=60)
    run_state_machine_as_test(of_fleet(fleet), settings=long)
