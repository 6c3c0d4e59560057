"""Login, refresh and logout over a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from authix.errors import TokenRevoked
from authix.events import Heartbeat
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.adapters import sqlite_sessions
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.audit import NOBODY, OFF, Audit
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused
from authix_issuer.key_ring import Policy, Ring, advance
from authix_issuer.key_seal import new_key
from authix_issuer.keys import SigningKeys, in_use
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import Logout, Presented, Reused, Rotated, Scope, User
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.sessions import Sessions, Tokens

ANN = User("a" * 32, "ann@example.com", "ann@example.com", "hash", ("reader",))
ISSUER, AUDIENCE = "https://auth.example.com", "services"
MASTER = MasterSecret("m" * 32)

LOGOUTS = (Scope.USER, Scope.SESSION, Scope.ALL)


class LateStore(SqliteSessions):
    """The real store, whose answer to a refresh is on its way until ``arrive`` is set."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.done, self.arrive = asyncio.Event(), asyncio.Event()
        self.arrive.set()

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        outcome = await super().refresh(presented, counter, grace_us=grace_us)
        self.done.set()
        await self.arrive.wait()
        return outcome


@pytest.fixture
async def store() -> AsyncIterator[LateStore]:
    async with Database(MEMORY, sqlite_sessions.SCHEMA) as database:
        yield LateStore(database)


@pytest.fixture
def keys() -> SigningKeys:
    return in_use(advance(Ring(), 1, Policy("ES256", 3_600_000_000, 900_000_000), new_key))


@pytest.fixture
def told() -> list[Logout]:
    """What the use case said it revoked."""
    return []


@pytest.fixture
def sessions(store: LateStore, keys: SigningKeys, told: list[Logout]) -> Sessions:
    access_tokens = AccessTokens(keys, issuer=ISSUER, audience=AUDIENCE, life=300)
    return Sessions(
        store,
        access_tokens,
        RefreshTokens(MASTER),
        Audit(OFF),
        life=3600,
        idle=0,
        grace=10,
        most=0,
        revoked=told.append,
    )


@pytest.fixture
def verifier(keys: SigningKeys) -> Verifier:
    verifier = Verifier(issuer=ISSUER, audience=AUDIENCE)
    verifier.use_keys(keys.published)
    return verifier


async def refused(verifier: Verifier, store: LateStore, tokens: Tokens) -> bool:
    """Whether a verifier that has caught up with the log refuses the access token as revoked."""
    tick = await store.tick()
    for entry in await store.read(None, 1000):
        verifier.apply(entry.revocation, 0)
    verifier.apply(Heartbeat(at_us=tick.at_us, complete_until_us=tick.complete_until_us), 0)
    try:
        verifier.verify(tokens.access_token, now=time.time(), monotonic=0)
    except TokenRevoked:
        return True
    return False


@pytest.mark.parametrize("scope", LOGOUTS)
async def test_a_refresh_in_flight_during_a_logout_yields_no_usable_token(
    sessions: Sessions, store: LateStore, verifier: Verifier, scope: Scope
) -> None:
    opened = await sessions.open(ANN)
    store.arrive.clear()
    in_flight = asyncio.ensure_future(sessions.refresh(opened.refresh_token))
    await store.done.wait()
    await sessions.close(opened.refresh_token, scope)
    store.arrive.set()
    late = await in_flight
    assert await refused(verifier, store, late)
    with pytest.raises(RefreshTokenInvalid):
        await sessions.refresh(late.refresh_token)


async def test_a_refresh_in_flight_while_its_session_is_stolen_yields_no_usable_token(
    sessions: Sessions, store: LateStore, verifier: Verifier
) -> None:
    stolen = (await sessions.open(ANN)).refresh_token
    current = await sessions.refresh((await sessions.refresh(stolen)).refresh_token)
    store.done.clear()
    store.arrive.clear()
    in_flight = asyncio.ensure_future(sessions.refresh(current.refresh_token))
    await store.done.wait()
    theft = asyncio.ensure_future(sessions.refresh(stolen))
    store.arrive.set()
    with pytest.raises(RefreshTokenReused):
        await theft
    assert await refused(verifier, store, await in_flight)


async def test_uses_of_one_token_at_once_get_one_successor(sessions: Sessions) -> None:
    opened = await sessions.open(ANN)
    answers = await asyncio.gather(*(sessions.refresh(opened.refresh_token) for _ in range(20)))
    assert len({answer.refresh_token for answer in answers}) == 1
    assert len({answer.access_token for answer in answers}) == 20
    assert (await sessions.refresh(answers[0].refresh_token)).refresh_token != answers[0].refresh_token


async def test_after_a_logout_no_descendant_of_the_session_works(
    sessions: Sessions, store: LateStore, verifier: Verifier
) -> None:
    family = [await sessions.open(ANN)]
    for _ in range(4):
        family.append(await sessions.refresh(family[-1].refresh_token))
    await sessions.close(family[-1].refresh_token, Scope.SESSION)
    for tokens in family:
        assert await refused(verifier, store, tokens)
        with pytest.raises(RefreshTokenInvalid):
            await sessions.refresh(tokens.refresh_token)


@pytest.mark.parametrize("used", [0, 1, 3])
async def test_any_refresh_token_of_the_session_logs_out(
    sessions: Sessions, store: LateStore, verifier: Verifier, used: int
) -> None:
    family = [await sessions.open(ANN)]
    for _ in range(3):
        family.append(await sessions.refresh(family[-1].refresh_token))
    await sessions.close(family[used].refresh_token, Scope.SESSION)
    assert await refused(verifier, store, family[-1])


async def test_what_was_revoked_is_told_once(sessions: Sessions, store: LateStore, told: list[Logout]) -> None:
    opened = await sessions.open(ANN)
    for _ in range(3):
        await sessions.close(opened.refresh_token, Scope.USER)
    assert told == [entry.revocation for entry in await store.read(None, 10)]
    assert len(told) == 1


async def test_theft_is_told(sessions: Sessions, store: LateStore, told: list[Logout]) -> None:
    opened = await sessions.open(ANN)
    await sessions.refresh((await sessions.refresh(opened.refresh_token)).refresh_token)
    with pytest.raises(RefreshTokenReused):
        await sessions.refresh(opened.refresh_token)
    assert told == [entry.revocation for entry in await store.read(None, 10)]
    assert len(told) == 1


async def test_the_session_ends_four_weeks_after_the_login_however_often_it_is_refreshed(sessions: Sessions) -> None:
    opened = await sessions.open(ANN)
    assert opened.refresh_life == 3600
    refreshed = await sessions.refresh(opened.refresh_token)
    assert 3590 <= refreshed.refresh_life <= 3600


async def test_roles_of_the_login_are_in_every_access_token(
    sessions: Sessions, store: LateStore, verifier: Verifier
) -> None:
    opened = await sessions.open(ANN)
    for tokens in (opened, await sessions.refresh(opened.refresh_token)):
        assert not await refused(verifier, store, tokens)
        claims = verifier.verify(tokens.access_token, now=time.time(), monotonic=0)
        assert (claims.subject, set(claims.roles)) == (ANN.id, {"reader"})


async def test_printed_tokens_show_none_of_them(sessions: Sessions) -> None:
    opened = await sessions.open(ANN)
    assert opened.access_token not in repr(opened)
    assert opened.refresh_token not in repr(opened)


async def test_who_ends_all_others_is_told_when_his_own_has_ended_and_none_was(sessions: Sessions) -> None:
    mine, other = await sessions.open(ANN), await sessions.open(ANN)
    await sessions.close(mine.refresh_token, Scope.SESSION)  # between the look at his token and the deed
    with pytest.raises(TokenRevoked):
        await sessions.end_others(ANN.id, mine.session, NOBODY)
    assert await sessions.refresh(other.refresh_token)
