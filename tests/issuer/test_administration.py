"""What HTTP can't provoke of the administration: changes at once, engines that are away, any roles and claims."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix.errors import TokenRevoked
from authix.settings import load
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.administration import NewGrants
from authix_issuer.audit import Caller
from authix_issuer.errors import AccountBusy, InputInvalid, RefreshTokenInvalid
from authix_issuer.grants import read_claims, read_roles
from authix_issuer.key_ring import Policy, Ring, advance
from authix_issuer.key_seal import new_key
from authix_issuer.keys import in_use
from authix_issuer.ports import AccountState
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import Issuer, open_issuer
from authix_sidecar.rewrite import identity
from tests.programs import PASSWORD

ROOT = Caller(actor="root")
Open = Callable[..., AbstractAsyncContextManager[Issuer]]


@pytest.fixture
def open_with(tmp_path: Path) -> Open:
    """``open_with(AUTHIX_…="…")``: an issuer's parts, without a server."""

    def opening(**env: str) -> AbstractAsyncContextManager[Issuer]:
        environ = {
            "AUTHIX_ISSUER": "https://auth.example.com",
            "AUTHIX_AUDIENCE": "tests",
            "AUTHIX_DATA_DIR": str(tmp_path / "data"),
            "AUTHIX_HASH_PROFILE": "cheapest",
            "AUTHIX_AUDIT": str(tmp_path / "audit.log"),
            "AUTHIX_SECRET": "s" * 40,
        }
        return open_issuer(load(IssuerSettings, environ | env))

    return opening


@pytest.fixture(params=["embedded", "at scale"])
async def issuer(request: pytest.FixtureRequest, open_with: Open) -> AsyncIterator[Issuer]:
    env = {}
    if request.param == "at scale":
        mongodb = request.getfixturevalue("mongodb_url").rstrip("/")
        env["AUTHIX_USERS_URL"] = f"{mongodb}/{secrets.token_hex(8)}"
        env["AUTHIX_SESSIONS_URL"] = request.getfixturevalue("redis_url")
    async with open_with(**env) as opened:
        yield opened


async def test_changes_of_several_administrators_at_once_are_all_made_or_refused(issuer: Issuer) -> None:
    administration = issuer.administration
    user = await administration.create("ann@example.com", PASSWORD, caller=ROOT)
    tokens = await issuer.logins.login("ann@example.com", PASSWORD)

    async def change(new: NewGrants) -> NewGrants | None:
        try:
            await administration.change(user.id, new, ROOT)
        except AccountBusy:
            return None
        return new

    wanted = [NewGrants(roles=[f"role-{n}"]) for n in range(4)] + [NewGrants(claims={f"n{n}": n}) for n in range(4)]
    made = [new for new in await asyncio.gather(*map(change, wanted)) if new is not None]
    assert len(made) >= 5  # of eight, at least that many get their turn in five tries
    after = await administration.get(user.id)
    assert after.version == len(made)
    refreshed = await issuer.own_tokens.live((await issuer.sessions.refresh(tokens.refresh_token)).access_token)
    assert (refreshed.roles, refreshed.extra.items() >= after.claims.items()) == (frozenset(after.roles), True)
    assert list(after.roles) in [new.roles for new in made if new.roles is not None]
    assert after.claims in [new.claims for new in made if new.claims is not None]


async def test_pages_and_figures_are_those_of_the_stores(issuer: Issuer) -> None:
    administration = issuer.administration
    made = [await administration.create(f"user-{n}@example.com", PASSWORD, caller=ROOT) for n in range(5)]
    first = await administration.page("", 3)
    rest = await administration.page(first.after or "", 3)
    assert [user.id for user in first.users + rest.users] == sorted(user.id for user in made)
    assert (first.after, rest.after) == (first.users[-1].id, None)
    before = await administration.stats()
    await administration.log_out(made[0].id, ROOT)
    await administration.change(made[1].id, NewGrants(state=AccountState.DISABLED), ROOT)
    await administration.delete(made[2].id, ROOT)
    after = await administration.stats()
    assert (before.users, after.users) == (5, 4)
    assert after.revocations == (before.revocations or 0) + 3
    assert after.degraded == {}


async def test_everybody_is_logged_out_and_what_broke_off_is_taken_up_again(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authix_issuer.administration._AT_ONCE", 2)
    administration, opened = issuer.administration, []
    for n in range(5):
        await administration.create(f"user-{n}@example.com", PASSWORD, caller=ROOT)
        opened.append(await issuer.logins.login(f"user-{n}@example.com", PASSWORD))
    async with aclosing(administration.log_out_all("", ROOT)) as run:
        done, last = await anext(run)
    assert done == 2
    states = [await refreshes(issuer, tokens.refresh_token) for tokens in opened]
    assert states.count(True) == 3
    assert [done async for done, _ in administration.log_out_all(last, ROOT)] == [2, 3]
    for tokens in opened:
        assert not await refreshes(issuer, tokens.refresh_token)
        with pytest.raises(TokenRevoked):
            await issuer.own_tokens.live(tokens.access_token)
    assert (await issuer.logins.login("user-0@example.com", PASSWORD)).access_token


async def refreshes(issuer: Issuer, refresh_token: str) -> bool:
    try:
        await issuer.sessions.refresh(refresh_token)
    except RefreshTokenInvalid:
        return False
    return True


async def test_figures_come_also_while_an_engine_fails(open_with: Open, tmp_path: Path) -> None:
    async with open_with() as issuer:
        with closing(sqlite3.connect(tmp_path / "data" / "users.db")) as store:
            store.executescript("DROP TABLE users; DROP TABLE key_ring")
        stats = await issuer.administration.stats()
    assert stats.degraded == {"users": "store_unavailable", "keys": "store_unavailable"}
    assert (stats.users, stats.keys, stats.revocations) == (None, None, 0)


SIGNING = in_use(advance(Ring(), 1, Policy("RS256", 3_600_000_000, 900_000_000), new_key))
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=',%"\\')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(st.text(VISIBLE, min_size=1, max_size=8) | st.text(max_size=80), max_size=5),
    st.dictionaries(st.text(max_size=12), JSON, max_size=5),
)
def test_whatever_roles_and_claims_are_accepted_arrive_as_they_are(roles: list[str], claims: dict[str, Any]) -> None:
    try:
        granted, said = read_roles(roles), read_claims(claims)
    except InputInvalid:
        return
    issuer, now = "https://" + "a" * 200, time.time_ns() // 1000
    tokens = AccessTokens(SIGNING, issuer=issuer, audience="tests", life=300)
    token = tokens.issue(subject="u" * 128, session="s" * 128, roles=granted, claims=said, at_us=now)
    verifier = Verifier(issuer=issuer, audience="tests", algorithms=frozenset({"RS256"}), feed=False)
    verifier.use_keys(SIGNING.published)
    found = verifier.verify(token, now=now / 1_000_000, monotonic=0)
    assert found.roles == set(granted)
    assert {name: found.extra[name] for name in said} == said
    header = dict(identity(found))["X-Authix-Roles"]
    assert unquote(header) == header
    assert header == ",".join(sorted(granted))


@pytest.mark.parametrize(
    "claims", [{}, {"a": [1.5, None, True, "é"]}, {"n": 2**53 - 1}, {"https://a.b/c.d": {"$x": "."}}]
)
def test_usual_claims_are_accepted(claims: dict[str, Any]) -> None:
    assert read_claims(claims) == claims


def test_what_tokens_and_their_answers_say_themselves_cannot_be_set() -> None:
    payload = {"iss", "sub", "aud", "iat", "exp", "iat_us", "jti", "sid", "roles", "nbf", "cnf", "act", "scope", "typ"}
    for name in payload | {"active", "client_id", "token_type", "username"}:
        with pytest.raises(InputInvalid) as refused:
            read_claims({name: 1, "tenant": "acme"})
        assert [reason.code for reason in refused.value.reasons] == ["claim_reserved"]


def test_the_largest_roles_and_claims_together_fit_well_into_a_token() -> None:
    roles = read_roles([f"{n:028}" for n in range(64)])
    claims = read_claims({"a": "x" * 2040})
    assert len(json.dumps([roles, claims])) > 4000
    tokens = AccessTokens(SIGNING, issuer="https://" + "a" * 200, audience="t" * 100, life=300)
    assert len(tokens.issue(subject="u" * 128, session="s" * 32, roles=roles, claims=claims, at_us=1)) < 7168
