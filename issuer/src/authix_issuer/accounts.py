"""Accounts: registration, the check of credentials, and what users do to their own account.

Rule: whether an email is known shows neither in the answer of a login nor in the work it takes. Every change needs the
password, and is made by ``changes``, which revokes.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from authix import tracing
from authix_issuer.audit import NOBODY, OK, Audit, Caller, Event
from authix_issuer.changes import Changes
from authix_issuer.emails import Email, read_email
from authix_issuer.errors import (
    AccountBusy,
    AccountUnknown,
    CredentialsWrong,
    EmailTaken,
    InputInvalid,
    IssuerError,
    Overloaded,
    PasswordWrong,
    Reason,
    StoreUnavailable,
)
from authix_issuer.hashing import PasswordHasher
from authix_issuer.passwords import password_bytes, read_new_password
from authix_issuer.ports import AccountState, User, UserStore


class Accounts:
    def __init__(
        self,
        users: UserStore,
        changes: Changes,
        hasher: PasswordHasher,
        audit: Audit,
        *,
        password_min_length: int,
        password_words: frozenset[str] = frozenset(),
    ) -> None:
        self._users = users
        self._changes = changes
        self._hasher = hasher
        self._audit = audit
        self._read_password = partial(read_new_password, min_length=password_min_length, words=password_words)

    async def register(self, email: str, password: str, caller: Caller = NOBODY) -> User:
        """Add an account. Raises ``InputInvalid`` with every reason, ``EmailTaken``, or ``Overloaded``."""
        try:
            user = await self.add(email, password)
        except (InputInvalid, EmailTaken) as error:
            self._audit.record(Event.USER_REGISTERED, error.code, caller)
            raise
        self._audit.record(Event.USER_REGISTERED, OK, caller, subject=user.id)
        return user

    async def add(
        self, email: str, password: str, *, roles: tuple[str, ...] = (), claims: Mapping[str, Any] = {}
    ) -> User:
        """As ``register``, without the record."""
        address, data = self._read(email, password)
        password_hash = await self._hasher.hash(data)
        created_us = time.time_ns() // 1000
        user = User(
            secrets.token_hex(16), address.address, address.key, password_hash, roles, claims, created_us=created_us
        )
        with tracing.span("store account"):
            added = await self._users.add(user)
        if not added:
            raise EmailTaken("there already is an account with this email")
        return user

    async def check(self, email: str, password: str) -> User:
        """The user with these credentials, disabled or not. Raises ``CredentialsWrong`` or ``Overloaded``."""
        data = password_bytes(password)
        if data is None:
            raise CredentialsWrong("email or password is wrong")
        try:
            user = await self._users.by_email_key(read_email(email).key)
        except InputInvalid:
            user = None
        if not await self._hasher.verify(user.password_hash if user else None, data) or user is None:
            raise CredentialsWrong("email or password is wrong", subject=user.id if user else "")
        if user.state is AccountState.DELETED:
            raise CredentialsWrong("email or password is wrong", subject=user.id)
        return await self._rehashed(user, data) if self._hasher.needs_rehash(user.password_hash) else user

    async def change_password(self, user_id: str, old: str, new: str, *, keep: str, caller: Caller) -> None:
        """Give the account another password; its sessions but ``keep`` end.

        Raises ``PasswordWrong`` for the old one, ``InputInvalid`` for the new one, or ``Overloaded``.
        """
        with self._recorded(Event.PASSWORD_CHANGED, user_id, caller, session=keep):
            user = await self._confirmed(user_id, old)
            password_hash = await self.new_password_hash(user, new)
            change = partial(User._replace, password_hash=password_hash)
            await self._changes.make(user_id, _of(user, change), end=True, keep=keep)

    async def change_email(self, user_id: str, password: str, email: str, *, caller: Caller) -> User:
        """Give the account another email. Raises ``PasswordWrong``, ``InputInvalid``, ``EmailTaken``."""
        with self._recorded(Event.EMAIL_CHANGED, user_id, caller):
            address = read_email(email)
            user = await self._confirmed(user_id, password)
            change = partial(User._replace, email=address.address, email_key=address.key)
            return await self._changes.make(user_id, _of(user, change))

    async def delete(self, user_id: str, password: str, *, caller: Caller) -> None:
        """End the account and all its sessions. Raises ``PasswordWrong``."""
        with self._recorded(Event.USER_DELETED, user_id, caller):
            user = await self._confirmed(user_id, password)
            change = partial(User._replace, state=AccountState.DELETED)
            await self._changes.make(user_id, _of(user, change), end=True)

    async def new_password_hash(self, user: User, password: str) -> str:
        """The hash of a password that this user may have. Raises ``InputInvalid`` or ``Overloaded``."""
        return await self._hasher.hash(self._read_password(password, Email(user.email, user.email_key)))

    async def _confirmed(self, user_id: str, password: str) -> User:
        """The account, if this is its password."""
        user = await self._users.by_id(user_id)
        if user is None or user.state is not AccountState.ACTIVE:
            raise AccountUnknown("there is no such account")
        data = password_bytes(password)
        if data is None or not await self._hasher.verify(user.password_hash, data):
            raise PasswordWrong("the password is wrong")
        return user

    async def _rehashed(self, user: User, data: bytes) -> User:
        with contextlib.suppress(Overloaded, StoreUnavailable):  # it can wait for the next login; this one is good
            new = await self._hasher.hash(data)
            await self._users.replace_password_hash(user.id, old=user.password_hash, new=new)
            return user._replace(password_hash=new)
        return user

    @contextlib.contextmanager
    def _recorded(self, event: Event, user_id: str, caller: Caller, *, session: str = "") -> Iterator[None]:
        try:
            yield
        except IssuerError as error:
            self._audit.record(event, error.code, caller, subject=user_id, session=session)
            raise
        self._audit.record(event, OK, caller, subject=user_id, session=session)

    def _read(self, email: str, password: str) -> tuple[Email, bytes]:
        reasons: list[Reason] = []
        address, data = None, None
        try:
            address = read_email(email)
        except InputInvalid as error:
            reasons += error.reasons
        try:
            data = self._read_password(password, address)
        except InputInvalid as error:
            reasons += error.reasons
        if address is None or data is None:
            raise InputInvalid(*reasons)
        return address, data


def _of(user: User, change: Callable[[User], User]) -> Callable[[User], User]:
    """The change, for the very version of the account that was confirmed."""

    def made(present: User) -> User:
        if present.version != user.version:
            raise AccountBusy("the account was changed meanwhile; try again")
        return change(present)

    return made
