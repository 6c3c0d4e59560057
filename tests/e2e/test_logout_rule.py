"""The one rule of logout, at random.

Rule: a verifier that has caught up accepts a token exactly when the session step that made it comes after the last
logout that covers it, in the store's own order. The model counts steps; it knows nothing of moments.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from authix.errors import TokenRevoked
from authix.events import Heartbeat, Snapshot
from authix.keys import KeySet, VerificationKey
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.adapters import sqlite_sessions
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.adapters.redis_sessions import RedisSessions
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused
from authix_issuer.keys import SigningKey, SigningKeys
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import Logout as Revocation
from authix_issuer.ports import (
    NewSession,
    OpenSession,
    Presented,
    Reused,
    RevocationLog,
    Rotated,
    Scope,
    SessionStore,
    User,
)
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.sessions import Sessions, Tokens
from tests.programs import DEADLINE, PASSWORD, Program, SkewedIssuer, bearer

T = TypeVar("T")

ISSUER, AUDIENCE = "https://auth.example.com", "services"
USERS = [User(name * 32, f"{name}@example.com", f"{name}@example.com", "hash") for name in "abc"]
ENGINES = ("sqlite-memory", "sqlite-file", "redis", "redis-cluster")
COOKIE = "authix_refresh"
SKEWS = (-420, 600)
START_US = 1_800_000_000_000_000
ALWAYS, NEVER = 10**9, 0
"""Two lengths of the grace, so that no engine's clock must be set."""


class Store(SessionStore, RevocationLog, Protocol):
    """A session store with its log."""


class WallClock:
    """Stands still until a rule moves it."""

    def __init__(self) -> None:
        self.moment_us = START_US

    def now_us(self) -> int:
        return self.moment_us


OpenStore = Callable[[WallClock], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=ENGINES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """``open_store(clock)``: an empty store of the engine; a new adapter is a new parameter here.

    Redis has a clock of its own, which runs; the steps of the walk's clock are lost on it.
    """
    url = ""
    if request.param.startswith("redis"):
        url = request.getfixturevalue("redis_url" if request.param == "redis" else "redis_cluster_url")

    @asynccontextmanager
    async def open_one(clock: WallClock) -> AsyncIterator[Store]:
        if url:
            async with RedisEngine(url) as redis:
                yield RedisSessions(redis, namespace=secrets.token_hex(8))
            return
        path = MEMORY if request.param == "sqlite-memory" else str(tmp_path / f"{secrets.token_hex(8)}.db")
        async with Database(path, sqlite_sessions.SCHEMA) as database:
            yield SqliteSessions(database, clock.now_us)

    return open_one


class InFlight:
    """The store as seen by one refresh, whose answer is on its way until ``arrive`` is set."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.done, self.arrive = asyncio.Event(), asyncio.Event()

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        outcome = await self._store.refresh(presented, counter, grace_us=grace_us)
        self.done.set()
        await self.arrive.wait()
        return outcome

    async def open(self, session: NewSession) -> int:
        return await self._store.open(session)

    async def close(self, presented: Presented, scope: Scope) -> Revocation | None:
        return await self._store.close(presented, scope)

    async def list_open(self, subject: str, limit: int) -> list[OpenSession]:
        return await self._store.list_open(subject, limit)

    async def check(self) -> None:
        await self._store.check()


def signing_keys() -> SigningKeys:
    private = ec.generate_private_key(ec.SECP256R1())
    public = VerificationKey(private.public_key())
    return SigningKeys(SigningKey(public.key_id, "ES256", private), KeySet([public]))


KEYS = signing_keys()
ACCESS_TOKENS = AccessTokens(KEYS, issuer=ISSUER, audience=AUDIENCE, life=300)
REFRESH_TOKENS = RefreshTokens(MasterSecret("m" * 32))


@dataclass
class Session:
    """What the model knows of a session."""

    user: User
    number: int
    refresh_tokens: list[str]
    open: bool = True
    access_tokens: list[tuple[str, int]] = field(default_factory=list)
    """Each with the step that made it."""
    ended_at: int = 0
    """The last step that revoked this session's tokens alone."""


class LogoutRule(RuleBasedStateMachine):
    """Several users, who log in, refresh and log out at random while their wall clock misbehaves."""

    open_store: ClassVar[OpenStore]
    graces: ClassVar[tuple[int, ...]] = (ALWAYS, NEVER)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = WallClock()
        self.set_up()
        self.sessions: list[Session] = []
        self.in_flight: list[tuple[Session, int, InFlight, asyncio.Task[Tokens]]] = []
        self.step = 0
        self.user_ended_at = {user.id: 0 for user in USERS}
        self.follower = self.verifier()
        self.cursor: str | None = None

    def set_up(self) -> None:
        self.store: Store = self.run(self.stack.enter_async_context(type(self).open_store(self.clock)))

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def use_cases(self, grace: int, store: SessionStore | None = None) -> Sessions:
        return Sessions(
            store or self.store, ACCESS_TOKENS, REFRESH_TOKENS, life=86400, grace=grace, revoked=lambda _: None
        )

    def teardown(self) -> None:
        for _, _, late, task in self.in_flight:
            late.arrive.set()
            self.run(asyncio.wait_for(task, 10))
        self.run(self.stack.aclose())
        self.runner.close()

    def verifier(self) -> Verifier:
        verifier = Verifier(issuer=ISSUER, audience=AUDIENCE)
        verifier.use_keys(KEYS.published)
        return verifier

    # steps of a user

    @initialize()
    def two_logins(self) -> None:
        for user in USERS[:2]:
            self.log_in(user)

    @rule(user=st.sampled_from(USERS))
    def log_in(self, user: User) -> None:
        tokens = self.run(self.use_cases(ALWAYS).open(user))
        self.step += 1
        session = Session(user, len(self.sessions), [tokens.refresh_token])
        session.access_tokens.append((tokens.access_token, self.step))
        self.sessions.append(session)

    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        session, grace = self.pick(data), data.draw(st.sampled_from(self.graces))
        used = data.draw(st.integers(max(0, len(session.refresh_tokens) - 4), len(session.refresh_tokens) - 1))
        ahead = len(session.refresh_tokens) - 1 - used
        refresh = self.use_cases(grace).refresh(session.refresh_tokens[used])
        if not session.open:
            with pytest.raises(RefreshTokenInvalid):
                self.run(refresh)
            self.step += 1
        elif ahead == 0 or (ahead == 1 and grace == ALWAYS):
            tokens = self.run(refresh)
            self.step += 1
            self.hand_out(session, tokens, self.step, used)
        else:
            with pytest.raises(RefreshTokenReused):
                self.run(refresh)
            self.step += 1
            session.open, session.ended_at = False, self.step

    def hand_out(self, session: Session, tokens: Tokens, step: int, used: int) -> None:
        if used == len(session.refresh_tokens) - 1:
            assert tokens.refresh_token not in session.refresh_tokens
            session.refresh_tokens.append(tokens.refresh_token)
        assert tokens.refresh_token == session.refresh_tokens[used + 1]
        session.access_tokens.append((tokens.access_token, step))

    @rule(data=st.data())
    def begin_a_refresh(self, data: st.DataObject) -> None:
        """The store takes its step; the answer stays on its way, and the token is not signed yet."""
        session = self.pick(data)
        late = InFlight(self.store)
        used = len(session.refresh_tokens) - 1
        if not session.open or any(other is session for other, *_ in self.in_flight):
            return

        async def begin() -> asyncio.Task[Tokens]:
            task = asyncio.ensure_future(self.use_cases(ALWAYS, late).refresh(session.refresh_tokens[used]))
            await asyncio.wait_for(late.done.wait(), 10)
            return task

        task = self.run(begin())
        self.step += 1
        # The successor follows from the token, so the model need not wait for the answer to know it.
        token = REFRESH_TOKENS.read(session.refresh_tokens[used])
        session.refresh_tokens.append(REFRESH_TOKENS.write(token._replace(counter=token.counter + 1)))
        self.in_flight.append((session, self.step, late, task))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def the_answer_arrives(self, data: st.DataObject) -> None:
        session, step, late, task = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        late.arrive.set()

        async def finish() -> Tokens:
            return await asyncio.wait_for(task, 10)

        tokens = self.run(finish())
        assert tokens.refresh_token in session.refresh_tokens
        session.access_tokens.append((tokens.access_token, step))

    @rule(data=st.data(), scope=st.sampled_from(Scope), by_access_token=st.booleans())
    def log_out(self, data: st.DataObject, scope: Scope, by_access_token: bool) -> None:  # noqa: FBT001 - drawn
        session = self.pick(data)
        if by_access_token:
            self.run(self.close_of(data.draw(st.sampled_from(session.access_tokens))[0], scope))
        else:
            token = data.draw(st.sampled_from(session.refresh_tokens))
            self.run(self.use_cases(ALWAYS).close(token, scope))
        self.step += 1
        if not session.open:
            return
        session.open = False
        if scope is Scope.SESSION:
            session.ended_at = self.step
        else:
            self.user_ended_at[session.user.id] = self.step
        if scope is Scope.ALL:
            for other in self.sessions:
                other.open = other.open and other.user is not session.user

    async def close_of(self, access_token: str, scope: Scope) -> None:
        await self.use_cases(ALWAYS).close_of(self.claims(access_token), scope)

    def pick(self, data: st.DataObject) -> Session:
        """One of the latest sessions, open or not."""
        return data.draw(st.sampled_from(self.sessions[-6:]))

    # the wall clock

    @rule(step_us=st.sampled_from([1, 2, 999_999, 1_000_000, 60_000_000]))
    def time_passes(self, step_us: int) -> None:
        self.clock.moment_us += step_us

    @rule(step_us=st.sampled_from([1, 2, 1_000_000, 3_600_000_000]))
    def the_wall_clock_steps_back(self, step_us: int) -> None:
        self.clock.moment_us -= step_us

    # the verifiers

    def claims(self, token: str) -> Any:
        verifier = self.verifier()
        verifier.apply(Heartbeat(at_us=0, complete_until_us=0), 0)
        return self.judge(verifier, token)

    def judge(self, verifier: Verifier, token: str) -> Any:
        """At the token's own time, so that only the logouts decide."""
        issued_at = jwt.decode(token, options={"verify_signature": False})["iat"]
        return verifier.verify(token, now=issued_at + 1, monotonic=0)

    async def catch_up(self, verifier: Verifier, cursor: str | None) -> str | None:
        """As a follower of the feed does: all that is in the log, then the heartbeat that vouches for it."""
        tick = await self.store.tick()
        while page := await self.store.read(cursor, 1):
            cursor = page[-1].cursor
            for entry in page:
                verifier.apply(entry.revocation, 0)
        verifier.apply(Heartbeat(at_us=tick.at_us, complete_until_us=tick.complete_until_us), 0)
        return cursor

    @rule()
    def a_caught_up_verifier_accepts_exactly_the_tokens_that_no_later_logout_covers(self) -> None:
        self.cursor = self.run(self.catch_up(self.follower, self.cursor))
        newcomer = self.verifier()
        self.run(self.catch_up(newcomer, None))
        for session in self.sessions:
            dead_until = max(session.ended_at, self.user_ended_at[session.user.id])
            for token, step in session.access_tokens:
                for verifier in (self.follower, newcomer):
                    assert self.accepts(verifier, token) is (step > dead_until), (session.number, step, dead_until)

    def accepts(self, verifier: Verifier, token: str) -> bool:
        try:
            self.judge(verifier, token)
        except TokenRevoked:
            return False
        return True

    @rule()
    def no_refresh_token_of_an_ended_session_works(self) -> None:
        for session in self.sessions:
            if not session.open:
                for token in session.refresh_tokens[-2:]:
                    with pytest.raises(RefreshTokenInvalid):
                        self.run(self.use_cases(ALWAYS).refresh(token))
                    self.step += 1


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
        return msgspec.json.decode((await self.ask("GET", "/revocations")).content, type=Snapshot)

    async def _close(self, scope: Scope, headers: dict[str, str]) -> None:
        answer = await self.ask("POST", f"/logout?scope={scope}", headers=headers)
        assert answer.status_code == 204, answer.text

    def _tokens(self, answer: httpx.Response) -> Tokens:
        assert answer.status_code == 200, answer.text
        return Tokens(answer.json()["access_token"], 300, answer.cookies[COOKIE], 86400)


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
