"""Logins: credentials in, tokens out.

Rule: a session is opened for the account as it was when its password was checked. What was changed while that took its
time (a new password, a ban, other roles) is looked for once the session is there, where the change can find it too; so
either the change ends the session or the login does.
"""

from __future__ import annotations

import contextlib

from authix_issuer.accounts import Accounts
from authix_issuer.audit import NOBODY, OK, Audit, Caller, Event
from authix_issuer.changes import Changes
from authix_issuer.errors import AccountBusy, AccountDisabled, CredentialsWrong, RefreshTokenInvalid
from authix_issuer.ports import AccountState, Scope, User, UserStore
from authix_issuer.sessions import Sessions, Tokens

_TRIES = 5


class Logins:
    def __init__(
        self, users: UserStore, accounts: Accounts, changes: Changes, sessions: Sessions, audit: Audit
    ) -> None:
        self._users = users
        self._accounts = accounts
        self._changes = changes
        self._sessions = sessions
        self._audit = audit

    async def login(self, email: str, password: str, caller: Caller = NOBODY, *, instead: str = "") -> Tokens:
        """Open a session; that of the refresh token ``instead``, which its client is about to lose, ends.

        Raises ``CredentialsWrong``, ``AccountDisabled``, ``AccountBusy`` or ``Overloaded``.
        """
        try:
            user = await self._accounts.check(email, password)
        except CredentialsWrong as error:
            self._audit.record(Event.LOGIN, error.code, caller, subject=error.subject)
            raise
        try:
            tokens = await self._open(user, caller)
        except (CredentialsWrong, AccountDisabled) as error:
            self._audit.record(Event.LOGIN, error.code, caller, subject=user.id)
            raise
        self._audit.record(Event.LOGIN, OK, caller, subject=user.id, session=tokens.session)
        with contextlib.suppress(RefreshTokenInvalid):
            if instead:
                await self._sessions.close(instead, Scope.SESSION, caller, Event.SESSION_ENDED)
        return tokens

    async def _open(self, user: User, caller: Caller) -> Tokens:
        for _ in range(_TRIES):
            if user.state is AccountState.DISABLED:
                raise AccountDisabled("the account is disabled; ask whoever runs this service")
            await self._changes.finish(user)
            tokens = await self._sessions.open(user, caller)
            present = await self._users.by_id(user.id)
            if present is not None and present.version == user.version:
                return tokens
            await self._sessions.withdraw(tokens, user.id)
            if present is None or present.state is AccountState.DELETED or present.password_hash != user.password_hash:
                raise CredentialsWrong("email or password is wrong", subject=user.id)
            user = present
        raise AccountBusy("the account is being changed by others; try again")
