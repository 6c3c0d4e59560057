"""The rule of logout with all that changes an account, at random, over every engine.

Rule: besides what the walk of ``logout_rule`` claims, a session carries the roles of the account's last change that was
settled, nobody gets in by what was changed before they were in, and a change whose process died is made good.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import jwt
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from authix.errors import KeyRevoked, KeyUnknown
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.accounts import Accounts
from authix_issuer.adapters import sqlite_users
from authix_issuer.adapters.mongo import MongoUsers, open_mongo
from authix_issuer.adapters.mongo_keys import MongoKeys
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.adapters.sqlite_users import SqliteUsers
from authix_issuer.audit import NOBODY, OFF, Audit
from authix_issuer.changes import Changes
from authix_issuer.errors import AccountDisabled, CredentialsWrong, IssuerError, StoreUnavailable
from authix_issuer.hashing import PasswordHasher
from authix_issuer.key_ring import Policy
from authix_issuer.key_seal import KeySeal
from authix_issuer.live_keys import LiveKeys
from authix_issuer.logins import Logins
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import AccountState, Grants, KeyStore, Logout, Scope, SessionStore, Unsettled, User, UserStore
from authix_issuer.sessions import Sessions, Tokens
from tests.e2e.logout_rule import ALWAYS, AUDIENCE, ISSUER, REFRESH_TOKENS, USERS, LogoutRule, OpenStore, Session

PASSWORDS = [f"the {number}. horse has a battery staple" for number in range(3)]
ROLES = [(), ("reader",), ("reader", "writer")]
OWNERS = USERS[:2]
MOST = 3
"""Sessions that one user may have."""

OpenAccounts = Callable[[], AbstractAsyncContextManager[tuple[UserStore, KeyStore]]]
"""Empty stores of accounts and of signing keys."""


class Change(NamedTuple):
    """What the sessions of an account are still to be told: those opened before ``version`` end, or get its roles."""

    version: int
    roles: tuple[str, ...]
    end: bool
    keep: str = ""


@dataclass
class Account:
    """What the model knows of an account."""

    owner: User
    id: str
    email: str
    password: str
    passwords: int = 0
    """How often the password was changed."""
    roles: tuple[str, ...] = ()
    enabled: bool = True
    deleted: bool = False
    version: int = 0
    unfinished: Change | None = None
    sessions: dict[int, tuple[str, int, tuple[str, ...]]] = field(default_factory=dict)
    """By the session's number: its id, the version of the account that it knows of, and its roles."""


class LoggingIn(NamedTuple):
    """A login whose account was read, as it then was, and whose answer is on its way."""

    account: Account
    right: bool
    passwords: int
    enabled: bool
    version: int
    unfinished: Change | None
    users: PausedUsers
    task: asyncio.Task[Tokens]


class PausedUsers:
    """The store as seen by one login: what it reads by email is on its way until ``arrive`` is set."""

    def __init__(self, users: UserStore) -> None:
        self._users = users
        self.done, self.arrive = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._users, name)

    async def by_email_key(self, email_key: str) -> User | None:
        found = await self._users.by_email_key(email_key)
        self.done.set()
        await self.arrive.wait()
        return found


class AwayStore:
    """A session store that is away, so that a change stops half-way."""

    async def settle(self, subject: str, grants: Grants, unsettled: Unsettled) -> Logout:
        raise StoreUnavailable("away")


class AccountRule(LogoutRule):
    """Adds passwords, roles, bans, deletions, keys, a limit of sessions, and processes that die half-way."""

    open_accounts: ClassVar[OpenAccounts]

    def set_up(self) -> None:
        super().set_up()
        self.users, rings = self.run(self.stack.enter_async_context(type(self).open_accounts()))
        self.hasher = self.run(self.stack.enter_async_context(PasswordHasher("cheapest", threads=1, queue=8)))
        self.changes = Changes(self.users, self.store, lambda _: None)
        self.keys = self.keys_in(rings)
        self.run(self.keys.look())
        self.withdrawn: set[str] = set()
        """Keys that were revoked."""
        self.logging_in: list[LoggingIn] = []
        self.accounts = {user.id: self.registered(user) for user in OWNERS}

    def keys_in(self, rings: KeyStore) -> LiveKeys:
        policy, seal = Policy("ES256", life_us=10**15, notice_us=10**12), KeySeal(MasterSecret("m" * 32))
        return LiveKeys(rings, self.store, seal, policy, Audit(OFF), revoked=lambda _: None)

    def verifier(self) -> Verifier:
        verifier = Verifier(issuer=ISSUER, audience=AUDIENCE)
        self.keys.follow(verifier.use_keys)
        return verifier

    def registered(self, owner: User) -> Account:
        email = f"{owner.id}@example.com"
        user = self.run(self.accounts_over(self.users).register(email, PASSWORDS[0]))
        return Account(owner, user.id, email, PASSWORDS[0])

    def use_cases(self, grace: int, store: SessionStore | None = None) -> Sessions:
        return Sessions(
            store or self.store,
            AccessTokens(self.keys, issuer=ISSUER, audience=AUDIENCE, life=300),
            REFRESH_TOKENS,
            Audit(OFF),
            life=86400,
            idle=0,
            grace=grace,
            most=MOST,
            revoked=lambda _: None,
        )

    def accounts_over(self, users: UserStore, changes: Changes | None = None) -> Accounts:
        return Accounts(users, changes or self.changes, self.hasher, Audit(OFF), password_min_length=15)

    def login(self, account: Account, password: str, users: UserStore) -> Coroutine[Any, Any, Tokens]:
        accounts = self.accounts_over(users)
        logins = Logins(users, accounts, self.changes, self.use_cases(ALWAYS), Audit(OFF))
        return logins.login(account.email, password)

    def teardown(self) -> None:
        for login in self.logging_in:
            login.users.arrive.set()
            self.run(asyncio.wait([login.task]))
            login.task.exception()
        super().teardown()

    # what the other walk is about

    def time_passes(self, step_us: int) -> None:
        """Left out here, as all that follows, so that what is new comes about more often."""

    def the_wall_clock_steps_back(self, step_us: int) -> None: ...

    def begin_a_refresh(self, data: st.DataObject) -> None: ...

    def the_answer_arrives(self, data: st.DataObject) -> None: ...

    @rule(data=st.data(), scope=st.sampled_from([Scope.USER, Scope.SESSION, Scope.ALL]))
    def log_out(self, data: st.DataObject, scope: Scope) -> None:  # by the cookie only
        super().log_out(data, scope, by_access_token=False)

    # logins

    @rule(user=st.sampled_from(OWNERS))
    def log_in(self, user: User) -> None:
        account = self.accounts[user.id]
        login = self.login(account, account.password, self.users)
        if account.deleted or not account.enabled:
            with pytest.raises(CredentialsWrong if account.deleted else AccountDisabled):
                self.run(login)
            return
        tokens = self.run(login)
        self.finish(account)
        self.came_in(account, tokens)

    @rule(user=st.sampled_from(OWNERS), right=st.sampled_from([True, True, True, False]))
    def begin_a_login(self, user: User, right: bool) -> None:  # noqa: FBT001 - drawn
        """The account is read; others may change it before its password is checked."""
        account = self.accounts[user.id]
        password = account.password if right else "not the horse, the battery or the staple"
        users = PausedUsers(self.users)

        async def begin() -> asyncio.Task[Tokens]:
            task = asyncio.ensure_future(self.login(account, password, cast(UserStore, users)))
            await asyncio.wait_for(users.done.wait(), 10)
            return task

        seen = (right and not account.deleted, account.passwords, account.enabled, account.version, account.unfinished)
        self.logging_in.append(LoggingIn(account, *seen, users, self.run(begin())))

    @precondition(lambda self: self.logging_in)
    @rule(data=st.data())
    def the_login_goes_on(self, data: st.DataObject) -> None:
        login = self.logging_in.pop(data.draw(st.integers(0, len(self.logging_in) - 1)))
        account = login.account
        login.users.arrive.set()
        tokens, error = self.run(outcome_of(login.task))
        if not login.right:
            assert isinstance(error, CredentialsWrong)
            return
        if not login.enabled:
            assert isinstance(error, AccountDisabled)
            return
        if login.unfinished:
            self.settle(account, login.unfinished)
            if account.unfinished == login.unfinished:
                account.unfinished = None
        if login.version != account.version or account.deleted:  # a session was opened, and withdrawn again
            self.make_room(account)
            if account.deleted or login.passwords != account.passwords:
                assert isinstance(error, CredentialsWrong)
                return
            if not account.enabled:
                assert isinstance(error, AccountDisabled)
                return
            self.finish(account)
        assert tokens is not None, error
        self.came_in(account, tokens)

    def came_in(self, account: Account, tokens: Tokens) -> None:
        self.step += 1
        session = Session(account.owner, len(self.sessions), [tokens.refresh_token])
        session.access_tokens.append((tokens.access_token, self.step))
        self.make_room(account)
        self.sessions.append(session)
        account.sessions[session.number] = (tokens.session, account.version, account.roles)
        assert roles_in(tokens) == account.roles

    def make_room(self, account: Account) -> None:
        """For one more session."""
        for session in self.open_sessions(account)[: 1 - MOST or None]:
            self.step += 1
            session.open, session.ended_at = False, self.step

    def open_sessions(self, account: Account) -> list[Session]:
        return [self.sessions[number] for number in account.sessions if self.sessions[number].open]

    def hand_out(self, session: Session, tokens: Tokens, step: int, used: int) -> None:
        super().hand_out(session, tokens, step, used)
        account = self.accounts[session.user.id]
        assert roles_in(tokens) == account.sessions[session.number][2]

    # changes

    @rule(user=st.sampled_from(OWNERS), roles=st.sampled_from(ROLES), dies=st.booleans())
    def roles_are_set(self, user: User, roles: tuple[str, ...], dies: bool) -> None:  # noqa: FBT001 - drawn
        account = self.alive(user)
        self.run(self.changed(account, partial(User._replace, roles=roles), dies=dies, end=False))
        account.roles = roles
        self.told(account, dies=dies, end=False)

    @rule(user=st.sampled_from(OWNERS), enabled=st.booleans(), dies=st.booleans())
    def the_account_is_disabled_or_enabled(self, user: User, enabled: bool, dies: bool) -> None:  # noqa: FBT001 - drawn
        account = self.alive(user)
        state = AccountState.ACTIVE if enabled else AccountState.DISABLED
        self.run(self.changed(account, partial(User._replace, state=state), dies=dies, end=not enabled))
        account.enabled = enabled
        self.told(account, dies=dies, end=not enabled)

    @rule(user=st.sampled_from(OWNERS), password=st.sampled_from(PASSWORDS), dies=st.booleans(), data=st.data())
    def the_password_is_changed(self, user: User, password: str, dies: bool, data: st.DataObject) -> None:  # noqa: FBT001 - drawn
        account = self.alive(user)
        assume(account.enabled)
        ids = [account.sessions[session.number][0] for session in self.open_sessions(account)]
        keep = data.draw(st.sampled_from(["", *ids]))
        accounts = self.accounts_over(self.users, self.changes_that(dies=dies))
        change = accounts.change_password(account.id, account.password, password, keep=keep, caller=NOBODY)
        self.run(stopped(change, dies=dies))
        account.password, account.passwords = password, account.passwords + 1
        self.told(account, dies=dies, end=True, keep=keep)

    @rule(user=st.sampled_from(OWNERS))
    def the_email_is_changed(self, user: User) -> None:
        account = self.alive(user)
        assume(account.enabled)
        email = f"{secrets.token_hex(8)}@example.com"
        self.run(self.accounts_over(self.users).change_email(account.id, account.password, email, caller=NOBODY))
        account.email = email
        self.told(account, dies=False, end=False)

    @rule(user=st.sampled_from(OWNERS), data=st.data())
    def the_other_sessions_are_ended(self, user: User, data: st.DataObject) -> None:
        account = self.accounts[user.id]
        found = self.open_sessions(account)
        assume(found)
        kept = data.draw(st.sampled_from(found))
        self.run(self.use_cases(ALWAYS).end_others(account.id, account.sessions[kept.number][0], NOBODY))
        self.step += 1
        self.user_ended_at[user.id] = self.step
        for session in found:
            session.open = session is kept

    @rule(user=st.sampled_from(OWNERS), dies=st.booleans())
    def the_account_is_deleted(self, user: User, dies: bool) -> None:  # noqa: FBT001 - drawn
        account = self.alive(user)
        self.run(self.changed(account, partial(User._replace, state=AccountState.DELETED), dies=dies, end=True))
        account.deleted = True
        self.told(account, dies=dies, end=True)

    @rule()
    def what_was_left_half_done_is_found(self) -> None:
        for _ in range(2):  # at the first look it may still be somebody's
            self.run(self.changes.sweep())
        for account in tuple(self.accounts.values()):
            self.finish(account)

    @rule()
    def the_signing_key_is_exchanged(self) -> None:
        self.run(self.keys.rotate(NOBODY, now=True))

    @rule(data=st.data())
    def a_key_is_revoked(self, data: st.DataObject) -> None:
        key_id = data.draw(st.sampled_from([key.key_id for key in self.keys.published]))
        self.run(self.keys.revoke(key_id, NOBODY))
        self.withdrawn.add(key_id)

    def accepts(self, verifier: Verifier, token: str) -> bool:
        try:
            return super().accepts(verifier, token)
        except (KeyRevoked, KeyUnknown):
            return False

    def is_good(self, token: str, *, alive: bool) -> bool:
        return alive and jwt.get_unverified_header(token)["kid"] not in self.withdrawn

    @invariant()
    def exactly_the_sessions_that_nothing_has_ended_are_open(self) -> None:
        for account in self.accounts.values():
            open_ids = {account.sessions[session.number][0] for session in self.open_sessions(account)}
            assert {session.id for session in self.run(self.store.list_open(account.id, 10))} == open_ids

    @rule(user=st.sampled_from(OWNERS))
    def every_open_session_is_refreshed(self, user: User) -> None:
        for session in self.open_sessions(self.accounts[user.id]):
            used = len(session.refresh_tokens) - 1
            tokens = self.run(self.use_cases(ALWAYS).refresh(session.refresh_tokens[used]))
            self.step += 1
            self.hand_out(session, tokens, self.step, used)

    def alive(self, user: User) -> Account:
        account = self.accounts[user.id]
        assume(not account.deleted)
        return account

    def changes_that(self, *, dies: bool) -> Changes:
        return Changes(self.users, cast(SessionStore, AwayStore()), lambda _: None) if dies else self.changes

    async def changed(self, account: Account, change: Callable[[User], User], *, dies: bool, end: bool) -> None:
        await stopped(self.changes_that(dies=dies).make(account.id, change, end=end), dies=dies)

    def told(self, account: Account, *, dies: bool, end: bool, keep: str = "") -> None:
        """The model of a change: with what was left of those before it, for the sessions to be told now or later."""
        account.version += 1
        before = account.unfinished
        if before and before.end and end and before.keep != keep:
            keep = ""
        elif before and before.end:
            end, keep = True, before.keep
        account.unfinished = Change(account.version, account.roles, end, keep)
        if not dies:
            self.finish(account)

    def finish(self, account: Account) -> None:
        if account.unfinished:
            self.settle(account, account.unfinished)
            account.unfinished = None
            if account.deleted:
                self.accounts[account.owner.id] = self.registered(account.owner)

    def settle(self, account: Account, change: Change) -> None:
        self.step += 1
        if self.accounts[account.owner.id] is not account:
            return  # it is gone, and so are its sessions
        self.user_ended_at[account.owner.id] = self.step
        for session in self.open_sessions(account):
            session_id, version, _ = account.sessions[session.number]
            if version < change.version:
                session.open = not change.end or session_id == change.keep
                account.sessions[session.number] = (session_id, change.version, change.roles)


def roles_in(tokens: Tokens) -> tuple[str, ...]:
    return tuple(jwt.decode(tokens.access_token, options={"verify_signature": False})["roles"])


async def outcome_of(task: asyncio.Task[Tokens]) -> tuple[Tokens | None, IssuerError | None]:
    try:
        return await asyncio.wait_for(task, 10), None
    except IssuerError as error:
        return None, error


async def stopped(change: Any, *, dies: bool) -> None:
    if dies:
        with pytest.raises(StoreUnavailable):
            await change
    else:
        await change


NORMAL = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@asynccontextmanager
async def in_memory() -> AsyncIterator[tuple[UserStore, KeyStore]]:
    async with Database(MEMORY, sqlite_users.SCHEMA) as database:
        yield SqliteUsers(database), SqliteKeys(database)


def over(open_store: OpenStore, open_accounts: OpenAccounts) -> type[AccountRule]:
    stores = {"open_store": staticmethod(open_store), "open_accounts": staticmethod(open_accounts)}
    return type("AccountRule", (AccountRule,), stores)


@pytest.fixture
def in_mongodb(mongodb_url: str) -> OpenAccounts:
    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[UserStore, KeyStore]]:
        async with open_mongo(f"{mongodb_url.rstrip('/')}/{secrets.token_hex(8)}") as documents:
            yield MongoUsers(documents), MongoKeys(documents)

    return opened


@pytest.mark.parametrize("open_store", ["sqlite-memory", "redis"], indirect=True)
def test_no_change_of_an_account_leaves_a_token_or_a_session_that_it_should_end(open_store: OpenStore) -> None:
    run_state_machine_as_test(over(open_store, in_memory), settings=NORMAL)


@pytest.mark.parametrize("open_store", ["redis-cluster"], indirect=True)
def test_the_same_with_accounts_and_keys_in_mongodb(open_store: OpenStore, in_mongodb: OpenAccounts) -> None:
    few = settings(NORMAL, max_examples=8)
    run_state_machine_as_test(over(open_store, in_mongodb), settings=few)


@pytest.mark.soak
@pytest.mark.parametrize("open_store", ["redis"], indirect=True)
def test_the_rule_holds_over_long_walks_of_accounts_in_mongodb(open_store: OpenStore, in_mongodb: OpenAccounts) -> None:
    long = settings(NORMAL, max_examples=200, stateful_step_count=60)
    run_state_machine_as_test(over(open_store, in_mongodb), settings=long)


@pytest.mark.soak
def test_the_rule_holds_over_long_walks_of_accounts(open_store: OpenStore) -> None:
    long = settings(NORMAL, max_examples=1000, stateful_step_count=80)
    run_state_machine_as_test(over(open_store, in_memory), settings=long)
