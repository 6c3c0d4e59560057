"""Changes of accounts, each with what it means for the account's sessions.

Rule: a change is written together with what it still has to do to the sessions; then the session store does that in one
step, which also revokes every access token; only then is it answered. Whoever finds a change that was left in between
finishes it, so a crash loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from authix_issuer.errors import AccountBusy, AccountUnknown, EmailTaken, StoreUnavailable
from authix_issuer.ports import AccountState, Grants, Logout, Replaced, SessionStore, Unsettled, User, UserStore

logger = logging.getLogger("authix.issuer")

SWEEP_EVERY = 2.0
"""Seconds between two looks for changes left unfinished; one that is seen twice is nobody's any more."""
_TRIES = 5
_PAGE = 100


class Changes:
    """``revoked`` is called with each revocation, once it is durable."""

    def __init__(self, users: UserStore, store: SessionStore, revoked: Callable[[Logout], None]) -> None:
        self._users = users
        self._store = store
        self._revoked = revoked
        self._seen: set[tuple[str, int]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def make(self, user_id: str, change: Callable[[User], User], *, end: bool = False, keep: str = "") -> User:
        """Change an account; its sessions end (but ``keep``) or get its new roles and claims. All its tokens die.

        ``change`` may raise; then nothing is changed. Raises ``AccountUnknown``, ``EmailTaken`` or ``AccountBusy``.
        """
        for _ in range(_TRIES):
            user = await self._users.by_id(user_id)
            if user is None or user.state is AccountState.DELETED:
                raise AccountUnknown("there is no such account")
            unsettled = _both(user.unsettled, Unsettled(end, keep))
            changed = change(user)._replace(version=user.version + 1, unsettled=unsettled)
            match await self._users.replace(changed):
                case Replaced.DONE:
                    await self.finish(changed)
                    return changed
                case Replaced.EMAIL_TAKEN:
                    raise EmailTaken("there already is an account with this email")
                case Replaced.OUTDATED:
                    continue
        raise AccountBusy("the account is being changed by others; try again")

    async def finish(self, user: User) -> None:
        """Have the session store do what the change to this version of the account means. Repeatable."""
        if user.unsettled is None:
            return
        grants = Grants(user.roles, user.claims, user.version)
        self._revoked(await self._store.settle(user.id, grants, user.unsettled))
        await self._users.settled(user)

    async def sweep(self) -> None:
        """Finish the changes that were unfinished at the last look already."""
        found = await self._users.unsettled(_PAGE)
        left = [user for user in found if (user.id, user.version) in self._seen]
        self._seen = {(user.id, user.version) for user in found}
        for user in left:
            await self.finish(user)
            logger.warning("the change of account %s to version %d was finished after a crash", user.id, user.version)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                logger.error("unfinished changes of accounts can't be looked for: %s", error.reason)  # noqa: TRY400 - the reason is enough
            except Exception:  # whatever it is: without this task they would never be finished
                logger.exception("unfinished changes of accounts can't be looked for")
            await asyncio.sleep(SWEEP_EVERY)


def _both(earlier: Unsettled | None, later: Unsettled) -> Unsettled:
    """What does for two changes, of which the first is not finished yet: rather a session too many ended."""
    if earlier is None or not earlier.end:
        return later
    if not later.end or earlier.keep == later.keep:
        return earlier
    return Unsettled(end=True)
