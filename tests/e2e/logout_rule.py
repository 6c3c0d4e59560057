"""The one rule of logout, at random: the walk and its model.

Rule: a verifier that has caught up accepts a token exactly when the session step that made it comes after the last
logout that covers it, in the store's own order. The model counts steps; it knows nothing of moments.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from authix.errors import TokenRevoked
from authix.events import Heartbeat
from authix.keys import KeySet, VerificationKey
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.audit import OFF, Audit
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused
from authix_issuer.keys import SigningKey, SigningKeys
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import (
    Grants,
    NewSession,
    Opened,
    OpenSession,
    Presented,
    Reused,
    RevocationLog,
    Rotated,
    Scope,
    SessionStore,
    Unsettled,
    User,
)
from authix_issuer.ports import Logout as Revocation
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.sessions import Sessions, Tokens

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

    async def open(self, session: NewSession, *, most: int = 0) -> Opened:
        return await self._store.open(session, most=most)

    async def settle(self, subject: str, grants: Grants, unsettled: Unsettled) -> Revocation:
        return await self._store.settle(subject, grants, unsettled)

    async def is_live(self, presented: Presented, issued_us: int) -> bool:
        return await self._store.is_live(presented, issued_us)

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
            store or self.store,
            ACCESS_TOKENS,
            REFRESH_TOKENS,
            Audit(OFF),
            life=86400,
            idle=0,
            grace=grace,
            most=0,
            revoked=lambda _: None,
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

    @rule(data=st.data(), scope=st.sampled_from([Scope.USER, Scope.SESSION, Scope.ALL]), by_access_token=st.booleans())
    def log_out(self, data: st.DataObject, scope: Scope, by_access_token: bool) -> None:  # noqa: FBT001 - drawn
        session = self.pick(data)
        goes_on = any(other.open for other in self.sessions if other.user is session.user)
        refused = scope is Scope.ALL and goes_on and not session.open
        with pytest.raises((RefreshTokenInvalid, TokenRevoked)) if refused else contextlib.nullcontext():
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
                    good = self.is_good(token, alive=step > dead_until)
                    assert self.accepts(verifier, token) is good, (session.number, step, dead_until)

    def is_good(self, token: str, *, alive: bool) -> bool:
        return alive

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
